"""Weights that a wrapper, or another program, saved under other names are the same weights."""

import collections
import shutil

import pytest
import torch

import models
import opts
import train
from misc.cli import DataError
from misc.disk import tensors
from misc.pictures import cnn
from misc.run import folder as run_folder
from misc.run import identity, legacy
from tests.helpers import tiny
from tests.helpers.legacy_checkpoints import legacy_options, write_legacy
from tests.helpers.models import make_model, make_options
from tests.helpers.runs import same_weights, weights_of

PREFIXES = ['module.', '_orig_mod.', 'model.', 'module._orig_mod.', '_orig_mod.module.', '_fsdp_wrapped_module.']


def prefixed(prefix):
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


WRAPPED = {**{prefix: prefixed(prefix) for prefix in PREFIXES},
           **{key: lambda state, key=key: {'epoch': 3, key: state, 'optimizer': {'state': {}}}
              for key in ('state_dict', 'model_state_dict', 'model')},
           'state_dict, model.': lambda state: {'state_dict': prefixed('model.')(state), 'epoch': 1}}


@pytest.mark.parametrize('wrap', WRAPPED.values(), ids=WRAPPED)
def test_weights_of_a_wrapper_load_as_they_are(wrap, root, tmp_path):
    plain, path = weights_of(root / 'run'), root / 'run' / 'model.pth'
    torch.save(wrap(plain), path)
    run = run_folder.read_run(str(path), str(root / 'run' / 'infos_tiny.pkl'))
    assert run.names is None and same_weights(run.weights, plain)
    go_on = shutil.copytree(root / 'run', tmp_path / 'go_on')
    tiny.run(train, tiny.train_flags(root, go_on, '--start_from', go_on, '--max_epochs', 1))   # nothing to do
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    torch.save(wrap(network.state_dict()), tmp_path / 'resnet.pth')
    assert same_weights(cnn.fitting_weights(network, str(tmp_path / 'resnet.pth')), network.state_dict())


@pytest.mark.parametrize('prefix', PREFIXES)
@pytest.mark.parametrize('family', ['transformer', 'spatial_pe', 'topdown', 'show_tell'])
def test_legacy_checkpoints_keep_their_own_prefix_under_that_of_a_wrapper(prefix, family, tmp_path):
    spatial = family == 'spatial_pe'
    options = vars(make_options(caption_model=family, cross_attn='dot-product', heads=8, norm_img_feat=False,
                                norm_box_feat=False, norm='layer' if spatial else 'deviation'))
    model = make_model(**options)
    theirs = legacy.Names(family, options['use_bn'], spatial).theirs(model.state_dict())
    files = write_legacy(tmp_path, prefixed(prefix)(theirs), legacy_options(options, spatial))
    run = run_folder.read_run(*files)
    found, _ = opts.parse(opts.train_parser(), [])
    found = opts.with_model_options(found, set(), run.infos['opt'], files[1])
    loaded = models.build(found, len(run.infos['vocab']) + 1, run.infos['opt']['seq_length'])
    run_folder.load_run_weights(loaded, run)
    assert same_weights(loaded.state_dict(), model.state_dict())


def test_only_a_prefix_of_all_names_is_taken_away_and_the_identity_stays():
    weight = torch.ones(1)
    for state in ({'module.a': weight, 'b': weight}, {'a': weight}, {}, {'model': weight, 'n': 1}, [weight],
                  torch.ones(2), None):
        assert tensors.unwrapped(state) is state
    assert list(tensors.unwrapped({'model.module.a': weight, 'model.module.b': weight})) == ['a', 'b']
    marked = collections.OrderedDict({'module.a': weight})
    marked._metadata = {}
    identity.marked(marked, '0' * 32)
    assert identity.of_weights(tensors.unwrapped(marked)) == '0' * 32


def test_weights_that_do_not_fit_are_named_without_the_prefix(tmp_path):
    model = make_model()
    torch.save(prefixed('module.')({**model.state_dict(), 'more': torch.ones(1)}), tmp_path / 'model.pth')
    with pytest.raises(DataError, match='describes: more is not known'):
        run_folder.load_weights(model, run_folder.read_tensors(str(tmp_path / 'model.pth')), 'model.pth')
