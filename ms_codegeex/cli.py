"""`ms-codegeex VERB`: one command, one verb per capability.

A verb is a module in `ms_codegeex.commands` with `SUMMARY`, `EXAMPLES`, `run(arguments)`, and either a dataclass
`Arguments` or, if one dataclass cannot declare them, `configure(parser)`. A dash in the verb's name is an underscore in
the module's. Those modules import the engine only inside `run`, so `--help` is fast.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from collections.abc import Sequence
from functools import partial
from types import ModuleType

import ms_codegeex
from ms_codegeex.base.ending import open_closed_streams, print_failure
from ms_codegeex.base.errors import UserError
from ms_codegeex.base.interrupts import after_imports
from ms_codegeex.base.options import add_options, given
from ms_codegeex.commands.help_text import EXAMPLES, Parser, complete_actions

VERBS = (
    "prepare",
    "inspect",
    "train",
    "finetune",
    "ladder",
    "monitor",
    "checkpoint",
    "convert",
    "adapter",
    "quantize",
    "generate",
    "serve",
    "complete",
    "chat",
    "evaluate",
    "reproduce",
    "plan",
    "calibrate",
    "rehearse",
    "rank-table",
    "tokenizer",
    "doctor",
    "completion",
)


def build_parser(verbs: Sequence[str] = VERBS) -> argparse.ArgumentParser:
    """The command line of these verbs, each configured by its own module."""
    parser = Parser(
        prog="ms-codegeex",
        description="train, convert and run code language models on MindSpore",
        epilog="`ms-codegeex VERB --help` explains a verb and shows examples",
    )
    parser.add_argument("--version", action="version", version=f"ms-codegeex {ms_codegeex.__version__}")
    parser.set_defaults(parser=parser)  # `completion` describes all of it
    parsers = parser.add_subparsers(title="verbs", dest="verb", metavar="VERB", required=True)
    for name in verbs:
        module = importlib.import_module(f"ms_codegeex.commands.{name.replace('-', '_')}")
        verb = parsers.add_parser(
            name, help=module.SUMMARY, description=module.SUMMARY, epilog=EXAMPLES + module.EXAMPLES
        )
        if hasattr(module, "Arguments"):
            add_options(verb, module.Arguments)
            verb.set_defaults(run=partial(_run, module))
        else:
            module.configure(verb)
            verb.set_defaults(run=module.run)
        complete_actions(verb, module.EXAMPLES)
    return parser


def _run(module: ModuleType, arguments: argparse.Namespace) -> int | None:
    return module.run(given(module.Arguments, arguments))


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line. Unlike plain argparse, accepts `key=value` words between and after options."""
    words = sys.argv[1:] if argv is None else argv
    verb_name = next((word for word in words if not word.startswith("-")), "")
    alone = verb_name in VERBS and verb_name != "completion"  # options of all verbs take 0.1 s
    parser = build_parser((verb_name,) if alone else VERBS)
    arguments, rest = parser.parse_known_args(words)
    if rest and hasattr(arguments, "overrides") and all("=" in word and not word.startswith("-") for word in rest):
        arguments.overrides.extend(rest)
    elif rest:
        _check_other_actions(parser, words, rest[0].partition("=")[0])
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return arguments


def _check_other_actions(parser: argparse.ArgumentParser, words: Sequence[str], option: str) -> None:
    """`UserError` for an option that only other actions of a verb have, such as other tasks of `evaluate`."""
    actions: dict[str, argparse.ArgumentParser] = {}
    name = parser.prog
    for word in words:
        choices = next((x.choices for x in parser._actions if isinstance(x, argparse._SubParsersAction)), {})
        if word in choices:
            actions, parser, name = choices, choices[word], word
    having = [other for other, each in actions.items() if option[:2] == "--" and option in each._option_string_actions]
    if having:
        raise UserError(f"{option}: {name} has no such option, only {', '.join(having)}; leave it out")


def _terminate(*_: object) -> None:
    sys.exit(128 + signal.SIGTERM)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status (0 done, 1 failed, 2 the user's mistake, 130 interrupted)."""
    name = "ms-codegeex"
    open_closed_streams()
    try:
        with after_imports():
            arguments = parse(argv)
            name = f"ms-codegeex {arguments.verb}"
            signal.signal(signal.SIGTERM, _terminate)  # as an exception, so that partial output is removed
            return arguments.run(arguments) or 0
    except (Exception, KeyboardInterrupt) as error:
        return print_failure(name, error)


if __name__ == "__main__":
    sys.exit(main())
