"""Which pictures features are of, and the command that makes them (misc/dataset/origin.py)."""

import json

import pytest

from misc.cli import DataError
from misc.dataset.origin import check_pictures, given_to_others, pictures_path, read_pictures, regions_command


def test_files_are_compared_by_name_and_folders_only_where_names_are_repeated():
    assert given_to_others({1: 'val2014/a.jpg', 2: 'b.jpg', 9: 'x.jpg'}, {1: 'a.jpg', 2: 'deep/b.jpg', 3: 'c'}) == []
    assert given_to_others({1: 'train/a.jpg', 2: 'b.jpg'}, {1: 'val/a.jpg', 2: 'a/c.jpg'}) == [2]
    recorded = {1: 'cats/1.jpg', 2: 'dogs/1.jpg'}
    assert given_to_others({1: 'all/dogs/1.jpg', 2: 'all/dogs/1.jpg'}, recorded) == [1]
    assert given_to_others({1: '1.jpg', 2: '1.jpg'}, recorded) == []


def test_only_a_record_of_pictures_is_compared(tmp_path):
    listing, features = tmp_path / 'mine_images.json', tmp_path / 'mine_att'
    images = [{'id': 1, 'file_path': 'a.jpg'}]
    assert pictures_path(features) == pictures_path(tmp_path / 'mine_box/') == str(listing)
    assert read_pictures(features) == {}
    for content in ([1, 2], {'images': [{'id': 1, 'file_name': 'b.jpg'}]}, {'1': {'file': 'c/a.jpg'}}, {}):
        listing.write_text(json.dumps(content))
        check_pictures(images, features, 'talk.json')
    listing.write_text(json.dumps({'1': {'file': 'b.jpg'}}))
    check_pictures([{'id': 1, 'file_path': '1'}, {'id': 2, 'file_path': 'a.jpg'}, {'id': 1}], features, 'ids.json')
    with pytest.raises(DataError, match='1 of 1 images .*image 1 is a.jpg in talk.json, and b.jpg in'):
        check_pictures(images, features, 'talk.json')
    listing.write_text('{"1": {"fi')
    with pytest.raises(DataError, match='mine_images.json'):
        read_pictures(features)


def test_the_command_has_the_settings_that_are_recorded(tmp_path):
    (tmp_path / 'mine_att_regions.json').write_text(json.dumps({
        'detector': 'grid', 'grid_size': 2, 'longest_side': 640, 'cnn_model': 'resnet152',
        'cnn_layout': 'torchvision', 'cnn_weights': 'random 1'}))
    for name in ('mine_att', 'mine_fc', 'mine_box'):
        assert regions_command(tmp_path / name).endswith(
            f'--output_dir {tmp_path / "mine"} --detector grid --cnn_model resnet152 --random_weights 1 '
            '--grid_size 2')
