"""Every remedy that an error names works: it is read out of the message, as a user reads it, and the next run succeeds.

A row is a command that fails. `ways_out` finds what its message says to do: `--option value`, `key=value`, "leave out",
"did you mean", another output, a command in backquotes. Each alternative has to succeed, so none can lead back.
"""

from __future__ import annotations

import json
import re
import venv
from pathlib import Path

import numpy as np
import prepare_inputs
import pytest
import small_benchmarks
import small_models
from asking import ask
from conftest import small_run, write_config, write_dataset
from remedies_in_code import PACKAGE, pattern, remedies
from remedies_of_clusters import CLUSTERS, CLUSTERS_UNTRIED
from remedies_of_core import CORE
from remedies_of_corpora import CORPORA, CORPORA_UNTRIED, RAY_UNTRIED, SHELL
from remedies_of_data import DATA, PREPARED, UNTRIED
from remedies_of_evaluation import EVALUATION, EVALUATION_UNTRIED
from remedies_of_exchange import EXCHANGE, EXCHANGE_UNTRIED, JOBS
from remedies_of_formats import FORMATS, FORMATS_UNTRIED
from remedies_of_runs import (
    KERNELS,
    KERNELS_UNTRIED,
    MODELS,
    PLANNING,
    RUNS,
    RUNS_UNTRIED,
    TRAINING,
    TRAINING_UNTRIED,
    table,
)
from remedies_of_serving import SERVED
from remedies_of_tables import TABLES
from remedies_read import (
    FINETUNE_PAIRS,
    LEARN_TOKENS,
    MADE,
    PREPARE_PAIRS,
    PREPARE_TEXTS,
    QUICK,
    REFER,
    TRAIN_CODEGEN,
    TRAIN_RUN,
    now,
)
from remedies_shapes import Situation, Started, run

import ms_codegeex
from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.base.shipped import shipped_table
from ms_codegeex.config import rules
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.extras.corpus import events as remedies_table
from ms_codegeex.extras.corpus import of_a_run
from ms_codegeex.extras.corpus.commands import prepare
from ms_codegeex.extras.serving import model
from ms_codegeex.formats.checkpoint_writing import Slice, write_checkpoint
from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.mindspore_checkpoint import read_mindspore, write_mindspore
from ms_codegeex.runs import training_job

# --- the inputs ---


def small_model(root: Path) -> Path:
    """A CodeGen of one block with the released tokenizer, as a model directory."""
    sizes = {"vocab_size": 50400, "hidden_size": 16, "intermediate_size": 16, "num_layers": 1, "num_heads": 4}
    sizes |= {"rotary_dim": 4, "max_position_embeddings": 128, "eos_token_id": 50256}
    values = {"family": "codegen", **small_models.FIELDS["codegen"], **sizes}
    shapes = build_run_config({"model": values, "training": {"steps": 1}}).model.sizes.parameter_shapes()
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    run = small_models.save_run(root / "codegen-run", "codegen", arrays, **sizes)
    convert(run, "hf", root / "model", progress=False)
    load_tokenizer("codegen-mono").save(root / "model")
    (root / "model/provenance.json").unlink()  # which has no tokenizer
    return root / "model"


def resumable(root: Path, values: dict) -> None:
    """A run directory as two steps leave it, for what is checked before workers start."""
    config = build_run_config(values)
    arrays = {name: np.zeros(shape, np.float32) for name, shape in config.model.sizes.parameter_shapes().items()}
    for step in (1, 2):
        state = {"config": config.to_dict(), "samples": 4 * step, "optimizer_step": step}
        tensors = {name: Slice(array.shape, (0,) * array.ndim, array) for name, array in arrays.items()}
        write_checkpoint(root / "checkpoints", step, tensors, state)


