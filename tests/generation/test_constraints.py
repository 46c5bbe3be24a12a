"""Answers that follow a schema or grammar, whatever the model: tokens are drawn at random from what is allowed."""

import json
import sys
from functools import cache

import jsonschema
import numpy as np
import pytest
from tokenizer_files import write_chatglm

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.generation.choice import TokenChoice, token_choice
from ms_codegeex.generation.constraints import NEVER, Constraint, Grammars, restricted
from ms_codegeex.generation.sampling import SamplingSettings
from ms_codegeex.generation.scheduler import Request, Scheduler

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "number": {"type": "integer", "minimum": 0, "maximum": 99},
        "kind": {"enum": ["a", "比"]},
        "flags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["name", "number", "kind", "flags"],
    "additionalProperties": False,
}
LIST = 'root ::= item ("," " "? item){1,3}\nitem ::= [0-9]{1,3} | "none"'


def formed(schema=None, **settings):
    return SamplingSettings(60, json_schema=json.dumps(SCHEMA if schema is None else schema), **settings)


@cache
def grammars_of(name):
    return Grammars(load_tokenizer(name), load_tokenizer(name).vocab_size)


@pytest.fixture(scope="module")
def chatglm(tmp_path_factory):
    return str(write_chatglm(tmp_path_factory.mktemp("chatglm")))


def allowed(constraint, output, guess=()):
    """The ids that may follow."""
    choice = constraint.applied(TokenChoice(), output, guess)
    if choice.given >= 0:
        return [choice.given]
    return np.flatnonzero(np.asarray(choice.edits)[:, 2] > NEVER / 2).tolist()


def drawn(constraint, eos, seed):
    """Ids of a random answer."""
    generator, output = np.random.default_rng(seed), []
    while not constraint.ends(output):
        number = int(generator.choice(allowed(constraint, output)))
        if number == eos:
            break
        output.append(number)
    return output


class TestLibrary:
    """With the real llguidance."""

    @pytest.fixture(autouse=True)
    def library(self):
        pytest.importorskip("llguidance")

    @pytest.fixture(params=["codegeex", pytest.param("codegen-multi", marks=pytest.mark.slow), "chatglm"])
    def name(self, request, chatglm):
        return chatglm if request.param == "chatglm" else request.param

    def test_random_answers_are_valid_with_each_familys_tokenizer(self, name):
        tokenizer = load_tokenizer(name)
        for seed in range(6):
            ids = drawn(grammars_of(name).constraint(formed()), tokenizer.eos_id, seed)
            text = "".join(tokenizer.continuation(tokenizer.encode_prompt("x ="), ids))
            jsonschema.validate(json.loads(text), SCHEMA)

    def test_a_grammar_in_the_notation_of_llama_cpp(self):
        tokenizer = load_tokenizer("codegeex")
        for seed in range(4):
            ids = drawn(grammars_of("codegeex").constraint(SamplingSettings(grammar=LIST)), tokenizer.eos_id, seed)
            items = [item.strip(" ") for item in tokenizer.decode(ids).split(",")]
            assert 2 <= len(items) <= 4 and all(item == "none" or item.isdigit() for item in items)

    def test_the_end_is_allowed_only_where_the_answer_is_complete(self):
        tokenizer = load_tokenizer("codegeex")
        constraint = grammars_of("codegeex").constraint(SamplingSettings(grammar='root ::= "ab" "c"?'))
        eos, ids = tokenizer.eos_id, tokenizer.encode("ab")
        assert eos not in allowed(constraint, [])
        assert eos in allowed(constraint, ids) and not constraint.ends(ids)
        assert constraint.ends([*ids, *tokenizer.encode("c")])

    def test_guesses_are_read_and_taken_back(self):
        tokenizer = load_tokenizer("codegeex")
        make = lambda: grammars_of("codegeex").constraint(formed({"type": "array", "items": {"type": "integer"}}))  # noqa: E731
        ids = [token for text in ("[", "1", ",", "2", "]") for token in tokenizer.encode(text)]
        one = make()
        for count in range(len(ids)):
            for more in range(len(ids) - count):
                fresh = allowed(make(), ids[: count + more])
                assert allowed(one, ids[:count], ids[count : count + more]) == fresh
        wrong = one.applied(TokenChoice(temperature=0.5), ids[:1], tokenizer.encode("x"))
        assert wrong.given == -1 and not len(wrong.edits)  # nobody reads that choice
        after_end = one.applied(TokenChoice(), ids, [tokenizer.eos_id])
        assert not len(after_end.edits) and not one.error

    def test_nothing_infinite_between_the_parts_of_json(self):
        tokenizer = load_tokenizer("codegeex")
        constraint = grammars_of("codegeex").constraint(formed({"type": "array", "items": {"type": "null"}}))
        output = tokenizer.encode("[") + tokenizer.encode("\n\n")
        for _ in range(20):
            assert tokenizer.encode("\n")[0] not in allowed(constraint, output)
            output += tokenizer.encode(" ")
        assert tokenizer.encode(" ")[0] not in allowed(constraint, output)

    def test_one_that_becomes_too_complex_ends_with_an_error(self):
        properties = {f"p{number}": {"type": "integer"} for number in range(500)}
        constraint = grammars_of("codegeex").constraint(formed({"type": "object", "properties": properties}))
        tokenizer = load_tokenizer("codegeex")
        output = []
        for text in ("{", '"', "p", "1", '"', ":", "5", ",", '"'):
            choice = constraint.applied(TokenChoice(), output)
            if constraint.error:
                break
            output += tokenizer.encode(text)
        assert not constraint.error or (choice.given == -1 and "\n" not in constraint.error)


