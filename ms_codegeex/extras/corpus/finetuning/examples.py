"""Turn records of fine-tuning data into pairs of prompt and answer, by the layouts of `corpus.layouts`. Tokens and
files are handled elsewhere.

completion: the prompt is the system text, the texts of the history, the instruction and its input, each on a new line;
    the tag line of `language`, if given, precedes them.
chat: each message of the assistant is the answer of one example, whose prompt is everything before it, in a template of
    `data.conversations`.
translation: the prompt is the line `code translation`, the source below its language, and the other language.

Source: CodeGeeX's fine-tuning packer and translation prompt."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.json_reading import MalformedText, parse_json
from ms_codegeex.data.conversations import ChatFormat, LearntAnswer, translation_name, translation_prompt
from ms_codegeex.data.jinja_templates import TemplateError
from ms_codegeex.data.languages import find_language, tag_prefix
from ms_codegeex.extras.corpus.layouts import RecordLayout, Table, absent, table

# the roles that may follow each role
TURNS = {"": "system user", "system": "system user", "user": "assistant", "assistant": "user"}
_TEXT_PARTS = (None, "text", "input_text", "output_text")
_TEXT_OF_PART = ("text", "value", "content")
_OF_PARTS = ("type", *_TEXT_OF_PART, "cache_control", "annotations")
_SHOWN = 8  # fields named in an error message

Note = Callable[[str, str], object]
"""Is called with a remark on a record that is used, and its place in the record or ""."""


class BadRecord(Exception):
    """A record that yields no example. `reason` is short; `detail` names the problem and its position."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Example(LearntAnswer):
    """An answer and its prompt: the first `size` bytes of `text`, which the examples of a conversation may share. The
    loss counts the answer, its end and the end token."""

    language: str = ""


class Turn(NamedTuple):
    """A message. If it is the assistant's, `trained` says whether it is learnt."""

    role: str
    content: str
    trained: bool = True


def reader(task: str, chat: ChatFormat, tags: str) -> Callable[[Mapping[str, Any], Note], list[Example]]:
    """Return a function that turns a record of `task` (completion, chat, translation) into its examples, or raises
    `BadRecord`. `chat` is the format of conversations, and `tags` the scheme of the tag line for completions that name
    their language; `none` writes no tag."""
    layouts = table()

    def read(record: Mapping[str, Any], note: Note) -> list[Example]:
        layout = _layout(layouts, record, task)
        note(f"read as {layout.name}", ", ".join(layout.used(record)))
        _check_further(layout, record, note)
        if task == "completion":
            return [_completion(layouts, layout, record, note, tags)]
        if task == "chat":
            return _chat(_turns(layouts, layout, record, note), chat, note)
        return [_translation(layout, record)]

    return read


def _layout(layouts: Table, record: Mapping[str, Any], task: str) -> RecordLayout:
    layout = layouts.of(record, task)
    if (layout is None or layout.task != "tokenised") and _holds_columns(record):
        raise BadRecord("object of columns", f"{', '.join(map(_valid, record))}: each has all values of a table")
    if layout is not None and layout.task == task:
        return layout
    found = _found(record)
    if layout is not None:
        raise BadRecord(f"record of another task ({layout.task})", layout.advice(record) or f"{layout.name} ({found})")
    wanted = next(each for each in layouts.layouts if each.task == task)
    use = next((use for use in wanted.by if not wanted.values(record, use)), wanted.by[0])
    raise BadRecord("missing field", f"{' or '.join(wanted.uses[use].split())}; found {found}")


def _holds_columns(record: Mapping[str, Any]) -> bool:
    lists = [[*it.values()] if isinstance(it, dict) and "0" in it else it for it in record.values() if it is not None]
    several = all(isinstance(each, list) and each and not isinstance(each[0], dict) for each in lists)
    return several and (len(lists) > 1 or any(isinstance(each[0], list) for each in lists))


def _found(record: Mapping[str, Any]) -> str:
    return ", ".join([_valid(name) for name, value in record.items() if not absent(value)][:_SHOWN]) or "none"


