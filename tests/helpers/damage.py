"""Ways to damage a corpus and a run (the fixture `root`), and the error messages that follow."""

import json
import os
import re

import numpy as np
import pytest

import train
from misc.cli import DataError, UserError
from tests.helpers import tiny

LABELS, BU_DATA, AREAS, RELATE = ('prepro_labels.py', 'make_bu_data.py', 'prepro_areas.py .*--num_grids 9',
                                  'prepro_bbox_relative_coords.py')
SCORED = ('--language_eval', 1, '--coco_json', 'ROOT/coco.json')
RESUMED = ('--start_from', 'ROOT/run', '--max_epochs', 2)


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
