"""The requests of two editors' extensions for the same edits of a git history, on one server.

    ms-codegeex serve --model runs/infill &
    python benchmarks/editor_requests.py --server http://127.0.0.1:8000 --data REPOSITORY --limit 100

Ours asks `/v1/completions`, with its default settings (editors/vscode/package.json). llama.vscode 0.0.12 asks
llama.cpp's `/infill`: 256 lines before the cursor and 64 after it, the line that is typed as `prompt`, `n_indent`, 128
tokens, at most 500 ms for new ones, top-k and top-p. Both get the same parts of other files, ours in front of the
prefix, llama.vscode's in `input_extra`; and nothing of them with --alone. The edits and the shares are those of
`benchmarks/commits.py` (docs/evaluation.md). What an extension does with an answer before it shows it is left out, but
for indentation, which ours asks for again. The two take turns, and the first one alternates.
"""

from __future__ import annotations

import json
import re
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from commit_history import Edit, Repository, chosen_edits, window
from commits import COMMITS, EditTally
from common import ROOT, options, print_command, versions

from ms_codegeex.data.infilling.sentinels import joined_files

LINES_BEFORE, LINES_AFTER = 256, 64  # that llama.vscode sends
SECONDS = 600


def lines_around(before: str, after: str) -> tuple[str, str]:
    """What llama.vscode sends of a file."""
    above, below = (text.splitlines(keepends=True) for text in (before, after))
    return "".join(above[-LINES_BEFORE - 1 :]), "".join(below[: LINES_AFTER + 1])


def ours(edit: Edit) -> tuple[str, dict[str, Any], str]:
    """Path and body of our extension's request, and the white space that its answer repeats."""
    settings = json.loads((ROOT / "editors/vscode/package.json").read_text("utf-8"))["contributes"]["configuration"]
    given = {name: each["default"] for name, each in settings["properties"].items() if "default" in each}
    before, after = window(edit.before, edit.after)
    found = re.search(r"(?:^|\n)([ \t]*)$", before)
    present = found[1] if found else ""
    body = {
        "prompt": joined_files(edit.others, before[: len(before) - len(present)]),
        "suffix": after,
        "language": edit.language,
        "max_tokens": given["msCodegeex.maxTokens"],
        "temperature": given["msCodegeex.temperature"],
        "top_p": given["msCodegeex.topP"],
        "truncate_prompt": True,
        "seed": 0,
    }
    return "/v1/completions", body, present


def llama_vscode(edit: Edit) -> tuple[str, dict[str, Any], str]:
    """The same of llama.vscode."""
    prefix, line = edit.before[: edit.before.rfind("\n") + 1], edit.before[edit.before.rfind("\n") + 1 :]
    body = {
        "input_prefix": prefix,
        "input_suffix": edit.after,
        "input_extra": [{"filename": str(number), "text": text} for number, text in enumerate(edit.others)],
        "prompt": line,
        "n_predict": 128,
        "n_indent": len(line) - len(line.lstrip()),
        "top_k": 40,
        "top_p": 0.99,
        "samplers": ["top_k", "top_p", "infill"],
        "stream": False,
        "cache_prompt": True,
        "t_max_prompt_ms": 500,
        "t_max_predict_ms": 500,
    }
    return "/infill", body, ""


ASKING = {"ours": ours, "llama.vscode": llama_vscode}


@dataclass
class Result:
    """The results of one extension."""

    tally: EditTally = field(default_factory=EditTally)
    seconds: list[float] = field(default_factory=list)

    def take(self, answer: str, typed: str, seconds: float) -> None:
        """Count an answer."""
        self.tally.take(answer, typed, exact=answer.rstrip() == typed)
        self.seconds.append(seconds)

    def line(self, name: str) -> str:
        """A row of the table."""
        edits, middle = len(self.tally.exact), statistics.median(self.seconds)
        shares = (sum(self.tally.exact) / edits, sum(self.tally.first_line) / edits)
        shown = " ".join(f"{100 * each:>10.1f} %" for each in (*shares, self.tally.accepted / self.tally.typed))
        return f"{name:<14} {edits:>5} {shown} {middle:>8.2f}"


def answer_of(client: httpx.Client, name: str, edit: Edit) -> tuple[str, float]:
    """The text that an extension gets, and the seconds until it has it all."""
    path, body, present = ASKING[name](edit)
    began = time.monotonic()
    response = client.post(path, json=body)
    if response.status_code == 400 and "language" in body:  # a model that knows no such tag
        response = client.post(path, json={key: value for key, value in body.items() if key != "language"})
    response.raise_for_status()
    found = response.json()
    text = found["content"] if path == "/infill" else found["choices"][0]["text"]
    return text.removeprefix(present), time.monotonic() - began


def main() -> None:
    parser = options(__doc__, seed=True)
    parser.add_argument("--server", required=True, help="its address")
    parser.add_argument("--data", type=Path, required=True, help="a git repository")
    parser.add_argument("--limit", type=int, default=100, help="edits (default: %(default)s)")
    parser.add_argument("--alone", action="store_true", help="without other files")
    arguments = parser.parse_args()
    print_command()
    results = {name: Result() for name in ASKING}
    edits = chosen_edits(Repository(arguments.data), COMMITS, arguments.limit, arguments.seed, lines_around)
    with httpx.Client(base_url=arguments.server, timeout=SECONDS) as client:
        for number, edit in enumerate(edits):
            asked = Edit(**{**vars(edit), "others": ()}) if arguments.alone else edit
            for name in [*ASKING] if number % 2 else [*ASKING][::-1]:
                answer, seconds = answer_of(client, name, asked)
                results[name].take(answer, edit.typed, seconds)
    print(f"{'extension':<14} {'edits':>5} {'exact match':>12} {'first line':>12} {'accepted':>12} {'median s':>8}")
    for name, result in results.items():
        print(result.line(name))
    print(versions("mindspore"))


if __name__ == "__main__":
    main()
