"""A run's folder belongs to one run, and files of different runs are refused together."""

import io
import pickle
import shutil
import subprocess

import pytest
import torch

import eval as evaluation
import train
from misc import captioner
from misc.cli import DataError, UsageError
from misc.disk import pickles
from misc.run import folder as run_folder
from misc.run import identity
from scripts import convert_checkpoint
from tests.helpers import tiny
from tests.helpers.runs import infos_of, weights_of

FILES = ('model.pth', 'model-best.pth', 'optimizer.pth', 'infos_tiny.pkl', 'infos_tiny-best.pkl',
         'histories_tiny.pkl')


@pytest.fixture(scope='module')
def trained(corpus, tmp_path_factory):
    """A folder with two runs of the same options, `one` and `two`."""
    root = tmp_path_factory.mktemp('runs')
    for name in ('one', 'two'):
        tiny.run(train, tiny.train_flags(corpus, root / name, '--max_epochs', 1))
    return root


@pytest.fixture
def runs(trained, tmp_path):
    """A copy of them that a test may change."""
    return shutil.copytree(trained, tmp_path / 'runs')


def identity_in(path):
    """The identity in a file of a run."""
    if path.suffix == '.pkl':
        return identity.of_content(pickles.load(str(path)))
    content = run_folder.read_tensors(str(path))
    return identity.of_content(content) if path.name == 'optimizer.pth' else identity.of_weights(content)


def identities(folder):
    return {identity_in(folder / name) for name in FILES}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def on(corpus, folder, *more):
    """Flags that resume the run in `folder`."""
    return tiny.train_flags(corpus, folder, '--start_from', folder, '--max_epochs', 2, *more)


def test_all_files_of_a_run_carry_its_identity_through_resumes_and_another_folder_is_another_run(corpus, runs):
    (one,), (two,) = identities(runs / 'one'), identities(runs / 'two')
    assert identity.is_identity(one) and identity.is_identity(two) and one != two
    tiny.run(train, on(corpus, runs / 'one'))
    assert identities(runs / 'one') == {one}
    tiny.run(train, tiny.train_flags(corpus, runs / 'new', '--start_from', runs / 'one', '--max_epochs', 3))
    (new,) = identities(runs / 'new')
    assert new not in (one, two, None)


def test_weights_with_an_identity_are_a_plain_state_dict_for_everybody_else(runs):
    state = torch.load(runs / 'one' / 'model.pth', weights_only=True)
    assert all(torch.is_tensor(value) for value in state.values())
    module = torch.nn.Linear(2, 3)
    buffer = io.BytesIO()
    torch.save(identity.marked(module.state_dict(), identity.new_identity()), buffer)
    buffer.seek(0)
    torch.nn.Linear(2, 3).load_state_dict(torch.load(buffer, weights_only=True))


@pytest.mark.parametrize('name', ['model.pth', 'infos_tiny.pkl', 'optimizer.pth'])
def test_files_of_two_runs_are_refused_by_name(corpus, runs, name):
    shutil.copy(runs / 'two' / name, runs / 'one' / name)
    other = 'infos_tiny.pkl' if name != 'infos_tiny.pkl' else 'model.pth'
    match = f'one/{name} and .*one/{other} were saved by different runs' if name != 'infos_tiny.pkl' else \
        f'one/{other} and .*one/{name} were saved by different runs'
    with pytest.raises(DataError, match=match):
        tiny.run(train, on(corpus, runs / 'one'))
    if name != 'optimizer.pth':  # which an evaluation does not read
        with pytest.raises(DataError, match=match):
            tiny.run(evaluation, tiny.eval_flags(corpus, runs / 'one', '--dump_json', 0))
        with pytest.raises(DataError, match=match):
            tiny.run(convert_checkpoint, ['--model', runs / 'one' / 'model.pth', '--infos_path',
                                          runs / 'one' / 'infos_tiny.pkl', '--output_dir', runs / 'converted'])


def test_an_ensemble_takes_each_model_with_its_own_infos_only(corpus, runs):
    models, infos = ([str(runs / run / name) for run in ('one', 'two')] for name in ('model.pth', 'infos_tiny.pkl'))
    assert len(captioner.read_runs(models, infos)) == 2
    with pytest.raises(DataError, match='one/model.pth and .*two/infos_tiny.pkl were saved by different runs'):
        captioner.read_runs(models, infos[::-1])


def test_a_derived_identity_is_that_of_its_contents_each_of_them_whole():
    same, other, moved = (identity.derived(*contents) for contents in (
        (b'ab', b'c'), (b'ab', b'd'), (b'a', b'bc')))
    assert same == identity.derived(b'ab', b'c') and identity.is_identity(same)
    assert len({same, other, moved, identity.derived(b'abc')}) == 4


def test_the_best_model_may_stand_with_the_last_infos_of_its_run(runs):
    run_folder.read_run(str(runs / 'one' / 'model-best.pth'), str(runs / 'one' / 'infos_tiny.pkl'))


