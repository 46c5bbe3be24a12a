"""Display a run from rank 0's events: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ms_codegeex.base.json_reading import parse_json
from ms_codegeex.base.printing import print_error, visible


def duration(seconds: float | None) -> str:
    """Format seconds as minutes and seconds: `75` -> `1:15`, `None` (unknown) -> `?`."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def figures(event: dict[str, Any]) -> str:
    """Return a step's figures in one line."""
    parts = ["loss not finite" if event["loss"] is None else f"loss {event['loss']:.3f}"]
    if event["validation_loss"] is not None:
        parts.append(f"validation {event['validation_loss']:.3f}")
    norm = "skipped" if event["skipped"] else f"norm {event['gradient_norm']:.2f}"
    parts += [
        f"lr {event['learning_rate']:.1e}",
        norm,
        f"{event['tokens_per_second']:,.0f} tok/s",
        f"MFU {event['mfu']:.0%}",
        f"wait {event['data_wait_percent']:.0f}%",
        f"{event['memory_bytes'] / 1e9:.1f} GB",
    ]
    if event["loss_scale"] not in (None, 1.0):
        parts.insert(2, f"scale {event['loss_scale']:.0f}")
    return "  ".join(parts)


class Display:
    """Follows a progress file. `poll` shows the events added since the last call."""

    def __init__(self, progress: Path, steps: int, lines: int = 30):
        self.progress, self.steps, self.position = progress, steps, 0
        self.terminal = sys.stderr.isatty()
        self.every = max(1, steps // lines)  # steps between plain lines; about `lines` in all
        self.bar: tqdm | None = None
        self.waiting: tuple[str, float] | None = None
        self.figures: tuple[str, ...] = ()  # of the last step, most important first

    def poll(self) -> list[dict[str, Any]]:
        """Show and return new events. On a terminal, also show how long the current wait has lasted."""
        events = []
        if self.progress.exists():
            with self.progress.open("rb") as stream:
                stream.seek(self.position)
                content = stream.read()
            complete = content[: content.rfind(b"\n") + 1]
            self.position += len(complete)
            events = [parse_json(line, data=True) for line in complete.splitlines()]
            for event in events:
                self._show(event)
        if self.terminal and self.waiting:
            passed = duration(time.monotonic() - self.waiting[1])
            self._describe(visible(f"{self.waiting[0]} ({passed})"))
        return events

    def status(self, text: str) -> None:
        """Show that something begins that takes a while."""
        self.waiting = (text, time.monotonic())
        if not self.terminal:
            print_error(f"{text} …")

    def close(self) -> None:
        """End the progress bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _bar(self) -> tqdm:
        if self.bar is None:
            form = "{desc} {percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt}{postfix}"
            self.bar = tqdm(total=self.steps, unit="step", dynamic_ncols=True, bar_format=form)
        return self.bar

    def _describe(self, words: str) -> None:
        bar = self._bar()
        bar.set_description_str(words, refresh=False)
        shown = {**bar.format_dict, "postfix": ""}
        room, figures = (shown["ncols"] or 80) - len(bar.format_meter(**shown)) - len(", "), [*self.figures]
        while len(figures) > 1 and len("  ".join(figures)) > room:
            figures.pop()
        bar.set_postfix_str("  ".join(figures))

    def _show(self, event: dict[str, Any]) -> None:
        if event["event"] == "status":
            self.status(event["text"])
        elif event["event"] == "warning":
            tqdm.write(visible(f"warning: {event['text']}"), file=sys.stderr)
        elif event["event"] == "step":
            self._step(event)

    def _step(self, event: dict[str, Any]) -> None:
        self.steps = event["step"] + event["steps_left"]  # an estimate if the length is given in tokens
        compiled = ""
        if self.waiting and "compiling" in self.waiting[0]:
            compiled = f"  (compiled in {duration(time.monotonic() - self.waiting[1])})"
        self.waiting = None
        if self.terminal:
            bar = self._bar()
            bar.n, bar.total = event["step"], self.steps
            self.figures = (f"ETA {duration(event['eta_seconds'])}", *figures(event).split("  "))
            self._describe("training")
            return
        due = event["step"] % self.every == 0 or event["ending"] or event["validation_loss"] is not None
        if compiled or due:
            words = [f"step {event['step']}/{self.steps}", figures(event), f"ETA {duration(event['eta_seconds'])}"]
            print_error("  ".join(words) + compiled)
