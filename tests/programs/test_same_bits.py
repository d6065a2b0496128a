"""The same command gives the same run, bit for bit, with any number of workers and any kind of feature files."""

import pytest
import torch

import train
from misc.dataset.features import open_reader
from misc.dataset.packing import write_packed
from misc.disk import pickles
from misc.run import folder as run_folder
from misc.scoring import java
from tests.helpers import tiny

KINDS = {'att': 'att', 'vec': 'grid', 'box': 'box', 'fc': 'fc'}
FAMILIES = {
    'spatial_pe': (),
    'topdown': ('--caption_model', 'topdown', *tiny.RECURRENT_FLAGS, '--input_fc_feat_dir', 'ROOT/fc',
                '--scheduled_sampling_start', 0, '--scheduled_sampling_increase_every', 1),
}
# Variants that must give the same bits.
VARIANTS = {
    'one worker': ('--num_workers', 1),
    'three workers': ('--num_workers', 3),
    'packed files': ('--input_img_feat_dir', 'ROOT/att.h5', '--input_grid_vec_dir', 'ROOT/vec.h5'),
    'packed files and two workers': ('--input_img_feat_dir', 'ROOT/att.h5', '--num_workers', 2),
    'grid vectors of boxes': ('--input_grid_vec_dir', '', '--input_box_dir', 'ROOT/box'),
}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tiny.write_corpus(tmp_path_factory.mktemp('corpus') / 'root')
    for folder, kind in KINDS.items():
        source = open_reader(str(root / folder), kind, '')
        write_packed(root / f'{folder}.h5', {kind: {image: source.read(image) for image in source.ids()}})
    return root


@pytest.fixture(scope='module')
def both_phases(root, tmp_path_factory):
    """Call with a family and flags for the result of a run with an epoch of each phase."""
    known = {}

    def run(family, *flags):
        if (family, flags) not in known:
            folder = tmp_path_factory.mktemp('run')
            given = [str(flag).replace('ROOT', str(root)) for flag in (*FAMILIES[family], *flags)]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(java, 'is_installed', lambda: False)
                tiny.run(train, tiny.train_flags(
                    root, folder, '--self_critical_after', 1, '--max_epochs', 2, '--seq_per_img', 3,
                    '--cached_tokens', root / 'talk-idxs.p', '--perform_validation_every', 2, *given))
            known[family, flags] = kept(folder)
        return known[family, flags]
    return run


def kept(folder):
    """{name: tensor} of weights and moments, and the histories."""
    found = {}
    for name in ('model.pth', 'model-best.pth'):
        found.update({f'{name} {key}': value for key, value in
                      run_folder.read_tensors(str(folder / name)).items()})
    for place, moments in run_folder.read_tensors(str(folder / 'optimizer.pth'))['state'].items():
        found.update({f'moment {place} {key}': torch.as_tensor(value) for key, value in moments.items()})
    histories = pickles.load(str(folder / 'histories_tiny.pkl'))
    del histories['run']  # the identity, which each run has its own of
    return found, histories


def differing(one, other):
    """The names of tensors and histories that differ."""
    (tensors, histories), (others, their_histories) = one, other
    assert set(tensors) == set(others) and len(tensors) > 60
    return [name for name in tensors if not torch.equal(tensors[name], others[name])] + [
        name for name in histories if histories[name] != their_histories[name]]


@pytest.mark.filterwarnings('ignore:This DataLoader will create')  # more processes than cores
@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('variant', VARIANTS)
def test_neither_workers_nor_the_kind_of_files_change_a_bit_in_either_phase(both_phases, family, variant):
    plain = both_phases(family, '--num_workers', 0)
    assert len(plain[1]['reward_history']) == 3 and len(plain[1]['loss_history']) == 6
    assert differing(plain, both_phases(family, *VARIANTS[variant])) == []


@pytest.mark.parametrize('family', FAMILIES)
def test_the_same_command_gives_the_same_bits_again_and_another_seed_different_ones(both_phases, family):
    plain = both_phases(family, '--num_workers', 0)
    assert differing(plain, both_phases(family, '--num_workers', 0, '--losses_log_every', 1)) == []
    assert len(differing(plain, both_phases(family, '--seed', 5))) > 60
