"""Rewards, their baselines, and the check of the document-frequency file."""

import pickle
from unittest import mock

import numpy as np
import pytest

from misc import commands
from misc.cli import DataError, UsageError
from misc.training import rewards
from misc.training.cider import CiderD
from misc.training.rewards import Rewards, bleu_4, check_table, load_cider
from tests import naive
from tests.helpers.captions import odd_rows

WIDTH = 9


def scene(seed=0, images=20, words=12):
    """(references by image id, table, ids, samples (I, 4, T), greedy (I, T)) from a seed."""
    draw = np.random.default_rng(seed)
    references = {7 + image: odd_rows(draw, draw.integers(1, 8), WIDTH, words) for image in range(images)}
    ids = draw.choice(list(references), 10, replace=False)
    samples = odd_rows(draw, 40, WIDTH, words).reshape(10, 4, WIDTH)
    samples[:, 0] = [references[image][0] for image in ids]
    return (references, naive.ngram_frequency(references.values()), ids, samples,
            odd_rows(draw, 10, WIDTH, words))


def naive_reward(row, references, table, images, cider_weight, bleu_weight):
    """The weighted reward of one caption."""
    words = [naive.words_of(reference) for reference in references]
    return (cider_weight * naive.cider_d(row, references, table, images)
            + bleu_weight * naive.sentence_bleu(naive.words_of(row), words))


@pytest.mark.parametrize('seed', range(10))
def test_bleu_equals_the_sentence_score_of_coco_caption(seed):
    references, table, ids, samples, _ = scene(seed, words=[2, 6, 20][seed % 3])
    scorer = CiderD(table, len(references))
    rows, owners = samples.reshape(40, WIDTH), np.repeat(np.arange(10), 4)
    got = bleu_4(scorer, rows, owners, scorer.references_for(ids, references.get))
    wanted = [naive.sentence_bleu(naive.words_of(row), [naive.words_of(r) for r in references[ids[owner]]])
              for row, owner in zip(rows, owners)]
    np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-30)
    assert bleu_4(scorer, rows[:0], owners[:0], []).shape == (0,)


@pytest.mark.parametrize('weights', [(1.0, 0.0), (0.0, 1.0), (0.7, 2.0)])
def test_the_advantage_is_the_weighted_reward_minus_the_baseline(weights):
    references, table, ids, samples, greedy = scene()
    scorer = CiderD(table, len(references))
    def plain(image, row):
        return naive_reward(row, references[image], table, len(references), *weights)

    wanted = np.array([[plain(image, row) for row in rows] for image, rows in zip(ids, samples)])
    first = np.array([plain(image, row) for image, row in zip(ids, greedy)])
    advantage, statistics = Rewards(scorer, references.get, WIDTH, *weights)(ids, samples, greedy)
    assert advantage.dtype == np.float32
    np.testing.assert_allclose(advantage, wanted - first[:, None], atol=1e-5)
    assert statistics['reward'] == pytest.approx(wanted.mean())
    assert statistics['baseline'] == pytest.approx(first.mean())
    assert [name in statistics for name in ('cider', 'bleu')] == [weight > 0 for weight in weights]
    assert sum(weight * statistics.get(name, 0) for name, weight in zip(('cider', 'bleu'), weights)) == pytest.approx(
        wanted.mean())
    assert statistics['advantage'] == pytest.approx(wanted.mean() - first.mean())

    others = np.array([[np.delete(row, s).mean() for s in range(4)] for row in wanted])
    advantage, statistics = Rewards(scorer, references.get, WIDTH, *weights, baseline='mean')(ids, samples)
    np.testing.assert_allclose(advantage, wanted - others, atol=1e-5)
    assert statistics['baseline'] == pytest.approx(wanted.mean())


def test_statistics_hold_the_terms_the_share_of_ended_captions_and_their_length():
    references = {1: np.array([[1, 2, 0, 0], [1, 3, 0, 0]])}
    scorer = CiderD(naive.ngram_frequency(references.values()), 5)
    reward = Rewards(scorer, references.get, 4, 1.0, 0.5, baseline='mean')
    samples = np.array([[[1, 2, 0, 0], [1, 2, 3, 4], [0, 0, 0, 0]]])
    advantage, statistics = reward([1], samples)
    assert statistics['ended'] == pytest.approx(2 / 3) and statistics['words'] == pytest.approx(2)
    assert statistics['reward'] == pytest.approx(statistics['cider'] + 0.5 * statistics['bleu'])
    assert reward.describe() == {'cider_reward_weight': 1.0, 'bleu_reward_weight': 0.5, 'sc_baseline': 'mean',
                                 'end_token_in_reward': True}


