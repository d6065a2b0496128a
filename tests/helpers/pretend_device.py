"""A device that is not the CPU and yet computes: it shows without a GPU what a GPU would be asked to do.

    with pretend_device() as counts:
        model.to(DEVICE)
        counts.clear()
        model.encode(batch.to(DEVICE))
    counts.kernels, counts.waits, counts.copies, ...

Its tensors say that they are on `DEVICE`, so the code takes the branches of a GPU; their numbers lie on the CPU, so
decoding ends where it would end.  An operation that mixes devices raises a RuntimeError, as on a GPU.  The numbers
of kernels are estimates, from the way PyTorch's CUDA operations launch theirs; the operations are exact.
"""

import collections
import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

from tests.helpers import ROOT

# PyTorch's device for tensors without numbers: no real work of the project has it.
DEVICE = torch.device('meta')
CPU = torch.device('cpu')

# Operations that launch nothing: views, and new memory without numbers in it.
FREE = {
    '_local_scalar_dense', '_reshape_alias', '_unsafe_view', 'alias', 'as_strided', 'chunk', 'detach', 'diagonal',
    'empty', 'empty_like', 'empty_strided', 'expand', 'expand_as', 'is_same_size', 'lift', 'lift_fresh', 'new_empty',
    'new_empty_strided', 'permute', 'reshape', 'resize_', 'select', 'set_', 'slice', 'split', 'split_with_sizes',
    'squeeze', 't', 'transpose', 'unbind', 'unfold', 'unsafe_split', 'unsqueeze', 'view'}
# Kernels of the operations that launch more than one.
KERNELS = {'native_layer_norm_backward': 3, 'embedding_dense_backward': 2, 'topk': 3, 'sort': 5, 'argsort': 5,
           'nonzero': 5, 'bincount': 6, 'logsumexp': 9, 'isfinite': 3, 'masked_select': 6, 'std_mean': 1, 'dot': 2,
           'attention': 1, 'attention_backward': 3, 'native_batch_norm': 2, 'native_batch_norm_backward': 2}
# Operations after which the host waits, because the size of their result depends on the numbers, or it is the host's.
WAITING = {'nonzero', 'masked_select', '_unique2', 'unique_dim', 'equal', 'is_nonzero', '_local_scalar_dense'}
# Lists of tensors are worked through by few kernels: of so many tensors for 1, 2, ... lists, 320 blocks of 65,536
# numbers (ATen/native/cuda/MultiTensorApply.cuh).
TENSORS_OF_A_LAUNCH, BLOCKS_OF_A_LAUNCH, BLOCK = (110, 64, 48, 36, 30), 320, 65536
CATENATED_AT_ONCE = 128


@dataclass
class Counts:
    """What the device was asked to do since the last `clear`; a place is the line of the project that asked."""

    operations: collections.Counter[str] = field(default_factory=collections.Counter)  # of ATen, views left out
    places: collections.Counter[str] = field(default_factory=collections.Counter)  # kernels of each place
    waits: collections.Counter[str] = field(default_factory=collections.Counter)  # 'why @ place': the host waited
    copies: collections.Counter[str] = field(default_factory=collections.Counter)  # place: copies from the host
    trace: list[tuple[str, tuple[tuple[int, ...], ...]]] = field(default_factory=list)  # operations and their shapes

    @property
    def kernels(self) -> int:
        """The kernels of all places, copies from the host included."""
        return self.places.total()

    def clear(self) -> None:
        """Start again at 0."""
        for counter in (self.operations, self.places, self.waits, self.copies, self.trace):
            counter.clear()  # type: ignore[attr-defined]

    def by_file(self) -> collections.Counter[str]:
        """The kernels of each file."""
        files: collections.Counter[str] = collections.Counter()
        for place, kernels in self.places.items():
            files[place.split(':')[0]] += kernels
        return files

    def waited(self, why: str) -> None:
        """The host waited for the device."""
        self.waits[f'{why} @ {place()}'] += 1

    def launched(self, name: str, kernels: int = 1) -> None:
        """The operation `name` launched so many kernels."""
        self.operations[name] += 1
        self.places[place()] += kernels


@contextlib.contextmanager
def pretend_device() -> Iterator[Counts]:
    """The block in which tensors can be on `DEVICE`; what they do there is counted."""
    counts = Counts()
    pinned: dict[int, Any] = {}
    lists: Any = torch.utils._foreach_utils
    devices = [*lists._get_foreach_kernels_supported_devices(), DEVICE.type]
    # Optimisers and norms work through lists of tensors by few kernels on devices where PyTorch has these.
    with (_Functions(counts, pinned), _Operations(counts, pinned),
          mock.patch.object(lists, '_get_foreach_kernels_supported_devices', lambda: devices),
          mock.patch.object(lists, '_foreach_supported_types', [*lists._foreach_supported_types, Pretend])):
        yield counts


def host(tensor: Tensor) -> Tensor:
    """The numbers of a tensor of the device, for a test to look at; not counted."""
    return tensor.inner if isinstance(tensor, Pretend) else tensor


