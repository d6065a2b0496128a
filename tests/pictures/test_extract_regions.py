"""Region extraction: the grid, the detector, features, output files, odd pictures, weights."""

import json
import os
import shutil
import time
import weakref

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from misc import parallel
from misc.cli import DataError
from misc.dataset.array_files import read_array
from misc.dataset.grids import grid_vectors
from misc.dataset.networks import DETECTOR, LAYOUTS, Network
from misc.dataset.recipe import DEFAULTS, read_recipe, recipe_path
from misc.pictures import cnn, detector, listing, recipes, weights
from misc.pictures import finder as finder_module
from misc.pictures.extraction import Extraction, batches_of_one_shape
from misc.pictures.images import read_size, read_upright, shrunk
from misc.pictures.listing import numbered
from scripts import extract_regions, make_bu_data, pack_features
from tests import naive
from tests.helpers import several
from tests.helpers.networks import photo, save_weights
from tests.helpers.preparing import record, write_split

RANDOM = {'random_weights': 1, 'device': 'cpu', 'num_workers': 1}


@pytest.fixture
def pictures(tmp_path):
    """A folder of four pictures of three sizes."""
    root = tmp_path / 'pictures'
    (root / 'inner').mkdir(parents=True)
    for name, *size in (('a.jpg', 64, 48), ('b.png', 48, 64), ('inner/c.png', 64, 48), ('d.jpg', 300, 150)):
        photo(len(name) + ord(name[0]), *size).save(root / name)
    return root


@pytest.fixture
def extract(run_script, networks, tmp_path, pictures):
    """Call with flags to run the command -> (status, its messages); None leaves a flag out."""
    def call(detector='grid', output='out', **flags):
        flags = {'images_root': pictures, 'output_dir': tmp_path / output, 'detector': detector, **RANDOM, **flags}
        return run_script(extract_regions, **{name: value for name, value in flags.items() if value is not None})
    return call


def arrays(folder, output='out'):
    """{(kind, id): array} of everything in the output folders."""
    return {(kind, int(path.stem)): read_array(str(path)) for kind in ('att', 'fc', 'box')
            for path in sorted((folder / f'{output}_{kind}').iterdir())}


def test_the_cells_of_the_grid_tile_the_picture_in_the_order_of_grid_vectors():
    boxes = finder_module.grid_boxes(3, 64, 47)
    assert boxes.dtype == np.float32 and boxes.shape == (9, 4)
    np.testing.assert_allclose(grid_vectors(boxes, 64, 47, 3), np.eye(9), atol=1e-6)
    assert np.array_equal(boxes[0, :2], [0, 0]) and np.array_equal(boxes[-1, 2:], [64, 47])
    # the right edge of a cell is the left one of the next, and likewise down
    assert np.array_equal(boxes[0::3, 2], boxes[1::3, 0]) and np.array_equal(boxes[:6, 3], boxes[3:, 1])


def test_a_cells_feature_is_the_mean_of_the_map_over_the_cell():
    one_map = torch.arange(2 * 4 * 6.0).reshape(1, 2, 4, 6)
    features = finder_module.grid_features(one_map, 2)[0]
    assert features.shape == (4, 2)
    for cell, (rows, columns) in enumerate([(slice(0, 2), slice(0, 3)), (slice(0, 2), slice(3, 6)),
                                            (slice(2, 4), slice(0, 3)), (slice(2, 4), slice(3, 6))]):
        assert torch.allclose(features[cell], one_map[0, :, rows, columns].mean((1, 2)))


def test_roi_features_are_the_mean_of_the_map_at_points_spread_over_the_box():
    torch.manual_seed(0)
    one_map, (width, height) = torch.randn(3, 5, 7), (70, 45)
    boxes = torch.tensor([[0, 0, 70, 45.0], [10, 9, 20, 18], [33.3, 2.2, 69.5, 44.4], [69, 44, 70, 45]])
    found = finder_module.roi_features(one_map, boxes, width, height)
    for box, feature in zip(boxes.tolist(), found):
        assert torch.allclose(feature, naive.roi_feature(one_map, box, width, height), atol=1e-5)


