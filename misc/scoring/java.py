"""Java programs that are asked line by line, and that may die or hang without taking us along."""

import collections
import contextlib
import os
import queue
import shutil
import signal
import subprocess
import threading
import time

PACE = 1.0  # seconds for each line of an answer, beyond the longest silence: none that works is so slow


class JavaFailed(Exception):
    """A Java program died, hung or answered nonsense.  The text completes 'the program ...'."""


def is_installed():
    """Whether there is a `java` to start."""
    return shutil.which('java') is not None


class Java:
    """A running Java program with lines in and lines out; a context manager that ends it.

    Its standard error is read all the time, so that it cannot block on a full pipe, and the last
    lines go into the message of a failure.
    """

    def __init__(self, arguments, folder, seconds):
        """Start `java ARGUMENTS` in `folder`; `seconds` is the longest silence that is borne."""
        self.seconds = seconds
        # Text is UTF-8 and figures are English whatever the machine's locale.  Its own session,
        # so that a wrapper script's children end with it.
        command = [shutil.which('java'), '-Dfile.encoding=UTF-8', '-Duser.language=en', *arguments]
        try:
            self.process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, start_new_session=True)
        except OSError as error:
            raise JavaFailed(f'could not be started ({error})') from None
        self.answers = queue.Queue()
        self.errors = collections.deque(maxlen=20)
        self.threads = []
        self._start(self._read_answers)
        self._start(self._read_errors)

    def _start(self, work, *arguments):
        self.threads.append(threading.Thread(target=work, args=arguments, daemon=True))
        self.threads[-1].start()

    def _read_answers(self):
        with contextlib.suppress(OSError, ValueError):
            for line in self.process.stdout:
                self.answers.put(line.decode('utf-8', 'replace').rstrip('\r\n'))
        self.answers.put(None)

    def _read_errors(self):
        with contextlib.suppress(OSError, ValueError):
            for line in self.process.stderr:
                if line.strip():
                    self.errors.append(line.decode('utf-8', 'replace').strip())

    def ask(self, lines, count, last=False):
        """Send `lines` (without line breaks) and return the `count` lines of the answer.

        `last` closes the input, for a program that answers when it has seen it all.  Raises
        `JavaFailed` when the program ends too early, is silent for too long, or says something now and
        then and does not get on.
        """
        # Written by a thread: the program answers while it reads, and both pipes are short.
        self._start(self._write, lines, last)
        end = time.monotonic() + self.seconds + count * PACE
        return [self._answer(end) for _ in range(count)]

    def _write(self, lines, last):
        with contextlib.suppress(OSError, ValueError):  # it died: the reader tells
            for line in lines:
                self.process.stdin.write(line.encode('utf-8', 'replace') + b'\n')
            self.process.stdin.flush()
            if last:
                self.process.stdin.close()

    def _answer(self, end):
        left = end - time.monotonic()
        try:
            answer = self.answers.get(timeout=max(0.0, min(self.seconds, left)))
        except queue.Empty:
            if left < self.seconds:
                raise JavaFailed(f'was too slow and was stopped{self._complaint()}') from None
            self._fail_silent()
        if answer is None:
            self._fail_ended()
        return answer

    def finish(self):
        """Wait for the program to end well.  Raises `JavaFailed`."""
        self._write([], last=True)
        try:
            status = self.process.wait(timeout=self.seconds)
        except subprocess.TimeoutExpired:
            self._fail_silent()
        if status:
            self._fail_ended()

    def _fail_silent(self):
        raise JavaFailed(f'gave no sign for {self.seconds:g} seconds and was stopped{self._complaint()}')

    def _fail_ended(self):
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=5)
        raise JavaFailed(f'ended too early with status {self.process.poll()}{self._complaint()}')

    def _complaint(self):
        time.sleep(0.05)  # let the reader of errors catch up
        return f': {" / ".join(list(self.errors)[:3])[:400]}' if self.errors else ', without a word'

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for thread in self.threads:
            thread.join(timeout=1)
        # A pipe that a stray grandchild keeps open has a thread waiting in it, and closing would
        # wait too: such a one is left behind.
        if not any(thread.is_alive() for thread in self.threads):
            for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
                with contextlib.suppress(OSError):
                    pipe.close()
