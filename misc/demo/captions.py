"""Captions of the built-in data set: one fact in many phrasings."""

import numpy as np

from misc.demo.relations import BACK_PHRASES, MIRROR, PHRASES, SHAPE_WORDS
from misc.demo.scenes import Fact

CAPTIONS = 5        # per image
MAX_WORDS = 16
PLACE_SHARE = 0.9    # of the captions that mention the place in the image, where the fact has one

# {X} is the larger and {Y} the smaller of two shapes; the larger always comes first.  {R} is a phrase for the
# relation of X to Y, {M} one for that of Y to X, {B} the same as {M} in a form that refers back.
SIDE_PATTERNS = ('{X} {R} {Y}', '{X} is {R} {Y}', 'there is {X} {R} {Y}', '{X} {V} {R} {Y}',
                 'the {P} shows {X} {R} {Y}', '{M} {X} there is {Y}', '{X} with {Y} {B}')
INSIDE_PATTERNS = ('a {S} {x} {I} a {L} {y}', 'there is a {S} {x} {I} a {L} {y}',
                   'a {L} {y} with a {S} {x} inside', 'the {P} shows a {S} {x} {I} a {L} {y}',
                   'a {L} {y} with a {S} {x} in it', '{I} a {L} {y} there is a {S} {x}')
BETWEEN_PATTERNS = ('{X} between {Y} and {Z}', '{X} is between {Y} and {Z}',
                    'there is {X} between {Y} and {Z}', '{X} {V} between {Y} and {Z}',
                    'between {Y} and {Z} there is {X}', 'the {P} shows {X} between {Y} and {Z}')
WORDS = {'V': ('sits', 'lies', 'is placed'), 'P': ('picture', 'image'), 'I': ('inside', 'within'),
         'S': ('small', 'little'), 'L': ('large', 'big')}
PLACES = {
    'top': ('top', 'top', 'upper'), 'bottom': ('bottom', 'bottom', 'lower'),
    'middle': ('in the middle of the picture', 'in the middle', 'in the centre of the picture'),
}


def write_captions(fact: Fact, rng: np.random.Generator) -> list[str]:
    """`CAPTIONS` distinct captions that state `fact`: sentences of at most `MAX_WORDS` words, with a capital and a
    full stop."""
    write = {'inside': _write_inside, 'between': _write_between}.get(fact.relation, _write_side)
    captions: list[str] = []
    while len(captions) < CAPTIONS:
        text = write(fact, rng)
        caption = text[0].upper() + text[1:] + '.'
        if len(text.split()) <= MAX_WORDS and caption not in captions:
            captions.append(caption)
    return captions


def tokens_of(caption: str) -> list[str]:
    """The tokens of a caption as in Karpathy's split files: lower case, no full stop."""
    return caption.lower().replace('.', '').split()


def _pick(words, rng):
    return words[rng.integers(len(words))]


def _name(shape, rng):
    """A name like 'red circle'; the first word for a shape is three times as frequent as the second."""
    words = [word for word, meaning in SHAPE_WORDS.items() if meaning == shape.shape]
    return f'{shape.colour} {_pick(words[:1] * 3 + words[1:], rng)}'


def _with_article(name):
    return f'{"an" if name[0] in "aeiou" else "a"} {name}'


def _place_phrase(place, rng):
    if place == 'middle':
        return _pick(PLACES['middle'], rng)
    vertical, horizontal = place.split()
    return f'in the {_pick(PLACES[vertical], rng)} {horizontal} corner'


def _fixed_words(rng):
    return {key: _pick(words, rng) for key, words in WORDS.items()}


def _write_side(fact, rng):
    pattern = _pick(SIDE_PATTERNS, rng)
    x, y = (_with_article(_name(shape, rng)) for shape in fact.shapes)
    if fact.place and rng.random() < PLACE_SHARE:
        x += ' ' + _place_phrase(fact.place, rng)
    mirrored = MIRROR[fact.relation]
    return pattern.format(X=x, Y=y, R=_pick(PHRASES[fact.relation], rng), M=_pick(PHRASES[mirrored], rng),
                          B=_pick(BACK_PHRASES[mirrored], rng), **_fixed_words(rng))


def _write_inside(fact, rng):
    inner, outer = fact.shapes
    pattern = _pick(INSIDE_PATTERNS, rng)
    y = _name(outer, rng)
    if fact.place and rng.random() < PLACE_SHARE:
        y += ' ' + _place_phrase(fact.place, rng)
    return pattern.format(x=_name(inner, rng), y=y, **_fixed_words(rng))


def _write_between(fact, rng):
    middle, first, second = (_with_article(_name(shape, rng)) for shape in fact.shapes)
    return _pick(BETWEEN_PATTERNS, rng).format(X=middle, Y=first, Z=second, **_fixed_words(rng))
