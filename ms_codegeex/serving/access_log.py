"""The access log: a line of JSON for each request, without any text of prompts unless requested."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ms_codegeex.base.appending import AppendedFile
from ms_codegeex.base.errors import UserError
from ms_codegeex.base.printing import print_error

SHOWN = 200  # characters of a path
STANDARD_OUTPUT = 1


@dataclass
class RequestRecord:
    """The entries of a request in the access log. `guards.Recording` notes the first half, the routes the second. Times
    are seconds of a monotonic clock."""

    id: str
    client: str
    method: str
    path: str
    began: float
    key: str | None = None
    concurrent: int | None = None  # answers that the key may have in progress; not logged
    route: str = "unmatched"
    status: int = 0
    prompts: Sequence[Sequence[int]] = ()
    completion_tokens: int = 0
    first_token: float | None = None
    ended: float = 0.0

    def described(self) -> dict[str, Any]:
        """The values of the log line, without the texts of prompts."""
        return {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "request": self.id,
            "client": self.client,
            "key": self.key,
            "method": self.method,
            "route": self.route,
            "path": self.path[:SHOWN],
            "status": self.status,
            "prompt_tokens": sum(map(len, self.prompts)),
            "completion_tokens": self.completion_tokens,
            "first_token_seconds": None if self.first_token is None else round(self.first_token - self.began, 4),
            "seconds": round(self.ended - self.began, 4),
        }


class AccessLog:
    """Writes lines to a file, or to standard output if its name is `-`. `decode` turns prompts into the logged text."""

    def __init__(self, target: str, decode: Callable[[Sequence[int]], str] | None = None):
        self._target, self._decode = target, decode
        self._file, self._failed = self._opened(), False

    def _opened(self) -> AppendedFile:
        try:
            return AppendedFile(STANDARD_OUTPUT if self._target == "-" else Path(self._target))
        except OSError as error:
            raise UserError(
                f"--access-log: {self._target} cannot be written ({error.strerror}); give another file, or -"
            ) from None

    def write(self, record: RequestRecord) -> None:
        """Write the line of a request that has ended. A full disk or a closed pipe is reported once."""
        values = record.described()
        if self._decode is not None:
            values["prompts"] = [self._decode(ids) for ids in record.prompts]
        # ASCII only: no client can put a line break or a terminal's escape into the log
        line = json.dumps(values, separators=(",", ":"))
        failed = self._file.write(line)
        if failed and not self._failed:
            with contextlib.suppress(OSError):  # standard error may be gone too
                print_error(
                    f"--access-log: {self._target} cannot be written ({failed.strerror}); its lines wait, and are lost "
                    "if they become too many"
                )
        self._failed = failed is not None

    def reopen(self) -> None:
        """Open the file again, because the old one was moved away."""
        new = self._opened()
        self.close()
        self._file = new

    def close(self) -> None:
        """Close the file."""
        self._file.close()
