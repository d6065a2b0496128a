"""Bounds on the size and depth of a pickle's values, checked before any of them is built.

A few hundred bytes can hold a tuple that contains another one twice, which contains a third one twice, and so on:
hashing or comparing the outermost never ends.  Values nested thousands deep exhaust Python's recursion limit.

`check_pickle` therefore runs the opcodes on a stack that holds, in place of each value, how many parts it has and
how deep it is.  What an opcode takes from the stack and leaves there is what the standard library's
`pickletools` says about it.
"""

import pickletools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

MAX_DEPTH = 200
FREE_PARTS, PARTS_PER_OPCODE = 100_000, 20  # a value may have this many parts: FREE + PER_OPCODE * opcodes read
MAX_OPCODES = 300_000  # a pickle this long is large by its own bytes, not by a trick: the rest is not checked

OPCODES = {opcode.code.encode('latin-1'): opcode for opcode in pickletools.opcodes}
FILLS = {'APPEND', 'APPENDS', 'SETITEM', 'SETITEMS', 'ADDITEMS', 'BUILD'}  # change their first operand in place
PUTS = {'PUT', 'BINPUT', 'LONG_BINPUT'}
GETS = {'GET', 'BINGET', 'LONG_BINGET'}


@dataclass(slots=True)
class Extent:
    """What stands for a value: its parts, each counted as often as it is reached, and its depth."""

    parts: int
    depth: int


MARK = Extent(0, 0)  # what the opcode MARK puts on the stack, told from values by identity


def check_pickle(file: IO[bytes]) -> None:
    """Read one pickle from the open `file`, and raise `ValueError` if a value in it is too large or too deep.

    Where opcodes take more from the stack or the memo than is there, a `LookupError` is raised.
    """
    stack: list[Extent] = []
    memo: dict[Any, Extent] = {}
    for count, (opcode, argument) in enumerate(_opcodes(file)):
        name = opcode.name
        if name in GETS:
            stack.append(memo[argument])
        elif name in PUTS:
            memo[argument] = stack[-1]
        elif name == 'MEMOIZE':
            memo[len(memo)] = stack[-1]
        elif name == 'DUP':
            stack.append(stack[-1])
        elif name == 'MARK':
            stack.append(MARK)
        elif name == 'POP':
            stack.pop()
        elif name == 'POP_MARK':
            _pop_to_mark(stack)
        elif opcode.stack_after:
            made = _result(opcode, stack)
            stack.append(made)
            if made.depth > MAX_DEPTH:
                raise ValueError(f'it holds values nested more than {MAX_DEPTH} deep')
            if made.parts > FREE_PARTS + PARTS_PER_OPCODE * count:
                raise ValueError('it holds a value with far more parts than the file has')


def _opcodes(file: IO[bytes]) -> Iterator[tuple[pickletools.OpcodeInfo, Any]]:
    """Yield (opcode, argument) up to the end of the pickle, or up to `MAX_OPCODES`.

    Unlike `pickletools.genops`, this takes the byte strings of Python 2, which need not be ASCII.
    """
    for _ in range(MAX_OPCODES):
        code = file.read(1)
        if code not in OPCODES:
            raise ValueError(f'{code!r} is not an opcode of pickles' if code else 'it ends early')
        opcode = OPCODES[code]
        if opcode.name == 'STRING':
            yield opcode, file.readline()
        else:
            yield opcode, opcode.arg.reader(file) if opcode.arg else None
        if opcode.name == 'STOP':
            return


def _pop_to_mark(stack: list[Extent]) -> list[Extent]:
    """Take off the stack what lies above its last mark, and the mark itself."""
    place = next((place for place in reversed(range(len(stack))) if stack[place] is MARK), None)
    if place is None:
        raise LookupError('there is no mark on the stack')
    taken = stack[place + 1:]
    del stack[place:]
    return taken


def _result(opcode: pickletools.OpcodeInfo, stack: list[Extent]) -> Extent:
    """Take an opcode's operands off the stack, and return what it puts there."""
    operands = list(opcode.stack_before)
    taken: list[Extent] = []
    if pickletools.markobject in operands:
        taken = _pop_to_mark(stack)
        operands = operands[:operands.index(pickletools.markobject)]
    if operands:
        taken = stack[-len(operands):] + taken
        if len(operands) > len(stack) or MARK in taken:
            raise LookupError('the stack has too few values')
        del stack[-len(operands):]
    parts, depth = 1 + sum(one.parts for one in taken), 1 + max((one.depth for one in taken), default=0)
    if opcode.name not in FILLS:
        return Extent(parts, depth)
    filled = taken[0]  # the same object wherever else the memo or the stack holds it
    filled.parts, filled.depth = parts, max(filled.depth, 1 + max((one.depth for one in taken[1:]), default=0))
    return filled
