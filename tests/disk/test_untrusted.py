"""Malicious files are refused by name, quickly and in little memory, and nothing in them is run."""

import collections
import contextlib
import io
import json
import os
import pickle
import pickletools
import resource
import struct
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import torch

from misc.cli import DataError
from misc.dataset import array_files
from misc.dataset.labels import Labels
from misc.dataset.packed import PackedReader
from misc.disk import pickles, tensors
from misc.pictures import cnn
from misc.run import folder as run_folder
from misc.training.rewards import load_cider

SECONDS = 5     # a refusal may take this long, on a busy machine
ROOM = 1 << 30  # and this many bytes of memory
CANARY = 'canary'


class Call:
    """Pickled as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Built:
    """Pickled as a plain class whose state is set by a call."""

    def __reduce__(self):
        return (dict, (), None, None, iter([(Call(os.mkdir, CANARY), 1)]))


def opcodes(module, name, argument):
    """A pickle, in the oldest protocol, that calls `module.name(argument)`."""
    return f"c{module}\n{name}\n(S'{argument}'\ntR.".encode()


CODE = f'open("{CANARY}", "w")'
# Malicious pickles, by what they ask for.
PICKLES = {
    'system': opcodes('posix', 'system', f'touch {CANARY}'),
    'system of os': opcodes('os', 'system', f'touch {CANARY}'),
    'popen': opcodes('subprocess', 'Popen', f'touch {CANARY}'),
    'eval': opcodes('builtins', 'eval', CODE),
    'exec': opcodes('builtins', 'exec', CODE),
    'eval of Python 2': opcodes('__builtin__', 'eval', CODE),
    'import': opcodes('builtins', '__import__', 'antigravity'),
    'getattr': opcodes('builtins', 'getattr', 'x'),
    'a module run': opcodes('runpy', '_run_code', CODE),
    'code of timeit': opcodes('timeit', 'timeit', CODE),
    'code of a debugger': opcodes('pdb', 'run', CODE),
    'code of a profiler': opcodes('cProfile', 'run', CODE),
    'code of idlelib': opcodes('idlelib.pyshell', 'ModifiedInterpreter', CODE),
    'a function of marshal': opcodes('marshal', 'loads', CODE),
    'dill': opcodes('dill._dill', '_create_function', CODE),
    'a type of dill': opcodes('dill._dill', '_load_type', 'CodeType'),
    'cloudpickle': opcodes('cloudpickle.cloudpickle', '_builtin_type', 'CodeType'),
    'joblib': opcodes('joblib.numpy_pickle', 'NumpyArrayWrapper', 'x'),
    'a pickle in a pickle': opcodes('_pickle', 'loads', CODE),
    'torch in a pickle': opcodes('torch', 'load', 'model.pth'),
    'a loader of numpy': opcodes('numpy', 'load', 'model.npy'),
    'a test of numpy': opcodes('numpy.testing._private.utils', 'runstring', CODE),
    'a download': opcodes('torch.hub', 'load_state_dict_from_url', 'file:///x'),
    'webbrowser': opcodes('webbrowser', 'open', 'x'),
    'an instance': f"(S'touch {CANARY}'\nios\nsystem\n.".encode(),
    'a new object': b'\x80\x02cos\n_wrap_close\n)\x81.',
    'a nested tuple': pickle.dumps({'opt': ((1, (2, [Call(os.mkdir, CANARY)])),), 'vocab': {}}, 2),
    'a key': pickle.dumps({'opt': {}, 'vocab': Built()}, 4),
    'an argument': pickle.dumps(Call(dict, [(Call(os.mkdir, CANARY), 1)]), 2),
    'an array of objects': pickle.dumps(np.array([Call(os.mkdir, CANARY)], object), 2),
    'a reconstructor of its own': b'cnumpy._core.multiarray\n_reconstruct\n(cos\nmkdir\n(I0\ntS\'b\'\ntR.',
    'a reconstructor called': b'cnumpy.core.multiarray\n_reconstruct\n(cposix\nsystem\nS\'touch canary\'\ntR.',
    'a factory': b'ccollections\ndefaultdict\n(cos\ngetcwd\ntR.',
    'a state': b"cargparse\nNamespace\n)\x81}(S'__class__'\ncos\nsystem\nub.",
}


def doubling(levels, tuples=True):
    """A pickle of a tuple (or list) that holds another one twice, which holds a third twice, ...; used as a key."""
    content = b'\x80\x02}' + (b'K\x01' if tuples else b']')
    for level in range(levels):
        content += b'q' + bytes([level]) + b'h' + bytes([level]) + b'\x86'
    return content + b'K\x01s.'


def deep(levels):
    """A pickle of nested lists."""
    return b'\x80\x02' + b']' * levels + b'a' * (levels - 1) + b'.'


def late(content):
    """The pickle after 150,000 pairs of opcodes that do nothing."""
    return b'\x80\x02' + b'N0' * 150_001 + content.removeprefix(b'\x80\x02')


TOO_MUCH = {
    'a key that doubles, after much else': late(doubling(60)),
    'lists that double, filled from the outermost': b'\x80\x02' + b''.join(
        b']q%c0' % n for n in range(61)) + b''.join(b'h%ch%cah%ca0' % (n, n - 1, n - 1) for n in range(60, 0, -1))
        + b'}X\x03\x00\x00\x00opt}sX\x05\x00\x00\x00vocab}sX\x07\x00\x00\x00accounth\x3cs.',
    'a value in itself': b'\x80\x02}X\x03\x00\x00\x00opt}sX\x05\x00\x00\x00vocab}sX\x07\x00\x00\x00account'
                         b'}X\x04\x00\x00\x00data]q\x01h\x01ass.',
    'a text copied a thousand times': b'\x80\x02X\x00\x00\x10\x00' + b'x' * (1 << 20)
                                      + b'q\x000c_codecs\nencode\nq\x010]('
                                      + b'h\x01h\x00U\x06latin1\x86R' * 3000 + b'e.',
    'keys of one hash': b'\x80\x02}(' + b''.join(
        pickle.dumps(number * (2 ** 61 - 1), 2)[2:-1] + b'N' for number in range(8, 100_000)) + b'u.',
    'a key that doubles': doubling(60),
    'a key of doubles': b'\x80\x02}K\x01' + b'2\x86' * 200 + b'K\x01s.',
    'a value that doubles': doubling(200, tuples=False),
    'a list in a list': deep(100_000),
    'a tuple in a tuple': b'\x80\x02)' + b'\x85' * 100_000 + b'.',
    'a list that grows': b'\x80\x02]q\x00' + b''.join(
        b']' + b'(' + b'h%c' % (level - 1) * 99 + b'eq%c' % level for level in range(1, 200)) + b'.',
    'a text of terabytes': b'\x80\x04\x8d' + struct.pack('<Q', 1 << 42) + b'x.',
    'bytes of terabytes': b'\x80\x04\x8e' + struct.pack('<Q', 1 << 42) + b'x.',
    'a place in the memo': b'\x80\x02]r\xff\xff\xff\x7f.',
    'a number of digits': b'L' + b'9' * 1_000_000 + b'L\n.',
    'an array of terabytes': pickle.dumps(np.zeros(3), 2).replace(b'K\x03\x85', b'\x8a\x06\0\0\0\0\0\x04\x85'),
}


@contextlib.contextmanager
def refused(name, tmp_path, monkeypatch):
    """The block must raise a `DataError` that names the file, quickly, in little memory, and run nothing."""
    monkeypatch.chdir(tmp_path)
    before = set(os.listdir(tmp_path))
    started, peak = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError) as error:
        yield error
    assert name in str(error.value) and len(str(error.value)) < 800
    assert time.monotonic() - started < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < ROOM / 1024
    assert set(os.listdir(tmp_path)) == before and not (tmp_path / CANARY).exists()


@pytest.mark.parametrize('read', [pickles.load, run_folder.read_infos, load_cider, run_folder.read_tensors])
@pytest.mark.parametrize('case', [*PICKLES, *TOO_MUCH])
def test_malicious_pickles_are_refused(tmp_path, monkeypatch, case, read):
    path = tmp_path / 'strange.p'
    path.write_bytes({**PICKLES, **TOO_MUCH}[case])
    with refused('strange.p', tmp_path, monkeypatch) as error:
        read(str(path))
    if case in PICKLES and read is pickles.load and not case.startswith('a reconstructor'):
        assert 'refused' in str(error.value)


def test_the_malicious_pickles_do_run_in_an_ordinary_unpickler(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sprung = 0
    for case in ('system', 'eval', 'exec', 'a nested tuple', 'an array of objects', 'an instance'):
        pickle.loads(PICKLES[case])
        assert (tmp_path / CANARY).exists(), case
        (tmp_path / CANARY).rmdir() if (tmp_path / CANARY).is_dir() else (tmp_path / CANARY).unlink()
        sprung += 1
    assert sprung == 6


def saved(value, layout='zip'):
    """The bytes that torch.save writes, in today's layout or in the older one."""
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=layout == 'zip')
    return file.getvalue()


