"""The compiled operators at every CPU level that this machine can run, against NumPy; wrong inputs are errors."""

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import kernel_checks as checks
import numpy as np
import pytest

from ms_codegeex.base.cache import user_cache
from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.formats.rounding import quantise
from ms_codegeex.generation.kernels.library import AttentionSizes
from ms_codegeex.generation.matrices import pack
from ms_codegeex.kernels import compiling, levels

COMPILERS = compiling.cxx_compilers()
pytestmark = pytest.mark.skipif(not COMPILERS, reason="no C++ compiler")
LEVELS = list(levels.LEVELS)


@pytest.fixture(  # the levels of other CPUs are slow to compile
    scope="module",
    params=[pytest.param(level, marks=[] if level == levels.cpu_level() else pytest.mark.slow) for level in LEVELS],
)
def kernels(request):
    if LEVELS.index(request.param) < LEVELS.index(levels.cpu_level()):
        pytest.skip(f"this CPU has no {request.param}")
    path = compiling.compile_library(user_cache() / "kernels", request.param, COMPILERS[0])
    return checks.Kernels(path, 2)


def named(case):
    """The check and its sizes, without lists of them."""
    return " ".join([case[0].__name__, *(str(each) for each in case[1:] if not isinstance(each, tuple | list))])


SHAPES = ((1, 1), (33, 129), (64, 256), (70, 1500))


@pytest.mark.parametrize("case", [*checks.cases(SHAPES, checks.ROWS)], ids=named)
def test_an_operator_computes_what_numpy_does(kernels, case):
    check, *arguments = case
    check(kernels, *arguments)


def test_memory_that_does_not_suit_is_refused(kernels):
    weight = quantise(checks.numbers(0, 40, 64), 8)
    packed = pack(weight)
    for wrong in (
        {"data": packed.data[:, 1:]},
        {"data": packed.data.astype(np.int32)},
        {"scales": packed.scales[:-1]},
        {"n": 65},
        {"n": 10},
        {"k": 0},
        {"bits": 4, "group": 32},
    ):
        with pytest.raises(ValueError):
            kernels.matrix(replace(packed, **wrong))
    for bits in (32, 16):
        with pytest.raises(ValueError):
            kernels.matrix(pack(quantise(checks.numbers(0, 40, 64), bits)), activation_bits=16)
    four = quantise(checks.numbers(0, 40, 64), 4)
    for blocks, activation_bits in ((True, 32), (False, 16), (True, 12)):
        with pytest.raises(ValueError):
            kernels.matrix(pack(four, blocks), activation_bits=activation_bits)
    with pytest.raises(ValueError):
        kernels.matrix(packed, checks.numbers(0, 41))
    with pytest.raises(ValueError):
        kernels.norm(checks.numbers(0, 8), checks.numbers(0, 9), 1e-5)
    for wrong in ((3, 2, 8, 0, 1, 16), (2, 2, 8, 3, 1, 16), (1, 1, 8, 0, 0, 16)):
        with pytest.raises(ValueError):
            checks.Sequences(kernels, AttentionSizes(*wrong))


def test_each_engine_runs_with_its_own_threads(kernels):
    """In a process of its own: threads of other tests begin and end whenever they like."""
    source = (
        "import os, sys, kernel_checks as checks\n"
        "one, many = (checks.Kernels(sys.argv[1], threads) for threads in (1, 6))\n"
        "for each in (one, many):\n"
        "    before = len(os.listdir('/proc/self/task'))\n"
        "    checks.check_linear(each, 1024, 256, 32, 0, 'none', (1, 3))\n"
        "    print(len(os.listdir('/proc/self/task')) - before)\n"
    )
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    program = [sys.executable, "-c", source, str(kernels.path)]
    done = subprocess.run(program, env=os.environ | path, capture_output=True, text=True)
    assert done.stdout.split() == ["0", "5"], done.stderr


