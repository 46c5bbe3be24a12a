"""The options of `prepare`, the recipes of published corpora, and the settings that both choose."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ms_codegeex.base.errors import UserError, located
from ms_codegeex.base.options import REQUIRED, option
from ms_codegeex.base.shipped import find_config
from ms_codegeex.extras.corpus.filters import Rules, preset
from ms_codegeex.extras.shared.remote import RemotePath, parse_location

if TYPE_CHECKING:
    from ms_codegeex.extras.corpus.settings import PrepareSettings

DEFAULT_MAX_BYTES, DEFAULT_NEAR_DUPLICATES = 64_000_000, 0.85  # without --input


def _location(text: str) -> Path | RemotePath:
    try:
        return parse_location(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


@dataclass(frozen=True)
class DatasetOptions:
    """Options for every dataset."""

    output: Path | RemotePath = option(
        "dataset directory to write; its report.html shows what was kept or dropped, and why. After an "
        "interruption, the same command continues where it stopped",
        "DIR|URL",
        REQUIRED,
        convert=_location,
    )
    input: tuple[Path | RemotePath, ...] | None = option(
        "files, directories and URLs such as s3://bucket/folder, searched for sources and for files of records "
        "(default: the running interpreter's libraries)",
        "PATH|URL",
        convert=_location,
    )
    tokenizer: str = option(
        "codegeex, codegen-nl, codegen-multi, codegen-mono, or a directory with a tokenizer's files, such as a "
        "model directory; those of CodeGeeX2 and Qwen2 are always directories (default: codegeex)",
        "NAME|DIR",
        "codegeex",
    )
    validation_share: float = option(
        "share of the bytes for validation: whole packages or repositories; folders or files where these are too large",
        "F",
        0.05,
        either="validation",
    )
    validation: tuple[Path | RemotePath, ...] | None = option(
        "your own files for validation, all of them, in place of a share; what repeats them is not trained on",
        "PATH|URL",
        convert=_location,
        either="validation",
    )
    seed: int = option("seed of the sampling and the split", "N", 0)
    on_error: Literal["skip", "stop"] = option(
        "broken records and files: count them in the report and continue, or stop at the first", default="skip"
    )
    workers: int | None = option("number of processes; does not affect the result (default: one per core)", "N")
    replace: bool = option("replace the dataset in DIR", default=False)
    json: bool = option("print one JSON object on standard output", default=False)


@dataclass(frozen=True)
class TagOptions:
    """Options for the language tag line."""

    tags: str | None = option(
        "the language tag line before a document: CodeGeeX's 23, CodeGeeX2's 96, none, or a line of your own with "
        "{language} for the name, as CodeGen's Multi has (default: codegeex)",
        "codegeex|codegeex2|none|LINE",
        either="tags",
    )
    no_tags: bool = option("the same as --tags none", default=False, either="tags")


@dataclass(frozen=True)
class TextOptions:
    """Options that choose the documents of a corpus."""

    languages: tuple[str, ...] = option("languages (default: 23 for training, with --tags codegeex2 96)", "NAME", ())
    all_text: bool = option("also take texts of unknown languages, without a tag line", default=False)
    recipe: str | None = option(
        "settings of a published corpus: a name in configs/corpora, such as bigpython, or a YAML file; options replace "
        "its values",
        "NAME|FILE",
    )
    filters: Literal["default", "codegeex", "codegen", "none"] | None = option(
        "rules for the size, lines and characters of a text: this program's, those of a paper, or none (default: "
        "default)"
    )
    max_file_bytes: int | None = option("drop larger texts (default: --filters')", "N")
    min_bytes: int | None = option("drop smaller texts (default: --filters')", "N")
    near_duplicates: float | None = option(
        "drop documents that are this similar to another one; 0 drops exact copies only "
        f"(default: 0; {DEFAULT_NEAR_DUPLICATES} without --input)",
        "F",
    )
    near_duplicates_by: Literal["words", "tokens"] | None = option(
        "compare documents by their words, or code by its tokens without names and literals, which finds copies with "
        "other names and takes one to four seconds of processor time for a megabyte (default: words)"
    )
    max_bytes: int | None = option(f"limit; of more, a sample (default: all; {DEFAULT_MAX_BYTES} without --input)", "N")
    dropped: Path | RemotePath | None = option(
        "write a line of JSON on each text that is dropped or changed and each file that is not read: path, rule, what "
        "matched, where, bytes (docs/prepare.md)",
        "FILE",
        convert=_location,
    )
    repositories: int | None = option(
        "join the files of a package or repository into documents of at most N tokens, with the tokenizer's marks for "
        "repositories and files, as Qwen2.5-Coder was trained with; 32768 there",
        "N",
        ge=1,
    )
    strip_licences: Literal["files", "all", "none"] | None = option(
        "strip the licence headers of source files, of records as well, or of nothing (default: files with "
        "--filters default, otherwise none)"
    )
    redact: tuple[Literal["email", "real-email", "secrets"], ...] = option(
        "replace e-mail addresses (real-email: not those at example.com and similar domains), or keys and passwords",
        default=(),
    )


@dataclass(frozen=True)
class RecordOptions:
    """Options for reading the records of a corpus."""

    text_field: str | None = option("field that holds the text", "NAME")
    language_field: str | None = option("field that names the language", "NAME")
    licence_field: str | None = option("field that names the licence, or a list of them", "NAME")
    group_field: str | None = option("field of the group that the split keeps together, such as the repository", "NAME")
    licences: tuple[str, ...] = option(
        "only take records and source files under these licences: SPDX identifiers or common names. A file's is in its "
        "SPDX line, or in the nearest package.json, METADATA, Cargo.toml, debian/copyright or LICENSE",
        "NAME",
        (),
    )
    unknown_licences: Literal["drop", "keep"] | None = option(
        "with --licences: what to do with texts that state no licence, or one of an unknown name (default: drop)"
    )


@dataclass(frozen=True)
class WorkOptions:
    """Options for where a corpus is made."""

    work: Path | None = option("with a URL as --output: where the dataset is made before it is copied", "DIR")
    engine: Literal["pool", "ray"] | None = option(
        "processes on this machine, or the nodes of a Ray cluster that share a file system, all cores of them; "
        "does not affect the result (default: pool)"
    )
    ray_address: str | None = option("the Ray cluster (default: auto, the one of this machine)", "HOST:PORT")


CORPORA = (TextOptions, RecordOptions, WorkOptions)  # options that other datasets do not have


@dataclass(frozen=True)
class TuningOptions:
    """Options that turn records into prompts and answers. `overlong` and `template` are for fine-tuning only."""

    task: Literal["pretrain", "completion", "chat", "translation"] = option(
        "kind of records (docs/finetune.md); pretrain: documents of a corpus", default="pretrain"
    )
    seq_length: int | None = option("most tokens of an example, with its end token; rows of --to have one more", "N")
    overlong: Literal["truncate", "drop"] | None = option(
        "truncate the start of the prompt of a longer example, or drop the example (default: truncate)"
    )
    template: Literal["auto", "codegeex2", "plain"] | None = option(
        "format of chats; auto: the tokenizer's (default: auto)"
    )


@dataclass(frozen=True)
class ExchangeOptions:
    """Options for exchanging datasets with other programs. All but `from_format` belong to `--to`."""

    to: Literal["mindrecord", "triplet"] | None = option("write the dataset --input in this format", either="direction")
    from_format: Literal["mindrecord", "triplet"] | None = option(
        "read --input in this format, write a dataset directory", either="direction", flag="from"
    )
    split: Literal["train", "validation"] | None = option("split that --to writes (default: train)")
    files: int | None = option("number of files of --to mindrecord (default: 1)", "N")
    order: Literal["stored", "training"] | None = option(
        "order of the rows of --to mindrecord: that of the dataset, or that of training with --seed (default: stored)"
    )


@dataclass(frozen=True)
class CorpusRecipe:
    """Settings that a paper published. None: the option's default. `rules` are what `--filters` names; those that are
    not given are as in `--filters default`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "allow_inf_nan": False}
    tokenizer: str | None = None
    tags: str | None = None
    languages: tuple[str, ...] | None = None
    strip_licences: Literal["files", "all", "none"] | None = None
    near_duplicates: float | None = None
    near_duplicates_by: Literal["words", "tokens"] | None = None
    licences: tuple[str, ...] | None = None
    unknown_licences: Literal["drop", "keep"] | None = None
    redact: tuple[Literal["email", "real-email", "secrets"], ...] | None = None
    rules: Rules = field(default_factory=Rules)

    def values(self) -> dict[str, Any]:
        found = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "rules"}
        return {name: value for name, value in found.items() if value is not None}


