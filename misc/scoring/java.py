"""Running Java programs that may die or hang."""

import collections
import contextlib
import importlib.util
import os
import queue
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, NoReturn

from misc.cli import UserError

PACE = 1.0  # seconds allowed for each line of an answer, besides the longest silence; working programs are faster


class JavaFailed(Exception):
    """A Java program died, hung or answered nonsense.  The text completes 'the program ...'."""


def is_installed() -> bool:
    """Whether there is a `java` to run."""
    return shutil.which('java') is not None


def toolkit_folder(name: str) -> str:
    """The folder of a part of pycocoevalcap, where its Java program is.  Raises `UserError` without pycocoevalcap."""
    found = importlib.util.find_spec('pycocoevalcap')
    if found is None or not found.submodule_search_locations:
        raise UserError('scores need pycocoevalcap: pip install -r requirements.txt')
    return os.path.join(list(found.submodule_search_locations)[0], name)


class Java:
    """A running Java program that answers lines with lines; a context manager that kills it at the end.

    Its standard error is read all the time, so that it cannot block on a full pipe; the first of the last lines go
    into the message of a failure.
    """

    def __init__(self, arguments: Sequence[str], folder: str, seconds: float) -> None:
        """Start `java ARGUMENTS` in `folder`; it fails if it is silent for longer than `seconds`."""
        self.seconds = seconds
        # UTF-8 and English number formats whatever the locale.  A session of its own, so that the children of
        # a wrapper script are killed with it.
        command = [shutil.which('java') or 'java', '-Dfile.encoding=UTF-8', '-Duser.language=en', *arguments]
        try:
            self.process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, start_new_session=True)
        except OSError as error:
            raise JavaFailed(f'could not be started ({error})') from None
        self.answers: queue.Queue[str | None] = queue.Queue()  # None: the output has ended
        self.errors: collections.deque[str] = collections.deque(maxlen=20)
        self.threads: list[threading.Thread] = []
        self._start(self._read_answers)
        self._start(self._read_errors)

    def ask(self, lines: Sequence[str], count: int, last: bool = False) -> list[str]:
        """Send `lines` (without line breaks) and return the `count` lines of the answer.

        `last` closes the input, for a program that answers when it has read it all.  Raises `JavaFailed` when the
        program ends too early, is silent for too long, or is too slow altogether.
        """
        # Written by a thread: the program answers while it reads, and both pipes hold little.
        self._start(self._write, lines, last)
        deadline = time.monotonic() + self.seconds + count * PACE
        return [self._answer(deadline) for _ in range(count)]

    def finish(self) -> None:
        """Wait for the program to end.  Raises `JavaFailed` unless its exit status is 0."""
        self._write([], last=True)
        try:
            status = self.process.wait(timeout=self.seconds)
        except subprocess.TimeoutExpired:
            self._fail_silent()
        if status:
            self._fail_ended()

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        self.threads.append(threading.Thread(target=work, args=arguments, daemon=True))
        self.threads[-1].start()

    def _read_answers(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in self.process.stdout or ():
                self.answers.put(line.decode('utf-8', 'replace').rstrip('\r\n'))
        self.answers.put(None)

    def _read_errors(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in self.process.stderr or ():
                if line.strip():
                    self.errors.append(line.decode('utf-8', 'replace').strip())

    def _write(self, lines: Iterable[str], last: bool) -> None:
        stdin = self.process.stdin
        assert stdin is not None
        with contextlib.suppress(OSError, ValueError):  # if it died, `_answer` finds out
            for line in lines:
                stdin.write(line.encode('utf-8', 'replace') + b'\n')
            stdin.flush()
            if last:
                stdin.close()

    def _answer(self, deadline: float) -> str:
        left = deadline - time.monotonic()
        try:
            answer = self.answers.get(timeout=max(0.0, min(self.seconds, left)))
        except queue.Empty:
            if left < self.seconds:
                raise JavaFailed(f'was too slow and was stopped{self._last_errors()}') from None
            self._fail_silent()
        if answer is None:
            self._fail_ended()
        return answer

    def _fail_silent(self) -> NoReturn:
        raise JavaFailed(f'was silent for {self.seconds:g} seconds and was stopped{self._last_errors()}')

    def _fail_ended(self) -> NoReturn:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=5)
        raise JavaFailed(f'ended too early with status {self.process.poll()}{self._last_errors()}')

    def _last_errors(self) -> str:
        time.sleep(0.05)  # let the thread that reads standard error catch up
        return f': {" / ".join(list(self.errors)[:3])[:400]}' if self.errors else ', with no error message'

    def __enter__(self) -> 'Java':
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for thread in self.threads:
            thread.join(timeout=1)
        # If a stray grandchild keeps a pipe open, a thread is blocked reading it, and closing the pipe would block
        # too: it is then left open.
        if not any(thread.is_alive() for thread in self.threads):
            for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
                with contextlib.suppress(OSError):
                    if pipe is not None:
                        pipe.close()