def test_boxes_above_the_confidence_are_chosen_and_never_fewer_than_the_minimum():
    boxes = torch.rand(6, 4)
    scores = torch.tensor([0.9, 0.8, 0.3, 0.2, 0.1, 0.0])

    def chosen(least, confidence):
        return len(finder_module.chosen_boxes(boxes, scores, least, confidence, 70, 45))
    assert [chosen(1, 0.5), chosen(3, 0.5), chosen(1, 0.2), chosen(1, 0.0), chosen(6, 1)] == [2, 3, 3, 5, 6]
    padded = finder_module.chosen_boxes(boxes[:2], scores[:2], 3, 0.5, 70, 45)
    assert torch.equal(padded[:2], boxes[:2]) and padded[2].tolist() == [0, 0, 70, 45]


@pytest.mark.parametrize('detector', ['grid', 'fasterrcnn'])
def test_a_batch_of_pictures_gives_the_same_regions_as_one_picture_at_a_time(networks, detector):
    finder = finder_module.Finder(recipes.new_recipe(detector, DEFAULTS, 'resnet101', seed=3), torch.device('cpu'))
    pictures = np.stack([np.asarray(photo(seed)) for seed in range(3)])
    together = finder(pictures)
    for one, (boxes, features) in zip(pictures, together):
        alone = finder(one[None])[0]
        np.testing.assert_allclose(boxes, alone[0], atol=1e-3)
        np.testing.assert_allclose(features, alone[1], atol=1e-4)
        assert len(boxes) == len(features) and features.shape[1] == 2048
    if detector == 'grid':  # as prepro_feats.py computes them
        expected = cnn.image_features(finder.networks[0], pictures[0], 7)[1]
        np.testing.assert_allclose(together[0][1], expected.reshape(49, 2048), atol=1e-4)


def test_the_detector_suppresses_within_a_class_and_sorts_by_score(networks):
    from torchvision.ops import box_iou
    recipe = recipes.new_recipe('fasterrcnn', DEFAULTS, 'resnet101', seed=3)
    finder = finder_module.Finder(recipe, torch.device('cpu'))
    found = finder.detector([torch.rand(3, 60, 80)])[0]
    scores, labels = found['scores'], found['labels']
    assert len(scores) == 100 and (scores.diff() <= 0).all() and len(labels.unique()) > 1
    overlaps = box_iou(found['boxes'], found['boxes']).fill_diagonal_(0)
    same = labels[:, None] == labels
    assert overlaps[same].max() <= 0.5 < overlaps[~same].max()


