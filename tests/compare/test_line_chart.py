"""Where the curves of a report are drawn on its page."""

import itertools
import re

import pytest

from misc.compare import curves
from misc.compare.line_chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, panel
from misc.run.histories import History


def points(figure, kind):
    """The corners [(x, y)] of the path of a kind of line."""
    path = re.search(f'<path d="M([^"]*)" class="{kind} ', figure)[1]
    return [tuple(map(float, point.split())) for point in path.split('L')]


def test_later_is_further_right_and_more_is_further_up():
    figure = panel('CIDEr', [(0, 'a', {'score': {0: 0.0, 50: 1.0, 100: 0.5}}, None)])
    (x0, low), (x1, high), (x2, middle) = points(figure, 'score')
    assert (x0, x1, x2) == (LEFT, (LEFT + WIDTH - RIGHT) / 2, WIDTH - RIGHT)
    assert TOP < high < middle < low < HEIGHT - BOTTOM
    assert middle == pytest.approx((TOP + HEIGHT - BOTTOM) / 2)
    marks = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', figure)
    assert [tuple(map(float, mark)) for mark in marks] == [(x0, low), (x1, high), (x2, middle)]


def test_the_numbers_beside_a_panel_stand_where_the_curve_has_them():
    figure = panel('CIDEr', [(0, 'a', {'score': {0: 0.0, 100: 1.0}}, None)])
    (_, zero), (_, one) = points(figure, 'score')
    beside = {float(text): float(y) - 4 for y, text in re.findall(
        r'<text x="[\d.]+" y="([\d.]+)" class="left">([\d.]+)<', figure)}
    assert beside[0] == zero and beside[1] == one and 0.5 in beside
    for value, y in beside.items():
        assert y == pytest.approx(zero + value * (one - zero), abs=0.11)


def test_a_dotted_line_marks_the_phase_of_each_run_where_both_phases_are():
    curve = {'training': {0: 4.0, 100: 2.0}}
    runs = [(0, 'a', curve, 25), (3, 'b', curve, 75), (1, 'c', curve, None), (2, 'd', curve, 300)]
    lines = re.findall(r'<line x1="([\d.]+)" x2="([\d.]+)" y1="(\d+)" y2="(\d+)" class="phase (r\d)"/>',
                       panel(curves.LOSS, runs))
    width = WIDTH - RIGHT - LEFT
    assert [line[-1] for line in lines] == ['r0', 'r3']
    for (left, right, top, bottom, _), share in zip(lines, (0.25, 0.75)):
        assert left == right and float(left) == pytest.approx(LEFT + share * width, abs=0.06)
        assert (int(top), int(bottom)) == (TOP, HEIGHT - BOTTOM)
    assert 'class="phase' not in panel(curves.SELF_CRITICAL[0], runs)


def test_a_logarithmic_axis_gives_each_ratio_the_same_room():
    axis = Axis(0.01, 100.0, 400, 0, logarithmic=True)
    assert [axis(value) for value in (0.01, 0.1, 1.0, 10.0, 100.0)] == [400, 300, 200, 100, 0]


EXTREME = [0.0, -0.0, 1.0, -1.0, 1e308, -1e308, 1e30, -1e30, 5e-324, 1e-300, 1e-31, 3e-31,
           1 + 2 ** -52, float('inf'), float('-inf'), float('nan')]


def test_no_numbers_are_too_large_or_too_close_to_be_drawn():
    for values in itertools.combinations(EXTREME, 2):
        history = History('a', 'a', losses=dict(enumerate(values, 1)), scores={
            1: {'loss': values[0]}, 1 << 53: {'loss': values[1], 'CIDEr': values[0]}})
        for title, lines in curves.curves(history).items():
            assert not re.search('="[^"]*(nan|inf)', panel(title, [(0, 'a', lines, None)])), values
