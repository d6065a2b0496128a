"""What check_setup.py reports about a set-up: what is there, what is missing, and what provides it."""

import collections
import json
import os
import shutil
import sys

import h5py
import numpy as np
import pytest
import torch

from misc.dataset.packing import write_packed
from misc.disk import filesets
from misc.run import folder as run_folder
from misc.setup import data_files, environment
from misc.setup.data_files import DataFiles
from misc.setup.findings import lacking
from misc.setup.runs import run_findings
from scripts import check_setup
from tests.helpers import tiny

IDS = range(100, 100 + len(tiny.SPLITS))
NAMES = {'talk.json': 'cocotalk.json', 'talk_label.h5': 'cocotalk_label.h5', 'talk-idxs.p': 'coco-train-idxs.p',
         'att': 'cocobu_att', 'fc': 'cocobu_fc', 'box': 'cocobu_box', 'rel': 'cocobu_box_relative',
         'vec': 'cocobu_box_vec', 'box_sizes.json': 'cocobu_box_sizes.json'}


@pytest.fixture
def data(tmp_path):
    """Data files, complete except for their sources, named as in the README."""
    tiny.write_corpus(tmp_path / 'made')
    for old, new in NAMES.items():
        (tmp_path / 'made' / old).rename(tmp_path / 'made' / new)
    return tmp_path / 'made'


def chain(data, **options):
    """{what: its finding} of the data files."""
    return {finding.what: finding for finding in DataFiles(str(data), **options).findings()}


def states(findings):
    return {what: finding.state for what, finding in findings.items()}


def needed(findings):
    return {finding.what for finding in findings.values() if lacking([finding])}


def test_complete_data_is_reported_with_its_counts(data):
    findings = chain(data)
    assert states(findings) == {
        **dict.fromkeys([*list(NAMES.values())[:-1], 'image sizes'], 'ok'),
        **dict.fromkeys(['dataset_coco.json', 'bu_data', 'cocobu.h5'], 'missing')}
    assert not needed(findings)  # the sources are needed no more
    assert findings['bu_data'].line().split()[:2] == ['-', 'bu_data']
    assert findings['cocotalk.json'].detail == '16 images (train 7, restval 2, val 3, test 4), 9 words'
    assert findings['cocotalk_label.h5'].detail == '80 captions of up to 6 words'
    assert all(findings[name].detail == '16 of 16 images' for name in (
        'cocobu_att', 'cocobu_fc', 'cocobu_box', 'cocobu_box_vec', 'cocobu_box_relative'))


def test_for_an_empty_folder_everything_needed_is_listed_and_each_command_once(tmp_path, capsys):
    assert tiny.run(check_setup, ['--data', tmp_path, '--checkpoints', tmp_path / 'none', '--strict']) == 1
    assert tiny.run(check_setup, ['--data', tmp_path, '--checkpoints', tmp_path / 'none']) == 0
    out = capsys.readouterr().out.split('Python\n')[2]
    assert '\n  missing cocobu_att ' in out and '\n  -       cocobu_fc ' in out
    wanted, wished = out.split('Training needs')[1].split('Optional')
    order = [wanted.index(f'python {script} ') for script in (
        'scripts/prepro_labels.py', 'scripts/prepro_ngrams.py', 'scripts/make_bu_data.py', 'prepro_areas.py')]
    assert order == sorted(order) and all(out.count(f'python {script} ') == 1 for script in (
        'scripts/prepro_labels.py', 'scripts/make_bu_data.py', 'scripts/pack_features.py'))
    assert f'--downloaded_feats {tmp_path}/bu_data\n' in wanted and ' data/coco' not in wanted
    assert 'pack_features.py' in wished and 'none yet' in out and f'{tmp_path}/resnet101.pth' in wished


@pytest.mark.parametrize('removed, lacks', [
    ((), set()),
    (('cocobu_box_vec',), set()),                                # computed from boxes, which are there
    (('cocobu_box', 'cocobu_box_sizes.json'), set()),            # grid vectors are there
    (('cocobu_box', 'cocobu_box_vec'), {'cocobu_box', 'cocobu_box_vec', 'bu_data'}),
    (('cocobu_box_vec', 'cocobu_box_sizes.json'), {'image sizes', 'bu_data'}),
    (('cocobu_att',), {'cocobu_att', 'bu_data'}),
    (('cocotalk_label.h5',), {'cocotalk_label.h5', 'dataset_coco.json'}),
    (('coco-train-idxs.p',), {'coco-train-idxs.p'}),
    (('cocobu_fc', 'cocobu_box_relative'), set())])
