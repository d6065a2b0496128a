"""Random weights under the names of legacy code, and modules with which `tests/naive.py` computes from them.

This is the second route to the numbers of a legacy checkpoint: it uses neither `misc/run/legacy.py` nor the networks
in `models/`.
"""

import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

HEADS = 8
Weights = Mapping[str, torch.Tensor]


class Parts(types.SimpleNamespace):
    """A module for the formulas in `tests/naive.py`."""


# Its functions distinguish these by their class names.
GridProfiles, GridCells, BoxCoordinates, ShowTell, TopDown = (
    type(name, (Parts,), {})
    for name in ('GridProfiles', 'GridCells', 'BoxCoordinates', 'ShowTell', 'TopDown'))


class Drawn(dict):
    """{name: tensor}, drawn at random."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def tensor(self, name: str, *shape: int, scale: float = 0.3, mean: float = 0.0) -> None:
        """Draw a tensor."""
        self[name] = torch.randn(*shape, generator=self.generator) * scale + mean

    def linear(self, name: str, out: int, size: int) -> None:
        """Draw a linear layer."""
        self.tensor(f'{name}.weight', out, size)
        self.tensor(f'{name}.bias', out)

    def norm(self, name: str, size: int, leaves: Sequence[str] = ('weight', 'bias')) -> None:
        """Draw the gain and the shift of a norm."""
        for leaf, mean in zip(leaves, (1.0, 0.0)):
            self.tensor(f'{name}.{leaf}', size, mean=mean)

    def batch_norm(self, name: str, size: int) -> None:
        """Draw a batch normalisation."""
        self.norm(name, size)
        self.tensor(f'{name}.running_mean', size)
        self[f'{name}.running_var'] = torch.rand(size, generator=self.generator) + 0.5
        self[f'{name}.num_batches_tracked'] = torch.tensor(7)


def stacks(weights: Drawn, d: int, f: int, layers: int, feed_forward: Sequence[str], norms: Sequence[str],
           geometry: Callable[[str], object], cross: Callable[[str], object]) -> None:
    """Draw encoder and decoder: `feed_forward` names the two layers of the FFN, `norms` the weights of a norm;
    `geometry` draws the further weights of an encoder layer, `cross` the cross-attention of a decoder layer."""
    for stack, count in (('encoder', 2), ('decoder', 3)):
        for layer in range(layers):
            name = f'model.{stack}.layers.{layer}'
            for part in range(4):
                weights.linear(f'{name}.self_attn.linears.{part}', d, d)
            (geometry if stack == 'encoder' else cross)(name)
            weights.linear(f'{name}.feed_forward.{feed_forward[0]}', f, d)
            weights.linear(f'{name}.feed_forward.{feed_forward[1]}', d, f)
            for part in range(count):
                weights.norm(f'{name}.sublayer.{part}.norm', d, norms)
        weights.norm(f'model.{stack}.norm', d, norms)


def spatial_weights(place: str = 'gxg', xlinear: bool = True, norms: Sequence[str] = ('weight', 'bias'), d: int = 16,
                    f: int = 20, D: int = 12, V: int = 11, g: int = 3, layers: int = 2, seed: int = 0) -> Weights:
    """The model of the Spatial code, with any spatial encoding (`place`), X-linear or dot-product attention, and
    layer norms or, with `norms=('scale',)`, RMS norms."""
    weights = Drawn(seed)

    def cross(name):
        for part in range(4):
            if not xlinear:
                weights.linear(f'{name}.cross_attn.linears.{part}', d, d)
                continue
            weights.linear(f'{name}.cross_attn.linears.{part}.0', d, d)
            weights.norm(f'{name}.cross_attn.linears.{part}.2', d)
        for part, out, size in (('embed.0', d // 2, d), ('spatial', 1, d // 2),
                                ('squeeze.0', d, d // 2)) if xlinear else ():
            weights.linear(f'{name}.cross_attn.attention.{part}', out, size)

    weights.linear('att_embed.0', d, D)
    stacks(weights, d, f, layers, ('fc.0', 'fc.3'), norms, lambda name: None, cross)
    for name, out, size in {'gxg': (('fc1', d, g), ('fc2', d, g), ('fc3', d, d)), 'g2': (('fc', d, g * g),),
                            'box-coord': (('fc.0', d // 2, 4), ('fc.2', d, d // 2))}[place]:
        weights.linear(f'model.src_embed.{name}', out, size)
    weights['model.src_embed.rows'] = weights['model.src_embed.cols'] = torch.arange(g)
    weights.tensor('model.tgt_embed.0.embedding.weight', V, d)
    weights.tensor('model.tgt_embed.1.pe', 1, 50, d)
    weights.linear('model.generator.proj', V, d)
    return weights


def relation_weights(d: int = 16, f: int = 20, D: int = 12, V: int = 11, layers: int = 2, geometry: int = 64,
                     seed: int = 1) -> Weights:
    """The zoo's relation transformer, with batch normalisation before and after the embedding."""
    weights = Drawn(seed)

    def cross(name):
        for part in range(4):
            weights.linear(f'{name}.src_attn.linears.{part}', d, d)

    def heads(name):
        for head in range(HEADS):
            weights.linear(f'{name}.self_attn.WGs.{head}', 1, geometry)

    weights.batch_norm('att_embed.0', D)
    weights.linear('att_embed.1', d, D)
    weights.batch_norm('att_embed.4', d)
    stacks(weights, d, f, layers, ('w_1', 'w_2'), ('a_2', 'b_2'), heads, cross)
    weights.tensor('model.tgt_embed.0.lut.weight', V, d)
    weights.tensor('model.tgt_embed.1.pe', 1, 50, d)
    weights.linear('model.generator.proj', V, d)
    return weights


