"""The project's Adam beside PyTorch's."""

import copy

import pytest
import torch

from misc.training.optim import build_optimiser, load_moments, set_rate
from misc.training.step import Step, Updater

REFERENCE = {'adam': torch.optim.Adam, 'adamw': torch.optim.AdamW}


def weights(seed):
    draw = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=draw)) for shape in ((3, 4), (5,), (2,))]


def take_steps(optimiser, parameters, seed, steps=3):
    draw = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimiser.zero_grad(set_to_none=True)
        for parameter in parameters[:2]:  # the last has no gradient
            parameter.grad = torch.randn(parameter.shape, generator=draw)
        optimiser.step()


@pytest.mark.parametrize('kind', REFERENCE)
def test_adam_takes_the_steps_of_pytorchs_own_and_goes_on_from_its_state(kind):
    own, other = weights(1), weights(1)
    settings = dict(weight_decay=0.03, lr=0.01, eps=1e-6, betas=(0.8, 0.95), fused=True)
    reference = REFERENCE[kind](other, **settings)

    def built(parameters):
        optimiser = build_optimiser(parameters, kind, 0.8, 0.95, 1e-6, 0.03)
        set_rate(optimiser, 0.01)
        return optimiser

    optimiser = built(own)
    take_steps(optimiser, own, 2)
    take_steps(reference, other, 2)
    assert all(map(torch.equal, own, other))
    assert set(optimiser.state_dict()['param_groups'][0]) == set(reference.state_dict()['param_groups'][0])
    later = built(own)
    assert load_moments(later, copy.deepcopy(reference.state_dict()))
    reference.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    set_rate(later, 0.01)
    take_steps(later, own, 3)
    take_steps(reference, other, 3)
    assert all(map(torch.equal, own, other))
    assert not load_moments(later, torch.optim.SGD(other).state_dict())


def test_each_gradient_is_clamped_before_the_step_which_takes_the_rate_that_it_is_given(tmp_path):
    model = torch.nn.Linear(3, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    updater = Updater(model, build_optimiser(model.parameters(), 'sgd'), 0.5, torch.device('cpu'), str(tmp_path))
    for iteration, rate in ((1, 1.0), (2, 0.1)):
        model.weight.grad = torch.tensor([[4.0, -0.25, -3.0]])
        updater.update(torch.ones(()), Step(iteration, 0, rate, [7]))
    assert model.weight[0].tolist() == pytest.approx([-0.55, 0.275, 0.55])
