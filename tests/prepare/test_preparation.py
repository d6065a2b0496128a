"""The archive, boxes and grid vectors: outputs, and commands that are interrupted, have broken records or other
options."""

import base64
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import prepro_areas
from misc.dataset.array_files import read_array
from misc.dataset.features import open_reader
from misc.dataset.grids import grid_vectors, relative_boxes
from misc.dataset.packing import write_packed
from misc.dataset.tsv import decode_record
from misc.disk import locks
from scripts import make_bu_data, pack_features, prepro_bbox_relative_coords, prepro_labels, prepro_ngrams
from tests.helpers import ROOT
from tests.helpers.preparing import line, random_line, record, write_split


@pytest.fixture
def archive(tmp_path):
    """Writes TSV files of the archive: archive(name, lines) -> the folder that holds trainval/."""
    def write(name, lines, folder='trainval'):
        (tmp_path / 'bu_data' / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / 'bu_data' / folder / name).write_bytes(b''.join(lines))
        return tmp_path / 'bu_data'
    return write


def convert(run_script, tmp_path, **flags):
    """Run `make_bu_data.py`; returns (status, messages, sorted ids that have boxes, sizes)."""
    flags = {'downloaded_feats': tmp_path / 'bu_data', 'output_dir': tmp_path / 'bu', **flags}
    status, said = run_script(make_bu_data, **flags)
    ids = sorted(int(path.stem) for path in (tmp_path / 'bu_box').glob('*.npy'))
    sizes = tmp_path / 'bu_box_sizes.json'
    return status, said, ids, json.loads(sizes.read_text()) if sizes.exists() else None


def stamps(folder, pattern):
    """{file: time of its last change}"""
    return {path: path.stat().st_mtime_ns for path in folder.glob(pattern) if path.is_file()}


def test_the_archive_becomes_arrays_and_sizes(run_script, tmp_path, minicoco):
    status, _, ids, sizes = convert(run_script, tmp_path, downloaded_feats=minicoco / 'bu_data', num_workers=2)
    assert status == 0 and len(ids) == len(sizes) == 99
    for path in (minicoco / 'bu_data' / 'trainval').iterdir():
        image_id, width, height, count, boxes, features = path.read_text().splitlines()[0].split('\t')
        boxes = np.frombuffer(base64.b64decode(boxes), '<f4').reshape(int(count), 4)
        features = np.frombuffer(base64.b64decode(features), '<f4').reshape(int(count), 2048)
        np.testing.assert_array_equal(np.load(tmp_path / 'bu_box' / f'{image_id}.npy'), boxes)
        with np.load(tmp_path / 'bu_att' / f'{image_id}.npz') as stored:
            np.testing.assert_array_equal(stored['feat'], features)
        fc = np.load(tmp_path / 'bu_fc' / f'{image_id}.npy')
        assert fc.dtype == np.float32 and fc.shape == (2048,)
        np.testing.assert_allclose(fc, features.astype(float).mean(0), rtol=1e-5)
        assert sizes[image_id] == [int(width), int(height)]


@pytest.mark.parametrize('folder, given', [('trainval', 'bu_data'), ('trainval_36', 'bu_data'),
                                           ('trainval', 'bu_data/trainval'), ('.', 'bu_data')])
def test_the_archive_is_found_in_each_of_its_usual_folders(folder, given, run_script, tmp_path, archive):
    archive('x_resnet101_faster_rcnn_genome.tsv.0', [random_line(5)], folder)
    (tmp_path / 'bu_data' / folder / 'x.tsv.zip').touch()
    assert convert(run_script, tmp_path, downloaded_feats=tmp_path / given)[2] == [5]


def test_a_missing_archive_is_named_with_its_flag(run_script, tmp_path):
    status, said = convert(run_script, tmp_path)[:2]
    assert status == 1 and '--downloaded_feats' in said and 'trainval/' in said
    assert not list(tmp_path.iterdir())


