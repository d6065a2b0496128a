"""Pictures -> regions on disk, in the form of make_bu_data.py: OUT_att/ID.npz, OUT_fc/ID.npy, OUT_box/ID.npy,
OUT_box_sizes.json; and beside them how the regions were found (misc/dataset/recipe.py), OUT_att_regions.json."""

import contextlib
import itertools
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from misc.cli import DataError, Progress
from misc.dataset.features import SUFFIX, write_array
from misc.dataset.grids import image_sizes
from misc.dataset.recipe import recipe_path
from misc.disk.files import write_json
from misc.pictures import cnn
from misc.pictures.finder import Finder
from misc.pictures.images import read_size, read_upright, shrunk
from misc.prepare.made import claimed, finished
from misc.prepare.workers import ahead

KINDS = ('att', 'fc', 'box')
BATCH = 256   # pictures whose sizes are on disk before the first of them is looked at
COMMAND = 'extract_regions.py'


class Extraction:
    """The regions of pictures, found in one way, under one beginning of names."""

    def __init__(self, base, recipe, broken):
        """base: what the names of folders begin with; way: as of misc/dataset/recipe.py; unreadable pictures go to
        `broken`."""
        self.base, self.recipe, self.broken = base, recipe, broken
        self.folders = {kind: f'{base}_{kind}' for kind in KINDS}
        self.sizes = {}   # id: (width, height), of those on disk

    def run(self, pictures, device, batch_size, threads, weight_folder=None):
        """Find the regions of `pictures` (an `OwnPictures` or `ListedPictures`) that are not there yet; the ids
        (as strings) whose regions are there in the end.  Raises `UsageError` where other regions are there."""
        paths = pictures.paths
        inputs = pictures.inputs(self.recipe['longest_side'])
        with claimed(self.base, COMMAND, self._claim(), inputs, list(self.folders.values())):
            write_json(recipe_path(self.folders['att']), self.recipe, indent=1)
            with contextlib.suppress(DataError):   # a broken sizes file is made anew
                self.sizes = {image_id: tuple(map(int, size))
                              for image_id, size in image_sizes(self.folders['box']).items()}
            for image_id in pictures.changed():
                self._forget(image_id)
            pictures.save()
            done = self.done()
            with Progress(len(paths), 'regions', done=len(done & set(paths))) as display:
                if not done >= set(paths):
                    finder = Finder(self.recipe, device, weight_folder)
                    self._find(list(paths.items()), done, finder, batch_size, threads, display)
            there = self.done()
            self._write_sizes({image_id: size for image_id, size in self.sizes.items() if image_id in there})
        return there & set(paths)

    def _claim(self):
        """The way by the flags that it was given with: of weights it is their content that counts."""
        marks = ', '.join(self.recipe[name] for name in ('cnn_weights', 'detector_weights') if name in self.recipe)
        return {**{name: value for name, value in self.recipe.items() if not name.endswith('weights')},
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

    def _find(self, images, done, finder, batch_size, threads, display):
        """Find the regions of `images`, [(id, path)], but for those `done`: one batch is looked at while threads
        read the next pictures and pack the regions before."""
        pool, writing = ThreadPoolExecutor(threads), deque()
        try:
            for start in range(0, len(images), BATCH):
                batches = self._batches(images[start:start + BATCH], done, batch_size, display)
                read = ahead(lambda image: read_upright(image[1], finder.recipe['longest_side']),
                             itertools.chain.from_iterable(batches), pool, threads + 1)
                for batch in batches:
                    for some, pictures in self._readable(itertools.islice(read, len(batch)), done):
                        for image, regions in zip(some, self._regions(finder, some, pictures)):
                            if regions is not None and image[0] not in done:
                                writing.append(pool.submit(self._write, image[0], *regions))
                    while len(writing) > 2 * batch_size:
                        writing.popleft().result()
                    display.update(sum(image_id not in done for image_id, _ in batch))
            for future in writing:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _batches(self, images, done, batch_size, display):
        """The batches that have to be looked at for the regions of `images`, lists of [(id, path)]; the sizes of
        their pictures are on disk then.

        What shares a batch with a picture shows in the last bits of its features, so batches are those of all
        the pictures, also where some are `done`: they do not tell where an earlier run stopped.
        """
        there = []
        for image_id, path in images:
            try:
                if image_id not in done:
                    self.sizes[image_id] = read_size(path, upright=True)
                there.append((image_id, path))
            except DataError as error:
                self.broken.add(error)
                display.update()
        # Before the first boxes: without a size beside them they would be measured wrongly.
        self._write_sizes(self.sizes)
        shapes = [shrunk(self.sizes[image_id], self.recipe['longest_side']) for image_id, _ in there]
        return [batch for batch in alike(there, shapes, batch_size)
                if not all(image_id in done for image_id, _ in batch)]

    def _readable(self, read, done):
        """The pictures that could be read, by their shapes: [([(id, path)], [pixels])], one pair of lists but
        where a file was replaced in between."""
        found = {}
        for image, result in read:
            try:
                pixels = result.result()[0]
            except DataError as error:
                if image[0] not in done:
                    self.broken.add(error)
                continue
            images, pictures = found.setdefault(pixels.shape, ([], []))
            images.append(image)
            pictures.append(pixels)
        return list(found.values())

    def _regions(self, finder, images, pictures):
        """What `finder` finds in each of `pictures`, scaled to the pixels of the file, or None where nothing
        can be found."""
        try:
            found, reason = finder(np.stack(pictures)), ''
        except cnn.TooSmall as error:
            found, reason = None, str(error)
        except torch.OutOfMemoryError:
            found, reason = None, "it does not fit into the device's memory"
        # After the error, not while it is handled: it holds what the batch left in memory.
        if found is None and len(images) > 1:
            return [self._regions(finder, [image], [picture])[0] for image, picture in zip(images, pictures)]
        if found is None:
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


def alike(items, shapes, batch_size):
    """Yield lists of up to `batch_size` of `items` whose `shapes` are equal.

    Convolutions see what lies beside a picture, so pictures are never padded to share a batch.
    """
    waiting = {}
    for item, shape in zip(items, shapes):
        waiting.setdefault(shape, []).append(item)
        if len(waiting[shape]) == batch_size:
            yield waiting.pop(shape)
    yield from waiting.values()
