"""From files to batches: labels, region features, mean features, boxes and grid vectors.

`Corpus` knows what is on disk, `TrainBatches` deals out training batches for ever and can say (and
be told) exactly where it stands, `image_batches` goes once through a split.  Regions travel packed,
without padding, and images are never repeated per caption.
"""

import atexit
import contextlib
import functools
import multiprocessing
import os
import queue
import signal
import threading
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from misc import commands, parallel
from misc.cli import DataError
from misc.dataset.features import open_source
from misc.dataset.grids import checked_boxes, grid_vectors, image_sizes, relative_boxes, sizes_place
from misc.dataset.recipe import recorded_way
from misc.disk import hdf5
from misc.disk.files import read_json

ARRAYS = ('features', 'grids', 'boxes', 'captions', 'fc')  # of a batch, the things that travel to a device


@dataclass
class Batch:
    """I images with M regions in all, and S captions each.

    image_ids   list of I ids
    images      list of I row numbers in `Corpus.images`
    counts      list of I: regions of each image; they sum to M
    features    (M, D) float32, the images' regions one after the other, or None where the model does
                not want them (then `counts` are 0)
    grids       (M, g*g) float32 grid vectors, or None where the model does not want them
    boxes       (M, 4) float32 x1 y1 x2 y2 relative to the image, or None likewise
    captions    (I, S, T) int64 word indices, zero padded, or None where there are none
    lengths     list of I * S: the words of each caption, image by image, or None likewise; counted while
                the captions are on the host, so that nobody has to ask a device for them
    fc          (I, D) float32, the mean feature of each image, or None likewise
    epoch, position   where the training order stands after this batch (0, 0 elsewhere)
    """

    image_ids: list
    images: list
    counts: list
    features: torch.Tensor | None
    grids: torch.Tensor | None
    boxes: torch.Tensor | None
    captions: torch.Tensor | None
    epoch: int = 0
    position: int = 0
    lengths: list | None = None
    fc: torch.Tensor | None = None

    def __post_init__(self):
        if self.captions is not None and self.lengths is None:
            self.lengths = (self.captions > 0).sum(2).view(-1).tolist()

    def __len__(self):
        return len(self.counts)

    def to(self, device):
        """The batch with its arrays on `device`; from pinned memory the host does not wait for it."""
        return self._with(lambda array: array.to(device, non_blocking=True))

    def pin_memory(self):
        """The batch with its arrays in pinned memory (the loader calls this, by this name)."""
        return self._with(torch.Tensor.pin_memory)

    def _with(self, change):
        for name in ARRAYS:
            if getattr(self, name) is not None:
                setattr(self, name, change(getattr(self, name)))
        return self

    def split(self, parts):
        """The batch as a list of up to `parts` batches, none empty, of about as many images each."""
        if parts == 1 or len(self) < 2:
            return [self] if len(self) else []
        edges = [len(self) * part // parts for part in range(parts + 1)]
        return [self._images(start, end) for start, end in zip(edges, edges[1:]) if start < end]

    def _images(self, start, end):
        """The batch of the images from `start` to `end`; arrays are views."""
        rows = slice(sum(self.counts[:start]), sum(self.counts[:end]))
        parts = {name: getattr(self, name) for name in ('features', 'grids', 'boxes')}
        parts = {name: None if array is None else array[rows] for name, array in parts.items()}
        parts['fc'] = None if self.fc is None else self.fc[start:end]
        captions, lengths = self.captions, self.lengths
        if captions is not None:
            captions, each = captions[start:end], captions.shape[1]
            lengths = lengths[start * each:end * each]
        return Batch(self.image_ids[start:end], self.images[start:end], self.counts[start:end],
                     captions=captions, lengths=lengths, epoch=self.epoch, position=self.position, **parts)


class Labels:
    """The label file: `labels` (M, max_length), and the rows of each image."""

    def __init__(self, path, images, words):
        """Check the file against the number of `images` and of `words` of the vocabulary."""
        if not os.path.exists(path):
            raise DataError(f'--input_label_h5: there is no file {path}; make it with:\n{commands.LABELS}')
        with hdf5.reading(path, f'--input_label_h5: {path} is not a label file',
                          f'make it again with:\n{commands.LABELS}') as file:
            self.labels, self.start, self.end = (
                hdf5.array(file, name) for name in ('labels', 'label_start_ix', 'label_end_ix'))
        problem = self._problem(images, words)
        if problem:
            raise DataError(f'--input_label_h5: {path} does not fit: {problem}; make both again with:\n'
                            f'{commands.LABELS}')
        self.longest = self.labels.shape[1]

    def _problem(self, images, words):
        """What does not fit, or ''."""
        labels = self.labels
        kinds = [(array.ndim, array.dtype.kind in 'iu') for array in (labels, self.start, self.end)]
        if kinds != [(2, True), (1, True), (1, True)]:
            return 'it holds no table of word indices with the rows of each image'
        if len(self.start) != images or len(self.end) != images:
            return f'it has captions of {len(self.start)} images, --input_json has {images} images'
        if not labels.size:
            return 'it holds no captions'
        if labels.max() > words or labels.min() < 0:
            word = labels.max() if labels.max() > words else labels.min()
            return f'word {word} is not in the vocabulary of {words} words'
        if images and (self.start.min() < 1 or self.end.max() > len(labels)):
            return f'an image points at captions outside rows 1 to {len(labels)}'
        said = labels > 0
        # A word behind the end would be left out without a word, and an empty caption teach silence.
        broken = ~said[:, 0] | (said[:, 1:] & ~said[:, :-1]).any(1)
        if broken.any():
            return f'caption {int(np.argmax(broken)) + 1} has no words, or words behind its end'
        return ''

    def of(self, image):
        """(captions, max_length) of an image, by row number in `images`."""
        return self.labels[int(self.start[image]) - 1:int(self.end[image])]


def caption_width(path):
    """The words of the longest caption that a label file has room for, or None without such a file."""
    try:
        with hdf5.reading(path, path, '') as file:
            return hdf5.dataset(file, 'labels').shape[1]
    except DataError:
        return None


class Corpus:
    """The images of `--input_json` with their labels and region arrays.

    `wants_labels` is off where no captions are needed.  What a model wants of an image is said with
    `want`.  `info` stands in for the content of that file.  Raises `DataError` for anything that is missing
    or does not fit.
    """

    def __init__(self, options, wants_labels=True, info=None):
        self.options, self.needs = options, ()
        info = read_json(options.input_json, commands.LABELS) if info is None else info
        problem = labels_file_problem(info)
        if problem:
            raise DataError(f'--input_json: {options.input_json} is not the output of prepro_labels.py, '
                            f'{problem}; make it with:\n{commands.LABELS}')
        self.images, self.vocabulary = info['images'], info['ix_to_word']
        self.ids = [image['id'] for image in self.images]
        self.splits = [image['split'] for image in self.images]
        self.labels = Labels(options.input_label_h5, len(self.images), len(self.vocabulary)) \
            if wants_labels else None
        self.side = round(options.num_grids ** 0.5)
        self.features = self.means = self.grids = self.boxes = self.relative = None
        self.sizes = {}

    def want(self, needs):
        """Open what a model `needs` ('features', 'fc', 'grids', 'boxes'): as it is on disk, or the
        features and boxes that it is computed from."""
        options, self.needs = self.options, needs
        if 'fc' in needs and options.input_fc_feat_dir:
            self.means = open_source(options.input_fc_feat_dir, 'fc', 'input_fc_feat_dir', commands.FEATURES)
        if 'features' in needs or self.means is None:
            self.features = open_source(options.input_img_feat_dir, 'att', 'input_img_feat_dir',
                                        commands.FEATURES)
        if 'grids' in needs and options.input_grid_vec_dir:
            self.grids = self._open_grids()
        if 'boxes' in needs or 'grids' in needs and self.grids is None:
            self._open_boxes()

    def way(self):
        """How the regions of the features that are read were found, as of `misc/dataset/recipe.py`; None where that
        is not on record.  To be asked after `want`."""
        options = self.options
        return recorded_way(options.input_fc_feat_dir if self.features is None else options.input_img_feat_dir)

    def want_places(self):
        """Open boxes and grid vectors that the options name, whatever the model wants, for `places`."""
        options = self.options
        if options.input_grid_vec_dir and self.grids is None:
            self.grids = self._open_grids()
        if options.input_rel_box_dir or options.input_box_dir:
            self._open_boxes()

    def _open_grids(self):
        options = self.options
        return open_source(options.input_grid_vec_dir, 'grid', 'input_grid_vec_dir',
                           commands.AREAS.format(cells=options.num_grids))

    def _open_boxes(self):
        options = self.options
        if options.input_rel_box_dir:
            self.relative = open_source(options.input_rel_box_dir, 'rel', 'input_rel_box_dir',
                                        commands.RELATIVE)
        else:
            self.boxes = open_source(options.input_box_dir, 'box', 'input_box_dir', commands.FEATURES)
            self.sizes = image_sizes(options.input_box_dir, {'images': self.images})

    def rows(self, split, train_only=False):
        """Row numbers of a split's images.  'train' takes in restval unless `train_only`."""
        wanted = {'train': {'train'} if train_only else {'train', 'restval'},
                  'all': set(self.splits)}.get(split, {split})
        found = [row for row, name in enumerate(self.splits) if name in wanted]
        if not found:
            raise DataError(f'{self.options.input_json} has no image in the {split} split; it has '
                            f'{", ".join(sorted(set(map(str, self.splits))))}')
        return found

    def check_files(self, rows):
        """Raise `DataError` unless every image of `rows` has its captions (where they are needed) and
        its arrays, by listing, not by opening."""
        options = self.options
        sources = [(self.features, 'input_img_feat_dir', 'features', commands.FEATURES),
                   (self.means, 'input_fc_feat_dir', 'mean features', commands.FEATURES),
                   (self.grids, 'input_grid_vec_dir', 'grid vectors',
                    commands.AREAS.format(cells=options.num_grids)),
                   (self.relative, 'input_rel_box_dir', 'relative boxes', commands.RELATIVE),
                   (self.boxes, 'input_box_dir', 'boxes', commands.FEATURES)]
        ids = [str(self.ids[row]) for row in rows]
        for source, name, what, command in sources:
            if source is not None:
                there = source.ids()
                report_missing([one for one in ids if one not in there], len(ids), what,
                               f'--{name} {getattr(options, name)}', source.made_by(command))
        if self.boxes is not None:
            report_missing([one for one in ids if one not in self.sizes], len(ids), 'size',
                           f'{sizes_place(options.input_box_dir)} and {options.input_json}',
                           self.boxes.made_by(commands.FEATURES))
        if self.labels is not None:
            report_missing([str(self.ids[row]) for row in rows if not len(self.labels.of(row))], len(ids),
                           'caption', f'--input_label_h5 {options.input_label_h5}', commands.LABELS)

    def arrays(self, row):
        """{'features' (P, D), 'fc' (1, D), 'grids', 'boxes'} of one image, None for what the model does
        not want, checked against each other."""
        image_id, features, means = self.ids[row], None, None
        if self.features is not None:
            features = self._features(image_id)
        if 'fc' in self.needs:
            means = features.mean(0, keepdims=True) if self.means is None else self._means(image_id)
        if 'features' not in self.needs:
            features = None
        elif self.options.norm_img_feat:
            features = unit_rows(features)
        return {'features': features, 'fc': means,
                **{need: self._place(need, image_id, features) for need in ('grids', 'boxes')}}

    def places(self, row):
        """Where the regions of an image are: boxes (P, 4) relative to it, and grid vectors (P, g * g), as
        they are (`--norm_box_feat` does not scale them); None for what `want_places` found nothing of."""
        image_id, boxes, grids = self.ids[row], None, None
        if self.boxes is not None or self.relative is not None:
            boxes, grids = (self._from_boxes(need, image_id)[0] for need in ('boxes', 'grids'))
        if self.grids is not None:
            grids = self._stored_grids(image_id)[0]
        return boxes, grids

    def _features(self, image_id):
        """The features (P, D) of an image's regions, as they are on disk."""
        features, where = self.features.read(image_id), self.features.where(image_id)
        if features.ndim not in (2, 3) or not features.size:
            raise DataError(f'{where}: an array of shape {features.shape} holds no regions; remove it and '
                            f'run again:\n{commands.FEATURES}')
        features = features.reshape(-1, features.shape[-1])
        self._check_width(features, where)
        return features

    def _means(self, image_id):
        """The mean feature (1, D) of an image, as it is on disk."""
        mean, where = self.means.read(image_id), self.means.where(image_id)
        if mean.ndim != 1:
            raise DataError(f'{where}: an array of shape {mean.shape} is not one mean feature; remove it and '
                            f'run again:\n{commands.FEATURES}')
        self._check_width(mean[None], where)
        return mean[None]

    def _check_width(self, features, where):
        """Refuse features (P, D) of another size than the model's."""
        if features.shape[1] != self.options.img_feat_size:
            raise DataError(f'{where}: features have {features.shape[1]} numbers, but --img_feat_size is '
                            f'{self.options.img_feat_size}; give the folder of the features it was set for, '
                            f'or train with --img_feat_size {features.shape[1]}')

    def _place(self, need, image_id, features):
        """The 'grids' or 'boxes' of an image's regions, or None where the model does not want them."""
        if need not in self.needs:
            return None
        place, where = (self._stored_grids(image_id) if need == 'grids' and self.grids is not None
                        else self._from_boxes(need, image_id))
        if len(place) != len(features):
            raise DataError(f'{where} has {len(place)} rows, {self.features.where(image_id)} has '
                            f'{len(features)} regions; they were not made from the same boxes; make both '
                            f'again with:\n{commands.FEATURES}\n'
                            f'{commands.AREAS.format(cells=self.options.num_grids)}')
        return unit_rows(place) if self.options.norm_box_feat else place

    def _stored_grids(self, image_id):
        """The grid vectors of an image as they are on disk, and where that is."""
        grids, where = self.grids.read(image_id), self.grids.where(image_id)
        if grids.ndim != 2 or grids.shape[1] != self.side ** 2:
            cells = self.side ** 2   # another folder: prepro_areas.py does not mix grids in one
            command = commands.AREAS.format(cells=cells).replace('_vec ', f'_vec_{cells} ')
            raise DataError(f'--input_grid_vec_dir: {where}: an array of shape {grids.shape} does not fit '
                            f'--num_grids {cells}; give the --num_grids it was made with, or make others, in a '
                            f'folder of their own, with:\n{command}')
        return grids, where

    def _from_boxes(self, need, image_id):
        """Grid vectors, or relative boxes, computed from an image's boxes; and where those are."""
        source, size = (self.relative, (1.0, 1.0)) if self.relative is not None else \
            (self.boxes, self.sizes[str(image_id)])
        where = source.where(image_id)
        boxes = checked_boxes(source.read(image_id), where)
        self._check_unit(boxes, where)
        if need == 'grids':
            return grid_vectors(boxes, *size, self.side), where
        return relative_boxes(boxes, *size), where

    def _check_unit(self, boxes, where):
        """Refuse pixels where boxes are relative to the image, and the other way round."""
        low, high = float(boxes.min()), float(boxes.max())
        if self.relative is not None and (low < -1e-3 or high > 1 + 1e-3):
            raise DataError(f'{where}: boxes from {low:g} to {high:g} are not relative to the image; name '
                            f'boxes in pixels with --input_box_dir, or make relative ones with:\n'
                            f'{commands.RELATIVE}')
        if self.boxes is not None and high <= 1:
            raise DataError(f'{where}: boxes from {low:g} to {high:g} are not pixels; name boxes relative to '
                            f'the image with --input_rel_box_dir, or make those in pixels with:\n'
                            f'{commands.FEATURES}')

    def captions(self, row, count=None, seed=None):
        """(count, T) captions of an image: `count` drawn by `seed`, without repeats where there are
        enough; or all of them."""
        labels = self.labels.of(row)
        if count is not None:
            random = np.random.default_rng(seed)
            labels = labels[random.choice(len(labels), count, replace=len(labels) < count)]
        return labels.astype(np.int64)


def labels_file_problem(info):
    """What is wrong with the content of a labels file (`--input_json`), or ''."""
    images, words = (info.get('images'), info.get('ix_to_word')) if isinstance(info, dict) else (None, None)
    if not isinstance(images, list) or not isinstance(words, dict):
        return 'it has no list of images with ix_to_word'
    if not all(isinstance(words.get(str(place)), str) for place in range(1, len(words) + 1)):
        return 'its ix_to_word does not count words from 1'
    seen = {}
    for number, image in enumerate(images):
        if not isinstance(image, dict) or type(image.get('id')) is not int or abs(image['id']) >= 2 ** 63 \
                or not isinstance(image.get('split'), str):
            return f'images[{number}] has no whole number as id, or no split'
        if seen.setdefault(image['id'], number) != number:
            return f'images[{number}] has the id {image["id"]} of images[{seen[image["id"]]}]'
        if not is_captions(image.get('captions')):
            return f'the captions of images[{number}] are not a list of texts'
    return ''


def is_captions(captions):
    """Whether an image's captions are texts, or it has none."""
    return captions is None or isinstance(captions, list) and all(isinstance(text, str) for text in captions)


def unit_rows(array):
    """Each row scaled to length 1; a row of zeros stays."""
    return array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-12)