def test_broken_records_of_the_archive_are_named_and_the_others_written(run_script, tmp_path, archive):
    whole = random_line(3)
    archive('a.tsv', [
        random_line(1), whole.replace(b'3\t', b'2\t', 1).rstrip(b'\r\n')[:-40] + b'\r\n',
        b'4\t640\t480\t1\t!!!!\t????\r\n', random_line(5, count=4),
        line(6, [[5, 5, 1, 9]], np.ones((1, 2048))),
        line(7, [[0, 0, 1, 1]], np.full((1, 2048), np.nan)), line(8, np.zeros((0, 4)), np.zeros((0, 2048))),
        random_line(9, width=0), b'nonsense\r\n', b'\r\n', line(10, [[0, 0, 1, 1]], np.ones((1, 100))),
        random_line(1), random_line(11), random_line(11, seed=1), random_line(12), random_line(13)[:9000]])
    status, said, ids, sizes = convert(run_script, tmp_path)
    assert status == 1 and ids == [1, 11, 12]
    assert sizes == {'1': [640, 480], '11': [640, 480], '12': [640, 480]}
    listed = said.split('the others are written')[1]
    for words in ('image 2: features', 'image 4: boxes are not base64',
                  'image 5: boxes take 48 bytes, not 4 x 4 x 4',
                  'image 6: box 0 ends before it starts', 'image 7: features are not finite',
                  "image 8: num_boxes is '0'", 'record 8 does not begin', 'record 9 does not begin',
                  'image 10: features take 400 bytes', 'image 11 comes a second time with other content',
                  'image 13: features'):
        assert words in listed, words
    assert listed.count('a.tsv') == 12
    np.testing.assert_array_equal(np.load(tmp_path / 'bu_box' / '11.npy'),
                                  decode_record(random_line(11)).boxes)


def test_a_valid_repeated_record_replaces_a_broken_one(run_script, tmp_path, archive):
    archive('a.tsv', [random_line(3, width=99)[:5000] + b'\r\n', random_line(3)])
    status, _, ids, sizes = convert(run_script, tmp_path)
    assert status == 1 and ids == [3] and sizes == {'3': [640, 480]}


def test_a_grown_archive_is_continued_and_another_one_refused(run_script, tmp_path, archive):
    lines = [random_line(image_id) for image_id in range(1, 5)]
    archive('a.tsv', [lines[0], lines[1][:6000]])      # an unfinished download
    assert convert(run_script, tmp_path)[2] == [1]
    before = stamps(tmp_path, 'bu_*/*')
    archive('a.tsv', lines[:3])
    archive('b.tsv', lines[3:])
    status, _, ids, _ = convert(run_script, tmp_path)
    assert status == 0 and ids == [1, 2, 3, 4]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    archive('b.tsv', [random_line(4, seed=9)])
    status, said, ids, _ = convert(run_script, tmp_path)
    assert status == 2 and 'b.tsv' in said and '--output_dir' in said
    status, said = convert(run_script, tmp_path, downloaded_feats=archive('c.tsv', lines, '36') / '36')[:2]
    assert status == 2 and 'a.tsv, b.tsv was read before' in said


def test_nothing_is_added_to_outputs_of_unknown_origin(run_script, tmp_path, archive):
    archive('a.tsv', [random_line(1)])
    convert(run_script, tmp_path)
    (tmp_path / 'bu_made.json').unlink()
    status, said = convert(run_script, tmp_path)[:2]
    assert status == 2 and 'bu_made.json' in said and '--output_dir' in said and 'remove' not in said
    for kind in ('att', 'fc', 'box'):
        for path in (tmp_path / f'bu_{kind}').iterdir():
            path.unlink()
    assert convert(run_script, tmp_path)[0] == 0   # empty folders may be used


def start(script, **flags):
    """Start a script in a process of its own, without waiting."""
    words = [word for flag, value in flags.items() for word in (f'--{flag}', str(value))]
    return subprocess.Popen([sys.executable, os.path.join(ROOT, script), *words], stderr=subprocess.PIPE,
                            text=True, start_new_session=True)


