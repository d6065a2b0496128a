"""Bad input is refused with a message that names the file and the remedy, before training starts."""

import json
import os
import pickle
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch

import eval as evaluation
import train
from misc.cli import DataError
from misc.dataset.array_files import read_array, read_shape
from misc.dataset.features import open_reader
from misc.dataset.labels import Labels
from misc.pictures.images import read_rgb, read_upright
from misc.run import folder as run_folder
from tests.helpers import ROOT, networks, tiny
from tests.helpers.damage import (
    AREAS,
    BU_DATA,
    LABELS,
    RELATE,
    RESUMED,
    SCORED,
    array,
    complaint,
    expect,
    json_file,
    resplit,
    talk,
)

NO_GRIDS = ('--input_grid_vec_dir', '')
BOXES = (*NO_GRIDS, '--input_box_dir', 'ROOT/box')
RELATIVE = (*NO_GRIDS, '--input_rel_box_dir', 'ROOT/rel')
MEANS = ('--caption_model', 'show_tell', '--input_fc_feat_dir', 'ROOT/fc')
PACKED = ('--input_img_feat_dir', 'ROOT/att.h5')


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


# File that is removed: (program, flags, patterns of the message).
MISSING = {
    'talk.json': (train, (), ('talk.json', LABELS)),
    'talk_label.h5': (train, (), ('--input_label_h5', 'talk_label.h5', LABELS)),
    'att': (train, (), ('--input_img_feat_dir', '/att', BU_DATA)),
    'att.h5': (train, PACKED, ('--input_img_feat_dir', 'att.h5', BU_DATA)),
    'fc': (train, MEANS, ('--input_fc_feat_dir', '/fc', BU_DATA)),
    'vec': (train, (), ('--input_grid_vec_dir', '/vec', AREAS)),
    'box': (train, BOXES, ('--input_box_dir', '/box', BU_DATA)),
    'rel': (train, RELATIVE, ('--input_rel_box_dir', '/rel', RELATE)),
    'box_sizes.json': (train, BOXES, ('12 of 12 images have no size in .*box_sizes.json and .*talk.json: '
                                      '100, 101, 102, 103, 104, ...', BU_DATA)),
    'run/model.pth': (evaluation, (), ('run/model.pth', 'train.py')),
    'run/infos_tiny.pkl': (evaluation, (), ('run/infos_tiny.pkl', 'train.py')),
    'run/optimizer.pth': (train, RESUMED, ('run/optimizer.pth', 'train.py')),
    'coco.json': (evaluation, SCORED, ('coco.json', 'cocodataset.org')),
}


@pytest.mark.parametrize('name', MISSING)
def test_a_missing_file_is_named_with_the_command_that_makes_it(root, name):
    program, flags, patterns = MISSING[name]
    remove(root / name)
    expect(complaint(root, program, *flags), *patterns)


@pytest.mark.parametrize('program', [train, evaluation], ids=['train', 'eval'])
@pytest.mark.parametrize('folder, flags, flag, command', [
    ('att', (), 'features in --input_img_feat_dir', BU_DATA),
    ('vec', (), 'grid vectors in --input_grid_vec_dir', AREAS),
    ('box', BOXES, 'boxes in --input_box_dir', BU_DATA),
    ('rel', RELATIVE, 'relative boxes in --input_rel_box_dir', RELATE)])
def test_images_without_arrays_are_counted_and_named_before_training(
        root, program, folder, flags, flag, command):
    for path in (root / folder).iterdir():
        if path.stem in ('103', '110', '113', '114'):
            path.rename(path.with_suffix('.part'))  # as a killed writer leaves it
    count, ids = ('2 of 12', '103, 110') if program is train else ('2 of 4', '113, 114')
    expect(complaint(root, program, *flags), f'{count} images have no {flag} .*/{folder}: {ids}\n', command)


