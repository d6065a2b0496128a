"""Document frequencies of n-grams, for CIDEr-D rewards."""

import os
import pickle
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from misc import commands
from misc.cli import DataError, Parser, note, progress, run_command
from misc.dataset.karpathy import ImageRecord, Sentence, read_images
from misc.dataset.labels import UNKNOWN
from misc.disk.files import read_json, replacing
from misc.prepare.broken import Broken

END = {'words': '<eos>', 'idxs': '0'}
SPLITS: dict[str, tuple[str, ...] | None] = {
    'train': ('train', 'restval'), 'val': ('val',), 'test': ('test',), 'all': None}

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


def known_words(sentences: Iterable[Sentence], vocabulary: Mapping[str, Any]) -> list[list[str]]:
    """The captions of an image as words, those outside `vocabulary` as `UNK`, each followed by the end token."""
    return [[token if token in vocabulary else UNKNOWN for token in sentence['tokens']] + [END['words']]
            for sentence in sentences]


def by_index(frequency: Mapping[Ngram, float], index: Mapping[str, str]) -> defaultdict[Ngram, float]:
    """`frequency`, of n-grams of words, as a table of n-grams of indices (as text)."""
    return defaultdict(float, {tuple(index[word] for word in ngram): count
                               for ngram, count in frequency.items()})


def read_vocabulary(path: str) -> dict[str, str]:
    """{word: index as text} of the labels file at `path`.  Raises `DataError`."""
    content = read_json(path, commands.LABELS)
    ix_to_word = content.get('ix_to_word') if isinstance(content, dict) else None
    if not isinstance(ix_to_word, dict) or not ix_to_word or not all(
            isinstance(word, str) for word in ix_to_word.values()):
        raise DataError(f'{path} has no ix_to_word that gives words; make it with:\n'
                        f'{commands.LABELS}')
    index = {word: number for number, word in ix_to_word.items()}
    if len(index) < len(ix_to_word):
        raise DataError(f'{path}: a word has two indices; make it with:\n{commands.LABELS}')
    return index


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
    index = read_vocabulary(options.dict_json)
    images = read_split(options.input_json, options.split, broken)
    check_vocabulary(index, images, options.dict_json, options.input_json)
    words = document_frequency(known_words(image['sentences'], index)
                               for image in progress(images, 'n-grams'))
    tables = {'words': words, 'idxs': by_index(words, {**index, END['words']: END['idxs']})}
    os.makedirs(os.path.dirname(os.path.abspath(options.output_pkl)), exist_ok=True)
    for name, table in tables.items():
        with replacing(f'{options.output_pkl}-{name}.p') as file:
            pickle.dump({'document_frequency': table, 'ref_len': len(images)}, file, protocol=2)
    note(f'{len(images)} images, {len(words)} n-grams -> {options.output_pkl}-words.p, {options.output_pkl}-idxs.p')
    return broken.finish(f'correct {options.input_json} and run the command again',
                         f'{options.output_pkl}_broken.txt')


if __name__ == '__main__':
    run_command(main)
