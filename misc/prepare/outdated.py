"""Outputs whose input changed since they were made.

Of each input item (the boxes of an image, a picture, ...) the record of the outputs has a state, a text that begins
with the size in bytes and the time of the last change in nanoseconds; what else the output depends on may follow.
Comparing states reads no content, so all items are compared, however many there are.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from misc.cli import note
from misc.prepare.made import Record, Sample

SHOWN = 3


def outdated(record: Record, inputs: Mapping[str, Any], done: Iterable[str],
             made_at: Callable[[str], int]) -> set[str]:
    """The items among `done` whose input changed since their output was made; a note says how many.  The `record`
    then has the states of now: the caller removes these outputs, and saves it.

    `inputs` as for `misc.prepare.made.claimed`; `made_at(item)`: the time of the output, for records of earlier
    versions, which have no states.
    """
    done = set(done)
    found: set[str] = set()
    for flag, source in inputs.items():
        if isinstance(source, Sample):
            old = record.get('states', {}).get(flag, {})
            found |= _changed(source, old, done, made_at)
            record.setdefault('states', {})[flag] = {**old, **source.states}
            record.setdefault('inputs', {}).setdefault(flag, {}).update(source.changed)
    if found:
        more = ', ...' if len(found) > SHOWN else ''
        note(f'the input of {len(found)} of {len(done)} images has changed since ({", ".join(sorted(found)[:SHOWN])}'
             f'{more}); they are made again')
    return found


def _changed(source: Sample, old: Mapping[str, str], done: set[str], made_at: Callable[[str], int]) -> set[str]:
    """The items among `done` that changed since they had the states `old`."""
    now = source.states
    known = {item for item in done if item in old and item in now}
    differing = {item for item in known if old[item] != now[item]}
    is_copy = (source.copied and differing == known and source.same and not source.changed
               and all(_without_time(old[item]) == _without_time(now[item]) for item in known))
    newer = {item for item in done - known if item in now and _time(now[item]) > made_at(item)}
    return (newer | (set() if is_copy else differing)) - source.same | set(source.changed) & done


def file_states(paths: Mapping[str, str]) -> dict[str, str]:
    """{item: the state of its file} of the files `paths` {item: path} that are there."""
    states = {}
    for item, path in paths.items():
        with contextlib.suppress(OSError):
            found = os.stat(path)
            states[item] = f'{found.st_size} {found.st_mtime_ns}'
    return states


def made_at(folder: str, suffix: str) -> Callable[[str], int]:
    """The function from an item to the time at which its file in `folder` was written, in nanoseconds."""
    def time(item: str) -> int:
        with contextlib.suppress(OSError):
            return os.stat(os.path.join(folder, f'{item}{suffix}')).st_mtime_ns
        return 0
    return time


def remove_outputs(folders: Mapping[str, str], items: Iterable[str]) -> None:
    """Remove the files of `items` from `folders` {folder: suffix of its files}."""
    for item in items:
        for folder, suffix in folders.items():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(folder, f'{item}{suffix}'))


def _without_time(state: str) -> list[str]:
    """The parts of a state except for the time."""
    size, *more = state.split(' ')
    return [size, *more[1:]]


def _time(state: str) -> int:
    """The time in a state; 0 in one of another form."""
    parts = state.split(' ')
    return int(parts[1]) if len(parts) > 1 and parts[1].isascii() and parts[1].isdigit() else 0
