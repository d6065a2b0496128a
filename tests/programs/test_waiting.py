"""The host of a training step never waits for the device or for data; a step that is not finite changes no weight."""

import functools
import itertools
import multiprocessing
import os
import signal
import time
import types
from unittest import mock

import pytest
import torch

import train
from dataloader import Prefetcher, worker_errors
from misc.cli import DataError
from misc.training import step as step_module
from misc.training.gradients import JointGradients
from misc.training.losses import all_finite
from misc.training.optim import build_optimiser
from misc.training.step import LateFlags, Step, Updater, guarded_step
from misc.training.transfers import Arriving
from models import build
from scripts.benchmarking.made_up import QUICK, made_up_batch, model_options
from tests.helpers import tiny
from tests.helpers.models import FAMILIES, make_options
from tests.helpers.pretend_device import DEVICE, host, pretend_device


def step_on_a_device(counts, options, smoothing=0.1, accumulate=1):
    """Gradients, check, clipping and update as in train.py, on the pretend device."""
    model = build(options, QUICK.words + 1, QUICK.longest).to(DEVICE)
    counts.clear()
    model.scheduled_sampling_prob = 0.25
    batch = made_up_batch([5, 3, 8], QUICK, options, seed=1)
    batch.boxes, batch.fc = torch.rand(16, 4), torch.rand(3, options.img_feat_size)
    batch = batch.pin_memory()
    parameters = list(model.parameters())
    run = types.SimpleNamespace(
        updater=types.SimpleNamespace(joint=JointGradients(parameters, DEVICE, lambda: None)), device=DEVICE,
        recorded=None, plan=types.SimpleNamespace(accumulate=accumulate),
        batches=types.SimpleNamespace(next=lambda: batch))
    phase = functools.partial(train.cross_entropy, model, smoothing=smoothing, word_dropout=0.1, blank=0, amp='off')
    batch, loss, _ = train.gradients(run, phase)
    finite = all_finite(loss, parameters)
    torch.nn.utils.clip_grad_value_(parameters, 0.1)
    guarded_step(build_optimiser(parameters, 'adam'), finite)
    return loss, finite


@pytest.mark.parametrize('changes', [
    *FAMILIES, dict(), dict(cross_attn='dot-product'), dict(enc_pos_embedding=False),
    dict(enc_pos_type='box-coord', norm='rms', ff_activation='gelu'), dict(caption_model='transformer')], ids=str)
@pytest.mark.parametrize('accumulate', [1, 2])
def test_a_step_never_waits_for_the_device_and_mixes_no_devices(changes, accumulate):
    options = model_options(QUICK)
    for name, value in vars(make_options(**changes)).items():
        if name in changes or name == 'dropout':
            setattr(options, name, value)
    with pretend_device() as counts:
        loss, finite = step_on_a_device(counts, options, accumulate=accumulate)
        assert loss.device == finite.device == DEVICE and host(finite)
        assert not counts.waits


@pytest.mark.parametrize('kind', ['adam', 'adamw', 'sgd', 'sgdmom', 'rmsprop', 'adagrad'])
def test_a_guarded_step_equals_a_plain_one_and_changes_no_weight_if_it_is_not_finite(kind):
    def weights(step, gradients, guarded):
        torch.manual_seed(1)
        parameters = [torch.nn.Parameter(torch.randn(3, 4)), torch.nn.Parameter(torch.randn(4))]
        optimiser = build_optimiser(parameters, kind)
        for group in optimiser.param_groups:
            group['lr'] = 0.1
        for gradient in gradients:
            for parameter in parameters:
                parameter.grad = torch.full_like(parameter, gradient)
            step(optimiser, all_finite(torch.zeros(()), parameters)) if guarded else optimiser.step()
        return torch.cat([parameter.detach().flatten() for parameter in parameters])

    plain = weights(None, [0.5, -0.2], False)
    assert torch.equal(weights(guarded_step, [0.5, -0.2], True), plain)
    guarded = weights(guarded_step, [0.5, -0.2, float('nan')], True)
    assert guarded.isfinite().all()
    if kind in ('adam', 'adamw', 'sgd', 'sgdmom'):  # fused: moments do not change either
        assert torch.equal(guarded, plain)
        assert torch.equal(weights(guarded_step, [0.5, float('inf'), -0.2], True), plain)


