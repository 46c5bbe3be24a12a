"""`ms-codegeex adapter`: adapters of every family, merged into their model and taken out again."""

import json

import mindspore as ms
import numpy as np
import pytest
import small_models
from conftest import command_here
from networks import assign, every_logit

from ms_codegeex.formats.adapters import as_trained
from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.peft_writing import write_peft
from ms_codegeex.formats.sources import open_source
from ms_codegeex.models.causal import Build
from ms_codegeex.models.lora import Adaptation, add_adapters
from ms_codegeex.models.registry import family


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("adapters")


SLOW = [pytest.param(name, marks=[] if name == "codegen" else pytest.mark.slow) for name in small_models.FAMILIES]


@pytest.fixture(scope="module", params=SLOW)
def tuned(request, root):
    """The family, a base model, and a run with adapters."""
    name = request.param
    small_models.save_run(root / f"{name}-run", name, small_models.parameters(name))
    base = root / f"{name}-base"
    convert(root / f"{name}-run", "hf", base, progress=False)
    return name, base, small_models.save_adapters(root / f"{name}-tuned", name, base)


def adapter(*words):
    return command_here("adapter", *words, status=0).stdout


def logits(name, tensors, lora=None):
    ms.set_context(mode=ms.GRAPH_MODE)
    sizes = small_models.config(name)
    network = family(name).model.Logits(sizes, Build(seq_length=6))
    if lora is not None:
        add_adapters(network, sizes, lora, 6)
    assign(network, tensors)
    ids = np.random.default_rng(4).integers(0, sizes.vocab_size, (2, 6))
    return every_logit(network.set_train(False), ids)


def test_the_merged_model_has_the_logits_of_model_and_adapters(tuned, root):
    name, base, run = tuned
    adapter("merge", "--model", base, "--adapter", run, "--output", root / f"{name}-merged")
    arrays = {key: tensor.float32() for key, tensor in open_source(base).tensors.items()}
    source = open_source(run)
    adapters = as_trained(source.adapters, source.family.table, "")
    arrays |= {key: tensor.float32() for key, tensor in adapters.items()}
    expected = logits(name, arrays, Adaptation(["attention", "feed_forward"], 2, 6.0))
    merged = open_source(root / f"{name}-merged")
    found = logits(name, {key: tensor.float32() for key, tensor in merged.tensors.items()})
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    assert np.abs(found - logits(name, {k: t.float32() for k, t in open_source(base).tensors.items()})).max() > 0.1
    # PyTorch's files have the same numbers
    convert(root / f"{name}-merged", "megatron", root / f"{name}.pt", progress=False)
    for key, tensor in open_source(root / f"{name}.pt").tensors.items():
        np.testing.assert_array_equal(tensor.float32(), merged.tensors[key].float32(), err_msg=key)


def test_what_is_taken_out_again_leaves_the_model(tuned, root):
    """To the rounding of two additions."""
    name, base, run = tuned
    write_peft(open_source(run), root / f"{name}-peft")
    again, merged = root / f"{name}-again", root / f"{name}-merged-2"
    adapter("merge", "--model", base, "--adapter", root / f"{name}-peft", "--output", merged)
    words = ("--model", merged, "--adapter", root / f"{name}-peft", "--output", again, "--json")
    assert json.loads(adapter("unmerge", *words))["layers"] == len(open_source(run).adapters.layers)
    before, after = open_source(base).tensors, open_source(again).tensors
    for key, tensor in before.items():
        expected = tensor.float32()
        np.testing.assert_allclose(after[key].float32(), expected, atol=3e-7 * np.abs(expected).max(), err_msg=key)


def test_adapters_are_listed(tuned, root):
    name, base, run = tuned
    write_peft(open_source(run), root / "listed" / name)
    (row,) = json.loads(adapter("list", root / "listed" / name, "--json"))["adapters"]
    assert (row["rank"], row["alpha"], row["model"]) == (2, 6.0, str(base))
    assert f"{root / 'listed' / name}: rank 2, alpha 6, " in adapter("list", root / "listed")


@pytest.mark.parametrize(
    ("setting", "said"),
    [({"peft_type": "ADALORA"}, "expected peft_type LORA"), ({"use_dora": True}, "use_dora is True, and only False")],
)
def test_adapters_of_another_kind_do_not_hide_the_others(tuned, tmp_path, setting, said):
    _, _, run = tuned
    for name in ("a", "b"):
        write_peft(open_source(run), tmp_path / name)
    settings = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(settings | setting))
    result = command_here("adapter", "list", tmp_path, status=1)
    assert f"{tmp_path / 'b'}: rank 2" in result.stdout
    assert said in result.stderr and result.stderr.count("\n") == 1


MISTAKES = [  # the action, the model, the adapters
    ("list model", "holds no adapters in PEFT's layout"),
    ("merge --model other --adapter tuned", "adapters of another model than"),
    ("merge --model tuned --adapter tuned", "holds adapters itself"),
    ("merge --model model --adapter other", "holds no adapters"),
    ("unmerge --model model --adapter none", "no such directory"),
]


@pytest.fixture(scope="module")
def places(root):
    for name, seed in (("model", 3), ("other", 8)):
        small_models.save_run(root / name, "codegen", small_models.parameters("codegen", seed))
    small_models.save_adapters(root / "tuned", "codegen", root / "model")
    return root


@pytest.mark.parametrize(("line", "message"), MISTAKES)
def test_mistakes_are_one_line(places, tmp_path, monkeypatch, line, message):
    monkeypatch.chdir(places)
    output = () if line.startswith("list") else ("--output", tmp_path / "made")
    result = command_here("adapter", *line.split(), *output, status=2)
    assert result.stderr.count("\n") == 1 and message in result.stderr
    assert not (tmp_path / "made").exists()


def test_a_tokenizer_that_is_refused_leaves_nothing_that_looks_complete(tmp_path):
    name, base, data = "codegen", tmp_path / "base", tmp_path / "pairs.jsonl"
    small_models.save_run(tmp_path / "model", name, small_models.parameters(name))
    convert(tmp_path / "model", "hf", base, progress=False)
    settings = {"tokenizer_class": "CodeGenTokenizer", "add_prefix_space": True}
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    data.write_text('{"prompt": "a", "completion": "b"}\n' * 40)
    run, made = small_models.save_adapters(tmp_path / "tuned", name, base), tmp_path / "made"
    for words in (
        ("adapter", "merge", "--model", base, "--adapter", run, "--output", made),
        ("adapter", "unmerge", "--model", base, "--adapter", run, "--output", made),
        ("convert", "--model", base, "--to", "hf", "--output", made),
        ("quantize", "--model", base, "--bits", "8", "--output", made),
        ("finetune", "--model", base, "--data", data, "training.steps=1", f"output={made}"),
    ):
        result = command_here(*words)
        assert result.returncode == 2, words
        assert "add_prefix_space is True" in result.stderr.splitlines()[-1] and not made.exists(), words
