"""The pretend device of tests/helpers counts what a GPU would do, and computes what the CPU computes."""

import copy

import pytest
import torch

from misc.training.losses import caption_loss
from models.decoding import beam_search, sample
from tests.helpers.models import FAMILIES, batch_with_captions, make_model, name_of
from tests.helpers.pretend_device import BLOCK, DEVICE, Pretend, host, launches_of_lists, pretend_device


@pytest.mark.parametrize('changes', [dict(), *FAMILIES], ids=name_of)
def test_losses_gradients_and_captions_are_those_of_the_cpu(changes):
    model, batch = make_model(**changes), batch_with_captions()
    model.eval()
    expected = caption_loss(model, batch)['loss']
    expected.backward()
    with torch.no_grad():
        captions = [decode(model, model.encode(batch)) for decode in (greedy, beams)]
    with pretend_device() as counts:
        moved, there = copy.deepcopy(model).to(DEVICE), batch.pin_memory().to(DEVICE)
        moved.zero_grad()
        loss = caption_loss(moved, there)['loss']
        loss.backward()
        assert isinstance(loss, Pretend) and counts.kernels > 100
        assert torch.allclose(host(loss), expected, rtol=1e-5)
        for name, parameter in moved.named_parameters():
            gradient = model.get_parameter(name).grad
            assert (parameter.grad is None) == (gradient is None), name
            assert gradient is None or torch.allclose(host(parameter.grad), gradient, atol=1e-6), name
        with torch.no_grad():
            for decode, found in zip((greedy, beams), captions):
                assert torch.equal(host(decode(moved, moved.encode(there))), found)


def greedy(model, memory):
    return sample(model, memory, 6, greedy=True).captions


def beams(model, memory):
    return beam_search(model, memory, 6, 3).captions


# What to do with a tensor of the device and one of the host -> how often the host waits.
WAITS = {
    'reading a number': (lambda here, there: here.sum().item(), 1),
    'a condition': (lambda here, there: bool(here.any()), 1),
    'a list': (lambda here, there: here.tolist(), 1),
    'moving to the host': (lambda here, there: (here.cpu(), here.to('cpu')), 2),
    'moving to the host later': (lambda here, there: here.to('cpu', non_blocking=True), 0),
    'moving from the host': (lambda here, there: there.to(DEVICE), 1),
    'moving from memory that is not pinned': (lambda here, there: there.to(DEVICE, non_blocking=True), 1),
    'moving from pinned memory': (lambda here, there: there.pin_memory()[1:].to(DEVICE, non_blocking=True), 0),
    'a tensor of numbers': (lambda here, there: torch.tensor([1, 2], device=DEVICE), 1),
    'new tensors': (lambda here, there: torch.zeros(3, device=DEVICE) + torch.rand(3, device=DEVICE), 0),
    'choosing by a mask': (lambda here, there: here[here > 1], 1),
    'setting by a mask': (lambda here, there: here.clone().__setitem__(here > 1, 0.0), 0),
    'choosing by numbers': (lambda here, there: here[here.argsort()], 0),
    'places': (lambda here, there: here.nonzero(), 1),
    'a histogram': (lambda here, there: here.long().bincount(), 2),
    'repeating': (lambda here, there: here.repeat_interleave(here.long()), 1),
    'repeating to a known size': (lambda here, there: here.repeat_interleave(here.long(), output_size=3), 0),
}


@pytest.mark.parametrize('name', WAITS)
def test_waits_of_the_host_are_counted(name):
    work, waits = WAITS[name]
    with pretend_device() as counts:
        here = torch.tensor([0.0, 1.0, 2.0]).to(DEVICE)
        counts.clear()
        work(here, torch.tensor([1.0, 2.0, 3.0]))
        assert counts.waits.total() == waits
        assert all('test_pretend_device.py:' in wait for wait in counts.waits)


def test_an_operation_on_mixed_devices_is_refused():
    with pretend_device():
        here, there = torch.ones(3, device=DEVICE), torch.ones(3)
        for work in (lambda: here + there, lambda: torch.where(there > 0, here, 0.0), lambda: here[there.long()],
                     lambda: torch.cat((here, there)), lambda: here.add_(there),
                     lambda: torch.nn.functional.linear(here, there[None])):
            with pytest.raises(RuntimeError, match='mixes devices'):
                work()
        assert host(here + torch.tensor(2.0)).tolist() == [3.0] * 3  # single numbers may come from the host


def test_lists_of_tensors_are_worked_through_by_few_kernels():
    assert launches_of_lists([1] * 110, 1) == 1 and launches_of_lists([1] * 111, 1) == 2
    assert launches_of_lists([1] * 37, 4) == 2  # 36 tensors of four lists a launch
    assert launches_of_lists([320 * BLOCK], 1) == 1 and launches_of_lists([321 * BLOCK], 1) == 2
    assert launches_of_lists([], 1) == 0


def test_kernels_copies_and_operations_are_counted_by_place():
    with pretend_device() as counts:
        rows = torch.ones(2, 3).pin_memory().to(DEVICE, non_blocking=True)
        rows.view(3, 2).t().mm(rows.t()).add_(1)
        assert counts.operations == {'copy from the host': 1, 'mm': 1, 'add_': 1}
        assert counts.kernels == 3 and counts.copies.total() == 1 and not counts.waits
        assert [shapes for name, shapes in counts.trace if 'mm' in name] == [((2, 3), (3, 2))]
        assert set(counts.by_file()) == {'tests/project/test_pretend_device.py'}
        counts.clear()
        assert not counts.kernels and not counts.trace
