"""The files of a tokenizer's directory, as transformers 4.2x to 5 save them: which are read, what their fields do."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.lookalikes import refuse_lookalike
from ms_codegeex.base.printing import print_once
from ms_codegeex.base.reading import read_json
from ms_codegeex.base.shipped import shipped_table

ADDED, CONFIG, JSON, SPECIAL = "added_tokens.json", "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json"
EOS = "<|endoftext|>"
Ids = Mapping[str, int]  # text -> id
Settings = Mapping[str, Any]  # the content of a JSON file
MODEL = "tokenizer.model"
MODULES = ("tokenization_codegeex.py", "tokenization_chatglm.py")  # for transformers; never run here
FILES = ("vocab.json", "merges.txt", ADDED, JSON, SPECIAL, MODEL, *MODULES, CONFIG)
ANY_CLASS = (None, "PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend")  # the other files show it
TABLE = Path(__file__).with_name("files.yaml")
_SEVERAL = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "post_processor": "processors"}
_SEVERAL |= {"decoder": "decoders"}
_TEXT_ALONE = tuple([{"Sequence": {"id": "A", "type_id": number}}] for number in (0, 1))
# for each file that lists added tokens, their ids and what it says of them
_LISTS: Mapping[str, Callable[[Path, Settings, Settings], Iterable[tuple[Any, Any]]]] = {
    JSON: lambda directory, config, content: ((entry["id"], entry) for entry in content.get("added_tokens") or ()),
    CONFIG: lambda directory, config, content: (
        (int(number), entry) for number, entry in (config.get("added_tokens_decoder") or {}).items()
    ),
    ADDED: lambda directory, config, content: (
        (number, {"content": token}) for token, number in read_object(directory / ADDED, missing=True).items()
    ),
}
# in any version
_LISTS_OF_SPECIAL = ("additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens")
_MATCHING = ("lstrip", "rstrip", "single_word")  # these would make a token take white space, or words only


@dataclass(frozen=True)
class AddedTokens:
    """Tokens beside those of the vocabulary, with their ids: `plain` ones are found in every text, `special` ones in
    prompts only. `late`: plain ones that are looked for after the others. `roles`: the special tokens that
    transformers names, such as `pad_token`. `shown`: special ones that transformers has as plain ones, so that they
    stay in an answer's text."""

    plain: Ids = field(default_factory=dict)
    special: Ids = field(default_factory=dict)
    late: frozenset[str] = frozenset()
    roles: Mapping[str, str] = field(default_factory=dict)
    shown: frozenset[str] = frozenset()

    def without(self, tokens: Collection[str]) -> AddedTokens:
        plain, special = ({t: n for t, n in each.items() if t not in tokens} for each in (self.plain, self.special))
        return AddedTokens(plain, special, self.late, self.roles, self.shown)

    def with_special(self, tokens: Collection[str]) -> AddedTokens:
        """These with `tokens` among the special ones, and shown."""
        every = sorted({**self.plain, **self.special}.items(), key=lambda item: item[1])
        special = {token: number for token, number in every if token in tokens or token in self.special}
        plain = {token: number for token, number in every if token not in special}
        return AddedTokens(plain, special, self.late - {*special}, self.roles, frozenset(special) & {*tokens})

    def entry(self, token: str) -> dict[str, Any]:
        special = token not in self.plain and token not in self.shown
        flags = {**dict.fromkeys(_MATCHING, False), "normalized": token in self.late}
        return {"content": token, **flags, "special": special}


def is_ranked(path: Path) -> bool:
    with path.open("rb") as stream:
        return re.match(rb"[A-Za-z0-9+/]+=* \d+\r?\n", stream.read(1 << 10)) is not None


def check_files(directory: Path, names: Sequence[str]) -> None:
    """`UserError` unless `directory` holds all these files."""
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise UserError(f"{directory}: {', '.join(missing)} missing; expected a directory with {', '.join(names)}")


def read_object(path: Path, missing: bool = False) -> dict[str, Any]:
    """A JSON file that holds an object, empty if it is not there and may be `missing`; else a `UserError`."""
    if missing and not path.is_file():
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, expected a JSON object; restore the file")
    return content


