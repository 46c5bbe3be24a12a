"""Chat templates of models, in Jinja, as Hugging Face's tokenizers have them. They are rendered as transformers renders
them, but in a process of their own with limits (`inside/chat_renderer.py`)."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.json_reading import parse_json
from ms_codegeex.data.conversations import LearntAnswer, Message

DEFAULT, WITH_TOOLS = "default", "tool_use"  # names of templates, as transformers chooses them
_RENDERER = Path(__file__).parent / "inside" / "chat_renderer.py"
_CHATML = Path(__file__).with_name("chatml.jinja")
_UNIT = re.compile(r"<[^<>\s]+>|\[/?\w+\]|\s+|[^\s<\[]+|.")  # of what follows an answer; names of tokens are whole
_QUESTION, _ANSWER = "Which one?", "The second."


class TemplateError(UserError):
    """A template that cannot be rendered, or refuses a conversation."""


@dataclass(frozen=True)
class JinjaTemplate:
    """A model's own templates by their names, `default` first. `ends`: texts that end an answer, if they are not those
    that the template shows."""

    texts: tuple[tuple[str, str], ...]
    ends: tuple[str, ...] | None = None

    @property
    def default(self) -> str:
        return dict(self.texts).get(DEFAULT, self.texts[0][1])

    def text_for(self, tools: bool) -> str:
        return dict(self.texts).get(WITH_TOOLS, self.default) if tools else self.default


def chatml() -> JinjaTemplate:
    return JinjaTemplate(((DEFAULT, _CHATML.read_text(encoding="utf-8")),))


class _Rendered(NamedTuple):
    text: str
    spans: list[list[int]]


class Renderer:
    """The process that renders. It starts with the first template, and ends with this object or this process."""

    def __init__(self) -> None:
        self._lock, self._process = threading.Lock(), None

    def render(self, template: str, values: Mapping[str, Any]) -> _Rendered:
        """The text, and its generations. `TemplateError`: the template is none, fails, or exceeds the limits."""
        with self._lock:
            if self._process is None:
                self._process = self._started()
            request = f"{json.dumps({'template': template, 'values': values})}\n"
            try:
                self._process.stdin.write(request.encode())
                self._process.stdin.flush()
                line = self._process.stdout.readline()
            except OSError:
                line = b""
            except BaseException:  # Ctrl-C: an answer that nobody reads would be taken for the next one's
                _end(self._process)
                self._process = None
                raise
            if not line:
                _end(self._process)
                self._process = None
                raise TemplateError("it does not end, or needs too much memory; the program that ran it was stopped")
        answer = parse_json(line, data=True)
        if "error" in answer:
            raise TemplateError(answer["error"])
        return _Rendered(answer["text"], answer["spans"])

    def _started(self) -> subprocess.Popen[bytes]:
        how: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen([sys.executable, "-I", str(_RENDERER)], **how)
        self._ending = weakref.finalize(self, _end, process)
        return process

    def close(self) -> None:
        """End the process. The next template would start another one."""
        with self._lock:
            if self._process is not None:
                self._ending()
                self._process = None


def _end(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            stream.close()
    process.kill()
    process.wait()


class JinjaChat:
    """A model's own template with the special tokens of its tokenizer (`Tokenizer.special_texts`): a `ChatFormat`.
    `ends` end answers besides what the template shows."""

    def __init__(self, template: JinjaTemplate, tokens: Mapping[str, str], ends: Sequence[str] = ()) -> None:
        self.template, self._tokens, self._ends, self._renderer = template, dict(tokens), ends, Renderer()

    def _render(
        self, messages: Sequence[Message | Mapping[str, Any]], asks: bool, tools: Sequence[Any] = ()
    ) -> _Rendered:
        written = [m if isinstance(m, Mapping) else dict(zip(("role", "content"), m, strict=True)) for m in messages]
        values = {**self._tokens, "messages": written, "tools": [*tools] or None, "documents": None}
        try:
            return self._renderer.render(self.template.text_for(bool(tools)), {**values, "add_generation_prompt": asks})
        except TemplateError as error:
            raise TemplateError(f"the model's chat template: {error}") from None

    @cached_property
    def stop(self) -> tuple[str, ...]:
        """What the template writes after an answer, wherever it stands."""
        if self.template.ends is not None:
            return self.template.ends
        once = [("user", _QUESTION), ("assistant", _ANSWER)]
        after = [self._render(said, False).text.rpartition(_ANSWER)[2] for said in (once,)]
        with contextlib.suppress(TemplateError):  # it may allow one question only
            after.append(self._render([*once, ("user", _QUESTION)], False).text.rpartition(_ANSWER)[2])
        units = zip(*(_UNIT.findall(text.lstrip()) for text in after), strict=False)
        common = [unit[0] for unit in takewhile(lambda unit: len({*unit}) == 1, units)]
        end = "".join(takewhile(lambda unit: not unit.isspace(), common))
        return tuple(
            text for text in dict.fromkeys([end, *self._ends]) if text and text != self._tokens.get("eos_token")
        )

    def close(self) -> None:
        self._renderer.close()

    @property
    def tools_text(self) -> str:
        text = self.template.text_for(True)
        return text if "tools" in text else ""

    def prompt(self, messages: Sequence[Message | Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """See `ChatFormat.prompt`. `TemplateError`: the template refuses the messages."""
        return self._render(messages, True, tools).text

    def answers(self, messages: Sequence[Message]) -> list[LearntAnswer]:
        """See `ChatFormat.answers`. An answer is what the template adds to the prompt, without white space at the end;
        or what it marks with `{% generation %}`. `TemplateError` if the prompt is not how the conversation begins."""
        places = [number for number, (role, _) in enumerate(messages) if role == "assistant"]
        if not places:
            return []
        whole = self._render(messages[: places[-1] + 1], False)
        if whole.spans:
            if len(whole.spans) != len(places):
                marks = f"marks {len(whole.spans)} generations in a conversation with {len(places)} answers"
                raise TemplateError(f"the model's chat template: {marks}; mend its {{% generation %}} blocks")
            text = whole.text
            return [
                _answer(text[:start], text[start:end], messages[place][1])
                for place, (start, end) in zip(places, whole.spans, strict=True)
            ]
        answers = []
        for place in places:
            before = self._render(messages[:place], True).text
            after = whole.text if place == places[-1] else self._render(messages[: place + 1], False).text
            if not after.startswith(before):
                odd = "what it writes before an answer is not how it begins the conversation with that answer"
                remedy = "mark answers in it with {% generation %}, or train on a dataset of `prepare --template plain`"
                raise TemplateError(f"the model's chat template: {odd}, so it cannot be trained in; {remedy}")
            answers.append(_answer(before, after[len(before) :].rstrip() or messages[place][1], messages[place][1]))
        return answers


def _answer(before: str, said: str, content: str) -> LearntAnswer:
    prompt = before.encode()
    if said == content.rstrip():  # nothing ends it but the end token
        return LearntAnswer(prompt, len(prompt), content, marked=True)
    kept = next((text for text in (content, content.strip()) if said.startswith(text)), "")
    return LearntAnswer(prompt, len(prompt), kept, said[len(kept) :], marked=True)
