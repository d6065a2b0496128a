"""Sections `waits` and `profile`: whether the host waits for the device, and what the device spends its time on."""

import collections
import time
import warnings
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from scripts.benchmarking.timing import synchronise
from scripts.gpu_checking.sections import Report, Setting, milliseconds
from scripts.gpu_checking.works import CrossEntropy, Decoding, SelfCriticalStep, Work, graphs_on

SELF_CRITICAL_WAITS = 2   # the samples go to the host, which scores them
WARM = 3
SHOWN = 10                # the kernels that take longest


def waits(setting: Setting, report: Report) -> None:
    """Where the host waits: never in a cross-entropy step or in decoding, hardly in a self-critical step."""
    device = setting.start()
    decoding, step, sampling = Decoding(setting, device), CrossEntropy(setting, device), SelfCriticalStep(
        setting, device)
    works: dict[str, Work] = {
        'cross-entropy': step, 'greedy': decoding.greedy, 'samples': decoding.samples, 'beams': decoding.beams,
        'self-critical': sampling}
    for graphs in graphs_on(device):
        for one in (decoding, step, sampling):
            one.use_graphs(graphs)
        for name, work in works.items():
            for _ in range(WARM):   # with graphs: run, recorded, replayed
                work()
            synchronise(device)
            found = waits_in(work, device)
            limit = SELF_CRITICAL_WAITS if name == 'self-critical' else 0
            said = f'{sum(found.values())} waits' if device.type == 'cuda' else 'ran; only CUDA counts waits'
            report.check(name + ', graphs' * graphs, said, f'at most {limit}', sum(found.values()) <= limit,
                         places=dict(found))


def waits_in(work: Work, device: torch.device) -> collections.Counter[str]:
    """{the place that made the host wait: how often} of one run of `work`."""
    if device.type != 'cuda':
        work()
        return collections.Counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        torch.cuda.set_sync_debug_mode('warn')
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode('default')
    return collections.Counter(f'{warning.filename}:{warning.lineno}' for warning in caught
                               if 'synchroniz' in str(warning.message))


def profiles(setting: Setting, report: Report) -> None:
    """How many kernels each work launches, how busy they keep the device, and which take longest."""
    device = setting.start()
    works: dict[str, Work] = {'cross-entropy': CrossEntropy(setting, device),
                              'self-critical': SelfCriticalStep(setting, device),
                              'beams': Decoding(setting, device).beams}
    for name, work in works.items():
        for _ in range(WARM):
            work()
        synchronise(device)
        start = time.perf_counter()
        work()
        synchronise(device)
        seconds = time.perf_counter() - start
        kernels = kernels_of(work, device)
        busy = sum(taken for _, taken in kernels.values())
        report.number(name, f'{sum(count for count, _ in kernels.values())} kernels, {milliseconds(seconds)}, '
                      f'the device busy {busy / seconds:.0%}', seconds=seconds, busy=busy)
        for kernel, (count, taken) in sorted(kernels.items(), key=lambda item: -item[1][1])[:SHOWN]:
            report.number(f'  {kernel[:60]}', f'{count} times, {milliseconds(taken)}', kernel=kernel, count=count,
                          seconds=taken)


def kernels_of(work: Work, device: torch.device) -> dict[str, tuple[int, float]]:
    """{kernel: (how often, seconds)} of one run; on the CPU, of PyTorch's operations."""
    is_cuda = device.type == 'cuda'
    with profile(activities=[ProfilerActivity.CUDA if is_cuda else ProfilerActivity.CPU]) as found:
        work()
        synchronise(device)
    kernels: dict[str, tuple[int, float]] = {}
    events: Any = found.events()
    for event in events:
        if is_cuda and event.device_type == DeviceType.CUDA:
            taken = event.time_range.elapsed_us()
        elif not is_cuda and event.name.startswith('aten::'):
            taken = event.self_cpu_time_total
        else:
            continue
        count, before = kernels.get(event.name, (0, 0.0))
        kernels[event.name] = count + 1, before + taken * 1e-6
    return kernels
