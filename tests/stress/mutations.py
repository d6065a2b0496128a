"""Put small faults into the code, one at a time, and see whether the tests notice.

    python -m tests.stress.mutations
    python -m tests.stress.mutations --only models/attention.py --again

The faults are listed in tests/stress/faults/: a file, a text that occurs in it once, the text in its place, and the
tests that should fail.  Each is put into a copy of the project, where those tests run until one of them fails; a
fault that none of them notices survives.  Outcomes are kept in the file of --results, so a run that was interrupted
goes on; a change of the code begins anew.  The exit status is 1 if fewer than 95 % are caught.

Tests run in forks of this process, which has loaded torch and other libraries once; the project's own modules are
imported in the fork, from the copy.
"""

import collections
import compileall
import contextlib
import hashlib
import importlib
import json
import os
import py_compile
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import torch

from misc.cli import DataError, Parser, Progress, number_in, run_command
from tests.helpers import ROOT
from tests.stress.faults import ALL, Fault

LIMIT = 120.0         # seconds after which tests that do not end have noticed a fault
LEAST = 0.95          # of the faults are to be caught
PARTS = ('[!.]*.*', 'docs', 'models', 'misc', 'scripts', 'tests')  # of the project, that tests need
LIBRARIES = ('h5py', 'numpy', 'PIL.Image', 'pycocoevalcap.cider.cider', 'tensorboardX.event_file_writer',
             'torch.utils.data', 'tqdm')
CAUGHT, SURVIVED = 'caught', 'survived'


@dataclass(frozen=True)
class Outcome:
    """CAUGHT or SURVIVED, the test that failed (or what else happened), and the seconds that it took."""

    outcome: str
    by: str
    seconds: float


class Mistake(Exception):
    """Something is wrong with the list of faults, or with the tests themselves."""


def main() -> int:
    """Try the faults; the exit status is 1 if too few are caught."""
    parser = Parser(description=__doc__)
    parser.add_argument('--only', metavar='TEXT', default='', help='try only faults in files with TEXT in their path')
    parser.add_argument('--again', action='store_true', help=(
        'also try again those that survived, by the file of --results: after a test was mended'))
    parser.add_argument('--results', default='mutations.jsonl', help='file of outcomes; remove it to begin anew')
    parser.add_argument('--processes', type=number_in(int, 1), default=1, help='faults that are tried at a time')
    options = parser.parse_args()
    faults = [fault for fault in ALL if options.only in fault.file]
    problems = list_problems(ROOT, faults)
    if problems:
        raise DataError('\n'.join(problems))
    load_libraries()
    started = time.monotonic()
    try:
        found = run(ROOT, faults, Path(options.results), options.processes, options.again)
    except Mistake as mistake:
        raise DataError(str(mistake)) from None
    return print_summary(found, time.monotonic() - started)


def list_problems(root: Path, faults: Iterable[Fault]) -> list[str]:
    """What is wrong with faults in the project `root`: a line for each whose text does not occur exactly once, or
    whose tests are not there."""
    problems, seen = [], set()
    for fault in faults:
        text = (root / fault.file).read_text(encoding='utf-8')
        count = text.count(fault.old)
        if count != 1:
            problems.append(f'{fault.file}: {fault.old!r} occurs {count} times, not once; correct it in '
                            'tests/stress/faults/')
        if (fault.file, fault.old, fault.new) in seen or fault.old == fault.new:
            problems.append(f'{fault.file}: {fault.new!r} in place of {fault.old!r} is no new fault')
        seen.add((fault.file, fault.old, fault.new))
        for test in fault.tests:
            path, _, name = test.partition('::')
            if not (root / path).is_file() or f'def {name}' not in (root / path).read_text(encoding='utf-8'):
                problems.append(f'{fault.file}: there is no test {test}')
    return problems


def load_libraries() -> None:
    """Import what the tests need of other projects, once for all forks."""
    torch.set_num_threads(1)  # a fork has none of the threads
    for name in LIBRARIES:
        importlib.import_module(name)
    torch.optim.SGD([torch.zeros(1)])  # torch imports modules here


