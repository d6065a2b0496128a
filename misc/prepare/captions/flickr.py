"""The captions of Flickr8k and Flickr30k as published: lines of NAME#0, a tab and a sentence."""

import os
import re
from collections.abc import Iterable

from misc.cli import DataError
from misc.prepare.captions.pictures import Caption, LeftOut, Picture

LINE = re.compile(r'(.+?)#(\d{1,9})\s*\t(.*)')
# The endings of the official files' names: Flickr8k.token.txt, results_20130124.token; Flickr_8k.devImages.txt.
TOKENS = re.compile(r'(?!.*lemma).*\.token(\.txt)?')
LISTS = {'train': re.compile(r'.*train(Images)?\.txt'), 'val': re.compile(r'.*(dev|val)(Images)?\.txt'),
         'test': re.compile(r'.*test(Images)?\.txt')}


def official_files(names: Iterable[str]) -> tuple[str, dict[str, str]]:
    """(token file, {split: list}) among the file names of a folder.  Raises `DataError` where they are not clear."""
    names = sorted(names)
    found = {part: [name for name in names if pattern.fullmatch(os.path.basename(name))]
             for part, pattern in {'tokens': TOKENS, **LISTS}.items()}
    for part, matching in found.items():
        if len(matching) > 1 or part == 'tokens' and not matching:
            what = 'token file' if part == 'tokens' else f'list of {part} images'
            raise DataError(f'the folder has {"no" if not matching else "more than one"} {what}'
                            f'{": " * bool(matching)}{", ".join(matching)}; name the files one by one: '
                            '--flickr_tokens FILE --train_list FILE --val_list FILE --test_list FILE')
    tokens, = found.pop('tokens')
    return tokens, {split: matching[0] for split, matching in found.items() if matching}


def read_flickr(lines: Iterable[str], left_out: LeftOut) -> list[Picture]:
    """The pictures of the lines of a token file, in their order; captions by their numbers."""
    found: dict[str, list[tuple[int, Caption]]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        match = LINE.fullmatch(line.rstrip('\r\n'))
        if match:
            found.setdefault(match[1].strip(), []).append((int(match[2]), Caption(match[3].strip())))
        else:
            left_out.add('lines that are not NAME#NUMBER, a tab and a caption',
                         f'line {number}: {line[:40].strip()!r}', broken=True)
    return [Picture(name, [caption for _, caption in sorted(captions, key=lambda numbered: numbered[0])])
            for name, captions in found.items()]
