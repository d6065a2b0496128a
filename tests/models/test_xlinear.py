"""X-linear attention's implementations agree: the loop over images, all pairs at once, the fused kernels."""

import importlib.util
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

import opts
from misc.cli import UsageError
from models import kernels, xlinear_obstacle
from models.kernels.pairs import XLinearPairs
from models.kernels.xlinear import XLinearMix
from models.packing import Groups
from tests.helpers import ROOT
from tests.helpers.models import make_model, make_options
from tests.helpers.pretend_device import DEVICE, host, pretend_device
from tests.helpers.xlinear import CASES, PADDED, PADDING, RESULTS, distances, in_room, inputs, results


@pytest.mark.parametrize('words, regions, size', CASES)
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
def test_all_pairs_at_once_equal_the_loop_over_images(words, regions, size, dtype):
    parts = inputs(words, regions, size, dtype)
    expected = results(XLinearMix, [part.double() for part in parts], words, regions)
    found, loop = (results(mix, parts, words, regions) for mix in (XLinearPairs, XLinearMix))
    assert [one.dtype for one in found] == [one.dtype for one in loop]
    assert_as_close(distances(found, expected), distances(loop, expected))


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
def test_room_for_more_pairs_changes_nothing_for_real_words(dtype):
    words, regions, size = PADDED
    parts = inputs(words, regions, size, dtype)
    expected = results(XLinearMix, [part.double() for part in parts], words, regions, padding=PADDING)
    loop = results(XLinearMix, parts, words, regions, padding=PADDING)
    found = results(XLinearPairs, parts, *in_room(words, regions), padding=PADDING)
    assert_as_close(distances(found, expected), distances(loop, expected))


def assert_as_close(found, loop):
    """Assert that results are about as close to those in double precision as the loop's are."""
    assert set(found) in ({*RESULTS}, {*RESULTS[:2]})
    for name, distance in found.items():
        assert distance < 2 * loop[name] + 1e-14, (name, distance, loop[name])


def test_pairs_are_packed_word_by_word_and_summed_over_either_side():
    words, regions = Groups([2, 0, 1], 'cpu'), Groups([3, 2, 2], 'cpu')
    pairs = words.pairs(regions)
    assert words.pairs(regions) is pairs and words.pairs(Groups([3, 2, 2], 'cpu')) is not pairs
    assert pairs.word.tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert pairs.region.tolist() == [0, 1, 2, 0, 1, 2, 5, 6]
    assert pairs.place.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    rows = torch.arange(8.0)[:, None]
    assert pairs.sum_over_regions(rows)[:, 0].tolist() == [3, 12, 13]
    assert pairs.sum_over_words(rows)[:, 0].tolist() == [3, 5, 7, 0, 0, 6, 7]
    assert pairs.layout.tolist() == [[0, 2, 2], [2, 0, 1], [0, 3, 5], [3, 2, 2], [0, 6, 6]]


