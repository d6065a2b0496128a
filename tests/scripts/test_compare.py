"""Series of trainings: those that compare_models.sh and flickr8k.sh start, and the table and plot of the first."""

import json
import os
import re
import shutil
import signal
import subprocess
import time

import pytest
import torch

from misc.cli import DataError
from scripts import compare_table, demo_table
from tests.helpers import ROOT, tiny

MODELS = ['spatial_pe', 'relation_transformer', 'transformer', 'topdown', 'show_attend_tell', 'show_tell']
# Replaces Python: train.py and eval.py write empty files of the usual names; a run named in `stuck` never ends.
PYTHON = r'''#!/usr/bin/env bash
echo "$*" >>calls
while [ $# -gt 0 ]; do case $1 in
    --id) id=$2 ;; --model) model=$(dirname $2) ;; --run) model=$2 ;; --output_*) made=$2 ;;
    *.py) program=$1 ;; esac; shift; done
case $program in
train.py)
    mkdir -p checkpoints/$id
    touch checkpoints/$id/model.pth checkpoints/$id/infos_$id.pkl
    if [ -e stuck ] && [ "$(cat stuck)" = "$id" ]; then trap 'echo stopped >>calls; exit 143' TERM
        while :; do sleep 0.05; done; fi ;;
eval.py)
    mkdir -p eval_results && touch eval_results/${model##*/}_test.json ;;
scripts/make_dataset.py | scripts/augment_pictures.py | scripts/pack_features.py | scripts/prepro_*.py)
    mkdir -p "$(dirname $made)" && touch $made ${made}_label.h5 $made-idxs.p ;;
esac
'''


@pytest.fixture
def project(tmp_path):
    """A project folder whose Python only records its calls."""
    (tmp_path / 'scripts').symlink_to(ROOT / 'scripts')
    (tmp_path / '.venv' / 'bin').mkdir(parents=True)
    for folder in ('.', '.venv'):
        shutil.copy(ROOT / 'requirements.txt', tmp_path / folder)
    shutil.copy(ROOT / 'requirements-features.txt', tmp_path)
    (tmp_path / '.venv' / 'bin' / 'python').write_text(PYTHON)
    (tmp_path / '.venv' / 'bin' / 'python').chmod(0o755)
    return tmp_path


def start(project, *command, **variables):
    """Start a series of trainings, by default that of compare_models.sh."""
    return subprocess.Popen(['bash', *(command or ['scripts/compare_models.sh'])], cwd=project, text=True,
                            stderr=subprocess.PIPE, stdout=subprocess.PIPE,
                            env={**os.environ, 'JOBS': '3', **variables})


def calls(project, program):
    """The recorded calls of a program."""
    lines = (project / 'calls').read_text().splitlines()
    return [line for line in lines if line.startswith(program)]


def ids(lines):
    return sorted(re.search(r'--id (\S+)', line)[1] for line in lines)


def test_every_model_and_seed_is_trained_in_both_phases_once(project):
    assert start(project).wait() == 0
    runs = [f'compare_{model}_{seed}' for model in MODELS for seed in (1, 2, 3)]
    trained = calls(project, 'train.py')
    assert ids(trained) == sorted(runs + [f'{run}_rl' for run in runs])
    for line in trained:
        run, seed = re.search(r'--id compare_\w+?_(\d)(_rl)?', line), re.search(r'--seed (\d)', line)
        assert run[1] == seed[1] and bool(run[2]) == ('--self_critical_after 12' in line)
        assert bool(run[2]) == ('--start_from' in line)
        assert ('--hidden_size' in line) == any(f'_model {name} ' in line for name in MODELS[3:])
    table = calls(project, 'scripts/compare_table.py')
    assert len(table) == 1 and table[0].count('_test.json') == 36
    (project / 'calls').write_text('')
    shutil.rmtree(project / 'checkpoints' / 'compare_topdown_2_rl')
    (project / 'eval_results' / 'compare_topdown_2_rl_test.json').unlink()
    assert start(project).wait() == 0
    assert ids(calls(project, 'train.py')) == ['compare_topdown_2', 'compare_topdown_2_rl']


