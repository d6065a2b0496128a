"""Legacy checkpoints are read as they are and give the numbers of the code that wrote them."""

import argparse
import functools
import itertools
import json

import pytest
import torch

import eval as evaluation
import models
import opts
import train
from misc.cli import DataError, UsageError
from misc.run import folder as run_folder
from misc.run import legacy
from scripts import convert_checkpoint
from tests import naive
from tests.helpers import legacy_code, tiny
from tests.helpers.legacy_checkpoints import VOCABULARY, legacy_options, write_legacy
from tests.helpers.models import make_batch, make_captions, make_model, make_options, per_image

TRANSFORMER, RELATION = dict(caption_model='transformer'), dict(caption_model='relation_transformer')
TOPDOWN, SHOW_TELL = dict(caption_model='topdown'), dict(caption_model='show_tell')
# Every model and option that exists in the Spatial code, and in the zoo.
SPATIAL = [
    dict(), dict(enc_pos_type='g2'), dict(enc_pos_type='box-coord'), dict(cross_attn='dot-product'),
    dict(norm='rms'), dict(ff_activation='gelu'), TRANSFORMER, {**TRANSFORMER, 'cross_attn': 'dot-product'},
    dict(heads=2), dict(num_layers=3), dict(norm_img_feat=True, norm_box_feat=True), SHOW_TELL]
ZOO = [
    TRANSFORMER, {**TRANSFORMER, 'use_bn': 1}, {**TRANSFORMER, 'use_bn': 2}, RELATION,
    {**RELATION, 'box_trignometric_embedding': False}, {**RELATION, 'legacy_extra_skip': True, 'use_bn': 2},
    {**TRANSFORMER, 'norm_img_feat': True}, TOPDOWN, {**TOPDOWN, 'use_bn': 1}, {**TOPDOWN, 'use_bn': 2},
    SHOW_TELL, {**SHOW_TELL, 'rnn_type': 'gru'}]


def name_of(value):
    return '-'.join(map(str, value.values())) or 'plain' if isinstance(value, dict) else None


def loaded(model_path, infos_path, *given):
    """The model of a legacy checkpoint in evaluation mode, and its options."""
    run = run_folder.read_run(model_path, infos_path)
    options, names = opts.parse(opts.train_parser(), [*map(str, given)])
    options = opts.with_model_options(options, names, run.infos['opt'], infos_path)
    model = models.build(options, len(run.infos['vocab']) + 1, run.infos['opt']['seq_length'])
    run_folder.load_run_weights(model, run)
    return model.eval(), options


@pytest.mark.parametrize('spatial, changes', [(True, one) for one in SPATIAL] + [(False, one) for one in ZOO],
                         ids=name_of)
def test_a_model_is_restored_from_legacy_names_with_every_option_and_exactly_its_numbers(
        tmp_path, capsys, spatial, changes):
    options = {'norm_img_feat': False, 'norm_box_feat': False, **(
        {} if spatial else {'cross_attn': 'dot-product', 'heads': 8, 'norm': 'deviation'}), **changes}
    options = vars(make_options(**options))
    model = make_model(**options).eval()
    for name, buffer in model.named_buffers():
        if 'running' in name:
            buffer += torch.rand_like(buffer)
    names = legacy.Names(options['caption_model'], options['use_bn'], spatial)
    weights = names.theirs(model.state_dict())
    weights['model.tgt_embed.1.pe'] = torch.zeros(1, 5, 3)
    found, recognised = loaded(*write_legacy(tmp_path, weights, legacy_options(options, spatial)))
    rates = 'dropout 0.2, drop_prob_lm 0.2' if spatial else 'dropout 0.1, drop_prob_lm 0.4'
    messages = capsys.readouterr().err
    assert f'legacy checkpoint: caption_model {options["caption_model"]}, ' in messages and rates in messages
    for name in opts.MODEL_OPTIONS:
        if opts.is_used(name, recognised):
            assert getattr(recognised, name) == options[name], name
    captions, batch = make_captions(), make_batch()
    assert torch.equal(found(found.encode(batch), captions), model(model.encode(batch), captions))


