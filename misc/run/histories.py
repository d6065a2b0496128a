"""What training left in a run's folder to look back on: losses, rates, rewards and validations.

Nothing in the folder is touched, so that a run can be looked at while it trains.
"""

import json
import os
import re
from dataclasses import dataclass, field

from misc.cli import DataError
from misc.disk import filesets, pickles
from misc.run.events import read_numbers

VALIDATIONS = 'validations.jsonl'
HISTORIES = re.compile(r'histories(?:_(.+))?\.pkl')
# In histories_ID.pkl: numbers by iteration, and named numbers by iteration.
NUMBERS = {'losses': 'loss_history', 'rates': 'lr_history'}
NAMED = {'scores': 'val_result_history', 'rewards': 'reward_history'}
LAST = 1 << 53    # the largest iteration that is told apart from its neighbours as a float
LOGGED = ('train_loss', 'learning_rate')  # the tags of losses and rates in TensorBoard's events


@dataclass
class History:
    """The course of one run.  Iterations are counted from 1.

    name            the run's id
    folder          where it was found
    losses, rates   {iteration: number} of the training steps that were logged
    rewards         {iteration: {name: number}} of those that were self-critical
    scores          {iteration: {name: number}} of the validations, 'loss' among the names
    """

    name: str
    folder: str
    losses: dict = field(default_factory=dict)
    rates: dict = field(default_factory=dict)
    rewards: dict = field(default_factory=dict)
    scores: dict = field(default_factory=dict)

    @property
    def self_critical_after(self):
        """The last iteration before self-critical training, 0 if it began the run, None if it did not
        begin.  Steps are logged now and then; the phase begins with a validation, which tells more."""
        if not self.rewards:
            return None
        first = min(self.rewards)
        plain = max((iteration for iteration in self.losses if iteration < first), default=0)
        return max((iteration for iteration in self.scores if plain <= iteration < first), default=plain)


def read_histories(folder, ids=()):
    """The `History` of each run in `folder`, or of those that `ids` names, by id.

    The validations of a folder's only run are those of `validations.jsonl` too, which may be all there is;
    where several runs share a folder, it is not said whose that file is, and their own files tell the same.
    Raises `DataError`, naming the file that is missing or broken.
    """
    if not os.path.isdir(folder):
        raise DataError(f'there is no folder {folder}; give the --checkpoint_path of a run, such as '
                        'checkpoints/ID')
    found = {match[1] or os.path.basename(os.path.abspath(folder)): match[0] for match in map(
        HISTORIES.fullmatch, filesets.listing(folder)) if match}
    lines_path = os.path.join(folder, VALIDATIONS)
    if not found and not filesets.exists(lines_path):
        raise DataError(_nothing_in(folder))
    unknown = [name for name in ids if name not in found]
    if unknown:
        raise DataError(f'{folder} has no histories_{unknown[0]}.pkl; it holds the runs '
                        f'{", ".join(found) or "of nobody"}')
    histories = [read_history(os.path.join(folder, found[name]), name) for name in ids or found]
    if len(found) < 2 and filesets.exists(lines_path):
        histories = histories or [History(os.path.basename(os.path.abspath(folder)), folder)]
        for iteration, scores in read_validations(lines_path):
            histories[0].scores.setdefault(iteration, {}).update(scores)
    return histories


def read_logged(folder):
    """The `History` of the run in `folder` as its TensorBoard events and `validations.jsonl` tell it: what
    `read_histories` reads, without a pickle.  The run is called as its folder is.  Raises `DataError`.
    """
    if not os.path.isdir(folder):
        raise DataError(f'there is no folder {folder}; give the --checkpoint_path of a run, such as '
                        'checkpoints/ID')
    history = History(os.path.basename(os.path.abspath(folder)), folder)
    numbers = read_numbers(folder)
    history.losses, history.rates = (numbers.get(tag, {}) for tag in LOGGED)
    for start, kept in (('self_critical_', history.rewards), ('validation_', history.scores)):
        for tag, curve in numbers.items():
            if tag.startswith(start):
                for iteration, number in curve.items():
                    kept.setdefault(iteration, {})[tag.removeprefix(start)] = number
    lines_path = os.path.join(folder, VALIDATIONS)
    if filesets.exists(lines_path):
        for iteration, scores in read_validations(lines_path):
            history.scores.setdefault(iteration, {}).update(scores)
    if not history.losses and not history.scores:
        raise DataError(_nothing_in(folder, 'TensorBoard events'))
    return history


def _nothing_in(folder, first='histories_ID.pkl, which train.py writes with each checkpoint,'):
    """What to say of a folder without a run, in which the `first` place to look has nothing."""
    inside = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    return (f'{folder} holds no run: neither {first} '
            f'nor {VALIDATIONS}, which it writes with the first validation; '
            + (f'give a folder in it: {", ".join(inside[:5])}{", ..." if len(inside) > 5 else ""}' if inside
               else 'give the --checkpoint_path of a run, or wait for its first checkpoint'))


def read_history(path, name):
    """The `History` in the file `path`.  Raises `DataError`."""
    content = pickles.load(path, 'train.py, which writes it with each checkpoint', filesets.opened)
    history = History(name, os.path.dirname(path))
    try:
        for attribute, key in NUMBERS.items():
            setattr(history, attribute, {iteration_of(iteration): float(value)
                                         for iteration, value in content.get(key, {}).items()})
        for attribute, key in NAMED.items():
            setattr(history, attribute, {iteration_of(iteration): numbers_in(values)
                                         for iteration, values in content.get(key, {}).items()})
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f'{path} is not the histories of a run ({error}); remove it, and train.py writes it '
                        f'again with the next checkpoint ({VALIDATIONS} alone is drawn without it)') from None
    return history


def read_validations(path):
    """The validations in `validations.jsonl`, [(iteration, {name: number})], in the order of the file.

    Raises `DataError` that names the line.
    """
    validations = []
    if os.path.isdir(path):
        raise DataError(f'{path} is a folder, not a file of validations; remove it')
    with filesets.opened(path, 'r', encoding='utf-8', errors='replace') as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)
                validations.append((iteration_of(record['iteration']), numbers_in(record)))
            except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
                raise DataError(f'{path}: line {number} is not the JSON of a validation ({error!r}); remove '
                                'the line: train.py writes the file anew when the run goes on') from None
    return validations


def iteration_of(value):
    """`value` as an iteration.  Raises `ValueError` where there can be none of that number."""
    iteration = int(value)
    if not 0 <= iteration <= LAST:
        raise ValueError(f'an iteration is from 0 to {LAST:,}')
    return iteration


def numbers_in(values):
    """{name: number} of those values that are numbers."""
    return {name: float(value) for name, value in values.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool)}