def run(root: Path, faults: Sequence[Fault], results: Path, processes: int = 1, again: bool = False,
        limit: float = LIMIT) -> dict[Fault, Outcome]:
    """Try `faults` in copies of the project `root` -> their outcomes, those that `results` knows included.

    Raises `Mistake` where the tests fail without any fault.
    """
    code = code_digest(root)
    known = read_results(results, code)
    found = {fault: known[key] for fault in faults if (key := key_of(fault)) in known
             and not (again and known[key].outcome == SURVIVED)}
    waiting = collections.deque(fault for fault in faults if fault not in found)
    if not waiting:
        return found
    with tempfile.TemporaryDirectory(prefix='mutations_') as folder, contextlib.ExitStack() as at_end:
        copies = [Copy(root, Path(folder) / str(number)) for number in range(min(processes, len(waiting)))]
        for copy in copies:
            at_end.callback(copy.stop)
        tests = list(dict.fromkeys(test for fault in waiting for test in fault.tests))
        copies[0].start(None, tests, 20 * limit)
        outcome = copies[0].wait()
        if outcome.outcome == CAUGHT:
            raise Mistake(f'without any fault, a test fails: {outcome.by}\n{copies[0].output()}')
        with Progress(len(faults), 'mutations', 'fault', len(found)) as display:
            while len(found) < len(faults):
                for copy in copies:
                    if copy.fault is None and waiting:
                        fault = waiting.popleft()
                        copy.start(fault, fault.tests, limit)
                    elif copy.fault is not None and copy.has_ended():
                        fault = copy.fault
                        found[fault] = copy.wait()
                        write_result(results, code, fault, found[fault])
                        display.update()
                time.sleep(0.01)
    return {fault: found[fault] for fault in faults}


def print_summary(found: Mapping[Fault, Outcome], seconds: float) -> int:
    """Print a line for each file and each fault that survived, and the share that was caught; returns the exit
    status."""
    by_file: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for fault, outcome in found.items():
        by_file[fault.file][outcome.outcome] += 1
    for file, counts in by_file.items():
        print(f'{file:32s} {counts[CAUGHT]:3d} of {counts.total():3d} caught')
    for fault, outcome in found.items():
        if outcome.outcome == SURVIVED:
            print(f'SURVIVED {fault.file}: {fault.new!r} in place of {fault.old!r}'
                  + (f'\n         {fault.survives}' if fault.survives else ''))
        elif fault.survives:
            print(f'CAUGHT, though said to survive: {fault.file}: {fault.new!r} in place of {fault.old!r}')
    caught = sum(outcome.outcome == CAUGHT for outcome in found.values())
    share = caught / max(len(found), 1)
    print(f'{len(found)} faults in {len(by_file)} files: {caught} caught ({share:.1%}), {len(found) - caught} '
          f'survived; {seconds:.0f} s')
    return 0 if share >= LEAST else 1


