"""The numbers in the TensorBoard events of a run, written by tensorboardX, and read without TensorBoard (and
without pickles)."""

import contextlib
import os
import struct
import time

from misc.cli import DataError, note

LARGEST = 1 << 24  # bytes of an event; one with a number has some fifty


class EventWriter:
    """Writes numbers as they come, without a thread or a queue of its own.

    On a disk that takes no more it says so, once, and writes nothing further: the training goes on, and its
    next checkpoint goes through, or tells what to do.
    """

    def __init__(self, folder, iteration):
        """Write into `folder` (None: nowhere) what comes after `iteration`; what was written of that before, by
        a run that was then killed, does not count."""
        self.file = None
        if folder is None:
            return
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog
        # The rest of the name says the second, within which a run that is killed may be started again.
        before = sum(name.startswith('events.out.tfevents.') for name in os.listdir(folder))
        self.file = EventsWriter(os.path.join(folder, 'events'), f'.{before:06d}')
        if iteration:
            self._write(step=iteration + 1, session_log=SessionLog(status=SessionLog.START))

    def add_scalar(self, tag, number, iteration):
        """One number."""
        if self.file is not None:
            from tensorboardX.proto.summary_pb2 import Summary
            self._write(step=iteration, summary=Summary(value=[Summary.Value(tag=tag, simple_value=number)]))

    def _write(self, **content):
        from tensorboardX.proto.event_pb2 import Event
        with self._disk():
            self.file.write_event(Event(wall_time=time.time(), **content))

    def flush(self):
        """See that what was written is on the disk."""
        if self.file is not None:
            with self._disk():
                self.file.flush()

    def close(self):
        """Write no more."""
        if self.file is not None:
            with self._disk():
                self.file.close()
        self.file = None

    @contextlib.contextmanager
    def _disk(self):
        try:
            yield
        except OSError as error:
            note(f'warning: no more TensorBoard events are written ({error.strerror or error}); the training '
                 'goes on')
            self.file = None


def read_numbers(folder):
    """{tag: {step: number}} of the events in `folder`, {} where there are none.

    Of a step that was logged twice, because the run was resumed from an earlier checkpoint, the later
    number counts.  An event that is not whole ends its file: the run is being trained, or was killed.
    Raises `DataError` for a file of something else.
    """
    from tensorboardX.proto.event_pb2 import SessionLog
    numbers = {}
    for name in sorted(name for name in os.listdir(folder) if name.startswith('events.out.tfevents.')):
        for event in read_events(os.path.join(folder, name)):
            if event.session_log.status == SessionLog.START:  # what comes later is being written anew
                for curve in numbers.values():
                    for step in [step for step in curve if step >= event.step]:
                        del curve[step]
            for value in event.summary.value:
                if value.WhichOneof('value') == 'simple_value':
                    numbers.setdefault(value.tag, {})[event.step] = value.simple_value
    return numbers


def read_events(path):
    """Yield the whole events of a file: each a length (8 bytes) and its checksum (4), the event, and its
    checksum (4)."""
    from google.protobuf.message import DecodeError
    from tensorboardX.proto.event_pb2 import Event
    if os.path.isdir(path):
        raise DataError(f'{path} is a folder, not a TensorBoard events file; remove it')
    with open(path, 'rb') as file:
        while len(head := file.read(12)) == 12:
            size, = struct.unpack('<Q', head[:8])
            if size > LARGEST:
                raise DataError(_not_events(path, f'an event of {size} bytes'))
            content = file.read(size)
            if len(content) < size or len(file.read(4)) < 4:
                return
            try:
                yield Event.FromString(content)
            except DecodeError:
                raise DataError(_not_events(path, 'an event that cannot be read')) from None


def _not_events(path, found):
    return f'{path} is not a TensorBoard events file: it has {found}; remove it to see the rest of the run'
