"""Neither the number of processes nor that of the parts of a batch changes the training."""

import datetime
import functools
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

import eval as evaluation
import train
from misc import parallel
from misc.cli import DataError, UsageError
from misc.dataset.corpus import Corpus
from misc.disk import filesets
from misc.evaluation import validation
from misc.run import folder as run_folder
from misc.training import gradients
from misc.training.gradients import JointGradients
from misc.training.step import Updater
from models.transformer import TransformerCaptioner
from tests.helpers import several, tiny
from tests.helpers.runs import infos_of, interrupt_after, same_weights, self_critical_flags, status_of, weights_of

pytestmark = pytest.mark.usefixtures('without_java')

# No dropout, and steps whose size follows the gradients (Adam takes only their signs at first).
EXACT = ('--dropout', 0, '--drop_prob_lm', 0, '--optim', 'sgd', '--learning_rate', 0.1, '--grad_clip', 1e3)
PHASES = {'cross-entropy': tiny.train_flags, 'self-critical': self_critical_flags}


@pytest.fixture
def gradients_of(tmp_path):
    """Call with flags of train.py for the gradients of every step, one vector each."""
    def run(flags, processes=1):
        steps, plain, path = [], Updater.update, tmp_path / 'gradients.pt'

        def record(self, *given):
            steps.append(torch.cat([p.grad.flatten() for p in self.parameters if p.grad is not None]))
            torch.save(steps, path)
            plain(self, *given)

        def prepare(rank):
            if rank == processes - 1:  # any will do: all have the same
                Updater.update = record
        assert several.run(processes, train, flags, tmp_path / 'out', prepare)[0] == [0] * processes
        return torch.load(path)
    return run


def apart(one, other):
    """The largest difference between two lists of vectors, relative to the largest number of each vector."""
    assert len(one) == len(other)
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(one, other))


@pytest.mark.parametrize('phase', PHASES)
def test_parts_and_processes_have_the_gradients_of_the_whole_batch(
        corpus, tmp_path, gradients_of, monkeypatch, phase):
    def flags(name, *more):
        return PHASES[phase](corpus, tmp_path / name, *EXACT, '--label_smoothing', 0.1, '--max_epochs', 1,
                             *more)

    sizes, plain = tmp_path / 'sizes', TransformerCaptioner.encode

    def encode(self, batch):
        if self.training:
            with open(sizes, 'a', encoding='utf-8') as file:
                file.write(f'{len(batch)}\n')
        return plain(self, batch)
    monkeypatch.setattr(TransformerCaptioner, 'encode', encode)
    monkeypatch.setattr(gradients, 'BUCKET', 2000)  # so that there are several

    def encoded():
        """(the most images encoded at a time, images encoded in all) since the last call."""
        found = list(map(int, sizes.read_text().split()))
        sizes.unlink()
        return max(found), sum(found)

    whole = gradients_of(flags('whole'))
    assert len(whole) == 3
    largest, images = encoded()  # batches of 4, 4 and 1
    assert largest == 4
    for parts, largest in ((3, 2), (9, 1)):
        assert apart(whole, gradients_of(flags(f'parts{parts}', '--accumulate', parts))) < 1e-6
        assert encoded() == (largest, images)
    # Of three processes two have nothing of the last batch, and one half of the others.
    for processes, more, largest in ((2, (), 2), (3, ('--accumulate', 2), 1)):
        assert apart(whole, gradients_of(flags(f'processes{processes}', *more), processes)) < 1e-5
        assert encoded() == (largest, images)
    one, two = (json.loads((tmp_path / name / 'validations.jsonl').read_text().splitlines()[0])
                for name in ('whole', 'processes2'))
    assert {name: value for name, value in one.items() if name not in ('seconds', 'waited')} == pytest.approx(
        {name: value for name, value in two.items() if name not in ('seconds', 'waited')}, rel=1e-5)


