"""Say what is there and what is missing, from Python to trained runs, and which commands make the rest."""

import importlib.metadata
import itertools
import os
import platform
import shlex
import shutil
import sys
from collections import Counter
from dataclasses import dataclass

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# What needs more than Python itself is imported where it is used: packages may be what is missing.
from misc import commands
from misc.cli import DataError, Parser, UserError, boolean, run_command

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OLDEST_PYTHON = (3, 11)
NEEDED_HERE = ('numpy', 'h5py', 'torch', 'torchvision')    # to look at more than the packages

# How a thing stands: it is there; it is there in part, or broken; it is missing.
THERE, PARTLY, MISSING = 'ok', 'partly', 'missing'
RUNS_SHOWN = 10
BFLOAT16_SINCE = 8    # compute capability of the first CUDA devices whose products take bfloat16


@dataclass
class Finding:
    """One line: how `what` stands.  `detail` tells counts and places, `way_out` what makes it (a command or
    advice; '' where nothing is to be done); `needed`: nothing can be trained without it."""

    state: str
    what: str
    detail: str = ''
    way_out: str = ''
    needed: bool = False

    def line(self):
        """The line to print; what is missing and not needed is told by a dash."""
        mark = '-' if self.state == MISSING and not self.needed else self.state
        return f'  {mark:8}{self.what:22}  {self.detail}'.rstrip()


def required(path):
    """{package: version} of the lines NAME==VERSION of a requirements file."""
    with open(path, encoding='utf-8') as file:
        lines = [line.split('#')[0].strip() for line in file]
    return dict(line.split('==') for line in lines if '==' in line)


