"""Karpathy's split file -> vocabulary, references and caption labels."""

import contextlib
import json
import os
import shlex
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import h5py
import numpy as np

from misc.cli import DataError, Parser, UsageError, boolean, note, number_in, progress, run_command
from misc.dataset.karpathy import ImageRecord, read_images
from misc.dataset.labels import UNKNOWN
from misc.dataset.marks import find_marks, without_marks
from misc.dataset.pairing import digests
from misc.disk.files import path_under, replacing
from misc.disk.kinds import dataset_command
from misc.pictures.images import read_size
from misc.prepare.broken import Broken
from misc.prepare.captions.split_file import MOST_UNKNOWN, fitting_length, fitting_threshold
from misc.scoring.checks import MOST_LACKING, SOME_LACKING, is_lumped, lacks_words
from misc.scoring.references import SCORE_TOKENS, TOKENS


def build_vocabulary(images: Sequence[ImageRecord], threshold: int) -> list[str]:
    """The vocabulary in the order of the indices, which count from 1.

    It has the words that occur more than `threshold` times in all captions, by first appearance, and `UNK` as the
    last word if any word was left out.  Captions of copies (augment_pictures.py) do not count: they make no word
    more frequent.
    """
    counts = Counter(tokens_of(originals(images)))
    words = [word for word, count in counts.items() if count > threshold and word != UNKNOWN]
    return words + [UNKNOWN] if set(tokens_of(images)) - set(words) else words


def originals(images: Iterable[ImageRecord]) -> list[ImageRecord]:
    """The images that are no copies of others."""
    return [image for image in images if 'copy_of' not in image]


def tokens_of(images: Iterable[ImageRecord]) -> Iterator[str]:
    """The words of all captions, one after another."""
    return (token for image in images for sentence in image['sentences'] for token in sentence['tokens'])


def encode_captions(images: Sequence[ImageRecord], words: Sequence[str], max_length: int) -> dict[str, np.ndarray]:
    """The label arrays of N images with M captions, in file order, all uint32.

    Returns {'labels': (M, max_length), 'label_start_ix': (N,), 'label_end_ix': (N,), 'label_length': (M,)}: word
    indices from 1, zero padded, words outside `words` as `UNK`; the first and the last row of each image, counted
    from 1; the number of words of each caption.
    """
    index = {word: number for number, word in enumerate(words, 1)}
    captions = [sentence['tokens'] for image in images for sentence in image['sentences']]
    labels = np.zeros((len(captions), max_length), dtype=np.uint32)
    for row, tokens in enumerate(captions):
        indices = [index[token] if token in index else index[UNKNOWN] for token in tokens[:max_length]]
        labels[row, :len(indices)] = indices
    ends = np.cumsum([len(image['sentences']) for image in images])
    return {'labels': labels,
            'label_start_ix': np.concatenate([[1], ends[:-1] + 1]).astype(np.uint32),
            'label_end_ix': ends.astype(np.uint32),
            'label_length': np.array([min(len(tokens), max_length) for tokens in captions], np.uint32)}


def image_records(images: Sequence[ImageRecord], sizes: Mapping[int, tuple[int, int]],
                  with_tokens: bool = False) -> list[dict[str, Any]]:
    """The `images` list of the labels file; sizes: {id: (width, height) in pixels} of those images that have one;
    `with_tokens` adds the tokens of the captions, joined by spaces."""
    records = []
    for image in images:
        record: dict[str, Any] = {'split': image['split'], 'file_path': image['file_path'], 'id': image['id'],
                  'captions': [sentence['raw'] for sentence in image['sentences']]}
        if with_tokens:
            record['tokens'] = [' '.join(sentence['tokens']) for sentence in image['sentences']]
        if image['id'] in sizes:
            record['width'], record['height'] = sizes[image['id']]
        records.append(record)
    return records


