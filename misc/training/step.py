"""One step of the optimiser, refused where the loss or a gradient is not finite."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from misc import parallel
from misc.cli import DataError
from misc.training.gradients import JointGradients
from misc.training.losses import all_finite
from misc.training.optim import set_rate
from misc.training.transfers import Arriving


@dataclass(frozen=True)
class Step:
    """What a message says of a step: its number (from 1), its epoch, its learning rate, and the ids of its images
    (those of this process)."""

    iteration: int
    epoch: int
    rate: float
    image_ids: list[int]


class Updater:
    """Clips gradients, checks them and takes the optimiser's steps.

    Where the loss or a gradient is not finite, the weights stay as they are and the run ends with a `DataError`: on
    the CPU at once; on a CUDA device, which the host does not wait for, one step later.

    joint   the gradients, which are those of all processes
    """

    def __init__(self, model: torch.nn.Module, optimiser: Any, grad_clip: float, device: torch.device,
                 folder: str) -> None:
        """`grad_clip`: gradients are clamped to +-grad_clip; `folder`: the run's, for messages."""
        self.model, self.optimiser, self.grad_clip = model, optimiser, grad_clip
        self.parameters = list(model.parameters())
        self.folder, self.flags = folder, LateFlags()
        # Several processes hear that a step was refused before they send gradients of the next.
        self.joint = JointGradients(self.parameters, device, lambda: self._refuse(self.flags.settle()))
        self.last: Step | None = None

    def update(self, loss: torch.Tensor, step: Step) -> None:
        """Take the `step` along the gradients that the parameters hold; `loss` is a scalar on the device."""
        set_rate(self.optimiser, step.rate)
        self.last = step
        finite = all_finite(loss, self.parameters)
        torch.nn.utils.clip_grad_value_(self.parameters, self.grad_clip)
        if self.joint.late:
            guarded_step(self.optimiser, finite)
            self._refuse(self.flags.send(finite, step))
        elif finite:
            self.optimiser.step()
        else:
            self._refuse(step)

    def check(self) -> None:
        """Raise if the last step was not finite, or left weights that are not: a loss and its gradients may be
        finite and the step still too large."""
        self._refuse(self.flags.settle())
        if self.last and parallel.most(int(not all_finite_numbers(self.model.state_dict()))):
            self._refuse(self.last, 'a weight is, after this step,')

    def _refuse(self, step: Step | None, what: str = 'the loss or a gradient is') -> None:
        """End the run because of a `step` that was not finite; None: there is no such step."""
        if step is None:
            return
        ids = sum(parallel.gathered(lambda: step.image_ids), [])

        def refuse() -> None:
            raise not_finite(f'iteration {step.iteration} (epoch {step.epoch}, learning rate {step.rate:.3g}): ',
                             what, ids, self.folder)
        parallel.together(refuse)


def not_finite(where: str, what: str, image_ids: list[int], folder: str | None = None) -> DataError:
    """The `DataError` that says that `what` is not finite: `where` begins the message, the images are those of the
    batch, and `folder` is that of the run, to say what is saved there."""
    ids = ', '.join(map(str, image_ids[:10])) + (', ...' if len(image_ids) > 10 else '')
    way_out = "look at these images' features"
    if folder is not None:
        has_saved = os.path.exists(os.path.join(folder, 'model.pth'))
        kept = f'the last checkpoint in {folder} is intact' if has_saved else f'nothing was saved in {folder} yet'
        way_out = f'{kept}; try a lower rate, or {way_out}'
    return DataError(f'{where}{what} not finite; the images were {ids}\n{way_out}')


def all_finite_numbers(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether a state dict holds only finite numbers."""
    flags = [torch.isfinite(value).all() for value in state.values() if value.is_floating_point()]
    return not flags or bool(torch.stack(flags).all())


class LateFlags:
    """Flags of a CUDA device that are read one step later, when they have arrived, so that host and device never
    synchronise."""

    def __init__(self) -> None:
        self.sent: tuple[Arriving, Step] | None = None

    def send(self, flag: torch.Tensor, step: Step) -> Step | None:
        """Start the copy of `flag`, a bool tensor, to the host.  Returns the step of the flag sent before if that
        flag was False, else None."""
        arriving = Arriving(flag)
        earlier = self.settle()
        self.sent = arriving, step
        return earlier

    def settle(self) -> Step | None:
        """Wait for the flag under way; returns its step if the flag is False, else None."""
        if self.sent is None:
            return None
        (flag, step), self.sent = self.sent, None
        return None if flag.numbers() else step


def guarded_step(optimiser: Any, finite: torch.Tensor) -> None:
    """One step of the optimiser where `finite`, a bool tensor on the device, is True.

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
