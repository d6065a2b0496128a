"""How different several captions of one image are."""

import collections

import numpy as np

from misc.scoring.bleu import closest, sentence_bleu

ORDERS = 4


def diversity(captions):
    """Diversity of several captions per image: a dict of floats, means over the images.

    `captions` is {image id: [caption strings]}, at least two each; words are what spaces part.

    - `Div-1`, `Div-2`: distinct n-grams of an image's captions, divided by their number of words
      (Shetty et al., ICCV 2017); higher is more diverse.
    - `mBLEU-4`: BLEU-4 of each caption against the image's other captions, mean over captions;
      lower is more diverse.

    Raises `ValueError` where an image has fewer than two captions, or there is no image.
    """
    if not captions or min(map(len, captions.values())) < 2:
        raise ValueError('diversity is one of several captions per image')
    images = [[caption.split() for caption in several] for several in captions.values()]
    return {'Div-1': float(np.mean([distinct(several, 1) for several in images])),
            'Div-2': float(np.mean([distinct(several, 2) for several in images])),
            'mBLEU-4': float(np.mean([mutual_bleu(several).mean() for several in images]))}


def ngrams_of(words, n):
    """All n-grams of a list of words, repeated ones repeated."""
    return list(zip(*(words[start:] for start in range(n))))


def distinct(several, n):
    """Distinct n-grams of several captions (lists of words) divided by their words; 0 for no words."""
    different = {ngram for words in several for ngram in ngrams_of(words, n)}
    return len(different) / max(1, sum(map(len, several)))


def mutual_bleu(several):
    """BLEU-4 of each of several captions (lists of words) against the others: float64 (captions,)."""
    clipped = np.zeros((len(several), ORDERS))
    for n in range(1, ORDERS + 1):
        counts = [collections.Counter(ngrams_of(words, n)) for words in several]
        # The most that any other caption holds is the most of all, or the second most of all.
        most = collections.defaultdict(lambda: (0, 0))
        for held in counts:
            for ngram, count in held.items():
                first, second = most[ngram]
                most[ngram] = (count, first) if count > first else (first, max(second, count))
        for place, held in enumerate(counts):
            clipped[place, n - 1] = sum(
                min(count, most[ngram][1] if count == most[ngram][0] else most[ngram][0])
                for ngram, count in held.items())
    lengths = np.array(list(map(len, several)))
    others = np.stack([np.delete(lengths, place) for place in range(len(several))])
    return sentence_bleu(clipped, lengths, closest(lengths, others))
