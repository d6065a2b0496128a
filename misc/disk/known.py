"""Files that are opened again later, perhaps by another process: whether they are still the same files.

What was read of a file before (where its rows begin, say) is wrong for one that replaced it meanwhile.
"""

import os
from io import BufferedReader
from typing import Any

from misc.cli import UserError
from misc.disk.files import open_regular

State = tuple[int, int, int, int]   # device, inode, size in bytes, time of the last change in nanoseconds


class ChangedError(UserError):
    """A file was changed or replaced while it was in use (exit status 1).  It concerns all that is read from there,
    so it is not one of the errors about a single image."""


def state_of(file: str | os.PathLike | int) -> State | None:
    """What identifies the content of a file, by path or open descriptor; None where there is no file."""
    try:
        found = os.stat(file)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class KnownFile:
    """A file as it was when this object was made.  It can be sent to other processes."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path, self.state = os.fspath(path), state_of(path)

    def check(self, descriptor: int | None = None) -> None:
        """Raise `ChangedError` unless the file, or the one that is open as `descriptor`, is still the same."""
        if state_of(self.path if descriptor is None else descriptor) != self.state:
            raise changed(self.path)

    def opened(self) -> BufferedReader:
        """Open the file for reading bytes, if it is still the same.  Raises `ChangedError`."""
        try:
            file = open_regular(self.path)
        except FileNotFoundError:
            raise changed(self.path) from None
        try:
            self.check(file.fileno())
        except BaseException:
            file.close()
            raise
        return file


class KnownFolder:
    """A folder as it was: files in it may come and go, but it is not another one, moved or linked into its place."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path, self.state = os.fspath(path), (state_of(path) or (0, 0))[:2]

    def check(self) -> None:
        """Raise `ChangedError` unless the folder is still the same."""
        if (state_of(self.path) or (0, 0))[:2] != self.state:
            raise changed(self.path)


def changed(path: Any) -> ChangedError:
    """The error about `path`."""
    return ChangedError(f'{path} was changed or replaced while it was in use, so what was read of it before no '
                        'longer fits; run the command again when nothing writes there any more')
