"""Time the project beside plain versions of the same work, in one run."""

import contextlib
import multiprocessing
import os
import platform
import resource
import signal
import statistics
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
os.environ.setdefault('GOMP_SPINCOUNT', '2000')  # before torch is loaded; why: see train.py

import numpy as np
import torch

from misc.cli import DataError, Parser, UsageError, UserError, note, number_in, run_command
from misc.disk.files import write_json
from misc.machine import pick_device
from opts import device_name
from scripts.benchmarking.growth import growth_table, measure_growth
from scripts.benchmarking.made_up import QUICK, Sizes
from scripts.benchmarking.workloads import WORKLOADS, synchronise


def serve(pipe, name, side, options):
    """A measured process: answer to its parent at the other end of the pipe until that closes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # which lets the workload tidy up
    try:
        with contextlib.ExitStack() as stack:
            answer(pipe, name, side, options, stack)
    except UserError as error:
        pipe.send(error)
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        pass


def answer(pipe, name, side, options, stack):
    """Build the workload, which is closed when `stack` is, then do what the pipe says.

    Sends first (facts, hardware), then for 'run' a dict of numbers, for 'result' what the sides should
    agree on.
    """
    device = set_up(options)
    workload = stack.enter_context(
        contextlib.closing(WORKLOADS[name](QUICK if options.quick else Sizes(), device)))
    stack.callback(signal.signal, signal.SIGTERM, signal.SIG_IGN)  # what is closing is not interrupted
    work = getattr(workload, side)
    if side in workload.warm:
        work()
    share = workload.shares.get(side, 1)
    pipe.send((workload.facts, hardware(device)))
    while True:
        if pipe.recv() == 'result':
            pipe.send(workload.result(side))
            continue
        synchronise(device)
        start = workload.clock()
        numbers = work()
        synchronise(device)
        seconds = workload.clock() - start
        pipe.send({**numbers, 'seconds': seconds / share, 'share': share, 'peak': peak_memory(device)})


def set_up(options):
    """The device, and torch as every measuring process has it."""
    if options.quick:
        torch.set_num_threads(1)  # what is this small has nothing to share
    torch.manual_seed(0)
    return pick_device(options.device)


def hardware(device):
    """The GPU's name, or the processor's and its number of cores."""
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    names = []
    with contextlib.suppress(OSError), open('/proc/cpuinfo', encoding='utf-8') as file:
        names = [line.split(':', 1)[1].strip() for line in file if line.startswith('model name')]
    return f'{torch.get_num_threads()} cores of {names[0] if names else platform.machine()}'


def peak_memory(device):
    """The most bytes that this process ever held: on the GPU where there is one, else resident."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)


class Side:
    """One measured process, as its parent sees it."""

    def __init__(self, name, side, options):
        # A process started afresh has the memory of a program that does only this.  With --quick, forks
        # spare each the loading of torch; so their parent computes nothing and touches no GPU.
        context = multiprocessing.get_context('fork' if options.quick else 'spawn')
        self.label = f'{name}, {side}'
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, name, side, options), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, order):
        """What the process answers to `order` ('run' or 'result')."""
        self.pipe.send(order)
        return self.answer()

    def answer(self):
        """Wait for the process's next answer.  Raises its `UserError`, or `DataError` where it died."""
        try:
            answer = self.pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            raise DataError(f'{self.label}: the process ended with status {self.process.exitcode}'
                            + (' (killed: too little memory?)' if self.process.exitcode == -9 else '')
                            ) from None
        if isinstance(answer, UserError):
            raise answer
        return answer

    def close(self):
        """End the process."""
        self.process.terminate()
        self.process.join()
        self.pipe.close()


def measure(name, options):
    """Run a workload -> a dict: each side's medians (`seconds` and `peak` bytes among them), `ratio`,
    `difference` of the results, and the workload's facts."""
    workload, sides = WORKLOADS[name], {}
    try:
        for side in workload.sides:
            sides[side] = Side(name, side, options)
        found = {}
        for side in sides.values():
            facts, found['device'] = side.answer()
        found |= facts
        runs = {side: [] for side in sides}
        for number in range(options.repeats):
            # One after the other, so that what else the machine does meets all sides alike.
            for side, process in sides.items():
                runs[side].append(process.ask('run'))
                note(f'{name}, {side}, run {number + 1}: {runs[side][-1]["seconds"]:.3g} s')
        results = [sides[side].ask('result') for side in ('project', 'plain')]
    finally:
        for side in sides.values():
            side.close()
    for side, numbers in runs.items():
        found[side] = {key: statistics.median(run[key] for run in numbers) for key in numbers[0]}
        found[side].update(peak=numbers[-1]['peak'], all_seconds=[run['seconds'] for run in numbers])
    found['ratio'] = found['plain']['seconds'] / found['project']['seconds']
    found['difference'] = float(np.abs(np.subtract(*results)).max())
    found['agrees'] = found['difference'] <= workload.tolerance
    return found


