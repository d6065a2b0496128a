"""Locks that end with the process that holds them, however it ends."""

import contextlib
import functools
import os
import time

from misc.cli import UsageError

PATIENCE = 10.0  # seconds that a lock is waited for: what a killed process left takes a while to end

_private = set()  # handles of locks that processes forked from this one let go of at once


@contextlib.contextmanager
def held_folder(folder, refusal):
    """Hold `folder` alone, together with the processes that are forked in the block: those of a killed
    command hold it on until they have ended.  Raises `UsageError` with the text `refusal`."""
    handle = _taken(folder, os.O_RDONLY, refusal)
    try:
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def held_file(path, refusal):
    """Hold the file `path` alone, made for that and removed at the end; a killed process leaves it, free.
    Processes forked in the block have no part in it.  Raises `UsageError` with the text `refusal`."""
    handle = _taken(path, os.O_RDWR | os.O_CREAT, refusal)
    _watch_forks()
    _private.add(handle)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
        _private.discard(handle)
        os.close(handle)


@functools.cache
def _watch_forks():
    os.register_at_fork(after_in_child=_let_go)


def _let_go():
    while _private:
        os.close(_private.pop())


def _taken(path, flags, refusal):
    """A handle of `path` that holds its lock."""
    end = time.monotonic() + PATIENCE
    while True:
        handle = os.open(path, flags, 0o666)
        if _is_taken(handle) and _is_there(path, handle):
            return handle
        os.close(handle)
        if time.monotonic() > end:
            raise UsageError(refusal)
        time.sleep(0.05)


def _is_taken(handle):
    try:
        import fcntl
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        pass  # Windows, or a file system without locks
    return True


def _is_there(path, handle):
    """Whether `path` is what the handle was opened on, and was not removed by the process before."""
    with contextlib.suppress(OSError):
        return os.path.samestat(os.stat(path), os.fstat(handle))
    return False
