"""Section `card`: the card, the versions, and its ceilings."""

import contextlib
import importlib.metadata
import platform
from typing import Any

import numpy as np
import torch

from scripts.benchmarking.floors import PRECISIONS, copy_rate, product_rate
from scripts.benchmarking.processes import hardware
from scripts.gpu_checking.sections import Report, Setting


def run(setting: Setting, report: Report) -> None:
    """The card, versions, the rates of copies and of matrix products."""
    device = setting.start()
    report.number('device', hardware(device))
    if device.type == 'cuda':
        found = torch.cuda.get_device_properties(device)
        report.number('memory, multiprocessors, capability',
                      f'{found.total_memory / 2 ** 30:.0f} GiB, {found.multi_processor_count}, '
                      f'{found.major}.{found.minor}')
    report.number('versions', ', '.join(f'{name} {version}' for name, version in versions().items()), **versions())
    rate = copy_rate(device, setting.small)
    report.number('copy, bytes read and written', f'{rate / 1e9:,.0f} GB/s', rate=rate)
    for name in PRECISIONS:
        rate = product_rate(device, name, setting.small)
        report.number(f'products of large matrices, {name}', f'{rate / 1e12:.3g} TFLOP/s', rate=rate)


def versions() -> dict[str, str]:
    """The versions that matter, of what is installed."""
    found: dict[str, Any] = {'Python': platform.python_version(), 'torch': torch.__version__,
                             'CUDA': torch.version.cuda, 'numpy': np.__version__}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        found['triton'] = importlib.metadata.version('triton')
    return {name: str(version) for name, version in found.items() if version}
