"""Plain readers of the project's file formats: short, careless, and independent of the readers they are compared to.

On damaged files they raise any error.
"""

import argparse
import ast
import base64
import codecs
import collections
import io
import json
import math
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image, ImageOps

MAGIC = 0x1950a86a20f9469cfc6c  # the first value in files of PyTorch before 1.6
STORAGES = {'FloatStorage': 'f4', 'DoubleStorage': 'f8', 'HalfStorage': 'f2', 'LongStorage': 'i8',
            'IntStorage': 'i4', 'ShortStorage': 'i2', 'CharStorage': 'i1', 'ByteStorage': 'u1',
            'BoolStorage': '?', 'ComplexFloatStorage': 'c8', 'BFloat16Storage': 'u2'}


def npy(content: bytes) -> np.ndarray:
    """The array of an .npy file, as float32; all numbers must be finite."""
    header, start = npy_header(content)
    dtype = np.dtype(header['descr'])
    if dtype.kind not in 'fiu':
        raise ValueError('not numbers')
    count = math.prod(header['shape'])
    array = np.frombuffer(content[start:start + count * dtype.itemsize], dtype)
    with np.errstate(all='ignore'):
        array = array.reshape(header['shape'], order='F' if header['fortran_order'] else 'C').astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError('not finite')
    return array


def npy_header(content: bytes) -> tuple[dict[str, Any], int]:
    """The dict in the header of an .npy file, and the position after the header."""
    if content[:6] != b'\x93NUMPY':
        raise ValueError('not an .npy file')
    size, = struct.unpack('<H', content[8:10]) if content[6] == 1 else struct.unpack('<I', content[8:12])
    start = 10 if content[6] == 1 else 12
    return ast.literal_eval(content[start:start + size].decode('latin-1').strip()), start + size


def npz(path: Path) -> np.ndarray:
    """The array under the key `feat` of an .npz file."""
    with zipfile.ZipFile(path) as archive:
        return npy(archive.read('feat.npy'))


def npz_shape(path: Path) -> tuple[int, ...]:
    """The shape of that array, from the first bytes of the file."""
    with zipfile.ZipFile(path) as archive, archive.open('feat.npy') as file:
        return npy_header(file.read(256))[0]['shape']


def packed(path: Path, kind: str) -> dict[str, np.ndarray]:
    """{id: array} of a packed file."""
    with h5py.File(path) as file:
        offsets, rows, arrays = file[f'{kind}/offsets'][:], file[f'{kind}/rows'][:].astype(np.float32), {}
        maps = file[f'{kind}/maps'][:].tolist() if f'{kind}/maps' in file else [[0, 0]] * len(file['ids'])
        state = file['state'][:] if 'state' in file else np.ones(len(file['ids']))
        for image_id, start, end, (height, width), written in zip(
                file['ids'][:].tolist(), offsets[:-1], offsets[1:], maps, state, strict=True):
            if written > 0:
                one = rows[start:end]
                arrays[str(image_id)] = one.reshape(height, width, -1) if height else one
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise ValueError('not finite')
        return arrays


def packed_sizes(path: Path) -> dict[str, tuple]:
    """{id: (width, height)} of a packed file."""
    with h5py.File(path) as file:
        pairs = zip(file['ids'][:].tolist(), file['sizes'][:].tolist()) if 'sizes' in file else ()
        return {str(image_id): tuple(size) for image_id, size in pairs if all(size)}


def labels(path: Path) -> list[list[list[int]]]:
    """The captions of each image in a label file, as lists of words."""
    with h5py.File(path) as file:
        rows = file['labels'][:].tolist()
        return [[[word for word in row if word] for row in rows[int(start) - 1:int(end)]]
                for start, end in zip(file['label_start_ix'][:], file['label_end_ix'][:], strict=True)]


def read_json(path: Path) -> Any:
    """The value of a JSON file, or the list of the objects in its lines."""
    content = path.read_bytes()
    text = content.decode(json.detect_encoding(content))
    try:
        return json.loads(text)
    except ValueError:
        values = [json.loads(line) for line in text.split('\n') if line.strip()]
        if len(values) < 2 or not all(isinstance(value, dict) for value in values):
            raise
        return values


