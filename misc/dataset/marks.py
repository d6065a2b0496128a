"""Marks of the beginning and the end of a sentence among its tokens (<start>, </s>, [SEP], startseq), which other
programs put there and read as such.  Here every token is a word: the captioner would learn to write them."""

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from misc.dataset.karpathy import ImageRecord, Sentence

NAMES = '/?(?:s|start|sos|bos|begin|beginning|go|cls|e|end|eos|stop|sep|pad|padding|null)'
MARK = re.compile(rf'(?:<\|?|\[|\{{|#+|_+){NAMES}(?:_?of_?(?:text|sentence|sequence|caption))?(?:\|?>|\]|\}}|#+|_+)'
                  r'|<\|(?:start|end)of(?:text|sequence)\|>'
                  r'|(?<!\w)(?:start|end)(?:seq|sequence|ofseq|ofsequence|token)(?!\w)', re.IGNORECASE)
AT_START, AT_END = re.compile(rf'\s*({MARK.pattern})', re.IGNORECASE), re.compile(
    rf'({MARK.pattern})[\s.]*$', re.IGNORECASE)
SHARE = 0.9   # of the captions that begin, or end, with the same token, which then may be a mark of any form
FEWEST = 10   # captions of which such a share says something


def find_marks(images: Iterable[ImageRecord]) -> dict[str, int]:
    """{mark: the number of captions that begin or end with it}: tokens in the usual forms of such marks, and any
    token at the same end of nearly all captions that their texts do not have."""
    sentences = [sentence for image in images for sentence in image['sentences']]
    counts: Counter[str] = Counter()
    for sentence in sentences:
        start, end = _inner(sentence['tokens'], _is_usual)
        counts.update(dict.fromkeys([*sentence['tokens'][:start], *sentence['tokens'][end:]], 1))
    for place in (0, -1):
        ends = Counter(sentence['tokens'][place] for sentence in sentences)
        (token, count), = ends.most_common(1) or [('', 0)]
        if token not in counts and count >= max(FEWEST, SHARE * len(sentences)) \
                and any(map(str.isalnum, token)) and _is_added(token, place, sentences):
            counts[token] = count
    return dict(counts)


def marks_in_texts(texts: Iterable[str]) -> dict[str, int]:
    """{mark: the number of texts that begin or end with it}, of marks in the usual forms."""
    counts: Counter[str] = Counter()
    for text in texts:
        found: dict[str, None] = {}
        while match := AT_START.match(text) or AT_END.search(text):
            found[match[1]] = None
            text = text[:match.start()] + text[match.end():]
        counts.update(found.keys())
    return dict(counts)


def text_without(marks: Iterable[str], text: str) -> str:
    """A text without `marks` at its ends."""
    return _at_ends(tuple(marks)).sub('', text).strip()


def tokens_without(marks: Iterable[str], tokens: Sequence[str]) -> list[str]:
    """Tokens without `marks` at their ends."""
    start, end = _inner(tokens, set(marks).__contains__)
    return list(tokens[start:end])


def without_marks(images: Iterable[ImageRecord], marks: Sequence[str],
                  report: Callable[[str], None]) -> list[ImageRecord]:
    """The images with captions without `marks` at their beginnings and ends, in tokens and texts.

    Captions of nothing else are left out, as are images of such captions; `report` is called with a message about
    each.
    """
    kept: list[ImageRecord] = []
    for image in images:
        sentences = [_stripped(sentence, marks) for sentence in image['sentences']]
        whole = [sentence for sentence in sentences if sentence['tokens']]
        if len(whole) < len(sentences):
            report(f'image {image["id"]}: {len(sentences) - len(whole)} captions have no token but '
                   f'{", ".join(sorted(marks))}')
        if whole:
            kept.append({**image, 'sentences': whole})
    return kept


def _is_usual(token: str) -> bool:
    return MARK.fullmatch(token) is not None


def _inner(tokens: Sequence[str], is_mark: Callable[[str], bool]) -> tuple[int, int]:
    """Where the tokens between the marks begin and end."""
    start, end = 0, len(tokens)
    while start < end and is_mark(tokens[start]):
        start += 1
    while end > start and is_mark(tokens[end - 1]):
        end -= 1
    return start, end


@functools.cache
def _at_ends(marks: tuple[str, ...]) -> re.Pattern[str]:
    """A pattern for marks at both ends of a text; those of letters alone (startseq) are no parts of words."""
    one = '|'.join(r'(?<!\w)' * mark[0].isalnum() + re.escape(mark) + r'(?!\w)' * mark[-1].isalnum()
                   for mark in sorted(marks, key=len, reverse=True))
    return re.compile(rf'^(?:\s*(?:{one}))+|(?:(?:{one})[\s.]*)+$', re.IGNORECASE)


def _stripped(sentence: Sentence, marks: Sequence[str]) -> Sentence:
    """A caption without marks at its ends."""
    tokens = tokens_without(marks, sentence['tokens'])
    return {'tokens': tokens, 'raw': text_without(marks, sentence['raw']) or ' '.join(tokens)}


def _is_added(token: str, place: int, sentences: Sequence[Sentence]) -> bool:
    """Whether the texts have the words of the captions, but not the `token` at that end of them."""
    having = others = 0
    for sentence in sentences:
        text, rest = sentence['raw'].lower(), sentence['tokens'][1:] if place == 0 else sentence['tokens'][:-1]
        having += token.lower() in text
        others += bool(rest) and sum(word.lower() in text for word in rest) >= len(rest) / 2
    return having < len(sentences) * (1 - SHARE) and others >= len(sentences) / 2
