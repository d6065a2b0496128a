"""Captions that break off: their share beside the scores, and the words that decoding forbids."""

import json

import pytest

from misc.scoring.endings import BAD_ENDINGS, bad_endings, ends_badly, forbidden_endings
from misc.scoring.results import read_results, write_results
from scripts import score_captions

REFERENCES = {1: ['a dog runs on the beach'], 2: ['two men ride horses']}


@pytest.mark.parametrize('caption, is_bad', [
    ('a man on a', True), ('A man with the.', True), ('a plate of food and', True), ('a dog in', True), ('of', True),
    ('a man sits while', True), ('a man rides a horse', False), ('a dog runs by', False),
    ('a house with trees behind', False), ('', False), ('...', False), ('一只 狗', False),
    ('a man on a ,', True), ('a sign with the letter an-a', False)])
def test_captions_that_end_in_an_article_a_preposition_or_a_conjunction_are_counted(caption, is_bad):
    assert ends_badly(caption) is is_bad
    assert bad_endings([caption, 'a dog'], REFERENCES.values()) == is_bad / 2


def test_there_is_no_share_in_other_languages():
    assert bad_endings(['一只 狗'], [['一只 狗 奔跑']]) is None and bad_endings([], REFERENCES.values()) is None


def test_the_vocabulary_says_which_endings_are_forbidden(capsys):
    assert forbidden_endings(['The', 'dog', 'on', 'by'], True) == ['The', 'on']
    assert forbidden_endings(['the', 'dog'], False) == [] and not capsys.readouterr().err
    assert forbidden_endings(['der', 'Hund'], True) == [] and 'forbids nothing' in capsys.readouterr().err
    assert all(word == word.lower() for word in BAD_ENDINGS)


def test_the_share_stands_beside_the_scores(run_script, tmp_path):
    (tmp_path / 'talk.json').write_text(json.dumps({'ix_to_word': {'1': 'a'}, 'images': [
        {'id': key, 'split': 'test', 'captions': texts} for key, texts in REFERENCES.items()]}))
    (tmp_path / 'mine.json').write_text(json.dumps([
        {'image_id': 1, 'caption': 'a dog on the'}, {'image_id': 2, 'caption': 'two men'}]))
    said = run_script(score_captions, predictions=tmp_path / 'mine.json', input_json=tmp_path / 'talk.json',
                      use_java=0, output_json=tmp_path / 'out_test.json')[1]
    assert '50.0% of the captions end in an article, a preposition or a conjunction; --remove_bad_endings' in said
    content = json.loads((tmp_path / 'out_test.json').read_text())
    assert content['bad_endings'] == 0.5 and 'bad_endings' not in content['overall']
    assert read_results(str(tmp_path / 'out_test.json')).overall['bad_endings'] == 0.5
    write_results(str(tmp_path / 'plain.json'), {'CIDEr': 1.0}, content['images'], {})
    assert 'bad_endings' not in read_results(str(tmp_path / 'plain.json')).overall
