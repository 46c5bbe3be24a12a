"""The report on a prepared dataset as an HTML page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from typing import Any

from ms_codegeex.base.printing import size_text
from ms_codegeex.base.webpage import Html, bars, charts, count, element, joined, note, page, settings, table, text

UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
SHOWN = "\n\t"  # control characters that an excerpt keeps


def render(report: Mapping[str, Any]) -> str:
    """Return the page for a report.json. Equal reports give equal bytes. Empty sections are omitted."""
    most_first = sorted(report.get("languages", {}).items(), key=lambda item: (-item[1].get("bytes", 0), item[0]))
    figures = [_bars(dict(most_first), name) for name in ("documents", "bytes", "tokens")]
    stripped = report.get("licences_stripped")  # absent in fine-tuning data, whose texts keep their headers
    kept = [("kept without them", stripped)] if stripped and any(stripped.values()) else []
    headers = _table("", kept, "documents", "bytes", nothing="None.")
    licences = [] if stripped is None else [("Licence headers left out", headers)]
    redacted = report.get("redacted", {})
    found = {kind: {"places": number} for kind, number in redacted.items()} if any(redacted.values()) else {}
    places = _table("kind", found.items(), "places", nothing="Nothing was redacted.")
    if "licences" in report:
        licences.insert(0, ("Licences", _table("licence", report["licences"].items(), "documents", "bytes")))
    sections = [
        ("Summary", *_summary(report)),
        ("Languages", _languages(dict(most_first)), charts(*figures)),
        ("Lengths of the documents kept", _histogram(report.get("lengths", {}))),
        ("Dropped by filters", *_reasons(report.get("dropped", {}), "Nothing was dropped.")),
        ("Problems in the input", *_reasons(report.get("problems", {}), "None.")),
        ("Files that are not read", *_reasons(report.get("unread", {}), "None.")),
        *licences,
        ("Redactions", places),
        ("Settings", settings(report.get("settings", {}))),
    ]
    return page("Dataset report", sections)


def _size(value: object) -> Html:
    """Return a number of bytes with a decimal unit; below 10 kB it is exact."""
    if not isinstance(value, int) or value < 10_000:
        return text(size_text(value) if isinstance(value, int) else value)
    amount, unit = float(value), 0
    while amount >= 1000 and unit + 1 < len(UNITS):
        amount, unit = amount / 1000, unit + 1
    return text(f"{amount:.1f} {UNITS[unit]}")


def _cell(name: str, value: object) -> object:
    return _size(value) if name == "bytes" and value is not None else value


def _table(head: str, rows: Iterable[tuple[str, Mapping[str, Any]]], *names: str, nothing: str = "") -> Html:
    cells = ([title, *(_cell(name, counts.get(name)) for name in names)] for title, counts in rows)
    return table((head, *names), cells, len(names), nothing=nothing)


def _summary(report: Mapping[str, Any]) -> Iterator[Html]:
    rows = [("read", report.get("input", {})), ("kept", report.get("kept", {})), *report.get("splits", {}).items()]
    yield _table("", rows, "files", "documents", "bytes", "tokens")
    if joined_files := report.get("repositories"):
        files, repositories, documents = (count(joined_files[name]) for name in ("files", "repositories", "documents"))
        yield note(f"Joined: {files} files of {repositories} repositories are {documents} documents.")
    if truncated := report.get("truncated"):
        yield note(f"Truncated prompts: {count(truncated)}.")


def _languages(languages: Mapping[str, Any]) -> Html:
    total, share = sum(entry.get("tokens", 0) for entry in languages.values()), "share of tokens"
    rows = (
        (language or "(none)", {**entry, share: f"{entry.get('tokens', 0) / total:.1%}" if total else ""})
        for language, entry in languages.items()
    )
    return _table("language", rows, "documents", "bytes", "tokens", share)


def _bars(languages: Mapping[str, Any], name: str) -> Html:
    counts = {language or "(none)": entry.get(name, 0) for language, entry in languages.items()}
    return bars(f"{name} per language", [(language, n, count(_cell(name, n))) for language, n in counts.items()])


def _histogram(lengths: Mapping[str, Any]) -> Html:
    """Return a bar for each range: `documents[i]` have at least `edges[i]` and fewer than `edges[i + 1]` tokens."""
    edges, documents = lengths.get("edges", []), lengths.get("documents", [])
    if not any(documents):
        return note("No documents.")
    ends = [f"to {count(edge - 1)}" for edge in edges[1:]]
    labels = [f"{count(edge)} {end}" for edge, end in zip_longest(edges[: len(documents)], ends, fillvalue="or more")]
    rows = [(label, number, count(number)) for label, number in zip(labels, documents, strict=True)]
    return bars("documents by number of tokens, end token included", rows)


def _reasons(reasons: Mapping[str, Any], nothing: str) -> Iterator[Html]:
    yield _table("reason", reasons.items(), "documents", "bytes", nothing=nothing)
    for reason, entry in reasons.items():
        if examples := [_example(each) for each in entry.get("examples", [])]:
            yield joined(element("h3", f"{reason}: examples"), element("ul", *examples))


def _example(example: Mapping[str, Any]) -> Html:
    detail, excerpt = example.get("detail", ""), example.get("excerpt", "")
    parts = [f" \N{EN DASH} {detail}"] if detail else []
    parts += [element("pre", text(excerpt, keep=SHOWN))] if excerpt else []
    return element("li", element("code", example.get("source", "")), *parts)
