"""Exported CodeGeeX directories in transformers, with the classes that we put into them.

What they must do is in `exported_checks.py`: done here with the tests' transformers, and in the slow test with the
oldest version that they support and the newest that there is, each in an environment of its own.
"""

import importlib
import json
import runpy
import subprocess

import mindspore as ms
import numpy as np
import pytest
from conftest import ROOT
from own_environment import VARIABLES, own_environment

from ms_codegeex.cli import main
from ms_codegeex.formats.checkpoint_writing import Slice, write_checkpoint
from ms_codegeex.formats.convert import convert
from ms_codegeex.generation.engine import Generator
from ms_codegeex.generation.sampling import SamplingSettings
from ms_codegeex.models.codegeex.config import build_config

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import exported_checks  # noqa: E402
from twins import codegeex_torch  # noqa: E402
from twins.peers import randomise  # noqa: E402

POSITIONS, COUNT, EOS, PROMPT = 40, 20, 50256, "def first(x):\n        return x"
SIZES = {"vocab_size": 50400, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 48}
CONFIG = build_config("tiny", SIZES | {"max_position_embeddings": POSITIONS})


@pytest.fixture(scope="module")
def twin():
    """With weights by which the next token depends on much, and logits up to 3, which FP32 has to 1e-6."""
    twin = codegeex_torch.CodeGeeX(50400, 32, 2, 4, 48, POSITIONS, reset=False)
    tensors = randomise(twin, seed=3)
    for name, parameter in twin.named_parameters():
        if parameter.ndim == 2:
            factor = 1 / 8 if name.startswith("embedding") else 2
            parameter.data *= factor
            tensors[name] *= factor
    return twin, tensors


@pytest.fixture(scope="module")
def directory(twin, tmp_path_factory):
    """A run's model directory, by way of another one, and what `exported_checks` expects of it."""
    root = tmp_path_factory.mktemp("exported")
    slices = {name: Slice(array.shape, (0,) * array.ndim, array) for name, array in twin[1].items()}
    model = {"family": "codegeex", "preset": None, **vars(CONFIG)}
    write_checkpoint(root / "run" / "checkpoints", 4, slices, {"config": {"model": model}})
    assert convert(root / "run", "hf", root / "first", progress=False)["warnings"] == []
    assert convert(root / "first", "hf", root / "second", progress=False)["warnings"] == []
    ids = np.random.default_rng(1).integers(0, EOS, (2, 24))
    with torch.no_grad():
        logits = twin[0].logits(torch.tensor(ids)).numpy()
    np.savez(root / "second" / "expected.npz", ids=ids, logits=logits)
    before = ms.get_context("mode")
    ms.set_context(mode=ms.GRAPH_MODE)
    generator = Generator(root / "second")
    text = generator.generate(PROMPT, SamplingSettings(max_new_tokens=COUNT, temperature=0))
    ms.set_context(mode=before)
    prompt_ids = [int(number) for number in generator.encode(PROMPT)]
    expected = {"prompt": PROMPT, "prompt_ids": prompt_ids, "text": text, "count": COUNT}
    (root / "second" / "expected.json").write_text(json.dumps(expected))
    return root / "second"


@pytest.fixture(scope="module")
def exported(directory, tmp_path_factory):
    """transformers copies the classes that it imports into a directory of its own."""
    with pytest.MonkeyPatch.context() as patch:
        cache = str(tmp_path_factory.mktemp("modules"))
        patch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", cache)
        patch.syspath_prepend(cache)
        yield exported_checks.Exported(directory)


# PEFT is not among the tests' packages (test_peft.py), and compilation takes seconds: both are checked below
ELSEWHERE = (exported_checks.low_rank_adapters, exported_checks.compiled_whole)


@pytest.mark.parametrize("check", [check for check in exported_checks.CHECKS if check not in ELSEWHERE])
def test_the_classes(check, exported):
    check(exported)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["==4.48.0", "==4.57.1", ">=5,<6"])
def test_other_versions(version, directory, tmp_path):
    """In an environment of its own, in which packages of this one are used where their versions fit."""
    python = own_environment(tmp_path / "venv", f"transformers{version}", "peft")
    environment = VARIABLES | {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [python, exported_checks.__file__, directory], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": ok\n") == len(exported_checks.CHECKS)
    found = done.stdout.split()[1].rstrip(",")
    assert found.startswith("5.") if ">" in version else found == version[2:]


TOKENIZERS = [f"data/tokenizer/exported/tokenization_{name}" for name in ("codegeex", "chatglm")]


@pytest.mark.parametrize("module", ["formats/exported/modeling_codegeex", *TOKENIZERS])
@pytest.mark.parametrize("version", ["4.47.1", "6.0.0.dev0"])
def test_a_version_that_does_not_fit_is_refused(module, version, monkeypatch):
    monkeypatch.setattr(importlib.import_module("transformers"), "__version__", version)  # as the module finds it
    with pytest.raises(ImportError, match=rf"4.48 to 5.x, this is {version}; pip install") as error:
        runpy.run_path(str(ROOT / "ms_codegeex" / f"{module}.py"))
    assert "\n" not in str(error.value)


def test_a_saved_model_is_one_of_ours_again(exported, directory, tmp_path):
    """After a change by other software, such as fine-tuning."""
    for part in (exported.model(), exported.tokenizer()):
        part.save_pretrained(tmp_path / "saved")
    assert main(["inspect", str(tmp_path / "saved")]) == 0
    result = convert(tmp_path / "saved", "hf", tmp_path / "again", progress=False)
    assert result["family"] == "codegeex" and result["warnings"] == []
    theirs, ours = (json.loads((place / "config.json").read_text()) for place in (tmp_path / "again", directory))
    assert ours.items() <= {**theirs, "torch_dtype": "float32"}.items()


def test_an_older_directory_counts_the_blocks_alone(directory, tmp_path):
    """Our own readers, too, take it as it is meant, and the next directory counts the top query layer."""
    (tmp_path / "older").mkdir()
    (tmp_path / "older" / "model.safetensors").write_bytes((directory / "model.safetensors").read_bytes())
    config = json.loads((directory / "config.json").read_text())
    older = {key: value for key, value in config.items() if key != "top_query_layers"} | {"num_hidden_layers": 2}
    (tmp_path / "older" / "config.json").write_text(json.dumps(older))
    convert(tmp_path / "older", "hf", tmp_path / "again", progress=False)
    assert json.loads((tmp_path / "again" / "config.json").read_text()).items() >= config.items()
    assert config["num_hidden_layers"] == 3
