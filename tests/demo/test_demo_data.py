"""The built-in data set: its files, the truth of its captions, features without positions, relation accuracy."""

import base64
import collections
import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from misc.demo import regions as demo_regions
from misc.demo import scenes as demo_scenes
from misc.demo.captions import MAX_WORDS, tokens_of, write_captions
from misc.demo.relations import COLOURS, SHAPE_WORDS, SHAPES, canonical, parse_relations, relation_accuracy
from misc.demo.scenes import SIDES, Scene, Shape
from tests.helpers import ROOT

SCRIPT = ROOT / 'scripts' / 'make_demo_data.py'
NUM_IMAGES = 48


def make(folder, *options, num_images=NUM_IMAGES):
    """Make the data set in `folder`; returns the finished process."""
    return subprocess.run([sys.executable, SCRIPT, '--output_dir', folder, '--num_images', str(num_images),
                           *options], capture_output=True, text=True)


def contents(folder):
    """{path in the folder: bytes}"""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def archive_rows(folder):
    """The rows of all four files of the archive, read as the archive's published reader does:
    {image id: (file name, width, height, boxes, features)}."""
    csv.field_size_limit(1 << 30)
    rows = {}
    for path in sorted((folder / 'bu_data' / 'trainval').iterdir()):
        with open(path, newline='') as file:
            for image_id, width, height, count, boxes, features in csv.reader(file, delimiter='\t'):
                arrays = [np.frombuffer(base64.b64decode(text), '<f4').reshape(int(count), -1)
                          for text in (boxes, features)]
                assert int(image_id) not in rows
                rows[int(image_id)] = path.name, int(width), int(height), *arrays
    return rows


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """A small data set, made by two processes."""
    folder = tmp_path_factory.mktemp('made') / 'demo'
    run = make(folder, '--num_workers', '2')
    assert run.returncode == 0, run.stderr
    return folder


@pytest.fixture(scope='module')
def scenes():
    """200 scenes with their facts and captions: [(scene, fact, captions)]."""
    drawn = []
    for number in range(200):
        rng = np.random.default_rng([5, number])
        scene, fact = demo_scenes.draw_scene(rng)
        drawn.append((scene, fact, write_captions(fact, rng)))
    return drawn


def test_the_files_are_the_same_bytes_for_any_number_of_processes(made, tmp_path):
    assert make(tmp_path / 'demo', '--num_workers', '1').returncode == 0
    assert contents(tmp_path / 'demo') == contents(made)
    assert make(tmp_path / 'other', '--seed', '1').returncode == 0
    assert contents(tmp_path / 'other') != contents(made)


def test_a_killed_run_resumes_and_ends_with_the_same_bytes(made, tmp_path):
    folder = tmp_path / 'demo'
    process = subprocess.Popen([sys.executable, SCRIPT, '--output_dir', folder, '--num_images',
                                str(NUM_IMAGES), '--num_workers', '1'], stderr=subprocess.DEVNULL)
    val = folder / 'bu_data' / 'trainval' / 'karpathy_val_resnet101_faster_rcnn_genome.tsv'
    while not val.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / 'dataset_coco.json').exists()
    # What a run that is killed during a write leaves behind: a JPEG, its line, and half of the next line.
    train = folder / 'bu_data' / 'trainval' / 'karpathy_train_resnet101_faster_rcnn_genome.tsv.0'
    lines = (made / train.relative_to(folder)).read_bytes().split(b'\r\n')
    (train.parent / (train.name + '.unfinished')).write_bytes(lines[0] + b'\r\n' + lines[1][:1000])
    first = folder / 'images' / 'train2014' / f'COCO_train2014_{int(lines[0].split()[0]):012d}.jpg'
    first.write_bytes((made / first.relative_to(folder)).read_bytes())
    stamps = {path: os.stat(path).st_mtime_ns for path in (val, first)}
    assert make(folder).returncode == 0
    assert contents(folder) == contents(made)
    assert stamps == {path: os.stat(path).st_mtime_ns for path in stamps}


