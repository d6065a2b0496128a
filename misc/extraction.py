"""Pictures -> regions on disk, in the form of make_bu_data.py: OUT_att/ID.npz, OUT_fc/ID.npy, OUT_box/ID.npy,
OUT_box_sizes.json; and beside them how the regions were found (misc/provenance.py), OUT_att_regions.json."""

import contextlib
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from misc.cli import DataError, Progress
from misc.features import SUFFIX, write_array
from misc.files import write_json
from misc.grids import image_sizes
from misc.images import read_size, read_upright
from misc.made import claimed, finished
from misc.provenance import way_path
from misc.regions import Finder
from misc.workers import ahead

KINDS = ('att', 'fc', 'box')
BATCH = 256   # pictures whose sizes are on disk before the first of them is looked at
COMMAND = 'extract_regions.py'


class Extraction:
    """The regions of pictures, found in one way, under one beginning of names."""

    def __init__(self, base, way, broken):
        """base: what the names of folders begin with; way: as of misc/provenance.py; unreadable pictures go to
        `broken`."""
        self.base, self.way, self.broken = base, way, broken
        self.folders = {kind: f'{base}_{kind}' for kind in KINDS}
        self.sizes = {}   # id: (width, height), of those on disk

    def run(self, pictures, device, batch_size, threads, weight_folder=None):
        """Find the regions of `pictures` (an `OwnPictures` or `ListedPictures`) that are not there yet; the ids
        (as strings) whose regions are there in the end.  Raises `UsageError` where other regions are there."""
        paths = pictures.paths
        inputs = pictures.inputs(self.way['longest_side'])
        with claimed(self.base, COMMAND, self._claim(), inputs, list(self.folders.values())):
            write_json(way_path(self.folders['att']), self.way, indent=1)
            with contextlib.suppress(DataError):   # a broken sizes file is made anew
                self.sizes = {image_id: tuple(map(int, size))
                              for image_id, size in image_sizes(self.folders['box']).items()}
            for image_id in pictures.changed:
                self._forget(image_id)
            pictures.save()
            done = self.done()
            todo = [(image_id, path) for image_id, path in paths.items() if image_id not in done]
            with Progress(len(paths), 'regions', done=len(paths) - len(todo)) as display:
                if todo:
                    self._find(todo, Finder(self.way, device, weight_folder), batch_size, threads, display)
            there = self.done()
            self._write_sizes({image_id: size for image_id, size in self.sizes.items() if image_id in there})
        return there & set(paths)

    def _claim(self):
        """The way by the flags that it was given with: of weights it is their content that counts."""
        marks = ', '.join(self.way[name] for name in ('cnn_weights', 'detector_weights') if name in self.way)
        return {**{name: value for name, value in self.way.items() if not name.endswith('weights')},
                'cnn_weight_dir': marks}

    def _forget(self, image_id):
        """Remove what was found in an earlier picture of that number."""
        for kind in reversed(KINDS):   # the box file counts, so it goes first
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self.folders[kind], f'{image_id}{SUFFIX[kind]}'))

    def done(self):
        """The ids (as strings) whose arrays and size are there."""
        return set.intersection(set(self.sizes), *(finished(self.folders[kind], SUFFIX[kind]) for kind in KINDS))

    def _write_sizes(self, sizes):
        self.sizes = sizes
        write_json(f'{self.folders["box"]}_sizes.json', sizes)

    def _find(self, todo, finder, batch_size, threads, display):
        """Find the regions of `todo`, [(id, path)]: one batch is looked at while threads read the next
        pictures and pack the regions before."""
        pool, writing = ThreadPoolExecutor(threads), deque()
        try:
            for start in range(0, len(todo), BATCH):
                some = self._sized(todo[start:start + BATCH], display)
                read = ahead(lambda image: read_upright(image[1], finder.way['longest_side']), some, pool,
                             threads + 1)
                for images, pictures in same_sizes(self._readable(read, display), batch_size):
                    for image, regions in zip(images, self._regions(finder, images, pictures)):
                        if regions is not None:
                            writing.append(pool.submit(self._write, image[0], *regions))
                    while len(writing) > 2 * batch_size:
                        writing.popleft().result()
                    display.update(len(images))
            for future in writing:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _sized(self, images, display):
        """Those of `images`, [(id, path)], whose size can be read; the sizes are on disk then."""
        good = []
        for image_id, path in images:
            try:
                self.sizes[image_id] = read_size(path, upright=True)
                good.append((image_id, path))
            except DataError as error:
                self.broken.add(error)
                display.update()
        # Before the first boxes: without a size beside them they would be measured wrongly.
        self._write_sizes(self.sizes)
        return good

    def _readable(self, read, display):
        """Yield ((id, path), pixels) of the pictures that can be read."""
        for image, result in read:
            try:
                yield image, result.result()[0]
            except DataError as error:
                self.broken.add(error)
                display.update()

    def _regions(self, finder, images, pictures):
        """What `finder` finds in each of `pictures`, scaled to the pixels of the file, or None where nothing
        can be found."""
        try:
            found = finder(np.stack(pictures))
        except (torch.OutOfMemoryError, ValueError) as error:
            if len(images) > 1:   # one by one
                return [self._regions(finder, [image], [picture])[0] for image, picture in zip(images, pictures)]
            reason = "it does not fit into the device's memory" if isinstance(error, RuntimeError) else error
            self.broken.add(f'{images[0][1]}: {reason}')
            return [None]
        return [self._checked(image, picture, *regions)
                for image, picture, regions in zip(images, pictures, found)]

    def _checked(self, image, picture, boxes, features):
        """(boxes, features) of a picture, boxes in the pixels of the file; None where they are not finite."""
        (image_id, path), (height, width) = image, picture.shape[:2]
        if not (np.isfinite(features).all() and np.isfinite(boxes).all()):
            self.broken.add(f'{path}: its features are not finite')
            return None
        size = np.array(self.sizes[image_id] * 2, dtype=np.float64)
        return boxes * (size / (width, height, width, height)), features

    def _write(self, image_id, boxes, features):
        # The box file comes last: where it is, the others are.
        write_array(self.folders['att'], image_id, 'att', features)
        write_array(self.folders['fc'], image_id, 'fc', features.mean(axis=0))
        write_array(self.folders['box'], image_id, 'box', boxes.astype(np.float32))


def same_sizes(pictures, batch_size):
    """Yield (items, pixels), lists of up to `batch_size` pictures of one size, of ((item, pixels), ...).

    Convolutions see what lies beside a picture, so pictures are never padded to share a batch.  No more
    than four batches are held back at a time.
    """
    waiting, held = {}, 0
    for item, pixels in pictures:
        batch = waiting.setdefault(pixels.shape, ([], []))
        batch[0].append(item)
        batch[1].append(pixels)
        held += 1
        if len(batch[0]) == batch_size or held > 4 * batch_size:
            fullest = max(waiting, key=lambda shape: len(waiting[shape][0]))
            held -= len(waiting[fullest][0])
            yield waiting.pop(fullest)
    yield from waiting.values()
