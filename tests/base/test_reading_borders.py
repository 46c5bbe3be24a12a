"""Files of a hostile directory: what is opened, and what is refused without waiting."""

import os
import socket
import sys

import pytest

from ms_codegeex.base import reading
from ms_codegeex.base.errors import UserError
from ms_codegeex.base.reading import given_text, open_inside, read_inside, read_regular, read_stream

SECRET = b"-----BEGIN OPENSSH PRIVATE KEY-----"


@pytest.fixture
def place(tmp_path):
    """A directory `model` with a file in a folder, next to a secret."""
    (tmp_path / "model/folder").mkdir(parents=True)
    (tmp_path / "model/folder/file").write_bytes(b"inside")
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/vocab.json").write_bytes(SECRET)
    return tmp_path


def link(path, target):
    path.symlink_to(target)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("../secret", "is a link to .*/secret, outside .*/model; replace it with a copy"),
        ("{}/secret", "is a link to .*/secret, outside"),
        ("/proc/self/environ", "is a link to /proc/.*/environ, outside"),
        ("/proc/self/fd/0", "outside"),
        ("/dev/zero", "is a link to /dev/zero, outside"),
        ("chain", "is a link to .*/secret, outside"),
        ("../outside", "is a link to .*/outside, outside"),
        ("out/vocab.json", "is a link to .*/outside/vocab.json, outside"),
        ("../model-2/file", "outside"),
        ("../model/../secret", "is a link to .*/secret, outside"),
        ("nowhere", "No such file"),
        ("../nowhere", "outside"),
        ("vocab.json", "is a link that leads to itself"),
        ("folder", "is a directory, expected a regular file"),
        (".", "outside"),
        ("pipe", "is a pipe, expected a regular file"),
        ("socket", "is a socket, expected a regular file"),
    ],
)
def test_links_out_of_a_directory_and_special_files_are_refused(place, monkeypatch, target, message):
    model = place / "model"
    link(model / "chain", "folder/second")
    link(model / "folder/second", "../../secret")
    link(model / "out", "../outside")
    os.mkfifo(model / "pipe")
    (place / "model-2").mkdir()
    (place / "model-2/file").write_bytes(SECRET)
    with socket.socket(socket.AF_UNIX) as listening:
        with monkeypatch.context() as patch:
            patch.chdir(model)  # a socket's name has at most 107 bytes, and this one's path may have more
            listening.bind("socket")
        link(model / "vocab.json", target.format(place))
        with pytest.raises(UserError, match=message) as found:
            read_inside(model, "vocab.json", 1 << 20)
    assert "model/vocab.json" in str(found.value)


def test_links_inside_a_directory_are_followed(place):
    model = place / "model"
    link(model / "a", "folder/file")
    link(model / "b", model / "a")
    link(model / "through", "folder")
    link(model / "c", "through/file")
    link(place / "named", "model")
    for directory in (model, place / "named"):
        for name in ("a", "b", "c"):
            assert read_inside(directory, name, 6) == b"inside"
    with pytest.raises(UserError, match="is larger than 5 bytes"):
        read_inside(model, "a", 5)


def test_a_snapshot_of_the_hubs_cache_reads_its_own_blobs(place):
    cache = place / "hub/models--owner--code"
    (cache / "blobs").mkdir(parents=True)
    (cache / "blobs/0a").write_bytes(b"blob")
    (place / "hub/models--other--code/blobs").mkdir(parents=True)
    (place / "hub/models--other--code/blobs/0b").write_bytes(SECRET)
    link(cache / "blobs/0c", place / "secret")
    shot = cache / "snapshots/1f"
    (shot / "folder").mkdir(parents=True)
    link(shot / "vocab.json", "../../blobs/0a")
    link(shot / "folder/file", "../../../blobs/0a")
    assert read_inside(shot, "vocab.json", 9) == read_inside(shot, "folder/file", 9) == b"blob"
    link(place / "named", shot)
    assert read_inside(place / "named", "vocab.json", 9) == b"blob"
    for number, target in enumerate(("../../../models--other--code/blobs/0b", "../../blobs/0c", "../../../../secret")):
        link(shot / f"trap{number}", target)
        with pytest.raises(UserError, match="outside"):
            open_inside(shot, f"trap{number}")
    trap = place / "hub/models--owner--trap"
    (trap / "snapshots/1f").mkdir(parents=True)
    link(trap / "blobs", place / "outside")
    link(trap / "snapshots/1f/vocab.json", "../../blobs/vocab.json")
    with pytest.raises(UserError, match="outside"):
        open_inside(trap / "snapshots/1f", "vocab.json")


@pytest.mark.parametrize("exchanged", ["folder/file", "folder"])
def test_a_link_that_is_exchanged_after_the_check_is_not_followed(place, monkeypatch, exchanged):
    model, walk = place / "model", reading._walk
    (place / "outside/file").write_bytes(SECRET)

    def late(base, parts, path):
        """As `_walk`, which the other tests run, but an attacker comes first."""
        (model / exchanged).rename(place / "away")
        link(model / exchanged, place / ("secret" if exchanged.endswith("file") else "outside"))
        return walk(base, parts, path)

    monkeypatch.setattr(reading, "_walk", late)
    with pytest.raises(UserError, match=r"exchanged for a link|is a link that .* changed meanwhile"):
        read_inside(model, "folder/file", 1 << 20)


def test_only_regular_files_up_to_a_size_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path / "pipe", "a pipe"), ("/dev/zero", "a device"), (tmp_path, "a directory")):
        with pytest.raises(UserError, match=f"{path}: is {kind}, expected a regular file"):
            read_regular(path, 9)
    with open(tmp_path / "sparse", "wb") as sparse:
        sparse.truncate(1 << 40)
    with pytest.raises(UserError, match="larger than 9 bytes"):
        read_regular(tmp_path / "sparse", 9)


def test_a_pipe_that_the_user_names_is_read(tmp_path):
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as stream:
        stream.write(b"seed: 3")
    assert read_stream(f"/dev/fd/{reader}", 9) == b"seed: 3"
    os.close(reader)
    with pytest.raises(UserError, match="is a device"):
        read_stream("/dev/zero", 9)


def test_a_given_text_has_no_byte_order_mark_and_a_closed_stream_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "prompt").write_bytes(b"\xef\xbb\xbfdef f():\r\n")
    assert given_text(str(tmp_path / "prompt"), "--prompt") == "def f():\n"
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UserError, match="--prompt: standard input is closed; give a file"):
        given_text("-", "--prompt")