def test_regions_are_written_in_the_format_of_make_bu_data(extract, tmp_path, pictures):
    assert extract(grid_size=2)[0] == 0
    sizes = json.loads((tmp_path / 'out_box_sizes.json').read_text())
    assert sizes == {'1': [64, 48], '2': [48, 64], '3': [300, 150], '4': [64, 48]}
    listed = json.loads((tmp_path / 'out_images.json').read_text())
    assert [listed[str(number)]['file'] for number in (1, 2, 3, 4)] == ['a.jpg', 'b.png', 'd.jpg', 'inner/c.png']
    found = arrays(tmp_path)
    assert len(found) == 12 and {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    for number in (1, 2, 3, 4):
        features, boxes = found['att', number], found['box', number]
        assert features.shape == (4, 2048) and boxes.shape == (4, 4)
        assert np.array_equal(found['fc', number], features.mean(0))
        np.testing.assert_allclose(grid_vectors(boxes, *sizes[str(number)], 2), np.eye(4), atol=1e-6)
    assert {path.name for path in tmp_path.glob('out_*')} == {
        'out_att', 'out_fc', 'out_box', 'out_box_sizes.json', 'out_att_regions.json', 'out_images.json',
        'out_made.json'}
    assert set(make_bu_data.KINDS) == {'att', 'fc', 'box'}


def test_large_pictures_are_scaled_down_and_their_boxes_are_in_pixels_of_the_file(extract, tmp_path, pictures):
    extract('fasterrcnn', longest_side=100)
    shrunk = tmp_path / 'shrunk'
    shrunk.mkdir()
    Image.fromarray(read_upright(str(pictures / 'd.jpg'), 100)[0]).save(shrunk / 'd.png')
    assert Image.open(shrunk / 'd.png').size == (100, 50)
    extract('fasterrcnn', images_root=shrunk, output='shrunk')
    large, small = arrays(tmp_path), arrays(tmp_path, 'shrunk')
    np.testing.assert_allclose(large['box', 3], 3 * small['box', 1], atol=1e-3)
    np.testing.assert_allclose(large['att', 3], small['att', 1], atol=1e-4)
    extract('fasterrcnn', output='whole')
    assert np.abs(arrays(tmp_path, 'whole')['fc', 3] - large['fc', 3]).max() > 1e-2


def test_each_flag_of_the_detector_changes_the_number_of_boxes(extract, tmp_path):
    def counts(output, **flags):
        extract('fasterrcnn', output=output, **flags)
        return {len(array) for (kind, _), array in arrays(tmp_path, output).items() if kind == 'box'}
    assert counts('sure', min_confidence=1) == {10}
    assert counts('few', min_confidence=1, min_regions=3) == {3}
    assert counts('all', min_confidence=0) == {100}
    assert counts('most', min_confidence=0, max_regions=20) == {20}
    assert extract('fasterrcnn', min_regions=30, max_regions=20)[0] == 2


def test_layout_and_seed_change_the_features_and_the_same_seed_repeats_them(extract, tmp_path):
    extract(grid_size=2)
    for output, flags in {'same': {}, 'seed': {'random_weights': 2}, 'layout': {'cnn_layout': 'caffe'},
                          'batch': {'batch_size': 1, 'num_workers': 3}}.items():
        extract(output=output, grid_size=2, **flags)
        differs = np.abs(arrays(tmp_path)['att', 1] - arrays(tmp_path, output)['att', 1]).max()
        assert (differs > 1e-2) == (output in ('seed', 'layout')), output
        assert differs == 0 or output != 'same'
    features = arrays(tmp_path)
    means = np.stack([features['fc', number] for number in (1, 2, 3, 4)])
    apart = np.linalg.norm(means[:, None] - means, axis=2)[~np.eye(4, dtype=bool)].min()
    assert apart > 0.05 * np.linalg.norm(means, axis=1).mean() and 1 < np.linalg.norm(means, axis=1).mean() < 200
    assert 'WARNING: with random weights' in extract(output='warned')[1]


def test_a_resumed_extraction_ends_like_an_uninterrupted_one(extract, tmp_path, monkeypatch):
    extract(grid_size=2, output='undisturbed')
    written, plain = [], Extraction._write

    def write(self, image_id, *regions_found):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(image_id)
        plain(self, image_id, *regions_found)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Extraction, '_write', write)
        extract(grid_size=2, batch_size=1)
    assert len(list((tmp_path / 'out_box').iterdir())) == 2
    (tmp_path / 'out_att' / '3.npz.1.part').write_bytes(b'half')
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob('out_*/*.np?')}
    status, said = extract(grid_size=2)
    assert status == 0 and '4 of 4 images' in said
    assert all(path.stat().st_mtime_ns == before[path] for path in before)
    one, other = arrays(tmp_path), arrays(tmp_path, 'undisturbed')
    assert one.keys() == other.keys() and not list(tmp_path.glob('out_*/*.part'))
    for key in one:
        np.testing.assert_allclose(one[key], other[key], atol=1e-4)
    assert (tmp_path / 'out_box_sizes.json').read_text() == (tmp_path / 'undisturbed_box_sizes.json').read_text()


