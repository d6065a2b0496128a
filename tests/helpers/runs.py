"""Runs of train.py on the tiny corpus: flags, saved state, and interrupting one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from misc.run import folder as run_folder
from misc.run.status import STATUS
from tests.helpers import tiny


def self_critical_flags(corpus: Path, folder: Path, *more: object) -> tiny.Flags:
    """The flags of a run that is self-critical from its first epoch."""
    return tiny.train_flags(corpus, folder, '--self_critical_after', 0, '--cached_tokens',
                            corpus / 'talk-idxs.p', '--seq_per_img', 3, *more)


def weights_of(folder: Path, name: str = 'model.pth') -> dict[str, torch.Tensor]:
    """The saved weights of the run in `folder`, {name: tensor}."""
    return run_folder.read_tensors(str(folder / name))


def same_weights(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    """Whether two models have the same weights, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def infos_of(folder: Path) -> dict[str, Any]:
    """The content of the infos file of the run in `folder`."""
    return run_folder.read_infos(str(folder / 'infos_tiny.pkl'))


def status_of(folder: Path) -> dict[str, Any]:
    """The content of the status file of the run in `folder`."""
    return json.loads((folder / STATUS).read_text(encoding='utf-8'))


class Interrupt(Exception):
    """Raised in the training loop in place of a kill."""


def interrupt_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Make training raise `Interrupt` before step `step` + 1."""
    plain = train.train_step

    def counted(run, phase):
        if run.state.iteration == step:
            raise Interrupt
        plain(run, phase)
    monkeypatch.setattr(train, 'train_step', counted)
