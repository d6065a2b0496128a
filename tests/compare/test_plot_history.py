"""Training curves: what is read from the folders of runs, and what plot_history.py draws of it."""

import json

import numpy as np
import pytest

import train
from misc.cli import DataError
from misc.compare.curves import PALETTE, PANELS, RATE, colours, panels_of, run_curves, running_mean
from misc.compare.plots import figure_of
from misc.disk import pickles
from misc.run import histories
from scripts import plot_history
from tests.helpers import tiny
from tests.helpers.histories import record, write_run


def test_the_self_critical_phase_begins_with_the_validation_before_the_first_reward(tmp_path):
    history, = histories.read_histories(write_run(tmp_path, 'a', after=200, records=[
        record(100), record(205), record(205, CIDEr=0.7)]))
    assert history.self_critical_after == 205
    assert history.scores[205]['CIDEr'] == 0.7 and history.scores[205]['Bleu_4'] == 0.3
    assert 'best' not in history.scores[205]
    panels = panels_of(history)
    assert list(panels) == list(PANELS)
    loss, rewarded = panels['cross-entropy loss'], panels['self-critical loss']['training']
    assert max(loss['training']) == 200 and min(rewarded) == 210 and set(rewarded.values()) == {-0.1}
    assert loss['validation'] == {100: 2.5, 205: 2.5}
    assert set(panels['reward of sampled captions']) == {'reward', 'baseline'}
    begun, = histories.read_histories(write_run(tmp_path / 'b', 'b', after=0))
    assert begun.self_critical_after == 5  # its first validation; no step was logged before


def test_a_run_that_went_on_from_another_is_drawn_from_there_on(tmp_path):
    folder = write_run(tmp_path / 'b_rl', 'b_rl', after=200, records=[record(100, CIDEr=0.1), record(190, CIDEr=0.2),
                                                                     record(205, CIDEr=0.7), record(300, CIDEr=0.8)])
    (folder / 'steps.jsonl').write_text(''.join(json.dumps(
        {'iteration': step, 'loss': 2.0, 'learning_rate': 0.5, **({'reward': 0.9} if step > 200 else {})}) + '\n'
        for step in range(10, 410, 10)))
    old, own = {'run': 'a' * 32, 'options': {'id': 'b'}}, {'run': 'b' * 32, 'options': {'id': 'b_rl'}}

    def start(iteration, of, **more):
        return {'iteration': iteration, **of, **more}
    for starts, began in (
            ([start(0, old), start(100, old), start(200, own), start(300, own)], 200),
            ([start(0, old), start(200, own, run=None), start(300, own)], 200),        # of an earlier version
            ([start(0, old), start(200, {'run': 'b' * 32, 'options': {'id': 'b'}})], 200),   # into another folder
            ([start(0, own), start(300, own)], 0), ([start(300, own)], 0),             # a run that was resumed
            ([3, start(200, own)], 200), ([start(0, old), start('x', own)], 0), ({}, 0)):
        (folder / 'run.json').write_text(json.dumps({'starts': starts}))
        for history in (*histories.read_histories(folder), histories.read_logged(folder)):
            panels = panels_of(history)
            losses = panels['self-critical loss']['training']
            assert history.began == began and min(losses) == 210 and history.self_critical_after == 205
            assert ('training' in panels['cross-entropy loss']) is (began == 0)
            assert min(panels[RATE]['rate']) == min(panels['reward of sampled captions']['reward']) - 200 + began
            # The last validation before joins the curve to that of the other run.
            assert sorted(panels['CIDEr']['score']) == ([190, 205, 300] if began else [100, 190, 205, 300])
    (folder / 'run.json').write_text('{"starts": ')
    assert histories.read_logged(folder).began == 0


