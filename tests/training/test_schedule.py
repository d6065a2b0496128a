"""Learning rates and scheduled sampling as functions of step and epoch, and what validations decide."""

import pytest

from misc.training.schedule import Plan, Plateau, Schedule


def schedule(**changes):
    """A schedule: constant at 0.1, unless `changes` say otherwise."""
    return Schedule(**{**dict(
        learning_rate=0.1, decay_start=-1, decay_every=3, decay_rate=0.5, noam=False, noam_warmup=4, noam_factor=2.0,
        size=16, reduce_on_plateau=False, sampling_start=-1, sampling_every=2, sampling_increase=0.1,
        sampling_max=0.25), **changes})


def rates(**changes):
    return [schedule(**changes).rate(1, epoch) for epoch in range(8)]


def test_the_rate_falls_by_whole_steps_from_its_epoch_on_or_never():
    assert rates() == [0.1] * 8
    assert rates(decay_start=0) == [0.1] * 3 + [0.05] * 3 + [0.025] * 2
    assert rates(decay_start=2) == [0.1] * 5 + [0.05] * 3


def test_the_rate_warms_up_and_falls_with_the_root_of_the_step():
    found = [schedule(noam=True).rate(step, 9) for step in (1, 2, 4, 9, 16)]
    assert found == pytest.approx([2 / 4 * factor for factor in (1 / 8, 2 / 8, 1 / 2, 1 / 3, 1 / 4)])


def test_only_the_flag_of_plateaus_lets_them_scale_the_rate():
    for noam, expected in ((False, 0.1), (True, 0.25)):
        assert schedule(noam=noam).rate(4, 0, scale=0.25) == pytest.approx(expected)
        assert schedule(noam=noam, reduce_on_plateau=True).rate(4, 0, scale=0.25) == pytest.approx(expected / 4)
    assert schedule(reduce_on_plateau=True, decay_start=0).rate(1, 7) == 0.1


def test_the_probability_of_scheduled_sampling_rises_up_to_its_limit_or_stays_at_0():
    assert [schedule().sampling_probability(epoch) for epoch in range(4)] == [0] * 4
    found = [schedule(sampling_start=1).sampling_probability(epoch) for epoch in range(9)]
    assert found == pytest.approx([0, 0, 0, 0.1, 0.1, 0.2, 0.2, 0.25, 0.25])


def test_a_plateau_halves_after_its_patience_counts_anew_and_takes_an_equal_score_for_no_improvement():
    plateau, scales = Plateau(), []
    for score in [0.5] * 10 + [0.6, 0.6]:
        plateau.update(score, 'CIDEr')
        scales.append(plateau.scale)
    assert scales == [1.0] * 4 + [0.5] * 4 + [0.25] * 4


def test_a_plateau_starts_again_with_another_measure():
    plateau = Plateau()
    for score in [-2.0] * 5:
        plateau.update(score, 'loss')
    assert plateau.scale == 0.5
    plateau.update(-3.0, 'CIDEr')
    assert plateau.state() == (-3.0, 0, 1.0, 'CIDEr')


def test_training_ends_before_its_number_of_epochs_is_passed_or_never():
    def ends(most):
        plan = Plan(max_epochs=most, accumulate=1, log_every=1, save_every=1, validate_every=1, language_eval=False)
        return [plan.is_over(epoch) for epoch in range(4)]
    assert ends(2) == [False, False, True, True] and ends(-1) == [False] * 4 and ends(0) == [True] * 4