def installed(package):
    """The version of an installed package, without what a builder added to it (+cu130), or None."""
    try:
        return importlib.metadata.version(package).split('+')[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def python_findings(requirements):
    """Python and the packages; `requirements` is the path of requirements.txt."""
    new = sys.version_info >= OLDEST_PYTHON
    oldest = '.'.join(map(str, OLDEST_PYTHON))
    yield Finding(THERE if new else PARTLY, 'Python', f'{platform.python_version()}, {sys.executable}',
                  '' if new else f'taking Python {oldest} or newer', needed=True)
    wanted = required(requirements)
    found = {package: installed(package) for package in wanted}
    missing = [package for package in wanted if found[package] is None]
    others = [f'{package} {found[package]} for {wanted[package]}' for package in wanted
              if found[package] not in (None, wanted[package])]
    detail = f'{len(wanted) - len(missing)} of {len(wanted)} of requirements.txt'
    if missing:
        detail += f'; missing: {", ".join(missing)}'
    if others:
        detail += f'; of another version: {", ".join(others)}'
    yield Finding(MISSING if missing else PARTLY if others else THERE, 'packages', detail,
                  commands.INSTALL if missing or others else '', needed=bool(missing))


def scoring_findings():
    """Java and what SPICE needs; all scores but METEOR and SPICE come without."""
    from misc.scoring import java
    from misc.scoring.metrics import SPICE_MODELS, spice_is_installed
    is_there = java.is_installed()
    yield Finding(THERE if is_there else MISSING, 'Java', shutil.which('java') or 'METEOR and SPICE need it',
                  '' if is_there else 'installing a Java runtime, say default-jre')
    notes = []
    try:
        is_there = spice_is_installed(notes)
    except UserError:
        return  # pycocoevalcap itself is missing, which the packages tell
    yield Finding(THERE if is_there else MISSING, "SPICE's models",
                  '' if is_there else f'{len(SPICE_MODELS)} files; SPICE is left out without',
                  ' '.join(notes))


def gpu_findings():
    """CUDA devices, and whether they have bfloat16."""
    import torch
    devices = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    for number, device in enumerate(devices):
        # From its properties alone: to ask torch would put a context on a device that may be in use.
        has_bfloat16 = device.major >= BFLOAT16_SINCE
        yield Finding(THERE, f'GPU cuda:{number}', f'{device.name}, {device.total_memory / 2 ** 30:.0f} GiB, '
                      + ('with bfloat16: --amp bf16' if has_bfloat16 else 'without bfloat16'))
    if not devices:
        yield Finding(MISSING, 'GPU', f'no CUDA device; the {os.cpu_count()} processors do the work')


USES_OF_WEIGHTS = {'resnet101': 'only for features and captions of images of your own',
                   'Faster R-CNN': 'only for regions by --detector fasterrcnn'}


def cnn_findings(folder):
    """Weights of the networks that look at images, in the places where they are looked for."""
    from misc.dataset.networks import DEFAULT_NETWORK, DETECTOR, NAMES
    from misc.pictures.weights import find_file
    for name, what in (*((model, model) for model in NAMES), (DETECTOR, 'Faster R-CNN')):
        try:
            yield Finding(THERE, what, find_file(name, None if folder == 'data' else folder))
        except DataError as error:
            try:    # what torchvision downloaded serves, too
                yield Finding(THERE, what, find_file(name))
            except DataError:
                if name in (DEFAULT_NETWORK, DETECTOR):   # the others are alternatives to it
                    yield Finding(MISSING, what, USES_OF_WEIGHTS[what], str(error))


class DataChain:
    """The files of the data chain in `folder`, told in the order in which they are made."""

    def __init__(self, folder, image_root=None):
        self.folder, self.image_root = folder, image_root
        self.images, self.ids = [], set()  # of the labels file

    def path(self, name):
        """The path of a file or folder of the chain."""
        return os.path.join(self.folder, name)

    def command(self, text):
        """A command of the README, with its data/ and IMAGE_ROOT where they are here."""
        if self.folder != 'data':
            text = text.replace(' data/', f' {shlex.quote(self.folder)}/')
            if 'make_bu_data.py' in text:  # its input has a default
                text += f' --downloaded_feats {shlex.quote(self.path("bu_data"))}'
        return text.replace('IMAGE_ROOT', shlex.quote(self.image_root)) if self.image_root else text

    def findings(self):
        """Everything, line by line."""
        labels = list(self.labels())  # first, since they say which images count; shown second
        regions = list(self.regions())
        yield from self.sources(labels, regions)
        yield from labels
        yield self.table()
        yield from regions
        yield from self.pictures()

    def sources(self, labels, regions):
        """What comes from elsewhere, needed as long as what is made of it is not there."""
        from misc.dataset.karpathy import SOURCE
        from scripts.make_bu_data import find_archive
        path = self.path('dataset_coco.json')
        yield self.one_file('dataset_coco.json', path, f'{SOURCE} into {self.folder}/\n'
                            'without it: bash scripts/demo.sh makes data of its own, in data/demo',
                            lacking(labels), "Karpathy's splits and captions")
        archive = self.path('bu_data')
        try:
            paths = find_archive(archive)
            size = sum(map(os.path.getsize, paths))
            yield Finding(THERE, 'bu_data', f'{len(paths)} TSV files, {size / 1e9:.2f} GB')
        except DataError:
            yield Finding(MISSING, 'bu_data', 'the bottom-up-attention archive',
                          f'unpacking the archive into {archive}, so that it holds trainval/ '
                          '(data/README.md says where to get it)\n'
                          'without it, features of another origin: ' + self.command(commands.REGIONS_OF_COCO),
                          lacking(regions))

    def one_file(self, what, path, way_out, needed=False, detail=''):
        """A file that is only looked for; `detail` tells what it is for, where it is missing."""
        if os.path.isfile(path):
            return Finding(THERE, what, f'{os.path.getsize(path) / 1e6:.1f} MB')
        return Finding(MISSING, what, detail, way_out, needed)

    def labels(self):
        """The vocabulary with its images, and the captions."""
        from misc.dataset.labels import Labels, labels_file_problem
        from misc.disk.files import read_json
        command, path = self.command(commands.LABELS), self.path('cocotalk.json')
        if not os.path.exists(path):
            yield Finding(MISSING, 'cocotalk.json', 'vocabulary and images', command, needed=True)
        else:
            try:
                info = read_json(path, command)
                problem = labels_file_problem(info)
            except DataError:
                problem = 'it is not a whole JSON file'
            if problem:
                yield Finding(PARTLY, 'cocotalk.json', f'broken: {problem}', command, needed=True)
            else:
                self.images = info['images']
                self.ids = {str(image['id']) for image in self.images}
                splits = Counter(image['split'] for image in self.images)
                told = ', '.join(f'{name} {count:,}' for name, count in splits.items())
                yield Finding(THERE, 'cocotalk.json', f'{len(self.images):,} images ({told}), '
                              f'{len(info["ix_to_word"]):,} words')
        path = self.path('cocotalk_label.h5')
        if not os.path.exists(path) or not self.images:
            yield self.one_file('cocotalk_label.h5', path, command, needed=True, detail='captions')
            return
        try:
            labels = Labels(path, len(self.images), len(info['ix_to_word']))
            yield Finding(THERE, 'cocotalk_label.h5', f'{len(labels.labels):,} captions of up to '
                          f'{labels.longest} words')
        except DataError as error:
            problem = str(error).split('; make')[0].removeprefix(f'--input_label_h5: {path} ')
            yield Finding(PARTLY, 'cocotalk_label.h5', problem, command, needed=True)

    def table(self):
        """The n-gram table of self-critical training."""
        return self.one_file('coco-train-idxs.p', self.path('coco-train-idxs.p'), self.command(commands.NGRAMS),
                             needed=True, detail='for self-critical training')

    def regions(self):
        """Features and places of the regions: packed, or a file per image."""
        features, areas = self.command(commands.FEATURES), self.command(commands.AREAS.format(cells=144))
        packed = self.packed()
        boxes, grids = self.listed('cocobu_box', 'box'), self.listed('cocobu_box_vec', 'grid')
        has_places = 'box' in packed or self.is_whole(grids)
        yield self.coverage('cocobu_att', self.listed('cocobu_att', 'att'), features,
                            'att' not in packed, 'features')
        yield self.coverage('cocobu_box', boxes, features, not has_places, 'boxes')
        yield self.coverage('image sizes', self.sized(self.path('cocobu_box')), features,
                            self.is_whole(boxes) and not has_places, 'cocobu_box_sizes.json, for boxes')
        yield self.coverage('cocobu_box_vec', grids, areas, not has_places and not self.is_whole(boxes),
                            'grid vectors; computed from boxes while training without')
        yield self.coverage('cocobu_fc', self.listed('cocobu_fc', 'fc'), features, False,
                            'mean features, for recurrent models; computed without')
        yield self.coverage('cocobu_box_relative', self.listed('cocobu_box_relative', 'rel'),
                            self.command(commands.RELATIVE), False,
                            'relative boxes; computed from boxes without')
        yield self.packed_finding(packed, self.command(commands.PACK))

    def listed(self, name, kind):
        """The ids whose array is in a folder, by listing it."""
        from misc.dataset.features import Folder
        return Folder(self.path(name), kind).ids() if os.path.isdir(self.path(name)) else None

    def is_whole(self, ids):
        """Whether every image of the labels file is among `ids`, and there is any."""
        return bool(ids) and self.ids <= ids

    def coverage(self, name, ids, way_out, needed, what):
        """How many of the images a folder has (`ids`, or None without the folder)."""
        if not ids:
            return Finding(MISSING, name, what, way_out, needed)
        if not self.ids:
            return Finding(THERE, name, f'{len(ids):,} images')
        whole = self.is_whole(ids)
        return Finding(THERE if whole else PARTLY, name,
                       f'{len(ids & self.ids):,} of {len(self.ids):,} images', '' if whole else way_out,
                       needed and not whole)

    def sized(self, boxes):
        """The ids of the images whose size is known, beside or in `boxes` or in the labels file."""
        from misc.dataset.grids import image_sizes
        try:
            return set(image_sizes(boxes, {'images': self.images}))
        except DataError:
            return set()

    def packed(self):
        """{kind: ids} of the packed file, of those kinds that it has for every image (boxes only with the
        sizes of the images); {} without."""
        from misc.dataset.features import Packed
        from misc.dataset.packed import kinds_in
        path = self.path('cocobu.h5')
        if not os.path.isfile(path):
            return {}
        try:
            found = {kind: Packed(path, kind, 'data').ids() for kind in kinds_in(path)}
        except DataError:
            return {}
        if 'box' in found:
            found['box'] &= self.sized(path)
        return {kind: ids for kind, ids in found.items() if self.is_whole(ids)}

    def packed_finding(self, packed, way_out):
        """The packed file, which stands in for the folders."""
        path = self.path('cocobu.h5')
        if packed:
            count = min(len(ids & self.ids if self.ids else ids) for ids in packed.values())
            return Finding(THERE, 'cocobu.h5', f'{", ".join(packed)} of {count:,} images, '
                           f'{os.path.getsize(path) / 1e9:.2f} GB')
        there = os.path.isfile(path)
        return Finding(PARTLY if there else MISSING, 'cocobu.h5',
                       'lacks images, or is not a packed file' if there else
                       'one file in place of cocobu_att and cocobu_box, quicker to read', way_out)

    def pictures(self):
        """The images themselves, where `image_root` names their folder, by listing its folders."""
        if not self.image_root:
            return
        wanted = [os.path.split(image['file_path'])
                  for image in self.images if isinstance(image.get('file_path'), str)]
        folders = {folder for folder, _ in wanted}
        there = {folder: names_in(os.path.join(self.image_root, folder)) for folder in folders}
        count = sum(name in there[folder] for folder, name in wanted)
        told = f'{count:,} of {len(wanted):,} in {self.image_root}' if wanted else 'no image is known yet'
        is_there = 0 < len(wanted) == count
        yield Finding(THERE if is_there else PARTLY if count else MISSING, 'images', told, '' if is_there else
                      'COCO 2014, train2014/ and val2014/ side by side: https://cocodataset.org')


def lacking(findings):
    """Whether anything that is needed is missing."""
    return any(finding.needed and finding.state != THERE for finding in findings)


def names_in(folder):
    """The names in a folder, none where there is no folder."""
    return set(os.listdir(folder)) if os.path.isdir(folder) else set()


def run_findings(checkpoints):
    """The runs in `checkpoints`, which may be the folder of one run.  Their folders stay as they are, also
    where a save is under way."""
    folders = []
    if os.path.isdir(checkpoints):
        folders = [checkpoints, *sorted(entry.path for entry in os.scandir(checkpoints) if entry.is_dir())]
    findings = [finding for folder in folders for finding in runs_in(folder)]
    yield from findings[:RUNS_SHOWN]
    if len(findings) > RUNS_SHOWN:
        yield Finding(THERE, f'and {len(findings) - RUNS_SHOWN} more')
    if not findings:
        yield Finding(MISSING, 'runs', 'none yet; the commands are in README.md, Training')


def runs_in(folder):
    """The findings of the runs in a folder."""
    from misc.disk import filesets, pickles
    from misc.run import checkpoint
    last, best = checkpoint.infos_files(folder)
    findings = []
    for name in last or best:
        run_id = name.removesuffix('.pkl').removeprefix('infos').removeprefix('_') or os.path.basename(folder)
        try:
            infos = pickles.load(os.path.join(folder, name), opened=filesets.opened)
            told = f'epoch {infos["epoch"]}, iteration {infos["iter"]}{best_score(infos)}'
            findings.append(Finding(THERE, run_id, told))
        except (DataError, LookupError, TypeError):
            findings.append(Finding(PARTLY, run_id, f'{os.path.join(folder, name)} cannot be read',
                                    f'take infos_{run_id}-best.pkl and model-best.pth, or train again'))
    return findings


def best_score(infos):
    """', best CIDEr 1.234' of a run, '' where it was not validated yet."""
    score, measure = infos.get('best_val_score'), infos.get('best_measure')
    if not isinstance(score, (int, float)):
        return ''
    return f', best validation {measure or "score"} {-score if measure == "loss" else score:.3f}'


def report(title, *groups):
    """Print groups of findings as they come; returns the findings."""
    print(title, flush=True)
    printed = []
    for finding in itertools.chain(*groups):
        print(finding.line(), flush=True)
        printed.append(finding)
    return printed


def ways_out(findings):
    """What makes what is missing, in lines of text: each command once, in the order of the findings, those
    that anything needed wants first."""
    ways = {}
    for finding in findings:
        if finding.way_out:
            ways.setdefault(finding.way_out, []).append(finding)
    lines = []
    for title, needed in (('Training needs, and gets by', True), ('It can do without, and gets by', False)):
        chosen = {way_out: whats for way_out, whats in ways.items() if lacking(whats) == needed}
        lines += ['', f'{title}:'] if chosen else []
        for way_out, whats in chosen.items():
            lines.append(f'  {", ".join(finding.what for finding in whats)}')
            lines += [f'      {line}' for line in way_out.splitlines()]
    return lines


def arguments():
    """The parser of this command."""
    parser = Parser(description=(
        'Says what is there and what is missing: Python and its packages, Java, the GPU, the files of\n'
        'the data chain with their counts, trained runs; then the commands that make what is missing,\n'
        'first what training needs.  Folders are only listed, and nothing is changed.\n\n'
        '  ok       it is there and whole\n'
        '  partly   some of it is there, or it is broken or of another version\n'
        '  missing  it is not there, and training needs it\n'
        '  -        it is not there, and can be done without\n\n'
        'python scripts/check_setup.py\n'
        'python scripts/check_setup.py --data data/demo --strict && python train.py ...'))
    parser.add_argument('--data', default='data', metavar='DIR', help=(
        'folder of the data chain, its files named as in the README; data/demo for the built-in data set'))
    parser.add_argument('--checkpoints', default='checkpoints', metavar='DIR', help=(
        'folder of the runs, or of one run'))
    parser.add_argument('--image_root', metavar='DIR', help=(
        'folder that holds train2014/ and val2014/; give it to count the images too'))
    parser.add_argument('--strict', type=boolean, nargs='?', const=True, default=False, help=(
        'exit with status 1 where something that training needs is missing, for scripts that go on'))
    return parser


def main():
    """Look at everything, print it, then the commands."""
    options = arguments().parse_args()
    options.data = os.path.normpath(options.data)
    findings = report('Python', python_findings(os.path.join(PROJECT, 'requirements.txt')))
    if not all(map(installed, NEEDED_HERE)):
        print(f'  this command tells about the rest once {", ".join(NEEDED_HERE)} are there')
    else:
        findings += report('Machine', scoring_findings(), gpu_findings())
        findings += report(f'Data in {options.data}', DataChain(options.data, options.image_root).findings(),
                           cnn_findings(options.data))
        findings += report(f'Runs in {options.checkpoints}', run_findings(options.checkpoints))
    print('\n'.join(ways_out(findings)))
    if not lacking(findings):
        print('Everything that training needs is here.')
    return int(options.strict and lacking(findings))


if __name__ == '__main__':
    run_command(main)