# Case: (weights under legacy names, the model of the plain formulas, options, whether of the Spatial code).
BY_HAND = {
    'spatial': (legacy_code.spatial_weights(), legacy_code.spatial_model, dict(heads=8), True),
    'spatial, dot-product': (
        legacy_code.spatial_weights(xlinear=False), functools.partial(legacy_code.spatial_model, xlinear=False),
        dict(heads=8, cross_attn='dot-product'), True),
    'spatial, g2, rms': (
        legacy_code.spatial_weights('g2', norms=('scale',)),
        functools.partial(legacy_code.spatial_model, place='g2'),
        dict(heads=8, enc_pos_type='g2', norm='rms'), True),
    'spatial, box-coord, gelu': (
        legacy_code.spatial_weights('box-coord'),
        functools.partial(legacy_code.spatial_model, place='box-coord', activation='gelu'),
        dict(heads=8, enc_pos_type='box-coord', ff_activation='gelu'), True),
    'relation': (legacy_code.relation_weights(), legacy_code.relation_model,
                 {**RELATION, 'legacy_extra_skip': True, 'use_bn': 2}, False),
    'relation, four numbers': (legacy_code.relation_weights(geometry=4), legacy_code.relation_model, {
        **RELATION, 'legacy_extra_skip': True, 'use_bn': 2, 'box_trignometric_embedding': False}, False),
    'topdown': (legacy_code.topdown_weights(), legacy_code.topdown_model,
                {**TOPDOWN, 'input_encoding_size': 9}, False),
    'show_tell': (legacy_code.show_tell_weights(), legacy_code.show_tell_model,
                  {**SHOW_TELL, 'input_encoding_size': 9}, False),
    'spatial, show_tell': (
        legacy_code.show_tell_weights('rnn'), functools.partial(legacy_code.show_tell_model, core='rnn'),
        {**SHOW_TELL, 'input_encoding_size': 9}, True),
}


@pytest.mark.parametrize('case', BY_HAND)
def test_a_legacy_model_gives_the_numbers_of_the_plain_formulas(tmp_path, case):
    weights, plain_model, changes, spatial = BY_HAND[case]
    opt = legacy_options(vars(make_options(norm_img_feat=False, norm_box_feat=False, **changes)), spatial)
    model, _ = loaded(*write_legacy(tmp_path, dict(weights), opt))
    plain, batch, captions = plain_model(weights), make_batch(), make_captions()
    log_probs = model(model.encode(batch), captions)
    for i, (features, grids, boxes) in enumerate(per_image(batch)):
        for s in range(captions.shape[1]):
            words = captions[i, s][captions[i, s] > 0].tolist()
            if hasattr(plain, 'encoder'):
                regions = naive.encode(plain, features, grids, boxes)
                expected = naive.next_word_log_probs(plain, regions, words)
            else:
                expected = naive.recurrent_log_probs(plain, features, words)
            assert torch.allclose(log_probs[i, s, :len(words) + 1], expected, atol=1e-5)


def without(*names):
    return lambda weights: {name: tensor for name, tensor in weights.items() if name not in names}


def with_one(name, *shape):
    return lambda weights: {**weights, name: torch.ones(shape)}


