"""Validation during training: the loss, the language scores, the best score so far."""

import math
import types

import numpy as np
import pytest
import torch
from torch import nn

from misc.cli import DataError
from misc.evaluation.validation import Validation, reference_captions
from misc.scoring import java
from misc.training.schedule import Best, CollapseWatch

VOCABULARY = {'1': 'a', '2': 'red', '3': 'dog', '4': 'cat'}
CAPTIONS = {7: [1, 2, 3, 0], 8: [1, 4, 0, 0], 9: [2, 4, 0, 0]}
IMAGES = [{'id': image_id, 'file_path': f'{image_id}.jpg'} for image_id in CAPTIONS]
REFERENCES = {image_id: [' '.join(VOCABULARY[str(word)] for word in words if word)]
              for image_id, words in CAPTIONS.items()}
UNIFORM = -math.log(5)


class Model(nn.Module):
    """Gives every word the same log-probability."""

    def __init__(self, log_prob=UNIFORM):
        super().__init__()
        self.log_prob, self.modes = log_prob, []

    def encode(self, batch):
        self.modes.append((self.training, torch.is_grad_enabled()))
        return batch

    def word_log_probs(self, memory, captions, lengths=None):
        places = (captions >= 0).reshape(-1).nonzero()[:, 0]
        places = places + places // captions.shape[2]  # each caption has one more position, for its end
        return torch.full((len(places), 5), self.log_prob), places


class Batch(types.SimpleNamespace):
    """One image with its reference captions, or without."""

    def to(self, device):
        return self

    def __len__(self):
        return len(self.images)


def batches(captions_per_image):
    for row, (image_id, words) in enumerate(CAPTIONS.items()):
        captions = torch.tensor([[words] * captions_per_image]) if captions_per_image else None
        yield Batch(image_ids=[image_id], images=[row], counts=[0], captions=captions, lengths=None)


def decode(model, memory, chances):
    words = [[CAPTIONS[image_id]] for image_id in memory.image_ids]
    return types.SimpleNamespace(captions=torch.tensor(words), log_probs=torch.zeros(len(words), 1))


def validation(**changes):
    values = {'batches': batches, 'images': IMAGES, 'total': 3, 'vocabulary': VOCABULARY, 'decode': decode,
              'references': REFERENCES, 'device': torch.device('cpu'), 'seed': 1, 'captions_per_image': 2}
    return Validation(**{**values, **changes})


def test_without_language_scores_there_is_the_mean_loss_per_token_alone():
    assert validation(decode=None, references=None).run(Model(), False) == {'loss': pytest.approx(math.log(5))}


def test_every_token_counts_as_much_as_any_other_in_whatever_batch():
    class Uneven(Model):
        def word_log_probs(self, memory, captions, lengths=None):
            tokens, log_prob = {7: (4, -1.0), 8: (2, -4.0), 9: (2, -2.0)}[memory.image_ids[0]]
            return torch.full((tokens, 5), log_prob), torch.arange(tokens)

    scores = validation(decode=None, references=None).run(Uneven(), False)
    assert scores == {'loss': pytest.approx((4 * 1 + 2 * 4 + 2 * 2) / 8)}


def test_language_scores_are_those_of_the_decoded_captions(monkeypatch):
    monkeypatch.setattr(java, 'is_installed', lambda: False)
    scores = validation().run(Model(), True)
    assert scores['loss'] == pytest.approx(math.log(5)) and scores['Bleu_1'] == pytest.approx(1)
    wrong = validation(references={image_id: ['a blue cat sleeps'] for image_id in CAPTIONS}).run(Model(), True)
    assert 0 < wrong['Bleu_1'] < 1 and wrong['CIDEr'] < scores['CIDEr']


def test_the_model_is_evaluated_without_dropout_or_graph_and_goes_on_training():
    model = Model().train()
    validation().run(model, False)
    assert set(model.modes) == {(False, False)} and model.training


def test_a_loss_that_is_not_finite_names_when_which_images_and_the_folder(tmp_path):
    with pytest.raises(DataError, match=f'(?s)iteration 5: the loss is not finite.* 7\n.*{tmp_path}'):
        validation(folder=str(tmp_path)).run(Model(float('nan')), False, 'iteration 5: ')


def test_the_best_is_the_highest_cider_or_the_lowest_loss_and_starts_anew_with_the_other():
    best = Best()
    assert [best.update({'loss': loss}) for loss in (3.0, 4.0, 3.0, 2.0)] == [True, False, False, True]
    assert (best.score, best.measure) == (-2.0, 'loss')
    assert [best.update({'loss': 9.0, 'CIDEr': cider}) for cider in (0.1, 0.1, 0.2)] == [True, False, True]
    assert (best.score, best.measure) == (0.2, 'CIDEr')
    resumed = Best(0.5, 'CIDEr')
    assert not resumed.update({'loss': 1.0, 'CIDEr': 0.4}) and resumed.score == 0.5
    assert resumed.update({'loss': 1.0}) and resumed == Best(-1.0, 'loss')


def test_a_cider_below_half_of_the_first_is_warned_of(capsys):
    watch = CollapseWatch()
    for cider in (1.0, 1.2, 0.51):
        watch.update(cider)
    assert watch.first == 1.0 and not capsys.readouterr().err
    watch.update(0.49)
    assert 'warning: validation CIDEr 0.490' in capsys.readouterr().err
    CollapseWatch(1.5).update(0.7)
    assert '1.500' in capsys.readouterr().err


def test_labels_stand_in_for_captions_that_are_lacking(capsys):
    images = [{'id': 7, 'captions': ['a dog', 'the dog']}, {'id': 8}, {'id': 9, 'captions': []}]
    labels = {1: np.array([[1, 3, 0], [2, 4, 1]]), 2: np.array([[4, 0, 0]])}
    assert reference_captions(images, [0], labels.__getitem__, VOCABULARY, 'talk.json') == {7: ['a dog', 'the dog']}
    assert not capsys.readouterr().err
    assert reference_captions(images, [0, 1, 2], labels.__getitem__, VOCABULARY, 'talk.json') == {
        7: ['a dog', 'the dog'], 8: ['a dog', 'red cat a'], 9: ['cat']}
    assert '2 of 3 validation images have no captions in talk.json' in capsys.readouterr().err