# File: (program, flags, the remedy in the message).  It is refused if it is cut in half, empty, garbage, or a folder.
READ = {
    'talk.json': (train, (), LABELS),
    'talk_label.h5': (train, (), LABELS),
    'att/103.npz': (train, (), 'take another copy'),
    'fc/103.npy': (train, MEANS, 'take another copy'),
    'vec/103.npy': (train, (), 'take another copy'),
    'box/103.npy': (train, BOXES, 'take another copy'),
    'rel/103.npy': (train, RELATIVE, 'take another copy'),
    'att.h5': (train, PACKED, 'pack it again'),
    'box_sizes.json': (train, BOXES, BU_DATA),
    'run/model.pth': (evaluation, (), 'model-best.pth'),
    'run/infos_tiny.pkl': (evaluation, (), 'train.py'),
    'run/optimizer.pth': (train, RESUMED, 'another copy'),
    'coco.json': (evaluation, SCORED, 'cocodataset.org'),
}


def half(path):
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


def garbage(path):
    path.write_bytes(b'\x00\x01 not what it should be \xff\xfe' * 9)


def folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize('damage', [half, lambda path: path.write_bytes(b''), garbage, folder],
                         ids=['half', 'empty', 'garbage', 'folder'])
@pytest.mark.parametrize('name', READ)
def test_a_damaged_file_is_named_with_a_remedy(root, name, damage):
    program, flags, remedy = READ[name]
    damage(root / name)
    message = complaint(root, program, *flags)
    if damage is folder:  # then naming the expected kind, or the images without files, is enough
        remedy = f'{remedy}|folder|images have no'
    expect(message, name.split('/')[-1], remedy)


FEATURES = np.ones((3, tiny.SIZE), np.float32)
SQUARES = np.tile(np.float32([1, 1, 5, 5]), (3, 1))
# Case: (the file of an image's array, another value for it, flags of train.py, patterns of the message).
WRONG_ARRAYS = {
    'a feature that is not a number': ('att/103.npz', FEATURES * np.nan, (), ('not finite', 'again')),
    'a feature too large': ('att/103.npz', FEATURES * np.float64(1e300), (), ('not finite', 'again')),
    'words for features': ('att/103.npz', np.array(['a']), (), ('numbers', 'again')),
    'an image without regions': ('att/103.npz', FEATURES[:0], (), ('no regions', BU_DATA)),
    'features in one row': ('att/103.npz', FEATURES[0], (), (r'\(12,\)', BU_DATA)),
    'features of another size': ('att/103.npz', FEATURES[:, :7], (), ('7 numbers', '--img_feat_size is 12')),
    'more grid vectors than features': (
        'vec/103.npy', np.ones((9, 9)), (), ('has 9 rows', 'att/103.npz has', BU_DATA, AREAS)),
    'a mean feature of another size': (
        'fc/103.npy', np.ones(9), MEANS, ('have 9 numbers', '--img_feat_size is 12')),
    'a mean feature of each region': ('fc/103.npy', np.ones((3, 12)), MEANS, (r'\(3, 12\)', BU_DATA)),
    'a grid of another size': ('vec/103.npy', np.ones((3, 16)), (),
                               (r'\(3, 16\)', '--input_grid_vec_dir', '_vec_9 --num_grids 9')),
    'fewer boxes than features': (
        'box/103.npy', SQUARES[:1], BOXES, ('has 1 rows', 'att/103.npz has', BU_DATA)),
    'no boxes': ('box/103.npy', SQUARES[:0], BOXES, ('no box',)),
    'a box upside down': ('box/103.npy', SQUARES * [1, 9, 1, 1], BOXES, ('ends before it starts', r'9\.0')),
    'boxes of five numbers': ('box/103.npy', np.ones((3, 5)), BOXES, (r'\(3, 5\)',)),
    'relative boxes for pixels': (
        'box/103.npy', SQUARES / 9, BOXES, ('not pixels', '--input_rel_box_dir', BU_DATA)),
    'pixels for relative boxes': (
        'rel/103.npy', SQUARES, RELATIVE, ('not relative', '--input_box_dir', RELATE)),
}


