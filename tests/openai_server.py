"""A small server with OpenAI's completions and chats, in a thread. It answers from a function, remembers requests."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# (text, finish reason), (status, message or error), (raw bytes, content type), or None, which is silence until the end
Answer = Callable[[dict[str, Any]], "tuple[str, str] | tuple[int, str | dict[str, Any]] | tuple[bytes, str] | None"]


class Server:
    """`with Server(answer) as server:` serves at `server.url`. Text is streamed three characters at a time."""

    def __init__(self, answer: Answer, models: tuple[str, ...] | bytes = ("small",)):
        self.requests: list[dict[str, Any]] = []
        self.authorizations: set[str] = set()
        self.streamed = 0
        self._over = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def log_message(self, *_: object) -> None:
                pass

            def _send(self, status: int, value: Any, kind: str = "application/json") -> None:
                data = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Retry-After-Ms", "1")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self) -> None:
                if isinstance(models, bytes):
                    return self._send(200, models)
                data = [{"id": name, "object": "model", "created": 0, "owned_by": "me"} for name in models]
                self._send(200, {"object": "list", "data": data})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append(body)
                outer.authorizations.add(self.headers["Authorization"])
                chat = self.path == "/v1/chat/completions"
                if self.path != "/v1/completions" and not chat:
                    return self._send(404, {"error": {"message": f"no {self.path}"}})
                given = answer(body)
                if given is None:
                    outer._over.wait()
                    return
                first, second = given
                if isinstance(first, bytes):
                    return self._send(200, first, second)
                if isinstance(first, int):
                    return self._send(first, {"error": second if isinstance(second, dict) else {"message": second}})
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                try:
                    for start in range(0, max(len(first), 1), 3):
                        last = start + 3 >= len(first)
                        piece = first[start : start + 3]
                        choice = {
                            **({"delta": {"content": piece}} if chat else {"text": piece}),
                            "index": 0,
                            "finish_reason": second if last else None,
                        }
                        event = {"id": "1", "object": "text_completion", "created": 0, "choices": [choice]}
                        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
                        outer.streamed += 1
                    self.wfile.write(b"data: [DONE]\n\n")
                except OSError:
                    pass  # the client has read enough

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Server:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
