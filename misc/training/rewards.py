"""The reward of sampled captions and its baseline (Rennie et al., CVPR 2017), and the table that CIDEr-D needs.

Captions are rows of word indices, as in `misc.training.ngrams`: a row with a 0 ended there, and its end token is
scored too; one without was cut.  Letters: I images, S samples of each, T words.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from misc import commands
from misc.cli import DataError, Progress, UsageError, note
from misc.scoring.bleu import closest, sentence_bleu
from misc.scoring.frequencies import table_path
from misc.training.cider import CiderD, References, ReferencesOf, padded
from misc.training.ngrams import MAX_N, lengths_of

BASELINES = ('greedy', 'mean')
LEAST_COVERAGE = 0.95  # of the n-grams of training captions by their table; the right table has all of them
AT_ONCE = 1000         # images whose references are prepared at a time
CHECKED = 500          # training images whose captions are compared with the table
LEAST_SCORE = 0.05     # of references against each other; those of COCO reach about 0.9


class Rewards:
    """The reward r, a weighted sum of CIDEr-D and BLEU-4, and its advantage r(w) - b over a baseline b.

    Built once and kept, with what it computes from each image's references.
    """

    def __init__(self, cider: CiderD, references_of: ReferencesOf, max_length: int, cider_weight: float = 1.0,
                 bleu_weight: float = 0.0, baseline: str = 'greedy', image_ids: Collection[int] = ()) -> None:
        """`references_of(image_id)`: the image's captions, int (R, max_length), zero padded; called once for each
        image.  `max_length`: the number of words at which decoding stops.  `baseline`: the reward of the image's
        `greedy` caption, or the `mean` reward of its other samples.  `image_ids`: for `prepare`.  Raises
        `UsageError`.
        """
        if baseline not in BASELINES:
            raise UsageError(f'--sc_baseline: {baseline!r} is not known; allowed are {", ".join(BASELINES)}')
        if not cider_weight and not bleu_weight:
            raise UsageError('--cider_reward_weight and --bleu_reward_weight are both 0: '
                             'give at least one of them another value')
        self.cider, self.references_of, self.max_length = cider, references_of, max_length
        self.weights = {'cider': float(cider_weight), 'bleu': float(bleu_weight)}
        self.baseline, self.image_ids = baseline, image_ids

    def prepare(self) -> None:
        """Compute what is kept of the references of all of `image_ids`, with a progress bar, so that the steps of the
        first epoch take no longer than those of the others."""
        new = [image_id for image_id in self.image_ids if image_id not in self.cider.known]
        with Progress(len(new), 'references') as display:
            for block in (new[start:start + AT_ONCE] for start in range(0, len(new), AT_ONCE)):
                self.cider.references_for(block, self.references_of)
                display.update(len(block))

    def describe(self) -> dict[str, Any]:
        """The settings, for the log and the checkpoint."""
        return {'cider_reward_weight': self.weights['cider'], 'bleu_reward_weight': self.weights['bleu'],
                'sc_baseline': self.baseline, 'end_token_in_reward': True}

    def __call__(self, image_ids: Sequence[int] | np.ndarray, samples: Any,
                 greedy: Any = None) -> tuple[np.ndarray, dict[str, float]]:
        """(advantage, statistics) of samples (I, S, T), an int array or tensor.

        The advantage, float32 (I, S), is r(w) - b.  With the baseline `greedy`, b is the reward of the image's
        greedy caption in `greedy` (I, T) (Rennie et al. 2017, equation 8); with `mean`, the mean reward of its other
        samples (Luo 2020).

        `statistics` holds means over the samples: `reward`, `baseline`, `advantage`, each term of the reward
        before weighting, `ended` (the share that end before the longest length), `words` (end token not counted).
        """
        samples = self.full_width(samples)
        S = samples.shape[1]
        captions = samples
        if self.baseline == 'greedy':
            captions = np.concatenate([samples, self.full_width(greedy)[:, None]], 1)  # (I, S + 1, T)
        elif S < 2:
            raise UsageError('--sc_baseline mean compares each sample with the others of its image: '
                             '--sc_samples must be at least 2')
        terms = self.terms(image_ids, captions)
        total: Any = sum(self.weights[name] * term for name, term in terms.items())
        reward = total[:, :S]
        if self.baseline == 'greedy':
            baseline = total[:, S:].repeat(S, 1)
        else:
            baseline = (reward.sum(1, keepdims=True) - reward) / (S - 1)
        ended = (samples == 0).any(-1)
        means = {'reward': reward, 'baseline': baseline, 'advantage': reward - baseline, 'ended': ended,
                 'words': lengths_of(samples) - ended, **{name: term[:, :S] for name, term in terms.items()}}
        return (reward - baseline).astype(np.float32), {
            name: float(value.mean()) for name, value in means.items()}

    def terms(self, image_ids: Sequence[int] | np.ndarray, captions: Any) -> dict[str, np.ndarray]:
        """{'cider': float64 (I, S), 'bleu': the same} of captions (I, S, T), without terms whose weight is 0."""
        rows = self.full_width(captions)
        I, S, T = rows.shape
        references, owners = self.cider.references_for(image_ids, self.references_of), np.repeat(np.arange(I), S)
        rows = rows.reshape(I * S, T)
        terms = {}
        if self.weights['cider']:
            terms['cider'] = self.cider.scores(rows, owners, references).reshape(I, S)
        if self.weights['bleu']:
            terms['bleu'] = bleu_4(self.cider, rows, owners, references).reshape(I, S)
        return terms

    def full_width(self, captions: Any) -> np.ndarray:
        """Captions (..., T), an array or tensor, as an int array (..., max_length).

        Decoding may return fewer columns where all captions ended early.  None was cut then, and the padding gives
        each the 0 that its last column may lack.
        """
        captions = np.asarray(captions.cpu() if hasattr(captions, 'cpu') else captions)
        missing = self.max_length - captions.shape[-1]
        if missing < 0:
            raise ValueError(f'captions of {captions.shape[-1]} words where at most {self.max_length} are allowed')
        return np.pad(captions, [(0, 0)] * (captions.ndim - 1) + [(0, missing)])


def mean_statistics(parts: Sequence[tuple[int, Mapping[str, float]]]) -> dict[str, float]:
    """The statistics of a batch from [(number of images, statistics)] of its parts."""
    images = sum(count for count, _ in parts)
    names = parts[0][1] if parts else ()
    return {name: sum(count * statistics[name] for count, statistics in parts) / images for name in names}


def bleu_4(cider: CiderD, captions: np.ndarray, owners: np.ndarray, references: Sequence[References]) -> np.ndarray:
    """BLEU-4 of each caption, float64 (B,), as coco-caption scores a sentence; arguments as for `CiderD.scores`."""
    owners, scores = np.asarray(owners), np.zeros(len(captions))
    if not len(captions):
        return scores
    # An image with fewer references gets its first one again, which changes no closest length.
    lengths = padded([image.lengths for image in references])
    lengths = np.where(lengths > 0, lengths, lengths[:, :1])  # (I, R)
    for block, matches in cider.matches(captions, owners, references):
        own = matches.ngrams.counts[matches.hits]  # (H,)
        shares = np.minimum(own, matches.counts.max(1)) / own  # each n-gram has as many entries as its count
        clipped = np.bincount(matches.ngrams.cells[matches.hits], shares,
                              minlength=len(matches.lengths) * MAX_N).round().reshape(-1, MAX_N)
        scores[block] = sentence_bleu(clipped, matches.lengths, closest(matches.lengths, lengths[owners[block]]))
    return scores


# ---- the document-frequency table ----

def load_cider(name: str, folder: str = 'data') -> CiderD:
    """The `CiderD` with the table of `--cached_tokens NAME`.  Raises `DataError`."""
    return CiderD.from_pickle(table_path(name, folder), commands.NGRAMS)


def load_rewards(table: str, row_of: Mapping[int, int], captions_of: Callable[[int], np.ndarray], max_length: int,
                 cider_weight: float, bleu_weight: float, baseline: str) -> Rewards:
    """The `Rewards` with the document frequencies of `--cached_tokens` `table`, checked against training captions.

    `row_of` {image id: row} of the training images, `captions_of(row)` int (R, max_length) zero padded.  A note says
    how well the table fits.  Raises `DataError` where it does not.
    """
    cider = load_cider(table)
    found = check_table(cider, {image: captions_of(row) for image, row in list(row_of.items())[:CHECKED]})
    note(f'{cider.name} holds {found["coverage"]:.1%} of the n-grams of the training captions, which score '
         f'{found["score"]:.2f} against each other')
    return Rewards(cider, lambda image_id: captions_of(row_of[image_id]), max_length, cider_weight, bleu_weight,
                   baseline, row_of)


def check_table(cider: CiderD, references: Mapping[int, np.ndarray]) -> dict[str, float]:
    """Check that the table was made from captions like these, with their vocabulary.

    `references`: {image id: int (R, width)} of some training images.  With another vocabulary the scores would not
    be low (n-grams that the table lacks weigh most), so the share of n-grams found is checked first: a table
    holds all of its own captions.  Then each reference is scored against the others of its image.

    Returns {'coverage': the share of n-grams found, 'score': the mean CIDEr-D, nan where no image has two
    references}.  Raises `DataError`.
    """
    way_out = f'make it again with:\n{commands.NGRAMS}'
    coverage = float(np.mean([cider.table.coverage(rows) for rows in references.values()]))
    if coverage < LEAST_COVERAGE:
        raise DataError(f'{cider.name} holds {coverage:.0%} of the n-grams of the training captions, not all '
                        'of them: it was made from other captions or with another vocabulary (--dict_json); '
                        + way_out)
    if cider.table.idf.min() < 0:
        raise DataError(f'{cider.name} has n-grams in more images than its ref_len, {cider.table.images:g}; '
                        + way_out)
    rows: list[np.ndarray] = []
    others: list[np.ndarray] = []
    for image in map(np.asarray, references.values()):
        if len(image) > 1:
            rows.extend(image)
            others.extend(np.delete(image, place, 0) for place in range(len(image)))
    if not rows:
        return {'coverage': coverage, 'score': float('nan')}
    score = float(cider.scores(padded(rows), np.arange(len(rows)), cider.prepare(others)).mean())
    if score < LEAST_SCORE:
        raise DataError(f'with {cider.name}, training captions score {score:.2f} against the others of their '
                        f'image (on COCO about 0.9), so rewards would be noise; {way_out}')
    return {'coverage': coverage, 'score': score}
