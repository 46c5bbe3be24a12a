import errno
import itertools
import os
import random
import socket
import subprocess
import sysconfig
from pathlib import Path

import pytest

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.corpus.sources import Root, default_roots, sample, search, user_roots
from ms_codegeex.extras.corpus.tally import BY_NAME

ALL = ("Python", "C", "C++", "Shell")
GOOD = b"def function(argument):\n    return argument\n"


def put(path, data=GOOD):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def skipped(found):
    """Identity and reason of what is not read for another reason than its name."""
    return [(it.source, it.reason) for it in found.others if it.reason not in BY_NAME]


def identities(roots, languages=ALL):
    return [file.identity for file in search(roots, languages).sources]


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "project"
    for name in ("top.py", "b/two.py", "b/deep/three.py", "a/one.c", "a/notes.txt", ".git/x.py", "a/__pycache__/x.py"):
        put(root / name)
    put(root / "run", b"#!/bin/sh\nls\n")
    put(root / "b/node_modules/x/y.py")
    return root


def test_search(tree):
    found = search(user_roots([tree]), ALL)
    files = found.sources
    assert [(file.identity, file.package, file.language) for file in files] == [
        ("project/a/one.c", "project/a", "C"),
        ("project/b/deep/three.py", "project/b", "Python"),
        ("project/b/two.py", "project/b", "Python"),
        ("project/run", "project", "Shell"),
        ("project/top.py", "project", "Python"),
    ]
    assert files[0].size == len(GOOD)
    assert [(it.source, it.reason, it.detail, it.count) for it in found.others] == [
        ("project/.git", "hidden directory", "", 1),
        ("project/a/__pycache__", "__pycache__", "", 1),
        ("project/a/notes.txt", "unknown language", ".txt", 1),
        ("project/b/node_modules", "node_modules", "", 1),
    ]
    assert identities(user_roots([tree]), ["C"]) == ["project/a/one.c"]


def test_listing_order_does_not_matter(tree, monkeypatch):
    expected, scandir = identities(user_roots([tree])), os.scandir

    class Shuffled(list):
        def __init__(self, path):
            with scandir(path) as entries:
                super().__init__(random.Random(5).sample(found := list(entries), len(found)))

        def __next__(self):
            if not self:
                raise StopIteration
            return self.pop()

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", Shuffled)
    assert identities(user_roots([tree])) == expected


