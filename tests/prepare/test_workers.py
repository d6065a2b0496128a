"""Work in several processes: results in order, errors, and processes that are killed."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from dataloader import init_worker
from misc.cli import DataError
from misc.disk.files import replacing
from misc.prepare.workers import Workers


def squared(number):
    time.sleep(0.002 * (number % 5))
    return number * number


def refusing(number):
    if number == 37:
        raise DataError('37 is refused')
    return number


def slow(number):
    time.sleep(0.05)
    return number


def gone(pid):
    """Whether a process has ended, or only waits to be collected."""
    try:
        with open(f'/proc/{pid}/stat', encoding='ascii') as file:
            return file.read().rpartition(')')[2].split()[0] == 'Z'
    except OSError:
        return True


@pytest.mark.parametrize('count', [1, 2, 3])
def test_results_come_in_the_order_of_the_items_map_after_map(count):
    with Workers(squared, count) as workers:
        for items in (range(100), range(7), [], range(33)):
            assert list(workers.map(list(items))) == [number * number for number in items]


@pytest.mark.parametrize('count', [1, 2])
def test_what_the_work_raises_is_raised_here_and_ends_the_processes(count):
    with pytest.raises(DataError, match='37 is refused'), Workers(refusing, count) as workers:
        list(workers.map(list(range(100))))
    assert not any(process.is_alive() for process in workers.processes)


def test_results_larger_than_a_pipe_holds_come_through():
    with Workers(bytes, 2) as workers:
        assert sum(map(len, workers.map([1 << 20] * 40))) == 40 << 20


@pytest.mark.parametrize('is_busy', [False, True])
def test_a_process_that_is_killed_is_noticed_at_once_whatever_it_was_doing(is_busy):
    started = time.monotonic()
    with pytest.raises(DataError, match='worker process was killed'), Workers(slow, 2) as workers:
        results = workers.map(list(range(200)))
        if is_busy:
            next(results)
        else:
            time.sleep(0.1)   # both wait for work
        for process in workers.processes[:1]:
            os.kill(process.pid, signal.SIGKILL)
        list(results)
    assert time.monotonic() - started < 5
    assert not any(process.is_alive() for process in workers.processes)


@pytest.mark.parametrize('is_busy', [False, True])
def test_processes_end_when_the_command_was_killed(is_busy):
    ours, theirs = multiprocessing.Pipe()

    def command():
        with Workers(slow, 2) as workers:
            results = workers.map(list(range(400)))
            if is_busy:
                next(results)
            theirs.send([process.pid for process in workers.processes])
            time.sleep(60)
    process = multiprocessing.get_context('fork').Process(target=command)
    process.start()
    pids = ours.recv()
    process.kill()
    process.join()
    end = time.monotonic() + 10
    while not all(map(gone, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    assert all(map(gone, pids))


def test_what_a_killed_writer_left_goes_with_the_next_write_and_what_a_living_one_writes_stays(tmp_path):
    dead = multiprocessing.get_context('fork').Process(target=int)
    dead.start()
    dead.join()
    left = tmp_path / f'a.json.{dead.pid}.part'
    kept = [tmp_path / name for name in (f'a.json.{os.getppid()}.part', f'b.json.{dead.pid}.part', 'a.json.x.part',
                                         f'a.json.{"9" * 40}.party')]
    for path in (left, *kept):
        path.touch()
    with replacing(tmp_path / 'a.json', 'w', durable=False) as file:
        file.write('{}')
    assert left.exists()
    with replacing(tmp_path / 'a.json', 'w') as file:
        file.write('{}')
    assert not left.exists() and all(path.exists() for path in kept)


def test_a_process_that_reads_ahead_leaves_where_its_parent_is_gone_before_it_begins():
    context = multiprocessing.get_context('fork')
    for parent, status in ((os.getpid(), 0), (os.getppid(), 1)):
        process = context.Process(target=init_worker, args=(parent, 0))
        process.start()
        process.join(60)
        assert process.exitcode == status


def test_a_command_that_fails_does_not_wait_for_those_that_read_for_it():
    code = ("import dataloader, sys; sys.kept = iter(dataloader.make_loader(list(range(9)), range(9), 2)); "
            "next(sys.kept); sys.exit(3)")
    assert subprocess.run([sys.executable, '-c', code], timeout=60, check=False).returncode == 3