def without_identity(folder):
    """Make the files in `folder` those of an earlier version."""
    for name in FILES:
        path = folder / name
        if path.suffix == '.pkl':
            content = pickles.load(str(path))
            del content['run']
            path.write_bytes(pickle.dumps(content, protocol=2))
        else:
            content = run_folder.read_tensors(str(path))
            torch.save({key: value for key, value in content.items() if key != 'run'}, path)


def test_files_of_earlier_versions_are_read_and_get_an_identity_when_they_are_resumed(corpus, runs):
    without_identity(runs / 'one')
    assert identities(runs / 'one') == {None}
    shutil.copy(runs / 'two' / 'model.pth', runs / 'one' / 'model.pth')  # nothing is known of the others
    tiny.run(train, on(corpus, runs / 'one'))
    assert identity.is_identity(identity_in(runs / 'one' / 'model.pth'))
    assert identity_in(runs / 'one' / 'model.pth') != identity_in(runs / 'two' / 'model.pth')


@pytest.mark.parametrize('flags, ways_out', [
    ((), ('already holds the run tiny', '--resume', 'another folder')),
    (('--start_from', 'FOLDER'), ('holds the run tiny', '--id tiny', '--checkpoint_path ANOTHER')),
    (('--start_from', 'OTHER'), ('already holds the run tiny', '--resume', 'another folder'))])
def test_a_second_id_in_a_folder_is_refused_and_changes_nothing(corpus, runs, flags, ways_out):
    before = contents(runs / 'one')
    flags = [runs / {'FOLDER': 'one', 'OTHER': 'two'}[flag] if flag.isupper() else flag for flag in flags]
    with pytest.raises(UsageError) as raised:
        tiny.run(train, tiny.train_flags(corpus, runs / 'one', '--id', 'second', *flags))
    assert all(words in str(raised.value) for words in ways_out)
    assert contents(runs / 'one') == before


def test_weights_without_infos_are_not_overwritten_either(corpus, runs):
    for name in FILES[3:]:
        (runs / 'one' / name).unlink()
    before = contents(runs / 'one')
    with pytest.raises(UsageError, match='already holds model-best.pth, model.pth, optimizer.pth, validations.jsonl'):
        tiny.run(train, tiny.train_flags(corpus, runs / 'one'))
    assert contents(runs / 'one') == before


def test_a_folder_where_an_earlier_version_let_two_runs_save_is_not_trained_in(corpus, runs):
    without_identity(runs / 'one')
    shutil.copy(runs / 'one' / 'infos_tiny.pkl', runs / 'one' / 'infos_second.pkl')
    with pytest.raises(UsageError, match='the runs tiny and second, which share model.pth'):
        tiny.run(train, on(corpus, runs / 'one'))


def test_a_run_that_was_copied_under_another_name_goes_on_as_another_run(corpus, runs, tmp_path):
    (tmp_path / 'scripts').mkdir()
    shutil.copy('scripts/copy_model.sh', tmp_path / 'scripts')
    shutil.copytree(runs / 'one', tmp_path / 'checkpoints' / 'tiny')
    subprocess.run(['bash', 'scripts/copy_model.sh', 'tiny', 'more'], cwd=tmp_path, check=True)
    copy = tmp_path / 'checkpoints' / 'more'
    tiny.run(train, on(corpus, copy, '--id', 'more'))
    assert identity_in(copy / 'model.pth') == identity_in(copy / 'infos_more.pkl') != identity_in(
        runs / 'one' / 'model.pth')
    run_folder.read_run(str(copy / 'model-best.pth'), str(copy / 'infos_more-best.pkl'))
    with pytest.raises(DataError, match='different runs'):
        run_folder.read_run(str(runs / 'one' / 'model.pth'), str(copy / 'infos_more.pkl'))
    tiny.run(train, on(corpus, copy, '--id', 'more', '--max_epochs', 3))


@pytest.mark.parametrize('mark', [3, [], {'run': 3}, {'run': 'x'}, {'run': torch.zeros(2)}])
def test_marks_that_are_no_identity_are_passed_over(runs, mark):
    state = weights_of(runs / 'one')
    state._metadata[identity.METADATA] = mark
    torch.save(state, runs / 'one' / 'model.pth')
    run = run_folder.read_run(str(runs / 'one' / 'model.pth'), str(runs / 'one' / 'infos_tiny.pkl'))
    assert identity.of_weights(run.weights) is None


def test_a_tensor_in_the_metadata_is_bounded_like_any_other(tmp_path):
    state = torch.nn.Linear(2, 3).state_dict()
    state._metadata['x'] = torch.zeros(1).expand(1 << 30)
    torch.save(state, tmp_path / 'model.pth')
    with pytest.raises(DataError, match='more than the file holds'):
        run_folder.read_tensors(str(tmp_path / 'model.pth'))


def test_an_identity_of_another_form_makes_the_infos_invalid(runs):
    infos = infos_of(runs / 'one')
    (runs / 'one' / 'infos_tiny.pkl').write_bytes(run_folder.pickle_bytes({**infos, 'run': 'x' * 32}))
    with pytest.raises(DataError, match='its run is not what'):
        infos_of(runs / 'one')
