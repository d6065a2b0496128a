"""A set of files is replaced as one: by one process at a time, killed at any point, read meanwhile."""

import functools
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from misc.cli import DataError, UsageError
from misc.disk import filesets, locks
from misc.run import folder as run_folder
from tests.helpers.forks import forked

NAMES = 'model.pth', 'infos_x.pkl', 'optimizer.pth'
OLD = dict.fromkeys(NAMES, b'old')
NEW = dict.fromkeys((*NAMES, 'model-best.pth'), b'new')


def save(folder, files):
    with filesets.only_writer(folder):
        filesets.save_set(folder, files)


def files_of(folder):
    """The files in the folder, {name: bytes}."""
    return {entry.name: (folder / entry.name).read_bytes() for entry in os.scandir(folder)}


def content_of(folder):
    """What a reader sees of the set, {name: bytes}."""
    found = {}
    for name in filesets.listing(folder):
        if not name.endswith('.part') and name not in (filesets.LOCK, filesets.JOURNAL):
            with filesets.opened(os.path.join(folder, name)) as file:
                found[name] = file.read()
    return found


def end_at(event, names, number):
    """Kill this process before the `number`-th `event` (see `sys.audit`) on one of `names`."""
    seen = []

    def watch(happened, arguments):
        if happened == event and any(name in str(arguments[0]) for name in names):
            seen.append(arguments)
            if len(seen) == number:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(watch)


@pytest.mark.parametrize('event', ['open', 'os.rename', 'os.remove'])
def test_after_a_kill_anywhere_in_a_save_the_folder_holds_the_old_set_or_the_new(tmp_path, event):
    outcomes = []

    def killed(folder, number):
        end_at(event, [str(folder)], number)
        save(folder, NEW)
    for number in range(1, 30):
        folder = tmp_path / str(number)
        save(folder, OLD)
        status = forked(functools.partial(killed, folder, number))
        assert status in (0, -signal.SIGKILL)
        before, found = files_of(folder), content_of(folder)
        assert found in (OLD, NEW) and files_of(folder) == before  # a reader changes nothing
        outcomes.append(found == NEW)
        with filesets.only_writer(folder):
            assert content_of(folder) == found
            filesets.save_set(folder, NEW)
        assert files_of(folder) == NEW
        if status == 0:
            break
    assert status == 0 and outcomes[-1] and sorted(outcomes) == outcomes
    if event == 'os.rename':  # 4 new files and the journal, which makes them count; then 4 moves
        assert outcomes == [False] * 5 + [True] * 5


def test_a_killed_process_holds_no_lock_even_if_its_children_live_on(tmp_path):
    def killed():
        with filesets.only_writer(tmp_path):
            child = os.fork()
            if not child:
                time.sleep(5)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)
    assert forked(killed) == -signal.SIGKILL and (tmp_path / filesets.LOCK).exists()
    started = time.monotonic()
    save(tmp_path, NEW)
    assert time.monotonic() - started < 2 and files_of(tmp_path) == NEW


def test_the_workers_of_a_killed_command_hold_its_output_folder_until_they_end(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, 'PATIENCE', 0.1)

    def killed():
        with locks.held_folder(tmp_path, 'held'):
            child = os.fork()
            if not child:
                time.sleep(1)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)
    assert forked(killed) == -signal.SIGKILL
    with pytest.raises(UsageError, match='by its workers'), locks.held_folder(tmp_path, 'by its workers'):
        pass
    monkeypatch.setattr(locks, 'PATIENCE', 5)
    with locks.held_folder(tmp_path, 'held'):
        pass


def test_two_processes_do_not_write_into_one_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, 'PATIENCE', 0.1)
    with filesets.only_writer(tmp_path / 'run'), \
            pytest.raises(UsageError, match='another process is training in .*run; wait for it'):
        save(tmp_path / 'run', NEW)
    save(tmp_path / 'run', NEW)


