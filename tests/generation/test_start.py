"""What a process that generates on a CPU imports and opens: its start takes as long as that."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT
from recited_model import save_recited

from ms_codegeex.kernels.compiling import library_path

HEAVY = {"mindspore", "scipy", "pandas", "matplotlib", "transformers", "torch", "safetensors", "fastapi", "uvicorn"}
MODULES, FILES = 580, 40  # on Python 3.11: 532, and 32 that are not code of Python
SCRIPT = """
import json, sys
opened = set()
sys.addaudithook(lambda event, values: opened.add(str(values[0])) if event == "open" else None)
from ms_codegeex.cli import main
status = main(sys.argv[1:])
opened = [name for name in opened if ".py" not in name and ".dist-info" not in name]
print(json.dumps([status, opened, list(sys.modules)]), file=sys.stderr)
"""


@pytest.mark.skipif(library_path() is None, reason="no C++ compiler")
def test_generate_imports_nothing_that_takes_long(tmp_path):
    model = save_recited(tmp_path / "model", "Go:\n", "total")
    words = ["generate", "--model", str(model), "--prompt", "Go:", "--greedy", "--max-new-tokens", "2"]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words], cwd=ROOT, capture_output=True, text=True, check=True, timeout=600
    )
    assert done.stdout.startswith("Go:")
    status, opened, modules = json.loads(done.stderr.splitlines()[-1])
    assert status in (None, 0) and not HEAVY & {name.partition(".")[0] for name in modules}
    assert len(modules) <= MODULES and len(opened) <= FILES, opened
