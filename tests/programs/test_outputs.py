"""What an evaluation writes: checked before it captions, and never in place of more; and what it warns of."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

import eval as evaluation
import train
from misc.cli import DataError, UsageError
from misc.dataset.array_files import write_array
from misc.dataset.features import open_reader
from misc.dataset.packing import write_packed
from misc.disk import locks
from misc.scoring import java
from scripts import create_report
from tests.helpers import tiny

RESULTS = 'eval_results/tiny_test.json'


@pytest.fixture(scope='module')
def trained(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp('run') / 'tiny'
    tiny.run(train, tiny.train_flags(corpus, folder, '--max_epochs', 1))
    return folder


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """Evaluation writes into the current folder."""
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    monkeypatch.setattr(java, 'is_installed', lambda: False)


@pytest.fixture
def evaluate(corpus, trained):
    """Call with flags to evaluate the run."""
    return lambda *flags: tiny.run(evaluation, tiny.eval_flags(corpus, trained, '--language_eval', 1, *flags))


def images_in(path):
    with open(path, encoding='utf-8') as file:
        content = json.load(file)
    return len(content['images'] if isinstance(content, dict) else content)


@pytest.mark.parametrize('name', ['vis', 'eval_results'])
@pytest.mark.parametrize('damage', ['a file', 'a folder in its place', 'read-only', 'full'])
def test_nothing_is_captioned_where_nothing_can_be_written(evaluate, monkeypatch, name, damage):
    monkeypatch.setattr(evaluation, 'caption_images', lambda *_, **__: pytest.fail('captioned'))
    if damage == 'a file':
        open(name, 'w').close()
    elif damage == 'a folder in its place':
        os.makedirs('vis/vis.json' if name == 'vis' else RESULTS)
    else:
        os.makedirs(name)
        refuse(monkeypatch, name, 30 if damage == 'read-only' else 28)
    before = sorted(os.listdir())
    with pytest.raises(DataError, match=f'{name}/.*cannot be written .*nothing was computed'):
        evaluate()
    assert sorted(os.listdir()) == before and (damage != 'full' or not os.listdir(name))


def refuse(monkeypatch, name, number):
    """Let no file be synced to the folder `name`."""
    plain = os.fsync

    def fsync(descriptor):
        if f'/{name}/' in os.readlink(f'/proc/self/fd/{descriptor}'):
            raise OSError(number, os.strerror(number))
        plain(descriptor)
    monkeypatch.setattr(os, 'fsync', fsync)


def test_the_check_leaves_nothing_behind(evaluate, monkeypatch):
    def stopped(*_, **__):
        raise DataError('stopped')
    monkeypatch.setattr(evaluation, 'caption_images', stopped)
    with pytest.raises(DataError, match='stopped'):
        evaluate()
    assert os.listdir() == []


def test_a_file_that_cannot_be_written_in_the_end_does_not_cost_the_others(evaluate, monkeypatch, capsys):
    plain = evaluation.caption_images

    def then_broken(*given, **named):
        found = plain(*given, **named)
        os.mkdir('vis/vis.json')
        return found
    monkeypatch.setattr(evaluation, 'caption_images', then_broken)
    with pytest.raises(OSError):
        evaluate()
    assert 'CIDEr' in capsys.readouterr().out and images_in(RESULTS) == 4


def test_a_part_does_not_replace_the_whole_and_the_whole_replaces_a_part(evaluate, capsys):
    evaluate('--num_images', 2)
    assert images_in(RESULTS) == images_in('vis/vis.json') == 2
    evaluate()
    assert images_in(RESULTS) == images_in('vis/vis.json') == 4 and 'kept' not in capsys.readouterr().err
    evaluate('--num_images', 3)
    said = capsys.readouterr().err
    assert images_in(RESULTS) == 4 and images_in('eval_results/tiny_test_3_images.json') == 3
    assert images_in('vis/vis.json') == 3 and images_in('vis/vis_4_images.json') == 4
    assert 'tiny_test.json has the scores of 4 images' in said and 'vis/vis.json had captions of 4 images' in said
    evaluate('--split', 'val')
    assert images_in('vis/vis.json') == images_in('vis/vis_3_images.json') == 3   # of other images
    assert 'captions of 3 images, 3 of them not captioned now' in capsys.readouterr().err
    assert images_in('eval_results/tiny_val.json') == 3 and images_in(RESULTS) == 4


def test_results_that_cannot_be_read_are_replaced(evaluate):
    for text in ('[', '{"images": 3}', '{"images": [3]}', '[]', '{"images": [{"image_id": []}]}'):
        for path in (RESULTS, 'vis/vis.json'):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, 'w', encoding='utf-8') as file:
                file.write(text)
        evaluate('--num_images', 2)
        assert images_in(RESULTS) == images_in('vis/vis.json') == 2


def test_outputs_go_into_their_folder_and_two_evaluations_do_not_meet(
        evaluate, corpus, tmp_path, monkeypatch, capsys):
    images = tmp_path / 'pictures' / 'val2014'
    images.mkdir(parents=True)
    for image_id in range(112, 116):
        Image.new('RGB', (40, 30), 'olive').save(images / f'{image_id}.jpg')
    monkeypatch.setattr(locks, 'PATIENCE', 0.1)
    plain, inner = evaluation.caption_images, []

    def meanwhile(*given, **named):
        """While one evaluation captions, start others."""
        monkeypatch.setattr(evaluation, 'caption_images', plain)
        for flags in ((), ('--dump_json', 0), ('--id', 'other')):
            with pytest.raises(UsageError, match='another evaluation .*(vis.json|tiny_test.json); .*--output_dir'):
                evaluate('--output_dir', 'a/b', *flags)
        evaluate('--output_dir', 'c', '--num_images', 3)
        evaluate('--output_dir', 'a/b', '--id', 'other', '--dump_json', 0, '--beam_size', 1)
        inner.append(1)
        return plain(*given, **named)
    monkeypatch.setattr(evaluation, 'caption_images', meanwhile)
    evaluate('--output_dir', 'a/b', '--dump_images', 1, '--image_root', images.parent)
    assert inner and sorted(os.listdir()) == ['a', 'c']
    assert images_in('a/b/vis/vis.json') == images_in('a/b/eval_results/tiny_test.json') == 4
    assert images_in('c/vis/vis.json') == 3 and images_in('a/b/eval_results/other_test.json') == 4
    assert os.path.exists('a/b/vis/index.html') and not [
        name for _, _, names in os.walk('.') for name in names if name.endswith('.lock')]
    said = capsys.readouterr().err
    assert 'wrote a/b/vis/vis.json' in said and 'wrote a/b/vis/index.html' in said


def test_other_features_than_those_of_the_training_are_warned_of(corpus, trained, tmp_path, capsys):
    root = shutil.copytree(corpus, tmp_path / 'root')
    flags = ('--dump_json', 0)
    tiny.run(evaluation, tiny.eval_flags(root, trained, *flags))
    source = open_reader(str(root / 'att'), 'att', '')
    write_packed(root / 'att.h5', {'att': {image: source.read(image) for image in source.ids()}})
    tiny.run(evaluation, tiny.eval_flags(root, trained, *flags, '--input_img_feat_dir', root / 'att.h5'))
    write_packed(root / 'half.h5', {'att': {image: source.read(image) for image in source.ids()}}, dtype='float16')
    tiny.run(evaluation, tiny.eval_flags(root, trained, *flags, '--input_img_feat_dir', root / 'half.h5'))
    assert 'trained with' not in capsys.readouterr().err
    for image in source.ids():
        write_array(root / 'att', image, 'att', source.read(image) + np.float32(1))
    tiny.run(evaluation, tiny.eval_flags(root, trained, *flags))
    said = [line for line in capsys.readouterr().err.splitlines() if 'trained with' in line]
    assert len(said) == 1 and f'warning: --input_img_feat_dir {root / "att"} is not what the run of' in said[0]
    assert '12 of 12 images compared' in said[0]


def test_a_report_that_cannot_be_written_is_refused_before_anything_is_compared(evaluate, monkeypatch):
    evaluate()
    shutil.copy(RESULTS, 'other.json')
    monkeypatch.setattr(create_report, 'compare', lambda *_: pytest.fail('compared'))
    open('report', 'w').close()
    with pytest.raises(DataError, match='report/r.html cannot be written'):
        tiny.run(create_report, [RESULTS, 'other.json', '--output', 'report/r.html'])
