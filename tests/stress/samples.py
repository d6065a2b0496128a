"""Small, whole samples of every file format that the project reads, in one folder."""

import argparse
import contextlib
import io
import itertools
import json
import pathlib
import pickle
import shutil
import time
from collections.abc import Iterator
from unittest import mock

import h5py
import torch

import train
from misc.dataset.features import open_reader
from misc.dataset.packing import write_packed
from misc.disk import pickles
from misc.prepare import made
from tests.helpers import legacy_code, networks, preparing, tiny
from tests.stress.damage import older_layout

IDS = range(100, 116)
RECIPE = {'detector': 'grid', 'grid_size': 7, 'longest_side': 640, 'cnn_model': 'resnet101',
       'cnn_layout': 'torchvision', 'cnn_weights': 'random 3'}


def write_samples(root: pathlib.Path) -> None:
    """Write all samples under `root`."""
    tiny.write_corpus(root)
    write_packed_files(root)
    write_jsons(root)
    write_pictures(root)
    table = pickles.load(root / 'talk-idxs.p')
    pickles.dump(root / 'talk-idxs.p', {**table, 'document_frequency': dict(sorted(
        table['document_frequency'].items()))})  # in an order that does not depend on hashes
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), \
            made_up_clock(), contextlib.chdir(root):  # so that paths in the files do not depend on `root`
        tiny.run(train, tiny.train_flags(pathlib.Path(), 'run', '--max_epochs', 1))
    events, = (root / 'run').glob('events.out.tfevents.*')
    events.rename(root / 'run' / 'events.out.tfevents.1')
    shutil.copytree(root / 'run', root / 'saved')
    (root / 'saved' / 'replacing.json').write_text('["model.pth", "infos_tiny.pkl"]')
    write_legacy_run(root)
    write_weights(root)
    (root / 'archive').mkdir()
    (root / 'archive' / 'small.tsv').write_bytes(b''.join(
        preparing.random_line(image_id, regions=1) for image_id in (7, 8)))


@contextlib.contextmanager
def made_up_clock() -> Iterator[None]:
    """A clock that gives the same times in every run, so the files are the same."""
    seconds = itertools.count()
    with mock.patch.object(time, 'monotonic', lambda: float(next(seconds))), \
            mock.patch.object(time, 'time', lambda: 1e9):
        yield


def write_packed_files(root: pathlib.Path) -> None:
    """Features and boxes in a packed file; features in one with compressed chunks."""
    arrays = {kind: {image_id: open_reader(str(root / folder), kind, '').read(image_id)
                     for image_id in map(str, IDS)} for kind, folder in (('att', 'att'), ('box', 'box'))}
    sizes = json.loads((root / 'box_sizes.json').read_text())
    write_packed(root / 'packed.h5', arrays, sizes)
    with h5py.File(root / 'packed.h5') as whole, h5py.File(root / 'chunked.h5', 'w') as chunked:
        for name in ('ids', 'att/offsets'):
            chunked[name] = whole[name][:]
        chunked.create_dataset('att/rows', data=whole['att/rows'][:], chunks=(8, 4), compression='gzip')


def write_jsons(root: pathlib.Path) -> None:
    """A split file, annotations, captions, results, and records that commands leave beside their outputs."""
    contents = {
        'split.json': {'dataset': 'coco', 'images': [
            preparing.record(image_id, 'train', 'a red dog', 'the größe cat') for image_id in (1, 2, 3)]},
        'coco.json': {
            'images': [{'id': image_id, 'file_name': f'{image_id}.jpg', 'width': 9, 'height': 9}
                       for image_id in (100, 101, 102)],
            'annotations': [{'id': number, 'image_id': 100 + number // 2, 'caption': 'a red dog'}
                            for number in range(6)]},
        'predictions.json': [{'image_id': image_id, 'caption': 'a dog'} for image_id in (100, 101, 102)],
        'results.json': {
            'overall': {'CIDEr': 1.5, 'Bleu_4': 0.25}, 'loss': 2.5, 'options': {'split': 'test', 'id': 'a'},
            'images': [{'image_id': image_id, 'caption': 'a dog', 'CIDEr': 1.0} for image_id in (100, 101)]},
        'mine_att_regions.json': RECIPE,
        'mine_images.json': {
            str(number): {'file': f'{number}.png', 'looks': [10, 1, 2, 3], 'content': 'a' * 24}
            for number in (1, 2)},
        'made/vec_made.json': {
            'made_by': 'prepro_areas.py', 'options': {'num_grids': 9}, 'by_extent': [],
            'inputs': {'input_dir': {'100': {'boxes': 'a' * 24, 'size': [10.0, 20.0]}}}},
        'made/bu_made.json': {
            'made_by': 'make_bu_data.py', 'options': {},
            'inputs': {'downloaded_feats': {'packed.h5': made.describe_file(root / 'packed.h5')}}},
    }
    for folder in ('made/vec', 'made/bu', 'mine'):
        (root / folder).mkdir(parents=True)
        (root / folder / '100.npy').write_bytes(b'there')
    for name, content in contents.items():
        (root / name).write_text(json.dumps(content, ensure_ascii=False), encoding='utf-8')


def write_pictures(root: pathlib.Path) -> None:
    """Pictures in several formats, one with an orientation in its EXIF data."""
    image = networks.photo(1)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(root / 'plain.jpg', quality=90)
    image.save(root / 'turned.jpg', quality=90, exif=exif)
    image.save(root / 'plain.png')
    image.convert('P').save(root / 'palette.gif')
    image.save(root / 'plain.webp')
    image.save(root / 'plain.tif', compression='tiff_lzw')
    (root / 'pics').mkdir()
    for number in (1, 2):
        image.save(root / 'pics' / f'{number}.png')


def write_legacy_run(root: pathlib.Path) -> None:
    """A legacy checkpoint."""
    folder = root / 'old'
    folder.mkdir()
    options = argparse.Namespace(
        caption_model='transformer', num_layers=2, input_encoding_size=16, vocab_size=10, seq_length=6, id='old',
        ff_size=20, heads=2, img_feat_size=12, num_grids=9, enc_pos_embedding=1, enc_pos_type='gxg',
        cross_attn='xlinear', norm_img_feat=0, norm_box_feat=0, use_grid=True, dropout=0.2, norm='layer',
        ff_activation='RELU', rnn_size=20)
    torch.save(dict(legacy_code.spatial_weights()), folder / 'model.pth')
    (folder / 'infos.pkl').write_bytes(pickle.dumps(
        {'opt': options, 'vocab': {str(index): f'word{index}' for index in range(1, 11)}, 'iter': 7, 'epoch': 2,
         'best_val_score': 0.5, 'split_ix': {'train': [3, 1]}}, protocol=2))


def write_weights(root: pathlib.Path) -> None:
    """Weights of the run in the layout of PyTorch before 1.6, and weights of a small ResNet."""
    weights = torch.load(root / 'run' / 'model.pth', weights_only=True)
    (root / 'legacy.pth').write_bytes(older_layout(weights))
    generator = torch.Generator().manual_seed(0)
    torch.save({f'layer{place}.weight': torch.randn(3, place, generator=generator) for place in (1, 2, 3)},
               root / 'resnet.pth')
