"""Options of verbs for which one dataclass is not enough: several groups, or actions with their own options."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ms_codegeex.base.options import Option, OptionGroup, add_options, option

# for every verb with --model; `formats.files.chosen_place` resolves it
CHECKPOINT = Option(
    "of a run given as --model: its last checkpoint, its best or that of step N (default: the best if the run keeps "
    "it, otherwise the last)",
    "last|best|N",
)

# for verbs that write a model without changing its numbers
NON_FINITE = Option(
    "also write numbers that are not finite, as a model that diverged has them", flag="allow-non-finite"
)


@dataclass(frozen=True)
class Actions:
    """The actions of a verb, such as `checkpoint list`, each with its summary and options. `name`: what `--help` calls
    an action. `abbreviated`: whether options may be abbreviated. `alone`: options of the verb without an action."""

    options: Mapping[str, tuple[str, Sequence[type | OptionGroup]]]
    name: str = "action"
    abbreviated: bool = True
    alone: Sequence[type] = ()


@dataclass(frozen=True)
class JsonOption:
    """The choice between JSON and text output."""

    json: bool = option("print one JSON object on standard output", default=False)


def declare(parser: argparse.ArgumentParser, options: Sequence[type | OptionGroup] | Actions) -> None:
    """Add the options of a verb to `parser`. A bare dataclass is a group without a title."""
    if isinstance(options, Actions):
        declare(parser, options.alone)
        words = {"title": f"{options.name}s", "dest": options.name, "metavar": options.name.upper()}
        actions = parser.add_subparsers(**words, required=not options.alone)
        for name, (summary, inner) in options.options.items():
            declare(actions.add_parser(name, help=summary, allow_abbrev=options.abbreviated), inner)
        return
    groups: dict[str, argparse._ActionsContainer] = {"": parser}
    for each in options:
        group = each if isinstance(each, OptionGroup) else OptionGroup(each)
        if group.title not in groups:
            groups[group.title] = parser.add_argument_group(group.title, group.text)
        add_options(groups[group.title], group.kind, group.names, group.over)
