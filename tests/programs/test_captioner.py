"""The Python interface: it captions as eval.py does, and says what cannot be."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import eval as evaluation
from misc.captioner import load
from misc.cli import DataError, UsageError
from tests.helpers import tiny
from tests.helpers.pictures import train_run
from tests.helpers.runs import weights_of


@pytest.fixture
def photos(pictures_root, tmp_path, monkeypatch, networks):
    """The pictures of the test split, by name; the current folder is an empty one."""
    monkeypatch.chdir(tmp_path)
    return sorted((pictures_root / 'images' / 'val2014').glob('11[2-5].jpg'))


def evaluated(*flags):
    """Run eval.py -> vis/vis.json."""
    tiny.run(evaluation, [*flags, '--device', 'cpu', '--num_workers', 0])
    with open('vis/vis.json', encoding='utf-8') as file:
        return json.load(file)


def files_of(folder):
    return '--model', folder / 'model-best.pth', '--infos_path', folder / 'infos_tiny-best.pkl'


def arrays_of(root, name, numbers):
    """The arrays of images in a folder of `root`."""
    paths = [next((root / name).glob(f'{number}.np*')) for number in numbers]
    return [np.load(path)['feat'] if path.suffix == '.npz' else np.load(path) for path in paths]


def same(captions, entries, tolerance=1e-4):
    """Whether captions are those of vis/vis.json."""
    assert [caption.text for caption in captions] == [entry['caption'] for entry in entries]
    for caption, entry in zip(captions, entries):
        assert caption.log_prob == pytest.approx(entry['log_prob'], abs=tolerance)
    return True


def test_pictures_are_captioned_as_by_eval(pictures_root, photos):
    folder = photos[0].parent.parent / 'test'
    folder.mkdir(exist_ok=True)
    for path in photos:
        shutil.copy(path, folder)
    entries = evaluated(*files_of(pictures_root / 'run'), '--image_folder', folder, '--beam_size', 3)
    captioner = load(pictures_root / 'run', device='cpu', beam_size=3)
    captions = captioner.caption(photos)
    assert same(captions, entries)
    one = captioner.caption(photos[1])
    assert one.text == captions[1].text == ' '.join(one.words)
    assert one.boxes.shape == (4, 4)  # a grid of 2 x 2 over the whole picture
    assert one.boxes[:, 2:].max(0).tolist() in ([64, 48], [48, 64])


def test_arrays_are_captioned_as_by_eval(trained_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    numbers, folder = range(112, 116), trained_root / 'run'
    entries = evaluated(*files_of(folder), *tiny.data_flags(trained_root))
    captioner = load(folder, device='cpu', batch_size=3)
    features, relative, pixels = (arrays_of(trained_root, name, numbers) for name in ('att', 'rel', 'box'))
    sizes = json.loads((trained_root / 'box_sizes.json').read_text())
    captions = captioner.caption(features=features, boxes=relative)
    assert same(captions, entries)
    assert same(captioner.caption(features=features, boxes=pixels, sizes=[sizes[str(n)] for n in numbers]), entries)
    one = captioner.caption(features=features[2], boxes=pixels[2], sizes=sizes['114'])
    assert same([one], entries[2:3]) and np.array_equal(one.boxes, pixels[2])
    for caption, regions in zip(captions, features):
        assert caption.attention.shape == (len(caption.words), len(regions))
        assert np.allclose(caption.attention.sum(1), 1, atol=1e-5) and (caption.attention >= 0).all()


def test_decoding_options_are_those_of_eval(trained_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = trained_root / 'run'
    arrays = {'features': arrays_of(trained_root, 'att', [112]), 'boxes': arrays_of(trained_root, 'rel', [112])}
    entry, = evaluated(*files_of(folder), *tiny.data_flags(trained_root), '--num_images', 1, '--beam_size', 5,
                       '--sample_n', 4, '--length_penalty', 2)
    caption, = load(folder, device='cpu', beam_size=5, sample_n=4, length_penalty=2).caption(**arrays)
    assert same([caption, *caption.others], entry['beams'])
    draws = load(folder, device='cpu', sample_max=False, sample_n=3, temperature=2.0, seed=4)
    first, again = draws.caption(**arrays), draws.caption(**arrays)
    assert len(first[0].others) == 2 and [one.others for one in first] == [one.others for one in again]
    with pytest.raises(UsageError, match='beam: not an option; known are beam_size, .*device'):
        load(folder, beam=3)
    with pytest.raises(UsageError, match="--beam_size: '0' is not allowed; give a whole number at least 1"):
        load(folder, beam_size=0)
    with pytest.raises(UsageError, match='--sample_n 3 is more than --beam_size 2'):
        load(folder, sample_n=3)


def test_the_best_model_is_loaded_else_the_last_and_files_can_be_named(trained_root, tmp_path):
    folder = shutil.copytree(trained_root / 'run', tmp_path / 'run')

    def score():
        (features,), (boxes,) = (arrays_of(trained_root, name, [112]) for name in ('att', 'rel'))
        return load(folder, device='cpu').caption(features=features, boxes=boxes).log_prob
    best = score()
    shutil.copy(folder / 'model.pth', tmp_path)
    torch.save({name: value * 0.5 for name, value in weights_of(folder).items()}, folder / 'model.pth')
    assert score() == best
    (folder / 'model-best.pth').unlink()
    (folder / 'infos_tiny-best.pkl').unlink()
    assert score() != best
    shutil.copy(folder / 'infos_tiny.pkl', folder / 'infos_second.pkl')
    with pytest.raises(DataError, match='infos_second.pkl, infos_tiny.pkl; name the files of one run'):
        load(folder)
    named = load(model=tmp_path / 'model.pth', infos=folder / 'infos_tiny.pkl', device='cpu')
    assert named.vocabulary['1'] == 'a'
    with pytest.raises(DataError, match='there is no folder .*nowhere'):
        load(tmp_path / 'nowhere')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(DataError, match='empty has no infos file'):
        load(tmp_path / 'empty')
    for wrong in ({}, {'run': folder, 'model': 'a'}, {'model': 'a'}, {'run': folder, 'infos': 'b'},
                  {'model': ['a', 'b'], 'infos': 'c'}):
        with pytest.raises(UsageError):
            load(**wrong)


def test_several_runs_are_an_ensemble(pictures_root, trained_root, photos, tmp_path):
    train_run(pictures_root, tmp_path / 'second', '--max_epochs', 1, '--caption_model', 'show_tell',
              *tiny.RECURRENT_FLAGS)
    folders = [pictures_root / 'run', tmp_path / 'second']
    ensemble = load(folders, device='cpu')
    entries = evaluated('--model', *(folder / 'model-best.pth' for folder in folders), '--infos_path',
                        *(folder / 'infos_tiny-best.pkl' for folder in folders), '--image_folder', photos[0])
    caption = ensemble.caption(photos[0])
    assert same([caption], entries) and caption.attention.shape == (len(caption.words), 4)
    assert load(tmp_path / 'second', device='cpu').caption(photos[0]).attention is None
    with pytest.raises(UsageError, match='models of an ensemble'):
        load([pictures_root / 'run', trained_root / 'run'])


def test_what_cannot_be_captioned_is_refused(pictures_root, trained_root, photos, tmp_path):
    captioner = load(trained_root / 'run', device='cpu')
    features, boxes, pixels = (arrays_of(trained_root, name, [112, 113]) for name in ('att', 'rel', 'box'))
    for arguments, said in (
            ({}, 'give pictures, or the features'), ({'pictures': photos, 'features': features}, 'give pictures, or'),
            ({'features': features}, 'give their boxes'),
            ({'features': features, 'boxes': boxes[:1]}, 'features of 2 images, boxes of 1'),
            ({'features': features, 'boxes': pixels}, 'are in pixels: give sizes'),
            ({'features': features, 'boxes': boxes, 'sizes': [(50, 40)] * 2}, 'leave out sizes'),
            ({'features': features, 'boxes': pixels, 'sizes': [(50, 40), None]}, 'some images have no size'),
            ({'features': features, 'boxes': pixels, 'sizes': [(50, 40), (50, 0)]}, 'is not a width and a height'),
            ({'pictures': photos[0]}, 'img_feat_size 12, but features of regions found here')):
        with pytest.raises(UsageError, match=said):
            captioner.caption(**arguments)
    for arguments, said in (
            ({'features': features, 'boxes': [boxes[1][:1], boxes[1]]}, 'the boxes of image 0 has 1 rows'),
            ({'features': features[0][:, :5], 'boxes': boxes[0]}, 'features have 5 numbers'),
            ({'features': features[0] * np.nan, 'boxes': boxes[0]}, 'the features of image 0 .*not finite'),
            ({'features': features[0], 'boxes': boxes[0][:, ::-1]}, 'ends before it starts')):
        with pytest.raises(DataError, match=said):
            captioner.caption(**arguments)
    (tmp_path / 'broken.jpg').write_bytes(b'jpeg')
    with pytest.raises(DataError, match='broken.jpg: not a readable image'):
        load(pictures_root / 'run', device='cpu').caption(tmp_path / 'broken.jpg')
    assert captioner.caption(features=[], boxes=[]) == []
    for wrong, said in ((tmp_path, 'is a folder; give its pictures'), ([photos[0], tmp_path], 'is a folder'),
                        (np.zeros((9, 9, 3), np.uint8), 'PIL images, not ndarray'), (7, 'not int'),
                        (b'a', 'not bytes')):
        with pytest.raises(UsageError, match=said):
            captioner.caption(wrong)


def test_images_that_are_open_in_pillow_are_taken_like_files(pictures_root, photos):
    captioner = load(pictures_root / 'run', device='cpu')
    with Image.open(photos[0]) as first, Image.open(photos[1]) as second:
        captions = captioner.caption([first, photos[1], second])
        assert captioner.caption(first).text == captions[0].text   # it is open still
    files = captioner.caption(photos[:2])
    for found, expected in zip(captions, [files[0], files[1], files[1]]):
        assert found.text == expected.text and np.array_equal(found.boxes, expected.boxes)
