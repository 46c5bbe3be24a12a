"""The options of `prepare`; `finetune` has those for infilling too."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.options import Option, add_options, given_values
from ms_codegeex.data.corpus.remote import RemotePath, parse_location

if TYPE_CHECKING:
    from ms_codegeex.config.sections import InfillConfig

DEFAULT_MAX_BYTES, DEFAULT_NEAR_DUPLICATES = 64_000_000, 0.85  # without --input


def _location(text: str) -> Path | RemotePath:
    try:
        return parse_location(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


@dataclass(frozen=True)
class DatasetOptions:
    """What every dataset has."""

    output: Annotated[
        Path | RemotePath,
        Option(
            "dataset directory to write; its report.html shows what was kept or dropped, and why. After an "
            "interruption, the same command continues where it stopped",
            "DIR|URL",
            convert=_location,
        ),
    ]
    input: Annotated[
        tuple[Path | RemotePath, ...] | None,
        Option(
            "files, directories and URLs such as s3://bucket/folder, searched for sources and for .jsonl[.gz|.zst] or "
            ".parquet files of records (default: the running interpreter's libraries)",
            "PATH|URL",
            convert=_location,
        ),
    ] = None
    tokenizer: Annotated[
        str,
        Option(
            "codegeex, codegen-nl, codegen-multi, codegen-mono, or a directory with a tokenizer's files, such as a "
            "model directory; CodeGeeX2's is always a directory",
            "NAME|DIR",
        ),
    ] = "codegeex"
    validation_share: Annotated[
        float, Option("share of the bytes for validation, split by package or repository", "F")
    ] = 0.05
    seed: Annotated[int, Option("seed of the sampling and the split", "N")] = 0
    on_error: Annotated[
        Literal["skip", "stop"],
        Option("broken records and files: count them in the report and continue, or stop at the first"),
    ] = "skip"
    replace: Annotated[bool, Option("replace the dataset in DIR")] = False
    json: Annotated[bool, Option("print one JSON object on standard output")] = False


@dataclass(frozen=True)
class TextOptions:
    """Which documents a corpus gets."""

    languages: Annotated[
        tuple[str, ...],
        Option("languages to take (default: the 23 training languages; with --tags codegeex2 its 96)", "NAME"),
    ] = ()
    all_text: Annotated[bool, Option("also take texts of unknown languages, without a tag line")] = False
    filters: Annotated[
        Literal["default", "codegeex", "codegen", "none"],
        Option("rules for the size, lines and characters of a text: this program's, those of a paper, or none"),
    ] = "default"
    max_file_bytes: Annotated[int | None, Option("drop larger texts (default: --filters')", "N")] = None
    min_bytes: Annotated[int | None, Option("drop smaller texts (default: --filters')", "N")] = None
    near_duplicates: Annotated[
        float | None,
        Option(
            "drop documents that are this similar to another one; 0 drops exact copies only "
            f"(default: 0; {DEFAULT_NEAR_DUPLICATES} without --input)",
            "F",
        ),
    ] = None
    max_bytes: Annotated[
        int | None,
        Option(
            f"limit; a larger corpus is sampled by document (default: all; {DEFAULT_MAX_BYTES} without --input)", "N"
        ),
    ] = None
    strip_licences: Annotated[
        Literal["files", "all", "none"] | None,
        Option(
            "strip the licence headers of source files, of records as well, or of nothing (default: files with "
            "--filters default, otherwise none)"
        ),
    ] = None
    redact: Annotated[
        tuple[Literal["email", "secrets"], ...],
        Option("replace e-mail addresses, or keys and passwords; the report counts them"),
    ] = ()


@dataclass(frozen=True)
class RecordOptions:
    """How records of a corpus are read."""

    text_field: Annotated[str | None, Option("field that holds the text", "NAME")] = None
    language_field: Annotated[str | None, Option("field that names the language", "NAME")] = None
    licence_field: Annotated[str | None, Option("field that names the licence, or a list of them", "NAME")] = None
    group_field: Annotated[
        str | None,
        Option("field that names the group that the split keeps together, such as the repository", "NAME"),
    ] = None
    licences: Annotated[tuple[str, ...], Option("only take records under these licences", "NAME")] = ()


@dataclass(frozen=True)
class WorkOptions:
    """Where a corpus is made."""

    work: Annotated[
        Path | None,
        Option("with an --output that is a URL: where the dataset is made before it is copied there", "DIR"),
    ] = None
    engine: Annotated[
        Literal["pool", "ray"] | None,
        Option(
            "processes on this machine, or the nodes of a Ray cluster that share a file system, all cores of them; "
            "does not affect the result (default: pool)"
        ),
    ] = None
    ray_address: Annotated[
        str | None, Option("the Ray cluster (default: auto, the one that this machine belongs to)", "HOST:PORT")
    ] = None


CORPORA = (TextOptions, RecordOptions, WorkOptions)  # options that other datasets do not have


@dataclass(frozen=True)
class TuningOptions:
    """How records become prompts and answers. The last two are of fine-tuning alone."""

    task: Annotated[
        Literal["pretrain", "completion", "chat", "translation"],
        Option("kind of records (docs/finetuning-data.md); pretrain: documents of a corpus"),
    ] = "pretrain"
    seq_length: Annotated[
        int | None,
        Option("maximum tokens per example, including the end token; rows of --to have one token more", "N"),
    ] = None
    overlong: Annotated[
        Literal["truncate", "drop"] | None,
        Option("truncate the start of the prompt of a longer example, or drop the example (default: truncate)"),
    ] = None
    template: Annotated[
        Literal["auto", "codegeex2", "plain"] | None,
        Option("format of conversations; auto: that of the tokenizer's model (default: auto)"),
    ] = None


@dataclass(frozen=True)
class InfillOptions:
    """The fields of `InfillConfig`."""

    infill_rate: Annotated[
        float | None, Option("share of the documents whose middle moves to their end", "F", ge=0, le=1)
    ] = None
    infill_mode: Annotated[
        Literal["psm", "spm", "both"] | None, Option("prefix first, suffix first, or half of each (default: both)")
    ] = None
    infill_level: Annotated[
        Literal["context", "document"] | None,
        Option("rearrange the parts of documents in each sample, or complete documents (default: context)"),
    ] = None
    infill_sentinels: Annotated[
        tuple[int, int, int] | None,
        Option("ids that mark the parts (default: the tokenizer's unused ones)", "PREFIX SUFFIX MIDDLE"),
    ] = None


@dataclass(frozen=True)
class ExchangeOptions:
    """Datasets of other programs. All but `from_format` are of `--to`."""

    to: Annotated[
        Literal["mindrecord", "triplet"] | None,
        Option("write the dataset directory --input in this format", either="direction"),
    ] = None
    from_format: Annotated[
        Literal["mindrecord", "triplet"] | None,
        Option("read --input in this format, write a dataset directory", either="direction", flag="from"),
    ] = None
    split: Annotated[Literal["train", "validation"] | None, Option("split that --to writes (default: train)")] = None
    files: Annotated[int | None, Option("number of files of --to mindrecord (default: 1)", "N")] = None
    order: Annotated[
        Literal["stored", "training"] | None,
        Option(
            "order of the rows of --to mindrecord: that of the dataset, or that of training with --seed "
            "(default: stored)"
        ),
    ] = None


def add_infill_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for infilling as a group of their own."""
    group = parser.add_argument_group("infilling", "training to fill in the middle (docs/infilling.md)")
    add_options(group, InfillOptions)


def infill_config(arguments: argparse.Namespace) -> InfillConfig | None:
    """The settings from the options; None if no rate is given."""
    values = {name.removeprefix("infill_"): getattr(arguments, name) for name in given_values(InfillOptions, arguments)}
    if values and "rate" not in values:
        raise UserError(f"--infill-{next(iter(values))}: needs --infill-rate, for example 0.5")
    from ms_codegeex.config.sections import InfillConfig

    return InfillConfig(**values) if values else None
