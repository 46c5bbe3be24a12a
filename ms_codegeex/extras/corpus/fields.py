"""Read text, language, licence and group of a corpus record by the names of its fields.

The names are those of all corpus layouts in `layouts.yaml`. They do not contradict each other, so it does not matter
which layout a single record has."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ms_codegeex.data.languages import canonical_languages, lookup
from ms_codegeex.extras.corpus.detection import HEAD_BYTES, detect
from ms_codegeex.extras.corpus.layouts import absent, changes, table, value_of
from ms_codegeex.extras.corpus.licences import UNKNOWN, judge, named_licences
from ms_codegeex.extras.corpus.redaction import redact
from ms_codegeex.extras.corpus.settings import ReadingSettings
from ms_codegeex.extras.shared.records import BadInput

KINDS = ("text", "language", "licence", "path", "group")
"""What fields hold; `group` is what the split keeps together, the repository."""

_FIRST = ("language", "license", "path", "repo_name")  # preferred, if a record has several for one kind
_PARTS_OF_FUNCTIONS = frozenset({"code", "func_code_string"})  # CodeSearchNet also has the whole
_MAX_REMARKS = 100  # bounded, because they have names from the input


class RecordText(NamedTuple):
    """A record's text in UTF-8, its language (empty: unknown, where that is allowed), its group (None: the record
    itself), the path of its file, if the record has it, and its licence, if licences are needed."""

    data: bytes
    language: str
    group: str | None
    path: str = ""
    licence: str = ""


def decide_licence(texts: Sequence[str], reading: ReadingSettings, size: int, head: bytes = b"") -> str | BadInput:
    """Return the licence that `texts` name, as an SPDX expression, or why it is refused."""
    name, allowed = judge(tuple(texts), reading.licences)
    if allowed or (allowed is None and reading.unknown_licences == "keep"):
        return name if allowed else UNKNOWN
    first = next((text for text in texts if judge((text,), reading.licences)[1] is allowed), "none is named")
    detail = redact(_valid(first).encode(), reading.redact)[0].decode()[:80]
    return BadInput("licence" if allowed is False else "unknown licence", detail, size, head, problem=False)


class Fields:
    """Reads records as `ReadingSettings` says: for each kind, the given field, else the first usual one that is set.
    `remarks` maps a remark on unused fields to the number of records and the source of the first."""

    def __init__(self, reading: ReadingSettings) -> None:
        self._names, self._columns = dict[str, list[str]](), dict[str, set[str]]()
        for kind in KINDS:
            given, usual = getattr(reading, f"{kind}_field"), table().names("corpus", kind)
            first = (*table().texts, *_FIRST)
            order = sorted(usual, key=lambda name: first.index(name) if name in first else len(first))
            names = order if given is None else [given]
            # Columns: a field may be in an object, and a column's own name may have a dot in it.
            self._names[kind], self._columns[kind] = names, {*names, *(name.partition(".")[0] for name in names)}
        layouts = [layout for layout in table().layouts if layout.task == "corpus"]
        self._refused = {name: it for layout in layouts for it in layout.refused for name in it["fields"].split()}
        listed = [name for it in layouts for names in (it.harmless, *it.uses.values()) for name in names.split()]
        first = (name.partition(".")[0] for name in listed)
        self._listed = frozenset(first).union(self._refused, *self._columns.values())
        self._endless = tuple(name[:-1] for name in listed if name.endswith("*"))
        self.remarks = dict[str, tuple[int, str]]()
        self._shape, self._there, self._reading = None, dict[str, list[str]](), reading
        self._languages = frozenset(reading.languages)
        # Among languages that were not requested, only those that CodeGeeX was trained on count as known.
        self._known = self._languages | {*canonical_languages(())}

    def needed(self, present: Iterable[str]) -> list[str]:
        """Return the present fields that have to be read."""
        kinds = [kind for kind in KINDS if kind != "licence" or self._reading.licences]
        wanted = {*self._refused}.union(*(self._columns[kind] for kind in kinds))
        return [name for name in dict.fromkeys(present) if name in wanted]

    def text_missing(self, present: Collection[str]) -> str:
        """Return a message if no field with the text is among those present, otherwise an empty string."""
        if not self._columns["text"].isdisjoint(present):
            return ""
        record = present if isinstance(present, Mapping) else dict.fromkeys(present, "?")
        layout = table().of(record)
        if layout is not None and layout.task in ("completion", "chat", "translation"):
            return f"an example for fine-tuning ({layout.name}), for `finetune` or `prepare --task {layout.task}`"
        if layout is not None and layout.task != "corpus":
            return f"{layout.name}: {layout.advice(record)}"
        there = self.shown(", ".join(sorted(present)[:20])) or "no other"
        return f"no field {' or '.join(self._names['text'])}; there is {there}"

    def recognise(self, record: Mapping[str, Any]) -> bool:
        """Return whether a `.json` file that begins with this object holds records. Unlike a file of settings, a record
        has a text, alone or with other fields that we read."""
        self._look(record)
        others = set[str]().union(*(self._columns[kind] for kind in KINDS if kind != "text"))
        text = next(iter(self._values(record, "text")), None)
        return isinstance(text, str) and (len(record) == 1 or not others.isdisjoint(record))

    def count_unlisted(self, names: Iterable[str], source: str, records: int = 1) -> None:
        """Count the fields in `names` that no layout lists."""
        for name in names:
            if name not in self._listed and not name.startswith(self._endless):
                self._remark(f"field {self.shown(name)} is in no list and not used", source, records)

    def count_others(self, record: Mapping[str, Any], source: str) -> None:
        """Count the texts of the record that was read last, except the one that is used."""
        listed = self._there["text"]
        there = [it for it in listed if it in record and isinstance(record[it], str | bytes)]
        for name in there[1:]:
            if record[name] not in (record[there[0]], "", b"") and name not in _PARTS_OF_FUNCTIONS:
                self._remark(f"field {name} is not used beside {there[0]}; --text-field names the text", source)

    def _remark(self, remark: str, source: str, records: int = 1) -> None:
        remark = remark if len(self.remarks) < _MAX_REMARKS or remark in self.remarks else "further fields are not used"
        count, first = self.remarks.get(remark, (0, source))
        self.remarks[remark] = count + records, first

    def read(self, record: Mapping[str, Any]) -> RecordText | BadInput:
        """Return the text of a record. Values are those of JSON; text may also be bytes, which are not checked."""
        self._look(record)
        values = self._values(record, "text")
        data = next((it for it in values if isinstance(it, str | bytes)), next(iter(values), None))
        if data is None:
            null = f"{' and '.join(name for name in self._names['text'] if name in record)} is null"
            return BadInput("missing field", self.text_missing(record) or null)
        if isinstance(data, str):
            try:
                data = data.encode()
            except UnicodeEncodeError as error:
                detail, data = f"half of a surrogate pair at character {error.start + 1}", data.encode(errors="replace")
                return BadInput("not UTF-8", detail, len(data), data)
        if not isinstance(data, bytes):
            return BadInput("not text", f"the text is of type {type(data).__name__}")
        for name in self._there["refused"]:
            if not absent(value := record[name]) and changes(self._refused[name], value):
                return BadInput(f"field {name}", self._refused[name]["why"], len(data), data, problem=False)
        licence: str | BadInput = ""
        if self._reading.licences:
            named = named_licences(next(iter(self._values(record, "licence")), None))
            licence = decide_licence(named, self._reading, len(data), data)
            if isinstance(licence, BadInput):
                return licence
        paths = self._values(record, "path")
        language = self._decide_language(record, data, paths)
        if isinstance(language, BadInput):
            return language
        groups = map(self._named_group, self._values(record, "group"))
        path = paths[0] if paths and isinstance(paths[0], str) else ""
        return RecordText(data, language, next(filter(None, groups), None), path, licence)

    def _look(self, record: Mapping[str, Any]) -> None:
        if (shape := tuple(record)) != self._shape:
            usual = (name for names in self._names.values() for name in names)
            self._shape, there = shape, {*record, *(it for it in usual if it.partition(".")[0] in record)}
            self._there = {kind: [name for name in names if name in there] for kind, names in self._names.items()}
            self._there["refused"] = [name for name in record if name in self._refused]

    def _values(self, record: Mapping[str, Any], kind: str) -> list[Any]:
        """Return a record's values of this kind, except absent ones. Bytes are decoded, except those of the text."""
        values = []
        for name in self._there[kind]:
            value = record[name] if name in record else value_of(record, name)
            if type(value) is str or not absent(value):
                packed = isinstance(value, bytes) and kind != "text"
                values.append(value.decode("utf-8", "replace") if packed else value)
        return values

    def _named_group(self, value: Any) -> str | None:
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return _valid(value) if isinstance(value, str) and value else None

    def shown(self, value: str) -> str:
        return redact(_valid(value).encode(), self._reading.redact)[0].decode()[:80]

    def _decide_language(self, record: Mapping[str, Any], data: bytes, paths: Sequence[Any]) -> str | BadInput:
        named = [value for value in self._values(record, "language") if value != ""]
        language = next(filter(None, map(lookup, [name for name in named if isinstance(name, str)])), None)
        if language is None:
            path = next((path for path in paths if isinstance(path, str)), None if paths else "")
            language = None if path is None or (named and not path) else detect(path, data[:HEAD_BYTES])
        if language is not None and language.name in self._languages:
            return language.name
        if self._reading.all_text and (language is None or language.name not in self._known):
            return ""
        if language is not None:
            return BadInput("other language", language.name, len(data), data, problem=False)
        shown = (repr(self.shown(name)) if isinstance(name, str) else self.shown(repr(name)) for name in named)
        return BadInput("unknown language", next(shown, "") or "no field names it", len(data), data, problem=False)


def _valid(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")
