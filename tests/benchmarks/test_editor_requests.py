"""Two extensions' requests for the edits of a small history, to a server that always has the same answer."""

import subprocess
import sys
from pathlib import Path

from fake_backend import FakeBackend
from git_repositories import write_repository
from over_http import served

ROOT = Path(__file__).resolve().parents[2]


def test_both_extensions_are_asked_and_counted(tmp_path):
    write_repository(tmp_path)
    with served(lambda: FakeBackend(text="return a + b")) as server:
        done = subprocess.run(
            [sys.executable, "benchmarks/editor_requests.py", "--server", server.url, "--data", str(tmp_path)],
            cwd=ROOT, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        prompts = [server.backend.model.tokenizer.decode(each.ids) for each in server.backend.asked]
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.startswith(("ours", "llama."))}
    assert rows.keys() == {"ours", "llama.vscode"}
    assert rows["ours"][1] == rows["llama.vscode"][1] == "4"
    assert rows["ours"][2] == rows["llama.vscode"][2] == "25.0"  # the one edit that is this text
    go = [prompt for prompt in prompts if prompt.rstrip("\t").endswith("func add(a int, b int) int {\n")]
    assert len(go) == 2 and all("area(2, 3)" in prompt for prompt in go)  # with another file
    assert [prompt.endswith("\t") for prompt in sorted(go, key=len)].count(True) == 1  # ours asks for the indentation
