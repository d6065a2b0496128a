"""Pickles are bounded in size and depth before they are loaded."""

import argparse
import collections
import io
import pickle

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
