"""The files of a page: its numbers, its pictures, and that it is complete at any moment."""

import base64
import json
import os
import pathlib
import warnings

import numpy as np
import pytest
from PIL import Image

import eval as evaluation
import train
from misc.cli import DataError
from misc.disk import locks
from misc.disk.files import TEMPORARY
from misc.page import page
from misc.page.data import Entry
from misc.page.page import write_page
from misc.pictures.images import ORIENTATION
from tests.helpers import tiny
from tests.helpers.forks import start_forked
from tests.helpers.pages import FACTS, SIDE, made_up, read_page, write_sample


def unpacked(text, dtype, *shape):
    return np.frombuffer(base64.b64decode(text), dtype).reshape(shape).astype(float)


def test_packed_numbers_are_those_given_up_to_rounding(tmp_path):
    folder, entries, places = write_sample(tmp_path, page.SHARD + 3)
    listing, images = read_page(folder)
    assert len(images) == len(entries) and listing['ids'] == [str(number + 1) for number in range(len(entries))]
    for number, (entry, image) in enumerate(zip(entries, images)):
        (boxes, grids), regions = places(number), image['regions']
        assert abs(unpacked(image['boxes'], '<u2', regions, 4) / 65535 - boxes).max() < 1e-5
        rows, columns = (unpacked(image[name], 'u1', regions, SIDE) / 255 for name in ('rows', 'columns'))
        cells = (rows[:, :, None] * columns[:, None]).reshape(regions, -1)
        assert abs(cells - grids).max() < 0.005
        for name, weights in entry.attention.items():
            packed = image['attention'][name]
            shares = unpacked(packed['weights'], 'u1', len(entry.words), regions) / 255
            top = np.array(packed['top'])[:, None]
            assert (abs(shares * top - weights) <= 0.0021 * top).all()
        assert image['words'] == entry.words
        for name, value in entry.scores.items():
            assert listing['scores'][name][number] == pytest.approx(value, rel=1e-5)
        assert listing['references'][number] == entry.references


def test_unknown_values_are_left_out(tmp_path):
    bare = Entry('one', ['a', 'dog'], str(tmp_path / 'nowhere.jpg'), 'nowhere.jpg', scores={
        'CIDEr': float('nan'), 'log_prob': float('-inf')})
    broken = write_page(tmp_path / 'vis', FACTS, [bare], lambda place: (None, None))
    listing, (image,) = read_page(tmp_path / 'vis')
    assert len(broken) == 1 and 'nowhere.jpg' in broken[0]
    assert listing['pictures'] == listing['sizes'] == [None] and listing['references'] == [[]]
    assert listing['scores'] == {'CIDEr': [None], 'log_prob': [None]}
    assert image == {'words': ['a', 'dog'], 'others': [], 'attention': {}, 'regions': 0}


def picture_files(folder):
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns
            for kind in ('thumbs', 'imgs') for path in (folder / kind).iterdir()}


def test_pictures_are_made_once_and_again_when_their_source_changes_and_stale_ones_are_deleted(tmp_path):
    folder, entries, places = write_sample(tmp_path, 4)
    first = picture_files(folder)
    assert len(first) == 8
    (folder / 'imgs' / 'mine.jpg').write_bytes(b'not written by the page')
    (folder / 'thumbs' / f'{"0" * 24}.jpg.999999999.part').write_bytes(b'half')
    Image.new('RGB', (90, 60), 'teal').save(entries[0].picture)
    write_page(folder, FACTS, entries[:3], places)
    second = picture_files(folder)
    assert second.pop('imgs/mine.jpg') and len(second) == 6
    assert len(second.items() & first.items()) == 4  # those of the two that stayed as they were
    listing, _ = read_page(folder)
    assert listing['sizes'][0] == [90, 60]
    thumb = folder / 'thumbs' / listing['pictures'][1]
    thumb.write_bytes(b'broken')
    write_page(folder, FACTS, entries[:3], places)
    assert Image.open(thumb).size == (320, 240)


