"""Options that several verbs share: how tokens are chosen, and where an answer ends."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from ms_codegeex.generation.levels import AUTO, LEVELS

if TYPE_CHECKING:
    from ms_codegeex.generation.sampling import SamplingSettings


def configure(parser: argparse.ArgumentParser) -> None:
    """Length, temperature, top-k, top-p, seed and penalties."""
    parser.add_argument(
        "--max-new-tokens", type=int, default=128, metavar="N", help="maximum number of tokens (default: 128)"
    )
    parser.add_argument("--temperature", type=float, default=0.8, metavar="T", help="0 is greedy (default: 0.8)")
    parser.add_argument("--greedy", action="store_true", help="always the likeliest token; the same as --temperature 0")
    parser.add_argument(
        "--top-k", type=int, default=0, metavar="K", help="only the K likeliest tokens (default: 0, off)"
    )
    parser.add_argument(
        "--top-p",
        type=float,
        default=0.95,
        metavar="P",
        help="only the likeliest tokens that make up probability P (default: 0.95; 1: off)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="the same seed gives the same text (default: 0)"
    )
    for name, metavar, default, text in (
        ("repetition", "F", 1.0, "divide positive logits of tokens in prompt and answer by F, multiply negative ones"),
        ("frequency", "X", 0.0, "subtract X from a token's logit for each time that it is in the answer"),
        ("presence", "X", 0.0, "subtract X from the logits of tokens in the answer"),
    ):
        parser.add_argument(
            f"--{name}-penalty",
            type=float,
            default=default,
            metavar=metavar,
            help=f"{text} (default: {default:g}, off)",
        )


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
        choices=(AUTO, *LEVELS),
        default=AUTO,
        help="instructions of the compiled operators (default: auto, the best that this CPU has; see `doctor`)",
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


def settings(arguments: argparse.Namespace) -> SamplingSettings:
    """The settings from the options of `configure` and `configure_stop`. `UserError` for a number out of range."""
    from ms_codegeex.generation.sampling import SamplingSettings

    return SamplingSettings(
        max_new_tokens=arguments.max_new_tokens,
        temperature=0.0 if arguments.greedy else arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        seed=arguments.seed,
        repetition_penalty=arguments.repetition_penalty,
        frequency_penalty=arguments.frequency_penalty,
        presence_penalty=arguments.presence_penalty,
        stop=tuple(map(_unescaped, arguments.stop)),
    )
