"""A model's own chat template: rendered as transformers renders it, learnt, and kept within limits."""

import json
import os
import signal

import pytest

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.conversations import TEMPLATES
from ms_codegeex.data.jinja_templates import JinjaChat, JinjaTemplate, TemplateError, chatml

CHATML = (
    "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n'}}{% endif %}"
)
MARKED = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] + '<|end|>' }}{% endgeneration %}{% else %}{{ m['content'] + '<|end|>' }}"
    "{% endif %}{% endfor %}"
)
ODD = """\
{%- if tools %}
  {{- 'tools ' + (tools | tojson) }}
{%- endif %}
{{- bos_token }}
{%- set ns = namespace(count=0) %}
{% for message in messages %}
    {% if message.role == 'system' %}{% continue %}{% endif %}
    {%- set ns.count = ns.count + 1 %}
    <{{ ns.count }}>{{ message.content | trim }}{{ eos_token if message.role == 'assistant' }}
{% endfor %}
{{ strftime_now('%Y') | length }}"""
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
MESSAGES = [("system", "S"), ("user", "Q <1>"), ("assistant", "A\n"), ("user", "Q2"), ("assistant", "B")]


def chat(text, **more):
    return JinjaChat(JinjaTemplate((("default", text),), **more), TOKENS)


def in_transformers(text, messages, asks, tools=None):
    from transformers.utils.chat_template_utils import render_jinja_template

    messages = [{"role": role, "content": content} for role, content in messages]
    ((rendered,), _) = render_jinja_template(
        [messages], tools=tools, chat_template=text, add_generation_prompt=asks, **TOKENS
    )
    return rendered


CALLED = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "\u00e9<"}}}
WITH_TOOLS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How warm is it?"},
    {"role": "assistant", "content": "", "tool_calls": [CALLED, CALLED]},
    {"role": "tool", "content": "21", "tool_call_id": "c1"},
    {"role": "tool", "content": "22", "tool_call_id": "c1"},
    {"role": "assistant", "content": "Warm."},
    {"role": "user", "content": "Thanks."},
]


def test_chatml_with_tools_is_read_back():
    """By the reader of calls in the server; rendered as in transformers, with the functions in the system's message."""
    transformers = pytest.importorskip("transformers")
    from ms_codegeex.extras.serving.schemas import Function
    from ms_codegeex.extras.serving.tools import CallReader, tool_use

    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
    (text,) = dict(chatml().texts).values()
    own = JinjaChat(chatml(), {"eos_token": "<|endoftext|>"}, ["<|im_end|>", "<|endoftext|>"])
    for given in ((), tools):
        for end in (2, 3, 5, 7):
            ((theirs,), _) = transformers.utils.chat_template_utils.render_jinja_template(
                [WITH_TOOLS[:end]], tools=given or None, chat_template=text, add_generation_prompt=True
            )
            assert own.prompt(WITH_TOOLS[:end], given) == theirs
    asked = own.prompt(WITH_TOOLS, tools)
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "\u00e9<"}}\n</tool_call>'
    _, *turns = asked.split("<|im_start|>")
    assert (
        turns[0].startswith("system\nBe brief.\n\n")
        and '{"type": "function", "function": {"name": "weather"' in turns[0]
    )
    assert [turn.removesuffix("<|im_end|>\n") for turn in turns[2:4]] == [
        f"assistant\n{call}\n{call}",
        "user\n<tool_response>\n21\n</tool_response>\n<tool_response>\n22\n</tool_response>",
    ]
    assert own.stop == ("<|im_end|>",) and own.tools_text == text
    reader = CallReader(tool_use([Function(**tools[0]["function"])], None, None, own.tools_text, "m"))
    said, calls = reader.feed(f"I look.\n{call}", last=True)
    assert said == "I look.\n" and [(one.name, json.loads(one.arguments)) for one in calls] == [
        ("weather", {"city": "\u00e9<"})
    ]
    first, second = own.answers(MESSAGES)
    assert (first.end, second.end, first.marked) == ("<|im_end|>", "<|im_end|>", True)


