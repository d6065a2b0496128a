"""Whether the folder of a run equals that of an undisturbed run at the same iteration, bit for bit."""

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from misc.disk import filesets, pickles
from misc.run import folder as run_folder
from misc.run import journal
from misc.run.histories import History, read_logged
from misc.run.log import STEPS
from misc.run.status import STATUS
from tests.helpers.events import event_numbers

# What may differ: paths, that the run was resumed, the version of the code, times, and which run it is.
NOT_COMPARED = {'run', 'checkpoint_path', 'start_from', 'keeps_rates', 'code', 'seconds', 'waited'}
EVENTS = 'events.out.tfevents'
RECORD = 'run.json'  # the run record, to which every start adds
# What every start adds to, and what holds times: they differ, and are no part of a checkpoint.
BESIDE = (RECORD, STEPS, STATUS, journal.LOG)


class Lost(Exception):
    """A run lost, mixed up or left behind something."""


def names_in(folder: Path) -> list[str]:
    """The names of the files in a run's file set, as a reader sees them."""
    return [name for name in filesets.listing(folder) if not name.startswith(EVENTS)
            and not name.endswith('.part') and name not in (filesets.LOCK, filesets.JOURNAL, *BESIDE)]


def has_checkpoint(folder: Path) -> bool:
    """Whether there is a checkpoint to resume from."""
    return folder.exists() and any(name.startswith('infos') for name in names_in(folder))


def content_of(folder: Path) -> dict[str, Any]:
    """{name: value} of the files in a run's file set."""
    return {name: read_file(os.path.join(folder, name)) for name in names_in(folder)}


def read_file(path: str) -> Any:
    """The value in a file of the set."""
    if path.endswith('.pth'):
        return run_folder.read_tensors(path)
    if path.endswith('.pkl'):
        return pickles.load(path, opened=filesets.opened)
    with filesets.opened(path) as file:
        return [json.loads(line) for line in file]


def first_difference(one: Any, other: Any, place: str = '') -> str:
    """The first difference of two values as text, or ''."""
    one, other = (vars(value) if isinstance(value, argparse.Namespace) else value for value in (one, other))
    if type(one) is not type(other):
        return f'{place}: {type(one).__name__}, {type(other).__name__}'
    if isinstance(one, dict):
        keys = [key for key in one if key not in NOT_COMPARED], [key for key in other if key not in NOT_COMPARED]
        if sorted(map(str, keys[0])) != sorted(map(str, keys[1])):
            return f'{place}: {sorted(set(map(str, keys[0])) ^ set(map(str, keys[1])))} only in one'
        parts = [(key, one[key], other[key]) for key in keys[0]]
    elif isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return f'{place}: {len(one)} items, {len(other)}'
        parts = zip(range(len(one)), one, other)
    elif torch.is_tensor(one):
        return '' if one.dtype == other.dtype and torch.equal(one, other) else place
    elif isinstance(one, np.ndarray):
        return '' if one.dtype == other.dtype and np.array_equal(one, other) else place
    else:
        return '' if one == other else f'{place}: {one!r}, {other!r}'
    found = (first_difference(*values, f'{place}/{name}') for name, *values in parts)
    return next(filter(None, found), '')


def keep_saves(folder: Path, saves: Path) -> None:
    """Called in the process of an undisturbed run: keep a copy under `saves` of every checkpoint in `folder`."""
    plain = filesets.save_set

    def save(to, files):
        plain(to, files)
        infos, = (name for name in files if name.startswith('infos') and not name.endswith('-best.pkl'))
        name = save_name(run_folder.read_infos(os.path.join(to, infos)))
        shutil.copytree(folder, saves / name, ignore=shutil.ignore_patterns(f'{EVENTS}*', '.lock'))
    filesets.save_set = save


def save_name(infos: dict[str, Any]) -> str:
    """A name that identifies a checkpoint: an iteration may be saved both before and after its validation."""
    return f'{infos["iter"]}_{len(infos["validations"])}'


def check_folder(folder: Path, saves: Path, before: int) -> int:
    """Read the folder of a killed run and compare it with the undisturbed run's `saves` -> the iteration of its
    checkpoint, or -1; it must not be lower than `before`, that of the last check.  Reading must change nothing.

    Raises `Lost`.
    """
    if (folder / RECORD).exists():
        json.loads((folder / RECORD).read_text())
    if not has_checkpoint(folder):
        left = names_in(folder) if folder.exists() else []
        if left or before >= 0:
            raise Lost(f'{folder} has {left or "nothing"} after iteration {before} was saved')
        return -1
    stamps = stamps_of(folder)
    run = run_folder.find_run(str(folder))
    iteration = run.infos['iter']
    if iteration < before:
        raise Lost(f'{folder} went back from iteration {before} to {iteration}')
    found = first_difference(content_of(saves / save_name(run.infos)), content_of(folder))
    if found or stamps != stamps_of(folder):
        raise Lost(f'{folder} is not what was saved at iteration {iteration}: {found or "a reader changed it"}')
    return iteration


def end_difference(whole: Path, folder: Path) -> str:
    """How a run that ended differs from the undisturbed one in `whole`, as text, or ''."""
    left = [name for name in os.listdir(folder)
            if name not in (*names_in(folder), *BESIDE) and not name.startswith(EVENTS)]
    if left:
        return f'{left} left behind'
    return (first_difference(content_of(whole), content_of(folder))
            or first_difference(vars(logged(whole)), vars(logged(folder)), STEPS)
            or first_difference(event_numbers(whole), event_numbers(folder), 'TensorBoard'))


def logged(folder: Path) -> History:
    """The history in `steps.jsonl` and `validations.jsonl`, without the folder's name and without times."""
    history = read_logged(str(folder))
    history.name = history.folder = ''
    for scores in history.scores.values():
        scores.pop('seconds', None)
        scores.pop('waited', None)
    return history


def stamps_of(folder: Path) -> dict[str, tuple[int, int]]:
    """{name: (inode, time of change)} of the files in a folder."""
    return {entry.name: (entry.stat().st_ino, entry.stat().st_mtime_ns) for entry in os.scandir(folder)}
