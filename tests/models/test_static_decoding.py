"""Decoding with static shapes, as on a GPU: the captions of the compacting form, and nothing read from the device."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.decoding import Constraints, beam_search, sample
from models.ensemble import Ensemble
from tests.helpers.models import FAMILIES, batch_with_captions, make_batch, make_model, name_of
from tests.helpers.pretend_device import DEVICE, host, pretend_device

LONGEST = 6
MODELS = [dict(), dict(cross_attn='dot-product'), dict(caption_model='transformer', norm='rms'), *FAMILIES,
          dict(caption_model='show_attend_tell', rnn_type='gru')]
CONSTRAINTS = [dict(), dict(unknown=10), dict(no_repeat=True), dict(no_trigram_repeat=True), dict(endings=(2, 5, 7)),
               dict(unknown=10, no_repeat=True, no_trigram_repeat=True)]
METHODS = {
    'greedy': dict(greedy=True), 'samples': dict(copies=4),
    'cut samples': dict(copies=2, temperature=2.0, top_k=4, top_p=0.8),
    'beams': dict(beam_size=4), 'long beams': dict(beam_size=3, max_ppl=True),
    'more beams than words': dict(beam_size=14), 'diverse beams': dict(beam_size=6, group_size=3)}


def id_of(changes):
    return 'ensemble' if isinstance(changes, list) else name_of(changes)


def decode(method, model, batch, rules):
    """All captions of the batch by a method of `METHODS` with some of `CONSTRAINTS`."""
    options, memory, constraints = METHODS[method], model.encode(batch), Constraints(**rules)
    if 'beam_size' in options:
        return beam_search(model, memory, LONGEST, results=options['beam_size'], constraints=constraints, **options)
    rows = len(memory) * options.get('copies', 1)
    uniforms = torch.rand(rows, LONGEST, generator=torch.Generator().manual_seed(3))
    if batch.features.device == DEVICE:
        uniforms = uniforms.pin_memory().to(DEVICE, non_blocking=True)
    return sample(model, memory, LONGEST, constraints=constraints, uniforms=uniforms, **options)


def build(changes, seed=0):
    """A model whose captions end at different words, in evaluation mode; several dicts make an ensemble."""
    if isinstance(changes, list):
        return Ensemble([build(one, seed + number) for number, one in enumerate(changes)]).eval()
    model = make_model(seed, **changes).eval()
    with torch.no_grad():
        model.output.weight *= 6
        model.output.bias[0] += 1.5 * (seed % 3)
    return model


@pytest.fixture
def static(monkeypatch):
    """`decode` on the CPU without compaction."""
    def decode_statically(*args):
        with monkeypatch.context() as patch:
            patch.setattr('models.base.drops_rows', lambda device: False)
            return decode(*args)
    return decode_statically


@torch.no_grad()
@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('changes', [*MODELS, MODELS], ids=id_of)
def test_static_shapes_give_the_captions_of_the_compacting_form(method, changes, static):
    lengths = set()
    for seed in range(3):
        model, batch = build(changes, seed), make_batch(seed, counts=[4, 7, 1, 5])
        for rules in CONSTRAINTS:
            found, expected = static(method, model, batch, rules), decode(method, model, batch, rules)
            lengths |= set((expected.captions > 0).sum(2).flatten().tolist())
            real = expected.log_probs > -torch.inf
            assert torch.equal(found.captions, expected.captions)
            assert torch.equal(found.log_probs > -torch.inf, real)
            assert torch.allclose(found.log_probs[real], expected.log_probs[real], atol=1e-5)
    assert len(lengths) > 1  # rows did end at different words


class Trace(TorchDispatchMode):
    """Records each operation with the shapes of its tensors."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        shapes = [tuple(one.shape) for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        self.operations.append((str(function), shapes))
        return function(*args, **(kwargs or {}))


@torch.no_grad()
@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('changes', [*MODELS, MODELS[:4]], ids=id_of)
def test_operations_and_shapes_do_not_depend_on_the_numbers(method, changes, static):
    traces, captions = [], []
    for seed in (1, 5):
        model, batch = build(changes, seed), make_batch(seed)
        with Trace() as trace:
            captions.append(static(method, model, batch, CONSTRAINTS[-1]).captions)
        traces.append(trace.operations)
    assert traces[0] == traces[1] and not torch.equal(*captions)


@torch.no_grad()
@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('changes', [*MODELS, MODELS[:4]], ids=id_of)
def test_the_host_never_waits_for_the_device_and_no_operation_mixes_devices(method, changes):
    model, batch = build(changes), batch_with_captions()
    expected = decode(method, model, batch, CONSTRAINTS[-1])
    with pretend_device() as counts:
        model.to(DEVICE)
        counts.clear()
        found = decode(method, model, batch.pin_memory().to(DEVICE), CONSTRAINTS[-1])
        assert not counts.waits, counts.waits
        assert torch.equal(host(found.captions), expected.captions)
