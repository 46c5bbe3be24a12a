"""What the two processes of `serve` import until it is ready, which its start takes as long as; and memory."""

import json
import platform
import subprocess
import sys

import pytest
from conftest import ROOT
from recited_model import save_recited

from ms_codegeex.formats.sources import open_source
from ms_codegeex.generation.quantising import write_quantised
from ms_codegeex.kernels.compiling import library_path

NOWHERE = {"mindspore", "scipy", "pandas", "matplotlib", "transformers", "torch", "safetensors", "jinja2", "httpx"}
NOT_IN_ENGINE = NOWHERE | {"fastapi", "starlette", "uvicorn", "pydantic", "asyncio", "anyio", "email", "http", "ssl"}
ENGINE, SERVER = 450, 860  # modules on Python 3.11: 410 and 814
SCRIPT = """
import json, os, signal, sys
from multiprocessing.connection import Connection
from ms_codegeex.base import printing
from ms_codegeex.cli import main

def tell(process):
    print(json.dumps([process, os.getpid(), list(sys.modules)]), file=sys.stderr, flush=True)

def print_out(line):  # that it is ready
    tell("server")
    os.kill(os.getpid(), signal.SIGTERM)

send = Connection.send_bytes
Connection.send_bytes = lambda self, data: (b"slots" in data and tell("engine"), send(self, data))
printing.print_out = print_out
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(library_path() is None, reason="no C++ compiler")
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the engine's process is not forked")
def test_serve_imports_nothing_that_takes_long(tmp_path):
    model = tmp_path / "model"
    write_quantised(open_source(save_recited(tmp_path / "run", "Go:\n", "total")), 8, 0, model)
    words = [sys.executable, "-c", SCRIPT, "serve", "--model", model, "--port", "0", "--max-concurrency", "1"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("[")]
    (_, engine, forked), (_, server, modules) = sorted(told)
    assert engine != server
    assert not NOT_IN_ENGINE & {*forked} and len(forked) <= ENGINE, sorted(NOT_IN_ENGINE & {*forked})
    assert not NOWHERE & {*modules} and len(modules) <= SERVER, sorted(NOWHERE & {*modules})
    assert "ms_codegeex.generation.engine" in {*forked} & {*modules}  # imported once for both


BLOCKS = """
import sys
import psutil
from ms_codegeex.extras.serving.server import return_large_blocks
if sys.argv[1] == "returned":
    return_large_blocks()
for _ in range(2):  # glibc has seen large blocks come and go
    block = b"x" * (8 << 20)
    del block
blocks, small = [], []
for number in range(40):
    blocks.append(b"x" * (3 << 20))
    small.append(bytearray(3000))
before = psutil.Process().memory_info().rss
blocks.clear()
print((before - psutil.Process().memory_info().rss) >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries manage memory in other ways")
def test_large_blocks_are_given_back_although_small_ones_stay_between_them():
    def given_back(how):
        words = [sys.executable, "-c", BLOCKS, how]
        return int(subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout)

    assert given_back("returned") >= 110 > 60 > given_back("kept")
