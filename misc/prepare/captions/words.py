"""Tokens of captions by the rule of Karpathy's split files."""

import re
from collections.abc import Callable

# Removed.  Beyond Karpathy's straight quotes and full stop: typographic quotes.
REMOVED = re.compile('[\'".‘’“”«»]')
# Between words.  Beyond Karpathy's: dashes other than the hyphen, and the marks of Chinese and Japanese.
SEPARATORS = re.compile('[-,;!?/‐‑‒–—…，。、；！？：（）《》「」]')
# Chinese characters and Japanese kana: scripts without spaces between words.
UNSPACED = re.compile('[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]')


def tokens_of(caption: str) -> list[str]:
    """The words of a caption: lower case; quotes and full stops removed; - , ; ! ? and / separate words.

    On COCO's captions these are the `tokens` of Karpathy's files; other characters (& # : brackets) stay.
    """
    return SEPARATORS.sub(' ', REMOVED.sub('', caption.lower())).split()


def characters_of(caption: str) -> list[str]:
    """As `tokens_of`, but each Chinese character or Japanese kana is a token of its own."""
    return tokens_of(UNSPACED.sub(r' \g<0> ', caption))


# Value of --tokens: the function that finds the tokens of a caption.
TOKENIZERS: dict[str, Callable[[str], list[str]]] = {
    'karpathy': tokens_of, 'spaces': str.split, 'characters': characters_of}
