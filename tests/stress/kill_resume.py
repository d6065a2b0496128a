"""Kill training runs at any moment and resume them until they end like an undisturbed run.

    python -m tests.stress.kill_resume --kills 120 --real 6

Tiny trainings of several kinds run in processes forked from this one, with loader workers.  Each is killed (SIGKILL)
again and again: at a random moment of the whole run, in a chosen phase, before any operation on a file in its folder,
or through one of its loader workers.  After each kill a reader opens the folder, changes nothing, and finds exactly
the checkpoint that the undisturbed run saved at that iteration.  At the end, weights, moments, random states,
histories, infos, the best checkpoint, steps.jsonl, validations.jsonl and TensorBoard's numbers are equal bit for bit.
The kills of --real hit train.py itself, as a user starts it, on the built-in data set.
"""

import collections
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorboardX.event_file_writer  # noqa: F401 (imported once for all forks, like the next two)
import torch

import misc.scoring.metrics
import misc.training.rewards
import train
from misc.cli import Parser, number_in, run_command
from misc.training.optim import build_optimiser
from tests.helpers import tiny
from tests.stress.killing import children
from tests.stress.phases import SharedPhase
from tests.stress.real_runs import kill_real_runs
from tests.stress.run_checks import Lost, check_folder, end_difference, has_checkpoint, keep_saves

KILLS_OF_A_RUN = 5, 12  # the fewest and the most kills before a run may end
TARGETS = 'moment', 'phase', 'operation', 'worker'
PATIENCE = 60.0         # seconds within which a run must end by itself
FLAGS = ['--max_epochs', 4, '--save_checkpoint_every', 2, '--perform_validation_every', 5, '--num_workers', 2]


def scenarios(corpus: Path) -> dict[str, list[Any]]:
    """{name: flags} of trainings on the tiny corpus."""
    rewards = ['--self_critical_after', 2, '--cached_tokens', corpus / 'talk-idxs.p', '--seq_per_img', 3]
    return {
        'warm-up': ['--noamopt', '--noamopt_warmup', 5],
        'both phases': rewards,
        'both phases, plateaus, accumulation': [
            *rewards, '--reduce_on_plateau', 1, '--accumulate', 2, '--optim', 'rmsprop', '--sc_baseline', 'mean'],
        'topdown, scheduled sampling': [
            '--caption_model', 'topdown', *tiny.RECURRENT_FLAGS, '--scheduled_sampling_start', 0,
            '--scheduled_sampling_increase_every', 1, '--scheduled_sampling_increase_prob', 0.3],
    }


class TrainingProcess:
    """One start of train.py in a process forked from this one."""

    def __init__(self, flags: list[Any], log: Path, prepare: Callable[[], object] = lambda: None,
                 die_at: int | None = None) -> None:
        """Its output goes to the file `log`; `prepare()` is called first in the process; it dies before the
        `die_at`-th operation on a file in the run's folder."""
        self.log, self.shared = log, SharedPhase()
        self.pid = os.fork()
        if not self.pid:
            self._train(flags, prepare, die_at)

    def _train(self, flags, prepare, die_at):
        status = None
        try:
            output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.stdout = sys.stderr = os.fdopen(output, 'w', buffering=1)
            prepare()
            misc.scoring.metrics.java.is_installed = lambda: False  # without METEOR, scores take little time
            torch.set_num_threads(1)  # a fork has none of its parent's threads
            self.shared.report(train, flags[flags.index('--checkpoint_path') + 1], die_at)
            run_command(lambda: tiny.run(train, flags))
        except SystemExit as end:
            status = end.code
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(70 if status is None else status)

    def has_ended(self) -> bool:
        """Whether the process has ended; its exit status remains to be collected."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def wait_until(self, condition: Callable[[], object]) -> bool:
        """Wait until `condition()` holds or the process ends; returns whether it still runs."""
        while not (ended := self.has_ended()) and not condition():
            time.sleep(0.0005)
        return not ended

    def end(self) -> int:
        """Wait for the process, or kill it when it takes too long -> its exit code, negative for a signal."""
        limit = time.monotonic() + PATIENCE
        if self.wait_until(lambda: time.monotonic() > limit):
            self.kill(self.pid)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def kill(self, pid: int) -> None:
        """Kill the process, or one of its loader workers, if it has not ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def text(self) -> str:
        """The end of its output."""
        return self.log.read_text(errors='replace')[-2000:]


