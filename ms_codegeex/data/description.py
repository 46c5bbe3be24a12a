"""What is known of a model besides its weights, its sizes and its tokenizer: one record, which every verb reads and
carries on. It is in `serving.json` of a model's or an adapter's directory, in the manifest of a checkpoint, in a key of
a GGUF file, and in the marks of `.pt` and `.ckpt` files.

A fact is one field of `ModelDescription`, which declares how it is read, written and checked, whether a model that is
trained further keeps it, and what other programs call it. A template in Jinja is where Hugging Face's tokenizers have
it, if there is a tokenizer; a licence is in the model card too.

    {"chat": "codegeex2"}                             a format of `data.conversations`, or
    {"chat": {"user": "U: {content}\\n", "assistant": "A: {content}\\n", "system": "{content}\\n", "stop": ["U:"]}}
    {"chat": {"template": "{% for message in messages %}…", "stop": ["<|im_end|>"]}}  or templates by their names
    {"infill": {"prefix": "<PRE>", "suffix": "<SUF>", "middle": "<MID>"}}             see `data.infilling.sentinels`
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from ms_codegeex.base.errors import UserError, located, suggestion
from ms_codegeex.base.files import atomic_file, write_json
from ms_codegeex.base.json_reading import MalformedText, parse_json
from ms_codegeex.base.printing import print_once
from ms_codegeex.base.quarantine import entries, has_file, largest, read_json_inside
from ms_codegeex.base.reading import given_text, read_inside
from ms_codegeex.data.conversations import TEMPLATES, ChatFormat, ChatTemplate
from ms_codegeex.data.infilling.sentinels import Sentinels, sentinels
from ms_codegeex.data.jinja_templates import DEFAULT, JinjaChat, JinjaTemplate
from ms_codegeex.data.languages import check_scheme
from ms_codegeex.data.tokenizer.base import Tokenizer
from ms_codegeex.data.tokenizer.files import CONFIG

FILE, FORMAT = "serving.json", 1
VERSION = "format"  # the key; without it, 1
CHAT_TEMPLATE, FURTHER_TEMPLATES, CARD = "chat_template.jinja", "additional_chat_templates", "README.md"
GGUF_RECORD, GGUF_TEMPLATE = "ms_codegeex.description", "tokenizer.chat_template"
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)  # OWNER/NAME
IN_CARD = {"licence": "license", "base": "base_model"}  # the facts that a model card's front matter has, too
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # also all that ends a line
_MAX_TEXT = 1 << 20  # characters of a template
_SHORT = {"prefix": "pre", "suffix": "suf", "middle": "mid"}  # in the keys of a GGUF file

Chat = ChatTemplate | JinjaTemplate
Entries = Iterable[tuple[str, str, Any]]  # of a GGUF file: key, kind, value


@dataclass(frozen=True)
class Fact:
    """What a field is.

    Args:
        meaning: in words.
        read: from a JSON value; a `UserError` says what is expected.
        write: to a JSON value.
        lasting: whether a model that is trained further, or has an adapter, keeps what its base says.
        check: `UserError` if a value contradicts the tokenizer or the rows of the model's tables, at a place.
        gguf: how llama.cpp reads it, with the tokenizer and the text that every prompt has to begin with.
    """

    meaning: str
    read: Callable[[Any], Any]
    write: Callable[[Any], Any] = lambda value: value
    lasting: bool = True
    check: Callable[[Any, Tokenizer, int, str], None] = lambda *_: None
    gguf: Callable[[Any, Tokenizer, str], Entries] = lambda *_: ()


def _fact(meaning: str, read: Callable[[Any], Any], **more: Any) -> Any:
    return field(default=None, metadata={"fact": Fact(meaning, read, **more)})


def _line(value: Any) -> str:
    if not isinstance(value, str) or not value or value != value.strip() or _CONTROL.search(value):
        raise UserError(f"{value!r:.80}; expected one line of text")
    return value


def _scheme(value: Any) -> str:
    check_scheme(_line(value))
    return value


def _step(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise UserError(f"{value!r:.80}; expected the number of a step")
    return value


def chat_of(value: Any) -> Chat:
    """How conversations are written, from its JSON value."""
    if isinstance(value, str) and value in TEMPLATES:
        return TEMPLATES[value]
    content = value if isinstance(value, dict) else {}
    stop, texts = content.get("stop"), {key: text for key, text in content.items() if key != "stop"}
    ends = () if stop is None else tuple(stop) if isinstance(stop, list) else ("",)
    if all(isinstance(text, str) and text for text in ends):
        if set(texts) == {"template"}:
            named = texts["template"] if isinstance(texts["template"], dict) else {DEFAULT: texts["template"]}
            if named and all(isinstance(text, str) and 0 < len(text) <= _MAX_TEXT for text in named.values()):
                return _own(named, None if stop is None else ends)
        elif {"user", "assistant"} <= set(texts) <= {"user", "assistant", "system"} and all(
            isinstance(text, str) and "{content}" in text for text in texts.values()
        ):
            return ChatTemplate(**texts, stop=ends)
    needed = (
        "an object with user, assistant and system, each with {content}, or with template, in Jinja, and a list stop"
    )
    raise UserError(f"expected one of {', '.join(TEMPLATES)}, or {needed}")


def _own(texts: Mapping[str, str], ends: tuple[str, ...] | None = None) -> Chat:
    if {*texts} == {DEFAULT} and ends is None:
        for ours in TEMPLATES.values():
            if texts[DEFAULT] == ours.jinja():
                return ours
    return JinjaTemplate(tuple(sorted(texts.items(), key=lambda item: (item[0] != DEFAULT, item[0]))), ends)


def chat_json(chat: Chat) -> Any:
    """The JSON value that `chat_of` reads."""
    if isinstance(chat, JinjaTemplate):
        texts = dict(chat.texts)
        ends = {} if chat.ends is None else {"stop": [*chat.ends]}
        return {"template": texts[DEFAULT] if {*texts} == {DEFAULT} else texts, **ends}
    if (name := chat_name(chat)) is not None:
        return name
    return {"user": chat.user, "assistant": chat.assistant, "system": chat.system, "stop": [*chat.stop]}


def chat_name(chat: Chat) -> str | None:
    return next((name for name, ours in TEMPLATES.items() if ours == chat), None)


def chat_texts(chat: Chat | None) -> dict[str, str]:
    return {} if chat is None else dict(chat.texts) if isinstance(chat, JinjaTemplate) else {DEFAULT: chat.jinja()}


def bound(chat: Chat, tokenizer: Tokenizer) -> ChatFormat:
    ours = not isinstance(chat, JinjaTemplate)
    return chat if ours else JinjaChat(chat, tokenizer.special_texts(), tokenizer.answer_ends)


def _chat_keys(chat: Chat, tokenizer: Tokenizer, prefix: str) -> Entries:
    texts = {name: text if text.startswith(prefix) else prefix + text for name, text in chat_texts(chat).items()}
    yield GGUF_TEMPLATE, "string", texts.pop(DEFAULT, None) or next(iter(texts.values()))
    if texts:
        yield f"{GGUF_TEMPLATE}s", "array", [*texts]
        yield from ((f"{GGUF_TEMPLATE}.{name}", "string", text) for name, text in texts.items())
    for text in bound(chat, tokenizer).stop[:1]:
        if len(ids := tokenizer.encode_marks(text)) == 1:
            yield "tokenizer.ggml.eot_token_id", "uint32", ids[0]


def _infill_keys(marks: Sentinels, tokenizer: Tokenizer, _prefix: str) -> Entries:
    for part, short in _SHORT.items():
        mark = getattr(marks, part)
        ids = [mark] if isinstance(mark, int) else tokenizer.encode_marks(mark)
        if len(ids) == 1:
            yield f"tokenizer.ggml.fim_{short}_token_id", "uint32", ids[0]
            yield f"tokenizer.ggml.{part}_token_id", "uint32", ids[0]


def _base_keys(base: str, *_: Any) -> Entries:
    yield "general.base_model.count", "uint32", 1
    yield "general.base_model.0.name", "string", base


@dataclass(frozen=True)
class ModelDescription:
    """The facts about a model; None: nothing is known."""

    chat: Chat | None = _fact("how conversations are written", chat_of, write=chat_json, gguf=_chat_keys)
    infill: Sentinels | None = _fact(
        "how it is asked to fill in the middle",
        sentinels,
        write=Sentinels.to_json,
        check=Sentinels.check,
        gguf=_infill_keys,
    )
    tags: str | None = _fact("the tag lines of languages, as `prepare --tags`", _scheme)
    base: str | None = _fact("the model that it was made from", _line, gguf=_base_keys)
    adapter: str | None = _fact("the adapter that was merged into it", _line, lasting=False)
    licence: str | None = _fact(
        "the licence's SPDX identifier", _line, gguf=lambda value, *_: [("general.license", "string", value)]
    )
    step: int | None = _fact("the training step that its weights are of", _step, lasting=False)
    reason: str | None = _fact("why it is this step", _line, lasting=False)

    def to_json(self) -> dict[str, Any]:
        known = {name: getattr(self, name) for name in FACTS}
        return {name: FACTS[name].write(value) for name, value in known.items() if value is not None}

    def over(self, base: ModelDescription) -> ModelDescription:
        """This of a model that was made from another: an adapter on it, or what training has added to it."""
        known = {name: getattr(self, name) for name in FACTS}
        kept = {name: getattr(base, name) for name, fact in FACTS.items() if fact.lasting}
        return ModelDescription(**{name: kept.get(name) if value is None else value for name, value in known.items()})

    def check(self, tokenizer: Tokenizer, rows: int, where: object) -> None:
        """`UserError`, naming the field, for what contradicts the tokenizer or the `rows` of the model's tables."""
        for name, fact in FACTS.items():
            if (value := getattr(self, name)) is not None:
                fact.check(value, tokenizer, rows, f"{where}: {name}")

    def gguf(self, tokenizer: Tokenizer, prefix: str) -> Entries:
        """All keys of a GGUF file; `prefix` as in `Fact`."""
        for name, fact in FACTS.items():
            if (value := getattr(self, name)) is not None:
                yield from fact.gguf(value, tokenizer, prefix)
        if self != ModelDescription() or tokenizer.infilling:  # else such a tokenizer would say that it fills in
            yield GGUF_RECORD, "string", json.dumps(self.to_json(), ensure_ascii=False)

    def lines(self) -> Iterator[str]:
        """The facts for people, a line each."""
        for name, value in self.to_json().items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            shown = f"{text[:100]}…" if len(text) > 101 else text
            yield f"{name}: {shown} ({FACTS[name].meaning})"


