"""The recurrent captioners: `show_tell`, `show_attend_tell` and `topdown`.

What depends on the image alone is computed once per image, in `encode`; what depends on a word alone once for
all words of a batch.  Captions that have ended drop out of the computation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.attention import AdditiveAttention
from models.base import Batch, Cache, CaptionModel, Cells, State, caption_lengths
from models.cells import CELLS, LSTMCell
from models.decoding import draw
from models.dropout import Dropout
from models.norms import feature_norms
from models.packing import Groups, index_tensor, region_groups


class RecurrentMemory:
    """What depends on the images alone.

    `cells`: the states in which captions start, a tuple of tensors for each cell.  `parts`: whatever else the
    model computed of the images.  All tensors have a row per image.  `groups` are the regions' `Groups` by image.
    """

    def __init__(self, cells: Sequence[Cache], parts: Sequence[Tensor], groups: Groups) -> None:
        self.cells, self.parts, self.groups = cells, parts, groups

    def __len__(self) -> int:
        return len(self.groups)

    def select(self, images: list[int]) -> RecurrentMemory:
        """The memory of the chosen images."""
        index = index_tensor(images, self.groups.device)
        return RecurrentMemory(Cells(self.cells).select(index), [part[index] for part in self.parts],
                               self.groups.select(images)[1])

    def padded(self) -> RecurrentMemory:
        """As `Memory.padded`: parts are padded from the start."""
        return self

    def map(self, change: Callable[[Tensor], Tensor]) -> RecurrentMemory:
        """As `Memory.map`."""
        cells = [tuple(map(change, cell)) for cell in self.cells]
        return RecurrentMemory(cells, list(map(change, self.parts)), self.groups)


class RecurrentCaptioner(CaptionModel[RecurrentMemory]):
    """What the recurrent captioners share.

    A model defines `word_inputs`, what words add to the gates of a cell; `encode`; and `advance`, one step of
    its cells.  `scheduled_sampling_prob` is the probability with which training feeds a word sampled from the
    model's previous distribution in place of the caption's (scheduled sampling, Bengio et al. 2015).
    """

    needs: tuple[str, ...] = ('features', 'fc')
    cell: LSTMCell

    def __init__(self, vocab_size: int, longest: int, word_size: int, size: int, dropout: float) -> None:
        super().__init__()
        self.vocab_size, self.longest, self.size = vocab_size, longest, size
        self.word_embed = nn.Embedding(vocab_size, word_size)
        self.dropout = Dropout(dropout)
        self.output = nn.Linear(size, vocab_size)
        self.scheduled_sampling_prob = 0.0

    def input_weights(self) -> Sequence[Tensor]:
        """The `input_weights` of the cell that reads the words."""
        return self.cell.input_weights()

    def word_inputs(self, words: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """Words (R,) long -> what they add to the gates of the cell, (R, gates * r)."""
        return F.linear(self.word_embed(words), weights[0])

    def advance(self, inputs: Tensor, cells: Cells, images: Groups, memory: RecurrentMemory,
                weights: Sequence[Tensor]) -> tuple[Tensor, Cells]:
        """One word further: its `word_inputs` (R, gates * r), the cells before it, the rows' `Groups` by image
        -> hidden (R, r), before dropout, and the cells."""
        raise NotImplementedError

    def word_states(self, memory: RecurrentMemory, captions: Tensor,
                    lengths: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """As `CaptionModel.word_states`: hidden states (N, r), dropout applied, and their positions (N,)."""
        I, S, T = captions.shape
        lengths = caption_lengths(captions) if lengths is None else lengths
        # The captions that take part in each step: those with a word or their end there.
        steps = [[row for row, words in enumerate(lengths) if words >= t]
                 for t in range(max(lengths, default=-1) + 1)]
        rows = index_tensor([row for live in steps for row in live], captions.device)  # (N,), step by step
        by_step = Groups([len(live) for live in steps], captions.device)
        times = by_step.group_ids
        words = self.inputs_of(captions)[rows, times]  # (N,)
        weights = self.input_weights()
        # Words that are all known beforehand are projected all at once.
        inputs = None if self._is_sampling() else self.word_inputs(words, weights).split(by_step.counts)
        words_of_step = words.split(by_step.counts)
        cells = self.first_caches(memory, Groups([S] * I, captions.device))
        hidden: Any = None  # after the step before, (R, r)
        before, states = list(range(I * S)), []
        for t, live in enumerate(steps):
            if len(live) < len(before):
                kept = index_tensor(indices_in(before, live), captions.device)
                cells = cells.select(kept)
                hidden = hidden.index_select(0, kept)
            now = inputs[t] if inputs else self.word_inputs(self._with_sampled(words_of_step[t], hidden), weights)
            images = Groups(counts_by_image(live, I, S), captions.device)
            hidden, cells = self.advance(now, cells, images, memory, weights)
            hidden, before = self.dropout(hidden), live
            states.append(hidden)
        positions, order = (rows * (T + 1) + times).sort()  # the words of a caption side by side
        return torch.cat(states).index_select(0, order), positions

    def recorded_order(self, positions: Tensor, captions: int, length: int) -> Tensor:
        """As `CaptionModel.recorded_order`: the first words of all captions, then the second ones."""
        return positions[(positions % length * captions + positions // length).argsort()]

    def first_caches(self, memory: RecurrentMemory, images: Groups) -> Cells:
        """The states in which the images' captions start."""
        return Cells(memory.cells).select(images.group_ids)

    def step(self, words: Tensor, state: State[RecurrentMemory]) -> tuple[Tensor, State[RecurrentMemory]]:
        """As `CaptionModel.step`."""
        weights = self.input_weights()
        inputs = self.word_inputs(words, weights)
        hidden, cells = self.advance(inputs, state.caches, state.images, state.memory, weights)
        return self.log_probs(self.dropout(hidden)), state.after_word(cells)

    def _is_sampling(self) -> bool:
        return self.training and self.scheduled_sampling_prob > 0

    def _with_sampled(self, words: Tensor, hidden: Tensor | None) -> Tensor:
        """The words (R,), each with `scheduled_sampling_prob` replaced by one sampled from the model's
        distribution after the last `hidden` (R, r), which is None before the first word."""
        if hidden is None:
            return words
        replaced = torch.rand(len(words), device=words.device) < self.scheduled_sampling_prob
        with torch.no_grad():
            if words.device.type != 'cpu':  # which rows they are, only the device knows
                return torch.where(replaced, draw(self.log_probs(hidden)), words)
            if not replaced.any():
                return words
            return words.masked_scatter(replaced, draw(self.log_probs(hidden[replaced])))