def read_settings(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """tokenizer_config.json and tokenizer.json, each empty if it is not there."""
    config, content = (read_object(directory / name, missing=True) for name in (CONFIG, JSON))
    if (directory / JSON).is_file() and not isinstance(content.get("model"), dict):
        remedy = "restore it, or delete it if other files hold the tokenizer"
        raise UserError(f"{directory / JSON}: holds no model; {remedy}")
    return config, content


def check_fields(directory: Path, config: Settings, content: Settings, own_steps: Settings) -> None:
    """`UserError` for a setting of tokenizer_config.json, or a step of tokenizer.json, `content`, that makes other ids
    or texts than the family's tokenizer, whose `own_steps` are given."""
    table = shipped_table(TABLE)
    wrong = [(CONFIG, key, config[key], False) for key in table["must_be_off"] if config.get(key)]
    if content:
        model = content["model"]
        fixed = table["fixed"].items()
        wrong += [(JSON, f"model.{key}", model[key], of[0]) for key, of in fixed if model.get(key) not in of]
        for key, step in {**table["steps"], **own_steps}.items():
            if _steps(found := content.get(key), key) != _steps(step, key):
                wrong.append((JSON, key, found, step))
    for name, key, value, expected in wrong:
        remedy = "set it so if the model was trained so, or convert the model with --tokenizer NAME"
        raise UserError(f"{directory / name}: {key} is {value!r:.160}, expected {expected!r:.90}; {remedy}")


def _steps(step: Any, key: str) -> list[Any]:
    kind = step.get("type") if isinstance(step, dict) else None
    if kind == "Sequence" and isinstance(several := step.get(_SEVERAL[key]), list):
        return [single for each in several for single in _steps(each, key)]
    if step is None or (key == "post_processor" and (kind == "ByteLevel" or step.get("single") in _TEXT_ALONE)):
        return []
    if kind == "ByteLevel":
        return [{"type": kind} if key == "decoder" else {"use_regex": True, **step, "trim_offsets": None}]
    return [step]


def read_added(
    directory: Path, config: Settings, content: Settings, vocabulary: Ids, of: str, own: Collection[str] = ()
) -> AddedTokens:
    """The tokens that any file of the directory adds to the `vocabulary`, whose ids have no gap. Those that only have a
    name get the next ids, as in transformers. `of`: the family. `own`: tokens of the vocabulary whose ids its code
    computes, so that lists of them change nothing. A padding token after a gap is left out, with a note. `UserError` if
    a list is malformed, two contradict each other, an id between them has no token, or a token is one of another
    family, or in the model's vocabulary only."""
    entries: dict[str, tuple[int, bool, bool, str]] = {}
    in_model = content.get("model", {}).get("vocab", {})  # its values were checked
    listed_only = {token: number for token, number in in_model.items() if number >= len(vocabulary)}
    owners = {number: token for token, number in (vocabulary | listed_only).items()}
    roles, others = _roles({**read_object(directory / SPECIAL, missing=True), **config})
    named = dict.fromkeys((*roles.values(), *others))
    for name, tokens_of in _LISTS.items():
        try:
            for number, entry in tokens_of(directory, config, content):
                token, special = entry["content"], bool(entry.get("special", entry["content"] in named))
                if type(number) is not int or not isinstance(token, str) or not token:
                    raise ValueError(f"{token!r:.40}: {number!r:.40}")
                if token in own:
                    continue
                for flag in (flag for flag in _MATCHING if entry.get(flag)):
                    said = f"{flag} of {token!r:.40} is true"
                    raise UserError(f"{directory / name}: {said}; set it to false in all files")
                refuse_lookalike(directory / name, of=of, token=token)
                first = entries.setdefault(token, (number, special, bool(entry.get("normalized", not special)), name))
                if (first[0], owners.setdefault(number, token)) != (number, token):
                    there = f"id {first[0]} in {first[3]}" if first[0] != number else f"that of {owners[number]!r:.40}"
                    said = f"added token {token!r:.40} has id {number}, which is {there}"
                    raise UserError(f"{directory / name}: {said}; restore the files from the model")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{directory / name}: its added tokens are malformed ({error!r}); restore it") from None
    if unlisted := listed_only.keys() - entries.keys():
        said = f"{JSON}: its model has {len(unlisted)} tokens after {EOS}, such as {min(unlisted)!r:.40}"
        raise UserError(f"{directory / said}, which are not added tokens; move them to added_tokens there")
    for token in named:
        if token not in entries:
            number = vocabulary.get(token, max(owners) + 1)
            owners[number], entries[token] = token, (number, True, False, "")
    if max(owners) >= len(owners):
        gap = next(number for number in range(len(owners)) if number not in owners)
        said, beyond = f"{directory}: id {gap} has no token", [owners[number] for number in owners if number > gap]
        if beyond != [roles.pop("pad_token", None)] or beyond[0] in roles.values():
            raise UserError(f"{said}, but {max(owners)} has; restore the files from the model")
        print_once(f"{said}, and the one after it, {beyond[0]!r:.40}, only pads; it is left out, as no text uses it")
        del entries[beyond[0]]
    numbers = {token: entry[0] for token, entry in sorted(entries.items(), key=lambda item: item[1][0]) if token != EOS}
    special = {token: number for token, number in numbers.items() if entries[token][1] or token in named}
    plain = {token: number for token, number in numbers.items() if token not in special}
    return AddedTokens(plain, special, frozenset(token for token in plain if entries[token][2]), roles)


def _roles(settings: Settings) -> tuple[dict[str, str], list[str]]:
    roles, others = {}, []
    for key, value in settings.items():
        several = value if key in _LISTS_OF_SPECIAL else None
        several = list(several.values()) if isinstance(several, dict) else several
        for each in several if isinstance(several, list) else [value] if key.endswith("_token") else []:
            token = each.get("content") if isinstance(each, dict) else each
            if isinstance(token, str) and token:
                others.append(token) if several else roles.update({key: token})
    return roles, others
