"""Step 2: document frequencies of n-grams, for CIDEr-D rewards."""

import os
import pickle
import sys
from collections import defaultdict

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from misc import commands
from misc.cli import DataError, Parser, note, progress, run_command
from misc.dataset.karpathy import read_images
from misc.disk.files import read_json, replacing
from misc.prepare.broken import Broken

UNKNOWN = 'UNK'
END = {'words': '<eos>', 'idxs': '0'}
SPLITS = {'train': ('train', 'restval'), 'val': ('val',), 'test': ('test',), 'all': None}


def document_frequency(documents):
    """In how many of the documents each n-gram, n = 1..4, occurs: defaultdict(float) {tuple: count}.

    documents: iterable of lists of captions, a caption being a list of strings.
    """
    frequency = defaultdict(float)
    for captions in documents:
        seen = {}   # in order, unlike a set: the same input gives the same file
        for caption in captions:
            for n in range(1, 5):
                # zip of n shifted copies of the caption yields its n-grams as tuples
                seen.update(dict.fromkeys(zip(*(caption[start:] for start in range(n)))))
        for ngram in seen:
            frequency[ngram] += 1
    return frequency


def known_words(sentences, vocabulary):
    """The captions of one image as word lists, words outside `vocabulary` as `UNK`, and the end token."""
    return [[token if token in vocabulary else UNKNOWN for token in sentence['tokens']] + [END['words']]
            for sentence in sentences]


def by_index(frequency, index):
    """The table of word n-grams `frequency` as a table of n-grams of index strings."""
    return defaultdict(float, {tuple(index[word] for word in ngram): count
                               for ngram, count in frequency.items()})


def read_vocabulary(path):
    """{word: index as a string} of the labels file at `path`.  Raises `DataError`."""
    content = read_json(path, commands.LABELS)
    ix_to_word = content.get('ix_to_word') if isinstance(content, dict) else None
    if not isinstance(ix_to_word, dict) or not ix_to_word or not all(
            isinstance(word, str) for word in ix_to_word.values()):
        raise DataError(f'{path} has no ix_to_word that gives words; make it with:\n'
                        f'{commands.LABELS}')
    index = {word: position for position, word in ix_to_word.items()}
    if len(index) < len(ix_to_word):
        raise DataError(f'{path}: a word has two indices; make it with:\n{commands.LABELS}')
    return index


def arguments():
    """The parser of this command."""
    parser = Parser(description=(
        'Counts in how many images each n-gram of the captions occurs.  Writes OUTPUT_PKL-words.p and\n'
        'OUTPUT_PKL-idxs.p; self-critical training reads the latter (--cached_tokens).\n\n'
        'python scripts/prepro_ngrams.py --input_json data/dataset_coco.json \\\n'
        '    --dict_json data/cocotalk.json --output_pkl data/coco-train --split train'))
    parser.add_argument('--input_json', required=True, help="Karpathy's split file")
    parser.add_argument('--dict_json', required=True, help='the vocabulary: JSON of prepro_labels.py')
    parser.add_argument('--output_pkl', required=True, help='files to write, less "-words.p" and "-idxs.p"')
    parser.add_argument('--split', default='train', choices=list(SPLITS), help=(
        'images that count: train includes restval, all is every image; another than train only '
        'to compare rewards with scores of that split'))
    return parser


def main():
    """Read, count, write."""
    opt = arguments().parse_args()
    broken = Broken()
    index = read_vocabulary(opt.dict_json)
    splits = SPLITS[opt.split]
    images = [image for image in read_images(opt.input_json, broken.add)
              if splits is None or image['split'] in splits]
    if not images:
        raise DataError(f'--split {opt.split}: {opt.input_json} has no image of it')
    if UNKNOWN not in index:
        strange = next((token for image in images for sentence in image['sentences']
                        for token in sentence['tokens'] if token not in index), None)
        if strange is not None:
            raise DataError(f'{opt.dict_json} has neither the word {strange!r} of {opt.input_json} nor UNK; '
                            f'make it from that file with:\n{commands.LABELS}')
    words = document_frequency(known_words(image['sentences'], index)
                               for image in progress(images, 'n-grams'))
    tables = {'words': words, 'idxs': by_index(words, {**index, END['words']: END['idxs']})}
    os.makedirs(os.path.dirname(os.path.abspath(opt.output_pkl)), exist_ok=True)
    for name, table in tables.items():
        with replacing(f'{opt.output_pkl}-{name}.p') as file:
            pickle.dump({'document_frequency': table, 'ref_len': len(images)}, file, protocol=2)
    note(f'{len(images)} images, {len(words)} n-grams -> {opt.output_pkl}-words.p, {opt.output_pkl}-idxs.p')
    return broken.finish(f'mend {opt.input_json} and run the command again')


if __name__ == '__main__':
    run_command(main)
