"""CIDEr-D (Vedantam et al., CVPR 2015) of sampled captions, fast enough to be a training reward.

Captions are rows of word indices.  A row that holds a 0 is a sentence that ended, and its first 0
counts as a word; what follows is padding.  A row without a 0 was cut at the longest length and
has no end token.  References and samples are read the same way.

Letters: B captions, I images, S captions per image, T width of the rows, R references of an image
(padded to the most in the batch), K n-grams of all orders in all captions, H those of them that
some reference holds.
"""

import itertools
from typing import NamedTuple

import numpy as np

from misc.cli import DataError
from misc.disk import pickles

ORDERS = 4             # n-grams of 1 to 4 words
LARGEST_INDEX = 65534  # index + 1 fits into 16 bits
SIGMA = 6.0            # of the Gaussian over differences of length
BLOCK = 2000           # captions at a time, so that what is computed stays in the processor's cache
STRIDE = 64            # between the keys of the coarse table; a power of two
IMAGE = 32             # an n-gram's number is below 2^32; above it comes its image's place in the batch


class NGrams(NamedTuple):
    """All n-grams of B captions, order by order.  One that a caption holds twice is here twice, so
    a sum over a caption's distinct n-grams is a sum over these with each divided by its count."""

    keys: np.ndarray     # (K,) uint64
    cells: np.ndarray    # (K,) int64: caption * 4 + order - 1
    counts: np.ndarray   # (K,) float64: how often its caption holds it


class References(NamedTuple):
    """What is kept of one image's references, M distinct n-grams in all."""

    numbers: np.ndarray  # (M,) uint32, the numbers of its n-grams, ascending
    counts: np.ndarray   # (M, R) unsigned, how often each reference holds each
    norms: np.ndarray    # (R, 4) float64, norms of the tf-idf vectors
    lengths: np.ndarray  # (R,) int64, words, the end token included


class Matches(NamedTuple):
    """The n-grams of B captions, and those of them that are in their image's references."""

    ngrams: NGrams
    idf: np.ndarray      # (K,) float64: log N - log max(1, df)
    hits: np.ndarray     # (H,) int64, which of the K n-grams
    counts: np.ndarray   # (H, R) unsigned, how often each reference holds them
    lengths: np.ndarray  # (B,) int64, words, the end token included


def lengths_of(rows):
    """How many words each row (..., T) has, the end token included: int64 (...)."""
    ends = np.asarray(rows) == 0
    if not ends.shape[-1]:
        return np.zeros(ends.shape[:-1], dtype=np.int64)
    return np.where(ends.any(-1), ends.argmax(-1) + 1, ends.shape[-1])


