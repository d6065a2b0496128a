"""The ResNet's two layouts, its weights, images of all modes, and `prepro_feats.py`."""

import json
import os
import sys

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from misc.cli import DataError, UserError
from misc.dataset.networks import LAYOUTS, Network
from misc.pictures import cnn, weights
from misc.pictures.images import read_rgb
from scripts import prepro_feats
from tests import naive


def small_network(seed=0):
    """A bottleneck ResNet of few blocks with random weights and batch statistics."""
    torch.manual_seed(seed)
    network = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [2, 1, 2, 1])
    network.fc = torch.nn.Identity()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return network.eval()


def laid_out(network, layout):
    """The maps of a small network in a layout."""
    return cnn.MapNetwork(cnn.lay_out(network, layout), Network('resnet101', layout=layout))


@pytest.fixture(scope='module')
def image():
    return np.random.default_rng(0).integers(0, 256, (70, 101, 3), dtype=np.uint8)


@pytest.mark.parametrize('layout', LAYOUTS)
def test_each_layout_equals_a_forward_pass_written_from_its_definition(layout, image):
    network = laid_out(small_network(), layout)
    # averaging a square map to its own rows and columns changes nothing, so the map itself is compared
    square = np.concatenate([image, image])[:101]
    expected = naive.resnet_map(network.trunk.state_dict(), square, layout)
    att = cnn.image_features(network, square, expected.shape[1])[1]
    np.testing.assert_allclose(att, expected.permute(1, 2, 0).numpy(), atol=1e-4)
    fc, att = cnn.image_features(network, image, 2)
    D, h, w = (expected := naive.resnet_map(network.trunk.state_dict(), image, layout)).shape
    assert att.shape == (2, 2, D) and fc.shape == (D,) and att.dtype == fc.dtype == np.float32
    np.testing.assert_allclose(fc, att.mean((0, 1)), rtol=1e-5)
    corner = expected[:, :(h + 1) // 2, :(w + 1) // 2].mean((1, 2))
    np.testing.assert_allclose(att[0, 0], corner.numpy(), atol=1e-4)


def test_the_two_layouts_give_different_features_from_the_same_weights(image):
    caffe, torchvisions = (cnn.image_features(laid_out(small_network(), layout), image, 3)[1]
                           for layout in LAYOUTS)
    assert np.abs(caffe - torchvisions).mean() > 0.05 * np.abs(caffe).mean()


def test_caffe_strides_in_the_first_convolution_of_a_stage():
    with torch.device('meta'):
        network, plain = torchvision.models.resnet101(), torchvision.models.resnet101()
    cnn.lay_out(network, 'caffe')
    for stage in (network.layer2, network.layer3, network.layer4):
        assert [stage[0].conv1.stride, stage[0].conv2.stride, stage[0].downsample[0].stride] == [
            (2, 2), (1, 1), (2, 2)]
        assert {module.stride for module in stage[1:].modules()
                if isinstance(module, torch.nn.Conv2d)} == {(1, 1)}
    assert (network.layer1[0].conv1.stride, network.layer1[0].conv2.stride) == ((1, 1), (1, 1))
    # a map of 112 x 112 is pooled to 56 x 56 by either, of 113 to 56 by Caffe's and to 57 by torchvision's
    assert network.maxpool(torch.zeros(1, 1, 112, 113)).shape == (1, 1, 56, 56)
    assert plain.maxpool(torch.zeros(1, 1, 112, 113)).shape == (1, 1, 56, 57)


def test_weights_that_do_not_fit_are_named(tmp_path):
    network = small_network()
    state = network.state_dict()
    path = str(tmp_path / 'resnet101.pth')

    def refusal(changed):
        torch.save(changed, path)
        with pytest.raises(DataError) as caught:
            cnn.fitting_weights(network, path)
        assert path in str(caught.value)
        return str(caught.value)

    assert 'missing: conv1.weight' in refusal({k: v for k, v in state.items() if k != 'conv1.weight'})
    assert 'unexpected: layer9.bias' in refusal({**state, 'layer9.bias': torch.zeros(1)})
    assert 'of another shape: bn1.bias' in refusal({**state, 'bn1.bias': torch.zeros(1)})
    assert 'not finite: bn1.bias' in refusal({**state, 'bn1.bias': torch.full((64,), torch.nan)})
    assert 'not a state dict' in refusal([1, 2])
    assert 'nothing of it was used' in refusal(small_network())   # a pickled module is code, not weights
    (tmp_path / 'resnet101.pth').write_bytes(b'<html>')
    with pytest.raises(DataError, match='download it again'):
        cnn.fitting_weights(network, path)
    counters = [name for name in state if name.endswith('num_batches_tracked')]
    torch.save({**{k: v for k, v in state.items() if k not in counters}, 'fc.weight': torch.ones(1)}, path)
    assert set(cnn.fitting_weights(network, path)) == set(state)   # as older files have it


def test_weights_are_found_in_data_its_subfolder_or_the_model_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    with pytest.raises(DataError, match=(
            r'(?s)download http\S+resnet152-\w+\.pth and put it into .*hub/checkpoints.*'
            r'Caffe serve too, as data/resnet152\.pth with --cnn_layout caffe')):
        weights.find_file('resnet152')
    for place in ('data/imagenet_weights', 'data', 'elsewhere'):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / place / 'resnet152.pth').touch()
        assert weights.find_file('resnet152', 'elsewhere' if place == 'elsewhere' else None) == (
            f'{place}/resnet152.pth')


