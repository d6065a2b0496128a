"""Files that are replaced or changed while a program uses them are refused in one message, never read as others."""

import os
import pickle
import shutil

import numpy as np
import pytest

import eval as evaluation
import train
from dataloader import image_batches
from misc.cli import UserError
from misc.dataset.array_files import FolderReader, write_array
from misc.dataset.features import open_reader
from misc.dataset.packing import write_packed
from misc.disk.known import ChangedError, KnownFile
from misc.run import record
from scripts import make_bu_data
from tests.helpers import tiny
from tests.helpers.preparing import random_line

IMAGES = {'10': 2, '11': 3, '12': 1}


def packed(path, more=0, dtype='float32', chunked=False):
    """A packed file in which all numbers of an image are its id; `more` rows of another image come first."""
    arrays = {image: np.full((rows, 4), int(image), np.float32) for image, rows in IMAGES.items()}
    if more:
        arrays = {'3': np.full((more, 4), 3, np.float32), **arrays}
    write_packed(path, {'att': arrays}, dtype=dtype)
    if chunked:
        import h5py
        with h5py.File(path, 'r+') as file:
            rows = file['att/rows'][:]
            del file['att/rows']
            file.create_dataset('att/rows', data=rows, chunks=(1, 4), compression='gzip')
    return str(path)


@pytest.mark.parametrize('chunked', [False, True])
@pytest.mark.parametrize('was_read', [False, True])
def test_a_packed_file_that_was_replaced_is_refused_by_another_process(tmp_path, chunked, was_read):
    source = open_reader(packed(tmp_path / 'f.h5', chunked=chunked), 'att', 'flag')
    if was_read:
        assert (source.read(11) == 11).all()
    os.replace(packed(tmp_path / 'new.h5', more=1, chunked=chunked), tmp_path / 'f.h5')
    worker = pickle.loads(pickle.dumps(source))
    for image in IMAGES:
        with pytest.raises(ChangedError, match=r'f\.h5 was changed or replaced while it was in use.*run the command'):
            worker.read(image)
    if was_read:  # the open file is still the old one
        assert (source.read(12) == 12).all()


@pytest.mark.parametrize('chunked', [False, True])
def test_a_packed_file_that_is_changed_in_its_place_is_refused(tmp_path, chunked):
    source = open_reader(packed(tmp_path / 'f.h5', chunked=chunked), 'att', 'flag')
    source.read(11)
    new = packed(tmp_path / 'new.h5', more=1, chunked=chunked)
    with open(new, 'rb') as file, open(tmp_path / 'f.h5', 'r+b') as old:
        old.write(file.read())
    with pytest.raises(ChangedError):
        source.read(11)


def test_a_folder_that_another_one_replaced_is_refused_and_new_files_are_not(tmp_path):
    for name in ('one', 'two'):
        (tmp_path / name).mkdir()
        write_array(tmp_path / name, 1, 'box', np.ones((2, 4), np.float32))
    os.symlink('one', tmp_path / 'box')
    source = FolderReader(tmp_path / 'box', 'box')
    write_array(tmp_path / 'one', 2, 'box', np.ones((2, 4), np.float32))
    assert source.read(2).shape == (2, 4)
    os.unlink(tmp_path / 'box')
    os.symlink('two', tmp_path / 'box')
    with pytest.raises(ChangedError, match='/box was changed or replaced'):
        source.read(1)


@pytest.mark.parametrize('workers', [0, 2])
def test_training_on_a_packed_file_that_is_replaced_stops_with_one_message(corpus, tmp_path, monkeypatch, workers):
    root = shutil.copytree(corpus, tmp_path / 'root')
    source = open_reader(str(root / 'att'), 'att', '')
    for name in ('att.h5', 'new.h5'):
        write_packed(root / name, {'att': {image: source.read(image) for image in source.ids()}})
    plain = train.validate

    def replaced(run):
        os.replace(root / 'new.h5', root / 'att.h5')
        plain(run)
    monkeypatch.setattr(train, 'validate', replaced)
    open_again(monkeypatch)
    with pytest.raises(UserError, match='att.h5 was changed or replaced') as raised:
        tiny.run(train, tiny.train_flags(root, tmp_path / 'run', '--input_img_feat_dir', root / 'att.h5',
                                         '--num_workers', workers))
    assert len(str(raised.value).splitlines()) == 1


def open_again(monkeypatch):
    """Have the readers of `image_batches` open their files anew, as worker processes do."""
    def batches(corpus, *given, **named):
        for reader in corpus.regions.readers.values():
            reader.process = None
        return image_batches(corpus, *given, **named)
    monkeypatch.setattr(train, 'image_batches', batches)


def test_an_ngram_table_that_is_replaced_after_it_was_read_is_not_recorded_as_the_one_in_use(
        corpus, tmp_path, monkeypatch):
    table = shutil.copy(corpus / 'talk-idxs.p', tmp_path / 'talk-idxs.p')
    plain = record.run_record

    def replaced(*given):
        with open(table, 'ab') as file:
            file.write(b' ')
        return plain(*given)
    monkeypatch.setattr(record, 'run_record', replaced)
    with pytest.raises(ChangedError, match='talk-idxs.p was changed'):
        tiny.run(train, tiny.train_flags(corpus, tmp_path / 'run', '--self_critical_after', 0,
                                         '--cached_tokens', table))


def test_references_come_from_the_file_that_the_images_came_from(corpus, tmp_path, monkeypatch):
    root = shutil.copytree(corpus, tmp_path / 'root')
    tiny.run(train, tiny.train_flags(root, tmp_path / 'run', '--max_epochs', 1))
    plain = evaluation.references_of

    def replaced(*given):
        (root / 'talk.json').write_text((root / 'talk.json').read_text() + '\n')
        return plain(*given)
    monkeypatch.setattr(evaluation, 'references_of', replaced)
    with pytest.raises(ChangedError, match='talk.json was changed'):
        tiny.run(evaluation, tiny.eval_flags(root, tmp_path / 'run', '--language_eval', 1))


def test_an_archive_that_is_replaced_while_it_is_read_stops_the_conversion(tmp_path, monkeypatch, run_script):
    archive = tmp_path / 'archive' / 'a.tsv'
    archive.parent.mkdir()
    archive.write_bytes(b''.join(map(random_line, range(1, 4))))
    plain = make_bu_data.Converter._convert

    def replaced(self, batch):
        archive.write_bytes(b''.join(map(random_line, range(5, 9))))
        plain(self, batch)
    monkeypatch.setattr(make_bu_data.Converter, '_convert', replaced)
    status, said = run_script(make_bu_data, downloaded_feats=archive.parent, output_dir=tmp_path / 'bu',
                              num_workers=1)
    assert status == 1 and said.count('was changed or replaced') == 1
    assert not list((tmp_path / 'bu_att').iterdir())


def test_what_stays_the_same_is_read(tmp_path):
    (tmp_path / 'a').write_text('x')
    known = KnownFile(tmp_path / 'a')
    with known.opened() as file:
        known.check()
        known.check(file.fileno())
    os.unlink(tmp_path / 'a')
    with pytest.raises(ChangedError):
        known.opened()


def test_a_file_that_was_rewritten_in_place_with_as_many_bytes_is_another_one(tmp_path):
    path = tmp_path / 'numbers'
    path.write_bytes(b'1111')
    os.utime(path, ns=(1, 1))
    known = KnownFile(path)
    known.check()
    with path.open('r+b') as file:
        file.write(b'2222')
    with pytest.raises(ChangedError):
        known.check()