def test_several_processes_share_the_pictures_and_write_what_one_process_writes(networks, tmp_path):
    pictures, files = tmp_path / 'many', ('att', 'fc', 'box')
    pictures.mkdir()
    for number in range(11):
        photo(number, *((64, 48), (48, 64))[number % 2]).save(pictures / f'{number:02d}.png')
    (pictures / '04.png').write_bytes(b'no picture')
    photo(7, 2, 2).save(pictures / '07.png')

    def run(processes, output, prepare=None):
        flags = ['--images_root', pictures, '--output_dir', tmp_path / output, '--detector', 'grid', '--grid_size', 2,
                 '--random_weights', 1, '--device', 'cpu', '--num_workers', 1, '--batch_size', 2]
        return several.run(processes, extract_regions, flags, tmp_path / 'out', prepare)

    def together(rank, error=None):
        plain, marks = finder_module.Finder.__call__, [tmp_path / f'begun{number}' for number in (0, 1)]

        def find(self, found):
            marks[rank].touch()
            while not all(mark.exists() for mark in marks):  # each process has a batch before any has its second
                time.sleep(0.01)
            if error and rank == 1:
                raise error
            return plain(self, found)
        finder_module.Finder.__call__ = find
        if rank == 1:   # the main process, which keeps what they count together, is gone by the time it goes on
            exchange = parallel.gathered
            parallel.gathered = lambda work: (exchange(work), time.sleep(0.3))[0]

    assert run(1, 'one')[0] == [1]
    statuses, (text, silence) = run(2, 'two', lambda rank: together(rank, DataError('out of memory')))
    assert statuses == [1, 1] and 'out of memory' in silence and 'out of memory' not in text
    assert len(list((tmp_path / 'two_box').iterdir())) < 8  # the others did not go on to the end
    for mark in tmp_path.glob('begun*'):
        mark.unlink()
    statuses, (text, silence) = run(2, 'two', together)
    assert statuses == [1, 0] and not silence  # of the two pictures that cannot be read
    assert text.count('regions: 11 of 11 images') == 1 and '9 of 11 images ->' in text
    assert all(text.count(f'broken: {pictures}/{name}.png') == 1 for name in ('04', '07')) and '2 broken;' in text
    for kind in files:
        one, two = (sorted((tmp_path / f'{output}_{kind}').iterdir()) for output in ('one', 'two'))
        assert [path.name for path in one] == [path.name for path in two] and len(one) == 9
        assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, two))
    for name in ('box_sizes.json', 'att_regions.json'):
        assert (tmp_path / f'one_{name}').read_bytes() == (tmp_path / f'two_{name}').read_bytes()


@pytest.mark.parametrize('flag, value', [('detector', 'fasterrcnn'), ('grid_size', 3), ('longest_side', 50),
                                         ('random_weights', 2), ('cnn_model', 'resnet152'),
                                         ('cnn_layout', 'caffe')])
def test_regions_of_different_recipes_are_not_mixed(extract, tmp_path, flag, value):
    extract(grid_size=2)
    before = (tmp_path / 'out_att_regions.json').read_text()
    status, said = extract(**{'grid_size': 2, flag: value})
    assert status == 2 and ('cnn_weight_dir' if flag == 'random_weights' else flag) in said
    assert (tmp_path / 'out_att_regions.json').read_text() == before


def test_the_recipe_is_written_beside_the_features_and_beside_a_packed_file(
        extract, run_script, tmp_path):
    extract(grid_size=2)
    recipe = read_recipe(tmp_path / 'out_att')
    assert recipe == read_recipe(tmp_path / 'out_fc') == {
        'detector': 'grid', 'grid_size': 2, 'longest_side': 640, 'cnn_model': 'resnet101',
        'cnn_layout': 'torchvision', 'cnn_weights': 'random 1'}
    assert run_script(pack_features, input_img_feat_dir=tmp_path / 'out_att', output_file=tmp_path / 'all.h5',
                      num_workers=1)[0] == 0
    assert read_recipe(tmp_path / 'all.h5') == recipe and read_recipe(tmp_path / 'elsewhere_att') is None
    for broken in ('{', '[]', '{"detector": "grid"}', json.dumps({**recipe, 'grid_size': 0}),
                   json.dumps({**recipe, 'cnn_weights': 'random x'})):
        (tmp_path / 'out_att_regions.json').write_text(broken)
        with pytest.raises(DataError, match='out_att_regions.json.*again'):
            read_recipe(tmp_path / 'out_att')


