"""Document frequencies for CIDEr from a table of scripts/prepro_ngrams.py, in place of those of the captions scored.

CIDEr weighs an n-gram by log N - log(the number of the N images whose references have it).  Counted over a few images
these weights say little, and over one image they are all 0.
"""

import math
import numbers
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from misc import commands
from misc.cli import DataError
from misc.disk import pickles

END = {'words': '<eos>', 'idxs': '0'}   # the end token in the two tables
FITTING = 0.5   # of the words of the references that the table should have

NGram = tuple[str, ...]


@dataclass(frozen=True)
class DocumentFrequencies:
    """In how many of the `images` of a table, the file `name`, each n-gram of words occurs."""

    counts: dict[NGram, float]
    images: float
    name: str

    def describe(self, references: Mapping[Any, Sequence[str]]) -> str:
        """A note on the table, a warning where it lacks most words of the references (tokens joined by spaces)."""
        words = Counter(word for texts in references.values() for text in texts for word in text.split())
        known = sum(count for word, count in words.items() if (word,) in self.counts) / max(1, words.total())
        if known < FITTING:
            return (f'warning: {self.name} has only {known:.0%} of the words of the references, so it is a table of '
                    'other captions: CIDEr says nothing')
        return (f'CIDEr with the document frequencies of {self.name}, of {self.images:,.0f} images; it has '
                f'{known:.0%} of the words of the references')


def table_path(name: str, folder: str = 'data', endings: Iterable[str] = ('', '.p')) -> str:
    """The document-frequency file of `--cached_tokens NAME`: a path, or a bare name in `folder`, with one of the
    `endings`.  Raises `DataError` with the command that makes one."""
    places = [f'{name}{ending}' for ending in endings]
    if not os.path.dirname(name):
        places += [os.path.join(folder, place) for place in places]
    for place in places:
        if os.path.isfile(place):
            return place
    raise DataError(f'--cached_tokens: there is no document-frequency file {name} (looked for '
                    f'{", ".join(places)}); make it with:\n{commands.NGRAMS}')


def read_frequencies(name: str, word_of: Mapping[str, str] | None = None) -> DocumentFrequencies:
    """The table of `--cached_tokens NAME`, of words (NAME-words.p), or of indices (NAME-idxs.p) with the vocabulary
    `word_of` {index as text: word}.  Raises `DataError`."""
    path = table_path(name, endings=('', '.p', '-words.p', '-idxs.p'))
    content = pickles.load(path, commands.NGRAMS)
    content = content if isinstance(content, dict) else {}
    table, images = content.get('document_frequency'), content.get('ref_len', 0)
    if not isinstance(table, dict) or not all(map(_is_ngram, table)) \
            or not all(map(_is_count, [images, *table.values()])) or images < max(table.values(), default=1):
        raise DataError(f'{path} holds no document_frequency of n-grams with its ref_len, the number of images; make '
                        f'it with:\n{commands.NGRAMS}')
    is_indices = bool(table) and all(ngram[0].isdecimal() for ngram in table if len(ngram) == 1)
    end = END['idxs' if is_indices else 'words']
    table = {ngram: count for ngram, count in table.items() if ngram[-1] != end}   # captions are scored without it
    if is_indices:
        table = _in_words(table, word_of, path)
    counts: dict[NGram, float] = {}
    for ngram, count in table.items():
        words = tuple(map(str.lower, ngram))
        counts[words] = max(count, counts.get(words, 0.0))
    return DocumentFrequencies(counts, float(images), path)


def _in_words(table: Mapping[NGram, float], word_of: Mapping[str, str] | None, path: str) -> dict[NGram, float]:
    """A table of indices as one of words."""
    if word_of is None:
        raise DataError(f'{path} has indices of words: give the file that ends in -words.p, or --input_json, the '
                        'vocabulary')
    missing = next((index for ngram in table for index in ngram if index not in word_of), None)
    if missing is not None:
        raise DataError(f'{path} has a word {missing}, the vocabulary of --input_json has {len(word_of)}: give the '
                        'file that it was made with (--dict_json), or the table that ends in -words.p')
    return {tuple(word_of[index] for index in ngram): count for ngram, count in table.items()}


def _is_ngram(key: Any) -> bool:
    return isinstance(key, tuple) and bool(key) and all(isinstance(word, str) for word in key)


def _is_count(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and 0 <= float(value) < math.inf
