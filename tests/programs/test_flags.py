"""Every flag of `train.py` and `eval.py` has an effect, and is tested."""

import ast
import json
import math
import os
import shutil
import types

import h5py
import numpy as np
import pytest
import torch

import eval as evaluation
import opts
import train
from misc import machine
from misc.cli import UsageError
from misc.dataset.array_files import write_array
from misc.dataset.corpus import Corpus
from misc.dataset.features import open_reader
from misc.dataset.packing import write_packed
from misc.disk import filesets
from misc.run import folder as run_folder
from misc.scoring import metrics
from models.transformer import TransformerCaptioner
from tests.helpers import ROOT, tiny
from tests.helpers.flags import flags_of

# Flags of the self-critical phase, tested in tests/programs/test_self_critical.py.
SELF_CRITICAL = {'self_critical_after', 'cached_tokens', 'cider_reward_weight', 'bleu_reward_weight',
                 'sc_baseline', 'sc_samples'}

# Flag: (a value, the flags of the run to compare with).  The weights differ after three steps.
NO_GRIDS = ('--input_grid_vec_dir', '')
RELATIONS = ('--caption_model', 'relation_transformer', '--input_rel_box_dir', 'CORPUS/rel')
SHOW_TELL, SHOW_ATTEND, TOPDOWN = (('--caption_model', name, *tiny.RECURRENT_FLAGS)
                                   for name in ('show_tell', 'show_attend_tell', 'topdown'))
MEANS = (*SHOW_TELL, '--input_fc_feat_dir', 'CORPUS/fc')
CHANGES_WEIGHTS = {
    'input_json': ('CORPUS/other.json', ()),
    'input_label_h5': ('CORPUS/other/talk_label.h5', ()),
    'input_img_feat_dir': ('CORPUS/half_att', ()),
    'input_grid_vec_dir': ('CORPUS/half_vec', ()),
    'input_box_dir': ('CORPUS/half_box', (*NO_GRIDS, '--input_box_dir', 'CORPUS/box')),
    'input_rel_box_dir': ('CORPUS/half_rel', (*NO_GRIDS, '--input_rel_box_dir', 'CORPUS/rel')),
    'input_fc_feat_dir': ('CORPUS/half_fc', MEANS),
    'legacy_extra_skip': (1, RELATIONS),
    'norm_img_feat': (1, ()),
    'norm_box_feat': (1, ()),
    'heads': (4, ()),
    'ff_activation': ('gelu', ()),
    'dropout': (0.3, ()),
    'drop_prob_lm': (0.1, ()),
    'batch_size': (3, ()),
    'seq_per_img': (2, ()),
    'optim_alpha': (0.5, ()),
    'optim_beta': (0.5, ()),
    'optim_epsilon': (0.1, ()),
    'weight_decay': (0.5, ()),
    'grad_clip': (1e-3, ()),
    'label_smoothing': (0.2, ()),
    'amp': ('bf16', ()),
    'train_only': (1, ()),
    'ema': (0.5, ()),
    'word_dropout': (0.5, ()),
    'seed': (7, ()),
}

# Flag: (a value, further flags).  The names or shapes of the weights differ.
CHANGES_SHAPES = {
    'caption_model': ('transformer', ()),
    'num_layers': (2, ()),
    'input_encoding_size': (32, ()),
    'ff_size': (20, ()),
    'norm': ('rms', ()),
    'use_bn': (1, ()),
    'img_feat_size': (7, ('--input_img_feat_dir', 'CORPUS/short_att')),
    'num_grids': (16, (*NO_GRIDS, '--input_box_dir', 'CORPUS/box')),
    'enc_pos_embedding': (0, ()),
    'enc_pos_type': ('g2', ()),
    'cross_attn': ('dot-product', ()),
}

# The same for flags of some models only.
CHANGES_SHAPES_OF = {
    'box_trignometric_embedding': (0, RELATIONS),
    'rnn_type': ('gru', SHOW_TELL),
    'hidden_size': (24, SHOW_TELL),
    'att_hid_size': (24, TOPDOWN),
}

