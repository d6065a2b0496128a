"""Captioning images with a model, and the loss on their captions."""

import contextlib
import functools
import math

import torch

from misc import parallel
from misc.cli import Progress
from misc.training.draws import chances
from misc.training.finite import refusal
from misc.training.losses import caption_targets, mean_surprise


@contextlib.contextmanager
def evaluating(model):
    """Borrow the model with dropout off and no graph; its mode is restored at the end."""
    mode = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield model
    finally:
        model.train(mode)


def sentence(words, vocabulary):
    """Word indices, zero padded -> the caption as text."""
    return ' '.join(vocabulary[str(index)] for index in words if index)


def caption_images(model, batches, decode, images, vocabulary, device, total, seed=0, looks=False):
    """Caption `total` images -> a list of results in COCO's form, one per image.

    `batches` yields `Batch`es, `decode(model, memory, chances)` gives `Decoded`, `images` are the entries
    that the batches' row numbers point at.  Words that are drawn depend on `seed` and their image.  Each
    result has `image_id`, `caption`, `log_prob`, `file_path`, and `beams`, all captions of the image with
    their log-probabilities; with `looks` also `words`, those of the caption, and `attention`, as of
    `looks_of`.  Raises `DataError` where the model says nothing of an image that is a number.
    """
    def caption(batch):
        keys = [(seed, image) for image in batch.images]
        memory = model.encode(batch.to(device))
        decoded = decode(model, memory, functools.partial(chances, keys, device=device))
        rows = zip(batch.image_ids, batch.images, decoded.captions.tolist(), decoded.log_probs.tolist())
        found = [result(*row) for row in rows]
        if looks:
            seen = looks_of(model, memory, decoded.captions[:, :1], batch.counts)
            for entry, words, attention in zip(found, decoded.captions[:, 0].tolist(), seen):
                entry['words'] = [vocabulary[str(index)] for index in words if index]
                entry['attention'] = attention
        return found

    def result(image_id, row, captions, log_probs):
        beams = [{'caption': sentence(words, vocabulary), 'log_prob': log_prob}
                 for words, log_prob in zip(captions, log_probs) if log_prob > -float('inf')]
        if not beams:
            raise refusal('', 'the probability of any caption is', [image_id])
        return {'image_id': image_id, **beams[0], 'file_path': images[row].get('file_path', ''), 'beams': beams}

    return sum(of_all_batches(model, caption, batches, 'captioning', total), [])


def looks_of(model, memory, captions, counts):
    """What the words of `captions` (I, 1, T) looked at: for each image a dict of arrays (words, P), as of
    `word_attention`, with only its own words and regions (`counts` of them); or None."""
    attention = model.word_attention(memory, captions)
    if attention is None:
        return [None] * len(counts)
    lengths = (captions[:, 0] > 0).sum(1).tolist()
    attention = {name: weights[:, 0].float().cpu().numpy() for name, weights in attention.items()}
    return [{name: weights[image, :length, :regions].copy() for name, weights in attention.items()}
            for image, (length, regions) in enumerate(zip(lengths, counts))]


def mean_loss(model, batches, device, images, where='', folder=None):
    """The cross-entropy per token, without label smoothing, over all `batches` of `images` images.

    Raises `DataError` where it is not finite: with `where` and `folder` as of `refusal`.
    """
    def loss(batch):
        batch = batch.to(device)
        log_probs, places = model.word_log_probs(model.encode(batch), batch.captions, batch.lengths)
        mean = float(mean_surprise(log_probs, caption_targets(batch.captions, places)))
        if not math.isfinite(mean):
            raise refusal(where, 'the loss is', batch.image_ids, folder)
        return mean * len(places), len(places)

    totals, tokens = zip(*of_all_batches(model, loss, batches, 'loss', images))
    return sum(totals) / max(sum(tokens), 1)


def of_all_batches(model, work, batches, label, images):
    """What `work(batch)` returns of every batch, in order: of this process's `batches`, and of those of
    the others.  `images` in all are shown as progress."""
    def share():
        found = []
        with evaluating(model), Progress(images, label) as display:
            for batch in batches:
                found.append(work(batch))
                # The others keep step with this process, but for the last few images.
                display.update(min(len(batch) * parallel.count(), images - display.done))
        return found

    return parallel.put_together(parallel.gathered(share))
