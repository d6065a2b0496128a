"""Make the built-in data set: drawn scenes with captions and region features, in the formats of COCO's files."""

import base64
import functools
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np
from PIL import Image

from misc.cli import Parser, Progress, UsageError, number_in, progress, run_command
from misc.dataset.splits import TRAINING
from misc.demo.captions import tokens_of, write_captions
from misc.demo.regions import region_boxes, region_features
from misc.demo.scenes import SIDES, Fact, Scene, draw_scene, paint
from misc.disk.files import replacing, write_json
from misc.prepare.made import claimed
from misc.prepare.workers import Workers, cpu_count

ARCHIVE = 'bu_data/trainval'
TSV = {
    'test': 'karpathy_test_resnet101_faster_rcnn_genome.tsv',
    'val': 'karpathy_val_resnet101_faster_rcnn_genome.tsv',
    'train 0': 'karpathy_train_resnet101_faster_rcnn_genome.tsv.0',
    'train 1': 'karpathy_train_resnet101_faster_rcnn_genome.tsv.1',
}
UNFINISHED = '.unfinished'    # ends the name of an archive file being written; a resumed run keeps its complete lines
SHARES = {'test': 1 / 8, 'val': 1 / 24, 'restval': 1 / 24}    # of the images; the rest is train

ImageSplit = tuple[int, str]    # (imgid, split)


def splits_of(num_images: int, seed: int) -> list[str]:
    """The split of each image, in random order."""
    splits = [split for split, share in SHARES.items() for _ in range(max(1, round(share * num_images)))]
    splits += ['train'] * (num_images - len(splits))
    return [splits[place] for place in np.random.default_rng(seed).permutation(num_images)]


def plan_image(imgid: int, split: str, seed: int
               ) -> tuple[dict[str, Any], Scene, Fact, np.ndarray, np.random.Generator]:
    """Everything about an image that is decided before it is painted; depends on its number and the seed alone.

    Returns (entry, scene, fact, boxes, rng): its entry in the split file, the scene, the fact that its captions
    state, the boxes of its regions, float32 (regions, 4), and the generator to paint it with.
    """
    rng = np.random.default_rng([seed, imgid])
    scene, fact = draw_scene(rng)
    captions = write_captions(fact, rng)
    boxes = region_boxes(scene, rng)
    return entry_of(imgid, split, captions), scene, fact, boxes, rng


def entry_of(imgid: int, split: str, captions: Sequence[str]) -> dict[str, Any]:
    """An image's entry in the split file, with the fields of Karpathy's."""
    folder = 'train2014' if split == 'train' else 'val2014'
    cocoid = 7 * imgid + 9    # never equal to the position, so that mistaking one for the other is noticed
    sentids = [len(captions) * imgid + place for place in range(len(captions))]
    return {'filepath': folder, 'filename': f'COCO_{folder}_{cocoid:012d}.jpg', 'imgid': imgid,
            'cocoid': cocoid, 'split': split, 'sentids': sentids,
            'sentences': [{'tokens': tokens_of(raw), 'raw': raw, 'imgid': imgid, 'sentid': sentid}
                          for raw, sentid in zip(captions, sentids)]}


def tsv_line(cocoid: int, jpeg: io.BytesIO, boxes: np.ndarray) -> bytes:
    """A line of the archive; the features are computed from the pixels of the JPEG."""
    image = np.array(Image.open(jpeg))
    height, width, _ = image.shape
    columns = [str(number).encode() for number in (cocoid, width, height, len(boxes))]
    columns += [base64.b64encode(array.astype('<f4').tobytes())
                for array in (boxes, region_features(image, boxes))]
    return b'\t'.join(columns) + b'\r\n'


def complete_lines(path: str, cocoids: Sequence[int]) -> int:
    """The number of complete lines for `cocoids`, in order, in the unfinished file `path`; what follows them is
    cut off."""
    count = end = 0
    with open(path, 'rb+') as file:
        for cocoid, line in zip(cocoids, file):
            if not (line.startswith(b'%d\t' % cocoid) and line.endswith(b'\r\n')):
                break
            count, end = count + 1, end + len(line)
        file.truncate(end)
    return count