def table(found):
    """The rows of a table of {name: what `measure` found}, its heads first."""
    rows = [('workload', 'this project', 'plain', 'times faster', 'peak memory', 'plain\'s')]
    for name, measured in found.items():
        project, plain = measured['project'], measured['plain']
        rows.append((name, f'{project["seconds"]:.3g} s', f'{plain["seconds"]:.3g} s',
                     f'{measured["ratio"]:.1f}', f'{project["peak"] / 1e9:.2f} GB',
                     f'{plain["peak"] / 1e9:.2f} GB'))
    return rows


def markdown(rows):
    """Rows of texts, the heads first -> the lines of a Markdown table."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ['| ' + ' | '.join(map(str.ljust, row, widths)) + ' |' for row in rows]
    return [lines[0], '|' + '|'.join('-' * (width + 2) for width in widths) + '|', *lines[1:]]


def remarks(name, measured):
    """What the table has no room for: a list of lines."""
    lines = list(WORKLOADS[name].notes(measured))
    share = measured['plain']['share']
    if share < 1:
        images = measured['images']
        lines.append(f'plain: measured on {round(share * images)} of the {images} images and scaled to all, '
                     f'{measured["plain"]["seconds"] / images:.1f} s an image; its memory is of those few')
    if WORKLOADS[name].tolerance:
        lines.append(f'the sides differ by at most {measured["difference"]:.1e}')
    return lines


def main():
    parser = Parser(description=__doc__ + """

Each workload is run by the project and by the plain version of tests/naive.py, in processes of their
own and in turns; what counts is the median.  On a machine that does nothing else it takes about
ten minutes:

    python scripts/benchmark.py --json benchmark.json

and to see within seconds that nothing has become slower than the plain version:

    python scripts/benchmark.py --quick

and to see how the time of a step grows with regions, captions, layers and images:

    python scripts/benchmark.py --growth

workloads:
""" + '\n'.join(f'  {name:14s} {kind.__doc__.splitlines()[0]}' for name, kind in WORKLOADS.items()))
    parser.add_argument('--only', nargs='+', choices=WORKLOADS, metavar='NAME',
                        help='workloads to run (default: all)')
    parser.add_argument('--growth', action='store_true',
                        help='no workloads: cross-entropy steps of several sizes, and the line through '
                             'their times')
    parser.add_argument('--quick', action='store_true',
                        help='a small model and little work: only the ratios mean something')
    parser.add_argument('--repeats', type=number_in(int, 1), default=3, metavar='N',
                        help='runs of each side; more of them where the machine is not quiet')
    parser.add_argument('--json', metavar='FILE', help='also write all numbers to this file')
    parser.add_argument('--device', type=device_name, default='auto', metavar='NAME',
                        help='auto (CUDA where there is one), cpu, cuda or cuda:N')
    options = parser.parse_args()
    if options.json and not os.path.isdir(os.path.dirname(options.json) or '.'):
        raise UsageError(f'--json {options.json}: there is no folder {os.path.dirname(options.json)}; '
                         'make it, or name another file')
    if options.growth and options.only:
        raise UsageError('--only names workloads, and --growth runs none; leave one of them out')
    load = os.getloadavg()[0]
    found = compare_growth(options) if options.growth else compare_workloads(options)
    print(f'{found["device"]}, torch {torch.__version__}; load average {load:.1f} before, '
          f'{os.getloadavg()[0]:.1f} after; medians of {options.repeats}'
          + (' (--quick: only the ratios mean something)' if options.quick else '') + '\n')
    print('\n'.join(found.pop('lines')))
    if options.json:
        write_json(options.json, {'torch': torch.__version__, 'quick': options.quick,
                                  'repeats': options.repeats, 'load_before': load, **found}, indent=1)
    wrong = [name for name, measured in found.get('workloads', {}).items() if not measured['agrees']]
    if wrong:
        raise DataError(f'{", ".join(wrong)}: the project and the plain version do not give the same')


def compare_workloads(options):
    """The workloads' numbers, the device's name, and the lines that tell of them."""
    found = {name: measure(name, options) for name in dict.fromkeys(options.only or WORKLOADS)}
    lines = [f'- {name}: {line}' for name, measured in found.items() for line in remarks(name, measured)]
    return {'workloads': found, 'device': next(iter(found.values()))['device'],
            'lines': markdown(table(found)) + ['', *lines]}


def compare_growth(options):
    """The same for `--growth`, measured in this process."""
    device = set_up(options)
    found = measure_growth(QUICK if options.quick else Sizes(), device, options.repeats)
    return {'growth': found, 'device': hardware(device), 'lines': markdown(growth_table(found))}


if __name__ == '__main__':
    run_command(main)
