"""The regions of images: features, mean features, grid vectors and boxes, checked against each other."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from misc import commands
from misc.cli import DataError
from misc.dataset.array_files import again
from misc.dataset.channels import refuse_channels_first
from misc.dataset.features import ArrayReader, MemoryReader, open_reader
from misc.dataset.grids import checked_boxes, grid_vectors, image_sizes, relative_boxes, sizes_location
from misc.dataset.origin import check_pictures, pictures_path, ways_to_make
from misc.dataset.recipe import read_recipe
from misc.dataset.sources import FLAGS, Sources

CONTENTS = {'att': 'features', 'fc': 'mean features', 'grid': 'grid vectors', 'box': 'boxes', 'rel': 'relative boxes'}


class Regions:
    """The region arrays of images; nothing is open until `open_for`, `open_boxes_and_grids` or `open_arrays`.

    readers   {kind: reader} of what is open; the kinds are those of misc/dataset/array_files.py
    sizes     {id: (width, height)} of the images, where boxes in pixels are open
    """

    def __init__(self, sources: Sources, images: list[dict[str, Any]]):
        """images: the entries of `--input_json`, whose width and height serve where no sizes file does."""
        self.sources, self.images = sources, images
        self.needs: tuple[str, ...] = ()
        self.readers: dict[str, ArrayReader] = {}
        self.sizes: dict[str, tuple[float, float]] = {}
        self.compared: set[str] = set()   # the records of pictures that agree with `images`

    def open_for(self, needs: Iterable[str]) -> None:
        """Open what a model `needs`, out of 'features', 'fc', 'grids' and 'boxes'.

        Mean features and grid vectors without a source of their own are computed from features and boxes.
        """
        sources, self.needs = self.sources, tuple(needs)
        if 'fc' in self.needs and sources.input_fc_feat_dir:
            self._open('fc')
        if 'features' in self.needs or 'fc' not in self.readers:
            self._open('att')
        if 'grids' in self.needs and sources.input_grid_vec_dir:
            self._open('grid')
        if 'boxes' in self.needs or 'grids' in self.needs and 'grid' not in self.readers:
            self._open_boxes()

    def open_boxes_and_grids(self) -> None:
        """Open the boxes and grid vectors that are given, for `boxes_and_grids`, even if the model needs none."""
        sources = self.sources
        if sources.input_grid_vec_dir and 'grid' not in self.readers:
            self._open('grid')
        if sources.input_rel_box_dir or sources.input_box_dir:
            self._open_boxes()

    def open_arrays(self, needs: Iterable[str], features: Mapping[int, np.ndarray],
                    boxes: Mapping[int, np.ndarray], sizes: Mapping[int, tuple[float, float]] | None) -> None:
        """As `open_for`, from arrays in memory, {image id: array}, in place of files.

        sizes: {image id: (width, height)} of the images if the boxes are in pixels, None if they are relative.
        """
        self.needs = tuple(needs)
        self.readers = {'att': MemoryReader(features, 'the features of image'),
                        'rel' if sizes is None else 'box': MemoryReader(boxes, 'the boxes of image')}
        self.sizes = {str(image_id): size for image_id, size in (sizes or {}).items()}

    def _open(self, kind: str) -> None:
        path = getattr(self.sources, FLAGS[kind])
        self.readers[kind] = open_reader(path, kind, FLAGS[kind], self._command(kind))
        if pictures_path(path) not in self.compared:
            check_pictures(self.images, path, self.sources.input_json)
            self.compared.add(pictures_path(path))

    def _open_boxes(self) -> None:
        if self.sources.input_rel_box_dir:
            self._open('rel')
        else:
            self._open('box')
            self.sizes = image_sizes(self.sources.input_box_dir, {'images': self.images})

    def _command(self, kind: str) -> str:
        """The command that makes arrays of a kind, for messages."""
        other = {'grid': commands.AREAS.format(cells=self.sources.num_grids), 'rel': commands.RELATIVE}
        return other[kind] if kind in other else ways_to_make(getattr(self.sources, FLAGS[kind]))

    def readers_by_flag(self) -> dict[str, ArrayReader]:
        """{flag that names it: reader} of what is open."""
        return {flag: self.readers[kind] for kind, flag in FLAGS.items() if kind in self.readers}

    def recipe(self) -> dict[str, Any] | None:
        """How the regions of the open features were found (see misc/dataset/recipe.py), None where that is not
        recorded."""
        return read_recipe(getattr(self.sources, FLAGS['att' if 'att' in self.readers else 'fc']))

    def check_files(self, ids: list[str]) -> None:
        """Raise `DataError` unless every open source has all images `ids`, by listing, not by opening files."""
        for kind, flag in FLAGS.items():
            if kind in self.readers:
                reader = self.readers[kind]
                there = reader.ids()
                report_missing([one for one in ids if one not in there], len(ids), CONTENTS[kind],
                               f'--{flag} {getattr(self.sources, flag)}', reader.made_by(self._command(kind)))
        if 'box' in self.readers:
            report_missing([one for one in ids if one not in self.sizes], len(ids), 'size',
                           f'{sizes_location(self.sources.input_box_dir or "")} and {self.sources.input_json}',
                           self.readers['box'].made_by(self._command('box')))

    def arrays(self, image_id: int) -> dict[str, np.ndarray | None]:
        """{'features': (P, D), 'fc': (1, D), 'grids': (P, g*g), 'boxes': (P, 4) relative to the image}, float32,
        of one image with P regions; None for what the model does not need.

        Raises `DataError` where an array cannot be read or does not fit the others or the settings.
        """
        features = self._features(image_id) if 'att' in self.readers else None
        mean = grids = boxes = None
        if 'fc' in self.needs:
            mean = self._mean(image_id) if features is None or 'fc' in self.readers else \
                features.mean(0, keepdims=True)
        if 'grids' in self.needs:
            grids = self._matching(features, *self._grids(image_id), image_id)
        if 'boxes' in self.needs:
            boxes = self._matching(features, *self._relative_boxes(image_id), image_id)
        if 'features' not in self.needs:
            features = None
        elif features is not None and self.sources.norm_img_feat:
            features = unit_rows(features)
        return {'features': features, 'fc': mean, 'grids': grids, 'boxes': boxes}

    def boxes_and_grids(self, image_id: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Boxes (P, 4) relative to the image and grid vectors (P, g*g) of an image's regions, never scaled by
        `norm_box_feat`; None for what `open_boxes_and_grids` found no source of."""
        has_boxes = 'box' in self.readers or 'rel' in self.readers
        return (self._relative_boxes(image_id)[0] if has_boxes else None,
                self._grids(image_id)[0] if has_boxes or 'grid' in self.readers else None)

    def _features(self, image_id: int) -> np.ndarray:
        """The features (P, D) of an image's regions, as they are on disk."""
        reader = self.readers['att']
        features, where = reader.read(image_id), reader.where(image_id)
        refuse_channels_first(features.shape, where, self.sources.img_feat_size)
        if features.ndim not in (2, 3) or not features.size:
            raise DataError(f'{where}: an array of shape {features.shape} holds no regions; {again(where)}; '
                            f'features are made by:\n{self._command("att")}')
        features = features.reshape(-1, features.shape[-1])   # a map (h, w, D) has P = h*w regions
        self._check_width(features, where)
        return features

    def _mean(self, image_id: int) -> np.ndarray:
        """The mean feature (1, D) of an image, as it is on disk."""
        reader = self.readers['fc']
        mean, where = reader.read(image_id), reader.where(image_id)
        if mean.ndim != 1:
            raise DataError(f'{where}: an array of shape {mean.shape} is not one mean feature; {again(where)}; '
                            f'they are made by:\n{self._command("fc")}')
        self._check_width(mean[None], where)
        return mean[None]

    def _check_width(self, features: np.ndarray, where: str) -> None:
        """Refuse features (P, D) of another width than the model's."""
        if features.shape[1] != self.sources.img_feat_size:
            raise DataError(f'{where}: features have {features.shape[1]} numbers, but --img_feat_size is '
                            f'{self.sources.img_feat_size}; give the folder of the features it was set for, '
                            f'or train with --img_feat_size {features.shape[1]}')

    def _matching(self, features: np.ndarray | None, rows: np.ndarray, where: str, image_id: int) -> np.ndarray:
        """Grid vectors or boxes, scaled where that is set; `DataError` unless there are as many as regions."""
        regions = 0 if features is None else len(features)
        if len(rows) != regions:
            raise DataError(f'{where} has {len(rows)} rows, {self.readers["att"].where(image_id)} has '
                            f'{regions} regions; they were not made from the same boxes; make both '
                            f'again with:\n{self._command("att")}\n{self._command("grid")}')
        return unit_rows(rows) if self.sources.norm_box_feat else rows

    def _grids(self, image_id: int) -> tuple[np.ndarray, str]:
        """The grid vectors (P, g*g) of an image, stored or computed from its boxes, and where they come from."""
        cells = self.sources.num_grids
        if 'grid' not in self.readers:
            boxes, size, where = self._boxes(image_id)
            return grid_vectors(boxes, *size, round(cells ** 0.5)), where
        reader = self.readers['grid']
        grids, where = reader.read(image_id), reader.where(image_id)
        if grids.ndim != 2 or grids.shape[1] != cells:
            # Into another folder: prepro_areas.py does not mix grids in one.
            command = self._command('grid').replace('_vec ', f'_vec_{cells} ')
            raise DataError(f'--input_grid_vec_dir: {where}: an array of shape {grids.shape} does not fit '
                            f'--num_grids {cells}; give the --num_grids it was made with, or make others, in a '
                            f'folder of their own, with:\n{command}')
        return grids, where

    def _relative_boxes(self, image_id: int) -> tuple[np.ndarray, str]:
        """The boxes (P, 4) of an image relative to it, and where they come from."""
        boxes, size, where = self._boxes(image_id)
        return relative_boxes(boxes, *size), where

    def _boxes(self, image_id: int) -> tuple[np.ndarray, tuple[float, float], str]:
        """The boxes (P, 4) of an image as they are on disk, the (width, height) they refer to, where they are."""
        is_relative = 'rel' in self.readers
        reader = self.readers['rel' if is_relative else 'box']
        boxes, where = reader.read(image_id), reader.where(image_id)
        boxes = checked_boxes(boxes, where)
        low, high = float(boxes.min()), float(boxes.max())
        if is_relative and (low < -1e-3 or high > 1 + 1e-3):
            raise DataError(f'{where}: boxes from {low:g} to {high:g} are not relative to the image; name '
                            f'boxes in pixels with --input_box_dir, or make relative ones with:\n'
                            f'{commands.RELATIVE}')
        if not is_relative and high <= 1:
            raise DataError(f'{where}: boxes from {low:g} to {high:g} are not pixels; name boxes relative to '
                            f'the image with --input_rel_box_dir, or make those in pixels with:\n'
                            f'{self._command("box")}')
        return boxes, (1.0, 1.0) if is_relative else self.sizes[str(image_id)], where


def unit_rows(array: np.ndarray) -> np.ndarray:
    """Each row scaled to length 1 (L2); a row of zeros stays."""
    return array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-12)


def report_missing(missing: list[str], total: int, what: str, where: str, command: str) -> None:
    """Raise `DataError` if any of `total` images lack `what` in `where`; `command` makes it."""
    if missing:
        more = ', ...' if len(missing) > 5 else ''
        raise DataError(f'{len(missing)} of {total} images have no {what} in {where}: '
                        f'{", ".join(missing[:5])}{more}\nmake them with: {command}')
