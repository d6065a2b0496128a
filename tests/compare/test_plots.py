"""Panels of training curves inside a page: where curves are drawn, and what a strict page may include."""

import itertools
import math
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from misc.compare.curves import LOSS, RATE, SELF_CRITICAL, RunCurves, panels_of
from misc.compare.plots import panel_svg
from misc.run.histories import History

RED, BLUE = '#ff0000', '#0000ff'
VARIABLES = {RED: 'var(--red)', BLUE: 'var(--blue)'}


def draw(title, lines, colour=RED, after=None, name='a'):
    """The parsed panel of one run."""
    return parsed(title, [RunCurves(name, colour, {title: lines}, after)])


def parsed(title, runs):
    return ElementTree.fromstring(panel_svg(title, runs, VARIABLES))


def strokes(svg, colour=RED):
    """The lines in a colour, each a list of corners [(x, y)]."""
    return [[tuple(map(float, point.split())) for point in re.split('[ML]', path.get('d'))[1:]]
            for path in svg.iter('path') if path.get('stroke') == VARIABLES[colour] and path.get('fill') == 'none']


def area(svg):
    """The edges of the panel: left, right, top, bottom."""
    box = next(svg.iter('rect'))
    left, top, width, height = (float(box.get(name)) for name in ('x', 'y', 'width', 'height'))
    return left, left + width, top, top + height


def test_later_points_are_further_right_and_larger_values_higher():
    svg = draw('CIDEr', {'score': {0: 0.0, 50: 1.0, 100: 0.5}})
    (x0, low), (x1, high), (x2, middle) = strokes(svg)[0]
    left, right, top, bottom = area(svg)
    assert left < x0 < x1 < x2 < right and x1 == pytest.approx((left + right) / 2, abs=0.02)
    assert top < high < middle < low < bottom and middle == pytest.approx((top + bottom) / 2, abs=0.02)
    marks = [(float(mark.get('x')), float(mark.get('y'))) for mark in svg.iter('use')]
    assert marks == [(x0, low), (x1, high), (x2, middle)]


def test_tick_labels_are_at_the_height_of_their_values():
    svg = draw('CIDEr', {'score': {0: 0.0, 100: 1.0}})
    (_, zero), (_, one) = strokes(svg)[0]
    beside = {float(text.text): float(text.get('y')) for text in svg.iter('text') if text.get('text-anchor') == 'end'}
    assert {0, 0.2, 1} <= beside.keys() and 3 <= beside[0] - zero <= 6  # from the middle of the text to its baseline
    for value, y in beside.items():
        assert y - beside[0] == pytest.approx(value * (one - zero), abs=0.03)


def test_a_dotted_line_marks_the_self_critical_phase_of_each_run_in_panels_with_both_phases():
    curve = {'training': {0: 4.0, 100: 2.0}}
    for title, marked in ((LOSS, True), (SELF_CRITICAL[0], False)):
        svg = parsed(title, [RunCurves(name, colour, {title: curve}, after) for name, colour, after in (
            ('a', RED, 25), ('b', BLUE, 75), ('c', '#00ff00', None), ('d', '#ffff00', 300))])
        left, right, top, bottom = area(svg)
        upright = {colour: [line for line in strokes(svg, colour) if line[0][0] == line[-1][0]]
                   for colour in (RED, BLUE)}
        if not marked:
            assert upright == {RED: [], BLUE: []}
            continue
        (first, _), (last, _) = next((line[0], line[-1]) for line in strokes(svg) if line[0][0] != line[-1][0])
        for colour, share in ((RED, 0.25), (BLUE, 0.75)):
            (start, end), = upright[colour]
            assert start[0] == pytest.approx(first + share * (last - first), abs=0.02)
            assert {start[1], end[1]} == {top, bottom}
        dotted = [path for path in svg.iter('path') if path.get('stroke-dasharray')]
        assert len(dotted) == 2  # none for a run without the phase, or whose phase begins outside the panel


