"""scripts/copy_model.sh copies a run under a new name, and refuses what would lose something."""

import pathlib
import shutil
import subprocess

import pytest

from misc.disk import filesets, locks


@pytest.fixture
def copy(tmp_path):
    """Run the script in a project folder of its own."""
    (tmp_path / 'scripts').mkdir()
    shutil.copy(pathlib.Path(__file__).parents[2] / 'scripts' / 'copy_model.sh', tmp_path / 'scripts')
    run = tmp_path / 'checkpoints' / 'first'
    run.mkdir(parents=True)
    for name in ('model.pth', 'model-best.pth', 'infos_first.pkl', 'infos_first-best.pkl', 'optimizer.pth',
                 'histories_first.pkl', 'validations.jsonl'):
        (run / name).write_text(name)
    (run / 'status.json').write_text('{"state": "finished"}')
    (run / 'iteration_5').mkdir()  # as --keep_checkpoints keeps it

    def call(*arguments):
        return subprocess.run(['bash', 'scripts/copy_model.sh', *arguments], cwd=tmp_path,
                              capture_output=True, text=True)
    return call, tmp_path / 'checkpoints'


def test_the_copy_has_every_file_under_the_new_id(copy):
    call, runs = copy
    assert call('first', 'first_rl').returncode == 0
    found = {file.name: file.read_text() for file in (runs / 'first_rl').iterdir()}
    assert found == {name.replace('_first', '_first_rl'): name for name in (
        'model.pth', 'model-best.pth', 'infos_first.pkl', 'infos_first-best.pkl', 'optimizer.pth',
        'histories_first.pkl', 'validations.jsonl')}
    assert sorted(file.name for file in runs.iterdir()) == ['first', 'first_rl']


def test_it_refuses_a_target_that_is_there_and_a_source_that_is_not(copy):
    call, runs = copy
    (runs / 'taken').mkdir()
    for arguments, status, message in (
            (('first', 'taken'), 1, 'taken is there already'), (('none', 'new'), 1, 'no run checkpoints/none'),
            (('first',), 2, 'usage'), (('first', 'a/b'), 2, 'usage'), (('taken', 'new'), 1, 'no saved model')):
        done = call(*arguments)
        assert done.returncode == status and message in done.stderr
    (runs / 'first' / 'replacing.json').write_text('[]')
    done = call('first', 'new')
    assert done.returncode == 1 and 'interrupted' in done.stderr
    assert sorted(file.name for file in runs.iterdir()) == ['first', 'taken']
    assert list((runs / 'taken').iterdir()) == []


def test_a_run_that_is_being_trained_is_not_copied_and_one_that_was_killed_is(copy):
    call, runs = copy
    with locks.held_file(runs / 'first' / filesets.LOCK, 'held'):
        done = call('first', 'new')
        assert done.returncode == 1 and 'train.py is at work in checkpoints/first' in done.stderr
    (runs / 'first' / filesets.LOCK).touch()
    assert call('first', 'new').returncode == 0
    assert not (runs / 'new' / filesets.LOCK).exists() and (runs / 'new' / 'model.pth').exists()
