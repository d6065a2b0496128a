"""Earlier checkpoints of a run, each in a folder `iteration_N` in that of the run.

Such a folder holds what the run's own held then, so it can be evaluated, and resumed from into another folder.  Its
files are hard links where the file system has them: the newest costs no room, and nothing is written twice.
"""

import os
import re
import shutil
from collections.abc import Sequence

from misc.cli import note
from misc.disk.files import TEMPORARY

KEPT = re.compile(r'iteration_([0-9]{1,16})')


def keep_files(folder: str, names: Sequence[str], iteration: int, count: int) -> None:
    """Keep the files `names` of the checkpoint of `iteration` as they are now, and of those kept before the newest
    `count` - 1.  A failure is reported, and training goes on: the checkpoint itself is complete."""
    place = os.path.join(folder, f'iteration_{iteration}')
    part = place + TEMPORARY
    try:
        for name in os.listdir(folder):  # what a killed run left
            if name.endswith(TEMPORARY) and KEPT.fullmatch(name.removesuffix(TEMPORARY)):
                shutil.rmtree(os.path.join(folder, name))
        os.mkdir(part)
        for name in names:
            link_or_copy(os.path.join(folder, name), os.path.join(part, name))
        if os.path.isdir(place):  # of a run that was killed after it, and came here again
            shutil.rmtree(place)
        os.rename(part, place)
        for earlier in kept_iterations(folder, before=iteration)[:-count + 1 or None]:
            shutil.rmtree(os.path.join(folder, f'iteration_{earlier}'))
    except OSError as error:
        note(f'warning: the checkpoint of iteration {iteration} is not kept in {place} ({error.strerror or error}); '
             'training goes on')


def kept_iterations(folder: str, before: int) -> list[int]:
    """The iterations, in order, of the checkpoints that are kept in `folder`, up to `before`, which is left out."""
    found = (KEPT.fullmatch(entry.name) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))
    return sorted(iteration for iteration in (int(one[1]) for one in found if one) if iteration < before)


def link_or_copy(source: str, target: str) -> None:
    """Make `target` a hard link to the file `source`, or a copy where there are none.  A checkpoint's files are
    replaced, never changed, so the link keeps what they hold now."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
