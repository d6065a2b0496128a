"""A run's folder: saving a set of files at once, and reading what is there.

The files of a set keep their plain names, so they cannot be replaced in one move.  A save writes
all new files beside the old ones, then a journal that names them, then moves each into place, then
removes the journal.  Whoever opens the folder finishes the moves of a journal it finds: whatever
killed the process, the folder then holds the last complete set or the one before it.
"""

import argparse
import contextlib
import io
import json
import os
import pickle
import struct

import torch

from misc import pickles
from misc.cli import DataError
from misc.files import TEMPORARY, remove_leftovers, replacing

JOURNAL = 'replacing.json'
NEW = '.new' + TEMPORARY


def save_set(folder, files):
    """Replace files of `folder` as one set: `files` is {name: bytes}.  Raises `OSError` with the old
    set in place when the disk is full or read-only."""
    os.makedirs(folder, exist_ok=True)
    finish_moves(folder)
    remove_leftovers(folder)  # of a save that was killed before its journal
    try:
        for name, content in files.items():
            with replacing(os.path.join(folder, name + NEW)) as file:
                file.write(content)
    except OSError:
        for name in files:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(folder, name + NEW))
        raise
    with replacing(os.path.join(folder, JOURNAL), 'w') as file:
        json.dump(list(files), file)
    finish_moves(folder)


def finish_moves(folder):
    """Finish a save that was interrupted after its journal was written; forget one that was not."""
    journal = os.path.join(folder, JOURNAL)
    try:
        with open(journal, encoding='utf-8') as file:
            names = [os.path.basename(name) for name in json.load(file)]
    except FileNotFoundError:
        return
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f'{journal} is not the list of files that a save leaves ({error}); remove it, '
                        f'and *{NEW} with it') from None
    for name in names:
        # A file that is gone was moved before, by the killed process or by another reader.
        with contextlib.suppress(FileNotFoundError):
            os.replace(os.path.join(folder, name + NEW), os.path.join(folder, name))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(journal)


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
    finish_moves(os.path.dirname(path) or '.')
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError:
        raise DataError(f'there is no file {path}; train.py writes it') from None
    except IsADirectoryError:
        raise DataError(f'{path} is a folder; give the file model.pth in it') from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, OSError, TypeError,
            AttributeError, AssertionError, ArithmeticError, MemoryError, ImportError, struct.error) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:150]
        raise DataError(f'{path} is not a whole file of tensors alone; nothing of it was used ({reason})\n'
                        'take model-best.pth or another copy, or train again') from None


def read_infos(path):
    """The infos file: a dict with `opt` (a dict, whatever it was saved as), `vocab`, `iter`, ...

    Raises `DataError`.
    """
    finish_moves(os.path.dirname(path) or '.')
    infos = pickles.load(path, 'train.py, which writes it beside model.pth')
    opt = infos.get('opt') if isinstance(infos, dict) else None
    opt = vars(opt) if isinstance(opt, argparse.Namespace) else opt
    if not isinstance(opt, dict) or not isinstance(infos.get('vocab'), dict):
        raise DataError(f'{path} is not an infos file: it has no opt and vocab; give the infos_ID.pkl that '
                        'train.py writes beside model.pth')
    whole = {'seq_length': opt.get('seq_length'), 'iter': infos.get('iter'), 'epoch': infos.get('epoch')}
    lacking = [name for name, value in whole.items() if not isinstance(value, int) or value < 0]
    if lacking:
        raise DataError(f'{path} is not a whole infos file: {", ".join(lacking)} should be a whole number; '
                        'give the infos_ID.pkl that train.py writes beside model.pth')
    infos['opt'] = dict(opt)
    infos['vocab'] = {str(index): word for index, word in infos['vocab'].items()}
    return infos


def infos_name(run_id, best=False):
    """The name of a run's infos file."""
    return f'infos_{run_id}{"-best" if best else ""}.pkl'


def find_infos(folder, run_id):
    """The infos file to go on from: the run's own, or the only one in the folder."""
    if not os.path.isdir(folder):
        raise DataError(f'--start_from: there is no folder {folder}')
    finish_moves(folder)
    path = os.path.join(folder, infos_name(run_id))
    if os.path.exists(path):
        return path
    others = [name for name in sorted(os.listdir(folder))
              if name.startswith('infos_') and name.endswith('.pkl') and not name.endswith('-best.pkl')]
    if len(others) == 1:
        return os.path.join(folder, others[0])
    raise DataError(f'--start_from: {folder} has no {infos_name(run_id)}'
                    + (f', but {", ".join(others)}; name the run with --id' if others else
                       '; nothing was saved there yet, so leave --start_from out'))


def load_weights(model, state, path):
    """Load a state dict into the model; `DataError` names the keys or shapes that do not fit."""
    if not isinstance(state, dict) or not all(map(torch.is_tensor, state.values())):
        raise DataError(f'{path} is not a state dict of tensors; give the model.pth of a run')
    own = model.state_dict()
    problems = [f'{name} is missing' for name in own if name not in state]
    problems += [f'{name} is not known' for name in state if name not in own]
    problems += [f'{name} is {tuple(value.shape)}, not {tuple(own[name].shape)}'
                 for name, value in state.items() if name in own and value.shape != own[name].shape]
    if problems:
        more = f' and {len(problems) - 3} more' if len(problems) > 3 else ''
        raise DataError(f'{path} does not fit the model that its infos file describes: '
                        f'{"; ".join(problems[:3])}{more}')
    broken = [name for name, value in state.items() if not torch.isfinite(value).all()]
    if broken:
        raise DataError(f'{path} holds numbers that are not finite ({broken[0]}); take model-best.pth or an '
                        'earlier copy')
    model.load_state_dict(state)
