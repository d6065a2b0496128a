"""The run record: what it holds, and the messages when a run is resumed with other data, options or versions."""

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import types

import h5py
import numpy as np
import pytest
import torch

import train
from misc.cli import DataError
from misc.dataset.features import open_reader
from misc.dataset.packing import write_packed
from misc.disk import pickles
from misc.run import folder as run_folder
from misc.run import record as run_record
from misc.scoring import java
from tests.helpers import several, tiny
from tests.helpers.damage import array, expect, talk
from tests.helpers.runs import infos_of, same_weights, weights_of

RESUMED = ('--start_from', 'ROOT/run', '--max_epochs', 2)
BOXES = ('--input_grid_vec_dir', '', '--input_box_dir', 'ROOT/box')


@pytest.fixture(scope='module', autouse=True)
def without_java():
    """Scores without METEOR: quick."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(java, 'is_installed', lambda: False)
        yield


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """A folder with a corpus and runs of one epoch on it: plain, with boxes, and self-critical."""
    root = tiny.write_corpus(tmp_path_factory.mktemp('whole') / 'root')
    start(root, 'run', '--max_epochs', 1)
    start(root, 'boxes', '--max_epochs', 1, *BOXES)
    start(root, 'rewarded', '--max_epochs', 1, *rewards())
    return root


@pytest.fixture
def root(whole, tmp_path):
    """A copy of `whole` that a test may change."""
    return shutil.copytree(whole, tmp_path / 'root')


def rewards():
    return ('--self_critical_after', 0, '--cached_tokens', 'ROOT/talk-idxs.p', '--seq_per_img', 2)


def start(root, folder, *flags):
    """Train into `root`/`folder`; ROOT in flags stands for `root`."""
    flags = [str(flag).replace('ROOT', str(root)) for flag in flags]
    return tiny.run(train, tiny.train_flags(root, root / folder, *flags))


def record(root, folder='run'):
    return json.loads((root / folder / 'run.json').read_text())


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if 'tfevents' not in path.name}


def test_a_run_records_its_options_versions_code_machine_and_data(root, monkeypatch):
    monkeypatch.setattr(run_record, 'code_state', lambda: {'commit': 'c0ffee', 'changed': True})
    start(root, 'new', '--max_epochs', 1, '--learning_rate', 2e-3)
    (only,), data = record(root, 'new')['starts'], record(root, 'new')['data']
    assert only['iteration'] == 0 and only['options']['learning_rate'] == 2e-3
    assert only['options']['input_json'] == str(root / 'talk.json')
    assert only['versions'] == {'python': platform.python_version(), 'numpy': np.__version__,
                                'h5py': h5py.__version__, 'torch': importlib.metadata.version('torch')}
    assert only['code'] == {'commit': 'c0ffee', 'changed': True}
    assert only['machine'] == {'device': 'cpu', 'threads': torch.get_num_threads(), 'processes': 1}
    assert set(data) == {'input_json', 'input_label_h5', 'input_img_feat_dir', 'input_grid_vec_dir'}
    assert set(data['input_img_feat_dir']) == {str(image) for image in range(100, 112)}  # training, validation
    account = infos_of(root / 'new')['account']
    assert account['data'] == data and {name: only[name] for name in ('versions', 'code', 'machine')} == {
        name: part for name, part in account.items() if name != 'data'}


def test_every_start_is_recorded_and_a_change_of_code_or_library_is_reported(root, monkeypatch, capsys):
    monkeypatch.setattr(run_record, 'code_state', lambda: {'commit': 'c0ffee', 'changed': False})
    monkeypatch.setattr(run_record, 'versions', lambda: {'python': '3.11', 'torch': '99.0'})
    start(root, 'run', *RESUMED)
    notes = [line for line in capsys.readouterr().err.splitlines() if 'may differ' in line]
    before = importlib.metadata.version('torch')
    assert len(notes) == 1 and f'torch 99.0 (was {before})' in notes[0] and 'numpy' not in notes[0]
    start(root, 'other', *RESUMED, '--max_epochs', 3)
    assert [one['iteration'] for one in record(root)['starts']] == [0, 3]
    there = record(root, 'other')['starts']
    assert [one['iteration'] for one in there] == [0, 3, 6] and there[1]['versions']['torch'] == '99.0'
    assert there[:2] == record(root)['starts']
    runs = [one['run'] for one in there]
    assert runs[0] == runs[1] == infos_of(root / 'run')['run'] != runs[2] == infos_of(root / 'other')['run']
    assert [run_record.began_at(str(root / folder)) for folder in ('run', 'other')] == [0, 6]


def test_the_same_data_in_other_files_are_not_reported(root, capsys):
    source = open_reader(str(root / 'att'), 'att', '')
    write_packed(root / 'att.h5', {'att': {image: source.read(image) for image in source.ids()}})
    os.rename(root / 'vec', root / 'places')
    for path in root.rglob('*'):
        os.utime(path, (1, 1))
    (root / 'talk.json').write_text(json.dumps(json.loads((root / 'talk.json').read_text()), indent=4))
    capsys.readouterr()
    start(root, 'run', *RESUMED, '--input_img_feat_dir', 'ROOT/att.h5', '--input_grid_vec_dir', 'ROOT/places',
          '--num_workers', 1, '--losses_log_every', 2, '--val_images_use', 3)
    messages = capsys.readouterr().err
    assert 'changed since the last start: val_images_use 3 (was 5000)' in messages and messages.count('note:') == 1


def other_labels(root):
    with h5py.File(root / 'talk_label.h5', 'r+') as file:
        rows = file['labels'][:]
        rows[0, 0] = rows[0, 0] % 8 + 1
        file['labels'][:] = rows


def fewer_captions(root):
    """The last caption of an image belongs to nobody: the table of words is the same."""
    with h5py.File(root / 'talk_label.h5', 'r+') as file:
        ends = file['label_end_ix'][:]
        ends[3] -= 1
        file['label_end_ix'][:] = ends


def other_table(root):
    table = pickles.load(str(root / 'talk-idxs.p'), '')
    table['document_frequency'] = {**table['document_frequency'], ('9', '9', '9', '9'): 1}
    pickles.dump(str(root / 'talk-idxs.p'), table)


def other_size(root):
    sizes = json.loads((root / 'box_sizes.json').read_text())
    (root / 'box_sizes.json').write_text(json.dumps({**sizes, '103': [60, 50]}))


def nudged(name):
    """Change one number of an image's array."""
    def change(root):
        path = root / name
        stored = np.load(path)
        values = (stored['feat'] if path.suffix == '.npz' else stored).copy()
        values.flat[-1] -= 1e-3
        array(name, values)(root)
    return change


