"""A long training of a tiny model, with validations and checkpoints every few dozen steps, loader workers and the
change to the self-critical phase: what it holds of memory, files, threads and processes must not grow.

python -m tests.stress.long_run [--steps 2000] [--every 40] [--workers 2]
"""

import argparse
import os
import pathlib
import shutil
import statistics
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import astuple, dataclass, fields
from unittest import mock

import numpy as np

import train
from tests.helpers import tiny
from tests.stress.killing import children

PAGE = os.sysconf('SC_PAGE_SIZE')
BATCH = 4
STEPS_AN_EPOCH = -(-sum(split in ('train', 'restval') for split in tiny.SPLITS) // BATCH)
# Histories hold a few numbers for every logged step, which is their purpose; this leaves room for them.
BYTES_A_STEP = 1000


@dataclass
class Held:
    """What the process holds after a step; `folder` is what lies in the run's folder, in files."""

    step: int
    memory: int
    handles: int
    threads: int
    processes: int
    folder: int


def held(step, folder):
    """What this process holds now."""
    pid = os.getpid()
    memory = int(pathlib.Path('/proc/self/statm').read_text().split()[1]) * PAGE
    return Held(step, memory, len(os.listdir('/proc/self/fd')), len(os.listdir('/proc/self/task')),
                len(children(pid)), len(os.listdir(folder)))


def long_run(place, steps, every, workers):
    """Train `steps` steps under the folder `place`, with a validation and a checkpoint every `every` and half of
    that; after a third of them self-critically.  Returns a `Held` for each step."""
    corpus, folder = tiny.write_corpus(place / 'corpus'), place / 'run'
    epochs = -(-steps // STEPS_AN_EPOCH)
    found, plain = [], train.train_step

    def step(run, phase):
        plain(run, phase)
        found.append(held(run.state.iteration, folder))

    with mock.patch.object(train, 'train_step', step), mock.patch.dict(os.environ, PATH=''):
        tiny.run(train, tiny.train_flags(
            corpus, folder, '--max_epochs', epochs, '--batch_size', BATCH, '--num_workers', workers,
            '--perform_validation_every', every, '--save_checkpoint_every', every // 2,
            '--losses_log_every', 25, '--language_eval', 1, '--self_critical_after', epochs // 3,
            '--cached_tokens', corpus / 'talk-idxs.p', '--seq_per_img', 3))
    return found


def growth(found):
    """What grew over the second half of `found`, as lines of text: memory by the slope of a line through it, the
    rest by medians of its two parts (how many handles a batch on its way takes depends on the moment)."""
    late = found[len(found) // 2:]
    before, after = late[:len(late) // 2], late[len(late) // 2:]
    lines = []
    for name in ('handles', 'threads', 'processes', 'folder'):
        was, now = (statistics.median(getattr(one, name) for one in part) for part in (before, after))
        if now > was:
            lines.append(f'{name}: {was} from step {before[0].step} on, {now} from step {after[0].step} on')
    slope = bytes_a_step(late)
    if slope > BYTES_A_STEP:
        lines.append(f'memory: {slope:.0f} bytes a step')
    return lines


def bytes_a_step(found):
    """The slope of a line through the memory of `found`."""
    return float(np.polyfit([one.step for one in found], [one.memory for one in found], 1)[0])


def table(found, rows=20):
    """Some `rows` of `found` as text, the first and the last among them."""
    chosen = sorted({round(place) for place in np.linspace(0, len(found) - 1, rows)})
    lines = [' '.join(f'{field.name:>9}' for field in fields(Held))]
    for one in (found[place] for place in chosen):
        step, memory, *counts = astuple(one)
        lines.append(' '.join(f'{value:>9}' for value in (step, f'{memory / 2 ** 20:.1f} MB', *counts)))
    return '\n'.join(lines)


def main():
    """Train, print the table and the verdict; exit with 1 where something grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--steps', type=int, default=2000)
    parser.add_argument('--every', type=int, default=40, help='steps between two validations')
    parser.add_argument('--workers', type=int, default=2)
    options = parser.parse_args()
    place, started = pathlib.Path(tempfile.mkdtemp()), time.monotonic()
    try:
        with open(place / 'said', 'w', encoding='utf-8') as said, redirect_stdout(said), redirect_stderr(said):
            found = long_run(place, options.steps, options.every, options.workers)
    finally:
        shutil.rmtree(place)
    print(table(found))
    grown, late = growth(found), found[len(found) // 2:]
    print(f'{found[-1].step} steps in {time.monotonic() - started:.0f} s; memory over the second half: '
          f'{bytes_a_step(late):.0f} bytes a step; '
          + (f'GROWN: {"; ".join(grown)}' if grown else
             'handles, threads, processes and files do not grow'))
    return 1 if grown else 0


if __name__ == '__main__':
    sys.exit(main())
