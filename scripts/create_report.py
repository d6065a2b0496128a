"""Compare runs on one page: scores with intervals, differences with p-values, wins and losses, curves."""

import io
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from PIL import Image

from misc.cli import DataError, Parser, UsageError, boolean, note, number_in, plain_text, progress, run_command
from misc.compare import comparison, curves
from misc.compare import report as report_page
from misc.disk.files import replacing
from misc.pictures.images import read_upright
from misc.run.histories import read_logged
from misc.scoring.metrics import meteor_counts
from misc.scoring.references import image_files, load_references
from misc.scoring.results import read_all, shared_images
from misc.scoring.scores import score_table

SIDE = 224  # pixels of a picture's longer side: twice what it is shown at
DESCRIPTION = """\
Compare runs by their results files, as eval.py and score_captions.py write them, on one HTML page that
needs no network: scores with intervals by bootstrap, differences from the first run with p-values, the
largest wins and losses with their captions, training curves.

  python scripts/create_report.py eval_results/A_test.json eval_results/B_test.json \\
      --runs checkpoints/A checkpoints/B --input_json data/cocotalk.json --image_root $IMAGE_ROOT

Reads JSON, TensorBoard events and pictures, no pickles, so results of strangers can be looked at."""


def arguments():
    """The parser of this command."""
    parser = Parser(description=DESCRIPTION)
    parser.add_argument('results', nargs='+', metavar='FILE', help='eval_results/ID_SPLIT.json of each run')
    parser.add_argument('--baseline', metavar='NAME',
                        help='the run that the others are compared to, by its name on the page, which is that of '
                        'its file without the split (default: the first)')
    parser.add_argument('--runs', nargs='+', default=[], metavar='RUN_FOLDER',
                        help='the --checkpoint_path of the runs whose training curves are drawn')
    parser.add_argument('--input_json', metavar='FILE',
                        help='references: the "captions" of a file written by prepro_labels.py; with references '
                        'BLEU has an interval of its own, and they are shown with the wins and losses')
    parser.add_argument('--coco_json', metavar='FILE',
                        help='references: a COCO caption-annotation file; goes before --input_json')
    parser.add_argument('--image_root', metavar='DIR',
                        help='the folder that holds train2014/ and val2014/: shows small pictures too; needs '
                        '--input_json or --coco_json, which name the files')
    parser.add_argument('--output', default='report/index.html', metavar='FILE', help='the page')
    parser.add_argument('--common', type=boolean, nargs='?', const=True, default=False, metavar='0|1',
                        help='1 compares files of different images on those that all have, instead of refusing '
                        '(default: 0)')
    parser.add_argument('--examples', type=number_in(int, low=0), default=8, metavar='N',
                        help='the largest wins and losses to show of each run and score; 0 shows none')
    parser.add_argument('--confidence', type=number_in(float, low=50, below=100), default=95.0, metavar='PERCENT',
                        help='of the intervals; what is left of 100 is the level at which a corrected p counts')
    parser.add_argument('--draws', type=number_in(int, low=100), default=10000, metavar='N',
                        help='how often images are drawn and coins are tossed; no p is smaller than 1 / (N + 1), '
                        'which is then corrected for the number of differences')
    parser.add_argument('--use_java', type=boolean, nargs='?', const=True, default=True, metavar='0|1',
                        help='0 leaves Java alone: quicker by a minute, but it is the mean of the image scores of '
                        'METEOR that has an interval then (default: 1)')
    parser.add_argument('--java_timeout', type=number_in(float, above=0), default=180.0, metavar='SECONDS',
                        help='a Java program that is silent for longer is stopped; raise it on a machine that is '
                        'very busy')
    parser.add_argument('--seed', type=number_in(int, low=0), default=1, metavar='N', help='of the draws')
    return parser


