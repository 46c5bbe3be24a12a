"""`ms-codegeex doctor`: what is there, and for each gap the line that closes it."""

import importlib
import json
import re
import subprocess
import sys
from importlib import metadata as host_metadata
from importlib.metadata import version
from pathlib import Path
from unittest.mock import create_autospec

import pytest
from conftest import ROOT, command
from packaging.requirements import Requirement

from ms_codegeex.base import host
from ms_codegeex.base.cuda import probe, translation
from ms_codegeex.base.cuda.driver import Driver, Gpu
from ms_codegeex.base.cuda.libraries import LIBRARIES, LoadedLibrary
from ms_codegeex.base.cuda.probe import GpuBackend
from ms_codegeex.base.errors import RunFailure
from ms_codegeex.cli import main
from ms_codegeex.commands import doctor, package_uses
from ms_codegeex.commands.doctor import Finding
from ms_codegeex.config import software

AREAS = ["machine", "packages", "engine", "NVIDIA GPU", "sandbox", "tool chains", "disk"]
LAYERS = {"unprivileged user", "seccomp", "Landlock", "namespaces"}
GONE = Driver(problem="no driver (libcuda.so.1)")
LANGUAGES = {"python", "cpp", "java", "js", "go", "rust"}


def found(area):
    return {check.name: check for check in doctor.findings(area)}


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A function that puts a script on a PATH of its own."""

    def write(name, script):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        return tmp_path / name

    return write


def test_a_user_with_an_empty_path(tmp_path):
    """As one object, from another directory: everything that a CPU user needs is in the tests' own environment."""
    result = command("doctor", "--json", cwd=tmp_path, environment={"PATH": "", "TMPDIR": str(tmp_path)}, status=0)
    (line,) = result.stdout.splitlines()
    report = json.loads(line)
    assert report["ready"] is True
    checks = {(check["area"], check["name"]): check for check in report["checks"]}
    assert len(checks) == len(report["checks"])
    assert list(dict.fromkeys(area for area, _ in checks)) == AREAS
    assert {name for area, name in checks if area == "sandbox"} == LAYERS
    assert {name for area, name in checks if area == "tool chains"} == LANGUAGES
    assert checks["engine", "MindSpore"]["found"].startswith(version("mindspore"))
    assert checks["engine", "compiled operators"]["state"] in ("ok", "optional")
    assert checks["tool chains", "python"]["state"] == "ok"
    assert checks["disk", "temporary"]["found"].endswith(f"free in {tmp_path}")
    assert all(check["state"] in ("ok", "missing", "optional") for check in report["checks"])
    assert not any(check["fix"] for check in report["checks"] if check["state"] == "ok")


def areas_with(monkeypatch, *checks):
    """Each check is (area, name, found, problem, fix, whether it is needed)."""
    areas = dict.fromkeys(check[0] for check in checks)
    of = {area: lambda area=area: [check[1:] for check in checks if check[0] == area] for area in areas}
    monkeypatch.setattr(doctor, "AREAS", of)


def test_a_gap_that_matters_is_status_1(monkeypatch, capsys):
    fine, optional = ("a", "fine", "there"), ("a", "far", "", "none", "fetch it")
    areas_with(monkeypatch, fine, optional)
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "ready: everything that a run on a CPU needs is here",
        "optional gaps: far",
    ]
    areas_with(monkeypatch, fine, optional, ("b", "heart", "", "too small", "grow it", True))
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.strip() for line in lines[2:6]] == ["-   far    none", "fix: fetch it", "b", "NO  heart  too small"]
    assert "not ready: heart" in lines
    assert main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["ready"] is False


def test_a_run_without_a_device_is_refused(capsys):
    assert main(["doctor", "--config", "codegeex_base_8"]) == 2
    assert "--config: is for --device; add --device ascend" in capsys.readouterr().err


def test_what_cannot_be_imported_is_a_gap_and_no_traceback(monkeypatch, capsys):
    def rows():
        raise ModuleNotFoundError("No module named 'pydantic'")
        yield

    monkeypatch.setattr(doctor, "AREAS", {"disk": rows})
    assert main(["doctor"]) == 1
    assert "NO  disk  cannot be checked (No module named 'pydantic')" in capsys.readouterr().out


