"""Options that several verbs share: how tokens are chosen, and where an answer ends."""

from __future__ import annotations

import argparse
import re
from typing import Any

from ms_codegeex.base.options import add_options, given
from ms_codegeex.generation.levels import AUTO, LEVEL_HELP, LEVEL_NAMES
from ms_codegeex.generation.sampling import SamplingSettings, request_fields


def configure(parser: argparse.ArgumentParser, *others: str) -> None:
    """Length, seed, what requests have too, and other fields of `SamplingSettings`."""
    names = {"max_new_tokens", "seed", *(each.name for each in request_fields()), *others}
    add_options(parser, SamplingSettings, names)
    parser.add_argument("--greedy", action="store_true", help="always the likeliest token; the same as --temperature 0")


def configure_device(parser: argparse.ArgumentParser, *aliases: str) -> None:
    """The kind of device that computes, and how many share the model. `aliases`: other names of `--devices`."""
    parser.add_argument(
        "--device",
        choices=("cpu", "gpu", "ascend"),
        help="device that computes (default: MindSpore's choice); gpu and ascend use MindSpore's own operators",
    )
    parser.add_argument(
        "--devices",
        *aliases,
        type=int,
        default=1,
        metavar="N",
        help="share the model among N processes, on a machine with GPUs one for each (default: 1)",
    )


def configure_cpu_level(parser: argparse._ActionsContainer) -> None:
    """The level of the compiled operators."""
    parser.add_argument(
        "--cpu-level",
        choices=LEVEL_NAMES,
        default=AUTO,
        help=LEVEL_HELP,
    )


def prepare_device(name: str | None) -> None:
    """Make this process ready for a kind of device. Call it before the engine is imported."""
    if name == "gpu":
        from ms_codegeex.cuda.libraries import prepare

        prepare()


def choose_device(name: str) -> None:
    """Let every model that this process opens later compute on a kind of device."""
    prepare_device(name)
    from ms_codegeex.generation.targets import use_device

    use_device(name)


def configure_stop(parser: argparse.ArgumentParser) -> None:
    """Texts that end an answer."""
    parser.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="end before this text; \\n, \\t and \\\\ stand for a line break, a tab, a backslash; may be repeated",
    )


def configure_stop_at(parser: argparse.ArgumentParser) -> None:
    """The end of a block as the end of an answer."""
    parser.add_argument(
        "--stop-at",
        choices=("block",),
        help="end with the block that the prompt began: before a line in the first column (Python), after its "
        "closing brace (languages with braces; see --language)",
    )


def _unescaped(text: str) -> str:
    r"""With \n, \t and \\ replaced; other backslashes stay."""
    known = {"n": "\n", "t": "\t", "\\": "\\"}
    return re.sub(r"\\([nt\\])", lambda match: known[match[1]], text)


def settings(arguments: argparse.Namespace, **others: Any) -> SamplingSettings:
    """The settings from the options of `configure` and `configure_stop`, and others. `UserError` for a number out of
    range."""
    others["stop"] = tuple(map(_unescaped, arguments.stop))
    if arguments.greedy:
        others["temperature"] = 0.0
    return given(SamplingSettings, arguments, **others)
