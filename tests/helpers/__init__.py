"""What tests of several folders share; fixtures are in tests/conftest.py."""

import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
