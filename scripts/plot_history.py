"""Draw the training curves of one or more runs: losses, learning rate, validation scores, rewards."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from misc.cli import DataError, Parser, note, number_in, run_command
from misc.compare.curves import run_curves
from misc.compare.plots import figure_of, picture_name, write_picture
from misc.run.histories import read_histories

DESCRIPTION = """\
Draws the training curves of one or more runs: loss in training and validation, learning rate,
validation scores, rewards; a colour for each run, a panel for everything that was logged.
Only reads histories_ID.pkl and validations.jsonl as train.py writes them, so a run can be drawn
while it trains (up to its last checkpoint).

  python scripts/plot_history.py checkpoints/spatial_transformer_bu
  python scripts/plot_history.py checkpoints/demo_*_1 --output compared.svg

What to look for: validation loss that rises while training loss falls is overfitting; in
self-critical training, reward and baseline should rise together, and CIDEr with them. A run that
went on from another one, such as a copy by copy_model.sh, is drawn from there on: to see both, give
both folders."""


def arguments() -> Parser:
    """The command-line parser."""
    parser = Parser(description=DESCRIPTION)
    parser.add_argument('folders', nargs='+', metavar='RUN_FOLDER',
                        help='the --checkpoint_path of a run; all runs in the folder are drawn')
    parser.add_argument('--id', action='append', metavar='ID',
                        help='draw only this run of a folder that holds several; may be given several times')
    parser.add_argument('--output', type=picture_name, default='eval_results/curves.png', metavar='FILE',
                        help='the picture: .png to look at, .svg to zoom into and print')
    parser.add_argument('--smooth', type=number_in(int, low=0), metavar='N',
                        help='logged values are drawn faintly, with the mean of each and its N neighbours on '
                        'both sides on top; raise it for noisy curves, 0 draws no mean '
                        '(default: a fiftieth of the curve)')
    return parser


def main() -> None:
    """Read the runs and draw them."""
    options = arguments().parse_args()
    runs = run_curves([history for folder in options.folders
                       for history in read_histories(folder, options.id or ())])
    if not any(run.panels for run in runs):
        raise DataError(f'{", ".join(options.folders)}: nothing was logged there yet; wait for the first '
                        'checkpoint (--save_checkpoint_every, --losses_log_every)')
    write_picture(figure_of(runs, options.smooth), options.output)
    note(f'{", ".join(run.name for run in runs)} -> {options.output}')


if __name__ == '__main__':
    run_command(main)
