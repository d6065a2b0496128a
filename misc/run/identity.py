"""The identity of a run: which files were saved by the same run.

A run gets an identity at its first start and keeps it when it is resumed in its folder under its own id; under
another id, or in another folder, it is another run.  Each file of a checkpoint carries it: infos, moments and
histories under the key `run`, weights in the `_metadata` of their state dict, which torch saves with it and
otherwise ignores, so that the file remains a plain state dict of tensors.  Files of earlier versions and legacy
checkpoints have none.
"""

import hashlib
import re
import secrets
from collections.abc import Mapping
from typing import Any

import torch

RUN = 'run'              # the key in infos, moments and histories
METADATA = '.run'        # in the metadata of weights; names of modules do not begin with a dot
IDENTITY = re.compile('[0-9a-f]{32}')


def new_identity() -> str:
    """An identity that no other run has; no random generator of the training is touched."""
    return secrets.token_hex(16)


def derived(*contents: bytes) -> str:
    """The identity of what is made from `contents`: the same for the same contents."""
    found = hashlib.sha256()
    for content in contents:
        found.update(hashlib.sha256(content).digest())
    return found.hexdigest()[:32]


def is_identity(value: Any) -> bool:
    """Whether it is an identity."""
    return isinstance(value, str) and IDENTITY.fullmatch(value) is not None


def marked(state: Mapping[str, torch.Tensor], identity: str) -> Mapping[str, torch.Tensor]:
    """The state dict of a module, with the identity in its metadata."""
    metadata = getattr(state, '_metadata')  # noqa: B009 (mypy does not know it)
    metadata[METADATA] = {RUN: identity}
    return state


def of_weights(state: Any) -> str | None:
    """The identity in a state dict, which may come from anywhere; None if it has none."""
    metadata = getattr(state, '_metadata', None)
    mark = metadata.get(METADATA) if isinstance(metadata, dict) else None
    return of_content(mark)


def of_content(content: Any) -> str | None:
    """The identity in the content of an infos file, of moments or of histories; None if it has none."""
    found = content.get(RUN) if isinstance(content, dict) else None
    return found if is_identity(found) else None
