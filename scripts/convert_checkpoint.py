"""Write a run that older code left in this project's form; `python scripts/convert_checkpoint.py --help`."""

import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import models
import opts
from misc.cli import DataError, Parser, UsageError, note, number_in, run_command
from misc.disk import filesets
from misc.disk.files import TEMPORARY
from misc.run import folder as run_folder
from misc.run import legacy
from misc.training.optim import build_optimiser

DESCRIPTION = """\
Write a run of older code (the spatial transformer's, or the zoo of the Object Relation Transformer) in
the form of this project: weights, options, vocabulary, and the optimiser's moments where they are there.
eval.py and train.py --start_from read such files as they are, too.

  python scripts/convert_checkpoint.py --input_dir zoo/relation --output_dir checkpoints/relation"""


def parser():
    """The command line of this script."""
    result = Parser(description=DESCRIPTION)
    result.add_argument('--input_dir', metavar='DIR', help='folder of the old run')
    result.add_argument('--model', metavar='FILE',
                        help='in place of a folder: its weights, model.pth or model.pt')
    result.add_argument('--infos_path', metavar='FILE', help='with --model: its infos file')
    result.add_argument('--output_dir', required=True, metavar='DIR', help='folder to make')
    result.add_argument('--id', type=opts.run_name, default='', metavar='NAME',
                        help='name of the new run (default: the last part of --output_dir)')
    result.add_argument('--seq_length', type=number_in(int, 1), default=legacy.LONGEST, metavar='N',
                        help='words of the longest caption, the width of the labels it was trained with; '
                             'for infos files that do not say it')
    return result


def main():
    """Read the old run, write the new one as one set of files."""
    options = parser().parse_args()
    if bool(options.input_dir) == bool(options.model) or bool(options.model) != bool(options.infos_path):
        raise UsageError('give --input_dir, or --model and --infos_path')
    options = opts.named_run(opts.replaced(options, checkpoint_path=options.output_dir), '--output_dir')
    run, best = old_runs(options)
    files = converted(run, options.id)
    if best is not None:
        files.update(converted(best, options.id, is_best=True))
    if not is_free(options.output_dir, files):
        raise UsageError(f'--output_dir {options.output_dir} is not empty; name another folder')
    with filesets.only_writer(options.output_dir):
        filesets.save_set(options.output_dir, files)
    names = 'model.pth', run_folder.infos_name(options.id)
    paths = [os.path.join(options.output_dir, name) for name in names]
    print(f'wrote {options.output_dir}; evaluate with --model {paths[0]} --infos_path {paths[1]}')


def is_free(folder, files):
    """Whether nothing lies in `folder` but what this command, killed on its way to `files`, may have left."""
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


def old_runs(options):
    """The last model's `Run`, and the best model's where the folder has both."""
    if options.model:
        return run_folder.read_run(options.model, options.infos_path, options.seq_length), None
    folder = options.input_dir
    run = run_folder.find_run(folder, longest=options.seq_length, flag='--input_dir')
    best = [os.path.join(folder, name) for name in run_folder.infos_files(folder)[1]]
    model = run_folder.find_model(folder, is_best=True)
    if len(best) != 1 or best[0] == run.infos_path or not os.path.exists(model):
        return run, None
    return run, run_folder.read_run(model, best[0], options.seq_length)


def converted(run, run_id, is_best=False):
    """The files {name: bytes} of a `Run` in this project's form; the best has no moments."""
    if run.names is None:
        raise DataError(f'{run.model_path} is of this project already; copy it with scripts/copy_model.sh')
    options, _ = opts.parse(opts.train_parser(), [])
    options = opts.with_model_options(options, set(), run.infos['opt'], run.infos_path)
    model = models.build(options, len(run.infos['vocab']) + 1, run.infos['opt']['seq_length'])
    run_folder.load_run_weights(model, run)
    known = {name: value for name, value in run.infos['opt'].items() if value is not None}
    infos = {**run.infos, 'opt': argparse.Namespace(**{**known, 'id': run_id})}
    files = {f'model{"-best" if is_best else ""}.pth': run_folder.tensor_bytes(model.state_dict()),
             run_folder.infos_name(run_id, is_best): run_folder.pickle_bytes(infos)}
    if not is_best:
        files['optimizer.pth'] = run_folder.tensor_bytes(converted_moments(model, run))
    return files


def converted_moments(model, run):
    """The state of an optimiser with the moments of a `Run`, of the kind that they are of; without any it
    holds nothing, and a line says so."""
    state = run_folder.optimiser_state(run)
    kind = legacy.optimiser_kind(state)
    if kind is not None:
        optimiser = build_optimiser(model.parameters(), kind)
        if run_folder.load_optimiser_state(optimiser, model, run, state):
            note(f'note: {run.optimiser_path} is of --optim {kind}')
            return optimiser.state_dict()
    where = run.optimiser_path or os.path.dirname(run.model_path) or '.'
    note(f'note: {where} holds no moments that can be translated; training starts them anew')
    return {'state': {}, 'param_groups': []}


if __name__ == '__main__':
    run_command(main)
