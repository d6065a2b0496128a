"""A few kills of `tests.stress.kill_resume`, which lose nothing, and whether it would notice losses."""

import collections
import json
import random

import pytest

from misc.disk import filesets
from misc.run import folder as run_folder
from tests.stress import kill_resume, run_checks
from tests.stress.run_checks import Lost


@pytest.fixture(scope='module')
def killed(tmp_path_factory):
    """A folder with the scenario of both phases, and the result of killing its runs."""
    folder = tmp_path_factory.mktemp('killed')
    return folder, *kill_resume.kill_forks(6, 1, folder, only='both phases')


def test_runs_killed_at_any_moment_end_bit_for_bit_like_an_undisturbed_one(killed):
    _, tally, ended = killed
    assert tally.total() == 6 and ended


def saved(killed, tmp_path, number):
    """A folder with the `number`-th save of the undisturbed run, and all of its saves."""
    saves = killed[0] / 'scenario_1' / 'saves'
    one = sorted(saves.iterdir(), key=lambda save: [int(part) for part in save.name.split('_')])[number]
    with filesets.only_writer(tmp_path / 'run'):
        filesets.save_set(tmp_path / 'run', {path.name: path.read_bytes() for path in one.iterdir()})
    return tmp_path / 'run', saves


def test_a_file_of_another_checkpoint_and_a_run_that_went_back_are_noticed(killed, tmp_path):
    run, saves = saved(killed, tmp_path, 3)
    iteration = run_checks.check_folder(run, saves, -1)
    with pytest.raises(Lost, match='went back'):
        run_checks.check_folder(run, saves, iteration + 1)
    other = saved(killed, tmp_path / 'other', 2)[0]
    seen = []
    for name in run_checks.names_in(run):
        if name.endswith('-best.pkl') or name == 'model-best.pth':
            continue  # may be those of the checkpoint before
        content = (run / name).read_bytes()
        (run / name).write_bytes((other / name).read_bytes())
        if (run / name).read_bytes() != content:
            with pytest.raises(Lost, match='is not what was saved|went back'):
                run_checks.check_folder(run, saves, iteration)
            seen.append(name)
        (run / name).write_bytes(content)
    assert {'model.pth', 'infos_tiny.pkl', 'optimizer.pth', 'histories_tiny.pkl'} <= set(seen)
    assert run_checks.check_folder(run, saves, iteration) == iteration


def test_a_lost_or_repeated_line_and_a_changed_number_are_noticed(killed, tmp_path):
    run, saves = saved(killed, tmp_path, -1)
    whole = killed[0] / 'scenario_1' / 'whole'
    path = run / 'validations.jsonl'
    lines = path.read_text().splitlines(keepends=True)
    for wrong in (lines[:-1], [*lines, lines[-1]], []):
        path.write_text(''.join(wrong))
        assert 'validations.jsonl' in run_checks.first_difference(*map(run_checks.content_of, (whole, run)))
    lines[0] = json.dumps({**json.loads(lines[0]), 'loss': 0.0, 'seconds': 99}) + '\n'
    path.write_text(''.join(lines))
    assert run_checks.first_difference(*map(run_checks.content_of, (whole, run))) == (
        f'/validations.jsonl/0/loss: {json.loads((whole / path.name).read_text().splitlines()[0])["loss"]}, 0.0')
    assert 'TensorBoard' in run_checks.end_difference(whole, saved(killed, tmp_path / 'silent', -1)[0])


def test_a_training_that_saves_without_a_journal_is_caught(killed, tmp_path, monkeypatch):
    """Writes the files one after the other, as a simple program would."""
    def plain_save(folder, files):
        for name, content in files.items():
            with open(f'{folder}/{name}', 'wb') as file:
                file.write(content)
    scenario = kill_resume.Scenario('short', killed[0] / 'corpus', [], tmp_path / 'scenario')
    monkeypatch.setattr(filesets, 'save_set', plain_save)
    monkeypatch.setattr(kill_resume, 'TARGETS', ('operation',))
    with pytest.raises((Lost, run_folder.DataError)):
        for number in range(20):
            scenario.kill(tmp_path / f'run_{number}', 10, random.Random(number), collections.Counter())
