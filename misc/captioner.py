"""The Python interface: load a trained run, caption pictures with it, read its attention (see docs/api.md).

It is a program without a command line, so it may import what eval.py may, and eval.py builds its models here.
"""

import functools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL.Image import Image as Picture

import models
import opts
from dataloader import Reader
from misc.cli import UsageError
from misc.dataset.corpus import Corpus
from misc.evaluation.captioning import Caption, caption_images
from misc.machine import memory_errors, pick_device
from misc.pictures.images import picture_name
from misc.pictures.recipes import RecipeFlags, recipe_for_models
from misc.run.folder import Run, best_or_last_files, check_size, load_run_weights, read_run
from misc.scoring.endings import forbidden_endings
from models.ensemble import Ensemble

# The options of eval.py that `load` takes.
OPTIONS = (*opts.DECODING_OPTIONS, 'device', 'matmul_precision', 'xlinear', 'cuda_graphs', 'batch_size', 'detector',
           'cnn_model', 'cnn_layout', 'cnn_weight_dir', 'extractor')
Path = str | os.PathLike[str]
PICTURES = (str, os.PathLike, Picture)   # what is one picture


def load(run: Path | Sequence[Path] | None = None, *, model: Path | Sequence[Path] | None = None,
         infos: Path | Sequence[Path] | None = None, **options: Any) -> 'Captioner':
    """The captioner of a run's folder: its best model if there is one, else its last.

    Several folders make an ensemble.  In place of folders, `model` and `infos` name the files, one of each or a
    list of each.  `options` are those of eval.py, with the same defaults: how captions are decoded (`beam_size`,
    `sample_max`, `temperature`, ...), `device`, `batch_size`, and `cnn_weight_dir`, `detector`, ... for pictures.

    Raises `UsageError` for options that cannot be, `DataError` for files that are missing or damaged.
    """
    unknown = [name for name in options if name not in OPTIONS]
    if unknown:
        raise UsageError(f'{", ".join(unknown)}: not an option; known are {", ".join(OPTIONS)}')
    if (run is None) == (model is None) or (model is None) != (infos is None):
        raise UsageError('give the folder of a run, or model= and infos=, its files')
    if run is not None:
        model, infos = zip(*(best_or_last_files(os.fspath(folder)) for folder in as_list(run)))
    parsed, given = opts.eval_options_from(model=as_list(model), infos_path=as_list(infos), image_folder='pictures',
                                           **options)
    return Captioner(parsed, given)


@dataclass(frozen=True)
class PictureCaption(Caption):
    """The caption of one image, and where its words looked.

    words      the words
    log_prob   the sum of the log-probabilities of the words and the end token
    attention  float32 (words, regions): how much each word looked at each region, the mean over the layers; rows
               sum to 1.  None for a model that attends to no single regions
    boxes      (regions, 4) x1 y1 x2 y2 of the regions: in pixels of the upright picture, or as they were given
    others     the other captions, with `sample_n` above 1
    """

    attention: np.ndarray | None = None
    boxes: np.ndarray | None = None
    others: list[Caption] = field(default_factory=list)


