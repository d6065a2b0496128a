"""The figure of captions and what a word attended to."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from misc import captioner
from misc.cli import UsageError
from scripts import draw_captions
from tests.helpers import tiny

BOXES = np.array([[0, 0, 40, 30], [20, 0, 40, 30]])   # the second is the right half


def test_the_word_shown_is_the_one_that_looks_elsewhere_and_where_it_looked_stays_bright():
    attention = np.array([[0.9, 0.1], [0.85, 0.15], [0.2, 0.8]])
    assert draw_captions.telling_word(attention) == 2
    weights = draw_captions.weight_map(attention[2], BOXES, (30, 40))
    assert (weights[:, :20] == 0.2).all() and (weights[:, 20:] == 0.8).all()
    pixels = np.full((30, 40, 3), 200, np.uint8)
    dark = draw_captions.darkened(pixels, weights)
    assert (dark[:, 20:] == 200).all() and (dark[:, :20] == int(200 * (0.25 + 0.75 / 4))).all()


def test_every_picture_is_drawn_and_its_caption_printed(tmp_path, monkeypatch, capsys):
    for name in 'abc':
        Image.new('RGB', (40, 30), 'red').save(tmp_path / f'{name}.png')
    paths = [str(tmp_path / f'{name}.png') for name in 'abc']
    given = {}

    def load(run, **options):
        given.update(options, run=run)
        caption = SimpleNamespace(text='a red wall', words=['a', 'red', 'wall'], attention=attention, boxes=BOXES)
        return SimpleNamespace(caption=lambda pictures: [caption] * len(pictures))
    attention = np.array([[0.5, 0.5], [0.5, 0.5], [0.1, 0.9]])
    monkeypatch.setattr(captioner, 'load', load)
    flags = [*paths, '--run', 'checkpoints/mine', '--output', tmp_path / 'figure.png', '--columns', '2',
             '--width', '100']
    tiny.run(draw_captions, flags)
    assert given == {'run': 'checkpoints/mine', 'beam_size': 2}
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [f'{path}: a red wall' for path in paths]
    assert f'wrote {tmp_path / "figure.png"}' in printed.err
    with Image.open(tmp_path / 'figure.png') as figure:
        assert figure.size == (2 * (2 * 100 + 24), 2 * (100 + 52))
    attention = None
    with pytest.raises(UsageError, match='attends to no regions'):
        tiny.run(draw_captions, flags)