def test_ids_are_cocos_numbers_where_all_names_have_one_and_never_change():
    coco = ['val/COCO_val2014_000000000042.jpg', 'train/COCO_train2014_000000000007.jpg']
    assert numbered(coco, {}) == {coco[0]: 42, coco[1]: 7}
    assert numbered(['000000000042.jpg'], {}) == {'000000000042.jpg': 42}
    assert numbered([*coco, 'z.jpg'], {}) == {coco[0]: 1, coco[1]: 2, 'z.jpg': 3}
    assert numbered([*coco, 'z.jpg'], {coco[0]: 42}) == {coco[0]: 42, coco[1]: 43, 'z.jpg': 44}
    assert numbered(['a', 'b', 'c'], {'b': 1, 'deleted': 5}) == {'a': 6, 'b': 1, 'c': 7}
    twice = ['x/COCO_val2014_000000000042.jpg', 'y/COCO_val2014_000000000042.jpg']
    assert numbered(twice, {}) == {twice[0]: 1, twice[1]: 2}


def test_a_second_run_finds_regions_only_in_new_and_changed_pictures(extract, tmp_path, pictures):
    extract(grid_size=2)
    before, times = arrays(tmp_path), {path: path.stat().st_mtime_ns for path in tmp_path.glob('out_*/*.np?')}
    photo(99).save(pictures / 'aa.jpg')
    photo(98, 50, 40).save(pictures / 'b.png')
    (pictures / 'a.jpg').unlink()
    assert extract(grid_size=2)[0] == 0
    after = arrays(tmp_path)
    assert set(after) - set(before) == {(kind, 5) for kind in ('att', 'fc', 'box')}
    anew = {path.stem for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert anew == {'2'} and np.abs(after['att', 2] - before['att', 2]).max() > 1e-3
    assert json.loads((tmp_path / 'out_box_sizes.json').read_text())['2'] == [50, 40]
    (tmp_path / 'others').mkdir()
    photo(1).save(tmp_path / 'others' / 'q.jpg')
    status, said = extract(grid_size=2, images_root=tmp_path / 'others')
    assert status == 2 and 'lists other pictures' in said


def test_a_picture_is_identified_by_its_content_not_by_size_or_date(extract, tmp_path, pictures):
    for name in ('b.png', 'd.jpg'):
        (pictures / name).unlink()
    photo(1).save(pictures / 'b.bmp')
    extract(grid_size=2)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob('out_*/*.np?')}

    def found_anew(place):
        assert extract(grid_size=2, images_root=place)[0] == 0
        anew = {path.stem for path, time in times.items() if path.stat().st_mtime_ns != time}
        times.update({path: path.stat().st_mtime_ns for path in times})
        return anew
    state = (pictures / 'b.bmp').stat()
    photo(2).save(pictures / 'b.bmp')
    os.utime(pictures / 'b.bmp', ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (pictures / 'b.bmp').stat().st_size == state.st_size
    assert found_anew(pictures) == {'2'}
    os.utime(pictures / 'b.bmp')
    shutil.copytree(pictures, tmp_path / 'copy')
    assert found_anew(tmp_path / 'copy') == set()
    photo(3).save(tmp_path / 'copy' / 'b.bmp')   # a folder with the same names and sizes
    assert found_anew(tmp_path / 'copy') == {'2'}
    listing = tmp_path / 'out_images.json'
    listed = json.loads(listing.read_text())
    del listed['1']['content'], listed['1']['looks']   # as if written before contents were recorded
    listing.write_text(json.dumps(listed))
    assert found_anew(tmp_path / 'copy') == {'1'}


def test_files_with_unchanged_size_and_times_are_not_read_again(extract, monkeypatch):
    extract(grid_size=2)
    monkeypatch.setattr(listing, 'digest_of', lambda path: pytest.fail(f'{path} was read'))
    assert extract(grid_size=2)[0] == 0


def test_the_images_of_a_split_file_have_its_ids(extract, tmp_path, pictures):
    (pictures / 'val2014').mkdir()
    for number in (391895, 7):
        photo(number).save(pictures / 'val2014' / f'{number}.jpg')
    split = write_split(tmp_path / 'split.json', [record(number, 'train', 'a dog') for number in (391895, 7, 9)])
    status, said = extract(input_json=split, grid_size=2)
    assert status == 1 and '9.jpg: there is no such file' in said and '2 of 3 images' in said
    assert {number for _, number in arrays(tmp_path)} == {391895, 7}
    assert json.loads((tmp_path / 'out_images.json').read_text())['7'] == {'file': 'val2014/7.jpg'}
    status, said = extract(input_json=split, images_root=tmp_path, output='other')
    assert status == 1 and 'holds none of the images' in said


def save_odd(root):
    """Odd pictures of every kind, {name: (width, height) upright, or a part of its error message}."""
    plain, random = photo(5, 60, 40), np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    plain.save(root / 'turned.jpg', exif=exif, quality=100)
    plain.convert('RGBA').save(root / 'clear.png')
    plain.convert('P').save(root / 'palette.gif', transparency=0)
    Image.fromarray(random.integers(0, 65536, (40, 60), dtype=np.uint16)).save(root / 'deep.png')
    plain.save(root / 'animated.gif', save_all=True, append_images=[photo(6, 60, 40)])
    plain.convert('L').save(root / 'grey.jpg')
    plain.convert('CMYK').save(root / 'cmyk.jpg')
    plain.resize((2000, 1500)).save(root / 'large.jpg')
    plain.convert('RGBA').resize((2600, 1400)).save(root / 'large.png')
    (root / 'empty.jpg').touch()
    (root / 'text.jpg').write_text('not a picture')
    (root / 'cut.png').write_bytes((root / 'deep.png').read_bytes()[:900])
    Image.new('1', (20000, 10000)).save(root / 'huge.png')
    Image.new('RGB', (3000, 6)).save(root / 'thin.png')
    os.symlink(root / 'nowhere', root / 'dangling.jpg')
    return {'turned.jpg': (40, 60), 'clear.png': (60, 40), 'palette.gif': (60, 40), 'deep.png': (60, 40),
            'animated.gif': (60, 40), 'grey.jpg': (60, 40), 'cmyk.jpg': (60, 40), 'large.jpg': (2000, 1500),
            'large.png': (2600, 1400), 'empty.jpg': 'the file is empty', 'text.jpg': 'not a readable image',
            'cut.png': 'not a readable image', 'huge.png': 'more than 178,956,970 pixels',
            'thin.png': 'pixels are too few', 'dangling.jpg': 'there is no such file'}


def test_every_odd_picture_is_read_or_named_and_the_others_are_extracted(extract, tmp_path):
    root = tmp_path / 'odd'
    root.mkdir()
    expected = save_odd(root)
    status, said = extract(images_root=root, longest_side=100, grid_size=2)
    listed = said.split('the others are written')[1]
    sizes = json.loads((tmp_path / 'out_box_sizes.json').read_text())
    names = {entry['file']: number for number, entry in
             json.loads((tmp_path / 'out_images.json').read_text()).items()}
    assert status == 1 and set(names) == set(expected)
    for name, what in expected.items():
        if isinstance(what, str):
            assert any(name in line and what in line for line in listed.splitlines()), name
            assert names[name] not in sizes
        else:
            assert tuple(sizes[names[name]]) == what and name not in listed
    assert len(arrays(tmp_path)) == 3 * len(sizes) == 27


def test_pictures_are_read_upright_and_composited_on_white(tmp_path):
    save_odd(tmp_path)

    def read(name, longest=1000):
        return read_upright(str(tmp_path / name), longest)

    plain = np.asarray(photo(5, 60, 40)).astype(int)
    near = {'rtol': 0, 'atol': 12}
    turned, size = read('turned.jpg')
    assert size == (40, 60) == read_size(str(tmp_path / 'turned.jpg'), upright=True)
    assert read_size(str(tmp_path / 'turned.jpg')) == (60, 40)  # as COCO's sizes and boxes take it
    np.testing.assert_allclose(turned, np.rot90(plain, -1), **near)  # EXIF's 6: to be turned clockwise
    np.testing.assert_allclose(read('animated.gif')[0], plain, rtol=0, atol=60)
    half = Image.new('RGBA', (60, 40), (200, 100, 0, 128))
    half.save(tmp_path / 'half.png')
    np.testing.assert_allclose(read('half.png')[0], np.broadcast_to([227, 177, 127], (40, 60, 3)), atol=2)
    for name, *size in (('large.jpg', 100, 75), ('large.png', 100, 54)):
        np.testing.assert_allclose(read(name, 100)[0], photo(5, 60, 40).resize(size), **near)
    for number in range(1, 9):  # every orientation, compared with Pillow's own function
        exif = Image.Exif()
        exif[0x0112] = number
        photo(5, 60, 40).save(tmp_path / 'exif.png', exif=exif)
        with Image.open(tmp_path / 'exif.png') as image:
            expected = ImageOps.exif_transpose(image)
        assert np.array_equal(read('exif.png')[0], np.asarray(expected))
        assert read_size(str(tmp_path / 'exif.png'), upright=True) == expected.size


def test_large_pictures_are_decoded_at_a_reduced_size(tmp_path, monkeypatch):
    save_odd(tmp_path)
    sizes, plain = [], Image.Image.resize
    for name in ('large.jpg', 'large.png'):
        with monkeypatch.context() as patch:
            patch.setattr(Image.Image, 'resize', lambda image, *given: (
                sizes.append(image.size), plain(image, *given))[1])
            read_upright(str(tmp_path / name), 100)
    # A JPEG of 2000 pixels is decoded at an eighth; of a PNG of 2600 pixels each 13 x 13 are averaged.
    assert sizes == [(250, 188), (200, 108)]


def test_after_an_out_of_memory_error_the_batch_is_freed_before_its_pictures_are_retried(
        extract, tmp_path, monkeypatch):
    extract(grid_size=2, output='undisturbed')
    batches, plain = [], finder_module.Finder._find

    def find(finder, pictures):
        assert all(batch() is None for batch in batches)
        batch = pictures.copy()
        if len(pictures) > 1:
            batches.append(weakref.ref(batch))
            raise torch.OutOfMemoryError('CUDA out of memory')
        return plain(finder, pictures)
    monkeypatch.setattr(finder_module.Finder, '_find', find)
    assert extract(grid_size=2)[0] == 0 and len(batches) == 1
    one, other = arrays(tmp_path), arrays(tmp_path, 'undisturbed')
    assert one.keys() == other.keys()
    for key in one:
        np.testing.assert_allclose(one[key], other[key], atol=1e-4)


def test_a_programming_error_is_not_reported_as_a_broken_picture(extract, monkeypatch):
    def broken(maps, side):
        raise ValueError('too many values to unpack')
    monkeypatch.setattr(finder_module, 'grid_features', broken)
    with pytest.raises(ValueError, match='too many values to unpack'):
        extract(grid_size=2)


def test_the_detectors_input_size_is_restored_after_calibration(networks):
    found = detector.random_detector(1, 10)
    assert (found.transform.min_size, found.transform.max_size) == ((64,), 128)
    found.forward = lambda pictures: 1 / 0
    with pytest.raises(ZeroDivisionError):
        detector.forward_unscaled(found, torch.zeros(1, 3, 8, 8))
    assert (found.transform.min_size, found.transform.max_size) == ((64,), 128)


def test_a_folder_without_pictures_and_a_missing_folder_are_refused(extract, tmp_path):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'empty' / 'notes.txt').touch()
    status, said = extract(images_root=tmp_path / 'empty')
    assert status == 1 and 'holds no pictures' in said and 'only 1 other files' in said
    status, said = extract(images_root=tmp_path / 'nowhere')
    assert status == 2 and 'nowhere' in said
    assert not list(tmp_path.glob('out_*'))


