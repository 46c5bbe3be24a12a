"""Keys, limits, pages of other origins, the access log, metrics: all in front of the routes."""

import asyncio
import errno
import json
import os
from functools import partial
from unittest.mock import create_autospec

import pytest
from all_routes import WITHOUT_KEY, routes
from asking import ask, bearer, connected, running
from fake_backend import FakeBackend, fake_settings, key_file
from prometheus_client.parser import text_string_to_metric_families

from ms_codegeex.base import appending
from ms_codegeex.base.appending import MAX_WAITING
from ms_codegeex.base.errors import UserError
from ms_codegeex.base.options import declared
from ms_codegeex.extras.serving import records
from ms_codegeex.extras.serving.admission import Caller
from ms_codegeex.extras.serving.app import create_app
from ms_codegeex.extras.serving.guards import RequestRecorder, record_of
from ms_codegeex.extras.serving.records import AccessLog, Metrics, RequestRecord
from ms_codegeex.extras.serving.settings import ServeSettings

KEY, OTHER = "0123456789abcdef", "fedcba9876543210"
BODY = {"prompt": "x = ", "max_tokens": 2}
PATH = "/v1/completions"
GUARDED = [(method, path) for method, path in routes() if path not in WITHOUT_KEY]
OTHERS = [("GET", "/openapi.json"), ("GET", "/docs"), ("GET", "/nothing"), ("OPTIONS", PATH)]  # without a description


@pytest.fixture
def keys(tmp_path):
    return key_file(tmp_path / "keys", f"me {KEY}\nslow {OTHER} requests-per-minute=1\n")


def guarded(keys, **settings):
    return lambda: FakeBackend(api_key_file=keys, **settings)


async def test_every_route_needs_a_key(keys):
    strange = ["/health/", "//health", "/health/../v1/models", "/HEALTH", "/health%2f..%2fprops"]
    wrong = ({}, bearer(KEY[:-1]), bearer(f"{KEY}0"), bearer(""), {"Authorization": KEY}, {"X-API-Key": "no"})
    async with connected(guarded(keys)()) as client:
        for method, path in [*GUARDED, *OTHERS, *(("GET", path) for path in strange)]:
            for headers in wrong:
                response = await client.request(method, path, headers=headers)
                assert response.status_code == 401 and response.headers["WWW-Authenticate"] == "Bearer", (path, headers)
                error = response.json()["error"]
                assert error["code"] == "invalid_api_key" and KEY[:-1] not in error["message"]
        for path in WITHOUT_KEY:
            assert (await client.get(path)).status_code == 200
            response = await client.head(path)
            assert (response.status_code, response.content) == (200, b"")


@pytest.mark.parametrize("headers", [bearer(KEY), {"authorization": f"bearer  {KEY} "}, {"X-API-Key": KEY}])
def test_a_right_key_is_let_through_from_anywhere(keys, headers):
    headers = {**headers, "Host": "code.example.com", "Origin": "https://evil.example"}
    response = ask("POST", PATH, guarded(keys), headers=headers, json=BODY)
    assert response.status_code == 200 and "access-control-allow-origin" not in response.headers


def test_the_demos_files_are_open_and_its_requests_are_not(keys):
    for path in ("/", "/demo/assets/main.js"):
        assert ask("GET", path, guarded(keys, demo=True)).status_code == 200
        assert ask("GET", path, guarded(keys)).status_code == 401
    assert ask("GET", "/demo/examples", guarded(keys, demo=True)).status_code == 401
    assert ask("POST", PATH, guarded(keys, demo=True), json=BODY).status_code == 401


async def test_a_reloaded_file_counts_from_then_on(keys):
    backend = guarded(keys)()
    async with connected(backend) as client:
        before = await client.get("/v1/models", headers=bearer(KEY))
        keys.write_text(f"new {OTHER}\n")
        client._transport.app.state.reload()
        after = [await client.get("/v1/models", headers=bearer(key)) for key in (KEY, OTHER)]
    assert [before.status_code, *(response.status_code for response in after)] == [200, 401, 200]


