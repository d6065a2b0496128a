"""The numbers in the TensorBoard events of a run, read without TensorBoard."""

import os
import struct
from collections.abc import Iterator
from typing import Any


def event_numbers(folder: str | os.PathLike) -> dict[str, dict[int, float]]:
    """{tag: {step: number}} of the events in `folder`, as TensorBoard shows them: where a run was resumed from an
    earlier checkpoint, what was written before from that step on is discarded."""
    from tensorboardX.proto.event_pb2 import SessionLog
    numbers: dict[str, dict[int, float]] = {}
    for name in sorted(name for name in os.listdir(folder) if name.startswith('events.out.tfevents.')):
        for event in events_in(os.path.join(folder, name)):
            if event.session_log.status == SessionLog.START:
                for curve in numbers.values():
                    for step in [step for step in curve if step >= event.step]:
                        del curve[step]
            for value in event.summary.value:
                numbers.setdefault(value.tag, {})[event.step] = value.simple_value
    return numbers


def events_in(path: str) -> Iterator[Any]:
    """Yield the whole events of a file: each a length (8 bytes), a checksum (4), the event, and a checksum (4)."""
    from tensorboardX.proto.event_pb2 import Event
    with open(path, 'rb') as file:
        while len(head := file.read(12)) == 12:
            size, = struct.unpack('<Q', head[:8])
            content = file.read(size + 4)
            if len(content) < size + 4:
                return
            yield Event.FromString(content[:size])
