"""Trainings that are killed at any moment and resumed, until they end as one that nobody touched.

  python -m tests.stress.kill_resume --kills 120 --real 6

Tiny trainings of several kinds run in processes forked from this one, with processes of their own that read.
Each is killed (SIGKILL) again and again: at a random moment of the whole run, in a phase of it that is aimed
at, before any operation on a file of its folder, or in one of its readers.  After each kill a reader opens
the folder, changes nothing, and finds the very checkpoint that an undisturbed run saved at that iteration.
At the end weights, moments, random numbers, histories, infos, the best checkpoint, validations.jsonl and
TensorBoard's numbers have the same bits.  The kills of --real strike train.py itself, as a user starts it, on
the built-in data set.
"""

import collections
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time

import tensorboardX.event_file_writer  # noqa: F401 (loaded once for all forks, as are the next two)
import torch

import misc.scoring.metrics
import misc.training.rewards
import train
from misc.cli import Parser, number_in, run_command
from misc.training.optim import build_optimiser
from tests.helpers import tiny
from tests.stress.real_runs import kill_real_runs
from tests.stress.same_run import Lost, end_difference, is_begun, kept_saves, look
from tests.stress.watching import Watched, children

KILLS_OF_A_RUN = 5, 12  # the fewest and the most that a run suffers before it may end
AIMS = 'moment', 'phase', 'operation', 'reader'
PATIENCE = 60.0         # seconds for a run to end by itself
COURSE = ['--max_epochs', 4, '--save_checkpoint_every', 2, '--perform_validation_every', 5, '--num_workers', 2]


def courses(corpus):
    """{name: flags} of trainings on the tiny corpus."""
    rewards = ['--self_critical_after', 2, '--cached_tokens', corpus / 'talk-idxs.p', '--seq_per_img', 3]
    return {
        'warm-up': ['--noamopt', '--noamopt_warmup', 5],
        'both phases': rewards,
        'both phases, plateaus, batches in parts': [
            *rewards, '--reduce_on_plateau', 1, '--accumulate', 2, '--optim', 'rmsprop', '--sc_baseline', 'mean'],
        'topdown, own words': [
            '--caption_model', 'topdown', *tiny.RECURRENT_FLAGS, '--scheduled_sampling_start', 0,
            '--scheduled_sampling_increase_every', 1, '--scheduled_sampling_increase_prob', 0.3],
    }


class Start:
    """One start of train.py in a process forked from this one."""

    def __init__(self, flags, log, prepare=lambda: None, die_at=None):
        """Output goes to the file `log`; `prepare()` is called in the process first; it dies before the
        `die_at`-th operation on a file in its folder."""
        self.log, self.watched = log, Watched()
        self.process = os.fork()
        if not self.process:
            self._train(flags, prepare, die_at)

    def _train(self, flags, prepare, die_at):
        status = None
        try:
            output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.stdout = sys.stderr = os.fdopen(output, 'w', buffering=1)
            prepare()
            # Scores come quickly without Java, and the threads of the parent process did not come along.
            misc.scoring.metrics.java.is_installed = lambda: False
            torch.set_num_threads(1)
            self.watched.watch(train, flags[flags.index('--checkpoint_path') + 1], die_at)
            run_command(lambda: tiny.run(train, flags))
        except SystemExit as end:
            status = end.code
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(70 if status is None else status)

    def has_ended(self):
        """Whether the process has ended (it is still to be waited for)."""
        return os.waitid(os.P_PID, self.process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def end(self):
        """Wait for the process -> how it ended, as `os.waitstatus_to_exitcode` has it."""
        if not self.wait(lambda end=time.monotonic() + PATIENCE: time.monotonic() > end, until_its_end=True):
            self.kill(self.process)
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])

    def wait(self, until, until_its_end=False):
        """Wait until `until()`, or the end of the process; says whether what was waited for came first."""
        while not (ended := self.has_ended()) and not until():
            time.sleep(0.0005)
        return ended == until_its_end

    def kill(self, process):
        """Kill the run, or a process of it."""
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it ended first

    def text(self):
        """The end of what it printed."""
        return self.log.read_text(errors='replace')[-2000:]


