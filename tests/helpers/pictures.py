"""A tiny data set of pictures, the regions that are found in them, and runs on those."""

import json
from pathlib import Path

import pytest

import train
from scripts import extract_regions
from tests.helpers import tiny
from tests.helpers.networks import photo, put_in_place
from tests.helpers.preparing import record, write_split

BOXED = ('--input_grid_vec_dir', '')   # grid vectors are computed from boxes


def write_pictures(root: Path) -> Path:
    """The tiny corpus with pictures, `images`, and the regions that small networks find in them, `grid_...`."""
    tiny.write_corpus(root)
    images = json.loads((root / 'talk.json').read_text())['images']
    for image in images:
        path = root / 'images' / image['file_path']
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(image['id'], *((64, 48) if image['id'] % 2 else (48, 64))).save(path)
    records = [{**record(image['id'], image['split'], 'a dog'), 'filepath': image['file_path'].split('/')[0]}
               for image in images]
    with pytest.MonkeyPatch.context() as patch:
        put_in_place(patch, root)
        assert not tiny.run(extract_regions, [
            '--input_json', write_split(root / 'split.json', records), '--images_root', root / 'images',
            '--output_dir', root / 'grid', '--detector', 'grid', '--grid_size', 2, '--random_weights', 1,
            '--device', 'cpu'])
    return root


def train_run(root: Path, folder: Path, *flags: object) -> None:
    """Train a tiny model on those regions."""
    tiny.run(train, tiny.train_flags(root, folder, *BOXED, '--input_img_feat_dir', root / 'grid_att',
                                     '--input_box_dir', root / 'grid_box', '--img_feat_size', 2048, *flags))
