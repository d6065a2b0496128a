"""A batch is the same training in parts and in processes, whatever the number of either."""

import pytest
import torch

import train
from models.transformer import Captioner
from tests import tiny
from tests.test_self_critical import phase_flags


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    return tiny.write_corpus(tmp_path_factory.mktemp('corpus'))


# No dropout, and steps whose size follows the gradients (Adam takes only their signs at first).
EXACT = ('--dropout', 0, '--drop_prob_lm', 0, '--optim', 'sgd', '--learning_rate', 0.1, '--grad_clip', 1e3,
         '--max_epochs', 1)
PHASES = {'cross-entropy': tiny.train_flags, 'self-critical': phase_flags}


@pytest.fixture
def gradients_of(monkeypatch):
    """Call with flags of train.py for the gradients of every step, one vector each."""
    steps, plain = [], train.clip_by_value

    def record(parameters, limit):
        steps.append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]))
        plain(parameters, limit)
    monkeypatch.setattr(train, 'clip_by_value', record)
    monkeypatch.setenv('PATH', '')  # scores without METEOR: quick

    def run(flags):
        steps.clear()
        tiny.run(train, flags)
        return list(steps)
    return run


@pytest.mark.parametrize('phase', PHASES)
def test_the_gradients_of_the_parts_of_a_batch_add_up_to_its_own(
        corpus, tmp_path, gradients_of, monkeypatch, phase):
    together = gradients_of(PHASES[phase](corpus, tmp_path / '1', *EXACT, '--label_smoothing', 0.1))
    sizes, plain = [], Captioner.encode
    monkeypatch.setattr(Captioner, 'encode', lambda self, batch: (sizes.append(len(batch)), plain(self, batch))[1])
    for parts, largest in ((3, 2), (9, 1)):  # of the 4, 4 and 1 images of an epoch
        sizes.clear()
        apart = gradients_of(PHASES[phase](corpus, tmp_path / str(parts), *EXACT, '--label_smoothing', 0.1,
                                           '--accumulate', parts, '--val_images_use', 1))
        assert max(sizes) == largest
        assert len(apart) == len(together) == 3
        for one, other in zip(together, apart):
            assert float((one - other).abs().max() / one.abs().max()) < 1e-6