# Case of the zoo's relation transformer: (a change of its weights, of its options, the message).
ENCODER, NORM = 'model.encoder.layers.0', 'model.decoder.layers.1.sublayer.2.norm.a_2'
WRONG = {
    'a key missing': (without(f'{ENCODER}.self_attn.linears.2.bias'), {}, [
        r'layers\.0\.self_attn\.linears\.2\.bias is missing$']),
    'a head missing': (without(f'{ENCODER}.self_attn.WGs.3.weight'), {}, [r'WGs\.3\.weight is missing$']),
    'a norm missing': (without(NORM), {}, [r'sublayer\.2\.norm\.a_2 is missing$']),
    'the features missing': (without('att_embed.1.weight'), {}, [r'att_embed\.1\.weight is missing$']),
    'words missing': (without('model.tgt_embed.0.lut.weight'), {}, [
        r'tgt_embed\.0\.lut\.weight is missing$']),
    'a key too many': (with_one(f'{ENCODER}.self_attn.more.weight', 2), {}, [
        r'self_attn\.more\.weight is not known$']),
    'a layer begun': (with_one('model.encoder.layers.2.self_attn.linears.0.weight', 16, 16), {}, [
        r'layers\.2\.self_attn\.linears\.0\.weight is not known$']),
    'a wrong shape': (with_one(f'{ENCODER}.feed_forward.w_1.weight', 21, 16), {}, [
        r'feed_forward\.w_1\.weight is \(21, 16\), not \(20, 16\)$']),
    'several': (lambda weights: without(NORM)(with_one('model.more.weight', 2)(weights)), {}, [
        r'norm\.a_2 is missing; model\.more\.weight is not known$']),
    'features of another size': (with_one('att_embed.1.weight', 16, 13), {}, [
        r'img_feat_size is 12 in the infos file and 13 by att_embed\.1\.weight$']),
    'numbers that are none': (lambda weights: {**weights, NORM: weights[NORM] * torch.nan}, {}, [
        r'not finite .*norm\.a_2']),
    'options of another model': (dict, dict(num_layers=6, rnn_size=2048), [
        r'ff_size is 2048 in the infos file and 20 by .*\.w_1',
        'num_layers is 6 in the infos file and 2 by']),
    'another kind of model': (dict, dict(caption_model='topdown'), [
        'caption_model is topdown in the infos file and relation_transformer by']),
    'another norm': (dict, dict(norm='RMS'), ['norm is rms in the infos file and deviation by']),
    'another vocabulary': (lambda weights: {
        **weights, 'model.tgt_embed.0.lut.weight': torch.ones(12, 16),
        'model.generator.proj.weight': torch.ones(12, 16), 'model.generator.proj.bias': torch.ones(12)}, {}, [
        r'vocab_size is 10 in the infos file and 11 by model\.(generator|tgt_embed)']),
    'a model that is not known': (lambda _: {
        'core.a2c.weight': torch.ones(2, 2), 'logit.bias': torch.ones(2)}, {}, [
        r'core\.a2c\.weight, logit\.bias \.\.\. belong to none of the legacy models .*relation_transformer']),
}


@pytest.mark.parametrize('case', WRONG)
def test_weights_that_do_not_fit_are_named_as_in_the_file(tmp_path, case):
    change, options, expected = WRONG[case]
    opt = legacy_options(vars(make_options(**RELATION, use_bn=2, norm_img_feat=False)), spatial=False)
    vars(opt).update(options)
    paths = write_legacy(tmp_path, change(dict(legacy_code.relation_weights())), opt)
    with pytest.raises(DataError, match=f'(?s)^{paths[0]} .*' + '.*'.join(expected)) as error:
        loaded(*paths)
    assert len(str(error.value).splitlines()) == 1


def test_weights_of_the_spatial_encoding_in_the_infos_must_exist(tmp_path):
    options = make_options(**TRANSFORMER, norm_img_feat=False, norm_box_feat=False)
    weights = legacy.Names('transformer', spatial=True).theirs(make_model(**vars(options)).state_dict())
    opt = legacy_options(vars(options), spatial=True)
    opt.use_grid = True
    with pytest.raises(DataError, match='use_grid is true in the infos file, there is no model.src_embed'):
        loaded(*write_legacy(tmp_path, weights, opt))


def test_batch_norm_without_its_number_of_batches_is_read(tmp_path):
    weights = without('att_embed.0.num_batches_tracked', 'att_embed.4.num_batches_tracked')(
        legacy_code.relation_weights())
    opt = legacy_options(vars(make_options(**RELATION, use_bn=2, norm_img_feat=False)), spatial=False)
    model, _ = loaded(*write_legacy(tmp_path, weights, opt))
    assert torch.equal(model.feature_norm.running_mean, weights['att_embed.0.running_mean'])


def python_2(value, protocol=2):
    """The pickle that Python 2 writes of plain values, without its memo: strings are byte strings."""
    if isinstance(value, str):
        return b'U' + bytes([len(value)]) + value.encode('latin-1')
    if value is None or isinstance(value, bool):
        return {None: b'N', True: b'\x88', False: b'\x89'}[value]
    if isinstance(value, int):
        return b'J' + value.to_bytes(4, 'little', signed=True)
    if isinstance(value, float):
        return b'F%r\n' % value
    if isinstance(value, list):
        return b'](' + b''.join(python_2(item, protocol) for item in value) + b'e'
    if isinstance(value, dict):
        return b'}(' + b''.join(python_2(item, protocol) for pair in value.items() for item in pair) + b'u'
    made = b'cargparse\nNamespace\n)\x81' if protocol == 2 else (
        b'ccopy_reg\n_reconstructor\n(cargparse\nNamespace\nc__builtin__\nobject\nNtR')
    return made + python_2(vars(value), protocol) + b'b'


