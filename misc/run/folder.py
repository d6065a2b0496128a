"""A run's folder: its files, finding a run to resume, resuming and saving it.

====================  ============================================================================
`model.pth`           weights, a state dict
`optimizer.pth`       the optimiser's moments; with --ema also the weights that train (model.pth has their average)
`infos_ID.pkl`        options, vocabulary and the state of the training, see `RunFolder.save`
`histories_ID.pkl`    losses, learning rates, rewards and validations by iteration
`validations.jsonl`   one JSON line per validation
`model-best.pth`, `infos_ID-best.pkl`   those of the best validation
====================  ============================================================================

The files are replaced as one set and read as one (see `misc.disk.filesets`), also while a training saves into the
folder.  A folder belongs to one run: its files carry the run's identity (see `misc.run.identity`), and files of
different runs are refused together.  Beside them lie `run.json` (`misc.run.record`), `steps.jsonl` and TensorBoard
events (`misc.run.log`).
"""

import argparse
import contextlib
import io
import json
import os
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from misc import parallel
from misc.cli import DataError, UsageError, note
from misc.disk import filesets, pickles, tensors
from misc.run import identity, kept, legacy
from misc.run import infos as rules
from misc.run.histories import VALIDATIONS
from misc.run.log import HISTORIES
from misc.training.averaging import WeightAverage
from misc.training.optim import load_moments
from misc.training.schedule import Best, CollapseWatch, Plateau

INFOS = re.compile(r'infos(?:_(.+))?\.pkl')
TRAINED = 'trained'  # in optimizer.pth: the weights that train, where model.pth holds their average
# In infos: the type of the weights of a run that scripts/convert_checkpoint.py --publish wrote, without moments.
PUBLISHED = 'published'
# Files of a checkpoint whose names do not say whose they are.
OF_ANY_RUN = ('model.pth', 'model.pt', 'model-best.pth', 'infos.pkl', 'optimizer.pth', VALIDATIONS)


@dataclass
class Run:
    """What a run left, read from its files.

    infos           options, vocabulary and state, in this project's form whichever code wrote them
    weights         the state dict, with the names that the file has
    infos_path, model_path   where they were read
    names           translates the names of a legacy checkpoint's weights; None where they need no translation
    optimiser_path  the file of the optimiser's moments, or None
    stamp           changes when the files to resume from are replaced
    run_id          the name of the run, as its infos file has it; None for infos.pkl
    """

    infos: dict[str, Any]
    weights: dict[str, torch.Tensor] | None
    infos_path: str
    model_path: str
    names: legacy.Names | None = None
    optimiser_path: str | None = None
    stamp: list | None = None
    run_id: str | None = None

    @property
    def identity(self) -> str | None:
        """The identity of the run that saved the infos; None if they have none."""
        return identity.of_content(self.infos)


@dataclass
class TrainingState:
    """Where a training stands, besides its weights, moments and position in the data."""

    iteration: int = 0
    best: Best = field(default_factory=Best)
    plateau: Plateau = field(default_factory=Plateau)
    cider: CollapseWatch = field(default_factory=CollapseWatch)
    self_critical_from: int | None = None  # the iteration before the first self-critical step
    validation_due: bool = False  # one was left for a signal, before its scores
    saved_at: int | None = None   # the iteration of the last checkpoint
    validations: list[dict[str, Any]] = field(default_factory=list)
    histories: dict[str, dict[int, Any]] = field(default_factory=lambda: {name: {} for name in HISTORIES})

    @classmethod
    def from_infos(cls, infos: Mapping[str, Any], keeps_best: bool) -> 'TrainingState':
        """The state in the infos of a checkpoint; without `keeps_best` the best score starts again."""
        state = cls(iteration=infos['iter'], saved_at=infos['iter'], plateau=Plateau(infos.get('plateau')),
                    validation_due=infos.get('validation_due', False),
                    cider=CollapseWatch(infos.get('first_cider')), validations=infos.get('validations') or [])
        # Runs of earlier versions say only that the phase has begun, not when.
        begun = infos['iter'] if infos.get('first_cider') is not None else None
        state.self_critical_from = infos.get('self_critical_from', begun)
        if keeps_best:
            state.best = Best(infos.get('best_val_score'), infos.get('best_measure'))
        state.histories.update(infos.get('histories') or {})
        return state

    def to_infos(self) -> dict[str, Any]:
        """The entries that `from_infos` reads."""
        return {'iter': self.iteration, 'best_val_score': self.best.score, 'best_measure': self.best.measure,
                'plateau': self.plateau.state(), 'histories': self.histories, 'validations': self.validations,
                'first_cider': self.cider.first, 'self_critical_from': self.self_critical_from,
                'validation_due': self.validation_due}

    @property
    def is_validated(self) -> bool:
        """Whether the weights as they are now were validated, and so saved."""
        return bool(self.validations) and self.validations[-1]['iteration'] == self.iteration

    @property
    def is_saved(self) -> bool:
        """Whether the weights as they are now are in the last checkpoint."""
        return self.saved_at == self.iteration

    @property
    def validations_without_best(self) -> int:
        """The validations in a row, up to now, without a new best; the self-critical phase starts with none."""
        if self.best.score is None:
            return 0
        of_phase = [line for line in self.validations if line['iteration'] > (self.self_critical_from or 0)]
        return next((count for count, line in enumerate(reversed(of_phase)) if line.get('best')), len(of_phase))