def rewritten(content, change=lambda name, data: (name, data), packing=zipfile.ZIP_STORED, more=()):
    """An archive with its members changed, and with `more` members."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, 'w', packing) as new:
        for member in old.namelist():
            new.writestr(*change(member, old.read(member)))
        for name, data in more:
            new.writestr(name, data)
    return file.getvalue()


def hidden(content):
    """A `change` of an archive that replaces its pickle."""
    return lambda name, data: (name, content if name.endswith('data.pkl') else data)


def as_link(content):
    """The archive with a member marked as a symbolic link that leads outside."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, 'w') as new:
        for member in old.infolist():
            if member.filename.endswith('data/0'):
                member.external_attr = 0o120777 << 16
                new.writestr(member, b'../../../etc/passwd')
            else:
                new.writestr(member, old.read(member))
    return file.getvalue()


def as_folder(content):
    """The archive with a member marked as a folder."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, 'w') as new:
        for member in old.infolist():
            data = old.read(member)
            member.external_attr = 0x10 if member.filename.endswith('data/0') else 0
            new.writestr(member, data)
    return file.getvalue()


def legacy_with(place, content):
    """A file of the older layout with its pickle at `place` replaced."""
    whole, parts = saved(WEIGHTS, 'legacy'), []
    file = io.BytesIO(whole)
    for _ in range(5):
        start = file.tell()
        collections.deque(pickletools.genops(file), 0)
        parts.append(whole[start:file.tell()])
    parts[place] = content
    return b''.join(parts) + whole[file.tell():]


WEIGHTS = {'weight': torch.ones(2, 3), 'bias': torch.zeros(2)}
ARCHIVES = {
    'gigabytes of bytes': lambda: rewritten(saved(WEIGHTS), hidden(
        b'\x80\x02}U\x01wc__builtin__\nbytearray\n\x8a\x05\x00\x00\x00\x00\x01\x85Rs.')),
    'gigabytes of a tensor': lambda: rewritten(saved(WEIGHTS), hidden(
        b'\x80\x02}U\x01wctorch\nTensor\nJ\x00\x00\x00\x40K\x01\x86Rs.')),
    'the older layout, gigabytes of bytes': lambda: legacy_with(
        3, b'\x80\x02}U\x01wc__builtin__\nbytearray\n\x8a\x05\x00\x00\x00\x00\x01\x85Rs.'),
    'the older layout, a storage of gigabytes': lambda: legacy_with(
        3, b"\x80\x02}U\x01w(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuJ\x00\x00\x00\x40NtQs."),
    'a key that doubles, after much else': lambda: rewritten(saved(WEIGHTS), hidden(late(doubling(60)))),
    'the older layout, a key that doubles, after much else': lambda: legacy_with(3, late(doubling(60))),
    'a call in its pickle': lambda: rewritten(saved(WEIGHTS), hidden(PICKLES['system'])),
    'eval in its pickle': lambda: rewritten(saved(WEIGHTS), hidden(PICKLES['eval'])),
    'a call of the whole': lambda: saved({'weight': Call(os.mkdir, CANARY)}),
    'a key that doubles': lambda: rewritten(saved(WEIGHTS), hidden(doubling(200))),
    'lists in one another': lambda: rewritten(saved(WEIGHTS), hidden(deep(100_000))),
    'a packed member': lambda: rewritten(saved(WEIGHTS), packing=zipfile.ZIP_DEFLATED),
    'a bomb': lambda: rewritten(saved(WEIGHTS), packing=zipfile.ZIP_DEFLATED, more=[
        ('archive/data/9', bytes(100_000_000))]),
    'a way out': lambda: rewritten(saved(WEIGHTS), more=[('../../canary', b'x')]),
    'a way out by a member': lambda: rewritten(saved(WEIGHTS), lambda name, data: (
        name.replace('data/0', 'data/../../../canary'), data)),
    'a place from the root': lambda: rewritten(saved(WEIGHTS), more=[('/tmp/canary', b'x')]),
    'a way out of Windows': lambda: rewritten(saved(WEIGHTS), more=[('..\\..\\canary', b'x')]),
    'a link': lambda: as_link(saved(WEIGHTS)),
    'something before it': lambda: saved(WEIGHTS) * 2,
    'a folder for a tensor': lambda: as_folder(saved(WEIGHTS)),
    'a program of TorchScript': lambda: rewritten(saved(WEIGHTS), more=[
        ('archive/constants.pkl', b'x'), ('archive/code/x.py', b'import os')]),
    'one number for a million': lambda: saved({'weight': torch.ones(1).expand(1 << 40)}),
    'the older layout, a call first': lambda: legacy_with(0, PICKLES['system']),
    'the older layout, a call second': lambda: legacy_with(1, PICKLES['eval']),
    'the older layout, a call in what it says of its system': lambda: legacy_with(2, PICKLES['exec']),
    'the older layout, a call for tensors': lambda: legacy_with(3, PICKLES['system']),
    'the older layout, a call last': lambda: legacy_with(4, PICKLES['system']),
    'the older layout, a key that doubles': lambda: legacy_with(3, doubling(200)),
    'a plain pickle': lambda: PICKLES['system'],
    'a tar': lambda: b'sys_info' + bytes(92) + b'0000644\0' + bytes(149) + b'ustar\0' + b'00' + bytes(247),
}


WEIGHT_READERS = pytest.mark.parametrize('read', [
    lambda path: run_folder.load_weights(torch.nn.Linear(3, 2), run_folder.read_tensors(path), path),
    lambda path: cnn.fitting_weights(torch.nn.Linear(3, 2), path)], ids=['checkpoint', 'ResNet'])


@WEIGHT_READERS
@pytest.mark.parametrize('layout', ['zip', 'legacy'])
def test_the_file_that_the_malicious_ones_are_made_from_is_accepted(tmp_path, layout, read):
    path = tmp_path / 'whole.pth'
    path.write_bytes(saved(WEIGHTS, layout))
    read(str(path))


@WEIGHT_READERS
@pytest.mark.parametrize('case', ARCHIVES)
def test_malicious_files_of_tensors_are_refused(tmp_path, monkeypatch, case, read):
    path = tmp_path / 'strange.pth'
    path.write_bytes(ARCHIVES[case]())
    with refused('strange.pth', tmp_path, monkeypatch):
        read(str(path))


def test_weights_with_a_flipped_bit_are_refused(tmp_path):
    path = tmp_path / 'model.pth'
    content = saved({'weight': torch.full((1000,), 0.5)})
    place = content.index(struct.pack('<f', 0.5) * 9) + 400
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1:])
    assert torch.load(path, weights_only=True)['weight'][100] != 0.5  # which torch does not notice
    with pytest.raises(DataError, match='model.pth is not a valid file.*CRC'):
        run_folder.read_tensors(str(path))


@pytest.mark.parametrize('layout', ['zip', 'legacy'])
def test_files_of_tensors_are_read_in_both_layouts(tmp_path, layout):
    shared = torch.arange(6.0)
    value = {'a': shared, 'b': shared[2:4], 'c': torch.ones(2, 3).t(), 'd': torch.tensor(7),
             'e': {'state': [torch.nn.Parameter(torch.ones(2))], 'step': 3, 'none': None}}
    path = tmp_path / 'whole.pth'
    path.write_bytes(saved(value, layout))
    found = tensors.load(str(path), '')
    assert all(torch.equal(found[name], value[name]) for name in 'abcd')
    assert found['e']['step'] == 3 and torch.equal(found['e']['state'][0], torch.ones(2))


def bomb(path, shape, real):
    """An .npz whose array claims `shape` and holds `real` bytes of zeros, compressed."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {'descr': '<f4', 'fortran_order': False, 'shape': shape})
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive, archive.open('feat.npy', 'w') as member:
        member.write(header.getvalue())
        for _ in range(real >> 20):
            member.write(bytes(1 << 20))


