"""N-grams of captions as integer keys, and the table of their document frequencies.

Captions are rows of word indices.  A row that holds a 0 is a sentence that ended: its first 0 is the end token, which
counts as a word, and the rest is padding.  A row without a 0 was cut at the longest length and has no end token.

Letters: B captions, T width of the rows, K n-grams of all orders in all captions.
"""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from misc.cli import DataError

MAX_N = 4              # n-grams of 1 to 4 words
LARGEST_INDEX = 65534  # index + 1 fits into 16 bits, so the key of an n-gram fits into 64
STRIDE = 64            # between the keys of the coarse table; a power of two


class NGrams(NamedTuple):
    """All n-grams of B captions, order by order, one entry for each occurrence.

    A sum over a caption's distinct n-grams is the sum over its entries, each divided by its count.
    """

    keys: np.ndarray     # (K,) uint64
    cells: np.ndarray    # (K,) int64: caption * MAX_N + n - 1
    counts: np.ndarray   # (K,) float64: occurrences in the same caption


def lengths_of(rows: np.ndarray) -> np.ndarray:
    """The number of words of each row (..., T), end token included: int64 (...)."""
    ends = np.asarray(rows) == 0
    if not ends.shape[-1]:
        return np.zeros(ends.shape[:-1], dtype=np.int64)
    return np.where(ends.any(-1), ends.argmax(-1) + 1, ends.shape[-1])


def ngrams_of(rows: np.ndarray, lengths: np.ndarray) -> NGrams:
    """The `NGrams` of the first `lengths` (B,) words of rows (B, T).

    A key holds index + 1 of each word in 16 bits, so n-grams of different orders never share one.  Raises
    `DataError` for an index that does not fit.
    """
    B, T = rows.shape
    if rows.size and (rows.min() < 0 or rows.max() > LARGEST_INDEX):
        raise DataError(f'CIDEr-D takes word indices from 0 to {LARGEST_INDEX}, but there are some from '
                        f'{rows.min()} to {rows.max()}; make a smaller vocabulary with '
                        '--word_count_threshold of scripts/prepro_labels.py')
    words = rows.astype(np.uint16)
    same = words[:, :, None] == words[:, None, :]  # (B, T, T): whether the n-grams at two places are equal
    same &= (np.arange(T) < lengths[:, None])[:, None]
    words = words.astype(np.uint64) + np.uint64(1)
    keys = words
    parts: list[tuple[np.ndarray, ...]] = [(np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0))]
    for order in range(min(MAX_N, T)):  # order + 1 words
        if order:
            keys = keys[:, :-1] << np.uint64(16) | words[:, order:]  # (B, T - order)
            same = same[:, :-1, :-1] & same[:, 1:, 1:]
        counts = same.sum(-1, dtype=np.uint8 if T < 256 else np.int64)
        places = np.flatnonzero(np.arange(T - order) < lengths[:, None] - order)
        parts.append((keys.ravel()[places], places // (T - order) * MAX_N + order,
                      counts.ravel()[places].astype(np.float64)))
    return NGrams(*map(np.concatenate, zip(*parts)))


