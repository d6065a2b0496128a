"""Section `peer`: the project against the same model as it is usually written, with the same weights."""

from typing import Any

import torch

from misc.training.losses import caption_loss
from models.transformer import TransformerCaptioner
from scripts.benchmarking.timing import matmul, seconds_of
from scripts.gpu_checking.plain import PlainCaptioner
from scripts.gpu_checking.sections import Report, Setting, milliseconds
from scripts.gpu_checking.works import CrossEntropy, Decoding

DROPOUT, FEATURE_DROPOUT = 0.1, 0.5   # the defaults of train.py
PLAIN_IMAGES = 10                     # that the plain beam search captions; it goes image by image


def run(setting: Setting, report: Report) -> None:
    """Compare losses and captions, then times: a cross-entropy step, and beam search, in TF32."""
    device = setting.start()
    compare_steps(setting, device, report)
    if device.type == 'cuda':
        torch.cuda.empty_cache()
    compare_beams(setting, device, report)


def compare_steps(setting: Setting, device: torch.device, report: Report) -> None:
    """The loss without dropout, and the time of a step with it."""
    work = CrossEntropy(setting, device)
    model: Any = work.model
    plain = plain_of(model)
    inputs = repeated(work.workload.batch)
    with torch.no_grad():
        model.eval()
        found, expected = float(caption_loss(model, work.workload.batch)['loss']), float(plain.eval().loss(*inputs))
    report.check('loss', f'{found:.6f}, plain {expected:.6f}', 'apart by at most 1e-4',
                 abs(found - expected) <= 1e-4 * abs(expected), loss=found, plain=expected)
    model.train()
    plain.train()
    optimiser = torch.optim.Adam(plain.parameters(), lr=0.0)

    def step() -> None:
        optimiser.zero_grad()
        loss = plain.loss(*inputs)
        loss.backward()
        torch.nn.utils.clip_grad_value_(plain.parameters(), 0.1)
        optimiser.step()
        loss.item()   # the usual code logs it

    with matmul('high'):
        times = [seconds_of(one, device, setting.repeats) for one in (work, step)]
    report_times(report, f'cross-entropy, {len(work.counts)} images', times)


def compare_beams(setting: Setting, device: torch.device, report: Report) -> None:
    """The captions of some images, and the time of as many as the project captions at once."""
    decoding = Decoding(setting, device)
    plain, batch, images = plain_of(decoding.model).eval(), decoding.batch, len(decoding.batch)
    few = min(PLAIN_IMAGES, images)
    parts = list(zip(batch.features.split(batch.counts), batch.grids.split(batch.counts)))[:few]

    def search() -> list[list[int]]:
        return [plain.beam_search(features[None], grids[None], decoding.sizes.longest, 5)
                for features, grids in parts]

    found = [[word for word in caption if word] for caption in decoding.beams()[:few, 0].tolist()]
    same = sum(one == [word for word in other if word] for one, other in zip(found, search()))
    report.check('captions by beam search', f'{same} of {few} are equal', 'all but 1', same >= few - 1)
    with matmul('high'):
        times = [seconds_of(decoding.beams, device, setting.repeats),
                 seconds_of(search, device, 2 if setting.small else 3, warm=1) * images / few]
    report_times(report, f'beam search, {images} images', times)


def report_times(report: Report, what: str, times: list[float]) -> None:
    """Report the project's and the plain time."""
    report.number(what, f'{milliseconds(times[0])}, plain {milliseconds(times[1])}: {times[1] / times[0]:.1f} times '
                  'faster', seconds=times[0], plain_seconds=times[1], ratio=times[1] / times[0])


def plain_of(model: Any) -> PlainCaptioner:
    """The plain model with the weights of `model`, on its device."""
    assert isinstance(model, TransformerCaptioner)
    return PlainCaptioner(model, DROPOUT, FEATURE_DROPOUT).to(model.output.weight.device)


def repeated(batch: Any) -> tuple[torch.Tensor, ...]:
    """A batch as (features (B, P, D), grids (B, P, g*g), padding (B, P), captions (B, T)), a row for each caption."""
    features, grids = (torch.nn.utils.rnn.pad_sequence(array.split(batch.counts), batch_first=True)
                       for array in (batch.features, batch.grids))
    counts = torch.tensor(batch.counts, device=features.device)
    padding = torch.arange(features.shape[1], device=features.device) >= counts[:, None]
    copies = batch.captions.shape[1]
    return (*(array.repeat_interleave(copies, 0) for array in (features, grids, padding)),
            batch.captions.flatten(0, 1))
