"""The recurrent captioners: `show_tell`, `show_attend_tell` and `topdown`.

What depends on the image alone is computed once per image, in `encode`; what depends on a word alone
once for all words of a batch.  A caption that has ended takes no further part.
"""

import torch
from torch import nn
from torch.nn import functional as F

from models.base import CaptionModel, State, batch_norms
from models.decoding import draw
from models.dropout import Dropout
from models.packing import Groups, numbers_on


class LSTMCell(nn.Module):
    """A long short-term memory cell whose input is the parts of `sizes`, side by side.

    Each part is projected by itself, by its own columns of `weight_ih` (`input_weights`), so that what
    does not change from word to word is projected once.  The weights are those of `nn.LSTMCell`, gates in
    the order input, forget, cell, output.
    """

    gates, parts = 4, 2  # (hidden, cell)

    def __init__(self, sizes, size, bias=True):
        super().__init__()
        self.sizes, self.size = list(sizes), size
        self.weight_ih = nn.Parameter(torch.empty(self.gates * size, sum(sizes)))
        self.weight_hh = nn.Parameter(torch.empty(self.gates * size, size))
        for name in ('bias_ih', 'bias_hh'):
            self.register_parameter(name, nn.Parameter(torch.zeros(self.gates * size)) if bias else None)

    def input_weights(self):
        """For each part of the input, its columns of `weight_ih`, (gates * r, its size).

        To be taken once for all words: the gradient of each taking is as large as all columns.
        """
        return self.weight_ih.split(self.sizes, 1)

    def forward(self, inputs, state):
        """The sum of the projected parts (R, 4 r) and (hidden, cell), (R, r) each -> the new two."""
        hidden, cell = state
        bias = None if self.bias_ih is None else self.bias_ih + self.bias_hh
        inner = inputs + F.linear(hidden, self.weight_hh, bias)
        take, keep, new, show = inner.chunk(4, 1)
        cell = keep.sigmoid() * cell + take.sigmoid() * new.tanh()
        return show.sigmoid() * cell.tanh(), cell


class GRUCell(LSTMCell):
    """A gated recurrent unit (Cho et al. 2014) with the same manners; the weights are those of
    `nn.GRUCell`, gates in the order reset, update, new."""

    gates, parts = 3, 1  # (hidden,)

    def forward(self, inputs, state):
        """The sum of the projected parts (R, 3 r) and (hidden,), (R, r) -> the new one."""
        hidden, = state
        if self.bias_ih is not None:
            inputs = inputs + self.bias_ih
        reset, update, new = inputs.chunk(3, 1)
        own_reset, own_update, own_new = F.linear(hidden, self.weight_hh, self.bias_hh).chunk(3, 1)
        reset, update = (reset + own_reset).sigmoid(), (update + own_update).sigmoid()
        new = (new + reset * own_new).tanh()
        return new + update * (hidden - new),


CELLS = {'lstm': LSTMCell, 'gru': GRUCell}


class AdditiveAttention(nn.Module):
    """A weighted mean of an image's regions: the softmax of w . tanh(Wk region + Wq query) over them
    (Bahdanau et al. 2015)."""

    attention_record = None  # a list takes the weights (R, P) of each call

    def __init__(self, size, inner):
        super().__init__()
        self.key, self.query = nn.Linear(size, inner), nn.Linear(size, inner)
        self.score = nn.Linear(inner, 1)

    def remember(self, regions, groups):
        """Regions (M, r) in the `groups` of their images -> regions (I, P, r), keys (I, P, a) and the
        mask (I, P), True for real regions."""
        return groups.pad(regions), groups.pad(self.key(regions)), groups.mask

    def forward(self, rows, images, regions, keys, mask):
        """Queries (R, r), grouped by image, and what `remember` gave -> (R, r)."""
        queries = images.pad(self.query(rows))  # (I, L, a)
        logits = self.score(torch.tanh(keys[:, None] + queries[:, :, None]))[..., 0]  # (I, L, P)
        weights = logits.masked_fill(~mask[:, None], -torch.inf).softmax(-1)
        if self.attention_record is not None:
            self.attention_record.append(images.pack(weights))
        return images.pack(weights @ regions)


class RecurrentMemory:
    """What depends on the images alone: `cells`, the states in which a caption starts, a tuple for
    each cell; and `parts`, whatever else the model remembers.  All are tensors with a row per image.

    `groups` are the regions' `Groups` by image.
    """

    def __init__(self, cells, parts, groups):
        self.cells, self.parts, self.groups = cells, parts, groups

    def __len__(self):
        return len(self.groups)

    def select(self, images):
        """The memory of some images (a list of row numbers)."""
        index = numbers_on(self.groups.device, images)
        return RecurrentMemory([tuple(part[index] for part in cell) for cell in self.cells],
                      [part[index] for part in self.parts], self.groups.select(images)[1])


