"""Programs of the project in processes of their own, and a folder for them with runs whose weights are known, for
tests/stress/scenarios.py."""

import contextlib
import ctypes
import io
import json
import os
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch

import train
from misc.cli import run_command
from misc.dataset.features import open_reader
from misc.dataset.packing import write_packed
from misc.disk import filesets, locks
from misc.disk.files import TEMPORARY
from misc.run import folder as run_folder
from misc.run import identity
from misc.run.record import hexdigest
from misc.scoring import java
from misc.training.optim import build_optimiser
from tests.helpers import tiny

LIMIT = 40.0             # seconds after which a program counts as hanging
EXPECTED = 'expected.json'
SECOND_PHASE = ('--self_critical_after', 1, '--seq_per_img', 3)
KEPT = re.compile(r'events\.out\.tfevents.*|log\.jsonl|steps\.jsonl|status\.json|run\.json')  # not of a checkpoint
Words = list[Any]        # of a command line


class Wrong(Exception):
    """A program neither did what it does undisturbed nor refused."""


class Process:
    """A program in a process forked from this one."""

    def __init__(self, log: Path, folder: Path, module: ModuleType, words: Words,
                 prepare: Callable[[], object] = lambda: None) -> None:
        """`module.main` with `words` on its command line, in `folder`; `prepare()` is called before it."""
        self.name, self.log, self.status = module.__name__, log, 0
        self.pid = os.fork()
        if not self.pid:
            self._run(folder, module, words, prepare)

    def _run(self, folder: Path, module: ModuleType, words: Words, prepare: Callable[[], object]) -> None:
        status: Any = 70
        try:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # die with the process that started this one
            output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.stdout = sys.stderr = os.fdopen(output, 'w', buffering=1)
            os.chdir(folder)
            torch.set_num_threads(1)
            java.is_installed = lambda: False  # without METEOR, scores take little time
            locks.PATIENCE = 0.1
            prepare()
            run_command(lambda: tiny.run(module, words))
        except SystemExit as end:
            status = end.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def end(self) -> 'Process':
        """Wait until the process has ended.  Raises `Wrong` if it does not, or fails otherwise than by a refusal."""
        until = time.monotonic() + LIMIT
        while not (found := os.waitpid(self.pid, os.WNOHANG))[0]:
            if time.monotonic() > until:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise Wrong(f'{self.name} took more than {LIMIT:.0f} s: {self.text()[-300:]}')
            time.sleep(0.005)
        self.status = os.waitstatus_to_exitcode(found[1])
        if self.status not in (0, 1, 2, -signal.SIGKILL) or 'Traceback' in self.text():
            raise Wrong(f'{self.name} ended with {self.status}: {self.text()[-600:]}')
        return self

    def text(self) -> str:
        """What it printed."""
        return self.log.read_text(encoding='utf-8', errors='replace')

    def must_succeed(self) -> None:
        """Raise `Wrong` unless it did."""
        if self.status:
            raise Wrong(f'{self.name} failed ({self.status}): {self.text()[-600:]}')

    def must_refuse(self, pattern: str) -> None:
        """Raise `Wrong` unless it refused with a message that has the `pattern`."""
        if self.status not in (1, 2) or not re.search(pattern, self.text()):
            raise Wrong(f'{self.name} did not refuse with {pattern!r} ({self.status}): {self.text()[-600:]}')


