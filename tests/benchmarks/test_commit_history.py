"""Edits of a real git repository: what was typed, where, and which parts of other files were edited before."""

import json
import subprocess
import sys
import tracemalloc

import pytest
from conftest import ROOT
from git_repositories import commit, git, write_repository

from ms_codegeex.base.errors import UserError

sys.path.insert(0, str(ROOT / "benchmarks"))
import commit_history as history
from commit_history import Edit, Repository, chosen_edits, typed_at, window


def typed(old, new):
    """What was typed at each place, with the characters around it."""
    lines = old.splitlines(keepends=True), new.splitlines(keepends=True)
    found = [typed_at(*lines, place) for place in history.hunks(*lines)]
    return [each if each is None else (each[0][-8:], each[1], each[2][:8]) for each in found]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("a = 1\nc = 3\n", "a = 1\nb = 2\nc = 3\n", [("a = 1\n", "b = 2", "\nc = 3\n")]),
        ("if x:\n    pass\n", "if x:\n    run()\n    pass\n", [(" x:\n    ", "run()", "\n    pas")]),
        ("call(first)\n", "call(first, second)\n", [("ll(first", ", second", ")\n")]),
        ("value = reader\n", "value = reading\n", [("value = ", "reading", "\n")]),  # not from inside a word
        ("total = old_sum\n", "total = new_sum\n", [("total = ", "new_sum", "\n")]),
        ("first\nsame\nlast\n", "first one\nsame\nlast two\n", [None, None]),  # three letters each
        ("a\n" * 3, "a\n" * 2, [None]),  # nothing was typed
        ("a\n", "a\n" + "line\n" * 9, [None]),  # too many lines
        ("a\n", "a\n" + "x" * 401 + "\n", [None]),
        ("a\n", "a\n" + "line\n" * 8, [("a\n", "line\n" * 7 + "line", "\n")]),
    ],
)
def test_what_was_typed_between_two_states(old, new, expected):
    assert typed(old, new) == expected


@pytest.mark.parametrize("new", ["x = 1\ny = f(x, 2)\n\n\nz()\n", "y = f(x)\nmore\n", "", "é = 1\n", "x = 1\r\ny\n"])
def test_before_typed_and_after_are_the_new_text_where_edits_above_are_made(new):
    old = "x = 1\ny = f(x)\nz()\n"
    lines = old.splitlines(keepends=True), new.splitlines(keepends=True)
    places = history.hunks(*lines)
    for begin, end, new_begin, new_end in places:
        found = typed_at(*lines, (begin, end, new_begin, new_end))
        if found is not None:
            assert "".join(found) == "".join(lines[1][:new_end]) + "".join(lines[0][end:])


def test_the_window_is_that_of_our_extension():
    manifest = json.loads((ROOT / "editors" / "vscode" / "package.json").read_text(encoding="utf-8"))
    settings = manifest["contributes"]["configuration"]["properties"]
    sizes = (settings[f"msCodegeex.{name}Characters"]["default"] for name in ("prefix", "suffix"))
    assert tuple(sizes) == (history.BEFORE, history.AFTER)
    before, after = window("line of text\n" * 1000, "more\n" * 1000)
    assert before.startswith("line") and 4000 - 13 <= len(before) <= 4000 and len(after) == 1000
    assert window("short", "text") == ("short", "text")


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    return write_repository(tmp_path_factory.mktemp("repository"))


def test_edits_of_a_history(repository):
    edits = {(each.path, each.typed): each for each in chosen_edits(Repository(repository), 100, 100, 0)}
    assert set(edits) == {
        ("shapes.py", "def area(width, height):\n    return width * height"),
        ("main.py", "from shapes import area"),
        ("main.py", "area(2, 3)"),
        ("util.go", "return a + b"),
    }
    main = edits["main.py", "area(2, 3)"]
    assert main.before == "from shapes import area\n\nprint(" and main.after == ")\n" and main.language == "Python"
    assert len(main.others) == 1 and "def area(width, height):" in main.others[0]


