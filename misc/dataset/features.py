"""The per-image arrays of a data set, whether in a folder, in a packed file or in memory.

`misc/dataset/array_files.py` describes the kinds of arrays and the folders, `misc/dataset/packed.py` the packed
files.
"""

import os
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from misc import commands
from misc.cli import DataError
from misc.dataset.array_files import FolderReader, checked
from misc.dataset.channels import refuse_channels_first
from misc.dataset.foreign import way_in
from misc.dataset.forms import form_of
from misc.dataset.origin import ways_to_make
from misc.dataset.packed import PackedReader
from misc.dataset.sources import FLAGS


class ArrayReader(Protocol):
    """Reads the arrays of one kind, image by image."""

    def ids(self) -> set[str]:
        """The ids of the images that are there."""

    def states(self) -> dict[str, str]:
        """{image id: a text that changes with its array}, see misc/prepare/outdated.py."""

    def where(self, image_id: str | int) -> str:
        """Where an image's array is, for messages."""

    def made_by(self, command: str) -> str:
        """The commands, for messages, that add missing images; `command` makes the files of a folder."""

    def read(self, image_id: str | int) -> np.ndarray:
        """The float32 array of an image.  Raises `DataError` where it is missing or damaged."""


class MemoryReader:
    """Reads arrays in memory, {image id: array}."""

    def __init__(self, arrays: Mapping[int, np.ndarray], name: str):
        """name: what the arrays are called in messages, before the id."""
        self.arrays, self.name = arrays, name

    def ids(self) -> set[str]:
        """The ids of the images."""
        return set(map(str, self.arrays))

    def states(self) -> dict[str, str]:
        """None are known: nothing is made from arrays in memory and kept."""
        return {}

    def where(self, image_id: str | int) -> str:
        """The array of an image, for messages."""
        return f'{self.name} {image_id}'

    def made_by(self, command: str) -> str:
        """Nothing makes them but the caller."""
        return 'giving the array'

    def read(self, image_id: str | int) -> np.ndarray:
        """The float32 array of an image.  Raises `DataError` unless it holds finite numbers."""
        return checked(np.asarray(self.arrays[int(image_id)]), self.where(image_id))


def open_reader(path: str | os.PathLike, kind: str, flag: str, made_by: str = '') -> FolderReader | PackedReader:
    """A reader of the arrays of `kind` at `path`, a folder or a packed file.

    flag: the command-line flag that names `path`, and made_by: the command that makes it, for messages.
    Raises `DataError` where there is neither, and for features in the form of another program.
    """
    form = form_of(path, kind)
    if form:
        raise DataError(f'--{flag}: {way_in(path, form)}')
    if os.path.isdir(path):
        return FolderReader(path, kind)
    if os.path.isfile(path):
        return PackedReader(path, kind, flag)
    if os.path.splitext(path)[1] in ('.h5', '.hdf5') and made_by:
        made_by += f'\n{commands.PACK}'
    raise DataError(f'--{flag}: there is no folder or packed file {path}'
                    + (f'; make it with:\n{made_by}' if made_by else ''))


def feature_width(path: str | os.PathLike, kind: str) -> int | None:
    """The numbers per region of the features of `kind` ('att' or 'fc') at `path`, a folder or a packed file: those of
    the first array.  None where there is none.  Raises `DataError` where it is damaged."""
    if not os.path.exists(path):
        return None
    reader = open_reader(path, kind, FLAGS[kind])
    if isinstance(reader, PackedReader):
        return reader.width
    first = min(reader.ids(), key=lambda image_id: (len(image_id), image_id), default=None)
    if first is None:
        return None
    refuse_channels_first(reader.shape(first), reader.where(first))
    return reader.shape(first)[-1]


def open_boxes(path: str | os.PathLike, flag: str) -> FolderReader | PackedReader:
    """A reader of the boxes in pixels at `path`.  Raises `DataError` where there are none."""
    boxes = open_reader(path, 'box', flag, ways_to_make(path))
    if not boxes.ids():
        raise DataError(f'--{flag}: {path} holds no boxes; make them with: {ways_to_make(path)}')
    return boxes
