"""Small models of every family with random weights, and batches and captions for them."""

import importlib
import pkgutil
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dataloader import Batch
from models import build, kernels
from models.base import CaptionModel
from models.dropout import Dropout

RELATIONS = dict(caption_model='relation_transformer', cross_attn='dot-product')
# One of each family besides spatial_pe, the default of `make_options`.
FAMILIES = [RELATIONS, dict(caption_model='show_tell'), dict(caption_model='show_attend_tell'),
            dict(caption_model='topdown')]
REGIONS = [4, 7, 1]


def make_options(**changes: Any) -> types.SimpleNamespace:
    """The options of a tiny two-layer model, as `models.build` reads them."""
    options = dict(caption_model='spatial_pe', enc_pos_type='gxg', enc_pos_embedding=True, num_grids=9,
                   input_encoding_size=16, img_feat_size=12, ff_size=20, num_layers=2, heads=4,
                   dropout=0.3, drop_prob_lm=0.5, norm='layer', ff_activation='relu',
                   cross_attn='xlinear', xlinear='auto', box_trignometric_embedding=True, legacy_extra_skip=False,
                   rnn_type='lstm', hidden_size=10, att_hid_size=7, use_bn=0)
    return types.SimpleNamespace(**{**options, **changes})


def make_model(seed: int = 0, vocab_size: int = 11, longest: int = 6, **changes: Any) -> CaptionModel:
    """A model with random weights, biases and gains included."""
    torch.manual_seed(seed)
    model = build(make_options(**changes), vocab_size, longest)
    with torch.no_grad():  # biases and gains start at 0 and 1
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += torch.randn_like(parameter) * 0.3
    return model


def make_batch(seed: int = 0, counts: Sequence[int] = REGIONS, size: int = 12) -> types.SimpleNamespace:
    """Features, grid vectors and boxes of images with `counts` regions."""
    generator = torch.Generator().manual_seed(seed)
    M = sum(counts)
    corners = torch.rand(M, 2, 2, generator=generator).sort(1).values
    features = torch.randn(M, size, generator=generator)
    return types.SimpleNamespace(
        features=features, counts=list(counts),
        fc=torch.stack([one.mean(0) for one in features.split(counts)]),
        grids=torch.rand(M, 9, generator=generator), boxes=corners.view(M, 4))


def make_captions(seed: int = 0, images: int = 3, copies: int = 4, longest: int = 6,
                  vocab_size: int = 11) -> torch.Tensor:
    """Random captions (images, copies, longest) of random lengths, 0 included, padded with 0."""
    random = np.random.default_rng(seed)
    captions = torch.zeros(images, copies, longest, dtype=torch.long)
    for i in range(images):
        for s in range(copies):
            length = random.integers(0, longest + 1)
            captions[i, s, :length] = torch.tensor(random.integers(1, vocab_size, length))
    return captions


def batch_with_captions(seed: int = 0, **changes: Any) -> Batch:
    """The batch of `make_batch` with the captions of `make_captions`, as the loader makes it."""
    made = make_batch(seed)
    images = list(range(len(made.counts)))
    return Batch(images, images, made.counts, made.features, made.grids, made.boxes,
                 make_captions(seed, len(images), **changes), fc=made.fc)


def per_image(batch: types.SimpleNamespace) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yield each image's features, grids and boxes."""
    start = 0
    for count in batch.counts:
        rows = slice(start, start + count)
        yield batch.features[rows], batch.grids[rows], batch.boxes[rows]
        start += count


def spread_dropout(model: CaptionModel) -> dict[str, float]:
    """Give each place of the model that drops a probability of its own -> {name of the module: its probability}."""
    places: dict[str, float] = {}
    for name, module in model.named_modules():
        if isinstance(module, Dropout) or isinstance(getattr(module, 'dropout', None), float):
            places[name] = 0.2 + 0.02 * len(places)
            setattr(module, 'probability' if isinstance(module, Dropout) else 'dropout', places[name])
    return places


def fix_dropout(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], float]:
    """Have dropout keep every number and scale it up, in place of drawing which it keeps; returns the factor of a
    probability, the `drop` of `tests/naive.py`."""
    def factor(probability, *_):
        return 1 / (1 - probability)

    def keep_all(shape, probability, device, dtype=torch.int8):
        return torch.ones(shape, dtype=dtype, device=device), factor(probability)

    attention = F.scaled_dot_product_attention
    monkeypatch.setattr(F, 'scaled_dot_product_attention', lambda *given, dropout_p=0.0, **more:
                        attention(*given, **more) * factor(dropout_p))
    for found in pkgutil.iter_modules(kernels.__path__, f'{kernels.__name__}.'):
        module = importlib.import_module(found.name)
        for name, fixed in (('keep_mask', keep_all), ('keep_factor', factor)):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, fixed)
    return factor


def name_of(changes: dict[str, Any]) -> str:
    """The name of a parametrized test with these options."""
    return '-'.join(f'{value}' for value in changes.values()) or 'readme'