def settle_marks(images: list[ImageRecord], leave_out: bool, broken: Broken) -> tuple[list[ImageRecord], list[str]]:
    """The images, without the marks of beginnings and ends of sentences if these are to be left out, and the marks
    that were; otherwise a warning says which there are."""
    marks = find_marks(images)
    if not marks:
        return images, []
    count = sum(len(image['sentences']) for image in images)
    listed = ', '.join(f'{mark} in {number}' for mark, number in marks.items())
    if leave_out:
        note(f'left out of the tokens of {count} captions: {listed}')
        return without_marks(images, list(marks), broken.add), list(marks)
    note(f'WARNING: tokens of the {count} captions that look like marks of beginnings and ends of sentences: '
         f'{listed}.\nThey count as words: the captioner learns to write them, and against references without them '
         'that is wrong.\nLeave them out with --leave_out_marks 1; captions need no such marks here')
    return images, []


def keeps_tokens(images: Iterable[ImageRecord], score_tokens: str, input_json: str) -> bool:
    """Whether the tokens are kept as references for scoring; notes say where the texts lack their words."""
    sentences = [sentence for image in images for sentence in image['sentences']]
    lumped = [sentence for sentence in sentences if is_lumped(sentence['tokens'], sentence['raw'])]
    if len(lumped) > MOST_LACKING * len(sentences):
        note(f'WARNING: the only token of {len(lumped)} of {len(sentences)} captions is a whole sentence '
             f'({lumped[0]["tokens"][0][:40]!r}), so there are hardly any words to learn.  Words are made by (for '
             'Chinese or Japanese with --tokens characters):\npython scripts/make_dataset.py --table '
             f'{shlex.quote(input_json)} --tokens karpathy --output_json data/dataset_mine.json')
    if score_tokens != 'auto':
        return score_tokens == TOKENS
    lacking = [sentence for sentence in sentences if not is_lumped(sentence['tokens'], sentence['raw'])
               and lacks_words(sentence['tokens'], sentence['raw'])]
    if len(lacking) < SOME_LACKING * len(sentences):
        return False
    said = (f'note: the texts of {len(lacking)} of {len(sentences)} captions lack the words of their tokens, such as '
            f'{lacking[0]["raw"][:40]!r} of {" ".join(lacking[0]["tokens"])[:40]!r}')
    if len(lacking) > MOST_LACKING * len(sentences):
        note(f'{said}; so the tokens are kept as references, and captions are scored against them')
        return True
    note(f'{said}; no captioner can score well against these. --score_tokens tokens scores all against the tokens')
    return False


def report_losses(images: Sequence[ImageRecord], threshold: int, max_length: int, input_json: str) -> None:
    """Print what the labels do not have of the captions: words beyond `max_length`, rare words; and words that differ
    in their case alone, which are words of their own.  What can be changed is said with it."""
    captions = [sentence['tokens'] for image in originals(images) for sentence in image['sentences']]
    counts, lengths = Counter(token for tokens in captions for token in tokens), list(map(len, captions))
    cut = sum(length > max_length for length in lengths)
    if cut:
        fitting = fitting_length(lengths)
        advice = f'. --max_length {fitting} cuts one in a hundred' if fitting > max_length else ''
        note(f'{cut} of {len(captions)} captions are longer than --max_length {max_length} and are cut; the longest '
             f'has {max(lengths)} words{advice}')
    rare = {token: count for token, count in counts.items() if count <= threshold}
    if rare:
        share = sum(rare.values()) / counts.total()
        fitting = fitting_threshold(counts, threshold)
        advice = f'. --word_count_threshold {fitting} keeps more' if share > MOST_UNKNOWN else ''
        note(f'{share:.1%} of the words are UNK: {len(rare)} of {len(counts)} different ones, which occur '
             f'{threshold} times or less{advice}')
    cases: dict[str, list[str]] = defaultdict(list)
    for token in counts:
        cases[token.lower()].append(token)
    several = [alike for alike in cases.values() if len(alike) > 1]
    if several:
        examples = '; '.join(', '.join(alike) for alike in several[:3])
        note(f'{len(several)} words are there in more than one case, and each is a word of its own ({examples}). All '
             f'are lower case after:\n{dataset_command(input_json)} --tokens karpathy')


def measure(images: Sequence[ImageRecord], images_root: str, broken: Broken) -> dict[int, tuple[int, int]]:
    """{id: (width, height) in pixels} of the images whose files can be read; the others are added to `broken`."""
    if not os.path.isdir(images_root):
        raise UsageError(f'--images_root: there is no folder {images_root}')
    sizes = {}
    for image in progress(images, 'sizes'):
        if not image['file_path']:
            broken.add(f'image {image["id"]} has no filename, so no size')
            continue
        try:
            sizes[image['id']] = read_size(path_under(images_root, image['file_path']))
        except DataError as error:
            broken.add(f'image {image["id"]} gets no size: {error}')
    return sizes