def report_missing(missing, total, what, place, command):
    """Raise `DataError` if any of `total` images lack `what` in `place`."""
    if missing:
        more = ', ...' if len(missing) > 5 else ''
        raise DataError(f'{len(missing)} of {total} images have no {what} in {place}: '
                        f'{", ".join(missing[:5])}{more}\nmake them with: {command}')


class Reader(Dataset):
    """Makes batches of a corpus in a worker process.

    A request is (rows, epoch, position after the batch).  An error is returned, not raised: raised
    in a worker it would come out wrapped in a traceback.
    """

    def __init__(self, corpus, captions_per_image, seed):
        self.corpus, self.captions_per_image, self.seed = corpus, captions_per_image, seed

    def __getitem__(self, request):
        try:
            return self.batch(*request)
        except (DataError, OSError) as error:
            return error

    def batch(self, rows, epoch, position):
        """The `Batch` of the images `rows`."""
        if not rows:
            return Batch([], [], [], None, None, None, None, epoch, position)
        corpus = self.corpus
        arrays = [corpus.arrays(row) for row in rows]
        captions = None
        if self.captions_per_image:
            # The draw depends on seed, epoch and image alone, so neither the number of workers nor
            # a restart changes it.
            captions = torch.from_numpy(np.stack([
                corpus.captions(row, self.captions_per_image, (self.seed, epoch, row)) for row in rows]))
        parts = {name: None if arrays[0][name] is None else torch.from_numpy(
            np.concatenate([one[name] for one in arrays])) for name in arrays[0]}
        counts = [0 if one['features'] is None else len(one['features']) for one in arrays]
        return Batch([corpus.ids[row] for row in rows], list(rows), counts, captions=captions,
                     epoch=epoch, position=position, **parts)


