"""A little of the stress runs: some preparation scripts killed a few times, and a short training that must not
hold more and more."""

import pytest

from tests.stress.kill_preparation import Torment, prepare
from tests.stress.killing import Failure, Kill
from tests.stress.long_run import Held, growth, long_run
from tests.stress.preparations import ALL


@pytest.fixture(scope='module')
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp('stress') / 'inputs'
    prepare(folder, [ALL[name] for name in ('prepro_labels', 'prepro_areas', 'convert_checkpoint')])
    return folder


@pytest.mark.parametrize('name', ['prepro_labels', 'prepro_areas', 'convert_checkpoint'])
def test_a_script_that_is_killed_and_started_again_ends_as_if_it_had_not_been(name, inputs, tmp_path):
    torment = Torment(ALL[name], inputs, tmp_path)
    torment.forks(4)
    assert torment.kills.total() == 4 and torment.ended


def test_a_killed_worker_process_ends_the_command_at_once_and_the_next_one_finishes(inputs, tmp_path):
    torment = Torment(ALL['prepro_areas'], inputs, tmp_path)
    folder = torment.start()
    kill = Kill('worker', 0)
    ended = torment.run(folder, kill)
    assert ended.struck and ended.status == 1 and ended.seconds < 20
    assert torment.goes_on(folder, ended, kill)
    assert torment.run(folder, None).status == 0
    torment.compare(folder)


def test_a_difference_or_a_leftover_would_be_seen(inputs, tmp_path):
    torment = Torment(ALL['prepro_labels'], inputs, tmp_path)
    torment.compare(torment.alone)
    (torment.alone / 'talk.json.1.part').touch()
    with pytest.raises(Failure, match='has talk.json.1.part'):
        torment.compare(torment.alone)
    (torment.alone / 'talk.json.1.part').unlink()
    (torment.alone / 'talk.json').write_bytes(b'{}')
    with pytest.raises(Failure, match='differs in talk.json'):
        torment.compare(torment.alone)


def test_a_training_holds_no_more_files_threads_and_processes_the_longer_it_runs(tmp_path):
    found = long_run(tmp_path, 60, every=12, workers=1)
    assert len(found) == 60 and found[-1].processes >= 1   # the reader, and what other tests keep
    assert not [line for line in growth(found) if not line.startswith('memory')]


def test_growth_would_be_seen():
    steady = [Held(step, 1000, 9 + step % 3, 3, 2, 7) for step in range(100)]
    assert growth(steady) == []
    leaking = [Held(step, 1000, 9 + step // 12, 3, 2, 7) for step in range(100)]
    assert growth(leaking) == ['handles: 14 from step 50 on, 16 from step 75 on']
    assert growth([Held(step, 5000 * step, 9, 3, 2, 7) for step in range(10)]) == ['memory: 5000 bytes a step']
