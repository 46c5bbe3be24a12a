"""`ms-codegeex doctor`: what is there, and for each gap the line that closes it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import command

from ms_codegeex import host
from ms_codegeex.cli import main
from ms_codegeex.commands import doctor
from ms_codegeex.commands.doctor import Finding

AREAS = ["machine", "packages", "engine", "sandbox", "tool chains", "disk"]
LAYERS = {"unprivileged user", "seccomp", "Landlock", "namespaces"}
LANGUAGES = {"python", "cpp", "java", "js", "go", "rust"}


def found(area):
    return {check.name: check for check in area()}


def test_a_user_with_an_empty_path(tmp_path):
    """As one object, from another directory: everything that a CPU user needs is in the tests' own environment."""
    result = command("doctor", "--json", cwd=tmp_path, environment={"PATH": "", "TMPDIR": str(tmp_path)})
    assert result.returncode == 0, result.stdout + result.stderr
    (line,) = result.stdout.splitlines()
    report = json.loads(line)
    assert report["ready"] is True
    checks = {(check["area"], check["name"]): check for check in report["checks"]}
    assert len(checks) == len(report["checks"])
    assert list(dict.fromkeys(area for area, _ in checks)) == AREAS
    assert {name for area, name in checks if area == "sandbox"} == LAYERS
    assert {name for area, name in checks if area == "tool chains"} == LANGUAGES
    assert checks["engine", "MindSpore"]["found"].startswith("2.9.0")
    assert checks["engine", "decoding operators"]["state"] in ("ok", "optional")
    assert checks["tool chains", "python"]["state"] == "ok"
    assert checks["disk", "temporary"]["found"].endswith(f"free in {tmp_path}")
    assert all(check["state"] in ("ok", "missing", "optional") for check in report["checks"])
    assert not any(check["fix"] for check in report["checks"] if check["state"] == "ok")


def areas_with(monkeypatch, *checks):
    monkeypatch.setattr(doctor, "AREAS", (lambda: iter(checks),))


def test_a_gap_that_matters_is_status_1(monkeypatch, capsys):
    fine, optional = Finding("a", "fine", "ok", "there"), Finding("a", "far", "optional", "none", "fetch it")
    areas_with(monkeypatch, fine, optional)
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "ready: everything that a run on a CPU needs is here",
        "optional and missing: far",
    ]
    areas_with(monkeypatch, fine, optional, Finding("b", "heart", "missing", "too small", "grow it"))
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.strip() for line in lines[2:6]] == ["-   far    none", "fix: fetch it", "b", "NO  heart  too small"]
    assert "not ready: heart" in lines
    assert main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["ready"] is False


def test_what_cannot_be_imported_is_a_gap_and_no_traceback(monkeypatch, capsys):
    def disk_checks():
        raise ModuleNotFoundError("No module named 'pydantic'")
        yield

    monkeypatch.setattr(doctor, "AREAS", (disk_checks,))
    assert main(["doctor"]) == 1
    assert "NO  disk  cannot be checked (No module named 'pydantic')" in capsys.readouterr().out


def test_gaps_of_the_machine(monkeypatch):
    monkeypatch.setattr(host, "available_memory", lambda: 10**9)
    monkeypatch.setattr(host, "check_libraries", lambda: ["libgomp.so.1 is missing: `apt install libgomp1`"])
    checks = found(doctor.machine_checks)
    assert (checks["memory"].state, checks["memory"].fix) == (
        "missing",
        "close other programs, or raise the container's limit",
    )
    assert (checks["libraries"].found, checks["libraries"].fix) == ("libgomp.so.1 is missing", "`apt install libgomp1`")


def test_devices_are_listed_by_the_drivers_own_command(tmp_path, monkeypatch):
    for number, accelerator in enumerate(doctor.ACCELERATORS):
        tool = tmp_path / accelerator.listing[0]
        tool.write_text(f"#!/bin/sh\necho 'Device {number}, 64 GB'\necho\necho 'Device {number}, 32 GB'\n")
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    checks = found(doctor.machine_checks)
    assert checks["NVIDIA GPU"] == Finding("machine", "NVIDIA GPU", "ok", "Device 0, 64 GB; Device 0, 32 GB")
    assert checks["Ascend NPU"].found == "Device 1, 64 GB; Device 1, 32 GB"