# Case: (the change, the run, its flags, patterns of the message).
OTHER_DATA = {
    'a feature': (nudged('att/104.npz'), 'run', (), ('--input_img_feat_dir .*/att', '1 of 12 images', ': 104')),
    'a grid vector of a validation image': (
        nudged('vec/110.npy'), 'run', (), ('--input_grid_vec_dir .*/vec', '1 of 12 images', ': 110')),
    'a box': (nudged('box/100.npy'), 'boxes', BOXES, ('--input_box_dir .*/box', ': 100')),
    'the size of an image': (other_size, 'boxes', BOXES, ('--input_box_dir', ': 103')),
    'the captions of an image': (fewer_captions, 'run', (), ('--input_label_h5 .*talk_label.h5 is not',)),
    'a word of a label': (other_labels, 'run', (), ('--input_label_h5 .*talk_label.h5 is not',)),
    'a reference caption': (
        talk('images', 9, 'captions', 0, value='a blue cat'), 'run', (), ('--input_json .*talk.json is not',)),
    'a split': (talk('images', 15, 'split', value='val'), 'run', (), ('--input_json',)),
    'a frequency': (other_table, 'rewarded', rewards(), ('--cached_tokens .*talk-idxs.p is not',)),
}


@pytest.mark.parametrize('case', OTHER_DATA)
def test_other_data_are_refused_in_the_runs_folder_and_reported_in_another(root, case, capsys):
    change, run, flags, patterns = OTHER_DATA[case]
    onwards = (*flags, '--start_from', f'ROOT/{run}', '--max_epochs', 2)
    before = contents(root / run)
    change(root)
    with pytest.raises(DataError) as raised:
        start(root, run, *onwards)
    text = str(raised.value)
    expect(text, *patterns, 'trained with', 'infos_tiny.pkl', '--checkpoint_path')
    assert len(text.splitlines()) == 2 and contents(root / run) == before
    capsys.readouterr()
    assert start(root, 'other', *onwards) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if 'trained with' in line]
    assert notes == [f'note: {text.splitlines()[0]}']
    assert start(root, 'other', *onwards[:-1], 3, '--start_from', 'ROOT/other') == 0


