"""The works whose kernels, waits and times are looked at, each as the programs do it."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

import train
from misc.training.step import Step, Updater
from models.decoding import Decoded, beam_search, sample
from models.graphs import Graphs, Run, run_directly
from models.step_graphs import StepGraphs
from scripts.benchmarking.made_up import caption_lengths
from scripts.benchmarking.workload import Workload
from scripts.benchmarking.workloads import REGIONS, WORDS_SEED, Beam, SelfCritical
from scripts.gpu_checking.sections import Setting

Work = Callable[[], Any]
SAMPLES = 5


def graphs_on(device: torch.device) -> list[bool]:
    """Without CUDA graphs, and where the device has them with."""
    return [False] + [True] * (device.type == 'cuda')


class Training:
    """Steps of a training with a learning rate of 0, which cost the same and leave captions as long as they are.

    amp       as in `--amp`
    phase     a batch and `amp` -> the terms of its loss, and statistics; see train.py
    recorded  what computes the gradients as CUDA graphs, or None
    """

    amp = 'off'
    phase: Callable[..., tuple[dict[str, Any], dict[str, float]]]
    recorded: StepGraphs | None = None

    def __init__(self, workload: Workload, device: torch.device) -> None:
        """`workload` has a model and a batch."""
        self.workload, self.device, self.sizes = workload, device, workload.sizes
        self.model: Any = workload.model.train()
        batch = replace(workload.batch).to(torch.device('cpu'))
        self.batch = batch.pin_memory() if device.type == 'cuda' else batch
        self.updater = Updater(self.model, workload.optimiser, 0.1, device, 'no folder')

    def __call__(self) -> None:
        """Copies, loss, gradients, check, clipping and update."""
        self.model.train()
        self.updater.optimiser.zero_grad(set_to_none=True)
        if self.recorded is None:
            loss = self.loss(replace(self.batch).to(self.device))
            loss.backward()
        else:
            loss = self.recorded(replace(self.batch))
        self.updater.update(loss.detach(), Step(1, 0, 0.0, self.batch.image_ids))

    def loss(self, batch: Any) -> torch.Tensor:
        """The loss of a batch on the device."""
        return self.phase(batch, amp=self.amp)[0]['loss']


class CrossEntropy(Training):
    """A cross-entropy step on images with five captions each: the 15 of the benchmark, or so many.

    counts    the regions of each image
    lengths   the words of each caption of each image
    """

    def __init__(self, setting: Setting, device: torch.device, images: int = 15) -> None:
        sizes = setting.sized(step_images=images)
        regions = REGIONS * -(-sizes.step_images // len(REGIONS))
        self.counts = [-(-count // sizes.shrink) for count in regions[:sizes.step_images]]
        self.lengths = caption_lengths(5 * len(self.counts), sizes, WORDS_SEED).reshape(-1, 5).tolist()
        workload = Workload(sizes, device)
        workload.build(self.counts, WORDS_SEED)
        super().__init__(workload, device)
        self.phase = functools.partial(train.cross_entropy, self.model, smoothing=0.0, word_dropout=0.0, blank=0)

    def use_graphs(self, wanted: bool) -> None:
        """From now on run by CUDA graphs, new ones, or kernel by kernel."""
        self.recorded = StepGraphs(self.model, self.loss, self.device, required=True) if wanted else None


class SelfCriticalStep(Training):
    """A self-critical step on 15 images with five samples each, the baseline a greedy caption."""

    run: Run = staticmethod(run_directly)

    def __init__(self, setting: Setting, device: torch.device) -> None:
        workload = SelfCritical(setting.sized(sampled_images=15), device)
        super().__init__(workload, device)
        self.phase = functools.partial(train.self_critical, self.model, workload.rewards, samples=SAMPLES,
                                       longest=workload.sizes.longest, seed=1,
                                       run=lambda *given, **options: self.run(*given, **options))

    def use_graphs(self, wanted: bool) -> None:
        """From now on sample by CUDA graphs, new ones, or word by word."""
        self.run = Graphs(required=True) if wanted else run_directly


class Decoding:
    """Captions of 50 images, or of those of another work, `like`."""

    run: Run = staticmethod(run_directly)

    def __init__(self, setting: Setting, device: torch.device, like: Workload | None = None) -> None:
        workload = Beam(setting.sized(beam_images=50), device) if like is None else like
        self.model: Any = workload.model
        self.batch, self.sizes, self.counts = workload.batch, workload.sizes, workload.batch.counts
        self.known = (self.model, self.sizes, self.counts)  # for `decoding_floor`

    def greedy(self) -> torch.Tensor:
        """The greedy captions (I, 1, T)."""
        return self._decoded(sample, greedy=True)

    def samples(self) -> torch.Tensor:
        """Five samples of each image (I, 5, T)."""
        return self._decoded(sample, copies=SAMPLES)

    def beams(self) -> torch.Tensor:
        """The best of five beams (I, 1, T)."""
        return self._decoded(beam_search, beam_size=5)

    def all_beams(self) -> torch.Tensor:
        """All five beams (I, 5, T)."""
        return self._decoded(beam_search, beam_size=5, results=5)

    def use_graphs(self, wanted: bool) -> None:
        """From now on decode by CUDA graphs, new ones, or word by word."""
        self.run = Graphs(required=True) if wanted else run_directly

    @torch.no_grad()
    def _decoded(self, method: Callable[..., Decoded], **options: Any) -> torch.Tensor:
        self.model.eval()
        return self.run(method, self.model, self.model.encode(self.batch), longest=self.sizes.longest,
                        **options).captions
