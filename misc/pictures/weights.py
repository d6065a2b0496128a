"""Weights of the networks that look at pictures: where they are looked for, which they are, random ones.

A file is known by its digest, so that the features of new pictures come from the very weights that those
of the training came from, wherever the file lies now.
"""

import hashlib
import os

import torch
import torchvision
from torch.nn import functional

from misc.cli import DataError
from misc.dataset.recipe import DIGEST, MODELS, RANDOM

PLACES = ('data', os.path.join('data', 'imagenet_weights'))
# Of a random residual branch, beside its shortcut: with more, pictures come out alike in networks so deep.
BRANCH = 0.1


def find_files(names, folder=None):
    """The paths of the weights of the networks `names`, as torchvision calls them.

    Looked for as `<name>.pth` and under torchvision's own names for it, in `folder`, or else in data/,
    data/imagenet_weights/ and the cache that torchvision keeps its downloads in.  Raises a `DataError` that
    says of all that are missing what to download, and where to put it: under torchvision's own name, which
    tells the layout.
    """
    cache = os.path.join(torch.hub.get_dir(), 'checkpoints')
    places, found, missing = [folder] if folder else [*PLACES, cache], [], {}
    for name in names:
        addresses = [weights.url for weights in torchvision.models.get_model_weights(name)]
        paths = [os.path.join(place, file) for place in places
                 for file in (f'{name}.pth', *map(os.path.basename, addresses))]
        there = next(filter(os.path.isfile, paths), None)
        if there:
            found.append(there)
        else:
            missing[name] = addresses[0]
    if missing:
        others = [f'(the published weights converted from Caffe serve too, as {places[0]}/{name}.pth with '
                  '--cnn_layout caffe)\n' for name in missing if name in MODELS]
        raise DataError(f'there are no weights of {" and ".join(missing)} in {", ".join(places)}\n'
                        f'download {" and ".join(missing.values())} and put '
                        f'{"it" if len(missing) == 1 else "them"} into {folder or cache}\n'
                        f'{"".join(others)}'
                        '(to try things out without: scripts/extract_regions.py --random_weights 1)')
    return found


def find_file(name, folder=None):
    """The path of the weights of one network, as `find_files` finds them."""
    return find_files([name], folder)[0]


def layout_of(path, name):
    """'torchvision' of a file that has torchvision's own name for the weights of a ResNet, which ends in a
    digest.  None of `<name>.pth`: weights of either layout are called so, and hold the same names and shapes."""
    return None if os.path.basename(path) == f'{name}.pth' else 'torchvision'


def random_mark(seed):
    """What a record says of random weights."""
    return f'{RANDOM} {seed}'


def file_mark(path):
    """What a record says of the weights in a file."""
    with open(path, 'rb') as file:
        return f'{DIGEST} {hashlib.file_digest(file, "sha256").hexdigest()[:24]}'


def file_of(mark, name, folder=None):
    """The path of the weights that a record marks so.  Raises `DataError` where the file that is found for
    the network `name` holds others."""
    path = find_file(name, folder)
    if file_mark(path) != mark:
        raise DataError(f'{path} does not hold the weights of {name} that the model\'s features come from '
                        f'({mark}); put those there, or name their folder with --cnn_weight_dir')
    return path


def random_network(build, seed, look):
    """The network of `build()` with random weights that tell pictures apart, the same for the same `seed`.

    `look(network, pictures)` shows it pictures: floats (n, 3, side, side) from 0 to 1.  Its batch
    normalisations get the statistics of what they then see (of made-up pictures, so that the seed alone
    decides); without them, values would grow from layer to layer.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build().eval()
        pictures = made_up_pictures()
    for module in network.modules():
        if isinstance(module, torchvision.models.resnet.Bottleneck):
            torch.nn.init.constant_(module.bn3.weight, BRANCH)
        elif isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None   # of all that is seen, the plain mean
            module.train()
    with torch.no_grad():
        look(network, pictures)
    return network.eval()


def made_up_pictures(count=12, side=128, leaves=60):
    """Pictures (count, 3, side, side) of leaves that lie over one another: ellipses of all sizes and
    colours, whose edges and plain surfaces are about as frequent as in photos."""
    rows, columns = torch.arange(side)[:, None], torch.arange(side)
    pictures = torch.rand(count, 3, 1, 1).repeat(1, 1, side, side)
    for picture in pictures:
        for _ in range(leaves):
            x, y, size, shape = torch.rand(4).tolist()
            radius, stretch = 2 + 0.4 * side * size ** 3, 0.5 + 1.5 * shape
            inside = ((columns - x * side) / stretch) ** 2 + ((rows - y * side) * stretch) ** 2 < radius ** 2
            picture[:, inside] = torch.rand(3, 1)
    return functional.hardtanh(pictures + 0.01 * torch.randn(pictures.shape), 0, 1)
