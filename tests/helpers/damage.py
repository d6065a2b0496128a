"""A whole corpus and run to damage, ways to damage them, and what a program then complains of."""

import json
import os
import re
import shutil

import numpy as np
import pytest

import train
from misc.cli import DataError, UserError
from misc.dataset.features import open_source
from misc.dataset.packed import write_packed
from tests.helpers import tiny

LABELS, BU_DATA, AREAS, RELATE = ('prepro_labels.py', 'make_bu_data.py', 'prepro_areas.py .*--num_grids 9',
                                  'prepro_bbox_relative_coords.py')
SCORED = ('--language_eval', 1, '--coco_json', 'ROOT/coco.json')
RESUMED = ('--start_from', 'ROOT/run', '--max_epochs', 2)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """A folder with a corpus, and a run on it."""
    root = tiny.write_corpus(tmp_path_factory.mktemp('whole') / 'root')
    source = open_source(str(root / 'att'), 'att', '')
    write_packed(root / 'att.h5', {'att': {image_id: source.read(image_id) for image_id in source.ids()}})
    (root / 'coco.json').write_text(json.dumps({'annotations': [
        {'image_id': image_id, 'caption': 'a red dog'} for image_id in range(100, 116)]}))
    tiny.run(train, tiny.train_flags(root, root / 'run', '--max_epochs', 1))
    return root


@pytest.fixture
def root(whole, tmp_path, monkeypatch):
    """A copy of it that a test may damage; programs run in an empty folder beside it."""
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    return shutil.copytree(whole, tmp_path / 'root')


def complaint(root, program, *flags):
    """What `program` says about its input; it has to be brief and to leave nothing half-written."""
    flags = [str(flag).replace('ROOT', str(root)) for flag in flags]
    made = root / 'made'
    given = (tiny.train_flags(root, made, '--max_epochs', 1, *flags) if program is train
             else tiny.eval_flags(root, root / 'run', *flags))
    with pytest.raises(UserError) as raised:
        tiny.run(program, given)
    assert raised.value.status == 1 and isinstance(raised.value, DataError)
    text = str(raised.value)
    assert len(text.splitlines()) <= 3 and len(text) < 800
    left = list(made.rglob('*')) if made.exists() else []
    assert not [path for path in left if path.suffix in ('.pth', '.pkl', '.part')]
    assert not os.listdir()
    return text


def expect(text, *patterns):
    for pattern in patterns:
        assert re.search(pattern, text), f'{pattern!r} is not in {text!r}'


def array(name, value):
    """Put `value` in place of an image's array."""
    def damage(root):
        path = root / name
        np.savez(path, feat=value) if path.suffix == '.npz' else np.save(path, value)
    return damage


def json_file(name, place, value=None):
    """Set a place (a path of keys) of a JSON file to `value`; without one, take it out."""
    def damage(root):
        content = json.loads((root / name).read_text())
        inner = content
        for key in place[:-1]:
            inner = inner[key]
        if value is None:
            del inner[place[-1]]
        else:
            inner[place[-1]] = value
        (root / name).write_text(json.dumps(content))
    return damage


def talk(*place, value=None):
    """Edit the labels file."""
    return json_file('talk.json', place, value)


def resplit(name, rows):
    """Put the images `rows` (a slice) into the split `name`."""
    def damage(root):
        for row in range(len(tiny.SPLITS))[rows]:
            talk('images', row, 'split', value=name)(root)
    return damage
