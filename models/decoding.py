"""Decoding methods: greedy, sampling, beam search and diverse beam search, for a whole batch at a time.

They work on any model with `start(memory, copies)` and `step(words, state)`, and a state with `select(rows)`.
A state that `compacts`, as on the CPU, drops the rows of captions that have ended, so a batch costs what its live
captions cost.  Elsewhere shapes and operations do not depend on the captions, so the host never waits for a word.
The results are those of one image at a time without a cache (`tests/naive.py`).

In comments, K is the number of words that a beam offers, W that of the beams of a group before a step (1 at first).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sized
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from models.packing import index_tensor


class DecoderState(Protocol):
    """Captions being written, one row each."""

    compacts: bool  # whether to drop the rows of captions that have ended

    @property
    def device(self) -> torch.device | str:
        """The device of the state's tensors."""

    def select(self, rows: Tensor, copies: int | None = None) -> DecoderState:
        """The state of the chosen rows; `copies` of each image, if every image has as many."""


class WordByWord(Protocol):
    """What decoding needs of a model; see `CaptionModel`."""

    def start(self, memory: Any, copies: int = 1) -> Any:
        """The state of `copies` empty captions for each image."""

    def step(self, words: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The last words (R,) -> log-probabilities (R, V) of the next, and the new state."""


@dataclass
class Decoded:
    """`captions` (I, n, T) long, zero padded; `log_probs` (I, n), the sum over a caption's words, its end token
    included, without any penalty (-inf where there is no n-th caption)."""

    captions: Tensor
    log_probs: Tensor


# (model, memory, uniforms) -> captions of the memory's images; `uniforms(copies, longest)` as for `sample`.
Decoder = Callable[[WordByWord, Any, Callable[[int, int], Tensor]], Decoded]


@dataclass(frozen=True)
class Constraints:
    """Words that may not follow.  `unknown`: the index of UNK if it is suppressed, else None; `no_repeat`: never
    the same word twice in a row; `no_trigram_repeat`: no trigram twice; `endings`: words that may not be the last."""

    unknown: int | None = None
    no_repeat: bool = False
    no_trigram_repeat: bool = False
    endings: tuple[int, ...] = ()

    def apply(self, log_probs: Tensor, captions: Tensor, length: int) -> Tensor:
        """log_probs (R, V) of the next word of captions (R, T), `length` words long so far -> the same with -inf
        for every forbidden word.  The end token of a caption that has not ended is forbidden only after one of the
        `endings`."""
        if self.unknown is not None:
            log_probs = log_probs.clone()
            log_probs[:, self.unknown] = -torch.inf
        if self.no_repeat and length:
            log_probs = log_probs.scatter(1, captions[:, length - 1:length], -torch.inf)
        if self.no_trigram_repeat and length >= 3:
            # A word is forbidden if it once followed the same two words that stand last now.
            last = captions[:, length - 2:length]  # (R, 2)
            trigrams = captions[:, :length].unfold(1, 3, 1)  # (R, length - 2, 3)
            seen = (trigrams[:, :, :2] == last[:, None]).all(2)
            penalty = torch.zeros_like(seen, dtype=log_probs.dtype).masked_fill(seen, -torch.inf)
            log_probs = log_probs.scatter_add(1, trigrams[:, :, 2], penalty)
        if self.endings:
            endings = _indices(self.endings, log_probs.device)
            log_probs = log_probs.clone()
            if length:
                log_probs[:, 0].masked_fill_((captions[:, length - 1:length] == endings).any(1), -torch.inf)
            if length + 1 == captions.shape[1]:   # no end token follows
                log_probs.index_fill_(1, endings, -torch.inf)
        return log_probs


@functools.cache
def _indices(words: tuple[int, ...], device: torch.device) -> Tensor:
    """Words as a tensor, made once for a device."""
    return index_tensor(words, device)


UNCONSTRAINED = Constraints()


def sample(model: WordByWord, memory: Sized, longest: int, copies: int = 1, greedy: bool = False,
           temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0,
           constraints: Constraints = UNCONSTRAINED, uniforms: Tensor | None = None) -> Decoded:
    """Captions word by word, `copies` for each image: `Decoded` with n = copies.

    `greedy`: the most probable word each time.  Otherwise words are drawn as `draw` says.  `uniforms`
    (I * copies, longest), uniform in [0, 1), decide the words; by default torch's generator draws them.
    """
    images = len(memory)
    state = model.start(memory, copies)
    rows, device = images * copies, state.device
    captions = torch.zeros(rows, longest, dtype=torch.long, device=device)
    totals = torch.zeros(rows, device=device)
    words = torch.zeros(rows, dtype=torch.long, device=device)
    ended = torch.zeros(rows, dtype=torch.bool, device=device)
    live: Any = torch.arange(rows, device=device) if state.compacts else slice(None)  # the state's rows
    for length in range(longest):
        log_probs, state = model.step(words, state)
        allowed = constraints.apply(log_probs, captions[live], length)
        if greedy:
            words = allowed.argmax(1)
        else:
            words = draw(allowed, temperature, top_k, top_p, None if uniforms is None else uniforms[live, length])
        words = words.masked_fill(ended, 0)
        totals[live] = totals[live] + log_probs.gather(1, words[:, None])[:, 0].masked_fill(ended, 0)
        captions[live, length] = words
        ended = words == 0
        if state.compacts:
            unfinished = words.nonzero()[:, 0]
            if not len(unfinished):
                break
            if len(unfinished) < len(words):
                live, words, ended = live[unfinished], words[unfinished], ended[unfinished]
                state = state.select(unfinished)
    return Decoded(captions.view(images, copies, longest), totals.view(images, copies))


def draw(log_probs: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0,
         uniform: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
    """One word (R,) per row from the softmax of log_probs (R, V) / temperature.

    The distribution is cut to the `top_k` most probable words (0: all) and to the smallest set of words whose
    probability reaches `top_p` (1: all).  The word is the first at which the cumulative probability exceeds
    `uniform` (R,), which is drawn from [0, 1) if not given.
    """
    # The largest is made 0 first: a tiny temperature may overflow the others to -inf, but not it.
    scaled = (log_probs - log_probs.max(1, keepdim=True).values) / temperature
    if top_k:
        kept = scaled.topk(min(top_k, scaled.shape[1]), 1)
        scaled = torch.full_like(scaled, -torch.inf).scatter(1, kept.indices, kept.values)
    if top_p < 1:
        ordered, words = scaled.softmax(1).sort(1, descending=True)
        # A word is dropped when those before it already reach top_p; the first one never is.
        dropped = ordered.cumsum(1, dtype=torch.float64) - ordered >= top_p
        scaled = scaled.masked_fill(dropped.gather(1, words.argsort(1)), -torch.inf)
    if uniform is None:
        uniform = torch.rand(len(scaled), generator=generator, device=scaled.device)
    # A GPU sums as a tree, in which single precision would make sums fall, and words of probability 0 be found.
    cumulative = scaled.softmax(1).cumsum(1, dtype=torch.float64)
    found = torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True)[:, 0]
    # Sums that are not finite are never exceeded: take any word, its loss will not be finite either.
    return found.clamp(max=scaled.shape[1] - 1)


def beam_search(model: WordByWord, memory: Sized, longest: int, beam_size: int, group_size: int = 1,
                diversity_lambda: float = 0.5, length_penalty: float = 0.0, max_ppl: bool = False,
                results: int = 1, constraints: Constraints = UNCONSTRAINED) -> Decoded:
    """Beam search, or with `group_size` > 1 groups diverse beam search (Vijayakumar et al. 2018, with the Hamming
    diversity): `Decoded` with n = results.

    At each step every live beam offers its B best words (B = beam_size / group_size, which must be whole), and
    the B best sums of log-probabilities of a group survive.  A beam that ends, or reaches `longest` words, is
    finished and no longer competes; the B best finished ones are kept, ranked by sum / length ** length_penalty,
    or by the mean with `max_ppl` (the end token counts in the length).

    A group pays `diversity_lambda` for a word once for each beam of an earlier group that was extended by this
    word at the same position; the penalised sums rank and are kept.  Returned are the first `results` of the
    groups' sorted lists, one list after the other.
    """
    search = BeamSearch(model, memory, longest, beam_size, group_size, diversity_lambda,
                        1.0 if max_ppl else length_penalty, constraints)
    return search.run(results)


class BeamSearch:
    """The state of one batched beam search: I images, G groups, W beams of each group: one at first, then B.

    Beams that ended or lost keep their place in the arrays (I, G, W), with the sum -inf.  `places` says which of
    the I * G * W beams the rows of the model's state are; None: all of them, in order.
    """

    def __init__(self, model: WordByWord, memory: Sized, longest: int, beam_size: int, groups: int,
                 penalty: float, exponent: float, constraints: Constraints) -> None:
        self.model, self.longest, self.constraints = model, longest, constraints
        self.beam_size, self.width = beam_size, beam_size // groups
        self.penalty, self.exponent = penalty, exponent
        self.state: DecoderState = model.start(memory, groups)
        images, device = len(memory), self.state.device
        self.places: Tensor | None = None
        self.rows = torch.arange(images * groups, device=device).view(images, groups, 1)
        self.words = torch.zeros_like(self.rows)
        self.captions = torch.zeros(images, groups, 1, longest, dtype=torch.long, device=device)
        self.sums = torch.zeros(images, groups, 1, device=device)  # penalised; they rank the beams
        self.totals = torch.zeros(images, groups, 1, device=device)  # log-probabilities alone
        # The best finished beams: what ranks them, their captions and totals.
        self.best = torch.full((images, groups, self.width), -torch.inf, device=device)
        self.best_captions = self.captions.expand(-1, -1, self.width, -1)
        self.best_totals = self.best

    def run(self, results: int) -> Decoded:
        """Search to the end -> `Decoded` with n = results."""
        for length in range(self.longest):
            log_probs, self.state = self.model.step(self._of_rows(self.words), self.state)
            allowed = self.constraints.apply(log_probs, self._of_rows(self.captions), length)
            parents = self._advance(allowed, length)
            self._finish(length + 1)
            if length + 1 == self.longest or not self._select(parents):
                break
        found = self.best > -torch.inf
        totals = torch.where(found, self.best_totals, -torch.inf).flatten(1)
        captions = (self.best_captions * found[..., None]).flatten(1, 2)
        return Decoded(captions[:, :results], totals[:, :results])

    def _of_rows(self, values: Tensor) -> Tensor:
        """(I, G, W, ...) -> (R, ...), those of the state's rows."""
        values = values.flatten(0, 2)
        return values if self.places is None else values[self.places]

    def _of_beams(self, values: Tensor, filler: float) -> Tensor:
        """(R, K), of the state's rows -> (I, G, W, K), with `filler` for beams without a row."""
        shape = (*self.sums.shape, values.shape[1])
        if self.places is not None:
            values = values.new_full((self.sums.numel(), shape[3]), filler).index_copy_(0, self.places, values)
        return values.view(shape)

    def _advance(self, allowed: Tensor, length: int) -> Tensor:
        """Replace the beams by the B best continuations of each group -> whose each continues, (I, G, B): numbers
        of beams before.  `allowed` (R, V): the log-probabilities of their next words."""
        # The B best words of a beam are among these, whichever up to B * (G - 1) words are penalised.
        offered = allowed.topk(min(self.beam_size, allowed.shape[1]), 1)
        log_probs = self._of_beams(offered.values.nan_to_num(-torch.inf, torch.inf, -torch.inf), -torch.inf)
        words = self._of_beams(offered.indices, 0)  # (I, G, W, K)
        self.sums, chosen = self._survivors(log_probs, words)
        totals = self.totals[..., None] + log_probs
        self.totals, self.words = totals.flatten(2).gather(2, chosen), words.flatten(2).gather(2, chosen)
        parents = chosen // words.shape[3]  # within the group
        self.captions = self.captions.gather(2, parents[..., None].expand(-1, -1, -1, self.longest))
        self.captions[..., length] = self.words
        return self.rows * words.shape[2] + parents

    def _survivors(self, log_probs: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """The B best of the words (I, G, W, K) that the beams of each group offer: sums and places in W * K,
        (I, G, B) each; the sum is -inf where there is none."""
        _, G, W, K = words.shape
        sums, places = [], []
        taken: list[Tensor] = []
        for g in range(G):
            scores = log_probs[:, g]
            if g:
                # How many beams of earlier groups took each word.
                count = (words[:, g, :, :, None] == torch.cat(taken, 1)[:, None, None]).sum(3)
                scores = scores - self.penalty * count
            scores = (self.sums[:, g, :, None] + scores).flatten(1)
            best = scores.topk(min(self.width, W * K), 1)
            sums.append(best.values)
            places.append(best.indices)
            if g + 1 < G:
                word = words[:, g].flatten(1).gather(1, best.indices)
                taken.append(word.masked_fill(best.values == -torch.inf, -1))
        return torch.stack(sums, 1), torch.stack(places, 1)

    def _finish(self, length: int) -> None:
        """Merge the beams that ended with this word, `length` log-probabilities long, into the best finished
        ones of their group."""
        ended = (self.words == 0) | (length == self.longest)
        ranks = torch.where(ended, self.sums / length ** self.exponent, -torch.inf)
        top = torch.cat((self.best, ranks), 2).topk(self.width, 2)
        self.best, index = top.values, top.indices
        self.best_totals = torch.cat((self.best_totals, self.totals), 2).gather(2, index)
        captions = torch.cat((self.best_captions, self.captions), 2)
        self.best_captions = captions.gather(2, index[..., None].expand(-1, -1, -1, self.longest))
        self.sums = self.sums.masked_fill(ended, -torch.inf)

    def _select(self, parents: Tensor) -> bool:
        """Give the state the rows of the beams that go on, which continue the beams `parents` (I, G, B); returns
        whether there are any."""
        if not self.state.compacts:
            self.state = self.state.select(parents.flatten(), parents.shape[1] * parents.shape[2])
            return True
        places = ((self.sums > -torch.inf) & self._can_still_win()).flatten().nonzero()[:, 0]
        if not len(places):
            return False
        rows = parents.flatten()[places]
        if self.places is not None:  # numbers of beams -> numbers of rows
            rows = torch.searchsorted(self.places, rows)
        self.places, self.state = places, self.state.select(rows)
        return True

    def _can_still_win(self) -> Tensor:
        """Whether the search of each group must go on, bool (I, G, 1).

        Sums only fall, so a beam whose most favourable end (no further loss, at the length that ranks it best)
        is below the last of a full list has lost.  A lost beam can neither enter the list nor have a descendant
        that does, but it still takes a place among the survivors, and with several groups its words count
        against later groups.  So lost beams are dropped only when all beams of their image (with several
        groups: in all groups) have lost, which leaves the result the same.
        """
        limit = self.sums / float(self.longest) ** self.exponent
        hopeful = (limit > self.best[..., -1:]).any(2, keepdim=True)  # -inf while the list is not full
        return hopeful.any(1, keepdim=True)
