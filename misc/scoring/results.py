"""Files of captions and scores, written and read.

`vis/vis.json` is in COCO's results form, [{"image_id": 391895, "caption": "a man ..."}, ...].
`eval_results/ID_SPLIT.json`, the results file, is {"overall": {metric: score}, "loss" and "bad_endings" (the share of
captions that break off) where they were computed, "images": [{"image_id", "caption", and the image's own scores}],
"options"}.
"""

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from misc.cli import DataError, UsageError, counted, note, plain_text
from misc.disk.files import read_json, write_json
from misc.disk.kinds import misplaced
from misc.scoring import endings
from misc.scoring.references import RAW, TOKENS, ImageId, image_keys

MADE_BY = 'python eval.py ... --language_eval 1'
RESULTS_FORM = 'COCO\'s results form is [{"image_id": 391895, "caption": "a man ..."}, ...]'


# ---- writing ----

def write_vis(path: str, entries: Sequence[Mapping[str, Any]]) -> None:
    """Write `vis/vis.json`: `entries` in COCO's results form.

    A file with captions of other images is kept under a name with their number.
    """
    there = _images_in(path)
    others = len(there - _images_of(entries))
    if others:
        kept = _numbered(path, len(there))
        os.replace(path, kept)
        note(f'note: {path} had captions of {counted(len(there), "image")}, {others} of them not captioned now; '
             f'it is kept as {kept}')
    _write_in_folder(path, entries)


def write_results(path: str, overall: Mapping[str, float], images: Sequence[Mapping[str, Any]],
                  options: Mapping[str, Any], loss: float | None = None, bad_endings: float | None = None) -> str:
    """Write a results file, `images` as from `image_rows`.  Options that JSON lacks are written as text.

    Part of an evaluation does not replace the whole: where the file at `path` has all these images and more, another
    name is taken.  Returns the path that was written.
    """
    beside = {'loss': loss, endings.NAME: bad_endings}
    content: dict[str, Any] = {'overall': overall, **{name: value for name, value in beside.items()
                                                      if value is not None}}
    whole = _images_in(path)
    if whole > _images_of(images):
        part = _numbered(path, len(images))
        note(f'note: {path} has the scores of {len(whole)} images, these {len(images)} among them, and is kept; '
             f'those of this part go to {part}')
        path = part
    _write_in_folder(path, {**content, 'images': images, 'options': options}, indent=1, default=str)
    return path


def image_rows(captions: Mapping[ImageId, str],
               per_image: Mapping[ImageId, Mapping[str, float]]) -> list[dict[str, Any]]:
    """The `images` of a results file: [{"image_id", "caption", and the image's scores}, ...]."""
    return [{'image_id': image_id, 'caption': caption, **per_image.get(image_id, {})}
            for image_id, caption in captions.items()]


def _write_in_folder(path: str, content: Any, **kwargs: Any) -> None:
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    write_json(path, content, **kwargs)


def _images_in(path: str) -> set[tuple[ImageId, Any]]:
    """What `_images_of` returns for the file at `path`; empty where there is no valid file."""
    try:
        content = read_json(path, MADE_BY, exact=True)
        return _images_of(content['images'] if isinstance(content, dict) else content)
    except (DataError, LookupError, TypeError, AttributeError, OSError):
        return set()


def _images_of(entries: Sequence[Mapping[str, Any]]) -> set[tuple[ImageId, Any]]:
    """The id and, where it is there, the path of each entry's image."""
    ids = image_keys(entry['image_id'] for entry in entries)
    return {(image_id, entry.get('file_path')) for image_id, entry in zip(ids, entries)}


def _numbered(path: str, images: int) -> str:
    """A name beside `path` with a number of images."""
    base, extension = os.path.splitext(path)
    return f'{base}_{images}_images{extension}'


# ---- reading ----

