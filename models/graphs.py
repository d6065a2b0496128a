"""Decoding as CUDA graphs: the kernels of all words recorded once, and launched together for every later batch.

Word by word a GPU waits for the host, which takes longer to launch a small kernel than the GPU to run it.
"""

from __future__ import annotations

import functools
import gc
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from models.decoding import Decoded
from models.precision import autocast_dtype

KEPT = 32  # graphs: two methods for images with 10 to 100 regions in whole batches and in the last of an epoch

# (method, model, memory, uniforms of `sample`, options of the method) -> captions, as `run_directly`.
Run = Callable[..., Decoded]
Result = TypeVar('Result')
# Records the kernels of a function -> (a function that runs them again, the result, which that overwrites).
Record = Callable[[Callable[[], Decoded]], tuple[Callable[[], None], Decoded]]


def run_directly(method: Callable[..., Decoded], model: Any, memory: Any, uniforms: Tensor | None = None,
                 **options: Any) -> Decoded:
    """Captions of the memory's images by a method of `models/decoding.py` with these options, word by word."""
    return method(model, memory, **options, **({} if uniforms is None else {'uniforms': uniforms}))


def record_cuda_graph(work: Callable[[], Result]) -> tuple[Callable[[], None], Result]:
    """The `Record` of CUDA; all graphs share the memory of what they compute on the way."""
    graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    collects = gc.isenabled()
    gc.disable()  # CUDA refuses to destroy a graph that is no longer used while another is recorded
    try:
        # Other threads, such as that which pins batches, go on calling CUDA meanwhile.
        with torch.cuda.graph(graph, pool=_pool(), stream=_side_stream(), capture_error_mode='thread_local'):
            result = work()
    except RuntimeError:
        # Where a recording cannot be ended, PyTorch leaves its stream current, and random numbers only for graphs.
        torch.cuda.set_stream(before)
        generator = torch.cuda.default_generators[before.device.index]
        generator.graphsafe_set_state(generator.clone_state())
        raise
    finally:
        if collects:
            gc.enable()
    return graph.replay, result


def on_side_stream(work: Callable[[], Tensor]) -> Tensor:
    """The result of `work()`, run on the stream on which it will be recorded: what libraries and the backward pass
    keep for a stream is then there."""
    current, side = torch.cuda.current_stream(), _side_stream()
    side.wait_stream(current)
    with torch.cuda.stream(side):
        result = work()
    current.wait_stream(side)
    return result


@functools.cache
def _pool() -> Any:
    return torch.cuda.graph_pool_handle()


@functools.cache
def _side_stream() -> Any:
    return torch.cuda.Stream()


class Graphs:
    """Decodes as `run_directly`, by a graph where a batch of the same shapes was decoded in the same way before.

    The first batch of its shapes runs word by word, which also lets libraries allocate what they need; the second
    is recorded.  The captions are the same.  Only decoding with static shapes can be recorded: see `State.compacts`.
    """

    def __init__(self, required: bool = False, record: Record = record_cuda_graph) -> None:
        """Where recording fails, decoding goes on without graphs and a warning says so; `required`: it raises the
        error."""
        self.required, self.record = required, record
        self.works = True
        self.met: set[Any] = set()
        self.kept: OrderedDict[Any, Recording] = OrderedDict()

    def __call__(self, method: Callable[..., Decoded], model: Any, memory: Any, uniforms: Tensor | None = None,
                 **options: Any) -> Decoded:
        """Captions of the memory's images; arguments as for `run_directly`."""
        memory = memory.padded()
        key = method, tuple(sorted(options.items())), *self._key(model, memory, uniforms)
        decode: Callable[..., Decoded] = functools.partial(run_directly, method, model, **options)
        if key not in self.met or not self.works:
            self.met.add(key)
            return decode(memory, uniforms)
        if key not in self.kept:
            try:
                self.kept[key] = Recording(decode, memory, uniforms, self.record)
            except RuntimeError as error:
                if self.required:
                    raise
                warnings.warn(f'decoding goes on without CUDA graphs, which failed: {error}', stacklevel=2)
                self.works = False
                return decode(memory, uniforms)
            if len(self.kept) > KEPT:
                self.kept.popitem(last=False)
        self.kept.move_to_end(key)
        return self.kept[key](memory, uniforms)

    @staticmethod
    def _key(model: nn.Module, memory: Any, uniforms: Tensor | None) -> tuple[Any, ...]:
        """What a graph depends on besides the numbers that are copied into it: shapes, modes, and the addresses of
        the weights, which optimisers and loaders change in place."""
        weights = hash(tuple(tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())))
        shapes = tuple(tuple(tensor.shape) for tensor in tensors_of(memory, uniforms))
        return id(model), model.training, weights, autocast_dtype(next(model.parameters()).device), shapes


class Recording:
    """A recorded decoding, with the memory of its inputs and of its result."""

    def __init__(self, decode: Callable[[Any, Tensor | None], Decoded], memory: Any, uniforms: Tensor | None,
                 record: Record) -> None:
        copies = {id(tensor): tensor.clone() for tensor in tensors_of(memory, uniforms)}
        memory = memory.map(lambda tensor: copies[id(tensor)])
        uniforms = None if uniforms is None else copies[id(uniforms)]
        self.inputs = list(copies.values())
        # Weights cast before would not be cast again when they have changed; those cast here belong to the graph.
        torch.clear_autocast_cache()
        self.replay, self.result = record(lambda: decode(memory, uniforms))
        torch.clear_autocast_cache()

    def __call__(self, memory: Any, uniforms: Tensor | None) -> Decoded:
        """The captions of another memory of the same shapes."""
        for mine, given in zip(self.inputs, tensors_of(memory, uniforms), strict=True):
            mine.copy_(given)
        self.replay()
        return Decoded(self.result.captions.clone(), self.result.log_probs.clone())


def tensors_of(memory: Any, uniforms: Tensor | None) -> Iterator[Tensor]:
    """The inputs of a decoding, each once, in the same order for memories of the same model."""
    found: dict[int, Tensor] = {}

    def take(tensor: Tensor) -> Tensor:
        found.setdefault(id(tensor), tensor)
        return tensor
    memory.map(take)
    if uniforms is not None:
        take(uniforms)
    return iter(found.values())
