"""Generation from a model directory with random weights and the real tokenizer; the command as users run it."""

import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import command, command_here

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.formats.checkpoint_writing import write_checkpoint
from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.sources import open_source
from ms_codegeex.generation import engine, loading, targets
from ms_codegeex.generation.engine import Generator
from ms_codegeex.generation.sampling import ChosenToken, SamplingSettings
from ms_codegeex.generation.scheduler import Request
from ms_codegeex.models.codegeex.config import build_config

SIZES = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 32, "max_position_embeddings": 24}
CONFIG = build_config("tiny", SIZES | {"init_std": 0.3})


def save(root, tensors, **options):
    """A model directory, by way of a checkpoint and the converter."""
    state = {"config": {"model": {"family": "codegeex", **asdict(CONFIG)}}}
    convert(write_checkpoint(root / "checkpoints", 1, tensors, state), "hf", root / "hf", progress=False, **options)
    return root / "hf"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    generator, shapes = np.random.default_rng(5), CONFIG.parameter_shapes().items()
    tensors = {name: generator.normal(size=shape, scale=0.4).astype(np.float32) for name, shape in shapes}
    tensors["embedding.word.weight"][50400:] *= 50  # rows without a token would win every time
    return save(tmp_path_factory.mktemp("model"), tensors)


@pytest.fixture(scope="module")
def generator(model):
    return Generator(model)


def test_log_probabilities_are_those_of_the_raw_logits(generator):
    ids = generator.encode("def f(x): return x")
    raw = np.stack([generator.logits(ids[:n]) for n in range(1, len(ids))]).astype(np.float64)
    wanted = raw - np.log(np.exp(raw).sum(-1, keepdims=True))
    found = generator.log_probabilities(ids)
    np.testing.assert_allclose(found, wanted[np.arange(len(ids) - 1), ids[1:]], atol=1e-4)
    assert found.max() < 0 and generator.log_probabilities(ids[:1]).shape == (0,)
    for wrong in ([], [1] * 25):
        with pytest.raises(UserError):
            generator.log_probabilities(wrong)


def test_ids_without_a_token_are_never_sampled_and_refused_as_input(generator):
    assert int(np.argmax(generator.logits(generator.encode("x")))) >= 50400  # the model would like one
    settings = SamplingSettings(18, temperature=3.0, top_p=1.0, seed=2)
    assert all(token < 50400 for token in generator.tokens(generator.encode("x"), settings))
    ids = np.array(generator.encode("x"))
    assert np.array_equal(generator.all_logits(ids)[-1:], generator.all_logits(ids.tolist())[-1:])


ENTRIES = {  # every way to give ids
    "logits": lambda generator, ids: generator.logits(ids),
    "all logits": lambda generator, ids: generator.all_logits(ids),
    "log-probabilities": lambda generator, ids: generator.log_probabilities(ids),
    "request": lambda generator, ids: generator.request(ids, SamplingSettings(1)),
    "tokens": lambda generator, ids: generator.tokens(ids, SamplingSettings(1)),
    "stream": lambda generator, ids: generator.stream(ids, SamplingSettings(1)),
    "answers": lambda generator, ids: generator.answers(ids, SamplingSettings(1)),
    "beams": lambda generator, ids: generator.answers(ids, SamplingSettings(1, beams=2)),
    "likeliest": lambda generator, ids: generator.likeliest(ids, 2, 4).__enter__(),
    "after answers": lambda generator, ids: begun(generator, ids),
}


def begun(generator, ids):
    with generator.likeliest([5], 1, 2) as likeliest:
        return likeliest([ids])


@pytest.mark.parametrize("entry", ENTRIES)
def test_no_id_without_a_token_reaches_an_operator(generator, entry):
    for wrong in (50400, 10**6, 1 << 40, -1, 2.5, float("nan"), "a", None, np.int64(-3), [1, 2]):
        with pytest.raises(UserError, match=r"^prompt: .* is not a token's id; ids are 0 to 50399$"):
            ENTRIES[entry](generator, [5, wrong])


