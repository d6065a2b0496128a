"""Batches of a `Corpus`, read by worker processes.

`TrainBatches` yields training batches without end, and its position can be saved and restored exactly;
`image_batches` goes once through given images.  Regions are packed, without padding, and images are never
repeated per caption.
"""

import atexit
import contextlib
import functools
import multiprocessing
import os
import queue
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from misc import parallel
from misc.cli import DataError, UserError
from misc.dataset.corpus import Corpus
from models.packing import Counts

FLOATS = ('features', 'grids', 'boxes', 'fc')
ARRAYS = (*FLOATS, 'captions')  # the tensors of a batch, which move to a device


@dataclass
class Batch:
    """I images with M regions in all, and S captions of up to T words each.

    image_ids   I ids
    images      I row numbers in `Corpus.images`
    counts      the number of regions of each image; they sum to M (all 0 without `features`)
    features    (M, D) float32, the images' regions one after the other
    grids       (M, g*g) float32 grid vectors
    boxes       (M, 4) float32 x1 y1 x2 y2 relative to the image
    captions    (I, S, T) int64 word indices, zero padded
    lengths     I * S numbers of words, caption by caption; counted while the captions are on the host, so
                that no one has to read them back from a device
    numbers     off the CPU and in pinned memory: counts, lengths and captions side by side, for one copy
    fc          (I, D) float32, the mean feature of each image
    epoch, position   where the training order stands after this batch (0, 0 elsewhere)

    Arrays that the model does not need are None.
    """

    image_ids: list[int]
    images: list[int]
    counts: list[int]
    features: torch.Tensor | None
    grids: torch.Tensor | None
    boxes: torch.Tensor | None
    captions: torch.Tensor | None
    epoch: int = 0
    position: int = 0
    lengths: list[int] | None = None
    fc: torch.Tensor | None = None
    numbers: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if self.captions is not None and self.lengths is None:
            self.lengths = (self.captions > 0).sum(2).view(-1).tolist()

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def device(self) -> torch.device:
        """Where the arrays are."""
        return next(getattr(self, name).device for name in ARRAYS if getattr(self, name) is not None)

    def to(self, device: torch.device) -> 'Batch':
        """The batch with its arrays on `device`; from pinned memory the copy is asynchronous."""
        def move(array: torch.Tensor) -> torch.Tensor:
            return array.to(device, non_blocking=True)

        if torch.device(device).type == 'cpu':
            self.counts, self.numbers = list(self.counts), None
            self.lengths = None if self.lengths is None else list(self.lengths)
            return self._with(move, ARRAYS)
        numbers = move(self._side_by_side().pin_memory() if self.numbers is None else self.numbers)
        counts, lengths = numbers[:len(self)], numbers[len(self):len(self) + len(self.lengths or ())]
        self.counts = Counts(self.counts, counts)
        self.lengths = None if self.lengths is None else Counts(self.lengths, lengths)
        return self._with(move, FLOATS)._with_numbers(numbers)

    def pin_memory(self) -> 'Batch':
        """The batch with its arrays in pinned memory (DataLoader calls this method by its name)."""
        return self._with(torch.Tensor.pin_memory, FLOATS)._with_numbers(self._side_by_side().pin_memory())

    def _with(self, change: Callable[[torch.Tensor], torch.Tensor], names: Sequence[str]) -> 'Batch':
        for name in names:
            if getattr(self, name) is not None:
                setattr(self, name, change(getattr(self, name)))
        return self

    def _side_by_side(self) -> torch.Tensor:
        """What becomes of `numbers`, on the host."""
        parts = [torch.tensor([*self.counts, *(self.lengths or ())], dtype=torch.long)]
        return torch.cat(parts if self.captions is None else [*parts, self.captions.flatten()])

    def _with_numbers(self, numbers: torch.Tensor) -> 'Batch':
        self.numbers = numbers
        if self.captions is not None:
            self.captions = numbers[-self.captions.numel():].view(self.captions.shape)
        return self

    def split(self, parts: int) -> list['Batch']:
        """The batch as up to `parts` batches, none empty, with about as many images each."""
        if parts == 1 or len(self) < 2:
            return [self] if len(self) else []
        edges = [len(self) * part // parts for part in range(parts + 1)]
        return [self._images(start, end) for start, end in zip(edges, edges[1:]) if start < end]

    def _images(self, start: int, end: int) -> 'Batch':
        """The batch of the images from `start` to `end`; arrays are views."""
        rows = slice(sum(self.counts[:start]), sum(self.counts[:end]))
        parts: dict[str, Any] = {name: getattr(self, name) for name in ('features', 'grids', 'boxes')}
        parts = {name: None if array is None else array[rows] for name, array in parts.items()}
        parts['fc'] = None if self.fc is None else self.fc[start:end]
        captions, lengths = self.captions, self.lengths
        if captions is not None and lengths is not None:
            captions, each = captions[start:end], captions.shape[1]
            lengths = lengths[start * each:end * each]
        return Batch(self.image_ids[start:end], self.images[start:end], self.counts[start:end],
                     captions=captions, lengths=lengths, epoch=self.epoch, position=self.position, **parts)


class Reader(Dataset):
    """Reads the batches of a corpus; the loader copies it into its worker processes.

    A request is (rows, epoch, position after the batch).  An error of the data is returned, not raised: raised
    in a worker it would arrive wrapped in a traceback.
    """

    def __init__(self, corpus: Corpus, captions_per_image: int, seed: int):
        self.corpus, self.captions_per_image, self.seed = corpus, captions_per_image, seed

    def __getitem__(self, request: tuple[Sequence[int], int, int]) -> Batch | Exception:
        try:
            return self.batch(*request)
        except (UserError, OSError) as error:
            return error

    def batch(self, rows: Sequence[int], epoch: int, position: int) -> Batch:
        """The `Batch` of the images `rows`."""
        if not rows:
            return Batch([], [], [], None, None, None, None, epoch, position)
        corpus = self.corpus
        arrays = [corpus.arrays(row) for row in rows]
        captions = None
        if self.captions_per_image:
            # The draw depends on seed, epoch and image alone, so neither the number of workers nor
            # a restart changes it.
            captions = torch.from_numpy(np.stack([
                corpus.captions(row, self.captions_per_image, (self.seed, epoch, row)) for row in rows]))
        parts: dict[str, Any] = {name: None if arrays[0][name] is None else torch.from_numpy(
            np.concatenate([one[name] for one in arrays])) for name in arrays[0]}
        counts = [0 if one['features'] is None else len(one['features']) for one in arrays]
        return Batch([corpus.ids[row] for row in rows], list(rows), counts, captions=captions,
                     epoch=epoch, position=position, **parts)


class Order:
    """The endless order of training requests: every epoch a new permutation of the images.

    The last batch of an epoch is smaller where the batch size does not divide the number of images.
    Positions count images of the whole batches; a request holds only this process's share of one.
    """

    def __init__(self, rows: Sequence[int], batch_size: int, seed: int, state: dict[str, Any] | None = None,
                 infos_path: str = 'the infos file'):
        """`state`, of an earlier `TrainBatches`, continues from exactly there; it was read from `infos_path`.

        Raises `DataError` where the state is incomplete or its images are not `rows`.
        """
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        try:
            state = state or {'epoch': 0, 'position': 0}
            self.epoch, self.position = state['epoch'], state['position']
            # At the start of an epoch its order can be derived from the seed.
            is_saved = 'order' in state or self.position
            self.order = np.asarray(state['order']) if is_saved else self._shuffled(self.epoch)
        except (KeyError, TypeError):
            raise DataError(f'{infos_path} does not record the position of the run to resume in its epoch; train '
                            'again, or resume from model-best.pth and infos_ID-best.pkl alone in a folder') from None
        if len(self.order) != len(rows) or set(self.order.tolist()) != set(rows):
            raise DataError(f'the training images are not those of the run to resume, of {infos_path}; give the same '
                            '--input_json and --train_only, or start another run')

    def _shuffled(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(self.rows)

    def order_of(self, epoch: int) -> np.ndarray:
        """The order of the images in `epoch`, the current one or a later one."""
        return self.order if epoch == self.epoch else self._shuffled(epoch)

    def __iter__(self) -> Iterator[tuple[Sequence[int], int, int]]:
        epoch, position = self.epoch, self.position
        while True:
            order = self.order_of(epoch)
            while position < len(order):
                rows = order[position:position + self.batch_size].tolist()
                position += len(rows)
                yield parallel.part(rows), epoch, position
            epoch, position = epoch + 1, 0


class TrainBatches:
    """Training batches without end; their order and position are part of the training state.

    epoch, position   where the last batch ended
    images            the number of training images
    images_read       images of all batches so far, over all processes
    waited            seconds spent waiting for batches so far
    """

    def __init__(self, corpus: Corpus, rows: Sequence[int], batch_size: int, captions_per_image: int, seed: int,
                 workers: int, state: dict[str, Any] | None = None, pin: bool = False,
                 infos_path: str = 'the infos file'):
        """Batches of the images `rows` with `captions_per_image` drawn captions, read by `workers` processes.

        state: what `state()` returned in the run to resume, saved in `infos_path`; pin: put the batches into pinned
        memory.
        """
        self.order = Order(rows, batch_size, seed, state, infos_path)
        self.epoch, self.position = self.order.epoch, self.order.position
        self.images, self.images_read, self.waited = len(rows), 0, 0.0
        reader = Reader(corpus, captions_per_image, seed)
        self.batches = Prefetcher(iter(make_loader(reader, self.order, workers, pin)))

    def next(self) -> Batch:
        """This process's share of the next batch.  Raises `DataError` for data that cannot be read."""
        started = time.monotonic()
        with worker_errors():
            batch = next(self.batches)
        batch = raise_if_error(batch)
        self.images_read += batch.position - (self.position if batch.epoch == self.epoch else 0)
        self.epoch, self.position = batch.epoch, batch.position
        self.waited += time.monotonic() - started
        return batch

    def close(self) -> None:
        """End the worker processes.  Ended by the interpreter's exit, they would be reported as crashed."""
        self.batches.close()

    @property
    def epoch_is_over(self) -> bool:
        """Whether the last batch was the last one of its epoch."""
        return self.position == self.images

    @property
    def next_epoch(self) -> int:
        """The epoch that the next batch belongs to."""
        return self.epoch + self.epoch_is_over

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to continue with the same batches: plain values and one array."""
        epoch, position = self.epoch, self.position
        if self.epoch_is_over:
            epoch, position = epoch + 1, 0
        return {'epoch': epoch, 'position': position,
                'order': np.asarray(self.order.order_of(epoch), dtype=np.int64)}


class Prefetcher:
    """The items of an endless iterator, up to three of them fetched in advance by a thread.

    Receiving a batch that a worker has finished needs that process to run, which a busy machine delays; without
    workers, images are read while the training computes.  The thread starts with the first call of `next`.
    """

    def __init__(self, items: Iterator[Any]):
        self.items: Iterator[Any] | None = items
        self.fetched: queue.Queue[tuple[Any, Exception | None]] = queue.Queue(2)
        self.closed = False
        self.thread: threading.Thread | None = None

    def __iter__(self) -> 'Prefetcher':
        return self

    def __next__(self) -> Any:
        """The next item; raises what the iterator raised in its place."""
        if self.thread is None:
            self.thread = threading.Thread(target=self._fetch, daemon=True)
            self.thread.start()
        item, error = self.fetched.get()
        if error is not None:
            raise error
        return item

    def _fetch(self) -> None:
        error = None
        while self.items is not None and not self.closed and error is None:
            item = None
            try:
                item = next(self.items)
            except Exception as failure:
                error = failure
            self.fetched.put((item, error))

    def close(self) -> None:
        """End the thread once its current item is there, and drop the iterator."""
        self.closed = True
        while self.thread is not None and self.thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self.fetched.get(timeout=0.05)
        self.items = self.thread = None


def image_batches(corpus: Corpus, rows: Sequence[int], batch_size: int, workers: int, captions_per_image: int = 0,
                  seed: int = 0, pin: bool = False) -> Iterator[Batch]:
    """Yield the batches of the images `rows` once, in order, with `captions_per_image` drawn captions each.

    Of n processes each gets every n-th batch, whole, so results do not depend on the number of processes.
    """
    requests = parallel.every_nth([
        (rows[start:start + batch_size], 0, 0) for start in range(0, len(rows), batch_size)])
    loader = make_loader(Reader(corpus, captions_per_image, seed), requests, min(workers, len(requests)), pin)
    with worker_errors():
        yield from map(raise_if_error, loader)


def make_loader(reader: Dataset, requests: Iterable[Any], workers: int, pin: bool = False) -> DataLoader:
    """A loader of `requests`, in order, with `workers` processes (0: this process reads)."""
    _kill_workers_at_exit()
    # More workers than cores that this process may use: as they were asked for.
    warnings.filterwarnings('ignore', message='This DataLoader will create')
    # A generator of its own: the loader must not draw from the random numbers of the training.
    return DataLoader(reader, sampler=requests, batch_size=None, num_workers=workers,
                      generator=torch.Generator().manual_seed(0), collate_fn=None, pin_memory=pin,
                      worker_init_fn=functools.partial(init_worker, os.getpid()))


@functools.cache
def _kill_workers_at_exit() -> None:
    """Register the end of all workers for the end of this process.  They ignore the SIGTERM that
    multiprocessing sends them before it joins them."""
    @atexit.register
    def kill_workers() -> None:
        for process in multiprocessing.active_children():
            process.kill()


def init_worker(parent: int, _: int) -> None:
    """Set up signals in a worker of the process `parent` (its number).

    Ctrl-C, SIGTERM and SIGUSR1 reach the whole process group; the main process handles them, may want one more
    batch, and then ends the workers itself.
    """
    # DataLoader watches for the death of its parent only from here on, and would watch whoever adopted this process.
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for name in ('SIGHUP', 'SIGUSR1'):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


@contextlib.contextmanager
def worker_errors() -> Iterator[None]:
    """Turn the error that reports a dead loader worker into a `DataError`.

    DataLoader raises it from a signal handler, wherever the program is, and the interrupted code may raise
    another error on top of it.
    """
    try:
        yield
    except Exception as error:
        first: BaseException | None = error
        while first is not None and 'DataLoader worker' not in str(first):
            first = first.__context__
        if first is None or isinstance(error, UserError):
            raise
        raise DataError(f'a process that reads features died ({str(first).splitlines()[0][:150]}); it may have '
                        'run out of memory, or of room in /dev/shm: lower --num_workers (0 reads without)') \
            from None


def raise_if_error(batch: Batch | Exception) -> Batch:
    """Return `batch`, or raise it if it is an error that a worker returned."""
    if isinstance(batch, Exception):
        try:
            raise batch
        finally:
            del batch  # the error would hold this frame, this frame the error, and both the workers
    return batch
