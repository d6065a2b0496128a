"""Marks of beginnings and ends of sentences among the tokens: found, reported, left out."""

import json
import pickle

import h5py
import pytest

from misc.dataset.marks import find_marks, marks_in_texts, text_without, without_marks
from misc.training.cider import CiderD
from scripts import make_dataset, prepro_labels, prepro_ngrams
from tests.helpers.preparing import record, write_split

WORDS = ['a', 'red', 'dog', 'sits', 'on', 'the', 'green', 'grass', 'near', 'big', 'blue', 'box']


def images(first=(), last=(), raw=True, count=12):
    """Images of one caption, six words between the marks `first` and `last`, which the texts lack."""
    made = []
    for place in range(count):
        words = [WORDS[(place + step) % 12] for step in range(6)]
        made.append({**record(place, ('train', 'val', 'test')[place % 3]), 'sentences': [
            {'tokens': [*first, *words, *last], 'raw': ' '.join(words) if raw is True else raw}]})
    return made


def records(made):
    return [{'id': image['cocoid'], 'file_path': '', 'split': image['split'], 'sentences': image['sentences']}
            for image in made]


@pytest.mark.parametrize('first, last', [
    (['<start>'], ['<end>']), (['<s>'], ['</s>']), (['<bos>'], ['<eos>']), (['<SOS>'], ['<EOS>', '<PAD>']),
    (['[CLS]'], ['[SEP]', '[PAD]']), (['startseq'], ['endseq']), (['<|startoftext|>'], ['<|endoftext|>']),
    (['#START#'], ['#END#']), (['_start_'], ['_end_']), ([], ['<eos>']), (['<go>'], []), (['ssss'], ['eeee']),
    (['bos'], ['eos']), (['<start_of_sentence>'], ['{end}'])])
def test_marks_are_found_in_their_usual_forms_and_in_any_that_all_captions_share(first, last):
    found = find_marks(records(images(first, last)))
    assert found == dict.fromkeys([*first, *last], 12)
    whole = without_marks(records(images(first, last)), list(found), pytest.fail)
    assert whole == records(images())


@pytest.mark.parametrize('made', [
    images(), images(['there', 'is'], raw='there is'), images(last=['.']), images(['<unk>']),
    images(['a']), images(['there'], raw='x'), images(['<red>'], ['[box]'], count=2)],
    ids=['none', 'words of the texts', 'punctuation', 'unknown words', 'a word', 'other texts', 'few'])
def test_words_and_punctuation_are_no_marks(made):
    assert find_marks(records(made)) == ({'<unk>': 12} if made == images(['<unk>']) else {})


def test_marks_in_the_texts_are_left_out_too_and_captions_of_nothing_else_are_reported():
    made = records(images(['<start>'], ['<end>'], count=3))
    for image, raw in zip(made, ('<start> A dog. <end>', '<start>Two dogs<end> <end>', 'A <start> of a race')):
        image['sentences'][0]['raw'] = raw
    made[2]['sentences'].append({'tokens': ['<start>', '<end>'], 'raw': ''})
    made.append({**made[0], 'id': 9, 'sentences': [{'tokens': ['<end>'], 'raw': '<end>'}]})
    said = []
    whole = without_marks(made, ['<start>', '<end>'], said.append)
    assert [image['sentences'][0]['raw'] for image in whole] == ['A dog.', 'Two dogs', 'A <start> of a race']
    assert [len(image['sentences']) for image in whole] == [1, 1, 1]
    assert ['image 2: 1 captions' in said[0], 'image 9: 1 captions' in said[1]] == [True, True]
    bare = records(images(['bos'], count=12))
    bare[0]['sentences'][0]['raw'] = 'boston by night'
    assert without_marks(bare, ['bos'], pytest.fail)[0]['sentences'][0]['raw'] == 'boston by night'


@pytest.mark.parametrize('text, marks, plain', [
    ('<start> a dog <end>', ['<start>', '<end>'], 'a dog'), ('<s>A dog.</s>', ['<s>', '</s>'], 'A dog.'),
    ('startseq a dog endseq', ['startseq', 'endseq'], 'a dog'), ('[CLS] a dog', ['[CLS]'], 'a dog'),
    ('<s> a dog <pad> <pad> .', ['<s>', '<pad>'], 'a dog'), ('<start>', ['<start>'], ''),
    ('a <end> dog', [], 'a <end> dog'), ('restartseq', [], 'restartseq'), ('A dog.', [], 'A dog.'), ('', [], '')])
def test_marks_at_the_ends_of_texts_are_found_and_left_out(text, marks, plain):
    assert marks_in_texts([text]) == dict.fromkeys(marks, 1)
    assert (text_without(marks, text) if marks else text) == plain


