"""Autocast (`--amp`), seen from inside a model."""

import contextlib

import torch


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The type in which autocast computes products on `device`, or None where it is off."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return None


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager:
    """A context in which operations on `device` compute in the types of their inputs."""
    if autocast_dtype(device) is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)
