"""The recipe of region features: how regions were found and which network describes them.

A recipe is a plain dict.  `scripts/extract_regions.py` writes it beside the features as `OUT_att_regions.json`;
train.py copies it into the infos file; `eval.py --image_folder` follows it for other pictures.

===================  ==================================================================================
`detector`           'grid' (the cells of a grid), 'fasterrcnn' (boxes that a detector proposes), or 'extractor' (the
                     user's own file, see misc/pictures/extractor.py, which computes the features too)
`extractor`, `extractor_digest`   of 'extractor': the name of the file, and a digest of its content
`grid_size`          of 'grid': cells each way
`min_regions`, `max_regions`, `min_confidence`   of 'fasterrcnn': the boxes above a confidence, the most
                     confident first, but no fewer and no more than these
`detector_weights`   of 'fasterrcnn': the weights of the detector
`longest_side`       pixels; larger pictures are scaled down to it first
`cnn_model`          the network of the features; several are joined by '+', and their features side by side
`networks`           of each of them a dict of the fields of `networks.Network`
`cnn_layout`, `cnn_weights`   in place of `networks`, of one ResNet of `networks.TWO_LAYOUTS` that sees
                     pictures as they are: where it strides, its weights
===================  ==================================================================================

Weights are 'sha256 ' and a digest of their file, or 'random ' and a seed.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from misc import commands
from misc.cli import DataError
from misc.dataset.networks import DETECTOR, LAYOUTS, TWO_LAYOUTS, Network, is_network
from misc.disk.files import read_json

DETECTORS = ('grid', 'fasterrcnn')
DEFAULTS = {'grid_size': 7, 'min_regions': 10, 'max_regions': 100, 'min_confidence': 0.2, 'longest_side': 640}
SETTINGS = {'grid': ('grid_size', 'longest_side'),
            'fasterrcnn': ('min_regions', 'max_regions', 'min_confidence', 'longest_side'),
            'extractor': ('longest_side',)}
# Smallest and largest allowed value of each setting.
RANGES = {'grid_size': (1, 64), 'min_regions': (1, 1000), 'max_regions': (1, 1000), 'min_confidence': (0, 1),
          'longest_side': (32, 10000), 'input_size': (32, 10000)}
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
    if not (numbers and all(type(recipe.get(name)) in (int, float)
                            and RANGES[name][0] <= recipe[name] <= RANGES[name][1]
                            and (name == 'min_confidence' or recipe[name] == int(recipe[name]))
                            for name in numbers)
            and recipe.get('min_regions', 0) <= recipe.get('max_regions', 1000)
            and (detector != 'fasterrcnn' or is_weights(recipe.get('detector_weights')))
            and (has_extractor(recipe) if detector == 'extractor' else
                 'extractor' not in recipe and has_networks(recipe) if 'networks' in recipe else
                 recipe.get('cnn_model') in TWO_LAYOUTS and recipe.get('cnn_layout') in LAYOUTS
                 and is_weights(recipe.get('cnn_weights')))):
        raise DataError(f'{where} does not record how regions were found, or records impossible settings; make it '
                        f'again with:\n{commands.REGIONS}')
    return recipe


def has_extractor(recipe: Mapping[str, Any]) -> bool:
    """Whether a recipe says which file finds the regions, and nothing of networks."""
    name = recipe.get('extractor')
    return (isinstance(name, str) and name.isprintable() and 0 < len(name) < 256 and '/' not in name
            and is_weights(recipe.get('extractor_digest')) and not {'networks', 'cnn_model'} & set(recipe))


def has_networks(recipe: Mapping[str, Any]) -> bool:
    """Whether a recipe says of each of its networks all that is recorded."""
    networks = recipe['networks']
    return (isinstance(networks, list) and bool(networks)
            and all(is_network(one) and is_weights(one.get('weights')) for one in networks)
            and '+'.join(one['name'] for one in networks) == recipe.get('cnn_model'))


def recorded_networks(networks: Sequence[Network]) -> dict[str, Any]:
    """The part of a recipe that says which networks compute the features."""
    if len(networks) == 1 and networks[0].is_plain:   # as all recipes were before there were other networks
        network, = networks
        return {'cnn_model': network.name, 'cnn_layout': network.layout, 'cnn_weights': network.weights}
    entries = [{name: list(value) if isinstance(value, tuple) else value
                for name, value in dataclasses.asdict(network).items() if name != 'layout' or value}
               for network in networks]
    return {'cnn_model': '+'.join(network.name for network in networks), 'networks': entries}


def networks_of(recipe: Mapping[str, Any]) -> list[Network]:
    """The networks of a recipe, in the order of their features; none where a file of the user's computes them."""
    if recipe['detector'] == 'extractor':
        return []
    if 'networks' not in recipe:
        return [Network(recipe['cnn_model'], layout=recipe['cnn_layout'], weights=recipe['cnn_weights'])]
    return [Network(**{**one, 'mean': tuple(one['mean']), 'std': tuple(one['std'])}) for one in recipe['networks']]


def feature_size(recipe: Mapping[str, Any]) -> int:
    """The numbers of a region's feature; 0 where a file of the user's decides."""
    return sum(network.width for network in networks_of(recipe))


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
    if recipe['detector'] == 'extractor':
        return f'those of the extractor {recipe["extractor"]} ({recipe["extractor_digest"][:19]})'
    how = (f'{recipe["grid_size"]} x {recipe["grid_size"]} cells' if recipe['detector'] == 'grid' else
           f'{recipe["min_regions"]:g} to {recipe["max_regions"]:g} boxes of {DETECTOR}')
    networks = networks_of(recipe)
    seeds = [seed for seed in (seed_of(network.weights) for network in networks) if seed is not None]
    return (f'{how}, features of {" and ".join(map(describe_network, networks))}'
            + (f', RANDOM weights (seed {seeds[0]})' if seeds else ''))


def describe_network(network: Network) -> str:
    """A network in a few words."""
    size = f' at {network.input_size} x {network.input_size} pixels' if network.input_size else ''
    return f'{network.name}{f" in the layout of {network.layout}" if network.layout else ""}{size}'
