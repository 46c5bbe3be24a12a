"""A model's sizes are all fields of its family's configuration, wherever they are recorded."""

import dataclasses

import pytest
from small_models import FAMILIES, FIELDS, config, parameters, save_run

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.base.reading import read_json
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.sources import open_source
from ms_codegeex.generation.quantised import QuantisedModel, write_quantised
from ms_codegeex.models.decoder_config import NOT_OF_WEIGHTS
from ms_codegeex.runs.weights import weights_of

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


def test_what_a_file_does_not_record_has_the_default_of_its_field(tmp_path):
    """As in directories of other programs, and of versions that did not know it."""
    convert(save_run(tmp_path / "run", "codegen", parameters("codegen")), "hf", tmp_path / "hf")
    recorded = read_json(tmp_path / "hf" / "config.json")
    for key in ("scores_fp32", "initializer_range"):
        del recorded[key]
    write_json(tmp_path / "hf" / "config.json", recorded)
    assert open_source(tmp_path / "hf").fields == FIELDS["codegen"]


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
    convert(save_run(tmp_path / "run", name, parameters(name)), "hf", tmp_path / "hf")
    file = tmp_path / "hf" / "config.json"
    values = read_json(file)
    write_json(file, {wrong if each == key else each: value for each, value in values.items()})
    with pytest.raises(UserError, match=f"config.json: {wrong} is unknown, and {key} is not there"):
        open_source(tmp_path / "hf")
    write_json(file, values | {wrong: 1})  # of another program
    assert open_source(tmp_path / "hf").fields == FIELDS[name]
