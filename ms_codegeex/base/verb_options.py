"""Options of verbs for which one dataclass is not enough: several groups, or actions with options of their own."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ms_codegeex.base.options import Option, OptionGroup, add_options, option

# of every verb that takes --model; `formats.files.chosen_place` gives the place
CHECKPOINT = Option(
    "of a run given as --model: its last checkpoint, its best or that of step N (default: the best if the run keeps "
    "it, otherwise the last)",
    "last|best|N",
)

# of verbs that write a model with its numbers as they are
NON_FINITE = Option(
    "also write numbers that are not finite, as a model that diverged has them", flag="allow-non-finite"
)


@dataclass(frozen=True)
class Actions:
    """The actions of a verb, one of which follows it, as in `checkpoint list`; each with its summary and options.
    `name`: what `--help` calls them. `abbreviated`: whether options may be. `alone`: for a verb without an action."""

    options: Mapping[str, tuple[str, Sequence[type | OptionGroup]]]
    name: str = "action"
    abbreviated: bool = True
    alone: Sequence[type] = ()


@dataclass(frozen=True)
class JsonOption:
    """How a result is printed."""

    json: bool = option("print one JSON object on standard output", default=False)


def declare(parser: argparse.ArgumentParser, options: Sequence[type | OptionGroup] | Actions) -> None:
    """Add the options of a verb; a dataclass alone is a group without a title."""
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
