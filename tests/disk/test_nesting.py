"""Pickles are bounded in size and depth before they are loaded."""

import argparse
import collections
import io
import pickle
import time

import numpy as np
import pytest

from misc.disk import nesting


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_pass_however_large(protocol):
    shared = {str(number): [number, (number, str(number))] for number in range(300)}
    table = {(str(a), str(b)): 1.0 for a in range(90) for b in range(90)}
    value = {'table': collections.defaultdict(float, table), 'shared': [shared] * 40,
             'opt': argparse.Namespace(a=[1, 2]), 'array': np.arange(1000),
             'set': {1, 2}, 'frozen': frozenset('ab'), 'text': 'é' * 100_000,
             'none': (None, True, 1.5, -3, 10 ** 40)}
    value['itself'] = value
    file = io.BytesIO(pickle.dumps(value, protocol=protocol))
    nesting.check_pickle(file)
    assert file.tell() == len(file.getvalue())
    del value['itself']
    nesting.check_value(value, file.tell())


def test_sizes_and_depths_are_those_of_the_values():
    def nested(depth):
        return pickle.dumps(nested_list(depth), protocol=2)

    def nested_list(depth):
        value = []
        for _ in range(depth - 1):
            value = [value]
        return value

    nesting.check_pickle(io.BytesIO(nested(nesting.MAX_DEPTH)))
    with pytest.raises(ValueError, match='nested more than 200 deep'):
        nesting.check_pickle(io.BytesIO(nested(nesting.MAX_DEPTH + 1)))
    doubled = [()]
    for _ in range(17):
        doubled = [(doubled[0], doubled[0])]
    with pytest.raises(ValueError, match='far more parts'):
        nesting.check_pickle(io.BytesIO(pickle.dumps(doubled, protocol=2)))


@pytest.mark.parametrize('content', [b'0.', b'K\x01\x86.', b'e.', b'K\x01e.', b'(K\x01\x86.', b'h\x00.'],
                         ids=['a pop', 'a pair of one', 'no mark', 'no mark below', 'a mark in a pair',
                              'an empty memo'])
def test_opcodes_without_their_operands_are_refused(content):
    with pytest.raises(LookupError):
        nesting.check_pickle(io.BytesIO(content))


@pytest.mark.parametrize('content, says', [
    (b'', 'ends early'), (b'K\x01', 'ends early'), (b'\xfe.', "b'\\\\xfe' is not")])
def test_what_is_not_a_pickle_is_refused(content, says):
    with pytest.raises(ValueError, match=says):
        nesting.check_pickle(io.BytesIO(content))


def lengthened(content, protocol=b'\x80\x02'):
    """The pickle after more opcodes than fit into a short one."""
    return protocol + b'N0' * 150_001 + content.removeprefix(protocol)


def texts(count, length):
    """`count` copies of one text of `length` bytes, made bytes: each is as long again in memory."""
    return (b'\x80\x02X' + length.to_bytes(4, 'little') + b'x' * length + b'q\x000c_codecs\nencode\nq\x010'
            b'](' + b'h\x01h\x00X\x06\x00\x00\x00latin1\x86R' * count + b'e.')


def long_numbers(count):
    """A dict whose keys all have the hash 0."""
    keys = (pickle.dumps(number * (2 ** 61 - 1), protocol=2)[2:-1] for number in range(8, count))
    return b'\x80\x02}(' + b''.join(key + b'N' for key in keys) + b'u.'


def copies(count):
    """`count` sets of the same 50,000 parts."""
    return (b'\x80\x02](' + b'K\x01' * 50_000 + b'eq\x000c__builtin__\nset\nq\x010]('
            + b'h\x01h\x00\x85R' * count + b'e.')


DOUBLED = b')q\x000' + b''.join(b'h%ch%c\x86q%c0' % (level, level, level + 1) for level in range(60))
EARLY_LISTS = b''.join(b']q%c0' % level for level in range(61)) + b''.join(
    b'h%ch%cah%ca0' % (level, level - 1, level - 1) for level in range(60, 0, -1))
COSTLY = {
    'a key that doubles, late': lengthened(DOUBLED + b'}h\x3cNs.'),
    'an element that doubles, late': lengthened(DOUBLED + b'c__builtin__\nset\n](h\x3ce\x85R.'),
    'one large key, set again and again': b'\x80\x02((' + b'N' * 90_000 + b'tq\x0000}(' + b'h\x00N' * 5000 + b'u.',
    'a frozen set of sets that double': b'\x80\x04)q\x000' + b''.join(
        b'(h%cK\x01\x86h%cK\x02\x86\x91q%c0' % (level, level, level + 1) for level in range(60)) + b'h\x3c.',
    'a list filled after it became an argument': b'\x80\x02]q\x00\x85q\x010h\x00(' + b'K\x01' * 50_000
        + b'e0c__builtin__\nset\nq\x020](' + b'h\x02h\x01R' * 1000 + b'e.',
    'copies of a text': texts(10_000, 100_000),
    'copies of a list': copies(10_000),
    'keys of one hash': long_numbers(20_000),
    'tuples of numbers': pickle.dumps({(number, 1): None for number in range(200_000)}, protocol=2),
    'a far place of the memo': b'\x80\x02]r\x00\x00\x00\x0f.',
    'a text longer than the file': b'\x80\x02X\xff\xff\xff\x7fabc.',
}


@pytest.mark.parametrize('case', COSTLY)
def test_a_pickle_that_asks_for_far_more_work_or_memory_than_it_has_bytes_is_refused(case):
    started = time.process_time()
    with pytest.raises(ValueError):
        nesting.check_pickle(io.BytesIO(COSTLY[case]))
    assert time.process_time() - started < 5


def test_the_whole_of_a_large_table_is_checked_and_passes():
    table = {(str(a), str(b), 'x', 'y')[:1 + a % 4]: 1.0 for a in range(300) for b in range(300)}
    content = pickle.dumps(table, protocol=2)
    nesting.check_pickle(io.BytesIO(content))
    late = content[:-1] + b'0' + DOUBLED + b'}h\x3cNs.'
    with pytest.raises(ValueError, match='far more parts'):
        nesting.check_pickle(io.BytesIO(late))


def test_values_that_hold_themselves_or_double_are_refused_once_they_are_loaded():
    itself = [1]
    itself.append({'a': (itself,)})
    doubled = []
    for _ in range(60):
        doubled = [doubled, doubled]
    deep = []
    for _ in range(100_000):
        deep = [deep]
    early = pickle.loads(b'\x80\x02' + EARLY_LISTS + b'h\x3c.')
    namespace = argparse.Namespace()
    namespace.a = [namespace]
    for value, says in ((itself, 'contains itself'), (namespace, 'contains itself'), (doubled, 'far more parts'),
                        (early, 'far more parts'), (deep, 'nested')):
        with pytest.raises(ValueError, match=says):
            nesting.check_value(value, 1000)
    shared = [1, 2]
    nesting.check_value({'a': [shared] * 50, 'b': (shared, shared)}, 1000)