def test_pictures_keep_the_stored_orientation_and_large_ones_are_scaled_down(tmp_path):
    small, turned, *large = (tmp_path / f'{name}.jpg' for name in ('small', 'turned', 'large', 'long'))
    Image.new('RGB', (60, 40), 'navy').save(small)
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # on its side: a browser would turn it
    Image.new('RGB', (60, 40), 'navy').save(turned, exif=exif)
    Image.new('L', (2400, 1200)).save(large[0], 'PNG')
    Image.new('RGB', (1001, 2002)).save(large[1])
    entries = [Entry(number, ['a'], str(path), path.name) for number, path in enumerate((small, turned, *large))]
    write_page(tmp_path / 'vis', FACTS, entries, lambda place: (None, None))
    listing, _ = read_page(tmp_path / 'vis')
    assert listing['sizes'] == [[60, 40], [60, 40], [1000, 500], [500, 1000]]
    for name, size in zip(listing['pictures'], listing['sizes']):
        shown = Image.open(tmp_path / 'vis' / 'imgs' / name)
        assert shown.format == 'JPEG' and list(shown.size) == size and not shown.getexif()
    assert np.abs(np.array(Image.open(tmp_path / 'vis' / 'imgs' / listing['pictures'][0])).astype(int)
                  - (0, 0, 128)).max() < 3
    thumbs = [Image.open(tmp_path / 'vis' / 'thumbs' / name).size for name in listing['pictures']]
    assert thumbs == [(60, 40), (60, 40), (384, 192), (192, 384)]


def test_no_metadata_of_a_photo_is_copied_to_the_page_and_pillow_prints_no_warning(tmp_path, capfd):
    exif = Image.Exif()
    exif.get_ifd(0x8825)[1] = 'N'  # GPS: the latitude
    exif[0x010e] = 'at home'
    Image.new('RGB', (60, 40)).save(tmp_path / 'a.jpg', exif=exif, comment=b'at home')
    broken = exif.tobytes()[:-20]
    Image.new('RGB', (60, 40)).save(tmp_path / 'b.jpg', exif=broken)
    entries = [Entry(name, ['a'], str(tmp_path / f'{name}.jpg'), name) for name in 'ab']
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert not write_page(tmp_path / 'vis', FACTS, entries, lambda place: (None, None))
    files = [path.read_bytes() for kind in ('imgs', 'thumbs') for path in (tmp_path / 'vis' / kind).iterdir()]
    assert len(files) == 4 and not any(b'at home' in content or b'Exif' in content for content in files)
    assert 'arning' not in capfd.readouterr().err


def test_only_data_folders_of_earlier_pages_are_deleted(tmp_path):
    folder, entries, places = write_sample(tmp_path, 2)
    first, = os.listdir(folder / 'data')
    mine = ['backup', 'a' * 15, 'A' * 16, f'{first}.old', f'new.x{TEMPORARY}']
    for name in (*mine, f'new.999999999{TEMPORARY}', 'b' * 16):
        (folder / 'data' / name).mkdir()
    (tmp_path / 'elsewhere').mkdir()
    (folder / 'data' / ('c' * 16)).symlink_to(tmp_path / 'elsewhere')
    entries[0].words = ['other']
    write_page(folder, FACTS, entries, places)
    left = set(os.listdir(folder / 'data')) - {*mine, 'c' * 16}
    assert len(left) == 1 and not left & {first, 'b' * 16} and (folder / 'data' / 'backup').is_dir()
    assert {*mine, 'c' * 16} <= set(os.listdir(folder / 'data'))


def test_an_interrupted_write_leaves_the_previous_page(tmp_path, monkeypatch):
    folder, entries, places = write_sample(tmp_path, page.SHARD + 1)
    before = {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}

    def breaks(place):
        if place == page.SHARD:
            raise KeyboardInterrupt
        return places(place)

    for entry in entries:
        entry.references = []
    with pytest.raises(KeyboardInterrupt):
        write_page(folder, FACTS, entries, breaks)
    assert {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()} == before
    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(os, 'replace', lambda *paths: (_ for _ in ()).throw(OSError('full')))
        write_page(folder, FACTS, entries, places)
    assert (folder / 'index.html').read_bytes() == before[folder / 'index.html']
    write_page(folder, FACTS, entries, places)
    listing, _ = read_page(folder)  # which also finds one folder of data alone
    assert listing['references'] == [[]] * len(entries)


