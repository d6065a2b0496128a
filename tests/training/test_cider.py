"""CIDEr-D by integer keys and searches equals CIDEr-D by dictionaries."""

import json
import pickle

import numpy as np
import pytest

from misc.cli import DataError
from misc.training.cider import CiderD
from misc.training.ngrams import LARGEST_INDEX, STRIDE, last_not_above, lengths_of
from tests import naive
from tests.helpers.captions import odd_rows


@pytest.mark.parametrize('seed', range(30))
def test_scores_equal_the_definition(seed):
    draw = np.random.default_rng(seed)
    width, words = int(draw.choice([1, 2, 3, 5, 16, 30])), int(draw.choice([1, 3, 20]))
    images = [odd_rows(draw, draw.integers(1, 8), width, words) for _ in range(12)]
    table = naive.ngram_frequency(images[:8])  # the last images hold n-grams that it lacks
    table = {ngram: count for ngram, count in table.items() if draw.random() < 0.9}
    scorer = CiderD(table, 8 if seed % 5 else 3)  # with 3, some n-grams have a negative weight
    captions = odd_rows(draw, 60, int(draw.choice([1, 4, width, width + 3])), words + 1)
    captions[:12] = odd_rows(draw, 12, captions.shape[1], words)
    owners = draw.integers(0, 12, 60, dtype=np.int32)
    scores = scorer.scores(captions, owners, scorer.prepare(images))
    wanted = [naive.cider_d(caption, images[owner], table, scorer.table.images)
              for caption, owner in zip(captions, owners)]
    np.testing.assert_allclose(scores, wanted, rtol=0, atol=1e-9)


def test_a_reference_scores_ten_against_itself_and_a_hand_worked_score_is_right():
    table = {('1',): 2, ('2',): 1, ('1', '2'): 1, ('0',): 4}
    scorer = CiderD(table, 4)
    same = scorer.prepare([np.array([[1, 2, 3, 4]])])
    assert scorer.scores(np.array([[1, 2, 3, 4]]), [0], same)[0] == pytest.approx(10)
    # '1 2' ended against '1' ended: unigrams ln 2, ln 4, 0 and ln 2, 0; a bigram apart; the bigrams differ.
    cosine = 1 / np.sqrt(1 + 2 ** 2)
    got = scorer.scores(np.array([[1, 2, 0]]), [0], scorer.prepare([np.array([[1, 0, 0]])]))[0]
    assert got == pytest.approx(10 * cosine / 4 * np.exp(-1 / 72))
    assert got == pytest.approx(naive.cider_d([1, 2, 0], [[1, 0, 0]], table, 4))


def test_a_caption_cut_at_the_limit_has_no_end_token():
    scorer = CiderD({}, 100)
    references = scorer.prepare([np.array([[1, 2, 0]])])
    ended, cut, padded = (scorer.scores(np.array([row]), [0], references)[0]
                          for row in ([1, 2, 0], [1, 2], [1, 2, 0, 7]))
    assert ended == padded and cut < ended
    assert lengths_of([[1, 2, 0], [1, 2, 3], [0, 0, 0]]).tolist() == [3, 3, 1]
    assert lengths_of(np.zeros((2, 0))).tolist() == [0, 0]


def test_ngrams_of_different_orders_never_share_a_key():
    # With index in place of index + 1 in the keys, [0], [0, 0] and [0, 1] would have those of [], [] and [1].
    for caption in ([0], [1], [0, 0], [1, 0], [LARGEST_INDEX, 0], [LARGEST_INDEX] * 4):
        table = {('0',): 1, ('1',): 7, ('0', '0'): 3, ('0', '1'): 5, ('1', '0'): 2,
                 (str(LARGEST_INDEX),): 4, (str(LARGEST_INDEX),) * 4: 6}
        scorer = CiderD(table, 50)
        references = [np.array([[1, 0, 0, 0]]), np.array([[LARGEST_INDEX] * 4])]
        for owner in (0, 1):
            got = scorer.scores(np.array([caption]), [owner], scorer.prepare(references))[0]
            assert got == pytest.approx(naive.cider_d(caption, references[owner], table, 50), abs=1e-12)


def test_ngrams_missing_from_the_table_are_distinguished():
    scorer = CiderD({}, 100)
    first, second, third = (scorer.prepare([np.array([[word]])])[0] for word in (5, 4, 6))
    captions, owners = np.repeat([[4], [5], [6], [7]], 3, axis=0), [0, 1, 2] * 4
    scores = scorer.scores(captions, owners, [first, second, third]).reshape(4, 3)
    assert (scores > 0).tolist() == [[False, True, False], [True, False, False], [False, False, True],
                                     [False, False, False]]


def test_the_table_covers_its_own_ngrams_and_none_that_references_have_added():
    scorer = CiderD({('1',): 1.0, ('1', '0'): 1.0}, 9)
    rows = np.array([[1, 0], [2, 0]])
    for _ in range(2):
        assert scorer.table.coverage(rows) == pytest.approx(2 / 6)  # of 1, 0, 1 0, 2, 0, 2 0
        scorer.prepare([rows])


