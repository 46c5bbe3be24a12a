"""Messages between the server and its engine over a socket: JSON in the frames of `multiprocessing.connection`.

The engine first receives the options of `Generator`, then
    ["begin", number, ids, settings, likeliest tokens per prompt token or null, [`Rule.of_block` or null, indent],
     client, the client's weight, whether the mean of the prompt's last hidden states is wanted]
    ["cancel", number]
    ["ping"], answered by an empty list
It first sends {"slots": …} or {"error": …, "status": …}, then after each scheduler step
    [[[number, tokens, finish, computed], …], [guessed, accepted, reused, passes, suspended, prefixes' hits, tokens and
     bytes], the numbers of the requests that have slots]
A token is [id, log-probability, likeliest tokens]. `computed` counts the rows computed for the request so far. If
requested, an answer's first entry has the prompt's tokens as a fifth item, or its last entry has the mean of the hidden
states (FP32 in base64). If finish is "error", the fifth item is the message and a sixth the status for the client.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any

from ms_codegeex.generation.sampling import ChosenToken, SamplingSettings


def packed(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def unpacked(data: bytes) -> Any:
    return json.loads(data)


def receive(connection: Connection) -> Any:
    """Wait for the next message. Raises `EOFError` at the end of the connection."""
    return unpacked(connection.recv_bytes())


def settings_values(settings: SamplingSettings) -> dict[str, Any]:
    return {**asdict(settings), "n": 1}


def settings_from(values: dict[str, Any]) -> SamplingSettings:
    """Rebuild the settings from what `settings_values` returned."""
    bias = {int(number): value for number, value in values["logit_bias"].items()}
    texts = {name: tuple(values[name]) for name in ("stop", "calls")}
    return SamplingSettings(**{**values, **texts, "logit_bias": bias})


def chosen_from(values: Sequence[Any]) -> ChosenToken:
    token, score, best = values
    return ChosenToken(token, score, tuple((number, other) for number, other in best))
