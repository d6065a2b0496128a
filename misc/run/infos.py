"""What an infos file may contain: a run's options, vocabulary and state.

Files of earlier versions lack some entries, and those of later ones may have more; an entry that is there has to be
of the right kind, or a run resumed from it would fail, or silently go wrong, much later.
"""

import argparse
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from misc.run.identity import is_identity

LONGEST = 10_000           # words of a caption
LARGEST_OPTION = 1 << 20   # of the sizes of a model
MOST_LAYERS = 1000


def problem(infos: Mapping[str, Any]) -> str:
    """What is wrong with `infos`, the content of a file whose `opt` is a dict by now; '' if nothing is."""
    for name, is_right in RULES.items():
        if name in infos and not is_right(infos[name]):
            return f'its {name} is not what train.py writes'
    for name, most in (('seq_length', LONGEST), ('num_layers', MOST_LAYERS)):
        if is_number(infos['opt'].get(name)) and infos['opt'][name] > most:
            return f'its opt says {name} {infos["opt"][name]:g}'
    for name, value in infos['opt'].items():
        if name in SIZES and is_number(value) and value > LARGEST_OPTION:
            return f'its opt says {name} {value:g}'
    return ''


def is_number(value: Any) -> bool:
    """Whether it is a real number, finite or not."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def is_finite(value: Any) -> bool:
    """Whether it is a finite number of moderate size."""
    return is_number(value) and bool(abs(value) < 1e300)


def is_count(value: Any) -> bool:
    """Whether it is a whole number from 0."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and 0 <= int(value) < 2 ** 62


def is_score(value: Any) -> bool:
    """Whether it is a finite number, or None."""
    return value is None or is_finite(value)


def is_text(value: Any) -> bool:
    """Whether it is text, or None."""
    return value is None or isinstance(value, str)


def is_options(value: Any) -> bool:
    """Whether it holds options by name."""
    return is_named(vars(value) if isinstance(value, argparse.Namespace) else value) and value is not None


def is_vocabulary(value: Any) -> bool:
    """Whether it is {index: word}, indices being whole numbers or text."""
    return isinstance(value, dict) and len({str(index) for index in value}) == len(value) and all(
        isinstance(index, (int, str)) and isinstance(word, str) for index, word in value.items())


def is_loader(value: Any) -> bool:
    """Whether it is a position in the training batches, as `TrainBatches.state` gives it."""
    if not (isinstance(value, dict) and is_count(value.get('epoch')) and is_count(value.get('position'))):
        return False
    order = value.get('order', np.zeros(0, int))
    order = np.asarray(order) if isinstance(order, (list, np.ndarray)) else np.zeros((), float)
    return order.ndim == 1 and (order.dtype.kind in 'iu' or not order.size)


def is_plateau(value: Any) -> bool:
    """Whether it is the state of a `misc.training.schedule.Plateau`, or None."""
    if value is None:
        return True
    return (isinstance(value, (tuple, list)) and len(value) == 4 and is_score(value[0]) and is_count(value[1])
            and is_finite(value[2]) and 0 < value[2] <= 1 and is_text(value[3]))


def is_random(value: Any) -> bool:
    """Whether it is the state of a process's random number generators."""
    if not isinstance(value, dict):
        return False
    devices = value.get('cuda', [])
    if not isinstance(devices, list) or not all(map(is_bytes, [value.get('torch'), *devices])):
        return False
    try:
        torch.Generator().set_state(torch.from_numpy(np.array(value['torch'])))
    except (RuntimeError, TypeError):
        return False
    return True


def is_bytes(value: Any) -> bool:
    """Whether it is an array of bytes."""
    return isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 1


def is_histories(value: Any) -> bool:
    """Whether it is {name: {iteration: anything}}, or None."""
    return value is None or isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(history, dict) and all(map(is_count, history))
        for name, history in value.items())


def is_validations(value: Any) -> bool:
    """Whether it is a list of the lines of validations.jsonl, or None."""
    return value is None or isinstance(value, list) and all(
        isinstance(line, dict) and is_count(line.get('iteration')) and all(
            isinstance(name, str) and (is_text(one) or isinstance(one, (bool, int, float)))
            for name, one in line.items()) for line in value)


def is_named(value: Any) -> bool:
    """Whether it is a dict with text for keys, or None."""
    return value is None or isinstance(value, dict) and all(isinstance(name, str) for name in value)


def is_plain(value: Any) -> bool:
    """Whether JSON has a form for it, so that it can be compared with what JSON holds."""
    if isinstance(value, (dict, list)):
        return all(map(is_plain, value.values() if isinstance(value, dict) else value))
    return isinstance(value, (str, int, float, type(None)))


RULES: dict[str, Callable[[Any], bool]] = {
    'opt': is_options, 'vocab': is_vocabulary, 'iter': is_count, 'epoch': is_count, 'best_val_score': is_score,
    'best_measure': is_text, 'loader': is_loader, 'plateau': is_plateau, 'random': is_random,
    'random_of_others': lambda value: isinstance(value, (list, tuple)) and all(map(is_random, value)),
    'histories': is_histories, 'validations': is_validations,
    'first_cider': is_score, 'validation_due': lambda value: isinstance(value, bool),
    'self_critical_from': lambda value: value is None or is_count(value), 'reward': is_named,
    'regions': is_named, 'run': lambda value: value is None or is_identity(value),
    'published': is_text, 'account': lambda value: is_named(value) and is_plain(value)}
SIZES = {'input_encoding_size', 'ff_size', 'hidden_size', 'att_hid_size', 'img_feat_size', 'num_grids', 'heads'}
