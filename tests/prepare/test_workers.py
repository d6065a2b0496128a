"""Worker processes: the order of results, errors, and processes that are killed."""

import multiprocessing
import os
import signal
import time

import pytest

from misc.cli import DataError
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


def has_ended(pid):
    """Whether a process has ended, collected by its parent or not."""
    try:
        with open(f'/proc/{pid}/stat', encoding='ascii') as file:
            return file.read().rpartition(')')[2].split()[0] == 'Z'
    except OSError:
        return True


@pytest.mark.parametrize('count', [1, 2, 3])
def test_results_are_in_the_order_of_the_items_in_every_map(count):
    with Workers(squared, count) as workers:
        for items in (range(100), range(7), [], range(33)):
            assert list(workers.map(list(items))) == [number * number for number in items]


@pytest.mark.parametrize('count', [1, 2])
def test_an_error_of_the_work_is_raised_here_and_ends_the_processes(count):
    with pytest.raises(DataError, match='37 is refused'), Workers(refusing, count) as workers:
        list(workers.map(list(range(100))))
    assert not any(process.is_alive() for process in workers.processes)


def test_results_larger_than_a_pipe_are_received_whole():
    with Workers(bytes, 2) as workers:
        assert sum(map(len, workers.map([1 << 20] * 40))) == 40 << 20


@pytest.mark.parametrize('is_busy', [False, True])
def test_a_killed_process_is_noticed_at_once_whatever_it_was_doing(is_busy):
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
def test_processes_end_when_the_command_is_killed(is_busy):
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
    while not all(map(has_ended, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    assert all(map(has_ended, pids))
