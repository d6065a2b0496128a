"""What a training step asks of a GPU: ceilings on kernels and on waits of the host, counted without one.

The model has the layers of the README's and the batch its images, regions and captions, which decide the counts; only
the widths are small.
"""

import pytest
import torch

import train
from misc.training.cider import CiderD
from misc.training.losses import all_finite, caption_loss
from misc.training.optim import build_optimiser, set_rate
from misc.training.rewards import Rewards
from misc.training.step import guarded_step
from models.decoding import beam_search, sample
from scripts.benchmarking.made_up import Sizes, made_up_batch, made_up_model, model_options, region_counts
from scripts.benchmarking.workloads import REGIONS, WORDS_SEED
from tests import naive
from tests.helpers.pretend_device import DEVICE, host, pretend_device

NARROW = Sizes('--input_encoding_size 64 --ff_size 96 --img_feat_size 48', words=200)


@pytest.fixture
def work():
    """The model and the batch, on the CPU."""
    batch = made_up_batch(REGIONS, NARROW, model_options(NARROW), WORDS_SEED)
    return made_up_model(NARROW, batch).train(), batch


def test_a_cross_entropy_step_launches_few_kernels_and_never_waits(work):
    model, batch = work
    with pretend_device() as counts:
        model.to(DEVICE)
        counts.clear()
        loss = caption_loss(model, batch.pin_memory().to(DEVICE))['loss']
        loss.backward()
        assert not counts.waits, counts.waits
        assert counts.kernels <= 4200, counts.by_file()


@torch.no_grad()
@pytest.mark.parametrize('method, images', [('greedy', 15), ('samples', 15), ('beams', 50)])
def test_decoding_launches_few_kernels_and_never_waits(work, method, images):
    model, batch = work
    if images == 50:
        batch = made_up_batch(region_counts(50, NARROW), NARROW, model_options(NARROW), 2)
    with pretend_device() as counts:
        memory = model.eval().to(DEVICE).encode(batch.pin_memory().to(DEVICE))
        uniforms = torch.rand(images * 5, 16, device=DEVICE)
        counts.clear()
        if method == 'beams':
            found = beam_search(model, memory, 16, 5)
        else:
            found = sample(model, memory, 16, greedy=True) if method == 'greedy' else sample(
                model, memory, 16, copies=5, uniforms=uniforms)
        assert not counts.waits, counts.waits
        assert counts.kernels <= 4800, counts.by_file()
        assert len(set((host(found.captions) > 0).sum(2).flatten().tolist())) > 2  # captions of different lengths


def test_a_self_critical_step_launches_few_kernels_and_waits_once(work):
    model, batch = work
    references = batch.captions.numpy()
    rewards = Rewards(CiderD(naive.ngram_frequency(references), 15), lambda i: references[i], 16)
    with pretend_device() as counts:
        parameters = list(model.to(DEVICE).parameters())
        optimiser = build_optimiser(parameters, 'adam')
        set_rate(optimiser, 1e-4)
        batch = batch.pin_memory().to(DEVICE)
        counts.clear()
        terms, statistics = train.self_critical(model, rewards, batch, samples=5, longest=16, seed=1, amp='off')
        terms['loss'].backward()
        finite = all_finite(terms['loss'], parameters)
        torch.nn.utils.clip_grad_value_(parameters, 0.1)
        guarded_step(optimiser, finite)
        assert counts.waits.total() <= 2, counts.waits
        assert counts.kernels <= 12400, counts.by_file()
        assert statistics['reward'] > 0 and host(finite)


def test_check_clipping_and_optimiser_launch_few_kernels():
    sizes = Sizes()  # the real ones: lists of large tensors take more kernels
    batch = made_up_batch(REGIONS[:1], sizes, model_options(sizes), 1, copies=1)
    model = made_up_model(sizes, batch)
    with pretend_device() as counts:
        parameters = list(model.to(DEVICE).parameters())
        optimiser = build_optimiser(parameters, 'adam')
        set_rate(optimiser, 1e-4)
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        counts.clear()
        finite = all_finite(torch.zeros((), device=DEVICE), parameters)
        torch.nn.utils.clip_grad_value_(parameters, 0.1)
        guarded_step(optimiser, finite)
        assert host(finite) and not counts.waits
        assert counts.kernels <= 60, counts.by_file()


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf'), 3e38])
@pytest.mark.parametrize('place', ['the loss', 'a gradient'])
def test_a_number_that_is_not_finite_is_found_on_every_device(value, place):
    weights = [torch.nn.Parameter(torch.ones(3)) for _ in range(3)]
    for parameter in weights[:2]:
        parameter.grad = torch.full((3,), 3e38)
        parameter.grad[1] = -3e38
    loss = torch.tensor(3e38)
    if place == 'the loss':
        loss.fill_(value)
    else:
        weights[1].grad[2] = value
    expected = value == 3e38
    assert bool(all_finite(loss, weights)) == expected
    with pretend_device():
        there = [torch.nn.Parameter(parameter.detach().to(DEVICE)) for parameter in weights]
        for one, other in zip(there[:2], weights):
            one.grad = other.grad.to(DEVICE)
        assert bool(host(all_finite(loss.to(DEVICE), there))) == expected
