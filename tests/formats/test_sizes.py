"""A model's sizes are all fields of its family's configuration, wherever they are recorded."""

import dataclasses
import shutil

import numpy as np
import pytest
from conftest import command_here
from safetensors.numpy import load_file, save_file
from small_models import FAMILIES, FIELDS, config, parameters, save_run

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.base.reading import read_json
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.sources import open_source
from ms_codegeex.generation.quantised import QuantisedModel
from ms_codegeex.generation.quantising import write_quantised
from ms_codegeex.models.decoder_config import NOT_OF_WEIGHTS
from ms_codegeex.models.registry import family
from ms_codegeex.runs.rank.weights import weights_of


def exported_as_hf(place, name):
    convert(save_run(place / "run", name, parameters(name)), "hf", place / "hf")
    return place / "hf"


def changed(directory, change):
    """Let `config.json` have these values; None: not the key, "null": no value. Returns what was there."""
    values = read_json(directory / "config.json")
    kept = {key: value for key, value in {**values, **change}.items() if value is not None}
    write_json(directory / "config.json", {key: None if value == "null" else value for key, value in kept.items()})
    return values


CHANGED = {bool: lambda value: not value, float: lambda value: 3 * value, str: lambda value: "fp16"}


def unusual(name):
    """Sizes of which none has the default of its field, but for a number of heads."""
    fields = dataclasses.asdict(config(name))
    defaults = {field.name: field.default for field in dataclasses.fields(config(name))}
    for key, default in defaults.items():
        if type(default) is not int:
            fields[key] = CHANGED[type(default)](default)
    assert not [key for key in fields if fields[key] == defaults[key] and "num_" not in key]
    return fields


@pytest.fixture(params=FAMILIES)
def run(request, tmp_path):
    """Family, sizes and directory of a run of unusual sizes."""
    fields = unusual(request.param)
    return request.param, fields, save_run(tmp_path / "run", request.param, parameters(request.param), **fields)


def test_no_field_of_a_family_is_lost(run, tmp_path):
    _, fields, path = run
    assert open_source(path).fields == fields
    convert(path, "hf", tmp_path / "hf")
    assert open_source(tmp_path / "hf").fields == fields
    write_quantised(open_source(tmp_path / "hf"), 8, 0, tmp_path / "quantised")
    assert QuantisedModel(tmp_path / "quantised").fields == fields


def test_a_run_starts_from_itself_and_from_a_model_that_computes_otherwise(run):
    name, fields, path = run
    section = {"family": name, **fields, "weights": str(path)}
    assert weights_of(build_run_config({"model": section, "training": {"steps": 1}}))
    here = {key: FIELDS[name][key] for key in NOT_OF_WEIGHTS if key in fields}
    config = build_run_config({"model": section | here, "training": {"steps": 1}})
    assert weights_of(config) and {key: getattr(config.model.sizes, key) for key in here} == here


@pytest.mark.parametrize(
    ("name", "missing", "fields"),
    [
        ("codegen", ("scores_fp32", "initializer_range"), {}),
        ("qwen2", ("rope_theta",), {"rotary_base": 10_000}),  # transformers' own
    ],
)
def test_what_a_file_does_not_record_has_the_default_of_its_field(tmp_path, name, missing, fields):
    """As in directories of other programs, and of versions that did not know it."""
    directory = exported_as_hf(tmp_path, name)
    changed(directory, dict.fromkeys(missing))
    assert open_source(directory).fields == FIELDS[name] | fields


@pytest.mark.parametrize("size, near", [("score_fp32", "scores_fp32"), ("wings", None)])
def test_an_unknown_size_in_a_checkpoint_is_refused(tmp_path, size, near):
    path = save_run(tmp_path / "run", "codegen", parameters("codegen"), **{size: 3})
    with pytest.raises(UserError, match=size) as error:
        open_source(path)
    assert "manifest.json" in str(error.value) and (f"nearest is {near}" in str(error.value)) == bool(near)


@pytest.mark.parametrize(
    "name, key, wrong", [("codegeex", "softmax_fp32", "softmax_fp23"), ("codegen", "n_head", "n_heads")]
)
def test_a_misspelt_key_of_a_model_directory_is_refused(tmp_path, name, key, wrong):
    directory = exported_as_hf(tmp_path, name)
    value = changed(directory, {key: None, wrong: 1})[key]
    with pytest.raises(UserError, match=f"config.json: {wrong} is unknown, and {key} is not there"):
        open_source(directory)
    changed(directory, {key: value})  # the other key is of another program
    assert open_source(directory).fields == FIELDS[name]


def random_parameters(sizes):
    random = np.random.default_rng(0)
    return {name: random.standard_normal(shape, np.float32) for name, shape in sizes.parameter_shapes().items()}


