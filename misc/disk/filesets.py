"""Files of a folder that belong together: replaced as one set, and read as one.

The files keep their plain names, so they cannot be replaced in one move.  A save writes all new files
beside the old ones, then a journal that names them, then moves each into place, then removes the
journal.  From the moment the journal is there the new set counts: readers take a file that it names from
where it still lies, and change nothing; the next writer finishes the moves.  So whatever kills the
process, the folder holds the last complete set or the one before it.
"""

import contextlib
import json
import os

from misc.cli import DataError
from misc.disk.files import TEMPORARY, remove_leftovers, replacing
from misc.disk.locks import held_file

JOURNAL = 'replacing.json'
NEW = '.new' + TEMPORARY
LOCK = '.lock'
TRIES = 20


@contextlib.contextmanager
def only_writer(folder):
    """Be the one process that saves into `folder`, which is made if need be, and put it in order; a folder
    that was made and stayed empty goes again.  Raises `UsageError` where another process is at it, and
    `DataError` where the folder cannot be written to."""
    is_new = not os.path.isdir(folder)
    try:
        with contextlib.ExitStack() as held:
            try:
                os.makedirs(folder, exist_ok=True)
                held.enter_context(held_file(os.path.join(folder, LOCK), (
                    f'another process is training in {folder}; wait for it, end it, or name another folder')))
                finish_moves(folder)
                remove_leftovers(folder)
            except OSError as error:
                raise DataError(f'{folder} cannot be written to ({error.strerror}); name another folder, or put '
                                'that right') from None
            yield
    finally:
        if is_new:
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def save_set(folder, files):
    """Replace files of `folder`, whose `only_writer` this process is, as one set: `files` is {name: bytes}.
    Raises `OSError` with the old set in place when the disk is full or read-only."""
    os.makedirs(folder, exist_ok=True)  # it may have been removed meanwhile
    finish_moves(folder)
    try:
        for name, content in files.items():
            with replacing(os.path.join(folder, name + NEW)) as file:
                file.write(content)
        with replacing(os.path.join(folder, JOURNAL), 'w') as file:
            json.dump(list(files), file)
    except OSError:
        for name in files:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(folder, name + NEW))
        raise
    finish_moves(folder)


def finish_moves(folder):
    """Finish a save that was interrupted after its journal was written.  For the `only_writer` alone."""
    for name in _journal(folder)[1]:
        with contextlib.suppress(FileNotFoundError):  # it was moved before
            os.replace(os.path.join(folder, name + NEW), os.path.join(folder, name))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(folder, JOURNAL))


def listing(folder):
    """The names of the files in `folder`, as they are when an interrupted save is finished."""
    coming = [name for name in _journal(folder)[1] if os.path.exists(os.path.join(folder, name + NEW))]
    return sorted({*os.listdir(folder), *coming})


def exists(path):
    """Whether the file is there, or will be when an interrupted save is finished."""
    with contextlib.suppress(OSError):
        return _where_it_lies(path, os.stat) is not None
    return False


def opened(path, mode='rb', **more):
    """Open the file `path` to read it, wherever its content lies now."""
    return _where_it_lies(path, lambda place: open(place, mode, **more))


def stamp(paths):
    """What tells whether files were replaced: it differs when one was."""
    found = []
    for path in paths:
        with contextlib.suppress(OSError):
            status = _where_it_lies(path, os.stat)
            found.append((path, status.st_dev, status.st_ino, status.st_mtime_ns))
    return found


def _where_it_lies(path, use):
    """What `use(place)` makes of the place where the content of `path` lies now."""
    folder, name = os.path.split(path)
    folder = folder or '.'
    while True:
        journal, names = _journal(folder)
        place = path + NEW if name in names and os.path.exists(path + NEW) else path
        try:
            result = use(place)
        except FileNotFoundError:
            if place == path:
                raise
            continue  # it was moved in between
        # Under another journal, or none, the new file may be one of the save after, which does not count yet.
        if place == path or _journal(folder)[0] == journal:
            return result


def read_as_one(paths, read):
    """What `read()` makes of the files `paths`, all of one set: where a save came in between, it reads
    again."""
    for _ in range(TRIES):
        before = stamp(paths)
        try:
            result = read()
        except DataError:
            if stamp(paths) == before:
                raise
        else:
            if stamp(paths) == before:
                return result
    raise DataError(f'{paths[0]} is replaced all the time; wait for the program that writes it')


def _journal(folder):
    """The journal of a save that is not finished -> (what tells it from others, the names of its files); None
    and no names where there is none."""
    journal = os.path.join(folder, JOURNAL)
    try:
        with open(journal, encoding='utf-8') as file:
            status = os.fstat(file.fileno())
            names = [os.path.basename(name) for name in json.load(file)]
        if b'\0' in os.fsencode(''.join(names)):
            raise ValueError('a name that no file has')
        return (status.st_ino, status.st_mtime_ns), names
    except (FileNotFoundError, NotADirectoryError):
        return None, []
    except (ValueError, TypeError, RecursionError, IsADirectoryError) as error:
        raise DataError(f'{journal} is not the list of files that a save leaves ({error}); remove it, '
                        f'and *{NEW} with it') from None
