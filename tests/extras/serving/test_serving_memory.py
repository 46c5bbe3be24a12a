"""Memory of long bodies goes back to the system."""

import platform
import subprocess
import sys

import pytest
from conftest import ROOT

PROGRAM = """
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
        words = [sys.executable, "-c", PROGRAM, how]
        return int(subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout)

    assert given_back("returned") >= 110 > 60 > given_back("kept")
