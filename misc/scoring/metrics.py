"""BLEU, METEOR, ROUGE-L, CIDEr and SPICE as coco-caption computes them.

The one room that knows pycocoevalcap.  Its Python scorers are called as they are.  The Java
programs that it brings along (PTB tokenizer, METEOR, SPICE) are run by `misc.scoring.java`, one at a time,
because its own wrappers wait for ever for a program that hangs or has died.
"""

import contextlib
import importlib.util
import io
import json
import math
import os
import tempfile

from misc.cli import DataError, Progress, UserError, note
from misc.scoring import java, tokenizer
from misc.scoring.meteor import parse_counts
from misc.scoring.scores import METRICS

PTB_JAR = 'stanford-corenlp-3.4.1.jar'
METEOR_JAR = 'meteor-1.5.jar'
SPICE_JAR = 'spice-1.0.jar'
SPICE_MODELS = ['stanford-corenlp-3.6.0.jar', 'stanford-corenlp-3.6.0-models.jar']


def score(predictions, references, use_java=True, java_seconds=180.0, show_progress=False):
    """Score captions against references.

    `predictions` is {id: caption}, `references` {id: [caption, ...]} for at least those ids.
    `use_java` False leaves Java alone even where it is installed; a Java program that says nothing
    for `java_seconds` is stopped.

    Returns `overall` {name: number}, `per_image` {id: {name: number}} and `notes`, a list of lines
    for the user: which tokenizer ran, which score is missing and why.  The names are `METRICS`,
    those of scores that could not be had left out; all are fractions, CIDEr up to 10.

    With Java the tokens are those of the Java PTB tokenizer, so that scores equal coco-caption's to
    the last digit; without, those of `misc.scoring.tokenizer`.  Raises `DataError` for images without
    references.
    """
    check(predictions, references)
    notes, overall = [], {}
    per_image = {image_id: {} for image_id in predictions}

    def keep(name, total, each):
        overall[name] = float(total)
        for image_id, value in zip(predictions, each):
            per_image[image_id][name] = float(value)

    with Progress(4, 'scoring', 'step') if show_progress else contextlib.nullcontext() as display:
        def advance():
            if display is not None:
                display.update()

        hypotheses, truths, with_java = tokens(predictions, references, use_java, java_seconds, notes)
        advance()
        python_scores(hypotheses, truths, keep)
        advance()
        if with_java:
            attempt('METEOR', meteor, hypotheses, truths, java_seconds, keep, notes)
        advance()
        if with_java and spice_is_installed(notes):
            attempt('SPICE', spice, hypotheses, truths, java_seconds, keep, notes)
        advance()
    if len(predictions) == 1:
        notes.append('CIDEr of a single image is 0: it weighs words by how few images have them')
    return in_order(overall), {key: in_order(row) for key, row in per_image.items()}, notes


def oracle_cider(captions, references, use_java=True, java_seconds=180.0):
    """The mean over images of the CIDEr of the best of each image's captions.

    `captions` is {id: [caption, ...]}, at least one each.  The k-th captions of all images are scored
    together, as `score` scores them (of an image with fewer, the last stands in).
    """
    most = max(map(len, captions.values()))
    keyed = {(image_id, place): several[min(place, len(several) - 1)]
             for image_id, several in captions.items() for place in range(most)}
    hypotheses, truths, _ = tokens(keyed, {key: references[key[0]] for key in keyed}, use_java,
                                   java_seconds, [])
    best = dict.fromkeys(captions, 0.0)
    for place in range(most):
        def keep(name, total, each):
            if name == 'CIDEr':
                for image_id, value in zip(captions, each):
                    best[image_id] = max(best[image_id], float(value))
        python_scores({image_id: hypotheses[image_id, place] for image_id in captions},
                      {image_id: truths[image_id, place] for image_id in captions}, keep)
    return sum(best.values()) / len(best)


def in_order(row):
    """The scores of `row` in the field's usual order."""
    return {name: row[name] for name in METRICS if name in row}


