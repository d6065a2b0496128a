"""A few kills of `tests.stress.kill_preparation`, and a short training that must not accumulate memory and files."""

import pytest

from tests.stress.kill_preparation import KillTest, prepare
from tests.stress.killing import Failure, Kill
from tests.stress.long_run import Usage, growth, long_run
from tests.stress.preparations import ALL


@pytest.fixture(scope='module')
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp('stress') / 'inputs'
    prepare(folder, [ALL[name] for name in ('prepro_labels', 'prepro_areas', 'convert_checkpoint')])
    return folder


@pytest.mark.parametrize('name', ['prepro_labels', 'prepro_areas', 'convert_checkpoint'])
def test_a_script_that_was_killed_and_started_again_makes_the_outputs_of_an_undisturbed_run(name, inputs, tmp_path):
    test = KillTest(ALL[name], inputs, tmp_path)
    test.kill_forks(4)
    assert test.kills.total() == 4 and test.ended


def test_a_killed_worker_process_ends_the_script_at_once_and_the_next_start_finishes(inputs, tmp_path):
    test = KillTest(ALL['prepro_areas'], inputs, tmp_path)
    folder = test.new_folder()
    kill = Kill('worker', 0)
    ended = test.run(folder, kill)
    assert ended.struck and ended.status == 1 and ended.seconds < 20
    assert test.must_run_again(folder, ended, kill)
    assert test.run(folder).status == 0
    test.compare(folder)


def test_a_difference_and_a_leftover_file_are_noticed(inputs, tmp_path):
    test = KillTest(ALL['prepro_labels'], inputs, tmp_path)
    test.compare(test.undisturbed_folder)
    (test.undisturbed_folder / 'talk.json.1.part').touch()
    with pytest.raises(Failure, match='has talk.json.1.part'):
        test.compare(test.undisturbed_folder)
    (test.undisturbed_folder / 'talk.json.1.part').unlink()
    (test.undisturbed_folder / 'talk.json').write_bytes(b'{}')
    with pytest.raises(Failure, match='differs in talk.json'):
        test.compare(test.undisturbed_folder)


def test_a_long_training_does_not_accumulate_files_threads_or_processes(tmp_path):
    found = long_run(tmp_path, 60, every=12, workers=1)
    assert len(found) == 60 and found[-1].processes >= 1   # the loader worker, and processes of other tests
    assert not [line for line in growth(found) if not line.startswith('memory')]


def test_growth_is_noticed():
    steady = [Usage(step, 1000, 9 + step % 3, 3, 2, 7) for step in range(100)]
    assert growth(steady) == []
    leaking = [Usage(step, 1000, 9 + step // 12, 3, 2, 7) for step in range(100)]
    assert growth(leaking) == ['handles: 14 from step 50, 16 from step 75']
    assert growth([Usage(step, 5000 * step, 9, 3, 2, 7) for step in range(10)]) == ['memory: 5000 bytes a step']
