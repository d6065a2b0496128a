"""Recurrent cells whose input consists of several parts, each projected on its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.base import Cache


class LSTMCell(nn.Module):
    """A long short-term memory cell whose input consists of parts of the given `sizes`, concatenated.

    Each part is projected on its own, by its columns of `weight_ih` (`input_weights`), so that a part that does
    not change from word to word is projected once.  The weights are those of `nn.LSTMCell`, gates in the order
    input, forget, cell, output.
    """

    gates, parts = 4, 2  # the state is (hidden, cell)

    def __init__(self, sizes: Sequence[int], size: int, bias: bool = True) -> None:
        super().__init__()
        self.sizes, self.size = list(sizes), size
        self.weight_ih = nn.Parameter(torch.empty(self.gates * size, sum(sizes)))
        self.weight_hh = nn.Parameter(torch.empty(self.gates * size, size))
        self.bias_ih: nn.Parameter | None
        self.bias_hh: nn.Parameter | None
        for name in ('bias_ih', 'bias_hh'):
            self.register_parameter(name, nn.Parameter(torch.zeros(self.gates * size)) if bias else None)

    def input_weights(self) -> Sequence[Tensor]:
        """For each part of the input, its columns of `weight_ih`, (gates * r, its size).

        Take them once for all words: the gradient of each call is as large as all columns.
        """
        return self.weight_ih.split(self.sizes, 1)

    def forward(self, inputs: Tensor, state: Cache) -> Cache:
        """The sum of the projected parts (R, 4 r), and (hidden, cell), (R, r) each -> the new two."""
        hidden, cell = state
        bias = None if self.bias_ih is None or self.bias_hh is None else self.bias_ih + self.bias_hh
        gates = inputs + F.linear(hidden, self.weight_hh, bias)
        input_gate, forget_gate, new, output_gate = gates.chunk(4, 1)
        cell = forget_gate.sigmoid() * cell + input_gate.sigmoid() * new.tanh()
        return output_gate.sigmoid() * cell.tanh(), cell


class GRUCell(LSTMCell):
    """A gated recurrent unit (Cho et al. 2014) with the same interface; the weights are those of `nn.GRUCell`,
    gates in the order reset, update, new."""

    gates, parts = 3, 1  # the state is (hidden,)

    def forward(self, inputs: Tensor, state: Cache) -> Cache:
        """The sum of the projected parts (R, 3 r), and (hidden,), (R, r) -> the new one."""
        hidden, = state
        if self.bias_ih is not None:
            inputs = inputs + self.bias_ih
        reset, update, new = inputs.chunk(3, 1)
        hidden_reset, hidden_update, hidden_new = F.linear(hidden, self.weight_hh, self.bias_hh).chunk(3, 1)
        reset, update = (reset + hidden_reset).sigmoid(), (update + hidden_update).sigmoid()
        new = (new + reset * hidden_new).tanh()
        return new + update * (hidden - new),


CELLS = {'lstm': LSTMCell, 'gru': GRUCell}
