"""Several processes that work as one, as `torchrun` starts them; without it, one process and no messages.

Each process holds the whole model and works on its share of the images.  Gradients are added up here and
not by DistributedDataParallel, because the loss is a mean over the tokens of the joint batch: processes
have different numbers of tokens, or none, so sums have to travel, and the tokens with them.  The models
are entered by `encode` and `word_log_probs`, besides, not by the one `forward` that it wraps.

Numbers and objects of the host travel by gloo, so that no message waits for a GPU; gradients between GPUs
by NCCL.  What can fail in one process alone runs inside `together`, `gathered` or `on_main`: they agree
on how it ended before any process goes on, so that none is left waiting for one that gave up.
"""

import contextlib
import datetime
import os
import sys

import torch
from torch import distributed

from misc.cli import UserError

PATIENCE = datetime.timedelta(hours=2)  # of processes that wait while the main one scores or saves
LONG_PATIENCE = datetime.timedelta(days=365)  # while its work may take days; one that dies is noticed at once


def count():
    """The number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank():
    """The number of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_main():
    """Whether this is the process that prints and writes."""
    return rank() == 0


@contextlib.contextmanager
def processes():
    """Join the processes that `torchrun` started, for the length of the block.  From then on, all but the
    main one are silent; one that fails by itself speaks."""
    if not distributed.is_torchelastic_launched() or int(os.environ['WORLD_SIZE']) == 1:
        yield
        return
    backend = 'cpu:gloo,cuda:nccl' if torch.cuda.is_available() else 'gloo'
    distributed.init_process_group(backend, timeout=PATIENCE)
    if not is_main():
        sys.stdout = sys.stderr = open(os.devnull, 'w', encoding='utf-8')
    try:
        yield
    except Exception:
        _speak()
        raise
    finally:
        distributed.destroy_process_group()


def together(work, group=None):
    """Run `work()` while the other processes run theirs -> what it returned here.  `group` (of all of them)
    is what they tell one another by.

    Where it fails in some, all end: the first of them raises its error, the others leave without a word
    and with the same exit status.
    """
    if count() == 1:
        return work()
    result = error = None
    try:
        result = work()
    except Exception as failure:
        if getattr(failure, 'agreed', False):   # in a `together` within this one: the others have left
            raise
        error = failure
    statuses = _numbers(0 if error is None else getattr(error, 'status', 1), group)
    failed = [number for number, status in enumerate(statuses) if status]
    if not failed:
        return result
    if rank() != failed[0]:
        raise SystemExit(statuses[failed[0]])
    _speak()
    error.agreed = True
    raise error


def gathered(work):
    """Run `work()` in every process -> the list of what they returned, by rank, in all of them."""
    result = together(work)
    if count() == 1:
        return [result]
    results = [None] * count()
    with _company():
        distributed.all_gather_object(results, result)
    return results


def on_main(work, may_take_days=False):
    """Run `work()` in the main process -> what it returned, in all of them.  They wait for it `PATIENCE`
    at most, or as long as it takes where it `may_take_days`."""
    group = None
    if may_take_days and count() > 1:
        together(lambda: None)   # with one that failed on the way here there is no group to be made
        group = distributed.new_group(timeout=LONG_PATIENCE, backend='gloo')
    result = together(work if is_main() else lambda: None, group)
    if count() == 1:
        return result
    results = [result]
    with _company():
        distributed.broadcast_object_list(results, 0)
    return results[0]


def most(number):
    """The largest whole number that a process has."""
    return number if count() == 1 else max(_numbers(number))


def part(items):
    """This process's part of a list: one stretch of it, empty where there are more processes."""
    start, end = (len(items) * number // count() for number in (rank(), rank() + 1))
    return items[start:end]


def every_nth(items):
    """This process's share of a list: every n-th item, for n processes."""
    return items[rank()::count()]


def put_together(shares):
    """The list whose `every_nth` shares were `shares`, by rank."""
    items = [None] * sum(map(len, shares))
    for number, share in enumerate(shares):
        items[number::len(shares)] = share
    return items


def mean_gradients(parameters, total, tokens):
    """Make the mean over the joint batch's tokens of what each process has as a sum.

    `parameters` (a list) hold the gradients of `total`, the sum of the losses of this process's `tokens`;
    `total` is a number on the device, and `tokens` may be.  Afterwards they hold those of the mean, the same
    in all processes.  Returns the mean loss, on the device.  A parameter that has no gradient in any
    process gets none.
    """
    if count() == 1:
        if tokens != 1:
            torch._foreach_div_([p.grad for p in parameters if p.grad is not None], tokens)
        return total / tokens
    used = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8)
    with _company():
        distributed.all_reduce(used, distributed.ReduceOp.MAX)
    used = [parameter for parameter, has in zip(parameters, used.tolist()) if has]
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in used]
    joint = torch.cat([sums.flatten() for sums in (*parts, total, total.new_zeros(1) + tokens)])
    with _company():
        distributed.all_reduce(joint)
    joint[:-1] /= joint[-1].clone()
    place = 0
    for parameter in used:
        parameter.grad = joint[place:place + parameter.numel()].view_as(parameter)
        place += parameter.numel()
    return joint[place]


def _numbers(number, group=None):
    """The whole numbers of all processes, by rank."""
    numbers = [torch.zeros(1, dtype=torch.long) for _ in range(count())]
    with _company():
        distributed.all_gather(numbers, torch.tensor([number]), group)
    return [int(one) for one in numbers]


class Lost(UserError):
    """Another process is gone."""


@contextlib.contextmanager
def _company():
    """Leave when another process is gone."""
    try:
        yield
    except RuntimeError as error:
        if 'DataLoader worker' in str(error):  # a signal that came while this process waited
            raise
        if not is_main():
            raise SystemExit(Lost.status) from None
        raise Lost('another process of this run ended without a word, perhaps for want of memory; start all '
                   f'of them again, with --start_from if it was training ({str(error)[:100]})') from None


def _speak():
    """Let this process be heard."""
    if not is_main():
        sys.stderr = sys.__stderr__
