"""One model over several processes gives what one process gives, with a share of the memory in each."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import psutil
import pytest
from conftest import ROOT
from small_models import save_run

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.base.processes import alive
from ms_codegeex.formats.rounding import quantise
from ms_codegeex.formats.tensors import from_array
from ms_codegeex.generation.choice import TokenChoice
from ms_codegeex.generation.device_shares import Share, SharedWeights, check_devices
from ms_codegeex.generation.devices.network import Devices
from ms_codegeex.generation.loading import load_model
from ms_codegeex.generation.matrices import WHOLE, TensorWeights
from ms_codegeex.generation.rows import SlotSizes
from ms_codegeex.generation.slots import Part, SlotEngine
from ms_codegeex.models.registry import FAMILIES, family

pytest.importorskip("torch")

from twins.tiny_models import POSITIONS, Twin, prompt

GREEDY = TokenChoice()
LIMIT = 1e-5  # logits of about 1; sums have another order
pytestmark = pytest.mark.usefixtures("graph_mode_throughout")


def saved(root, twin):
    """A run directory with a checkpoint."""
    return save_run(root, twin.family.name, twin.tensors, **asdict(twin.config))


@pytest.fixture
def several(tmp_path):
    """Makes twins, and engines of `count` devices with their weights, which end with the test."""
    made = []

    def make(name, count, bits=None, **sizes):
        twin = Twin(name)
        model = load_model(saved(tmp_path, twin), bits)
        made.append(Devices(model, SlotSizes(POSITIONS, **{"slots": 3, "threads": count} | sizes), count))
        return twin, SlotEngine(made[-1], chunk=16)

    yield make
    for network in made:
        network.close()


def greedy(engine, prompts, count=20):
    """The greedy ids of all prompts in step."""
    sequences = {slot: list(ids) for slot, ids in enumerate(prompts)}
    for _ in range(count):
        for slot, chosen in engine.next(sequences, dict.fromkeys(sequences, GREEDY)).items():
            sequences[slot].append(chosen.token)
    return sequences


def check_equal(engine, twin):
    """Compare logits of a full pass, greedy ids, a copied slot, and chunks of prompts beside sequences that decode."""
    ids = prompt(37, 1)
    assert np.abs(engine.all_logits(0, ids) - twin.logits(ids)).max() <= LIMIT
    prompts = [prompt(30, 2), prompt(1, 3), prompt(9, 4)]
    for slot, found in greedy(engine, prompts).items():
        begin = len(prompts[slot])
        assert found[begin:] == twin.scores(found).argmax(-1)[begin - 1 : -1].tolist()
    engine.logits(0, ids)
    engine.copy(0, 2, 20)
    more = [*ids[:20], 7, 8]
    assert np.abs(engine.logits(2, more) - twin.logits(more)[-1]).max() <= LIMIT
    engine.network.save(5, 2, 20)
    engine.logits(2, prompt(30, 5))
    engine.restore(5, 1, ids[:20])
    engine.network.forget(5)
    assert np.abs(engine.logits(1, more) - twin.logits(more)[-1]).max() <= LIMIT
    engine.logits(2, more)
    engine.cached[0] = []
    found = engine.advance([Part(2, 22, [9], [GREEDY]), Part(0, 0, ids[:9], [GREEDY])])
    expected = [twin.logits([*more, 9])[-1].argmax(), twin.logits(ids[:9])[-1].argmax()]
    assert [rows[0].token for rows in found] == expected
    sums = [np.zeros(twin.config.hidden_size) for _ in "ab"]
    for each, states in zip((engine, twin.engine(slots=1)), sums, strict=True):
        each.clear(0)
        each.advance([Part(0, 0, ids[:9], [GREEDY], states)])
    assert np.abs(sums[0] - sums[1]).max() <= 9 * LIMIT and sums[0].any()


# codegeex2's two groups over three devices: two share one group, and their heads are not the third one's
SHARED = (("codegeex2", 3, 3), ("codegen", 3, 3), ("codegeex", 4, 4), ("codegeex2", 2, 2))
OWN_OPERATORS = ((name, 2, 0) for name in FAMILIES)


@pytest.mark.parametrize(
    "name,count,threads",
    [("codegeex", 2, 2), *(pytest.param(*each, marks=pytest.mark.slow) for each in (*SHARED, *OWN_OPERATORS))],
)
def test_devices_give_what_one_process_gives(name, count, threads, several):
    twin, engine = several(name, count, threads=threads)
    assert engine.network.compiled is (threads > 0)
    check_equal(engine, twin)


@pytest.mark.slow
@pytest.mark.parametrize("bits,activation_bits,limit", [(8, 32, LIMIT), (4, 16, 1e-3)])
def test_a_quantised_model_gives_the_ids_of_one_process(bits, activation_bits, limit, several):
    """Each device rounds its own part of a row's activations, so with rounded ones the logits are a bit farther."""
    twin, engine = several("codegen", 2, bits, activation_bits=activation_bits)
    one, ids = twin.engine(bits=bits, slots=3, activation_bits=activation_bits), prompt(37, 1)
    assert np.abs(engine.all_logits(0, ids) - one.all_logits(0, ids)).max() <= limit
    assert np.abs(engine.all_logits(0, ids) - twin.logits(ids)).max() > 1e-3
    prompts = [prompt(30, 2), prompt(1, 3)]
    assert greedy(engine, prompts) == greedy(one, prompts)


