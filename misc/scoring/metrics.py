"""BLEU, METEOR, ROUGE-L, CIDEr and SPICE as coco-caption computes them.

This is the one file that imports pycocoevalcap.  Its Python scorers are called as they are.  Its Java programs (PTB
tokenizer, METEOR, SPICE) are run by `misc.scoring.java`, because its own wrappers wait for ever for a program that
hangs or has died.
"""

import contextlib
import io
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from misc.cli import DataError, Progress, note
from misc.scoring import java, meteor, spice, tokenizer
from misc.scoring.checks import TOKENIZERS, words_warning
from misc.scoring.frequencies import DocumentFrequencies
from misc.scoring.references import RAW, TOKENS
from misc.scoring.scores import METRICS

PTB_JAR = 'stanford-corenlp-3.4.1.jar'

# What the functions below take and give.
Predictions = Mapping[Any, str]            # {id: caption}
References = Mapping[Any, Sequence[str]]   # {id: [caption, ...]}
Tokens = dict[Any, list[str]]              # {id: [tokens joined by spaces, ...]}
ByMetric = dict[str, tuple[float, Sequence[float]]]  # {metric: (score of the set, scores of the captions)}


class Scored(NamedTuple):
    """The scores of captions.

    overall    {metric: score}: those of `METRICS` that could be computed, in that order; fractions, CIDEr up to 10
    per_image  {id: {metric: score}}
    notes      lines for the user: which tokenizer ran, which score is missing and why
    tokenizer  'PTB (Java)', 'PTB (Python)' or 'spaces'
    """

    overall: dict[str, float]
    per_image: dict[Any, dict[str, float]]
    notes: list[str]
    tokenizer: str


def score(predictions: Predictions, references: References, use_java: bool = True, java_seconds: float = 180.0,
          show_progress: bool = False, kind: str = RAW
          ) -> tuple[dict[str, float], dict[Any, dict[str, float]], list[str]]:
    """The scores of captions in all, of each, and notes: see `scored`."""
    return scored(predictions, references, use_java, java_seconds, show_progress, kind)[:3]


def scored(predictions: Predictions, references: References, use_java: bool = True, java_seconds: float = 180.0,
           show_progress: bool = False, kind: str = RAW, frequencies: DocumentFrequencies | None = None) -> Scored:
    """Score captions against references, which are there for at least the same ids.

    References of the `kind` `RAW` are texts.  With Java, tokens come from the PTB tokenizer, and scores equal
    coco-caption's to the last digit; without, from `misc.scoring.tokenizer`.  References of the kind `TOKENS`, and
    captions with them, consist of words that are separated by spaces.

    `use_java` False does without Java even where it is installed; a Java program that is silent for `java_seconds` is
    stopped.  CIDEr weighs n-grams by their `frequencies`, by default those of these references.  Raises `DataError`
    for images without references.
    """
    _check(predictions, references)
    notes: list[str] = []
    with Progress(4, 'scoring', 'step') if show_progress else contextlib.nullcontext() as display:
        def advance() -> None:
            if display is not None:
                display.update()

        tokens = _tokens(predictions, references, use_java, java_seconds, notes, kind)
        advance()
        found = _python_scores(tokens.hypotheses, tokens.references, frequencies)
        advance()
        if tokens.by_java:
            found.update(_java_score('METEOR', meteor.meteor, tokens, java_seconds, notes))
        advance()
        if tokens.by_java:
            missing = spice.missing_models()
            if missing:
                notes.append(missing)
            else:
                found.update(_java_score('SPICE', spice.spice, tokens, java_seconds, notes))
        advance()
    notes += filter(None, [words_warning(
        *([text for texts in side.values() for text in texts] for side in (tokens.hypotheses, tokens.references)))])
    if frequencies:
        notes.append(frequencies.describe(tokens.references))
    elif len(predictions) == 1:
        notes.append('CIDEr of a single image is 0: it weighs words by how few images have them (score_captions.py '
                     '--cached_tokens takes that from a larger set)')
    names = [name for name in METRICS if name in found]
    per_image = {image_id: {name: float(found[name][1][place]) for name in names}
                 for place, image_id in enumerate(predictions)}
    return Scored({name: float(found[name][0]) for name in names}, per_image, notes, tokens.tokenizer)


def oracle_cider(captions: References, references: References, use_java: bool = True,
                 java_seconds: float = 180.0, kind: str = RAW) -> float:
    """The mean over images of the CIDEr of the best of each image's `captions` (at least one each).

    The k-th captions of all images are scored together, as `score` does; an image with fewer captions takes part with
    its last one.
    """
    most = max(map(len, captions.values()))
    keyed = {(image_id, place): several[min(place, len(several) - 1)]
             for image_id, several in captions.items() for place in range(most)}
    tokens = _tokens(keyed, {key: references[key[0]] for key in keyed}, use_java, java_seconds, [], kind)
    best = dict.fromkeys(captions, 0.0)
    for place in range(most):
        scored = _python_scores({image_id: tokens.hypotheses[image_id, place] for image_id in captions},
                                {image_id: tokens.references[image_id, place] for image_id in captions})
        for image_id, value in zip(captions, scored['CIDEr'][1]):
            best[image_id] = max(best[image_id], float(value))
    return sum(best.values()) / len(best)


