"""The parts of the release script, and what the repository has to state for it. The script itself builds, checks and
tries everything, which takes ten minutes and a package index: its log is the test of that."""

import ast
import os
import re
import tarfile
from unittest.mock import create_autospec

import pytest
from conftest import ROOT, load_script

import ms_codegeex
from ms_codegeex.kernels import compiling, prebuilding

release = load_script("ascend_scripts/release.py")


def with_absolute_links(text, address):
    """The function of setup.py, which cannot be imported without building."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    (function,) = (node for node in tree.body if getattr(node, "name", "") == "with_absolute_links")
    names = {"re": re}
    code = compile(ast.Module([function], []), "setup.py", "exec")
    exec(code, names)
    return names["with_absolute_links"](text, address)


def test_links_of_the_long_description():
    text = "[a](docs/a.md#b) ![p](docs/p.png) [own](#x) [far](https://mindspore.cn) [m](mailto:a@b.c)"
    expected = "[a](A/docs/a.md#b) ![p](A/docs/p.png) [own](#x) [far](https://mindspore.cn) [m](mailto:a@b.c)"
    assert with_absolute_links(text, "A") == expected
    readme = with_absolute_links((ROOT / "README.md").read_text(), "https://h/blob/v1")
    targets = re.findall(r"\]\(([^)]+)\)", readme)
    assert len(targets) > 30 and all(target.startswith(("https://", "#")) for target in targets)
    for target in targets:
        if target.startswith("https://h/blob/v1/"):
            assert (ROOT / target.removeprefix("https://h/blob/v1/").partition("#")[0]).exists(), target


def test_an_sdist_has_the_same_bytes_wherever_it_was_packed(tmp_path):
    written = []
    for number, names in enumerate((["b", "a"], ["a", "b"])):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in names:
            (folder / name).write_text(name)
            os.utime(folder / name, (number, number))
        (folder / "a").chmod(0o755 if number else 0o700)
        with tarfile.open(folder / "p.tar.gz", "w:gz") as out:
            for name in names:
                out.add(folder / name, f"p/{name}")
        release.normalise(folder / "p.tar.gz", 1_700_000_000)
        written.append((folder / "p.tar.gz").read_bytes())
    assert written[0] == written[1]
    with tarfile.open(tmp_path / "0" / "p.tar.gz") as packed:
        assert [(one.name, one.mode, one.mtime) for one in packed] == [
            ("p/a", 0o755, 1_700_000_000),
            ("p/b", 0o644, 1_700_000_000),
        ]


def test_what_is_left_to_do_before_an_upload(tmp_path, monkeypatch):
    # git's status, which a release meets; `run` itself is met by the test of failures
    monkeypatch.setattr(release, "run", create_autospec(release.run, return_value=""))
    for name, text in {
        "pyproject.toml": 'Repository = "https://codes.example/x"\n',
        "CHANGELOG.md": "## [1.2.3] - Unreleased\n",
        "CITATION.cff": "cff-version: 1.2.0\nversion: 1.2.2\n",
    }.items():
        (tmp_path / name).write_text(text)
    points = list(release.open_points(tmp_path, "1.2.3"))
    assert [one.partition(":")[0] for one in points] == ["pyproject.toml", "CHANGELOG.md", "CITATION.cff"]
    (tmp_path / "pyproject.toml").write_text('Repository = "https://codes.org/x.example"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## [1.2.3] - 2026-12-01\n")
    (tmp_path / "CITATION.cff").write_text("cff-version: 1.2.0\nversion: 1.2.3\n")
    assert list(release.open_points(tmp_path, "1.2.3")) == []


def test_versions_agree():
    """The package's, the heading of the changelog and the citation; the tags of wheels and the targets of zig."""
    version = ms_codegeex.__version__
    assert f"\n## [{version}] - " in (ROOT / "CHANGELOG.md").read_text()
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    for machine, tag in release.PLATFORMS.items():
        libc = prebuilding.TARGETS[machine][0].partition("-linux-gnu.")[2]
        assert tag == f"manylinux_{libc.replace('.', '_')}_{machine}"
    assert release.PLATFORMS.keys() == prebuilding.TARGETS.keys()


def test_a_failure_says_what_failed(tmp_path):
    with pytest.raises(release.Failure, match=r"exit status 3\nwhy"):
        release.run("bash", "-c", "echo why >&2; exit 3", cwd=tmp_path)
    assert release.run("bash", "-c", "echo $A", cwd=tmp_path, A="b") == "b\n"
    assert release.interpreter("2.6") is None


def test_the_library_that_came_with_the_package_is_taken_and_only_that_of_these_sources(tmp_path, monkeypatch):
    for name in compiling.SOURCES:
        (tmp_path / name).write_text(name)
    file = compiling.prebuilt_file("x86_64", "avx2", tmp_path)
    assert file.parent == tmp_path / "prebuilt" and file.name.startswith("kernels_x86_64_avx2_")
    (tmp_path / compiling.SOURCES[-1]).write_text("changed")
    assert compiling.prebuilt_file("x86_64", "avx2", tmp_path) != file
    shipped = tmp_path / "shipped.so"
    monkeypatch.setattr(compiling, "prebuilt_file", lambda machine, level: shipped)
    monkeypatch.setattr(prebuilding, "prebuilt_file", lambda machine, level: shipped)
    monkeypatch.setattr(compiling, "cxx_compilers", list)
    assert compiling.library_path() is None and prebuilding.shipped_library() is None
    shipped.touch()
    assert compiling.library_path() == prebuilding.shipped_library() == shipped
