"""The reward of sampled captions and the baseline it is held against (Rennie et al., CVPR 2017).

Captions are rows of word indices, as in `misc.training.cider`: a row with a 0 ended there, and its end
token is part of what is scored; one without was cut.  I images, S samples of each, T words.
"""

import os

import numpy as np

from misc import commands
from misc.cli import DataError, UsageError
from misc.scoring.bleu import bleu_of, closest
from misc.training.cider import ORDERS, CiderD, lengths_of, padded

BASELINES = ('greedy', 'mean')
LEAST_COVERAGE = 0.95  # of training captions by their table; made from them and their words, it has all
LEAST_SCORE = 0.05     # of references against each other; people's captions of COCO reach about 0.9


class Rewards:
    """The weighted sum of CIDEr-D and BLEU-4, and its advantage over a baseline.

    Built once and kept, with what it makes of each image's references.
    """

    def __init__(self, cider, references_of, max_length, cider_weight=1.0, bleu_weight=0.0,
                 baseline='greedy'):
        """`cider`: a `CiderD`.  `references_of(image_id)`: the image's captions, int
        (R, max_length), zero padded; called once per image.  `max_length`: words at which
        decoding stops.  `baseline`: the image's `greedy` caption, or the `mean` of its other samples.
        """
        if baseline not in BASELINES:
            raise UsageError(f'--sc_baseline: {baseline!r} is not known; allowed are {", ".join(BASELINES)}')
        if not cider_weight and not bleu_weight:
            raise UsageError('--cider_reward_weight and --bleu_reward_weight are both 0: '
                             'there is nothing to reward')
        self.cider, self.references_of, self.max_length = cider, references_of, max_length
        self.weights = {'cider': float(cider_weight), 'bleu': float(bleu_weight)}
        self.baseline = baseline

    def describe(self):
        """What the log and the checkpoint say of the reward: a dict of plain values."""
        return {'cider_reward_weight': self.weights['cider'], 'bleu_reward_weight': self.weights['bleu'],
                'sc_baseline': self.baseline, 'end_token_in_reward': True}

    def terms(self, image_ids, captions):
        """{'cider': float64 (I, S), 'bleu': the same} of captions (I, S, T); those with weight alone."""
        rows = self.full_width(captions)
        I, S, T = rows.shape
        references, owners = self.cider.kept(image_ids, self.references_of), np.repeat(np.arange(I), S)
        scorers = {'cider': self.cider.scores,
                   'bleu': lambda *given: bleu_4(self.cider, *given)}
        return {name: scorers[name](rows.reshape(I * S, T), owners, references).reshape(I, S)
                for name, weight in self.weights.items() if weight}

    def __call__(self, image_ids, samples, greedy=None):
        """(advantage, statistics) of samples (I, S, T), int arrays or tensors.

        `greedy` (I, T), the greedy captions, is needed for that baseline alone.  The advantage,
        float32 (I, S), is reward minus baseline.  `statistics` is a dict of floats, means over the
        samples: `reward`, `baseline`, `advantage`, each term of the reward unweighted, `ended`
        (share of samples that end before the longest length) and `words` (without the end token).
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
        total = sum(self.weights[name] * term for name, term in terms.items())
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

    def full_width(self, captions):
        """Captions (..., T) as an int array (..., max_length).

        Decoding may hand over fewer columns where all captions ended early; none was cut then, and
        each gets the 0 that its last column may lack.
        """
        captions = np.asarray(captions.cpu() if hasattr(captions, 'cpu') else captions)
        missing = self.max_length - captions.shape[-1]
        if missing < 0:
            raise ValueError(f'captions of {captions.shape[-1]} words where {self.max_length} is the most')
        return np.pad(captions, [(0, 0)] * (captions.ndim - 1) + [(0, missing)])


def mean_statistics(parts):
    """The statistics of a whole batch from those of its parts: a list of (images, dict of floats)."""
    images = sum(count for count, _ in parts)
    names = parts[0][1] if parts else ()
    return {name: sum(count * statistics[name] for count, statistics in parts) / images for name in names}


def bleu_4(cider, captions, owners, references):
    """BLEU-4 of each caption, float64 (B,), as coco-caption scores a sentence; arguments as for
    `CiderD.scores`."""
    owners, scores = np.asarray(owners), np.zeros(len(captions))
    if not len(captions):
        return scores
    # Where an image has fewer references, its first one again changes no closest length.
    lengths = padded([image.lengths for image in references])
    lengths = np.where(lengths > 0, lengths, lengths[:, :1])  # (I, R)
    for block, matches in cider.matches(captions, owners, references):
        own = matches.ngrams.counts[matches.hits]
        shares = np.minimum(own, matches.counts.max(1)) / own
        clipped = np.bincount(matches.ngrams.cells[matches.hits], shares,
                              minlength=len(matches.lengths) * ORDERS).round().reshape(-1, ORDERS)
        scores[block] = bleu_of(clipped, matches.lengths, closest(matches.lengths, lengths[owners[block]]))
    return scores


def table_path(name, folder='data'):
    """The document-frequency file that `--cached_tokens NAME` means: a path, or a bare name looked
    up in `folder`, with or without `.p`.  Raises `DataError` with the command that makes one."""
    places = [name, f'{name}.p']
    if not os.path.dirname(name):
        places += [os.path.join(folder, name), os.path.join(folder, f'{name}.p')]
    for place in places:
        if os.path.isfile(place):
            return place
    raise DataError(f'--cached_tokens: there is no document-frequency file {name} (looked for '
                    f'{", ".join(places)}); make it with:\n{commands.NGRAMS}')


def load_cider(name, folder='data'):
    """The `CiderD` of `--cached_tokens NAME`.  Raises `DataError`."""
    return CiderD.from_pickle(table_path(name, folder), commands.NGRAMS)


def check_table(cider, references):
    """Check that the table was made from captions like these, in their vocabulary.

    `references`: {image id: int (R, width)} of some training images.  A table made with another
    vocabulary gives no low score (what it lacks weighs most), so first the n-grams are looked
    for: training captions are all in their own table.  Then each reference, scored against its
    image's others, must score as references do.  Returns {'coverage': share of the n-grams found,
    'score': mean CIDEr-D, nan where no image has two references}.  Raises `DataError`.
    """
    way_out = f'make it again with:\n{commands.NGRAMS}'
    coverage = float(np.mean([cider.coverage(rows) for rows in references.values()]))
    if coverage < LEAST_COVERAGE:
        raise DataError(f'{cider.name} holds {coverage:.0%} of the n-grams of the training captions, not all '
                        'of them: it was made from other captions or with another vocabulary (--dict_json); '
                        + way_out)
    if cider.idf.min() < 0:
        raise DataError(f'{cider.name} has n-grams in more images than its ref_len, {cider.images:g}; '
                        + way_out)
    rows, others = [], []
    for image in map(np.asarray, references.values()):
        if len(image) > 1:
            rows.extend(image)
            others.extend(np.delete(image, place, 0) for place in range(len(image)))
    if not rows:
        return {'coverage': coverage, 'score': float('nan')}
    score = float(cider.scores(padded(rows), np.arange(len(rows)), cider.prepare(others)).mean())
    if score < LEAST_SCORE:
        raise DataError(f'with {cider.name}, training captions score {score:.2f} against the others of their '
                        f'image (on COCO it is about 0.9), so no reward could be told from noise; {way_out}')
    return {'coverage': coverage, 'score': score}
