"""`<output_dir>_made.json`: what the outputs of a preparation script were made from.

The record is written before the first output, so that whatever interrupts the script, the same
command can go on, and a command with other options or inputs is refused and never mixed in.

Inputs may have grown since (the step before was itself interrupted), so they are not recorded as a
whole: of files, size and digests of the beginning and the end; of folders, digests of a few items.
"""

import contextlib
import hashlib
import os

from misc.cli import DataError, UsageError
from misc.disk.files import read_json, remove_leftovers, write_json
from misc.disk.locks import held_folder

MEGABYTE = 1 << 20
SAMPLE = 32  # items of a folder that are recorded


@contextlib.contextmanager
def claimed(output_dir, command, options, inputs, folders, files=()):
    """Claim `folders` (made if need be) for outputs of `command`; yields the record, a dict.

    files: finished outputs that lie elsewhere; where there are any, `output_dir` is a file's name.

    options: {flag: value}, which must be equal to those of what is there.  inputs: {flag: `Files` or
    `Sample`}, which must agree with it.  The record lies at `<output_dir>_made.json`; a claim of
    folders without outputs starts a new one.  One process at a time holds the claim; leftovers of
    killed writers are removed on both ends of it.  Raises `UsageError` on a refusal.
    """
    output_dir = os.path.normpath(output_dir)
    for folder in folders:
        os.makedirs(folder, exist_ok=True)
    with held_folder(folders[0], (
            f'another process is writing into {folders[0]}; wait for it, or end it')):
        for folder in folders:
            remove_leftovers(folder)
        record = _agreed(output_dir, command, options, inputs, folders, files)
        save(output_dir, record)
        try:
            yield record
        finally:
            for folder in folders:
                remove_leftovers(folder)


def save(output_dir, record):
    """Write the record of `output_dir`."""
    write_json(record_path(output_dir), record, indent=1)


def record_path(output_dir):
    """The path of the record of `output_dir`."""
    return f'{os.path.normpath(output_dir)}_made.json'


def finished(folder, suffix):
    """The ids (as strings) whose file in `folder` is there and not empty."""
    return {entry.name[:-len(suffix)] for entry in os.scandir(folder)
            if entry.name.endswith(suffix) and entry.stat().st_size > 0}


def _agreed(output_dir, command, options, inputs, folders, files):
    """The record of what is in `folders` and `files`, extended by what `inputs` hold now; or
    `UsageError`."""
    path = record_path(output_dir)
    filled = [folder for folder in folders if any(entry.is_file() for entry in os.scandir(folder))]
    filled += filter(os.path.exists, files)
    old, flag = {}, '--output_file' if files else '--output_dir'
    way_out = (f'give another {flag}, or remove {" and ".join(filled)} to make everything anew')
    if filled:
        if not os.path.exists(path):
            raise UsageError(f'{filled[0]} is not empty, but no {path} says what it was made from;\n'
                             f'{way_out}')
        old = read_json(path, f'removing it and {" and ".join(filled)} and running the command again')
        if not is_record(old):
            raise DataError(f'{path} does not say what {" and ".join(filled)} was made from;\n{way_out}')
        if old['made_by'] != command:
            raise UsageError(f'{path} says that what is there was not made by {command};\n{way_out}')
        for flag in {**old.get('options', {}), **options}:
            was, now = old.get('options', {}).get(flag), options.get(flag)
            if was != now:
                raise UsageError(f'{filled[0]} was made with --{flag} {was}, not {now} (see {path});\n'
                                 f'give that, or {way_out}')
    record = {'made_by': command, 'options': options, 'inputs': {}}
    for flag, source in inputs.items():
        recorded = old.get('inputs', {}).get(flag, {})
        now, difference = source.compare(recorded)
        if difference:
            raise UsageError(f'--{flag}: {difference};\n{filled[0]} was made from another '
                             f'(see {path}); {way_out}')
        record['inputs'][flag] = {**recorded, **now}
    return {**old, **record}


def is_record(value):
    """Whether it has the form of a record: what made the outputs, and {flag: {item: {part: value}}} of inputs."""
    return (isinstance(value, dict) and isinstance(value.get('made_by'), str)
            and isinstance(value.get('options', {}), dict) and isinstance(value.get('inputs', {}), dict)
            and isinstance(value.get('by_extent', []), list)
            and all(isinstance(one, str) for one in value.get('by_extent', []))
            and all(isinstance(items, dict) and all(isinstance(item, dict) for item in items.values())
                    for items in value.get('inputs', {}).values()))


class Files:
    """Input files, known by their names; each may since have grown at its end, and others may have come."""

    def __init__(self, paths):
        self.paths = list(paths)

    def compare(self, recorded):
        """(what is known of each file now, what contradicts `recorded` or None)."""
        now = {os.path.basename(path): describe_file(path) for path in self.paths}
        for path in self.paths:
            old = recorded.get(os.path.basename(path))
            if old and (type(old.get('size')) is not int or old['size'] < 0
                        or describe_file(path, old['size']) != old):
                return now, f'{path} is not the file of that name that was read before'
        if recorded and not set(recorded) & set(now):
            return now, f'{", ".join(sorted(recorded))} was read before and is not there'
        return now, None


def describe_file(path, size=None):
    """Size of the file, and digests of the megabytes it begins and ends with; of the first `size`
    bytes alone where that is given (a shorter file is then described as it is)."""
    whole = os.path.getsize(path)
    size = whole if size is None else min(size, whole)
    with open(path, 'rb') as file:
        head = file.read(min(size, MEGABYTE))
        file.seek(max(0, size - MEGABYTE))
        tail = file.read(min(size, MEGABYTE))
    return {'size': size, 'head': digest(head), 'tail': digest(tail)}


class Sample:
    """Input items (images of a folder, say), some of which are recorded.

    `describe(item)` returns {part: value}, where None is a part that is not known, or None for an
    item that is not there or is broken: neither says that the input is another one.
    """

    def __init__(self, items, describe):
        self.items, self.describe = sorted(items), describe

    def compare(self, recorded):
        """(what is known of a sample of the items now, what contradicts `recorded` or None)."""
        now, seen = {}, 0
        for item, old in recorded.items():
            new = self.describe(item)
            if new is None:
                continue
            seen += 1
            for part, value in old.items():
                if value is not None and new.get(part) is not None and new[part] != value:
                    return now, f'the {part} of image {item} is not what it was'
            now[item] = {part: old.get(part) if value is None else value for part, value in new.items()}
        if recorded and not seen:
            return now, f'none of the images read before ({", ".join(list(recorded)[:3])} …) is there'
        step = max(1, len(self.items) // SAMPLE)
        for item in self.items[::step]:
            if len({**recorded, **now}) < SAMPLE and item not in now:
                new = self.describe(item)
                if new is not None:
                    now[item] = new
        return now, None


def digest(content):
    """A short digest of bytes."""
    return hashlib.sha256(content).hexdigest()[:24]
