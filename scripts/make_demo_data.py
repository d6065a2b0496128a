"""Makes the built-in data set: drawn scenes with captions and region features, in COCO's forms."""

import base64
import functools
import io
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np
from PIL import Image

from misc.cli import Parser, Progress, UsageError, number_in, progress, run_command
from misc.demo.captions import tokens_of, write_captions
from misc.demo.regions import region_boxes, region_features
from misc.demo.scenes import SIDES, draw_scene, paint
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
UNFINISHED = '.unfinished'  # an archive file in the making; its whole lines count when a run goes on
SHARES = {'test': 1 / 8, 'val': 1 / 24, 'restval': 1 / 24}


def splits_of(num_images, seed):
    """The split of each image: an eighth is test, 1/24 val, 1/24 restval, the rest train, mixed."""
    splits = [split for split, share in SHARES.items() for _ in range(max(1, round(share * num_images)))]
    splits += ['train'] * (num_images - len(splits))
    return [splits[place] for place in np.random.default_rng(seed).permutation(num_images)]


def plan_image(imgid, split, seed):
    """All that is decided about an image before it is drawn, from its number and the seed alone.

    Returns (entry, scene, fact, boxes, rng): its entry in the split file, what is drawn and told,
    the boxes of its regions, float32 (regions, 4), and the generator that goes on to draw it.
    """
    rng = np.random.default_rng([seed, imgid])
    scene, fact = draw_scene(rng)
    captions = write_captions(fact, rng)
    boxes = region_boxes(scene, rng)
    return entry_of(imgid, split, captions), scene, fact, boxes, rng


def entry_of(imgid, split, captions):
    """An image's entry in the split file, with the fields of Karpathy's."""
    folder = 'train2014' if split == 'train' else 'val2014'
    cocoid = 7 * imgid + 9  # so that an id mistaken for a position does not go unseen
    sentids = [len(captions) * imgid + place for place in range(len(captions))]
    return {'filepath': folder, 'filename': f'COCO_{folder}_{cocoid:012d}.jpg', 'imgid': imgid,
            'cocoid': cocoid, 'split': split, 'sentids': sentids,
            'sentences': [{'tokens': tokens_of(raw), 'raw': raw, 'imgid': imgid, 'sentid': sentid}
                          for raw, sentid in zip(captions, sentids)]}


def tsv_line(cocoid, jpeg, boxes):
    """One line of the archive: the features are those of the JPEG's pixels."""
    picture = np.array(Image.open(jpeg))
    height, width, _ = picture.shape
    columns = [str(number).encode() for number in (cocoid, width, height, len(boxes))]
    columns += [base64.b64encode(array.astype('<f4').tobytes())
                for array in (boxes, region_features(picture, boxes))]
    return b'\t'.join(columns) + b'\r\n'


def whole_lines(path, cocoids):
    """How many whole lines the unfinished file `path` holds for `cocoids`, in order; what follows
    them is cut off."""
    count = end = 0
    with open(path, 'rb+') as file:
        for cocoid, line in zip(cocoids, file):
            if not (line.startswith(b'%d\t' % cocoid) and line.endswith(b'\r\n')):
                break
            count, end = count + 1, end + len(line)
        file.truncate(end)
    return count