def test_edits_are_a_function_of_the_history_and_the_seed(repository):
    def chosen(**changes):
        return list(chosen_edits(Repository(repository), **{"commits": 100, "count": 3, "seed": 1, **changes}))

    assert chosen() == chosen() and len(chosen()) == 3
    assert {tuple(each.typed for each in chosen(seed=seed)) for seed in range(8)} != {tuple(e.typed for e in chosen())}
    assert [each.typed for each in chosen(commits=1, count=9)] == ["return a + b"]


def test_other_files_are_those_edited_before(repository):
    """The newest last; within a commit in the order of their paths."""
    edits = {(each.path, each.typed[:4]): each.others for each in chosen_edits(Repository(repository), 100, 100, 0)}
    assert edits["main.py", "from"] == () and len(edits["shapes.py", "def "]) == 1
    assert edits["shapes.py", "def "][0].startswith("from shapes import area")
    shapes, main = edits["util.go", "retu"]
    assert shapes.startswith("class Shape:") and main.startswith("from shapes") and "area(2, 3)" in main


@pytest.mark.parametrize(
    ("before", "typed", "after", "parts", "expected"),
    [
        ("x = 1\n", "area(x, 2)", "\n", ("def area(a, b):\n",), True),
        ("from shapes import area\n", "area(2, 3)", "\n", ("def area(a, b):\n",), False),  # the window has the name
        ("x = 1\n", "area(x, 2)", "\n# area", ("def area(a, b):\n",), False),
        ("x = 1\n", "area(x, 2)", "\n", ("def areas(a, b):\n",), False),  # a part of another name
        ("x = 1\n", "return x", "\n", ("return 1\n",), False),  # a keyword
        ("x = 1\n", "print(self.x)", "\n", ("print(self.y)\n",), False),
        ("x = 1\n", "area(x, 2)", "\n", (), False),
    ],
)
def test_edits_that_use_a_name_of_another_file(before, typed, after, parts, expected):
    assert Edit("1" * 40, "a.py", "Python", before, typed, after, parts).cross_file is expected


def test_only_edits_that_use_other_files(tmp_path):
    git(tmp_path, "init", "--quiet")
    commit(tmp_path, {"main.py": b"print(1)\n", "shapes.py": b"\n", "other.py": b"\n"})
    commit(tmp_path, {"shapes.py": b"def area(width):\n    return width\n", "other.py": b"value = 1\n"})
    commit(tmp_path, {"main.py": b"print(1)\nprint(area(2))\n"})

    def chosen(**more):
        return sorted(each.typed for each in chosen_edits(Repository(tmp_path), 100, 9, 0, **more))

    assert chosen() == ["def area(width):\n    return width", "print(area(2))", "value = 1"]
    assert chosen(cross_file=True) == ["print(area(2))"]


def test_nothing_of_the_repositorys_configuration_is_run(repository, monkeypatch, tmp_path):
    seen = tmp_path / "seen"
    script = tmp_path / "run.sh"
    script.write_text(f"#!/bin/sh\ntouch {seen}\ncat\n")
    script.chmod(0o755)
    for name in ("core.fsmonitor", "diff.external", "core.pager", "core.sshCommand"):
        subprocess.run(["git", "-C", str(repository), "config", name, str(script)], check=True)
    monkeypatch.setenv("GIT_DIR", str(tmp_path))  # as in a hook
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", str(script))
    assert len(list(chosen_edits(Repository(repository), 100, 100, 0))) == 4 and not seen.exists()


