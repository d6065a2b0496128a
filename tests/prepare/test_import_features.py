"""Features of other programs become the project's, and whoever meets them names the form and the command."""

import json
import os
import re
import shlex

import h5py
import numpy as np
import pytest
from PIL import Image

import prepro_areas
import train
from misc.cli import DataError
from misc.dataset.features import open_reader
from misc.dataset.forms import form_of
from misc.dataset.grids import image_sizes
from misc.dataset.packed import kinds_in, packed_sizes
from misc.prepare import workers
from scripts import import_features, make_bu_data, pack_features, prepro_bbox_relative_coords
from tests.helpers import foreign, tiny

HEADER = 'features\timg_id\tname\tnum_boxes\timage_h\tboxes\timage_w'
# Form: (the name of the file or folder, what writes it, flags, the kinds of arrays that there are).
BOTH = ('att', 'box')
FORMS = {
    'bottom-up-attention.pytorch': ('theirs', foreign.files(str, foreign.bottom_up), {}, BOTH),
    "files of COCO's names": ('theirs', foreign.files(foreign.coco_name, foreign.bottom_up), {}, BOTH),
    'names with the ending of a picture': (
        'theirs', foreign.files(lambda number: f'{foreign.coco_name(number)}.jpg', foreign.bottom_up), {}, BOTH),
    'subfolders': ('theirs', foreign.files(lambda number: f'part{number % 2}/{number}', foreign.bottom_up), {}, BOTH),
    'a region in each column': ('theirs', foreign.files(str, foreign.columns), {}, BOTH),
    'padded': ('theirs', foreign.files(str, foreign.padded), {}, BOTH),
    'a leading axis': ('theirs', foreign.files(str, foreign.batch_of_one), {}, BOTH),
    'other names, other types': ('theirs', foreign.files(str, foreign.halves), {}, BOTH),
    'x, y, width, height': ('theirs', foreign.files(str, foreign.side_lengths), {'boxes': 'xywh'}, BOTH),
    'relative boxes': ('theirs', foreign.files(str, foreign.relative), {}, BOTH),
    'relative boxes without sizes': ('theirs', foreign.files(str, foreign.without_size), {}, ('att', 'rel')),
    'npy files': ('theirs', foreign.npy_files, {}, ('att',)),
    'M2': ('theirs.hdf5', foreign.flat(), {'input_json': 'sizes.json'}, BOTH),
    'M2, COCO names': ('theirs.hdf5', foreign.flat(name=foreign.coco_name), {'input_json': 'sizes.json'}, BOTH),
    'DLCT': ('theirs.hdf5', foreign.flat(lambda width, height: [[height, width]]), {}, BOTH),
    'DLCT, width first': ('theirs.hdf5', foreign.flat(lambda width, height: [width, height]), {}, BOTH),
    'groups': ('theirs.h5', foreign.groups, {}, BOTH),
    'a data set for each image': ('theirs.h5', foreign.bare, {}, ('att',)),
    'one table': ('theirs.h5', foreign.table, {}, BOTH),
    'two files': ('theirs.hdf5', foreign.two_files, {}, BOTH),
    'the archive of another width': ('theirs.tsv', foreign.lines(foreign.archive_cells), {}, BOTH),
    'ViLBERT': ('theirs.tsv', foreign.lines(
        lambda number, image: [*foreign.archive_cells(number, image), foreign.base64_of(image[0])]), {}, BOTH),
    'LXMERT': ('theirs.tsv', foreign.lines(foreign.lxmert_cells), {}, BOTH),
    'a header': ('theirs.tsv', foreign.lines(foreign.ordered_cells, HEADER), {}, BOTH),
    'a header with a byte order mark': (
        'theirs.tsv', foreign.lines(foreign.ordered_cells, HEADER, b'\xef\xbb\xbf'), {}, BOTH),
    'VinVL with sizes': ('theirs.tsv', foreign.lines(foreign.vinvl_cells), {'input_json': 'sizes.json'}, BOTH),
    'VinVL': ('theirs.tsv', foreign.lines(foreign.vinvl_cells), {}, ('att', 'rel')),
    'VinVL for captioning': ('theirs.tsv', foreign.lines(foreign.vinvl_object), {}, ('att', 'rel')),
    "VinVL's predictions": ('theirs.tsv', foreign.lines(foreign.vinvl_predictions), {}, BOTH)}
