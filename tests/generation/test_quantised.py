"""Quantised directories: the numbers of the published scheme, loaded as they are, the ids of what they stand for."""

import json
import os
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import small_models
from conftest import command, command_here

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.base.quarantine import PROVENANCE
from ms_codegeex.base.reading import read_json
from ms_codegeex.cli import build_parser, main
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.extras.evaluation.commands import evaluate
from ms_codegeex.extras.evaluation.local_model import files_identity
from ms_codegeex.formats.checkpoint_writing import write_checkpoint
from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.rounding import quantise
from ms_codegeex.formats.safetensors_file import SafetensorsFile, write_safetensors
from ms_codegeex.formats.sources import open_source
from ms_codegeex.generation import engine, quantised
from ms_codegeex.generation.engine import Generator
from ms_codegeex.generation.loading import load_model
from ms_codegeex.generation.matrices import pack
from ms_codegeex.generation.quantised import DESCRIPTION, TENSORS, QuantisedModel
from ms_codegeex.generation.quantising import write_quantised
from ms_codegeex.generation.sampling import SamplingSettings
from ms_codegeex.kernels import compiling
from ms_codegeex.models.registry import family

SIZES = {"vocab_size": 51200, "hidden_size": 40, "num_layers": 1, "num_heads": 2, "intermediate_size": 72}
SIZES |= {"rotary_dim": 10, "max_position_embeddings": 32, "eos_token_id": 50256}
CONFIG = family("codegen").config.build_config("tiny", SIZES)
PRODUCTS = {name for name in CONFIG.parameter_shapes() if name.startswith(("blocks", "head")) and "norm" not in name}
PRODUCTS -= {name for name in PRODUCTS if name.endswith("bias")}


def save(root, tensors):
    """A model directory, by way of a checkpoint."""
    state = {"config": {"model": {"family": "codegen", **asdict(CONFIG)}}}
    source = open_source(write_checkpoint(root / "checkpoints", 1, tensors, state))
    convert(replace(source, save_tokenizer=load_tokenizer("codegen-multi").save), "hf", root / "hf", progress=False)
    return root / "hf"


@pytest.fixture(scope="module")
def tensors():
    generator = np.random.default_rng(5)
    shapes = CONFIG.parameter_shapes().items()
    found = {name: generator.normal(size=shape, scale=0.3).astype(np.float32) for name, shape in shapes}
    found["blocks.0.attention.query.weight"][3] = 0.0  # a row without a scale
    return found


@pytest.fixture(scope="module")
def source(tensors, tmp_path_factory):
    return open_source(save(tmp_path_factory.mktemp("run"), tensors))


def by_the_scheme(weight, bits, group):
    """Each number as a loop would compute it."""
    found = np.zeros_like(weight)
    step = weight.shape[1] if bits == 8 else group
    for row in range(len(weight)):
        for begin in range(0, weight.shape[1], step):
            part = weight[row, begin : begin + step]
            scale = np.float32(np.abs(part).max() / np.float32(127 if bits == 8 else 7))
            if scale > 0:
                found[row, begin : begin + step] = np.rint(part / scale) * scale
    return found


@pytest.mark.parametrize("bits,group", [(8, 64), (4, 32), (4, 64), (4, 128)])
def test_files_hold_the_published_schemes_numbers(source, tensors, tmp_path, bits, group):
    result = write_quantised(source, bits, group, tmp_path / "q")
    model = QuantisedModel(tmp_path / "q")
    assert model.config == source.config and model.family.name == "codegen"
    for name, weight in tensors.items():
        if weight.ndim == 1:
            assert np.array_equal(model.vector(name), weight)
        elif name == "embedding.word.weight":
            assert np.array_equal(model.matrix(name).float32(), weight)
        else:
            found = model.matrix(name)
            assert np.array_equal(found.float32()[:200], by_the_scheme(weight[:200], bits, group)), name
            assert (found.bits, found.shape) == (bits, weight.shape)
            assert pack(found).data.nbytes >= weight.size * bits // 8
    assert result["bytes"] < result["bytes_before"] and result["bits"] == bits
    matrices = sum(weight.size for name, weight in tensors.items() if name in PRODUCTS)
    assert result["bytes_before"] - result["bytes"] > matrices * (4 - bits / 8 - 4 / (40 if bits == 8 else 32)) * 0.95


