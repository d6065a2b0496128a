"""Section `messages`: the gradients of several processes, with one: they are sent, and equal those that are not."""

import datetime
import functools

import torch
from torch import distributed

from misc.training.gradients import JointGradients
from misc.training.losses import caption_loss
from scripts.benchmarking.made_up import made_up_batch, made_up_model, model_options
from scripts.benchmarking.timing import seconds_of
from scripts.benchmarking.workloads import REGIONS
from scripts.gpu_checking.sections import Report, Setting, milliseconds


def run(setting: Setting, report: Report) -> None:
    """Compare the gradients of a step, and time it, with messages and without."""
    device = setting.start()
    sizes = setting.sizes
    batch = made_up_batch([-(-count // sizes.shrink) for count in REGIONS[:sizes.step_images]], sizes,
                          model_options(sizes), seed=5)
    model = made_up_model(sizes, batch).to(device).eval()
    batch = batch.to(device)
    parameters = list(model.parameters())
    backend = 'cpu:gloo,cuda:nccl' if device.type == 'cuda' else 'gloo'
    distributed.init_process_group(backend, store=distributed.HashStore(), rank=0, world_size=1,
                                   timeout=datetime.timedelta(seconds=30))
    try:
        alone, joint = (JointGradients(parameters, device, lambda: None, shared) for shared in (False, True))

        def step(gradients: JointGradients) -> torch.Tensor:
            model.zero_grad(set_to_none=True)
            with gradients.step():
                terms = caption_loss(model, batch)
                total = terms['loss'] * terms['tokens']
                gradients.last_part()
                total.backward()
                return gradients.mean(total.detach(), terms['tokens'])

        losses = [float(step(alone))]
        expected = [None if p.grad is None else p.grad.clone() for p in parameters]
        for number in range(2):   # the first step forms the messages, the second sends them during the backward pass
            losses.append(float(step(joint)))
            apart = max(float((p.grad - one).norm() / one.norm().clamp(min=1e-12))
                        for p, one in zip(parameters, expected) if p.grad is not None and one is not None)
            same = all((p.grad is None) == (one is None) for p, one in zip(parameters, expected))
            report.check(f'gradients, step {number + 1}', f'apart by {apart:.1e}, loss by '
                         f'{abs(losses[-1] - losses[0]):.1e}', 'at most 1e-5',
                         same and apart <= 1e-5 and abs(losses[-1] - losses[0]) <= 1e-5 * abs(losses[0]), apart=apart)
        seconds = [seconds_of(functools.partial(step, one), device, setting.repeats) for one in (alone, joint)]
        report.number('loss and gradients, with messages and without',
                      f'{milliseconds(seconds[1])}, {milliseconds(seconds[0])}', seconds=seconds,
                      buckets=len(joint.buckets or ()))
    finally:
        distributed.destroy_process_group()
