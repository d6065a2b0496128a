"""Compare runs on one page: scores with intervals, differences with p-values, wins and losses, wording, curves."""

import argparse
import io
import os
import sys
from collections.abc import Sequence

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from PIL import Image

from misc.cli import DataError, Parser, UsageError, boolean, note, number_in, plain_text, progress, run_command
from misc.compare import image_statistics
from misc.compare.comparison import Difference, Settings, compare
from misc.compare.curves import distinct_names
from misc.compare.examples import shown_images
from misc.compare.places import Contrast, Gap, contrasts_of, corrected, place_kinds
from misc.compare.report import Report, page
from misc.compare.wording import Measure, Wording, compare_wording
from misc.disk.files import check_writable, path_under, replacing
from misc.pictures.images import read_upright
from misc.run.histories import read_logged
from misc.scoring.checks import TOKENIZERS
from misc.scoring.metrics import meteor_counts
from misc.scoring.references import ImageId, References, image_files, read_references
from misc.scoring.results import Results, check_comparable, read_all, shared_images
from misc.scoring.scores import aligned, score_table

SIDE = 224    # pixels of a picture's longer side: twice the size at which it is shown
DESCRIPTION = """\
Compare runs by their results files, as eval.py and score_captions.py write them, on one HTML page that
needs no network: scores with bootstrap confidence intervals, differences from the first run with
p-values, the same by the places that references name, length and variety of the captions, the largest
wins and losses, training curves.

  python scripts/create_report.py eval_results/A_test.json eval_results/B_test.json \\
      --runs checkpoints/A checkpoints/B --input_json data/cocotalk.json --image_root $IMAGE_ROOT

Reads JSON and pictures, but no pickles, so the results of strangers are safe to open."""


def arguments() -> Parser:
    """The command-line parser."""
    parser = Parser(description=DESCRIPTION)
    parser.add_argument('results', nargs='+', metavar='FILE', help='eval_results/ID_SPLIT.json of each run')
    parser.add_argument('--baseline', metavar='NAME',
                        help='the run that the others are compared with, by its name on the page: that of its file '
                        'without the split (default: the first)')
    parser.add_argument('--runs', nargs='+', default=[], metavar='RUN_FOLDER',
                        help='the --checkpoint_path of the runs whose training curves are drawn')
    parser.add_argument('--input_json', metavar='FILE',
                        help='references: the "captions" of a file written by prepro_labels.py; with references '
                        'the BLEU of the whole set has an interval, and they are shown with the wins and losses')
    parser.add_argument('--coco_json', metavar='FILE',
                        help='references: a COCO caption-annotation file; takes precedence over --input_json')
    parser.add_argument('--image_root', metavar='DIR',
                        help='the folder that holds train2014/ and val2014/, to show small pictures too; needs '
                        '--input_json or --coco_json, which name the files')
    parser.add_argument('--output', default='report/index.html', metavar='FILE', help='the page')
    parser.add_argument('--common', type=boolean, nargs='?', const=True, default=False, metavar='0|1',
                        help='1 compares files of different images on the images that all of them have; 0 refuses '
                        'them (default: 0)')
    parser.add_argument('--examples', type=number_in(int, low=0), default=8, metavar='N',
                        help='how many of the largest wins and losses to show for each run and metric; 0 shows none')
    parser.add_argument('--by_place', type=boolean, nargs='?', const=True, default=True, metavar='0|1',
                        help='1 also compares the runs on images whose references name a place (left, in front of, '
                        '...) with the others, where there are references; 0 saves its time, ten seconds for two '
                        'runs on 1,000 images (default: 1)')
    parser.add_argument('--confidence', type=number_in(float, low=50, below=100), default=95.0, metavar='PERCENT',
                        help='of the intervals; a difference is significant if its corrected p-value is at most '
                        'what is missing to 100 per cent')
    parser.add_argument('--draws', type=number_in(int, low=100), default=10000, metavar='N',
                        help='how often images are resampled and captions swapped at random; no p-value is below '
                        '1 / (N + 1), before the correction for the number of differences')
    parser.add_argument('--use_java', type=boolean, nargs='?', const=True, default=True, metavar='0|1',
                        help='0 runs without Java: saves about a minute, but METEOR is then compared as a mean over '
                        'images (default: 1)')
    parser.add_argument('--java_timeout', type=number_in(float, above=0), default=180.0, metavar='SECONDS',
                        help='stop a Java program that has not answered for this long; raise it on a machine that '
                        'is very busy')
    parser.add_argument('--seed', type=number_in(int, low=0), default=1, metavar='N', help='of the resampling')
    return parser


