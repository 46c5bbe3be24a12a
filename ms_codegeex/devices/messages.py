"""Messages between an engine and its devices' processes: a JSON object and arrays, through pipes."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

LENGTH = struct.Struct("<I")


def send(stream: BinaryIO, head: Mapping[str, Any], arrays: Sequence[np.ndarray] = ()) -> None:
    """Write a message and flush it."""
    described = [[array.dtype.name, list(array.shape)] for array in arrays]
    text = json.dumps({**head, "arrays": described}).encode()
    stream.write(LENGTH.pack(len(text)) + text)
    for array in arrays:
        stream.write(memoryview(np.ascontiguousarray(array)).cast("B") if array.size else b"")
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The next message. `EOFError` if the writer has gone."""
    (length,) = LENGTH.unpack(_exactly(stream, LENGTH.size))
    head = json.loads(_exactly(stream, length))
    arrays = []
    for name, shape in head.pop("arrays"):
        dtype = np.dtype(name)
        count = int(np.prod(shape)) * dtype.itemsize
        arrays.append(np.frombuffer(_exactly(stream, count), dtype).reshape(shape))
    return head, arrays


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count) if count else b""
    if len(data) != count:
        raise EOFError
    return data
