"""Bodies with one wrong field, for every route that answers: a 400 that names the field, and nothing is computed."""

import pytest
from all_routes import BODIES
from asking import ask_all
from fake_backend import tuned

from ms_codegeex.extras.serving.schemas import MAX_PROMPT_IDS

LONG = "x = 1\n" * 300
TALK = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
IMAGE = [{"role": "user", "content": [{"type": "image_url"}]}]
NOTHING = [{"role": "user"}]
IN_FILES = [{}, {"filename": "ok"}, {"filename": 123}, {"filename": 123, "text": "abc"}, {"text": 456}]
BIASES = [{"x": True}, {"9" * 5000: 1}, [[number, 1] for number in range(301)], [[1]], [["x", True]], [["x", "1"]],
          [["x" * 10_000, 1e7]], [[1e99, 1]]]  # fmt: skip
PROMPTS = [[1] * (MAX_PROMPT_IDS + 1), [[]], 5, [], [999999], [-1], [True], [[1.5]], ["x"] * 129, LONG, {}]
INPUTS = ["", [], ["x", ""], [[]], LONG, [10**9], ["x"] * 2049, {"text": "x"}, [1, "x"], [True], 1]
WRONG = {  # route: field: values; what else it needs to be wrong is in NEEDED
    "/v1/completions": {
        "prompt": [*PROMPTS, ["x", 1], [1, "x"], [2**70], {"x": 1}, ["x"] * 5000],
        "temperature": [-1, "hot"],
        "max_tokens": [1.5, -2, -5],
        "logit_bias": [*BIASES, {str(number): 1.0 for number in range(301)}, {"1": 1e300}, {"-1": 1}],
        "best_of": [2, 10**9],
        "n": [10**6, -1],
        "logprobs": [1000, 10**6],
        "top_k": [1 << 31, 10**400, -2, 1.5],
        "seed": ["x"],
        "stop": [["a"] * 10_000, [None]],
        "language": ["Klingon", "x" * 50_000, "\n# language: C"],
        "stop_at": ["page", "block"],
        "stream": ["yes"],
        "stream_options": [[1]],
    },
    "/v1/chat/completions": {"messages": [[], TALK, IMAGE, NOTHING], "top_logprobs": [2]},
    "/v1/responses": {
        "input": [[], TALK, IMAGE, [{"type": "item_reference", "id": "x"}], [{"type": "reasoning", "summary": []}]],
        "previous_response_id": ["resp_1"],
        "max_output_tokens": [0, "many"],
        "n": [2],
        "text": [{"format": {"type": "json_schema", "name": "x", "schema": []}}, {"format": {"type": "xml"}}],
        "stop": ["\ud83d"],
    },
    "/infill": {
        "n_predict": ["many", -2],
        "n_indent": [-1],
        "n_cmpl": [1000],
        "t_max_predict_ms": [10**400],
        "top_k": [10**10],
        "logit_bias": BIASES,
        "input_prefix": [1],
        "input_extra": [[each] for each in IN_FILES],
        "max_tokens": ["many"],
        "top_p": [-0.1],
        "repeat_penalty": [0],
    },
    "/v1/embeddings": {"input": INPUTS},
    "/v1/code/explain": {"code": ["  \n", 1], "language": ["Klingon", None], "locale": ["de"]},
    "/v1/code/translate": {"source_language": ["Klingon"], "target_language": [""]},
    "/v1/code/fix": {"temperature": [-1], "n": [0, 1000]},
    "/v1/code/sql": {"max_tokens": [0]},
    "/v1/code/comment": {"code": [LONG]},
    "/tokenize": {"content": [None, 1]},
    "/detokenize": {"tokens": ["1", [-1], [10**30], [True], [1.5]]},
}
NEEDED = {"best_of": {"n": 3}, "stop_at": {"language": "SQL"}}


@pytest.mark.parametrize("path", WRONG)
def test_a_wrong_field_is_a_400_that_names_it(path):
    backends = []

    def make():
        backends.append(tuned("codegeex2"))
        return backends[0]

    cases = [(name, value) for name, values in WRONG[path].items() for value in values]
    responses = ask_all(path, [{**BODIES[path], name: value, **NEEDED.get(name, {})} for name, value in cases], make)
    for (name, value), response in zip(cases, responses, strict=True):
        error = response.json()["error"]
        assert (response.status_code, error["type"]) == (400, "invalid_request_error"), (name, value)
        assert error["param"] == name or path == "/detokenize"  # where a message begins with the id
        assert path != "/v1/embeddings" or "truncate_prompt" not in error["message"]
    assert not backends[0].asked
