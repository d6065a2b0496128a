"""The networks against their formulas (`tests/naive.py`), to 1e-5."""

import math

import pytest
import torch

import models
from misc.training.losses import word_loss
from models import attention, cells, norms, position, recurrent, xlinear
from models.base import dropping_words
from models.dropout import Dropout
from models.packing import Groups
from tests import naive
from tests.helpers.models import (
    FAMILIES,
    RELATIONS,
    make_batch,
    make_captions,
    make_model,
    make_options,
    name_of,
    per_image,
)

VARIANTS = [dict(), dict(enc_pos_type='g2'), dict(enc_pos_type='box-coord'),
            dict(enc_pos_embedding=False), dict(cross_attn='dot-product'), dict(norm='rms'),
            dict(norm='deviation'), dict(use_bn=2), dict(ff_activation='gelu'), dict(heads=1),
            dict(caption_model='transformer', cross_attn='dot-product'), dict(caption_model='transformer')]
OTHERS = [*FAMILIES, {**RELATIONS, 'box_trignometric_embedding': False},
          {**RELATIONS, 'legacy_extra_skip': True},
          dict(caption_model='relation_transformer'), dict(caption_model='show_tell', rnn_type='gru'),
          dict(caption_model='show_attend_tell', rnn_type='gru'), dict(caption_model='topdown', use_bn=1)]


@pytest.mark.parametrize('changes', VARIANTS + OTHERS, ids=name_of)
def test_a_batch_equals_the_formulas_for_one_caption_at_a_time(changes):
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


@pytest.mark.parametrize('changes', [dict(), *FAMILIES], ids=name_of)
def test_word_dropout_replaces_words_that_are_read_and_none_that_is_predicted(changes):
    model = make_model(dropout=0, drop_prob_lm=0, **changes).train()
    memory, captions = model.encode(make_batch()), make_captions()
    I, S, T = captions.shape
    torch.manual_seed(4)
    with dropping_words(model, 0.5, 10):
        dropped = model(memory, captions)
        assert torch.equal(model.eval().inputs_of(captions)[:, 1:], captions.view(I * S, T))
    torch.manual_seed(4)
    blanks = (torch.rand(I * S, T + 1) < 0.5)[:, 1:].view(I, S, T) & (captions > 0)
    assert 0.3 < blanks.sum() / (captions > 0).sum() < 0.7
    # Without dropout, what a position predicts depends only on the words before it.
    read = model.train()(memory, captions.masked_fill(blanks, 10))
    assert torch.allclose(dropped, read, atol=1e-5) and not torch.allclose(dropped, model(memory, captions))


def test_the_options_build_what_they_name():
    def built(**changes):
        return models.build(make_options(num_layers=3, heads=2, ff_size=24, **changes), 11, 6)

    def kinds(model, kind):
        return [type(module) for module in model.modules() if isinstance(module, kind)]

    for places, learned, kind in (
            ('gxg', True, position.GridProfiles), ('g2', True, position.GridCells),
            ('box-coord', True, position.BoxCoordinates), ('gxg', False, position.FixedProfiles)):
        assert type(built(enc_pos_type=places, enc_pos_embedding=learned).place) is kind
    for name in ('spatial_pe', 'relation_transformer', 'transformer'):
        for cross, kind in (('xlinear', xlinear.XLinearCross), ('dot-product', attention.DotProductCross)):
            model = built(caption_model=name, cross_attn=cross, ff_activation='gelu', norm='rms')
            assert [type(layer.cross) for layer in model.decoder] == [kind] * 3 and len(model.encoder) == 3
            assert (model.place is not None, model.relations is not None) == (
                name == 'spatial_pe', name == 'relation_transformer')
            for layer in [*model.encoder, *model.decoder]:
                assert layer.attention.heads == 2 and layer.feed_forward.activation == 'gelu'
                assert layer.feed_forward.inner.out_features == 24
                assert {type(norm) for norm in layer.norms} == {norms.RMSNorm}
    for flag in (False, True):
        model = built(caption_model='relation_transformer', box_trignometric_embedding=flag, legacy_extra_skip=flag)
        assert model.relations.trigonometric is flag and model.relations.heads == 2
        assert {layer.attention.extra_skip for layer in model.encoder} == {flag}
        assert not any(layer.attention.extra_skip for layer in model.decoder)
    for name in ('show_tell', 'show_attend_tell'):
        for rnn, kind in cells.CELLS.items():
            model = built(caption_model=name, rnn_type=rnn)
            assert type(model.cell) is kind and model.cell.size == 10
    for count in range(3):
        assert [len(kinds(built(caption_model=name, use_bn=count), norms.BatchNorm)) for name in models.MODELS] == [
            count * (name not in ('show_tell', 'show_attend_tell')) for name in models.MODELS]
    assert all(built(caption_model=name).attention.score.in_features == 7 for name in ('show_attend_tell', 'topdown'))


@pytest.mark.parametrize('name', models.MODELS)
def test_each_dropout_has_the_probability_of_its_option(name):
    model = models.build(make_options(caption_model=name, dropout=0.35, drop_prob_lm=0.45), 11, 6)
    found = {place: getattr(module, 'probability', getattr(module, 'dropout', None))
             for place, module in model.named_modules()
             if isinstance(module, Dropout) or isinstance(getattr(module, 'dropout', None), float)}
    within = {place for place in found if place not in ('feature_dropout', 'dropout')}
    assert {found[place] for place in within} == ({0.35} if 'word_dropout' in found else set())
    assert {found[place] for place in found.keys() - within} == {0.45}


