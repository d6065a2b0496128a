"""The flags of a program, read from its parser."""

import argparse


def flags_of(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """{name: action} of a parser's flags."""
    return {action.dest: action for action in parser._actions if action.dest != 'help'}
