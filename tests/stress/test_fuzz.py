"""A few hundred cases of tests/stress/fuzz.py, and whether it notices failures."""

import collections
import os
import random
import signal
import time

import numpy as np
import pytest

from misc.cli import DataError
from tests.stress import damage, fuzz, readers, samples

CASES = 8  # of each reader


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """A folder with the samples under `whole`."""
    folder = tmp_path_factory.mktemp('fuzz')
    samples.write_samples(folder / 'whole')
    return folder


def test_every_reader_reads_a_damaged_file_rightly_or_refuses_it_by_name(tmp_path):
    cases = [(name, number) for number in range(CASES) for name in readers.READERS]
    found = fuzz.run(tmp_path, cases, seed=1, processes=2)
    failed = {case: outcome for case, outcome in found.items() if outcome[0] == fuzz.FAILED}
    assert not failed
    counts = collections.Counter(outcome for outcome, _, _ in found.values())
    assert sum(counts.values()) == len(cases) >= 300
    assert counts[fuzz.RIGHT] > 50 and counts[fuzz.REFUSED] > 150


@pytest.mark.parametrize('name', readers.READERS)
def test_every_reader_and_its_plain_one_agree_on_the_whole_file(whole, monkeypatch, name):
    monkeypatch.chdir(whole / 'whole')
    reader = readers.READERS[name]
    path = readers.HERE / reader.path
    assert readers.same(reader.read(path), reader.plain(path))


def reader_that(read, plain=lambda path: 'right'):
    return readers.Reader('split.json', 'bytes', read, plain)


def write_one(root):
    root.mkdir()
    (root / 'split.json').write_text('{}')


def raising(error):
    def read(path):
        raise error
    return read


@pytest.mark.parametrize('read, problem', [
    (raising(KeyError('x')), 'KeyError'), (raising(DataError('it is broken')), 'without the file'),
    (lambda path: 'wrong', 'wrong value'), (lambda path: os._exit(3), 'ended (3)'),
    (lambda path: os.kill(os.getpid(), signal.SIGKILL), 'SIGKILL'), (lambda path: np.ones(fuzz.ROOM), 'Memory'),
    (lambda path: time.sleep(60), 'took more than')],
    ids=['another error', 'no name', 'wrong', 'exit', 'death', 'memory', 'hang'])
def test_a_failure_is_reported_and_does_not_affect_the_next_case(tmp_path, monkeypatch, read, problem):
    monkeypatch.setattr(fuzz, 'SECONDS', 1)
    monkeypatch.setattr(samples, 'write_samples', write_one)
    monkeypatch.setattr(readers, 'READERS', {'bad': reader_that(read), 'good': reader_that(lambda path: 'right')})
    found = fuzz.run(tmp_path, [('bad', 0), ('good', 0)], seed=0, processes=1)
    outcome, _, reported = found['bad', 0]
    assert outcome == fuzz.FAILED and problem in reported
    assert found['good', 0][0] == fuzz.RIGHT


def test_a_case_is_the_same_every_time_and_different_with_another_seed(whole):
    for name, reader in readers.READERS.items():
        content = (whole / 'whole' / reader.path).read_bytes()
        several = [[damage.damaged(random.Random(f'{seed} {name} {number}'), content, reader.form)[1]
                    for number in range(9)] for seed in (0, 0, 1)]
        assert several[0] == several[1]
    assert several[0] != several[2]


def test_the_summary_counts_outcomes_and_shows_how_to_repeat_a_failure(capsys):
    fuzz.print_summary({('labels', 3): (fuzz.FAILED, 'flipped', 'KeyError: x'),
                        ('labels', 4): (fuzz.RIGHT, '', ''), ('gif', 0): (fuzz.REFUSED, 'cut', '')}, 7, 1.0)
    printed = capsys.readouterr().out
    assert '--seed 7 --only "labels" --case 3' in printed and 'KeyError: x' in printed
    assert '3 cases of 2 readers: 1 right, 1 refused by name, 1 FAILED' in printed
