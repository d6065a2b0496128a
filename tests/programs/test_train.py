"""Training runs: what a run leaves behind, and that a resumed run is the uninterrupted one."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

import eval as evaluation
import train
from misc.cli import DataError, UsageError
from misc.disk import filesets, pickles
from misc.evaluation import validation
from misc.run import folder as run_folder
from misc.run.histories import read_histories
from misc.training.schedule import Best, noam_rate
from tests.helpers import tiny
from tests.helpers.damage import complaint, expect, resplit
from tests.helpers.runs import Interrupt, infos_of, interrupt_after, same_weights, status_of, weights_of


@pytest.mark.parametrize('flags', [
    (), ('--noamopt', '--noamopt_warmup', 5), ('--reduce_on_plateau', 1, '--optim', 'sgdmom'),
    ('--optim', 'rmsprop'), ('--ema', 0.9, '--cosine', 1, '--word_dropout', 0.3),
    ('--caption_model', 'topdown', *tiny.RECURRENT_FLAGS, '--scheduled_sampling_start', 0,
     '--scheduled_sampling_increase_every', 1, '--scheduled_sampling_increase_prob', 0.3)],
    ids=lambda flags: '-'.join(map(str, flags[:4])))
def test_a_resumed_run_has_the_weights_of_an_uninterrupted_one_bit_for_bit(
        corpus, tmp_path, monkeypatch, flags):
    every = ['--max_epochs', 4, '--save_checkpoint_every', 2, '--perform_validation_every', 3, *flags]
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    tiny.run(train, tiny.train_flags(corpus, whole, *every))
    resume = []
    for stop in (5, 7):  # inside the second and third epoch, after validations and saves
        with monkeypatch.context() as patch, pytest.raises(Interrupt):
            interrupt_after(patch, stop)
            tiny.run(train, tiny.train_flags(corpus, parts, *every, *resume))
        resume = ['--start_from', parts]
    tiny.run(train, tiny.train_flags(corpus, parts, *every, '--num_workers', 2, *resume))
    for name in ('model.pth', 'model-best.pth'):
        assert same_weights(weights_of(whole, name), weights_of(parts, name))
    for moments in [[run_folder.read_tensors(str(run / 'optimizer.pth')) for run in (whole, parts)]]:
        assert ('trained' in moments[0]) == ('--ema' in flags)
        assert same_weights(*(one.get('trained', {}) for one in moments))
    one, other = infos_of(whole), infos_of(parts)
    assert one['histories'] == other['histories'] and one['best_val_score'] == other['best_val_score']
    assert one['iter'] == other['iter'] == 12 and one['epoch'] == other['epoch'] == 4

    def lines(folder):
        text = (folder / 'validations.jsonl').read_text().splitlines()
        return [{**json.loads(line), 'seconds': 0, 'waited': 0} for line in text]
    assert lines(whole) == lines(parts)


def test_the_folder_of_a_run_is_as_the_formats_say(corpus, tmp_path):
    tiny.run(train, tiny.train_flags(corpus, tmp_path))
    names = set(os.listdir(tmp_path))
    assert names >= {'model.pth', 'model-best.pth', 'infos_tiny.pkl', 'infos_tiny-best.pkl',
                     'optimizer.pth', 'histories_tiny.pkl', 'validations.jsonl'}
    assert any(name.startswith('events.out.tfevents') for name in names)
    assert all(torch.is_tensor(value) for value in weights_of(tmp_path).values())
    infos = pickles.load(str(tmp_path / 'infos_tiny.pkl'))
    assert infos['opt'].num_layers == 1 and infos['vocab']['1'] == 'a'
    assert infos['iter'] == 6 and infos['epoch'] == 2  # 9 images, 4 a batch: 3 steps an epoch
    histories = pickles.load(str(tmp_path / 'histories_tiny.pkl'))
    assert sorted(histories['loss_history']) == [1, 2, 3, 4, 5, 6]
    assert list(histories['val_result_history']) == [6]
    assert infos['best_val_score'] == pytest.approx(-histories['val_result_history'][6]['loss'])


def test_training_without_validation_gives_the_weights_of_training_with_it(corpus, tmp_path, capsys, monkeypatch):
    every = ['--max_epochs', 4, '--perform_validation_every', 3, '--self_critical_after', 2, '--cached_tokens',
             corpus / 'talk-idxs.p', '--seq_per_img', 2]
    tiny.run(train, tiny.train_flags(corpus, tmp_path / 'with', *every))
    without = [*every, '--val_images_use', 0]
    for stop in (5, 8):   # in each phase
        with monkeypatch.context() as patch, pytest.raises(Interrupt):
            interrupt_after(patch, stop)
            tiny.run(train, tiny.train_flags(corpus, tmp_path / 'run', *without, *(
                ['--start_from', tmp_path / 'run'] if stop > 5 else [])))
    go_on = tiny.train_flags(corpus, tmp_path / 'run', *without, '--start_from', tmp_path / 'run')
    tiny.run(train, go_on)
    assert same_weights(weights_of(tmp_path / 'with'), weights_of(tmp_path / 'run'))
    infos = infos_of(tmp_path / 'run')
    assert infos['iter'] == 12 and not infos['validations'] and infos['best_val_score'] is None
    assert not (tmp_path / 'run' / 'model-best.pth').exists()
    history, = read_histories(str(tmp_path / 'run'))   # what plots and reports read
    assert sorted(history.losses) == list(range(1, 13)) and not history.scores
    capsys.readouterr()
    tiny.run(train, go_on)
    printed = capsys.readouterr()
    assert 'nothing to do' in printed.out and 'no validation' in printed.err


def test_data_without_a_val_split_is_refused_with_both_ways_out(root):
    resplit('train', slice(None))(root)
    expect(complaint(root, train), 'no image in the val split; it has train', r'make_dataset.py .* --val 0\.1',
           '--val_images_use 0')
    tiny.run(train, tiny.train_flags(root, root / 'made', '--max_epochs', 1, '--val_images_use', 0))
    assert infos_of(root / 'made')['iter'] == 4
    for flag in ('--language_eval', '--reduce_on_plateau', '--patience'):
        with pytest.raises(UsageError, match=f'{flag} 1 needs validation'):
            tiny.run(train, tiny.train_flags(root, root / 'other', '--val_images_use', 0, flag, 1))


def test_every_epoch_deals_every_image_once_in_another_order(corpus, tmp_path, monkeypatch):
    seen = []
    plain = train.caption_loss
    monkeypatch.setattr(train, 'caption_loss',
                        lambda model, batch, s: (seen.append(batch.image_ids), plain(model, batch, s))[1])
    tiny.run(train, tiny.train_flags(corpus, tmp_path, '--max_epochs', 2))
    first, second = sum(seen[:3], []), sum(seen[3:], [])
    assert sorted(first) == sorted(second) == list(range(100, 109)) and first != second


@pytest.mark.parametrize('workers, to_group, number', [
    (0, False, signal.SIGTERM), (2, True, signal.SIGHUP), (2, True, signal.SIGUSR1)])
def test_a_signal_saves_and_says_how_to_go_on(corpus, tmp_path, workers, to_group, number):
    command = [sys.executable, 'train.py', *map(str, tiny.train_flags(
        corpus, tmp_path / 'run', '--max_epochs', -1, '--num_workers', workers))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    for line in process.stdout:
        if line.startswith('iteration 20 '):
            break
    # Batch systems signal the whole group, the processes that read features too.
    (os.killpg if to_group else os.kill)(process.pid, number)
    rest = process.stdout.read()
    assert process.wait() == 128 + number
    assert f'Go on with: python train.py --resume {tmp_path / "run"}\n' in rest
    assert status_of(tmp_path / 'run')['state'] == 'stopped' and status_of(tmp_path / 'run')['signal'] == number.name
    assert infos_of(tmp_path / 'run')['iter'] >= 20


@pytest.mark.parametrize('number, every, iterations', [
    (signal.SIGTERM, 4, [4, 8, 9]), (signal.SIGUSR1, 'epoch', [3, 6, 9])])
def test_each_validation_is_left_for_a_signal_and_done_when_the_run_goes_on_as_if_there_was_none(
        corpus, tmp_path, monkeypatch, capsys, number, every, iterations):
    flags = ['--max_epochs', 3, '--perform_validation_every', every]
    tiny.run(train, tiny.train_flags(corpus, tmp_path / 'whole', *flags))
    run, plain = tmp_path / 'run', validation.mean_loss
    found = []
    for start in range(4):
        calls = []

        def asked(*given, start=start, calls=calls):
            calls.append(1)
            if not start or len(calls) > 1:  # the validation that is due comes first, and is done
                os.kill(os.getpid(), number)
            return plain(*given)
        monkeypatch.setattr(validation, 'mean_loss', asked)
        status = tiny.run(train, tiny.train_flags(corpus, run, *flags, *(['--start_from', run] if start else [])))
        state = infos_of(run)
        found.append((status, state['iter'], len(state['validations']), status_of(run)['state']))
        assert (f'stopped by {number.name} after iteration {state["iter"]}; saved' in capsys.readouterr().out) == (
            start < 3)
    stopped = [(128 + number, iteration, count, 'stopped') for count, iteration in enumerate(iterations)]
    assert found == [*stopped, (0, 9, 3, 'finished')]
    for name in ('model.pth', 'model-best.pth'):
        assert same_weights(weights_of(tmp_path / 'whole', name), weights_of(run, name))
    assert infos_of(tmp_path / 'whole')['histories'] == infos_of(run)['histories']
    assert list(infos_of(run)['histories']['val_result_history']) == iterations


def test_a_run_that_was_killed_in_its_last_validation_validates_when_it_goes_on(corpus, tmp_path, monkeypatch):
    def killed(*_):
        raise Interrupt
    with monkeypatch.context() as patch, pytest.raises(Interrupt):
        patch.setattr(validation, 'mean_loss', killed)
        tiny.run(train, tiny.train_flags(corpus, tmp_path, '--save_checkpoint_every', 3))
    assert not (tmp_path / 'model-best.pth').exists()
    for _ in range(2):
        tiny.run(train, tiny.train_flags(corpus, tmp_path, '--start_from', tmp_path))
    assert len((tmp_path / 'validations.jsonl').read_text().splitlines()) == 1
    assert same_weights(weights_of(tmp_path), weights_of(tmp_path, 'model-best.pth'))


def test_going_on_into_another_folder_leaves_both_runs_whole(corpus, tmp_path):
    tiny.run(train, tiny.train_flags(corpus, tmp_path / 'a', '--max_epochs', 1))
    onwards = ['--start_from', tmp_path / 'a', '--max_epochs', 2, '--learning_rate', 10]  # grows worse
    tiny.run(train, tiny.train_flags(corpus, tmp_path / 'b', *onwards))
    assert (tmp_path / 'b' / 'model-best.pth').exists()
    with pytest.raises(UsageError, match='already holds'):
        tiny.run(train, tiny.train_flags(corpus, tmp_path / 'b', *onwards))


def test_the_plateau_halves_the_rate_of_its_own_flag_alone(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(validation, 'mean_loss', lambda *_: 1.0)
    tiny.run(train, tiny.train_flags(corpus, tmp_path, '--reduce_on_plateau', 1, '--perform_validation_every', 1,
                                     '--max_epochs', 3))
    rates = pickles.load(str(tmp_path / 'histories_tiny.pkl'))['lr_history']
    assert [rates[step] for step in (1, 5, 6, 9)] == [5e-4, 5e-4, 2.5e-4, 2.5e-4]
    better = tmp_path / 'better'
    losses_in_turn(monkeypatch, *(1 / step for step in range(1, 10)))
    tiny.run(train, tiny.train_flags(corpus, better, '--reduce_on_plateau', 1, '--perform_validation_every', 1,
                                     '--max_epochs', 3))
    assert set(pickles.load(str(better / 'histories_tiny.pkl'))['lr_history'].values()) == {5e-4}
    monkeypatch.setattr(validation, 'mean_loss', lambda *_: 1.0)
    tiny.run(train, tiny.train_flags(corpus, tmp_path, '--noamopt', '--max_epochs', 4, '--start_from', tmp_path))
    rates = pickles.load(str(tmp_path / 'histories_tiny.pkl'))['lr_history']
    assert rates[10] == noam_rate(10, 16, 2000)


def losses_in_turn(monkeypatch, *losses):
    """Make validations find these losses, one after the other."""
    following = iter(losses)
    monkeypatch.setattr(validation, 'mean_loss', lambda *_: next(following))


def test_training_stops_early_when_validations_find_no_new_best_and_goes_on_with_more_patience(
        corpus, tmp_path, monkeypatch, capsys):
    every = ['--perform_validation_every', 'epoch', '--max_epochs', 9]
    losses_in_turn(monkeypatch, 4.0, 3.0, 3.5, 3.25, 2.0, 2.5, 2.5)
    assert tiny.run(train, tiny.train_flags(corpus, tmp_path, *every, '--patience', 2)) == 0
    assert 'stopped early: no new best in the last 2 validations (--patience 2)' in capsys.readouterr().out
    assert infos_of(tmp_path)['iter'] == 12 and len(infos_of(tmp_path)['validations']) == 4
    onwards = [*every, '--start_from', tmp_path]
    assert tiny.run(train, tiny.train_flags(corpus, tmp_path, *onwards, '--patience', 2)) == 0
    assert 'nothing to do: no new best in the last 2 validations' in capsys.readouterr().out
    # The two that were not better count: a third would end the run, and a new best comes.
    tiny.run(train, tiny.train_flags(corpus, tmp_path, *onwards, '--patience', 3, '--max_epochs', 7))
    assert infos_of(tmp_path)['iter'] == 21 and 'stopped early' not in capsys.readouterr().out


def test_only_validations_of_the_phase_count_towards_patience():
    validations = [{'iteration': step, 'best': step == 2} for step in (1, 2, 3, 4)]

    def counted(**state):
        return run_folder.TrainingState(validations=validations, **state).validations_without_best
    kept = Best(score=1.0, measure='loss')
    assert counted(best=kept) == 2 and counted(best=kept, self_critical_from=3) == 1
    assert counted() == 0  # the best starts again: in another folder, or with --load_best_score 0


def test_the_last_checkpoints_are_kept_and_each_can_be_resumed_from(corpus, tmp_path):
    run, kept = tmp_path / 'run', tmp_path / 'run' / 'iteration_4'
    every = ['--save_checkpoint_every', 2, '--perform_validation_every', 2500, '--max_epochs', 3]
    tiny.run(train, tiny.train_flags(corpus, run, *every, '--keep_checkpoints', 3))
    assert sorted(path.name for path in run.glob('iteration_*')) == ['iteration_6', 'iteration_8', 'iteration_9']
    (run / 'iteration_5.part').mkdir()   # as a kill leaves it
    tiny.run(train, tiny.train_flags(corpus, run, *every, '--keep_checkpoints', 2, '--max_epochs', 4, '--start_from',
                                     run))
    assert sorted(path.name for path in run.glob('iteration_*')) == ['iteration_10', 'iteration_12']
    assert same_weights(weights_of(run), weights_of(run / 'iteration_12'))
    assert not same_weights(weights_of(run), weights_of(run / 'iteration_10'))
    other = tmp_path / 'other'
    tiny.run(train, tiny.train_flags(corpus, other, *every, '--max_epochs', 4, '--start_from', run / 'iteration_10'))
    assert same_weights(weights_of(run), weights_of(other))
    assert not kept.exists() and not list(other.glob('iteration_*'))


def test_the_average_is_validated_saved_and_evaluated_and_a_run_without_it_goes_on_from_it(
        corpus, tmp_path, monkeypatch, capsys):
    run = tmp_path / 'run'
    tiny.run(train, tiny.train_flags(corpus, run, '--ema', 0.6, '--learning_rate', 1e-2))
    trained = run_folder.read_tensors(str(run / 'optimizer.pth'))['trained']
    assert not same_weights(trained, weights_of(run))
    assert same_weights(weights_of(run), weights_of(run, 'model-best.pth'))
    monkeypatch.chdir(tmp_path)
    tiny.run(evaluation, tiny.eval_flags(corpus, run, '--split', 'val', '--verbose_loss', 1))
    loss = json.loads((tmp_path / 'eval_results' / 'tiny_val.json').read_text())['loss']
    assert loss == pytest.approx(infos_of(run)['validations'][-1]['loss'], rel=1e-5)
    still = ['--learning_rate', 0, '--max_epochs', 3, '--start_from', run]
    tiny.run(train, tiny.train_flags(corpus, tmp_path / 'without', *still))
    assert 'holds averaged weights, with which training goes on; to average further, give --ema 0.6' in \
        capsys.readouterr().err
    assert same_weights(weights_of(run), weights_of(tmp_path / 'without'))
    tiny.run(train, tiny.train_flags(corpus, tmp_path / 'with', *still, '--ema', 0.6))
    assert same_weights(trained, run_folder.read_tensors(str(tmp_path / 'with' / 'optimizer.pth'))['trained'])
    assert not same_weights(weights_of(run), weights_of(tmp_path / 'with'))


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_images(corpus, tmp_path, monkeypatch):
    plain = train.caption_loss

    def broken(model, batch, smoothing):
        terms = plain(model, batch, smoothing)
        terms['loss'] = terms['loss'] * (float('nan') if 104 in batch.image_ids else 1.0)
        return terms
    monkeypatch.setattr(train, 'caption_loss', broken)
    with pytest.raises(DataError, match='(?s)iteration .*learning rate.*images were .*104'):
        tiny.run(train, tiny.train_flags(corpus, tmp_path))


def test_a_run_is_not_overwritten_by_another_and_a_missing_one_is_named(corpus, tmp_path):
    tiny.run(train, tiny.train_flags(corpus, tmp_path / 'a', '--max_epochs', 1))
    with pytest.raises(UsageError, match='--resume'):
        tiny.run(train, tiny.train_flags(corpus, tmp_path / 'a'))
    with pytest.raises(DataError, match='no folder'):
        tiny.run(train, tiny.train_flags(corpus, tmp_path / 'a', '--start_from', tmp_path / 'nowhere'))
    with pytest.raises(UsageError, match='num_layers 3 contradicts .* num_layers 1'):
        tiny.run(train, tiny.train_flags(corpus, tmp_path / 'a', '--start_from', tmp_path / 'a',
                                         '--num_layers', 3))


def test_training_learns(corpus, tmp_path):
    tiny.run(train, tiny.train_flags(corpus, tmp_path, '--max_epochs', 60, '--learning_rate', 3e-3,
                                     '--learning_rate_decay_start', -1))
    losses = pickles.load(str(tmp_path / 'histories_tiny.pkl'))['loss_history']
    assert np.mean([losses[step] for step in range(170, 181)]) < 0.8 * losses[1]


def saved_run(folder, run_id, *left_out):
    """What a validated run leaves in `folder`, but for the files `left_out`; returns it.  The best model
    is told from the last by its weight."""
    infos = run_folder.pickle_bytes(
        {'opt': {'seq_length': 6, 'id': run_id}, 'vocab': {}, 'iter': 9, 'epoch': 1})
    files = {'model.pth': run_folder.tensor_bytes({'w': torch.zeros(1)}), 'optimizer.pth': b'',
             'model-best.pth': run_folder.tensor_bytes({'w': torch.ones(1)}), f'infos_{run_id}.pkl': infos,
             f'infos_{run_id}-best.pkl': infos, f'histories_{run_id}.pkl': infos}
    with filesets.only_writer(folder):
        filesets.save_set(folder, {name: content for name, content in files.items() if name not in left_out})
    return str(folder)


def test_whatever_the_names_a_run_goes_on_from_its_last_model_with_its_last_infos_and_moments(tmp_path):
    whole = saved_run(tmp_path / 'whole', 'a-best')
    bests = 'model-best.pth', 'infos_a-best-best.pkl'
    early = saved_run(tmp_path / 'early', 'a-best', *bests)
    # Converted runs have no histories.
    converted = saved_run(tmp_path / 'converted', 'a-best', 'histories_a-best.pkl')
    bare = saved_run(tmp_path / 'bare', 'a-best', 'histories_a-best.pkl', *bests)
    # As scripts/copy_model.sh leaves it: the infos file says the old name.
    copied = saved_run(tmp_path / 'copied', 'a', 'infos_a-best.pkl', 'model-best.pth')
    for kind in ('infos', 'histories'):
        os.rename(os.path.join(copied, f'{kind}_a.pkl'), os.path.join(copied, f'{kind}_a-best.pkl'))
    plain = saved_run(tmp_path / 'plain', 'a')
    for folder, run_id, infos in ((whole, 'a-best', 'infos_a-best.pkl'), (whole, 'other', 'infos_a-best.pkl'),
                                  (early, 'a-best', 'infos_a-best.pkl'), (early, 'a', 'infos_a-best.pkl'),
                                  (converted, 'a-best', 'infos_a-best.pkl'),
                                  (bare, 'a-best', 'infos_a-best.pkl'),
                                  (copied, 'a-best', 'infos_a-best.pkl'),
                                  (plain, 'a-best', 'infos_a.pkl')):
        run = run_folder.find_run(folder, run_id)
        assert run.infos_path == os.path.join(folder, infos) and not run.weights['w']
        assert run.optimiser_path == os.path.join(folder, 'optimizer.pth')
    best = saved_run(tmp_path / 'best', 'a', 'infos_a.pkl', 'model.pth')
    for run_id in ('a', 'a-best', 'other'):
        run = run_folder.find_run(best, run_id)
        assert run.weights['w'] and run.optimiser_path is None
    mixed = saved_run(tmp_path / 'mixed', 'a', 'infos_a.pkl', 'model-best.pth')
    with pytest.raises(DataError, match='infos_a-best.pkl belongs to a best model, and there is no .*-best.pth'):
        run_folder.find_run(mixed, 'a')
