"""The run record: what a run was started with, each time, and which data it was trained on.

A record is a dict of plain values.  Infos files hold that of the last start, as `account`; `run.json` in the run's
folder, for people to read, has a list `starts` of all of them, each with the identity of its `run`, its time,
iteration and options, and the `data` of the last one.

===========  ====================================================================================
`versions`   {name: version} of Python and the libraries that decide bits, None if not installed
`code`       {'commit', 'changed'}: of this project, and whether tracked files differ from that commit; None
             without git
`machine`    {'device', 'threads', 'processes'}
`data`       {flag: digest}: see `data_digests`
===========  ====================================================================================
"""

import datetime
import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
import subprocess
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from misc import parallel
from misc.cli import DataError, note
from misc.disk.files import open_regular, write_json
from misc.disk.known import KnownFile
from misc.run.identity import RUN

RUN_FILE = 'run.json'
PROJECT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LIBRARIES = ('torch', 'numpy', 'h5py')
FILTERS = r'^filter\..*\.(clean|process|required)$'  # settings of git that name programs
SAMPLE = 100  # images whose arrays are digested
COMPARED = 20  # of these, how many an evaluation reads

Record = dict[str, Any]


def run_record(corpus: Any, rows: Sequence[int], device: torch.device, table: KnownFile | None = None) -> Record:
    """The record of a run on the images `rows` of a `Corpus`, rewarded by the n-gram file `table`, if any."""
    return {'versions': versions(), 'code': code_state(),
            'machine': {'device': device_name(device), 'threads': torch.get_num_threads(),
                        'processes': parallel.count()},
            'data': data_digests(corpus, rows, table)}


def compared_record(corpus: Any, rows: Sequence[int], device: torch.device, table: KnownFile | None,
                    options: Mapping[str, Any], course: Iterable[str], resumed: Any, in_place: bool) -> Record:
    """The `run_record` of this run, compared with that of the `Run` it resumes, if there is one (legacy checkpoints
    have none).

    `options` {name: value} of this run, `course` the names of those that decide how it trains; `in_place`: whether it
    goes on in the folder of the run it resumes.  Raises `DataError` where the data differ and it does.
    """
    record = run_record(corpus, rows, device, table)
    before = resumed and resumed.infos.get('account')
    if before is not None:
        check_data(before, record, options, resumed.infos_path, in_place)
        note_changes(before, record, resumed.infos['opt'], options, course)
    return record


