"""Configurations that come with the package are found by name, from any directory."""

import json

import pytest
import yaml
from conftest import ROOT, command

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.shipped import find_config, shipped_directory, shipped_names
from ms_codegeex.config.loading import load_config


def test_the_package_has_every_file_of_the_repositorys_configs():
    """`ms_codegeex/configs` is a link to `configs/`."""
    for path in (ROOT / "configs").rglob("*.*"):
        assert (shipped_directory() / path.relative_to(ROOT / "configs")).read_bytes() == path.read_bytes()
    assert {"codegeex_tiny", "codegeex_2.6b_8", "codegeex2_6b"} <= set(shipped_names())
    assert "codegeex_humaneval_x" in shipped_names("evaluation") and "tiny_base" in shipped_names("mindformers")


def test_every_table_is_yaml_without_libyaml_too():
    """Which reads a little more. Where PyYAML was built without it, its own parser does the work."""
    tables = [path for path in (ROOT / "ms_codegeex").rglob("*.yaml")]
    assert len(tables) > 20
    for path in tables:
        for _ in yaml.parse(path.read_bytes(), yaml.SafeLoader):
            pass


def test_a_name_is_the_file_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # the second has a chain of bases, the third is a recipe
    for name, group in (("codegeex_2.6b_8", ""), ("codegeex_13b_64_planned", ""), ("codegeex_13b_910b_64", "recipes")):
        assert load_config(name) == load_config(ROOT / "configs" / group / f"{name}.yaml")
    assert not {*shipped_names()} & {*shipped_names("recipes")}


def test_a_file_goes_before_a_name_and_a_directory_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "codegeex_tiny").mkdir()
    assert find_config("codegeex_tiny").parent == shipped_directory()
    (tmp_path / "codegen_tiny").touch()
    assert str(find_config("codegen_tiny")) == "codegen_tiny"


@pytest.mark.parametrize(
    "name, group, option, words",
    [
        ("codegex_tiny", "", "--config", "codegex_tiny is neither a file nor a shipped name; did you mean 'codegeex_"),
        ("configs/codegeex_tiny.yaml", "", "--config", "did you mean 'codegeex_tiny'? shipped: codegeex2_6b, "),
        ("recipes/codegen_2b_910b_16", "", "--config", "did you mean 'codegen_2b_910b_16'? shipped: codegeex2_6b, "),
        ("qqq", "evaluation", "--recipe", "--recipe: qqq is neither a file nor a shipped name; shipped: bigcode_h"),
        ("../configs/codegeex_tiny", "", "--config", "did you mean 'codegeex_tiny'?"),
        ("x" * 300, "", "--config", "not readable"),
        ("codegeex_humaneval_x", "mindformers", "--config", "shipped: codegeex2_tiny, codegeex_tiny, codegen_tiny"),
    ],
)
def test_an_unknown_name_is_an_error_that_lists_what_there_is(tmp_path, monkeypatch, name, group, option, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        find_config(name, group, option)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_user_outside_the_checkout_plans_by_name(tmp_path):
    result = command("plan", "--config", "codegeex_13b_64", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["mesh"]["tensor"] == 8
    assert command("plan", "--config", "codegeex_13b_65", cwd=tmp_path).returncode == 2
