"""Numbers that are not finite: training stops with a message and keeps its checkpoint; no score divides by zero."""

import itertools
import json

import numpy as np
import pytest
import torch

import eval as evaluation
import train
from misc.cli import DataError
from misc.compare import comparison, significance
from misc.compare.image_statistics import bleu_counts
from misc.demo import relations
from misc.run import folder as run_folder
from misc.scoring import bleu, diversity, java, meteor, metrics
from misc.scoring.results import Results
from misc.training.cider import CiderD
from misc.training.gradients import JointGradients
from misc.training.rewards import Rewards, check_table
from scripts import score_captions
from tests.helpers import several, tiny
from tests.helpers.damage import array
from tests.helpers.runs import infos_of, weights_of

PHASES = {'cross-entropy': (), 'self-critical': (
    '--self_critical_after', 0, '--cached_tokens', 'ROOT/talk-idxs.p', '--seq_per_img', 2)}
WAYS = {'plain': (), 'bfloat16': ('--amp', 'bf16'), 'accumulated': ('--accumulate', 2),
        'hardly clipped': ('--grad_clip', 1e30), 'warm-up': ('--noamopt', 1)}


@pytest.fixture(autouse=True)
def without_java(monkeypatch):
    """Scores without METEOR: quick."""
    monkeypatch.setattr(java, 'is_installed', lambda: False)


@pytest.fixture
def root(tmp_path):
    return tiny.write_corpus(tmp_path / 'root')


def start(root, *flags):
    """Train into `root`/run with a checkpoint after every step."""
    flags = [str(flag).replace('ROOT', str(root)) for flag in flags]
    return tiny.run(train, tiny.train_flags(root, root / 'run', '--save_checkpoint_every', 1, *flags))


def refusal(root, *flags):
    """The two-line message with which training stops."""
    with pytest.raises(DataError) as raised:
        start(root, *flags)
    text = str(raised.value)
    assert raised.value.status == 1 and len(text.splitlines()) == 2 and text.count('not finite') == 1
    return text


def is_whole(root, iteration):
    """Whether the checkpoint of `iteration` is complete, finite, and can be resumed from."""
    saved = [*weights_of(root / 'run').values()] + [
        moment for moments in run_folder.read_tensors(str(root / 'run' / 'optimizer.pth'))['state'].values()
        for moment in moments.values()]
    run_folder.find_run(str(root / 'run'), 'tiny')
    return infos_of(root / 'run')['iter'] == iteration and all(
        bool(torch.isfinite(torch.as_tensor(value)).all()) for value in saved)


def overflow(root, image_id):
    """Give an image finite features whose products are not finite."""
    with np.load(root / 'att' / f'{image_id}.npz') as stored:
        shape = stored['feat'].shape
    array(f'att/{image_id}.npz', np.full(shape, 3e38, np.float32))(root)


def spoil_gradients(monkeypatch, iteration, value):
    """Make a gradient of the step `iteration` contain `value`; its loss stays the same."""
    plain, calls = JointGradients.last_part, itertools.count(1)

    def spoilt(self):
        is_first = not self.is_final  # of the calls in a step
        plain(self)
        if is_first and next(calls) == iteration:
            parameter = self.parameters[0]
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad.view(-1)[0] += value
    monkeypatch.setattr(JointGradients, 'last_part', spoilt)


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('phase', PHASES)
def test_features_that_overflow_stop_the_run_at_their_iteration_and_keep_the_checkpoint_before(
        root, monkeypatch, phase, way):
    batches, plain = [], train.TrainBatches.next

    def kept(self):
        batches.append(plain(self))
        return batches[-1]
    monkeypatch.setattr(train.TrainBatches, 'next', kept)
    start(root, '--max_epochs', 1, *PHASES[phase], *WAYS[way])
    order = [batch.image_ids for batch in batches]
    victim = order[1][0]  # of the second batch
    overflow(root, victim)
    for path in (root / 'run').iterdir():
        path.unlink()
    text = refusal(root, *PHASES[phase], *WAYS[way])
    assert text.startswith('iteration 2 (epoch 0, learning rate ')
    assert f'the images were {", ".join(map(str, order[1]))}\n' in text and 'checkpoint' in text
    assert is_whole(root, 1)