class Pretend(torch.Tensor):
    """A tensor on `DEVICE` whose numbers, `inner`, are on the CPU."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> 'Pretend':
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            layout=inner.layout, device=DEVICE, requires_grad=False)
        made.inner = inner
        return made

    def __repr__(self) -> str:
        return f'Pretend({self.inner!r})'

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f'{operation}: a tensor of the pretend device is used outside of its block')


class _Operations(TorchDispatchMode):
    """Runs each operation on the numbers behind its tensors, and counts it."""

    def __init__(self, counts: Counts, pinned: dict[int, Any]) -> None:
        super().__init__()
        self.counts, self.pinned = counts, pinned

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        is_here = any(isinstance(tensor, Pretend) for tensor in tensors)
        device = kwargs.get('device')
        if not is_here and device != DEVICE:
            return operation(*args, **kwargs)
        name = operation.overloadpacket.__name__
        if device is not None:
            kwargs['device'] = CPU
        if name in ('_to_copy', 'copy_'):
            result = self._copied(operation, args, kwargs, device)
            if not isinstance(result, Pretend):
                return result
        else:
            if is_here:
                refuse_mixed(name, tensors)
            self._count(name, args, kwargs)
            result = operation(*tree_map(host, args), **tree_map(host, kwargs))
        self.counts.trace.append((str(operation), tuple(tuple(tensor.shape) for tensor in tensors)))
        if name == '_local_scalar_dense' or not isinstance(result, (Tensor, tuple, list)):
            return result
        return return_and_correct_aliasing(operation, args, kwargs, tree_map(wrapped, result))

    def _copied(self, operation: Any, args: Any, kwargs: Any, device: torch.device | None) -> Any:
        """A copy within the device, or from or to the host -> its result, which stays a Pretend in the first two
        cases."""
        target, source = (args[0], args[1]) if operation.overloadpacket.__name__ == 'copy_' else (None, args[0])
        to_host = device == CPU if target is None else not isinstance(target, Pretend)
        non_blocking = kwargs.get('non_blocking') or target is not None and len(args) > 2 and args[2]
        result = operation(*tree_map(host, args), **kwargs)
        if to_host:
            if not non_blocking:
                self.counts.waited('copy to the host')
            return result
        if isinstance(source, Pretend) or not source.dim():
            self.counts.launched('copy')
        else:
            self.counts.launched('copy from the host')
            self.counts.copies[place()] += 1
            # From memory that is not pinned, PyTorch's asynchronous copy waits for the device as well.
            if not non_blocking:
                self.counts.waited('blocking copy')
            elif source.untyped_storage().data_ptr() not in self.pinned:
                self.counts.waited('copy from memory that is not pinned')
        if target is None:
            return wrapped(result.clone() if result is source else result)
        return target

    def _count(self, name: str, args: Any, kwargs: Any) -> None:
        if name in WAITING:
            self.counts.waited(name)
        if name == 'bincount':
            self.counts.waited('minimum of bincount')
            self.counts.waited('maximum of bincount')
        if name == 'repeat_interleave' and kwargs.get('output_size') is None:
            self.counts.waited(name)
        if name in ('index', 'index_put', 'index_put_', '_index_put_impl_') and self._finds_places(name, args):
            self.counts.waited(f'{name} by a mask')
            self.counts.launched('nonzero', KERNELS['nonzero'])
        if name not in FREE:
            self.counts.launched(name, launches(name, args, kwargs))

    @staticmethod
    def _finds_places(name: str, args: Any) -> bool:
        """Whether an index needs the places where a mask is True; a single number is filled in by a `where`."""
        by_mask = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        accumulates = len(args) > 3 and args[3]
        return by_mask and (name == 'index' or args[2].numel() != 1 or accumulates)


class _Functions(TorchFunctionMode):
    """Stands in for functions of PyTorch that do not reach an operation, or another one than on a GPU."""

    def __init__(self, counts: Counts, pinned: dict[int, Any]) -> None:
        super().__init__()
        self.counts, self.pinned = counts, pinned
        self.own: dict[Any, Callable[..., Any]] = {
            torch.tensor: self._tensor, torch.as_tensor: self._tensor, torch.Tensor.pin_memory: self._pin,
            torch.Tensor.tolist: lambda tensor: self._read('tolist', tensor).tolist(),
            torch.Tensor.numpy: lambda tensor, **kwargs: self._read('numpy', tensor).numpy(**kwargs),
            torch.Tensor.cpu: lambda tensor: self._read('cpu', tensor).clone(),
            F.scaled_dot_product_attention: self._attention, F.dropout: self._dropout}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function in self.own:
            return self.own[function](*args, **kwargs)
        if kwargs.pop('pin_memory', False):
            return self._pin(function(*args, **kwargs))
        return function(*args, **kwargs)

    def _tensor(self, data: Any, dtype: torch.dtype | None = None, device: Any = None, pin_memory: bool = False,
                requires_grad: bool = False) -> Tensor:
        """PyTorch would make one without numbers for this device."""
        made = torch.as_tensor(data) if isinstance(data, Tensor) else torch.tensor(data)
        made = self._pin(made) if pin_memory else made
        return made.to(made.device if device is None else device, dtype).requires_grad_(requires_grad)

    def _pin(self, tensor: Tensor) -> Tensor:
        """A copy in memory that counts as pinned."""
        pinned = tensor.clone()
        self.pinned[pinned.untyped_storage().data_ptr()] = pinned  # kept, so that nothing else gets this memory
        return pinned

    def _read(self, why: str, tensor: Tensor) -> Tensor:
        if isinstance(tensor, Pretend):
            self.counts.waited(why)
        return host(tensor)

    def _attention(self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
                   dropout_p: float = 0.0, is_causal: bool = False) -> Tensor:
        if not isinstance(query, Pretend):
            return F.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal)
        refuse_mixed('attention', [part for part in (query, key, value, attn_mask) if part is not None])
        return _Attention.apply(query, key, value, attn_mask, dropout_p, is_causal, self.counts)

    def _dropout(self, rows: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not isinstance(rows, Pretend) or not training or not p:
            return F.dropout(rows, p, training, inplace)
        return torch.native_dropout(rows, p, True)[0]


class _Attention(torch.autograd.Function):
    """Scaled dot-product attention as the one operation that it is on a GPU."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float,
                causal: bool, counts: Counts) -> Tensor:
        counts.launched('attention', KERNELS['attention'] + 2 * (mask is not None))  # the mask is made a bias
        counts.trace.append(('attention', tuple(tuple(part.shape) for part in (query, key, value))))
        inputs = [None if part is None else host(part).detach().requires_grad_(part.is_floating_point())
                  for part in (query, key, value, mask)]
        with torch.enable_grad():
            out = F.scaled_dot_product_attention(*inputs, dropout, causal)  # type: ignore[arg-type]
        ctx.inputs, ctx.out, ctx.counts = inputs, out, counts
        return Pretend(out.detach().contiguous())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        ctx.counts.launched('attention_backward', KERNELS['attention_backward'])
        wanted = [part for part in ctx.inputs if part is not None and part.requires_grad]
        gradients = [Pretend(one) for one in torch.autograd.grad(ctx.out, wanted, host(gradient))]
        return (*gradients, *[None] * (7 - len(gradients)))


