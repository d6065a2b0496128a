"""Disks that are full, read-only, or lose a file: programs end with a message and keep what was complete."""

import errno
import os
import re
import shutil
import subprocess

import pytest

import eval as evaluation
import prepro_areas
import train
from misc.cli import run_command
from misc.disk import files, filesets
from misc.run import folder as run_folder
from misc.run.histories import read_logged
from misc.run.log import EventFile
from scripts import make_bu_data, pack_features, prepro_bbox_relative_coords, prepro_labels, prepro_ngrams
from tests.helpers import tiny
from tests.helpers.events import event_numbers
from tests.helpers.preparing import random_line, record, write_split

SIZE = 1 << 20


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    """The tiny corpus and the inputs of preparation scripts."""
    root = tiny.write_corpus(tmp_path_factory.mktemp('corpus') / 'root')
    write_split(root / 'split.json', [record(n, 'train', *['a red dog sits'] * 8) for n in range(1, 40)])
    (root / 'archive').mkdir()
    (root / 'archive' / 'all.tsv').write_bytes(b''.join(random_line(n) for n in range(1, 9)))
    tiny.run(prepro_labels, ['--input_json', root / 'split.json', '--output_json', root / 'words.json',
                             '--output_h5', root / 'words'])
    return root


@pytest.fixture
def disk(tmp_path):
    """A disk of a megabyte."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={SIZE}', 'tmpfs', folder], capture_output=True)
    if mounted.returncode:
        pytest.skip('mounting a small disk needs rights that are missing')
    yield folder
    subprocess.run(['umount', '-l', folder], check=True)


def fill(disk, room):
    """Fill the disk up to about `room` bytes."""
    path = disk / 'filler'
    try:
        with open(path, 'ab', buffering=0) as file:
            while file.write(bytes(4096)):
                pass
    except OSError:
        os.truncate(path, max(0, path.stat().st_size - room))


def call(module, flags, capsys):
    """Run a program as the command line does -> (exit status, stderr)."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        run_command(lambda: tiny.run(module, flags))
    return end.value.code, capsys.readouterr().err


def message_in(output):
    """The message at the end of the output, without progress lines."""
    lines = output.splitlines()
    first = max(place for place, line in enumerate(lines) if re.match(r'\S+\.py: ', line))
    assert len(lines) - first <= 3
    return '\n'.join(lines[first:])


def leftovers(folder):
    return [path for path in folder.rglob('*') if path.name.endswith('.part') or path.name == '.lock']


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.mark.parametrize('room', [0, 20_000, 60_000])
def test_a_training_stops_on_a_full_disk_and_resumes_from_its_last_checkpoint(
        corpus, disk, tmp_path, capsys, room):
    every = ['--save_checkpoint_every', 1, '--max_epochs', 3]
    tiny.run(train, tiny.train_flags(corpus, tmp_path / 'whole', *every))
    run = disk / 'run'
    tiny.run(train, tiny.train_flags(corpus, run, '--save_checkpoint_every', 1, '--max_epochs', 1))
    fill(disk, room)
    status, output = call(train, tiny.train_flags(corpus, run, *every, '--start_from', run), capsys)
    message = message_in(output)
    assert status == 1 and 'No space left on device' in message and str(run) in message
    assert not leftovers(run)
    assert run_folder.find_run(str(run), 'tiny').infos['iter'] >= 3
    os.unlink(disk / 'filler')
    tiny.run(train, tiny.train_flags(corpus, run, *every, '--start_from', run))
    one, other = (run_folder.read_tensors(str(folder / 'model.pth')) for folder in (tmp_path / 'whole', run))
    assert all((one[name] == other[name]).all() for name in one)


def failing_writes(monkeypatch, folder, number, after):
    """Writes below `folder` fail with the error `number` once `after` bytes were written."""
    left, plain = [after], open

    def limited(path, mode='r', **more):
        file = plain(path, mode, **more)
        if str(path).startswith(str(folder)) and 'w' in mode:
            write = file.write

            def checked(text):
                left[0] -= len(text)
                if left[0] < 0:
                    raise OSError(number, os.strerror(number))
                return write(text)
            file.write = checked
        return file
    monkeypatch.setattr(files, 'open', limited, raising=False)