def test_when_stopped_it_stops_its_trainings_and_resumes_them_later(project):
    (project / 'stuck').write_text('compare_topdown_1')
    process = start(project, SEEDS='1', MODELS='topdown show_tell')
    while not (project / 'eval_results' / 'compare_show_tell_1_rl_test.json').exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143 and 'to resume' in process.stderr.read()
    assert 'stopped' in (project / 'calls').read_text().splitlines()
    (project / 'stuck').unlink()
    (project / 'calls').write_text('')
    assert start(project, SEEDS='1', MODELS='topdown show_tell').wait() == 0
    first, second = calls(project, 'train.py')
    assert '--id compare_topdown_1 ' in first and '--start_from checkpoints/compare_topdown_1' in first
    assert '--id compare_topdown_1_rl ' in second


def test_flickr8k_is_prepared_once_and_every_run_resumes_by_itself(project):
    command = ('scripts/flickr8k.sh', 'flickr8k')
    process = start(project, *command)
    assert 'has no folder images/' in process.communicate()[1] and process.returncode == 1
    for folder in ('Flicker8k_Dataset', 'text'):
        (project / 'flickr8k' / folder).mkdir(parents=True)
    (project / 'stuck').write_text('flickr8k_transformer_2_rl')
    (project / 'calls').write_text('')
    process = start(project, *command, SEEDS='2', MODELS='spatial_pe transformer', JOBS='1')
    while '--id flickr8k_transformer_2_rl' not in (project / 'calls').read_text():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    first = calls(project, '')
    copying, finding = (next(line for line in first if line.startswith(f'scripts/{name}'))
                        for name in ('augment_pictures', 'extract_regions'))
    assert 'flickr8k/Flicker8k_Dataset ' in copying
    for place in ('pictures', 'dataset_more.json'):
        assert f'data/flickr8k/{place} ' in f'{copying} ' and f'data/flickr8k/{place} ' in finding
    assert len({re.search(r'--num_layers.*--val_images_use', line)[0] for line in first if 'train.py' in line}) == 1
    names = [f'flickr8k_{model}_2{part}' for model in ('spatial_pe', 'transformer')
             for part in ('_smooth', '', '_rl')]
    assert ids(calls(project, 'train.py')) == sorted(names)
    assert {run: '--label_smoothing 0 ' in line for line in calls(project, 'train.py')
            for run in ids([line])} == {run: not run.endswith('_smooth') for run in names}

    (project / 'stuck').unlink()
    (project / 'calls').write_text('')
    process = start(project, *command, SEEDS='2', MODELS='spatial_pe transformer', JOBS='1')
    assert process.wait() == 0
    again = calls(project, '')
    assert not any(line.startswith(('scripts/make', 'scripts/augment', 'scripts/prepro', 'scripts/extract', '-m pip'))
                   for line in again)
    assert ids(calls(project, 'train.py')) == sorted(names[3:])
    assert all('--start_from' in line for line in calls(project, 'train.py'))
    evaluations, (report,) = calls(project, 'eval.py'), calls(project, 'scripts/create_report.py')
    assert ids(evaluations) == ['flickr8k_page', 'flickr8k_transformer_2_rl']
    assert '--run checkpoints/flickr8k_spatial_pe_2 ' in evaluations[1] and '--output_dir report/' in evaluations[1]
    # Both phases of each run, by folders that exist.
    folders = re.findall(r'checkpoints/\S+', re.search(r'--runs (.*) --input_json', report)[1])
    assert len(folders) == 6 and report.count('_test.json') == 4
    assert all((project / folder).is_dir() for folder in folders)
    assert all(folder in calls(project, 'scripts/plot_history.py')[0] for folder in folders)

    process = start(project, *command, CROSS_ATTN='dot')
    assert 'CROSS_ATTN is dot; it can be dot-product or xlinear' in process.communicate()[1]
    assert process.returncode == 2
    # Runs of an earlier version, without copies, are not resumed.
    (project / 'data' / 'flickr8k' / 'dataset_more.json').rename(project / 'kept')
    process = start(project, *command, SEEDS='2')
    assert 'flickr8k_... are of an earlier version' in process.communicate()[1] and process.returncode == 1
    (project / 'kept').rename(project / 'data' / 'flickr8k' / 'dataset_more.json')
    (project / 'data' / 'flickr8k' / 'dataset_more.json').touch()
    # Beside them, the same models with another attention.
    assert all('--cross_attn dot-product ' in line for line in first if 'train.py' in line)
    (project / 'calls').write_text('')
    assert start(project, *command, SEEDS='2', MODELS='transformer', CROSS_ATTN='xlinear').wait() == 0
    # Labels, n-grams and features that are older than the split file are made again.
    assert {line.split()[0] for line in calls(project, 'scripts/')} >= {
        f'scripts/{name}.py' for name in ('prepro_labels', 'prepro_ngrams', 'extract_regions', 'pack_features')}
    others = calls(project, 'train.py')
    assert ids(others) == [f'flickr8k_xlinear_transformer_2{part}' for part in ('', '_rl', '_smooth')]
    assert all('--cross_attn xlinear ' in line for line in others)


