"""Relation accuracy: whether captions state correctly where two shapes are with respect to each other.

The vocabulary of the built-in data set (colours, shapes, relation phrases) and its parser are both here, so that
captions are parsed with the words they are written with.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Name = tuple[str | None, str]    # (colour, shape)
Relation = tuple[str, Name | None, Name | None]    # (a side, the first shape, the second)

COLOURS = ('red', 'orange', 'yellow', 'green', 'blue', 'purple', 'black', 'white')

# Noun -> the shape it names.
SHAPE_WORDS = {
    'circle': 'circle', 'disc': 'circle', 'square': 'square', 'box': 'square',
    'triangle': 'triangle', 'diamond': 'diamond', 'star': 'star', 'cross': 'cross',
    'ring': 'ring', 'heart': 'heart',
}
SHAPES = tuple(dict.fromkeys(SHAPE_WORDS.values()))

# Relation -> phrases that are followed by the second shape ("left of a square").
PHRASES = {
    'left': ('to the left of', 'on the left of', 'on the left side of', 'left of'),
    'right': ('to the right of', 'on the right of', 'on the right side of', 'right of'),
    'above': ('above', 'over', 'higher than'),
    'below': ('below', 'under', 'beneath', 'lower than'),
}
# Relation -> phrases that refer back to the second shape ("a square with a circle to its left").
BACK_PHRASES = {
    'left': ('to its left', 'on its left'),
    'right': ('to its right', 'on its right'),
    'above': ('above it', 'over it'),
    'below': ('below it', 'under it', 'beneath it'),
}
MIRROR = {'left': 'right', 'right': 'left', 'above': 'below', 'below': 'above'}

# (words, 'forward' or 'back', relation), longest first, so that "above it" is found before "above".
_ALL_PHRASES = sorted([(tuple(phrase.split()), kind, relation)
                       for kind, phrases in (('forward', PHRASES), ('back', BACK_PHRASES))
                       for relation, group in phrases.items() for phrase in group],
                      key=lambda phrase: -len(phrase[0]))


def _parse(tokens):
    """The shapes and relation phrases of a caption, in order: ('shape', (colour, shape)) and ('forward' or 'back',
    relation).  A shape without a colour before it has the colour None."""
    found: list[tuple[str, Any]] = []
    at = 0
    while at < len(tokens):
        for words, kind, relation in _ALL_PHRASES:
            if tuple(tokens[at:at + len(words)]) == words:
                found.append((kind, relation))
                at += len(words)
                break
        else:
            if tokens[at] in SHAPE_WORDS:
                colour = tokens[at - 1] if at and tokens[at - 1] in COLOURS else None
                found.append(('shape', (colour, SHAPE_WORDS[tokens[at]])))
            at += 1
    return found


def parse_relations(caption: str | Sequence[str]) -> list[Relation]:
    """Every left/right/above/below relation that a caption, a sentence or its tokens, states between two shapes.

    "a red disc over a blue box" gives [('above', ('red', 'circle'), ('blue', 'square'))].  What the caption leaves
    out is None.
    """
    if isinstance(caption, str):
        caption = caption.lower().replace('.', ' ').replace(',', ' ').split()
    found = _parse(list(caption))
    relations: list[Relation] = []
    for place, (kind, relation) in enumerate(found):
        if kind == 'shape':
            continue
        before: list[Name | None] = [value for what, value in found[:place] if what == 'shape']
        after: list[Name | None] = [value for what, value in found[place + 1:] if what == 'shape']
        if kind == 'back':  # "SECOND with FIRST above it"
            second, first = ([None, None] + before)[-2:]
        elif before:        # "FIRST above SECOND"
            first, second = before[-1], (after + [None])[0]
        else:               # "above SECOND there is FIRST"
            second, first = (after + [None, None])[:2]
        relations.append((relation, first, second))
    return relations


def canonical(relation: Relation) -> Relation:
    """The same relation in terms of left or above: ('right', a, b) becomes ('left', b, a)."""
    word, first, second = relation
    return (word, first, second) if word in ('left', 'above') else (MIRROR[word], second, first)


def _is_complete(relation):
    return all(shape is not None and shape[0] is not None for shape in relation[1:])


def relation_accuracy(predictions: Mapping[Any, str], references: Mapping[Any, Sequence[str]]) -> dict[str, Any]:
    """The share of captions whose left/right/above/below relations, with both shapes, are correct.

    `predictions` {id: caption}, `references` {id: captions}.  Only images count whose references state such a
    relation between two coloured shapes.  A prediction is correct if it states at least one relation and all it
    states are in the references, as they are or mirrored (A left of B is B right of A); a prediction without a
    relation, or a missing one, is wrong.
    Returns {'accuracy': float, or None where no image counts, 'images': int, 'correct': int}.
    """
    predictions = {str(image_id): caption for image_id, caption in predictions.items()}
    images = correct = 0
    for image_id, captions in references.items():
        truth = {canonical(relation) for caption in captions
                 for relation in parse_relations(caption) if _is_complete(relation)}
        if not truth:
            continue
        stated = parse_relations(predictions.get(str(image_id), ''))
        images += 1
        correct += bool(stated) and all(canonical(relation) in truth for relation in stated)
    return {'accuracy': correct / images if images else None, 'images': images, 'correct': correct}