class RunFolder:
    """The folder that one run saves into.

    path      of the folder
    run_id    the name of the run
    identity  of the run, in all files that are saved
    """

    def __init__(self, path: str, run_id: str) -> None:
        self.path, self.run_id, self.identity = path, run_id, identity.new_identity()

    @contextlib.contextmanager
    def writer(self) -> Iterator[None]:
        """Be the only process that saves into the folder, which is made if need be.  Raises `UsageError` where
        another process trains in it, `DataError` where it cannot be written to."""
        with filesets.only_writer(self.path):
            yield

    def is_that_of(self, other: str | None) -> bool:
        """Whether `other` is a path of this folder."""
        return other is not None and os.path.realpath(self.path) == os.path.realpath(other)

    def claim(self, resumed: Run | None, stays: bool) -> None:
        """Make the folder that of this run, which has the identity of the run `resumed` where it `stays` in its
        folder under its name.

        Raises `UsageError` where files of another run would be replaced.
        """
        if resumed is not None and stays:
            if resumed.infos.get(PUBLISHED):
                raise UsageError(f'--checkpoint_path {self.path} holds a published model, which training would '
                                 'replace; go on with it as another run: --checkpoint_path ANOTHER_FOLDER')
            self._check_only_run(resumed)
            is_renamed = resumed.infos['opt'].get('id') != self.run_id  # by scripts/copy_model.sh
            self.identity = resumed.identity if resumed.identity and not is_renamed else self.identity
        else:
            self._check_free()

    def is_free(self) -> bool:
        """Whether the folder holds no run of another name."""
        return all(run in (None, self.run_id) for run in runs_in(self.path))

    def saved_place(self) -> dict[str, int]:
        """The iteration and epoch of the run's last checkpoint in the folder; {} where it has none that is sound."""
        try:
            infos = read_infos(os.path.join(self.path, infos_name(self.run_id)))
        except (DataError, OSError):
            return {}
        return {name: infos[entry] for name, entry in (('iteration', 'iter'), ('epoch', 'epoch'))}

    def _check_free(self) -> None:
        """Raise `UsageError` if the folder holds files of a checkpoint: they would be overwritten."""
        runs = list(filter(None, runs_in(self.path)))
        if runs:
            raise UsageError(f'--checkpoint_path {self.path} already holds the run {", ".join(runs)}; resume it with '
                             f'--resume {self.path}, or name another folder')
        taken = [name for name in filesets.listing(self.path) if name in OF_ANY_RUN]
        if taken:
            raise UsageError(f'--checkpoint_path {self.path} already holds {", ".join(taken)} of another run; name '
                             'another folder')

    def _check_only_run(self, resumed: Run) -> None:
        """Raise `UsageError` if the folder holds another run than this one."""
        if resumed.run_id not in (None, self.run_id):
            raise UsageError(f'--checkpoint_path {self.path} holds the run {resumed.run_id}, whose files a run named '
                             f'{self.run_id} would replace; resume it with --id {resumed.run_id}, or go on with it '
                             'as another run: --checkpoint_path ANOTHER_FOLDER')
        others = [run for run in runs_in(self.path) if run not in (None, self.run_id)]
        if others:
            raise UsageError(f'--checkpoint_path {self.path} holds the runs {self.run_id} and {", ".join(others)}, '
                             'which share model.pth and optimizer.pth; move the files of the others elsewhere, or '
                             'go on as another run: --checkpoint_path ANOTHER_FOLDER')

    def save(self, options: argparse.Namespace, vocabulary: Mapping[str, str], model: torch.nn.Module,
             optimiser: Any, state: TrainingState, loader: Mapping[str, Any], random: list[dict[str, Any]],
             is_best: bool, trained: Mapping[str, torch.Tensor] | None = None, keep: int = 0, **more: Any) -> None:
        """Write a checkpoint as one set of files, and `keep` so many.

        `loader` is the position in the training data, as `TrainBatches.state` gives it, `random` the
        `random_state` of each process.  `trained`: the weights that train, where those of the model are their
        average.  `more` goes into infos as it is.  Raises `DataError` that says what is left if it cannot be written.
        """
        infos = {'opt': options, 'vocab': vocabulary, 'epoch': loader['epoch'], 'loader': loader,
                 'random': random[0], 'random_of_others': random[1:], **state.to_infos(), **more}
        infos[identity.RUN] = self.identity
        weights = tensor_bytes(identity.marked(model.state_dict(), self.identity))
        content = pickle_bytes(infos)
        moments = {**optimiser.state_dict(), identity.RUN: self.identity}
        if trained is not None:
            moments[TRAINED] = trained
        files = {'model.pth': weights, infos_name(self.run_id): content, 'optimizer.pth': tensor_bytes(moments),
                 f'histories_{self.run_id}.pkl': pickle_bytes({**state.histories, identity.RUN: self.identity}),
                 VALIDATIONS: ''.join(json.dumps(line) + '\n' for line in state.validations).encode()}
        of_last = list(files)
        if is_best:
            files.update({'model-best.pth': weights, infos_name(self.run_id, best=True): content})
        try:
            filesets.save_set(self.path, files)
            if keep:
                kept.keep_files(self.path, of_last, state.iteration, keep)
        except OSError as error:
            has_checkpoint = filesets.exists(os.path.join(self.path, infos_name(self.run_id)))
            way_out = ('the checkpoint before it is intact; fix that and go on with: '
                       f'{parallel.launcher()} train.py --resume {self.path}' if has_checkpoint else
                       'nothing was saved before; fix that and start again')
            raise DataError(f'no checkpoint could be written at iteration {state.iteration}: '
                            f'{error.strerror or error}: {error.filename or self.path}\n{way_out}') from None


