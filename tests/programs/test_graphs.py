"""Training whose cross-entropy steps run as CUDA graphs, in place of which the same code is run again."""

import json
import types

import pytest
import torch

import models
import train
from models import kernels
from models.kernels.pairs import XLinearPairs
from models.step_graphs import StepGraphs
from tests.helpers import tiny
from tests.helpers.models import make_model
from tests.helpers.runs import weights_of
from tests.helpers.tape import rerun

PLAIN = ['--dropout', 0, '--drop_prob_lm', 0, '--max_epochs', 6, '--label_smoothing', 0.1]


def losses_of(folder):
    """The losses of all steps."""
    return [json.loads(line)['loss'] for line in (folder / 'steps.jsonl').read_text(encoding='utf-8').splitlines()]


@pytest.mark.parametrize('flags', [(), ('--cross_attn', 'dot-product', '--optim', 'sgdm', '--ema', '0.9')],
                         ids=lambda flags: flags[1] if flags else 'xlinear')
def test_training_by_graphs_is_the_training_without(corpus, tmp_path, monkeypatch, flags):
    replayed = []

    def record(work):
        again, result = rerun(work)
        return lambda: replayed.append(again()), result

    def recorded_steps(options, model, loss, device, processes):
        return StepGraphs(model, loss, device, record=record, warm=lambda work: work()), ''
    tiny.run(train, tiny.train_flags(corpus, tmp_path / 'plain', *PLAIN, *flags))
    monkeypatch.setattr(kernels, 'XLinearMix', XLinearPairs)  # the loop over images needs the host's numbers
    monkeypatch.setattr(torch.Tensor, 'pin_memory', lambda tensor: tensor)
    monkeypatch.setattr(models, 'recorded_steps', recorded_steps)
    tiny.run(train, tiny.train_flags(corpus, tmp_path / 'graphs', *PLAIN, *flags))
    expected, found = losses_of(tmp_path / 'plain'), losses_of(tmp_path / 'graphs')
    assert len(replayed) > len(expected) / 2 and len(set(expected)) == len(expected)
    assert found == pytest.approx(expected, rel=1e-4)
    others = weights_of(tmp_path / 'plain')
    for name, weight in weights_of(tmp_path / 'graphs').items():
        assert torch.allclose(weight, others[name], atol=2e-3), name


def test_where_graphs_do_not_fit_it_is_said_why():
    cuda = torch.device('cuda')

    def asked(device=cuda, processes=1, use_bn=0, accumulate=1, cuda_graphs='auto', **changes):
        options = types.SimpleNamespace(cuda_graphs=cuda_graphs, accumulate=accumulate, use_bn=use_bn,
                                        caption_model=changes.get('caption_model', 'spatial_pe'))
        return models.recorded_steps(options, make_model(use_bn=use_bn, **changes), None, device, processes)
    graphs, obstacle = asked()
    assert isinstance(graphs, StepGraphs) and not graphs.required and not obstacle
    assert asked(cuda_graphs='1')[0].required
    assert asked(cuda_graphs='0') == asked(torch.device('cpu')) == (None, '')
    for changes, why in ((dict(processes=2), 'several processes'), (dict(accumulate=2), '--accumulate'),
                         (dict(use_bn=1), '--use_bn'), (dict(caption_model='topdown'), 'topdown computes other'),
                         (dict(caption_model='relation_transformer', cross_attn='dot-product'), 'other shapes')):
        graphs, obstacle = asked(**changes)
        assert graphs is None and why in obstacle
