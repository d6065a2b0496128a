"""What a JSON file of captions is, where another one was due: COCO's annotations in place of a split file, say."""

import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from misc import commands
from misc.disk.files import StrPath

# Kind: what such a file is.
KINDS = {
    'annotations': 'a COCO caption-annotation file',
    'no captions': 'a COCO annotation file without captions (those are in files named captions_*.json)',
    'split': "a split file of Karpathy's form",
    'labels': 'the output of prepro_labels.py',
    'results': "captions in COCO's results form",
    'table': 'a list of pictures and captions'}
SEEN = 20   # records that are looked at


def kind_of_file(content: Any) -> str:
    """The kind of a file with this JSON value, one of `KINDS`, or ''."""
    if not isinstance(content, Mapping):
        return _kind_of_records(content)
    if 'ix_to_word' in content:
        return 'labels'
    if isinstance(content.get('annotations'), list):
        annotated = _some(content['annotations'])
        return 'annotations' if not annotated or any('caption' in one for one in annotated) else 'no captions'
    images = _some(content.get('images'))
    if any('sentences' in one for one in images):
        return 'split'
    return 'no captions' if any('file_name' in one for one in images) else ''


def _kind_of_records(records: Any) -> str:
    """The kind of a list of records."""
    some = _some(records)
    if any('sentences' in one for one in some):
        return 'split'
    if any('image_id' in one and isinstance(one.get('caption'), str) and len(one) < 5 for one in some):
        return 'results'
    return 'table' if some else ''


def _some(records: Any) -> list[Mapping[str, Any]]:
    """The first of a list of objects; none of anything else."""
    return [one for one in records[:SEEN] if isinstance(one, Mapping)] if isinstance(records, Sequence) and not \
        isinstance(records, str) else []


def misplaced(content: Any, path: StrPath, due: str) -> str:
    """What to say of a file with the JSON value `content` where one of the kind `due` was due: what it is and what to
    do, to follow its name; '' where it is of that kind, or of none that is known."""
    kind = kind_of_file(content)
    if kind in ('', due) or kind == 'table' and due not in ('split', 'labels'):
        return ''
    return f'is {KINDS[kind]}, not {KINDS.get(due, due)}{_way(kind, due, os.fspath(path))}'


def dataset_command(path: StrPath, flag: str = '--table') -> str:
    """The command that makes a split file of a file of captions."""
    folder, name = os.path.split(os.fspath(path))
    stem = os.path.splitext(name)[0]
    made = f'{stem}_made.json' if stem.startswith('dataset') else f'dataset_{stem}.json'
    return commands.DATASET.format(flag=flag, path=shlex.quote(os.fspath(path)),
                                   output=shlex.quote(os.path.join(folder, made)))


def labels_command(path: StrPath) -> str:
    """The command that makes labels of a split file."""
    return commands.LABELS.replace('data/dataset_coco.json', shlex.quote(os.fspath(path)))


def _way(kind: str, due: str, path: str) -> str:
    """What to do with a file of `kind` where one of the kind `due` was due; it begins with a sign."""
    if kind == 'labels':
        return {'split': '; give the split file that it was made of (dataset_NAME.json)',
                'annotations': '; give it with --input_json'}.get(due, '')
    if kind == 'split' and due in ('labels', 'annotations'):
        return f'; make labels of it with:\n{labels_command(path)}'
    if due in ('split', 'labels') and kind in ('annotations', 'table'):
        flag = '--coco_json' if kind == 'annotations' else '--table'
        return (f'; make a split file of it with:\n{dataset_command(path, flag)}'
                + ('\nand labels of that with prepro_labels.py' if due == 'labels' else ''))
    if kind == 'annotations' and due == 'results':
        return '; give it with --coco_json, and captions with --predictions'
    if kind == 'results':
        return '; score_captions.py --predictions takes it'
    return ''
