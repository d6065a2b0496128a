"""Captions of images, where their words looked, and the loss on reference captions."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from misc import parallel
from misc.cli import Progress
from misc.training.draws import uniform_numbers
from misc.training.losses import caption_targets, mean_negative_log_likelihood
from misc.training.step import not_finite

Result = TypeVar('Result')


class Interrupted(Exception):
    """Work on a split was left before its end because it was asked to stop."""


def never() -> bool:
    """Not asked to stop."""
    return False


@dataclass(frozen=True)
class Caption:
    """A caption, and the sum of the log-probabilities of its words and end token."""

    words: list[str]
    log_prob: float

    @property
    def text(self) -> str:
        """The words, separated by spaces."""
        return ' '.join(self.words)


@dataclass(frozen=True)
class ImageCaptions:
    """The captions of an image, in the order of the decoding method: the best beam, or the first sample, first.

    attention  {'mean': over the layers, 'last': the last layer alone, where there are several}: arrays (words,
               regions) of how much each word of the first caption looked at each region; rows sum to 1.  None if
               it was not asked for, or the model attends to no regions
    """

    image_id: int
    file_path: str
    captions: list[Caption]
    attention: dict[str, np.ndarray] | None = None

    @property
    def first(self) -> Caption:
        """The caption that is scored and shown."""
        return self.captions[0]


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[Any]:
    """Put the model into evaluation mode, without gradients; its mode is restored at the end."""
    mode = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield model
    finally:
        model.train(mode)


def words_of(indices: Iterable[int], vocabulary: Mapping[str, str]) -> list[str]:
    """Zero padded word indices -> the words; `vocabulary` is {index as text: word}."""
    return [vocabulary[str(index)] for index in indices if index]


def caption_images(model: Any, batches: Iterable[Any], decode: Callable[..., Any],
                   images: Sequence[Mapping[str, Any]], vocabulary: Mapping[str, str], device: torch.device,
                   total: int, seed: int = 0, with_attention: bool = False, show_progress: bool = True,
                   stopped: Callable[[], bool] = never, best_of: int = 1) -> list[ImageCaptions]:
    """Caption all images, in order; with several processes each does its share, and all get all results.

    batches         this process's `Batch`es
    decode          (model, memory, uniforms) -> `Decoded`, see `models.build_decoder`
    images          the data set's entries, which the batches' row numbers index
    total           images in all processes' batches, for the progress display
    seed            samples depend on it and their image, not on batches or processes
    with_attention  also keep the attention of each image's first caption
    stopped         asked before each batch, see `for_all_batches`
    best_of         the most probable of so many captions of each image comes first

    Raises `DataError` if the model computes no probability that is a number for an image.
    """
    def caption(batch):
        keys = [(seed, row) for row in batch.images]
        memory = model.encode(batch.to(device))
        decoded = decode(model, memory, functools.partial(uniform_numbers, keys, device=device))
        if best_of > 1:
            decoded = best_first(decoded, best_of)
        looks = word_attention(model, memory, decoded.captions[:, :1], batch.counts) if with_attention \
            else [None] * len(batch.images)
        return [ImageCaptions(image_id, images[row].get('file_path', ''), captions_of(image_id, indices, log_probs),
                              attention)
                for image_id, row, indices, log_probs, attention in zip(
                    batch.image_ids, batch.images, decoded.captions.tolist(), decoded.log_probs.tolist(), looks)]

    def captions_of(image_id, indices, log_probs):
        captions = [Caption(words_of(words, vocabulary), log_prob)
                    for words, log_prob in zip(indices, log_probs) if log_prob > -float('inf')]
        if not captions:
            raise not_finite('', 'the probability of any caption is', [image_id])
        return captions

    return sum(for_all_batches(model, caption, batches, 'captioning', total, show_progress, stopped), [])


def best_first(decoded: Any, count: int) -> Any:
    """A `Decoded` with the first `count` captions of each image in the order of their log-probabilities."""
    n = decoded.log_probs.shape[1]
    order = decoded.log_probs[:, :count].argsort(dim=1, descending=True, stable=True)  # (I, count)
    rest = torch.arange(order.shape[1], n, device=order.device).expand(len(order), -1)
    order = torch.cat((order, rest), 1)
    captions = decoded.captions.gather(1, order[..., None].expand_as(decoded.captions))
    return dataclasses.replace(decoded, captions=captions, log_probs=decoded.log_probs.gather(1, order))


def word_attention(model: Any, memory: Any, captions: torch.Tensor,
                   counts: Sequence[int]) -> list[dict[str, np.ndarray] | None]:
    """The attention of captions (I, 1, T), zero padded, to their images' regions, `counts` (I) of them: for each
    image as in `ImageCaptions`."""
    attention = model.word_attention(memory, captions)
    if attention is None:
        return [None] * len(counts)
    lengths = (captions[:, 0] > 0).sum(1).tolist()
    arrays = {name: weights[:, 0].float().cpu().numpy() for name, weights in attention.items()}  # (I, T + 1, P)
    return [{name: weights[image, :length, :regions].copy() for name, weights in arrays.items()}
            for image, (length, regions) in enumerate(zip(lengths, counts))]


def mean_loss(model: Any, batches: Iterable[Any], device: torch.device, total: int, context: str = '',
              folder: str | None = None, stopped: Callable[[], bool] = never) -> float:
    """The cross-entropy per token, without label smoothing, over the batches of all processes.

    `total` images are in them; `stopped` as for `for_all_batches`.  Raises `DataError` if it is not finite; its
    message begins with `context` and says what is left in the `folder` of a run.
    """
    def loss(batch):
        batch = batch.to(device)
        log_probs, places = model.word_log_probs(model.encode(batch), batch.captions, batch.lengths)
        mean = float(mean_negative_log_likelihood(log_probs, caption_targets(batch.captions, places)))
        if not math.isfinite(mean):
            raise not_finite(context, 'the loss is', batch.image_ids, folder)
        return mean * len(places), len(places)

    totals, tokens = zip(*for_all_batches(model, loss, batches, 'loss', total, stopped=stopped))
    return sum(totals) / max(sum(tokens), 1)


def for_all_batches(model: Any, work: Callable[[Any], Result], batches: Iterable[Any], label: str,
                    total: int, show_progress: bool = True, stopped: Callable[[], bool] = never) -> list[Result]:
    """The results of `work(batch)` for the batches of all processes, in order, with the model in evaluation mode.

    Each process has every n-th batch; progress out of `total` images is shown under `label`.  Where `stopped()` is
    true in a process, that process leaves off, and in the end all raise `Interrupted`.
    """
    def share() -> list[Result] | None:
        results: list[Result] = []
        nothing: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        with evaluating(model), Progress(total, label) if show_progress else nothing as display:
            for batch in batches:
                if stopped():
                    return None
                results.append(work(batch))
                if display is not None:
                    # The other processes are about as far; the last batches may be smaller.
                    display.update(min(len(batch) * parallel.count(), total - display.done))
        return results

    shares = parallel.gathered(share)
    if any(share is None for share in shares):
        raise Interrupted
    return parallel.put_together([share or [] for share in shares])
