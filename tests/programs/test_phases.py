"""Both phases against a plain second route: the modes that models are in, and numbers that are drawn anew."""

import pickle
from unittest import mock

import numpy as np
import pytest
import torch

import models
import opts
import train
from dataloader import TrainBatches
from misc.dataset.corpus import Corpus
from misc.run.folder import TrainingState, pickle_bytes
from misc.scoring import metrics
from misc.training.schedule import Plateau
from tests import naive
from tests.helpers import tiny
from tests.helpers.models import FAMILIES, fix_dropout, make_batch, make_model, name_of, per_image, spread_dropout
from tests.helpers.runs import Interrupt, infos_of, interrupt_after, self_critical_flags

FAMILIES = [dict(), dict(caption_model='transformer'), *FAMILIES]
pytestmark = pytest.mark.usefixtures('without_java')


def training_batch(epoch=0, rows=(0, 1, 2)):
    """Three images, in the order of their `rows` in the data set."""
    batch = make_batch()
    batch.images, batch.image_ids, batch.epoch, batch.device = list(rows), list(rows), epoch, torch.device('cpu')
    return batch


class SelfCritical:
    """Calls of the self-critical phase, and what they drew and rewarded."""

    def __init__(self, monkeypatch):
        self.samples, self.greedy, self.uniforms = None, None, None
        plain = train.sample

        def sample(*given, uniforms=None, **more):
            self.uniforms = self.uniforms if uniforms is None else uniforms
            return plain(*given, uniforms=uniforms, **more)
        monkeypatch.setattr(train, 'sample', sample)

    def run(self, model, batch, advantage, samples=4, seed=1):
        """The loss of a batch, for an `advantage` (I, samples)."""
        def rewards(image_ids, captions, greedy):
            self.samples, self.greedy = captions, greedy
            return advantage, {}
        terms, _ = train.self_critical(model, mock.Mock(side_effect=rewards, baseline='greedy'), batch,
                                       samples=samples, longest=6, seed=seed, amp='off')
        return terms['loss']


def said(row):
    return row[row > 0].tolist()


@pytest.mark.parametrize('changes', FAMILIES, ids=name_of)
def test_samples_and_loss_have_dropout_and_the_baseline_has_none(changes, monkeypatch):
    drop = fix_dropout(monkeypatch)
    model, batch, phase = make_model(**changes).train(), training_batch(), SelfCritical(monkeypatch)
    spread_dropout(model)
    with torch.no_grad():
        model.output.weight *= 3  # so that a factor matters
    advantage = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    loss = phase.run(model, batch, advantage)
    assert loss.requires_grad and model.training
    expected, tokens, with_dropout = 0.0, 0, []
    with torch.no_grad():
        for i, arrays in enumerate(per_image(batch)):
            dropped, whole = (naive.encode(model, *arrays, drop=one) for one in (drop, None))

            def next_of(regions, how):
                return lambda said: naive.next_word_log_probs(model, regions, said, drop=how)[-1]
            assert said(phase.greedy[i]) == naive.greedy(next_of(whole, None), 6)[0]
            with_dropout.append(said(phase.greedy[i]) != naive.greedy(next_of(dropped, drop), 6)[0])
            for s, uniforms in enumerate(phase.uniforms.view(3, 4, 6)[i].tolist()):
                words = naive.sampled(next_of(dropped, drop), uniforms)
                assert said(phase.samples[i, s]) == words
                with_dropout.append(words != naive.sampled(next_of(whole, None), uniforms))
                drawn = (words + [0])[:6]
                log_probs = naive.next_word_log_probs(model, dropped, words, drop=drop)
                expected -= advantage[i, s] * sum(float(log_probs[t, word]) for t, word in enumerate(drawn))
                tokens += len(drawn)
    assert float(loss.detach()) == pytest.approx(expected / tokens, abs=1e-5)
    assert any(with_dropout)  # it makes a difference here


def test_samples_are_drawn_anew_for_every_epoch_image_copy_and_seed_and_for_nothing_else(monkeypatch):
    model, phase, advantage = make_model().train(), SelfCritical(monkeypatch), np.ones((3, 4), np.float32)

    def drawn(rows=(0, 1, 2), **more):
        epoch = more.pop('epoch', 0)
        phase.run(model, training_batch(epoch, rows), advantage, **more)
        return phase.uniforms.view(3, 4, 6).clone()
    first = drawn()
    assert torch.equal(first, drawn()) and torch.equal(first.flip(0), drawn((2, 1, 0)))
    seen = torch.stack([first, drawn(epoch=1), drawn(epoch=2), drawn((3, 4, 5)), drawn(seed=2)])
    assert len(seen.flatten().unique()) == seen.numel()  # no number of one stands in another
    assert float(seen.min()) >= 0 and float(seen.max()) < 1 and float(seen.mean()) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize('name', models.MODELS)
def test_the_model_trains_at_every_step_of_both_phases_though_it_is_validated_in_between(
        corpus, tmp_path, monkeypatch, name):
    modes = []

    def watched(loss):
        def looked(model, *given):
            modes.append((model.training, torch.is_grad_enabled()))
            return loss(model, *given)
        return looked
    for loss in ('caption_loss', 'self_critical_loss'):
        monkeypatch.setattr(train, loss, watched(getattr(train, loss)))
    tiny.run(train, self_critical_flags(
        corpus, tmp_path, '--caption_model', name, '--perform_validation_every', 2, '--self_critical_after', 1,
        *(tiny.RECURRENT_FLAGS if models.MODELS[name].word_by_word else ()),
        *(('--input_box_dir', corpus / 'box') if name == 'relation_transformer' else ())))
    assert modes == [(True, True)] * 6