@pytest.mark.parametrize('number, after', [(errno.ENOSPC, 10_000), (errno.EDQUOT, 60_000), (errno.EIO, 30_000)])
def test_a_failed_write_keeps_the_checkpoint_before_and_the_message_says_how_to_resume(
        corpus, tmp_path, monkeypatch, capsys, number, after):
    """The error comes from the call, so this needs no small disk."""
    run = tmp_path / 'run'
    tiny.run(train, tiny.train_flags(corpus, run, '--max_epochs', 1))
    before = {name: text for name, text in content(run).items()
              if not str(name).startswith(('events', 'run.json', 'steps.jsonl', 'log.jsonl', 'status.json'))}
    failing_writes(monkeypatch, run, number, after)
    status, output = call(train, tiny.train_flags(corpus, run, '--max_epochs', 2, '--start_from', run), capsys)
    message = message_in(output)
    assert status == 1 and os.strerror(number) in message
    assert 'the checkpoint before it is intact' in message and f'--resume {run}' in message
    after = content(run)
    assert not leftovers(run) and {name: after[name] for name in before} == before
    first = tmp_path / 'first'
    failing_writes(monkeypatch, first, number, after=10_000)
    status, output = call(train, tiny.train_flags(corpus, first, '--max_epochs', 1), capsys)
    assert status == 1 and 'nothing was saved before' in message_in(output)


def test_events_that_no_longer_fit_end_with_a_message_and_training_continues(corpus, tmp_path, monkeypatch, capsys):
    from tensorboardX.event_file_writer import EventsWriter

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(EventsWriter, 'write_event', lambda self, event: event.step >= 2 and full())
    tiny.run(train, tiny.train_flags(corpus, tmp_path))
    assert capsys.readouterr().err.count('no more TensorBoard events are written') == 1
    assert run_folder.find_run(str(tmp_path), 'tiny').infos['iter'] == 6


def test_every_saved_step_is_already_in_the_events_and_the_log(corpus, tmp_path, monkeypatch):
    logged = []
    plain = filesets.save_set
    monkeypatch.setattr(filesets, 'save_set', lambda folder, made: (
        logged.append((sorted(event_numbers(folder)['cross_entropy/loss']), sorted(read_logged(folder).losses))),
        plain(folder, made)))
    tiny.run(train, tiny.train_flags(corpus, tmp_path, '--save_checkpoint_every', 2))
    assert [events for events, _ in logged] == [steps for _, steps in logged] == [
        [1, 2], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]]


def test_two_starts_within_one_second_write_separate_event_files(tmp_path, monkeypatch):
    monkeypatch.setattr('time.time', lambda: 1.7e9)
    for tag in ('first', 'second'):
        log = EventFile(str(tmp_path), 12, {})
        log.validation(12, {tag: 0.5})
        log.close()
    numbers = event_numbers(tmp_path)
    assert numbers['validation/first'] == numbers['validation/second'] == {12: 0.5}


def outputs(corpus, folder):
    """{name: (program, flags)} of the preparation scripts that write into `folder`."""
    return {
        'areas': (prepro_areas, ['--input_dir', corpus / 'box', '--output_dir', folder / 'vec',
                                 '--num_grids', 2500, '--num_workers', 1]),
        'relative': (prepro_bbox_relative_coords, ['--input_box_dir', corpus / 'box', '--output_dir',
                                                   folder / 'rel', '--num_workers', 1]),
        'features': (make_bu_data, ['--downloaded_feats', corpus / 'archive', '--output_dir', folder / 'bu',
                                    '--num_workers', 1]),
        'labels': (prepro_labels, ['--input_json', corpus / 'split.json', '--output_json', folder / 'talk.json',
                                   '--output_h5', folder / 'talk']),
        'ngrams': (prepro_ngrams, ['--input_json', corpus / 'split.json', '--dict_json', corpus / 'words.json',
                                   '--output_pkl', folder / 'table', '--split', 'train']),
        'packed': (pack_features, ['--input_img_feat_dir', corpus / 'att', '--input_box_dir', corpus / 'box',
                                   '--output_file', folder / 'all.h5', '--num_workers', 1]),
    }


@pytest.mark.parametrize('name', [
    'areas', 'relative', 'features', 'labels', 'ngrams', 'packed'])
def test_a_preparation_stops_on_a_full_disk_and_continues_when_there_is_room(corpus, disk, tmp_path, capsys, name):
    program, flags = outputs(corpus, tmp_path / 'whole')[name]
    (tmp_path / 'whole').mkdir()
    assert call(program, flags, capsys)[0] == 0
    whole = content(tmp_path / 'whole')
    folder, failures = disk / 'here', 0
    for room in (0, 4096, 8192, 16384, 49152):
        folder.mkdir()
        fill(disk, room)
        program, flags = outputs(corpus, folder)[name]
        status, output = call(program, flags, capsys)
        if status:
            failures += 1
            message = message_in(output)
            assert status == 1 and 'make room' in message and str(folder) in message and not leftovers(folder)
            os.unlink(disk / 'filler')
            assert call(program, flags, capsys)[0] == 0
        (disk / 'filler').unlink(missing_ok=True)
        found = content(folder)
        assert found.keys() == whole.keys()
        assert all(found[path] == whole[path] for path in whole if path.suffix in ('.npy', '.json', '.p'))
        shutil.rmtree(folder)
    assert failures