def test_writing_the_same_page_again_changes_no_byte(tmp_path):
    folder, entries, places = write_sample(tmp_path, 3)
    before = {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}
    write_page(folder, FACTS, entries, places, workers=2)
    assert {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()} == before


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """(corpus with pictures, {model: run folder}) of tiny models, an epoch each."""
    corpus = tiny.write_corpus(tmp_path_factory.mktemp('corpus'))
    for image in json.loads((corpus / 'talk.json').read_text())['images']:
        path = corpus / 'images' / image['file_path']
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (50, 40), 'olive').save(path)
    runs = tmp_path_factory.mktemp('runs')
    for name, more in (('spatial_pe', ()), ('transformer', ('--num_layers', 2)), ('show_tell', ())):
        more = (*more, *(tiny.RECURRENT_FLAGS if name == 'show_tell' else ()))
        tiny.run(train, tiny.train_flags(corpus, runs / name, '--caption_model', name, '--max_epochs', 1, *more))
    return corpus, {name: runs / name for name in ('spatial_pe', 'transformer', 'show_tell')}


@pytest.fixture
def page_data(trained, tmp_path, monkeypatch):
    """Call with a model and flags to evaluate it; returns the data of its page."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('PATH', '')  # without Java: quick
    corpus, runs = trained

    def evaluate(name, *flags, folders=None):
        folders = folders or [runs[name]]
        given = tiny.eval_flags(corpus, folders[0], '--dump_images', 1, '--image_root', corpus / 'images', *flags)
        for option, file in (('--model', 'model.pth'), ('--infos_path', 'infos_tiny.pkl')):
            at = given.index(option) + 1
            given[at:at + 1] = [folder / file for folder in folders]
        tiny.run(evaluation, given)
        return read_page(tmp_path / 'vis')
    return evaluate


def test_the_page_has_captions_scores_references_boxes_and_attention_of_every_model(page_data, trained, capsys):
    corpus, runs = trained
    boxes = ('--input_box_dir', corpus / 'box')
    listing, images = page_data('spatial_pe', '--language_eval', 1, *boxes)
    scored = json.loads(pathlib.Path('eval_results/tiny_test.json').read_text())
    assert listing['scores']['CIDEr'] == pytest.approx([row['CIDEr'] for row in scored['images']], rel=1e-5)
    assert listing['captions'] == [row['caption'] for row in scored['images']]
    assert listing['overall']['CIDEr'] == pytest.approx(scored['overall']['CIDEr'], rel=1e-5)
    assert all(len(texts) == 5 for texts in listing['references']) and 'X-linear' in listing['attention']
    relative = {row: np.load(corpus / 'rel' / f'{112 + row}.npy') for row in range(4)}
    for row, image in enumerate(images):
        assert abs(unpacked(image['boxes'], '<u2', image['regions'], 4) / 65535 - relative[row]).max() < 2e-5
        assert image['attention'].keys() == {'mean'} and len(image['attention']['mean']['top']) == len(image['words'])
    # A model without positions: the boxes are drawn anyway.  It has two layers.
    listing, images = page_data('transformer', *boxes)
    assert 'boxes' in images[0] and images[0]['attention'].keys() == {'mean', 'last'}
    assert 'dot-product' in listing['attention'] and 'not know where' in listing['places']
    assert listing['scores'].keys() == {'log_prob'} and listing['overall'] == {}
    listing, images = page_data('show_tell', *boxes)
    assert 'nothing to highlight' in listing['attention'] and images[0]['attention'] == {} and images[0]['regions']
    listing, images = page_data('', folders=list(runs.values()))
    assert 'averaged over the 2 of 3 models' in listing['attention']
    assert images[0]['attention'].keys() == {'mean', 'last'}
    assert 'boxes' not in images[0] and 'rows' in images[0]  # without boxes there are the grid vectors


def test_attention_on_the_page_is_that_of_the_model_for_the_captions_words(page_data, trained, monkeypatch):
    from misc.evaluation import captioning as room
    kept, plain = [], room.word_attention

    def word_attention(model, memory, captions, counts):
        log_probs, _ = model.word_log_probs(memory, captions)
        kept.append((model.word_attention(memory, captions), captions, counts, log_probs))
        return plain(model, memory, captions, counts)
    monkeypatch.setattr(room, 'word_attention', word_attention)
    _, images = page_data('spatial_pe', '--batch_size', 3)
    place = 0
    for attention, captions, counts, _ in kept:
        for image, regions in enumerate(counts):
            words = int((captions[image, 0] > 0).sum())
            packed = images[place]['attention']['mean']
            shares = unpacked(packed['weights'], 'u1', words, regions) / 255 * np.array(packed['top'])[:, None]
            assert abs(shares - attention['mean'][image, 0, :words, :regions].numpy()).max() < 0.003
            place += 1
    assert place == len(images) == 4
    calls = len(kept)
    tiny.run(evaluation, tiny.eval_flags(*[trained[0], trained[1]['spatial_pe']]))
    assert len(kept) == calls  # without a page, attention is not computed


def test_regions_that_do_not_fit_are_named_and_left_out_of_the_page(page_data, trained, tmp_path, capsys):
    corpus, _ = trained
    other = tmp_path / 'box'
    other.mkdir()
    for path in (corpus / 'box').iterdir():
        boxes = np.load(path)
        np.save(other / path.name, boxes[1:] if path.stem == '113' else boxes)
    (tmp_path / 'box_sizes.json').write_text((corpus / 'box_sizes.json').read_text())
    _, images = page_data('transformer', '--input_box_dir', other)
    assert ['boxes' in image for image in images] == [True, False, True, True]
    said = capsys.readouterr().err
    assert '1 images have regions that cannot be drawn' in said and 'not made from the same boxes' in said
    (other / '114.npy').unlink()
    with pytest.raises(DataError, match='1 of 4 images have no boxes'):
        page_data('transformer', '--input_box_dir', other)


def assert_complete(folder):
    """The page names data that are there, and those pictures that are there."""
    listing, _ = read_page(folder)
    for kind in ('thumbs', 'imgs'):
        assert set(listing['pictures']) == set(os.listdir(folder / kind))


def two_samples(tmp_path, count=6):
    """What two programs show: (entries, the function of `made_up`) of pictures of their own."""
    for name in 'ab':
        (tmp_path / name).mkdir()
    return [made_up(tmp_path / name, count, seed) for seed, name in enumerate('ab')]


def test_of_two_programs_that_write_into_one_folder_the_last_page_is_complete(tmp_path):
    children = [start_forked(lambda sample=sample: [write_page(tmp_path / 'vis', FACTS, *sample) for _ in range(25)])
                for sample in two_samples(tmp_path)]
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    assert_complete(tmp_path / 'vis')


def test_pictures_that_another_page_has_removed_are_made_again(tmp_path, monkeypatch):
    one, other = two_samples(tmp_path)
    plain = page.make_pictures

    def then_the_other(*given):
        made = plain(*given)
        monkeypatch.setattr(page, 'make_pictures', plain)
        write_page(tmp_path / 'vis', FACTS, *other)
        return made
    monkeypatch.setattr(page, 'make_pictures', then_the_other)
    write_page(tmp_path / 'vis', FACTS, *one)
    assert_complete(tmp_path / 'vis')


def test_while_a_page_is_put_in_place_no_other_is(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, 'PATIENCE', 0.1)
    one, other = two_samples(tmp_path)
    plain, statuses = page.remove_others, []

    def while_the_other(*given):
        if not statuses:
            child = start_forked(lambda: write_page(tmp_path / 'vis', FACTS, *other))
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        plain(*given)
    monkeypatch.setattr(page, 'remove_others', while_the_other)
    write_page(tmp_path / 'vis', FACTS, *one)
    assert statuses == [1]
    assert_complete(tmp_path / 'vis')


def test_what_another_program_is_writing_is_not_removed(tmp_path):
    folder, entries, places = write_sample(tmp_path, 2)
    part = f'new.{os.getppid()}{TEMPORARY}', f'{"0" * 24}.jpg.{os.getppid()}{TEMPORARY}'
    (folder / 'data' / part[0]).mkdir()
    (folder / 'thumbs' / part[1]).touch()
    write_page(folder, FACTS, entries, places)
    assert (folder / 'data' / part[0]).is_dir() and (folder / 'thumbs' / part[1]).exists()