@pytest.mark.parametrize('protocol', [0, 2])
def test_infos_files_of_python_2_are_read_and_missing_entries_get_defaults(tmp_path, protocol):
    options = make_options(**RELATION, use_bn=2, norm_img_feat=False, legacy_extra_skip=True)
    opt = legacy_options(vars(options), spatial=False)
    del opt.seq_length
    opt.id, opt.language_eval = 'caf\xe9', 1
    paths = write_legacy(tmp_path, dict(legacy_code.relation_weights()), opt)
    content = {'opt': opt, 'vocab': {**VOCABULARY, '3': 'na\xefve'}, 'best_val_score': 1.25,
               'odd': [None, True]}
    start = b'\x80\x02' if protocol else b''
    (tmp_path / 'infos.pkl').write_bytes(start + python_2(content, protocol) + b'.')
    run = run_folder.read_run(*paths, longest=9)
    assert run.infos['opt']['id'] == 'caf\xe9' and run.infos['vocab']['3'] == 'na\xefve'
    assert (run.infos['iter'], run.infos['epoch']) == (0, 0)
    assert (run.infos['best_val_score'], run.infos['best_measure']) == (1.25, 'CIDEr')
    assert run.infos['opt']['seq_length'] == 9 and run.infos['opt']['legacy_extra_skip'] is True
    assert run_folder.read_run(*paths).infos['opt']['seq_length'] == 16


def same_as(folder, corpus):
    """Flags of a run on the corpus without dropout: every step depends only on weights and moments."""
    return tiny.train_flags(corpus, folder, '--heads', 8, '--dropout', 0, '--drop_prob_lm', 0, '--noamopt',
                            '--noamopt_warmup', 5, '--input_rel_box_dir', corpus / 'rel')


@pytest.fixture(scope='module')
def trained(corpus, tmp_path_factory):
    """A run of one epoch: a relation transformer with every option of the zoo's."""
    folder = tmp_path_factory.mktemp('runs') / 'run'
    tiny.run(train, [*same_as(folder, corpus), '--max_epochs', 1, '--caption_model', 'relation_transformer',
                     '--norm', 'deviation', '--use_bn', 2, '--legacy_extra_skip', 1])
    return folder


def aged(trained, folder, model='model.pth', infos='infos_zoo.pkl', moments=True):
    """Write that run into `folder` as the zoo would have written it; returns the folder."""
    run = run_folder.find_run(str(trained), 'tiny')
    names = legacy.Names('relation_transformer', use_bn=2)
    weights = names.theirs(run.weights)
    weights = {key: weights[key] for key in sorted(weights, reverse=True)}  # another order
    opt = legacy_options({**run.infos['opt'], 'norm_box_feat': False}, spatial=False)
    weights['model.tgt_embed.1.pe'] = torch.zeros(1, 5, 16)
    write_legacy(folder, weights, opt, model, infos, vocab=run.infos['vocab'], iter=run.infos['iter'],
              epoch=run.infos['epoch'])
    if moments:
        state = run_folder.read_tensors(run.optimiser_path)['state']
        places = [key for key in run.weights if key.rpartition('.')[2] not in legacy.BUFFERS]
        of = {kind: names.theirs({key: state[place][kind] for place, key in enumerate(places)})
              for kind in ('exp_avg', 'exp_avg_sq')}
        identities = dict(zip((key for key in weights if key in of['exp_avg']), itertools.count(140000, 16)))
        torch.save({'state': {number: {'step': int(state[0]['step']), **{kind: of[kind][key] for kind in of}}
                              for key, number in identities.items()},
                    'param_groups': [{'lr': 0.1, 'betas': (0.9, 0.98), 'eps': 1e-9, 'weight_decay': 0,
                                      'amsgrad': False, 'params': list(identities.values())}]},
                   folder / 'optimizer.pth')
    return folder