class CiderD:
    """CIDEr-D with the document frequencies of one table.

    N-grams are numbered: those of the table by their place in it, those met only in references
    after them.  Numbers make the match of a caption with its image's references one search.
    """

    def __init__(self, document_frequency, ref_len, name='the document-frequency table'):
        """`document_frequency`: {tuple of 1 to 4 index strings: number of images that hold it};
        `ref_len`: the number of images; `name`: the table's, for messages.

        Raises `DataError` where they are not such things.
        """
        if not isinstance(ref_len, (int, float, np.number)) or not 1 <= ref_len < float('inf'):
            raise DataError(f'{name}: ref_len, the number of images, is {ref_len!r}')
        self.name, self.images = name, float(ref_len)
        keys, frequencies = table_of(document_frequency, name)
        # Key 0 belongs to no n-gram; with it in front, every search ends at some place.
        self.keys = np.concatenate([np.zeros(1, np.uint64), keys])
        self.coarse = self.keys[::STRIDE].copy()
        self.idf = np.log(self.images) - np.log(np.maximum(1.0, np.concatenate([[0.0], frequencies])))
        self.extra_keys = np.zeros(1, np.uint64)
        self.extra_numbers = np.full(1, -1, np.int64)
        self.known = {}  # image id: References

    @classmethod
    def from_pickle(cls, path, made_by=''):
        """The scorer with the table in the file `path`, which `made_by` makes.  Raises `DataError`."""
        table = pickles.load(path, made_by)
        if not isinstance(table, dict) or not {'document_frequency', 'ref_len'} <= set(table):
            raise DataError(f'{path} holds no document_frequency with its ref_len'
                            + (f'; make it with: {made_by}' if made_by else ''))
        return cls(table['document_frequency'], table['ref_len'], name=str(path))

    def score(self, image_ids, captions, references_of):
        """CIDEr-D of each caption against its image's references: float64 (I, S).

        `captions`: int (I, S, T).  `references_of(image_id)`: that image's captions, int
        (R, width); it is called once per image, and what is made of them is kept.
        """
        captions = np.asarray(captions)
        I, S, T = captions.shape
        references = self.kept(image_ids, references_of)
        return self.scores(captions.reshape(I * S, T), np.repeat(np.arange(I), S), references).reshape(I, S)

    def kept(self, image_ids, references_of):
        """A list of `References`, each made at the first visit of its image and kept."""
        image_ids = np.asarray(image_ids).tolist()
        new = [image_id for image_id in dict.fromkeys(image_ids) if image_id not in self.known]
        if new:
            self.known.update(zip(new, self.prepare([references_of(image_id) for image_id in new])))
        return [self.known[image_id] for image_id in image_ids]

    def prepare(self, images):
        """A list of `References` from a list of int arrays (R, width), zero padded, one per image."""
        rows, lengths = stacked(images)
        sizes = np.array([len(image) for image in images])
        owner = np.repeat(np.arange(len(images)), sizes)
        place = np.concatenate([np.arange(size) for size in sizes])
        ngrams = ngrams_of(rows, lengths)
        numbers, idf = self.look_up(ngrams.keys, number_all=True)
        norms = norms_of(ngrams, idf, len(rows))
        row = ngrams.cells // ORDERS
        distinct, inverse = np.unique(owner[row] << IMAGE | numbers, return_inverse=True)
        counts = np.zeros((len(distinct), sizes.max()), np.min_scalar_type(int(ngrams.counts.max(initial=0))))
        counts[inverse, place[row]] = ngrams.counts
        ends = np.searchsorted(distinct, np.arange(1, len(images) + 1) << IMAGE)
        numbers = (distinct & ((1 << IMAGE) - 1)).astype(np.uint32)
        return [References(numbers[end - size:end].copy(), counts[end - size:end, :R].copy(),
                           norms[last - R:last], lengths[last - R:last])
                for end, size, last, R in zip(ends, np.diff(ends, prepend=0), sizes.cumsum(), sizes)]

    def look_up(self, keys, number_all=False):
        """The number (int64, -1 where it has none) and the idf (float64) of each key (K,).

        With `number_all`, keys without a number get one.
        """
        order = np.argsort(keys)  # neighbours in order are found in neighbouring memory
        ascending = keys[order]
        places = last_places(self.keys, self.coarse, ascending)
        absent = np.flatnonzero(self.keys[places] != ascending)
        places[absent] = 0  # key 0 has the idf of what the table lacks
        numbers, idf = np.empty_like(places), np.empty(len(keys))
        idf[order] = self.idf[places]
        if len(absent):
            strange = ascending[absent]
            if number_all:
                self.number(strange)
            found = np.searchsorted(self.extra_keys, strange, side='right') - 1
            places[absent] = np.where(self.extra_keys[found] == strange, self.extra_numbers[found], -1)
        numbers[order] = places
        return numbers, idf

    def number(self, keys):
        """Number those of the keys, none of them in the table, that have no number yet."""
        new = np.setdiff1d(keys, self.extra_keys)
        first = len(self.keys) + len(self.extra_keys) - 1
        places = np.searchsorted(self.extra_keys, new)
        self.extra_keys = np.insert(self.extra_keys, places, new)
        self.extra_numbers = np.insert(self.extra_numbers, places, first + np.arange(len(new)))

    def matches(self, captions, owners, references):
        """Yield (slice of captions, their `Matches`), a block of captions at a time.

        `captions`: int (B, T); `owners`: (B,), the place of each caption's image in `references`.
        """
        captions, owners = np.asarray(captions), np.asarray(owners, dtype=np.int64)
        images, R = len(references), max(len(image.lengths) for image in references)
        sizes = np.array([len(image.numbers) for image in references])
        held = np.concatenate([[-1], np.concatenate([image.numbers for image in references])
                               + np.repeat(np.arange(images) << IMAGE, sizes)])  # ascending
        counts = np.zeros((len(held), R), np.result_type(*{image.counts.dtype for image in references}))
        for image, end in zip(references, sizes.cumsum() + 1):
            counts[end - len(image.numbers):end, :len(image.lengths)] = image.counts
        for start in range(0, len(captions), BLOCK):
            block = slice(start, start + BLOCK)
            lengths = lengths_of(captions[block])
            ngrams = ngrams_of(captions[block], lengths)
            numbers, idf = self.look_up(ngrams.keys)
            numbered = np.flatnonzero(numbers >= 0)
            codes = owners[block][ngrams.cells[numbered] // ORDERS] << IMAGE | numbers[numbered]
            places = np.searchsorted(held, codes, side='right') - 1
            found = np.flatnonzero(held[places] == codes)
            yield block, Matches(ngrams, idf, numbered[found], counts[places[found]], lengths)

    def scores(self, captions, owners, references):
        """CIDEr-D, float64 (B,), of captions (B, T) against `references[owners[b]]` (see `prepare`)."""
        owners, scores = np.asarray(owners), np.zeros(len(captions))
        if not len(captions):
            return scores
        norms = padded([image.norms for image in references])  # (I, R, 4)
        # The difference of lengths is one of bigrams.
        bigrams = padded([np.maximum(image.lengths - 1, 0) for image in references])  # (I, R)
        sizes = np.array([len(image.lengths) for image in references])
        for block, matches in self.matches(captions, owners, references):
            owner = owners[block]
            apart = np.maximum(matches.lengths - 1, 0)[:, None] - bigrams[owner]  # (B, R)
            near = np.exp(apart ** 2 / (-2 * SIGMA ** 2))
            scores[block] = 10 * (cosines_of(matches, norms[owner]) * near).sum(1) / sizes[owner]
        return scores

    def coverage(self, rows):
        """The share of the n-grams of captions (B, T), of all orders, that the table has."""
        numbers, _ = self.look_up(ngrams_of(np.asarray(rows), lengths_of(rows)).keys)
        return float(((numbers > 0) & (numbers < len(self.keys))).mean()) if len(numbers) else 1.0


def ngrams_of(rows, lengths):
    """The `NGrams` of the first `lengths` (B,) words of rows (B, T).

    A key holds index + 1 of its words, 16 bits each, so n-grams of different orders never share
    one.  Raises `DataError` for an index that does not fit.
    """
    B, T = rows.shape
    if rows.size and (rows.min() < 0 or rows.max() > LARGEST_INDEX):
        raise DataError(f'CIDEr-D takes word indices from 0 to {LARGEST_INDEX}, and here they go from '
                        f'{rows.min()} to {rows.max()}; make a smaller vocabulary with '
                        '--word_count_threshold of scripts/prepro_labels.py')
    words = rows.astype(np.uint16)
    same = words[:, :, None] == words[:, None, :]  # (B, T, T): the n-grams that start here and there
    same &= (np.arange(T) < lengths[:, None])[:, None]
    words = words.astype(np.uint64) + np.uint64(1)
    keys, parts = words, [(np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0))]
    for order in range(min(ORDERS, T)):
        if order:
            keys = keys[:, :-1] << np.uint64(16) | words[:, order:]  # (B, T - order)
            same = same[:, :-1, :-1] & same[:, 1:, 1:]
        counts = same.sum(-1, dtype=np.uint8 if T < 256 else np.int64)
        places = np.flatnonzero(np.arange(T - order) < lengths[:, None] - order)
        parts.append((keys.ravel()[places], places // (T - order) * ORDERS + order,
                      counts.ravel()[places].astype(np.float64)))
    return NGrams(*map(np.concatenate, zip(*parts)))


