"""`<output_dir>_made.json`: what the outputs of a preparation script were made from.

The record is written before the first output.  So a command that was interrupted can be repeated and continues,
and one with other options or inputs is refused instead of mixing its outputs in.

Inputs may have grown since (the step before was itself interrupted), so they are not recorded as a whole: of files,
size and digests of the beginning and the end; of folders, digests of a few items, and size and time of all.  If most
of those few differ, the input is another one, which is refused; single items that changed are made again.

===========  ====================================================================================
`made_by`    the script
`options`    {flag: value} of the options that decide the content of the outputs
`inputs`     {flag: {file or item: {part: value}}}; see `Files` and `Sample`
`states`     {flag: {item: its state}}: of the items, when their outputs were made; see misc/prepare/outdated.py
`by_extent`  prepro_areas.py: the images whose size was not known
`pending`    pack_features.py: the images that are being packed again, since they changed
===========  ====================================================================================
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from misc.cli import DataError, UsageError
from misc.disk.files import open_regular, read_json, remove_leftovers, write_json
from misc.disk.locks import held_folder

ARRAYS = r'-?[0-9]+\.np[yz]'   # the files of images in the folders

Record = dict[str, Any]   # of outputs, as above
Parts = dict[str, Any]    # what is recorded of one input file or item: {part: value}

MEGABYTE = 1 << 20
SAMPLE = 32  # items of a folder that are recorded


class Input(Protocol):
    """An input of a script, of which something is recorded."""

    def compare(self, recorded: Mapping[str, Parts]) -> tuple[dict[str, Parts], str | None]:
        """What is to be recorded of the input now, and how it contradicts what was `recorded` (None: it does
        not)."""


@contextlib.contextmanager
def claimed(output_dir: str, command: str, options: Mapping[str, Any], inputs: Mapping[str, Input],
            folders: Sequence[str], files: Sequence[str] = ()) -> Iterator[Record]:
    """Claim `folders` for outputs of `command` while the block runs; yields their record.

    options, inputs: {flag: value} and {flag: input}, which must agree with what is recorded of the outputs that
    are there; without outputs a new record begins.  files: finished outputs outside `folders`; where there are
    any, `output_dir` is the name of a file.

    Makes the folders where they are missing.  Only one process at a time holds the claim; files left by killed
    writers are removed at its beginning and end.  Raises `UsageError` where the outputs were made from something
    else, `DataError` for a damaged record.
    """
    output_dir = os.path.normpath(output_dir)
    for folder in folders:
        os.makedirs(folder, exist_ok=True)
    with held_folder(folders[0], (
            f'another process is writing into {folders[0]}; wait for it, or end it')):
        record = _agreed(output_dir, command, options, inputs, folders, files)
        names = '|'.join([ARRAYS, *(re.escape(os.path.basename(path)) for path in files)])
        for folder in folders:
            remove_leftovers(folder, names)
        save(output_dir, record)
        try:
            yield record
        finally:
            for folder in folders:
                remove_leftovers(folder, names)


def save(output_dir: str, record: Record) -> None:
    """Write the record of `output_dir`."""
    write_json(record_path(output_dir), record, indent=1)


def record_path(output_dir: str) -> str:
    """The path of the record of `output_dir`."""
    return f'{os.path.normpath(output_dir)}_made.json'


def finished(folder: str, suffix: str) -> set[str]:
    """The ids whose file ID + `suffix` in `folder` exists and is not empty."""
    return {entry.name[:-len(suffix)] for entry in os.scandir(folder)
            if entry.name.endswith(suffix) and entry.stat().st_size > 0}


def _agreed(output_dir: str, command: str, options: Mapping[str, Any], inputs: Mapping[str, Input],
            folders: Sequence[str], files: Sequence[str]) -> Record:
    """The record of the outputs in `folders` and `files`, extended by what `inputs` hold now.

    Raises `UsageError` where they were made from something else.
    """
    path = record_path(output_dir)
    filled = [folder for folder in folders if any(entry.is_file() for entry in os.scandir(folder))]
    filled += filter(os.path.exists, files)
    output_flag = '--output_file' if files else '--output_dir'
    other_place = f'give another {output_flag}'
    way_out = f'{other_place}, or remove {" and ".join(filled)} to make everything again'
    old = _read_record(path, filled, command, options, other_place, way_out) if filled else {}
    record: Record = {'made_by': command, 'options': options, 'inputs': {}}
    for flag, source in inputs.items():
        recorded = old.get('inputs', {}).get(flag, {})
        now, difference = source.compare(recorded)
        if difference:
            raise UsageError(f'--{flag}: {difference};\n{filled[0]} was made from another (see {path}); {way_out}')
        record['inputs'][flag] = {**recorded, **now}
    return {**old, **record}


def _read_record(path: str, filled: list[str], command: str, options: Mapping[str, Any], other_place: str,
                 way_out: str) -> Record:
    """The record at `path` of the outputs `filled`; raises where there is none that fits `command` and `options`.

    Only outputs of this very command may be advised to be removed (`way_out`); what nothing is known of, or another
    command made, may be the work of days.
    """
    if not os.path.exists(path):
        raise UsageError(f'{filled[0]} is not empty, but no {path} says what it was made from; {other_place}')
    try:
        old = read_json(path, command)
    except DataError as error:
        raise DataError(f'{str(error).split("; make it")[0]}, so nothing says what {" and ".join(filled)} was made '
                        f'from; {other_place}') from None
    if not is_record(old):
        raise DataError(f'{path} does not say what {" and ".join(filled)} was made from; {other_place}')
    if old['made_by'] != command:
        raise UsageError(f'{path} says that what is there was made by {old["made_by"]}, not by {command}; '
                         f'{other_place}')
    for flag in {**old.get('options', {}), **options}:
        before, now = old.get('options', {}).get(flag), options.get(flag)
        if before != now:
            raise UsageError(f'{filled[0]} was made with --{flag} {before}, not {now} (see {path});\n'
                             f'give that, or {way_out}')
    return old


def is_record(value: Any) -> bool:
    """Whether a JSON value has the structure of a record."""
    return (isinstance(value, dict) and isinstance(value.get('made_by'), str)
            and isinstance(value.get('options', {}), dict) and isinstance(value.get('inputs', {}), dict)
            and all(isinstance(value.get(name, []), list) and all(isinstance(one, str) for one in value.get(name, []))
                    for name in ('by_extent', 'pending'))
            and isinstance(value.get('states', {}), dict)
            and all(isinstance(states, dict) and all(isinstance(state, str) for state in states.values())
                    for states in value.get('states', {}).values())
            and all(isinstance(items, dict) and all(isinstance(item, dict) for item in items.values())
                    for items in value.get('inputs', {}).values()))


class Files:
    """Input files, identified by their names; each may have grown at its end since, and others may be new.

    Recorded are {file name: what `describe_file` returns} of all of them.
    """

    def __init__(self, paths: Iterable[str]):
        self.paths = list(paths)

    def compare(self, recorded: Mapping[str, Parts]) -> tuple[dict[str, Parts], str | None]:
        """See `Input`."""
        now = {os.path.basename(path): describe_file(path) for path in self.paths}
        for path in self.paths:
            old = recorded.get(os.path.basename(path))
            if old and (type(old.get('size')) is not int or old['size'] < 0
                        or describe_file(path, old['size']) != old):
                return now, f'{path} is not the file of that name that was read before'
        if recorded and not set(recorded) & set(now):
            return now, f'{", ".join(sorted(recorded))} was read before and is not there'
        return now, None


def describe_file(path: str, size: int | None = None) -> Parts:
    """Size in bytes, and digests of the first and the last megabyte of a file; of its first `size` bytes alone
    where that is given (a shorter file is described as it is)."""
    whole = os.path.getsize(path)
    size = whole if size is None else min(size, whole)
    with open_regular(path) as file:
        head = file.read(min(size, MEGABYTE))
        file.seek(max(0, size - MEGABYTE))
        tail = file.read(min(size, MEGABYTE))
    return {'size': size, 'head': digest(head), 'tail': digest(tail)}


class Sample:
    """Input items, such as the images of a folder, of which up to SAMPLE are recorded.

    `describe(item)` returns {part: value}, with None for a part that is not known, or None for an item that is
    missing or broken; neither contradicts a record.

    states   {item: its state} of all items, see misc/prepare/outdated.py
    changed  {item: its parts now} of the recorded items that are not what they were; their record stays as it is,
             for `misc.prepare.outdated.outdated` to renew
    same     those that are
    copied   whether the items are files that people copy, but do not make again
    """

    def __init__(self, items: Iterable[str], describe: Callable[[str], Parts | None], states: Mapping[str, str],
                 copied: bool = False):
        self.items, self.describe, self.states, self.copied = sorted(items), describe, states, copied
        self.changed: dict[str, Parts] = {}
        self.same: set[str] = set()

    def compare(self, recorded: Mapping[str, Parts]) -> tuple[dict[str, Parts], str | None]:
        """See `Input`."""
        now: dict[str, Parts] = {}
        differences = []
        for item, old in recorded.items():
            new = self.describe(item)
            if new is None:
                continue
            differing = [part for part, value in old.items() if value is not None and new.get(part) is not None
                         and new[part] != value]
            differences += [f'the {part} of image {item} is not what it was' for part in differing[:1]]
            if differing:
                self.changed[item], now[item] = new, dict(old)
                continue
            self.same.add(item)
            now[item] = {part: old.get(part) if value is None else value for part, value in new.items()}
        if len(self.changed) > len(self.same):
            return now, differences[0]
        if recorded and not now:
            return now, f'none of the images read before ({", ".join(list(recorded)[:3])} …) is there'
        step = max(1, len(self.items) // SAMPLE)
        for item in self.items[::step]:
            if len({**recorded, **now}) < SAMPLE and item not in now:
                new = self.describe(item)
                if new is not None:
                    now[item] = new
        return now, None


def digest(content: bytes) -> str:
    """24 hexadecimal digits of the SHA-256 of `content`."""
    return hashlib.sha256(content).hexdigest()[:24]