def write(json_path: str, h5_path: str, content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write both files, or neither: even if the process is killed, files of different runs never lie side by
    side.  The label file has digests of the vocabulary and of the images as attributes."""
    for path in (json_path, h5_path):
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with replacing(json_path, 'w') as text:
        text.write(json.dumps(content))
        text.flush()
        with replacing(h5_path) as file:
            with h5py.File(file, 'w') as labels:
                for name, array in arrays.items():
                    labels.create_dataset(name, data=array)
                labels.attrs.update(digests(content['ix_to_word'], [image['id'] for image in content['images']]))
            file.flush()
            os.fsync(file.fileno())
            with contextlib.suppress(FileNotFoundError):
                os.unlink(json_path)


def arguments() -> Parser:
    """The parser of this command."""
    parser = Parser(description=(
        'Turns a split file of Karpathy\'s into a vocabulary with references (JSON) and label arrays\n'
        '(HDF5).  Writes OUTPUT_JSON and OUTPUT_H5_label.h5.\n\n'
        'python scripts/prepro_labels.py --input_json data/dataset_coco.json \\\n'
        '    --output_json data/cocotalk.json --output_h5 data/cocotalk'))
    parser.add_argument('--input_json', required=True, help="Karpathy's split file")
    parser.add_argument('--output_json', required=True, help='JSON file to write: words, images, captions')
    parser.add_argument('--output_h5', required=True, help='HDF5 file to write, without "_label.h5"')
    parser.add_argument('--images_root', help=(
        'folder of the images (it holds train2014/ and val2014/); give it to write the width and height '
        'of each image too, which boxes without a sizes file need'))
    parser.add_argument('--word_count_threshold', type=number_in(int, low=0), default=5, help=(
        'words that occur this often or less often become UNK; lower it for small data sets'))
    parser.add_argument('--leave_out_marks', type=boolean, nargs='?', const=True, default=False, metavar='0|1', help=(
        'leave out tokens that mark the beginning or the end of a sentence (<start>, </s>, [SEP], startseq); give it '
        'when a warning names some (default: 0)'))
    parser.add_argument('--score_tokens', choices=SCORE_TOKENS, default='auto', help=(
        'what captions will be scored against: raw, the texts; tokens, which are then kept for it; auto, the tokens '
        f'where the texts of more than {100 * MOST_LACKING:g} in a hundred captions lack their words, as those of '
        'Chinese do'))
    parser.add_argument('--max_length', type=number_in(int, low=1), default=16, help=(
        'captions are cut to this many words; raise it for data sets with longer captions'))
    return parser


def main() -> int:
    """Read, encode, write; returns the exit status."""
    options = arguments().parse_args()
    broken = Broken()
    images, marks = settle_marks(read_images(options.input_json, broken.add), options.leave_out_marks, broken)
    if not images:
        raise DataError(f'{options.input_json}: no caption has a word')
    sizes = measure(images, options.images_root, broken) if options.images_root else {}
    words = build_vocabulary(images, options.word_count_threshold)
    arrays = encode_captions(images, words, options.max_length)
    report_losses(images, options.word_count_threshold, options.max_length, options.input_json)
    content: dict[str, Any] = {'ix_to_word': {str(number): word for number, word in enumerate(words, 1)},
                               'images': image_records(images, sizes, keeps_tokens(
                   images, options.score_tokens, options.input_json))}
    if marks:
        content['marks_left_out'] = marks   # prepro_ngrams.py leaves them out, too
    h5_path = f'{options.output_h5}_label.h5'
    write(options.output_json, h5_path, content, arrays)
    note(f'{len(images)} images, {len(arrays["labels"])} captions, {len(words)} words '
         f'-> {options.output_json}, {h5_path}')
    return broken.finish(f'correct {options.input_json} (or the images) and run the command again',
                         f'{os.path.splitext(options.output_json)[0]}_broken.txt')


if __name__ == '__main__':
    run_command(main)
