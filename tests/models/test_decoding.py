"""Batched, cached decoding against one image at a time without a cache."""

import pytest
import torch

from models.decoding import Constraints, beam_search, draw, sample
from tests import naive
from tests.helpers.models import FAMILIES, make_batch, make_captions, make_model, per_image

LONGEST = 6
ENDS = {'early': 2.0, 'late': -1.5, 'never': -50.0}


def decoder_pair(ends, seed, **changes):
    """A model whose captions end early, late or never; its memory; and for each image the `next_log_probs` that
    the naive decoders call."""
    model, batch = make_model(seed, **changes).eval(), make_batch(seed)
    with torch.no_grad():
        model.output.weight *= 2
        model.output.bias[0] += ENDS[ends]
    regions = [naive.encode(model, *arrays) for arrays in per_image(batch)]

    def cached(one):
        known = {}  # the many naive searches of a test need the same distributions

        def next_log_probs(words):
            if tuple(words) not in known:
                known[tuple(words)] = naive.next_word_log_probs(model, one, words)[-1]
            return known[tuple(words)]
        return next_log_probs

    return model, model.encode(batch), [cached(one) for one in regions]


def words_of(row):
    return row[row > 0].tolist()


MODELS = [dict(num_layers=1), dict(num_layers=1, cross_attn='dot-product'),
          *({**family, 'num_layers': 1} for family in FAMILIES)]
CONSTRAINTS = [dict(), dict(unknown=10), dict(no_repeat=True), dict(no_trigram_repeat=True), dict(endings=(2, 5, 7)),
               dict(unknown=10, no_repeat=True, no_trigram_repeat=True, endings=(1, 3))]


@torch.no_grad()
@pytest.mark.parametrize('ends', ENDS)
def test_greedy_equals_the_naive_decoder(ends):
    for seed, changes in enumerate((dict(), dict(), dict(), *FAMILIES)):
        model, memory, next_log_probs = decoder_pair(ends, seed, **changes)
        for rules in CONSTRAINTS:
            found = sample(model, memory, LONGEST, greedy=True, constraints=Constraints(**rules))
            for i in range(3):
                words, total = naive.greedy(next_log_probs[i], LONGEST, **rules)
                assert words_of(found.captions[i, 0]) == words
                assert float(found.log_probs[i, 0]) == pytest.approx(total, abs=1e-4)


@torch.no_grad()
@pytest.mark.parametrize('ends', ENDS)
@pytest.mark.parametrize('beam_size, groups', [(1, 1), (2, 1), (3, 1), (5, 1), (2, 2), (4, 2), (3, 3), (6, 3)])
def test_beam_search_equals_the_naive_decoder(ends, beam_size, groups):
    rankings = [dict(), dict(max_ppl=True), dict(length_penalty=0.7), dict(diversity_lambda=1.5)]
    for seed, changes in enumerate(MODELS):
        rules = CONSTRAINTS[seed % len(CONSTRAINTS)]
        model, memory, next_log_probs = decoder_pair(ends, seed, **changes)
        for ranking in rankings:
            found = beam_search(model, memory, LONGEST, beam_size, groups, results=beam_size,
                                constraints=Constraints(**rules), **ranking)
            for i in range(3):
                expected = naive.beam_search(next_log_probs[i], LONGEST, beam_size, groups, **ranking, **rules)
                rows = [(words_of(row), total) for row, total in
                        zip(found.captions[i], found.log_probs[i].tolist()) if total > -torch.inf]
                assert [words for words, _ in rows] == [words for words, _ in expected]
                assert [total for _, total in rows] == pytest.approx(
                    [total for _, total in expected], abs=1e-4)


