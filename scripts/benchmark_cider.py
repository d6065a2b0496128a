"""Measure how many captions a second CIDEr-D scores, beside the plain version with dictionaries."""

import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np

from misc.cider import CiderD
from misc.cli import Parser, number_in, run_command
from tests import naive


def corpus(images, references, words, width, seed):
    """Captions drawn from a Zipf-like chain of words: list of int (references, width), zero padded.

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


def measure(images, captions, batch, plain):
    """Print both rates, per second of processor time, so that other work on the machine does not show."""
    rows = corpus(images, 5 + captions, 9487, 16, seed=1)
    references, samples = [row[:5] for row in rows], np.stack([row[5:] for row in rows])
    frequency = naive.ngram_frequency(references)
    scorer = CiderD(frequency, images)
    ids = np.arange(images)
    scorer.kept(ids, lambda image_id: references[image_id])
    step = max(1, batch // captions)
    best = float('inf')
    for _ in range(5):
        start = time.process_time()
        fast = [scorer.score(ids[i:i + step], samples[i:i + step], None) for i in range(0, images, step)]
        best = min(best, time.process_time() - start)
    rate = samples[:, :, 0].size / best
    start = time.process_time()
    slow = [[naive.cider_d(caption, references[image], frequency, images) for caption in samples[image]]
            for image in range(plain)]
    plain_rate = plain * captions / (time.process_time() - start)
    worst = np.abs(np.concatenate(fast)[:plain] - slow).max()
    print(f'{len(frequency)} n-grams in the table, 5 references an image, batches of {step * captions}')
    print(f'misc.cider: {rate:,.0f} captions a second of one core; with dictionaries: {plain_rate:,.0f}; '
          f'{rate / plain_rate:.1f} times; largest difference {worst:.1e}')


def main():
    parser = Parser(description=__doc__ + '\n\n    python scripts/benchmark_cider.py')
    parser.add_argument('--images', type=number_in(int, 1), default=20000,
                        help='images in the made-up corpus; more of them make a larger table')
    parser.add_argument('--captions', type=number_in(int, 1), default=5, help='captions scored per image')
    parser.add_argument('--batch', type=number_in(int, 1), default=1000, help='captions scored at once')
    options = parser.parse_args()
    measure(options.images, options.captions, options.batch, plain=min(options.images, 200))


if __name__ == '__main__':
    run_command(main)