def tsv_images(splits):
    """The (imgid, split) that each of the four files of the archive holds."""
    groups = {name: [] for name in TSV}
    training = [image for image in enumerate(splits) if image[1] in ('train', 'restval')]
    groups['train 0'] = training[:(len(training) + 1) // 2]
    groups['train 1'] = training[(len(training) + 1) // 2:]
    for image in enumerate(splits):
        if image[1] in ('test', 'val'):
            groups[image[1]].append(image)
    return groups


def make_entry(seed, image):
    """The entry in the split file of `image`, (imgid, split)."""
    return plan_image(*image, seed)[0]


def make_image(output_dir, seed, image):
    """Draw `image`, (imgid, split), and write its JPEG; returns its line of the archive."""
    entry, scene, _, boxes, rng = plan_image(*image, seed)
    jpeg = io.BytesIO()
    Image.fromarray(paint(scene, rng)).save(jpeg, 'JPEG', quality=90, subsampling=0)
    path = os.path.join(output_dir, 'images', entry['filepath'], entry['filename'])
    with replacing(path, durable=False) as file:
        file.write(jpeg.getvalue())
    return tsv_line(entry['cocoid'], jpeg, boxes)


def make_tsv(path, images, workers, display):
    """Write one file of the archive and the JPEGs of its images, going on from where it stands.

    `workers` maps an image to its line; images are counted on `display`.
    """
    unfinished = path + UNFINISHED
    open(unfinished, 'ab').close()
    done = whole_lines(unfinished, [entry_of(*image, ())['cocoid'] for image in images])
    display.update(done)
    with open(unfinished, 'ab') as file:
        for line in workers.map(images[done:]):
            file.write(line)
            display.update()
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def make_demo_data(output_dir, num_images, seed, num_workers):
    """Make the data set in `output_dir`; what an interrupted run left is kept.

    The files do not depend on the number of processes, `num_workers`.  Raises `UsageError` where the folder
    holds something else, or the data set of other options.
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


def draw_figure(path, seed):
    """Draw a scene for each relation and two more, with captions, to the PNG `path`."""
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
        axes = figure.add_axes([0.005 + place % 4 * 0.25, 0.615 - place // 4 * 0.5, 0.24, 0.375])
        axes.imshow(paint(scene, rng), interpolation='nearest')
        axes.set_axis_off()
        shortest = sorted((sentence['raw'] for sentence in entry['sentences']), key=len)[:3]
        axes.text(0.5, -0.03, '\n'.join(shortest), transform=axes.transAxes, ha='center', va='top',
                  fontsize=6.7, linespacing=1.4)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3])
    with replacing(path) as file:
        picture.quantize(256, Image.Quantize.FASTOCTREE, dither=0).save(file, 'PNG', optimize=True)


def build_parser():
    """The parser of the command line."""
    parser = Parser(description=__doc__ + """

Scenes of 3 to 6 coloured shapes, with five captions each that say where the largest are to each
other.  Everything is written as the real data are: OUT/dataset_coco.json (Karpathy's splits),
OUT/images/ (JPEGs under COCO's names) and OUT/bu_data/trainval/ (the archive's four TSV files,
about 150 kB an image).  The features are blind to places, so that only a model that is told where
its regions lie can know that one shape is left of another.

  python scripts/make_demo_data.py --output_dir data/demo

An interrupted run goes on where it stopped when the same command is given again.""")
    parser.add_argument('--output_dir', help='folder to make the data set in')
    parser.add_argument('--num_images', type=number_in(int, low=10), default=3200,
                        help='images in all; 1/8 are test, 1/24 val, 1/24 restval, the rest train; fewer '
                        'for a quick look, more for a larger model')
    parser.add_argument('--seed', type=number_in(int, low=0), default=0,
                        help='the same seed gives the same files, byte for byte')
    parser.add_argument('--num_workers', type=number_in(int, low=1), default=cpu_count(),
                        help='processes to draw with; changes nothing but the time')
    parser.add_argument('--figure', metavar='PNG',
                        help='draw some scenes with their captions into this picture; no data set is made '
                        'unless --output_dir is given too')
    return parser


def main():
    """Make the data set, or the figure, or both."""
    args = build_parser().parse_args()
    if not args.output_dir and not args.figure:
        raise UsageError('give --output_dir, the folder to make the data set in (data/demo, say)')
    if args.figure:
        draw_figure(args.figure, args.seed)
    if args.output_dir:
        make_demo_data(args.output_dir, args.num_images, args.seed, args.num_workers)


if __name__ == '__main__':
    run_command(main)