def test_images_of_every_mode_become_rgb(tmp_path):
    red = Image.new('RGB', (8, 6), (200, 30, 40))

    def pixel(image, name, **options):
        image.save(tmp_path / name, **options)
        pixels = read_rgb(str(tmp_path / name))
        assert pixels.shape == (6, 8, 3) and pixels.dtype == np.uint8
        return pixels[3, 3].astype(int)

    near = {'rtol': 0, 'atol': 3}
    np.testing.assert_allclose(pixel(red, 'rgb.png'), [200, 30, 40])
    np.testing.assert_allclose(pixel(red.convert('CMYK'), 'cmyk.jpg', quality=100), [200, 30, 40], **near)
    palette = red.convert('P', palette=Image.Palette.ADAPTIVE)
    np.testing.assert_allclose(pixel(palette, 'p.png'), [200, 30, 40], **near)
    np.testing.assert_allclose(pixel(red.convert('L'), 'grey.jpg', quality=100), [82, 82, 82], **near)
    np.testing.assert_allclose(pixel(Image.new('1', (8, 6), 1), 'one.png'), [255, 255, 255])
    half = Image.new('RGBA', (8, 6), (200, 30, 40, 0))
    np.testing.assert_allclose(pixel(half, 'clear.png'), [255, 255, 255])
    np.testing.assert_allclose(pixel(Image.new('LA', (8, 6), (90, 255)), 'la.png'), [90, 90, 90])
    deep = Image.fromarray(np.full((6, 8), 51200, dtype=np.uint16))
    np.testing.assert_allclose(pixel(deep, 'deep.png'), [200, 200, 200])


@pytest.fixture
def photos(tmp_path):
    """Three readable images, a truncated and a missing one, their split file, and a network's weights."""
    root = tmp_path / 'images' / 'val2014'
    root.mkdir(parents=True)
    random = np.random.default_rng(1)
    images = []
    for number, mode in enumerate(['RGB', 'L', 'CMYK', 'RGB', 'RGB']):
        name = f'COCO_val2014_{number:012d}.jpg'
        if number < 4:
            pixels = random.integers(0, 256, (64, 96, 3), dtype=np.uint8)
            Image.fromarray(pixels).convert(mode).save(root / name)
        images.append({'cocoid': number, 'filepath': 'val2014', 'filename': name})
    broken = root / images[3]['filename']
    broken.write_bytes(broken.read_bytes()[:700])
    (tmp_path / 'split.json').write_text(json.dumps({'images': images}))
    return tmp_path


@pytest.fixture
def extract(photos, monkeypatch, capsys):
    """Runs `prepro_feats.py` on the photos with a small network; returns (status, messages)."""
    networks = {'resnet101': small_network(1), 'resnet152': small_network(2)}
    for name, network in networks.items():
        torch.save(network.state_dict(), photos / f'{name}.pth')
        monkeypatch.setattr(torchvision.models, name, lambda weights: small_network())

    def run(*flags, output='out'):
        monkeypatch.setattr(sys, 'argv', [
            'prepro_feats.py', '--input_json', str(photos / 'split.json'),
            '--output_dir', str(photos / output), '--images_root', str(photos / 'images'),
            '--model_root', str(photos), '--device', 'cpu', *flags])
        try:
            status = prepro_feats.main()
        except UserError as error:
            return error.status, str(error)
        return status, capsys.readouterr().err
    return run


