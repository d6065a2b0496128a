"""Whether a label file was made with the vocabulary and the images of `--input_json`.

`scripts/prepro_labels.py` writes digests of both as attributes of the label file.  Files without them, of earlier
versions or made elsewhere, are checked by decoding some of their captions: with another vocabulary, or images in
another order, the words are not those of the captions in `--input_json`.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from misc import commands
from misc.cli import DataError
from misc.dataset.labels import IMAGES, UNKNOWN, VOCABULARY, Labels

SAMPLE = 200     # images whose captions are decoded, spread over the file
MOST = 0.1       # of the words, and of the different words, may not be found: captions are tokenized in many ways


def digests(vocabulary: Mapping[str, str], ids: Iterable[int]) -> dict[str, str]:
    """The attributes of a label file made with `vocabulary` {index as text: word} and images `ids` in this order."""
    words = [vocabulary[str(index)] for index in range(1, len(vocabulary) + 1)]
    return {name: hashlib.sha256(json.dumps(value).encode()).hexdigest()[:24]
            for name, value in ((VOCABULARY, words), (IMAGES, list(ids)))}


def check_pair(labels: Labels, images: Sequence[Mapping[str, Any]], vocabulary: Mapping[str, str],
               input_json: str) -> None:
    """Raise `DataError` unless `labels` were made with the `images` and the `vocabulary` of the file `input_json`, as
    far as that can be known: the file has digests, or the images have captions."""
    own = digests(vocabulary, [image['id'] for image in images])
    reasons = {VOCABULARY: 'it was made with another vocabulary',
               IMAGES: 'it was made of other images, or of the same in another order'}
    problem = next((reasons[name] for name in own if labels.digests[name] not in (None, own[name])), '')
    if not problem and None in labels.digests.values():
        problem = decoding_problem(labels, images, vocabulary)
    if problem:
        raise DataError(f'--input_label_h5: {labels.path} does not belong to --input_json {input_json}: {problem};\n'
                        f'give the two files of one preparation, or make both again with: {commands.LABELS}')


def decoding_problem(labels: Labels, images: Sequence[Mapping[str, Any]], vocabulary: Mapping[str, str]) -> str:
    """What the captions of some images say against `labels`, or ''."""
    found: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    example = ''
    captioned = [row for row, image in enumerate(images) if image.get('captions') and len(labels.of(row))]
    for place in np.linspace(0, len(captioned) - 1, min(SAMPLE, len(captioned))).astype(int).tolist():
        row = captioned[place]
        captions = [letters(text) for text in images[row]['captions']]
        for indices in labels.of(row).tolist():
            words = [vocabulary[str(index)] for index in indices if index]
            # Files made elsewhere may have the captions in another order, or not all of them.
            absent = min((missing(words, text) for text in captions), key=len)
            missed.update(absent)
            found.update(words)
            if len(absent) > 1 and not example:
                example = f'a caption of image {images[row]["id"]} reads {" ".join(words)[:60]!r} in it'
    kinds, absent_kinds = len(found), sum(missed[word] == count for word, count in found.items())
    if missed.total() > MOST * found.total() or absent_kinds > MOST * kinds + 1:
        return example or 'its words are not those of the captions'
    return ''


def missing(words: Iterable[str], text: str) -> list[str]:
    """The words that do not follow each other in `text`, the `letters` of a caption; words that stand for others
    left out."""
    absent, place = [], 0
    for word in words:
        piece = letters(word)
        if word == UNKNOWN or not piece:
            continue
        found = text.find(piece, place)
        if found < 0:
            absent.append(word)
        else:
            place = found + len(piece)
    return absent


def letters(text: str) -> str:
    """The letters and digits of a text in lower case: what all ways to tokenize it leave."""
    return ''.join(filter(str.isalnum, text.lower()))
