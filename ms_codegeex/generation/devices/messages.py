"""Messages between an engine and its devices' processes: a JSON object and arrays, each in its own frame of
`multiprocessing.connection`. A server and its engine use such frames too."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np


def send(connection: Connection, head: Mapping[str, Any], arrays: Sequence[np.ndarray] = ()) -> None:
    """Send a message. Raises `OSError` if the reader is gone."""
    described = [[array.dtype.name, list(array.shape)] for array in arrays]
    connection.send_bytes(json.dumps({**head, "arrays": described}).encode())
    for array in arrays:
        connection.send_bytes(memoryview(np.ascontiguousarray(array)).cast("B") if array.size else b"")


def receive(connection: Connection) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Return the next message: its object and its read-only arrays. Raises `EOFError` if the writer is gone."""
    try:
        head = json.loads(connection.recv_bytes())
        described = head.pop("arrays")
        return head, [np.frombuffer(connection.recv_bytes(), name).reshape(shape) for name, shape in described]
    except OSError:  # the connection ended in the middle of a frame
        raise EOFError from None