# Flag: (a value, the flags to compare with).  Validation gives other captions.
BEAMS, DRAWS = ('--beam_size', 5), ('--sample_max', 0, '--temperature', 9)
CHANGES_VALIDATION = {
    'beam_size': (5, ()),
    'sample_max': (0, ()),
    'temperature': (9, ('--sample_max', 0)),
    'top_k': (1, DRAWS),
    'top_p': (1e-6, DRAWS),
    'max_ppl': (1, BEAMS),
    'length_penalty': (3, BEAMS),
    'decoding_constraint': (1, ()),
    'block_trigrams': (1, ()),
    'remove_bad_endings': (1, DRAWS),
    'suppress_UNK': (0, (*DRAWS, '--seed', 3)),
}

# Flags with a test below.
SCHEDULES = {'learning_rate', 'learning_rate_decay_start', 'learning_rate_decay_every',
             'learning_rate_decay_rate', 'noamopt', 'noamopt_warmup', 'noamopt_factor', 'reduce_on_plateau',
             'cosine', 'cosine_warmup'}
SCHEDULED_SAMPLING = {'scheduled_sampling_start', 'scheduled_sampling_increase_every',
                      'scheduled_sampling_increase_prob', 'scheduled_sampling_max_prob'}
RUNNING = {'id', 'checkpoint_path', 'start_from', 'save_checkpoint_every', 'perform_validation_every',
           'val_images_use', 'language_eval', 'score_tokens', 'losses_log_every', 'load_best_score', 'max_epochs',
           'optim', 'patience', 'keep_checkpoints'}
MACHINE = {'device', 'num_workers', 'matmul_precision', 'xlinear', 'cuda_graphs'}
PARTS = {'accumulate'}  # in tests/programs/test_parallel.py
# In tests/programs/test_resume.py: flags of train.py, and of eval.py.
RESUMING, RUN_FOLDER = {'resume', 'save_every_minutes'}, {'run', 'checkpoint'}
OUTPUTS = {'output_dir'}  # in tests/programs/test_outputs.py

# Flag of eval.py: (a value, the flags to compare with).  The log-probabilities of captions differ.
CHANGES_CAPTIONS = {
    'model': ('OTHER/model.pth', ()),
    'input_img_feat_dir': ('CORPUS/half_att', ()),
    'input_grid_vec_dir': ('CORPUS/half_vec', ()),
    'input_box_dir': ('CORPUS/half_box', (*NO_GRIDS, '--input_box_dir', 'CORPUS/box')),
    'input_rel_box_dir': ('CORPUS/half_rel', (*NO_GRIDS, '--input_rel_box_dir', 'CORPUS/rel')),
    'input_json': ('CORPUS/other.json', ()),
    'input_fc_feat_dir': ('CORPUS/half_fc', (
        '--model', 'SHOWN/model.pth', '--infos_path', 'SHOWN/infos_tiny.pkl', '--input_fc_feat_dir', 'CORPUS/fc')),
    'seed': (7, ('--sample_max', 0)),
}
# Flags of eval.py for a folder of images, tested in tests/pictures/test_image_folder.py.
OWN_PICTURES = {'image_folder', 'regions_dir', 'detector', 'cnn_model', 'cnn_layout', 'cnn_weight_dir'}
IN_THEIR_FILES = {'extractor', 'images_json'}
EVAL_READING = {'infos_path', 'input_label_h5', 'batch_size'}

# {test in tests/programs/test_eval.py: the flags of eval.py that it tests}.
IN_TEST_EVAL = {
    'test_each_decoding_flag_has_its_effect': {
        'beam_size', 'group_size', 'diversity_lambda', 'sample_max', 'temperature', 'top_k', 'top_p',
        'max_ppl', 'length_penalty', 'decoding_constraint', 'block_trigrams', 'remove_bad_endings',
        'suppress_UNK', 'sample_n',
        'verbose_beam'},
    'test_each_output_flag_has_its_effect': {
        'split', 'num_images', 'id', 'coco_json', 'dump_json', 'dump_path', 'dump_images', 'image_root'},
    'test_of_several_captions_the_first_or_the_most_probable_one_is_scored': {'score_caption'},
    'test_captions_are_written_in_coco_form_with_scores_per_image': {'language_eval', 'verbose_loss'},
    'test_captions_are_scored_against_texts_or_tokens': {'score_tokens'},
}
# The places of tests in other files.
ELSEWHERE = {
    **{f'programs/test_eval.py::{test}': names for test, names in IN_TEST_EVAL.items()},
    'programs/test_resume.py': RESUMING | RUN_FOLDER, 'programs/test_outputs.py': OUTPUTS,
    'programs/test_self_critical.py': SELF_CRITICAL,
    'programs/test_parallel.py': PARTS,
    'pictures/test_image_folder.py': OWN_PICTURES, 'pictures/test_extractor.py': {'extractor'},
    'programs/test_images_json.py': {'images_json'}}


