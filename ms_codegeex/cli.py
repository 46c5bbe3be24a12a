"""The command line `ms-codegeex VERB`: one verb for each capability.

A verb is a module in the folder that `VERBS` names. The module has `SUMMARY`, `EXAMPLES` and `run(arguments)`. Its
options are either a dataclass `Arguments`, or, if one dataclass is not enough, `OPTIONS`, a list of groups or actions
(`base/verb_options.py`); `run` then gets the namespace. A dash in the verb's name is an underscore in the module's
name. Verb modules import the engine only inside `run`, so `--help` is fast. `EXTRA` names the extra whose packages a
verb needs. If they are not installed, both `--help` and the verb itself say how to install them.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import importlib
import signal
import sys
from collections.abc import Sequence
from types import ModuleType

import ms_codegeex
from ms_codegeex.base.ending import open_closed_streams, print_failure
from ms_codegeex.base.errors import UserError, suggestion
from ms_codegeex.base.extras import explained, install_line, missing_packages, without_packages
from ms_codegeex.base.interrupts import after_imports
from ms_codegeex.base.options import given
from ms_codegeex.base.verb_options import declare
from ms_codegeex.commands.help_text import EXAMPLES, Parser, complete_actions

VERBS = {  # verb -> folder of its module, in the order of `--help`
    "prepare": "extras.corpus.commands",
    "tokenizer": "extras.corpus.commands",
    "inspect": "commands",
    "train": "commands",
    "finetune": "commands",
    "monitor": "commands",
    "checkpoint": "commands",
    "convert": "commands",
    "adapter": "commands",
    "quantize": "commands",
    "generate": "commands",
    "serve": "extras.serving.commands",
    "complete": "extras.terminal.commands",
    "chat": "extras.terminal.commands",
    "evaluate": "extras.evaluation.commands",
    "plan": "extras.cluster.commands",
    "rehearse": "extras.cluster.commands",
    "rank-table": "commands",
    "doctor": "commands",
    "completion": "commands",
}

GROUPS = {  # first verb of each group -> the group's heading
    "prepare": "data",
    "train": "training",
    "checkpoint": "models",
    "generate": "use",
    "evaluate": "evaluation",
    "plan": "clusters",
    "doctor": "this machine",
}
BEGIN = """\
begin here:
  ms-codegeex doctor                             # what this machine can do
  ms-codegeex train --config codegeex_tiny       # a small model, in minutes
  ms-codegeex chat --model runs/codegeex_tiny    # try it
  ms-codegeex finetune --model DIR --data FILE   # tune a model that you have

`ms-codegeex VERB --help` explains a verb and shows examples"""


def build_parser(verbs: Sequence[str] = tuple(VERBS)) -> argparse.ArgumentParser:
    """Return the parser of these verbs, each configured by its own module."""
    parser = Parser(
        prog="ms-codegeex",
        description="train, convert and run code language models on MindSpore",
        epilog=BEGIN,
    )
    parser.add_argument("--version", action="version", version=f"ms-codegeex {ms_codegeex.__version__}")
    parser.set_defaults(parser=parser)  # `completion` needs the whole parser
    parsers = parser.add_subparsers(title="verbs", dest="verb", metavar="VERB", required=True)
    for name in verbs:
        module = _module(name)
        summary = module.SUMMARY
        if _missing(module):
            summary += f"\nnot installed: {install_line(module.EXTRA)}"
        verb = parsers.add_parser(name, help=summary, description=summary, epilog=EXAMPLES + module.EXAMPLES)
        parsers._choices_actions[-1].heading = GROUPS.get(name, "")  # type: ignore[attr-defined]
        if hasattr(module, "Arguments"):
            declare(verb, [module.Arguments])
            verb.set_defaults(run=lambda arguments, of=module: of.run(given(of.Arguments, arguments)))
        else:
            declare(verb, module.OPTIONS)
            verb.set_defaults(run=module.run)
        complete_actions(verb, module.EXAMPLES)
    return parser


def _module(verb: str) -> ModuleType:
    return importlib.import_module(f"ms_codegeex.{VERBS[verb]}.{verb.replace('-', '_')}")


def _missing(module: ModuleType) -> list[str]:
    return missing_packages(module.EXTRA) if hasattr(module, "EXTRA") else []


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line. Unlike plain argparse, this accepts `key=value` words between and after options, and `help
    VERB`. Raises `UserError` for an unknown verb, action or option, and for a verb whose extra is not installed."""
    words = [*(sys.argv[1:] if argv is None else argv)]
    if not words:
        raise UserError("a verb is missing; `ms-codegeex --help` lists them and says where to begin")
    if words[0] == "help":
        words = [*words[1:], "--help"]
    verb_name = next((word for word in words if not word.startswith("-")), "")
    alone = verb_name in VERBS and verb_name != "completion"  # declaring the options of all verbs takes 0.1 s
    if alone and not {"-h", "--help"} & {*words} and (missing := _missing(_module(verb_name))):
        raise without_packages(missing, _module(verb_name).EXTRA)
    parser = build_parser((verb_name,) if alone else tuple(VERBS))
    _check_names(parser, words)
    arguments, rest = parser.parse_known_args(words)
    if rest and hasattr(arguments, "overrides") and all("=" in word and not word.startswith("-") for word in rest):
        arguments.overrides.extend(rest)
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return arguments


def _check_names(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Raise `UserError` for an unknown verb, action or option, and suggest a similar name. If other actions of the verb
    (such as other tasks of `evaluate`) have the option, the message names them."""
    actions: dict[str, argparse.ArgumentParser] = {}
    name = parser.prog
    for word in words:
        inner = next((each for each in parser._actions if isinstance(each, argparse._SubParsersAction)), None)
        option = word.partition("=")[0]
        if word == "--":
            return
        if word.startswith("--"):
            known = parser._option_string_actions
            if option in known or (parser.allow_abbrev and any(each.startswith(option) for each in known)):
                continue
            having = [other for other, each in actions.items() if option in each._option_string_actions]
            if having:
                raise UserError(f"{option}: {name} has no such option, only {', '.join(having)}; leave it out")
            shown = [each for each, action in known.items() if action.help is not argparse.SUPPRESS]
            raise UserError(f"{option}: {name} has no such option; {_meant(option, shown, parser.prog)}")
        if inner is not None and not word.startswith("-"):
            if word not in inner.choices:
                raise UserError(
                    f"{word}: no {inner.metavar} of {parser.prog}; {_meant(word, [*inner.choices], parser.prog)}"
                )
            actions, parser, name = inner.choices, inner.choices[word], word


def _meant(name: str, known: Sequence[str], command: str) -> str:
    near = suggestion(name, known)
    return near if near.startswith("did you mean") else f"`{command} --help` lists them"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status: 0 done, 1 failed, 2 the user's mistake, 130 interrupted."""
    name = "ms-codegeex"
    open_closed_streams()
    atexit.register(gc.freeze)  # otherwise an exiting process runs several full garbage collections
    try:
        with after_imports():
            arguments = parse(argv)
            name = f"ms-codegeex {arguments.verb}"
            # an exception lets the verb remove partial output
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
            return arguments.run(arguments) or 0
    except (Exception, KeyboardInterrupt) as error:
        return print_failure(name, explained(error))


if __name__ == "__main__":
    sys.exit(main())
