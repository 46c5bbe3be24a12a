"""Request guards: a record of each request, keys, limits, and protection against foreign web pages. Without keys the
server listens on this machine only, but any page in a local browser could still send requests. Therefore `Host` must
name this machine, which prevents DNS rebinding, and pages of other origins are refused unless `--cors` names them. With
keys neither check is needed, because foreign pages do not know them."""

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

OPEN = ("/health", "/ready")  # need no key: probes have none, and the response reveals one word
DEMO_PAGE, DEMO_ASSETS = "/", "/demo/assets/"  # need no key: public files; the requests that they send need one
REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
CLIENT_GONE = 499  # logged if the client closed the connection before the response began (nginx's code)
BODY_SECONDS = 30.0  # time limit for the next part of a body
WHOLE_BODY = 10  # the limit for the whole body is this many times as long
DRAIN_SECONDS = 5.0  # how long an oversized body is read and discarded after the 413


def record_of(scope: Scope) -> RequestRecord:
    return scope["state"]["record"]


@dataclass
class RequestRecorder:
    """The outermost middleware: gives each request an id and a record, which is logged and measured at the end."""

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
                record.status = record.status or CLIENT_GONE  # a later status would not reach the client
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
            raise  # so that the server logs it
        finally:
            record.status = record.status or CLIENT_GONE
            record.route = getattr(scope.get("route"), "path", None) or record.route
            record.ended = self.clock()
            self.metrics.count(record)
            if self.log is not None:
                self.log.write(record)


@dataclass
class Guard:
    """Middleware that checks the key or the origin, and the limits, of each request."""

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
    """Middleware that limits a body to `maximum` bytes, each part to `seconds` and the whole to `WHOLE_BODY` times as
    long. After a 413 the rest of the body is read for a while: many clients read no response before they have sent
    their body, and would lose it if the connection were closed."""

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
            while (await receive()).get("more_body", False):  # false at the end and on disconnect
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
