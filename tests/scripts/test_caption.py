"""scripts/caption.sh: from pictures to captions and a page in one command, with clear messages."""

import os
import shutil
import subprocess
import sys

import pytest

from scripts import convert_checkpoint
from tests.helpers import ROOT, tiny

# In place of .venv/bin/python: pip is recorded, eval.py runs with small networks, as the model was trained with.
PYTHON = f"""\
#!/bin/bash
if [ "$1" = -m ]; then echo "$@" >> "$PROJECT/installed"; exit; fi
exec {sys.executable} -c '
import os, pathlib, runpy, sys
import pytest
from tests.helpers.networks import put_in_place
put_in_place(pytest.MonkeyPatch(), pathlib.Path(os.environ["PROJECT"]))
sys.argv = sys.argv[1:]
sys.path[0] = os.environ["PROJECT"]
runpy.run_path(sys.argv[0], run_name="__main__")' "$@" --device cpu --num_workers 0
"""


@pytest.fixture
def project(pictures_root, tmp_path):
    """A copy of the project with a small model in data/pretrained, an environment of stand-ins, and pictures beside
    it in `pictures`."""
    folder = tmp_path / 'project'
    (folder / '.venv' / 'bin').mkdir(parents=True)
    python = folder / '.venv' / 'bin' / 'python'
    python.write_text(PYTHON)
    python.chmod(0o755)
    shutil.copy(ROOT / 'requirements.txt', folder / '.venv')
    for name in ('eval.py', 'opts.py', 'dataloader.py', 'models', 'misc', 'requirements.txt',
                 'requirements-features.txt'):
        (folder / name).symlink_to(ROOT / name)
    (folder / 'scripts').mkdir()
    for name in ('caption.sh', 'venv.sh'):
        shutil.copy(ROOT / 'scripts' / name, folder / 'scripts')
    tiny.run(convert_checkpoint, ['--publish', 'float16', '--input_dir', pictures_root / 'run',
                                  '--output_dir', folder / 'data' / 'pretrained'])
    (tmp_path / 'pictures').mkdir()
    for number in (112, 113):
        shutil.copy(pictures_root / 'images' / 'val2014' / f'{number}.jpg', tmp_path / 'pictures')
    return folder


def caption(project, *arguments):
    """Run the script from the folder above the project, without Java."""
    programs = project.parent / 'programs'
    if not programs.exists():
        programs.mkdir()
        for name in ('bash', 'cat', 'cmp', 'cp', 'dirname', 'mkdir', 'mktemp', 'realpath', 'rm', 'sed'):
            (programs / name).symlink_to(shutil.which(name))
    return subprocess.run(
        ['bash', 'project/scripts/caption.sh', *map(str, arguments)], cwd=project.parent, capture_output=True,
        text=True, env={**os.environ, 'PATH': str(programs), 'PROJECT': str(project), 'PYTHONPATH': str(ROOT)})


def test_pictures_are_captioned_on_a_page_that_is_not_that_of_evaluations(project):
    (project / 'vis').mkdir()
    (project / 'vis' / 'index.html').write_text('mine')
    done = caption(project, 'pictures')
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(': ')[0] for line in lines] == ['112.jpg', '113.jpg'] and all(map(str.isascii, lines))
    page = project / 'captions' / 'vis' / 'index.html'
    assert f'the page, for a browser: {page}' in done.stderr and page.exists()
    assert (project / 'vis' / 'index.html').read_text() == 'mine' and 'Java' not in done.stderr
    installed = (project / 'installed').read_text().split('\n')
    assert len(installed) == 2 and '--no-deps -r requirements-features.txt' in installed[0]

    again = caption(project, 'pictures/113.jpg', '--sample_n', 2, '--beam_size', 3)
    assert again.stdout.startswith('113.jpg: ') and len(again.stdout.splitlines()) == 1
    assert (project / 'installed').read_text().split('\n') == installed


def test_the_page_is_named_where_some_pictures_cannot_be_read_and_not_where_all_cannot(project):
    (project.parent / 'pictures' / 'broken.jpg').write_text('text')
    done = caption(project, 'pictures')
    assert done.returncode == 1 and len(done.stdout.splitlines()) == 2
    assert 'broken.jpg: not a readable' in done.stderr and 'the page, for a browser' in done.stderr
    done = caption(project, 'pictures/broken.jpg')
    assert done.returncode == 1 and not done.stdout and 'the page, for' not in done.stderr


def test_what_cannot_be_captioned_is_refused_before_anything_is_installed(project):
    for arguments, status, message in (
            (('nowhere.jpg',), 2, 'there is no picture or folder nowhere.jpg'),
            ((), 2, 'name a picture, or a folder'), (('--beam_size', '3'), 2, 'name a picture'),
            (('pictures/112.jpg', 'pictures/113.jpg'), 2, 'pictures/113.jpg is a second one')):
        done = caption(project, *arguments)
        assert done.returncode == status and message in done.stderr, arguments
    (project / 'data' / 'pretrained' / 'model.pth').unlink()
    done = caption(project, 'pictures')
    assert done.returncode == 1 and 'data/pretrained holds no model' in done.stderr
    assert not (project / 'installed').exists()
    assert 'bash scripts/caption.sh PICTURE_OR_FOLDER [FLAGS]' in caption(project, '--help').stdout


def test_a_folder_without_pictures_is_named(project):
    (project.parent / 'empty').mkdir()
    done = caption(project, 'empty')
    assert done.returncode == 1 and 'empty holds no pictures' in done.stderr and 'the page, for' not in done.stderr
