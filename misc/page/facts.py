"""What the page says about the evaluation: the model, the decoding method, and what its attention means."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from misc.cli import DataError, note
from misc.page.data import Facts

NAMED = 10  # broken pictures that are named one by one
WITHOUT_ATTENTION = 'show_tell'
RECURRENT = ('show_attend_tell', 'topdown')
WEIGHTS = {
    'xlinear': 'the spatial weights of its X-linear attention',
    'dot-product': 'the weights of its dot-product attention, averaged over the heads',
    'recurrent': 'the weights of its attention over the regions, computed before each word'}
POSITIONS = {
    'gxg': 'how many grid cells each region covers in every row and every column',
    'g2': 'what share of each grid cell every region covers',
    'box-coord': 'the box of each region',
    'fixed': 'how many grid cells each region covers in every row and every column, as a fixed mixture of sinusoids',
    'relations': 'how each pair of regions lies relative to one another'}


@dataclass(frozen=True)
class ModelFacts:
    """The options of a model that the page describes; see opts.py."""

    caption_model: str
    num_layers: int
    cross_attn: str
    enc_pos_type: str
    enc_pos_embedding: bool

    @property
    def attention(self) -> str:
        """How the model attends to regions, a key of `WEIGHTS`; '' where it does not."""
        if self.caption_model == WITHOUT_ATTENTION:
            return ''
        return 'recurrent' if self.caption_model in RECURRENT else self.cross_attn

    @property
    def position(self) -> str:
        """What the model knows about the place of a region, a key of `POSITIONS`; '' for nothing."""
        if self.caption_model == 'spatial_pe':
            return str(self.enc_pos_type) if self.enc_pos_embedding else 'fixed'
        return 'relations' if self.caption_model == 'relation_transformer' else ''

    @property
    def has_layers(self) -> bool:
        """Whether `num_layers` counts layers that attend to regions."""
        return self.attention in ('xlinear', 'dot-product')


def page_facts(run_id: str, source: str, models: Sequence[ModelFacts], decoding: str, overall: dict[str, float],
               images: int) -> Facts:
    """The facts of a page about the captions of `images` images of `source`; `overall`: their scores."""
    about = [('model' if len(models) == 1 else 'models', ', '.join(map(model_name, models))),
             ('images', f'{images:,} of {source}'), ('decoding', decoding)]
    return Facts(f'{run_id}: {source}', about, overall, about_attention(models), about_positions(models))


def model_name(model: ModelFacts) -> str:
    """A model's name with the options that distinguish it."""
    more = [model.position] if model.caption_model == 'spatial_pe' else []
    if model.has_layers:
        more += [f'{model.num_layers} layers', f'{model.cross_attn} cross-attention']
    return model.caption_model + (f' ({", ".join(more)})' if more else '')


def decoding_method(sample_max: bool, temperature: float, beam_size: int, group_size: int) -> str:
    """The decoding method that these options of eval.py select."""
    if not sample_max:
        return f'sampling at temperature {temperature:g}'
    if beam_size == 1:
        return 'greedy'
    groups = f', in {group_size} groups' if group_size > 1 else ''
    return f'beam search with {beam_size} beams{groups}'


def about_attention(models: Sequence[ModelFacts]) -> str:
    """What the highlighted weights are."""
    attending = [model for model in models if model.attention]
    if not attending:
        return ('This model sees only the mean of all regions, once, before the first word. It does not attend to '
                'single regions, so there is nothing to highlight.')
    kinds = dict.fromkeys(WEIGHTS[model.attention] for model in attending)
    text = f'For each word of the caption, {" and ".join(kinds)}. The weights of a word add up to 100 %.'
    if any(model.has_layers and model.num_layers > 1 for model in attending):
        text += ' “All layers” is the mean over the layers of the decoder.'
    if len(attending) < len(models):
        text += f' Weights are averaged over the {len(attending)} of {len(models)} models that attend to regions.'
    elif len(models) > 1:
        text += f' Weights are averaged over the {len(models)} models.'
    return text


def about_positions(models: Sequence[ModelFacts]) -> str:
    """What the models know about where regions are."""
    known = [POSITIONS[model.position] for model in models if model.position]
    if not known:
        return (('This model does' if len(models) == 1 else 'These models do') + ' not know where regions are. '
                'The grid shows what they cover of it anyway.')
    who = 'The model' if len(models) == 1 else f'{len(known)} of the {len(models)} models'
    return f'{who} {"knows" if len(known) == 1 else "know"} {" and ".join(dict.fromkeys(known))}.'


def matching_places(places: tuple[np.ndarray | None, np.ndarray | None], regions: int | None,
                    ) -> tuple[np.ndarray | None, np.ndarray | None]:
    """`places` (boxes, grid vectors) if they belong to `regions` regions, as many as the model attended to
    (None: unknown).  Raises `DataError` otherwise."""
    for array in places:
        if array is not None and regions not in (None, len(array)):
            raise DataError(f'boxes or grid vectors of {len(array)} regions beside features of {regions}; they '
                            'were not made from the same boxes')
    return places


def report_missing(pictures: Sequence[str], places: Sequence[str]) -> None:
    """Name the pictures that the page shows as blanks and the images whose regions it cannot draw; both are
    lists of messages."""
    for messages, what in ((pictures, 'pictures cannot be read; the page shows blanks instead'),
                           (places, 'images have regions that cannot be drawn')):
        if messages:
            note(f'note: {len(messages)} {what}:')
            for message in messages[:NAMED]:
                note(f'  {message}')
            if len(messages) > NAMED:
                note(f'  and {len(messages) - NAMED} more')