def test_several_differences_are_reported_at_once(root):
    other_labels(root)
    for image in range(100, 106):
        nudged(f'att/{image}.npz')(root)
    with pytest.raises(DataError, match=r'h5 and --input_img_feat_dir .*6 of 12 images .*\.\.\.\) are not'):
        start(root, 'run', *RESUMED)


def test_changed_options_are_reported_in_one_line_with_both_values(root, capsys):
    capsys.readouterr()
    start(root, 'run', *RESUMED, '--learning_rate', 0.01, '--batch_size', 3, '--seed', 7, '--noamopt', 1,
          '--scheduled_sampling_max_prob', 0.5)
    notes = [line for line in capsys.readouterr().err.splitlines() if 'changed since the last start' in line]
    assert len(notes) == 1
    for words in ('learning_rate 0.01 (was 0.0005)', 'batch_size 3 (was 4)', 'seed 7 (was 123)',
                  'noamopt 1 (was 0)'):
        assert words in notes[0]
    assert 'max_epochs' not in notes[0] and 'start_from' not in notes[0] and 'sampling' not in notes[0]


def test_a_run_without_a_record_resumes_silently(root, capsys):
    infos = infos_of(root / 'run')
    del infos['account']
    (root / 'run' / 'infos_tiny.pkl').write_bytes(run_folder.pickle_bytes(infos))
    (root / 'run' / 'run.json').unlink()
    nudged('att/104.npz')(root)
    capsys.readouterr()
    start(root, 'run', *RESUMED, '--learning_rate', 0.01)
    told = capsys.readouterr().err
    assert 'changed since' not in told and 'trained with' not in told
    assert [one['iteration'] for one in record(root)['starts']] == [3]


@pytest.mark.parametrize('account', [{}, {'data': 3, 'machine': [], 'code': 'x'}, {'data': {'input_json': 3}}])
def test_a_damaged_record_is_ignored(root, account):
    infos = infos_of(root / 'run')
    infos['account'], infos['opt']['seed'] = account, [1]
    (root / 'run' / 'infos_tiny.pkl').write_bytes(run_folder.pickle_bytes(infos))
    (root / 'run' / 'run.json').write_text('[')
    assert start(root, 'run', *RESUMED) == 0 and len(record(root)['starts']) == 1


def test_a_feature_that_cannot_be_read_is_an_error_and_not_a_change_of_the_data(root):
    (root / 'att' / '104.npz').write_bytes(b'')
    with pytest.raises(DataError, match='104.npz cannot be read'):
        start(root, 'run', *RESUMED)


def test_a_digest_depends_on_shapes_numbers_and_the_size_of_the_image_but_not_on_how_numbers_are_stored():
    def digest(array, size=(), dtype='<f4'):
        reader = types.SimpleNamespace(read=lambda image: np.asarray(array, dtype))
        return run_record.array_digest(reader, 1, size)
    numbers = np.arange(12.0)
    same = [digest(numbers.reshape(2, 6)), digest(numbers.reshape(1, 2, 6)),  # a map is the list of its cells
            digest(numbers.reshape(6, 2).reshape(2, 6), dtype='>f4')]
    others = [digest(numbers.reshape(3, 4)), digest(numbers), digest(numbers.reshape(2, 6) + 1e-3),
              digest(numbers.reshape(2, 6)[::-1]), digest(numbers.reshape(2, 6), (4, 5)),
              digest(numbers.reshape(2, 6), (5, 4))]
    assert len(set(same)) == 1 and len({*same, *others}) == 1 + len(others)
    whole = np.arange(12)
    assert run_record.hexdigest(whole.reshape(3, 4)) != run_record.hexdigest(whole.reshape(4, 3))
    assert run_record.hexdigest(whole[:6], whole[6:]) != run_record.hexdigest(whole[:4], whole[4:])


def test_the_data_are_sampled_so_the_cost_does_not_grow_with_the_images():
    class Corpus:
        images = [{'id': image, 'split': 'train'} for image in range(5000)]
        ids, vocabulary, labels = range(5000), {}, None
        regions = types.SimpleNamespace(readers_by_flag=lambda: {'input_img_feat_dir': Source()}, sizes={})

    class Source:
        def read(self, image):
            read.append(image)
            return np.full((2, 3), image, np.float32)
    read, Corpus.labels = [], type('Labels', (), dict.fromkeys(
        ('labels', 'start', 'end'), np.zeros(1)))
    first = run_record.data_digests(Corpus, range(5000))['input_img_feat_dir']
    again = run_record.data_digests(Corpus, range(4900))['input_img_feat_dir']
    assert len(first) == len(again) == 100 and len(read) == 200
    assert len(set(first) & set(again)) > 90  # so that runs on a part of the images can be compared