def topdown_weights(e: int = 9, r: int = 10, a: int = 7, D: int = 12, V: int = 11, seed: int = 2) -> Weights:
    """The zoo's `topdown`."""
    weights = Drawn(seed)
    weights.tensor('embed.0.weight', V, e)
    for name, out, size in (('fc_embed.0', r, D), ('att_embed.0', r, D), ('logit', V, r), ('ctx2att', a, r),
                            ('core.attention.h2att', a, r), ('core.attention.alpha_net', 1, a)):
        weights.linear(name, out, size)
    for cell, size in (('att_lstm', r + r + e), ('lang_lstm', r + r)):
        for name, shape in (('weight_ih', (4 * r, size)), ('weight_hh', (4 * r, r)), ('bias_ih', (4 * r,)),
                            ('bias_hh', (4 * r,))):
            weights.tensor(f'core.{cell}.{name}', *shape)
    return weights


def show_tell_weights(core: str = 'core', e: int = 9, r: int = 10, D: int = 12, V: int = 11,
                      seed: int = 3) -> Weights:
    """`show_tell`; the Spatial code calls its cell `rnn`, not `core`."""
    weights = Drawn(seed)
    weights.linear('img_embed', e, D)
    weights.tensor('embed.weight', V, e)
    weights.tensor(f'{core}.weight_ih_l0', 4 * r, e)
    weights.tensor(f'{core}.weight_hh_l0', 4 * r, r)
    weights.linear('logit', V, r)
    return weights


def part(weights: Weights, name: str, **more: Any) -> Parts:
    """The weights directly under `name`, as attributes."""
    leaves = {key.removeprefix(f'{name}.'): value for key, value in weights.items()
              if key.startswith(f'{name}.') and '.' not in key.removeprefix(f'{name}.')}
    return Parts(**leaves, **more)


def norm_part(weights: Weights, name: str) -> Parts:
    """A norm of the Spatial code or of the zoo."""
    found = part(weights, name, eps=1e-5)
    return Parts(gain=found.a_2, shift=found.b_2) if hasattr(found, 'a_2') else found


def place_part(weights: Weights, place: str) -> Parts:
    """The spatial encoding of the Spatial code."""
    def of(name):
        return part(weights, f'model.src_embed.{name}')
    return {'gxg': lambda: GridProfiles(rows=of('fc1'), columns=of('fc2'), features=of('fc3')),
            'g2': lambda: GridCells(cells=of('fc')),
            'box-coord': lambda: BoxCoordinates(hidden=of('fc.0'), out=of('fc.2'))}[place]()


def attention_part(weights: Weights, name: str, extra_skip: bool = False) -> Parts:
    """Dot-product attention: query, key, value, output."""
    query, key, value, output = (part(weights, f'{name}.linears.{number}') for number in range(4))
    return Parts(heads=HEADS, query=query, key=key, value=value, output=output, extra_skip=extra_skip)


def xlinear_part(weights: Weights, name: str) -> Parts:
    """X-linear attention: q1, k, q2, v, and Wm, ws, Wc."""
    query1, key, query2, value = (
        Parts(linear=part(weights, f'{name}.linears.{number}.0'),
              norm=part(weights, f'{name}.linears.{number}.2', eps=1e-5)) for number in range(4))
    embed, spatial, squeeze = (part(weights, f'{name}.attention.{inner}')
                               for inner in ('embed.0', 'spatial', 'squeeze.0'))
    return Parts(query1=query1, key=key, query2=query2, value=value, embed=embed, spatial=spatial,
                 squeeze=squeeze)