@pytest.mark.parametrize('size', [1, 2, 63, 64, 65, 128, 1000])
def test_the_search_in_two_steps_equals_one_search(size):
    draw = np.random.default_rng(size)
    table = np.concatenate([[0], np.sort(draw.choice(3000, size - 1, replace=False) + 1)]).astype(np.uint64)
    keys = np.concatenate([table, np.arange(3010, dtype=np.uint64), np.full(1, 2 ** 64 - 1, np.uint64)])
    wanted = np.searchsorted(table, keys, 'right') - 1
    assert np.array_equal(last_not_above(table, table[::STRIDE], keys), wanted)


def test_references_are_requested_once_and_block_size_does_not_matter(monkeypatch):
    draw = np.random.default_rng(0)
    images = {image_id: odd_rows(draw, 5, 12, 9) for image_id in range(100, 140)}
    scorer, asked = CiderD(naive.ngram_frequency(images.values()), len(images)), []

    def references_of(image_id):
        asked.append(image_id)
        return images[image_id]

    ids = np.array([*images, 100, 139])
    samples = np.stack([odd_rows(draw, 3, 12, 9) for _ in ids])
    scores = scorer.score(ids, samples, references_of)
    assert scores.shape == (42, 3) and asked == list(images)
    monkeypatch.setattr('misc.training.cider.CAPTIONS_AT_ONCE', 7)
    assert np.array_equal(scorer.score(ids, samples, references_of), scores) and len(asked) == 40
    fresh = CiderD(naive.ngram_frequency(images.values()), len(images))
    one_by_one = [fresh.score([i], rows[None], references_of)[0] for i, rows in zip(ids, samples)]
    np.testing.assert_allclose(one_by_one, scores, atol=1e-12)


def test_a_table_is_read_from_a_pickle_and_a_wrong_one_is_refused(tmp_path):
    def saved(value):
        path = tmp_path / 'table.p'
        path.write_bytes(pickle.dumps(value, protocol=2))
        return path

    scorer = CiderD.from_pickle(saved({'document_frequency': {('1', '0'): 2.0}, 'ref_len': 9}))
    assert scorer.table.images == 9 and scorer.table.look_up(scorer.table.keys[1:])[1] == pytest.approx(np.log(9 / 2))
    for table, ref_len, message in [
            ({('a', 'dog'): 1.0}, 9, 'idxs'), ({'12': 1.0}, 9, 'tuples'),
            ({('1',) * 5: 1.0}, 9, 'of 5 to 5 words'),
            ({('65535',): 1.0}, 9, 'word_count_threshold'), ({('1',): 'x'}, 9, 'idxs'),
            ({('1',): 1.0, ('01',): 2.0}, 9, 'twice'), ({('1',): float('nan')}, 9, 'finite'),
            ({('1',): 1.0}, 0, 'ref_len'), ([], 9, 'tuples')]:
        with pytest.raises(DataError, match=message):
            CiderD.from_pickle(saved({'document_frequency': table, 'ref_len': ref_len}))
    for part in ({'ref_len': 1}, {'document_frequency': {('1',): 1.0}}):
        with pytest.raises(DataError, match='make it with: python x.py'):
            CiderD.from_pickle(saved(part), 'python x.py')
    with pytest.raises(DataError, match='there is no file.*python x.py'):
        CiderD.from_pickle(tmp_path / 'absent.p', 'python x.py')


def test_what_cannot_be_scored_is_refused():
    scorer = CiderD({}, 10)
    with pytest.raises(DataError, match='65534'):
        scorer.scores(np.array([[65535]]), [0], scorer.prepare([np.array([[1]])]))
    with pytest.raises(DataError, match='without captions'):
        scorer.prepare([np.zeros((0, 5), dtype=np.int64)])
    assert scorer.scores(np.zeros((0, 5), dtype=np.int64), [], []).shape == (0,)


def test_scores_of_real_captions_equal_the_definition(minicoco):
    data = json.loads((minicoco / 'dataset_coco.json').read_text())
    number = {}
    images = [[[number.setdefault(word, len(number) + 1) for word in sentence['tokens'][:16]]
               for sentence in image['sentences']] for image in data['images']]
    images = [np.array([(row + [0] * 16)[:16] for row in rows]) for rows in images]
    table = naive.ngram_frequency(images[:60])
    scorer = CiderD(table, 60)
    captions = np.concatenate([rows[::-1] for rows in images])
    owners = (np.repeat(np.arange(len(images)), 5) + np.arange(len(captions)) % 3) % len(images)
    scores = scorer.scores(captions, owners, scorer.prepare(images))
    wanted = [naive.cider_d(caption, images[owner], table, 60) for caption, owner in zip(captions, owners)]
    np.testing.assert_allclose(scores, wanted, atol=1e-9)
    assert scores.max() > 3
