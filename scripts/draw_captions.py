"""Draw pictures with their captions and with what one word of each attended to, as one figure."""

import os
import sys
import textwrap
from typing import TYPE_CHECKING, Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np
from PIL import Image

from misc.cli import Parser, UsageError, note, number_in, run_command
from misc.compare.plots import picture_name, write_picture
from misc.pictures.images import read_upright

if TYPE_CHECKING:
    from misc.captioner import PictureCaption

DESCRIPTION = """\
Captions pictures and draws each twice: as it is, and with one word of its caption, the regions that the word
did not attend to darkened.  The word is the one whose attention differs most from that of the whole caption.

  python scripts/draw_captions.py photos/*.jpg --run checkpoints/mine --output captions.png

For many pictures, with every word, eval.py --image_folder writes a page."""
DARKEST = 0.25   # brightness where a word did not look at all
LONGEST = 1 << 14   # pixels: pictures are read as they are


def arguments() -> Parser:
    """The command-line parser."""
    parser = Parser(description=DESCRIPTION)
    parser.add_argument('pictures', nargs='+', metavar='PICTURE', help='files, drawn in this order')
    parser.add_argument('--run', required=True, metavar='RUN_FOLDER',
                        help='the run that captions them: its best model, else its last')
    parser.add_argument('--output', type=picture_name, default='captions.png', metavar='FILE',
                        help='the figure, .png or .svg')
    parser.add_argument('--beam_size', type=number_in(int, low=1), default=2, metavar='N',
                        help='as of eval.py; 1: greedy')
    parser.add_argument('--columns', type=number_in(int, low=1), default=4, metavar='N', help='pictures in a row')
    parser.add_argument('--width', type=number_in(int, low=32), default=160, metavar='PIXELS',
                        help='of each picture in the figure')
    parser.add_argument('--cnn_weight_dir', metavar='DIR', help="as for eval.py's --image_folder")
    return parser


def main() -> None:
    """Caption the pictures, draw the figure."""
    options = arguments().parse_args()
    from misc.captioner import load
    weights = {'cnn_weight_dir': options.cnn_weight_dir} if options.cnn_weight_dir else {}
    captioner = load(options.run, beam_size=options.beam_size, **weights)
    captions = captioner.caption(options.pictures)
    if any(caption.attention is None for caption in captions):
        raise UsageError(f'{options.run} attends to no regions, so there is nothing to darken')
    pictures = [read_upright(path, LONGEST)[0] for path in options.pictures]
    write_picture(figure_of(pictures, captions, min(options.columns, len(pictures)), options.width), options.output)
    for path, caption in zip(options.pictures, captions):
        print(f'{path}: {caption.text}')
    note(f'wrote {options.output}')


def figure_of(pictures: list[np.ndarray], captions: 'list[PictureCaption]', columns: int, width: int) -> Any:
    """A figure with a pair of pictures, `width` pixels wide each, and a caption for each of `pictures` (height,
    width, 3)."""
    from matplotlib.figure import Figure
    rows, dpi = -(-len(pictures) // columns), 120   # as write_picture draws
    figure = Figure(figsize=(columns * (2 * width + 24) / dpi, rows * (width + 52) / dpi), dpi=dpi)
    grid = figure.subplots(rows, columns, squeeze=False, gridspec_kw={
        'wspace': 0.06, 'hspace': 0.32, 'left': 0.01, 'right': 0.99, 'top': 0.94, 'bottom': 0.12})
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, pixels, caption in zip(grid.flat, pictures, captions):
        attention, boxes = caption.attention, caption.boxes
        assert attention is not None and boxes is not None   # pictures have boxes; the caller checks the rest
        word = telling_word(attention)
        weights = weight_map(attention[word], boxes, pixels.shape[:2])
        pair = [thumbnail(part, width) for part in (pixels, darkened(pixels, weights))]
        axes.imshow(np.concatenate([pair[0], np.full_like(pair[0][:, :4], 255), pair[1]], 1))
        axes.set_title(caption.words[word], fontsize=8, loc='right', pad=2)
        axes.text(0.5, -0.04, '\n'.join(textwrap.wrap(caption.text, 52)), transform=axes.transAxes,
                  ha='center', va='top', fontsize=8)
    return figure


def telling_word(attention: np.ndarray) -> int:
    """The word whose attention (words, regions) diverges most (Kullback and Leibler) from the mean over the words."""
    ratio = np.log(np.maximum(attention, 1e-12) / np.maximum(attention.mean(0), 1e-12))
    return int((attention * ratio).sum(1).argmax())


def weight_map(weights: np.ndarray, boxes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The largest of the weights (regions,) whose boxes (regions, 4), in pixels, cover a pixel: (height, width)."""
    found = np.zeros(shape)
    for weight, (x1, y1, x2, y2) in zip(weights, np.rint(boxes).astype(int)):
        part = found[y1:y2, x1:x2]
        np.maximum(part, weight, out=part)
    return found


def darkened(pixels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`pixels` (height, width, 3), as bright as they are where `weights` (height, width) are largest."""
    brightness = DARKEST + (1 - DARKEST) * weights / max(weights.max(), 1e-12)
    return (pixels * brightness[..., None]).astype(np.uint8)


def thumbnail(pixels: np.ndarray, width: int) -> np.ndarray:
    """`pixels` scaled to (width, width), whatever their proportions, as the networks see them."""
    return np.asarray(Image.fromarray(pixels).resize((width, width), Image.Resampling.LANCZOS))


if __name__ == '__main__':
    run_command(main)
