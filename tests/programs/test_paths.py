"""Paths with spaces, with letters beyond ASCII and of great length, and other working directories."""

import os
import shutil
import subprocess
import sys

import pytest

import eval as evaluation
import train
from misc.scoring import java, meteor
from tests.helpers import ROOT, tiny
from tests.helpers.preparing import record, write_split

STRANGE = f'My Drive, ü 猫/{"long" * 40}'


def test_meteor_finds_its_paraphrases_in_a_folder_with_a_space(tmp_path, monkeypatch):
    if not java.is_installed():
        pytest.skip('there is no Java')
    plain = java.toolkit_folder('meteor')
    place = tmp_path / 'sp ace ü'
    place.mkdir()
    shutil.copytree(plain, place / 'meteor', copy_function=os.symlink)
    texts = {1: ['a man is riding a big horse']}, {1: ['a person rides a large horse', 'a horse and its rider']}
    expected = meteor.meteor(*texts, 60.0)
    monkeypatch.setattr(meteor.java, 'toolkit_folder', lambda name: str(place / name))
    assert meteor.meteor(*texts, 60.0) == expected and 0 < expected[0] < 1


def test_a_run_lives_in_a_strange_folder(corpus, tmp_path, monkeypatch, without_java):
    root = shutil.copytree(corpus, tmp_path / STRANGE / 'data')
    monkeypatch.chdir(tmp_path / STRANGE)
    folder = tmp_path / STRANGE / 'run of ü'
    tiny.run(train, tiny.train_flags(root, folder, '--id', 'ü 猫', '--max_epochs', 1))
    tiny.run(train, tiny.train_flags(root, folder, '--id', 'ü 猫', '--max_epochs', 2, '--start_from', folder))
    tiny.run(evaluation, [*tiny.eval_flags(root, folder, '--language_eval', 1), '--infos_path',
                          folder / 'infos_ü 猫.pkl'])
    assert os.path.exists('eval_results/ü_猫_test.json') and os.path.exists('vis/vis.json')


@pytest.mark.parametrize('locale', ['C', 'C.UTF-8'])
def test_scripts_run_from_any_folder_in_any_locale(tmp_path, locale):
    place = tmp_path / STRANGE
    place.mkdir(parents=True)
    write_split(place / 'd ü.json', [record(number, 'train', 'a dog', 'a cat') for number in range(9)])
    for script, *flags in (
            ('prepro_labels', '--input_json', 'd ü.json', '--output_json', 't ü.json', '--output_h5', 't ü'),
            ('prepro_ngrams', '--input_json', 'd ü.json', '--dict_json', 't ü.json', '--output_pkl', 'n ü')):
        done = subprocess.run([sys.executable, ROOT / 'scripts' / f'{script}.py', *flags], cwd=place, text=True,
                              capture_output=True, env={**os.environ, 'LC_ALL': locale})
        assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(place)) == ['d ü.json', 'n ü-idxs.p', 'n ü-words.p', 't ü.json', 't ü_label.h5']
