"""Atomic writing: a reader sees the old file or the new one, never a part of one.

`tempfile` does not serve here: its files are readable by their owner alone, and their names do not tell whether
the writer still runs.
"""

import contextlib
import errno
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

from misc.cli import DataError
from misc.disk.numbers import exact_number

TEMPORARY = '.part'  # suffix of files that are being written; readers and listings skip them
WRITER = re.compile(rf'.+\.([0-9]+){re.escape(TEMPORARY)}', re.DOTALL)  # the process, in the name of such a file

# What the first bytes of a file that is not text mean, and how it becomes text.
FOREIGN = {b'PK\x03\x04': 'an Excel or zip file: save the sheet as "CSV UTF-8", or unpack it',
           b'\xd0\xcf\x11\xe0': 'an Excel file: save the sheet as "CSV UTF-8"',
           b'PAR1': "a Parquet file: write it as CSV, for instance with pandas: "
                    "pandas.read_parquet('FILE').to_csv('captions.csv', index=False)",
           b'\x1f\x8b': 'a gzip file: unpack it with gunzip'}

StrPath = str | os.PathLike[str]


@contextlib.contextmanager
def replacing(path: StrPath, mode: str = 'wb', durable: bool = True) -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; it replaces `path` when the block ends without an error.

    After an error `path` is as it was and the temporary file is removed; an `OSError` without a file name (a full
    disk's) is raised again with `path`.

    `durable` waits until the content is on the disk, which protects against a power failure (a killed process
    needs no protection), and removes temporary files of `path` whose writers were killed.  Turn it off for
    many small files that can be made again.
    """
    path = os.fspath(path)
    if durable:
        _remove_abandoned(path)
    part = f'{path}.{os.getpid()}{TEMPORARY}'
    try:
        with open(part, mode, encoding=None if 'b' in mode else 'utf-8') as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(part)
        if isinstance(error, OSError) and error.filename is None:
            raise _with_path(error, path) from None
        raise


def _with_path(error: OSError, path: str) -> OSError:
    """The same error, about `path`.  NumPy and HDF5 report a full disk in a text of their own, without an errno."""
    number, text = error.errno, error.strerror or str(error)
    if number is None and ('requested and' in text or os.strerror(errno.ENOSPC) in text):
        number = errno.ENOSPC
    return OSError(number, text if number is None else os.strerror(number), path)


def _remove_abandoned(path: str) -> None:
    """Remove the temporary files of `path` whose writers no longer run."""
    folder, start = os.path.dirname(path) or '.', os.path.basename(path) + '.'
    with contextlib.suppress(OSError):  # if the folder is unusable, opening the file says so
        for entry in os.scandir(folder):
            if entry.name.startswith(start) and entry.name.endswith(TEMPORARY):
                writer = entry.name[len(start):-len(TEMPORARY)]
                if writer.isdecimal() and not _is_running(int(writer)):
                    os.unlink(entry.path)


def _is_running(pid: int) -> bool:
    """Whether a process of this machine has that number; True where that cannot be found out."""
    if os.name != 'posix':
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def remove_leftovers(folder: StrPath, names: str) -> None:
    """Remove the temporary files in `folder` of files whose names match `names`, a regular expression, and no others:
    other programs call their unfinished files so, too.  No other process may be writing there."""
    own = re.compile(rf'(?:{names})(?:\.new{re.escape(TEMPORARY)})?(?:\.[0-9]+{re.escape(TEMPORARY)})?', re.DOTALL)
    for entry in os.scandir(folder):
        if entry.name.endswith(TEMPORARY) and own.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
            os.unlink(entry.path)


def is_abandoned(name: str) -> bool:
    """Whether it is the name of a temporary file whose writer no longer runs."""
    found = WRITER.fullmatch(name)
    return found is not None and not _is_running(int(found[1]))


def check_writable(path: StrPath, size: int = 1) -> None:
    """Raise `DataError` if no file of about `size` bytes can be written at `path`, before hours of work are lost on
    it.  Nothing is left behind, not even a folder that had to be made."""
    missing = missing_folders(path)
    trial = f'{os.fspath(path)}.{os.getpid()}{TEMPORARY}'
    try:
        if os.path.isdir(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        with open(trial, 'wb') as file:
            file.write(bytes(size))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise DataError(f'{os.fspath(path)} cannot be written ({error.strerror or error}: '
                        f'{error.filename or os.fspath(path)}); nothing was computed; make room or mend that, or '
                        'give the command in another folder') from None
    finally:
        with contextlib.suppress(OSError):
            os.unlink(trial)
        remove_empty(missing)


def missing_folders(path: StrPath) -> list[str]:
    """The folders that have to be made for a file at `path`, from the innermost."""
    folder, missing = os.path.dirname(os.path.abspath(path)), []
    while not os.path.lexists(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    return missing


def remove_empty(folders: Iterable[str]) -> None:
    """Remove those of the `folders`, from the innermost, that are empty."""
    for one in folders:
        with contextlib.suppress(OSError):
            os.rmdir(one)


def open_regular(path: StrPath, mode: str = 'rb', **kwargs: Any) -> Any:
    """Open a file for reading as `open` does, unless it is a pipe, a device or a socket, which might never end.

    Raises `OSError`; `kwargs` are those of `open`.
    """
    return open(path, mode, opener=open_descriptor, **kwargs)


def open_descriptor(path: str, flags: int) -> int:
    """An `opener` for `open` that raises `OSError` for pipes, devices and sockets."""
    check_regular(os.stat(path), path)
    descriptor = os.open(path, flags | getattr(os, 'O_NONBLOCK', 0) | getattr(os, 'O_CLOEXEC', 0))
    try:  # it may have been replaced meanwhile
        check_regular(os.fstat(descriptor), path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def check_regular(status: os.stat_result, path: StrPath) -> None:
    """Raise `OSError` for a `status` of anything but a file or a folder."""
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise OSError(errno.EINVAL, 'it is no regular file, but a pipe, a device or a socket', os.fspath(path))


def path_under(root: StrPath, name: str) -> str:
    """The path of the file `name`, which a data set names, in the folder `root`.

    Raises `DataError` for a name that leads out of the folder: an absolute one, or one with a step `..`.
    """
    steps = name.replace('\\', '/').split('/')
    if os.path.isabs(name) or '..' in steps or '\0' in name or not steps[0] or steps[0].endswith(':'):
        raise DataError(f'the file name {name[:200]!r} leads out of the folder {os.fspath(root)}; correct it in the '
                        'file that names it')
    return os.path.join(root, name)


def write_json(path: StrPath, value: Any, **kwargs: Any) -> None:
    """Write `value` to `path` as JSON, atomically; `kwargs` are those of `json.dump`."""
    with replacing(path, 'w') as file:
        json.dump(value, file, **kwargs)


def read_json(path: StrPath, made_by: str, exact: bool = False) -> Any:
    """The JSON value in `path`, with or without a byte order mark; of a file of JSON lines the list of its objects.

    `made_by`, the command that makes the file (or its source), ends the message about a missing or damaged file.
    `exact` reads whole numbers that are written with a point (100.0) as integers, for files that hold ids.  Raises
    `DataError`.
    """
    content = b''
    try:
        with open_regular(path) as file:
            content = file.read()
        return _parsed(content.decode(json.detect_encoding(content)), exact_number if exact else None)
    except FileNotFoundError:
        raise DataError(f'there is no file {path}; make it with: {made_by}') from None
    except IsADirectoryError:
        raise DataError(f'{path} is a folder, not a JSON file') from None
    except (ValueError, RecursionError, MemoryError) as error:  # bad UTF-8, bad JSON, a number of a million digits
        meaning = next((meaning for start, meaning in FOREIGN.items() if content.startswith(start)), None)
        if meaning:
            raise DataError(f'{path} is {meaning}') from None
        raise DataError(f'{path} is not a valid JSON file ({error}); make it again with: {made_by}') from None


def _parsed(text: str, parse_float: Callable[[str], Any] | None) -> Any:
    """The value of a JSON text, or the list of the objects of JSON lines.  Raises `ValueError`."""
    try:
        return json.loads(text, parse_float=parse_float)
    except json.JSONDecodeError as error:
        lines = [line for line in text.split('\n') if line.strip()]
        if error.msg != 'Extra data' or len(lines) < 2:
            raise
        try:
            values = [json.loads(line, parse_float=parse_float) for line in lines]
        except ValueError:
            values = []
        if not values or not all(isinstance(value, dict) for value in values):
            raise
        return values
