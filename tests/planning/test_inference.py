import json

import pytest

from ms_codegeex.cli import main
from ms_codegeex.config import build_run_config
from ms_codegeex.errors import UserError
from ms_codegeex.planning.inference import inference_memory


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
