"""Replay a git history: what a model suggests at each edit, with and without parts of other files, and how much of it a
user would have kept (docs/evaluation.md).

    python benchmarks/commits.py --model runs/infill --data my-repository --output replay --limit 200

Writes `edits.jsonl`, a line for each edit with both answers, and `report.json`.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from commit_history import Edit, Repository, chosen_edits, common, in_words
from common import options, print_command

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_file, write_json
from ms_codegeex.base.progress import Progress
from ms_codegeex.data.infilling.sentinels import joined_files
from ms_codegeex.extras.evaluation.infilling import INFILL, MORE, PREFIX, Asker
from ms_codegeex.extras.evaluation.local_model import LocalModel
from ms_codegeex.extras.evaluation.perplexity.scoring import Score
from ms_codegeex.extras.evaluation.reports.estimators import difference_interval, mean_share
from ms_codegeex.extras.evaluation.reports.scores import percent

COUNT, SEED, COMMITS = 100, 0, 1000
EDITS = "edits.jsonl"
ALONE, WITH_OTHERS = "this file", "other files too"


@dataclass
class EditTally:
    """The results of one kind of context."""

    exact: list[bool] = field(default_factory=list)
    first_line: list[bool] = field(default_factory=list)
    accepted: int = 0  # characters
    typed: int = 0
    bytes: int = 0
    score: Score = field(default_factory=lambda: Score(0.0, 0))

    def take(self, answer: str, typed: str, exact: bool) -> dict[str, Any]:
        """Count an answer, which is what was typed if it is `exact`, and return what is to be recorded of it."""
        first = answer.partition("\n")[0].rstrip() == typed.partition("\n")[0].rstrip()
        kept = accepted(answer, typed)
        self.exact.append(exact)
        self.first_line.append(first)
        self.accepted, self.typed = self.accepted + kept, self.typed + len(typed)
        return {"answer": answer, "exact": exact, "first line": first, "accepted": kept}

    def row(self) -> dict[str, Any]:
        """Figures for a report."""
        return {
            "edits": len(self.exact),
            "exact match": mean_share(self.exact),
            "first line": mean_share(self.first_line),
            "characters typed": self.typed,
            "characters accepted": self.accepted,
            "accepted": self.accepted / self.typed,
            "bits per byte": self.score.nats / math.log(2) / self.bytes,
        }


def accepted(suggestion: str, typed: str) -> int:
    """Characters of a suggestion that a user would keep who accepts word by word: those that were typed too, up to the
    last end of a word in both texts, without white space at the end."""
    count = common(suggestion, typed)
    return len(typed[: min(in_words(text, count) for text in (suggestion, typed))].rstrip())


def evaluate_commits(
    model: LocalModel,
    data: Path,
    output: Path,
    count: int = COUNT,
    seed: int = SEED,
    commits: int = COMMITS,
    cross_file: bool = False,
) -> dict[str, Any]:
    """Replay `count` edits of a repository's newest commits, or with `cross_file` only such edits.

    Writes `edits.jsonl` and `report.json`, and returns the report.

    Raises:
        UserError: there is no repository, or none of its edits can be replayed.
    """
    edits = list(chosen_edits(Repository(data), commits, count, seed, cross_file=cross_file))
    if not edits:
        using = " that uses a name of another file" if cross_file else ""
        raise UserError(
            f"--data: {data} has no commit with a short edit{using} in a file in a known language; give another"
        )
    generator, identity = model.open()
    asker = Asker(generator)
    tallies, rows = replay(asker, edits)
    if not rows:
        raise UserError(f"--data: no edit of {data} fits into the model's context; give another repository")
    output.mkdir(parents=True, exist_ok=True)
    with atomic_file(output / EDITS) as temporary:
        lines = (json.dumps(row, ensure_ascii=False).encode("utf-8", "replace").decode() + "\n" for row in rows)
        temporary.write_text("".join(lines), encoding="utf-8")
    pairs = np.array([tallies[name].exact for name in (WITH_OTHERS, ALONE)], np.float64)
    low, high = difference_interval(pairs[0] - pairs[1])
    report = {
        "data": str(data),
        "model": identity,
        "settings": {"count": count, "seed": seed, "commits": commits, "cross_file": cross_file},
        "infill": "trained" if INFILL in asker.ways else "prefix-only",
        "commits": {name: tally.row() for name, tally in tallies.items()},
        "other_files": {"value": float((pairs[0] - pairs[1]).mean()), "low": low, "high": high},
    }
    write_json(output / "report.json", report)
    return report


def replay(asker: Asker, edits: list[Edit]) -> tuple[dict[str, EditTally], list[dict[str, Any]]]:
    """The figures with and without other files, and a row for each edit that the model's context has room for."""
    tallies, rows = {ALONE: EditTally(), WITH_OTHERS: EditTally()}, []
    with Progress(len(edits), "edits") as bar:
        for edit in edits:
            if row := _replayed(asker, edit, tallies):
                rows.append(row)
            bar.update()
    return tallies, rows


def _replayed(asker: Asker, edit: Edit, tallies: dict[str, EditTally]) -> dict[str, Any] | None:
    """Ask for one edit; None if it is longer than half of the model's context."""
    ids, context = asker.tokenizer.encode_inside(edit.typed), asker.generator.seq_length
    if len(ids) > context // 2:
        return None
    maximum, way = min(len(ids) + MORE, context // 2), asker.ways[0]
    row = {name: value for name, value in asdict(edit).items() if name in ("commit", "path", "language", "typed")}
    for name, tally in tallies.items():
        parts = edit.others if name == WITH_OTHERS else ()
        prompt = asker.prompt(way, joined_files(parts, edit.before), edit.after, context - maximum)
        answer, score = asker.answer(prompt, maximum), asker.loss(prompt, ids)
        # without a suffix, a model does not know where to end
        exact = answer.startswith(edit.typed) if way == PREFIX else answer.rstrip() == edit.typed
        row[name] = {**tally.take(answer, edit.typed, exact), "nats": score.nats}
        tally.bytes += len(edit.typed.encode())
        tally.score += score
    return row


def lines(report: dict[str, Any]) -> Iterator[str]:
    """The table for a terminal."""
    yield f"{'context':<16} {'edits':>6} {'exact match':>24} {'first line':>24} {'accepted':>9} {'bits per byte':>14}"
    for name, figures in report["commits"].items():
        shares = " ".join(f"{percent(figures[each]):>24}" for each in ("exact match", "first line"))
        yield (
            f"{name:<16} {figures['edits']:>6} {shares} {100 * figures['accepted']:>7.1f} % "
            f"{figures['bits per byte']:>14.3f}"
        )
    yield f"exact match with other files over without: {percent(report['other_files'])}"


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="model or run directory")
    parser.add_argument("--data", type=Path, required=True, help="top directory of a git repository (only read)")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=COUNT, metavar="N", help="number of edits (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="the same seed takes the same edits (default: 0)")
    parser.add_argument("--commits", type=int, default=COMMITS, help="the newest N commits (default: %(default)s)")
    parser.add_argument("--cross-file", action="store_true", help="only edits with a name of another file")
    given = parser.parse_args()
    which = (given.limit, given.seed, given.commits, given.cross_file)
    try:
        report = evaluate_commits(LocalModel(given.model), given.data, given.output, *which)
    except UserError as error:
        sys.exit(f"error: {error}")
    print_command()
    print("\n".join(lines(report)))


if __name__ == "__main__":
    main()