def check(predictions, references):
    """Raise `DataError` unless every prediction has a caption and references with words."""
    if not predictions:
        raise DataError('there is no caption to score')
    missing = [image_id for image_id in predictions if not references.get(image_id)]
    if missing:
        raise DataError(f'{len(missing)} of {len(predictions)} captioned images have no reference captions: '
                        f'{", ".join(map(str, missing[:5]))}{" ..." if len(missing) > 5 else ""}; '
                        'score them against the annotations of their own data set (--coco_json)')


def tokens(predictions, references, use_java, java_seconds, notes):
    """{id: [tokens]} of the predictions, {id: [tokens, ...]} of their references, and whether
    Java did the work (and may do more).  Token strings are joined by spaces."""
    lines = list(predictions.values())
    for image_id in predictions:
        lines.extend(references[image_id])
    split, with_java = None, False
    if not use_java:
        notes.append('Java was not asked for: no METEOR and SPICE, which need it; the other scores come '
                     'through the tokenizer in Python')
    elif not java.is_installed():
        notes.append('there is no Java here: METEOR and SPICE need it (install a Java runtime, say '
                     'default-jre); the other scores come through the tokenizer in Python')
    else:
        try:
            split, with_java = ptb_tokens(lines, java_seconds), True
            notes.append('tokens by the Java PTB tokenizer, as coco-caption has them')
        except java.JavaFailed as failure:
            notes.append(f'the Java PTB tokenizer {failure}; METEOR and SPICE are left out, the other '
                         'scores come through the tokenizer in Python')
    if split is None:
        split = [tokenizer.tokenize(line) for line in lines]
    rest = iter(split)
    hypotheses = {image_id: [next(rest)] for image_id in predictions}
    truths = {image_id: [next(rest) for _ in references[image_id]] for image_id in predictions}
    if not any(text for texts in truths.values() for text in texts):
        raise DataError('no reference caption has a word in it')
    return hypotheses, truths, with_java


def ptb_tokens(captions, java_seconds=180.0):
    """The tokens of each caption by the Java PTB tokenizer, joined by spaces, without punctuation.

    Raises `misc.scoring.java.JavaFailed`.
    """
    command = ['-cp', PTB_JAR, 'edu.stanford.nlp.process.PTBTokenizer', '-preserveLines', '-lowerCase',
               '-encoding', 'UTF-8']
    with java.Java(command, part('tokenizer'), java_seconds) as program:
        lines = [tokenizer.one_line(caption) for caption in captions]
        answers = program.ask(lines, len(lines), last=True)
    return [' '.join(word for word in answer.rstrip().split(' ') if word not in tokenizer.PUNCTUATION)
            for answer in answers]


def python_scores(hypotheses, truths, keep):
    """BLEU, ROUGE-L and CIDEr, handed to `keep(name, total, each)`."""
    part('bleu')
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    with contextlib.redirect_stdout(io.StringIO()):  # the scorers print; standard output is for results
        totals, each = Bleu(4).compute_score(truths, hypotheses, verbose=0)
        for order in range(4):
            keep(f'Bleu_{order + 1}', totals[order], each[order])
        keep('ROUGE_L', *Rouge().compute_score(truths, hypotheses))
        keep('CIDEr', *Cider().compute_score(truths, hypotheses))


def attempt(name, scorer, hypotheses, truths, java_seconds, keep, notes):
    """Run a Java scorer; a failure becomes a note and the score is left out."""
    try:
        keep(name, *scorer(hypotheses, truths, java_seconds))
    except java.JavaFailed as failure:
        notes.append(f'{name} is left out: its Java program {failure}')


def meteor(hypotheses, truths, java_seconds):
    """METEOR 1.5 of the whole set, and of each image.

    The jar speaks a protocol of lines: 'SCORE ||| reference ||| ... ||| hypothesis' is answered by
    the counts of that image; 'EVAL ||| counts ||| ...' by a score for each and one for all.
    """
    requests = meteor_requests(hypotheses, truths)
    with meteor_program(java_seconds) as program:
        counts = program.ask(requests, len(requests))
        for line in counts:
            if not numbers_in(line):
                raise java.JavaFailed(f'answered {line[:100]!r} where counts were due')
        answers = program.ask([' ||| '.join(['EVAL'] + counts)], len(requests) + 1)
    scores = []
    for line in answers:
        numbers = numbers_in(line)
        if len(numbers) != 1 or not -1e-6 <= numbers[0] <= 1 + 1e-6:
            raise java.JavaFailed(f'answered {line[:100]!r} where scores were due')
        scores.append(min(max(numbers[0], 0.0), 1.0))
    return scores[-1], scores[:-1]