@pytest.mark.slow
def test_two_devices_until_one_of_them_ends(several):
    twin, engine = several("codegen", 2)
    check_equal(engine, twin)
    alive = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    children = [child for child in alive if "ms_codegeex.generation.devices.process" in " ".join(child.cmdline())]
    assert len(children) == 2
    children[1].kill()
    with pytest.raises(RunFailure, match="device 1 of 2 was killed by SIGKILL"):
        engine.logits(0, prompt(5, 1))
    assert not any(child.is_running() for child in children)
    with pytest.raises(RunFailure, match="load the model again"):
        engine.logits(0, prompt(5, 2))


def test_a_model_that_devices_cannot_share(tmp_path):
    twin = Twin("codegen")
    path = saved(tmp_path, twin)
    with pytest.raises(UserError, match="--devices: 17 for 16 attention heads"):
        check_devices(twin.config, 17)
    damaged = next(path.rglob("*.safetensors"))
    data = bytearray(damaged.read_bytes())
    data[-5] ^= 1
    damaged.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):  # said by the processes
        Devices(load_model(path), SlotSizes(POSITIONS, threads=2), 2)


PROGRAM = """
import sys
import mindspore as ms
from ms_codegeex.generation.devices.network import Devices
from ms_codegeex.generation.loading import load_model
from ms_codegeex.generation.rows import SlotSizes
ms.set_context(mode=ms.GRAPH_MODE)
devices = Devices(load_model(sys.argv[1]), SlotSizes(100, threads=2), 2)
print("ready", *(process.pid for process in devices._processes._processes), flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_devices_end_with_the_program_however_it_ends(number, tmp_path):
    path = saved(tmp_path, Twin("codegen"))
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", PROGRAM, str(path)], env=environment, **streams) as program:
        pids = list(map(int, program.stdout.readline().split()[1:]))
        assert len(pids) == 2
        program.send_signal(number)
        program.wait()
    left = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    while any(map(alive, left)):
        time.sleep(0.05)


# --- shares ---

PUBLISHED = [("codegeex", "13b"), ("codegen", "350m-multi"), ("codegen", "16b-mono"), ("codegeex2", "6b")]


@pytest.mark.parametrize("count", [2, 3, 4, 8])
@pytest.mark.parametrize("name,preset", PUBLISHED)
def test_a_device_holds_its_part_of_a_published_model(name, preset, count):
    config = family(name).config.build_config(preset, {})
    shares = [Share(config, rank, count) for rank in range(count)]
    held, cached, whole = [0] * count, [0] * count, 0
    for layer in config.table.layers(config.num_layers):
        for parameter in layer.parameters(config):
            whole += parameter.size
            sizes = [layer.rows, layer.columns][: len(parameter.shape)]
            parts = [
                [share.part(size) if axis == parameter.axis else slice(0, length) for share in shares]
                for axis, (size, length) in enumerate(zip(sizes, parameter.shape, strict=True))
            ]
            if parameter.axis is not None and not layer.role.by_groups:  # each element once
                own = parts[parameter.axis]
                assert own[0].start == 0 and own[-1].stop == parameter.shape[parameter.axis]
                assert all(before.stop == after.start for before, after in pairwise(own))
            for rank in range(count):
                held[rank] += int(np.prod([axis[rank].stop - axis[rank].start for axis in parts]))
    for rank, share in enumerate(shares):
        cached[rank] = 2 * config.attention_layers * share.heads.groups * share.heads.size
        assert share.part("hidden_size").stop - share.part("hidden_size").start == share.heads.count * share.heads.size
    even = config.num_heads % count == 0 and (config.num_kv_groups % count == 0 or count % config.num_kv_groups == 0)
    if even:
        kept = 1 / min(count, config.num_kv_groups)
        assert not any(share.part(size).start % 32 for share in shares for size in ("hidden_size", "intermediate_size"))
        assert max(held) <= 1.05 * whole / count and max(cached) == kept * config.cached_numbers
    assert sum(held) <= (1.05 if even else 1.2) * whole


def test_heads_of_a_device_read_the_groups_that_it_has():
    config = Twin("codegeex2").config  # 32 heads, two groups
    for count in range(1, 33):
        covered = []
        for rank in range(count):
            share = Share(config, rank, count)
            heads, groups = share._heads()
            covered += range(heads.start, heads.stop)
            shared = share.heads.count // share.heads.groups
            for number, head in enumerate(range(heads.start, heads.stop)):
                assert groups.start + number // shared == head // 16
        assert covered == list(range(32))


def test_parts_of_quantised_matrices_are_those_of_the_whole():
    weight = np.random.default_rng(0).standard_normal((24, 300)).astype(np.float32)
    for bits, group in ((32, 0), (16, 0), (8, 0), (4, 32), (4, 64), (4, 128)):
        whole = quantise(weight, bits, group or 64)
        for rows, columns in ((slice(3, 20), WHOLE), (WHOLE, slice(96, 192)), (WHOLE, slice(96, 300)), (WHOLE, WHOLE)):
            part = whole.part(rows, columns)
            assert np.array_equal(part.float32(), whole.float32()[rows, columns])
            assert part.values.base is None
    with pytest.raises(UserError, match="choose another number of devices, or 8 bits"):
        quantise(weight, 4, 64).part(WHOLE, slice(40, 192))


def test_only_one_device_adds_the_bias_of_a_split_product():
    twin = Twin("codegeex")
    whole = TensorWeights({name: from_array(array) for name, array in twin.tensors.items()})
    own = [SharedWeights(whole, Share(twin.config, rank, 2)) for rank in range(2)]
    name = "blocks.0.feed_forward.down"
    bias = [weights.vector(f"{name}.bias") for weights in own]
    assert np.array_equal(bias[0], twin.tensors[f"{name}.bias"]) and not bias[1].any()
    parts = [weights.matrix(f"{name}.weight").values for weights in own]
    assert np.array_equal(np.concatenate(parts, 1), twin.tensors[f"{name}.weight"])


@pytest.mark.slow
def test_memory_of_a_process_falls_with_the_number_of_devices(tmp_path):
    sizes = {"vocab_size": 50400, "hidden_size": 512, "num_layers": 6, "num_heads": 8, "intermediate_size": 2048}
    config = family("codegen").config.build_config("tiny", {**sizes, "max_position_embeddings": 128})
    generator = np.random.default_rng(0)
    shapes = config.parameter_shapes()
    tensors = {name: generator.standard_normal(shape, np.float32) * np.float32(0.02) for name, shape in shapes.items()}
    path, whole = save_run(tmp_path, "codegen", tensors, **asdict(config)), 4 * config.parameter_count()
    del tensors
    own, before = [], psutil.Process().memory_full_info().uss
    for count in (2, 4):
        devices = Devices(load_model(path), SlotSizes(128, 1, count), count)
        SlotEngine(devices).logits(0, prompt(5))
        own.append(max(psutil.Process(each.pid).memory_full_info().uss for each in devices._processes._processes))
        devices.close()
    # glibc keeps freed memory of up to twice the largest block below 32 MiB that it has freed, here a matrix
    assert abs((own[0] - own[1]) - whole / 4) <= 0.05 * whole / 4 + 2 * 4 * 512 * 2048
    assert psutil.Process().memory_full_info().uss - before <= 0.1 * whole
