"""Pipes, devices and sockets in place of files are refused, by every reader; no name leads out of a folder."""

import argparse
import ast
import json
import os
import signal
import socket

import pytest
from PIL import Image

from misc.cli import DataError
from misc.dataset.array_files import read_array, read_shape
from misc.dataset.labels import Labels, caption_width, image_path
from misc.dataset.packed import PackedReader
from misc.disk import filesets, pickles, tensors
from misc.disk.files import open_regular, path_under, read_json
from misc.pictures.images import read_rgb, read_size, read_upright
from misc.pictures.listing import SplitPictures, digest_of
from misc.prepare.broken import Broken
from misc.prepare.captions.reading import read_text
from misc.run.folder import read_infos
from misc.run.histories import read_steps
from misc.run.record import earlier_starts
from scripts import create_report, prepro_bbox_relative_coords, prepro_labels
from tests.helpers import ROOT

READERS = {
    'a.npy': read_array, 'b.npy': read_shape, 'a.npz': read_array, 'b.npz': read_shape,
    'a.json': lambda path: read_json(path, ''),
    'a.pkl': pickles.load, 'infos_a.pkl': read_infos, 'a.pth': lambda path: tensors.load(path, ''),
    'a.h5': lambda path: Labels(path, 2, 9), 'b.h5': lambda path: PackedReader(path, 'att', 'input_img_feat_dir'),
    'c.h5': caption_width, 'a.jpg': read_rgb, 'b.jpg': lambda path: read_upright(path, 100), 'c.jpg': read_size,
    'd.jpg': digest_of, 'model.pth': filesets.opened, 'a.csv': read_text,
    'steps.jsonl': read_steps, 'run.json': lambda path: earlier_starts(
        os.path.dirname(path)),
}


def pipe(path):
    os.mkfifo(path)


def device(path):
    path.symlink_to('/dev/zero')


def endpoint(path):
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


@pytest.fixture
def alarm():
    """A test that hangs fails after ten seconds."""
    def ring(*_):
        raise TimeoutError('it hangs')
    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize('make', [pipe, device, endpoint])
@pytest.mark.parametrize('name', READERS)
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, monkeypatch, alarm, name, make):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / name)
    try:
        assert READERS[name](str(tmp_path / name)) in (None, [])
    except (DataError, OSError) as error:
        assert not isinstance(error, TimeoutError) and name in str(error)


def test_a_save_that_was_listed_in_a_pipe_is_refused(tmp_path, alarm):
    pipe(tmp_path / filesets.JOURNAL)
    with pytest.raises((DataError, OSError), match='no regular file'):
        filesets.listing(str(tmp_path))


def opens_for_reading(tree):
    """The lines of a syntax tree that call `open` to read a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'open':
            mode = node.args[1].value if len(node.args) > 1 and isinstance(node.args[1], ast.Constant) else 'r'
            if 'r' in mode and '+' not in mode:
                yield node.lineno


# `open_regular` itself; files of this project or of the system, and what its own programs wrote a moment ago.
OWN_FILES = {'misc/disk/files.py', 'misc/compare/report.py', 'misc/page/page.py', 'misc/setup/environment.py',
             'misc/scoring/spice.py', 'scripts/benchmarking/processes.py', 'scripts/gpu_checking/training.py'}


def test_every_file_that_a_user_names_is_opened_by_open_regular():
    sources = [path for pattern in ('*.py', 'misc/**/*.py', 'scripts/**/*.py') for path in ROOT.glob(pattern)]
    found = {path.relative_to(ROOT).as_posix() for path in sources
             if any(opens_for_reading(ast.parse(path.read_text(encoding='utf-8'))))}
    assert found <= OWN_FILES


def test_open_regular_reads_files_and_links_to_files(tmp_path):
    (tmp_path / 'a').write_bytes(b'x')
    (tmp_path / 'link').symlink_to('a')
    for name in ('a', 'link'):
        with open_regular(tmp_path / name) as file:
            assert file.read() == b'x'
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / 'absent')


@pytest.mark.parametrize('name', ['../a.jpg', '/etc/passwd', 'a/../../b.jpg', '..', 'a\0.jpg', '', '\\\\host\\a.jpg',
                                  '..\\a.jpg', 'C:/a.jpg'])
def test_no_name_leads_out_of_its_folder(tmp_path, name):
    with pytest.raises(DataError, match='leads out of the folder'):
        path_under(tmp_path, name)


def test_names_inside_a_folder_are_joined(tmp_path):
    for name in ('a.jpg', 'train2014/a.jpg', 'a..b/c...jpg'):
        assert path_under(tmp_path, name) == os.path.join(tmp_path, name)
    assert path_under('', 'a.jpg') == 'a.jpg'


@pytest.mark.parametrize('name', ['../secret/private.png', '{root}/secret/private.png'])
def test_a_data_set_that_names_pictures_outside_the_root_gets_none_of_them(tmp_path, name):
    (tmp_path / 'secret').mkdir()
    (tmp_path / 'root').mkdir()
    Image.new('RGB', (30, 30), 'red').save(tmp_path / 'secret' / 'private.png')
    name, root = name.format(root=tmp_path), str(tmp_path / 'root')
    with pytest.raises(DataError, match='leads out of the folder'):
        image_path(root, {'id': 1, 'file_path': name})
    records = [{'cocoid': 1, 'filename': name, 'split': 'train', 'sentences': [{'tokens': ['a'], 'raw': 'a'}]},
               {'cocoid': 2, 'filename': 'ok.png', 'split': 'train', 'sentences': [{'tokens': ['a'], 'raw': 'a'}]}]
    (tmp_path / 'dataset.json').write_text(json.dumps({'images': records}))
    Image.new('RGB', (30, 30)).save(tmp_path / 'root' / 'ok.png')
    broken = Broken()
    assert list(SplitPictures(str(tmp_path / 'dataset.json'), root, broken).paths) == ['2']
    assert 'leads out of the folder' in broken.messages[0]
    images = [{'id': 1, 'file_path': name}, {'id': 2, 'file_path': 'ok.png'}]
    assert list(prepro_labels.measure(images, root, Broken())) == [2]
    with pytest.raises(DataError, match='leads out of the folder'):
        prepro_bbox_relative_coords.find_images(str(tmp_path / 'dataset.json'), root, {'1', '2'}, 'box', Broken())
    (tmp_path / 'talk.json').write_text(json.dumps({'ix_to_word': {}, 'images': [
        {'id': 1, 'split': 'test', 'captions': ['a'], 'file_path': name},
        {'id': 2, 'split': 'test', 'captions': ['a'], 'file_path': 'ok.png'}]}))
    options = argparse.Namespace(input_json=str(tmp_path / 'talk.json'), coco_json=None, image_root=root)
    pictures, notes = create_report.small_pictures(options, [1, 2])
    assert list(pictures) == [2] and 'leads out of the folder' in notes[0]
