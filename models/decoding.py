"""Greedy, sampling, beam search and diverse beam search, for a whole batch at a time.

They work on any model with `start(memory, copies)`, `step(words, state)` and a state whose rows
can be selected.  Rows that have ended are dropped, so a batch costs what its live captions cost.
Results are those of one image at a time without a cache (`tests/naive.py`).
"""

from dataclasses import dataclass

import torch


@dataclass
class Decoded:
    """`captions` (I, n, T) long, zero padded; `log_probs` (I, n), the sum over a caption's words,
    its end token included, without any penalty (-inf where there is no n-th caption)."""

    captions: torch.Tensor
    log_probs: torch.Tensor


@dataclass
class Constraints:
    """What may not be said.  `unknown`: the index of UNK where it is suppressed, else None;
    `no_repeat`: never the same word twice in a row; `no_trigram_repeat`: no trigram twice."""

    unknown: int | None = None
    no_repeat: bool = False
    no_trigram_repeat: bool = False

    def apply(self, log_probs, captions, length):
        """log_probs (R, V) for the next word of captions (R, T), `length` words long so far.
        Returns them with -inf on every forbidden word; the end token is never forbidden."""
        if self.unknown is not None:
            log_probs = log_probs.clone()
            log_probs[:, self.unknown] = -torch.inf
        if self.no_repeat and length:
            log_probs = log_probs.scatter(1, captions[:, length - 1:length], -torch.inf)
        if self.no_trigram_repeat and length >= 3:
            # A word is forbidden if it once followed the same two words that now stand last.
            last = captions[:, length - 2:length]  # (R, 2)
            before = captions[:, :length].unfold(1, 3, 1)  # (R, length - 2, 3)
            seen = (before[:, :, :2] == last[:, None]).all(2)
            rows, places = seen.nonzero(as_tuple=True)
            log_probs = log_probs.clone()
            log_probs[rows, before[rows, places, 2]] = -torch.inf
        return log_probs


def sample(model, memory, longest, copies=1, greedy=False, temperature=1.0, top_k=0, top_p=1.0,
           constraints=Constraints(), chances=None):
    """`copies` captions for each image, word by word: `Decoded` with n = copies.

    greedy: the most probable word each time.  Otherwise words are drawn from the softmax of
    log p / temperature, cut to the `top_k` most probable words (0: all) and to the smallest set
    of words whose probability reaches `top_p` (1: all).  `chances` (I * copies, longest): the uniform
    numbers that decide the words (default: they are drawn).
    """
    images = len(memory)
    state = model.start(memory, copies)
    rows = images * copies
    device = state.device
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
            chance = None if chances is None else chances[live, length]
            words = draw(allowed, temperature, top_k, top_p, chance)
        totals[live] += log_probs.gather(1, words[:, None])[:, 0]
        captions[live, length] = words
        going = words.nonzero()[:, 0]
        if not len(going):
            break
        if len(going) < len(words):
            live, words, state = live[going], words[going], state.select(going)
    return Decoded(captions.view(images, copies, longest), totals.view(images, copies))


def draw(log_probs, temperature=1.0, top_k=0, top_p=1.0, chance=None, generator=None):
    """One word (R,) per row from the softmax of log_probs (R, V) / temperature, after the cuts: the first
    at which the sum of the probabilities passes `chance` (R,), which is uniform in [0, 1)."""
    # The largest is made 0 first: a tiny temperature may overflow the others to -inf, but not it.
    scaled = (log_probs - log_probs.max(1, keepdim=True).values) / temperature
    if top_k:
        kept = scaled.topk(min(top_k, scaled.shape[1]), 1)
        scaled = torch.full_like(scaled, -torch.inf).scatter(1, kept.indices, kept.values)
    if top_p < 1:
        ordered, words = scaled.softmax(1).sort(1, descending=True)
        # A word is dropped when those before it already reach top_p; the first one never is.
        dropped = ordered.cumsum(1) - ordered >= top_p
        scaled = scaled.masked_fill(dropped.gather(1, words.argsort(1)), -torch.inf)
    if chance is None:
        chance = torch.rand(len(scaled), generator=generator, device=scaled.device)
    reached = scaled.softmax(1).cumsum(1)
    passed = torch.searchsorted(reached, (chance * reached[:, -1])[:, None], right=True)[:, 0]
    # Sums that are not finite pass nothing; the loss of whatever word will tell.
    return passed.clamp(max=scaled.shape[1] - 1)


def beam_search(model, memory, longest, beam_size, group_size=1, diversity_lambda=0.5,
                length_penalty=0.0, max_ppl=False, results=1, constraints=Constraints()):
    """Beam search, or with `group_size` > 1 groups diverse beam search (Vijayakumar et al. 2018).

    At each step every live beam offers its B best words (B = beam_size / group_size, which must
    be whole), and the B best sums of log-probabilities of a group survive.  A beam that ends, or
    reaches `longest` words, moves to the finished ones and competes no more; the B best finished
    are kept, ranked by sum / length ** length_penalty, or by the mean with `max_ppl` (the end
    token counts in the length).  Group i pays `diversity_lambda` for a word once for each beam
    of an earlier group that was extended by this word at the same position; penalised sums rank
    and are kept.  Returns the first `results` of the groups' sorted lists, one after the other.
    """
    search = _Search(model, memory, longest, beam_size, group_size, diversity_lambda,
                     1.0 if max_ppl else length_penalty, constraints)
    return search.run(results)


