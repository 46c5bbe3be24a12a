"""The operators of CPUs with AVX-512 on a CPU without it: `avx512_emulated.h` has the intrinsics as loops.

`test_decoding_kernels` has the same checks with the instructions themselves, where the CPU has them.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import kernel_checks
import pytest

from ms_codegeex.kernels import compiling, levels

HEADER = Path(__file__).with_name("avx512_emulated.h")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
@pytest.mark.skipif("avx2" not in levels.possible_levels(), reason="needs AVX2")
@pytest.mark.parametrize("added", [(), ("-DEMULATE_VNNI",)], ids=["avx512", "vnni"])
def test_levels_of_other_cpus(added, tmp_path):
    library = compiling.compile_library(tmp_path, "avx2", ["g++"], "-include", str(HEADER), *added)
    words = [sys.executable, kernel_checks.__file__, library]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    result = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0 and result.stdout == "right\n", result.stderr[-3000:]
