"""Dropout as a module, also joined with the operation beside it."""

from torch import Tensor, nn

from models import kernels


class Dropout(nn.Module):
    """In training, sets each element to 0 with `probability` and scales the others up."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    @property
    def active(self) -> float:
        """The probability in training, else 0."""
        return self.probability if self.training else 0.0

    def forward(self, rows: Tensor) -> Tensor:
        """Any shape -> the same shape."""
        return kernels.dropout(rows, self.active)

    def add(self, rows: Tensor, update: Tensor) -> Tensor:
        """rows + Dropout(update): the end of every residual block."""
        return kernels.add_dropout(rows, update, self.active)

    def relu_(self, rows: Tensor) -> Tensor:
        """Dropout(ReLU(rows)), in place of rows that nothing else needs, such as a Linear's output."""
        return kernels.relu_dropout_(rows, self.active)

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f'{self.probability:g}'
