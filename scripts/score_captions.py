"""Score the captions of any captioner; no model is needed."""

import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from misc.cli import Parser, UsageError, boolean, note, number_in, run_command
from misc.scoring.metrics import score
from misc.scoring.references import load_references
from misc.scoring.results import image_rows, load_predictions, write_results
from misc.scoring.scores import score_table

DESCRIPTION = """\
Score captions in COCO's results form, [{"image_id": 391895, "caption": "a man ..."}, ...], from any
captioner: BLEU-1..4, METEOR, ROUGE-L, CIDEr, and SPICE where its models are installed.

  python scripts/score_captions.py --predictions vis/vis.json --input_json data/cocotalk.json
  python scripts/score_captions.py --predictions mine.json --coco_json captions_val2014.json

Only the images that have a caption in the file are scored."""


def parser() -> argparse.ArgumentParser:
    """The command line of this script."""
    result = Parser(description=DESCRIPTION)
    result.add_argument('--predictions', required=True, metavar='FILE',
                        help="captions in COCO's results form")
    result.add_argument('--input_json', metavar='FILE',
                        help='references: the "captions" of a file written by prepro_labels.py')
    result.add_argument('--coco_json', metavar='FILE',
                        help='references: a COCO caption-annotation file, used in place of --input_json')
    result.add_argument('--output_json', metavar='FILE',
                        help='also write the scores, those of each image included, to this file')
    result.add_argument('--use_java', type=boolean, nargs='?', const=True, default=True, metavar='0|1',
                        help='0 does without Java, and so without METEOR and SPICE, where it is too slow '
                             'or broken (default: 1)')
    result.add_argument('--java_timeout', type=number_in(float, above=0), default=180.0, metavar='SECONDS',
                        help='a Java program that is silent for longer is stopped and its score left out; '
                             'raise it on a very busy machine')
    return result


def main() -> None:
    """Read the captions, score them, print the table, write the scores."""
    options = parser().parse_args()
    if not options.input_json and not options.coco_json:
        raise UsageError('references are missing: give --input_json data/cocotalk.json, '
                         'or --coco_json with a COCO annotation file')
    captions = load_predictions(options.predictions)
    references = load_references(options.input_json, options.coco_json)
    overall, per_image, notes = score(captions, references, use_java=options.use_java,
                                      java_seconds=options.java_timeout, show_progress=True)
    note(f'scored {len(captions)} of the {len(references)} images that have references')
    for line in notes:
        note(line)
    print(score_table({os.path.basename(options.predictions): overall}))
    if options.output_json:
        write_results(options.output_json, overall, image_rows(captions, per_image), vars(options))


if __name__ == '__main__':
    run_command(main)
