"""Broken input records: each is named, the rest goes on, and the list at the end sets the status."""

from misc.cli import note


class Broken:
    """Collects messages about broken records during one run of a command."""

    def __init__(self):
        self.messages = []

    def __len__(self):
        return len(self.messages)

    def add(self, message):
        """A record is broken: say so now, and again at the end."""
        self.messages.append(str(message))
        note(f'broken: {message}')

    def finish(self, way_out):
        """List what was broken on standard error; `way_out` says what to do.  Returns the exit status."""
        if not self.messages:
            return 0
        note(f'{len(self.messages)} broken; the others are written:')
        for message in self.messages:
            note(f'  {message}')
        note(way_out)
        return 1
