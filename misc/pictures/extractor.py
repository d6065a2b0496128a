"""An extractor of one's own, `--extractor FILE`: a Python file with a function from a picture to its regions.

    def regions(picture):           uint8 (height, width, 3): red, green, blue, upright
        return features, boxes      (P, D), and (P, 4) x1 y1 x2 y2 in pixels of `picture`; arrays or tensors
        return features             (h, w, D): a map, whose places are the cells of a grid over the picture

    def setup(device):              optional: called once, with the torch device, before the first picture
    FILES = ('weights.pth',)        optional: files beside it whose content decides about the features

The file is code, so it is run only where the flag names it, never because a recipe or a checkpoint does: those hold
its name and a digest, to compare with.
"""

import importlib.util
import os
import sys
import traceback
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
import torch

from misc.cli import DataError, UsageError
from misc.dataset.channels import channels_first
from misc.pictures.finder import Finder, cell_boxes

MODULE = 'own_extractor'   # in sys.modules


def open_finder(recipe: Mapping[str, Any], device: torch.device, weight_folder: str | None = None,
                extractor: str | None = None) -> Finder:
    """What finds regions by `recipe`: with the file `extractor`, which the user named, for a recipe of one, else with
    networks whose weights are in `weight_folder`."""
    if 'extractor' not in recipe:
        return Finder(recipe, device, weight_folder)
    if extractor is None:
        raise UsageError(f'--extractor: name the file {recipe["extractor"]}, which finds these regions')
    return OwnFinder(recipe, device, extractor)


class OwnFinder(Finder):
    """Finds regions with the user's own file."""

    def __init__(self, recipe: Mapping[str, Any], device: torch.device, path: str) -> None:
        """Run the file at `path`, and its `setup`.  Raises `DataError` where that fails."""
        self.recipe, self.device, self.path, self.width = recipe, device, path, 0
        module = self._guarded('it', lambda: run_file(path))
        self.regions: Any = getattr(module, 'regions', None)
        if not callable(self.regions):
            raise DataError(f'--extractor: {path} has no function regions(picture) -> features, boxes; '
                            'docs/pictures.md shows one')
        setup = getattr(module, 'setup', None)
        if callable(setup):
            self._guarded('its setup(device)', lambda: setup(device))

    def __call__(self, pictures: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """As `Finder.__call__`, one picture at a time.  Raises `DataError` for what are no regions."""
        with torch.inference_mode():
            return [self._of_one(picture) for picture in pictures]

    def _of_one(self, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        height, width = picture.shape[:2]
        given = self._guarded(f'its regions(picture), for a picture of {width} x {height} pixels,',
                              lambda: self.regions(picture.copy()))
        features, boxes = given if isinstance(given, (tuple, list)) and len(given) == 2 else (given, None)
        features = self._array(features, 'features')
        if features.ndim == 3 and channels_first(features.shape):
            raise self._wrong(f'features of shape {features.shape}, which looks like (channels, height, width); '
                              'return (height, width, channels), as features.transpose(1, 2, 0) makes it')
        if features.ndim == 3 and boxes is None:
            rows, columns, _ = features.shape
            cells, features = cell_boxes(rows, columns, width, height), features.reshape(-1, features.shape[-1])
        elif boxes is None:
            raise self._wrong(f'features of shape {features.shape} without boxes; return features, boxes, or a map '
                              '(height, width, channels) alone, whose places are the cells of a grid')
        else:
            cells = self._array(boxes, 'boxes')
        if features.ndim != 2 or not features.size or cells.shape != (len(features), 4):
            raise self._wrong(f'features of shape {features.shape} and boxes of shape {cells.shape}; expected are '
                              '(P, D) and (P, 4), with at least one region')
        if np.isfinite(cells).all() and not ((cells[:, :2] >= -1) & (cells[:, 2:] <= (width + 1, height + 1))
                                             & (cells[:, :2] <= cells[:, 2:])).all():
            raise self._wrong(f'boxes from {cells.min():g} to {cells.max():g} for a picture of {width} x {height} '
                              'pixels; expected are x1 y1 x2 y2 in its pixels, with x1 <= x2 and y1 <= y2')
        if self.width not in (0, features.shape[1]):
            raise self._wrong(f'features of {features.shape[1]} numbers, and of {self.width} for another picture; '
                              'all must have as many')
        self.width = features.shape[1]
        return np.clip(cells, 0, (width, height, width, height), dtype=np.float32), features

    def _array(self, value: Any, what: str) -> np.ndarray:
        if isinstance(value, torch.Tensor):
            value = value.detach().cpu().float().numpy()
        try:
            return np.asarray(value, dtype=np.float32)
        except (TypeError, ValueError):
            raise self._wrong(f'{what} that are no array of numbers, but {type(value).__name__}') from None

    def _wrong(self, what: str) -> DataError:
        return DataError(f'--extractor: regions(picture) of {self.path} returned {what}')

    def _guarded(self, what: str, call: Any) -> Any:
        """What `call` returns; an error in the user's file becomes a `DataError` that names the line.  Too little
        memory is for the caller, who can take fewer pictures."""
        try:
            return call()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            path = os.path.abspath(self.path)
            lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
                     if os.path.abspath(frame.filename) == path]
            where = f' in line {lines[-1]}' if lines else ''
            raise DataError(f'--extractor: {self.path}: {what} failed{where}: '
                            f'{"".join(traceback.format_exception_only(error)).strip()}') from error


def run_file(path: str) -> ModuleType:
    """Run a Python file as a module, which can be imported from while the program runs."""
    spec = importlib.util.spec_from_file_location(MODULE, path)
    if spec is None or spec.loader is None:
        raise DataError(f'--extractor: {path} is not a Python file; its name must end in .py')
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module   # dataclasses and pickles of the file look there
    spec.loader.exec_module(module)
    return module
