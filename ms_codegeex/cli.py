"""`ms-codegeex VERB`: one command, one verb per capability.

A verb is a module in the folder that `VERBS` names, with `SUMMARY`, `EXAMPLES`, `run(arguments)`, and either a
dataclass `Arguments` or, if one dataclass cannot declare them, `OPTIONS`: groups or actions (`base/verb_options.py`);
then `run` gets the namespace. A dash in the verb's name is an underscore in the module's. These modules import the
engine only inside `run`, so `--help` is fast.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import importlib
import signal
import sys
from collections.abc import Sequence

import ms_codegeex
from ms_codegeex.base.ending import open_closed_streams, print_failure
from ms_codegeex.base.errors import UserError
from ms_codegeex.base.interrupts import after_imports
from ms_codegeex.base.options import given
from ms_codegeex.base.verb_options import declare
from ms_codegeex.commands.help_text import EXAMPLES, Parser, complete_actions

VERBS = {  # where each verb lies, in the order in which `--help` shows them
    "prepare": "extras.corpus.commands",
    "inspect": "commands",
    "train": "commands",
    "finetune": "commands",
    "ladder": "extras.cluster.commands",
    "monitor": "commands",
    "checkpoint": "commands",
    "convert": "commands",
    "adapter": "commands",
    "quantize": "commands",
    "generate": "commands",
    "serve": "extras.serving.commands",
    "complete": "extras.serving.commands",
    "chat": "extras.serving.commands",
    "evaluate": "extras.evaluation.commands",
    "plan": "extras.cluster.commands",
    "calibrate": "extras.cluster.commands",
    "rehearse": "extras.cluster.commands",
    "rank-table": "commands",
    "tokenizer": "extras.corpus.commands",
    "doctor": "commands",
    "completion": "commands",
}


def build_parser(verbs: Sequence[str] = tuple(VERBS)) -> argparse.ArgumentParser:
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
        module = importlib.import_module(f"ms_codegeex.{VERBS[name]}.{name.replace('-', '_')}")
        verb = parsers.add_parser(
            name, help=module.SUMMARY, description=module.SUMMARY, epilog=EXAMPLES + module.EXAMPLES
        )
        if hasattr(module, "Arguments"):
            declare(verb, [module.Arguments])
            verb.set_defaults(run=lambda arguments, of=module: of.run(given(of.Arguments, arguments)))
        else:
            declare(verb, module.OPTIONS)
            verb.set_defaults(run=module.run)
        complete_actions(verb, module.EXAMPLES)
    return parser


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line. Unlike plain argparse, accepts `key=value` words between and after options."""
    words = sys.argv[1:] if argv is None else argv
    verb_name = next((word for word in words if not word.startswith("-")), "")
    alone = verb_name in VERBS and verb_name != "completion"  # options of all verbs take 0.1 s
    parser = build_parser((verb_name,) if alone else tuple(VERBS))
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status (0 done, 1 failed, 2 the user's mistake, 130 interrupted)."""
    name = "ms-codegeex"
    open_closed_streams()
    atexit.register(gc.freeze)  # a process that ends would look for garbage among all its objects, several times
    try:
        with after_imports():
            arguments = parse(argv)
            name = f"ms-codegeex {arguments.verb}"
            # as an exception, so that partial output is removed
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
            return arguments.run(arguments) or 0
    except (Exception, KeyboardInterrupt) as error:
        return print_failure(name, error)


if __name__ == "__main__":
    sys.exit(main())