async def test_a_reload_says_which_file_is_not_sound(keys, tmp_path, capsys):
    log = tmp_path / "access.jsonl"
    async with connected(guarded(keys, access_log=str(log))()) as client:
        log.rename(tmp_path / "old.jsonl")
        keys.write_text("oh\n")
        client._transport.app.state.reload()
        await client.get("/v1/models", headers=bearer(KEY))
    assert capsys.readouterr().err.endswith("; the old one stays in use\n")
    assert lines_of(log)[0]["status"] == 200 and lines_of(log)[0]["key"] == "me"


async def test_limits_of_a_key_and_of_the_server(keys):
    backend = guarded(keys, requests_per_minute=2)()
    async with connected(backend) as client:
        mine = [await client.post(PATH, json=BODY, headers=bearer(KEY)) for _ in range(3)]
        slow = [await client.post(PATH, json=BODY, headers=bearer(OTHER)) for _ in range(2)]
        read = [await client.get("/v1/models", headers=bearer(OTHER)) for _ in range(5)]
    assert [response.status_code for response in mine] == [200, 200, 429]
    assert [response.status_code for response in slow] == [200, 429]
    assert {response.status_code for response in read} == {200}
    assert mine[2].json()["error"]["code"] == "rate_limit_exceeded" and 1 <= int(mine[2].headers["Retry-After"]) <= 30
    assert 30 < int(slow[1].headers["Retry-After"]) <= 60


async def test_the_limit_of_a_server_without_keys_names_none():
    async with connected(FakeBackend(requests_per_minute=1)) as client:
        _, refused = [await client.post(PATH, json=BODY) for _ in range(2)]
    message = refused.json()["error"]["message"]
    assert message.startswith("Rate limit reached: at most 1 answers in a minute. Please")


OWN_HOSTS = ["127.0.0.1", "127.0.0.1:8000", "localhost:8000", "LOCALHOST.", "[::1]:8000", "127.8.9.1"]
OTHER_HOSTS = [
    *("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example"),
    *("127.0.0.1:8000@evil.example", "192.168.1.5", ""),
]


@pytest.mark.parametrize("host", [*OWN_HOSTS, *OTHER_HOSTS])
def test_without_keys_the_host_has_to_be_this_machine(host):
    """A name of an attacker may resolve to 127.0.0.1: then a browser takes its page and this server for one origin."""
    status = 200 if host in OWN_HOSTS else 403
    assert ask("POST", PATH, json=BODY, headers={"Host": host}).status_code == status


def test_cors_is_closed_by_default(keys):
    headers = {"Origin": "https://x.example", "Access-Control-Request-Method": "POST"}
    for make in (FakeBackend, guarded(keys)):
        response = ask("OPTIONS", PATH, make, headers=headers)
        assert response.status_code in (401, 403) and "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"host": "0.0.0.0"}, "--host: 0.0.0.0 .*--api-key-file"),
        ({"host": "::"}, "--api-key-file"),
        ({"host": "code.example.com"}, "--api-key-file"),
        ({"log_prompts": True}, "--log-prompts"),
        ({"requests_per_minute": 0}, "--requests-per-minute"),
        ({"grace": float("inf")}, "--grace"),
        ({"grace": float("nan")}, "--grace"),
    ],
)
def test_settings_that_would_be_unsafe_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        fake_settings(**settings)


