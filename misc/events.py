"""The numbers in the TensorBoard events of a run, read without TensorBoard (and without pickles)."""

import os
import struct

from misc.cli import DataError

LARGEST = 1 << 24  # bytes of an event; one with a number has some fifty


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