@pytest.mark.parametrize('how', [signal.SIGINT, signal.SIGKILL])
def test_a_killed_conversion_resumes_and_ends_with_the_same_files(how, run_script, tmp_path, archive):
    archive('a.tsv', [random_line(image_id, regions=8) for image_id in range(1, 401)])
    flags = {'downloaded_feats': tmp_path / 'bu_data', 'output_dir': tmp_path / 'bu'}
    process = start('scripts/make_bu_data.py', **flags, num_workers=2)
    while len(list(tmp_path.glob('bu_box/*.npy'))) < 5 and process.poll() is None:
        time.sleep(0.01)
    # Ctrl-C reaches the whole process group, kill -9 one process
    (os.killpg if how == signal.SIGINT else os.kill)(process.pid, how)
    said = process.communicate(timeout=30)[1]
    assert process.returncode == (130 if how == signal.SIGINT else -9) and 'Traceback' not in said
    time.sleep(0.2)
    sizes = json.loads((tmp_path / 'bu_box_sizes.json').read_text())
    before = stamps(tmp_path, 'bu_box/*.npy')
    assert 5 <= len(before) < 400 and {path.stem for path in before} <= set(sizes)
    (tmp_path / 'bu_att' / '150.npz.1.part').write_bytes(b'half of one')
    status, _, ids, sizes = convert(run_script, tmp_path)
    assert status == 0 and ids == list(range(1, 401)) and len(sizes) == 400
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not list(tmp_path.glob('**/*.part'))
    for image_id in ids:
        expected = decode_record(random_line(image_id, regions=8))
        np.testing.assert_array_equal(read_array(str(tmp_path / 'bu_box' / f'{image_id}.npy')), expected.boxes)
        np.testing.assert_array_equal(read_array(str(tmp_path / 'bu_att' / f'{image_id}.npz')), expected.features)


# Boxes: grid vectors and relative coordinates


@pytest.fixture
def boxes(tmp_path):
    """A folder of boxes of the images 1 to 80, and their sizes."""
    (tmp_path / 'box').mkdir()
    for image_id in range(1, 81):
        np.save(tmp_path / 'box' / f'{image_id}.npy', decode_record(random_line(image_id)).boxes)
    (tmp_path / 'box_sizes.json').write_text(json.dumps({str(n): [500, 375] for n in range(1, 81)}))
    return tmp_path / 'box'


def areas(run_script, boxes, **flags):
    """Run `prepro_areas.py`; returns (status, messages)."""
    return run_script(prepro_areas, **{'input_dir': boxes, 'output_dir': boxes.parent / 'vec', **flags})


def test_grid_vectors_are_equal_from_a_folder_a_packed_file_and_on_the_fly(run_script, boxes, tmp_path):
    assert areas(run_script, boxes, num_workers=2, num_grids=49)[0] == 0
    source = open_reader(str(boxes), 'box', 'input_dir')
    arrays = {image_id: source.read(image_id) for image_id in source.ids()}
    write_packed(tmp_path / 'box.h5', {'box': arrays}, dict.fromkeys(arrays, (500, 375)))
    (tmp_path / 'box_sizes.json').unlink()      # the packed file has them
    assert areas(run_script, tmp_path / 'box.h5', output_dir=tmp_path / 'vec2', num_grids=49, num_workers=2)[0] == 0
    for image_id in source.ids():
        expected = grid_vectors(source.read(image_id), 500, 375, 7)
        for folder in ('vec', 'vec2'):
            stored = np.load(tmp_path / folder / f'{image_id}.npy')
            np.testing.assert_array_equal(stored, expected)
            assert stored.dtype == np.float32


def test_another_grid_or_other_boxes_are_not_mixed_in(run_script, boxes, tmp_path):
    areas(run_script, boxes)
    assert np.load(tmp_path / 'vec' / '1.npy').shape == (3, 144)
    status, said = areas(run_script, boxes, num_grids=256)
    assert status == 2 and '--num_grids 144, not 256' in said and len(said.splitlines()) <= 3
    status, said = areas(run_script, boxes, num_grids=150)
    assert status == 2 and "--num_grids: '150' is not a perfect square; allowed are 144, 169" in said
    for image_id in range(1, 81):
        np.save(boxes / f'{image_id}.npy', np.array([[0, 0, image_id, 5]], np.float32))
    status, said = areas(run_script, boxes)
    assert status == 2 and 'the boxes of image' in said
    assert areas(run_script, boxes, output_dir=tmp_path / 'other')[0] == 0
    status, said = run_script(prepro_bbox_relative_coords, input_box_dir=boxes, output_dir=tmp_path / 'vec')
    assert status == 2 and 'remove' not in said
    assert 'made by prepro_areas.py, not by prepro_bbox_relative_coords.py' in said


