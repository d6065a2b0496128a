"""Broken input records: each is named and left out; the list at the end sets the exit status."""

from misc.cli import note


class Broken:
    """The messages about broken records of one run of a command."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def __len__(self) -> int:
        return len(self.messages)

    def add(self, message: object) -> None:
        """Print a message about a broken record now, and keep it for the list at the end."""
        self.messages.append(str(message))
        note(f'broken: {message}')

    def finish(self, way_out: str) -> int:
        """List the broken records on standard error, and `way_out`, what to do.  Returns the exit status."""
        if not self.messages:
            return 0
        note(f'{len(self.messages)} broken; the others are written:')
        for message in self.messages:
            note(f'  {message}')
        note(way_out)
        return 1
