"""`ms-codegeex completion`: print the script with which a shell completes verbs, options and paths."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ms_codegeex.base.options import REQUIRED, option
from ms_codegeex.base.printing import print_out
from ms_codegeex.base.shipped import RECIPES, shipped_names

SUMMARY = "print the script that completes this command line in a shell"
EXAMPLES = """\
  ms-codegeex completion bash  # in ~/.bashrc: source <(ms-codegeex completion bash)
  ms-codegeex completion zsh   # as _ms-codegeex in a directory of $fpath
  ms-codegeex completion fish  # in ~/.config/fish/config.fish: ms-codegeex completion fish | source
"""


@dataclass(frozen=True)
class ShellOption:
    """The shell to print the script for."""

    shell: Literal["bash", "zsh", "fish"] = option("bash, zsh or fish", "SHELL", REQUIRED, positional=True)


OPTIONS = (ShellOption,)


def run(arguments: argparse.Namespace) -> None:
    """Print the completion script."""
    import shtab

    names = " ".join([*shipped_names(), *shipped_names(RECIPES)])
    function = f'_ms_codegeex_configs() {{ compgen -W "{names}" -- "$1"; compgen -f -- "$1"; }}'
    for action in _actions(arguments.parser):
        if "--config" in action.option_strings and arguments.shell == "bash":
            action.complete = {"bash": "_ms_codegeex_configs"}
        elif action.choices is None and (action.type is Path or action.metavar in ("DIR", "FILE")):
            action.complete = shtab.DIRECTORY if action.metavar == "DIR" else shtab.FILE
    print_out(shtab.complete(arguments.parser, arguments.shell, preamble={"bash": function}))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                yield from _actions(verb)
