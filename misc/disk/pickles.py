"""Reading pickles without running what is in them, and writing them whole.

An ordinary unpickler calls whatever the file names.  This one calls nothing but plain
containers and the stand-ins below: `argparse.Namespace`, and NumPy arrays and scalars of plain
numbers or strings, rebuilt here from their bytes and never by NumPy's own `__setstate__` (which
believes what a file says about memory).  Files of Python 2 are read too, byte strings as Latin-1.
"""

import argparse
import collections
import math
import os
import pickle
import re

import numpy as np

from misc.cli import DataError
from misc.disk import nesting
from misc.disk.files import replacing

PLAIN_DTYPE = re.compile('[<>|=]?[?biufcSU][0-9]{0,9}')  # no objects, no records, no sub-arrays


def load(path, made_by='', opened=open):
    """The object pickled in the file `path`; nothing that the file names is run.

    `made_by` is the command (or the source) a message names when the file is missing or broken; `opened`
    opens the file, where its content may lie elsewhere.
    Raises `DataError`, naming the file and, where something is refused, what it asked for.
    """
    path = os.fspath(path)
    again = f'; make it with: {made_by}' if made_by else ''
    try:
        with opened(path, 'rb') as file:
            nesting.check(file)
            file.seek(0)
            unpickler = PlainUnpickler(file, encoding='latin-1')
            value = unpickler.load()
            return settled(value, {}) if unpickler.asked_for_numpy else value
    except FileNotFoundError:
        raise DataError(f'there is no file {path}{again}') from None
    except IsADirectoryError:
        raise DataError(f'{path} is a folder, not a pickle file{again}') from None
    except OSError as error:
        raise DataError(f'{path} cannot be read ({error.strerror}){again}') from None
    except Refused as error:
        raise DataError(f'{path} asks for {error}, which was refused and not run: only plain containers, '
                        'numbers, strings, NumPy arrays and argparse.Namespace are read') from None
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError,
            OverflowError, MemoryError, RecursionError) as error:
        raise DataError(f'{path} is not a whole pickle file '
                        f'({str(error)[:120] or type(error).__name__}){again}') from None


def dump(path, value):
    """Pickle `value` into the file `path`, whole or not at all, so that older readers take it too."""
    with replacing(path) as file:
        pickle.dump(value, file, protocol=2)


class Refused(Exception):
    """The file asks for something that plain values have no need of; the text names it."""


class PlainUnpickler(pickle.Unpickler):
    """An unpickler that knows the names in `ADMITTED` and no others."""

    asked_for_numpy = False

    def find_class(self, module, name):
        """The stand-in for `module.name`; raises `Refused` where there is none."""
        if (module, name) not in ADMITTED:
            raise Refused(f'{module}.{name}'[:200])
        found = ADMITTED[module, name]
        self.asked_for_numpy |= found in (Dtype, Reconstruct, FromBuffer)
        return found

    def persistent_load(self, pid):
        raise Refused('an object outside the file (a persistent id)')


class Sealed(type):
    """The type of the stand-ins: a file can set attributes on what it loads, but not on these."""

    def __setattr__(cls, name, value):
        raise Refused(f'a new attribute of {cls.__name__}')


class Namespace(argparse.Namespace, metaclass=Sealed):
    """Stands in for `argparse.Namespace`, and makes a real one."""

    def __new__(cls):
        return argparse.Namespace()


class Base(metaclass=Sealed):
    """Stands in for `object`, which Python 2 names as the base of what it rebuilds."""

    def __new__(cls, *args):
        raise Refused('a bare object')


class Rebuild(metaclass=Sealed):
    """Stands in for `copy_reg._reconstructor`, for Namespace alone."""

    def __new__(cls, kind, base, state):
        if kind is not Namespace or base is not Base or state is not None:
            raise Refused('copy_reg._reconstructor of something other than argparse.Namespace')
        return argparse.Namespace()


class Encode(metaclass=Sealed):
    """Stands in for `_codecs.encode`, by which Python 3 writes bytes in old protocols."""

    def __new__(cls, text, encoding):
        if not isinstance(text, str) or encoding not in ('latin1', 'latin-1'):
            raise Refused(f'_codecs.encode with {encoding!r}'[:200])
        return text.encode('latin-1')


class EmptyBytes(metaclass=Sealed):
    """Stands in for `bytes`, by which Python 3 writes b'' in old protocols."""

    def __new__(cls):
        return b''


class NdArray(metaclass=Sealed):
    """Stands in for the type `numpy.ndarray`, which is named but never called."""

    def __new__(cls, *args):
        raise Refused('numpy.ndarray called outside its reconstructor')


class Dtype(metaclass=Sealed):
    """Stands in for `numpy.dtype`; `value` is the real one."""

    __slots__ = ('value',)
    __hash__ = None

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
    """Stands in for NumPy's `_reconstruct`; after loading, `settled` puts `value` in its place."""

    __slots__ = ('value',)
    __hash__ = None

    def __init__(self, kind, shape, code):
        if kind is not NdArray:
            raise Refused('a NumPy array of a class of its own')
        self.value = np.zeros(0)

    def __setstate__(self, state):
        version, shape, dtype, fortran, content = state
        self.value = array_of(content, dtype, shape, 'F' if fortran else 'C')


class FromBuffer(Reconstruct):
    """Stands in for NumPy's `_frombuffer`, which protocol 5 uses."""

    __slots__ = ()

    def __init__(self, content, dtype, shape, order):
        self.value = array_of(content, dtype, shape, order)


class Scalar(metaclass=Sealed):
    """Stands in for NumPy's `scalar`."""

    def __new__(cls, dtype, content=b''):
        return array_of(content, dtype, (), 'C')[()]


def array_of(content, dtype, shape, order):
    """A NumPy array of its own memory from bytes (or a Latin-1 string, as Python 2 has them)."""
    if not isinstance(dtype, Dtype):
        raise Refused('a NumPy array without a type')
    if isinstance(content, str):
        content = content.encode('latin-1')
    if not isinstance(content, (bytes, bytearray)):
        raise Refused('a NumPy array of objects')
    if len(content) != math.prod(shape) * dtype.value.itemsize:
        raise ValueError(f'an array of shape {shape} does not have {len(content)} bytes')
    return np.ndarray(shape, dtype.value, content, order=order).copy(order='K')


def settled(value, seen):
    """`value` with every stand-in for an array, at any depth, replaced by its array.

    Containers that can change are changed in place; tuples are made anew.  `seen` keeps what was
    visited, by id, for values that are held in several places or that hold themselves.
    """
    if isinstance(value, (Reconstruct, Dtype)):
        return value.value
    if not isinstance(value, (list, tuple, dict, argparse.Namespace)):
        return value
    if id(value) in seen:
        return seen[id(value)]
    seen[id(value)] = value
    if isinstance(value, list):
        value[:] = [settled(item, seen) for item in value]
    elif isinstance(value, dict):
        for key in value:
            value[key] = settled(value[key], seen)
    elif isinstance(value, argparse.Namespace):
        settled(vars(value), seen)
    else:
        seen[id(value)] = tuple(settled(item, seen) for item in value)
    return seen[id(value)]


def admitted():
    """{(module, name): what an unpickler may call under that name}."""
    names = {('collections', 'OrderedDict'): collections.OrderedDict,
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


ADMITTED = admitted()
