"""Training curves drawn by matplotlib: one figure in a file, or a panel at a time inside a page.

matplotlib is imported where something is drawn, so that commands that draw nothing do not wait for it.
"""

import argparse
import io
import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from misc.compare.curves import (
    LOGARITHMIC,
    PANELS,
    SELF_CRITICAL,
    SMOOTHED,
    Lines,
    RunCurves,
    default_reach,
    needs_log_scale,
    running_mean,
)
from misc.compare.svg import inline
from misc.disk.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Dashes = Literal['solid', 'dashed', 'dotted']
# matplotlib's format of each kind of line: dashes, and 'o' where every point is marked.
STYLES = {'training': '-', 'reward': '-', 'baseline': ':', 'rate': '-', 'validation': 'o--', 'score': 'o-'}
DASHES: dict[str, Dashes] = {'-': 'solid', '--': 'dashed', ':': 'dotted'}
# The upright line where self-critical training begins.
PHASE: Any = {'linewidth': 1.1, 'linestyle': (0, (1, 2))}
MARKERS = 40     # points of a line that are marked, at most
FEW_POINTS = 600    # points of a line inside a page, at most: more than it has pixels

COMMON_STYLE: Any = {'axes.xmargin': 0.02, 'axes.spines.top': False, 'axes.spines.right': False,
                     'lines.markersize': 4, 'lines.linewidth': 1.5, 'axes.grid': True}
FILE_STYLE: Any = {**COMMON_STYLE, 'font.size': 8, 'axes.titlesize': 10, 'legend.fontsize': 8, 'grid.alpha': 0.2}
# Inside a page, one unit is one pixel.  These colours stand for the page's own, in light and dark mode.
TEXT, GRID = '#59626d', '#d9dee4'
PAGE_COLOURS = {TEXT: 'var(--soft)', GRID: 'var(--line)'}
PAGE_SIZE = (460, 230)
PAGE_STYLE: Any = {
    **COMMON_STYLE, 'figure.dpi': 72, 'font.size': 11, 'lines.markersize': 5,
    'axes.labelsize': 11, 'axes.labelpad': 6, 'xtick.labelsize': 11, 'ytick.labelsize': 11,
    'text.color': TEXT, 'axes.labelcolor': TEXT, 'xtick.labelcolor': TEXT, 'ytick.labelcolor': TEXT,
    'grid.color': GRID, 'grid.linewidth': 1, 'figure.facecolor': 'none', 'axes.facecolor': 'none',
    'axes.spines.left': False, 'axes.spines.bottom': False,
    'xtick.major.size': 0, 'ytick.major.size': 0, 'ytick.minor.size': 0, 'svg.fonttype': 'none'}


def figure_of(runs: Sequence[RunCurves], smooth: int | None = None) -> 'Figure':
    """A figure with a panel for everything that any of `runs` has, a colour for each run.

    `smooth` is the reach of the running mean, in logged points; None takes a fiftieth of each curve.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    titles = [title for title in PANELS if any(title in run.panels for run in runs)]
    columns = min(2, len(titles))
    rows = math.ceil(len(titles) / columns)
    with rc_context(FILE_STYLE):
        figure = Figure(figsize=(5.6 * columns, 2.5 * rows + 0.6),
                        layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06))
        grid = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes in grid[len(titles):]:
            axes.set_axis_off()
        for axes, title in zip(grid, titles):
            draw_panel(axes, title, runs, smooth)
            axes.set_title(title)
            if is_logarithmic(title, runs):
                axes.set_ylabel('logarithmic')
            add_line_legend(axes, kinds_of(title, runs))
        add_run_legend(figure, runs)
    return figure


def panel_svg(title: str, runs: Sequence[RunCurves], variables: Mapping[str, str]) -> str:
    """One panel as an `<svg>` element for a page (see `misc.compare.svg.inline`), marked points with tooltips.

    `variables` {colour of a run: CSS value} lets the page choose a run's colour in light and dark mode.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    content = io.StringIO()
    # The salt keeps the ids of one panel apart from those of the next, and the same from run to run.
    with rc_context({**PAGE_STYLE, 'svg.hashsalt': title}):
        figure = Figure(figsize=(PAGE_SIZE[0] / 72, PAGE_SIZE[1] / 72), layout='constrained')
        axes = figure.subplots()
        tooltips = draw_panel(axes, title, runs, points=FEW_POINTS)
        figure.savefig(content, format='svg', metadata={'Date': None})
    return inline(content.getvalue(), {**PAGE_COLOURS, **variables}, description(title, runs), tooltips)


def description(title: str, runs: Sequence[RunCurves]) -> str:
    """What a panel shows, for readers who do not see it: the last value of every line."""
    return f'{title}: ' + '; '.join(
        f'{run.name}, last {list(curve.values())[-1]:.4g}' + (f' ({kind})' if len(run.panels[title]) > 1 else '')
        for run in runs if title in run.panels for kind, curve in run.panels[title].items())


def kinds_of(title: str, runs: Sequence[RunCurves]) -> dict[str, Dashes]:
    """The kinds of lines in a panel, and how each is drawn."""
    return {kind: DASHES[style.lstrip('o')] for kind, style in STYLES.items()
            if any(kind in run.panels.get(title, ()) for run in runs)}