def test_other_options_for_the_same_folder_are_refused_and_nothing_changes(made):
    before = contents(made)
    for options, named in (({'num_images': 80}, '--num_images 48, not 80'), ({}, '--seed 0, not 4')):
        run = make(made, *(() if options else ('--seed', '4')), **options)
        assert run.returncode == 2 and named in run.stderr and 'Traceback' not in run.stderr
    assert contents(made) == before


def test_the_split_file_has_the_fields_of_karpathys_and_every_jpeg_exists(made):
    content = json.loads((made / 'dataset_coco.json').read_text())
    images = content['images']
    assert content['dataset'] == 'coco' and len(images) == NUM_IMAGES
    counts = collections.Counter(image['split'] for image in images)
    assert counts == {'test': 6, 'val': 2, 'restval': 2, 'train': 38}
    sentids = [sentid for image in images for sentid in image['sentids']]
    assert len(set(sentids)) == len(sentids) == 5 * NUM_IMAGES
    assert len({image['cocoid'] for image in images}) == NUM_IMAGES
    rows = archive_rows(made)
    for number, image in enumerate(images):
        folder = 'train2014' if image['split'] == 'train' else 'val2014'
        assert image['imgid'] == number and image['filepath'] == folder
        assert image['filename'] == f'COCO_{folder}_{image["cocoid"]:012d}.jpg'
        with Image.open(made / 'images' / folder / image['filename']) as picture:
            assert picture.format == 'JPEG' and picture.size == rows[image['cocoid']][1:3]
        for sentence, sentid in zip(image['sentences'], image['sentids'], strict=True):
            assert sentence['sentid'] == sentid and sentence['imgid'] == number
            assert ' '.join(sentence['tokens']) == sentence['raw'].lower().rstrip('.')
    assert len(list((made / 'images').rglob('*.jpg'))) == NUM_IMAGES


def test_the_archive_files_hold_each_image_once_with_10_to_30_boxes_inside_it(made):
    split = {image['cocoid']: image['split']
             for image in json.loads((made / 'dataset_coco.json').read_text())['images']}
    rows = archive_rows(made)
    assert set(rows) == set(split)
    for image_id, (name, width, height, boxes, features) in rows.items():
        kept = 'train' if split[image_id] == 'restval' else split[image_id]
        assert name.startswith(f'karpathy_{kept}_resnet101_faster_rcnn_genome.tsv')
        assert 10 <= len(boxes) <= 30 and boxes.shape[1] == 4 and features.shape == (len(boxes), 2048)
        assert (boxes >= 0).all() and (boxes <= [width - 1, height - 1] * 2).all()
        assert (boxes[:, 2:] - boxes[:, :2] >= 3).all()
        assert np.isfinite(features).all() and (features >= 0).all()
    norms = np.linalg.norm(np.concatenate([row[4] for row in rows.values()]), axis=1)
    assert 24 < norms.mean() < 26
    raw = (made / 'bu_data' / 'trainval' / 'karpathy_test_resnet101_faster_rcnn_genome.tsv').read_bytes()
    assert raw.count(b'\n') == raw.count(b'\r\n') == 6


def test_sides_that_captions_state_are_true_of_the_scene_with_a_margin(scenes):
    counts = collections.Counter()
    for scene, fact, captions in scenes:
        by_name = {shape.name: shape for shape in scene.shapes}
        assert len(by_name) == len(scene.shapes)
        counts[fact.relation] += 1
        for caption in captions:
            said = parse_relations(tokens_of(caption))
            assert len(said) == (fact.relation in SIDES), caption
            for relation, first, second in said:
                one, other = by_name[first], by_name[second]
                dx, dy = other.x - one.x, other.y - one.y
                along, across = {'left': (dx, dy), 'right': (-dx, dy),
                                 'above': (dy, dx), 'below': (-dy, dx)}[relation]
                assert along > 2.5 * abs(across), caption
                assert along > (one.side + other.side) / 2, caption
                assert {one, other} == set(sorted(scene.shapes, key=lambda shape: -shape.side)[:2])
    share = sum(counts[side] for side in SIDES) / len(scenes)
    assert 0.75 < share < 0.9 and all(counts[side] > 0.18 * share * len(scenes) for side in SIDES)