def interpreted():
    """What `tests/helpers/xlinear.py` found, or why Triton's interpreter does not run here."""
    probe = ('import os; os.environ["TRITON_INTERPRET"] = "1"\nimport torch\nfrom models.kernels import fused\n'
             'assert fused.runs_on(torch.device("cpu"))')
    tried = subprocess.run([sys.executable, '-c', probe], cwd=ROOT, capture_output=True, text=True)
    if tried.returncode:
        return f"Triton's interpreter does not run here: {tried.stderr.strip().splitlines()[-1]}"
    ran = subprocess.run([sys.executable, '-m', 'tests.helpers.xlinear'], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_the_fused_kernels_equal_the_loop_in_tritons_interpreter():
    found = interpreted()
    if isinstance(found, str):
        pytest.skip(found)
    assert len(found) == len(CASES) + 4 and found[-2]['room'] and found[-1]['padded']
    for case in found:
        assert_as_close(case['fused'], case['loop'])


def test_the_fused_kernels_compile_for_sm_90_without_spilling_registers(tmp_path):
    triton = pytest.importorskip('triton', reason='Triton comes with torch where there is CUDA')
    if not (Path(triton.__file__).parent / 'backends' / 'nvidia' / 'bin' / 'cuobjdump').exists():
        pytest.skip('this Triton cannot compile for NVIDIA')
    ran = subprocess.run([sys.executable, '-m', 'tests.helpers.compile_sm90'], cwd=ROOT, capture_output=True,
                         text=True, env={**os.environ, 'TRITON_CACHE_DIR': str(tmp_path)})
    assert ran.returncode == 0, ran.stderr
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(found) == 2 * (6 + 2)
    for kernel in found:
        assert kernel['stack'] == kernel['local'] == 0 and kernel['tensor cores'], kernel
        assert kernel['registers'] <= 255 and kernel['shared'] <= 227 * 1024, kernel


class Fused:
    """Stands in for the kernels: counts their calls, computes as the loop."""

    calls = 0

    @classmethod
    def apply(cls, *given):
        cls.calls += 1
        return XLinearPairs.apply(*given)


def test_the_implementation_is_chosen_by_device_flag_and_what_the_kernels_can(monkeypatch):
    parts, groups = inputs([3, 2], [4, 5], 32), (Groups([3, 2], DEVICE), Groups([4, 5], DEVICE))
    expected = XLinearMix.apply(*parts, Groups([3, 2], 'cpu'), Groups([4, 5], 'cpu'), 0.0)

    def mixed(fused):
        Fused.calls = 0
        found = kernels.xlinear_mix(*(part.to(DEVICE) for part in parts), *groups, fused=fused)
        assert all(torch.allclose(host(one), other, atol=1e-5) for one, other in zip(found, expected))
        return Fused.calls

    monkeypatch.setitem(sys.modules, 'models.kernels.fused', types.SimpleNamespace(
        XLinearFused=Fused, why_not=lambda size, regions, dtype: 'too many' if regions > 4 else None))
    with pretend_device():
        assert mixed(True) == mixed(False) == 0  # the pretend device has no Triton
        monkeypatch.setattr(kernels, 'triton_obstacle', lambda device: None)
        assert mixed(True) == 0  # five regions
        monkeypatch.setattr(sys.modules['models.kernels.fused'], 'why_not', lambda *given: None)
        assert mixed(True) == 1 and mixed(False) == 0
    Fused.calls = 0
    assert all(map(torch.equal, expected, kernels.xlinear_mix(
        *parts, Groups([3, 2], 'cpu'), Groups([4, 5], 'cpu'))))  # the CPU keeps its loop
    assert not Fused.calls


def test_the_flag_decides_whether_a_model_uses_the_kernels_and_refuses_where_they_cannot_run(monkeypatch, capsys):
    for flag, fused in (('auto', True), ('plain', False), ('fused', True)):
        model = make_model(xlinear=flag)
        assert [layer.cross.fused for layer in model.decoder] == [fused] * 2
    cpu, cuda = torch.device('cpu'), torch.device('cuda', 0)
    options = make_options(xlinear='fused', input_encoding_size=512)
    with pytest.raises(UsageError, match='--xlinear fused: .*need a CUDA device; take auto or plain'):
        opts.check_xlinear(options, 'cpu', xlinear_obstacle(options, cpu))
    for other in (dict(cross_attn='dot-product'), dict(caption_model='show_tell')):
        assert xlinear_obstacle(make_options(**other), cpu) is None
    monkeypatch.setattr(kernels, 'triton_obstacle', lambda device: None)
    assert xlinear_obstacle(options, cuda) is None
    odd = make_options(input_encoding_size=48)
    opts.check_xlinear(odd, 'cuda', xlinear_obstacle(odd, cuda))
    assert 'plain PyTorch, not in fused kernels: the size of the model, 48, is no' in capsys.readouterr().err


def test_why_triton_cannot_run_is_found_by_running_it(monkeypatch):
    obstacle = kernels.triton_obstacle.__wrapped__
    cuda = torch.device('cuda', 0)
    assert obstacle(torch.device('cpu')) == obstacle(DEVICE) == 'they need a CUDA device'
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: 'T4')
    assert 'T4 is older' in obstacle(cuda)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (9, 0))
    stand_in = types.SimpleNamespace(runs_on=lambda device: True)
    monkeypatch.setitem(sys.modules, 'models.kernels.fused', stand_in)
    assert obstacle(cuda) is None
    stand_in.runs_on = lambda device: False
    assert 'wrong numbers' in obstacle(cuda)
    stand_in.runs_on = lambda device: {}['cc']
    assert 'Triton failed: KeyError' in obstacle(cuda)
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    assert obstacle(cuda) == 'Triton is not installed'