@pytest.mark.parametrize("text", [CHATML, MARKED, ODD, *(ours.jinja() for ours in TEMPLATES.values())])
def test_it_is_rendered_as_in_transformers(text):
    pytest.importorskip("transformers")
    tools = [{"type": "function", "function": {"name": "f<", "description": "é"}}]
    for asked in (MESSAGES[:2], MESSAGES[1:4]):
        assert chat(text).prompt(asked) == in_transformers(text, asked, True)
        assert chat(text).prompt(asked, tools) == in_transformers(text, asked, True, tools)


@pytest.mark.parametrize("name", TEMPLATES)
def test_ours_in_jinja_are_ours(name):
    ours = TEMPLATES[name]
    exported = chat(ours.jinja())
    for asked in (MESSAGES[:2], MESSAGES[1:4], [("system", ""), ("user", '"\\n{{ x }} {round}')]):
        assert exported.prompt(asked) == ours.prompt(asked)
    learnt, expected = exported.answers(MESSAGES), ours.answers(MESSAGES)
    assert [one.text for one in learnt] == [other.text[: other.size] for other in expected]
    assert [(one.answer, one.end) for one in learnt] == [("A\n", "</s>"), ("B", "</s>")][: len(learnt)]
    assert exported.stop == ()  # the end token alone


def test_an_answer_is_learnt_with_its_end():
    first, second = chat(CHATML).answers(MESSAGES)
    assert (first.answer, first.end) == ("A\n", "<|im_end|>") and (second.answer, second.end) == ("B", "<|im_end|>")
    assert first.text.decode() == "".join(
        f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in MESSAGES[:2]
    ) + ("<|im_start|>assistant\n")
    assert first.size == len(first.text) and first.marked
    assert chat(CHATML).stop == ("<|im_end|>",) and chat(CHATML, ends=("x",)).stop == ("x",)


def test_marks_of_generations_say_what_is_learnt():
    first, second = chat(MARKED).answers(MESSAGES)
    assert first.text == b"<|system|>S<|end|><|user|>Q <1><|end|><|assistant|>"
    assert (first.answer, first.end, second.answer, second.end) == ("A\n", "<|end|>", "B", "<|end|>")
    twice = MARKED.replace("{% generation %}", "{% generation %}{% endgeneration %}{% generation %}")
    with pytest.raises(TemplateError, match="marks 4 generations in a conversation with 2 answers"):
        chat(twice).answers(MESSAGES)


def test_a_template_whose_prompt_is_not_how_the_conversation_begins_is_refused():
    with pytest.raises(TemplateError, match=r"cannot be trained in; mark answers in it with \{% generation %\}"):
        chat(CHATML.replace("{% for", "{{ messages | length }}{% for")).answers(MESSAGES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "it does not end"),
        ("{% set n = namespace(x='aa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}", "MiB"),
        ("{{ 'a' * 100000000 }}", "more than 16,777,216 characters"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "without end"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% if %}", "Expected an expression"),
        ("{{ '\\ud800' }}", "surrogates not allowed"),
        ("{{ raise_exception('no systems here') }}", "no systems here"),
    ],
)
def test_a_hostile_template_is_stopped(text, message):
    own = chat(text)
    with pytest.raises(UserError, match=message):
        own.prompt(MESSAGES[:2])
    own.template = JinjaTemplate((("default", CHATML),))  # the next one is rendered
    assert own.prompt(MESSAGES[:2]).endswith("assistant\n")


def test_ctrl_c_leaves_the_next_prompt_right(monkeypatch):
    """In a terminal, the process that renders gets it too; here it comes while an answer is read."""
    own = chat(CHATML)
    own.prompt(MESSAGES[:2])
    os.kill(own._renderer._process.pid, signal.SIGINT)
    assert own.prompt(MESSAGES[:2]).endswith("assistant\n")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(own._renderer._process, "stdout", Interrupted(own._renderer._process.stdout))
        own.prompt([("user", "An answer that nobody reads.")])
    assert "nobody" not in own.prompt(MESSAGES[:2])
    own.close()


class Interrupted:
    def __init__(self, stream):
        self.close = stream.close

    def readline(self):
        raise KeyboardInterrupt