def captions_of(corpus, model, infos):
    """Run eval.py in the current folder; returns vis/vis.json."""
    tiny.run(evaluation, ['--model', model, '--infos_path', infos, *tiny.data_flags(corpus),
                          '--num_workers', 0, '--device', 'cpu', '--input_rel_box_dir', corpus / 'rel',
                          '--beam_size', 3])
    with open('vis/vis.json', encoding='utf-8') as file:
        return json.load(file)


def test_evaluation_of_legacy_files_gives_the_same_captions(corpus, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    old = aged(trained, tmp_path / 'old', 'model.pt', 'infos_zoo-best.pkl')
    found = captions_of(corpus, old / 'model.pt', old / 'infos_zoo-best.pkl')
    assert 'model.pt is a legacy checkpoint: caption_model relation_transformer' in capsys.readouterr().err
    assert found == captions_of(corpus, trained / 'model.pth', trained / 'infos_tiny.pkl')
    with pytest.raises(UsageError, match='num_layers 3 contradicts .*infos_zoo-best.pkl, which has .* 1;'):
        tiny.run(evaluation, ['--model', old / 'model.pt', '--infos_path', old / 'infos_zoo-best.pkl',
                              '--num_layers', 3])


def test_training_resumes_from_legacy_files_as_from_its_own(corpus, trained, tmp_path, capsys):
    old, runs = aged(trained, tmp_path / 'old'), {'from_old': None, 'from_own': None}
    for name, start in (('from_old', old), ('from_own', trained)):
        for epochs in (2, 3):  # the second time, an ordinary resume
            tiny.run(train, [*same_as(tmp_path / name, corpus), '--start_from', start,
                             '--max_epochs', epochs])
            start = tmp_path / name
        runs[name] = run_folder.find_run(str(start), 'tiny')
    messages = capsys.readouterr().err
    assert 'epoch 1 starts from its beginning' in messages and 'no moments' not in messages
    assert runs['from_old'].infos['iter'] == runs['from_own'].infos['iter'] == 9
    for name, value in runs['from_own'].weights.items():
        assert torch.equal(value, runs['from_old'].weights[name]), name


def test_training_resumes_from_whatever_a_legacy_folder_has(corpus, trained, tmp_path, capsys):
    plain = aged(trained, tmp_path / 'plain', 'model.pt', 'infos.pkl', moments=False)
    best = aged(trained, tmp_path / 'best', 'model-best.pth', 'infos_tiny-best.pkl')
    fewer, sgd, empty = (aged(trained, tmp_path / name, infos='infos_tiny.pkl') for name in ('fewer', 'sgd', 'empty'))
    places = run_folder.read_tensors(str(sgd / 'optimizer.pth'))['param_groups'][0]['params']
    for folder, group in ((fewer, {'params': places[1:]}), (sgd, {'params': places, 'momentum': 0.9}),
                          (empty, {'params': places, 'betas': (0.9, 0.98)})):
        torch.save({'state': {}, 'param_groups': [group]}, folder / 'optimizer.pth')
    for folder in (plain, best, fewer, sgd, empty):
        tiny.run(train, [*same_as(folder, corpus), '--start_from', folder, '--max_epochs', 2])
        messages = capsys.readouterr().err
        assert messages.count('no moments of this optimiser and model; they start from zero') == 1
        infos = run_folder.read_infos(str(folder / 'infos_tiny.pkl'))
        assert infos['iter'] == 6 and infos['epoch'] == 2
        # The best score is kept only if the best model exists.
        assert (infos['best_val_score'] == 0.5) is (folder == best)
    with pytest.raises(DataError, match='infos_one.pkl, infos_zoo.pkl; name the run with --id'):
        tiny.run(train, [*same_as(tmp_path / 'on', corpus), '--start_from', aged(
            trained, aged(trained, tmp_path / 'two', infos='infos_one.pkl'))])
    lone = aged(trained, tmp_path / 'lone', 'model.pth', 'infos_zoo-best.pkl')
    run = run_folder.find_run(str(lone), 'tiny')
    assert (run.model_path, run.optimiser_path) == (str(lone / 'model.pth'), str(lone / 'optimizer.pth'))
    assert run.infos['best_val_score'] is None
    assert f'best model that is missing; {lone / "model.pth"} is used instead' in capsys.readouterr().err


def test_a_legacy_run_keeps_its_dropout_until_a_flag_changes_it(
        corpus, trained, tmp_path, capsys):
    at = [place for place, flag in enumerate(same_as('', corpus)) if flag in ('--dropout', '--drop_prob_lm')]

    def rates(start, epochs, *more):
        flags = same_as(tmp_path / 'run', corpus)
        flags = [flag for place, flag in enumerate(flags) if place not in at and place - 1 not in at]
        tiny.run(train, [*flags, '--start_from', start, '--max_epochs', epochs, *more])
        opt = run_folder.read_infos(str(tmp_path / 'run' / 'infos_tiny.pkl'))['opt']
        return opt['dropout'], opt['drop_prob_lm']

    assert rates(aged(trained, tmp_path / 'old'), 2) == (0.1, 0.4)
    assert 'note: dropout 0.1, drop_prob_lm 0.4, as in the legacy checkpoint' in capsys.readouterr().err
    assert rates(tmp_path / 'run', 3) == (0.1, 0.4)  # a resume by the same command
    assert rates(tmp_path / 'run', 4, '--drop_prob_lm', 0.3) == (0.1, 0.3)
    assert 'note: dropout 0.1, as' in capsys.readouterr().err
    options = argparse.Namespace(dropout=0.1, drop_prob_lm=0.5, caption_model='transformer')
    found, taken = opts.with_dropout_rates(options, set(), {'dropout': 0.3}, 'infos.pkl')
    assert taken == {} and found.dropout == 0.1
    with pytest.raises(DataError, match='infos.pkl says dropout: .*2'):
        opts.with_dropout_rates(options, set(), {'dropout': 2, 'keeps_rates': True}, 'infos.pkl')
    options.caption_model = 'show_tell'  # which does not use the dropout inside transformers
    found, taken = opts.with_dropout_rates(
        options, set(), {'dropout': 0.3, 'drop_prob_lm': 0.2, 'keeps_rates': True}, 'infos.pkl')
    assert taken == {'drop_prob_lm': 0.2} and (found.dropout, found.drop_prob_lm) == (0.1, 0.2)


def with_optimiser(folder, maker, moves=True):
    """Add the legacy optimiser state for the weights in `folder`; returns {current name: moments}."""
    weights = run_folder.read_tensors(str(folder / 'model.pth'))
    parameters = {key: torch.nn.Parameter(weight) for key, weight in weights.items()
                  if key not in legacy.IGNORED and key.rpartition('.')[2] not in legacy.BUFFERS}
    optimiser = maker(list(parameters.values()))
    for parameter in parameters.values():
        parameter.grad = torch.randn_like(parameter)
    if moves:
        optimiser.step()
    state = optimiser.state_dict()
    newer = ('maximize', 'foreach', 'capturable', 'differentiable', 'fused', 'decoupled_weight_decay')
    groups = [{name: value for name, value in group.items() if name not in newer}
              for group in state['param_groups']]
    torch.save({'state': state['state'], 'param_groups': groups}, folder / 'optimizer.pth')
    names = legacy.Names.of(weights)
    kinds = {kind for one in state['state'].values() for kind in one} - {'step'}
    moments = {kind: names.ours({key: optimiser.state[parameter][kind]
                                 for key, parameter in parameters.items()}) for kind in kinds}
    return {name: {kind: of[name] for kind, of in moments.items()} for name in names.ours(parameters)}


OLD_OPTIMISERS = {
    'adam': torch.optim.Adam, 'rmsprop': torch.optim.RMSprop, 'adagrad': torch.optim.Adagrad,
    'sgd': functools.partial(torch.optim.SGD, lr=0.1),
    'sgdm': functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    'sgdmom': functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True)}