def main() -> None:
    """Read the results, compare them, write the page."""
    options = arguments().parse_args()
    if options.image_root and not (options.input_json or options.coco_json):
        raise UsageError('--image_root needs --input_json or --coco_json, which say which file an image is')
    check_writable(options.output)
    runs = read_all(options.results)
    check_comparable(runs)
    baseline = chosen_baseline(runs, options.baseline)
    images, notes = shared_images(runs, options.common)
    references = references_of(options, runs)
    histories = [read_logged(folder) for folder in options.runs]
    for history, name in zip(histories, distinct_names(histories)):
        history.name = name
    counted = count_statistics(runs, references, options.use_java, options.java_timeout) \
        if references.captions else []
    settings = Settings(options.draws, options.seed, options.confidence)
    comparison = compare(runs, images, baseline, counted, settings)
    wording = compare_wording(runs, images, baseline, TOKENIZERS[runs[0].kind], settings)
    contrasts, left_out = by_place(runs, images, baseline, references, counted, settings) \
        if references.captions and options.by_place and len(runs) > 1 else ({}, [])
    notes += left_out
    notes += [f'{run.name} {line}' for run in runs for line in run.notes]
    pictures: dict[ImageId, bytes] = {}
    if options.image_root:
        pictures, missing = small_pictures(options, shown_images(comparison, runs, options.examples))
        notes += missing
    report = Report(comparison, runs, histories, references.captions, pictures, options.examples, settings, notes,
                    contrasts, wording)
    write(options.output, page(report))
    print_summary(report)
    note(f'wrote {options.output}')


def chosen_baseline(runs: Sequence[Results], name: str | None) -> str:
    """The name of the baseline.  Raises `UsageError` where no run has the `name` asked for."""
    names = [run.name for run in runs]
    if name is not None and name not in names:
        raise UsageError(f'--baseline: there is no run {name}; the runs are {", ".join(names)}')
    return name or names[0]


def references_of(options: argparse.Namespace, runs: Sequence[Results]) -> References:
    """The references of the kind that `runs` were scored against, none where no file was named.  Raises `DataError`
    where an image has none."""
    source = options.coco_json or options.input_json
    if not source:
        return References({})
    references = read_references(None if options.coco_json else source, options.coco_json, runs[0].kind)
    for run in runs:
        missing = [image for image in run.captions if image not in references.captions]
        if missing:
            raise DataError(f'{len(missing)} of {len(run.captions)} images of {run.path} have no reference '
                            f'captions in {source}, such as {plain_text(missing[0])}; name the file of their own '
                            'data set')
    return references


def count_statistics(runs: Sequence[Results], references: References, use_java: bool,
                     java_seconds: float) -> list[image_statistics.Counts]:
    """The counts that BLEU and METEOR of any set of images are computed from."""
    counted = [image_statistics.bleu_counts(runs, references.captions, references.kind)]
    if use_java and any('METEOR' in run.overall for run in runs):
        note('counting the matches of METEOR, which takes about a minute (--use_java 0 skips it)')
        counted.append(image_statistics.meteor_counts(
            runs, references.captions,
            lambda captions, known: meteor_counts(captions, known, java_seconds, references.kind)))
    return counted


def by_place(runs: Sequence[Results], images: Sequence[ImageId], baseline: str, references: References,
             counted: Sequence[image_statistics.Counts], settings: Settings
             ) -> tuple[dict[tuple[str, str], list[Contrast]], list[str]]:
    """{(run, metric): its contrasts by the places that references name}, and notes about places left out."""
    kinds, notes = place_kinds(references.captions, images, TOKENIZERS[references.kind])
    return corrected([contrast for kind in progress(kinds, 'images by the places that references name', 'place')
                      for contrast in contrasts_of(kind, runs, images, baseline, counted, settings)]), notes