def test_links_and_special_files_are_reported(tree, monkeypatch):
    (tree / "loop").symlink_to(tree)
    (tree / "b/up").symlink_to("..")
    (tree / "link.py").symlink_to(tree / "top.py")
    (tree / "self.py").symlink_to("self.py")
    (tree / "nowhere.jsonl").symlink_to("absent")
    (tree / "notes.txt").symlink_to(tree / "top.py")  # nothing that would have been read
    os.mkfifo(tree / "pipe.py")
    os.mkfifo(tree / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as server, monkeypatch.context() as patch:
        patch.chdir(tree)  # the name of a socket may have 108 bytes
        server.bind("socket.gz")
    (tree / "socket.gz").rename(tree / "socket.jsonl.gz")
    found = search(user_roots([tree]), ALL)
    assert len(found.sources) == 5 and not found.archives
    assert skipped(found)[3:] == [
        ("project/b/up", "symbolic link"),
        ("project/link.py", "symbolic link"),
        ("project/loop", "symbolic link"),
        ("project/notes.txt", "symbolic link"),
        ("project/nowhere.jsonl", "symbolic link"),
        ("project/pipe.py", "not a regular file"),
        ("project/pipe.txt", "not a regular file"),
        ("project/self.py", "symbolic link"),
        ("project/socket.jsonl.gz", "not a regular file"),
    ]


def test_the_order_of_the_inputs_does_not_matter(tmp_path):
    given = [tmp_path / "t" / name for name in ("a/src", "b/src", "b/src/src", "c/b-src", "d")]
    for path in given:
        put(path / "x.py")
    labels = {root.path: root.label for root in user_roots(given)}
    assert list(labels.values()) == ["a-src", "t-b-src", "src-src", "c-b-src", "d"]
    for order in itertools.permutations(given):
        assert {root.path: root.label for root in user_roots(order)} == labels


def test_links_of_a_hugging_face_cache_are_followed(tmp_path):
    cache = tmp_path / "hub/datasets--owner--code"
    put(cache / "blobs/0a1b", b"{}")
    put(cache / "blobs/2c3d")
    put(tmp_path / "elsewhere", b"{}")
    shot = cache / "snapshots/5e6f"
    (shot / "data").mkdir(parents=True)
    (shot / "data/part.jsonl").symlink_to("../../../blobs/0a1b")
    (shot / "tool.py").symlink_to("../../blobs/2c3d")
    (shot / "foreign.jsonl").symlink_to(tmp_path / "elsewhere")
    found = search(user_roots([shot]), ALL)
    assert [file.identity for file in found.archives] == ["5e6f/data/part.jsonl"]
    assert [file.identity for file in found.sources] == ["5e6f/tool.py"] and found.sources[0].size == len(GOOD)
    assert skipped(found) == [("5e6f/foreign.jsonl", "symbolic link")]
    other = tmp_path / "hub/datasets--owner--trap"
    (other / "snapshots/7a").mkdir(parents=True)
    put(tmp_path / "private/secret.py")
    (other / "blobs").symlink_to(tmp_path / "private")
    (other / "snapshots/7a/x.py").symlink_to("../../blobs/secret.py")
    assert search(user_roots([other]), ALL).sources == []
    (tmp_path / "named.jsonl").symlink_to(cache / "blobs/0a1b")
    for given in ("data/part.jsonl", tmp_path / "named.jsonl"):
        (archive,) = search(user_roots([shot / given]), ALL).archives
        assert archive.path == shot / given


def test_archives(tmp_path):
    names = ("a.jsonl", "b.jsonl.gz", "c.JSONL.zst", "d.json.gz", "e/f.parquet", "g.json", "h.py.gz", "i.gz", "jsonl")
    put(tmp_path / "x/k.jsonl/l.py")  # a directory that is called like one
    for name in names:
        put(tmp_path / "x" / name)
    found = search(user_roots([tmp_path / "x"]), ALL)
    assert [file.identity for file in found.archives] == [f"x/{name}" for name in sorted(names[:5])]
    assert [file.identity for file in found.sources] == ["x/k.jsonl/l.py"] and found.archives[0].size == len(GOOD)
    assert found.archives[0].modified == (tmp_path / "x/a.jsonl").stat().st_mtime_ns
    assert search([Root(tmp_path / "x", "x", installed=True)], ALL).archives == []
    assert [file.identity for file in search(user_roots([tmp_path / "x/a.jsonl"]), ALL).archives] == ["x/a.jsonl"]


def test_all_text(tmp_path):
    for name in ("a.py", "b.java", "c.md", "d", "e.jsonl", ".hidden"):
        put(tmp_path / "x" / name)
    for languages, taken in {
        ("Python",): {"a.py": "Python", "c.md": "", "d": "", ".hidden": ""},
        ("Python", "Markdown"): {"a.py": "Python", "c.md": "Markdown", "d": "", ".hidden": ""},
    }.items():
        found = search(user_roots([tmp_path / "x"]), languages, all_text=True)
        assert {file.identity[2:]: file.language for file in found.sources} == taken
        assert search(user_roots([tmp_path / "x"]), ["Python"]).sources == found.sources[1:2]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(tree):
    (tree / "b/deep").chmod(0)
    (tree / "run").chmod(0)  # has no ending, so its first line would decide
    try:
        found = search(user_roots([tree]), ALL)
    finally:
        (tree / "b/deep").chmod(0o755)
    assert skipped(found)[2:] == [
        ("project/b/deep", "unreadable"),
        ("project/b/node_modules", "node_modules"),
        ("project/run", "unreadable"),
    ]
    assert len(found.sources) == 3


def test_what_disappears_meanwhile(tree, monkeypatch):
    scandir, gone = os.scandir, FileNotFoundError(errno.ENOENT, "gone", str(tree / "b/deep"))

    def vanishing(folder):
        if Path(folder).name == "deep":
            raise gone
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", vanishing)
    found = search(user_roots([tree]), ALL)
    assert ("project/b/deep", "unreadable") in skipped(found) and len(found.sources) == 4


def test_a_file_counts_once(tree):
    assert identities(user_roots([tree, tree / "b", tree / "top.py"])) == identities(user_roots([tree]))


def test_names_that_are_not_utf8(tmp_path):
    folder = os.fsencode(tmp_path)
    try:
        with open(folder + b"/\xff.py", "wb") as stream:
            stream.write(GOOD)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    [file] = search(user_roots([tmp_path]), ALL).sources
    assert file.identity.endswith("/\ufffd.py") and file.path.read_bytes() == GOOD
    file.identity.encode()


def test_missing_input(tmp_path):
    with pytest.raises(UserError, match="absent: no such file or directory"):
        user_roots([tmp_path / "absent"])


def test_default_roots_are_the_interpreters_libraries(monkeypatch, tmp_path):
    roots = {root.label: root for root in default_roots()}
    assert roots["stdlib"].path == Path(sysconfig.get_path("stdlib")).resolve()
    assert roots["site-packages"].path == Path(sysconfig.get_path("purelib")).resolve()
    library = tmp_path / "python3"
    for name in ("json/decoder.py", "abc.py", "site-packages/numpy/core.py", "site-packages/six.py"):
        put(library / name)
    put(library / "site-packages/ziglang/lib/libc/stdio.h")  # there or not, the corpus is the same
    places = [Root(library, "stdlib", True), Root(library / "site-packages", "site-packages", True)]
    files = search(places, ALL).sources
    assert {file.identity: file.package for file in files} == {
        "stdlib/json/decoder.py": "stdlib/json",
        "stdlib/abc.py": "stdlib/abc",
        "site-packages/numpy/core.py": "site-packages/numpy",
        "site-packages/six.py": "site-packages/six",
    }
    own = search(user_roots([library / "site-packages"]), ALL).sources
    assert "site-packages/ziglang/lib/libc/stdio.h" in {file.identity for file in own}


def test_sample(tmp_path):
    for number in range(40):
        put(tmp_path / f"p{number % 5}/m{number}.py", b"#" * 100)
    files = search(user_roots([tmp_path]), ALL).sources
    chosen = sample(files, 1050, seed=1)
    assert len(chosen) == 10 and chosen == [file for file in files if file in chosen]
    assert sample(files[::-1], 1050, seed=1) == chosen[::-1]
    assert set(sample(files, 2000, seed=1)) > set(chosen)
    assert sample(files, 1050, seed=2) != chosen and sample(files, 10**6, seed=1) == files


def test_directories_may_be_deep(tmp_path):
    """Deeper than Python's limit of recursion."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=descriptor)
        inner = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(os.open("a.py", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor))
    os.close(descriptor)
    (identity,) = identities(user_roots([tmp_path]))
    assert identity.endswith("/d/a.py")
    subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)  # pytest removes directories recursively


@pytest.mark.parametrize(
    "marks, files, units",
    [
        # the first directory in which files differ
        ("", "a/b/c/x.py a/b/d/e/y.py a/b/z.py", "in/a/b/c in/a/b/d in/a/b"),
        # repositories, whatever is in them
        ("g/o/r/.git/HEAD g/o/r/sub/.git g/o/r/lib/setup.py", "g/o/r/sub/x.py g/p/q/y.py", "in/g/o/r in/g/p"),
        # packages, the outermost; metadata of the only input are of no use
        (
            "pyproject.toml js/one/package.json js/one/in/package.json",
            "js/one/in/x.py js/two/y.py",
            "in/js/one in/js/two",
        ),
        ("a/x/go.mod a/y/debian/copyright a/LICENSE", "a/x/p/m.py a/y/m.py b/m.py", "in/a/x in/a/y in/b"),
        # packages that are installed side by side
        (
            "lib/one-1.0.dist-info/METADATA",
            "lib/one/x.py lib/two/y.py lib/six.py z.py",
            "in/lib/one in/lib/two in/lib/six in",
        ),
    ],
)
def test_units_of_the_split(tmp_path, marks, files, units):
    for name in (*marks.split(), *files.split()):
        put(tmp_path / "in" / name)
    found = {file.identity: file.package for file in search(user_roots([tmp_path / "in"]), ["Python"]).sources}
    assert [found[f"in/{name}"] for name in files.split()] == units.split()


def test_each_of_several_repositories_is_a_unit(tmp_path):
    for name in ("one/.git/HEAD", "one/a/x.py", "one/b/x.py", "two/Cargo.toml", "two/c/x.py", "three/e/x.py"):
        put(tmp_path / name)
    found = search(user_roots([tmp_path / name for name in ("one", "two", "three")]), ["Python"]).sources
    assert {file.package for file in found} == {"one", "two", "three/e"}


def test_a_file_that_its_directory_passes_over_is_read_where_it_is_given_by_name(tmp_path):
    put(tmp_path / "in/x.json", b'{"size": 3}')
    found = search(user_roots([tmp_path / "in", tmp_path / "in/x.json"]), ALL, recognise=lambda record: False)
    assert [file.identity for file in found.archives] == ["in/x.json"] and not found.others