def test_a_finite_flag_is_read_one_step_later_and_before_anything_is_saved(monkeypatch):
    order = []

    def arriving(flag):
        order.append('sent')
        return types.SimpleNamespace(numbers=lambda: order.append('seen') or flag)
    monkeypatch.setattr(step_module, 'Arriving', arriving)
    flags = LateFlags()
    assert flags.settle() is None
    assert flags.send(torch.tensor(True), 'first') is None and order == ['sent']
    assert flags.send(torch.tensor(False), 'second') is None and order == ['sent', 'sent', 'seen']
    assert flags.send(torch.tensor(True), 'third') == 'second'
    assert flags.settle() is None and flags.settle() is None
    flags.send(torch.tensor(False), 'fourth')
    assert flags.settle() == 'fourth'


def test_numbers_arrive_by_an_asynchronous_copy_into_pinned_memory_and_an_event(monkeypatch):
    order = []
    event = types.SimpleNamespace(record=lambda stream: order.append(f'recorded on {stream}'),
                                  synchronize=lambda: order.append('waited'))
    monkeypatch.setattr(torch.cuda, 'Event', lambda: event)
    monkeypatch.setattr(torch.cuda, 'current_stream', lambda device: f'the stream of {device.type}')
    pinned = mock.Mock(copy_=lambda source, non_blocking: order.append('copied' if non_blocking else 'blocked'))
    monkeypatch.setattr(torch, 'empty', lambda shape, dtype, pin_memory: pin_memory and pinned)
    arriving = Arriving(mock.Mock(device=torch.device('cuda')))
    assert order == ['copied', 'recorded on the stream of cuda']
    assert arriving.numbers() is pinned and order[2:] == ['waited']


def test_items_are_prefetched_in_order_and_an_error_is_raised_in_its_place():
    fetched = []

    def items():
        for number in range(100):
            fetched.append(number)
            yield number
            if number == 5:
                raise DataError('the sixth')

    ahead = Prefetcher(items())
    assert not fetched
    assert [next(ahead) for _ in range(4)] == [0, 1, 2, 3]
    while len(fetched) < 6:
        time.sleep(0.01)  # the thread continues in the background
    assert [next(ahead), next(ahead)] == [4, 5]
    with pytest.raises(DataError, match='the sixth'):
        next(ahead)
    ahead.close()
    endless = Prefetcher(itertools.count())
    assert next(endless) == 0
    thread = endless.thread
    endless.close()
    assert not thread.is_alive()


@pytest.mark.filterwarnings('ignore:This DataLoader')
def test_a_dead_loader_worker_is_reported_wherever_the_training_is(tmp_path, monkeypatch):
    plain = train.train_step

    def step(run, phase):
        plain(run, phase)
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)
        time.sleep(0.2)  # not while it waits for a batch
    monkeypatch.setattr(train, 'train_step', step)
    corpus = tiny.write_corpus(tmp_path / 'corpus')
    with pytest.raises(DataError, match='a process that reads features died.*--num_workers'):
        tiny.run(train, tiny.train_flags(corpus, tmp_path / 'run', '--num_workers', 1, '--max_epochs', 9))


@pytest.mark.parametrize('end', [train.save, train.validate])
def test_nothing_is_saved_before_the_last_finite_flag_was_read(end):
    updater = Updater(torch.nn.Linear(1, 1), None, 0.1, DEVICE, 'a run')
    step = Step(7, 2, 0.1, [5])
    updater.flags = types.SimpleNamespace(settle=lambda: step)
    with pytest.raises(DataError, match='iteration 7 .*the loss or a gradient is not finite'):
        end(types.SimpleNamespace(updater=updater, validation=True))


def test_a_dead_loader_worker_is_reported_even_if_its_death_caused_another_error():
    def interrupted():
        try:
            raise RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed.')
        finally:
            {}.pop('a thread that was being started')
    with pytest.raises(DataError, match='a process that reads features died .*pid 7'), worker_errors():
        interrupted()
    for other in (KeyError('a word'), RuntimeError('a shape'), DataError('a file')):
        with pytest.raises(type(other), match=other.args[0]), worker_errors():
            raise other
