"""The state of a training, in the infos of a checkpoint and back."""

import pickle

import pytest

from misc.cli import DataError
from misc.run.folder import TrainingState, pickle_bytes
from misc.run.histories import History, read_logged, read_steps
from misc.training.schedule import Best, CollapseWatch, Plateau


def state(**changes):
    """A state in which nothing has its first value."""
    return TrainingState(**{**dict(
        iteration=7, best=Best(0.5, 'CIDEr'), plateau=Plateau((0.5, 2, 0.25, 'CIDEr')), cider=CollapseWatch(0.4),
        self_critical_from=3, saved_at=7, validations=[{'iteration': 5, 'loss': 2.0}, {'iteration': 6, 'loss': 1.0}],
        histories={name: {5: 1.0} for name in TrainingState().histories}), **changes})


def again(infos, keeps_best=True):
    return TrainingState.from_infos(pickle.loads(pickle_bytes(infos)), keeps_best)


def plain(one):
    return {**vars(one), 'plateau': one.plateau.state()}


def test_everything_comes_back_from_the_infos_and_the_best_score_only_on_request():
    whole = state()
    assert plain(again(whole.to_infos())) == plain(whole)
    fresh = again(whole.to_infos(), keeps_best=False)
    assert fresh.best == Best() and plain(fresh) == plain(state(best=Best()))
    new = TrainingState(saved_at=0)
    assert plain(again(new.to_infos())) == plain(new)


def test_infos_of_earlier_versions_say_whether_the_second_phase_has_begun_but_not_when():
    infos = state().to_infos()
    del infos['self_critical_from']
    assert again(infos).self_critical_from == 7
    assert again({**infos, 'first_cider': None}).self_critical_from is None


def test_weights_are_validated_only_if_the_last_validation_was_after_the_last_step():
    assert not TrainingState().is_validated and not state().is_validated and state(iteration=6).is_validated


def test_the_last_line_of_the_steps_is_left_out_while_it_is_being_written_and_others_are_named(tmp_path):
    path = tmp_path / 'steps.jsonl'
    lines = ['{"iteration": 1, "loss": 2.5, "learning_rate": 0.5}', '{"iteration": 2, "loss": 2.0, "reward": 0.25}']
    path.write_text('\n'.join(lines))
    assert [iteration for iteration, _ in read_steps(str(path))] == [1]
    path.write_text('\n'.join([*lines, '']))
    (tmp_path / 'validations.jsonl').write_text(
        '{"iteration": 2, "loss": 3, "best": true}\n{"iteration": 2, "CIDEr": 0.5}\n')
    assert read_logged(str(tmp_path)) == History(
        tmp_path.name, str(tmp_path), {1: 2.5, 2: 2.0}, {1: 0.5}, {2: {'reward': 0.25}},
        {2: {'iteration': 2, 'loss': 3.0, 'CIDEr': 0.5}})
    for wrong in ('{"iteration": -1, "loss": 1}', '{"loss": 1}', '[1]', '{"iteration": 2}'):
        path.write_text(f'{lines[0]}\n{wrong}\n{lines[1]}\n')
        with pytest.raises(DataError, match='steps.jsonl: line 2 '):
            read_steps(str(path))


def test_the_second_phase_begins_at_its_own_validation_not_at_an_earlier_one():
    history = History('run', '', losses={10: 2.0}, rewards={20: {'reward': 1.0}},
                      scores={5: {'loss': 2.0}, 30: {'loss': 1.0}})
    assert history.self_critical_after == 10
    history.scores[15] = {'loss': 1.5}
    assert history.self_critical_after == 15
