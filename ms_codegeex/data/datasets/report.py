"""The report on a prepared dataset as an HTML page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ms_codegeex.base.webpage import bars, charts, count, figure, note, page, settings, table, text

UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
COLUMN, HEIGHT = 44, 180  # pixels of a histogram
SHOWN = "\n\t"  # control characters that an excerpt keeps


def render(report: Mapping[str, Any]) -> str:
    """The page for a `report.json`; the same report gives the same bytes. Missing sections are left out."""
    figures = [_bars(report.get("languages", {}), name) for name in ("documents", "bytes", "tokens")]
    stripped = report.get("licences_stripped")  # none for fine-tuning data, because its texts keep their headers
    licences = [] if stripped is None else [("Licence headers left out", _licences(stripped))]
    parts = [
        ("Summary", _summary(report)),
        ("Languages", _languages(report.get("languages", {})) + charts(figures)),
        ("Lengths of the documents kept", _histogram(report.get("lengths", {}))),
        ("Dropped by filters", _reasons(report.get("dropped", {}), "Nothing was dropped.")),
        ("Problems in the input", _reasons(report.get("problems", {}), "None.")),
        *licences,
        ("Redactions", _counts(report.get("redacted", {}), "Nothing was redacted.")),
        ("Settings", settings(report.get("settings", {}))),
    ]
    return page("Dataset report", parts)


def _size(value: object) -> str:
    """Bytes with a unit of 1000."""
    if not isinstance(value, int):
        return text(value)
    amount, unit = float(value), 0
    while amount >= 1000 and unit + 1 < len(UNITS):
        amount, unit = amount / 1000, unit + 1
    return f"{value} B" if not unit else f"{amount:.1f} {UNITS[unit]}"


def _cell(name: str, value: object) -> str:
    return "" if value is None else (_size(value) if name == "bytes" else count(value))


def _table(head: str, rows: Iterable[tuple[str, Mapping[str, Any]]], *names: str) -> str:
    """The counts called `names` of each title."""
    cells = [[text(title), *(_cell(name, counts.get(name)) for name in names)] for title, counts in rows]
    return table((head, *names), cells, len(names))


def _summary(report: Mapping[str, Any]) -> str:
    rows = [("read", report.get("input", {})), ("kept", report.get("kept", {})), *report.get("splits", {}).items()]
    counts_table, truncated = _table("", rows, "files", "documents", "bytes", "tokens"), report.get("truncated")
    return counts_table + (note(f"Truncated prompts: {count(truncated)}.") if truncated else "")


def _ordered(languages: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return sorted(languages.items(), key=lambda item: (-item[1].get("bytes", 0), item[0]))


def _languages(languages: Mapping[str, Any]) -> str:
    total, share = sum(entry.get("tokens", 0) for entry in languages.values()), "share of tokens"
    rows = [
        (language or "(none)", {**entry, share: f"{entry.get('tokens', 0) / total:.1%}" if total else ""})
        for language, entry in _ordered(languages)
    ]
    return _table("language", rows, "documents", "bytes", "tokens", share)


def _bars(languages: Mapping[str, Any], name: str) -> str:
    """A horizontal bar per language, in the table's order."""
    rows = [
        (language or "(none)", entry.get(name, 0), _cell(name, entry.get(name, 0)))
        for language, entry in _ordered(languages)
    ]
    return bars(f"{name} per language", rows)


def _histogram(lengths: Mapping[str, Any]) -> str:
    """A column per range of lengths; column i counts documents of edges[i] <= tokens < edges[i + 1]."""
    edges, counts = lengths.get("edges", []), lengths.get("documents", [])
    if not any(counts):
        return note("No documents.")
    maximum, columns = max(counts), []
    for number, documents in enumerate(counts):
        left, height = number * COLUMN, HEIGHT * documents / maximum
        columns.append(
            f'<rect class="bar" x="{left + 2}" y="{20 + HEIGHT - height:.1f}" width="{COLUMN - 4}" '
            f'height="{height:.1f}"><title>{count(documents)} documents</title></rect>'
            f'<text class="dim" x="{left + COLUMN // 2}" y="{15 + HEIGHT - height:.1f}" text-anchor="middle">'
            f"{_short(documents)}</text>"
        )
    columns += [
        f'<text class="dim" x="{number * COLUMN}" y="{HEIGHT + 36}" text-anchor="middle">{_short(edge)}</text>'
        for number, edge in enumerate(edges)
    ]
    body = f'<g transform="translate(20 0)">{"".join(columns)}</g>'
    return figure(
        "documents by number of tokens, end token included",
        40 + COLUMN * max(len(edges), len(counts)),
        HEIGHT + 44,
        body,
    )


def _short(value: object) -> str:
    """A number in at most five characters, for a chart."""
    if not isinstance(value, int) or value < 10_000:
        return text(value)
    for size, unit in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return str(value)


def _reasons(reasons: Mapping[str, Any], nothing: str) -> str:
    """Counts by reason, then for each reason its examples."""
    if not reasons:
        return note(nothing)
    reasons_table = _table("reason", reasons.items(), "documents", "bytes")
    return reasons_table + "".join(_examples(reason, entry.get("examples", [])) for reason, entry in reasons.items())


def _examples(reason: str, examples: Sequence[Mapping[str, Any]]) -> str:
    items = []
    for example in examples:
        detail, excerpt = example.get("detail", ""), example.get("excerpt", "")
        items.append(
            f"<li><code>{text(example.get('source', ''))}</code>"
            + (f" &#8211; {text(detail)}" if detail else "")
            + (f"<pre>{text(excerpt, keep=SHOWN)}</pre>" if excerpt else "")
            + "</li>"
        )
    return f"<h3>{text(reason)}: examples</h3><ul>{''.join(items)}</ul>" if items else ""


def _licences(stripped: Mapping[str, Any]) -> str:
    if not any(stripped.values()):
        return note("None.")
    return _table("", [("kept without them", stripped)], "documents", "bytes")


def _counts(counts: Mapping[str, Any], nothing: str) -> str:
    rows = [(kind, {"places": places}) for kind, places in counts.items()]
    return _table("kind", rows, "places") if any(counts.values()) else note(nothing)
