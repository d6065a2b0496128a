"""Recording the attention weights of a model while it runs, and averaging them."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def recording(modules: Sequence[nn.Module]) -> Iterator[list[list[Tensor]]]:
    """Within the context, each call of one of the `modules` (which have an `attention_record`) appends its
    weights (rows, P) to that module's list: a query's weights over the regions of its image, 0 on padding."""
    records: list[list[Tensor]] = [[] for _ in modules]
    for module, record in zip(modules, records):
        module.attention_record = record  # type: ignore[assignment]
    try:
        yield records
    finally:
        for module in modules:
            module.attention_record = None  # type: ignore[assignment]


def mean_and_last(layers: Sequence[Tensor]) -> dict[str, Tensor]:
    """Weights (..., P) of each layer -> {'mean': over the layers, 'last': the last layer's}, without the
    second where there is only one layer."""
    mean = torch.stack(list(layers)).mean(0)
    return {'mean': mean, 'last': layers[-1]} if len(layers) > 1 else {'mean': mean}


def mean_over_models(weights: Sequence[dict[str, Tensor] | None]) -> dict[str, Tensor] | None:
    """What `mean_and_last` returned for several models, None for those without attention -> the mean over
    those that have it, or None."""
    found = [one for one in weights if one is not None]
    if not found:
        return None
    # In a model with a single layer, the mean over its layers is also its last one.
    names = dict.fromkeys(name for one in found for name in one)
    return {name: torch.stack([one.get(name, one['mean']) for one in found]).mean(0) for name in names}
