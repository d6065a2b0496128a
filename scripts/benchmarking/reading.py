"""The workload of the benchmark that reads features, and grid vectors of regions."""

import os
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from misc.dataset.array_files import write_array
from misc.dataset.features import open_reader
from misc.dataset.grids import checked_boxes, grid_vectors
from misc.dataset.packing import write_packed
from scripts.benchmarking.made_up import Sizes, made_up_batch, model_options, region_counts
from scripts.benchmarking.workload import Workload


class Reading(Workload):
    """Reading the features of random images from a packed file; plain: from a compressed .npz file per image.

    Features are zero or positive, half of them zero, and all in the page cache.  The side `places` gets
    the grid vectors of the same images in every possible way -> the seconds of each way for an image.
    """

    sides = ('project', 'plain', 'places')
    warm = sides
    # A round over the packed file or the vectors takes so little time that a run makes several.
    rounds = {'project': 20, 'plain': 1, 'places': 5}
    ways = 'computing', 'packed_boxes', 'packed_vectors', 'stored_boxes', 'stored_vectors'

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        super().__init__(sizes, device)
        self.folder = tempfile.TemporaryDirectory(prefix='reading-')
        options = model_options(self.sizes)
        counts = region_counts(self.sizes.read_images, self.sizes)
        batch: Any = made_up_batch(counts, self.sizes, options, seed=6)
        features = batch.features.numpy()
        random = np.random.default_rng(6)
        self.order = random.permutation(len(counts)).tolist()
        self.side = round(options.num_grids ** 0.5)
        arrays: dict[str, dict[str, np.ndarray]] = {'att': {}, 'box': {}, 'grid': {}}
        for i, rows in enumerate(np.split(features, np.cumsum(counts)[:-1])):
            boxes = np.sort(random.random((len(rows), 2, 2)), axis=1).reshape(-1, 4) * [640, 480, 640, 480]
            arrays['att'][str(i)], arrays['box'][str(i)] = rows, boxes.astype(np.float32)
            arrays['grid'][str(i)] = self.computed(arrays['box'][str(i)])
        self.sources = {}
        for kind, by_id in arrays.items():
            os.mkdir(self.path(kind))
            for image_id, array in by_id.items():
                write_array(self.path(kind), image_id, kind, array)
        write_packed(self.path('packed.h5'), arrays)
        for kind in arrays:
            self.sources['stored', kind] = open_reader(self.path(kind), kind, '')
            self.sources['packed', kind] = open_reader(self.path('packed.h5'), kind, '')
        self.facts.update(images=len(counts), bytes=features.nbytes, stored=sum(
            os.path.getsize(self.sources['stored', 'att'].where(i)) for i in self.order))
        self.shares.update(self.rounds)

    def path(self, name: str) -> str:
        """The path of a temporary file."""
        return os.path.join(self.folder.name, name)

    def close(self) -> None:
        self.folder.cleanup()

    def computed(self, boxes: np.ndarray) -> np.ndarray:
        """The grid vectors of an image's boxes."""
        return grid_vectors(checked_boxes(boxes, 'boxes'), 640, 480, self.side)

    def project(self) -> dict[str, float]:
        for _ in range(self.rounds['project']):
            for i in self.order:
                self.sources['packed', 'att'].read(i)
        return {}

    def plain(self) -> dict[str, float]:
        for i in self.order:
            self.plain_features(i)
        return {}

    def plain_features(self, i: int) -> np.ndarray:
        """The features of image i, read without the project's code."""
        with np.load(self.sources['stored', 'att'].where(i)) as archive:
            return archive['feat']

    def places(self) -> dict[str, float]:
        sources = self.sources
        boxes = {i: sources['packed', 'box'].read(i) for i in self.order}
        ways = (lambda i: self.computed(boxes[i]),
                lambda i: self.computed(sources['packed', 'box'].read(i)), sources['packed', 'grid'].read,
                lambda i: self.computed(sources['stored', 'box'].read(i)), sources['stored', 'grid'].read)
        seconds = dict.fromkeys(self.ways, 0.0)
        for _ in range(self.rounds['places']):
            # In turns, so that other work on the machine affects all ways alike.
            for name, way in zip(self.ways, ways):
                start = self.clock()
                for i in self.order:
                    way(i)
                seconds[name] += self.clock() - start
        return {name: total / self.rounds['places'] / len(self.order) for name, total in seconds.items()}

    def result(self, side: str) -> list:
        read = self.plain_features if side == 'plain' else self.sources['packed', 'att'].read
        return [float(read(i).sum(dtype=np.float64)) for i in range(len(self.order))]

    def clock(self) -> float:
        return time.process_time()  # nothing here waits for a disk

    @staticmethod
    def notes(found: dict[str, Any]) -> Iterator[str]:
        images, places = found['images'], found['places']
        each = {side: found[side]['seconds'] / images for side in ('project', 'plain')}
        yield (f'{images} images, {found["bytes"] / 1e6:.0f} MB, as .npz files '
               f'{found["stored"] / found["bytes"]:.0%} of that; {each["project"] * 1e6:.0f} microseconds an image '
               f'({found["bytes"] / found["project"]["seconds"] / 1e9:.1f} GB a second), from .npz '
               f'{each["plain"] * 1e6:.0f}')
        yield ('grid vectors of an image, microseconds: {computing:.0f} to compute; {packed_boxes:.0f} (packed) or '
               '{stored_boxes:.0f} (.npy) to read boxes and compute; {packed_vectors:.0f} or {stored_vectors:.0f} '
               'to read stored vectors'.format(**{name: places[name] * 1e6 for name in Reading.ways}))