def small_pictures(options: argparse.Namespace, images: Sequence[ImageId]) -> tuple[dict[ImageId, bytes], list[str]]:
    """{image: the bytes of a small JPEG} of `images`, and a note about those that cannot be read.

    Raises `DataError` where none can.
    """
    files = image_files(None if options.coco_json else options.input_json, options.coco_json)
    pictures, errors = {}, []
    for image in progress(images, 'pictures'):
        try:
            if image not in files:
                raise DataError(f'{options.coco_json or options.input_json} names no file of image {image}')
            pictures[image] = small_picture(path_under(options.image_root, files[image]))
        except DataError as error:
            errors.append(plain_text(error))
    if images and not pictures:
        raise DataError(f'--image_root {options.image_root}: none of {len(images)} pictures can be shown '
                        f'({errors[0]}); give the folder that holds train2014/ and val2014/')
    return pictures, [f'{len(errors)} of {len(images)} pictures cannot be shown: {errors[0]}'] if errors else []


def small_picture(path: str) -> bytes:
    """The picture in `path`, upright, as a JPEG of at most `SIDE` pixels a side."""
    content = io.BytesIO()
    Image.fromarray(read_upright(path, SIDE)[0]).save(content, 'JPEG', quality=80)
    return content.getvalue()


def write(path: str, text: str) -> None:
    """Write the page atomically; creates its folder."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with replacing(path, 'w') as file:
        file.write(text)


def print_summary(report: Report) -> None:
    """Print the scores, a line for each difference, and tables of wording and places on standard output, notes on
    standard error."""
    comparison = report.comparison
    print(score_table({name: {metric: score.value for metric, score in scores.items() if score.value is not None}
                       for name, scores in comparison.scores.items()}))
    for one in comparison.differences:
        means = '' if one.corpus_level else ' (mean over images)'
        interval = '' if one.low is None else f' [{one.low:+.4f}, {one.high:+.4f}]'
        print(f'{one.run} - {comparison.baseline}: {one.metric}{means} {one.value:+.4f}{interval}, '
              f'corrected p {one.adjusted_p:.4f}, {one.verdict(report.settings.level) or "not significant"}')
    if report.wording is not None:
        print(f'\n{wording_table(report.wording)}')
        for run, words in report.wording.words.items():
            changes = ', '.join(f'{word} {change:+d}' for word, change in [*words.more, *words.fewer])
            print(f'{run} - {comparison.baseline}, captions with a word: {changes or "no difference"}')
    for (run, metric), rows in report.contrasts.items():
        if metric == next(iter(report.contrasts))[1]:  # the others are on the page
            print(f'\n{run} - {comparison.baseline}: {metric}, by the place that references name')
            print(place_table(rows))
    for line in [*report.notes, *comparison.notes]:
        note(f'note: {line}')


def wording_table(wording: Wording) -> str:
    """A line for each property of captions, a column for each run."""
    def show(measure: Measure, run: str) -> str:
        value = measure.scores[run].value or 0
        text = f'{value:.1%}' if measure.is_share else f'{value:.2f}' if isinstance(value, float) else f'{value:,}'
        difference = measure.differences.get(run)
        return text + (f' (corrected p {difference.adjusted_p:.4f})' if difference else '')
    runs = list(wording.measures[0].scores)
    return aligned([['', *runs], *([measure.name, *(show(measure, run) for run in runs)]
                                   for measure in wording.measures)])


def place_table(contrasts: Sequence[Contrast]) -> str:
    """A line for each place: the difference on its images, on the others, and the gap between the two."""
    def show(test: Difference | Gap) -> str:
        return f'{test.value:+.4f} [{test.low:+.4f}, {test.high:+.4f}] p {test.p:.4f} ({test.adjusted_p:.4f})'
    return aligned([['place', 'images', 'difference, p (corrected)', 'others', 'difference, p (corrected)',
                     'gap, p (corrected)'],
                    *([one.kind, str(one.images), show(one.inside), str(one.others), show(one.outside),
                       show(one.gap)] for one in contrasts)])


if __name__ == '__main__':
    run_command(main)
