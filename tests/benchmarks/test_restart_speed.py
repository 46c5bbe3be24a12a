"""The benchmark of restarts: what it makes of a run's events."""

import sys

from conftest import ROOT


def test_the_parts_of_a_restart_follow_each_other(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setattr(sys, "path", list(sys.path))  # the benchmark adds to it
    from restart import PARTS, parts_of

    names = ["start", "compiled", "saving", "saved", "end", "start", "compiled"]
    events = [{"event": name, "time": float(second**2)} for second, name in enumerate(names)]
    parts = parts_of(events, 10.0)
    assert list(parts) == list(PARTS) and list(parts.values()) == [6.0, 9.0, 11.0]
