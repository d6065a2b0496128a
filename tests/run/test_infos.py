"""The content of an infos file is checked before a run resumes from it."""

import math

import numpy as np
import pytest
import torch

import eval as evaluation
import models
import train
from misc.cli import DataError, UsageError
from misc.run import folder as run_folder
from misc.run import infos
from misc.training.optim import build_optimiser, load_moments
from tests.helpers import tiny
from tests.helpers.damage import RESUMED, complaint, expect

WHOLE = {'opt': {'seq_length': 6, 'num_layers': 2}, 'vocab': {'1': 'a', '2': 'größe'}, 'iter': 3, 'epoch': 1}


def random_state():
    return {'torch': torch.get_rng_state().numpy()}


@pytest.mark.parametrize('more', [
    {}, {'something_new': object()}, {'regions': None, 'account': None, 'reward': None},
    {'regions': {'detector': 'grid'}},
    {'best_val_score': None}, {'best_val_score': np.float64(-1.5), 'best_measure': 'loss'}, {'first_cider': 0.9},
    {'loader': {'epoch': 1, 'position': 0}}, {'loader': {'epoch': 1, 'position': 2, 'order': np.arange(4)}},
    {'plateau': (None, 0, 1.0, None)}, {'plateau': [-2.5, 3, 0.25, 'loss']}, {'random': random_state()},
    {'random_of_others': [random_state()]}, {'histories': {'loss_history': {1: 2.5}}},
    {'validations': [{'iteration': 3, 'loss': math.nan, 'best': True}]}], ids=str)
def test_infos_of_older_and_later_versions_are_accepted(more):
    assert infos.problem({**WHOLE, **more}) == ''


@pytest.mark.parametrize('name, value', [
    ('iter', -1), ('iter', 2.5), ('iter', True), ('epoch', 10 ** 30), ('epoch', '1'), ('vocab', {'1': 2}),
    ('vocab', {'1': 'a', 1: 'b'}), ('vocab', {(1,): 'a'}), ('best_val_score', math.nan), ('best_val_score', '1'),
    ('best_val_score', 10 ** 400), ('best_measure', 3), ('loader', []), ('loader', {'epoch': 1}),
    ('loader', {'epoch': 1, 'position': -1}), ('loader', {'epoch': 0, 'position': 0, 'order': [[1]]}),
    ('loader', {'epoch': 0, 'position': 0, 'order': np.array([0.5])}), ('plateau', (1,)),
    ('plateau', (1, 2, 0.0, None)),
    ('plateau', (1, 2, 2.0, None)), ('random', None), ('random', {'torch': [1, 2]}),
    ('random', {'torch': np.zeros(5056, np.uint8)}), ('random', {'torch': random_state()['torch'][:-1]}),
    ('random', {**random_state(), 'cuda': 3}), ('random_of_others', {}), ('histories', {'loss_history': [1]}),
    ('histories', {'loss_history': {'one': 1}}), ('validations', {}), ('validations', [{'loss': 1.0}]),
    ('validations', [{'iteration': 1, 'loss': b'x'}]), ('regions', []), ('account', 'x'),
    ('account', {'data': {'input_json': np.arange(3)}}),
    ('first_cider', math.inf),
    ('opt', {1: 2})], ids=str)
def test_an_impossible_entry_is_named(name, value):
    assert name in infos.problem({**WHOLE, name: value})


@pytest.mark.parametrize('name, value', [('num_layers', 10 ** 9), ('seq_length', 10 ** 9), ('ff_size', 2 ** 40),
                                         ('input_encoding_size', math.inf)])
def test_sizes_too_large_for_any_machine_are_named_before_a_model_is_built(root, name, value):
    path = root / 'run' / 'infos_tiny.pkl'
    content = run_folder.read_infos(str(path))
    content['opt'][name] = value
    path.write_bytes(run_folder.pickle_bytes(content))
    expect(complaint(root, train, *RESUMED), 'infos_tiny.pkl', name, 'another copy')


@pytest.mark.parametrize('module', [evaluation, train])
def test_a_model_that_its_weights_do_not_fit_takes_no_memory(root, monkeypatch, module):
    """The largest sizes that are allowed would take 16 TB."""
    path = root / 'run' / 'infos_tiny.pkl'
    content = run_folder.read_infos(str(path))
    content['opt'].update(input_encoding_size=1 << 20, num_layers=50)
    path.write_bytes(run_folder.pickle_bytes(content))
    built, build = [], models.build

    def recorded(*arguments):
        built.append(build(*arguments))
        return built[-1]
    monkeypatch.setattr(models, 'build', recorded)
    before = torch.get_rng_state()
    monkeypatch.setattr(torch, 'manual_seed', lambda seed: None)  # train.py sets it before it builds
    flags = {evaluation: tiny.eval_flags(root, root / 'run'),
             train: [*tiny.data_flags(root), '--id', 'tiny', '--checkpoint_path', root / 'run', '--start_from',
                     root / 'run', '--max_epochs', 9, '--device', 'cpu']}[module]
    with pytest.raises(DataError, match='model.pth does not fit the model that .*infos_tiny.pkl describes'):
        tiny.run(module, flags)
    assert len(built) == 1 and {parameter.device.type for parameter in built[0].parameters()} == {'meta'}
    assert torch.equal(before, torch.get_rng_state())