class Place:
    """A folder for one scenario, with a copy of the corpus and the runs of `write_base`.

    corpus   the corpus
    one, two   runs of one epoch, of the seeds 1 and 2
    """

    def __init__(self, base: Path, folder: Path) -> None:
        self.folder, self.count = folder, 0
        for name in ('corpus', 'one', 'two'):
            shutil.copytree(base / name, folder / name)
        self.corpus, self.one, self.two = (folder / name for name in ('corpus', 'one', 'two'))
        self.weights: dict[str, dict[str, str]] = json.loads((base / EXPECTED).read_text())

    def start(self, module: ModuleType, words: Words, prepare: Callable[[], object] = lambda: None) -> Process:
        """Start a program in the folder of the scenario."""
        self.count += 1
        return Process(self.folder / f'{self.count}.txt', self.folder, module, words, prepare)

    def run(self, module: ModuleType, words: Words, prepare: Callable[[], object] = lambda: None) -> Process:
        """Start a program and wait for its end."""
        return self.start(module, words, prepare).end()

    def train_flags(self, run: Path, seed: int, *more: object) -> Words:
        """The flags of a training of two epochs into the folder `run`."""
        return tiny.train_flags(self.corpus, run, '--seed', seed, '--losses_log_every', 100, *more)

    def eval_flags(self, run: Path, *more: object) -> Words:
        """The flags that evaluate the run in a folder, into the folder `out`."""
        return tiny.eval_flags(self.corpus, run, '--output_dir', self.folder / 'out', *more)

    def check_run(self, run: Path, course: str, iteration: int | None = None) -> None:
        """Raise `Wrong` unless a folder holds one whole checkpoint of the training `course`, a key of `weights`, of
        this iteration if one is given."""
        found = run_folder.find_run(str(run))
        where = found.infos['iter']
        if iteration not in (None, where):
            raise Wrong(f'{run.name} is at iteration {where}, not {iteration}')
        if digest_of(found.weights) != self.weights[course].get(str(where)):
            raise Wrong(f'{run.name} has other weights at iteration {where} than the undisturbed run')
        state = run_folder.optimiser_state(found)
        if len({found.identity, identity.of_weights(found.weights), identity.of_content(state)}) != 1:
            raise Wrong(f'{run.name} holds files of different runs')
        left = [name for name in os.listdir(run) if name.endswith(TEMPORARY)]
        if left or filesets.exists(str(run / filesets.JOURNAL)):
            raise Wrong(f'{run.name} holds {left or filesets.JOURNAL}')


def digest_of(weights: Any) -> str:
    """A digest of a state dict."""
    return hexdigest(*(part for name in sorted(weights) for part in (name.encode(), weights[name].numpy())))


def contents(folder: Path) -> dict[str, bytes]:
    """{name: content} of the files of a checkpoint in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()
            if path.is_file() and not KEPT.fullmatch(path.name)}


def must_be_same(folder: Path, before: dict[str, bytes]) -> None:
    """Raise `Wrong` if the `contents` of a folder have changed."""
    now = contents(folder)
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if changed:
        raise Wrong(f'{", ".join(changed)} of {folder.name} changed')


def write_base(base: Path) -> None:
    """Write what all scenarios start from: the corpus, runs of one epoch, and the weights of longer ones."""
    build_optimiser([torch.zeros(1)], 'sgd')  # torch imports modules here: once for all forks
    corpus = tiny.write_corpus(base / 'corpus')
    pack(corpus / 'att', corpus / 'att.h5')
    expected: dict[str, dict[int, str]] = {}
    for course, seed, more in (('one', 1, ()), ('two', 2, ()), ('rewarded', 1, (
            *SECOND_PHASE, '--cached_tokens', corpus / 'talk-idxs.p'))):
        flags = tiny.train_flags(corpus, base / course, '--seed', seed, '--losses_log_every', 100)
        saved, plain = expected.setdefault(course, {}), filesets.save_set

        def save(folder, files, saved=saved, plain=plain):
            plain(folder, files)
            run = run_folder.find_run(folder)
            saved[run.infos['iter']] = digest_of(run.weights)
        with mock.patch.object(java, 'is_installed', lambda: False), contextlib.redirect_stdout(io.StringIO()), \
                contextlib.redirect_stderr(io.StringIO()):
            with mock.patch.object(filesets, 'save_set', save):
                tiny.run(train, [*flags, '--save_checkpoint_every', 1, *more])
            shutil.rmtree(base / course)
            tiny.run(train, [*flags, '--max_epochs', 1])
    (base / EXPECTED).write_text(json.dumps(expected))


def pack(folder: Path, path: Path, change: Callable[[np.ndarray], np.ndarray] = lambda array: array) -> None:
    """Pack the features in a folder, changed by `change`."""
    source = open_reader(str(folder), 'att', '')
    write_packed(path, {'att': {image: change(source.read(image)) for image in source.ids()}})
