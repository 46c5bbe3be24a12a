"""Records of fine-tuning data as pairs of prompt and answer: the text formats only, no tokens or files.

completion: `prompt` or `instruction` (+ `input`), then `completion`, `response` or `output`; the tag line of
    `language`, if given, precedes the prompt.
chat: `messages`, a list of `{"role": "system" | "user" | "assistant", "content": ...}`. Each message of the assistant
    is the answer of one example, whose prompt is everything before it, in a template of `data.conversations`.
translation: `source_language`, `target_language`, `source`, `target`; the prompt is the line `code translation`, the
    source below its language, and the other language.

Source: CodeGeeX's fine-tuning packer and translation prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.json_reading import Malformed, parse_json
from ms_codegeex.data.conversations import TEMPLATES, ChatTemplate, translation_name, translation_prompt
from ms_codegeex.data.languages import find_language, tag_prefix

PROMPTS, ANSWERS = ("prompt", "instruction"), ("completion", "response", "output")
ROLES = ("system", "user", "assistant")
# who may speak after whom
TURNS = {("system", ""), ("user", ""), ("user", "system"), ("user", "assistant"), ("assistant", "user")}


class BadRecord(Exception):
    """A record that gives no example: a short `reason`, and a `detail` with the problem and its position."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Example:
    """A prompt and its answer. The loss counts the answer and the end token after it.

    The prompt is the first `size` bytes of `text`, which all examples of a conversation share.
    """

    text: bytes
    size: int
    answer: str
    language: str = ""


def parse(line: bytes) -> Mapping[str, Any]:
    """One line of JSON as an object; `BadRecord` for anything else."""
    try:
        record = parse_json(line.decode("utf-8"), data=True)
    except UnicodeDecodeError as error:
        raise BadRecord("not UTF-8", f"byte {error.start} of the line") from None
    except Malformed as error:
        raise BadRecord("invalid JSON", str(error)) from None
    if not isinstance(record, dict):
        raise BadRecord("not an object", f"found {type(record).__name__}")
    return record


def reader(task: str, template: str, tags: str) -> Callable[[Mapping[str, Any]], list[Example]]:
    """A function that turns a record of `task` into its examples; it raises `BadRecord`.

    Args:
        task: completion, chat or translation.
        template: a name of `conversations.TEMPLATES`, for chat.
        tags: scheme of the tag line for completions that name their language; `none` writes no tag.
    """
    if task == "completion":
        return lambda record: [_completion(record, tags)]
    if task == "chat":
        return lambda record: _chat(record, TEMPLATES[template])
    return lambda record: [_translation(record)]


def task_of(record: Mapping[str, Any]) -> str:
    """The task that a record's fields belong to."""
    if "messages" in record:
        return "chat"
    return "translation" if {"source_language", "target_language"} & record.keys() else "completion"


def _string(record: Mapping[str, Any], name: str) -> str:
    value = record[name]
    if not isinstance(value, str):
        raise BadRecord("wrong type", f"{name} is {type(value).__name__}, expected a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRecord("not UTF-8", f"{name} has half of a surrogate pair at character {error.start}") from None
    return value


def _field(record: Mapping[str, Any], names: Sequence[str]) -> str:
    """The first of the fields `names` that exists."""
    present = next((name for name in names if name in record), None)
    if present is None:
        raise BadRecord("missing field", " or ".join(names))
    return _string(record, present)


def _answer(text: str, name: str) -> str:
    if not text:
        raise BadRecord("empty answer", name)
    return text


def _example(prompt: str, answer: str, language: str = "") -> Example:
    text = prompt.encode()
    return Example(text, len(text), answer, language)


def _completion(record: Mapping[str, Any], tags: str) -> Example:
    prompt = _field(record, PROMPTS)
    if "prompt" not in record and record.get("input"):
        prompt += "\n" + _string(record, "input")
    answer = _answer(_field(record, ANSWERS), "completion")
    if record.get("language") is None:
        return _example(prompt, answer)
    name = _string(record, "language")
    try:
        language = find_language(name)
    except UserError:
        raise BadRecord("unknown language", name) from None
    return _example(tag_prefix(language.name, tags).decode() + prompt, answer, language.name)


def _chat(record: Mapping[str, Any], template: ChatTemplate) -> list[Example]:
    """An example for each of the assistant's messages, with all earlier messages as its prompt.

    One row for the whole conversation would need an end token after each answer, but an end token inside a row ends the
    document: attention restarts after it.
    """
    messages = record.get("messages")
    if not isinstance(messages, list):
        raise BadRecord("missing field", "messages, a list")
    said = list[tuple[str, str]]()
    for index, (role, content) in enumerate(map(_message, messages)):
        before = said[-1][0] if said else ""
        if (role, before) not in TURNS:
            raise BadRecord("order of roles", f"message {index} is by {role} and follows {before or 'nothing'}")
        if role == "assistant":
            _answer(content, f"message {index}")
        said.append((role, content))
    if "assistant" not in dict(said):
        raise BadRecord("empty answer", "no message by the assistant")
    text, answers = bytearray(), list[tuple[int, str]]()
    for (role, _), (before, content, after) in zip(said, template.parts(said), strict=True):
        text += before.encode()
        if role == "assistant":
            answers.append((len(text), content))
        text += (content + after).encode()
    whole = bytes(text)
    return [Example(whole, size, answer) for size, answer in answers]


def _message(message: Any) -> tuple[str, str]:
    if not isinstance(message, dict) or message.get("role") not in ROLES or "content" not in message:
        raise BadRecord("wrong type", f"a message is not an object with role ({', '.join(ROLES)}) and content")
    return message["role"], _string(message, "content")


def _translation(record: Mapping[str, Any]) -> Example:
    source, target = _field(record, ("source",)), _field(record, ("target",))
    names = [translation_name(_field(record, (name,))) for name in ("source_language", "target_language")]
    for name in names:
        if not name or "\n" in name:
            raise BadRecord("unknown language", repr(name))
    return _example(translation_prompt(*names, source), _answer(target, "target"), names[1])
