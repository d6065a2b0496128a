"""Captions in the form that you have -> a split file in Karpathy's form, which every other command reads."""

import argparse
import os
import re
import sys
from collections import Counter

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from misc.cli import DataError, Parser, UsageError, boolean, note, number_in, progress, run_command
from misc.dataset.marks import marks_in_texts, text_without, tokens_without
from misc.dataset.splits import SPLITS
from misc.disk.files import write_json
from misc.pictures.images import read_size
from misc.pictures.listing import list_pictures
from misc.prepare.captions.columns import Asked
from misc.prepare.captions.files import caption_files, coco_pictures, flickr_pictures, table_pictures
from misc.prepare.captions.finding import Finder
from misc.prepare.captions.ids import given_ids
from misc.prepare.captions.pictures import LeftOut, Picture, some
from misc.prepare.captions.reading import lines_of, read_text
from misc.prepare.captions.split_file import add_tokens, label_flags, next_steps, split_file, summary
from misc.prepare.captions.splits import by_lists, draw, name_splits
from misc.prepare.captions.words import TOKENIZERS, UNSPACED

Group = argparse._ArgumentGroup
SHARE = 0.1   # of the images, for val and for test, where nothing says otherwise
LONG_WORD = 6   # Chinese characters or kana that hardly are one word
SOURCES = ('flickr_tokens', 'coco_json', 'table')


def arguments() -> Parser:
    """The parser of this command."""
    parser = Parser(description=(
        "Writes a split file in Karpathy's form (dataset_NAME.json: images with splits, ids, captions and their\n"
        'words), the input of prepro_labels.py, prepro_ngrams.py and extract_regions.py, from one of these:\n\n'
        'A table of pictures and captions: CSV, TSV, JSON lines or JSON, with a header or without\n'
        '  image,caption\n'
        '  beach/1.jpg,Two dogs run along the water.\n'
        'python scripts/make_dataset.py --table captions.csv --images_root PICTURES \\\n'
        '    --output_json data/dataset_mine.json\n\n'
        "COCO's caption annotations, also those of VizWiz, one file or one for each split\n"
        'python scripts/make_dataset.py --coco_json train=captions_a.json val=captions_b.json \\\n'
        '    --images_root PICTURES --output_json data/dataset_mine.json\n\n'
        "Flickr8k's or Flickr30k's token file and lists, or the folder that holds them\n"
        'python scripts/make_dataset.py --flickr_tokens Flickr8k_text --images_root Flicker8k_Dataset \\\n'
        '    --output_json data/dataset_flickr8k.json\n\n'
        'Where no splits are given, --val and --test images are drawn and the others are for training.  Where\n'
        'images have no whole numbers as ids, they are numbered from 0 in the order of the input.'))
    add_source_flags(parser.add_argument_group('input, one of these'))
    add_column_flags(parser.add_argument_group(
        'columns of a table, by name or by number from 1, where they are not recognised'))
    add_split_flags(parser.add_argument_group('splits'))
    add_picture_flags(parser.add_argument_group('pictures, ids, words'))
    parser.add_argument('--output_json', required=True, metavar='FILE', help='such as data/dataset_mine.json')
    return parser


def add_source_flags(group: Group) -> None:
    """What is read."""
    group.add_argument('--table', nargs='+', metavar='[SPLIT=]FILE', help=(
        'CSV, TSV, JSON lines or JSON of pictures and captions; several captions of a picture in rows, in columns '
        'or in a list.  Each of several files is a split, named by SPLIT= or in the file name'))
    group.add_argument('--coco_json', nargs='+', metavar='[SPLIT=]FILE', help=(
        "COCO's caption annotations; several files as for --table.  Captions that VizWiz marks as rejected or "
        'pre-canned are left out'))
    group.add_argument('--flickr_tokens', metavar='FILE', help=(
        'lines of NAME#NUMBER, tab, caption (Flickr8k.token.txt); or the folder that holds this file and the three '
        'lists under their official names'))
    group.add_argument('--encoding', default='utf-8', help=(
        'of files without a byte order mark, such as cp1252 or gb18030'))


def add_column_flags(group: Group) -> None:
    """Which columns of a table hold what."""
    group.add_argument('--image_column', metavar='NAME', help=(
        'file name or path of the picture; recognised are image, file, filename, path and the like'))
    group.add_argument('--caption_column', nargs='+', metavar='NAME', help=(
        'one or more columns of captions; recognised are caption, sentence, text and the like, also with numbers'))
    group.add_argument('--split_column', metavar='NAME', help=(
        'recognised are split, set and the like; "none" ignores the splits of any input'))
    group.add_argument('--id_column', metavar='NAME', help=(
        'recognised are image_id, id and the like; "none" ignores it'))
    group.add_argument('--header', type=boolean, metavar='0/1', help=(
        'whether the first row of a CSV or TSV file names the columns; found out where not given'))


