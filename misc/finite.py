"""A step whose loss or gradients are not finite: kept from the weights, and told of."""

import torch


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