@pytest.mark.parametrize('shape, real', [
    ((1 << 40, 4), 0), ((1 << 62, 1 << 62), 0), ((3000, 1 << 20), 0), ((1 << 18, 512), 512 << 20)],
    ids=['terabytes said', 'more than a number', 'gigabytes said', 'gigabytes held'])
def test_a_decompression_bomb_of_features_is_refused(tmp_path, monkeypatch, shape, real):
    bomb(tmp_path / '7.npz', shape, real)
    monkeypatch.setattr(array_files, 'LARGEST', 256 << 20)
    with refused('7.npz', tmp_path, monkeypatch):
        array_files.read_array(str(tmp_path / '7.npz'))


@pytest.mark.parametrize('name', ['7.npz', '7.npy'])
@pytest.mark.parametrize('descr', ["'|O'", "[('a','|O')]", "__import__('os').mkdir('canary')", "'<f4'.__class__"],
                         ids=['objects', 'records', 'code', 'a class'])
def test_arrays_of_objects_and_headers_with_code_are_refused(tmp_path, monkeypatch, name, descr):
    head = f"{{'descr': {descr}, 'fortran_order': False, 'shape': (1,), }}".encode()
    content = b'\x93NUMPY\x01\0' + struct.pack('<H', len(head)) + head + pickle.dumps([Call(os.mkdir, CANARY)])
    if name.endswith('.npz'):
        with zipfile.ZipFile(tmp_path / name, 'w') as archive:
            archive.writestr('feat.npy', content)
    else:
        (tmp_path / name).write_bytes(content)
    with refused(name, tmp_path, monkeypatch):
        array_files.read_array(str(tmp_path / name))


