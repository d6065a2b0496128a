"""Every model through the programs: both training phases, evaluation, ensembles, the Python interface."""

import json
import types

import numpy as np
import pytest
import torch

import eval as evaluation
import opts
import train
from misc.captioner import load
from misc.cli import UsageError
from misc.dataset.corpus import Corpus
from misc.run import folder as run_folder
from models import MODELS
from tests.helpers import tiny


def flags_of(corpus, name):
    """The flags that a tiny model `name` needs in addition to those of `tiny`."""
    return ['--caption_model', name, *(tiny.RECURRENT_FLAGS if MODELS[name].word_by_word else ()),
            *(('--input_box_dir', corpus / 'box') if name == 'relation_transformer' else ())]


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """The tiny corpus and {model: run folder}: runs of one cross-entropy and one self-critical epoch."""
    corpus = tiny.write_corpus(tmp_path_factory.mktemp('corpus'))
    root = tmp_path_factory.mktemp('runs')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PATH', '')  # without Java: quick
        for name in MODELS:
            flags = tiny.train_flags(corpus, root / name, *flags_of(corpus, name), '--learning_rate', 5e-3)
            tiny.run(train, [*flags, '--max_epochs', 1])
            tiny.run(train, [*flags, '--max_epochs', 2, '--self_critical_after', 1, '--seq_per_img', 2,
                             '--cached_tokens', corpus / 'talk-idxs.p', '--start_from', root / name])
    return corpus, {name: root / name for name in MODELS}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Run in an empty folder: evaluation writes vis/ and eval_results/ into the current one."""
    monkeypatch.chdir(tmp_path)


def evaluate(corpus, folders, *more):
    """Run eval.py on the ensemble of the runs in `folders`; returns vis/vis.json."""
    flags = [*tiny.data_flags(corpus), '--input_box_dir', corpus / 'box', '--num_workers', 0,
             '--device', 'cpu']
    tiny.run(evaluation, ['--model', *(folder / 'model.pth' for folder in folders), '--infos_path',
                          *(folder / 'infos_tiny.pkl' for folder in folders), *flags, *more])
    with open('vis/vis.json', encoding='utf-8') as file:
        return json.load(file)


@pytest.mark.parametrize('name', MODELS)
def test_each_model_trains_in_both_phases_and_decodes_by_every_method(trained, name):
    corpus, folders = trained
    infos = run_folder.read_infos(str(folders[name] / 'infos_tiny.pkl'))
    assert infos['iter'] == 6 and set(infos['histories']['reward_history']) == {4, 5, 6}
    best = evaluate(corpus, [folders[name]], '--beam_size', 5, '--sample_n', 5)
    for entry in best:
        totals = [beam['log_prob'] for beam in entry['beams']]
        assert totals == sorted(totals, reverse=True) and entry['caption'] == entry['beams'][0]['caption']
    greedy, one = (evaluate(corpus, [folders[name]], *flags) for flags in (
        ('--beam_size', 1), ('--sample_max', 0, '--temperature', 1e-6)))
    assert [entry['caption'] for entry in greedy] == [entry['caption'] for entry in one]
    groups = evaluate(corpus, [folders[name]], '--beam_size', 4, '--group_size', 2, '--sample_n', 4,
                      '--diversity_lambda', 50, '--decoding_constraint', 1, '--block_trigrams', 1)
    for entry in groups:
        first, second = ({beam['caption'].split(' ')[0] for beam in entry['beams'][at:at + 2]}
                         for at in (0, 2))
        assert not first & second
    # The caption of an image does not depend on the others in its batch.
    alone = evaluate(corpus, [folders[name]], '--batch_size', 1, '--beam_size', 5, '--sample_n', 5)
    assert [entry['caption'] for entry in alone] == [entry['caption'] for entry in best]


@pytest.mark.parametrize('name', MODELS)
def test_the_python_interface_captions_arrays_as_evaluation_does(trained, name):
    corpus, folders = trained
    entries = evaluate(corpus, [folders[name]], '--beam_size', 3)
    captioner = load(model=folders[name] / 'model.pth', infos=folders[name] / 'infos_tiny.pkl', device='cpu',
                     beam_size=3)
    features = [np.load(corpus / 'att' / f'{entry["image_id"]}.npz')['feat'] for entry in entries]
    boxes = [np.load(corpus / 'rel' / f'{entry["image_id"]}.npy') for entry in entries]
    captions = captioner.caption(features=features, boxes=boxes)
    assert [caption.text for caption in captions] == [entry['caption'] for entry in entries]
    for caption, entry, regions in zip(captions, entries, boxes):
        assert caption.log_prob == pytest.approx(entry['log_prob'], abs=1e-3)
        if MODELS[name].attention:
            assert caption.attention.shape == (len(caption.words), len(regions))
        else:
            assert caption.attention is None
    if MODELS[name].places is None:
        without = captioner.caption(features=features[0])
        assert without.text == captions[0].text and without.boxes is None


def test_scheduled_sampling_is_off_in_the_self_critical_phase(trained, tmp_path, monkeypatch):
    corpus, _ = trained
    monkeypatch.setenv('PATH', '')
    used = []

    def look(loss):
        def looked(model, *given):
            used.append(model.scheduled_sampling_prob)
            return loss(model, *given)
        return looked
    for name in ('caption_loss', 'self_critical_loss'):
        monkeypatch.setattr(train, name, look(getattr(train, name)))
    tiny.run(train, tiny.train_flags(
        corpus, tmp_path / 'run', *flags_of(corpus, 'topdown'), '--self_critical_after', 2, '--max_epochs', 3,
        '--cached_tokens', corpus / 'talk-idxs.p', '--scheduled_sampling_start', 0,
        '--scheduled_sampling_increase_every', 1, '--scheduled_sampling_increase_prob', 0.2))
    infos = run_folder.read_infos(str(tmp_path / 'run' / 'infos_tiny.pkl'))
    recorded = [infos['histories']['ss_prob_history'][step] for step in range(1, 10)]
    assert used == recorded == [0] * 3 + [0.2] * 3 + [0] * 3


def test_models_of_all_families_form_an_ensemble(trained, tmp_path):
    corpus, folders = trained
    together = evaluate(corpus, list(folders.values()), '--verbose_loss', 1, '--beam_size', 3)
    assert len(together) == 4
    with open('eval_results/' + '+'.join(['tiny'] * len(MODELS)) + '_test.json', encoding='utf-8') as file:
        assert 0 < json.load(file)['loss'] < 5
    for name in MODELS:
        alone = evaluate(corpus, [folders[name]])
        assert evaluate(corpus, [folders[name]] * 2) == [
            {**entry, 'log_prob': pytest.approx(entry['log_prob'], abs=1e-5)} for entry in alone]
    reversed_order = evaluate(corpus, list(folders.values())[::-1], '--beam_size', 3)
    for one, other in zip(together, reversed_order):
        assert one['caption'] == other['caption']
        assert one['log_prob'] == pytest.approx(other['log_prob'], abs=1e-5)


def test_models_that_read_the_same_input_differently_form_no_ensemble(trained, tmp_path):
    corpus, folders = trained
    for name in ('spatial_pe', 'show_tell'):
        tiny.run(train, tiny.train_flags(corpus, tmp_path / name, *flags_of(corpus, name), '--max_epochs', 1,
                                         '--norm_img_feat', 1, '--norm_box_feat', 1))
    with pytest.raises(UsageError, match='norm_img_feat 1, a model before it 0'):
        evaluate(corpus, [folders['topdown'], tmp_path / 'spatial_pe'])
    # show_tell reads mean features alone, which are those of the regions as they are on disk.
    evaluate(corpus, [tmp_path / 'spatial_pe', folders['show_tell']])
    evaluate(corpus, [folders['topdown'], tmp_path / 'show_tell'])


def test_relation_transformer_captions_alike_from_pixel_and_relative_boxes(trained):
    corpus, folders = trained
    pixels = evaluate(corpus, [folders['relation_transformer']])
    relative = evaluate(corpus, [folders['relation_transformer']], '--input_rel_box_dir', corpus / 'rel')
    for one, other in zip(pixels, relative):
        assert one['caption'] == other['caption']
        assert one['log_prob'] == pytest.approx(other['log_prob'], abs=1e-3)


@pytest.mark.parametrize('needs, opened', [
    (('fc',), {'att'}), (('features', 'fc'), {'att'}), (('features',), {'att'}),
    (('features', 'grids'), {'att', 'grid'}), (('features', 'boxes'), {'att', 'box'})])
def test_only_the_sources_that_a_model_needs_are_opened(trained, needs, opened):
    corpus, _ = trained
    options, _ = opts.parse(opts.train_parser(), [str(flag) for flag in tiny.train_flags(
        corpus, 'run', '--input_box_dir', corpus / 'box', '--norm_img_feat', 1)])
    data = Corpus(opts.sources(options))
    data.open_for(needs)
    assert data.regions.readers.keys() == opened
    arrays = types.SimpleNamespace(**data.arrays(0))
    assert {name for name, array in vars(arrays).items() if array is not None} == set(needs)
    regions = torch.from_numpy(data.regions.readers['att'].read(data.ids[0]))
    if 'fc' in needs:  # of the regions as they are on disk, as stored ones are
        assert torch.allclose(torch.from_numpy(arrays.fc[0]), regions.mean(0))
    if 'features' in needs:
        assert torch.allclose(torch.from_numpy(arrays.features), regions / regions.norm(dim=1, keepdim=True))
