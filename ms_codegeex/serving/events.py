"""Server-sent events: a response that is written in parts and cancelled when the client leaves."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Send

from ms_codegeex.serving.errors import ApiError, failed

Result = TypeVar("Result")
DONE = b"data: [DONE]\n\n"


def event(value: Any) -> bytes:
    """One event with a JSON object."""
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n\n"


class EventStream(StreamingResponse):
    """Events from a generator, which is closed as soon as the client is gone. An `ApiError` becomes the last event."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None]):
        super().__init__(events, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self.events = events

    async def stream_response(self, send: Send) -> None:
        """Send the events. Headers go with the first one, so that an earlier error has its own status."""
        started = False
        try:
            async for data in self.events:
                if not started:
                    await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                    started = True
                await send({"type": "http.response.body", "body": data, "more_body": True})
        except ApiError as error:
            if not started:
                response = error.response()
                await send({"type": "http.response.start", "status": error.status, "headers": response.raw_headers})
                await send({"type": "http.response.body", "body": response.body})
                return
            await send({"type": "http.response.body", "body": event(error.body()), "more_body": True})
        except Exception:
            if not started:
                raise  # the application answers with status 500
            logging.getLogger(__name__).exception("a stream has failed")
            await send({"type": "http.response.body", "body": event(failed().body()), "more_body": True})
        finally:
            await self.events.aclose()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(request: Request, work: Callable[[], Awaitable[Result]]) -> Result:
    """The result of `work`, which is cancelled when the client goes away. The body must have been read."""
    gone = asyncio.ensure_future(_gone(request.receive))
    working = asyncio.ensure_future(work())
    try:
        await asyncio.wait({gone, working}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        working.cancel()
        await asyncio.wait({gone, working})
    if working.cancelled():
        raise ApiError(499, "the client has closed the connection")  # nobody reads the result
    return working.result()