def wrapped(value: Any) -> Any:
    """A tensor of the CPU as one of the device; anything else as it is."""
    return Pretend(value) if isinstance(value, Tensor) and not isinstance(value, Pretend) else value


def refuse_mixed(name: str, tensors: list[Tensor]) -> None:
    """Raise where an operation has tensors of the device and of the host; single numbers of the host are allowed."""
    others = [tuple(tensor.shape) for tensor in tensors if not isinstance(tensor, Pretend) and tensor.dim()]
    if others:
        raise RuntimeError(f'{name} at {place()} mixes devices: tensors of shape {others} are on the CPU')


def launches(name: str, args: Any, kwargs: Any) -> int:
    """The kernels that an operation launches on a GPU, about."""
    if name.startswith(('_foreach', '_fused')):
        lists = [one for one in args if isinstance(one, (list, tuple)) and one and isinstance(one[0], Tensor)]
        makes_a_list = not name.endswith('_') and name != '_foreach_norm'
        # Of an optimiser: weights, gradients and moments; the step counts travel with the addresses.
        depth = 4 if name.startswith('_fused') else len(lists) + makes_a_list
        # The norm of each tensor is put together from those of its blocks, in memory that was set to 0.
        return launches_of_lists([tensor.numel() for tensor in args[0]], depth) + 2 * (name == '_foreach_norm')
    if name in ('cat', 'stack'):
        return -(-len(args[0]) // CATENATED_AT_ONCE)
    if name.startswith('index_put') and (kwargs.get('accumulate') or len(args) > 3 and args[3]):
        return 10
    return KERNELS.get(name, 1)


def launches_of_lists(sizes: list[int], depth: int) -> int:
    """The launches that work through `depth` lists of tensors with these numbers of elements."""
    count = tensors = blocks = 0
    for size in sizes:
        tensors += 1
        for block in range(-(-size // BLOCK)):
            blocks += 1
            is_last = (block + 1) * BLOCK >= size
            if blocks == BLOCKS_OF_A_LAUNCH or is_last and tensors == TENSORS_OF_A_LAUNCH[depth - 1]:
                # A tensor that was cut goes on in the next launch.
                count, blocks, tensors = count + 1, 0, int(not is_last)
    return count + bool(blocks)


def place() -> str:
    """'file:line' of the innermost frame in the project; of a backward pass, the line that started it."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(f'{ROOT}/') and file != __file__ and '/.venv/' not in file:
            return f'{file[len(str(ROOT)) + 1:]}:{frame.f_lineno}'
        frame = frame.f_back
    return 'elsewhere'
