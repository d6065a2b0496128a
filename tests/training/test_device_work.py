"""What the device is asked to do: ceilings on kernels and on waits of the host, counted without a GPU."""

import pytest
import torch

from misc.training.losses import all_finite
from scripts.benchmarking.made_up import Sizes, region_counts
from scripts.benchmarking.workloads import REGIONS, WORDS_SEED
from tests.helpers import device_counts
from tests.helpers.device_counts import counted
from tests.helpers.pretend_device import DEVICE, host, pretend_device

# The layers of the README's model and the batch decide the counts of all but lists of large tensors; narrow is quick.
NARROW = Sizes('--input_encoding_size 64 --ff_size 96 --img_feat_size 48', words=200)


def test_a_cross_entropy_step_launches_few_kernels_and_never_waits():
    total = copies = 0
    for name, counts, _ in counted(device_counts.cross_entropy, REGIONS, WORDS_SEED, NARROW):
        assert not counts.waits, (name, counts.waits)
        total, copies = total + counts.kernels, copies + counts.copies.total()
    assert total <= 1900 and copies <= 5  # features, grids, boxes, mean features, and all whole numbers


def test_check_clipping_and_optimiser_launch_few_kernels_and_never_wait():
    for _, counts, finite in counted(device_counts.update, REGIONS[:1], 1, Sizes()):
        assert host(finite) and not counts.waits, counts.waits
        assert counts.kernels <= 60, counts.by_file()


@pytest.mark.parametrize('work, regions, seed', [
    (device_counts.greedy_and_samples, REGIONS, WORDS_SEED), (device_counts.beams, region_counts(50, NARROW), 2)])
def test_decoding_launches_few_kernels_and_never_waits(work, regions, seed):
    for name, counts, captions in counted(work, regions, seed, NARROW):
        assert not counts.waits, (name, counts.waits)
        assert counts.kernels <= 4800, (name, counts.by_file())
        assert len(set((host(captions) > 0).sum(2).flatten().tolist())) > 2  # captions of different lengths


def test_a_self_critical_step_launches_few_kernels_and_waits_once():
    kernels = waits = copies = 0
    for _, counts, statistics in counted(device_counts.self_critical, REGIONS, WORDS_SEED, NARROW):
        kernels, waits = kernels + counts.kernels, waits + counts.waits.total()
        copies += counts.copies.total()
        assert statistics is None or statistics['reward'] > 0
    assert waits <= 2 and copies <= 2  # random numbers and advantages
    assert kernels <= 12000 - 60  # and those of the update


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