def test_one_process_at_a_time_holds_a_lock_file(tmp_path):
    """Each takes the lock, and so removes its file, many times; two at once would lose an increment."""
    (tmp_path / 'number').write_text('0')
    program = (f'import os\nfrom misc.disk import locks\nlocks.PATIENCE = 60\nfor _ in range(20):\n'
               f'    with locks.held_file({str(tmp_path / "lock")!r}, "held"):\n'
               f'        number = int(open({str(tmp_path / "number")!r}).read())\n'
               f'        open({str(tmp_path / "number")!r}, "w").write(str(number + 1))\n')
    processes = [subprocess.Popen([sys.executable, '-c', program]) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert (tmp_path / 'number').read_text() == '80' and not (tmp_path / 'lock').exists()


def test_a_new_folder_that_stays_empty_is_removed_and_an_old_one_is_kept(tmp_path):
    (tmp_path / 'empty').mkdir()
    for name in ('empty', 'new'):
        with pytest.raises(KeyError), filesets.only_writer(tmp_path / name):
            raise KeyError
    assert os.listdir(tmp_path) == ['empty'] and not os.listdir(tmp_path / 'empty')


def numbered(number):
    """A set each of whose files holds the number of the set."""
    infos = {'opt': {'seq_length': 6, 'id': 'x'}, 'vocab': {}, 'iter': number, 'epoch': 1}
    tensors = run_folder.tensor_bytes({'w': torch.full((1000,), float(number))})
    return {'infos_x.pkl': run_folder.pickle_bytes(infos), 'model.pth': tensors, 'optimizer.pth': tensors}


def test_a_reader_beside_a_writer_sees_one_set_and_changes_nothing(tmp_path):
    save(tmp_path, numbered(0))
    child = os.fork()
    if not child:
        try:
            with filesets.only_writer(tmp_path):
                for number in range(1, 150):
                    filesets.save_set(tmp_path, numbered(number))
                    time.sleep(0.002)
            os._exit(0)
        except BaseException:
            os._exit(1)
    seen, status = set(), None
    while status is None:
        run = run_folder.find_run(str(tmp_path), 'x')
        assert (run.weights['w'] == run.infos['iter']).all()
        seen.add(run.infos['iter'])
        try:
            assert (run_folder.optimiser_state(run)['w'] == run.infos['iter']).all()
        except DataError as error:  # moments are read later, when the model is there
            assert 'still being trained' in str(error)
        ended = os.waitpid(child, os.WNOHANG)
        status = os.waitstatus_to_exitcode(ended[1]) if ended[0] else None
    assert status == 0 and len(seen) > 3
    assert run_folder.find_run(str(tmp_path), 'x').infos['iter'] == 149


def test_a_reader_sees_the_new_set_of_an_interrupted_save(tmp_path):
    """Including files that only the new set has, and in a folder that is never written to again."""
    save(tmp_path, numbered(1))
    new = {**numbered(2), 'model-best.pth': numbered(2)['model.pth']}
    for name, content in new.items():
        (tmp_path / (name + filesets.NEW)).write_bytes(content)
    assert run_folder.find_run(str(tmp_path), 'x').infos['iter'] == 1  # without the journal it does not count
    (tmp_path / filesets.JOURNAL).write_text(json.dumps(list(new)))
    before = files_of(tmp_path)
    run = run_folder.find_run(str(tmp_path), 'x')
    assert run.infos['iter'] == 2 and (run.weights['w'] == 2).all()
    assert (run_folder.optimiser_state(run)['w'] == 2).all()
    assert run_folder.read_tensors(str(tmp_path / 'model-best.pth'))['w'][0] == 2
    assert files_of(tmp_path) == before


def test_a_set_that_was_replaced_while_it_could_not_be_read_is_read_again(tmp_path):
    save(tmp_path, OLD)
    paths, failures = [str(tmp_path / name) for name in NAMES], []

    def read():
        if not failures:
            failures.append(1)
            save(tmp_path, dict.fromkeys(NAMES, b'new'))
            raise DataError('half of it was gone')
        return (tmp_path / NAMES[0]).read_bytes()

    assert filesets.read_as_one(paths, read) == b'new'


def test_a_writer_refuses_links_and_finishes_a_save_before_it_does_anything(tmp_path):
    save(tmp_path, OLD)
    (tmp_path / (NAMES[0] + filesets.NEW)).write_bytes(b'new')
    (tmp_path / filesets.JOURNAL).write_text(json.dumps([NAMES[0]]))
    with filesets.only_writer(tmp_path):
        assert (tmp_path / NAMES[0]).read_bytes() == b'new'
    (tmp_path / 'elsewhere').write_bytes(b'other')
    (tmp_path / NAMES[1]).unlink()
    (tmp_path / NAMES[1]).symlink_to(tmp_path / 'elsewhere')
    with pytest.raises(DataError, match='link'), filesets.only_writer(tmp_path):
        pass
