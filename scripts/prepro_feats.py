"""Step 3: images -> ResNet features, where there is no bottom-up-attention archive."""

import os
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np

from misc.cli import DataError, Parser, Progress, UsageError, note, number_in, run_command
from misc.dataset.array_files import SUFFIX, write_array
from misc.dataset.karpathy import read_images
from misc.dataset.networks import LAYOUTS, NAMES
from misc.pictures.images import read_rgb
from misc.prepare.broken import Broken
from misc.prepare.made import Files, Sample, claimed, digest, finished
from misc.prepare.workers import add_workers_flag, submit_ahead
from opts import device_name

KINDS = ('att', 'fc')


def extract(network, pixels, att_size):
    """(fc, att) of one image (uint8 (height, width, 3)); `DataError` where the network cannot take it."""
    import torch

    from misc.pictures.cnn import TooSmall, image_features
    try:
        fc, att = image_features(network, pixels, att_size)
    except TooSmall as error:
        raise DataError(str(error)) from None
    except torch.OutOfMemoryError:
        raise DataError(f'{pixels.shape[1]} x {pixels.shape[0]} pixels do not fit into the '
                        "device's memory; try --device cpu") from None
    if not np.isfinite(att).all():
        raise DataError('its features are not finite')
    return fc, att


def convert_all(network, images, folders, att_size, threads, broken, display):
    """Write the features of `images`, [(id, path)]; unreadable ones go to `broken`.

    The device works on one image while threads read the next ones and pack the ones before.
    """
    pool = ThreadPoolExecutor(threads)
    writing = deque()
    try:
        for (image_id, path), pixels in submit_ahead(lambda image: read_rgb(image[1]), images, pool, 2 * threads):
            try:
                fc, att = extract(network, pixels.result(), att_size)
            except DataError as error:
                broken.add(error if path in str(error) else f'{path}: {error}')
            else:
                writing.append(pool.submit(write, folders, image_id, fc, att))
                if len(writing) > 2 * threads:
                    writing.popleft().result()
            display.update()
        for future in writing:
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def write(folders, image_id, fc, att):
    """Write both arrays of one image."""
    write_array(folders['att'], image_id, 'att', att)
    write_array(folders['fc'], image_id, 'fc', fc)


def extracted(folders):
    """The ids (as strings) that have both arrays."""
    return set.intersection(*(finished(folders[kind], SUFFIX[kind]) for kind in KINDS))


def describe(image_id, paths):
    """What the record of this command says about one image; None for an unreadable one."""
    try:
        read_rgb(paths[image_id])
        with open(paths[image_id], 'rb') as file:
            return {'pixels': digest(file.read())}
    except (KeyError, DataError):
        return None


def image_paths(opt, broken):
    """{id as a string: path} of the images of the split file, in its order."""
    if not os.path.isdir(opt.images_root):
        raise UsageError(f'--images_root: there is no folder {opt.images_root}')
    paths = {}
    for image in read_images(opt.input_json, broken.add, captions=False):
        if image['file_path']:
            paths[str(image['id'])] = os.path.join(opt.images_root, image['file_path'])
        else:
            broken.add(f'{opt.input_json}: image {image["id"]} has no filename')
    if not any(os.path.exists(path) for path in paths.values()):
        example = next(iter(paths.values()), 'val2014/….jpg')
        raise DataError(f'--images_root: {opt.images_root} holds none of the images of {opt.input_json}, '
                        f'such as {example};\nname the folder that holds train2014/ and val2014/')
    return paths


def arguments():
    """The parser of this command."""
    parser = Parser(description=(
        'Runs a ResNet over the images: OUTPUT_DIR_att/ID.npz (att_size x att_size x 2048) and\n'
        'OUTPUT_DIR_fc/ID.npy (its mean, 2048).  An alternative to make_bu_data.py, without boxes.\n\n'
        'python scripts/prepro_feats.py --input_json data/dataset_coco.json \\\n'
        '    --output_dir data/cocotalk --images_root IMAGE_ROOT'))
    parser.add_argument('--input_json', required=True, help="Karpathy's split file")
    parser.add_argument('--output_dir', required=True, help='beginning of the names of the folders')
    parser.add_argument('--images_root', required=True, help=(
        'folder of the images: it holds train2014/ and val2014/'))
    parser.add_argument('--model', default='resnet101', choices=NAMES, help='the network')
    parser.add_argument('--model_root', help=(
        "folder of the weights, MODEL.pth or as torchvision names them (default: data, data/imagenet_weights, "
        "then torchvision's own downloads)"))
    parser.add_argument('--cnn_layout', choices=LAYOUTS, help=(
        'where the network strides (default: caffe for MODEL.pth, as published, torchvision for files as it names '
        'them); take torchvision if it was you who called its weights MODEL.pth, else features are wrong'))
    parser.add_argument('--att_size', type=number_in(int, low=1), default=14, help=(
        'the map is averaged to this many regions each way; 7 takes a quarter of the disk'))
    parser.add_argument('--device', type=device_name, default='auto', help=(
        'auto (CUDA where there is one), cpu, cuda or cuda:N'))
    add_workers_flag(parser)
    return parser


def main():
    """Extract what is not there yet."""
    opt = arguments().parse_args()
    broken = Broken()
    paths = image_paths(opt, broken)
    import torch  # takes seconds to load: first what can be refused without it

    from misc.machine import pick_device
    from misc.pictures import cnn, weights
    torch.backends.cudnn.allow_tf32 = False   # features are the same to 1e-5 wherever they are computed
    path = weights.find_file(opt.model, opt.model_root)
    layout = opt.cnn_layout or weights.layout_of(path, opt.model) or 'caffe'
    note(f'features of {opt.model} in the layout of {layout}, weights {path}')
    device = pick_device(opt.device)
    base = os.path.normpath(opt.output_dir)
    folders = {kind: f'{base}_{kind}' for kind in KINDS}
    options = {'model': opt.model, 'cnn_layout': layout, 'att_size': opt.att_size}
    inputs = {'model_root': Files([path]),
              'images_root': Sample(paths, partial(describe, paths=paths))}
    with claimed(base, 'prepro_feats.py', options, inputs, list(folders.values())):
        done = extracted(folders)
        todo = [(image_id, path) for image_id, path in paths.items() if image_id not in done]
        with Progress(len(paths), 'features', done=len(paths) - len(todo)) as display:
            if todo:
                network = cnn.load_network(opt.model, path, layout, device)
                convert_all(network, todo, folders, opt.att_size, opt.num_workers, broken, display)
    note(f'{len(extracted(folders) & set(paths))} of {len(paths)} images -> {", ".join(folders.values())}')
    return broken.finish('put whole images there and run the command again; it extracts only what is missing')


if __name__ == '__main__':
    run_command(main)
