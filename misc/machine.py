"""What the program runs on."""

import contextlib

import torch

from misc.cli import DataError, UsageError


def pick_device(name):
    """`auto`, `cpu`, `cuda` or `cuda:N` -> torch.device.  Raises `UsageError` where it is not there."""
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
    device = torch.device(name)
    if device.type == 'cuda':
        there = torch.cuda.device_count()
        if (device.index or 0) >= there:
            raise UsageError(f'--device {name}: this machine has {there} CUDA devices; '
                             'allowed are auto and cpu' + ''.join(f', cuda:{i}' for i in range(there)))
    return device


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
