"""Copies of the training pictures: their pixels, captions and records, and what a second run makes again."""

import json
import os
import pickle
import re

import numpy as np
import pytest
from PIL import Image

from misc.pictures.images import read_rgb, read_size
from scripts import augment_pictures, extract_regions, make_dataset, prepro_labels, prepro_ngrams
from scripts.augment_pictures import draw_crops, swapped
from tests.helpers.preparing import record, write_split

SIZES = {1: (64, 48), 2: (30, 90), 3: (50, 50), 4: (50, 40)}
SPLITS = {1: 'train', 2: 'restval', 3: 'val', 4: 'test'}


@pytest.fixture
def pictures(tmp_path):
    """A folder of smooth pictures, of which no two parts are alike, and their split file."""
    for number, (width, height) in SIZES.items():
        y, x = np.mgrid[:height, :width]
        path = tmp_path / 'photos' / 'val2014' / f'{number}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.stack([255 * x / width, 255 * y / height, np.full_like(x, 60 * number)], axis=2)
        Image.fromarray(pixels.astype(np.uint8)).save(path, quality=95)
    write_split(tmp_path / 'split.json', [record(number, split, 'a dog left of a cat', 'Two rightmost dogs')
                                          for number, split in SPLITS.items()])
    return tmp_path


@pytest.fixture
def augment(pictures, run_script):
    """Call with flags to run the command -> (status, messages, the images of the split file that it wrote)."""
    def call(**flags):
        output = pictures / 'more.json'
        status, said = run_script(augment_pictures, **{
            'input_json': pictures / 'split.json', 'images_root': pictures / 'photos', 'output_json': output,
            'output_dir': pictures / 'more', 'num_workers': 1, **flags})
        return status, said, json.loads(output.read_text())['images'] if output.exists() else []
    return call


def test_copies_show_a_part_of_the_picture_and_every_second_one_is_flipped(augment, pictures):
    status, _, images = augment(copies=3, smallest_crop=0.5)
    originals, copies = images[:4], images[4:]
    assert status == 0 and [(image['imgid'], image['split']) for image in originals] == list(SPLITS.items())
    assert [(image['imgid'], image['copy_of'], image['split']) for image in copies] == [
        *((number, 1, 'train') for number in (5, 6, 7)), *((number, 2, 'restval') for number in (8, 9, 10))]
    shares = []
    for number, copy in enumerate(copies):
        whole = read_rgb(pictures / 'photos' / 'val2014' / f'{copy["copy_of"]}.jpg').astype(int)
        seen = read_rgb(pictures / 'more' / copy['filepath'] / copy['filename']).astype(int)
        is_flipped = number % 3 != 1
        seen = seen[:, ::-1] if is_flipped else seen
        height, width, _ = seen.shape
        assert (copy['width'], copy['height']) == (width, height)
        # Its place, found in the picture: where it differs least.
        places = {(top, left): np.abs(whole[top:top + height, left:left + width] - seen).mean()
                  for top in range(len(whole) - height + 1) for left in range(whole.shape[1] - width + 1)}
        assert min(places.values()) < 2
        shares.append(seen.size / whole.size)
        assert abs(width / height - whole.shape[1] / len(whole)) < 0.05
        words = [sentence['tokens'] for sentence in copy['sentences']]
        assert words == ([['a', 'dog', 'right', 'of', 'a', 'cat'], ['Two', 'leftmost', 'dogs']] if is_flipped else
                         [['a', 'dog', 'left', 'of', 'a', 'cat'], ['Two', 'rightmost', 'dogs']])
        assert copy['sentences'][0]['raw'] == f'A dog {"right" if is_flipped else "left"} of a cat.'
    assert all(0.45 < share <= 1 for share in shares) and len(set(shares)) > 3
    for image in originals:
        path = f'val2014/{image["filename"]}'
        assert (pictures / 'more' / path).read_bytes() == (pictures / 'photos' / path).read_bytes()


def test_a_second_run_makes_only_what_is_missing(augment, pictures):
    images = augment()[2]
    files = sorted((pictures / 'more' / 'copies').iterdir())
    made = {path: path.stat().st_mtime_ns for path in files}
    (pictures / 'more' / 'copies' / f'{files[0].name}.999999999.part').write_text('of a killed run')
    assert augment()[2] == images and sorted((pictures / 'more' / 'copies').iterdir()) == files
    assert {path: path.stat().st_mtime_ns for path in files} == made
    files[0].unlink()
    assert augment()[2] == images and sorted((pictures / 'more' / 'copies').iterdir()) == files
    assert {path for path in files if path.stat().st_mtime_ns != made[path]} == {files[0]}
    assert augment(copies=4)[2][4:6] == images[4:6]   # the first copies stay the same
    assert augment(seed=1)[2][4]['filename'] != images[4]['filename']
    assert not any('flipped' in image['filename'] for image in augment(flip=0, smallest_crop=1)[2])