@torch.no_grad()
def test_one_beam_is_greedy_and_constraints_are_obeyed():
    model, memory, _ = decoder_pair('never', 4)
    greedy = sample(model, memory, LONGEST, greedy=True)
    assert torch.equal(beam_search(model, memory, LONGEST, 1).captions, greedy.captions)
    free = sample(model, memory, LONGEST, copies=200)
    constrained = sample(model, memory, LONGEST, copies=200, constraints=Constraints(no_repeat=True))

    def repeats(captions):
        return int(((captions[..., 1:] == captions[..., :-1]) & (captions[..., 1:] > 0)).sum())

    assert repeats(free.captions) > 0 and repeats(constrained.captions) == 0
    likely = torch.full((2, 6), -20.0)
    likely[:, 4] = 0.0
    allowed = Constraints(unknown=4).apply(likely, torch.zeros(2, 3, dtype=torch.long), 0)
    assert allowed[:, 4].tolist() == [-torch.inf] * 2 and torch.equal(allowed[:, :4], likely[:, :4])
    assert float(likely[0, 4]) == 0


@torch.no_grad()
@pytest.mark.parametrize('ends', ENDS)
def test_no_caption_ends_with_a_forbidden_word(ends):
    endings = (1, 4, 6)
    model, memory, _ = decoder_pair(ends, 2)

    def last_words(found):
        rows = [words_of(row) for image in found.captions for row in image]
        return {words[-1] for words in rows if words}
    constraints = Constraints(endings=endings)
    assert last_words(sample(model, memory, LONGEST, copies=200)) & set(endings)
    for how in (dict(copies=200), dict(copies=200, temperature=9., top_k=3), dict(greedy=True)):
        assert not last_words(sample(model, memory, LONGEST, constraints=constraints, **how)) & set(endings)
    for groups in (1, 2):
        found = beam_search(model, memory, LONGEST, 4, groups, results=4, constraints=constraints)
        assert not last_words(found) & set(endings)


def test_draws_follow_the_distribution_and_its_cuts():
    probabilities = torch.tensor([0.05, 0.5, 0.25, 0.15, 0.05])
    many = probabilities.log().expand(20000, 5)
    generator = torch.Generator().manual_seed(0)

    def shares(**cuts):
        return torch.bincount(draw(many, generator=generator, **cuts), minlength=5) / 20000

    assert torch.allclose(shares(), probabilities, atol=0.02)
    assert torch.allclose(shares(temperature=0.5), probabilities ** 2 / (probabilities ** 2).sum(), atol=0.02)
    assert torch.allclose(shares(top_k=2), torch.tensor([0, 2 / 3, 1 / 3, 0, 0]), atol=0.02)
    assert torch.allclose(shares(top_p=0.7), torch.tensor([0, 2 / 3, 1 / 3, 0, 0]), atol=0.02)
    assert torch.allclose(shares(top_p=0.01), torch.tensor([0., 1, 0, 0, 0]))


def test_draws_are_those_of_the_plain_version_with_any_cuts():
    log_probs = torch.randn(60, 9, generator=torch.Generator().manual_seed(0)).log_softmax(1)
    uniforms = torch.linspace(0, 1 - 1e-6, 60)
    for cuts in (dict(), dict(temperature=0.5), dict(top_k=3), dict(top_k=20), dict(top_p=0.7), dict(top_p=1e-9),
                 dict(temperature=2.0, top_k=5, top_p=0.8)):
        found = draw(log_probs, uniform=uniforms, **cuts).tolist()
        assert found == [naive.draw(row, one, **cuts) for row, one in zip(log_probs, uniforms.tolist())]


def test_the_words_that_just_reach_top_p_are_kept_and_no_more():
    """Four words of 1/4 each, and two of 1/2, whose sums are exact."""
    uniforms = torch.linspace(0, 1 - 1e-6, 101)
    for words in (2, 4):
        for kept in range(1, words + 1):
            found = draw(torch.zeros(101, words), top_p=kept / words, uniform=uniforms)
            assert len(found.unique()) == kept
            assert len({naive.draw(torch.zeros(words), one, top_p=kept / words) for one in uniforms.tolist()}) == kept


@torch.no_grad()
def test_log_probs_of_samples_are_those_of_the_model():
    model, memory, next_log_probs = decoder_pair('late', 5)
    found = sample(model, memory, LONGEST, copies=4, temperature=2.0)
    for i in range(3):
        for row, total in zip(found.captions[i], found.log_probs[i].tolist()):
            words, expected = words_of(row), 0.0
            for t in range(min(len(words) + 1, LONGEST)):
                expected += float(next_log_probs[i](words[:t])[(words + [0])[t]])
            assert total == pytest.approx(expected, abs=1e-4)


