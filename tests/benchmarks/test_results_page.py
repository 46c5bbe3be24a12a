"""RESULTS.md has a section for every benchmark."""

from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
OF_OTHERS = {"common.py", "gpu_files.py", "gpu_profile.py", "gpu_sides.py"}


def test_every_benchmark_has_its_results():
    page = (BENCHMARKS / "RESULTS.md").read_text("utf-8")
    programs = {path.name for path in BENCHMARKS.glob("*.py")} - OF_OTHERS
    assert not {name for name in programs if f"benchmarks/{name}" not in page}
