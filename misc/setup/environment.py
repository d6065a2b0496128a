"""Findings about the machine: Python and its packages, Java and SPICE, GPUs, weights of the image networks.

Imports of packages are inside the functions, since packages may be what is missing.
"""

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator

from misc import commands
from misc.cli import DataError, UserError
from misc.setup.findings import MISSING, PARTLY, THERE, Finding

OLDEST_PYTHON = (3, 11)
FIRST_BFLOAT16 = 8    # compute capability (major) of the first CUDA devices with bfloat16 matrix products


def required(path: str | os.PathLike[str]) -> dict[str, str]:
    """{package: version} of the lines NAME==VERSION of a requirements file."""
    with open(path, encoding='utf-8') as file:
        lines = [line.split('#')[0].strip() for line in file]
    return dict(line.split('==') for line in lines if '==' in line)


def installed(package: str) -> str | None:
    """The version of a package without its local part (+cu130); None if it is not installed."""
    try:
        return importlib.metadata.version(package).split('+')[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def python_findings(requirements: str | os.PathLike[str]) -> Iterator[Finding]:
    """Python and the packages in `requirements`, the path of a requirements file."""
    new = sys.version_info >= OLDEST_PYTHON
    oldest = '.'.join(map(str, OLDEST_PYTHON))
    yield Finding(THERE if new else PARTLY, 'Python', f'{platform.python_version()}, {sys.executable}',
                  '' if new else f'install Python {oldest} or newer', needed=True)
    wanted = required(requirements)
    found = {package: installed(package) for package in wanted}
    missing = [package for package in wanted if found[package] is None]
    others = [f'{package} {found[package]} for {wanted[package]}' for package in wanted
              if found[package] not in (None, wanted[package])]
    detail = f'{len(wanted) - len(missing)} of {len(wanted)} of requirements.txt'
    if missing:
        detail += f'; missing: {", ".join(missing)}'
    if others:
        detail += f'; of another version: {", ".join(others)}'
    yield Finding(MISSING if missing else PARTLY if others else THERE, 'packages', detail,
                  commands.INSTALL if missing or others else '', needed=bool(missing))


def scoring_findings() -> Iterator[Finding]:
    """Java and the models of SPICE; all scores but METEOR and SPICE can be computed without them."""
    from misc.scoring import java, spice
    is_there = java.is_installed()
    yield Finding(THERE if is_there else MISSING, 'Java', shutil.which('java') or 'METEOR and SPICE need it',
                  '' if is_there else 'install a Java runtime, say default-jre')
    try:
        missing = spice.missing_models()
    except UserError:
        return  # pycocoevalcap is missing, which `python_findings` reports
    yield Finding(MISSING if missing else THERE, "SPICE's models",
                  f'{len(spice.MODELS)} files; without them SPICE is left out' if missing else '', missing)


def gpu_findings() -> Iterator[Finding]:
    """CUDA devices, and whether they have bfloat16."""
    import torch
    devices = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    for number, device in enumerate(devices):
        # From its properties: torch.cuda.is_bf16_supported() would create a context on a device that may be in use.
        has_bfloat16 = device.major >= FIRST_BFLOAT16
        yield Finding(THERE, f'GPU cuda:{number}', f'{device.name}, {device.total_memory / 2 ** 30:.0f} GiB, '
                      + ('with bfloat16: --amp bf16' if has_bfloat16 else 'without bfloat16'))
    if not devices:
        yield Finding(MISSING, 'GPU', f'no CUDA device; training runs on the {os.cpu_count()} processors')


def weight_findings(folder: str) -> Iterator[Finding]:
    """Weights of the networks that compute features, in `folder` or torchvision's download cache."""
    from misc.dataset.networks import DEFAULT_NETWORK, DETECTOR, TWO_LAYOUTS
    from misc.pictures.weights import find_file
    uses = {DEFAULT_NETWORK: 'only for features and captions of your own images',
            DETECTOR: 'only for regions by --detector fasterrcnn'}
    for name in (*TWO_LAYOUTS, DETECTOR):
        what = 'Faster R-CNN' if name == DETECTOR else name
        try:
            yield Finding(THERE, what, find_file(name, None if folder == 'data' else folder))
        except DataError as error:
            try:
                yield Finding(THERE, what, find_file(name))
            except DataError:
                if name in uses:   # the others are alternatives to the default
                    yield Finding(MISSING, what, uses[name], str(error))