@pytest.mark.parametrize('value', [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize('phase', PHASES)
def test_clipping_does_not_hide_a_gradient_that_is_not_finite(root, monkeypatch, phase, value):
    spoil_gradients(monkeypatch, 5, value)
    text = refusal(root, '--grad_clip', 0.1, '--learning_rate_decay_start', -1, *PHASES[phase])
    assert text.startswith('iteration 5 (epoch 1, learning rate 0.0005): the loss or a gradient')
    assert is_whole(root, 4)


def test_a_gradient_that_is_not_finite_in_one_process_stops_all(root, tmp_path):
    def prepare(rank):
        spoil_gradients(pytest.MonkeyPatch(), 2, np.inf if rank == 1 else 0.0)
    flags = tiny.train_flags(root, root / 'run', '--save_checkpoint_every', 1)
    statuses, texts = several.run(2, train, flags, tmp_path / 'out', prepare)
    assert statuses == [1, 1] and 'iteration 2 (epoch 0' in texts[0] and is_whole(root, 1)


@pytest.mark.parametrize('flags', [('--save_checkpoint_every', 1), ('--perform_validation_every', 1)])
def test_a_step_that_is_too_large_is_not_saved(root, flags):
    start(root, '--max_epochs', 1, '--optim', 'sgd')
    text = refusal(root, '--optim', 'sgd', '--learning_rate', 1e39, '--start_from', 'ROOT/run', *flags)
    assert text.startswith('iteration 4 (epoch 1, learning rate 1e+39): a weight') and '--' not in text
    assert is_whole(root, 3)


def test_the_last_step_of_a_run_is_checked_as_well(root):
    text = refusal(root, '--optim', 'sgd', '--learning_rate', 1e39, '--batch_size', 9, '--max_epochs', 1,
                   '--save_checkpoint_every', 100)
    assert 'iteration 1 ' in text and 'nothing was saved' in text and not (root / 'run' / 'model.pth').exists()


@pytest.mark.parametrize('phase', PHASES)
def test_a_validation_loss_that_is_not_finite_is_never_the_best_score(root, phase):
    overflow(root, 110)
    text = refusal(root, '--perform_validation_every', 2, '--self_critical_after', -1, *PHASES[phase])
    began = 0 if PHASES[phase] else 2  # the self-critical phase begins with a validation
    assert text.startswith(f'validation at iteration {began} (epoch 0, learning rate 0.0005): the loss is')
    assert 'the images were 109, 110, 111\n' in text
    assert not (root / 'run' / 'model-best.pth').exists() and (not began or is_whole(root, 1))


@pytest.mark.parametrize('flags', [(), ('--sample_max', 0), ('--beam_size', 1)])
def test_evaluation_names_the_image_with_a_log_probability_that_is_not_finite(root, tmp_path, monkeypatch, flags):
    monkeypatch.chdir(tmp_path)
    start(root, '--max_epochs', 1)
    overflow(root, 114)
    with pytest.raises(DataError, match='^the probability of any caption is not finite; the images were 114\n'):
        tiny.run(evaluation, tiny.eval_flags(root, root / 'run', *flags))
    monkeypatch.setattr(evaluation, 'caption_images', lambda *_, **__: [])
    with pytest.raises(DataError, match='^the loss is not finite; the images were 114, 115\n.*features'):
        tiny.run(evaluation, tiny.eval_flags(root, root / 'run', '--verbose_loss', 1, '--batch_size', 2))
    assert not (tmp_path / 'vis').exists() and not (tmp_path / 'eval_results').exists()


# Scores

def strict(function):
    """Let a test fail on any warning of a division by zero or an invalid value."""
    return pytest.mark.filterwarnings('error')(function)


CAPTION_SETS = {
    'empty': ['', '', ''], 'all UNK': ['UNK UNK UNK', 'UNK', 'UNK UNK'], 'one of them empty': ['', 'a dog', ''],
    'of full stops': ['.', '...', '!'], 'equal to the references': ['a red dog', 'a cat', 'left of a dog'],
}
TRUTHS = {1: ['a red dog', 'a cat'], 2: ['a cat'], 3: ['left of a dog', 'left of a dog']}


@strict
@pytest.mark.parametrize('more', [[], ['']])
@pytest.mark.parametrize('case', CAPTION_SETS)
def test_empty_captions_and_captions_of_unk_are_scored(tmp_path, capsys, case, more):
    captions = dict(zip(TRUTHS, CAPTION_SETS[case]))
    (tmp_path / 'vis.json').write_text(json.dumps(
        [{'image_id': image, 'caption': caption} for image, caption in captions.items()]))
    (tmp_path / 'coco.json').write_text(json.dumps({'annotations': [
        {'image_id': image, 'caption': text} for image, texts in TRUTHS.items() for text in texts + more]}))
    tiny.run(score_captions, ['--predictions', tmp_path / 'vis.json', '--coco_json', tmp_path / 'coco.json',
                              '--output_json', tmp_path / 'scores.json'])
    found = json.loads((tmp_path / 'scores.json').read_text())
    scores = [*found['overall'].values()] + [row[name] for row in found['images'] for name in found['overall']]
    assert all(np.isfinite(scores)) and 'nan' not in capsys.readouterr().out
    if case in ('empty', 'all UNK', 'of full stops') and not more:
        assert max(scores) < 1e-3
    if case == 'equal to the references':
        assert found['overall']['Bleu_1'] == pytest.approx(1)


@pytest.mark.parametrize('word, caption', [(0, ''), (9, 'UNK UNK UNK UNK UNK UNK')])
def test_a_model_that_writes_nothing_or_only_unk_is_validated_rewarded_and_evaluated(
        root, tmp_path, monkeypatch, word, caption):
    monkeypatch.chdir(tmp_path)
    start(root, '--max_epochs', 1)
    weights = weights_of(root / 'run')
    weights['output.bias'][word] = 1e4
    torch.save(weights, root / 'run' / 'model.pth')
    flags = ('--language_eval', 1, '--suppress_UNK', 0, '--verbose_loss', 1)
    tiny.run(evaluation, tiny.eval_flags(root, root / 'run', *flags, '--sample_n', 2))
    found = json.loads((tmp_path / 'eval_results' / 'tiny_test.json').read_text())
    assert {row['caption'] for row in found['images']} == {caption}
    assert all(np.isfinite(list(found['overall'].values()))) and found['overall']['Bleu_4'] < 1e-3
    start(root, '--start_from', 'ROOT/run', '--max_epochs', 2, '--language_eval', 1, '--self_critical_after', 1,
          '--cached_tokens', 'ROOT/talk-idxs.p', '--bleu_reward_weight', 0.5, '--suppress_UNK', 0)
    history = infos_of(root / 'run')['histories']['reward_history']
    assert len(history) == 3 and all(np.isfinite(list(row.values())).all() for row in history.values())
    assert all(row['advantage'] == 0 for row in history.values())  # all samples are the same
    assert is_whole(root, 6)


@strict
@pytest.mark.parametrize('images', [1, 3])
def test_rewards_of_empty_equal_and_common_captions_are_finite(images):
    # One image's n-grams are in every image, so their weight is 0.
    captions = np.array([[1, 2, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [3, 0, 0, 0]])
    table = {(str(a),): images for a in range(4)} | {('1', '2'): 1}
    cider = CiderD(table, images)
    rewards = Rewards(cider, lambda image: captions[:1] if image else captions[1:2], 4, bleu_weight=1.0)
    advantage, statistics = rewards([0, 1], np.stack([captions, captions]), captions[:2])
    assert np.isfinite(advantage).all() and np.isfinite(list(statistics.values())).all()
    assert advantage[0, 0] == advantage[1, 1] == 0  # the greedy captions
    alone = CiderD({('1',): 1.0}, 1)
    assert (alone.score([0], captions[None], lambda image: captions[:1]) == 0).all()
    assert (CiderD({}, 1).score([0], captions[None], lambda image: captions[1:2]) == 0).all()


@strict
def test_a_table_is_checked_on_images_with_one_caption_and_with_none_in_common():
    cider = CiderD({('1',): 1, ('0',): 2, ('1', '0'): 1}, 9)
    found = check_table(cider, {7: np.array([[1, 0]])})
    assert found['coverage'] == 1 and np.isnan(found['score'])  # there is nothing to score it against


@strict
def test_scores_from_empty_counts_are_zero():
    assert bleu.bleu_scores(np.zeros((2, bleu.BLEU_COUNTS))).max() < 1e-3
    empty = np.array(bleu.caption_counts('', *bleu.reference_limits(['', ''])), float)
    assert np.isfinite(bleu.bleu_scores(empty)).all()
    assert (meteor.meteor_scores(np.zeros((2, meteor.METEOR_COUNTS))) == 0).all()
    for column in range(meteor.METEOR_COUNTS):
        alone = np.zeros(meteor.METEOR_COUNTS)
        alone[column] = 1.0
        assert 0 <= meteor.meteor_scores(alone)[0] <= 1
    with pytest.raises(ValueError, match='counts'):
        meteor.parse_counts([' '.join(['nan'] * meteor.METEOR_COUNTS)])


@strict
@pytest.mark.parametrize('images', [1, 2])
def test_one_image_and_equal_runs_have_intervals_and_p_values(images, monkeypatch):
    monkeypatch.setattr(comparison, 'MIN_IMAGES', 1)  # the report shows no intervals for so few images
    def results(name, value):
        each = dict.fromkeys(range(images), value)
        return Results(name, name, {'CIDEr': value, 'Bleu_4': value}, dict.fromkeys(each, ''), {'CIDEr': each})
    references = {image: [''] for image in range(images)}
    for values in ((0.0, 0.0), (0.5, 0.5), (0.0, 1.0)):
        runs = [results(name, value) for name, value in zip('ab', values)]
        compared = comparison.compare(runs, list(range(images)), 'a', [bleu_counts(runs, references)],
                                      comparison.Settings(draws=100))
        for difference in compared.differences:
            assert np.isfinite([difference.low, difference.high, difference.value]).all()
            assert 0 < difference.p <= difference.adjusted_p <= 1
            assert difference.p == 1 or values[0] != values[1]
    assert significance.bootstrap_sums(np.ones((1, 2)), 5, 1).tolist() == [[1, 1]] * 5
    assert significance.holm([]) == [] and significance.p_value(0.0, np.zeros(0)) == 1


@strict
def test_relations_and_diversity_of_empty_captions():
    assert relations.relation_accuracy({}, {}) == {'accuracy': None, 'images': 0, 'correct': 0}
    assert relations.relation_accuracy({1: 'a dog'}, {1: ['a dog', '']})['accuracy'] is None
    truth = {1: ['a red disc over a blue box']}
    for captions in ({}, {1: ''}, {1: 'UNK UNK'}, {1: 'above below left of'}):
        assert relations.relation_accuracy(captions, truth)['accuracy'] == 0
    assert diversity.diversity({1: ['', ''], 2: ['', '']}) == {'Div-1': 0, 'Div-2': 0, 'mBLEU-4': pytest.approx(0)}
    found = diversity.diversity({1: ['', 'a dog'], 2: ['UNK', 'UNK']})
    assert all(np.isfinite(list(found.values())))
    best = metrics.oracle_cider({1: ['', ''], 2: ['']}, {1: ['a dog'], 2: ['a cat', '']}, use_java=False)
    assert best == 0