def test_a_run_resumes_bit_for_bit_with_as_many_processes_and_on_the_same_batches_with_fewer(
        corpus, tmp_path, monkeypatch):
    # The sums of three processes depend on the order of adding, and so on how gradients share messages.
    monkeypatch.setattr(gradients, 'BUCKET', 2000)

    def run(folder, *more, stop=None, processes=3):
        flags = tiny.train_flags(corpus, folder, '--max_epochs', 3, '--save_checkpoint_every', 2,
                                 '--perform_validation_every', 3, *more)
        prepare = stop and (lambda rank: interrupt_after(pytest.MonkeyPatch(), stop))
        return several.run(processes, train, flags, tmp_path / 'out', prepare)

    names = ('whole', 'parts', 'exact', 'fewer')
    whole, parts, exact, fewer = (tmp_path / name for name in names)
    statuses, (spoken, *silence) = run(whole)
    assert statuses == [0, 0, 0] and spoken.count('iteration 5 ') == 1 and not any(silence)
    assert len(list(whole.glob('events*'))) == 1
    assert (whole / 'validations.jsonl').read_text().count('\n') == 3
    run(parts, stop=5)
    assert infos_of(parts)['iter'] == 4  # in the middle of the second epoch
    assert run(parts, '--start_from', parts)[0] == [0, 0, 0]
    assert same_weights(weights_of(whole), weights_of(parts))  # with dropout: each has its own draws
    run(exact, *EXACT, processes=1)
    run(fewer, *EXACT, stop=5)
    assert run(fewer, *EXACT, '--start_from', fewer, processes=2)[0] == [0, 0]
    losses = [infos_of(folder)['histories']['loss_history'] for folder in (exact, fewer)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and len(losses[0]) == 9


def test_gradients_are_sent_while_others_are_computed_and_a_step_sends_nothing_else(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(gradients, 'BUCKET', 2000)
    path = tmp_path / 'messages.json'

    def prepare(rank):
        messages, state = [], {'step': 0, 'backward': False}

        def recorded(plain):
            def send(*given, **more):
                messages.append((state['step'], plain.__name__, state['backward'], more.get('async_op', False)))
                return plain(*given, **more)
            return send

        for name in ('all_reduce', 'all_gather', 'broadcast'):
            setattr(torch.distributed, name, recorded(getattr(torch.distributed, name)))
        plain_backward, plain_step = torch.Tensor.backward, train.train_step

        def backward(self):
            state['backward'] = True
            plain_backward(self)
            state['backward'] = False

        def step(run, phase):
            state['step'] += 1
            plain_step(run, phase)
            if rank == 1:
                path.write_text(json.dumps(messages))
        torch.Tensor.backward, train.train_step = backward, step

    flags = tiny.train_flags(corpus, tmp_path / 'run', '--losses_log_every', 100, '--accumulate', 2)
    assert several.run(2, train, flags, tmp_path / 'out', prepare)[0] == [0, 0]
    messages = json.loads(path.read_text())
    for number in (2, 3, 5, 6):  # the first one forms the buckets; a batch of a single image is process 1's
        names, early, buckets = zip(*[message[1:] for message in messages if message[0] == number])
        assert set(names) == {'all_reduce'} and len(names) > 8
        assert list(early) == list(buckets) == [True] * (len(names) - 1) + [False]  # the last is the statement


def test_each_process_draws_its_own_dropout(monkeypatch):
    drawn = []
    for rank, iteration in ((0, 0), (1, 0), (2, 0), (1, 5)):
        torch.manual_seed(3)
        monkeypatch.setattr(train.parallel, 'rank', lambda rank=rank: rank)
        run_folder.restore_random({'iter': iteration}, 3, torch.device('cpu'))
        drawn.append(float(torch.rand(())))
    assert len(set(drawn)) == 4


def broken_features(rank):
    """The second process cannot read an image."""
    def arrays(self, row):
        raise DataError(f'{self.ids[row]}.npz cannot be read')
    if rank == 1:
        Corpus.arrays = arrays


def full_disk(rank):
    """The main process cannot save."""
    def save_set(*_):
        raise OSError(28, 'No space left on device', 'model.pth')
    filesets.save_set = save_set


def broken_program(rank):
    """The second process meets a bug."""
    def loss(model, batch, **_):
        raise LookupError('a bug')
    if rank == 1:
        train.cross_entropy = loss


def not_a_number(rank):
    """The second process has a loss that is not finite."""
    plain = train.caption_loss

    def loss(model, batch, smoothing):
        terms = plain(model, batch, smoothing)
        return {**terms, 'loss': terms['loss'] * (float('nan') if rank == 1 else 1.0)}
    train.caption_loss = loss


def sudden_death(rank):
    """The second process is killed."""
    if rank == 1:
        train.cross_entropy = lambda model, batch, **_: os.kill(os.getpid(), signal.SIGKILL)


def late(trouble):
    """The same, with messages that are read one step later, as those of CUDA devices are."""
    def prepare(rank):
        plain = JointGradients.__init__

        def init(self, *given):
            plain(self, *given)
            self.late = True
        JointGradients.__init__ = init
        trouble(rank)
    prepare.__name__ = f'{trouble.__name__}_late'
    return prepare


@pytest.mark.parametrize('trouble, flags, expected, who, said', [
    (broken_features, ('--num_workers', 0), [1, 1], 1, r'10\d.npz cannot be read'),
    (full_disk, (), [1, 1], 0, 'No space left on device: model.pth'),
    (broken_program, (), [1, 1], 1, 'LookupError: a bug'),
    (not_a_number, (), [1, 1], 0, 'iteration 1 .*the images were'),
    (late(broken_features), ('--num_workers', 0), [1, 1], 1, r'10\d.npz cannot be read'),
    (late(broken_program), (), [1, 1], 1, 'LookupError: a bug'),
    (late(not_a_number), (), [1, 1], 0, 'iteration 1 .*the images were'),
    (sudden_death, (), [1, -signal.SIGKILL], 0, 'another process of this run ended'),
    (None, ('--heads', 3), [2, 2], 0, '--heads 3'),
    (None, ('--heads', 'x'), [2, 2], 0, '--heads'),
], ids=lambda value: getattr(value, '__name__', None))
def test_a_failure_in_one_process_ends_all_with_one_message_and_its_status(
        corpus, tmp_path, trouble, flags, expected, who, said):
    flags = tiny.train_flags(corpus, tmp_path / 'run', *flags, '--max_epochs', 1, '--losses_log_every', 100)
    statuses, texts = several.run(2, train, flags, tmp_path / 'out', trouble, timeout=30)
    assert statuses == expected
    assert re.search(said, texts[who]) and not texts[1 - who].replace('loss: 3 of 3 images', '').strip()


def test_an_error_names_the_images_of_all_processes(corpus, tmp_path):
    flags = tiny.train_flags(corpus, tmp_path / 'run', '--batch_size', 9)
    _, (text, _) = several.run(2, train, flags, tmp_path / 'out', not_a_number)
    assert all(str(image_id) in text for image_id in range(100, 109))


@pytest.mark.parametrize('is_late', [False, True])
def test_a_signal_to_one_process_stops_all_after_one_save(corpus, tmp_path, is_late):
    def prepare(rank):
        if is_late:
            late(lambda rank: None)(rank)
        plain, saves = train.train_step, filesets.save_set

        def step(run, phase):
            if rank == 1 and run.state.iteration == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            plain(run, phase)
        train.train_step = step
        filesets.save_set = lambda *given: (print('saved'), saves(*given))
    flags = tiny.train_flags(corpus, tmp_path / 'run', '--max_epochs', -1)
    statuses, (text, silence) = several.run(2, train, flags, tmp_path / 'out', prepare)
    assert statuses == [128 + signal.SIGTERM] * 2 and not silence
    assert text.count('saved\n') == 1 and f'stopped by SIGTERM after iteration {4 + is_late}' in text
    assert infos_of(tmp_path / 'run')['iter'] == 4 + is_late


def test_all_processes_leave_a_validation_for_a_signal_to_one_and_the_run_goes_on_bit_for_bit(corpus, tmp_path):
    def run(folder, *more, prepare=None):
        flags = tiny.train_flags(corpus, folder, '--perform_validation_every', 'epoch', '--val_images_use', 3,
                                 '--batch_size', 2, *more)
        return several.run(2, train, flags, tmp_path / 'out', prepare)

    def prepare(rank):
        plain = validation.mean_loss

        def asked(*given):
            if rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return plain(*given)
        validation.mean_loss = asked
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    assert run(whole)[0] == [0, 0]
    statuses, (text, silence) = run(parts, prepare=prepare)
    assert statuses == [128 + signal.SIGTERM] * 2 and not silence and text.count('stopped by SIGTERM') == 1
    assert infos_of(parts)['validation_due'] and not infos_of(parts)['validations']
    assert run(parts, '--start_from', parts)[0] == [0, 0]
    assert same_weights(weights_of(whole), weights_of(parts))
    assert infos_of(whole)['histories'] == infos_of(parts)['histories']


def test_evaluation_in_several_processes_writes_what_one_writes(corpus, tmp_path, monkeypatch):
    tiny.run(train, tiny.train_flags(corpus, tmp_path / 'run', '--max_epochs', 1))
    for number, flags in enumerate((('--beam_size', 3), ('--sample_max', 0, '--sample_n', 2))):
        found = []
        for processes in (1, 3):
            (tmp_path / f'{number}{processes}').mkdir()
            monkeypatch.chdir(tmp_path / f'{number}{processes}')
            given = tiny.eval_flags(corpus, tmp_path / 'run', '--batch_size', 1, '--verbose_loss', 1,
                                    '--language_eval', 1, *flags)
            statuses, texts = several.run(processes, evaluation, given, tmp_path / 'out')
            assert statuses == [0] * processes and not any(texts[1:])
            found.append([json.loads(pathlib.Path(name).read_text())
                          for name in ('vis/vis.json', 'eval_results/tiny_test.json')])
        assert found[0] == found[1]
    # Draws belong to their image: another batch has the same.
    tiny.run(evaluation, [*given, '--batch_size', 4])
    again = json.loads(pathlib.Path('vis/vis.json').read_text())
    assert [entry['caption'] for entry in again] == [entry['caption'] for entry in found[0][0]]


class InProcesses:
    """A program for `several.run`: its `main` runs `work`, and prints what it returned."""

    def __init__(self, work):
        self.work, self.__name__ = work, 'work'

    def main(self):
        with parallel.processes():
            print('found', self.work())


@pytest.mark.parametrize('who', [0, 1])
def test_an_error_inside_nested_agreements_is_reported_once_by_the_process_that_has_it(tmp_path, who):
    def fail():
        if parallel.rank() == who:
            raise UsageError('this is wrong')

    def work():
        return parallel.together(lambda: parallel.together(fail))
    statuses, texts = several.run(2, InProcesses(work), [], tmp_path / 'out')
    assert statuses == [2, 2]
    assert texts[who].endswith('this is wrong\n') and texts[who].count('\n') == 1 and not texts[1 - who]


def test_processes_wait_longer_for_the_main_one_if_it_may_take_days(tmp_path):
    def slow():
        time.sleep(4)
        return 'regions'

    def prepare(rank):
        parallel.PATIENCE = datetime.timedelta(seconds=2)
    for may_take_days, expected in ((True, [0, 0]), (False, [1, 1])):
        program = InProcesses(functools.partial(parallel.on_main, slow, may_take_days=may_take_days))
        statuses, texts = several.run(2, program, [], tmp_path / 'out', prepare)
        assert statuses == expected and ('found regions' in texts[0]) == may_take_days


def test_a_process_that_failed_before_long_work_ends_the_others_at_once(tmp_path):
    def work():
        if parallel.rank() == 1:
            raise UsageError('this is wrong')
        return parallel.on_main(lambda: 'regions', may_take_days=True)
    program = InProcesses(lambda: parallel.together(work))
    statuses, texts = several.run(2, program, [], tmp_path / 'out', timeout=20)
    assert statuses == [2, 2] and not texts[0] and 'this is wrong' in texts[1]


def test_a_signal_to_torchrun_saves(corpus, tmp_path):
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2',
               'train.py', *map(str, tiny.train_flags(corpus, tmp_path / 'run', '--max_epochs', -1))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for line in process.stdout:
        if line.startswith('iteration 5 '):
            break
    process.terminate()
    rest = process.stdout.read()
    assert process.wait(timeout=60) == 1  # whatever its processes exit with; docs/cluster.md says so
    assert rest.count('stopped by SIGTERM') == 1 and infos_of(tmp_path / 'run')['iter'] >= 5
    assert status_of(tmp_path / 'run')['state'] == 'stopped'
