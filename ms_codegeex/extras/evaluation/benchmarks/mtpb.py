"""MTPB as a task: its file, the turns of a test case, and the judges of what a program prints.

The judges, by the rule of the release and by our strict one, compare outside the sandbox: values arrive as JSON that
includes their types (`inside/program.py`), and expected values never enter it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ms_codegeex.base.digests import sha256
from ms_codegeex.base.errors import PromptTooLong
from ms_codegeex.base.shipped import shipped_table
from ms_codegeex.extras.evaluation import stop_rules
from ms_codegeex.extras.evaluation.benchmarks.tables import ProblemFiles
from ms_codegeex.extras.evaluation.judging.python_program import PythonTask, judgement
from ms_codegeex.extras.evaluation.replies import python
from ms_codegeex.extras.evaluation.replies.blocks import CodeRequest
from ms_codegeex.extras.evaluation.replies.code import code_of
from ms_codegeex.extras.evaluation.sandbox import ResourceLimits, Sandbox, Verdict
from ms_codegeex.extras.evaluation.task import UNREAD, Judgement, Problem, Sample, SampledAnswer, TextSource

ABSOLUTE, RELATIVE = 1e-6, 1e-9
CLASS = re.compile(r"<class '(?:\w+\.)*(\w+)'>")


class IncomparableValue:
    """A value that JSON cannot express: equal to nothing."""


def decode(encoded: Any, strict: bool) -> Any:
    """The Python value. For the strict judge, arrays become lists, classes their names, dictionary keys what JSON
    writes for them, and sets cannot be compared. For the published one, which uses `==`, arrays and classes cannot."""
    kind, content = encoded
    if kind in ("list", "tuple") or kind == ("array" if strict else "set"):
        items = [decode(item, strict) for item in content]
        return _made({"tuple": tuple, "set": set}.get(kind, list), items)
    if kind == "dict":
        pairs = [(decode(key, strict), decode(value, strict)) for key, value in content]
        return {_key(key): value for key, value in pairs} if strict else _made(dict, pairs)
    if kind == "int":
        return int(content, 16)
    if kind == "float":
        return float.fromhex(content)
    known = ("none", "bool", "str", "type") if strict else ("none", "bool", "str")
    return content if kind in known else IncomparableValue()


def _made(kind: type, items: list[Any]) -> Any:
    try:
        return kind(items)
    except TypeError:  # an unhashable item: the program's set cannot have had it
        return IncomparableValue()


def _key(key: Any) -> str | None:
    if isinstance(key, str):
        return CLASS.sub(r"\1", key)
    return json.dumps(key) if isinstance(key, (int, float, bool, type(None))) else None


def right(rule: Callable[..., bool], printed: Mapping[str, Any] | None, gold: Any) -> bool:
    """The rule's result; False for an invalid report, which a program may have tampered with."""
    try:
        return rule(printed, gold)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return False


def published(printed: Mapping[str, Any] | None, gold: Any) -> bool:
    """The release's rule, including what it never accepts: an expected dictionary or null."""
    if not printed or "value" not in printed or isinstance(gold, dict) or gold is None:
        return False
    same = printed["type"] == type(gold).__name__
    if not same and "cast" not in printed:
        return False
    value = decode(printed["value" if same else "cast"], strict=False)
    gold = str(gold) if not same and isinstance(gold, bool) else gold
    if isinstance(gold, float):
        return isinstance(value, float) and abs(value - gold) < ABSOLUTE
    return type(value) is type(gold) and value == gold


def strict(printed: Mapping[str, Any] | None, gold: Any) -> bool:
    """The value that the program printed last equals the expected one, or is exactly its printed form. Nothing is cast.
    Numbers may differ by 1e-6 (or 1e-9 of their size) at any depth. Tuples and arrays count as lists, sets do not;
    dictionary keys are compared as JSON writes them; a bool equals only a bool."""
    shown = (printed or {}).get("strict")
    return bool(shown) and (equal(decode(shown["value"], strict=True), gold) or shown["text"] == str(gold))


def equal(value: Any, gold: Any) -> bool:
    """Structural equality of a decoded value and one from JSON."""
    if isinstance(gold, bool) or isinstance(value, bool) or gold is None:
        return type(value) is type(gold) and value == gold
    if isinstance(gold, (int, float)):
        return isinstance(value, (int, float)) and _close(value, gold)
    if isinstance(gold, list):
        same = isinstance(value, (list, tuple)) and len(value) == len(gold)
        return same and all(map(equal, value, gold))
    if isinstance(gold, dict):
        same = isinstance(value, dict) and value.keys() == gold.keys()
        return same and all(equal(value[key], gold[key]) for key in gold)
    return isinstance(value, str) and value == gold


