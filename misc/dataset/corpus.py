"""The images of a data set with their captions and region arrays; rows number the images from 0."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from misc import commands
from misc.cli import DataError
from misc.dataset.labels import Labels, labels_file_problem, read_labels_file
from misc.dataset.pairing import check_pair
from misc.dataset.regions import Regions, report_missing
from misc.dataset.sources import Sources
from misc.dataset.splits import split_named
from misc.disk.kinds import misplaced
from misc.disk.known import KnownFile


class Corpus:
    """The images of `--input_json`, in its order.

    images      the entries of the file, one dict per image
    ids, splits their ids and splits
    vocabulary  {index as text, from '1': word}
    labels      the captions, or None where they are not wanted
    regions     the region arrays
    file        `--input_json`, where it was read
    """

    def __init__(self, sources: Sources, wants_labels: bool = True, info: dict[str, Any] | None = None):
        """info: the content of `--input_json`, where there is no such file.

        Raises `DataError` for a file that is missing, damaged or does not fit.
        """
        self.sources = sources
        self.file = KnownFile(sources.input_json) if info is None else None
        info = read_labels_file(sources.input_json, commands.LABELS) if info is None else info
        problem = labels_file_problem(info)
        if problem:
            said = misplaced(info, sources.input_json, 'labels')
            if said:
                raise DataError(f'--input_json: {sources.input_json} {said}')
            raise DataError(f'--input_json: {sources.input_json} is not the output of prepro_labels.py, '
                            f'{problem}; make it with:\n{commands.LABELS}')
        self.images: list[dict[str, Any]] = info['images']
        self.vocabulary: dict[str, str] = info['ix_to_word']
        self.ids: list[int] = [image['id'] for image in self.images]
        self.splits: list[str] = [split_named(image['split']) or image['split'] for image in self.images]
        self.labels: Labels | None = None
        if wants_labels:
            self.labels = Labels(sources.input_label_h5, len(self.images), len(self.vocabulary))
            check_pair(self.labels, self.images, self.vocabulary, sources.input_json)
        self.regions = Regions(sources, self.images)

    @property
    def longest(self) -> int:
        """The number of words at which captions are cut, T."""
        assert self.labels is not None, 'opened without labels'
        return self.labels.longest

    def open_for(self, needs: Iterable[str]) -> None:
        """Open the region arrays that a model `needs`; see `Regions.open_for`."""
        self.regions.open_for(needs)

    def open_boxes_and_grids(self) -> None:
        """Open the boxes and grid vectors that are given, whatever the model needs, for `boxes_and_grids`."""
        self.regions.open_boxes_and_grids()

    def region_recipe(self) -> dict[str, Any] | None:
        """How the regions were found, None where that is not recorded; valid after `open_for`."""
        return self.regions.recipe()

    def rows(self, split: str, train_only: bool = False, way_out: str = '') -> list[int]:
        """The rows of a split's images; 'all' takes every image, 'train' includes restval unless `train_only`, and
        'dev' or 'val2014' mean what they mean in the file.

        Raises `DataError`, which ends with the `way_out`, where there are none.
        """
        wanted = {'train': {'train'} if train_only else {'train', 'restval'},
                  'all': set(self.splits)}.get(split, {split_named(split) or split})
        found = [row for row, name in enumerate(self.splits) if name in wanted]
        if not found:
            raise DataError(f'{self.sources.input_json} has no image in the {split} split; it has '
                            f'{", ".join(sorted(set(map(str, self.splits))))}' + (way_out and f';\n{way_out}'))
        return found

    def check_files(self, rows: list[int]) -> None:
        """Raise `DataError` unless every image of `rows` has its captions (where they are wanted) and its
        arrays, by listing, not by opening files."""
        ids = [str(self.ids[row]) for row in rows]
        self.regions.check_files(ids)
        if self.labels is not None:
            report_missing([str(self.ids[row]) for row in rows if not len(self.labels.of(row))], len(ids),
                           'caption', f'--input_label_h5 {self.sources.input_label_h5}', commands.LABELS)

    def arrays(self, row: int) -> dict[str, np.ndarray | None]:
        """The arrays of an image that the model needs; see `Regions.arrays`."""
        return self.regions.arrays(self.ids[row])

    def boxes_and_grids(self, row: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Where the regions of an image are; see `Regions.boxes_and_grids`."""
        return self.regions.boxes_and_grids(self.ids[row])

    def captions(self, row: int, count: int | None = None, seed: Any = None) -> np.ndarray:
        """int64 (count, max_length) captions of an image: all of them, or `count` drawn by `seed`, without
        repetition where there are enough."""
        assert self.labels is not None
        labels = self.labels.of(row)
        if count is not None:
            random = np.random.default_rng(seed)
            labels = labels[random.choice(len(labels), count, replace=len(labels) < count)]
        return labels.astype(np.int64)