def test_contradictory_options_are_refused_with_the_name_of_their_file(root):
    path = root / 'run' / 'infos_tiny.pkl'
    content = run_folder.read_infos(str(path))
    content['opt']['heads'] = 5
    path.write_bytes(run_folder.pickle_bytes(content))
    with pytest.raises(UsageError, match='--heads 5 does not divide .*infos_tiny.pkl'):
        tiny.run(evaluation, tiny.eval_flags(root, root / 'run'))


def moments_of(optimiser):
    """The state of an optimiser after a step."""
    for parameter in optimiser.param_groups[0]['params']:
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    return optimiser.state_dict()


def spoil(kind, change):
    """Whether an optimiser of a kind accepts its state after `change`."""
    parameters = [torch.zeros(2, 3), torch.zeros(3)]
    state = moments_of(build_optimiser(parameters, kind))
    state = {**state, 'state': {place: dict(moments) for place, moments in state['state'].items()}}
    change(state['state'])
    return load_moments(build_optimiser(parameters, kind), state)


@pytest.mark.parametrize('kind, name', [('adam', 'exp_avg'), ('adamw', 'exp_avg_sq'), ('rmsprop', 'square_avg'),
                                        ('sgdm', 'momentum_buffer'), ('adagrad', 'sum')])
def test_moments_are_loaded_only_if_complete_and_finite(kind, name):
    assert spoil(kind, lambda state: None)
    for wrong in (torch.full((2, 3), math.nan), torch.zeros(3, 2), torch.zeros(2, 3, dtype=torch.int64), 'x', {}):
        assert not spoil(kind, lambda state, wrong=wrong: state[0].update({name: wrong})), wrong
    assert not spoil(kind, lambda state: state[0].update(another=torch.zeros(2, 3)))
    for place in (7, -2):
        assert not spoil(kind, lambda state, place=place: state.update({place: state.pop(0)}))
    assert not spoil(kind, lambda state: state.update({'0': state.pop(0)}))
    if kind.startswith('adam'):
        for step in (torch.tensor(-1.0), torch.tensor(math.nan), torch.zeros(3), torch.zeros(1), None, 'x'):
            assert not spoil(kind, lambda state, step=step: state[0].update(step=step)), step


def test_a_run_with_damaged_moments_resumes_without_them_and_says_so(root, capsys):
    path = root / 'run' / 'optimizer.pth'
    state = run_folder.read_tensors(str(path))
    state['state'][0]['exp_avg'][0] = math.nan
    torch.save(state, path)
    tiny.run(train, tiny.train_flags(root, root / 'run', '--start_from', root / 'run'))
    assert 'optimizer.pth holds no moments of this optimiser and model' in capsys.readouterr().err


def test_weights_of_another_type_of_number_are_refused(root):
    path = root / 'run' / 'model.pth'
    weights = run_folder.read_tensors(str(path))
    torch.save({**weights, 'output.bias': weights['output.bias'].to(torch.int64)}, path)
    expect(complaint(root, train, *RESUMED), 'model.pth', 'infos_tiny.pkl', 'output.bias is of torch.int64')
    with pytest.raises(DataError, match='model.pth is not a valid file'):
        torch.save({**weights, 'output.bias': weights['output.bias'].to(torch.complex64)}, path)
        run_folder.read_tensors(str(path))


def test_names_numbers_and_weights_are_what_they_say():
    assert run_folder.id_in('infos_x-best.pkl', True) == 'x'
    assert run_folder.id_in('infos_x-best.pkl', False) == 'x-best'
    assert infos.is_bytes(np.zeros(3, np.uint8)) and not infos.is_bytes(np.zeros(3))
    with pytest.raises(DataError, match='not finite .b.'):
        run_folder.check_finite({'a': torch.ones(2), 'b': torch.tensor([1.0, torch.nan])}, 'model.pth')
    good = {'opt': {'seq_length': 16}, 'iter': 3, 'epoch': 0}
    assert run_folder.checked_infos(good, 'infos.pkl') is good
    for wrong in (-1, '3', 1.5):
        with pytest.raises(DataError, match='iter should be a whole number'):
            run_folder.checked_infos({**good, 'iter': wrong}, 'infos.pkl')
