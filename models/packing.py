"""Packed rows: the real regions or words of a batch, one after the other, without padding.

Glossary of dimension letters, for the whole project
    I images, S captions per image, P regions (most per image), D feature size, d model size,
    g grid side, T caption length, V vocabulary + 1, h heads, R rows being decoded,
    M packed regions (sum over images), N packed words (sum over captions), G groups, L longest group
"""

import torch


def numbers_on(device, numbers):
    """A list of whole numbers as a long tensor on `device`.  The host does not wait for a CUDA device: the
    copy is from pinned memory, and takes its turn behind what the device still has to do."""
    pinned = torch.device(device).type == 'cuda'
    return torch.tensor(numbers, dtype=torch.long, pin_memory=pinned).to(device, non_blocking=True)


class Groups:
    """How N packed rows fall into G consecutive groups: `counts[i]` rows belong to group i.

    Everything that acts on each row alone runs on packed rows and so never computes on padding;
    `pad` and `pack` go to (G, L, ...) and back where rows of a group meet.  The layout is computed where
    the rows are, from the counts that the host knows, so that nobody waits for anybody.
    """

    def __init__(self, counts, device):
        """`counts`: list of G whole numbers, zero allowed."""
        self.counts = list(counts)
        self.device = device
        self.rows = sum(self.counts)
        self.longest = max(self.counts, default=0)
        self.even = all(count == self.longest for count in self.counts)
        self._sizes = self._owners = self._ranks = self._places = self._mask = None

    def __len__(self):
        return len(self.counts)

    def spans(self):
        """Yield (start, end) of each group's rows."""
        start = 0
        for count in self.counts:
            yield start, start + count
            start += count

    @property
    def sizes(self):
        """(G,) the counts, on the device."""
        if self._sizes is None:
            self._sizes = numbers_on(self.device, self.counts)
        return self._sizes

    @property
    def owners(self):
        """(N,) the group of each row."""
        if self._owners is None:
            groups = torch.arange(len(self.counts), device=self.device)
            # Without `output_size` the host would have to ask the device for the sum.
            self._owners = torch.repeat_interleave(groups, self.sizes, output_size=self.rows)
        return self._owners

    @property
    def ranks(self):
        """(N,) each row's position within its group, from 0."""
        if self._ranks is None:
            starts = self.sizes.cumsum(0) - self.sizes
            self._ranks = torch.arange(self.rows, device=self.device) - starts[self.owners]
        return self._ranks

    @property
    def mask(self):
        """(G, L) bool, True where `pad` puts a real row."""
        if self._mask is None:
            self._mask = torch.arange(self.longest, device=self.device) < self.sizes[:, None]
        return self._mask

    @property
    def places(self):
        """(N,) where each row lies in the flattened (G * L) padded layout."""
        if self._places is None:
            self._places = self.owners * self.longest + self.ranks
        return self._places

    def pad(self, rows):
        """(N, ...) -> (G, L, ...), zeros where a group is shorter than the longest."""
        shape = (len(self.counts), self.longest) + rows.shape[1:]
        if self.even:
            return rows.view(shape)
        return _Padded.apply(rows, self.places, shape[0] * shape[1]).view(shape)

    def pack(self, padded):
        """(G, L, ...) -> (N, ...), the inverse of `pad`."""
        flat = padded.reshape((-1,) + padded.shape[2:])
        return flat if self.even else flat.index_select(0, self.places)

    def select(self, groups):
        """The packed row numbers of the chosen groups (a list, in that order), and their `Groups`."""
        starts = [start for start, _ in self.spans()]
        chosen = Groups([self.counts[group] for group in groups], self.device)
        first = numbers_on(self.device, [starts[group] for group in groups])
        return first[chosen.owners] + chosen.ranks, chosen


class _Padded(torch.autograd.Function):
    """Rows to their places in a larger array of zeros; PyTorch's own keeps the rows for the gradient."""

    @staticmethod
    def forward(ctx, rows, places, size):
        ctx.save_for_backward(places)
        return rows.new_zeros((size,) + rows.shape[1:]).index_copy_(0, places, rows)

    @staticmethod
    def backward(ctx, gradient):
        places, = ctx.saved_tensors
        return gradient.index_select(0, places), None, None
