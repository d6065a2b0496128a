"""Cross-entropy steps as CUDA graphs: the kernels of loss and gradients recorded once for all batches of a layout.

Every batch has other numbers of regions and words.  So batches are padded to few different layouts, by images without
weight in the loss: some with regions and no words, some with words and one region each.  Only the numbers of all are
padded, not each image, so that little is computed for nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.graphs import on_side_stream, record_cuda_graph
from models.packing import Counts

KEPT = 16       # layouts: those of batches of COCO are about ten
REGIONS = 64    # the most regions of an image are rounded up to a multiple of this
ARRAYS = ('features', 'grids', 'boxes')

# Records the kernels of a function -> (a function that runs them again, the result, which that overwrites).
Record = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]


class Layout(NamedTuple):
    """What the shapes of a padded batch depend on: `images` of its own and `padding` of either kind, captions of each
    (`copies`) and their `width`; the most regions of an image; and how many regions, tokens (words and ends of
    captions) and pairs of a token and a region there are in all."""

    images: int
    padding: int
    copies: int
    width: int
    most_regions: int
    regions: int
    tokens: int
    pairs: int

    @classmethod
    def of(cls, batch: Any) -> Layout:
        """The layout of a batch with captions."""
        images, copies, width = batch.captions.shape
        tokens = [sum(batch.lengths[i * copies:(i + 1) * copies]) + copies for i in range(images)]
        pairs = sum(count * some for count, some in zip(batch.counts, tokens))
        padding, most_tokens = max(1, images // 4), copies * (width + 1)
        most_regions = rounded_up(max(batch.counts), REGIONS)
        # As many as the padding's images can have; each with words has one region, and at least one a word.
        all_tokens = rounded_up(sum(tokens) + 1, padding * most_tokens)
        regions = rounded_up(sum(batch.counts) + padding, padding * most_regions)
        pairs = rounded_up(pairs + all_tokens - sum(tokens), padding * most_tokens * most_regions // 2)
        return cls(images, padding, copies, width, most_regions, regions, all_tokens, pairs)

    def counts(self, counts: Sequence[int]) -> list[int]:
        """The regions of all images, those of the padding behind the others'."""
        return [*counts, *shares(self.regions - sum(counts) - self.padding, self.most_regions, self.padding),
                *[1] * self.padding]

    def lengths(self, lengths: Sequence[int]) -> list[int]:
        """The words of all captions; -1 for those that have no end either."""
        captions = self.padding * self.copies
        tokens = shares(self.tokens - sum(lengths) - len(lengths), self.width + 1, captions)
        return [*lengths, *[-1] * captions, *[some - 1 for some in tokens]]


