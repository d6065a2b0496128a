"""Reading files that `torch.save` wrote and that may be damaged or malicious.

`torch.load` with `weights_only` runs nothing that a file names.  But it does not compare the archive's checksums,
so flipped bits become weights; it inflates compressed members, however large; and it believes what a file says
about sizes.  So the file is checked before it is loaded, and the tensors after.
"""

import io
import os
import zipfile
from collections.abc import Callable
from typing import IO, Any

import torch

from misc.cli import DataError
from misc.disk import nesting
from misc.disk.files import StrPath

ZIP, PICKLE = b'PK\x03\x04', b'\x80'  # how the layouts since PyTorch 1.6 and before it begin
LEGACY_PICKLES = 5   # pickles at the start of the older layout
READ_SIZE = 1 << 20
DOS_FOLDER = 0x10    # the attribute by which torch takes a member for a folder, leaving its tensor uninitialised


def load(path: StrPath, way_out: str, missing: str = '', opened: Callable[..., IO[bytes]] = open) -> Any:
    """The value in the file `path`, with all its tensors on the CPU; nothing in the file is run.

    Raises `DataError`, which ends with `missing` where there is no such file, and with `way_out` where it is
    damaged or holds anything else.  `opened` replaces `open`, for files whose content may be elsewhere.
    """
    try:
        with opened(path, 'rb') as file:
            _check_file(file)
            file.seek(0)
            value = torch.load(file, map_location='cpu', weights_only=True)
            _check_tensors(value, os.fstat(file.fileno()).st_size)
            return value
    except FileNotFoundError:
        raise DataError(f'there is no file {path}{missing and f"; {missing}"}') from None
    except IsADirectoryError:
        raise DataError(f'{path} is a folder; give the file model.pth in it') from None
    except Exception as error:  # on a damaged file torch, zipfile and pickle raise a dozen kinds of exception
        reason = (str(error).splitlines() or [''])[0][:150] or type(error).__name__
        raise DataError(f'{path} is not a valid file of tensors; nothing of it was used ({reason})\n'
                        f'{way_out}') from None


def _check_file(file: IO[bytes]) -> None:
    """Raise `ValueError` (or what zipfile and pickletools raise) unless the open file is safe to load."""
    start = file.read(4)
    if start == ZIP:
        _check_archive(file)
    elif start[:1] == PICKLE:
        file.seek(0)
        for _ in range(LEGACY_PICKLES):
            nesting.check_pickle(file)
    else:
        raise ValueError('it does not begin as files of torch.save do' if start else 'it is empty')


def _check_archive(file: IO[bytes]) -> None:
    """Check the directory of a zip archive, its sizes, its checksums and its pickle."""
    room = os.fstat(file.fileno()).st_size
    names: set[str] = set()
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        # torch finds the archive in a file by other rules than zipfile, and might read another one.
        if min((member.header_offset for member in members), default=1) or archive.comment:
            raise ValueError('there is something before or after the archive')
        for member in members:
            _check_member(member, names)
            names.add(member.filename)
            room -= member.file_size
            if room < 0:
                raise ValueError('its members are said to be larger than the file')
        for name in names:
            with archive.open(name) as content:
                while content.read(READ_SIZE):  # zipfile compares the checksum at the end
                    pass
        for name in names:
            if name.endswith('data.pkl'):
                nesting.check_pickle(io.BytesIO(archive.read(name)))


def _check_member(member: zipfile.ZipInfo, names: set[str]) -> None:
    """Raise `ValueError` for a member that `torch.save` would not write; `names` are those before it."""
    name = member.filename
    if name.startswith('/') or '\\' in name or '..' in name.split('/') or name in names:
        raise ValueError(f'it holds a file named {name[:80]!r}')
    if name.endswith('constants.pkl'):
        raise ValueError('it is a TorchScript program')
    if member.is_dir() or member.external_attr & DOS_FOLDER:
        raise ValueError(f'its member {name[:80]} is marked as a folder')
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        raise ValueError(f'its member {name[:80]} is compressed or encrypted, which torch.save never does')


def _check_tensors(value: Any, size: int) -> None:
    """Raise `ValueError` for a tensor in `value`, at any depth, that a file of `size` bytes cannot hold: one whose
    elements all share one place in memory, say."""
    waiting, seen = [value], set()
    while waiting:
        one = waiting.pop()
        if torch.is_tensor(one):
            if one.layout != torch.strided or one.is_quantized or one.is_complex():
                raise ValueError(f'a tensor of an unsupported kind ({one.layout}, {one.dtype})')
            if one.numel() * one.element_size() > size:
                raise ValueError(f'a tensor of {one.numel()} numbers, more than the file holds')
        elif isinstance(one, (dict, list, tuple)) and id(one) not in seen:
            seen.add(id(one))
            waiting += one.values() if isinstance(one, dict) else one
            waiting += getattr(one, '__dict__', {}).values()  # the metadata of a state dict
