"""Writing files so that a reader sees the old one or the new one, never half of one."""

import contextlib
import errno
import json
import os

from misc.cli import DataError

TEMPORARY = '.part'  # suffix of files that are being written; readers and listings skip them


@contextlib.contextmanager
def replacing(path, mode='wb', durable=True):
    """Open a neighbour of `path` for writing and rename it over `path` when the block ends well.

    If the block raises, the neighbour is removed and `path` stays as it was; an `OSError` that names no
    file, as those of a full disk, then names this one.  `durable` also
    waits for the disk, which a machine that loses power needs and a killed process does not, and
    removes what killed writers of `path` left; leave it off where many small files are written that
    can be made again.
    """
    path = os.fspath(path)
    if durable:
        _remove_abandoned(path)
    part = f'{path}.{os.getpid()}{TEMPORARY}'
    try:
        with open(part, mode, **({} if 'b' in mode else {'encoding': 'utf-8'})) as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(part)
        if isinstance(error, OSError) and error.filename is None:
            raise _named(error, path) from None
        raise


def _named(error, path):
    """An `OSError` about `path`.  NumPy and HDF5 say in words of their own that a disk is full."""
    number, text = error.errno, error.strerror or str(error)
    if number is None and ('requested and' in text or os.strerror(errno.ENOSPC) in text):
        number = errno.ENOSPC
    return OSError(number, text if number is None else os.strerror(number), path)


def _remove_abandoned(path):
    """Remove the neighbours of `path` whose writers were killed.  One that lives keeps its own."""
    folder, start = os.path.dirname(path) or '.', os.path.basename(path) + '.'
    with contextlib.suppress(OSError):   # what is wrong with the folder, the writer will say
        for entry in os.scandir(folder):
            if entry.name.startswith(start) and entry.name.endswith(TEMPORARY):
                writer = entry.name[len(start):-len(TEMPORARY)]
                if writer.isdecimal() and not _lives(int(writer)):
                    os.unlink(entry.path)


def _lives(number):
    """Whether there is a process of that number on this machine, as far as can be told."""
    if os.name != 'posix':
        return True
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def remove_leftovers(folder):
    """Remove what killed writers left in `folder`.  No other process may be writing there."""
    for entry in os.scandir(folder):
        if entry.name.endswith(TEMPORARY):
            os.unlink(entry.path)


def write_json(path, value, **kwargs):
    """Write `value` as JSON to `path`, whole or not at all."""
    with replacing(path, 'w') as file:
        json.dump(value, file, **kwargs)


def read_json(path, made_by):
    """The JSON value in `path`.

    `made_by` is the command (or the source) a message names when the file is missing or broken.
    Raises `DataError`.
    """
    try:
        with open(path, encoding='utf-8') as file:
            return json.load(file)
    except FileNotFoundError:
        raise DataError(f'there is no file {path}; make it with: {made_by}') from None
    except IsADirectoryError:
        raise DataError(f'{path} is a folder, not a JSON file') from None
    except (ValueError, RecursionError, MemoryError) as error:  # of letters, of JSON, of endless numbers
        raise DataError(f'{path} is not a whole JSON file ({error}); '
                        f'make it again with: {made_by}') from None
