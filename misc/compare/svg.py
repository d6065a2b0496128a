"""SVG files of matplotlib turned into elements of a page that forbids inline styles."""

import re
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

LONG_NUMBER = re.compile(r'-?\d+\.\d{3,}')
FONT_FAMILY = 'font-family'    # left to the page


def inline(svg: str, colours: Mapping[str, str], label: str, tooltips: Mapping[str, Sequence[str]]) -> str:
    """The `<svg>` element of a file that matplotlib wrote with `svg.fonttype: none`, for use inside HTML.

    `style` attributes, which a Content-Security-Policy refuses, become presentation attributes, and style
    sheets are dropped.  `colours` {'#rrggbb': CSS value} replaces colours by the page's variables.  `label`
    describes the picture; `tooltips` {gid of a line: texts} are those of its marked points, in order.
    """
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if name_of(child.tag) in ('style', 'metadata'):
                parent.remove(child)
    for element in root.iter():
        add_tooltips(element, tooltips.get(element.attrib.get('id', ''), ()))
        simplify(element, colours)
    # Width and height are the page's.
    root.attrib = {'viewBox': root.attrib['viewBox'], 'role': 'img', 'aria-label': label}
    return ElementTree.tostring(root, encoding='unicode')


def add_tooltips(line: ElementTree.Element, texts: Sequence[str]) -> None:
    """Give the markers of a line a `<title>` each."""
    for marker, text in zip((element for element in line.iter() if name_of(element.tag) == 'use'), texts):
        ElementTree.SubElement(marker, 'title').text = text


def simplify(element: ElementTree.Element, colours: Mapping[str, str]) -> None:
    """Rewrite the name and the attributes of an element of matplotlib's for a page."""
    element.tag = name_of(element.tag)
    attributes = {name_of(name): value for name, value in element.attrib.items()}
    style = dict(re.split(r':\s*', part, maxsplit=1)
                 for part in attributes.pop('style', '').split(';') if part.strip())
    attributes.update({name.strip(): value.strip() for name, value in style.items()})
    attributes.pop(FONT_FAMILY, None)
    if element.tag == 'g':
        attributes.pop('id', None)    # counted anew in each figure, so not unique in a page
    element.attrib = {name: colours.get(value, LONG_NUMBER.sub(rounded, ' '.join(value.split())))
                      for name, value in attributes.items()}


def rounded(match: re.Match) -> str:
    """A coordinate with two decimals: a hundredth of a pixel."""
    return f'{float(match[0]):.2f}'


def name_of(tag: str) -> str:
    """The name of an element or an attribute without its namespace; HTML has none."""
    return tag.rpartition('}')[2]
