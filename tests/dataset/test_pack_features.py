"""Packed files: their content, and packing that is interrupted, has broken input or other options."""

import json
import os
import signal
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest

import prepro_areas
import train
from misc.cli import DataError
from misc.dataset import packing
from misc.dataset.array_files import FolderReader
from misc.dataset.features import open_reader
from misc.dataset.packed import PackedReader, packed_sizes
from misc.dataset.packing import PackedWriter
from misc.disk import locks
from misc.disk.known import ChangedError
from misc.prepare import packing as packer
from misc.prepare.made import claimed
from misc.run import folder as run_folder
from scripts import pack_features, prepro_bbox_relative_coords
from tests.helpers import tiny
from tests.helpers.packing import killed_at
from tests.helpers.runs import same_weights

FOLDERS = {'att': 'att', 'fc': 'fc', 'box': 'box', 'rel': 'rel', 'grid': 'vec'}
WRITES = 1 + 16 * 5 + 4 + 4   # sizes, arrays, and the records of 4 batches written and compared


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A corpus of 16 images, one of which has a map; a batch has 4."""
    monkeypatch.setattr(packer, 'BATCH', 4)
    tiny.write_corpus(tmp_path)
    features(tmp_path, 108, np.random.default_rng(0).random((2, 3, tiny.SIZE)))
    return tmp_path


def features(root, image_id, array):
    """Replace the features of an image."""
    np.savez(root / 'att' / f'{image_id}.npz', feat=array.astype(np.float32))


def pack(run_script, root, *kinds, **more):
    """Pack `kinds` (default: all) into one file; returns (status, messages)."""
    folders = {pack_features.FLAGS[kind]: root / FOLDERS[kind] for kind in kinds or FOLDERS}
    return run_script(pack_features, **{**folders, 'output_file': root / 'all.h5', 'num_workers': 1, **more})


def ids_in(root, kind='att'):
    return sorted(map(int, open_reader(str(root / 'all.h5'), kind, '').ids()))


def same_arrays(root, kind, dtype=np.float32):
    """Whether the packed file holds the arrays of a folder, shapes and types included."""
    folder, file = (open_reader(str(root / name), kind, '') for name in (FOLDERS[kind], 'all.h5'))
    pairs = [(folder.read(image_id), file.read(image_id)) for image_id in folder.ids()]
    return folder.ids() == file.ids() and all(
        found.dtype == np.float32 and found.shape == expected.shape
        and (found == expected.astype(dtype)).all() for expected, found in pairs)


def test_a_packed_file_holds_the_arrays_of_all_folders_and_the_image_sizes(run_script, root):
    status, said = pack(run_script, root, num_workers=2)
    assert status == 0 and '16 images (att, fc, box, rel, grid)' in said
    assert all(same_arrays(root, kind) for kind in FOLDERS)
    sizes = json.loads((root / 'box_sizes.json').read_text())
    assert packed_sizes(root / 'all.h5') == {image_id: tuple(size) for image_id, size in sizes.items()}
    assert not (root / 'all.h5.partial').exists()
    # a packed file may be packed again, with other kinds or another type
    again = dict.fromkeys(('input_img_feat_dir', 'input_box_dir'), root / 'all.h5')
    assert run_script(pack_features, **again, output_file=root / 'few.h5')[0] == 0
    (root / 'few.h5').replace(root / 'all.h5')
    assert same_arrays(root, 'att') and same_arrays(root, 'box')


def test_chunked_and_compressed_rows_are_read_too(run_script, root):
    pack(run_script, root)
    with h5py.File(root / 'all.h5', 'r+') as file:
        for kind in FOLDERS:
            rows = file[f'{kind}/rows'][:]
            del file[f'{kind}/rows']
            file.create_dataset(f'{kind}/rows', data=rows, chunks=True, compression='gzip')
        del file['state'], file['sizes'], file['box/maps']      # which may be absent
    assert all(same_arrays(root, kind) for kind in FOLDERS)


@pytest.fixture
def trained(run_script, root):
    """trained(case, packed): the weights of a run on the folders, or on the packed file alone."""
    def call(case, from_packed):
        def place(folder):
            return root / ('all.h5' if from_packed else folder)
        clear = () if case == 'input_grid_vec_dir' else ('--input_grid_vec_dir', '')
        folder = root / f'{case}-{from_packed}'
        tiny.run(train, tiny.train_flags(
            root, folder, '--max_epochs', 1, '--input_img_feat_dir', place('att'), *clear, f'--{case}',
            place({'input_box_dir': 'box', 'input_rel_box_dir': 'rel', 'input_grid_vec_dir': 'vec'}[case])))
        return run_folder.read_tensors(str(folder / 'model.pth'))
    (root / 'att' / '108.npz').unlink()     # its map does not fit its boxes
    features(root, 108, np.random.default_rng(8).random((len(np.load(root / 'box/108.npy')), tiny.SIZE)))
    pack(run_script, root)
    return call


@pytest.mark.parametrize('case', ['input_box_dir', 'input_rel_box_dir', 'input_grid_vec_dir'])
def test_training_from_a_packed_file_gives_the_weights_of_training_from_folders(root, trained, case):
    expected = trained(case, False)
    (root / 'box_sizes.json').unlink()      # the packed file has them
    for folder in ('att', 'box', 'rel', 'vec'):
        (root / folder).rename(root / f'not_{folder}')
    assert same_weights(expected, trained(case, True))


@pytest.mark.parametrize('script, flag, folder', [
    (prepro_areas, 'input_dir', 'vec'), (prepro_bbox_relative_coords, 'input_box_dir', 'rel')])
def test_scripts_take_boxes_and_sizes_from_a_packed_file(run_script, root, script, flag, folder):
    pack(run_script, root, 'box')
    (root / 'box_sizes.json').unlink()
    grids = {'num_grids': 9} if script is prepro_areas else {}
    status, said = run_script(script, **{flag: root / 'all.h5', 'output_dir': root / 'made', **grids})
    assert status == 0 and 'warning' not in said
    for path in (root / folder).iterdir():
        np.testing.assert_allclose(np.load(root / 'made' / path.name), np.load(path), rtol=0, atol=1e-6)


@pytest.mark.parametrize('write', [1, 2, 22, 60, WRITES - 4, WRITES - 1, WRITES])
def test_a_killed_packing_resumes_and_ends_in_the_same_bytes(run_script, root, monkeypatch, write):
    pack(run_script, root, output_file=root / 'undisturbed.h5')
    assert killed_at(write, lambda: pack(run_script, root)) == -signal.SIGKILL
    assert not (root / 'all.h5').exists()
    (root / 'all.h5.partial' / 'all.h5.9.part').write_bytes(b'half')
    states = PackedWriter(str(root / 'all.h5.partial' / 'all.h5')).state
    stored, compared = [], []

    def count(name, images):
        plain = getattr(packer, name)
        monkeypatch.setattr(packer, name, lambda image_id, *args, **more: (
            images.append(image_id), plain(image_id, *args, **more))[1])
    count('store', stored)
    count('compare', compared)
    assert pack(run_script, root)[0] == 0
    # A record that was being written may count in part.
    assert len(stored) == (states == 0).sum() and len(compared) == (states < 2).sum()
    assert 16 - len(stored) >= min(16, (write - 2) // 21 * 4)
    assert (root / 'all.h5').read_bytes() == (root / 'undisturbed.h5').read_bytes()
    assert not (root / 'all.h5.partial').exists()


def test_the_number_of_writes_above_is_exact(run_script, root):
    assert killed_at(WRITES + 1, lambda: pack(run_script, root)) == 0
    assert same_arrays(root, 'att')


def test_other_options_folders_and_arrays_are_not_mixed_in(run_script, root):
    assert killed_at(30, lambda: pack(run_script, root)) == -signal.SIGKILL
    for state in ('begun', 'finished'):
        status, said = pack(run_script, root, dtype='float16')
        assert status == 2 and '--dtype float32, not float16' in said and '--output_file' in said
        status, said = pack(run_script, root, 'att', 'box')
        assert status == 2 and 'holds att, box, fc, grid, rel, the command names att, box' in said
        whole = (root / 'att').rename(root / 'kept')
        (root / 'att').mkdir()
        for image_id in range(100, 116):
            features(root, image_id, np.ones((2, tiny.SIZE)))
        status, said = pack(run_script, root)
        assert status == 2 and '--input_img_feat_dir: the array of image 1' in said
        (root / 'att').rename(root / f'other_{state}')
        whole.rename(root / 'att')
        assert pack(run_script, root)[0] == 0
    (root / 'all.h5_made.json').unlink()
    status, said = pack(run_script, root)
    assert status == 2 and 'no ' in said and 'all.h5_made.json says what it was made from' in said
    assert same_arrays(root, 'att')


def test_broken_input_is_named_and_the_rest_packed_until_it_is_corrected(run_script, root):
    whole = {path: path.read_bytes() for folder in ('att', 'box') for path in (root / folder).iterdir()}
    features(root, 101, np.full((2, tiny.SIZE), np.nan))
    np.save(root / 'box' / '102.npy', np.zeros((0, 4)))
    (root / 'att' / '103.npz').write_bytes(b'')
    (root / 'box' / '104.npy').unlink()
    features(root, 105, np.ones((2, 7)))
    features(root, 106, np.ones(tiny.SIZE))
    (root / 'box' / '107.npy').write_bytes(whole[root / 'box' / '107.npy'][:-9])
    np.save(root / 'box' / 'all.npy', np.ones((1, 4)))
    status, said = pack(run_script, root)
    listed = said.split('the others are written')[1]
    assert status == 1 and ids_in(root) == [100, *range(108, 116)]
    for words in ('att/101.npz holds values that are not finite', 'box/102.npy: an array of shape (0, 4)',
                  'att/103.npz cannot be read', 'not in --input_box_dir', ': 104\n',
                  'att/105.npz: its shape is (2, 7), others have 12 numbers a row',
                  'att/106.npz: an array of shape (12,)', 'box/107.npy cannot be read', 'image ids', 'all'):
        assert words in listed, words
    before = (root / 'all.h5').stat().st_ino
    assert pack(run_script, root)[0] == 1 and (root / 'all.h5').stat().st_ino == before     # nothing new to pack
    (root / 'box' / 'all.npy').unlink()
    for path, content in whole.items():
        path.write_bytes(content)
    assert pack(run_script, root)[0] == 0 and ids_in(root) == list(range(100, 116))
    assert all(same_arrays(root, kind) for kind in FOLDERS)


def test_no_file_is_written_when_all_input_is_broken(run_script, root):
    for path in (root / 'box').iterdir():
        path.write_bytes(b'')
    status, said = pack(run_script, root)
    assert status == 1 and 'no image can be packed; the first of 16 broken' in said
    assert run_script(pack_features, output_file=root / 'all.h5')[0] == 2
    assert not list(root.glob('all.h5*/*')) and not (root / 'all.h5').exists()


def test_images_added_to_the_folders_are_packed_without_reading_the_others_again(run_script, root, monkeypatch):
    for folder in FOLDERS.values():
        (root / 'late' / folder).mkdir(parents=True)
        for path in [*(root / folder).glob('114.*'), *(root / folder).glob('115.*')]:
            path.rename(root / 'late' / folder / path.name)
    sizes = json.loads((root / 'box_sizes.json').read_text())
    (root / 'box_sizes.json').write_text(json.dumps({'100': sizes['100']}))

    def arrive(image_id):
        for folder in FOLDERS.values():
            for path in (root / 'late' / folder).glob(f'{image_id}.*'):
                path.rename(root / folder / path.name)
    assert killed_at(40, lambda: pack(run_script, root)) == -signal.SIGKILL
    arrive(114)
    status, said = pack(run_script, root)
    assert status == 1 and 'came after packing had begun: 114\n' in said and len(ids_in(root)) == 14
    assert 'the size of 13 of 14 images is not known' in said
    arrive(115)
    read, plain, describe = [], FolderReader.read, packer.describe

    def reading(folder, image_id):
        read.append(image_id)
        return plain(folder, image_id)

    def describing(image_id, source):   # reads the recorded images, before all others
        found = describe(image_id, source)
        read.clear()
        return found
    monkeypatch.setattr(FolderReader, 'read', reading)
    monkeypatch.setattr(packer, 'describe', describing)
    status, said = pack(run_script, root)
    assert status == 0 and 'the size of 15 of 16' in said and set(read) == {'114', '115'}
    labels = [{'id': int(image_id), 'width': size[0], 'height': size[1]} for image_id, size in sizes.items()]
    (root / 'labels.json').write_text(json.dumps({'images': labels}))
    status, said = pack(run_script, root, input_json=root / 'labels.json')
    assert status == 0 and 'warning' not in said and not read
    assert packed_sizes(root / 'all.h5') == {image_id: tuple(size) for image_id, size in sizes.items()}
    monkeypatch.undo()
    assert all(same_arrays(root, kind) for kind in FOLDERS)


def test_float16_rounds_only_features_and_names_values_beyond_its_range(run_script, root):
    assert pack(run_script, root, dtype='float16')[0] == 0
    for kind in FOLDERS:
        assert same_arrays(root, kind, np.float16 if kind in ('att', 'fc') else np.float32)
    exact = np.load(root / 'att' / '100.npz')['feat']
    found = open_reader(str(root / 'all.h5'), 'att', '').read(100)
    assert 0 < np.abs(found / exact - 1).max() < 2 ** -11
    assert pack(run_script, root, dtype='float16', verify=1)[0] == 0
    features(root, 102, np.full((2, tiny.SIZE), 7e4))
    status, said = pack(run_script, root, dtype='float16', output_file=root / 'other.h5')
    assert status == 1 and 'image 102 goes up to 70000' in said and '--dtype float32' in said


def test_verify_names_what_differs_and_writes_nothing(run_script, root):
    assert pack(run_script, root, verify=1)[0] == 1
    pack(run_script, root)
    assert pack(run_script, root, verify=1)[0] == 0
    place = open_reader(str(root / 'all.h5'), 'att', '').byte('104')
    with open(root / 'all.h5', 'r+b') as file:
        file.seek(place)
        file.write(b'\x00\x00\x80\x3f')
    sizes = json.loads((root / 'box_sizes.json').read_text())
    (root / 'box_sizes.json').write_text(json.dumps({**sizes, '105': [3, 4]}))
    np.save(root / 'box' / '107.npy', np.ones((1, 4)))
    (root / 'vec' / '109.npy').unlink()
    content = (root / 'all.h5').read_bytes()
    status, said = pack(run_script, root, verify=1, dtype='float16')
    assert status == 2 and 'holds float32' in said
    status, said = pack(run_script, root, verify=1)
    assert status == 1 and '15 of 15 images compared, 5 differences' in said
    for words in ('(att of 104) is not what', 'the size of image 105', '(box of 107)',
                  'not in --input_grid_vec_dir', 'all.h5 alone: 109'):
        assert words in said, words
    assert (root / 'all.h5').read_bytes() == content


def test_truncated_files_and_full_disks_are_named(run_script, root, monkeypatch):
    pack(run_script, root)
    known = open_reader(str(root / 'all.h5'), 'grid', 'flag')
    read = PackedReader(str(root / 'all.h5'), 'grid', 'flag', unwritten=True)  # that expects the file to change
    os.truncate(root / 'all.h5', read.byte('110'))
    with pytest.raises(ChangedError, match='all.h5 was changed'):
        known.read(110)
    assert (read.read(109) == np.load(root / 'vec' / '109.npy')).all()
    with pytest.raises(DataError, match=r'all.h5 \(grid of 110\) .*ends before it'):
        read.read(110)
    with pytest.raises(DataError, match='--flag: .*all.h5 is not a whole packed HDF5 file .*truncated'):
        open_reader(str(root / 'all.h5'), 'grid', 'flag')
    monkeypatch.setattr(packing.shutil, 'disk_usage', lambda _: namedtuple('Usage', 'free')(1000))
    status, said = pack(run_script, root, output_file=root / 'other.h5')
    assert status == 1 and 'its disk has 0.0 GB left' in said
    assert not (root / 'other.h5.partial').exists()


def test_training_names_what_a_packed_file_lacks_and_the_command_that_packs(run_script, root):
    (root / 'att' / '103.npz').unlink()
    pack(run_script, root, 'att', 'box')

    def complaint(*flags):
        with pytest.raises(DataError) as raised:
            tiny.run(train, tiny.train_flags(
                root, root / 'run', '--input_img_feat_dir', root / 'all.h5', *flags))
        assert len(str(raised.value).splitlines()) <= 3
        return str(raised.value)
    for words in ('1 of 12 images have no features', 'all.h5: 103\n', 'make_bu_data.py', 'pack_features.py'):
        assert words in complaint()
    assert 'no packed arrays of kind grid (it holds att, box)' in complaint(
        '--input_grid_vec_dir', root / 'all.h5')
    assert 'pack_features.py' in complaint('--input_img_feat_dir', root / 'absent.h5')


def test_a_second_packing_does_not_touch_the_folder_of_the_first(run_script, root, monkeypatch):
    monkeypatch.setattr(locks, 'PATIENCE', 0.1)
    (root / 'all.h5.partial').mkdir()
    with claimed(str(root / 'all.h5'), 'pack_features.py', {'dtype': 'float32'}, {},
                 [str(root / 'all.h5.partial')], [str(root / 'all.h5')]):
        status, said = pack(run_script, root)
        assert status == 2 and 'another process' in said
        assert (root / 'all.h5.partial').is_dir()


def test_sizes_without_boxes_are_refused(run_script, root):
    status, said = pack(run_script, root, 'att', input_json=root / 'talk.json')
    assert status == 2 and '--input_box_dir' in said


def test_threads_that_read_the_same_file_get_their_own_images(run_script, root):
    pack(run_script, root)
    source = open_reader(str(root / 'all.h5'), 'att', '')
    expected = {image_id: source.read(image_id).sum() for image_id in source.ids()}
    with ThreadPoolExecutor(4) as pool:
        for image_id, array in zip(list(expected) * 50, pool.map(source.read, list(expected) * 50)):
            assert array.sum() == expected[image_id]


def test_bytes_that_a_full_disk_took_only_in_part_are_written_in_several_pieces():
    written = bytearray()

    class Reluctant:
        def write(self, data):
            written.extend(data[:5])
            return len(data[:5])

    array = np.arange(4, dtype=np.float32)
    packing._write_all(Reluctant(), array)
    assert bytes(written) == array.tobytes()
