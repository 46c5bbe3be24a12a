"""`.ci/toolchains` with stand-ins for the programs that it calls."""

import shutil
import subprocess

import pytest
from conftest import ROOT


class Machine:
    """A PATH that holds stand-ins only; each writes its words to `calls`."""

    def __init__(self, root):
        self.path, self.calls, self.python = root / "bin", root / "calls", root / "venv" / "bin" / "python"
        self.path.mkdir()
        self.python.parent.mkdir(parents=True)
        self.calls.touch()
        for tool in ("bash", "env", "timeout"):
            (self.path / tool).symlink_to(shutil.which(tool))

    def program(self, name, script="exit 0"):
        file = self.path / name  # or an absolute path
        file.write_text(f'#!/bin/bash\necho "{name} $*" >>{self.calls}\n{script}\n')
        file.chmod(0o755)

    def complete(self, installed="installed"):
        """A Debian where everything can be installed."""
        self.program(self.python, f"[[ {installed} == installed || $1 == -m ]]")
        self.program("sudo", 'shift; exec "$@"')
        self.program("dpkg-query", f"echo -n {installed}")
        self.program("npm", f"[[ $1 == root ]] && echo {self.path}; exit 0")
        for name in ("true", "apt-get", "node"):
            self.program(name)

    def run(self):
        environment = {"PATH": str(self.path), "MS_CODEGEEX_VENV": str(self.python.parents[1])}
        words = ["/bin/bash", ROOT / ".ci" / "toolchains"]
        result = subprocess.run(words, capture_output=True, text=True, env=environment)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def called(self, *words):
        """The calls that have all of these words."""
        return [call for call in self.calls.read_text().splitlines() if all(word in call for word in words)]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_what_is_missing_is_installed(machine):
    """The tools of the extension are those of its lock file."""
    machine.complete(installed="not-installed")
    assert "installing g++" in machine.run()
    (install,) = machine.called("apt-get", " install ")
    packages = {"g++", "libssl-dev", "default-jdk-headless", "golang-go", "librust-md5-dev", "chromium"}
    assert packages <= {*install.split()}
    assert machine.called("install --global", "js-md5@0.7.3") and machine.called("npm ci --prefix", "editors/vscode")
    assert machine.called("-m pip install", "playwright==", "schemathesis==")


def test_nothing_is_done_twice(machine):
    machine.complete()
    (machine.path / "js-md5").mkdir()
    (machine.path / "js-md5" / "package.json").touch()
    assert machine.run() == ""
    assert not any(machine.called(word) for word in ("apt-get", "install --global", "pip install"))


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
    machine.complete(installed="not-installed")
    machine.program(machine.python if name == "python" else name, script)
    said = machine.run()
    assert words in said and "are skipped" in said


def test_a_machine_without_apt(machine):
    assert "there is no apt-get" in machine.run()
