"""RESULTS.md has a section for every benchmark, but for those that nobody has measured yet."""

from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
NOT_MEASURED = {"gpu.py"}  # no GPU has been used


def test_every_measured_benchmark_has_its_results():
    page = (BENCHMARKS / "RESULTS.md").read_text("utf-8")
    programs = {path.name for path in BENCHMARKS.glob("*.py")} - {"common.py", "host_tasks.py"}  # of the others
    assert {name for name in programs if f"benchmarks/{name}" not in page} == NOT_MEASURED
