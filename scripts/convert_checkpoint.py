"""Convert a legacy checkpoint to this project's format, or publish a model; `python scripts/convert_checkpoint.py
--help`."""

import argparse
import functools
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import torch

import models
import opts
from misc.cli import DataError, Parser, UsageError, note, number_in, run_command
from misc.disk import filesets
from misc.disk.files import TEMPORARY
from misc.run import folder as run_folder
from misc.run import identity, legacy
from misc.run.folder import Run
from misc.training.optim import build_optimiser

DESCRIPTION = """\
Convert a legacy checkpoint (of the spatial transformer, or from the zoo of the Object Relation Transformer) to
this project's format: weights, options, vocabulary and, where the checkpoint has them, the optimiser's moments.
eval.py and train.py --start_from also read legacy checkpoints without conversion.

  python scripts/convert_checkpoint.py --input_dir zoo/relation --output_dir checkpoints/relation

With --publish, any run becomes small enough to pass on:

  python scripts/convert_checkpoint.py --publish float16 --input_dir checkpoints/mine --output_dir published/mine"""

CARD = 'README.md'    # the model card, which may be in the folder of a published model first
# Of an infos file, what captioning with a published model, and its reader, need; `opt` and `account` in part.
PUBLIC_INFOS = ('vocab', 'iter', 'epoch', 'best_val_score', 'best_measure', 'self_critical_from', 'reward', 'regions',
                'validations')
RECORDED = ('vocab_size', 'seq_length', 'keeps_rates')    # in `opt` without being flags


def parser() -> Parser:
    """The command line of this script."""
    result = Parser(description=DESCRIPTION)
    result.add_argument('--input_dir', metavar='DIR', help='folder of the legacy checkpoint')
    result.add_argument('--model', metavar='FILE',
                        help='instead of a folder: the file of the weights, model.pth or model.pt')
    result.add_argument('--infos_path', metavar='FILE', help='with --model: its infos file')
    result.add_argument('--output_dir', required=True, metavar='DIR', help='new folder for the converted run')
    result.add_argument('--id', type=opts.run_name, default='', metavar='NAME',
                        help='name of the converted run (default: the last part of --output_dir)')
    result.add_argument('--publish', type=opts.one_of('float16', 'float32'), metavar='TYPE',
                        help='write a model to caption with, for other people: the best model of the run (without '
                             'one the last), with weights of this type (float16 takes half the space and changes '
                             'captions little, float32 keeps every bit); no moments, no histories of the training '
                             'steps, no paths. Also for runs in the format of this project')
    result.add_argument('--seq_length', type=number_in(int, 1), default=legacy.LONGEST, metavar='N',
                        help='words of the longest caption (the width of the labels it was trained with); only '
                             'for infos files that do not record it')
    return result


def main() -> None:
    """Read the run, write the converted or published one as one set of files."""
    options = parser().parse_args()
    if bool(options.input_dir) == bool(options.model) or bool(options.model) != bool(options.infos_path):
        raise UsageError('give --input_dir, or --model and --infos_path')
    options = opts.named_run(opts.replaced(options, checkpoint_path=options.output_dir), '--output_dir')
    if options.model:
        last, best = run_folder.read_run(options.model, options.infos_path, options.seq_length), None
    else:
        last, best = last_and_best(options.input_dir, options.seq_length)
    if options.publish:
        files = published(best or last, options.id, options.publish)
    else:
        files = converted_run(last, best, options.id)
    if not is_free(options.output_dir, files, (CARD,) if options.publish else ()):
        raise UsageError(f'--output_dir {options.output_dir} is not empty; name another folder')
    with filesets.only_writer(options.output_dir):
        filesets.save_set(options.output_dir, files)
    print(f'wrote {options.output_dir}; next: python eval.py --run {shlex.quote(options.output_dir)}')


def last_and_best(folder: str, longest: int) -> tuple[Run, Run | None]:
    """The runs of the last and of the best model in a folder; None for the best where the folder has only one."""
    last = run_folder.find_run(folder, longest=longest, flag='--input_dir')
    best = [os.path.join(folder, name) for name in run_folder.infos_files(folder)[1]]
    model = run_folder.find_model(folder, is_best=True)
    if len(best) != 1 or best[0] == last.infos_path or not os.path.exists(model):
        return last, None
    return last, run_folder.read_run(model, best[0], longest)


def converted_run(last: Run, best: Run | None, run_id: str) -> dict[str, bytes]:
    """The files of a legacy run in this project's format, {name: content}."""
    own = identity.derived(run_folder.tensor_bytes(last.weights), run_id.encode())
    return {**converted(last, run_id, own), **(converted(best, run_id, own, is_best=True) if best else {})}


