"""Random numbers that belong to an image, whatever the batch, the process or the order it comes in."""

from collections.abc import Sequence

import numpy as np
import torch

from misc.training.transfers import to_device


def uniform_numbers(keys: Sequence[tuple[int, ...]], copies: int, longest: int,
                    device: torch.device) -> torch.Tensor:
    """Uniform numbers from [0, 1): float32 (I * copies, longest) on `device`, one for each word that may be sampled
    for `copies` captions of each image.

    `keys`: for each image, a tuple of whole numbers from 0; its random numbers are a function of it.
    """
    drawn = [np.random.default_rng(key).random((copies, longest), dtype=np.float32) for key in keys]
    return to_device(np.concatenate(drawn), device)
