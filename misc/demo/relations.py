"""Relation accuracy: does a caption put the two shapes it names where they are?

Holds the words for colours, shapes and relations that the built-in data set speaks with, and a
parser for them, so that what is written and what is understood cannot drift apart.
"""

COLOURS = ('red', 'orange', 'yellow', 'green', 'blue', 'purple', 'black', 'white')

# Word for a shape -> the shape.
SHAPE_WORDS = {
    'circle': 'circle', 'disc': 'circle', 'square': 'square', 'box': 'square',
    'triangle': 'triangle', 'diamond': 'diamond', 'star': 'star', 'cross': 'cross',
    'ring': 'ring', 'heart': 'heart',
}
SHAPES = tuple(dict.fromkeys(SHAPE_WORDS.values()))

# Relation -> the phrases that are followed by the shape it is told against ("left of a square").
PHRASES = {
    'left': ('to the left of', 'on the left of', 'on the left side of', 'left of'),
    'right': ('to the right of', 'on the right of', 'on the right side of', 'right of'),
    'above': ('above', 'over', 'higher than'),
    'below': ('below', 'under', 'beneath', 'lower than'),
}
# Relation -> the phrases that point back ("a square with a circle to its left").
BACK_PHRASES = {
    'left': ('to its left', 'on its left'),
    'right': ('to its right', 'on its right'),
    'above': ('above it', 'over it'),
    'below': ('below it', 'under it', 'beneath it'),
}
MIRROR = {'left': 'right', 'right': 'left', 'above': 'below', 'below': 'above'}


# (words, 'on' or 'back', relation), longest first, so that "above it" is found before "above".
_MARKS = sorted([(tuple(phrase.split()), kind, relation)
                 for kind, phrases in (('on', PHRASES), ('back', BACK_PHRASES))
                 for relation, group in phrases.items() for phrase in group],
                key=lambda mark: -len(mark[0]))


def _read(tokens):
    """The shapes and relation phrases of a caption, in order: [('shape', (colour, shape))] and
    [('on' or 'back', relation)].  A shape without a colour before it has the colour None."""
    found, at = [], 0
    while at < len(tokens):
        for words, kind, relation in _MARKS:
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


def parse_relations(caption):
    """Every left/right/above/below relation that a caption states between two shapes.

    `caption` is a sentence or a list of tokens.  Returns a list of (relation, first, second),
    first and second being (colour, shape): "a red disc over a blue box" gives
    [('above', ('red', 'circle'), ('blue', 'square'))].  What the caption leaves out is None.
    """
    if isinstance(caption, str):
        caption = caption.lower().replace('.', ' ').replace(',', ' ').split()
    found = _read(list(caption))
    relations = []
    for place, (kind, relation) in enumerate(found):
        if kind == 'shape':
            continue
        before = [value for what, value in found[:place] if what == 'shape']
        after = [value for what, value in found[place + 1:] if what == 'shape']
        if kind == 'back':  # "SECOND with FIRST above it"
            second, first = ([None, None] + before)[-2:]
        elif before:        # "FIRST above SECOND"
            first, second = before[-1], (after + [None])[0]
        else:               # "above SECOND there is FIRST"
            second, first = (after + [None, None])[:2]
        relations.append((relation, first, second))
    return relations


def canonical(relation):
    """The same relation said with left or above: ('right', a, b) becomes ('left', b, a)."""
    word, first, second = relation
    return (word, first, second) if word in ('left', 'above') else (MIRROR[word], second, first)


def _is_whole(relation):
    return all(shape is not None and shape[0] is not None for shape in relation[1:])


def relation_accuracy(predictions, references):
    """The share of captions whose left/right/above/below word and the two shapes it joins are right.

    `predictions` is {id: caption}, `references` {id: [captions]}.  Counted are all images whose
    references state such a relation between two coloured shapes.  A prediction is right if it
    states at least one and every one it states is stated by the references, as it is or mirrored
    (A left of B is B right of A); one without a relation, or a missing one, is wrong.
    Returns {'accuracy': float, or None where no image counts, 'images': int, 'correct': int}.
    """
    predictions = {str(image_id): caption for image_id, caption in predictions.items()}
    images = correct = 0
    for image_id, captions in references.items():
        truth = {canonical(relation) for caption in captions
                 for relation in parse_relations(caption) if _is_whole(relation)}
        if not truth:
            continue
        said = parse_relations(predictions.get(str(image_id), ''))
        images += 1
        correct += bool(said) and all(canonical(relation) in truth for relation in said)
    return {'accuracy': correct / images if images else None, 'images': images, 'correct': correct}