def meteor_counts(predictions: Predictions, references: References, java_seconds: float = 180.0,
                  kind: str = RAW) -> np.ndarray | None:
    """METEOR's counts of captions, float64 (N, METEOR_COUNTS) (see `meteor.parse_counts`); arguments as for `score`.

    None where there is no Java, and where Java fails, which is then noted.
    """
    if not java.is_installed():
        return None
    try:
        notes: list[str] = []
        tokens = _tokens(predictions, references, True, java_seconds, notes, kind)
        if not tokens.by_java:
            note(f'note: no interval of METEOR: {notes[-1]}')
            return None
        return meteor.parse_counts(meteor.count_lines(tokens.hypotheses, tokens.references, java_seconds))
    except java.JavaFailed as failure:
        note(f'note: no interval of METEOR: its Java program {failure}')
    except ValueError:
        note('note: no interval of METEOR: its Java program answered something else than counts')
    return None


def ptb_tokens(captions: Iterable[str], java_seconds: float = 180.0) -> list[str]:
    """The tokens of each caption by the Java PTB tokenizer, without punctuation, joined by spaces.

    Raises `JavaFailed`.
    """
    command = ['-cp', PTB_JAR, 'edu.stanford.nlp.process.PTBTokenizer', '-preserveLines', '-lowerCase',
               '-encoding', 'UTF-8']
    with java.Java(command, java.toolkit_folder('tokenizer'), java_seconds) as program:
        lines = [tokenizer.one_line(caption) for caption in captions]
        answers = program.ask(lines, len(lines), last=True)
    return [' '.join(word for word in answer.rstrip().split(' ') if word not in tokenizer.PUNCTUATION)
            for answer in answers]


def _check(predictions: Predictions, references: References) -> None:
    """Raise `DataError` unless there are predictions, and each has references."""
    if not predictions:
        raise DataError('there is no caption to score')
    missing = [image_id for image_id in predictions if not references.get(image_id)]
    if missing:
        raise DataError(f'{len(missing)} of {len(predictions)} captioned images have no reference captions: '
                        f'{", ".join(map(str, missing[:5]))}{" ..." if len(missing) > 5 else ""}; '
                        'score them against the annotations of their own data set (--coco_json)')


class _Tokenized(NamedTuple):
    hypotheses: Tokens  # one caption for each id
    references: Tokens
    by_java: bool       # whether Java works, so that METEOR and SPICE may be tried
    tokenizer: str


def _tokens(predictions: Predictions, references: References, use_java: bool, java_seconds: float,
            notes: list[str], kind: str) -> _Tokenized:
    """The tokens of predictions and references.  What the user should know is appended to `notes`."""
    lines = list(predictions.values())
    for image_id in predictions:
        lines.extend(references[image_id])
    name, whence = ('spaces', 'are words separated by spaces') if kind == TOKENS else (
        'PTB (Python)', 'come from the tokenizer in Python')
    by_java, done = False, None
    if not use_java:
        notes.append('Java is turned off: no METEOR and SPICE, which need it; the tokens of the other scores '
                     f'{whence}')
    elif not java.is_installed():
        notes.append('Java is not installed: METEOR and SPICE need it (install a Java runtime, for instance '
                     f'default-jre); the tokens of the other scores {whence}')
    elif kind == TOKENS:
        by_java = True
        notes.append('scored against the tokens of the references: words separated by spaces')
    else:
        try:
            done, name, by_java = ptb_tokens(lines, java_seconds), 'PTB (Java)', True
            notes.append('tokens by the Java PTB tokenizer, as coco-caption has them')
        except java.JavaFailed as failure:
            notes.append(f'the Java PTB tokenizer {failure}; METEOR and SPICE are left out, and the tokens of the '
                         f'other scores {whence}')
    rest = iter(map(TOKENIZERS[kind], lines) if done is None else done)
    hypotheses = {image_id: [next(rest)] for image_id in predictions}
    truths = {image_id: [next(rest) for _ in references[image_id]] for image_id in predictions}
    if not any(text for texts in truths.values() for text in texts):
        raise DataError('no reference caption has a word in it; give another file of references')
    return _Tokenized(hypotheses, truths, by_java, name)


def _python_scores(hypotheses: Tokens, references: Tokens,
                   frequencies: DocumentFrequencies | None = None) -> ByMetric:
    """BLEU, ROUGE-L and CIDEr."""
    java.toolkit_folder('bleu')  # which says what to install where pycocoevalcap is missing
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    with contextlib.redirect_stdout(io.StringIO()):  # the scorers print; standard output is for results
        totals, each = Bleu(4).compute_score(references, hypotheses, verbose=0)
        return {**{f'Bleu_{order + 1}': (totals[order], each[order]) for order in range(4)},
                'ROUGE_L': Rouge().compute_score(references, hypotheses),
                'CIDEr': _cider_with(frequencies, references, hypotheses) if frequencies
                else Cider().compute_score(references, hypotheses)}


def _cider_with(frequencies: DocumentFrequencies, references: Tokens,
                hypotheses: Tokens) -> tuple[float, Sequence[float]]:
    """CIDEr as pycocoevalcap computes it, with the document frequencies of a table."""
    from pycocoevalcap.cider.cider_scorer import CiderScorer

    class TableScorer(CiderScorer):
        # `compute_cider` sets it to the logarithm of the number of images scored.
        ref_len = property(lambda self: math.log(frequencies.images), lambda self, value: None)

    scorer = TableScorer()
    for image_id, texts in hypotheses.items():
        scorer += (texts[0], references[image_id])
    scorer.document_frequency = defaultdict(float, frequencies.counts)
    scores = scorer.compute_cider()
    return float(np.mean(scores)), scores


def _java_score(name: str, scorer: Callable[[Tokens, Tokens, float], tuple[float, list[float]]],
                tokens: _Tokenized, java_seconds: float, notes: list[str]) -> ByMetric:
    """{name: what the scorer returns}, or a note and {} where its Java program fails."""
    try:
        return {name: scorer(tokens.hypotheses, tokens.references, java_seconds)}
    except java.JavaFailed as failure:
        notes.append(f'{name} is left out: its Java program {failure}')
        return {}
