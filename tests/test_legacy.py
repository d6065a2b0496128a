"""Checkpoints of older code: read as they are, with the numbers of the code that made them."""

import argparse
import pickle

import pytest
import torch

import eval as evaluation
import models
import opts
import train
from misc import checkpoint, legacy
from misc.cli import DataError
from tests import naive, tiny
from tests.test_models import make_batch, make_captions, make_model, make_options, per_image

WORDS = {str(index): f'word{index}' for index in range(1, 11)}

# Options of a model here, and what its infos file said in the Spatial code, or in the zoo.
SPATIAL = [
    dict(), dict(enc_pos_type='g2'), dict(enc_pos_type='box-coord'), dict(cross_attn='dot-product'),
    dict(norm='rms'), dict(ff_activation='gelu'), dict(caption_model='transformer'),
    dict(caption_model='transformer', cross_attn='dot-product'), dict(heads=2), dict(num_layers=3),
    dict(norm_img_feat=True, norm_box_feat=True)]
ZOO = [dict(), dict(use_bn=1), dict(use_bn=2), dict(caption_model='relation_transformer'),
       dict(caption_model='relation_transformer', box_trignometric_embedding=False),
       dict(caption_model='relation_transformer', legacy_extra_skip=True, use_bn=2),
       dict(norm_img_feat=True)]
