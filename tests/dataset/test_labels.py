"""Labels and document frequencies: a worked example, an excerpt of COCO, broken files."""

import json
import pickle
from collections import Counter

import h5py
import numpy as np
import pytest
from PIL import Image

from misc.dataset.labels import labels_file_problem
from scripts import prepro_labels, prepro_ngrams
from tests import naive
from tests.helpers.preparing import record, write_split


@pytest.fixture
def split_file(tmp_path):
    """Three images with four captions; `a` and `cat` occur more than twice."""
    return write_split(tmp_path / 'split.json', [
        record(9, 'test', 'the cat sees a cat', 'a dog'), record(4, 'restval', 'cat a a'),
        record(7, 'train', 'a cat cat')])


def labels_of(run_script, tmp_path, input_json, **flags):
    """Run `prepro_labels.py`; returns (status, messages, the JSON, {name: array})."""
    status, said = run_script(prepro_labels, input_json=input_json, output_json=tmp_path / 'made' / 'talk.json',
                              output_h5=tmp_path / 'made' / 'talk', **flags)
    with h5py.File(tmp_path / 'made' / 'talk_label.h5') as file:
        arrays = {name: file[name][:] for name in file}
    return status, said, json.loads((tmp_path / 'made' / 'talk.json').read_text()), arrays


def test_labels_of_a_worked_example(run_script, tmp_path, split_file):
    status, _, content, arrays = labels_of(run_script, tmp_path, split_file, word_count_threshold=2, max_length=4)
    assert status == 0
    # cat 5, a 5, the others once; first appearance: cat before a; UNK last
    assert content['ix_to_word'] == {'1': 'cat', '2': 'a', '3': 'UNK'}
    assert content['images'] == [
        {'split': 'test', 'file_path': 'val2014/9.jpg', 'id': 9,
         'captions': ['The cat sees a cat.', 'A dog.']},
        {'split': 'restval', 'file_path': 'val2014/4.jpg', 'id': 4, 'captions': ['Cat a a.']},
        {'split': 'train', 'file_path': 'val2014/7.jpg', 'id': 7, 'captions': ['A cat cat.']}]
    assert {name: array.tolist() for name, array in arrays.items()} == {
        'labels': [[3, 1, 3, 2], [2, 3, 0, 0], [1, 2, 2, 0], [2, 1, 1, 0]],
        'label_start_ix': [1, 3, 4], 'label_end_ix': [2, 3, 4], 'label_length': [4, 2, 3, 3]}
    assert {array.dtype for array in arrays.values()} == {np.dtype('uint32')}


def test_without_rare_words_there_is_no_unk(run_script, tmp_path, split_file):
    content, arrays = labels_of(run_script, tmp_path, split_file, word_count_threshold=0)[2:]
    assert list(content['ix_to_word'].values()) == ['the', 'cat', 'sees', 'a', 'dog']
    assert arrays['labels'].shape == (4, 16)


@pytest.mark.parametrize('more, words', [('', ['a', 'cat', 'UNK']), ('dog', ['a', 'cat', 'UNK'])])
def test_a_caption_that_literally_says_unk_has_a_word_outside_the_vocabulary(run_script, tmp_path, more, words):
    images = [record(1, 'train', 'a UNK cat', 'UNK a UNK'), record(2, 'train', f'cat UNK {more}'.strip())]
    path = write_split(tmp_path / 'split.json', images)
    content, arrays = labels_of(run_script, tmp_path, path, word_count_threshold=1, max_length=3)[2:]
    assert list(content['ix_to_word'].values()) == words
    assert arrays['labels'].tolist() == [[1, 3, 2], [3, 1, 3], [2, 3, 3 if more else 0]]
    assert run_script(prepro_ngrams, input_json=path, dict_json=tmp_path / 'made' / 'talk.json',
                      output_pkl=tmp_path / 'out')[0] == 0
    table = pickle.loads((tmp_path / 'out-idxs.p').read_bytes())['document_frequency']
    assert table == naive.split_ngrams(images, ['train'], {word: str(i + 1) for i, word in enumerate(words)})
    assert table['3',] == 2 and table['1', '3'] == 1


def test_labels_of_real_captions_equal_a_plain_recomputation(run_script, tmp_path, minicoco):
    images = json.loads((minicoco / 'dataset_coco.json').read_text())['images']
    status, _, content, arrays = labels_of(run_script, tmp_path, minicoco / 'dataset_coco.json',
                                           images_root=minicoco / 'images')
    assert status == 0
    tokens = [token for image in images for sentence in image['sentences'] for token in sentence['tokens']]
    often = Counter(tokens)
    words = []
    for token in tokens:
        if often[token] > 5 and token not in words:
            words.append(token)
    words.append('UNK')
    assert content['ix_to_word'] == {str(i + 1): word for i, word in enumerate(words)}
    row = 0
    for number, image in enumerate(images):
        assert arrays['label_start_ix'][number] == row + 1
        for sentence in image['sentences']:
            kept = sentence['tokens'][:16]
            indices = [words.index(token) + 1 if token in words else len(words) for token in kept]
            assert arrays['labels'][row].tolist() == indices + [0] * (16 - len(kept))
            assert arrays['label_length'][row] == len(kept)
            row += 1
        assert arrays['label_end_ix'][number] == row
        with Image.open(minicoco / 'images' / content['images'][number]['file_path']) as photo:
            assert photo.size == (content['images'][number]['width'], content['images'][number]['height'])
    assert arrays['labels'].shape == (row, 16)