@pytest.mark.parametrize(("threads", "error"), [(1, RunFailure), pytest.param(0, RuntimeError, marks=pytest.mark.slow)])
def test_an_operators_error_is_that_of_one_answer(model, threads, error):
    """MindSpore's graph refuses every later input of the shape, so it has to be another one."""
    generator, settings = Generator(model, threads=threads), SamplingSettings(1, temperature=0.0)
    ids = generator.encode("def f(x):")
    expected = list(generator.tokens(ids, settings))
    request = Request([*ids[:-1], 10**6], settings, 24)
    generator.scheduler.submit(request)
    generator.scheduler.start()
    with pytest.raises(error):
        list(request)
    assert list(generator.tokens(ids, settings)) == expected


@pytest.mark.slow
def test_a_model_that_diverged_is_named(model, tmp_path):
    tensors = {name: tensor.array().copy() for name, tensor in open_source(model).tensors.items()}
    tensors["blocks.0.attention.key.bias"][:] = np.nan  # only scores are not finite, which a softmax might hide
    damaged = save(tmp_path, tensors, non_finite=True)
    for threads in (1, 0):
        with pytest.raises(RunFailure, match="not finite"):
            Generator(damaged, threads=threads).generate("x", SamplingSettings(2))


def test_stops_at_eos_which_is_not_part_of_the_text(generator, monkeypatch):
    answers = iter([7, 8, 50256, 9])
    monkeypatch.setattr(generator.engine, "advance", lambda _: [[ChosenToken(next(answers), 0.0)]])
    monkeypatch.setattr(generator.scheduler, "_left", lambda _: 1)
    assert list(generator.tokens([1], SamplingSettings(10))) == [7, 8]


def test_stops_at_the_models_context_and_at_the_limit(generator):
    settings = SamplingSettings(1000, temperature=2.0, seed=4)
    assert len(list(generator.tokens([5] * 20, settings))) <= 4
    assert len(list(generator.tokens([5], SamplingSettings(3, temperature=2.0, seed=4)))) <= 3


def continued(generator, prompt, **changes):
    """The only answer, 12 greedy tokens unless stated otherwise."""
    settings = SamplingSettings(**{"max_new_tokens": 12, "temperature": 0.0, **changes})
    (answer,) = generator.answers(generator.encode(prompt), settings)
    assert generator.generate(prompt, settings) == answer.text  # streamed or not
    return answer


def test_an_answer_ends_before_a_stop_text_across_token_borders(generator):
    plain = continued(generator, "x = 1")
    assert plain.finish == "length" and len(plain.tokens) == 12
    text, first = plain.text, len(generator.tokenizer.decode([plain.tokens[0].token]))
    border = text[first - 1 : first + 1]  # the last character of the first token and the first of the second
    for stop in ((border,), ("no such text", text[3:9])):
        place = min(text.find(known) for known in stop if known in text)
        found = continued(generator, "x = 1", stop=stop)
        assert found.text == text[:place] and found.finish == "stop" and len(found.tokens) < 12


def test_penalties_and_bias_change_what_follows(generator):
    plain = [one.token for one in continued(generator, "x = 1").tokens]
    other = [one.token for one in continued(generator, "x = 1", logit_bias={plain[0]: -1e6}).tokens]
    assert plain[0] not in other
    forced = continued(generator, "x = 1", logit_bias={77: 1e6}, log_probabilities=2).tokens
    assert {one.token for one in forced} == {77} and forced[0].best[0][0] == plain[0] and len(forced[0].best) == 2
    assert forced[0].score < forced[0].best[1][1]  # probabilities are those of the model
    assert len(set(plain)) < 12
    for penalty in ({"frequency_penalty": 100.0}, {"presence_penalty": 100.0}, {"repetition_penalty": 100.0}):
        never = [one.token for one in continued(generator, "x = 1", **penalty).tokens]
        assert len(set(never)) == 12 and never[0] == plain[0]
    with pytest.raises(UserError, match="50400"):
        continued(generator, "x", logit_bias={50400: 1.0})


