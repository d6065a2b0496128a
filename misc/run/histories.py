"""The course of a run, read from its folder: losses, learning rates, rewards and validations.

Nothing in the folder is changed, so a run can be looked at while it trains.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from misc.cli import DataError
from misc.disk import filesets, pickles
from misc.disk.files import open_regular
from misc.run.log import LOSSES, RATES, REWARDS, SCORES, STEPS
from misc.run.record import began_at

VALIDATIONS = 'validations.jsonl'
HISTORIES = re.compile(r'histories(?:_(.+))?\.pkl')
LAST = 1 << 53    # the largest iteration that a float tells apart from its neighbours


@dataclass
class History:
    """The course of one run.  Iterations are counted from 1.

    name            the run's id
    folder          where it was found
    losses, rates   {iteration: number} of the training steps that were logged
    rewards         {iteration: {name: number}} of those that were self-critical
    scores          {iteration: {name: number}} of the validations, 'loss' among the names
    began           the iteration at which the run began; what is there before is of the run that it went on from
    """

    name: str
    folder: str
    losses: dict[int, float] = field(default_factory=dict)
    rates: dict[int, float] = field(default_factory=dict)
    rewards: dict[int, dict[str, float]] = field(default_factory=dict)
    scores: dict[int, dict[str, float]] = field(default_factory=dict)
    began: int = 0

    @property
    def self_critical_after(self) -> int | None:
        """The last iteration before self-critical training, 0 if it began the run, None if it did not begin.

        Not every step is logged; the phase begins with a validation, which tells more exactly.
        """
        if not self.rewards:
            return None
        first = min(self.rewards)
        plain = max((iteration for iteration in self.losses if iteration < first), default=0)
        return max((iteration for iteration in self.scores if plain <= iteration < first), default=plain)


def read_histories(folder: str, ids: Sequence[str] = ()) -> list[History]:
    """The `History` of each run in `folder`, or of those that `ids` names, from its histories_ID.pkl.

    The validations of a folder's only run are also read from `validations.jsonl`, which may be all there is, and
    where it began from `run.json`; where several runs share a folder, nothing says whose these files are, and their
    own files have the same validations.  Raises `DataError` that names the file that is missing or broken.
    """
    check_folder(folder)
    found = {match[1] or os.path.basename(os.path.abspath(folder)): match[0] for match in map(
        HISTORIES.fullmatch, filesets.listing(folder)) if match}
    lines_path = os.path.join(folder, VALIDATIONS)
    if not found and not filesets.exists(lines_path):
        raise DataError(_nothing_in(folder, 'histories_ID.pkl, which train.py writes with each checkpoint,'))
    unknown = [name for name in ids if name not in found]
    if unknown:
        raise DataError(f'{folder} has no histories_{unknown[0]}.pkl; it holds the runs '
                        f'{", ".join(found) or "(none)"}')
    histories = [read_history(os.path.join(folder, found[name]), name) for name in ids or found]
    if len(found) < 2:
        histories = histories or [History(os.path.basename(os.path.abspath(folder)), folder)]
        histories[0].began = began_at(folder)
        if filesets.exists(lines_path):
            histories[0].scores = _merged(histories[0].scores, read_validations(lines_path))
    return histories


def read_logged(folder: str) -> History:
    """The `History` of the run in `folder` from `steps.jsonl` and `validations.jsonl`: what `read_histories` reads,
    without a pickle.  The run has the name of its folder.  Raises `DataError`."""
    check_folder(folder)
    history = History(os.path.basename(os.path.abspath(folder)), folder, began=began_at(folder))
    steps, validations = (os.path.join(folder, name) for name in (STEPS, VALIDATIONS))
    if os.path.lexists(steps):
        for iteration, numbers in read_steps(steps):
            del numbers['iteration']
            history.losses[iteration] = numbers.pop('loss')
            if 'learning_rate' in numbers:
                history.rates[iteration] = numbers.pop('learning_rate')
            if numbers:
                history.rewards[iteration] = numbers
    if filesets.exists(validations):
        history.scores = _merged({}, read_validations(validations))
    if not history.losses and not history.scores:
        raise DataError(_nothing_in(folder, STEPS))
    return history


def check_folder(folder: str) -> None:
    """Raise `DataError` if there is no such folder."""
    if not os.path.isdir(folder):
        raise DataError(f'there is no folder {folder}; give the --checkpoint_path of a run, such as '
                        'checkpoints/ID')


def _nothing_in(folder: str, first: str) -> str:
    """The message about a folder without a run, which lacks the file `first`."""
    inside = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    return (f'{folder} holds no run: neither {first} nor {VALIDATIONS}, which train.py writes with the first '
            'validation; '
            + (f'give a folder in it: {", ".join(inside[:5])}{", ..." if len(inside) > 5 else ""}' if inside
               else 'give the --checkpoint_path of a run, or wait for its first checkpoint'))


def read_history(path: str, name: str) -> History:
    """The `History` in the file `path`, histories_ID.pkl.  Raises `DataError`."""
    content = pickles.load(path, 'train.py, which writes it with each checkpoint', filesets.opened)
    try:
        losses, rates = ({iteration_of(iteration): float(value) for iteration, value in content.get(key, {}).items()}
                         for key in (LOSSES, RATES))
        rewards, scores = ({iteration_of(iteration): numbers_in(values)
                            for iteration, values in content.get(key, {}).items()} for key in (REWARDS, SCORES))
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f'{path} does not hold the histories of a run ({error}); move it away, and train.py writes '
                        f'it again with the next checkpoint ({VALIDATIONS} alone is drawn without it)') from None
    return History(name, os.path.dirname(path), losses, rates, rewards, scores)


def read_validations(path: str) -> list[tuple[int, dict[str, float]]]:
    """The validations in `validations.jsonl`, [(iteration, {name: number})], in the order of the file.

    Raises `DataError` that names the line.
    """
    _refuse_folder(path)
    with filesets.opened(path, 'r', encoding='utf-8', errors='replace') as file:
        return list(_records(path, file))


def read_steps(path: str) -> list[tuple[int, dict[str, float]]]:
    """The logged steps in `steps.jsonl`, [(iteration, {'loss', 'learning_rate', ...})].

    A last line without its end is left out: it is being written, or its writer was killed.  Raises `DataError`
    that names the line.
    """
    _refuse_folder(path)
    with open_regular(path, 'r', encoding='utf-8', errors='replace') as file:
        steps = list(_records(path, (line for line in file if line.endswith('\n'))))
    for number, (_, numbers) in enumerate(steps, 1):
        if 'loss' not in numbers:
            raise DataError(f'{path}: line {number} has no loss; remove the line')
    return steps


def _refuse_folder(path: str) -> None:
    if os.path.isdir(path):
        raise DataError(f'{path} is a folder, not a file of JSON lines; move it away')


def _records(path: str, lines: Iterable[str]) -> Iterator[tuple[int, dict[str, float]]]:
    """(iteration, the numbers) of each JSON line."""
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            yield iteration_of(record['iteration']), numbers_in(record)
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
            raise DataError(f'{path}: line {number} is not the JSON of an iteration ({error!r}); remove the line: '
                            'train.py writes the file anew when the run is resumed') from None


def _merged(scores: dict[int, dict[str, float]],
            validations: list[tuple[int, dict[str, float]]]) -> dict[int, dict[str, float]]:
    """`scores` with those of `validations`, of which later ones count."""
    merged = {iteration: dict(numbers) for iteration, numbers in scores.items()}
    for iteration, numbers in validations:
        merged.setdefault(iteration, {}).update(numbers)
    return merged


def iteration_of(value: Any) -> int:
    """`value` as an iteration.  Raises `ValueError` where there can be none of that number."""
    iteration = int(value)
    if not 0 <= iteration <= LAST:
        raise ValueError(f'an iteration is from 0 to {LAST:,}')
    return iteration


def numbers_in(values: Mapping[str, Any]) -> dict[str, float]:
    """{name: number} of those values that are numbers."""
    return {name: float(value) for name, value in values.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool)}
