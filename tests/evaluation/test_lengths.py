"""A hint where beam search's captions are much shorter than greedy ones."""

import types

import pytest
import torch

from misc.evaluation.lengths import LengthCheck


def decoder(words, calls=None, images=10):
    """A decoding method whose captions of `images` images have so many words; it counts its calls."""
    def decode(model, memory, uniforms):
        if calls is not None:
            calls.append((model, memory, uniforms))
        captions = torch.zeros(images, 2, 12, dtype=torch.long)
        captions[:, 0, :words] = 3
        captions[:, 1] = 4   # of other beams, which do not count
        return types.SimpleNamespace(captions=captions)
    return decode


@pytest.mark.parametrize('beam, greedy, images, is_short', [
    (4, 10, 10, True), (7, 10, 5, True), (8, 10, 10, False), (10, 10, 10, False), (12, 10, 10, False),
    (4, 10, 4, False), (0, 0, 10, False)])
def test_captions_that_are_much_shorter_than_greedy_ones_get_a_hint(beam, greedy, images, is_short):
    check = LengthCheck(decoder(beam, images=images), decoder(greedy, images=images), 3)
    assert check.hint() == ''
    found = check('model', 'memory', 'uniforms')
    assert int((found.captions[:, 0] > 0).sum()) == beam * images
    if is_short:
        assert f'--beam_size 3 captions have {beam:.1f} words on average, greedy ones {greedy:.1f}' in check.hint()
        assert '--length_penalty' in check.hint() and f'of {images} images' in check.hint()
    else:
        assert check.hint() == ''


def test_only_the_first_images_are_decoded_twice():
    beam, greedy = [], []
    check = LengthCheck(decoder(5, beam, images=20), decoder(9, greedy, images=20), 2)
    for batch in range(9):
        check('model', batch, None)
    assert [memory for _, memory, _ in beam] == list(range(9))
    assert greedy == [('model', batch, None) for batch in range(3)] and check.images == 60