@pytest.mark.slow
def test_several_answers_have_seeds_of_their_own_and_beams_are_ordered(generator):
    ids, settings = generator.encode("import"), SamplingSettings(6, temperature=2.0, seed=5, n=3)
    found = generator.answers(ids, settings)
    alone = [generator.answers(ids, SamplingSettings(6, temperature=2.0, seed=5 + i))[0] for i in range(3)]
    assert found == alone and len({answer.text for answer in found}) == 3
    beams = generator.answers(ids, SamplingSettings(4, beams=3, n=2, log_probabilities=1, length_penalty=0.5))
    assert len(beams) == 2 and beams[0].score > beams[1].score
    for beam in beams:
        raw = generator.log_probabilities([*ids, *(one.token for one in beam.tokens)])[len(ids) - 1 :]
        assert beam.score == pytest.approx(float(raw.sum()) / len(raw) ** 0.5, abs=1e-3)
        assert all(len(one.best) == 1 for one in beam.tokens)


def test_slots_and_speculation_change_no_answer(model, generator):
    ids, settings = generator.encode("x = 1"), SamplingSettings(16, temperature=1.0, n=5, stop=("q",))
    expected = generator.answers(ids, settings)
    shared = Generator(model, slots=3, speculate="ngram")
    assert shared.answers(ids, settings) == expected and generator.speculated() == {}
    draft = Generator(model, speculate=model)
    assert draft.generate("x = 1", SamplingSettings(16)) == generator.generate("x = 1", SamplingSettings(16))
    counts = draft.speculated()
    assert counts["guessed"] == counts["accepted"] > 6  # by the model itself


def test_a_draft_has_the_models_tokenizer(model, monkeypatch, tmp_path):
    def load(path, bits=None):
        found, other = loading.load_model(model), SimpleNamespace(fingerprint="other")
        return found if path == model else replace(found, path=path, find_tokenizer=lambda: other)

    monkeypatch.setattr(engine, "load_model", load)
    with pytest.raises(UserError, match="draft has another tokenizer than"):
        Generator(model, speculate=tmp_path / "draft")


def test_slots_that_the_memory_holds(model, generator, monkeypatch):
    assert generator.slot_bytes == 4 * 24 * 2 * (1 + 1) * 16  # of a block and the top query layer
    for memory, slots in ((None, 16), (10, 1), (1000, 5), (10**6, 16)):
        monkeypatch.setattr(targets, "free_memory", lambda memory=memory: memory)
        assert targets.affordable_slots(90, 100) == slots


@pytest.mark.parametrize("prompt,message", [("", "empty"), ("word " * 40, "tokens, the model's context is 24")])
def test_bad_prompts(generator, prompt, message):
    with pytest.raises(UserError, match=message):
        generator.encode(prompt)


def test_a_long_prompt_can_be_cut_on_the_left(generator):
    ids = generator.tokenizer.encode_prompt("word " * 40)
    assert generator.encode("word " * 40, truncate_for=4) == ids[-20:]
    assert generator.encode("word", truncate_for=4) == generator.encode("word")
    with pytest.raises(UserError, match="room for 0 tokens, expected 1 or more"):
        generator.encode("word", truncate_for=24)


def test_special_tokens_of_a_prompt_are_ids_and_the_tokenizer_comes_with_the_directory(generator, model):
    assert generator.encode("a<|endoftext|>b", special=True) == [64, 50256, 65]
    assert generator.encode("a<|endoftext|>b") == generator.tokenizer.encode("a<|endoftext|>b")
    assert load_tokenizer(model).fingerprint == generator.tokenizer.fingerprint


