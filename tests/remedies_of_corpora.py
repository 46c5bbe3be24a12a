"""Situations in which an error of `extras/corpus/` says what to do, and what a user then does."""

from __future__ import annotations

import csv
import gzip
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from remedies_in_code import PACKAGE
from remedies_of_data import CORPUS
from remedies_read import LEARN_TOKENS, MADE, PREPARE_PAIRS, PREPARE_TEXTS, TRAIN_CODEGEN, now, told
from remedies_shapes import AGAIN, Call, Entry, Said, Situation, each, failing, followed, lines, of_each, put, tried

from ms_codegeex.extras.corpus import prepare
from ms_codegeex.extras.corpus.filters import preset
from ms_codegeex.extras.corpus.finetuning.prepare import FinetuneSettings
from ms_codegeex.extras.corpus.settings import PrepareSettings, ReadingSettings, check_share
from ms_codegeex.extras.corpus.tokenizer_training import TokenizerSettings
from ms_codegeex.extras.corpus.workspace import open_workspace

TUNING = "prepare --task completion --seq-length 64 --tokenizer codegen-mono --validation-share 0"
ALL = "prepare --input tree --workers 1 --validation-share 0 --output"
ROWS_OF_TEXT = [{"prompt": f"def f{n}(x):\n", "completion": f"    return x + {n}\n"} for n in range(24)]
LEARN = "tokenizer train --family codegen --input tree --vocab-size 300"


settings = partial(each, PrepareSettings)
LISTED = f"{CORPUS} {{at}}/made --dropped {{at}}/list"
WORK = "prepare --workers 1 --validation-share 0 --input"
LENT = f"{TUNING.partition(' --validation')[0]} --output {{at}}/made --input pairs.jsonl --validation {{at}}"
OWN = "tokenizer train --output {at}/own --family"


def opened(at: Path, name: str) -> None:
    """The workspace of a dataset beside a file."""
    put(at, {"file": ""})
    with open_workspace(at / name, lambda: None):
        pass


def licensed(at: Path) -> None:
    put(at, {"a.jsonl": [{"code": Path("one/a.py").read_text(), "language": "python", "license": "mit"}]})


def of_tokenizer_of_a_run(at: Path) -> Iterator[Call]:
    line = (
        f"train --config codegeex_tiny training.steps=1 output={at / 'run'} data.tokenizer_size=300 "
        "model.vocab_size=64 model.eos_token_id=60 data.functions_from=null --corpus tree"
    )
    said = yield failing(line)
    for key in re.findall(r"(model\.\w+)=", said):
        line = re.sub(rf"{key}=\d+", re.search(rf"{key}=\d+", said)[0], line)
    yield failing(line)