def test_an_evaluation_stops_on_a_full_disk_and_keeps_the_results_before(
        corpus, disk, tmp_path, capsys, monkeypatch):
    tiny.run(train, tiny.train_flags(corpus, tmp_path / 'run', '--max_epochs', 1))
    monkeypatch.chdir(disk)
    flags = tiny.eval_flags(corpus, tmp_path / 'run', '--language_eval', 1)
    monkeypatch.setenv('PATH', '')
    assert call(evaluation, flags, capsys)[0] == 0
    before = dict(content(disk))
    fill(disk, 0)
    status, output = call(evaluation, [*flags, '--beam_size', 3], capsys)
    assert status == 1 and 'No space left on device' in message_in(output) and 'make room' in message_in(output)
    assert not leftovers(disk)
    os.unlink(disk / 'filler')
    assert content(disk) == before


@pytest.mark.parametrize('mounted', [True, False])
def test_a_read_only_run_folder_can_be_evaluated_but_not_trained_in(
        corpus, tmp_path, capsys, monkeypatch, request, mounted):
    run = (request.getfixturevalue('disk') if mounted else tmp_path) / 'run'
    tiny.run(train, tiny.train_flags(corpus, run, '--max_epochs', 1))
    before = content(run)
    if mounted:
        subprocess.run(['mount', '-o', 'remount,ro', run.parent], check=True)
    else:
        plain = os.open

        def refusing(path, flags, *more):
            if str(path).startswith(str(run)) and flags & (os.O_WRONLY | os.O_RDWR):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
            return plain(path, flags, *more)
        monkeypatch.setattr(os, 'open', refusing)
    on = ['--start_from', run, '--max_epochs', 2]
    status, output = call(train, tiny.train_flags(corpus, run, *on), capsys)
    message = message_in(output)
    assert status == 1 and f'{run} cannot be written to (Read-only file system); name another' in message
    (tmp_path / 'out').mkdir()
    monkeypatch.chdir(tmp_path / 'out')
    assert call(evaluation, tiny.eval_flags(corpus, run), capsys)[0] == 0
    assert call(train, tiny.train_flags(corpus, tmp_path / 'onwards', *on), capsys)[0] == 0
    assert content(run) == before


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('name', ['att/{}.npz', 'vec/{}.npy'])
def test_a_file_that_vanishes_during_training_is_named_and_the_last_checkpoint_remains(
        corpus, tmp_path, monkeypatch, capsys, workers, name):
    root = shutil.copytree(corpus, tmp_path / 'root')
    plain = train.train_step

    def step(run, phase):
        plain(run, phase)
        for image_id in range(100, 109):
            (root / name.format(image_id)).unlink(missing_ok=True)
    monkeypatch.setattr(train, 'train_step', step)
    run = tmp_path / 'run'
    flags = tiny.train_flags(root, run, '--save_checkpoint_every', 1, '--max_epochs', 20,
                             '--num_workers', workers)
    status, output = call(train, flags, capsys)
    message = message_in(output)
    assert status == 1 and re.search(name.format(r'10\d'), message) and 'made its folder again' in message
    assert run_folder.find_run(str(run), 'tiny').infos['iter'] >= 1 and not leftovers(run)


def test_a_run_folder_that_is_removed_during_training_is_created_again(corpus, tmp_path, monkeypatch):
    plain = train.validate
    monkeypatch.setattr(train, 'validate', lambda run: (shutil.rmtree(tmp_path / 'run'), plain(run)))
    tiny.run(train, tiny.train_flags(corpus, tmp_path / 'run', '--max_epochs', 1))
    assert run_folder.find_run(str(tmp_path / 'run'), 'tiny').infos['iter'] == 3


def test_a_run_can_be_resumed_into_a_folder_on_another_file_system(corpus, disk, tmp_path, monkeypatch):
    """No file is moved from a folder of temporary files into the run's."""
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
    runs = tmp_path / 'first', disk / 'run', tmp_path / 'back'
    resumed = []
    for epochs, run in enumerate(runs, 1):
        tiny.run(train, tiny.train_flags(corpus, run, '--max_epochs', epochs, *resumed))
        resumed = ['--start_from', run]
    tiny.run(train, tiny.train_flags(corpus, tmp_path / 'whole', '--max_epochs', 3))
    one, other = (run_folder.read_tensors(str(run / 'model.pth')) for run in (tmp_path / 'whole', runs[-1]))
    assert all((one[name] == other[name]).all() for name in one)