def test_a_single_picture_is_treated_as_a_folder_of_one(extract, tmp_path, pictures):
    assert extract(images_root=pictures / 'b.png', grid_size=2)[0] == 0
    assert set(arrays(tmp_path)) == {('att', 1), ('fc', 1), ('box', 1)}


def test_pictures_share_a_batch_only_with_those_of_their_size():
    shapes = [(6, 4)] * 5 + [(4, 6)] + [(6, 4)] * 2 + [(5, number) for number in range(3, 20)]
    batches = list(batches_of_one_shape(range(len(shapes)), shapes, 3))
    assert sorted(item for items in batches for item in items) == list(range(len(shapes)))
    for items in batches:
        assert len(items) <= 3 and len({shapes[item] for item in items}) == 1
    assert sum(len(items) == 3 for items in batches) == 2


@pytest.mark.parametrize('longest', [640, 50, 7, 1])
def test_the_scaled_size_is_predicted_from_the_header(tmp_path, longest):
    for number, size in enumerate(((64, 48), (48, 64), (301, 150), (1, 90))):
        photo(number, *size).save(tmp_path / 'a.jpg')
        pixels, read = read_upright(str(tmp_path / 'a.jpg'), longest)
        assert read == size and pixels.shape[1::-1] == shrunk(size, longest)


