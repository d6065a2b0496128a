"""Fixtures that tests of several folders use."""

import json
import os
import pathlib
import shutil
import signal
import sys

# Before torch is loaded (why: see train.py).
os.environ.setdefault('GOMP_SPINCOUNT', '2000')

import pytest

import train
from misc.cli import UserError
from misc.dataset.features import open_reader
from misc.dataset.packing import write_packed
from tests.helpers import ROOT, pictures, tiny
from tests.helpers import browser as browsers
from tests.helpers import networks as small_networks


def pytest_configure():
    """Let signals end processes: under nohup, or in the background of a shell script, the tests and all that they
    start would ignore SIGHUP or SIGINT."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope='session')
def minicoco():
    """The folder of the 99-image excerpt of COCO; tests that need it skip where it is absent."""
    places = [os.environ.get('MINICOCO'), ROOT.parent / 'shared' / 'minicoco']
    for place in places:
        if place and (pathlib.Path(place) / 'dataset_coco.json').is_file():
            return pathlib.Path(place)
    pytest.skip('the 99-image excerpt of COCO is not here; set MINICOCO to its folder')


@pytest.fixture(scope='session')
def corpus(tmp_path_factory):
    """The folder of the tiny corpus; tests share it and only read it."""
    return tiny.write_corpus(tmp_path_factory.mktemp('corpus') / 'root')


@pytest.fixture(scope='session')
def trained_root(tmp_path_factory):
    """A folder with the tiny corpus, its features packed in `att.h5`, annotations in `coco.json`, and a run of one
    epoch in `run`; tests share it and only read it."""
    root = tiny.write_corpus(tmp_path_factory.mktemp('trained') / 'root')
    source = open_reader(str(root / 'att'), 'att', '')
    write_packed(root / 'att.h5', {'att': {image_id: source.read(image_id) for image_id in source.ids()}})
    (root / 'coco.json').write_text(json.dumps({'annotations': [
        {'image_id': image_id, 'caption': 'a red dog'} for image_id in range(100, 116)]}))
    tiny.run(train, tiny.train_flags(root, root / 'run', '--max_epochs', 1))
    return root


@pytest.fixture
def root(trained_root, tmp_path, monkeypatch):
    """A copy of `trained_root` that a test may damage; the current folder is an empty one beside it."""
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    return shutil.copytree(trained_root, tmp_path / 'root')


@pytest.fixture(scope='session')
def pictures_root(tmp_path_factory):
    """The tiny corpus with pictures, the regions that are found in them, and a run on those in `run`; tests share it
    and only read it."""
    root = pictures.write_pictures(tmp_path_factory.mktemp('pictures') / 'root')
    pictures.train_run(root, root / 'run', '--max_epochs', 10, '--learning_rate', 5e-3, '--dropout', 0,
                       '--drop_prob_lm', 0)
    return root


@pytest.fixture
def without_java(monkeypatch):
    """No Java is found, so METEOR is left out: the scores take milliseconds."""
    monkeypatch.setenv('PATH', '')


@pytest.fixture
def run_script(monkeypatch, capsys):
    """Call with a script and its flags to run its `main` -> (exit status, what it printed to stderr)."""
    def call(script, **flags):
        words = [word for flag, value in flags.items() for word in (f'--{flag}', str(value))]
        monkeypatch.setattr(sys, 'argv', [script.__name__, *words])
        try:
            status = script.main()
            return status, capsys.readouterr().err
        except UserError as error:
            return error.status, capsys.readouterr().err + str(error)
        except SystemExit as error:
            return error.code, capsys.readouterr().err
    return call


@pytest.fixture
def networks(monkeypatch, tmp_path):
    """Small networks in place of torchvision's; downloads are looked for in an empty folder."""
    small_networks.put_in_place(monkeypatch, tmp_path)


@pytest.fixture(scope='session')
def browser():
    """One Chromium for all tests of pages."""
    with browsers.launched() as found:
        yield found


@pytest.fixture
def visit(browser):
    """Call with a URL or a path for Playwright's page of it; fails the test if a page had an error."""
    with browsers.checked_pages(browser) as open_page:
        yield open_page


@pytest.fixture
def served():
    """Call with a folder for the URL at which it is served."""
    with browsers.serving() as serve:
        yield serve
