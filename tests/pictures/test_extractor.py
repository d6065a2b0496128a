"""An extractor of the user's own: `--extractor FILE` of extract_regions.py and eval.py, and the Python interface."""

import json

import numpy as np
import pytest
import torch

import eval as evaluation
from misc.captioner import load
from misc.cli import DataError, UsageError
from misc.dataset.recipe import read_recipe
from misc.pictures.extractor import OwnFinder
from misc.pictures.recipes import extractor_recipe
from misc.run.folder import read_infos
from scripts import extract_regions, pack_features
from tests.helpers import ROOT, tiny
from tests.helpers.networks import photo
from tests.helpers.pictures import train_run
from tests.helpers.preparing import record, write_split

# The mean colour and the size of the two halves of a picture.
HALVES = """
import numpy as np

def setup(device):
    global scale
    scale = np.float32(SCALE)

def regions(picture):
    height, width, _ = picture.shape
    boxes = [(0, 0, width / 2, height), (width / 2, 0, width, height)]
    means = [picture[:, int(x1):int(x2)].mean((0, 1)) for x1, _, x2, _ in boxes]
    return np.array(means) / 255 * scale, boxes
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A run on the features of an extractor `net.py`, in an empty folder; returns tmp_path."""
    root = tiny.write_corpus(tmp_path / 'corpus')
    images = json.loads((root / 'talk.json').read_text())['images']
    for image in images:
        path = root / 'images' / image['file_path']
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(image['id'], 64, 48).save(path)
    records = [{**record(image['id'], image['split'], 'a dog'), 'filepath': image['file_path'].split('/')[0]}
               for image in images]
    write_split(root / 'split.json', records)
    (tmp_path / 'net.py').write_text(HALVES.replace('SCALE', '3'))
    assert not tiny.run(extract_regions, extract_flags(tmp_path))
    train_run(root, tmp_path / 'run', '--img_feat_size', 3)
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    return tmp_path


def extract_flags(folder, *more):
    root = folder / 'corpus'
    return ['--input_json', root / 'split.json', '--images_root', root / 'images', '--output_dir', root / 'grid',
            '--extractor', folder / 'net.py', '--device', 'cpu', *more]


def caption(folder, *flags):
    """Caption the pictures of the corpus -> {file name: (caption, log-probability)}."""
    tiny.run(evaluation, ['--model', folder / 'run/model.pth', '--infos_path', folder / 'run/infos_tiny.pkl',
                          '--image_folder', folder / 'corpus/images', '--device', 'cpu', '--num_workers', 0, *flags])
    return captions()


def captions():
    """vis/vis.json -> {file name: (caption, log-probability)}."""
    with open('vis/vis.json', encoding='utf-8') as file:
        return {entry['file_path']: (entry['caption'], round(entry['log_prob'], 3)) for entry in json.load(file)}


def test_a_model_of_ones_own_features_captions_new_pictures_with_the_file_that_made_them(own, capsys):
    root = own / 'corpus'
    recipe = read_recipe(root / 'grid_att')
    assert recipe == {'detector': 'extractor', 'extractor': 'net.py', 'longest_side': 640,
                      'extractor_digest': extractor_recipe(str(own / 'net.py'), 640)['extractor_digest']}
    assert read_infos(str(own / 'run/infos_tiny.pkl'))['regions'] == recipe
    boxes, features = np.load(root / 'grid_box/112.npy'), np.load(root / 'grid_att/112.npz')['feat']
    assert boxes.tolist() == [[0, 0, 32, 48], [32, 0, 64, 48]] and features.shape == (2, 3)

    tiny.run(evaluation, tiny.eval_flags(root, own / 'run', '--input_grid_vec_dir', '', '--split', 'all',
                                         '--input_img_feat_dir', root / 'grid_att',
                                         '--input_box_dir', root / 'grid_box'))
    expected = captions()
    capsys.readouterr()
    assert caption(own, '--extractor', own / 'net.py') == expected and len(set(expected.values())) > 1
    assert 'warning' not in capsys.readouterr().err

    captioner = load(own / 'run', device='cpu', extractor=str(own / 'net.py'), beam_size=2)
    name = 'val2014/112.jpg'
    assert captioner.caption(root / 'images' / name).text == expected[name][0]


