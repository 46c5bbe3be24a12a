"""What programs see of the directories that tools are installed in: the tools, and nobody's home."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from chains import answer
from humaneval_x_rows import write

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.evaluation.benchmarks import humaneval_x
from ms_codegeex.extras.evaluation.judging import python_program
from ms_codegeex.extras.evaluation.judging.python_program import Runner
from ms_codegeex.extras.evaluation.sandbox import Command, ResourceLimits, open_sandbox, workspace
from ms_codegeex.extras.evaluation.toolchains import go, java, python, rust


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "home"
    (place / "bin").mkdir(parents=True)
    (place / "secret").write_text("of the user")
    monkeypatch.setenv("HOME", str(place))
    return place


@pytest.fixture
def node(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plain file in ~/bin, as some users install it."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("needs apt-get install nodejs")
    program = home / "bin" / "node"
    program.write_text(f'#!/bin/sh\nexec {os.path.realpath(found)} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program


def test_a_node_in_the_home_directory_does_not_show_it(tmp_path: Path, home: Path, node: Path):
    task = humaneval_x.build(write(tmp_path / "data", "js"), ["js"], cache=tmp_path / "cache")
    (problem,) = task.problems
    sandbox = open_sandbox()
    assert task.judge(problem, task.reference(problem), sandbox).verdicts["strict"].value == "passed"
    secret = "  console.error(require('fs').readdirSync('@'), require('fs').readFileSync('@/secret', 'utf8'))\n}\n"
    found = task.judge(problem, answer(problem, secret.replace("@", str(home))), sandbox)
    assert found.verdicts["strict"].value != "passed"
    assert "ENOENT" in found.stderr and "of the user" not in found.stderr


@pytest.mark.parametrize("language", ["java", "go", "rust", "python"])
def test_a_tool_that_is_unpacked_into_the_home_directory_does_not_show_it(
    home: Path, monkeypatch: pytest.MonkeyPatch, language: str
):
    for name in ("lib", "conf", "src", "bin/java", "bin/javac", "bin/go", "bin/rustc", "bin/python"):
        (home / name).mkdir() if "/" not in name else (home / name).touch()
    chain = {"java": java.Java, "go": go.Go, "rust": rust.Rust, "python": python.Python}[language](home / "cache")
    chain._prepared = home / "cache"
    monkeypatch.setattr(java, "program_of", lambda name: home / "bin" / name)
    monkeypatch.setattr(go.Go, "tool", home / "bin/go")
    monkeypatch.setattr(go.Go, "root", home)
    monkeypatch.setattr(rust.Rust, "root", home)
    monkeypatch.setattr(sys, "prefix", str(home))
    monkeypatch.setattr(sys, "executable", str(home / "bin/python"))
    shown = chain.readable()
    assert home / "lib" in shown.values() and home / "secret" not in shown.values()
    workspace.check_readable(shown.values())


def test_an_interpreter_shows_itself_and_its_libraries(tmp_path: Path):
    runner = Runner.open()
    workspace.check_readable(runner.readable.values())
    assert not {Path(sys.prefix), Path(sys.base_prefix)} & set(runner.readable.values())
    assert python_program.readable_parts(tmp_path / "python", [tmp_path]) == {}
    words = [str(runner.interpreter.path), "-c", "import numpy, sys; print(sys.prefix)"]
    (done,) = open_sandbox().run([Command(words, ResourceLimits(wall=60))], {}, runner.readable)
    assert done.stdout.decode().strip() == sys.prefix, done.stderr


@pytest.mark.parametrize("path", ["/", "/home", "/root", "~", "~/..", "link"])
def test_no_home_directory_is_ever_readable(tmp_path: Path, home: Path, path: str):
    """Nor a directory that contains one; a directory within one is allowed."""
    (tmp_path / "link").symlink_to(home)
    place = tmp_path / "link" if path == "link" else Path(os.path.expanduser(path))
    if not place.exists():
        pytest.skip(f"needs {path}")
    with pytest.raises(UserError, match=r"(is|contains .*) a home directory, which no program may read"):
        open_sandbox().run([Command(["/bin/true"])], {}, {"/seen": place})
    (done,) = open_sandbox().run([Command(["/bin/ls", "/seen"])], {}, {"/seen": home / "bin"})
    assert done.succeeded


def test_homes_of_other_users_are_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    users = [type("User", (), {"pw_dir": path}) for path in (str(tmp_path / "data/anna"), "/usr/games", "")]
    monkeypatch.setattr(workspace.pwd, "getpwall", lambda: users)
    for path in (tmp_path / "data", tmp_path / "data/anna"):
        with pytest.raises(UserError, match="home directory"):
            workspace.check_readable([path])
    workspace.check_readable([tmp_path / "data/anna/tools", Path("/usr")])
