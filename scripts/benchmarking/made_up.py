"""A synthetic model, images and captions to time, of the sizes of training on COCO with the README's model."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

import models
import opts
from dataloader import Batch
from misc.evaluation.captioning import evaluating
from models.base import CaptionModel


@dataclass
class Sizes:
    """The sizes of all inputs and of the model."""

    flags: str = ''              # of train.py, where they differ from the defaults
    words: int = 9487            # in the vocabulary
    longest: int = 16            # most words of a caption
    shrink: int = 1              # images have this many times fewer regions
    beam_images: int = 8
    sampled_images: int = 9
    plain_sampled_images: int = 3   # they take 2 GB each; these have the mean number of regions
    step_images: int = 15
    table_images: int = 20000    # behind the document frequencies of CIDEr-D
    scored: int = 1000           # captions that CIDEr-D scores at a time
    read_images: int = 50        # images whose features are read


# A small model and little work, for `--quick`.
QUICK = Sizes(flags='--num_layers 1 --input_encoding_size 64 --ff_size 128 --heads 4 --img_feat_size 64 '
                    '--num_grids 16', words=300, longest=8, shrink=8, beam_images=2,
              sampled_images=2, plain_sampled_images=2, step_images=2, table_images=40, scored=200,
              read_images=10)


def region_counts(images: int, sizes: Sizes, seed: int = 0) -> list[int]:
    """Regions of each image: normal with mean 50 and deviation 20, clipped to 10..100."""
    drawn = np.random.default_rng(seed).normal(50, 20, images).clip(10, 100) / sizes.shrink
    return [int(count) for count in drawn.round()]


def caption_lengths(captions: int, sizes: Sizes, seed: int) -> np.ndarray:
    """Words of each caption: normal with mean 10.5 and deviation 2.4, clipped to 6..16."""
    drawn = np.random.default_rng(seed).normal(10.5, 2.4, captions).round().clip(6, 16)
    return (drawn * sizes.longest / 16).astype(int)


def made_up_batch(counts: Sequence[int], sizes: Sizes, options: argparse.Namespace, seed: int,
                  copies: int = 5) -> Batch:
    """A batch of random images with `counts` regions and `copies` random captions each.

    Each feature is half its region's and half its image's: the regions of an image are similar, so the
    captions of different images differ.
    """
    generator = torch.Generator().manual_seed(seed)
    I, M, D = len(counts), sum(counts), options.img_feat_size
    images = torch.randn(I, D, generator=generator).repeat_interleave(torch.tensor(counts), 0)
    features = (images + torch.randn(M, D, generator=generator)).relu()
    captions = torch.randint(1, sizes.words + 1, (I * copies, sizes.longest), generator=generator)
    lengths = torch.from_numpy(caption_lengths(I * copies, sizes, seed))
    captions *= torch.arange(sizes.longest) < lengths[:, None]
    grids = torch.rand(M, options.num_grids, generator=generator)
    boxes = torch.rand(M, 2, 2, generator=generator).sort(1).values.view(M, 4)
    fc = torch.stack([one.mean(0) for one in features.split(list(counts))])
    return Batch(list(range(I)), list(range(I)), list(counts), features, grids, boxes,
                 captions.view(I, copies, sizes.longest), fc=fc)


def made_up_model(sizes: Sizes, batch: Batch) -> CaptionModel:
    """A model with random weights, changed to write captions as a trained one does.

    Plain random weights give all words about the same probability, and captions end at once or never,
    whatever the bias of the end token.  So the output layer is scaled until the most probable word has
    about half of the probability (logits with a standard deviation of 6), and the end token gets
    weights with which its logit, at the mean state of each position, rises by 1.5 a word and passes
    that of the most probable word near the ninth of sixteen words.  Captions of `batch`, whether
    greedy, sampled or from a beam search, then have about 10 words and differ between images.
    """
    torch.manual_seed(1)
    model = models.build(model_options(sizes), sizes.words + 1, sizes.longest)
    T = sizes.longest
    generator = torch.Generator().manual_seed(3)
    captions = torch.randint(1, sizes.words + 1, (len(batch.counts), 5, T), generator=generator)
    with evaluating(model):
        states, _ = model.word_states(model.encode(batch), captions)
        model.output.weight *= 6 / model.output(states).std()
        level = model.output(states)[:, 1:].amax(1).mean()
        wanted = level + 1.5 * 16 / T * (torch.arange(T + 1) - 0.55 * T)
        mean_states = states.view(-1, T + 1, states.shape[1]).mean(0)
        model.output.weight[0] = torch.linalg.lstsq(mean_states, wanted[:, None]).solution[:, 0]
    return model


def model_options(sizes: Sizes) -> argparse.Namespace:
    """The options of train.py for a model of these sizes."""
    options, _ = opts.parse(opts.train_parser(), ['--cross_attn', 'xlinear', *sizes.flags.split()])
    return opts.with_feature_size(options, None, None)


def made_up_sentences(images: int, references: int, words: int, width: int, seed: int) -> list[np.ndarray]:
    """Captions of `images` images, each (references, width) of int and zero padded; words follow Zipf's law.

    The captions of an image are noisy copies of one sentence and so share about as many n-grams as
    captions that people write of one image.
    """
    draw = np.random.default_rng(seed)
    rank = 1.0 / np.arange(1, words + 1)
    rank /= rank.sum()
    topics = 1 + draw.choice(words, (images, 1, width), p=rank)
    other = 1 + draw.choice(words, (images, references, width), p=rank)
    rows = np.where(draw.random(other.shape) < 0.5, topics, other)
    lengths = draw.integers(8, width + 1, (images, references, 1))
    return list(np.where(np.arange(width) < lengths, rows, 0))