def captions_of_epochs(corpus, captions_per_image, epochs=6, **more):
    """{image: its drawn captions (captions_per_image, T) in each epoch}, read as for training."""
    batches = TrainBatches(corpus, corpus.rows('train'), 4, captions_per_image, more.get('seed', 5), workers=0)
    found = {}
    try:
        while batches.next_epoch < epochs:
            batch = batches.next()
            for image, captions in zip(batch.image_ids, batch.captions):
                found.setdefault(image, []).append(captions)
    finally:
        batches.close()
    return found


@pytest.fixture
def opened(corpus):
    """The tiny corpus, opened for a model of mean features."""
    options, _ = opts.parse(opts.train_parser(), list(map(str, tiny.train_flags(corpus, 'run'))))
    whole = Corpus(opts.sources(options))
    whole.open_for(('fc',))
    return whole


def test_captions_are_drawn_without_repeats_and_anew_in_every_epoch(opened):
    several = captions_of_epochs(opened, 3)
    for row, image in enumerate(opened.ids[:9]):
        own = opened.captions(row).tolist()
        assert all(len(np.unique(captions, axis=0)) == 3 for captions in several[image])
        assert all(caption.tolist() in own for captions in several[image] for caption in captions)
        # The chance that six draws of 3 out of 5 are alike is 60^-5.
        assert len({str(captions.tolist()) for captions in several[image]}) > 1
    # Images draw for themselves: were they to draw alike, these would be the same numbers.
    places = {image: [[opened.captions(row).tolist().index(caption.tolist()) for caption in captions]
                      for captions in several[image]] for row, image in enumerate(opened.ids[:9])}
    assert len({str(drawn) for drawn in places.values()}) == 9
    assert all(torch.equal(one, other) for image, drawn in captions_of_epochs(opened, 3).items()
               for one, other in zip(drawn, several[image]))
    assert any(not torch.equal(one, other) for image, drawn in captions_of_epochs(opened, 3, seed=6).items()
               for one, other in zip(drawn, several[image]))


def test_all_captions_are_drawn_where_as_many_are_wanted_and_some_twice_where_more_are(opened):
    for count in (5, 7):
        for image, drawn in captions_of_epochs(opened, count, epochs=3).items():
            own = {tuple(row) for row in opened.captions(opened.ids.index(image)).tolist()}
            assert len(drawn) == 3 and all(len(captions) == count for captions in drawn)
            if count == 5:
                assert all({tuple(row) for row in captions.tolist()} == own for captions in drawn)


SCORES = [0.3, 0.5, 0.4, 0.5, 0.45, 0.1, 0.2, 0.2, 0.2, 0.6, 0.1, 0.1, 0.1, 0.1, 0.1]


@pytest.mark.parametrize('interrupted', range(len(SCORES) + 1))
def test_a_plateau_goes_on_where_it_was_when_a_run_is_resumed(interrupted):
    whole = Plateau()
    for score in SCORES:
        whole.update(score, 'CIDEr')
    assert whole.scale == 0.25
    state = TrainingState()
    for score in SCORES[:interrupted]:
        state.plateau.update(score, 'CIDEr')
    state = TrainingState.from_infos(pickle.loads(pickle_bytes(state.to_infos())), keeps_best=True)
    for score in SCORES[interrupted:]:
        state.plateau.update(score, 'CIDEr')
    assert vars(state.plateau) == vars(whole)


@pytest.mark.parametrize('stop', [None, 5, 6, 7, 8])
def test_the_second_phase_begins_without_the_plateau_of_the_first_and_keeps_its_own_when_resumed(
        corpus, tmp_path, monkeypatch, stop):
    """Each step is validated, and only the first is a new best: the rate halves after the fifth of each phase."""
    monkeypatch.setattr(metrics, 'score', lambda *_, **__: ({'CIDEr': 1.0}, {}, []))
    flags = self_critical_flags(
        corpus, tmp_path, '--self_critical_after', 2, '--max_epochs', 4, '--perform_validation_every', 1,
        '--language_eval', 1, '--reduce_on_plateau', 1, '--learning_rate', 1e-3)
    if stop is not None:
        with monkeypatch.context() as patch, pytest.raises(Interrupt):
            interrupt_after(patch, stop)
            tiny.run(train, flags)
        flags += ['--start_from', tmp_path]
    tiny.run(train, flags)
    rates = infos_of(tmp_path)['histories']['lr_history']
    assert [rates[step] for step in range(1, 13)] == [1e-3] * 5 + [5e-4] + [1e-3] * 5 + [5e-4]
    assert infos_of(tmp_path)['self_critical_from'] == 6


def test_the_statistics_of_a_batch_in_parts_are_means_over_all_its_samples(corpus, tmp_path):
    """The batches of 5 and 4 images are worked through in parts of 1 and 2 images."""
    exact = ('--dropout', 0, '--drop_prob_lm', 0, '--optim', 'sgd', '--max_epochs', 2, '--batch_size', 5,
             '--bleu_reward_weight', 0.5)
    found = []
    for parts in (1, 3):
        tiny.run(train, self_critical_flags(corpus, tmp_path / str(parts), *exact, '--accumulate', parts))
        histories = infos_of(tmp_path / str(parts))['histories']
        found.append((histories['reward_history'], histories['loss_history']))
    (whole, losses), (parts, losses_of_parts) = found
    assert list(whole) == list(parts) == [1, 2, 3, 4]
    for step in whole:
        assert set(whole[step]) >= {'reward', 'baseline', 'advantage', 'cider', 'bleu', 'ended', 'words'}
        assert parts[step] == pytest.approx(whole[step], rel=1e-5, abs=1e-7)
    assert losses_of_parts == pytest.approx(losses, rel=1e-4, abs=1e-6)
