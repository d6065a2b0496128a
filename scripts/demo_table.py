"""Print a table of scores and relation accuracies of results files on the built-in data set."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from misc.cli import Parser, run_command
from misc.demo.results import read_rows
from misc.scoring.scores import score_table


def main() -> None:
    """Read the files and print the table."""
    parser = Parser(description='Scores and relation accuracies of captions of the built-in data set.\n\n'
                    'example: python scripts/demo_table.py --input_json data/demo/cocotalk.json '
                    'eval_results/demo_spatial_pe_1_test.json')
    parser.add_argument('results', nargs='+', metavar='FILE',
                        help='eval_results/ID_SPLIT.json, from eval.py --language_eval 1')
    parser.add_argument('--input_json', default='data/demo/cocotalk.json', metavar='FILE',
                        help='the file with the references')
    options = parser.parse_args()
    print(score_table(read_rows(options.results, options.input_json)))


if __name__ == '__main__':
    run_command(main)
