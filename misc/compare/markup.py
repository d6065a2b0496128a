"""Writing HTML and SVG in which nothing that a stranger wrote can become mark-up."""

import html

VOID = frozenset(['meta', 'link', 'img', 'br', 'line', 'path', 'rect'])


class Markup(str):
    """Text that is mark-up already; any other text is escaped where it becomes part of an element."""


def element(name, /, *children, **attributes):
    """An element as `Markup`: children are text, `Markup`, None (nothing) or lists of these.

    In the names of attributes an underscore stands for a hyphen and one at the end is dropped (`class_`); an
    attribute that is None or False is left out, one that is True has no value.
    """
    told = ''
    for key, value in attributes.items():
        if value is not None and value is not False:
            key = key.rstrip('_').replace('_', '-')
            told += f' {key}' if value is True else f' {key}="{escaped(value)}"'
    if name in VOID:
        return Markup(f'<{name}{told}/>')
    return Markup(f'<{name}{told}>{joined(children)}</{name}>')


def joined(children):
    """The children of an element, one after the other."""
    parts = []
    for child in children:
        if isinstance(child, (list, tuple)):
            parts.append(joined(child))
        elif child is not None:
            parts.append(child if isinstance(child, Markup) else escaped(child))
    return Markup(''.join(parts))


def escaped(text):
    """`text` as mark-up that shows it; halves of pairs, which no file can hold, become question marks."""
    return html.escape(str(text).encode('utf-8', 'replace').decode())
