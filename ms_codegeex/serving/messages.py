"""Messages between the server and its engine over a socket: JSON preceded by its length.

To the engine, first the options of `Generator`, then
    ["begin", number, ids, settings, likeliest tokens of the prompt's or null]   ["cancel", number]
and back, first {"slots": …} or {"error": …, "status": …}, then once per scheduler step
    [[[number, tokens, finish], …], [guessed, accepted, reused, passes]]
A token is [id, log-probability, likeliest tokens]. An answer's first entry has its prompt's tokens as a fourth item if
they were requested; when finish is "error", the fourth item says why.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ms_codegeex.generation.choice import Chosen
from ms_codegeex.generation.sampling import SamplingSettings

LENGTH = struct.Struct("<I")
PIECE = 1 << 16


def packed(value: Any) -> bytes:
    """The bytes of a message."""
    data = json.dumps(value, separators=(",", ":")).encode()
    return LENGTH.pack(len(data)) + data


class Unpacker:
    """Splits bytes, which come in any pieces, into messages."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """The messages that these bytes complete."""
        self._data += data
        found, place = [], 0
        while len(self._data) - place >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._data, place)
            begin = place + LENGTH.size
            if len(self._data) < begin + length:
                break
            found.append(json.loads(self._data[begin : begin + length]))
            place = begin + length
        del self._data[:place]
        return found


def receive(connection: socket.socket, unpacker: Unpacker) -> list[Any] | None:
    """The next messages, None at the end of the connection; waits as the socket does."""
    data = connection.recv(PIECE)
    return unpacker.feed(data) if data else None


def settings_values(settings: SamplingSettings) -> dict[str, Any]:
    """The settings that the engine needs: the server handles stop texts and the number of answers."""
    values = asdict(settings)
    for name in ("stop", "n", "beams", "length_penalty"):
        del values[name]
    return values


def settings_from(values: dict[str, Any]) -> SamplingSettings:
    """The settings from the values of `settings_values`."""
    bias = {int(number): value for number, value in values["logit_bias"].items()}
    return SamplingSettings(**{**values, "logit_bias": bias})


def chosen_from(values: Sequence[Any]) -> Chosen:
    """The token from its values in a message."""
    token, score, best = values
    return Chosen(token, score, tuple((number, other) for number, other in best))
