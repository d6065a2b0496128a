"""Training steps in bfloat16 (`--amp bf16`) for every family of models; batch normalisation."""

import math
from unittest import mock

import numpy as np
import pytest
import torch

import train
from misc.machine import precision
from misc.training.losses import caption_loss
from models import geometry
from models.norms import BatchNorm
from models.recurrent import RecurrentCaptioner
from tests.helpers.models import FAMILIES, make_batch, make_captions, make_model

CPU = torch.device('cpu')
MODELS = [dict(), dict(cross_attn='dot-product', ff_activation='gelu'), *FAMILIES]


def model_without_dropout(changes):
    """A model without dropout, and a batch for it."""
    model, batch = make_model(**{**changes, 'dropout': 0.0, 'drop_prob_lm': 0.0}), make_batch()
    batch.device = CPU
    batch.captions, batch.lengths = make_captions(), None
    batch.image_ids, batch.images, batch.epoch = [1, 2, 3], [0, 1, 2], 0
    return model, batch


def gradients(model, loss):
    """{name: gradient} of those parameters that have one."""
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def cosine(one, other):
    """The cosine similarity of two sets of gradients of the same parameters."""
    flat = [torch.cat([found[name].flatten() for name in sorted(one)]) for found in (one, other)]
    return float(torch.cosine_similarity(*flat, 0))


@pytest.mark.parametrize('changes', MODELS, ids=str)
def test_bfloat16_has_nearly_the_loss_and_gradients_of_float32(changes):
    model, batch = model_without_dropout(changes)
    found = {}
    for amp in ('off', 'bf16'):
        with precision(CPU, amp):
            loss = caption_loss(model, batch)['loss']
        found[amp] = loss.item(), gradients(model, loss)
    (loss, exact), (low_loss, low) = found['off'], found['bf16']
    assert low_loss == pytest.approx(loss, rel=0.01) and low_loss != loss
    assert set(low) == set(exact) and cosine(low, exact) > 0.99


@pytest.mark.parametrize('changes', MODELS, ids=str)
def test_self_critical_gradients_reach_every_weight_in_bfloat16_too(changes):
    model, batch = model_without_dropout(changes)
    found = {}
    for amp in ('off', 'bf16'):
        advantage = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
        rewards = mock.Mock(baseline='greedy', return_value=(advantage, {}))
        terms, _ = train.self_critical(model, rewards, batch, samples=4, longest=6, seed=1, amp=amp)
        found[amp] = gradients(model, terms['loss'])
    assert set(found['off']) == set(found['bf16'])


@pytest.mark.parametrize('changes', MODELS, ids=str)
def test_log_probabilities_are_float32(changes):
    model, batch = model_without_dropout(changes)
    with torch.no_grad(), precision(CPU, 'bf16'):
        memory = model.encode(batch)
        log_probs, state = model.step(torch.zeros(3, dtype=torch.long), model.start(memory))
        teacher, _ = model.word_log_probs(memory, batch.captions)
    for found in (log_probs, teacher):
        assert found.dtype == torch.float32
        assert torch.allclose(found.exp().sum(1), torch.ones(()), atol=1e-5)
    for cell in state.caches if isinstance(model, RecurrentCaptioner) else ():
        assert all(part.dtype == torch.float32 for part in cell)


def test_geometry_is_computed_in_float32():
    model, batch = model_without_dropout(FAMILIES[0])
    from models.packing import Groups
    groups = Groups(batch.counts, 'cpu')
    with precision(CPU, 'bf16'):
        low = model.relations(batch.boxes, groups)
    assert all(map(torch.equal, low, model.relations(batch.boxes, groups)))


def test_the_sines_of_large_angles_are_as_exact_as_those_of_small_ones():
    numbers = torch.rand(50, 4, dtype=torch.double, generator=torch.Generator().manual_seed(0)) * 14 - 7
    found = geometry.waves(numbers, torch.float32)
    steps = [100 / 1000 ** (i / 8) for i in range(8)]
    angles = [[number * step for number in row for step in steps] for row in numbers.tolist()]
    expected = torch.tensor([[math.sin(angle) for angle in row] + [math.cos(angle) for angle in row]
                             for row in angles], dtype=torch.double)
    assert found.dtype == torch.float32 and float((found - expected).abs().max()) < 1e-6


def test_running_statistics_come_from_passes_with_gradients_and_normalise_single_rows():
    norm = BatchNorm(4).train()
    rows = torch.randn(6, 4) * 3 + 1
    with torch.no_grad():
        without_gradients = norm(rows)
    assert torch.equal(norm.running_mean, torch.zeros(4))
    assert torch.allclose(without_gradients.mean(0), torch.zeros(4), atol=1e-6)
    assert torch.allclose(norm(rows), without_gradients)
    assert torch.allclose(norm.running_mean, rows.mean(0) * 0.1)
    seen = norm.running_mean.clone()
    norm(rows[:1])
    assert torch.equal(norm.running_mean, seen)
    assert torch.equal(norm(rows[:1]), norm.eval()(rows[:1]))
