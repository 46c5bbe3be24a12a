"""The benchmark of restarts: what it makes of a run's events."""

import sys

import pytest
from conftest import ROOT


def test_the_parts_of_a_restart_follow_each_other(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setattr(sys, "path", list(sys.path))  # the benchmark adds to it
    from restart import PARTS, parts_of

    names = ["start", "graphs", "compiled", "saving", "saved", "end", "start", "graphs", "compiled"]
    events = [{"event": name, "time": float(second**2)} for second, name in enumerate(names)]
    parts = parts_of(events, 20.0)
    assert list(parts) == list(PARTS) and list(parts.values()) == [5.0, 11.0, 13.0, 15.0]
    without = [event for event in events if event["event"] != "graphs"]
    assert sum(parts_of(without, 20.0).values()) == pytest.approx(64.0 - 20.0) and len(parts_of(without, 20.0)) == 3
