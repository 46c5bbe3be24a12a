"""Adapters from runs and from PEFT's directories on one model, in Python and in `generate`."""

import json

import numpy as np
import pytest
from conftest import command_here
from small_adapters import write_adapters
from small_benchmarks import write_model

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.peft_writing import write_peft
from ms_codegeex.formats.sources import open_source
from ms_codegeex.generation.engine import Generator
from ms_codegeex.generation.loading import load_adapters, load_model
from ms_codegeex.generation.quantising import write_quantised
from ms_codegeex.generation.sampling import SamplingSettings

PROMPT = "# language: Python\ndef add(a, b):\n"
GREEDY = SamplingSettings(12, temperature=0.0)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A model, and adapters: a run, and the second one's directory for PEFT. Their runs open as the merged models."""
    root = tmp_path_factory.mktemp("adapters")
    base = write_model(root / "base")
    runs = {
        "first": write_adapters(root / "first", base, 1),
        "second": write_adapters(root / "second", base, 2, rank=3, targets=["feed_forward"]),
    }
    write_peft(open_source(runs["second"]), root / "peft")
    return base, {"first": runs["first"], "second": root / "peft"}, runs


@pytest.fixture(scope="module")
def generator(places):
    base, adapters, _ = places
    return Generator(base, threads=1, slots=3, adapters=adapters)


def ids_of(generator, prompt=PROMPT, **changes):
    settings = SamplingSettings(**{"max_new_tokens": 12, "temperature": 0.0, **changes})
    return [chosen.token for chosen in generator.answers(generator.encode(prompt), settings)[0].tokens]


@pytest.mark.slow
def test_answers_and_logits_are_those_of_the_merged_models(places, generator):
    base, _, runs = places
    ids, found = generator.encode(PROMPT), {"": ids_of(generator)}
    for name, run in runs.items():
        merged = Generator(run, threads=1)
        found[name] = ids_of(generator, adapter=name)
        assert found[name] == ids_of(merged)
        assert np.abs(generator.all_logits(ids, name) - merged.all_logits(ids)).max() <= 1e-4
        assert np.abs(generator.log_probabilities(ids, name) - merged.log_probabilities(ids)).max() <= 1e-4
    plain = Generator(base, threads=1)
    assert found[""] == ids_of(plain)
    assert np.array_equal(generator.all_logits(ids), plain.all_logits(ids))
    assert len(set(map(tuple, found.values()))) == 3
    beams = SamplingSettings(6, temperature=0.0, beams=2, adapter="first")
    (wanted,) = Generator(runs["first"], threads=1, slots=2).answers(ids, SamplingSettings(6, temperature=0, beams=2))
    assert generator.answers(ids, beams)[0].text == wanted.text


@pytest.mark.slow
def test_guesses_leave_the_answers_as_they_are(places, generator):
    base, adapters, _ = places
    for speculate in ("ngram", base):
        guessing = Generator(base, threads=1, slots=2, adapters=adapters, speculate=speculate)
        for name in ("", *adapters):
            assert ids_of(guessing, "x = [1, 1, 1, 1,", adapter=name) == ids_of(
                generator, "x = [1, 1, 1, 1,", adapter=name
            )
        assert guessing.speculated()["guessed"]


@pytest.mark.slow
@pytest.mark.parametrize("threads", [2, 0])
def test_adapters_are_shared_among_devices_as_the_matrices_are(places, generator, threads):
    base, adapters, _ = places
    several = Generator(base, threads=threads, slots=2, adapters=adapters, devices=2)
    ids = generator.encode(PROMPT)
    for name in ("second", "", "first"):
        assert np.abs(several.all_logits(ids, name) - generator.all_logits(ids, name)).max() <= 1e-4
        assert ids_of(several, adapter=name) == ids_of(generator, adapter=name)


def test_adapters_for_a_model_that_is_quantised(places, tmp_path):
    """Also if nothing records the model that it was made from."""
    base, adapters, _ = places
    write_quantised(open_source(base), 8, 64, tmp_path / "q")
    found = Generator(tmp_path / "q", threads=1, adapters=adapters)
    other = Generator(base, threads=1, bits=8, adapters=adapters)
    ids = found.encode(PROMPT)
    for name in ("first", "second"):
        logits = found.all_logits(ids, name)
        assert np.array_equal(logits, other.all_logits(ids, name))
        assert np.abs(logits - found.all_logits(ids)).max() > 0.01


def test_adapters_that_do_not_fit_are_named_in_one_line(places, tmp_path):
    base, adapters, _ = places
    other = write_model(tmp_path / "other", seed=6)
    small = convert(base, "hf", tmp_path / "copy", progress=False) and tmp_path / "copy"

    def refused(model, path):
        with pytest.raises(UserError) as error:
            load_adapters({"a": path}, load_model(model))
        assert "\n" not in str(error.value)
        return str(error.value)

    for place in adapters.values():
        assert f"adapters of another model than {other}" in refused(other, place)
        assert load_adapters({"a": place}, load_model(small))[0].matrices  # the same model elsewhere
    write_quantised(open_source(base), 8, 64, tmp_path / "q")
    assert "no such directory" in refused(base, tmp_path / "nothing")
    assert "holds no adapters" in refused(base, base.parent)


def test_generate_takes_an_adapter(places):
    base, adapters, runs = places
    common = ("--prompt", PROMPT, "--greedy", "--max-new-tokens", 8, "--threads", 1, "--json")
    result = command_here("generate", "--model", base, "--adapter", adapters["second"], *common)
    wanted = command_here("generate", "--model", runs["second"], *common)
    assert result.returncode == wanted.returncode == 0, result.stderr + wanted.stderr
    assert json.loads(result.stdout)["text"] == json.loads(wanted.stdout)["text"]


def test_evaluate_takes_an_adapter(places, tmp_path):
    base, adapters, runs = places
    (tmp_path / "area.py").write_text("def area(width, height):\n    return width * height\n")

    def report(*words):
        common = ("--data", tmp_path / "area.py", "--output", tmp_path / str(len(words)), "--threads", 1, "--json")
        result = command_here("evaluate", "perplexity", "--model", *words, *common)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    both, merged = report(base, "--adapter", adapters["second"]), report(runs["second"])
    perplexity = merged["perplexity"]["perplexity"]
    assert both["perplexity"]["perplexity"] == pytest.approx(perplexity, rel=1e-5)
    identity = both["settings"]["model"]
    assert (identity["path"], identity["adapter"]["path"]) == (str(base), str(adapters["second"]))
    assert "adapter" not in merged["settings"]["model"]
    words = ("--samples", tmp_path / "none", "--adapter", base, "--data", tmp_path, "--output", tmp_path / "none")
    refused = command_here("evaluate", "humaneval", *words)
    assert refused.returncode == 2 and "--adapter: only for --model, our own engine" in refused.stderr


def test_an_unknown_adapter_is_refused(generator):
    with pytest.raises(UserError, match="adapter: third is not loaded; known are first, second"):
        generator.request([5], SamplingSettings(adapter="third"))