def whole_number(value: Any) -> int | None:
    """The whole number that an id stands for, or None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer() and abs(value) < 2 ** 53:
        return int(value)
    if isinstance(value, str) and re.fullmatch(r'\s*-?[0-9]{1,40}(\.0*)?\s*', value):
        return int(value.split('.')[0])
    return value if isinstance(value, int) else None


def split_images(path: Path) -> list[tuple[int, str, list]]:
    """The complete records of a split file: [(id, split, [tokens])]."""
    images: dict[int, tuple] = {}
    content = read_json(path)
    records = [one for one in (content['images'] if isinstance(content, dict) else content) if isinstance(one, dict)]
    key = next(key for key in ('cocoid', 'imgid', 'image_id', 'img_id', 'id')
               if any(one.get(key) is not None for one in records))
    ids = [whole_number(one.get(key)) for one in records]
    for image_id, record in zip(ids, records):
        split, sentences = record.get('split'), record.get('sentences')
        sentences = [sentences] if isinstance(sentences, dict) else sentences if isinstance(sentences, list) else []
        captions = [words for one in sentences if isinstance(one, dict) and (words := words_of(one.get('tokens')))]
        if image_id is None or not 0 <= image_id < 2 ** 63 or not isinstance(split, str) or not split or not captions:
            continue
        name = re.sub(r'[ _-]?20\d\d$', '', split.strip().lower())
        name = {'training': 'train', 'testing': 'test', **dict.fromkeys(
            ('valid', 'validation', 'dev', 'development'), 'val')}.get(name, name)
        split = name if name in ('train', 'restval', 'val', 'test') else split
        file = (record.get('filepath'), record.get('filename'), split)
        if image_id not in images:
            images[image_id] = (file, captions)
        elif images[image_id][0] == file and 2 * len(set(ids)) <= len(ids):   # a record for each sentence
            images[image_id][1].extend(captions)
    return [(image_id, file[2], captions) for image_id, (file, captions) in images.items()]


def words_of(tokens: Any) -> list[str]:
    """The words of a sentence, [] of what is none."""
    if isinstance(tokens, str):
        tokens = re.split('[ \t\r\n]', tokens)
    if not isinstance(tokens, list) or not all(isinstance(word, str) for word in tokens):
        return []
    return [word.strip(' \t\r\n') for word in tokens if word.strip(' \t\r\n')]


def archive(path: Path) -> dict[str, tuple]:
    """{id: (size, boxes, features)} of the valid lines of an archive's file; the first line of an image counts."""
    found = {}
    for line in path.read_bytes().split(b'\n'):
        try:
            columns = line.rstrip(b'\r\n').split(b'\t')
            image_id, width, height, count = (column.decode('ascii') for column in columns[:4])
            boxes, features = (np.frombuffer(base64.b64decode(text, validate=True), '<f4')
                               .reshape(int(count), size)
                               for text, size in zip(columns[4:], (4, 2048), strict=True))
            good = (image_id.isdigit() and len(image_id) < 19 and count.isdigit() and int(count)
                    and 0 < float(width) < math.inf and 0 < float(height) < math.inf
                    and np.isfinite(boxes).all() and np.isfinite(features).all()
                    and (boxes[:, :2] <= boxes[:, 2:]).all())
            if good:
                found.setdefault(str(int(image_id)), ((float(width), float(height)), boxes, features))
        except ValueError:
            continue
    return found


class Array:
    """What a pickle says of a NumPy array."""

    def __init__(self, *about: Any) -> None:
        self.about = about

    def __setstate__(self, state: tuple) -> None:
        self.about = state[1:]

    def value(self) -> np.ndarray:
        """The array."""
        shape, dtype, fortran, content = self.about
        content = content.encode('latin-1') if isinstance(content, str) else content
        return np.frombuffer(content, dtype.value()).reshape(shape, order='F' if fortran else 'C')


class Dtype:
    """What a pickle says of a NumPy type."""

    def __init__(self, name: str, *_: object) -> None:
        self.name, self.order = name, '='

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]

    def value(self) -> np.dtype:
        """The type."""
        return np.dtype(self.name).newbyteorder(self.order)


class Storage(tuple):
    """A reference to the bytes of tensors: (key, name of the type, number of elements)."""