def test_corners_inside_and_between_are_true_where_captions_state_them(scenes):
    seen = collections.Counter()
    for scene, fact, captions in scenes:
        sizes = sorted((shape.side for shape in scene.shapes), reverse=True)
        assert sizes[0] > 1.2 * sizes[1] > 1.44 * sizes[2]
        largest = scene.shapes[0]
        for caption in captions:
            words = tokens_of(caption)
            if 'corner' in words:
                seen['corner'] += 1
                before = words[:words.index('corner')]
                assert (before[-2] in ('top', 'upper')) == (largest.y < 0.4 * scene.height)
                assert (before[-2] in ('bottom', 'lower')) == (largest.y > 0.6 * scene.height)
                assert (before[-1] == 'left') == (largest.x < 0.4 * scene.width)
                assert (before[-1] == 'right') == (largest.x > 0.6 * scene.width)
                assert before[-6:-5] == [largest.colour] or before[-5:-4] == [largest.colour], caption
            elif 'middle' in words or 'centre' in words:
                seen['middle'] += 1
                assert abs(largest.x / scene.width - 0.5) < 0.1 > abs(largest.y / scene.height - 0.5)
            if fact.relation == 'inside':
                inner, outer = fact.shapes
                assert all(low < inside for low, inside in zip(outer.box[:2], inner.box[:2]))
                assert all(high > inside for high, inside in zip(outer.box[2:], inner.box[2:]))
                seen['inside'] += 'inside' in words or 'within' in words
            if fact.relation == 'between':
                middle, *ends = fact.shapes
                assert all(abs(value - sum(pair) / 2) < 0.1 * scene.height for value, pair in
                           ((middle.x, [end.x for end in ends]), (middle.y, [end.y for end in ends])))
                assert set(fact.shapes) == set(scene.shapes[:3])
                said = [(at, (words[at - 1], SHAPE_WORDS[word]))
                        for at, word in enumerate(words) if word in SHAPE_WORDS]
                after = [name for at, name in said if at > words.index('between')]
                assert {name for _, name in said} == {shape.name for shape in fact.shapes}
                assert set(after[:2]) == {end.name for end in ends}
                seen['between'] += 1
    assert min(seen[kind] for kind in ('corner', 'middle', 'inside', 'between')) > 5, seen


def test_captions_are_five_distinct_sentences_of_at_most_16_words_from_a_small_vocabulary(scenes):
    words = collections.Counter()
    for _, _, captions in scenes:
        assert len(set(captions)) == 5
        for caption in captions:
            words.update(tokens_of(caption))
            assert 5 <= len(tokens_of(caption)) <= MAX_WORDS
            assert not any(f'{article} {vowel}' in caption.lower() for article, vowel in
                           ((' a', 'orange'), (' an', 'red'), (' an', 'blue')))
    assert 55 <= len(words) <= 120


def test_no_box_of_a_shape_is_cut_by_the_border_of_the_picture(scenes):
    """A crop cut off there would reveal its position."""
    for number, (scene, _, _) in enumerate(scenes):
        boxes = demo_regions.region_boxes(scene, np.random.default_rng(number))
        middles = np.array([[shape.x, shape.y] for shape in scene.shapes])
        on_shapes = [((box[:2] < middles) & (middles < box[2:])).all(axis=1).any() for box in boxes]
        end = scene.width - 1, scene.height - 1
        cut = (boxes[:, :2] <= 0).any(axis=1) | (boxes[:, 2:] >= end).any(axis=1)
        whole = (boxes == [0, 0, *end]).all(axis=1)
        assert whole.sum() == 1 and (cut & on_shapes).tolist() == whole.tolist()


