"""Kill every preparation script at random moments and start it again until its outputs are there.

    python -m tests.stress.kill_preparation --kills 50 --real 3

The outputs have to equal those of an undisturbed run byte for byte, and nothing else may lie beside them.
"""

import importlib
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from misc.cli import Parser, number_in, run_command
from tests.helpers import ROOT
from tests.stress.killing import KINDS, LIMIT, Failure, Kill, Run, run
from tests.stress.preparations import ALL, Preparation, make_inputs

# Modules that scripts import late; imported here once for all forks.
LATE = ('torchvision', 'misc.pictures.cnn', 'misc.pictures.extraction', 'misc.machine', 'misc.pictures.finder')
PACES = 1, 0.3   # part of an undisturbed run within which a kill comes: the smaller, the more kills per output


class KillTest:
    """One script, killed again and again in new folders under `place`."""

    def __init__(self, preparation: Preparation, inputs: Path, place: Path, seed: int = 0) -> None:
        self.preparation, self.inputs, self.place = preparation, inputs, place
        self.draw = random.Random(f'{seed} {preparation.module}')
        self.work = partial(preparation.run, inputs)
        self.kills: Counter[str] = Counter()   # by kind
        self.ended = 0                         # runs that ended and were compared
        self.undisturbed_folder = self.new_folder()
        self.undisturbed = self.run(self.undisturbed_folder)
        if self.undisturbed.status:
            raise Failure(f'undisturbed it ends with status {self.undisturbed.status}:\n{self.undisturbed.output}')
        self.expected = content_of(self.undisturbed_folder)

    def new_folder(self) -> Path:
        """A new folder to run in."""
        return Path(tempfile.mkdtemp(dir=self.place))

    def run(self, folder: Path, kill: Kill | None = None) -> Run:
        """Run the script in a fork in `folder`."""
        return run(self.work, folder, kill, self.draw)

    def kill_forks(self, kills: int) -> None:
        """Kill that many forks."""
        wanted = self.kills.total() + kills
        while self.kills.total() < wanted:
            folder, pace, again = self.new_folder(), self.draw.choice(PACES), True
            while again:
                kill = self._random_kill(pace) if self.kills.total() < wanted else None
                again = self.must_run_again(folder, self.run(folder, kill), kill)
            shutil.rmtree(folder)

    def must_run_again(self, folder: Path, ended: Run, kill: Kill | None) -> bool:
        """Check and count a run that ended -> whether the script has to run again."""
        if kill is not None and ended.struck:
            self.kills[kill.kind] += 1
        if ended.status == 0:
            self.compare(folder)
            self.ended += 1
            return kill is not None and self.draw.random() < 0.3   # sometimes kill a run that has nothing left to do
        reported = ended.status == 1 and ended.struck and 'worker process was killed' in ended.output
        if ended.status != -signal.SIGKILL and not reported:
            raise Failure(f'{kill} ended it with status {ended.status}; its output:\n{ended.output[-3000:]}')
        return True

    def compare(self, folder: Path) -> None:
        """Raise `Failure` if the content of `folder` is not that of the undisturbed run."""
        found, expected = content_of(folder), self.expected
        changed = {path for path in found.keys() & expected.keys() if found[path] != expected[path]}
        for what, paths in (('lacks', expected.keys() - found.keys()), ('has', found.keys() - expected.keys()),
                            ('differs in', changed)):
            if paths:
                raise Failure(f'the output {what} {", ".join(sorted(paths)[:5])} ({len(paths)} in all)')

    def kill_commands(self, kills: int) -> None:
        """Kill that many processes of the command itself, started as a user starts it, and let the last one end."""
        folder, seconds, killed = self.new_folder(), None, 0
        while True:
            limit = LIMIT if seconds is None or killed == kills else self.draw.uniform(0, seconds)
            started = time.monotonic()
            if not self._ends_within(limit, folder):
                killed += 1
                continue
            self.compare(folder)
            self.ended += 1
            seconds = time.monotonic() - started
            if killed == kills:
                break
            shutil.rmtree(folder)
            folder = self.new_folder()
        self.kills['command'] += killed
        shutil.rmtree(folder)

    def _ends_within(self, limit, folder):
        """Run the command; kill it after `limit` seconds.  Returns whether it ended before."""
        environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
        process = subprocess.Popen(
            self.preparation.command(self.inputs), cwd=folder, env=environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            if limit == LIMIT:
                raise Failure(f'the command did not end in {LIMIT} seconds') from None
            return False
        if status:
            raise Failure(f'the command ended with status {status}: {" ".join(process.args)}')
        return True

    def _random_kill(self, pace):
        """A kill of a random kind at a random point in the first part `pace` of a run."""
        has_workers = 'num_workers' in self.preparation.flags and not self.preparation.uses_networks
        kind = self.draw.choice(KINDS if has_workers else KINDS[:-1])
        if kind in ('moment', 'worker'):
            return Kill(kind, self.draw.uniform(0, pace * self.undisturbed.seconds))
        most = self.undisturbed.changes if kind == 'change' else self.undisturbed.index
        return Kill(kind, self.draw.randint(1, max(1, round(pace * most))))

    def summary(self) -> str:
        """A line that reports all kills."""
        kinds = ', '.join(f'{number} {kind}' for kind, number in sorted(self.kills.items()))
        return (f'{self.preparation.module:37} {self.kills.total():3} kills and restarts ({kinds}), {self.ended} '
                f'outputs of {len(self.expected)} files and folders each, all equal')


def content_of(folder: Path) -> dict[str, bytes | None]:
    """{path relative to `folder`: its bytes, or None for a folder} of everything in it."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
            for path in sorted(folder.rglob('*'))}


def prepare(folder: Path, preparations: Iterable[Preparation]) -> None:
    """Write the inputs into `folder` and import what the scripts need."""
    writer = multiprocessing.get_context('fork').Process(target=make_inputs, args=(folder,))
    writer.start()
    writer.join()
    if writer.exitcode:
        raise Failure('the inputs cannot be made')
    preparations = list(preparations)
    late = LATE if any(preparation.uses_networks for preparation in preparations) else ()
    for module in (*late, *(preparation.module for preparation in preparations)):
        importlib.import_module(module)


def main() -> int:
    """Kill all scripts, or one; the exit status is 1 if an output differs."""
    parser = Parser(description=__doc__)
    parser.add_argument('--kills', type=number_in(int, 0), default=50, help='kills of forks of each script')
    parser.add_argument('--real', type=number_in(int, 0), default=3, help='kills of the command itself')
    parser.add_argument('--seed', type=int, default=0, help='choose other kills')
    parser.add_argument('--only', choices=list(ALL), help='test only this script')
    options = parser.parse_args()
    started, failed = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        names = [options.only] if options.only else list(ALL)
        prepare(place / 'inputs', [ALL[name] for name in names])
        for name in names:
            try:
                test = KillTest(ALL[name], place / 'inputs', place, options.seed)
                test.kill_forks(options.kills)
                test.kill_commands(options.real)
                print(test.summary(), flush=True)
            except Failure as failure:
                failed += 1
                print(f'{name}: FAILED: {failure}', flush=True)
    print(f'{time.monotonic() - started:.0f} s; '
          + (f'{failed} scripts FAILED' if failed else 'every output equals the undisturbed one byte for byte'))
    return 1 if failed else 0


if __name__ == '__main__':
    run_command(main)
