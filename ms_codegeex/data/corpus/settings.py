"""What decides the content of a dataset, apart from its sources."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ms_codegeex.data.corpus.reading import Reading
from ms_codegeex.data.datasets.layout import DATASET_JSON
from ms_codegeex.data.tokenizer import NAMES
from ms_codegeex.errors import UserError

TAGS = ("codegeex", "codegeex2", "none")
ON_ERROR = ("skip", "stop")


@dataclass(frozen=True)
class PrepareSettings:
    """How sources become documents and which of these a dataset gets.

    Attributes:
        reading: what is read, and when a text is dropped.
        tags: whose language tag line is put before each document: `codegeex` (23 languages), `codegeex2` or `none`.
        validation_share: share of bytes for validation, 0 <= share < 1.
        seed: chooses the sample and what goes to validation.
        max_bytes: most source bytes to take; a larger corpus is sampled by document. None: everything.
        near_duplicates: Jaccard similarity from which a document is dropped, in (0, 1]; 0 keeps near duplicates.
        tokenizer: one of `ms_codegeex.data.tokenizer.NAMES`, or a directory with a tokenizer.
        on_error: broken input is counted and left out (`skip`), or ends the work (`stop`).
    """

    reading: Reading = field(default_factory=Reading)
    tags: str = "codegeex"
    validation_share: float = 0.05
    seed: int = 0
    max_bytes: int | None = 64_000_000
    near_duplicates: float = 0.85
    tokenizer: str = "codegeex"
    on_error: str = "skip"

    def __post_init__(self) -> None:
        # A path in a file must mean the same from every directory; codegeex2 is a name, though one that needs a path.
        if self.tokenizer not in NAMES and (self.tokenizer != "codegeex2" or Path(self.tokenizer).is_dir()):
            object.__setattr__(self, "tokenizer", _absolute(self.tokenizer))
        for name, known in (("tags", TAGS), ("on_error", ON_ERROR)):
            if getattr(self, name) not in known:
                raise UserError(f"{name} {getattr(self, name)!r}: expected one of {', '.join(known)}")
        if not 0 <= self.validation_share < 1:
            raise UserError(
                f"validation_share {self.validation_share}: expected 0 or more and less than 1, for example 0.05"
            )
        rules = self.reading.rules
        if rules.min_bytes > rules.max_file_bytes:
            raise UserError(
                f"min_bytes {rules.min_bytes}: more than max_file_bytes {rules.max_file_bytes}, no file could be kept"
            )
        if self.max_bytes is not None and self.max_bytes <= 0:
            raise UserError(f"max_bytes {self.max_bytes}: expected a positive number of bytes, for example 64000000")
        if not 0 <= self.near_duplicates <= 1:
            raise UserError(f"near_duplicates {self.near_duplicates}: expected 0 (off) to 1, for example 0.85")
        for name, value in self.record().items():
            if any("\ud800" <= character <= "\udfff" for character in str(value)):
                raise UserError(f"{name} {value!r}: expected valid UTF-8, for it is written to {DATASET_JSON}")

    def record(self) -> dict[str, Any]:
        """All settings in one flat dictionary, as dataset.json and report.json hold them."""
        fields = asdict(self)
        return {**fields.pop("reading"), **fields}


def _absolute(path: str) -> str:
    try:
        place = Path(path).expanduser().resolve()
        place.exists()
    except (OSError, RuntimeError) as error:  # no permission, a loop of links, an unknown user's home
        problem = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"tokenizer {path!r}: cannot be followed ({problem}); expected a name or a directory") from None
    return str(place)