def test_equal_ratios_are_equally_far_apart_on_a_logarithmic_axis():
    svg = draw(RATE, {'rate': {place: 10.0 ** place for place in range(-2, 3)}})
    heights = [y for _, y in strokes(svg)[0]]
    steps = [one - other for one, other in itertools.pairwise(heights)]
    assert steps == pytest.approx([steps[0]] * 4, abs=0.02) and steps[0] > 10
    assert {text.text for text in svg.iter('text')} >= {'0.01', '0.1', '1', '10', '100'}


def test_zero_is_on_the_axis_so_a_small_gain_looks_small():
    for title, lines in (('CIDEr', {'score': {0: 1.00, 100: 1.05}}), (RATE, {'rate': {0: 0.002, 100: 0.0019}}),
                         (SELF_CRITICAL[0], {'training': {0: -0.30, 100: -0.29}})):
        svg = draw(title, lines)
        (_, before), (_, after) = strokes(svg)[0]
        _, _, top, bottom = area(svg)
        labels = {text.text.replace('\u2212', '-') for text in svg.iter('text') if text.get('text-anchor') == 'end'}
        assert any(float(label) == 0 for label in labels)
        assert 0 < abs(after - before) < 0.06 * (bottom - top)


def test_a_long_curve_is_thinned_and_keeps_its_ends():
    svg = draw('CIDEr', {'score': {place: math.sin(place) for place in range(5000)}})
    line = strokes(svg)[0]
    assert len(line) <= 600 and len(list(svg.iter('use'))) <= 50
    left, right, _, _ = area(svg)
    assert line[0][0] - left == pytest.approx(right - line[-1][0], abs=0.02) == pytest.approx(
        (right - left) * 0.02 / 1.04, abs=0.02)  # the margins beside the first and the last point


def test_a_panel_holds_only_what_a_strict_policy_allows_and_is_reproducible():
    name = '<script>"&'
    runs = [RunCurves(name, RED, {'CIDEr': {'score': {1: 0.5, 2: 0.25}}}, None)]
    text = panel_svg('CIDEr', runs, VARIABLES)
    assert panel_svg('CIDEr', runs, VARIABLES) == text
    assert 'style' not in text and 'font-family' not in text and 'xmlns' not in text and RED not in text
    assert '<script' not in text and 'fill="var(--red)"' in text and 'stroke="var(--line)"' in text
    svg = ElementTree.fromstring(text)
    assert [mark.find('title').text for mark in svg.iter('use')] == [
        f'{name}, iteration 1: 0.5', f'{name}, iteration 2: 0.25']
    assert svg.get('aria-label') == f'CIDEr: {name}, last 0.25'
    ids = [{element.get('id') for element in ElementTree.fromstring(svg).iter()} - {None} for svg in (
        text, panel_svg('METEOR', [RunCurves('a', RED, {'METEOR': {'score': {1: 0.5, 2: 0.25}}}, None)], VARIABLES))]
    assert ids[0] and not ids[0] & ids[1]  # panels share a page


EXTREME = [0.0, -0.0, 1.0, -1.0, 1e308, -1e308, 1e30, -1e30, 5e-324, 1e-300, 1e-31, 3e-31,
           1 + 2 ** -52, float('inf'), float('-inf'), float('nan')]


def test_extreme_values_can_be_drawn():
    drawn = {}
    for values in itertools.combinations(EXTREME, 2):
        history = History('a', 'a', losses=dict(enumerate(values, 1)), scores={
            1: {'loss': values[0]}, 1 << 53: {'loss': values[1], 'CIDEr': values[0]}})
        for title, lines in panels_of(history).items():
            drawn[title, repr(lines)] = title, lines
    for title, lines in drawn.values():
        svg = panel_svg(title, [RunCurves('a', RED, {title: lines}, None)], VARIABLES)
        assert not re.search('="[^"]*(nan|inf)', svg), lines


def test_importing_the_commands_loads_neither_matplotlib_nor_jinja2():
    code = ('import sys, scripts.create_report, scripts.plot_history, scripts.compare_table, misc.compare.report\n'
            'assert not {"matplotlib", "jinja2"} & sys.modules.keys()')
    subprocess.run([sys.executable, '-c', code], check=True)