@torch.no_grad()
@pytest.mark.parametrize('beam_size, groups', [(1, 1), (3, 1), (4, 2)])
def test_an_ensemble_searches_with_the_mean_of_its_members_probabilities(beam_size, groups):
    from models.ensemble import Ensemble
    pairs = [decoder_pair('late', seed, **changes) for seed, changes in (
        (0, dict()), (1, dict(caption_model='transformer', cross_attn='dot-product', num_layers=1)),
        *enumerate(FAMILIES, 2))]
    batch = make_batch(0)
    ensemble = Ensemble([model for model, _, _ in pairs]).eval()
    found = beam_search(ensemble, ensemble.encode(batch), LONGEST, beam_size, groups, results=beam_size)
    for i, arrays in enumerate(per_image(batch)):
        regions = [naive.encode(model, *arrays) for model, _, _ in pairs]

        def next_log_probs(words, regions=regions):
            parts = [naive.next_word_log_probs(model, one, words)[-1].exp()
                     for (model, _, _), one in zip(pairs, regions)]
            return (sum(parts) / len(parts)).log()
        expected = naive.beam_search(next_log_probs, LONGEST, beam_size, groups)
        assert [words_of(row) for row in found.captions[i]] == [words for words, _ in expected]
        assert found.log_probs[i].tolist() == pytest.approx([total for _, total in expected], abs=1e-4)


@torch.no_grad()
def test_an_ensemble_of_all_families_has_the_mean_probability_of_every_word():
    from models.ensemble import Ensemble
    members = [make_model(**changes).eval() for changes in MODELS]
    batch, captions = make_batch(), make_captions()
    ensemble = Ensemble(members).eval()
    log_probs, places = ensemble.word_log_probs(ensemble.encode(batch), captions)
    assert sorted(places.tolist()) == [row * 7 + t for row, words in enumerate(captions.view(12, 6).tolist())
                                       for t in range(sum(map(bool, words)) + 1)]
    parts = [model(model.encode(batch), captions).view(84, 11)[places].exp() for model in members]
    assert torch.allclose(log_probs, (sum(parts) / len(parts)).log(), atol=1e-5)


def tree_sums(rows, dim, dtype=None, block=1024):
    """`rows.cumsum(1)` in the order of PyTorch's CUDA kernel: in each block pairs, then pairs of these, and so on."""
    sums, before = [], 0.0
    for part in rows.to(dtype or rows.dtype).split(block, dim):
        padded = torch.nn.functional.pad(part, (0, block - part.shape[1])).clone()
        padded[:, 0] += before
        step = 1
        while step < block:
            padded[:, 2 * step - 1::2 * step] += padded[:, step - 1::2 * step]
            step *= 2
        while step > 1:
            step //= 2
            later = padded[:, 3 * step - 1::2 * step]
            later += padded[:, 2 * step - 1::2 * step][:, :later.shape[1]]
        sums.append(padded[:, :part.shape[1]])
        before = sums[-1][:, -1]
    return torch.cat(sums, 1)


def test_a_forbidden_word_is_not_drawn_where_sums_are_computed_as_a_tree(monkeypatch):
    torch.manual_seed(1)
    log_probs = (torch.randn(4, 9488) * 4).masked_fill(torch.rand(4, 9488) < 0.5, -torch.inf)
    sums = tree_sums(log_probs.softmax(1), 1)
    assert torch.allclose(sums, log_probs.softmax(1).cumsum(1), atol=1e-6)
    # Where the sum up to a forbidden word is larger than the one before it, a number between the two finds the word.
    rows, words = ((sums[:, 1:] > sums[:, :-1]) & (log_probs[:, 1:] == -torch.inf)).nonzero(as_tuple=True)
    assert len(rows) > 40
    rows, words = rows[:40], words[:40]
    uniforms = sums[rows, words] / sums[rows, -1]
    monkeypatch.setattr(torch.Tensor, 'cumsum', tree_sums)
    for top_p in (1.0, 0.999999):
        drawn = draw(log_probs[rows], top_p=top_p, uniform=uniforms)
        assert log_probs[rows, drawn].isfinite().all()