def read_recipe(name: str) -> CorpusRecipe:
    """Return the recipe in a YAML file, or the shipped one of this name. Raises `UserError` for a wrong name or key."""
    from ms_codegeex.config.validation import check_tree, validated
    from ms_codegeex.config.values import read_yaml

    path = find_config(name, "corpora", "--recipe")
    values = read_yaml(path)
    with located(path):
        return validated(CorpusRecipe, check_tree(CorpusRecipe, values))


def chosen_settings(
    text: TextOptions, records: RecordOptions, rules: Rules | None, of_libraries: bool, **common: Any
) -> PrepareSettings:
    """Return the settings that options choose. `rules` are a recipe's, which `text.filters` replaces. `of_libraries`:
    no input is named, so the interpreter's libraries are read. `common`: the other fields of `PrepareSettings`."""
    from ms_codegeex.data.languages import languages as known_languages
    from ms_codegeex.extras.corpus.settings import PrepareSettings, ReadingSettings

    max_bytes, near_duplicates, languages = text.max_bytes, text.near_duplicates or 0.0, text.languages
    if of_libraries:
        max_bytes = DEFAULT_MAX_BYTES if max_bytes is None else max_bytes
        near_duplicates = DEFAULT_NEAR_DUPLICATES if text.near_duplicates is None else near_duplicates
    if text.near_duplicates_by and not near_duplicates:
        raise UserError(f"--near-duplicates-by {text.near_duplicates_by}: has no effect; add --near-duplicates 0.85")
    if common["tags"] == "codegeex2":
        languages = languages or [language.name for language in known_languages()]  # all languages that the model knows
    if records.unknown_licences and not records.licences:
        raise UserError(f"--unknown-licences {records.unknown_licences}: has no effect; add --licences mit apache-2.0")
    filters = text.filters or "default"
    sizes = {name: getattr(text, name) for name in ("min_bytes", "max_file_bytes") if getattr(text, name) is not None}
    reading = ReadingSettings(
        languages=languages,
        rules=replace(rules if rules and text.filters is None else preset(filters), **sizes),
        redact=text.redact,
        strip_licences=text.strip_licences or ("files" if filters == "default" else "none"),
        all_text=text.all_text,
        **{name: value for name, value in vars(records).items() if value is not None},
    )
    near = {"near_duplicates": near_duplicates, "near_duplicates_by": text.near_duplicates_by or "words"}
    return PrepareSettings(reading, max_bytes=max_bytes, repositories=text.repositories, **near, **common)