def _close(value: int | float, gold: int | float) -> bool:
    if isinstance(value, int) and isinstance(gold, int):
        return value == gold
    try:
        return math.isclose(value, gold, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    except OverflowError:  # an integer beyond any float
        return False


FORM = "has id, name, category, prompts, inputs and outputs"
FILES = ProblemFiles("MTPB", ("mtpb",), ("prompts", "inputs", "outputs"), FORM, "github.com/salesforce/CodeGen")
PUBLISHED = Path(__file__).with_name("published.yaml")
MAX_GEN_LENGTH = 256  # tokens per turn if the problem sets none, as in the release


@dataclass(frozen=True)
class Case:
    """One test case: the prompts of all turns with their values filled in, and the value the program has to print."""

    prompts: tuple[str, ...]
    inputs: Mapping[str, Any]
    gold: Any


@dataclass(frozen=True)
class MtpbProblem:
    """A problem. `max_gen_length` is in tokens per turn."""

    id: str
    name: str
    category: str
    cases: tuple[Case, ...]
    max_gen_length: int


def read_problem(row: Mapping[str, Any], _where: str, _index: int) -> Problem:
    """The problem in a row. As in the release, an output without an input is dropped (id 57 has one)."""
    prompts, inputs, outputs = row["prompts"], row["inputs"], row["outputs"]
    for name, value in (("prompts", prompts), ("inputs", inputs), ("outputs", outputs)):
        if not isinstance(value, list) or not value:
            raise ValueError(f"{name} is not a list, or is empty")
    if len(outputs) < len(inputs):
        raise ValueError(f"{len(outputs)} outputs for {len(inputs)} inputs")
    length = row.get("max_gen_length", MAX_GEN_LENGTH)
    if not isinstance(length, int) or length < 1:
        raise ValueError(f"max_gen_length is {length}")
    cases = tuple(
        Case(tuple(prompt.format(**values) for prompt in prompts), values, gold)
        for values, gold in zip(inputs, outputs, strict=False)
    )
    problem = MtpbProblem(str(row["id"]), str(row["name"]), str(row["category"]), cases, length)
    return Problem(problem.id, {"category": problem.category, "turns": str(len(cases[0].prompts))}, problem)


HISTORY = "# Import libraries.\n\nimport numpy as np\n\n"  # the first lines of every program


def turn_seed(seed: int, turn: int) -> int:
    """The seed of a turn, 31 bits, derived from the sample's, so that turns use different random numbers."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{turn}".encode(), digest_size=4).digest(), "big") >> 1


def comment(prompt: str) -> str:
    return f"# {prompt}\n"


def multi_turn(prompts: Sequence[str], length: int, seed: int, complete: TextSource) -> list[dict[str, Any]]:
    """The turns, each with its prompt, the truncated answer and why that ended. A turn whose context leaves the model
    no room ends the sample: it has finish "length", no text and a "reason"; if it is the first, `PromptTooLong`."""
    history, turns = HISTORY, []
    for number, prompt in enumerate(prompts):
        history += comment(prompt)
        turn = {"prompt": prompt, "text": "", "finish": "length"}
        turns.append(turn)
        try:
            answer = complete(
                history, seed=turn_seed(seed, number), stop=stop_rules.codegen_stop(), max_new_tokens=length
            )
        except PromptTooLong as error:
            if number == 0:
                raise
            turn["reason"] = f"turn {number + 1} of {len(prompts)}: {error}"
            return turns
        turn |= _read(answer, history)
        history += turn["text"] + "\n\n"
    return turns


def single_turn(prompts: Sequence[str], length: int, seed: int, complete: TextSource) -> list[dict[str, Any]]:
    """One turn that combines all prompts, with the limits on tokens, `print` lines and `def` lines of all turns. The
    release has no such variant: this follows the paper, and applies the multi-turn rule to the complete text."""
    text, count = "".join(map(comment, prompts)), len(prompts)
    seed = turn_seed(seed, 0)
    answer = complete(HISTORY + text, seed=seed, stop=stop_rules.codegen_stop(count), max_new_tokens=length * count)
    return [{"prompt": text, **_read(answer, HISTORY + text, count)}]


def _read(answer: SampledAnswer, prompt: str, limit: int = 1) -> dict[str, str]:
    if not answer.is_reply:
        return {"text": stop_rules.codegen_truncated(answer.text, limit), "finish": answer.finish}
    code = code_of(answer.text, CodeRequest("python", "", finished=answer.finish != "length"))
    found = {"text": python.beyond(code.text, prompt), "finish": answer.finish}
    return {**found, "lacking": code.lacking} if code.lacking else found


def parts(turns: Sequence[dict[str, Any]], multi: bool) -> list[tuple[str, str]]:
    return [(comment(turn["prompt"]) if multi else turn["prompt"], f"{turn['text']}\n\n") for turn in turns]


SECONDS = 20.0  # per program, as published: then it is interrupted, and what it has printed counts
GRACE = 5.0  # extra seconds until it is killed: for imports, and for programs that cannot be interrupted
LIBRARIES = {"numpy": "numpy", "pandas": "pandas", "sklearn": "scikit-learn"}  # module named in prompts -> package


class Mtpb(PythonTask):
    """Problems of several turns, "multi", or with all `turns` as one, "single". Sample i of a problem is sample
    i // cases of its test case i % cases, so a larger n only adds samples."""

    packages = tuple(LIBRARIES.values())

    def __init__(self, data: Path, turns: str = "multi", python: Path | None = None):
        files = FILES.find(data)
        super().__init__(FILES.problems(data, read_problem, files), python)
        self.multi, self.name = turns == "multi", "mtpb" if turns == "multi" else "mtpb-single-turn"
        self._cases = {problem.id: len(problem.data.cases) for problem in self.problems}
        digest = sha256(files[0])
        self.provenance = {
            "file": files[0].name,
            "sha256": digest,
            "known": digest == shipped_table(PUBLISHED)["mtpb"]["file"],
        }
        self.limits = ResourceLimits(wall=SECONDS + GRACE)

    def samples_per_problem(self, n: int) -> int:
        return n * max(self._cases.values())

    def produce(self, problem: Problem, completion_id: int, seed: int, complete: TextSource) -> Sample:
        """All turns of one test case. `PromptTooLong` if not even the first one fits the model."""
        mtpb: MtpbProblem = problem.data
        number = completion_id % len(mtpb.cases)
        case, multi = mtpb.cases[number], self.multi
        try:
            made = (multi_turn if multi else single_turn)(case.prompts, mtpb.max_gen_length, seed, complete)
        except PromptTooLong as error:
            known = f"{error}; the benchmark is for models that read 2048 tokens"
            raise PromptTooLong(f"MTPB problem {problem.id}, case {number}: {known}") from None
        pieces = parts(made, multi)
        program = HISTORY + "".join(map("".join, pieces))
        extra = {"case": number, "turns": made}
        if all(turn.get("lacking") for turn in made):
            extra["lacking"] = made[-1]["lacking"]
        return Sample(problem.id, completion_id, HISTORY + pieces[0][0], program, made[-1]["finish"], extra)

    def judge(self, problem: Problem, sample: Sample, sandbox: Sandbox) -> Judgement:
        """One run serves both judges: the printed value comes out, the expected one never goes in."""
        case = sample.extra["case"]
        gold = problem.data.cases[case].gold
        kind = "none" if gold is None else type(gold).__name__
        report = self.run(sample.generation, sandbox, gold_type=kind, seconds=SECONDS)
        passed = {
            "strict": report.finished and right(strict, report.printed, gold),
            # whatever the program did afterwards, except exiting, which ends the published judge
            "published": report.ended != "exit" and right(published, report.printed, gold),
        }
        verdicts = {mode: Verdict.PASSED if each else report.verdict for mode, each in passed.items()}
        return judgement(sample, verdicts, [report.execution], case=case)

    def trial(self, problem: Problem) -> Sample:
        return Sample(problem.id, 0, HISTORY, f"{HISTORY}print({problem.data.cases[0].gold!r})\n", "eos", {"case": 0})

    def flaw(self, sample: Sample) -> str:
        """A sample must name a case of its problem and have valid turns."""
        if sample.finish == UNREAD:
            return ""
        count = self._cases[sample.task_id]
        case, made = sample.extra.get("case"), sample.extra.get("turns", [])
        if not isinstance(case, int) or isinstance(case, bool) or not 0 <= case < count:
            return f"extra.case is {str(case)[:60]}, expected one of 0 to {count - 1}"
        turns = [turn if isinstance(turn, dict) else {} for turn in (made if isinstance(made, list) else [None])]
        sound = all(isinstance(turn.get(key), str) for turn in turns for key in ("prompt", "text"))
        return "" if sound else "extra.turns: expected a list of objects with prompt and text"

    def segments(self, problem: Problem, sample: Sample) -> list[tuple[str, bool]]:
        """For prompt perplexity: the program in parts, with prompts scored; nothing for a sample never drawn."""
        made = sample.extra.get("turns")
        if not made:
            return []
        pieces = [each for prompt, text in parts(made, self.multi) for each in ((prompt, True), (text, False))]
        return [(HISTORY, False), *pieces[:-1]]

    def known_defects(self) -> Mapping[str, str]:
        ids, known = {problem.id for problem in self.problems}, shipped_table(PUBLISHED)["mtpb"]["defects"]
        return {key: reason for key, reason in known.items() if self.provenance["known"] and key in ids}

    def missing(self) -> Mapping[str, str]:
        return {LIBRARIES[name]: f"pip install {LIBRARIES[name]}" for name in self.runner.interpreter.lacks(LIBRARIES)}


build = Mtpb
