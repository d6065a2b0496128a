"""Attention weights of words over regions, against the formulas of `tests/naive.py`."""

import pytest
import torch

from misc.evaluation.captioning import evaluating
from models.ensemble import Ensemble
from tests import naive
from tests.helpers.models import RELATIONS, make_batch, make_captions, make_model, name_of, per_image

WITH_ATTENTION = [dict(), dict(cross_attn='dot-product', heads=2), RELATIONS,
                  dict(caption_model='show_attend_tell'), dict(caption_model='topdown')]


def plain_weights(model, batch, captions):
    """Yield (image, caption, weights (layers, words + 1, P)) by the formulas."""
    for i, (features, grids, boxes) in enumerate(per_image(batch)):
        regions = naive.encode(model, features, grids, boxes)
        for s, words in enumerate(captions[i].tolist()):
            record = []
            naive.next_word_log_probs(model, regions, [word for word in words if word], record)
            yield i, s, torch.stack(record) if record[0].dim() == 2 else torch.stack(record)[None]


@pytest.mark.parametrize('changes', WITH_ATTENTION, ids=name_of)
def test_weights_of_a_batch_are_those_of_one_caption_at_a_time(changes):
    model, batch, captions = make_model(**changes), make_batch(), make_captions()
    with evaluating(model):
        found = model.word_attention(model.encode(batch), captions)
        for i, s, layers in plain_weights(model, batch, captions):
            words, regions = layers.shape[1:]
            expected = {'mean': layers.mean(0), **({'last': layers[-1]} if len(layers) > 1 else {})}
            assert found.keys() == expected.keys()
            for name, weights in found.items():
                assert torch.allclose(weights[i, s, :words, :regions], expected[name], atol=1e-5)
                assert torch.allclose(weights[i, s].sum(-1)[:words], torch.ones(words))
                assert not weights[i, s, words:].any() and not weights[i, s, :, regions:].any()


def test_a_model_without_attention_returns_none_and_an_ensemble_averages_the_members_that_have_it():
    batch, captions = make_batch(), make_captions()
    without = make_model(caption_model='show_tell')
    members = [make_model(), make_model(caption_model='topdown')]
    together, none = Ensemble([without, *members]), Ensemble([without, without])
    with evaluating(together), evaluating(none):
        found = together.word_attention(together.encode(batch), captions)
        first, second = (one.word_attention(one.encode(batch), captions) for one in members)
        assert torch.allclose(found['mean'], (first['mean'] + second['mean']) / 2)
        assert torch.allclose(found['last'], (first['last'] + second['mean']) / 2)  # one layer: mean = last
        for model in (without, none):
            assert model.word_attention(model.encode(batch), captions) is None


@pytest.mark.parametrize('changes', WITH_ATTENTION, ids=name_of)
def test_recording_leaves_nothing_behind_and_changes_no_number(changes):
    model, batch, captions = make_model(**changes), make_batch(), make_captions()
    with evaluating(model):
        memory = model.encode(batch)
        before = model.word_log_probs(memory, captions)[0]
        model.word_attention(memory, captions)
        assert all(part.attention_record is None for part in model.attention_modules())
        assert torch.equal(before, model.word_log_probs(memory, captions)[0])
