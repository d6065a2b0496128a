"""An exponential moving average of the weights, which is validated, saved and evaluated in place of the weights."""

import contextlib
from collections.abc import Iterator

import torch


class WeightAverage:
    """average <- d * average + (1 - d) * weights after each step (Polyak and Juditsky 1992), d = `decay_at(step)`.

    Statistics of batch normalisation are averaged with the weights.  With a decay of 0 there is no average, and
    nothing is done.
    """

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        """The average of the `model`, which is on its device by now, from its weights as they are."""
        self.model, self.decay = model, decay
        # The tensors share their memory with the model's own.
        self.weights = [value for value in model.state_dict().values() if value.is_floating_point()] if decay else []
        self.average: list[torch.Tensor] = []
        self.restart()

    def restart(self) -> None:
        """Begin with the weights as they are now."""
        self.average = [value.clone() for value in self.weights]

    def decay_at(self, step: int) -> float:
        """The decay after `step` (from 1): less than `decay` at first, or the random weights of the start would
        count for long."""
        return min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights after `step` into the average."""
        if self.decay:
            torch._foreach_lerp_(self.average, self.weights, 1 - self.decay_at(step))

    @contextlib.contextmanager
    def applied(self) -> Iterator[dict[str, torch.Tensor] | None]:
        """Put the average into the model for the length of the block -> the state dict of the weights that train;
        None where there is no average."""
        if not self.decay:
            yield None
            return
        trained = {name: value.clone() for name, value in self.model.state_dict().items()}
        try:
            with torch.no_grad():
                torch._foreach_copy_(self.weights, self.average)
            yield trained
        finally:
            self.model.load_state_dict(trained)