def load_predictions(path: str, ids_are_texts: bool = False) -> dict[ImageId, str]:
    """{image id: caption} of a file in COCO's results form, of a results file, or of {id: caption} as other programs
    write it, the caption perhaps alone in a list.

    `ids_are_texts` where those of its data set are (see `image_keys`).  Raises `DataError`.
    """
    content = read_json(path, 'python eval.py ... (vis/vis.json), or any captioner', exact=True)
    said = misplaced(content, path, 'results')
    if said:
        raise DataError(f'{path} {said}')
    entries = _entries(content)
    if not isinstance(entries, list):
        raise DataError(f'{path} does not hold a list; {RESULTS_FORM}')
    if not entries:
        raise DataError(f'{path} holds no captions; {RESULTS_FORM}')
    predictions: dict[ImageId, str] = {}
    repeated = []
    for number, entry in enumerate(entries):
        if not (isinstance(entry, dict) and 'image_id' in entry and isinstance(entry.get('caption'), str)):
            raise DataError(f'{path}: entry {number} ({str(entry)[:60]}) lacks image_id or a caption; {RESULTS_FORM}')
    for key, entry in zip(image_keys((entry['image_id'] for entry in entries), ids_are_texts), entries):
        if key in predictions:
            repeated.append(key)
        predictions[key] = entry['caption']
    if repeated:
        raise DataError(f'{path} has more than one caption for {len(set(repeated))} images (the first is '
                        f'{repeated[0]}); keep one for each')
    return predictions


def _entries(content: Any) -> Any:
    """The captions in a file as a list in COCO's results form, where it is one of the known other forms."""
    if not isinstance(content, dict):
        return content
    if isinstance(content.get('images'), list) and 'overall' in content:
        return content['images']
    entries = []
    for image_id, caption in content.items():
        caption = caption[0] if isinstance(caption, list) and len(caption) == 1 else caption
        caption = caption.get('caption') if isinstance(caption, dict) else caption
        if not isinstance(caption, str):
            return content
        entries.append({'image_id': image_id, 'caption': caption})
    return entries


@dataclass
class Results:
    """The content of a results file.

    name          the run's name: the file's name without the split
    overall       {metric: score of the whole set}, `loss` and `bad_endings` included where the file has them
    captions      {image id: caption, or None where the file has none}, in the order of the file
    image_scores  {metric: {image id: score}}, only metrics for which every image has a score
    split         '' where the file does not name one
    options       {name: value} of the evaluation
    notes         what could not be used, one line each, to be read after the run's name
    """

    name: str
    path: str
    overall: dict[str, float]
    captions: dict[ImageId, str | None]
    image_scores: dict[str, dict[ImageId, float]]
    split: str = ''
    options: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """The kind of the references that the captions were scored against, `RAW` where the file does not say."""
        return TOKENS if self.options.get('score_tokens') == TOKENS else RAW


def read_all(paths: Sequence[str]) -> list[Results]:
    """The `Results` of several files, each with a name of its own.  Raises `DataError`.

    Where two runs have the same name, they are called by their files' names with the split, then by their
    paths, then by a number.
    """
    runs = [read_results(path) for path in paths]
    for longer in (lambda run: plain_text(os.path.splitext(os.path.basename(run.path))[0]),
                   lambda run: plain_text(os.path.splitext(run.path)[0])):
        count = Counter(run.name for run in runs)
        for run in runs:
            if count[run.name] > 1:
                run.name = longer(run)
    seen: Counter[str] = Counter()
    for run in runs:
        seen[run.name] += 1
        if seen[run.name] > 1:
            run.name += f' ({seen[run.name]})'
    return runs