@pytest.mark.parametrize('changes', [dict(), *FAMILIES, dict(caption_model='transformer')], ids=name_of)
def test_matrices_start_as_xavier_says(changes):
    torch.manual_seed(0)
    model = models.build(make_options(**changes, heads=16), 11, 6)
    for name, matrix in model.named_parameters():
        if matrix.dim() > 1:
            inputs, outputs = matrix.shape[1], 1 if name.startswith('relations') else matrix.shape[0]
            bound, largest = math.sqrt(6 / (inputs + outputs)), float(matrix.detach().abs().max())
            assert largest <= bound * 1.0001 and (matrix.numel() < 60 or largest > 0.95 * bound), name


@pytest.fixture
def doubles():
    """Double precision: geometry's angles reach 700, where single precision resolves only 6e-5."""
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
        # The bias of a softmax's logits has no effect; its gradients are rounding errors.
        assert torch.allclose(fast.get(name, torch.zeros_like(slow[name])) / scale,
                              slow[name] / scale, atol=1e-5), name


@pytest.mark.parametrize('smoothing', (0.0, 0.3))
def test_the_loss_in_blocks_is_the_mean_cross_entropy(smoothing, monkeypatch):
    monkeypatch.setattr('misc.training.losses.TOKENS_AT_ONCE', 3)
    torch.manual_seed(1)
    states, output, targets = torch.randn(8, 6), torch.nn.Linear(6, 11), torch.randint(0, 11, (8,))
    found = word_loss(states, output, targets, torch.full((8,), 1 / 8), smoothing)
    expected = naive.cross_entropy(naive.linear(output, states).log_softmax(1), targets, smoothing)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


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
        _, state = model.step(words.flip(0), state)
        expected, _ = model.step(words, state)
        rows = torch.tensor([1, 0, 0, 5])  # the second image is dropped
        found, _ = model.step(words[rows], state.select(rows))
        assert torch.allclose(found, expected[rows], atol=1e-5)


def test_only_spatial_pe_and_relation_transformer_depend_on_where_regions_are():
    captions = make_captions()
    for changes in (dict(), *FAMILIES, dict(caption_model='transformer')):
        model, batch, moved = make_model(**changes).eval(), make_batch(), make_batch()
        moved.grids, moved.boxes = batch.grids.flip(1), batch.boxes.flip(0)
        same = torch.equal(model(model.encode(batch), captions), model(model.encode(moved), captions))
        assert same is not (changes in (dict(), RELATIONS))
        assert ('grids' in model.needs, 'boxes' in model.needs) == (changes == dict(), changes == RELATIONS)


def test_scheduled_sampling_feeds_words_drawn_from_the_models_own_distribution(monkeypatch):
    plain, rand = recurrent.draw, torch.rand
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
        # Of the words of a step, every second one is replaced, or with 1.0 all (`draw` itself names a generator).
        monkeypatch.setattr(torch, 'rand', lambda rows, **more: rand(rows, **more) if 'generator' in more
                            else torch.arange(rows) % 2 * 0.9)
        for model.scheduled_sampling_prob in (1.0, 0.5):
            drawn.clear()
            found = model(memory, captions).view(12, 7, 11)
            fed = captions.view(12, 6).clone()  # inputs after the start token
            for t, (log_probs, words) in enumerate(drawn):
                rows = (lengths > t).nonzero()[:, 0][::1 if model.scheduled_sampling_prob == 1 else 2]
                # Sampled from the distribution one word before.
                assert torch.allclose(log_probs, found[rows, t], atol=1e-5)
                fed[rows, t] = words
            for row, (features, _, _) in zip(range(0, 12, 4), per_image(batch)):
                for k in range(row, row + 4):
                    plain_log_probs = naive.next_word_log_probs(model, features, fed[k, :lengths[k]].tolist())
                    assert torch.allclose(found[k, :lengths[k] + 1], plain_log_probs, atol=1e-5)
        monkeypatch.setattr(torch, 'rand', rand)
        assert torch.equal(model.eval()(memory, captions), expected)
        model.train().scheduled_sampling_prob, sampled = 0.3, []
        monkeypatch.setattr(recurrent, 'draw', lambda p, fed=sampled: (fed.append(len(p)), plain(p))[1])
        for _ in range(60):
            model(memory, captions)
        assert sum(sampled) / (60 * int(lengths.sum())) == pytest.approx(0.3, abs=0.04)


def test_groups_pad_and_pack_are_inverse_and_select_follows_the_rows():
    groups = Groups([2, 0, 3, 1], 'cpu')
    rows = torch.arange(6.)[:, None]
    assert torch.equal(groups.pack(groups.pad(rows)), rows)
    assert groups.pad(rows)[..., 0].tolist() == [[0, 1, 0], [0, 0, 0], [2, 3, 4], [5, 0, 0]]
    assert groups.mask.sum(1).tolist() == [2, 0, 3, 1]
    chosen, smaller = groups.select([2, 3, 0])
    assert chosen.tolist() == [2, 3, 4, 5, 0, 1] and smaller.counts == [3, 1, 2]


def test_the_last_word_is_the_unknown_one_only_by_its_name():
    assert models.unknown_word({'1': 'a', '2': 'UNK'}) == 2
    assert models.unknown_word({'1': 'UNK', '2': 'a'}) is models.unknown_word({}) is None