def test_only_logged_values_have_a_panel(tmp_path):
    plain = panels_of(*histories.read_histories(write_run(tmp_path / 'a', 'a')))
    assert list(plain) == ['cross-entropy loss', 'learning rate']
    alone = tmp_path / 'only'
    alone.mkdir()
    (alone / 'validations.jsonl').write_text(json.dumps(record(5, CIDEr=float('nan'), METEOR=0.2)) + '\n')
    run, = histories.read_histories(alone)
    assert run.name == 'only'
    assert panels_of(run) == {'cross-entropy loss': {'validation': {5: 2.5}},
                                        'METEOR': {'score': {5: 0.2}}}


def test_the_figure_has_a_colour_for_each_run_and_marks_where_its_phase_begins(tmp_path):
    runs = [*histories.read_histories(write_run(tmp_path / 'one', 'a', after=200)),
            *histories.read_histories(write_run(tmp_path / 'two', 'a', after=300)),
            *histories.read_histories(write_run(tmp_path / 'three', 'c'))]
    figure = figure_of(run_curves(runs))
    axes = {one.get_title(): one for one in figure.axes if one.axison}
    assert list(axes) == list(PANELS)
    loss = axes['cross-entropy loss']
    assert loss.get_yscale() == 'log' and axes[RATE].get_yscale() == 'linear'
    assert [one.get_ylabel() for one in (loss, axes[RATE])] == ['logarithmic', '']
    marks = {line.get_color(): line.get_xdata()[0] for line in loss.lines if len(set(line.get_xdata())) == 1
             and len(line.get_xdata()) == 2}
    blue, orange, green = PALETTE[:3]
    assert marks == {blue: 205, orange: 305}
    assert green in {line.get_color() for line in loss.lines}
    assert {line.get_color() for line in axes['CIDEr'].lines} == {blue, orange}
    assert [text.get_text() for text in figure.legends[0].texts] == [
        f'a in {tmp_path / "one"}', f'a in {tmp_path / "two"}', 'c', 'self-critical training begins']
    assert len(set(colours(12))) == 12


def test_a_single_point_is_marked_and_a_line_is_not(tmp_path):
    for steps, marker in ((1, 'o'), (2, 'None')):
        figure = figure_of(run_curves(histories.read_histories(write_run(tmp_path / str(steps), 'a', steps))), 0)
        assert [line.get_marker() for line in figure.axes[0].lines] == [marker]


def test_the_running_mean_is_the_mean_of_the_neighbours():
    values = np.random.default_rng(0).normal(size=23)
    for reach in (0, 1, 4, 30):
        plain = [np.mean(values[max(0, i - reach):i + reach + 1]) for i in range(len(values))]
        np.testing.assert_allclose(running_mean(values, reach), plain, atol=1e-12)


def test_smooth_0_draws_logged_values_without_a_mean(tmp_path):
    runs = histories.read_histories(write_run(tmp_path, 'a'))
    logged = [8 / i ** 0.5 for i in range(10, 401, 10)]
    for smooth, number in ((0, 1), (3, 2), (None, 2)):
        lines = figure_of(run_curves(runs), smooth).axes[0].lines
        assert len(lines) == number and list(lines[0].get_ydata()) == logged
        assert lines[-1].get_linewidth() > 1


def test_runs_that_share_a_folder_are_drawn_by_id(tmp_path):
    write_run(tmp_path, 'a', steps=3)
    write_run(tmp_path, 'b', steps=5, records=[record(7, CIDEr=0.7)])
    a, b = histories.read_histories(tmp_path)
    assert (a.name, len(a.losses), b.name, len(b.losses)) == ('a', 3, 'b', 5)
    assert not a.scores and not b.scores  # the file does not say whose validations it holds
    chosen, = histories.read_histories(tmp_path, ['b'])
    assert chosen.name == 'b'
    with pytest.raises(DataError, match='no histories_c.pkl; it holds the runs a, b'):
        histories.read_histories(tmp_path, ['c'])


def cut(root):
    path = root / 'run' / 'histories_a.pkl'
    path.write_bytes(path.read_bytes()[:-9])


def half_a_line(root):
    with open(root / 'run' / 'validations.jsonl', 'a') as file:
        file.write('{"iteration": 20, "lo')


