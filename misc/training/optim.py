"""Optimisers, and learning rates as functions of the step."""

import torch

NOAM_BETAS, NOAM_EPSILON = (0.9, 0.98), 1e-9


def build_optimiser(parameters, kind, alpha=0.9, beta=0.999, epsilon=1e-8, weight_decay=0.0):
    """The optimiser `kind` (one of `--optim`); its rate is set before every step.

    The kinds that can be are fused: one pass over the weights, which takes half the time.  `alpha` is Adam's
    first beta, RMSprop's smoothing, and the momentum of sgdm and sgdmom.
    """
    parameters = list(parameters)
    adaptive = {'eps': epsilon, 'weight_decay': weight_decay}
    made = {
        'adam': lambda: Adam(parameters, (alpha, beta), epsilon, weight_decay),
        'adamw': lambda: Adam(parameters, (alpha, beta), epsilon, weight_decay, decoupled=True),
        'rmsprop': lambda: torch.optim.RMSprop(parameters, alpha=alpha, **adaptive),
        'adagrad': lambda: torch.optim.Adagrad(parameters, **adaptive),
        'sgd': lambda: torch.optim.SGD(parameters, lr=0.0, weight_decay=weight_decay, fused=True),
        'sgdm': lambda: torch.optim.SGD(parameters, lr=0.0, momentum=alpha, weight_decay=weight_decay,
                                        fused=True),
        'sgdmom': lambda: torch.optim.SGD(parameters, lr=0.0, momentum=alpha, nesterov=True,
                                          weight_decay=weight_decay, fused=True),
    }
    return made[kind]()


class Adam:
    """Adam (Kingma and Ba 2015), or AdamW with `decoupled` weight decay: the numbers, the kernel and the
    form of the state of `torch.optim.Adam(fused=True)`.

    PyTorch's optimisers load its compiler when the first is made, a second and 0.15 GB of every
    run.  And the moments are made here before the first batch: made after it, they lie scattered among what
    its backward pass let go, and the second batch needs new memory.
    """

    def __init__(self, parameters, betas, epsilon, weight_decay, decoupled=False):
        """`parameters`: list of tensors of one type on one device.  The rate is 0 until it is set."""
        self.param_groups = [{
            'params': parameters, 'lr': 0.0, 'betas': betas, 'eps': epsilon, 'weight_decay': weight_decay,
            'amsgrad': False, 'maximize': False, 'foreach': None, 'capturable': False,
            'differentiable': False, 'fused': True, 'decoupled_weight_decay': decoupled}]
        self.state = {parameter: {'step': torch.zeros((), device=parameter.device),
                                  'exp_avg': torch.zeros_like(parameter),
                                  'exp_avg_sq': torch.zeros_like(parameter)} for parameter in parameters}
        self.found_inf = None  # a float tensor: 1 where the step is not to be taken

    def zero_grad(self, set_to_none=True):
        """Let the gradients go."""
        for parameter in self.state:
            parameter.grad = None if set_to_none else torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self):
        """One step along the gradients of those parameters that have one."""
        group, = self.param_groups
        moved = [parameter for parameter in group['params'] if parameter.grad is not None]
        moments = [[self.state[parameter][name] for parameter in moved]
                   for name in ('exp_avg', 'exp_avg_sq', 'step')]
        torch._foreach_add_(moments[2], 1)
        kernel = torch._fused_adamw_ if group['decoupled_weight_decay'] else torch._fused_adam_
        kernel(moved, [parameter.grad for parameter in moved], *moments[:2], [], moments[2], lr=group['lr'],
               beta1=group['betas'][0], beta2=group['betas'][1], weight_decay=group['weight_decay'],
               eps=group['eps'], amsgrad=False, maximize=False, found_inf=self.found_inf)
        if self.found_inf is not None:
            torch._foreach_sub_(moments[2], [self.found_inf] * len(moved))

    def state_dict(self):
        """Plain dicts and tensors: parameters by their number, as PyTorch's optimisers write them."""
        group, = self.param_groups
        numbered = dict(enumerate(group['params']))
        return {'state': {number: dict(self.state[parameter]) for number, parameter in numbered.items()},
                'param_groups': [{**group, 'params': list(numbered)}]}

    def load_state_dict(self, state):
        """Take the moments and settings that `state_dict`, or a PyTorch optimiser of this kind, wrote."""
        group, = self.param_groups
        group.update({**state['param_groups'][0], 'params': group['params']})
        for number, parameter in enumerate(group['params']):
            for name, moment in self.state[parameter].items():
                moment.copy_(state['state'].get(number, {}).get(name, torch.zeros(())))


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

    Returns False, and takes nothing, where the state is of another kind of optimiser or model, or not of
    finite numbers.
    """
    own = optimiser.state_dict()
    shapes = [p.shape for group in optimiser.param_groups for p in group['params']]
    try:
        fits = [len(group['params']) for group in state['param_groups']] == [
            len(group['params']) for group in own['param_groups']] and all(
            set(group) == set(other) for group, other in zip(state['param_groups'], own['param_groups']))
        kinds = {frozenset(moments) for moments in [*own['state'].values(), *state['state'].values()]}
        fits = fits and len(kinds) < 2 and set(state['state']) <= set(range(len(shapes))) and all(
            is_moment(name, moment, shapes[place]) for place, moments in state['state'].items()
            for name, moment in moments.items())
    except (KeyError, TypeError, AttributeError, IndexError):
        fits = False
    if fits:
        optimiser.load_state_dict({'state': state['state'], 'param_groups': own['param_groups']})
    return fits


def is_moment(name, moment, shape):
    """Whether a parameter of `shape` can have the moment: a count of steps, or finite numbers of its shape."""
    if moment is None:
        return name == 'momentum_buffer'  # of SGD without momentum
    if not torch.is_tensor(moment) or not moment.is_floating_point():
        return False
    if name == 'step':
        return moment.dim() == 0 and bool(0 <= moment < float('inf'))
    return moment.shape == shape and bool(torch.isfinite(moment).all())