NAMED = {  # of `--cors`: origins that browsers send, and others
    "https://Code.Example.com:443": ["https://code.example.com"],
    "HTTP://localhost:080": ["http://localhost"],
    "https://code.example.com": ["https://code.example.com", "HTTPS://Code.example.com:443"],
    "http://localhost:*": ["http://localhost:3000", "http://localhost"],
    "http://*.localhost:*": ["http://app.localhost:3000"],
    "https://*.example.com": ["https://code.example.com", "https://a.b.example.com"],
    "chrome-extension://*": ["chrome-extension://abcdefghijklmnopabcdefghijklmnop"],
    "vscode-webview://*": ["vscode-webview://0f3a"],
    "https://m\u00fcnchen.de": ["https://xn--mnchen-3ya.de"],
    "http://[0:0::1]:8080": ["http://[::1]:8080"],
}
OTHER_PAGES = [
    *("https://example.com", "http://code.example.com", "https://code.example.com:444", "https://evilexample.com"),
    *("https://evil.example", "https://code.example.com.evil.example", "http://evil.example/?https://code.example.com"),
    *("http://localhost.evil.example:3000", "http://localhost:3000@evil.example", "moz-extension://x", "null", ""),
    *("http://127.0.0.1:3000", "file://", "http://["),
]


@pytest.mark.parametrize("entry", NAMED)
async def test_origins_are_named_by_patterns_and_as_users_write_them(entry):
    """Others are refused also where a browser asks nobody first: a form can post text/plain, and work is done."""
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Private-Network": "true"}
    async with connected(FakeBackend(cors=(entry,))) as client:
        for origin in [*NAMED[entry], *OTHER_PAGES]:
            response = await client.post(PATH, json=BODY, headers={"Origin": origin})
            preflight = await client.options(PATH, headers={"Origin": origin, **asked})
            allowed = preflight.headers.get("access-control-allow-private-network")
            if origin in NAMED[entry]:
                assert (response.status_code, preflight.status_code, allowed) == (200, 200, "true"), origin
                assert response.headers["access-control-allow-origin"] == origin
            else:
                assert (response.status_code, allowed) == (403, None) and preflight.status_code != 200, origin
                assert "access-control-allow-origin" not in response.headers


NO_ORIGINS = [
    *("*", "null", "example.com", "https://example.com/", "https://example.com/path", "", "https://*", "http://*:3000"),
    *("https://*.com", "https://code.*.com", "file://*", "file://", "https://a.com,https://b.com", "https://me@a.com"),
    *("https://a.com:x", "http://[::g]", "https://a..com"),
]


@pytest.mark.parametrize("origin", NO_ORIGINS)
def test_origins_that_no_browser_sends_are_refused(origin):
    async def made():
        backend = FakeBackend(cors=(origin,))
        create_app(backend.settings, backend)

    with pytest.raises(UserError, match="--cors"):
        running(made())


@pytest.mark.parametrize(("allowed", "origin"), [("*", "https://any.example"), ("null", "null")])
def test_pages_may_ask_if_keys_guard_the_routes(keys, allowed, origin):
    headers = {**bearer(KEY), "Origin": origin}
    response = ask("POST", PATH, guarded(keys, cors=(allowed,)), json=BODY, headers=headers)
    assert response.status_code == 200 and response.headers["access-control-allow-origin"] == allowed


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_access_log_says_who_asked_what_and_no_text(keys, tmp_path):
    log = tmp_path / "access.jsonl"
    make = guarded(keys, access_log=str(log))
    secret = {"prompt": "password = 'hunter2'", "max_tokens": 3}
    ask("POST", PATH, make, json=secret, headers={**bearer(KEY), "X-Request-Id": "abc-1"})
    ask("POST", PATH, make, json={**secret, "stream": True}, headers=bearer(KEY))
    ask("GET", "/v1/models/fake?x=hunter2", make, headers=bearer("hunter2hunter2hunter2"))
    ask("GET", "/no%E2%80%A8thing%0Ahere", make, headers=bearer(KEY))
    first, second, third, fourth = lines_of(log)
    assert {"time", "client", "seconds"} < first.keys() and first["time"].endswith("+00:00")
    assert (first["request"], first["key"], first["route"], first["status"]) == ("abc-1", "me", PATH, 200)
    assert first["completion_tokens"] == 3 == second["completion_tokens"] and first["prompt_tokens"] > 3
    assert 0 <= first["first_token_seconds"] <= first["seconds"] and second["first_token_seconds"] is not None
    assert (third["key"], third["status"], third["first_token_seconds"]) == (None, 401, None)
    assert (fourth["route"], fourth["status"]) == ("unmatched", 404) and len(log.read_bytes().splitlines()) == 4
    assert "hunter2" not in log.read_text() and KEY not in log.read_text() and log.read_bytes().isascii()