ENDS = {'att': 'att', 'box': 'box', 'rel': 'box_relative'}


@pytest.fixture
def images():
    """Regions of six images."""
    return foreign.made_up()


@pytest.fixture
def here(tmp_path, monkeypatch, images):
    """The current folder, which holds a labels file with the image sizes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'sizes.json').write_text(json.dumps({'images': [
        {'id': image_id, 'file_path': f'val2014/{image_id}.jpg', 'width': size[0], 'height': size[1]}
        for image_id, (_, _, size) in images.items()]}))
    return tmp_path


def imported(run_script, written, path, **flags):
    """Run the script; returns (status, messages)."""
    given = [str(one) for one in (written or [path])]
    words = {'num_workers': 1, **flags}
    if not {'output_dir', 'output_file'} & set(words):
        words['output_dir'] = 'mine'
    plain = import_features.open_sources
    with pytest.MonkeyPatch.context() as patch:   # `run_script` gives a flag one value
        patch.setattr(import_features, 'open_sources', lambda _, name: plain(given, name))
        return run_script(import_features, input=given[0], **words)


def check(images, kinds, place, dtype=np.float32):
    """Fail unless folders `mine_...`, or a packed file, have the arrays and sizes of the images."""
    for kind in kinds:
        reader = open_reader(place or f'mine_{ENDS[kind]}', kind, '')
        assert reader.ids() == set(map(str, images))
        for image_id, (features, boxes, size) in images.items():
            found = reader.read(image_id)
            expected = {'att': features, 'box': boxes, 'rel': boxes / np.float32([*size, *size])}[kind]
            assert found.dtype == np.float32 and found.shape == expected.shape
            np.testing.assert_allclose(found, expected, rtol=1e-3 if dtype == np.float16 else 2e-6, atol=2e-4)
    if 'box' in kinds:
        sizes = packed_sizes(place) if place else image_sizes('mine_box')
        assert sizes == {str(image_id): size for image_id, (_, _, size) in images.items()}


@pytest.mark.parametrize('form', FORMS)
def test_each_form_becomes_the_arrays_of_the_project(form, run_script, here, images):
    name, write, flags, kinds = FORMS[form]
    written = write(here / name, images)
    is_half = form == 'other names, other types'
    if is_half:
        images = {key: (image[0].astype(np.float16).astype(np.float32), *image[1:]) for key, image in images.items()}
    status, said = imported(run_script, written, name, **flags)
    assert status == 0 and 'warning' not in said, said
    check(images, kinds, None)
    means = open_reader('mine_fc', 'fc', '')
    np.testing.assert_allclose(means.read(1001), images[1001][0].mean(0), rtol=1e-5)
    assert f'regions of {foreign.WIDTH} numbers' in said and '--input_img_feat_dir mine_att' in said
    status, said = imported(run_script, written, name, **flags, output_file='mine.h5')
    assert status == 0, said
    assert kinds_in('mine.h5') == sorted(kinds)
    check(images, kinds, 'mine.h5')
    if not written:   # whoever meets the form names the command
        assert re.search(r'features|TSV', form_of(name))
        with pytest.raises(DataError, match=rf'python scripts/import_features.py --input {name} --output_dir'):
            open_reader(name, 'att', 'input_img_feat_dir')


def test_the_archive_is_imported_as_make_bu_data_converts_it(run_script, minicoco, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    archive = minicoco / 'bu_data' / 'trainval'
    assert run_script(make_bu_data, downloaded_feats=archive, output_dir='bu', num_workers=1)[0] == 0
    assert imported(run_script, None, archive)[0] == 0
    for kind, ending in (('att', 'npz'), ('fc', 'npy'), ('box', 'npy')):
        paths = sorted((tmp_path / f'bu_{kind}').iterdir())
        assert len(paths) == 99 and all(path.suffix == f'.{ending}' for path in paths)
        one, other = (open_reader(f'{name}_{kind}', kind, '') for name in ('bu', 'mine'))
        assert all(np.array_equal(one.read(image_id), other.read(image_id)) for image_id in one.ids() | other.ids())
    assert json.loads((tmp_path / 'bu_box_sizes.json').read_text()) == json.loads(
        (tmp_path / 'mine_box_sizes.json').read_text())


def test_forms_of_the_project_are_not_taken_for_others(corpus):
    for name, kind in (('att', 'att'), ('fc', 'fc'), ('box', 'box'), ('rel', 'rel'), ('vec', 'grid')):
        assert form_of(corpus / name, kind) == ''
    for name in ('talk.json', 'talk_label.h5', 'talk-idxs.p', 'none'):
        assert form_of(corpus / name) == ''


@pytest.mark.parametrize('name, write', [
    ('theirs', foreign.files(str, foreign.bottom_up)), ('their own', foreign.files(str, foreign.halves)),
    ('theirs.hdf5', foreign.flat()), ('theirs.tsv', foreign.lines(foreign.vinvl_cells)),
    ('theirs', foreign.npy_files)],
    ids=['npz', 'other npz', 'HDF5', 'TSV', 'npy'])
def test_every_reader_names_the_form_and_the_command_and_never_advises_to_remove_it(
        name, write, run_script, here, images, corpus):
    write(here / name, images)
    command = f'python scripts/import_features.py --input {shlex.quote(name)} --output_dir'
    said = []
    with pytest.raises(DataError) as caught:
        tiny.run(train, tiny.train_flags(corpus, here / 'run', '--input_img_feat_dir', name))
    said.append(str(caught.value))
    said.append(run_script(make_bu_data, downloaded_feats=name, output_dir='bu')[1])
    said.append(run_script(pack_features, input_img_feat_dir=name, output_file='all.h5')[1])
    if write is not foreign.npy_files:   # which boxes are, too
        said.append(run_script(prepro_areas, input_dir=name, output_dir='vec')[1])
        said.append(run_script(prepro_bbox_relative_coords, input_box_dir=name, output_dir='rel')[1])
    for message in said:
        assert command in message and 'remove' not in message and len(message.splitlines()) <= 3
    assert sorted(os.listdir()) == sorted([name, 'sizes.json'])


def test_a_single_file_of_another_program_in_a_folder_of_the_project_is_named_too(root):
    np.savez(root / 'att' / '103.npz', x=np.ones((2, 3)), bbox=np.ones((2, 4)))
    with pytest.raises(DataError, match=r'(?s)103.npz has no array named feat.*import_features.py') as caught:
        tiny.run(train, tiny.train_flags(root, root / 'made', '--input_box_dir', root / 'box'))
    assert 'remove' not in str(caught.value)


def test_sizes_come_from_the_images_where_nothing_else_says_them(run_script, here, images):
    foreign.flat()(here / 'theirs.hdf5', images)
    status, said = imported(run_script, None, 'theirs.hdf5')
    assert status == 0 and 'warning: the size of 6 of 6 images is not known' in said and '--images_root' in said
    assert not image_sizes('mine_box')
    records = [{'cocoid': image_id, 'filepath': 'val2014', 'filename': f'{image_id}.jpg'} for image_id in images]
    (here / 'split.json').write_text(json.dumps({'images': records}))
    (here / 'pictures' / 'val2014').mkdir(parents=True)
    for image_id, (_, _, size) in images.items():
        Image.new('RGB', size).save(here / 'pictures' / 'val2014' / f'{image_id}.jpg')
    status, said = imported(run_script, None, 'theirs.hdf5', input_json='split.json', images_root='pictures')
    assert status == 0 and 'warning' not in said
    check(images, BOTH, None)


def test_files_named_after_pictures_get_the_ids_of_the_data_set(run_script, here, images):
    """As Flickr30k's, whose names are numbers, too."""
    foreign.files(lambda number: str(10 ** 9 + number), foreign.bottom_up)(here / 'theirs', images)
    foreign.files(lambda number: 'one more', foreign.bottom_up)(here / 'theirs', {5: images[1000]})
    records = [{'imgid': position, 'filename': f'{10 ** 9 + image_id}.jpg', 'split': 'train'}
               for position, image_id in enumerate([*images, 77])]
    (here / 'split.json').write_text(json.dumps({'images': records}))
    status, said = imported(run_script, None, 'theirs', input_json='split.json')
    assert status == 0 and '1 of 7 images are not in split.json and left out: one more' in said
    assert '1 of 7 images of split.json have no features here: 6' in said
    check(dict(enumerate(images.values())), BOTH, None)
    for path in (here / 'theirs').glob('1*'):
        path.unlink()
    status, said = imported(run_script, None, 'theirs')
    assert status == 1 and 'named by a whole number' in said and '--input_json' in said


