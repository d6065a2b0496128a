"""Count what works of the README's model ask of a GPU, without one: `python -m tests.helpers.device_counts`.

Prints the table of docs/gpu.md: kernels, waits of the host and copies from it, of each work, on the pretend device.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

import train
from misc.training.cider import CiderD
from misc.training.losses import all_finite, caption_loss
from misc.training.optim import build_optimiser, set_rate
from misc.training.rewards import Rewards
from misc.training.step import guarded_step
from models.base import CaptionModel
from models.decoding import beam_search, sample
from scripts.benchmarking.made_up import Sizes, made_up_batch, made_up_model, model_options, region_counts
from scripts.benchmarking.workloads import REGIONS, WORDS_SEED
from tests import naive
from tests.helpers.pretend_device import DEVICE, Counts, pretend_device

# A work on a model on the device and a batch on the host yields, after each of its parts, the part's name and what
# came out; what it does before a part without a name is not counted.
Part = tuple[str, Any]
Work = Callable[[CaptionModel, Any], Iterator[Part]]


def cross_entropy(model: CaptionModel, batch: Any) -> Iterator[Part]:
    """Loss and gradients of the first phase."""
    batch = batch.pin_memory()
    yield '', None
    loss = caption_loss(model.train(), batch.to(DEVICE))['loss']
    yield 'cross-entropy, 15 images x 5 captions: forward', loss
    loss.backward()
    yield 'the same: backward', None


def update(model: CaptionModel, batch: Any) -> Iterator[Part]:
    """What follows in both phases; the gradients are made up."""
    parameters = list(model.parameters())
    optimiser = build_optimiser(parameters, 'adam')
    set_rate(optimiser, 1e-4)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    yield '', None
    finite = all_finite(torch.zeros((), device=DEVICE), parameters)
    torch.nn.utils.clip_grad_value_(parameters, 0.1)
    guarded_step(optimiser, finite)
    yield 'check, clipping, Adam', finite


@torch.no_grad()
def greedy_and_samples(model: CaptionModel, batch: Any) -> Iterator[Part]:
    """Greedy captions, and five samples of each image."""
    memory = model.eval().encode(batch.pin_memory().to(DEVICE))
    uniforms = torch.rand(len(memory) * 5, model.longest, device=DEVICE)
    yield '', None
    found = sample(model, memory, model.longest, greedy=True)
    yield 'greedy captions of 15 images', found.captions
    found = sample(model, memory, model.longest, copies=5, uniforms=uniforms)
    yield 'five samples of each', found.captions


@torch.no_grad()
def beams(model: CaptionModel, batch: Any) -> Iterator[Part]:
    """Five beams."""
    memory = model.eval().encode(batch.pin_memory().to(DEVICE))
    yield '', None
    found = beam_search(model, memory, model.longest, 5)
    yield 'beam search, 5 beams x 50 images', found.captions


def self_critical(model: CaptionModel, batch: Any) -> Iterator[Part]:
    """A step of the second phase; the rewards compare with the batch's captions."""
    references = batch.captions.numpy()
    rewards = Rewards(CiderD(naive.ngram_frequency(references), len(references)), lambda i: references[i],
                      model.longest)
    batch = batch.pin_memory().to(DEVICE)
    yield '', None
    terms, statistics = train.self_critical(model.train(), rewards, batch, samples=5, longest=model.longest, seed=1,
                                            amp='off')
    yield 'self-critical step, 15 images x 5 samples: up to the loss', statistics
    terms['loss'].backward()
    yield 'the same: backward', None


# The works, with the regions of each image and the seed of the captions.
WORKS: list[tuple[Work, list[int], int]] = [
    (cross_entropy, REGIONS, WORDS_SEED), (update, REGIONS[:1], 1), (greedy_and_samples, REGIONS, WORDS_SEED),
    (beams, region_counts(50, Sizes()), 2), (self_critical, REGIONS, WORDS_SEED)]


def counted(work: Work, regions: list[int], seed: int, sizes: Sizes) -> Iterator[tuple[str, Counts, Any]]:
    """Yield the name, the counts and the result of each part of a work; the counts are cleared when the next part is
    asked for."""
    batch = made_up_batch(regions, sizes, model_options(sizes), seed)
    model = made_up_model(sizes, batch)
    with pretend_device() as counts:
        for name, result in work(model.to(DEVICE), batch):
            if name:
                yield name, counts, result
            counts.clear()


def main() -> None:
    """Print the table, as Markdown."""
    torch.set_num_threads(1)
    print('| work | kernels | waits | copies |\n| --- | --- | --- | --- |')
    for work, regions, seed in WORKS:
        for name, counts, _ in counted(work, regions, seed, Sizes()):
            print(f'| {name} | {counts.kernels:,} | {counts.waits.total()} | {counts.copies.total()} |', flush=True)


if __name__ == '__main__':
    sys.exit(main())
