"""`.ci/toolchains` with stand-ins for the programs that it calls."""

import shutil
import subprocess

import pytest
from conftest import ROOT

SCRIPT = ROOT / ".ci" / "toolchains"
TOOLS = ("bash", "env", "timeout")


@pytest.fixture
def machine(tmp_path):
    """A PATH that holds stand-ins only; each writes its words to `calls`."""

    class Machine:
        path, calls, python = tmp_path / "bin", tmp_path / "calls", tmp_path / "venv" / "bin" / "python"

        def program(self, name, script="exit 0"):
            file = self.path / name  # or an absolute path
            file.write_text(f'#!/bin/bash\necho "{name} $*" >>{self.calls}\n{script}\n')
            file.chmod(0o755)

        def run(self):
            environment = {"PATH": str(self.path), "MS_CODEGEEX_VENV": str(self.python.parents[1])}
            return subprocess.run(["/bin/bash", SCRIPT], capture_output=True, text=True, env=environment)

        def called(self):
            return self.calls.read_text().splitlines() if self.calls.exists() else []

    Machine.path.mkdir()
    Machine.python.parent.mkdir(parents=True)
    machine = Machine()
    for tool in TOOLS:
        (machine.path / tool).symlink_to(shutil.which(tool))
    return machine


def complete(machine, installed="installed", npm_root=None):
    """A Debian where everything can be installed."""
    machine.program(machine.python, f"[[ {installed} == installed || $1 == -m ]]")
    machine.program("sudo", 'shift; exec "$@"')
    machine.program("true")
    machine.program("dpkg-query", f"echo -n {installed}")
    machine.program("apt-get")
    machine.program("node")
    machine.program("npm", f"[[ $1 == root ]] && echo {npm_root or machine.path}; exit 0")


def test_missing_packages_and_js_md5_are_installed(machine):
    complete(machine, installed="not-installed")
    result = machine.run()
    assert result.returncode == 0 and "installing g++" in result.stdout, result.stderr
    (install,) = [call for call in machine.called() if call.startswith("apt-get") and " install " in call]
    for package in ("g++", "libssl-dev", "default-jdk-headless", "golang-go", "librust-md5-dev", "chromium"):
        assert package in install.split()
    assert any("install --global" in call and "js-md5@0.7.3" in call for call in machine.called())
    assert any(
        "-m pip install" in call and "playwright==" in call and "schemathesis==" in call for call in machine.called()
    )


def test_nothing_is_done_twice(machine):
    complete(machine)
    (machine.path / "js-md5").mkdir()
    (machine.path / "js-md5" / "package.json").touch()
    result = machine.run()
    assert (result.returncode, result.stdout) == (0, "")
    assert not any(call.startswith("apt-get") or "install --global" in call for call in machine.called())
    assert not any("pip install" in call for call in machine.called())


def test_the_tools_of_the_extension_are_those_of_its_lock_file(machine):
    complete(machine)
    assert machine.run().returncode == 0
    assert any(call.startswith("npm ci --prefix") and "editors/vscode" in call for call in machine.called())


@pytest.mark.parametrize(
    "name, script, words",
    [
        ("apt-get", "for word; do [[ $word == install ]] && exit 100; done; exit 0", "apt-get could not install"),
        ("npm", "[[ $1 == root ]] && exit 0; exit 1", "npm could not install js-md5@0.7.3"),
        ("npm", "[[ $1 != ci ]]", "npm could not install what checks and packages editors/vscode"),
        ("python", "exit 1", "pip could not install playwright"),
    ],
)
def test_what_fails_is_reported_and_is_no_failure(machine, name, script, words):
    complete(machine, installed="not-installed")
    machine.program(machine.python if name == "python" else name, script)
    result = machine.run()
    assert result.returncode == 0 and words in result.stdout and "are skipped" in result.stdout


def test_a_machine_without_apt(machine):
    result = machine.run()
    assert result.returncode == 0 and "there is no apt-get" in result.stdout
