"""Captioning models.  `build` makes one from the options: nothing below this file reads them.

registry.py says what each model is called, reads and takes; base.py what a model does.  transformer.py and
recurrent.py hold the models; attention.py, xlinear.py, position.py, geometry.py, norms.py, dropout.py and cells.py
their layers.  decoding.py writes captions with any model, ensemble.py joins several.  kernels/ holds hand-written
gradients; read it last.

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

from __future__ import annotations

import importlib
from argparse import Namespace
from collections.abc import Callable, Collection, Mapping, Sized
from typing import TYPE_CHECKING, Any

from models.registry import MODELS

if TYPE_CHECKING:  # opts.py reads the registry before anything has loaded torch
    import torch
    from torch import Tensor

    from models.base import CaptionModel
    from models.decoding import Decoded, Decoder, WordByWord
    from models.graphs import Run
    from models.step_graphs import StepGraphs


def build(options: Namespace, vocab_size: int, longest: int) -> CaptionModel:
    """The model that `options` (the model flags of opts.py) describe.

    `vocab_size` V counts the words and the end token; captions are cut at `longest` T words.  Raises `ValueError` for
    a model that reads what the registry does not say.
    """
    described = MODELS[options.caption_model]
    file, name = described.builder.split(':')
    build_it = getattr(importlib.import_module(f'models.{file}'), name)
    model = build_it(vocab_size, longest,
                     **{argument: getattr(options, option) for argument, option in described.arguments.items()})
    unsaid = set(model.needs) - described.needs(options)
    if unsaid:
        raise ValueError(f'{options.caption_model} reads {", ".join(sorted(unsaid))}, which its line in '
                         'models/registry.py does not say; add it to `inputs` or `places`')
    return model


def xlinear_obstacle(options: Namespace, device: torch.device) -> str | None:
    """Why `device` cannot run the fused kernels of the model's X-linear attention; None where it can, or where the
    model has no such attention."""
    if options.cross_attn != 'xlinear' or 'xlinear' not in MODELS[options.caption_model].flags:
        return None
    from models.kernels import fused_obstacle
    return fused_obstacle(device, options.input_encoding_size)


def build_decoder(options: Namespace, longest: int, vocabulary: Mapping[str, str], copies: int = 1, *,
                  endings: Collection[str], run: Run | None = None) -> Decoder:
    """The decoding method that `options` (the decoding flags of opts.py) describe: a function (model, memory,
    uniforms) -> `Decoded` with n = `copies` captions per image.

    `uniforms(copies, longest)` returns the random numbers of `sample`.  UNK can be suppressed if it is the last
    word of `vocabulary` {index as text: word}.  No caption ends with one of the words `endings`.  `run` is what
    `decoding_run` returns; by default decoding goes word by word.
    """
    from models.decoding import Constraints, beam_search, sample
    from models.graphs import run_directly
    run = run or run_directly
    unknown = unknown_word(vocabulary) if options.suppress_UNK else None
    last_words = tuple(int(index) for index, word in vocabulary.items() if word in endings)
    constraints = Constraints(unknown, options.decoding_constraint, options.block_trigrams, last_words)

    def decode(model: WordByWord, memory: Sized, uniforms: Callable[[int, int], Tensor]) -> Decoded:
        if not options.sample_max:
            return run(sample, model, memory, uniforms(copies, longest), longest=longest, copies=copies,
                       temperature=options.temperature, top_k=options.top_k, top_p=options.top_p,
                       constraints=constraints)
        if options.beam_size == 1:
            return run(sample, model, memory, longest=longest, greedy=True, constraints=constraints)
        return run(beam_search, model, memory, longest=longest, beam_size=options.beam_size,
                   group_size=options.group_size, diversity_lambda=options.diversity_lambda,
                   length_penalty=options.length_penalty, max_ppl=options.max_ppl, results=copies,
                   constraints=constraints)

    return decode


def decoding_run(options: Namespace, device: torch.device) -> Run:
    """How decoding runs on `device`: as CUDA graphs, unless `--cuda_graphs 0` says otherwise, or word by word."""
    from models.graphs import Graphs, run_directly
    if device.type != 'cuda' or options.cuda_graphs == '0':
        return run_directly
    return Graphs(required=options.cuda_graphs == '1')


def recorded_steps(options: Namespace, model: CaptionModel, loss: Callable[[Any], Tensor], device: torch.device,
                   processes: int) -> tuple[StepGraphs | None, str]:
    """What computes `loss(batch)` of cross-entropy training and its gradients as CUDA graphs, and '', or None and why
    it cannot; None and '' where none are asked for, or the device has none."""
    from models.step_graphs import StepGraphs
    if device.type != 'cuda' or options.cuda_graphs == '0':
        return None, ''
    if processes > 1:
        return None, 'several processes send gradients while others are computed'
    if options.accumulate > 1:
        return None, '--accumulate adds up gradients'
    if options.use_bn:
        return None, '--use_bn would take padding into its statistics'
    if not model.takes_padding():
        return None, f'{options.caption_model} computes other shapes for every batch'
    return StepGraphs(model, loss, device, options.cuda_graphs == '1'), ''


def unknown_word(vocabulary: Mapping[str, str]) -> int | None:
    """The index of UNK in `vocabulary` {index as text: word}, whose last word it is; None if there is none."""
    last = len(vocabulary)
    return last if vocabulary.get(str(last)) == 'UNK' else None