class Order:
    """The endless order of training requests: each epoch a fresh permutation of the images.

    The last batch of an epoch is smaller where the batch size does not divide the epoch.  Positions are of
    the joint batches; a request is for this process's part of one.
    """

    def __init__(self, rows, batch_size, seed, state=None):
        """`state` of an earlier `TrainBatches` goes on exactly there."""
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        try:
            state = state or {'epoch': 0, 'position': 0}
            self.epoch, self.position = state['epoch'], state['position']
            # Where an epoch starts its order need not be known.
            is_there = 'order' in state or self.position
            self.order = np.asarray(state['order']) if is_there else self._shuffled(self.epoch)
        except (KeyError, TypeError):
            raise DataError('the infos file of the run that is to go on does not say where it stood; train '
                            'again, or take infos_ID-best.pkl and model-best.pth') from None
        if len(self.order) != len(rows) or set(self.order.tolist()) != set(rows):
            raise DataError('the training images are not those of the run that is to go on; give the '
                            'same --input_json and --train_only, or start another run')

    def _shuffled(self, epoch):
        return np.random.default_rng((self.seed, epoch)).permutation(self.rows)

    def order_of(self, epoch):
        """The order of the images in an epoch, current or to come."""
        return self.order if epoch == self.epoch else self._shuffled(epoch)

    def __iter__(self):
        epoch, position = self.epoch, self.position
        while True:
            order = self.order_of(epoch)
            while position < len(order):
                rows = order[position:position + self.batch_size].tolist()
                position += len(rows)
                yield parallel.part(rows), epoch, position
            epoch, position = epoch + 1, 0