def write_results(folder, name, cider, caption):
    """Write a results file with one image; returns its path."""
    (folder / f'{name}.json').write_text(json.dumps({
        'overall': {'CIDEr': cider}, 'images': [{'image_id': 1, 'caption': caption}]}))
    return folder / f'{name}.json'


def test_the_table_holds_means_and_standard_deviations_over_seeds(tmp_path, capsys):
    true, false = 'a red star left of a blue box', 'a red star right of a blue box'
    (tmp_path / 'talk.json').write_text(json.dumps({'images': [
        {'id': 1, 'captions': [true], 'split': 'test'}]}))
    files = []
    for seed, ciders in ((1, (2.0, 3.0)), (2, (2.4, 3.5))):
        for phase, cider in zip(('', '_rl'), ciders):
            files.append(write_results(tmp_path, f'compare_show_tell_{seed}{phase}_test', cider,
                                       true if seed == 1 else false))
        folder = tmp_path / f'compare_show_tell_{seed}'
        folder.mkdir()
        torch.save({'a': torch.zeros(1000, 2), 'b': torch.zeros(7)}, folder / 'model.pth')
        line = 'iteration 9 (epoch 1, 20 of 600 images): loss 1.0, learning rate 0.1, {} images/s, 0:00:01 left\n'
        (tmp_path / f'compare_show_tell_{seed}.log').write_text(
            f'== training compare_show_tell_{seed}\n' + line.format('1.0') + line.format(10.0 * seed)
            + f'== training compare_show_tell_{seed}_rl\n' + line.format('6.0'))
    flags = ['--input_json', tmp_path / 'talk.json', '--checkpoints', tmp_path, '--logs', tmp_path]
    for kind, first in (('png', b'\x89PNG'), ('svg', b'<?xml')):
        tiny.run(compare_table, [*files, *flags, '--plot', tmp_path / f'made.{kind}'])
        assert (tmp_path / f'made.{kind}').read_bytes().startswith(first)
    line = capsys.readouterr().out.splitlines()[2]
    assert line == ('| `show_tell` | 2.200 ± 0.283 | 3.250 ± 0.354 | 0.500 ± 0.707 | 0.500 ± 0.707 | 2,007 '
                    '| 45 | 100 |')
    with pytest.raises(DataError, match='other_test does not have a name that'):
        tiny.run(compare_table, [write_results(tmp_path, 'other_test', 1, true), *flags])
    (tmp_path / 'compare_show_tell_1.log').unlink()
    with pytest.raises(DataError, match='no log .*compare_show_tell_1.log'):
        tiny.run(compare_table, [*files, *flags])


# The content of a file that holds no results, and the message about it.
NO_RESULTS = {
    'captions alone': ([{'image_id': 1, 'caption': 'a'}], 'should hold overall, .* and images'),
    'no scores': ({'images': []}, 'has no overall'),
    'a caption without an image': ({'overall': {}, 'images': [{'caption': 'a'}]}, 'has no image_id'),
    'captions that are none': ({'overall': {}, 'images': [{'image_id': 1, 'caption': 5}]},
                               'has no caption for 1 of 1 images'),
    'no images': ({'overall': {'CIDEr': 'x'}, 'images': []}, 'holds no images'),
    'other images': ({'overall': {}, 'images': [{'image_id': 7, 'caption': 'a'}]},
                     'captions of images without references in .*talk.json, such as 7; give the --input_json'),
}


@pytest.mark.parametrize('case', NO_RESULTS)
def test_a_file_that_holds_no_results_is_refused_with_the_reason(tmp_path, case):
    content, expected = NO_RESULTS[case]
    (tmp_path / 'talk.json').write_text(json.dumps(
        {'images': [{'id': 1, 'captions': ['a'], 'split': 'test'}]}))
    (tmp_path / 'made.json').write_text(json.dumps(content))
    with pytest.raises(DataError, match=f'made.json .*{expected}') as error:
        tiny.run(demo_table, [tmp_path / 'made.json', '--input_json', tmp_path / 'talk.json'])
    assert 'Error' not in str(error.value) and 'indices' not in str(error.value)
