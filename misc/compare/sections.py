"""What the sections of the report show, as plain values; the templates in files/ lay them out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from misc.cli import plain_text
from misc.compare.comparison import Comparison, Difference
from misc.compare.curves import PANELS, RunCurves, colours, panels_of
from misc.compare.examples import Example, largest_gains
from misc.compare.plots import is_logarithmic, kinds_of, panel_svg
from misc.run.histories import History
from misc.scoring.results import Results
from misc.scoring.scores import sign_of

BAR_WIDTH = 132    # pixels of the bar of an interval, with zero in its middle
BAR_REACH = 62     # pixels from zero to the far end of the widest interval
UNSCORED = ('iteration', 'epoch', 'seconds', 'waited')    # in a validation's record beside its scores


def main_first(metrics: Sequence[str]) -> list[str]:
    """`metrics`, the one that models are chosen by first: a narrow screen shows it without scrolling."""
    return sorted(metrics, key=lambda metric: metric != 'CIDEr')


def verdicts(comparison: Comparison, level: float) -> dict[tuple[str, str], str]:
    """{(name of a run, metric): 'better', 'worse', or '' where the difference is not significant}."""
    return {(one.run, one.metric): one.verdict(level) for one in comparison.differences}


def best_scores(comparison: Comparison) -> dict[str, float]:
    """{metric: the best score of any run}, of metrics that at least two runs have."""
    best = {}
    for metric in comparison.metrics:
        values = [scores[metric].value for scores in comparison.scores.values() if metric in scores]
        known = [value for value in values if value is not None]
        if len(known) > 1:
            best[metric] = max(known) if sign_of(metric) > 0 else min(known)
    return best


@dataclass(frozen=True)
class Bar:
    """The interval of a difference in pixels: its left end, its width, and where the difference itself is."""

    left: float
    width: float
    middle: float


def difference_tables(comparison: Comparison) -> dict[str, list[tuple[Difference, Bar | None]]]:
    """{name of a run: its differences from the baseline, each with the bar of its interval}."""
    order = main_first(comparison.metrics)
    tables: dict[str, list[tuple[Difference, Bar | None]]] = {}
    for difference, bar in zip(comparison.differences, interval_bars(comparison.differences)):
        tables.setdefault(difference.run, []).append((difference, bar))
    return {run: sorted(rows, key=lambda row: order.index(row[0].metric)) for run, rows in tables.items()}


def interval_bars(differences: Sequence[Difference]) -> list[Bar | None]:
    """The bars of all intervals, relative to the baseline's score and on one scale that the widest fills.

    None for a difference without an interval, or from a baseline of 0.
    """
    reach = bar_reach(differences) or 1.0
    bars: list[Bar | None] = []
    for one in map(relative_interval, differences):
        if one is None:
            bars.append(None)
        else:
            low, middle, high = (round(BAR_WIDTH / 2 + BAR_REACH * value / reach, 1) for value in one)
            bars.append(Bar(low, round(max(high - low, 1), 1), middle))
    return bars


def bar_reach(differences: Sequence[Difference]) -> float:
    """How far the widest interval reaches from zero, in units of the baseline's score; 0.0 without intervals."""
    relative = [interval for interval in map(relative_interval, differences) if interval]
    return max((abs(end) for low, _, high in relative for end in (low, high)), default=0.0)


def relative_interval(one: Difference) -> tuple[float, float, float] | None:
    """The low end, the difference and the high end in units of the baseline's score, None if unknown."""
    if one.low is None or one.high is None or one.baseline <= 1e-9:
        return None
    return one.low / one.baseline, one.value / one.baseline, one.high / one.baseline


@dataclass(frozen=True)
class Pair:
    """The largest wins and losses of a run in one metric."""

    run: str
    metric: str
    wins: list[Example]
    losses: list[Example]


def example_pairs(comparison: Comparison, runs: Sequence[Results], number: int) -> list[Pair]:
    """The `number` largest wins and losses of every run and metric, without those that have none."""
    by_name = {run.name: run for run in runs}
    pairs = [Pair(one.run, one.metric, *largest_gains(by_name[comparison.baseline], by_name[one.run], one.metric,
                                                      comparison.images, number))
             for one in comparison.differences]
    return [pair for pair in pairs if pair.wins or pair.losses]


@dataclass(frozen=True)
class Panel:
    """A panel of training curves: its title, its kinds of lines where they are several, whether its y axis is
    logarithmic, and its drawing."""

    title: str
    kinds: str
    is_logarithmic: bool
    svg: str


def training_panels(histories: Sequence[History], numbers: Mapping[str, int]) -> list[Panel]:
    """The panels of all runs; `numbers` {name of a run: the number of its colour}."""
    palette = colours(len(numbers))
    runs = [RunCurves(history.name, palette[numbers[history.name]], panels_of(history), history.self_critical_after)
            for history in histories]
    variables = {colour: f'var(--run-{number})' for number, colour in enumerate(palette)}
    panels = []
    for title in PANELS:
        if any(title in run.panels for run in runs):
            kinds = [f'{kind} ({dashes})' for kind, dashes in kinds_of(title, runs).items()]
            panels.append(Panel(title, ', '.join(kinds) if len(kinds) > 1 else '', is_logarithmic(title, runs),
                                panel_svg(title, runs, variables)))
    return panels


@dataclass(frozen=True)
class Validations:
    """The last validation of each run: the names of the scores, and {run: (iteration, its scores)}."""

    names: list[str]
    by_run: dict[str, tuple[int, dict[str, float]]]


def last_validations(histories: Sequence[History]) -> Validations:
    """The last validations of the runs that have any."""
    last = {history.name: (max(history.scores), history.scores[max(history.scores)])
            for history in histories if history.scores}
    names = dict.fromkeys(name for _, scores in last.values() for name in scores if name not in UNSCORED)
    return Validations(list(names), last)


def differing_options(runs: Sequence[Results]) -> dict[str, list[str]]:
    """{option: its value in each run, as text} of the options that are not the same in all runs."""
    names = dict.fromkeys(name for run in runs for name in run.options if name not in ('id', 'infos_path'))
    values = {plain_text(name): [option_text(run.options.get(name)) for run in runs] for name in names}
    return {name: row for name, row in values.items() if len(set(row)) > 1}


def option_text(value: Any) -> str:
    """The value of an option as text."""
    if isinstance(value, list):
        return ', '.join(map(option_text, value))
    return '' if value is None else plain_text(value)
