"""The least time that works could take on a device, by the rates of its products and copies."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from scripts.benchmarking.made_up import Sizes
from scripts.benchmarking.operations import counted_decoding, counted_operations
from scripts.benchmarking.timing import matmul, seconds_of

# Precision: the type of the matrices, and of their products on CUDA.
PRECISIONS: dict[str, tuple[torch.dtype, str]] = {
    'fp32': (torch.float32, 'highest'), 'TF32': (torch.float32, 'high'), 'bf16': (torch.bfloat16, 'highest')}
UPDATE_BYTES = 7 * 4   # of a parameter: Adam reads weight, gradient and moments, and writes weight and moments


@dataclass(frozen=True)
class Floor:
    """The least that a work asks of a device: operations of matrix products, bytes of weights to read meanwhile, and
    bytes that the update reads and writes."""

    operations: float
    weights: float = 0.0
    update: float = 0.0

    def seconds(self, rate: float, copies: float, overlapped: bool = True) -> float:
        """The least time, with so many operations and bytes a second; `overlapped` where a device reads weights while
        it multiplies."""
        multiplying, reading = self.operations / rate, self.weights / copies
        return (max if overlapped else sum)((multiplying, reading)) + self.update / copies

    def __add__(self, other: 'Floor') -> 'Floor':
        return Floor(self.operations + other.operations, self.weights + other.weights, self.update + other.update)


def step_floor(model: Any, sizes: Sizes, counts: Sequence[int], words: Sequence[Sequence[int]]) -> Floor:
    """The floor of a cross-entropy step on images with so many regions, and captions with so many words."""
    return Floor(counted_operations(sizes, counts, words),
                 update=UPDATE_BYTES * sum(parameter.numel() for parameter in model.parameters()))


def decoding_floor(model: Any, sizes: Sizes, counts: Sequence[int], words: Sequence[Sequence[int]]) -> Floor:
    """The floor of writing captions with so many words: the weights are read once for each word of the longest."""
    weights = sum(parameter.nbytes for part in (model.decoder, model.output) for parameter in part.parameters())
    return Floor(counted_decoding(sizes, counts, words), weights * (1 + max(max(image) for image in words)))


def words_of(captions: torch.Tensor) -> list[list[int]]:
    """The words of each caption of each image, of captions (I, n, T)."""
    return (captions > 0).sum(2).tolist()


def copy_rate(device: torch.device, small: bool) -> float:
    """Bytes a second that a copy within the device's memory reads and writes."""
    source = torch.ones(2 ** 20 if small else 2 ** (26 if device.type == 'cpu' else 29), device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds_of(lambda: target.copy_(source), device, 2 if small else 10)


def product_rate(device: torch.device, precision: str, small: bool) -> float:
    """Floating-point operations a second of products of large matrices."""
    side, (dtype, mode) = 256 if small else 2048 if device.type == 'cpu' else 8192, PRECISIONS[precision]
    # Random numbers: on zeros, a card runs faster than it does in any real work.
    a, b = torch.randn(2, side, side, device=device).to(dtype)
    with matmul(mode):
        return 2 * side ** 3 / seconds_of(lambda: a @ b, device, 2 if small else 10)
