"""What `scripts/benchmark.py` measures: the work that each side does, on made-up data."""

import os
import tempfile
import time

import numpy as np
import torch

from dataloader import Batch
from misc.cli import DataError
from misc.dataset.features import open_source, write_array
from misc.dataset.grids import checked_boxes, grid_vectors
from misc.dataset.packed import write_packed
from misc.evaluation.captioning import evaluating
from misc.machine import precision
from misc.training.cider import CiderD
from misc.training.losses import all_finite, caption_loss, self_critical_loss
from misc.training.optim import build_optimiser, clip_by_value, set_rate
from misc.training.rewards import Rewards
from models.decoding import beam_search, sample
from scripts.benchmarking.made_up import made_up_batch, made_up_model, made_up_sentences, model_options, region_counts
from tests import naive

# Of the cross-entropy step: what a known batch of 15 images has, mean 45.
REGIONS = [81, 44, 10, 61, 28, 22, 58, 67, 36, 42, 38, 54, 33, 72, 29]
WORDS_SEED = 9  # gives its 75 captions 772 words


def counted_operations(sizes, counts, lengths):
    """The floating-point operations of matrix products that one training step cannot do without.

    `counts`: regions of each image; `lengths`: for each image, the words of each of its captions.

    A product of (n, a) with (a, b) is n a b multiply-adds.  With M regions, N words (the end token,
    which is predicted too, included), d the model size, f the FFN's, D the features', g the grid's
    side, V the vocabulary + 1, in each of L layers of encoder and decoder:
      every region     D d to embed, d d + 2 g d to place (`gxg`);
                       L (4 d d for queries, keys, values, output, + 2 d f of the FFN);
                       L 2 d d for keys and values of the decoder's X-linear attention
      pairs of regions of an image           L 2 d: the logit, and the share of the sum
      every word       L (4 d d + 2 d f); L (2 d d for both queries, + d/2 d for channel weights); d V
      a word with itself or an earlier one of its caption     L 2 d
      a word with a region of its image      L (d d/2 for e, + d/2 for its logit, + d for the sum)
    Times 2 (a multiplication and an addition), times 3: a product's backward pass is two products of
    the same size, one for each factor's gradient.  Features and grids need no gradient.  Not
    counted: everything element by element, the optimiser, and what is computed twice.
    """
    options = model_options(sizes)
    d, f, D, L = options.input_encoding_size, options.ff_size, options.img_feat_size, options.num_layers
    g, V = round(options.num_grids ** 0.5), sizes.words + 1
    said = [[words + 1 for words in image] for image in lengths]
    M, N = sum(counts), sum(map(sum, said))
    pairs = sum(count * sum(image) for count, image in zip(counts, said))
    inputs = M * (D * d + 2 * g * d)
    regions = M * (d * d + L * (6 * d * d + 2 * d * f)) + L * 2 * d * sum(count ** 2 for count in counts)
    words = N * (L * (6 * d * d + 2 * d * f + d * d // 2) + d * V)
    earlier = L * 2 * d * sum(words * (words + 1) // 2 for image in said for words in image)
    return 2 * (2 * inputs + 3 * (regions + words + earlier + pairs * L * (d * d // 2 + d // 2 + d)))


def synchronise(device):
    """Wait for what a CUDA device still has to do."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


class Workload:
    """Something to measure, once for each of its `sides`; every side lives in a process of its own.

    A side is a method; it does the work once and returns a dict of numbers to report medians of.
    """

    sides = ('project', 'plain')
    warm = ('project',)  # run once before they are timed
    clock = staticmethod(time.perf_counter)
    tolerance = 0.0

    def __init__(self, sizes, device):
        self.sizes, self.device = sizes, device
        self.facts = {}  # plain values for the report
        self.shares = {}  # by side, how much of the workload a run does, where it is not all

    def build(self, counts, seed, copies=5, like=None):
        """The model, on a batch of images with `counts` regions and `copies` captions each; or that of
        `like`, another workload, with its optimiser."""
        batch = made_up_batch(counts, self.sizes, model_options(self.sizes), seed, copies)
        self.model = made_up_model(self.sizes, batch).to(self.device) if like is None else like.model
        self.batch = batch.to(self.device)
        self.optimiser, self.like = None, like

    def image(self, i):
        """The plain version's arguments for image i."""
        start = sum(self.batch.counts[:i])
        rows = slice(start, start + self.batch.counts[i])
        return self.model, self.batch.features[rows], self.batch.grids[rows]

    def new_optimiser(self):
        """That of the model.  The weights stay what they are (at the same cost), so captions keep their lengths
        and both sides can be compared after they were timed."""
        optimiser = build_optimiser(self.model.parameters(), 'adam')
        set_rate(optimiser, 0.0)
        return optimiser

    def training_step(self, loss_of):
        """Loss, gradients and update as in train.py -> the seconds of each.  On a GPU it is waited for after
        each of them, which train.py does not do."""
        if self.optimiser is None:
            self.optimiser = self.new_optimiser() if self.like is None else self.like.optimiser
        marks = [self.clock()]

        def mark():
            synchronise(self.device)
            marks.append(self.clock())

        self.optimiser.zero_grad(set_to_none=True)
        loss = loss_of()
        mark()
        loss.backward()
        mark()
        parameters = list(self.model.parameters())
        if not all_finite(loss, parameters):
            raise DataError('a loss is not finite: the model is not right')
        clip_by_value(parameters, 0.1)
        self.optimiser.step()
        mark()
        return dict(zip(('forward', 'backward', 'update'), np.diff(marks).tolist()))

    def close(self):
        """Remove what lies on the disk."""

    def result(self, side):
        """After the runs: a nested list of numbers that is the same on both sides."""
        raise NotImplementedError

    def cross_entropy(self, amp='off'):
        """The project's cross-entropy step."""
        def loss():
            with precision(self.device, amp):
                return caption_loss(self.model, self.batch)['loss']

        self.model.train()
        return self.training_step(loss)


class Beam(Workload):
    """Beam search with 5 beams; the plain one takes an image at a time and has no cache."""

    def __init__(self, *args):
        super().__init__(*args)
        self.build(region_counts(self.sizes.beam_images, self.sizes), seed=2)
        self.facts['images'] = len(self.batch.counts)

    def project(self):
        with evaluating(self.model):
            found = beam_search(self.model, self.model.encode(self.batch), self.sizes.longest, 5)
        self.captions = found.captions[:, 0].tolist()
        return {'words': np.count_nonzero(self.captions) / len(self.captions)}

    def plain(self):
        self.captions = []
        with evaluating(self.model):
            for i in range(len(self.batch.counts)):
                regions = naive.encode(*self.image(i))
                words, _ = naive.beam_search(
                    lambda words: naive.next_word_log_probs(self.model, regions, words)[-1],
                    self.sizes.longest, 5)[0]
                self.captions.append(words + [0] * (self.sizes.longest - len(words)))
        return {'words': np.count_nonzero(self.captions) / len(self.captions)}

    def result(self, side):
        return self.captions

    @staticmethod
    def notes(found):
        yield (f'the same captions from both, of {found["project"]["words"]:.1f} words; '
               f'{found["images"] / found["project"]["seconds"]:.1f} images a second')


class SelfCritical(Workload):
    """A self-critical step, five samples an image: greedy captions, samples, rewards, loss, update.

    The project trains with dropout on, as train.py does; the plain version has none.
    """

    sides = ('project', 'plain', 'cross_entropy')
    warm = ('project', 'cross_entropy')
    samples = 5

    def __init__(self, *args):
        super().__init__(*args)
        sizes = self.sizes
        self.build(region_counts(sizes.sampled_images, sizes), seed=4)
        # References in the model's own words, so that there is something to reward.
        with evaluating(self.model):
            drawn = sample(self.model, self.model.encode(self.batch), sizes.longest, copies=5)
        self.references = drawn.captions.cpu().numpy()
        self.table = naive.ngram_frequency(self.references)
        images = sizes.sampled_images
        self.rewards = Rewards(CiderD(self.table, images), lambda i: self.references[i], sizes.longest)
        self.facts.update(images=images, samples=self.samples)
        self.shares['plain'] = sizes.plain_sampled_images / images

    def project(self):
        self.model.train()
        return self.training_step(self.sampled_loss) | {'words': self.words}

    def sampled_loss(self):
        model, batch, longest = self.model, self.batch, self.sizes.longest
        greedy = self.greedy()
        with torch.no_grad():
            samples = sample(model, model.encode(batch), longest, copies=self.samples).captions
        advantage, statistics = self.rewards(batch.image_ids, samples, greedy)
        self.words = statistics['words']
        advantage = torch.from_numpy(advantage).to(self.device)
        return self_critical_loss(model, batch, samples, advantage)['loss']

    def greedy(self):
        with evaluating(self.model) as model:
            return sample(model, model.encode(self.batch), self.sizes.longest, greedy=True).captions[:, 0]

    def plain(self):
        return self.training_step(self.plain_loss) | {'words': self.words}

    def plain_loss(self):
        total, tokens, words = 0.0, 0, 0
        for i in range(self.sizes.plain_sampled_images):
            baseline = self.plain_reward(i, self.plain_greedy(i))
            regions = naive.encode(*self.image(i))
            for _ in range(self.samples):
                said, log_prob, steps = self.plain_sample(regions)
                total = total - log_prob * (self.plain_reward(i, said) - baseline)
                tokens, words = tokens + steps, words + len(said)
        self.words = words / self.sizes.plain_sampled_images / self.samples
        return total / tokens

    def plain_sample(self, regions):
        """(words, the sum of their log-probabilities with its graph, how many were drawn)."""
        said, total = [], 0.0
        for step in range(self.sizes.longest):
            log_probs = naive.next_word_log_probs(self.model, regions, said)[-1]
            word = int(torch.multinomial(log_probs.detach().exp(), 1))
            total = total + log_probs[word]
            if word == 0:
                break
            said.append(word)
        return said, total, step + 1

    def plain_greedy(self, i):
        with torch.no_grad():
            regions = naive.encode(*self.image(i))
            return naive.greedy(lambda words: naive.next_word_log_probs(self.model, regions, words)[-1],
                                self.sizes.longest)[0]

    def plain_reward(self, i, said):
        row = said + [0] * (self.sizes.longest - len(said))
        return naive.cider_d(row, self.references[i], self.table, len(self.references))

    def result(self, side):
        """The greedy caption of the first image."""
        if side == 'project':
            return self.greedy()[0].tolist()
        words = self.plain_greedy(0)
        return words + [0] * (self.sizes.longest - len(words))

    @staticmethod
    def notes(found):
        project, plain, other = (found[side] for side in SelfCritical.sides)
        yield (f'samples of {project["words"]:.1f} words (plain: {plain["words"]:.1f}); greedy, samples, '
               f'rewards and loss {project["forward"]:.2f} s, backward {project["backward"]:.2f} s, update '
               f'{project["update"]:.2f} s')
        yield (f'peak memory {project["peak"] / 1e9:.2f} GB, {project["peak"] / other["peak"]:.2f} times the '
               f'{other["peak"] / 1e9:.2f} GB of a cross-entropy step on the same images with as many '
               f'captions ({other["seconds"]:.2f} s)')


class Cider(Workload):
    """CIDEr-D of 1,000 captions, five an image, against five references each, on one core."""

    # Of one core: processor time, in which other work on the machine does not show.
    clock = staticmethod(time.process_time)
    tolerance = 1e-6
    batches, copies = 10, 5

    def __init__(self, *args):
        super().__init__(*args)
        images = self.sizes.table_images
        rows = made_up_sentences(images, 5 + self.copies, self.sizes.words, 16, seed=1)
        self.references, self.samples = [row[:5] for row in rows], np.stack([row[5:] for row in rows])
        self.table = naive.ngram_frequency(self.references)
        self.scorer = CiderD(self.table, images)
        self.ids = np.arange(images)
        self.scorer.kept(self.ids, lambda image_id: self.references[image_id])
        self.facts.update(captions=self.sizes.scored, ngrams=len(self.table), table_images=images)
        step = self.sizes.scored // self.copies
        self.starts = range(0, images, step)[:self.batches]
        self.step, self.shares['project'] = step, len(self.starts)

    def project(self):
        scores = [self.scorer.score(self.ids[i:i + self.step], self.samples[i:i + self.step], None)
                  for i in self.starts]
        self.scores = scores[0].ravel()
        return {}

    def plain(self):
        self.scores = [naive.cider_d(caption, self.references[i], self.table, len(self.ids))
                       for i in range(self.step) for caption in self.samples[i]]
        return {}

    def result(self, side):
        return list(map(float, self.scores))

    @staticmethod
    def notes(found):
        project, plain = (found['captions'] / found[side]['seconds'] for side in Cider.sides)
        yield (f'{project:,.0f} captions a second of one core (plain: {plain:,.0f}); {found["ngrams"]:,} '
               'n-grams in the table')


class Step(Workload):
    """A cross-entropy step: loss, gradients, update.

    The project trains with dropout on; the plain version has none.  `matrix` is what the machine
    does at best, the product of square matrices, measured between the steps.
    """

    sides = ('project', 'bf16', 'plain', 'matrix')
    warm = ('project', 'bf16', 'matrix')
    tolerance = 1e-4
    products = 12

    def __init__(self, *args):
        super().__init__(*args)
        sizes = self.sizes
        counts = [-(-count // sizes.shrink) for count in REGIONS[:sizes.step_images]]
        self.build(counts, seed=WORDS_SEED)
        lengths = (self.batch.captions > 0).sum(2).tolist()
        self.facts.update(images=len(counts), captions=sum(map(len, lengths)), words=sum(map(sum, lengths)),
                          regions=sum(counts), operations=counted_operations(sizes, counts, lengths),
                          matrix_operations=self.products * 2 * sizes.matrix ** 3)

    def project(self):
        return self.cross_entropy()

    def bf16(self):
        """The same with --amp bf16."""
        return self.cross_entropy('bf16')

    def plain(self):
        return self.training_step(lambda: self.plain_loss(len(self.batch.counts)))

    def plain_loss(self, images):
        total, tokens = 0.0, 0
        for i in range(images):
            regions = naive.encode(*self.image(i))
            for caption in self.batch.captions[i].tolist():
                words = [word for word in caption if word]
                log_probs = naive.next_word_log_probs(self.model, regions, words)
                for position, word in enumerate(words + [0]):
                    total, tokens = total - log_probs[position, word], tokens + 1
        return total / tokens

    def matrix(self):
        side = self.sizes.matrix
        a, b = torch.ones(2, side, side, device=self.device)
        for _ in range(self.products):
            a @ b
        return {}

    def result(self, side):
        """Loss of the first two images with dropout off, and the size of every gradient."""
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
        sizes = [float(p.grad.norm()) if p.grad is not None else 0.0 for p in self.model.parameters()]
        return [loss.item()] + [size / max(sizes) for size in sizes]

    @staticmethod
    def notes(found):
        project, rate = found['project'], found['matrix_operations'] / found['matrix']['seconds']
        floor = found['operations'] / rate
        found.update(rate=found['operations'] / project['seconds'], matrix_rate=rate, floor_seconds=floor)
        yield (f'{found["images"]} images, {found["regions"]} regions, {found["captions"]} captions, '
               f'{found["words"]} words; forward {project["forward"]:.2f} s, backward '
               f'{project["backward"]:.2f} s, update {project["update"]:.2f} s')
        yield (f'{found["operations"] / 1e9:.1f} GFLOP counted, {found["rate"] / 1e9:.0f} GFLOP/s, '
               f'{found["rate"] / rate:.0%} of the {rate / 1e9:.0f} GFLOP/s of float32 matrix products here; '
               f'{project["seconds"] / floor:.2f} times the floor of {floor:.2f} s')
        yield (f'--amp bf16: {found["bf16"]["seconds"]:.2f} s, {project["seconds"] / found["bf16"]["seconds"]:.2f} '
               f'times faster, {found["bf16"]["peak"] / 1e9:.2f} GB')


class Reading(Workload):
    """Reading random images' features: from a packed file, beside a compressed .npz file per image.

    They are zero or positive, half of them zero, and all in the page cache.  `places` gets the grid
    vectors of the same images in each way there is, and says how long each takes for one image.
    """

    clock = staticmethod(time.process_time)   # nothing waits for a disk here
    sides = ('project', 'plain', 'places')
    warm = sides
    # The packed file and the vectors take so little that each run reads them many times.
    rounds = {'project': 20, 'plain': 1, 'places': 5}
    ways = 'computing', 'packed_boxes', 'packed_vectors', 'stored_boxes', 'stored_vectors'

    def __init__(self, *args):
        super().__init__(*args)
        self.folder = tempfile.TemporaryDirectory(prefix='reading-')
        options = model_options(self.sizes)
        counts = region_counts(self.sizes.read_images, self.sizes)
        features = made_up_batch(counts, self.sizes, options, seed=6).features.numpy()
        random = np.random.default_rng(6)
        self.order = random.permutation(len(counts)).tolist()
        self.side = round(options.num_grids ** 0.5)
        arrays = {'att': {}, 'box': {}, 'grid': {}}
        for i, rows in enumerate(np.split(features, np.cumsum(counts)[:-1])):
            boxes = np.sort(random.random((len(rows), 2, 2)), axis=1).reshape(-1, 4) * [640, 480, 640, 480]
            arrays['att'][str(i)], arrays['box'][str(i)] = rows, boxes.astype(np.float32)
            arrays['grid'][str(i)] = self.computed(arrays['box'][str(i)])
        self.sources = {}
        for kind, by_id in arrays.items():
            os.mkdir(self.path(kind))
            for image_id, array in by_id.items():
                write_array(self.path(kind), image_id, kind, array)
        write_packed(self.path('packed.h5'), arrays)
        for kind in arrays:
            self.sources['stored', kind] = open_source(self.path(kind), kind, '')
            self.sources['packed', kind] = open_source(self.path('packed.h5'), kind, '')
        self.facts.update(images=len(counts), bytes=features.nbytes, stored=sum(
            os.path.getsize(self.sources['stored', 'att'].where(i)) for i in self.order))
        self.shares.update(self.rounds)

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def close(self):
        self.folder.cleanup()

    def computed(self, boxes):
        return grid_vectors(checked_boxes(boxes, 'boxes'), 640, 480, self.side)

    def project(self):
        for _ in range(self.rounds['project']):
            for i in self.order:
                self.sources['packed', 'att'].read(i)
        return {}

    def plain(self):
        for i in self.order:
            self.plain_features(i)
        return {}

    def plain_features(self, i):
        with np.load(self.sources['stored', 'att'].where(i)) as archive:
            return archive['feat']

    def places(self):
        sources = self.sources
        boxes = {i: sources['packed', 'box'].read(i) for i in self.order}
        ways = (lambda i: self.computed(boxes[i]),
                lambda i: self.computed(sources['packed', 'box'].read(i)), sources['packed', 'grid'].read,
                lambda i: self.computed(sources['stored', 'box'].read(i)), sources['stored', 'grid'].read)
        seconds = dict.fromkeys(self.ways, 0.0)
        for _ in range(self.rounds['places']):
            # In turns, so that what else the machine does meets all alike.
            for name, way in zip(self.ways, ways):
                start = self.clock()
                for i in self.order:
                    way(i)
                seconds[name] += self.clock() - start
        return {name: total / self.rounds['places'] / len(self.order) for name, total in seconds.items()}

    def result(self, side):
        read = self.plain_features if side == 'plain' else self.sources['packed', 'att'].read
        return [float(read(i).sum(dtype=np.float64)) for i in range(len(self.order))]

    @staticmethod
    def notes(found):
        images, places = found['images'], found['places']
        each = {side: found[side]['seconds'] / images for side in ('project', 'plain')}
        yield (f'{images} images, {found["bytes"] / 1e6:.0f} MB, in .npz files of '
               f'{found["stored"] / found["bytes"]:.0%} of that; an image in {each["project"] * 1e6:.0f} '
               f'microseconds ({found["bytes"] / found["project"]["seconds"] / 1e9:.1f} GB a second), from '
               f'.npz in {each["plain"] * 1e6:.0f}')
        yield ('grid vectors of an image, microseconds: {computing:.0f} to compute; with reading the boxes '
               '{packed_boxes:.0f} (packed) or {stored_boxes:.0f} (.npy), reading stored vectors '
               '{packed_vectors:.0f} or {stored_vectors:.0f}'.format(
                   **{name: places[name] * 1e6 for name in Reading.ways}))


WORKLOADS = {'beam': Beam, 'self-critical': SelfCritical, 'cider': Cider, 'step': Step, 'reading': Reading}
