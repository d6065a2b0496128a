"""The workloads of the benchmark: captions, scores and training steps, by the project and by the plain version."""

import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import torch

from dataloader import Batch
from misc.evaluation.captioning import evaluating
from misc.training.cider import CiderD
from misc.training.losses import caption_loss, self_critical_loss
from misc.training.rewards import Rewards
from misc.training.transfers import to_device
from models.decoding import beam_search, sample
from scripts.benchmarking.floors import Floor, decoding_floor, step_floor, words_of
from scripts.benchmarking.made_up import Sizes, made_up_sentences, region_counts
from scripts.benchmarking.reading import Reading
from scripts.benchmarking.workload import Workload
from tests import naive

# The cross-entropy step takes a known batch: 15 images with these regions, 45 on average, and captions that this seed
# gives 772 words.
REGIONS = [81, 44, 10, 61, 28, 22, 58, 67, 36, 42, 38, 54, 33, 72, 29]
WORDS_SEED = 9


def times_floor(found: dict[str, Any], side: str = 'project') -> str:
    """How a side of the measured workload stands to its floor, as a text."""
    seconds, floor = found[side]['seconds'], found[side]['floor']
    return f'{seconds / floor:.2f} times the floor of {floor:.3g} s'


class Decoding(Workload):
    """Captions of some images; the plain version decodes one image at a time, without a cache."""

    sides: ClassVar[tuple[str, ...]] = ('project', 'plain', 'rates')
    captions: torch.Tensor  # of the last run (I, n, T)

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        super().__init__(sizes, device)
        self.build(region_counts(self.sizes.beam_images, self.sizes), seed=2)
        self.facts['images'] = len(self.batch.counts)

    def project(self) -> dict[str, float]:
        return self.decoded(self.decode)

    def decode(self, memory: Any) -> torch.Tensor:
        """The captions (I, n, T) of encoded images."""
        raise NotImplementedError

    def decoded(self, decode: Callable[[Any], torch.Tensor]) -> dict[str, float]:
        """Encode and decode all images -> the words of a caption on average."""
        with evaluating(self.model):
            self.captions = decode(self.model.encode(self.batch))
        return {'words': float((self.captions > 0).sum() / self.captions[..., 0].numel())}

    def plain(self) -> dict[str, float]:
        rows = []
        with evaluating(self.model):
            for i in range(len(self.batch.counts)):
                words = self.plain_caption(self.plain_log_probs(i))
                rows.append([words + [0] * (self.sizes.longest - len(words))])
        self.captions = torch.tensor(rows)
        return {'words': float(np.count_nonzero(rows) / len(rows))}

    def plain_caption(self, log_probs: Callable[[list[int]], torch.Tensor]) -> list[int]:
        """The words of an image's caption; `log_probs` as `plain_log_probs` returns it."""
        raise NotImplementedError

    def plain_log_probs(self, i: int) -> Callable[[list[int]], torch.Tensor]:
        """Words of a caption of image i -> log-probabilities of the next word."""
        regions = naive.encode(*self.image(i))
        return lambda words: naive.next_word_log_probs(self.model, regions, words)[-1]

    def result(self, side: str) -> list:
        rows = torch.zeros(len(self.captions), self.sizes.longest, dtype=torch.long)
        rows[:, :self.captions.shape[2]] = self.captions[:, 0]
        return rows.tolist()

    def floor(self, side: str) -> Floor | None:
        if side in ('plain', 'rates'):
            return None
        return decoding_floor(self.model, self.sizes, self.batch.counts, words_of(self.captions))

    @staticmethod
    def notes(found: dict[str, Any]) -> Iterator[str]:
        yield (f'both give the same captions, {found["project"]["words"]:.1f} words long on average; '
               f'{found["images"] / found["project"]["seconds"]:.1f} images a second; {times_floor(found)}')


