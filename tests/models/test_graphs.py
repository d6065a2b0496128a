"""Decoding as CUDA graphs, with a recorder that runs the same operations again on the CPU."""

import contextlib
import gc
import types

import pytest
import torch

from models import decoding_run
from models.decoding import Constraints, beam_search, sample
from models.ensemble import Ensemble
from models.graphs import Graphs, record_cuda_graph, run_directly
from tests.helpers.models import FAMILIES, batch_with_captions, make_batch, make_model, name_of
from tests.helpers.pretend_device import DEVICE, host, pretend_device
from tests.helpers.tape import record

CONSTRAINTS = Constraints(10, True, True, (4,))
METHODS = {
    'greedy': (sample, dict(greedy=True, constraints=CONSTRAINTS)), 'samples': (sample, dict(copies=4)),
    'beams': (beam_search, dict(beam_size=3, results=3, constraints=CONSTRAINTS)),
    'diverse beams': (beam_search, dict(beam_size=4, group_size=2, results=4))}
MODELS = [dict(), dict(cross_attn='dot-product'), *FAMILIES]


@pytest.fixture(autouse=True)
def static(monkeypatch):
    monkeypatch.setattr('models.base.drops_rows', lambda device: False)


def build(changes):
    if isinstance(changes, list):
        return Ensemble([build(one) for one in changes]).eval()
    model = make_model(**changes).eval()
    with torch.no_grad():
        model.output.weight *= 6
    return model


def uniforms(seed):
    return torch.rand(12, 6, generator=torch.Generator().manual_seed(seed))


def decode(run, method, model, memory, uniforms):
    """Captions by a method of `METHODS`, run by `run_directly` or `Graphs`."""
    function, options = METHODS[method]
    return run(function, model, memory, uniforms if method == 'samples' else None, longest=6, **options)


@torch.no_grad()
@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('changes', [*MODELS, MODELS[:4]],
                         ids=lambda one: 'ensemble' if isinstance(one, list) else name_of(one))
def test_a_graph_captions_other_batches_of_its_shapes_and_follows_the_weights(method, changes):
    model, pairs, records = build(changes), [], []
    graphs = Graphs(record=lambda work: (records.append(1), record(work))[1])
    for seed in range(4):
        if seed == 3:
            for parameter in model.parameters():
                parameter += torch.randn_like(parameter) * 0.1  # in place, as an optimiser changes them
        memory = model.encode(make_batch(seed, counts=[4, 7, 1][seed % 3:] + [4, 7, 1][:seed % 3]))
        pairs.append([decode(run, method, model, memory, uniforms(seed)) for run in (graphs, run_directly)])
    assert len(records) == 1
    for found, expected in pairs:  # not overwritten by later batches
        assert torch.equal(found.captions, expected.captions)
        assert torch.allclose(found.log_probs, expected.log_probs, atol=1e-5)
    assert len({one.log_probs.sum().item() for one, _ in pairs}) == 4


@torch.no_grad()
def test_other_shapes_modes_and_weights_elsewhere_are_recorded_anew_and_the_last_graphs_are_kept(monkeypatch):
    model, records = build({}), []
    monkeypatch.setattr('models.graphs.KEPT', 5)
    graphs = Graphs(record=lambda work: (records.append(1), record(work))[1])

    def recorded(times, model=model, counts=(4, 7, 1), method='greedy'):
        for _ in range(times):
            decode(graphs, method, model, model.encode(make_batch(counts=counts)), None)
        return len(records)

    assert recorded(1) == 0 and recorded(3) == 1
    assert recorded(3, counts=(7, 2, 2)) == 1  # also three images, of up to 7 regions
    assert recorded(1, counts=(6, 2, 2)) == 1 and recorded(2, counts=(6, 2, 2)) == 2
    assert recorded(2, method='beams') == 3
    weight, model.output.weight = model.output.weight, torch.nn.Parameter(model.output.weight.clone())
    assert recorded(2) == 4
    assert recorded(2, build({})) == 5
    model.train()
    assert recorded(2) == 6 and len(graphs.kept) == 5
    model.eval()
    assert recorded(1) == 6
    model.output.weight = weight
    assert recorded(1, method='beams') == 6 and recorded(1) == 7  # the first was dropped, and is recorded again


