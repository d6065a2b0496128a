"""Where a run comes from: what it was started with, again and again, and which data it is of.

An account is a dict of plain values.  Infos files hold, as `account`, that of the last start; `run.json`
in the run's folder, for people to read, has a list `starts` of them all, each with its time, iteration and
options, and the `data` of the last one.

===========  ====================================================================================
`versions`   {name: version} of Python and the libraries that decide bits, None of what is not there
`code`       {'commit', 'changed'}: of this project, and whether files of it differed from that commit;
             None without git
`machine`    {'device', 'threads', 'processes'}
`data`       {flag: digest}: see `digests_of`
===========  ====================================================================================
"""

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import zlib

import numpy as np
import torch

from misc import parallel
from misc.cli import DataError, note
from misc.disk.files import write_json

RUN_FILE = 'run.json'
PROJECT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LIBRARIES = ('torch', 'numpy', 'h5py')
SAMPLE = 100  # images whose arrays are looked at


def account_of(corpus, rows, device, table=None):
    """The account of a run on the images `rows` of a `Corpus`, rewarded by the file `table`, if by any."""
    return {'versions': versions(), 'code': code_state(),
            'machine': {'device': device_name(device), 'threads': torch.get_num_threads(),
                        'processes': parallel.count()},
            'data': digests_of(corpus, rows, table)}


