"""Checkpoints of older code are read as they are, with the numbers of the code that made them."""

import argparse
import itertools
import json
import pickle

import pytest
import torch

import eval as evaluation
import models
import opts
import train
from misc import checkpoint, legacy
from misc.cli import DataError, UsageError
from scripts import convert_checkpoint
from tests import naive, old_code, tiny
from tests.test_models import make_batch, make_captions, make_model, make_options, per_image

VOCABULARY = {str(index): f'word{index}' for index in range(1, 11)}
TRANSFORMER, RELATION = dict(caption_model='transformer'), dict(caption_model='relation_transformer')
TOPDOWN, SHOW_TELL = dict(caption_model='topdown'), dict(caption_model='show_tell')
# Every model and option that has a form in the Spatial code, and in the zoo.
SPATIAL = [
    dict(), dict(enc_pos_type='g2'), dict(enc_pos_type='box-coord'), dict(cross_attn='dot-product'),
    dict(norm='rms'), dict(ff_activation='gelu'), TRANSFORMER, {**TRANSFORMER, 'cross_attn': 'dot-product'},
    dict(heads=2), dict(num_layers=3), dict(norm_img_feat=True, norm_box_feat=True), SHOW_TELL]
ZOO = [
    TRANSFORMER, {**TRANSFORMER, 'use_bn': 1}, {**TRANSFORMER, 'use_bn': 2}, RELATION,
    {**RELATION, 'box_trignometric_embedding': False}, {**RELATION, 'legacy_extra_skip': True, 'use_bn': 2},
    {**TRANSFORMER, 'norm_img_feat': True}, TOPDOWN, {**TOPDOWN, 'use_bn': 1}, {**TOPDOWN, 'use_bn': 2}, SHOW_TELL]


def name_of(value):
    return '-'.join(map(str, value.values())) or 'plain' if isinstance(value, dict) else None


def old_options(options, spatial):
    """What the infos file of older code says of a model with the options `options` (a dict)."""
    shared = {'num_layers': options['num_layers'], 'input_encoding_size': options['input_encoding_size'],
              'vocab_size': 10, 'seq_length': 6, 'id': 'old', 'input_json': '/somewhere/talk.json'}
    recurrent = options['caption_model'] in ('topdown', 'show_tell')
    if spatial:
        is_placed = options['caption_model'] == 'spatial_pe'
        return argparse.Namespace(**shared, **{name: options[name] for name in (
            'ff_size', 'heads', 'img_feat_size', 'num_grids', 'enc_pos_embedding', 'enc_pos_type', 'cross_attn',
            'norm_img_feat', 'norm_box_feat')}, caption_model='show_tell' if recurrent else 'transformer',
            rnn_size=options['hidden_size'], use_grid=is_placed, dropout=0.2, an_unknown_field=[1],
            norm={'layer': 'layer', 'rms': 'RMS'}[options['norm']],
            ff_activation={'relu': 'RELU', 'gelu': 'GELU'}[options['ff_activation']])
    return argparse.Namespace(
        **shared, **{name: options[name] for name in (
            'caption_model', 'use_bn', 'box_trignometric_embedding', 'legacy_extra_skip')},
        rnn_size=options['hidden_size' if recurrent else 'ff_size'], att_feat_size=options['img_feat_size'],
        norm_att_feat=int(options['norm_img_feat']), drop_prob_lm=0.4, use_box=1, language_eval=1)


def write_old(folder, weights, opt, model='model.pth', infos='infos.pkl', protocol=2, **changes):
    """Files of older code in `folder`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(weights, folder / model)
    content = {'opt': opt, 'vocab': VOCABULARY, 'iter': 7, 'epoch': 2, 'best_val_score': 0.5, 'iterators': {},
               'split_ix': {'train': [3, 1]}, **changes}
    (folder / infos).write_bytes(pickle.dumps(content, protocol))
    return str(folder / model), str(folder / infos)


def loaded(model_path, infos_path, *given):
    """The model in older files, ready to compute, and its options."""
    run = checkpoint.read_run(model_path, infos_path)
    options, names = opts.parse(opts.train_parser(), [*map(str, given)])
    opts.take_model_options(options, names, run.infos['opt'], infos_path)
    model = models.build(options, len(run.infos['vocab']) + 1, run.infos['opt']['seq_length'])
    checkpoint.take_weights(model, run)
    return model.eval(), options


@pytest.mark.parametrize('spatial, changes', [(True, one) for one in SPATIAL] + [(False, one) for one in ZOO],
                         ids=name_of)
def test_a_model_comes_back_from_older_names_with_every_option_and_exactly_its_numbers(tmp_path, spatial, changes):
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
    found, recognised = loaded(*write_old(tmp_path, weights, old_options(options, spatial)))
    for name in opts.MODEL_OPTIONS:
        if opts.matters(name, recognised):
            assert getattr(recognised, name) == options[name], name
    captions, batch = make_captions(), make_batch()
    assert torch.equal(found(found.encode(batch), captions), model(model.encode(batch), captions))


# Weights by the names of older code alone, how the plain formulas compute with them, and their options.
BY_HAND = {
    'spatial': (old_code.spatial_weights(), old_code.spatial_model, dict(heads=8), True),
    'relation': (old_code.relation_weights(), old_code.relation_model,
                 {**RELATION, 'legacy_extra_skip': True, 'use_bn': 2}, False),
    'relation, four numbers': (old_code.relation_weights(geometry=4), old_code.relation_model, {
        **RELATION, 'legacy_extra_skip': True, 'use_bn': 2, 'box_trignometric_embedding': False}, False),
    'topdown': (old_code.topdown_weights(), old_code.topdown_model,
                {**TOPDOWN, 'input_encoding_size': 9}, False),
    'show_tell': (old_code.show_tell_weights(), old_code.show_tell_model,
                  {**SHOW_TELL, 'input_encoding_size': 9}, False),
}


@pytest.mark.parametrize('case', BY_HAND)
def test_the_formulas_on_the_older_names_give_the_numbers(tmp_path, case):
    weights, plain_model, changes, spatial = BY_HAND[case]
    opt = old_options(vars(make_options(norm_img_feat=False, norm_box_feat=False, **changes)), spatial)
    model, _ = loaded(*write_old(tmp_path, dict(weights), opt))
    plain, batch, captions = plain_model(weights), make_batch(), make_captions()
    log_probs = model(model.encode(batch), captions)
    for i, (features, grids, boxes) in enumerate(per_image(batch)):
        for s in range(captions.shape[1]):
            words = captions[i, s][captions[i, s] > 0].tolist()
            if hasattr(plain, 'encoder'):
                expected = naive.next_word_log_probs(plain, naive.encode(plain, features, grids, boxes), words)
            else:
                expected = naive.recurrent_log_probs(plain, features, words)
            assert torch.allclose(log_probs[i, s, :len(words) + 1], expected, atol=1e-5)
