"""Locks that end with the process that holds them, however it ends.

The filelock package (4.3.1) does not serve: it cannot lock a folder, and it leaves its lock file behind.
"""

import contextlib
import functools
import os
import time
from collections.abc import Iterator

from misc.cli import UsageError
from misc.disk.files import StrPath, missing_folders, remove_empty

PATIENCE = 10.0  # seconds to wait for a lock: the workers of a killed process take a while to end

_private: set[int] = set()  # descriptors that forked processes close at once


@contextlib.contextmanager
def held_folder(folder: StrPath, refusal: str) -> Iterator[None]:
    """Hold the lock of `folder`, shared with processes that are forked in the block.

    If the process is killed, its workers go on holding the lock until they end.  Raises `UsageError(refusal)`
    where another process holds it.
    """
    descriptor = _lock(folder, os.O_RDONLY, refusal)
    try:
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def held_file(path: StrPath, refusal: str) -> Iterator[None]:
    """Hold the lock file `path`, created here and removed at the end; forked processes do not share the lock.

    A killed process leaves the file, unlocked.  Raises `UsageError(refusal)` where another process holds it.
    """
    descriptor = _lock(path, os.O_RDWR | os.O_CREAT, refusal)
    _close_private_after_forks()
    _private.add(descriptor)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if not os.fstat(descriptor).st_size:  # a file of that name that holds something is not from here
                os.unlink(path)
        _private.discard(descriptor)
        os.close(descriptor)


@contextlib.contextmanager
def held_output(path: StrPath, refusal: str) -> Iterator[None]:
    """Hold the lock of a file that is written at the end of long work, `.NAME.lock` beside it.

    Its folder is made if necessary, and removed if it is still empty at the end.  Raises `UsageError(refusal)`
    where another process holds the lock.
    """
    folder, name = os.path.split(os.path.abspath(path))
    missing = missing_folders(path)
    os.makedirs(folder, exist_ok=True)
    try:
        with held_file(os.path.join(folder, f'.{name}.lock'), refusal):
            yield
    finally:
        remove_empty(missing)


@functools.cache
def _close_private_after_forks() -> None:
    os.register_at_fork(after_in_child=_close_private)


def _close_private() -> None:
    while _private:
        os.close(_private.pop())


def _lock(path: StrPath, flags: int, refusal: str) -> int:
    """A descriptor of `path` that holds its lock."""
    deadline = time.monotonic() + PATIENCE
    while True:
        descriptor = os.open(path, flags, 0o666)
        # The holder before may have removed the file between opening and locking: then this is the lock of
        # nothing, and others may hold that of a new file.
        if _try_lock(descriptor) and _is_at(path, descriptor):
            return descriptor
        os.close(descriptor)
        if time.monotonic() > deadline:
            raise UsageError(refusal)
        time.sleep(0.05)


def _try_lock(descriptor: int) -> bool:
    """Whether the lock is free; it is then taken.  True where the system has no locks."""
    try:
        import fcntl
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        pass  # Windows, or a file system without locks
    return True


def _is_at(path: StrPath, descriptor: int) -> bool:
    """Whether `path` is still the file that the descriptor was opened on."""
    with contextlib.suppress(OSError):
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    return False
