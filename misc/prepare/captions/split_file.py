"""Pictures with captions -> a split file in Karpathy's form."""

import posixpath
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from misc import commands
from misc.prepare.captions.pictures import LeftOut, Picture

MOST_UNKNOWN = 0.1   # of the text may become UNK


def add_tokens(pictures: Sequence[Picture], tokenize: Callable[[str], list[str]], left_out: LeftOut,
               anew: bool = False) -> list[Picture]:
    """The pictures that have a caption with words; captions get `tokens` where the source gave none,
    with `anew` all."""
    kept = []
    for picture in pictures:
        whole = []
        for caption in picture.captions:
            words = tokenize(caption.raw) if anew or caption.tokens is None else caption.tokens
            caption.tokens = [word for word in words if word.strip()]
            if caption.tokens:
                whole.append(caption)
            else:
                left_out.add('captions without words', f'{caption.raw!r} of {picture.name}')
        if whole:
            picture.captions = whole
            kept.append(picture)
        else:
            left_out.add('images without captions', picture.name)
    return kept


def split_file(pictures: Sequence[Picture], dataset: str, ids: Sequence[int] | None = None,
               key: str = 'imgid') -> dict[str, Any]:
    """The content of a split file: {'images': [...], 'dataset': its name}.

    ids: of the images, under `key`, 'imgid' or 'cocoid'; None numbers them from 0.  Beside a `cocoid`, `imgid` is the
    position, as in Karpathy's file of COCO.  The captions have tokens.
    """
    images = []
    sentence_id = 0
    for position, picture in enumerate(pictures):
        number = position if ids is None or key == 'cocoid' else ids[position]
        folder, name = posixpath.split(picture.name)
        sentences = [{'tokens': caption.tokens, 'raw': caption.raw, 'imgid': number, 'sentid': sentence_id + index}
                     for index, caption in enumerate(picture.captions)]
        image: dict[str, Any] = {'filepath': folder} if folder else {}
        image |= {'filename': name, 'imgid': number, 'split': picture.split,
                  'sentids': [sentence['sentid'] for sentence in sentences], 'sentences': sentences}
        if ids is not None and key == 'cocoid':
            image['cocoid'] = ids[position]
        if picture.width and picture.height:
            image |= {'width': picture.width, 'height': picture.height}
        if picture.copy_of is not None:
            image['copy_of'] = picture.copy_of
        images.append(image)
        sentence_id += len(sentences)
    return {'images': images, 'dataset': dataset}


def summary(pictures: Sequence[Picture]) -> list[str]:
    """Lines about the images, captions and words of each split and of all."""
    counts = Counter(word for picture in pictures for caption in picture.captions for word in caption.tokens or ())
    lengths = sorted(len(caption.tokens or ()) for picture in pictures for caption in picture.captions)
    lines = [f'{"split":8} {"images":>8} {"captions":>9}']
    for split in ('train', 'restval', 'val', 'test'):
        captions = [len(picture.captions) for picture in pictures if picture.split == split]
        if captions or split != 'restval':
            lines.append(f'{split:8} {len(captions):8} {sum(captions):9}')
    rare = sum(count for count in counts.values() if count <= 5)
    return [*lines, f'{"all":8} {len(pictures):8} {len(lengths):9}',
            f'{len(counts)} different words; the {sum(count <= 5 for count in counts.values())} that occur up to 5 '
            f'times are {rare / sum(lengths):.1%} of the text',
            f'captions of {lengths[0]} to {lengths[-1]} words, on average {sum(lengths) / len(lengths):.1f}']


def label_flags(pictures: Sequence[Picture]) -> str:
    """The flags of prepro_labels.py that suit the captions, where the defaults do not: the highest threshold up to
    5 that makes at most 10 % of the text UNK, and the length that 99 % of the captions do not exceed."""
    counts = Counter(word for picture in pictures for caption in picture.captions for word in caption.tokens or ())
    threshold = fitting_threshold(counts)
    longest = fitting_length([len(caption.tokens or ()) for picture in pictures for caption in picture.captions])
    return (f' --word_count_threshold {threshold}' if threshold < 5 else '') + (
        f' --max_length {longest}' if longest > 16 else '')


def fitting_threshold(counts: Mapping[str, int], highest: int = 5) -> int:
    """The highest --word_count_threshold up to `highest` that makes at most `MOST_UNKNOWN` of the text UNK; counts:
    {word: how often it occurs}."""
    total = sum(counts.values())
    return next(threshold for threshold in range(highest, -1, -1) if not threshold or sum(
        count for count in counts.values() if count <= threshold) <= MOST_UNKNOWN * total)


def fitting_length(lengths: Iterable[int]) -> int:
    """The --max_length that all captions of these `lengths` fit into but one in a hundred."""
    ordered = sorted(lengths)
    return ordered[int(0.99 * (len(ordered) - 1))]


def next_steps(output_json: str, root: str | None, flags: str) -> str:
    """The commands that go on from the split file; flags: those of prepro_labels.py (`label_flags`)."""
    path, target = shlex.quote(output_json), shlex.quote(commands.labels_base(output_json))
    return (f'next:\n  python scripts/prepro_labels.py --input_json {path} --output_json {target}.json '
            f'--output_h5 {target}{flags}\n'
            f'  python scripts/prepro_ngrams.py --input_json {path} --dict_json {target}.json '
            f'--output_pkl {target}-train\n  python scripts/extract_regions.py --input_json {path} '
            f'--images_root {shlex.quote(root or "PICTURES")} --output_dir {target} --detector grid '
            '--cnn_model efficientnet_lite2')
