"""Captioning images with a model, and the loss on their captions."""

import contextlib

import torch

from misc.cli import Progress
from misc.losses import caption_targets, mean_surprise


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


def caption_images(model, batches, decode, images, vocabulary, device, total):
    """Caption `total` images -> a list of results in COCO's form, one per image.

    `batches` yields `Batch`es, `decode(model, memory)` gives `Decoded`, `images` are the entries
    that the batches' row numbers point at.  Each result has `image_id`, `caption`, `log_prob`,
    `file_path`, and `beams`, all captions of the image with their log-probabilities.
    """
    results = []
    with evaluating(model), Progress(total, 'captioning') as display:
        for batch in batches:
            decoded = decode(model, model.encode(batch.to(device)))
            rows = zip(batch.image_ids, batch.images, decoded.captions.tolist(),
                       decoded.log_probs.tolist())
            for image_id, row, captions, log_probs in rows:
                beams = [{'caption': sentence(words, vocabulary), 'log_prob': log_prob}
                         for words, log_prob in zip(captions, log_probs) if log_prob > -float('inf')]
                results.append({'image_id': image_id, **beams[0],
                                'file_path': images[row].get('file_path', ''), 'beams': beams})
            display.update(len(batch.counts))
    return results


def mean_loss(model, batches, device, images):
    """The cross-entropy per token, without label smoothing, over all `batches` of `images` images."""
    total = tokens = 0
    with evaluating(model), Progress(images, 'loss') as display:
        for batch in batches:
            batch = batch.to(device)
            log_probs, places = model.word_log_probs(model.encode(batch), batch.captions)
            total += float(mean_surprise(log_probs, caption_targets(batch.captions, places))) * len(places)
            tokens += len(places)
            display.update(len(batch.counts))
    return total / max(tokens, 1)
