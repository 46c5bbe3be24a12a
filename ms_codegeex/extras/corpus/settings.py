"""The settings that decide the content of a dataset, apart from its sources."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.datasets.layout import DATASET_JSON
from ms_codegeex.data.languages import canonical_languages, check_scheme
from ms_codegeex.data.tokenizer import OF_DIRECTORIES, TOKENIZER_NAMES
from ms_codegeex.extras.corpus.filters import Rules
from ms_codegeex.extras.corpus.redaction import REDACTIONS
from ms_codegeex.extras.shared.remote import RemotePath, parse_location

if TYPE_CHECKING:
    from ms_codegeex.config.sections import InfillConfig

ON_ERROR = ("skip", "stop")


@dataclass(frozen=True)
class ReadingSettings:
    """How input is read, which decides what documents there are. `languages`: names or aliases of those to take, made
    canonical; empty: the 23 training languages. `rules`: when a text is dropped. A `..._field` names a field of a
    record (None: the first usual one in `layouts.yaml` that is set); `a.b` is field `b` of the object `a`. If no field
    names a known language, the path decides. `licences`: those allowed, as SPDX identifiers or common names; empty:
    any. `unknown_licences`: `drop` or `keep` texts without a known licence. `redact`: some of `REDACTIONS`.
    `strip_licences`: remove licence headers from source `files`, `all` texts or `none`. `all_text`: also take documents
    whose language is neither in `languages` nor one of the 23, as documents without a language (README.md, unless
    Markdown is in `languages`). Lines, files and texts in rows above `max_line_bytes` are "too large"; they are never
    held in memory, except that pyarrow holds the rows."""

    languages: tuple[str, ...] = ()
    rules: Rules = field(default_factory=Rules)
    text_field: str | None = None
    language_field: str | None = None
    licence_field: str | None = None
    licences: tuple[str, ...] = ()
    unknown_licences: str = "drop"
    path_field: str | None = None
    group_field: str | None = None
    redact: tuple[str, ...] = ()
    strip_licences: str = "files"
    all_text: bool = False
    max_line_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        object.__setattr__(self, "languages", canonical_languages(self.languages))
        object.__setattr__(self, "licences", tuple(sorted({name.strip().lower() for name in self.licences})))
        unknown = [name for name in self.redact if name not in REDACTIONS]
        if unknown:
            raise UserError(f"redact {unknown[0]!r}: expected some of {', '.join(REDACTIONS)}")
        object.__setattr__(self, "redact", tuple(name for name in REDACTIONS if name in self.redact))
        check_choices(self, strip_licences=("files", "all", "none"), unknown_licences=("drop", "keep"))
        if self.max_line_bytes < 1:
            raise UserError(f"max_line_bytes {self.max_line_bytes}: expected 1 or more")


@dataclass(frozen=True)
class PrepareSettings:
    """How sources become documents, and which of these a dataset gets. `tags`: the language tag line before each
    document: `codegeex` (23 languages), codegeex2, `none`, or a line that contains `{language}`. `validation_share`:
    share of bytes for validation, 0 <= share < 1. `seed` chooses the sample and the validation split. `max_bytes`:
    upper bound on source bytes; a larger corpus is sampled by document; None: no bound. `near_duplicates`: Jaccard
    similarity from which a document is dropped, in (0, 1]; 0 keeps near duplicates. `near_duplicates_by`: compare
    `words`, or `tokens` of code without names and literals. `tokenizer`: one of
    `ms_codegeex.data.tokenizer.TOKENIZER_NAMES`, or a directory with a tokenizer. `repositories`: join the files of a
    package or repository into documents of at most this many tokens; None: each is one document. `on_error`: omit and
    count broken input (`skip`), or fail (`stop`). `infill`: how runs rearrange documents for infilling. `validation`:
    files, directories and URLs whose documents, and no others, are for validation; `validation_share` is then 0."""

    reading: ReadingSettings = field(default_factory=ReadingSettings)
    tags: str = "codegeex"
    validation_share: float = 0.05
    seed: int = 0
    max_bytes: int | None = 64_000_000
    near_duplicates: float = 0.85
    near_duplicates_by: str = "words"
    tokenizer: str = "codegeex"
    repositories: int | None = None
    on_error: str = "skip"
    infill: InfillConfig | None = None
    validation: tuple[Path | RemotePath | str, ...] = ()

    def __post_init__(self) -> None:
        set_validation(self)
        # A recorded path must mean the same from every directory. Names are kept.
        if self.tokenizer not in (*TOKENIZER_NAMES, *OF_DIRECTORIES) or Path(self.tokenizer).is_dir():
            object.__setattr__(self, "tokenizer", _absolute(self.tokenizer))
        check_scheme(self.tags)
        check_choices(self, on_error=ON_ERROR, near_duplicates_by=("words", "tokens"))
        check_share(self.validation_share)
        least, most = self.reading.rules.min_bytes, self.reading.rules.max_file_bytes
        if least > most:
            remedy = "give a smaller --min-bytes, or a larger --max-file-bytes"
            raise UserError(f"min_bytes {least}: no file could be kept; {remedy}")
        if self.max_bytes is not None and self.max_bytes <= 0:
            raise UserError(f"max_bytes {self.max_bytes}: expected a positive number of bytes, for example 64000000")
        if not 0 <= self.near_duplicates <= 1:
            raise UserError(f"near_duplicates {self.near_duplicates}: expected 0 (off) to 1, for example 0.85")
        for name, value in self.record().items():
            if any("\ud800" <= character <= "\udfff" for character in str(value)):
                raise UserError(f"{name} {value!r}: expected valid UTF-8, for it is written to {DATASET_JSON}")

    def record(self) -> dict[str, Any]:
        """Return all settings in one flat dictionary, as in dataset.json and report.json."""
        fields = {**vars(self), "reading": asdict(self.reading), "infill": self.infill and asdict(self.infill)}
        fields["validation"] = tuple(map(str, self.validation))  # hides a URL's password
        later = {"infill": None, "near_duplicates_by": "words", "repositories": None, "validation": ()}
        for name, default in later.items():
            if fields[name] == default:  # as in datasets made before the option existed
                del fields[name]
        reading = fields.pop("reading")
        if reading["unknown_licences"] == "drop":
            del reading["unknown_licences"]
        return {**reading, **fields}

    def deciding_versions(self) -> dict[str, str]:
        """Return the versions of programs that decide the dataset's content: Python's, which decides what a letter is;
        pygments', if documents are compared by its tokens; and the licence library's, if licences are judged."""
        by_tokens = self.near_duplicates and self.near_duplicates_by == "tokens"
        deciding = {"pygments": by_tokens, "license-expression": self.reading.licences}
        if names := [name for name, decides in deciding.items() if decides]:
            from importlib.metadata import version  # takes 0.03 s, and is rarely needed
        return {"python": platform.python_version(), **{name: version(name) for name in names}}


def check_choices(settings: Any, **choices: Sequence[str]) -> None:
    """Raise `UserError` for a field whose value is not one of those allowed."""
    for name, known in choices.items():
        if (value := getattr(settings, name)) not in known:
            raise UserError(f"{name} {value!r}: expected one of {', '.join(known)}")


def check_share(share: float) -> None:
    """Raise `UserError` for a validation share that is negative or leaves nothing for training."""
    if share == 1:
        remedy = "to evaluate on all of it, prepare it with --validation-share 0 and name it as a run's data.validation"
        raise UserError(f"validation_share {share}: leaves nothing to train on; {remedy}")
    if not 0 <= share < 1:
        raise UserError(f"validation_share {share}: expected 0 or more and less than 1, for example 0.05")


def set_validation(settings: Any) -> None:
    """If `settings` has files for validation, take no share of the others, and make their paths absolute."""
    if settings.validation:
        paths = (parse_location(path) if isinstance(path, str) else path for path in settings.validation)
        paths = (path if isinstance(path, RemotePath) else _absolute(str(path), "validation") for path in paths)
        object.__setattr__(settings, "validation", tuple(paths))
        object.__setattr__(settings, "validation_share", 0.0)


def _absolute(path: str, name: str = "tokenizer") -> str:
    try:
        resolved = Path(path).expanduser().resolve()
        resolved.exists()
    except (OSError, RuntimeError) as error:  # no permission, a loop of links, an unknown user's home
        problem = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{name} {path!r}: cannot be followed ({problem}); expected a name or a directory") from None
    return str(resolved)