def read_results(path: str) -> Results:
    """The `Results` of one file.  Raises `DataError`."""
    content = read_json(path, MADE_BY, exact=True)
    try:
        rows, options = content['images'], content.get('options', {})
        overall = _finite_numbers(content['overall'])
        overall.update(_finite_numbers({name: content[name] for name in ('loss', endings.NAME) if name in content}))
        captions = dict(zip(image_keys(row['image_id'] for row in rows), map(_caption_of, rows)))
        scored = [_finite_numbers(row) for row in rows]
        split = str(options.get('split') or '')
    except KeyError as error:
        raise DataError(_not_results(path, f'it has no {error.args[0]}')) from None
    except (TypeError, AttributeError, OverflowError):
        raise DataError(_not_results(path, 'it should hold overall, scores by their names, and images, with '
                                     'image_id and caption each')) from None
    if not rows:
        raise DataError(f'{path} holds no images; caption some, with --num_images -1 all of the split')
    if len(captions) < len(rows):
        raise DataError(f'{path} has {len(rows) - len(captions)} images twice; score the captions again with '
                        'one caption for each image')
    name = os.path.splitext(os.path.basename(path))[0]
    results = Results(plain_text(name.removesuffix(f'_{split}') or name), path, overall, captions, {},
                      plain_text(split), options)
    _keep_image_scores(results, scored)
    missing = sum(caption is None for caption in captions.values())
    if missing:
        results.notes.append(f'has no caption for {missing} of {len(rows)} images')
    return results


def _not_results(path, reason):
    return f'{path} is not a results file: {reason}; give eval_results/ID_SPLIT.json, made by: {MADE_BY}'


def _finite_numbers(values):
    """{name: number} of those values that are finite numbers."""
    return {plain_text(name): float(value) for name, value in values.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)}


def _caption_of(row):
    caption = row.get('caption')
    return plain_text(caption) if isinstance(caption, str) else None


def _keep_image_scores(results, scored):
    """Fill `image_scores` from `scored`, each image's numbers in the order of the captions."""
    for name in dict.fromkeys(name for row in scored for name in row if name != 'image_id'):
        values = {image: row[name] for image, row in zip(results.captions, scored) if name in row}
        if len(values) == len(scored):
            results.image_scores[plain_text(name)] = values
        else:
            results.notes.append(f'has no {plain_text(name)} for {len(scored) - len(values)} of {len(scored)} '
                                 'images, so it is left out of the comparison of images')
    if not results.image_scores:
        results.notes.append(f'has no scores per image, so it cannot be compared image by image; make it with: '
                             f'{MADE_BY}')


# ---- several runs ----

def shared_images(runs: Sequence[Results], common: bool = False) -> tuple[list[ImageId], list[str]]:
    """The images that all `runs` have, in the order of the first, and notes about them.

    Runs on different images are compared on the shared ones only with `common`.  Raises `UsageError` where
    they differ without it, `DataError` where they share no image.
    """
    first, shared = runs[0], set(runs[0].captions)
    for run in runs[1:]:
        shared &= set(run.captions)
        if not shared:
            raise DataError(f'{first.path}{_split(first)} and {run.path}{_split(run)} have no image in '
                            'common; compare results of the same split of the same data set')
    if all(len(run.captions) == len(shared) for run in runs):
        return list(first.captions), []
    counts = ', '.join(f'{len(run.captions)} in {run.name}{_split(run)}' for run in runs)
    if not common:
        raise UsageError(f'the files hold different images: {counts}; {len(shared)} are in all of them.\n'
                         'Evaluate all runs on the same images (--split, --num_images), or compare them on '
                         f'those {len(shared)} with --common 1')
    return [image for image in first.captions if image in shared], [
        f'Only the {len(shared)} images that all files have are compared ({counts}). CIDEr weighs words by the '
        'number of images in a file that contain them, so image scores from files of different images differ '
        'slightly for that reason alone.']


def check_comparable(runs: Sequence[Results]) -> None:
    """Raise `UsageError` where the scores of `runs` mean different things: they are of texts and of tokens, or their
    CIDEr has the document frequencies of different tables."""
    for names, what in (([run.kind for run in runs], 'scored against'),
                        ([run.options.get('cached_tokens') for run in runs], 'scored with document frequencies of')):
        if len(set(map(str, names))) > 1:
            listed = ', '.join(f'{run.name} {what} {name or "the references"}' for run, name in zip(runs, names))
            raise UsageError(f'the files cannot be compared: {plain_text(listed)}.\nScore them in the same way, with '
                             'python scripts/score_captions.py --score_tokens, --cached_tokens')


def _split(results):
    return f' (split {results.split})' if results.split else ''
