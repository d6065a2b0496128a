"""Which files are taken for images, and how much memory they may take."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from misc.cli import DataError
from misc.pictures import images
from misc.pictures.images import read_rgb, read_size, read_upright

POSTSCRIPT = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n(%pipe%id) (w) file\n%%EOF\n'
READERS = [read_rgb, read_size, lambda path: read_upright(path, 640)]


@pytest.mark.parametrize('read', READERS, ids=['read_rgb', 'read_size', 'read_upright'])
def test_no_program_is_started_on_a_picture_that_is_postscript(tmp_path, monkeypatch, read):
    (tmp_path / 'gs').write_text(f'#!/bin/sh\ntouch {tmp_path}/was_run\nexit 1\n')
    (tmp_path / 'gs').chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path), prepend=os.pathsep)
    (tmp_path / 'cat.jpg').write_bytes(POSTSCRIPT)
    with pytest.raises(DataError, match='cat.jpg: not a readable image .of none of the formats JPEG'):
        read(str(tmp_path / 'cat.jpg'))
    assert not (tmp_path / 'was_run').exists()


@pytest.mark.parametrize('kind', ['ICO', 'PCX', 'TGA', 'PDF', 'SGI', 'EPS'])
def test_formats_outside_the_list_are_refused(tmp_path, kind):
    Image.new('RGB', (32, 32), 'red').save(tmp_path / 'a.png', kind)
    for read in READERS:
        with pytest.raises(DataError, match='a.png: not a readable image'):
            read(str(tmp_path / 'a.png'))


@pytest.mark.parametrize('kind', [kind for kind in images.FORMATS if kind != 'MPO'])
def test_formats_of_the_list_are_read_whatever_their_names(tmp_path, kind):
    if kind not in images._formats():
        pytest.skip(f'this Pillow does not read {kind}')
    Image.new('RGB', (32, 24), 'red').save(tmp_path / 'a.jpg', kind)
    assert read_size(str(tmp_path / 'a.jpg')) == (32, 24)
    pixels = read_rgb(str(tmp_path / 'a.jpg')).astype(int)
    assert pixels.shape == (24, 32, 3) and abs(pixels - [255, 0, 0]).max() < 12


def test_a_file_of_several_pictures_is_read(tmp_path):
    first, second = (Image.new('RGB', (32, 24), colour) for colour in ('red', 'blue'))
    content = io.BytesIO()
    first.save(content, 'MPO', save_all=True, append_images=[second])
    (tmp_path / 'a.jpg').write_bytes(content.getvalue())
    assert read_rgb(str(tmp_path / 'a.jpg')).shape == (24, 32, 3)


@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'I;16', 'P'])
def test_pictures_that_unpack_to_more_than_a_bound_are_refused_before_they_are_decoded(tmp_path, monkeypatch, mode):
    Image.fromarray(np.zeros((100, 120), np.uint16)).save(tmp_path / 'a.png') if mode == 'I;16' else Image.new(
        mode, (120, 100)).save(tmp_path / 'a.png')
    each = images.PLAIN_BYTES if mode in images.PLAIN else images.OTHER_BYTES
    monkeypatch.setattr(images, 'MOST_BYTES', 12_000 * each)
    read_rgb(str(tmp_path / 'a.png'))
    monkeypatch.setattr(images, 'MOST_BYTES', 12_000 * each - 1)
    for read in (READERS[0], READERS[2]):
        with pytest.raises(DataError, match='a.png: not a readable image .120 x 100 pixels of mode'):
            read(str(tmp_path / 'a.png'))
