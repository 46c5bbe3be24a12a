"""Messages between the server and its engine over a socket: JSON in the frames of `multiprocessing.connection`.

To the engine, first the options of `Generator`, then
    ["begin", number, ids, settings, likeliest tokens of the prompt's or null, [`Rule.of_block` or null, indent],
     client, its weight, whether the mean of the prompt's last hidden states is wanted]
    ["cancel", number]
and back, first {"slots": …} or {"error": …, "status": …}, then once per scheduler step
    [[[number, tokens, finish, computed], …], [guessed, accepted, reused, passes, suspended, prefixes' hits, tokens and
     bytes], the numbers of the requests that have slots]
A token is [id, log-probability, likeliest tokens]. `computed` counts the rows of passes for it so far. A fifth item
has, if requested, the prompt's tokens with an answer's first entry, or with the last one the mean of its hidden states,
FP32 numbers in base64; when finish is "error", it says why, and a sixth one is the status for the client.
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
    """The next message; `EOFError` at the end of the connection."""
    return unpacked(connection.recv_bytes())


def settings_values(settings: SamplingSettings) -> dict[str, Any]:
    return {**asdict(settings), "n": 1}


def settings_from(values: dict[str, Any]) -> SamplingSettings:
    """The settings from the values of `settings_values`."""
    bias = {int(number): value for number, value in values["logit_bias"].items()}
    texts = {name: tuple(values[name]) for name in ("stop", "calls")}
    return SamplingSettings(**{**values, **texts, "logit_bias": bias})


def chosen_from(values: Sequence[Any]) -> ChosenToken:
    token, score, best = values
    return ChosenToken(token, score, tuple((number, other) for number, other in best))