class TrainBatches:
    """Training batches for ever, whose position and order are part of the training state."""

    def __init__(self, corpus, rows, batch_size, captions_per_image, seed, workers, state=None, pin=False):
        """`rows` of the corpus, `captions_per_image` drawn for each, `workers` processes that read; `pin`:
        batches come in pinned memory."""
        self.order = Order(rows, batch_size, seed, state)
        self.epoch, self.position = self.order.epoch, self.order.position
        self.images, self.dealt, self.waited = len(rows), 0, 0.0
        reader = Reader(corpus, captions_per_image, seed)
        self.batches = Ahead(iter(make_loader(reader, self.order, workers, pin)))

    def next(self):
        """The next `Batch`, this process's part of it.  Adds to `dealt`, the images of the joint batches so
        far, and to `waited`, the seconds that batches were waited for."""
        started = time.monotonic()
        with worker_errors():
            batch = next(self.batches)
        batch = raised(batch)
        self.dealt += batch.position - (self.position if batch.epoch == self.epoch else 0)
        self.epoch, self.position = batch.epoch, batch.position
        self.waited += time.monotonic() - started
        return batch

    def close(self):
        """End the worker processes.  Left to the end of the program, their end would look like a crash."""
        self.batches.close()
        self.batches = None

    @property
    def epoch_is_over(self):
        """Whether the batch that came last was its epoch's last."""
        return self.position == self.images

    def state(self):
        """What a resumed run needs to deal the same batches: plain values and one array."""
        epoch, position = self.epoch, self.position
        if self.epoch_is_over:
            epoch, position = epoch + 1, 0
        return {'epoch': epoch, 'position': position,
                'order': np.asarray(self.order.order_of(epoch), dtype=np.int64)}