def test_a_file_that_only_a_checkpoint_names_is_never_run(own, monkeypatch):
    monkeypatch.chdir(own)   # where a file of the recorded name lies
    (own / 'net.py').write_text('raise SystemExit("it was run")')
    with pytest.raises(UsageError, match='net.py .*run only where you name it: give --extractor net.py'):
        caption(own)
    captioner = load(own / 'run', device='cpu')
    with pytest.raises(UsageError, match='give --extractor net.py'):
        captioner.caption(own / 'corpus/images/val2014/112.jpg')


def test_a_file_that_has_changed_is_reported_and_does_not_add_to_old_regions(own, capsys):
    (own / 'net.py').write_text(HALVES.replace('SCALE', '4'))
    caption(own, '--extractor', own / 'net.py')
    assert 'infos_tiny.pkl was trained on these features: those of the extractor net.py (sha256' \
        in capsys.readouterr().err
    with pytest.raises(UsageError, match='grid_att was made with --extractor net.py'):
        tiny.run(extract_regions, extract_flags(own))


def test_files_that_an_extractor_lists_count_as_part_of_it(tmp_path):
    path, weights = tmp_path / 'net.py', tmp_path / 'weights.pth'
    path.write_text("FILES = ('weights.pth',)\nraise SystemExit('it was run')\n")
    digests = set()
    for content in ('a', 'b'):
        weights.write_text(content)
        digests.add(extractor_recipe(str(path), 640)['extractor_digest'])
    assert len(digests) == 2
    weights.unlink()
    with pytest.raises(DataError, match='net.py lists .*weights.pth in FILES: No such file'):
        extractor_recipe(str(path), 640)


@pytest.mark.parametrize(('result', 'message'), [
    ('np.zeros((64, 3, 4))', r'shape \(64, 3, 4\), which looks like \(channels, height, width\)'),
    ('np.zeros((2, 5))', 'without boxes'),
    ('(np.zeros((2, 5)), np.zeros((3, 4)))', r'\(2, 5\) and boxes of shape \(3, 4\)'),
    ('(np.zeros((1, 5)), [[0, 0, 50, 500]])', 'boxes from 0 to 500 for a picture of 8 x 6 pixels'),
    ('(["a"], [[0, 0, 1, 1]])', 'features that are no array of numbers, but list'),
    ('1 / 0', r'net.py: its regions\(picture\).* failed in line 3: ZeroDivisionError')])
def test_what_is_no_regions_is_refused_with_the_expected_shape(tmp_path, result, message):
    path = tmp_path / 'net.py'
    path.write_text(f'import numpy as np\ndef regions(picture):\n    return {result}\n')
    finder = OwnFinder(extractor_recipe(str(path), 640), torch.device('cpu'), str(path))
    with pytest.raises(DataError, match=message):
        finder(np.zeros((1, 6, 8, 3), np.uint8))


def test_the_places_of_a_map_are_the_cells_of_a_grid_and_tensors_are_welcome(tmp_path):
    path = tmp_path / 'net.py'
    path.write_text('import torch\ndef regions(picture):\n    return torch.arange(12.0).reshape(1, 2, 6)\n')
    finder = OwnFinder(extractor_recipe(str(path), 640), torch.device('cpu'), str(path))
    (boxes, features), = finder(np.zeros((1, 6, 8, 3), np.uint8))
    assert boxes.tolist() == [[0, 0, 4, 6], [4, 0, 8, 6]]
    assert features.tolist() == np.arange(12).reshape(2, 6).tolist()


def test_flags_that_contradict_an_extractor_are_refused(own):
    for flags in (('--detector', 'grid'), ('--cnn_model', 'resnet152')):
        with pytest.raises(UsageError):
            tiny.run(extract_regions, extract_flags(own, *flags))
        with pytest.raises(UsageError, match=f'{flags[0]} {flags[1]} contradicts --extractor'):
            caption(own, '--extractor', own / 'net.py', *flags)
    with pytest.raises(UsageError, match='--extractor: there is no Python file'):
        caption(own, '--extractor', own / 'absent.py')


def test_the_extractor_of_the_documentation_finds_regions(tmp_path):
    text = (ROOT / 'docs/pictures.md').read_text(encoding='utf-8')
    path = tmp_path / 'my_net.py'
    path.write_text(text.split('<!-- extractor -->\n```python\n')[1].split('\n```')[0])
    (boxes, features), = OwnFinder(extractor_recipe(str(path), 640), torch.device('cpu'), str(path))(
        np.full((1, 64, 96, 3), 9, np.uint8))
    assert len(boxes) == len(features) > 1


