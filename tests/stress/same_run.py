"""Whether a run's folder is what an undisturbed run left at the same iteration, bit for bit."""

import argparse
import json
import os
import shutil

import numpy as np
import torch

from misc.disk import filesets, pickles
from misc.run import folder as run_folder
from misc.run.histories import read_logged
from misc.run.log import STEPS
from tests.helpers.events import event_numbers

# What may differ: where the run lies, that it was resumed, the state of the code then, and what the clock says.
NO_PART = {'checkpoint_path', 'start_from', 'keeps_rates', 'code', 'seconds', 'waited'}
EVENTS = 'events.out.tfevents'
STARTS = 'run.json'  # the account of all starts, each of which adds to it


class Lost(Exception):
    """Something was lost, mixed or left behind; the text says what."""


def set_in(folder):
    """The names of the files of a run's set, as a reader finds them."""
    return [name for name in filesets.listing(folder) if not name.startswith(EVENTS)
            and not name.endswith('.part') and name not in (filesets.LOCK, filesets.JOURNAL, STARTS, STEPS)]


def is_begun(folder):
    """Whether there is a checkpoint to go on from."""
    return folder.exists() and any(name.startswith('infos') for name in set_in(folder))


def content_of(folder):
    """{name of a file: what it holds} of a run's set."""
    return {name: read(os.path.join(folder, name)) for name in set_in(folder)}


def read(path):
    """What a file of the set holds."""
    if path.endswith('.pth'):
        return run_folder.read_tensors(path)
    if path.endswith('.pkl'):
        return pickles.load(path, opened=filesets.opened)
    with filesets.opened(path) as file:
        return [json.loads(line) for line in file]


def differences(one, other, place=''):
    """The first difference of two values, as text, or ''."""
    one, other = (vars(value) if isinstance(value, argparse.Namespace) else value for value in (one, other))
    if type(one) is not type(other):
        return f'{place}: {type(one).__name__}, {type(other).__name__}'
    if isinstance(one, dict):
        keys = [key for key in one if key not in NO_PART], [key for key in other if key not in NO_PART]
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
    found = (differences(*values, f'{place}/{name}') for name, *values in parts)
    return next(filter(None, found), '')


def kept_saves(folder, saves):
    """In the process of an undisturbed run: keep each set that it saves into `folder` under `saves`."""
    plain = filesets.save_set

    def save(to, files):
        plain(to, files)
        infos, = (name for name in files if name.startswith('infos') and not name.endswith('-best.pkl'))
        name = save_name(run_folder.read_infos(os.path.join(to, infos)))
        shutil.copytree(folder, saves / name, ignore=shutil.ignore_patterns(f'{EVENTS}*', '.lock'))
    filesets.save_set = save


def save_name(infos):
    """What tells one save of a run from the others: the last iteration may be saved before its validation too."""
    return f'{infos["iter"]}_{len(infos["validations"])}'


def look(folder, saves, before):
    """Open the folder of a run that was killed as a reader does, change nothing, and hold it against the
    undisturbed run's `saves` -> the iteration of its checkpoint, or -1; `before` it was killed it had that."""
    if (folder / STARTS).exists():
        json.loads((folder / STARTS).read_text())
    if not is_begun(folder):
        left = set_in(folder) if folder.exists() else []
        if left or before >= 0:
            raise Lost(f'{folder} has {left or "nothing"} after iteration {before} was saved')
        return -1
    stamps = stamps_of(folder)
    run = run_folder.find_run(str(folder))
    iteration = run.infos['iter']
    if iteration < before:
        raise Lost(f'{folder} went back from iteration {before} to {iteration}')
    found = differences(content_of(saves / save_name(run.infos)), content_of(folder))
    if found or stamps != stamps_of(folder):
        raise Lost(f'{folder} is not what was saved at iteration {iteration}: {found or "a reader changed it"}')
    return iteration


def end_difference(whole, folder):
    """How a run that ended differs from the undisturbed one in the folder `whole`, or ''."""
    left = [name for name in os.listdir(folder)
            if name not in (*set_in(folder), STARTS, STEPS) and not name.startswith(EVENTS)]
    if left:
        return f'{left} left behind'
    return (differences(content_of(whole), content_of(folder))
            or differences(vars(logged(whole)), vars(logged(folder)), STEPS)
            or differences(event_numbers(whole), event_numbers(folder), 'TensorBoard'))


def logged(folder):
    """What `steps.jsonl` and `validations.jsonl` say of a run, whatever its folder is called; times left out."""
    history = read_logged(str(folder))
    history.name = history.folder = ''
    for scores in history.scores.values():
        scores.pop('seconds', None), scores.pop('waited', None)
    return history


def stamps_of(folder):
    """What changes when anything in the folder does."""
    return {entry.name: (entry.stat().st_ino, entry.stat().st_mtime_ns) for entry in os.scandir(folder)}
