"""What is missing is reported with the line that installs it; what is prepared is prepared once."""

import re
import sys
from importlib import metadata
from pathlib import Path

import pytest
from conftest import ROOT
from humaneval_x_rows import ROWS, write

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.base.reading import read_json
from ms_codegeex.extras.evaluation import session
from ms_codegeex.extras.evaluation.benchmarks.humaneval_x import build
from ms_codegeex.extras.evaluation.judging.python_program import PythonInterpreter, Runner
from ms_codegeex.extras.evaluation.recipe import Recipe
from ms_codegeex.extras.evaluation.toolchains import PLAIN_TOOL_CHAINS, TOOL_CHAINS, base, java, multipl_e, rust
from ms_codegeex.extras.evaluation.toolchains.javascript import JavaScript, version_of
from ms_codegeex.extras.evaluation.toolchains.python import Python


def test_every_language_has_a_tool_chain_and_its_line_in_the_document():
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    assert set(TOOL_CHAINS) == set(ROWS)
    kinds = {*TOOL_CHAINS.values(), *PLAIN_TOOL_CHAINS.values()} - {Python}
    assert [kind.language for kind in kinds if f"`{kind.install}`" not in page] == []


@pytest.mark.parametrize("language", ROWS)
def test_a_missing_tool_chain_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, language: str):
    monkeypatch.setattr(TOOL_CHAINS[language], "version", lambda self: None)
    monkeypatch.setattr(TOOL_CHAINS[language], "lacking", lambda self: {})
    write(tmp_path, language)
    task = build(tmp_path)
    assert task.missing() == {language: TOOL_CHAINS[language].install}
    assert task.tools() == {}


@pytest.mark.parametrize("kind", [*TOOL_CHAINS.values(), *PLAIN_TOOL_CHAINS.values()])
def test_on_a_bare_machine_the_packages_of_all_parts_are_those_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[base.ToolChain]
):
    for module in {sys.modules[each.__module__] for each in kind.__mro__ if each.__module__.startswith("ms_codegeex")}:
        for name, nothing in (
            ("program_of", lambda name: None),
            ("INCLUDES", ()),
            ("DEBIAN", tmp_path),
            ("REGISTRY", tmp_path),
        ):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, nothing)
    monkeypatch.setattr(PythonInterpreter, "lacks", lambda self, modules: list(modules))
    monkeypatch.setattr(rust.Rustc, "root", None)
    monkeypatch.setattr(java.Java, "jars", lambda self: [])
    monkeypatch.setattr(multipl_e.PlainJava, "jars", lambda self: [])
    chain = kind(tmp_path)
    assert chain.lacking() and chain.found is None
    assert chain.remedy == re.sub(r" \(.*", "", kind.install)  # without the alternative in brackets


def test_the_script_installs_what_the_messages_say():
    """Each package by name: recommended ones, such as librust-regex+default-dev, are not installed automatically."""
    text = (ROOT / ".ci" / "toolchains").read_text()
    packages = set(re.search(r"packages=\((.*?)\n\)", text, re.DOTALL).group(1).split())
    named = {word for kind in TOOL_CHAINS.values() for word in kind.install.split() if kind.install.startswith("apt")}
    assert named - {"apt-get", "install"} <= packages
    assert "librust-regex+default-dev" in named and "--no-install-recommends" in text


@pytest.mark.parametrize("fault", ["fails", "hangs", "home"])
def test_a_tool_chain_that_cannot_be_prepared_is_left_out_and_the_rest_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, fault: str
):
    def make(self, cache):
        self.run_tool(["false"] if fault == "fails" else ["sleep", "60"], cache)

    if fault == "home":
        monkeypatch.setattr(JavaScript, "readable", lambda self: {"/seen": Path.home()})
    else:
        monkeypatch.setattr(JavaScript, "make", make)
    monkeypatch.setattr(base, "PREPARING", 0.1 if fault == "hangs" else 60)
    monkeypatch.setattr(JavaScript, "version", lambda self: "Node.js v20")
    for language in ("python", "js"):
        write(tmp_path / "data", language)
    task = build(tmp_path / "data", cache=tmp_path / "cache")
    options = session.Options(tmp_path / "out", references="only")
    with pytest.raises(RunFailure, match=r"not judged: js: .*; fix the tool chain"):
        session.raise_for_refused(session.evaluate(task, Recipe("humaneval-x"), options))
    report = read_json(tmp_path / "out" / "report.json")
    assert report["references"]["python"]["passed"] == 1 and "js" not in report["references"]
    words = {"fails": "false fails on our own sources", "hangs": "timed out", "home": "is a home directory"}[fault]
    assert words in report["refused"]["js"] and words in (tmp_path / "out" / "report.html").read_text()
    assert "js: left out, its tools do not work" in capsys.readouterr().err