def test_copies_are_of_the_picture_that_has_the_id_now(augment, pictures):
    """Another picture of the same size, by a replaced file (which may be older) or by another split file."""
    augment()
    photos = pictures / 'photos' / 'val2014'
    for number, colour in ((1, 'red'), (2, 'blue')):
        Image.new('RGB', (64, 48), colour).save(photos / f'{number}.jpg')
        os.utime(photos / f'{number}.jpg', (0, 0))

    def colours(images):
        """The red and blue of the copies' first pixels, by the originals' ids."""
        return {image['copy_of']: tuple(read_rgb(pictures / 'more' / 'copies' / image['filename'])[0, 0, ::2])
                for image in images if 'copy_of' in image}
    assert colours(augment()[2]) == {1: (254, 0), 2: (0, 254)}
    write_split(pictures / 'split.json', [{**record(3 - number, 'train', 'a dog'), 'filename': f'{number}.jpg'}
                                          for number in (1, 2)])
    assert colours(augment()[2]) == {2: (254, 0), 1: (0, 254)}


def test_crops_are_of_the_upright_picture_scaled_down(augment, pictures):
    """Orientation 6: the first row of the stored pixels is the right side."""
    y, x = np.mgrid[:60, :200]
    pixels = np.stack([x, 4 * y, np.zeros_like(x)], axis=2).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(pictures / 'photos' / 'val2014' / '1.jpg', quality=95, subsampling=0, exif=exif)
    images = augment(longest_side=100, smallest_crop=1)[2]
    assert (images[0]['width'], images[0]['height']) == (60, 200)
    flipped, plain = ([image for image in images if image.get('copy_of') == 1])
    upright = np.rot90(pixels, -1).astype(int)
    for image, expected in ((flipped, upright[:, ::-1]), (plain, upright)):
        seen = read_rgb(pictures / 'more' / 'copies' / image['filename']).astype(int)
        assert seen.shape == (100, 30, 3) == (image['height'], image['width'], 3)
        assert np.abs(seen - expected.reshape(100, 2, 30, 2, 3).mean((1, 3))).mean() < 4


def test_pictures_that_cannot_be_read_are_left_out_with_their_copies(augment, pictures):
    (pictures / 'photos' / 'val2014' / '2.jpg').write_bytes(b'no picture')
    (pictures / 'photos' / 'val2014' / '4.jpg').unlink()
    status, said, images = augment()
    assert status == 1 and '2.jpg: not a readable image' in said and '4.jpg: there is no such file' in said
    assert [image.get('copy_of', image['imgid']) for image in images] == [1, 3, 1, 1]
    # The header is whole here, and the pixels are not.
    cut = pictures / 'photos' / 'val2014' / '2.jpg'
    cut.write_bytes((cut.parent / '1.jpg').read_bytes()[:-200])
    assert read_size(str(cut)) == SIZES[1]
    status, said, images = augment()
    assert status == 1 and '2.jpg: not a readable image' in said
    assert [image.get('copy_of', image['imgid']) for image in images] == [1, 3, 1, 1]


def test_copies_change_neither_vocabulary_nor_inverse_document_frequencies(augment, pictures, run_script):
    """The other commands read the copies; words do not become more frequent, and no word is lost to a flipped
    picture."""
    augment(swap_words='dog=cat')
    arguments = {'output_json': pictures / 'talk.json', 'output_h5': pictures / 'talk', 'word_count_threshold': 4}
    words, losses = [], []
    for split in ('split', 'more'):
        status, said = run_script(prepro_labels, input_json=pictures / f'{split}.json', **arguments)
        words.append(json.loads((pictures / 'talk.json').read_text())['ix_to_word'])
        losses.append(re.search('.*are UNK.*', said)[0])
        assert status == 0
    assert words[0] == words[1] and len(words[0]) == 2   # 'a', eight times, and UNK
    assert losses[0] == losses[1]
    arguments['word_count_threshold'] = 0
    augment(flip=0)   # flipped captions hold other n-grams, as they should
    shares = []
    for split in ('split', 'more'):
        run_script(prepro_labels, input_json=pictures / f'{split}.json', **arguments)
        run_script(prepro_ngrams, input_json=pictures / f'{split}.json', dict_json=pictures / 'talk.json',
                   output_pkl=pictures / split)
        table = pickle.loads((pictures / f'{split}-words.p').read_bytes())
        shares.append({ngram: count / table['ref_len'] for ngram, count in table['document_frequency'].items()})
    assert shares[0] == shares[1] and ('left', 'of') in shares[0]
    # A word that only flipped copies have needs UNK, though no original lacks a word.
    augment(swap_words='two=three')
    status, _ = run_script(prepro_labels, input_json=pictures / 'more.json', **arguments)
    assert status == 0 and 'UNK' in json.loads((pictures / 'talk.json').read_text())['ix_to_word'].values()


