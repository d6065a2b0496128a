"""BLEU, METEOR, ROUGE-L, CIDEr and SPICE as coco-caption computes them.

This is the one file that imports pycocoevalcap.  Its Python scorers are called as they are.  Its Java programs (PTB
tokenizer, METEOR, SPICE) are run by `misc.scoring.java`, because its own wrappers wait for ever for a program that
hangs or has died.
"""

import contextlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from misc.cli import DataError, Progress, note
from misc.scoring import java, meteor, spice, tokenizer
from misc.scoring.scores import METRICS

PTB_JAR = 'stanford-corenlp-3.4.1.jar'

# What the functions below take and give.
Predictions = Mapping[Any, str]            # {id: caption}
References = Mapping[Any, Sequence[str]]   # {id: [caption, ...]}
Tokens = dict[Any, list[str]]              # {id: [tokens joined by spaces, ...]}
Scored = dict[str, tuple[float, Sequence[float]]]  # {metric: (score of the set, scores of the captions)}


def score(predictions: Predictions, references: References, use_java: bool = True, java_seconds: float = 180.0,
          show_progress: bool = False) -> tuple[dict[str, float], dict[Any, dict[str, float]], list[str]]:
    """Score captions against references, which are there for at least the same ids.

    Returns `overall` {metric: score}, `per_image` {id: {metric: score}} and `notes`, lines for the user: which
    tokenizer ran, which score is missing and why.  Metrics are those of `METRICS` that could be computed, in that
    order; scores are fractions, CIDEr up to 10.

    With Java, tokens come from the PTB tokenizer, and scores equal coco-caption's to the last digit; without, from
    `misc.scoring.tokenizer`.  `use_java` False does without Java even where it is installed; a Java program that
    is silent for `java_seconds` is stopped.  Raises `DataError` for images without references.
    """
    _check(predictions, references)
    notes: list[str] = []
    with Progress(4, 'scoring', 'step') if show_progress else contextlib.nullcontext() as display:
        def advance() -> None:
            if display is not None:
                display.update()

        tokens = _tokens(predictions, references, use_java, java_seconds, notes)
        advance()
        scored = _python_scores(tokens.hypotheses, tokens.references)
        advance()
        if tokens.by_java:
            scored.update(_java_score('METEOR', meteor.meteor, tokens, java_seconds, notes))
        advance()
        if tokens.by_java:
            missing = spice.missing_models()
            if missing:
                notes.append(missing)
            else:
                scored.update(_java_score('SPICE', spice.spice, tokens, java_seconds, notes))
        advance()
    if len(predictions) == 1:
        notes.append('CIDEr of a single image is 0: it weighs words by how few images have them')
    names = [name for name in METRICS if name in scored]
    per_image = {image_id: {name: float(scored[name][1][place]) for name in names}
                 for place, image_id in enumerate(predictions)}
    return {name: float(scored[name][0]) for name in names}, per_image, notes


def oracle_cider(captions: References, references: References, use_java: bool = True,
                 java_seconds: float = 180.0) -> float:
    """The mean over images of the CIDEr of the best of each image's `captions` (at least one each).

    The k-th captions of all images are scored together, as `score` does; an image with fewer captions takes part with
    its last one.
    """
    most = max(map(len, captions.values()))
    keyed = {(image_id, place): several[min(place, len(several) - 1)]
             for image_id, several in captions.items() for place in range(most)}
    tokens = _tokens(keyed, {key: references[key[0]] for key in keyed}, use_java, java_seconds, [])
    best = dict.fromkeys(captions, 0.0)
    for place in range(most):
        scored = _python_scores({image_id: tokens.hypotheses[image_id, place] for image_id in captions},
                                {image_id: tokens.references[image_id, place] for image_id in captions})
        for image_id, value in zip(captions, scored['CIDEr'][1]):
            best[image_id] = max(best[image_id], float(value))
    return sum(best.values()) / len(best)


def meteor_counts(predictions: Predictions, references: References,
                  java_seconds: float = 180.0) -> np.ndarray | None:
    """METEOR's counts of captions, float64 (N, METEOR_COUNTS) (see `meteor.parse_counts`); arguments as for `score`.

    None where there is no Java, and where Java fails, which is then noted.
    """
    if not java.is_installed():
        return None
    try:
        notes: list[str] = []
        tokens = _tokens(predictions, references, True, java_seconds, notes)
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


def _tokens(predictions: Predictions, references: References, use_java: bool, java_seconds: float,
            notes: list[str]) -> _Tokenized:
    """The tokens of predictions and references.  What the user should know is appended to `notes`."""
    lines = list(predictions.values())
    for image_id in predictions:
        lines.extend(references[image_id])
    split = None
    if not use_java:
        notes.append('Java is turned off: no METEOR and SPICE, which need it; the tokens of the other scores '
                     'come from the tokenizer in Python')
    elif not java.is_installed():
        notes.append('Java is not installed: METEOR and SPICE need it (install a Java runtime, for instance '
                     'default-jre); the tokens of the other scores come from the tokenizer in Python')
    else:
        try:
            split = ptb_tokens(lines, java_seconds)
            notes.append('tokens by the Java PTB tokenizer, as coco-caption has them')
        except java.JavaFailed as failure:
            notes.append(f'the Java PTB tokenizer {failure}; METEOR and SPICE are left out, and the tokens of the '
                         'other scores come from the tokenizer in Python')
    by_java = split is not None
    rest = iter([tokenizer.tokenize(line) for line in lines] if split is None else split)
    hypotheses = {image_id: [next(rest)] for image_id in predictions}
    truths = {image_id: [next(rest) for _ in references[image_id]] for image_id in predictions}
    if not any(text for texts in truths.values() for text in texts):
        raise DataError('no reference caption has a word in it; give another file of references')
    return _Tokenized(hypotheses, truths, by_java)


def _python_scores(hypotheses: Tokens, references: Tokens) -> Scored:
    """BLEU, ROUGE-L and CIDEr."""
    java.toolkit_folder('bleu')  # which says what to install where pycocoevalcap is missing
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    with contextlib.redirect_stdout(io.StringIO()):  # the scorers print; standard output is for results
        totals, each = Bleu(4).compute_score(references, hypotheses, verbose=0)
        return {**{f'Bleu_{order + 1}': (totals[order], each[order]) for order in range(4)},
                'ROUGE_L': Rouge().compute_score(references, hypotheses),
                'CIDEr': Cider().compute_score(references, hypotheses)}


def _java_score(name: str, scorer: Callable[[Tokens, Tokens, float], tuple[float, list[float]]],
                tokens: _Tokenized, java_seconds: float, notes: list[str]) -> Scored:
    """{name: what the scorer returns}, or a note and {} where its Java program fails."""
    try:
        return {name: scorer(tokens.hypotheses, tokens.references, java_seconds)}
    except java.JavaFailed as failure:
        notes.append(f'{name} is left out: its Java program {failure}')
        return {}
