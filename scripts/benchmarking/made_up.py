"""A made-up model, images and captions of the sizes of COCO, for timing.

Sizes are those of training on COCO with the README's model.
"""

from dataclasses import dataclass

import numpy as np
import torch

import models
import opts
from dataloader import Batch
from misc.evaluation.captioning import evaluating


@dataclass
class Sizes:
    """How large everything is; the model is the README's, or a small one with `--quick`."""

    flags: str = ''              # of train.py, where they differ from their defaults
    words: int = 9487            # of the vocabulary
    longest: int = 16            # words of a caption
    shrink: int = 1              # images have this many times fewer regions
    matrix: int = 2048           # side of the matrices whose product gives the machine's rate
    beam_images: int = 8
    sampled_images: int = 9
    plain_sampled_images: int = 3   # at 2 GB each; these have as many regions as the mean
    step_images: int = 15
    table_images: int = 20000    # behind the document frequencies of CIDEr-D
    scored: int = 1000           # captions that CIDEr-D scores at a time
    read_images: int = 50        # whose features are read


QUICK = Sizes(flags='--num_layers 1 --input_encoding_size 64 --ff_size 128 --heads 4 --img_feat_size 64 '
                    '--num_grids 16', words=300, longest=8, shrink=8, matrix=256, beam_images=2,
              sampled_images=2, plain_sampled_images=2, step_images=2, table_images=40, scored=200,
              read_images=10)


def region_counts(images, sizes, seed=0):
    """Regions of each image: normal with mean 50 and deviation 20, clipped to 10..100."""
    drawn = np.random.default_rng(seed).normal(50, 20, images).clip(10, 100) / sizes.shrink
    return [int(count) for count in drawn.round()]


def caption_lengths(captions, sizes, seed):
    """Words of each caption: normal with mean 10.5 and deviation 2.4, clipped to 6..16."""
    drawn = np.random.default_rng(seed).normal(10.5, 2.4, captions).round().clip(6, 16)
    return (drawn * sizes.longest / 16).astype(int)


def made_up_batch(counts, sizes, options, seed, copies=5):
    """A `Batch` of random images, with `copies` random captions each.

    Half of a region's feature is its image's: regions of a picture are alike, and captions of
    different pictures differ.
    """
    generator = torch.Generator().manual_seed(seed)
    I, M, D = len(counts), sum(counts), options.img_feat_size
    images = torch.randn(I, D, generator=generator).repeat_interleave(torch.tensor(counts), 0)
    features = (images + torch.randn(M, D, generator=generator)).relu()
    captions = torch.randint(1, sizes.words + 1, (I * copies, sizes.longest), generator=generator)
    lengths = torch.from_numpy(caption_lengths(I * copies, sizes, seed))
    captions *= torch.arange(sizes.longest) < lengths[:, None]
    return Batch(list(range(I)), list(range(I)), list(counts), features,
                 torch.rand(M, options.num_grids, generator=generator), None,
                 captions.view(I, copies, sizes.longest))


def made_up_model(sizes, batch):
    """The model with random weights, changed so that it writes as a trained one does.

    As they come, random weights give all words about the same probability, and whatever the bias
    of the end token, captions end at once or never.  So the output layer is scaled until the
    likeliest word has about half of the probability (logits of deviation 6), and the end token
    gets weights with which its logit, at the mean state of each position, rises by 1.5 a word and
    passes the level of the likeliest word near the ninth of sixteen words.  Captions of `batch`
    then have about 10 words, greedy, sampled or from beams, and are another for each image.
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
        mean_states = states.view(-1, T + 1, model.size).mean(0)
        model.output.weight[0] = torch.linalg.lstsq(mean_states, wanted[:, None]).solution[:, 0]
    return model


def model_options(sizes):
    """The options of the README's model, or of the small one."""
    return opts.parse(opts.train_parser(), ['--cross_attn', 'xlinear', *sizes.flags.split()])[0]


def made_up_sentences(images, references, words, width, seed):
    """Captions of words drawn by rank: a list of int (references, width), zero padded.

    Each image has a topic sentence, and its captions are noisy copies of it, so that they share
    about as many n-grams as people's captions of one picture do.
    """
    draw = np.random.default_rng(seed)
    rank = 1.0 / np.arange(1, words + 1)
    rank /= rank.sum()
    topics = 1 + draw.choice(words, (images, 1, width), p=rank)
    other = 1 + draw.choice(words, (images, references, width), p=rank)
    rows = np.where(draw.random(other.shape) < 0.5, topics, other)
    lengths = draw.integers(8, width + 1, (images, references, 1))
    return list(np.where(np.arange(width) < lengths, rows, 0))
