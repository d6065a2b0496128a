"""SPICE (Anderson et al., ECCV 2016), by its Java program."""

import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from misc.scoring import java

JAR = 'spice-1.0.jar'
MODELS = ('stanford-corenlp-3.6.0.jar', 'stanford-corenlp-3.6.0-models.jar')

Tokens = Mapping[Any, Sequence[str]]  # {image id: captions, tokens joined by spaces}


def missing_models() -> str:
    """'' where SPICE can run, else what it lacks and how to get it."""
    folder = os.path.join(java.toolkit_folder('spice'), 'lib')
    missing = [name for name in MODELS if not os.path.isfile(os.path.join(folder, name))]
    if not missing:
        return ''
    return (f'SPICE is left out: {" and ".join(missing)} (of Stanford CoreNLP 3.6.0) not found in {folder}; '
            'python -m pycocoevalcap.spice.get_stanford_models downloads them')


def spice(hypotheses: Tokens, references: Tokens, seconds: float) -> tuple[float, list[float]]:
    """SPICE: the mean F-score, and that of each caption.  `hypotheses` has one caption for each image.

    Raises `JavaFailed` where the program fails, or takes longer than `seconds` and one more for each image.
    """
    images = [{'image_id': number, 'test': hypotheses[image_id][0], 'refs': list(references[image_id])}
              for number, image_id in enumerate(hypotheses)]
    with tempfile.TemporaryDirectory() as folder:
        source, target = os.path.join(folder, 'captions.json'), os.path.join(folder, 'scores.json')
        with open(source, 'w', encoding='utf-8') as file:
            json.dump(images, file)
        command = ['-Xmx8G', '-jar', JAR, source, '-out', target, '-subset', '-silent']
        # It is silent until it ends; it parses some tens of captions a second.
        with java.Java(command, java.toolkit_folder('spice'), seconds + len(images)) as program:
            program.finish()
        try:
            with open(target, encoding='utf-8') as file:
                answers = {item['image_id']: item['scores']['All']['f'] for item in json.load(file)}
            # Where neither side names an object there is no F-score (null or NaN).
            scores = [float(answers[number] or 0.0) for number in range(len(images))]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise java.JavaFailed(f'wrote no readable scores ({error!r})') from None
    scores = [0.0 if math.isnan(value) else value for value in scores]
    return sum(scores) / len(scores), scores
