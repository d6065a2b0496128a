"""Training curves of runs as plain data: which panels a plot has, and the lines of each panel."""

import colorsys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from misc.run.histories import History

T = TypeVar('T')
Curve = dict[int, float]    # iteration -> value
Lines = dict[str, Curve]    # kind of line ('training', 'validation', ...) -> its curve

# The palette of Okabe and Ito, which colour-blind readers can tell apart.
PALETTE = ('#0072b2', '#e69f00', '#009e73', '#d55e00', '#cc79a7', '#56b4e9', '#000000')
SCORES = {'CIDEr': 'CIDEr', 'Bleu_4': 'BLEU-4', 'METEOR': 'METEOR', 'ROUGE_L': 'ROUGE-L'}
SMOOTHED = ('training', 'reward', 'baseline')    # logged at every few steps: noisy, drawn with a running mean
LOSS, RATE = 'cross-entropy loss', 'learning rate'
LOGARITHMIC = (LOSS, RATE)    # panels whose values may span orders of magnitude
SELF_CRITICAL = ('self-critical loss', 'reward of sampled captions')
PANELS = (LOSS, RATE, *SELF_CRITICAL, *SCORES.values())    # in the order of the page
LARGEST = 1e30    # beyond any loss or score; sums and differences of such values stay finite
LOG_RATIO = 4     # from this ratio of the largest to the smallest value on, a logarithmic scale helps


@dataclass(frozen=True)
class RunCurves:
    """What is drawn of one run.

    name                 of the run, as the legend has it
    colour               '#rrggbb'
    panels               {panel title: its lines}, of panels with at least one value
    self_critical_after  the last iteration before self-critical training, None if there was none
    """

    name: str
    colour: str
    panels: dict[str, Lines]
    self_critical_after: int | None


def run_curves(histories: Sequence[History]) -> list[RunCurves]:
    """The curves of several runs, each with a distinct name and colour."""
    return [RunCurves(name, colour, panels_of(history), history.self_critical_after)
            for history, name, colour in zip(histories, distinct_names(histories), colours(len(histories)))]


def panels_of(history: History) -> dict[str, Lines]:
    """The panels of a run and their lines; panels and lines without a value are left out.

    The two phases minimise different losses, so their training curves never share a panel.  A run that went on from
    another one has only what it trained itself, and the last validation before.
    """
    after, began = history.self_critical_after, history.began
    first = max((iteration for iteration in history.scores if iteration <= began), default=0)
    scores = {iteration: values for iteration, values in history.scores.items() if iteration >= first}
    rewards = own(history.rewards, began)
    cross_entropy: Curve = {}
    self_critical: Curve = {}
    for iteration, loss in own(history.losses, began).items():
        (self_critical if after is not None and iteration > after else cross_entropy)[iteration] = loss
    lines: dict[str, Lines] = {
        LOSS: {'training': cross_entropy, 'validation': select(scores, 'loss')},
        RATE: {'rate': own(history.rates, began)},
        SELF_CRITICAL[0]: {'training': self_critical},
        SELF_CRITICAL[1]: {name: select(rewards, name) for name in ('reward', 'baseline')},
        **{title: {'score': select(scores, name)} for name, title in SCORES.items()}}
    drawable = {title: {kind: finite(curve) for kind, curve in panel.items() if finite(curve)}
                for title, panel in lines.items()}
    return {title: panel for title, panel in drawable.items() if panel}


def own(records: Mapping[int, T], began: int) -> dict[int, T]:
    """The records after the iteration `began`."""
    return {iteration: values for iteration, values in records.items() if iteration > began}


def select(records: dict[int, dict[str, float]], name: str) -> Curve:
    """The values of one name in {iteration: {name: value}}."""
    return {iteration: values[name] for iteration, values in records.items() if name in values}


def finite(curve: Curve) -> Curve:
    """The points of a curve that can be drawn, sorted by iteration."""
    return {iteration: curve[iteration] for iteration in sorted(curve) if abs(curve[iteration]) <= LARGEST}


def default_reach(count: int) -> int:
    """Neighbours on each side that the running mean of a curve of `count` points takes: a fiftieth of it."""
    return count // 50 + 2


def running_mean(values: Sequence[float] | np.ndarray, reach: int) -> np.ndarray:
    """The mean of each of `values` (N,) with up to `reach` neighbours on both sides, float64 (N,)."""
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    places = np.arange(len(values))
    first, last = np.maximum(places - reach, 0), np.minimum(places + reach + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)


def needs_log_scale(values: Sequence[float]) -> bool:
    """Whether `values` are positive and so far apart that a logarithmic scale shows them better."""
    return min(values) > 1 / LARGEST and max(values) >= LOG_RATIO * min(values)


def distinct_names(histories: Iterable[History]) -> list[str]:
    """The name of each run: its id, with the folder where several runs have the same id."""
    histories = list(histories)
    count = Counter(history.name for history in histories)
    return [history.name if count[history.name] == 1 else f'{history.name} in {history.folder}'
            for history in histories]


def colours(count: int) -> list[str]:
    """`count` distinct colours, '#rrggbb': the palette, or for more runs than it has, hues around the circle."""
    if count <= len(PALETTE):
        return list(PALETTE[:count])
    rgb = [colorsys.hls_to_rgb(number / count, 0.45, 0.65) for number in range(count)]
    return ['#' + ''.join(f'{round(255 * channel):02x}' for channel in one) for one in rgb]