class Ahead:
    """The items of an iterator without end, up to two of them fetched ahead by a thread.

    Taking over what a worker process has ready needs that process's attention, which a busy machine gives
    late; without workers, images are read while the training computes.  The thread starts with the first
    item that is asked for.
    """

    def __init__(self, items):
        self.items, self.fetched = items, queue.Queue(2)
        self.closed, self.thread = False, None

    def __iter__(self):
        return self

    def __next__(self):
        """The next item; raises what the iterator raised in its place."""
        if self.thread is None:
            self.thread = threading.Thread(target=self._fetch, daemon=True)
            self.thread.start()
        item, error = self.fetched.get()
        if error is not None:
            raise error
        return item

    def _fetch(self):
        error = None
        while not self.closed and error is None:
            item = None
            try:
                item = next(self.items)
            except Exception as failure:
                error = failure
            self.fetched.put((item, error))

    def close(self):
        """End the thread, once it has what it is fetching, and let go of the iterator."""
        self.closed = True
        while self.thread is not None and self.thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self.fetched.get(timeout=0.05)
        self.items = self.thread = None


def image_batches(corpus, rows, batch_size, workers, captions_per_image=0, seed=0, pin=False):
    """Yield the `Batch`es of `rows`, once, in order; with `captions_per_image` drawn captions each.  Of
    several processes each gets every n-th batch, whole: what comes of it is what comes of it in one."""
    requests = parallel.every_nth([
        (rows[start:start + batch_size], 0, 0) for start in range(0, len(rows), batch_size)])
    loader = make_loader(Reader(corpus, captions_per_image, seed), requests, min(workers, len(requests)), pin)
    with worker_errors():
        yield from map(raised, loader)


