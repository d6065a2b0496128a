"""What the page says about the evaluation: the model, the decoding method, and what its attention means."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from misc.cli import DataError, note
from misc.page.data import Facts

NAMED = 10  # broken pictures that are named one by one


@dataclass(frozen=True)
class ModelFacts:
    """What the page says about a model.

    name       its --caption_model
    details    options that distinguish it from others of this name
    layers     how many layers attend to regions
    attention  what its attention weights are; '' for a model that does not attend to single regions
    places     what it knows about where regions are, after "The model knows"; '' for nothing
    """

    name: str
    details: Sequence[str]
    layers: int
    attention: str
    places: str


def page_facts(run_id: str, source: str, models: Sequence[ModelFacts], decoding: str, overall: dict[str, float],
               images: int) -> Facts:
    """The facts of a page about the captions of `images` images of `source`; `overall`: their scores."""
    about = [('model' if len(models) == 1 else 'models', ', '.join(map(model_name, models))),
             ('images', f'{images:,} of {source}'), ('decoding', decoding)]
    return Facts(f'{run_id}: {source}', about, overall, about_attention(models), about_positions(models))


def model_name(model: ModelFacts) -> str:
    """A model's name with the options that distinguish it."""
    return model.name + (f' ({", ".join(model.details)})' if model.details else '')


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
        return ('This model sees the regions of an image only as a whole. It does not attend to single ones, so '
                'there is nothing to highlight.')
    kinds = dict.fromkeys(model.attention for model in attending)
    text = f'For each word of the caption, {" and ".join(kinds)}. The weights of a word add up to 100 %.'
    if any(model.layers > 1 for model in attending):
        text += ' “All layers” is the mean over the layers of the decoder.'
    if len(attending) < len(models):
        text += f' Weights are averaged over the {len(attending)} of {len(models)} models that attend to regions.'
    elif len(models) > 1:
        text += f' Weights are averaged over the {len(models)} models.'
    return text


def about_positions(models: Sequence[ModelFacts]) -> str:
    """What the models know about where regions are."""
    known = [model.places for model in models if model.places]
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
