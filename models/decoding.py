"""Decoding methods: greedy, sampling, beam search and diverse beam search, for a whole batch at a time.

They work on any model with `start(memory, copies)` and `step(words, state)`, and a state with `select(rows)`.
Rows that have ended are dropped, so a batch costs what its live captions cost.  The results are those of one
image at a time without a cache (`tests/naive.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class DecoderState(Protocol):
    """Captions being written, one row each."""

    @property
    def device(self) -> torch.device | str:
        """The device of the state's tensors."""

    def select(self, rows: Tensor) -> DecoderState:
        """The state of the chosen rows."""


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
    the same word twice in a row; `no_trigram_repeat`: no trigram twice."""

    unknown: int | None = None
    no_repeat: bool = False
    no_trigram_repeat: bool = False

    def apply(self, log_probs: Tensor, captions: Tensor, length: int) -> Tensor:
        """log_probs (R, V) of the next word of captions (R, T), `length` words long so far -> the same with -inf
        for every forbidden word.  The end token is never forbidden."""
        if self.unknown is not None:
            log_probs = log_probs.clone()
            log_probs[:, self.unknown] = -torch.inf
        if self.no_repeat and length:
            log_probs = log_probs.scatter(1, captions[:, length - 1:length], -torch.inf)
        if self.no_trigram_repeat and length >= 3:
            # A word is forbidden if it once followed the same two words that stand last now.
            last = captions[:, length - 2:length]  # (R, 2)
            trigrams = captions[:, :length].unfold(1, 3, 1)  # (R, length - 2, 3)
            rows, starts = (trigrams[:, :, :2] == last[:, None]).all(2).nonzero(as_tuple=True)
            log_probs = log_probs.clone()
            log_probs[rows, trigrams[rows, starts, 2]] = -torch.inf
        return log_probs


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
    live = torch.arange(rows, device=device)
    words = torch.zeros(rows, dtype=torch.long, device=device)
    for length in range(longest):
        log_probs, state = model.step(words, state)
        allowed = constraints.apply(log_probs, captions[live], length)
        if greedy:
            words = allowed.argmax(1)
        else:
            uniform = None if uniforms is None else uniforms[live, length]
            words = draw(allowed, temperature, top_k, top_p, uniform)
        totals[live] += log_probs.gather(1, words[:, None])[:, 0]
        captions[live, length] = words
        unfinished = words.nonzero()[:, 0]
        if not len(unfinished):
            break
        if len(unfinished) < len(words):
            live, words, state = live[unfinished], words[unfinished], state.select(unfinished)
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
    """The state of one batched beam search: I images, G groups, B beams of each group.

    Live beams are packed rows, sorted by (image, group, rank); `slots` (R,) holds each row's place in that
    order, (image * G + group) * B + rank.
    """

    def __init__(self, model: WordByWord, memory: Sized, longest: int, beam_size: int, groups: int,
                 penalty: float, exponent: float, constraints: Constraints) -> None:
        self.model, self.longest, self.constraints = model, longest, constraints
        self.images, self.groups, self.width = len(memory), groups, beam_size // groups
        self.penalty, self.exponent = penalty, exponent
        self.state: DecoderState = model.start(memory, groups)
        self.device = device = self.state.device
        rows = self.images * groups
        # At the first step there is one live beam in each group.
        self.slots = torch.arange(rows, device=device) * self.width
        self.captions = torch.zeros(rows, longest, dtype=torch.long, device=device)
        self.words = torch.zeros(rows, dtype=torch.long, device=device)
        self.sums = torch.zeros(rows, device=device)  # penalised; they rank the beams
        self.totals = torch.zeros(rows, device=device)  # log-probabilities alone
        shape = (self.images, groups, self.width)
        self.best = torch.full(shape, -torch.inf, device=device)  # what ranks the finished beams
        self.best_captions = torch.zeros(shape + (longest,), dtype=torch.long, device=device)
        self.best_totals = torch.full(shape, -torch.inf, device=device)

    def run(self, results: int) -> Decoded:
        """Search to the end -> `Decoded` with n = results."""
        for length in range(self.longest):
            log_probs, self.state = self.model.step(self.words, self.state)
            allowed = self.constraints.apply(log_probs, self.captions, length)
            self._advance(log_probs, allowed, length)
            if not len(self.slots):
                break
        shape = (self.images, self.groups * self.width)
        return Decoded(self.best_captions.view(shape + (self.longest,))[:, :results],
                       self.best_totals.view(shape)[:, :results])

    def _advance(self, log_probs: Tensor, allowed: Tensor, length: int) -> None:
        """Choose the survivors of this step, move the ended ones to the finished, keep the others."""
        slots, parents, words, sums = self._survivors(allowed)
        self.totals = self.totals[parents] + log_probs[parents, words]
        self.captions = self.captions[parents]
        self.captions[:, length] = words
        ended = (words == 0) | (length + 1 == self.longest)
        if ended.any():
            self._finish(ended, slots, sums, length + 1)
        keep = (~ended & self._can_still_win(slots, sums)).nonzero()[:, 0]
        self.slots, self.sums, self.words = slots[keep], sums[keep], words[keep]
        self.totals, self.captions = self.totals[keep], self.captions[keep]
        if len(keep):
            self.state = self.state.select(parents[keep])

    def _survivors(self, allowed: Tensor) -> tuple[Tensor, ...]:
        """The survivors of all groups, sorted by slot: their slots, parents (row numbers), words and sums."""
        I, G, B = self.images, self.groups, self.width
        R, V = allowed.shape
        if G == 1:
            return self._survivors_of(0, torch.arange(R, device=self.device), allowed)
        image, group = self.slots // (G * B), self.slots // B % G
        taken = allowed.new_zeros(I, V)  # how many beams of earlier groups took a word at this step
        chosen = []
        for g in range(G):
            rows = (group == g).nonzero()[:, 0]
            scores = allowed[rows]
            if g:
                scores = scores - self.penalty * taken[image[rows]]
            chosen.append(self._survivors_of(g, rows, scores))
            slots, _, words, _ = chosen[-1]
            taken.index_put_((slots // (G * B), words), taken.new_ones(()), accumulate=True)
        order = torch.cat([slots for slots, *_ in chosen]).argsort()
        return tuple(torch.cat(parts)[order] for parts in zip(*chosen))

    def _survivors_of(self, group: int, rows: Tensor, scores: Tensor) -> tuple[Tensor, ...]:
        """As `_survivors`, of one group, whose live beams are `rows`; scores (rows, V) of their next words."""
        I, G, B = self.images, self.groups, self.width
        offered = scores.topk(min(B, scores.shape[1]), 1)  # (rows, K)
        K = offered.values.shape[1]
        sums = torch.full((I * B, K), -torch.inf, device=self.device)
        words = torch.zeros(I * B, K, dtype=torch.long, device=self.device)
        source = torch.zeros(I * B, dtype=torch.long, device=self.device)
        places = self.slots[rows] // (G * B) * B + self.slots[rows] % B  # image * B + rank
        sums[places] = self.sums[rows, None] + offered.values
        words[places] = offered.indices
        source[places] = rows
        top = sums.view(I, B * K).topk(min(B, B * K), 1)  # (I, up to B)
        rank = torch.arange(top.values.shape[1], device=self.device)
        slots = (torch.arange(I, device=self.device)[:, None] * G + group) * B + rank
        alive = top.values > -torch.inf
        word = words.view(I, B * K).gather(1, top.indices)
        parent = source.view(I, B).gather(1, top.indices // K)
        return slots[alive], parent[alive], word[alive], top.values[alive]

    def _finish(self, ended: Tensor, slots: Tensor, sums: Tensor, length: int) -> None:
        """Merge the beams that ended with this word, `length` log-probabilities long, into the best finished
        ones of their group."""
        shape = (self.images * self.groups, self.width)
        unit, rank = slots[ended] // self.width, slots[ended] % self.width
        ranks = torch.full(shape, -torch.inf, device=self.device)
        totals = ranks.clone()
        captions = torch.zeros(shape + (self.longest,), dtype=torch.long, device=self.device)
        ranks[unit, rank] = sums[ended] / length ** self.exponent
        totals[unit, rank] = self.totals[ended]
        captions[unit, rank] = self.captions[ended]
        ranks = torch.cat((self.best.view(shape), ranks), 1)
        top = ranks.topk(self.width, 1)
        index = top.indices
        totals = torch.cat((self.best_totals.view(shape), totals), 1).gather(1, index)
        captions = torch.cat((self.best_captions.view(captions.shape), captions), 1)
        captions = captions.gather(1, index[..., None].expand(-1, -1, self.longest))
        self.best, self.best_totals = top.values.view_as(self.best), totals.view_as(self.best)
        self.best_captions = captions.view_as(self.best_captions)

    def _can_still_win(self, slots: Tensor, sums: Tensor) -> Tensor:
        """(R,) bool: whether this beam's search must go on.

        Sums only fall, so a beam whose most favourable end (no further loss, at the length that ranks it best)
        is below the last of a full list has lost.  A lost beam can neither enter the list nor have a descendant
        that does, but it still takes a place among the survivors, and with several groups its words count
        against later groups.  So lost beams are dropped only when all beams of their image (with several
        groups: in all groups) have lost, which leaves the result the same.
        """
        limit = sums / float(self.longest) ** self.exponent
        worst = self.best.view(-1, self.width)[:, -1]  # -inf while the list is not full
        unit = slots // self.width
        hopeful = limit > worst[unit]
        units = torch.zeros(self.images * self.groups, dtype=torch.bool, device=self.device)
        units[unit[hopeful]] = True
        if self.groups > 1:
            units = units.view(self.images, self.groups).any(1, keepdim=True) \
                .expand(-1, self.groups).reshape(-1)
        return units[unit]