@pytest.mark.parametrize('kind', OLD_OPTIMISERS)
def test_a_converted_run_keeps_the_moments_of_its_optimiser(
        corpus, trained, tmp_path, capsys, kind):
    old, new = aged(trained, tmp_path / 'old', moments=False), tmp_path / 'new'
    expected = with_optimiser(old, OLD_OPTIMISERS[kind])
    tiny.run(convert_checkpoint, ['--input_dir', old, '--output_dir', new])
    assert f'optimizer.pth holds moments of --optim {kind}\n' in capsys.readouterr().err
    state = run_folder.read_tensors(str(new / 'optimizer.pth'))['state']
    names = [name for name in run_folder.read_tensors(str(new / 'model.pth'))
             if name.rpartition('.')[2] not in legacy.BUFFERS]
    assert set(names) == set(expected) and bool(state) is (kind != 'sgd')
    for place, moments in state.items():
        assert moments.pop('step', 1) == 1 and set(moments) == set(expected[names[place]])
        assert all(torch.equal(moment, expected[names[place]][name]) for name, moment in moments.items())
    flags = [flag for flag in same_as(tmp_path / 'on', corpus) if flag != '--noamopt']
    tiny.run(train, [*flags, '--start_from', new, '--optim', kind, '--max_epochs', 2])
    assert 'start from zero' not in capsys.readouterr().err