class Greedy(Decoding):
    """Greedy captions; the plain version decodes one image at a time, without a cache."""

    sides = ('project', 'plain', 'samples', 'rates')
    warm = ('project', 'samples')

    def decode(self, memory: Any) -> torch.Tensor:
        return sample(self.model, memory, self.sizes.longest, greedy=True).captions

    def samples(self) -> dict[str, float]:
        """Five samples of each image."""
        return self.decoded(lambda memory: sample(self.model, memory, self.sizes.longest, copies=5).captions)

    def plain_caption(self, log_probs: Callable[[list[int]], torch.Tensor]) -> list[int]:
        return naive.greedy(log_probs, self.sizes.longest)[0]

    @staticmethod
    def notes(found: dict[str, Any]) -> Iterator[str]:
        yield from Decoding.notes(found)
        yield f'five samples of each image: {found["samples"]["seconds"]:.3g} s, {times_floor(found, "samples")}'


class Beam(Decoding):
    """Beam search with 5 beams; the plain version decodes one image at a time, without a cache."""

    def decode(self, memory: Any) -> torch.Tensor:
        return beam_search(self.model, memory, self.sizes.longest, 5).captions

    def plain_caption(self, log_probs: Callable[[list[int]], torch.Tensor]) -> list[int]:
        return naive.beam_search(log_probs, self.sizes.longest, 5)[0][0]

    def floor(self, side: str) -> Floor | None:
        if side == 'project':  # all beams
            self.decoded(lambda memory: beam_search(self.model, memory, self.sizes.longest, 5, results=5).captions)
        return super().floor(side)


class SelfCritical(Workload):
    """A self-critical step, five samples an image: greedy captions, samples, rewards, loss, update.

    The project trains with dropout on, as train.py does; the plain version has none.
    """

    sides = ('project', 'plain', 'cross_entropy', 'rates')
    warm = ('project', 'cross_entropy')
    samples = 5

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        super().__init__(sizes, device)
        sizes = self.sizes
        self.build(region_counts(sizes.sampled_images, sizes), seed=4)
        # References sampled from the model, so that rewards are not all 0.
        with evaluating(self.model):
            drawn = sample(self.model, self.model.encode(self.batch), sizes.longest, copies=5)
        self.references = drawn.captions.cpu().numpy()
        self.table = naive.ngram_frequency(self.references)
        images = sizes.sampled_images
        self.rewards = Rewards(CiderD(self.table, images), lambda i: self.references[i], sizes.longest)
        self.facts.update(images=images, samples=self.samples)
        self.shares['plain'] = sizes.plain_sampled_images / images

    def project(self) -> dict[str, float]:
        self.model.train()
        return self.training_step(self.sampled_loss) | {'words': self.words}

    def sampled_loss(self) -> torch.Tensor:
        """The loss of one batch of samples, as train.py computes it."""
        model, batch, longest = self.model, self.batch, self.sizes.longest
        greedy = self.greedy()
        with torch.no_grad():
            samples = sample(model, model.encode(batch), longest, copies=self.samples).captions

        def advantage() -> torch.Tensor:
            found, statistics = self.rewards(batch.image_ids, samples, greedy)
            self.words = statistics['words']
            return to_device(found, self.device)
        self.drawn = [greedy[:, None], samples]
        return self_critical_loss(model, model.encode(batch), samples, advantage)['loss']

    def floor(self, side: str) -> Floor | None:
        known = (self.model, self.sizes, self.batch.counts)
        if side == 'project':
            greedy, samples = map(words_of, self.drawn)
            return decoding_floor(*known, greedy) + decoding_floor(*known, samples) + step_floor(*known, samples)
        return step_floor(*known, words_of(self.batch.captions)) if side == 'cross_entropy' else None

    def greedy(self) -> torch.Tensor:
        """Greedy captions of the batch, (images, words)."""
        with evaluating(self.model) as model:
            return sample(model, model.encode(self.batch), self.sizes.longest, greedy=True).captions[:, 0]

    def plain(self) -> dict[str, float]:
        return self.training_step(self.plain_loss) | {'words': self.words}

    def plain_loss(self) -> torch.Tensor:
        """The same loss, one sample at a time; the graph of sampling is kept."""
        total, tokens, words = torch.zeros((), device=self.device), 0, 0
        for i in range(self.sizes.plain_sampled_images):
            baseline = self.plain_reward(i, self.plain_greedy(i))
            regions = naive.encode(*self.image(i))
            for _ in range(self.samples):
                sampled, log_prob, steps = self.plain_sample(regions)
                total = total - log_prob * (self.plain_reward(i, sampled) - baseline)
                tokens, words = tokens + steps, words + len(sampled)
        self.words = words / self.sizes.plain_sampled_images / self.samples
        return total / tokens

    def plain_sample(self, regions: Any) -> tuple[list[int], torch.Tensor, int]:
        """(words, the sum of the log-probabilities of the words drawn, their number with the end token)."""
        words: list[int] = []
        total = torch.zeros((), device=self.device)
        for _ in range(self.sizes.longest):
            log_probs = naive.next_word_log_probs(self.model, regions, words)[-1]
            word = int(torch.multinomial(log_probs.detach().exp(), 1))
            total = total + log_probs[word]
            if word == 0:
                break
            words.append(word)
        return words, total, min(len(words) + 1, self.sizes.longest)

    def plain_greedy(self, i: int) -> list[int]:
        """The greedy caption of image i."""
        with torch.no_grad():
            regions = naive.encode(*self.image(i))
            return naive.greedy(lambda words: naive.next_word_log_probs(self.model, regions, words)[-1],
                                self.sizes.longest)[0]

    def plain_reward(self, i: int, words: list[int]) -> float:
        """CIDEr-D of a caption of image i."""
        row = words + [0] * (self.sizes.longest - len(words))
        return naive.cider_d(row, self.references[i], self.table, len(self.references))

    def result(self, side: str) -> list:
        """The greedy caption of the first image."""
        if side == 'project':
            return self.greedy()[0].tolist()
        words = self.plain_greedy(0)
        return words + [0] * (self.sizes.longest - len(words))

    @staticmethod
    def notes(found: dict[str, Any]) -> Iterator[str]:
        project, plain, other = (found[side] for side in SelfCritical.sides[:3])
        yield (f'samples of {project["words"]:.1f} words (plain: {plain["words"]:.1f}); greedy captions, '
               f'samples, rewards and loss {project["forward"]:.2f} s, backward {project["backward"]:.2f} s, update '
               f'{project["update"]:.2f} s; {times_floor(found)}')
        yield (f'peak memory {project["peak"] / 1e9:.2f} GB, {project["peak"] / other["peak"]:.2f} times the '
               f'{other["peak"] / 1e9:.2f} GB of a cross-entropy step on the same images with as many '
               f'captions ({other["seconds"]:.2f} s)')


