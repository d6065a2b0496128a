"""Files of captions -> pictures, each once, with splits and ids as the files have them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from misc.cli import DataError, UsageError, note
from misc.dataset.splits import split_named
from misc.prepare.captions.coco import read_coco
from misc.prepare.captions.columns import NONE, Asked, choose_columns
from misc.prepare.captions.flickr import official_files, read_flickr
from misc.prepare.captions.ids import whole_number
from misc.prepare.captions.pictures import LeftOut, Picture, merge, some
from misc.prepare.captions.reading import lines_of, parse_json, read_text
from misc.prepare.captions.records import read_table
from misc.prepare.captions.splits import split_in_file_name
from misc.prepare.captions.tables import parse_table

LOOKED_AT = 200   # rows of a table that decide about its columns


@dataclass(frozen=True)
class CaptionFile:
    """A file of captions; the split that the command line gives it, and the one that its name tells."""

    path: str
    split: str | None = None
    split_by_name: str | None = None

    def mark(self, pictures: Sequence[Picture]) -> None:
        """Give `pictures` the split of the file, where they have none of their own."""
        for picture in pictures:
            picture.split = self.split or picture.split or self.split_by_name


def caption_files(words: Sequence[str]) -> list[CaptionFile]:
    """The files that FILE or SPLIT=FILE name.  The name of a file counts only where there are several."""
    files = []
    for word in words:
        start, equals, rest = word.partition('=')
        split = split_named(start) if equals and not os.path.exists(word) else None
        path = rest if split else word
        by_name = split_in_file_name(os.path.basename(path)) if len(words) > 1 and not split else None
        if split or by_name:
            note(f'{path}: {split or by_name}')
        files.append(CaptionFile(path, split, by_name))
    return files


def flickr_pictures(path: str, encoding: str, left_out: LeftOut) -> tuple[list[Picture], dict[str, str]]:
    """The pictures of a token file, or of the folder that holds it; and {split: path of its list} in that folder."""
    lists: dict[str, str] = {}
    if os.path.isdir(path):
        try:
            path, lists = official_files([os.path.join(path, name) for name in os.listdir(path)])
        except DataError as error:
            raise DataError(f'--flickr_tokens {path}: {error}') from None
    pictures = read_flickr(lines_of(read_text(path, encoding)), left_out)
    if not pictures:
        raise DataError(f'{path}: no line is NAME#NUMBER, a tab and a caption; read other forms with --table')
    return pictures, lists


def coco_pictures(files: Sequence[CaptionFile], encoding: str, left_out: LeftOut) -> list[Picture]:
    """The images of annotation files; one that several files have gets the captions of all.  Raises `DataError`."""
    pictures = []
    for file in files:
        content = parse_json(read_text(file.path, encoding), file.path)
        try:
            found = read_coco(content, left_out)
        except DataError as error:
            raise DataError(f'{file.path}: {error}') from None
        file.mark(found)
        pictures += found
    return merge(pictures, lambda picture: (picture.name, str(whole_number(picture.id) or picture.id)))[0]


def table_pictures(files: Sequence[CaptionFile], encoding: str, header: bool | None, asked: Asked,
                   left_out: LeftOut) -> list[Picture]:
    """The pictures of tables.  Raises `DataError` and `UsageError`."""
    pictures = []
    for file in files:
        text = read_text(file.path, encoding)
        try:
            table = parse_table(text, header, left_out)
            if 'copy_of' in table.columns:
                raise DataError('it lists copies of pictures; give the split file that scripts/augment_pictures.py '
                                'made it of, and make copies when the splits are settled')
            sample = [row.values for row in table.rows[:LOOKED_AT]]
            columns = choose_columns(table.columns, table.named, sample, asked)
        except (DataError, UsageError) as error:
            raise type(error)(f'{file.path}: {error}') from None
        note(f'{file.path}: {columns}')
        found = read_table(table, columns, left_out)
        if asked.split != NONE:
            file.mark(found)
        pictures += found
    pictures, ids = merge(pictures, lambda picture: picture.name)
    if ids:
        examples = [f'{name} ({", ".join(map(str, values[:3]))})' for name, values in ids.items()]
        if asked.id:
            raise DataError(f'--id_column {asked.id}: {len(ids)} pictures have more than one id: {some(examples)}; '
                            'leave it out if it numbers captions')
        note(f'the column of ids numbers captions, not pictures: {some(examples)}; it is not used')
        for picture in pictures:
            picture.id = None
    return pictures