AGES = {  # changes to CodeGen's config.json as other versions and tools write it, None: the key is missing
    "null": {"n_inner": "null", "scores_fp32": "null", "initializer_range": "null", "tie_word_embeddings": "null"},
    "missing": dict.fromkeys(("tie_word_embeddings", "scale_attn_weights", "activation_function", "scores_fp32")),
    "names of PretrainedConfig": {
        **{"n_embd": None, "n_layer": None, "n_head": None, "n_positions": None},
        **{"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 16, "max_position_embeddings": 16},
    },
    "n_ctx": {"n_positions": None, "n_ctx": 16},
    "end tokens": {"eos_token_id": [5, 7]},
    "dtype": {"torch_dtype": None, "dtype": "float16"},
    "rope_parameters": {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}},
    "left by training, no tensor is quantised": {"quantization_config": {"quant_method": "gptq"}},
    "a synonym": {"activation_function": "gelu_pytorch_tanh"},
    "harmless": {"use_cache": False, "rope_theta": 1e4, "rope_scaling": "null", "task_specific_params": {}},
    "of others": {"pad_token_id": 5},
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A CodeGen directory in which four times the hidden size is the width of the feed-forward, and its sizes."""
    path, fields = tmp_path_factory.mktemp("exported"), {"intermediate_size": 256, "init_std": 0.02}
    sizes = family("codegen").config.build_config(None, FIELDS["codegen"] | fields)
    convert(save_run(path / "run", "codegen", random_parameters(sizes), **fields), "hf", path / "hf")
    return path / "hf", dataclasses.asdict(sizes)


@pytest.mark.parametrize("age", AGES)
def test_configurations_of_every_age(exported, tmp_path, age):
    directory, fields = exported
    changed(shutil.copytree(directory, tmp_path / "hf"), AGES[age])
    assert open_source(tmp_path / "hf").fields == fields


REFUSED = [
    ({"n_head": None}, "n_head is None, expected a positive whole number; write it there"),
    ({"rotary_dim": None, "n_embd": 1024, "n_layer": 20, "n_inner": None}, "rotary_dim is None.*such as 32 of 350m-nl"),
    ({"rope_theta": 1e6}, "rope_theta is 1000000.0, expected 10000; give a model"),
    ({"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}, "rope_theta of rope_parameters is 1000000.0"),
    ({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, "rope_theta of rope_parameters is 1000000.0"),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "type of rope_scaling is 'linear', expected 'default'"),
    ({"model_type": None}, "is None, expected one of codegeex, codegen, gptj, chatglm, qwen2; write it there"),
]


@pytest.mark.parametrize("change, message", REFUSED)
def test_what_a_configuration_lacks_is_named_with_a_remedy(exported, tmp_path, change, message):
    changed(shutil.copytree(exported[0], tmp_path / "hf"), change)
    with pytest.raises(UserError, match=message):
        open_source(tmp_path / "hf")


def test_numbers_that_are_not_finite_are_copied_on_demand_alone(exported, tmp_path):
    shutil.copytree(exported[0], tmp_path / "model", ignore=shutil.ignore_patterns("provenance.json"))
    tensors = load_file(tmp_path / "model/model.safetensors")
    name = "transformer.h.1.mlp.fc_in.bias"
    tensors[name][3] = np.inf
    save_file(tensors, tmp_path / "model/model.safetensors", {"format": "pt"})
    for to in ("hf", "megatron"):
        with pytest.raises(UserError, match=r"tensor blocks\.1\S+bias holds numbers that are not finite; .*--allow"):
            convert(tmp_path / "model", to, tmp_path / to)
    convert(tmp_path / "model", "hf", tmp_path / "copy", non_finite=True)
    assert np.isinf(load_file(tmp_path / "copy/model.safetensors")[name][3])


@pytest.mark.parametrize("stated", [2, None, [2, 7], 9])
def test_the_tokenizer_says_which_token_ends_an_answer(exported, tmp_path, capsys, stated):
    """Whatever the configuration says; what is written from it agrees, also generation_config.json."""
    size = {"vocab_size": 50400, "intermediate_size": 256, "init_std": 0.02}
    sizes = family("codegen").config.build_config(None, FIELDS["codegen"] | size)
    convert(save_run(tmp_path / "run", "codegen", random_parameters(sizes), **size), "hf", tmp_path / "hf")
    (tmp_path / "hf/provenance.json").unlink()
    load_tokenizer("codegen-mono").save(tmp_path / "hf")
    changed(tmp_path / "hf", {"eos_token_id": stated or "null"})
    write_json(tmp_path / "hf/generation_config.json", {"eos_token_id": stated, "bos_token_id": 1})
    source = open_source(tmp_path / "hf")
    assert source.fields["eos_token_id"] == 50256
    assert ("answers end with the tokenizer's, 50256" in capsys.readouterr().err) == (stated == [2, 7])
    convert(source, "hf", tmp_path / "again")
    assert read_json(tmp_path / "again/config.json")["eos_token_id"] == 50256
    assert read_json(tmp_path / "again/generation_config.json")["eos_token_id"] == (stated and 50256)
    write_quantised(open_source(tmp_path / "again"), 8, 0, tmp_path / "q8")
    assert load_tokenizer(tmp_path / "q8").eos_id == 50256


def test_what_is_refused_as_a_tokenizer_leaves_no_directory(exported, tmp_path):
    shutil.copytree(exported[0], tmp_path / "hf")
    write_json(tmp_path / "hf/tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer"})
    source = open_source(tmp_path / "hf")
    for write in (lambda out: write_quantised(source, 8, 0, out), lambda out: convert(source, "hf", out)):
        with pytest.raises(UserError, match="LlamaTokenizer"):
            write(tmp_path / "out")
        assert not (tmp_path / "out").exists()
    arguments = ("--model", tmp_path / "hf", "--to", "hf", "--output", tmp_path / "out")
    assert command_here("convert", *arguments, "--tokenizer", "codegen-nl", "--json").returncode == 0  # the remedy
    assert load_tokenizer(tmp_path / "out").name == "codegen-nl"
