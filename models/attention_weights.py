"""Seeing what a model looks at: the weights of its attention to regions, as it uses them."""

import contextlib

import torch
from torch.nn import functional as F


@contextlib.contextmanager
def recording(parts):
    """A list for each of `parts` (modules that have a `attention_record`), which takes the weights (rows, P) of each
    of the module's calls: of what it was asked, over the regions of its image; 0 behind an image's own."""
    kept = [[] for _ in parts]
    for part, weights in zip(parts, kept):
        part.attention_record = weights
    try:
        yield kept
    finally:
        for part in parts:
            part.attention_record = None


def mean_and_last(layers):
    """Weights of one or more layers, a list of (..., P) -> {'mean': theirs, 'last': the last one's}, without
    the second where there is one layer alone."""
    mean = torch.stack(layers).mean(0)
    return {'mean': mean, 'last': layers[-1]} if len(layers) > 1 else {'mean': mean}


def mean_over_models(looks):
    """What `mean_and_last` gave for several models, None for those that look at nothing -> the mean over
    those that do, or None."""
    looks = [one for one in looks if one is not None]
    if not looks:
        return None
    # Of a model with one layer the mean over the layers is the last one.
    names = dict.fromkeys(name for one in looks for name in one)
    return {name: torch.stack([one.get(name, one['mean']) for one in looks]).mean(0) for name in names}


def pad_regions(weights, regions):
    """(rows, P') -> (rows, `regions`), with zeros behind."""
    return F.pad(weights, (0, regions - weights.shape[1]))