def test_features_encode_neither_the_position_nor_the_arrangement_of_a_crop():
    rng = np.random.default_rng(3)
    scene, _ = demo_scenes.draw_scene(rng)
    crop = demo_scenes.paint(scene, rng)[5:85, 10:110]
    feature = demo_regions.region_features(crop, np.array([[0, 0, 99, 79]]))[0]
    for other in (crop[::-1], crop[:, ::-1], crop[::-1, ::-1]):
        assert np.array_equal(demo_regions.region_features(other, np.array([[0, 0, 99, 79]]))[0], feature)
    for x, y in ((0, 0), (61, 40), (100, 13)):
        picture = rng.integers(0, 256, size=(150, 200, 3)).astype(np.uint8)
        picture[y:y + 80, x:x + 100] = crop
        moved = demo_regions.region_features(picture, np.array([[x, y, x + 99, y + 79]]))[0]
        assert np.array_equal(moved, feature)


def test_features_of_two_shapes_in_one_crop_are_the_same_in_either_order():
    """Left of, right of, and the same shapes farther apart in the crop have the same feature."""
    features = []
    for xs in ((40, 120), (120, 40), (50, 130)):
        shapes = tuple(Shape(colour, shape, x, 60, 40)
                       for colour, shape, x in zip(('red', 'blue'), ('square', 'triangle'), xs))
        picture = np.full((120, 160, 3), 200, dtype=np.uint8)
        for shape in shapes:
            cover = demo_scenes.coverage(shape.shape, 22, 22, 20, 44)[:, :, None]
            patch = picture[38:82, shape.x - 22:shape.x + 22]
            patch[:] = patch * (1 - cover) + np.array(demo_scenes.RGB[shape.colour]) * cover
        features.append(demo_regions.region_features(picture, np.array([[0, 0, 159, 119]]))[0])
    assert np.array_equal(features[0], features[1]) and np.array_equal(features[0], features[2])


def crops_of_shapes(number):
    """(features, names, places) of 12 shapes of random colour, shape and size, one in each of 4 x 3
    cells of a picture; a place is (in the right half, in the lower third)."""
    rng = np.random.default_rng([7, number])
    shapes = tuple(Shape(str(rng.choice(COLOURS)), str(rng.choice(SHAPES)), 50 * column + rng.uniform(22, 28),
                         50 * row + rng.uniform(22, 28), rng.uniform(20, 38))
                   for row in range(3) for column in range(4))
    boxes = np.array([shape.box for shape in shapes]) + [-1.5, -1.5, 1.5, 1.5]
    features = demo_regions.region_features(demo_scenes.paint(Scene(200, 150, shapes), rng), boxes)
    return features, [shape.name for shape in shapes], [(s.x > 100, s.y > 100) for s in shapes]


def test_a_linear_classifier_reads_colour_and_shape_from_features_but_not_the_position():
    features, names, places = zip(*map(crops_of_shapes, range(70)))
    features, (colours, shapes) = np.concatenate(features), zip(*sum(names, []))
    features = features - features.mean(axis=0)
    answers = {'colour': np.array(colours)[:, None] == COLOURS, 'shape': np.array(shapes)[:, None] == SHAPES,
               'right': np.eye(2)[np.concatenate(places)[:, 0].astype(int)]}
    train = np.arange(len(features)) < 600
    inverse = np.linalg.inv(features[train] @ features[train].T + 10 * np.eye(600))
    share = {}
    for name, answer in answers.items():
        mean = answer[train].mean(axis=0)
        read = features[~train] @ (features[train].T @ (inverse @ (answer[train] - mean))) + mean
        share[name] = (read.argmax(axis=1) == answer[~train].argmax(axis=1)).mean()
    assert share['colour'] > 0.96 and share['shape'] > 0.93 and 0.4 < share['right'] < 0.6, share


