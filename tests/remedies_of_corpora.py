"""Situations in which an error of `extras/corpus/` says what to do, and what a user then does."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from conftest import command_here
from remedies_in_code import PACKAGE
from remedies_of_data import CORPUS, Call, Situation, Started, instead

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.corpus import prepare
from ms_codegeex.extras.corpus.filters import preset
from ms_codegeex.extras.corpus.finetuning.prepare import FinetuneSettings, recognised_task
from ms_codegeex.extras.corpus.settings import PrepareSettings, ReadingSettings, check_share
from ms_codegeex.extras.corpus.tokenizer_training import TokenizerSettings
from ms_codegeex.extras.corpus.workspace import open_workspace

TUNING = "prepare --task completion --seq-length 64 --tokenizer codegen-mono --validation-share 0"
ALL = "prepare --input tree --workers 1 --validation-share 0 --output"
LEARN = "tokenizer train --family codegen --input tree --vocab-size 300"


def failing(line: str) -> Call:
    """A command as a call that raises its message."""

    def call() -> None:
        with contextlib.suppress(Started):
            result = command_here(*shlex.split(line))
            if result.returncode:
                raise UserError(result.stderr.splitlines()[-1].partition(": ")[2])

    return call


def command(line: str, *others: str | Callable[[Path, str], str]) -> Situation:
    """A command that fails, and others that do what the message says; `{at}`: a directory of the situation."""

    def situation(at: Path) -> Iterator[Call]:
        said = yield failing(line.format(at=at))
        for other in others:
            yield failing(other.format(at=at) if isinstance(other, str) else other(at, said))

    return situation


def made_with(said: str, path: str, directory: str) -> str:
    """The command in a message, with the user's paths."""
    return re.search(r"`ms-codegeex (.*)`", said)[1].replace("PATH", path).replace("DIR", directory)


def settings(right: dict[str, Any], **wrong: Any) -> Situation:
    """Settings of a corpus with a wrong value, and a right one."""
    return instead(lambda at: PrepareSettings(**wrong), lambda at: PrepareSettings(**right))


def of_incomplete_dataset(at: Path) -> Iterator[Call]:
    shutil.copytree("corpus", at / "made")
    (at / "made/dataset.json").unlink()
    said = yield failing(f"{CORPUS} {at / 'made'}")
    yield failing(f"{CORPUS} {at / 'made'} {re.search('--replace', said)[0]}")


def of_two_outputs(at: Path) -> Iterator[Call]:
    inside = shutil.copytree("tree", at / ".made.work/tree")
    line = f"prepare --workers 1 --input {inside} --validation-share 0 --output"
    yield failing(f"{line} {at / 'made'}")
    yield failing(f"{line} {at / 'another'}")
    yield failing(f"{line.replace(str(inside), 'tree')} {at / 'made'}")


def of_licences(at: Path) -> Iterator[Call]:
    row = {"code": Path("one/a.py").read_text(), "language": "python", "license": "mit"}
    (at / "a.jsonl").write_text(json.dumps(row) + "\n")
    line = f"prepare --workers 1 --validation-share 0 --input {at / 'a.jsonl'} --output {at / 'made'}"
    said = yield failing(f"{line} --unknown-licences keep")
    added = re.search("--licences .*", said)[0]
    yield failing(f"{line} --unknown-licences keep {added}")


def of_list_there(at: Path) -> Iterator[Call]:
    line = f"{CORPUS} {at / 'made'} --dropped {at / 'list'}"
    (at / "list").write_text("")
    yield failing(line)
    yield failing(line.replace("/list", "/another"))
    yield failing(f"{line} --replace")


def of_no_room(at: Path) -> Iterator[Call]:
    (at / "file").write_text("")

    def made(output: Path) -> None:
        with open_workspace(output, lambda: None):
            pass

    yield lambda: made(at / "file/corpus")
    yield lambda: made(at / "corpus")