@pytest.mark.parametrize('lacking', ['moments', 'file'])
def test_a_run_without_moments_is_converted_without_them(corpus, trained, tmp_path, capsys, lacking):
    old, new = aged(trained, tmp_path / 'old', moments=False), tmp_path / 'new'
    if lacking == 'moments':
        with_optimiser(old, torch.optim.Adam, moves=False)
    tiny.run(convert_checkpoint, ['--input_dir', old, '--output_dir', new])
    assert 'holds no moments that can be converted; training starts from zero moments' in capsys.readouterr().err
    tiny.run(train, [*same_as(tmp_path / 'on', corpus), '--start_from', new, '--max_epochs', 2])
    assert 'new/optimizer.pth holds no moments of this optimiser' in capsys.readouterr().err


def test_a_converted_run_is_a_run_of_this_project(corpus, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    old = aged(trained, aged(trained, tmp_path / 'old', 'model-best.pth', 'infos_zoo-best.pkl'))
    tiny.run(convert_checkpoint, ['--input_dir', old, '--output_dir', 'new'])
    assert 'python eval.py --run new\n' in capsys.readouterr().out
    own, new = run_folder.find_run(str(trained), 'tiny'), run_folder.find_run('new', 'new')
    assert new.names is None
    for kind in ('model.pth', 'model-best.pth'):
        found = run_folder.read_tensors(f'new/{kind}')
        assert all(torch.equal(value, found[name]) for name, value in own.weights.items())
    assert captions_of(corpus, 'new/model-best.pth', 'new/infos_new-best.pkl') == captions_of(
        corpus, trained / 'model.pth', trained / 'infos_tiny.pkl')
    one, other = (run_folder.read_tensors(run.optimiser_path)['state'] for run in (own, new))
    assert all(torch.equal(one[place][kind], other[place][kind]) for place in one for kind in one[place])
    tiny.run(train, [*same_as('new', corpus), '--start_from', 'new', '--id', 'new', '--max_epochs', 2])
    tiny.run(convert_checkpoint, ['--model', old / 'model.pth', '--infos_path', old / 'infos_zoo.pkl',
                                  '--output_dir', 'more', '--id', 'named'])
    assert (tmp_path / 'more' / 'infos_named.pkl').exists()
    two = aged(trained, aged(trained, tmp_path / 'two', infos='infos_one.pkl'))
    for flags, kind, text in (
            (['--input_dir', old, '--output_dir', 'new'], UsageError, 'new is not empty'),
            (['--input_dir', 'nowhere', '--output_dir', 'none'], DataError,
             '--input_dir: there is no folder'),
            (['--input_dir', trained, '--output_dir', 'none'], DataError, 'in the format of this project already'),
            (['--input_dir', two, '--output_dir', 'none', '--id', 'one'], DataError,
             'two has infos_one.pkl, infos_zoo.pkl; name the files of one run with --model and --infos_path'),
            (['--input_dir', '.', '--output_dir', 'none'], DataError,
             r'\. has no infos file, infos_ID.pkl; name the files of one run with --model'),
            (['--input_dir', old, '--output_dir', '.hidden'], UsageError,
             '--output_dir: .*.hidden. is not allowed'),
            (['--model', old / 'model.pth', '--output_dir', 'none'], UsageError, 'give --input_dir, or')):
        with pytest.raises(kind, match=text):
            tiny.run(convert_checkpoint, flags)
    assert not (tmp_path / 'none').exists()