class Cider(Workload):
    """CIDEr-D of 1,000 captions, five an image, against five references each, on one core."""

    tolerance = 1e-6
    batches, copies = 10, 5

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        super().__init__(sizes, device)
        images = self.sizes.table_images
        rows = made_up_sentences(images, 5 + self.copies, self.sizes.words, 16, seed=1)
        self.references, self.samples = [row[:5] for row in rows], np.stack([row[5:] for row in rows])
        self.table = naive.ngram_frequency(self.references)
        self.scorer = CiderD(self.table, images)
        self.ids = np.arange(images)
        self.scorer.references_for(self.ids, lambda image_id: self.references[image_id])
        self.facts.update(captions=self.sizes.scored, ngrams=len(self.table), table_images=images)
        step = self.sizes.scored // self.copies
        self.starts = range(0, images, step)[:self.batches]
        self.step, self.shares['project'] = step, len(self.starts)

    def project(self) -> dict[str, float]:
        scores = [self.scorer.score(self.ids[i:i + self.step], self.samples[i:i + self.step],
                                    lambda image_id: self.references[image_id])  # not called: known by now
                  for i in self.starts]
        self.scores = scores[0].ravel()
        return {}

    def plain(self) -> dict[str, float]:
        self.scores = np.array([naive.cider_d(caption, self.references[i], self.table, len(self.ids))
                                for i in range(self.step) for caption in self.samples[i]])
        return {}

    def result(self, side: str) -> list:
        return list(map(float, self.scores))

    def clock(self) -> float:
        return time.process_time()  # processor time: other work on the machine does not count

    @staticmethod
    def notes(found: dict[str, Any]) -> Iterator[str]:
        project, plain = (found['captions'] / found[side]['seconds'] for side in Cider.sides)
        yield (f'{project:,.0f} captions a second on one core (plain: {plain:,.0f}); {found["ngrams"]:,} '
               'n-grams in the table')


