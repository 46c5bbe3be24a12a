"""The compiled operators at every CPU level that this machine can run, against NumPy; wrong inputs are errors."""

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import kernel_checks as checks
import numpy as np
import pytest
from training_kernel_checks import check_training

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


@pytest.mark.parametrize("bits,group", checks.FORMATS)
@pytest.mark.parametrize("n,k", [(64, 256), (1, 1), (70, 1500), (33, 129)])
def test_products_for_every_number_of_rows(kernels, n, k, bits, group):
    checks.check_linear(kernels, n, k, bits, group, "none")
    checks.check_lookup(kernels, n, k, bits, group)


@pytest.mark.parametrize("activation_bits", [16, 8])
@pytest.mark.parametrize("bits,group", checks.QUANTISED)
@pytest.mark.parametrize("n,k", [(64, 256), (2, 1), (70, 1500)])
def test_products_of_rounded_activations(kernels, n, k, bits, group, activation_bits):
    checks.check_rounded(kernels, n, k, bits, group, activation_bits)


def test_the_largest_sums_of_integers(kernels):
    checks.check_largest(kernels)


@pytest.mark.parametrize("n,k", [(64, 256), (33, 129)])
def test_16_bit_weights_are_exact(kernels, n, k):
    checks.check_sixteen(kernels, n, k, (1, 3, 8, 9, 33))


@pytest.mark.parametrize("n,k", [(64, 256), (33, 129), (1, 1)])
@pytest.mark.parametrize(
    "bits,group,activation,activation_bits",
    [
        (32, 0, "none", 32),
        (32, 0, "gelu", 32),
        (8, 0, "fast_gelu", 32),
        (4, 64, "silu", 16),
        (8, 0, "none", 8),
    ],
)
def test_adapters_of_rows(kernels, n, k, bits, group, activation, activation_bits):
    checks.check_adapters(kernels, n, k, bits, group, activation, activation_bits)


@pytest.mark.parametrize("activation", ["gelu", "fast_gelu", "silu"])
def test_what_follows_a_product(kernels, activation):
    checks.check_linear(kernels, 45, 40, 32, 0, activation, (1, 7, 9))


@pytest.mark.parametrize("h,rms", list(product((8, 100, 256), (False, True))))
def test_norms(kernels, h, rms):
    checks.check_norm(kernels, h, rms)


@pytest.mark.parametrize(
    "count,groups,size,rotary",
    [
        *((2, 2, 64, 64), (4, 2, 80, 20), (1, 1, 8, 0), (2, 2, 8, 8)),
        *((16, 1, 16, 8), (32, 2, 128, 64), (2, 1, 256, 64)),
        *((4, 2, 9, 4), (2, 2, 1, 0), (6, 3, 33, 32)),  # of odd size: the last channel has no partner
    ],
)
def test_attention(kernels, count, groups, size, rotary):
    for dtype in (np.float32, np.float16):
        checks.check_attention(kernels, count, groups, size, rotary, dtype)
        checks.check_attention_one_by_one(kernels, count, groups, size, dtype)


def test_a_cache_of_16_bits_holds_what_numpy_rounds_to(kernels):
    checks.check_half_cache(kernels)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_that_meet(kernels, ranks):
    checks.check_exchange(kernels, ranks)


def test_choices(kernels):
    checks.check_choice(kernels)


def test_mistakes_are_errors(kernels):
    checks.check_mistakes(kernels)
    checks.check_wrong_blocks(kernels)


@pytest.mark.parametrize("formats", checks.BLOCK_FORMATS, ids=str)
@pytest.mark.parametrize("parallel,gated", [(False, False), (True, False), (False, True), (True, True)])
def test_a_block_is_its_steps(kernels, parallel, gated, formats):
    checks.check_blocks(kernels, parallel, gated, formats)


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
    for wrong in (
        AttentionSizes(3, 2, 8, 0, 1, 16),
        AttentionSizes(2, 2, 8, 3, 1, 16),
        AttentionSizes(1, 1, 8, 0, 0, 16),
    ):
        with pytest.raises(ValueError):
            checks.Sequences(kernels, wrong)


def test_each_engine_runs_with_its_own_threads(kernels):
    def started():
        return len(os.listdir("/proc/self/task"))

    one, many = checks.Kernels(kernels.path, 1), checks.Kernels(kernels.path, 6)
    before = started()
    checks.check_linear(one, 1024, 256, 32, 0, "none", (1, 3))
    assert started() == before
    checks.check_linear(many, 1024, 256, 32, 0, "none", (1, 3))
    assert started() >= before + 4  # the caller and one of another test may be there


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


def test_operators_of_training(kernels):
    check_training(kernels)


def test_a_library_is_compiled_once_and_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'no such header' >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(RunFailure, match="no such header"):
        compiling.compile_library(tmp_path / "cache", "plain", [str(broken)])
    assert not list(tmp_path.glob("cache/*"))
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\n")
    silent.chmod(0o755)
    with pytest.raises(RunFailure, match="no message"):
        compiling.compile_library(tmp_path / "cache", "plain", [str(silent)])
    copying = tmp_path / "copying"
    copying.write_text(f'#!/bin/sh\necho run >> {tmp_path}/runs\nwhile [ "$1" != -o ]; do shift; done\necho > "$2"\n')
    copying.chmod(0o755)
    found = {
        compiling.compile_library(tmp_path / "cache", level, [str(copying)]) for level in ("plain", "plain", "avx2")
    }
    assert len(found) == 2 == len((tmp_path / "runs").read_text().split())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiling, "cxx_compilers", lambda: [[str(broken)], ["no/such/compiler"]])
    path, reason = compiling.find_library()
    assert path is None and "no such header" in reason and "no/such/compiler" in reason
    monkeypatch.setattr(compiling, "cxx_compilers", list)
    assert compiling.find_library() == (None, "there is no C++ compiler; install g++, or run `pip install ziglang`")
    monkeypatch.setattr(compiling, "cxx_compilers", lambda: [[str(broken)], [str(copying)]])
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
    result = subprocess.run(
        [sys.executable, checks.__file__, str(library)],
        env={
            **os.environ,
            "LD_PRELOAD": " ".join(runtime),
            "ASAN_OPTIONS": "detect_leaks=0",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "PYTHONMALLOC": "malloc",  # each array in memory of its own
        },
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert result.returncode == 0 and result.stdout == "right\n", result.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["x86_64-linux-gnu", "aarch64-linux-gnu"])
def test_zig_compiles_without_a_cxx_standard_library(target, tmp_path):
    pytest.importorskip("ziglang")
    zig = [sys.executable, "-m", "ziglang", "c++", "-target", target]
    library = compiling.compile_library(tmp_path, "plain", zig)
    if target.startswith(platform.machine()):
        checks.check_everything(checks.Kernels(library, 2), ((33, 129),), (1, 3, 17))
