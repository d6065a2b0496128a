"""The log of a run: its lines, its JSON lines, and disks that are full."""

import json
import os
import time
import types

import pytest
import torch

from misc.run import log as run_log
from misc.run.journal import LOG
from misc.run.log import LOSSES, RATES, REWARDS, SCORES, STEPS, RunLog
from misc.training.step import Step
from tests.helpers.events import event_numbers, events_in


def opened(folder, histories, iteration=0):
    batches = types.SimpleNamespace(images=20, images_read=10, position=5, waited=0.0)
    log = RunLog(str(folder), histories, batches, max_epochs=2, hyperparameters={'batch_size': 4},
                 device=torch.device('cpu'))
    log.open(iteration)
    return log


def histories():
    return {name: {} for name in run_log.HISTORIES}


def lines_of(folder):
    return [json.loads(line) for line in (folder / STEPS).read_text().splitlines()]


def test_each_logged_step_is_a_json_line_a_line_of_text_and_a_history(tmp_path, capsys):
    kept = histories()
    log = opened(tmp_path, kept)
    log.step(1, 0, 2.5, 1e-3, 0.0, {})
    log.step(2, 0, 2.25, 1e-3, 0.0, {'reward': 0.5})
    log.validation(2, {'loss': 2.0, 'CIDEr': 0.75}, is_best=True)
    log.close()
    assert lines_of(tmp_path) == [{'iteration': 1, 'loss': 2.5, 'learning_rate': 1e-3},
                                  {'iteration': 2, 'loss': 2.25, 'learning_rate': 1e-3, 'reward': 0.5}]
    assert kept[LOSSES] == {1: 2.5, 2: 2.25} and kept[RATES] == {1: 1e-3, 2: 1e-3}
    assert kept[REWARDS] == {2: {'reward': 0.5}} and kept[SCORES] == {2: {'loss': 2.0, 'CIDEr': 0.75}}
    said = capsys.readouterr().out.splitlines()
    assert said[1].startswith('iteration 2 (epoch 0, 5 of 20 images): loss 2.2500, learning rate 0.001, reward 0.500')
    assert said[2] == 'validation at iteration 2: loss 2.0000, CIDEr 0.7500 (best)'


def test_what_a_killed_run_logged_after_its_checkpoint_is_not_there_twice(tmp_path):
    at_checkpoint = histories()
    log = opened(tmp_path, at_checkpoint)
    log.step(1, 0, 2.5, 1e-3, 0.0, {})
    at_checkpoint = {name: dict(history) for name, history in at_checkpoint.items()}
    log.step(2, 0, 2.25, 1e-3, 0.0, {})  # lost with the process, and taken again
    again = opened(tmp_path, at_checkpoint, iteration=1)
    again.step(2, 0, 2.25, 1e-3, 0.0, {})
    again.close()
    assert [line['iteration'] for line in lines_of(tmp_path)] == [1, 2]


def test_the_log_has_a_line_for_each_step_and_event_of_all_starts(tmp_path, capsys):
    log = opened(tmp_path, histories())
    for iteration in (1, 2):
        log.batches.waited += 0.25
        log.took(Step(iteration, 0, 1e-3, [7]), torch.tensor(2.5 * iteration))
    assert len((tmp_path / LOG).read_text().splitlines()) == 1  # the losses are still on the device
    log.step(2, 0, 5.0, 1e-3, 0.0, {})
    log.validation(2, {'loss': 2.0}, is_best=True)
    log.saved(2, is_best=True)
    log.took(Step(3, 1, 1e-3, [7]), torch.tensor(7.5))
    log.close()
    opened(tmp_path, histories(), iteration=2).close()
    lines = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert [line['event'] for line in lines] == ['start', 'step', 'step', 'validation', 'save', 'step', 'start']
    steps = [line for line in lines if line['event'] == 'step']
    assert [(line['iteration'], line['epoch'], line['loss'], line['waited']) for line in steps] == [
        (1, 0, 2.5, 0.25), (2, 0, 5.0, 0.25), (3, 1, 7.5, 0.0)]
    assert all(line['memory_mb'] > 10 and line['learning_rate'] == 1e-3 for line in steps)
    assert all(line['seconds'] >= 0 and line['time'].endswith('+00:00') for line in lines)
    assert lines[3]['loss'] == 2.0 and lines[-1]['iteration'] == 2 and lines[0]['process'] == os.getpid()


