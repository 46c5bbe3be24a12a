"""The benchmark of language detection runs on given headers, and detection gets nearly all planted ones right."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_quick(tmp_path):
    for number in range(30):
        (tmp_path / "c").mkdir(exist_ok=True)
        (tmp_path / "c" / f"a{number}.h").write_text(f"/* a */\n#define A{number} 1\nint f{number}(int);\n")
        (tmp_path / "cpp").mkdir(exist_ok=True)
        (tmp_path / "cpp" / f"b{number}.h").write_text(
            f"class A{number};\n" if number < 20 else f"int g{number}(int);\n"
        )
    places = ["--c", str(tmp_path / "c"), "--cpp", str(tmp_path / "cpp"), "--each", "30"]
    done = subprocess.run(
        [sys.executable, "benchmarks/languages.py", *places], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "suffixes and file names: 1.0000" in done.stdout
    real, _, planted = done.stdout.partition("planted headers")
    assert "C   precision 0.7500 (30 of 40), recall 1.0000 (30 of 30)" in real
    assert "C++ precision 1.0000 (20 of 20), recall 0.6667 (20 of 30)" in real
    assert real.count("C++ called C: ") == 10 and f"10 of   30 misjudged: C++, {tmp_path}/cpp" in real
    shares = [float(share) for share in re.findall(r"(?:precision|recall) ([\d.]+)", planted)]
    assert len(shares) == 4 and min(shares) >= 0.9, planted
