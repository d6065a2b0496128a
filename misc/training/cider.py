"""CIDEr-D (Vedantam et al., CVPR 2015) of sampled captions, fast enough to be a training reward.

For a caption c of an image, the image's references s_1 .. s_m, and the n-grams k of n words:

    g_k(s)          = h_k(s) (log N - log max(1, df_k))                              (equation 1)
    CIDEr-D_n(c, S) = 10/m  sum_j  exp(-(l(c) - l(s_j))^2 / (2 sigma^2))
                                   min(g(c), g(s_j)) . g(s_j) / (|g(c)| |g(s_j)|)    (equation 4)
    CIDEr-D(c, S)   = mean of CIDEr-D_n over n = 1 .. 4                              (equation 5)

h_k(s) is how often k occurs in s, df_k in how many of the table's N images some reference holds it, and sigma is 6.
As in coco-caption, h_k is a count, not a share of the n-grams of s; the length l is the number of bigrams; and
where a norm is 0, so is the term.

Letters: I images, S captions per image, B captions in all, T width of the rows, R references of an image (padded
to the most in the batch), K n-grams of all orders in all captions, H those of them that some reference holds.
Captions are rows of word indices as `misc.training.ngrams` describes them.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from misc.cli import DataError
from misc.disk import pickles
from misc.disk.files import StrPath
from misc.disk.known import KnownFile
from misc.training.ngrams import MAX_N, NGrams, NGramTable, lengths_of, ngrams_of

SIGMA = 6.0
CAPTIONS_AT_ONCE = 2000  # so that what is computed stays in the processor's cache
IMAGE_SHIFT = 32         # an n-gram's number is below 2^32; its image's place in the batch stands above it

ReferencesOf = Callable[[int], np.ndarray]  # image id -> its captions, int (R, width)


class References(NamedTuple):
    """What is kept of one image's references, with M distinct n-grams in all."""

    numbers: np.ndarray  # (M,) uint32, ascending: the numbers of its n-grams
    counts: np.ndarray   # (M, R) unsigned: h_k(s_j)
    norms: np.ndarray    # (R, 4) float64: |g(s_j)| for n = 1 .. 4
    lengths: np.ndarray  # (R,) int64: words, end token included


class Matches(NamedTuple):
    """The n-grams of B captions, and those of them that the references of the same image hold."""

    ngrams: NGrams
    idf: np.ndarray      # (K,) float64: log N - log max(1, df_k)
    hits: np.ndarray     # (H,) int64: which of the K n-grams some reference holds
    counts: np.ndarray   # (H, R) unsigned: h_k(s_j) of those
    lengths: np.ndarray  # (B,) int64: words, end token included


