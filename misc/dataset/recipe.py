"""How the regions of features were found: told beside the features, and in what is trained on them.

The way regions are found is a plain dict.  `scripts/extract_regions.py` writes it beside the features, as
`OUT_att_regions.json`; train.py copies it into the infos file; `eval.py --image_folder` finds the regions of
other pictures in the same way.

===================  ==================================================================================
`detector`           'grid' (the cells of a grid) or 'fasterrcnn' (boxes that a detector proposes)
`grid_size`          of 'grid': cells each way
`min_regions`, `max_regions`, `min_confidence`   of 'fasterrcnn': boxes of a confidence above, the surest first,
                     at least and at most so many
`detector_weights`   of 'fasterrcnn': which weights the detector has
`longest_side`       pixels; larger pictures are shrunk to it before they are looked at
`cnn_model`, `cnn_layout`, `cnn_weights`   of the ResNet: its name, where it strides, which weights it has
===================  ==================================================================================

Which weights: 'sha256 ' and a digest of their file, or 'random ' and a seed.
"""

import os

from misc import commands
from misc.cli import DataError
from misc.disk.files import read_json

DETECTORS = ('grid', 'fasterrcnn')
MODELS = ('resnet101', 'resnet152')
LAYOUTS = ('caffe', 'torchvision')
DETECTOR = 'fasterrcnn_resnet50_fpn_v2'   # as torchvision calls it
FEATURES = 2048                           # numbers of a region
DEFAULTS = {'grid_size': 7, 'min_regions': 10, 'max_regions': 100, 'min_confidence': 0.2, 'longest_side': 640}
SETTINGS = {'grid': ('grid_size', 'longest_side'),
            'fasterrcnn': ('min_regions', 'max_regions', 'min_confidence', 'longest_side')}
# What the settings may be: least and most.
RANGES = {'grid_size': (1, 64), 'min_regions': (1, 1000), 'max_regions': (1, 1000), 'min_confidence': (0, 1),
          'longest_side': (32, 10000)}
RANDOM, DIGEST = 'random', 'sha256'



def way_path(features):
    """Where the way lies that the regions of a folder (or packed file) of features were found in."""
    base = os.fspath(features).rstrip('/')
    if os.path.isfile(base):
        base = os.path.splitext(base)[0]
    elif base.endswith('_fc'):
        base = f'{base[:-3]}_att'
    return f'{base}_regions.json'


def recorded_way(features):
    """The way that the regions of a folder (or packed file) of features were found in; None where that is
    not on record, as for the bottom-up-attention archive's.  Raises `DataError`."""
    path = way_path(features)
    return checked_way(read_json(path, commands.REGIONS), path) if os.path.exists(path) else None


def checked_way(way, where):
    """`way`, if it is one; `where` names its place in the `DataError` that is raised otherwise."""
    detector = way.get('detector') if isinstance(way, dict) else None
    numbers = SETTINGS.get(detector, ()) if isinstance(detector, str) else ()
    marks = ('cnn_weights', 'detector_weights')[:1 + (detector == 'fasterrcnn')]
    if not (numbers and all(type(way.get(name)) in (int, float)
                            and RANGES[name][0] <= way[name] <= RANGES[name][1]
                            and (name == 'min_confidence' or way[name] == int(way[name])) for name in numbers)
            and way.get('min_regions', 0) <= way.get('max_regions', 1000)
            and way.get('cnn_model') in MODELS and way.get('cnn_layout') in LAYOUTS
            and all(is_mark(way.get(mark)) for mark in marks)):
        raise DataError(f'{where} does not say how regions were found, or says what cannot be; make it again '
                        'with:\n'
                        f'{commands.REGIONS}')
    return way


def is_mark(mark):
    """Whether `mark` says which weights there are."""
    kind, _, value = mark.partition(' ') if isinstance(mark, str) else (None, None, '')
    return kind == DIGEST or kind == RANDOM and value.isascii() and value.isdigit() and len(value) < 19


def told(way):
    """A way in a few words."""
    how = (f'{way["grid_size"]} x {way["grid_size"]} cells' if way['detector'] == 'grid' else
           f'{way["min_regions"]:g} to {way["max_regions"]:g} boxes of {DETECTOR}')
    marks = [way[name] for name in ('detector_weights', 'cnn_weights') if name in way]
    seeds = [seed for seed in map(seed_of, marks) if seed is not None]
    return (f'{how}, features of {way["cnn_model"]} in the layout of {way["cnn_layout"]}'
            + (f', RANDOM weights (seed {seeds[0]})' if seeds else ''))


def seed_of(mark):
    """The seed of random weights, by what is said of them; None of weights in a file."""
    kind, _, value = mark.partition(' ')
    return int(value) if kind == RANDOM else None