def test_broken_images_are_named_and_the_others_imported(run_script, here, images):
    broken = dict(images)
    features, boxes, size = broken[1000]
    broken[1000] = features * np.nan, boxes, size
    broken[1001] = features, boxes[:1], size
    broken[1002] = np.ones((3, 9), np.float32), boxes[[0, 0, 0]], size
    broken[1003] = features, boxes * 3, size
    broken[1004] = features, boxes[:, ::-1], size
    broken.update({number: foreign.made_up(9)[1007] for number in range(2000, 2006)})
    foreign.files(str, foreign.bottom_up)(here / 'theirs', broken)
    (here / 'theirs' / '3000.npz').write_bytes((here / 'theirs' / '2000.npz').read_bytes()[:900])
    np.savez(here / 'theirs' / '3001.npz', y=1)
    (here / 'theirs' / 'COCO_x_000000001005.npz').write_bytes(b'')
    for place in ({}, {'output_file': 'mine.h5'}):
        status, said = imported(run_script, None, 'theirs', **place)
        assert status == 1
        for words in ('1000.npz holds values that are not finite', r'1001.npz: features of shape .* and 1 boxes',
                      '1002.npz: features have 9 numbers, others 24', '1003.npz: boxes reach to .* scaled image',
                      '1004.npz: box 0 ends before it starts', '3000.npz cannot be read',
                      '3001.npz has no array of features .it has y.; name it with --features',
                      '000000001005.npz: the same image as 1005.npz'):
            assert re.search(words, said.split('the others are written')[1]), words
        assert 'remove' not in said
        reader = open_reader(place.get('output_file', 'mine_box'), 'box', '')
        assert reader.ids() == {'1005', *map(str, range(2000, 2006))}


