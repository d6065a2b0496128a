"""Optimisers, and the moments that a resumed run takes over."""

from collections.abc import Callable, Iterable
from typing import Any

import torch

NOAM_BETAS, NOAM_EPSILON = (0.9, 0.98), 1e-9


def build_optimiser(parameters: Iterable[torch.Tensor], kind: str, alpha: float = 0.9, beta: float = 0.999,
                    epsilon: float = 1e-8, weight_decay: float = 0.0) -> Any:
    """The optimiser `kind` (one of `--optim`); its learning rate is set before every step.

    Those that can be are fused: one pass over the weights, which takes half the time.  `alpha` is Adam's first
    beta, RMSprop's smoothing, and the momentum of sgdm and sgdmom; `beta` is Adam's second beta.
    """
    parameters = list(parameters)
    adaptive: dict[str, Any] = {'eps': epsilon, 'weight_decay': weight_decay}
    constructors: dict[str, Callable[[], Any]] = {
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
    return constructors[kind]()


class Adam:
    """Adam (Kingma and Ba 2015), or AdamW with `decoupled` weight decay: the numbers, the kernel and the state
    of `torch.optim.Adam(fused=True)`.

    The library's class is not used because making the first optimiser imports PyTorch's compiler: 1.7 to 2.1 s
    and 0.17 GB at the start of every run, against 0.01 s and 0.01 GB here (PyTorch 2.14, one core; three runs of
    each).  And the moments are made here before the first batch: made after it, they lie scattered among what its
    backward pass freed, and the second batch needs new memory.
    """

    def __init__(self, parameters: list[torch.Tensor], betas: tuple[float, float], epsilon: float,
                 weight_decay: float, decoupled: bool = False) -> None:
        """`parameters`: tensors of one dtype on one device.  The learning rate is 0 until it is set."""
        self.param_groups: list[dict[str, Any]] = [{
            'params': parameters, 'lr': 0.0, 'betas': betas, 'eps': epsilon, 'weight_decay': weight_decay,
            'amsgrad': False, 'maximize': False, 'foreach': None, 'capturable': False,
            'differentiable': False, 'fused': True, 'decoupled_weight_decay': decoupled}]
        self.state = {parameter: {'step': torch.zeros((), device=parameter.device),
                                  'exp_avg': torch.zeros_like(parameter),
                                  'exp_avg_sq': torch.zeros_like(parameter)} for parameter in parameters}
        self.found_inf: torch.Tensor | None = None  # float: 1 where the step is to be skipped

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients."""
        for parameter in self.state:
            parameter.grad = None if set_to_none else torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self) -> None:
        """One step along the gradients of those parameters that have one."""
        group, = self.param_groups
        moved = [parameter for parameter in group['params'] if parameter.grad is not None]
        moments = [[self.state[parameter][name] for parameter in moved]
                   for name in ('exp_avg', 'exp_avg_sq', 'step')]
        torch._foreach_add_(moments[2], 1)
        kernel: Any = torch._fused_adamw_ if group['decoupled_weight_decay'] else torch._fused_adam_
        kernel(moved, [parameter.grad for parameter in moved], *moments[:2], [], moments[2], lr=group['lr'],
               beta1=group['betas'][0], beta2=group['betas'][1], weight_decay=group['weight_decay'],
               eps=group['eps'], amsgrad=False, maximize=False, found_inf=self.found_inf)
        if self.found_inf is not None:
            torch._foreach_sub_(moments[2], [self.found_inf] * len(moved))

    def state_dict(self) -> dict[str, Any]:
        """Plain dicts and tensors, parameters by their number, as PyTorch's optimisers write them."""
        group, = self.param_groups
        numbered = dict(enumerate(group['params']))
        return {'state': {number: dict(self.state[parameter]) for number, parameter in numbered.items()},
                'param_groups': [{**group, 'params': list(numbered)}]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the moments and settings that `state_dict`, or a PyTorch optimiser of this kind, wrote."""
        group, = self.param_groups
        group.update({**state['param_groups'][0], 'params': group['params']})
        for number, parameter in enumerate(group['params']):
            for name, moment in self.state[parameter].items():
                moment.copy_(state['state'].get(number, {}).get(name, torch.zeros(())))


def set_rate(optimiser: Any, rate: float) -> None:
    """Set the learning rate of all parameter groups."""
    for group in optimiser.param_groups:
        group['lr'] = rate


def load_moments(optimiser: Any, state: Any) -> bool:
    """Load the moments of an earlier optimiser's `state`; learning rate, betas and epsilon stay this one's.

    Returns False, and loads nothing, where the state is of another kind of optimiser or model, or not finite.
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


def is_moment(name: str, moment: Any, shape: torch.Size) -> bool:
    """Whether a parameter of `shape` can have this moment: a step count, or finite numbers of that shape."""
    if moment is None:
        return name == 'momentum_buffer'  # of SGD without momentum
    if not torch.is_tensor(moment) or not moment.is_floating_point():
        return False
    if name == 'step':
        return moment.dim() == 0 and bool(0 <= moment < float('inf'))
    return moment.shape == shape and bool(torch.isfinite(moment).all())
