import json
from dataclasses import asdict

import numpy as np
import pytest

from ms_codegeex.base.errors import UserError
from ms_codegeex.cli import main
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.extras.cluster.plans import inference
from ms_codegeex.extras.cluster.plans.inference import bounds, decoding, inference_memory, our_forms, speeds
from ms_codegeex.formats.sources import Source
from ms_codegeex.formats.tensors import from_array
from ms_codegeex.generation.quantising import write_quantised
from ms_codegeex.models import registry as models


def run(family, preset, **model):
    config = {"model": {"family": family, "preset": preset, **model}, "training": {"steps": 1}}
    return build_run_config(config)


# weights alone, 10^9 bytes, counted by hand from the shapes of the released tensors
WEIGHTS = {
    ("codegeex", "13b", 16): 25.748,
    ("codegeex", "13b", 8): 13.17,
    ("codegeex2", "6b", 16): 12.49,
    ("codegeex2", "6b", 8): 6.78,
    ("codegeex2", "6b", 4): 3.92,
}
PUBLISHED = {
    ("codegeex", "13b", 16): 26.9,
    ("codegeex", "13b", 8): 14.7,
    ("codegeex2", "6b", 16): 13.1,
    ("codegeex2", "6b", 8): 8.2,
    ("codegeex2", "6b", 4): 5.5,
}


@pytest.mark.parametrize("key", WEIGHTS, ids=str)
def test_weights_are_the_facts_and_the_published_column_is_within_what_a_gpu_process_takes(key):
    family, preset, bits = key
    memory = inference_memory(run(family, preset), bits)
    assert (memory.weights + memory.scales) / 1e9 == pytest.approx(WEIGHTS[key], abs=0.006)
    assert memory.published / 1e9 == pytest.approx(PUBLISHED[key])
    assert 0.3 <= memory.unexplained / 1e9 <= 1.3
    assert memory.total == memory.weights + memory.scales + memory.cache + memory.workspace


@pytest.mark.parametrize(
    ("family", "preset", "per_token"),
    [
        ("codegen", "350m-mono", 80 * 1024),
        ("codegen", "2b-nl", 320 * 1024),
        ("codegen", "6b-multi", 528 * 1024),
        ("codegen", "16b-mono", 816 * 1024),
        ("codegeex2", "6b", 28_672),
        ("codegeex", "13b", 40 * 2 * 5120 * 2),
    ],
)
def test_cache_per_token(family, preset, per_token):
    assert inference_memory(run(family, preset), 16, 1000).cache == 1000 * per_token


def test_what_is_quantised():
    memory, whole = (inference_memory(run("codegeex2", "6b"), bits) for bits in (8, 16))
    assert whole.weights - memory.weights == 5_710_544_896  # a byte less for each weight of a linear layer
    assert inference_memory(run("codegeex", "13b"), 16).weights - inference_memory(
        run("codegeex", "13b"), 8
    ).weights == pytest.approx(12.583e9, rel=1e-4)


def test_a_variation_of_a_preset_has_no_published_figure():
    assert inference_memory(run("codegeex2", "6b", num_layers=27), 16).published is None
    assert inference_memory(run("codegeex2", "6b"), 16, 100).published is None


@pytest.mark.parametrize(("family", "published"), [("codegeex", 14.7e9), ("codegeex2", 8.2e9)])
def test_the_default_preset_has_its_published_figure(family, published):
    assert inference_memory(run(family, None), 8).published == pytest.approx(published)


def test_wrong_requests_name_the_option():
    with pytest.raises(UserError, match=r"--bits: 5; choose one of 16, 8, 4"):
        inference_memory(run("codegeex2", "6b"), 5)
    with pytest.raises(UserError, match=r"--context: 9000 tokens, the model reads up to 8192"):
        inference_memory(run("codegeex2", "6b"), 16, 9000)


