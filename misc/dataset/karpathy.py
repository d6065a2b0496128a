"""Karpathy's split files (`dataset_coco.json`, `dataset_flickr8k.json`, `dataset_flickr30k.json`).

Such a file holds `images`, each with `split`, `filename`, `sentences` (`tokens` and `raw`), and an id: `cocoid` in
COCO's file, `imgid` in Flickr's, which have neither `cocoid` nor `filepath`.

Files of other data sets differ in details, which are read where their meaning is certain: the list of images alone,
or one list for each split; ids under other names; `valid` or `dev` for val; one sentence that is not in a list; a
record for each sentence; empty words, or words in one text, as `tokens`.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NotRequired, TypedDict

from misc.cli import DataError, note
from misc.dataset.splits import SPLITS, joined, split_named
from misc.disk.files import read_json
from misc.disk.kinds import dataset_command, kind_of_file, misplaced
from misc.disk.numbers import whole_number

SOURCE = "unpacking Karpathy's caption_datasets.zip"
SPACE = ' \t\r\n'   # around words; other spaces of Unicode stay parts of words
IDS = ('cocoid', 'imgid', 'image_id', 'img_id', 'id')   # the first that any record has is the id of all


class Sentence(TypedDict):
    """A caption: its words, and the text."""

    tokens: list[str]
    raw: str


class ImageRecord(TypedDict):
    """An image of a split file."""

    id: int
    file_path: str             # 'val2014/COCO_val2014_….jpg', or '' where the file names none
    split: str
    sentences: list[Sentence]
    copy_of: NotRequired[int]  # the id of the image whose picture, changed, this one is (augment_pictures.py)


def read_images(path: str, report: Callable[[str], None], captions: bool = True) -> list[ImageRecord]:
    """The image records of the split file at `path`, in its order; without `captions` their sentences are empty.

    A record that is broken, or whose id occurred before, is left out, and `report` is called with a message about it.
    Raises `DataError` where the file is not a split file, or no record is whole.
    """
    reader = _Reader(_records(read_json(path, SOURCE, exact=True), path, captions), captions)
    images = list(reader.images.values())
    if not images:
        first, *more = reader.problems
        raise DataError(f'{path}: no image record is whole: {first}'
                        + (f' ({len(more)} more complaints)' if more else '')
                        + ('; a split file that fits may be made of it (ids that are no whole numbers give way to '
                           f'numbers by order) with:\n{dataset_command(path)}'))
    for problem in reader.problems:
        report(f'{path}: {problem}')
    for line in reader.notes():
        note(f'note: {path}: {line}')
    return images


def _records(content: Any, path: str, captions: bool) -> list[Any]:
    """The image records in the content of a split file.  Raises `DataError` where it is another file."""
    content = joined(content)
    records: Any = content.get('images') if isinstance(content, dict) else content
    said = misplaced(content, path, 'split')
    if said and kind_of_file(content) == 'table':   # images without captions serve whoever needs none
        is_wanted = any(isinstance(record, dict) and 'sentences' in record for record in records) or not captions
        said = '' if is_wanted else said
    if said:
        raise DataError(f'{path} {said}')
    if not isinstance(records, list) or not any(isinstance(record, dict) for record in records):
        raise DataError(f"{path} is not a split file of Karpathy's: it has no list of images; "
                        f'get it by {SOURCE}')
    return records


class _Reader:
    """Reads image records.

    images    {id: image} of those that are whole
    problems  messages about the others, and about broken sentences
    """

    def __init__(self, records: Sequence[Any], captions: bool) -> None:
        self.captions, self.key = captions, id_key(records)
        self.images: dict[int, ImageRecord] = {}
        self.problems: list[str] = []
        self.splits: Counter[str] = Counter()   # names of splits that are not the project's
        self.mended, self.joined = 0, 0         # sentences with empty words, and records of an image read before
        ids = [whole_number(record.get(self.key)) for record in records if isinstance(record, dict)]
        # Whether the file has a record for each sentence, where an id that comes again is no mistake.
        self.is_by_sentence = len(set(ids)) <= len(ids) / 2
        for number, record in enumerate(records):
            try:
                self._take(record)
            except ValueError as error:
                self.problems.append(f'images[{number}]: {error}')

    def notes(self) -> list[str]:
        """What was read in another way than it stands in the file."""
        lines = []
        for name, count in self.splits.items():
            split = split_named(name)
            lines.append(f'the split {name} of {count} images is read as {split}' if split else
                         f'the split {name} of {count} images is none of {", ".join(SPLITS)}, so no program reads '
                         'them; --split_names of scripts/make_dataset.py says what it is')
        if self.mended:
            lines.append(f'{self.mended} captions have empty tokens, or spaces around them, which are left out')
        if self.joined:
            lines.append(f'{self.joined} records are further captions of images that came before; read as such')
        return lines

    def _take(self, record: Any) -> None:
        """Read a record.  Raises `ValueError` where it is broken; broken sentences alone are left out."""
        image = self._image(record)
        first = self.images.setdefault(image['id'], image)
        if first is not image:
            is_same = (first['file_path'], first['split']) == (image['file_path'], image['split'])
            if not self.is_by_sentence or not is_same:
                raise ValueError(f'the id {image["id"]} is in the file a second time; the first counts')
            first['sentences'] += image['sentences']
            self.joined += 1

    def _image(self, record: Any) -> ImageRecord:
        if not isinstance(record, dict):
            raise ValueError('not an object')
        if not self.key:
            raise ValueError('no id (cocoid or imgid)')
        image_id = whole_number(record.get(self.key))
        if image_id is None or not 0 <= image_id < 2 ** 63:
            raise ValueError(f'{self.key} is {record.get(self.key)!r}, not an image id')
        split: Any = record.get('split')
        if self.captions and (not isinstance(split, str) or not split):
            raise ValueError(f'image {image_id} has no split')
        sentences = self._sentences(record.get('sentences'), image_id) if self.captions else []
        if self.captions and split not in SPLITS:
            self.splits[split] += 1
            split = split_named(split) or split
        image: ImageRecord = {'id': image_id, 'file_path': file_path(record), 'split': split, 'sentences': sentences}
        if (source := whole_number(record.get('copy_of'))) is not None:
            image['copy_of'] = source
        return image

    def _sentences(self, sentences: Any, image_id: int) -> list[Sentence]:
        """The sentences of an image that have tokens; at least one, or a `ValueError`."""
        sentences = [sentences] if isinstance(sentences, dict) else sentences
        if not isinstance(sentences, list) or not sentences:
            raise ValueError(f'image {image_id} has no sentences')
        whole: list[Sentence] = []
        for number, sentence in enumerate(sentences):
            tokens = self._tokens(sentence.get('tokens') if isinstance(sentence, dict) else None)
            if not tokens:
                self.problems.append(f'image {image_id}: sentence {number} has no tokens')
                continue
            raw = sentence.get('raw')
            whole.append({'tokens': tokens, 'raw': raw if isinstance(raw, str) and raw else ' '.join(tokens)})
        if not whole:
            raise ValueError(f'image {image_id} has no whole sentence')
        return whole

    def _tokens(self, tokens: Any) -> list[str]:
        """The words of a sentence; none of anything else than a list of words, or a text of them."""
        if isinstance(tokens, str):
            return [word for word in re.split(f'[{SPACE}]', tokens) if word]
        if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
            return []
        words = [word for token in tokens if (word := token.strip(SPACE))]
        self.mended += bool(words) and words != tokens
        return words


def id_key(records: Iterable[Any]) -> str:
    """The key that holds a data set's image ids: the first of `IDS` that any record has, '' without any.

    One choice for the whole file: the kinds of numbers overlap.
    """
    there = {key for record in records if isinstance(record, dict) for key in IDS if record.get(key) is not None}
    return next((key for key in IDS if key in there), '')


def file_path(record: dict[str, Any]) -> str:
    """The path of an image under the folder of images: `filepath/filename`, without `filepath` in Flickr's files,
    '' where the record has no file name."""
    folder, name = record.get('filepath'), record.get('filename')
    if not isinstance(name, str) or not name:
        return ''
    return f'{folder}/{name}' if isinstance(folder, str) and folder else name
