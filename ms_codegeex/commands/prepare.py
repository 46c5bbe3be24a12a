"""`ms-codegeex prepare`: make a dataset directory from source trees and archives of records."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.host import available_cores
from ms_codegeex.base.printing import print_json, print_out
from ms_codegeex.commands import infill_options, prepare_exchange, prepare_finetune
from ms_codegeex.commands.dataset_summary import corpus_lines
from ms_codegeex.data.corpus.remote import RemotePath, parse_location

SUMMARY = "turn source trees, .jsonl and .parquet files into a tokenised, deduplicated dataset directory"
EXAMPLES = f"""\
  ms-codegeex prepare --output corpus                     # 64 MB of the installed Python libraries
  ms-codegeex prepare --input ~/src --output corpus --languages python c++
  ms-codegeex prepare --input a b --output corpus --max-bytes 2000000000 --workers 8 --json
  ms-codegeex prepare --input dump.jsonl.gz stack/*.parquet --output corpus --licences mit apache-2.0
  ms-codegeex prepare --input records.jsonl --output corpus --text-field body --language-field lang --on-error stop
  ms-codegeex prepare --input ~/src --output corpus --filters codegeex --redact email secrets --near-duplicates 0.85
  ms-codegeex prepare --input ~/src --output corpus --infill-rate 0.5 --infill-mode both
{prepare_finetune.EXAMPLES}{prepare_exchange.EXAMPLES}"""
DEFAULT_MAX_BYTES, DEFAULT_NEAR_DUPLICATES = 64_000_000, 0.85  # without --input


def _location(text: str) -> Path | RemotePath:
    try:
        return parse_location(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "--input",
        nargs="+",
        type=_location,
        metavar="PATH|URL",
        help="files, directories and URLs such as s3://bucket/folder, searched for sources and for .jsonl[.gz|.zst] or "
        ".parquet files of records (default: the running interpreter's libraries)",
    )
    parser.add_argument(
        "--output",
        required=True,
        type=_location,
        metavar="DIR|URL",
        help="dataset directory to write; its report.html shows what was kept or dropped, and why. After an "
        "interruption, the same command continues where it stopped",
    )
    parser.add_argument(
        "--work",
        type=Path,
        metavar="DIR",
        help="with an --output that is a URL: where the dataset is made before it is copied there",
    )
    parser.add_argument(
        "--tokenizer",
        default="codegeex",
        metavar="NAME|DIR",
        help="codegeex, codegen-nl, codegen-multi, codegen-mono, or a directory with a tokenizer's files, such as a "
        "model directory; CodeGeeX2's is always a directory (default: codegeex)",
    )
    tags = parser.add_mutually_exclusive_group()
    tags.add_argument(
        "--tags",
        default="codegeex",
        metavar="codegeex|codegeex2|none|LINE",
        help="the language tag line before a document: CodeGeeX's 23, CodeGeeX2's 96, none, or a line of your own with "
        "{language} for the name, as CodeGen's Multi has (default: codegeex)",
    )
    tags.add_argument("--no-tags", action="store_const", const="none", dest="tags", help="the same as --tags none")
    parser.add_argument(
        "--validation-share",
        type=float,
        default=0.05,
        metavar="F",
        help="share of the bytes for validation, split by package or repository (default: 0.05)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the sampling and the split (default: 0)"
    )
    _configure_choice(parser.add_argument_group("which documents"))
    _configure_records(parser.add_argument_group("records", "by default the usual field names are tried"))
    prepare_finetune.add_arguments(parser)
    infill_options.add_arguments(parser)
    prepare_exchange.add_arguments(parser)
    _configure_run(parser.add_argument_group("the run"))


def _configure_choice(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--languages",
        nargs="+",
        default=[],
        metavar="NAME",
        help="languages to take (default: the 23 training languages; with --tags codegeex2 its 96)",
    )
    group.add_argument(
        "--all-text", action="store_true", help="also take texts of unknown languages, without a tag line"
    )
    group.add_argument(
        "--filters",
        choices=("default", "codegeex", "codegen", "none"),
        default="default",
        help="rules for the size, lines and characters of a text: this program's, those of a paper, or none "
        "(default: default)",
    )
    group.add_argument("--max-file-bytes", type=int, metavar="N", help="drop larger texts (default: --filters')")
    group.add_argument("--min-bytes", type=int, metavar="N", help="drop smaller texts (default: --filters')")
    group.add_argument(
        "--near-duplicates",
        type=float,
        metavar="F",
        help="drop documents that are this similar to another one; 0 drops exact copies only "
        f"(default: 0; {DEFAULT_NEAR_DUPLICATES} without --input)",
    )
    group.add_argument(
        "--max-bytes",
        type=int,
        metavar="N",
        help=f"limit; a larger corpus is sampled by document (default: all; {DEFAULT_MAX_BYTES} without --input)",
    )
    group.add_argument(
        "--strip-licences",
        choices=("files", "all", "none"),
        help="strip the licence headers of source files, of records as well, or of nothing (default: files with "
        "--filters default, otherwise none)",
    )
    group.add_argument(
        "--redact",
        nargs="+",
        choices=("email", "secrets"),
        default=[],
        help="replace e-mail addresses, or keys and passwords; the report counts them",
    )


def _configure_records(group: argparse._ArgumentGroup) -> None:
    for name, what in (
        ("text", "holds the text"),
        ("language", "names the language"),
        ("licence", "names the licence, or a list of them"),
        ("group", "names the group that the split keeps together, such as the repository"),
    ):
        group.add_argument(f"--{name}-field", metavar="NAME", help=f"field that {what}")
    group.add_argument(
        "--licences", nargs="+", default=[], metavar="NAME", help="only take records under these licences"
    )
    group.add_argument(
        "--on-error",
        choices=("skip", "stop"),
        default="skip",
        help="broken records and files: count them in the report and continue, or stop at the first (default: skip)",
    )


def _configure_run(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="number of processes; does not affect the result (default: one per core)",
    )
    group.add_argument(
        "--engine",
        choices=("pool", "ray"),
        help="processes on this machine, or the nodes of a Ray cluster that share a file system, all cores of them; "
        "does not affect the result (default: pool)",
    )
    group.add_argument(
        "--ray-address",
        metavar="HOST:PORT",
        help="the Ray cluster (default: auto, the one that this machine belongs to)",
    )
    group.add_argument("--replace", action="store_true", help="replace the dataset in DIR")
    group.add_argument("--json", action="store_true", help="print one JSON object on standard output")


def run(arguments: argparse.Namespace) -> int:
    """Prepare the dataset and print what is in it."""
    _refuse_urls(arguments)
    for other in (prepare_exchange, prepare_finetune):
        status = other.run(arguments)
        if status is not None:
            return status
    from ms_codegeex.data.corpus.prepare import RunOptions, prepare_dataset, prepare_remote

    if arguments.engine != "ray" and arguments.ray_address is not None:
        raise UserError("--ray-address: is for --engine ray")
    if arguments.engine == "ray" and arguments.workers is not None:
        raise UserError("--workers: not with --engine ray, which uses all cores of the cluster; leave it out")
    options = RunOptions(
        available_cores() if arguments.workers is None else arguments.workers,
        progress=True,
        replace=arguments.replace,
        cluster=_cluster(arguments),
    )
    if isinstance(arguments.output, RemotePath):
        if arguments.work is None:
            raise UserError(f"--output {arguments.output}: needs --work, a directory where the dataset is made first")
        result = prepare_remote(arguments.input, arguments.output, _settings(arguments), arguments.work, options)
    elif arguments.work is not None:
        raise UserError("--work: is for an --output that is a URL; leave it out")
    else:
        result = prepare_dataset(arguments.input, arguments.output, _settings(arguments), options)
    if arguments.json:
        print_json(result)
    else:
        print_out("\n".join(corpus_lines(result)))
    return 0


def _cluster(arguments: argparse.Namespace) -> Any:
    """The cluster that prepares; None: this machine."""
    if arguments.engine != "ray":
        return None
    from ms_codegeex.ray_engines.corpus import RayCluster

    return RayCluster(arguments.ray_address or "auto")


def _refuse_urls(arguments: argparse.Namespace) -> None:
    """Only corpora are read from URLs and written to them."""
    exchange = arguments.to is not None or arguments.from_format is not None
    if not exchange and arguments.task == prepare_finetune.PRETRAIN:
        return
    for name, given in (("input", arguments.input or ()), ("output", [arguments.output])):
        for item in given:
            if isinstance(item, RemotePath):
                raise UserError(f"--{name} {item}: a URL is for corpora; give a path of this machine")


def _settings(arguments: argparse.Namespace) -> Any:
    """The `PrepareSettings` for the arguments."""
    from ms_codegeex.data.corpus.filters import preset
    from ms_codegeex.data.corpus.settings import PrepareSettings, ReadingSettings
    from ms_codegeex.data.languages import canonical_languages

    rules = preset(arguments.filters)
    sizes = {name: getattr(arguments, name) for name in ("min_bytes", "max_file_bytes")}
    sizes = {name: value for name, value in sizes.items() if value is not None}
    default = arguments.input is None
    max_bytes, near_duplicates = arguments.max_bytes, arguments.near_duplicates
    if default and max_bytes is None:
        max_bytes = DEFAULT_MAX_BYTES
    if near_duplicates is None:
        near_duplicates = DEFAULT_NEAR_DUPLICATES if default else 0.0
    languages = tuple(arguments.languages)
    if arguments.tags == "codegeex2":
        languages = canonical_languages(languages, "codegeex2")  # none given: all that the model knows
    reading = ReadingSettings(
        languages=languages,
        rules=dataclasses.replace(rules, **sizes),
        text_field=arguments.text_field,
        language_field=arguments.language_field,
        licence_field=arguments.licence_field,
        licences=tuple(arguments.licences),
        group_field=arguments.group_field,
        redact=tuple(arguments.redact),
        strip_licences=arguments.strip_licences or ("files" if arguments.filters == "default" else "none"),
        all_text=arguments.all_text,
    )
    return PrepareSettings(
        reading,
        tags=arguments.tags,
        validation_share=arguments.validation_share,
        seed=arguments.seed,
        max_bytes=max_bytes,
        near_duplicates=near_duplicates,
        tokenizer=arguments.tokenizer,
        on_error=arguments.on_error,
        infill=infill_options.infill_config(arguments),
    )
