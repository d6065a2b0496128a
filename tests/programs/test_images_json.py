"""Captions of new images that have features, without labels or vocabulary: `eval.py --images_json`."""

import json
import os

import pytest

import eval as evaluation
import train
from misc.cli import DataError, UsageError
from tests.helpers import tiny

TEST_IDS = [112, 113, 114, 115]


def test_listed_images_get_the_captions_that_they_have_in_the_data_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    corpus, run, listed = tiny.write_corpus(tmp_path / 'corpus'), tmp_path / 'run', tmp_path / 'new.json'
    tiny.run(train, tiny.train_flags(corpus, run, '--max_epochs', 1))

    def caption(*flags, files=('--model', run / 'model.pth', '--infos_path', run / 'infos_tiny.pkl')):
        tiny.run(evaluation, [*files, '--device', 'cpu', '--num_workers', 0, *flags])
        with open('vis/vis.json', encoding='utf-8') as file:
            return [(entry['image_id'], entry['caption']) for entry in json.load(file)]

    features = ('--input_img_feat_dir', corpus / 'att', '--input_grid_vec_dir', corpus / 'vec')
    expected = caption(*tiny.data_flags(corpus))
    assert [image_id for image_id, _ in expected] == TEST_IDS
    images = json.loads((corpus / 'talk.json').read_text())['images']
    for name in ('talk.json', 'talk_label.h5'):
        os.rename(corpus / name, tmp_path / name)
    for content in (
            {'images': [{'id': image_id, 'file_name': f'{image_id}.jpg'} for image_id in TEST_IDS]},
            {str(image_id): {'file': f'{image_id}.jpg'} for image_id in TEST_IDS}, TEST_IDS,
            [image for image in images if image['id'] in TEST_IDS]):
        listed.write_text(json.dumps(content))
        assert caption('--images_json', listed, *features) == expected
    # A run knows its folders of features, and boxes can be read beside sizes.
    assert caption('--images_json', listed, files=('--run', run)) == expected
    boxes = ('--input_grid_vec_dir', '', '--input_box_dir', corpus / 'box')
    assert caption('--images_json', listed, *features, *boxes) == expected

    for flags, error, message in (
            (('--split', 'val'), UsageError, '--split val does not go with --images_json'),
            (('--language_eval', 1), UsageError, 'needs --coco_json')):
        with pytest.raises(error, match=message):
            caption('--images_json', listed, *features, *flags)
    for content, message in (([], 'no list of images'), ([1, 1], 'an id twice'), ([{'name': 'x'}], 'without a whole'),
                             ([7], '1 of 1 images have no features')):
        listed.write_text(json.dumps(content))
        with pytest.raises(DataError, match=message):
            caption('--images_json', listed, *features)
