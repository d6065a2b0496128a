"""Section `agreement`: every family of models computes on the device what it computes on the CPU.

Losses, gradients and the optimiser's state are compared with those in double precision on the CPU, captions with
those in single precision; dropout is off.
"""

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import torch

from dataloader import Batch
from misc.cli import DataError
from misc.evaluation.captioning import evaluating
from misc.machine import precision
from misc.training.draws import uniform_numbers
from misc.training.losses import caption_loss
from misc.training.optim import build_optimiser
from misc.training.step import Step, Updater
from models.base import CaptionModel
from models.decoding import Constraints, Decoded, beam_search, sample
from models.graphs import Graphs
from models.registry import MODELS
from models.step_graphs import StepGraphs
from scripts.benchmarking.made_up import Sizes, made_up_batch, made_up_model, model_options
from scripts.benchmarking.timing import matmul
from scripts.benchmarking.workloads import REGIONS
from scripts.gpu_checking.sections import Report, Setting

# Flags of models that are looked at in another form than that of the defaults, or in a second one.
FORMS = {'transformer': '--ff_activation gelu', 'topdown': '--use_bn 2'}
SECOND = {'spatial_pe, boxes, dot-product': '--enc_pos_type box-coord --cross_attn dot-product --norm rms'}
NARROW = '--num_layers 2 --input_encoding_size 256 --ff_size 512 --heads 4 --hidden_size 256 --att_hid_size 256'
# Precision: (products of float32 matrices, --amp, limits of the loss and of the gradients).
PRECISIONS = {'fp32': ('highest', 'off', 1e-5, 1e-4), 'TF32': ('high', 'off', 2e-3, 2e-2),
              'bf16': ('high', 'bf16', 2e-2, 2e-1)}
FLOATS = ('features', 'grids', 'boxes', 'fc')
MOMENTS, UPDATES = 1e-3, 2e-3   # limits of the optimiser's moments, and of its updates with the same gradients
SMALL = ('spatial_pe', 'relation_transformer', 'topdown')   # the families of the small form
GAP = 1e-3                    # captions may differ where their log-probabilities are as close as this
RULES = Constraints(unknown=1, no_repeat=True, no_trigram_repeat=True)

Decode = Callable[[CaptionModel, Any, Sizes, torch.Tensor], Decoded]
DECODING: dict[str, Decode] = {
    'greedy': lambda model, memory, sizes, _: sample(model, memory, sizes.longest, greedy=True),
    'beams': lambda model, memory, sizes, _: beam_search(model, memory, sizes.longest, 5, results=5),
    'diverse beams': lambda model, memory, sizes, _: beam_search(model, memory, sizes.longest, 6, 3, results=6),
    'constrained beams': lambda model, memory, sizes, _: beam_search(
        model, memory, sizes.longest, 3, results=3, constraints=RULES),
    'samples': lambda model, memory, sizes, uniforms: sample(model, memory, sizes.longest, 5, uniforms=uniforms),
}


def run(setting: Setting, report: Report) -> None:
    """Compare all families, and the model of the README."""
    device = setting.start()
    families = {name: f'--caption_model {name} --cross_attn {model.default_cross or "dot-product"} '
                + FORMS.get(name, '') for name, model in MODELS.items()}
    if setting.small:
        cases = {name: f'{setting.sizes.flags} {families[name]}' for name in SMALL}
    else:
        cases = {**{name: f'{NARROW} {flags}' for name, flags in {**families, **SECOND}.items()},
                 "the README's model": ''}
    for name, flags in cases.items():
        sizes = replace(setting.sizes, flags=flags)
        Comparison(sizes, device, 2 if setting.small else 6).run(name, report)


