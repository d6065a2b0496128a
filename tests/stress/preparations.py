"""Every preparation script with small inputs, for tests that disturb them.

`python -m tests.stress.preparations MODULE FLAGS` runs a script with small networks in place of torchvision's.
"""

import contextlib
import importlib
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from misc.cli import run_command
from scripts import make_bu_data, prepro_labels
from tests.helpers import ROOT, legacy_code
from tests.helpers.legacy_checkpoints import legacy_options, write_legacy
from tests.helpers.models import make_options
from tests.helpers.networks import photo, put_in_place, save_weights
from tests.helpers.preparing import random_line, record, write_split
from tests.helpers.tiny import run

IMAGES, PICTURES = 160, 20
WORDS = [f'word{number}' for number in range(60)]


@dataclass
class Preparation:
    """A script and its flags; INPUTS in them stands for the folder of `make_inputs`, outputs are relative paths."""

    module: str
    flags: dict[str, object] = field(repr=False)
    uses_networks: bool = False

    def arguments(self, inputs: Path) -> list[str]:
        """The arguments on its command line."""
        return [word for flag, value in self.flags.items()
                for word in (f'--{flag}', str(value).replace('INPUTS', str(inputs)))]

    def command(self, inputs: Path) -> list[str]:
        """The command as a user types it, but with small networks."""
        script = f'{self.module.replace(".", "/")}.py'
        start = ['-m', 'tests.stress.preparations', self.module] if self.uses_networks else [str(ROOT / script)]
        return [sys.executable, *start, *self.arguments(inputs)]

    def run(self, inputs: Path) -> None:
        """Run it in this process, which then exits with the status of the command."""
        run_main(self.module, self.arguments(inputs), inputs, self.uses_networks)


ALL = {one.module.split('.')[-1]: one for one in (
    Preparation('scripts.prepro_labels', {
        'input_json': 'INPUTS/split.json', 'output_json': 'talk.json', 'output_h5': 'talk'}),
    Preparation('scripts.prepro_ngrams', {
        'input_json': 'INPUTS/split.json', 'dict_json': 'INPUTS/talk.json', 'output_pkl': 'coco-train'}),
    Preparation('scripts.prepro_feats', {
        'input_json': 'INPUTS/pictures.json', 'images_root': 'INPUTS/root', 'output_dir': 'map',
        'model_root': 'INPUTS/weights', 'att_size': 4, 'device': 'cpu', 'num_workers': 2}, uses_networks=True),
    Preparation('scripts.make_bu_data', {
        'downloaded_feats': 'INPUTS/archive', 'output_dir': 'bu', 'num_workers': 2}),
    Preparation('scripts.prepro_bbox_relative_coords', {
        'input_box_dir': 'INPUTS/bu_box', 'output_dir': 'rel', 'num_workers': 2}),
    Preparation('prepro_areas', {
        'input_dir': 'INPUTS/bu_box', 'output_dir': 'vec', 'num_grids': 144, 'num_workers': 2}),
    Preparation('scripts.pack_features', {
        'input_img_feat_dir': 'INPUTS/bu_att', 'input_fc_feat_dir': 'INPUTS/bu_fc',
        'input_box_dir': 'INPUTS/bu_box', 'output_file': 'bu.h5', 'num_workers': 2}),
    Preparation('scripts.make_demo_data', {'output_dir': 'demo', 'num_images': 72, 'num_workers': 2}),
    Preparation('scripts.extract_regions', {
        'images_root': 'INPUTS/root', 'output_dir': 'mine', 'detector': 'grid', 'grid_size': 3,
        'random_weights': 1, 'device': 'cpu', 'num_workers': 2}, uses_networks=True),
    Preparation('scripts.convert_checkpoint', {'input_dir': 'INPUTS/old', 'output_dir': 'new'}),
)}


def run_main(module: str, arguments: list[str], folder: str | Path, uses_networks: bool) -> None:
    """Run the script `module` with `arguments` and exit; if it `uses_networks`, with small ones, whose downloads are
    looked for in `folder`."""
    if uses_networks:
        put_in_place(pytest.MonkeyPatch(), Path(folder))
    torch.set_num_threads(1)   # a fork has none of its parent's threads
    sys.argv = [f'{module}.py', *arguments]
    run_command(importlib.import_module(module).main)


def make_inputs(folder: Path) -> None:
    """Write the inputs of all scripts into `folder`; called in a process of its own."""
    torch.set_num_threads(1)
    with open(os.devnull, 'w', encoding='utf-8') as nothing, contextlib.redirect_stderr(nothing):
        write_inputs(folder)


def write_inputs(folder: Path) -> None:
    """Pictures, split files, an archive and a legacy checkpoint, and what scripts make of them for the others."""
    random = np.random.default_rng(0)
    (folder / 'root' / 'val2014').mkdir(parents=True)
    for number in range(1, PICTURES + 1):
        photo(number, *((64, 48) if number % 3 else (48, 64))).save(folder / 'root' / 'val2014' / f'{number}.jpg')
    records = [record(number, 'train', *(' '.join(random.choice(WORDS, 9)) for _ in range(5)))
               for number in range(1, 4 * IMAGES)]
    write_split(folder / 'pictures.json', records[:PICTURES])
    write_split(folder / 'split.json', records)
    archive = folder / 'archive' / 'trainval'
    archive.mkdir(parents=True)
    for name, start in (('one.tsv.0', 1), ('one.tsv.1', IMAGES // 2 + 1)):
        (archive / name).write_bytes(b''.join(
            random_line(number, regions=6) for number in range(start, start + IMAGES // 2)))
    run(prepro_labels, ['--input_json', folder / 'split.json', '--output_json', folder / 'talk.json',
                        '--output_h5', folder / 'talk'])
    run(make_bu_data, ['--downloaded_feats', folder / 'archive', '--output_dir', folder / 'bu'])
    (folder / 'weights').mkdir()
    save_weights(folder / 'weights' / 'resnet101.pth')
    options = legacy_options(vars(make_options(
        norm_img_feat=False, heads=8, caption_model='relation_transformer', legacy_extra_skip=True, use_bn=2)),
        spatial=False)
    for model, infos in (('model.pth', 'infos_old.pkl'), ('model-best.pth', 'infos_old-best.pkl')):
        write_legacy(folder / 'old', dict(legacy_code.relation_weights()), options, model, infos)


if __name__ == '__main__':
    run_main(sys.argv[1], sys.argv[2:], os.getcwd(), uses_networks=True)
