"""Writing plots."""

import argparse
import os

from misc.disk.files import replacing


def picture_name(text):
    """An argparse type: a file name that ends in .png or .svg."""
    if not text.lower().endswith(('.png', '.svg')):
        raise argparse.ArgumentTypeError(f'{text!r} is no picture; allowed are names in .png and .svg')
    return text


def write_picture(figure, path):
    """Write a figure of matplotlib's to `path`, whole or not at all; the kind of picture is `path`'s.  Its
    folder is made if it is not there."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with replacing(path) as file:
        figure.savefig(file, format=os.path.splitext(path)[1][1:].lower(), dpi=120)