def versions() -> dict[str, str | None]:
    """{name: version} of Python and the libraries."""
    found: dict[str, str | None] = {'python': platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def code_state(project: str = PROJECT) -> dict[str, Any] | None:
    """{'commit': of the project, 'changed': whether tracked files differ from it}, or None without git."""
    # Inside a larger repository, git would report the state of that one.
    if not os.path.exists(os.path.join(project, '.git')):
        return None
    try:
        filters = git(project, 'config', '--name-only', '--get-regexp', FILTERS, fails=1)
        # An empty command is none.
        settings = [f'{name}={"false" if name.endswith("required") else ""}' for name in filters]
        lines = git(project, 'status', '--porcelain=v2', '--branch', '--untracked-files=no',
                    '--ignore-submodules=all', settings=settings)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    commit = next((line.split()[-1] for line in lines if line.startswith('# branch.oid ')), '(initial)')
    if commit == '(initial)':  # nothing was committed
        return None
    return {'commit': commit, 'changed': any(not line.startswith('#') for line in lines)}


def git(project: str, *arguments: str, settings: Iterable[str] = (), fails: int = 0) -> list[str]:
    """The lines that git prints about the repository `project`, whatever git's environment variables name.

    No program that the repository names is run: no hook, no file system monitor, and none of the filters that
    `settings` turn off.  An exit status up to `fails` is no error.  Raises `OSError` and `SubprocessError`.
    """
    off = ['core.fsmonitor=false', f'core.hooksPath={os.devnull}', *settings]
    command = ['git', '--no-optional-locks', '--no-pager', '-C', project,
               *(word for setting in off for word in ('-c', setting)), *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.upper().startswith('GIT_')}
    found = subprocess.run(command, capture_output=True, text=True, timeout=20, env=environment,
                           stdin=subprocess.DEVNULL)
    if not 0 <= found.returncode <= fails:
        raise subprocess.SubprocessError(found.stderr)
    return found.stdout.splitlines()


def device_name(device: torch.device) -> str:
    """The kind of device, and for CUDA its model."""
    return f'{device.type} ({torch.cuda.get_device_name(device)})' if device.type == 'cuda' else device.type


def data_digests(corpus: Any, rows: Sequence[int], table: KnownFile | None = None) -> dict[str, Any]:
    """{flag: digest} of what the data hold, whatever the time, place and kind of their files.

    Labels, vocabulary, splits and captions are digested whole.  Of features, boxes and grid vectors it is {image id:
    digest} of up to 100 of the images `rows`, always the same ones, and the same for a folder and for a packed file
    of float32: the cost does not grow with the data.  If one in 20 of 120,000 images differs, that is seen 99 times
    out of 100; if a single one does, it is not.
    """
    captioned = [[image['id'], image['split'], image.get('captions')] for image in corpus.images]
    words = json.dumps([corpus.vocabulary, captioned], sort_keys=True)
    labels = corpus.labels
    found: dict[str, Any] = {
        'input_json': hexdigest(words.encode()),
        'input_label_h5': hexdigest(*(array.astype('<u4') for array in (labels.labels, labels.start, labels.end)))}
    sample = sorted((corpus.ids[row] for row in rows), key=lambda image: zlib.crc32(str(image).encode()))[:SAMPLE]
    for flag, reader in corpus.regions.readers_by_flag().items():
        sizes = corpus.regions.sizes if flag == 'input_box_dir' else {}
        arrays = {str(image): array_digest(reader, image, sizes.get(str(image), ())) for image in sample}
        found[flag] = {image: value for image, value in arrays.items() if value}
    if table is not None:
        with table.opened() as file:
            found['cached_tokens'] = hashlib.file_digest(file, 'sha256').hexdigest()[:24]
    return found


def array_digest(reader: Any, image_id: int, size: Sequence[float]) -> str | None:
    """The digest of an image's array and of the image's size; None if the array cannot be read, which is reported
    when training comes to it."""
    try:
        array = reader.read(image_id)
    except (DataError, OSError):
        return None
    # A map of cells counts as the list of its cells, and a mean as a single region.
    width = array.shape[-1] if array.ndim else 1
    return hexdigest(array.reshape(array.size // max(width, 1), width), np.array(size, '<f8'))[:12]


def hexdigest(*parts: Any) -> str:
    """A digest of bytes and of arrays with their shapes."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            found.update(str(part.shape).encode())
            part = np.ascontiguousarray(part.astype(part.dtype.newbyteorder('<'), copy=False)).data
        found.update(part)
    return found.hexdigest()[:24]


def check_data(before: Record, record: Record, options: Mapping[str, Any], infos_path: str, in_place: bool) -> None:
    """Compare the data of a `record` with those of the record `before`, from the file `infos_path`.

    Where they differ, a run that is resumed `in_place`, in its own folder, is refused with a `DataError`; one that is
    continued in another folder is another run, and a note says what differs.  Data that one of the records lacks are
    not compared.
    """
    old, new, changed = section(before, 'data'), record['data'], []
    for flag in new:
        differing = differing_images(old.get(flag), new[flag])
        if differing:
            changed.append(f'--{flag} {options[flag]}' + list_images(differing, new[flag]))
    if not changed:
        return
    message = (f'{" and ".join(changed)} {"is" if len(changed) == 1 else "are"} not what the run of {infos_path} '
               'was trained with')
    if in_place:
        raise DataError(f'{message}\ngive what it was trained with, or go on with these data as another run: '
                        '--checkpoint_path ANOTHER_FOLDER')
    note(f'note: {message}')


def note_other_features(corpus: Any, infos: Mapping[str, Any], infos_path: str) -> None:
    """Warn where the features, boxes or grid vectors of a `Corpus` are not those that the run of the file
    `infos_path` was trained with, by its record: of the images in it, up to `COMPARED` are read.

    Nothing is known where the run has no record, or none of its images is there; features that were rounded for a
    packed file cannot be compared.
    """
    recorded = section(infos.get('account'), 'data')
    for flag, reader in corpus.regions.readers_by_flag().items():
        known = recorded.get(flag)
        if not isinstance(known, dict) or getattr(reader, 'dtype', np.float32) == np.float16:
            continue
        there = reader.ids()
        sample = [image for image in known if image in there][:COMPARED]
        sizes = corpus.regions.sizes if flag == 'input_box_dir' else {}
        now = {image: array_digest(reader, int(image), sizes.get(image, ())) for image in sample if image.isdecimal()}
        differing = [image for image, value in now.items() if value not in (None, known[image])]
        if differing:
            more = ', ...' if len(differing) > 3 else ''
            note(f'warning: --{flag} {getattr(corpus.sources, flag)} is not what the run of {infos_path} was trained '
                 f'with ({len(differing)} of {len(now)} images compared: {", ".join(differing[:3])}{more}), so '
                 'captions may be poor')


def differing_images(old: Any, new: Any) -> list[str | None]:
    """What differs between two digests of one thing: a list, of image ids where it has images."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [image for image in new if old.get(image, new[image]) != new[image]]
    return [None] if isinstance(old, str) and isinstance(new, str) and old != new else []


def list_images(differing: list[str | None], sampled: Mapping[str, str]) -> str:
    """Which of the sampled images differ, for a message."""
    if differing == [None]:
        return ''
    more = ', ...' if len(differing) > 3 else ''
    return (f' ({len(differing)} of {len(sampled)} images compared: '
            f'{", ".join(map(str, differing[:3]))}{more})')


def note_changes(before: Record, record: Record, old_options: Mapping[str, Any], options: Mapping[str, Any],
                 course: Iterable[str]) -> None:
    """Note in one line which of the options `course` differ from those of the run that is resumed, and in another
    which versions and machine do.  `options` and `old_options`: {name: value}."""
    plain = (str, int, float, type(None))
    changed = {name: (old_options[name], options[name]) for name in course
               if name in old_options and isinstance(old_options[name], plain)
               and old_options[name] != options[name]}
    if changed:
        note(f'note: changed since the last start: {list_changes(changed)}')
    was, now = environment(before), environment(record)
    changed = {name: (was[name], now[name]) for name in now if name in was and was[name] != now[name]}
    if changed:
        note(f'note: changed since the last start, so the last digits may differ: {list_changes(changed)}')


def list_changes(changed: Mapping[str, tuple[Any, Any]]) -> str:
    """{name: (old value, new value)} in words."""
    def show(value: Any) -> str:
        return str(int(value) if isinstance(value, bool) else value)[:60]
    return ', '.join(f'{name} {show(new)} (was {show(old)})' for name, (old, new) in changed.items())


def environment(record: Any) -> dict[str, str]:
    """{name: text} of the versions, the commit and the machine of a record, as far as it has them."""
    found = {**section(record, 'versions'), **section(record, 'machine')}
    commit = section(record, 'code').get('commit')
    if commit:
        found['commit'] = commit
    return {name: str(value) for name, value in found.items()}


def section(record: Any, name: str) -> dict[str, Any]:
    """A section of a record that may come from anywhere: always a dict."""
    part = record.get(name) if isinstance(record, dict) else None
    return part if isinstance(part, dict) else {}


def write_start(folder: str, identity: str, record: Record, options: Mapping[str, Any], iteration: int,
                start_from: str | None = None) -> None:
    """Write `run.json` of the run of this `identity` in `folder`, which starts at `iteration` with `options`: this
    start comes after those recorded in `start_from`, the folder of the run it resumes."""
    start = {RUN: identity, 'time': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
             'iteration': iteration, **{name: part for name, part in record.items() if name != 'data'},
             'options': dict(sorted(options.items()))}
    write_json(os.path.join(folder, RUN_FILE),
               {'starts': [*earlier_starts(start_from), start], 'data': record['data']}, indent=1, default=str)


def earlier_starts(folder: str | None) -> list[Any]:
    """The starts in the `run.json` of a folder; none if there is no such file, or it cannot be read."""
    if folder is None:
        return []
    starts = read_starts(folder)
    if starts is None:
        note(f'note: {os.path.join(folder, RUN_FILE)} cannot be read; its list of starts begins again')
        return []
    return starts


def read_starts(folder: str) -> list[Any] | None:
    """The starts in the `run.json` of a folder: none if there is no such file, None if it cannot be read."""
    try:
        with open_regular(os.path.join(folder, RUN_FILE), 'r', encoding='utf-8') as file:
            starts = json.load(file)['starts']
    except FileNotFoundError:
        return []
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return starts if isinstance(starts, list) else None


def began_at(folder: str) -> int:
    """The iteration at which the run in `folder` began: 0, or that of the other run which it went on from, if the
    starts of that one are known."""
    starts = list(reversed(read_starts(folder) or []))
    for later, earlier in itertools.pairwise(starts):
        if not is_same_run(earlier, later):
            iteration = later.get('iteration') if isinstance(later, dict) else None
            return iteration if isinstance(iteration, int) else 0
    return 0


def is_same_run(one: Any, other: Any) -> bool:
    """Whether two starts are of the same run; of those that do not record its identity, the id is compared."""
    identities = [start.get(RUN) for start in (one, other) if isinstance(start, dict)]
    if None in identities or len(identities) < 2:
        return section(one, 'options').get('id') == section(other, 'options').get('id')
    return identities[0] == identities[1]