def test_batches_do_not_depend_on_where_an_earlier_run_stopped(
        extract, tmp_path, pictures, monkeypatch):
    for number in range(9):
        photo(number).save(pictures / f'e{number}.jpg')
    seen, plain = [], finder_module.Finder._find

    def find(finder, batch):
        seen.append(batch.copy())
        return plain(finder, batch)
    monkeypatch.setattr(finder_module.Finder, '_find', find)
    extract(batch_size=4)
    whole, seen[:] = list(seen), []
    before = arrays(tmp_path)
    for kind in ('att', 'box'):
        suffix = {'att': 'npz', 'box': 'npy'}[kind]
        for image_id in (4, 5):
            (tmp_path / f'out_{kind}' / f'{image_id}.{suffix}').unlink(missing_ok=True)
    assert extract(batch_size=4)[0] == 0
    assert 1 <= len(seen) < len(whole)
    assert all(any(np.array_equal(one, other) for other in whole) for one in seen)
    assert all(np.array_equal(value, before[key]) for key, value in arrays(tmp_path).items())


def test_weights_are_found_in_the_folder_or_in_data_and_torchvisions_cache(
        extract, networks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in ('hub/checkpoints/resnet101-63fe2227.pth', 'data/imagenet_weights/resnet101-cd907fc2.pth',
                  'data/resnet101.pth'):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        save_weights(tmp_path / place)
        found = weights.find_file('resnet101')
        assert os.path.abspath(found) == str(tmp_path / place)
        if place != 'data/resnet101.pth':
            assert recipes.new_recipe('grid', DEFAULTS, 'resnet101')['cnn_layout'] == 'torchvision'
    status, said = extract(random_weights=None)
    assert status == 2 and 'data/resnet101.pth may hold weights of either layout' in said
    assert '--cnn_layout caffe if' in said and '--cnn_layout torchvision if' in said
    for layout in LAYOUTS:
        assert extract(random_weights=None, cnn_layout=layout, output=layout, grid_size=2)[0] == 0
        assert read_recipe(tmp_path / f'{layout}_att')['cnn_layout'] == layout
    with pytest.raises(DataError, match='(?s)no weights of resnet101 in elsewhere.*resnet101-63fe2227.pth and put '
                                        'it into elsewhere.*--random_weights'):
        weights.find_file('resnet101', 'elsewhere')
    with pytest.raises(DataError, match=f'no weights of {DETECTOR}.*'):
        recipes.new_recipe('fasterrcnn', DEFAULTS, 'resnet101')
    with pytest.raises(DataError, match=f'(?s)no weights of resnet101 and {DETECTOR} in elsewhere.*'
                                        'resnet101-63fe2227.pth and http.*fasterrcnn.*pth and put them into'):
        recipes.new_recipe('fasterrcnn', DEFAULTS, 'resnet101', folder='elsewhere')


def test_weights_are_identified_by_their_content(networks, tmp_path):
    save_weights(tmp_path / 'resnet101.pth')
    recipe = recipes.new_recipe('grid', DEFAULTS, 'resnet101', 'torchvision', str(tmp_path))
    finder = finder_module.Finder(recipe, torch.device('cpu'), str(tmp_path))
    expected = cnn.load_network(Network('resnet101', layout='torchvision'), str(tmp_path / 'resnet101.pth'), 'cpu')
    picture = np.array(photo(1))
    np.testing.assert_allclose(finder(picture[None])[0][1].mean(0), cnn.image_features(expected, picture, 7)[0],
                               atol=1e-5)
    save_weights(tmp_path / 'resnet101.pth', seed=1)
    with pytest.raises(DataError, match='does not hold the weights of resnet101'):
        finder_module.Finder(recipe, torch.device('cpu'), str(tmp_path))
    assert recipe_path(tmp_path / 'a_att/') == str(tmp_path / 'a_att_regions.json')