def test_what_cannot_be_understood_is_refused_with_the_way_out(run_script, here, images):
    foreign.files(str, foreign.side_lengths)(here / 'sides', {
        number: (features, boxes + np.float32([300, 200, 310, 210]), size)
        for number, (features, boxes, size) in images.items()})
    (here / 'empty').mkdir()
    (here / 'notes.txt').write_text('nothing\n')
    with h5py.File(here / 'other.h5', 'w') as file:
        file['words'] = np.arange(3)
    for path, words in (('sides', '--boxes xywh'), ('empty', 'no .npz, .npy, .hdf5 or .tsv'),
                        ('none', 'no file or folder'),
                        ('notes.txt', 'no TSV file'), ('other.h5', 'it has words'),
                        ('sides/1000.npz', 'name its folder')):
        status, said = imported(run_script, None, path)
        assert status in (1, 2) and words in said and len(said.splitlines()) <= 3, said
    assert run_script(import_features, input='sides', output_dir='a', output_file='b')[0] == 2
    assert run_script(import_features, input='sides', output_dir='a', images_root='b')[0] == 2


@pytest.mark.parametrize('name, write', [
    ('theirs', foreign.files(str, foreign.bottom_up)), ('theirs.tsv', foreign.lines(foreign.archive_cells)),
    ('theirs.hdf5', foreign.flat(lambda width, height: [height, width]))], ids=['npz', 'TSV', 'HDF5'])