def stack_part(weights: Weights, stack: str, layers: int, feed_forward: Sequence[str],
               cross: Callable[[str], Parts] | None = None, extra_skip: bool = False,
               activation: str = 'relu') -> list[Parts]:
    """The layers of the encoder or the decoder."""
    found = []
    for layer in range(layers):
        name = f'model.{stack}.layers.{layer}'
        inner, outer = (part(weights, f'{name}.feed_forward.{one}') for one in feed_forward)
        found.append(Parts(
            attention=attention_part(weights, f'{name}.self_attn', extra_skip), cross=cross and cross(name),
            feed_forward=Parts(inner=inner, outer=outer, activation=activation),
            norms=[norm_part(weights, f'{name}.sublayer.{number}.norm')
                   for number in range(3 if stack == 'decoder' else 2)]))
    return found


def spatial_model(weights: Weights, place: str = 'gxg', xlinear: bool = True, activation: str = 'relu',
                  layers: int = 2) -> Parts:
    """`spatial_weights` as a model for `naive.encode` and `naive.next_word_log_probs`."""
    cross = xlinear_part if xlinear else attention_part
    crosses = {'encoder': None, 'decoder': lambda name: cross(weights, f'{name}.cross_attn')}
    encoder, decoder = (stack_part(weights, stack, layers, ('fc.0', 'fc.3'), cross_part, activation=activation)
                        for stack, cross_part in crosses.items())
    word_embed = part(weights, 'model.tgt_embed.0.embedding')
    return Parts(
        feature_embed=part(weights, 'att_embed.0'), relations=None, place=place_part(weights, place),
        size=word_embed.weight.shape[1], word_embed=word_embed, encoder=encoder, decoder=decoder,
        encoder_norm=norm_part(weights, 'model.encoder.norm'), output=part(weights, 'model.generator.proj'),
        decoder_norm=norm_part(weights, 'model.decoder.norm'))


def relation_model(weights: Weights, layers: int = 2, extra_skip: bool = True) -> Parts:
    """The same of `relation_weights`."""
    names = ('w_1', 'w_2')
    geometry = [[part(weights, f'model.encoder.layers.{layer}.self_attn.WGs.{head}') for head in range(HEADS)]
                for layer in range(layers)]
    relations = Parts(heads=HEADS, trigonometric=geometry[0][0].weight.shape[1] == 64, layers=[
        Parts(weight=torch.cat([head.weight for head in heads]),
              bias=torch.cat([head.bias for head in heads]))
        for heads in geometry])
    word_embed = part(weights, 'model.tgt_embed.0.lut')
    return Parts(
        feature_norm=part(weights, 'att_embed.0'), feature_embed=part(weights, 'att_embed.1'),
        embedded_norm=part(weights, 'att_embed.4'), place=None, relations=relations,
        size=word_embed.weight.shape[1], word_embed=word_embed,
        encoder=stack_part(weights, 'encoder', layers, names, extra_skip=extra_skip),
        decoder=stack_part(weights, 'decoder', layers, names,
                           lambda name: attention_part(weights, f'{name}.src_attn')),
        encoder_norm=norm_part(weights, 'model.encoder.norm'), output=part(weights, 'model.generator.proj'),
        decoder_norm=norm_part(weights, 'model.decoder.norm'))


def topdown_model(weights: Weights) -> Parts:
    """The same of `topdown_weights`."""
    return TopDown(
        size=weights['logit.weight'].shape[1], word_embed=part(weights, 'embed.0'),
        output=part(weights, 'logit'),
        feature_embed=part(weights, 'att_embed.0'), mean_embed=part(weights, 'fc_embed.0'),
        attention_cell=part(weights, 'core.att_lstm'), language_cell=part(weights, 'core.lang_lstm'),
        attention=Parts(key=part(weights, 'ctx2att'), query=part(weights, 'core.attention.h2att'),
                        score=part(weights, 'core.attention.alpha_net')))


def show_tell_model(weights: Weights, core: str = 'core') -> Parts:
    """The same of `show_tell_weights`."""
    cell = Parts(weight_ih=weights[f'{core}.weight_ih_l0'], weight_hh=weights[f'{core}.weight_hh_l0'],
                 bias_ih=None, bias_hh=None, parts=2)
    return ShowTell(size=cell.weight_hh.shape[1], image_embed=part(weights, 'img_embed'), cell=cell,
                    word_embed=part(weights, 'embed'), output=part(weights, 'logit'))