def test_the_two_phases_have_tags_of_their_own_and_tensorboard_gets_the_hyperparameters(tmp_path):
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData
    log = opened(tmp_path, histories())
    log.step(1, 0, 2.5, 1e-3, 0.0, {})
    log.step(2, 0, 0.25, 1e-4, 0.0, {'reward': 0.5})
    log.validation(2, {'loss': 2.0, 'CIDEr': 0.75}, is_best=True)
    log.close()
    numbers = event_numbers(tmp_path)
    assert {tag: steps for tag, steps in numbers.items() if '_hparams_' not in tag} == {
        'cross_entropy/loss': {1: 2.5}, 'self_critical/loss': {2: 0.25}, 'self_critical/reward': {2: 0.5},
        'training/learning_rate': {1: pytest.approx(1e-3), 2: pytest.approx(1e-4)},
        'validation/loss': {2: 2.0}, 'validation/CIDEr': {2: 0.75}}
    name, = tmp_path.glob(run_log.EVENTS + '*')
    shown = {value.tag: HParamsPluginData.FromString(value.metadata.plugin_data.content)
             for event in events_in(str(name)) for value in event.summary.value if '_hparams_' in value.tag}
    assert shown['_hparams_/session_start_info'].session_start_info.hparams['batch_size'].number_value == 4
    assert [metric.name.tag for metric in shown['_hparams_/experiment'].experiment.metric_infos] == list(
        run_log.COMPARED)


def test_a_full_disk_ends_the_lines_with_one_warning_and_not_the_training(tmp_path, capsys):
    log = opened(tmp_path, histories())
    log.files[1].file.close()
    log.files[1].file = open('/dev/full', 'w')  # noqa: SIM115 (the log closes it)
    for iteration in (1, 2):
        log.step(iteration, 0, 2.5, 1e-3, 0.0, {})
    log.close()
    assert capsys.readouterr().err.count(f'no more lines of {STEPS} are written') == 1


def test_a_clock_that_was_set_back_changes_neither_the_order_of_event_files_nor_that_of_events(tmp_path, monkeypatch):
    for now, iteration in ((2_000_000_000.0, 0), (1_900_000_000.0, 1), (1_990_000_000.0, 2)):
        monkeypatch.setattr(time, 'time', lambda now=now: now)
        log = opened(tmp_path, histories(), iteration)
        log.step(iteration + 1, 0, 2.5, 1e-3, 0.0, {})
        written = log.files[0].clock + time.monotonic()
        log.close()
        os.utime(max(tmp_path.glob(run_log.EVENTS + '*')), (written, written))
    names = sorted(path.name for path in tmp_path.glob(run_log.EVENTS + '*'))
    assert [name.rpartition('.')[2] for name in names] == ['000000', '000001', '000002']
    events = [event for name in names for event in events_in(str(tmp_path / name)) if event.step]
    times = [event.wall_time for event in events]
    assert times == sorted(times) and times[0] >= 2_000_000_000
    tagged = [(event.step, value.tag) for event in events for value in event.summary.value]
    assert [step for step, tag in tagged if tag == 'cross_entropy/loss'] == [1, 2, 3]


def test_lines_of_an_earlier_start_keep_their_rates_and_a_closed_log_takes_no_more(tmp_path):
    kept = histories()
    kept[LOSSES][1], kept[RATES][1] = 2.5, 1e-3
    log = opened(tmp_path, kept, 1)
    log.close()
    before = lines_of(tmp_path)
    assert 1e-3 in before[0].values()
    log.step(2, 0, 2.25, 1e-3, 0.0, {})
    assert lines_of(tmp_path) == before
