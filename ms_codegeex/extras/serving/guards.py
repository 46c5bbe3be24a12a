"""Request guards: a record of each request, keys, limits, and the checks that keep web pages out. Without keys the
server is bound to this machine, but a page in a browser on it can still send requests. So `Host` has to name this
machine (otherwise an attacker could use a host name that resolves to it), and a page of another origin is refused
unless `--cors` names it. With keys neither check is needed, because a page does not know them."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ms_codegeex.extras.serving.admission import Admission, Caller
from ms_codegeex.extras.serving.errors import ApiError, failed
from ms_codegeex.extras.serving.keys import Key, Keys
from ms_codegeex.extras.serving.origins import Origins
from ms_codegeex.extras.serving.records import AccessLog, Metrics, RequestRecord
from ms_codegeex.extras.serving.settings import ServeSettings, is_loopback

OPEN = ("/health", "/ready")  # need no key: probes have none, and the answer is one word
DEMO_PAGE, DEMO_ASSETS = "/", "/demo/assets/"  # need no key: files of this package, whose requests need one
REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
CLIENT_GONE = 499  # in the log: the client closed the connection before the answer began
BODY_SECONDS = 30.0  # for the next part of a body
WHOLE_BODY = 10  # times as long for all parts together
DRAIN_SECONDS = 5.0  # for which a body is read and dropped after its 413


def record_of(scope: Scope) -> RequestRecord:
    return scope["state"]["record"]


@dataclass
class RequestRecorder:
    """The outermost layer: gives each request an id and a record, which goes to the log and the metrics."""

    app: ASGIApp
    metrics: Metrics
    log: AccessLog | None = None
    clock: Callable[[], float] = time.monotonic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        scope["client"] = _client(scope)
        requested = Headers(scope=scope).get("x-request-id", "")
        record = RequestRecord(
            id=requested if REQUEST_ID.fullmatch(requested) else secrets.token_hex(8),
            client=scope["client"][0],
            caller=Caller(scope["client"][0]),
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
            record.status = record.status or CLIENT_GONE
            record.route = getattr(scope.get("route"), "path", None) or record.route
            record.ended = self.clock()
            self.metrics.count(record)
            if self.log is not None:
                self.log.write(record)


@dataclass
class Guard:
    """Checks the key, the origin and the limits of each request."""

    app: ASGIApp
    settings: ServeSettings
    origins: Origins
    admission: Admission
    keys: Keys | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if not self._open(scope["path"]):
                self._admit(scope)
        except ApiError as error:
            return await error.response()(scope, receive, send)
        await self.app(scope, receive, send)

    def _open(self, path: str) -> bool:
        if path in OPEN:
            return True
        page = path == DEMO_PAGE or path.startswith(DEMO_ASSETS)
        return self.keys is not None and self.settings.demo and page

    def _admit(self, scope: Scope) -> None:
        headers, record, per_minute = Headers(scope=scope), record_of(scope), self.settings.requests_per_minute
        if self.keys is None:
            self._check_host(headers)
            self._check_origin(headers)
            record.caller = Caller(record.client, per_minute=per_minute)
        else:
            key = self._key(headers, self.keys)
            limits = key.requests_per_minute or per_minute, key.concurrent, key.weight
            record.caller = Caller(key.name, key.name, *limits)
        if scope["method"] == "POST":
            self.admission.count(record.caller)

    @staticmethod
    def _key(headers: Headers, keys: Keys) -> Key:
        scheme, _, text = headers.get("authorization", "").partition(" ")
        text = (text if scheme.lower() == "bearer" else headers.get("x-api-key", "")).strip()
        key = keys.find(text) if text else None
        if key is None:
            wrong = "Incorrect API key provided: it is not one of this server's"
            what = wrong if text else "You didn't provide an API key"
            raise ApiError(401, f"{what}; send it as `Authorization: Bearer KEY`", code="invalid_api_key")
        return key

    @staticmethod
    def _check_host(headers: Headers) -> None:
        for host in headers.getlist("host"):
            name = host.rpartition(":")[0] if re.search(r":\d*$", host) else host
            if not is_loopback(name.lower().rstrip(".")):
                wrong = "the Host header does not name this machine, and the server has no keys"
                remedy = "ask for 127.0.0.1, or start it with --api-key-file"
                raise ApiError(403, f"{wrong}; {remedy}", code="host_refused")

    def _check_origin(self, headers: Headers) -> None:
        own = headers.get("host", "").lower() or None
        for origin in headers.getlist("origin"):
            if origin not in self.origins and origin.lower().partition("://")[2] != own:
                message = "web pages of this origin may not use the server; name the origin with --cors"
                raise ApiError(403, message, code="origin_refused")


def _client(scope: Scope) -> tuple[str, int]:
    host, port = scope.get("client") or ("", 0)
    try:
        return str(ipaddress.ip_address(host)), port
    except ValueError:
        return "", port


@dataclass
class BodyLimit:
    """At most `maximum` bytes, each part within `seconds`, and all of it within `WHOLE_BODY` times as long. Many
    clients read no answer before they have sent their body, and if the connection is closed in the meantime the answer
    is lost. So after a 413 the rest of the body is read for a while."""

    app: ASGIApp
    maximum: int
    seconds: float = BODY_SECONDS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        too_long = ApiError(413, f"the body is longer than the {self.maximum} bytes that this server takes")
        count, more, begin = 0, True, time.monotonic()

        async def counted() -> Message:
            nonlocal count, more
            if not more:
                return await receive()
            try:
                left = begin + WHOLE_BODY * self.seconds - time.monotonic()
                message = await asyncio.wait_for(receive(), max(0, min(self.seconds, left)))
            except asyncio.TimeoutError:
                raise HTTPException(408, f"the body, or more of it, did not come within {self.seconds:g} s") from None
            more = message.get("more_body", False)
            count += len(message.get("body", b""))
            if count > self.maximum:
                raise HTTPException(413, too_long.message)
            return message

        async def drain() -> None:
            while (await receive()).get("more_body", False):  # until the end, or the client is gone
                pass

        async def sending(message: Message) -> None:
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if last and more and count > self.maximum:
                await send({**message, "more_body": True})
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(drain(), DRAIN_SECONDS)
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        declared = dict(scope["headers"]).get(b"content-length", b"")
        if declared.isdigit() and int(declared) > self.maximum:
            count = int(declared)
            return await too_long.response()(scope, receive, sending)
        return await self.app(scope, counted, sending)
