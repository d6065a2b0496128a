"""Files of one folder that belong together: replaced as a set, read as a set.

The files keep their names, so one rename cannot replace them all.  A save therefore

1. writes every new file beside the old one, as NAME.new.part,
2. writes a journal, `replacing.json`, that lists the names,
3. renames each new file over the old one, and
4. removes the journal.

The journal is the moment of commit.  Before it the old set counts.  Once it exists the new set counts: a reader
takes each listed file from NAME.new.part while that exists and changes nothing; the next writer finishes the
renames.  So a process may be killed at any point, and the folder holds the old set or the new one.
"""

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any, TypeVar

from misc.cli import DataError
from misc.disk.files import TEMPORARY, open_regular, remove_leftovers, replacing
from misc.disk.locks import held_file

JOURNAL = 'replacing.json'
NEW = '.new' + TEMPORARY
LOCK = '.lock'
# The files of a run, whose unfinished ones a killed writer leaves.
NAMES = r'(?:model|optimizer|infos|histories)[^/]*\.(?:pth|pkl)|[a-z]+\.jsonl?'
MAX_READS = 20

T = TypeVar('T')


# ---- writing ----

@contextlib.contextmanager
def only_writer(folder: str) -> Iterator[None]:
    """Hold the lock of `folder`, which is made if necessary, and finish a save that a killed writer began.

    A folder that was made here and is still empty at the end is removed.  Raises `UsageError` where another
    process holds the lock, and `DataError` where the folder cannot be written to.
    """
    is_new = not os.path.isdir(folder)
    try:
        with contextlib.ExitStack() as stack:
            try:
                os.makedirs(folder, exist_ok=True)
                stack.enter_context(held_file(os.path.join(folder, LOCK), (
                    f'another process is training in {folder}; wait for it, end it, or name another folder')))
                refuse_links(folder)
                finish_moves(folder)
            except OSError as error:
                raise DataError(f'{folder} cannot be written to ({error.strerror}); name another folder, or make '
                                'this one writable') from None
            yield
    finally:
        if is_new:
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def save_set(folder: str, files: Mapping[str, bytes | memoryview]) -> None:
    """Replace `files`, {name: content}, in `folder` as one set.  The caller is the folder's `only_writer`.

    Raises `OSError`, with the old set in place, when the disk is full or read-only.
    """
    os.makedirs(folder, exist_ok=True)  # someone may have removed it since
    finish_moves(folder)
    remove_leftovers(folder, NAMES)
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


def refuse_links(folder: str) -> None:
    """Raise `DataError` where a file of a run is a symbolic link: a save would put a file in its place, and leave
    the one that it leads to as it is."""
    for entry in os.scandir(folder):
        if entry.is_symlink() and re.fullmatch(NAMES, entry.name, re.DOTALL):
            raise DataError(f'{entry.path} is a symbolic link, which a checkpoint would replace; put the file that '
                            'it leads to in its place, or name another folder')


def finish_moves(folder: str) -> None:
    """Finish a save that was interrupted after its journal was written.  The caller is the `only_writer`."""
    for name in _journal(folder)[1]:
        with contextlib.suppress(FileNotFoundError):  # already moved
            os.replace(os.path.join(folder, name + NEW), os.path.join(folder, name))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(folder, JOURNAL))


# ---- reading ----

def listing(folder: str) -> list[str]:
    """The sorted names of the files in `folder`, those of an unfinished save included."""
    unfinished = [name for name in _journal(folder)[1] if os.path.exists(os.path.join(folder, name + NEW))]
    return sorted({*os.listdir(folder), *unfinished})


def exists(path: str) -> bool:
    """Whether the file exists, if only in an unfinished save."""
    with contextlib.suppress(OSError):
        _at_current_place(path, os.stat)
        return True
    return False


def opened(path: str, mode: str = 'rb', **kwargs: Any) -> IO[Any]:
    """Open `path` for reading, wherever its current content is; `kwargs` are those of `open`."""
    return _at_current_place(path, lambda place: open_regular(place, mode, **kwargs))


def stamp(paths: Sequence[str]) -> list[tuple]:
    """A value that changes when one of the files is replaced."""
    stamps = []
    for path in paths:
        with contextlib.suppress(OSError):
            status = _at_current_place(path, os.stat)
            stamps.append((path, status.st_dev, status.st_ino, status.st_mtime_ns))
    return stamps


def read_as_one(paths: Sequence[str], read: Callable[[], T]) -> T:
    """The result of `read()`, which reads the files `paths`, all from the same set.

    If a save replaces one of them meanwhile, `read` is called again.  Raises `DataError` where that happens
    `MAX_READS` times in a row.
    """
    for _ in range(MAX_READS):
        before = stamp(paths)
        try:
            result = read()
        except DataError:
            if stamp(paths) == before:
                raise
        else:
            if stamp(paths) == before:
                return result
    raise DataError(f'{paths[0]} was replaced every time it was read; wait for the program that writes it')


def _at_current_place(path: str, use: Callable[[str], T]) -> T:
    """The result of `use(place)`, where `place` is the file that holds the current content of `path`."""
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
            continue  # it was moved meanwhile
        # Without the same journal, NAME.new.part may be a file of the next save, which does not count yet.
        if place == path or _journal(folder)[0] == journal:
            return result


def _journal(folder: str) -> tuple[tuple | None, list[str]]:
    """(identity of the journal, names of its files); (None, []) where no save is unfinished."""
    journal = os.path.join(folder, JOURNAL)
    try:
        with open_regular(journal, 'r', encoding='utf-8') as file:
            status = os.fstat(file.fileno())
            names = [os.path.basename(name) for name in json.load(file)]
        if b'\0' in os.fsencode(''.join(names)):
            raise ValueError('a file name with a zero byte')
        return (status.st_ino, status.st_mtime_ns), names
    except (FileNotFoundError, NotADirectoryError):
        return None, []
    except (ValueError, TypeError, RecursionError, IsADirectoryError) as error:
        raise DataError(f'{journal} is not the list of files that a save writes ({error}); move it away, '
                        f'and *{NEW} with it') from None