def test_member_names_in_an_archive_of_features_write_nothing(tmp_path):
    np.savez(tmp_path / '7.npz', feat=np.ones((2, 3), np.float32))
    with zipfile.ZipFile(tmp_path / '7.npz', 'a') as archive:
        archive.writestr('../../canary', b'x')
        archive.writestr('/tmp/canary.npy', b'x')
    assert array_files.read_array(str(tmp_path / '7.npz')).shape == (2, 3)
    assert os.listdir(tmp_path) == ['7.npz']


@pytest.mark.parametrize('kind', ['external link', 'outside storage', 'virtual', 'said to be huge', 'bomb', 'chunk'])
def test_labels_stored_in_another_file_or_nowhere_are_refused(tmp_path, monkeypatch, kind):
    h5py = pytest.importorskip('h5py')
    path, secret = tmp_path / 'labels.h5', tmp_path / 'secret.h5'
    with h5py.File(secret, 'w') as file:
        file['labels'] = np.ones((4, 3), np.uint32)
    with h5py.File(path, 'w') as file:
        file['label_start_ix'], file['label_end_ix'] = np.uint32([1, 3]), np.uint32([2, 4])
        if kind == 'external link':
            file['labels'] = h5py.ExternalLink('secret.h5', '/labels')
        elif kind == 'outside storage':
            file.create_dataset('labels', (4, 3), 'u4', external=[(str(secret), 0, 48)])
        elif kind == 'virtual':
            layout = h5py.VirtualLayout((4, 3), 'u4')
            layout[:] = h5py.VirtualSource(str(secret), 'labels', (4, 3))
            file.create_virtual_dataset('labels', layout)
        elif kind == 'bomb':  # no more than its bytes may unpack to, but gigabytes
            file.create_dataset('labels', (1 << 29, 3), 'u4', chunks=(1024, 3), fillvalue=1)
            file['padding'] = np.zeros(8 << 20, np.uint8)
        elif kind == 'chunk':
            file.create_dataset('labels', (4, 3), 'u4', chunks=(1 << 28, 3), maxshape=(None, 3), fillvalue=1)
        else:
            file.create_dataset('labels', (1 << 28, 3), 'u4', chunks=(1024, 3), fillvalue=1)
    with refused('labels.h5', tmp_path, monkeypatch):
        Labels(str(path), 2, 9)