@pytest.mark.parametrize("bits,group", [(8, 64), pytest.param(4, 32, marks=pytest.mark.slow)])
def test_a_quantised_directory_gives_the_ids_of_the_weights_it_stands_for(source, tensors, tmp_path, bits, group):
    write_quantised(source, bits, group, tmp_path / "q")
    rounded = {
        name: quantise(weight, bits, group).float32() if name in PRODUCTS else weight
        for name, weight in tensors.items()
    }
    found, expected = Generator(tmp_path / "q", exact=True), Generator(save(tmp_path / "run", rounded))
    ids, greedy = found.encode("def f(x):"), SamplingSettings(20, temperature=0.0)
    assert list(found.tokens(ids, greedy)) == list(expected.tokens(ids, greedy))
    assert found.engine.network.compiled
    logits = expected.logits(ids)
    difference = np.abs(found.logits(ids) - logits).max()
    assert difference <= 1e-5 and (bits == 8 or difference == 0)
    usual = Generator(tmp_path / "q")
    assert list(usual.tokens(ids, greedy)) == list(expected.tokens(ids, greedy))
    assert 0 < np.abs(usual.logits(ids) - logits).max() <= 1e-4 * np.abs(logits).max()


TIED = {"vocab_size": 50304, "hidden_size": 32, "max_position_embeddings": 64, "eos_token_id": 50256}


def test_a_tied_head_is_rounded_beside_the_word_table(tmp_path):
    config = family("qwen2").config.build_config(None, small_models.FIELDS["qwen2"] | TIED)
    assert config.tied_head
    draw = np.random.default_rng(5)
    arrays = {
        name: draw.normal(size=shape, scale=0.3).astype(np.float32) for name, shape in config.parameter_shapes().items()
    }
    run = open_source(small_models.save_run(tmp_path / "tied", "qwen2", arrays, **TIED))
    run = replace(run, save_tokenizer=load_tokenizer("codegen-multi").save)
    write_quantised(run, 8, 64, tmp_path / "q")
    model, table = QuantisedModel(tmp_path / "q"), arrays["embedding.word.weight"]
    assert model.original == config and model.config == replace(config, tied_head=False)
    assert np.array_equal(model.matrix("embedding.word.weight").float32(), table)
    assert np.array_equal(model.matrix("head.weight").float32(), quantise(table, 8, 64).float32())

    products = model.config.product_names()
    expected = {n: quantise(a, 8, 64).float32() if n in products else a for n, a in arrays.items()}
    expected["head.weight"] = quantise(table, 8, 64).float32()
    untied = small_models.save_run(tmp_path / "untied", "qwen2", expected, **TIED, tied_head=False)
    ids, known = [3, 500, 7, 50000, 11], load_tokenizer("codegen-multi")
    logits = Generator(replace(load_model(untied), find_tokenizer=lambda: known)).logits(ids)
    found = Generator(tmp_path / "q", exact=True)
    assert np.abs(found.logits(ids) - logits).max() <= 1e-5 * np.abs(logits).max()
    opened = Generator(replace(load_model(run.path, 8), find_tokenizer=lambda: known), exact=True)
    assert np.array_equal(opened.logits(ids), found.logits(ids))
    assert f"{config.parameter_count():,} parameters" in command_here("inspect", tmp_path / "q").stdout

    tensors = SafetensorsFile(tmp_path / "q" / TENSORS).tensors  # as earlier versions wrote it
    earlier = tmp_path / "earlier"
    shutil.copytree(tmp_path / "q", earlier)
    (earlier / PROVENANCE).unlink()
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("head")}
    write_safetensors(earlier / TENSORS, kept, checksums=True)
    assert QuantisedModel(earlier).config == config
    assert np.isfinite(Generator(earlier, exact=True).logits(ids)).all()


def damage(file):
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)


def cut_off(file):
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize("bits", [8, 4])
def test_a_packed_copy_is_mapped_and_what_is_wrong_with_it_changes_no_answer(source, tmp_path, monkeypatch, bits):
    write_quantised(source, bits, 64, tmp_path / "q")
    plain = Generator(tmp_path / "q")  # too small for a copy
    ids, packed = plain.encode("def f(x):"), tmp_path / "cache" / "packed"
    logits = plain.logits(ids)
    monkeypatch.setattr(quantised, "PACKED_FROM", 1)
    monkeypatch.setattr(quantised, "user_cache", lambda: tmp_path / "cache")
    (tmp_path / "cache").write_text("where nothing can be stored")
    assert np.array_equal(Generator(tmp_path / "q").logits(ids), logits)
    (tmp_path / "cache").unlink()
    packed.mkdir(parents=True)
    (packed / "old.safetensors").touch()
    os.utime(packed / "old.safetensors", (0, 0))
    for fault in (lambda file: None, damage, cut_off, lambda file: None):
        for _ in range(2):  # the first one may have to make it
            found = Generator(tmp_path / "q")
            assert np.array_equal(found.logits(ids), logits)
        (copy,) = packed.iterdir()
        assert str(copy) in Path("/proc/self/maps").read_text()
        del found
        fault(copy)
        assert np.array_equal(Generator(tmp_path / "q").logits(ids), logits)
    (tmp_path / "q" / "provenance.json").unlink()  # which would show it, too
    damage(tmp_path / "q" / TENSORS)  # in a matrix, of which the copy has the right numbers
    assert np.array_equal(Generator(tmp_path / "q").logits(ids), logits)
    copy.unlink()
    with pytest.raises(UserError, match="is damaged, or edited in place"):
        Generator(tmp_path / "q")


