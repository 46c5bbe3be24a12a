"""The engine at every level of CPU that this machine can run, and the message where a level cannot be used."""

from unittest.mock import create_autospec

import pytest
from conftest import command_here

from ms_codegeex.base.errors import UserError
from ms_codegeex.generation.choice import TokenChoice
from ms_codegeex.generation.targets import compiled_library
from ms_codegeex.kernels import compiling, levels

pytest.importorskip("torch")

from twins.tiny_models import Twin, prompt

POSSIBLE = levels.possible_levels()
pytestmark = [
    pytest.mark.usefixtures("graph_mode_throughout"),
    pytest.mark.skipif(not compiling.cxx_compilers(), reason="no C++ compiler"),
]


@pytest.fixture(scope="module")
def twin():
    return Twin("codegeex2")


def continued(engine):
    """A prompt and 12 greedy ids after it."""
    ids = prompt(30, 1)
    for _ in range(12):
        ids.append(engine.next({0: ids}, {0: TokenChoice()})[0].token)
    return ids


@pytest.fixture(scope="module")
def rounded(twin):
    """By the best level, with weights of 4 bits."""
    return continued(twin.engine(bits=4))


@pytest.mark.parametrize("bits", [32, 4])
@pytest.mark.parametrize(  # each other level compiles its operators, ten seconds
    "level", [pytest.param(name, marks=[pytest.mark.slow] * (name != POSSIBLE[0])) for name in POSSIBLE]
)
def test_greedy_ids_are_those_of_every_level(twin, rounded, level, bits):
    engine = twin.engine(bits=bits, cpu_level=level)
    ids = continued(engine)
    if bits == 32:
        assert ids[30:] == twin.logits(ids)[29:-1].argmax(-1).tolist()
    else:
        assert ids == rounded
    assert engine.network.library.path.name.startswith(f"kernels-{level}-")


def test_a_level_that_would_have_no_effect_is_refused():
    with pytest.raises(UserError, match=r"--cpu-level: plain, but MindSpore's own operators compute \(--threads 0"):
        compiled_library(0, "plain")
    assert compiled_library(0) == (None, "")


@pytest.mark.parametrize(
    "words",
    [
        "generate --prompt x --model MODEL",
        "complete x --model MODEL",
        "chat --model MODEL",
        "serve --model MODEL",
        "evaluate perplexity --data docs --output OUT --model MODEL",
    ],
)
def test_a_level_of_another_cpu_is_refused(monkeypatch, tmp_path, words):
    possible = create_autospec(levels.possible_levels, return_value=["avx2", "plain"])
    monkeypatch.setattr(levels, "possible_levels", possible)
    words = words.replace("MODEL", str(tmp_path)).replace("OUT", str(tmp_path / "out")).split()
    result = command_here(*words, "--cpu-level", "vnni")
    expected = "--cpu-level: this CPU cannot run vnni; choose auto or one of avx2, plain"
    assert (result.returncode, result.stderr) == (2, f"ms-codegeex {words[0]}: {expected}\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words", ["complete x", "evaluate humaneval --data docs --output OUT --url http://127.0.0.1:1/v1"]
)
def test_a_level_is_for_a_model_in_this_process(tmp_path, words):
    result = command_here(*words.replace("OUT", str(tmp_path / "out")).split(), "--cpu-level", "plain")
    assert result.returncode == 2 and "--cpu-level: " in result.stderr and "--model" in result.stderr
