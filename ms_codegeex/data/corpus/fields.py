"""Reads text, language, licence and group of a record of an archive, by the names of its fields."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ms_codegeex.data.corpus.archives import Broken
from ms_codegeex.data.corpus.redaction import redact
from ms_codegeex.data.corpus.settings import ReadingSettings
from ms_codegeex.data.detection import HEAD_BYTES, detect
from ms_codegeex.data.languages import LANGUAGES, Language, lookup

USUAL = {
    "text": ("text", "code", "content"),
    "language": ("language", "lang", "programming_language"),
    "licence": ("license", "licence", "licenses", "max_stars_repo_licenses"),
    "path": ("path", "max_stars_repo_path", "file_name"),
    "group": ("repo_name", "max_stars_repo_name", "repository"),
}
"""Names of fields by what they hold."""


class RecordText(NamedTuple):
    """A record's text in UTF-8, its language (empty: unknown, where that is allowed) and its group (None: itself)."""

    data: bytes
    language: str
    group: str | None


class Fields:
    """Reads records as `ReadingSettings` says: the field of the given name, else the first usual one that is set."""

    def __init__(self, reading: ReadingSettings) -> None:
        given = {kind: getattr(reading, f"{kind}_field") for kind in USUAL}
        self._names = {kind: usual if given[kind] is None else (given[kind],) for kind, usual in USUAL.items()}
        self._reading, self._licences = reading, frozenset(reading.licences)
        self._languages = frozenset(reading.languages)
        # Among languages that were not requested, only those that CodeGeeX was trained on count as known.
        self._known = self._languages | {language.name for language in LANGUAGES}

    def needed(self, present: Iterable[str]) -> list[str]:
        """The present fields that are needed; nothing else has to be read."""
        kinds = [kind for kind in USUAL if kind != "licence" or self._licences]
        wanted = {name for kind in kinds for name in self._names[kind]}
        return [name for name in dict.fromkeys(present) if name in wanted]

    def text_missing(self, present: Iterable[str]) -> str:
        """Empty, or a message if no field with the text is among those present."""
        names = self._names["text"]
        return "" if set(names) & set(present) else f"no field {' or '.join(names)}"

    def recognise(self, record: Mapping[str, Any]) -> bool:
        """Whether a `.json` file that begins with this object holds records: a text, alone or with what else we read,
        as no file of settings has it."""
        others = {name for kind in USUAL if kind != "text" for name in self._names[kind]}
        return isinstance(self._value(record, "text"), str) and (len(record) == 1 or not others.isdisjoint(record))

    def read(self, record: Mapping[str, Any]) -> RecordText | Broken:
        """The text of a record. Values are those of JSON; text may also be bytes, which are not checked."""
        data = self._value(record, "text")
        if data is None:
            null = f"{' and '.join(self._names['text'])} is null"
            return Broken("missing field", self.text_missing(record) or null)
        if isinstance(data, str):
            try:
                data = data.encode()
            except UnicodeEncodeError as error:
                detail, data = f"half of a surrogate pair at character {error.start + 1}", data.encode(errors="replace")
                return Broken("not UTF-8", detail, len(data), data)
        if not isinstance(data, bytes):
            return Broken("not text", f"the text is of type {type(data).__name__}")
        if self._licences:
            refused = self._refused_licence(self._value(record, "licence"))
            if refused is not None:
                return Broken("licence", refused, len(data), data, problem=False)
        language = self._decide_language(record, data)
        if isinstance(language, Broken):
            return language
        return RecordText(data, language, self._named_group(_plain(self._value(record, "group"))))

    def _value(self, record: Mapping[str, Any], kind: str) -> Any:
        for name in self._names[kind]:
            if (value := record.get(name)) is not None:
                return value
        return None

    def _named_group(self, value: Any) -> str | None:
        """A name or a number, as valid Unicode; anything else names no group."""
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return _valid(value) if isinstance(value, str) and value else None

    def _refused_licence(self, value: Any) -> str | None:
        """The first licence that is not allowed, or None."""
        named = [_plain(item) for item in (value if isinstance(value, list | tuple) else [value])]
        named = [str(item) for item in named if item not in (None, "")]
        if not named:
            return "none is named"
        return next((self._shown(item) for item in named if item.strip().lower() not in self._licences), None)

    def _shown(self, value: str) -> str:
        """The beginning of a value, redacted, for the report."""
        return redact(_valid(value).encode(), self._reading.redact)[0].decode()[:80]

    def _decide_language(self, record: Mapping[str, Any], data: bytes) -> str | Broken:
        named = _plain(self._value(record, "language"))
        language: Language | None = None
        if isinstance(named, str):
            language = lookup(named)
        elif named is None:
            path = _plain(self._value(record, "path"))
            language = detect(path or "", data[:HEAD_BYTES]) if isinstance(path, str) or path is None else None
        if language is not None and language.name in self._languages:
            return language.name
        if self._reading.all_text and (language is None or language.name not in self._known):
            return ""
        if language is not None:
            return Broken("other language", language.name, len(data), data, problem=False)
        shown = repr(self._shown(named)) if isinstance(named, str) else self._shown(repr(named))
        detail = "no field names it" if named is None else shown
        return Broken("unknown language", detail, len(data), data, problem=False)


def _plain(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _valid(text: str) -> str:
    """`text` without lone surrogates, which UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode("utf-8")