def test_a_debatable_scene_has_no_fact():
    def fact(*shapes):
        return demo_scenes.fact_of(Scene(200, 150, tuple(Shape(*shape) for shape in shapes)))
    far = ('green', 'ring', 20, 130, 15)
    assert fact(('red', 'circle', 50, 70, 50), ('blue', 'star', 130, 75, 35), far).relation == 'left'
    assert fact(('red', 'circle', 130, 70, 50), ('blue', 'star', 50, 75, 35), far).relation == 'right'
    # Almost diagonal; almost the same size; a third shape between the two; two of the same name.
    assert fact(('red', 'circle', 60, 45, 50), ('blue', 'star', 130, 90, 35), far) is None
    assert fact(('red', 'circle', 50, 70, 40), ('blue', 'star', 130, 75, 35), far) is None
    assert fact(('red', 'circle', 50, 70, 50), ('blue', 'star', 150, 75, 35),
                ('green', 'ring', 90, 80, 15)) is None
    assert fact(('red', 'circle', 50, 70, 50), ('blue', 'star', 130, 75, 35),
                ('red', 'circle', 20, 130, 15)) is None


@pytest.mark.parametrize('caption, expected', [
    ('A red disc over a blue box.', [('above', ('red', 'circle'), ('blue', 'square'))]),
    ('a red circle in the top left corner is to the right of a white star',
     [('right', ('red', 'circle'), ('white', 'star'))]),
    ('to the left of a red ring there is a blue heart', [('left', ('blue', 'heart'), ('red', 'ring'))]),
    ('a red ring with a blue heart beneath it', [('below', ('blue', 'heart'), ('red', 'ring'))]),
    ('a red ring with a blue heart on its left', [('left', ('blue', 'heart'), ('red', 'ring'))]),
    ('a red ring in the lower right corner', []),
    ('a red ring above', [('above', ('red', 'ring'), None)]),
    ('a ring under a black cross', [('below', (None, 'ring'), ('black', 'cross'))]),
    ('a red ring above a blue star and left of a green cross',
     [('above', ('red', 'ring'), ('blue', 'star')), ('left', ('blue', 'star'), ('green', 'cross'))]),
])
def test_relations_are_read_from_captions(caption, expected):
    assert parse_relations(caption) == expected
    assert canonical(('right', 'a', 'b')) == ('left', 'b', 'a')


def test_a_relation_is_correct_if_the_word_and_both_shapes_are():
    references = {
        1: ['a red circle to the left of a blue square', 'a blue square with a red disc to its left'],
        2: ['a red circle to the left of a blue square'],
        3: ['a red circle to the left of a blue square'],
        4: ['a red circle to the left of a blue square'],
        5: ['a red circle to the left of a blue square'],
        6: ['a red circle to the left of a blue square'],
        7: ['a red circle to the left of a blue square'],
        8: ['a small star inside a large ring in the top left corner'],
    }
    predictions = {
        1: 'there is a blue box on the right side of a red disc',  # mirrored, other words
        2: 'a red circle to the right of a blue square',           # the wrong side
        3: 'a red circle to the left of a green square',           # a wrong colour
        4: 'a red circle and a blue square',                       # no relation
        5: 'a red circle left of a blue square above a red star',  # one right, one not
        '6': 'a red circle left of a blue square',                 # an id as text
        8: 'a red circle above a blue square',                     # not counted
    }                                                              # 7 is missing
    assert relation_accuracy(predictions, references) == {'accuracy': 2 / 7, 'images': 7, 'correct': 2}
    assert relation_accuracy({}, {8: references[8]}) == {'accuracy': None, 'images': 0, 'correct': 0}
