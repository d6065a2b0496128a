"""What is said at the start of a run that goes on from another one, or in another way."""

import os
from collections.abc import Mapping
from typing import Any

from misc.cli import note
from misc.run.folder import Run
from misc.run.log import RATES

# The options that decide the learning rate, and how far a step goes.
OF_RATE = ('learning_rate', 'learning_rate_decay_start', 'learning_rate_decay_every', 'learning_rate_decay_rate',
           'noamopt', 'noamopt_warmup', 'noamopt_factor', 'reduce_on_plateau', 'cosine', 'cosine_warmup',
           'batch_size')


def note_place(run: Run, folder: str, run_id: str, in_place: bool) -> None:
    """Say where `run` goes on, if that is not its own folder (`in_place`) under its own id."""
    old_id, old_folder = run.infos['opt'].get('id'), os.path.dirname(run.infos_path)
    if in_place and old_id not in (None, run_id):
        note(f'note: this copy of the run {old_id} goes on as the run {run_id}')
    elif not in_place:
        note(f'note: goes on in {folder} as the run {run_id}; {old_folder} stays as it is, and model-best.pth begins '
             'anew')


def note_rate(run: Run, options: Mapping[str, Any], rate: float, schedule: str) -> None:
    """Say which learning `rate` the next step has, by which `schedule`, where the options that decide it are not
    those of `run`."""
    before = run.infos['opt']
    if all(before.get(name, options[name]) == options[name] for name in OF_RATE):
        return
    rates = (run.infos.get('histories') or {}).get(RATES)
    was = f'; it was {rates[max(rates)]:.3g} in step {max(rates)}' if rates else ''
    note(f'note: the learning rate of the next step is {rate:.3g} ({schedule}){was}')
