"""The device, its precision, and running out of memory."""

import contextlib
import ctypes
import os
from collections.abc import Iterator

import torch

from misc import parallel
from misc.cli import DataError, UsageError

# mallopt's names, and arrays that are kept, and free memory at the end of the heap, in bytes.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT, KEPT_IN_ALL = 2 ** 26, 2 ** 29


def pick_device(name: str, matmul_precision: str = 'highest') -> torch.device:
    """The device for `auto`, `cpu`, `cuda` or `cuda:N`; each of several processes gets a CUDA device of its own.

    `matmul_precision`, of products of float32 matrices on a CUDA device: 'highest' (float32), 'high' or 'medium'
    (TF32, ten bits of mantissa, on tensor cores); on the CPU they are always of float32.  Raises `UsageError` where
    the device does not exist.
    """
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
    device = torch.device(name)
    if device.type == 'cpu':
        keep_freed_memory()
    if device.type == 'cuda':
        existing = torch.cuda.device_count()
        if (device.index or 0) >= existing:
            raise UsageError(f'--device {name}: this machine has {existing} CUDA devices; '
                             'allowed are auto and cpu' + ''.join(f', cuda:{i}' for i in range(existing)))
        if parallel.count() > 1:
            device = device_of_process(device, existing)
        # Kernels of the project's own and NCCL run on the current device, whatever that of their tensors.
        torch.cuda.set_device(device.index or 0)
        torch.set_float32_matmul_precision(matmul_precision)
    return device


def keep_freed_memory() -> None:
    """Let glibc keep memory of arrays that are freed, for those of the next step.

    By default it returns large arrays to the system at once, which then clears the same pages again and again: 5 to
    7 % of a training step.  Other C libraries, and settings in the environment, are left alone.
    """
    if any(name.startswith('MALLOC_') and name.endswith('_THRESHOLD_') for name in os.environ):
        return
    with contextlib.suppress(AttributeError, OSError, TypeError):  # not glibc
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, KEPT)
        library.mallopt(M_TRIM_THRESHOLD, KEPT_IN_ALL)


def device_of_process(device: torch.device, existing: int) -> torch.device:
    """The CUDA device of this process, out of the machine's `existing` ones."""
    processes, number = (int(os.environ[name]) for name in ('LOCAL_WORLD_SIZE', 'LOCAL_RANK'))
    if device.index is not None or processes > existing:
        raise UsageError(f'--device {device}: {processes} processes on this machine need a CUDA device each, '
                         f'and it has {existing}; start at most as many, with --device auto, or give --device cpu')
    return torch.device('cuda', number)


def precision(device: torch.device, amp: str) -> contextlib.AbstractContextManager:
    """The context of a training step's forward pass: bfloat16 autocast for `amp` 'bf16', none for 'off'.

    Under autocast matrix products run in bfloat16 (8 bits of mantissa); weights, residual sums, losses and
    sampling probabilities stay in float32.

    Passes with and without a graph need a context each: autocast caches the weights it has cast until its
    context ends, and those cast without a graph would get no gradient.
    """
    return torch.autocast(device.type, torch.bfloat16) if amp == 'bf16' else contextlib.nullcontext()


@contextlib.contextmanager
def memory_errors(flag: str) -> Iterator[None]:
    """Turn running out of memory inside the block into a `DataError` that names the flag to lower."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise DataError(f'there is not enough memory ({str(error)[:100]}); lower {flag}') from None
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise DataError(f'there is not enough memory; lower {flag}') from None