def test_unknown_sizes_are_taken_from_the_boxes_with_one_warning(run_script, boxes, tmp_path):
    (tmp_path / 'box_sizes.json').rename(tmp_path / 'kept.json')
    said = areas(run_script, boxes)[1]
    assert said.count('warning') == 1 and 'the size of 80 of 80 images is not known' in said
    own = np.load(boxes / '7.npy')
    expected = grid_vectors(own, own[:, 2].max(), own[:, 3].max(), 12)
    np.testing.assert_array_equal(np.load(tmp_path / 'vec' / '7.npy'), expected)
    # once a size is known, the vectors made without it are made again, and no others
    labels = {'images': [{'id': 7, 'width': 500, 'height': 375}]}
    (tmp_path / 'labels.json').write_text(json.dumps(labels))
    before = stamps(tmp_path, 'vec/*')
    said = areas(run_script, boxes, input_json=tmp_path / 'labels.json')[1]
    assert 'warning' not in said and '1 images have a known size now' in said
    np.testing.assert_array_equal(np.load(tmp_path / 'vec' / '7.npy'), grid_vectors(own, 500, 375, 12))
    after = stamps(tmp_path, 'vec/*')
    assert [path.name for path in after if before[path] != after[path]] == ['7.npy']
    (tmp_path / 'kept.json').rename(tmp_path / 'box_sizes.json')
    assert '79 images have a known size now' in areas(run_script, boxes)[1]
    (tmp_path / 'box_sizes.json').write_text(json.dumps({str(n): [640, 480] for n in range(1, 81)}))
    status, said = areas(run_script, boxes)
    assert status == 2 and 'the size of image' in said


def test_broken_boxes_are_named_and_the_others_made(run_script, boxes, tmp_path):
    np.save(boxes / '3.npy', np.array([[0, 0, np.nan, 1]], np.float32))
    np.save(boxes / '4.npy', np.array([[9, 0, 2, 1]], np.float32))
    (boxes / '5.npy').write_bytes(b'')
    (boxes / '6.npy').write_bytes((boxes / '7.npy').read_bytes()[:-9])
    for script, output in ((prepro_areas, 'vec'), (prepro_bbox_relative_coords, 'rel')):
        flag = 'input_dir' if script is prepro_areas else 'input_box_dir'
        status, said = run_script(script, **{flag: boxes}, output_dir=tmp_path / output)
        listed = said.split('the others are written')[1]
        assert status == 1 and all(f'box/{image_id}.npy' in listed for image_id in (3, 4, 5, 6))
        assert len(list((tmp_path / output).iterdir())) == 76
    np.save(boxes / '3.npy', np.array([[0, 0, 1, 1]], np.float32))
    status, said = areas(run_script, boxes)
    assert status == 1 and (tmp_path / 'vec' / '3.npy').exists()


def test_interrupted_grid_vectors_continue_where_they_stopped(run_script, boxes, tmp_path, monkeypatch):
    written = []

    def failing(folder, image_id, kind, array):
        if len(written) == 20:
            raise KeyboardInterrupt
        written.append(image_id)
        np.save(f'{folder}/{image_id}.npy', array)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(prepro_areas, 'write_array', failing)
        areas(run_script, boxes, num_workers=1)
    (tmp_path / 'vec' / '80.npy.7.part').write_bytes(b'half')
    (tmp_path / 'vec' / '79.npy').write_bytes(b'')   # what a power cut may leave
    before = stamps(tmp_path, 'vec/*')
    np.save(boxes / '81.npy', np.ones((2, 4), np.float32))      # the step before was continued, too
    (tmp_path / 'box_sizes.json').write_text(json.dumps({str(n): [500, 375] for n in range(1, 82)}))
    assert areas(run_script, boxes)[0] == 0
    after = stamps(tmp_path, 'vec/*')
    assert len(after) == 81 and all(path.suffix == '.npy' for path in after)
    assert {path.stem for path, stamp in before.items() if after.get(path) == stamp} == set(written)