def numbers_in(line):
    """The numbers that a line consists of, a list; empty where it holds anything else."""
    try:
        numbers = [float(word) for word in line.split()]
    except ValueError:
        return []
    return numbers if all(map(math.isfinite, numbers)) else []


def meteor_counts(predictions, references, java_seconds=180.0):
    """METEOR's counts of captions, float64 (N, METEOR_COUNTS), from `parse_counts`; arguments as for `score`.
    None where there is no Java; and where it fails, which a line then says."""
    if not java.is_installed():
        return None
    try:
        notes = []
        hypotheses, truths, with_java = tokens(predictions, references, True, java_seconds, notes)
        if not with_java:
            note(f'note: no interval of METEOR: {notes[-1]}')
            return None
        requests = meteor_requests(hypotheses, truths)
        with meteor_program(java_seconds) as program:
            return parse_counts(program.ask(requests, len(requests)))
    except java.JavaFailed as failure:
        note(f'note: no interval of METEOR: its Java program {failure}')
    except ValueError:
        note('note: no interval of METEOR: its Java program answered something else than counts')
    return None


def meteor_requests(hypotheses, truths):
    """The lines that ask the jar for the counts of each image."""
    return [' ||| '.join(['SCORE'] + [text.replace('|||', ' ') for text in truths[image_id] + texts])
            for image_id, texts in hypotheses.items()]


def meteor_program(java_seconds):
    """The jar, running."""
    return java.Java(['-Xmx2G', '-jar', METEOR_JAR, '-', '-', '-stdio', '-l', 'en', '-norm'], part('meteor'),
                     java_seconds)


def spice_is_installed(notes):
    """Whether SPICE can run; if not, a note says how to get what it lacks."""
    folder = os.path.join(part('spice'), 'lib')
    missing = [name for name in SPICE_MODELS if not os.path.isfile(os.path.join(folder, name))]
    if missing:
        notes.append(f'SPICE is left out: {" and ".join(missing)} (of Stanford CoreNLP 3.6.0) '
                     f'not found in {folder}; python -m pycocoevalcap.spice.get_stanford_models downloads '
                     'what it needs')
    return not missing


def spice(hypotheses, truths, java_seconds):
    """SPICE: its mean F-score, and that of each image."""
    images = [{'image_id': number, 'test': hypotheses[image_id][0], 'refs': truths[image_id]}
              for number, image_id in enumerate(hypotheses)]
    with tempfile.TemporaryDirectory() as folder:
        source, target = os.path.join(folder, 'captions.json'), os.path.join(folder, 'scores.json')
        with open(source, 'w', encoding='utf-8') as file:
            json.dump(images, file)
        command = ['-Xmx8G', '-jar', SPICE_JAR, source, '-out', target, '-subset', '-silent']
        # It is silent until it ends: it parses some tens of captions a second.
        with java.Java(command, part('spice'), java_seconds + len(images)) as program:
            program.finish()
        try:
            with open(target, encoding='utf-8') as file:
                answers = {item['image_id']: item['scores']['All']['f'] for item in json.load(file)}
            # No F-score (null or NaN): neither side has a single object.
            each = [float(answers[number] or 0.0) for number in range(len(images))]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise java.JavaFailed(f'wrote no scores that can be read ({error!r})') from None
    each = [0.0 if math.isnan(value) else value for value in each]
    return sum(each) / len(each), each


def part(name):
    """The folder of a part of pycocoevalcap."""
    found = importlib.util.find_spec('pycocoevalcap')
    if found is None:
        raise UserError('scores need pycocoevalcap: pip install -r requirements.txt')
    return os.path.join(list(found.submodule_search_locations)[0], name)