def test_versions_of_libraries_are_reported(tmp_path: Path):
    """Verdicts may change with the versions."""
    assert Python(tmp_path).version().endswith(f", NumPy {metadata.version('numpy')}")
    (tmp_path / "package.json").write_text('{"version": "0.7.3"}')
    assert version_of(tmp_path) == "0.7.3" and version_of(tmp_path / "none") == ""
    found = Runner.open().interpreter.versions(["numpy", "no-such-package"])
    assert found == {"Python": sys.version.split()[0], "numpy": metadata.version("numpy")}


def test_js_md5_is_found_where_node_path_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Or it is reported as missing, with the one problem that needs it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(JavaScript, "version", lambda self: "Node.js v20")
    (tmp_path / "elsewhere" / "js-md5").mkdir(parents=True)
    (tmp_path / "elsewhere" / "js-md5" / "package.json").write_text("{}")
    monkeypatch.setenv("NODE_PATH", f"/nowhere:{tmp_path / 'elsewhere'}")
    assert JavaScript(tmp_path).md5 == tmp_path / "elsewhere" / "js-md5"
    task = build(write(tmp_path, "js"))
    assert task.missing() == {} == task.known_defects()
    monkeypatch.setattr(JavaScript, "md5", None)
    task = build(write(tmp_path, "js"))
    assert task.missing()["js-md5"].startswith("npm install js-md5@0.7.3")
    assert "js-md5" in task.known_defects()["JavaScript/162"]


def test_what_is_prepared_is_prepared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """By version, and again if it was interrupted."""
    made = []

    def make(self, cache):
        made.append(cache)
        (cache / "part").touch(exist_ok=False)
        if len(made) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Python, "make", make)
    with pytest.raises(KeyboardInterrupt):
        Python(tmp_path).prepare()
    for _ in range(2):
        chain = Python(tmp_path)
        chain.prepare()
        chain.prepare()
    assert made == [chain.cache] * 2
    monkeypatch.setattr(Python, "version", lambda self: "Python 9")
    other = Python(tmp_path)
    other.prepare()
    assert len(made) == 3 and other.cache != chain.cache


def test_a_cache_that_cannot_be_written_is_reported(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="set XDG_CACHE_HOME"):
        Python(tmp_path / "file" / "below").prepare()
    chain = Python(tmp_path)
    with pytest.raises(UserError, match=r"python: false fails on our own sources \(no message\)"):
        chain.run_tool(["false"], tmp_path)


def test_a_tool_that_is_gone_since_the_evaluation_began_is_no_verdict():
    with pytest.raises(RunFailure, match="is gone; install it again"):
        base.with_libraries(None)


NAMED = '[ "$GOTOOLCHAIN" = local ] || case "$0" in *rustc) echo root;; *) exit 2;; esac && printf "go \\344\\n"'


def test_tools_as_their_managers_install_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Links that lead to a manager are not the tool, and a folder's own `go.mod` chooses no other Go."""
    for name, leads in (("ccache", "g++"), ("snap", "node"), ("rustup", "rustc"), ("go", "")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{NAMED}\n")
        (tmp_path / name).chmod(0o755)
        if leads:
            (tmp_path / leads).symlink_to(tmp_path / name)
    monkeypatch.setenv("PATH", f"{tmp_path}:/nothing")
    found = {base.program_of(name) for name in ("g++", "node", "rustc")}
    assert found and all(path is None or path.parent != tmp_path for path in found)
    assert base.output_of(base.places_of("rustc")[0], "--print", "sysroot") == "root"
    assert multipl_e.PlainGo(tmp_path).version() == "go \N{REPLACEMENT CHARACTER}"