def test_prompts_are_logged_if_asked_for(tmp_path):
    log = tmp_path / "access.jsonl"
    make = partial(FakeBackend, access_log=str(log), log_prompts=True)
    ask("POST", PATH, make, json={"prompt": ["a = ", "b\n"], "max_tokens": 1})
    assert lines_of(log)[0]["prompts"] == ["a = ", "b\n"]


def test_the_log_on_standard_output(capfd):
    ask("GET", "/health", partial(FakeBackend, access_log="-"))
    assert json.loads(capfd.readouterr().out)["route"] == "/health"


@pytest.fixture
def record():
    return RequestRecord(id="1", client="::1", caller=Caller("::1"), method="GET", path="/" + "x" * 150, began=0.0)


def test_a_log_on_a_full_disk_is_reported_once_and_does_not_grow(record, capsys):
    log = AccessLog("/dev/full")
    for _ in range(MAX_WAITING // 150):
        log.write(record)
    assert len(log._file._pending) <= MAX_WAITING
    log.close()
    assert capsys.readouterr().err.count("/dev/full cannot be written (No space left on device)") == 1


def test_a_log_whose_reader_is_gone_is_reported_once(record, monkeypatch, capsys):
    reader, writer = os.pipe()
    monkeypatch.setattr(records, "STANDARD_OUTPUT", writer)
    log = AccessLog("-")
    os.close(writer)
    os.close(reader)
    for _ in range(3):
        log.write(record)
    log.close()
    assert capsys.readouterr().err.count("- cannot be written (Broken pipe)") == 1


def test_lines_for_which_there_was_no_room_follow(record, tmp_path, monkeypatch, capsys):
    def full(descriptor, data):
        raise OSError(errno.ENOSPC, "full")

    log = AccessLog(str(tmp_path / "log"))
    for place in range(6):
        with monkeypatch.context() as patch:
            if place % 3 < 2:
                patch.setattr(appending.os, "write", full)
            record.status = place
            log.write(record)
    log.close()
    assert [line["status"] for line in lines_of(tmp_path / "log")] == [*range(6)]
    assert capsys.readouterr().err.count("cannot be written (full)") == 2


async def test_a_log_that_was_moved_away_is_opened_again(tmp_path):
    log = tmp_path / "access.jsonl"
    async with connected(FakeBackend(access_log=str(log))) as client:
        await client.get("/health")
        log.rename(tmp_path / "old.jsonl")
        await client.get("/ready")
        client._transport.app.state.reload()
        await client.get("/health")
    assert [len(lines_of(path)) for path in (tmp_path / "old.jsonl", log)] == [2, 1]


def test_a_log_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(UserError, match="--access-log"):
        ask("GET", "/health", lambda: FakeBackend(access_log=str(tmp_path / "no" / "file")))


NO_IDS = ["", "a" * 65, "a b", "a\tb", "é", "%0d%0aSet-Cookie: a=b", "<script>", "a\x0bSet-Cookie: a=b"]


@pytest.mark.parametrize("given", ["abc_1.2-3", *NO_IDS])
def test_a_request_id_is_kept_if_it_is_harmless(given):
    found = ask("GET", "/health", headers={"X-Request-Id": given.encode()}).headers["X-Request-Id"]
    assert (found == given) == (given not in NO_IDS) and found.isascii() and 1 <= len(found) <= 64


def test_a_mistake_of_the_server_has_an_id_and_a_line_in_the_log(tmp_path, monkeypatch):
    broken = create_autospec(FakeBackend.check_room, side_effect=ZeroDivisionError("secret"))
    monkeypatch.setattr(FakeBackend, "check_room", broken)
    make = partial(FakeBackend, access_log=str(tmp_path / "log"))
    response = ask("POST", PATH, make, json=BODY, headers={"X-Request-Id": "abc"})
    assert (response.status_code, response.headers["X-Request-Id"]) == (500, "abc")
    assert response.json()["error"]["type"] == "server_error" and "secret" not in response.text
    assert [(line["request"], line["status"]) for line in lines_of(tmp_path / "log")] == [("abc", 500)]


async def test_metrics_are_prometheus_and_count_what_happened():
    async with connected(FakeBackend(slots=3)) as client:
        for _ in range(2):
            await client.post(PATH, json=BODY)
        await client.post(PATH, json={**BODY, "temperature": -1})
        await client.request("BREW", "/pot")
        response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    samples = {
        " ".join((sample.name.removeprefix("ms_codegeex_"), *sample.labels.values())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }
    assert (samples["slots"], samples["slots_busy"], samples["queue_length"], samples["ready"]) == (3, 0, 0, 1)
    assert samples["answers_total"] == 2 and samples["completion_tokens_total"] == 4
    assert samples[f"requests_total POST {PATH} 200"] == 2 and samples[f"requests_total POST {PATH} 400"] == 1
    assert samples["requests_total other unmatched 404"] == 1
    assert samples["time_to_first_token_seconds_count"] == 2
    for name in ("reused_tokens", "guessed_tokens", "accepted_tokens", "restarts", "cancelled", "failed"):
        assert samples[f"{name}_total"] == 0


def test_readiness_is_red_while_the_model_loads_and_when_the_server_ends():
    def states(**values):
        def make():
            backend = FakeBackend()
            vars(backend).update(values)
            return backend

        response = ask("GET", "/ready", make)
        return response.status_code, response.json()["status"]

    assert states() == (200, "ready")
    assert states(engine_ready=False) == (503, "loading")
    assert states(draining=True) == (503, "draining")
    assert ask("GET", "/health", FakeBackend).json() == {"status": "ok"}


def test_default_settings_are_closed():
    settings = ServeSettings(model=fake_settings().model)
    assert (settings.host, settings.cors, settings.log_prompts, settings.access_log) == ("127.0.0.1", (), False, None)


@pytest.mark.parametrize(
    ("text", "size"), [("2GB", 2 * 10**9), ("1.5 gib", 3 << 29), ("300m", 3 * 10**8), ("64KiB", 1 << 16), ("0", 0)]
)
def test_sizes_of_the_memory_for_prefixes(text, size):
    (option,) = [each.option for each in declared(ServeSettings, ["prefix_memory"])]
    assert option.convert(text) == size
    for wrong in ("", "2XB", "-1", "1.5", "GB", "1e9", "9" * 16):
        with pytest.raises(UserError, match=r"--prefix-memory: .* is not a size; give one such as 2GB"):
            option.convert(wrong)


def test_each_of_several_origins_is_checked():
    own = "http://127.0.0.1:8000"
    for second, status in ((own, 200), ("https://evil.example", 403)):
        headers = [("Host", "127.0.0.1:8000"), ("Origin", own), ("Origin", second)]
        response = ask("POST", PATH, headers=headers, json=BODY)
        assert response.status_code == status and "access-control-allow-origin" not in response.headers


def test_a_path_with_a_slash_too_many_is_not_sent_elsewhere():
    assert ask("POST", f"{PATH}/", json=BODY).status_code == 404


@pytest.mark.parametrize(("given", "logged"), [("10.0.0.7", "10.0.0.7"), ("me\x7f, you", ""), (None, "")])
def test_only_an_address_is_a_client(given, logged):
    seen = []

    async def app(scope, receive, send):
        seen.append((scope["client"][0], record_of(scope).client))

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "client": given and (given, 1)}
    asyncio.run(RequestRecorder(app, Metrics(FakeBackend()))(scope, None, None))
    assert seen == [(logged, logged)]
