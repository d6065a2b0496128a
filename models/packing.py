"""Packed rows: the real regions or words of a batch, one after the other, without padding.

The dimension letters are those of `models/__init__.py`; N is any number of packed rows.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


def index_tensor(numbers: Sequence[int], device: torch.device | str) -> Tensor:
    """A list of whole numbers as a long tensor on `device`.

    The host does not wait for the device: the copy is from pinned memory and queued behind earlier work.
    """
    pinned = torch.device(device).type != 'cpu'
    return torch.tensor(numbers, dtype=torch.long, pin_memory=pinned).to(device, non_blocking=True)


class Counts(list[int]):
    """Whole numbers that the host knows, and perhaps the device: then nothing is copied when they are needed there.

    on_device   the same numbers, (G,) long, or None.  Those of a batch that is padded for a CUDA graph are other ones
                in every batch, with the same sum; the host's are those of the first
    longest     what no such batch exceeds: groups of these sizes are padded to at least as many rows
    pairs       of such a batch's regions: pairs that there is room for, see `Pairs`
    """

    def __init__(self, numbers: Iterable[int], on_device: Tensor | None = None, longest: int = 0,
                 pairs: int = 0) -> None:
        super().__init__(numbers)
        self.on_device, self.longest, self.pairs = on_device, longest, pairs

    def plus(self, number: int) -> 'Counts':
        """Each of them and `number`."""
        on_device = None if self.on_device is None else self.on_device + number
        return Counts([one + number for one in self], on_device, self.longest and self.longest + number)

    def sums(self, each: int) -> 'Counts':
        """The sums of `each` numbers side by side."""
        on_device = None if self.on_device is None else self.on_device.view(-1, each).sum(1)
        sums = [sum(self[start:start + each]) for start in range(0, len(self), each)]
        return Counts(sums, on_device, self.longest * each)


class Groups:
    """How N packed rows fall into G consecutive groups: `counts[i]` rows belong to group i.

    Whatever acts on each row alone runs on packed rows and so never computes on padding; `pad` and `pack` go
    to (G, L, ...) and back where the rows of a group meet.  Index tensors are computed on the device from
    counts that the host knows, so host and device never synchronise.
    """

    def __init__(self, counts: Iterable[int], device: torch.device | str, multiple: int = 1) -> None:
        """`counts`: the rows of each group, zero allowed.  Padded groups are `longest` rows long, a multiple of
        `multiple`."""
        self.counts = counts if isinstance(counts, Counts) else Counts(counts)
        self.device = device
        self.rows = sum(self.counts)
        self.longest = -(-max(self.counts.longest, *self.counts, 0) // multiple) * multiple
        self.is_even = all(count == self.longest for count in self.counts)
        self._pairs: tuple[Groups, Pairs] | None = None

    def __len__(self) -> int:
        return len(self.counts)

    def spans(self) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of each group's rows."""
        start = 0
        for count in self.counts:
            yield start, start + count
            start += count

    @cached_property
    def sizes(self) -> Tensor:
        """(G,) the counts, on the device."""
        if self.counts.on_device is not None:
            return self.counts.on_device
        if self.is_even:  # nothing to copy: a CUDA graph could not record that
            return torch.full((len(self.counts),), self.longest, device=self.device)
        return index_tensor(self.counts, self.device)

    @cached_property
    def starts(self) -> Tensor:
        """(G,) the number of each group's first row."""
        return self.sizes.cumsum(0) - self.sizes

    @cached_property
    def group_ids(self) -> Tensor:
        """(N,) the group of each row."""
        groups = torch.arange(len(self.counts), device=self.device)
        # Without `output_size` the host would have to ask the device for the sum.
        return torch.repeat_interleave(groups, self.sizes, output_size=self.rows)

    @cached_property
    def offsets(self) -> Tensor:
        """(N,) each row's position within its group, from 0."""
        return torch.arange(self.rows, device=self.device) - self.starts[self.group_ids]

    @cached_property
    def mask(self) -> Tensor:
        """(G, L) bool, True where `pad` puts a real row."""
        return torch.arange(self.longest, device=self.device) < self.sizes[:, None]

    @cached_property
    def padding(self) -> Tensor:
        """(G, L) bool, True where `pad` puts zeros."""
        return ~self.mask

    @cached_property
    def shares(self) -> Tensor:
        """(G, L) the weights of a mean over each group's rows."""
        return self.mask / self.sizes[:, None]

    @cached_property
    def padded_index(self) -> Tensor:
        """(N,) the index of each row in the flattened (G * L) padded layout."""
        return self.group_ids * self.longest + self.offsets

    def pad(self, rows: Tensor) -> Tensor:
        """(N, ...) -> (G, L, ...), zeros where a group is shorter than the longest."""
        shape = (len(self.counts), self.longest) + rows.shape[1:]
        if self.is_even:
            return rows.view(shape)
        return _Scatter.apply(rows, self.padded_index, shape[0] * shape[1]).view(shape)

    def pack(self, padded: Tensor) -> Tensor:
        """(G, L, ...) -> (N, ...), the inverse of `pad`."""
        flat = padded.reshape((-1,) + padded.shape[2:])
        return flat if self.is_even else flat.index_select(0, self.padded_index)

    def pairs(self, others: 'Groups') -> 'Pairs':
        """The pairs of these rows and the rows of the same group of `others`; computed once for the same `others`."""
        if self._pairs is None or self._pairs[0] is not others:
            self._pairs = others, Pairs(self, others)
        return self._pairs[1]

    def select(self, groups: Sequence[int]) -> tuple[Tensor, 'Groups']:
        """The packed row numbers of the chosen groups, in the given order, and their `Groups`."""
        starts = [start for start, _ in self.spans()]
        chosen = Groups([self.counts[group] for group in groups], self.device)
        first = index_tensor([starts[group] for group in groups], self.device)
        return first[chosen.group_ids] + chosen.offsets, chosen