def test_captions_in_fewer_columns_than_the_longest_length_all_ended():
    references, table, ids, samples, greedy = scene()
    reward = Rewards(CiderD(table, len(references)), references.get, WIDTH)
    samples[..., 4:], greedy[:, 6:] = 0, 0
    whole, statistics = reward(ids, samples, greedy)
    short, short_statistics = reward(ids, samples[..., :4], greedy[:, :6])
    assert np.array_equal(whole, short) and statistics == short_statistics and statistics['ended'] == 1


def test_tensors_and_arrays_get_the_same_reward():
    import torch
    references, table, ids, samples, greedy = scene()
    reward = Rewards(CiderD(table, len(references)), references.get, WIDTH)
    wanted, _ = reward(ids, samples, greedy)
    got, _ = reward(torch.as_tensor(ids), torch.as_tensor(samples), torch.as_tensor(greedy))
    assert np.array_equal(got, wanted)


def test_useless_settings_are_refused():
    references, table, ids, samples, _ = scene()
    scorer = CiderD(table, 20)
    with pytest.raises(UsageError, match='sc_baseline.*median.*greedy, mean'):
        Rewards(scorer, references.get, WIDTH, baseline='median')
    with pytest.raises(UsageError, match='bleu_reward_weight'):
        Rewards(scorer, references.get, WIDTH, 0, 0)
    with pytest.raises(UsageError, match='sc_samples'):
        Rewards(scorer, references.get, WIDTH, baseline='mean')(ids, samples[:, :1])


def related_references(seed=0, images=30, words=40):
    """{image id: 5 captions, noisy copies of one sentence}."""
    draw = np.random.default_rng(seed)
    topics = draw.integers(1, words + 1, (images, 1, WIDTH))
    others = draw.integers(1, words + 1, (images, 5, WIDTH))
    rows = np.where(draw.random(others.shape) < 0.7, topics, others)
    return dict(enumerate(np.where(np.arange(WIDTH) < draw.integers(5, WIDTH + 1, (images, 5, 1)), rows, 0)))


def test_the_right_table_passes_and_one_with_another_vocabulary_is_refused():
    references = related_references()
    table = naive.ngram_frequency(references.values())
    some = {image: references[image] for image in (3, 5, 8, 20)}
    figures = check_table(CiderD(table, 30), some)
    assert figures['coverage'] == 1 and figures['score'] > 1
    assert np.isnan(check_table(CiderD(table, 30), {3: references[3][:1]})['score'])

    shuffled = np.concatenate([[0], 1 + np.random.default_rng(1).permutation(40)])
    elsewhere = naive.ngram_frequency([shuffled[rows] for rows in references.values()])
    # The last table was counted without the end token.
    for wrong in (elsewhere, {}, {ngram: count for ngram, count in table.items() if '0' not in ngram}):
        with pytest.raises(DataError, match='vocabulary(.|\n)*python scripts/prepro_ngrams.py'):
            check_table(CiderD(wrong, 30, name='data/x.p'), some)


def test_a_table_with_which_references_score_near_zero_is_refused():
    references = related_references()
    table = naive.ngram_frequency(references.values())
    with pytest.raises(DataError, match=r'score 0\.00(.|\n)*prepro_ngrams'):
        check_table(CiderD(dict.fromkeys(table, 30), 30), references)
    unlike = {0: np.arange(1, 21).reshape(4, 5)}
    with pytest.raises(DataError, match=r'score 0\.00'):
        check_table(CiderD(naive.ngram_frequency(unlike.values()), 30), unlike)
    with pytest.raises(DataError, match='ref_len(.|\n)*prepro_ngrams'):
        check_table(CiderD(table, 3), references)


def test_the_table_is_found_by_path_or_by_bare_name_and_a_missing_one_names_the_command(tmp_path):
    path = tmp_path / 'coco-train-idxs.p'
    path.write_bytes(pickle.dumps({'document_frequency': {('1',): 1.0}, 'ref_len': 3}, protocol=2))
    for name in ('coco-train-idxs', 'coco-train-idxs.p', str(path), str(path)[:-2]):
        assert load_cider(name, folder=str(tmp_path)).table.images == 3
    with pytest.raises(DataError, match='--cached_tokens.*absent(.|\n)*python scripts/prepro_ngrams.py'):
        load_cider('absent', folder=str(tmp_path))
    assert '--split train' in commands.NGRAMS


def test_references_are_prepared_once_before_the_first_step():
    references, table, ids, samples, greedy = scene()
    asked = []

    def references_of(image):
        asked.append(image)
        return references[image]

    prepared = Rewards(CiderD(table, len(references)), references_of, WIDTH, image_ids=references)
    with mock.patch.object(rewards, 'AT_ONCE', 3):
        prepared.prepare()
    prepared.prepare()
    assert sorted(asked) == sorted(references)
    advantage, _ = prepared(ids, samples, greedy)
    assert sorted(asked) == sorted(references)
    expected, _ = Rewards(CiderD(table, len(references)), references.get, WIDTH)(ids, samples, greedy)
    assert np.array_equal(advantage, expected)