def values_in(title: str, runs: Sequence[RunCurves]) -> list[float]:
    """All values of a panel."""
    return [value for run in runs for curve in run.panels.get(title, {}).values() for value in curve.values()]


def is_logarithmic(title: str, runs: Sequence[RunCurves]) -> bool:
    """Whether a panel has a logarithmic y axis."""
    return title in LOGARITHMIC and needs_log_scale(values_in(title, runs))


def draw_panel(axes: 'Axes', title: str, runs: Sequence[RunCurves], smooth: int | None = None,
               points: int | None = None) -> dict[str, list[str]]:
    """Draw the curves of `runs` that belong to the panel `title`, with its scales and ticks.

    The y axis has zero on it, so that heights compare as the values do, unless it is logarithmic.
    `points`: the most that a line may have, evenly spaced ones of a longer line; None keeps all.  Returns the
    names of the marked points, {gid of their line: a text for each}.
    """
    from matplotlib.ticker import MaxNLocator
    marked = {}
    axes.locator_params(axis='y', nbins=6)
    for run in runs:
        if title in run.panels:
            marked.update(draw_run(axes, run.panels[title], run, smooth, points))
    first, last = axes.dataLim.intervalx
    if is_logarithmic(title, runs):
        values = values_in(title, runs)
        set_log_scale(axes, max(values) / min(values))
    else:
        axes.update_datalim([(first, 0.0)])
        axes.autoscale_view()
    for run in runs:
        after = run.self_critical_after
        if title in run.panels and title not in SELF_CRITICAL and after and first <= after <= last:
            axes.axvline(after, color=run.colour, zorder=0, **PHASE)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter('{x:,.0f}')
    axes.set_xlabel('iteration')
    return marked


def draw_run(axes: 'Axes', lines: Lines, run: RunCurves, smooth: int | None, points: int | None
             ) -> dict[str, list[str]]:
    """Draw the lines of one run; noisy ones faintly, with their running mean on top."""
    marked = {}
    for kind, curve in lines.items():
        iterations, values = np.array(list(curve)), np.array(list(curve.values()))
        kept = np.unique(np.linspace(0, len(values) - 1, min(len(values), points or len(values))).astype(int))
        reach = default_reach(len(values)) if smooth is None else smooth
        if kind in SMOOTHED and reach:
            axes.plot(iterations[kept], values[kept], color=run.colour, linewidth=0.8, alpha=0.3, zorder=1)
            values = running_mean(values, reach)
        # A line through a single point is invisible, so that point is marked.
        style = 'o' if len(values) == 1 else STYLES[kind]
        every = max(1, len(kept) // MARKERS)
        line, = axes.plot(iterations[kept], values[kept], style, color=run.colour, markevery=every)
        if 'o' in style:
            line.set_gid(f'points-{len(axes.lines)}')
            marked[f'points-{len(axes.lines)}'] = [f'{run.name}, iteration {iterations[place]:,}: {values[place]:.4g}'
                                                   for place in kept[::every]]
    return marked


def set_log_scale(axes: 'Axes', ratio: float) -> None:
    """A logarithmic y axis for values whose largest is `ratio` times the smallest."""
    from matplotlib.ticker import LogLocator, NullFormatter
    axes.set_yscale('log')
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if ratio < 100 else (1,)))
    axes.yaxis.set_major_formatter('{x:g}')
    axes.yaxis.set_minor_formatter(NullFormatter())


def add_line_legend(axes: 'Axes', kinds: dict[str, Dashes]) -> None:
    """In a panel with several kinds of lines, which is which."""
    from matplotlib.lines import Line2D
    if len(kinds) > 1:
        axes.legend([Line2D([], [], color='0.3', linestyle=kinds[kind], marker='o' if 'o' in STYLES[kind] else '')
                     for kind in kinds], list(kinds), edgecolor='none', framealpha=0.8)


def add_run_legend(figure: 'Figure', runs: Sequence[RunCurves]) -> None:
    """Above the panels: the colour of each run, and what the dotted line is."""
    from matplotlib.lines import Line2D
    lines = [Line2D([], [], color=run.colour, linewidth=2.5) for run in runs]
    labels = [run.name for run in runs]
    if any(run.self_critical_after for run in runs):
        lines.append(Line2D([], [], color='0.3', **PHASE))
        labels.append('self-critical training begins')
    figure.legend(lines, labels, loc='outside upper left', ncols=min(4, len(labels)), frameon=False, fontsize=9)


def picture_name(text: str) -> str:
    """An argparse type: a file name that ends in .png or .svg."""
    if not text.lower().endswith(('.png', '.svg')):
        raise argparse.ArgumentTypeError(f'{text!r} is not a picture; use a name that ends in .png or .svg')
    return text


def write_picture(figure: 'Figure', path: str) -> None:
    """Write a matplotlib figure to `path`, atomically, in the format of its extension; creates the folder."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with replacing(path) as file:
        figure.savefig(file, format=os.path.splitext(path)[1][1:].lower(), dpi=120)
