"""YAML with what takes long, grows without end or means two things."""

import os

import pytest
import yaml

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.json_reading import MAX_NESTING, MalformedText
from ms_codegeex.base.shipped import shipped_directory
from ms_codegeex.base.yaml_reading import parse_yaml, read_yaml_file
from ms_codegeex.config.loading import load_config
from ms_codegeex.config.values import parse_overrides, read_yaml

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
MERGES = "a0: &a0 {k: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 40))
BAD = {
    "flow": ("[" * 100_000, "nested deeper than 100 levels"),
    "closed flow": ("[" * 50_000 + "]" * 50_000, "nested deeper than 100 levels"),
    "mappings": ("{a: " * 30_000, "nested deeper than 100 levels"),
    "block": ("".join(" " * n + "a:\n" for n in range(1_000)), "nested deeper than 100 levels"),
    "compact block": ("- " * 30_000 + "x", "nested deeper than 100 levels"),
    "keys": ("? " * 30_000 + "x", "nested deeper than 100 levels"),
    "aliases": (LAUGHS, "more than 20,000 values"),
    "merges": (MERGES, "more than 20,000 values"),
    "itself": ("a: &a [*a]", "more than 20,000 values"),
    "many": ("[" + "x," * 200_000 + "]", "more than 20,000 values"),
    "large": ("#" * (2 << 20), "larger than 1,048,576 bytes"),
    "twice": ("training:\n  steps: 1\ntraining:\n  seed: 3\n", "key 'training' occurs twice"),
    "digits": ("a: " + "1" * 5001, "a number of more than 100 digits"),
    "hexadecimal": ("a: !!int 0x" + "f" * 5001, "a number of more than 100 digits"),
    "base 60": ("a: !!int 1" + ":59" * 100_000, "a number of more than 100 digits"),
    "base 60 float": ("a: !!float 1" + ":59" * 100_000 + ".5", "a number of more than 100 digits"),
    "object": ("!!python/object/apply:os.system [true]", "could not determine a constructor"),
    "bool": ("!!bool x", "unknown place"),
    "int": ("!!int ''", "unknown place"),
    "time": ("!!timestamp x", "unknown place"),
    "date": ("a: !!timestamp 2024-02-31", "day is out of range"),
    "list as key": ("{[a]: b}", "unhashable key"),
    "two documents": ("a: 1\n---\nb: 2\n", "line"),
    "nul": ('base: "a\\0b.yaml"', "a NUL character"),
    "characters": ("a: \x01", "control characters are not allowed|special characters are not allowed"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused_at_once(tmp_path, name):
    text, message = BAD[name]
    with pytest.raises(MalformedText, match=message):
        parse_yaml(text)
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(UserError, match=r"run\.yaml: "):
        load_config(tmp_path / "run.yaml")


def test_what_is_read_is_what_pyyaml_reads():
    depth = "[" * MAX_NESTING + "]" * MAX_NESTING
    texts = [depth, "", "a: &x {b: 1}\nc: *x\nd: {<<: *x, b: 2}"]
    texts.append("[15, -7, 1.5, -0.5, 1.5e+3, .inf, ~, True, '1', 1e4]")
    texts += [path.read_text() for path in shipped_directory().rglob("*.yaml") if path.parent.name != "jobs"]
    assert len(texts) > 20
    for text in texts:
        assert parse_yaml(text) == parse_yaml(text.encode()) == yaml.safe_load(text)


def test_what_yaml_1_1_would_turn_into_something_else_stays_text():
    words = "012 0x1f 1_000 +5 1:30 1:30.5 2024-02-29 yes No on off y 1e4 1.5e4 -.5 nUll tRue . - ="
    assert parse_yaml(f"[{words.replace(' ', ', ')}]") == words.split()


def test_a_tab_is_named():
    with pytest.raises(MalformedText, match=r"at line 2 .*with spaces, not with tabs"):
        parse_yaml("a:\n\tb: 1\n")


def test_other_encodings_are_refused():
    with pytest.raises(MalformedText, match="not UTF-8 at byte 3"):
        parse_yaml(b"a: \xff")


def test_a_base_is_a_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    for base in ("/dev/zero", "pipe.yaml", "folder.yaml", "loop.yaml", "/proc/self/mem", "nowhere.yaml"):
        (tmp_path / "run.yaml").write_text(f"base: {base}\n")
        with pytest.raises(UserError, match=f"{base}: "):
            read_yaml(tmp_path / "run.yaml")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match="is a device"):
        read_yaml_file("/dev/zero", pipe=True)
    with pytest.raises(FileNotFoundError):
        read_yaml_file(tmp_path / "nothing")


@pytest.mark.parametrize("value", ["[" * 100_000, "1" * 5001, "!!bool x", "{a: 1, a: 2}", "!!timestamp 2024-02-31"])
def test_overrides_have_the_same_limits(value):
    with pytest.raises(UserError, match=r"training\.steps: found .*, which is not a YAML value"):
        parse_overrides([f"training.steps={value}"])