class Captioner:
    """One or several trained models and a decoding method; made by `load`."""

    def __init__(self, options: opts.Options, given: set[str]) -> None:
        """Load the models that `options` name; `given` are the names of the options that the user chose."""
        # Whether a model gets the boxes it needs is not known before something is captioned.
        options = opts.replaced(options, input_box_dir='boxes')
        self.device = pick_device(options.device, options.matmul_precision)
        opts.check_cuda_graphs(options, self.device.type)
        self.batch_size, self.seed = options.batch_size, options.seed
        runs = read_runs(options.model, options.infos_path)
        members = opts.member_options(options, given, [(run.infos_path, run.infos['opt']) for run in runs])
        self.model = build_model(members, runs, self.device)
        self.vocabulary: dict[str, str] = runs[0].infos['vocab']
        self.decode = models.build_decoder(options, runs[0].infos['opt']['seq_length'], self.vocabulary,
                                           options.sample_n,
                                           endings=forbidden_endings(self.vocabulary.values(),
                                                                     options.remove_bad_endings),
                                           run=models.decoding_run(options, self.device))
        self._sources = opts.sources(opts.shared_inputs(members))
        self._infos = [(run.infos_path, run.infos) for run in runs]
        self._recipe_flags = RecipeFlags(options.detector, options.cnn_model, options.cnn_layout,
                                         options.cnn_weight_dir, options.extractor)

    def caption(self, pictures: Path | Picture | Sequence[Path | Picture] | None = None, *,
                features: np.ndarray | Sequence[np.ndarray] | None = None,
                boxes: np.ndarray | Sequence[np.ndarray] | None = None, sizes: Any = None) -> Any:
        """The caption of one image, a `PictureCaption`; or a list of them, for a list of images.

        pictures  image files, or images that are open in Pillow; their regions are found by the recipe that is
                  recorded in the run
        features  in place of pictures, (regions, D) of one image, or a list of such arrays
        boxes     (regions, 4) x1 y1 x2 y2, for models that use the places of regions: relative to the image, or
                  in pixels if `sizes` is given
        sizes     (width, height) of the image in pixels, or a list of those

        Raises `DataError` for pictures that cannot be read and arrays that do not fit, before any is captioned,
        `UsageError` for pictures of another kind and for a run that records no recipe.
        """
        if (pictures is None) == (features is None):
            raise UsageError('give pictures, or the features of their regions')
        if features is None:
            is_list = isinstance(pictures, Iterable) and not isinstance(pictures, (*PICTURES, bytes, np.ndarray))
            listed: Any = pictures if is_list else [pictures]
            images = [self._find_regions(picture) for picture in list(map(checked_picture, listed))]
        else:
            is_list = isinstance(features, (list, tuple))
            arrays: Any = (features, boxes, sizes) if is_list else ([features], [boxes], [sizes])
            images = image_list(*arrays)
        captions = self._caption(images)
        return captions if is_list else captions[0]

    def _caption(self, images: list['Image']) -> list[PictureCaption]:
        corpus = self._corpus(images)
        reader, rows = Reader(corpus, 0, 0), list(range(len(images)))
        batches = (reader.batch(rows[start:start + self.batch_size], 0, 0)
                   for start in range(0, len(rows), self.batch_size))
        with memory_errors('batch_size'):
            results = caption_images(self.model, batches, self.decode, corpus.images, self.vocabulary, self.device,
                                     len(images), self.seed, with_attention=True, show_progress=False)
        return [PictureCaption(result.first.words, result.first.log_prob, (result.attention or {}).get('mean'),
                               image.boxes, result.captions[1:]) for image, result in zip(images, results)]

    def _corpus(self, images: list['Image']) -> Corpus:
        """The images as a data set in memory."""
        if any(image.boxes is None for image in images) and {'grids', 'boxes'} & set(self.model.needs):
            raise UsageError('this model uses the places of regions; give their boxes')
        entries = [{'id': number, 'split': 'test', 'file_path': image.name} for number, image in enumerate(images)]
        corpus = Corpus(self._sources, False, {'images': entries, 'ix_to_word': self.vocabulary})
        features, boxes, sizes = ({number: getattr(image, name) for number, image in enumerate(images)}
                                  for name in ('features', 'boxes', 'size'))
        corpus.regions.open_arrays(self.model.needs, features, boxes,
                                   None if any(image.size is None for image in images) else sizes)
        return corpus

    def _find_regions(self, picture: str | Picture) -> 'Image':
        boxes, features, size = self._finder.find_in_file(picture)
        return Image(features, boxes, size, picture_name(picture))

    @functools.cached_property
    def _finder(self) -> Any:
        from misc.pictures.extractor import open_finder  # loads torchvision
        recipe = recipe_for_models(self._infos, self._recipe_flags)
        return open_finder(recipe, self.device, self._recipe_flags.cnn_weight_dir, self._recipe_flags.extractor)


@dataclass(frozen=True)
class Image:
    """The regions of an image: features (P, D), boxes (P, 4), and the (width, height) of the image in pixels if the
    boxes are in pixels; None if they are relative to it."""

    features: np.ndarray
    boxes: np.ndarray | None
    size: tuple[float, float] | None
    name: str = ''


