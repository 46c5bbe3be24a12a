"""Every remedy that an error names works: it is read out of the message, as a user reads it, and the next run succeeds.

A row is a command that fails. `ways_out` finds what its message says to do: `--option value`, `key=value`, "leave out",
"did you mean", another output, a command in backquotes. Each alternative has to succeed, so none can lead back.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shlex
import venv
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import prepare_inputs
import pytest
import small_benchmarks
import small_models
from asking import ask
from conftest import command_here, small_run, write_config, write_dataset
from remedies_in_code import PACKAGE, pattern, remedies
from remedies_of_clusters import CLUSTERS, CLUSTERS_UNTRIED
from remedies_of_core import CORE
from remedies_of_corpora import CORPORA, CORPORA_UNTRIED, RAY_UNTRIED, SHELL
from remedies_of_data import DATA, PREPARED, UNTRIED, Started
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

VALUE = r"[^\s`;()]*[^\s`;(),.?:]"  # of an option or a key
AFTER = r"(?!(?:and|for|with|to|if|in)\b)"  # words that are not values of the option before them
OPTION = re.compile(rf"(?<![\w-])(--[a-z][a-z-]*)(?![a-z-]| (?:more|another)\b)(?: {AFTER}({VALUE}))?")
SETTING = re.compile(rf"(?<![\w.-])([a-z_]+(?:\.\w+)*)=({VALUE})")
LEAVE = re.compile(r"(?:leave|without)(?: out)? (?:it out|the key out|the option out|(--[\w-]+|[a-z_.]+)(?: out)?)")
NAMED = re.compile(rf"(?:did you mean|expected one of|choose one of|known are|out of range; give) '?({VALUE})")


# --- how a message is read ---


def without(words: list[str], name: str) -> list[str]:
    """The words without an option and its values, or without a key."""
    groups: list[list[str]] = [[]]
    for word in words:
        if word.startswith("--") or SETTING.fullmatch(word):
            groups.append([])
        groups[-1].append(word)
    return [word for group in groups for word in group if group[0].partition("=")[0] != name]


def given(words: list[str], name: str, value: str) -> list[str]:
    """The words with this option or key, once; "" for an option without a value."""
    words = without(words, name)
    return [*words, name, *filter(None, [value])] if name.startswith("--") else [*words, f"{name}={value}"]


def filled(word: str, known: Mapping[str, str]) -> str:
    """A word of a message with what the user puts into its place."""
    name, equals, value = word.rpartition("=")
    assert not re.fullmatch(r"[A-Z|…]+", value) or value in known, f"what is {value}?"
    return f"{name}{equals}{known.get(value, value)}"


def changed(words: list[str], said: str, message: str, known: Mapping[str, str]) -> list[str]:
    """The words as one alternative of a message, `said`, changes them."""
    subject, new = re.split(r"[: ]", message)[0], words
    while gone := LEAVE.search(said):
        new, said = without(new, gone[1] or subject), said.replace(gone[0], "", 1)
    pairs = [*OPTION.findall(said), *SETTING.findall(re.sub(OPTION, "", said))]
    for name in dict(pairs):
        new = without(new, name)
    for name, value in pairs:
        value = filled(value, known)
        new = [*new, name, *filter(None, [value])] if name.startswith("--") else [*new, f"{name}={value}"]
    if to := re.search(rf"\bset it to ({VALUE})", said):
        new = given(new, subject, to[1])
    if "unknown key" in message and (right := NAMED.search(said)):
        section = subject.rpartition(".")[0]
        new = [word.replace(f"{subject}=", f"{section}.{right[1].strip(chr(39))}=") for word in new]
    elif new == words and (right := NAMED.search(message)):
        wrong = re.search(r"'([^']+)'", message)
        if wrong and wrong[1] in words:
            new = [right[1] if word == wrong[1] else word for word in words]
        else:
            new = given(new, subject, right[1].strip("'"))
    if "give DIR instead" in said:  # of what the message names
        place = message.partition(": ")[0]
        new = given(words, "--model", known["DIR"]) if place not in words else new
        new = [known["DIR"] if word == place else word for word in new]
    if re.search(r"another (?:--)?output|choose another(?: directory)?$|--output another", said):
        new = given(new, "--output" if "--output" in words else "output", known["OTHER"])
    return new


def ways_out(words: list[str], message: str, known: Mapping[str, str]) -> Iterator[list[list[str]]]:
    """The commands that each alternative of a message leads to, in order. `known`: what the user puts in the places of
    N, DIR and others."""
    for said in re.split(r",? or (?!less|more|fewer)", message.rpartition("; ")[2]):
        commands = re.findall(r"`ms-codegeex (\w+ [^`]+)`", said)
        before = [[filled(word, known) for word in shlex.split(command)] for command in commands]
        new = changed(words, re.sub(r"`[^`]*`", "", said), message, known)
        if new != words:
            yield [*before, new]
        elif before:
            yield before if before[0][0] in ("finetune", words[0]) else [*before, words]


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
            done(shlex.split(f"{line} {name}"))
    return root


def done(words: list[str]) -> None:
    """Run a command, which has to succeed."""
    with contextlib.suppress(Started):
        result = command_here(*words)
        assert result.returncode == 0, f"{shlex.join(words)}: {result.stderr}"


TUNE = "prepare --task completion --seq-length 64 --tokenizer codegen-mono --output {out}"
CORPUS = "prepare --tokenizer codegen-mono --output {out} --input"
LEARN = "tokenizer train --family codegen --input tree"
TRAIN = "train --config run.yaml output={out}"
SERVERS = f"{TRAIN} --dry-run device=ascend devices=16 training.global_batch=16"
MEET = "--nodes 2 --node-rank 0 --master-addr 10.0.0.11:8118"
RESUME = "train --config run.yaml training.steps=4 --resume auto"
CODEGEN = "train --config codegen_tiny training.steps=1 data.seq_length=64 output={out}"
FINETUNE = "finetune --model model --data pairs.jsonl training.steps=1 output={out}"
FITTING = "model.hidden_size=16 model.intermediate_size=16 model.num_layers=1 model.num_heads=4 model.rotary_dim=4 "
FITTING += "model.vocab_size=50400 model.max_position_embeddings=128 model.layer_norm_eps=1e-6"
WEIGHTS = f"{CODEGEN} data.train=corpus model.weights=model"
SERVE = "serve --model model"
REFER = "evaluate humaneval --sandbox best-effort --output {out}"
MADE = {"corpus": "{out}-corpus"}
CONVERTED = {"N": "4", "NAME|DIR": "codegen-mono", "DIR": "{out}-hf"}
ROWS = {  # what fails; how many ways out its message has; what a user puts in the places of N, DIR and others
    # records
    "no length": ("prepare --task completion --input pairs.jsonl --output {out}", 1, {"RECORDS": "pairs.jsonl"}),
    "a broken line": (f"{TUNE} --input broken.jsonl --on-error stop", 1, {}),
    "an option for corpora": (f"{TUNE} --input pairs.jsonl --languages python", 1, {}),
    "records of another task": (f"{TUNE} --input chats.jsonl", 1, {}),
    "tuning for another task": (f"{FINETUNE} --task chat", 1, {}),
    "long answers": (f"{TUNE} --input pairs.jsonl --seq-length 4", 1, {"N": "64"}),
    "long examples": (f"{TUNE} --input pairs.jsonl --seq-length 12 --overlong drop", 2, {"N": "64"}),
    "tuning on long answers": (f"{FINETUNE} data.seq_length=4", 1, {"N": "64"}),
    "no middle": ("finetune --model model --data chats.jsonl --infill-rate 0.5 output={out}", 2, {}),
    "a model in the file": (f"{FINETUNE} --config codegen_tiny", 1, {}),
    "a share of all": (f"{TUNE} --input pairs.jsonl --validation-share 1", 1, {}),
    "records beside a corpus": (
        "finetune --model model --data corpus training.steps=1 output={out} --validation one",
        1,
        {"DIR": "{out}-held"},
    ),
    "sources beside a dataset": (
        "train --from model data.train=corpus data.validation=one training.steps=1 data.seq_length=64 output={out}",
        1,
        {"DIR": "{out}-held"},
    ),
    "too long for the model": (f"{FINETUNE} data.seq_length=200", 2, {}),
    "no middle of a chat": (f"{TUNE} --input chats.jsonl --task chat --infill-rate 0.5", 1, {}),
    # corpora
    "groups": (f"{CORPUS} grouped.jsonl --group-field who", 3, {}),
    "one document": (f"{CORPUS} one", 1, {}),
    "no known language": (f"{CORPUS} odd", 1, {"…": "odd", **MADE}),
    "a language that is not there": (f"{CORPUS} tree --languages java", 1, {"…": "tree", "NAME": "python", **MADE}),
    "no known language for a run": (f"{CODEGEN} --corpus odd", 1, {"…": "odd", **MADE}),
    "few letters": (f"{CORPUS} digits", 1, {"…": "digits", **MADE}),
    "an unknown field of texts": (f"{CORPUS} body.jsonl", 1, {"…": "body.jsonl", "NAME": "body", **MADE}),
    "chats as texts": (f"{CORPUS} chats.jsonl", 1, {"DIR": "model", "FILE": "chats.jsonl"}),
    "no such licence": (f"{CORPUS} body.jsonl --text-field body --licences mit", 1, {}),
    "another language": (f"{CORPUS} few --validation-share 0 --languages pyton", 1, {}),
    "an option for records": (f"{CORPUS} few --validation-share 0 --seq-length 64", 1, {}),
    "near duplicates": (f"{CORPUS} few --validation-share 0 --near-duplicates-by words", 1, {}),
    "no rate": (f"{CORPUS} few --validation-share 0 --infill-mode spm", 1, {}),
    "an option for URLs": (f"{CORPUS} few --validation-share 0 --work {{out}}-work", 1, {}),
    "a dataset is there": ("prepare --input tree --validation-share 0 --output unvalidated", 2, {}),
    # tokenizers
    "a small vocabulary": (f"{LEARN} --output {{out}} --vocab-size 4", 1, {}),
    "a large vocabulary": (f"{LEARN} --output {{out}} --vocab-size 90000", 1, {}),
    "a tokenizer is there": (f"{LEARN} --output one --vocab-size 300", 1, {}),
    "runs are fixed": (f"{LEARN} --output {{out}} --vocab-size 300 --whitespace-run 4", 1, {}),
    "a vocabulary of a run": (
        "train --config codegeex_tiny training.steps=1 output={out} data.tokenizer_size=300 model.vocab_size=1024 "
        "model.eos_token_id=1005 data.functions_from=null --corpus tree",
        1,
        {},
    ),
    # datasets
    "no dataset": (f"{CODEGEN} data.train={{out}}-data", 2, {"PATH": "tree", "DIR": "{out}-data"}),
    "the end of documents": (f"{CODEGEN} data.train=ids", 1, {}),
    "too many ids": (f"{TRAIN} data.train=corpus", 1, {}),
    "examples": (f"{CODEGEN} data.train=tuning", 1, {}),
    "too short": (f"{TRAIN} data.train=brief data.seq_length=64 model.max_position_embeddings=64", 2, {"DIR": "ids"}),
    # weights of a run
    "sizes": (WEIGHTS, 2, {}),
    "a larger vocabulary": (f"{WEIGHTS} {FITTING} model.vocab_size=50500", 2, {}),
    "a longer context": (f"{WEIGHTS} {FITTING} model.max_position_embeddings=200", 2, {}),
    "another family": (
        "train --config run.yaml output={out} data.train=corpus model.weights=model",
        1,
        {"DATASET": "corpus"},
    ),
    "another tokenizer": (
        f"{CODEGEN} data.train=other model.weights=model {FITTING}",
        1,
        {"PATH": "tree", "DIR": "{out}-data"},
    ),
    "no model for adapters": (f"{TRAIN} lora.rank=2", 1, {"DIR": "run"}),
    "a tokenizer with more tokens": (
        f"{WEIGHTS}-nl {FITTING}",
        2,
        {"PATH": "tree", "DIR": "{out}-data"},
    ),
    # models
    "an unknown preset": (f"{TRAIN} model.preset=foo", 1, {}),
    "sizes in no file": ("quantize --model small.ckpt --bits 8 --output {out}", 1, CONVERTED),
    "sizes to convert": ("convert --model small.ckpt --to hf --output {out}", 1, {"N": "4"}),
    "no tokenizer": ("quantize --model small-codegen --bits 8 --output {out}", 1, CONVERTED),
    "no GPT-J": ("convert --model small --to gptj --output {out}", 1, {}),
    # configurations
    "an unknown key": (f"{TRAIN} training.stps=4", 1, {}),
    "an unknown family": (f"{TRAIN} model.family=foo", 1, {}),
    "a longer sequence": (f"{TRAIN} data.seq_length=64", 2, {}),
    "two datasets": (f"{TRAIN} 'data.blend={{{{ids: 1}}}}'", 2, {}),
    "two lengths": (f"{TRAIN} training.tokens=1000", 2, {}),
    "no length of a run": (f"{TRAIN} training.steps=null", 2, {"N": "400"}),
    "no evaluation": (f"{TRAIN} training.patience=2", 2, {"N": "4"}),
    "a warm-up without end": (f"{TRAIN} training.schedule.warmup_steps=60", 1, {}),
    "nothing is frozen": (f"{TRAIN} model.weights=run lora.frozen=fp16", 2, {"N": "2"}),
    "a batch for devices": (f"{TRAIN} training.global_batch=5 devices=2", 1, {}),
    "a part of a batch": (f"{TRAIN} training.micro_batch=3", 1, {}),
    # runs and outputs
    "a run is there": ("train --config run.yaml output=run", 2, {}),
    "another seed": (f"{RESUME} output=run seed=3", 2, {}),
    "other sizes": (f"{RESUME} output=run model.hidden_size=32", 1, {}),
    "another optimizer": (f"{RESUME} output=run training.optimizer.name=muon", 1, {"DIR": "{out}"}),
    "an earlier checkpoint": ("train --config run.yaml --resume run/checkpoints/step-00000001 output=run", 2, {}),
    "a key of another name that may change": (f"{RESUME} output=run --allow-change sed", 1, {}),
    "a key that may always change": (f"{RESUME} output=run --allow-change zzz", 1, {}),
    "data beside --data": (f"{FINETUNE} data.train=corpus", 1, {}),
    "a corpus beside a dataset": (f"{CODEGEN} data.train=corpus --corpus tree", 2, {}),
    "a corpus beside a blend": (f"{CODEGEN} 'data.blend={{{{corpus: 1}}}}' --corpus tree", 2, {}),
    # servers
    "restarts of several servers": (f"{SERVERS} {MEET} --restarts 2", 1, {}),
    "a rank table for a CPU": (f"{TRAIN} --dry-run --rank-table table.json", 1, {}),
    "several servers of a CPU": (f"{TRAIN} --dry-run devices=2 {MEET}", 1, {}),
    "tensor parallelism on a CPU": (f"{TRAIN} --dry-run devices=2 parallel.tensor=2", 1, {}),
    "no servers": (SERVERS, 4, {"N": "2", "K": "0", "HOST:PORT": "a:8118", "FILE": "servers.json"}),
    "no number of a server": (f"{SERVERS} --nodes 2 --master-addr a:8118", 1, {"K": "1"}),
    "no address of server 0": (f"{SERVERS} --nodes 2 --node-rank 0", 1, {"HOST:PORT": "a:8118"}),
    "servers beside a table": (f"{SERVERS} --rank-table servers.json --node-rank 0 --nodes 3", 1, {}),
    "devices of a table": (f"{SERVERS} devices=8 --rank-table servers.json --node-rank 0", 1, {}),
    "a file as an output": (f"{TRAIN} output=run.yaml", 1, {}),
    "a model is there": ("convert --model small --to hf --output model", 1, {}),
    "a conversion is there": ("convert --model small --to hf --output small-hf", 2, {}),
    "an option for ranks": ("convert --model small --to hf --output {out} --tensor-parallel 2", 1, {}),
    "a layout": ("convert --model small --to hf --layout mindformers --output {out}", 2, {}),
    "ranks for mindformers": (
        "convert --model small --to mindspore --layout mindformers --output {out} --tensor-parallel 2",
        1,
        {},
    ),
    "no code": ("convert --model small --to hf --output {out} --keep-code", 1, {}),
    "a checkpoint is there": ("checkpoint merge run --output small", 1, {}),
    "tensors of a dataset": ("inspect corpus --tensors", 1, {}),
    "documents of a model": ("inspect model --document 1", 1, {}),
    # serving
    "prompts without a log": (f"{SERVE} --log-prompts", 1, {"FILE": "{out}.log"}),
    "examples without a page": (f"{SERVE} --example-path x", 1, {}),
    "no keys": (f"{SERVE} --host 0.0.0.0", 2, {"FILE": "{out}.keys"}),
    # evaluations, with status 1
    "a module of references": (f"{REFER} --data modular.jsonl --check-references", 1, {"FILE": "python/bin/python"}),
    "slow references": (f"{REFER} --data slow.jsonl --check-references --timeout 0.5", 1, {"S": "60"}),
    "slow references before samples": (
        f"{REFER} --data slow.jsonl --samples answers.jsonl --timeout 0.5",
        2,
        {"S": "60"},
    ),
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


@pytest.mark.parametrize("name", ROWS)
def test_every_remedy_works(unstarted, name):
    line, count, known = ROWS[name]
    out = f"out-{name.replace(' ', '-')}"
    words = shlex.split(line.format(out=out))
    known = {key: value.format(out=out) for key, value in known.items()} | {"OTHER": f"{out}-other"}
    result = command_here(*words)
    assert result.returncode == (1 if words[0] == "evaluate" else 2), result.stderr
    message = result.stderr.splitlines()[-1].partition(": ")[2]
    ways = [*ways_out(words, message, known)]
    assert len(ways) == count, f"{message}: {ways}"
    for number, commands in enumerate(ways):
        for command in commands:
            done([word.replace(out, f"{out}-{number}") if word.endswith(out) else word for word in command])


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
    if not isinstance(situation, str)
}


@pytest.mark.parametrize("folder", REMEDIES)
def test_each_error_says_what_a_test_does(folder):
    registry, untried = REMEDIES[folder]
    found = remedies(folder)
    assert found.keys() - registry.keys() - untried.keys() == set(), "errors whose remedy has no situation"
    assert (registry.keys() | untried.keys()) - found.keys() == set(), "situations of no error"
    assert not registry.keys() & untried.keys()
    entries = (each if isinstance(each, tuple) else (each,) for each in registry.values())
    assert {each for each in itertools.chain(*entries) if isinstance(each, str)} <= ROWS.keys(), "no such row"


def test_one_remedy_in_ten_may_be_untried():
    tried, untried = (sum(len(texts[number]) for texts in REMEDIES.values()) for number in (0, 1))
    assert untried <= (tried + untried) / 10


def test_each_folder_has_a_registry():
    inside = [*PACKAGE.glob("*/__init__.py"), *PACKAGE.glob("extras/*/__init__.py")]
    folders = {str(path.parent.relative_to(PACKAGE)) for path in inside} - {"extras"}
    assert folders == {folder for folder in REMEDIES if not folder.endswith(".yaml")}


@pytest.mark.slow  # a minute; the default tests compare the texts
@pytest.mark.parametrize("name", SITUATIONS, ids=[*SITUATIONS])  # also long ones, for -k
def test_each_remedy_is_carried_out(unstarted, tmp_path, name):
    said, situation = SITUATIONS[name]
    steps = situation(tmp_path)
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
