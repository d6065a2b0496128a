"""Convert a legacy checkpoint to this project's format; `python scripts/convert_checkpoint.py --help`."""

import argparse
import functools
import os
import sys
from collections.abc import Mapping
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

  python scripts/convert_checkpoint.py --input_dir zoo/relation --output_dir checkpoints/relation"""


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
    result.add_argument('--seq_length', type=number_in(int, 1), default=legacy.LONGEST, metavar='N',
                        help='words of the longest caption (the width of the labels it was trained with); only '
                             'for infos files that do not record it')
    return result


def main() -> None:
    """Read the legacy checkpoint, write the converted run as one set of files."""
    options = parser().parse_args()
    if bool(options.input_dir) == bool(options.model) or bool(options.model) != bool(options.infos_path):
        raise UsageError('give --input_dir, or --model and --infos_path')
    options = opts.named_run(opts.replaced(options, checkpoint_path=options.output_dir), '--output_dir')
    if options.model:
        last, best = run_folder.read_run(options.model, options.infos_path, options.seq_length), None
    else:
        last, best = last_and_best(options.input_dir, options.seq_length)
    own = identity.derived(run_folder.tensor_bytes(last.weights), options.id.encode())
    files = converted(last, options.id, own)
    if best is not None:
        files.update(converted(best, options.id, own, is_best=True))
    if not is_free(options.output_dir, files):
        raise UsageError(f'--output_dir {options.output_dir} is not empty; name another folder')
    with filesets.only_writer(options.output_dir):
        filesets.save_set(options.output_dir, files)
    names = 'model.pth', run_folder.infos_name(options.id)
    model, infos = (os.path.join(options.output_dir, name) for name in names)
    print(f'wrote {options.output_dir}; evaluate with --model {model} --infos_path {infos}')


def last_and_best(folder: str, longest: int) -> tuple[Run, Run | None]:
    """The runs of the last and of the best model in a folder; None for the best where the folder has only one."""
    last = run_folder.find_run(folder, longest=longest, flag='--input_dir')
    best = [os.path.join(folder, name) for name in run_folder.infos_files(folder)[1]]
    model = run_folder.find_model(folder, is_best=True)
    if len(best) != 1 or best[0] == last.infos_path or not os.path.exists(model):
        return last, None
    return last, run_folder.read_run(model, best[0], longest)


def converted(run: Run, run_id: str, own: str, is_best: bool = False) -> dict[str, bytes]:
    """The files of a legacy run in this project's format, {name: content}, with the identity `own`; the best model's
    have no moments."""
    if run.names is None:
        raise DataError(f'{run.model_path} is in the format of this project already; copy it with '
                        'scripts/copy_model.sh')
    options, _ = opts.parse(opts.train_parser(), [])
    options = opts.with_model_options(options, set(), run.infos['opt'], run.infos_path)
    build = functools.partial(models.build, options, len(run.infos['vocab']) + 1, run.infos['opt']['seq_length'])
    run_folder.check_size(build, run)
    model = build()
    run_folder.load_run_weights(model, run)
    known = {name: value for name, value in run.infos['opt'].items() if value is not None}
    infos = {**run.infos, 'opt': argparse.Namespace(**{**known, 'id': run_id}), identity.RUN: own}
    weights = identity.marked(model.state_dict(), own)
    files = {f'model{"-best" if is_best else ""}.pth': run_folder.tensor_bytes(weights),
             run_folder.infos_name(run_id, is_best): run_folder.pickle_bytes(infos)}
    if not is_best:
        files['optimizer.pth'] = run_folder.tensor_bytes({**converted_moments(model, run), identity.RUN: own})
    return files


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


def is_free(folder: str, files: Mapping[str, bytes]) -> bool:
    """Whether `folder` is empty, or holds only what this command leaves there when it is killed while it writes
    `files`."""
    for name in filesets.listing(folder) if os.path.isdir(folder) else []:
        if name in (filesets.LOCK, filesets.JOURNAL) or name.endswith(TEMPORARY):
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
