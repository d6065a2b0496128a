"""Cross-entropy steps as CUDA graphs, with a recorder that runs the same operations again on the pretend device."""

import dataclasses
import warnings

import pytest
import torch

from misc.training.losses import caption_loss
from models.step_graphs import KEPT, Layout, PaddedBatch, StepGraphs
from tests.helpers.models import FAMILIES, batch_with_captions, make_model, name_of
from tests.helpers.pretend_device import DEVICE, host, pretend_device
from tests.helpers.tape import record

MODELS = [dict(), dict(cross_attn='dot-product'), dict(caption_model='transformer', norm='rms')]


def batches(count, **changes):
    """Batches of the same layout with other regions, words and numbers."""
    found = []
    for seed in range(40):
        batch = batch_with_captions(seed, **changes)
        order = [seed % 3, (seed + 1) % 3, (seed + 2) % 3]
        batch.counts = [batch.counts[one] for one in order]
        if not found or Layout.of(batch) == Layout.of(found[0]):
            found.append(batch)
    assert len({tuple(batch.lengths) for batch in found[:count]}) == count
    return found[:count]


def plain(model, batch):
    """Loss and gradients of a batch without padding, on the CPU."""
    model.zero_grad(set_to_none=True)
    loss = caption_loss(model, batch)['loss']
    loss.backward()
    return loss.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}


def apart(found, expected):
    """How far loss and gradients are from those expected, relative to the largest gradient."""
    assert [name for name, gradient in found[1].items() if gradient is None] == [
        name for name, gradient in expected[1].items() if gradient is None]
    pairs = [(found[1][name], gradient) for name, gradient in expected[1].items() if gradient is not None]
    scale = max(gradient.abs().max() for _, gradient in pairs)
    return max(abs(found[0] - expected[0]), *((one - other).abs().max() / scale for one, other in pairs))


def on_device(model, graphs, batch):
    """The loss and the gradients that `graphs` leaves for a batch."""
    loss = graphs(dataclasses.replace(batch).pin_memory())
    return host(loss).clone(), {name: None if parameter.grad is None else host(parameter.grad).clone()
                                for name, parameter in model.named_parameters()}


def graphs_of(model, **changes):
    """`StepGraphs` on the pretend device."""
    given = dict(record=record, warm=lambda work: work())
    return StepGraphs(model, lambda batch: caption_loss(model, batch)['loss'], DEVICE, **{**given, **changes})


@pytest.mark.parametrize('changes', MODELS, ids=name_of)
def test_a_graph_gives_the_losses_and_gradients_of_other_batches_and_follows_the_weights(changes):
    records, found = [], []
    given = batches(5)
    model = make_model(dropout=0.0, drop_prob_lm=0.0, **changes)
    expected = []
    for number, batch in enumerate(given):
        if number == 3:
            change(model)
        expected.append(plain(model, batch))
    model = make_model(dropout=0.0, drop_prob_lm=0.0, **changes)
    with pretend_device() as counts:
        model.to(DEVICE)
        graphs = graphs_of(model, record=lambda work: (records.append(1), record(work))[1])
        for number, batch in enumerate(given):
            if number == 3:
                change(model)
            counts.clear()
            found.append(on_device(model, graphs, batch))
            if number:  # not where memory for the layout is made
                assert not counts.waits
                assert counts.copies.total() == 4, counts.copies  # features, grids, boxes, and all whole numbers
    assert len(records) == 1
    assert len({loss.item() for loss, _ in found}) == 5
    for one, other in zip(found, expected):
        assert apart(one, other) < 1e-5