def tsv_images(splits: Sequence[str]) -> dict[str, list[ImageSplit]]:
    """The images in each of the four files of the archive."""
    groups: dict[str, list[ImageSplit]] = {name: [] for name in TSV}
    training = [image for image in enumerate(splits) if image[1] in TRAINING]
    groups['train 0'] = training[:(len(training) + 1) // 2]
    groups['train 1'] = training[(len(training) + 1) // 2:]
    for image in enumerate(splits):
        if image[1] in ('test', 'val'):
            groups[image[1]].append(image)
    return groups


def make_entry(seed: int, image: ImageSplit) -> dict[str, Any]:
    """The entry of an image in the split file."""
    return plan_image(*image, seed)[0]


def make_image(output_dir: str, seed: int, image: ImageSplit) -> bytes:
    """Paint an image and write its JPEG; returns its line of the archive."""
    entry, scene, _, boxes, rng = plan_image(*image, seed)
    jpeg = io.BytesIO()
    Image.fromarray(paint(scene, rng)).save(jpeg, 'JPEG', quality=90, subsampling=0)
    path = os.path.join(output_dir, 'images', entry['filepath'], entry['filename'])
    with replacing(path, durable=False) as file:
        file.write(jpeg.getvalue())
    return tsv_line(entry['cocoid'], jpeg, boxes)


def make_tsv(path: str, images: Sequence[ImageSplit], workers: Workers, display: Progress) -> None:
    """Write one file of the archive and the JPEGs of its images, continuing an unfinished file.

    `workers` apply `make_image`; `display` counts the images.
    """
    unfinished = path + UNFINISHED
    open(unfinished, 'ab').close()
    done = complete_lines(unfinished, [entry_of(*image, ())['cocoid'] for image in images])
    display.update(done)
    with open(unfinished, 'ab') as file:
        for line in workers.map(images[done:]):
            file.write(line)
            display.update()
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def make_demo_data(output_dir: str, num_images: int, seed: int, num_workers: int) -> None:
    """Make the data set in `output_dir`, continuing an interrupted run.

    The files do not depend on the number of processes, `num_workers`.  Raises `UsageError` where the folder holds
    something else, or the data set of other options.
    """
    archive = os.path.join(output_dir, ARCHIVE)
    folders = [output_dir, archive] + [os.path.join(output_dir, 'images', f'{name}2014')
                                       for name in ('train', 'val')]
    split_file = os.path.join(output_dir, 'dataset_coco.json')
    splits = splits_of(num_images, seed)
    options = {'num_images': num_images, 'seed': seed}
    with claimed(output_dir, 'scripts/make_demo_data.py', options, {}, folders):
        missing = {name: images for name, images in tsv_images(splits).items()
                   if not os.path.exists(os.path.join(archive, TSV[name]))}
        count = sum(map(len, missing.values()))
        with Workers(functools.partial(make_image, output_dir, seed), num_workers, count) as workers, \
                Progress(num_images, 'images', done=num_images - count) as display:
            for name, images in missing.items():
                make_tsv(os.path.join(archive, TSV[name]), images, workers, display)
        if not os.path.exists(split_file):
            with Workers(functools.partial(make_entry, seed), num_workers, num_images) as workers:
                images = list(enumerate(splits))
                entries = list(progress(workers.map(images), 'captions', total=num_images))
            write_json(split_file, {'images': entries, 'dataset': 'coco'})


def draw_figure(path: str, seed: int) -> None:
    """Draw a scene for each relation and two more, with captions, as the PNG `path`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    relations = [*SIDES, 'inside', 'between', *SIDES[:2]]
    figure = Figure(figsize=(13, 5.6), dpi=110)
    canvas = FigureCanvasAgg(figure)
    imgid = 0
    for place, relation in enumerate(relations):
        while True:
            entry, scene, fact, _, rng = plan_image(imgid, 'train', seed)
            imgid += 1
            if fact.relation == relation and len(scene.shapes) > 3:
                break
        axes = figure.add_axes((0.005 + place % 4 * 0.25, 0.615 - place // 4 * 0.5, 0.24, 0.375))
        axes.imshow(paint(scene, rng), interpolation='nearest')
        axes.set_axis_off()
        shortest = sorted((sentence['raw'] for sentence in entry['sentences']), key=len)[:3]
        axes.text(0.5, -0.03, '\n'.join(shortest), transform=axes.transAxes, ha='center', va='top',
                  fontsize=6.7, linespacing=1.4)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3])
    with replacing(path) as file:
        image.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(file, 'PNG', optimize=True)


def build_parser() -> Parser:
    """The command-line parser."""
    parser = Parser(description=(__doc__ or '') + """

Scenes of 3 to 6 coloured shapes, each with five captions that state where the largest shapes are
with respect to each other.  The files have the formats of the real data: OUT/dataset_coco.json
(Karpathy's splits), OUT/images/ (JPEGs with COCO's names) and OUT/bu_data/trainval/ (the archive's
four TSV files, about 150 kB an image).  The features do not encode positions, so only a model that
takes the positions of the regions can know that one shape is left of another.

  python scripts/make_demo_data.py --output_dir data/demo

To continue an interrupted run, give the same command again.""")
    parser.add_argument('--output_dir', help='the folder for the data set')
    parser.add_argument('--num_images', type=number_in(int, low=10), default=3200,
                        help='1/8 of the images are test, 1/24 val, 1/24 restval, the rest train; fewer for a quick '
                        'look, more for a larger model')
    parser.add_argument('--seed', type=number_in(int, low=0), default=0,
                        help='the same seed gives the same files, byte for byte')
    parser.add_argument('--num_workers', type=number_in(int, low=1), default=cpu_count(),
                        help='processes that paint images; they do not change the files')
    parser.add_argument('--figure', metavar='PNG',
                        help='draw some scenes with their captions as this picture; no data set is made unless '
                        '--output_dir is given too')
    return parser


def main() -> None:
    """Make the data set, the figure, or both."""
    args = build_parser().parse_args()
    if not args.output_dir and not args.figure:
        raise UsageError('give --output_dir, the folder for the data set, such as data/demo')
    if args.figure:
        draw_figure(args.figure, args.seed)
    if args.output_dir:
        make_demo_data(args.output_dir, args.num_images, args.seed, args.num_workers)


if __name__ == '__main__':
    run_command(main)
