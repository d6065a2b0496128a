"""All readers of the project beside plain ones, for tests/stress/fuzz.py."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from misc.dataset import recipe
from misc.dataset.array_files import read_array, read_shape
from misc.dataset.grids import image_sizes
from misc.dataset.packed import packed_sizes
from misc.scoring import references
from scripts import prepro_ngrams
from tests.stress import command_readers as commands
from tests.stress import plain_formats as formats
from tests.stress import plain_readers as plain

HERE = Path()  # the folder of the samples


@dataclass
class Reader:
    """Two routes, `read` and `plain`, to the same plain value of the file `path` in the format `form` (see
    damage.py)."""

    path: str
    form: str
    read: Callable[[Path], Any]
    plain: Callable[[Path], Any]


def same(one: Any, other: Any) -> bool:
    """Whether two plain values are equal: arrays by shape and numbers, nan equal to nan, Namespaces as dicts."""
    one, other = (vars(value) if isinstance(value, argparse.Namespace) else value.detach().numpy()
                  if torch.is_tensor(value) else value for value in (one, other))
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(
            same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return isinstance(other, (list, tuple)) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        one, other = np.asarray(one), np.asarray(other)
        return one.shape == other.shape and np.array_equal(one, other, equal_nan=one.dtype.kind in 'fc')
    return one == other or isinstance(one, float) and isinstance(other, float) and one != one and other != other


def at(function: Callable[..., Any], *more: object) -> Callable[[Path], Any]:
    """`function` called with the path as a string."""
    return lambda path: function(str(path), *more)


def part(read: Callable[[Path], Any], name: str) -> Callable[[Path], Any]:
    """One entry of what `read` returns."""
    return lambda path: read(path)[name]


READERS = {
    'features npz': Reader('att/103.npz', 'npz', at(read_array), formats.npz),
    'shape of npz': Reader('att/103.npz', 'npz', at(read_shape), formats.npz_shape),
    'boxes npy': Reader('box/103.npy', 'npy', commands.boxes, plain.boxes),
    'grid vectors': Reader('vec/103.npy', 'npy', commands.grids, plain.grids),
    'packed features': Reader('packed.h5', 'hdf5', commands.packed_features,
                              lambda path: formats.packed(path, 'att')),
    'packed boxes': Reader('packed.h5', 'hdf5', commands.packed_boxes, lambda path: formats.packed(path, 'box')),
    'packed sizes': Reader('packed.h5', 'hdf5', at(packed_sizes), formats.packed_sizes),
    'compressed features': Reader('chunked.h5', 'hdf5', commands.packed_features,
                                  lambda path: formats.packed(path, 'att')),
    'labels': Reader('talk_label.h5', 'hdf5', commands.labels, formats.labels),
    'labels file': Reader('talk.json', 'json', commands.talk, plain.talk),
    'split file': Reader('split.json', 'json', commands.split_images, formats.split_images),
    'references': Reader('talk.json', 'json', at(references.load_references), plain.references),
    'annotations': Reader('coco.json', 'json', at(references.coco_references), plain.annotations),
    'names of pictures': Reader('coco.json', 'json', lambda path: references.image_files(None, str(path)),
                                plain.picture_names),
    'list of pictures': Reader('coco.json', 'json', commands.listed_pictures, plain.listed_pictures),
    'predictions': Reader('predictions.json', 'json', commands.predictions, plain.predictions),
    'results': Reader('results.json', 'json', commands.results_file, plain.results_file),
    'vocabulary': Reader('talk.json', 'json', at(prepro_ngrams.read_vocabulary), plain.vocabulary),
    'sizes': Reader('box_sizes.json', 'json', lambda path: image_sizes('box'), plain.sizes),
    'recipe of regions': Reader('mine_att_regions.json', 'json', lambda path: recipe.read_recipe('mine_att'),
                             formats.read_json),
    'own pictures': Reader('mine_images.json', 'json', commands.own_pictures, plain.own_pictures),
    'record of areas': Reader('made/vec_made.json', 'json', commands.areas_record, plain.record),
    'record of archive': Reader('made/bu_made.json', 'json', commands.archive_record, plain.record),
    'validations': Reader('run/validations.jsonl', 'json lines', commands.validations, plain.validations),
    'n-gram table': Reader('talk-idxs.p', 'pickle', commands.ngram_table, plain.ngram_table),
    'histories': Reader('run/histories_tiny.pkl', 'pickle', commands.history, plain.history),
    'infos to resume from': Reader('run/infos_tiny.pkl', 'pickle', part(commands.resumed, 'where'),
                                   plain.training_state),
    'infos to caption with': Reader('run/infos_tiny.pkl', 'pickle', commands.captioning_words, plain.words),
    'legacy infos': Reader('old/infos.pkl', 'pickle', commands.legacy_run, plain.legacy_run),
    'weights to resume from': Reader('run/model.pth', 'tensors', part(commands.resumed, 'weights'), formats.tensors),
    'weights to caption with': Reader('run/model.pth', 'tensors', commands.captioning_weights, formats.tensors),
    'legacy weights': Reader('old/model.pth', 'tensors', commands.legacy_run, plain.legacy_run),
    'weights in the old layout': Reader('legacy.pth', 'tensors', commands.old_layout, formats.tensors),
    'weights of a ResNet': Reader('resnet.pth', 'tensors', commands.resnet, plain.resnet),
    'moments': Reader('run/optimizer.pth', 'tensors', part(commands.resumed, 'moments'), plain.moments),
    'journal of a save': Reader('saved/replacing.json', 'json', commands.journal, lambda path: sorted(
        plain.words(HERE / 'run' / 'infos_tiny.pkl'))),
    'steps': Reader('run/steps.jsonl', 'json lines', commands.steps, plain.steps),
    'archive': Reader('archive/small.tsv', 'tsv', commands.archive, formats.archive),
    'jpeg': Reader('plain.jpg', 'picture', commands.picture, formats.picture),
    'png': Reader('plain.png', 'picture', commands.picture, formats.picture),
    'gif': Reader('palette.gif', 'picture', commands.picture, formats.picture),
    'webp': Reader('plain.webp', 'picture', commands.picture, formats.picture),
    'tiff': Reader('plain.tif', 'picture', commands.picture, formats.picture),
    'rotated jpeg': Reader('turned.jpg', 'picture', commands.upright_picture,
                           lambda path: formats.picture(path, True)),
    'size of a jpeg': Reader('plain.jpg', 'picture', commands.picture_size, plain.picture_size),
}