@pytest.mark.parametrize('case', WRONG_ARRAYS)
def test_an_array_that_does_not_fit_is_named(root, case):
    name, value, flags, patterns = WRONG_ARRAYS[case]
    array(name, value)(root)
    expect(complaint(root, train, *flags), name, *patterns)


def labels(name, place=None, value=None):
    """Set an entry of a data set in the label file; without `place`, delete the data set."""
    def damage(root):
        with h5py.File(root / 'talk_label.h5', 'r+') as file:
            array = file[name][:]
            del file[name]
            if place is not None:
                array = array.astype(np.float64 if isinstance(value, float) else np.int64)
                array[place] = value
                file[name] = array
    return damage


def fewer_rows(root):
    with h5py.File(root / 'talk_label.h5', 'r+') as file:
        rows = file['label_end_ix'][:-1]
        del file['label_end_ix']
        file['label_end_ix'] = rows


# Case: (the damage to the files of prepro_labels.py, patterns of the message besides the command).
WRONG_LABELS = {
    'captions before the first': (labels('label_start_ix', 3, 0), ('talk_label.h5', 'rows 1 to 80')),
    'captions behind the last': (labels('label_end_ix', 3, 81), ('talk_label.h5', 'rows 1 to 80')),
    'a word beyond the vocabulary': (labels('labels', (7, 0), 10), ('word 10 .* 9 words',)),
    'a negative word': (labels('labels', (7, 0), -1), ('word -1 ',)),
    'a caption without words': (labels('labels', 7, 0), ('caption 8 has no words',)),
    'words behind the end': (labels('labels', (7, slice(1, 4)), [0, 3, 0]), ('caption 8 .*after its end',)),
    'a label file without labels': (labels('labels'), ('talk_label.h5', 'labels')),
    'labels that are not indices': (labels('labels', (0, 0), 1.5), ('talk_label.h5', 'word indices')),
    'labels of other images': (fewer_rows, ('talk_label.h5', '15 images|16 images')),
    'an image without captions': (
        labels('label_end_ix', 3, 15), ('1 of 12 images have no caption in --input_label_h5 .*: 103\n',)),
    'no images': (talk('images'), ('talk.json', 'no list of images')),
    'no vocabulary': (talk('ix_to_word'), ('talk.json', 'ix_to_word')),
    'a gap in the vocabulary': (talk('ix_to_word', '4'), ('talk.json', 'from 1')),
    'an image without an id': (talk('images', 5, 'id'), ('talk.json', r'images\[5\]', 'id')),
    'an image without a split': (talk('images', 5, 'split'), ('talk.json', r'images\[5\]', 'split')),
    'an id twice': (
        talk('images', 5, 'id', value=103), ('talk.json', r'images\[5\] has the id 103 of images\[3\]')),
    'an id beyond all numbers': (talk('images', 5, 'id', value=2 ** 63), ('talk.json', r'images\[5\]')),
    'captions that are no texts': (
        talk('images', 5, 'captions', value=['a', 3]), ('talk.json', r'captions of images\[5\]')),
    'captions in one text': (
        talk('images', 5, 'captions', value='a dog'), ('talk.json', r'captions of images\[5\]')),
    'a number of more digits than are read': (
        lambda root: (root / 'talk.json').write_text('9' * 5000), ('talk.json', 'not a valid JSON file')),
    'a list': (lambda root: (root / 'talk.json').write_text('[1]'), ('talk.json', 'no list of images')),
}


@pytest.mark.parametrize('case', WRONG_LABELS)
def test_labels_that_do_not_fit_are_named_with_the_command_that_makes_them(root, case):
    damage, patterns = WRONG_LABELS[case]
    damage(root)
    expect(complaint(root, train), LABELS, *patterns)


def packed(change):
    """Edit the packed features."""
    def damage(root):
        with h5py.File(root / 'att.h5', 'r+') as file:
            change(file)
    return damage


def spoil(file):
    file['att/rows'][0, 0] = np.nan