class CiderD:
    """CIDEr-D with the document frequencies of one table; what it computes from references is kept."""

    def __init__(self, document_frequency: dict[tuple[str, ...], float], ref_len: float,
                 name: str = 'the document-frequency table') -> None:
        """Arguments as for `NGramTable`.  Raises `DataError`."""
        self.name = name
        self.table = NGramTable(document_frequency, ref_len, name)
        self.known: dict[int, References] = {}  # by image id
        self.file: KnownFile | None = None      # that the table was read from

    @classmethod
    def from_pickle(cls, path: StrPath, made_by: str = '') -> 'CiderD':
        """The scorer with the table in the file `path`, which the command `made_by` makes.  Raises `DataError`."""
        file = KnownFile(path)
        content = pickles.load(path, made_by)
        file.check()
        if not isinstance(content, dict) or not {'document_frequency', 'ref_len'} <= set(content):
            raise DataError(f'{path} holds no document_frequency with its ref_len'
                            + (f'; make it with: {made_by}' if made_by else ''))
        scorer = cls(content['document_frequency'], content['ref_len'], name=str(path))
        scorer.file = file
        return scorer

    def score(self, image_ids: Sequence[int] | np.ndarray, captions: np.ndarray,
              references_of: ReferencesOf) -> np.ndarray:
        """CIDEr-D of captions, int (I, S, T), against the references of their images: float64 (I, S).

        `references_of` is called once for each image; what is computed from them is kept.
        """
        captions = np.asarray(captions)
        I, S, T = captions.shape
        references = self.references_for(image_ids, references_of)
        return self.scores(captions.reshape(I * S, T), np.repeat(np.arange(I), S), references).reshape(I, S)

    def scores(self, captions: np.ndarray, owners: np.ndarray, references: Sequence[References]) -> np.ndarray:
        """CIDEr-D, float64 (B,), of captions (B, T) against `references[owners[b]]` (equations 4 and 5)."""
        owners, scores = np.asarray(owners), np.zeros(len(captions))
        if not len(captions):
            return scores
        norms = padded([image.norms for image in references])  # (I, R, 4)
        bigrams = padded([np.maximum(image.lengths - 1, 0) for image in references])  # (I, R): l(s_j)
        sizes = np.array([len(image.lengths) for image in references])  # (I,): m
        for block, matches in self.matches(captions, owners, references):
            owner = owners[block]
            difference = np.maximum(matches.lengths - 1, 0)[:, None] - bigrams[owner]  # (B, R): l(c) - l(s_j)
            penalty = np.exp(difference ** 2 / (-2 * SIGMA ** 2))
            scores[block] = 10 * (clipped_cosines(matches, norms[owner]) * penalty).sum(1) / sizes[owner]
        return scores

    def references_for(self, image_ids: Sequence[int] | np.ndarray, references_of: ReferencesOf) -> list[References]:
        """The `References` of each image, computed when it is first met and kept."""
        ids = np.asarray(image_ids).tolist()
        new = [image_id for image_id in dict.fromkeys(ids) if image_id not in self.known]
        if new:
            self.known.update(zip(new, self.prepare([references_of(image_id) for image_id in new])))
        return [self.known[image_id] for image_id in ids]

    def prepare(self, images: Sequence[np.ndarray]) -> list[References]:
        """The `References` of each image from its captions, int (R, width), zero padded."""
        rows, lengths = _stacked(images)
        sizes = np.array([len(image) for image in images])
        owner = np.repeat(np.arange(len(images)), sizes)
        place = np.concatenate([np.arange(size) for size in sizes])
        ngrams = ngrams_of(rows, lengths)
        numbers, idf = self.table.look_up(ngrams.keys, add=True)
        norms = tf_idf_norms(ngrams, idf, len(rows))
        row = ngrams.cells // MAX_N
        distinct, inverse = np.unique(owner[row] << IMAGE_SHIFT | numbers, return_inverse=True)
        counts = np.zeros((len(distinct), sizes.max()), np.min_scalar_type(int(ngrams.counts.max(initial=0))))
        counts[inverse, place[row]] = ngrams.counts
        ends = np.searchsorted(distinct, np.arange(1, len(images) + 1) << IMAGE_SHIFT)
        numbers = (distinct & ((1 << IMAGE_SHIFT) - 1)).astype(np.uint32)
        return [References(numbers[end - size:end].copy(), counts[end - size:end, :R].copy(),
                           norms[last - R:last], lengths[last - R:last])
                for end, size, last, R in zip(ends, np.diff(ends, prepend=0), sizes.cumsum(), sizes)]

    def matches(self, captions: np.ndarray, owners: np.ndarray,
                references: Sequence[References]) -> Iterator[tuple[slice, Matches]]:
        """Yield (slice of the captions, their `Matches`), `CAPTIONS_AT_ONCE` captions at a time.

        `captions`: int (B, T); `owners`: (B,), the place of each caption's image in `references`.
        """
        captions, owners = np.asarray(captions), np.asarray(owners, dtype=np.int64)
        images, R = len(references), max(len(image.lengths) for image in references)
        sizes = np.array([len(image.numbers) for image in references])
        # All references' n-grams as ascending codes (image, number), with -1 in front so that searches find a place.
        codes = np.concatenate([[-1], np.concatenate([image.numbers for image in references])
                                + np.repeat(np.arange(images) << IMAGE_SHIFT, sizes)])
        counts = np.zeros((len(codes), R), np.result_type(*{image.counts.dtype for image in references}))
        for image, end in zip(references, sizes.cumsum() + 1):
            counts[end - len(image.numbers):end, :len(image.lengths)] = image.counts
        for start in range(0, len(captions), CAPTIONS_AT_ONCE):
            block = slice(start, start + CAPTIONS_AT_ONCE)
            lengths = lengths_of(captions[block])
            ngrams = ngrams_of(captions[block], lengths)
            numbers, idf = self.table.look_up(ngrams.keys)
            numbered = np.flatnonzero(numbers >= 0)
            wanted = owners[block][ngrams.cells[numbered] // MAX_N] << IMAGE_SHIFT | numbers[numbered]
            places = np.searchsorted(codes, wanted, side='right') - 1
            found = np.flatnonzero(codes[places] == wanted)
            yield block, Matches(ngrams, idf, numbered[found], counts[places[found]], lengths)


def tf_idf_norms(ngrams: NGrams, idf: np.ndarray, captions: int) -> np.ndarray:
    """|g| for n = 1 .. 4 of each caption: float64 (captions, 4)."""
    # The sum of (h_k idf_k)^2 over distinct n-grams; an n-gram with the count h_k has h_k entries.
    squares = np.bincount(ngrams.cells, ngrams.counts * idf ** 2, minlength=captions * MAX_N)
    return np.sqrt(squares).reshape(captions, MAX_N)


def clipped_cosines(matches: Matches, norms: np.ndarray) -> np.ndarray:
    """min(g(c), g(s_j)) . g(s_j) / (|g(c)| |g(s_j)|), mean over n = 1 .. 4: float64 (B, R).

    `norms` (B, R, 4) are |g(s_j)|; where a norm is 0, so is the cosine.
    """
    B, R, _ = norms.shape
    hits, ngrams = matches.hits, matches.ngrams
    idf, own = matches.idf[hits, None], ngrams.counts[hits, None]  # (H, 1)
    theirs = matches.counts * idf  # (H, R): g_k(s_j)
    # Divided by h_k(c), for the n-gram has that many entries.
    products = np.minimum(own * idf, theirs) * (theirs / own)  # (H, R)
    cells = ngrams.cells[hits]
    sums = np.stack([np.bincount(cells, products[:, r], minlength=B * MAX_N) for r in range(R)])
    norms = norms * tf_idf_norms(ngrams, matches.idf, B)[:, None]
    return np.divide(sums.reshape(R, B, MAX_N).transpose(1, 0, 2), norms,
                     out=np.zeros_like(norms), where=norms > 0).mean(-1)


def padded(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays of unequal length as one, with zeros after the shorter ones."""
    kind = np.result_type(*{array.dtype for array in arrays})
    stack = np.zeros((len(arrays), max(map(len, arrays)), *arrays[0].shape[1:]), kind)
    for place, array in enumerate(arrays):
        stack[place, :len(array)] = array
    return stack


def _stacked(images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """All rows of int arrays (R, width) as one array (B, widest), and their lengths (B,).  Raises `DataError`."""
    images = [np.asarray(image) for image in images]
    if not all(len(image) for image in images):
        raise DataError('an image without captions has no references to score against')
    return padded(list(itertools.chain(*images))), np.concatenate([lengths_of(image) for image in images])