@torch.no_grad()
def change(model):
    """Other weights in the same place, as an optimiser leaves them."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter += (torch.randn(parameter.shape, generator=generator) * 0.1).to(parameter.device)


def test_each_layout_has_its_graph_and_all_leave_the_gradients_in_one_place(monkeypatch):
    monkeypatch.setattr('models.step_graphs.KEPT', 2)
    first, second, third = (batches(3), [batch_with_captions(seed, copies=2) for seed in range(3)],
                            [batch_with_captions(seed, copies=1) for seed in range(3)])
    records, places = [], set()
    model = make_model()
    with pretend_device():
        model.to(DEVICE)
        graphs = graphs_of(model, record=lambda work: (records.append(1), record(work))[1])
        for number, batch in enumerate([*first, *second, *first]):
            on_device(model, graphs, batch)
            places.add(host(model.output.weight.grad).data_ptr())
            assert len(records) == (0, 1, 1, 1, 2, 2, 2, 2, 2)[number]
        assert len(places) == 1
        for batch in third:  # no room for more: kernel by kernel, without padding
            on_device(model, graphs, batch)
            assert host(model.output.weight.grad).data_ptr() not in places
        assert len(records) == len(graphs.steps) == 2


def test_padding_has_no_weight_and_layouts_are_few():
    given = batches(2)
    layout = Layout.of(given[0])
    padded = PaddedBatch(layout, given[0], torch.device('cpu'))
    with pretend_device():
        padded.fill(given[0])
    real = sum(given[0].lengths) + len(given[0].lengths)
    assert padded.tokens == real < layout.tokens
    for numbers in (padded.counts, padded.counts.on_device.tolist()):
        assert list(numbers[:3]) == given[0].counts and sum(numbers) == layout.regions
        assert max(numbers) <= layout.most_regions == padded.counts.longest
    tokens = padded.lengths.plus(1)
    assert sum(tokens) == layout.tokens and max(tokens) <= tokens.longest == layout.width + 1
    assert tokens.on_device.tolist() == tokens
    by_image = tokens.sums(layout.copies)
    assert max(by_image) <= by_image.longest and by_image.on_device.tolist() == by_image
    assert sum(count * some for count, some in zip(padded.counts, by_image)) <= layout.pairs
    assert all(count for count, some in zip(padded.counts, by_image) if some)  # a softmax over something

    layouts = set()
    generator = torch.Generator().manual_seed(0)
    for _ in range(500):  # batches as those of COCO
        batch = batch_with_captions(0)
        batch.counts = (torch.randn(15, generator=generator) * 20 + 45).clamp(10, 100).int().tolist()
        batch.lengths = (torch.randn(75, generator=generator) * 2.4 + 10.5).clamp(6, 16).round().int().tolist()
        batch.captions = torch.zeros(15, 5, 16)
        layouts.add(Layout.of(batch))
    assert len(layouts) <= KEPT


def test_dropout_acts_on_a_recorded_step():
    model, batch = make_model(), batch_with_captions(0)
    losses = []
    with pretend_device():
        model.to(DEVICE)
        graphs = graphs_of(model)
        for _ in range(4):
            losses.append(on_device(model, graphs, batch)[0].item())
    assert len(set(losses)) == 4


def test_nothing_is_copied_from_the_host_and_nothing_waits_in_what_is_recorded():
    model, batch = make_model(), batch_with_captions(0)
    with pretend_device() as counts:
        def checked(work):
            counts.clear()
            result = record(work)
            assert counts.kernels > 100
            assert not counts.copies and not counts.waits
            return result
        model.to(DEVICE)
        graphs = graphs_of(model, record=checked)
        for _ in range(2):
            on_device(model, graphs, batch)
        assert len(graphs.steps) == 1


def test_what_is_recorded_does_not_depend_on_the_batch():
    traces = []
    model = make_model()
    with pretend_device() as counts:
        model.to(DEVICE)
        for batch in batches(3):
            def traced(work):
                counts.clear()
                result = work()
                traces.append(list(counts.trace))
                return result
            graphs_of(model, warm=traced)(batch.pin_memory())
    assert traces[0] == traces[1] == traces[2]


@pytest.mark.parametrize('required', [False, True])
def test_where_recording_fails_training_goes_on_without_graphs_unless_they_are_required(required):
    def fail(work):
        work()
        raise RuntimeError('no memory')
    model, batch = make_model(dropout=0.0, drop_prob_lm=0.0), batch_with_captions(0)
    expected = plain(model, batch)
    with pretend_device():
        model.to(DEVICE)
        graphs = graphs_of(model, required=required, record=fail)
        on_device(model, graphs, batch)
        if required:
            with pytest.raises(RuntimeError, match='no memory'):
                graphs(batch)
            return
        with pytest.warns(UserWarning, match='steps go on without CUDA graphs, which failed: no memory'):
            assert apart(on_device(model, graphs, batch), expected) < 1e-5
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            assert apart(on_device(model, graphs, batch), expected) < 1e-5


@pytest.mark.parametrize('changes', [*FAMILIES, dict(use_bn=2)], ids=name_of)
def test_models_whose_shapes_depend_on_the_batch_are_not_recorded(changes):
    assert not make_model(**changes).takes_padding()
    assert all(make_model(**one).takes_padding() for one in MODELS)
