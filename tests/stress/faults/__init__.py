"""Small faults for tests/stress/mutations.py: what tests should notice."""

from tests.stress.faults import networks, training
from tests.stress.faults.fault import Fault

ALL: list[Fault] = [*networks.FAULTS, *training.FAULTS]