def test_features_with_their_channels_first_are_recognised(own):
    folder = own / 'corpus/grid_att'
    for path in folder.glob('*.npz'):
        np.savez(path, feat=np.zeros((64, 7, 7), np.float32))
    (own / 'corpus/grid_att_regions.json').unlink()
    with pytest.raises(DataError, match=r'\(64, 7, 7\) look like a map with its channels first.*transpose\('):
        train_run(own / 'corpus', own / 'other')


@pytest.fixture
def shifted(own):
    """The pictures of `own`, numbered from 0 in the labels, and from 1, by name, in the regions `mine`; returns the
    folder of the corpus."""
    root = own / 'corpus'
    for name, key in (('talk.json', 'id'), ('split.json', 'cocoid')):
        content = json.loads((root / name).read_text())
        for number, image in enumerate(content['images']):
            assert image[key] == 100 + number
            image[key] = number
        (root / name).write_text(json.dumps(content))
    assert not tiny.run(extract_regions, own_flags(own))
    return root


def own_flags(folder, *more):
    return ['--images_root', folder / 'corpus/images', '--output_dir', folder / 'corpus/mine', '--extractor',
            folder / 'net.py', '--device', 'cpu', *more]


def train_on(root, features):
    """Train on `features` of the pictures but for the first, which is of no split."""
    talk = json.loads((root / 'talk.json').read_text())
    talk['images'][0]['split'] = 'other'
    (root / 'talk.json').write_text(json.dumps(talk))
    boxes = features if features.endswith('.h5') else features.replace('_att', '_box')
    train_run(root, root / f'on_{features}', '--img_feat_size', 3, '--input_img_feat_dir', root / features,
              '--input_box_dir', root / boxes)


def test_features_of_other_pictures_are_refused_until_they_have_the_ids_of_the_labels(own, shifted, capsys):
    tiny.run(pack_features, ['--input_img_feat_dir', shifted / 'mine_att', '--input_box_dir', shifted / 'mine_box',
                             '--output_file', shifted / 'mine.h5'])
    for name, record_name in (('mine_att', 'mine_images'), ('mine.h5', 'mine.h5_images')):
        with pytest.raises(DataError) as raised:
            train_on(shifted, name)
        said = str(raised.value)
        assert said.startswith('15 of 15 images have the features of other pictures: image 1 is train2014/101.jpg in')
        assert f'train2014/100.jpg in {shifted / record_name}.json;' in said
        assert said.endswith(f'--input_json DATASET.json --images_root PICTURES --output_dir {shifted / "mine"} '
                             '--extractor net.py')
    with pytest.raises(DataError, match='images have the features of other pictures'):
        tiny.run(evaluation, ['--run', own / 'run', '--input_json', shifted / 'talk.json',
                              '--input_img_feat_dir', shifted / 'mine_att', '--device', 'cpu', '--num_workers', 0])
    (shifted / 'mine.h5_images.json').unlink()
    train_on(shifted, 'mine.h5')   # nothing to compare

    capsys.readouterr()
    assert not tiny.run(extract_regions, own_flags(own, '--input_json', shifted / 'split.json'))
    assert '15 ids were those of other pictures' in capsys.readouterr().err
    for number in range(16):
        with np.load(shifted / f'mine_att/{number}.npz') as mine, \
                np.load(shifted / f'grid_att/{100 + number}.npz') as expected:
            assert np.array_equal(mine['feat'], expected['feat'])
    train_on(shifted, 'mine_att')


def test_the_command_for_missing_features_is_the_one_that_made_the_others(own):
    root = own / 'corpus'
    (root / 'grid_att/103.npz').unlink()
    with pytest.raises(DataError) as raised:
        train_on(root, 'grid_att')
    assert str(raised.value).endswith(
        f': 103\nmake them with: python scripts/extract_regions.py --input_json DATASET.json --images_root PICTURES '
        f'--output_dir {root / "grid"} --extractor net.py')
    (root / 'grid_att_regions.json').unlink()
    with pytest.raises(DataError, match=r'make_bu_data.py.* or .*extract_regions.py --input_json'):
        train_on(root, 'grid_att')
