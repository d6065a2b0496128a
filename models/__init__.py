"""Captioning models.  `build` makes one from the options: nothing below this file reads them.

base.py says what a model does.  transformer.py and recurrent.py hold the models; attention.py, xlinear.py,
position.py, geometry.py, norms.py, dropout.py and cells.py their layers.  decoding.py writes captions with any
model, ensemble.py joins several.  kernels/ holds hand-written gradients; read it last.

Dimension letters, for this package:

    I  images in a batch              D  size of a region's feature
    S  captions per image             d  size of the model (r: of a recurrent state)
    T  words of the longest caption   h  attention heads
    V  words of the vocabulary + 1    g  side of the grid
    P  regions of the image with most
    M  regions of all images, packed one after the other, without padding
    N  words of all captions, packed likewise, each caption's end included
    R  captions being decoded
    G  groups of packed rows (an image's regions, a caption's words), of at most L rows each

Masks are True for what is real or may be attended to.  Word 0 starts, ends and pads every caption.

CONTRIBUTING.md says how to add a model.
"""

from argparse import Namespace
from collections.abc import Callable, Collection, Mapping, Sized
from typing import Any

import torch
from torch import Tensor

from models.base import CaptionModel
from models.decoding import Constraints, Decoded, Decoder, WordByWord, beam_search, sample
from models.geometry import RelationBias
from models.kernels import fused_obstacle
from models.position import position_encoding
from models.recurrent import ShowAttendTell, ShowTell, TopDown
from models.transformer import TransformerCaptioner


def build(options: Namespace, vocab_size: int, longest: int) -> CaptionModel:
    """The model that `options` (the model flags of opts.py) describe.

    `vocab_size` V counts the words and the end token; captions are cut at `longest` T words.
    """
    model, arguments = MODELS[options.caption_model]
    return model(vocab_size, longest, **arguments(options))


def xlinear_obstacle(options: Namespace, device: torch.device) -> str | None:
    """Why `device` cannot run the fused kernels of the model's X-linear attention; None where it can, or where the
    model has no such attention."""
    if options.cross_attn != 'xlinear' or MODELS[options.caption_model][0] is not TransformerCaptioner:
        return None
    return fused_obstacle(device, options.input_encoding_size)


def build_decoder(options: Namespace, longest: int, vocabulary: Mapping[str, str], copies: int = 1, *,
                  endings: Collection[str]) -> Decoder:
    """The decoding method that `options` (the decoding flags of opts.py) describe: a function (model, memory,
    uniforms) -> `Decoded` with n = `copies` captions per image.

    `uniforms(copies, longest)` returns the random numbers of `sample`.  UNK can be suppressed if it is the last
    word of `vocabulary` {index as text: word}.  No caption ends with one of the words `endings`.
    """
    unknown = unknown_word(vocabulary) if options.suppress_UNK else None
    last_words = tuple(int(index) for index, word in vocabulary.items() if word in endings)
    constraints = Constraints(unknown, options.decoding_constraint, options.block_trigrams, last_words)

    def decode(model: WordByWord, memory: Sized, uniforms: Callable[[int, int], Tensor]) -> Decoded:
        if not options.sample_max:
            return sample(model, memory, longest, copies, temperature=options.temperature, top_k=options.top_k,
                          top_p=options.top_p, constraints=constraints, uniforms=uniforms(copies, longest))
        if options.beam_size == 1:
            return sample(model, memory, longest, greedy=True, constraints=constraints)
        return beam_search(
            model, memory, longest, options.beam_size, options.group_size, options.diversity_lambda,
            options.length_penalty, options.max_ppl, copies, constraints)

    return decode


def unknown_word(vocabulary: Mapping[str, str]) -> int | None:
    """The index of UNK in `vocabulary` {index as text: word}, whose last word it is; None if there is none."""
    last = len(vocabulary)
    return last if vocabulary.get(str(last)) == 'UNK' else None


def transformer_arguments(options: Namespace) -> dict[str, Any]:
    """The arguments of `transformer`, which `spatial_pe` and `relation_transformer` share."""
    return dict(feature_size=options.img_feat_size, size=options.input_encoding_size, hidden=options.ff_size,
                layers=options.num_layers, heads=options.heads, dropout=options.dropout,
                feature_dropout=options.drop_prob_lm, norm=options.norm, activation=options.ff_activation,
                cross=options.cross_attn, use_bn=options.use_bn, fused=options.xlinear != 'plain')


def spatial_pe_arguments(options: Namespace) -> dict[str, Any]:
    """The arguments of `spatial_pe`."""
    place = position_encoding(options.enc_pos_type, options.enc_pos_embedding, options.input_encoding_size,
                              round(options.num_grids ** 0.5), options.dropout)
    return dict(place=place, **transformer_arguments(options))


def relation_transformer_arguments(options: Namespace) -> dict[str, Any]:
    """The arguments of `relation_transformer`."""
    relations = RelationBias(options.num_layers, options.heads, options.box_trignometric_embedding)
    return dict(relations=relations, extra_skip=options.legacy_extra_skip, **transformer_arguments(options))


def recurrent_arguments(options: Namespace) -> dict[str, Any]:
    """The arguments that all recurrent models share."""
    return dict(feature_size=options.img_feat_size, word_size=options.input_encoding_size,
                size=options.hidden_size, dropout=options.drop_prob_lm)


def show_tell_arguments(options: Namespace) -> dict[str, Any]:
    """The arguments of `show_tell`."""
    return dict(cell=options.rnn_type, **recurrent_arguments(options))


def show_attend_tell_arguments(options: Namespace) -> dict[str, Any]:
    """The arguments of `show_attend_tell`."""
    return dict(cell=options.rnn_type, inner=options.att_hid_size, **recurrent_arguments(options))


def topdown_arguments(options: Namespace) -> dict[str, Any]:
    """The arguments of `topdown`."""
    return dict(inner=options.att_hid_size, use_bn=options.use_bn, **recurrent_arguments(options))


# --caption_model: the class, and the function that turns the options into its named arguments.
MODELS: dict[str, tuple[Callable[..., CaptionModel], Callable[[Namespace], dict[str, Any]]]] = {
    'spatial_pe': (TransformerCaptioner, spatial_pe_arguments),
    'relation_transformer': (TransformerCaptioner, relation_transformer_arguments),
    'transformer': (TransformerCaptioner, transformer_arguments),
    'show_tell': (ShowTell, show_tell_arguments),
    'show_attend_tell': (ShowAttendTell, show_attend_tell_arguments),
    'topdown': (TopDown, topdown_arguments),
}