def test_a_driver_without_devices_is_a_gap(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    accelerator = doctor.Accelerator("gpu", "NVIDIA GPU", ("nvidia-smi",), tmp_path, "")
    monkeypatch.setattr(doctor, "ACCELERATORS", (accelerator,))
    check = found(doctor.machine_checks)["NVIDIA GPU"]
    assert check.state == "optional" and "no device is listed" in check.found and "`nvidia-smi`" in check.fix


def test_gaps_of_the_packages(monkeypatch):
    wanted = ["numpy<1", "no-such-package==3", "pyyaml", "far-away==1; extra == 'travel'"]
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: wanted)
    monkeypatch.setattr(
        doctor.importlib.metadata, "metadata", lambda name: type("", (), {"get_all": lambda *_: ["travel"]})()
    )
    checks = found(doctor.package_checks)
    requirements = checks["requirements"]
    assert requirements.state == "missing" and "no-such-package is not installed" in requirements.found
    assert requirements.fix == "pip install 'numpy<1' no-such-package==3"
    assert checks["[travel]"] == Finding(
        "packages", "[travel]", "optional", "far-away is not installed", "pip install 'ms-codegeex[travel]'"
    )


@pytest.mark.parametrize(
    "script, words",
    [("exit 9", "its import ended with status 9"), ("echo 'ImportError: libgomp.so.1' >&2; exit 1", "libgomp.so.1")],
    ids=("silent", "with a message"),
)
def test_an_engine_that_cannot_be_imported(tmp_path, monkeypatch, script, words):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    (check,) = doctor.engine_checks()
    assert check.state == "missing" and words in check.found and check.fix


def test_decoding_operators_are_found_and_never_built(tmp_path, monkeypatch):
    from ms_codegeex.generation.kernels import compiling

    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(compiling, "cpu_level", lambda: "avx2")
    check = doctor._decoding_operators()
    assert (check.state, check.found) == ("ok", f"avx2; {compiler} builds them when a model is first loaded")
    assert not list((tmp_path / "cache").rglob("*.so"))
    (known,) = (each for each in compiling.cxx_compilers() if each[0] == str(compiler))
    built = compiling.library_file(compiling.user_cache() / "kernels", "avx2", compiling._command("avx2", known))
    built.parent.mkdir(parents=True)
    built.touch()
    assert compiling.compile_library(built.parent, "avx2", known) == built
    assert doctor._decoding_operators().found == f"avx2; built by {compiler}"
    monkeypatch.setattr(compiling, "cxx_compilers", list)
    check = doctor._decoding_operators()
    assert check.state == "optional" and "no C++ compiler" in check.found and "pip install ziglang" in check.fix


def test_plugins():
    accelerator = doctor.ACCELERATORS[0]
    problem = {"gpu 11.1": "libcublas.so.11: cannot open", "gpu 11.6": "libcublas.so.11: cannot open"}
    check = doctor._plugin(accelerator, problem)
    assert check.state == "optional" and "libcublas.so.11" in check.found and "CUDA" in check.fix
    assert doctor._plugin(accelerator, {**problem, "gpu 11.6": ""}).found == "gpu 11.6 loads"
    assert doctor._plugin(accelerator, {}).fix == ""


def test_a_layer_that_is_missing_comes_with_its_remedy(tmp_path, monkeypatch):
    from ms_codegeex.evaluation import sandbox

    states = {"seccomp": "active", "namespaces": "missing: not permitted; as root: sysctl -w a=1"}
    monkeypatch.setattr(sandbox, "open_sandbox", lambda mode: type("", (), {"layers": states})())
    checks = found(doctor.sandbox_checks)
    assert checks["seccomp"].state == "ok"
    assert (checks["namespaces"].state, checks["namespaces"].fix) == ("optional", "as root: sysctl -w a=1")


def test_a_tool_chain_that_is_missing_comes_with_its_packages(monkeypatch):
    from ms_codegeex.evaluation.toolchains import TOOL_CHAINS

    monkeypatch.setattr(TOOL_CHAINS["go"], "version", lambda self: None)
    check = found(doctor.tool_chain_checks)["go"]
    assert check.state == "optional" and check.fix.startswith("apt-get install golang-go")


def test_gaps_of_the_disk(monkeypatch):
    monkeypatch.setattr(doctor, "DISK", 10**18)
    checks = found(doctor.disk_checks)
    assert {check.state for check in checks.values()} == {"missing"}
    assert "XDG_CACHE_HOME" in checks["cache"].fix and "TMPDIR" in checks["temporary"].fix


def test_the_report_is_light_without_the_engine():
    """Nothing heavy is imported by the command itself: it has to run where packages are broken."""
    code = "import sys, ms_codegeex.commands.doctor; sys.exit(bool({'numpy', 'pydantic', 'yaml'} & set(sys.modules)))"
    root = Path(doctor.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
