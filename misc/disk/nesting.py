"""Bounds on the work, memory, size and depth that a pickle asks for.

A few hundred bytes can hold a tuple that contains another one twice, which contains a third one twice, and so on:
hashing or comparing the outermost never ends.  A kilobyte can ask for the same megabyte to be copied a thousand
times.  Numbers can be chosen so that all of them have the same hash.  Values nested thousands deep exhaust the stack.

`check_pickle` reads the opcodes of a pickle to its end, before any value is built, with an `Extent` on the stack in
place of each value, and adds up what an unpickler would hash and copy.  What an opcode takes from the stack and
leaves there is what the standard library's `pickletools` says about it.  Lists and dicts may still be filled after
they were put into others, so `check_value` looks at those again, in the value that was loaded.
"""

import argparse
import collections
import contextlib
import mmap
import pickletools
from typing import IO, Any

MAX_DEPTH = 200
FREE, PER_BYTE = 100_000, 8   # parts that values may have, and work that loading may take: FREE + PER_BYTE * bytes
MAX_NUMBER_KEYS = 1000        # keys of long numbers, or of tuples of numbers, whose hashes can be chosen
FREE_MEMO = 1000              # places of the memo that may be left out

OPCODES = {opcode.code.encode('latin-1'): opcode for opcode in pickletools.opcodes}
TEXTS = {'STRING', 'BINSTRING', 'SHORT_BINSTRING', 'UNICODE', 'SHORT_BINUNICODE', 'BINUNICODE', 'BINUNICODE8',
         'BINBYTES', 'SHORT_BINBYTES', 'BINBYTES8', 'BYTEARRAY8'}
