"""Seeded damage to files: to their bytes, and to the values in them.

Each kind of damage is a function (random, content) -> content, with `random` a `random.Random`.  Damage to bytes
ignores the format; damage to values keeps the file well-formed and changes what is in it.
"""

import argparse
import contextlib
import copy
import io
import json
import math
import pickle
import struct
from collections.abc import Sequence
from random import Random
from typing import Any

import h5py
import numpy as np
import torch
from PIL import Image

from tests.stress import plain_formats

DEEP, DIGITS = '@deep@', '@digits@'  # stand in JSON for 100,000 nested lists, and for a number of 5000 digits


def flipped(random: Random, content: bytes) -> bytes:
    """One to eight bits are flipped."""
    content = bytearray(content)
    for _ in range(random.randint(1, 8)):
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    return bytes(content)


def cut(random: Random, content: bytes) -> bytes:
    """The end is missing."""
    return content[:random.randrange(len(content))]


def beheaded(random: Random, content: bytes) -> bytes:
    """The beginning is missing."""
    return content[random.randint(1, len(content)):]


def zeroed(random: Random, content: bytes) -> bytes:
    """A run of bytes is zero, as after a crash of a file system."""
    start, length = random.randrange(len(content)), 1 << random.randint(0, 12)
    return content[:start] + bytes(len(content[start:start + length])) + content[start + length:]


def noisy(random: Random, content: bytes) -> bytes:
    """A run of bytes is noise."""
    start, length = random.randrange(len(content)), random.randint(1, 64)
    return content[:start] + random.randbytes(len(content[start:start + length])) + content[start + length:]