def rounded_up(number: int, multiple: int) -> int:
    """The least multiple that is not below a number."""
    return -(-number // multiple) * multiple


def shares(total: int, most: int, number: int) -> list[int]:
    """`total` as a sum of so many numbers up to `most`, the largest first."""
    return [min(most, max(0, total - most * place)) for place in range(number)]


class PaddedBatch:
    """A batch of a `Layout` in memory that stays: what models and `caption_loss` read of a batch.

    tokens   how many there are without padding, a number on the device
    """

    fc = None

    def __init__(self, layout: Layout, batch: Any, device: torch.device) -> None:
        """A batch of the layout, for the contents of `batch` and later ones with the same arrays.

        The padding's regions are some of real images: what nobody has seen, a row of zeros perhaps, might have no
        finite gradient, and weight 0 times that is not 0.
        """
        self.layout, self.device = layout, device
        all_images = layout.images + 2 * layout.padding
        captions = all_images * layout.copies
        self.numbers = torch.zeros(1 + all_images + captions * (1 + layout.width), dtype=torch.long, device=device)
        tokens, counts, lengths, words = self.numbers.split(
            [1, all_images, captions, captions * layout.width])
        self.tokens = tokens[0]
        self.counts = Counts(layout.counts(batch.counts), counts, layout.most_regions, layout.pairs)
        self.lengths = Counts(layout.lengths(batch.lengths), lengths, layout.width)
        self.captions = words.view(all_images, layout.copies, layout.width)
        for name in ARRAYS:
            array = getattr(batch, name)
            if array is not None:
                array = array[torch.arange(layout.regions) % len(array)].to(device)
            setattr(self, name, array)

    def fill(self, batch: Any) -> None:
        """Take over a batch of the layout from the host.  What was in the padding's rows stays there."""
        layout = self.layout
        tokens = len(batch.lengths) + sum(batch.lengths)
        known = torch.tensor([tokens, *layout.counts(batch.counts), *layout.lengths(batch.lengths)])
        missing = len(self.numbers) - len(known) - batch.captions.numel()
        numbers = torch.cat((known, batch.captions.flatten(), known.new_zeros(missing)))
        self.numbers.copy_(numbers.pin_memory(), non_blocking=True)
        for name in ARRAYS:
            array = getattr(batch, name)
            if array is not None:
                getattr(self, name)[:len(array)].copy_(array, non_blocking=True)


class StepGraphs:
    """Computes the loss of a batch and its gradients, by a graph where a batch of the same layout came before.

    The first batch of a layout runs kernel by kernel, padded, which also compiles what has to be compiled; the second
    is recorded.  Losses and gradients are those of the batch without padding but for rounding, and dropout drops
    others.  All graphs leave the gradients in the same memory.
    """

    def __init__(self, model: nn.Module, loss: Callable[[Any], Tensor], device: torch.device, required: bool = False,
                 record: Record = record_cuda_graph,
                 warm: Callable[[Callable[[], Tensor]], Tensor] = on_side_stream) -> None:
        """`loss(batch)`: the mean loss of a batch on `device`, `Batch` or `PaddedBatch`.  Where recording fails,
        training goes on without graphs and a warning says so; `required`: it raises the error.  `warm` runs what
        will be recorded."""
        self.loss, self.device, self.required, self.record, self.warm = loss, device, required, record, warm
        self.parameters = list(model.parameters())
        self.works = True
        self.gradients: dict[nn.Parameter, Tensor] = {}
        self.steps: dict[Layout, RecordedStep] = {}

    def __call__(self, batch: Any) -> Tensor:
        """Leave the gradients of the mean loss of a batch of the host with the parameters -> the loss."""
        layout = Layout.of(batch)
        if not self.works or layout not in self.steps and len(self.steps) == KEPT:
            return self._directly(batch)
        if not self.gradients:
            self.gradients = {parameter: torch.empty_like(parameter) for parameter in self.parameters}
        is_new = layout not in self.steps
        if is_new:
            self.steps[layout] = RecordedStep(PaddedBatch(layout, batch, self.device))
        step = self.steps[layout]
        step.batch.fill(batch)

        def work() -> Tensor:
            return self._padded(step)

        if is_new:
            return self.warm(work).clone()
        if step.replay is None:
            try:
                step.replay, step.loss = self.record(work)
            except RuntimeError as error:
                if self.required:
                    raise
                warnings.warn(f'cross-entropy steps go on without CUDA graphs, which failed: {error}', stacklevel=2)
                self.works = False
                self.steps.clear()
                return self._directly(batch)
        step.replay()
        step.leave(self.gradients)
        return step.loss.clone()

    def _directly(self, batch: Any) -> Tensor:
        for parameter in self.parameters:
            parameter.grad = None
        loss = self.loss(batch.to(self.device))
        loss.backward()
        return loss.detach()

    def _padded(self, step: RecordedStep) -> Tensor:
        """The loss of a padded batch; its gradients move to their place."""
        for parameter in self.parameters:
            parameter.grad = None
        loss = self.loss(step.batch)
        loss.backward()
        found = {parameter: parameter.grad for parameter in self.parameters if parameter.grad is not None}
        torch._foreach_copy_([self.gradients[parameter] for parameter in found], list(found.values()))
        step.moved = list(found)
        step.leave(self.gradients)
        return loss.detach()


class RecordedStep:
    """The steps of a layout: the memory of their batches, and once they are recorded the graph, its loss, and the
    parameters that have gradients."""

    replay: Callable[[], None] | None = None
    loss: Tensor

    def __init__(self, batch: PaddedBatch) -> None:
        self.batch = batch
        self.moved: list[nn.Parameter] = []

    def leave(self, gradients: Mapping[nn.Parameter, Tensor]) -> None:
        """Let the parameters that have one have their gradient."""
        for parameter in self.moved:
            parameter.grad = gradients[parameter]
