"""Shared fixtures."""

import os
import pathlib

# Before torch is loaded (why: see train.py).
os.environ.setdefault('GOMP_SPINCOUNT', '2000')

import pytest

from tests.helpers.browser import browser, served, visit  # noqa: F401

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope='session')
def minicoco():
    """The folder of the 99-image excerpt of COCO; tests that need it skip where it is absent."""
    places = [os.environ.get('MINICOCO'), ROOT.parent / 'shared' / 'minicoco']
    for place in places:
        if place and (pathlib.Path(place) / 'dataset_coco.json').is_file():
            return pathlib.Path(place)
    pytest.skip('the 99-image excerpt of COCO is not here; set MINICOCO to its folder')
