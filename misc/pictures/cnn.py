"""ResNet features of whole images, in the layout of Caffe's network or of torchvision's.

The two share the names and shapes of their weights, but not where they stride: Caffe's (the network
published with He et al., CVPR 2016) halves the map in the first, 1 x 1 convolution of a stage,
torchvision's in the second, 3 x 3 one; and Caffe's max-pool has no padding and rounds up.  Weights of
one in the layout of the other give features that look like features and are wrong.
"""

import numpy as np
import torch
import torchvision
from torch.nn import functional

from misc.cli import DataError
from misc.dataset.recipe import LAYOUTS
from misc.disk import tensors
from misc.pictures import weights

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)   # of ImageNet, red, green, blue


class TooSmall(ValueError):
    """An image has fewer than 3 x 3 pixels."""


def load_network(model, path, layout, device):
    """The network `model` (see misc/dataset/recipe.py) with the weights at `path`, laid out, in evaluation mode.

    Raises `DataError` naming what the file lacks or has too much.
    """
    with torch.device('meta'):
        network = headless(model)
    network.load_state_dict(fitting_weights(network, path), assign=True)
    return lay_out(network, layout).to(device).eval().requires_grad_(False)


def random_network(model, seed, layout, device):
    """The network `model` with random weights, the same for the same `seed`: see misc/pictures/weights.py."""
    network = weights.random_network(lambda: lay_out(headless(model), layout), seed, last_maps)
    return network.to(device).requires_grad_(False)


def headless(model):
    """The network `model` without its classifier, which is not used, and which a file may lack."""
    network = getattr(torchvision.models, model)(weights=None)
    network.fc = torch.nn.Identity()
    return network


def lay_out(network, layout):
    """Give a ResNet of torchvision's the strides and the max-pool of `layout` ('caffe' or 'torchvision')."""
    if layout == 'caffe':
        network.maxpool = torch.nn.MaxPool2d(kernel_size=3, stride=2, padding=0, ceil_mode=True)
        for stage in (network.layer2, network.layer3, network.layer4):
            stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    elif layout != 'torchvision':
        raise ValueError(f'layout {layout!r} is not one of {LAYOUTS}')
    return network


def fitting_weights(network, path):
    """The state dict at `path`, read without running code, if it is one of `network`."""
    state = tensors.load(path, 'fetch it again')
    if not isinstance(state, dict) or not all(
            isinstance(name, str) and torch.is_tensor(value) for name, value in state.items()):
        raise DataError(f'{path} is not a state dict (tensors by name); fetch it again')
    expected = network.state_dict()
    state = {name: value for name, value in state.items() if not name.startswith('fc.')}
    for name in expected:
        if name.endswith('num_batches_tracked'):    # a counter that older files lack, and nothing reads
            state.setdefault(name, torch.tensor(0))
    problems = {
        'it lacks': [name for name in expected if name not in state],
        'it has too much': [name for name in state if name not in expected],
        'of another shape are': [name for name, value in state.items()
                                 if name in expected and value.shape != expected[name].shape],
        'not finite are': [name for name, value in state.items() if not torch.isfinite(value).all()]}
    found = [f'{what} {", ".join(names[:4])}' + (f' and {len(names) - 4} more' if names[4:] else '')
             for what, names in problems.items() if names]
    if found:
        raise DataError(f'{path} does not fit the network: {"; ".join(found)}.\n'
                        'Is it of the model that was named?')
    return {name: value.to(expected[name].dtype) for name, value in state.items()}


@torch.inference_mode()
def image_features(network, image, att_size):
    """Features of one image, not resized.

    image: uint8 (height, width, 3), red, green, blue.  Returns (fc (D,), att (att_size, att_size, D)),
    NumPy float32: the last map averaged adaptively to att_size x att_size, and the mean of that.
    Raises `TooSmall` for an image of fewer than 3 x 3 pixels, which Caffe's layout cannot take.
    """
    hidden = last_maps(network, as_floats(image[None], network.conv1.weight.device))
    att = functional.adaptive_avg_pool2d(hidden, att_size)[0].permute(1, 2, 0)  # (att_size, att_size, D)
    return att.mean(dim=(0, 1)).cpu().numpy(), att.contiguous().cpu().numpy()


def as_floats(images, device):
    """uint8 images (I, height, width, 3) -> float32 (I, 3, height, width) from 0 to 1, on `device`."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float() / 255


def last_maps(network, images):
    """The last maps (I, D, h, w) of images (I, 3, height, width), colours from 0 to 1.

    Raises `TooSmall` for images of fewer than 3 x 3 pixels, which Caffe's layout cannot take.
    """
    height, width = images.shape[2:]
    if min(height, width) < 3:
        raise TooSmall(f'{width} x {height} pixels are too few')
    mean, deviation = (torch.tensor(values, device=images.device)[:, None, None]
                       for values in (MEAN, DEVIATION))
    hidden = (images - mean) / deviation
    hidden = network.maxpool(network.relu(network.bn1(network.conv1(hidden))))
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        hidden = stage(hidden)
    return hidden
