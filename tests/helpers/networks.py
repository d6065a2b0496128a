"""Small networks in place of torchvision's, and pictures, for tests of feature extraction."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision.models import detection

from misc.dataset.networks import DETECTOR
from misc.pictures import random_weights

# For batch statistics of random weights: fewer and smaller pictures than there are usually.
FEW_PICTURES = partial(random_weights.synthetic_pictures, 3, 64, 10)


def small_resnet(weights: object = None) -> torchvision.models.ResNet:
    """A bottleneck ResNet of few blocks, whose last map has 2048 channels as ResNet-101's has."""
    return torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [1, 1, 1, 1])


def small_detector(weights: object = None, weights_backbone: object = None, **options: Any) -> detection.FasterRCNN:
    """A Faster R-CNN of one convolution, for three classes."""
    backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 8, stride=8), torch.nn.BatchNorm2d(8), torch.nn.ReLU())
    backbone.out_channels = 8
    return detection.FasterRCNN(
        backbone, rpn_anchor_generator=detection.rpn.AnchorGenerator(((12, 24, 48),), ((0.5, 1.0, 2.0),)),
        box_roi_pool=torchvision.ops.MultiScaleRoIAlign(['0'], 3, 2),
        box_head=detection.faster_rcnn.TwoMLPHead(8 * 9, 16),
        box_predictor=detection.faster_rcnn.FastRCNNPredictor(16, 4), min_size=64, max_size=128, **options)


def put_in_place(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Put the small networks in place of torchvision's; downloads are looked for in `folder`."""
    monkeypatch.setattr(torchvision.models, 'resnet101', small_resnet)
    monkeypatch.setattr(torchvision.models, 'resnet152', small_resnet)
    monkeypatch.setattr(detection, DETECTOR, small_detector)
    monkeypatch.setattr(random_weights, 'synthetic_pictures', FEW_PICTURES)
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(folder / 'hub'))


def photo(seed: int, width: int = 64, height: int = 48) -> Image.Image:
    """A picture of coloured patches."""
    patches = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC)


def save_weights(path: Path, seed: int = 0) -> None:
    """Write random weights of the small ResNet."""
    torch.manual_seed(seed)
    torch.save(small_resnet().state_dict(), path)
