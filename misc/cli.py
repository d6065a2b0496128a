"""What every command shares: its parser, its error messages and exit statuses, its progress display."""

import argparse
import errno
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from types import TracebackType
from typing import Any, NoReturn, TypeVar, cast

T = TypeVar('T')
Number = TypeVar('Number', int, float)

# What to do when the system refuses a file; other errors explain themselves.
ADVICE = {errno.ENOSPC: 'make room on that disk, or write to another, and give the command again',
          errno.EDQUOT: 'make room under your quota, or write to another disk, and give the command again',
          errno.EROFS: 'write to another folder: that disk is read-only',
          errno.EACCES: 'use a folder of your own, or have the permissions changed'}


# ---- errors ----

class UserError(Exception):
    """An error that the user can put right.  The text says what is wrong, where, and what to do about it.

    `run_command` prints it on standard error without a traceback and exits with `status`.
    """

    status = 1


class UsageError(UserError):
    """The command line is wrong (exit status 2)."""

    status = 2


class DataError(UserError):
    """A file is missing, damaged, or does not fit another (exit status 1)."""


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Run `main()` as a program and exit with the status that it returns (None is 0).

    A `UserError`, an `OSError` (a full disk, missing permission, a vanished file), a name that is not UTF-8 and
    Ctrl-C end in a short message on standard error and a non-zero status, never in a traceback.
    """
    name = os.path.basename(sys.argv[0])
    escape_what_stdout_cannot_encode()
    status: int | None
    try:
        status = main()
        sys.stdout.flush()
    except UserError as error:
        print(f'{name}: {plain_lines(error)}', file=sys.stderr)
        status = error.status
    except KeyboardInterrupt:
        print(f'\n{name}: interrupted; finished work is on disk', file=sys.stderr)
        status = 130
    except BrokenPipeError:
        # Whoever read our output, `| head` for instance, has ended: nobody would read a message.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    except UnicodeError as error:
        text = error.object if isinstance(error, UnicodeEncodeError) else str(error)
        print(f'{name}: this name or text is not UTF-8: {plain_lines(text)[:200]}; rename it, or set a UTF-8 locale '
              '(export LC_ALL=C.UTF-8)', file=sys.stderr)
        status = 1
    except OSError as error:
        place = f': {error.filename}' if error.filename else ''
        reason = (error.strerror or str(error)).splitlines() or [type(error).__name__]
        print(f'{name}: {reason[0][:300]}{place}', file=sys.stderr)
        if error.errno in ADVICE:
            print(ADVICE[error.errno], file=sys.stderr)
        status = 1
    sys.exit(status or 0)


def escape_what_stdout_cannot_encode() -> None:
    """Print characters that the encoding of standard output lacks (é in ASCII) as escapes, not as an error."""
    if hasattr(sys.stdout, 'reconfigure'):
        sys.stdout.reconfigure(errors='backslashreplace')


# ---- command lines ----

class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, with exit status 2.

    Abbreviated flags are refused: their meaning would change when a flag is added.
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault('formatter_class', HelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Exit with `message` in one line."""
        self.exit(2, f'{self.prog}: {message} (see {self.prog} --help)\n')


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows each flag's default, and keeps the line breaks of the description."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.help and '%(default)' not in action.help and action.default not in (
                None, '', argparse.SUPPRESS) and not isinstance(action.default, bool):
            return action.help + ' (default: %(default)s)'
        return action.help


def boolean(text: str) -> bool:
    """An argparse type: 0, 1, true or false, in any case.

    Use it as `type=boolean, nargs='?', const=True`, so that the bare flag means 1.
    """
    known = {'0': False, 'false': False, '1': True, 'true': True}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f'{text!r} is not a boolean; allowed are 0, 1, true, false')
    return known[text.lower()]


def number_in(kind: type[Number], low: float | None = None, high: float | None = None,
              above: float | None = None, below: float | None = None) -> Callable[[str], Number]:
    """An argparse type: a finite `kind` (int or float) in [low, high] and in (above, below)."""
    bounds = [text for value, text in (
        (low, f'at least {low}'), (above, f'above {above}'),
        (high, f'at most {high}'), (below, f'below {below}')) if value is not None]
    name = 'a whole number' if kind is int else 'a number'
    allowed = ' '.join([name, ' and '.join(bounds)]).strip()

    def parse(text: str) -> Number:
        refusal = argparse.ArgumentTypeError(f'{text!r} is not allowed; give {allowed}')
        try:
            value = kind(text)
        except ValueError:
            raise refusal from None
        inside = (abs(value) < math.inf
                  and (low is None or value >= low) and (high is None or value <= high)
                  and (above is None or value > above) and (below is None or value < below))
        if not inside:
            raise refusal
        return value

    parse.__name__ = name
    return parse


def perfect_square(text: str) -> int:
    """An argparse type: a positive perfect square."""
    value = number_in(int, 1)(text)
    side = math.isqrt(value)
    if side * side != value:
        raise argparse.ArgumentTypeError(f'{text!r} is not a perfect square; allowed are {side * side}, '
                                         f'{(side + 1) ** 2} and other squares')
    return value


# ---- messages ----

def note(message: object) -> None:
    """Print a message on standard error (standard output is kept for results)."""
    print(plain_lines(message), file=sys.stderr, flush=True)


def counted(number: int, noun: str) -> str:
    """A number of things in words: "1 image", "2 images"."""
    return f'{number} {noun}{"" if number == 1 else "s"}'


def plain_text(text: object) -> str:
    """`text` in one line, safe for terminals and pages: control characters and lone surrogates are replaced."""
    return ''.join(character if character.isprintable() else ' ' if character.isspace() else '\ufffd'
                   for character in str(text))


def plain_lines(text: object) -> str:
    """`plain_text` of each line.  Messages name files, and file names may hold anything."""
    return '\n'.join(map(plain_text, str(text).split('\n')))


# ---- progress ----

class Progress:
    """A progress display with a rate and the time left: a context manager whose `update` counts finished items.

    On a terminal it is a tqdm bar; on a pipe or in a log file it prints a line every `line_seconds` and one at
    the end.
    """

    def __init__(self, total: int, label: str, unit: str = 'image', done: int = 0,
                 line_seconds: float = 15.0) -> None:
        """`done` of the `total` items were finished by an earlier run; `unit` is singular."""
        self.total, self.label, self.unit = total, label, unit
        self.done = self.done_before = done
        self.line_seconds = line_seconds
        self.started = self.last_line = time.monotonic()
        self.bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm
            self.bar = tqdm(total=total, initial=done, desc=label, unit=unit, dynamic_ncols=True)

    def update(self, count: int = 1) -> None:
        """`count` more items are finished."""
        self.done += count
        if self.bar is not None:
            self.bar.update(count)
        elif time.monotonic() - self.last_line >= self.line_seconds:
            self._print_line()

    def _print_line(self) -> None:
        self.last_line = time.monotonic()
        seconds = max(self.last_line - self.started, 1e-9)
        rate = (self.done - self.done_before) / seconds
        line = f'{self.label}: {self.done} of {self.total} {self.unit}s, {rate:.1f} a second'
        if self.done < self.total and rate > 0:
            left = int((self.total - self.done) / rate)
            line += f', {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left'
        note(line)

    def __enter__(self) -> 'Progress':
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.close()
        elif self.total:
            self._print_line()


def progress(items: Iterable[T], label: str, unit: str = 'image', total: int | None = None) -> Iterator[T]:
    """Yield `items` while showing their progress; give `total` where they have no length."""
    with Progress(len(cast(Sized, items)) if total is None else total, label, unit) as display:
        for item in items:
            yield item
            display.update()
