"""Writing whole files: what killed writers leave behind."""

import multiprocessing
import os

import pytest

from misc.cli import DataError, UsageError, run_command
from misc.disk import filesets
from misc.disk.files import remove_leftovers, replacing
from misc.disk.locks import held_file
from misc.prepare.made import claimed


def test_the_next_write_removes_leftovers_of_killed_writers_and_keeps_those_of_living_ones(tmp_path):
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


def test_only_temporary_files_of_the_program_itself_are_removed(tmp_path):
    own = ['model.pth.new.part', 'model.pth.new.part.12.part', 'run.json.7.part']
    others = ['dataset_coco.zip.part', 'notes.part', 'film.mkv.12.part', 'model.pth.part.part', 'run.json.old.part',
              'model.pth', 'model.pth.new']
    for name in own + others:
        (tmp_path / name).write_text('precious')
    (tmp_path / 'infos_a.pkl.3.part').mkdir()
    (tmp_path / 'steps.jsonl.4.part').symlink_to(tmp_path / 'notes.part')
    remove_leftovers(tmp_path, filesets.NAMES)
    assert sorted(os.listdir(tmp_path)) == sorted([*others, 'infos_a.pkl.3.part', 'steps.jsonl.4.part'])


def test_a_folder_is_left_as_it_is_until_something_is_saved_into_it(tmp_path):
    for name in ('model.pth.new.part', 'download.part'):
        (tmp_path / name).write_text('x')
    (tmp_path / 'x.part').mkdir()
    with filesets.only_writer(tmp_path):
        assert (tmp_path / 'model.pth.new.part').exists()
    with filesets.only_writer(tmp_path):
        filesets.save_set(tmp_path, {'model.pth': b'new'})
    assert sorted(os.listdir(tmp_path)) == ['download.part', 'model.pth', 'x.part']


def test_refused_preparations_remove_nothing(tmp_path):
    with claimed(str(tmp_path / 'out'), 'a.py', {'size': 1}, {}, [str(tmp_path / 'out')]):
        (tmp_path / 'out' / '7.npy').write_text('x')
    for name in ('8.npy.3.part', 'archive.part'):
        (tmp_path / 'out' / name).write_text('x')
    with pytest.raises(UsageError), claimed(str(tmp_path / 'out'), 'a.py', {'size': 2}, {}, [str(tmp_path / 'out')]):
        pass
    assert (tmp_path / 'out' / '8.npy.3.part').exists()
    with claimed(str(tmp_path / 'out'), 'a.py', {'size': 1}, {}, [str(tmp_path / 'out')]):
        assert sorted(os.listdir(tmp_path / 'out')) == ['7.npy', 'archive.part']


def test_a_lock_removes_no_file_that_holds_something(tmp_path):
    (tmp_path / '.lock').write_text('precious')
    with held_file(tmp_path / '.lock', 'held'):
        pass
    assert (tmp_path / '.lock').read_text() == 'precious'


@pytest.mark.parametrize('name', ['model.pth', 'infos_a.pkl', 'steps.jsonl', 'model-best.pth'])
def test_a_symbolic_link_in_place_of_a_checkpoint_is_refused_and_stays(tmp_path, name):
    (tmp_path / 'real').write_bytes(b'real')
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / name).symlink_to(tmp_path / 'real')
    with pytest.raises(DataError, match=f'{name} is a symbolic link'), filesets.only_writer(tmp_path / 'run'):
        pass
    assert (tmp_path / 'run' / name).is_symlink() and (tmp_path / 'real').read_bytes() == b'real'
    (tmp_path / 'link').symlink_to(tmp_path / 'other')
    (tmp_path / 'other').mkdir()
    with filesets.only_writer(tmp_path / 'link'):  # a link to a whole folder is fine
        filesets.save_set(tmp_path / 'link', {'model.pth': b'new'})
    assert (tmp_path / 'other' / 'model.pth').read_bytes() == b'new'


def test_a_name_that_is_not_utf_8_ends_in_a_message(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: (tmp_path / 'a').write_text('caf\udce9.jpg', encoding='utf-8') and None)
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert 'is not UTF-8' in said and 'caf\ufffd.jpg' in said and 'Traceback' not in said