def _check_further(layout: RecordLayout, record: Mapping[str, Any], note: Note, where: str = "") -> None:
    for name, why in layout.further(record):
        if why:
            raise BadRecord(f"field {name}", f"{where}{why}")
        note(f"field {_valid(name)}{f' of a {layout.name}' * bool(where)} is not known and was not used", where)


def _valid(name: str) -> str:
    return name[:40].encode("utf-8", "replace").decode()


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise BadRecord("wrong type", f"{name} is {type(value).__name__}, expected a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRecord("not UTF-8", f"{name} has half of a surrogate pair at character {error.start}") from None
    return value


def _one(layout: RecordLayout, record: Mapping[str, Any], use: str) -> tuple[str, Any]:
    found = layout.values(record, use)
    found = {name: value for name, value in found.items() if value != ""} or found
    name = next(iter(found), "")
    if other := next((each for each, value in found.items() if value != found[name]), None):
        raise BadRecord("fields that differ", f"{name} and {other}; remove one of them")
    return name, found.get(name)


def _optional(layout: RecordLayout, record: Mapping[str, Any], use: str) -> str:
    name, value = _one(layout, record, use)
    return "" if value is None else _text(name, value)


def _answer(name: str, text: str) -> str:
    if not text:
        raise BadRecord("empty answer", name)
    return text


def _example(prompt: str, answer: str, language: str = "") -> Example:
    text = prompt.encode()
    return Example(text, len(text), answer, language=language)


def _completion(layouts: Table, layout: RecordLayout, record: Mapping[str, Any], note: Note, tags: str) -> Example:
    history = _history(layouts, *_one(layout, record, "history"), note)
    asked = [_text(*_one(layout, record, "prompt")), _optional(layout, record, "input")]
    prompt = "\n".join(filter(None, [_optional(layout, record, "system"), *history, *asked]))
    name, value = _one(layout, record, "answer")
    answer, named = _answer(name, _text(name, value)), _optional(layout, record, "language")
    if not named:
        return _example(prompt, answer)
    try:
        language = find_language(named)
    except UserError:
        raise BadRecord("unknown language", named) from None
    return _example(tag_prefix(language.name, tags).decode() + prompt, answer, language.name)


def _history(layouts: Table, name: str, value: Any, note: Note) -> list[str]:
    pairs = [] if value is None else _list(name, value, "pairs, of a question and its answer, or of messages")
    if any(isinstance(pair, dict) for pair in pairs):
        return [turn.content for turn in _messages(layouts, name, pairs, note, trained=False)]
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise BadRecord("wrong type", f"{name} is not a list of pairs, of a question and its answer")
    return [_text(name, text) for pair in pairs for text in pair]


def _list(name: str, value: Any, of: str) -> list[Any]:
    if isinstance(value, str):
        with contextlib.suppress(MalformedText):
            value = parse_json(value, data=True)
    if not isinstance(value, list):
        raise BadRecord("wrong type", f"{name} is {type(value).__name__}, expected a list of {of}")
    return value


def _messages(layouts: Table, name: str, value: Any, note: Note, trained: bool = True) -> list[Turn]:
    listed = enumerate(_list(name, value, "messages"))
    return [_turn(layouts, message, number, note, trained) for number, message in listed]


def _turns(layouts: Table, layout: RecordLayout, record: Mapping[str, Any], note: Note) -> list[Turn]:
    if "messages" in layout.uses:
        found = layout.values(record, "messages").items()
        turns, *others = [_messages(layouts, name, value, note) for name, value in found]
        if any(different != turns for different in others):
            raise BadRecord("fields that differ", f"{' and '.join(dict(found))}; remove one of them")
    else:
        name, answer = _one(layout, record, "answer")
        turns = _messages(layouts, *_one(layout, record, "prompt"), note, trained=False)
        turns += [Turn("assistant", answer)] if isinstance(answer, str) else _messages(layouts, name, answer, note)
    for index, turn in enumerate(turns):
        before = turns[index - 1].role if index else ""
        if turn.role not in TURNS[before].split():
            detail = f"message {index} is by {turn.role} and follows {before or 'nothing'}"
            raise BadRecord("order of roles", detail)
        if turn.role == "assistant":
            _answer(f"message {index}", turn.content)
    name, only = _one(layout, record, "last")
    if only not in (None, False, True):
        raise BadRecord(f"field {name}", f"{only!r:.20}; true: only the last answer is learnt, false: each")
    if only:
        last = max((index for index, turn in enumerate(turns) if turn.role == "assistant"), default=0)
        turns = [turn._replace(trained=turn.trained and index == last) for index, turn in enumerate(turns)]
    name, value = _one(layout, record, "system")
    system = Turn("system", "" if value is None else _content(name, value))
    there = not system.content or any(turn[:2] == system[:2] for turn in turns)
    return turns if there else [system, *turns]


def _turn(layouts: Table, message: Any, number: int, note: Note, trained: bool) -> Turn:
    layout, where = layouts.message, f"message {number}: "
    if not isinstance(message, dict):
        raise BadRecord("wrong type", f"{where}{type(message).__name__}, expected an object with role and content")
    _check_further(layout, message, note, where)
    if not layout.fits(message):
        found = _found(message)
        raise BadRecord("wrong type", f"{where}not an object with role and content (from and value); found {found}")
    name, value = _one(layout, message, "role")
    role = layouts.roles.get(_text(name, value).lower())
    if role is None:
        places = ", ".join(dict.fromkeys(layouts.roles.values()))
        raise BadRecord("role without a place", f"{where}{name} is {value[:40]}; the templates have {places}")
    weights = layout.values(message, "weight")
    for field, weight in weights.items():
        if weight not in (0, 1) or (role != "assistant" and weight) or weight != next(iter(weights.values())):
            only = "an answer is learnt (1, true) or not (0, false), and nothing else is learnt"
            raise BadRecord(f"field {field}", f"{where}{weight!r:.20} for the {role}; {only}")
    name, value = _one(layout, message, "content")
    return Turn(role, _content(f"{where}{name}", value), trained and all(weights.values()))


def _content(name: str, value: Any) -> str:
    texts, whole = [], value.get("parts") if isinstance(value, dict) else value
    for part in whole if isinstance(whole, list) else [whole]:
        if isinstance(part, dict):
            others = [_valid(key) for key, inner in part.items() if key not in _OF_PARTS and not absent(inner)]
            if (kind := part.get("type")) not in _TEXT_PARTS or others:
                shown = ", ".join(others) if kind in _TEXT_PARTS else f"type {kind!r:.40}"
                raise BadRecord("part that is not text", f"{name} has a part with {shown}; give texts only")
            part = next((part[key] for key in _TEXT_OF_PART if part.get(key) is not None), None)
        texts.append(_text(name, part))
    return "".join(texts)


def _chat(turns: list[Turn], chat: ChatFormat, note: Note) -> list[Example]:
    """Return an example for each answer that is learnt, with all earlier messages as its prompt. One row for the whole
    conversation would need an end token after each answer, and attention restarts after an end token."""
    if not any(turn.role == "assistant" for turn in turns):
        raise BadRecord("empty answer", "no message by the assistant")
    if not any(turn.role == "assistant" and turn.trained for turn in turns):
        raise BadRecord("nothing to learn", "the weight of each answer is 0")
    if turns[-1].role == "user":
        note("a last message by the user, which nobody answers, was not used", f"message {len(turns) - 1}")
    try:
        answers = chat.answers([turn[:2] for turn in turns])
    except TemplateError as error:
        raise BadRecord("refused by the chat template", str(error)) from None
    trained = (turn.trained for turn in turns if turn.role == "assistant")
    return [Example(**vars(answer)) for answer, learnt in zip(answers, trained, strict=True) if learnt]


def _translation(layout: RecordLayout, record: Mapping[str, Any]) -> Example:
    uses = ("source", "target", "source_language", "target_language")
    source, target, *languages = (_text(*_one(layout, record, use)) for use in uses)
    names = [translation_name(name) for name in languages]
    if (wrong := next((name for name in names if not name or "\n" in name), None)) is not None:
        raise BadRecord("unknown language", repr(wrong))
    return _example(translation_prompt(*names, source), _answer("target", target), names[1])