def test_without_git_or_in_a_folder_of_another_project_no_commit_is_recorded(tmp_path, monkeypatch):
    project = tmp_path / 'outer' / 'project'
    project.mkdir(parents=True)
    (project / 'train.py').write_text('1')

    def git(folder, *words):
        subprocess.run(['git', '-C', folder, '-c', 'user.name=a', '-c', 'user.email=a@b', *words], check=True,
                       capture_output=True)
    git(tmp_path / 'outer', 'init')
    git(tmp_path / 'outer', 'add', '.')
    git(tmp_path / 'outer', 'commit', '-m', 'of another')
    assert run_record.code_state(str(project)) is None
    git(project, 'init')
    assert run_record.code_state(str(project)) is None  # no commit yet
    git(project, 'add', '.')
    git(project, 'commit', '-m', 'one')
    (project / 'notes').write_text('of nobody')
    state = run_record.code_state(str(project))
    assert len(state['commit']) == 40 and state['changed'] is False
    (project / 'train.py').write_text('2')
    assert run_record.code_state(str(project)) == {**state, 'changed': True}
    monkeypatch.setenv('PATH', '')
    assert run_record.code_state(str(project)) is None


@pytest.mark.parametrize('trap', ['fsmonitor', 'clean filter', 'process filter', 'hook'])
def test_no_program_that_a_repository_names_is_run(tmp_path, monkeypatch, trap):
    project, trapped = tmp_path / 'project', tmp_path / 'trapped'
    program = tmp_path / 'program'
    program.write_text(f'#!/bin/sh\ntouch {trapped}\ncat\n')
    program.chmod(0o755)

    def git(*words):
        subprocess.run(['git', '-C', project, '-c', 'user.name=a', '-c', 'user.email=a@b', *words], check=True,
                       capture_output=True)
    project.mkdir()
    git('init')
    (project / 'train.py').write_text('1')
    (project / '.gitattributes').write_text('*.py filter=some.name\n')
    git('add', '.')
    git('commit', '-m', 'one')
    if trap == 'fsmonitor':
        git('config', 'core.fsmonitor', str(program))
    elif trap == 'hook':
        (project / '.git' / 'hooks').mkdir(exist_ok=True)
        (project / '.git' / 'hooks' / 'post-index-change').symlink_to(program)
    else:
        git('config', f'filter.some.name.{trap.split()[0]}', str(program))
        git('config', 'filter.some.name.required', 'true')
    (project / 'train.py').write_text('2')
    assert run_record.code_state(str(project))['changed'] is True and not trapped.exists()
    subprocess.run(['git', '-C', project, 'status'], capture_output=True)
    assert trapped.exists() or trap == 'hook'  # an ordinary call does run it


def test_environment_variables_of_git_do_not_change_what_is_recorded(tmp_path, monkeypatch):
    for name in ('project', 'other'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'file').write_text(name)
        for words in (['init'], ['add', '.'], ['-c', 'user.name=a', '-c', 'user.email=a@b', 'commit', '-m', name]):
            subprocess.run(['git', '-C', tmp_path / name, *words], check=True, capture_output=True)
    before = run_record.code_state(str(tmp_path / 'project'))
    monkeypatch.setenv('GIT_DIR', str(tmp_path / 'other' / '.git'))
    monkeypatch.setenv('GIT_WORK_TREE', str(tmp_path / 'other'))
    monkeypatch.setenv('GIT_TRACE', str(tmp_path / 'trace'))
    assert run_record.code_state(str(tmp_path / 'project')) == before and not (tmp_path / 'trace').exists()


def test_of_several_processes_only_the_main_one_writes_and_refuses(root, tmp_path):
    flags = tiny.train_flags(root, root / 'two', '--max_epochs', 1)
    assert several.run(2, train, flags, tmp_path / 'out')[0] == [0, 0]
    (only,) = record(root, 'two')['starts']
    assert only['machine']['processes'] == 2
    nudged('att/104.npz')(root)
    statuses, texts = several.run(2, train, [*flags, '--start_from', root / 'two', '--max_epochs', 2],
                                  tmp_path / 'out')
    assert statuses == [1, 1] and 'is not what the run' in texts[0] and not texts[1]
    assert same_weights(weights_of(root / 'two'), weights_of(root / 'two', 'model-best.pth'))
