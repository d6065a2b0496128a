"""The benchmark: its small form runs, and it counts and compares rightly."""

import json
import os
import subprocess
import sys
from unittest import mock

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from misc.cli import DataError
from scripts import benchmark
from scripts.benchmarking import growth, workloads
from scripts.benchmarking.made_up import QUICK, Sizes, caption_lengths
from scripts.benchmarking.operations import counted_operations
from scripts.benchmarking.workloads import REGIONS, WORDS_SEED, WORKLOADS, Cider, Step
from tests.helpers import ROOT


def test_the_project_is_faster_than_the_plain_version_and_gives_the_same(tmp_path):
    path = tmp_path / 'found.json'
    ran = subprocess.run([sys.executable, 'scripts/benchmark.py', '--quick', '--json', path], cwd=ROOT,
                         capture_output=True, text=True, env={**os.environ, 'TMPDIR': str(tmp_path)})
    assert ran.returncode == 0, ran.stderr
    assert not list(tmp_path.glob('reading-*'))
    found = json.loads(path.read_text())['workloads']
    assert list(found) == list(WORKLOADS)
    for name, measured in found.items():
        assert measured['ratio'] > 1 and measured['agrees'], name
        assert f'| {name} ' in ran.stdout
    for name, side in (('greedy', 'project'), ('greedy', 'samples'), ('beam', 'project'), ('step', 'project'),
                       ('step', 'bf16'), ('self-critical', 'project')):
        assert 0 < found[name][side]['floor'] < found[name][side]['seconds'], (name, side)


def test_a_project_that_is_fast_and_wrong_is_an_error(capsys):
    with mock.patch.object(sys, 'argv', ['benchmark.py', '--quick', '--only', 'cider', '--repeats', '1']), \
            mock.patch.object(Cider, 'result', lambda self, side: [0.0 if side == 'project' else 0.1]), \
            pytest.raises(DataError, match='cider'):
        benchmark.main()
    assert '| cider ' in capsys.readouterr().out


def test_counted_operations_are_those_of_the_products_of_the_formulas():
    with mock.patch.object(workloads, 'REGIONS', [9, 4, 7]):
        flags = '--num_layers 2 --input_encoding_size 128 --ff_size 192 --heads 2 --num_grids 16 --img_feat_size 500'
        step = Step(Sizes(flags, words=70, longest=5, step_images=3), torch.device('cpu'))
    step.batch.captions = step.batch.captions[:, :1]  # the plain version projects the regions once a caption
    counter = FlopCounterMode(display=False)
    with counter:
        step.plain_loss(3).backward()
    lengths = (step.batch.captions > 0).sum(2).tolist()
    # It counts the whole square of causal attention, and not the sum over regions, which is no product there.
    assert counter.get_total_flops() == pytest.approx(
        counted_operations(step.sizes, step.batch.counts, lengths), rel=0.01)


def test_the_known_step_has_the_words_and_operations_that_it_is_known_for():
    sizes = Sizes()
    words = caption_lengths(75, sizes, WORDS_SEED)
    assert (words.sum(), words.min(), words.max(), sum(REGIONS)) == (772, 6, 16, 675)
    counted = counted_operations(sizes, REGIONS, words.reshape(15, 5).tolist())
    assert counted == pytest.approx(4.1e11, rel=0.02)


def test_growth_is_the_line_through_the_times_of_its_steps(tmp_path, capsys):
    path, threads = tmp_path / 'growth.json', torch.get_num_threads()
    flags = ['--quick', '--growth', '--repeats', '1', '--json', str(path)]
    # A second each for an image, a caption of it and a layer, and a tenth for a region of an image.
    with mock.patch.object(sys, 'argv', ['benchmark.py', *flags]), mock.patch.object(
            growth.GrownStep, 'seconds', lambda step: len(step.batch) + step.batch.captions.shape[1]
            + len(step.model.encoder) + step.batch.counts[0] * 0.1):
        benchmark.main()
    torch.set_num_threads(threads)
    found, output = json.loads(path.read_text())['growth'], capsys.readouterr().out
    assert list(found) == list(growth.AXES)
    for axis in ('images', 'layers', 'captions of an image'):
        assert found[axis]['each'] == pytest.approx(1) and found[axis]['off'] < 1e-9
        assert f'| {axis} ' in output
    assert found['images']['constant'] == pytest.approx(found['images']['seconds'][0] - 5)
    rates = [rate * seconds for rate, seconds in zip(found['layers']['rates'], found['layers']['seconds'])]
    assert rates[0] < rates[1] < rates[2]  # operations


def test_a_grown_step_takes_the_time_of_a_step():
    point = {**growth.MIDDLE, 'images': 2, 'layers': 1}
    step = growth.GrownStep(QUICK, torch.device('cpu'), point)
    other = growth.GrownStep(QUICK, torch.device('cpu'), {**point, 'images': 3}, like=step)
    assert step.seconds() > 0 and other.seconds() > 0 and other.operations > step.operations
    assert other.model is step.model and other.optimiser is step.optimiser
