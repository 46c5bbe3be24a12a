"""The configuration of nginx in docs/serve.md, with a real nginx in front of two replicas."""

import contextlib
import re
import shutil
import subprocess
import time

import httpx
import pytest
from asking import bearer
from code_server import free_port
from conftest import ROOT
from fake_backend import TEXT, key_file
from over_http import served

NGINX = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
KEYS = [f"{number:x}" * 16 for number in range(16)]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(NGINX is None, reason="nginx is not installed")]


@contextlib.contextmanager
def nginx(directory, port, replicas):
    """nginx with the page's configuration: its own port, certificate and replicas."""
    names = directory / "code.pem", directory / "code.key"
    openssl = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=code.example.com"]
    subprocess.run([*openssl, "-out", names[0], "-keyout", names[1]], check=True, capture_output=True)
    site = re.search(r"```nginx\n(.*?)```", (ROOT / "docs" / "serve.md").read_text(), re.DOTALL)[1]
    site = site.replace("listen 443", f"listen 127.0.0.1:{port}")
    for there, here in zip(("10.0.0.11:8000", "10.0.0.12:8000"), replicas, strict=True):
        site = site.replace(there, here.url.removeprefix("http://"))
    for there, here in zip(("code.example.com.pem", "code.example.com.key"), names, strict=True):
        site = site.replace(f"/etc/nginx/{there}", str(here))
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {directory}/{kind};" for kind in kinds)
    (directory / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {directory}/pid; error_log {directory}/error.log;\n"
        f"events {{}}\nhttp {{ access_log off; {paths}\n{site} }}\n"
    )
    words = [NGINX, "-c", directory / "nginx.conf", "-e", directory / "error.log"]
    tested = subprocess.run([*words, "-t"], capture_output=True, text=True)
    assert tested.returncode == 0, tested.stderr
    process = subprocess.Popen(words)
    try:
        yield f"https://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def replicas(tmp_path_factory):
    keys = key_file(tmp_path_factory.mktemp("keys") / "keys", "\n".join(KEYS))
    with served(api_key_file=keys) as first, served(api_key_file=keys) as second:
        yield first, second


@pytest.fixture(scope="module")
def client(replicas, tmp_path_factory):
    directory = tmp_path_factory.mktemp("nginx")
    with nginx(directory, free_port(), replicas) as url, httpx.Client(base_url=url, verify=False, timeout=60) as client:
        while True:
            with contextlib.suppress(httpx.ConnectError):
                client.get("/health")
                break
            time.sleep(0.05)
        yield client


def ask(client, key, **body):
    return client.post("/v1/completions", json={"prompt": "x", "max_tokens": 64, **body}, headers=bearer(key))


def test_a_key_always_asks_the_same_replica(client, replicas):
    counts = []
    for key in KEYS:
        before = [replica.backend.counters.answers for replica in replicas]
        for _ in range(3):
            assert ask(client, key, max_tokens=1).status_code == 200
        counts.append([r.backend.counters.answers - b for r, b in zip(replicas, before, strict=True)])
    assert {tuple(count) for count in counts} == {(3, 0), (0, 3)}


def test_events_come_through_as_they_are_made(client, replicas):
    for replica in replicas:
        replica.backend.step_seconds = 0.02
    body = {"prompt": "x", "max_tokens": 64, "stream": True}
    with client.stream("POST", "/v1/completions", json=body, headers=bearer(KEYS[0])) as response:
        pieces = response.iter_raw()
        text = next(pieces)
        under_way = sum(replica.backend.active for replica in replicas)
        text += b"".join(pieces)
    for replica in replicas:
        replica.backend.step_seconds = 0.0
    assert under_way == 1 and text.endswith(b"data: [DONE]\n\n") and text.count(b"data: ") > 5


def test_a_replica_that_ends_is_passed_over(client, replicas):
    for replica in replicas:
        replica.backend.draining = True
        try:
            for key in KEYS[:4]:
                assert ask(client, key).json()["choices"][0]["text"] == TEXT
        finally:
            replica.backend.draining = False


def test_long_bodies_and_wrong_keys_are_refused_on_the_way(client):
    assert ask(client, "no").status_code == 401
    assert ask(client, KEYS[0], prompt="x" * (5 << 20)).status_code == 413