class Step(Workload):
    """A cross-entropy step: loss, gradients, update.

    The project trains with dropout on; the plain version has none.
    """

    sides = ('project', 'bf16', 'plain', 'rates')
    warm = ('project', 'bf16')
    tolerance = 1e-4

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        super().__init__(sizes, device)
        sizes = self.sizes
        counts = [-(-count // sizes.shrink) for count in REGIONS[:sizes.step_images]]
        self.build(counts, seed=WORDS_SEED)
        self.words = words_of(self.batch.captions)
        self.facts.update(images=len(counts), captions=sum(map(len, self.words)), words=sum(map(sum, self.words)),
                          regions=sum(counts))

    def floor(self, side: str) -> Floor | None:
        if side in ('plain', 'rates'):
            return None
        return step_floor(self.model, self.sizes, self.batch.counts, self.words)

    def project(self) -> dict[str, float]:
        return self.cross_entropy()

    def bf16(self) -> dict[str, float]:
        """The same with --amp bf16."""
        return self.cross_entropy('bf16')

    def plain(self) -> dict[str, float]:
        return self.training_step(lambda: self.plain_loss(len(self.batch.counts)))

    def plain_loss(self, images: int) -> torch.Tensor:
        """The loss of the first images, one caption at a time."""
        total, tokens = torch.zeros((), device=self.device), 0
        for i in range(images):
            regions = naive.encode(*self.image(i))
            for caption in self.batch.captions[i].tolist():
                words = [word for word in caption if word]
                log_probs = naive.next_word_log_probs(self.model, regions, words)
                for position, word in enumerate(words + [0]):
                    total, tokens = total - log_probs[position, word], tokens + 1
        return total / tokens

    def result(self, side: str) -> list:
        """The loss of the first two images with dropout off, and the norm of every gradient, relative to the
        largest."""
        self.model.eval()
        self.model.zero_grad(set_to_none=True)
        if side == 'plain':
            loss = self.plain_loss(2)
        else:
            rows = sum(self.batch.counts[:2])
            loss = caption_loss(self.model, Batch(
                [0, 1], [0, 1], self.batch.counts[:2], self.batch.features[:rows], self.batch.grids[:rows],
                None, self.batch.captions[:2]))['loss']
        loss.backward()
        norms = [float(p.grad.norm()) if p.grad is not None else 0.0 for p in self.model.parameters()]
        return [loss.item()] + [norm / max(norms) for norm in norms]

    @staticmethod
    def notes(found: dict[str, Any]) -> Iterator[str]:
        project, bf16, rate = found['project'], found['bf16'], found['rates']['fp32']
        reached = project['operations'] / project['seconds']
        yield (f'{found["images"]} images, {found["regions"]} regions, {found["captions"]} captions, '
               f'{found["words"]} words; forward {project["forward"]:.2f} s, backward '
               f'{project["backward"]:.2f} s, update {project["update"]:.2f} s')
        yield (f'{project["operations"] / 1e9:.1f} GFLOP, {reached / 1e9:.0f} GFLOP/s, {reached / rate:.0%} of '
               f'the {rate / 1e9:.0f} GFLOP/s of float32 products; {times_floor(found)}')
        yield (f'--amp bf16: {bf16["seconds"]:.2f} s, {project["seconds"] / bf16["seconds"]:.2f} times faster, '
               f'{bf16["peak"] / 1e9:.2f} GB; {times_floor(found, "bf16")} at {found["rates"]["bf16"] / 1e9:.0f} '
               f'GFLOP/s')


WORKLOADS: dict[str, type[Workload]] = {
    'greedy': Greedy, 'beam': Beam, 'self-critical': SelfCritical, 'cider': Cider, 'step': Step, 'reading': Reading}
