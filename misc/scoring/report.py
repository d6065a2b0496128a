"""What evaluation shows and writes: the table of scores, eval_results/ID_SPLIT.json, vis/vis.json."""

import os

from misc.disk.files import write_json

# The usual order of columns; other names come after these as they are met.
COLUMNS = ['Bleu_1', 'Bleu_2', 'Bleu_3', 'Bleu_4', 'METEOR', 'ROUGE_L', 'CIDEr', 'SPICE']
LOWER_IS_BETTER = ('loss', 'mBLEU_4')  # of all others more is better


def sign_of(measure):
    """1 for a score of which more is better, -1 for one of which less is."""
    return -1 if measure in LOWER_IS_BETTER else 1


def score_table(rows):
    """A plain-text table of `rows`, {name of a line: {name of a score: number}}.

    Numbers are as in the JSON files (fractions; CIDEr up to 10) with four decimals; a score that a
    line lacks is a dash.  Returns lines without a line break at the end.
    """
    met = dict.fromkeys(name for scores in rows.values() for name in scores)
    columns = [name for name in COLUMNS if name in met] + [name for name in met if name not in COLUMNS]
    cells = [['', *columns]]
    for line, scores in rows.items():
        cells.append([str(line), *(f'{scores[name]:.4f}' if name in scores else '-' for name in columns)])
    widths = [max(len(row[place]) for row in cells) for place in range(len(columns) + 1)]
    cells.insert(1, ['-' * width for width in widths])
    return '\n'.join('  '.join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
                     for row in cells)


def image_rows(captions, per_image):
    """The `images` of a results file: [{"image_id", "caption", and its own scores}, ...]."""
    return [{'image_id': image_id, 'caption': caption, **per_image.get(image_id, {})}
            for image_id, caption in captions.items()]


def write_results(path, overall, images, options, loss=None):
    """Write `eval_results/ID_SPLIT.json`.

    `overall` {name: score}, `images` as from `image_rows`, `options` a dict of plain values (others
    are written as text), `loss` a number or None.
    """
    content = {'overall': overall}
    if loss is not None:
        content['loss'] = loss
    write_in_folder(path, {**content, 'images': images, 'options': options}, indent=1, default=str)


def write_vis(path, entries):
    """Write `vis/vis.json`, a list in COCO's results form."""
    write_in_folder(path, entries)


def write_in_folder(path, content, **kwargs):
    """`write_json`, with the folder made if it is not there."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    write_json(path, content, **kwargs)
