"""Pictures to find regions in: those of a folder, a single one, or those that a split file lists.

Pictures of one's own have no ids.  Where all have names as COCO's have (COCO_val2014_000000391895.jpg) it
is the number in the name, else they are counted from 1 in the order of their names; `OUT_images.json` says
which is which, and keeps their numbers when others come.
"""

import hashlib
import os
import re
from functools import partial

from misc.cli import DataError, UsageError, note, progress
from misc.dataset.karpathy import read_images
from misc.disk.files import read_json, write_json
from misc.pictures.images import read_upright
from misc.prepare.made import Sample, digest

# By these endings a file is taken for a picture; what else lies in a folder of pictures is passed over.
ENDINGS = ('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.gif', '.bmp', '.webp', '.tif', '.tiff', '.avif', '.jp2',
           '.ppm', '.pgm', '.pnm')
COCO_NAME = re.compile(r'(COCO_\w+_)?(\d{12})\.\w+')
TEST_SPLIT = re.compile(r'(?:test|val|train)20\d\d')


class OwnPictures:
    """The pictures of a folder and the folders in it, or a single one.

    root     the folder that file names are relative to
    files    {id: file name}, ids whole numbers, in the order of the names or of the ids that were given
    paths    {id as a string: path}
    wanted   how many there should be: more than there are, where COCO's list has more
    """

    def __init__(self, place, base, broken, coco_json=None, most=None):
        """place: the folder or file; base: what the names of the regions' folders begin with.  `coco_json`
        names COCO's list of images, whose ids count; `most` takes only so many.  Raises `DataError`."""
        self.root, names = list_pictures(place)
        self.listing = f'{base}_images.json'
        known = self._known()
        by_name = {entry['file']: image_id for image_id, entry in known.items()}
        if coco_json:
            self.files, self.wanted = listed_ids(coco_json, names, place, broken)
        else:
            self.files = {number: name for name, number in numbered(names, by_name).items()}
            self.wanted = len(names)
        if most is not None:
            self.files = dict(list(self.files.items())[:most])
        self.paths = {str(number): os.path.join(self.root, name) for number, name in self.files.items()}
        self._check(known, by_name, names)
        self.listed = known

    def changed(self):
        """The ids (as strings) of pictures that have another content than when their regions were found.  Only
        files that are others by the looks of it (see `looks_of`) are read."""
        changed, looks = [], {number: looks_of(self.paths[str(number)]) for number in self.files}
        anew = [number for number in self.files
                if number not in self.listed or self.listed[number].get('looks') != looks[number]]
        for number in progress(anew, 'contents'):
            content = digest_of(self.paths[str(number)])
            if number in self.listed and self.listed[number].get('content') != content:
                changed.append(str(number))
            self.listed[number] = {'file': self.files[number], 'looks': looks[number], 'content': content}
        if changed:
            note(f'note: {len(changed)} pictures are not what they were; their regions are found anew')
        return changed

    def _known(self):
        """{id: {'file', 'looks', 'content'}} of earlier runs."""
        if not os.path.exists(self.listing):
            return {}
        content = read_json(self.listing, 'scripts/extract_regions.py')
        try:
            names = [entry['file'] for entry in content.values()]
            if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
                raise TypeError('file names that are no texts, or one twice')
            return {int(number): entry for number, entry in content.items()}
        except (AttributeError, LookupError, TypeError, ValueError):
            raise DataError(f'{self.listing} does not say which picture is which; remove it and the folders '
                            'beside it, and run the command again') from None

    def _check(self, known, by_name, names):
        """Refuse regions of other pictures."""
        if known and not set(by_name) & set(names):
            raise UsageError(f'{self.listing} lists other pictures ({next(iter(by_name))} …) than those of '
                             f'{self.root}; name another place for the regions')
        for number, name in self.files.items():
            if number in known and known[number]['file'] != name or by_name.get(name, number) != number:
                other = known[number]['file'] if number in known else name
                raise UsageError(f'{self.listing} has {other} as {by_name[other]}, now {name} would be {number}; '
                                 'name another place for the regions')

    def inputs(self, _):
        """What misc/prepare/made.py should hold against earlier runs: nothing, `changed` says more."""
        return {}

    def save(self):
        """Write which picture is which."""
        write_json(self.listing, self.listed, indent=1)

    def corpus(self, ids, sizes, vocabulary):
        """What prepro_labels.py would write of the pictures `ids` (as strings), without captions: all in the
        split 'test'.  sizes: {id as a string: (width, height)}; vocabulary: {index as text: word}."""
        return {'ix_to_word': vocabulary, 'images': [
            {'id': number, 'split': 'test', 'file_path': name, 'width': sizes[str(number)][0],
             'height': sizes[str(number)][1]}
            for number, name in self.files.items() if str(number) in ids]}


