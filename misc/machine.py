"""What the program runs on."""

import contextlib
import os

import torch

from misc import parallel
from misc.cli import DataError, UsageError


def pick_device(name):
    """`auto`, `cpu`, `cuda` or `cuda:N` -> torch.device; each of several processes gets a CUDA device of
    its own.  Raises `UsageError` where it is not there."""
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
    device = torch.device(name)
    if device.type == 'cuda':
        there = torch.cuda.device_count()
        if (device.index or 0) >= there:
            raise UsageError(f'--device {name}: this machine has {there} CUDA devices; '
                             'allowed are auto and cpu' + ''.join(f', cuda:{i}' for i in range(there)))
        if parallel.count() > 1:
            device = own_device(device, there)
    return device


def own_device(device, there):
    """The CUDA device of this process, of the `there` devices of the machine."""
    processes, number = (int(os.environ[name]) for name in ('LOCAL_WORLD_SIZE', 'LOCAL_RANK'))
    if device.index is not None or processes > there:
        raise UsageError(f'--device {device}: {processes} processes on this machine need a CUDA device each, '
                         f'and it has {there}; start at most as many, with --device auto, or give --device cpu')
    torch.cuda.set_device(number)  # where gradients travel from
    return torch.device('cuda', number)


def precision(device, amp):
    """What a training step's forward pass runs in: for `amp` 'bf16', a context in which products take
    bfloat16 (8 bits of mantissa), for 'off' one that does nothing.  Weights, what layers add to, the losses
    and what is drawn from stay in float32.

    Passes with and without a graph each need a context of their own: autocast keeps the weights that it
    converted until its context ends, and those it converted without a graph get no gradient.
    """
    return torch.autocast(device.type, torch.bfloat16) if amp == 'bf16' else contextlib.nullcontext()


@contextlib.contextmanager
def memory_errors(flag):
    """Turn running out of memory inside the block into a `DataError` that names the flag to lower."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise DataError(f'there is not enough memory ({str(error)[:100]}); lower {flag}') from None
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise DataError(f'there is not enough memory; lower {flag}') from None