def test_one_process_at_a_time_writes_into_a_folder(run_script, boxes, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, 'PATIENCE', 0.1)
    (tmp_path / 'vec').mkdir()
    with locks.held_folder(tmp_path / 'vec', 'held'):
        status, said = areas(run_script, boxes)
    assert status == 2 and 'another process' in said
    assert areas(run_script, boxes)[0] == 0


def test_a_worker_that_is_killed_ends_the_command_with_a_message(run_script, boxes, monkeypatch):
    monkeypatch.setattr(prepro_areas, 'grid_vectors', lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    status, said = areas(run_script, boxes, num_workers=2)
    assert status == 1 and 'worker process was killed' in said


def test_relative_boxes_take_sizes_from_the_file_or_from_the_images(run_script, boxes, tmp_path):
    relative = {'input_box_dir': boxes, 'output_dir': tmp_path / 'rel', 'num_workers': 2}
    assert run_script(prepro_bbox_relative_coords, **relative)[0] == 0     # without images
    stored = np.load(tmp_path / 'rel' / '5.npy')
    np.testing.assert_array_equal(stored, relative_boxes(np.load(boxes / '5.npy'), 500, 375))
    (tmp_path / 'box_sizes.json').unlink()
    relative['output_dir'] = tmp_path / 'rel2'
    status, said = run_script(prepro_bbox_relative_coords, **relative)
    assert status == 2 and '--input_json and --image_root' in said
    (tmp_path / 'val2014').mkdir()
    for image_id in range(2, 81):
        Image.new('RGB', (500, 375)).save(tmp_path / 'val2014' / f'{image_id}.jpg')
    (tmp_path / 'val2014' / '2.jpg').write_bytes(b'broken')
    split = write_split(tmp_path / 's.json', [record(image_id, 'val', 'a') for image_id in range(1, 80)])
    status, said = run_script(prepro_bbox_relative_coords, **relative, input_json=split, image_root=tmp_path)
    assert status == 1 and len(list((tmp_path / 'rel2').iterdir())) == 77
    for words in ('1.jpg: there is no such file', '2.jpg: not a readable image', 'image 80: no size'):
        assert words in said
    np.testing.assert_array_equal(np.load(tmp_path / 'rel2' / '5.npy'), stored)
    assert run_script(prepro_bbox_relative_coords, **relative, input_json=split, image_root=tmp_path / 'x')[0] == 2


def test_help_shows_an_example_command_and_wrong_values_are_refused(run_script, tmp_path):
    for script in (prepro_labels, prepro_ngrams, make_bu_data, prepro_areas, prepro_bbox_relative_coords,
                   pack_features):
        text = script.arguments().format_help()
        assert f'python {script.__name__.replace(".", "/")}.py' in text
    for script, flag, value in ((prepro_labels, 'max_length', '0'),
                                (prepro_labels, 'word_count_threshold', '-1'),
                                (prepro_areas, 'num_grids', '12.5'), (make_bu_data, 'num_workers', '0')):
        needed = {action.dest: 'x' for action in script.arguments()._actions if action.required}
        status, said = run_script(script, **{**needed, flag: value})
        assert status == 2 and f'--{flag}' in said and value in said and len(said.splitlines()) == 1


def test_a_broken_sizes_file_is_rebuilt_from_the_archive(run_script, tmp_path, archive):
    archive('a.tsv', [random_line(1), random_line(2)])
    convert(run_script, tmp_path)
    before = stamps(tmp_path, 'bu_*/*')
    (tmp_path / 'bu_box_sizes.json').write_text('{"1": [640')
    assert convert(run_script, tmp_path)[2:] == ([1, 2], {'1': [640, 480], '2': [640, 480]})
    assert stamps(tmp_path, 'bu_*/*') == before
