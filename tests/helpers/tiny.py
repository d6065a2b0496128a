"""A tiny data set in the project's file formats, flags for it, and programs run in this process."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import h5py
import numpy as np

WORDS = ['a', 'red', 'blue', 'dog', 'cat', 'left', 'right', 'of', 'UNK']
SPLITS = ['train'] * 7 + ['restval'] * 2 + ['val'] * 3 + ['test'] * 4
SIZE, SIDE = 12, 3  # of features, and of the grid
Flags = list[Any]  # words of a command line: strings, numbers, paths


def write_corpus(root: Path, seed: int = 0) -> Path:
    """Write labels, features, mean features, boxes and grid vectors of 16 images under `root`; returns `root`."""
    from misc.dataset.array_files import write_array
    from misc.dataset.grids import grid_vectors
    from misc.disk import pickles
    random = np.random.default_rng(seed)
    images, labels, start, end = [], [], [], []
    for name in ('att', 'fc', 'box', 'vec', 'rel'):
        (root / name).mkdir(parents=True)
    sizes = {}
    for row, split in enumerate(SPLITS):
        image_id, regions = 100 + row, int(random.integers(2, 6))
        rows = [[int(word) for word in random.integers(1, 9, random.integers(2, 6))] for _ in range(5)]
        folder = 'train2014' if split == 'train' else 'val2014'
        images.append({'id': image_id, 'split': split, 'file_path': f'{folder}/{image_id}.jpg',
                       'captions': [' '.join(WORDS[word - 1] for word in words) for words in rows]})
        start.append(len(labels) + 1)
        labels += [words + [0] * (6 - len(words)) for words in rows]
        end.append(len(labels))
        width, height = sizes[str(image_id)] = (int(random.integers(40, 60)), int(random.integers(30, 50)))
        corners = np.sort(random.random((regions, 2, 2)), axis=1)
        boxes = (corners * [width, height]).reshape(regions, 4).astype(np.float32)
        features = random.random((regions, SIZE), np.float32)
        write_array(root / 'att', image_id, 'att', features)
        write_array(root / 'fc', image_id, 'fc', features.mean(0))
        write_array(root / 'box', image_id, 'box', boxes)
        write_array(root / 'rel', image_id, 'box', corners.reshape(regions, 4).astype(np.float32))
        write_array(root / 'vec', image_id, 'grid', grid_vectors(boxes, width, height, SIDE))
    pickles.dump(str(root / 'talk-idxs.p'), frequencies(images, labels, start, end))
    (root / 'box_sizes.json').write_text(json.dumps(sizes))
    (root / 'talk.json').write_text(json.dumps(
        {'ix_to_word': {str(i + 1): word for i, word in enumerate(WORDS)}, 'images': images}))
    with h5py.File(root / 'talk_label.h5', 'w') as file:
        file['labels'] = np.array(labels, dtype=np.uint32)
        file['label_start_ix'], file['label_end_ix'] = np.uint32(start), np.uint32(end)
        file['label_length'] = (np.array(labels) > 0).sum(1).astype(np.uint32)
    return root


def frequencies(images: list[dict[str, Any]], labels: list[list[int]], start: list[int],
                end: list[int]) -> dict[str, Any]:
    """The n-gram table of the training images, as prepro_ngrams.py writes it."""
    table, chosen = {}, 0
    for image, first, last in zip(images, start, end):
        if image['split'] in ('train', 'restval'):
            chosen += 1
            ngrams = set()
            for row in labels[first - 1:last]:
                words = [str(word) for word in row[:row.index(0) + 1]]
                ngrams |= {tuple(words[i:i + n]) for n in (1, 2, 3, 4) for i in range(len(words) - n + 1)}
            for ngram in ngrams:
                table[ngram] = table.get(ngram, 0) + 1
    return {'document_frequency': table, 'ref_len': chosen}


def data_flags(root: Path) -> Flags:
    """The flags that name the files of the corpus."""
    return ['--input_json', root / 'talk.json', '--input_label_h5', root / 'talk_label.h5',
            '--input_img_feat_dir', root / 'att', '--input_grid_vec_dir', root / 'vec']


MODEL_FLAGS = ['--img_feat_size', SIZE, '--num_grids', SIDE ** 2, '--num_layers', 1,
               '--input_encoding_size', 16, '--ff_size', 24, '--heads', 2]
RECURRENT_FLAGS = ['--hidden_size', 20, '--att_hid_size', 12]  # further flags of recurrent models


def train_flags(root: Path, folder: Path | str, *more: object) -> Flags:
    """The flags that train a tiny model on the corpus into `folder`; `more` flags override them.

    There is one validation, at the end: tests that look at something else are quicker so.
    """
    return [*data_flags(root), *MODEL_FLAGS, '--id', 'tiny', '--checkpoint_path', folder,
            '--batch_size', 4, '--max_epochs', 2, '--num_workers', 0, '--device', 'cpu',
            '--losses_log_every', 1, '--perform_validation_every', 2500, *more]


def eval_flags(root: Path, folder: Path, *more: object) -> Flags:
    """The flags that evaluate that run."""
    return ['--model', folder / 'model.pth', '--infos_path', folder / 'infos_tiny.pkl',
            *data_flags(root), '--num_workers', 0, '--device', 'cpu', *more]


def run(module: ModuleType, arguments: Flags) -> Any:
    """Call `module.main()` with `arguments` on its command line; returns what it returns."""
    with mock.patch.object(sys, 'argv', [module.__name__ + '.py', *map(str, arguments)]):
        return module.main()