@pytest.mark.parametrize("bits,group", [pytest.param(8, 64, marks=pytest.mark.slow), (4, 64)])
def test_rounded_products_are_near_and_a_prompt_gives_what_its_tokens_give(source, tmp_path, bits, group):
    write_quantised(source, bits, group, tmp_path / "q")
    exact = Generator(tmp_path / "q", exact=True)
    ids = exact.encode("def f(x):\n    return x")
    expected = exact.logits(ids)
    for how, near in (({}, 1e-4), ({"fast": True}, 0.1)):
        rounded = Generator(tmp_path / "q", **how)
        whole = rounded.logits(ids)
        assert 0 < np.abs(whole - expected).max() < near * np.abs(expected).max()
        assert np.array_equal(exact.logits(ids), expected)  # one engine leaves the other as it is
        rounded.engine.cached[0] = []
        assert np.array_equal([rounded.logits(ids[:n]) for n in range(1, len(ids) + 1)][-1], whole)
    with pytest.raises(UserError, match="needs compiled operators"):
        Generator(tmp_path / "q", threads=0, fast=True)


def test_16_bit_sources_are_kept_as_they_are(tensors, tmp_path):
    halves = {name: array.astype(np.float16) for name, array in tensors.items()}
    directory = save(tmp_path / "half", halves)
    assert load_model(directory).weights.matrix("blocks.0.attention.query.weight").bits == 16
    wide = {name: array.astype(np.float32) for name, array in halves.items()}
    narrow, expected = Generator(directory), Generator(save(tmp_path / "whole", wide))
    ids = narrow.encode("def f(x):")
    logits = narrow.logits(ids)
    assert narrow.engine.network.compiled and np.array_equal(logits, expected.logits(ids))
    half = Generator(directory, threads=1, cache_bits=16)
    assert 0 < np.abs(half.logits(ids) - logits).max() < 1e-2
    with pytest.raises(UserError, match="32 or 16"):
        Generator(directory, cache_bits=8)


def test_the_commands(source, tmp_path):
    words = ("quantize", "--model", source.path, "--bits", 4, "--group", 32, "--output", tmp_path / "q")
    result = json.loads(command(*words, "--json").stdout)
    assert result["output"] == str(tmp_path / "q") and result["group"] == 32
    again = command_here(*words)
    assert again.returncode == 2 and "--replace" in again.stderr and "Traceback" not in again.stderr
    assert "4 bits, a scale for 32 numbers" in command_here(*words, "--replace").stdout
    words = ("--prompt", "x", "--greedy", "--max-new-tokens", 2, "--fast", "--cache-bits", 16)
    text = command_here("generate", "--model", tmp_path / "q", *words)
    assert text.returncode == 0 and text.stdout.startswith("x"), text.stderr
    text = command_here("generate", "--model", source.path, *words)
    assert text.returncode == 2 and "quantize" in text.stderr and "Traceback" not in text.stderr
    both = command_here("generate", "--model", tmp_path / "q", *words, "--exact")
    assert both.returncode == 2 and "--exact: not with --fast" in both.stderr


def test_a_command_that_is_slower_for_want_of_a_compiler_says_why(source, monkeypatch, capsys):
    broken = [[sys.executable, "-c", "raise SystemExit('this compiler is broken')"]]
    monkeypatch.setattr(compiling, "cxx_compilers", lambda: broken)
    monkeypatch.setattr(compiling, "prebuilt_file", lambda machine, level: Path("nothing"))
    words = ["generate", "--model", str(source.path), "--prompt", "x", "--greedy", "--max-new-tokens", "2"]
    assert main(words) == 0
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning:")]
    assert "MindSpore's own operators decode" in warning and warning.endswith("(this compiler is broken)")


@pytest.mark.slow
def test_threads_and_devices_of_the_command_change_no_text(source, monkeypatch, capsys):
    """Without threads, MindSpore's own operators compute."""
    engines = []

    def seen(*values, **more):
        network = open_network(*values, **more)
        engines.append((network.sizes.threads, network.compiled))
        return network

    open_network = engine.open_network
    monkeypatch.setattr(engine, "open_network", seen)
    words, texts = ["generate", "--model", str(source.path), "--prompt", "x", "--greedy", "--max-new-tokens", "8"], []
    for more in (("--threads", "1"), ("--threads", "0"), ("--devices", "2")):
        assert main([*words, *more]) == 0
        texts.append(capsys.readouterr().out)
    assert len({*texts}) == 1 and texts[0].startswith("x") and len(texts[0]) > 8
    assert engines[:2] == [(1, True), (0, False)]
    for more, message in (("--threads", "-1"), "-1 is out of range"), (("--devices", "3"), "3 for 2 attention heads"):
        assert main([*words, *more]) == 2 and f"{more[0]}: {message}" in capsys.readouterr().err
    words = ["evaluate", "humaneval", "--model", "m", "--data", "d", "--output", "o", "--threads", "-1"]
    assert main(words) == 2 and "--threads: -1 is out of range" in capsys.readouterr().err