def main():
    """Read the results, compare them, write the page."""
    options = arguments().parse_args()
    if options.image_root and not (options.input_json or options.coco_json):
        raise UsageError('--image_root needs --input_json or --coco_json, which say which file an image is')
    several = read_all(options.results)
    baseline = chosen(several, options.baseline)
    images, notes = shared_images(several, options.common)
    references = read_references(options, several)
    histories = [read_logged(folder) for folder in options.runs]
    for history, name in zip(histories, curves.distinct_names(histories)):
        history.name = name
    counted = counts(several, references, options.use_java, options.java_timeout) if references else []
    compared = comparison.compare(several, images, baseline, counted, options.draws, options.seed,
                                  options.confidence)
    pictures, missing = {}, []
    if options.image_root:
        pictures, missing = small_pictures(options, report_page.shown_images(compared, several, options.examples))
    report = report_page.Report(
        compared, several, histories, references or {}, pictures, options.examples, options.confidence,
        options.draws, options.seed,
        notes + [f'{results.name} {line}' for results in several for line in results.notes] + missing)
    write(options.output, report_page.page(report))
    print_summary(report)
    note(f'wrote {options.output}')


def chosen(several, name):
    """The name of the baseline.  Raises `UsageError` where no run has it."""
    names = [results.name for results in several]
    if name is not None and name not in names:
        raise UsageError(f'--baseline: there is no run {name}; there are {", ".join(names)}')
    return name or names[0]


def read_references(options, several):
    """{image: captions}, None where no file was named.  Raises `DataError` where some have none."""
    source = options.coco_json or options.input_json
    if not source:
        return None
    references = load_references(None if options.coco_json else source, options.coco_json)
    for results in several:
        missing = [image for image in results.captions if image not in references]
        if missing:
            raise DataError(f'{len(missing)} of {len(results.captions)} images of {results.path} have no '
                            f'reference captions in {source}, {plain_text(missing[0])} for one; name the file of '
                            'their own data set')
    return references


def counts(several, references, use_java, java_seconds):
    """What BLEU and METEOR of a whole set depend on: see `comparison.families_of`."""
    found = [comparison.bleu_counts(several, references)]
    if use_java and any('METEOR' in results.overall for results in several):
        note('counting the matches of METEOR, which takes a minute or so (--use_java 0 does without)')
        found.append(comparison.meteor_counts(several, references, lambda captions, known: meteor_counts(
            captions, known, java_seconds)))
    return found


def small_pictures(options, images):
    """{image: the bytes of a small JPEG} of `images`, and a line on those that cannot be had.

    Raises `DataError` where none can.
    """
    files = image_files(None if options.coco_json else options.input_json, options.coco_json)
    pictures, wrong = {}, []
    for image in progress(images, 'pictures'):
        try:
            if image not in files:
                raise DataError(f'{options.coco_json or options.input_json} names no file of image {image}')
            pictures[image] = small(os.path.join(options.image_root, files[image]))
        except DataError as error:
            wrong.append(plain_text(error))
    if images and not pictures:
        raise DataError(f'--image_root {options.image_root}: none of {len(images)} pictures can be shown '
                        f'({wrong[0]}); it is the folder that holds train2014/ and val2014/')
    return pictures, [f'{len(wrong)} of {len(images)} pictures cannot be shown: {wrong[0]}'] if wrong else []


def small(path):
    """The picture in `path`, upright, as the bytes of a JPEG of at most `SIDE` pixels a side."""
    content = io.BytesIO()
    Image.fromarray(read_upright(path, SIDE)[0]).save(content, 'JPEG', quality=80)
    return content.getvalue()


def write(path, page):
    """Write the page, whole or not at all, with its folder made if it is not there."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with replacing(path, 'w') as file:
        file.write(page)


def print_summary(report):
    """The scores, and a line for each difference, on standard output; notes on standard error."""
    compared = report.comparison
    print(score_table({name: {measure: cell.score for measure, cell in cells.items() if cell.score is not None}
                       for name, cells in compared.cells.items()}))
    for contrast in compared.contrasts:
        means = '' if contrast.whole else ' (mean of images)'
        interval = '' if contrast.low is None else f' [{contrast.low:+.4f}, {contrast.high:+.4f}]'
        print(f'{contrast.run} - {compared.baseline}: {contrast.measure}{means} {contrast.difference:+.4f}'
              f'{interval}, corrected p {contrast.adjusted:.4f}, '
              f'{report_page.verdict(report, contrast) or "not told apart"}')
    for line in report.notes + compared.notes:
        note(f'note: {line}')


if __name__ == '__main__':
    run_command(main)