class _Search:
    """The state of one batched beam search.

    Live beams are packed rows, sorted by (image, group, rank); `slots` (R,) holds that place,
    (image * groups + group) * B + rank.
    """

    def __init__(self, model, memory, longest, beam_size, groups, penalty, exponent, constraints):
        self.model, self.longest, self.constraints = model, longest, constraints
        self.images, self.groups, self.width = len(memory), groups, beam_size // groups
        self.penalty, self.exponent = penalty, exponent
        self.state = model.start(memory, groups)
        self.device = device = self.state.device
        rows = self.images * groups
        # At the first step there is one live beam in each group.
        self.slots = torch.arange(rows, device=device) * self.width
        self.captions = torch.zeros(rows, longest, dtype=torch.long, device=device)
        self.words = torch.zeros(rows, dtype=torch.long, device=device)
        self.sums = torch.zeros(rows, device=device)  # penalised, rank the beams
        self.totals = torch.zeros(rows, device=device)  # log-probabilities alone
        shape = (self.images, groups, self.width)
        self.best = torch.full(shape, -torch.inf, device=device)  # finished: what ranks them
        self.best_captions = torch.zeros(shape + (longest,), dtype=torch.long, device=device)
        self.best_totals = torch.full(shape, -torch.inf, device=device)

    def run(self, results):
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

    def _advance(self, log_probs, allowed, length):
        """Choose the survivors of this step, move ended ones to the finished, keep the others."""
        I, G, B = self.images, self.groups, self.width
        R, V = log_probs.shape
        image = self.slots // (G * B)
        group = self.slots // B % G
        said = allowed.new_zeros(I, V) if G > 1 else None  # words of earlier groups at this step
        chosen = []
        for g in range(G):
            rows = (group == g).nonzero()[:, 0] if G > 1 else torch.arange(R, device=self.device)
            scores = allowed[rows]
            if g:
                scores = scores - self.penalty * said[image[rows]]
            offered = scores.topk(min(B, V), 1)  # (rows, K)
            K = offered.values.shape[1]
            sums = torch.full((I * B, K), -torch.inf, device=self.device)
            words = torch.zeros(I * B, K, dtype=torch.long, device=self.device)
            source = torch.zeros(I * B, dtype=torch.long, device=self.device)
            places = image[rows] * B + self.slots[rows] % B
            sums[places] = self.sums[rows, None] + offered.values
            words[places] = offered.indices
            source[places] = rows
            top = sums.view(I, B * K).topk(min(B, B * K), 1)  # (I, up to B)
            rank = torch.arange(top.values.shape[1], device=self.device)
            slot = (torch.arange(I, device=self.device)[:, None] * G + g) * B + rank
            alive = top.values > -torch.inf
            word = words.view(I, B * K).gather(1, top.indices)
            parent = source.view(I, B).gather(1, top.indices // K)
            chosen.append((slot[alive], parent[alive], word[alive], top.values[alive]))
            if G > 1:
                said.index_put_((slot[alive] // (G * B), word[alive]),
                                said.new_ones(()), accumulate=True)
        slots, parents, words, sums = (torch.cat(parts) for parts in zip(*chosen))
        if G > 1:
            order = slots.argsort()
            slots, parents, words, sums = (part[order] for part in (slots, parents, words, sums))
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

    def _finish(self, ended, slots, sums, length):
        """Merge the beams that ended with this word, `length` log-probabilities long, into the
        best finished ones of their group."""
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

    def _can_still_win(self, slots, sums):
        """(R,) bool: could this beam still enter its group's finished list?

        Sums only fall, so a beam whose most favourable end (no further loss, at the length that
        treats it best) is below the last of a full list has lost.  With a single group such
        beams are dropped once all beams of the image have lost; the result stays the same, since
        a lost beam can neither enter the list nor have a descendant that does.
        """
        limit = sums / float(self.longest) ** self.exponent
        worst = self.best.view(-1, self.width)[:, -1]  # -inf while the list is not full
        unit = slots // self.width
        hopeful = limit > worst[unit]
        # A lost beam still takes a place among the survivors, so an image is dropped only as a whole,
        # and with several groups its words still count against later groups.
        units = torch.zeros(self.images * self.groups, dtype=torch.bool, device=self.device)
        units[unit[hopeful]] = True
        if self.groups > 1:
            units = units.view(self.images, self.groups).any(1, keepdim=True) \
                .expand(-1, self.groups).reshape(-1)
        return units[unit]
