"""Compare models over several seeds on the built-in data set: a Markdown table, and a plot."""

import os
import re
import sys
from collections.abc import Mapping, Sequence

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from misc.cli import DataError, Parser, run_command
from misc.compare.curves import PALETTE
from misc.compare.plots import picture_name, write_picture
from misc.demo.results import read_rows
from misc.disk.files import open_regular
from misc.run import folder as run_folder

RUN = re.compile(r'compare_(\w+?)_(\d+)(_rl)?_test$')
SPEED = re.compile(r'of (\d+) images\): loss .* ([\d.]+) images/s')
PHASES = {'': 'cross-entropy', '_rl': 'self-critical'}
METRICS = ('CIDEr', 'relations')
COLOURS = dict(zip(PHASES, PALETTE))

Scores = dict[str, dict[str, list[float]]]    # {phase: {metric: a score for each seed}}


def run_of(name: str) -> tuple[str, str, str]:
    """(model, seed, phase) of a results file that compare_models.sh wrote.  Raises `DataError`."""
    found = RUN.match(name)
    if not found:
        raise DataError(f'{name} does not have a name that scripts/compare_models.sh gives: '
                        'compare_MODEL_SEED_test.json or compare_MODEL_SEED_rl_test.json')
    model, seed, phase = found.groups(default='')
    return model, seed, phase


def by_model(rows: Mapping[str, Mapping[str, float]]) -> dict[str, Scores]:
    """The scores of each model, from {name of a results file: {metric: score}}."""
    models: dict[str, Scores] = {}
    for name, scores in rows.items():
        model, _, phase = run_of(name)
        phases = models.setdefault(model, {phase: {metric: [] for metric in METRICS} for phase in PHASES})
        for metric in METRICS:
            if metric in scores:
                phases[phase][metric].append(scores[metric])
    return models


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """The mean over seeds and the standard deviation, 0 for a single seed and for none."""
    if not values:
        return 0.0, 0.0
    mean = sum(values) / len(values)
    return mean, (sum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1)) ** 0.5


def mean_text(values: Sequence[float]) -> str:
    """The mean over seeds with the standard deviation: '4.670 ± 0.140'."""
    if not values:
        return '-'
    mean, deviation = mean_and_deviation(values)
    return f'{mean:.3f} ± {deviation:.3f}' if len(values) > 1 else f'{mean:.3f}'


def parameters(path: str) -> int:
    """The number of parameters in a model.pth."""
    return sum(tensor.numel() for tensor in run_folder.read_tensors(path).values())


def epoch_seconds(path: str) -> dict[str, float]:
    """{phase: the seconds that an epoch took}, from the log of a run."""
    seconds, phase = {}, ''
    try:
        with open_regular(path, 'r', encoding='utf-8') as file:
            for line in file:
                if line.startswith('== training'):
                    phase = '_rl' if line.rstrip().endswith('_rl') else ''
                found = SPEED.search(line)
                if found:
                    seconds[phase] = int(found[1]) / max(float(found[2]), 1e-9)
    except FileNotFoundError:
        raise DataError(f'there is no log {path}; scripts/compare_models.sh writes it') from None
    return seconds


def markdown(models: Mapping[str, Scores], sizes: Mapping[str, int], times: Mapping[str, Sequence[dict[str, float]]]
             ) -> str:
    """The table: a row per model, each score the mean over its seeds with the standard deviation.

    sizes, times: {model: its number of parameters}, {model: `epoch_seconds` of each seed}.
    """
    heads = ['model', *(f'{metric}, {phase}' for metric in METRICS for phase in PHASES.values()),
             'parameters', *(f'seconds an epoch, {phase}' for phase in PHASES.values())]
    lines = [heads, ['---'] * len(heads)]
    for model, phases in models.items():
        scores = [mean_text(phases[phase][metric]) for metric in METRICS for phase in PHASES]
        took = [[one[phase] for one in times[model] if phase in one] for phase in PHASES]
        lines.append([f'`{model}`', *scores, f'{sizes[model]:,}',
                      *(f'{sum(seconds) / len(seconds):.0f}' if seconds else '-' for seconds in took)])
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def plot(models: Mapping[str, Scores], path: str) -> None:
    """Draw bars of the means with whiskers of one standard deviation over seeds, a panel for each metric.

    The extension of `path` decides the picture's format.
    """
    from matplotlib.figure import Figure
    figure = Figure(figsize=(11, 4), layout='constrained')
    for axes, metric in zip(figure.subplots(1, len(METRICS)), METRICS):
        for number, (phase, label) in enumerate(PHASES.items()):
            places = [place + 0.38 * (number - 0.5) for place in range(len(models))]
            means, deviations = zip(*(mean_and_deviation(phases[phase][metric]) for phases in models.values()))
            axes.bar(places, means, 0.36, yerr=deviations, capsize=3, color=COLOURS[phase], label=label)
        axes.set_xticks(range(len(models)), models, rotation=25, ha='right')
        axes.set_title({'CIDEr': 'CIDEr', 'relations': 'share of correct relations'}[metric])
        axes.set_ylim(0)
        axes.spines[['top', 'right']].set_visible(False)
        axes.legend(frameon=False)
    write_picture(figure, path)


def main() -> None:
    """Read the files, print the table, draw the plot."""
    parser = Parser(description='Means and standard deviations over seeds of all models, from the results that '
                    'scripts/compare_models.sh writes.\n\nexample: python scripts/compare_table.py '
                    '--plot models.png eval_results/compare_*_test.json')
    parser.add_argument('results', nargs='+', metavar='FILE',
                        help='eval_results/compare_MODEL_SEED_test.json and ..._rl_test.json')
    parser.add_argument('--input_json', default='data/demo/cocotalk.json', metavar='FILE',
                        help='the file with the references')
    parser.add_argument('--checkpoints', default='checkpoints', metavar='DIR',
                        help='the folder with the runs, whose parameters are counted')
    parser.add_argument('--logs', default='checkpoints/compare_logs', metavar='DIR',
                        help="the folder with the runs' logs, which contain the time of an epoch")
    parser.add_argument('--plot', type=picture_name, metavar='FILE',
                        help='also draw the scores, as FILE.png or FILE.svg')
    options = parser.parse_args()
    rows = read_rows(options.results, options.input_json)
    models = by_model(rows)
    sizes: dict[str, int] = {}
    times: dict[str, list[dict[str, float]]] = {model: [] for model in models}
    for model, seed in dict.fromkeys(run_of(name)[:2] for name in rows):
        run = f'compare_{model}_{seed}'
        sizes[model] = parameters(os.path.join(options.checkpoints, run, 'model.pth'))
        times[model].append(epoch_seconds(os.path.join(options.logs, f'{run}.log')))
    print(markdown(models, sizes, times))
    if options.plot:
        plot(models, options.plot)


if __name__ == '__main__':
    run_command(main)
