"""Single-file HTML pages of tables and charts. Everything that a page shows (file names, excerpts, messages, a model's
text) is hostile until it is escaped: a source tree may well contain a file called `<script>`. All of it goes through
`text`. A page has no script, and forbids any."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ms_codegeex.base.errors import escaped
from ms_codegeex.base.nested import flattened

BAR, LABEL, VALUE, ROW, GAP = 300, 150, 110, 18, 4  # pixels of a horizontal chart
PLOT_WIDTH, PLOT_HEIGHT, LEFT, TOP, LEGEND, RIGHT = 330, 220, 80, 10, 130, 66  # pixels of a plot of lines
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


def page(title: str, sections: Iterable[tuple[str, str]], style: str = "") -> str:
    """The whole page: a title, headings, each with its finished HTML, and further rules of style. The same parts give
    the same bytes."""
    title = text(title)
    content = "\n".join(f"<section><h2>{name}</h2>{part}</section>" for name, part in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8" />'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\" />"
        '<meta name="viewport" content="width=device-width, initial-scale=1" />'
        f"<title>{title}</title><style>{STYLE}{style}</style></head>\n<body><h1>{title}</h1>\n{content}\n"
        "</body></html>\n"
    )


def text(value: object, keep: str = "") -> str:
    """Any value as escaped text. Invisible characters, and those that change the writing direction, are spelled
    out."""
    words = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return html.escape(escaped(words, keep))


def code(source: str, lexer: str) -> str:
    """A program as escaped, highlighted text, for a `<pre>`; an unknown language is not highlighted."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    try:
        pygments_lexer = get_lexer_by_name(lexer, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return text(source, keep="\n\t")
    return highlight(escaped(source, "\n\t"), pygments_lexer, HtmlFormatter(nowrap=True))


def code_style() -> str:
    """Rules for `code`, on a light and on a dark page."""
    from pygments.formatters import HtmlFormatter

    light, dark = (HtmlFormatter(style=style).get_style_defs("pre") for style in ("default", "github-dark"))
    return f"{_colours(light)}\n@media (prefers-color-scheme: dark) {{\n{_colours(dark)}\n}}\n"


def _colours(rules: str) -> str:
    """Only the rules of tokens: those of the block are the page's. Half a program has errors; they get no box."""
    kept = (line for line in rules.splitlines() if line.startswith("pre .") and not line.startswith("pre .err"))
    return "\n".join(kept)


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


def bars(title: str, rows: Sequence[tuple[str, float, str]], maximum: float | None = None) -> str:
    """A horizontal bar for each (label, value, value as finished HTML). `most` is the value of the full width."""
    if not rows:
        return ""
    maximum = maximum or max(value for _, value, _ in rows) or 1
    content = []
    for number, (label, value, shown) in enumerate(rows):
        top, width = number * (ROW + GAP), BAR * value / maximum
        content.append(
            f'<text x="{LABEL - 6}" y="{top + 13}" text-anchor="end">{text(label)}</text>'
            f'<rect class="bar" x="{LABEL}" y="{top}" width="{width:.1f}" height="{ROW}" rx="2" />'
            f'<text class="dim" x="{LABEL + width + 6:.1f}" y="{top + 13}">{shown}</text>'
        )
    return figure(title, LABEL + BAR + VALUE, len(rows) * (ROW + GAP), "".join(content))


def curves(title: str, series: Mapping[str, Sequence[float]], across: str, up: str) -> str:
    """A line with a legend entry for each series of fractions `up`, the values at 1, 2, 3, ... of the quantity
    `across`."""
    points = {name: [(position, value) for position, value in enumerate(values, 1)] for name, values in series.items()}
    return lines(title, points, across, up, heights=(0.0, 1.0), shown=lambda share: f"{100 * share:.0f} %")


def lines(
    title: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    across: str,
    up: str,
    *,
    heights: tuple[float, float] | None = None,
    shown: Callable[[float], str] = lambda value: f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}",
    beside: tuple[str, Mapping[str, Sequence[tuple[float, float]]]] = ("", {}),
) -> str:
    """A line with a legend entry for each series of (x, y), x ascending: the quantities `across` and `up`, which label
    the axes. `heights`: the lowest and the highest y (default: of the series); `shown`: writes a y. `beside`: another
    quantity and its series, with an axis at the right. Of a long series only the extremes of each small interval are
    drawn, so spikes stay."""
    other, others = beside
    xs = [x for points in (*series.values(), *others.values()) for x, _ in points]
    if not xs or min(xs) == max(xs):
        return ""
    left, right = min(xs), max(xs)
    (low, high), (other_low, other_high) = heights or _range(series), _range(others)
    across_unit, legend = PLOT_WIDTH / (right - left), PLOT_WIDTH + (RIGHT if others else 14)
    grid = (TOP + PLOT_HEIGHT * (4 - each) / 4 for each in range(5))
    parts = [f'<line class="axis" x1="{LEFT}" x2="{LEFT + PLOT_WIDTH}" y1="{y:.1f}" y2="{y:.1f}" />' for y in grid]
    parts += _up_axis(up, (low, high), shown, LEFT - 6, 14, "end")
    if others:
        parts += _up_axis(
            other, (other_low, other_high), "{:.3g}".format, LEFT + PLOT_WIDTH + 6, LEFT + PLOT_WIDTH + 50
        )
    for value in sorted({left, (left + right + 1) // 2, right}):
        x = LEFT + (value - left) * across_unit
        parts.append(
            f'<text class="dim" x="{x:.1f}" y="{TOP + PLOT_HEIGHT + 18}" text-anchor="middle">{value:g}</text>'
        )
    middle = LEFT + PLOT_WIDTH / 2
    parts.append(f'<text x="{middle:.0f}" y="{TOP + PLOT_HEIGHT + 34}" text-anchor="middle">{text(across)}</text>')
    drawn = [(name, values, low, high) for name, values in series.items()]
    drawn += [(name, values, other_low, other_high) for name, values in others.items()]
    for number, (name, values, lowest, highest) in enumerate(drawn):
        colour, up_unit = COLOURS[number % len(COLOURS)], PLOT_HEIGHT / ((highest - lowest) or 1.0)
        places = [
            (f"{LEFT + (x - left) * across_unit:.1f}", f"{TOP + PLOT_HEIGHT - (y - lowest) * up_unit:.1f}")
            for x, y in _extremes(values)
        ]
        points = " ".join(map(",".join, places))
        y = TOP + ROW * number
        parts.append(f'<polyline class="line" stroke="{colour}" points="{points}" />')
        if len(places) == 1:  # a line would show nothing
            parts.append(f'<circle fill="{colour}" cx="{places[0][0]}" cy="{places[0][1]}" r="3" />')
        parts.append(f'<rect fill="{colour}" x="{LEFT + legend}" y="{y}" width="12" height="12" />')
        parts.append(f'<text x="{LEFT + legend + 18}" y="{y + 11}">{text(name)}</text>')
    height = max(TOP + PLOT_HEIGHT + 40, TOP + ROW * len(drawn))
    return figure(title, LEFT + legend - 14 + LEGEND, height, "".join(parts))


def _up_axis(
    name: str, ends: tuple[float, float], shown: Callable[[float], str], x: int, name_x: int, anchor: str = "start"
) -> Iterator[str]:
    """The labels of five heights from the lowest to the highest, and the axis's name."""
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y, label = TOP + PLOT_HEIGHT * (1 - share), text(shown(ends[0] + share * (ends[1] - ends[0])))
        yield f'<text class="dim" x="{x}" y="{y + 4:.1f}" text-anchor="{anchor}">{label}</text>'
    half = TOP + PLOT_HEIGHT / 2
    yield f'<text transform="translate({name_x} {half:.0f}) rotate(-90)" text-anchor="middle">{text(name)}</text>'


def _range(series: Mapping[str, Sequence[tuple[float, float]]]) -> tuple[float, float]:
    """The lowest and the highest y, 0 without any."""
    ys = [y for points in series.values() for _, y in points]
    return min(ys, default=0.0), max(ys, default=0.0)


def _extremes(points: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """About `PLOT_WIDTH` points at most: the lowest and the highest of each interval, in their order."""
    size = max(1, 2 * len(points) // PLOT_WIDTH)
    for start in range(0, len(points), size):
        part = points[start : start + size]
        yield from sorted({min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])})


def spans(
    title: str, rows: Sequence[tuple[str, float, float, int, str]], across: str, shown: Callable[[float], str]
) -> str:
    """A bar from begin to end for each (label, begin, end, number of its colour, words next to it) on a common scale
    that starts with the first one. `across` labels the scale, `shown` writes a distance from its start."""
    if not rows:
        return ""
    first, last = min(row[1] for row in rows), max(row[2] for row in rows)
    unit, content = PLOT_WIDTH / ((last - first) or 1.0), []
    for number, (label, begin, end, colour, words) in enumerate(rows):
        top, x = number * (ROW + GAP), LABEL + (begin - first) * unit
        content.append(
            f'<text x="{LABEL - 6}" y="{top + 13}" text-anchor="end">{text(label)}</text>'
            f'<rect fill="{COLOURS[colour % len(COLOURS)]}" x="{x:.1f}" y="{top}" '
            f'width="{max(2.0, (end - begin) * unit):.1f}" height="{ROW}" rx="2" />'
            f'<text class="dim" x="{LABEL + PLOT_WIDTH + 6}" y="{top + 13}">{text(words)}</text>'
        )
    bottom, end = len(rows) * (ROW + GAP), shown(last - first)
    content.append(
        f'<line class="axis" x1="{LABEL}" x2="{LABEL + PLOT_WIDTH}" y1="{bottom}" y2="{bottom}" />'
        f'<text class="dim" x="{LABEL}" y="{bottom + 13}" text-anchor="start">{text(shown(0.0))}</text>'
        f'<text x="{LABEL + PLOT_WIDTH / 2:.0f}" y="{bottom + 13}" text-anchor="middle">{text(across)}</text>'
        f'<text class="dim" x="{LABEL + PLOT_WIDTH}" y="{bottom + 13}" text-anchor="end">{text(end)}</text>'
    )
    return figure(title, LABEL + PLOT_WIDTH + 2 * LEGEND, bottom + ROW, "".join(content))


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
