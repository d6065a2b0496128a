"""The list of faults fits the code, and tests/stress/mutations.py notices which of them the tests catch."""

import pytest

from tests.helpers import ROOT
from tests.stress import mutations
from tests.stress.faults import ALL
from tests.stress.faults.fault import Fault, faults_in
from tests.stress.mutations import CAUGHT, SURVIVED

PARTS_OF_THE_CODE = ('models/', 'models/decoding.py', 'misc/training/losses.py', 'misc/training/rewards.py',
                     'misc/training/cider.py', 'misc/dataset/', 'misc/run/', 'train.py')
CODE = '''def larger(one, other):
    return one if one > other else other
'''
TESTS = '''import time

from misc.numbers import larger


def test_the_larger_of_two():
    assert larger(1, 2) == 2 and larger(2, 1) == 2


def test_that_takes_long_where_it_fails():
    while larger(1, 2) != 2:
        time.sleep(0.1)
'''


def test_each_fault_has_a_place_in_the_code_and_there_are_enough():
    assert mutations.list_problems(ROOT, ALL) == []
    assert len(ALL) >= 200
    for part in PARTS_OF_THE_CODE:
        assert sum(fault.file.startswith(part) for fault in ALL) >= 10, part


@pytest.fixture
def project(tmp_path):
    """A project of one function and its tests."""
    root = tmp_path / 'project'
    for name, content in (('misc/__init__.py', ''), ('misc/numbers.py', CODE), ('tests/__init__.py', ''),
                          ('tests/test_numbers.py', TESTS), ('pyproject.toml', '')):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def faults(*changes, test='tests/test_numbers.py::test_the_larger_of_two'):
    return faults_in('misc/numbers.py', [test], *changes)


def test_faults_are_caught_or_survive_one_at_a_time_and_outcomes_are_kept(project, tmp_path, capsys):
    caught = faults(('one > other', 'one < other'), ('return one', 'return one +'))
    survivor = faults(('one > other', 'one >= other', 'of two equal numbers, either will do'))
    endless = faults(('else other', 'else one'), test='tests/test_numbers.py::test_that_takes_long_where_it_fails')
    listed = [*caught, *survivor, *endless]
    assert mutations.list_problems(project, listed) == []
    found = mutations.run(project, listed, tmp_path / 'results', processes=2, limit=4.0)
    assert [found[fault].outcome for fault in listed] == [CAUGHT, CAUGHT, SURVIVED, CAUGHT]
    assert [found[fault].by for fault in listed] == [
        'tests/test_numbers.py::test_the_larger_of_two', 'the imports', '', 'no end after 4 s']
    assert (project / 'misc' / 'numbers.py').read_text() == CODE
    assert mutations.print_summary(found, 1.0) == 1
    assert '4 faults in 1 files: 3 caught (75.0%), 1 survived' in (said := capsys.readouterr().out)
    assert "SURVIVED misc/numbers.py: 'one >= other' in place of 'one > other'\n         of two equal" in said

    # What is known is not tried again, but for survivors on request, and everything where the code has changed.
    (project / 'tests' / 'test_numbers.py').write_text('def test_the_larger_of_two():\n    assert False\n')
    assert mutations.run(project, listed, tmp_path / 'results') == found
    with pytest.raises(mutations.Mistake, match='without any fault, a test fails: .*the_larger_of_two'):
        mutations.run(project, listed, tmp_path / 'results', again=True)
    (project / 'misc' / '__init__.py').write_text('1\n')
    with pytest.raises(mutations.Mistake, match='without any fault'):
        mutations.run(project, listed, tmp_path / 'results')


def test_a_fault_without_a_place_or_a_test_is_named(project):
    problems = mutations.list_problems(project, [
        *faults(('absent', 'x'), ('one', 'x'), ('one > other', 'one > other'), *[('else other', '')] * 2),
        Fault('misc/numbers.py', 'one > other', 'True', ('tests/test_numbers.py::test_absent', 'tests/absent.py'))])
    assert [problem.split('; ')[0] for problem in problems] == [
        "misc/numbers.py: 'absent' occurs 0 times, not once", "misc/numbers.py: 'one' occurs 3 times, not once",
        "misc/numbers.py: 'one > other' in place of 'one > other' is no new fault",
        "misc/numbers.py: '' in place of 'else other' is no new fault",
        'misc/numbers.py: there is no test tests/test_numbers.py::test_absent',
        'misc/numbers.py: there is no test tests/absent.py']
