"""Every reader of the project, as its command calls it, beside a plain one (see tests/stress/plainly.py)."""

import argparse
import contextlib
import io
import math
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

import numpy as np
import torch

import eval as evaluation
import models
import opts
import prepro_areas
import train
from misc.cli import DataError
from misc.dataset import recipe
from misc.dataset.array_files import read_array, read_shape
from misc.dataset.corpus import Corpus
from misc.dataset.features import open_boxes
from misc.dataset.grids import checked_boxes, image_sizes
from misc.dataset.karpathy import read_images
from misc.dataset.packed import packed_sizes
from misc.disk import filesets
from misc.pictures import cnn, coco_list, images, listing
from misc.prepare import made
from misc.prepare.broken import Broken
from misc.run import folder as run_folder
from misc.run import histories
from misc.scoring import references, results
from misc.training.rewards import load_cider
from scripts import make_bu_data, prepro_ngrams
from tests.helpers import tiny
from tests.stress import plainly

# The samples lie in the working folder.
HERE = pathlib.Path()


@dataclass
class Reader:
    """`read` and `plain` give the same plain value of the file `path` of a `form` (see mutations.py), by two
    routes."""

    path: str
    form: str
    read: Callable
    plain: Callable


def same(one, other):
    """Whether two plain values are equal; arrays by shape and numbers, nan equal to nan, Namespaces as dicts."""
    one, other = (vars(value) if isinstance(value, argparse.Namespace) else value.detach().numpy()
                  if torch.is_tensor(value) else value for value in (one, other))
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(
            same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return isinstance(other, (list, tuple)) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        one, other = np.asarray(one), np.asarray(other)
        return one.shape == other.shape and np.array_equal(one, other, equal_nan=one.dtype.kind in 'fc')
    return one == other or isinstance(one, float) and isinstance(other, float) and one != one and other != other


# Arrays.

def corpus(*flags):
    """The corpus as train.py opens it, with `flags` after the usual ones."""
    flags = map(str, tiny.train_flags(HERE, HERE / 'made', *flags))
    options, _ = opts.parse(opts.train_parser(), list(flags))
    return Corpus(opts.sources(options))


def grids(path):
    whole = corpus()
    whole.open_for(('features', 'grids'))
    whole.check_files(whole.rows('train'))
    return whole.arrays(3)['grids']


def plain_grids(path):
    return expected(plainly.npy(path.read_bytes()), lambda array: array.shape == plain_shape('vec/103.npy'))


def plain_shape(name):
    """The shape that the array in a whole file has."""
    return plainly.npy((pathlib.Path('..') / 'whole' / name).read_bytes()).shape


def expected(value, is_right):
    """`value`, where it is as it should be."""
    if not is_right(value):
        raise ValueError('not as it should be')
    return value


def boxes(path):
    return checked_boxes(read_array(str(path)), str(path))


def plain_boxes(path):
    return expected(plainly.npy(path.read_bytes()), lambda array: array.ndim == 2 and array.shape[1] == 4
                    and len(array) and (array[:, :2] <= array[:, 2:]).all())


def packed_features(path):
    whole = corpus('--input_img_feat_dir', path)
    whole.open_for(('features',))
    whole.check_files(whole.rows('all'))
    reader = whole.regions.readers['att']
    return {image_id: reader.read(image_id) for image_id in reader.ids()}


def packed_boxes(path):
    source = open_boxes(str(path), 'input_dir')
    return {image_id: source.read(image_id) for image_id in source.ids()}


def labels(path):
    whole = corpus()
    whole.check_files(whole.rows('train') + whole.rows('val'))
    return [[[int(word) for word in row if word] for row in whole.captions(image)]
            for image in range(len(whole.images))]


def label_rows(path):
    return [[[int(word) for word in row if word] for row in whole]
            for whole in map(corpus().captions, range(len(tiny.SPLITS)))]


# JSON.

def talk(path):
    whole = corpus()
    return {'words': whole.vocabulary, 'images': list(zip(whole.ids, whole.splits)),
            'captions': [image.get('captions') for image in whole.images]}


def plain_talk(path):
    content = plainly.read_json(path)
    return {'words': content['ix_to_word'],
            'images': [(image['id'], image['split']) for image in content['images']],
            'captions': [image.get('captions') for image in content['images']]}


def split_images(path):
    broken = Broken()
    found = read_images(str(path), broken.add)
    if not all(str(path) in message for message in broken.messages):
        raise AssertionError(f'a message without the file: {broken.messages}')
    return [(image['id'], image['split'], [sentence['tokens'] for sentence in image['sentences']])
            for image in found]


def plain_id(value):
    """An image id as a whole number where it stands for one."""
    try:
        return int(value) if int(value) == float(value) else str(value)
    except (TypeError, ValueError, OverflowError):
        return str(value)


def plain_references(path):
    return {plain_id(image['id']): image['captions'] for image in plainly.read_json(path)['images']
            if image.get('captions')}


def plain_annotations(path):
    found = {}
    for annotation in plainly.read_json(path)['annotations']:
        found.setdefault(plain_id(annotation['image_id']), []).append(annotation['caption'])
    return found


def predictions(path):
    return list(results.load_predictions(str(path)).items())


def plain_predictions(path):
    return [(plain_id(entry['image_id']), entry['caption']) for entry in plainly.read_json(path)]


def printable(text):
    return ''.join(sign if sign.isprintable() else ' ' if sign.isspace() else '\ufffd' for sign in text)


def result(path):
    found, = results.read_all([str(path)])
    return {'overall': found.overall, 'captions': found.captions, 'CIDEr': found.image_scores.get('CIDEr', {})}


def plain_result(path):
    content = plainly.read_json(path)
    overall = {**content['overall'], **({'loss': content['loss']} if 'loss' in content else {})}
    rows = {plain_id(row['image_id']): row for row in content['images']}
    scores = {image: float(row['CIDEr']) for image, row in rows.items() if is_number(row.get('CIDEr'))}
    return {'overall': {printable(name): float(value) for name, value in overall.items() if is_number(value)},
            'captions': {image: printable(row['caption']) if isinstance(row.get('caption'), str) else None
                         for image, row in rows.items()},
            'CIDEr': scores if len(scores) == len(rows) else {}}


def is_number(value):
    return type(value) in (int, float) and math.isfinite(value)


def plain_pictures(path):
    return {plain_id(image['id']): image['file_name'] for image in plainly.read_json(path).get('images', [])
            if isinstance(image, dict) and isinstance(image.get('file_name'), str) and 'id' in image}


def listed(path):
    return coco_list.select_listed(str(path), ['100.jpg', '101.jpg'], 'pics', Broken())[0]


def plain_listed(path):
    return {image['id']: image['file_name'] for image in plainly.read_json(path)['images']
            if image['file_name'] in ('100.jpg', '101.jpg')}


def plain_vocabulary(path):
    words = plainly.read_json(path)['ix_to_word']
    return expected({word: index for index, word in words.items()}, lambda index: len(index) == len(words))


def plain_sizes(path):
    return {image_id: (float(width), float(height))
            for image_id, (width, height) in plainly.read_json(path).items()}


def own_pictures(path):
    pictures = listing.FolderPictures(str(HERE / 'pics'), str(HERE / 'mine'), Broken())
    pictures.changed()
    return {number: pictures.record[number]['file'] for number in pictures.files}


def plain_own_pictures(path):
    known = {entry['file']: int(number) for number, entry in plainly.read_json(path).items()}
    for name in ('1.png', '2.png'):
        known.setdefault(name, 1 + max(known.values(), default=0))
    return {known[name]: name for name in ('1.png', '2.png')}


def areas_record(path):
    folder, ids = str(HERE / 'made' / 'vec'), {'100'}
    source = made.Sample(ids, lambda item: {'boxes': 'a' * 24, 'size': [10.0, 20.0]} if item == '100' else None)
    with made.claimed(folder, 'prepro_areas.py', {'num_grids': 9}, {'input_dir': source}, [folder]) as record:
        prepro_areas.images_to_do(ids, {'100': (10.0, 20.0)}, folder, record, 'box')
    return {name: record[name] for name in ('made_by', 'options')}


def archive_record(path):
    folder = str(HERE / 'made' / 'bu')
    source = made.Files([str(HERE / 'packed.h5')])
    with made.claimed(folder, 'make_bu_data.py', {}, {'downloaded_feats': source}, [folder]) as record:
        return {name: record[name] for name in ('made_by', 'options')}


def plain_record(path):
    content = plainly.read_json(path)
    return {name: content[name] for name in ('made_by', 'options')}


def validations(path):
    return histories.read_validations(str(path))


def plain_validations(path):
    records = map(plainly.json.loads, path.read_text(encoding='utf-8', errors='replace').splitlines())
    return [(int(record['iteration']), {name: float(value) for name, value in record.items()
                                        if type(value) in (int, float)}) for record in records]


# Pickles.

def table(path):
    cider = load_cider(str(path))
    return {'images': cider.table.images, 'keys': cider.table.keys[1:], 'idf': cider.table.idf[1:]}


def plain_table(path):
    content = plainly.pickled(path)
    keys = {sum((int(word) + 1) << 16 * place for place, word in enumerate(reversed(ngram))): float(count)
            for ngram, count in content['document_frequency'].items()}
    images = float(content['ref_len'])
    return {'images': images, 'keys': np.array(sorted(keys), np.uint64),
            'idf': np.array([np.log(images) - np.log(max(1.0, keys[key])) for key in sorted(keys)])}


def history(path):
    found = histories.read_history(str(path), 'tiny')
    return {'losses': found.losses, 'rates': found.rates, 'scores': found.scores}


def plain_history(path):
    content = plainly.pickled(path)
    numbers = {name: {int(iteration): float(value) for iteration, value in content.get(key, {}).items()}
               for name, key in (('losses', 'loss_history'), ('rates', 'lr_history'))}
    scores = {int(iteration): {name: float(value) for name, value in row.items()
                               if isinstance(value, (int, float)) and not isinstance(value, bool)}
              for iteration, row in content.get('val_result_history', {}).items()}
    return {**numbers, 'scores': scores}


def resumed(path):
    """The training that train.py would go on with, one step further."""
    flags = tiny.train_flags(HERE, HERE / 'run', '--start_from', HERE / 'run', '--max_epochs', 9,
                             '--losses_log_every', 10 ** 9)
    said = io.StringIO()
    with mock.patch.object(sys, 'argv', ['train.py', *map(str, flags)]), contextlib.redirect_stderr(said):
        options, given = opts.train_options()
        training = train.build(options, given, run_folder.RunFolder(options.checkpoint_path, options.id))
    if 'start from zero' in said.getvalue():
        training.batches.close()
        raise DataError(said.getvalue())
    weights = {name: value.clone() for name, value in training.model.state_dict().items()}
    moments = [{name: value.clone() for name, value in moments.items()}
               for moments in training.updater.optimiser.state.values()]
    where = {'iter': training.state.iteration, 'epoch': training.batches.epoch, 'best': training.state.best.score,
             'losses': training.state.histories['loss_history']}
    try:
        training.model.train()
        take_step(training)
        with evaluated(), mock.patch.object(filesets, 'save_set'):
            training.write(training.batches.state(), [run_folder.random_state(training.device)], True)
    finally:
        training.batches.close()
    return {'weights': weights, 'moments': moments, 'where': where}


def take_step(training):
    """One step; of weights as large as can be it is not finite, which the training says by itself."""
    try:
        train.train_step(training, training.phases.of(training.batches.next_epoch))
    except DataError as error:
        if 'is not finite' not in str(error):
            raise


@contextlib.contextmanager
def evaluated():
    """What is said of a step, not shown."""
    with contextlib.redirect_stdout(open(os.devnull, 'w')):
        yield


def part(read, name):
    return lambda path: read(path)[name]


def plain_place(path):
    infos = plainly.pickled(path)
    return {'iter': infos['iter'], 'epoch': infos.get('loader', {'epoch': 0})['epoch'],
            'best': infos.get('best_val_score'),
            'losses': (infos.get('histories') or {}).get('loss_history', {})}


def plain_moments(path):
    """The moments of each parameter; one that had no gradient yet has none in a file, which is as good as 0."""
    state = plainly.tensors(path)['state']
    whole = plainly.tensors(pathlib.Path('..') / 'whole' / 'run' / 'optimizer.pth')['state']
    return [state.get(number, {name: value * 0 for name, value in moments.items()})
            for number, moments in whole.items()]


def evaluated_weights(path):
    """The weights that eval.py would caption with."""
    with mock.patch.object(sys, 'argv', ['eval.py', *map(str, tiny.eval_flags(HERE, HERE / 'run'))]):
        return evaluation.set_up(contextlib.ExitStack()).model.state_dict()


def evaluated_words(path):
    with mock.patch.object(sys, 'argv', ['eval.py', *map(str, tiny.eval_flags(HERE, HERE / 'run'))]):
        return evaluation.set_up(contextlib.ExitStack()).corpus.vocabulary


def plain_words(path):
    return {str(index): word for index, word in plainly.pickled(path)['vocab'].items()}


def legacy_layout(path):
    infos = run_folder.read_infos(str(HERE / 'run' / 'infos_tiny.pkl'))
    options, given = opts.parse(opts.train_parser(), [])
    options = opts.with_model_options(options, given, infos['opt'], 'infos_tiny.pkl')
    model = models.build(options, len(infos['vocab']) + 1, infos['opt']['seq_length'])
    run_folder.load_weights(model, run_folder.read_tensors(str(path)), str(path))
    return model.state_dict()


def old_run(path):
    """The model of older code, in its own names, and where its training stood."""
    run = run_folder.read_run(str(HERE / 'old' / 'model.pth'), str(HERE / 'old' / 'infos.pkl'))
    options, given = opts.parse(opts.train_parser(), ['--input_grid_vec_dir', 'vec'])
    options = opts.with_model_options(options, given, run.infos['opt'], run.infos_path)
    options = opts.checked_model(options, given, run.infos_path)
    model = models.build(options, len(run.infos['vocab']) + 1, run.infos['opt']['seq_length'])
    run_folder.load_run_weights(model, run)
    return {'weights': run.names.theirs(model.state_dict()), 'words': run.infos['vocab'],
            'iter': run.infos['iter'], 'epoch': run.infos['epoch']}


def plain_old_run(path):
    infos = plainly.pickled(HERE / 'old' / 'infos.pkl')
    places = [value if isinstance(value, int) and value > 0 else 0 for value in (infos.get('iter'),
                                                                                infos.get('epoch'))]
    weights = plainly.tensors(HERE / 'old' / 'model.pth')
    return {'weights': {name: value for name, value in weights.items()
                        if not name.endswith(('.rows', '.cols', '.pe'))},
            'words': {str(index): word for index, word in infos['vocab'].items()},
            'iter': int(places[0]), 'epoch': int(places[1])}


def journal(path):
    return sorted(run_folder.find_run(str(HERE / 'saved'), 'tiny').infos['vocab'])


class Layers(torch.nn.Module):
    """A network with the names of a ResNet's layers."""

    def __init__(self):
        super().__init__()
        for place in (1, 2, 3):
            setattr(self, f'layer{place}', torch.nn.Linear(place, 3, bias=False))


def resnet(path):
    return dict(cnn.fitting_weights(Layers(), str(path)))


def plain_resnet(path):
    with np.errstate(all='ignore'):
        return {name: value.astype(np.float32) for name, value in plainly.tensors(path).items()
                if not name.startswith('fc.')}


# The rest.

def archive(path):
    with tempfile.TemporaryDirectory() as folder:
        flags = ['--downloaded_feats', str(path.parent), '--output_dir', f'{folder}/bu', '--num_workers', '1']
        with mock.patch.object(sys, 'argv', ['make_bu_data.py', *flags]):
            make_bu_data.main()
        sizes = image_sizes(f'{folder}/bu_box')
        return {name[:-4]: (sizes[name[:-4]], read_array(f'{folder}/bu_box/{name}'),
                            read_array(f'{folder}/bu_att/{name[:-4]}.npz'))
                for name in os.listdir(f'{folder}/bu_box')}


def steps(path):
    return histories.read_steps(str(path))


def plain_steps(path):
    lines = path.read_text(encoding='utf-8', errors='replace').split('\n')[:-1]  # an unfinished line does not count
    records = map(plainly.json.loads, lines)
    return [(int(record['iteration']), {name: float(value) for name, value in record.items()
                                        if type(value) in (int, float)}) for record in records]


def shape_of_picture(path):
    return images.read_size(str(path))


def plain_shape_of_picture(path):
    with plainly.Image.open(path) as image:
        return image.size


def picture(path):
    return images.read_rgb(str(path))


def upright(path):
    return images.read_upright(str(path), 10 ** 8)[0]


def at(function, *more):
    """`function` of the path as a string."""
    return lambda path: function(str(path), *more)


READERS = {
    'features npz': Reader('att/103.npz', 'npz', at(read_array), plainly.npz),
    'shape of npz': Reader('att/103.npz', 'npz', at(read_shape), plainly.npz_shape),
    'boxes npy': Reader('box/103.npy', 'npy', boxes, plain_boxes),
    'grid vectors': Reader('vec/103.npy', 'npy', grids, plain_grids),
    'packed features': Reader('packed.h5', 'hdf5', packed_features, lambda path: plainly.packed(path, 'att')),
    'packed boxes': Reader('packed.h5', 'hdf5', packed_boxes, lambda path: plainly.packed(path, 'box')),
    'packed sizes': Reader('packed.h5', 'hdf5', at(packed_sizes), plainly.packed_sizes),
    'compressed features': Reader('chunked.h5', 'hdf5', packed_features, lambda path: plainly.packed(path, 'att')),
    'labels': Reader('talk_label.h5', 'hdf5', label_rows, plainly.labels),
    'labels file': Reader('talk.json', 'json', talk, plain_talk),
    'split file': Reader('split.json', 'json', split_images, plainly.split_images),
    'references': Reader('talk.json', 'json', at(references.load_references), plain_references),
    'annotations': Reader('coco.json', 'json', at(references.coco_references), plain_annotations),
    'names of pictures': Reader('coco.json', 'json', lambda path: references.image_files(None, str(path)),
                                plain_pictures),
    'list of pictures': Reader('coco.json', 'json', listed, plain_listed),
    'predictions': Reader('predictions.json', 'json', predictions, plain_predictions),
    'results': Reader('results.json', 'json', result, plain_result),
    'vocabulary': Reader('talk.json', 'json', at(prepro_ngrams.read_vocabulary), plain_vocabulary),
    'sizes': Reader('box_sizes.json', 'json', lambda path: image_sizes('box'), plain_sizes),
    'way of regions': Reader('mine_att_regions.json', 'json', lambda path: recipe.read_recipe('mine_att'),
                             plainly.read_json),
    'own pictures': Reader('mine_images.json', 'json', own_pictures, plain_own_pictures),
    'record of areas': Reader('made/vec_made.json', 'json', areas_record, plain_record),
    'record of archive': Reader('made/bu_made.json', 'json', archive_record, plain_record),
    'validations': Reader('run/validations.jsonl', 'json lines', validations, plain_validations),
    'n-gram table': Reader('talk-idxs.p', 'pickle', table, plain_table),
    'histories': Reader('run/histories_tiny.pkl', 'pickle', history, plain_history),
    'infos to go on from': Reader('run/infos_tiny.pkl', 'pickle', part(resumed, 'where'), plain_place),
    'infos to caption with': Reader('run/infos_tiny.pkl', 'pickle', evaluated_words, plain_words),
    'infos of older code': Reader('old/infos.pkl', 'pickle', old_run, plain_old_run),
    'weights to go on from': Reader('run/model.pth', 'tensors', part(resumed, 'weights'), plainly.tensors),
    'weights to caption with': Reader('run/model.pth', 'tensors', evaluated_weights, plainly.tensors),
    'weights of older code': Reader('old/model.pth', 'tensors', old_run, plain_old_run),
    'weights, older layout': Reader('legacy.pth', 'tensors', legacy_layout, plainly.tensors),
    'weights of a ResNet': Reader('resnet.pth', 'tensors', resnet, plain_resnet),
    'moments': Reader('run/optimizer.pth', 'tensors', part(resumed, 'moments'), plain_moments),
    'list of a save': Reader('saved/replacing.json', 'json', journal, lambda path: sorted(
        plain_words(HERE / 'run' / 'infos_tiny.pkl'))),
    'steps': Reader('run/steps.jsonl', 'json lines', steps, plain_steps),
    'archive': Reader('archive/small.tsv', 'tsv', archive, plainly.archive),
    'jpeg': Reader('plain.jpg', 'picture', picture, plainly.picture),
    'png': Reader('plain.png', 'picture', picture, plainly.picture),
    'gif': Reader('palette.gif', 'picture', picture, plainly.picture),
    'webp': Reader('plain.webp', 'picture', picture, plainly.picture),
    'tiff': Reader('plain.tif', 'picture', picture, plainly.picture),
    'turned jpeg': Reader('turned.jpg', 'picture', upright, lambda path: plainly.picture(path, True)),
    'size of a jpeg': Reader('plain.jpg', 'picture', shape_of_picture, plain_shape_of_picture),
}
