"""The exponential moving average of the weights."""

import torch

from misc.training.averaging import WeightAverage


def small_model():
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))


def test_the_average_is_that_of_the_plain_formula_and_the_model_is_as_it_was_after_use():
    model = small_model()
    average = WeightAverage(model, 0.7)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for step in range(1, 30):
        for parameter in model.parameters():
            parameter.data += torch.randn(parameter.shape)
        model(torch.randn(5, 3))  # moves the statistics of the normalisation
        average.update(step)
        decay = min(0.7, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value if value.is_floating_point() else value
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with average.applied() as trained:
        assert all(torch.allclose(value, expected[name], atol=1e-5) for name, value in model.state_dict().items())
        assert all(torch.equal(value, before[name]) for name, value in trained.items())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not torch.allclose(before['0.weight'], expected['0.weight'])


def test_before_the_first_step_and_after_a_new_start_the_average_is_the_weights_as_they_are():
    model = small_model()
    average = WeightAverage(model, 0.7)
    for _ in range(2):
        weights = model[0].weight.clone()
        with average.applied():
            assert torch.equal(model[0].weight, weights)
        model[0].weight.data += 1
        average.restart()


def test_without_a_decay_there_is_no_average_and_the_model_stays():
    model = small_model()
    average = WeightAverage(model, 0)
    weights = model[0].weight.clone()
    average.update(1)
    with average.applied() as trained:
        assert trained is None and torch.equal(model[0].weight, weights)
