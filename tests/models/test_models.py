"""The networks against their formulas (`tests/naive.py`), to 1e-5."""

import functools

import pytest
import torch

from misc.training.losses import WordLoss, word_loss
from models import recurrent
from models.attention import CELU, XLinearMix, attend
from models.dropout import Dropout, relu_dropout_
from models.packing import Groups
from tests import naive
from tests.helpers.models import FAMILIES, RELATIONS, make_batch, make_captions, make_model, name_of, per_image

VARIANTS = [dict(), dict(enc_pos_type='g2'), dict(enc_pos_type='box-coord'),
            dict(enc_pos_embedding=False), dict(cross_attn='dot-product'), dict(norm='rms'),
            dict(norm='deviation'), dict(use_bn=2), dict(ff_activation='gelu'), dict(heads=1),
            dict(caption_model='transformer', cross_attn='dot-product'), dict(caption_model='transformer')]
OTHERS = [*FAMILIES, {**RELATIONS, 'box_trignometric_embedding': False},
          {**RELATIONS, 'legacy_extra_skip': True},
          dict(caption_model='relation_transformer'), dict(caption_model='show_tell', rnn_type='gru'),
          dict(caption_model='show_attend_tell', rnn_type='gru'), dict(caption_model='topdown', use_bn=1)]


@pytest.mark.parametrize('changes', VARIANTS + OTHERS, ids=name_of)
def test_a_batch_gives_what_the_formulas_give_for_one_caption_at_a_time(changes):
    model, batch, captions = make_model(**changes).eval(), make_batch(), make_captions()
    log_probs = model(model.encode(batch), captions)
    I, S, T = captions.shape
    for i, (features, grids, boxes) in enumerate(per_image(batch)):
        regions = naive.encode(model, features, grids, boxes)
        for s in range(S):
            words = captions[i, s][captions[i, s] > 0].tolist()
            expected = naive.next_word_log_probs(model, regions, words)
            assert torch.allclose(log_probs[i, s, :len(words) + 1], expected, atol=1e-5)
            assert not log_probs[i, s, len(words) + 1:].any()


@pytest.fixture
def doubles():
    """Double precision: geometry's angles reach 700, where single precision tells 6e-5 apart."""
    torch.set_default_dtype(torch.double)
    yield
    torch.set_default_dtype(torch.float)


@pytest.mark.parametrize('changes', [dict(), dict(cross_attn='dot-product', norm='rms'), *OTHERS],
                         ids=name_of)
def test_gradients_equal_those_of_the_formulas(changes, request):
    if 'relation' in changes.get('caption_model', ''):
        request.getfixturevalue('doubles')
    model, batch, captions = make_model(**changes).eval(), make_batch(), make_captions()

    def gradients(loss):
        model.zero_grad()
        loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    weight = torch.randn(captions.shape[:2] + (captions.shape[2] + 1, 11))
    fast = gradients((model(model.encode(batch), captions) * weight).sum())
    loss = 0
    for i, (features, grids, boxes) in enumerate(per_image(batch)):
        regions = naive.encode(model, features, grids, boxes)
        for s in range(captions.shape[1]):
            words = captions[i, s][captions[i, s] > 0].tolist()
            out = naive.next_word_log_probs(model, regions, words)
            loss = loss + (out * weight[i, s, :len(out)]).sum()
    slow = gradients(loss)
    for name in slow:
        scale = slow[name].abs().max().clamp(min=1)
        # A softmax does not feel the bias of its logits; rounding alone differs there.
        assert torch.allclose(fast.get(name, torch.zeros_like(slow[name])) / scale,
                              slow[name] / scale, atol=1e-5), name


def mixed_in(query, key, value, *weights):
    return XLinearMix.apply(query, key, value, *weights, Groups([3, 2], 'cpu'), Groups([4, 5], 'cpu'), 0.4)


def attended(query, key, value, *, causal=False):
    mask = None if causal else torch.tensor([[True, True, False], [True, True, True]])[:, None, None]
    return attend(query, key, value, mask, causal, 0.4)