@pytest.mark.parametrize('kind', ['group', 'soft', 'rows'])
def test_a_packed_file_with_a_link_to_another_file_at_any_step_is_refused(tmp_path, monkeypatch, kind):
    h5py = pytest.importorskip('h5py')
    path, secret = tmp_path / 'packed.h5', tmp_path / 'secret.h5'
    for name in (secret, path):
        with h5py.File(name, 'w') as file:
            file['ids'] = np.arange(2)
            if name == path and kind == 'group':
                file['att'] = h5py.ExternalLink('secret.h5', '/att')
            elif name == path and kind == 'soft':
                file['outside'] = h5py.ExternalLink('secret.h5', '/att')
                file['att'] = h5py.SoftLink('/outside')
            else:
                file['att/offsets'] = np.arange(3)
                file['att/rows'] = h5py.ExternalLink('secret.h5', '/att/rows') if name == path else np.ones(
                    (2, 4), np.float32)
    PackedReader(str(secret), 'att', 'input_img_feat_dir')
    with refused('packed.h5', tmp_path, monkeypatch):
        PackedReader(str(path), 'att', 'input_img_feat_dir')


def test_rows_of_an_image_that_unpack_to_gigabytes_are_refused(tmp_path, monkeypatch):
    h5py = pytest.importorskip('h5py')
    with h5py.File(tmp_path / 'packed.h5', 'w') as file:
        file['ids'], file['att/offsets'] = [7], [0, 1 << 20]
        file.create_dataset('att/rows', (1 << 20, 512), 'f4', chunks=(1024, 512), compression='gzip')
        file['padding'] = np.zeros(8 << 20, np.uint8)
    reader = PackedReader(str(tmp_path / 'packed.h5'), 'att', 'input_img_feat_dir')
    with refused('packed.h5', tmp_path, monkeypatch):
        reader.read(7)


