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
LATE = ('torchvision', 'misc.pictures.cnn', 'misc.pictures.extraction', 'misc.machine', 'misc.pictures.finder')
PACES = 1, 0.3   # share of an undisturbed run within which a kill comes: the lower, the more kills of one output


def tree(folder):
    """{path relative to `folder`: bytes, or None of a folder} of all that lies in it."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
            for path in sorted(folder.rglob('*'))}


class Torment:
    """One script, killed again and again in folders of its own under `place`."""

    def __init__(self, preparation, inputs, place, seed=0):
        self.preparation, self.inputs, self.place = preparation, inputs, place
        self.random = random.Random(f'{seed} {preparation.module}')
        self.work = partial(preparation.run, inputs)
        self.kills, self.ended = Counter(), 0   # kills by kind; runs that ended, and were compared
        self.alone = self.start()
        self.undisturbed = self.run(self.alone, None)
        if self.undisturbed.status:
            raise Failure(f'undisturbed it ends with status {self.undisturbed.status}:\n{self.undisturbed.said}')
        self.expected = tree(self.alone)

    def start(self):
        """A new folder to run in."""
        return pathlib.Path(tempfile.mkdtemp(dir=self.place))

    def run(self, folder, kill):
        """Run the script there, to be killed at `kill` unless that is None -> `killing.Run`."""
        return run(self.work, folder, kill, self.random)

    def forks(self, kills):
        """Kill forks until `kills` of them were."""
        wanted = self.kills.total() + kills
        while self.kills.total() < wanted:
            folder, pace, again = self.start(), self.random.choice(PACES), True
            while again:
                kill = self._kill(pace) if self.kills.total() < wanted else None
                ended = self.run(folder, kill)
                again = self.goes_on(folder, ended, kill)
            shutil.rmtree(folder)

    def compare(self, folder):
        """Raise `Failure` where what lies there is not what the undisturbed run made."""
        found, expected = tree(folder), self.expected
        changed = {path for path in found.keys() & expected.keys() if found[path] != expected[path]}
        for what, paths in (('lacks', expected.keys() - found.keys()), ('has', found.keys() - expected.keys()),
                            ('differs in', changed)):
            if paths:
                raise Failure(f'the output {what} {", ".join(sorted(paths)[:5])} ({len(paths)} in all)')

    def _kill(self, pace):
        """A kill of a random kind at a random place."""
        kind = self.random.choice(KINDS if 'num_workers' in self.preparation.flags
                                  and not self.preparation.looks else KINDS[:-1])
        if kind in ('moment', 'worker'):
            return Kill(kind, self.random.uniform(0, pace * self.undisturbed.seconds))
        most = self.undisturbed.changes if kind == 'change' else self.undisturbed.index
        return Kill(kind, self.random.randint(1, max(1, round(pace * most))))

    def goes_on(self, folder, ended, kill):
        """Count a run that was to be killed; whether the command has to be given again."""
        if ended.struck:
            self.kills[kill.kind] += 1
        if ended.status == 0:
            self.compare(folder)
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
        folder, seconds, killed = self.start(), None, 0
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
            self.compare(folder)
            self.ended += 1
            seconds = time.monotonic() - started
            if killed == kills:
                break
            shutil.rmtree(folder)
            folder = self.start()
        self.kills['command'] += killed
        shutil.rmtree(folder)

    def summary(self):
        """A line of what was done."""
        kinds = ', '.join(f'{number} {kind}' for kind, number in sorted(self.kills.items()))
        return (f'{self.preparation.module:37} {self.kills.total():3} kills ({kinds}), {self.kills.total()} '
                f'restarts, {self.ended} outputs of {len(self.expected)} files and folders each, all equal')


def prepare(folder, preparations):
    """Write the inputs into `folder`, and load what the scripts need."""
    writer = multiprocessing.get_context('fork').Process(target=make_inputs, args=(folder,))
    writer.start()
    writer.join()
    if writer.exitcode:
        raise Failure('the inputs cannot be made')
    late = LATE if any(preparation.looks for preparation in preparations) else ()
    for module in (*late, *(preparation.module for preparation in preparations)):
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
        names = [options.only] if options.only else list(ALL)
        prepare(place / 'inputs', [ALL[name] for name in names])
        for name in names:
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
