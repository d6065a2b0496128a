"""Outputs of inputs that changed since are named and made again, those and no others."""

import json
import shutil
import signal

import numpy as np
import pytest
from PIL import Image

import prepro_areas
from misc.dataset.array_files import read_array, write_array
from misc.dataset.grids import grid_vectors, relative_boxes
from misc.dataset.packed import PackedReader
from misc.dataset.packing import write_packed
from misc.prepare import made
from misc.prepare.made import Sample
from misc.prepare.outdated import outdated
from scripts import make_bu_data, pack_features, prepro_bbox_relative_coords, prepro_feats
from tests.helpers.packing import killed_at
from tests.helpers.preparing import random_line, record, write_split

IDS = range(1, 81)
NEW = np.array([[5, 6, 50, 60]], np.float32)


def recorded(path, flag):
    """The images of which the record at `path` has the content."""
    return set(json.loads(path.read_text())['inputs'][flag])


def others(path, flag, count=3):
    """Some that it has not."""
    return sorted({str(number) for number in IDS} - recorded(path, flag))[:count]


@pytest.fixture
def boxes(tmp_path):
    """A folder of boxes of 80 images, and their sizes."""
    (tmp_path / 'box').mkdir()
    random = np.random.default_rng(0)
    for number in IDS:
        corners = np.sort(random.uniform(0, 300, (1, 2, 2)), axis=1)
        write_array(tmp_path / 'box', number, 'box', corners.reshape(1, 4).astype(np.float32))
    (tmp_path / 'box_sizes.json').write_text(json.dumps({str(number): [500, 375] for number in IDS}))
    return tmp_path / 'box'


def stamps(folder):
    return {path.stem: path.stat().st_mtime_ns for path in folder.iterdir()}


def areas(run_script, boxes):
    return run_script(prepro_areas, input_dir=boxes, output_dir=boxes.parent / 'vec', num_workers=1)


def relative(run_script, boxes):
    return run_script(prepro_bbox_relative_coords, input_box_dir=boxes, output_dir=boxes.parent / 'vec',
                      num_workers=1)


def expected_areas(image_id, boxes):
    return grid_vectors(np.load(boxes / f'{image_id}.npy'), 500, 375, 12)


def expected_relative(image_id, boxes):
    return relative_boxes(np.load(boxes / f'{image_id}.npy'), 500, 375)


@pytest.mark.parametrize('script, flag, expected', [
    (areas, 'input_dir', expected_areas), (relative, 'input_box_dir', expected_relative)])
def test_boxes_that_changed_are_converted_again_and_no_others(run_script, boxes, script, flag, expected):
    script(run_script, boxes)
    folder = boxes.parent / 'vec'
    before = stamps(folder)
    changed = [*others(boxes.parent / 'vec_made.json', flag), min(recorded(boxes.parent / 'vec_made.json', flag))]
    for image_id in changed:
        np.save(boxes / f'{image_id}.npy', NEW)
    status, said = script(run_script, boxes)
    first = ', '.join(sorted(changed)[:3])
    assert status == 0 and f'the input of 4 of 80 images has changed since ({first}, ...)' in said
    after = stamps(folder)
    assert {image_id for image_id in before if before[image_id] != after[image_id]} == set(changed)
    for image_id in IDS:
        np.testing.assert_array_equal(np.load(folder / f'{image_id}.npy'), expected(image_id, boxes))
    assert 'has changed since' not in script(run_script, boxes)[1] and stamps(folder) == after


def test_a_size_that_changed_counts_as_its_boxes_do(run_script, boxes):
    areas(run_script, boxes)
    image_id, = others(boxes.parent / 'vec_made.json', 'input_dir', 1)
    sizes = json.loads((boxes.parent / 'box_sizes.json').read_text())
    (boxes.parent / 'box_sizes.json').write_text(json.dumps({**sizes, image_id: [600, 400]}))
    assert f'the input of 1 of 80 images has changed since ({image_id})' in areas(run_script, boxes)[1]
    np.testing.assert_array_equal(np.load(boxes.parent / 'vec' / f'{image_id}.npy'),
                                  grid_vectors(np.load(boxes / f'{image_id}.npy'), 600, 400, 12))