class NGramTable:
    """The inverse document frequency and a number of each n-gram.

    The n-grams of the document-frequency table have their place in it as their number, 1 and up; others get higher
    numbers when they are added.
    """

    def __init__(self, document_frequency: Mapping[tuple[str, ...], float], ref_len: float, name: str) -> None:
        """`document_frequency`: {tuple of 1 to 4 word indices as strings: number of images whose references hold
        it}; `ref_len`: the number of all images; `name`: for messages.  Raises `DataError` for anything else."""
        if not isinstance(ref_len, (int, float, np.number)) or not 1 <= ref_len < float('inf'):
            raise DataError(f'{name}: ref_len, the number of images, is {ref_len!r}')
        self.name, self.images = name, float(ref_len)
        keys, frequencies = _parsed(document_frequency, name)
        # Key 0, which no n-gram has, comes first, so that every search finds a place.
        self.keys = np.concatenate([np.zeros(1, np.uint64), keys])
        self.coarse = self.keys[::STRIDE].copy()
        self.idf = np.log(self.images) - np.log(np.maximum(1.0, np.concatenate([[0.0], frequencies])))
        self.extra_keys = np.zeros(1, np.uint64)
        self.extra_numbers = np.full(1, -1, np.int64)

    def look_up(self, keys: np.ndarray, add: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """The number (int64, -1 where there is none) and the idf (float64) of each key (K,).

        With `add`, n-grams without a number get one.
        """
        order = np.argsort(keys)  # in order, neighbours are found in neighbouring memory
        ascending = keys[order]
        places = last_not_above(self.keys, self.coarse, ascending)
        absent = np.flatnonzero(self.keys[places] != ascending)
        places[absent] = 0  # key 0 has the idf of n-grams that the table lacks
        numbers, idf = np.empty_like(places), np.empty(len(keys))
        idf[order] = self.idf[places]
        if len(absent):
            missing = ascending[absent]
            if add:
                self._add(missing)
            found = np.searchsorted(self.extra_keys, missing, side='right') - 1
            places[absent] = np.where(self.extra_keys[found] == missing, self.extra_numbers[found], -1)
        numbers[order] = places
        return numbers, idf

    def _add(self, keys: np.ndarray) -> None:
        """Number those of the keys, none of which is in the table, that have no number yet."""
        new = np.setdiff1d(keys, self.extra_keys)
        first = len(self.keys) + len(self.extra_keys) - 1
        places = np.searchsorted(self.extra_keys, new)
        self.extra_keys = np.insert(self.extra_keys, places, new)
        self.extra_numbers = np.insert(self.extra_numbers, places, first + np.arange(len(new)))

    def coverage(self, rows: np.ndarray) -> float:
        """The share of the n-grams of captions (B, T), of all orders, that are in the document-frequency table."""
        numbers, _ = self.look_up(ngrams_of(np.asarray(rows), lengths_of(rows)).keys)
        return float(((numbers > 0) & (numbers < len(self.keys))).mean()) if len(numbers) else 1.0


def last_not_above(table: np.ndarray, coarse: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """The place of the last entry of `table` (ascending) that is not above each key (K,): int64 (K,).

    The result is that of `np.searchsorted(table, keys, 'right') - 1`, which takes three times as long in millions
    of entries.  `coarse`, every `STRIDE`-th entry, stays in the processor's cache; the halvings that remain
    look at memory close together, for all keys at once.
    """
    places = (np.searchsorted(coarse, keys, side='right') - 1) * STRIDE
    step = STRIDE // 2
    while step:
        places += step * (table.take(places + step, mode='clip') <= keys)
        step //= 2
    return np.minimum(places, len(table) - 1)


def _parsed(document_frequency: Mapping[tuple[str, ...], float], name: str) -> tuple[np.ndarray, np.ndarray]:
    """The keys (uint64, ascending) and frequencies (float64) of {tuple of index strings: frequency}."""
    way_out = 'give the file of scripts/prepro_ngrams.py that ends in -idxs.p, with n-grams of word indices'
    if not isinstance(document_frequency, dict) or not set(map(type, document_frequency)) <= {tuple}:
        raise DataError(f'{name}: document_frequency does not map tuples to numbers; {way_out}')
    sizes = np.fromiter(map(len, document_frequency), np.int64, len(document_frequency))
    try:
        words = np.fromiter(map(int, itertools.chain.from_iterable(document_frequency)), np.int64)
        frequencies = np.fromiter(document_frequency.values(), np.float64, len(sizes))
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f'{name} cannot be used ({error}); {way_out}') from None
    if sizes.size and not 1 <= sizes.min() <= sizes.max() <= MAX_N:
        raise DataError(f'{name} has n-grams of {sizes.min()} to {sizes.max()} words, not of 1 to {MAX_N}; '
                        f'{way_out}')
    if words.size and not 0 <= words.min() <= words.max() <= LARGEST_INDEX:
        raise DataError(f'{name} has word indices from {words.min()} to {words.max()}; they may be 0 to '
                        f'{LARGEST_INDEX} (see --word_count_threshold of scripts/prepro_labels.py)')
    keys, starts = np.zeros(len(sizes), np.uint64), sizes.cumsum() - sizes
    for place in range(MAX_N):
        longer = np.flatnonzero(sizes > place)
        keys[longer] = keys[longer] << np.uint64(16) | (words[starts[longer] + place] + 1).astype(np.uint64)
    order = np.argsort(keys)
    keys, frequencies = keys[order], frequencies[order]
    if not np.isfinite(frequencies).all() or (keys[1:] == keys[:-1]).any():
        raise DataError(f'{name} has an n-gram twice, or a frequency that is not a finite number; {way_out}')
    return keys, frequencies
