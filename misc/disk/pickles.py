"""Reading pickles without running what is in them, and writing them atomically.

An ordinary unpickler calls whatever the file names.  This one calls only what `ADMITTED` lists: plain containers,
and the stand-ins below for `argparse.Namespace` and for NumPy arrays and scalars of plain numbers or strings.
Arrays are rebuilt here from their bytes, never by NumPy's `__setstate__`, which trusts the file about memory.
Work and memory are bounded by the size of the file, and no value holds itself (see misc/disk/nesting.py).
Files of Python 2 are read too, their byte strings as Latin-1.
"""

import argparse
import collections
import math
import os
import pickle
import re
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from misc.cli import DataError
from misc.disk import nesting
from misc.disk.files import StrPath, open_regular, replacing

PLAIN_DTYPE = re.compile('[<>|=]?[?biufcSU][0-9]{0,9}')  # no objects, no records, no sub-arrays


def load(path: StrPath, made_by: str = '', opened: Callable[..., IO[bytes]] = open_regular) -> Any:
    """The value pickled in `path`; nothing that the file names is run.

    `made_by`, the command that makes the file (or its source), ends the message about a missing or damaged file.
    `opened` replaces `open`, for files whose content may be elsewhere.  Raises `DataError`, which names the file
    and, where something is refused, what the file asks for.
    """
    path = os.fspath(path)
    make_it = f'; make it with: {made_by}' if made_by else ''
    try:
        with opened(path, 'rb') as file:
            nesting.check_pickle(file)
            size = file.tell()
            file.seek(0)
            unpickler = PlainUnpickler(file, encoding='latin-1')
            value = unpickler.load()
            nesting.check_value(value, size)
            return resolved(value) if unpickler.met_numpy else value
    except FileNotFoundError:
        raise DataError(f'there is no file {path}{make_it}') from None
    except IsADirectoryError:
        raise DataError(f'{path} is a folder, not a pickle file{make_it}') from None
    except OSError as error:
        raise DataError(f'{path} cannot be read ({error.strerror}){make_it}') from None
    except Refused as error:
        raise DataError(f'{path} asks for {error}, which was refused and not run: only plain containers, '
                        'numbers, strings, NumPy arrays and argparse.Namespace are read') from None
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError,
            OverflowError, MemoryError, RecursionError) as error:
        raise DataError(f'{path} is not a valid pickle file '
                        f'({str(error)[:120] or type(error).__name__}){make_it}') from None


def dump(path: StrPath, value: Any) -> None:
    """Pickle `value` into `path`, atomically, in protocol 2, which Python 2 and older programs read."""
    with replacing(path) as file:
        pickle.dump(value, file, protocol=2)


class Refused(Exception):
    """The file asks for something that plain values do not need; the text names it."""


class PlainUnpickler(pickle.Unpickler):
    """An unpickler that knows the names in `ADMITTED` and no others."""

    met_numpy = False  # whether the value may hold stand-ins, which `resolved` replaces

    def find_class(self, module: str, name: str) -> Any:
        """What is called for `module.name`.  Raises `Refused` where it is not admitted."""
        if (module, name) not in ADMITTED:
            raise Refused(f'{module}.{name}'[:200])
        found = ADMITTED[module, name]
        self.met_numpy |= found in (Dtype, Reconstruct, FromBuffer)
        return found

    def persistent_load(self, pid: Any) -> Any:
        """Always `Refused`: plain values have no persistent ids."""
        raise Refused('an object outside the file (a persistent id)')


# ---- stand-ins: what is called in place of what a file names ----

class Sealed(type):
    """The metaclass of the stand-ins.  A pickle can set attributes on whatever it loads, classes included."""

    def __setattr__(cls, name, value):
        raise Refused(f'a new attribute of {cls.__name__}')


class Namespace(argparse.Namespace, metaclass=Sealed):
    """For `argparse.Namespace`: makes an empty one, whose attributes the file then sets."""

    def __new__(cls):
        return argparse.Namespace()


class Base(metaclass=Sealed):
    """For `object`, which Python 2 names as the base of what it rebuilds; never made."""

    def __new__(cls, *args):
        raise Refused('a bare object')


class Rebuild(metaclass=Sealed):
    """For `copy_reg._reconstructor`: makes an `argparse.Namespace`, and nothing else."""

    def __new__(cls, kind, base, state):
        if kind is not Namespace or base is not Base or state is not None:
            raise Refused('copy_reg._reconstructor of something other than argparse.Namespace')
        return argparse.Namespace()


class Encode(metaclass=Sealed):
    """For `_codecs.encode`, with which Python 3 writes bytes in protocols 0 to 2."""

    def __new__(cls, text, encoding):
        if not isinstance(text, str) or encoding not in ('latin1', 'latin-1'):
            raise Refused(f'_codecs.encode with {encoding!r}'[:200])
        return text.encode('latin-1')


