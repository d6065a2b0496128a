"""Draw the curves of one or more runs: losses, learning rate, validation scores, rewards."""

import math
import os
import sys
from collections import Counter

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np

from misc.cli import DataError, Parser, note, number_in, run_command
from misc.histories import read_histories
from misc.pictures import picture_name, write_picture

# Of Okabe and Ito, told apart by the colour-blind too.
COLOURS = ('#0072b2', '#e69f00', '#009e73', '#d55e00', '#cc79a7', '#56b4e9', '#000000')
SCORES = {'CIDEr': 'CIDEr', 'Bleu_4': 'BLEU-4', 'METEOR': 'METEOR', 'ROUGE_L': 'ROUGE-L'}
# The line of each kind of curve; of those of training steps, which are many and noisy, a running mean.
STYLES = {'training': '-', 'reward': '-', 'baseline': ':', 'rate': '-', 'validation': 'o--',
          'score': 'o-'}
SMOOTHED = ('training', 'reward', 'baseline')
LOSS, RATE = 'cross-entropy loss', 'learning rate'
LOGARITHMIC = {LOSS: '{x:g}', RATE: '{x:.0e}'}    # and how numbers on that scale are written
SELF_CRITICAL = ('self-critical loss', 'reward of sampled captions')
ORDER = (LOSS, RATE, *SELF_CRITICAL, *SCORES.values())    # of the panels on the page
SPREAD = 4    # a logarithmic scale helps from this ratio of the largest to the smallest value on


def curves(history):
    """What is drawn of a run: {panel: {kind of line: {iteration: number}}}, panels and lines without a number
    left out.

    The two phases minimise different things, so their training losses never share a panel.
    """
    after = history.self_critical_after
    phases = [{}, {}]
    for iteration, loss in history.losses.items():
        phases[after is not None and iteration > after][iteration] = loss
    panels = {LOSS: {'training': phases[0], 'validation': named(history.scores, 'loss')},
              RATE: {'rate': history.rates},
              SELF_CRITICAL[0]: {'training': phases[1]},
              SELF_CRITICAL[1]: {name: named(history.rewards, name) for name in ('reward', 'baseline')}}
    panels.update({title: {'score': named(history.scores, name)} for name, title in SCORES.items()})
    there = {}
    for title, lines in panels.items():
        for kind, curve in lines.items():
            if finite(curve):
                there.setdefault(title, {})[kind] = finite(curve)
    return there


def named(records, name):
    """{iteration: number} of one name in {iteration: {name: number}}."""
    return {iteration: values[name] for iteration, values in records.items() if name in values}


def finite(curve):
    """The points of a curve that can be drawn, by iteration."""
    return {iteration: curve[iteration] for iteration in sorted(curve) if math.isfinite(curve[iteration])}


def running_mean(values, reach):
    """The mean of each of `values` (N,) and of its up to `reach` neighbours on both sides, float64 (N,)."""
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    places = np.arange(len(values))
    first, last = np.maximum(places - reach, 0), np.minimum(places + reach + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)


def names(histories):
    """What each run is called: its id, with its folder where two have the same."""
    count = Counter(history.name for history in histories)
    return [history.name if count[history.name] == 1 else f'{history.name} in {history.folder}'
            for history in histories]


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
        reach = len(values) // 50 + 2 if smooth is None else smooth
        if kind in SMOOTHED and reach:
            axes.plot(iterations, values, color=colour, linewidth=0.8, alpha=0.25, zorder=1)
            values = running_mean(values, reach)
        axes.plot(iterations, values, STYLES[kind], color=colour, linewidth=1.5, markersize=3.5,
                  markevery=max(1, len(values) // 40))


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
    if title in LOGARITHMIC:
        scale(axes, LOGARITHMIC[title],
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
    low, high = min(values), max(values)
    if low > 0 and high >= SPREAD * low:
        axes.set_yscale('log')
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
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
