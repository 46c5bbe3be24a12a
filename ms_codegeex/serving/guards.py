"""Request guards: a record of each request, keys, limits, and the checks that keep web pages out.

Without keys the server is bound to this machine, but a page in a browser on it can still send requests. So `Host` has
to name this machine (otherwise an attacker could use a host name that resolves to it), and a page of another origin is
refused unless `--cors` names it. With keys neither check is needed, because a page does not know them.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ms_codegeex.base.errors import UserError
from ms_codegeex.serving.access_log import AccessLog, RequestRecord
from ms_codegeex.serving.errors import ApiError, failed
from ms_codegeex.serving.keys import Key, Keys
from ms_codegeex.serving.limits import Limits
from ms_codegeex.serving.metrics import Metrics
from ms_codegeex.serving.settings import is_loopback

OPEN = ("/health", "/ready")  # need no key: probes have none, and the answer is one word
PAGES = ("/", "/demo/assets/")  # of the demo, need no key: they are files of this package, and their requests need one
REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
CLIENT_GONE = 499  # in the log: the client closed the connection before the answer began


def record_of(scope: Scope) -> RequestRecord:
    """The record of a request."""
    return scope["state"]["record"]


def check_origins(origins: tuple[str, ...], keys: bool) -> None:
    """`UserError` for an entry of `--cors` that no browser sends, and, without keys, for one that many pages share."""
    for origin in origins:
        parts = urlsplit(origin)
        if origin in ("*", "null") and not keys:  # any page can send null, from a sandboxed frame
            raise UserError(
                f"--cors: {origin} without keys lets every web page use this server; name origins, or give keys"
            )
        if origin not in ("*", "null") and (not parts.scheme or origin != f"{parts.scheme}://{parts.netloc}"):
            raise UserError(f"--cors: {origin} is not an origin; give one such as https://code.example.com")


class Recording:
    """The outermost layer: gives each request an id and a record, which goes to the log and the metrics."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        log: AccessLog | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.app, self.metrics, self.log, self.clock = app, metrics, log, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope["client"] = _client(scope)
        asked = Headers(scope=scope).get("x-request-id", "")
        record = RequestRecord(
            id=asked if REQUEST_ID.fullmatch(asked) else secrets.token_hex(8),
            client=scope["client"][0],
            method=scope["method"],
            path=scope["path"],
            began=self.clock(),
        )
        scope.setdefault("state", {})["record"] = record

        async def receiving() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect":
                record.status = record.status or CLIENT_GONE  # nobody receives this answer
            return message

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = record.status or message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = record.id
            await send(message)

        try:
            await self.app(scope, receiving, sending)
        except Exception:
            if not record.status:
                await failed().response()(scope, receive, sending)
            raise  # for the log
        finally:
            self._end(scope, record)

    def _end(self, scope: Scope, record: RequestRecord) -> None:
        record.status = record.status or CLIENT_GONE
        route = scope.get("route")
        record.route = getattr(route, "path", None) or record.route
        record.ended = self.clock()
        self.metrics.count(record)
        if self.log is not None:
            self.log.write(record)


class Guard:
    """Checks the key, the origin and the limits of each request."""

    def __init__(
        self,
        app: ASGIApp,
        keys: Keys | None = None,
        limits: Limits | None = None,
        requests_per_minute: int | None = None,
        origins: tuple[str, ...] = (),
        demo: bool = False,
    ):
        self.app, self.keys, self.limits = app, keys, limits or Limits()
        self.requests_per_minute, self.origins, self.demo = requests_per_minute, origins, demo

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer with an error."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http" or self._open(scope):
            await self.app(scope, receive, send)
            return
        try:
            key = self._admit(scope)
        except ApiError as error:
            response = error.response()
            if error.status == 401:
                response.headers["WWW-Authenticate"] = "Bearer"
            await response(scope, receive, send)
            return
        if scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        caller = record_of(scope).key or ""
        per_minute = key.requests_per_minute if key and key.requests_per_minute else self.requests_per_minute
        if (refusal := self.limits.enter(caller, per_minute)) is not None:
            error = ApiError(
                429,
                refusal.message,
                "rate_limit_error",
                code="rate_limit_exceeded",
                retry_after=refusal.retry_after,
            )
            await error.response()(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _open(self, scope: Scope) -> bool:
        path = scope["path"]
        if path in OPEN:
            return True
        return self.keys is not None and self.demo and (path == PAGES[0] or path.startswith(PAGES[1]))

    def _admit(self, scope: Scope) -> Key | None:
        headers = Headers(scope=scope)
        if self.keys is None:
            self._check_host(headers)
            self._check_origin(headers)
            return None
        text = _given_key(headers)
        key = self.keys.find(text) if text else None
        if key is None:
            what = "is not one of this server's keys" if text else "is missing"
            raise ApiError(
                401,
                f"the API key {what}; send it as `Authorization: Bearer KEY`",
                "authentication_error",
                code="invalid_api_key",
            )
        record_of(scope).key = scope["state"]["client"] = key.name
        scope["state"]["concurrent"] = key.concurrent
        return key

    @staticmethod
    def _check_host(headers: Headers) -> None:
        for host in headers.getlist("host"):
            name = host.rpartition(":")[0] if re.search(r":\d*$", host) else host
            if not is_loopback(name.lower().rstrip(".")):
                raise ApiError(
                    403,
                    "the Host header does not name this machine, and the server has no keys; ask for 127.0.0.1, "
                    "or start it with --api-key-file",
                    "permission_error",
                    code="host_refused",
                )

    def _check_origin(self, headers: Headers) -> None:
        for origin in headers.getlist("origin"):
            if origin not in self.origins and not (headers.get("host") and _place(origin) == headers["host"].lower()):
                raise ApiError(
                    403,
                    "web pages of this origin may not use the server; name the origin with --cors",
                    "permission_error",
                    code="origin_refused",
                )


def _client(scope: Scope) -> tuple[str, int]:
    """The client's address, without a name if X-Forwarded-For holds anything else."""
    host, port = scope.get("client") or ("", 0)
    try:
        return str(ipaddress.ip_address(host)), port
    except ValueError:
        return "", port


def _place(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _given_key(headers: Headers) -> str:
    scheme, _, text = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return text.strip()
    return headers.get("x-api-key", "").strip()
