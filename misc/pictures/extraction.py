"""Pictures -> regions on disk, in the format of make_bu_data.py: OUT_att/ID.npz, OUT_fc/ID.npy, OUT_box/ID.npy and
OUT_box_sizes.json; beside them the recipe (misc/dataset/recipe.py), OUT_att_regions.json."""

import contextlib
import itertools
import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch

from misc import parallel
from misc.cli import DataError, Progress
from misc.dataset.array_files import SUFFIX, write_array
from misc.dataset.grids import image_sizes
from misc.dataset.recipe import networks_of, recipe_path
from misc.disk.files import write_json
from misc.pictures import cnn
from misc.pictures.extractor import open_finder
from misc.pictures.finder import Finder, full_size
from misc.pictures.images import read_size, read_upright, shrunk
from misc.pictures.listing import PictureSource
from misc.prepare.broken import Broken
from misc.prepare.made import claimed, finished, save
from misc.prepare.outdated import made_at, outdated
from misc.prepare.workers import submit_ahead

KINDS = ('att', 'fc', 'box')
CHUNK = 256   # pictures of which those of one shape share batches
COMMAND = 'extract_regions.py'

Image = tuple[str, str]   # id, path
Item = TypeVar('Item')


class Extraction:
    """The regions that one recipe finds in pictures, and their folders.

    With several processes each holds one; they share the pictures, and write what one would write.

    folders  {kind: path} of `KINDS`
    sizes    {id: (width, height)} of the pictures whose sizes are on disk
    """

    def __init__(self, base: str, recipe: Mapping[str, Any], broken: Broken, extractor: str | None = None) -> None:
        """base: the prefix of the folders' names; unreadable pictures go to `broken`, that of the main process;
        extractor: the user's own file, for a recipe of one."""
        self.base, self.recipe, self.extractor = base, recipe, extractor
        self.broken = broken if parallel.is_main() else Broken()   # which hands its messages over
        self.folders = {kind: f'{base}_{kind}' for kind in KINDS}
        self.sizes: dict[str, tuple[int, int]] = {}

    def run(self, pictures: PictureSource, device: torch.device, batch_size: int, threads: int,
            weight_folder: str | None = None) -> set[str]:
        """Find the regions of `pictures` that are not on disk yet; returns the ids of those that are in the end.

        weight_folder: see `recipes.new_recipe`.  Raises `UsageError` where the folders hold other regions.
        """
        images = list(pictures.paths.items())
        with contextlib.ExitStack() as claim:   # of the main process, which is the only one to change other files
            done, self.sizes = parallel.on_main(lambda: self._begin(pictures, claim), may_take_days=True)
            missing = [image for image in images if image[0] not in done]
            if missing:
                self._read_sizes(missing, threads)
                done = done | self._find(images, done, device, batch_size, threads, weight_folder)
            # In the order of the pictures, wherever an earlier run stopped.
            ids = dict.fromkeys([*(image_id for image_id, _ in images), *self.sizes])
            self.sizes = {image_id: self.sizes[image_id] for image_id in ids if image_id in done}
            parallel.on_main(self._write_sizes)
        return done & set(pictures.paths)

    def _begin(self, pictures: PictureSource, claim: contextlib.ExitStack) -> tuple[set[str], dict]:
        """Claim the folders, and remove what is outdated -> (the ids that are done, the sizes on disk)."""
        inputs = pictures.inputs(self.recipe['longest_side'])
        record = claim.enter_context(
            claimed(self.base, COMMAND, self._claim(), inputs, list(self.folders.values())))
        write_json(recipe_path(self.folders['att']), self.recipe, indent=1)
        with contextlib.suppress(DataError):   # a broken sizes file is written again
            self.sizes = {image_id: (int(width), int(height))
                          for image_id, (width, height) in image_sizes(self.folders['box']).items()}
        again = outdated(record, inputs, self.done(), made_at(self.folders['att'], SUFFIX['att']))
        for image_id in {*pictures.changed(), *again}:
            self._remove(image_id)
        save(self.base, record)
        pictures.save()
        return self.done(), self.sizes

    def done(self) -> set[str]:
        """The ids of the pictures whose arrays and size are on disk."""
        return set.intersection(set(self.sizes), *(finished(self.folders[kind], SUFFIX[kind]) for kind in KINDS))

    def _claim(self) -> dict[str, Any]:
        """The recipe by the names of the command's flags; weights count by their content, not by their folder."""
        if 'extractor' in self.recipe:
            return {'extractor': f'{self.recipe["extractor"]} ({self.recipe["extractor_digest"]})',
                    'longest_side': self.recipe['longest_side']}
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

    def _write_sizes(self) -> None:
        write_json(f'{self.folders["box"]}_sizes.json', self.sizes)

    def _read_sizes(self, images: Sequence[Image], threads: int) -> None:
        """Read and write the sizes of `images`.

        Before the first boxes: boxes without a size beside them would be scaled wrongly by later commands.
        """
        def size_of(image: Image) -> tuple[int, int] | str:
            try:
                return read_size(image[1], upright=True)
            except DataError as error:
                return str(error)

        def share() -> list[tuple[int, int] | str]:
            found = []
            with Progress(len(images), 'sizes') as display, ThreadPoolExecutor(threads) as pool:
                for size in pool.map(size_of, parallel.every_nth(images)):
                    found.append(size)
                    display.update(min(parallel.count(), len(images) - display.done))
            return found

        for (image_id, _), size in zip(images, parallel.put_together(parallel.gathered(share))):
            self.sizes.pop(image_id, None)
            if isinstance(size, tuple):
                self.sizes[image_id] = size
            elif parallel.is_main():
                self.broken.add(size)
        parallel.on_main(self._write_sizes)

    def _find(self, images: Sequence[Image], done: set[str], device: torch.device, batch_size: int, threads: int,
              weight_folder: str | None) -> set[str]:
        """Find the regions of `images` except those `done` -> the ids of those found.

        Processes take batches in turn, so one that is slower, or shares its cores with other work, takes fewer.
        """
        batches = self._batches(images, done, batch_size)
        turns, finished = parallel.Counter(), parallel.Counter()
        readable = sum(image_id in self.sizes for image_id, _ in images)
        ready = len(done & {image_id for image_id, _ in images}) + len(images) - readable
        display = Progress(len(images), 'regions', done=ready)

        def own_batches() -> Iterator[list[Image]]:
            while (turn := turns.add(1)) <= len(batches):
                yield batches[turn - 1]

        def share() -> tuple[set[str], list[str]]:
            found: set[str] = set()
            before = len(self.broken)
            try:
                finder = open_finder(self.recipe, device, weight_folder, self.extractor)
                with contextlib.closing(
                        self._found_in(own_batches(), done, finder, batch_size, threads)) as found_in:
                    for batch, ids in found_in:
                        found |= ids
                        new = finished.add(sum(image_id not in done for image_id, _ in batch))
                        display.update(ready + new - display.done)
            except BaseException:
                turns.add(len(batches))   # the other processes need not find the rest before they hear of it
                raise
            return found, self.broken.messages[before:]

        with display:
            shares = parallel.gathered(share)
            if parallel.is_main():   # which keeps the number; it may have left before another process asks for it
                display.update(ready + finished.add(0) - display.done)   # by the others, after this one's last
        if parallel.is_main():
            for _, messages in shares[1:]:
                for message in messages:
                    self.broken.add(message)
        return set().union(*(found for found, _ in shares))

    def _batches(self, images: Sequence[Image], done: set[str], batch_size: int) -> list[list[Image]]:
        """The batches in which any regions are missing.

        The other pictures of a batch affect the last bits of a picture's features.  So batches are formed of all
        pictures, also those `done`, and features do not depend on where an earlier run stopped.
        """
        batches: list[list[Image]] = []
        for start in range(0, len(images), CHUNK):
            sized = [image for image in images[start:start + CHUNK] if image[0] in self.sizes]
            shapes = [shrunk(self.sizes[image_id], self.recipe['longest_side']) for image_id, _ in sized]
            batches += [batch for batch in batches_of_one_shape(sized, shapes, batch_size)
                        if any(image_id not in done for image_id, _ in batch)]
        return batches

    def _found_in(self, batches: Iterator[list[Image]], done: set[str], finder: Finder, batch_size: int,
                  threads: int) -> Generator[tuple[list[Image], set[str]]]:
        """Yield each batch, and the ids of its regions that were found and are being written: while the device works
        on one batch, threads read the next pictures and compress the regions before."""
        pool = ThreadPoolExecutor(threads)
        writing: deque[Future] = deque()
        begun: deque[list[Image]] = deque()   # batches of which pictures are being read

        def images() -> Iterator[Image]:
            for batch in batches:
                begun.append(batch)
                yield from batch

        try:
            read = submit_ahead(lambda image: read_upright(image[1], self.recipe['longest_side']), images(), pool,
                                threads + 1)
            for first in read:
                batch, ids = begun.popleft(), set()
                rest = itertools.islice(read, len(batch) - 1)
                for image_id, boxes, features in self._regions(itertools.chain([first], rest), done, finder):
                    writing.append(pool.submit(self._write, image_id, boxes, features))
                    ids.add(image_id)
                while len(writing) > 2 * batch_size:
                    writing.popleft().result()
                yield batch, ids
            for future in writing:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)

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