def of_tokenizer_of_a_run(at: Path) -> Iterator[Call]:
    line = (
        f"train --config codegeex_tiny training.steps=1 output={at / 'run'} data.tokenizer_size=300 "
        "model.vocab_size=64 model.eos_token_id=60 data.functions_from=null --corpus tree"
    )
    said = yield failing(line)
    for key in re.findall(r"(model\.\w+)=", said):
        line = re.sub(rf"{key}=\d+", re.search(rf"{key}=\d+", said)[0], line)
    yield failing(line)


def of_few_records(at: Path) -> Iterator[Call]:
    (at / "none.jsonl").write_text('{"prompt": "a", "completion": ""}\n')
    line = f"{TUNING.partition(' --validation')[0]} --output {at / 'made'} --input pairs.jsonl --validation"
    yield failing(f"{line} {at / 'none.jsonl'}")
    (at / "held.jsonl").write_text('{"prompt": "def g(x):\\n", "completion": "    return 7\\n"}\n')
    yield failing(f"{line} {at / 'held.jsonl'}")


def of_unknown_records(at: Path) -> Iterator[Call]:
    (at / "a.jsonl").write_text('{"foo": 1}\n')
    yield lambda: recognised_task([at / "a.jsonl"])
    yield lambda: recognised_task(["pairs.jsonl"])


def of_small_text(at: Path) -> Iterator[Call]:
    (at / "a.py").write_text("def first(value):\n    return value\n")
    line = f"tokenizer train --family codegeex2 --vocab-size 600 --output {at / 'own'} --input"
    yield failing(f"{line} {at / 'a.py'}")
    yield failing(f"{line} tree {PACKAGE / 'base'}")


def of_many_tokens(at: Path) -> Iterator[Call]:
    line = f"tokenizer train --family codegen --input few --output {at / 'own'} --vocab-size"
    said = yield failing(f"{line} 50000")
    most = re.search(r"--vocab-size (\d+)", said)[1]
    yield failing(f"{line} {most}")
    yield failing(f"{line.replace('own', 'other').replace('few', str(PACKAGE / 'base'))} 400")


def of_characters(at: Path) -> Iterator[Call]:
    (at / "a.txt").write_text("".join(chr(0x4E00 + n) + ("\n" if n % 40 == 39 else "") for n in range(2000)))
    line = f"tokenizer train --family codegeex2 --input {at / 'a.txt'} --output {at / 'own'} --vocab-size"
    said = yield failing(f"{line} 600")
    least = re.search(r"--vocab-size (\d+) or more", said)[1]
    yield failing(f"{line} {least}")


def of_existing_tokenizer(at: Path) -> Iterator[Call]:
    (at / "own").mkdir()
    yield failing(f"{LEARN} --output {at / 'own'}")
    yield failing(f"{LEARN} --output {at / 'another'}")
    (at / "own").rmdir()
    yield failing(f"{LEARN} --output {at / 'own'}")