def replace(file, name, value):
    del file[name]
    file[name] = value


def shorten(file):
    rows = file['att/rows'][:-1]
    del file['att/rows']
    file['att/rows'] = rows


# Case: (the damage elsewhere, flags of train.py, patterns of the message).
WRONG = {
    'an archive without feat': (
        lambda root: np.savez(root / 'att/103.npz', other=FEATURES), (),
        ('att/103.npz', 'named feat', 'again')),
    'a size that is none': (
        json_file('box_sizes.json', ['103'], [640, 0]), BOXES, ('box_sizes.json', 'image 103', '640, 0')),
    'packed rows that are missing': (
        packed(shorten), PACKED, ('att.h5', 'lacks rows of its 16 images', 'again')),
    'a packed file of another kind': (
        packed(lambda file: file.move('att', 'box')), PACKED, ('att.h5', 'of kind att', 'again')),
    'an image twice in a packed file': (
        packed(lambda file: file['ids'].write_direct(np.int64([100, *range(100, 115)]))), PACKED,
        ('att.h5', 'again')),
    'packed features of words': (packed(lambda file: replace(file, 'att/rows', np.array([b'a'] * 57))), PACKED,
                                 ('att.h5', 'does not hold numbers', 'again')),
    'packed offsets that are not whole numbers': (
        packed(lambda file: replace(file, 'att/offsets', file['att/offsets'][:] * 1.0)), PACKED,
        ('att.h5', 'att/offsets is float64', 'again')),
    'packed features that are not numbers': (
        packed(spoil), PACKED, ('att.h5', 'att of 100', 'not finite', 'again')),
    'no image to validate on': (
        resplit('test', slice(9, 12)), (), ('talk.json', 'val split', 'restval, test, train')),
}


@pytest.mark.parametrize('case', WRONG)
def test_data_that_do_not_fit_are_named(root, case):
    damage, flags, patterns = WRONG[case]
    damage(root)
    expect(complaint(root, train, *flags), *patterns)


def test_boxes_outside_the_image_or_without_area_can_be_trained_on(root):
    odd = np.tile(np.float32([[900, 900, 950, 950], [3, 3, 3, 3], [-9, -9, -1, -1], [2, 2, 900, 2]]), (2, 1))
    for path in (root / 'box').iterdir():
        np.save(path, odd[:len(np.load(path))])
    assert not tiny.run(train, tiny.train_flags(root, root / 'made', '--max_epochs', 1, *NO_GRIDS,
                                              '--input_box_dir', root / 'box'))


@pytest.mark.parametrize('name, program, flags', [
    ('run/model.pth', evaluation, ()), ('run/infos_tiny.pkl', evaluation, ()),
    ('run/optimizer.pth', train, RESUMED), ('att/113.npz', evaluation, ()), ('vec/113.npy', evaluation, ())])
@pytest.mark.parametrize('packaged', [True, False], ids=['in its package', 'as a bare pickle'])
def test_code_hidden_in_a_file_is_not_run(root, name, program, flags, packaged):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(root / 'sprung'),)
    path = root / name
    if not packaged or path.suffix == '.pkl':
        path.write_bytes(pickle.dumps({'opt': Trap(), 'vocab': {}}))
    elif path.suffix == '.pth':
        torch.save({'output.bias': Trap()}, path)
    else:
        trapped = np.array([Trap()], dtype=object)
        np.savez(path, feat=trapped) if path.suffix == '.npz' else np.save(path, trapped)
    expect(complaint(root, program, *flags), name)
    assert not (root / 'sprung').exists()


def read_packed(path):
    """All arrays of a packed file."""
    source = open_reader(path, 'att', 'input_img_feat_dir')
    return [source.read(image_id) for image_id in source.ids()]


@pytest.mark.parametrize('name, read', [
    ('att/103.npz', read_array), ('vec/103.npy', read_array), ('att/103.npz', read_shape),
    ('vec/103.npy', read_shape), ('att.h5', read_packed), ('run/model.pth', run_folder.read_tensors),
    ('run/infos_tiny.pkl', run_folder.read_infos), ('talk_label.h5', lambda path: Labels(path, 16, 9))])