HAND_WRITTEN = {  # shapes of the inputs, and a function of them whose gradient is written by hand
    'x-linear': ([(5, 8), (9, 8), (9, 8), (4, 8), (4,), (4,)], mixed_in),
    'attention': ([(2, 2, 4, 3), (2, 2, 3, 3), (2, 2, 3, 3)], attended),
    'causal attention': ([(2, 2, 3, 3)] * 3, functools.partial(attended, causal=True)),
    'dropout': ([(4, 6)], lambda rows: Dropout(0.4)(rows)),
    'dropout of an update': ([(4, 6), (4, 6)], lambda rows, update: Dropout(0.4).add(rows, update)),
    'relu and dropout': ([(4, 6)], lambda rows: relu_dropout_(rows * 1, 0.4, True)),
    'celu': ([(4, 6)], CELU.apply),
    'padding': ([(6, 2)], lambda rows: Groups([2, 0, 3, 1], 'cpu').pad(rows)),
    'loss': ([(5, 3), (7, 3), (7,), (5,)], lambda states, weight, bias, shares: WordLoss.apply(
        states, weight, bias, torch.tensor([3, 0, 6, 6, 1]), shares.detach(), 0.2)),
}


@pytest.mark.parametrize('name', HAND_WRITTEN)
def test_a_gradient_written_by_hand_is_that_of_its_function(name, monkeypatch):
    monkeypatch.setattr('misc.training.losses.BLOCK', 2)
    monkeypatch.setattr('models.attention.PAIRS', 8)
    shapes, function = HAND_WRITTEN[name]
    torch.manual_seed(1)
    inputs = [torch.randn(shape, dtype=torch.double, requires_grad=True) for shape in shapes]

    def same_draws(*tensors):
        torch.manual_seed(2)
        return function(*tensors)

    if name == 'loss':
        inputs[-1].requires_grad_(False)
    assert torch.autograd.gradcheck(same_draws, inputs)
    if name not in ('celu', 'padding', 'loss'):
        first, second = (function(*inputs) for _ in range(2))
        assert any((a != b).any() for a, b in zip(first, second)), 'nothing was dropped'


def test_attention_with_dropout_has_the_mean_of_attention_without():
    torch.manual_seed(1)
    query, key, value = torch.randn(3, 2, 2, 5, 4)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])[:, None, None]
    for causal, one in ((False, mask), (True, None)):
        drawn = torch.stack([attend(query, key, value, one, causal, 0.2) for _ in range(4000)])
        expected = attend(query, key, value, one, causal)
        assert torch.allclose(drawn.mean(0), expected, atol=6 * float(drawn.std(0).max()) / 4000 ** 0.5)


@pytest.mark.parametrize('smoothing', (0.0, 0.3))
def test_the_loss_in_blocks_is_the_mean_cross_entropy(smoothing, monkeypatch):
    monkeypatch.setattr('misc.training.losses.BLOCK', 3)
    torch.manual_seed(1)
    states, output, targets = torch.randn(8, 6), torch.nn.Linear(6, 11), torch.randint(0, 11, (8,))
    found = word_loss(states, output, targets, torch.full((8,), 1 / 8), smoothing)
    expected = naive.cross_entropy(naive.linear(output, states).log_softmax(1), targets, smoothing)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_dropout_drops_its_share_keeps_the_mean_and_has_the_gradient_of_its_mask():
    for probability in (0.05, 0.5, 0.9):
        layer, ones = Dropout(probability), torch.ones(401, 500, requires_grad=True)
        out = layer(ones)
        assert float((out == 0).float().mean()) == pytest.approx(probability, abs=0.005)
        assert float(out.detach().mean()) == pytest.approx(1, abs=0.03)
        out.sum().backward()
        assert torch.equal(ones.grad, out)
        assert not torch.equal(layer(ones), out)
        rows = (out == 0).float().mean(1)  # no pattern along rows or columns
        assert float((rows - probability).abs().max()) < 0.12
        assert layer.eval()(ones) is ones


def test_step_by_step_with_a_cache_equals_teacher_forcing():
    for changes in (dict(), dict(cross_attn='dot-product'), *OTHERS):
        model, batch = make_model(**changes).eval(), make_batch()
        captions = torch.randint(1, 11, (3, 2, 6))
        memory = model.encode(batch)
        expected = model(memory, captions).view(6, 7, 11)
        state, words = model.start(memory, 2), torch.zeros(6, dtype=torch.long)
        for t in range(6):
            log_probs, state = model.step(words, state)
            assert torch.allclose(log_probs, expected[:, t], atol=1e-5)
            words = captions.view(6, 6)[:, t]