def test_command_prints_prompt_and_continuation(model):
    """And nothing else where the engine misses programs: MindSpore calls `grep` and `sed` when it first computes."""
    words = ("--language", "python", "--prompt", "x", "--greedy", "--max-new-tokens", "3")
    result = command("generate", "--model", model, *words, environment={"PATH": ""})
    assert result.returncode == 0 and "not found" not in result.stderr, result.stderr
    assert result.stdout.startswith("# language: Python\nx")


def test_command_gives_several_answers_with_log_probabilities(model, generator):
    arguments = ("--max-new-tokens", "6", "--seed", "3", "--temperature", "2", "--log-probabilities", "2", "--n", "2")
    edits = ("--logit-bias", "10=3.5", "--logit-bias", "11=-100", "--repetition-penalty", "1.3", "--stop", r"a\\b\n")
    result = command_here("generate", "--model", model, "--prompt", "# language: Python", *arguments, *edits, "--json")
    assert result.returncode == 0, result.stderr
    said = json.loads(result.stdout)
    assert said["prompt"] == "# language: Python\n" and all(found["new_tokens"] <= 6 for found in said["answers"])
    settings = SamplingSettings(6, temperature=2.0, seed=3, log_probabilities=2, n=2, stop=("a\\b\n",))
    settings = replace(settings, logit_bias={10: 3.5, 11: -100.0}, repetition_penalty=1.3)
    expected = generator.answers(generator.encode("# language: Python\n"), settings)
    for found, wanted in zip(said["answers"], expected, strict=True):
        assert found["text"] == wanted.text and found["finish"] == wanted.finish
        assert [one["id"] for one in found["tokens"]] == [one.token for one in wanted.tokens]
        for token, one in zip(found["tokens"], wanted.tokens, strict=True):
            assert token["log_probability"] == pytest.approx(one.score, abs=1e-6)
            assert [best["id"] for best in token["likeliest"]] == [number for number, _ in one.best]


@pytest.mark.slow
def test_command_prints_beams(model, generator):
    arguments = ("--beams", "3", "--n", "2", "--max-new-tokens", "5", "--length-penalty", "0.5", "--stop", "r")
    result = command_here("generate", "--model", model, "--prompt", "import", *arguments)
    assert result.returncode == 0, result.stderr
    settings = SamplingSettings(5, beams=3, n=2, length_penalty=0.5, stop=("r",))
    texts = [answer.text for answer in generator.answers(generator.encode("import"), settings)]
    assert result.stdout == "".join(f"--- {i} of 2 ---\nimport{text}\n" for i, text in enumerate(texts, 1))


@pytest.mark.slow
def test_command_ends_with_the_block(model):
    result = command_here(
        *("generate", "--model", model, "--prompt", "# language: Python", "--stop-at", "block", "--json", "--greedy"),
        *("--logit-bias", "87=1e6", "--max-new-tokens", "3"),  # a line that begins with an x
    )
    answer = json.loads(result.stdout)
    assert (answer["text"], answer["finish"], answer["new_tokens"]) == ("", "stop", 1)


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--prompt", "x", "--top-p", "2"], "--top-p: 2.0"),
        (["--prompt", "x", "--logit-bias", "3"], "--logit-bias: 3 is not ID=VALUE"),
        (["--prompt", "x", "--log-probabilities", "3"], "--log-probabilities: "),
        (["--prompt", "x", "--stop-at", "block"], "--language"),
        (["--prompt", "x", "--logit-bias", "60000=1"], "logit_bias: 60000 is not a token's id"),
        (["--prompt", "x", "--language", "Pyton"], "Python"),
        (["--prompt-file", "no/such/file"], "no/such/file"),
        ([], "prompt: empty"),
        (["--prompt", "x", "--model", "no/such/model"], "no/such/model"),
    ],
)
def test_command_mistakes_are_one_line(model, arguments, message):
    result = command_here("generate", "--model", model, *arguments)
    assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr
    assert result.stdout == ""
