"""Descriptions of datasets and the counts of what they were made from, as the verbs print them."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping
from typing import Any

from ms_codegeex.base.errors import escaped
from ms_codegeex.base.printing import print_error, print_result, size_text, table


def dataset_lines(description: dict[str, Any]) -> list[str]:
    """A few lines for people that describe any kind of dataset."""
    if description.get("kind") is None and "found" in description:
        return corpus_lines(description)
    lines = []
    if description.get("kind"):
        lines.append(f"{description['kind']}: {description['task']}, at most {description['seq_length']} tokens")
    for split, counts in description["splits"].items():
        answers = f", {counts['answer_tokens']} of them in answers" if "answer_tokens" in counts else ""
        lines.append(f"{split}: {_documents(counts)}{answers}, {size_text(counts['bytes'])}")
    if description.get("truncated"):
        lines.append(f"truncated prompts: {description['truncated']}")
    return lines if "output" in description else lines + _left_out(description)


def _left_out(description: dict[str, Any]) -> list[str]:
    if "tally" in description:
        return tally_lines(description["tally"])
    counts = {reason: it.get("documents", it.get("files")) for reason, it in description.get("dropped", {}).items()}
    return [f"dropped, {reason}: {count}" for reason, count in counts.items()]


def corpus_lines(description: dict[str, Any]) -> list[str]:
    """A few lines for people that describe a corpus of documents."""
    lines, kept = [], description.get("tally", {}).get("files", {}).get("kept")
    word = "records" if kept == 0 else "documents"
    for split, counts in description["splits"].items():
        packages = counts.get("package_count", len(counts["packages"]))
        named = {split: counts, **{f"  {name}": each for name, each in counts["languages"].items()}}
        rows = [f"{name}: {_documents(each, word)}, {size_text(each['bytes'])}" for name, each in named.items()]
        lines += [f"{rows[0]}, {packages} packages", *rows[1:]]
    if description["split_by"] in ("folder", "file"):
        lines.append(f"split by {description['split_by']}: packages are too few or too large")
    if (stripped := description.get("licences_stripped", {})).get("documents"):
        lines.append(f"licence headers left out: {size_text(stripped['bytes'])} of {stripped['documents']} {word}")
    if joined := description.get("repositories"):
        of = f"{joined['files']} files of {joined['repositories']} repositories"
        lines.append(f"joined: {of} are {joined['documents']} documents")
    for name, counts in itertools.islice(description.get("licences", {}).items(), 10):
        lines.append(f"licence {name}: {counts['documents']} {word}, {size_text(counts['bytes'])}")
    if "output" not in description:
        lines += _left_out(description)
    else:
        made = "reused"
        if not description["cached"]:
            made = f"{description['seconds']:.1f} s, {description['megabytes_per_second']:.1f} MB/s"
        lines.append(f"dataset: {description['output']} ({made})")
    return lines


def _documents(counts: dict[str, Any], word: str = "documents") -> str:
    return f"{counts['documents']} {word}, {counts['tokens']} tokens"


def print_dataset(arguments: argparse.Namespace, result: dict[str, Any]) -> None:
    print_tally(result.get("tally"))
    print_result(result, "\n".join([*dataset_lines(result), f"dataset: {result['output']}"]), arguments.json)


def tally_lines(tally: Mapping[str, Any]) -> list[str]:
    """The content of `Tally.summed` in lines for people: a table of all files and records, and the remarks."""
    files, records = tally.get("files", {}), tally.get("records", {})
    rows = [("found", files.get("found", tally["read"]), records.get("read", 0), "")]
    examples = f"which give {tally['examples']} examples" if "examples" in tally else ""
    rows.append(("kept", files.get("kept", tally["kept"]), records.get("kept", 0), examples))
    if held := files.get("holding_records"):
        rows.append(("hold records", held, 0, ""))
    for word, part in (("dropped", "dropped"), ("not read", "unread")):
        for name, it in tally.get(part, {}).items():
            example = _example(it)
            if suffixes := it.get("suffixes"):
                example = ", ".join(f"{suffix} {count:,}" for suffix, count in suffixes.items())
                example += ", …" if sum(suffixes.values()) < it["count"] else ""
            example = example if part == "unread" else ""  # other examples are below the table
            rows.append((f"{word}, {name}", it["count"] - it.get("records", 0), it.get("records", 0), example))
    last = 3 if any(row[2] for row in rows) else 2
    cells = [(escaped(label), f"{one:,}", f"{other:,}")[:last] for label, one, other, _ in rows]
    lines = table(("", "files", "records")[:last], cells).split("\n")
    lines = [f"{line}  {escaped(row[3])}".rstrip() for line, row in zip(lines, [("",) * 4, *rows], strict=True)]
    below = {**{f"dropped, {name}": it for name, it in tally["dropped"].items()}, **tally["noted"]}
    return lines + [escaped(f"{name}: {it['count']}, {_example(it)}") for name, it in below.items()]


def _example(entry: Mapping[str, Any]) -> str:
    return f"for example {entry['first']}" + (f" ({entry['detail']})" if entry["detail"] else "")


def print_tally(tally: Mapping[str, Any] | None) -> None:
    """Print what became of the input on standard error, as every verb that reads users' texts does at the end. None: a
    dataset that an earlier version made has no tally."""
    for line in tally_lines(tally) if tally is not None else ():
        print_error(line)