def write_variants(corpus):
    """Add variants to the corpus: other captions and splits, smaller values, shorter features."""
    tiny.write_corpus(corpus / 'other', seed=1)
    shutil.copy(corpus / 'talk_label.h5', corpus / 'other' / 'talk_label.h5')
    with h5py.File(corpus / 'other' / 'talk_label.h5', 'r+') as file:  # each image has its first caption five times
        file['labels'][:] = np.repeat(file['labels'][::5], 5, axis=0)
    content = json.loads((corpus / 'talk.json').read_text())
    content['images'][0]['split'], content['images'][-1]['split'] = 'test', 'train'
    (corpus / 'other.json').write_text(json.dumps(content))
    for name, kind in (('att', 'att'), ('fc', 'fc'), ('vec', 'grid'), ('box', 'box'), ('rel', 'box')):
        (corpus / f'half_{name}').mkdir()
        source = open_reader(str(corpus / name), kind, name)
        for image_id in source.ids():
            write_array(corpus / f'half_{name}', image_id, kind, source.read(image_id) ** 2 / 2)
    (corpus / 'half_box_sizes.json').write_text(json.dumps({
        name: [1600, 1600] for name in json.loads((corpus / 'box_sizes.json').read_text())}))
    (corpus / 'short_att').mkdir()
    source = open_reader(str(corpus / 'att'), 'att', 'att')
    for image_id in source.ids():
        write_array(corpus / 'short_att', image_id, 'att', source.read(image_id)[:, :7])
    return corpus


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    return write_variants(tiny.write_corpus(tmp_path_factory.mktemp('corpus')))


@pytest.fixture(scope='module')
def runs(corpus, tmp_path_factory):
    """Call with flags for a run of one epoch (three steps); runs with the same flags are cached."""
    made, root = {}, tmp_path_factory.mktemp('runs')

    def run(*flags, anew=False):
        flags = tuple(str(flag).replace('CORPUS', str(corpus)) for flag in flags)
        if flags not in made or anew:
            folder = root / str(len(list(root.iterdir())))
            tiny.run(train, tiny.train_flags(corpus, folder, '--max_epochs', 1, *flags))
            infos = run_folder.read_infos(str(folder / 'infos_tiny.pkl'))
            made[flags] = types.SimpleNamespace(
                folder=folder, infos=infos, weights=run_folder.read_tensors(str(folder / 'model.pth')),
                **infos['histories'])
        return made[flags]
    return run


def differs(one, other):
    """Whether two state dicts have the same names and shapes but different numbers."""
    return any(not torch.equal(one[name], other[name]) for name in one)


def test_the_same_flags_give_the_same_weights(runs):
    assert not differs(runs().weights, runs(anew=True).weights)


@pytest.mark.parametrize('flag', CHANGES_WEIGHTS)
def test_the_flag_changes_the_weights(runs, flag):
    value, base = CHANGES_WEIGHTS[flag]
    assert differs(runs(*base).weights, runs(*base, f'--{flag}', value).weights)


@pytest.mark.parametrize('flag', CHANGES_SHAPES)
def test_the_flag_changes_the_model(runs, flag):
    value, more = CHANGES_SHAPES[flag]

    def shapes(run):
        return {name: tuple(tensor.shape) for name, tensor in run.weights.items()}
    assert shapes(runs()) != shapes(runs(f'--{flag}', value, *more))