def test_gaps_of_the_machine(monkeypatch):
    monkeypatch.setattr(host, "available_memory", lambda: 10**9)
    monkeypatch.setattr(host, "check_libraries", lambda: ["libgomp.so.1 is missing: `apt install libgomp1`"])
    checks = found("machine")
    remedy = "close other programs, or raise the container's limit"
    assert (checks["memory"].state, checks["memory"].fix) == ("missing", remedy)
    assert (checks["libraries"].found, checks["libraries"].fix) == ("libgomp.so.1 is missing", "`apt install libgomp1`")


def test_devices_are_listed_by_the_drivers_own_command(program):
    program("npu-smi", "echo 'Device 0, 64 GB'\necho\necho 'Device 0, 32 GB'")
    checks = found("machine")
    assert checks["Ascend NPU"] == Finding("machine", "Ascend NPU", "ok", "Device 0, 64 GB; Device 0, 32 GB")


BOARDS = {  # what `npu-smi info -t board -i 4 -c 1` says, and the chip, by Ascend's guides
    "A2": ("Chip Type : Ascend\\nChip Name : 910B4", "ok", "Ascend910B4, Ascend 910B: the newest MindSpore"),
    "A3": ("NPU Name  : 9392\\nChip Name : Ascend910", "ok", "Ascend910_9392, Ascend 910C: the newest MindSpore"),
    "910": ("Chip Type : Ascend\\nChip Name : 910ProB", "optional", "Ascend910ProB, Ascend 910: the newest MindSpore"),
    "950": ("NPU Name  : 9579\\nChip Name : Ascend950PR", "optional", "Ascend950PR_9579: not in the table of docs/"),
    "nothing": ("Chip Version : V1", None, ""),
}


@pytest.mark.parametrize("board, state, text", BOARDS.values(), ids=BOARDS)
def test_the_mindspore_known_for_the_chip_that_the_driver_names(program, monkeypatch, board, state, text):
    """In the formats of Ascend's guides; no test has met the driver's own program."""
    listing = "NPU ID Chip ID Chip Logic ID Chip Name\\n 4 1 0 Ascend 910B4\\n 4 2 - Mcu"
    answers = {"info -l": "Total Count : 1", "info -m": listing, "info -t board -i 4 -c 1": f"NPU ID : 4\\n {board}"}
    cases = "".join(f"  '{words}') printf '{answer}\\n' ;;\n" for words, answer in answers.items())
    program("npu-smi", f'case "$*" in\n{cases}  *) exit 1 ;;\nesac')
    monkeypatch.setattr(software, "installed_mindspore", lambda: "2.9.0")
    check = found("machine").get("Ascend chip")
    assert (check and check.state) == state
    assert check is None or check.found.startswith(text)


