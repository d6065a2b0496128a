"""What the program runs on."""

import torch

from misc.cli import UsageError


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
