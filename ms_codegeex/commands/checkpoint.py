"""`ms-codegeex checkpoint`: list, verify and compare checkpoints, and write them for other meshes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ms_codegeex.base.errors import UserError, escaped
from ms_codegeex.base.extras import extra
from ms_codegeex.base.options import REQUIRED, given_values, option
from ms_codegeex.base.printing import print_result
from ms_codegeex.base.verb_options import Actions, JsonOption

if TYPE_CHECKING:
    from tqdm import tqdm

    from ms_codegeex.formats.provenance import Statement

SUMMARY = "list, verify and compare checkpoints, and write them for other meshes"
EXAMPLES = """\
  ms-codegeex checkpoint list runs/tiny
  ms-codegeex checkpoint verify runs/tiny/checkpoints/step-00000040 --json
  ms-codegeex checkpoint verify tiny-hf  # the files that a conversion wrote, by its provenance.json
  ms-codegeex checkpoint reshard runs/tiny --output sharded --data 2 --tensor 2 --optimizer-shard 2
  ms-codegeex checkpoint merge mindspore_ranks --output whole
  ms-codegeex checkpoint diff runs/tiny runs/other"""
MAX_RANKS = 65_536
SOURCE = "a checkpoint or run directory, or another model, such as MindSpore's rank files with their strategy files"


@dataclass(frozen=True)
class MeshOptions:
    """The axes of the mesh to write for."""

    data: int = option("data-parallel replicas", "N", 1, ge=1)
    tensor: int = option("tensor-parallel shards", "N", 1, ge=1)
    pipeline: int = option("pipeline stages", "N", 1, ge=1)
    optimizer_shard: int = option("replicas that share one copy of weights and optimizer state", "N", 1, ge=1)


@dataclass(frozen=True)
class ListOptions:
    """The checkpoints to list."""

    directory: Path = option("run or checkpoint directory", "DIR", REQUIRED, positional=True)


@dataclass(frozen=True)
class VerifyOptions:
    """The checkpoints or files to verify."""

    directory: Path = option(
        "run or checkpoint directory, or a directory or file with a provenance.json", "DIR", REQUIRED, positional=True
    )


@dataclass(frozen=True)
class RewriteOptions:
    """The source to read, and the checkpoint to write."""

    source: Path = option(SOURCE, "DIR", REQUIRED, positional=True)
    output: Path = option("the checkpoint to write", "DIR", REQUIRED)
    set: tuple[str, ...] = option(
        "a size that DIR does not record, such as num_heads=40; may be repeated", "KEY=VALUE", (), repeated=True
    )


@dataclass(frozen=True)
class DiffOptions:
    """The two models to compare."""

    left: Path = option(SOURCE, "A", REQUIRED, positional=True)
    right: Path = option("another one, of any mesh", "B", REQUIRED, positional=True)


OPTIONS = Actions(
    {
        "list": (
            "show step and size, whether the file sizes match the manifest, and whether later steps were finite",
            [ListOptions, JsonOption],
        ),
        "verify": (
            "recompute every hash, also of a model that this program wrote; exit status 1 if one does not match",
            [VerifyOptions, JsonOption],
        ),
        "reshard": (
            "write the files that the ranks of another mesh would write, including the optimizer state",
            [RewriteOptions, MeshOptions, JsonOption],
        ),
        "merge": ("write complete tensors into one file", [RewriteOptions, JsonOption]),
        "diff": ("show which tensors differ and by how much; exit status 1 if any does", [DiffOptions, JsonOption]),
    }
)


def run(arguments: argparse.Namespace) -> int:
    actions = {"diff": _diff, "list": _check, "verify": _check}
    return actions.get(arguments.action, _reshard)(arguments)


@contextmanager
def _progress(label: str, total: int) -> Iterator[tqdm]:
    """Show a progress bar on standard error if that is a terminal."""
    from tqdm import tqdm

    with tqdm(desc=label, total=total, unit="B", unit_scale=True, disable=None if total else True) as bar:
        yield bar


def _check(arguments: argparse.Namespace) -> int:
    from ms_codegeex.formats.model_description import (
        bytes_of_tensors,
        checkpoint_line,
        checkpoints_in,
        summarise_checkpoints,
    )
    from ms_codegeex.formats.provenance import read_statement

    directory, verifies = arguments.directory, arguments.action == "verify"
    if verifies and (recorded := read_statement(directory)) is not None:
        return _check_statement(directory, recorded, arguments.json)
    paths = checkpoints_in(directory)
    with _progress("verify", sum(map(bytes_of_tensors, paths)) if verifies else 0) as bar:
        reports = summarise_checkpoints(directory, paths, verifies, bar.update)
    print_result({"checkpoints": reports}, "\n".join(map(checkpoint_line, reports)), arguments.json)
    return int(verifies and not all(report["sound"] for report in reports))


def _check_statement(target: Path, recorded: Statement, as_json: bool) -> int:
    from ms_codegeex.base.quarantine import SIGNATURE
    from ms_codegeex.formats.provenance import made_from

    sizes = [file["size"] for file in recorded.ends.values()]
    with _progress("verify", sum(sizes)) as bar:
        different = recorded.differences(target, True, bar.update)
    origin = made_from(recorded)
    signed = (target / SIGNATURE).is_file()
    result = {
        "path": str(target),
        "sound": not different,
        "statement": str(recorded.path),
        "files": len(sizes),
        "bytes": sum(sizes),
        "made": origin,
        "signature": "not checked" if signed else None,
        "inputs": recorded.origin.get("inputs"),
        "differences": [{"file": each.name, "what": each.what} for each in different],
    }
    lines = [f"{target / each.name if target.is_dir() else target}: {each.what}" for each in different]
    sound = f"sound, {len(sizes)} files, {sum(sizes):,} bytes" if not different else f"{len(different)} files differ"
    unchecked = f"; {SIGNATURE} not checked: `model_signing verify` does" if signed else ""
    print_result(result, "\n".join(map(escaped, [*lines, f"{target}: {sound}; {origin}{unchecked}"])), as_json)
    return int(bool(different))


def _reshard(arguments: argparse.Namespace) -> int:
    from ms_codegeex.base.mesh import Mesh
    from ms_codegeex.commands.convert import known_sizes
    from ms_codegeex.formats.checkpoint_writing import write_ranks
    from ms_codegeex.formats.model_description import checkpoint_line, summarise_checkpoint
    from ms_codegeex.runs.resharding import check_output, open_contents, rank_slices

    mesh, output = Mesh(**given_values(MeshOptions, arguments)), arguments.output
    if mesh.world > MAX_RANKS:
        raise UserError(f"a mesh of {mesh.world:,} ranks; expected at most {MAX_RANKS:,}, since each writes its file")
    contents = open_contents(arguments.source, known_sizes(arguments.set or ()))
    check_output(output, contents.step)
    with _progress(arguments.action, contents.nbytes) as bar:
        write_ranks(output, contents.step, contents.state, rank_slices(contents, mesh, bar.update))
    report = summarise_checkpoint(output, hashes=False)
    print_result(report, checkpoint_line(report), arguments.json)
    return 0


def _diff(arguments: argparse.Namespace) -> int:
    from ms_codegeex.runs.resharding import open_pair, state_differences

    auditing = extra("checkpoint diff", "tensors")
    left, right = open_pair(arguments.left, arguments.right)
    with _progress("diff", max(left.nbytes, right.nbytes)) as bar:
        different = list(auditing.differences(left.tensors, right.tensors, bar.update))
    states = state_differences(left, right)
    paths = {"first": str(left.path), "second": str(right.path)}
    result = {**paths, "tensors": [auditing.as_json(each) for each in different], "state": states}
    same = len(left.tensors.keys() & right.tensors.keys()) - sum(each.what is None for each in different)
    lines = [*map(auditing.line, different)]
    lines += [f"state {key}: {json.dumps(one)} and {json.dumps(other)}" for key, (one, other) in states.items()]
    lines.append(f"{len(different)} tensors differ, {same} of the common ones are equal; {left.path} and {right.path}")
    print_result(result, "\n".join(lines), arguments.json)
    return int(bool(different or states))