# Reading.

def read_tensors(path: str, way_out: str = 'take model-best.pth or another copy, or train again') -> Any:
    """A state dict, with weights only: nothing in the file is executed.  Raises `DataError`, whose message ends
    with the `way_out`."""
    return tensors.load(path, way_out, 'train.py writes it',
                        filesets.opened)


def read_infos(path: str) -> dict[str, Any]:
    """The infos file: a dict with `opt` (a dict, whatever it was saved as), `vocab`, `iter`, ...

    Raises `DataError`.
    """
    return checked_infos(read_any_infos(path), path)


def read_any_infos(path: str) -> dict[str, Any]:
    """As `read_infos`, of this project or of a legacy checkpoint, whose infos may lack some entries."""
    infos = pickles.load(path, 'train.py, which writes it beside model.pth', filesets.opened)
    opt = infos.get('opt') if isinstance(infos, dict) else None
    opt = vars(opt) if isinstance(opt, argparse.Namespace) else opt
    if not isinstance(opt, dict) or not isinstance(infos.get('vocab'), dict):
        raise DataError(f'{path} is not an infos file: it has no opt and vocab; give the infos_ID.pkl that '
                        'train.py writes beside model.pth')
    infos['opt'] = dict(opt)
    problem = rules.problem(infos)
    if problem:
        raise DataError(f'{path} is not a valid infos file: {problem}; take infos_ID-best.pkl and '
                        'model-best.pth, another copy, or train again')
    infos['vocab'] = {str(index): word for index, word in infos['vocab'].items()}
    return infos


