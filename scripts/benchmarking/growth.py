"""How the time of a cross-entropy step grows with its sizes, for `scripts/benchmark.py --growth`."""

import statistics
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from misc.cli import progress
from scripts.benchmarking.made_up import Sizes
from scripts.benchmarking.operations import counted_operations
from scripts.benchmarking.timing import synchronise
from scripts.benchmarking.workload import Workload

# What grows: its values, while everything else stays as in `MIDDLE`.
AXES = {'regions of an image': (25, 50, 100), 'captions of an image': (1, 5, 10), 'layers': (2, 4, 6),
        'images': (5, 10, 20)}
MIDDLE = {'regions of an image': 50, 'captions of an image': 5, 'layers': 6, 'images': 10}


class GrownStep(Workload):
    """A cross-entropy step of the sizes in `point`, {axis: value}, with the model and optimiser of `like`, a step
    with as many layers, if given."""

    def __init__(self, sizes: Sizes, device: torch.device, point: dict[str, int],
                 like: 'GrownStep | None' = None) -> None:
        layers = f'{sizes.flags} --num_layers {point["layers"]}'
        super().__init__(replace(sizes, flags=layers), device)
        counts = [-(-point['regions of an image'] // sizes.shrink)] * point['images']
        self.build(counts, 7, point['captions of an image'], like)
        lengths = (self.batch.captions > 0).sum(2).tolist()
        self.operations = counted_operations(self.sizes, counts, lengths)

    def seconds(self) -> float:
        """Take a step and time it."""
        synchronise(self.device)
        start = self.clock()
        self.cross_entropy()
        synchronise(self.device)
        return self.clock() - start


def measure_growth(sizes: Sizes, device: torch.device, repeats: int) -> dict[str, dict[str, Any]]:
    """Time steps along every axis -> {axis: its 'values'; the 'seconds' and 'rates' (counted operations a second)
    at each; the line fitted to the seconds, 'constant' + 'each' per unit; 'off', the largest relative error of that
    line}.

    Every step is taken once unmeasured, then `repeats` times, all in turns; the medians count.
    """
    points = {(axis, value): {**MIDDLE, axis: value} for axis, values in AXES.items() for value in values}
    steps: dict[tuple[int, ...], GrownStep] = {}
    of_layers: dict[int, GrownStep] = {}
    for point in points.values():
        if tuple(point.values()) not in steps:
            like = of_layers.get(point['layers'])
            step = steps[tuple(point.values())] = GrownStep(sizes, device, point, like)
            of_layers.setdefault(point['layers'], step)
    taken: dict[tuple[int, ...], list[float]] = {key: [] for key in steps}
    for key in progress(list(steps) * (repeats + 1), 'growth', unit='step'):
        taken[key].append(steps[key].seconds())
    found = {}
    for axis, values in AXES.items():
        keys = [tuple(points[axis, value].values()) for value in values]
        seconds = [statistics.median(taken[key][1:]) for key in keys]
        each, constant = np.polyfit(values, seconds, 1)
        line = constant + each * np.array(values)
        found[axis] = {'values': list(values), 'seconds': seconds, 'constant': float(constant),
                       'each': float(each), 'off': float(np.abs(line / seconds - 1).max()),
                       'rates': [steps[key].operations / median for key, median in zip(keys, seconds)]}
    return found


def growth_table(found: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    """The rows of a table of what `measure_growth` found, its heads first."""
    rows: list[tuple[str, ...]] = [('grown', 'values', 'seconds', 'fitted line', 'error up to', 'GFLOP/s')]
    for axis, line in found.items():
        rows.append((axis, ', '.join(map(str, line['values'])),
                     ', '.join(f'{seconds:.2f}' for seconds in line['seconds']),
                     f'{line["constant"]:.2f} s + {line["each"]:.3f} s each', f'{line["off"]:.0%}',
                     ', '.join(f'{rate / 1e9:.0f}' for rate in line['rates'])))
    return rows
