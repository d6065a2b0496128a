"""The gradients of a batch that several processes share.

Each process computes the gradients of the sum of its own tokens' losses.  They are copied into flat buckets, and a
bucket is on its way as soon as it is full, while the backward pass computes those of earlier layers.  A small message
follows with what the process states: the sum of its losses, the number of its tokens, and what it asks for.

DistributedDataParallel does the first of these, but takes the mean over processes, where the loss is a mean over the
tokens of the whole batch, of which processes have different numbers, or none; and it wraps a single `forward`, where
models are called through `encode` and `word_states`.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import distributed

from misc import parallel
from misc.training.transfers import Arriving

BUCKET = 25 << 20   # bytes from which a bucket is sent: smaller messages cost more, larger ones start later
REQUESTS = 32       # numbers that a process may ask for, from 1; 0 asks for nothing


class JointGradients:
    """Gradients of the mean loss over the tokens of all processes, and what the processes ask of one another.

    Of one process alone it sends nothing.  On a CUDA device host and device never synchronise: what was stated in
    one step is read in the next, before that sends anything.

    shared    whether there are other processes
    request   what this process asks for with its next step, a number below `REQUESTS`
    agreed    the largest request of all processes, the same in all of them
    """

    def __init__(self, parameters: Sequence[torch.Tensor], device: torch.device,
                 before_sending: Callable[[], None], shared: bool | None = None) -> None:
        """`parameters`: of one dtype, on `device`.  `before_sending()` is called in each step before its first
        message, in all processes alike.  shared: by default, whether there are several processes."""
        self.parameters, self.device, self.before_sending = list(parameters), device, before_sending
        self.shared = parallel.count() > 1 if shared is None else shared
        self.late = device.type == 'cuda'
        self.request = self.agreed = 0
        self.buckets: list[Bucket] | None = None    # known after the first step's backward pass
        self.bucket_of: dict[int, Bucket] = {}      # by the number of a parameter
        self.order: list[int] = []                  # of the first step: parameters as their gradients came
        self.is_final = False                       # whether gradients that come now will not change any more
        self.sent = 0                               # buckets of this step that were sent
        self.has_stated = False
        self.heard: Arriving | None = None          # the last step's statement, where it is read late
        if self.shared:
            for number, parameter in enumerate(self.parameters):
                parameter.register_post_accumulate_grad_hook(functools.partial(self._arrived, number))

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """The block that computes the gradients of one batch and ends with `mean`.

        An error that this process alone has in it ends all: its loss is stated as not a number, so the step is
        refused everywhere, and all processes meet to hear of the error (`parallel.together`).
        """
        self.is_final, self.has_stated, self.sent = False, False, 0
        try:
            yield
        except Exception as error:
            is_own = not isinstance(error, parallel.LostProcess) and not getattr(error, 'agreed', False)
            if not self.shared or not is_own or self.has_stated:
                raise
            self.mean(torch.full((), math.nan, device=self.device), 0)
            parallel.together(functools.partial(_raise, error))

    def last_part(self) -> None:
        """Called before the last backward pass of a step: the gradients that it leaves are sent as they come."""
        if not self.shared or self.is_final:
            return
        self._hear()
        self.before_sending()
        for bucket in self.buckets or ():
            bucket.missing = len(bucket.numbers)
        self.is_final = True

    def mean(self, total: torch.Tensor, tokens: int | torch.Tensor) -> torch.Tensor:
        """Turn the summed gradients into those of the mean over all processes' tokens.

        Before: the parameters hold the gradients of `total`, a scalar on the device: the sum of the losses of this
        process's `tokens`, a number that may be on the device too.  After: they hold the gradients of the mean loss,
        the same in all processes; a parameter without a gradient in every process keeps none.  Returns the mean
        loss, on the device.
        """
        if not self.shared:
            if tokens != 1:
                torch._foreach_div_([p.grad for p in self.parameters if p.grad is not None], tokens)
            return total / tokens
        self.last_part()
        self.is_final = False
        if self.buckets is None:
            self._lay_out()
        assert self.buckets is not None
        for bucket in self.buckets[self.sent:]:
            self._send(bucket)
        statement = self._state(total, tokens)
        for bucket in self.buckets:
            with parallel.noticing_lost_processes():
                bucket.message.wait()
            bucket.flat.div_(statement[1])
        return (statement[0] / statement[1]).to(total.dtype)

    def _arrived(self, number: int, _: torch.Tensor) -> None:
        """The gradient of a parameter is there (a hook of the backward pass)."""
        if not self.is_final:
            return
        if self.buckets is None:
            self.order.append(number)
            return
        if number not in self.bucket_of:
            raise RuntimeError(f'parameter {number} has a gradient, and had none in the first step of this start')
        self.bucket_of[number].missing -= 1
        # In the same order in all processes, or one's message would meet another of its neighbour.
        while self.sent < len(self.buckets) and not self.buckets[self.sent].missing:
            self._send(self.buckets[self.sent])

    def _lay_out(self) -> None:
        """Form the buckets, in the order in which gradients came in the first step: the last layers come first, but
        the keys of all layers' cross-attention after the whole decoder.

        Nothing was sent during that step, so it adds up its gradients as all later ones do: in a run that is
        resumed, the same numbers in the same order.
        """
        orders = parallel.gathered(lambda: self.order)
        longest = max(orders, key=len)
        others = sorted(set().union(*orders) - set(longest))
        self.buckets, numbers, size = [], [], 0
        for number in [*longest, *others]:
            numbers.append(number)
            size += self.parameters[number].nbytes
            if size >= BUCKET:
                self.buckets.append(Bucket(self.parameters, numbers))
                numbers, size = [], 0
        if numbers:
            self.buckets.append(Bucket(self.parameters, numbers))
        self.bucket_of = {number: bucket for bucket in self.buckets for number in bucket.numbers}

    def _send(self, bucket: 'Bucket') -> None:
        """Start the sum of a bucket over all processes; the next of `sent`."""
        bucket.fill()
        with parallel.noticing_lost_processes():
            bucket.message = distributed.all_reduce(bucket.flat, async_op=True)
        self.sent += 1

    def _state(self, total: torch.Tensor, tokens: int | torch.Tensor) -> torch.Tensor:
        """Send this process's statement -> the sum of all: the loss, the tokens, and how many ask for each of
        `REQUESTS`, in double precision."""
        statement = torch.zeros(2 + REQUESTS, dtype=torch.float64, device=self.device)
        statement[0] += total
        statement[1] += tokens
        statement[2 + self.request] += 1
        with parallel.noticing_lost_processes():
            distributed.all_reduce(statement)
        self.has_stated = True
        self.heard = Arriving(statement[2:])
        if not self.late:
            self._hear()
        return statement

    def _hear(self) -> None:
        """Read what was asked for in the last statement."""
        if self.heard is not None:
            asked, self.heard = self.heard.numbers(), None
            self.agreed = int(asked.nonzero().max())


class Bucket:
    """The gradients of some parameters, side by side in `flat`.

    numbers   of the parameters
    views     of the gradients in `flat`, which the parameters have from the moment it is sent
    missing   how many gradients of this step have not come yet
    message   the message under way
    """

    def __init__(self, parameters: Sequence[torch.Tensor], numbers: Sequence[int]) -> None:
        self.numbers, self.missing = numbers, len(numbers)
        self.parameters = [parameters[number] for number in numbers]
        sizes = [parameter.numel() for parameter in self.parameters]
        self.flat = self.parameters[0].new_empty(sum(sizes))
        self.views = [part.view_as(parameter) for part, parameter in zip(self.flat.split(sizes), self.parameters)]
        self.message: Any = None

    @torch.no_grad()
    def fill(self) -> None:
        """Take over the gradients that are there; the others are 0."""
        if any(parameter.grad is None for parameter in self.parameters):
            self.flat.zero_()
        there = [(view, parameter.grad) for view, parameter in zip(self.views, self.parameters)
                 if parameter.grad is not None]
        if there:
            torch._foreach_copy_([view for view, _ in there], [gradient for _, gradient in there])
        for view, parameter in zip(self.views, self.parameters):
            parameter.grad = view


def _raise(error: Exception) -> None:
    raise error