def test_what_training_needs_depends_on_what_else_is_there(data, removed, lacks):
    for name in removed:
        shutil.rmtree(data / name) if (data / name).is_dir() else (data / name).unlink()
    assert needed(chain(data)) == lacks


def test_a_complete_packed_file_replaces_the_folders(data):
    from misc.dataset.array_files import FolderReader
    arrays = {kind: {str(image_id): FolderReader(data / f'cocobu_{kind}', kind).read(image_id) for image_id in IDS}
              for kind in ('att', 'box')}
    for kind in ('att', 'box'):
        shutil.rmtree(data / f'cocobu_{kind}')
    shutil.rmtree(data / 'cocobu_box_vec')
    write_packed(data / 'cocobu.h5', arrays)
    assert 'cocobu_box' in needed(chain(data))  # boxes in pixels of images of no known size
    write_packed(data / 'cocobu.h5', arrays, dict.fromkeys(map(str, IDS), (60, 50)))
    findings = chain(data)
    assert not needed(findings) and findings['cocobu.h5'].detail.startswith('att, box of 16 images')
    with h5py.File(data / 'cocobu.h5', 'r+') as file:
        file['state'][3] = 0
    findings = chain(data)
    assert findings['cocobu.h5'].state == 'partly' and {'cocobu_att', 'cocobu_box'} < needed(findings)


def test_what_is_incomplete_or_broken_is_reported_so(data):
    (data / 'cocobu_att' / '105.npz').unlink()
    (data / 'cocobu_att' / '9.npz').touch()  # of another image: listed, never opened
    (data / 'cocotalk_label.h5').write_bytes(b'no')
    (data / 'cocobu.h5').write_bytes(b'no')
    findings = chain(data)
    assert findings['cocobu_att'].line().split() == ['partly', 'cocobu_att', '15', 'of', '16', 'images']
    assert findings['cocotalk_label.h5'].detail.startswith('is not a label file')
    assert findings['cocobu.h5'].state == 'partly' and 'cocobu_att' in needed(findings)
    (data / 'cocotalk.json').write_text('{"images": 3}')
    findings = chain(data)
    assert findings['cocotalk.json'].detail.startswith('broken: it has no list of images')
    assert findings['cocobu_att'].detail == '16 images'  # without the list of images that count
    (data / 'cocotalk.json').write_text('{')
    assert 'not a whole JSON' in chain(data)['cocotalk.json'].detail


def test_features_of_another_program_are_named_with_the_command_that_imports_them(data):
    for path in (data / 'cocobu_att').iterdir():
        np.savez(path, x=np.ones((2, 3)), bbox=np.ones((2, 4)), num_bbox=2)
    finding = chain(data)['cocobu_att']
    assert finding.state == 'partly' and 'bottom-up-attention.pytorch' in finding.detail and finding.needed
    assert finding.remedy.startswith(f'python scripts/import_features.py --input {data}/cocobu_att')


def test_images_are_counted_under_the_image_root(data, tmp_path, monkeypatch):
    listed, names_in = [], data_files.names_in
    monkeypatch.setattr(data_files, 'names_in', lambda folder: listed.append(folder) or names_in(folder))
    assert 'images' not in chain(data)
    for count, state in ((0, 'missing'), (1, 'partly'), (16, 'ok')):
        for image in json.loads((data / 'cocotalk.json').read_text())['images'][:count]:
            path = tmp_path / 'coco pictures' / image['file_path']
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        findings = chain(data, image_root=str(tmp_path / 'coco pictures'))
        assert findings['images'].state == state and findings['images'].detail.startswith(f'{count} of 16 in')
    assert len(listed) == 3 * 2  # train2014 and val2014, once each time and not once an image
    (data / 'cocobu_box_relative' / '100.npy').unlink()
    command = chain(data, image_root=str(tmp_path / 'coco pictures'))['cocobu_box_relative'].remedy
    assert f"--image_root '{tmp_path}/coco pictures' " in command