FACTS: Mapping[str, Fact] = {each.name: each.metadata["fact"] for each in fields(ModelDescription)}


def description_from(content: Any, where: object) -> ModelDescription:
    """The description of a JSON value at a place; `UserError`, naming the key, for anything else."""
    if not isinstance(content, dict):
        raise UserError(f"{where}: expected a JSON object with {', '.join(FACTS)}, or some of them")
    version = content.get(VERSION, FORMAT)
    if type(version) is not int or not 1 <= version <= FORMAT:
        newer = type(version) is int and version > FORMAT
        remedy = "install a newer ms-codegeex" if newer else f"write {FORMAT} there"
        raise UserError(f"{where}: {VERSION} is {version!r:.40}, this version reads {FORMAT}; {remedy}")
    values = {}
    for name, value in content.items():
        if name == VERSION:
            continue
        if name not in FACTS:
            raise UserError(f"{where}: {name:.60} is not known; {suggestion(name, [*FACTS])}")
        with located(f"{where}: {name}"):
            values[name] = None if value is None else FACTS[name].read(value)
    return ModelDescription(**values)


def taught_by(info: Mapping[str, Any]) -> ModelDescription:
    """What a model learns from a dataset besides its text, by its dataset.json."""
    chat, settings = info.get("chat"), info.get("settings") or {}
    languages = {*((info.get("splits") or {}).get("train") or {}).get("languages", {})} - {"", "unknown"}
    tags = settings.get("tags") if languages else None  # without one, there is no tag line
    return ModelDescription(chat=None if chat is None else chat_of(chat), tags=tags)