CORPORA: dict[str, Entry] = {
    "give more files, or `prepare` it with --validation-share 0 for none": now(f"{PREPARE_TEXTS} one"),
    "{} of building": now(f"{PREPARE_TEXTS} odd", 1, {"…": "odd", **MADE}),
    "leave out --licences": tried(f"{ALL} {{at}}/o --licences mit --unknown-licences keep", f"{ALL} {{at}}/o"),
    "give --input other files": lines("prepare --workers 1 --input @ --validation one --output {at}/o", "one", "tree"),
    "fix it, or leave such input out with --on-error skip": now(
        f"{PREPARE_PAIRS} --input broken.jsonl --on-error stop"
    ),
    "give --input RECORDS and --seq-length 2048": now(
        "prepare --task completion --input pairs.jsonl --output {at}/o", 1, {"RECORDS": "pairs.jsonl"}
    ),
    "give a path of this machine": (
        tried(f"{ALL} {{at}}/made --dropped s3://bucket/list", f"{ALL} {{at}}/made --dropped {{at}}/list"),
        lines(f"{TUNING} --output {{at}}/made --input @", "s3://bucket/a.jsonl", "pairs.jsonl"),
    ),
    "give --input, and leave out --task": lines(
        "prepare --to mindrecord --input corpus --output {at}/made@", " --task chat", ""
    ),
    "expected one, {}": lines("prepare --to mindrecord --input corpus@ --output {at}/made", " other", ""),
    "make one with `ms-codegeex prepare --input PATH --output DIR`": tried(
        "prepare --to mindrecord --input tree --output {at}/made",
        (
            followed(PATH="tree", DIR="{at}/corpus"),
            "prepare --to mindrecord --input {at}/corpus --output {at}/made",
        ),
    ),
    "leave it out": told(f"{LEARN} --language-tags --output {{at}}/own"),
    "leave it out, or add --engine ray": tried(f"{ALL} {{at}}/made --ray-address x", f"{ALL} {{at}}/made"),
    "expected one of {}": (each(preset, "x", "none"), settings({"on_error": "x"}, {"on_error": "stop"})),
    "expected some of {}": each(ReadingSettings, {"redact": ("x",)}, {"redact": ("secrets",)}),
    "expected 1 or more": each(ReadingSettings, {"max_line_bytes": 0}, {"max_line_bytes": 1}),
    "expected 2 tokens or more, for example 2048": each(
        FinetuneSettings, {"task": "chat", "seq_length": 1}, {"task": "chat", "seq_length": 2048}
    ),
    "leave out --infill-rate": now(f"{PREPARE_PAIRS} --input chats.jsonl --task chat --infill-rate 0.5"),
    "give other files": tried(
        ({"none.jsonl": [{"prompt": "a", "completion": ""}]}, f"{LENT}/none.jsonl"),
        (
            {"held.jsonl": [{"prompt": "def g(x):\n", "completion": "    return 7\n"}]},
            f"{LENT}/held.jsonl",
        ),
    ),
    "{} of prepare": (
        now(f"{PREPARE_PAIRS} --input chats.jsonl"),
        now(f"{PREPARE_PAIRS} --input pairs.jsonl --seq-length 4", 1, {"N": "64"}),
    ),
    "{}, then set data.train=corpus without --corpus": now(f"{TRAIN_CODEGEN} --corpus odd", 1, {"…": "odd", **MADE}),
    "set model.vocab_size={} model.eos_token_id={}": of_tokenizer_of_a_run,
    "{} of of_a_run": now(
        "train --config codegeex_tiny training.steps=1 output={at}/o data.tokenizer_size=300 model.vocab_size=1024 "
        "model.eos_token_id=1005 data.functions_from=null --corpus tree"
    ),
    "add --near-duplicates 0.85": now(f"{PREPARE_TEXTS} few --validation-share 0 --near-duplicates-by words"),
    "add --licences mit apache-2.0": tried(
        (
            licensed,
            f"{WORK} {{at}}/a.jsonl --output {{at}}/made --unknown-licences keep",
        ),
        Said("(--licences .*)", f"{WORK} {{at}}/a.jsonl --output {{at}}/made --unknown-licences keep {{0}}"),
    ),
    "add --replace, or give --output another directory": now(
        "prepare --input tree --validation-share 0 --output unvalidated", 2
    ),
    "prepare it again with --replace": tried(
        (lambda at: (shutil.copytree("corpus", at / "made") / "dataset.json").unlink(), f"{CORPUS} {{at}}/made"),
        Said("(--replace)", f"{CORPUS} {{at}}/made {{0}}"),
    ),
    "give --output one, for example {}": tried(f"{ALL} {{at}}/nothing/..", f"{ALL} {{at}}/corpus"),
    "give --output or --input another directory": tried(
        (
            lambda at: shutil.copytree("tree", at / ".made.work/tree"),
            f"{WORK} {{at}}/.made.work/tree --output {{at}}/made",
        ),
        f"{WORK} {{at}}/.made.work/tree --output {{at}}/another",
        f"{ALL} {{at}}/made",
    ),
    "give --dropped another file": tried(f"{CORPUS} {{at}}/made --dropped {{at}}/made/list", LISTED),
    "give --dropped another file, or add --replace": tried(
        (lambda at: (at / "list").touch(), LISTED), f"{LISTED}-2", f"{LISTED} --replace"
    ),
    "add --replace to prepare it again": lines(f"{CORPUS} corpus --dropped {{at}}/list@", "", " --replace"),
    "it has to be next to the output, give --output another": tried(
        *(lambda at, name=name: opened(at, name) for name in ("file/corpus", "corpus"))
    ),
    "give an existing file or directory": lines(f"{WORK} @ --output {{at}}/made", "nothing", "tree"),
    "expected a name or a directory": settings({"tokenizer": "~nobody-here/x"}, {"tokenizer": "codegen-mono"}),
    "expected valid UTF-8, for it is written to dataset.json": settings(
        {"tags": "\udc80{language}"}, {"tags": "# {language}"}
    ),
    "expected 1 or more processes": of_each(
        lambda at, workers: prepare.prepare_dataset(
            ["tree"], at / "made", PrepareSettings(validation_share=0), prepare.RunOptions(workers, False)
        ),
        0,
        1,
    ),
    "`prepare` it with --validation-share {} to accept that, or with --validation-share 0 for none, or leave out "
    "--group-field to divide them": now(f"{PREPARE_TEXTS} grouped.jsonl --group-field who", 3),
    "to evaluate on all of it, prepare it with --validation-share 0 and name it as a run's data.validation": (
        now(f"{PREPARE_PAIRS} --input pairs.jsonl --validation-share 1")
    ),
    "expected 0 or more and less than 1, for example 0.05": each(check_share, -1, 0.05),
    "give a smaller --min-bytes, or a larger --max-file-bytes": tried(
        *(
            f"{ALL} {{at}}/{n} --min-bytes {n} --max-file-bytes {most}"
            for n, most in ((9000, 8000), (90, 8000), (91, 9000))
        )
    ),
    "expected a positive number of bytes, for example 64000000": settings({"max_bytes": -1}, {"max_bytes": 64_000_000}),
    "expected 0 (off) to 1, for example 0.85": settings({"near_duplicates": 2}, {"near_duplicates": 0.85}),
    "give --tokenizer a directory with Qwen2's, or leave out --repositories": tried(
        f"{ALL} {{at}}/made --repositories 99",
        f"{ALL} {{at}}/made",
        (f"{OWN} qwen2 --input tree --vocab-size 300", f"{ALL} {{at}}/more --repositories 99 --tokenizer {{at}}/own"),
    ),
    "give --vocab-size {}, or more text": tried(
        f"{OWN} codegen --input few --vocab-size 50000",
        Said(r"--vocab-size (\d+)", f"{OWN} codegen --input few --vocab-size {{0}}"),
        f"{LEARN.replace('tree', str(PACKAGE / 'base'))} --output {{at}}/other",
    ),
    "give more text": tried(
        (
            {"a.py": "def first(value):\n    return value\n"},
            f"{OWN} codegeex2 --vocab-size 600 --input {{at}}/a.py",
        ),
        f"{OWN} codegeex2 --vocab-size 600 --input tree {PACKAGE / 'base'}",
    ),
    "choose another directory, or remove it": tried(
        (lambda at: (at / "own").mkdir(), f"{LEARN} --output {{at}}/own"),
        f"{LEARN} --output {{at}}/another",
        (lambda at: (at / "own").rmdir(), AGAIN),
    ),
    "give one of {}": each(TokenizerSettings, {"family": "x"}, {"family": "codegen", "vocab_size": 300}),
    "{} of tokenizer_training": tried(
        f"{LEARN.replace('tree', 'run.yaml')} --output {{at}}/own --languages python", f"{LEARN} --output {{at}}/own"
    ),
    "give {}": now(f"{LEARN_TOKENS} --output {{at}}/o --vocab-size 4"),
    "give --vocab-size {} or more": tried(
        (
            {"a.txt": "".join(chr(0x4E00 + n) + "\n" * (n % 40 == 39) for n in range(2000))},
            f"{OWN} codegeex2 --input {{at}}/a.txt --vocab-size 600",
        ),
        Said(r"--vocab-size (\d+) or more", f"{OWN} codegeex2 --input {{at}}/a.txt --vocab-size {{0}}"),
    ),
}
CORPORA_UNTRIED = {
    "add --work DIR": "needs a bucket; tests of remote outputs have one",
    "add --replace, or give --output another URL": "needs a bucket; tests of remote outputs have one",
    "delete it and run the same command again": "needs a file that is cut off while the command runs",
    "run the same command again, with fewer --workers if that is the reason (what is finished is kept)": (
        "needs a worker that is killed; tests/extras/corpus/test_prepare_restart.py kills one"
    ),
}
RAY_UNTRIED = dict.fromkeys(
    {
        "install ms-codegeex {} on it",
        "run this command on a node of the cluster, since Ray's client (ray://) is not supported",
        "install the same on all nodes",
        "run `pip install 'ms-codegeex[ray]'` on all nodes, or leave the option out",
        "run `ray start --head` on one node and `ray start --address=NODE:6379` on the others, then this command on "
        "one of them",
        "add nodes with `ray start`",
        "give --input and --output paths on a file system that all nodes share",
        "run the same command again (what is finished is kept), on nodes with more memory if that is the reason",
    },
    "of a cluster, which tests/extras/ray_engines starts",
)


