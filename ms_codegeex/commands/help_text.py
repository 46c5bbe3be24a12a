"""Format `--help`: wrapped to the terminal, with a short usage and examples to copy. Texts of the command line
(summaries, helps, headings) begin in lower case unless the first word is a name, do not end in a full stop, and write
defaults as `(default: X)`; tests/test_cli.py checks this."""

from __future__ import annotations

import argparse
import re
import shutil
import textwrap
from collections.abc import Iterable
from typing import NoReturn

from ms_codegeex.base.errors import escaped

EXAMPLES = "examples:\n"
WIDEST = 120  # longer lines are hard to read, even on a wide terminal
LONGEST_USAGE = 3  # lines


class HelpFormatter(argparse.HelpFormatter):
    """argparse's formatter, except that examples and all lines after a text's first keep their line breaks, and a long
    usage shows only what a command requires."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=min(shutil.get_terminal_size().columns, WIDEST) - 2)

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction) and action.help is not argparse.SUPPRESS:
            # argparse ignores the verbs' indentation, so its column would be too narrow for the longest ones.
            longest = max(len(name) for name in action.choices)
            indent = self._current_indent + self._indent_increment
            self._action_max_length = max(self._action_max_length, longest + indent)

    def _format_action(self, action: argparse.Action) -> str:
        heading = getattr(action, "heading", "")
        return (f"\n  {heading}:\n" if heading else "") + super()._format_action(action)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if not text.startswith(EXAMPLES):
            first, *further = text.split("\n")
            return "\n".join((super()._fill_text(first, width, indent), *further))
        lines = text.removeprefix(EXAMPLES).splitlines()
        return EXAMPLES + "\n".join(example for line in lines for example in _wrapped(line, width))

    def _split_lines(self, text: str, width: int) -> list[str]:
        first, *further = text.split("\n")
        return [*super()._split_lines(first, width), *further]

    def _format_usage(
        self,
        usage: str | None,
        actions: Iterable[argparse.Action],
        groups: Iterable[argparse._MutuallyExclusiveGroup],
        prefix: str | None,
    ) -> str:
        complete = super()._format_usage(usage, actions, groups, prefix)
        if len(complete.strip().splitlines()) <= LONGEST_USAGE:
            return complete
        needed = [action for action in actions if action.required or not action.option_strings]
        others = argparse.Action(["options"], "options", nargs=0)  # shown as "[options]"
        return super()._format_usage(usage, [others, *needed], [], prefix)


class Parser(argparse.ArgumentParser):
    """A parser that uses `HelpFormatter`; the parsers of its verbs are of this class too."""

    def __init__(self, **options) -> None:
        super().__init__(**{"formatter_class": HelpFormatter, **options})

    def error(self, message: str) -> NoReturn:
        super().error(escaped(message))


def complete_actions(verb: argparse.ArgumentParser, examples: str) -> None:
    """Add summaries and examples to the help of a verb's actions, such as `checkpoint list`."""
    for actions in verb._actions:
        if isinstance(actions, argparse._SubParsersAction):
            for summary in actions._choices_actions:
                action = actions.choices[summary.dest]
                action.description = summary.help
                lines = [line for line in examples.splitlines() if line.strip().startswith(f"{action.prog} ")]
                action.epilog = EXAMPLES + "\n".join(lines)


def _wrapped(example: str, width: int) -> list[str]:
    if len(example) <= width:
        return [example]
    command, hash_sign, comment = example.partition("  #")
    command = command.strip()
    if not hash_sign:
        before = []
    elif len(f"  {command}  #{comment}") <= width:
        return [f"  {command}  #{comment}"]
    else:
        before = [f"  #{comment}"]
    # No break inside quotes or between an option and its value.
    glued = re.sub(r"\"[^\"]*\"|'[^']*'", lambda quoted: quoted[0].replace(" ", "\0"), command)
    glued = re.sub(r"(?<= )(--?[\w-]+) (?!-)", "\\1\0", glued)
    lines = textwrap.wrap(glued, width - 8, break_long_words=False, break_on_hyphens=False)
    return [*before, "  " + " \\\n      ".join(line.replace("\0", " ") for line in lines)]