CORPORA: dict[str, Situation | tuple[Situation, ...] | str | tuple[str, ...]] = {
    "give more files, or `prepare` it with --validation-share 0 for none": "one document",
    "{} of building": "no known language",
    "leave out --licences": command(f"{ALL} {{at}}/o --licences mit --unknown-licences keep", f"{ALL} {{at}}/o"),
    "give --input other files": command(
        "prepare --workers 1 --input one --validation one --output {at}/o",
        "prepare --workers 1 --input tree --validation one --output {at}/o",
    ),
    # what is given
    "fix it, or leave such input out with --on-error skip": "a broken line",
    "give --input RECORDS and --seq-length 2048": "no length",
    "give a path of this machine": (
        command(
            "prepare --input tree --output {at}/made --validation-share 0 --dropped s3://bucket/list",
            "prepare --workers 1 --input tree --output {at}/made --validation-share 0 --dropped {at}/list",
        ),
        command(
            f"{TUNING} --output {{at}}/made --input s3://bucket/a.jsonl",
            f"{TUNING} --output {{at}}/m --input pairs.jsonl",
        ),
    ),
    "give --input, and leave out --task": command(
        "prepare --to mindrecord --task chat --input corpus --output {at}/made",
        "prepare --to mindrecord --input corpus --output {at}/made",
    ),
    "expected one, {}": command(
        "prepare --to mindrecord --input corpus other --output {at}/made",
        "prepare --to mindrecord --input corpus --output {at}/made",
    ),
    "make one with `ms-codegeex prepare --input PATH --output DIR`": command(
        "prepare --to mindrecord --input tree --output {at}/made",
        lambda at, said: (
            re.search(r"`ms-codegeex (.*)`", said)[1].replace("PATH", "tree").replace("DIR", f"{at}/corpus")
        ),
        "prepare --to mindrecord --input {at}/corpus --output {at}/made",
    ),
    "leave it out": command(f"{LEARN} --language-tags --output {{at}}/own", f"{LEARN} --output {{at}}/own"),
    "leave it out, or add --engine ray": command(
        "prepare --ray-address x --input tree --output {at}/made --workers 1 --validation-share 0",
        "prepare --input tree --output {at}/made --workers 1 --validation-share 0",
    ),
    "expected one of {}": (
        instead(lambda at: preset("x"), lambda at: preset("none")),
        settings({"on_error": "stop"}, on_error="x"),
    ),
    "expected some of {}": instead(
        lambda at: ReadingSettings(redact=("x",)), lambda at: ReadingSettings(redact=("secrets",))
    ),
    "expected 1 or more": instead(
        lambda at: ReadingSettings(max_line_bytes=0), lambda at: ReadingSettings(max_line_bytes=1)
    ),
    "expected 2 tokens or more, for example 2048": instead(
        lambda at: FinetuneSettings(task="chat", seq_length=1),
        lambda at: FinetuneSettings(task="chat", seq_length=2048),
    ),
    "leave out --infill-rate": "no middle of a chat",
    "give other files": of_few_records,
    "{} of prepare": ("records of another task", "long answers"),
    "{}, then set data.train=corpus without --corpus": "no known language for a run",
    "set model.vocab_size={} model.eos_token_id={}": of_tokenizer_of_a_run,
    "{} of of_a_run": "a vocabulary of a run",
    "add --near-duplicates 0.85": "near duplicates",
    "add --licences mit apache-2.0": of_licences,
    # places
    "add --replace, or give --output another directory": "a dataset is there",
    "prepare it again with --replace": of_incomplete_dataset,
    "give --output one, for example {}": command(
        f"{ALL} {{at}}/nothing/..",
        f"{ALL} {{at}}/corpus",
    ),
    "give --output or --input another directory": of_two_outputs,
    "give --dropped another file": command(
        f"{CORPUS} {{at}}/made --dropped {{at}}/made/list", f"{CORPUS} {{at}}/made --dropped {{at}}/list"
    ),
    "give --dropped another file, or add --replace": of_list_there,
    "add --replace to prepare it again": command(
        f"{CORPUS} corpus --dropped {{at}}/list", f"{CORPUS} corpus --dropped {{at}}/list --replace"
    ),
    "it has to be next to the output, give --output another": of_no_room,
    "give an existing file or directory": command(
        "prepare --input nothing --output {at}/made",
        f"{ALL} {{at}}/m",
    ),
    "expected a name or a directory": settings({"tokenizer": "codegen-mono"}, tokenizer="~nobody-here/x"),
    "expected valid UTF-8, for it is written to dataset.json": settings(
        {"tags": "# {language}"}, tags="\udc80{language}"
    ),
    "expected 1 or more processes": instead(
        lambda at: prepare.prepare_dataset(["tree"], at / "made", PrepareSettings(), prepare.RunOptions(0, False)),
        lambda at: prepare.prepare_dataset(
            ["tree"], at / "made", PrepareSettings(validation_share=0), prepare.RunOptions(1, False)
        ),
    ),
    # shares and sizes
    "`prepare` it with --validation-share {} to accept that, or with --validation-share 0 for none, or leave out "
    "--group-field to divide them": "groups",
    "to evaluate on all of it, prepare it with --validation-share 0 and name it as a run's data.validation": (
        "a share of all"
    ),
    "expected 0 or more and less than 1, for example 0.05": instead(
        lambda at: check_share(-1), lambda at: check_share(0.05)
    ),
    "give a smaller --min-bytes, or a larger --max-file-bytes": command(
        f"{ALL} {{at}}/made --min-bytes 9000 --max-file-bytes 8000",
        f"{ALL} {{at}}/made --min-bytes 90 --max-file-bytes 8000",
        f"{ALL} {{at}}/more --min-bytes 90 --max-file-bytes 9000",
    ),
    "expected a positive number of bytes, for example 64000000": settings({"max_bytes": 64_000_000}, max_bytes=-1),
    "expected 0 (off) to 1, for example 0.85": settings({"near_duplicates": 0.85}, near_duplicates=2),
    # tokenizers
    "give --tokenizer a directory with Qwen2's, or leave out --repositories": command(
        f"{ALL} {{at}}/made --repositories 99",
        f"{ALL} {{at}}/made",
        "tokenizer train --family qwen2 --input tree --vocab-size 300 --output {at}/own",
        f"{ALL} {{at}}/more --repositories 99 --tokenizer {{at}}/own",
    ),
    "give --vocab-size {}, or more text": of_many_tokens,
    "give more text": of_small_text,
    "choose another directory, or remove it": of_existing_tokenizer,
    "give one of {}": instead(
        lambda at: TokenizerSettings(family="x"), lambda at: TokenizerSettings(family="codegen", vocab_size=300)
    ),
    "{} of tokenizer_training": command(
        "tokenizer train --family codegen --vocab-size 300 --input run.yaml --output {at}/own --languages python",
        "tokenizer train --family codegen --vocab-size 300 --input tree --output {at}/own",
    ),
    "give {}": "a small vocabulary",
    "give --vocab-size {} or more": of_characters,
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

ROWS_OF_TEXT = [{"prompt": f"def f{n}(x):\n", "completion": f"    return x + {n}\n"} for n in range(24)]


def _csv(at: Path, delimiter: str = ",") -> None:
    import csv

    with open(at / "a", "w", newline="") as stream:
        writer = csv.DictWriter(stream, ["prompt", "completion"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS_OF_TEXT)


def _packed(at: Path, *words: str) -> None:
    (at / "a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS_OF_TEXT))
    subprocess.run([*words], cwd=at, check=True, capture_output=True)


def _zipped(at: Path) -> None:
    import zipfile

    _packed(at, "true")
    with zipfile.ZipFile(at / "a.jsonl.zip", "w") as archive:
        archive.write(at / "a.jsonl", "a.jsonl")
    (at / "a.jsonl").unlink()


UNPACKED: dict[str, Callable[[Path], object]] = {  # by ending: what makes a file of it that holds records
    ".csv": lambda at: (_csv(at), (at / "a").rename(at / "a.csv")),
    ".tsv": lambda at: (_csv(at, "\t"), (at / "a").rename(at / "a.tsv")),
    ".xz": lambda at: _packed(at, "xz", "a.jsonl"),
    ".bz2": lambda at: _packed(at, "bzip2", "a.jsonl"),
    ".zip": _zipped,
    ".tar": lambda at: _packed(at, "tar", "-cf", "a.tar", "--remove-files", "a.jsonl"),
    ".tgz": lambda at: _packed(at, "tar", "-czf", "a.tgz", "--remove-files", "a.jsonl"),
    ".tbz2": lambda at: _packed(at, "tar", "-cjf", "a.tbz2", "--remove-files", "a.jsonl"),
    ".txz": lambda at: _packed(at, "tar", "-cJf", "a.txz", "--remove-files", "a.jsonl"),
}


def of_packed_file(ending: str) -> Situation:
    """Records in a file of another kind; the command of the message is run in a shell, with the file's name."""

    def situation(at: Path) -> Iterator[Call]:
        folder = at / "records"
        folder.mkdir()
        UNPACKED[ending](folder)
        (file,) = folder.iterdir()
        line = f"{TUNING} --output {at / 'made'} --input {folder}"
        said = yield failing(line)
        shell = re.search(r"`([^`]*)`", said.rpartition("; ")[2] if "import" not in said else said)[1]
        subprocess.run(["bash", "-c", shell.replace("FILE", file.name)], cwd=folder, check=True)
        yield failing(line)

    return situation


def of_columns(at: Path) -> Iterator[Call]:
    folder = at / "records"
    folder.mkdir()
    columns = {key: [row[key] for row in ROWS_OF_TEXT] for key in ROWS_OF_TEXT[0]}
    (folder / "a.json").write_text(json.dumps(columns))
    line = f"{TUNING} --output {at / 'made'} --input"
    said = yield failing(f"{line} {folder / 'a.json'}")
    shell = re.search(r"`(python -c .*)` > FILE\.jsonl|`(python -c .*)`", said)
    words = re.search(r"`(python -c [^`]*)`( > FILE\.jsonl)?", said)
    assert shell is not None
    subprocess.run(["bash", "-c", f"{words[1]} > a.jsonl".replace("FILE", "a.json")], cwd=folder, check=True)
    yield failing(f"{line} {folder / 'a.jsonl'}")


def of_encoding(at: Path) -> Iterator[Call]:
    (at / "a.jsonl").write_bytes(b'{"prompt": "caf\xe9", "completion": "x"}\n' * 3)
    line = f"{TUNING} --output {at / 'made'} --input"
    said = yield failing(f"{line} {at / 'a.jsonl'}")
    shell = re.search(r"`(iconv [^`]*)`", said)[1].replace("ENCODING", "latin1")
    new = shell.replace("FILE", "a.jsonl").replace("NEW", "b.jsonl")
    subprocess.run(["bash", "-c", new], cwd=at, check=True)
    yield failing(f"{line} {at / 'b.jsonl'}")


def of_notebook(at: Path) -> Iterator[Call]:
    cells = [{"cell_type": "markdown", "source": ["# a"]}]
    cells += [{"cell_type": "code", "source": Path("one/a.py").read_text().splitlines(True)}]
    (at / "in").mkdir()
    (at / "in/a.ipynb").write_text(json.dumps({"cells": cells}))
    line = f"prepare --workers 1 --validation-share 0 --input {at / 'in'} --output {at / 'made'}"
    said = yield failing(line)
    shell = re.search(r"`(python -c .*?` *$|python -c .*)`", said)[1]
    subprocess.run(["bash", "-c", shell.replace("FILE", "a.ipynb")], cwd=at / "in", check=True)
    yield failing(line)


def of_twice_packed(at: Path) -> Iterator[Call]:
    (at / "records").mkdir()
    _packed(at / "records", "gzip", "a.jsonl")
    once = (at / "records/a.jsonl.gz").read_bytes()
    (at / "records/a.jsonl.gz").write_bytes(gzip.compress(once))
    line = f"{TUNING} --output {at / 'made'} --input"
    said = yield failing(f"{line} {at / 'records'}")
    shell = re.search(r"`(gunzip [^`]*)`", said)[1].replace("FILE", "a.jsonl.gz").replace("NEW", "../b.jsonl.gz")
    subprocess.run(["bash", "-c", shell], cwd=at / "records", check=True)
    yield failing(f"{line} {at / 'b.jsonl.gz'}")


SHELL: dict[str, Situation] = {
    ".ipynb": of_notebook,
    "packed twice": of_twice_packed,
    **{ending: of_packed_file(ending) for ending in UNPACKED},
    "object of columns": of_columns,
    "not UTF-8": of_encoding,
}