# --- rules/remedies.yaml: commands for files that are not read ---


def packed(
    make: str | dict[str, Any] | Callable[[Path], object],
    pattern: str = "(?:.*; )?.*?`([^`]*)`",
    name: str = "",
    line: str = TUNING,
    given: str = "",
) -> Situation:
    """Records in a file of another kind, made by a command or a function in the folder `records`, or put there; the
    command of the message is run there in a shell. `name`: of the file that it makes, `given`: of that which is given
    at first, otherwise all of them are."""

    def made(at: Path) -> None:
        (at / "records").mkdir()
        if callable(make):
            make(at / "records")
        elif isinstance(make, dict):
            put(at / "records", make)
        else:
            put(at / "records", {"a.jsonl": ROWS_OF_TEXT})
            in_shell(at, make)

    def unpacked(at: Path, shell: str) -> None:
        (file,) = (at / "records").iterdir()
        in_shell(at, shell.replace("FILE", file.name).replace("NEW", name).replace("ENCODING", "latin1"))

    def in_shell(at: Path, shell: str) -> None:
        subprocess.run(["bash", "-c", shell], cwd=at / "records", check=True, capture_output=True)

    line += " --output {at}/made --input {at}/records"
    return tried((made, f"{line}/{given}"), (Said(pattern, unpacked), f"{line}/{name}"))


