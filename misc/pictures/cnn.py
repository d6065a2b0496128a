"""ResNet features of pictures, in the layout of Caffe's network or of torchvision's.

The two have the same weights by name and shape but stride in different places: Caffe's (the network published
with He et al., CVPR 2016) halves the map in the first, 1 x 1 convolution of a stage, torchvision's in the second,
3 x 3 one; and Caffe's max-pool has no padding and rounds up.  Weights of one in the layout of the other compute
features that are plausible and wrong.
"""

from typing import Any

import numpy as np
import torch
import torchvision
from torch.nn import functional
from torchvision.models import ResNet

from misc.cli import DataError
from misc.dataset.networks import DEVIATION, LAYOUTS, MEAN
from misc.disk import tensors
from misc.pictures import random_weights


class TooSmall(ValueError):
    """An image has fewer than 3 x 3 pixels."""


def load_network(name: str, path: str, layout: str, device: torch.device | str) -> ResNet:
    """The network `name`, a key of `networks.NETWORKS`, with the weights at `path`, in evaluation mode.

    layout: 'caffe' or 'torchvision'.  Raises `DataError` naming the weights that are missing or do not fit.
    """
    with torch.device('meta'):
        network = headless(name)
    network.load_state_dict(fitting_weights(network, path), assign=True)
    return lay_out(network, layout).to(device).eval().requires_grad_(False)


def random_network(name: str, seed: int, layout: str, device: torch.device | str) -> ResNet:
    """The network `name` with random weights, which depend on `seed` alone: see misc/pictures/random_weights.py."""
    network = random_weights.random_network(lambda: lay_out(headless(name), layout), seed, last_maps)
    return network.to(device).requires_grad_(False)


def headless(name: str) -> ResNet:
    """The network `name` without its classifier, which is not used and which a weight file may lack."""
    network = getattr(torchvision.models, name)(weights=None)
    network.fc = torch.nn.Identity()
    return network


def lay_out(network: ResNet, layout: str) -> ResNet:
    """Give a ResNet of torchvision's the strides and the max-pool of `layout`, in place."""
    if layout == 'caffe':
        network.maxpool = torch.nn.MaxPool2d(kernel_size=3, stride=2, padding=0, ceil_mode=True)
        for stage in (network.layer2, network.layer3, network.layer4):
            stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    elif layout != 'torchvision':
        raise ValueError(f'layout {layout!r} is not one of {LAYOUTS}')
    return network


def fitting_weights(network: torch.nn.Module, path: str) -> dict[str, torch.Tensor]:
    """The state dict at `path`, read without running code in it, if it fits `network`.  Raises `DataError`."""
    state: Any = tensors.load(path, 'download it again')
    if not isinstance(state, dict) or not all(
            isinstance(name, str) and torch.is_tensor(value) for name, value in state.items()):
        raise DataError(f'{path} is not a state dict (tensors by name); download it again')
    expected = network.state_dict()
    state = {name: value for name, value in state.items() if not name.startswith('fc.')}
    for name in expected:
        if name.endswith('num_batches_tracked'):    # a counter that older files lack and nothing reads
            state.setdefault(name, torch.tensor(0))
    problems = {
        'missing': [name for name in expected if name not in state],
        'unexpected': [name for name in state if name not in expected],
        'of another shape': [name for name, value in state.items()
                             if name in expected and value.shape != expected[name].shape],
        'not finite': [name for name, value in state.items() if not torch.isfinite(value).all()]}
    found = [f'{what}: {", ".join(names[:4])}' + (f' and {len(names) - 4} more' if names[4:] else '')
             for what, names in problems.items() if names]
    if found:
        raise DataError(f'{path} does not fit the network ({"; ".join(found)});\n'
                        'is it the file of the model that was named?')
    return {name: value.to(expected[name].dtype) for name, value in state.items()}


@torch.inference_mode()
def image_features(network: ResNet, image: np.ndarray, att_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of one image, which is not scaled: uint8 (height, width, 3), red, green, blue.

    Returns (fc (D,), att (att_size, att_size, D)), float32: the last map averaged to att_size x att_size cells,
    and the mean of these.  Raises `TooSmall` for an image of fewer than 3 x 3 pixels.
    """
    hidden = last_maps(network, as_floats(image[None], network.conv1.weight.device))
    att = functional.adaptive_avg_pool2d(hidden, att_size)[0].permute(1, 2, 0)  # (att_size, att_size, D)
    return att.mean(dim=(0, 1)).cpu().numpy(), att.contiguous().cpu().numpy()


def as_floats(images: np.ndarray, device: torch.device | str) -> torch.Tensor:
    """uint8 images (I, height, width, 3) -> float32 (I, 3, height, width) from 0 to 1, on `device`."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float() / 255


def last_maps(network: ResNet, images: torch.Tensor) -> torch.Tensor:
    """The last feature maps (I, D, h, w) of images (I, 3, height, width), colours from 0 to 1.

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
