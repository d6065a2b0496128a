"""Images -> ResNet features, where there is no bottom-up-attention archive."""

import os
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
os.environ.setdefault('GOMP_SPINCOUNT', '2000')  # before torch is loaded; why: see train.py

import numpy as np

from misc.cli import DataError, Parser, Progress, note, number_in, run_command
from misc.dataset.array_files import SUFFIX, write_array
from misc.dataset.networks import LAYOUTS, TWO_LAYOUTS, Network
from misc.disk.files import open_regular
from misc.pictures.images import read_rgb
from misc.pictures.listing import SplitPictures
from misc.prepare.broken import Broken
from misc.prepare.made import Files, Input, Parts, Sample, claimed, digest, finished, save
from misc.prepare.outdated import file_states, made_at, outdated, remove_outputs
from misc.prepare.workers import add_workers_flag, submit_ahead
from opts import device_name

KINDS = ('att', 'fc')


def extract(pixels: np.ndarray, network: Any, att_size: int) -> tuple[np.ndarray, np.ndarray]:
    """(fc (D,), att (att_size, att_size, D)), float32, of one image, uint8 (height, width, 3).

    network: of `misc.pictures.cnn`.  Raises `DataError` where the image is too small or too large for it, or its
    features are not finite.
    """
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


def convert_all(features_of: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
                images: Sequence[tuple[str, str]], folders: Mapping[str, str], threads: int, broken: Broken,
                display: Progress) -> None:
    """Write the features of `images`, [(id, path)]; those that cannot be read are added to `broken`.

    features_of: uint8 pixels (height, width, 3) -> (fc, att), see `extract`.

    While the device works on one image, threads read the next ones and compress the features of earlier ones.
    """
    pool = ThreadPoolExecutor(threads)
    writing: deque[Future] = deque()
    try:
        for (image_id, path), pixels in submit_ahead(lambda image: read_rgb(image[1]), images, pool, 2 * threads):
            try:
                fc, att = features_of(pixels.result())
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


def write(folders: Mapping[str, str], image_id: str, fc: np.ndarray, att: np.ndarray) -> None:
    """Write both arrays of one image."""
    write_array(folders['att'], image_id, 'att', att)
    write_array(folders['fc'], image_id, 'fc', fc)


def extracted(folders: Mapping[str, str]) -> set[str]:
    """The ids of the images that have both arrays."""
    return set.intersection(*(finished(folders[kind], SUFFIX[kind]) for kind in KINDS))


def describe(image_id: str, paths: Mapping[str, str]) -> Parts | None:
    """What is recorded of one image as an input; None for one that cannot be read."""
    try:
        read_rgb(paths[image_id])
        with open_regular(paths[image_id]) as file:
            return {'pixels': digest(file.read())}
    except (KeyError, DataError):
        return None


def arguments() -> Parser:
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
    parser.add_argument('--model', default='resnet101', choices=TWO_LAYOUTS, help='the network')
    parser.add_argument('--model_root', help=(
        "folder of the weights, MODEL.pth or as torchvision names them (default: data, data/imagenet_weights, "
        "then torchvision's own downloads)"))
    parser.add_argument('--cnn_layout', choices=LAYOUTS, help=(
        'where the network strides (default: caffe for MODEL.pth, as published, torchvision for files with its own '
        "names); give torchvision if MODEL.pth is a renamed file of torchvision's, else the features are wrong"))
    parser.add_argument('--att_size', type=number_in(int, low=1), default=14, help=(
        'the map is averaged to this many regions each way; 7 takes a quarter of the disk'))
    parser.add_argument('--device', type=device_name, default='auto', help=(
        'auto (CUDA where there is one), cpu, cuda or cuda:N'))
    add_workers_flag(parser)
    return parser


def main() -> int:
    """Extract the features that are missing; returns the exit status."""
    options = arguments().parse_args()
    broken = Broken()
    paths = SplitPictures(options.input_json, options.images_root, broken).paths
    import torch  # takes seconds to load; what can be refused without it was checked before

    from misc.machine import pick_device
    from misc.pictures import cnn, weights
    torch.backends.cudnn.allow_tf32 = False   # features are the same to 1e-5 on every device
    weight_file = weights.find_file(options.model, options.model_root)
    layout = options.cnn_layout or weights.layout_of(weight_file, options.model) or 'caffe'
    note(f'features of {options.model} in the layout of {layout}, weights {weight_file}')
    device = pick_device(options.device)
    base = os.path.normpath(options.output_dir)
    folders = {kind: f'{base}_{kind}' for kind in KINDS}
    decisive = {'model': options.model, 'cnn_layout': layout, 'att_size': options.att_size}
    inputs: dict[str, Input] = {'model_root': Files([weight_file]),
                                'images_root': Sample(paths, partial(describe, paths=paths), file_states(paths),
                                                      copied=True)}
    with claimed(base, 'prepro_feats.py', decisive, inputs, list(folders.values())) as record:
        remove_outputs({folders[kind]: SUFFIX[kind] for kind in KINDS},
                       outdated(record, inputs, extracted(folders), made_at(folders['att'], SUFFIX['att'])))
        save(base, record)
        done = extracted(folders)
        todo = [(image_id, path) for image_id, path in paths.items() if image_id not in done]
        with Progress(len(paths), 'features', done=len(paths) - len(todo)) as display:
            if todo:
                network = cnn.load_network(Network(options.model, layout=layout), weight_file, device)
                convert_all(partial(extract, network=network, att_size=options.att_size), todo, folders,
                            options.num_workers, broken, display)
    note(f'{len(extracted(folders) & set(paths))} of {len(paths)} images -> {", ".join(folders.values())}')
    return broken.finish('replace these files and run the command again; it extracts only what is missing',
                         f'{base}_broken.txt')


if __name__ == '__main__':
    run_command(main)
