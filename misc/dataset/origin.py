"""Where the features of scripts/extract_regions.py come from: which picture each is of, and the command.

`OUT_images.json` ({id: {"file": name}}) beside `OUT_att/`, `OUT_fc/` and `OUT_box/` says which picture each id is;
`FILE_images.json` says it of a packed FILE.
"""

import os
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from misc import commands
from misc.cli import DataError
from misc.dataset.networks import DEFAULT_NETWORK
from misc.dataset.recipe import DEFAULTS, SETTINGS, networks_of, read_recipe, seed_of
from misc.disk.files import read_json

ENDS = ('_att', '_fc', '_box')   # of the names of the folders


def base_of(features: str | os.PathLike) -> str:
    """The --output_dir of a folder (or packed file) of features or boxes."""
    path = os.fspath(features).rstrip('/')
    if os.path.splitext(path)[1] in ('.h5', '.hdf5') or os.path.isfile(path):
        return os.path.splitext(path)[0]
    return next((path[:-len(end)] for end in ENDS if path.endswith(end)), path)


def pictures_path(features: str | os.PathLike) -> str:
    """Where it is recorded which pictures the features in a folder (or packed file) are of."""
    return f'{features if os.path.isfile(features) else base_of(features)}_images.json'


def read_pictures(features: str | os.PathLike) -> dict[int, str]:
    """{id: file name} of the pictures of features; empty where that is not recorded.

    A file of that name in another form (a list of images for --images_json, say) records nothing.  Raises
    `DataError` for one that is not JSON.
    """
    path = pictures_path(features)
    content = read_json(path, 'scripts/extract_regions.py') if os.path.isfile(path) else {}
    if not (isinstance(content, dict) and all(
            number.isdecimal() and isinstance(entry, dict) and isinstance(entry.get('file'), str)
            for number, entry in content.items())):
        return {}
    return {int(number): entry['file'] for number, entry in content.items()}


def check_pictures(images: Iterable[Mapping[str, Any]], features: str | os.PathLike, input_json: str) -> None:
    """Raise `DataError` where features are recorded as those of other pictures than the `images` of the same ids.

    images: the entries of `input_json`.  Ids that only one of the two has, and images without a file name, are not
    compared.
    """
    recorded = read_pictures(features)
    # A list of ids alone has them as names.
    named = {image['id']: image['file_path'] for image in images
             if image['id'] in recorded and image.get('file_path') not in (None, '', str(image['id']))}
    others = given_to_others(named, recorded)
    if others:
        raise DataError(
            f'{len(others)} of {len(named)} images have the features of other pictures: image {others[0]} is '
            f'{named[others[0]]} in {input_json}, and {recorded[others[0]]} in {pictures_path(features)};\nextract '
            f'them with the ids of the split file that {input_json} was made of, here DATASET.json'
            f'{" (and pack them again)" if os.path.isfile(features) else ""}:\n'
            f'{regions_command(features)}')


def given_to_others(named: Mapping[int, str], recorded: Mapping[int, str]) -> list[int]:
    """The ids that are those of one file in `named`, {id: file name}, and of another in `recorded`.

    The folders of the two may have been moved, so only names count, and folders as far as both have them where
    `recorded` has files of one name in several.
    """
    repeated = {name for name, count in Counter(map(os.path.basename, recorded.values())).items() if count > 1}

    def is_other(one: str, other: str) -> bool:
        parts, others = one.split('/')[::-1], other.split('/')[::-1]
        return parts[0] != others[0] or parts[0] in repeated and any(a != b for a, b in zip(parts, others))

    return [number for number, name in named.items() if number in recorded and is_other(name, recorded[number])]


def regions_command(features: str | os.PathLike) -> str:
    """The command that finds regions as those of `features` were found, with the ids of a split file."""
    return commands.REGIONS_OF_SPLIT.format(output=shlex.quote(base_of(features)), how=_how(features))


def ways_to_make(features: str | os.PathLike | None) -> str:
    """The command, for messages, that makes features, or boxes, as those at a place; in one line both ways where
    nothing there says how they were made."""
    if features and _recipe(features):
        return regions_command(features)
    own = commands.REGIONS_OF_SPLIT.format(output='data/mine', how='--detector grid')
    return f'{commands.FEATURES} (the archive), or {own} (your own pictures)'


def _recipe(features: str | os.PathLike) -> dict[str, Any] | None:
    try:
        return read_recipe(features if os.path.isfile(features) else f'{base_of(features)}_att')
    except DataError:   # a message on something else is being written
        return None


def _how(features: str | os.PathLike) -> str:
    """The flags of a recipe that are not the defaults."""
    recipe = _recipe(features)
    if recipe is None:
        return '--detector grid'
    if 'extractor' in recipe:
        flags = {'extractor': recipe['extractor']}
    else:
        flags = {'detector': recipe['detector']}
        if recipe['cnn_model'] != DEFAULT_NETWORK:
            flags['cnn_model'] = recipe['cnn_model']
        seed = seed_of(networks_of(recipe)[0].weights)
        if seed is not None:
            flags['random_weights'] = seed
    flags.update({name: recipe[name] for name in SETTINGS[recipe['detector']] if recipe[name] != DEFAULTS[name]})
    return ' '.join(f'--{name} {shlex.quote(str(value))}' for name, value in flags.items())