def checked_infos(infos: dict[str, Any], path: str) -> dict[str, Any]:
    """`infos` if it has all that `read_infos` promises.  Raises `DataError`."""
    needed = {'seq_length': infos['opt'].get('seq_length'), 'iter': infos.get('iter'),
              'epoch': infos.get('epoch')}
    lacking = [name for name, value in needed.items() if not isinstance(value, int) or value < 0]
    if lacking:
        raise DataError(f'{path} is not a valid infos file: {", ".join(lacking)} should be a whole number; '
                        'give the infos_ID.pkl that train.py writes beside model.pth')
    return infos


def read_run(model_path: str, infos_path: str, longest: int | None = None) -> Run:
    """The `Run` in two files.  `longest` is the number of words at which captions are cut where the infos of a legacy
    checkpoint do not say it.  Raises `DataError`, also where different runs saved them."""
    infos, weights = filesets.read_as_one(
        (model_path, infos_path), lambda: (read_any_infos(infos_path), tensors.unwrapped(read_tensors(model_path))))
    check_same_run(infos, infos_path, identity.of_weights(weights), model_path)
    if not tensors.is_state_dict(weights) or not legacy.is_legacy(weights):
        return Run(checked_infos(infos, infos_path), weights, infos_path, model_path)
    try:
        options = legacy.recognise(weights, infos['opt'], len(infos['vocab']))
    except DataError as error:
        raise DataError(f'{model_path} does not fit {infos_path}: {error}') from None
    options['seq_length'] = options['seq_length'] or longest or legacy.LONGEST
    note(f'note: {model_path} is a legacy checkpoint: {legacy.describe(options)}')
    infos = checked_infos(legacy.translated_infos(infos, options), infos_path)
    return Run(infos, weights, infos_path, model_path, legacy.Names.of(weights))


def check_same_run(infos: Mapping[str, Any], infos_path: str, other: str | None, path: str) -> None:
    """Raise `DataError` if infos and the file `path`, which has the identity `other`, were saved by different runs.
    Without an identity, as in files of earlier versions, nothing is known."""
    own = identity.of_content(infos)
    if own and other and own != other:
        raise DataError(f'{path} and {infos_path} were saved by different runs; name files of the same run, in the '
                        'folder that it saved them in (where another run replaced one of them: restore a copy)')


# Finding.

def infos_name(run_id: str | None, best: bool = False) -> str:
    """The name of a run's infos file."""
    return f'infos_{run_id}{"-best" if best else ""}.pkl'


def find_run(folder: str, run_id: str = '', longest: int | None = None, flag: str = '--start_from') -> Run:
    """The `Run` to resume: the run's own files, or those of the only run in the folder; `longest` as for
    `read_run`, `flag` named the folder.

    Folders of legacy checkpoints may hold `infos.pkl` or `model.pt`, or nothing but the best model, whose moments
    are then unknown, since `optimizer.pth` is that of the last one; or nothing but the best model's infos file
    beside the last model.  Raises `DataError`.
    """
    if not os.path.isdir(folder):
        raise DataError(f'{flag}: there is no folder {folder}')
    infos_path, is_best = find_infos(folder, run_id, flag)
    best_model = find_model(folder, is_best=True)
    has_best = filesets.exists(best_model)
    is_mixed = is_best and not has_best
    model_path, moments = find_model(folder, is_best and has_best), os.path.join(folder, 'optimizer.pth')
    stamp = filesets.stamp((model_path, moments))
    run = read_run(model_path, infos_path, longest)
    run.run_id = id_in(infos_path, is_best)
    if is_mixed and os.path.basename(infos_path) != infos_name(run.infos['opt'].get('id')):
        if run.names is None:
            raise DataError(f'{flag}: {infos_path} belongs to a best model, and there is no {best_model}; put it '
                            f'back, or the infos file of {run.model_path}')
        note(f'note: {infos_path} belongs to a best model that is missing; {run.model_path} is used instead, and '
             'may be of a later iteration')
    published = run.infos.get(PUBLISHED)
    if published:
        note(f'note: {run.model_path} is a published model with weights in {published}; training goes on in float32')
    if run.names is not None or published:
        note(f'note: epoch {run.infos["epoch"]} starts from its beginning: {infos_path} does not say where in it '
             'the run stopped')
    if run.names is not None and not has_best:
        run.infos['best_val_score'] = None  # of a model that is not here
    if not published and (is_mixed or not is_best) and (run.names is None or filesets.exists(moments)):
        run.optimiser_path, run.stamp = moments, stamp
    return run