def test_outputs_of_an_earlier_version_are_made_again_where_their_input_is_newer(run_script, boxes):
    areas(run_script, boxes)
    path = boxes.parent / 'vec_made.json'
    content = json.loads(path.read_text())
    del content['states']
    path.write_text(json.dumps(content))
    image_id, = others(path, 'input_dir', 1)
    np.save(boxes / f'{image_id}.npy', NEW)
    assert f'1 of 80 images has changed since ({image_id})' in areas(run_script, boxes)[1]


def test_of_a_packed_file_that_was_packed_again_only_what_differs_is_made_again(run_script, boxes):
    arrays = {str(number): np.load(boxes / f'{number}.npy') for number in IDS}
    sizes = dict.fromkeys(arrays, (500, 375))
    packed = boxes.parent / 'box.h5'
    write_packed(packed, {'box': arrays}, sizes)
    areas(run_script, packed)
    image_id, = others(boxes.parent / 'vec_made.json', 'input_dir', 1)
    write_packed(packed, {'box': {**arrays, image_id: NEW, '90': NEW}}, {**sizes, '90': (500, 375)})
    said = areas(run_script, packed)[1]
    assert f'1 of 80 images has changed since ({image_id})' in said and '81 of 81 images' in said
    np.testing.assert_array_equal(np.load(boxes.parent / 'vec' / f'{image_id}.npy'), grid_vectors(NEW, 500, 375, 12))


