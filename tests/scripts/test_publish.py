"""Published models: small files without paths or moments, which every program reads as those of an ordinary run."""

import shutil

import pytest
import torch

import opts
import train
from misc.captioner import load
from misc.cli import DataError, UsageError
from misc.disk import filesets, pickles
from misc.run import folder as run_folder
from misc.run import identity
from scripts import convert_checkpoint
from tests.helpers import tiny
from tests.helpers.legacy_checkpoints import legacy_options, write_legacy
from tests.helpers.models import make_model, make_options
from tests.helpers.pictures import BOXED
from tests.helpers.runs import same_weights, weights_of


def publish(source, output, *flags, kind='float16'):
    """Publish the run in the folder `source` as `output`, which is returned."""
    tiny.run(convert_checkpoint, ['--publish', kind, '--input_dir', source, '--output_dir', output, *flags])
    return output


@pytest.fixture
def published(pictures_root, tmp_path):
    """The run of `pictures_root`, published in float16."""
    return publish(pictures_root / 'run', tmp_path / 'model')


@pytest.fixture
def photos(pictures_root, networks):
    """Pictures of the test split."""
    return sorted((pictures_root / 'images' / 'val2014').glob('11[2-5].jpg'))


def captions_of(captioner, photos):
    return [(caption.text, caption.log_prob) for caption in captioner.caption(photos)]