def find_infos(folder: str, run_id: str, flag: str) -> tuple[str, bool]:
    """The infos file to resume from, and whether it belongs to a best model: that of the run `run_id`, or of the only
    run in the folder."""
    last, best = infos_files(folder)
    found = last or best
    own = {infos_name(run_id), infos_name(run_id, best=not last)}.intersection(found)
    if own or len(found) == 1:
        return os.path.join(folder, *(own or found)), not last
    if not run_id:
        raise DataError(f'{flag}: {folder} has {", ".join(found) or "no infos file, infos_ID.pkl"}; name the '
                        'files of one run with --model and --infos_path')
    raise DataError(f'{flag}: {folder} has no {infos_name(run_id)}'
                    + (f', but {", ".join(found)}; name the run with --id' if found else
                       f'; nothing was saved there yet, so leave {flag} out'))


def infos_files(folder: str) -> tuple[list[str], list[str]]:
    """The names of the infos files of last models, and those of best models.

    A run's own name may end in -best: its infos file is that of a last model if the other files of the same save
    are there, the infos of its best model or its histories.
    """
    there = filesets.listing(folder)
    runs = [found[1] for found in map(INFOS.fullmatch, there) if found]
    last: list[str] = []
    best: list[str] = []
    for run in runs:
        is_best = run is not None and run.endswith('-best') and not {
            infos_name(run, best=True), f'histories_{run}.pkl'}.intersection(there)
        (best if is_best else last).append('infos.pkl' if run is None else infos_name(run))
    return last, best


def id_in(infos_path: str, is_best: bool) -> str | None:
    """The id in the name of an infos file of a last model, or of a best one; None for infos.pkl."""
    found = INFOS.fullmatch(os.path.basename(infos_path))
    run_id: str | None = found and found[1]
    return run_id.removesuffix('-best') if run_id and is_best else run_id


def runs_in(folder: str) -> list[str | None]:
    """The ids of the runs whose infos files are in a folder, None for infos.pkl."""
    return list(dict.fromkeys(id_in(name, is_best) for names, is_best in zip(infos_files(folder), (False, True))
                              for name in names))


def find_model(folder: str, is_best: bool) -> str:
    """The file of the last or the best model: model.pth, or model.pt where only that is there."""
    paths = [os.path.join(folder, f'model{"-best" if is_best else ""}{ending}') for ending in ('.pth', '.pt')]
    return next(filter(filesets.exists, paths), paths[0])


def saved_options(folder: str, run_id: str = '') -> tuple[str, str, dict[str, Any]]:
    """The infos file of the run to resume in `folder`, its id, and the options in it: of the run `run_id`, or of the
    only one.

    Raises `DataError` where there is none, or one that does not record all its options.
    """
    if not os.path.isdir(folder):
        raise DataError(f'--resume: there is no folder {folder}')
    runs = [run or 'infos.pkl' for run in runs_in(folder)]
    if not runs:
        raise DataError(f'--resume: {folder} holds no checkpoint; start the run with its complete command')
    if len(runs) > 1 and run_id not in runs:
        raise DataError(f'--resume: {folder} holds the runs {", ".join(runs)}; name one with --id')
    infos_path, is_best = find_infos(folder, run_id, '--resume')
    infos = read_any_infos(infos_path)
    own_id = id_in(infos_path, is_best)
    if own_id is None or 'loader' not in infos:
        raise DataError(f'--resume: {infos_path} is a legacy checkpoint, which does not record all that its training '
                        f'needs; give the complete command with --start_from {folder}')
    return infos_path, own_id, infos['opt']


def best_or_last_files(folder: str, wants_best: bool = True,
                       way_out: str = 'with model= and infos=') -> tuple[str, str]:
    """The weights and the infos file of the best model in a run's folder, or of the last: where it has no best, or
    that one is wanted.

    Raises `DataError`, which ends in the `way_out`, where there are none, or those of several runs.
    """
    if not os.path.isdir(folder):
        raise DataError(f'there is no folder {folder}')
    last, best = infos_files(folder)
    is_best = wants_best and bool(best) and filesets.exists(find_model(folder, is_best=True))
    found = best if is_best else last
    if len(found) != 1:
        raise DataError(f'{folder} has {", ".join(found) or "no infos file, infos_ID.pkl"}; name the files of one '
                        f'run {way_out}')
    return find_model(folder, is_best), os.path.join(folder, found[0])