class RecurrentCaptioner(CaptionModel):
    """What the recurrent captioners share.

    A model says how words come in (`word_inputs`), what it remembers of images (`encode`), and how its
    cells go on by a word (`advance`).  `scheduled_sampling_prob` is the probability with which training feeds a word
    drawn from the model's own last distribution in place of the caption's (scheduled sampling, Bengio et
    al. 2015).
    """

    needs = ('features', 'fc')

    def __init__(self, vocab_size, longest, word_size, size, dropout):
        super().__init__()
        self.vocab_size, self.longest, self.size = vocab_size, longest, size
        self.word_embed = nn.Embedding(vocab_size, word_size)
        self.dropout = Dropout(dropout)
        self.output = nn.Linear(size, vocab_size)
        self.scheduled_sampling_prob = 0.0

    def input_weights(self):
        """The `input_weights` of the cell that words come into."""
        return self.cell.input_weights()

    def word_inputs(self, words, weights):
        """Words (R,) long -> what they add to the gates of the cell, (R, gates * r)."""
        return F.linear(self.word_embed(words), weights[0])

    def word_states(self, memory, captions, lengths=None):
        """The last states (N, r) of real words and ends, dropout applied, and their places (N,); `lengths`
        as for `CaptionModel.word_log_probs`."""
        I, S, T = captions.shape
        if lengths is None:
            lengths = (captions.view(I * S, T) > 0).sum(1).tolist()
        steps = [[row for row in range(I * S) if lengths[row] >= t]
                 for t in range(max(lengths, default=-1) + 1)]
        counts = [len(live) for live in steps]
        rows = numbers_on(captions.device, [row for live in steps for row in live])
        times = Groups(counts, captions.device).owners
        words = F.pad(captions, (1, 0)).view(I * S, T + 1)[rows, times]  # the start token 0 first
        # Words that are all known beforehand are projected all at once.
        weights = self.input_weights()
        ahead = None if self._is_sampling() else self.word_inputs(words, weights).split(counts)
        words, before = words.split(counts), list(range(I * S))
        cells, hidden, states = self._begin(memory, Groups([S] * I, captions.device)), None, []
        for t, live in enumerate(steps):
            if len(live) < len(before):
                place = {row: number for number, row in enumerate(before)}
                kept = numbers_on(captions.device, [place[row] for row in live])
                cells = [tuple(part.index_select(0, kept) for part in cell) for cell in cells]
                hidden = hidden.index_select(0, kept)
            inputs = ahead[t] if ahead else self.word_inputs(self._mixed(words[t], hidden), weights)
            by_image = [0] * I
            for row in live:
                by_image[row // S] += 1
            hidden, cells = self.advance(inputs, cells, Groups(by_image, captions.device), memory, weights)
            hidden, before = self.dropout(hidden), live
            states.append(hidden)
        places, order = (rows * (T + 1) + times).sort()  # the words of a caption side by side
        return torch.cat(states).index_select(0, order), places

    def attention_order(self, places, captions, length):
        """As `CaptionModel.attention_order`: the first words of all captions, then the second ones."""
        return places[(places % length * captions + places // length).argsort()]

    def _is_sampling(self):
        return self.training and self.scheduled_sampling_prob > 0

    def _mixed(self, words, hidden):
        """The words (R,), each with probability `scheduled_sampling_prob` replaced by one that the model draws after
        the last `hidden` (R, r); None before the first word."""
        if hidden is None:
            return words
        own = torch.rand(len(words), device=words.device) < self.scheduled_sampling_prob
        if not own.any():
            return words
        with torch.no_grad():
            drawn = draw(self.log_probs(hidden[own]))
        return words.masked_scatter(own, drawn)

    def _begin(self, memory, images):
        """The cells of new captions, the `Groups` of which are `images`."""
        return [tuple(part.index_select(0, images.owners) for part in cell) for cell in memory.cells]

    def start(self, memory, copies=1):
        """A `State` of `copies` empty captions for each image of the memory."""
        images = Groups([copies] * len(memory), memory.groups.device)
        return State(memory, images, self._begin(memory, images), 0)

    def step(self, words, state):
        """The last words (R,) long of every row (0 at the start) -> log-probabilities (R, V) of the
        next word, and the new state."""
        weights = self.input_weights()
        inputs = self.word_inputs(words, weights)
        hidden, cells = self.advance(inputs, state.caches, state.images, state.memory, weights)
        return self.log_probs(self.dropout(hidden)), State(state.memory, state.images, cells, state.length + 1)


class ShowTell(RecurrentCaptioner):
    """Vinyals et al. 2015: the image's mean feature, embedded, is the first input of one recurrent
    cell (without bias), then the start token and the words."""

    needs = ('fc',)

    def __init__(self, vocab_size, longest, feature_size=2048, word_size=512, size=512, dropout=0.5,
                 cell='lstm'):
        super().__init__(vocab_size, longest, word_size, size, dropout)
        self.image_embed = nn.Linear(feature_size, word_size)
        self.cell = CELLS[cell]([word_size], size, bias=False)
        self.start_weights()

    def encode(self, batch):
        """A batch (`fc` (I, D)) -> `RecurrentMemory`: the cell after the image."""
        I, _ = batch.fc.shape
        blank = batch.fc.new_zeros(I, self.size)
        image = F.linear(self.image_embed(batch.fc), self.cell.weight_ih)
        cell = self.cell(image, (blank,) * self.cell.parts)
        return RecurrentMemory([cell], [], Groups([1] * I, batch.fc.device))

    def advance(self, inputs, cells, images, memory, weights):
        """`inputs` (R, gates * r) of the words, the cells -> hidden (R, r), the cells."""
        cell = self.cell(inputs, cells[0])
        return cell[0], [cell]


class ShowAttendTell(RecurrentCaptioner):
    """Xu et al. 2015, soft attention: the mean feature sets the cell's first state, the state looks at
    the regions, and what it sees goes into the cell beside the word."""

    def __init__(self, vocab_size, longest, feature_size=2048, word_size=512, size=512, inner=512,
                 dropout=0.5, cell='lstm'):
        super().__init__(vocab_size, longest, word_size, size, dropout)
        self.feature_embed = nn.Linear(feature_size, size)
        self.cell = CELLS[cell]([word_size, size], size)
        self.initial = nn.ModuleList(nn.Linear(feature_size, size) for _ in range(self.cell.parts))
        self.attention = AdditiveAttention(size, inner)
        self.start_weights()

    def attention_modules(self):
        """The attention."""
        return [self.attention]

    def encode(self, batch):
        """A batch (`features` (M, D), `counts`, `fc` (I, D)) -> `RecurrentMemory`."""
        groups = Groups(batch.counts, batch.features.device)
        regions = self.dropout(F.relu(self.feature_embed(batch.features)))
        # The states of cells stay in float32 under autocast.
        cell = tuple(torch.tanh(layer(batch.fc)).to(batch.fc.dtype) for layer in self.initial)
        return RecurrentMemory([cell], self.attention.remember(regions, groups), groups)

    def advance(self, inputs, cells, images, memory, weights):
        """`inputs` (R, gates * r) of the words, the cells -> hidden (R, r), the cells."""
        seen = self.attention(cells[0][0], images, *memory.parts)
        cell = self.cell(inputs + F.linear(seen, weights[1]), cells[0])
        return cell[0], [cell]


class TopDown(RecurrentCaptioner):
    """Anderson et al. 2018: an attention LSTM (word, mean feature, the language LSTM's last state)
    looks at the regions, a language LSTM (what was seen, the attention LSTM's state) speaks."""

    def __init__(self, vocab_size, longest, feature_size=2048, word_size=512, size=512, inner=512,
                 dropout=0.5, use_bn=0):
        super().__init__(vocab_size, longest, word_size, size, dropout)
        self.feature_norm, self.embedded_norm = batch_norms(use_bn, feature_size, size)
        self.feature_embed, self.mean_embed = nn.Linear(feature_size, size), nn.Linear(feature_size, size)
        self.attention_cell = LSTMCell([size, size, word_size], size)  # language state, mean, word
        self.language_cell = LSTMCell([size, size], size)  # seen, attention state
        self.attention = AdditiveAttention(size, inner)
        self.start_weights()

    def attention_modules(self):
        """The attention."""
        return [self.attention]

    def input_weights(self):
        """Those of the attention LSTM: for the language state, the mean feature and the word."""
        return self.attention_cell.input_weights()

    def word_inputs(self, words, weights):
        """Words (R,) long -> what they add to the gates of the attention LSTM, (R, 4 r)."""
        return F.linear(self.dropout(F.relu(self.word_embed(words))), weights[2])

    def encode(self, batch):
        """A batch (`features` (M, D), `counts`, `fc` (I, D)) -> `RecurrentMemory`."""
        groups = Groups(batch.counts, batch.features.device)
        regions = self.dropout(F.relu(self.feature_embed(self.feature_norm(batch.features))))
        regions = self.embedded_norm(regions)
        mean = self.dropout(F.relu(self.mean_embed(batch.fc)))
        mean = F.linear(mean, self.input_weights()[1])  # (I, 4 r), what it adds to the gates
        blank = batch.fc.new_zeros(len(groups), self.size)  # in float32 under autocast too
        return RecurrentMemory([(blank, blank)] * 2, [mean, *self.attention.remember(regions, groups)], groups)

    def advance(self, inputs, cells, images, memory, weights):
        """`inputs` (R, 4 r) of the words, the cells -> hidden (R, r), the cells."""
        mean, *regions = memory.parts
        inputs = inputs + mean.index_select(0, images.owners) + F.linear(cells[1][0], weights[0])
        looking = self.attention_cell(inputs, cells[0])
        seen = self.attention(looking[0], images, *regions)
        heard = F.linear(torch.cat((seen, looking[0]), 1), self.language_cell.weight_ih)
        speaking = self.language_cell(heard, cells[1])
        return speaking[0], [looking, speaking]