def converted(run: Run, run_id: str, own: str, is_best: bool = False) -> dict[str, bytes]:
    """The files of the last or the best model of a legacy run, with the identity `own`; the best model's have no
    moments."""
    if run.names is None:
        raise DataError(f'{run.model_path} is in the format of this project already; copy it with '
                        'scripts/copy_model.sh, or publish it with --publish float16')
    model = model_of(run)
    known = {name: value for name, value in run.infos['opt'].items() if value is not None}
    infos = {**run.infos, 'opt': argparse.Namespace(**{**known, 'id': run_id}), identity.RUN: own}
    weights = identity.marked(model.state_dict(), own)
    files = {f'model{"-best" if is_best else ""}.pth': run_folder.tensor_bytes(weights),
             run_folder.infos_name(run_id, is_best): run_folder.pickle_bytes(infos)}
    if not is_best:
        files['optimizer.pth'] = run_folder.tensor_bytes({**converted_moments(model, run), identity.RUN: own})
    return files


def model_of(run: Run) -> torch.nn.Module:
    """The model of a run with its weights."""
    options, _ = opts.parse(opts.train_parser(), [])
    options = opts.with_model_options(options, set(), run.infos['opt'], run.infos_path)
    build = functools.partial(models.build, options, len(run.infos['vocab']) + 1, run.infos['opt']['seq_length'])
    run_folder.check_size(build, run)
    model: torch.nn.Module = build()
    run_folder.load_run_weights(model, run)
    return model


def converted_moments(model: torch.nn.Module, run: Run) -> dict[str, Any]:
    """The state of an optimiser of the same kind with the run's moments; an empty state, and a note, where the run
    has none that can be converted."""
    state = run_folder.optimiser_state(run)
    kind = legacy.optimiser_kind(state)
    if kind is not None:
        optimiser = build_optimiser(model.parameters(), kind)
        if run_folder.load_optimiser_state(optimiser, model, run, state):
            note(f'note: {run.optimiser_path} holds moments of --optim {kind}')
            return optimiser.state_dict()
    where = run.optimiser_path or os.path.dirname(run.model_path) or '.'
    note(f'note: {where} holds no moments that can be converted; training starts from zero moments')
    return {'state': {}, 'param_groups': []}


def published(run: Run, run_id: str, kind: str) -> dict[str, bytes]:
    """The files of a run's model to caption with, {name: content}: weights of the type `kind`, a key of torch, and
    infos without what only its training needs, or what names places on the machine of the training.

    Raises `DataError` where a weight is too large for the type.
    """
    if run_id.endswith('-best'):
        raise UsageError(f'--id {run_id}: files with this ending belong to the best model beside a last one; choose '
                         'another name')
    weights = model_of(run).state_dict()
    for name, value in weights.items():
        if value.is_floating_point():
            weights[name] = value.to(getattr(torch, kind))
            if not torch.isfinite(weights[name]).all():
                raise DataError(f'{run.model_path}: {name} is too large for {kind}; take --publish float32')
    own = identity.derived(run_folder.tensor_bytes(weights), run_id.encode())
    infos = {**public_infos(run.infos, run_id), run_folder.PUBLISHED: kind, identity.RUN: own}
    return {'model.pth': run_folder.tensor_bytes(identity.marked(weights, own)),
            run_folder.infos_name(run_id): run_folder.pickle_bytes(infos)}


def public_infos(infos: Mapping[str, Any], run_id: str) -> dict[str, Any]:
    """The part of a run's infos that a published model with the name `run_id` has."""
    flags = set(vars(opts.parse(opts.train_parser(), [])[0])) - set(opts.NEUTRAL)
    opt = {name: value for name, value in infos['opt'].items() if name in (*flags, *RECORDED) and value is not None}
    account = {name: part for name, part in (infos.get('account') or {}).items() if name != 'data'}
    return {**{name: infos[name] for name in PUBLIC_INFOS if name in infos},
            'opt': argparse.Namespace(**{**opt, 'id': run_id}), 'account': account,
            'loader': {'epoch': infos['epoch'], 'position': 0}}


def is_free(folder: str, files: Mapping[str, bytes], allowed: Sequence[str] = ()) -> bool:
    """Whether `folder` is empty, or holds only files that are `allowed` and what this command leaves there when it is
    killed while it writes `files`."""
    for name in filesets.listing(folder) if os.path.isdir(folder) else []:
        if name in (filesets.LOCK, filesets.JOURNAL, *allowed) or name.endswith(TEMPORARY):
            continue
        path = os.path.join(folder, name)
        if name not in files or os.path.isdir(path):
            return False
        with filesets.opened(path) as file:
            if file.read() != files[name]:
                return False
    return True


if __name__ == '__main__':
    run_command(main)
