"""The file of API keys, and limits by key."""

import hashlib
import os
import subprocess

import pytest
from fake_backend import key_file

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.serving.admission import Limits
from ms_codegeex.extras.serving.keys import MAXIMUM, Keys, read_keys

KEY, OTHER = "0123456789abcdef", "fedcba9876543210-_.~"


def test_plain_and_hashed_keys_have_names_and_limits(tmp_path):
    digest = subprocess.run(["sha256sum"], input=OTHER.encode(), capture_output=True, check=True).stdout.split()[0]
    text = f"# ours\n\n{KEY}\nci sha256:{digest.decode().upper()} concurrent=2 requests-per-minute=60\n"
    keys = Keys(key_file(tmp_path / "keys", text))
    assert keys.find(KEY).name == "key-1" and keys.find(KEY).concurrent is None
    found = keys.find(OTHER)
    assert (found.name, found.concurrent, found.requests_per_minute) == ("ci", 2, 60)
    for wrong in ("", KEY[:-1], f"{KEY}0", KEY.upper(), f"sha256:{digest.decode()}", "é" * 16, "\udc80", OTHER * 1000):
        assert keys.find(wrong) is None


def test_no_key_stays_in_memory(tmp_path):
    keys = Keys(key_file(tmp_path / "keys", f"me {KEY}\n"))
    assert KEY not in repr(vars(keys)) + repr(keys._keys)
    assert keys._keys[0].digest == hashlib.sha256(KEY.encode()).digest()


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [
        ("", 0o600, "holds no key"),
        ("# nothing\n", 0o600, "holds no key"),
        ("short\n", 0o600, "line 1: a key has 16 or more"),
        (f"# a\nme {KEY} what\n", 0o600, "line 2: 3 words"),
        (f"m/e {KEY}\n", 0o600, "the name is not made of"),
        (f"me {KEY} concurrent=0\n", 0o600, "concurrent is not a whole number"),
        (f"me {KEY} concurrent={'9' * 5000}\n", 0o600, "concurrent is not a whole number"),
        (f"me {KEY} concurrent={'0' * 5000}\n", 0o600, "concurrent is not a whole number"),
        (f"me {KEY} concurrent=1e9\n", 0o600, "concurrent is not a whole number"),
        ("me sha256:12\n", 0o600, "64 hexadecimal digits"),
        (f"me {KEY}é\n", 0o600, "visible ASCII"),
        (f"me {KEY}\nme {OTHER}\n", 0o600, "a name occurs twice"),
        (f"me {KEY}\nyou {KEY}\n", 0o600, "a key occurs twice"),
        (f"me {KEY}\n", 0o644, "can read it; run `chmod 600`"),
        (f"me sha256:{'0' * 64}\n", 0o666, "can change it"),
        (f"me {KEY}\n", 0o620, "can change it"),
    ],
)
def test_an_unsound_file_is_refused_without_showing_keys(tmp_path, text, mode, message):
    with pytest.raises(UserError, match=message) as caught:
        read_keys(key_file(tmp_path / "keys", text, mode))
    assert KEY not in str(caught.value) and "short" not in str(caught.value).replace(str(tmp_path), "")


@pytest.mark.parametrize(("text", "mode"), [(f"{KEY}\n", 0o640), (f"me sha256:{'0' * 64}\n", 0o644)])
def test_a_group_may_read_and_everybody_may_read_hashes(tmp_path, text, mode):
    assert len(read_keys(key_file(tmp_path / "keys", text, mode))) == 1


def test_unreadable_files_are_refused(tmp_path):
    (tmp_path / "binary").write_bytes(os.urandom(64) + b"\xff")
    os.mkfifo(tmp_path / "fifo")
    key_file(tmp_path / "long", f"{KEY}\n" + "#\n" * MAXIMUM)
    wrong = {"none": "no such file", ".": "is a directory", "binary": "cannot be read", "fifo": "is a pipe"}
    for path, words in (wrong | {"long": "is larger than 1,048,576 bytes", "/dev/zero": "is a device"}).items():
        with pytest.raises(UserError, match=f"^--api-key-file: .*{words}"):
            Keys(tmp_path / path)


def test_a_file_of_another_user_is_refused(tmp_path, monkeypatch):
    path = key_file(tmp_path / "keys", f"{KEY}\n")
    if os.geteuid() == 0:
        assert len(read_keys(path)) == 1
        os.chown(path, 4321, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    with pytest.raises(UserError, match="who can change it; run `chown 1234`"):
        read_keys(path)


def test_a_reload_replaces_the_keys_and_a_bad_one_keeps_them(tmp_path):
    path = key_file(tmp_path / "keys", f"me {KEY}\n")
    keys = Keys(path)
    path.write_text(f"me {OTHER}\n")
    assert keys.find(KEY) is not None
    keys.reload()
    assert keys.find(KEY) is None and keys.find(OTHER).name == "me"
    path.write_text("oh\n")
    with pytest.raises(UserError):
        keys.reload()
    assert keys.find(OTHER).name == "me"


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def test_a_minute_holds_so_many_requests():
    """Against a simulation: the burst at once, then one each 20 s."""
    clock = Clock()
    limits, admitted = Limits(clock), []
    for second in range(0, 200, 5):
        clock.now = 1000.0 + second
        if not limits.enter("me", 3):
            admitted.append(second)
    assert admitted == [0, 5, 10, 20, 40, 60, 80, 100, 120, 140, 160, 180]


def test_a_refused_request_succeeds_after_the_time_that_it_was_told():
    clock = Clock()
    limits = Limits(clock)
    while not (wait := limits.enter("me", 7)):
        pass
    clock.now += wait - 1
    assert limits.enter("me", 7)
    clock.now += 1
    assert not limits.enter("me", 7)


def test_each_caller_has_its_own_minute():
    limits = Limits(Clock())
    assert [limits.enter("me", 2) for _ in range(3)] == [0, 0, 30]
    assert limits.enter("you", 2) == 0