def _block(random, content):
    start = random.randrange(len(content))
    return start, start + random.randint(1, max(1, len(content) // 4))


def doubled(random: Random, content: bytes) -> bytes:
    """A block is repeated."""
    start, end = _block(random, content)
    return content[:end] + content[start:end] + content[end:]


def moved(random: Random, content: bytes) -> bytes:
    """A block is moved to another place."""
    start, end = _block(random, content)
    rest, place = content[:start] + content[end:], random.randint(0, len(content) - len(content[start:end]))
    return rest[:place] + content[start:end] + rest[place:]


def longer(random: Random, content: bytes) -> bytes:
    """Noise, zeros, or the file itself is appended."""
    return content + random.choice([random.randbytes(random.randint(1, 999)), bytes(512), content])


def extreme(random: Random, content: bytes) -> bytes:
    """A number of 1 to 8 bytes, most often near the beginning or the end, has an extreme value."""
    size = random.choice([1, 2, 4, 8])
    last = max(1, len(content) - size)
    place = random.choice([random.randrange(last), random.randrange(min(last, 256)),
                           last - 1 - random.randrange(min(last, 256))])
    value = random.choice([b'\0' * size, b'\xff' * size, b'\xff' * (size - 1) + b'\x7f',
                           b'\0' * (size - 1) + b'\x80', b'\x01' + b'\0' * (size - 1)])
    return content[:place] + value + content[place + size:]


def emptied(random: Random, content: bytes) -> bytes:
    """The file has 0 bytes."""
    return b''


BYTES = (flipped, flipped, flipped, cut, beheaded, zeroed, noisy, doubled, moved, longer, extreme, extreme,
         extreme, emptied)


def places_in(value: Any) -> list[tuple[Any, Any]]:
    """All (container, key) of lists, dicts and Namespaces in `value`, at any depth."""
    found, waiting = [], [value]
    while waiting:
        container = waiting.pop()
        container = vars(container) if isinstance(container, argparse.Namespace) else container
        if isinstance(container, (dict, list)):
            keys = list(container) if isinstance(container, dict) else range(len(container))
            found += [(container, key) for key in keys]
            waiting += [container[key] for key in keys]
    return found


def odd_values(random: Random, old: Any, more: Sequence[Any] = ()) -> Any:
    """A value that may not belong in place of `old`; `more` are further candidates."""
    number = old if isinstance(old, (int, float)) else 1
    return random.choice([
        None, True, False, 0, 1, -1, -number, number + 1, number + 0.5, 2 ** 31, 2 ** 63, 10 ** 30, 1e308, -1e308,
        math.nan, math.inf, -math.inf, '', '0', str(old), 'x' * 5000, '\ud800', '\0', '../../up', 'größe 数据',
        '\u202e', [], {}, [old], [old, old], {'a': old}, [[[]]], *more])


def changed(random: Random, value: Any, more: Sequence[Any] = ()) -> Any:
    """A copy of nested dicts and lists with one to three entries dropped, replaced, repeated, swapped or renamed."""
    value = copy.deepcopy(value)
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        places = places_in(value)
        if not places or random.random() < 0.02:
            return odd_values(random, value, more)
        container, key = random.choice(places)
        action = random.choice(['drop', 'odd', 'odd', 'odd', 'twin', 'swap', 'key'])
        if action == 'drop':
            del container[key]
        elif action == 'odd':
            container[key] = odd_values(random, container[key], more)
        elif action == 'twin' and isinstance(container, list):
            container.insert(random.randint(0, len(container)), copy.deepcopy(container[key]))
        elif action == 'swap':
            other, place = random.choice(places)
            container[key] = copy.deepcopy(other.get(place) if isinstance(other, dict) else None)
        elif action == 'key' and isinstance(container, dict):
            name = random.choice(['', '0', '-1', '01', 'x' * 300, '\ud800', str(key) + ' ', '9' * 30])
            container[name] = container.pop(key)
    return value


def json_value(random: Random, content: bytes) -> bytes:
    """A JSON file with another value."""
    text = json.dumps(changed(random, json.loads(content), (DEEP, DIGITS)), ensure_ascii=random.random() < 0.5)
    text = text.replace(f'"{DEEP}"', '[' * 100000 + ']' * 100000).replace(f'"{DIGITS}"', '9' * 5000)
    return text.encode('utf-8', 'surrogatepass')


def json_lines(random: Random, content: bytes) -> bytes:
    """A JSON Lines file with one line changed, repeated, emptied or removed."""
    lines = content.splitlines()
    place = random.randrange(len(lines))
    lines[place:place + 1] = random.choice([[], [lines[place]] * 2, [b''], [json_value(random, lines[place])] * 1,
                                            [json_value(random, lines[place])]])
    return b'\n'.join(lines) + random.choice([b'', b'\n'])


def pickled_value(random: Random, content: bytes) -> bytes:
    """A pickle of another plain value."""
    from misc.disk import pickles
    more = (np.float64(math.nan), np.arange(3), np.zeros((2, 2), np.uint8), b'\xff', (1, 2), {1}, np.int64(-5),
            argparse.Namespace(a=1), 3 + 4j, np.array('a'), np.bool_(True))
    path = io.BytesIO(content)
    unpickler = pickles.PlainUnpickler(path, encoding='latin-1')
    value = pickles.resolved(unpickler.load())
    return pickle.dumps(changed(random, value, more), protocol=random.choice([0, 2, 2, 4]))


def odd_arrays(random: Random, array: Any) -> Any:
    """An array with another element, type, shape or order."""
    array = np.array(array)
    flat = array.reshape(-1)
    with np.errstate(all='ignore'):
        if flat.size and flat.dtype.kind in 'fiu' and random.random() < 0.5:
            values = [math.nan, math.inf, -math.inf, 1e38, -1.0, 0.0, 1e-40] if flat.dtype.kind == 'f' else [
                0, 1, int(flat.max()) + 1, np.iinfo(flat.dtype).max, np.iinfo(flat.dtype).min]
            flat[random.randrange(flat.size)] = np.array(random.choice(values)).astype(flat.dtype)
            return array
        return random.choice([
            lambda: array.astype(np.float64), lambda: array.astype(np.float16), lambda: array.astype('>f4'),
            lambda: array.astype(np.int64), lambda: array.astype(complex), lambda: array.astype(str),
            lambda: array.astype(object), lambda: array.astype(bool), lambda: array.astype(np.float64) * 1e300,
            lambda: array.astype('M8[s]'), lambda: array.astype([('a', 'f4')]), lambda: array.reshape(-1),
            lambda: array[None], lambda: np.float32(1), lambda: array[:-1], lambda: array[:0],
            lambda: np.concatenate([array, array]), lambda: np.asfortranarray(array), lambda: array[..., ::-1],
            lambda: array[..., :-1], lambda: -array, lambda: array * 0, lambda: np.zeros((0, 0, 3)),
            lambda: array.T, lambda: array.astype(np.longdouble)])()


def npy(random: Random, content: bytes) -> bytes:
    """An .npy file of another array."""
    file = io.BytesIO()
    np.save(file, odd_arrays(random, np.load(io.BytesIO(content))))
    return file.getvalue()


def npz(random: Random, content: bytes) -> bytes:
    """An .npz file of another array, or with other names."""
    array, file = np.load(io.BytesIO(content))['feat'], io.BytesIO()
    odd = odd_arrays(random, array)
    held = random.choice([{'feat': odd}, {'feat': odd}, {'feat': odd}, {'other': array},
                          {'a': odd, 'feat': array}, {}])
    random.choice([np.savez, np.savez_compressed])(file, **held)
    return file.getvalue()


def hdf5(random: Random, content: bytes) -> bytes:
    """An HDF5 file with one data set or group removed or replaced."""
    file = io.BytesIO(content)
    with h5py.File(file, 'r+') as inside:
        names = []
        inside.visit(names.append)
        name = random.choice(names)
        old = inside[name]
        array = old[()] if isinstance(old, h5py.Dataset) else np.zeros((2, 3))
        del inside[name]
        random.choice([
            lambda: None,
            lambda: inside.create_group(name),
            lambda: inside.__setitem__(name, h5py.SoftLink('/nowhere')),
            lambda: inside.__setitem__(name, h5py.SoftLink(f'/{name}')),
            lambda: inside.__setitem__(name, h5py.ExternalLink('absent.h5', '/x')),
            lambda: inside.__setitem__(name, 'a word'),
            lambda: inside.create_dataset(name, data=h5py.Empty('f4')),
            lambda: inside.create_dataset(name, (1 << 40, 4), 'f4', chunks=(1024, 4)),
            lambda: inside.create_dataset(name, (1 << 62,), 'u1', chunks=(1024,)),
            *[lambda: inside.__setitem__(name, storable(odd_arrays(random, array)))] * 12])()
    return file.getvalue()


def storable(array: Any) -> np.ndarray:
    """`array`, or a text where HDF5 has no such type."""
    return array if np.asarray(array).dtype.kind in 'fiub' else np.array([b'text'])


def odd_tensors(random: Random, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of another type, shape or value."""
    values = tensor.detach().clone()
    if values.numel() and values.is_floating_point() and random.random() < 0.5:
        values.reshape(-1)[random.randrange(values.numel())] = random.choice([
            math.nan, math.inf, -math.inf, 1e38, -1.0, 0.0])
        return values
    return random.choice([
        lambda: values.double(), lambda: values.half(), lambda: values.to(torch.int64), lambda: values.bool(),
        lambda: values.to(torch.complex64), lambda: values.reshape(-1), lambda: values[None],
        lambda: values.reshape(-1)[:-1].clone(), lambda: torch.zeros(0), lambda: torch.zeros(1).expand(1 << 40),
        lambda: values.t() if values.dim() == 2 else values, lambda: torch.tensor(1.0),
        lambda: values.to_sparse() if values.dim() else values,
        lambda: torch.nn.Parameter(values.float()), lambda: values.to(torch.bfloat16)])()


def tensors(random: Random, content: bytes) -> bytes:
    """A .pth file of other tensors, in the zip layout or the one before PyTorch 1.6."""
    value = torch.load(io.BytesIO(content), weights_only=True)
    places = [(container, key) for container, key in places_in(value) if torch.is_tensor(container[key])]
    if places and random.random() < 0.6:
        container, key = random.choice(places)
        container[key] = odd_tensors(random, container[key])
    else:
        value = changed(random, value, (torch.zeros(2), torch.tensor(math.nan), np.float64(2), (1,)))
    if random.random() >= 0.6:
        with contextlib.suppress(KeyError):  # the plain reader does not know this type of tensor
            return older_layout(value)
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def older_layout(value: object) -> bytes:
    """The file that PyTorch before 1.6 writes, but the same every time: PyTorch names and sorts storages by their
    addresses in memory; here their names are numbers, in the order in which the tensors refer to them."""
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=False)
    content = file.getvalue()
    parts, names, storages = plain_formats.older_parts(content)
    head, texts = content[:parts], {name: binary_text(name) for name in names}
    names.sort(key=lambda name: head.index(texts[name]))
    numbers = [f'{number:04d}' for number in range(len(names))]
    for name, number in zip(names, numbers):
        head = head.replace(texts[name], binary_text(number))
    return head + pickle.dumps(numbers, 2) + b''.join(storages[name] for name in names)


def binary_text(text: str) -> bytes:
    """A text in the encoding of binary pickles."""
    return b'X' + struct.pack('<I', len(text)) + text.encode()


def tsv(random: Random, content: bytes) -> bytes:
    """A file of columns with a line changed, repeated or removed."""
    lines = content.splitlines(keepends=True)
    place = random.randrange(len(lines))
    columns = lines[place].split(b'\t')
    column = random.randrange(len(columns))
    odd = random.choice([b'', b'0', b'-1', b'nan', b'inf', b'1e308', b'9' * 30, b'9' * 5000, b'x', b'\xff', b'1_0',
                         columns[random.randrange(len(columns))], columns[column] + b'=', b' ' + columns[column]])
    other = b'\t'.join([*columns[:column], odd, *columns[column + 1:]])
    gone = b'\t'.join(columns[:column] + columns[column + 1:])
    lines[place:place + 1] = random.choice([[other], [other], [other], [gone], [], [lines[place]] * 2,
                                            [lines[place], other], [other, lines[place]]])
    return b''.join(lines)


def picture(random: Random, content: bytes) -> bytes:
    """A picture of another size, mode or format."""
    image, file = Image.open(io.BytesIO(content)), io.BytesIO()
    mode = random.choice(['L', 'RGB', 'RGBA', 'CMYK', 'P', '1', 'I', 'F', 'I;16', 'LA', 'YCbCr'])
    size = random.choice([(1, 1), (1, 90), (2, 2), image.size])
    form = random.choice(['PNG', 'JPEG', 'GIF', 'TIFF', 'WEBP', 'BMP'])
    try:
        image.convert(mode).resize(size).save(file, form)
    except (OSError, ValueError):  # the format does not have this mode
        return flipped(random, content)
    return flipped(random, file.getvalue()) if random.random() < 0.5 else file.getvalue()


VALUES = {'json': json_value, 'json lines': json_lines, 'pickle': pickled_value, 'npy': npy, 'npz': npz,
          'hdf5': hdf5, 'tensors': tensors, 'tsv': tsv, 'picture': picture, 'bytes': None}


def damaged(random: Random, content: bytes, form: str) -> tuple[bytes | None, str]:
    """Damage `content`, a whole file in the format `form` (a key of `VALUES`) -> (new content, kinds of damage).

    None in place of the content means a folder in place of the file.
    """
    if random.random() < 0.01:
        return None, 'folder'
    of_value = VALUES[form] is not None and random.random() < 0.5
    first = VALUES[form] if of_value else random.choice(BYTES)
    changed_once = first(random, content)
    if not of_value and changed_once and random.random() < 0.2:
        second = random.choice(BYTES)
        return second(random, changed_once), f'{first.__name__}, {second.__name__}'
    return changed_once, first.__name__