def test_no_form_needs_no_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    assert Grammars(load_tokenizer("codegeex"), 50_000).constraint(SamplingSettings()) is None


def test_one_form_at_a_time_and_none_for_beams():
    with pytest.raises(UserError, match=r"^grammar: there is a json_schema too"):
        SamplingSettings(json_schema="{}", grammar=LIST)
    with pytest.raises(UserError, match=r"^beams: a beam search takes no grammar"):
        SamplingSettings(beams=2, grammar=LIST)


def test_a_choice_among_some_tokens_keeps_its_bias_and_penalties():
    settings = SamplingSettings(repetition_penalty=2.0, logit_bias={1: 1e6, 2: 3.0})
    mask = np.array([False, False, True, True])
    edits = restricted(token_choice(settings, [3], []), mask).edits
    assert edits[:, 0].tolist() == [0, 1, 2, 3] and edits[:, 1].tolist() == [1, 1, 1, 2]
    assert edits[2:, 2].tolist() == [3.0, 0.0] and (edits[:2, 2] < NEVER / 2).all()
    single = restricted(token_choice(settings, [3], []), np.array([False, True, False, False]))
    assert single.given == 1 and not len(single.edits)


class ScriptedMatcher:
    """In place of the library's: the answer has one of each of these sets; `broken` says after how many it fails."""

    def __init__(self, script, size, broken):
        self.script, self.size, self.broken, self.place = script, size, broken, 0

    def consume_tokens(self, tokens):
        return self.try_consume_tokens(tokens) == len(tokens)

    def try_consume_tokens(self, tokens):
        begin = self.place
        for token, known in zip(tokens, self.script[begin:], strict=False):
            if token not in known:
                break
            self.place += 1
        return self.place - begin

    def compute_bitmask(self):
        mask = np.zeros(self.size, bool)
        mask[[*self.script[self.place]]] = True
        return np.packbits(mask, bitorder="little").tobytes()

    def rollback(self, count):
        self.place -= count
        return True

    def is_stopped(self):
        return self.place >= len(self.script)

    def is_error(self):
        return self.place >= self.broken

    def get_error(self):
        return "too much\nof it" if self.is_error() else ""


@pytest.fixture(scope="module")
def engine(graph_mode_throughout):
    pytest.importorskip("torch")
    from twins.tiny_models import Twin

    return Twin("codegen").engine(slots=1)


SCRIPT = [{5, 6}, {3}, {9, 10, 11}]


def run(engine, broken=99):
    request = Request([1, 2], SamplingSettings(20), 40)
    request.constraint = Constraint(ScriptedMatcher(SCRIPT, 120, broken), 120, 119)
    scheduler = Scheduler(engine)
    scheduler.submit(request)
    while not request.finish:
        scheduler.step()
    return request


def test_a_request_follows_its_constraint_and_ends_with_it(engine):
    request = run(engine)
    assert request.finish == "stop"
    assert all(chosen.token in known for chosen, known in zip(request, SCRIPT, strict=True))


def test_a_constraint_that_fails_ends_its_request_only(engine):
    request = run(engine, broken=2)
    assert request.finish == "error"
    with pytest.raises(UserError, match=r"^the grammar cannot be followed further \(too much\); simplify it$"):
        list(request)
