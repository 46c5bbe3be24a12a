"""Reads text, language, licence and group of a record of an archive, by the names of its fields."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ms_codegeex.data.corpus.redaction import redact
from ms_codegeex.data.corpus.settings import ReadingSettings
from ms_codegeex.data.languages import HEAD_BYTES, LANGUAGES, Language, detect, lookup

TEXT = ("text", "code", "content")
LANGUAGE = ("language", "lang", "programming_language")
LICENCE = ("license", "licence", "licenses", "max_stars_repo_licenses")
PATH = ("path", "max_stars_repo_path", "file_name")
GROUP = ("repo_name", "max_stars_repo_name", "repository")


@dataclass(frozen=True)
class RecordText:
    """A record's text in UTF-8, its language (empty: unknown, where that is allowed) and its group (None: itself)."""

    data: bytes
    language: str
    group: str | None


@dataclass(frozen=True)
class Fault:
    """Why a record gives no text: fields as in `Rejected`, and the text if there is one."""

    reason: str
    detail: str = ""
    problem: bool = False
    data: bytes = b""


class Fields:
    """Reads records as `ReadingSettings` says: the field of the given name, else the first usual one that is set."""

    def __init__(self, reading: ReadingSettings) -> None:
        self._text = _names(reading.text_field, TEXT)
        self._language = _names(reading.language_field, LANGUAGE)
        self._licence = _names(reading.licence_field, LICENCE)
        self._path = _names(reading.path_field, PATH)
        self._group = _names(reading.group_field, GROUP)
        self._licences = frozenset(reading.licences)
        self._languages = frozenset(reading.languages)
        # Among languages that were not requested, only those that CodeGeeX was trained on count as known.
        self._known = self._languages | {language.name for language in LANGUAGES}
        self._all_text, self._redact = reading.all_text, reading.redact

    def needed(self, present: Iterable[str]) -> list[str]:
        """The present fields that are needed; nothing else has to be read."""
        present = list(present)
        groups = [self._text, self._language, self._path, self._group]
        groups += [self._licence] if self._licences else []
        wanted = {name for names in groups for name in names}
        return [name for name in dict.fromkeys(present) if name in wanted]

    def text_missing(self, present: Iterable[str]) -> str:
        """Empty, or a message if no field with the text is among those present."""
        return "" if set(self._text) & set(present) else f"no field {' or '.join(self._text)}"

    def read(self, record: Mapping[str, Any]) -> RecordText | Fault:
        """The text of a record. Values are those of JSON; text may also be bytes, which are not checked."""
        text = _first(record, self._text)
        if isinstance(text, str):
            try:
                data = text.encode("utf-8")
            except UnicodeEncodeError as error:
                detail = f"half of a surrogate pair at character {error.start + 1}"
                return Fault("not UTF-8", detail, True, text.encode("utf-8", "replace"))
        elif isinstance(text, bytes):
            data = text
        elif text is None:
            return Fault("missing field", self.text_missing(record) or f"{' and '.join(self._text)} is null", True)
        else:
            return Fault("not text", f"the text is of type {type(text).__name__}", True)
        if self._licences:
            refused = self._refused_licence(_first(record, self._licence))
            if refused is not None:
                return Fault("licence", refused, data=data)
        language = self._decide_language(record, data)
        if isinstance(language, Fault):
            return language
        return RecordText(data, language, self._named_group(_first(record, self._group)))

    def _named_group(self, value: Any) -> str | None:
        """A name or a number, as valid Unicode; anything else names no group."""
        value = _plain(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return _valid(value) if isinstance(value, str) and value else None

    def _refused_licence(self, value: Any) -> str | None:
        """The first licence that is not allowed, or None."""
        value = _plain(value)
        named = [_plain(item) for item in value] if isinstance(value, list | tuple) else [value]
        named = [item for item in named if item not in (None, "")]
        if not named:
            return "none is named"
        return next((self._shown(str(item)) for item in named if str(item).strip().lower() not in self._licences), None)

    def _shown(self, value: str) -> str:
        """The beginning of a value, redacted, for the report."""
        return redact(_valid(value).encode(), self._redact)[0].decode()[:80]

    def _decide_language(self, record: Mapping[str, Any], data: bytes) -> str | Fault:
        named, path = _plain(_first(record, self._language)), _plain(_first(record, self._path))
        found: Language | None = None
        if isinstance(named, str):
            found = lookup(named)
        elif named is None and (isinstance(path, str) or path is None):
            found = detect(path or "", data[:HEAD_BYTES])
        if found is not None and found.name in self._languages:
            return found.name
        if self._all_text and (found is None or found.name not in self._known):
            return ""
        if found is not None:
            return Fault("other language", found.name, data=data)
        shown = repr(self._shown(named)) if isinstance(named, str) else self._shown(repr(named))
        detail = "no field names it" if named is None else shown
        return Fault("unknown language", detail, data=data)


def _names(given: str | None, usual: tuple[str, ...]) -> tuple[str, ...]:
    return usual if given is None else (given,)


def _first(record: Mapping[str, Any], names: Iterable[str]) -> Any:
    for name in names:
        value = record.get(name)
        if value is not None:
            return value
    return None


def _plain(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _valid(text: str) -> str:
    """`text` without lone surrogates, which UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode("utf-8")
