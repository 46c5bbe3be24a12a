"""`ms-codegeex prepare`: source files to a dataset directory."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

SUMMARY = "Turn source files into a tokenised, deduplicated dataset directory."
EXAMPLES = """\
  ms-codegeex prepare --output corpus                     # the installed Python libraries, 64 MB of them
  ms-codegeex prepare --input ~/src --output corpus --languages python c++
  ms-codegeex prepare --input a b --output corpus --max-bytes 2000000000 --workers 8 --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "--input",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="files and directories of sources (default: the running interpreter's libraries)",
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="dataset directory to write")
    parser.add_argument(
        "--tokenizer",
        default="codegeex",
        metavar="NAME|DIR",
        help="codegeex, codegen-nl, codegen-multi, codegen-mono, or a directory with a tokenizer's files, such as a "
        "model directory; CodeGeeX2's is always a directory (default: codegeex)",
    )
    parser.add_argument(
        "--languages",
        nargs="+",
        default=[],
        metavar="NAME",
        help="languages to take (default: the 23 training languages)",
    )
    parser.add_argument(
        "--max-bytes",
        type=int,
        default=64_000_000,
        metavar="N",
        help="most source bytes to take; more are sampled by file (default: 64000000)",
    )
    parser.add_argument(
        "--max-file-bytes", type=int, default=1_000_000, metavar="N", help="drop larger files (default: 1000000)"
    )
    parser.add_argument("--min-bytes", type=int, default=1, metavar="N", help="drop smaller files (default: 1)")
    parser.add_argument(
        "--validation-share",
        type=float,
        default=0.05,
        metavar="F",
        help="share of the bytes for validation, split by package (default: 0.05)",
    )
    parser.add_argument(
        "--near-duplicates",
        type=float,
        default=0.85,
        metavar="F",
        help="drop a file this similar to another one, 0 keeps all but exact copies (default: 0.85)",
    )
    parser.add_argument("--no-tags", action="store_true", help="no language tag line before a document")
    parser.add_argument(
        "--workers",
        type=int,
        default=_processors(),
        metavar="N",
        help="processes; does not change the result (default: one per core)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="chooses sample and split (default: 0)")
    parser.add_argument("--replace", action="store_true", help="replace the dataset in DIR")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(arguments: argparse.Namespace) -> int:
    """Prepare the dataset and say what is in it."""
    from ms_codegeex.data.corpus import Rules
    from ms_codegeex.data.prepare import PrepareSettings, prepare_dataset

    settings = PrepareSettings(
        languages=tuple(arguments.languages),
        tags=not arguments.no_tags,
        validation_share=arguments.validation_share,
        seed=arguments.seed,
        max_bytes=arguments.max_bytes,
        near_duplicates=arguments.near_duplicates,
        tokenizer=arguments.tokenizer,
        rules=Rules(min_bytes=arguments.min_bytes, max_file_bytes=arguments.max_file_bytes),
    )
    result = prepare_dataset(
        arguments.input, arguments.output, settings, workers=arguments.workers, progress=True, replace=arguments.replace
    )
    if arguments.json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        print("\n".join(summary_lines(result)))
    return 0


def summary_lines(description: dict[str, Any]) -> list[str]:
    """A dataset's description in a few lines for people."""
    lines = []
    for split, counts in description["splits"].items():
        lines.append(
            f"{split}: {counts['documents']} documents, {counts['tokens']} tokens, "
            f"{counts['bytes'] / 1e6:.2f} MB, {len(counts['packages'])} packages"
        )
        lines += [
            f"  {name}: {entry['documents']} documents, {entry['tokens']} tokens, {entry['bytes'] / 1e6:.2f} MB"
            for name, entry in counts["languages"].items()
        ]
    if description["split_by"] == "file":
        lines.append("split by file: there is only one package")
    lines += [
        f"dropped, {reason}: {entry['files']} files, {entry['bytes'] / 1e6:.2f} MB, for example {entry['example']}"
        for reason, entry in description["dropped"].items()
    ]
    if "output" in description:
        speed = (
            "reused"
            if description["cached"]
            else (f"{description['seconds']:.1f} s, {description['megabytes_per_second']:.1f} MB/s")
        )
        lines.append(f"dataset: {description['output']} ({speed})")
    return lines