def write_references(root: Path) -> None:
    """Problems whose canonical solutions need a module or a second, a Python with the module, and an answer."""
    data = small_benchmarks.humaneval(root)
    for name, line in (("modular", "import left_behind"), ("slow", "import time; time.sleep(1)")):
        (root / f"{name}.jsonl").write_text(data.read_text().replace("    return", f"    {line}\\n    return"))
    (root / "answers.jsonl").write_text('{"task_id": 0, "completion": "    return x + 1"}\n')
    venv.create(root / "python", symlinks=True)
    (site,) = (root / "python").glob("lib/python*/site-packages")
    (site / "left_behind.py").touch()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources, records, datasets, models and a run, as the rows name them."""
    root = tmp_path_factory.mktemp("remedies")
    prepare_inputs.write_tree(root / "tree", packages=24, files=1)
    prepare_inputs.write_tree(root / "few", packages=4, files=2)
    for folder, ending, text in (("odd", "qqq", "hello there\n" * 99), ("digits", "py", "x = 1\n")):
        (root / folder).mkdir()
        for number in range(24):
            (root / folder / f"a{number}.{ending}").write_text(f"{text}# {number}\n")
    (root / "one").mkdir()
    (root / "one/a.py").write_text(prepare_inputs.source(1))
    pairs = [{"prompt": f"def f{n}(x):\n", "completion": f"    return x + {n}\n"} for n in range(24)]
    said = [[{"role": "user", "content": f"add {n}"}, {"role": "assistant", "content": f"x + {n}"}] for n in range(24)]
    records = {"pairs": pairs, "chats": [{"messages": messages} for messages in said], "broken": [*pairs[:8], "{"]}
    records["body"] = [{"body": prepare_inputs.source(n), "lang": "python"} for n in range(24)]
    records["grouped"] = [{"code": prepare_inputs.source(n), "lang": "python", "who": f"{n % 2}"} for n in range(24)]
    for name, rows in records.items():
        (root / f"{name}.jsonl").write_text("".join(f"{row if row == '{' else json.dumps(row)}\n" for row in rows))
    small_model(root)
    small_models.save_run(root / "small", "codegeex", small_models.parameters("codegeex"))
    small_models.save_run(root / "small-codegen", "codegen", small_models.parameters("codegen"))
    convert(root / "small", "hf", root / "small-hf", progress=False)
    convert(root / "small-codegen", "hf", root / "small-codegen-hf", progress=False)
    convert(root / "small-codegen", "mindspore", root / "ours.ckpt", progress=False)
    write_mindspore(root / "small.ckpt", read_mindspore(root / "ours.ckpt"))  # as another program writes it
    convert(root / "codegen-run", "hf", root / "model-nl", progress=False)
    load_tokenizer("codegen-nl").save(root / "model-nl")
    for name, servers, devices in (("table", 1, 1), ("servers", 2, 8)):
        (root / f"{name}.json").write_text(json.dumps(table(servers, devices)))
    write_references(root)
    write_dataset(root / "ids")  # 96 ids, no tokenizer
    write_dataset(root / "brief", documents=4)
    values = small_run(root / "ids", root / "run")
    write_config(root / "run.yaml", values)
    resumable(root / "run", values)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(root)
        for name, line in PREPARED.items():
            run(f"{line} {name}")
    return root


ROWS = {  # of tables, and others whose remedy is another error's, too
    "tuning for another task": now(f"{FINETUNE_PAIRS} --task chat"),
    "long examples": now(f"{PREPARE_PAIRS} --input pairs.jsonl --seq-length 12 --overlong drop", 2, {"N": "64"}),
    "no middle": now("finetune --model model --data chats.jsonl --infill-rate 0.5 output={at}/o", 2),
    "too long for the model": now(f"{FINETUNE_PAIRS} data.seq_length=200", 2),
    "a language that is not there": now(
        f"{PREPARE_TEXTS} tree --languages java", 1, {"…": "tree", "NAME": "python", **MADE}
    ),
    "few letters": now(f"{PREPARE_TEXTS} digits", 1, {"…": "digits", **MADE}),
    "an unknown field of texts": now(f"{PREPARE_TEXTS} body.jsonl", 1, {"…": "body.jsonl", "NAME": "body", **MADE}),
    "chats as texts": now(f"{PREPARE_TEXTS} chats.jsonl", 1, {"DIR": "model", "FILE": "chats.jsonl"}),
    "no such licence": now(f"{PREPARE_TEXTS} body.jsonl --text-field body --licences mit"),
    "an option for records": now(f"{PREPARE_TEXTS} few --validation-share 0 --seq-length 64"),
    "an option for URLs": now(f"{PREPARE_TEXTS} few --validation-share 0 --work {{at}}/o-work"),
    "a large vocabulary": now(f"{LEARN_TOKENS} --output {{at}}/o --vocab-size 90000"),
    "a tokenizer is there": now(f"{LEARN_TOKENS} --output one --vocab-size 300"),
    "runs are fixed": now(f"{LEARN_TOKENS} --output {{at}}/o --vocab-size 300 --whitespace-run 4"),
    "no dataset": now(f"{TRAIN_CODEGEN} data.train={{at}}/o-data", 2, {"PATH": "tree", "DIR": "{at}/o-data"}),
    "the end of documents": now(f"{TRAIN_CODEGEN} data.train=ids"),
    "examples": now(f"{TRAIN_CODEGEN} data.train=tuning"),
    "too short": now(
        f"{TRAIN_RUN} data.train=brief data.seq_length=64 model.max_position_embeddings=64", 2, {"DIR": "ids"}
    ),
    "no GPT-J": now("convert --model small --to gptj --output {at}/o"),
    "an unknown key": now(f"{TRAIN_RUN} training.stps=4"),
    "an unknown family": now(f"{TRAIN_RUN} model.family=foo"),
    "a longer sequence": now(f"{TRAIN_RUN} data.seq_length=64", 2),
    "two datasets": now(f"{TRAIN_RUN} 'data.blend={{{{ids: 1}}}}'", 2),
    "two lengths": now(f"{TRAIN_RUN} training.tokens=1000", 2),
    "no length of a run": now(f"{TRAIN_RUN} training.steps=null", 2, {"N": "400"}),
    "no evaluation": now(f"{TRAIN_RUN} training.patience=2", 2, {"N": "4"}),
    "a warm-up without end": now(f"{TRAIN_RUN} training.schedule.warmup_steps=60"),
    "nothing is frozen": now(f"{TRAIN_RUN} model.weights=run lora.frozen=fp16", 2, {"N": "2"}),
    "a batch for devices": now(f"{TRAIN_RUN} training.global_batch=5 devices=2"),
    "a part of a batch": now(f"{TRAIN_RUN} training.micro_batch=3"),
    "a file as an output": now(f"{TRAIN_RUN} output=run.yaml"),
    "a model is there": now("convert --model small --to hf --output model"),
    "a conversion is there": now("convert --model small --to hf --output small-hf", 2),
    "a checkpoint is there": now("checkpoint merge run --output small"),
    "tensors of a dataset": now("inspect corpus --tensors"),
    "slow references": now(f"{REFER} --data slow.jsonl --check-references --timeout 0.5", 1, {"S": "60"}),
}


@pytest.fixture
def unstarted(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place, for commands that stop when all is checked."""

    def started(*arguments: object) -> None:
        raise Started

    monkeypatch.chdir(place)
    monkeypatch.setattr(training_job, "run_workers", started)
    for module in (prepare, of_a_run):  # a process of its own takes seconds to start
        monkeypatch.setattr(module, "available_cores", lambda: 1)
    monkeypatch.setattr(model, "open_models", started)
    return place