def test_the_command(capsys):
    assert main(["plan", "--config", "configs/codegeex2_6b.yaml", "--inference", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)["inference"][0]
    assert (first["bits"], first["tokens"], first["weights"]) == (16, 2048, 2 * 6_243_584_000)
    assert main(["plan", "--config", "configs/codegeex_13b.yaml", "--inference"]) == 0
    assert "26.9" in capsys.readouterr().out
    assert main(["plan", "--config", "configs/codegeex_13b.yaml", "--context", "5"]) == 2
    assert "--context: belongs to --inference" in capsys.readouterr().err


@pytest.mark.parametrize("family", ["codegen", "codegeex", "codegeex2"])
@pytest.mark.parametrize("bits,group", [(8, 64), (4, 32)])
def test_our_forms_are_the_bytes_that_quantize_writes(family, bits, group, tmp_path):
    config = run(family, "tiny", num_layers=2)
    shapes = config.model.sizes.parameter_shapes()
    kinds = {1: np.float32, 2: np.float16}  # the engine holds vectors in FP32
    tensors = {name: from_array(np.ones(shape, kinds[len(shape)])) for name, shape in shapes.items()}
    fields = asdict(config.model.sizes)
    source = Source(tmp_path / "source", "checkpoint", models.family(family), fields, tensors, lambda directory: None)
    written = write_quantised(source, bits, group, tmp_path / "q")["bytes"]
    forms = {form.bits: decoding(config, form) for form in our_forms(group)}
    assert forms[bits].weights == written
    assert forms[16].weights == sum(tensor.nbytes for tensor in tensors.values())
    assert forms[32].weights == 4 * sum(tensor.size for tensor in tensors.values())


def test_what_a_step_reads_counted_by_hand():
    geex2 = {form.name: decoding(run("codegeex2", "6b"), form, 2048) for form in our_forms()}
    head, linears = 65024 * 4096, 5_710_544_896
    rows = 28 * (4096 + 2 * 256 + 4096 + 2 * 13696 + 4096) + 65024  # each has a scale
    rest = 4 * (28 * (2 * 4096 + 4096 + 2 * 256) + 4096)  # norms, biases of queries, keys and values
    assert geex2["int8"].read == linears + head + 4 * rows + rest
    assert geex2["int8"].weights - geex2["int8"].read == 2 * head  # the word table is looked up, and FP16
    assert geex2["int4"].read == (linears + head) // 2 + 4 * (linears + head) // 64 + rest
    assert {form.cache for form in geex2.values()} == {2 * 2048 * 28_672}  # FP32
    assert {form.half_cache for form in geex2.values()} == {2048 * 28_672}
    tied = decoding(run("codegeex", "13b"), our_forms()[2])
    assert tied.weights - tied.read == 2 * 2 * 2048 * 5120  # tables of positions; the word table is the output layer


def test_rates_are_bandwidth_over_bytes_and_published_ones_lie_below():
    form = decoding(run("codegeex2", "6b"), our_forms()[0], 100)
    assert form.rate(1, 1e12) == pytest.approx(1e12 / (form.read + form.cache))
    assert form.rate(8, 1e12) == pytest.approx(8e12 / (form.read + 8 * form.cache))
    assert form.total(8) - form.total(1) == 7 * form.cache
    geex, geex2 = run("codegeex", "13b"), run("codegeex2", "6b")
    known = [(speed, bounds(geex, speed)) for speed in speeds(geex) if speed.bits]
    assert len(known) == 5 and all(0.4 < speed.rate / bound[speed.bits] < 1 for speed, bound in known)
    (speed,) = speeds(geex2)
    assert (speed.rate, speed.unit) == (94, "characters") and bounds(geex2, speed)[16] < 94 < bounds(geex2, speed)[8]
    assert speeds(run("codegeex2", "6b", num_layers=27)) == () == speeds(run("codegen", "350m-mono"))


def test_the_command_shows_our_forms_devices_and_published_speeds(capsys, monkeypatch):
    assert inference.read_bandwidth(2, 2**20) > 1e6
    monkeypatch.setattr(inference, "read_bandwidth", lambda threads: 20e9)
    words = ["plan", "--config", "codegeex_13b", "--inference", "--streams", "16", "--measure"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [form["form"] for form in found["forms"]] == ["fp32", "fp16", "int8", "int4"]
    devices = {device["name"]: device for device in found["devices"]}
    assert {"ascend910", "ascend910b", "a100"} < devices.keys()
    (cpu,) = (device for device in found["devices"] if device["measured"])
    assert cpu["bandwidth"] == 20e9 and cpu["name"].startswith("this CPU")
    int8 = devices["ascend910"]["forms"][2]
    assert int8["fits"] == {"1": True, "16": True} and not devices["ascend910"]["forms"][0]["fits"]["1"]
    form = found["forms"][2]
    assert int8["tokens_per_second"]["16"] == pytest.approx(16 * 1.2e12 / (form["read"] + 16 * form["cache"]))
    assert found["published_week"]["tokens_per_second"] == pytest.approx(7771, abs=1)
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "too large" in text and "this CPU" in text and "7,771/s" in text and "characters" in text
    assert main(["plan", "--config", "codegeex2_6b", "--inference", "--group", "32", "--streams", "1"]) == 0
    text = capsys.readouterr().out
    assert "or 32 numbers of a row" in text and "for a week" not in text and "fp32, 8" not in text


def test_options_of_inference_need_it(capsys):
    for word in (["--streams", "2"], ["--group", "32"], ["--measure"]):
        assert main(["plan", "--config", "codegeex_13b", *word]) == 2
        assert f"{word[0]}: belongs to --inference" in capsys.readouterr().err
    assert main(["plan", "--config", "codegeex_13b", "--inference", "--streams", "0"]) == 2
    assert "--streams: 0 is out of range" in capsys.readouterr().err
