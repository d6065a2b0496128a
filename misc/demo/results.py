"""Results files on the built-in data set: their scores and their relation accuracy."""

import os
from collections.abc import Mapping, Sequence

from misc.cli import DataError, plain_text
from misc.demo.relations import relation_accuracy
from misc.scoring.references import ImageId, load_references
from misc.scoring.results import MADE_BY, read_results

SHOWN = ('Bleu_4', 'METEOR', 'ROUGE_L', 'CIDEr')


def read_rows(paths: Sequence[str], input_json: str) -> dict[str, dict[str, float]]:
    """{name of a results file: {score: number}}, with the relation accuracy as 'relations'.

    The references are in `input_json`.  Raises `DataError` for a file that holds no results, or those of other
    images.
    """
    references = load_references(input_json)
    return {os.path.splitext(os.path.basename(path))[0]: table_row(path, references, input_json) for path in paths}


def table_row(path: str, references: Mapping[ImageId, Sequence[str]], input_json: str) -> dict[str, float]:
    """The scores of one results file that are shown, with its relation accuracy."""
    results = read_results(path)
    captions = {image: caption for image, caption in results.captions.items() if caption is not None}
    if len(captions) < len(results.captions):
        raise DataError(f'{path} has no caption for {len(results.captions) - len(captions)} of '
                        f'{len(results.captions)} images; give eval_results/ID_SPLIT.json, made by: {MADE_BY}')
    unknown = [image for image in captions if image not in references]
    if unknown:
        raise DataError(f'{path} has captions of images without references in {input_json}, such as '
                        f'{plain_text(unknown[0])}; give the --input_json of the evaluation')
    row = {name: results.overall[name] for name in SHOWN if name in results.overall}
    relations = relation_accuracy(captions, {image: references[image] for image in captions})
    if relations['accuracy'] is not None:
        row['relations'] = relations['accuracy']
    return row
