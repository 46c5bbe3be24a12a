"""A ladder's page and drawing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ms_codegeex.base.files import atomic_file
from ms_codegeex.base.webpage import Html, joined, note, page, settings, table


def write_report(directory: Path, analysis: Mapping[str, Any]) -> None:
    """Write ladder.html and ladder.png next to ladder.json."""
    with atomic_file(directory / "ladder.html") as temporary:
        temporary.write_text(report(analysis), encoding="utf-8")
    draw(analysis, directory / "ladder.png")


def named(analysis: Mapping[str, Any], value: Any) -> str:
    """A value of the varied setting, as pages and plots show it."""
    key = analysis["settings"]["vary"]["key"]
    return "all runs" if key is None else f"{key}={str(value).lower() if isinstance(value, bool) else value}"


def report(analysis: Mapping[str, Any]) -> str:
    """The page."""
    runs = []
    for r in analysis["runs"]:
        figures = (r["parameters"], r["tokens"], f"{r['flops']:.2e}", r["seed"])
        runs.append((*figures, named(analysis, r["value"]), _loss(r["loss"]), r["directory"]))
    heads = ("parameters", "tokens", "FLOPs", "seed", "setting", "validation loss", "run")
    sections = [
        ("Runs", table(heads, runs)),
        *((f"Law: {named(analysis, x['value'])}", _law(x)) for x in analysis["laws"]),
        ("Comparison", _comparison(analysis)),
        ("Settings", settings(analysis["settings"])),
    ]
    return page("Ladder", sections)


def _law(entry: Mapping[str, Any]) -> Html:
    if entry["law"] is None:
        return note(f"No law was fitted: {entry['reason']}.")
    law = entry["law"]
    notes = [
        f"L(N, D) = {law['e']:.3f} + {law['a']:.4g} / N^{law['alpha']:.3f} + {law['b']:.4g} / D^{law['beta']:.3f}; "
        f"root mean square error {entry['error']:.4f} nats. 90 % intervals: E {_interval(entry['e_interval'])}, "
        f"alpha {_interval(entry['alpha_interval'])}, beta {_interval(entry['beta_interval'])}."
    ]
    if entry["undetermined"]:
        notes.append(
            f"The runs do not determine {' and '.join(entry['undetermined'])}, which ended at a limit of its range: do "
            "not trust the forecasts. Train more tokens, or sizes further apart."
        )
    if held := entry["held_out"]:
        inside = held["low"] <= held["measured"] <= held["high"]
        notes.append(
            f"Without its largest runs ({held['parameters']:,} parameters, {held['tokens']:,} tokens) the law "
            f"forecasts {held['forecast']:.3f} ({held['low']:.3f} to {held['high']:.3f}) for them; measured "
            f"{held['measured']:.3f}, {'inside' if inside else 'outside'} the interval."
        )
    formats = ("{times:.0f} x", "{parameters:.3g}", "{tokens:.3g}", "{loss:.3f}", "{low:.3f} to {high:.3f}")
    rows = [[each.format(**forecast) for each in formats] for forecast in entry["forecasts"]]
    heads = ("compute of the largest run", "best size", "tokens", "forecast loss", "90 % interval")
    return joined(*map(note, notes), table(heads, rows, numeric=4))


def _loss(value: float | None) -> str:
    return "diverged" if value is None else f"{value:.4f}"


def _interval(pair: Any) -> str:
    return f"{pair[0]:.2f} to {pair[1]:.2f}"


def _comparison(analysis: Mapping[str, Any]) -> Html:
    values = analysis["settings"]["vary"]["values"]
    rows = []
    for row in analysis["comparisons"]:
        best = "" if row["best"] is None else named(analysis, values[row["best"]])
        rows.append([row["parameters"], row["tokens"], *map(_loss, row["losses"]), best, verdict(row)])
    heads = ("parameters", "tokens", *(named(analysis, value) for value in values), "best", "against the first")
    small = "Noise: two standard errors of the difference, from the spread of the seeds."
    return table(heads, rows, small=small)


def verdict(row: Mapping[str, Any]) -> str:
    """The difference of the best value from the first one in words."""
    if row["best"] is None or row["difference"] is None:
        return "not comparable"
    if row["best"] == 0:
        return "the first is best"
    if row["noise"] is None:
        return f"{row['difference']:+.4f}, one seed: noise unknown"
    side = "beyond" if -row["difference"] > row["noise"] else "within"
    return f"{row['difference']:+.4f}, {side} noise {row['noise']:.4f}"


def draw(analysis: Mapping[str, Any], picture: Path) -> None:
    """Draw the losses of all runs over their compute, and each law's lowest loss with its interval."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for number, law in enumerate(analysis["laws"]):
        colour = f"C{number}"
        runs = [r for r in analysis["runs"] if r["value"] == law["value"] and r["loss"] is not None]
        if points := [(6 * r["parameters"] * r["tokens"], r["loss"]) for r in runs]:
            axes.plot(*zip(*points, strict=True), "o", color=colour, label=named(analysis, law["value"]))
        if law["law"]:
            flops, loss, low, high = ([x[key] for x in law["frontier"]] for key in ("flops", "loss", "low", "high"))
            axes.plot(flops, loss, color=colour, lw=1)
            axes.fill_between(flops, low, high, color=colour, alpha=0.2)
    axes.set(xscale="log", xlabel="6 x parameters x tokens (FLOPs)", ylabel="validation loss (nats per token)")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    with atomic_file(picture) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