@pytest.mark.parametrize('place', ['output_dir', 'output_file'])
def test_an_interrupted_import_goes_on_and_imports_what_is_new_or_changed(
        name, write, place, run_script, here, images, monkeypatch):
    images = foreign.made_up(40)
    write(here / name, images)
    target = {place: 'mine.h5' if place == 'output_file' else 'mine'}
    packed = target.get('output_file')
    plain, read = import_features.ForeignReader.read, []

    def counted(reader, image_id):
        if len(read) == 90 and place == 'output_dir':
            raise KeyboardInterrupt
        read.append(str(image_id))
        return plain(reader, image_id)
    if place == 'output_dir':
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(import_features.ForeignReader, 'read', counted)
            imported(run_script, None, name, **target)
        done = {path.stem: path.stat().st_mtime_ns for path in here.glob('mine_box/*.npy')}
        assert 0 < len(done) < 40
    assert imported(run_script, None, name, **target)[0] == 0
    check(images, BOTH, packed)
    if place == 'output_dir':
        assert {image_id: (here / f'mine_box/{image_id}.npy').stat().st_mtime_ns for image_id in done} == done
    grown = {**images, **{number + 500: image for number, image in foreign.made_up(3, seed=1).items()}}
    grown[1007] = foreign.made_up(1, seed=2)[1000]
    write(here / name, grown)
    status, said = imported(run_script, None, name, **target)
    assert status == 0, said
    check(grown, BOTH, packed)
    status, said = imported(run_script, None, name, **target, features='other')
    assert status in (1, 2) and 'Traceback' not in said


def test_several_processes_import_the_same(run_script, here, monkeypatch):
    images = foreign.made_up(200)
    monkeypatch.setattr(workers, 'CHUNK', 8)
    foreign.flat(lambda width, height: [height, width])(here / 'theirs.hdf5', images)
    assert imported(run_script, None, 'theirs.hdf5', num_workers=2)[0] == 0
    check(images, BOTH, None)


def test_grid_features_can_be_chosen_and_half_precision_stored(run_script, here, images):
    foreign.flat()(here / 'theirs.hdf5', images)
    status, said = imported(run_script, None, 'theirs.hdf5', features='grids', output_file='mine.h5', dtype='float16')
    assert status == 1 and 'features of shape (49, 24), and' in said   # the boxes are those of the regions
    with h5py.File(here / 'grids.hdf5', 'w') as file:
        for image_id in images:
            file[f'{image_id}_grids'] = np.full((49, 24), image_id / 3, np.float32)
    status, said = imported(run_script, None, 'grids.hdf5', output_file='mine.h5', dtype='float16')
    assert status == 0 and '--caption_model transformer' in said
    reader = open_reader('mine.h5', 'att', '')
    assert reader.read(1001).shape == (49, 24) and reader.read(1001)[0, 0] == np.float16(1001 / 3)


def test_imported_features_train_a_model(run_script, corpus, here):
    features, boxes = (open_reader(str(corpus / name), kind, '') for name, kind in (('att', 'att'), ('box', 'box')))
    sizes = image_sizes(str(corpus / 'box'))
    foreign.files(str, foreign.bottom_up)(here / 'theirs', {
        int(image_id): (features.read(image_id), boxes.read(image_id), tuple(map(int, sizes[image_id])))
        for image_id in features.ids()})
    assert imported(run_script, None, 'theirs')[0] == 0
    runs = []
    for number, (att, box) in enumerate(((corpus / 'att', corpus / 'box'), ('mine_att', 'mine_box'))):
        tiny.run(train, tiny.train_flags(corpus, here / f'run{number}', '--max_epochs', 1, '--input_grid_vec_dir', '',
                                         '--input_img_feat_dir', att, '--input_box_dir', box))
        runs.append((here / f'run{number}' / 'validations.jsonl').read_text().split('"seconds"')[0])
    assert runs[0] == runs[1]
