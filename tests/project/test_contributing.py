"""The model that CONTRIBUTING.md adds as an example is used: one file and one line are all that it needs."""

import json
import subprocess
import sys
import types

import pytest
from PIL import Image

import eval as evaluation
import opts
import train
from misc.captioner import load
from misc.cli import UsageError
from models import build, registry
from tests.helpers import ROOT, tiny
from tests.helpers.models import make_options
from tests.helpers.pages import read_page


def block(mark):
    """The Python block of CONTRIBUTING.md that follows a comment `mark`."""
    text = (ROOT / 'CONTRIBUTING.md').read_text(encoding='utf-8')
    return text.split(f'<!-- {mark} -->\n```python\n')[1].split('\n```')[0]


@pytest.fixture
def box_mean(monkeypatch):
    """Add the model of CONTRIBUTING.md."""
    module = types.ModuleType('models.box_mean')
    exec(block('model file'), vars(module))
    monkeypatch.setitem(sys.modules, 'models.box_mean', module)
    for name, model in eval(f'{{{block("model line")}}}', vars(registry)).items():
        monkeypatch.setitem(registry.MODELS, name, model)


def test_a_model_of_one_file_and_one_line_trains_captions_and_is_described(box_mean, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('PATH', '')  # without Java: quick
    corpus, run = tiny.write_corpus(tmp_path / 'corpus'), tmp_path / 'run'
    for image in json.loads((corpus / 'talk.json').read_text())['images']:
        path = corpus / 'images' / image['file_path']
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (50, 40), 'olive').save(path)
    flags = tiny.train_flags(corpus, run, '--caption_model', 'box_mean', '--hidden_size', 20, '--max_epochs', 2,
                             '--self_critical_after', 1, '--cached_tokens', corpus / 'talk-idxs.p')
    with pytest.raises(UsageError, match='--caption_model box_mean needs --input_box_dir or --input_rel_box_dir'):
        tiny.run(train, flags)
    tiny.run(train, [*flags, '--input_box_dir', corpus / 'box', '--att_hid_size', 7])
    [unused] = [line for line in capsys.readouterr().err.splitlines() if 'makes no use of' in line]
    assert '--att_hid_size' in unused and '--num_layers' in unused
    assert '--hidden_size' not in unused and '--input_box_dir' not in unused

    tiny.run(evaluation, tiny.eval_flags(corpus, run, '--input_box_dir', corpus / 'box', '--dump_images', 1,
                                         '--image_root', corpus / 'images'))
    about = str(read_page(tmp_path / 'vis'))
    assert 'The model knows the box of each region.' in about and 'nothing to highlight' in about
    assert load(run, device='cpu').model.needs == ('features', 'boxes')

    text = ' '.join(opts.train_parser().format_help().split())
    assert 'box_mean (starts from the mean of features and boxes)' in text
    with pytest.raises(UsageError, match='one of show_tell, show_attend_tell, topdown, box_mean'):
        opts.check_scheduled_sampling(types.SimpleNamespace(scheduled_sampling_start=0, caption_model='transformer'))


def test_a_model_that_reads_more_than_its_line_says_is_refused(box_mean, monkeypatch):
    model = registry.MODELS['box_mean']
    monkeypatch.setitem(registry.MODELS, 'box_mean', registry.Model(model.builder, model.about, model.arguments))
    with pytest.raises(ValueError, match='box_mean reads boxes, which its line'):
        build(make_options(caption_model='box_mean'), 11, 6)


def test_what_the_models_need_is_known_before_torch_is_loaded():
    done = subprocess.run([sys.executable, '-c', "import sys, opts; print('torch' in sys.modules)"], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.stdout == 'False\n', done.stderr
