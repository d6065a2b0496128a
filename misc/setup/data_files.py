"""Findings about the data files of a folder, in the order in which they are made."""

import os
import shlex
from collections import Counter
from collections.abc import Iterator
from typing import Any

from misc import commands
from misc.cli import DataError
from misc.dataset.archive import find_archive
from misc.dataset.array_files import FolderReader
from misc.dataset.foreign import import_command
from misc.dataset.forms import form_of
from misc.dataset.grids import image_sizes
from misc.dataset.karpathy import SOURCE
from misc.dataset.labels import Labels, labels_file_problem, read_labels_file
from misc.dataset.packed import PackedReader, kinds_in
from misc.dataset.pairing import check_pair
from misc.setup.findings import MISSING, PARTLY, THERE, Finding, lacking


class DataFiles:
    """The data files in `folder`, named as in the README.  Folders are listed; of the files in them none is read."""

    def __init__(self, folder: str, image_root: str | None = None) -> None:
        """image_root: the folder that holds train2014/ and val2014/; without it images are not counted."""
        self.folder, self.image_root = folder, image_root
        self.images: list[dict[str, Any]] = []   # of cocotalk.json
        self.ids: set[str] = set()
        self.vocabulary: dict[str, str] = {}

    def findings(self) -> Iterator[Finding]:
        """All findings."""
        labels = [self._vocabulary(), self._captions()]   # first, since they say which images count
        regions = list(self._regions())
        yield from self._sources(labels, regions)
        yield from labels
        yield self._file('coco-train-idxs.p', self._command(commands.NGRAMS), True, 'for self-critical training')
        yield from regions
        if self.image_root:
            yield self._pictures(self.image_root)

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def _command(self, text: str) -> str:
        """A command of the README with this data folder and image root in place of data/ and IMAGE_ROOT."""
        if self.folder != 'data':
            text = text.replace(' data/', f' {shlex.quote(self.folder)}/')
            if 'make_bu_data.py' in text:   # its input has a default
                text += f' --downloaded_feats {shlex.quote(self._path("bu_data"))}'
        return text.replace('IMAGE_ROOT', shlex.quote(self.image_root)) if self.image_root else text

    def _file(self, name: str, remedy: str, needed: bool, use: str) -> Finding:
        """A file that is not opened; `use` says what it is for."""
        path = self._path(name)
        if os.path.isfile(path):
            return Finding(THERE, name, f'{os.path.getsize(path) / 1e6:.1f} MB')
        return Finding(MISSING, name, use, remedy, needed)

    def _sources(self, labels: list[Finding], regions: list[Finding]) -> Iterator[Finding]:
        """The files that come from elsewhere, needed until what is made from them is complete."""
        yield self._file('dataset_coco.json', f'by {SOURCE} into {self.folder}/\n'
                         'without it: bash scripts/demo.sh makes data of its own, in data/demo',
                         lacking(labels), "Karpathy's splits and captions")
        archive = self._path('bu_data')
        try:
            paths = find_archive(archive)
            size = sum(map(os.path.getsize, paths))
            yield Finding(THERE, 'bu_data', f'{len(paths)} TSV files, {size / 1e9:.2f} GB')
        except DataError:
            yield Finding(MISSING, 'bu_data', 'the bottom-up-attention archive',
                          f'unpack the archive into {archive}, so that it holds trainval/ '
                          '(data/README.md says where to get it)\n'
                          'without it, features of another origin: ' + self._command(commands.REGIONS_OF_COCO),
                          lacking(regions))

    def _vocabulary(self) -> Finding:
        """cocotalk.json: the vocabulary and the images."""
        name, command = 'cocotalk.json', self._command(commands.LABELS)
        if not os.path.exists(self._path(name)):
            return Finding(MISSING, name, 'vocabulary and images', command, needed=True)
        try:
            info = read_labels_file(self._path(name), command)
            problem = labels_file_problem(info)
        except DataError:
            problem = 'it is not a whole JSON file'
        if problem:
            return Finding(PARTLY, name, f'broken: {problem}', command, needed=True)
        self.images, self.vocabulary = info['images'], info['ix_to_word']
        self.ids = {str(image['id']) for image in self.images}
        splits = Counter(image['split'] for image in self.images)
        counts = ', '.join(f'{split} {count:,}' for split, count in splits.items())
        return Finding(THERE, name, f'{len(self.images):,} images ({counts}), {len(self.vocabulary):,} words')

    def _captions(self) -> Finding:
        """cocotalk_label.h5: the captions as word indices."""
        name, command = 'cocotalk_label.h5', self._command(commands.LABELS)
        path = self._path(name)
        if not os.path.exists(path) or not self.images:
            return self._file(name, command, True, 'captions')
        try:
            labels = Labels(path, len(self.images), len(self.vocabulary))
            check_pair(labels, self.images, self.vocabulary, self._path('cocotalk.json'))
        except DataError as error:
            problem = str(error).split(';')[0].removeprefix(f'--input_label_h5: {path} ')
            return Finding(PARTLY, name, problem, command, needed=True)
        return Finding(THERE, name, f'{len(labels.labels):,} captions of up to {labels.longest} words')

    def _regions(self) -> Iterator[Finding]:
        """Features and positions of the regions: a file per image, or one packed file."""
        features, areas = self._command(commands.FEATURES), self._command(commands.AREAS.format(cells=144))
        packed = self._packed_ids()
        boxes, grids = self._listed('cocobu_box', 'box'), self._listed('cocobu_box_vec', 'grid')
        has_places = 'box' in packed or self._is_whole(grids)
        yield self._coverage('cocobu_att', self._listed('cocobu_att', 'att'), features, 'att' not in packed,
                             'features')
        yield self._coverage('cocobu_box', boxes, features, not has_places, 'boxes')
        yield self._coverage('image sizes', self._sized(self._path('cocobu_box')), features,
                             self._is_whole(boxes) and not has_places, 'cocobu_box_sizes.json, for boxes')
        yield self._coverage('cocobu_box_vec', grids, areas, not has_places and not self._is_whole(boxes),
                             'grid vectors; without them they are computed from boxes while training')
        yield self._coverage('cocobu_fc', self._listed('cocobu_fc', 'fc'), features, False,
                             'mean features, for recurrent models; without them they are computed')
        yield self._coverage('cocobu_box_relative', self._listed('cocobu_box_relative', 'rel'),
                             self._command(commands.RELATIVE), False,
                             'relative boxes; without them they are computed from boxes')
        yield self._packed(packed)

    def _listed(self, name: str, kind: str) -> set[str] | None:
        """The ids of the images whose array is in a folder; None without the folder."""
        return FolderReader(self._path(name), kind).ids() if os.path.isdir(self._path(name)) else None

    def _is_whole(self, ids: set[str] | None) -> bool:
        """Whether there are any `ids`, and those of all images of cocotalk.json."""
        return self.ids <= ids if ids else False

    def _coverage(self, name: str, ids: set[str] | None, remedy: str, needed: bool, use: str) -> Finding:
        """How many of the images `ids` cover (None: nothing is there)."""
        form = form_of(self._path(name), 'att' if name == 'cocobu_att' else 'box')
        if form:
            return Finding(PARTLY, name, form, import_command(self._path(name)), needed)
        if not ids:
            return Finding(MISSING, name, use, remedy, needed)
        if not self.ids:
            return Finding(THERE, name, f'{len(ids):,} images')
        whole = self._is_whole(ids)
        return Finding(THERE if whole else PARTLY, name, f'{len(ids & self.ids):,} of {len(self.ids):,} images',
                       '' if whole else remedy, needed and not whole)

    def _sized(self, boxes: str) -> set[str]:
        """The ids of the images whose size is beside or in `boxes`, or in cocotalk.json."""
        try:
            return set(image_sizes(boxes, {'images': self.images}))
        except DataError:
            return set()

    def _packed_ids(self) -> dict[str, set[str]]:
        """{kind: ids} of the arrays that cocobu.h5 holds for every image, boxes only with the sizes of images."""
        path = self._path('cocobu.h5')
        if not os.path.isfile(path):
            return {}
        try:
            found = {kind: PackedReader(path, kind, 'data').ids() for kind in kinds_in(path)}
        except DataError:
            return {}
        if 'box' in found:
            found['box'] &= self._sized(path)
        return {kind: ids for kind, ids in found.items() if self._is_whole(ids)}

    def _packed(self, packed: dict[str, set[str]]) -> Finding:
        """The packed file, which replaces the folders of the kinds in `packed`."""
        path, command = self._path('cocobu.h5'), self._command(commands.PACK)
        if packed:
            count = min(len(ids & self.ids if self.ids else ids) for ids in packed.values())
            return Finding(THERE, 'cocobu.h5', f'{", ".join(packed)} of {count:,} images, '
                           f'{os.path.getsize(path) / 1e9:.2f} GB')
        if os.path.isfile(path):
            return Finding(PARTLY, 'cocobu.h5', 'lacks images, or is not a packed file', command)
        return Finding(MISSING, 'cocobu.h5', 'replaces cocobu_att and cocobu_box, faster to read', command)

    def _pictures(self, root: str) -> Finding:
        """The image files under `root`, by listing its folders."""
        wanted = [os.path.split(image['file_path'])
                  for image in self.images if isinstance(image.get('file_path'), str)]
        available = {folder: names_in(os.path.join(root, folder)) for folder in {folder for folder, _ in wanted}}
        count = sum(name in available[folder] for folder, name in wanted)
        detail = f'{count:,} of {len(wanted):,} in {root}' if wanted else 'no image is known yet'
        if 0 < len(wanted) == count:
            return Finding(THERE, 'images', detail)
        return Finding(PARTLY if count else MISSING, 'images', detail,
                       'COCO 2014, train2014/ and val2014/ side by side: https://cocodataset.org')


def names_in(folder: str) -> set[str]:
    """The names in a folder, none where there is no folder."""
    return set(os.listdir(folder)) if os.path.isdir(folder) else set()