def test_selecting_rows_of_a_state_keeps_each_row_with_its_image():
    for changes in (dict(), dict(cross_attn='dot-product'), *OTHERS):
        model, batch = make_model(**changes).eval(), make_batch()
        memory = model.encode(batch)
        words = torch.tensor([1, 2, 3, 4, 5, 6])
        _, state = model.step(torch.zeros(6, dtype=torch.long), model.start(memory, 2))
        expected, _ = model.step(words, state)
        rows = torch.tensor([1, 0, 0, 5])  # the second image is let go
        found, _ = model.step(words[rows], state.select(rows))
        assert torch.allclose(found, expected[rows], atol=1e-5)


def test_spatial_pe_and_relation_transformer_know_places_and_the_others_do_not():
    captions = make_captions()
    for changes in (dict(), *FAMILIES, dict(caption_model='transformer')):
        model, batch, moved = make_model(**changes).eval(), make_batch(), make_batch()
        moved.grids, moved.boxes = batch.grids.flip(1), batch.boxes.flip(0)
        same = torch.equal(model(model.encode(batch), captions), model(model.encode(moved), captions))
        assert same is not (changes in (dict(), RELATIONS))
        assert ('grids' in model.needs, 'boxes' in model.needs) == (changes == dict(), changes == RELATIONS)


def test_scheduled_sampling_feeds_words_drawn_from_the_models_own_distribution(monkeypatch):
    plain = recurrent.draw
    for changes in FAMILIES[1:]:
        model = make_model(**changes, drop_prob_lm=0.0).train()
        with torch.no_grad():
            model.output.weight *= 3
        batch, drawn = make_batch(), []

        def draw(log_probs, drawn=drawn):
            words = plain(log_probs)
            drawn.append((log_probs, words))
            return words
        monkeypatch.setattr(recurrent, 'draw', draw)
        captions = make_captions(1)
        lengths = (captions.view(12, 6) > 0).sum(1)
        memory = model.encode(batch)
        expected = model(memory, captions)
        model.scheduled_sampling_prob = 1.0
        found = model(memory, captions).view(12, 7, 11)
        fed = torch.zeros(12, 6, dtype=torch.long)  # what came in after the start token
        for t, (_, words) in enumerate(drawn):
            fed[lengths > t, t] = words
        for row, (features, _, _) in zip(range(0, 12, 4), per_image(batch)):
            for k in range(row, row + 4):
                own = naive.next_word_log_probs(model, features, fed[k, :lengths[k]].tolist())
                assert torch.allclose(found[k, :lengths[k] + 1], own, atol=1e-5)
        for t, (log_probs, _) in enumerate(drawn):  # drawn from what was said one word before
            assert torch.allclose(log_probs, found[lengths > t, t], atol=1e-5)
        assert torch.equal(model.eval()(memory, captions), expected)
        model.train().scheduled_sampling_prob, fed_own = 0.3, []
        monkeypatch.setattr(recurrent, 'draw', lambda p, fed=fed_own: (fed.append(len(p)), plain(p))[1])
        for _ in range(60):
            model(memory, captions)
        assert sum(fed_own) / (60 * int(lengths.sum())) == pytest.approx(0.3, abs=0.04)


def test_groups_pad_and_pack_are_inverse_and_select_follows_the_rows():
    groups = Groups([2, 0, 3, 1], 'cpu')
    rows = torch.arange(6.)[:, None]
    assert torch.equal(groups.pack(groups.pad(rows)), rows)
    assert groups.pad(rows)[..., 0].tolist() == [[0, 1, 0], [0, 0, 0], [2, 3, 4], [5, 0, 0]]
    assert groups.mask.sum(1).tolist() == [2, 0, 3, 1]
    chosen, smaller = groups.select([2, 3, 0])
    assert chosen.tolist() == [2, 3, 4, 5, 0, 1] and smaller.counts == [3, 1, 2]