def test_marks_in_a_table_are_reported_and_left_out(run_script, tmp_path):
    rows = ''.join(f'{number}.jpg,<s> Dog {number} runs. </s>\n' for number in range(10))
    (tmp_path / 'captions.csv').write_text(f'image,caption\n{rows}')
    flags = {'table': tmp_path / 'captions.csv', 'output_json': tmp_path / 'd.json'}
    assert '<s> in 10, </s> in 10' in run_script(make_dataset, **flags)[1]
    status, said = run_script(make_dataset, **flags, leave_out_marks=1)
    assert status == 0 and 'left out of 10 captions: <s> in 10, </s> in 10' in said
    sentences = [image['sentences'][0] for image in json.loads((tmp_path / 'd.json').read_text())['images']]
    assert [(one['raw'], one['tokens']) for one in sentences] == [
        (f'Dog {number} runs.', ['dog', str(number), 'runs']) for number in range(10)]
    made = images(['<s>'], ['</s>'])   # tokens that are given
    flags['table'] = tmp_path / 'split.json'
    for image in made:
        image['sentences'][0]['raw'] = ' '.join(image['sentences'][0]['tokens'])
    write_split(tmp_path / 'split.json', made)
    run_script(make_dataset, **flags, leave_out_marks=1)
    sentence = json.loads((tmp_path / 'd.json').read_text())['images'][0]['sentences'][0]
    assert sentence['tokens'] == sentence['raw'].split() == WORDS[:6]


def labels(run_script, tmp_path, made, **flags):
    """Run `prepro_labels.py` -> (status, messages, the JSON, the caption rows)."""
    path = write_split(tmp_path / 'split.json', made)
    status, said = run_script(prepro_labels, input_json=path, output_json=tmp_path / 'talk.json',
                              output_h5=tmp_path / 'talk', word_count_threshold=0, **flags)
    with h5py.File(tmp_path / 'talk_label.h5') as file:
        return status, said, json.loads((tmp_path / 'talk.json').read_text()), file['labels'][:]


def test_preparation_reports_marks_and_leaves_them_out_on_request(run_script, tmp_path):
    made = images(['<start>'], ['<end>'])
    status, said, content, _ = labels(run_script, tmp_path, made)
    assert status == 0 and '<start> in 12, <end> in 12' in said and '--leave_out_marks 1' in said
    assert '<start>' in content['ix_to_word'].values() and 'marks_left_out' not in content
    status, said, content, rows = labels(run_script, tmp_path, made, leave_out_marks=1)
    assert status == 0 and 'left out of the tokens of 12 captions: <start> in 12, <end> in 12' in said
    assert sorted(content['ix_to_word'].values()) == sorted(WORDS) and (rows > 0).sum(1).tolist() == [6] * 12
    assert content['marks_left_out'] == ['<start>', '<end>']
    plain = labels(run_script, tmp_path, images())
    assert 'left out' not in plain[1] and 'WARNING' not in plain[1]
    assert (plain[3] == rows).all() and plain[2]['images'] == content['images']


def table(run_script, tmp_path):
    """Run `prepro_ngrams.py`; the scorer with its table of indices."""
    assert run_script(prepro_ngrams, input_json=tmp_path / 'split.json', dict_json=tmp_path / 'talk.json',
                      output_pkl=tmp_path / 'n', split='all')[0] == 0
    return CiderD.from_pickle(tmp_path / 'n-idxs.p')


def test_the_table_of_n_grams_leaves_the_same_marks_out(run_script, tmp_path):
    rows = labels(run_script, tmp_path, images(['<start>'], ['<end>']), leave_out_marks=1)[3]
    assert table(run_script, tmp_path).table.coverage(rows) == 1
    content = json.loads((tmp_path / 'talk.json').read_text())
    (tmp_path / 'talk.json').write_text(json.dumps({**content, 'marks_left_out': [3]}))
    status, said = run_script(prepro_ngrams, input_json=tmp_path / 'split.json', dict_json=tmp_path / 'talk.json',
                              output_pkl=tmp_path / 'n')
    assert status == 1 and 'marks_left_out' in said


@pytest.mark.parametrize('word', ['<eos>', '0', 'UNK', '<end>'])
def test_a_word_that_is_written_as_the_end_token_is_a_word_of_the_table(word, run_script, tmp_path):
    made = images(last=[word])
    for image in made[::2]:   # in the middle, too
        image['sentences'][0]['tokens'].insert(2, word)
    _, _, content, rows = labels(run_script, tmp_path, made)
    scorer = table(run_script, tmp_path)
    index = {name: number for number, name in content['ix_to_word'].items()}[word]
    assert scorer.table.coverage(rows) == 1
    counts = pickle.loads((tmp_path / 'n-idxs.p').read_bytes())['document_frequency']
    assert counts[index,] == counts['0',] == counts[index, '0'] == 12
    words = pickle.loads((tmp_path / 'n-words.p').read_bytes())['document_frequency']
    assert words[word,] == 12 and words['<eos>',] == 12 and words['dog', word] == counts[
        {name: number for number, name in content['ix_to_word'].items()}['dog'], index]