class ListedPictures:
    """The images that a split file of Karpathy's lists, under the folder that holds train2014/ and val2014/."""

    def __init__(self, input_json, root, broken):
        """Broken records go to `broken`.  Raises `DataError`, `UsageError`."""
        if not os.path.isdir(root):
            raise UsageError(f'--images_root: there is no folder {root}')
        self.paths = {}
        for image in read_images(input_json, broken, captions=False):
            if image['file_path']:
                self.paths[str(image['id'])] = os.path.join(root, image['file_path'])
            else:
                broken.add(f'{input_json}: image {image["id"]} has no filename')
        if not any(map(os.path.exists, self.paths.values())):
            example = next(iter(self.paths.values()), 'val2014/….jpg')
            raise DataError(f'--images_root: {root} holds none of the images of {input_json}, such as {example};\n'
                            'name the folder that holds train2014/ and val2014/')

    def inputs(self, longest):
        """What misc/prepare/made.py should hold against earlier runs: some of the images."""
        return {'images_root': Sample(self.paths, partial(describe, self.paths, longest))}

    def changed(self):
        """None that is known: `inputs` says whether they are others."""
        return []

    def save(self):
        """Their ids are in the split file."""


def describe(paths, longest, image_id):
    """What the record of what was made says about one image; None for an unreadable one."""
    try:
        read_upright(paths[image_id], longest)
        with open(paths[image_id], 'rb') as file:
            return {'pixels': digest(file.read())}
    except (KeyError, DataError, OSError):
        return None


def looks_of(path):
    """By what a file is the one that it was, without being read: of any other one, also of an equal copy, the
    number on its disk or the time of its last change is another.  None where it is gone."""
    try:
        state = os.stat(path)
    except OSError:
        return None
    return [state.st_size, state.st_ino, state.st_mtime_ns, state.st_ctime_ns]


def digest_of(path):
    """A digest of a file's content; None where it cannot be read."""
    try:
        with open(path, 'rb') as file:
            return hashlib.file_digest(file, 'sha256').hexdigest()[:24]
    except OSError:
        return None


def list_pictures(place):
    """(folder, [file names relative to it]) of the pictures in a folder and the folders in it, sorted; or of a
    single file.  Raises `UsageError` where there is no such place, `DataError` where it holds no picture."""
    if os.path.isfile(place):
        return os.path.dirname(place) or '.', [os.path.basename(place)]
    if not os.path.isdir(place):
        raise UsageError(f'there is no folder or file {place}')
    names, others = [], 0
    for folder, inner, files in os.walk(place):
        inner[:] = [name for name in inner if not name.startswith('.')]
        for name in files:
            if name.startswith('.'):
                continue
            if name.lower().endswith(ENDINGS):
                names.append(os.path.relpath(os.path.join(folder, name), place).replace(os.sep, '/'))
            else:
                others += 1
    if not names:
        raise DataError(f'{place} holds no pictures (files that end in {", ".join(ENDINGS[:5])}, …)'
                        + (f', only {others} other files' if others else ''))
    if others:
        note(f'note: {others} files of {place} are no pictures by their names; they are passed over')
    return place, sorted(names)


def numbered(names, known):
    """{file name: id} of pictures: the numbers in COCO's names where all have one, else from 1.  `known`, the
    same of earlier runs, stays."""
    numbers = {name: int(match.group(2)) for name in names
               if (match := COCO_NAME.fullmatch(os.path.basename(name)))}
    agrees = all(numbers.get(name, number) == number for name, number in known.items())
    taken = [number for name, number in known.items() if name not in numbers]
    if len({*numbers.values(), *taken}) == len(names) + len(taken) and agrees:
        return numbers
    found = {name: known[name] for name in names if name in known}
    free = max(known.values(), default=0) + 1
    for name in names:
        if name not in found:
            found[name], free = free, free + 1
    return found


def listed_ids(coco_json, names, place, broken):
    """({id: file name} of the pictures `names` of a folder that COCO's list of images has, in its order, how
    many it has).
    Those that the folder lacks go to `broken`.  Raises `DataError`."""
    content = read_json(coco_json, 'the lists of COCO\'s images, https://cocodataset.org/#download')
    try:
        wanted = {image['file_name']: image['id'] for image in content['images']}
        if not wanted or not all(type(number) is int for number in wanted.values()):
            raise TypeError('no images with whole numbers as ids')
        if not all(isinstance(name, str) for name in wanted):
            raise TypeError('a file name that is no text')
        if not len(set(wanted.values())) == len(wanted) == len(content['images']):
            raise TypeError('an id or a file name is there twice')
    except (TypeError, KeyError) as error:
        raise DataError(f'--coco_json: {coco_json} is not a list of COCO\'s images ({error!r}); it needs '
                        '"images" with id and file_name each') from None
    there = {}
    for name in names:
        there.setdefault(os.path.basename(name), name)
    files = {number: there[name] for name, number in wanted.items() if name in there}
    if not files:
        raise DataError(f'--image_folder: {place} holds none of the {len(wanted)} images of {coco_json}, such as '
                        f'{next(iter(wanted))}')
    for name in wanted:
        if name not in there:
            broken.add(f'{os.path.join(place, name)}: there is no such file, but {coco_json} lists it')
    if len(there) > len(files):
        note(f'note: {len(there) - len(files)} pictures of {place} are not in {coco_json}; they are left out')
    return files, len(wanted)


def listed_name(coco_json):
    """What the images that `coco_json` lists are called: test2014 and the like, else as the file is."""
    split = TEST_SPLIT.search(os.path.basename(coco_json))
    return split.group() if split else os.path.splitext(os.path.basename(coco_json))[0]


def results_path(coco_json, run_id):
    """The name under which COCO's server takes the captions of a run of the images in `coco_json`, in vis/."""
    return os.path.join('vis', f'captions_{listed_name(coco_json)}_{run_id}_results.json')
