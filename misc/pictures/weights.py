"""Weight files of the networks that see pictures: where they are, and which weights they hold.

Recipes identify weights by a digest of their file, so that the features of new pictures come from the very
weights that the features of the training came from, wherever the file is now.
"""

import hashlib
import os
from collections.abc import Iterable

import torch
import torchvision

from misc.cli import DataError
from misc.dataset.networks import NETWORKS
from misc.dataset.recipe import DIGEST, RANDOM

PLACES = ('data', os.path.join('data', 'imagenet_weights'))


def find_files(names: Iterable[str], folder: str | None = None) -> list[str]:
    """The paths of the weight files of the networks `names`, torchvision's names.

    They are called `<name>.pth`, or as torchvision calls its own files, and lie in `folder`, or without it in
    data/, data/imagenet_weights/ or torchvision's download cache.  Raises a `DataError` that lists all missing
    ones with their URLs and where to put them: under torchvision's own file name, which tells the layout.
    """
    cache = os.path.join(torch.hub.get_dir(), 'checkpoints')
    places, found, missing = [folder] if folder else [*PLACES, cache], [], {}
    for name in names:
        addresses = [weights.url for weights in torchvision.models.get_model_weights(name)]
        paths = [os.path.join(place, file) for place in places
                 for file in (f'{name}.pth', *map(os.path.basename, addresses))]
        path = next(filter(os.path.isfile, paths), None)
        if path:
            found.append(path)
        else:
            missing[name] = addresses[0]
    if missing:
        others = [f'(the published weights converted from Caffe serve too, as {places[0]}/{name}.pth with '
                  '--cnn_layout caffe)\n' for name in missing if name in NETWORKS]
        raise DataError(f'there are no weights of {" and ".join(missing)} in {", ".join(places)}\n'
                        f'download {" and ".join(missing.values())} and put '
                        f'{"it" if len(missing) == 1 else "them"} into {folder or cache}\n'
                        f'{"".join(others)}'
                        '(to try things out without: scripts/extract_regions.py --random_weights 1)')
    return found


def find_file(name: str, folder: str | None = None) -> str:
    """The path of the weight file of one network, as `find_files` finds it."""
    return find_files([name], folder)[0]


def layout_of(path: str, name: str) -> str | None:
    """The layout that the file name at `path` tells: 'torchvision' for torchvision's own name for the weights of
    the ResNet `name`.  None for `<name>.pth`: weights of both layouts are called so, with the same names and
    shapes inside."""
    return None if os.path.basename(path) == f'{name}.pth' else 'torchvision'


def random_weights_id(seed: int) -> str:
    """What a recipe records about random weights."""
    return f'{RANDOM} {seed}'


def weights_id(path: str) -> str:
    """What a recipe records about the weights in a file."""
    with open(path, 'rb') as file:
        return f'{DIGEST} {hashlib.file_digest(file, "sha256").hexdigest()[:24]}'


def file_of(recorded: str, name: str, folder: str | None = None) -> str:
    """The path of the weights that a recipe recorded for the network `name`.  Raises `DataError` where the file
    that `find_files` finds holds others."""
    path = find_file(name, folder)
    if weights_id(path) != recorded:
        raise DataError(f'{path} does not hold the weights of {name} that the model\'s features come from '
                        f'({recorded}); put those there, or name their folder with --cnn_weight_dir')
    return path
