"""The README's pipeline commands, word for word, on a tiny data set: from captions to scores."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import h5py
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# Size and epochs of the README's runs take days; the last value of a flag counts.
SMALL = ('--num_layers 1 --input_encoding_size 32 --ff_size 64 --save_checkpoint_every 2 '
         '--max_epochs ')


def pipeline_commands():
    """The lines of the README's blocks that are marked as the pipeline."""
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    blocks = re.findall(r'<!-- pipeline -->\n```bash\n(.*?)```', text, re.S)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def lay_out(folder):
    """A project folder with the built-in data set where the README wants COCO's; returns the
    environment to run its commands in."""
    import torch
    import torchvision
    for name in ('train.py', 'eval.py', 'opts.py', 'dataloader.py', 'prepro_areas.py', 'models', 'misc',
                 'scripts'):
        (folder / name).symlink_to(ROOT / name)
    subprocess.run([sys.executable, 'scripts/make_demo_data.py', '--output_dir', 'made', '--num_images', '24'],
                   cwd=folder, check=True, capture_output=True)
    shutil.copytree(folder / 'made', folder / 'data')
    torch.save(torchvision.models.resnet101(weights=None).state_dict(), folder / 'data' / 'resnet101.pth')
    bin_folder = folder / 'bin'
    bin_folder.mkdir()
    python = bin_folder / 'python'
    python.write_text('#!/bin/bash\n'
                      f'if [ "$1" = train.py ]; then set -- "$@" {SMALL} '
                      '$(case "$*" in *start_from*) echo 4 --self_critical_after 2;; *) echo 2;; esac); fi\n'
                      f'exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    # copy_model.sh works on the project it lies in, and here scripts/ is a link to the real one.
    (folder / 'scripts').unlink()
    shutil.copytree(ROOT / 'scripts', folder / 'scripts', ignore=shutil.ignore_patterns('__pycache__'))
    return {**os.environ, 'PATH': f'{bin_folder}:{os.environ["PATH"]}', 'IMAGE_ROOT': 'data/images',
            'PYTHONPATH': str(folder)}


def test_the_readme_pipeline_runs_as_written_from_captions_to_scores(tmp_path):
    environment = lay_out(tmp_path)
    commands = pipeline_commands()
    assert len(commands) == 13
    outputs = []
    for command in commands:
        done = subprocess.run(['bash', '-c', command], cwd=tmp_path, env=environment, capture_output=True,
                              text=True)
        assert done.returncode == 0, f'{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}'
        outputs.append(done.stdout)
    assert 'self-critical training from epoch 2' in ''.join(outputs)
    data = tmp_path / 'data'
    with h5py.File(data / 'cocotalk_label.h5', 'r') as file:
        assert len(file['label_start_ix']) == 24
    for folder, suffix in (('cocobu_att', 'npz'), ('cocobu_box_vec', 'npy'), ('cocotalk_att', 'npz'),
                           ('cocobu_box_relative', 'npy')):
        assert len(list((data / folder).glob(f'*.{suffix}'))) == 24
    vector = np.load(next((data / 'cocobu_box_vec').glob('*.npy')))
    assert vector.shape[1] == 144
    for run in ('spatial_transformer_bu', 'spatial_transformer_bu_rl'):
        results = json.loads((tmp_path / 'eval_results' / f'{run}_test.json').read_text())
        assert {'Bleu_4', 'ROUGE_L', 'CIDEr'} <= set(results['overall'])
    assert len(json.loads((tmp_path / 'vis' / 'vis.json').read_text())) == len(results['images'])
