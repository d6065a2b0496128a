"""Small faults for tests/stress/mutations.py: what tests should notice."""

from tests.stress.faults import data, decoding, networks, phases, runs, training
from tests.stress.faults.fault import Fault

ALL: list[Fault] = [*networks.FAULTS, *training.FAULTS, *phases.FAULTS, *decoding.FAULTS, *data.FAULTS, *runs.FAULTS]
