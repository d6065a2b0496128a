"""Checkpoints in the file formats of legacy code."""

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

VOCABULARY = {str(index): f'word{index}' for index in range(1, 11)}


def legacy_options(options: dict[str, Any], spatial: bool) -> argparse.Namespace:
    """The options that an infos file of legacy code holds for a model with `options` (a dict): of the Spatial code
    where `spatial`, else of the zoo."""
    shared = {'num_layers': options['num_layers'], 'input_encoding_size': options['input_encoding_size'],
              'vocab_size': options.get('vocab_size', 10), 'seq_length': 6, 'id': 'old',
              'input_json': '/somewhere/talk.json'}
    recurrent = options['caption_model'] in ('topdown', 'show_tell')
    if spatial:
        is_placed = options['caption_model'] == 'spatial_pe'
        return argparse.Namespace(**shared, **{name: options[name] for name in (
            'ff_size', 'heads', 'img_feat_size', 'num_grids', 'enc_pos_embedding', 'enc_pos_type',
            'cross_attn', 'norm_img_feat', 'norm_box_feat')},
            caption_model='show_tell' if recurrent else 'transformer', rnn_size=options['hidden_size'],
            use_grid=is_placed, dropout=0.2, an_unknown_field=[1],
            norm={'layer': 'layer', 'rms': 'RMS'}[options['norm']],
            ff_activation={'relu': 'RELU', 'gelu': 'GELU'}[options['ff_activation']])
    return argparse.Namespace(
        **shared, **{name: options[name] for name in (
            'caption_model', 'use_bn', 'box_trignometric_embedding', 'legacy_extra_skip')},
        rnn_size=options['hidden_size' if recurrent else 'ff_size'], att_feat_size=options['img_feat_size'],
        norm_att_feat=int(options['norm_img_feat']), drop_prob_lm=0.4, use_box=1, language_eval=0)


def write_legacy(folder: Path, weights: Mapping[str, torch.Tensor], opt: argparse.Namespace, model: str = 'model.pth',
                 infos: str = 'infos.pkl', protocol: int = 2, **changes: Any) -> tuple[str, str]:
    """Write a legacy checkpoint into `folder` -> (path of the weights, path of the infos file)."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(weights, folder / model)
    content = {'opt': opt, 'vocab': VOCABULARY, 'iter': 7, 'epoch': 2, 'best_val_score': 0.5, 'iterators': {},
               'split_ix': {'train': [3, 1]}, **changes}
    (folder / infos).write_bytes(pickle.dumps(content, protocol))
    return str(folder / model), str(folder / infos)