class Plain(pickle._Unpickler):
    """The unpickler in Python, for plain values, arrays and tensors."""

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a class or function of the pickle."""
        known: dict[str, Any] = {
            'Namespace': argparse.Namespace, 'OrderedDict': collections.OrderedDict, 'encode': codecs.encode,
            'defaultdict': collections.defaultdict, 'float': float, 'int': int, 'list': list, 'dict': dict,
            'set': set, 'frozenset': frozenset, 'complex': complex, 'bytes': bytes, 'ndarray': None,
            'object': object, '_reconstructor': lambda kind, base, state: kind(), 'dtype': Dtype,
            '_reconstruct': Array, '_rebuild_tensor_v2': self.tensor,
            '_rebuild_parameter': lambda tensor, *_: tensor,
            '_frombuffer': lambda content, dtype, shape, order: array_of(content, dtype, shape, order),
            'scalar': lambda dtype, content=b'': array_of(content, dtype, (), 'C')[()]}
        if module.startswith('torch') and name in STORAGES:
            return name
        return known[name]

    def persistent_load(self, pid: tuple) -> Storage:
        """The reference to a storage."""
        kind, storage, key, _, size, *_ = pid
        return Storage((key, storage, size))

    def tensor(self, storage: Storage, offset: int, shape: tuple, strides: tuple, *_: object) -> 'Tensor':
        """A tensor, to be read when the storages are known."""
        return Tensor(storage, offset, shape, strides)


class Tensor:
    """A tensor whose storage is read later."""

    def __init__(self, *about: Any) -> None:
        self.about = about

    def value(self, storages: Mapping[str, bytes]) -> np.ndarray:
        """The array of the tensor; `storages` is {key: bytes}."""
        (key, kind, _), offset, shape, strides = self.about
        flat = np.frombuffer(storages[str(key)], '<' + STORAGES[kind])
        if kind == 'BFloat16Storage':
            flat = (flat.astype(np.uint32) << 16).view(np.float32)
        places = offset + sum((np.arange(size).reshape(-1, *[1] * (len(shape) - axis - 1)) * stride
                               for axis, (size, stride) in enumerate(zip(shape, strides))), np.zeros((), int))
        if np.size(places) and (np.min(places) < 0 or np.max(places) >= len(flat)):
            raise ValueError('a tensor outside its storage')
        return flat[places]


def array_of(content: str | bytes, dtype: Dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    """The array with these bytes."""
    content = content.encode('latin-1') if isinstance(content, str) else bytes(content)
    return np.frombuffer(content, dtype.value()).reshape(shape, order=order)


def settled(value: Any, storages: Mapping[str, bytes] | None = None) -> Any:
    """`value` with arrays in place of what stands for arrays and tensors, and dicts in place of Namespaces."""
    if isinstance(value, Tensor):
        return value.value(storages)
    if isinstance(value, (Array, Dtype)):
        return value.value()
    if isinstance(value, argparse.Namespace):
        return {name: settled(one, storages) for name, one in vars(value).items()}
    if isinstance(value, dict):
        return {key: settled(one, storages) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(settled(one, storages) for one in value)
    return value


def pickled(path: Path) -> Any:
    """The value of a pickle file."""
    return settled(Plain(io.BytesIO(path.read_bytes()), encoding='latin-1').load())


def tensors(path: Path) -> Any:
    """The value of a .pth file of either layout, tensors as arrays."""
    content = path.read_bytes()
    if content[:4] == b'PK\x03\x04':
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith('/data.pkl'))
            folder = name.removesuffix('data.pkl')
            value = Plain(io.BytesIO(archive.read(name)), encoding='utf-8').load()
            return settled(value, {inner.removeprefix(f'{folder}data/'): archive.read(inner)
                                   for inner in archive.namelist() if inner.startswith(f'{folder}data/')})
    value = older_value(io.BytesIO(content))
    return settled(value, {name: storage[8:] for name, storage in older_parts(content)[2].items()})


def older_value(file: io.BytesIO) -> Any:
    """The fourth pickle in a file of PyTorch before 1.6, with `Tensor`s in it; leaves the position behind it."""
    magic, _, _, value = (Plain(file, encoding='utf-8').load() for _ in range(4))
    if magic != MAGIC:
        raise ValueError('another magic number')
    return value


def older_parts(content: bytes) -> tuple[int, list[str], dict[str, bytes]]:
    """Parts of such a file: the position of its fifth pickle, the names of the storages listed there, and
    {name: bytes of a storage, the count of its numbers first}."""
    file, types, storages = io.BytesIO(content), {}, {}
    note_types(older_value(file), types)
    place = file.tell()
    names = [str(name) for name in Plain(file, encoding='utf-8').load()]
    for name in names:
        count = file.read(8)
        # torch counts bytes in 64 bits.
        size = int.from_bytes(count, 'little') * np.dtype(STORAGES[types[name]]).itemsize % (1 << 64)
        storages[name] = count + file.read(size)
    return place, names, storages


def note_types(value: Any, types: dict[str, str]) -> None:
    """Add {name: type} of all storages that `value` refers to to `types`."""
    if isinstance(value, Tensor):
        types[str(value.about[0][0])] = value.about[0][1]
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
        note_types(one, types)


def picture(path: Path, upright: bool = False) -> np.ndarray:
    """The RGB pixels of a picture."""
    with Image.open(path) as image:
        image.load()
        image = ImageOps.exif_transpose(image) if upright else image
        if image.mode.startswith('I'):
            return np.repeat(np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255)
                             .astype(np.uint8)[:, :, None], 3, 2)
        if image.mode in ('RGBA', 'RGBa', 'LA', 'La', 'PA') or 'transparency' in image.info:
            image = image.convert('RGBA')
            image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
        if image.mode == 'F':
            raise ValueError('the range of values is unknown')
        return np.array(image.convert('RGB'))
