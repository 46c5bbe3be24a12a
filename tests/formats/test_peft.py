"""Adapters that we train, loaded by PEFT into transformers' model, and adapters of other programs."""

import dataclasses
import math

import numpy as np
import pytest
import small_models

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.base.mesh import Mesh
from ms_codegeex.base.reading import read_json
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.formats.adapters import as_trained, merged
from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.layout import to_foreign
from ms_codegeex.formats.peft import _of_modules, adapters_inputs, open_adapters, summary
from ms_codegeex.formats.peft_writing import write_peft
from ms_codegeex.formats.safetensors_file import SafetensorsFile, write_safetensors
from ms_codegeex.formats.sources import open_source
from ms_codegeex.formats.tensors import from_array
from ms_codegeex.models.registry import family
from ms_codegeex.runs.rank.weights import weights_of
from ms_codegeex.runs.resharding import open_contents, rank_slices

RANK, ALPHA = 2, 6.0
HIDDEN, BLOCK = small_models.FIELDS["codegen"]["hidden_size"], "transformer.h.0"
FACTORS = {  # A and B of rank 2
    f"transformer.h.{block}.attn.{kind}": (
        np.random.default_rng(block).standard_normal((2, HIDDEN)).astype(np.float32),
        np.random.default_rng(9).standard_normal((rows * HIDDEN, 2)).astype(np.float32),
    )
    for block in (0, 1)
    for kind, rows in (("qkv_proj", 3), ("out_proj", 1))
}