def test_regions_are_found_in_copies(augment, pictures, networks, run_script):
    augment()
    status, said = run_script(extract_regions, input_json=pictures / 'more.json', images_root=pictures / 'more',
                              output_dir=pictures / 'grid', detector='grid', random_weights=1, device='cpu')
    assert status == 0 and len(list((pictures / 'grid_att').iterdir())) == 8, said
    files = json.loads((pictures / 'grid_images.json').read_text())
    assert files['5']['file'].startswith('copies/1_') and files['1']['file'] == 'val2014/1.jpg'


@pytest.mark.parametrize('flags, complaint', [
    ({'input_json': 'more.json', 'output_json': 'third.json'}, 'has copies already'),
    ({'output_dir': 'photos'}, 'is the same as --images_root'),
    ({'images_root': 'nowhere'}, 'there is no folder'),
    ({'output_json': 'split.json'}, 'is the same as --input_json'),
    ({'output_json': 'split.json/more.json'}, 'cannot be written'),
    ({'swap_words': 'left'}, 'give two words, such as left=right'),
    ({'swap_words': 'left=left'}, 'left is there 2 times'),
    ({'output_dir': 'theirs'}, 'is another file than')])
def test_contradictions_are_refused(augment, pictures, flags, complaint):
    augment()
    (pictures / 'theirs' / 'val2014').mkdir(parents=True)
    (pictures / 'theirs' / 'val2014' / '1.jpg').write_text('of another')
    places = {name: value if name == 'swap_words' else pictures / value for name, value in flags.items()}
    status, said, _ = augment(**places)
    assert status and complaint in said


def test_without_a_training_picture_there_is_nothing_to_copy(augment, pictures):
    write_split(pictures / 'split.json', [record(3, 'val', 'a dog')])
    status, said, _ = augment()
    assert status == 1 and 'nothing to copy' in said


def test_words_are_exchanged_whole_and_keep_their_capitals():
    sides = {'left': 'right', 'leftmost': 'rightmost'}
    assert swapped('Left of the left-handed man, upright, the Rightmost dog on the LEFT', sides) == (
        'Right of the right-handed man, upright, the Leftmost dog on the RIGHT')


def test_a_text_in_which_the_words_are_not_found_is_made_of_the_tokens(augment, pictures):
    write_split(pictures / 'split.json', [{**record(1, 'train', '\u5de6 \u8fb9'), 'sentences': [
        {'tokens': ['\u5de6', '\u8fb9'], 'raw': '\u5de6\u8fb9'}]}])
    flipped, plain = augment(swap_words='\u5de6=\u53f3')[2][1:]
    assert [flipped['sentences'][0][part] for part in ('tokens', 'raw')] == [['\u53f3', '\u8fb9'], '\u53f3 \u8fb9']
    assert plain['sentences'][0]['raw'] == '\u5de6\u8fb9'
    assert '0 of 1 captions' in augment()[1] and '1 of 1 captions' in augment(swap_words='\u5de6=\u53f3')[1]


def test_a_copy_has_the_proportions_and_at_least_the_share_that_was_asked_for():
    corners = set()
    for image_id in range(50):
        for copy in draw_crops(image_id, (400, 300), 4, 0.6, True, 0):
            width, height = copy.right - copy.left, copy.bottom - copy.top
            assert min(copy.left, copy.top) >= 0 and copy.right <= 400 and copy.bottom <= 300
            assert 0.59 < width * height / 120000 <= 1 and abs(width / height - 4 / 3) < 0.01
            corners.add((copy.left > 0, copy.top > 0, copy.right < 400, copy.bottom < 300))
    assert (True, True, True, True) in corners   # somewhere, not always at a border


def test_splits_are_drawn_before_copies_are_made(augment, pictures, run_script):
    """Else copies of training pictures would be validated on."""
    augment()
    status, said = run_script(make_dataset, table=pictures / 'more.json', output_json=pictures / 'third.json')
    assert status == 1 and 'make copies when the splits are settled' in said
