"""A step whose loss or gradients are not finite: kept from the weights, and told of."""

import os

import torch

from misc.cli import DataError


def refusal(where, what, image_ids, folder=None):
    """The `DataError` that says that `what` is not finite: `where` (a text that it begins with), of which
    images, and what is left in the `folder` of a run."""
    ids = ', '.join(map(str, image_ids[:10])) + (', ...' if len(image_ids) > 10 else '')
    way_out = "look at these images' features"
    if folder is not None:
        has_saved = os.path.exists(os.path.join(folder, 'model.pth'))
        kept = f'the last checkpoint in {folder} stands' if has_saved else f'nothing was saved in {folder} yet'
        way_out = f'{kept}; try a lower rate, or {way_out}'
    return DataError(f'{where}{what} not finite; the images were {ids}\n{way_out}')


def all_finite_numbers(state):
    """Whether a state dict holds finite numbers alone."""
    flags = [torch.isfinite(value).all() for value in state.values() if value.is_floating_point()]
    return not flags or bool(torch.stack(flags).all())


class LateFlags:
    """Flags of a CUDA device, looked at one step later, when they are there: the host does not wait for
    the device, which has that step to work on meanwhile."""

    def __init__(self):
        self.sent = None

    def send(self, flag, about):
        """Let `flag` (a bool tensor) travel to the host; `about` comes back with it.  Returns what came
        back of the flag before: its `about` if it was False, else None."""
        host = torch.empty((), dtype=torch.bool, pin_memory=True)
        host.copy_(flag, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record(torch.cuda.current_stream(flag.device))
        earlier = self.settle()
        self.sent = host, arrived, about
        return earlier

    def settle(self):
        """Wait for the flag that is on its way: its `about` if it is False, else None."""
        if self.sent is None:
            return None
        (host, arrived, about), self.sent = self.sent, None
        arrived.synchronize()
        return None if host else about


def guarded_step(optimiser, finite):
    """One step of the optimiser, where `finite` (a bool tensor on the device) is True.

    Where it is False a fused optimiser changes nothing; any other takes a step with gradients of 0.
    """
    if all(group.get('fused') for group in optimiser.param_groups):
        optimiser.found_inf = (~finite).float()
        optimiser.step()
        optimiser.found_inf = None
        return
    for group in optimiser.param_groups:
        for parameter in group['params']:
            if parameter.grad is not None:
                parameter.grad = torch.where(finite, parameter.grad, 0.0)
    optimiser.step()
