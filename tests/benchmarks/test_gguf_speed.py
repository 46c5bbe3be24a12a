"""The benchmark of GGUF runs and says what it is for."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_quick(tmp_path):
    command = [sys.executable, "benchmarks/gguf_files.py", "--quick", "--types", "q8_0", "--sources", "float16"]
    done = subprocess.run(
        [*command, "--directory", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"convert / cp +[\d.]+ .*\n  convert / in\+out +[\d.]+ ", done.stdout)
    assert re.search(r"\nfloat16 -> q8_0( +[\d.]+){4}\n", done.stdout)
    assert not list(tmp_path.iterdir())
