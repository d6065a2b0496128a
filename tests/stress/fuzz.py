"""Damage valid inputs of every reader of the project, disturb whole programs, and check what becomes of it.

    python -m tests.stress.fuzz --cases 10000 --scenarios 300 --seed 0
    python -m tests.stress.fuzz --only labels --case 123

A case of a reader passes if the reader returns what an independent plain reader finds in the damaged file (or in the
whole file, where the damage hit nothing that matters), or if it refuses with a message for the user that names the
file.  Anything else fails and is printed with the command that repeats it: another error, another value, a process
that dies, hangs or takes too much memory.  The scenarios, in which programs meet files of other runs, each other, and
data that change, are those of scenarios.py.
"""

import collections
import multiprocessing
import multiprocessing.connection
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from misc.cli import DataError, Parser, UsageError, number_in, run_command
from tests.stress import places, readers, samples, scenarios
from tests.stress.damage import damaged

SECONDS = 20            # that a case of a reader may take
ROOM = 2 << 30          # bytes of memory that reading a small file may take
RIGHT, REFUSED, FAILED = 'right', 'refused by name', 'FAILED'
Case = tuple[str, int]             # the reader, or the scenario, and the number of the case
Outcome = tuple[str, str, str]     # RIGHT, REFUSED or FAILED; what was done to the file; what is wrong