@pytest.mark.parametrize('flag', CHANGES_SHAPES_OF)
def test_the_flag_changes_the_model_of_its_family(runs, flag):
    value, base = CHANGES_SHAPES_OF[flag]
    one, other = ({name: tuple(tensor.shape) for name, tensor in run.weights.items()}
                  for run in (runs(*base), runs(*base, f'--{flag}', value)))
    assert one.keys() == other.keys() and one != other


def test_mean_features_come_from_their_folder_or_from_the_regions(runs, corpus):
    packed, source = corpus / 'fc.h5', open_reader(str(corpus / 'fc'), 'fc', 'fc')
    write_packed(packed, {'fc': {image_id: source.read(image_id) for image_id in source.ids()}})
    for base in (SHOW_TELL, SHOW_ATTEND, TOPDOWN):
        computed = runs(*base).weights
        for place in (corpus / 'fc', packed):
            assert not differs(computed, runs(*base, '--input_fc_feat_dir', place).weights)
    # Nothing else is read for a model that uses only mean features.
    alone = runs(*MEANS, '--input_img_feat_dir', 'nowhere').weights
    assert not differs(runs(*SHOW_TELL).weights, alone)


def test_scheduled_sampling_follows_its_flags_and_is_for_recurrent_models(runs, capsys):
    def probabilities(*flags):
        run = runs(*TOPDOWN, '--max_epochs', 5, '--scheduled_sampling_increase_every', 1,
                   *(f'--scheduled_sampling_{flag}' if isinstance(flag, str) else flag for flag in flags))
        return [run.ss_prob_history[step] for step in range(1, 16, 3)], run.weights
    plain, weights = probabilities()
    assert plain == [0] * 5
    for flags, expected in (
            (('start', 0), [0, 0.05, 0.1, 0.15, 0.2]), (('start', 2), [0, 0, 0, 0.05, 0.1]),
            (('start', 0, 'increase_prob', 0.5), [0, 0.25, 0.25, 0.25, 0.25]),
            (('start', 0, 'increase_prob', 0.5, 'max_prob', 0.7), [0, 0.5, 0.7, 0.7, 0.7]),
            (('start', 0, 'increase_every', 2), [0, 0, 0.05, 0.05, 0.1])):
        found, changed = probabilities(*flags)
        assert found == pytest.approx(expected) and differs(weights, changed)
    with pytest.raises(UsageError, match='--scheduled_sampling_start 0 does not go with .*spatial_pe'):
        runs('--scheduled_sampling_start', 0)


def test_a_flag_that_the_model_does_not_use_is_named_in_a_note(runs, capsys):
    runs(*SHOW_TELL, anew=True)
    assert ('note: --caption_model show_tell makes no use of --input_grid_vec_dir, --num_layers, '
            '--ff_size, --heads, --num_grids, --att_hid_size\n') in capsys.readouterr().err
    runs(anew=True)
    assert 'makes no use' not in capsys.readouterr().err
    with pytest.raises(UsageError, match='--rnn_type gru does not go with --caption_model topdown'):
        runs(*TOPDOWN, '--rnn_type', 'gru')
    with pytest.raises(UsageError, match='relation_transformer needs --input_box_dir or --input_rel_box_dir'):
        runs('--caption_model', 'relation_transformer')


def test_every_optimiser_gives_other_weights_and_uses_its_settings(runs):
    def weights(*flags):
        return runs('--optim', *flags).weights
    kinds = {name: weights(name) for name in opts.OPTIMISERS if name not in ('adam', 'adamw')}
    # Without weight decay AdamW is Adam.
    kinds.update(adam=weights('adam', '--weight_decay', 0.5), adamw=weights('adamw', '--weight_decay', 0.5))
    assert not differs(weights('adam'), runs().weights)
    names = list(kinds)
    for place, name in enumerate(names):
        assert all(differs(kinds[name], kinds[other]) for other in names[:place])
    for setting, takers in {'optim_alpha': ('rmsprop', 'sgdm', 'sgdmom', 'adamw'), 'optim_beta': ('adamw',),
                            'optim_epsilon': ('adamw', 'rmsprop', 'adagrad')}.items():
        for name in takers:
            assert differs(weights(name), weights(name, f'--{setting}', 0.3))


