"""CIDEr with the document frequencies of a table."""

import json
import pickle

import numpy as np
import pytest

from misc.cli import DataError
from misc.scoring.frequencies import read_frequencies, table_path
from misc.scoring.metrics import scored
from scripts import prepro_labels, prepro_ngrams, score_captions
from tests import naive
from tests.helpers.preparing import record, write_split

REFERENCES = {3: ['a man rides a horse', 'a man on a horse'], 5: ['a red bus in the street', 'the bus is red'],
              7: ['two dogs play on the grass', 'dogs on grass']}
CAPTIONS = {3: 'a man rides the horse on grass', 5: 'a bus', 7: 'two dogs on the grass'}


@pytest.fixture
def tables(run_script, tmp_path):
    """The tables of the references, made by the preparation scripts: the prefix of their names."""
    split = write_split(tmp_path / 'split.json', [record(key, 'test', *texts) for key, texts in REFERENCES.items()])
    assert run_script(prepro_labels, input_json=split, output_json=tmp_path / 'talk.json',
                      output_h5=tmp_path / 'talk', word_count_threshold=0)[0] == 0
    assert run_script(prepro_ngrams, input_json=split, dict_json=tmp_path / 'talk.json', split='all',
                      output_pkl=tmp_path / 'n')[0] == 0
    return tmp_path / 'n'


def test_the_table_of_the_references_themselves_gives_the_scores_to_the_last_digit(tables, tmp_path):
    words = json.loads((tmp_path / 'talk.json').read_text())['ix_to_word']
    plain = scored(CAPTIONS, REFERENCES, use_java=False)
    for name in (tables, f'{tables}-words', f'{tables}-words.p', f'{tables}-idxs.p'):
        found = read_frequencies(str(name), words)
        assert found.images == 3 and found.counts['a', 'man'] == 1
        assert not any('<eos>' in ngram for ngram in found.counts)
        assert scored(CAPTIONS, REFERENCES, use_java=False, frequencies=found)[:2] == plain[:2]


def test_the_cider_of_a_single_image_means_something(tables, run_script, tmp_path):
    (tmp_path / 'mine.json').write_text(json.dumps([{'image_id': 7, 'caption': CAPTIONS[7]}]))
    flags = {'predictions': tmp_path / 'mine.json', 'input_json': tmp_path / 'talk.json', 'use_java': 0,
             'output_json': tmp_path / 'out.json'}
    said = run_script(score_captions, **flags)[1]
    assert 'CIDEr of a single image is 0' in said and '--cached_tokens' in said
    for name in (tables, f'{tables}-idxs.p'):
        status, said = run_script(score_captions, **flags, cached_tokens=name)
        assert not status and 'of 3 images; it has 100% of the words' in said and 'is 0' not in said
        found = json.loads((tmp_path / 'out.json').read_text())
        assert found['overall']['CIDEr'] == scored(CAPTIONS, REFERENCES, use_java=False).per_image[7]['CIDEr'] > 0
        assert found['options']['cached_tokens'] == str(name)


def test_cider_with_a_table_equals_its_definition():
    number: dict[str, int] = {}

    def rows(texts):
        return [[number.setdefault(word, len(number) + 1) for word in text.split()] for text in texts]
    images = {key: rows(texts) for key, texts in REFERENCES.items()}
    table = naive.ngram_frequency(images.values())
    from misc.scoring.frequencies import DocumentFrequencies
    name = {index: word for word, index in number.items()}
    counts = {tuple(name[int(index)] for index in ngram): count for ngram, count in table.items()}
    found = scored(CAPTIONS, REFERENCES, use_java=False, frequencies=DocumentFrequencies(counts, 50, ''))
    expected = {key: naive.cider_d(rows([CAPTIONS[key]])[0], images[key], table, 50) for key in CAPTIONS}
    assert {key: row['CIDEr'] for key, row in found.per_image.items()} == pytest.approx(expected)
    assert found.overall['CIDEr'] == pytest.approx(np.mean(list(expected.values())))


def save(path, table, images):
    path.write_bytes(pickle.dumps({'document_frequency': table, 'ref_len': images}))
    return str(path)


def test_tables_of_others_are_read(tmp_path):
    # Words with capitals, a number as a word, counts of NumPy, no end token.
    table = {('A',): np.int64(3), ('a',): 2.0, ('0',): 1, ('a', '0'): 1}
    found = read_frequencies(save(tmp_path / 'df.p', table, np.float64(9)))
    assert found.counts == {('a',): 3, ('0',): 1, ('a', '0'): 1} and found.images == 9


def test_a_word_that_is_written_as_the_end_token_keeps_its_frequency(tmp_path):
    table = {('1',): 2, ('2',): 1, ('0',): 3, ('1', '2'): 1, ('2', '0'): 1}
    found = read_frequencies(save(tmp_path / 'n-idxs.p', table, 3), {'1': 'dog', '2': '<eos>'})
    assert found.counts == {('dog',): 2, ('<eos>',): 1, ('dog', '<eos>'): 1}


@pytest.mark.parametrize('content, said', [
    ({('a',): 3}, 'holds no document_frequency'), ({'document_frequency': {'a': 1}, 'ref_len': 3}, 'holds no'),
    ({'document_frequency': {('a',): 'x'}, 'ref_len': 3}, 'holds no'), ([1], 'holds no'),
    ({'document_frequency': {('a',): 5}, 'ref_len': 3}, 'holds no'),
    ({'document_frequency': {('a', 3): 1}, 'ref_len': 3}, 'holds no'),
    ({'document_frequency': {('1',): 1, ('0',): 1}, 'ref_len': 3}, '-words.p'),
    ({'document_frequency': {('a',): 1}, 'ref_len': float('nan')}, 'holds no'),
    ({'document_frequency': {('a',): 1}}, 'holds no')])
def test_tables_that_cannot_be_used_are_refused(content, said, tmp_path):
    (tmp_path / 'n.p').write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=said):
        read_frequencies(str(tmp_path / 'n'))


def test_a_table_of_another_vocabulary_is_refused_and_one_of_other_captions_warned_of(tables, tmp_path):
    with pytest.raises(DataError, match='has a word 3, the vocabulary of --input_json has 2'):
        read_frequencies(f'{tables}-idxs.p', {'1': 'a', '2': 'dog'})
    found = read_frequencies(save(tmp_path / 'other.p', {('katze',): 1}, 5))
    notes = scored(CAPTIONS, REFERENCES, use_java=False, frequencies=found).notes
    assert any('has only 0% of the words of the references' in line for line in notes)


def test_a_missing_table_is_named_with_the_places(tmp_path):
    with pytest.raises(DataError, match='(?s)no document-frequency file absent .*data/absent-words.p.*prepro_ngrams'):
        read_frequencies('absent')
    (tmp_path / 'a.p').touch()
    assert table_path('a', str(tmp_path)) == str(tmp_path / 'a.p')