def test_a_forked_child_multiplies_with_threads_of_its_own(kernels):
    checks.check_linear(kernels, 1024, 256, 32, 0, "none", (1,))
    child = os.fork()
    if child == 0:
        try:
            checks.check_linear(kernels, 1024, 256, 32, 0, "none", (1, 3))
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_level_follows_the_cpus_flags(tmp_path, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    cpuinfo = tmp_path / "cpuinfo"
    flags = {
        "plain": "fpu sse sse2 ssse3 sse4_1 sse4_2 popcnt avx f16c rdrand",  # Ivy Bridge
        "avx2": "abm movbe bmi1 bmi2 avx2 fma",  # Haswell
        "avx512": "avx512f avx512dq avx512cd avx512bw avx512vl",  # Skylake server
        "vnni": "avx512_vnni",  # Cascade Lake
    }
    known = ""
    for level, added in flags.items():
        known += f" {added}"
        cpuinfo.write_text(f"processor\t: 0\nflags\t\t:{known}\n")
        found = levels.possible_levels(cpuinfo)
        assert found == LEVELS[LEVELS.index(level) :]  # a better CPU runs all the others
    cpuinfo.write_text(f"flags\t\t:{known.replace(' movbe', '')}\n")
    assert levels.possible_levels(cpuinfo) == ["plain"]
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert levels.possible_levels(Path("/proc/cpuinfo")) == ["plain"] and levels.cpu_level() == "plain"
    with pytest.raises(UserError, match=r"--cpu-level: this CPU cannot run avx2; choose auto or one of plain"):
        compiling.library_path("avx2")


def test_a_library_is_compiled_once_and_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    def compiler(name, script):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
        return [str(tmp_path / name)]

    def compiled(command, level="plain"):
        return compiling.compile_library(tmp_path / "cache", level, command)

    broken = compiler("broken", "echo 'no such header' >&2\nexit 1")
    for command, message in ((broken, "no such header"), (compiler("silent", ""), "no message")):
        with pytest.raises(RunFailure, match=message):
            compiled(command)
        assert not list(tmp_path.glob("cache/*"))
    copying = compiler("copying", f'echo run >> {tmp_path}/runs\nwhile [ "$1" != -o ]; do shift; done\necho > "$2"')
    found = {compiled(copying, level) for level in ("plain", "plain", "avx2")}
    assert len(found) == 2 == len((tmp_path / "runs").read_text().split())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiling, "cxx_compilers", lambda: [broken, ["no/such/compiler"]])
    path, reason = compiling.find_library()
    assert path is None and "no such header" in reason and "no/such/compiler" in reason
    monkeypatch.setattr(compiling, "cxx_compilers", list)
    assert compiling.find_library() == (None, "there is no C++ compiler; install g++, or run `pip install ziglang`")
    monkeypatch.setattr(compiling, "cxx_compilers", lambda: [broken, copying])
    assert compiling.library_path().parent == tmp_path / "ms_codegeex" / "kernels"


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_no_access_beyond_the_memory_and_nothing_undefined(level, tmp_path):
    if not shutil.which("g++") or LEVELS.index(level) < LEVELS.index(levels.cpu_level()):
        pytest.skip("needs g++ and the level")
    flags = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    library = compiling.compile_library(tmp_path, level, ["g++"], *flags)
    runtime = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    check_in_a_process(library, LD_PRELOAD=" ".join(runtime), ASAN_OPTIONS="detect_leaks=0", PYTHONMALLOC="malloc")


def check_in_a_process(library, **variables):
    """With `PYTHONMALLOC=malloc`, each array has memory of its own."""
    path = os.pathsep.join(path for path in sys.path if path)
    words, environment = [sys.executable, checks.__file__, library], {**os.environ, "PYTHONPATH": path, **variables}
    result = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=1200, check=False)
    assert result.returncode == 0 and result.stdout == "right\n", result.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
@pytest.mark.skipif("avx2" not in levels.possible_levels(), reason="needs AVX2")
@pytest.mark.parametrize("added", [(), ("-DEMULATE_VNNI",)], ids=["avx512", "vnni"])
def test_levels_of_other_cpus(added, tmp_path):
    """The operators of CPUs with AVX-512 on a CPU without it: `avx512_emulated.h` has the intrinsics as loops."""
    header = Path(__file__).with_name("avx512_emulated.h")
    check_in_a_process(compiling.compile_library(tmp_path, "avx2", ["g++"], "-include", str(header), *added))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["x86_64-linux-gnu", "aarch64-linux-gnu"])
def test_zig_compiles_without_a_cxx_standard_library(target, tmp_path):
    pytest.importorskip("ziglang")
    zig = [sys.executable, "-m", "ziglang", "c++", "-target", target]
    library = compiling.compile_library(tmp_path, "plain", zig)
    if target.startswith(platform.machine()):
        checks.check_everything(checks.Kernels(library, 2), ((33, 129),), (1, 3, 17))
