"""Random numbers that belong to an image, whatever the batch, the process or the order it comes in."""

import numpy as np
import torch


def chances(keys, copies, longest, device):
    """Uniform numbers from [0, 1): float32 (I * copies, longest) on `device`, one for each word that may
    be drawn for `copies` captions of each image.

    `keys`: for each image, a tuple of whole numbers from 0 that its numbers are a function of.
    """
    drawn = [np.random.default_rng(key).random((copies, longest), dtype=np.float32) for key in keys]
    return torch.from_numpy(np.concatenate(drawn)).to(device)
