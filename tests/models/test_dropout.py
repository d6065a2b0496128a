"""Dropout at every place of every model, against the formulas of `tests/naive.py`.

Each place gets a probability of its own, and dropout scales its numbers without dropping any, so that the formulas
have one answer.  That dropout also drops is tested in tests/models/test_kernels.py.
"""

import pytest
import torch

import models
from tests import naive
from tests.helpers.models import (
    FAMILIES,
    RELATIONS,
    fix_dropout,
    make_batch,
    make_captions,
    make_model,
    name_of,
    per_image,
    spread_dropout,
)

VARIANTS = [dict(), dict(enc_pos_type='g2', cross_attn='dot-product'), dict(enc_pos_type='box-coord', use_bn=2),
            dict(enc_pos_embedding=False, ff_activation='gelu'), dict(caption_model='transformer'), *FAMILIES,
            {**RELATIONS, 'legacy_extra_skip': True}, dict(caption_model='show_tell', rnn_type='gru'),
            dict(caption_model='topdown', use_bn=2)]


def training_model(changes):
    """A model in training mode, but with batch normalisation by its running statistics, and its places."""
    model = make_model(**changes).train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.eval()
    return model, spread_dropout(model)


@torch.no_grad()
@pytest.mark.parametrize('changes', VARIANTS, ids=name_of)
def test_every_place_drops_with_its_own_probability_in_the_loss_pass_and_word_by_word(changes, monkeypatch):
    drop = fix_dropout(monkeypatch)
    model, places = training_model(changes)
    batch, captions = make_batch(), make_captions(copies=2)
    found = model(model.encode(batch), captions)
    memory = model.encode(batch)
    state, words, steps = model.start(memory, 2), torch.zeros(6, dtype=torch.long), []
    for t in range(6):
        log_probs, state = model.step(words, state)
        steps.append(log_probs)
        words = captions.view(6, 6)[:, t]
    for i, arrays in enumerate(per_image(batch)):
        regions = naive.encode(model, *arrays, drop=drop)
        for s in range(2):
            said = captions[i, s][captions[i, s] > 0].tolist()
            expected = naive.next_word_log_probs(model, regions, said, drop=drop)
            assert torch.allclose(found[i, s, :len(said) + 1], expected, atol=2e-5)
            one_by_one = torch.stack([log_probs[i * 2 + s] for log_probs in steps[:len(said) + 1]])
            assert torch.allclose(one_by_one, expected[:6], atol=2e-5)
    assert len(places) >= 1 and len(set(places.values())) == len(places)
    # The test is worth something only if the places matter.
    assert not torch.allclose(found, model.eval()(model.encode(batch), captions), atol=1e-2)


def test_all_models_have_a_variant():
    assert {changes.get('caption_model', 'spatial_pe') for changes in VARIANTS} == set(models.MODELS)


@torch.no_grad()
@pytest.mark.parametrize('changes', [dict(), dict(caption_model='transformer'), *FAMILIES], ids=name_of)
def test_what_is_dropped_is_drawn_anew_each_time_and_nothing_is_without_training(changes):
    model, _ = training_model(changes)
    batch, captions = make_batch(), make_captions()
    one, other = (model(model.encode(batch), captions) for _ in range(2))
    assert not torch.equal(one, other)
    state = model.start(model.encode(batch), 1)
    words = torch.zeros(3, dtype=torch.long)
    assert not torch.equal(model.step(words, state)[0], model.step(words, state)[0])
    model.eval()
    assert torch.equal(model(model.encode(batch), captions), model(model.encode(batch), captions))
