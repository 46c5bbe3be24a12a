"""Single-file HTML pages of tables and charts.

Everything that a page shows (file names, excerpts, messages, a model's text) is hostile until it is escaped: a source
tree may well contain a file called `<script>`. All of it goes through `text`. A page has no script, and forbids any.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ms_codegeex.nested import flattened

BAR, LABEL, VALUE, ROW, GAP = 300, 150, 110, 18, 4  # pixels of a horizontal chart
PLOT_WIDTH, PLOT_HEIGHT, LEFT, TOP, LEGEND = 420, 220, 44, 10, 150  # pixels of a plot of lines
COLOURS = ("#3f78cf", "#c8641f", "#2f9463", "#a04fc0", "#b08a12", "#c9446f", "#3f9dab")  # seen on white and on black
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
svg .axis { stroke: var(--line); } svg .line { fill: none; stroke-width: 2; }
pre { background: var(--soft); padding: .5rem; margin: .3rem 0 0; max-width: 60rem; white-space: pre-wrap;
  overflow-wrap: anywhere; } code { overflow-wrap: anywhere; }
"""


def page(title: str, sections: Iterable[tuple[str, str]]) -> str:
    """The whole page: headings, each with its finished HTML. The same parts give the same bytes."""
    content = "\n".join(f"<section><h2>{name}</h2>{part}</section>" for name, part in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8" />'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\" />"
        '<meta name="viewport" content="width=device-width, initial-scale=1" />'
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n{content}\n"
        "</body></html>\n"
    )


def text(value: object, keep: str = "") -> str:
    """Any value as escaped text. Invisible characters, and those that change the writing direction, are spelled
    out."""
    words = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    seen = (c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in words)
    return html.escape("".join(seen))


def count(value: object) -> str:
    """A whole number with thousands separators; anything else as text."""
    return f"{value:,}" if isinstance(value, int) else text(value)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], numeric: int = 0) -> str:
    """A table of finished HTML cells. The `numeric` columns after the first one are right-aligned numbers."""
    kinds = ["", *[' class="n"'] * numeric, *[""] * len(heads)]
    head = "".join(f"<th{kind}>{text(name)}</th>" for kind, name in zip(kinds, heads, strict=False))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=False)) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def note(words: str) -> str:
    """A paragraph in small print, given as finished HTML."""
    return f'<p class="note">{words}</p>'


def bars(title: str, rows: Sequence[tuple[str, float, str]], most: float | None = None) -> str:
    """A horizontal bar for each (label, value, value as finished HTML). `most` is the value of the full width."""
    if not rows:
        return ""
    most = most or max(value for _, value, _ in rows) or 1
    content = []
    for number, (label, value, shown) in enumerate(rows):
        top, width = number * (ROW + GAP), BAR * value / most
        content.append(
            f'<text x="{LABEL - 6}" y="{top + 13}" text-anchor="end">{text(label)}</text>'
            f'<rect class="bar" x="{LABEL}" y="{top}" width="{width:.1f}" height="{ROW}" rx="2" />'
            f'<text class="dim" x="{LABEL + width + 6:.1f}" y="{top + 13}">{shown}</text>'
        )
    return figure(title, LABEL + BAR + VALUE, len(rows) * (ROW + GAP), "".join(content))


def curves(title: str, series: Mapping[str, Sequence[float]], across: str) -> str:
    """A line with a legend entry for each series of fractions, the values at 1, 2, 3, ... of the quantity `across`."""
    longest = max((len(values) for values in series.values()), default=0)
    if longest < 2:
        return ""
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = TOP + PLOT_HEIGHT * (1 - share)
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{LEFT + PLOT_WIDTH}" y1="{y:.1f}" y2="{y:.1f}" />')
        parts.append(f'<text class="dim" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{100 * share:.0f} %</text>')
    for value in sorted({1, (longest + 1) // 2, longest}):
        x = LEFT + PLOT_WIDTH * (value - 1) / (longest - 1)
        parts.append(f'<text class="dim" x="{x:.1f}" y="{TOP + PLOT_HEIGHT + 18}" text-anchor="middle">{value}</text>')
    parts.append(
        f'<text class="dim" x="{LEFT + PLOT_WIDTH}" y="{TOP + PLOT_HEIGHT + 34}" text-anchor="end">{across}</text>'
    )
    for number, (name, values) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(
            f"{LEFT + PLOT_WIDTH * place / (longest - 1):.1f},{TOP + PLOT_HEIGHT * (1 - value):.1f}"
            for place, value in enumerate(values)
        )
        y = TOP + ROW * number
        parts.append(f'<polyline class="line" stroke="{colour}" points="{points}" />')
        parts.append(f'<rect fill="{colour}" x="{LEFT + PLOT_WIDTH + 14}" y="{y}" width="12" height="12" />')
        parts.append(f'<text x="{LEFT + PLOT_WIDTH + 32}" y="{y + 11}">{text(name)}</text>')
    height = max(TOP + PLOT_HEIGHT + 40, TOP + ROW * len(series))
    return figure(title, LEFT + PLOT_WIDTH + LEGEND, height, "".join(parts))


def figure(title: str, width: int, height: int, content: str) -> str:
    """An SVG of that many pixels with a caption; title and content are finished HTML."""
    return (
        f'<figure><figcaption>{title}</figcaption><svg xmlns="http://www.w3.org/2000/svg" role="img" '
        f'aria-label="{title}" width="{width}" height="{height}" viewBox="0 0 {width} {height}">{content}</svg>'
        "</figure>"
    )


def charts(figures: Iterable[str]) -> str:
    """Figures next to each other if there is room."""
    return f'<div class="charts">{"".join(figures)}</div>'


def settings(tree: Mapping[str, Any]) -> str:
    """A table of dotted keys and their values."""
    rows = [[f"<code>{text(key)}</code>", f"<code>{text(value)}</code>"] for key, value in flattened(tree).items()]
    return table(("setting", "value"), rows) if rows else note("Not recorded.")
