"""Validation during training: the loss and the language scores."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from misc import parallel
from misc.cli import note
from misc.evaluation.captioning import ImageCaptions, caption_images, mean_loss, never, words_of
from misc.scoring.checks import vocabulary_warning
from misc.scoring.endings import NAME as ENDINGS
from misc.scoring.endings import bad_endings
from misc.scoring.references import RAW, ImageId, captions_of


@dataclass(frozen=True)
class Validation:
    """The validation images, and how their captions are decoded and scored.

    batches             captions per image -> the `Batch`es of the images, in order, once; with 0 captions, of
                        the images alone.  Of several processes each yields its own share
    images              the data set's entries, which the batches' row numbers index
    total               validation images, over all processes
    vocabulary          {word index as text: word}
    decode              (model, memory, uniforms) -> `Decoded`, see `models.build_decoder`
    references          {image id: reference captions}; only language scores need them
    device              where the model is
    seed                of captions that are sampled
    captions_per_image  reference captions of each image that the loss is computed on
    folder              the run's folder, named in the error if the loss is not finite
    kind                of the references, see `misc.scoring.references`
    """

    batches: Callable[[int], Iterable[Any]]
    images: Sequence[Mapping[str, Any]]
    total: int
    vocabulary: Mapping[str, str]
    decode: Callable[..., Any]
    references: Mapping[ImageId, Sequence[str]] | None
    device: torch.device
    seed: int
    captions_per_image: int
    folder: str | None = None
    kind: str = RAW

    def run(self, model: Any, with_language: bool, context: str = '',
            stopped: Callable[[], bool] = never) -> dict[str, float]:
        """The scores of `model`: 'loss', and with `with_language` the metrics by name ('CIDEr', ...).

        All processes call this together and get the same scores.  `context` begins the message of the
        `DataError` that is raised if the loss is not finite.  Where `stopped()` is true in a process before a batch,
        all raise `Interrupted`.
        """
        scores = {'loss': mean_loss(model, self.batches(self.captions_per_image), self.device, self.total,
                                    context, self.folder, stopped)}
        if with_language:
            scores.update(self._language_scores(model, stopped))
        return scores

    def _language_scores(self, model: Any, stopped: Callable[[], bool]) -> dict[str, float]:
        results = caption_images(model, self.batches(0), self.decode, self.images, self.vocabulary, self.device,
                                 self.total, self.seed, stopped=stopped)
        return parallel.on_main(lambda: self._score(results))

    def _score(self, results: list[ImageCaptions]) -> dict[str, float]:
        from misc.scoring.metrics import score
        overall, _, notes = score({image.image_id: image.first.text for image in results},
                                  self.references or {}, kind=self.kind)
        for line in notes:
            note(f'note: {line}')
        share = bad_endings((image.first.text for image in results), (self.references or {}).values())
        return overall if share is None else {**overall, ENDINGS: share}


def reference_captions(corpus_images: Sequence[Mapping[str, Any]], rows: Sequence[int],
                       label_captions: Callable[[int], np.ndarray], vocabulary: Mapping[str, str],
                       source: str, kind: str = RAW) -> dict[ImageId, list[str]]:
    """{image id: reference captions} of the images `rows`, of a `kind` as in `misc.scoring.references`.

    For images whose entry has no captions, as in files made elsewhere, the words of the labels stand in:
    `label_captions(row)` (captions, T), zero padded.  A note says how many, and that `source` lacks them; a warning
    where few words of the references are in the vocabulary.
    """
    bare = sum(not corpus_images[row].get('captions') for row in rows)
    if bare:
        note(f'note: {bare} of {len(rows)} validation images have no captions in {source}; their labels, in which '
             'rare words are UNK, are used as references')
    captions: dict[ImageId, list[str]] = {}
    for row in rows:
        image = corpus_images[row]
        captions[image['id']] = captions_of(image, kind) if image.get('captions') else [
            ' '.join(words_of(words, vocabulary)) for words in label_captions(row).tolist()]
    warning = vocabulary_warning(captions, kind, vocabulary.values(), source)
    if warning:
        note(warning)
    return captions