@torch.no_grad()
def test_where_recording_fails_decoding_goes_on_without_graphs_unless_they_are_required():
    def fail(work):
        raise RuntimeError('no memory')
    model = build({})
    memory = model.encode(make_batch())
    for graphs in (Graphs(record=fail), Graphs(required=True, record=fail)):
        expected = decode(graphs, 'greedy', model, memory, None)
        if graphs.required:
            with pytest.raises(RuntimeError, match='no memory'):
                decode(graphs, 'greedy', model, memory, None)
            continue
        with pytest.warns(UserWarning, match='without CUDA graphs, which failed: no memory'):
            found = decode(graphs, 'greedy', model, memory, None)
        assert torch.equal(found.captions, expected.captions)
        assert torch.equal(decode(graphs, 'greedy', model, memory, None).captions, expected.captions)  # no warning


def test_the_flag_and_the_device_choose_graphs():
    for name, flag, expected in (('cuda', 'auto', False), ('cuda:1', '1', True), ('cuda', '0', None),
                                 ('cpu', 'auto', None), ('cpu', '0', None)):
        run = decoding_run(types.SimpleNamespace(cuda_graphs=flag), torch.device(name))
        assert run is run_directly if expected is None else isinstance(run, Graphs) and run.required is expected


@torch.no_grad()
@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('changes', MODELS, ids=name_of)
def test_nothing_is_copied_from_the_host_while_a_graph_would_be_recorded(method, changes):
    model, batch = build(changes), batch_with_captions()
    with pretend_device() as counts:
        memory = model.to(DEVICE).encode(batch.pin_memory().to(DEVICE)).padded()
        given = uniforms(0).pin_memory().to(DEVICE, non_blocking=True)
        decode(run_directly, method, model, memory, given)  # as the first batch, which is not recorded
        counts.clear()
        found = decode(run_directly, method, model, memory, given)
        assert not counts.copies and not counts.waits
        assert host(found.captions).shape[2] == 6


@pytest.mark.parametrize('changes', MODELS[:2], ids=name_of)
def test_regions_are_padded_to_few_different_shapes_off_the_cpu(changes):
    model, batch = make_model(**changes), batch_with_captions()
    assert model.encode(batch).padded().layers[0].key.shape[-2] == 7
    with pretend_device():
        memory = model.to(DEVICE).encode(batch.pin_memory().to(DEVICE)).padded()
        assert memory.layers[0].key.shape[-2] == 16


@pytest.mark.parametrize('fails', [False, True])
def test_recording_collects_no_garbage_and_a_failure_leaves_stream_and_random_numbers_usable(monkeypatch, fails):
    class Generator:
        def clone_state(self):
            return 'a fresh state'

        def graphsafe_set_state(self, state):
            seen.append(state)

    @contextlib.contextmanager
    def graph(recorded, pool, stream, capture_error_mode):
        assert (pool, stream, capture_error_mode) == ('the pool', 'the side stream', 'thread_local')
        yield
        if fails:
            raise RuntimeError('a recording cannot be ended')

    def work():
        assert not gc.isenabled()
        return 'captions'
    seen = []
    current = types.SimpleNamespace(device=torch.device('cuda', 1))
    monkeypatch.setattr('models.graphs._pool', lambda: 'the pool')
    monkeypatch.setattr('models.graphs._side_stream', lambda: 'the side stream')
    for name, value in dict(CUDAGraph=lambda: types.SimpleNamespace(replay='replay'), graph=graph,
                            current_stream=lambda: current, set_stream=seen.append,
                            default_generators=(None, Generator())).items():
        monkeypatch.setattr(torch.cuda, name, value)
    if fails:
        with pytest.raises(RuntimeError, match='cannot be ended'):
            record_cuda_graph(work)
    else:
        assert record_cuda_graph(work) == ('replay', 'captions')
    assert seen == ([current, 'a fresh state'] if fails else []) and gc.isenabled()
