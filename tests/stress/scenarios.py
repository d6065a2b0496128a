"""Whole programs in scenarios that go wrong, for tests/stress/fuzz.py.

A scenario starts programs of the project, each in a process forked from this one, and disturbs them: files of
different runs in one folder, two programs that write into one, files that are replaced while they are read, data
that changed between two starts, kills.  Each program has to do what it does undisturbed, bit for bit, or to refuse in
a message for the user that says what is wrong; and what it was not asked to change stays as it is.

A scenario is a function of a `random.Random` and a `Place` that returns whether a program was refused, and raises
`Wrong`.  Training is short and its weights are known for every iteration, since its numbers depend on the seed alone.
"""

import json
import os
import random
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import eval as evaluation
import prepro_areas
import train
from misc.cli import DataError
from misc.disk import filesets
from misc.run import folder as run_folder
from scripts import convert_checkpoint
from tests.stress.phases import SharedPhase
from tests.stress.places import SECOND_PHASE, Place, Words, Wrong, contents, digest_of, must_be_same, pack

SECONDS = 180.0          # that a scenario may take
LAST = 6                 # iterations of a training of two epochs
RUN_FILES = ('model.pth', 'infos_tiny.pkl', 'optimizer.pth', 'model-best.pth', 'infos_tiny-best.pkl',
             'histories_tiny.pkl', 'validations.jsonl')


# ---- files of different runs ----

def mixed_files(draw: random.Random, place: Place) -> bool:
    """Files of another run take the place of some files of a run."""
    taken = draw.sample(RUN_FILES, draw.randint(1, len(RUN_FILES)))
    for name in taken:
        shutil.copy(place.two / name, place.one / name)
    last, best = ('model.pth', 'infos_tiny.pkl'), ('model-best.pth', 'infos_tiny-best.pkl')
    out, infos = place.folder / 'out', place.one / 'infos_tiny.pkl'
    seed = 2 if 'model.pth' in taken else 1
    name, module, reads, words = draw.choice([
        ('eval', evaluation, last, place.eval_flags(place.one)),
        ('best', evaluation, best, place.eval_flags(place.one, '--model', place.one / best[0], '--infos_path',
                                                    place.one / best[1])),
        ('ensemble', evaluation, last, place.eval_flags(
            place.one, '--model', place.two / 'model.pth', place.one / 'model.pth', '--infos_path',
            place.two / 'infos_tiny.pkl', infos)),
        ('convert', convert_checkpoint, last, [
            '--model', place.one / 'model.pth', '--infos_path', infos, '--output_dir', out, '--publish', 'float32']),
        ('resume', train, (*last, 'optimizer.pth'), place.train_flags(place.one, seed, '--start_from', place.one))])
    before = contents(place.one)
    ended = place.run(module, words)
    if len({one in taken for one in reads}) > 1:
        ended.must_refuse('saved by different runs')
        must_be_same(place.one, before)
        return True
    ended.must_succeed()
    if name == 'resume':
        place.check_run(place.one, 'two' if seed == 2 else 'one', LAST)
    return False


def second_run(draw: random.Random, place: Place) -> bool:
    """A training under another id, or without --start_from, is started in the folder of a run."""
    words = place.train_flags(place.one, draw.choice([1, 2]), *draw.choice([
        (), ('--id', 'second'), ('--id', 'second', '--start_from', place.one), ('--start_from', place.two),
        ('--id', 'second', '--start_from', place.two), ('--resume', place.two)]))
    for name in draw.sample(RUN_FILES, draw.choice([0, 0, 1, 3])):
        if name not in ('infos_tiny.pkl', 'model.pth', 'optimizer.pth'):
            (place.one / name).unlink()
    before = contents(place.one)
    place.run(train, words).must_refuse('already holds|whose files a run named|another run')
    must_be_same(place.one, before)
    return True


# ---- two programs at once ----

