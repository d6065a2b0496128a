"""The curves of a run: which panels they make, and what is drawn in each."""

from collections import Counter

import numpy as np

# Of Okabe and Ito, told apart by the colour-blind too.
COLOURS = ('#0072b2', '#e69f00', '#009e73', '#d55e00', '#cc79a7', '#56b4e9', '#000000')
SCORES = {'CIDEr': 'CIDEr', 'Bleu_4': 'BLEU-4', 'METEOR': 'METEOR', 'ROUGE_L': 'ROUGE-L'}
SMOOTHED = ('training', 'reward', 'baseline')
LOSS, RATE = 'cross-entropy loss', 'learning rate'
LOGARITHMIC = (LOSS, RATE)    # panels whose numbers may lie far apart
SELF_CRITICAL = ('self-critical loss', 'reward of sampled captions')
ORDER = (LOSS, RATE, *SELF_CRITICAL, *SCORES.values())    # of the panels on the page
LARGEST = 1e30    # no loss or score is larger, and sums and differences of such numbers are finite
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
    return {iteration: curve[iteration] for iteration in sorted(curve) if abs(curve[iteration]) <= LARGEST}


def reach_of(curve):
    """How many neighbours on both sides a running mean over `curve` takes: a fiftieth of it."""
    return len(curve) // 50 + 2


def running_mean(values, reach):
    """The mean of each of `values` (N,) and of its up to `reach` neighbours on both sides, float64 (N,)."""
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    places = np.arange(len(values))
    first, last = np.maximum(places - reach, 0), np.minimum(places + reach + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)


def spread_out(values):
    """Whether a logarithmic scale helps to see `values`."""
    return min(values) > 1 / LARGEST and max(values) >= SPREAD * min(values)


def names(histories):
    """What each run is called: its id, with its folder where two have the same."""
    count = Counter(history.name for history in histories)
    return [history.name if count[history.name] == 1 else f'{history.name} in {history.folder}'
            for history in histories]