def make_loader(reader, requests, workers, pin=False):
    """A loader of `requests` through `workers` processes (0: this one), in order."""
    _end_readers_at_exit()
    # A generator of its own: the loader must not draw from the random numbers of the training.
    return DataLoader(reader, sampler=requests, batch_size=None, num_workers=workers,
                      generator=torch.Generator().manual_seed(0), collate_fn=None, pin_memory=pin,
                      worker_init_fn=functools.partial(quiet_worker, os.getpid()))


@functools.cache
def _end_readers_at_exit():
    """When this process ends, in whatever way Python does it, so do those that read for it.  They ignore the
    SIGTERM that multiprocessing sends them then, before it waits for them."""
    atexit.register(lambda: [process.kill() for process in multiprocessing.active_children()])


def quiet_worker(parent, _):
    """Leave Ctrl-C and SIGTERM to the main process `parent` (its number), which may want one more batch before
    it ends the workers in its own time; they come to the whole process group.  Workers leave when it is gone."""
    # The library looks for its parent only from here on: of one killed before, it would take the heir for it.
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextlib.contextmanager
def worker_errors():
    """Turn the death of a worker process into a `DataError`.

    It interrupts whatever runs at that moment, which may answer with an error of its own.
    """
    try:
        yield
    except Exception as error:
        first = error
        while first is not None and 'DataLoader worker' not in str(first):
            first = first.__context__
        if first is None or isinstance(error, DataError):
            raise
        raise DataError(f'a process that reads features died ({str(first).splitlines()[0][:150]}); it may have '
                        'run out of memory, or of room in /dev/shm: lower --num_workers (0 reads without)') \
            from None


def raised(batch):
    """`batch`, or raise it if it is an error that a worker met."""
    if isinstance(batch, Exception):
        try:
            raise batch
        finally:
            del batch  # or the error would hold this frame, this frame the error, and both the workers
    return batch


def image_path(image_root, image):
    """The file of an entry of `Corpus.images` under `image_root`."""
    if not isinstance(image.get('file_path'), str) or not image['file_path']:
        raise DataError(f'--input_json names no file_path for image {image["id"]}; make it again with:\n'
                        f'{commands.LABELS}')
    return os.path.join(image_root, image['file_path'])