def test_a_driver_without_devices_is_a_gap(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(doctor, "NPU_DRIVER", tmp_path)
    check = found("machine")["Ascend NPU"]
    assert check.state == "optional" and "no device is listed" in check.found and "`npu-smi info -l`" in check.fix


def probed(driver=GONE, problems=(), plugin="", found=True):
    """What the process that looks for CUDA would have found."""
    one = [LoadedLibrary(x, Path("/nvidia") / x.soname if found else None, "") for x in LIBRARIES]
    wrong = [
        LoadedLibrary(x.library, None, "cannot open") if x.library.soname in problems or not found else x for x in one
    ]
    return GpuBackend(tuple(wrong), driver, plugin)


def gpu_report(monkeypatch, **options):
    monkeypatch.setattr(probe, "probe_gpu_backend", lambda: probed(**options))
    return found("NVIDIA GPU")


def test_a_machine_without_cuda_says_so_in_one_line_and_what_to_install(monkeypatch):
    checks = gpu_report(monkeypatch, found=False, plugin="libcublas.so.11: cannot open")
    assert set(checks) == {"CUDA libraries", "driver", "back end", "device"}
    assert {check.state for check in checks.values()} == {"optional"}
    assert "none of 9" in checks["CUDA libraries"].found and "ms-codegeex[gpu]" in checks["CUDA libraries"].fix
    assert checks["driver"].found == GONE.problem and "NVIDIA's driver" in checks["driver"].fix


def test_each_library_is_reported_with_its_place_or_its_remedy(monkeypatch):
    driver = Driver("12.2", problem="no device")
    checks = gpu_report(monkeypatch, driver=driver, problems=("libcufft.so.10",), plugin="libcufft.so.10: cannot open")
    wrong = [name for name, check in checks.items() if name.startswith("lib") and check.state != "ok"]
    assert wrong == ["libcufft.so.10"]
    assert "setup.sh --gpu" in checks["libcufft.so.10"].fix
    assert checks["libcublas.so.11"] == Finding("NVIDIA GPU", "libcublas.so.11", "ok", "/nvidia/libcublas.so.11")
    assert checks["driver"].found == "supports CUDA 12.2" and checks["back end"].state == "optional"
    assert checks["device"].found.startswith("no device") and "--gpus all" in checks["device"].fix


def test_a_gpu_and_where_its_kernels_come_from(monkeypatch):
    monkeypatch.setenv("CUDA_CACHE_PATH", "/scratch/kernels")
    monkeypatch.setattr(translation, "is_translated", lambda gpu: False)
    gpus = [Gpu("H200", (9, 0), 140 * host.GB, 139 * host.GB), Gpu("A100", (8, 0), 80 * host.GB, None)]
    old = Gpu("K80", (3, 7), 12 * host.GB, None)
    checks = gpu_report(monkeypatch, driver=Driver("12.2", (*gpus, old)))
    assert checks["back end"].state == "ok" and "device" not in checks
    hopper = checks["device 0"].found
    assert hopper.startswith("H200, compute capability 9.0, 140.0 GB, 139.0 GB free; kernels in PTX")
    assert "/scratch/kernels, up to 4000000000 bytes" in hopper
    assert checks["device 1"].found.endswith("free memory unknown; kernels in machine code")
    assert checks["device 2"].state == "optional" and "6.0" in checks["device 2"].fix
    monkeypatch.setattr(translation, "is_translated", lambda gpu: gpu.name == "H200")
    checks = gpu_report(monkeypatch, driver=Driver("12.2", tuple(gpus)))
    assert checks["device 0"].found.endswith("kernels in machine code that set-up has translated")
    assert checks["device 1"].found.endswith("kernels in machine code")


def test_a_driver_that_is_too_old_is_a_gap(monkeypatch):
    gpu = Gpu("A100", (8, 0), 80 * host.GB, None)
    check = gpu_report(monkeypatch, driver=Driver("11.4", (gpu,)))["driver"]
    assert check.state == "optional" and "520 or newer" in check.fix
    assert check.found == "the NVIDIA driver supports CUDA 11.4, but 11.8 is required"
    assert gpu_report(monkeypatch, driver=Driver("11.8", (gpu,)))["driver"].state == "ok"


def test_a_search_for_cuda_that_breaks_is_a_gap(monkeypatch):
    def broken():
        raise RunFailure("libcublas.so.11 ended the process")

    monkeypatch.setattr(probe, "probe_gpu_backend", broken)
    check = found("NVIDIA GPU")["back end"]
    assert check.state == "optional" and "ended the process" in check.found


def test_gaps_of_the_packages(monkeypatch):
    names = ["travel", "half", "fast", "c", "all"]
    wanted = ["numpy<1", "no-such-package==3", "pyyaml", "far-away==1; extra == 'travel'", "far-off; extra == 'travel'"]
    wanted += ["pyyaml<7; extra == 'half'", "far-away; extra == 'half'", "xxhash; extra == 'fast'"]
    wanted += ["isal; extra == 'c'", "ms-codegeex[fast,travel]; extra == 'all'"]
    extras = type("", (), {"get_all": lambda *_: names})()
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: wanted)
    monkeypatch.setattr(doctor.importlib.metadata, "metadata", lambda name: extras)
    checks = found("packages")
    requirements = checks["requirements"]
    assert requirements.state == "missing" and "no-such-package is not installed" in requirements.found
    assert requirements.fix == "pip install 'numpy<1' no-such-package==3"
    absent = Finding("packages", "[travel]", "optional", "not installed", "pip install 'ms-codegeex[travel]'")
    assert checks["[travel]"] == absent
    assert checks["[half]"].found == "far-away is not installed" and checks["[half]"].state == "optional"
    fit = "all 1 are installed in versions that fit"
    assert (checks["[fast]"].found, checks["[c]"].found) == (f"{fit}, and work", fit)  # only those of [all] are tried
    assert "[all]" not in checks


