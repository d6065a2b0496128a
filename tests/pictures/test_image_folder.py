"""Captioning the pictures of a folder: `eval.py --image_folder`."""

import json
import os
import shutil
import signal
import tempfile

import pytest
import torch
from PIL import Image

import eval as evaluation
import train
from misc.cli import DataError, UsageError
from misc.dataset.array_files import FolderReader
from misc.dataset.recipe import read_recipe
from misc.pictures.finder import Finder
from misc.run import folder as run_folder
from scripts import extract_regions
from tests.helpers import several, tiny
from tests.helpers.networks import photo, save_weights
from tests.helpers.pages import read_page
from tests.helpers.pictures import BOXED, train_run

TEST_ROWS = range(12, 16)


@pytest.fixture
def own(pictures_root, tmp_path, monkeypatch, networks):
    """The corpus; the folder `pictures` holds those of its test split, and programs run in an empty folder."""
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    (tmp_path / 'pictures' / 'deep').mkdir(parents=True)
    for row in TEST_ROWS:
        folder = tmp_path / 'pictures' / ('deep' if row > 13 else '')
        shutil.copy(pictures_root / 'images' / 'val2014' / f'{100 + row}.jpg', folder)
    return pictures_root


def caption_flags(folder, place, *flags):
    """The flags that caption the pictures at `place` with the run in `folder`."""
    return ['--model', folder / 'model.pth', '--infos_path', folder / 'infos_tiny.pkl', '--image_folder', place,
            '--device', 'cpu', '--num_workers', 0, *flags]


def caption(folder, place, *flags):
    """Caption the pictures at `place` with the run in `folder` -> (exit status, vis/vis.json)."""
    status = tiny.run(evaluation, caption_flags(folder, place, *flags))
    with open('vis/vis.json', encoding='utf-8') as file:
        return status, json.load(file)


def captions_of(entries):
    return [(entry['caption'], round(entry['log_prob'], 3)) for entry in entries]


def test_pictures_of_a_folder_get_the_captions_of_the_same_images_in_the_data_set(own, tmp_path, capsys):
    status, entries = caption(own / 'run', tmp_path / 'pictures')
    shown = capsys.readouterr().out
    assert status == 0
    assert [(entry['image_id'], entry['file_path']) for entry in entries] == [
        (1, '112.jpg'), (2, '113.jpg'), (3, 'deep/114.jpg'), (4, 'deep/115.jpg')]
    assert f'deep/114.jpg: {entries[2]["caption"]}\n' in shown
    tiny.run(evaluation, tiny.eval_flags(own, own / 'run', *BOXED, '--input_img_feat_dir', own / 'grid_att',
                                         '--input_box_dir', own / 'grid_box'))
    with open('vis/vis.json', encoding='utf-8') as file:
        expected = json.load(file)
    assert [entry['image_id'] for entry in expected] == [100 + row for row in TEST_ROWS]
    assert captions_of(entries) == captions_of(expected) and len(set(captions_of(entries))) > 1


def test_a_single_picture_the_first_few_and_several_captions_of_each(own, tmp_path):
    every = caption(own / 'run', tmp_path / 'pictures')[1]
    (alone,) = caption(own / 'run', tmp_path / 'pictures' / 'deep' / '115.jpg')[1]
    assert alone['file_path'] == '115.jpg' and captions_of([alone]) == captions_of(every[3:])
    few = caption(own / 'run', tmp_path / 'pictures', '--num_images', 2, '--sample_n', 2, '--dump_images', 1)[1]
    assert captions_of(few) == captions_of(every[:2]) and [len(entry['beams']) for entry in few] == [2, 2]
    listing, _ = read_page(tmp_path / 'here' / 'vis')
    assert listing['names'] == ['112.jpg', '113.jpg'] and listing['title'] == 'tiny: pictures'


