"""Time the project against plain versions of the same work."""

import argparse
import os
import statistics
import sys
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
os.environ.setdefault('GOMP_SPINCOUNT', '2000')  # before torch is loaded; why: see train.py

import numpy as np
import torch

from misc.cli import DataError, Parser, UsageError, note, number_in, run_command
from misc.disk.files import write_json
from opts import device_name
from scripts.benchmarking.growth import growth_table, measure_growth
from scripts.benchmarking.processes import Setup, Side, hardware
from scripts.benchmarking.workloads import WORKLOADS

DESCRIPTION = __doc__ + """

Each workload is run by the project and by the plain version in tests/naive.py, in processes of their own and in
turns; the medians count.  On an otherwise idle machine everything takes about ten minutes:

    python scripts/benchmark.py --json benchmark.json

To check within seconds that nothing became slower than the plain version:

    python scripts/benchmark.py --quick

To see how the time of a training step grows with regions, captions, layers and images:

    python scripts/benchmark.py --growth

workloads:
""" + '\n'.join(f'  {name:14s} {kind.__doc__.splitlines()[0]}' for name, kind in WORKLOADS.items() if kind.__doc__)


def main() -> None:
    """Measure what the flags ask for, print a table, write the numbers; fail where the two sides disagree."""
    options = parsed_options()
    load = os.getloadavg()[0]
    setup = Setup(options.quick, options.device, options.repeats)
    if options.growth:
        found, lines = compare_growth(setup)
    else:
        found, lines = compare_workloads(list(dict.fromkeys(options.only or WORKLOADS)), setup)
    print(f'{found["device"]}, torch {torch.__version__}; load average {load:.1f} before, '
          f'{os.getloadavg()[0]:.1f} after; medians of {options.repeats}'
          + (' (--quick: only the ratios are meaningful)' if options.quick else '') + '\n')
    print('\n'.join(lines))
    if options.json:
        write_json(options.json, {'torch': torch.__version__, 'quick': options.quick,
                                  'repeats': options.repeats, 'load_before': load, **found}, indent=1)
    wrong = [name for name, measured in found.get('workloads', {}).items() if not measured['agrees']]
    if wrong:
        raise DataError(f'{", ".join(wrong)}: the project and the plain version give different results')


def parsed_options() -> argparse.Namespace:
    """The checked options of the command line."""
    parser = Parser(description=DESCRIPTION)
    parser.add_argument('--only', nargs='+', choices=WORKLOADS, metavar='NAME',
                        help='workloads to run (default: all)')
    parser.add_argument('--growth', action='store_true',
                        help='instead of workloads, time cross-entropy steps of several sizes and fit lines to the '
                             'times')
    parser.add_argument('--quick', action='store_true',
                        help='a small model and little work: only the ratios are meaningful')
    parser.add_argument('--repeats', type=number_in(int, 1), default=3, metavar='N',
                        help='runs of each side; more where other work disturbs the machine')
    parser.add_argument('--json', metavar='FILE', help='also write all numbers to this file')
    parser.add_argument('--device', type=device_name, default='auto', metavar='NAME',
                        help='auto (CUDA if there is a GPU), cpu, cuda or cuda:N')
    options = parser.parse_args()
    if options.json and not os.path.isdir(os.path.dirname(options.json) or '.'):
        raise UsageError(f'--json {options.json}: there is no folder {os.path.dirname(options.json)}; '
                         'make it, or name another file')
    if options.growth and options.only:
        raise UsageError('--only names workloads, but --growth runs none; leave one of them out')
    return options


def compare_workloads(names: list[str], setup: Setup) -> tuple[dict[str, Any], list[str]]:
    """Measure the workloads -> (their numbers and the device's name, the lines of the report)."""
    found = {name: measure(name, setup) for name in names}
    lines = [f'- {name}: {line}' for name, measured in found.items() for line in remarks(name, measured)]
    return ({'workloads': found, 'device': next(iter(found.values()))['device']},
            markdown(table(found)) + ['', *lines])


def compare_growth(setup: Setup) -> tuple[dict[str, Any], list[str]]:
    """The same for `--growth`, measured in this process."""
    device = setup.start()
    found = measure_growth(setup.sizes, device, setup.repeats)
    return {'growth': found, 'device': hardware(device)}, markdown(growth_table(found))


def measure(name: str, setup: Setup) -> dict[str, Any]:
    """Run a workload -> {side: medians of its numbers, 'seconds' and 'peak' bytes among them}, with the 'ratio' of
    the seconds, the 'difference' of the results, whether the sides agree, and the facts of the workload."""
    workload = WORKLOADS[name]
    sides: dict[str, Side] = {}
    found: dict[str, Any] = {}
    try:
        for side in workload.sides:
            sides[side] = Side(name, side, setup)
        for process in sides.values():
            facts, found['device'] = process.answer()
        found |= facts
        runs: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
        for number in range(setup.repeats):
            # In turns, so that other work on the machine affects all sides alike.
            for side, process in sides.items():
                runs[side].append(process.ask('run'))
                note(f'{name}, {side}, run {number + 1}: {runs[side][-1]["seconds"]:.3g} s')
        results = [sides[side].ask('result') for side in ('project', 'plain')]
        floors = {side: floor for side in sides if (floor := sides[side].ask('floor'))}
    finally:
        for process in sides.values():
            process.close()
    for side, numbers in runs.items():
        found[side] = {key: statistics.median(run[key] for run in numbers) for key in numbers[0]}
        found[side].update(peak=numbers[-1]['peak'], all_seconds=[run['seconds'] for run in numbers])
    for side, floor in floors.items():
        rate = found['rates']['bf16' if side == 'bf16' else 'fp32']
        found[side].update(operations=floor.operations, floor=floor.seconds(rate, found['rates']['copy'], False))
    found['ratio'] = found['plain']['seconds'] / found['project']['seconds']
    found['difference'] = float(np.abs(np.subtract(*results)).max())
    found['agrees'] = found['difference'] <= workload.tolerance
    return found


def table(found: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    """The rows of the table of {workload: what `measure` found}, its heads first."""
    rows: list[tuple[str, ...]] = [('workload', 'this project', 'plain', 'times faster', 'peak memory', 'plain\'s')]
    for name, measured in found.items():
        project, plain = measured['project'], measured['plain']
        rows.append((name, f'{project["seconds"]:.3g} s', f'{plain["seconds"]:.3g} s',
                     f'{measured["ratio"]:.1f}', f'{project["peak"] / 1e9:.2f} GB',
                     f'{plain["peak"] / 1e9:.2f} GB'))
    return rows


def markdown(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows of texts, the heads first -> the lines of a Markdown table."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ['| ' + ' | '.join(map(str.ljust, row, widths)) + ' |' for row in rows]
    return [lines[0], '|' + '|'.join('-' * (width + 2) for width in widths) + '|', *lines[1:]]


def remarks(name: str, measured: dict[str, Any]) -> list[str]:
    """Lines about a workload that do not fit into the table."""
    lines = list(WORKLOADS[name].notes(measured))
    share = measured['plain']['share']
    if share < 1:
        images = measured['images']
        lines.append(f'plain: measured on {round(share * images)} of the {images} images and scaled up, '
                     f'{measured["plain"]["seconds"] / images:.1f} s an image; its memory is that of these few')
    if WORKLOADS[name].tolerance:
        lines.append(f'the results of both sides differ by at most {measured["difference"]:.1e}')
    return lines


if __name__ == '__main__':
    run_command(main)
