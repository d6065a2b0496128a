"""The project's readers as its commands call them.

Each reads a file among the samples of samples.py, in the current folder, and returns plain values.
"""

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import eval as evaluation
import models
import opts
import prepro_areas
import train
from misc.cli import DataError
from misc.dataset.array_files import read_array
from misc.dataset.corpus import Corpus
from misc.dataset.features import open_boxes
from misc.dataset.grids import checked_boxes, image_sizes
from misc.dataset.karpathy import read_images
from misc.disk import filesets
from misc.pictures import cnn, coco_list, images, listing
from misc.prepare import made
from misc.prepare.broken import Broken
from misc.run import folder as run_folder
from misc.run import histories
from misc.scoring import results
from misc.training.rewards import load_cider
from scripts import make_bu_data
from tests.helpers import tiny

HERE = Path()


def corpus(*flags: object) -> Corpus:
    """The corpus as train.py opens it, with `flags` after the usual ones."""
    words = list(map(str, tiny.train_flags(HERE, HERE / 'made', *flags)))
    options, _ = opts.parse(opts.train_parser(), words)
    return Corpus(opts.sources(options))


def grids(path: Path) -> Any:
    whole = corpus()
    whole.open_for(('features', 'grids'))
    whole.check_files(whole.rows('train'))
    return whole.arrays(3)['grids']


def boxes(path: Path) -> Any:
    return checked_boxes(read_array(str(path)), str(path))


def packed_features(path: Path) -> Any:
    whole = corpus('--input_img_feat_dir', path)
    whole.open_for(('features',))
    whole.check_files(whole.rows('all'))
    reader = whole.regions.readers['att']
    return {image_id: reader.read(image_id) for image_id in reader.ids()}


def packed_boxes(path: Path) -> Any:
    source = open_boxes(str(path), 'input_dir')
    return {image_id: source.read(image_id) for image_id in source.ids()}


def labels(path: Path) -> Any:
    return [[[int(word) for word in row if word] for row in whole]
            for whole in map(corpus().captions, range(len(tiny.SPLITS)))]


def talk(path: Path) -> Any:
    whole = corpus()
    return {'words': whole.vocabulary, 'images': list(zip(whole.ids, whole.splits)),
            'captions': [image.get('captions') for image in whole.images]}


def split_images(path: Path) -> Any:
    broken = Broken()
    found = read_images(str(path), broken.add)
    if not all(str(path) in message for message in broken.messages):
        raise AssertionError(f'a message without the file: {broken.messages}')
    return [(image['id'], image['split'], [sentence['tokens'] for sentence in image['sentences']])
            for image in found]


def predictions(path: Path) -> Any:
    return list(results.load_predictions(str(path)).items())


def results_file(path: Path) -> Any:
    found, = results.read_all([str(path)])
    return {'overall': found.overall, 'captions': found.captions, 'CIDEr': found.image_scores.get('CIDEr', {})}


def listed_pictures(path: Path) -> Any:
    return coco_list.select_listed(str(path), ['100.jpg', '101.jpg'], 'pics', Broken())[0]


def own_pictures(path: Path) -> Any:
    pictures = listing.FolderPictures(str(HERE / 'pics'), str(HERE / 'mine'), Broken())
    pictures.changed()
    return {number: pictures.record[number]['file'] for number in pictures.files}


def areas_record(path: Path) -> Any:
    folder, ids = str(HERE / 'made' / 'vec'), {'100'}
    source = made.Sample(ids, lambda item: {'boxes': 'a' * 24, 'size': [10.0, 20.0]} if item == '100' else None, {})
    with made.claimed(folder, 'prepro_areas.py', {'num_grids': 9}, {'input_dir': source}, [folder]) as record:
        prepro_areas.images_to_do(ids, {'100': (10.0, 20.0)}, folder, record, 'box', {'input_dir': source})
    return {name: record[name] for name in ('made_by', 'options')}


def archive_record(path: Path) -> Any:
    folder = str(HERE / 'made' / 'bu')
    source = made.Files([str(HERE / 'packed.h5')])
    with made.claimed(folder, 'make_bu_data.py', {}, {'downloaded_feats': source}, [folder]) as record:
        return {name: record[name] for name in ('made_by', 'options')}


def validations(path: Path) -> Any:
    return histories.read_validations(str(path))


def ngram_table(path: Path) -> Any:
    cider = load_cider(str(path))
    return {'images': cider.table.images, 'keys': cider.table.keys[1:], 'idf': cider.table.idf[1:]}


def history(path: Path) -> Any:
    found = histories.read_history(str(path), 'tiny')
    return {'losses': found.losses, 'rates': found.rates, 'scores': found.scores}


