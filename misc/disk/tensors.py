"""Reading files that `torch.save` wrote and that may be damaged or malicious.

`torch.load` with `weights_only` runs nothing that a file names.  But it does not compare the archive's checksums,
so flipped bits become weights; it inflates compressed members, however large; it believes what a file says about
sizes; and it calls `bytearray` and `torch.Tensor` with any size that the file names.  So the file is checked before
it is loaded, with an unpickler that makes no tensors, and the tensors after.
"""

import collections
import functools
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from typing import IO, Any

import torch

from misc.cli import DataError
from misc.disk import nesting, pickles
from misc.disk.files import StrPath, open_regular

ZIP, PICKLE = b'PK\x03\x04', b'\x80'  # how the layouts since PyTorch 1.6 and before it begin
LEGACY_PICKLES = 5   # pickles at the start of the older layout
READ_SIZE = 1 << 20
# What a wrapper puts before the name of every weight: DistributedDataParallel and DataParallel, torch.compile,
# FullyShardedDataParallel, and programs that hold the network as their `model`.
PREFIXES = ('module.', '_orig_mod.', '_fsdp_wrapped_module.', 'model.')
# Where programs that save more than weights put them.
CONTAINERS = ('state_dict', 'model_state_dict', 'model', 'net', 'weights')
DOS_FOLDER = 0x10    # the attribute by which torch takes a member for a folder, leaving its tensor uninitialised


def load(path: StrPath, way_out: str, missing: str = '', opened: Callable[..., IO[bytes]] = open_regular) -> Any:
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


def is_state_dict(value: Any) -> bool:
    """Whether it is a dict of tensors by name."""
    return isinstance(value, dict) and all(isinstance(name, str) and torch.is_tensor(tensor)
                                           for name, tensor in value.items())


def unwrapped(value: Any) -> Any:
    """The state dict in what `load` returned: without the dict that other programs keep it in, and without prefixes
    that a wrapper put before every name.  Anything else is returned as it is."""
    if isinstance(value, dict) and not is_state_dict(value):
        value = next((value[key] for key in CONTAINERS if is_state_dict(value.get(key)) and value[key]), value)
    while is_state_dict(value) and value:
        prefix = next((one for one in PREFIXES if all(name.startswith(one) for name in value)), None)
        if prefix is None:
            break
        bare = collections.OrderedDict((name.removeprefix(prefix), tensor) for name, tensor in value.items())
        bare.__dict__.update(getattr(value, '__dict__', {}))   # the metadata
        value = bare
    return value


def _check_file(file: IO[bytes]) -> None:
    """Raise `ValueError` (or what zipfile and pickletools raise) unless the open file is safe to load."""
    start = file.read(4)
    if start == ZIP:
        _check_archive(file)
    elif start[:1] == PICKLE:
        file.seek(0)
        room = os.fstat(file.fileno()).st_size
        for _ in range(LEGACY_PICKLES):
            _check_pickle(file, lambda key: room, room)
    else:
        raise ValueError('it does not begin as files of torch.save do' if start else 'it is empty')


def _check_archive(file: IO[bytes]) -> None:
    """Check the directory of a zip archive, its sizes, its checksums and its pickle."""
    room = size = os.fstat(file.fileno()).st_size
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
        sizes = {member.filename: member.file_size for member in members}
        for name in names:
            if name.endswith('data.pkl'):
                folder = f'{name.removesuffix("data.pkl")}data/'
                _check_pickle(io.BytesIO(archive.read(name)), functools.partial(_size_in, sizes, folder), size)


def _size_in(sizes: dict[str, int], folder: str, key: str) -> int:
    """The bytes of a storage in an archive whose members have these `sizes`."""
    return sizes.get(folder + key, 0)


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


def _check_pickle(file: IO[bytes], room: Callable[[str], int], whole: int) -> None:
    """Check the pickle at the open file's position, and move to its end.

    `room(key)`: the bytes that the file has for the storage of that key; `whole`: for all of them.
    """
    start = file.tell()
    nesting.check_pickle(file)
    end = file.tell()
    file.seek(start)
    value = DryUnpickler(io.BytesIO(file.read(end - start)), room, whole).load()
    nesting.check_value(value, end - start)


class Inert(metaclass=pickles.Sealed):
    """For the functions that rebuild tensors: makes nothing."""

    def __new__(cls, *args: Any) -> None:  # type: ignore[misc]
        return None


class DryUnpickler(pickle.Unpickler):
    """An unpickler that knows what `torch.save` writes for dicts of tensors, and makes no tensors."""

    def __init__(self, file: IO[bytes], room: Callable[[str], int], whole: int) -> None:
        super().__init__(file, encoding='latin-1')
        self.room, self.left = room, whole
        self.storages: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What is called for `module.name`.  Raises `ValueError` where files of tensors do not need it."""
        if (module, name) in ADMITTED:
            return ADMITTED[module, name]
        raise ValueError(f'it asks for {module}.{name}'[:200])

    def persistent_load(self, pid: Any) -> None:
        """Check what the file says about a storage.  Raises `ValueError` if the file has no room for it."""
        kind, storage, key, _, count = pid[:5]
        if kind != 'storage' or not isinstance(key, str) or type(count) is not int or count < 0:
            raise ValueError('it holds something other than tensors')
        size, known = count * storage.itemsize, self.storages.get(key, 0)
        self.left -= max(0, size - known)
        self.storages[key] = max(size, known)
        if size > self.room(key) or self.left < 0:
            raise ValueError(f'a tensor of {count} numbers, more than the file holds')


# Torch's types of storage, with the bytes of a number.
STORAGES: dict[str, Any] = {name: pickles.Sealed(name, (Inert,), {'itemsize': size}) for name, size in {
    'BoolStorage': 1, 'ByteStorage': 1, 'CharStorage': 1, 'ShortStorage': 2, 'IntStorage': 4, 'LongStorage': 8,
    'HalfStorage': 2, 'BFloat16Storage': 2, 'FloatStorage': 4, 'DoubleStorage': 8, 'ComplexFloatStorage': 8,
    'ComplexDoubleStorage': 16}.items()}
ADMITTED: dict[tuple[str, str], Any] = {
    **{('torch', name): storage for name, storage in STORAGES.items()},
    ('collections', 'OrderedDict'): collections.OrderedDict, ('_codecs', 'encode'): pickles.Encode,
    **{('torch._utils', name): Inert for name in ('_rebuild_tensor', '_rebuild_tensor_v2', '_rebuild_parameter')}}


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