def recorded_description(state: Mapping[str, Any], where: object) -> ModelDescription:
    found = state.get("description")
    return description_from({"infill": state.get("infill")} if found is None else found, where)


def gguf_description(metadata: Mapping[str, Any], prefix: str, where: object) -> ModelDescription:
    """The description in the keys of a GGUF file. What llama.cpp reads counts, as it may have been changed with its
    tools; the rest is in our own key. `prefix`: the text that every prompt has to begin with."""
    text = metadata.get(GGUF_RECORD)
    try:
        record = parse_json(text) if isinstance(text, str) else {}
    except MalformedText as error:
        raise UserError(f"{where}: {GGUF_RECORD}: {error}; convert the model again") from None
    known = description_from(record, f"{where}: {GGUF_RECORD}")
    texts = {key.removeprefix(f"{GGUF_TEMPLATE}."): value for key, value in metadata.items() if GGUF_TEMPLATE in key}
    texts = {name.replace(GGUF_TEMPLATE, DEFAULT): text for name, text in texts.items() if isinstance(text, str)}
    own = {*chat_texts(known.chat).values()}  # which may begin with the prefix by themselves
    texts = {name: text if text in own else text.removeprefix(prefix) for name, text in texts.items()}
    chat = _agreed(known.chat, texts, stated_wins=False)
    marks = {}
    for part, short in _SHORT.items():
        keys = (f"tokenizer.ggml.fim_{short}_token_id", f"tokenizer.ggml.{part}_token_id")
        marks[part] = next((metadata[key] for key in keys if key in metadata), None)
    infill, names = known.infill, metadata.get("tokenizer.ggml.tokens", ())
    if None not in marks.values():
        stated = () if infill is None else (infill.prefix, infill.suffix, infill.middle)
        if {*marks.values()} != {names.index(mark) if mark in names else mark for mark in stated}:
            infill = sentinels(marks)
    licence = metadata.get("general.license")
    return replace(known, chat=chat, infill=infill, licence=licence if isinstance(licence, str) else known.licence)


