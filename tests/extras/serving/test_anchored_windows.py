"""While one types, the start of what is sent and computed stays: 150 keystrokes in a file above 4,000 characters."""

import json
import subprocess
from functools import cache
from itertools import pairwise

import pytest
from conftest import ROOT
from fake_backend import FakeBackend, cached_tokenizer, fake_model
from hypothesis import given
from hypothesis import strategies as st
from test_editor_extension import EXTENSION, node_version

from ms_codegeex.data.infilling.sentinels import JOINED, ORDERS, PARTS, Sentinels
from ms_codegeex.extras.serving.infilling import infill_prompt
from ms_codegeex.extras.serving.model import STEP, anchored, step_of
from ms_codegeex.extras.serving.routes.completions import completion_plan
from ms_codegeex.extras.serving.schemas import CompletionRequest

KEYSTROKES, BEGIN = 150, 7000
TEXT = (ROOT / "ms_codegeex" / "base" / "options.py").read_text(encoding="utf-8")
BEFORE, TYPED, AFTER = TEXT[:BEGIN], TEXT[BEGIN : BEGIN + KEYSTROKES], TEXT[BEGIN + KEYSTROKES :]
TYPING = [BEFORE + TYPED[:count] for count in range(1, KEYSTROKES + 1)]
PROGRAM = """
const { windowStart } = require('./src/logic/around');
const { requested } = require('./src/logic/completer');
const [places, after] = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const preferences = { model: '', preference: 'block', maxTokens: 128, temperature: 0, topP: 1, topK: 0 };
console.log(JSON.stringify(places.map((text) => {
  const start = windowStart(text.length, 4000);
  const place = { document: 'a', offset: text.length, before: text.slice(start), cut: start > 0, after };
  return requested({ ...place, language: 'Python', asked: false }, preferences).body;
})));
"""


def reused(prompts):
    """The share of all ids that a slot has from the prompt before."""
    known = 0
    for old, new in pairwise(prompts):
        pairs = enumerate(zip(old, new, strict=False))
        known += next((place for place, (one, other) in pairs if one != other), min(len(old), len(new)))
    return known / sum(map(len, prompts))


def test_the_extension_and_the_server_together():
    if node_version() < 20:
        pytest.skip("needs Node 20 or later")
    found = subprocess.run(
        ["node", "-e", PROGRAM], input=json.dumps([TYPING, AFTER[:1000]]), capture_output=True, text=True,
        cwd=EXTENSION, timeout=300, check=True,
    )  # fmt: skip
    bodies = json.loads(found.stdout)
    assert all(2800 <= len(body["prompt"]) <= 4000 for body in bodies)
    backend = FakeBackend(model=fake_model(context=2048))
    prompts = [completion_plan(CompletionRequest(**body), backend).prompts[0] for body in bodies]
    assert reused(prompts) >= 0.95


def test_a_prompt_that_the_server_truncates():
    backend = FakeBackend(model=fake_model(context=1024))
    bodies = [CompletionRequest(prompt=text, max_tokens=64, truncate_prompt=True) for text in TYPING]
    prompts = [completion_plan(body, backend).prompts[0] for body in bodies]
    assert all(960 - step_of(960) < len(ids) <= 960 for ids in prompts) and reused(prompts) >= 0.95


def test_a_prompt_that_is_too_long_to_be_encoded_whole():
    """By characters: its start moves in steps too."""
    model = fake_model(context=16)
    text = TEXT * (2 * model.max_characters // len(TEXT) + 1)
    prompts = {tuple(model.encode(text[: len(text) - 40 + count], room=4)[:6]) for count in range(40)}
    assert len(prompts) < 15


@pytest.mark.parametrize("order", [*ORDERS.values(), JOINED], ids="-".join)
@pytest.mark.parametrize("suffix", [AFTER[:3000], AFTER[:300]])
def test_a_prompt_with_sentinels_that_the_server_truncates(order, suffix):
    ids = cached_tokenizer().sentinels
    model = fake_model(context=1024, sentinels=Sentinels(*ids, order=order))
    found = [infill_prompt(model, text, suffix, 960) for text in TYPING]
    assert all(cut and 960 - 2 * step_of(960) <= len(prompt) <= 960 for prompt, cut, _ in found)
    prompts = [prompt for prompt, _, _ in found]
    if order == PARTS:  # the suffix comes after what is typed
        prompts = [prompt[: prompt.index(model.sentinels.suffix)] for prompt in prompts]
    assert reused(prompts) >= 0.95


def test_a_growing_prefix_changes_the_end_of_a_long_suffix_in_steps():
    """With the suffix first, each change of it would be a prompt of which nothing is known."""
    ids = cached_tokenizer().sentinels
    model = fake_model(context=1024, sentinels=Sentinels(*ids, order=ORDERS["spm"]))
    found = [infill_prompt(model, text[BEGIN - 900 :], AFTER, 960) for text in TYPING]
    assert all(cut and len(prompt) > 800 for prompt, cut, _ in found)
    assert reused([prompt for prompt, _, _ in found]) >= 0.95


@cache
def lengths(room):
    return [anchored(length, room) for length in range(1, 6 * room)]


@given(st.integers(1, 3000))
def test_as_much_as_fits_less_one_step(room):
    for length, kept in enumerate(lengths(room), 1):
        assert kept == length if length <= room else room - step_of(room) < kept <= room
    starts = [length - kept for length, kept in enumerate(lengths(room), 1)]
    assert starts == sorted(starts) and len(set(starts)) <= 5 * room / step_of(room) + 2 and step_of(room) <= STEP
