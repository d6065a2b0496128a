"""Pictures -> regions on disk, in the format of make_bu_data.py: OUT_att/ID.npz, OUT_fc/ID.npy, OUT_box/ID.npy and
OUT_box_sizes.json; beside them the recipe (misc/dataset/recipe.py), OUT_att_regions.json."""

import contextlib
import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch

from misc.cli import DataError, Progress
from misc.dataset.array_files import SUFFIX, write_array
from misc.dataset.grids import image_sizes
from misc.dataset.recipe import networks_of, recipe_path
from misc.disk.files import write_json
from misc.pictures import cnn
from misc.pictures.finder import Finder, full_size
from misc.pictures.images import read_size, read_upright, shrunk
from misc.pictures.listing import PictureSource
from misc.prepare.broken import Broken
from misc.prepare.made import claimed, finished, save
from misc.prepare.outdated import made_at, outdated
from misc.prepare.workers import submit_ahead

KINDS = ('att', 'fc', 'box')
CHUNK = 256   # pictures whose sizes are written before the regions of the first of them are found
COMMAND = 'extract_regions.py'

Image = tuple[str, str]   # id, path
Item = TypeVar('Item')


class Extraction:
    """The regions that one recipe finds in pictures, and their folders.

    folders  {kind: path} of `KINDS`
    sizes    {id: (width, height)} of the pictures whose sizes are on disk
    """

    def __init__(self, base: str, recipe: Mapping[str, Any], broken: Broken) -> None:
        """base: the prefix of the folders' names; unreadable pictures go to `broken`."""
        self.base, self.recipe, self.broken = base, recipe, broken
        self.folders = {kind: f'{base}_{kind}' for kind in KINDS}
        self.sizes: dict[str, tuple[int, int]] = {}

    def run(self, pictures: PictureSource, device: torch.device, batch_size: int, threads: int,
            weight_folder: str | None = None) -> set[str]:
        """Find the regions of `pictures` that are not on disk yet; returns the ids of those that are in the end.

        weight_folder: see `recipes.new_recipe`.  Raises `UsageError` where the folders hold other regions.
        """
        paths = pictures.paths
        inputs = pictures.inputs(self.recipe['longest_side'])
        with claimed(self.base, COMMAND, self._claim(), inputs, list(self.folders.values())) as record:
            write_json(recipe_path(self.folders['att']), self.recipe, indent=1)
            with contextlib.suppress(DataError):   # a broken sizes file is written again
                self.sizes = {image_id: (int(width), int(height))
                              for image_id, (width, height) in image_sizes(self.folders['box']).items()}
            again = outdated(record, inputs, self.done(), made_at(self.folders['att'], SUFFIX['att']))
            for image_id in {*pictures.changed(), *again}:
                self._remove(image_id)
            save(self.base, record)
            pictures.save()
            done = self.done()
            with Progress(len(paths), 'regions', done=len(done & set(paths))) as display:
                if not done >= set(paths):
                    finder = Finder(self.recipe, device, weight_folder)
                    self._find(list(paths.items()), done, finder, batch_size, threads, display)
            done = self.done()
            self._write_sizes({image_id: size for image_id, size in self.sizes.items() if image_id in done})
        return done & set(paths)

    def done(self) -> set[str]:
        """The ids of the pictures whose arrays and size are on disk."""
        return set.intersection(set(self.sizes), *(finished(self.folders[kind], SUFFIX[kind]) for kind in KINDS))

    def _claim(self) -> dict[str, Any]:
        """The recipe by the names of the command's flags; weights count by their content, not by their folder."""
        networks = networks_of(self.recipe)
        marks = [network.weights for network in networks]
        if 'detector_weights' in self.recipe:
            marks.append(self.recipe['detector_weights'])
        claim = {name: value for name, value in self.recipe.items()
                 if name != 'networks' and not name.endswith('weights')}
        layouts, sizes = ([getattr(network, name) for network in networks if getattr(network, name)]
                          for name in ('layout', 'input_size'))
        if layouts:
            claim['cnn_layout'] = layouts[0]
        if sizes:
            claim['input_size'] = '+'.join(map(str, sizes))
        return {**claim, 'cnn_weight_dir': ', '.join(marks)}

    def _remove(self, image_id: str) -> None:
        """Remove the regions of an earlier picture with this id."""
        for kind in reversed(KINDS):   # the box file first: without it the others count as missing
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self.folders[kind], f'{image_id}{SUFFIX[kind]}'))

    def _write_sizes(self, sizes: dict[str, tuple[int, int]]) -> None:
        self.sizes = sizes
        write_json(f'{self.folders["box"]}_sizes.json', sizes)

    def _find(self, images: Sequence[Image], done: set[str], finder: Finder, batch_size: int, threads: int,
              display: Progress) -> None:
        """Find the regions of `images` except those `done`: while the device works on one batch, threads read the
        next pictures and compress the regions before."""
        pool = ThreadPoolExecutor(threads)
        writing: deque[Future] = deque()
        try:
            for start in range(0, len(images), CHUNK):
                batches = self._batches(images[start:start + CHUNK], done, batch_size, display)
                read = submit_ahead(lambda image: read_upright(image[1], self.recipe['longest_side']),
                                    itertools.chain.from_iterable(batches), pool, threads + 1)
                for batch in batches:
                    for image_id, boxes, features in self._regions(itertools.islice(read, len(batch)), done, finder):
                        writing.append(pool.submit(self._write, image_id, boxes, features))
                    while len(writing) > 2 * batch_size:
                        writing.popleft().result()
                    display.update(sum(image_id not in done for image_id, _ in batch))
            for future in writing:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _batches(self, images: Sequence[Image], done: set[str], batch_size: int,
                 display: Progress) -> list[list[Image]]:
        """The batches of `images` in which any regions are missing; writes the sizes of their pictures.

        The other pictures of a batch affect the last bits of a picture's features.  So batches are formed of all
        pictures, also those `done`, and features do not depend on where an earlier run stopped.
        """
        sized = []
        for image_id, path in images:
            try:
                if image_id not in done:
                    self.sizes[image_id] = read_size(path, upright=True)
                sized.append((image_id, path))
            except DataError as error:
                self.broken.add(error)
                display.update()
        # Before the first boxes: boxes without a size beside them would be scaled wrongly by later commands.
        self._write_sizes(self.sizes)
        shapes = [shrunk(self.sizes[image_id], self.recipe['longest_side']) for image_id, _ in sized]
        return [batch for batch in batches_of_one_shape(sized, shapes, batch_size)
                if not all(image_id in done for image_id, _ in batch)]

    def _regions(self, read: Iterable[tuple[Image, Future]], done: set[str],
                 finder: Finder) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Yield (id, boxes, features) of a batch, except for pictures that are `done` or where nothing is found.

        read: each picture and the future of `read_upright` of it.
        """
        by_shape: dict[tuple[int, ...], tuple[list[Image], list[np.ndarray]]] = {}
        for image, result in read:
            try:
                pixels = result.result()[0]
            except DataError as error:
                if image[0] not in done:
                    self.broken.add(error)
                continue
            # All have one shape, unless a file was replaced after its size was read.
            images, pictures = by_shape.setdefault(pixels.shape, ([], []))
            images.append(image)
            pictures.append(pixels)
        for images, pictures in by_shape.values():
            for image, regions in zip(images, self._found(finder, images, pictures)):
                if regions is not None and image[0] not in done:
                    yield image[0], *regions

    def _found(self, finder: Finder, images: Sequence[Image],
               pictures: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray] | None]:
        """(boxes, features) of each of `pictures`, boxes in the pixels of the file; None where nothing is found."""
        try:
            found, reason = finder(np.stack(pictures)), ''
        except cnn.TooSmall as error:
            found, reason = None, str(error)
        except torch.OutOfMemoryError:
            found, reason = None, "it does not fit into the device's memory"
        # Retried out here, since the exception being handled would keep the batch's memory alive.
        if found is None and len(images) > 1:
            return [self._found(finder, [image], [picture])[0] for image, picture in zip(images, pictures)]
        if found is None:
            self.broken.add(f'{images[0][1]}: {reason}')
            return [None]
        return [self._scaled(image, picture, *regions)
                for image, picture, regions in zip(images, pictures, found)]

    def _scaled(self, image: Image, picture: np.ndarray, boxes: np.ndarray,
                features: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """(boxes, features) of a picture, boxes in the pixels of the file; None where they are not finite."""
        image_id, path = image
        if not (np.isfinite(features).all() and np.isfinite(boxes).all()):
            self.broken.add(f'{path}: its features are not finite')
            return None
        return full_size(boxes, picture, self.sizes[image_id]), features

    def _write(self, image_id: str, boxes: np.ndarray, features: np.ndarray) -> None:
        # The box file comes last: where it is, the others are.
        write_array(self.folders['att'], image_id, 'att', features)
        write_array(self.folders['fc'], image_id, 'fc', features.mean(axis=0))
        write_array(self.folders['box'], image_id, 'box', boxes.astype(np.float32))


def batches_of_one_shape(items: Iterable[Item], shapes: Iterable[tuple[int, int]],
                         batch_size: int) -> Iterator[list[Item]]:
    """Yield lists of up to `batch_size` of `items` whose `shapes` are equal.

    Pictures are never padded to share a batch: padding would change what convolutions see at their edges.
    """
    waiting: dict[tuple[int, int], list[Item]] = {}
    for item, shape in zip(items, shapes):
        waiting.setdefault(shape, []).append(item)
        if len(waiting[shape]) == batch_size:
            yield waiting.pop(shape)
    yield from waiting.values()
