"""Whether references and captions consist of the same words: where they do not, scores mean nothing."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from misc import commands
from misc.scoring.references import RAW, TOKENS
from misc.scoring.tokenizer import split_at_spaces, tokenize

# How captions are split into words that are scored against references of each kind, without Java.
TOKENIZERS: dict[str, Callable[[str], str]] = {RAW: tokenize, TOKENS: split_at_spaces}
HALF = 0.5            # of a caption's words that its text must have
MOST_LACKING = 0.1    # of the captions may lack them before all are scored by their tokens
SOME_LACKING = 0.01   # of the captions that are worth a note
KNOWN = 0.5           # of the words of references that should be in the vocabulary
FOUND = 0.2           # of the words of captions that should be in some reference
SAMPLE = 2000         # references that are compared with the vocabulary
FEWEST = 10           # captions whose share of words says something
LUMPED = 3            # words of a text whose only token is all of it
SEPARATED = str.maketrans(dict.fromkeys('.,;:!?"()', ' '))   # which the tokenizer splits off, in most texts
LONG = re.compile('[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]{7}')   # more than a word of such a script


def lacks_words(tokens: Sequence[str], text: str) -> bool:
    """Whether `text`, as the PTB tokenizer splits it, lacks half of the words in `tokens` or more: '一只狗' has
    neither '一只' nor '狗', 'Adogruns.' none of 'a', 'dog' and 'runs'."""
    wanted = split_at_spaces(' '.join(tokens)).split()

    def has_few(words: set[str]) -> bool:
        return sum(word in words for word in wanted) <= HALF * len(wanted)

    if not wanted or text.isascii() and not has_few(set(text.lower().translate(SEPARATED).split())):
        return False   # as most captions, for which the tokenizer need not run
    return has_few(set(tokenize(text).split()))


def is_lumped(tokens: Sequence[str], text: str) -> bool:
    """Whether the only token is a sentence: it was never split into words."""
    return len(tokens) == 1 and (LONG.search(tokens[0]) is not None or len(tokenize(text).split()) >= LUMPED)


def vocabulary_warning(references: Mapping[Any, Sequence[str]], kind: str, vocabulary: Collection[str],
                       source: str) -> str:
    """A warning where few words of the references are in the vocabulary, else ''.

    references: texts or tokens, as `kind` says, of the file `source`.
    """
    captions = [caption for several in references.values() for caption in several]
    sample = captions[::max(1, len(captions) // SAMPLE)]
    words = Counter(word for caption in sample for word in TOKENIZERS[kind](caption).split())
    known = {word.lower() for word in vocabulary}
    unknown = Counter({word: count for word, count in words.items() if word not in known})
    share = 1 - unknown.total() / max(1, words.total())
    if share >= KNOWN:
        return ''
    examples = ', '.join(word[:40] for word, _ in unknown.most_common(3))
    way_out = ('If words are written in another way there (without spaces, in another script), make both files of '
               f'labels again with this version, which then keeps the tokens as references:\n{commands.LABELS}\nElse '
               'lower its --word_count_threshold') if kind == RAW else (
               f'Make the labels again with a lower --word_count_threshold:\n{commands.LABELS}')
    return (f'warning: only {share:.0%} of the words of the references in {source} are in the vocabulary ({examples} '
            f'are not), so no captioner can score well against them. {way_out}')


def words_warning(captions: Iterable[str], references: Iterable[str]) -> str:
    """A warning where few words of the captions are in any reference, else ''; both are tokens joined by spaces."""
    captions = list(captions)
    known = {word for reference in references for word in reference.split()}
    words = Counter(word for caption in captions for word in caption.split())
    unknown = Counter({word: count for word, count in words.items() if word not in known})
    share = 1 - unknown.total() / max(1, words.total())
    if share >= FOUND or len(captions) < FEWEST:
        return ''
    examples = ', '.join(word[:40] for word, _ in unknown.most_common(3))
    return (f'warning: only {share:.0%} of the words of the captions are in any reference ({examples} are not): they '
            'are of another language, or divided into words in another way (see --score_tokens)')