def test_the_page_shows_a_rotated_picture_upright_like_its_regions(own, tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6   # a quarter turn
    photo(7, 64, 48).save(tmp_path / 'turned.jpg', exif=turned)
    caption(own / 'run', tmp_path / 'turned.jpg', '--dump_images', 1)
    listing, (image,) = read_page(tmp_path / 'here' / 'vis')
    assert listing['sizes'] == [[48, 64]] and image['regions'] == 4
    assert image['attention']['mean']['top'] and listing['references'] == [[]]


def test_the_page_of_a_split_orients_pictures_like_their_regions(own, tmp_path):
    images = tmp_path / 'images'
    shutil.copytree(own / 'images', images)
    turned = Image.Exif()
    turned[0x0112] = 6   # a quarter turn
    with Image.open(images / 'val2014' / '112.jpg') as image:
        stored = image.size
        image.save(images / 'val2014' / '112.jpg', exif=turned)
    for regions, folder, shown in ((read_recipe(own / 'grid_att'), own / 'run', stored[::-1]),
                                   (None, change_infos(own, tmp_path / 'elsewhere', regions=None), stored)):
        tiny.run(evaluation, tiny.eval_flags(
            own, folder, *BOXED, '--input_img_feat_dir', own / 'grid_att', '--input_box_dir', own / 'grid_box',
            '--dump_images', 1, '--image_root', images, '--num_images', 1))
        assert read_page(tmp_path / 'here' / 'vis')[0]['sizes'] == [list(shown)], regions


def test_every_model_family_and_an_ensemble_caption_pictures(own, tmp_path):
    runs = [own / 'run']
    for number, flags in enumerate((
            ('--caption_model', 'relation_transformer'), ('--enc_pos_type', 'box-coord'),
            ('--caption_model', 'show_tell', '--input_fc_feat_dir', own / 'grid_fc', *tiny.RECURRENT_FLAGS))):
        runs.append(tmp_path / f'run_{number}')
        train_run(own, runs[-1], '--max_epochs', 1, *flags)
        assert len(caption(runs[-1], tmp_path / 'pictures')[1]) == 4
    joined = caption(own / 'run', tmp_path / 'pictures', '--model', *[run / 'model.pth' for run in runs],
                     '--infos_path', *[run / 'infos_tiny.pkl' for run in runs])[1]
    assert len(joined) == 4 and captions_of(joined) != captions_of(caption(own / 'run', tmp_path / 'pictures')[1])


def test_pictures_that_cannot_be_read_are_named_at_the_end_and_the_others_captioned(own, tmp_path, capsys):
    (tmp_path / 'pictures' / '111.jpg').write_text('text')
    (tmp_path / 'pictures' / 'zero.png').touch()
    status, entries = caption(own / 'run', tmp_path / 'pictures')
    assert status == 1 and len(entries) == 4
    listed = capsys.readouterr().err.split('2 broken; the others are written:')[1]
    assert '111.jpg: not a readable' in listed and 'zero.png: not a readable image (the file is empty)' in listed
    with pytest.raises(DataError, match='none of the 1 pictures of .*zero.png can be read'):
        caption(own / 'run', tmp_path / 'pictures' / 'zero.png')
    (tmp_path / 'none').mkdir()
    with pytest.raises(DataError, match='holds no pictures'):
        caption(own / 'run', tmp_path / 'none')


def test_features_of_another_recipe_than_the_trainings_cause_a_warning(own, tmp_path, capsys):
    means = tmp_path / 'means'   # a model that reads nothing but mean features
    train_run(own, means, '--max_epochs', 1, '--caption_model', 'show_tell', '--input_fc_feat_dir',
              own / 'grid_fc', *tiny.RECURRENT_FLAGS)
    for kind, flag, run, more in (
            ('att', '--input_img_feat_dir', own / 'run', (*BOXED, '--input_box_dir', own / 'grid_box')),
            ('fc', '--input_fc_feat_dir', means, ())):
        shutil.copytree(own / f'grid_{kind}', tmp_path / f'other_{kind}')   # without the record beside it
        for features, expected in ((own / f'grid_{kind}', False), (tmp_path / f'other_{kind}', True)):
            capsys.readouterr()
            tiny.run(evaluation, tiny.eval_flags(own, run, *more, flag, features))
            assert ('trained on these features: 2 x 2 cells' in capsys.readouterr().err) is expected


def test_regions_are_kept_in_regions_dir_and_found_once(own, tmp_path, monkeypatch):
    seen, plain = [], Finder.__call__
    monkeypatch.setattr(Finder, '__call__', lambda self, pictures: (seen.append(len(pictures)),
                                                                    plain(self, pictures))[1])
    temporary = tmp_path / 'temporary'
    temporary.mkdir()
    monkeypatch.setattr('tempfile.tempdir', str(temporary))
    first = caption(own / 'run', tmp_path / 'pictures')[1]
    assert sum(seen) == 4 and not list(temporary.iterdir())
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL   # what tidies up is not there for ever
    flags = ('--regions_dir', tmp_path / 'kept' / 'mine')
    assert caption(own / 'run', tmp_path / 'pictures', *flags)[1] == first and sum(seen) == 8
    assert FolderReader(tmp_path / 'kept' / 'mine_att', 'att').ids() == {'1', '2', '3', '4'}
    photo(1).save(tmp_path / 'pictures' / 'aaa.png')
    later = caption(own / 'run', tmp_path / 'pictures', *flags)[1]
    # The new one is in a batch with two of its size, as it would have been from the start.
    assert sum(seen) == 8 + 3 and captions_of(later[:4]) == captions_of(first)
    assert [entry['image_id'] for entry in later] == [1, 2, 3, 4, 5]
    assert not tiny.run(extract_regions, [   # the command finds nothing to do either
        '--images_root', tmp_path / 'pictures', '--output_dir', tmp_path / 'kept' / 'mine', '--detector', 'grid',
        '--grid_size', 2, '--random_weights', 1, '--device', 'cpu']) and sum(seen) == 8 + 3


def test_with_cocos_list_a_results_file_for_its_test_server_is_written(
        own, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('PATH', '')  # without Java: quick
    listed = {'images': [{'id': number, 'file_name': f'{name}.jpg', 'width': 64, 'height': 48}
                         for number, name in ((9, 115), (581929, 112))]}
    path = tmp_path / 'image_info_test2014.json'
    path.write_text(json.dumps(listed))
    status, entries = caption(own / 'run', tmp_path / 'pictures', '--coco_json', path)
    with open('vis/captions_test2014_tiny_results.json', encoding='utf-8') as file:
        assert json.load(file) == [{'image_id': entry['image_id'], 'caption': entry['caption']}
                                   for entry in entries]
    said = capsys.readouterr().err
    assert status == 0 and [entry['image_id'] for entry in entries] == [9, 581929]
    assert 'wrote vis/captions_test2014_tiny_results.json' in said and '2 pictures of' in said
    listed['images'].append({'id': 3, 'file_name': 'missing.jpg'})
    path = path.rename(tmp_path / 'captions_val2014.json')
    path.write_text(json.dumps({**listed, 'annotations': [
        {'image_id': number, 'caption': 'a red dog'} for number in (9, 581929)]}))
    status, _ = caption(own / 'run', tmp_path / 'pictures', '--coco_json', path, '--language_eval', 1,
                        '--id', 'my')
    said = capsys.readouterr().err
    assert status == 1 and 'missing.jpg: there is no such file' in said and 'lists 3 images' in said
    with open('eval_results/my_pictures_val2014.json', encoding='utf-8') as file:
        assert len(json.load(file)['images']) == 2
    assert len(json.loads((tmp_path / 'here/vis/captions_val2014_my_results.json').read_text())) == 2
    for content, said in (({'images': [{'id': 3}]}, 'not a list of COCO'), (
            {'images': [{'id': 3, 'file_name': 'x.jpg'}]}, 'none of the 1 images .*such as x.jpg')):
        path.write_text(json.dumps(content))
        with pytest.raises(DataError, match=said):
            caption(own / 'run', tmp_path / 'pictures', '--coco_json', path)


def write_annotations(path, numbers_of):
    """A COCO annotation file with two captions of each picture, {file name: id}."""
    path.write_text(json.dumps({
        'images': [{'id': number, 'file_name': name} for name, number in numbers_of.items()],
        'annotations': [{'image_id': number, 'caption': text} for number in numbers_of.values()
                        for text in ('a red dog', 'a dog')]}))
    return path


def test_scores_of_pictures_have_a_file_of_their_own_that_names_no_temporary_folder(
        own, tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', '')  # without Java: quick
    tiny.run(evaluation, tiny.eval_flags(own, own / 'run', *BOXED, '--input_img_feat_dir', own / 'grid_att',
                                         '--input_box_dir', own / 'grid_box', '--language_eval', 1))
    results = tmp_path / 'here' / 'eval_results'
    split = (results / 'tiny_test.json').read_text()
    # A list named as a split is, too.
    listed = write_annotations(tmp_path / 'test.json', {'112.jpg': 7, '113.jpg': 8})
    for flags in ((), ('--regions_dir', tmp_path / 'kept')):
        caption(own / 'run', tmp_path / 'pictures', '--coco_json', listed, '--language_eval', 1, *flags)
        options = json.loads((results / 'tiny_pictures_test.json').read_text())['options']
        assert ('input_box_dir' in options) == ('input_img_feat_dir' in options) == bool(flags)
        assert options['image_folder'] == str(tmp_path / 'pictures')
    assert options['input_box_dir'] == f'{tmp_path}/kept_box'
    assert (results / 'tiny_test.json').read_text() == split


def test_references_and_models_are_checked_before_regions_are_found(own, tmp_path, monkeypatch):
    monkeypatch.setattr(Finder, '__call__', lambda self, pictures: pytest.fail('regions were searched'))
    listed = tmp_path / 'image_info_test2014.json'
    listed.write_text(json.dumps({'images': [{'id': 7, 'file_name': '112.jpg'}]}))
    flags = ('--coco_json', listed, '--language_eval', 1)
    with pytest.raises(DataError, match='not a COCO caption-annotation file'):
        caption(own / 'run', tmp_path / 'pictures', *flags)
    write_annotations(listed, {'112.jpg': 7, '113.jpg': 8})
    content = json.loads(listed.read_text())
    listed.write_text(json.dumps({**content, 'annotations': content['annotations'][:2]}))
    with pytest.raises(DataError, match='1 of 2 images have no reference captions .*: 8'):
        caption(own / 'run', tmp_path / 'pictures', *flags)
    broken = tmp_path / 'broken'
    shutil.copytree(own / 'run', broken)
    weights = torch.load(broken / 'model.pth')
    torch.save(dict(list(weights.items())[:-1]), broken / 'model.pth')
    with pytest.raises(DataError, match=list(weights)[-1]):
        caption(broken, tmp_path / 'pictures')


def test_several_processes_caption_like_one_and_report_an_error_once(own, tmp_path):
    entries = caption(own / 'run', tmp_path / 'pictures')[1]
    vis = tmp_path / 'here' / 'vis' / 'vis.json'
    vis.unlink()
    statuses, texts = several.run(
        2, evaluation, caption_flags(own / 'run', tmp_path / 'pictures', '--batch_size', 1), tmp_path / 'out')
    assert statuses == [0, 0] and not texts[1]
    assert captions_of(json.loads(vis.read_text())) == captions_of(entries)
    strange = change_infos(own, tmp_path / 'strange', regions=None)
    (tmp_path / 'none').mkdir()
    for folder, place, status, said, machines in (
            (strange, 'pictures', 2, 'does not say how the regions', 1),
            (own / 'run', 'none', 1, 'holds no pictures', 1),
            (own / 'run', 'nowhere', 2, 'no folder or file', 1),
            (own / 'run', 'pictures', 2, 'several machines; give --regions_dir', 2)):
        there = {'LOCAL_WORLD_SIZE': str(2 // machines)}
        statuses, texts = several.run(2, evaluation, caption_flags(folder, tmp_path / place), tmp_path / 'out',
                                      lambda rank, there=there: os.environ.update(there))
        assert statuses == [status] * 2 and said in texts[0] and 'ended unexpectedly' not in texts[0]
        assert not texts[1] and 'Traceback' not in texts[0]


def test_sigterm_leaves_no_temporary_regions(own, tmp_path):
    temporary = tmp_path / 'temporary'
    temporary.mkdir()

    def prepare(rank):
        tempfile.tempdir = str(temporary)

        def end(self, pictures):
            assert list(temporary.glob('regions_*/own_att'))
            os.kill(os.getpid(), signal.SIGTERM)
        Finder.__call__ = end
    statuses, _ = several.run(1, evaluation, caption_flags(own / 'run', tmp_path / 'pictures'), tmp_path / 'out',
                              prepare)
    assert statuses == [128 + signal.SIGTERM] and not list(temporary.iterdir())


def test_file_names_of_any_bytes_are_captioned_and_no_control_character_reaches_the_terminal(own, tmp_path, capsys):
    folder = os.fsencode(tmp_path / 'pictures' / 'deep')
    os.rename(os.path.join(folder, b'114.jpg'), os.path.join(folder, b'\xff\x1b[2J.jpg'))
    (tmp_path / 'pictures' / 'deep' / '\x1b[7mbroken.jpg').touch()
    status, entries = caption(own / 'run', tmp_path / 'pictures', '--dump_images', 1,
                              '--regions_dir', tmp_path / 'kept')
    shown = capsys.readouterr()
    assert status == 1 and len(entries) == 4 and '\x1b' not in shown.out + shown.err
    assert 'deep/\ufffd\ufffd[2J.jpg: ' in shown.out and 'deep/\ufffd[7mbroken.jpg: not a readable' in shown.err
    again = caption(own / 'run', tmp_path / 'pictures', '--regions_dir', tmp_path / 'kept')[1]
    assert captions_of(again) == captions_of(entries)


def change_infos(own, folder, **changes):
    """A copy of the run in `folder` with `changes` to its infos file; None removes a key."""
    shutil.copytree(own / 'run', folder)
    infos = {**run_folder.read_infos(str(folder / 'infos_tiny.pkl')), **changes}
    infos = {name: value for name, value in infos.items() if value is not None}
    (folder / 'infos_tiny.pkl').write_bytes(run_folder.pickle_bytes(infos))
    return folder


def test_a_model_without_a_recipe_needs_detector(own, tmp_path, capsys):
    strange = change_infos(own, tmp_path / 'strange', regions=None)
    with pytest.raises(UsageError, match='(?s)infos_tiny.pkl does not say .*bottom-up.*--detector grid or fast'):
        caption(strange, tmp_path / 'pictures')
    with pytest.raises(DataError, match='no weights of resnet101'):
        caption(strange, tmp_path / 'pictures', '--detector', 'grid')
    for name in ('resnet101', 'resnet152'):
        save_weights(tmp_path / f'{name}.pth', len(name + 'x' * name.count('5')))
    flags = ('--cnn_weight_dir', tmp_path)
    with pytest.raises(UsageError, match='resnet101.pth may hold weights of either layout.*--cnn_layout'):
        caption(strange, tmp_path / 'pictures', '--detector', 'grid', *flags)
    flags += ('--cnn_layout', 'caffe')
    grid = caption(strange, tmp_path / 'pictures', '--detector', 'grid', *flags, '--regions_dir', 'kept')[1]
    assert len(grid) == 4 and 'trained on features of another origin' in capsys.readouterr().err
    assert read_recipe('kept_att')['grid_size'] == 7
    other = caption(own / 'run', tmp_path / 'pictures', '--detector', 'grid', *flags, '--regions_dir', 'again')[1]
    assert captions_of(other) != captions_of(grid) and read_recipe('again_att')['grid_size'] == 2
    deeper = caption(strange, tmp_path / 'pictures', '--detector', 'grid', '--cnn_model', 'resnet152', *flags)[1]
    assert [entry['log_prob'] for entry in deeper] != [entry['log_prob'] for entry in grid]
    # --detector that repeats the recipe of the training changes nothing.
    plain = caption(own / 'run', tmp_path / 'pictures')[1]
    assert caption(own / 'run', tmp_path / 'pictures', '--detector', 'grid')[1] == plain


def test_contradicting_options_and_recipes_are_refused(own, tmp_path):
    pictures = tmp_path / 'pictures'
    for flags, said in (
            (('--input_img_feat_dir', 'x'), '--input_img_feat_dir x does not go with --image_folder'),
            (('--split', 'val'), '--split val does not go with'),
            (('--verbose_loss', 1), '--verbose_loss 1 does not go with'),
            (('--language_eval', 1), 'needs --coco_json'),
            (('--cnn_model', 'resnet152'), '--cnn_model resnet152 contradicts .*infos_tiny.pkl'),
            (('--cnn_layout', 'caffe'), '--cnn_layout caffe contradicts .*infos_tiny.pkl')):
        with pytest.raises(UsageError, match=said):
            caption(own / 'run', pictures, *flags)
    for name in ('regions_dir', 'cnn_weight_dir', 'cnn_layout'):
        with pytest.raises(UsageError, match=f'--{name} is for your own pictures'):
            tiny.run(evaluation, tiny.eval_flags(own, own / 'run', f'--{name}', 'caffe'))
    with pytest.raises(UsageError, match='no folder or file .*nowhere'):
        caption(own / 'run', tmp_path / 'nowhere')
    recipe = read_recipe(own / 'grid_att')
    other = change_infos(own, tmp_path / 'other', regions={**recipe, 'grid_size': 3})
    with pytest.raises(UsageError, match='found in different ways .*2 x 2 cells.*3 x 3 cells'):
        caption(own / 'run', pictures, '--model', own / 'run/model.pth', other / 'model.pth', '--infos_path',
                own / 'run/infos_tiny.pkl', other / 'infos_tiny.pkl')
    wrong = change_infos(own, tmp_path / 'wrong', regions={**recipe, 'detector': ['grid']})
    with pytest.raises(DataError, match='infos_tiny.pkl does not record how regions were found'):
        caption(wrong, pictures)
    save_weights(tmp_path / 'resnet101.pth', 1)
    marked = change_infos(own, tmp_path / 'marked', regions={**recipe, 'cnn_weights': 'sha256 0123'})
    with pytest.raises(DataError, match='does not hold the weights of resnet101 .*sha256 0123.*--cnn_weight_dir'):
        caption(marked, pictures, '--cnn_weight_dir', tmp_path)


def test_features_of_several_networks_train_a_model_of_their_width_that_finds_them_in_pictures(
        own, tmp_path, capsys):
    networks = ('--cnn_model', 'resnet18+squeezenet1_1', '--input_size', '64+96', '--grid_size', 2)
    assert not tiny.run(extract_regions, [
        '--input_json', own / 'split.json', '--images_root', own / 'images', '--output_dir', tmp_path / 'both',
        '--detector', 'grid', *networks, '--random_weights', 1, '--device', 'cpu', '--num_workers', 1])
    flags = tiny.train_flags(own, tmp_path / 'run', *BOXED, '--input_box_dir', tmp_path / 'both_box',
                             '--input_img_feat_dir', tmp_path / 'both_att', '--max_epochs', 1)
    size = flags.index('--img_feat_size')
    del flags[size:size + 2]
    with pytest.raises(UsageError, match='both_att have 1024 numbers, but --img_feat_size is 12; leave the flag out'):
        tiny.run(train, [*flags, '--img_feat_size', 12])
    tiny.run(train, flags)
    infos = run_folder.read_infos(str(tmp_path / 'run' / 'infos_tiny.pkl'))
    assert infos['opt']['img_feat_size'] == 1024 and infos['regions'] == read_recipe(tmp_path / 'both_att')
    with pytest.raises(UsageError, match='grid_att have 2048 numbers, but .*infos_tiny.pkl has img_feat_size 1024'):
        tiny.run(train, [*flags, '--input_img_feat_dir', own / 'grid_att', '--start_from', tmp_path / 'run'])
    means = ['--caption_model', 'show_tell', '--input_fc_feat_dir', tmp_path / 'both_fc', '--input_img_feat_dir',
             own / 'grid_att', '--checkpoint_path', tmp_path / 'means', *tiny.RECURRENT_FLAGS]
    tiny.run(train, [*flags, *means])
    assert run_folder.read_infos(str(tmp_path / 'means' / 'infos_tiny.pkl'))['opt']['img_feat_size'] == 1024
    status, entries = caption(tmp_path / 'run', tmp_path / 'pictures')
    assert status == 0 and 'resnet18 at 64 x 64 pixels and squeezenet1_1 at 96 x 96 pixels' in capsys.readouterr().err
    tiny.run(evaluation, tiny.eval_flags(own, tmp_path / 'run', *BOXED, '--input_img_feat_dir', tmp_path / 'both_att',
                                         '--input_box_dir', tmp_path / 'both_box'))
    with open('vis/vis.json', encoding='utf-8') as file:
        assert captions_of(entries) == captions_of(json.load(file))
    with pytest.raises(UsageError, match=r'--cnn_model resnet18 contradicts|img_feat_size 1024.* 512 numbers'):
        caption(tmp_path / 'run', tmp_path / 'pictures', '--cnn_model', 'resnet18')


def test_a_model_of_another_feature_size_is_refused_before_regions_are_found(
        pictures_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photo(1).save(tmp_path / 'a.jpg')
    tiny.run(train, tiny.train_flags(pictures_root, tmp_path / 'run', '--max_epochs', 1))
    assert run_folder.read_infos(str(tmp_path / 'run' / 'infos_tiny.pkl'))['regions'] is None
    with pytest.raises(UsageError, match='img_feat_size 12.* 2048 numbers'):
        caption(tmp_path / 'run', tmp_path / 'a.jpg', '--detector', 'grid')