# --- what each error says, by folder: what a test does, or why none does it ---

REMEDIES = {
    **CORE,
    **SERVED,
    "data": (DATA, UNTRIED),
    "formats": (FORMATS, FORMATS_UNTRIED),
    "extras/corpus": (CORPORA, CORPORA_UNTRIED),
    "extras/evaluation": (EVALUATION, EVALUATION_UNTRIED),
    "extras/cluster": (CLUSTERS, CLUSTERS_UNTRIED),
    **TABLES,
    "extras/exchange": (EXCHANGE, EXCHANGE_UNTRIED),
    "extras/jobs": (JOBS, {}),
    "extras/ray_engines": ({}, RAY_UNTRIED),
    "runs": (RUNS, RUNS_UNTRIED),
    "training": (TRAINING, TRAINING_UNTRIED),
    "models": (MODELS, {}),
    "kernels": (KERNELS, KERNELS_UNTRIED),
    "planning": (PLANNING, {}),
    "parallel": ({}, {}),
}
SITUATIONS = {
    f"{folder}: {said} {number}": (said, situation)
    for folder, (registry, _) in REMEDIES.items()
    for said, situations in registry.items()
    for number, situation in enumerate(situations if isinstance(situations, tuple) else (situations,))
}
QUICK_ONES = {name: row for name, row in SITUATIONS.items() if row[1] in QUICK}
QUICK_ONES |= {f"rows: {name} 0": ("{}", situation) for name, situation in ROWS.items()}


def carried_out(said: str, situation: Situation, at: Path) -> None:
    steps = situation(at)
    call = next(steps)
    with pytest.raises((UserError, RunFailure)) as error:
        call()
    message = str(error.value)
    assert "\n" not in message and pattern(said).search(message), message
    try:
        call = steps.send(message)
    except StopIteration:  # what the user did suffices: the same again
        call()
        return
    call()
    for again in steps:
        again()


@pytest.mark.parametrize("name", QUICK_ONES)
def test_every_remedy_works(unstarted, tmp_path, name):
    carried_out(*QUICK_ONES[name], tmp_path)


@pytest.mark.parametrize("folder", REMEDIES)
def test_each_error_says_what_a_test_does(folder):
    registry, untried = REMEDIES[folder]
    found = remedies(folder)
    assert found.keys() - registry.keys() - untried.keys() == set(), "errors whose remedy has no situation"
    assert (registry.keys() | untried.keys()) - found.keys() == set(), "situations of no error"
    assert not registry.keys() & untried.keys()


def test_one_remedy_in_ten_may_be_untried():
    tried, untried = (sum(len(texts[number]) for texts in REMEDIES.values()) for number in (0, 1))
    assert untried <= (tried + untried) / 10