class Course:
    """One kind of training, and the undisturbed run of it with every checkpoint that it saved."""

    def __init__(self, name, corpus, flags, folder):
        self.name, self.corpus, self.flags, self.folder = name, corpus, [*COURSE, *flags], folder
        self.whole, self.saves = folder / 'whole', folder / 'saves'
        folder.mkdir()
        started = time.monotonic()
        start = self.start(self.whole, prepare=lambda: kept_saves(self.whole, self.saves))
        if start.end() != 0:
            raise Lost(f'{name}: the undisturbed run failed: {start.text()}')
        self.seconds = time.monotonic() - started
        self.operations, self.entries = start.watched.operations(), start.watched.entries()
        self.iterations = max(int(save.name.split('_')[0]) for save in self.saves.iterdir())

    def start(self, run, **more):
        """Start the run in the folder `run`, or resume it, as a user types it."""
        resumed = ['--start_from', run] if is_begun(run) else []
        flags = tiny.train_flags(self.corpus, run, *self.flags, *resumed)
        return Start(flags, run.with_suffix('.txt'), **more)

    def suffer(self, run, kills, draw, tally):
        """Kill the run in the folder `run` so many times, or until it ends, and look at it after each; `tally`
        counts the kills by what they struck."""
        saved, aims = -1, draw.sample(AIMS, len(AIMS))
        for number in range(kills):
            aim, when = aims[number % len(aims)], draw.random() * max(0.2, 1 - saved / self.iterations)
            start = self.start(run, die_at=1 + int(when * self.operations) if aim == 'operation' else None)
            if aim != 'operation':
                self._strike(start, aim, when, draw)
            status = start.end()
            if status == 0:
                return
            by_reader = status == 1 and 'a process that reads features died' in start.text()
            if not by_reader and status != -signal.SIGKILL:
                raise Lost(f'{self.name}: ended with {status}: {start.text()}')
            tally['a reader' if by_reader else start.watched.phase()] += 1
            saved = look(run, self.saves, saved)

    def _strike(self, start, aim, when, draw):
        """Kill what `aim` says, `when` (a share of a whole run) or in which phase it says, or nothing where the
        run ends before."""
        if aim == 'phase':
            phase = draw.choice(sorted(self.entries))
            number = 1 + int(when * self.entries[phase])
            start.wait(lambda: start.watched.entries().get(phase, 0) >= number)
            moment = time.monotonic() + draw.random() * 0.02
        else:
            moment = time.monotonic() + when * self.seconds
        if aim == 'reader':
            if start.wait(lambda: time.monotonic() > moment and children(start.process)):
                start.kill(draw.choice(children(start.process) or [start.process]))
        elif start.wait(lambda: time.monotonic() > moment):
            start.kill(start.process)

    def finish(self, run):
        """Let the run end, and hold it against the undisturbed one."""
        start = self.start(run)
        if start.end() != 0:
            raise Lost(f'{self.name}: could not end: {start.text()}')
        found = end_difference(self.whole, run)
        if found:
            raise Lost(f'{self.name}: a run that was killed ended as another: {found}')


def kill_forks(kills, seed, folder, only=None):
    """Kill forked runs of all courses (or `only` one) so many times -> (kills by what they struck, runs that
    ended the same)."""
    build_optimiser([torch.zeros(1)], 'sgd')  # loads, once for all forks, what torch loads here
    draw, tally, ended = random.Random(seed), collections.Counter(), 0
    corpus = tiny.write_corpus(folder / 'corpus')
    made = [Course(name, corpus, flags, folder / f'course_{number}')
            for number, (name, flags) in enumerate(courses(corpus).items()) if only in (None, name)]
    while tally.total() < kills:
        course = made[ended % len(made)]
        run = course.folder / f'run_{ended}'
        course.suffer(run, min(draw.randint(*KILLS_OF_A_RUN), kills - tally.total()), draw, tally)
        course.finish(run)
        shutil.rmtree(run)
        ended += 1
    return tally, ended


def main():
    """Kill, compare, and say what was lost."""
    parser = Parser(description=__doc__)
    parser.add_argument('--kills', type=number_in(int, low=1), default=120, help='kills of forked runs')
    parser.add_argument('--real', type=number_in(int, low=0), default=6, help='kills of train.py itself')
    parser.add_argument('--seed', type=number_in(int, low=0), default=0, help='of what is killed, and when')
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix='kill_resume_') as folder:
        try:
            tally, ended = kill_forks(options.kills, options.seed, pathlib.Path(folder))
            real, real_ended = kill_real_runs(options.real, options.seed, pathlib.Path(folder) / 'real')
        except Lost as loss:
            print(f'LOST: {loss}')
            return 1
    struck = ', '.join(f'{what} {count}' for what, count in sorted(tally.items()))
    print(f'{tally.total()} kills of {ended} runs ({struck}), and {real} of {real_ended} real runs, in '
          f'{time.monotonic() - started:.0f} s: every folder was readable and whole after every kill, and every '
          'run ended with the bits of an undisturbed one')
    return 0


if __name__ == '__main__':
    run_command(main)