class Comparison:
    """One model with random weights, on the CPU and on the device."""

    def __init__(self, sizes: Sizes, device: torch.device, images: int) -> None:
        self.sizes, self.device = sizes, device
        counts = [-(-count // sizes.shrink) for count in REGIONS[:images]]
        self.batch = made_up_batch(counts, sizes, model_options(sizes), seed=11)
        self.model = made_up_model(sizes, self.batch).eval()
        with double_precision():
            self.exact = copy.deepcopy(self.model).double()
        self.there = copy.deepcopy(self.model).to(device)

    def run(self, name: str, report: Report) -> None:
        """Report what agrees how well."""
        with double_precision():
            batch = copied(self.batch, torch.device('cpu'), torch.float64)
            expected = gradients(self.exact, batch)
        for kind, (mode, amp, of_loss, of_gradients) in PRECISIONS.items():
            if kind == 'TF32' and self.device.type == 'cpu':
                continue
            with matmul(mode):
                found = gradients(self.there, copied(self.batch, self.device), amp)
            apart = distances(found[1], expected[1])
            worst = max(apart, key=lambda parameter: apart[parameter])
            limits(report, f'{name}, {kind}', {
                'loss': (abs(found[0] - expected[0]) / abs(expected[0]), of_loss),
                'gradients': (apart[worst], of_gradients)}, worst=worst)
        if self.device.type == 'cuda':
            self._compare_graphs(name, report, expected)
        self._compare_captions(name, report)
        self._compare_steps(name, report)

    def _compare_graphs(self, name: str, report: Report, expected: tuple[float, dict[str, torch.Tensor]]) -> None:
        """What is replayed for a batch, recorded with another one: loss and gradients, and greedy captions."""
        if self.there.takes_padding():
            graphs = StepGraphs(self.there, lambda batch: caption_loss(self.there, batch)['loss'], self.device, True)
            for batch in (flipped(self.batch), flipped(self.batch), self.batch):
                loss = float(graphs(replace(batch)))
            _, _, of_loss, of_gradients = PRECISIONS['fp32']
            apart = distances(found_gradients(self.there), expected[1])
            limits(report, f'{name}, a graph of the step', {
                'loss': (abs(loss - expected[0]) / abs(expected[0]), of_loss),
                'gradients': (max(apart.values()), of_gradients)})
        run = Graphs(required=True)
        with evaluating(self.there):
            for batch in (flipped(self.batch), flipped(self.batch), self.batch):
                memory = self.there.encode(copied(batch, self.device))
                mine = run(sample, self.there, memory, longest=self.sizes.longest, greedy=True)
            other = sample(self.there, memory, self.sizes.longest, greedy=True)
        differing = int((mine.captions != other.captions).any(2).sum())
        report.check(f'{name}, a graph of decoding', f'{differing} of {len(batch)} captions differ', 'none',
                     not differing)

    def _compare_captions(self, name: str, report: Report) -> None:
        differing, total, gap, samples = 0, 0, 0.0, 0
        for method, decode in DECODING.items():
            mine, other = (self._decoded(decode, model, device) for model, device in (
                (self.model, torch.device('cpu')), (self.there, self.device)))
            unequal = (mine.captions != other.captions).any(2)
            total += unequal.numel()
            differing += int(unequal.sum())
            if method == 'samples':
                samples = int(unequal.sum())
            elif unequal.any():
                gap = max(gap, float((mine.log_probs - other.log_probs)[unequal].abs().max()))
        # A sample differs by a whole word where a random number lies on the border of two.
        report.check(f'{name}, captions', f'{differing} of {total} differ, by {gap:.2g} in log-probability '
                     f'({samples} samples)', f'by at most {GAP:g}, at most 1 sample', gap <= GAP and samples <= 1,
                     differing=differing, total=total, gap=gap, samples=samples)

    def _decoded(self, decode: Decode, model: CaptionModel, device: torch.device) -> Decoded:
        batch = copied(self.batch, device)
        keys = [(3, number) for number in range(len(batch))]
        uniforms = uniform_numbers(keys, 5, self.sizes.longest, device)
        with evaluating(model):
            found = decode(model, model.encode(batch), self.sizes, uniforms)
        return Decoded(found.captions.cpu(), found.log_probs.cpu())

    def _compare_steps(self, name: str, report: Report) -> None:
        """Three steps of Adam, and one that is not finite."""
        with double_precision():
            batch = copied(self.batch, torch.device('cpu'), torch.float64)
            expected = Steps(self.exact, torch.device('cpu'))
            expected.take(batch, 3)
        found = Steps(self.there, self.device)
        found.take(copied(self.batch, self.device), 3)
        limits(report, f'{name}, three steps', {
            **{what: (max(distances(found.moments(what), expected.moments(what)).values()), MOMENTS)
               for what in ('exp_avg', 'exp_avg_sq')},
            'updates': (max(distances(found.moves(), found.plain.moves).values()), UPDATES)})
        before = found.moments('exp_avg'), found.moments('exp_avg_sq'), found.moves()
        refused = found.refuses(copied(self.batch, self.device))
        same = all(torch.equal(values[parameter], others[parameter]) for values, others in zip(
            (found.moments('exp_avg'), found.moments('exp_avg_sq'), found.moves()), before) for parameter in values)
        report.check(f'{name}, a loss of NaN', f'{"refused" if refused else "taken"}, weights and moments '
                     f'{"as before" if same else "changed"}', 'refused, as before', refused and same)


class Steps:
    """Training steps of a model as train.py takes them."""

    def __init__(self, model: CaptionModel, device: torch.device) -> None:
        self.model, self.device, self.taken = model, device, 0
        self.optimiser = build_optimiser(model.parameters(), 'adam')
        self.updater = Updater(model, self.optimiser, 0.1, device, 'no folder')
        self.start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        self.plain = PlainAdam(1e-4)

    def take(self, batch: Any, steps: int, factor: float = 1.0) -> None:
        """Steps on a batch, the loss of which is multiplied by `factor`."""
        for _ in range(steps):
            self.optimiser.zero_grad(set_to_none=True)
            loss = caption_loss(self.model, batch)['loss'] * factor
            loss.backward()
            self.taken += 1
            self.updater.update(loss.detach(), Step(self.taken, 0, self.plain.rate, batch.image_ids))
            self.plain.step({name: parameter.grad for name, parameter in self.model.named_parameters()
                             if parameter.grad is not None})

    def refuses(self, batch: Any) -> bool:
        """Whether a step whose loss is not a number is refused, with an error that names it."""
        try:
            self.take(batch, 1, math.nan)
            self.updater.check()
        except DataError as error:
            return f'iteration {self.taken} ' in str(error)
        return False

    def moments(self, key: str) -> dict[str, torch.Tensor]:
        """A moment of each parameter that has a gradient."""
        return {name: self.optimiser.state[parameter][key].cpu().clone()
                for name, parameter in self.model.named_parameters() if parameter.grad is not None}

    def moves(self) -> dict[str, torch.Tensor]:
        """How far the weights have moved."""
        return {name: (parameter.detach().double() - self.start[name].double()).cpu()
                for name, parameter in self.model.named_parameters() if parameter.grad is not None}


class PlainAdam:
    """Adam (Kingma and Ba 2015, algorithm 1) in double precision, fed with the gradients of another optimiser.

    Its moves are not compared with those of a training in double precision: where a gradient is 0 but for rounding,
    as that of the bias of attention keys, Adam takes the sign of what is left.
    """

    def __init__(self, rate: float) -> None:
        self.rate, self.steps = rate, 0
        self.first: dict[str, torch.Tensor] = {}
        self.second: dict[str, torch.Tensor] = {}
        self.moves: dict[str, torch.Tensor] = {}

    def step(self, gradients: dict[str, torch.Tensor]) -> None:
        """A step along {parameter: gradient}."""
        self.steps += 1
        for name, gradient in gradients.items():
            g = gradient.cpu().double()
            self.first[name] = 0.9 * self.first.get(name, 0) + 0.1 * g
            self.second[name] = 0.999 * self.second.get(name, 0) + 0.001 * g * g
            first = self.first[name] / (1 - 0.9 ** self.steps)
            second = self.second[name] / (1 - 0.999 ** self.steps)
            self.moves[name] = self.moves.get(name, 0) - self.rate * first / (second.sqrt() + 1e-8)


def gradients(model: CaptionModel, batch: Any, amp: str = 'off') -> tuple[float, dict[str, torch.Tensor]]:
    """The loss of a batch, and {parameter: gradient}, on the CPU."""
    model.zero_grad(set_to_none=True)
    with precision(batch.device, amp):
        loss = caption_loss(model, batch)['loss']
    loss.backward()
    return float(loss.detach()), found_gradients(model)


def found_gradients(model: CaptionModel) -> dict[str, torch.Tensor]:
    """{parameter: gradient}, on the CPU."""
    return {name: parameter.grad.cpu() for name, parameter in model.named_parameters() if parameter.grad is not None}


def flipped(batch: Batch) -> Batch:
    """A batch with as many regions and words, and other numbers."""
    captions, features = cast(torch.Tensor, batch.captions), cast(torch.Tensor, batch.features)
    return replace(batch, captions=captions.flip(1), features=features.flip(1), lengths=None)


def distances(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, float]:
    """{name: the norm of the difference, relative to that of what is expected}; of small ones, to a hundredth of the
    largest.  Infinite where only one has it."""
    norms = {name: float(values.double().norm()) for name, values in expected.items()}
    least = max(norms.values()) / 100
    apart = dict.fromkeys(found.keys() ^ expected.keys(), math.inf)
    for name in found.keys() & expected.keys():
        difference = float((found[name].double() - expected[name].double()).norm())
        apart[name] = difference / max(norms[name], least) if math.isfinite(difference) else math.inf
    return apart


def limits(report: Report, what: str, found: dict[str, tuple[float, float]], **more: Any) -> None:
    """Report several numbers with a limit each, {name: (number, limit)}, in one line."""
    report.check(what, ', '.join(f'{name} {number:.1e}' for name, (number, _) in found.items()),
                 ', '.join(f'{limit:g}' for _, limit in found.values()),
                 all(number <= limit for number, limit in found.values()),
                 **{name: number for name, (number, _) in found.items()}, **more)


def copied(batch: Batch, device: torch.device, dtype: torch.dtype = torch.float32) -> Batch:
    """A batch with its arrays on `device`, those of floating-point numbers of `dtype`."""
    arrays: dict[str, Any] = {name: getattr(batch, name).to(device, dtype) for name in FLOATS}
    arrays['captions'] = cast(torch.Tensor, batch.captions).to(device)
    return replace(batch, **arrays)


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """The block in which new tensors are of double precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