def test_runs_are_reported_with_epoch_and_best_score_and_left_unchanged(tmp_path):
    for name, score, measure in (('a', -2.5, 'loss'), ('b', 1.25, 'CIDEr'), ('c', None, None)):
        infos = run_folder.pickle_bytes(
            {'epoch': 3, 'iter': 70, 'best_val_score': score, 'best_measure': measure})
        (tmp_path / name).mkdir()
        (tmp_path / name / f'infos_{name}.pkl').write_bytes(infos)
    (tmp_path / 'b' / filesets.JOURNAL).write_text('["infos_b.pkl"]')  # a save is under way
    os.rename(tmp_path / 'b' / 'infos_b.pkl', tmp_path / 'b' / ('infos_b.pkl' + filesets.NEW))
    (tmp_path / 'b' / 'infos_b.pkl').write_bytes(b'old')
    (tmp_path / 'd').mkdir()
    (tmp_path / 'd' / 'infos_d.pkl').write_bytes(b'half')
    found = [(run.state, run.what, run.detail) for run in run_findings(str(tmp_path))]
    assert found[:3] == [('ok', 'a', 'epoch 3, iteration 70, best validation loss 2.500'),
                        ('ok', 'b', 'epoch 3, iteration 70, best validation CIDEr 1.250'),
                        ('ok', 'c', 'epoch 3, iteration 70')]
    assert found[3][:2] == ('partly', 'd') and 'infos_d.pkl cannot be read' in found[3][2]
    assert (tmp_path / 'b' / filesets.JOURNAL).exists()
    assert (tmp_path / 'b' / 'infos_b.pkl').read_bytes() == b'old'
    assert [run.what for run in run_findings(str(tmp_path / 'a'))] == ['a']


def test_packages_are_compared_with_the_requirements(tmp_path, monkeypatch, capsys):
    path = tmp_path / 'requirements.txt'
    path.write_text(f'# all\ntorch=={environment.installed("torch")}\nnumpy==0.1  # old\nno-such-thing==1.0\n')
    python, packages = environment.python_findings(path)
    assert python.state == 'ok' and packages.state == 'missing' and lacking([packages])
    assert packages.detail.startswith('2 of 3 of requirements.txt; missing: no-such-thing; of another version: '
                                      'numpy ') and packages.detail.endswith(' for 0.1')
    path.write_text('numpy==0.1\n')
    assert environment.python_findings(path).__next__().state == 'ok'
    assert [finding.state for finding in environment.python_findings(path)] == ['ok', 'partly']
    for module in (environment, check_setup):
        monkeypatch.setattr(module, 'installed', lambda package: None if package == 'torch' else '1')
    monkeypatch.setitem(sys.modules, 'torch', None)  # an import of it would fail
    monkeypatch.setitem(sys.modules, 'dataloader', None)
    assert tiny.run(check_setup, ['--strict']) == 1
    out = capsys.readouterr().out
    assert 'once numpy, h5py, torch' in out and 'pip install -r requirements.txt' in out


def test_java_and_gpus_are_reported(monkeypatch):
    monkeypatch.setattr('misc.scoring.java.is_installed', lambda: False)
    java = next(environment.scoring_findings())
    assert java.state == 'missing' and not lacking([java]) and 'default-jre' in java.remedy
    device = collections.namedtuple('Device', 'name total_memory major')
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    assert 'no CUDA device' in next(environment.gpu_findings()).line()
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    for name, major, expected in (('A100', 8, 'with bfloat16: --amp bf16'), ('V100', 7, 'without bfloat16')):
        monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda number, name=name, major=major: device(
            name, 16 << 30, major))
        line = next(environment.gpu_findings()).line()
        assert line == f'  ok      GPU cuda:0              {name}, 16 GiB, {expected}'


def test_weights_are_reported_with_their_paths_or_what_to_download(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))

    def found():
        return {finding.what: finding for finding in environment.weight_findings('data')}
    assert states(found()) == {'resnet101': 'missing', 'Faster R-CNN': 'missing'} and not needed(found())
    assert f'put it into {tmp_path}/hub/checkpoints' in found()['Faster R-CNN'].remedy
    (tmp_path / 'hub' / 'checkpoints').mkdir(parents=True)
    (tmp_path / 'hub' / 'checkpoints' / 'resnet101-63fe2227.pth').touch()
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / 'fasterrcnn_resnet50_fpn_v2.pth').touch()
    assert states(found()) == {'resnet101': 'ok', 'Faster R-CNN': 'ok'}
    assert found()['resnet101'].detail.endswith('resnet101-63fe2227.pth')
    (tmp_path / 'data' / 'resnet101.pth').touch()
    assert found()['resnet101'].detail.endswith('data/resnet101.pth')