def main() -> int:
    """Run the cases; the exit status is 1 if one failed."""
    parser = Parser(description=__doc__)
    parser.add_argument('--cases', type=number_in(int, 0), default=10000, help='in all, shared evenly by the readers')
    parser.add_argument('--scenarios', type=number_in(int, 0), default=300, help='in all, shared by their kinds')
    parser.add_argument('--seed', type=int, default=0, help='damage the files, and disturb programs, differently')
    parser.add_argument('--only', choices=[*readers.READERS, *scenarios.ALL], metavar='NAME', help=(
        'test only this reader or scenario'))
    parser.add_argument('--case', type=int, metavar='N', help='run only this case, and show its traceback')
    parser.add_argument('--processes', type=number_in(int, 1), default=os.cpu_count(), help='worker processes')
    options = parser.parse_args()
    cases = []
    for kinds, count in ((list(readers.READERS), options.cases), (list(scenarios.ALL), options.scenarios)):
        names = [name for name in kinds if options.only in (None, name)]
        numbers = [options.case] if options.case is not None else range(-(-count // max(len(names), 1)))
        cases += [(name, number) for number in numbers for name in names]
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix='fuzz_') as folder:
        found = run(Path(folder), cases, options.seed, options.processes, options.case is not None)
    print_summary(found, options.seed, time.monotonic() - started)
    return 1 if any(outcome == FAILED for outcome, _, _ in found.values()) else 0


def print_summary(found: Mapping[Case, Outcome], seed: int, seconds: float) -> None:
    """Print a line for each failure, a table of the readers and scenarios, and the totals."""
    by_reader: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for (name, number), (outcome, done, problem) in found.items():
        by_reader[name][outcome] += 1
        if outcome == FAILED:
            print(f'FAILED {name} case {number} ({done}): {problem}\n'
                  f'       python -m tests.stress.fuzz --seed {seed} --only "{name}" --case {number}')
    for name, counts in by_reader.items():
        print(f'{name:24s}' + ''.join(f'{counts[outcome]:6d} {outcome}' for outcome in (RIGHT, REFUSED, FAILED)))
    for kind, known in (('readers', readers.READERS), ('kinds of scenarios', scenarios.ALL)):
        own = [counts for name, counts in by_reader.items() if name in known]
        total = sum(own, collections.Counter())
        if own:
            print(f'{total.total()} cases of {len(own)} {kind}: '
                  + ', '.join(f'{total[outcome]} {outcome}' for outcome in (RIGHT, REFUSED, FAILED)))
    print(f'in {seconds:.0f} s')


def run(folder: Path, cases: Sequence[Case], seed: int, processes: int, verbose: bool = False) -> dict[Case, Outcome]:
    """Run `cases` on samples written into `folder` -> their outcomes."""
    samples.write_samples(folder / 'whole')
    if any(name in scenarios.ALL for name, _ in cases):
        places.write_base(folder / 'base')
    found: dict[Case, Outcome] = {}
    waiting = collections.deque(cases)
    workers = [Worker(folder, number, seed, verbose) for number in range(min(processes, len(cases)))]
    try:
        while len(found) < len(cases):
            for worker in workers:
                if worker.case is None and waiting:
                    worker.give(waiting.popleft())
            ready = multiprocessing.connection.wait([worker.pipe for worker in workers], timeout=1.0)
            for worker in workers:
                if worker.case is not None and (worker.pipe in ready or worker.is_late()):
                    case, outcome = worker.take()
                    found[case] = outcome
    finally:
        for worker in workers:
            worker.end()
    return {case: found[case] for case in cases}


class Worker:
    """A process that does one case after the other; a new one takes its place if it dies or hangs."""

    def __init__(self, folder: Path, number: int, seed: int, verbose: bool) -> None:
        self.folder, self.seed, self.verbose = folder / f'worker{number}', seed, verbose
        shutil.copytree(folder / 'whole', self.folder)
        self.case: Case | None = None
        self.since = 0.0
        self._start()

    def _start(self):
        context = multiprocessing.get_context('fork')
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, self.folder, self.seed, self.verbose))
        self.process.start()
        theirs.close()

    def give(self, case: Case) -> None:
        """Let the process do a case."""
        self.case, self.since = case, time.monotonic()
        self.pipe.send(case)

    def is_late(self) -> bool:
        """Whether its case takes too long."""
        return time.monotonic() - self.since > limit_of(self.case)

    def take(self) -> tuple[Case | None, Outcome]:
        """(its case, the outcome); the process is free again, or replaced by a new one with whole files."""
        case, self.case = self.case, None
        try:
            if self.pipe.poll():
                return case, self.pipe.recv()
            problem = f'took more than {limit_of(case):.0f} s'
            self.process.kill()
            self.process.join()
        except (EOFError, ConnectionError):
            self.process.join()
            problem = f'the process died ({signal.Signals(-self.process.exitcode).name})' \
                if self.process.exitcode < 0 else f'the process ended ({self.process.exitcode})'
        self.end()
        shutil.rmtree(self.folder)
        shutil.copytree(self.folder.parent / 'whole', self.folder)
        self._start()
        return case, (FAILED, 'unknown', problem)

    def end(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def limit_of(case: Case | None) -> float:
    """The seconds that a case may take."""
    return scenarios.SECONDS if case and case[0] in scenarios.ALL else SECONDS


def serve(pipe: Connection, folder: Path, seed: int, verbose: bool) -> None:
    """The main function of a worker process: do the cases that come through the pipe until it closes."""
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    os.chdir(folder)
    with open(os.devnull, 'w', encoding='utf-8') as nothing:
        sys.stdout = nothing
        if not verbose:
            sys.stderr = nothing
            os.dup2(nothing.fileno(), 2)
        used = int(Path('/proc/self/statm').read_text().split()[0]) * os.sysconf('SC_PAGE_SIZE')
        resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
        while True:
            try:
                name, number = pipe.recv()
            except EOFError:
                return
            pipe.send(outcome_of_scenario(name, number, folder, seed) if name in scenarios.ALL else
                      outcome_of(name, number, folder, seed, verbose))


def outcome_of(name: str, number: int, folder: Path, seed: int, verbose: bool = False) -> Outcome:
    """Do a case on the samples in `folder`, which are whole again afterwards."""
    reader = readers.READERS[name]
    path = folder / reader.path
    content = path.read_bytes()
    new, done = damaged(random.Random(f'{seed} {name} {number}'), content, reader.form)
    try:
        replace(path, new)
        try:
            value = reader.read(path)
        except (DataError, UsageError) as error:
            if verbose:
                print(error, file=sys.stderr)
            named = path.name in str(error) or str(path.parent) in str(error)
            return (REFUSED, done, '') if named else (FAILED, done, f'a message without the file: {error}')
        except Exception as error:
            if verbose:
                traceback.print_exc()
            return FAILED, done, f'{type(error).__name__}: {str(error)[:200]}'
        replace(path, new)  # some commands rewrite it
        plain = plain_value(reader, path, verbose)
        if readers.same(value, plain):
            return RIGHT, done, ''
        replace(path, content)
        if readers.same(value, plain_value(reader, path, verbose)):
            return RIGHT, done, ''
        if verbose:
            print(f'read:  {value!r:.2000}\nplain: {plain!r:.2000}', file=sys.stderr)
        return FAILED, done, f'a wrong value (a plain reader: {plain!r:.120})'
    finally:
        replace(path, content)


def outcome_of_scenario(name: str, number: int, folder: Path, seed: int) -> Outcome:
    """Play a scenario in a folder of its own beside the samples in `folder`."""
    try:
        was_refused = scenarios.play(name, random.Random(f'{seed} {name} {number}'), folder.parent / 'base',
                                     folder / 'scenario')
    except Exception as error:
        problem = str(error) if isinstance(error, places.Wrong) else f'{type(error).__name__}: {str(error)[:200]}'
        return FAILED, 'scenario', problem
    return REFUSED if was_refused else RIGHT, 'scenario', ''


def plain_value(reader: readers.Reader, path: Path, verbose: bool) -> Any:
    """What the plain reader makes of a file: a value, or an error."""
    try:
        return reader.plain(path)
    except Exception as error:
        if verbose:
            traceback.print_exc()
        return error


def replace(path: Path, content: bytes | None) -> None:
    """Let `path` be a file with `content`, or a folder if that is None."""
    if path.is_dir():
        shutil.rmtree(path)
    if content is None:
        path.unlink(missing_ok=True)
        path.mkdir()
    else:
        path.write_bytes(content)


if __name__ == '__main__':
    run_command(main)
