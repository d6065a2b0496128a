"""Results files of the built-in data set: their scores, and the share of relations that are right."""

import os

from misc.cli import DataError
from misc.files import read_json
from misc.references import load_references
from misc.relations import relation_accuracy

SHOWN = ('Bleu_4', 'METEOR', 'ROUGE_L', 'CIDEr')


def table_row(results, references):
    """The shown scores of one results file's content, and its relation accuracy."""
    captions = {row['image_id']: row['caption'] for row in results['images']}
    relations = relation_accuracy(captions, {image_id: references[image_id] for image_id in captions})
    shown = {name: results['overall'][name] for name in SHOWN if name in results['overall']}
    if relations['accuracy'] is not None:
        shown['relations'] = relations['accuracy']
    return shown


def read_rows(paths, input_json):
    """{name of a results file: `table_row`}, with the references in `input_json`.  Raises `DataError` for a
    file of something else."""
    references, rows = load_references(input_json), {}
    for path in paths:
        results = read_json(path, 'python eval.py ... --language_eval 1')
        try:
            rows[os.path.splitext(os.path.basename(path))[0]] = table_row(results, references)
        except (KeyError, TypeError) as error:
            raise DataError(f'{path} is not a results file of these images ({error!r} is missing)') from None
    return rows
