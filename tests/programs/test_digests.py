"""The weights of every family after 21 steps: a refactoring changes none of them.

Sums of products differ between processors and builds of torch, so the digests are compared only where they were
taken.  After a change that is meant to change numbers: `REGENERATE=1 pytest tests/programs/test_digests.py`.
"""

import hashlib
import json
import os
import pathlib

import pytest
import torch

import train
from misc.run import folder as run_folder
from misc.scoring import java
from tests.helpers import tiny

DIGESTS = pathlib.Path(__file__).with_name('digests.json')
FAMILIES = {
    'spatial_pe': (),
    'spatial_pe, fixed places': ('--enc_pos_embedding', 0, '--norm', 'rms', '--use_bn', 2),
    'relation_transformer': ('--caption_model', 'relation_transformer', '--input_box_dir', 'ROOT/box'),
    'transformer': ('--caption_model', 'transformer', '--accumulate', 2, '--noamopt', 1),
    'show_tell': ('--caption_model', 'show_tell', *tiny.RECURRENT_FLAGS),
    'show_attend_tell': ('--caption_model', 'show_attend_tell', *tiny.RECURRENT_FLAGS, '--rnn_type', 'gru'),
    'topdown': ('--caption_model', 'topdown', *tiny.RECURRENT_FLAGS, '--scheduled_sampling_start', 0,
                '--scheduled_sampling_increase_every', 1, '--reduce_on_plateau', 1),
}


def place():
    """The version and hardware that the numbers depend on."""
    cpuinfo = pathlib.Path('/proc/cpuinfo')
    lines = cpuinfo.read_text(encoding='utf-8').splitlines() if cpuinfo.exists() else []
    name = next((line.split(':')[1].strip() for line in lines if line.startswith('model name')), '')
    return f'torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {name}'


def digest_of(root, folder, flags):
    """The digest of the weights and moments after 21 steps, the last three self-critical."""
    given = [str(flag).replace('ROOT', str(root)) for flag in flags]
    tiny.run(train, tiny.train_flags(
        root, folder, '--max_epochs', 7, '--self_critical_after', 6, '--seq_per_img', 3,
        '--cached_tokens', root / 'talk-idxs.p', '--perform_validation_every', 9, *given))
    found = hashlib.sha256()
    for name, tensor in sorted(run_folder.read_tensors(str(folder / 'model.pth')).items()):
        found.update(name.encode() + tensor.numpy().tobytes())
    for number, moments in sorted(run_folder.read_tensors(str(folder / 'optimizer.pth'))['state'].items()):
        for name, moment in sorted(moments.items()):
            found.update(f'{number} {name}'.encode() + torch.as_tensor(moment).numpy().tobytes())
    return found.hexdigest()[:24]


@pytest.mark.parametrize('family', FAMILIES)
def test_the_weights_after_21_steps_equal_the_recorded_ones(family, tmp_path, monkeypatch):
    monkeypatch.setattr(java, 'is_installed', lambda: False)
    recorded = json.loads(DIGESTS.read_text(encoding='utf-8')) if DIGESTS.exists() else {}
    here = recorded.setdefault(place(), {})
    if not os.environ.get('REGENERATE') and family not in here:
        pytest.skip(f'no digest was taken with {place()}')
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = digest_of(tiny.write_corpus(tmp_path / 'root'), tmp_path / 'run', FAMILIES[family])
    finally:
        torch.set_num_threads(threads)
    if os.environ.get('REGENERATE'):
        here[family] = found
        DIGESTS.write_text(json.dumps(recorded, indent=1) + '\n', encoding='utf-8')
    assert found == here[family]