# Resuming.

def resume(run: Run | None, model: torch.nn.Module, optimiser: Any, average: WeightAverage, device: torch.device,
           seed: int, keeps_best: bool, vocabulary: Mapping[str, str], longest: int, input_json: str,
           input_label_h5: str) -> TrainingState:
    """Restore weights, their average, moments and random numbers of `run` -> the state of the training; None starts a
    new one.

    Raises `DataError` where the run was trained with another `vocabulary`, that of the file `input_json`, or captions
    of another length than `longest`, those of `input_label_h5`.
    """
    if run is None:
        restore_random({}, seed, device)
        return TrainingState()
    infos = run.infos
    if infos['vocab'] != vocabulary:
        raise DataError(f'the vocabulary of {input_json} is not that of {run.infos_path}; '
                        'give the --input_json it was trained with')
    if infos['opt']['seq_length'] != longest:
        raise DataError(f'{input_label_h5} has captions of up to {longest} words, the run of {run.infos_path} '
                        f"of up to {infos['opt']['seq_length']}; give the --input_label_h5 it was trained with")
    load_run_weights(model, run)
    saved = optimiser_state(run)
    load_run_moments(optimiser, model, run, saved)
    average.restart()
    load_trained_weights(average, run, saved)
    run.weights = None  # as large as the model
    restore_random(infos, seed, device)
    print(f'going on from {os.path.dirname(run.infos_path)} at iteration {infos["iter"]}, epoch {infos["epoch"]}',
          flush=True)
    return TrainingState.from_infos(infos, keeps_best)


def check_size(build: Callable[[], torch.nn.Module], run: Run) -> None:
    """Raise `DataError` unless the weights of a `Run` fit the model of `build()`, which is built without memory.

    So an infos file that describes a model of many gigabytes beside small weights costs nothing.  No random numbers
    are drawn.
    """
    with torch.random.fork_rng(devices=[]), torch.device('meta'):
        model = build()
    fitting_state(model, run)


def load_run_weights(model: torch.nn.Module, run: Run) -> None:
    """Load the weights of a `Run` into the model; `DataError` names what does not fit, as its file names it."""
    state = fitting_state(model, run)
    check_finite(state, run.model_path)
    model.load_state_dict(state if run.names is None else run.names.ours(state))


def load_weights(model: torch.nn.Module, state: Any, path: str) -> None:
    """Load a state dict into the model; `DataError` names the keys or shapes that do not fit."""
    load_run_weights(model, Run({}, tensors.unwrapped(state), 'its infos file', path))


def fitting_state(model: torch.nn.Module, run: Run) -> dict[str, torch.Tensor]:
    """The weights of a `Run`, with the names that its file has, if they fit the model; else a `DataError`."""
    weights = run.weights
    if weights is None or not tensors.is_state_dict(weights):
        raise DataError(f'{run.model_path} is not a state dict of tensors; give the model.pth of a run')
    if run.names is None:
        check_weights(model.state_dict(), weights, run.model_path, run.infos_path)
        return weights
    state = {name: value for name, value in weights.items() if name not in legacy.IGNORED}
    own = run.names.theirs(model.state_dict())
    # Files of PyTorch before 0.4.1 do not count batches, and nothing depends on that count.
    state.update({name: torch.zeros((), dtype=value.dtype) for name, value in own.items()
                  if name.endswith('num_batches_tracked') and name not in state})
    check_weights(own, state, run.model_path, run.infos_path)
    return state


def check_weights(own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], path: str,
                  infos_path: str) -> None:
    """Raise `DataError` unless `state` has the names, shapes and kinds of `own`."""
    problems = [f'{name} is missing' for name in own if name not in state]
    problems += [f'{name} is not known' for name in state if name not in own]
    problems += [f'{name} is {tuple(value.shape)}, not {tuple(own[name].shape)}'
                 for name, value in state.items() if name in own and value.shape != own[name].shape]
    problems += [f'{name} is of {value.dtype}' for name, value in state.items()
                 if name in own and value.is_floating_point() != own[name].is_floating_point()]
    if problems:
        more = f' and {len(problems) - 3} more' if len(problems) > 3 else ''
        raise DataError(f'{path} does not fit the model that {infos_path} describes: '
                        f'{"; ".join(problems[:3])}{more}')


