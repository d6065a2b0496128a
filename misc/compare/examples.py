"""Images on which a run wins or loses most against the baseline, and the words in which two captions differ."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from misc.compare.comparison import Comparison, image_gains
from misc.scoring.references import ImageId
from misc.scoring.results import Results


@dataclass
class Example:
    """An image that one run captions better than the other: their scores, and the gain over the baseline's,
    negative where the baseline is better."""

    image: ImageId
    baseline: float
    score: float
    gain: float


def largest_gains(baseline: Results, run: Results, metric: str, images: Sequence[ImageId], number: int
                  ) -> tuple[list[Example], list[Example]]:
    """The `number` largest wins and the `number` largest losses of a run in one metric, ties excluded."""
    examples = [Example(image, baseline.image_scores[metric][image], run.image_scores[metric][image], gain)
                for image, gain in zip(images, image_gains(baseline, run, metric, images))]
    examples.sort(key=lambda example: -example.gain)
    wins = [example for example in examples[:number] if example.gain > 0]
    losses = [example for example in examples[::-1][:number] if example.gain < 0]
    return wins, losses


def shown_images(comparison: Comparison, runs: Sequence[Results], number: int) -> list[ImageId]:
    """All images among the `number` largest wins and losses of every run and metric, each once."""
    by_name = {run.name: run for run in runs}
    return list(dict.fromkeys(
        example.image for difference in comparison.differences
        for side in largest_gains(by_name[comparison.baseline], by_name[difference.run], difference.metric,
                                  comparison.images, number)
        for example in side))


Words = list[tuple[str, bool]]    # stretches of a caption, and whether the other caption lacks them


def differing_words(first: str, second: str) -> tuple[Words, Words]:
    """Two captions in stretches of words, with those marked that only one of them has."""
    words = first.split(), second.split()
    stretches: tuple[Words, Words] = [], []
    for change, *places in difflib.SequenceMatcher(None, *words, autojunk=False).get_opcodes():
        for caption, found, start, end in zip(words, stretches, places[::2], places[1::2]):
            if end > start:
                found.append((' '.join(caption[start:end]), change != 'equal'))
    return stretches