class Pairs:
    """Every word of an image with every region of it: Q pairs, packed word by word.

    In a batch that is padded for a CUDA graph (see `Counts`) the last word, which is padding, is paired with the only
    region of its image again and again, until all the room is filled.
    """

    def __init__(self, words: Groups, regions: Groups) -> None:
        """Both have a group for each image."""
        self.words, self.regions = words, regions
        self.is_filled = regions.counts.pairs > 0
        self.count = regions.counts.pairs or sum(
            count * others for count, others in zip(words.counts, regions.counts))

    @cached_property
    def starts(self) -> Tensor:
        """(I,) the number of each image's first pair."""
        counts = self.words.sizes * self.regions.sizes
        return counts.cumsum(0) - counts

    @cached_property
    def layout(self) -> Tensor:
        """(5, I) int32: each image's first word, number of words, first region, number of regions, first pair."""
        words, regions = self.words, self.regions
        return torch.stack((words.starts, words.sizes, regions.starts, regions.sizes, self.starts)).int()

    @cached_property
    def regions_of_word(self) -> Tensor:
        """(N,) how many pairs a word has."""
        counts = self.regions.sizes[self.words.group_ids]
        if self.is_filled:
            counts[-1] += self.count - counts.sum()
        return counts

    @cached_property
    def word(self) -> Tensor:
        """(Q,) the word of each pair."""
        words = torch.arange(self.words.rows, device=self.words.device)
        return torch.repeat_interleave(words, self.regions_of_word, output_size=self.count)

    @cached_property
    def image(self) -> Tensor:
        """(Q,) the image of each pair."""
        return self.words.group_ids[self.word]

    @cached_property
    def offset(self) -> Tensor:
        """(Q,) the number of each pair's region within the image."""
        first = self.starts[self.image] + self.words.offsets[self.word] * self.regions.sizes[self.image]
        offset = torch.arange(self.count, device=self.words.device) - first
        return torch.minimum(offset, self.regions.sizes[self.image] - 1) if self.is_filled else offset

    @cached_property
    def region(self) -> Tensor:
        """(Q,) the region of each pair."""
        return self.regions.starts[self.image] + self.offset

    @cached_property
    def place(self) -> Tensor:
        """(Q,) where each pair lies in the flattened (N * P) layout."""
        return self.word * self.regions.longest + self.offset

    @cached_property
    def by_region(self) -> Tensor:
        """(Q,) the number that each pair would have if they were packed region by region."""
        return self.starts[self.image] + self.offset * self.words.sizes[self.image] + self.words.offsets[self.word]

    def sum_over_regions(self, rows: Tensor) -> Tensor:
        """(Q, ...) -> (N, ...) in float32 or better, the sums over the pairs of each word."""
        wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
        return torch.segment_reduce(wide, 'sum', lengths=self.regions_of_word, unsafe=True)

    def sum_over_words(self, rows: Tensor) -> Tensor:
        """(Q, ...) -> (M, ...) in float32 or better, the sums over the pairs of each region."""
        wide = torch.empty_like(rows, dtype=torch.promote_types(rows.dtype, torch.float32))
        wide.index_copy_(0, self.by_region, rows.to(wide.dtype))
        lengths = self.words.sizes[self.regions.group_ids]
        return torch.segment_reduce(wide, 'sum', lengths=lengths, unsafe=True)


def region_groups(counts: Iterable[int], device: torch.device | str) -> Groups:
    """The regions of a batch, `counts` (I) of each image, grouped by image.

    On a GPU they are padded to a multiple of 16: matrix products of such sizes are faster, and few different shapes
    occur.
    """
    return Groups(counts, device, 1 if torch.device(device).type == 'cpu' else 16)


class _Scatter(torch.autograd.Function):
    """Rows to their indices in a larger array of zeros; PyTorch's own keeps the rows for the gradient."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(index)
        return rows.new_zeros((size,) + rows.shape[1:]).index_copy_(0, index, rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        index, = ctx.saved_tensors
        return gradient.index_select(0, index), None, None
