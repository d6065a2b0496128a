"""Curves as SVG within a page, whose style sheet gives the colours: class rN is that of run N."""

import math

import numpy as np

from misc.compare.curves import LOGARITHMIC, SELF_CRITICAL, SMOOTHED, reach_of, running_mean, spread_out
from misc.compare.markup import element

WIDTH, HEIGHT = 460, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 8, 8, 34
SMALLEST = 1e-30   # numbers that differ by less stand at one height
POINTS = 600  # of a line at most: more than there are pixels


def panel(title, runs):
    """A figure of one panel of curves.

    `runs`: [(number of the run's colour, its name, {kind of line: {iteration: value}}, the last iteration
    before self-critical training or None)].
    """
    values = [value for _, _, lines, _ in runs for curve in lines.values() for value in curve.values()]
    iterations = [place for _, _, lines, _ in runs for curve in lines.values() for place in curve]
    logarithmic = title in LOGARITHMIC and spread_out(values)
    across = Axis(min(iterations), max(iterations), LEFT, WIDTH - RIGHT)
    up = Axis(min(values), max(values), HEIGHT - BOTTOM, TOP, logarithmic, margin=0.04)
    drawn = [gridlines(across, up)]
    for number, name, lines, after in runs:
        if after and title not in SELF_CRITICAL and across.low <= after <= across.high:
            drawn.append(element('line', x1=across(after), x2=across(after), y1=TOP, y2=HEIGHT - BOTTOM,
                                 class_=f'phase r{number}'))
        for kind, curve in lines.items():
            drawn += line_of(number, name, kind, curve, across, up)
    told = f'{title}: ' + '; '.join(f'{name}, last {list(curve.values())[-1]:.4g}' + (
        f' ({kind})' if len(lines) > 1 else '') for _, name, lines, _ in runs for kind, curve in lines.items())
    kinds = list(dict.fromkeys(kind for _, _, lines, _ in runs for kind in lines))
    return element(
        'figure', element('figcaption', element('b', title), ': ' + ', '.join(
            f'{kind} ({"dotted" if kind == "baseline" else "dashed" if kind == "validation" else "solid"})'
            for kind in kinds) if len(kinds) > 1 else None),
        element('svg', drawn, viewBox=f'0 0 {WIDTH} {HEIGHT}', role='img', aria_label=told))


class Axis:
    """From values to places on the page, rounded to a tenth of a pixel."""

    def __init__(self, low, high, start, end, logarithmic=False, margin=0.0):
        self.logarithmic = logarithmic
        low, high = self.scaled(low), self.scaled(high)
        room = (high - low) * margin if high - low > SMALLEST else max(abs(low) * 0.1, 1e-9)
        self.bottom, self.top, self.start, self.end = low - room, high + room, start, end
        self.low, self.high = (10 ** self.bottom, 10 ** self.top) if logarithmic else (self.bottom, self.top)

    def scaled(self, value):
        return math.log10(value) if self.logarithmic else value

    def __call__(self, value):
        share = (self.scaled(value) - self.bottom) / (self.top - self.bottom)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self):
        """Round values within the axis: about five, on a logarithmic one powers of ten and their 2 and 5."""
        if self.logarithmic:
            every = [digit * 10.0 ** power for power in range(math.floor(self.bottom), math.ceil(self.top) + 1)
                     for digit in ((1, 2, 5) if self.top - self.bottom < 2 else (1,))]
        else:
            rough = (self.top - self.bottom) / 5
            power = 10.0 ** math.floor(math.log10(rough))
            step = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= rough * 0.999)
            first = math.ceil(self.bottom / step)
            every = [step * place for place in range(first, math.floor(self.top / step) + 1)]
        return [value for value in every if self.low <= value <= self.high]


def gridlines(across, up):
    """The lines behind the curves, and the numbers beside them."""
    drawn, right, floor = [], WIDTH - RIGHT, HEIGHT - BOTTOM
    for value in up.ticks():
        drawn.append(element('line', x1=LEFT, x2=right, y1=up(value), y2=up(value)))
        drawn.append(element('text', f'{value:.4g}', x=LEFT - 6, y=up(value) + 4, class_='left'))
    for value in across.ticks():
        if value == int(value):
            drawn.append(element('line', x1=across(value), x2=across(value), y1=TOP, y2=floor))
            drawn.append(element('text', f'{value:,.0f}', x=across(value), y=floor + 15))
    drawn.append(element('text', 'iteration', x=(LEFT + right) / 2, y=HEIGHT - 3))
    return element('g', drawn, class_='grid', aria_hidden='true')


def line_of(number, name, kind, curve, across, up):
    """One curve; of those that are logged step by step faintly, with their running mean over it."""
    places, values = np.array(list(curve)), np.array(list(curve.values()))
    drawn = []
    if kind in SMOOTHED and len(values) > 2:
        drawn.append(element('path', d=path_of(places, values, across, up), class_=f'faint r{number}'))
        values = running_mean(values, reach_of(values))
    drawn.append(element('path', d=path_of(places, values, across, up), class_=f'{kind} r{number}'))
    if kind in ('score', 'validation') and len(values) <= 60:
        drawn += [element('circle', element('title', f'{name}, iteration {place:,}: {value:.4g}'),
                          cx=across(place), cy=up(value), r=3, class_=f'r{number}')
                  for place, value in zip(places.tolist(), values.tolist())]
    return drawn


def path_of(places, values, across, up):
    """The `d` of a path through the points; of very many, those that are kept are evenly spaced."""
    kept = np.unique(np.linspace(0, len(places) - 1, min(len(places), POINTS)).astype(int))
    return 'M' + 'L'.join(f'{across(place)} {up(value)}' for place, value in zip(
        places[kept].tolist(), values[kept].tolist()))
