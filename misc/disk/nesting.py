"""How much a pickle holds, told from its opcodes before anything of it is built.

A few hundred bytes can name a tuple twice in another, and that twice in the next: whoever hashes or compares
the last one never ends.  The same goes for values so deep in one another that Python's recursion gives up.
"""

import pickletools

DEEPEST = 200            # values in one another
FREE, SHARE = 100_000, 20  # a value may have so many parts, and so many more for each opcode that was read
MOST_READ = 300_000      # opcodes; what is larger than that by its size alone is no trap of a few bytes

OPCODES = {opcode.code.encode('latin-1'): opcode for opcode in pickletools.opcodes}
FILLS = {'APPEND', 'APPENDS', 'SETITEM', 'SETITEMS', 'ADDITEMS', 'BUILD'}  # these change what they are given
PUTS = {'PUT', 'BINPUT', 'LONG_BINPUT'}
GETS = {'GET', 'BINGET', 'LONG_BINGET'}
MARK = None


def check(file):
    """Raise `ValueError` unless the pickle in the open `file` is moderate; it is read from where it stands.

    A value's parts are counted as often as they are met in it, not as often as they are in the file.
    """
    stack, memo = [], {}  # of [parts, depth], or MARK
    for count, (opcode, argument) in enumerate(read_opcodes(file)):
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
            _from_mark(stack)
        elif opcode.stack_after:
            stack.append(_made(opcode, stack))
            parts, depth = stack[-1]
            if depth > DEEPEST:
                raise ValueError(f'values more than {DEEPEST} deep in one another')
            if parts > FREE + SHARE * count:
                raise ValueError('a value of far more parts than the file has')


def read_opcodes(file):
    """Yield the (opcode, argument) of a pickle, up to its end or to `MOST_READ`."""
    for _ in range(MOST_READ):
        code = file.read(1)
        if code not in OPCODES:
            raise ValueError('it ends early' if not code else f'no pickle has {code!r} there')
        opcode = OPCODES[code]
        if opcode.name == 'STRING':
            argument = file.readline()  # of Python 2, whose letters pickletools does not know
        else:
            argument = opcode.arg.reader(file) if opcode.arg else None
        yield opcode, argument
        if opcode.name == 'STOP':
            return


def _from_mark(stack):
    """Take from the stack what lies above its last mark, and the mark."""
    place = len(stack) - 1 - stack[::-1].index(MARK)
    taken = stack[place + 1:]
    del stack[place:]
    return taken


def _made(opcode, stack):
    """What an opcode puts on the stack, whose operands are taken from it."""
    before = list(opcode.stack_before)
    taken = []
    if pickletools.markobject in before:
        taken = _from_mark(stack)
        before = before[:before.index(pickletools.markobject)]
    if before:
        taken = stack[-len(before):] + taken
        del stack[-len(before):]
    parts, depth = 1 + sum(one[0] for one in taken), 1 + max((one[1] for one in taken), default=0)
    if opcode.name not in FILLS:
        return [parts, depth]
    filled = taken[0]
    filled[:] = parts, max(filled[1], 1 + max((one[1] for one in taken[1:]), default=0))
    return filled