@pytest.mark.slow
def test_what_rounding_costs(source, tmp_path, capsys):
    """The perplexities of both models, by `evaluate perplexity`, are those of their probabilities."""
    write_quantised(source, 4, 32, tmp_path / "q")
    (tmp_path / "text.py").write_text("def f(x):\n    return [x + i for i in range(10)]\n")
    found = []
    for path in (source.path, tmp_path / "q"):
        words = ["evaluate", "perplexity", "--model", path, "--data", tmp_path / "text.py", "--threads", 1, "--json"]
        assert main([*map(str, words), "--output", str(tmp_path / f"report-{len(found)}")]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["settings"]["model"]["path"] == str(path)
        model = Generator(path)
        ids = [model.tokenizer.eos_id, *model.tokenizer.encode((tmp_path / "text.py").read_text())]
        assert len(ids) <= model.seq_length
        found.append(report["perplexity"]["perplexity"])
        assert found[-1] == pytest.approx(np.exp(-model.log_probabilities(ids).mean()), rel=1e-5)
    assert found[0] != found[1]


def test_it_is_inspected_and_an_evaluation_knows_it_again(source, tmp_path, capsys):
    write_quantised(source, 8, 64, tmp_path / "q")
    assert main(["inspect", str(tmp_path / "q")]) == 0
    assert "matrices of 8 bits, a scale for each row\nverified: 22 tensors" in capsys.readouterr().out
    words = ["evaluate", "perplexity", "--model", str(tmp_path / "q"), "--data", "x", "--output", "y"]
    arguments = build_parser().parse_args(words)
    identity = evaluate._local_model(arguments, needed=True).identity()
    assert identity == {**files_identity(tmp_path / "q"), "activation_bits": 16}
    damage(tmp_path / "q" / TENSORS)
    assert main(["inspect", str(tmp_path / "q")]) == 2 and "is damaged" in capsys.readouterr().err


def test_mistakes_are_named(source, tmp_path):
    with pytest.raises(UserError, match="choose 8 or 4"):
        write_quantised(source, 32, 64, tmp_path / "q")
    with pytest.raises(UserError, match="group: 48"):
        write_quantised(source, 4, 48, tmp_path / "q")
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="exists"):
        write_quantised(source, 8, 64, tmp_path / "mine", replace=True)
    assert not list(tmp_path.glob("q*"))
    for _ in range(2):
        write_quantised(source, 8, 64, tmp_path / "q", replace=True)
    (tmp_path / "q" / "notes").write_text("mine")
    with pytest.raises(UserError, match=r"no conversion wrote \(notes\)"):
        write_quantised(source, 8, 64, tmp_path / "q", replace=True)
    assert (tmp_path / "q" / "notes").read_text() == "mine"


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"format": 2}, "expected format 1"),
        ({"bits": 5}, "expected bits 8 or 4"),
        ({"family": "gpt"}, "gpt"),
        ({"sizes": {"layers": 3}}, "sizes"),
        ({"bits": 4, "group": 32}, "blocks.0"),
        ({"bits": [8]}, "expected bits 8 or 4"),
        ({"sizes": {**asdict(CONFIG), "num_layers": "2"}}, "sizes: .*num_layers is '2', expected a positive whole"),
        ({"sizes": {**asdict(CONFIG), "num_layers": 10**9}}, "asks for 1000000000 layers, but only"),
        ({"sizes": {**asdict(CONFIG), "num_layers": True}}, "sizes: .*num_layers is True"),
        ({"sizes": {**asdict(CONFIG), "num_layers": 2}}, r"tensor blocks\.1.* is missing"),
    ],
)
def test_a_wrong_description_is_refused(source, tmp_path, changes, message):
    write_quantised(source, 8, 64, tmp_path / "q")
    path = tmp_path / "q" / DESCRIPTION
    write_json(path, read_json(path) | changes)
    with pytest.raises(UserError, match=message):
        QuantisedModel(tmp_path / "q")


def test_missing_tensors_are_named(source, tmp_path):
    write_quantised(source, 8, 64, tmp_path / "q")
    (tmp_path / "q" / TENSORS).unlink()
    with pytest.raises(UserError):
        QuantisedModel(tmp_path / "q")