@pytest.fixture(params=[*small_models.FAMILIES, "codegen untied"])
def tuned(request, tmp_path):
    """The family, a model directory, and a run with adapters on it; "untied": one of an earlier version."""
    name, *untied = request.param.split()
    small_models.save_run(tmp_path / "run", name, small_models.parameters(name))
    convert(tmp_path / "run", "hf", tmp_path / "base", progress=False)
    small_models.save_adapters(tmp_path / "tuned", name, tmp_path / "base", RANK, ALPHA, untied=bool(untied))
    return name, tmp_path / "base", tmp_path / "tuned"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model directory."""
    root = tmp_path_factory.mktemp("base")
    run = small_models.save_run(root / "run", "codegen", small_models.parameters("codegen"))
    convert(run, "hf", root / "base", progress=False)
    return root / "base"


@pytest.fixture(scope="module")
def plain(base):
    return open_source(base)


def written(run, path):
    """The tensors and the settings of a run's adapters in PEFT's layout."""
    write_peft(open_source(run), path)
    return SafetensorsFile(path / "adapter_model.safetensors").tensors, read_json(path / "adapter_config.json")


@pytest.mark.parametrize("name", small_models.FAMILIES)
def test_layers_share_a_factor_where_the_files_fuse_them(name):
    entries = small_models.formats(name).layout("huggingface").entries
    layers = [[each.removesuffix(".weight") for each in entry.ours] for entry in entries if len(entry.ours) > 1]
    fused = {tuple(each.removeprefix("blocks.{i}.") for each in names) for names in layers if "bias" not in names[0]}
    assert {tuple(sorted(names)) for names in family(name).table.fused} == {tuple(sorted(names)) for names in fused}


@pytest.mark.parametrize("tuned", ["codegen", "codegen untied"], indirect=True)
def test_fused_layers_have_the_rank_of_the_others(tuned, tmp_path):
    """Unless each of them has a factor A."""
    _, _, run = tuned
    tensors, config = written(run, tmp_path / "adapter")
    untied = "blocks.0.attention.key.lora_a" in open_source(run).checkpoint.names
    ranks = {len(tensor.float32()) for name, tensor in tensors.items() if "lora_A" in name}
    assert (ranks, config["rank_pattern"]) == (({2, 6}, {"qkv_proj": 6}) if untied else ({2}, {}))


def test_the_product_of_the_factors_is_the_difference_of_the_weights(tuned, tmp_path):
    """In the Hugging Face layout, whatever is fused there."""
    _, base, run = tuned
    convert(run, "hf", tmp_path / "merged", progress=False)
    tensors, config = written(run, tmp_path / "adapter")
    before, after = (SafetensorsFile(place / "model.safetensors").tensors for place in (base, tmp_path / "merged"))
    for name in before:
        difference = after[name].array().astype(np.float64) - before[name].array()
        module, expected = name.removesuffix(".weight"), np.zeros(difference.shape)
        a, b = (tensors.get(f"base_model.model.{module}.lora_{kind}.weight") for kind in "AB")
        if a is not None and name.endswith(".weight"):
            a, b = (each.array().astype(np.float64) for each in (a, b))
            kind = module.rpartition(".")[2]
            rank, alpha = config["rank_pattern"].get(kind, RANK), config["alpha_pattern"].get(kind, ALPHA)
            assert len(a) == rank and alpha / rank == ALPHA / RANK and kind in config["target_modules"]
            expected = alpha / rank * b @ a
            assert np.abs(expected).max() > 0
        np.testing.assert_allclose(difference, expected, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("tuned", ["codegen", "codegeex"], indirect=True)  # transformers has no class for the third
def test_peft_gives_the_logits_of_the_merged_model(tuned, tmp_path, monkeypatch):
    _, base, run = tuned
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    convert(run, "hf", tmp_path / "merged", progress=False)
    write_peft(open_source(run), tmp_path / "adapter")
    ids = torch.tensor([[1, 2, 3, 4, 7, 9, 11]])
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")

    def load(directory):
        return transformers.AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True).eval()

    merged = load(tmp_path / "merged")
    adapted = peft.PeftModel.from_pretrained(load(base), tmp_path / "adapter").eval()
    with torch.no_grad():
        expected, found = merged(ids).logits, adapted(ids).logits
        plain = load(base)(ids).logits
    assert (expected - plain).abs().max() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_what_is_written_is_read_back(tuned, tmp_path):
    _, base, run = tuned
    model = open_source(base)
    expected = open_adapters(run, model)
    write_peft(open_source(run), tmp_path / "adapter")
    found = open_adapters(tmp_path / "adapter", model)
    assert (found.rank, found.alpha, found.targets) == (RANK, ALPHA, expected.targets)
    assert found.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        np.testing.assert_array_equal(found.tensors[name].float32(), tensor.float32(), err_msg=name)


def factors(module, a, b):
    return {f"{module}.lora_A": a, f"{module}.lora_B": b}


def write_foreign(path, arrays, name="adapter_model.safetensors", infix="", **config):
    """Adapters as other programs write them."""
    path.mkdir(parents=True)
    arrays = {f"base_model.model.{key}{infix}.weight": each.astype(np.float32) for key, each in arrays.items()}
    if name.endswith(".bin"):
        torch = pytest.importorskip("torch")
        torch.save({key: torch.from_numpy(each) for key, each in arrays.items()}, path / name)
    else:
        write_safetensors(path / name, {key: from_array(each) for key, each in arrays.items()})
    write_json(path / "adapter_config.json", {"peft_type": "LORA", "r": 2, "lora_alpha": 2, **config})
    return path


def test_what_another_program_wrote_is_read(base, plain, tmp_path):
    """One A for a module that is three layers of ours, and patterns of rank and alpha."""
    model, rng, hidden = plain, np.random.default_rng(2), HIDDEN
    drawn = {
        "qkv_proj": (rng.standard_normal((3, hidden)), rng.standard_normal((3 * hidden, 3))),
        "out_proj": (rng.standard_normal((4, hidden)), rng.standard_normal((hidden, 4))),
    }
    arrays = {key: each for name, pair in drawn.items() for key, each in factors(f"{BLOCK}.attn.{name}", *pair).items()}
    settings = {"r": 3, "lora_alpha": 6, "rank_pattern": {"out_proj": 4}, "use_rslora": True}
    place = write_foreign(tmp_path / "adapter", arrays, **settings)
    combined = dataclasses.replace(model, tensors=merged(model.tensors, open_adapters(place, model), "it"))
    convert(combined, "hf", tmp_path / "merged", progress=False)
    before, after = (SafetensorsFile(place / "model.safetensors").tensors for place in (base, tmp_path / "merged"))
    for module, scale in (("qkv_proj", 6 / math.sqrt(3)), ("out_proj", 6 / 2)):
        name, (a, b) = f"{BLOCK}.attn.{module}.weight", drawn[module]
        expected = before[name].array() + scale * b @ a
        np.testing.assert_allclose(after[name].array(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("part", ["query", "key"])
def test_adapters_of_the_form_for_other_engines(plain, tmp_path, part):
    """GPT-J has three matrices in place of the fused one."""
    a, b = FACTORS[f"{BLOCK}.attn.out_proj"]
    arrays = factors(f"{BLOCK}.attn.{part[0]}_proj", a, b)
    adapters = open_adapters(write_foreign(tmp_path / "a", arrays, lora_alpha=4), plain)
    name = f"blocks.0.attention.{part}.weight"
    after = merged(plain.tensors, adapters, "it")[name].float32()
    np.testing.assert_allclose(after, plain.tensors[name].float32() + 2 * b @ a, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tuned", ["codegen untied"], indirect=True)
def test_adapters_of_earlier_versions_are_not_trained_further(tuned, tmp_path):
    _, base, run = tuned
    write_peft(open_source(run), tmp_path / "adapter")
    for place in (run, tmp_path / "adapter"):
        adapters = open_adapters(place, open_source(base))
        with pytest.raises(UserError, match=r"attention.\w+ has a factor A of its own, .*`ms-codegeex adapter merge`"):
            as_trained(adapters, family("codegen").table, str(place))
    with pytest.raises(UserError, match="has a factor A of its own"):
        list(rank_slices(open_contents(run), Mesh()))


@pytest.mark.parametrize("ranks", [(2, 4), (2,)], ids=["another rank", "one block"])
def test_adapters_that_a_run_cannot_have_are_named(base, tmp_path, ranks):
    arrays = {}
    for block, rank in enumerate(ranks):
        pair = np.ones((rank, HIDDEN)), np.ones((HIDDEN, rank))
        arrays |= factors(f"transformer.h.{block}.attn.out_proj", *pair)
    patterns = {"rank_pattern": {r"h\.1\.attn\.out_proj": 4}, "alpha_pattern": {r"h\.1\..*": 4}}
    write_foreign(tmp_path / "adapter", arrays, **patterns)
    model = {"family": "codegen", "weights": str(base), **small_models.FIELDS["codegen"]}
    lora = {"rank": 2, "alpha": 2, "targets": ["attention.output"], "weights": str(tmp_path / "adapter")}
    config = build_run_config({"training": {"steps": 1}, "model": model, "lora": lora})
    with pytest.raises(UserError, match="has other ranks than 2 too, or not the layers of every block"):
        weights_of(config)


OUT = (f"{BLOCK}.attn.out_proj", 2, HIDDEN)


@pytest.mark.parametrize(
    ("shape", "config", "message"),
    [
        (OUT, {"lora_bias": True}, "lora_bias is True, and only False can be read; merge"),
        (OUT, {"init_lora_weights": "pissa"}, "init_lora_weights is pissa, which may have"),
        (OUT, {"use_dora": True}, "use_dora is True, and only False can be read; merge"),
        (OUT, {"peft_type": "IA3"}, "expected peft_type LORA"),
        (OUT, {"target_modules": ["out_proj", "fc_in"]}, r"no factors of .*h\.0\.mlp\.fc_in"),
        (OUT, {"target_modules": "all-linear"}, r"no factors of .*h\.1\.attn\.out_proj, which"),
        ((f"{BLOCK}.attn.nothing", 2, 64), {}, "is not a factor of an adapter of .*base; give their model"),
        ((f"{BLOCK}.attn.v", 2, 64), {"target_modules": ["v", "out_proj"]}, "is not a factor of .*; give their model"),
        (None, {}, "holds no tensors: it was saved while its weights were on several devices; set stage3_gather"),
        ((f"{BLOCK}.attn.out_proj", 0, 64), {}, "holds 2 empty tensors, such as .*: it was saved while"),
        ((f"{BLOCK}.attn.out_proj", 2, 999), {}, r"is \[999, 2\] x \[2, 999\], but that matrix of .* is \[\d+, \d+\]"),
        (OUT, {"rank_pattern": {"out_proj": 4}}, "out_proj has rank 2, but adapter_config.json says 4"),
        (OUT, {"alpha_pattern": {"(?=out)out_proj": 4}}, "is not a regular expression without look-around"),
        (OUT, {"alpha_pattern": {f"x{number}": 4 for number in range(99)}}, "has 99 keys for"),
    ],
)
def test_adapters_that_do_not_fit_are_one_line(plain, tmp_path, shape, config, message):
    name, rank, size = shape or ("", 0, 0)
    arrays = factors(name, np.ones((rank, size)), np.ones((size, rank))) if shape else {}
    place = write_foreign(tmp_path / "adapter", arrays, **config)
    with pytest.raises(UserError, match=message) as error:
        open_adapters(place, plain)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("r", value) for value in (None, 0, 2.5, True, math.inf, "2")),
        *(("lora_alpha", value) for value in (None, 0, math.inf, math.nan, "2", 5e-324, 10**99)),
        *(("rank_pattern", value) for value in (5, {"out_proj": 2.5}, {"out_proj": 0})),
        *(("alpha_pattern", value) for value in (5, {"out_proj": math.inf}, {"out_proj": 10**99}, {"out_proj": 1e-60})),
        *(("lora_dropout", value) for value in ("x", [1], 1, -0.5, math.nan, True)),
        *(("target_modules", value) for value in (5, ["a", 1], {"a": "b"})),
    ],
    ids=lambda value: str(value)[:20],
)
def test_settings_that_no_adapter_has_are_named(plain, tmp_path, key, value):
    arrays = factors(f"{BLOCK}.attn.out_proj", np.ones((2, HIDDEN)), np.ones((HIDDEN, 2)))
    place = write_foreign(tmp_path / "adapter", arrays, **{key: value})
    with pytest.raises(UserError, match=rf"adapter_config\.json: {key}") as error:
        open_adapters(place, plain)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500 + len(str(place))


@pytest.mark.parametrize("axes", [(), (4,), (1, 1, 1)])
def test_factors_that_are_no_matrices_are_named(plain, tmp_path, axes):
    arrays = factors(f"{BLOCK}.attn.out_proj", np.ones(axes), np.ones(axes))
    with pytest.raises(UserError, match=r"the adapter of .*out_proj is"):
        open_adapters(write_foreign(tmp_path / "adapter", arrays), plain)


@pytest.mark.parametrize(
    ("targets", "listed"),
    [("all-linear", ["all-linear"]), (["b", "a"], ["a", "b"]), (None, []), ([], [])],
    ids=str,
)
def test_a_summary_lists_the_targets(tmp_path, targets, listed):
    place = write_foreign(tmp_path / "adapter", {"x.lora_A": np.ones((2, 3))}, target_modules=targets)
    row = summary(place)
    assert (row["modules"], row["rank"], row["alpha"], row["parameters"]) == (listed, 2, 2, 6)


@pytest.mark.parametrize("key", ["r", "target_modules"])
def test_a_summary_of_wrong_settings_is_a_user_error(tmp_path, key):
    place = write_foreign(tmp_path / "adapter", {"x.lora_A": np.ones((2, 3))}, **{key: 2.5})
    with pytest.raises(UserError, match=rf"adapter_config\.json: {key}: found 2\.5"):
        summary(place)


@pytest.mark.parametrize("tuned", ["codegen"], indirect=True)
def test_adapters_of_another_model_are_named(tuned, tmp_path):
    _, base, run = tuned
    write_peft(open_source(run), tmp_path / "adapter")
    other = small_models.save_run(tmp_path / "other", "codegen", small_models.parameters("codegen", seed=9))
    for place in (run, tmp_path / "adapter"):
        with pytest.raises(UserError, match=rf"{place}.*: adapters of another model than .*; give theirs, which was"):
            open_adapters(place, open_source(other))
    with pytest.raises(UserError, match="holds adapters itself; give the model that they are for"):
        open_adapters(run, open_source(run))
    with pytest.raises(UserError, match="nowhere: no such directory"):
        open_adapters(tmp_path / "nowhere", open_source(base))
    for call in (open_adapters, lambda path, model: write_peft(model, tmp_path / "a")):
        with pytest.raises(UserError, match="holds no adapters; give a run that trained some"):
            call(other, open_source(base))


def as_foreign(model, tensors):
    small = small_models.formats("codegen")
    return to_foreign(small.entries(small.layout("huggingface"), model.config), tensors)


def scales(base, place):
    """What the difference of each adapted matrix is of B A, one number for each module."""
    model = open_source(base)
    after = as_foreign(model, merged(model.tensors, open_adapters(place, model), "it"))
    before, found = SafetensorsFile(base / "model.safetensors").tensors, {}
    for name, tensor in before.items():
        change = after[name].float32() - tensor.float32()
        if name.endswith("proj.weight") and change.any():
            module = name.removesuffix(".weight")
            found[module.removeprefix("transformer.h.")] = change / (FACTORS[module][1] @ FACTORS[module][0])
    return {module: round(float(np.median(each)), 2) for module, each in found.items()}


PATTERNS = [  # settings, and the scales that PEFT 0.21 gives blocks 0 and 1: of qkv_proj, of out_proj
    ({}, (2, 2), (2, 2)),
    ({"alpha_pattern": {"attn.qkv_proj": 64, "proj": 8}}, (32, 32), (2, 2)),
    ({"alpha_pattern": {r"h\.[0-1]\.attn\.qkv_proj": 64}}, (32, 32), (2, 2)),
    ({"alpha_pattern": {r"^transformer\.h\.0\.attn\.qkv_proj": 64, ".*proj": 8}}, (32, 4), (4, 4)),
    ({"alpha_pattern": {".*proj": 8, "qkv_proj": 64}}, (4, 4), (4, 4)),
    ({"alpha_pattern": {"(qkv|out)_proj": 8}}, (4, 4), (4, 4)),
    ({"r": 8, "rank_pattern": {".*_proj": 2}}, (2, 2), (2, 2)),
    ({"r": 8, "rank_pattern": {".*_proj": 2}, "use_rslora": True}, (2.83, 2.83), (2.83, 2.83)),
    ({"fan_in_fan_out": True, "exclude_modules": ["x"], "layers_to_transform": [0, 1]}, (2, 2), (2, 2)),
]


def write_factors(path, config, **how):
    arrays = {key: each for module, pair in FACTORS.items() for key, each in factors(module, *pair).items()}
    return write_foreign(path, arrays, **{"lora_alpha": 4, **config}, **how)


@pytest.mark.parametrize(("config", "query", "output"), PATTERNS)
def test_keys_of_patterns_are_expressions(base, tmp_path, config, query, output):
    expected = {f"{i}.attn.qkv_proj": scale for i, scale in enumerate(query)}
    expected |= {f"{i}.attn.out_proj": scale for i, scale in enumerate(output)}
    assert scales(base, write_factors(tmp_path / "a", config)) == expected
    matching = pytest.importorskip("peft.utils.other")
    names = [name.removesuffix(".weight") for name in SafetensorsFile(base / "model.safetensors").tensors]
    for key in ("alpha_pattern", "rank_pattern"):
        patterns = config.get(key, {})
        theirs = {name: matching.get_pattern_key(patterns, name) for name in names}
        ours = _of_modules(patterns, names, "")
        assert ours == {name: patterns[pattern] for name, pattern in theirs.items() if pattern in patterns}


@pytest.mark.parametrize("infix", ["", ".default"])
def test_pickled_adapters_are_read(base, tmp_path, capfd, infix):
    """Also from the folder in which a Trainer has checkpoints, and the result next to them."""
    place = write_factors(tmp_path / "run/checkpoint-20", {}, name="adapter_model.bin", infix=infix)
    assert {*scales(base, place).values(), *scales(base, place.parent).values()} == {2}
    assert capfd.readouterr().err.count("run: the adapters are in checkpoint-20") == 1
    write_factors(tmp_path / "run/final", {}, name="adapter_model.bin", infix=infix)
    assert {*scales(base, place.parent).values()} == {2}
    assert "run: the adapters are in final; passed over: checkpoint-20" in capfd.readouterr().err
    assert [*adapters_inputs(place).files] == ["adapter_config.json", "adapter_model.bin"]
    assert summary(place)["rank"] == 2


def test_an_expression_takes_linear_time():
    assert _of_modules({"(a+)+$": 1}, ["a" * 200 + "b"], "") == {}


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({}, None),
        ({"lm_head.base_layer.weight": 1, "transformer.wte.weight": 1}, None),
        ({"transformer.wte.weight": 2}, "is not the tensor of .*; merge the adapters with PEFT"),
        ({"transformer.h.0.attn.out_proj.lora_magnitude_vector": 1}, "is not a factor of LoRA.*; merge the adapters"),
        ({"transformer.wte.lora_embedding_A": 1}, "is not a factor of LoRA.*; merge the adapters"),
    ],
)
def test_an_adapter_of_the_head_and_what_is_saved_along(plain, tmp_path, saved, message):
    """PEFT saves tables along, which must be the model's own."""
    own = as_foreign(plain, plain.tensors)
    vocab, hidden = own["lm_head.weight"].shape
    arrays = {"lm_head.lora_A.weight": np.ones((2, hidden)), "lm_head.lora_B.weight": np.ones((vocab, 2))}
    for name, factor in saved.items():
        copied = own.get(name.replace(".base_layer", ""), from_array(np.ones(3, np.float32)))
        arrays[name] = factor * copied.float32()
    place = write_foreign(tmp_path / "a", {})
    tensors = {f"base_model.model.{name}": from_array(each.astype(np.float32)) for name, each in arrays.items()}
    write_safetensors(place / "adapter_model.safetensors", tensors)
    if message is None:
        after = merged(plain.tensors, open_adapters(place, plain), "it")
        expected = plain.tensors["head.weight"].float32() + 2
        np.testing.assert_allclose(after["head.weight"].float32(), expected, atol=1e-5)
        return
    with pytest.raises(UserError, match=message):
        open_adapters(place, plain)


def test_a_setting_that_is_not_known_is_named(base, tmp_path, capfd):
    scales(base, write_factors(tmp_path / "a", {"use_sorcery": True, "nothing": None}))
    assert "not known here, so not used: use_sorcery" in capfd.readouterr().err