def read(photos, image_id, output='out'):
    """(fc, att) of an image."""
    with np.load(photos / f'{output}_att' / f'{image_id}.npz') as archive:
        return np.load(photos / f'{output}_fc' / f'{image_id}.npy'), archive['feat']


def test_unreadable_images_are_named_and_the_others_extracted(photos, extract):
    status, messages = extract()
    assert status == 1
    listed = messages.split('the others are written')[1]
    assert '000000000003.jpg: not a readable image' in listed
    assert '000000000004.jpg: there is no such file' in listed
    assert sorted(path.name for path in (photos / 'out_att').iterdir()) == ['0.npz', '1.npz', '2.npz']
    fc, att = read(photos, 1)
    assert fc.shape == (2048,) and att.shape == (14, 14, 2048) and fc.dtype == att.dtype == np.float32
    network = laid_out(small_network(1), 'caffe')
    pixels = read_rgb(str(photos / 'images/val2014/COCO_val2014_000000000001.jpg'))
    np.testing.assert_allclose(att, cnn.image_features(network, pixels, 14)[1], atol=1e-5)


def test_a_second_run_extracts_only_repaired_images(photos, extract):
    extract('--att_size', '2')
    before = {path: path.stat().st_mtime_ns for path in photos.glob('out_*/*')}
    (photos / 'out_att' / '3.npz.99.part').write_bytes(b'half')
    for number in (3, 4):
        Image.new('RGB', (40, 50)).save(photos / f'images/val2014/COCO_val2014_{number:012d}.jpg')
    assert extract('--att_size', '2')[0] == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert sorted(path.name for path in (photos / 'out_att').iterdir()) == [f'{n}.npz' for n in range(5)]


def test_model_layout_and_att_size_change_the_features_and_are_not_mixed(photos, extract):
    extract('--att_size', '2')
    for flag, value in (('--cnn_layout', 'torchvision'), ('--model', 'resnet152')):
        status, message = extract('--att_size', '2', flag, value)
        assert status == 2 and flag in message and value in message
        extract('--att_size', '2', flag, value, '--num_workers', '3', output=value)
        assert np.abs(read(photos, 0)[1] - read(photos, 0, value)[1]).mean() > 1e-3
    assert read(photos, 0)[1].shape == (2, 2, 2048)
    assert extract('--att_size', '3')[0] == 2
    torch.save(small_network(3).state_dict(), photos / 'resnet101.pth')
    status, message = extract('--att_size', '2')
    assert status == 2 and 'resnet101.pth' in message


def test_the_layout_follows_from_torchvisions_file_name_and_is_caffes_otherwise(photos, extract):
    os.rename(photos / 'resnet101.pth', photos / 'resnet101-63fe2227.pth')
    for flags, output in (((), 'named'), (('--cnn_layout', 'torchvision'), 'given'),
                          (('--cnn_layout', 'caffe'), 'other')):
        assert 'resnet101-63fe2227.pth' in extract('--att_size', '2', *flags, output=output)[1]
    os.rename(photos / 'resnet101-63fe2227.pth', photos / 'resnet101.pth')
    extract('--att_size', '2', output='published')
    named, given, other, published = (read(photos, 0, output)[1]
                                     for output in ('named', 'given', 'other', 'published'))
    assert np.array_equal(named, given) and np.array_equal(other, published)
    assert np.abs(named - published).mean() > 1e-3


def test_a_wrong_image_root_or_device_is_refused(photos, extract, monkeypatch):
    status, message = extract('--images_root', str(photos / 'images' / 'val2014'))
    assert status == 1 and '--images_root' in message and 'val2014/COCO_val2014_000000000000.jpg' in message
    assert extract('--images_root', str(photos / 'none'))[0] == 2
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    assert '--device cuda' in extract('--device', 'cuda')[1]