def versions():
    """{name: version} of Python and the libraries."""
    found = {'python': platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def code_state(project=PROJECT):
    """{'commit': of the project, 'changed': whether files that git follows differ from it}, or None."""
    # Asked within a larger repository, git would tell of that one.
    if not os.path.exists(os.path.join(project, '.git')):
        return None
    command = ['git', '--no-optional-locks', '-C', project, 'status', '--porcelain=v2', '--branch',
               '--untracked-files=no']
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    commit = next((line.split()[-1] for line in lines if line.startswith('# branch.oid ')), '(initial)')
    if commit == '(initial)':  # nothing was committed
        return None
    return {'commit': commit, 'changed': any(not line.startswith('#') for line in lines)}


def device_name(device):
    """A device, and which it is."""
    return f'{device.type} ({torch.cuda.get_device_name(device)})' if device.type == 'cuda' else device.type


def digests_of(corpus, rows, table=None):
    """{flag: digest} of the data: of what they hold, whatever the time, place and kind of their files.

    Of labels, vocabulary, splits and captions, all of it.  Of features, boxes and grid vectors, {image id:
    digest} of up to 100 of the images `rows`, always the same ones, and the same for a folder and for a
    packed file of float32: so the cost does not grow with the data.  With 120,000 images, where one in
    20 is another, that is seen 99 times out of 100; where a single one is, it is not.
    """
    captioned = [[image['id'], image['split'], image.get('captions')] for image in corpus.images]
    words = json.dumps([corpus.vocabulary, captioned], sort_keys=True)
    labels = corpus.labels
    found = {'input_json': digest(words.encode()),
             'input_label_h5': digest(*(array.astype('<u4') for array in (
                 labels.labels, labels.start, labels.end)))}
    sample = sorted((corpus.ids[row] for row in rows), key=lambda image: zlib.crc32(str(image).encode()))[:SAMPLE]
    for flag, reader in corpus.regions.readers_by_flag().items():
        sizes = corpus.regions.sizes if flag == 'input_box_dir' else {}
        arrays = {str(image): array_digest(reader, image, sizes.get(str(image), ())) for image in sample}
        found[flag] = {image: value for image, value in arrays.items() if value}
    if table is not None:
        with open(table, 'rb') as file:
            found['cached_tokens'] = hashlib.file_digest(file, 'sha256').hexdigest()[:24]
    return found


def array_digest(source, image_id, size):
    """The digest of an image's array in `source`, and of its size; None where it cannot be read: that is
    told when its turn to be trained on comes."""
    try:
        array = source.read(image_id)
    except (DataError, OSError):
        return None
    # A map of cells is the list of its cells, and a mean a single region.
    width = array.shape[-1] if array.ndim else 1
    return digest(array.reshape(array.size // max(width, 1), width), np.array(size, '<f8'))[:12]


def digest(*parts):
    """A digest of bytes and of arrays with their shapes."""
    seen = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            seen.update(str(part.shape).encode())
            part = np.ascontiguousarray(part.astype(part.dtype.newbyteorder('<'), copy=False))
        seen.update(part)
    return seen.hexdigest()[:24]


def check_data(before, account, options, infos_path, stays):
    """Hold the data of an `account` against those of the account `before`, which `infos_path` has.

    Where they differ, a run that `stays` in its folder is refused with a `DataError`; one that goes on in a
    folder of its own is another run, and a note says on what.  Data that one of the accounts lacks pass.
    """
    old, new, changed = part_of(before, 'data'), account['data'], []
    for flag in new:
        differing = differing_images(old.get(flag), new[flag])
        if differing:
            changed.append(f'--{flag} {options[flag]}' + told_images(differing, new[flag]))
    if not changed:
        return
    said = f'{" and ".join(changed)} {"is" if len(changed) == 1 else "are"} not what the run of {infos_path} ' \
           'was trained with'
    if stays:
        raise DataError(f'{said}\ngive what it was trained with, or go on with these data as another run: '
                        '--checkpoint_path ANOTHER_FOLDER')
    note(f'note: {said}')


def differing_images(old, new):
    """What differs between two digests of one thing: a list, of image ids where it has images."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [image for image in new if old.get(image, new[image]) != new[image]]
    return [None] if isinstance(old, str) and isinstance(new, str) and old != new else []


def told_images(differing, sampled):
    """Which of the images that were looked at differ, for a message."""
    if differing == [None]:
        return ''
    more = ', ...' if len(differing) > 3 else ''
    return (f' ({len(differing)} of {len(sampled)} images that were looked at: '
            f'{", ".join(differing[:3])}{more})')


def note_changes(before, account, old_options, options, course):
    """Say in a line which of the options `course` a run goes on with are others than before, and in another
    which versions and machine are.  `options` and `old_options`: {name: value}."""
    plain = (str, int, float, type(None))
    changed = {name: (old_options[name], options[name]) for name in course
               if name in old_options and isinstance(old_options[name], plain)
               and old_options[name] != options[name]}
    if changed:
        note(f'note: not as before: {told_changes(changed)}')
    was, now = surroundings(before), surroundings(account)
    changed = {name: (was[name], now[name]) for name in now if name in was and was[name] != now[name]}
    if changed:
        note(f'note: not as before, so the last digits may differ: {told_changes(changed)}')


def told_changes(changed):
    """{name: (old value, new value)} in words."""
    def show(value):
        return str(int(value) if isinstance(value, bool) else value)[:60]
    return ', '.join(f'{name} {show(new)} (was {show(old)})' for name, (old, new) in changed.items())


def surroundings(account):
    """{name: text} of the versions, the commit and the machine of an account, as far as it has them."""
    found = {**part_of(account, 'versions'), **part_of(account, 'machine')}
    commit = part_of(account, 'code').get('commit')
    if commit:
        found['commit'] = commit
    return {name: str(value) for name, value in found.items()}


def part_of(account, name):
    """A part of an account that may have been written by anybody: a dict."""
    part = account.get(name) if isinstance(account, dict) else None
    return part if isinstance(part, dict) else {}


def write_start(folder, account, options, iteration, start_from=None):
    """Write `run.json` of the run in `folder`, which starts at `iteration` with `options` (a dict): after
    the earlier starts that `start_from`, the folder it goes on from, tells of."""
    start = {'time': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
             'iteration': iteration, **{name: part for name, part in account.items() if name != 'data'},
             'options': dict(sorted(options.items()))}
    write_json(os.path.join(folder, RUN_FILE),
               {'starts': [*earlier_starts(start_from), start], 'data': account['data']}, indent=1, default=str)


def earlier_starts(folder):
    """The starts in the `run.json` of a folder; none where there is no such file, or nobody can read it."""
    if folder is None:
        return []
    try:
        with open(os.path.join(folder, RUN_FILE), encoding='utf-8') as file:
            starts = json.load(file)['starts']
    except FileNotFoundError:
        return []
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        starts = None
    if not isinstance(starts, list):
        note(f'note: {os.path.join(folder, RUN_FILE)} cannot be read; its list of starts begins anew')
        return []
    return starts
