"""Results files, as eval.py and score_captions.py write them: several that are to be compared."""

import math
import os
from collections import Counter
from dataclasses import dataclass, field

from misc.cli import DataError, UsageError, plain_text
from misc.disk.files import read_json
from misc.scoring.references import image_key

MADE_BY = 'python eval.py ... --language_eval 1'


@dataclass
class Results:
    """What one results file says.

    name       what the run is called: the file's name, without the split
    overall    {name of a score: number} of the whole set, `loss` among them where the file has it
    captions   {image id: caption, or None where the file has none}, in the order of the file
    each       {name of a score: {image id: number}}, of scores that every image has
    split      the split, '' where the file does not say
    options    {name: value} of the evaluation
    notes      what of the file could not be used, a line each, to follow the name
    """

    name: str
    path: str
    overall: dict
    captions: dict
    each: dict
    split: str = ''
    options: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)


def read_all(paths):
    """The `Results` of several files, with a name of its own for each.  Raises `DataError`."""
    several = [read_results(path) for path in paths]
    for longer in (lambda results: plain_text(os.path.splitext(os.path.basename(results.path))[0]),
                   lambda results: plain_text(os.path.splitext(results.path)[0])):
        count = Counter(results.name for results in several)
        for results in several:
            if count[results.name] > 1:
                results.name = longer(results)
    met = Counter()
    for results in several:
        met[results.name] += 1
        if met[results.name] > 1:
            results.name += f' ({met[results.name]})'
    return several


def read_results(path):
    """The `Results` of a file.  Raises `DataError` that says what is not as it should be."""
    content = read_json(path, MADE_BY)
    try:
        rows, options = content['images'], content.get('options', {})
        overall = numbers_of(content['overall'])
        if 'loss' in content:
            overall.update(numbers_of({'loss': content['loss']}))
        captions = {image_key(row['image_id']): text_of(row.get('caption')) for row in rows}
        scored = [numbers_of(row) for row in rows]
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
    keep_scores(results, scored)
    silent = sum(caption is None for caption in captions.values())
    if silent:
        results.notes.append(f'has no caption for {silent} of {len(rows)} images')
    return results


def _not_results(path, reason):
    return f'{path} is not a results file: {reason}; give eval_results/ID_SPLIT.json, made by: {MADE_BY}'


def keep_scores(results, scored):
    """Keep the scores that all images have; `scored` are the numbers of each image, in order."""
    names = dict.fromkeys(name for row in scored for name in row if name != 'image_id')
    for name in names:
        values = {image: row[name] for image, row in zip(results.captions, scored) if name in row}
        if len(values) == len(scored):
            results.each[plain_text(name)] = values
        else:
            results.notes.append(f'has no {plain_text(name)} for {len(scored) - len(values)} of {len(scored)} '
                                 'images, so that it is left out of the comparison of images')
    if not results.each:
        results.notes.append('has no scores per image, so nothing of it can be compared image by image; make '
                             f'it with: {MADE_BY}')


def numbers_of(values):
    """{name: number} of those values that are finite numbers."""
    return {plain_text(name): float(value) for name, value in values.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)}


def text_of(caption):
    """A caption that can be shown anywhere, None where there is none."""
    return plain_text(caption) if isinstance(caption, str) else None


def shared_images(several, common=False):
    """The images that all `Results` have, in the order of the first, and the lines to say about them.

    Without `common` they must have the same.  Raises `DataError`, or `UsageError` where `common` is the way
    out.
    """
    first, shared = several[0], set(several[0].captions)
    for results in several[1:]:
        shared &= set(results.captions)
        if not shared:
            raise DataError(f'{first.path}{_split(first)} and {results.path}{_split(results)} have no image in '
                            'common; compare results of the same split of the same data set')
    different = [results for results in several if len(results.captions) > len(shared)]
    if not different:
        return list(first.captions), []
    told = ', '.join(f'{len(results.captions)} in {results.name}{_split(results)}' for results in several)
    if not common:
        raise UsageError(f'the files are of different images: {told}; {len(shared)} are in all of them.\n'
                         'Evaluate all runs on the same images (--split, --num_images), or compare them on '
                         f'those {len(shared)} with --common 1')
    return [image for image in first.captions if image in shared], [
        f'Only the {len(shared)} images that all files have are compared ({told}). CIDEr weighs words by how '
        'many images of a file have them, so that image scores from files of different images differ a little '
        'for that reason alone.']


def _split(results):
    return f' (split {results.split})' if results.split else ''
