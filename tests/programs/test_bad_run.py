"""A run's folder that is damaged, or does not fit its data, is refused with the name of the file."""

import json
import pickle

import numpy as np
import pytest
import torch

import eval as evaluation
import train
from misc.disk import filesets
from misc.run import folder as run_folder
from tests.helpers.damage import LABELS, RESUMED, SCORED, complaint, expect, resplit, talk


def infos(change):
    """Edit the infos file of the run."""
    def damage(root):
        path = root / 'run' / 'infos_tiny.pkl'
        content = run_folder.read_infos(str(path))
        change(content)
        path.write_bytes(run_folder.pickle_bytes(content))
    return damage


def weights(change):
    """Change the weights of the run."""
    def damage(root):
        path = root / 'run' / 'model.pth'
        torch.save(change(run_folder.read_tensors(str(path))), path)
    return damage


def without_options(root):
    (root / 'run' / 'infos_tiny.pkl').write_bytes(pickle.dumps({'opt': [], 'vocab': []}))


def annotated(*annotations):
    return lambda root: (root / 'coco.json').write_text(json.dumps({'annotations': annotations}))


# Case: (the damage, flags of eval.py, patterns of the message).
WRONG_RUN = {
    'a vocabulary of other words': (
        talk('ix_to_word', '1', value='the'), (),
        ('vocabulary of .*talk.json', 'infos_tiny.pkl', '--input_json')),
    'a longer vocabulary': (
        talk('ix_to_word', '10', value='more'), (), ('vocabulary of .*talk.json', '--input_json')),
    'a model that is not known': (
        infos(lambda old: old['opt'].update(caption_model='mlp')), (),
        ('infos_tiny.pkl', "caption_model: 'mlp'", 'spatial_pe')),
    'a number that is not allowed': (
        infos(lambda old: old['opt'].update(num_layers=0)), (),
        ('infos_tiny.pkl', 'num_layers', 'at least 1')),
    'infos without options': (
        infos(lambda old: old.pop('opt')), (), ('infos_tiny.pkl', 'opt and vocab', 'infos_ID.pkl')),
    'options in a list': (without_options, (), ('infos_tiny.pkl', 'opt and vocab', 'infos_ID.pkl')),
    'infos without a longest caption': (
        infos(lambda old: old['opt'].pop('seq_length')), (),
        ('infos_tiny.pkl', 'seq_length', 'infos_ID.pkl')),
    'infos without a place in training': (
        infos(lambda old: old.pop('epoch')), (), ('infos_tiny.pkl', 'epoch', 'infos_ID.pkl')),
    'the weights of another model': (
        weights(lambda old: {**old, 'output.bias': torch.ones(3)}), (),
        ('model.pth', r'output.bias is \(3,\), not \(10,\)')),
    'weights that are not numbers': (
        weights(lambda old: {name: value * np.nan for name, value in old.items()}), (),
        ('model.pth', 'not finite', 'model-best.pth')),
    'a list of tensors': (weights(lambda old: list(old.values())), (), ('model.pth', 'state dict')),
    'a number among the weights': (weights(lambda old: {**old, 'one': 1}), (), ('model.pth', 'state dict')),
    'a broken list of a save': (
        lambda root: (root / 'run' / filesets.JOURNAL).write_text('[1'), (),
        ('run/replacing.json', 'move it away')),
    'a folder for the list of a save': (
        lambda root: (root / 'run' / filesets.JOURNAL).mkdir(), (), ('run/replacing.json', 'move it away')),
    'names that no file has in the list of a save': (
        lambda root: (root / 'run' / filesets.JOURNAL).write_text(r'["model.pth\u0000"]'), (),
        ('run/replacing.json', 'move it away')),
    'a split that is not there': (
        resplit('val', slice(12, 16)), (), ('test split', 'it has restval, train, val')),
    'an image without a file': (
        talk('images', 13, 'file_path'), ('--dump_images', 1, '--image_root', 'ROOT'), ('image 113', LABELS)),
    'annotations of another kind': (annotated({'id': 1}), SCORED, ('--coco_json', 'file without captions')),
    'annotations of other images': (
        annotated({'image_id': 1, 'caption': 'a dog'}), SCORED, ('4 of 4 images', 'coco.json: 112, 113')),
}


@pytest.mark.parametrize('case', WRONG_RUN)
def test_a_run_that_does_not_fit_is_named(root, case):
    damage, flags, patterns = WRONG_RUN[case]
    damage(root)
    expect(complaint(root, evaluation, *flags), *patterns)


def test_resuming_with_another_vocabulary_or_other_images_is_refused(root):
    (root / 'plain.json').write_bytes((root / 'talk.json').read_bytes())
    content = json.loads((root / 'talk.json').read_text())
    content['ix_to_word']['1'] = 'the'
    for image in content['images']:
        image['captions'] = [f' {caption} '.replace(' a ', ' the ') for caption in image['captions']]
    (root / 'talk.json').write_text(json.dumps(content))
    expect(complaint(root, train, *RESUMED), 'vocabulary of .*talk.json', '--input_json')
    expect(complaint(root, train, '--input_json', 'ROOT/plain.json', '--train_only', 1, *RESUMED),
           'training images are not those', '--train_only')
