"""A recorder in place of CUDA graphs: it runs the same operations again, into the same tensors."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape(TorchDispatchMode):
    """Records operations with the tensors that they had and made, as a CUDA graph does with addresses."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        assert not any(name in str(function) for name in ('nonzero', '_local_scalar_dense', 'bincount')), function
        returns = function._schema.returns
        if not any(one.alias_info is not None and not one.alias_info.is_write for one in returns):  # no view
            self.operations.append((function, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self):
        """Run all operations again, into the same tensors."""
        for function, args, kwargs, result in self.operations:
            again = function(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again)):
                if isinstance(old, torch.Tensor) and old is not new:
                    old.copy_(new)


def record(work):
    with Tape() as tape:
        result = work()
    for _, _, _, made in tape.operations:  # a graph that is recorded is not run
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                tensor.fill_(0)
    return tape.replay, result


def rerun(work):
    """As `record`, for work that the host must lead: it is done again."""
    result = work()

    def again():
        for old, new in zip(tensors_of(result), tensors_of(work())):
            old.copy_(new)
    return again, result


def tensors_of(result):
    """Those of a tensor, or of a `Decoded`."""
    return [result] if isinstance(result, torch.Tensor) else list(vars(result).values())
