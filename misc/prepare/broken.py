"""Broken input records: each is named and left out; the list at the end sets the exit status."""

import re

from misc.cli import note
from misc.disk.files import replacing

SHOWN = 5     # complaints of a kind that are printed as they come
LISTED = 20   # complaints of a kind that the list at the end has one by one
EXAMPLES = 3  # complaints of a kind that has more
# What differs between complaints of a kind: numbers, paths, quotations.
VARYING = re.compile(r"'[^']*'|\S*[\d/\\]\S*")


class Broken:
    """The messages about broken records of one run of a command."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.kinds: dict[str, list[str]] = {}   # messages that complain of the same

    def __len__(self) -> int:
        return len(self.messages)

    def add(self, message: object) -> None:
        """Print a message about a broken record now, unless there were many of the kind, and keep it for the list at
        the end."""
        text = str(message)
        self.messages.append(text)
        alike = self.kinds.setdefault(kind_of(text), [])
        alike.append(text)
        if len(alike) <= SHOWN:
            note(f'broken: {text}')
        elif len(alike) == SHOWN + 1:
            note('broken: more of the same; they are counted and listed at the end')

    def finish(self, way_out: str, list_path: str | None = None) -> int:
        """List the broken records on standard error, and `way_out`, what to do.  Returns the exit status.

        Of a kind of which there are many the list has a line with their number and examples; `list_path` then gets
        all.
        """
        if not self.messages:
            return 0
        note(f'{len(self.messages)} broken; the others are written:')
        for alike in self.kinds.values():
            if len(alike) <= LISTED:
                for message in alike:
                    note(f'  {message}')
            else:
                note(f'  {len(alike)} like these: {"; ".join(alike[:EXAMPLES])} ...')
        if list_path and any(len(alike) > LISTED for alike in self.kinds.values()):
            with replacing(list_path, 'w') as file:
                file.writelines(f'{" ".join(message.splitlines())}\n' for message in self.messages)
            note(f'all of them are listed in {list_path}')
        note(way_out)
        return 1


def kind_of(message: str) -> str:
    """What a message complains of: the message without numbers, paths and quotations, and without the file or image
    that it begins with."""
    subject, colon, rest = message.partition(': ')
    if colon and (VARYING.search(subject) or '.' in subject):
        message = rest
    return VARYING.sub('#', message)