def checked_picture(picture: Any) -> str | Picture:
    """A picture as its file or as Pillow's image; raises `UsageError` for anything else, folders among them."""
    if not isinstance(picture, PICTURES):
        raise UsageError(f'pictures are files or PIL images, not {type(picture).__name__}; of pixels '
                         'PIL.Image.fromarray(pixels) makes an image, and arrays of features go to features=')
    if isinstance(picture, Picture):
        return picture
    path = os.fspath(picture)
    if os.path.isdir(path):
        raise UsageError(f"{path} is a folder; give its pictures: {path}/*.jpg on a command line, in Python "
                         f"sorted(pathlib.Path({path!r}).glob('*.jpg'))")
    return path


def image_list(features: Sequence[Any], boxes: Sequence[Any] | None, sizes: Sequence[Any] | None) -> list[Image]:
    """The images of which these are the arrays.

    Raises `UsageError` unless there are as many of each, all of them or none have a size, and their boxes
    have the unit that `check_unit` wants.
    """
    boxes = [None] * len(features) if boxes is None else boxes
    sizes = [None] * len(features) if sizes is None else sizes
    if not len(features) == len(boxes) == len(sizes):
        raise UsageError(f'features of {len(features)} images, boxes of {len(boxes)}, sizes of {len(sizes)}; give '
                         'as many of each')
    images = [Image(np.asarray(array), None if box is None else np.asarray(box),
                    None if size is None else tuple(size))
              for array, box, size in zip(features, boxes, sizes)]
    if len({image.size is None for image in images}) > 1:
        raise UsageError('some images have no size; give the sizes of all, or of none')
    for image in images:
        check_unit(image)
    return images


def check_unit(image: Image) -> None:
    """Raise `UsageError` unless boxes are in pixels where the image has a size, and relative to it elsewhere."""
    if image.size is not None and not (len(image.size) == 2 and min(image.size) > 0):
        raise UsageError(f'the size {image.size} is not a width and a height')
    if image.boxes is None or not image.boxes.size:
        return
    largest = image.boxes.max()
    if image.size is None and largest > 1 + 1e-3:
        raise UsageError(f'boxes that reach to {largest:g} are in pixels: give sizes, (width, height) of the images')
    if image.size is not None and largest <= 1:
        raise UsageError(f'boxes that reach to {largest:g} are relative to the image: leave out sizes')


def read_runs(model_paths: Sequence[str], infos_paths: Sequence[str], longest: int | None = None) -> list[Run]:
    """The runs of an ensemble, or of a single model, from the files of their weights and infos.

    longest: the words of the longest caption, for legacy checkpoints that do not record it.  Raises `UsageError`
    unless the runs share their vocabulary and the length of captions, `DataError` for damaged files.
    """
    if len(model_paths) != len(infos_paths):
        raise UsageError(f'--model names {len(model_paths)} files and --infos_path {len(infos_paths)}; give one '
                         'infos file for each model, in the same order')
    runs = [read_run(*paths, longest) for paths in zip(model_paths, infos_paths)]
    first = runs[0].infos
    for run in runs:
        if run.infos['vocab'] != first['vocab'] or run.infos['opt']['seq_length'] != first['opt']['seq_length']:
            raise UsageError(f'{run.infos_path} and {runs[0].infos_path} have different vocabularies or longest '
                             'captions; models of an ensemble must share both')
    return runs


def build_model(members: Sequence[opts.Options], runs: Sequence[Run], device: torch.device) -> Any:
    """The model of a run, or the ensemble of several, with their weights, which the runs then no longer hold.

    members: the options of each model.  Raises `DataError` for weights that do not fit them, `UsageError` for
    `--xlinear fused` on a device that cannot.
    """
    networks = []
    for options, run in zip(members, runs):
        opts.check_xlinear(options, device.type, models.xlinear_obstacle(options, device))
        build = functools.partial(models.build, options, len(run.infos['vocab']) + 1, run.infos['opt']['seq_length'])
        check_size(build, run)
        networks.append(build())
        load_run_weights(networks[-1], run)
        run.weights = None  # as large as the model
    return (networks[0] if len(networks) == 1 else Ensemble(networks)).to(device)


def as_list(values: Any) -> list[Any]:
    """A path as a list of one, a sequence of paths as a list."""
    return [values] if isinstance(values, (str, os.PathLike)) else list(values)
