"""A few of the kills of `tests.stress.kill_resume`, which lose nothing, and what it would see if they did."""

import collections
import json
import random

import pytest

from misc.disk import filesets
from misc.run import folder as run_folder
from tests.stress import kill_resume, same_run
from tests.stress.same_run import Lost


@pytest.fixture(scope='module')
def killed(tmp_path_factory):
    """A folder with the course of both phases, and what killing its runs came to."""
    folder = tmp_path_factory.mktemp('killed')
    return folder, *kill_resume.kill_forks(6, 1, folder, only='both phases')


def test_runs_killed_at_any_moment_end_with_the_bits_of_one_that_nobody_touched(killed):
    _, tally, ended = killed
    assert tally.total() == 6 and ended


def saved(killed, tmp_path, number):
    """A folder with the `number`-th save of the undisturbed run, and all of its saves."""
    saves = killed[0] / 'course_1' / 'saves'
    one = sorted(saves.iterdir(), key=lambda save: [int(part) for part in save.name.split('_')])[number]
    with filesets.only_writer(tmp_path / 'run'):
        filesets.save_set(tmp_path / 'run', {path.name: path.read_bytes() for path in one.iterdir()})
    return tmp_path / 'run', saves


def test_a_file_of_another_save_or_a_run_that_went_back_would_be_seen(killed, tmp_path):
    run, saves = saved(killed, tmp_path, 3)
    iteration = same_run.look(run, saves, -1)
    with pytest.raises(Lost, match='went back'):
        same_run.look(run, saves, iteration + 1)
    other = saved(killed, tmp_path / 'other', 2)[0]
    seen = []
    for name in same_run.set_in(run):
        if name.endswith('-best.pkl') or name == 'model-best.pth':
            continue  # of the save before, maybe
        content = (run / name).read_bytes()
        (run / name).write_bytes((other / name).read_bytes())
        if (run / name).read_bytes() != content:
            with pytest.raises(Lost, match='is not what was saved|went back'):
                same_run.look(run, saves, iteration)
            seen.append(name)
        (run / name).write_bytes(content)
    assert {'model.pth', 'infos_tiny.pkl', 'optimizer.pth', 'histories_tiny.pkl'} <= set(seen)
    assert same_run.look(run, saves, iteration) == iteration


def test_a_lost_or_doubled_line_and_a_changed_number_would_be_seen(killed, tmp_path):
    run, saves = saved(killed, tmp_path, -1)
    whole = killed[0] / 'course_1' / 'whole'
    path = run / 'validations.jsonl'
    lines = path.read_text().splitlines(keepends=True)
    for wrong in (lines[:-1], [*lines, lines[-1]], []):
        path.write_text(''.join(wrong))
        assert 'validations.jsonl' in same_run.differences(*map(same_run.content_of, (whole, run)))
    lines[0] = json.dumps({**json.loads(lines[0]), 'loss': 0.0, 'seconds': 99}) + '\n'
    path.write_text(''.join(lines))
    assert same_run.differences(*map(same_run.content_of, (whole, run))) == (
        f'/validations.jsonl/0/loss: {json.loads((whole / path.name).read_text().splitlines()[0])["loss"]}, 0.0')
    assert 'TensorBoard' in same_run.end_difference(whole, saved(killed, tmp_path / 'silent', -1)[0])


def test_a_training_that_saves_without_a_journal_would_be_caught(killed, tmp_path, monkeypatch):
    """The files one after the other, as a plain program would write them."""
    def plain_save(folder, files):
        for name, content in files.items():
            with open(f'{folder}/{name}', 'wb') as file:
                file.write(content)
    course = kill_resume.Course('short', killed[0] / 'corpus', [], tmp_path / 'course')
    monkeypatch.setattr(filesets, 'save_set', plain_save)
    monkeypatch.setattr(kill_resume, 'AIMS', ('operation',))
    with pytest.raises((Lost, run_folder.DataError)):
        for number in range(5):
            course.suffer(tmp_path / f'run_{number}', 10, random.Random(number), collections.Counter())
