"""Document frequencies of n-grams, for CIDEr-D rewards."""

import os
import pickle
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from misc import commands
from misc.cli import DataError, Parser, note, progress, run_command
from misc.dataset.karpathy import ImageRecord, Sentence, read_images
from misc.dataset.labels import UNKNOWN
from misc.dataset.marks import without_marks
from misc.dataset.splits import TRAINING
from misc.disk.files import read_json, replacing
from misc.disk.kinds import misplaced
from misc.prepare.broken import Broken

END = {'words': '<eos>', 'idxs': '0'}   # the end token in the two tables
SPLITS: dict[str, tuple[str, ...] | None] = {
    'train': TRAINING, 'val': ('val',), 'test': ('test',), 'all': None}

Ngram = tuple[str, ...]


def document_frequency(documents: Iterable[Sequence[Sequence[str]]]) -> defaultdict[Ngram, float]:
    """The number of documents in which each n-gram, n = 1..4, occurs.

    documents: lists of captions, each a list of words.
    """
    frequency: defaultdict[Ngram, float] = defaultdict(float)
    for captions in documents:
        seen: dict[Ngram, None] = {}   # ordered, unlike a set: the same input gives the same file
        for caption in captions:
            for n in range(1, 5):
                # zip of n shifted copies of the caption yields its n-grams
                seen.update(dict.fromkeys(zip(*(caption[start:] for start in range(n)))))
        for ngram in seen:
            frequency[ngram] += 1
    return frequency


def known_words(sentences: Iterable[Sentence], index: Mapping[str, str]) -> list[list[str]]:
    """The captions of an image as word indices (as text), words outside `index` as `UNK`, each followed by the end
    token, whose index no word has (a word `<eos>` is a word)."""
    return [[index[token] if token in index else index[UNKNOWN] for token in sentence['tokens']] + [END['idxs']]
            for sentence in sentences]


def by_word(frequency: Mapping[Ngram, float], index: Mapping[str, str]) -> defaultdict[Ngram, float]:
    """`frequency`, of n-grams of indices (as text), as a table of n-grams of words.  With a word that is written as
    the end token, the higher of the two counts stands."""
    word_of = {END['idxs']: END['words'], **{number: word for word, number in index.items()}}
    table: defaultdict[Ngram, float] = defaultdict(float)
    for ngram, count in frequency.items():
        words = tuple(word_of[number] for number in ngram)
        table[words] = max(count, table.get(words, 0.0))
    return table


def read_vocabulary(path: str) -> dict[str, str]:
    """{word: index as text} of the labels file at `path`.  Raises `DataError`."""
    return read_labels(path)[0]


def read_labels(path: str) -> tuple[dict[str, str], list[str]]:
    """({word: index as text}, the marks that were left out of the captions) of the labels file at `path`.  Raises
    `DataError`."""
    content = read_json(path, commands.LABELS)
    ix_to_word = content.get('ix_to_word') if isinstance(content, dict) else None
    if not isinstance(ix_to_word, dict) or not ix_to_word or not all(
            isinstance(word, str) for word in ix_to_word.values()):
        said = misplaced(content, path, 'labels')
        if said:
            raise DataError(f'--dict_json: {path} {said}')
        raise DataError(f'{path} has no ix_to_word that gives words; make it with:\n'
                        f'{commands.LABELS}')
    index = {word: number for number, word in ix_to_word.items()}
    if len(index) < len(ix_to_word):
        raise DataError(f'{path}: a word has two indices; make it with:\n{commands.LABELS}')
    marks = content.get('marks_left_out', [])
    if not isinstance(marks, list) or not all(isinstance(mark, str) and mark for mark in marks):
        raise DataError(f'{path}: marks_left_out is not a list of tokens; make it with:\n{commands.LABELS}')
    return index, marks


def read_split(path: str, split: str, broken: Broken) -> list[ImageRecord]:
    """The images of `split` in the split file at `path`; at least one, or a `DataError`."""
    splits = SPLITS[split]
    images = [image for image in read_images(path, broken.add) if splits is None or image['split'] in splits]
    if not images:
        raise DataError(f'--split {split}: {path} has no image of it')
    return images


def check_vocabulary(index: Mapping[str, str], images: Iterable[ImageRecord], dict_json: str,
                     input_json: str) -> None:
    """Raise `DataError` for a word of the captions that is not in the vocabulary `index`, if that has no `UNK`."""
    if UNKNOWN in index:
        return
    unknown = next((token for image in images for sentence in image['sentences']
                    for token in sentence['tokens'] if token not in index), None)
    if unknown is not None:
        raise DataError(f'{dict_json} has neither the word {unknown!r} of {input_json} nor UNK; '
                        f'make it from that file with:\n{commands.LABELS}')


def arguments() -> Parser:
    """The parser of this command."""
    parser = Parser(description=(
        'Counts in how many images each n-gram of the captions occurs.  Writes OUTPUT_PKL-words.p and\n'
        'OUTPUT_PKL-idxs.p; self-critical training reads the latter (--cached_tokens).\n\n'
        'python scripts/prepro_ngrams.py --input_json data/dataset_coco.json \\\n'
        '    --dict_json data/cocotalk.json --output_pkl data/coco-train --split train'))
    parser.add_argument('--input_json', required=True, help="Karpathy's split file")
    parser.add_argument('--dict_json', required=True, help='the vocabulary: JSON of prepro_labels.py')
    parser.add_argument('--output_pkl', required=True, help='files to write, without "-words.p" and "-idxs.p"')
    parser.add_argument('--split', default='train', choices=list(SPLITS), help=(
        'images to count: train includes restval, all is every image; take another split than train only '
        'to compare rewards with scores of that split'))
    return parser


def main() -> int:
    """Read, count, write; returns the exit status."""
    options = arguments().parse_args()
    broken = Broken()
    index, marks = read_labels(options.dict_json)
    images = read_split(options.input_json, options.split, broken)
    if marks:
        images = without_marks(images, marks, broken.add)
    check_vocabulary(index, images, options.dict_json, options.input_json)
    indices = document_frequency(known_words(image['sentences'], index)
                                 for image in progress(images, 'n-grams'))
    tables = {'words': by_word(indices, index), 'idxs': indices}
    os.makedirs(os.path.dirname(os.path.abspath(options.output_pkl)), exist_ok=True)
    for name, table in tables.items():
        with replacing(f'{options.output_pkl}-{name}.p') as file:
            pickle.dump({'document_frequency': table, 'ref_len': len(images)}, file, protocol=2)
    note(f'{len(images)} images, {len(indices)} n-grams -> {options.output_pkl}-words.p, {options.output_pkl}-idxs.p')
    return broken.finish(f'correct {options.input_json} and run the command again',
                         f'{options.output_pkl}_broken.txt')


if __name__ == '__main__':
    run_command(main)
