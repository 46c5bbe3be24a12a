"""The report of a prepared dataset as a page for people: one HTML file that needs nothing else.

Everything that comes from the corpus (names of files, excerpts, messages) is hostile until it is escaped: a source tree
may well hold a file called `<script>`. `_text` is the only door for it. The page has no script, and forbids any.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
BAR, LABEL, VALUE, ROW, GAP = 300, 150, 110, 18, 4  # pixels of a horizontal chart
COLUMN, HEIGHT = 44, 180  # pixels of a histogram
SHOWN = "\n\t"  # in an excerpt
STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --dim: #667085; --page: #ffffff; --line: #d9dee7; --bar: #3567b8;
  --soft: #f3f5f9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8f0; --dim: #98a2b3; --page: #14181f; --line: #333b49; --bar: #7aa7f0; --soft: #1d232d; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 1100px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; } h3 { font-size: 1rem; color: var(--dim); }
table { border-collapse: collapse; } th, td { text-align: left; padding: .25rem .8rem .25rem 0; vertical-align: top;
  border-bottom: 1px solid var(--line); } th { color: var(--dim); font-weight: 600; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; } .charts { display: flex; flex-wrap: wrap; gap: 1.5rem; } figure { margin: 0; }
figcaption, .note { color: var(--dim); } svg { max-width: 100%; height: auto; } svg text { font: 12px system-ui,
  sans-serif; fill: var(--ink); } svg .bar { fill: var(--bar); } svg .dim { fill: var(--dim); }
pre { background: var(--soft); padding: .5rem; margin: .3rem 0 0; max-width: 60rem; white-space: pre-wrap;
  overflow-wrap: anywhere; } code { overflow-wrap: anywhere; }
"""


def render(report: Mapping[str, Any]) -> str:
    """The page for a `report.json`; the same report gives the same bytes. Parts that are missing are left out."""
    charts = [_bars(report.get("languages", {}), name) for name in ("documents", "bytes", "tokens")]
    parts = [
        ("Summary", _summary(report)),
        ("Languages", _languages(report.get("languages", {})) + f'<div class="charts">{"".join(charts)}</div>'),
        ("Lengths of the documents kept", _histogram(report.get("lengths", {}))),
        ("Dropped by filters", _reasons(report.get("dropped", {}), "Nothing was dropped.")),
        ("Problems in the input", _reasons(report.get("problems", {}), "None.")),
        ("Redactions", _counts(report.get("redacted", {}), "Nothing was redacted.")),
        ("Settings", _settings(report.get("settings", {}))),
    ]
    sections = "\n".join(f"<section><h2>{title}</h2>{content}</section>" for title, content in parts)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8" />'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\" />"
        '<meta name="viewport" content="width=device-width, initial-scale=1" />'
        f"<title>Dataset report</title><style>{STYLE}</style></head>\n<body><h1>Dataset report</h1>\n{sections}\n"
        "</body></html>\n"
    )


def _text(value: object, keep: str = "") -> str:
    """Any value as text of the page. What a reader could not see, or what would turn the line round, is spelt out."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    seen = (c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in text)
    return html.escape("".join(seen))


def _count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else _text(value)


def _size(value: object) -> str:
    """Bytes with a unit of 1000."""
    if not isinstance(value, int):
        return _text(value)
    amount, unit = float(value), 0
    while amount >= 1000 and unit + 1 < len(UNITS):
        amount, unit = amount / 1000, unit + 1
    return f"{value} B" if not unit else f"{amount:.1f} {UNITS[unit]}"


def _cell(name: str, value: object) -> str:
    return "" if value is None else (_size(value) if name == "bytes" else _count(value))


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], numeric: int = 0) -> str:
    """Rows of ready HTML; the columns from the second to `numeric` + 1 are numbers."""
    kinds = ["", *[' class="n"'] * numeric, *[""] * len(heads)]
    head = "".join(f"<th{kind}>{_text(name)}</th>" for kind, name in zip(kinds, heads, strict=False))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=False)) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _summary(report: Mapping[str, Any]) -> str:
    names = ("files", "documents", "bytes", "tokens")
    rows = [("read", report.get("input", {})), ("kept", report.get("kept", {}))]
    rows += [(split, counts) for split, counts in report.get("splits", {}).items()]
    table = _table(
        ("", *names),
        [[_text(title), *(_cell(name, counts.get(name)) for name in names)] for title, counts in rows],
        len(names),
    )
    cut = report.get("truncated")
    return table + (f'<p class="note">Prompts that were cut to fit: {_count(cut)}.</p>' if cut else "")


def _ordered(languages: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return sorted(languages.items(), key=lambda item: (-item[1].get("bytes", 0), item[0]))


def _languages(languages: Mapping[str, Any]) -> str:
    names = ("documents", "bytes", "tokens")
    total = sum(entry.get("tokens", 0) for entry in languages.values())
    return _table(
        ("language", *names, "share of tokens"),
        [
            [
                _text(language or "(none)"),
                *(_cell(name, entry.get(name)) for name in names),
                f"{entry.get('tokens', 0) / total:.1%}" if total else "",
            ]
            for language, entry in _ordered(languages)
        ],
        len(names) + 1,
    )


def _bars(languages: Mapping[str, Any], name: str) -> str:
    """A horizontal bar per language, in the table's order."""
    if not languages:
        return ""
    most = max(entry.get(name, 0) for entry in languages.values()) or 1
    rows = []
    for number, (language, entry) in enumerate(_ordered(languages)):
        top, value = number * (ROW + GAP), entry.get(name, 0)
        width = BAR * value / most
        rows.append(
            f'<text x="{LABEL - 6}" y="{top + 13}" text-anchor="end">{_text(language or "(none)")}</text>'
            f'<rect class="bar" x="{LABEL}" y="{top}" width="{width:.1f}" height="{ROW}" rx="2" />'
            f'<text class="dim" x="{LABEL + width + 6:.1f}" y="{top + 13}">{_cell(name, value)}</text>'
        )
    width, height = LABEL + BAR + VALUE, len(rows) * (ROW + GAP)
    return _figure(f"{name} per language", width, height, "".join(rows))


