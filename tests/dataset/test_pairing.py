"""Vocabulary and labels of different preparations are refused, whether the label file has digests or not."""

import json

import h5py
import numpy as np
import pytest

from misc.cli import DataError
from misc.dataset.corpus import Corpus
from misc.dataset.pairing import digests, missing
from misc.dataset.sources import Sources
from scripts import check_setup, prepro_labels


@pytest.fixture(scope='module')
def prepared(tmp_path_factory, minicoco):
    """The excerpt of COCO prepared twice: as `common`, with words that occur more than 5 times, and as `more`."""
    root = tmp_path_factory.mktemp('prepared')
    for name, threshold in (('common', 5), ('more', 4)):
        images = prepro_labels.read_images(str(minicoco / 'dataset_coco.json'), pytest.fail)
        words = prepro_labels.build_vocabulary(images, threshold)
        content = {'ix_to_word': {str(place + 1): word for place, word in enumerate(words)},
                   'images': prepro_labels.image_records(images, {})}
        prepro_labels.write(str(root / f'{name}.json'), str(root / f'{name}_label.h5'), content,
                            prepro_labels.encode_captions(images, words, 16))
    return root


@pytest.fixture(params=[True, False], ids=['with digests', 'without digests'])
def labels(prepared, tmp_path, request):
    """A copy of the label file of `common`, with its digests or without."""
    path = tmp_path / 'label.h5'
    path.write_bytes((prepared / 'common_label.h5').read_bytes())
    if not request.param:
        with h5py.File(path, 'r+') as file:
            for name in list(file.attrs):
                del file.attrs[name]
    return path


def opened(input_json, label_file):
    return Corpus(Sources(str(input_json), str(label_file), '')).labels


def changed(prepared, tmp_path, change):
    """The JSON file of `common` with its list of images changed."""
    content = json.loads((prepared / 'common.json').read_text())
    content['images'] = change(content['images'])
    (tmp_path / 'talk.json').write_text(json.dumps(content))
    return tmp_path / 'talk.json'


def test_the_files_of_one_preparation_are_taken(prepared, labels):
    assert len(opened(prepared / 'common.json', labels).labels) == 495


def test_another_vocabulary_is_refused(prepared, labels):
    with pytest.raises(DataError, match='does not belong to --input_json .*more.json: .*\n.*prepro_labels.py'):
        opened(prepared / 'more.json', labels)


@pytest.mark.parametrize('change', [lambda images: images[1:] + images[:1], lambda images: images[::-1]])
def test_another_order_of_the_images_is_refused(prepared, labels, tmp_path, change):
    with pytest.raises(DataError, match='does not belong to --input_json'):
        opened(changed(prepared, tmp_path, change), labels)


def test_digests_find_what_no_caption_shows(prepared, tmp_path):
    """Without captions, two images with the same number of captions in each other's place."""
    def swapped(images):
        return [{**image, 'captions': None} for image in [images[1], images[0], *images[2:]]]
    with pytest.raises(DataError, match='other images, or of the same in another order'):
        opened(changed(prepared, tmp_path, swapped), prepared / 'common_label.h5')


def test_files_without_captions_or_with_captions_in_another_order_are_taken(prepared, labels, tmp_path):
    def bare(images):
        return [{name: value for name, value in image.items() if name != 'captions'} for image in images]

    def fewer(images):
        return [{**image, 'captions': [*image['captions'][::-1], 'one more']} for image in images]

    def reversed_order(images):
        return [{**image, 'captions': image['captions'][::-1]} for image in images]
    assert opened(changed(prepared, tmp_path, reversed_order), labels)
    assert opened(changed(prepared, tmp_path, bare), labels)
    assert opened(changed(prepared, tmp_path, fewer), labels)


@pytest.mark.parametrize('value', [3, np.zeros(5), 'x' * 5000, np.array([b'a', b'b'])])
def test_attributes_that_are_no_digests_are_passed_over(prepared, tmp_path, value):
    path = tmp_path / 'label.h5'
    path.write_bytes((prepared / 'common_label.h5').read_bytes())
    with h5py.File(path, 'r+') as file:
        file.attrs['vocabulary_digest'] = value
    assert opened(prepared / 'common.json', path).digests['vocabulary_digest'] is None


def test_words_are_found_however_captions_are_tokenized():
    def found(words, text):
        return missing(words.split(), ''.join(filter(str.isalnum, text.lower())))
    assert found('a mans red and white dog UNK', "A man's red-and-white dog, asleep.") == []
    assert found('ein hund . UNK UNK', 'Ein Hund.') == []
    assert found('dog a', 'A dog') == ['a']
    assert found('UNK a UNK', 'A cat') == [] == found('a UNK', 'a UNK')  # a caption may say UNK itself


def test_check_setup_reports_files_of_different_preparations(prepared, tmp_path, run_script):
    (tmp_path / 'cocotalk.json').write_bytes((prepared / 'more.json').read_bytes())
    (tmp_path / 'cocotalk_label.h5').write_bytes((prepared / 'common_label.h5').read_bytes())
    run_script(check_setup, data=tmp_path, checkpoints=tmp_path)
    from misc.setup.data_files import DataFiles
    assert any('another vocabulary' in finding.detail for finding in DataFiles(str(tmp_path)).findings())


def test_digests_tell_vocabularies_of_one_size_apart():
    assert digests({'1': 'a'}, [5]) != digests({'1': 'b'}, [5])


def test_one_image_that_fits_does_not_speak_for_the_others(prepared, labels, tmp_path):
    def others_in_turn(images):
        captions = [image['captions'] for image in images]
        return [{**image, 'id': image['id'], 'captions': captions[place and place % (len(images) - 1) + 1]}
                for place, image in enumerate(images)]

    with h5py.File(labels, 'r+') as file:
        for name in list(file.attrs):
            del file.attrs[name]
    with pytest.raises(DataError, match='does not belong to --input_json'):
        opened(changed(prepared, tmp_path, others_in_turn), labels)