def test_bytes_damaged_anywhere_give_values_or_a_data_error(root, name, read):
    content, random = (root / name).read_bytes(), np.random.default_rng(0)
    for _ in range(100):
        damaged = bytearray(content)
        for place in random.integers(0, len(content), random.integers(1, 9)):
            damaged[place] = random.integers(0, 256)
        (root / name).write_bytes(damaged)
        try:
            read(str(root / name))
        except DataError as error:
            assert name in str(error)


@pytest.mark.parametrize('form', ['PNG', 'JPEG', 'GIF', 'TIFF'])
def test_a_truncated_picture_is_refused(tmp_path, form):
    path = tmp_path / f'picture.{form.lower()}'
    networks.photo(0).save(path, form)
    content = path.read_bytes()
    for damaged in (content[:len(content) // 2], content[:40]):
        path.write_bytes(damaged)
        for read in (read_rgb, lambda path: read_upright(path, 500)):
            with pytest.raises(DataError, match=path.name):
                read(str(path))


def test_a_damaged_picture_is_refused_or_the_same_for_both_readers(tmp_path):
    path, refused = tmp_path / 'picture.png', 0
    networks.photo(0).save(path)
    content = path.read_bytes()
    for place in range(33, len(content) - 20, 41):
        path.write_bytes(content[:place] + b'\xff' * 8 + content[place + 8:])
        seen = []
        for read in (read_rgb, lambda path: read_upright(path, 500)[0]):
            try:
                seen.append(read(str(path)))
            except DataError:
                seen.append(None)
        refused += seen[0] is None
        assert (seen[0] is None) == (seen[1] is None) and np.array_equal(*seen)
    assert refused


def test_paths_and_words_in_any_script_work(root, tmp_path):
    moved = shutil.move(root, tmp_path / 'données 数据 ö')
    content = json.loads((moved / 'talk.json').read_text())
    content['ix_to_word']['1'] = 'größe'
    for image in content['images']:
        image['captions'] = [f' {caption} '.replace(' a ', ' Größe ') for caption in image['captions']]
    (moved / 'talk.json').write_text(json.dumps(content, ensure_ascii=False), encoding='utf-8')
    tiny.run(train, tiny.train_flags(moved, moved / 'läufe', '--max_epochs', 1, '--id', 'tiny'))
    tiny.run(evaluation, tiny.eval_flags(moved, moved / 'läufe', '--num_workers', 1))
    assert len(json.loads((tmp_path / 'here/vis/vis.json').read_text())) == 4


def test_commands_report_bad_input_in_a_few_lines_without_a_traceback(root):
    for image_id in (103, 113):
        array(f'att/{image_id}.npz', FEATURES * np.nan)(root)
    # Errors of workers arrive complete, and the workers end silently.
    commands = [('train.py', *tiny.train_flags(root, root / 'made', '--num_workers', 2)),
                ('eval.py', *tiny.eval_flags(root, root / 'run', '--num_workers', 2)),
                ('eval.py', *tiny.eval_flags(root, root / 'run', '--num_grids', 256))]
    started = [subprocess.Popen([sys.executable, *map(str, command)], cwd=ROOT, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE) for command in commands]
    errors = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [1, 1, 2]
    errors[1] = errors[1].replace('captioning: 0 of 4 images, 0.0 a second\n', '')  # progress
    for text in errors:
        assert 1 <= text.count('\n') <= 3 and 'Traceback' not in text
    assert errors[0].startswith('train.py: ') and '103.npz' in errors[0] and 'again' in errors[0]
    assert errors[1].startswith('eval.py: ') and '113.npz' in errors[1] and 'again' in errors[1]
    assert errors[2].startswith('eval.py: --num_grids 256 contradicts') and 'num_grids 9' in errors[2]
    assert not list((root / 'made').glob('*.pth'))
