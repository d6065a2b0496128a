"""Optimisers, and learning rates as functions of the step."""

import torch

NOAM_BETAS, NOAM_EPSILON = (0.9, 0.98), 1e-9


def build_optimiser(parameters, kind, alpha=0.9, beta=0.999, epsilon=1e-8, weight_decay=0.0):
    """The optimiser `kind` (one of `--optim`); its rate is set before every step.

    Adam is the fused kind, one pass over the weights, which takes half the time.  `alpha` is its
    first beta, RMSprop's smoothing, and the momentum of sgdm and sgdmom.
    """
    adaptive = {'eps': epsilon, 'weight_decay': weight_decay}
    made = {
        'adam': lambda: torch.optim.Adam(parameters, betas=(alpha, beta), fused=True, **adaptive),
        'adamw': lambda: torch.optim.AdamW(parameters, betas=(alpha, beta), fused=True, **adaptive),
        'rmsprop': lambda: torch.optim.RMSprop(parameters, alpha=alpha, **adaptive),
        'adagrad': lambda: torch.optim.Adagrad(parameters, **adaptive),
        'sgd': lambda: torch.optim.SGD(parameters, lr=0.0, weight_decay=weight_decay),
        'sgdm': lambda: torch.optim.SGD(parameters, lr=0.0, momentum=alpha, weight_decay=weight_decay),
        'sgdmom': lambda: torch.optim.SGD(parameters, lr=0.0, momentum=alpha, nesterov=True,
                                          weight_decay=weight_decay),
    }
    return made[kind]()


def noam_rate(step, size, warmup, factor=1.0):
    """factor * size^-0.5 * min(step^-0.5, step * warmup^-1.5), for steps from 1 (Vaswani et al. 2017)."""
    return factor * size ** -0.5 * min(step ** -0.5, step * warmup ** -1.5)


def decayed_rate(rate, epoch, start, every, factor):
    """`rate` times `factor` once for every `every` epochs since epoch `start`; start -1 is never."""
    if start < 0 or epoch < start:
        return rate
    return rate * factor ** ((epoch - start) // every)


def sampling_probability(epoch, start, every, increase, most):
    """The probability of scheduled sampling: 0 before epoch `start` and in it (-1: for ever), `increase`
    more with every `every` epochs since, `most` at the end."""
    if start < 0 or epoch < start:
        return 0.0
    return min(increase * ((epoch - start) // every), most)


class Plateau:
    """The factor of a rate that is halved when a score has not improved for a while.

    After more than `patience` validations in a row without a new best, the factor is halved and
    the count starts anew.
    """

    def __init__(self, state=None, factor=0.5, patience=3):
        """`state` of an earlier one goes on where it stood."""
        self.factor, self.patience = factor, patience
        self.best, self.bad, self.scale, self.measure = state or (None, 0, 1.0, None)

    def see(self, score, measure=None):
        """Take note of a validation score (higher is better).  Scores of another `measure` cannot be
        compared with those before, so all starts anew."""
        if measure != self.measure:
            self.best, self.bad, self.scale, self.measure = None, 0, 1.0, measure
        if self.best is None or score > self.best:
            self.best, self.bad = score, 0
            return
        self.bad += 1
        if self.bad > self.patience:
            self.scale, self.bad = self.scale * self.factor, 0

    def state(self):
        """What a resumed run needs, as plain values."""
        return (self.best, self.bad, self.scale, self.measure)


def clip_by_value(parameters, limit):
    """Clamp every gradient to +-limit."""
    torch.nn.utils.clip_grad_value_(parameters, limit)


def set_rate(optimiser, rate):
    """Set the learning rate of all parameter groups."""
    for group in optimiser.param_groups:
        group['lr'] = rate


def take_moments(optimiser, state):
    """Load `state` of an earlier optimiser's moments; rates, betas and eps stay this one's.

    Returns False, and takes nothing, where the state is of another kind of optimiser or model.
    """
    own = optimiser.state_dict()
    shapes = [p.shape for group in optimiser.param_groups for p in group['params']]
    try:
        fits = [len(group['params']) for group in state['param_groups']] == [
            len(group['params']) for group in own['param_groups']] and all(
            set(group) == set(other) for group, other in zip(state['param_groups'], own['param_groups']))
        fits = fits and all(moment.shape == shapes[place] for place, moments in state['state'].items()
                            for name, moment in moments.items() if torch.is_tensor(moment) and moment.dim())
    except (KeyError, TypeError, AttributeError, IndexError):
        fits = False
    if fits:
        optimiser.load_state_dict({'state': state['state'], 'param_groups': own['param_groups']})
    return fits
