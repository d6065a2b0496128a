"""Compare models over seeds on the built-in data set: a Markdown table, and a plot."""

import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from misc.cli import DataError, Parser, run_command
from misc.compare.plots import picture_name, write_picture
from misc.demo.results import read_rows
from misc.run import checkpoint

RUN = re.compile(r'compare_(\w+?)_(\d+)(_rl)?_test$')
SPEED = re.compile(r'of (\d+) images\): loss .* ([\d.]+) images/s')
PHASES = {'': 'cross-entropy', '_rl': 'self-critical'}
MEASURES = ('CIDEr', 'relations')
COLOURS = {'': '#0072b2', '_rl': '#e69f00'}  # told apart by the colour-blind too


def by_model(rows):
    """{name of a results file: its scores} -> {model: {phase: {measure: the seeds' scores}}}."""
    models = {}
    for name, scores in rows.items():
        found = RUN.match(name)
        if not found:
            raise DataError(f'{name} is not named as the results of scripts/compare_models.sh are: '
                            'compare_MODEL_SEED_test.json, or compare_MODEL_SEED_rl_test.json')
        model, _, phase = found.groups()
        phases = models.setdefault(model, {phase: {measure: [] for measure in MEASURES} for phase in PHASES})
        for measure in MEASURES:
            if measure in scores:
                phases[phase or ''][measure].append(scores[measure])
    return models


def mean_and_deviation(values):
    """The mean of the seeds' values and their standard deviation, 0 of a single one; None of none."""
    if not values:
        return None
    mean = sum(values) / len(values)
    return mean, (sum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1)) ** 0.5


def spread(values):
    """The mean of the seeds' values and how far they lie apart: '4.67 ± 0.14' (standard deviation)."""
    if not values:
        return '-'
    mean, deviation = mean_and_deviation(values)
    return f'{mean:.3f} ± {deviation:.3f}' if len(values) > 1 else f'{mean:.3f}'


def parameters(path):
    """The number of weights in a model.pth."""
    return sum(tensor.numel() for tensor in checkpoint.read_tensors(path).values())


def epoch_seconds(path):
    """Seconds that an epoch of each phase took, {phase: seconds}, from the log of a run."""
    seconds, phase = {}, ''
    try:
        with open(path, encoding='utf-8') as file:
            for line in file:
                if line.startswith('== training'):
                    phase = '_rl' if line.rstrip().endswith('_rl') else ''
                found = SPEED.search(line)
                if found:
                    seconds[phase] = int(found[1]) / max(float(found[2]), 1e-9)
    except FileNotFoundError:
        raise DataError(f'there is no log {path}; scripts/compare_models.sh writes it') from None
    return seconds


def markdown(models, sizes, times):
    """The table: a line per model, each score the mean of its seeds and their standard deviation."""
    heads = ['model', *(f'{measure}, {told}' for measure in MEASURES for told in PHASES.values()),
             'parameters', *(f'seconds an epoch, {told}' for told in PHASES.values())]
    lines = [heads, ['---'] * len(heads)]
    for model, phases in models.items():
        scores = [spread(phases[phase][measure]) for measure in MEASURES for phase in PHASES]
        took = [[one[phase] for one in times[model] if phase in one] for phase in PHASES]
        lines.append([f'`{model}`', *scores, f'{sizes[model]:,}',
                      *(f'{sum(seconds) / len(seconds):.0f}' if seconds else '-' for seconds in took)])
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def plot(models, path):
    """Bars of the means, with whiskers of the standard deviation over the seeds, one panel per measure; the
    kind of picture is `path`'s."""
    from matplotlib.figure import Figure
    figure = Figure(figsize=(11, 4), layout='constrained')
    for axes, measure in zip(figure.subplots(1, len(MEASURES)), MEASURES):
        for number, (phase, told) in enumerate(PHASES.items()):
            places = [place + 0.38 * (number - 0.5) for place in range(len(models))]
            means, deviations = zip(*(mean_and_deviation(phases[phase][measure]) or (0, 0)
                                      for phases in models.values()))
            axes.bar(places, means, 0.36, yerr=deviations, capsize=3, color=COLOURS[phase], label=told)
        axes.set_xticks(range(len(models)), models, rotation=25, ha='right')
        axes.set_title({'CIDEr': 'CIDEr', 'relations': 'share of relations that are right'}[measure])
        axes.set_ylim(0)
        axes.spines[['top', 'right']].set_visible(False)
        axes.legend(frameon=False)
    write_picture(figure, path)


def main():
    """Read the files, print the table, draw the plot."""
    parser = Parser(description='Means and spreads over seeds of all models, from the results that '
                    'scripts/compare_models.sh makes.\n\nexample: python scripts/compare_table.py '
                    '--plot models.png eval_results/compare_*_test.json')
    parser.add_argument('results', nargs='+', metavar='FILE',
                        help='eval_results/compare_MODEL_SEED_test.json and ..._rl_test.json')
    parser.add_argument('--input_json', default='data/demo/cocotalk.json', metavar='FILE',
                        help='where the references are')
    parser.add_argument('--checkpoints', default='checkpoints', metavar='DIR',
                        help='where the runs are, whose weights are counted')
    parser.add_argument('--logs', default='checkpoints/compare_logs', metavar='DIR',
                        help="where the runs' logs are, which say how long an epoch took")
    parser.add_argument('--plot', type=picture_name, metavar='FILE',
                        help='also draw the scores, as FILE.png or FILE.svg')
    options = parser.parse_args()
    rows = read_rows(options.results, options.input_json)
    models = by_model(rows)
    sizes, times = {}, {model: [] for model in models}
    for model, seed in dict.fromkeys(RUN.match(name).groups()[:2] for name in rows):
        run = f'compare_{model}_{seed}'
        sizes[model] = parameters(os.path.join(options.checkpoints, run, 'model.pth'))
        times[model].append(epoch_seconds(os.path.join(options.logs, f'{run}.log')))
    print(markdown(models, sizes, times))
    if options.plot:
        plot(models, options.plot)


if __name__ == '__main__':
    run_command(main)