def check_finite(state: Mapping[str, torch.Tensor], path: str) -> None:
    """Raise `DataError` unless the weights, those of the file `path`, are finite numbers."""
    broken = [name for name, value in state.items() if not torch.isfinite(value).all()]
    if broken:
        raise DataError(f'{path} holds numbers that are not finite ({broken[0]}); take model-best.pth or an '
                        'earlier copy')


def load_run_moments(optimiser: Any, model: torch.nn.Module, run: Run, saved: Any) -> None:
    """Load the moments in `saved`, the `optimiser_state` of a `Run`, into the optimiser of the model's parameters;
    without those, or with those of another kind of optimiser, they start from zero, and a note says so."""
    if not load_optimiser_state(optimiser, model, run, saved):
        where = run.optimiser_path or os.path.dirname(run.model_path)
        note(f'note: {where} holds no moments of this optimiser and model; they start from zero')


def load_trained_weights(average: WeightAverage, run: Run, saved: Any) -> None:
    """Where the weights of a `Run` are an average, which the model holds by now, replace them by those that were
    trained, which are in its `optimiser_state` `saved`.  Without `--ema`, training goes on from the average."""
    trained = saved.get(TRAINED) if isinstance(saved, dict) else None
    if trained is None:
        return
    if not average.decay:
        note(f'note: {run.model_path} holds averaged weights, with which training goes on; to average further, give '
             f'--ema {run.infos["opt"].get("ema")}')
        return
    path = str(run.optimiser_path)
    if not tensors.is_state_dict(trained):
        raise DataError(f'{path}: its weights are not a state dict of tensors; take another copy')
    check_weights(average.model.state_dict(), trained, path, run.infos_path)
    check_finite(trained, path)
    average.model.load_state_dict(trained)


def optimiser_state(run: Run) -> Any:
    """What a `Run` saved of its optimiser, as its file has it, or None."""
    if run.optimiser_path is None:
        return None
    state = read_tensors(run.optimiser_path, 'take another copy, or move it elsewhere to start without moments')
    if run.stamp != filesets.stamp((run.model_path, run.optimiser_path)):
        raise DataError(f'{run.optimiser_path} was replaced while the run was read: it is still being trained; '
                        'start again')
    check_same_run(run.infos, run.infos_path, identity.of_content(state), run.optimiser_path)
    return state


def load_optimiser_state(optimiser: Any, model: torch.nn.Module, run: Run, state: Any) -> bool:
    """Load the `optimiser_state` of a `Run` into the optimiser of the model's parameters; returns False, and loads
    nothing, where it holds no moments of such an optimiser."""
    if state is not None and run.names is not None:
        parameters = [name for name, _ in model.named_parameters()]
        state = legacy.translated_moments(state, run.weights or {}, optimiser, parameters)
    return load_moments(optimiser, state)


# Random numbers.

def random_state(device: torch.device) -> dict[str, Any]:
    """The state of the generators that this process draws dropout and scheduled sampling from, as plain arrays.
    (Batches and rewarded samples depend on seed, epoch and image alone.)"""
    state: dict[str, Any] = {'torch': torch.get_rng_state().numpy()}
    if device.type == 'cuda':
        state['cuda'] = [torch.cuda.get_rng_state(device).numpy()]
    return state


def restore_random(infos: Mapping[str, Any], seed: int, device: torch.device) -> None:
    """Restore the `random_state` of the process of this rank.  A rank, or its device, that had no part in the run so
    far starts with random numbers of its own."""
    rank = parallel.rank()
    if rank:
        own = np.random.SeedSequence((seed, infos.get('iter', 0), rank))
        torch.manual_seed(int(own.generate_state(1)[0]))
    states = ([infos['random']] if 'random' in infos else []) + list(infos.get('random_of_others', ()))
    if rank < len(states):
        torch.set_rng_state(torch.from_numpy(np.array(states[rank]['torch'])))
        if device.type == 'cuda' and 'cuda' in states[rank]:
            torch.cuda.set_rng_state(torch.from_numpy(np.array(states[rank]['cuda'][0])), device)


# Bytes.

def tensor_bytes(value: Any) -> bytes:
    """What `torch.save` writes for a state dict."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def pickle_bytes(value: Any) -> bytes:
    """A pickle of plain values that older Pythons read too."""
    return pickle.dumps(value, protocol=2)