def last_places(table, coarse, keys):
    """Where the last entry of `table` (ascending) that is not above each key (K,) is: int64 (K,).

    What `np.searchsorted(table, keys, 'right') - 1` gives, but three times as fast in millions of
    entries: `coarse`, every `STRIDE`-th entry, is small enough to stay in the processor's cache,
    and the halvings that are left look at memory close together, all keys at once.
    """
    places = (np.searchsorted(coarse, keys, side='right') - 1) * STRIDE
    step = STRIDE // 2
    while step:
        places += step * (table.take(places + step, mode='clip') <= keys)
        step //= 2
    return np.minimum(places, len(table) - 1)


def norms_of(ngrams, idf, captions):
    """The norms of the tf-idf vectors of each order: float64 (captions, 4)."""
    squares = np.bincount(ngrams.cells, ngrams.counts * idf ** 2, minlength=captions * ORDERS)
    return np.sqrt(squares).reshape(captions, ORDERS)


def cosines_of(matches, norms):
    """The mean over orders of the clipped cosines with each reference: float64 (B, R).

    `norms` (B, R, 4) are those of the references; where one is 0, so is the cosine.
    """
    B, R, _ = norms.shape
    hits, ngrams = matches.hits, matches.ngrams
    idf, own = matches.idf[hits, None], ngrams.counts[hits, None]  # (H, 1)
    theirs = matches.counts * idf
    products = np.minimum(own * idf, theirs) * (theirs / own)  # (H, R)
    cells = ngrams.cells[hits]
    sums = np.stack([np.bincount(cells, products[:, r], minlength=B * ORDERS) for r in range(R)])
    norms = norms * norms_of(ngrams, matches.idf, B)[:, None]
    return np.divide(sums.reshape(R, B, ORDERS).transpose(1, 0, 2), norms,
                     out=np.zeros_like(norms), where=norms > 0).mean(-1)