class EmptyBytes(metaclass=Sealed):
    """For `bytes`, with which Python 3 writes b'' in protocols 0 to 2."""

    def __new__(cls):
        return b''


class NdArray(metaclass=Sealed):
    """For the type `numpy.ndarray`, which files pass to `_reconstruct`; never made."""

    def __new__(cls, *args):
        raise Refused('numpy.ndarray called outside its reconstructor')


class Dtype(metaclass=Sealed):
    """For `numpy.dtype`; the real one is `value`."""

    __slots__ = ('value',)
    __hash__ = None  # type: ignore[assignment]  # a stand-in as a key would stay in place

    def __init__(self, name, align=False, copy=False):
        if not isinstance(name, str) or not PLAIN_DTYPE.fullmatch(name):
            raise Refused(f'a NumPy type {name!r} (only plain numbers and strings are read)'[:200])
        self.value = np.dtype(name)

    def __setstate__(self, state):
        version, order, subdtype, names, fields, size = state[:6]
        if (subdtype, names, fields) != (None, None, None) or len(state) > 8 or size not in (
                -1, self.value.itemsize) or order not in ('<', '>', '=', '|'):
            raise Refused('a NumPy type that is no plain number or string')
        self.value = self.value.newbyteorder(order)


class Reconstruct(metaclass=Sealed):
    """For NumPy's `_reconstruct`: an array that `__setstate__` fills; the real one is `value`."""

    __slots__ = ('value',)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, kind, shape, code):
        if kind is not NdArray:
            raise Refused('a NumPy array of a class of its own')
        self.value = np.zeros(0)

    def __setstate__(self, state):
        version, shape, dtype, fortran, content = state
        self.value = _array(content, dtype, shape, 'F' if fortran else 'C')


class FromBuffer(Reconstruct):
    """For NumPy's `_frombuffer`, which protocol 5 uses."""

    __slots__ = ()

    def __init__(self, content, dtype, shape, order):
        self.value = _array(content, dtype, shape, order)


class Scalar(metaclass=Sealed):
    """For NumPy's `scalar`: makes the real one."""

    def __new__(cls, dtype, content=b''):
        return _array(content, dtype, (), 'C')[()]


def _array(content, dtype, shape, order):
    """A NumPy array with memory of its own from bytes (a Latin-1 string in files of Python 2)."""
    if not isinstance(dtype, Dtype):
        raise Refused('a NumPy array without a type')
    if isinstance(content, str):
        content = content.encode('latin-1')
    if not isinstance(content, (bytes, bytearray)):
        raise Refused('a NumPy array of objects')
    if len(content) != math.prod(shape) * dtype.value.itemsize:
        raise ValueError(f'an array of shape {shape} does not have {len(content)} bytes')
    return np.ndarray(shape, dtype.value, content, order=order).copy(order='K')


def resolved(value: Any, seen: dict[int, Any] | None = None) -> Any:
    """`value` with its real arrays in place of the stand-ins, at any depth.

    Lists, dicts and namespaces are changed in place, tuples are made anew.  `seen` maps ids of visited values to
    their results: values may be held in several places.
    """
    seen = {} if seen is None else seen
    if isinstance(value, (Reconstruct, Dtype)):
        return value.value
    if not isinstance(value, (list, tuple, dict, argparse.Namespace)):
        return value
    if id(value) in seen:
        return seen[id(value)]
    seen[id(value)] = value
    if isinstance(value, list):
        value[:] = [resolved(item, seen) for item in value]
    elif isinstance(value, dict):
        for key in value:
            value[key] = resolved(value[key], seen)
    elif isinstance(value, argparse.Namespace):
        resolved(vars(value), seen)
    else:
        seen[id(value)] = tuple(resolved(item, seen) for item in value)
    return seen[id(value)]


def _admitted() -> dict[tuple[str, str], Any]:
    """{(module, name): what the unpickler calls under that name}."""
    names: dict[tuple[str, str], Any] = {
        ('collections', 'OrderedDict'): collections.OrderedDict,
        ('collections', 'defaultdict'): collections.defaultdict,
        ('argparse', 'Namespace'): Namespace,
        ('_codecs', 'encode'): Encode,
        ('numpy', 'ndarray'): NdArray,
        ('numpy', 'dtype'): Dtype}
    for module in ('__builtin__', 'builtins'):
        for kind in (int, float, complex, list, dict, set, frozenset):
            names[module, kind.__name__] = kind
        names.update({(module, 'long'): int, (module, 'object'): Base, (module, 'bytes'): EmptyBytes})
    for module in ('copy_reg', 'copyreg'):
        names[module, '_reconstructor'] = Rebuild
    for core in ('numpy.core', 'numpy._core'):
        names[f'{core}.multiarray', '_reconstruct'] = Reconstruct
        names[f'{core}.multiarray', 'scalar'] = Scalar
        names[f'{core}.numeric', '_frombuffer'] = FromBuffer
    return names


ADMITTED = _admitted()
