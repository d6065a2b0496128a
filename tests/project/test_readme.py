"""The documentation: its pipeline commands run word for word on a tiny data set, from captions to scores; its links
lead somewhere, and the files that it names exist."""

import json
import os
import re
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest

from misc.scoring import java
from tests.helpers import ROOT

PAGES = sorted(path.relative_to(ROOT).as_posix()
               for pattern in ('*.md', 'docs/*.md', 'data/README.md', 'data/pretrained/README.md')
               for path in ROOT.glob(pattern))
# The pages with blocks marked as the pipeline, in the order in which they run: a page may use what earlier ones make.
PIPELINE = ('README.md', 'docs/data.md')
MARK = '<!-- pipeline -->\n'
FIRST_RUN = 'spatial_transformer_bu'
# Paths and programs in code of a page, but not paths below others (data/..., $ROOT/...).
PATH = re.compile(r'(?<![\w/.$-])((?:docs|misc|models|scripts|tests)/[\w/.-]*\w|\w+\.(?:py|sh|toml|cff))(?![\w*])')
# Files that a reader is to write.
EXAMPLES = {'models/box_mean.py', 'my_net.py', 'FILE.py'}
# The README's runs take days; these flags come last and win.
SMALL = ('--num_layers 1 --input_encoding_size 32 --ff_size 64 --save_checkpoint_every 2 '
         '--max_epochs ')


def text_of(page):
    return (ROOT / page).read_text(encoding='utf-8')


def pipeline_commands():
    """The lines of the pages' blocks that are marked as the pipeline."""
    blocks = [block for page in PIPELINE for block in re.findall(MARK + r'```bash\n(.*?)```', text_of(page), re.S)]
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def lay_out(folder):
    """Make a project folder with the built-in data set where the README expects COCO's; returns the environment in
    which its commands run."""
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
    # copy_model.sh works on the project that it is in, so scripts/ must be a copy, not a link.
    (folder / 'scripts').unlink()
    shutil.copytree(ROOT / 'scripts', folder / 'scripts', ignore=shutil.ignore_patterns('__pycache__'))
    return {**os.environ, 'PATH': f'{bin_folder}:{os.environ["PATH"]}', 'IMAGE_ROOT': 'data/images',
            'PYTHONPATH': str(folder)}


def path_without_java(folder, path):
    """A PATH like `path`, but without Java: links to all other programs in `folder`."""
    folder.mkdir()
    for program in (program for place in path.split(os.pathsep) if os.path.isdir(place)
                    for program in os.scandir(place)):
        if program.name != 'java' and not (folder / program.name).is_symlink():
            (folder / program.name).symlink_to(program.path)
    return str(folder)


def test_the_pipeline_runs_as_written_from_captions_to_scores(tmp_path):
    with_java = lay_out(tmp_path)
    without_java = {**with_java, 'PATH': path_without_java(tmp_path / 'links', with_java['PATH'])}
    commands = pipeline_commands()
    assert len(commands) == 13
    outputs = []
    for command in commands:
        # METEOR takes most of the time; one command with it is enough.
        environment = with_java if 'eval.py' in command and FIRST_RUN + '/' in command else without_java
        done = subprocess.run(['bash', '-c', command], cwd=tmp_path, env=environment, capture_output=True, text=True)
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
    for run, has_meteor in ((FIRST_RUN, java.is_installed()), (f'{FIRST_RUN}_rl', False)):
        results = json.loads((tmp_path / 'eval_results' / f'{run}_test.json').read_text())
        assert {'Bleu_4', 'ROUGE_L', 'CIDEr'} <= set(results['overall'])
        assert ('METEOR' in results['overall']) == has_meteor
    assert len(json.loads((tmp_path / 'vis' / 'vis.json').read_text())) == len(results['images'])
    # The short forms that the README gives in its text: nothing is left to train, and the scores are the same.
    short = r'`(python (?:train|eval)\.py --(?:resume|run) checkpoints/ID[^`]*)`'
    for command in re.findall(short, text_of('README.md')):
        command = command.replace('ID', FIRST_RUN)
        done = subprocess.run(['bash', '-c', command], cwd=tmp_path, env=without_java, capture_output=True, text=True)
        assert done.returncode == 0, f'{command}\n{done.stderr[-2000:]}'
        outputs.append(command)
    assert [command.split()[1] for command in outputs[-2:]] == ['train.py', 'eval.py']


def test_every_page_with_pipeline_commands_is_run():
    assert {page for page in PAGES if MARK in text_of(page)} == set(PIPELINE)


def anchors_of(page):
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r'^#+ (.*)$', re.sub(r'```.*?```', '', text_of(page), flags=re.S), re.M)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


def broken_links(page, text):
    """The relative links in a page's text that lead to no file, or to no heading of a page."""
    for link in re.findall(r'\]\(([^)\s]+)\)', text):
        name, _, anchor = link.partition('#')
        target = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        if '://' not in link and not (target.is_file() and (
                not anchor or anchor in anchors_of(target.relative_to(ROOT)))):
            yield link


def missing_files(text):
    """The source files, tests and modules that a page's text names in code and that do not exist."""
    for code in re.findall(r'```\w*\n(.*?)```', text, re.S) + re.findall(r'`([^`\n]+)`', text):
        paths = PATH.findall(code) + [f'{module.replace(".", "/")}.py' for module in re.findall(
            r'python -m (tests[\w.]+)', code)]
        yield from (path for path in paths if path not in EXAMPLES and not (ROOT / path).exists()
                    and not (ROOT / 'scripts' / path).exists())


@pytest.mark.parametrize('page', PAGES)
def test_links_and_files_of_a_page_exist(page):
    assert list(broken_links(page, text_of(page))) == []
    assert list(missing_files(text_of(page))) == []


def test_a_link_or_file_that_does_not_exist_is_noticed():
    text = '[a](docs/none.md) [b](#no-such-heading) [c](docs/data.md#nor-this) `misc/none.py` `python none.py`'
    assert list(broken_links('README.md', text)) == ['docs/none.md', '#no-such-heading', 'docs/data.md#nor-this']
    assert list(missing_files(text + ' `python -m tests.none`')) == ['misc/none.py', 'none.py', 'tests/none.py']