def stacked(images):
    """All rows of a list of int arrays (R, width) as one (B, widest), and their lengths (B,)."""
    images = [np.asarray(image) for image in images]
    if not all(len(image) for image in images):
        raise DataError('an image without captions has nothing that a caption could be scored against')
    return padded(list(itertools.chain(*images))), np.concatenate([lengths_of(image) for image in images])


def padded(arrays):
    """Arrays of unequal length, stacked, with zeros after the shorter ones."""
    kind = np.result_type(*{array.dtype for array in arrays})
    stack = np.zeros((len(arrays), max(map(len, arrays)), *arrays[0].shape[1:]), kind)
    for place, array in enumerate(arrays):
        stack[place, :len(array)] = array
    return stack


def table_of(document_frequency, name):
    """Keys (uint64, ascending) and frequencies (float64) of {tuple of index strings: frequency}."""
    way_out = 'it takes n-grams of word indices, the file of scripts/prepro_ngrams.py that ends in -idxs.p'
    if not isinstance(document_frequency, dict) or not set(map(type, document_frequency)) <= {tuple}:
        raise DataError(f'{name}: document_frequency does not map tuples to numbers; {way_out}')
    sizes = np.fromiter(map(len, document_frequency), np.int64, len(document_frequency))
    try:
        words = np.fromiter(map(int, itertools.chain.from_iterable(document_frequency)), np.int64)
        frequencies = np.fromiter(document_frequency.values(), np.float64, len(sizes))
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f'{name} cannot be used ({error}); {way_out}') from None
    if sizes.size and not 1 <= sizes.min() <= sizes.max() <= ORDERS:
        raise DataError(f'{name} has n-grams of {sizes.min()} to {sizes.max()} words, not of 1 to {ORDERS}')
    if words.size and not 0 <= words.min() <= words.max() <= LARGEST_INDEX:
        raise DataError(f'{name} has word indices from {words.min()} to {words.max()}; they may be 0 to '
                        f'{LARGEST_INDEX} (see --word_count_threshold of scripts/prepro_labels.py)')
    keys, starts = np.zeros(len(sizes), np.uint64), sizes.cumsum() - sizes
    for place in range(ORDERS):
        longer = np.flatnonzero(sizes > place)
        keys[longer] = keys[longer] << np.uint64(16) | (words[starts[longer] + place] + 1).astype(np.uint64)
    order = np.argsort(keys)
    keys, frequencies = keys[order], frequencies[order]
    if not np.isfinite(frequencies).all() or (keys[1:] == keys[:-1]).any():
        raise DataError(f'{name} has an n-gram twice, or a frequency that is no finite number; {way_out}')
    return keys, frequencies
