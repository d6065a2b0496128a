"""The regions of images: features, mean features, grid vectors and boxes, checked against each other."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from misc import commands
from misc.cli import DataError
from misc.dataset.features import Arrays, Folder, Packed, open_source
from misc.dataset.grids import checked_boxes, grid_vectors, image_sizes, relative_boxes, sizes_place
from misc.dataset.recipe import read_recipe
from misc.dataset.sources import Sources


class Regions:
    """The region arrays that `sources` name; nothing is open until `open_for` or `open_boxes_and_grids`.

    Open sources are attributes, None where they are not open: `features`, `means` (mean features), `grids`,
    `boxes` (in pixels, with `sizes`, {id: (width, height)}) and `relative` (boxes divided by width and height).
    """

    def __init__(self, sources: Sources, images: list[dict[str, Any]]):
        """images: the entries of `--input_json`, whose width and height serve where no sizes file does."""
        self.sources, self.images, self.needs = sources, images, ()
        self.side = round(sources.num_grids ** 0.5)
        self.features = self.means = self.grids = self.boxes = self.relative = None
        self.sizes: dict[str, tuple[float, float]] = {}

    def open_for(self, needs: Iterable[str]) -> None:
        """Open what a model `needs`, out of 'features', 'fc', 'grids' and 'boxes'.

        Mean features and grid vectors without a source of their own are computed from features and boxes.
        """
        sources, self.needs = self.sources, tuple(needs)
        if 'fc' in self.needs and sources.input_fc_feat_dir:
            self.means = open_source(sources.input_fc_feat_dir, 'fc', 'input_fc_feat_dir', commands.FEATURES)
        if 'features' in self.needs or self.means is None:
            self.features = open_source(sources.input_img_feat_dir, 'att', 'input_img_feat_dir',
                                        commands.FEATURES)
        if 'grids' in self.needs and sources.input_grid_vec_dir:
            self.grids = self._open_grids()
        if 'boxes' in self.needs or 'grids' in self.needs and self.grids is None:
            self._open_boxes()

    def open_boxes_and_grids(self) -> None:
        """Open the boxes and grid vectors that are given, for `boxes_and_grids`, even if the model needs none."""
        sources = self.sources
        if sources.input_grid_vec_dir and self.grids is None:
            self.grids = self._open_grids()
        if sources.input_rel_box_dir or sources.input_box_dir:
            self._open_boxes()

    def open_arrays(self, needs: Iterable[str], features: Mapping[int, np.ndarray],
                    boxes: Mapping[int, np.ndarray], sizes: Mapping[int, tuple[float, float]] | None) -> None:
        """As `open_for`, from arrays in memory, {image id: array}, in place of files.

        sizes: {image id: (width, height)} of the images if the boxes are in pixels, None if they are relative.
        """
        self.needs, self.features = tuple(needs), Arrays(features, 'the features of image')
        if sizes is None:
            self.relative = Arrays(boxes, 'the boxes of image')
        else:
            self.boxes = Arrays(boxes, 'the boxes of image')
            self.sizes = {str(image_id): size for image_id, size in sizes.items()}

    def _open_grids(self) -> Folder | Packed:
        return open_source(self.sources.input_grid_vec_dir, 'grid', 'input_grid_vec_dir', self._areas_command())

    def _open_boxes(self) -> None:
        sources = self.sources
        if sources.input_rel_box_dir:
            self.relative = open_source(sources.input_rel_box_dir, 'rel', 'input_rel_box_dir', commands.RELATIVE)
        else:
            self.boxes = open_source(sources.input_box_dir, 'box', 'input_box_dir', commands.FEATURES)
            self.sizes = image_sizes(sources.input_box_dir, {'images': self.images})

    def _areas_command(self) -> str:
        return commands.AREAS.format(cells=self.sources.num_grids)

    def readers(self) -> dict[str, Folder | Packed]:
        """{flag that names it: reader} of the sources that are open."""
        found = {'input_img_feat_dir': self.features, 'input_fc_feat_dir': self.means,
                 'input_grid_vec_dir': self.grids, 'input_box_dir': self.boxes, 'input_rel_box_dir': self.relative}
        return {flag: reader for flag, reader in found.items() if reader is not None}

    def recipe(self) -> dict[str, Any] | None:
        """How the regions of the open features were found (see misc/dataset/recipe.py), None where that is not
        recorded."""
        sources = self.sources
        return read_recipe(sources.input_fc_feat_dir if self.features is None else sources.input_img_feat_dir)

    def check_files(self, ids: list[str]) -> None:
        """Raise `DataError` unless every open source has all images `ids`, by listing, not by opening files."""
        contents = {'input_img_feat_dir': ('features', commands.FEATURES),
                    'input_fc_feat_dir': ('mean features', commands.FEATURES),
                    'input_grid_vec_dir': ('grid vectors', self._areas_command()),
                    'input_rel_box_dir': ('relative boxes', commands.RELATIVE),
                    'input_box_dir': ('boxes', commands.FEATURES)}
        for flag, reader in self.readers().items():
            what, command = contents[flag]
            there = reader.ids()
            report_missing([one for one in ids if one not in there], len(ids), what,
                           f'--{flag} {getattr(self.sources, flag)}', reader.made_by(command))
        if self.boxes is not None:
            report_missing([one for one in ids if one not in self.sizes], len(ids), 'size',
                           f'{sizes_place(self.sources.input_box_dir)} and {self.sources.input_json}',
                           self.boxes.made_by(commands.FEATURES))

    def arrays(self, image_id: int) -> dict[str, np.ndarray | None]:
        """{'features': (P, D), 'fc': (1, D), 'grids': (P, g*g), 'boxes': (P, 4) relative to the image}, float32,
        of one image with P regions; None for what the model does not need.

        Raises `DataError` where an array cannot be read or does not fit the others or the settings.
        """
        features, means = None, None
        if self.features is not None:
            features = self._features(image_id)
        if 'fc' in self.needs:
            means = features.mean(0, keepdims=True) if self.means is None else self._means(image_id)
        if 'features' not in self.needs:
            features = None
        elif self.sources.norm_img_feat:
            features = unit_rows(features)
        count = None if features is None else len(features)
        return {'features': features, 'fc': means,
                'grids': self._checked_grids(image_id, count) if 'grids' in self.needs else None,
                'boxes': self._checked_boxes(image_id, count) if 'boxes' in self.needs else None}

    def boxes_and_grids(self, image_id: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Boxes (P, 4) relative to the image and grid vectors (P, g*g) of an image's regions, never scaled by
        `norm_box_feat`; None for what `open_boxes_and_grids` found no source of."""
        boxes, grids = None, None
        if self.boxes is not None or self.relative is not None:
            boxes, grids = self._relative_boxes(image_id)[0], self._computed_grids(image_id)[0]
        if self.grids is not None:
            grids = self._stored_grids(image_id)[0]
        return boxes, grids

    def _features(self, image_id: int) -> np.ndarray:
        """The features (P, D) of an image's regions, as they are on disk."""
        features, where = self.features.read(image_id), self.features.where(image_id)
        if features.ndim not in (2, 3) or not features.size:
            raise DataError(f'{where}: an array of shape {features.shape} holds no regions; remove it and '
                            f'run again:\n{commands.FEATURES}')
        features = features.reshape(-1, features.shape[-1])   # a map (h, w, D) has P = h*w regions
        self._check_width(features, where)
        return features

    def _means(self, image_id: int) -> np.ndarray:
        """The mean feature (1, D) of an image, as it is on disk."""
        mean, where = self.means.read(image_id), self.means.where(image_id)
        if mean.ndim != 1:
            raise DataError(f'{where}: an array of shape {mean.shape} is not one mean feature; remove it and '
                            f'run again:\n{commands.FEATURES}')
        self._check_width(mean[None], where)
        return mean[None]

    def _check_width(self, features: np.ndarray, where: str) -> None:
        """Refuse features (P, D) of another size than the model's."""
        if features.shape[1] != self.sources.img_feat_size:
            raise DataError(f'{where}: features have {features.shape[1]} numbers, but --img_feat_size is '
                            f'{self.sources.img_feat_size}; give the folder of the features it was set for, '
                            f'or train with --img_feat_size {features.shape[1]}')

    def _checked_grids(self, image_id: int, count: int) -> np.ndarray:
        """The grid vectors of an image's `count` regions, stored or computed."""
        grids, where = (self._computed_grids if self.grids is None else self._stored_grids)(image_id)
        return self._fitting(grids, where, image_id, count)

    def _checked_boxes(self, image_id: int, count: int) -> np.ndarray:
        """The relative boxes of an image's `count` regions."""
        return self._fitting(*self._relative_boxes(image_id), image_id, count)

    def _fitting(self, rows: np.ndarray, where: str, image_id: int, count: int) -> np.ndarray:
        """Grid vectors or boxes, scaled where that is set; `DataError` unless there are as many as regions."""
        if len(rows) != count:
            raise DataError(f'{where} has {len(rows)} rows, {self.features.where(image_id)} has '
                            f'{count} regions; they were not made from the same boxes; make both '
                            f'again with:\n{commands.FEATURES}\n{self._areas_command()}')
        return unit_rows(rows) if self.sources.norm_box_feat else rows

    def _stored_grids(self, image_id: int) -> tuple[np.ndarray, str]:
        """The grid vectors of an image as they are on disk, and where that is."""
        grids, where = self.grids.read(image_id), self.grids.where(image_id)
        if grids.ndim != 2 or grids.shape[1] != self.side ** 2:
            cells = self.side ** 2   # into another folder: prepro_areas.py does not mix grids in one
            command = commands.AREAS.format(cells=cells).replace('_vec ', f'_vec_{cells} ')
            raise DataError(f'--input_grid_vec_dir: {where}: an array of shape {grids.shape} does not fit '
                            f'--num_grids {cells}; give the --num_grids it was made with, or make others, in a '
                            f'folder of their own, with:\n{command}')
        return grids, where

    def _computed_grids(self, image_id: int) -> tuple[np.ndarray, str]:
        """The grid vectors of an image, computed from its boxes, and where those are."""
        boxes, size, where = self._boxes(image_id)
        return grid_vectors(boxes, *size, self.side), where

    def _relative_boxes(self, image_id: int) -> tuple[np.ndarray, str]:
        """The boxes of an image relative to it, and where they are."""
        boxes, size, where = self._boxes(image_id)
        return relative_boxes(boxes, *size), where

    def _boxes(self, image_id: int) -> tuple[np.ndarray, tuple[float, float], str]:
        """The boxes (P, 4) of an image as they are on disk, the (width, height) they refer to, where they are."""
        reader, size = (self.relative, (1.0, 1.0)) if self.relative is not None else \
            (self.boxes, self.sizes[str(image_id)])
        where = reader.where(image_id)
        boxes = checked_boxes(reader.read(image_id), where)
        low, high = float(boxes.min()), float(boxes.max())
        if self.relative is not None and (low < -1e-3 or high > 1 + 1e-3):
            raise DataError(f'{where}: boxes from {low:g} to {high:g} are not relative to the image; name '
                            f'boxes in pixels with --input_box_dir, or make relative ones with:\n'
                            f'{commands.RELATIVE}')
        if self.boxes is not None and high <= 1:
            raise DataError(f'{where}: boxes from {low:g} to {high:g} are not pixels; name boxes relative to '
                            f'the image with --input_rel_box_dir, or make those in pixels with:\n'
                            f'{commands.FEATURES}')
        return boxes, size, where


def unit_rows(array: np.ndarray) -> np.ndarray:
    """Each row scaled to length 1 (L2); a row of zeros stays."""
    return array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-12)


def report_missing(missing: list[str], total: int, what: str, where: str, command: str) -> None:
    """Raise `DataError` if any of `total` images lack `what` in `where`; `command` makes it."""
    if missing:
        more = ', ...' if len(missing) > 5 else ''
        raise DataError(f'{len(missing)} of {total} images have no {what} in {where}: '
                        f'{", ".join(missing[:5])}{more}\nmake them with: {command}')
