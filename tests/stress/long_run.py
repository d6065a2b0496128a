"""Train a tiny model for long and check that memory, open files, threads and processes do not grow.

    python -m tests.stress.long_run [--steps 2000] [--every 40] [--workers 2]

The training has loader workers, a validation and a checkpoint every few dozen steps, and both phases.
"""

import os
import shutil
import statistics
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from unittest import mock

import numpy as np

import train
from misc.cli import Parser, number_in, run_command
from tests.helpers import tiny
from tests.stress.killing import children

PAGE = os.sysconf('SC_PAGE_SIZE')
BATCH = 4
STEPS_AN_EPOCH = -(-sum(split in ('train', 'restval') for split in tiny.SPLITS) // BATCH)
BYTES_A_STEP = 1000  # allowed growth: histories keep a few numbers of every logged step


@dataclass
class Usage:
    """What the training process uses after a step."""

    step: int
    memory: int      # resident bytes
    handles: int     # open file descriptors
    threads: int
    processes: int   # child processes
    folder: int      # files in the folder of the run


def usage(step: int, folder: Path) -> Usage:
    """What this process uses now."""
    memory = int(Path('/proc/self/statm').read_text().split()[1]) * PAGE
    return Usage(step, memory, len(os.listdir('/proc/self/fd')), len(os.listdir('/proc/self/task')),
                 len(children(os.getpid())), len(os.listdir(folder)))


def long_run(place: Path, steps: int, every: int, workers: int) -> list[Usage]:
    """Train `steps` steps in a folder under `place`, the last two thirds self-critically, with a validation every
    `every` steps and a checkpoint every half of that -> the usage after each step."""
    corpus, folder = tiny.write_corpus(place / 'corpus'), place / 'run'
    epochs = -(-steps // STEPS_AN_EPOCH)
    found: list[Usage] = []
    plain = train.train_step

    def step(run, phase):
        plain(run, phase)
        found.append(usage(run.state.iteration, folder))

    with mock.patch.object(train, 'train_step', step), mock.patch.dict(os.environ, PATH=''):
        tiny.run(train, tiny.train_flags(
            corpus, folder, '--max_epochs', epochs, '--batch_size', BATCH, '--num_workers', workers,
            '--perform_validation_every', every, '--save_checkpoint_every', every // 2,
            '--losses_log_every', 25, '--language_eval', 1, '--self_critical_after', epochs // 3,
            '--cached_tokens', corpus / 'talk-idxs.p', '--seq_per_img', 3))
    return found


def growth(found: list[Usage]) -> list[str]:
    """What grew over the second half of `found`, as lines of text: memory by the slope of a fitted line, the rest by
    the medians of two parts, since batches in transit take a varying number of file descriptors."""
    late = found[len(found) // 2:]
    before, after = late[:len(late) // 2], late[len(late) // 2:]
    lines = []
    for name in ('handles', 'threads', 'processes', 'folder'):
        was, now = (statistics.median(getattr(one, name) for one in part) for part in (before, after))
        if now > was:
            lines.append(f'{name}: {was} from step {before[0].step}, {now} from step {after[0].step}')
    slope = bytes_a_step(late)
    if slope > BYTES_A_STEP:
        lines.append(f'memory: {slope:.0f} bytes a step')
    return lines


def bytes_a_step(found: list[Usage]) -> float:
    """The slope of a line fitted to the memory of `found`."""
    return float(np.polyfit([one.step for one in found], [one.memory for one in found], 1)[0])


def table(found: list[Usage], rows: int = 20) -> str:
    """About `rows` rows of `found` as text, the first and the last among them."""
    chosen = sorted({round(place) for place in np.linspace(0, len(found) - 1, rows)})
    lines = [' '.join(f'{field.name:>9}' for field in fields(Usage))]
    for one in (found[place] for place in chosen):
        step, memory, *counts = astuple(one)
        lines.append(' '.join(f'{value:>9}' for value in (step, f'{memory / 2 ** 20:.1f} MB', *counts)))
    return '\n'.join(lines)


def main() -> int:
    """Train, print a table and the result; the exit status is 1 if something grew."""
    parser = Parser(description=__doc__)
    parser.add_argument('--steps', type=number_in(int, 1), default=2000, help='training steps')
    parser.add_argument('--every', type=number_in(int, 2), default=40, help='steps between two validations')
    parser.add_argument('--workers', type=number_in(int, 0), default=2, help='loader workers')
    options = parser.parse_args()
    place, started = Path(tempfile.mkdtemp()), time.monotonic()
    try:
        with open(place / 'log', 'w', encoding='utf-8') as log, redirect_stdout(log), redirect_stderr(log):
            found = long_run(place, options.steps, options.every, options.workers)
    finally:
        shutil.rmtree(place)
    print(table(found))
    grown, late = growth(found), found[len(found) // 2:]
    print(f'{found[-1].step} steps in {time.monotonic() - started:.0f} s; memory over the second half: '
          f'{bytes_a_step(late):.0f} bytes a step; '
          + (f'GROWN: {"; ".join(grown)}' if grown else
             'file descriptors, threads, processes and files did not grow'))
    return 1 if grown else 0


if __name__ == '__main__':
    run_command(main)
