"""Score the captions of any captioner; no model is needed."""

import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from misc import commands
from misc.cli import DataError, Parser, UsageError, boolean, note, number_in, run_command
from misc.dataset.marks import marks_in_texts
from misc.disk.files import read_json
from misc.scoring.checks import vocabulary_warning
from misc.scoring.endings import bad_endings, describe
from misc.scoring.frequencies import read_frequencies
from misc.scoring.metrics import scored
from misc.scoring.references import SCORE_TOKENS, ImageId, References, read_references
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
                        help='references: those of a file written by prepro_labels.py')
    result.add_argument('--coco_json', metavar='FILE',
                        help='references: a COCO caption-annotation file, used in place of --input_json; captions '
                             'that VizWiz marks as rejected or pre-canned are left out')
    result.add_argument('--score_tokens', choices=SCORE_TOKENS, default='auto',
                        help='score against the texts of the references (raw), split by the PTB tokenizer, or '
                             'against their tokens (tokens): words separated by spaces, in captions and annotations '
                             'too. auto: tokens where --input_json has them, as it does for Chinese. Give raw or '
                             'tokens to compare with scores that were computed so')
    result.add_argument('--cached_tokens', metavar='FILE',
                        help='document frequencies for CIDEr from a table of prepro_ngrams.py (NAME-words.p, or '
                             'NAME-idxs.p with --input_json) in place of those of the references: for one image or '
                             'a few, whose own frequencies say nothing. Published scores use those of the references')
    result.add_argument('--common', type=boolean, nargs='?', const=True, default=False, metavar='0|1',
                        help='1 scores the images that have both a caption and references, where the captions are of '
                             'more images than the references; 0 refuses them (default: 0)')
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
    references = read_references(options.input_json, options.coco_json, options.score_tokens)
    are_texts = any(isinstance(image_id, str) for image_id in references.captions)
    captions = with_references(load_predictions(options.predictions, are_texts), references, options)
    warn_of_marks(captions, options.predictions)
    word_of = read_words(options.input_json) if options.input_json else None
    warning = vocabulary_warning(references.captions, references.kind, word_of.values(), options.coco_json
                                 or options.input_json) if word_of else ''
    if warning:
        note(warning)
    frequencies = read_frequencies(options.cached_tokens, word_of) if options.cached_tokens else None
    found = scored(captions, references.captions, use_java=options.use_java, java_seconds=options.java_timeout,
                   show_progress=True, kind=references.kind, frequencies=frequencies)
    note(f'scored {len(captions)} of the {len(references.captions)} images that have references')
    for line in found.notes:
        note(line)
    share = bad_endings(captions.values(), references.captions.values())
    if share is not None:
        note(describe(share))
    print(score_table({os.path.basename(options.predictions): found.overall}))
    if options.output_json:
        write_results(options.output_json, found.overall, image_rows(captions, found.per_image),
                      {**vars(options), 'score_tokens': references.kind, 'tokenizer': found.tokenizer},
                      bad_endings=share)


def with_references(captions: dict[ImageId, str], references: References,
                    options: argparse.Namespace) -> dict[ImageId, str]:
    """The captions of images with references.  Raises `DataError` where there are others, unless --common leaves
    them out or all of their references were rejected, and where none is left."""
    found = {image_id: caption for image_id, caption in captions.items() if image_id in references.captions}
    missing = [image_id for image_id in captions if image_id not in references.captions.keys() | references.left_out]
    source = options.coco_json or options.input_json
    examples = f'{", ".join(map(str, missing[:5]))}{" ..." if len(missing) > 5 else ""}'
    if not found:
        raise DataError(f'{source} has references of none of the {len(captions)} images of {options.predictions}: '
                        f'its images are {", ".join(map(str, list(references.captions)[:3]))} ..., those of the '
                        f'captions {", ".join(map(str, list(captions)[:3]))} ...; give the annotations of their own '
                        'data set')
    if missing and not options.common:
        raise DataError(f'{len(missing)} of {len(captions)} captioned images have no reference captions in {source}: '
                        f'{examples}; score them against the annotations of their own data set, or only the '
                        f'{len(found)} others with --common 1')
    if missing:
        note(f'note: {len(missing)} captioned images without references are left out: {examples}')
    return found


def warn_of_marks(captions: dict[ImageId, str], path: str) -> None:
    """Warn of marks of beginnings and ends of sentences, which are scored as words."""
    marks = marks_in_texts(captions.values())
    if marks:
        listed = ', '.join(f'{mark} in {count}' for mark, count in marks.items())
        note(f'warning: marks of beginnings and ends of sentences in {path} are scored as words ({listed} of '
             f'{len(captions)} captions); leave them out of the captions')


def read_words(input_json: str) -> dict[str, str]:
    """The vocabulary {index as text: word} of the file, {} where it has none.  Raises `DataError`."""
    content = read_json(input_json, commands.LABELS)
    words = content.get('ix_to_word') if isinstance(content, dict) else None
    return {index: word for index, word in words.items() if isinstance(word, str)} if isinstance(words, dict) else {}


if __name__ == '__main__':
    run_command(main)
