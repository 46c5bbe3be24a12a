"""Corpora under URLs: in fsspec's file system in memory, and in an object store that really runs (moto's server)."""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import fsspec
import pytest
import zstandard
from fsspec.registry import _registry as registered
from prepare_inputs import source, write_mixed

from ms_codegeex.base.errors import UserError
from ms_codegeex.cli import main
from ms_codegeex.data.datasets.layout import DATA_FILES, TABLES
from ms_codegeex.extras.corpus.prepare import RunOptions, prepare_dataset, prepare_remote
from ms_codegeex.extras.corpus.settings import PrepareSettings
from ms_codegeex.extras.shared import remote
from ms_codegeex.extras.shared.remote import RemotePath, list_files, parse_location

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = PrepareSettings(max_bytes=None, near_duplicates=0.85)
SAME = (*DATA_FILES, *TABLES, "report.json")


def prepare(inputs, output, **options):
    return prepare_dataset(inputs, output, SETTINGS, RunOptions(workers=1, progress=False, **options))


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """An input of every kind, with folders that are not searched, and the dataset made from it on disk."""
    root = tmp_path_factory.mktemp("remote")
    write_mixed(root / "stack")
    lines = [json.dumps({"text": source(900 + number), "lang": "python"}) for number in range(9)]
    (root / "stack" / "more.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress("\n".join(lines).encode()))
    for name in (".hidden/a.py", "node_modules/b/c.py", ".git/d.py", "tree/tool"):
        (root / "stack" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "stack" / name).write_text("#!/usr/bin/env python3\n" + source(len(name)))
    prepare([root / "stack"], root / "local")
    return root


def files_of(directory):
    return {name: (directory / name).read_bytes() for name in SAME}


@pytest.fixture
def memory(here):
    """The input in fsspec's file system in memory, which holds nothing else."""
    store = fsspec.filesystem("memory")
    store.store.clear()
    for path in (here / "stack").rglob("*"):
        if path.is_file():
            store.pipe(f"/bucket/stack/{path.relative_to(here / 'stack')}", path.read_bytes())
    yield store
    store.store.clear()


@pytest.fixture
def no_pauses(monkeypatch):
    monkeypatch.setattr(remote, "PAUSES", (0, 0))


def test_the_dataset_is_that_of_the_same_files_on_the_disk(here, memory, tmp_path):
    made = prepare([parse_location("memory://bucket/stack")], tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(here / "local")
    assert made["sources"] == [{"path": "memory://bucket/stack", "label": "stack"}]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {*report["unread"]} >= {"hidden directory", "node_modules"}


def test_one_file_under_a_url_and_a_path(here, memory, tmp_path):
    prepare([here / "stack" / "dump.jsonl", here / "stack" / "tree"], tmp_path / "a")
    prepare(["memory://bucket/stack/dump.jsonl", here / "stack" / "tree"], tmp_path / "b")
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_a_changed_file_has_another_version(memory):
    before = list_files(RemotePath("memory://bucket/stack"))
    memory.pipe("/bucket/stack/dump.jsonl", memory.cat("/bucket/stack/dump.jsonl"))
    after = list_files(RemotePath("memory://bucket/stack"))
    changed = {str(path) for (path, _, version), (_, _, other) in zip(before, after, strict=True) if version != other}
    assert changed == {"memory://bucket/stack/dump.jsonl"} and len(before) == len(after) == 38


def test_the_ends_of_a_range_are_given_by_name(memory, monkeypatch):
    """s3fs has a version in second place, as `TestObjectStore` meets it."""
    real = memory.cat_file

    def of_s3fs(_, path, version_id=None, start=None, end=None):
        assert version_id is None
        return real(path, start=start, end=end)

    monkeypatch.setattr(type(memory), "cat_file", of_s3fs)
    with RemotePath("memory://bucket/stack/tree/tool").open() as stream:
        assert stream.read(2) == b"#!"


class Failing:
    """`cat_file` of a file system, of which some calls raise, or return half of the bytes (`fails` says b"")."""

    def __init__(self, store, monkeypatch, fails):
        self.calls, self._real, self._fails = 0, store.cat_file, fails
        monkeypatch.setattr(type(store), "cat_file", lambda _, *words, **more: self(*words, **more))

    def __call__(self, *words, **more):
        self.calls += 1
        data = self._real(*words, **more)
        if fault := self._fails(self.calls):
            raise fault
        return data[: len(data) // 2] if fault == b"" else data


def test_reads_that_fail_are_repeated(here, memory, tmp_path, monkeypatch, no_pauses):
    failing = Failing(memory, monkeypatch, lambda call: (None, ConnectionError("reset"), b"")[call % 3])
    prepare(["memory://bucket/stack"], tmp_path / "out")
    assert failing.calls > 90 and files_of(tmp_path / "out") == files_of(here / "local")


def test_a_read_that_keeps_failing_ends_the_run_and_leaves_nothing_out(memory, tmp_path, monkeypatch, no_pauses):
    Failing(memory, monkeypatch, lambda call: ConnectionError("reset by peer") if call > 20 else None)
    with pytest.raises(UserError, match=r"memory://bucket/stack/.* could not be .*reset by peer.*run the same command"):
        prepare(["memory://bucket/stack"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_may_not_be_read_is_counted(memory, tmp_path, monkeypatch):
    Failing(memory, monkeypatch, lambda call: PermissionError(13, "denied") if call == 20 else None)
    made = prepare(["memory://bucket/stack"], tmp_path / "out")
    assert made["dropped"]["unreadable"]["documents"] == 1


class TestOutput:
    url = RemotePath("memory://bucket/corpora/mine")

    def publish(self, work, **options):
        return prepare_remote(
            ["memory://bucket/stack"], self.url, SETTINGS, work, RunOptions(workers=1, progress=False, **options)
        )

    def test_what_is_copied_is_the_dataset_and_is_found_again(self, here, memory, tmp_path):
        made = self.publish(tmp_path)
        for name, data in files_of(here / "local").items():
            assert memory.cat(f"/bucket/corpora/mine/{name}") == data
        assert made["output"] == str(self.url) and not list(tmp_path.iterdir())
        assert self.publish(tmp_path)["cached"] and self.publish(tmp_path, replace=True)["cached"] is False

    def test_dataset_json_comes_last_so_half_a_copy_is_none(self, memory, tmp_path, monkeypatch, no_pauses):
        put, names = type(memory).put_file, []

        def counted(self, local, target, **more):
            names.append(Path(target).name)
            if len(names) > 4:
                raise ConnectionError("gone")
            put(self, local, target, **more)

        with monkeypatch.context() as patch:
            patch.setattr(type(memory), "put_file", counted)
            with pytest.raises(UserError, match="memory://bucket/corpora/mine: could not be"):
                self.publish(tmp_path)
        assert "dataset.json" not in names and not memory.exists("/bucket/corpora/mine/dataset.json")
        names.clear()
        monkeypatch.setattr(
            type(memory),
            "put_file",
            lambda self, local, target, **more: (names.append(Path(target).name), put(self, local, target, **more)),
        )
        assert not self.publish(tmp_path)["cached"] and names[-1] == "dataset.json" and len(names) > 6

    def test_another_dataset_is_replaced_only_on_demand(self, memory, tmp_path):
        memory.pipe("/bucket/corpora/mine/dataset.json", b'{"key": "other"}')
        with pytest.raises(UserError, match=r"mine: holds a dataset made from other .*--replace"):
            self.publish(tmp_path)
        memory.pipe("/bucket/corpora/mine/dataset.json", b'{"key": ')
        with pytest.raises(UserError, match=r"dataset\.json: is not JSON; .*--replace"):
            self.publish(tmp_path)


def refused(capsys, tmp_path, *words):
    """The one line with which the command is refused."""
    assert main(["prepare", "--output", str(tmp_path / "out"), *words]) == 2
    error = capsys.readouterr().err.strip()
    assert not (tmp_path / "out").exists()
    return error.splitlines()[-1]


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("nosuch://a/b", "nosuch://a/b: Protocol not known: nosuch; give a path, or a URL of a known scheme, such as"),
        ("memory://nothing/here", "memory://nothing/here: not found"),
        ("file://elsewhere/a", "file://elsewhere/a: names another machine"),
    ],
)
def test_urls_that_lead_nowhere(url, line, capsys, tmp_path):
    assert line in refused(capsys, tmp_path, "--input", url, "--workers", "1")


def test_a_missing_extra_is_named(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(registered, "s3", raising=False)  # of an earlier import
    assert "pip install 'ms-codegeex[s3]'" in refused(capsys, tmp_path, "--input", "s3://bucket/a", "--workers", "1")


def test_options_that_need_each_other(capsys, tmp_path):
    (tmp_path / "a.py").write_text(source(1))
    given = ("--input", str(tmp_path / "a.py"))
    assert "--work: is for an --output that is a URL" in refused(capsys, tmp_path, *given, "--work", str(tmp_path))
    assert main(["prepare", *given, "--output", "memory://bucket/x"]) == 2
    assert "add --work" in capsys.readouterr().err


def test_a_url_that_names_nothing_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["prepare", "--input", "s3://bucket", "--output", "s3:///"])
    assert "--output: s3:///: names no bucket, host or path" in capsys.readouterr().err


def test_a_file_url_is_a_path():
    assert parse_location("file:///data/a%20b") == Path("/data/a b") and parse_location("a/b") == Path("a/b")


KEY, SECRET = "AKIAKEY", "hush/hush+hush"


@pytest.mark.parametrize(
    ("url", "shown", "parts"),
    [
        ("s3://bucket/a", "s3://bucket/a", ("s3://", "bucket", "a")),
        ("s3://bucket/a?b@c", "s3://bucket/a?b@c", ("s3://", "bucket", "a?b@c")),
        (f"s3://{KEY}:{SECRET}@bucket/a", "s3://***@bucket/a", ("s3://", "bucket", "a")),
        ("hdfs://me@host:8020/a@b", "hdfs://***@host:8020/a@b", ("hdfs://", "host:8020", "a@b")),
        ("hdfs://host:8020/a@b", "hdfs://host:8020/a@b", ("hdfs://", "host:8020", "a@b")),
        ("https://me:p@ss@host/a", "https://***@host/a", ("https://", "host", "a")),
        ("https://host/b/a.jsonl?sig=x/y", "https://host/b/a.jsonl?***", ("https://", "host", "b", "a.jsonl")),
    ],
)
def test_a_url_as_text_has_no_user_and_no_query(url, shown, parts):
    location = parse_location(url)
    assert (str(location), location.parts, location.url) == (shown, parts, url)
    assert repr(location) == f"RemotePath(url={shown!r})"
    assert location.name == parts[-1] and location.parent.parts == parts[:-1]


@pytest.mark.parametrize("secret", ["hush-hush", SECRET, "hush%2Fhush"])
def test_passwords_of_urls_are_in_no_file_and_no_message(secret, memory, tmp_path, monkeypatch, capsys):
    user = f"{KEY}:{secret}@bucket"
    for number in range(4):
        memory.pipe(f"/{user}/tree/file{number}.py", source(number).encode())
    memory.pipe(f"/{user}/tree/gone.jsonl", json.dumps({"text": source(9), "lang": "python"}).encode())
    fetch = type(memory).cat_file

    def refuse(self, path, *words, **more):
        if path.endswith("gone.jsonl"):
            raise FileNotFoundError(f"memory://{path.lstrip('/')}")
        return fetch(self, path, *words, **more)

    monkeypatch.setattr(type(memory), "cat_file", refuse)
    words = ["--input", f"memory://{user}/tree", "--output", f"memory://{user}/made", "--work", str(tmp_path)]
    assert main(["prepare", *words, "--workers", "1", "--json", "--filters", "none"]) == 0
    texts = [*capsys.readouterr(), *(str(data.getvalue()) for path, data in memory.store.items() if "/made/" in path)]
    monkeypatch.setattr(remote, "PAUSES", ())
    monkeypatch.setattr(type(memory), "find", lambda self, path, **more: {}[f"memory:/{path}"])
    assert main(["prepare", "--input", words[1], "--output", str(tmp_path / "out"), "--workers", "1"]) == 2
    texts += capsys.readouterr()
    assert "memory://***@bucket/tree: could not be reached" in texts[-1]
    assert len(texts) > 10 and not [text for text in texts if KEY in text or "hush" in text]
    assert [text for text in texts if "gone.jsonl" in text and "unreadable" in text]


needs_s3 = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("s3fs", "moto", "flask", "boto3")),
    reason="s3fs and moto's server are not installed: pip install 's3fs' 'moto[s3,server]'",
)


@pytest.fixture(scope="module")
def store(here):
    """moto's server in a separate process, with the input in a bucket; its address, and what clients need."""
    script = (
        "from moto.server import ThreadedMotoServer; import sys\n"
        "server = ThreadedMotoServer('127.0.0.1', 0, verbose=False); server.start()\n"
        "print(server.get_host_and_port()[1], flush=True); sys.stdin.read(); server.stop()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        address = f"http://127.0.0.1:{int(process.stdout.readline())}"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        environment |= {"PYTHONPATH": str(ROOT), "AWS_ENDPOINT_URL": address, "AWS_DEFAULT_REGION": "us-east-1"}
        environment |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        import boto3

        keys = {"aws_access_key_id": "t", "aws_secret_access_key": "t", "region_name": "us-east-1"}
        client = boto3.client("s3", endpoint_url=address, **keys)
        client.create_bucket(Bucket="bucket")
        for path in (here / "stack").rglob("*"):
            if path.is_file():
                client.upload_file(str(path), "bucket", f"stack/{path.relative_to(here / 'stack')}")
        yield address, environment, client
    finally:
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        process.wait()


def command(environment, *words):
    call = [sys.executable, "-m", "ms_codegeex.cli", "prepare", "--near-duplicates", "0.85", *words]
    return subprocess.run(call, capture_output=True, text=True, env=environment, timeout=600)


@needs_s3
@pytest.mark.slow  # an object store, and the command with processes of its own, several times
class TestObjectStore:
    def test_from_a_bucket_to_a_bucket(self, here, store, tmp_path):
        _, environment, client = store
        words = ("--input", "s3://bucket/stack", "--output", "s3://bucket/made/corpus", "--work", str(tmp_path))
        done = command(environment, *words, "--workers", "2")
        assert done.returncode == 0, done.stderr
        for name, data in files_of(here / "local").items():
            assert client.get_object(Bucket="bucket", Key=f"made/corpus/{name}")["Body"].read() == data, name
        again = command(environment, *words)
        assert again.returncode == 0 and "already prepared" in again.stderr

    @pytest.mark.parametrize(
        ("url", "line"), [("s3://nobucket/a", "s3://nobucket/a: not found"), ("s3://bucket/nokey", "not found")]
    )
    def test_what_is_not_there_is_one_line(self, store, tmp_path, url, line):
        done = command(store[1], "--input", url, "--output", str(tmp_path / "out"))
        assert done.returncode == 2 and line in done.stderr and "Traceback" not in done.stderr, done.stderr

    def test_refused_access_is_one_line(self, store, tmp_path):
        address, environment, _ = store
        check_access(address, True)
        try:
            done = command(environment, "--input", "s3://bucket/stack", "--output", str(tmp_path / "out"))
        finally:
            check_access(address, False)
        assert done.returncode == 2 and "access refused" in done.stderr and "Traceback" not in done.stderr, done.stderr


def check_access(address, on):
    """Whether moto refuses keys that it does not know."""
    request = urllib.request.Request(
        f"{address}/moto-api/reset-auth", b"0" if on else b"1000000", {"Content-Type": "text/plain"}
    )
    urllib.request.urlopen(request).close()