def two_trainings(draw: random.Random, place: Place) -> bool:
    """Two trainings are started in one new folder, one after the other or nearly at once."""
    run = place.folder / 'new'
    ids = draw.choice([('tiny', 'tiny'), ('tiny', 'second')])
    every = draw.choice([1, 2, 100])
    started = []
    for seed, run_id in zip((1, 2), ids):
        started.append(place.start(train, place.train_flags(
            run, seed, '--id', run_id, '--save_checkpoint_every', every, *draw.choice([(), ('--resume', 'auto')]))))
        time.sleep(draw.choice([0, 0, 0.05, 0.3, 1.0]))
    ended = [one.end() for one in started]
    winners = [place for place, one in enumerate(ended) if one.status == 0]
    # With --resume auto the second may come when the first has ended: then there is nothing left to do.
    if not winners or len(winners) == 2 and 'nothing to do' not in ended[1].text() + ended[0].text():
        raise Wrong(f'of two trainings in one folder {len(winners)} trained')
    for number, one in enumerate(ended):
        if number not in winners:
            one.must_refuse('another process is training|already holds|whose files a run named')
    first = next(number for number in winners if 'nothing to do' not in ended[number].text())
    place.check_run(run, ('one', 'two')[first], LAST)
    return len(winners) == 1


def two_evaluations(draw: random.Random, place: Place) -> bool:
    """Two evaluations write into one folder, one after the other or nearly at once."""
    kinds = draw.sample([('--beam_size', 1), ('--beam_size', 3), ('--num_images', 2), ('--split', 'val'),
                         ('--sample_max', 0, '--sample_n', 2), ('--verbose_loss', 1)], 2)
    words = [place.eval_flags(place.one, '--language_eval', 1, *kind) for kind in kinds]
    started = []
    for one in words:
        started.append(place.start(evaluation, one))
        time.sleep(draw.choice([0, 0, 0.05, 0.3]))
    ended = [one.end() for one in started]
    if all(one.status for one in ended):
        raise Wrong('of two evaluations none ended well')
    possible: dict[str, list[Any]] = {}
    for number, one in enumerate(ended):
        if one.status:
            one.must_refuse('another evaluation is at work')
            continue
        place.run(evaluation, [*words[number], '--output_dir', place.folder / f'alone_{number}']).must_succeed()
        for path in (place.folder / f'alone_{number}').rglob('*.json'):
            possible.setdefault(path.parent.name, []).append(captions_in(path))
    for path in (place.folder / 'out').rglob('*'):
        if path.is_file() and captions_in(path) not in possible.get(path.parent.name, []):
            raise Wrong(f'{path.name} of {path.parent.name} is of neither evaluation')
    return any(one.status for one in ended)


def captions_in(path: Path) -> Any:
    """What an output of an evaluation says of each image; raises `Wrong` where it is no whole JSON file."""
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise Wrong(f'{path.name} is not a whole JSON file ({error})') from None
    return content['images'] if isinstance(content, dict) else content


def beside_readers(draw: random.Random, place: Place) -> bool:
    """Runs are read, and evaluated, while they train and save."""
    def slowly():
        plain = train.train_step

        def step(run, phase):
            plain(run, phase)
            time.sleep(pause)
        train.train_step = step
    pause, run, was_refused = draw.choice([0.0, 0.05, 0.2]), place.folder / 'new', False
    training = place.start(train, place.train_flags(run, 1, '--save_checkpoint_every', draw.choice([1, 2])), slowly)
    for _ in range(3):
        time.sleep(draw.random() * 0.3)
        try:
            found = run_folder.find_run(str(run))
        except DataError:
            was_refused = True
            continue
        if digest_of(found.weights) != place.weights['one'].get(str(found.infos['iter'])):
            raise Wrong(f'a reader found other weights than those of iteration {found.infos["iter"]}')
    reader = place.run(evaluation, place.eval_flags(run))
    if reader.status:
        reader.must_refuse('model.pth|infos_tiny.pkl')
    training.end().must_succeed()
    place.check_run(run, 'one', LAST)
    return was_refused or reader.status != 0


def two_preparations(draw: random.Random, place: Place) -> bool:
    """Two programs make grid vectors in one folder, with the same settings or others."""
    grids = [draw.choice([4, 9]), draw.choice([4, 9])]

    def words(cells, output):
        return ['--input_dir', place.corpus / 'box', '--output_dir', output, '--num_grids', cells, '--num_workers', 1]
    started = []
    for cells in grids:
        started.append(place.start(prepro_areas, words(cells, place.folder / 'made_vec')))
        time.sleep(draw.choice([0, 0, 0.02, 0.2]))
    ended = [one.end() for one in started]
    made = json.loads((place.folder / 'made_vec_made.json').read_text())['options']['num_grids']
    if all(one.status for one in ended) or any(one.status == 0 and cells != made for one, cells in zip(ended, grids)):
        raise Wrong(f'of two preparations the folder is that of neither (num_grids {made})')
    for one in ended:
        if one.status:
            one.must_refuse('another process is writing|was made with')
    place.run(prepro_areas, words(made, place.folder / 'alone')).must_succeed()
    must_be_same(place.folder / 'made_vec', contents(place.folder / 'alone'))
    return any(one.status for one in ended)


