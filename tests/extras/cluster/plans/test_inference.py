import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from ms_codegeex.cli import main
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.extras.cluster.plans.inference import FORMS, decoding
from ms_codegeex.formats.sources import Source
from ms_codegeex.formats.tensors import from_array
from ms_codegeex.generation.quantising import write_quantised
from ms_codegeex.models import registry as models


def run(family, preset, **model):
    return build_run_config({"model": {"family": family, "preset": preset, **model}, "training": {"steps": 1}})


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
    """In 16 bits, which is half of ours."""
    assert decoding(run(family, preset), FORMS[0], 1000).cache == 2 * 1000 * per_token


@pytest.mark.parametrize("family", ["codegen", "codegeex", "codegeex2", "qwen2"])
@pytest.mark.parametrize("bits,group", [(8, 64), (4, 32)])
def test_our_forms_are_the_bytes_that_quantize_writes(family, bits, group, tmp_path):
    config = run(family, "tiny", num_layers=2)
    shapes = config.model.sizes.parameter_shapes()
    kinds = {1: np.float32, 2: np.float16}  # the engine holds vectors in FP32
    tensors = {name: from_array(np.ones(shape, kinds[len(shape)])) for name, shape in shapes.items()}
    fields = asdict(config.model.sizes)
    source = Source(tmp_path / "source", "checkpoint", models.family(family), fields, tensors, lambda directory: None)
    written = write_quantised(source, bits, group, tmp_path / "q")["bytes"]
    forms = {form.bits: decoding(config, replace(form, group=form.group and group)) for form in FORMS}
    assert forms[bits].weights == written
    assert forms[16].weights == sum(tensor.nbytes for tensor in tensors.values())
    assert forms[32].weights == 4 * sum(tensor.size for tensor in tensors.values())


def test_what_a_step_reads_counted_by_hand():
    geex2 = {form.name: decoding(run("codegeex2", "6b"), form, 2048) for form in FORMS}
    head, linears = 65024 * 4096, 5_710_544_896
    rows = 28 * (4096 + 2 * 256 + 4096 + 2 * 13696 + 4096) + 65024  # each has a scale
    rest = 4 * (28 * (2 * 4096 + 4096 + 2 * 256) + 4096)  # norms, biases of queries, keys and values
    assert geex2["int8"].read == linears + head + 4 * rows + rest
    assert geex2["int8"].weights - geex2["int8"].read == 2 * head  # the word table is looked up, and FP16
    assert geex2["int4"].read == (linears + head) // 2 + 4 * (linears + head) // 64 + rest
    assert {form.cache for form in geex2.values()} == {2 * 2048 * 28_672}  # FP32
    tied = decoding(run("codegeex", "13b"), FORMS[2])
    assert tied.weights - tied.read == 2 * 2 * 2048 * 5120  # tables of positions; the word table is the output layer
    half, rounded = (decoding(run("qwen2", "0.5b"), form) for form in FORMS[1:3])
    assert half.weights == half.read  # tied, too, but rounded beside the word table, which is then looked up
    assert rounded.weights - rounded.read == 2 * 151936 * 896


def test_rates_are_bandwidth_over_bytes():
    form = decoding(run("codegeex2", "6b"), FORMS[0], 100)
    assert form.rate(1, 1e12) == pytest.approx(1e12 / (form.read + form.cache))
    assert form.rate(8, 1e12) == pytest.approx(8e12 / (form.read + 8 * form.cache))
    assert form.total(8) - form.total(1) == 7 * form.cache


def test_the_command(capsys):
    words = ["plan", "--config", "codegeex_13b", "--inference", "--streams", "16", "--context", "128"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [form["form"] for form in found["forms"]] == ["fp32", "fp16", "int8", "int4"]
    devices = {device["name"]: device for device in found["devices"]}
    assert {"ascend910", "ascend910b", "a100"} < devices.keys()
    int8 = devices["ascend910"]["forms"][2]
    assert int8["fits"] == {"1": True, "16": True} and not devices["ascend910"]["forms"][0]["fits"]["1"]
    form = found["forms"][2]
    assert int8["tokens_per_second"]["16"] == pytest.approx(16 * 1.2e12 / (form["read"] + 16 * form["cache"]))
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "too large" in text and "16 sequences" in text and max(map(len, text.splitlines())) <= 100
    assert main(["plan", "--config", "codegeex2_6b", "--inference", "--context", "64", "--streams", "1"]) == 0
    text = capsys.readouterr().out
    assert "64 tokens in each cache" in text and "fp32, 8" not in text


@pytest.mark.parametrize(
    "words,message",
    [
        (["--context", "5"], "--context: belongs to --inference"),
        (["--streams", "2"], "--streams: belongs to --inference"),
        (["--inference", "--streams", "0"], "--streams: 0 is out of range"),
        (["--inference", "--context", "9000"], "--context: 9000 tokens, the model reads up to 2048"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_of_inference(words, message, capsys):
    assert main(["plan", "--config", "codegeex_13b", *words]) == 2
    assert message in capsys.readouterr().err
