"""Runs of train.py on the tiny corpus: flags, saved state, and interrupting one."""

import torch

import train
from misc.run import folder as run_folder
from tests.helpers import tiny


def self_critical_flags(corpus, folder, *more):
    """The flags of a run that is self-critical from its first epoch."""
    return tiny.train_flags(corpus, folder, '--self_critical_after', 0, '--cached_tokens',
                            corpus / 'talk-idxs.p', '--seq_per_img', 3, *more)


def weights_of(folder, name='model.pth'):
    """The saved weights of the run in `folder`, {name: tensor}."""
    return run_folder.read_tensors(str(folder / name))


def same_weights(one, other):
    """Whether two models have the same weights, bit for bit."""
    return all(torch.equal(one[name], other[name]) for name in one)


def infos_of(folder):
    """The content of the infos file of the run in `folder`."""
    return run_folder.read_infos(str(folder / 'infos_tiny.pkl'))


class Interrupt(Exception):
    """Stands in for a kill: leaves the training loop at once."""


def interrupt_after(monkeypatch, step):
    """Make training raise `Interrupt` before step `step` + 1."""
    plain = train.train_step

    def counted(run, phase):
        if run.state.iteration == step:
            raise Interrupt
        plain(run, phase)
    monkeypatch.setattr(train, 'train_step', counted)