def test_each_folder_has_a_registry():
    inside = [*PACKAGE.glob("*/__init__.py"), *PACKAGE.glob("extras/*/__init__.py")]
    folders = {str(path.parent.relative_to(PACKAGE)) for path in inside} - {"extras"}
    assert folders == {folder for folder in REMEDIES if not folder.endswith(".yaml")}


@pytest.mark.slow  # a minute; the default tests compare the texts
@pytest.mark.parametrize("name", [name for name in SITUATIONS if name not in QUICK_ONES])
def test_each_remedy_is_carried_out(unstarted, tmp_path, name):
    carried_out(*SITUATIONS[name], tmp_path)


@pytest.mark.slow
def test_each_rule_of_configurations_has_a_situation(unstarted, tmp_path):
    said = []
    for situation in CORE["config"][0]["{} of rules"]:
        with pytest.raises(UserError) as error:
            next(situation(tmp_path))()
        said.append(str(error.value))
    for text in {**rules.FUSION_RULES, **rules.RULES, **rules.DEVICE_RULES, **rules.MESH_RULES}:
        assert any(re.match(".*".join(map(re.escape, re.split("{.*?}", text))), each) for each in said), text


def test_each_package_that_is_to_be_installed_exists():
    root = Path(ms_codegeex.__file__).parents[1]
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    required = " ".join([*project["dependencies"], *(path.read_text() for path in root.glob("requirements*.in"))])
    required += " ".join(name for names in project["optional-dependencies"].values() for name in names)
    lines = {line for path in PACKAGE.rglob("*.*") if path.suffix in (".py", ".yaml") for line in installs(path)}
    assert len(lines) > 5
    for line in lines:
        for word in [word.strip("'\"") for word in line.split()[2:] if not word.startswith(("-", "{"))]:
            name, _, extra = word.partition("[")
            assert name != "ms-codegeex" or not extra or extra.rstrip("]") in project["optional-dependencies"], line
            name = re.split(r"[=<>~\[]", name)[0]
            assert name in ("ms-codegeex", "picklescan") or re.search(rf"(?i)\b{re.escape(name)}\b", required), line


def installs(path: Path) -> list[str]:
    """The commands with pip in the texts of a file, without places."""
    return re.findall(r"pip install(?! the)(?: [-\w'\"][-\w'\"\[\].=<>~]*)+", path.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", SHELL)
def test_each_command_for_other_files_makes_records_of_them(unstarted, tmp_path, name):
    steps = SHELL[name](tmp_path)
    call = next(steps)
    with pytest.raises(UserError) as error:
        call()
    steps.send(str(error.value))()


def test_each_command_for_other_files_has_a_situation():
    table = shipped_table(Path(remedies_table.__file__).with_name("rules") / "remedies.yaml")
    named = {*table["unpacked"]} - {".json", ".gz"}  # no command; one of the others, by what is in it
    named |= {
        name
        for name in table["examples"]
        if "`" in table["examples"][name] and "ms-codegeex" not in table["examples"][name]
    }
    assert named - SHELL.keys() == {"shards of MosaicML's streaming (.mds)", "chunks of LitData"}, "need their programs"


REQUESTS = {  # a body that is refused, and how many ways out the answer has
    "an unknown field": ({"foo": 1}, 1),
    "a misspelt field": ({"max_token": 4}, 1),
    "a field of another server": ({"top_logprobs": 3}, 1),
    "a choice of a stream": ({"best_of": 3, "stream": True}, 2),
    "a choice of too few": ({"best_of": 1, "n": 2}, 1),
    "a block of no language": ({"stop_at": "block"}, 1),
    "a cold temperature": ({"temperature": -1}, 1),
}


def fixed(body: dict, said: str, field: str) -> dict:
    """A request as one alternative of the answer to it changes it."""
    if gone := re.search(r"leave (?:it out|out (\w+))", said):
        return {key: value for key, value in body.items() if key != (gone[1] or field)}
    if named := re.search(r"did you mean (\w+)|send (\w+) to /v1/completions", said):
        return {(named[1] or named[2]) if key == field else key: value for key, value in body.items()}
    if value := re.search(r"(?:send|give) (\S+)", said):
        return body | {field: json.loads(value[1])}
    if said in body:  # leave out one or the other
        return {key: value for key, value in body.items() if key != said}
    return body | {re.search(r"name it with (\w+)", said)[1]: "python"}


@pytest.mark.parametrize("name", REQUESTS)
def test_every_remedy_of_a_refused_request_works(name):
    more, count = REQUESTS[name]
    body = {"prompt": "x", "max_tokens": 4, **more}
    answer = ask("POST", "/v1/completions", json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    ways = re.split(r",? or (?!more)", error["message"].rpartition("; ")[2])
    assert len(ways) == count, error
    for said in ways:
        again = ask("POST", "/v1/completions", json=fixed(body, said, error["param"]))
        assert again.status_code == 200, f"{error['message']}: {said}: {again.text}"
