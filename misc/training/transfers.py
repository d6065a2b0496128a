"""Copies between host and device that let both go on working."""

from typing import Any

import numpy as np
import torch


def to_device(numbers: torch.Tensor | np.ndarray, device: torch.device | str) -> torch.Tensor:
    """Numbers of the host on `device`.  The host does not wait: the copy is from pinned memory and queued behind
    earlier work."""
    tensor = torch.as_tensor(numbers)
    if torch.device(device).type == 'cpu':
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


class Arriving:
    """The numbers of a tensor on their way to the host, which does not wait for its device before it needs them."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.event: Any = None
        if tensor.device.type != 'cuda':
            self.host = tensor.to('cpu', copy=True)
            return
        self.host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self.host.copy_(tensor, non_blocking=True)
        self.event = torch.cuda.Event()
        self.event.record(torch.cuda.current_stream(tensor.device))

    def numbers(self) -> torch.Tensor:
        """The numbers, on the host."""
        if self.event is not None:
            self.event.synchronize()
        return self.host
