"""Pickles are read without running what is in them."""

import argparse
import collections
import os
import pickle

import numpy as np
import pytest

from misc.cli import DataError
from misc.disk import pickles


def written(path, content):
    """`path`, holding the bytes `content`."""
    path.write_bytes(content)
    return path


class Reduced:
    """Pickled as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_come_back_equal_and_of_the_same_type(tmp_path, protocol):
    shared = [1, 2.5, None, True, 1 + 2j, 10 ** 30]
    value = {'opt': argparse.Namespace(id='a', heads=8, nested=argparse.Namespace(x=(1, 'é'))),
             'vocab': {'1': 'a'}, 'bytes': b'\x00\xff', 'none': b'', 'set': {1, 2}, 'frozen': frozenset('ab'),
             'ordered': collections.OrderedDict([('b', shared), ('a', shared)]),
             'table': collections.defaultdict(float, {('1', '2'): 3.0}),
             'dtype': np.dtype('>f4'), 'best': np.float64(1.25), 'count': np.int32(-7),
             'yes': np.bool_(True), 'word': np.str_('wörd')}
    path = written(tmp_path / 'infos.pkl', pickle.dumps(value, protocol=protocol))
    found = pickles.load(path)
    assert found == value
    assert type(found['opt']) is argparse.Namespace and type(found['opt'].nested) is argparse.Namespace
    assert [type(item) for item in found.values()] == [type(item) for item in value.values()]
    assert found['table']['absent'] == 0.0
    assert found['ordered']['a'] is found['ordered']['b']


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_come_back_from_any_depth(tmp_path, protocol):
    arrays = [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3)),
              np.array(3, np.int8), np.zeros((0, 4), np.float32), np.array(['ab', 'c']),
              np.array([b'ab', b'c']),
              np.arange(4, dtype='>i2'), np.array([True, False]), np.arange(8, dtype=np.uint8)[::2],
              np.array([1j])]
    value = {'list': arrays, 'tuple': (arrays[0], (arrays[1],)), 'opt': argparse.Namespace(a=arrays[2])}
    value['again'] = value['tuple']
    found = pickles.load(written(tmp_path / 'a.pkl', pickle.dumps(value, protocol=protocol)))
    for got, want in zip(found['list'], arrays, strict=True):
        assert type(got) is np.ndarray and got.dtype == want.dtype and got.shape == want.shape
        assert got.flags.writeable and np.array_equal(got, want)
    assert found['tuple'][0] is found['list'][0] and np.array_equal(found['tuple'][1][0], arrays[1])
    assert found['opt'].a == 3
    assert found['again'] is found['tuple']


def test_values_that_hold_themselves_are_refused(tmp_path):
    value = {'opt': argparse.Namespace(a=[])}
    value['opt'].a.append(value)
    with pytest.raises(DataError, match='itself.pkl is not a valid pickle file .*contains itself'):
        pickles.load(written(tmp_path / 'itself.pkl', pickle.dumps(value)))


def test_files_of_python_2_are_read(tmp_path):
    namespace = (b'ccopy_reg\n_reconstructor\np0\n(cargparse\nNamespace\np1\nc__builtin__\nobject\np2\nN'
                 b'tp3\nRp4\n'
                 b"(dp5\nS'id'\np6\nS'caf\\xe9'\np7\nsS'heads'\np8\nI8\nsb.")
    found = pickles.load(written(tmp_path / 'py2.pkl', namespace))
    assert type(found) is argparse.Namespace and vars(found) == {'id': 'café', 'heads': 8}

    table = (b"\x80\x02}q\x00(U\x12document_frequencyccollections\ndefaultdict\nq\x01"
             b"c__builtin__\nfloat\nq\x02"
             b"\x85Rq\x03U\x011U\x012\x86G@\x08\x00\x00\x00\x00\x00\x00sU\x07ref_lenM\x10'u.")
    found = pickles.load(written(tmp_path / 'table.p', table))
    assert found == {'document_frequency': {('1', '2'): 3.0}, 'ref_len': 10000}

    counter = b'ccollections\ndefaultdict\n(c__builtin__\nlong\ntR.'
    assert pickles.load(written(tmp_path / 'counter.p', counter))['absent'] == 0

    scalar = (b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR(I3\nS'<'\n"
              b"NNNI-1\nI-1\nI0\ntb"
              b"S'\\x00\\x00\\x00\\x00\\x00\\x00\\xf0?'\ntR.")
    assert pickles.load(written(tmp_path / 'scalar.p', scalar)) == np.float64(1)

    array = (b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
             b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xff"
             b"J\xff\xff\xff\xffK\x00tb\x89U\x08\x00\x00\x80?\x00\x00\x00\xc0tb.")
    assert pickles.load(written(tmp_path / 'array.p', array)).tolist() == [1.0, -2.0]


def attacks(marker):
    """{name: pickle bytes}: in an ordinary unpickler each would create `marker`, or break something."""
    command = f'touch {marker}'
    made = {name: pickle.dumps(value, protocol=2) for name, value in {
        'system': Reduced(os.system, command),
        'eval': {'opt': [Reduced(eval, f'open({str(marker)!r}, "w")')]},
        'nested': Reduced(collections.OrderedDict, [Reduced(os.system, command)]),
        'factory': Reduced(collections.defaultdict, os.system),
        'object array': np.array([Reduced(os.system, command)], dtype=object),
        'plain object array': np.array([1, None], dtype=object),
        'record': np.zeros(2, dtype=[('a', 'O'), ('b', 'f8')]),
        'masked': np.ma.array([1.0, 2.0]),
        'codec': Reduced(__import__('codecs').encode, 'x', 'rot13'),
        'bare object': object(),
        'type of objects': np.dtype('O'),
    }.items()}
    touch = f"(S'touch {marker}'\ntR.".encode()
    dtype = b"cnumpy\ndtype\n(S'V8'\nI0\nI1\ntR"
    namespace = b'cargparse\nNamespace\n'
    made.update({
        'dotted': b'\x80\x04\x8c\x08argparse\x8c\x0c_sys.modules\x93.',
        'python 2 system': b'cposix\nsystem\n' + touch,
        'inst': f"(S'touch {marker}'\nios\nsystem\n.".encode(),
        'reconstructor of another': b'ccopy_reg\n_reconstructor\n(ccollections\nOrderedDict\n'
                                    b'c__builtin__\nobject\nNtR.',
        'object called': b'c__builtin__\nobject\n(tR.',
        'dtype of pointers': b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR(I3\nS'<'\nN(S'a'\nt(dS'a'\n(" + dtype
                             + b'I0\ntsI8\nI8\nI0\ntb.',
        'class changed': namespace + b"(N(dS'__repr__'\nc__builtin__\nint\nstb.",
        'persistent': b'Psome id\n.',
        'extension': b'\x82\x01.',
        'scalar too long': b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'i1'\nI0\nI1\ntRS'ab'\ntR.",
        'array too short': b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85"
                           b"U\x01b\x87R(K\x01K\x63\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R\x89"
                           b"U\x08\x00\x00\x80?\x00\x00\x00\xc0tb.",
    })
    return made


def test_nothing_in_a_file_is_run(tmp_path):
    marker = tmp_path / 'marker'
    for name, content in attacks(marker).items():
        path = written(tmp_path / 'bad.pkl', content)
        with pytest.raises(DataError) as error:
            pickles.load(path)
        assert str(path) in str(error.value), name
        assert not marker.exists(), name
    assert repr(argparse.Namespace(a=1)) == 'Namespace(a=1)'


def test_the_message_names_what_was_refused(tmp_path):
    path = written(tmp_path / 'bad.pkl', pickle.dumps(Reduced(os.system, 'true'), protocol=2))
    with pytest.raises(DataError, match=r'bad\.pkl asks for posix\.system, which was refused'):
        pickles.load(path)


def test_messages_about_damaged_files_name_the_file_and_the_way_out(tmp_path):
    whole = pickle.dumps({'opt': argparse.Namespace(a=[1, 2]), 'x': np.arange(3)}, protocol=2)
    for length in range(len(whole)):
        with pytest.raises(DataError, match='cut.pkl.*make it with: python train.py'):
            pickles.load(written(tmp_path / 'cut.pkl', whole[:length]), 'python train.py')
    for content in (b'not a pickle', b'{"json": 1}', b'\x80\x63.', b'PK\x03\x04' + bytes(60)):
        with pytest.raises(DataError, match='odd.pkl'):
            pickles.load(written(tmp_path / 'odd.pkl', content))
    with pytest.raises(DataError, match='is a folder'):
        pickles.load(tmp_path)
    with pytest.raises(DataError, match='there is no file .*absent.pkl; make it with: x'):
        pickles.load(tmp_path / 'absent.pkl', 'x')


def test_dump_writes_what_load_reads_and_keeps_the_old_file_on_an_error(tmp_path):
    path = tmp_path / 'a.pkl'
    pickles.dump(path, {'opt': argparse.Namespace(a=1)})
    with pytest.raises((AttributeError, pickle.PicklingError)):
        pickles.dump(path, [1, lambda: 0])
    assert pickles.load(path) == {'opt': argparse.Namespace(a=1)}
    assert os.listdir(tmp_path) == ['a.pkl']
