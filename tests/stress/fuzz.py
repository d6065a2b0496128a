"""Damages valid inputs of every reader of the project, from a seed, and looks at what comes of it.

    python -m tests.stress.fuzz --cases 10000 --seed 0
    python -m tests.stress.fuzz --only labels --case 123

Two things may come of a case: what the damaged file says, as a plain reader of its own reads it (or what the
whole file says, where the damage hit nothing that counts); or a message for the user that names the file.
Anything else fails, and is printed with the command that repeats it: another error, another value, a process
that dies, hangs, or takes too much memory.
"""

import argparse
import collections
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings

SECONDS = 20            # that a case may take
ROOM = 2 << 30          # bytes of memory that reading small files may take
RIGHT, REFUSED, FAILED = 'read rightly', 'refused by name', 'FAILED'


def main(arguments=None):
    """Run the cases; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--cases', type=int, default=10000, help='in all, shared evenly by the readers')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--only', metavar='READER', help='one reader alone')
    parser.add_argument('--case', type=int, metavar='N', help='one case alone, with its traceback')
    parser.add_argument('--processes', type=int, default=os.cpu_count())
    options = parser.parse_args(arguments)
    from tests.stress.readers import READERS
    names = [options.only] if options.only else list(READERS)
    numbers = [options.case] if options.case is not None else range(-(-options.cases // len(names)))
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix='fuzz_') as folder:
        found = run(pathlib.Path(folder), [(name, number) for number in numbers for name in names],
                    options.seed, options.processes, options.case is not None)
    print_summary(found, options.seed, time.monotonic() - started)
    return 1 if any(outcome == FAILED for outcome, _, _ in found.values()) else 0


def print_summary(found, seed, seconds):
    """A line for each failure, a table of the readers, and the sum."""
    by_reader = collections.defaultdict(collections.Counter)
    for (name, number), (outcome, done, told) in found.items():
        by_reader[name][outcome] += 1
        if outcome == FAILED:
            print(f'FAILED {name} case {number} ({done}): {told}\n'
                  f'       python -m tests.stress.fuzz --seed {seed} --only "{name}" --case {number}')
    for name, counts in by_reader.items():
        print(f'{name:24s}' + ''.join(f'{counts[outcome]:6d} {outcome}' for outcome in (RIGHT, REFUSED, FAILED)))
    total = sum(by_reader.values(), collections.Counter())
    print(f'{sum(total.values())} cases of {len(by_reader)} readers in {seconds:.0f} s: '
          + ', '.join(f'{total[outcome]} {outcome}' for outcome in (RIGHT, REFUSED, FAILED)))


def run(folder, cases, seed, processes, loud=False):
    """{case: (outcome, what was done, what is wrong)} of `cases`, (reader, number); files lie in `folder`."""
    from tests.stress.samples import write_samples
    write_samples(folder / 'whole')
    found, waiting = {}, collections.deque(cases)
    workers = [Worker(folder, place, seed, loud) for place in range(min(processes, len(cases)))]
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
    """A process that does one case after the other; another takes its place when it dies or hangs."""

    def __init__(self, folder, place, seed, loud):
        self.folder, self.seed, self.loud = folder / f'worker{place}', seed, loud
        shutil.copytree(folder / 'whole', self.folder)
        self.case = None
        self._start()

    def _start(self):
        context = multiprocessing.get_context('fork')
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, self.folder, self.seed, self.loud), daemon=True)
        self.process.start()
        theirs.close()

    def give(self, case):
        self.case, self.since = case, time.monotonic()
        self.pipe.send(case)

    def is_late(self):
        return time.monotonic() - self.since > SECONDS

    def take(self):
        """(the case, what came of it)."""
        case, self.case = self.case, None
        try:
            if self.pipe.poll():
                return case, self.pipe.recv()
            told = f'took more than {SECONDS} s'
            self.process.kill()
            self.process.join()
        except (EOFError, ConnectionError):
            self.process.join()
            told = f'the process died ({signal.Signals(-self.process.exitcode).name})' \
                if self.process.exitcode < 0 else f'the process ended ({self.process.exitcode})'
        self.end()
        shutil.rmtree(self.folder)
        shutil.copytree(self.folder.parent / 'whole', self.folder)
        self._start()
        return case, (FAILED, 'unknown', told)

    def end(self):
        self.process.kill()
        self.process.join()
        self.pipe.close()


def serve(pipe, folder, seed, loud):
    """Do the cases that come through the pipe, until it closes."""
    import torch
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    os.chdir(folder)
    sys.stdout = open(os.devnull, 'w')
    if not loud:
        sys.stderr = open(os.devnull, 'w')
        os.dup2(sys.stderr.fileno(), 2)
    used = int(pathlib.Path('/proc/self/statm').read_text().split()[0]) * os.sysconf('SC_PAGE_SIZE')
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    while True:
        try:
            name, number = pipe.recv()
        except EOFError:
            return
        pipe.send(outcome_of(name, number, folder, seed, loud))


def outcome_of(name, number, folder, seed, loud=False):
    """(outcome, what was done, what is wrong) of a case, on the samples in `folder`, which are whole again
    afterwards."""
    from misc.cli import DataError, UsageError
    from tests.stress.mutations import mutated
    from tests.stress.readers import READERS, same
    reader = READERS[name]
    path = folder / reader.path
    content = path.read_bytes()
    damaged, done = mutated(random.Random(f'{seed} {name} {number}'), content, reader.form)
    try:
        put(path, damaged)
        try:
            value = reader.read(path)
        except (DataError, UsageError) as error:
            if loud:
                print(error, file=sys.stderr)
            named = path.name in str(error) or str(path.parent) in str(error)
            return (REFUSED, done, '') if named else (FAILED, done, f'a message without the file: {error}')
        except Exception as error:
            if loud:
                traceback.print_exc()
            return FAILED, done, f'{type(error).__name__}: {str(error)[:200]}'
        put(path, damaged)  # which some commands write anew
        plain = said_plainly(reader, path, loud)
        if same(value, plain):
            return RIGHT, done, ''
        put(path, content)
        if same(value, said_plainly(reader, path, loud)):
            return RIGHT, done, ''
        if loud:
            print(f'read:  {value!r:.2000}\nplain: {plain!r:.2000}', file=sys.stderr)
        return FAILED, done, f'a wrong value (a plain reader: {plain!r:.120})'
    finally:
        put(path, content)


def said_plainly(reader, path, loud):
    """What the plain reader makes of a file: a value, or an error."""
    try:
        return reader.plain(path)
    except Exception as error:
        if loud:
            traceback.print_exc()
        return error


def put(path, content):
    """Let `path` hold `content`, or be a folder where that is None."""
    if path.is_dir():
        shutil.rmtree(path)
    if content is None:
        path.unlink(missing_ok=True)
        path.mkdir()
    else:
        path.write_bytes(content)


if __name__ == '__main__':
    sys.exit(main())
