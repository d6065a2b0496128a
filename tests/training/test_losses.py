"""The losses of a batch against the plain cross-entropy of its tokens."""

import dataclasses

import pytest
import torch

from misc.training.losses import caption_loss, self_critical_loss
from tests import naive
from tests.helpers.models import FAMILIES, batch_with_captions, make_model, name_of


def batch_with_cut_captions():
    """A batch in which some captions have as many words as fit, and others fewer."""
    batch = batch_with_captions()
    batch.captions[1, 2:] = torch.arange(1, 13).view(2, 6) % 10 + 1
    return dataclasses.replace(batch, lengths=None)


def tokens_of(captions, cut_at=None):
    """The tokens of each caption, in order: its words and its end, which one cut at the longest length lacks."""
    rows = [[word for word in row if word] for row in captions.flatten(0, 1).tolist()]
    return [words if len(words) == cut_at else [*words, 0] for words in rows]


@pytest.mark.parametrize('smoothing', (0.0, 0.2))
@pytest.mark.parametrize('changes', [dict(), *FAMILIES], ids=name_of)
def test_the_loss_of_captions_is_the_mean_over_all_words_and_ends_of_a_batch(changes, smoothing):
    model, batch = make_model(**changes).eval(), batch_with_cut_captions()
    log_probs = model(model.encode(batch), batch.captions).flatten(0, 1)  # (captions, T + 1, V)
    said = tokens_of(batch.captions)
    rows = torch.cat([log_probs[number, :len(words)] for number, words in enumerate(said)])
    expected = naive.cross_entropy(rows, torch.tensor(sum(said, [])), smoothing)
    found = caption_loss(model, batch, smoothing)
    assert found['tokens'] == len(rows)
    assert float(found['loss'].detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


@pytest.mark.parametrize('changes', [dict(), *FAMILIES], ids=name_of)
def test_the_loss_of_samples_weighs_their_tokens_by_their_advantage_and_leaves_out_ends_that_were_not_drawn(changes):
    model, batch = make_model(**changes).eval(), batch_with_cut_captions()
    advantage = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    log_probs = model(model.encode(batch), batch.captions).flatten(0, 1)
    said = tokens_of(batch.captions, cut_at=6)
    expected = -sum(weight * log_probs[number, t, word] for number, (words, weight) in enumerate(zip(
        said, advantage.flatten())) for t, word in enumerate(words)) / sum(map(len, said))
    found = self_critical_loss(model, model.encode(batch), batch.captions, lambda: advantage)
    assert int(found['tokens']) == sum(map(len, said))
    assert float(found['loss'].detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