@pytest.mark.parametrize('flag, kind, folder', [
    ('input_img_feat_dir', 'att', 'att'), ('input_grid_vec_dir', 'grid', 'vec'),
    ('input_box_dir', 'box', 'box'), ('input_rel_box_dir', 'rel', 'rel')])
def test_a_packed_file_gives_the_same_run_as_its_folder(runs, corpus, flag, kind, folder):
    source = open_reader(str(corpus / folder), kind, flag)
    packed = corpus / f'{folder}.h5'
    write_packed(packed, {kind: {image_id: source.read(image_id) for image_id in source.ids()}})
    base = NO_GRIDS if kind == 'box' else ()
    assert not differs(runs(*base, f'--{flag}', corpus / folder).weights,
                       runs(*base, f'--{flag}', packed).weights)


def rates(run):
    return [rate for _, rate in sorted(run.lr_history.items())]


@pytest.mark.parametrize('flags, expected', [
    ((), [1, 1, 1, 0.8]),
    (('--learning_rate_decay_every', 1), [1, 0.8, 0.64, 0.512]),
    (('--learning_rate_decay_every', 2), [1, 1, 0.8, 0.8]),
    (('--learning_rate_decay_every', 1, '--learning_rate_decay_rate', 0.5), [1, 0.5, 0.25, 0.125]),
    (('--learning_rate_decay_every', 1, '--learning_rate_decay_start', 2), [1, 1, 1, 0.8]),
    (('--learning_rate_decay_every', 1, '--learning_rate_decay_start', -1), [1, 1, 1, 1]),
], ids=lambda value: '-'.join(map(str, value)))
def test_the_learning_rate_decays_by_epochs_according_to_its_flags(runs, flags, expected):
    run = runs('--learning_rate', 1e-3, '--max_epochs', 4, *flags)
    assert rates(run) == pytest.approx(list(np.repeat(expected, 3) * 1e-3))


@pytest.mark.parametrize('warmup, factor', [(2000, 1.0), (3, 1.0), (3, 0.5)])
def test_the_warm_up_schedule_follows_its_formula_and_ignores_other_flags(runs, warmup, factor):
    given = [flag for name, value, default in (('warmup', warmup, 2000), ('factor', factor, 1.0))
             if value != default for flag in (f'--noamopt_{name}', value)]
    run = runs('--noamopt', *given, '--max_epochs', 2, '--learning_rate_decay_every', 1)
    assert rates(run) == pytest.approx([
        factor * 16 ** -0.5 * min(step ** -0.5, step * warmup ** -1.5) for step in range(1, 7)])


def test_the_learning_rate_halves_on_a_plateau(runs):
    # The rate is so small that weights and validation loss do not change, so no validation is a new best.
    run = runs('--reduce_on_plateau', '--learning_rate', 1e-30, '--perform_validation_every', 1,
               '--max_epochs', 2, '--learning_rate_decay_every', 1)
    assert rates(run) == [1e-30] * 5 + [5e-31]


@pytest.mark.parametrize('share, warmup', [(0, 0), (0.34, 2)])
def test_the_cosine_rate_rises_over_its_share_and_falls_along_half_a_cosine(runs, share, warmup):
    run = runs('--cosine', '--cosine_warmup', share, '--max_epochs', 2, '--learning_rate', 1e-3,
               '--learning_rate_decay_every', 1)
    expected = [(step + 1) / warmup for step in range(warmup)]
    falling = 6 - warmup
    expected += [(1 + math.cos(math.pi * step / (falling + 1))) / 2 for step in range(1, falling + 1)]
    assert rates(run) == pytest.approx([1e-3 * one for one in expected])


def test_a_cosine_rate_is_refused_beside_another_schedule_and_without_an_end(runs):
    for flags, message in ((('--noamopt',), '--noamopt 1'), (('--reduce_on_plateau',), '--reduce_on_plateau 1'),
                           (('--max_epochs', -1), '--max_epochs')):
        with pytest.raises(UsageError, match=f'--cosine 1 .*{message}'):
            runs('--cosine', *flags)