@pytest.mark.parametrize("installed, wrong", [("1.26.4", False), ("2.4.6", True), ("2.0.0rc1", True)])
def test_numpy_2_has_a_line_of_its_own(monkeypatch, installed, wrong):
    real = host_metadata.version
    monkeypatch.setattr(host_metadata, "version", lambda name: installed if name == "numpy" else real(name))
    absent = create_autospec(host_metadata.requires, side_effect=host_metadata.PackageNotFoundError("x"))
    monkeypatch.setattr(host_metadata, "requires", absent)  # then no package is tried
    check = found("packages").get("NumPy")
    assert (check is not None) == wrong
    assert not wrong or (check.state, check.fix) == ("missing", "pip install 'numpy<2'")
    assert not wrong or check.found.startswith(f"NumPy {installed}, with which MindSpore's first operation")


@pytest.mark.parametrize(
    "module, code, wanted, words",
    [
        ("pyarrow", "raise ImportError('wants NumPy 2')", "pyarrow<26", "ImportError: wants NumPy 2"),
        ("xxhash", "def xxh3_128(array): raise TypeError('no array')", "xxhash<5", "TypeError: no array"),
        ("yaml", "import os; os._exit(7)", "PyYAML<7", "its use ended with status 7"),
    ],
    ids=["import", "use", "death"],
)
def test_a_package_that_is_installed_and_does_not_work_is_a_gap(tmp_path, monkeypatch, module, code, wanted, words):
    (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    requirements = [Requirement(line) for line in ("PyYAML<7", "xxhash<5", "pyarrow<26")]
    check = doctor._requirements("requirements", requirements).finding("packages")
    assert check.state == "missing" and check.fix == f"pip install --force-reinstall '{wanted}'"
    assert re.fullmatch(rf"{wanted.partition('<')[0]} [\d.]+ does not work: {words}", check.found)


@pytest.mark.parametrize(
    "pure, words", [("true", ""), ("false", "ImportError: another libc")], ids=["pure", "compiled"]
)
def test_a_package_in_python_alone_is_looked_for_and_any_other_is_imported(tmp_path, monkeypatch, pure, words):
    (tmp_path / "lathe-1.dist-info").mkdir()
    (tmp_path / "lathe-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: lathe\nVersion: 1\n")
    (tmp_path / "lathe-1.dist-info" / "WHEEL").write_text(f"Wheel-Version: 1.0\nRoot-Is-Purelib: {pure}\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert package_uses.problem_with("lathe").startswith("ModuleNotFoundError: No module named 'lathe'")
    (tmp_path / "lathe.py").write_text("raise ImportError('another libc')")
    importlib.invalidate_caches()
    assert package_uses.problem_with("lathe") == words


def test_events_are_tried_without_pytorch(monkeypatch):
    """Its import takes seconds, and no run needs it."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("torch", "tensorboardX")]:
        monkeypatch.delitem(sys.modules, name)
    assert package_uses.problem_with("tensorboardx") == ""
    assert "tensorboardX" in sys.modules and "torch" not in sys.modules


@pytest.mark.parametrize(
    "script, words",
    [("exit 9", "its import ended with status 9"), ("echo 'ImportError: libgomp.so.1' >&2; exit 1", "libgomp.so.1")],
    ids=("silent", "with a message"),
)
def test_an_engine_that_cannot_be_imported(program, monkeypatch, script, words):
    monkeypatch.setattr(sys, "executable", str(program("python", script)))
    (check,) = doctor.findings("engine")
    assert check.state == "missing" and words in check.found and check.fix


def test_compiled_operators_are_found_and_never_built(program, tmp_path, monkeypatch):
    from ms_codegeex.kernels import compiling, levels, prebuilding

    compiler = program("g++", "exit 1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    possible = create_autospec(levels.possible_levels, return_value=["avx2", "plain"])
    monkeypatch.setattr(levels, "possible_levels", possible)
    check, level = doctor._compiled_operators().finding("engine"), "avx2 (or --cpu-level plain)"
    assert (check.state, check.found) == ("ok", f"{level}; {compiler} builds them when a model is first used")
    assert not list((tmp_path / "cache").rglob("*.so"))
    (known,) = (each for each in compiling.cxx_compilers() if each[0] == str(compiler))
    built = compiling.library_file(compiling.user_cache() / "kernels", "avx2", compiling.build_command("avx2", known))
    built.parent.mkdir(parents=True)
    built.touch()
    assert compiling.compile_library(built.parent, "avx2", known) == built
    assert doctor._compiled_operators().found == f"{level}; built by {compiler}"
    monkeypatch.setattr(prebuilding, "cxx_compilers", list)
    check = doctor._compiled_operators().finding("engine")
    assert check.state == "optional" and "no C++ compiler" in check.found and "pip install ziglang" in check.fix


def test_plugins():
    problem = {"ascend 1": "libge_runner.so: cannot open", "ascend 2": "libge_runner.so: cannot open"}
    check = doctor._ascend_plugin(problem).finding("engine")
    assert check.state == "optional" and "libge_runner.so" in check.found and "CANN" in check.fix
    assert doctor._ascend_plugin({**problem, "ascend 2": ""}).found == "ascend 2 loads"
    assert doctor._ascend_plugin({}).fix == ""


def test_a_layer_that_is_missing_comes_with_its_remedy(tmp_path, monkeypatch):
    from ms_codegeex.extras.evaluation import sandbox

    states = {"seccomp": "active", "namespaces": "missing: not permitted; as root: sysctl -w a=1"}
    monkeypatch.setattr(sandbox, "open_sandbox", lambda mode: type("", (), {"layers": states})())
    checks = found("sandbox")
    assert checks["seccomp"].state == "ok"
    assert (checks["namespaces"].state, checks["namespaces"].fix) == ("optional", "as root: sysctl -w a=1")


def only_tool_chain(monkeypatch, language):
    """Leave out the others, which would be asked for their versions; the one."""
    from ms_codegeex.extras.evaluation import toolchains

    chain = toolchains.TOOL_CHAINS[language]
    monkeypatch.setattr(toolchains, "TOOL_CHAINS", {language: chain})
    return chain


def test_a_tool_chain_that_is_missing_comes_with_its_packages(monkeypatch):
    go = only_tool_chain(monkeypatch, "go")
    monkeypatch.setattr(go, "version", lambda self: None)
    monkeypatch.setattr(go, "lacking", lambda self: {"go": "golang-go", "inflect": "libinflect"})
    fix = "apt-get install golang-go libinflect"
    assert found("tool chains")["go"] == Finding("tool chains", "go", "optional", "not installed: go, inflect", fix)


def test_a_compiler_that_lacks_a_library_is_not_called_missing(program, tmp_path, monkeypatch):
    from ms_codegeex.extras.evaluation.toolchains import cpp

    def install(header):
        (tmp_path / header).parent.mkdir()
        (tmp_path / header).touch()

    program("g++", "echo g++ 13")
    install("openssl/md5.h")
    only_tool_chain(monkeypatch, "cpp")
    monkeypatch.setattr(cpp, "INCLUDES", (str(tmp_path),))
    check = found("tool chains")["cpp"]
    assert (check.found, check.fix) == ("not installed: boost/any.hpp", "apt-get install libboost-dev")
    install("boost/any.hpp")
    assert found("tool chains")["cpp"] == Finding("tool chains", "cpp", "ok", "g++ 13")


@pytest.mark.parametrize("columns", [80, 120])
def test_lines_fit_the_terminal_even_if_every_package_is_gone(monkeypatch, columns):
    def gone(name):
        raise doctor.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(doctor.importlib.metadata, "version", gone)
    checks = doctor.findings("packages")
    checks.append(Finding("disk", "cache", "missing", " ".join(["much to say"] * 50), "one line, to be copied"))
    lines = list(doctor.report_lines(checks, ""))
    assert max(len(line) for line in lines) <= columns + 50 and any("mindspore" in line for line in lines)
    assert all(len(line) <= columns or "fix: " in line for line in lines)
    (fix,) = (check.fix for check in checks if check.name == "requirements")
    assert fix == doctor.SET_UP


def test_gaps_of_the_disk(monkeypatch):
    monkeypatch.setattr(doctor, "DISK", 10**18)
    checks = found("disk")
    assert {check.state for check in checks.values()} == {"missing"}
    assert "XDG_CACHE_HOME" in checks["cache"].fix and "TMPDIR" in checks["temporary"].fix


def test_the_report_is_light_without_the_engine():
    """Nothing heavy is imported by the command itself: it has to run where packages are broken."""
    code = "import sys, ms_codegeex.commands.doctor; sys.exit(bool({'numpy', 'pydantic', 'yaml'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
