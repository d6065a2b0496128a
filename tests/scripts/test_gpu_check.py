"""The check of GPUs: its small form passes on a CPU, and it reports what is wrong, slow, missing or dead."""

import functools
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from misc.cli import UserError
from misc.training.optim import build_optimiser
from models.graphs import Graphs
from models.kernels.pairs import XLinearPairs
from models.step_graphs import StepGraphs
from scripts import gpu_check
from scripts.gpu_checking import agreement, kernels, peer, speed, works
from scripts.gpu_checking.running import run_section
from scripts.gpu_checking.sections import Report, Section, Setting, Skip
from tests.helpers import ROOT
from tests.helpers.tape import rerun

SETTING = Setting('cpu', True)


def test_the_small_form_passes_on_a_cpu(tmp_path):
    path = tmp_path / 'found.json'
    ran = subprocess.run([sys.executable, 'scripts/gpu_check.py', '--device', 'cpu', '--json', path], cwd=ROOT,
                         capture_output=True, text=True, env={**os.environ, 'PATH': ''})  # without Java: quick
    assert ran.returncode == 0, ran.stdout + ran.stderr
    sections = json.loads(path.read_text())['sections']
    assert list(sections) == list(gpu_check.SECTIONS)
    for name, result in sections.items():
        assert result['status'] == 'passed' and result['findings'], (name, result)
        assert all(f'| {name} | {finding["what"]} ' in ran.stdout for finding in result['findings'])


def result_of(run, limit=30.0):
    """The result of a section that does `run`, and of every update before it."""
    updates = []
    result = run_section(Section('a title', limit, run), SETTING, lambda found: updates.append(json.dumps(found)))
    assert json.loads(updates[-1]) == result
    return result


def killed(setting, report):
    report.number('a number', '1')
    os.kill(os.getpid(), signal.SIGKILL)


def slow(setting, report):
    report.check('a check', '1', '1', True)
    if not os.fork():
        time.sleep(60)  # a process of its own, that would go on
    time.sleep(60)


def missing(setting, report):
    raise Skip('no tensors')


def refused(setting, report):
    raise UserError('no such device')


def broken(setting, report):
    raise KeyError('a bug')


@pytest.mark.parametrize('run, limit, status, reason', [
    (killed, 30, 'failed', 'ended with status -9'), (slow, 1, 'failed', 'more than 1 s'),
    (missing, 30, 'skipped', 'no tensors'), (refused, 30, 'failed', 'no such device'),
    (broken, 30, 'failed', "KeyError: 'a bug'"),
    (lambda setting, report: report.check('a loss', '2', '1', False), 30, 'failed', '')], ids=range(6))
def test_a_section_that_does_not_pass_says_why_and_keeps_what_it_found(run, limit, status, reason):
    start = time.monotonic()
    result = result_of(run, limit)
    assert (result['status'], time.monotonic() - start < limit + 5) == (status, True)
    assert reason in result['reason'] and bool(reason) == bool(result['reason'])
    assert len(result['findings']) == (run in (killed, slow) or not reason)
    lines = '\n'.join(gpu_check.table({'a name': result}))
    assert f'| {status} |' in lines if reason else '**NOT OK**' in lines


def test_the_status_is_1_where_a_section_fails_and_0_where_one_is_skipped(tmp_path, monkeypatch, capsys):
    for run, status in ((missing, 0), (refused, 1)):
        monkeypatch.setattr(gpu_check, 'SECTIONS', {'card': Section('a title', 5.0, run)})
        monkeypatch.setattr(sys, 'argv', ['gpu_check.py', '--device', 'cpu', '--json', str(tmp_path / 'a.json')])
        assert gpu_check.main() == status
    assert '| card | a title | no tensors |  | skipped |' in capsys.readouterr().out


def test_speed_has_the_times_without_graphs_and_with(monkeypatch):
    monkeypatch.setattr(works, 'StepGraphs', functools.partial(StepGraphs, record=rerun, warm=lambda work: work()))
    monkeypatch.setattr(works, 'Graphs', functools.partial(Graphs, record=rerun))
    monkeypatch.setattr(speed, 'graphs_on', lambda device: [False, True])
    monkeypatch.setattr(speed, 'implementations_on', lambda *_: ['pairs'])
    monkeypatch.setattr('models.base.drops_rows', lambda device: False)
    monkeypatch.setattr('models.kernels.XLinearMix', XLinearPairs)
    monkeypatch.setattr(torch.Tensor, 'pin_memory', lambda tensor: tensor)
    found = []
    speed.run(SETTING, Report(found.append))
    assert len({finding['what'].split(',')[0] for finding in found}) == 4
    for finding in found:
        assert {'eager', 'graph'} < finding['numbers'].keys(), finding
        assert ' ms' in finding['found'].split('; graph ')[1]


class Findings:
    """Takes findings as a `Report` does."""

    def __init__(self):
        self.verdicts = {}

    def number(self, what, found, **numbers):
        pass

    def check(self, what, found, wanted, ok, **numbers):
        self.verdicts[what] = ok


def test_a_peer_with_other_weights_and_an_update_or_kernel_that_is_wrong_are_noticed(monkeypatch):
    torch.manual_seed(0)
    plain = peer.plain_of

    def other(model):
        made = plain(model)
        with torch.no_grad():
            made.decoder[0].cross.squeeze.weight.mul_(1.5)
        return made
    found = Findings()
    monkeypatch.setattr(peer, 'plain_of', other)
    peer.compare_steps(SETTING, torch.device('cpu'), found)
    assert found.verdicts == {'loss': False}

    case = kernels.Case(1, 64, True)
    right, _ = case.apart(kernels.XLinearPairs.apply, kernels.pairs_mask, torch.float32, torch.device('cpu'))

    def wrong(query, *rest):
        return kernels.XLinearPairs.apply(query * 1.01, *rest)
    far, _ = case.apart(wrong, kernels.pairs_mask, torch.float32, torch.device('cpu'))
    assert right < 1e-5 < 1e-3 < far

    monkeypatch.setattr(agreement, 'build_optimiser', with_decay)
    found = Findings()
    agreement.Comparison(SETTING.sizes, torch.device('cpu'), 2)._compare_steps('a model', found)
    assert found.verdicts['a model, three steps'] is False


def with_decay(parameters, kind):
    """Adam with a weight decay that nobody asked for."""
    return build_optimiser(parameters, kind, weight_decay=0.1)
