"""Print one table of scores and relation accuracy for results files on the built-in data set."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from misc.cli import DataError, Parser, run_command
from misc.files import read_json
from misc.references import load_references
from misc.relations import relation_accuracy
from misc.report import score_table

SHOWN = ('Bleu_4', 'METEOR', 'ROUGE_L', 'CIDEr')


def table_row(results, references):
    """The shown scores of one results file's content, and its relation accuracy."""
    captions = {row['image_id']: row['caption'] for row in results['images']}
    relations = relation_accuracy(captions, {image_id: references[image_id] for image_id in captions})
    shown = {name: results['overall'][name] for name in SHOWN if name in results['overall']}
    if relations['accuracy'] is not None:
        shown['relations'] = relations['accuracy']
    return shown


def read_rows(paths, references):
    """{name of a results file: `table_row`}.  Raises `DataError` for a file of something else."""
    rows = {}
    for path in paths:
        results = read_json(path, 'python eval.py ... --language_eval 1')
        try:
            rows[os.path.splitext(os.path.basename(path))[0]] = table_row(results, references)
        except (KeyError, TypeError) as error:
            raise DataError(f'{path} is not a results file of these images ({error!r} is missing)') from None
    return rows


def main():
    """Read the files, print the table."""
    parser = Parser(description='Scores and relation accuracy of captions of the built-in data set.\n\n'
                    'example: python scripts/demo_table.py --input_json data/demo/cocotalk.json '
                    'eval_results/demo_spatial_pe_1_test.json')
    parser.add_argument('results', nargs='+', metavar='FILE',
                        help='eval_results/ID_SPLIT.json, from eval.py --language_eval 1')
    parser.add_argument('--input_json', default='data/demo/cocotalk.json', metavar='FILE',
                        help='where the references are')
    options = parser.parse_args()
    print(score_table(read_rows(options.results, load_references(options.input_json))))


if __name__ == '__main__':
    run_command(main)