@pytest.mark.parametrize('at', ['images_to_do', 'outdated', 'remove_outputs', 'write_array'])
def test_a_killed_renewal_goes_on(run_script, boxes, monkeypatch, at):
    areas(run_script, boxes)
    path = boxes.parent / 'vec_made.json'
    changed = [*others(path, 'input_dir', 10), min(recorded(path, 'input_dir'))]
    for image_id in changed:
        np.save(boxes / f'{image_id}.npy', NEW)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(prepro_areas, at, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        areas(run_script, boxes)
    assert areas(run_script, boxes)[0] == 0
    for image_id in changed:
        np.testing.assert_array_equal(np.load(boxes.parent / 'vec' / f'{image_id}.npy'),
                                      grid_vectors(NEW, 500, 375, 12))


def pack(run_script, boxes):
    return run_script(pack_features, input_box_dir=boxes, output_file=boxes.parent / 'all.h5', num_workers=1)


@pytest.mark.parametrize('write', [0, 3, 5, 8])
def test_a_packed_file_gets_the_arrays_that_changed(run_script, boxes, write):
    pack(run_script, boxes)
    image_id, = others(boxes.parent / 'all.h5_made.json', 'input_box_dir', 1)
    np.save(boxes / f'{image_id}.npy', NEW)
    if write:  # killed before one of its writes, and started again
        assert killed_at(write, lambda: pack(run_script, boxes)) in (0, -signal.SIGKILL)
    status, said = pack(run_script, boxes)
    assert status == 0 and (write or f'1 of 80 images has changed since ({image_id})' in said)
    reader = PackedReader(boxes.parent / 'all.h5', 'box', 'flag')
    for number in IDS:
        np.testing.assert_array_equal(reader.read(number), np.load(boxes / f'{number}.npy'))
    inode = (boxes.parent / 'all.h5').stat().st_ino
    assert 'has changed since' not in pack(run_script, boxes)[1] and (boxes.parent / 'all.h5').stat().st_ino == inode


def test_a_packed_array_whose_new_version_is_broken_leaves_the_file(run_script, boxes):
    pack(run_script, boxes)
    image_id, = others(boxes.parent / 'all.h5_made.json', 'input_box_dir', 1)
    np.save(boxes / f'{image_id}.npy', NEW * np.nan)
    assert pack(run_script, boxes)[0] == 1
    assert PackedReader(boxes.parent / 'all.h5', 'box', 'flag').ids() == {str(n) for n in IDS} - {image_id}


def test_lines_of_an_archive_that_changed_in_its_middle_are_converted_again(run_script, tmp_path, monkeypatch):
    monkeypatch.setattr(made, 'MEGABYTE', 1 << 10)  # of the file's ends, of which digests are recorded
    lines = [random_line(number, regions=2) for number in range(1, 7)]
    archive = tmp_path / 'archive' / 'a.tsv'
    archive.parent.mkdir()
    archive.write_bytes(b''.join(lines))
    flags = {'downloaded_feats': archive.parent, 'output_dir': tmp_path / 'bu', 'num_workers': 1}
    run_script(make_bu_data, **flags)
    before = stamps(tmp_path / 'bu_box')
    lines[2] = random_line(3, seed=99, regions=2)
    archive.write_bytes(b''.join(lines))
    status, said = run_script(make_bu_data, **flags)
    assert status == 0 and 'other content than before for 1 images (3)' in said
    expected = make_bu_data.decode_record(lines[2])
    np.testing.assert_array_equal(read_array(str(tmp_path / 'bu_att' / '3.npz')), expected.features)
    np.testing.assert_array_equal(np.load(tmp_path / 'bu_box' / '3.npy'), expected.boxes)
    after = stamps(tmp_path / 'bu_box')
    assert [name for name in before if before[name] != after[name]] == ['3']


@pytest.fixture
def photographs(tmp_path, networks):
    """A folder of 40 images and their split file."""
    (tmp_path / 'val2014').mkdir()
    for number in range(1, 41):
        Image.new('RGB', (80, 70), (number, 0, 0)).save(tmp_path / 'val2014' / f'{number}.jpg')
    write_split(tmp_path / 's.json', [record(number, 'val', 'a') for number in range(1, 41)])
    return tmp_path


def test_features_of_a_photograph_that_changed_are_extracted_again_and_those_of_copies_are_not(
        run_script, photographs, monkeypatch):
    made_of = []
    monkeypatch.setattr(prepro_feats, 'extract', lambda pixels, **_: (
        made_of.append(int(pixels[0, 0, 0])), (np.ones(3, np.float32), np.ones((2, 3), np.float32)))[1])
    monkeypatch.setattr('misc.pictures.weights.find_file', lambda *_: str(photographs / 's.json'))
    monkeypatch.setattr('misc.pictures.cnn.load_network', lambda *_: None)

    def extract(root):
        made_of.clear()
        return run_script(prepro_feats, input_json=photographs / 's.json', output_dir=photographs / 'f',
                          images_root=root, num_workers=1, device='cpu')[1]
    extract(photographs)
    assert len(made_of) == 40
    copy = shutil.copytree(photographs / 'val2014', photographs / 'copy' / 'val2014', copy_function=shutil.copyfile)
    assert 'has changed since' not in extract(copy.parent) and not made_of
    image_id, = others_of_photographs(photographs)
    Image.new('RGB', (80, 70), (0, 99, 0)).save(copy / f'{image_id}.jpg')
    assert f'1 of 40 images has changed since ({image_id})' in extract(copy.parent) and len(made_of) == 1


def others_of_photographs(root):
    return sorted({str(number) for number in range(1, 41)} - recorded(root / 'f_made.json', 'images_root'))[:1]


@pytest.mark.parametrize('state', ['', 'x', '1', '1 2 3 4', '9' * 400])
def test_states_of_any_form_are_compared(state):
    source = Sample(['1'], lambda _: None, {'1': '5 6'})
    assert outdated({'states': {'flag': {'1': state}}}, {'flag': source}, {'1'}, lambda _: 0) == {'1'}
    assert not made.is_record({'made_by': 'x', 'states': {'flag': {'1': 3}}})