def strings_in(value):
    """All text in a value of an infos file, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for one in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from strings_in(one)
    elif hasattr(value, '__dict__'):
        yield from strings_in(vars(value))


def test_a_published_model_is_the_best_one_in_half_precision_and_little_else(pictures_root, published):
    run = pictures_root / 'run'
    assert {path.name for path in published.iterdir()} - {filesets.LOCK} == {'infos_model.pkl', 'model.pth'}
    best, found = weights_of(run, 'model-best.pth'), weights_of(published)
    assert same_weights(found, {name: value.half() for name, value in best.items()})
    assert (published / 'model.pth').stat().st_size < 0.6 * (run / 'model-best.pth').stat().st_size
    before = pickles.load(run / 'infos_tiny-best.pkl')
    infos = pickles.load(published / 'infos_model.pkl')
    assert set(infos) == {'opt', 'vocab', 'iter', 'epoch', 'best_val_score', 'best_measure', 'self_critical_from',
                          'reward', 'regions', 'validations', 'account', 'loader', 'published', 'run'}
    for name in ('vocab', 'iter', 'epoch', 'best_val_score', 'regions', 'validations'):
        assert infos[name] == before[name], name
    assert infos['opt'].id == 'model' and infos['opt'].seq_length == before['opt'].seq_length
    assert infos['opt'].ff_size == before['opt'].ff_size and infos['opt'].learning_rate == 5e-3
    assert infos['account']['versions'] == before['account']['versions'] and 'data' not in infos['account']
    assert identity.of_content(infos) == identity.of_weights(found) != identity.of_content(before)


def test_nothing_in_a_published_model_names_a_place(pictures_root, published):
    for path in (published / 'infos_model.pkl', published / 'model.pth'):
        assert str(pictures_root).encode() not in path.read_bytes()
    assert [text for text in strings_in(pickles.load(published / 'infos_model.pkl')) if '/' in text] == []
    assert str(pictures_root).encode() in (pictures_root / 'run' / 'infos_tiny.pkl').read_bytes()
    kept = run_folder.read_infos(str(published / 'infos_model.pkl'))['opt']
    assert [flag.dest for flag in opts.train_parser()._actions
            if flag.metavar in ('DIR', 'FILE') and (flag.dest in kept or flag.dest not in opts.NEUTRAL)] == []


def test_the_rounded_weights_are_computed_with_in_float32_alone_and_in_an_ensemble(
        pictures_root, published, photos, tmp_path):
    run = pictures_root / 'run'
    rounded = load(run, device='cpu')
    state = {name: value.float() for name, value in weights_of(published).items()}
    rounded.model.load_state_dict(state)
    captioner = load(published, device='cpu')
    assert {value.dtype for value in captioner.model.state_dict().values()} == {torch.float32}
    assert captions_of(captioner, photos) == captions_of(rounded, photos)
    exact = captions_of(load(run, device='cpu'), photos)
    close = [log_prob for _, log_prob in captions_of(captioner, photos)]
    assert close == pytest.approx([log_prob for _, log_prob in exact], abs=0.02)
    whole = publish(run, tmp_path / 'whole', kind='float32')
    assert captions_of(load(whole, device='cpu'), photos) == exact
    both = load([published, run], device='cpu').caption(photos)
    assert min(close[0], exact[0][1]) - 0.01 <= both[0].log_prob <= max(close[0], exact[0][1]) + 0.01


def test_training_goes_on_from_a_published_model_in_another_folder_only(pictures_root, published, tmp_path, capsys):
    flags = [*BOXED, '--input_img_feat_dir', pictures_root / 'grid_att', '--input_box_dir',
             pictures_root / 'grid_box', '--img_feat_size', 2048, '--start_from', published]
    before = {path.name: path.read_bytes() for path in published.iterdir()}
    with pytest.raises(UsageError, match='holds a published model, which training would replace; .*ANOTHER_FOLDER'):
        tiny.run(train, tiny.train_flags(pictures_root, published, '--id', 'model', *flags))
    assert {path.name: path.read_bytes() for path in published.iterdir()} == before
    epoch = run_folder.read_infos(str(published / 'infos_model.pkl'))['epoch']
    tiny.run(train, tiny.train_flags(pictures_root, tmp_path / 'on', *flags, '--max_epochs', epoch + 1))
    said = capsys.readouterr().err
    assert 'model.pth is a published model with weights in float16; training goes on in float32' in said
    assert f'epoch {epoch} starts from its beginning' in said and 'they start from zero' in said
    infos = run_folder.read_infos(str(tmp_path / 'on' / 'infos_tiny.pkl'))
    assert infos['epoch'] == epoch + 1 and 'published' not in infos
    assert {value.dtype for value in weights_of(tmp_path / 'on').values()} == {torch.float32}


def test_a_model_is_published_beside_its_card_the_same_each_time_and_never_over_another(
        pictures_root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = pictures_root / 'run'
    for name in ('first', 'second'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'README.md').write_text('a card')
        publish(run, name, '--id', 'mine')
    assert 'next: python eval.py --run second' in capsys.readouterr().out
    for name in ('README.md', 'model.pth', 'infos_mine.pkl'):
        assert (tmp_path / 'first' / name).read_bytes() == (tmp_path / 'second' / name).read_bytes()
    publish(run, 'first', '--id', 'mine')    # the same content
    with pytest.raises(UsageError, match='first is not empty'):
        publish(run, 'first', '--id', 'mine', kind='float32')
    with pytest.raises(UsageError, match='--id mine-best: .* choose another name'):
        publish(run, 'third', '--id', 'mine-best')
    with pytest.raises(DataError, match='this project already; .*or publish it with --publish float16'):
        tiny.run(convert_checkpoint, ['--input_dir', run, '--output_dir', 'third'])
    large = shutil.copytree(run, tmp_path / 'large')
    weights = weights_of(large, 'model-best.pth')
    next(iter(weights.values())).view(-1)[0] = 70000.0
    torch.save(weights, large / 'model-best.pth')
    with pytest.raises(DataError, match='is too large for float16; take --publish float32'):
        publish(large, 'third')
    assert not (tmp_path / 'third').exists()
    publish(large, 'third', kind='float32')


def test_a_legacy_checkpoint_is_published_under_the_names_of_this_project(tmp_path, capsys):
    options = vars(make_options(norm_img_feat=False, norm_box_feat=False))
    model = make_model(**options)
    names = run_folder.legacy.Names(options['caption_model'], options['use_bn'], True)
    write_legacy(tmp_path / 'old', names.theirs(model.state_dict()), legacy_options(options, True))
    found = weights_of(publish(tmp_path / 'old', tmp_path / 'new'))
    assert same_weights(found, {name: value.half() for name, value in model.state_dict().items()})
    infos = pickles.load(tmp_path / 'new' / 'infos_new.pkl')
    assert 'somewhere' not in ''.join(strings_in(infos)) and infos['opt'].caption_model == options['caption_model']
