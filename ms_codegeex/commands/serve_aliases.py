"""The flags of CodeGeeX2's demo and API server, so that their command lines work here, or name what to write instead.

Flags with an equivalent are aliases of it: `--model-path` of `--model`, `--quantize` of `--bits`, `--listen` of
`--host`, `--n-gpus` of `--devices`. `--cpu` is the default. Each of the others is refused with one line.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from ms_codegeex.base.errors import UserError

_KEYS = "write a key into a file and give --api-key-file FILE"
_OPERATORS = "leave it out: the engine has its own compiled operators; --bits 8 or 4 rounds the weights"

REPLACED = {  # flag -> whether a value follows, what replaces it
    "--share": (False, "nothing leaves this machine; --host 0.0.0.0 --api-key-file FILE lets others reach it"),
    "--auth": (False, _KEYS),
    "--username": (True, _KEYS),
    "--password": (True, _KEYS),
    "--fastllm": (False, _OPERATORS),
    "--chatglm-cpp": (False, _OPERATORS),
    "--half": (False, "leave it out: 16-bit weights stay 16-bit; --cache-bits 16 halves the KV cache"),
    "--gpu": (
        True,
        "give --device gpu; CUDA_VISIBLE_DEVICES chooses GPUs; --devices N shares the model among N",
    ),
    "--workers": (True, "one process answers many requests at once; --max-concurrency N sets how many"),
}


class _Replaced(argparse.Action):
    """Remembers that the flag was given."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        namespace.replaced = [*namespace.replaced, self.option_strings[0]]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags that have no equivalent; --help does not list them."""
    parser.set_defaults(replaced=[])
    parser.add_argument("--cpu", action="store_true", help=argparse.SUPPRESS)
    for flag, (valued, _) in REPLACED.items():
        parser.add_argument(
            flag, action=_Replaced, nargs=None if valued else 0, dest=argparse.SUPPRESS, help=argparse.SUPPRESS
        )


def check(arguments: argparse.Namespace) -> None:
    """`UserError` for the first flag that has a replacement."""
    for flag in arguments.replaced:
        raise UserError(f"{flag} is a flag of CodeGeeX2's demo: {REPLACED[flag][1]}")