class ShowTell(RecurrentCaptioner):
    """Vinyals et al. 2015: the image's mean feature, embedded, is the first input of one recurrent cell (without
    bias), followed by the start token and the words."""

    needs = ('fc',)

    def __init__(self, vocab_size: int, longest: int, feature_size: int = 2048, word_size: int = 512,
                 size: int = 512, dropout: float = 0.5, cell: str = 'lstm') -> None:
        super().__init__(vocab_size, longest, word_size, size, dropout)
        self.image_embed = nn.Linear(feature_size, word_size)
        self.cell = CELLS[cell]([word_size], size, bias=False)
        self.init_weights()

    def encode(self, batch: Batch) -> RecurrentMemory:
        """A batch (`fc` (I, D)) -> its memory: the cell after the image."""
        I, _ = batch.fc.shape
        blank = batch.fc.new_zeros(I, self.size)
        image = F.linear(self.image_embed(batch.fc), self.cell.weight_ih)
        cell = self.cell(image, (blank,) * self.cell.parts)
        return RecurrentMemory([cell], [], Groups([1] * I, batch.fc.device))

    def advance(self, inputs: Tensor, cells: Cells, images: Groups, memory: RecurrentMemory,
                weights: Sequence[Tensor]) -> tuple[Tensor, Cells]:
        """As `RecurrentCaptioner.advance`."""
        cell = self.cell(inputs, cells[0])
        return cell[0], Cells([cell])