# ---- files that change ----

def swap_folder(path: Path, other: Path) -> None:
    """Put the folder `other` in the place of another one."""
    path.rename(path.with_name(f'{path.name}_before'))
    other.rename(path)


def replacement(draw: random.Random, place: Place) -> tuple[str, Words, Callable[[], None], str]:
    """What is replaced: (its name, flags of the training that reads it, what replaces it, the name of its course)."""
    corpus = place.corpus
    name, flags, course = draw.choice([
        ('att.h5', ('--input_img_feat_dir', corpus / 'att.h5'), 'one'), ('att', (), 'one'), ('vec', (), 'one'),
        ('talk-idxs.p', (*SECOND_PHASE, '--cached_tokens', corpus / 'talk-idxs.p'), 'rewarded'),
        ('talk.json', (), 'one'), ('talk_label.h5', (), 'one')])
    path, other = corpus / name, corpus / f'other_{name}'
    how = draw.choice(['another', 'in place', 'same', 'gone'])
    if path.is_dir():
        shutil.copytree(path, other)
        if how != 'same':
            for one in other.iterdir():
                change_array(one)
        return name, list(flags), lambda: swap_folder(path, other) if how != 'gone' else shutil.rmtree(path), course
    shutil.copy(path, other)
    if name == 'att.h5' and how != 'same':
        pack(corpus / 'att', other, lambda array: array[::-1] + np.float32(1))
    elif how != 'same':
        other.write_bytes(path.read_bytes()[::-1])

    def replace():
        if how == 'gone':
            path.unlink()
        elif how == 'in place':
            path.write_bytes(other.read_bytes())
        else:
            os.replace(other, path)
    return name, list(flags), replace, course


def change_array(path: Path, by: float = 1.0) -> None:
    """Add to the numbers of an image's array."""
    stored = np.load(path)
    if path.suffix == '.npz':
        np.savez(path, feat=stored['feat'] + np.float32(by))
    else:
        np.save(path, stored + np.float32(by))


def replaced_in_training(draw: random.Random, place: Place) -> bool:
    """A file or folder is replaced, or removed, between two steps of a training."""
    name, flags, replace, course = replacement(draw, place)
    when, run = draw.randrange(LAST), place.folder / 'new'

    def prepare():
        plain = train.train_step

        def step(training, phase):
            if training.state.iteration == when:
                replace()
            plain(training, phase)
        train.train_step = step
    ended = place.run(train, place.train_flags(
        run, 1, '--save_checkpoint_every', 1, '--num_workers', draw.choice([0, 0, 1]), *flags), prepare)
    if ended.status:
        ended.must_refuse(re.escape(name))
        if not run.exists() or not (run / 'model.pth').exists():
            return True
    place.check_run(run, course, None if ended.status else LAST)
    return ended.status != 0


def replaced_in_evaluation(draw: random.Random, place: Place) -> bool:
    """A file or folder is replaced, or removed, when an evaluation has read what it needs to begin."""
    name, flags, replace, course = replacement(draw, place)
    flags = flags if course == 'one' else []
    words = place.eval_flags(place.one, '--language_eval', 1, '--verbose_loss', 1, '--batch_size', 2, *flags)
    place.run(evaluation, [*words, '--output_dir', place.folder / 'alone']).must_succeed()

    def prepare():
        plain = evaluation.caption_split

        def caption(started):
            replace()
            return plain(started)
        evaluation.caption_split = caption
    ended = place.run(evaluation, words, prepare)
    if ended.status:
        ended.must_refuse(re.escape(name))
        return True
    for path in (place.folder / 'alone').rglob('*.json'):
        found = place.folder / 'out' / path.relative_to(place.folder / 'alone')
        if captions_in(found) != captions_in(path):
            raise Wrong(f'{path.name} differs, though {name} was replaced in silence')
    return False


