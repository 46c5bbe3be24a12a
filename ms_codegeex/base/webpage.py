"""Build single-file HTML pages of tables and charts. Everything that a page shows (file names, excerpts, messages, a
model's text) is hostile until it is escaped: a source tree may well contain a file called `<script>`. So `element`
writes every tag, and escapes everything that is not already `Html`. A page contains no script and forbids scripts."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ms_codegeex.base.errors import escaped
from ms_codegeex.base.nested import flattened

BAR, LABEL, VALUE, ROW, GAP = 300, 150, 110, 18, 4  # pixels, in bar charts
PLOT_WIDTH, PLOT_HEIGHT, LEFT, TOP, LEGEND = 330, 220, 80, 10, 130  # pixels, in line charts
COLOURS = ("#3f78cf", "#c8641f", "#2f9463", "#a04fc0", "#b08a12", "#c9446f", "#3f9dab")  # legible on white and on black
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


class Html(str):
    """Finished HTML, which is not escaped again."""


def text(value: object, keep: str = "") -> Html:
    """Return a value as escaped text. Characters that are invisible or change the writing direction are spelled out,
    except those in `keep`."""
    if isinstance(value, Html):
        return value
    words = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return Html(html.escape(escaped(words, keep)))


def joined(*parts: object) -> Html:
    return Html("".join(map(text, parts)))


def element(tag: str, *parts: object, **attributes: object) -> Html:
    """Return an HTML or SVG element around `parts`. In attribute names, a final `_` is dropped and other `_` become
    `-`. An attribute that is None is omitted; floats (pixels) get one decimal."""
    given = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items() if value is not None}
    shown = (f' {key}="{f"{x:.1f}" if isinstance(x, float) else text(x)}"' for key, x in given.items())
    return Html(f"<{tag}{''.join(shown)}>{''.join(map(text, parts))}</{tag}>")


def page(title: str, sections: Iterable[Sequence[object]], style: str = "") -> str:
    """Return the whole page: a title, sections, and additional CSS rules `style`. A section is a heading and its parts;
    it is omitted if all parts are empty. Equal input gives equal bytes."""
    title = text(title)
    shown = (element("section", element("h2", name), *parts) for name, *parts in sections if any(parts))
    content = "\n".join(shown)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8" />'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\" />"
        '<meta name="viewport" content="width=device-width, initial-scale=1" />'
        f"<title>{title}</title><style>{STYLE}{style}</style></head>\n<body><h1>{title}</h1>\n{content}\n"
        "</body></html>\n"
    )


def count(value: object) -> Html:
    return text(f"{value:,}" if isinstance(value, int) else value)


def table(
    heads: Sequence[str], rows: Iterable[Sequence[object]], numeric: int = 0, small: str = "", nothing: str = ""
) -> Html:
    """Return a table with the note `small`, or without rows only the note `nothing`. Integers get thousands separators,
    and None becomes an empty cell. The `numeric` columns after the first one are right-aligned."""
    body = [_row("td", ["" if cell is None else count(cell) for cell in row], numeric) for row in rows]
    if not body:
        return note(nothing)
    content = element("thead", _row("th", heads, numeric)), element("tbody", *body)
    return joined(element("div", element("table", *content), class_="wide"), note(small))


def _row(tag: str, cells: Sequence[object], numeric: int) -> Html:
    shown = (element(tag, cell, class_="n" if 0 < column <= numeric else None) for column, cell in enumerate(cells))
    return element("tr", *shown)


def settings(tree: Mapping[str, Any]) -> Html:
    rows = ([element("code", key), element("code", value)] for key, value in flattened(tree).items())
    return table(("setting", "value"), rows, nothing="Not recorded.")


def note(words: str) -> Html:
    return element("p", words, class_="note") if words else Html()


def charts(*figures: Html) -> Html:
    return element("div", *figures, class_="charts") if any(figures) else Html()


def bars(title: str, rows: Sequence[tuple[str, float, object]], maximum: float | None = None) -> Html:
    """Return a chart of horizontal bars: (label, value, words next to it). `maximum`: the value of a full bar."""
    maximum = maximum or max((value for _, value, _ in rows), default=0) or 1
    widths = [BAR * value / maximum for _, value, _ in rows]
    drawn = [
        (label, 0.0, width, {"class_": "bar"}, words, width)
        for (label, _, words), width in zip(rows, widths, strict=True)
    ]
    return _bars(title, drawn, BAR + VALUE)


def spans(
    title: str, rows: Sequence[tuple[str, float, float, int, str]], across: str, shown: Callable[[float], str]
) -> Html:
    """Return a chart with a bar from begin to end for each (label, begin, end, colour number, words). The common scale
    starts at the earliest begin. `across` labels it, and `shown` formats a distance from its start."""
    first, last = min((row[1] for row in rows), default=0.0), max((row[2] for row in rows), default=0.0)
    unit, bottom, right = PLOT_WIDTH / ((last - first) or 1.0), len(rows) * (ROW + GAP), LABEL + PLOT_WIDTH
    drawn = [
        (label, (begin - first) * unit, max(2.0, (end - begin) * unit), {"fill": _colour(number)}, words, PLOT_WIDTH)
        for label, begin, end, number, words in rows
    ]
    axis = (
        element("line", class_="axis", x1=LABEL, x2=right, y1=bottom, y2=bottom),
        _label(shown(0.0), LABEL, bottom + 13),
        _label(across, LABEL + PLOT_WIDTH / 2, bottom + 13, "middle", None),
        _label(shown(last - first), right, bottom + 13, "end"),
    )
    return _bars(title, drawn, PLOT_WIDTH + 2 * LEGEND, *axis)


def _bars(
    title: str, rows: Sequence[tuple[str, float, float, dict[str, str], object, float]], width: int, *axis: Html
) -> Html:
    content = []
    for number, (label, begin, length, how, words, beside) in enumerate(rows):
        top = number * (ROW + GAP)
        content += [
            _label(label, LABEL - 6, top + 13, "end", None),
            element("rect", **how, x=LABEL + begin, y=top, width=length, height=ROW, rx=2),
            _label(words, LABEL + beside + 6, top + 13),
        ]
    height = len(rows) * (ROW + GAP) + (ROW if axis else 0)
    return _figure(title, LABEL + width, height, *content, *axis) if rows else Html()


def curves(title: str, series: Mapping[str, Sequence[float]], across: str, up: str) -> Html:
    points = {name: list(enumerate(values, 1)) for name, values in series.items()}
    return lines(title, points, across, up, heights=(0.0, 1.0), shown=lambda share: f"{100 * share:.0f} %")


def lines(
    title: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    across: str,
    up: str,
    *,
    heights: tuple[float, float] | None = None,
    shown: Callable[[float], str] = lambda value: f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}",
) -> Html:
    """Return a line chart, with a legend, of series of (x, y) points in ascending x. `across` and `up` label the axes.
    `heights`: the lowest and highest y (default: those of the series). `shown` formats a y. Only the extremes of each
    small interval of a long series are drawn, so spikes stay visible."""
    xs = [x for points in series.values() for x, _ in points]
    if not xs or min(xs) == max(xs):
        return Html()
    left, right, bottom, edge = min(xs), max(xs), TOP + PLOT_HEIGHT, LEFT + PLOT_WIDTH
    low, high = heights or _range(series)
    across_unit, up_unit, legend = PLOT_WIDTH / (right - left), PLOT_HEIGHT / ((high - low) or 1.0), edge + 14
    grid = (bottom - PLOT_HEIGHT * share / 4 for share in range(5))
    parts = [element("line", class_="axis", x1=LEFT, x2=edge, y1=y, y2=y) for y in grid]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(_label(shown(low + share * (high - low)), LEFT - 6, TOP + PLOT_HEIGHT * (1 - share) + 4, "end"))
    turn = f"translate(14 {TOP + PLOT_HEIGHT // 2}) rotate(-90)"
    parts.append(element("text", up, transform=turn, text_anchor="middle"))
    for value in sorted({left, (left + right + 1) // 2, right}):
        parts.append(_label(f"{value:g}", LEFT + (value - left) * across_unit, bottom + 18, "middle"))
    parts.append(_label(across, LEFT + PLOT_WIDTH / 2, bottom + 34, "middle", None))
    for number, (name, values) in enumerate(series.items()):
        colour, y = _colour(number), TOP + ROW * number
        places = [(LEFT + (x - left) * across_unit, bottom - (y - low) * up_unit) for x, y in _extremes(values)]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(element("polyline", class_="line", stroke=colour, points=points))
        if len(places) == 1:  # a line of one point is invisible
            parts.append(element("circle", fill=colour, cx=places[0][0], cy=places[0][1], r=3))
        parts.append(element("rect", fill=colour, x=legend, y=y, width=12, height=12))
        parts.append(_label(name, legend + 18, y + 11, kind=None))
    return _figure(title, legend - 14 + LEGEND, max(bottom + 40, TOP + ROW * len(series)), *parts)


def _range(series: Mapping[str, Sequence[tuple[float, float]]]) -> tuple[float, float]:
    ys = [y for points in series.values() for _, y in points]
    return min(ys, default=0.0), max(ys, default=0.0)


def _extremes(points: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    size = max(1, 2 * len(points) // PLOT_WIDTH)
    for start in range(0, len(points), size):
        part = points[start : start + size]
        yield from sorted({min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])})


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _label(words: object, x: float, y: float, anchor: str | None = None, kind: str | None = "dim") -> Html:
    return element("text", words, class_=kind, x=x, y=y, text_anchor=anchor)


def _figure(title: str, width: int, height: int, *content: Html) -> Html:
    size = {"width": width, "height": height, "viewBox": f"0 0 {width} {height}"}
    name = {"xmlns": "http://www.w3.org/2000/svg", "role": "img", "aria_label": title}
    return element("figure", element("figcaption", title), element("svg", *content, **name, **size))