LONGS = {'INT', 'LONG', 'LONG1', 'LONG4'}
SHORT = 7  # bytes of an integer that is its own hash
PUTS = {'PUT', 'BINPUT', 'LONG_BINPUT'}
GETS = {'GET', 'BINGET', 'LONG_BINGET'}
TUPLES = {'TUPLE': 0, 'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3}
CALLS = {'REDUCE', 'NEWOBJ', 'NEWOBJ_EX', 'OBJ', 'INST', 'BUILD', 'FROZENSET'}  # read all of their operands
LENGTHS = {pickletools.TAKEN_FROM_ARGUMENT1: 1, pickletools.TAKEN_FROM_ARGUMENT4: 4,
           pickletools.TAKEN_FROM_ARGUMENT4U: 4, pickletools.TAKEN_FROM_ARGUMENT8U: 8}

PLAIN_TYPES = (str, float, int, bool, type(None), bytes)


class Extent:
    """What stands for a value.

    weight   its parts, each counted as often as it is reached, and the bytes of its texts; without those of `parts`
    depth    how deep it is nested
    numbers  how many of its parts have a hash that the file can choose, if they are used as keys
    parts    the lists and dicts in it, which may still grow
    """

    __slots__ = 'weight', 'depth', 'numbers', 'parts'

    def __init__(self, weight: int, depth: int = 1, numbers: int = 0, parts: 'list[Extent] | None' = None) -> None:
        self.weight, self.depth, self.numbers, self.parts = weight, depth, numbers, parts


MARK = Extent(0, 0)    # what the opcode MARK puts on the stack
NUMBER = Extent(1)     # a number or constant: harmless as a key, but not in a tuple that is one
_TEXTS = [Extent(1 + length) for length in range(256)]
_SHORT_TEXTS = frozenset(_TEXTS)


def check_pickle(file: IO[bytes]) -> None:
    """Read one pickle from the open `file`; raise `ValueError` if a value in it is too large or too deep, or if
    loading it takes far more work or memory than the file has bytes.

    Where opcodes take more from the stack or the memo than is there, a `LookupError` is raised.
    """
    start = file.tell()
    try:
        mapped: bytes | mmap.mmap = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # not a file of the system, or an empty one
        file.seek(0)
        mapped = file.read()
    with contextlib.closing(mapped) if isinstance(mapped, mmap.mmap) else contextlib.nullcontext():
        file.seek(_Check(mapped, start).run())


class _Check:
    """One run over the opcodes of a pickle."""

    def __init__(self, content: bytes | mmap.mmap, place: int) -> None:
        """content: the file's, whose pickle begins at `place`."""
        self.content, self.start, self.place = content, place, place
        self.stack: list[Extent] = []
        self.memo: dict[int, Extent] = {}
        self.flat: dict[tuple[Extent, ...], Extent] = {}  # by their items: tuples of short texts
        self.work = self.number_keys = 0

    def run(self) -> int:
        """Check the pickle -> where it ends."""
        name = ''
        while name != 'STOP':
            self._frequent()
            name, length = self._opcode()
            self._other(name, length)
        return self.place

    def _frequent(self) -> None:
        """Run opcodes while they are among the few that tables of millions of n-grams consist of."""
        content, place, stack, memo, flat = self.content, self.place, self.stack, self.memo, self.flat
        end = len(content) - 16  # the longest of these opcodes, but for texts
        while place < end:
            code = content[place]
            if code == 0x6A:    # LONG_BINGET
                stack.append(memo[int.from_bytes(content[place + 1:place + 5], 'little')])
                place += 5
            elif code == 0x68:  # BINGET
                stack.append(memo[content[place + 1]])
                place += 2
            elif code == 0x72:  # LONG_BINPUT
                put = int.from_bytes(content[place + 1:place + 5], 'little')
                if put > FREE_MEMO + place - self.start:
                    break
                memo[put] = stack[-1]
                place += 5
            elif code == 0x71:  # BINPUT
                memo[content[place + 1]] = stack[-1]
                place += 2
            elif code == 0x94:  # MEMOIZE
                memo[len(memo)] = stack[-1]
                place += 1
            elif 0x85 <= code <= 0x87 or code == 0x74:  # TUPLE1, TUPLE2, TUPLE3, TUPLE
                count = code - 0x84
                if code == 0x74:
                    count = 0
                    while count < 8 and stack[-count - 1] is not MARK:
                        count += 1
                made = flat.get(tuple(stack[-count:]))
                if made is None or not count:
                    break
                del stack[-count - (code == 0x74):]  # and the mark
                stack.append(made)
                place += 1
            elif code == 0x47:  # BINFLOAT
                stack.append(NUMBER)
                place += 9
            elif code == 0x28:  # MARK
                stack.append(MARK)
                place += 1
            else:
                break
        self.place = place

    def _other(self, name: str, length: int) -> None:
        """Do to stack and memo what an opcode does."""
        stack, opcode = self.stack, OPCODES_BY_NAME[name]
        if name in GETS:
            stack.append(self.memo[length])
        elif name in PUTS or name == 'MEMOIZE':
            put = len(self.memo) if name == 'MEMOIZE' else length
            if put > FREE_MEMO + self._read():  # an unpickler makes room for all places before it
                raise ValueError(f'it uses place {put} of the memo')
            self.memo[put] = stack[-1]
        elif name in TUPLES:
            stack.append(self._tuple(self._to_mark() if name == 'TUPLE' else self._operands(TUPLES[name])))
        elif name in TEXTS:
            stack.append(_TEXTS[length] if length < len(_TEXTS) else Extent(1 + length))
        elif name == 'MARK':
            stack.append(MARK)
        elif name in ('SETITEM', 'SETITEMS', 'APPEND', 'APPENDS', 'ADDITEMS'):
            items = self._to_mark() if name.endswith('S') else self._operands(2 if name == 'SETITEM' else 1)
            self._fill(self._operands(1)[0], items, name)
            stack.append(self.filled)
        elif name == 'DUP':
            stack.append(stack[-1])
        elif name == 'POP':
            stack.pop()
        elif name == 'POP_MARK':
            self._to_mark()
        elif name in CALLS:
            stack.append(self._call(name))
        elif name in LONGS and length > SHORT:
            stack.append(Extent(1 + length, numbers=1))
        elif opcode.stack_after:
            # LIST and DICT may hold items at once; all others take at most an operand that is no value of the file.
            items = self._to_mark() if pickletools.markobject in opcode.stack_before else []
            if not items:
                self._operands(len([kind for kind in opcode.stack_before if kind not in (
                    pickletools.markobject, pickletools.stackslice)]))
            is_open = name in ('LIST', 'DICT', 'EMPTY_LIST', 'EMPTY_DICT', 'EMPTY_SET')
            made = Extent(1, parts=[]) if is_open else NUMBER
            if items:
                self._fill(made, items, 'SETITEMS' if name == 'DICT' else 'APPENDS')
            stack.append(made)

    def _operands(self, count: int) -> list[Extent]:
        """Take `count` values off the stack."""
        if not count:
            return []
        taken = self.stack[-count:]
        if len(taken) < count or MARK in taken:
            raise LookupError('the stack has too few values')
        del self.stack[-count:]
        return taken

    def _to_mark(self) -> list[Extent]:
        """Take off the stack what lies above its last mark, and the mark itself."""
        place = len(self.stack) - 1
        while place >= 0 and self.stack[place] is not MARK:
            place -= 1
        if place < 0:
            raise LookupError('there is no mark on the stack')
        taken = self.stack[place + 1:]
        del self.stack[place:]
        return taken

    def _tuple(self, items: list[Extent]) -> Extent:
        """A tuple of `items`, which may be part of a key: so its size is bounded at once."""
        weight, depth, numbers, parts = 1, 0, 0, []
        for one in items:
            depth = max(depth, one.depth)
            numbers |= one.numbers or one is NUMBER
            if one.parts is None:
                weight += one.weight
            else:
                weight += 1
                parts.append(one)
        self._bound(weight, depth + 1)
        made = Extent(weight, depth + 1, int(numbers), parts or None)
        if len(self.flat) < 10_000 and _SHORT_TEXTS.issuperset(items):
            self.flat[tuple(items)] = made
        return made

    def _fill(self, target: Extent, items: list[Extent], name: str) -> None:
        """Put `items` into a list, dict or set: keys and elements are hashed."""
        if name == 'ADDITEMS':
            self._hash(items)
        elif name.startswith('SETITEM'):
            self._hash(items[::2])
        self.filled = target
        if target.parts is None:
            raise ValueError('it fills something that is no list, dict or set')
        for one, count in collections.Counter(items).items():
            target.depth = max(target.depth, one.depth + 1)
            target.numbers += one.numbers * count
            if one.parts is None:
                target.weight += one.weight * count
            else:
                target.weight += count
                target.parts += [one] * count
        self._bound(0, target.depth)

    def _call(self, name: str) -> Extent:
        """Make or change an object: whatever is called may hash and copy all that its operands hold by now."""
        opcode = OPCODES_BY_NAME[name]
        items = self._to_mark() if pickletools.markobject in opcode.stack_before else []
        items = self._operands(len([kind for kind in opcode.stack_before if kind not in (
            pickletools.markobject, pickletools.stackslice)])) + items
        is_build = name == 'BUILD'
        weight, depth, numbers = self._reach(items[1:] if is_build else items)
        self.work += weight
        if not is_build:
            self.number_keys += numbers
        self._bound(self.work, depth + 1)
        if not is_build:
            return Extent(weight, depth + 1, numbers, [])
        target = items[0]
        if target.parts is None:
            raise ValueError('it sets attributes of something that has none')
        target.parts += items[1:]
        target.depth = max(target.depth, depth + 1)
        return target

    def _reach(self, items: list[Extent]) -> tuple[int, int, int]:
        """(weight, depth, numbers) of all that `items` hold, each part counted as often as it is reached."""
        waiting, weight, depth, numbers = list(items), 1, 0, 0
        while waiting:
            one = waiting.pop()
            weight += one.weight
            depth = max(depth, one.depth)
            if one.parts is not None:
                numbers += one.numbers
                weight += len(one.parts)
                waiting += one.parts
            self._bound(self.work + weight, depth)
        return weight, depth, numbers

    def _hash(self, keys: list[Extent]) -> None:
        """Count the work of hashing keys, and those whose hashes can be chosen."""
        for key, count in collections.Counter(keys).items():
            self.work += key.weight * count
            self.number_keys += key.numbers * count
        self._bound(self.work, 0)
        if self.number_keys > MAX_NUMBER_KEYS:
            raise ValueError(f'more than {MAX_NUMBER_KEYS} of its keys are long numbers, or made of numbers')

    def _bound(self, size: int, depth: int) -> None:
        """Raise `ValueError` if a size (or the work so far) or a depth is out of bounds."""
        if depth > MAX_DEPTH:
            raise ValueError(f'it holds values nested more than {MAX_DEPTH} deep')
        if size > FREE + PER_BYTE * (self._read()):
            raise ValueError('it holds a value with far more parts than the file has')

    def _read(self) -> int:
        """How many bytes of the pickle were read."""
        return self.place - self.start

    def _opcode(self) -> tuple[str, int]:
        """Read an opcode -> (name, bytes of its argument, or the place in the memo).

        Unlike `pickletools.genops`, this takes the byte strings of Python 2, which need not be ASCII.
        """
        content, start = self.content, self.place + 1
        code = content[start - 1:start]
        if code not in KNOWN:
            raise ValueError(f'{code!r} is not an opcode of pickles' if code else 'it ends early')
        name, kind = KNOWN[code]
        end = start
        if kind >= 0:
            end += kind
        elif kind == pickletools.UP_TO_NEWLINE:
            for _ in range(2 if name in ('GLOBAL', 'INST') else 1):
                end = content.find(b'\n', end) + 1
                if not end:
                    raise ValueError('it ends early')
        else:
            end += LENGTHS[kind]
            length = int.from_bytes(content[start:end], 'little')
            start, end = end, end + length
        if end > len(content):
            raise ValueError('it ends early')
        self.place = end
        if name in PUTS or name in GETS:
            return name, int(content[start:end]) if kind < 0 else int.from_bytes(content[start:end], 'little')
        return name, end - start


OPCODES_BY_NAME = {opcode.name: opcode for opcode in OPCODES.values()}
# Code: its name, and the bytes of its argument (negative: see `LENGTHS`).
KNOWN = {code: (opcode.name, opcode.arg.n if opcode.arg else 0) for code, opcode in OPCODES.items()}


def check_value(value: Any, size: int) -> None:
    """Raise `ValueError` if a value that was loaded from `size` bytes holds itself, is nested too deep, or has far
    more parts, each counted as often as it is reached.  So whatever reads it may simply follow its parts.

    Keys are bounded by `check_pickle` already.
    """
    known: dict[int, tuple[int, int]] = {}   # id: (parts, depth) of what is finished
    open_ids: set[int] = set()
    waiting: list[tuple[Any, Any]] = [(value, None)]  # a value, and its parts once these are being looked at
    while waiting:
        one, parts = waiting.pop()
        if parts is None:
            if id(one) in open_ids:
                raise ValueError('it holds a value that contains itself')
            parts = None if id(one) in known else _parts(one)
            if parts is None:
                continue
            open_ids.add(id(one))
            waiting.append((one, parts))
            waiting += [(part, None) for part in parts if not isinstance(part, PLAIN_TYPES)]
            continue
        found = [known.get(id(part), (1, 1)) for part in parts]
        count, depth = 1 + sum(parts for parts, _ in found), 1 + max((depth for _, depth in found), default=0)
        if depth > MAX_DEPTH:
            raise ValueError(f'it holds values nested more than {MAX_DEPTH} deep')
        if count > FREE + PER_BYTE * size:
            raise ValueError('it holds a value with far more parts than the file has')
        open_ids.remove(id(one))
        known[id(one)] = count, depth


def _parts(value: Any) -> list[Any] | None:
    """The values in a container; None for anything else."""
    if isinstance(value, dict):
        return [*value.values(), *vars(value).values()] if hasattr(value, '__dict__') else list(value.values())
    if isinstance(value, argparse.Namespace):
        return list(vars(value).values())
    return list(value) if isinstance(value, (list, tuple)) else None
