"""`ms-codegeex monitor`: follow runs in the terminal, compare them, and write a report."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ms_codegeex.base.errors import escaped
from ms_codegeex.base.options import REQUIRED, option
from ms_codegeex.base.printing import print_error, print_json

if TYPE_CHECKING:
    from rich.console import Group

    from ms_codegeex.runs.files.history import History

SUMMARY = "follow runs in the terminal, compare them, or write a page about them"
EXAMPLES = """  ms-codegeex monitor runs/codegeex_tiny
  ms-codegeex monitor runs/*  # compares them
  ms-codegeex monitor runs/codegeex_tiny --once
  ms-codegeex monitor runs/a runs/b --report comparison.html"""
RECENT = 8  # events shown below the table


@dataclass(frozen=True)
class Arguments:
    """Which runs to show, and how."""

    runs: tuple[str, ...] = option("run directories", "DIR", REQUIRED, positional=True)
    once: bool = option("print the present state and end", default=False)
    json: bool = option("print the present state as one JSON object and end", default=False)
    report: Path | None = option("write a page of curves, attempts and faults and end", "FILE")
    interval: float = option("seconds between updates", "S", 2.0, gt=0, le=86400)


def run(arguments: Arguments) -> None:
    """Show the runs until all have ended, or until Ctrl-C."""
    names = _names(arguments.runs)
    histories = _read(names)
    if arguments.report:
        from ms_codegeex.runs.files.history import batch_text, write_history_page

        write_history_page(histories, arguments.report, batch_text)
        print_error(f"wrote {arguments.report}")
    if arguments.json:
        print_json({name: _as_json(history) for name, history in histories.items()})
    elif arguments.once:
        from rich.console import Console

        Console().print(_shown(histories))
    elif not arguments.report:
        _follow(names, arguments.interval)


def _names(paths: Sequence[str]) -> dict[str, Path]:
    directories = {str(Path(path).absolute()): Path(path) for path in paths}
    for parts in (1, 2):
        names = {"/".join(path.absolute().parts[-parts:]): path for path in directories.values()}
        if len(names) == len(directories):
            return names
    return directories


def _read(names: Mapping[str, Path]) -> dict[str, History]:
    from ms_codegeex.runs.files.history import read_history

    return {name: read_history(path) for name, path in names.items()}


def _follow(names: Mapping[str, Path], interval: float) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console()
    with Live(console=console, auto_refresh=False) as live:
        while True:
            histories = _read(names)
            live.update(_shown(histories), refresh=True)
            if all(history.state != "running" for history in histories.values()):
                return
            time.sleep(interval)


def _shown(histories: Mapping[str, History]) -> Group:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from ms_codegeex.runs.files.history import overview, words_of

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("run", overflow="fold")
    for name, history in histories.items():
        figures = overview(history)
        if not table.rows:
            for head in figures:
                table.add_column(head, justify="left" if head == "state" else "right", no_wrap=True)
        table.add_row(*(Text(escaped(value)) for value in (name, *figures.values())))
    notes = []
    for name, history in histories.items():
        if count := history.counts["silent check"]:
            last = words_of(next(event for event in reversed(history.events) if event["event"] == "silent check"))
            found = f"{name}: {count} findings of cluster.silent_check, the last: {last}"
            notes.append(Text(escaped(found), style="bold"))
    notes += [Text(escaped(f"{name}: {ended}")) for name, each in histories.items() if (ended := each.out_of_patience)]
    events = [(event["time"], name, event) for name, history in histories.items() for event in history.events]
    recent = sorted(events, key=lambda event: event[:2])[-RECENT:]
    return Group(table, *notes, Text(), *(Text(escaped(_event_line(*event, len(histories) > 1))) for event in recent))


def _event_line(when: float, name: str, event: Mapping[str, object], several: bool) -> str:
    from ms_codegeex.runs.files.history import clock, words_of

    words = words_of(event)
    return f"{clock(when)}  {f'{name}: ' if several else ''}{event['event']}" + (f"  {words}" if words else "")


def _as_json(history: History) -> dict[str, object]:
    from dataclasses import asdict

    return {
        "state": history.state,
        "step": history.step,
        "steps": history.config.steps,
        "loss": history.last("loss"),
        "validation_loss": history.last("validation_loss"),
        "tokens_per_second": history.tokens_per_second,
        "goodput": history.goodput,
        "out_of_patience": history.out_of_patience,
        "skipped": history.counts["skip"],
        "faults": history.counts["fault"],
        "watched": history.watched,
        "attempts": [asdict(attempt) for attempt in history.attempts],
    }