class ShowAttendTell(RecurrentCaptioner):
    """Xu et al. 2015, soft attention: the mean feature sets the first state of the cell; at each word the state
    attends to the regions, and the attended feature enters the cell beside the word."""

    def __init__(self, vocab_size: int, longest: int, feature_size: int = 2048, word_size: int = 512,
                 size: int = 512, inner: int = 512, dropout: float = 0.5, cell: str = 'lstm') -> None:
        super().__init__(vocab_size, longest, word_size, size, dropout)
        self.feature_embed = nn.Linear(feature_size, size)
        self.cell = CELLS[cell]([word_size, size], size)
        self.initial = nn.ModuleList(nn.Linear(feature_size, size) for _ in range(self.cell.parts))
        self.attention = AdditiveAttention(size, inner)
        self.init_weights()

    def attention_modules(self) -> list[nn.Module]:
        """The one attention."""
        return [self.attention]

    def encode(self, batch: Batch) -> RecurrentMemory:
        """A batch (`counts`, `features` (M, D), `fc` (I, D)) -> its memory."""
        groups = region_groups(batch.counts, batch.features.device)
        regions = self.dropout(F.relu(self.feature_embed(batch.features)))  # (M, r)
        # The states of cells stay in float32 under autocast.
        cell = tuple(torch.tanh(layer(batch.fc)).to(batch.fc.dtype) for layer in self.initial)
        return RecurrentMemory([cell], self.attention.precompute(regions, groups), groups)

    def advance(self, inputs: Tensor, cells: Cells, images: Groups, memory: RecurrentMemory,
                weights: Sequence[Tensor]) -> tuple[Tensor, Cells]:
        """As `RecurrentCaptioner.advance`."""
        attended = self.attention(cells[0][0], images, *memory.parts)
        cell = self.cell(inputs + F.linear(attended, weights[1]), cells[0])
        return cell[0], Cells([cell])


class TopDown(RecurrentCaptioner):
    """Anderson et al. 2018, section 3.2: an attention LSTM reads the word, the mean feature and the language
    LSTM's last state, and attends to the regions; a language LSTM reads the attended feature and the attention
    LSTM's state, and predicts the word."""

    def __init__(self, vocab_size: int, longest: int, feature_size: int = 2048, word_size: int = 512,
                 size: int = 512, inner: int = 512, dropout: float = 0.5, use_bn: int = 0) -> None:
        super().__init__(vocab_size, longest, word_size, size, dropout)
        self.feature_norm, self.embedded_norm = feature_norms(use_bn, feature_size, size)
        self.feature_embed, self.mean_embed = nn.Linear(feature_size, size), nn.Linear(feature_size, size)
        self.attention_cell = LSTMCell([size, size, word_size], size)  # language state, mean, word
        self.language_cell = LSTMCell([size, size], size)  # attended feature, attention state
        self.attention = AdditiveAttention(size, inner)
        self.init_weights()

    def attention_modules(self) -> list[nn.Module]:
        """The one attention."""
        return [self.attention]

    def input_weights(self) -> Sequence[Tensor]:
        """Those of the attention LSTM: for the language state, the mean feature and the word."""
        return self.attention_cell.input_weights()

    def word_inputs(self, words: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """Words (R,) long -> what they add to the gates of the attention LSTM, (R, 4 r)."""
        return F.linear(self.dropout(F.relu(self.word_embed(words))), weights[2])

    def encode(self, batch: Batch) -> RecurrentMemory:
        """A batch (`counts`, `features` (M, D), `fc` (I, D)) -> its memory."""
        groups = region_groups(batch.counts, batch.features.device)
        regions = self.dropout(F.relu(self.feature_embed(self.feature_norm(batch.features))))
        regions = self.embedded_norm(regions)  # (M, r)
        mean = self.dropout(F.relu(self.mean_embed(batch.fc)))
        mean = F.linear(mean, self.input_weights()[1])  # (I, 4 r), what it adds to the gates
        blank = batch.fc.new_zeros(len(groups), self.size)  # in float32 under autocast too
        return RecurrentMemory([(blank, blank)] * 2, [mean, *self.attention.precompute(regions, groups)], groups)

    def advance(self, inputs: Tensor, cells: Cells, images: Groups, memory: RecurrentMemory,
                weights: Sequence[Tensor]) -> tuple[Tensor, Cells]:
        """As `RecurrentCaptioner.advance`."""
        mean, *regions = memory.parts
        inputs = inputs + mean.index_select(0, images.group_ids) + F.linear(cells[1][0], weights[0])
        first = self.attention_cell(inputs, cells[0])
        attended = self.attention(first[0], images, *regions)  # (R, r)
        inputs = F.linear(torch.cat((attended, first[0]), 1), self.language_cell.weight_ih)
        second = self.language_cell(inputs, cells[1])
        return second[0], Cells([first, second])


def indices_in(before: Sequence[int], chosen: Sequence[int]) -> list[int]:
    """The indices of the `chosen` numbers in `before`."""
    index = {number: i for i, number in enumerate(before)}
    return [index[number] for number in chosen]


def counts_by_image(rows: Sequence[int], images: int, copies: int) -> list[int]:
    """How many of the caption `rows` belong to each image, which has `copies` of them."""
    counts = [0] * images
    for row in rows:
        counts[row // copies] += 1
    return counts
