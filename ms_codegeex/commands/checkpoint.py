"""`ms-codegeex checkpoint`: list and verify checkpoints."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ms_codegeex.commands.artefacts import checkpoint_line, summarise_checkpoint
from ms_codegeex.errors import UserError

SUMMARY = "List the checkpoints of a run, or verify every byte of them."
EXAMPLES = """\
  ms-codegeex checkpoint list runs/tiny
  ms-codegeex checkpoint verify runs/tiny
  ms-codegeex checkpoint verify runs/tiny/checkpoints/step-00000040 --json"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions of this verb."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, summary in (
        ("list", "show step and size, whether the file sizes match the manifest, and whether later steps were finite"),
        ("verify", "recompute the hash of every tensor; exit status 1 if one is damaged"),
    ):
        action = actions.add_parser(name, help=summary, description=summary)
        action.add_argument("directory", type=Path, metavar="DIR", help="run or checkpoint directory")
        action.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """List or verify; the status is 1 when `verify` finds a damaged checkpoint."""
    from ms_codegeex.formats.checkpoint import MANIFEST
    from ms_codegeex.formats.checkpoint_folder import list_checkpoints

    directory = arguments.directory
    root = directory / "checkpoints" if (directory / "checkpoints").is_dir() else directory
    paths = [directory] if (directory / MANIFEST).is_file() else list_checkpoints(root)
    if not paths:
        raise UserError(f"{directory}: no checkpoints; expected a checkpoint directory or a run directory")
    reports = [summarise_checkpoint(path, hashes=arguments.action == "verify") for path in paths]
    if arguments.json:
        print(json.dumps({"checkpoints": reports}))
    else:
        for report in reports:
            print(checkpoint_line(report))
    return int(arguments.action == "verify" and not all(report["sound"] for report in reports))
