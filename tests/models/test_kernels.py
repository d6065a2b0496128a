"""Hand-written gradients against numerical ones; dropout against its definition."""

import functools

import pytest
import torch

from misc.training.losses import WordLoss
from models import kernels
from models.dropout import Dropout
from models.kernels.pairs import XLinearPairs
from models.packing import Groups


def xlinear(query, key, value, *weights):
    return kernels.xlinear_mix(query, key, value, *weights, Groups([3, 2], 'cpu'), Groups([4, 5], 'cpu'), 0.4)


def xlinear_pairs(query, key, value, *weights):
    return XLinearPairs.apply(query, key, value, *weights, Groups([3, 2], 'cpu'), Groups([4, 5], 'cpu'), 0.4)


def attention(query, key, value, *, causal=False):
    mask = None if causal else torch.tensor([[True, True, False], [True, True, True]])[:, None, None]
    return kernels.attention(query, key, value, mask, causal, 0.4)


HAND_WRITTEN = {  # shapes of the inputs, and a function of them with a hand-written gradient
    'x-linear': ([(5, 8), (9, 8), (9, 8), (4, 8), (4,), (4,)], xlinear),
    'x-linear of all pairs at once': ([(5, 8), (9, 8), (9, 8), (4, 8), (4,), (4,)], xlinear_pairs),
    'attention': ([(2, 2, 4, 3), (2, 2, 3, 3), (2, 2, 3, 3)], attention),
    'causal attention': ([(2, 2, 3, 3)] * 3, functools.partial(attention, causal=True)),
    'dropout': ([(4, 6)], lambda rows: Dropout(0.4)(rows)),
    'dropout of an update': ([(4, 6), (4, 6)], lambda rows, update: Dropout(0.4).add(rows, update)),
    'relu and dropout': ([(4, 6)], lambda rows: kernels.relu_dropout_(rows * 1, 0.4)),
    'celu': ([(4, 6)], kernels.celu),
    'padding': ([(6, 2)], lambda rows: Groups([2, 0, 3, 1], 'cpu').pad(rows)),
    'loss': ([(5, 3), (7, 3), (7,), (5,)], lambda states, weight, bias, shares: WordLoss.apply(
        states, weight, bias, torch.tensor([3, 0, 6, 6, 1]), shares.detach(), 0.2)),
}


@pytest.mark.parametrize('name', HAND_WRITTEN)
def test_hand_written_gradients_equal_numerical_ones(name, monkeypatch):
    monkeypatch.setattr('misc.training.losses.TOKENS_AT_ONCE', 2)
    monkeypatch.setattr('models.kernels.xlinear.PAIRS', 8)
    shapes, function = HAND_WRITTEN[name]
    torch.manual_seed(1)
    inputs = [torch.randn(shape, dtype=torch.double, requires_grad=True) for shape in shapes]

    def with_fixed_seed(*tensors):
        torch.manual_seed(2)
        return function(*tensors)

    if name == 'loss':
        inputs[-1].requires_grad_(False)
    assert torch.autograd.gradcheck(with_fixed_seed, inputs)
    if name not in ('celu', 'padding', 'loss'):
        first, second = (function(*inputs) for _ in range(2))
        assert any((a != b).any() for a, b in zip(first, second)), 'nothing was dropped'


def test_the_mean_of_attention_with_dropout_is_attention_without():
    torch.manual_seed(1)
    query, key, value = torch.randn(3, 2, 2, 5, 4)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])[:, None, None]
    for causal, one in ((False, mask), (True, None)):
        drawn = torch.stack([kernels.attention(query, key, value, one, causal, 0.2) for _ in range(4000)])
        expected = kernels.attention(query, key, value, one, causal)
        assert torch.allclose(drawn.mean(0), expected, atol=6 * float(drawn.std(0).max()) / 4000 ** 0.5)


@pytest.mark.parametrize('count', [101, 401])  # either side of SEEDING numbers
def test_dropout_drops_its_share_keeps_the_mean_and_has_the_gradient_of_its_mask(count):
    torch.manual_seed(1)
    for probability in (0.05, 0.5, 0.9):
        layer, ones = Dropout(probability), torch.ones(count, 500, requires_grad=True)
        out = layer(ones)
        assert float((out == 0).float().mean()) == pytest.approx(probability, abs=0.005)
        assert float(out.detach().mean()) == pytest.approx(1, abs=0.03)
        out.sum().backward()
        assert torch.equal(ones.grad, out)
        assert not torch.equal(layer(ones), out)
        rows = (out == 0).float().mean(1)  # no pattern along rows or columns
        assert float((rows - probability).abs().max()) < 0.12
        assert layer.eval()(ones) is ones


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32])
def test_what_is_not_dropped_after_relu_is_scaled_in_every_type(dtype):
    torch.manual_seed(1)
    rows = torch.randn(300, 500).to(dtype)
    out = kernels.relu_dropout_(rows.clone(), 0.25)
    kept = out != 0
    assert torch.equal(out[kept], (rows * torch.tensor(4 / 3)).to(dtype)[kept])
    assert float(kept[rows > 0].float().mean()) == pytest.approx(0.75, abs=0.005)
    assert not kept[rows <= 0].any()
