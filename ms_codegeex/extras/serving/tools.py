"""Tools: functions that a client offers to a model, and the model's calls of them. If a model's chat template supports
tools, the template's own format is used. If an answer must be a call, a grammar enforces the functions' schemas, which
works without such a template. Calls are never executed here: the client does that and sends the results."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.json_reading import MAX_NESTING, MalformedText, parse_json
from ms_codegeex.base.printing import print_once
from ms_codegeex.extras.serving.answering import Piece
from ms_codegeex.extras.serving.backend import StreamedAnswer
from ms_codegeex.extras.serving.schemas import ChatMessage, ChosenTool, Function

MAX_TOOLS = 128
UNUSED = {"X-Unused-Fields": "tools"}  # response header if tools were ignored
CALL = {"required": ["name", "arguments"], "additionalProperties": False}
PARTIAL = re.compile(r'\s*\{\s*"name"\s*:\s*"(?P<name>[^"]+)"\s*,\s*"arguments"\s*:\s*(?P<arguments>.*)', re.DOTALL)
# Mistral's newer format
WITH_ARGUMENTS = re.compile(r"(?:\[TOOL_CALLS\])?\s*(?P<name>[\w.-]+)\s*(?:\[CALL_ID\]\w+)?\[ARGS\]")


class CallFormat(NamedTuple):
    """How models write calls, which are JSON objects (or lists of them) with a name and arguments. Chat templates that
    contain `sign` use this format. Calls stand between `begin` and `end`, or run to the answer's end if `end` is empty;
    without `begin`, they are the whole answer. Forced calls start with `opening` and are separated by `between`."""

    sign: str
    begin: str
    end: str
    opening: str
    between: str


FORMATS = (
    CallFormat("<tool_call>", "<tool_call>", "</tool_call>", "<tool_call>\n", "\n</tool_call>\n<tool_call>\n"),  # Qwen
    CallFormat("[TOOL_CALLS]", "[TOOL_CALLS]", "", "[TOOL_CALLS][", ", "),  # Mistral
    CallFormat("CodeGeeX", "```json", "```", "```json\n", "\n```\n```json\n"),  # CodeGeeX4
    CallFormat("", "", "", "", "\n"),  # Llama, and models whose templates do not support tools
)
PLAIN = FORMATS[-1]


class FunctionCall(NamedTuple):
    """A call of a function. `arguments` are a JSON text."""

    name: str
    arguments: str


@dataclass(frozen=True)
class ToolUse:
    """How an answer may use tools. `names` are the functions and `format` is how calls are written. `written` holds the
    tools for the chat template if it supports them. If `forced`, the answer must be a call, and a grammar enforces
    `schema`. `between`, if set, separates several calls under a grammar. If not `several`, only the first call counts.
    `described` describes the tools in words, for forced calls of models whose templates do not support tools.
    `left_out` tells that tools of other types were ignored."""

    names: Sequence[str]
    format: CallFormat
    written: Sequence[Mapping[str, Any]]
    forced: bool
    schema: str
    between: str
    several: bool
    described: str
    left_out: bool = False

    @property
    def headers(self) -> Mapping[str, str]:
        return {} if (self.written or self.forced) and not self.left_out else UNUSED


NO_TOOLS = ToolUse((), PLAIN, (), False, "", "", True, "")


def tool_use(
    given: Sequence[Function | None], choice: str | ChosenTool | None, several: bool | None, template: str, model: str
) -> ToolUse | None:
    """Return how an answer of `model` may use tools, or None if it may not. `given` has None in place of tools of other
    types. `template` is the text of the chat template for tools, empty if it does not support them. Raises `UserError`,
    naming the field, for a request that is not valid."""
    tools, left_out = [tool for tool in given if tool], choice != "none" and None in given
    if left_out:
        print_once(f"{model}: tools whose type is not function are left out of requests")
    if not tools:
        if choice in (None, "none", "auto"):
            return NO_TOOLS if left_out else None
        raise UserError("tool_choice: there are no tools of type function; send one, or leave it out")
    if len(tools) > MAX_TOOLS:
        raise UserError(f"tools: {len(tools)} tools; give {MAX_TOOLS} at most")
    functions = {tool.name: tool.parameters or {"type": "object", "properties": {}} for tool in tools}
    if len(functions) < len(tools):
        raise UserError("tools: two have the same name; give each another one")
    for name, parameters in functions.items():
        if parameters.get("type", "object") != "object":
            raise UserError(f"tools: the type of {name}'s parameters is not object; describe an object")
    schema = json.dumps(_schema(functions))  # even if unused: refuses schemas too deep for the prompt, which has them
    if choice == "none":
        return None
    if isinstance(choice, ChosenTool):
        if choice.called not in functions:
            raise UserError(f"tool_choice: there is no tool {choice.called!r}; give one of {', '.join(functions)}")
        functions = {choice.called: functions[choice.called]}
        schema = json.dumps(_schema(functions))
    forced = choice == "required" or isinstance(choice, ChosenTool)
    if not forced:  # used if an answer with a form may be calls instead: arguments are not restricted further
        properties = {"name": {"enum": [*functions]}, "arguments": {"type": "object"}}
        schema = json.dumps({"type": "object", "properties": properties, **CALL})
    if not template and not forced:
        print_once(f"{model}: its chat template has no place for tools, so it answers requests with tools in text")
    found = next(each for each in FORMATS if each.sign in template) if template else PLAIN
    values = [tool.model_dump(exclude={"type"}, exclude_none=True) for tool in tools]
    written = [{"type": "function", "function": each} for each in values] if template else []
    lines = [json.dumps(each, ensure_ascii=False) for each in values if each["name"] in functions]
    words = "\n".join(["Functions:", *lines, 'Answer with a call of one, as {"name": NAME, "arguments": OBJECT}.'])
    # a forced answer is one call, unless several are requested explicitly
    between = found.between if (several if choice == "required" else not forced and several is not False) else ""
    return ToolUse([*functions], found, written, forced, schema, between, several is not False, words, left_out)


def _schema(functions: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    calls, definitions = [], {}
    for number, (name, parameters) in enumerate(functions.items()):
        definitions[f"f{number}"] = _closed(_moved({"type": "object", **parameters}, f"#/$defs/f{number}"))
        properties = {"name": {"const": name}, "arguments": {"$ref": f"#/$defs/f{number}"}}
        calls.append({"type": "object", "properties": properties, **CALL})
    return {"$defs": definitions, **(calls[0] if len(calls) == 1 else {"anyOf": calls})}


def _moved(value: Any, place: str, depth: int = 0) -> Any:
    """Return a part of a schema whose root moves to `place`. Raises `UserError` if it is nested too deep."""
    if depth > MAX_NESTING:
        raise UserError(f"tools: a schema is nested deeper than {MAX_NESTING} levels; give one of fewer")
    if isinstance(value, list):
        return [_moved(each, place, depth + 1) for each in value]
    if not isinstance(value, dict):
        return value
    moved = {name: _moved(each, place, depth + 1) for name, each in value.items() if name not in ("$schema", "$id")}
    reference = moved.get("$ref")
    return moved | {"$ref": place + reference[1:]} if isinstance(reference, str) and reference[:1] == "#" else moved


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    others = {"$ref", "allOf", "anyOf", "oneOf", "if", "patternProperties", "unevaluatedProperties", "minProperties"}
    named, required = schema.get("properties"), schema.get("required", [])
    if schema.keys() & others or not isinstance(named, dict) or any(each not in [*named] for each in required):
        return schema
    return {"additionalProperties": False, **schema}


def as_text(message: ChatMessage, role: str, text: str, calls: Mapping[str, str]) -> tuple[str, str]:
    """Return a message's role and content for a template without tools. `calls` maps ids to functions' names."""
    if message.role == "tool":
        return "user", f"{calls.get(message.tool_call_id or '', 'The function')} returned:\n{text}"
    written = [f'{{"name": {json.dumps(one.function.name)}, "arguments": {one.function.arguments}}}'
               for one in message.tool_calls or ()]  # fmt: skip
    return role, "\n".join([*([text] if text else []), *written])


def as_mapping(message: ChatMessage, role: str, text: str, read: Callable[[str], str]) -> dict[str, Any]:
    """Return a message for a Jinja template, which formats arguments itself. `read` makes special tokens literal."""
    calls = []
    for one in message.tool_calls or ():
        function = {"name": one.function.name, "arguments": _read(read(one.function.arguments))}
        calls.append({"id": one.id, "type": "function", "function": function})
    known = {"tool_calls": calls or None, "tool_call_id": message.tool_call_id, "name": message.name}
    return {"role": role, "content": read(text), **{name: value for name, value in known.items() if value}}


def _read(text: str) -> Any:
    try:
        return parse_json(text, data=True)
    except MalformedText:
        return text


def _object(text: str) -> str:
    depth, quoted, escaped = 0, False, False
    for place, letter in enumerate(text):
        if quoted:
            quoted, escaped = escaped or letter != '"', letter == "\\" and not escaped
        elif letter in "}]":
            depth -= 1
            if not depth:
                return text[: place + 1]
        else:
            quoted, depth = letter == '"', depth + (letter in "{[")
    return text


class CallReader:
    """Splits an answer into text and calls as it arrives. Whatever is not a call of a known function remains text;
    without tools, that is everything."""

    def __init__(self, use: ToolUse | None):
        self.use, self.count = use or NO_TOOLS, 0
        self._held, self._seen, self._inside = "", 0, False  # `_seen`: characters already searched for a mark
        self._after = False  # whether white space is dropped because it follows a call

    def read(self, answer: StreamedAnswer, piece: Piece) -> tuple[str, list[dict[str, Any]]]:
        """Return the text and the calls of a piece in the format of a message. The ids of calls are derived from the
        prompt's ids and the seed, so they do not depend on streaming or on other requests."""
        text, calls = self.feed(piece.text, piece.finish is not None)
        written = []
        for number, call in enumerate(calls, self.count - len(calls)):
            known = f"{answer.settings.seed} {number} {' '.join(map(str, answer.ids))}"
            name = f"call_{hashlib.sha256(known.encode()).hexdigest()[:24]}"
            written.append({"id": name, "type": "function", "function": call._asdict()})
        return text, written

    def feed(self, piece: str, last: bool) -> tuple[str, list[FunctionCall]]:
        """Take the next piece. Return the text and the calls that it completes."""
        self._held += piece
        said, calls = "", list[FunctionCall]()
        if not (self.use.written or self.use.forced):
            said, self._held = self._held, ""
        elif self.use.forced or not self.use.format.begin:  # the answer is all calls or all text
            said = self._read_whole(calls, last)
        else:
            said = self._read_marked(calls, last)
        calls = calls if self.use.several else calls[: max(0, 1 - self.count)]
        self.count += len(calls)
        return said, calls

    def _read_whole(self, calls: list[FunctionCall], last: bool) -> str:
        begun = self._held.lstrip()
        if last:
            held, rest, self._held = self._held, self._held, ""
            while self.use.forced and rest:
                one = _object(rest)
                match = PARTIAL.match(one)
                partial = [FunctionCall(match["name"], _object(match["arguments"]))] if match else []
                calls += self._calls(one) or partial
                rest = rest[len(one) :].removeprefix(self.use.between)
            calls += [] if self.use.forced else self._calls(held)
            return "" if calls else held
        if begun and begun[0] not in "{[" and not self.use.forced:
            self.use = NO_TOOLS
            said, self._held = self._held, ""
            return said
        return ""

    def _read_marked(self, calls: list[FunctionCall], last: bool) -> str:
        begin, end = self.use.format.begin, self.use.format.end
        said = ""
        while True:
            mark = end if self._inside else begin
            place = self._held.find(mark, max(0, self._seen - len(mark))) if mark else -1
            if place < 0:
                break
            before, self._held, self._seen = self._held[:place], self._held[place + len(mark) :], 0
            if self._inside:
                found = self._calls(before)
                calls += found
                said += "" if found else f"{begin}{before}{end}"
                self._after = bool(found)
            else:
                said += self._spaced(before)
            self._inside = not self._inside
        self._seen = len(self._held)
        if last:
            held, self._held = self._held, ""
            found = self._calls(held) if self._inside else []
            calls += found
            return said + ("" if found else f"{begin}{held}" if self._inside else self._spaced(held))
        if not self._inside:
            waits = (size for size in range(len(begin) - 1, 0, -1) if self._held.endswith(begin[:size]))
            ready = len(self._held) - next(waits, 0)
            said += self._spaced(self._held[:ready])
            self._held, self._seen = self._held[ready:], 0
        return said

    def _spaced(self, text: str) -> str:
        text = text.lstrip() if self._after else text
        self._after = self._after and not text
        return text

    def _calls(self, text: str) -> list[FunctionCall]:
        if WITH_ARGUMENTS.match(text):
            pieces = WITH_ARGUMENTS.split(text)  # "", name, arguments, name, arguments, …
            pairs = zip(pieces[1::2], pieces[2::2], strict=True)
            return self._known([{"name": name, "arguments": said} for name, said in pairs])
        value = _read(text.strip())
        return self._known(value if isinstance(value, list) else [value])

    def _known(self, values: Sequence[Any]) -> list[FunctionCall]:
        calls = []
        for value in values:
            if not isinstance(value, dict) or value.get("name") not in self.use.names:
                return []
            given = value.get("arguments", value.get("parameters", {}))
            given = _read(given) if isinstance(given, str) else given
            if not isinstance(given, dict):
                return []
            calls.append(FunctionCall(value["name"], json.dumps(given, ensure_ascii=False)))
        return calls
