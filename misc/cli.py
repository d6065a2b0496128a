"""How every command of the project talks to its user: errors, exit statuses, progress."""

import argparse
import errno
import math
import os
import sys
import time

# What to do when the system refuses a file; what is not listed speaks for itself.
WAYS_OUT = {errno.ENOSPC: 'make room on that disk, or write to another, and give the command again',
            errno.EDQUOT: 'make room under your quota, or write to another disk, and give the command again',
            errno.EROFS: 'write to another folder: that disk can only be read',
            errno.EACCES: 'write to (or read from) a folder of your own, or have the permissions changed'}


class UserError(Exception):
    """Something the user can put right.  The text says what is wrong, where, and the way out.

    `run_command` prints it on standard error without a traceback and exits with `status`.
    """

    status = 1


class UsageError(UserError):
    """The command line is wrong (exit status 2)."""

    status = 2


class DataError(UserError):
    """A file is missing, broken, or does not fit another (exit status 1)."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line with exit status 2, and which takes no
    abbreviated flags (a shortened flag would change its meaning when a new one is added)."""

    def __init__(self, **kwargs):
        kwargs.setdefault('formatter_class', HelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message):
        self.exit(2, f'{self.prog}: {message} (see {self.prog} --help)\n')


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows each flag's default, and keeps the line breaks of the description."""

    def _get_help_string(self, action):
        if action.help and '%(default)' not in action.help and action.default not in (
                None, '', argparse.SUPPRESS) and not isinstance(action.default, bool):
            return action.help + ' (default: %(default)s)'
        return action.help


def boolean(text):
    """Parse a command-line boolean: 0/1, true/false, in any case.

    Use as `type=boolean, nargs='?', const=True`, so that the bare flag means 1.
    """
    known = {'0': False, 'false': False, '1': True, 'true': True}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f'{text!r} is not a boolean; allowed are 0, 1, true, false')
    return known[text.lower()]


def number_in(kind, low=None, high=None, above=None, below=None):
    """An argparse type: a finite `kind` (int or float) within [low, high] and within (above, below)."""
    bounds = [text for value, text in (
        (low, f'at least {low}'), (above, f'above {above}'),
        (high, f'at most {high}'), (below, f'below {below}')) if value is not None]
    name = {int: 'a whole number', float: 'a number'}[kind]
    allowed = ' '.join([name, ' and '.join(bounds)]).strip()

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = float('nan')
        inside = (abs(value) < float('inf')
                  and (low is None or value >= low) and (high is None or value <= high)
                  and (above is None or value > above) and (below is None or value < below))
        if not inside:
            raise argparse.ArgumentTypeError(f'{text!r} is not allowed; give {allowed}')
        return value

    parse.__name__ = name
    return parse


def perfect_square(text):
    """An argparse type: a positive perfect square."""
    value = number_in(int, 1)(text)
    side = math.isqrt(value)
    if side * side != value:
        raise argparse.ArgumentTypeError(f'{text!r} is not a perfect square; allowed are {side * side}, '
                                         f'{(side + 1) ** 2} and other squares')
    return value


def run_command(main):
    """Run `main()` as a program: its return value is the exit status (None is 0).

    A `UserError`, an `OSError` (full disk, no permission, vanished file) and Ctrl-C end in a
    short message on standard error and a non-zero status, never in a traceback.
    """
    name = os.path.basename(sys.argv[0])
    say_everything()
    try:
        status = main()
        sys.stdout.flush()
    except UserError as error:
        print(f'{name}: {error}', file=sys.stderr)
        status = error.status
    except KeyboardInterrupt:
        print(f'\n{name}: interrupted; what was finished is on disk', file=sys.stderr)
        status = 130
    except BrokenPipeError:
        # The reader of our output left (say, `| head`); there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    except OSError as error:
        place = f': {error.filename}' if error.filename else ''
        reason = (error.strerror or str(error)).splitlines() or [type(error).__name__]
        print(f'{name}: {reason[0][:300]}{place}', file=sys.stderr)
        if error.errno in WAYS_OUT:
            print(WAYS_OUT[error.errno], file=sys.stderr)
        status = 1
    sys.exit(status or 0)


def say_everything():
    """Let standard output take every letter: as an escape where its encoding lacks it, as ASCII lacks é."""
    if hasattr(sys.stdout, 'reconfigure'):
        sys.stdout.reconfigure(errors='backslashreplace')


def note(message):
    """Print one line of news on standard error (standard output is kept for results)."""
    print(message, file=sys.stderr, flush=True)


class Progress:
    """A progress display with a rate and the time left.

    On a terminal it is a tqdm bar; on a pipe or in a log file it prints a line every
    `line_seconds` and one at the end.  Use as a context manager and call `update`.
    """

    def __init__(self, total, label, unit='image', done=0, line_seconds=15.0):
        """`total` items, `done` of which were finished by an earlier run; `unit` is singular."""
        self.total, self.label, self.unit = total, label, unit
        self.done = self.done_before = done
        self.line_seconds = line_seconds
        self.started = self.last_line = time.monotonic()
        self.bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm
            self.bar = tqdm(total=total, initial=done, desc=label, unit=unit, dynamic_ncols=True)

    def update(self, count=1):
        """`count` more items are finished."""
        self.done += count
        if self.bar is not None:
            self.bar.update(count)
        elif time.monotonic() - self.last_line >= self.line_seconds:
            self._print_line()

    def _print_line(self):
        self.last_line = time.monotonic()
        seconds = max(self.last_line - self.started, 1e-9)
        rate = (self.done - self.done_before) / seconds
        line = f'{self.label}: {self.done} of {self.total} {self.unit}s, {rate:.1f} a second'
        if self.done < self.total and rate > 0:
            left = int((self.total - self.done) / rate)
            line += f', {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left'
        note(line)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if self.bar is not None:
            self.bar.close()
        elif self.total:
            self._print_line()


def progress(items, label, unit='image', total=None):
    """Yield `items` while showing their progress; `total` where they have no length."""
    with Progress(len(items) if total is None else total, label, unit) as display:
        for item in items:
            yield item
            display.update()