def add_split_flags(group: Group) -> None:
    """Which image belongs to which split."""
    for split in ('train', 'val', 'test'):
        group.add_argument(f'--{split}_list', metavar='FILE', help=(
            f'file names of the {split} images, one a line; images that are in no list are left out'))
    group.add_argument('--split_names', nargs='+', metavar='NAME=SPLIT', help=(
        'what other names of splits mean, such as holdout=test; valid, validation and dev are known as val'))
    for split in ('val', 'test'):
        group.add_argument(f'--{split}', type=share_or_count, metavar='SIZE', help=(
            f'images to draw for {split}: a share below 1, or a count (default: {SHARE} where the input has no '
            f'splits).  Where it has splits but no {split} images, they are taken from train'))
    group.add_argument('--seed', type=number_in(int), default=0, help=(
        'another seed draws other images; the draw depends on it and on file names alone'))


def add_picture_flags(group: Group) -> None:
    """Where pictures are looked for, how they are numbered, how captions become words."""
    group.add_argument('--images_root', metavar='FOLDER', help=(
        'folder of the pictures, with its subfolders: each is looked for there by its path, then by its file name, '
        'then without its ending; gives width and height too.  Without it nothing is checked'))
    group.add_argument('--skip_missing', type=boolean, nargs='?', const=True, default=False, metavar='0/1', help=(
        'leave out pictures that are not there or cannot be read, instead of refusing'))
    group.add_argument('--new_ids', type=boolean, nargs='?', const=True, default=False, metavar='0/1', help=(
        'number the images by their order even where the input gives ids, for files whose ids clash'))
    group.add_argument('--leave_out_marks', type=boolean, nargs='?', const=True, default=False, metavar='0/1', help=(
        'leave out marks of the beginning or the end of a sentence (<start>, </s>, startseq) from captions; give it '
        'when a warning names some'))
    group.add_argument('--tokens', choices=list(TOKENIZERS), help=(
        'how captions become words (default: karpathy; words that the input gives are kept).  karpathy: lower case, '
        "without quotes and full stops, separated at spaces and - , ; ! ? /, as in Karpathy's files; spaces: "
        'separated at spaces and otherwise as they are, for captions that are segmented already; characters: as '
        'karpathy, with each Chinese or Japanese character a word'))


def share_or_count(text: str) -> float:
    """An argparse type: a share from 0 below 1, or a whole number."""
    value = number_in(float, low=0)(text)
    if value >= 1 and value != int(value):
        raise argparse.ArgumentTypeError(f'{text!r} is not allowed; give a share below 1, or a count')
    return value


def check(options: argparse.Namespace) -> None:
    """Raise `UsageError` for flags that are missing or contradict one another."""
    given = [f'--{name}' for name in SOURCES if getattr(options, name)]
    if len(given) != 1:
        raise UsageError(f'give one of --table, --coco_json and --flickr_tokens{", not " * bool(given)}'
                         f'{" and ".join(given)} (see --help for an example of each)')
    if options.skip_missing and not options.images_root:
        raise UsageError('--skip_missing needs --images_root: without it no picture is looked for')
    for word in options.split_names or ():
        if word.partition('=')[2] not in SPLITS:
            raise UsageError(f'--split_names {word}: write NAME=SPLIT, where SPLIT is train, val, test or restval')


# ---- steps ----

def read_pictures(options: argparse.Namespace, left_out: LeftOut) -> tuple[list[Picture], dict[str, list[str]]]:
    """The pictures of the source that the options name, and {split: names in its list}."""
    lists = {split: path for split in ('train', 'val', 'test') if (path := getattr(options, f'{split}_list'))}
    if options.flickr_tokens:
        pictures, official = flickr_pictures(options.flickr_tokens, options.encoding, left_out)
        lists = lists or official
    elif options.coco_json:
        pictures = coco_pictures(caption_files(options.coco_json), options.encoding, left_out)
    else:
        asked = Asked(options.image_column, options.caption_column or (), options.split_column, options.id_column)
        pictures = table_pictures(caption_files(options.table), options.encoding, options.header, asked, left_out)
    return pictures, {split: list(filter(None, map(str.strip, lines_of(read_text(path, options.encoding)))))
                      for split, path in lists.items()}


def settle_marks(pictures: list[Picture], leave_out: bool) -> None:
    """Leave marks of beginnings and ends of sentences out of the captions, or warn of them."""
    captions = [caption for picture in pictures for caption in picture.captions]
    marks = marks_in_texts(caption.raw for caption in captions)
    listed = ', '.join(f'{mark} in {count}' for mark, count in marks.items())
    if marks and not leave_out:
        note(f'WARNING: {len(captions)} captions have marks of beginnings and ends of sentences: {listed}.\nThey '
             'count as words; leave them out with --leave_out_marks 1')
    elif marks:
        note(f'left out of {len(captions)} captions: {listed}')
        for caption in captions:
            caption.raw = text_without(marks, caption.raw)
            caption.tokens = caption.tokens and tokens_without(marks, caption.tokens)


