"""Each thing a machine may lack gives one line that says how to get it."""

import re
from pathlib import Path

import pytest
from conftest import ROOT, load_script
from strict_sandbox import refusing_python

from ms_codegeex.base import host
from ms_codegeex.config.loading import load_config
from ms_codegeex.extras.evaluation.sandbox.layers import advice
from ms_codegeex.runs.memory_check import required_memory

preflight = load_script("ascend_scripts/preflight.py")


def absent(_name):
    raise OSError("cannot open shared object file")


LACKING = {
    "python too old": (host.check_python((3, 9, 18), "py"), "PYTHON="),
    "python too new": (host.check_python((3, 13, 0), "py"), "3.13.0"),
    "venv": (preflight.check_venv(lambda name: None, (3, 11)), "python3.11-venv"),
    "system": (host.check_platform("Windows", "AMD64", ""), "WSL"),
    "architecture": (host.check_platform("Linux", "ppc64le", "glibc"), "x86_64 or aarch64"),
    "glibc": (host.check_platform("Linux", "x86_64", ""), "glibc"),
    "libgomp": (host.check_libraries(absent)[0], "apt install libgomp1"),
    "disk": (host.check_disk("/", 6 * 10**9, "free some", 10**9), "6 GB"),
    "memory": (host.check_memory(10**9, 4 * 10**9), "4 GB"),
}


def test_the_memory_of_the_first_command_is_what_its_run_needs():
    needed = required_memory(load_config(ROOT / "configs" / "codegeex_tiny.yaml"), compiled=False)
    default = re.search(r"free memory needed \(default: (\d+)\)", Path(preflight.__file__).read_text())[1]
    readme = re.search(r"(\d+) GB of free memory", (ROOT / "README.md").read_text())[1]
    assert default == readme and 0.75 * int(default) * host.GB < needed <= int(default) * host.GB


@pytest.mark.parametrize("line, remedy", LACKING.values(), ids=LACKING.keys())
def test_what_is_missing_is_one_line_with_its_remedy(line, remedy):
    assert remedy in line and "\n" not in line


def test_nothing_is_said_about_what_is_there():
    assert host.check_python((3, 12, 1), "py") is None
    assert preflight.check_venv(lambda name: object(), (3, 11)) is None
    assert host.check_platform("Linux", "aarch64", "glibc") is None
    assert host.check_platform("Darwin", "arm64", "") is None
    assert host.check_libraries(lambda name: None) == []
    assert host.check_disk("/", 6 * 10**9, "free some", 7 * 10**9) is None
    assert host.check_memory(None, 4 * 10**9) is None


def test_the_containers_limit_counts(tmp_path):
    """What the container already holds is not free."""

    def free(meminfo, *limits):
        return host.available_memory(str(tmp_path / meminfo), [str(tmp_path / name) for name in limits])

    def write(**files):
        for name, text in files.items():
            (tmp_path / name.replace("_", ".")).write_text(text)

    write(meminfo="MemTotal: 9000000 kB\nMemAvailable:    8000000 kB\n", unlimited="max\n", memory_max="2000000000\n")
    assert free("meminfo", "unlimited", "absent") == 8_000_000 * 1024
    assert free("meminfo", "memory.max") == 2_000_000_000
    write(memory_current="900000000\n", memory_stat="anon 500000000\ninactive_file 300000000\n")
    assert free("absent", "memory.max") <= 1_400_000_000
    write(memory_current="2500000000\n")
    assert free("absent", "memory.max") == 0


@pytest.mark.parametrize(
    "text, name",
    [
        ("flags\t\t: fpu sse4_2 avx avx2\n", "AVX2"),
        ("processor: 0\nFeatures\t: fp asimd sve\n", "SVE"),
        ("processor: 0\n", None),
    ],
)
def test_the_widest_instruction_set(tmp_path, text, name):
    (tmp_path / "cpuinfo").write_text(text)
    assert host.instruction_set(str(tmp_path / "cpuinfo")) == name
    assert host.instruction_set(str(tmp_path / "absent")) is None


def test_main_reports_everything_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(host, "check_memory", lambda available, needed: "too little memory")
    assert preflight.main([str(tmp_path / "not" / "yet"), "--disk", "1e9"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.startswith("preflight: ") for line in lines)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.strict_sandbox
def test_nothing_is_said_where_the_sandbox_is_possible(tmp_path, capsys):
    assert preflight.main([str(tmp_path), "--disk", "0", "--memory", "0"]) == 0
    assert capsys.readouterr().err == ""


def test_a_kernel_that_refuses_the_sandbox_is_a_line_and_no_obstacle(tmp_path, capsys, monkeypatch):
    python = refusing_python(tmp_path)
    check = preflight.check_sandbox
    monkeypatch.setattr(preflight, "check_sandbox", lambda: check(python))
    assert preflight.main([str(tmp_path), "--disk", "0", "--memory", "0"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("preflight: `evaluate` cannot judge programs in its strict sandbox here")
    assert "namespaces: " in line and advice() in line