def test_files_that_are_no_texts_are_left_out(tmp_path):
    place = write_repository(tmp_path)
    for number in range(2):
        files = {"data.py": b"\0 number" * (number + 1), "wrong.py": b"name = '\xff%d'\n" % number}
        for code in (0x0D, 0x0C, 0x2028):
            lines = [*(f"x{line} = 1" for line in range(3500)), f"total = {number}{number}{number}{number}"]
            files[f"long{code}.py"] = chr(code).join(lines).encode()
        commit(place, {**files, "long.py": b"x = 1\n" * (4000 + number), "page.md": b"Some more text\n" * (number + 1)})
    assert {each.path for each in chosen_edits(Repository(place), 100, 100, 0)} == {"shapes.py", "main.py", "util.go"}


@pytest.fixture
def partial_clone(repository, tmp_path):
    """A clone without contents of files."""
    git(repository, "config", "uploadpack.allowFilter", "true")
    place = tmp_path / "partial.git"
    git(tmp_path, "clone", "--quiet", "--bare", "--filter=blob:none", repository.as_uri(), str(place))
    return place


def test_contents_that_a_partial_clone_lacks_are_left_out(partial_clone):
    found = Repository(partial_clone)
    edits = found.file_edits(100)
    assert len(edits) == 4 and list(chosen_edits(found, 100, 100, 0)) == []
    (util,) = [each for each in edits if each.path == "util.go"]
    other = next(each for each in edits if each.path == "main.py")
    for name in (util.old, util.new):
        git(partial_clone, "cat-file", "blob", name)  # git fetches it
    old, missing, new = found.texts([util.old, other.old, util.new])
    assert old == "func add(a int, b int) int {\n}\n" and missing is None and "return a + b" in new
    (edit,) = chosen_edits(found, 100, 100, 0)
    assert edit.path == "util.go" and edit.others == ()


def test_an_older_git_fetches_nothing_either(partial_clone, tmp_path):
    """One that does not know GIT_NO_LAZY_FETCH."""
    script, seen = tmp_path / "ssh.sh", tmp_path / "seen"
    script.write_text(f"#!/bin/sh\ntouch {seen}\nexit 1\n")
    script.chmod(0o755)
    for name, value in (("core.sshCommand", script), ("remote.origin.url", "ssh://nowhere.example/a")):
        git(partial_clone, "config", name, str(value))
    found = Repository(partial_clone)
    del found._environment["GIT_NO_LAZY_FETCH"]
    assert list(chosen_edits(found, 100, 100, 0)) == [] and not seen.exists()


def test_a_content_that_is_too_long_is_not_read(repository):
    zeros = subprocess.run(
        ["git", "-C", str(repository), "hash-object", "-w", "--stdin"], input=bytes(20 << 20), capture_output=True
    )
    found = Repository(repository)
    edit = found.file_edits(1)[0]
    tracemalloc.start()
    try:
        texts = found.texts([edit.old, zeros.stdout.decode().strip(), "0" * 40, edit.new])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [text is None for text in texts] == [False, True, True, False] and "return a + b" in texts[3]
    assert peak < 2 << 20


def test_files_of_equal_lines_are_left_out(tmp_path):
    """To compare these takes half a minute."""
    place = write_repository(tmp_path)
    for number in range(2):
        lines = "".join(f"x = {line % 8}\n" for line in range(1600 + number))
        commit(place, {"same.py": f"{lines}total = {number}{number}{number}{number}\n".encode()})
    commit(place, {"util.go": b"func add(a int, b int) int {\n\treturn b + a\n}\n"})
    edits = list(chosen_edits(Repository(place), 100, 100, 0))
    assert {each.path for each in edits} == {"shapes.py", "main.py", "util.go"}
    assert not any("x = 1\nx = 2" in part for each in edits for part in each.others)


def test_what_is_no_repository_is_refused(repository, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="is not a directory"):
        Repository(tmp_path / "none")
    with pytest.raises(UserError, match="cannot be read as a git repository"):
        Repository(tmp_path).file_edits(10)
    inside = repository / "directory"
    inside.mkdir()
    with pytest.raises(UserError, match="not a git repository"):
        Repository(inside).file_edits(10)
    monkeypatch.setattr(history.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="reading a repository needs git"):
        Repository(tmp_path)