def test_validations_come_at_the_end_of_each_epoch_unless_told_otherwise(runs):
    assert list(runs('--max_epochs', 3, '--perform_validation_every', 'epoch').val_result_history) == [3, 6, 9]
    assert opts.train_options([])[0].perform_validation_every == 'epoch'
    assert list(runs('--max_epochs', 3, '--perform_validation_every', 4).val_result_history) == [4, 8, 9]


def test_each_flag_of_the_course_of_a_run_has_its_effect(runs, corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = tiny.train_flags(corpus, '', '--max_epochs', 1)
    tiny.run(train, [*flags, '--id', 'named'])
    assert (tmp_path / 'checkpoints' / 'named' / 'infos_named.pkl').exists()
    tiny.run(train, [*flags, '--id', '', '--checkpoint_path', 'some/where'])
    assert (tmp_path / 'some' / 'where' / 'infos_where.pkl').exists()

    saves = []
    plain = filesets.save_set
    with monkeypatch.context() as patch:
        patch.setattr(filesets, 'save_set', lambda *given: (saves.append(1), plain(*given)))
        runs('--save_checkpoint_every', 1, anew=True)
        assert len(saves) == 4  # after each of three steps, and with the validation at the end
        runs(anew=True)
        assert len(saves) == 5
    assert list(runs('--perform_validation_every', 2).val_result_history) == [2, 3]
    assert list(runs('--losses_log_every', 2).loss_history) == [2] and len(runs().loss_history) == 3
    assert runs('--max_epochs', 2).infos['iter'] == 6
    few, every = (runs('--val_images_use', number).val_result_history[3]['loss'] for number in (1, -1))
    assert few != every == runs().val_result_history[3]['loss']
    for number, flags in ((9, ()), (7, ('--train_only',))):
        assert len(runs(*flags).infos['loader']['order']) == number

    for number, best in ((1, False), (0, True)):  # with rate 0 the model does not become better
        folder = shutil.copytree(runs().folder, tmp_path / f'on_{number}')
        tiny.run(train, tiny.train_flags(corpus, folder, '--start_from', folder, '--learning_rate', 0,
                                         '--max_epochs', 2, '--load_best_score', number))
        line = (folder / 'validations.jsonl').read_text().splitlines()[-1]
        assert json.loads(line)['iteration'] == 6 and json.loads(line)['best'] is best
        assert not differs(runs().weights, run_folder.read_tensors(str(folder / 'model.pth')))


def test_language_scores_are_computed_on_request_and_select_the_best_model(runs, monkeypatch):
    monkeypatch.setenv('PATH', '')  # without Java: quick, and only METEOR is missing
    run = runs('--language_eval', 1)
    assert {'loss', 'Bleu_4', 'CIDEr', 'bad_endings'} <= set(run.val_result_history[3])
    assert run.infos['best_val_score'] == run.val_result_history[3]['CIDEr']
    assert set(runs().val_result_history[3]) == {'loss'}


def test_validation_scores_against_texts_or_tokens_and_warns_of_other_words(runs, corpus, monkeypatch, capsys):
    monkeypatch.setenv('PATH', '')
    content = json.loads((corpus / 'talk.json').read_text())
    for image in content['images']:
        image['tokens'] = image['captions']
        image['captions'] = [caption.replace(' ', '') for caption in image['captions']]
    (corpus / 'unspaced.json').write_text(json.dumps(content))
    flags = ('--language_eval', 1, '--input_json', 'CORPUS/unspaced.json')
    plain = runs('--language_eval', 1).val_result_history[3]
    assert runs(*flags).val_result_history[3] == plain   # words separated by spaces, as those of the texts are
    capsys.readouterr()
    assert runs(*flags, '--score_tokens', 'raw').val_result_history[3]['Bleu_1'] < 0.01 < plain['Bleu_1']
    assert 'of the words of the references in' in capsys.readouterr().err
    with pytest.raises(UsageError, match='--score_tokens tokens: .*talk.json holds no tokens'):
        runs('--language_eval', 1, '--score_tokens', 'tokens')


@pytest.fixture
def validation_captions(runs, monkeypatch):
    """Call with flags for the captions that validation scores."""
    handed = []

    def score(captions, *more, **others):
        handed.append(captions)
        return {'CIDEr': 0.0}, {}, []
    monkeypatch.setattr(metrics, 'score', score)

    def captions(*flags):
        runs('--language_eval', 1, '--seed', 2, '--dropout', 0, '--drop_prob_lm', 0, *flags, anew=True)
        return handed[-1]
    return captions


@pytest.mark.parametrize('flag', CHANGES_VALIDATION)
def test_the_flag_changes_the_captions_of_validation(validation_captions, flag):
    value, base = CHANGES_VALIDATION[flag]
    plain = validation_captions(*base)
    assert len(plain) == 3 and plain != validation_captions(*base, f'--{flag}', value)


def test_the_device_is_that_of_the_flag(runs, monkeypatch):
    with pytest.raises(UsageError, match='--device cuda:63.*allowed are'):
        runs('--device', 'cuda:63')
    with pytest.raises(UsageError, match='--xlinear fused: .* need a CUDA device'):
        runs('--xlinear', 'fused')
    with pytest.raises(UsageError, match='--cuda_graphs 1 needs a CUDA device'):
        runs('--cuda_graphs', 1)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setattr(torch.cuda, 'set_device', lambda number: None)
    for there, found in ((True, 'cuda'), (False, 'cpu')):
        monkeypatch.setattr(torch.cuda, 'is_available', lambda there=there: there)
        assert machine.pick_device('auto').type == found
    assert str(machine.pick_device('cuda:1')) == 'cuda:1' and machine.pick_device('cpu').type == 'cpu'


def test_a_cuda_device_is_made_the_current_one_and_gets_the_precision_of_the_flag(corpus, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setattr(torch.cuda, 'set_device', lambda number: asked.append(number))
    monkeypatch.setattr(torch, 'set_float32_matmul_precision', asked.append)
    for name, precision in (('cuda', 'highest'), ('cuda:1', 'high'), ('cpu', 'medium')):
        machine.pick_device(name, precision)
    assert asked == [0, 'highest', 1, 'high']

    class Picked(Exception):
        pass

    def pick(name, matmul_precision):
        asked.append(matmul_precision)
        raise Picked

    for program, flags in ((train, tiny.train_flags), (evaluation, tiny.eval_flags)):
        monkeypatch.setattr(program, 'pick_device', pick)
        for given in ((), ('--matmul_precision', 'highest')):
            with pytest.raises(Picked):
                tiny.run(program, flags(corpus, tmp_path, *given))
    assert asked[4:] == ['high', 'highest'] * 2


@pytest.fixture
def readers(tmp_path, monkeypatch):
    """Call for the ids of the processes that read features since the last call."""
    folder, plain = tmp_path / 'readers', Corpus.arrays

    def arrays(self, row):
        (folder / str(os.getpid())).touch()
        return plain(self, row)
    monkeypatch.setattr(Corpus, 'arrays', arrays)
    folder.mkdir()

    def found():
        names = {int(path.name) for path in folder.iterdir()}
        for path in folder.iterdir():
            path.unlink()
        return names
    return found


def test_workers_read_the_features_and_do_not_change_the_run(runs, readers):
    alone = runs('--num_workers', 0, anew=True)
    assert readers() == {os.getpid()}
    helped = runs('--num_workers', 2, '--val_images_use', 1)
    assert len(readers()) >= 2 and os.getpid() not in readers()
    assert not differs(alone.weights, helped.weights)


@pytest.fixture
def evaluate(runs, corpus, tmp_path, monkeypatch):
    """Call with flags to evaluate the plain run; returns vis/vis.json."""
    monkeypatch.chdir(tmp_path)

    def run(*flags):
        flags = [str(flag).replace('CORPUS', str(corpus)) for flag in flags]
        for name, trained in (('OTHER', ('--seed', 7)), ('SHOWN', SHOW_TELL)):
            flags = [flag.replace(name, str(runs(*trained).folder)) if name in flag else flag for flag in flags]
        tiny.run(evaluation, tiny.eval_flags(corpus, runs().folder, *flags))
        return json.loads((tmp_path / 'vis' / 'vis.json').read_text())
    return run


@pytest.mark.parametrize('flag', CHANGES_CAPTIONS)
def test_the_flag_changes_the_results_of_evaluation(evaluate, flag):
    value, base = CHANGES_CAPTIONS[flag]
    changed = [f'--{flag}', value]
    if flag == 'model':  # a model and its infos must be of one run
        changed += ['--infos_path', 'OTHER/infos_tiny.pkl']
    assert evaluate(*base) == evaluate(*base) != evaluate(*base, *changed)


def test_each_input_flag_of_evaluation_has_its_effect(evaluate, runs, corpus, tmp_path, monkeypatch):
    infos = run_folder.read_infos(str(runs().folder / 'infos_tiny.pkl'))
    infos['opt']['id'] = 'renamed'
    (tmp_path / 'infos.pkl').write_bytes(run_folder.pickle_bytes(infos))
    losses = []
    for flags in ((), ('--input_label_h5', corpus / 'other' / 'talk_label.h5')):
        evaluate('--infos_path', tmp_path / 'infos.pkl', '--verbose_loss', 1, *flags)
        losses.append(json.loads((tmp_path / 'eval_results' / 'renamed_test.json').read_text())['loss'])
    assert losses[0] != losses[1]
    sizes = []
    plain = TransformerCaptioner.encode
    monkeypatch.setattr(TransformerCaptioner, 'encode', lambda self, batch: (sizes.append(len(batch.counts)),
                                                                  plain(self, batch))[1])
    evaluate('--batch_size', 3)
    evaluate()
    assert sizes == [3, 1, 4]


def test_evaluation_uses_the_workers_and_the_device_of_the_flags(evaluate, readers):
    plain = evaluate()
    assert readers() == {os.getpid()}
    assert evaluate('--num_workers', 1) == plain
    assert readers() - {os.getpid()}  # which reads the first image, to check it, before the workers begin
    with pytest.raises(UsageError, match='--device cuda:63.*allowed are'):
        evaluate('--device', 'cuda:63')
    with pytest.raises(UsageError, match='--xlinear fused: .* need a CUDA device'):
        evaluate('--xlinear', 'fused')
    with pytest.raises(UsageError, match='--cuda_graphs 1 needs a CUDA device'):
        evaluate('--cuda_graphs', 1)


@pytest.mark.parametrize('flag', opts.MODEL_OPTIONS)
def test_evaluation_refuses_a_model_option_that_contradicts_the_run(evaluate, runs, flag):
    value = {**CHANGES_SHAPES, **CHANGES_SHAPES_OF, **CHANGES_WEIGHTS}[flag][0]
    saved = opts.show(runs().infos['opt'][flag])
    with pytest.raises(UsageError, match=f'--{flag} {value} contradicts .*infos_tiny.pkl.* {flag} {saved}'):
        evaluate(f'--{flag}', value)
    evaluate(f'--{flag}', saved)


def source_of(place):
    """The source of a test file, or, after `::`, of one function of it."""
    path, _, name = place.partition('::')
    source = (ROOT / 'tests' / path).read_text(encoding='utf-8')
    if not name:
        return source
    function, = (node for node in ast.parse(source).body if getattr(node, 'name', '') == name)
    return ast.get_source_segment(source, function)


def test_every_flag_has_its_test():
    groups = [CHANGES_WEIGHTS, CHANGES_SHAPES, CHANGES_SHAPES_OF, CHANGES_VALIDATION, SCHEDULES,
              SCHEDULED_SAMPLING, RUNNING, RESUMING, MACHINE, PARTS, SELF_CRITICAL]
    assert sorted(name for group in groups for name in group) == sorted(flags_of(opts.train_parser()))
    groups = [CHANGES_CAPTIONS, EVAL_READING, RUN_FOLDER, OUTPUTS, opts.MODEL_OPTIONS, MACHINE, OWN_PICTURES,
              IN_THEIR_FILES, *IN_TEST_EVAL.values()]
    assert {name for group in groups for name in group} == set(flags_of(opts.eval_parser()))
    for place, names in ELSEWHERE.items():
        source = source_of(place)
        assert [name for name in names if f"'--{name}'" not in source] == []
