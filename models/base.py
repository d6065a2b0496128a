"""What all captioners share: their contract, teacher forcing, and the state of captions being written.

    encode(batch) -> Memory                      once per image: all that depends on the image alone
    forward(memory, captions) -> log-probs       teacher forcing of all captions at once
    start(memory, copies) -> State               empty captions
    step(words, state) -> log-probs, State       one word of every caption; decoding.py builds on these two
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.attention_weights import mean_and_last, recording
from models.dropout import Dropout
from models.norms import BatchNorm
from models.packing import Groups

Cache = tuple[Tensor, ...]


class Batch(Protocol):
    """What models read of a batch: `counts`, and of the tensors those in the model's `needs`; the others may
    be None."""

    counts: list[int]  # regions of each image, I numbers that sum to M
    features: Any      # (M, D), the regions of one image after the other
    fc: Any            # (I, D), the mean feature of each image
    grids: Any         # (M, g*g) grid vectors
    boxes: Any         # (M, 4) x1 y1 x2 y2, relative to the image


class Memory(Protocol):
    """What a model computed of I images; `groups` are their regions."""

    groups: Groups

    def __len__(self) -> int: ...

    def select(self, images: list[int]) -> Memory:
        """The memory of the chosen images."""

    def padded(self) -> Memory:
        """The same memory, for decoding: the regions of all images padded to the same number."""

    def map(self, change: Callable[[Tensor], Tensor]) -> Memory:
        """A padded memory whose tensors are what `change` returns for those of this one."""


MemoryT = TypeVar('MemoryT', bound=Memory)


class Caches(Protocol):
    """What a model keeps for each of R captions being written."""

    def select(self, rows: Tensor) -> Any:
        """That of the chosen rows, (R',) long, which may repeat."""


class Cells(list[Cache]):
    """The states of recurrent cells: for each a tuple of tensors with R rows."""

    def select(self, rows: Tensor) -> Cells:
        """Those of the chosen rows, (R',) long, which may repeat."""
        return Cells(tuple(part.index_select(0, rows) for part in cell) for cell in self)


class State(Generic[MemoryT]):
    """R captions being written: their images' memory, what the model keeps for each row, words so far.

    `images` are the rows' `Groups` by image: rows of one image lie side by side.  `length` counts the words so
    far.  `compacts` says whether decoding drops the rows of captions that have ended: on the CPU, where that saves
    work.  The host would have to wait for any other device to learn how many are left.
    """

    def __init__(self, memory: MemoryT, images: Groups, caches: Any, length: int, compacts: bool) -> None:
        self.memory, self.images, self.caches, self.length = memory, images, caches, length
        self.compacts = compacts

    @property
    def device(self) -> torch.device | str:
        """The device of the state's tensors."""
        return self.images.device

    def after_word(self, caches: Any) -> State[MemoryT]:
        """The state one word later, with these caches."""
        return State(self.memory, self.images, caches, self.length + 1, self.compacts)

    def select(self, rows: Tensor, copies: int | None = None) -> State[MemoryT]:
        """The state of the chosen rows, (R',) long.

        Rows may repeat or be left out; those of an earlier image must stand before those of a later one.
        `copies`: the rows of each image, if all have as many.  Otherwise the host counts them, and images without
        rows are dropped.
        """
        memory: Any = self.memory
        counts = [copies or 0] * len(self.images)
        if copies is None:
            counts = torch.bincount(self.images.group_ids[rows], minlength=len(self.images)).tolist()
            if 0 in counts:
                live = [image for image, count in enumerate(counts) if count]
                memory, counts = memory.select(live), [counts[image] for image in live]
        return State(memory, Groups(counts, rows.device), self.caches.select(rows), self.length, self.compacts)


def drops_rows(device: torch.device | str) -> bool:
    """Whether states on `device` compact; see `State`."""
    return torch.device(device).type == 'cpu'


class CaptionModel(nn.Module, Generic[MemoryT]):
    """A captioner: a subclass defines the methods that raise `NotImplementedError` here.

    vocab_size   V: words + 1; index 0 starts and ends a sentence
    longest      T: the number of words at which a caption is cut
    needs        what `encode` reads of a batch besides `counts`: 'features', 'fc', 'grids', 'boxes'
    output       the last linear layer, from hidden states to V
    """

    vocab_size: int
    longest: int
    needs: tuple[str, ...]
    output: nn.Linear
    scheduled_sampling_prob: float = 0.0  # only recurrent models use it
    dropped_words: tuple[float, int] = (0.0, 0)  # see `dropping_words`

    def encode(self, batch: Batch) -> MemoryT:
        """A batch -> the memory of its I images."""
        raise NotImplementedError

    def word_states(self, memory: MemoryT, captions: Tensor,
                    lengths: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """Teacher forcing up to the output layer, for real words and ends alone.

        Captions and `lengths` as for `word_log_probs` -> hidden states (N, d), and (N,) long, their positions
        in the flattened (I * S * (T + 1)).
        """
        raise NotImplementedError

    def inputs_of(self, captions: Tensor) -> Tensor:
        """Captions (I, S, T) -> what the model reads at each position, (I * S, T + 1): the start token 0, then the
        words, without those that word dropout takes."""
        inputs = F.pad(captions, (1, 0)).flatten(0, 1)
        probability, blank = self.dropped_words
        if not self.training or not probability:
            return inputs
        dropped = torch.rand(inputs.shape, device=inputs.device) < probability
        return inputs.masked_fill(dropped & (inputs > 0), blank)

    def first_caches(self, memory: MemoryT, images: Groups) -> Caches:
        """The `caches` of a `State` of empty captions, the `Groups` of which are `images`."""
        raise NotImplementedError

    def step(self, words: Tensor, state: State[MemoryT]) -> tuple[Tensor, State[MemoryT]]:
        """The last words (R,) long of every row (0 at the start) -> log-probabilities (R, V) of the next word,
        and the new state."""
        raise NotImplementedError

    def attention_modules(self) -> list[nn.Module]:
        """The modules that attend to regions, first layer first; none for a model without attention.  Each has
        an `attention_record`: None, or a list that takes the weights (rows, P) of each call."""
        return []

    def recorded_order(self, positions: Tensor, captions: int, length: int) -> Tensor:
        """The positions (N,) of words in so many `captions` of `length` positions, in the order in which
        `word_states` passes them to the attention modules."""
        return positions

    def trains_as_it_evaluates(self) -> bool:
        """Whether the model computes the same in training and in evaluation mode: nothing in it is dropped, or
        normalised by its batch."""
        def differs(module: Any) -> bool:
            dropout = getattr(module, 'dropout', 0)
            return isinstance(module, BatchNorm) or bool(
                module.probability if isinstance(module, Dropout) else isinstance(dropout, float) and dropout)
        return not any(map(differs, self.modules()))

    def takes_padding(self) -> bool:
        """Whether `encode` and `word_states` ask the same of a device for every batch with as many images, regions,
        words and pairs of them, and images that are added change nothing for the others."""
        return False

    def start(self, memory: MemoryT, copies: int = 1) -> State[MemoryT]:
        """A `State` of `copies` empty captions for each image of the memory."""
        images = Groups([copies] * len(memory), memory.groups.device)
        compacts = drops_rows(images.device)
        if not compacts:
            memory = memory.padded()  # type: ignore[assignment]
        return State(memory, images, self.first_caches(memory, images), 0, compacts)

    def forward(self, memory: MemoryT, captions: Tensor) -> Tensor:
        """Teacher forcing: log-probabilities (I, S, T + 1, V) of each caption's words and its end.

        `captions` (I, S, T) long, zero padded, without the start token.  Position t holds the distribution of
        word t given the words before it; positions after a caption's end are zero.
        """
        I, S, T = captions.shape
        log_probs, positions = self.word_log_probs(memory, captions)
        out = log_probs.new_zeros(I * S * (T + 1), self.vocab_size)
        return out.index_copy(0, positions, log_probs).view(I, S, T + 1, self.vocab_size)

    def word_log_probs(self, memory: MemoryT, captions: Tensor,
                       lengths: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """As `forward`, for real words and ends alone: log-probabilities (N, V), and (N,) long, their positions
        in the flattened (I * S * (T + 1)).

        `lengths`: the words of each of the I * S captions, where the host knows them; otherwise the host waits
        for the device to count them.
        """
        hidden, positions = self.word_states(memory, captions, lengths)
        return self.log_probs(hidden), positions

    def word_attention(self, memory: MemoryT, captions: Tensor,
                       lengths: Sequence[int] | None = None) -> dict[str, Tensor] | None:
        """Attention weights of each word over the regions of its image, at the step that predicts it.

        {'mean': over the layers, 'last': the last layer's (where there are several)}, or None for a model
        without attention.  Each is (I, S, T + 1, P), at the positions of `forward`: zero where there is no word
        or no region; the weights of a word add up to 1.  For X-linear attention they are the spatial weights,
        for attention with several heads their mean.
        """
        I, S, T = captions.shape
        modules = self.attention_modules()
        if not modules:
            return None
        with recording(modules) as records:
            _, positions = self.word_states(memory, captions, lengths)
        positions = self.recorded_order(positions, I * S, T + 1)
        layers = [torch.cat(weights) for weights in records]  # (N, P) each
        blank = layers[0].new_zeros(I * S * (T + 1), layers[0].shape[1])
        return mean_and_last([blank.index_copy(0, positions, layer).view(I, S, T + 1, -1) for layer in layers])

    def log_probs(self, hidden: Tensor) -> Tensor:
        """Hidden states (N, d) -> log-probabilities (N, V), in float32 or better: in bfloat16 most rare words
        would never be sampled."""
        logits = self.output(hidden)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)

    def init_weights(self) -> None:
        """Initialise every matrix as Xavier uniform (Glorot and Bengio 2010)."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)


def caption_lengths(captions: Tensor) -> list[int]:
    """The words of each of the captions (I, S, T): I * S numbers, read from the device."""
    return (captions.flatten(0, 1) > 0).sum(1).tolist()


@contextlib.contextmanager
def dropping_words(model: CaptionModel, probability: float, blank: int) -> Iterator[None]:
    """Word dropout (Bowman et al. 2016) while the block trains the model: each word that it reads is the word `blank`
    instead with this probability.  The words to predict stay; the random numbers are torch's own, like those of
    dropout."""
    model.dropped_words = probability, blank
    try:
        yield
    finally:
        model.dropped_words = 0.0, 0