class Scenario:
    """One kind of training, and its undisturbed run with every checkpoint that it saved."""

    def __init__(self, name: str, corpus: Path, flags: list[Any], folder: Path) -> None:
        self.name, self.corpus, self.flags, self.folder = name, corpus, [*FLAGS, *flags], folder
        self.whole, self.saves = folder / 'whole', folder / 'saves'
        folder.mkdir()
        started = time.monotonic()
        process = self.start(self.whole, prepare=lambda: keep_saves(self.whole, self.saves))
        if process.end() != 0:
            raise Lost(f'{name}: the undisturbed run failed: {process.text()}')
        self.seconds = time.monotonic() - started
        self.operations, self.entries = process.shared.operations(), process.shared.entries()
        self.iterations = max(int(save.name.split('_')[0]) for save in self.saves.iterdir())

    def start(self, run: Path, **more: Any) -> TrainingProcess:
        """Start the run in the folder `run`, or resume it, with the flags that a user would give."""
        resumed = ['--start_from', run] if has_checkpoint(run) else []
        flags = tiny.train_flags(self.corpus, run, *self.flags, *resumed)
        return TrainingProcess(flags, run.with_suffix('.txt'), **more)

    def kill(self, run: Path, kills: int, draw: random.Random, tally: collections.Counter[str]) -> None:
        """Kill the run in the folder `run` up to `kills` times, or until it ends, and check it after each; `tally`
        counts the kills by the phase they hit."""
        saved, targets = -1, draw.sample(TARGETS, len(TARGETS))
        for number in range(kills):
            target, when = targets[number % len(targets)], draw.random() * max(0.2, 1 - saved / self.iterations)
            process = self.start(run, die_at=1 + int(when * self.operations) if target == 'operation' else None)
            if target != 'operation':
                self._strike(process, target, when, draw)
            status = process.end()
            if status == 0:
                return
            lost_worker = status == 1 and 'a process that reads features died' in process.text()
            if not lost_worker and status != -signal.SIGKILL:
                raise Lost(f'{self.name}: ended with {status}: {process.text()}')
            tally['a loader worker' if lost_worker else process.shared.phase()] += 1
            saved = check_folder(run, self.saves, saved)

    def _strike(self, process, target, when, draw):
        """Kill the target unless the run ends before; `when`, a part of the whole run, says when, or in which entry
        of a random phase."""
        if target == 'phase':
            phase = draw.choice(sorted(self.entries))
            number = 1 + int(when * self.entries[phase])
            process.wait_until(lambda: process.shared.entries().get(phase, 0) >= number)
            moment = time.monotonic() + draw.random() * 0.02
        else:
            moment = time.monotonic() + when * self.seconds
        if target == 'worker':
            if process.wait_until(lambda: time.monotonic() > moment and children(process.pid)):
                process.kill(draw.choice(children(process.pid) or [process.pid]))
        elif process.wait_until(lambda: time.monotonic() > moment):
            process.kill(process.pid)

    def finish(self, run: Path) -> None:
        """Let the run end and compare it with the undisturbed one."""
        process = self.start(run)
        if process.end() != 0:
            raise Lost(f'{self.name}: could not end: {process.text()}')
        found = end_difference(self.whole, run)
        if found:
            raise Lost(f'{self.name}: a killed run ended differently: {found}')


def kill_forks(kills: int, seed: int, folder: Path,
               only: str | None = None) -> tuple[collections.Counter[str], int]:
    """Kill forked runs of all scenarios, or of `only` one, `kills` times -> (kills by the phase they hit, runs, all
    of which ended like the undisturbed ones)."""
    build_optimiser([torch.zeros(1)], 'sgd')  # torch imports modules here: once for all forks
    draw, ended = random.Random(seed), 0
    tally: collections.Counter[str] = collections.Counter()
    corpus = tiny.write_corpus(folder / 'corpus')
    chosen = [Scenario(name, corpus, flags, folder / f'scenario_{number}')
              for number, (name, flags) in enumerate(scenarios(corpus).items()) if only in (None, name)]
    while tally.total() < kills:
        scenario = chosen[ended % len(chosen)]
        run = scenario.folder / f'run_{ended}'
        scenario.kill(run, min(draw.randint(*KILLS_OF_A_RUN), kills - tally.total()), draw, tally)
        scenario.finish(run)
        shutil.rmtree(run)
        ended += 1
    return tally, ended


def main() -> int:
    """Kill, compare, and report; the exit status is 1 if something was lost."""
    parser = Parser(description=__doc__)
    parser.add_argument('--kills', type=number_in(int, low=1), default=120, help='kills of forked runs')
    parser.add_argument('--real', type=number_in(int, low=0), default=6, help='kills of train.py itself')
    parser.add_argument('--seed', type=number_in(int, low=0), default=0, help='choose other kills')
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix='kill_resume_') as folder:
        try:
            tally, ended = kill_forks(options.kills, options.seed, Path(folder))
            real, real_ended = kill_real_runs(options.real, options.seed, Path(folder) / 'real')
        except Lost as loss:
            print(f'LOST: {loss}')
            return 1
    struck = ', '.join(f'{what} {count}' for what, count in sorted(tally.items()))
    print(f'{tally.total()} kills of {ended} runs ({struck}), and {real} of {real_ended} real runs, in '
          f'{time.monotonic() - started:.0f} s: every folder was readable and complete after every kill, and every '
          'run ended bit for bit like the undisturbed one')
    return 0


if __name__ == '__main__':
    run_command(main)
