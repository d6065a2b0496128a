"""A run's folder: what its files hold, and going on from them.

They are one set (see `misc.disk.filesets`), and are read as one, also while a training saves into the folder.
"""

import argparse
import io
import os
import pickle
import re
from dataclasses import dataclass

import torch

from misc.cli import DataError, note
from misc.disk import filesets, pickles, tensors
from misc.run import infos as rules
from misc.run import legacy
from misc.training.optim import take_moments


def tensor_bytes(value):
    """What `torch.save` writes for a state dict."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def pickle_bytes(value):
    """A pickle of plain values that older Pythons read too."""
    return pickle.dumps(value, protocol=2)


def read_tensors(path):
    """A state dict, with weights only: nothing in the file is run.  Raises `DataError`."""
    return tensors.load(path, 'take model-best.pth or another copy, or train again', 'train.py writes it',
                        filesets.opened)


def read_infos(path):
    """The infos file: a dict with `opt` (a dict, whatever it was saved as), `vocab`, `iter`, ...

    Raises `DataError`.
    """
    return whole_infos(read_any_infos(path), path)


def read_any_infos(path):
    """As `read_infos`, of this project or of older code, whose infos may lack some of it."""
    infos = pickles.load(path, 'train.py, which writes it beside model.pth', filesets.opened)
    opt = infos.get('opt') if isinstance(infos, dict) else None
    opt = vars(opt) if isinstance(opt, argparse.Namespace) else opt
    if not isinstance(opt, dict) or not isinstance(infos.get('vocab'), dict):
        raise DataError(f'{path} is not an infos file: it has no opt and vocab; give the infos_ID.pkl that '
                        'train.py writes beside model.pth')
    infos['opt'] = dict(opt)
    problem = rules.problem(infos)
    if problem:
        raise DataError(f'{path} is not a whole infos file: {problem}; take infos_ID-best.pkl and '
                        'model-best.pth, another copy, or train again')
    infos['vocab'] = {str(index): word for index, word in infos['vocab'].items()}
    return infos


def whole_infos(infos, path):
    """`infos` if it says all that `read_infos` promises."""
    whole = {'seq_length': infos['opt'].get('seq_length'), 'iter': infos.get('iter'),
             'epoch': infos.get('epoch')}
    lacking = [name for name, value in whole.items() if not isinstance(value, int) or value < 0]
    if lacking:
        raise DataError(f'{path} is not a whole infos file: {", ".join(lacking)} should be a whole number; '
                        'give the infos_ID.pkl that train.py writes beside model.pth')
    return infos


@dataclass
class Run:
    """What a run left: its infos as this project has them, whatever code wrote the files, and its
    weights with the names that they have in the file.

    `names` (a `misc.run.legacy.Names`) translates those of older code, and is None where there is nothing
    to translate; `optimiser_path` is the file of its moments, or None; `stamp` tells when the files to go on
    from were replaced.
    """

    infos: dict
    weights: dict | None
    infos_path: str
    model_path: str
    names: legacy.Names | None = None
    optimiser_path: str | None = None
    stamp: list | None = None


def read_run(model_path, infos_path, longest=None):
    """The `Run` in two files.  `longest` is the number of words at which captions are cut where
    infos of older code do not say it.  Raises `DataError`."""
    infos, weights = filesets.read_as_one(
        (model_path, infos_path), lambda: (read_any_infos(infos_path), read_tensors(model_path)))
    if not is_state_dict(weights) or not legacy.is_legacy(weights):
        return Run(whole_infos(infos, infos_path), weights, infos_path, model_path)
    try:
        options = legacy.recognise(weights, infos['opt'], len(infos['vocab']))
    except DataError as error:
        raise DataError(f'{model_path} does not fit {infos_path}: {error}') from None
    options['seq_length'] = options['seq_length'] or longest or legacy.LONGEST
    note(f'note: {model_path} is of older code: {legacy.describe(options)}')
    infos = whole_infos(legacy.translated_infos(infos, options), infos_path)
    return Run(infos, weights, infos_path, model_path, legacy.Names.of(weights))


def infos_name(run_id, best=False):
    """The name of a run's infos file."""
    return f'infos_{run_id}{"-best" if best else ""}.pkl'


