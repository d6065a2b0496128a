"""A run knows all that it needs to go on: `--resume`, `eval.py --run`, and what is said about it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

import eval as evaluation
import opts
import train
from misc import parallel
from misc.cli import DataError, UsageError
from misc.disk import filesets
from misc.run import timer
from misc.run.status import STATUS, Status
from tests.helpers import ROOT, tiny
from tests.helpers.runs import Interrupt, infos_of, interrupt_after, same_weights, status_of, weights_of


def test_resume_alone_goes_on_with_everything_the_run_had(corpus, tmp_path, monkeypatch, capsys):
    flags = ['--max_epochs', 3, '--save_checkpoint_every', 2, '--ema', 0.9, '--word_dropout', 0.1, '--norm', 'rms',
             '--dropout', 0.2, '--optim', 'sgdm', '--label_smoothing', 0.1, '--val_images_use', 2, '--seed', 5]
    tiny.run(train, tiny.train_flags(corpus, tmp_path / 'whole', *flags))
    run = tmp_path / 'parts'
    with monkeypatch.context() as patch, pytest.raises(Interrupt):
        interrupt_after(patch, 5)
        tiny.run(train, tiny.train_flags(corpus, run, *flags))
    assert status_of(run)['state'] == 'failed' and status_of(run)['iteration'] == 5
    capsys.readouterr()
    assert tiny.run(train, ['--resume', run]) == 0
    assert same_weights(weights_of(tmp_path / 'whole'), weights_of(run))
    assert infos_of(tmp_path / 'whole')['validations'][-1]['loss'] == infos_of(run)['validations'][-1]['loss']
    assert 'changed' not in capsys.readouterr().err and status_of(run)['state'] == 'finished'
    for arguments in (['--resume', run], ['--resume', run, '--max_epochs', 3]):
        assert tiny.run(train, arguments) == 0
        assert 'nothing to do: epoch 3 of --max_epochs 3' in capsys.readouterr().out

    assert tiny.run(train, ['--resume', run, '--max_epochs', 4, '--dropout', 0.3, '--learning_rate', 0.1]) == 0
    told = capsys.readouterr().err
    for line in ('changed since the last start: dropout 0.3 (was 0.2), learning_rate 0.1 (was 0.0005), '
                 'max_epochs 4 (was 3)\n',
                 'note: the learning rate of the next step is 0.08 (times 0.8 every 3 epochs from epoch 0); it was '
                 '0.0005 in step 9\n'):
        assert line in told
    assert infos_of(run)['iter'] == 12 and infos_of(run)['opt']['dropout'] == 0.3


def test_a_renamed_or_moved_run_goes_on_from_where_it_is_now(corpus, tmp_path, capsys):
    tiny.run(train, tiny.train_flags(corpus, tmp_path / 'a', '--max_epochs', 1))
    shutil.move(tmp_path / 'a', tmp_path / 'b')
    tiny.run(train, ['--resume', tmp_path / 'b', '--max_epochs', 2])
    assert infos_of(tmp_path / 'b')['iter'] == 6 and not (tmp_path / 'a').exists()
    capsys.readouterr()
    tiny.run(train, ['--resume', tmp_path / 'b', '--max_epochs', 3, '--checkpoint_path', tmp_path / 'c'])
    assert infos_of(tmp_path / 'b')['iter'] == 6 and infos_of(tmp_path / 'c')['iter'] == 9
    assert f'note: goes on in {tmp_path / "c"} as the run tiny; {tmp_path / "b"} stays as it is' in \
        capsys.readouterr().err
    # The best of another folder does not count here, but those of this one do from now on.
    tiny.run(train, ['--resume', tmp_path / 'c', '--max_epochs', 4, '--learning_rate', 0])
    assert [line['best'] for line in infos_of(tmp_path / 'c')['validations'][-2:]] == [True, False]


def test_what_cannot_be_resumed_is_refused_with_a_way_out(corpus, tmp_path):
    def refused(kind, match, *flags):
        with pytest.raises(kind, match=match):
            tiny.run(train, flags)
    refused(DataError, '--resume: there is no folder', '--resume', tmp_path / 'none')
    (tmp_path / 'empty').mkdir()
    refused(DataError, 'holds no checkpoint; start the run', '--resume', tmp_path / 'empty')
    refused(UsageError, '--start_from .* contradicts --resume', '--resume', tmp_path, '--start_from', tmp_path)
    run = tmp_path / 'run'
    tiny.run(train, tiny.train_flags(corpus, run, '--max_epochs', 1))
    refused(UsageError, '--num_layers 3 contradicts', '--resume', run, '--num_layers', 3)
    both = shutil.copytree(run, tmp_path / 'both')
    shutil.copy(both / 'infos_tiny.pkl', both / 'infos_other.pkl')
    refused(DataError, 'holds the runs other, tiny; name one with --id', '--resume', both)


def full_command(corpus, folder, *more):
    return tiny.train_flags(corpus, folder, '--save_checkpoint_every', 2, *more, '--resume', 'auto')


def test_one_line_starts_a_run_goes_on_with_it_and_says_when_nothing_is_left(corpus, tmp_path, monkeypatch, capsys):
    run = tmp_path / 'run'
    tiny.run(train, tiny.train_flags(corpus, tmp_path / 'whole'))
    for stop in (1, 3):  # before the first checkpoint, and after it
        with monkeypatch.context() as patch, pytest.raises(Interrupt):
            interrupt_after(patch, stop)
            tiny.run(train, full_command(corpus, run))
        assert f'--resume auto: {run} holds no checkpoint; the run starts' in capsys.readouterr().err
    assert tiny.run(train, full_command(corpus, run)) == 0
    assert f'--resume auto: {run} holds a checkpoint; going on from it' in capsys.readouterr().err
    assert same_weights(weights_of(tmp_path / 'whole'), weights_of(run))
    saved = []
    monkeypatch.setattr(filesets, 'save_set', lambda *given: saved.append(given))
    assert tiny.run(train, full_command(corpus, run)) == 0
    output = capsys.readouterr().out
    assert 'nothing to do' in output and not saved
    assert f'next: python eval.py --run {run} --language_eval 1\n' in output


def test_a_later_phase_starts_from_another_run_once(corpus, tmp_path, capsys):
    tiny.run(train, tiny.train_flags(corpus, tmp_path / 'a', '--max_epochs', 1))
    onwards = ['--start_from', tmp_path / 'a', '--batch_size', 3, '--id', 'second']
    for epochs in (2, 3):
        tiny.run(train, full_command(corpus, tmp_path / 'b', *onwards, '--max_epochs', epochs))
        told = capsys.readouterr()
        assert ('as the run second; ' in told.err) == (epochs == 2)
        assert f'going on from {tmp_path / ("a" if epochs == 2 else "b")} ' in told.out
        assert ('note: the learning rate of the next step is 0.0005' in told.err) == (epochs == 2)
    assert json.loads((tmp_path / 'b' / 'run.json').read_text())['starts'][-1]['iteration'] == 6


def test_the_status_says_what_became_of_a_run(corpus, tmp_path, monkeypatch, capsys):
    run = tmp_path / 'run'
    with pytest.raises(DataError):
        tiny.run(train, tiny.train_flags(corpus, run, '--input_img_feat_dir', tmp_path / 'none'))
    assert not run.exists()
    seen, plain = [], train.train_step

    def step(run, phase):
        seen.append(json.loads((tmp_path / 'run' / STATUS).read_text()))
        plain(run, phase)
    with monkeypatch.context() as patch:
        patch.setattr(train, 'train_step', step)
        tiny.run(train, tiny.train_flags(corpus, run, '--max_epochs', 1))
    assert seen[0]['state'] == 'running' and seen[0]['process'] == os.getpid() and seen[0]['iteration'] == 0
    assert {**status_of(run), 'time': 0, 'host': 0, 'process': 0} == {
        'state': 'finished', 'time': 0, 'host': 0, 'process': 0, 'iteration': 3, 'epoch': 1}
    # A start that fails before the training is a failure of this run, but not of another one.
    with pytest.raises(UsageError):
        tiny.run(train, tiny.train_flags(corpus, run, '--id', 'other'))
    assert status_of(run)['state'] == 'finished'
    for before, after in (('finished', 'finished'), ('stopped', 'failed')):
        (run / STATUS).write_text(json.dumps({**status_of(run), 'state': before}))
        with pytest.raises(DataError):
            tiny.run(train, ['--resume', run, '--input_img_feat_dir', tmp_path / 'none'])
        assert status_of(run)['state'] == after
    assert str(tmp_path / 'none') in status_of(run)['error']


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_while_a_run_loads_stops_it_where_it_was(corpus, tmp_path, monkeypatch, capsys, number):
    before = signal.getsignal(number)

    def load(*given):
        os.kill(os.getpid(), number)
        raise AssertionError('the signal was missed')

    def stopped():
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
            patch.setattr(train, 'build', load)
            tiny.run(train, full_command(corpus, run, '--max_epochs', 1))
        assert ended.value.code == 128 + number and signal.getsignal(number) == before
        assert f'train.py: stopped by {number.name} before the first step; start it again' in capsys.readouterr().err
        return {name: status_of(run).get(name) for name in ('state', 'signal', 'iteration', 'epoch')}
    run = tmp_path / 'run'
    assert stopped() == {'state': 'stopped', 'signal': number.name, 'iteration': None, 'epoch': None}
    with monkeypatch.context() as patch, pytest.raises(Interrupt):
        interrupt_after(patch, 2)
        tiny.run(train, full_command(corpus, run, '--max_epochs', 1))
    assert stopped() == {'state': 'stopped', 'signal': number.name, 'iteration': 2, 'epoch': 0}
    # In the folder of another run there is nothing to say.
    with pytest.raises(SystemExit), monkeypatch.context() as patch:
        patch.setattr(train, 'build', load)
        (run / STATUS).unlink()
        tiny.run(train, full_command(corpus, run, '--id', 'other'))
    assert not (run / STATUS).exists()
    assert tiny.run(train, full_command(corpus, run, '--max_epochs', 1)) == 0


@pytest.mark.skipif(not os.path.exists('/proc/self/status'), reason='the signals that a process catches are in /proc')
def test_a_signal_while_the_libraries_are_loaded_stops_the_run_as_soon_as_it_knows_its_folder(corpus, tmp_path):
    process = subprocess.Popen([sys.executable, 'train.py', *map(str, full_command(corpus, tmp_path / 'run'))],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    caught = 0
    while not caught >> signal.SIGUSR1 - 1 & 1:
        with open(f'/proc/{process.pid}/status', encoding='utf-8') as file:
            caught = next(int(line.split()[1], 16) for line in file if line.startswith('SigCgt'))
    process.send_signal(signal.SIGUSR1)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGUSR1 and not output
    assert errors.splitlines()[1:] == [
        'train.py: stopped by SIGUSR1 before the first step; start it again with the same command']
    assert status_of(tmp_path / 'run')['signal'] == 'SIGUSR1'


def test_the_status_says_where_the_last_checkpoint_is(corpus, tmp_path, monkeypatch):
    seen, plain = [], train.train_step

    def step(run, phase):
        seen.append(status_of(tmp_path))
        plain(run, phase)
    monkeypatch.setattr(train, 'train_step', step)
    tiny.run(train, full_command(corpus, tmp_path, '--max_epochs', 2))
    assert [status['iteration'] for status in seen] == [0, 0, 2, 2, 4, 4]
    assert {status['state'] for status in seen} == {'running'} and seen[-1]['epoch'] == 1


def test_the_script_of_the_documentation_reads_the_status(tmp_path):
    text = (ROOT / 'docs' / 'cluster.md').read_text(encoding='utf-8')
    script = next(block for block in re.findall('```bash\n(.*?)```', text, re.S) if block.startswith('#!/bin/bash'))
    assert not subprocess.run(['bash', '-n'], input=script, text=True, check=True, capture_output=True).stderr
    decision = script[script.index('if grep'):].replace('scontrol requeue "$SLURM_JOB_ID"', 'echo again')
    for state in ('running', 'stopped', 'finished', 'failed'):
        Status(str(tmp_path)).write(state)
        shown = subprocess.run(['bash', '-c', f'run={tmp_path}\n{decision}'], text=True, check=True,
                               capture_output=True)
        assert (shown.stdout == 'again\n') == (state == 'stopped')


def test_checkpoints_come_by_the_clock_too(corpus, tmp_path, monkeypatch):
    saves, plain, now = [], filesets.save_set, [0.0]
    monkeypatch.setattr(filesets, 'save_set', lambda *given: (saves.append(now[0]), plain(*given)))
    monkeypatch.setattr(timer, 'monotonic', lambda: now[0])
    step = train.train_step

    def slow(run, phase):
        step(run, phase)
        now[0] += 40
    monkeypatch.setattr(train, 'train_step', slow)
    tiny.run(train, tiny.train_flags(corpus, tmp_path, '--max_epochs', 2, '--save_every_minutes', 1))
    assert saves == [80, 160, 240, 240]  # six steps of 40 seconds, and the validation at the end


@pytest.mark.parametrize('size, number', [('SLURM_STEP_NUM_TASKS', 'SLURM_PROCID'),
                                          ('OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_RANK')])
def test_processes_that_know_nothing_of_each_other_are_refused_each_with_the_message(monkeypatch, size, number):
    monkeypatch.setenv(size, '4')
    for rank in ('0', '3'):
        monkeypatch.setenv(number, rank)
        with pytest.raises(UsageError, match='(srun|mpirun) started 4 processes .*torchrun'), parallel.processes():
            pass
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', 'test')  # torchrun on each machine, started by srun
    monkeypatch.setenv('WORLD_SIZE', '1')
    with parallel.processes():
        assert parallel.count() == 1


@pytest.mark.skipif(not hasattr(signal, 'SIGUSR1'), reason='this system has no SIGUSR1')
def test_torchrun_passes_a_batch_systems_warning_on(corpus, tmp_path):
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2',
               '--signals-to-handle', 'SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1', 'train.py',
               *map(str, tiny.train_flags(corpus, tmp_path / 'run', '--max_epochs', -1))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT)
    for line in process.stdout:
        if line.startswith('iteration 5 '):
            break
    process.send_signal(signal.SIGUSR1)
    rest = process.stdout.read()
    assert process.wait(timeout=60) == 1 and rest.count('stopped by SIGUSR1') == 1
    assert f'Go on with: torchrun --nproc_per_node 2 train.py --resume {tmp_path / "run"}\n' in rest
    assert status_of(tmp_path / 'run')['state'] == 'stopped' and status_of(tmp_path / 'run')['signal'] == 'SIGUSR1'


@pytest.fixture
def entries(tmp_path, monkeypatch):
    """Call with flags of eval.py for vis/vis.json."""
    monkeypatch.chdir(tmp_path)

    def evaluated(*flags):
        tiny.run(evaluation, [*flags, '--num_workers', 0, '--device', 'cpu'])
        return json.loads((tmp_path / 'vis' / 'vis.json').read_text())
    return evaluated


def test_a_folder_stands_for_model_infos_and_data(corpus, tmp_path, entries, capsys):
    for name, seed in (('one', 1), ('two', 2)):  # the best model is not the last one
        tiny.run(train, tiny.train_flags(corpus, tmp_path / name, '--seed', seed))
        tiny.run(train, ['--resume', tmp_path / name, '--max_epochs', 3, '--learning_rate', 1])
    one, two = tmp_path / 'one', tmp_path / 'two'
    long = entries(*tiny.eval_flags(corpus, one))
    best = entries('--model', one / 'model-best.pth', '--infos_path', one / 'infos_tiny-best.pkl',
                   *tiny.data_flags(corpus))
    assert long != best
    capsys.readouterr()
    assert entries('--run', one) == best
    assert f'evaluating {one / "model-best.pth"}' in capsys.readouterr().err
    assert entries('--run', one, '--checkpoint', 'last') == long
    assert len(entries('--run', one, '--split', 'val')) == 3
    assert entries('--run', one, two) != best
    # The flags that are given win.
    half = shutil.copytree(corpus / 'vec', tmp_path / 'vec')
    (half / '112.npy').unlink()
    with pytest.raises(DataError, match='--input_grid_vec_dir'):
        entries('--run', one, '--input_grid_vec_dir', half)
    with pytest.raises(UsageError, match='--model contradicts --run'):
        entries('--run', one, '--model', one / 'model.pth')
    with pytest.raises(UsageError, match='--run DIR, the folder of a run, or --model and --infos_path'):
        entries('--split', 'val')
    with pytest.raises(DataError, match='no infos file.*name the files of one run with --model and --infos_path'):
        entries('--run', tmp_path)


def test_runs_of_different_data_are_not_evaluated_together_by_their_folders(corpus, tmp_path, entries):
    other = shutil.copytree(corpus, tmp_path / 'other')
    for name, root in (('one', corpus), ('two', other)):
        tiny.run(train, tiny.train_flags(root, tmp_path / name, '--max_epochs', 1))
    with pytest.raises(UsageError, match='trained with different --input_json: '):
        entries('--run', tmp_path / 'one', tmp_path / 'two')
    assert len(entries('--run', tmp_path / 'one', tmp_path / 'two', *tiny.data_flags(corpus))) == 4


def test_every_option_of_a_run_is_taken_over_or_belongs_to_one_start(corpus, tmp_path):
    """Also those that are still to come: a saved value has to pass through its flag."""
    tiny.run(train, tiny.train_flags(corpus, tmp_path, '--max_epochs', 1))
    saved = infos_of(tmp_path)['opt']
    options, given = opts.train_options(['--resume', str(tmp_path)])
    taken = {name: value for name, value in vars(options).items() if name not in opts.OF_ONE_START}
    assert taken == {name: saved[name] for name in taken} and given == {'resume'}
    assert options.checkpoint_path == options.start_from == str(tmp_path) and options.id == 'tiny'
