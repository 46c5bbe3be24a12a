"""Limits on request bodies: 413 for one that is too long, 408 for one that does not arrive."""

from __future__ import annotations

import asyncio
import contextlib
import time

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ms_codegeex.serving.errors import ApiError

BODY_SECONDS = 30.0  # for the next part of a body
WHOLE_BODY = 10  # times as long for all parts together
DRAIN_SECONDS = 5.0  # so long a body is read and dropped after its 413


class BodyLimit:
    """At most `most` bytes, each part within `seconds`, and all of it within `WHOLE_BODY` times as long.

    Many clients read no answer before they have sent their body, and if the connection is closed in the meantime the
    answer is lost. So after a 413 the rest of the body is read for a while.
    """

    def __init__(self, app: ASGIApp, maximum: int, seconds: float = BODY_SECONDS):
        self.app, self.maximum, self.seconds = app, maximum, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request whose body is short enough."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        declared = dict(scope["headers"]).get(b"content-length", b"")
        if declared.isdigit() and int(declared) > self.maximum:
            return await self._too_long().response()(scope, receive, self._draining(receive, send))
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
                raise HTTPException(413, self._too_long().message)
            return message

        draining = self._draining(receive, send)

        async def sending(message: Message) -> None:
            await (draining if count > self.maximum and more else send)(message)

        return await self.app(scope, counted, sending)

    def _draining(self, receive: Receive, send: Send) -> Send:
        """Sends a response, and reads on before its end."""

        async def drain() -> None:
            while (await receive()).get("more_body", False):  # until the end, or the client is gone
                pass

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                await send({**message, "more_body": True})
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(drain(), DRAIN_SECONDS)
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        return sending

    def _too_long(self) -> ApiError:
        return ApiError(413, f"the body is longer than the {self.maximum} bytes that this server takes")