def find_run(folder, run_id='', longest=None, flag='--start_from'):
    """The `Run` to go on from: the run's own files, or those of the only run in the folder; `longest` as
    for `read_run`, `flag` named the folder.

    Folders of older code may hold `infos.pkl` or `model.pt`, or nothing but the best model, whose
    moments are then not at hand, since `optimizer.pth` is of the last one; or nothing but the best
    model's infos file beside the last model.  Raises `DataError`.
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
    if is_mixed and os.path.basename(infos_path) != infos_name(run.infos['opt'].get('id')):
        if run.names is None:
            raise DataError(f'{flag}: {infos_path} is of a best model, and there is no {best_model}; put it '
                            f'back, or the infos file of {run.model_path}')
        note(f'note: {infos_path} is of a best model that is not there; {run.model_path} is taken in its '
             'place, and may be of a later iteration')
    if run.names is not None:
        note(f'note: epoch {run.infos["epoch"]} starts anew: {infos_path} does not say where in it '
             'the run stood')
        if not has_best:
            run.infos['best_val_score'] = None  # of a model that is not here
    if (is_mixed or not is_best) and (run.names is None or filesets.exists(moments)):
        run.optimiser_path, run.stamp = moments, stamp
    return run


def find_infos(folder, run_id, flag):
    """The infos file to go on from, and whether it is of a best model: that of the run `run_id`, or of the
    only run in the folder."""
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


def infos_files(folder):
    """The names of the infos files of last models, and those of best models.

    A run's own name may end in -best: its infos file is of a last model, as the files of the same save
    tell, its best model's infos and its histories.
    """
    there = filesets.listing(folder)
    runs = [found[1] for found in map(re.compile(r'infos(?:_(.+))?\.pkl').fullmatch, there) if found]
    last, best = [], []
    for run in runs:
        is_best = run is not None and run.endswith('-best') and not {
            infos_name(run, best=True), f'histories_{run}.pkl'}.intersection(there)
        (best if is_best else last).append('infos.pkl' if run is None else infos_name(run))
    return last, best


def find_model(folder, is_best):
    """The file of the last or the best model: model.pth, or model.pt where only that is there."""
    paths = [os.path.join(folder, f'model{"-best" if is_best else ""}{ending}') for ending in ('.pth', '.pt')]
    return next(filter(filesets.exists, paths), paths[0])


def is_state_dict(state):
    """Whether it is a dict of tensors by name."""
    return isinstance(state, dict) and all(isinstance(name, str) and torch.is_tensor(value)
                                           for name, value in state.items())


def take_weights(model, run):
    """Load the weights of a `Run` into the model; `DataError` names what does not fit, as its file
    names it."""
    if run.names is None:
        return load_weights(model, run.weights, run.model_path, run.infos_path)
    state = {name: value for name, value in run.weights.items() if name not in legacy.IGNORED}
    own = run.names.theirs(model.state_dict())
    # Files of PyTorch before 0.4.1 do not count batches, and nothing depends on that count.
    state.update({name: value for name, value in own.items()
                  if name.endswith('num_batches_tracked') and name not in state})
    check_weights(own, state, run.model_path, run.infos_path)
    model.load_state_dict(run.names.ours(state))


def take_optimiser(optimiser, model, run):
    """Load the moments of a `Run` into the optimiser of the model's parameters; without those, or with
    those of another kind, they start anew, and a line says so."""
    if not take_state(optimiser, model, run, optimiser_state(run)):
        where = run.optimiser_path or os.path.dirname(run.model_path)
        note(f'note: {where} holds no moments of this optimiser and model; they start anew')


def optimiser_state(run):
    """What a `Run` saved of its optimiser, as its file has it, or None."""
    if run.optimiser_path is None:
        return None
    state = read_tensors(run.optimiser_path)
    if run.stamp != filesets.stamp((run.model_path, run.optimiser_path)):
        raise DataError(f'{run.optimiser_path} was replaced while the run was read, which is still being trained; '
                        'start again')
    return state


def take_state(optimiser, model, run, state):
    """Load the `optimiser_state` of a `Run` into the optimiser of the model's parameters; returns False,
    and takes nothing, where it holds no moments of such an optimiser."""
    if state is not None and run.names is not None:
        parameters = [name for name, _ in model.named_parameters()]
        state = legacy.translated_moments(state, run.weights, optimiser, parameters)
    return take_moments(optimiser, state)


def load_weights(model, state, path, infos_path='its infos file'):
    """Load a state dict into the model; `DataError` names the keys or shapes that do not fit."""
    if not is_state_dict(state):
        raise DataError(f'{path} is not a state dict of tensors; give the model.pth of a run')
    check_weights(model.state_dict(), state, path, infos_path)
    model.load_state_dict(state)


def check_weights(own, state, path, infos_path):
    """Raise `DataError` unless `state` has the names, shapes and kinds of `own` and holds finite numbers."""
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
    broken = [name for name, value in state.items() if not torch.isfinite(value).all()]
    if broken:
        raise DataError(f'{path} holds numbers that are not finite ({broken[0]}); take model-best.pth or an '
                        'earlier copy')