def _figure(title: str, width: int, height: int, content: str) -> str:
    return (
        f'<figure><figcaption>{title}</figcaption><svg xmlns="http://www.w3.org/2000/svg" role="img" '
        f'aria-label="{title}" width="{width}" height="{height}" viewBox="0 0 {width} {height}">{content}</svg>'
        "</figure>"
    )


def _histogram(lengths: Mapping[str, Any]) -> str:
    """A column per range of lengths; column i holds documents of edges[i] <= tokens < edges[i + 1]."""
    edges, counts = lengths.get("edges", []), lengths.get("documents", [])
    if not any(counts):
        return '<p class="note">No documents.</p>'
    most, columns = max(counts), []
    for number, count in enumerate(counts):
        left, height = number * COLUMN, HEIGHT * count / most
        columns.append(
            f'<rect class="bar" x="{left + 2}" y="{20 + HEIGHT - height:.1f}" width="{COLUMN - 4}" '
            f'height="{height:.1f}"><title>{_count(count)} documents</title></rect>'
            f'<text class="dim" x="{left + COLUMN // 2}" y="{15 + HEIGHT - height:.1f}" text-anchor="middle">'
            f"{_short(count)}</text>"
        )
    columns += [
        f'<text class="dim" x="{number * COLUMN}" y="{HEIGHT + 36}" text-anchor="middle">{_short(edge)}</text>'
        for number, edge in enumerate(edges)
    ]
    body = f'<g transform="translate(20 0)">{"".join(columns)}</g>'
    return _figure(
        "documents by number of tokens, end token included",
        40 + COLUMN * max(len(edges), len(counts)),
        HEIGHT + 44,
        body,
    )


def _short(value: object) -> str:
    """A number in at most five characters, for a chart."""
    if not isinstance(value, int) or value < 10_000:
        return _text(value)
    for size, unit in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return str(value)


def _reasons(reasons: Mapping[str, Any], nothing: str) -> str:
    """Counts by reason, then for each reason its examples."""
    if not reasons:
        return f'<p class="note">{nothing}</p>'
    names = ("documents", "bytes")
    table = _table(
        ("reason", *names),
        [[_text(reason), *(_cell(name, entry.get(name)) for name in names)] for reason, entry in reasons.items()],
        len(names),
    )
    return table + "".join(_examples(reason, entry.get("examples", [])) for reason, entry in reasons.items())


def _examples(reason: str, examples: Sequence[Mapping[str, Any]]) -> str:
    items = []
    for example in examples:
        detail, excerpt = example.get("detail", ""), example.get("excerpt", "")
        items.append(
            f"<li><code>{_text(example.get('source', ''))}</code>"
            + (f" &#8211; {_text(detail)}" if detail else "")
            + (f"<pre>{_text(excerpt, keep=SHOWN)}</pre>" if excerpt else "")
            + "</li>"
        )
    return f"<h3>{_text(reason)}: examples</h3><ul>{''.join(items)}</ul>" if items else ""


def _counts(counts: Mapping[str, Any], nothing: str) -> str:
    if not any(counts.values()):
        return f'<p class="note">{nothing}</p>'
    return _table(("kind", "places"), [[_text(kind), _count(count)] for kind, count in counts.items()], 1)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + str(key), value


def _settings(settings: Mapping[str, Any]) -> str:
    rows = [[f"<code>{_text(key)}</code>", f"<code>{_text(value)}</code>"] for key, value in _flat(settings)]
    return _table(("setting", "value"), rows) if rows else '<p class="note">Not recorded.</p>'
