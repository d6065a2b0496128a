"""Ways to damage a corpus and a run (the fixture `root`), and the error messages that follow."""

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import train
from misc.cli import DataError, UserError
from tests.helpers import tiny

Damage = Callable[[Path], None]  # damages the corpus and the run in a folder
# What messages say of the commands that make a file.
LABELS, BU_DATA, AREAS, RELATE = ('prepro_labels.py', 'make_bu_data.py', 'prepro_areas.py .*--num_grids 9',
                                  'prepro_bbox_relative_coords.py')
SCORED = ('--language_eval', 1, '--coco_json', 'ROOT/coco.json')
RESUMED = ('--start_from', 'ROOT/run', '--max_epochs', 2)


def complaint(root: Path, program: ModuleType, *flags: object) -> str:
    """The message with which `program` refuses its input; it has to be short and to leave no unfinished file.

    ROOT in `flags` stands for `root`.
    """
    words = [str(flag).replace('ROOT', str(root)) for flag in flags]
    made = root / 'made'
    given = (tiny.train_flags(root, made, '--max_epochs', 1, *words) if program is train
             else tiny.eval_flags(root, root / 'run', *words))
    with pytest.raises(UserError) as raised:
        tiny.run(program, given)
    assert raised.value.status == 1 and isinstance(raised.value, DataError)
    text = str(raised.value)
    assert len(text.splitlines()) <= 3 and len(text) < 800
    left = list(made.rglob('*')) if made.exists() else []
    assert not [path for path in left if path.suffix in ('.pth', '.pkl', '.part')]
    assert not os.listdir()
    return text


def expect(text: str, *patterns: str) -> None:
    """Fail unless `text` matches every pattern."""
    for pattern in patterns:
        assert re.search(pattern, text), f'{pattern!r} is not in {text!r}'


def array(name: str, value: np.ndarray) -> Damage:
    """Replace the array in the file `name` by `value`."""
    def damage(root: Path) -> None:
        path = root / name
        np.savez(path, feat=value) if path.suffix == '.npz' else np.save(path, value)
    return damage


def json_file(name: str, place: Sequence[str | int], value: Any = None) -> Damage:
    """Set the entry of a JSON file that the keys `place` lead to; if `value` is None, delete it."""
    def damage(root: Path) -> None:
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


def talk(*place: str | int, value: Any = None) -> Damage:
    """The same for talk.json."""
    return json_file('talk.json', place, value)


def resplit(name: str, rows: slice) -> Damage:
    """Move images to the split `name`."""
    def damage(root: Path) -> None:
        for row in range(len(tiny.SPLITS))[rows]:
            talk('images', row, 'split', value=name)(root)
    return damage
