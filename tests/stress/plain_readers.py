"""Plain readers of the samples: they return what the readers in command_readers.py should, from plain_formats.py."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.stress import plain_formats as formats

HERE, WHOLE = Path(), Path('..') / 'whole'


def grids(path: Path) -> Any:
    return expected(formats.npy(path.read_bytes()), lambda array: array.shape == shape_of('vec/103.npy'))


def shape_of(name: str) -> tuple[int, ...]:
    """The shape of the array in an undamaged file."""
    return formats.npy((WHOLE / name).read_bytes()).shape


def expected(value: Any, is_right: Callable[[Any], object]) -> Any:
    """`value` if it is right, else an error."""
    if not is_right(value):
        raise ValueError('not right')
    return value


def boxes(path: Path) -> Any:
    return expected(formats.npy(path.read_bytes()), lambda array: array.ndim == 2 and array.shape[1] == 4
                    and len(array) and (array[:, :2] <= array[:, 2:]).all())


def talk(path: Path) -> Any:
    content = formats.read_json(path)
    return {'words': content['ix_to_word'],
            'images': [(formats.whole_number(image['id']), image['split']) for image in content['images']],
            'captions': [image.get('captions') for image in content['images']]}


def ids_of(values: list[Any]) -> list[Any]:
    """The ids of the images of a file: numbers if all stand for one, else texts."""
    numbers = list(map(formats.whole_number, values))
    return list(map(str, values)) if None in numbers else numbers


def references(path: Path) -> Any:
    images = formats.read_json(path)['images']
    return {image_id: image['captions'] for image_id, image in zip(ids_of([one['id'] for one in images]), images)
            if image.get('captions')}


def annotations(path: Path) -> Any:
    found, notes = {}, formats.read_json(path)['annotations']
    for image_id, annotation in zip(ids_of([one['image_id'] for one in notes]), notes):
        found.setdefault(image_id, []).append(annotation['caption'])
    return found


def predictions(path: Path) -> Any:
    entries = formats.read_json(path)
    return list(zip(ids_of([entry['image_id'] for entry in entries]), [entry['caption'] for entry in entries]))


def printable(text: str) -> str:
    """A text without control characters."""
    return ''.join(sign if sign.isprintable() else ' ' if sign.isspace() else '\ufffd' for sign in text)


def results_file(path: Path) -> Any:
    content = formats.read_json(path)
    overall = {**content['overall'], **({'loss': content['loss']} if 'loss' in content else {})}
    rows = dict(zip(ids_of([row['image_id'] for row in content['images']]), content['images']))
    scores = {image: float(row['CIDEr']) for image, row in rows.items() if is_number(row.get('CIDEr'))}
    return {'overall': {printable(name): float(value) for name, value in overall.items() if is_number(value)},
            'captions': {image: printable(row['caption']) if isinstance(row.get('caption'), str) else None
                         for image, row in rows.items()},
            'CIDEr': scores if len(scores) == len(rows) else {}}


def is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def picture_names(path: Path) -> Any:
    images = [image for image in formats.read_json(path).get('images', [])
              if isinstance(image, dict) and 'id' in image]
    return {image_id: image['file_name'] for image_id, image in zip(ids_of([one['id'] for one in images]), images)
            if isinstance(image.get('file_name'), str)}


def listed_pictures(path: Path) -> Any:
    return {formats.whole_number(image['id']): image['file_name'] for image in formats.read_json(path)['images']
            if image['file_name'] in ('100.jpg', '101.jpg')}


def vocabulary(path: Path) -> Any:
    words = formats.read_json(path)['ix_to_word']
    return expected({word: index for index, word in words.items()}, lambda index: len(index) == len(words))


def sizes(path: Path) -> Any:
    return {image_id: (float(width), float(height))
            for image_id, (width, height) in formats.read_json(path).items()}


def own_pictures(path: Path) -> Any:
    known = {entry['file']: int(number) for number, entry in formats.read_json(path).items()}
    for name in ('1.png', '2.png'):
        known.setdefault(name, 1 + max(known.values(), default=0))
    return {known[name]: name for name in ('1.png', '2.png')}


def record(path: Path) -> Any:
    content = formats.read_json(path)
    return {name: content[name] for name in ('made_by', 'options')}


def validations(path: Path) -> Any:
    records = map(json.loads, path.read_text(encoding='utf-8', errors='replace').splitlines())
    return [(int(record['iteration']), {name: float(value) for name, value in record.items()
                                        if type(value) in (int, float)}) for record in records]


def ngram_table(path: Path) -> Any:
    content = formats.pickled(path)
    keys = {sum((int(word) + 1) << 16 * place for place, word in enumerate(reversed(ngram))): float(count)
            for ngram, count in content['document_frequency'].items()}
    images = float(content['ref_len'])
    return {'images': images, 'keys': np.array(sorted(keys), np.uint64),
            'idf': np.array([np.log(images) - np.log(max(1.0, keys[key])) for key in sorted(keys)])}


def history(path: Path) -> Any:
    content = formats.pickled(path)
    numbers = {name: {int(iteration): float(value) for iteration, value in content.get(key, {}).items()}
               for name, key in (('losses', 'loss_history'), ('rates', 'lr_history'))}
    scores = {int(iteration): {name: float(value) for name, value in row.items()
                               if isinstance(value, (int, float)) and not isinstance(value, bool)}
              for iteration, row in content.get('val_result_history', {}).items()}
    return {**numbers, 'scores': scores}


def training_state(path: Path) -> Any:
    infos = formats.pickled(path)
    return {'iter': infos['iter'], 'epoch': infos.get('loader', {'epoch': 0})['epoch'],
            'best': infos.get('best_val_score'),
            'losses': (infos.get('histories') or {}).get('loss_history', {})}


def moments(path: Path) -> Any:
    """The moments of each parameter; 0 for a parameter without gradients yet, of which the file has none."""
    state = formats.tensors(path)['state']
    whole = formats.tensors(WHOLE / 'run' / 'optimizer.pth')['state']
    return [state.get(number, {name: value * 0 for name, value in moments.items()})
            for number, moments in whole.items()]


def words(path: Path) -> Any:
    return {str(index): word for index, word in formats.pickled(path)['vocab'].items()}


def legacy_run(path: Path) -> Any:
    infos = formats.pickled(HERE / 'old' / 'infos.pkl')
    places = [value if isinstance(value, int) and value > 0 else 0 for value in (infos.get('iter'),
                                                                                infos.get('epoch'))]
    weights = formats.tensors(HERE / 'old' / 'model.pth')
    return {'weights': {name: value for name, value in weights.items()
                        if not name.endswith(('.rows', '.cols', '.pe'))},
            'words': {str(index): word for index, word in infos['vocab'].items()},
            'iter': int(places[0]), 'epoch': int(places[1])}


def resnet(path: Path) -> Any:
    with np.errstate(all='ignore'):
        return {name: value.astype(np.float32) for name, value in formats.tensors(path).items()
                if not name.startswith('fc.')}


def steps(path: Path) -> Any:
    lines = path.read_text(encoding='utf-8', errors='replace').split('\n')[:-1]  # an unfinished line does not count
    records = map(json.loads, lines)
    return [(int(record['iteration']), {name: float(value) for name, value in record.items()
                                        if type(value) in (int, float)}) for record in records]


def picture_size(path: Path) -> Any:
    with Image.open(path) as image:
        return image.size