def own_templates(directory: Path) -> dict[str, str]:
    """The chat templates of a directory by their names, from where Hugging Face's tokenizers have them. `UserError` for
    a malformed one."""
    if has_file(directory, CHAT_TEMPLATE):
        texts = {DEFAULT: _template(directory, CHAT_TEMPLATE)}
        folder = directory / FURTHER_TEMPLATES
        names = [name for name in entries(folder) if name.endswith(".jinja")] if folder.is_dir() else []
        return texts | {name.removesuffix(".jinja"): _template(folder, name) for name in names}
    settings = read_json_inside(directory, CONFIG) if has_file(directory, CONFIG) else {}
    found = settings.get("chat_template") if isinstance(settings, dict) else None
    if isinstance(found, str):
        return {DEFAULT: found} if found else {}
    try:
        texts = {each["name"]: each["template"] for each in found or ()}
        if not all(isinstance(text, str) and name and text for name, text in texts.items()):
            raise TypeError
    except (TypeError, KeyError):
        expected = "expected a text, or a list of objects with name and template"
        raise UserError(f"{directory / CONFIG}: chat_template: {expected}; restore the file") from None
    return texts


def _template(directory: Path, name: str) -> str:
    try:
        return read_inside(directory, name, largest(CHAT_TEMPLATE) or 0).decode()
    except UnicodeDecodeError:
        raise UserError(f"{directory / name}: not UTF-8; restore the file") from None


def _agreed(stated: Chat | None, own: Mapping[str, str], stated_wins: bool) -> Chat | None:
    if not own:
        return stated
    if stated is not None and (stated_wins or chat_texts(stated) == own):
        return stated
    return _own(own)


def read_description(directory: Path, say: Callable[[str], object] = print_once) -> ModelDescription:
    """What the files of a model's or an adapter's directory say. `say` gets a line if they say different things.
    `UserError`, naming file and key, for damaged ones."""
    where = directory / FILE
    content = read_json_inside(directory, FILE) if has_file(directory, FILE) else {}
    known, own = description_from(content, where), own_templates(directory)
    chat = _agreed(known.chat, own, stated_wins=True)
    if known.chat is not None and own and chat_texts(chat) != own:
        say(f"{where}: its chat is used, not the chat template of the tokenizer; remove one of them if that is wrong")
    in_card = None
    if has_file(directory, CARD):
        in_card = card_licence(read_inside(directory, CARD, largest(CARD) or 0).decode("utf-8", "replace"))
    if known.licence and in_card and in_card != known.licence:
        mend = "`ms-codegeex inspect DIR --set licence=NAME` writes both"
        say(f"{where}: its licence {known.licence:.60} is used, not {in_card:.60} of the model card; {mend}")
    return replace(known, chat=chat, licence=known.licence or in_card)


