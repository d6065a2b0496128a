"""Results files of the built-in data set: their scores, and the share of relations that are right."""

import os

from misc.cli import DataError
from misc.demo.relations import relation_accuracy
from misc.disk.files import read_json
from misc.scoring.references import checked_captions, load_references

SHOWN = ('Bleu_4', 'METEOR', 'ROUGE_L', 'CIDEr')


def read_rows(paths, input_json):
    """{name of a results file: its shown scores and its relation accuracy}, with the references in
    `input_json`.  Raises `DataError` for a file of something else."""
    references = load_references(input_json)
    return {os.path.splitext(os.path.basename(path))[0]: table_row(path, references, input_json)
            for path in paths}


def table_row(path, references, input_json):
    """The shown scores of one results file, and its relation accuracy; `references` {image id: captions}
    are of the file `input_json`."""
    captions, shown = read_results(path)
    unknown = [image_id for image_id in captions if image_id not in references]
    if unknown:
        raise DataError(f'{path} has captions of images that have none in {input_json}, {unknown[0]} for '
                        'one; give the --input_json of the evaluation')
    relations = relation_accuracy(captions, {image_id: references[image_id] for image_id in captions})
    if relations['accuracy'] is not None:
        shown['relations'] = relations['accuracy']
    return shown


def read_results(path):
    """A results file -> {image id: caption} and {name of a shown score: number}."""
    made_by = 'python eval.py ... --language_eval 1'
    results = read_json(path, made_by)
    try:
        rows = [(row['image_id'], row['caption']) for row in results['images']]
        checked_captions([caption for _, caption in rows])
        return dict(rows), {name: float(results['overall'][name]) for name in SHOWN
                            if name in results['overall']}
    except KeyError as error:
        reason = f'it has no {error.args[0]}'
    except (TypeError, ValueError):
        reason = 'it should hold overall, scores by their names, and images, with image_id and caption each'
    raise DataError(f'{path} is not a results file: {reason}; give eval_results/ID_SPLIT.json, made by: '
                    f'{made_by}')
