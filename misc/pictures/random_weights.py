"""Networks with random weights whose features still tell pictures apart, for trying things out."""

from collections.abc import Callable
from typing import TypeVar

import torch
import torchvision
from torch.nn import functional

# Scale of a random residual branch relative to its shortcut; with more, all pictures look alike to deep networks.
BRANCH = 0.1

Network = TypeVar('Network', bound=torch.nn.Module)


def random_network(build: Callable[[], Network], seed: int,
                   forward: Callable[[Network, torch.Tensor], object]) -> Network:
    """The network of `build()` in evaluation mode with random weights, which depend on `seed` alone.

    Its batch normalisations get the statistics of synthetic pictures, floats (I, 3, side, side) from 0 to 1,
    that `forward(network, pictures)` runs through it; without them, values would grow from layer to layer.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build().eval()
        pictures = synthetic_pictures()
    for module in network.modules():
        if isinstance(module, torchvision.models.resnet.Bottleneck):
            torch.nn.init.constant_(module.bn3.weight, BRANCH)
        elif isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None   # the plain mean over all batches
            module.train()
    with torch.no_grad():
        forward(network, pictures)
    return network.eval()


def synthetic_pictures(count: int = 12, side: int = 128, leaves: int = 60) -> torch.Tensor:
    """Pictures (count, 3, side, side) of overlapping ellipses of all sizes and colours ("dead leaves"), which
    have edges and plain surfaces about as often as photos do."""
    rows, columns = torch.arange(side)[:, None], torch.arange(side)
    pictures = torch.rand(count, 3, 1, 1).repeat(1, 1, side, side)
    for picture in pictures:
        for _ in range(leaves):
            x, y, size, shape = torch.rand(4).tolist()
            radius, stretch = 2 + 0.4 * side * size ** 3, 0.5 + 1.5 * shape
            inside = ((columns - x * side) / stretch) ** 2 + ((rows - y * side) * stretch) ** 2 < radius ** 2
            picture[:, inside] = torch.rand(3, 1)
    return functional.hardtanh(pictures + 0.01 * torch.randn(pictures.shape), 0, 1)
