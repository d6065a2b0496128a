"""Captions that break off: their last word is an article, a preposition or a conjunction, as in 'a man on a'.

They are a known fault of captioners that were trained on CIDEr.  The words are English; prepositions that people end
captions with (a dog runs by, a house with trees behind) are left out.
"""

from collections.abc import Iterable

from misc.cli import note
from misc.scoring.tokenizer import tokenize

ARTICLES = ('a', 'an', 'the')
PREPOSITIONS = ('of', 'with', 'in', 'on', 'at', 'to', 'for', 'from', 'into', 'onto', 'upon', 'under', 'through',
                'across', 'between', 'among', 'against', 'during', 'beside', 'toward', 'towards', 'beneath', 'within',
                'without', 'than', 'via')
CONJUNCTIONS = ('and', 'or', 'but', 'while', 'as', 'if', 'because', 'that', 'when', 'where')
BAD_ENDINGS = frozenset(ARTICLES + PREPOSITIONS + CONJUNCTIONS)
NAME = 'bad_endings'   # of the share, in results and validations
HIGH = 0.01   # of the captions; of those that people wrote for Flickr8k's pictures, 0.6 % end so


def forbidden_endings(vocabulary: Iterable[str], is_wanted: bool) -> list[str]:
    """The words of a vocabulary that captions may not end with under --remove_bad_endings; none where that is not
    wanted, and with a note where there are none."""
    words = [word for word in vocabulary if is_wanted and word.lower() in BAD_ENDINGS]
    if is_wanted and not words:
        note('note: --remove_bad_endings 1 forbids nothing: the vocabulary has no English articles, prepositions and '
             'conjunctions')
    return words


def ends_badly(caption: str) -> bool:
    """Whether the last word of a caption is one of `BAD_ENDINGS`."""
    return tokenize(caption).rpartition(' ')[2] in BAD_ENDINGS


def bad_endings(captions: Iterable[str], references: Iterable[Iterable[str]]) -> float | None:
    """The share of the captions that end badly; None where the images' references have none of these words, as in
    other languages."""
    if not any(BAD_ENDINGS & set(caption.lower().split()) for several in references for caption in several):
        return None
    ends = [ends_badly(caption) for caption in captions]
    return sum(ends) / len(ends) if ends else None


def describe(share: float) -> str:
    """The share in a sentence, with the way out where it is high."""
    return (f'{share:.1%} of the captions end in an article, a preposition or a conjunction'
            + ('; --remove_bad_endings 1 (eval.py) forbids that' if share > HIGH else ''))
