"""Every preparation script killed at random moments and started again, until its outputs are there: they have to
equal those of an undisturbed run byte for byte, and nothing else may lie beside them.

python -m tests.stress.kill_preparation [--kills 50] [--real 3] [--seed 0] [--only NAME]
"""

import argparse
import importlib
import multiprocessing
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import partial

from tests.stress.killing import KINDS, Failure, Kill, run
from tests.stress.preparations import ALL, PROJECT, make_inputs

# What scripts import only once they have to: loaded here, so that forks have it.
LATE = ('skimage.color', 'torchvision', 'misc.cnn', 'misc.extraction', 'misc.machine', 'misc.regions')
PACES = 1, 0.3   # share of an undisturbed run within which a kill comes: the lower, the more kills of one output


def tree(folder):
    """{path relative to `folder`: bytes, or None of a folder} of all that lies in it."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
            for path in sorted(folder.rglob('*'))}


def check(found, expected):
    """Raise `Failure` where two `tree`s are not equal."""
    for what, paths in (('lacks', expected.keys() - found.keys()), ('has', found.keys() - expected.keys()),
                        ('differs in', {path for path in found.keys() & expected.keys()
                                        if found[path] != expected[path]})):
        if paths:
            raise Failure(f'the output {what} {", ".join(sorted(paths)[:5])} ({len(paths)} in all)')


class Torment:
    """One script, killed again and again in folders of its own under `place`."""

    def __init__(self, preparation, inputs, place, seed=0):
        self.preparation, self.inputs, self.place = preparation, inputs, place
        self.random = random.Random(f'{seed} {preparation.module}')
        self.work = partial(preparation.run, inputs)
        self.kills, self.ended = Counter(), 0   # kills by kind; runs that ended, and were compared
        self.alone = self._started()
        self.undisturbed = self._run(self.alone, None)
        if self.undisturbed.status:
            raise Failure(f'undisturbed it ends with status {self.undisturbed.status}:\n{self.undisturbed.said}')
        self.expected = tree(self.alone)

    def _started(self):
        """A new folder to run in."""
        return pathlib.Path(tempfile.mkdtemp(dir=self.place))

    def _run(self, folder, kill):
        return run(self.work, folder, kill, self.random)

    def forks(self, kills):
        """Kill forks until `kills` of them were."""
        wanted = self.kills.total() + kills
        while self.kills.total() < wanted:
            folder, pace, again = self._started(), self.random.choice(PACES), True
            while again:
                kill = self._kill(pace) if self.kills.total() < wanted else None
                ended = self._run(folder, kill)
                again = self._goes_on(folder, ended, kill)
            shutil.rmtree(folder)

    def _kill(self, pace):
        """A kill of a random kind at a random place."""
        kind = self.random.choice(KINDS if 'num_workers' in self.preparation.flags
                                  and not self.preparation.looks else KINDS[:-1])
        if kind in ('moment', 'worker'):
            return Kill(kind, self.random.uniform(0, pace * self.undisturbed.seconds))
        most = self.undisturbed.changes if kind == 'change' else self.undisturbed.index
        return Kill(kind, self.random.randint(1, max(1, round(pace * most))))

    def _goes_on(self, folder, ended, kill):
        """Count a run that was to be killed; whether the command has to be given again."""
        if ended.struck:
            self.kills[kill.kind] += 1
        if ended.status == 0:
            check(tree(folder), self.expected)
            self.ended += 1
            # Now and then it is killed where nothing is left to do.
            return kill is not None and self.random.random() < 0.3
        noticed = ended.status == 1 and ended.struck and 'worker process was killed' in ended.said
        if ended.status != -signal.SIGKILL and not noticed:
            raise Failure(f'{kill} ended it with status {ended.status}; it said:\n{ended.said[-3000:]}')
        return True

    def commands(self, kills):
        """Kill true commands, until `kills` of them were, and let the last one end."""
        environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(PROJECT)}
        folder, seconds, killed = self._started(), None, 0
        while True:
            process = subprocess.Popen(
                self.preparation.command(self.inputs), cwd=folder, env=environment, start_new_session=True,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            started = time.monotonic()
            limit = 90 if seconds is None or killed == kills else self.random.uniform(0, seconds)
            try:
                status = process.wait(limit)
            except subprocess.TimeoutExpired:
                if limit == 90:
                    raise Failure('as a command it did not end in 90 seconds') from None
                process.kill()
                process.wait()
                killed += 1
                continue
            if status:
                raise Failure(f'as a command it ended with status {status}: {" ".join(process.args)}')
            check(tree(folder), self.expected)
            self.ended += 1
            seconds = time.monotonic() - started
            if killed == kills:
                break
            shutil.rmtree(folder)
            folder = self._started()
        self.kills['command'] += killed
        shutil.rmtree(folder)

    def summary(self):
        """A line of what was done."""
        kinds = ', '.join(f'{number} {kind}' for kind, number in sorted(self.kills.items()))
        return (f'{self.preparation.module:37} {self.kills.total():3} kills ({kinds}), {self.kills.total()} '
                f'restarts, {self.ended} outputs of {len(self.expected)} files and folders each, all equal')


def prepare(folder):
    """Write the inputs into `folder`, and load what the scripts need."""
    writer = multiprocessing.get_context('fork').Process(target=make_inputs, args=(folder,))
    writer.start()
    writer.join()
    if writer.exitcode:
        raise Failure('the inputs cannot be made')
    for module in (*LATE, *(preparation.module for preparation in ALL.values())):
        importlib.import_module(module)


def main():
    """Torment all scripts, or one; exit with 1 where an output differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=50, help='kills of forks, of each script')
    parser.add_argument('--real', type=int, default=3, help='and kills of the command itself')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--only', choices=list(ALL), help='one script')
    options = parser.parse_args()
    started, failed = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        prepare(place / 'inputs')
        for name in [options.only] if options.only else ALL:
            try:
                torment = Torment(ALL[name], place / 'inputs', place, options.seed)
                torment.forks(options.kills)
                torment.commands(options.real)
                print(torment.summary(), flush=True)
            except Failure as failure:
                failed += 1
                print(f'{name}: FAILED: {failure}', flush=True)
    print(f'{time.monotonic() - started:.0f} s; '
          + (f'{failed} scripts FAILED' if failed else 'every output equals the undisturbed one byte for byte'))
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
