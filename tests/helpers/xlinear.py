"""X-linear attention's implementations on the same numbers.

As a program, `python -m tests.helpers.xlinear`, it runs the fused kernels in Triton's interpreter, which computes on
the CPU, and prints how far its results and gradients, and those of the loop, are from the loop's in double precision:
one JSON line a case.
"""

import json
import os
import sys
from typing import Any

import torch

from models.kernels.xlinear import XLinearMix
from models.packing import Counts, Groups

RESULTS = ('mixed', 'mean_e', 'weights', 'query', 'key', 'value', 'weight', 'bias', 'spatial')

# Words and regions of each image, the model's size.  Blocks of words and regions are cut, full, and several; an image
# has no word, another one region.
CASES = [([5, 9, 1], [7, 20, 33], 32), ([11, 0, 8, 17], [16, 10, 3, 40], 64), ([20, 9, 2], [35, 10, 1], 96)]


# The same of a batch that is padded for a CUDA graph: one image has regions and no words, one words and one region.
# How many words the latter has; the most words and regions that an image could have, and room for pairs.
PADDED = ([5, 9, 0, 4], [7, 20, 3, 1], 32)
PADDING, ROOM = 4, (16, 32, 235)


def inputs(words: list[int], regions: list[int], size: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Query, key, value, weight, bias and spatial for so many words and regions of each image."""
    torch.manual_seed(1)
    N, M, H = sum(words), sum(regions), size // 2
    parts = [torch.randn(N, size), torch.randn(M, size), torch.randn(M, size), torch.randn(H, size) / size ** 0.5,
             torch.randn(H) * 0.3, torch.randn(H) * 3 / H ** 0.5]
    return [part.to(dtype) for part in parts]


def results(mix: Any, parts: list[torch.Tensor], words: list[int], regions: list[int],
            dropout: float = 0.0, padding: int = 0) -> list[torch.Tensor]:
    """What an implementation gives: mixed values, means of e, weights, and the gradients of the inputs; the last
    `padding` words have no weight in these."""
    leaves = [part.detach().requires_grad_() for part in parts]
    record: list[torch.Tensor] = []
    torch.manual_seed(3)
    outputs = mix.apply(*leaves, Groups(words, 'cpu'), Groups(regions, 'cpu'), dropout, record)
    torch.manual_seed(4)
    gradients = [torch.randn(output.shape).to(output.dtype) for output in outputs]
    if padding:
        for gradient in gradients:
            gradient[-padding:] = 0
    weights = [one[:, :max(regions)] for one in record]
    return [*(output.detach() for output in outputs), *weights, *torch.autograd.grad(outputs, leaves, gradients)]


def in_room(words: list[int], regions: list[int]) -> tuple[Counts, Counts]:
    """The numbers of `PADDED` with their `ROOM`."""
    most_words, most_regions, pairs = ROOM
    return Counts(words, longest=most_words), Counts(regions, longest=most_regions, pairs=pairs)


def distances(found: list[torch.Tensor], expected: list[torch.Tensor]) -> dict[str, float]:
    """{result: the norm of the difference, relative to that of what is expected}."""
    return {name: float((one.double() - other.double()).norm() / other.double().norm())
            for name, one, other in zip(RESULTS, found, expected)}


def main() -> None:
    """Compare the fused kernels with the loop, in float32 without and with dropout, and in 16 bits (float16: the
    interpreter computes with NumPy, which has no bfloat16)."""
    os.environ['TRITON_INTERPRET'] = '1'  # read when Triton is loaded
    from models import kernels
    from models.kernels import fused, xlinear
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision('highest')
    for (words, regions, size), dropout, dtype in (
            *((case, 0.0, torch.float32) for case in CASES), (CASES[1], 0.3, torch.float32),
            (CASES[0], 0.3, torch.float16)):
        parts = inputs(words, regions, size, dtype)
        pairs = sum(count * others for count, others in zip(words, regions))
        keep = torch.rand(pairs, size // 2, generator=torch.Generator().manual_seed(2)) > dropout
        drawn = Masks(keep, 1 / (1 - dropout))
        fused.keep_mask = xlinear.keep_mask = drawn  # type: ignore[assignment]
        xlinear.keep_factor = lambda *given, factor=drawn.factor: factor  # type: ignore[assignment]
        expected = results(XLinearMix, [part.double() for part in parts], words, regions, dropout)
        of_kernels, of_loop = (distances(results(mix, parts, words, regions, dropout), expected)
                               for mix in (fused.XLinearFused, XLinearMix))
        print(json.dumps({'dtype': str(dtype), 'dropout': dropout, 'fused': of_kernels, 'loop': of_loop}))
    words, regions, size = PADDED
    parts = inputs(words, regions, size)
    expected = results(XLinearMix, [part.double() for part in parts], words, regions, padding=PADDING)
    loop = results(XLinearMix, parts, words, regions, padding=PADDING)
    found = results(fused.XLinearFused, parts, *in_room(words, regions), padding=PADDING)
    print(json.dumps({'room': True, 'fused': distances(found, expected), 'loop': distances(loop, expected)}))
    query, *_ = inputs([15], [1], 64)
    _, key, value, *weights = inputs([1], [3 * 20], 64)
    sizes = torch.tensor([20, 1, 9], dtype=torch.int32)
    padding = torch.arange(20) >= sizes[:, None]
    given = [query, key.view(3, 20, 64), value.view(3, 20, 64), *weights]
    expected, plain = (kernels.xlinear_mix_padded(*(part.to(dtype) for part in given), padding,
                                                  (~padding / sizes[:, None]).to(dtype), sizes)
                       for dtype in (torch.float64, torch.float32))
    mixed = fused.padded_mix(*given, sizes)
    print(json.dumps({'padded': True, 'fused': distances(mixed, expected), 'loop': distances(plain, expected)}))


class Masks:
    """Stands in for `keep_mask`: parts of one mask, one after the other, from the start when it is used up."""

    def __init__(self, keep: torch.Tensor, factor: float) -> None:
        self.keep, self.factor, self.at = keep, factor, 0

    def __call__(self, shape: torch.Size, probability: float, device: torch.device,
                 dtype: torch.dtype) -> tuple[torch.Tensor, float]:
        rows = self.keep[self.at:self.at + shape[0]]
        self.at = (self.at + shape[0]) % len(self.keep)
        return rows.to(dtype), self.factor


if __name__ == '__main__':
    sys.exit(main())