def change_json(path: Path, change: Callable[[Any], None], indent: int | None = None) -> None:
    """Change the content of a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content, indent=indent))


def change_labels(path: Path, name: str, place: Any, by: int) -> None:
    """Add to a number in a label file."""
    with h5py.File(path, 'r+') as file:
        values = file[name][:].astype(np.int64)
        values[place] += by
        file[name][:] = values


def changed_data(draw: random.Random, place: Place) -> bool:
    """Data change, or their files are only written otherwise, between two starts of a run."""
    corpus, flags = place.corpus, []
    harmful: list[Callable[[], object]] = [
        lambda: change_array(corpus / 'att' / f'{draw.choice(range(100, 112))}.npz', 1e-3),
        lambda: change_array(corpus / 'vec' / f'{draw.choice(range(100, 112))}.npy', 1e-3),
        lambda: change_labels(corpus / 'talk_label.h5', 'label_end_ix', draw.choice(range(12)), -1),
        lambda: change_json(corpus / 'talk.json', lambda talk: talk['images'][draw.choice(range(16))].update(
            captions=['a dog'] * 5) if draw.random() < 0.5 else talk['images'][15].update(split='val'))]

    def packed() -> None:
        flags.extend(['--input_img_feat_dir', corpus / 'att.h5'])

    def renamed() -> None:
        (corpus / 'vec').rename(corpus / 'places')
        flags.extend(['--input_grid_vec_dir', corpus / 'places'])
    harmless: list[Callable[[], object]] = [
        packed, renamed, lambda: change_json(corpus / 'talk.json', lambda talk: None, indent=2),
        lambda: [os.utime(path, (1, 1)) for path in corpus.rglob('*')]]
    bad = draw.sample(harmful, draw.choice([0, 0, 1, 1, 2]))
    for change in [*bad, *draw.sample(harmless, draw.randint(0, len(harmless) if not bad else 1))]:
        if not (bad and change in (packed, renamed)):
            change()
    stays = draw.random() < 0.6
    run, before = place.one if stays else place.folder / 'new', contents(place.one)
    ended = place.run(train, place.train_flags(run, 1, '--start_from', place.one, *flags))
    if bad and stays:
        ended.must_refuse('not what the run of|does not belong to')
        must_be_same(place.one, before)
        return True
    if ended.status and bad:  # labels that no longer belong to the captions
        ended.must_refuse('does not belong to')
        return True
    ended.must_succeed()
    if bool(bad) != ('trained with' in ended.text()):
        raise Wrong(f'with {len(bad)} changes of the data, the note is: {ended.text()[-300:]}')
    if not stays:
        must_be_same(place.one, before)
    if not bad:
        place.check_run(run, 'one', LAST)
    return False


# ---- kills ----

def killed_before(draw: random.Random, place: Place) -> bool:
    """A training is killed before one of its operations on files, and another program follows."""
    run, shared = place.folder / 'new', SharedPhase()
    words = place.train_flags(run, 1, '--save_checkpoint_every', draw.choice([1, 2]))
    die_at = draw.randint(1, 150)
    place.run(train, words, lambda: shared.report(train, run, die_at))
    has_run = filesets.exists(str(run / 'infos_tiny.pkl'))
    what = draw.choice(['resume', 'start from', 'auto', 'again', 'other id', 'eval', 'eval'])
    if what == 'eval':
        ended = place.run(evaluation, place.eval_flags(run))
        ended.must_succeed() if has_run else ended.must_refuse('model.pth|infos_tiny.pkl')
        return not has_run
    more = {'resume': ['--resume', run], 'start from': ['--start_from', run], 'auto': ['--resume', 'auto'],
            'again': [], 'other id': ['--id', 'other']}[what]
    ended = place.run(train, words[:0] + more if what == 'resume' else words + more)
    is_allowed = what == 'auto' or has_run == (what in ('resume', 'start from'))
    if not is_allowed:
        ended.must_refuse('already holds|no checkpoint|nothing was saved|there is no folder|holds no')
        return True
    ended.must_succeed()
    place.check_run(run, 'one', LAST)
    return False


ALL: dict[str, Callable[[random.Random, Place], bool]] = {
    'mixed files': mixed_files, 'a second run': second_run, 'two trainings': two_trainings,
    'two evaluations': two_evaluations, 'beside readers': beside_readers, 'two preparations': two_preparations,
    'replaced in training': replaced_in_training, 'replaced in evaluation': replaced_in_evaluation,
    'changed data': changed_data, 'killed before': killed_before}


def play(name: str, draw: random.Random, base: Path, folder: Path) -> bool:
    """Play a scenario in a new folder, which is removed -> whether a program was refused.  Raises `Wrong`."""
    try:
        return ALL[name](draw, Place(base, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
