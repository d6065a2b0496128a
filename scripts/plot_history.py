"""Draw the curves of one or more runs: losses, learning rate, validation scores, rewards."""

import math
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np

from misc.cli import DataError, Parser, note, number_in, run_command
from misc.compare.curves import (
    COLOURS,
    LOSS,
    ORDER,
    RATE,
    SELF_CRITICAL,
    SMOOTHED,
    curves,
    names,
    reach_of,
    running_mean,
    spread_out,
)
from misc.compare.plots import picture_name, write_picture
from misc.run.histories import read_histories

# The line of each kind of curve; of those of training steps, which are many and noisy, a running mean.
STYLES = {'training': '-', 'reward': '-', 'baseline': ':', 'rate': '-', 'validation': 'o--',
          'score': 'o-'}
WRITTEN = {LOSS: '{x:g}', RATE: '{x:.0e}'}    # the numbers of panels that may be logarithmic


def colours(count):
    """`count` colours that can be told apart; those of many runs go from dark to light."""
    if count <= len(COLOURS):
        return COLOURS[:count]
    from matplotlib import colormaps
    return [colormaps['viridis'](place) for place in np.linspace(0, 0.9, count)]


def plot(histories, smooth=None):
    """A figure of matplotlib's with a panel for all that any run has, a colour for each run.

    `smooth` is the reach of the running mean, in logged steps; None: a fiftieth of a curve.  Raises
    `DataError` where there is nothing to draw.
    """
    from matplotlib.figure import Figure
    drawn = [curves(history) for history in histories]
    every = [title for title in ORDER if any(title in panels for panels in drawn)]
    if not every:
        folders = ', '.join(history.folder for history in histories)
        raise DataError(f'{folders}: nothing was logged there yet; wait for the first checkpoint '
                        '(--save_checkpoint_every, --losses_log_every)')
    columns = min(2, len(every))
    rows = math.ceil(len(every) / columns)
    figure = Figure(figsize=(5.6 * columns, 2.5 * rows + 0.6), layout='constrained')
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in grid[len(every):]:
        axes.set_axis_off()
    for axes, title in zip(grid, every):
        for history, panels, colour in zip(histories, drawn, colours(len(histories))):
            if title in panels:
                draw(axes, panels[title], colour, smooth)
                mark_phase(axes, title, history, colour)
        furnish(axes, title, [panels[title] for panels in drawn if title in panels])
    add_legend(figure, histories)
    return figure


def draw(axes, lines, colour, smooth):
    """Draw the `lines` of a run in a panel."""
    for kind, curve in lines.items():
        iterations, values = list(curve), list(curve.values())
        reach = reach_of(values) if smooth is None else smooth
        if kind in SMOOTHED and reach:
            axes.plot(iterations, values, color=colour, linewidth=0.8, alpha=0.25, zorder=1)
            values = running_mean(values, reach)
        # A line through one point shows nothing.
        alone = {'marker': 'o'} if len(values) == 1 and 'o' not in STYLES[kind] else {}
        axes.plot(iterations, values, STYLES[kind], color=colour, linewidth=1.5, markersize=3.5,
                  markevery=max(1, len(values) // 40), **alone)


def mark_phase(axes, title, history, colour):
    """Where a run's self-critical training begins, in the panels that begin before."""
    after = history.self_critical_after
    if after and title not in SELF_CRITICAL:
        axes.axvline(after, color=colour, linewidth=1.1, linestyle=(0, (1, 2)), zorder=0)


def furnish(axes, title, several):
    """Title, scales, ticks and the key of a panel; `several`: its lines, run by run."""
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator
    axes.set_title(title, fontsize=10)
    if title in WRITTEN:
        scale(axes, WRITTEN[title],
              [value for lines in several for curve in lines.values() for value in curve.values()])
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter('{x:,.0f}')
    axes.set_xlabel('iteration', fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.2)
    axes.spines[['top', 'right']].set_visible(False)
    kinds = [kind for kind in STYLES if any(kind in lines for lines in several)]
    if len(kinds) > 1:
        axes.legend([Line2D([], [], color='0.3', linestyle=STYLES[kind].lstrip('o'), markersize=3.5,
                            marker='o' if 'o' in STYLES[kind] else '') for kind in kinds],
                    kinds, edgecolor='none', framealpha=0.8, fontsize=8)


def scale(axes, written, values):
    """Give a panel of `values` a logarithmic scale, if it helps; `written` is the form of its numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter
    if spread_out(values):
        axes.set_yscale('log')
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(values) < 100 * min(values) else (1,)))
        axes.yaxis.set_major_formatter(written)
        axes.yaxis.set_minor_formatter(NullFormatter())


def add_legend(figure, histories):
    """Over the panels: the colour of each run, and what the dotted line is."""
    from matplotlib.lines import Line2D
    lines = [Line2D([], [], color=colour, linewidth=2.5) for colour in colours(len(histories))]
    labels = names(histories)
    if any(history.self_critical_after for history in histories):
        lines.append(Line2D([], [], color='0.3', linewidth=1.1, linestyle=(0, (1, 2))))
        labels.append('self-critical training begins')
    figure.legend(lines, labels, loc='outside upper left', ncols=min(4, len(labels)), frameon=False,
                  fontsize=9)


def arguments():
    """The parser of this command."""
    parser = Parser(description=(
        'Draws the curves of one or more runs over their iterations: loss of training and validation,\n'
        'learning rate, validation scores, rewards; a colour for each run, a panel for all that is there.\n'
        'Reads histories_ID.pkl and validations.jsonl as train.py writes them, and touches neither, so a\n'
        'run can be drawn while it trains (up to its last checkpoint).\n\n'
        'python scripts/plot_history.py checkpoints/spatial_transformer_bu\n'
        'python scripts/plot_history.py checkpoints/demo_*_1 --output compared.svg\n\n'
        'What to look for: validation loss that rises while training loss falls is overfitting; in\n'
        'self-critical training reward and baseline should rise together, and CIDEr with them.  A run\n'
        'copied by copy_model.sh brings along the curves of the run it came from.'))
    parser.add_argument('folders', nargs='+', metavar='RUN_FOLDER',
                        help='the --checkpoint_path of a run; all the runs in it are drawn')
    parser.add_argument('--id', action='append', metavar='ID',
                        help='draw only this run of a folder that holds several; may be given several times')
    parser.add_argument('--output', type=picture_name, default='eval_results/curves.png', metavar='FILE',
                        help='the picture, .png to look at or .svg to zoom into and print')
    parser.add_argument('--smooth', type=number_in(int, low=0), metavar='N',
                        help='what was logged of steps is drawn faintly, and over it the mean of each with its '
                        'N neighbours on both sides; raise it for noisy curves, 0 draws no mean '
                        '(default: a fiftieth of the curve)')
    return parser


def main():
    """Read the runs, draw them."""
    options = arguments().parse_args()
    histories = [history for folder in options.folders for history in read_histories(folder, options.id or ())]
    write_picture(plot(histories, options.smooth), options.output)
    note(f'{", ".join(names(histories))} -> {options.output}')


if __name__ == '__main__':
    run_command(main)