def look_for(pictures: list[Picture], root: str, skip: bool, left_out: LeftOut) -> list[Picture]:
    """The pictures that are under `root`, with their names relative to it and their sizes.

    Raises `DataError` for those that are not there or cannot be read, unless they are to be skipped.
    """
    finder = Finder(list_pictures(root)[1])
    kept, wrong = [], LeftOut()
    for picture in progress(pictures, 'pictures'):
        found = finder.find(picture.name)
        if len(found) != 1:
            wrong.add('pictures of which there are several files' if found else 'pictures that are not there',
                      f'{picture.name} ({", ".join(found[:2])})' if found else picture.name)
            continue
        try:
            picture.width, picture.height = read_size(os.path.join(root, found[0]), upright=True)
        except DataError as error:
            wrong.add('pictures that cannot be read', error)
            continue
        picture.name = found[0]
        kept.append(picture)
    if wrong.counts and (not skip or not kept):
        lines = '\n'.join(f'  {line}' for line in wrong.lines())
        raise DataError(f'of {len(pictures)} pictures under --images_root {root}:\n{lines}\n'
                        + ('is it the right folder?' if not kept else
                           'add them, name another --images_root, or leave them out with --skip_missing 1'))
    left_out.extend(wrong)
    shared = [name for name, count in Counter(picture.name for picture in kept).items() if count > 1]
    if shared:
        note(f'WARNING: {len(shared)} files are the picture of more than one image: {some(shared)}')
    return kept


def choose_splits(pictures: list[Picture], have_splits: bool, options: argparse.Namespace) -> None:
    """Draw the splits that are not given.  Raises `UsageError` where --val or --test contradicts the input."""
    asked = {split: size for split in ('val', 'test') if (size := getattr(options, split)) is not None}
    if not have_splits:
        draw(pictures, {'val': SHARE, 'test': SHARE, **asked}, options.seed, (None,))
        note(f'splits: drawn with --seed {options.seed}')
        return
    present = Counter(picture.split for picture in pictures)
    for split in asked:
        if present[split]:
            raise UsageError(f'--{split}: the input names {present[split]} {split} images already; to draw all '
                             'splits anew, add --split_column none')
    if asked:
        draw(pictures, asked, options.seed, ('train',))
    for split, use in (('train', 'nothing to train on'), ('val', 'nothing to choose the best checkpoint by')):
        if not any(picture.split == split for picture in pictures):
            note(f'WARNING: no {split} images, so {use}' + '; --val 0.1 takes some from train' * (split == 'val'))


def choose_ids(pictures: list[Picture], new_ids: bool) -> list[int] | None:
    """The ids to keep; None where the images are numbered by their order."""
    ids, why = (None, 'asked for with --new_ids') if new_ids else given_ids(pictures)
    note('ids: as the input gives them' if ids else f'ids: 0 to {len(pictures) - 1} by order ({why})')
    return ids


def check_words(pictures: list[Picture]) -> None:
    """Warn of captions without spaces between words."""
    captions = [caption for picture in pictures for caption in picture.captions]
    unspaced = [caption.raw for caption in captions
                if any(len(UNSPACED.findall(word)) >= LONG_WORD for word in caption.tokens or ())]
    if len(unspaced) > len(captions) / 10:
        note(f'WARNING: {len(unspaced)} of {len(captions)} captions are Chinese or Japanese ({some(unspaced[:1])}), '
             'which have no spaces between words.\nWith --tokens characters each character is a word; or segment the '
             'captions and use --tokens spaces')


def main() -> int:
    """Read, look for the pictures, choose splits and ids, write; returns the exit status."""
    options = arguments().parse_args()
    check(options)
    left_out = LeftOut()
    pictures, lists = read_pictures(options, left_out)
    if lists:
        pictures = by_lists(pictures, lists, left_out)
    settle_marks(pictures, options.leave_out_marks)
    have_splits = name_splits(pictures, dict(word.split('=', 1) for word in options.split_names or ()))
    pictures = add_tokens(pictures, TOKENIZERS[options.tokens or 'karpathy'], left_out, bool(options.tokens))
    if pictures and options.images_root:
        pictures = look_for(pictures, options.images_root, options.skip_missing, left_out)
    if not pictures:
        raise DataError('\n'.join(['no image with a caption is left:', *left_out.lines()]))
    check_words(pictures)
    choose_splits(pictures, have_splits, options)
    ids = choose_ids(pictures, options.new_ids)
    name = re.sub(r'(dataset_)?(.*?)(\.json)?', r'\2', os.path.basename(options.output_json))
    os.makedirs(os.path.dirname(os.path.abspath(options.output_json)), exist_ok=True)
    write_json(options.output_json, split_file(pictures, name, ids, 'cocoid' if options.coco_json else 'imgid'))
    for line in summary(pictures):
        note(line)
    if left_out.counts:
        note('left out:\n' + '\n'.join(f'  {line}' for line in left_out.lines()))
    note(f'-> {options.output_json}\n{next_steps(options.output_json, options.images_root, label_flags(pictures))}')
    if left_out.broken:
        note(f'{sum(left_out.counts[reason] for reason in left_out.broken)} broken, as said above; correct the input '
             'and run the command again if that is too many')
        return 1
    return 0


if __name__ == '__main__':
    run_command(main)
