"""Which files of a folder are the pictures that captions name."""

import posixpath
from collections import defaultdict
from collections.abc import Callable, Iterable


class Finder:
    """Finds pictures among file names, for names that are written in other ways.

    A picture is looked for by its whole path; by the end of it, as captions may name a folder above or another
    machine's; by its file name in any folder; by that without the ending; and last without regard to case.
    """

    def __init__(self, names: Iterable[str]) -> None:
        """names: the files of the folder, relative to it, separated by /."""
        self.names = set(names)
        self.keys: list[tuple[Callable[[str], str], dict[str, list[str]]]] = []
        for key in (posixpath.basename, _stem, _caseless):
            index: dict[str, list[str]] = defaultdict(list)
            for name in sorted(self.names):
                index[key(name)].append(name)
            self.keys.append((key, index))

    def find(self, name: str) -> list[str]:
        """The files that may be meant by `name`: one if all is well, none if it is missing, several if it is not
        clear."""
        parts = clean(name).split('/')
        for start in range(len(parts)):
            path = '/'.join(parts[start:])
            if path in self.names:
                return [path]
        for key, index in self.keys:
            found = index.get(key(parts[-1]) if key is not _stem else parts[-1])
            if found:
                return found
        return []


def clean(name: str) -> str:
    """A path with / between its parts and without '.' and empty ones."""
    return posixpath.normpath(name.strip().replace('\\', '/'))


def _stem(name: str) -> str:
    return posixpath.splitext(posixpath.basename(name))[0]


def _caseless(name: str) -> str:
    return posixpath.basename(name).casefold()
