"""Adapters in the engine: each row gets the model merged with its own, in any company."""

from pathlib import Path

import numpy as np
import pytest

from ms_codegeex.formats.rounding import quantise
from ms_codegeex.generation.beams import next_tokens
from ms_codegeex.generation.loading import Adapter
from ms_codegeex.generation.matrices import LoraTerm
from ms_codegeex.generation.scheduler import Scheduler
from ms_codegeex.models.registry import FAMILIES

pytest.importorskip("torch")

from twins.tiny_models import Twin, finish, greedy, prompt, submit

LIMIT = 1e-4  # of logits
NUMBERS = (0, 1, 2)
pytestmark = pytest.mark.usefixtures("graph_mode_throughout")


def adapters_of(config):
    """One on all layers, and one of another rank on some."""
    linear = {layer.name: layer.shape(config) for layer in config.table.layers(config.num_layers) if layer.role.linear}
    found, rng = [], np.random.default_rng(9)
    for number, (rank, wanted) in enumerate(((3, "."), (17, "feed_forward")), 1):
        matrices = {
            f"{name}.weight": LoraTerm(
                rng.standard_normal((rank, columns), np.float32) / 4, rng.standard_normal((rows, rank), np.float32) / 12
            )
            for name, (rows, columns) in linear.items()
            if wanted in name
        }
        found.append(Adapter(f"adapter {number}", Path(), matrices))
    return found


def merged(tensors, adapter):
    """The weights with an adapter, summed in float64."""
    result = dict(tensors)
    for name, each in adapter.matrices.items():
        result[name] = (tensors[name] + each.b.astype(np.float64) @ each.a.astype(np.float64)).astype(np.float32)
    return result


class Case:
    """A twin, an engine with adapters, and for each of `NUMBERS` an engine without, whose weights are merged."""

    def __init__(self, name, **options):
        self.twin = Twin(name)
        self.adapters = adapters_of(self.twin.config)
        self.engine = self.twin.engine(slots=3, adapters=self.adapters, **{"chunk": 64} | options)
        weights = [self.twin.tensors, *(merged(self.twin.tensors, adapter) for adapter in self.adapters)]
        self.alone = [self.twin.engine(tensors=each, slots=1, chunk=64) for each in weights]

    def check_answer(self, request):
        """The answer has the greedy ids of the merged model."""
        ids = request.ids[: request.prompt]
        answer = [chosen.token for chosen in request]
        logits = self.alone[request.adapter].all_logits(0, [*ids, *answer])
        assert answer == logits.argmax(-1)[len(ids) - 1 : -1].tolist(), (request.adapter, ids[-1])


def cases(*slow):
    """The usual model, and those of slow tests: families, and options of the engine."""
    return [("codegen", {}), *(pytest.param(each, marks=pytest.mark.slow) for each in slow)]


@pytest.fixture(scope="module", params=cases((FAMILIES[0], {})))
def compiled(request):
    return Case(request.param[0])


COMPOSITE = {"threads": 0}


@pytest.fixture(scope="module", params=cases((FAMILIES[0], {}), ("codegen", COMPOSITE), ("codegeex2", COMPOSITE)))
def case(request):
    name, options = request.param
    return Case(name, **options)


@pytest.mark.slow  # `test_loaded_adapters.py` compares the logits of another family
def test_logits_are_those_of_the_merged_model(case):
    ids, seen = prompt(37, 1), []
    for number in (0, 2, 1, 0):
        found = case.engine.all_logits(1, ids, number)
        assert np.abs(found - case.alone[number].all_logits(0, ids)).max() <= LIMIT
        seen.append(found)
    assert np.array_equal(seen[0], seen[-1])
    assert min(np.abs(seen[0] - other).max() for other in seen[1:3]) > 0.1


def test_answers_of_all_adapters_at_once(case):
    """Answers of all adapters at once, prompts that begin alike, more requests than slots."""
    scheduler, common = Scheduler(case.engine), prompt(20, 4)
    requests = [greedy([*common, extra], 10, adapter=number) for extra in (5, 6) for number in (2, 0, 1)]
    submit(scheduler, *requests)
    scheduler.step()
    assert not any(request.leader for request in requests[:3])  # none waits for what another adapter computes
    finish(scheduler, *requests)
    for request in requests:
        case.check_answer(request)
    assert scheduler.reused == 3 * len(common)


def test_without_adapters_the_bits_are_those_of_an_engine_that_has_none(compiled):
    ids = prompt(30, 2)
    compiled.engine.all_logits(2, ids, 1)
    assert np.array_equal(compiled.engine.all_logits(0, ids), compiled.alone[0].all_logits(0, ids))


def test_what_an_adapter_computed_is_never_used_by_another(compiled):
    engine, ids = compiled.engine, prompt(25, 3)
    for slot, number in enumerate(NUMBERS):
        engine.logits(slot, ids, number)
    assert [engine.keep(slot, [*ids, 7], number) for slot, number in enumerate(NUMBERS)] == [25, 25, 25]
    assert [engine.common(0, ids, number) for number in NUMBERS] == [25, 0, 0]
    engine.copy(1, 0, 20)
    assert [engine.common(0, ids, number) for number in NUMBERS] == [0, 20, 0]
    found = engine.logits(0, [*ids, 7], 2)
    assert np.abs(found - compiled.alone[2].logits(0, [*ids, 7])).max() <= LIMIT
    scheduler = Scheduler(engine)
    for slot in range(3):
        engine.logits(slot, ids, 1)
    request = greedy([*ids, 8], 4, adapter=2)
    scheduler.submit(request)
    finish(scheduler, request)
    assert scheduler.reused == 0
    compiled.check_answer(request)


@pytest.mark.slow
def test_beams_follow_their_adapter(compiled):
    ids = prompt(12, 6)
    compiled.engine.logits(0, [*ids, 3])
    (found,) = next_tokens(compiled.engine, [0, 1], [ids], 4, adapter=1)
    expected = compiled.alone[1].logits(0, ids).astype(np.float64)
    expected -= np.log(np.exp(expected).sum())
    assert [token for token, _ in found] == np.argsort(-expected)[:4].tolist()
    assert [score for _, score in found] == pytest.approx(np.sort(expected)[:-5:-1].tolist(), abs=LIMIT)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"bits": 8, "activation_bits": 32}, {"bits": 4, "cache_bits": 16}])
def test_adapters_stay_exact_on_quantised_weights(options):
    """The oracle's weights are what the rounded ones stand for, with the adapter."""
    twin, bits = Twin("codegen"), options["bits"]
    adapters, products = adapters_of(twin.config), twin.config.product_names()
    engine = twin.engine(slots=2, adapters=adapters, chunk=64, **options)
    rounded = {
        name: quantise(array, bits).float32() if name in products else array for name, array in twin.tensors.items()
    }
    cache = options.get("cache_bits", 32)
    oracle = twin.engine(tensors=merged(rounded, adapters[0]), slots=1, chunk=64, cache_bits=cache)
    ids = prompt(20, 7)
    found, expected = engine.all_logits(0, ids, 1), oracle.all_logits(0, ids)
    assert np.abs(found - expected).max() <= (LIMIT if cache == 32 else 20 * LIMIT)