def save_description(directory: Path, description: ModelDescription, tokenizer: bool = True) -> None:
    """Let the files of a directory say this. Files that say it already, such as copied ones, stay as they are.
    `tokenizer`: whether it has one, and so the place for templates in Jinja; otherwise they are in `serving.json`."""
    same = not tokenizer or chat_texts(description.chat) == own_templates(directory)
    if same and read_description(directory, say=lambda line: None) == description:
        return
    content, texts = description.to_json(), chat_texts(description.chat) if tokenizer else {}
    if isinstance(description.chat, JinjaTemplate) and tokenizer and description.chat.ends is None:
        content.pop("chat")
    if content:
        write_json(directory / FILE, content)
    else:
        (directory / FILE).unlink(missing_ok=True)
    if tokenizer and texts != own_templates(directory):
        _place(directory, texts)


def _place(directory: Path, texts: Mapping[str, str]) -> None:
    folder = directory / FURTHER_TEMPLATES
    further = () if folder.is_symlink() else folder.glob("*.jinja")  # a link's files are not the model's
    for path in (directory / CHAT_TEMPLATE, *further):
        path.unlink(missing_ok=True)
    settings = read_json_inside(directory, CONFIG) if has_file(directory, CONFIG) else {}
    several = [{"name": name, "template": text} for name, text in texts.items()] if {*texts} != {DEFAULT} else []
    changed = {key: value for key, value in settings.items() if key != "chat_template"}
    changed |= {"chat_template": several} if several else {}
    if changed != settings:
        write_json(directory / CONFIG, changed)
    if texts and not several:
        with atomic_file(directory / CHAT_TEMPLATE) as path:
            path.write_bytes(texts[DEFAULT].encode())


def update_description(directory: Path, key: str, value: str) -> ModelDescription:
    """Change one fact of the model in a directory, as a user gives it: `value` is a text, a JSON value, or for `chat` a
    file of a template in Jinja; an empty one removes the fact. A licence, and a base on the hub, are written into the
    model card too. Returns what is known now. `UserError` for an unknown key or a value that is none."""
    if key not in FACTS:
        raise UserError(f"{key:.60}: not a fact about a model; {suggestion(key, [*FACTS])}")
    try:
        parsed = parse_json(value)
    except MalformedText:
        parsed = value
    if key == "chat" and value.endswith(".jinja"):
        parsed = {"template": given_text(value, key)}
    with located(key):
        fact = FACTS[key].read(parsed) if value else None
    known = replace(read_description(directory), **{key: fact})
    if key in IN_CARD and has_file(directory, CARD):
        text = read_inside(directory, CARD, largest(CARD) or 0).decode("utf-8", "replace")
        with atomic_file(directory / CARD) as path:
            path.write_text(_in_front_matter(text, key, fact), encoding="utf-8")
    tokenizer = any(has_file(directory, name) for name in (CONFIG, "tokenizer.json", "tokenizer.model"))
    save_description(directory, known, tokenizer=tokenizer)
    return known


def card_licence(text: str) -> str | None:
    found = _entry("licence").match(text)
    return (found["value"].strip() or None) if found else None


def _entry(key: str) -> re.Pattern[str]:
    return re.compile(rf"\A(---\n(?:(?!---).*\n)*?){IN_CARD[key]}:[ ]*(['\"]?)(?P<value>[^\n]*?)\2[ ]*\n")


def _in_front_matter(card: str, key: str, value: str | None) -> str:
    named = value is not None and (key != "base" or HUB_NAME.fullmatch(value))
    line = yaml.safe_dump({IN_CARD[key]: value}, allow_unicode=True, width=math.inf) if named else ""
    if found := _entry(key).match(card):
        return found[1] + line + card[found.end() :]
    if not line:
        return card
    head, rest = ("---\n", card[4:]) if card.startswith("---\n") else ("---\n", f"---\n\n{card}")
    return head + line + rest