def test_symbolic_links_are_followed_and_one_to_itself_is_named(tmp_path, monkeypatch):
    (tmp_path / 'loop.p').symlink_to(tmp_path / 'loop.p')
    (tmp_path / 'loop.json').symlink_to(tmp_path / 'loop.json')
    (tmp_path / 'true.p').write_bytes(pickle.dumps([1]))
    (tmp_path / 'link.p').symlink_to(tmp_path / 'true.p')
    assert pickles.load(str(tmp_path / 'link.p')) == [1]
    with refused('loop.p', tmp_path, monkeypatch):
        pickles.load(str(tmp_path / 'loop.p'))
    with refused('loop.p', tmp_path, monkeypatch):
        run_folder.read_tensors(str(tmp_path / 'loop.p'))


@pytest.mark.parametrize('settings', [{'PYTHONIOENCODING': 'ascii'}, {'LC_ALL': 'C', 'PYTHONUTF8': '0'},
                                      {'PYTHONIOENCODING': 'utf-8'}], ids=['ascii', 'C', 'utf-8'])
def test_captions_in_any_script_are_printed_in_any_encoding(tmp_path, settings):
    (tmp_path / 'größe.json').write_text(json.dumps([{'image_id': 1, 'caption': 'größe \ud800'}]))
    (tmp_path / 'coco.json').write_text(json.dumps({'annotations': [{'image_id': 1, 'caption': 'ein hund'}]}))
    project = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    found = subprocess.run(
        [sys.executable, os.path.join(project, 'scripts', 'score_captions.py'), '--predictions',
         tmp_path / 'größe.json', '--coco_json', tmp_path / 'coco.json', '--use_java', '0'],
        capture_output=True, env={**os.environ, **settings}, timeout=120)
    assert found.returncode == 0, found.stderr
    assert (b'gr\xc3\xb6' if 'utf-8' in settings.values() else b'gr\\') in found.stdout