def an_iteration_too_far(root):
    with open(root / 'run' / 'validations.jsonl', 'a') as file:
        file.write(f'{{"iteration": 1{"0" * 400}, "loss": 1.0}}\n')


def endless(root):
    with open(root / 'run' / 'validations.jsonl', 'a') as file:
        file.write('{"iteration": Infinity, "loss": 1.0}\n')


def an_iteration_too_far_in_the_pickle(root):
    pickles.dump(root / 'run' / 'histories_a.pkl', {'loss_history': {10 ** 400: 1.0}})


def no_numbers(root):
    pickles.dump(root / 'run' / 'histories_a.pkl', {'loss_history': {10: [1]}})


def nothing_logged(root):
    pickles.dump(root / 'run' / 'histories_a.pkl', {'loss_history': {}})
    (root / 'run' / 'validations.jsonl').unlink()


def emptied(root):
    for path in (root / 'run').iterdir():
        path.unlink()


@pytest.mark.parametrize('damage, place, says', [
    (cut, 'run', r'run/histories_a.pkl is not a valid pickle file.*train.py'),
    (half_a_line, 'run', r'run/validations.jsonl: line 2 .*remove the line'),
    (an_iteration_too_far, 'run', r'run/validations.jsonl: line 2 .*an iteration is from 0 to .*remove'),
    (endless, 'run', r'run/validations.jsonl: line 2 .*infinity.*remove the line'),
    (an_iteration_too_far_in_the_pickle, 'run', r'histories_a.pkl does not hold the histories.*an iteration is'),
    (no_numbers, 'run', r'run/histories_a.pkl does not hold the histories of a run .*move it away'),
    (nothing_logged, 'run', r'run: nothing was logged there yet; wait'),
    (emptied, 'run', r'run holds no run: .* wait for its first checkpoint'),
    (lambda root: None, '', r'holds no run: .*give a folder in it: run$'),
    (lambda root: None, 'gone', r'there is no folder .*gone; give the --checkpoint_path')])
def test_missing_and_broken_files_are_named_with_the_remedy(tmp_path, damage, place, says):
    write_run(tmp_path / 'run', 'a', records=[record(10)])
    damage(tmp_path)
    with pytest.raises(DataError, match=says):
        tiny.run(plot_history, [tmp_path / place, '--output', tmp_path / 'made.png'])
    assert not (tmp_path / 'made.png').exists()


def test_a_run_of_train_py_is_drawn_without_changing_its_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('misc.scoring.java.is_installed', lambda: False)  # METEOR would take seconds
    root = tiny.write_corpus(tmp_path)
    tiny.run(train, tiny.train_flags(root, root / 'run', '--self_critical_after', 1, '--batch_size', 9,
                                     '--cached_tokens', root / 'talk-idxs', '--sc_samples', 2))
    before = {path: path.stat().st_mtime_ns for path in (root / 'run').iterdir()}
    for kind, first in (('png', b'\x89PNG'), ('svg', b'<?xml')):
        path = root / 'new' / f'curves.{kind}'
        tiny.run(plot_history, [root / 'run', '--output', path, '--id', 'tiny'])
        assert path.read_bytes().startswith(first)
    for title in ('cross-entropy loss', 'self-critical loss', 'CIDEr', 'ROUGE-L'):
        assert f'<!-- {title} -->' in path.read_text()
    assert {path: path.stat().st_mtime_ns for path in (root / 'run').iterdir()} == before
    assert f'tiny -> {path}' in capsys.readouterr().err
    history, = histories.read_histories(root / 'run')
    assert history.self_critical_after == 1
    panels = panels_of(history)
    assert set(panels['cross-entropy loss']['training']) == {1}
    assert set(panels['self-critical loss']['training']) == set(history.rewards) == {2}


def test_other_picture_formats_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit, match='2'):
        tiny.run(plot_history, [tmp_path, '--output', tmp_path / 'made.gif'])
    assert '.png or .svg' in capsys.readouterr().err
