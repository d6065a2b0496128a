"""Reading files of tensors, as `torch.save` writes them, that may be damaged, or a stranger's.

`torch.load` runs nothing with weights only.  But it does not look at the checksums of the archive, so that
flipped bits become weights; it unpacks what is packed, however large; and it believes what is said of sizes.
So the file is looked at first, and the tensors once they are there.
"""

import io
import os
import zipfile

import torch

from misc.cli import DataError
from misc.disk import nesting

ZIP, PICKLE = b'PK\x03\x04', b'\x80'
LEGACY_PICKLES = 5    # that the layout of PyTorch before 1.6 begins with
BLOCK = 1 << 20
FOLDER = 0x10       # the attribute by which torch takes a member for a folder, and leaves its tensor undefined


def load(path, way_out, missing='', opened=open):
    """The value in the file `path`, all its tensors on the CPU; nothing in the file is run.

    `way_out` ends the `DataError` about a file that is not whole or has something else in it, `missing` that
    about one that is not there.  `opened` stands in for `open` where the file may lie elsewhere.
    """
    try:
        with opened(path, 'rb') as file:
            check(file)
            file.seek(0)
            value = torch.load(file, map_location='cpu', weights_only=True)
            check_tensors(value, os.fstat(file.fileno()).st_size)
            return value
    except FileNotFoundError:
        raise DataError(f'there is no file {path}{missing and f"; {missing}"}') from None
    except IsADirectoryError:
        raise DataError(f'{path} is a folder; give the file model.pth in it') from None
    except Exception as error:  # a damaged file makes torch, zip and pickle raise a dozen kinds of it
        reason = (str(error).splitlines() or [''])[0][:150] or type(error).__name__
        raise DataError(f'{path} is not a whole file of tensors alone; nothing of it was used ({reason})\n'
                        f'{way_out}') from None


def check(file):
    """Raise `ValueError` (or what zip and pickle raise) unless the open file is fit to be loaded."""
    start = file.read(4)
    if start == ZIP:
        check_archive(file)
    elif start[:1] == PICKLE:
        file.seek(0)
        for _ in range(LEGACY_PICKLES):
            nesting.check(file)
    else:
        raise ValueError('it begins like no file of torch.save' if start else 'it is empty')


def check_archive(file):
    """Look at the directory of an archive, at the checksums of what is in it, and at its pickle."""
    room, names = os.fstat(file.fileno()).st_size, set()
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if min((member.header_offset for member in members), default=1) or archive.comment:
            raise ValueError('there is something before it or behind it')  # of which torch may read another part
        for member in members:
            name = member.filename
            if name.startswith('/') or '\\' in name or '..' in name.split('/') or name in names:
                raise ValueError(f'it holds a file named {name[:80]!r}')
            if name.endswith('constants.pkl'):
                raise ValueError('it is a program of TorchScript')
            names.add(name)
            if member.is_dir() or member.external_attr & FOLDER:
                raise ValueError(f'{name[:80]} in it is said to be a folder')
            if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
                raise ValueError(f'{name[:80]} in it is packed, which torch.save never does')
            room -= member.file_size
            if room < 0:
                raise ValueError('it says that it holds more than its size')
        for name in names:
            with archive.open(name) as member:
                while member.read(BLOCK):  # which compares the checksum at the end
                    pass
        for name in names:
            if name.endswith('data.pkl'):
                nesting.check(io.BytesIO(archive.read(name)))


def check_tensors(value, size):
    """Raise `ValueError` for a tensor, anywhere in `value`, that a file of `size` bytes does not hold: one whose
    numbers all lie at one place, say."""
    waiting, seen = [value], set()
    while waiting:
        one = waiting.pop()
        if torch.is_tensor(one):
            if one.layout != torch.strided or one.is_quantized or one.is_complex():
                raise ValueError(f'a tensor of a kind that is not used here ({one.layout}, {one.dtype})')
            if one.numel() * one.element_size() > size:
                raise ValueError(f'a tensor of {one.numel()} numbers, more than the file holds')
        elif isinstance(one, (dict, list, tuple)) and id(one) not in seen:
            seen.add(id(one))
            waiting += one.values() if isinstance(one, dict) else one