class Copy:
    """A copy of the project, in which one fault at a time is tried by a process forked from this one."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.folder, self.process = root, folder, 0
        self.fault: Fault | None = None
        self.whole = ''  # the content of the fault's file without it
        self.since = self.limit = 0.0
        self.log, self.first = folder.with_suffix('.log'), folder.with_suffix('.first')
        for pattern in PARTS:
            for path in root.glob(pattern):
                if path.is_dir():
                    shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns('__pycache__'))
                else:
                    folder.mkdir(exist_ok=True)
                    shutil.copy(path, folder)
        # Compiled once; a file that is changed is recognised by its content, not by its time and size.
        compileall.compile_dir(folder, quiet=1, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)

    def start(self, fault: Fault | None, tests: Sequence[str], limit: float) -> None:
        """Put the fault into the copy, if there is one, and run `tests` for up to `limit` seconds."""
        if fault is not None:
            path = self.folder / fault.file
            self.whole = path.read_text(encoding='utf-8')
            path.write_text(self.whole.replace(fault.old, fault.new), encoding='utf-8')
        self.fault, self.since, self.limit = fault, time.monotonic(), limit
        self.first.write_text('')
        sys.stdout.flush()
        sys.stderr.flush()
        self.process = os.fork()
        if not self.process:
            status = pytest.ExitCode.INTERNAL_ERROR
            try:
                status = self._test(tests)
            finally:
                os._exit(status)

    def _test(self, tests: Sequence[str]) -> int:
        """Run tests in this process, a fork, until one fails."""
        os.setpgid(0, 0)
        output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = sys.stderr = open(output, 'w', closefd=False, buffering=1)  # noqa: SIM115
        own = {path.stem for pattern in PARTS for path in self.root.glob(pattern)}
        for name in [name for name in sys.modules if name.split('.')[0] in own]:
            del sys.modules[name]
        sys.path[:] = [str(self.folder), *(path for path in sys.path if path not in ('', str(self.root)))]
        os.chdir(self.folder)
        sys.dont_write_bytecode = True
        os.environ['PYTHONDONTWRITEBYTECODE'] = '1'  # for the processes that tests start
        return pytest.main(['-q', '-x', '--assert=plain', '-p', 'no:cacheprovider', '--rootdir', str(self.folder),
                            '-c', str(self.folder / 'pyproject.toml'), '--basetemp',
                            str(self.folder.with_suffix('.tmp')), *tests], plugins=[FirstFailure(self.first)])

    def has_ended(self) -> bool:
        """Whether the process has ended; one that takes too long is killed."""
        if time.monotonic() - self.since > self.limit:
            self._kill()
        return os.waitid(os.P_PID, self.process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def wait(self) -> Outcome:
        """The outcome of the process, once it has ended; the copy is whole again."""
        while not self.has_ended():
            time.sleep(0.01)
        self._kill()  # what it left running
        status = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
        seconds, self.process = time.monotonic() - self.since, 0
        if self.fault is not None:
            (self.folder / self.fault.file).write_text(self.whole, encoding='utf-8')
        self.fault = None
        if status == pytest.ExitCode.OK:
            return Outcome(SURVIVED, '', round(seconds, 2))
        other = f'no end after {self.limit:.0f} s' if seconds > self.limit else 'the imports' if status in (
            pytest.ExitCode.INTERRUPTED, pytest.ExitCode.USAGE_ERROR) else f'status {status}'
        return Outcome(CAUGHT, self.first.read_text() or other, round(seconds, 2))

    def output(self) -> str:
        """The end of what pytest printed."""
        return self.log.read_text(encoding='utf-8', errors='replace')[-3000:]

    def stop(self) -> None:
        """End the process, if it still runs."""
        if self.process:
            self._kill()
            os.waitpid(self.process, 0)

    def _kill(self) -> None:
        for kill in (os.killpg, os.kill):  # the process may not have made its group yet
            with contextlib.suppress(ProcessLookupError):
                kill(self.process, signal.SIGKILL)


class FirstFailure:
    """A plugin of pytest that writes the name of the test that failed first into a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest for each phase of each test."""
        if report.failed:
            self.path.write_text(report.nodeid)


def code_digest(root: Path) -> str:
    """A digest of the project's code, tests left out: outcomes hold while it is the same."""
    found = hashlib.sha256()
    for pattern in ('*.py', 'models/**/*.py', 'misc/**/*.py', 'scripts/**/*.py'):
        for path in sorted(root.glob(pattern)):
            found.update(str(path.relative_to(root)).encode() + b'\0' + path.read_bytes())
    return found.hexdigest()[:24]


def key_of(fault: Fault) -> tuple[str, str, str]:
    """What identifies a fault in a file of results."""
    return fault.file, fault.old, fault.new


def read_results(path: Path, code: str) -> dict[tuple[str, str, str], Outcome]:
    """The outcomes in a file of results that hold for the code with this digest; later lines count."""
    found = {}
    if path.exists():
        for line in path.read_text(encoding='utf-8').splitlines():
            with contextlib.suppress(ValueError):  # the last line of a run that was killed
                entry = json.loads(line)
                if entry['code'] == code:
                    found[tuple(entry['fault'])] = Outcome(entry['outcome'], entry['by'], entry['seconds'])
    return found


def write_result(path: Path, code: str, fault: Fault, outcome: Outcome) -> None:
    """Add an outcome to a file of results."""
    with open(path, 'a', encoding='utf-8') as file:
        file.write(json.dumps({'code': code, 'fault': key_of(fault), **asdict(outcome)}) + '\n')


if __name__ == '__main__':
    run_command(main)
