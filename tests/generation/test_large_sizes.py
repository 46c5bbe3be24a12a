"""Models of the large sizes with few layers, quantised, loaded and run each in its own process: memory is what `plan
--inference` says."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

from ms_codegeex.config.rules import build_run_config
from ms_codegeex.extras.cluster.plans.inference import FORMS, decoding

POSITIONS, MB = 64, 1e6
BEGIN = """
import json, sys
from dataclasses import asdict
from pathlib import Path
import numpy as np
from ms_codegeex.models.registry import family
name, preset, bits, layers, path, positions = json.loads(sys.argv[1])
found = family(name)
config = found.config.build_config(preset, {"num_layers": layers})
"""
END = """
sizes = dict(line.split(":") for line in open("/proc/self/status"))
kept, peak = (1024 * int(sizes[name].split()[0]) for name in ("VmRSS", "VmHWM"))
print(json.dumps({"kept": kept, "peak": peak, "said": said}))
"""
QUANTISE = """
from ms_codegeex.formats.sources import Source
from ms_codegeex.formats.tensors import LazyTensor
from ms_codegeex.generation.quantising import write_quantised
block = np.random.default_rng(1).normal(size=9973, scale=0.02).astype(np.float16)  # repeated: quick to make
def tensors():
    for name, shape in config.parameter_shapes().items():
        yield name, LazyTensor("float16", shape, lambda shape=shape: np.resize(block, shape))
source = Source(Path("model"), "checkpoint", found, asdict(config), dict(tensors()), lambda directory: None)
said = write_quantised(source, bits, 64, Path(path))["bytes"]
"""
GENERATE = """
from ms_codegeex.generation.quantised import QuantisedModel
from ms_codegeex.generation.rows import SlotSizes
from ms_codegeex.generation.slots import SlotEngine, TokenChoice
from ms_codegeex.generation.targets import open_network
model = QuantisedModel(Path(path))
engine = SlotEngine(open_network(found, model.config, model, SlotSizes(positions, threads=2)))
assert engine.network.compiled and model.bits == bits
said = int(engine.next({0: [11, 12, 13]}, {0: TokenChoice()})[0][0])
"""


def process(script, *values):
    """What a script prints in a separate process."""
    words, environment = [sys.executable, "-c", BEGIN + script + END, json.dumps(values)], {**os.environ, "GLOG_v": "3"}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, timeout=900, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name,preset,bits,maximum", [("codegeex", "13b", 8, 2), ("codegeex2", "6b", 4, 3)])
def test_memory_of_large_models_is_the_plans(name, preset, bits, maximum, tmp_path):
    (form,) = (form for form in FORMS if form.bits == bits)
    model = {"family": name, "preset": preset}
    planned, quantising, generating = {}, {}, {}
    for layers in (1, maximum):
        config = build_run_config({"model": {**model, "num_layers": layers}, "training": {"steps": 1}})
        planned[layers] = decoding(config, form, POSITIONS)
        values = (name, preset, bits, layers, str(tmp_path / f"q{layers}"), POSITIONS)
        quantising[layers] = process(QUANTISE, *values)
        generating[layers] = process(GENERATE, *values)
        assert 0 <= generating[layers]["said"] < config.model.sizes.vocab_size
    layer = (planned[maximum].weights - planned[1].weights) / (maximum - 1)
    found = (generating[maximum]["kept"] - generating[1]["kept"]) / (maximum - 1)
    whole, kept, peak = planned[maximum].total(1), generating[maximum]["kept"], generating[maximum]["peak"]
    print(name, *(f"{size / MB:.1f}" for size in (layer, found, whole, kept, peak, quantising[maximum]["peak"])))
    assert found == pytest.approx(layer, rel=0.05)
    assert whole < kept < whole + 800 * MB
    assert peak < kept + 2000 * MB  # a table while it is read
    # one tensor at a time: more layers take no more memory
    assert abs(quantising[maximum]["peak"] - quantising[1]["peak"]) < 0.2 * layer
