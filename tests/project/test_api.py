"""The page on the Python interface: its code runs as it is written."""

import re
import shutil

from tests.helpers import ROOT
from tests.helpers.networks import photo


def test_the_code_of_the_api_page_runs_as_written(pictures_root, tmp_path, monkeypatch, networks, capsys):
    for run in ('mine', 'other'):
        shutil.copytree(pictures_root / 'run', tmp_path / 'checkpoints' / run)
    for name, suffix in (('att', 'npz'), ('box', 'npy')):
        (tmp_path / 'data' / f'mine_{name}').mkdir(parents=True)
        shutil.copy(pictures_root / f'grid_{name}' / f'112.{suffix}',
                    tmp_path / 'data' / f'mine_{name}' / f'1.{suffix}')
    photo(1).save(tmp_path / 'photo.jpg')
    photo(2).save(tmp_path / 'another.jpg')
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r'```python\n(.*?)```', (ROOT / 'docs' / 'api.md').read_text(encoding='utf-8'), re.S)
    assert len(blocks) == 6
    names = {}
    for block in blocks:
        exec(compile(block, 'docs/api.md', 'exec'), names)
    assert set(names) > {'captioner', 'searching', 'sampling', 'ensemble', 'caption', 'features', 'boxes'}
    lines = capsys.readouterr().out.splitlines()
    caption = names['caption']
    assert caption.attention.shape == (len(caption.words), 4)
    assert len(lines) == 1 + 2 + len(caption.words) and ': ' in lines[-1]