PYTHON = "`(python -c [^`]*)`"
COLUMNS = {key: [row[key] for row in ROWS_OF_TEXT] for key in ROWS_OF_TEXT[0]}


def csv_file(name: str, delimiter: str) -> Callable[[Path], object]:
    def write(at: Path) -> None:
        with open(at / name, "w", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS, delimiter=delimiter)
            writer.writeheader()
            writer.writerows(ROWS_OF_TEXT)

    return write


def twice(at: Path) -> None:
    text = "".join(f"{json.dumps(row)}\n" for row in ROWS_OF_TEXT).encode()
    (at / "a.jsonl.gz").write_bytes(gzip.compress(gzip.compress(text)))


def notebook(at: Path) -> None:
    cells = [{"cell_type": "markdown", "source": ["# a"]}]
    cells += [{"cell_type": "code", "source": Path("one/a.py").read_text().splitlines(True)}]
    put(at, {"a.ipynb": {"cells": cells}})


SHELL: dict[str, Situation] = {
    ".ipynb": packed(notebook, PYTHON, line="prepare --workers 1 --validation-share 0"),
    "packed twice": packed(twice, r"`(gunzip [^`]*)`", "b.jsonl.gz"),
    ".csv": packed(csv_file("a.csv", ","), PYTHON),
    ".tsv": packed(csv_file("a.tsv", "\t"), PYTHON),
    ".xz": packed("xz a.jsonl"),
    ".bz2": packed("bzip2 a.jsonl"),
    ".zip": packed("python -m zipfile -c a.jsonl.zip a.jsonl; rm a.jsonl"),
    ".tar": packed("tar -cf a.tar --remove-files a.jsonl"),
    ".tgz": packed("tar -czf a.tgz --remove-files a.jsonl"),
    ".tbz2": packed("tar -cjf a.tbz2 --remove-files a.jsonl"),
    ".txz": packed("tar -cJf a.txz --remove-files a.jsonl"),
    "object of columns": packed({"a.json": COLUMNS}, PYTHON, "a.json.jsonl", given="a.json"),
    "not UTF-8": packed(
        {"a.jsonl": b'{"prompt": "caf\xe9", "completion": "x"}\n' * 3},
        r"`(iconv [^`]*)`",
        "b.jsonl",
    ),
}