def test_flickr_files_without_cocoid_and_filepath_use_imgid(run_script, tmp_path):
    images = [{**record(0, 'train', 'a cat', key='imgid'), 'sentids': [0]}]
    del images[0]['filepath']
    content = labels_of(run_script, tmp_path, write_split(tmp_path / 'f.json', images))[2]
    assert content['images'][0]['id'] == 0 and content['images'][0]['file_path'] == '0.jpg'


def test_broken_records_are_named_and_the_others_written(run_script, tmp_path):
    images = [record(1, 'train', 'a cat'), record(1, 'train', 'another'), record(2, 'train'),
              record(3, None, 'a'), record('x', 'train', 'a'), 'nothing', record(5, 'val', 'a b', '', 'c'),
              {'split': 'train', 'imgid': 6, 'sentences': [{'tokens': ['no', 'cocoid']}]}]
    status, said, content, arrays = labels_of(run_script, tmp_path, write_split(tmp_path / 's.json', images))
    assert status == 1
    assert [image['id'] for image in content['images']] == [1, 5]
    assert content['images'][1]['captions'] == ['A b.', 'C.']
    assert arrays['label_end_ix'].tolist() == [1, 3]
    for words in ('the id 1 is in the file a second time', 'image 2 has no sentences', 'image 3 has no split',
                  "'x', not an image id", 'images[5]: not an object', 'image 5: sentence 1 has no tokens',
                  'images[7]: cocoid is None'):
        assert words in said.split('the others are written')[1]


def test_an_image_that_cannot_be_measured_keeps_its_captions(run_script, tmp_path, split_file):
    (tmp_path / 'val2014').mkdir()
    Image.new('RGB', (30, 20)).save(tmp_path / 'val2014' / '9.jpg')
    status, said, content, _ = labels_of(run_script, tmp_path, split_file, images_root=tmp_path)
    assert status == 1 and 'image 4 gets no size' in said and '4.jpg' in said
    assert [image.get('width') for image in content['images']] == [30, None, None]
    assert run_script(prepro_labels, input_json=split_file, output_json='x', output_h5='x',
                      images_root=tmp_path / 'none')[0] == 2


@pytest.mark.parametrize('content', ['{"images": []}', '[1]', '{"images"', '{"images": [1, 2]}'])
def test_a_file_that_is_no_split_file_is_refused_and_the_old_output_kept(content, run_script, tmp_path, split_file):
    before = labels_of(run_script, tmp_path, split_file)[2]
    (tmp_path / 'bad.json').write_text(content)
    status, said = labels_of(run_script, tmp_path, tmp_path / 'bad.json')[:2]
    assert status == 1 and 'bad.json' in said
    assert json.loads((tmp_path / 'made' / 'talk.json').read_text()) == before


@pytest.mark.parametrize('split, names', [('train', ['train', 'restval']), ('val', ['val']),
                                          ('test', ['test']), ('all', ['train', 'restval', 'val', 'test'])])
def test_document_frequencies_equal_a_plain_count(split, names, run_script, tmp_path, minicoco):
    images = json.loads((minicoco / 'dataset_coco.json').read_text())['images']
    content = labels_of(run_script, tmp_path, minicoco / 'dataset_coco.json')[2]
    assert run_script(prepro_ngrams, input_json=minicoco / 'dataset_coco.json', split=split,
                      dict_json=tmp_path / 'made' / 'talk.json', output_pkl=tmp_path / 'out' / 'coco')[0] == 0
    tables = {kind: pickle.loads((tmp_path / 'out' / f'coco-{kind}.p').read_bytes())
              for kind in ('words', 'idxs')}
    index = {word: position for position, word in content['ix_to_word'].items()}
    expected = naive.split_ngrams(images, names, index)
    assert tables['idxs']['document_frequency'] == expected
    back = {**content['ix_to_word'], '0': '<eos>'}
    assert tables['words']['document_frequency'] == {
        tuple(back[position] for position in ngram): count for ngram, count in expected.items()}
    for table in tables.values():
        assert table['ref_len'] == sum(image['split'] in names for image in images)
        assert table['document_frequency']['never', 'seen'] == 0.0   # a defaultdict(float)


def test_a_vocabulary_of_another_file_is_refused(run_script, tmp_path, split_file):
    (tmp_path / 'dict.json').write_text('{"ix_to_word": {"1": "a"}}')
    flags = {'input_json': split_file, 'output_pkl': tmp_path / 'c', 'dict_json': tmp_path / 'dict.json'}
    status, said = run_script(prepro_ngrams, **flags)
    assert status == 1 and "'cat'" in said and 'prepro_labels.py' in said
    status, said = run_script(prepro_ngrams, **flags, split='val')
    assert status == 1 and '--split val' in said
    assert run_script(prepro_ngrams, **flags, split='valid')[0] == 2
    assert not list(tmp_path.glob('c-*'))


def test_a_vocabulary_whose_last_number_is_missing_is_refused():
    assert labels_file_problem({'images': [], 'ix_to_word': {'1': 'a', '3': 'b'}}) == \
        'its ix_to_word does not count words from 1'
