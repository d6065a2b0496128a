"""The recipe of region features: how regions were found and which network describes them.

A recipe is a plain dict.  `scripts/extract_regions.py` writes it beside the features as `OUT_att_regions.json`;
train.py copies it into the infos file; `eval.py --image_folder` follows it for other pictures.

===================  ==================================================================================
`detector`           'grid' (the cells of a grid) or 'fasterrcnn' (boxes that a detector proposes)
`grid_size`          of 'grid': cells each way
`min_regions`, `max_regions`, `min_confidence`   of 'fasterrcnn': the boxes above a confidence, the most
                     confident first, but no fewer and no more than these
`detector_weights`   of 'fasterrcnn': the weights of the detector
`longest_side`       pixels; larger pictures are scaled down to it first
`cnn_model`, `cnn_layout`, `cnn_weights`   of the ResNet: its name, where it strides, its weights
===================  ==================================================================================

Weights are 'sha256 ' and a digest of their file, or 'random ' and a seed.
"""

import os
from collections.abc import Mapping
from typing import Any

from misc import commands
from misc.cli import DataError
from misc.dataset.networks import DETECTOR, LAYOUTS, NAMES
from misc.disk.files import read_json

DETECTORS = ('grid', 'fasterrcnn')
DEFAULTS = {'grid_size': 7, 'min_regions': 10, 'max_regions': 100, 'min_confidence': 0.2, 'longest_side': 640}
SETTINGS = {'grid': ('grid_size', 'longest_side'),
            'fasterrcnn': ('min_regions', 'max_regions', 'min_confidence', 'longest_side')}
# Smallest and largest allowed value of each setting.
RANGES = {'grid_size': (1, 64), 'min_regions': (1, 1000), 'max_regions': (1, 1000), 'min_confidence': (0, 1),
          'longest_side': (32, 10000)}
RANDOM, DIGEST = 'random', 'sha256'


def recipe_path(features: str | os.PathLike) -> str:
    """Where the recipe of a folder (or packed file) of features lies."""
    base = os.fspath(features).rstrip('/')
    if os.path.isfile(base):
        base = os.path.splitext(base)[0]
    elif base.endswith('_fc'):
        base = f'{base[:-3]}_att'
    return f'{base}_regions.json'


def read_recipe(features: str | os.PathLike) -> dict[str, Any] | None:
    """The recipe of a folder (or packed file) of features; None where there is none, as for the
    bottom-up-attention archive.  Raises `DataError` for one that is not valid."""
    path = recipe_path(features)
    return checked_recipe(read_json(path, commands.REGIONS), path) if os.path.exists(path) else None


def checked_recipe(recipe: Any, where: str) -> dict[str, Any]:
    """Return `recipe` if it is valid; else raise a `DataError` that names its place `where`."""
    detector = recipe.get('detector') if isinstance(recipe, dict) else None
    numbers = SETTINGS.get(detector, ()) if isinstance(detector, str) else ()
    weights = ('cnn_weights', 'detector_weights')[:1 + (detector == 'fasterrcnn')]
    if not (numbers and all(type(recipe.get(name)) in (int, float)
                            and RANGES[name][0] <= recipe[name] <= RANGES[name][1]
                            and (name == 'min_confidence' or recipe[name] == int(recipe[name]))
                            for name in numbers)
            and recipe.get('min_regions', 0) <= recipe.get('max_regions', 1000)
            and recipe.get('cnn_model') in NAMES and recipe.get('cnn_layout') in LAYOUTS
            and all(is_weights(recipe.get(name)) for name in weights)):
        raise DataError(f'{where} does not record how regions were found, or records impossible settings; make it '
                        f'again with:\n{commands.REGIONS}')
    return recipe


def is_weights(value: Any) -> bool:
    """Whether `value` identifies weights: 'sha256 DIGEST' or 'random SEED'."""
    kind, _, text = value.partition(' ') if isinstance(value, str) else (None, None, '')
    return kind == DIGEST or kind == RANDOM and text.isascii() and text.isdigit() and len(text) < 19


def seed_of(weights: str) -> int | None:
    """The seed of random weights, None for weights from a file."""
    kind, _, value = weights.partition(' ')
    return int(value) if kind == RANDOM else None


def describe(recipe: Mapping[str, Any]) -> str:
    """A recipe in a few words, for messages."""
    how = (f'{recipe["grid_size"]} x {recipe["grid_size"]} cells' if recipe['detector'] == 'grid' else
           f'{recipe["min_regions"]:g} to {recipe["max_regions"]:g} boxes of {DETECTOR}')
    weights = [recipe[name] for name in ('detector_weights', 'cnn_weights') if name in recipe]
    seeds = [seed for seed in map(seed_of, weights) if seed is not None]
    return (f'{how}, features of {recipe["cnn_model"]} in the layout of {recipe["cnn_layout"]}'
            + (f', RANDOM weights (seed {seeds[0]})' if seeds else ''))