def resumed(path: Path) -> Any:
    """Weights, moments and state of the training that train.py resumes; it also has to make one more step."""
    flags = tiny.train_flags(HERE, HERE / 'run', '--start_from', HERE / 'run', '--max_epochs', 9,
                             '--losses_log_every', 10 ** 9)
    messages = io.StringIO()
    with mock.patch.object(train, 'train', lambda training: training), contextlib.redirect_stderr(messages):
        training = tiny.run(train, flags)
    if 'start from zero' in messages.getvalue():
        training.batches.close()
        raise DataError(messages.getvalue())
    weights = {name: value.clone() for name, value in training.model.state_dict().items()}
    moments = [{name: value.clone() for name, value in moments.items()}
               for moments in training.updater.optimiser.state.values()]
    where = {'iter': training.state.iteration, 'epoch': training.batches.epoch, 'best': training.state.best.score,
             'losses': training.state.histories['loss_history']}
    try:
        training.model.train()
        take_step(training)
        with silenced(), mock.patch.object(filesets, 'save_set'):
            training.write(training.batches.state(), [run_folder.random_state(training.device)], True, None)
    finally:
        training.batches.close()
    return {'weights': weights, 'moments': moments, 'where': where}


def take_step(training: train.Training) -> None:
    """Make one step; damaged weights may be so large that it is not finite, which is a proper error."""
    try:
        train.train_step(training, training.phases.of(training.batches.next_epoch))
    except DataError as error:
        if 'is not finite' not in str(error):
            raise


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Discard stdout."""
    with open(os.devnull, 'w', encoding='utf-8') as nothing, contextlib.redirect_stdout(nothing):
        yield


def captioning_weights(path: Path) -> Any:
    """The weights with which eval.py captions."""
    with mock.patch.object(sys, 'argv', ['eval.py', *map(str, tiny.eval_flags(HERE, HERE / 'run'))]):
        return evaluation.set_up(contextlib.ExitStack()).model.state_dict()


def captioning_words(path: Path) -> Any:
    """The vocabulary with which eval.py captions."""
    with mock.patch.object(sys, 'argv', ['eval.py', *map(str, tiny.eval_flags(HERE, HERE / 'run'))]):
        return evaluation.set_up(contextlib.ExitStack()).corpus.vocabulary


def old_layout(path: Path) -> Any:
    """Weights in the layout of PyTorch before 1.6."""
    infos = run_folder.read_infos(str(HERE / 'run' / 'infos_tiny.pkl'))
    options, given = opts.parse(opts.train_parser(), [])
    options = opts.with_model_options(options, given, infos['opt'], 'infos_tiny.pkl')
    model = models.build(options, len(infos['vocab']) + 1, infos['opt']['seq_length'])
    run_folder.load_weights(model, run_folder.read_tensors(str(path)), str(path))
    return model.state_dict()


def legacy_run(path: Path) -> Any:
    """A legacy checkpoint: weights under their legacy names, vocabulary, iteration and epoch."""
    run = run_folder.read_run(str(HERE / 'old' / 'model.pth'), str(HERE / 'old' / 'infos.pkl'))
    options, given = opts.parse(opts.train_parser(), ['--input_grid_vec_dir', 'vec'])
    options = opts.with_model_options(options, given, run.infos['opt'], run.infos_path)
    options = opts.checked_model(options, given, run.infos_path)
    model = models.build(options, len(run.infos['vocab']) + 1, run.infos['opt']['seq_length'])
    run_folder.load_run_weights(model, run)
    return {'weights': run.names.theirs(model.state_dict()), 'words': run.infos['vocab'],
            'iter': run.infos['iter'], 'epoch': run.infos['epoch']}


def journal(path: Path) -> Any:
    """The vocabulary of a run with an unfinished save."""
    return sorted(run_folder.find_run(str(HERE / 'saved'), 'tiny').infos['vocab'])


class Layers(torch.nn.Module):
    """A network with the names of a ResNet's layers."""

    def __init__(self) -> None:
        super().__init__()
        for place in (1, 2, 3):
            setattr(self, f'layer{place}', torch.nn.Linear(place, 3, bias=False))


def resnet(path: Path) -> Any:
    return dict(cnn.fitting_weights(Layers(), str(path)))


def archive(path: Path) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        flags = ['--downloaded_feats', str(path.parent), '--output_dir', f'{folder}/bu', '--num_workers', '1']
        with mock.patch.object(sys, 'argv', ['make_bu_data.py', *flags]):
            make_bu_data.main()
        sizes = image_sizes(f'{folder}/bu_box')
        return {name[:-4]: (sizes[name[:-4]], read_array(f'{folder}/bu_box/{name}'),
                            read_array(f'{folder}/bu_att/{name[:-4]}.npz'))
                for name in os.listdir(f'{folder}/bu_box')}


def steps(path: Path) -> Any:
    return histories.read_steps(str(path))


def picture_size(path: Path) -> Any:
    return images.read_size(str(path))


def picture(path: Path) -> Any:
    return images.read_rgb(str(path))


def upright_picture(path: Path) -> Any:
    return images.read_upright(str(path), 10 ** 8)[0]
