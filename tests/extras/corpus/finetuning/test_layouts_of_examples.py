"""Records as the ecosystem writes them, and what comes of each: the examples, or the reason by the field's name."""

import bz2
import contextlib
import dataclasses
import json
import lzma
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.conversations import TEMPLATES
from ms_codegeex.data.summary_lines import tally_lines
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.extras.corpus.finetuning.examples import BadRecord, reader
from ms_codegeex.extras.corpus.finetuning.prepare import (
    TASKS,
    FinetuneSettings,
    example_rows,
    prepare_finetune,
    recognised_task,
)
from ms_codegeex.extras.corpus.layouts import table
from ms_codegeex.extras.corpus.sources import FOR_VALIDATION, HELD_OUT, MISSING, OTHER_CONFIGURATION, OTHER_FORMAT
from ms_codegeex.extras.corpus.tally import Tally


def said(role, content, **further):
    return {"role": role, "content": content, **further}


def shared(sender, value, **further):
    return {"from": sender, "value": value, **further}


ASKED, TOLD = said("user", "Sort it"), said("assistant", "x.sort()")
ALPACA = {"instruction": "Add.", "input": "", "output": "b"}
CHAT = "User:\nSort it\n\nAssistant:\n"
TEXT, PART = {"type": "text", "text": "Sort "}, {"type": "text", "text": "x.sort()"}
GEMINI = [{"role": "user", "parts": [{"text": "Sort it"}]}, {"role": "model", "parts": [{"text": "y"}]}]
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}

HUMAN, GPT = shared("human", "Sort it"), shared("gpt", "y")
SYSTEM = f"System:\nS\n\n{CHAT}"
READ = {  # a record, its prompt and its answer
    # Stanford Alpaca's table has the filled-in text beside the parts
    "Alpaca": (ALPACA | {"text": "Below is an instruction"}, "Add.", "b"),
    "LLaMA-Factory, history": (
        ALPACA | {"system": "Write C.", "history": [["Subtract.", "a"], ["More.", "c"]]},
        "Write C.\nSubtract.\na\nMore.\nc\nAdd.",
        "b",
    ),
    "ChatGLM3, history": (ALPACA | {"history": [ASKED, TOLD]}, "Sort it\nx.sort()\nAdd.", "b"),
    "CSV and SQL, a text of messages": ({"messages": json.dumps([ASKED, TOLD])}, CHAT, "x.sort()"),
    "Nemotron": ({"input": [ASKED], "output": "y", "reasoning": "off"}, CHAT, "y"),
    "OpenCodeReasoning": ({"input": "Add.", "output": "b", "split": "train"}, "Add.", "b"),
    "an input that asks": (ALPACA | {"instruction": "", "input": "q", "system": "S"}, "S\nq", "b"),
    "a CSV file's empty cells": (ALPACA | {"history": "", "messages": "", "suffix": ""}, "Add.", "b"),
    "no history": (ALPACA | {"system": "", "history": []}, "Add.", "b"),
    "Dolly": ({"instruction": "Add.", "context": "1, 2", "response": "3", "category": "math"}, "Add.\n1, 2", "3"),
    "MetaMathQA": ({"query": "Add.", "response": "3"}, "Add.", "3"),
    "questions": ({"question": "Add.", "answer": "3", "id": 4}, "Add.", "3"),
    "OpenCodeInstruct": ({"id": "x", "input": "Add.", "output": "b"}, "Add.", "b"),
    "a table's row": ({"prompt": None, "completion": None, "messages": None, **ALPACA, "tools": []}, "Add.", "b"),
    "NaN": (ALPACA | {"weight": float("nan")}, "Add.", "b"),
    "null beside a value": ({"prompt": "p", "completion": None, "response": "r"}, "p", "r"),
    "an empty text beside a value": ({"prompt": "p", "completion": "", "output": "r"}, "p", "r"),
    "the same twice": ({"prompt": "p", "instruction": "p", "output": "r", "completion": "r"}, "p", "r"),
    "a good answer": ({"prompt": "p", "completion": "c", "label": True, "weight": 1.0, "split": "train"}, "p", "c"),
    "OpenAI": ({"messages": [ASKED, TOLD]}, CHAT, "x.sort()"),
    "a system text beside": ({"system": "S", "messages": [ASKED, TOLD], "tools": []}, SYSTEM, "x.sort()"),
    "the same system text": ({"system": "S", "messages": [said("system", "S"), ASKED, TOLD]}, SYSTEM, "x.sort()"),
    "developer": (
        {"messages": [said("developer", "D"), said("system", "S"), ASKED, TOLD]},
        f"System:\nD\n\n{SYSTEM}",
        "x.sort()",
    ),
    "parts": ({"messages": [said("user", [TEXT, "it"]), said("assistant", [PART])]}, CHAT, "x.sort()"),
    "weights": (
        {"messages": [ASKED, said("assistant", "no", weight=0), ASKED, said("assistant", "yes", weight=1)]},
        f"{CHAT}no\n\n{CHAT}",
        "yes",
    ),
    "axolotl": ({"conversations": [HUMAN | {"train": False}, GPT | {"train": True}]}, CHAT, "y"),
    "SlimOrca": ({"conversations": [HUMAN | {"weight": 0.0}, GPT | {"weight": 1.0}]}, CHAT, "y"),
    "FastChat": ({"id": "a_0", "conversations": [HUMAN, GPT]}, CHAT, "y"),
    "ShareGPT, other names": ({"conversation": [shared("user", "Sort it"), shared("bing", "y")]}, CHAT, "y"),
    "ChatGLM3": ({"conversations": [ASKED, TOLD]}, CHAT, "x.sort()"),
    "both spellings": ({"messages": [ASKED, said("assistant", "y")], "conversations": [HUMAN, GPT]}, CHAT, "y"),
    "Gemini": ({"systemInstruction": {"parts": [{"text": "S"}]}, "contents": GEMINI}, SYSTEM, "y"),
    "TRL, a system text twice": (
        {"system": "S", "prompt": [said("system", "S"), ASKED], "completion": [TOLD], "tools": "[]"},
        SYSTEM,
        "x.sort()",
    ),
    "TRL": ({"prompt": [ASKED, TOLD, ASKED], "completion": [TOLD]}, f"{CHAT}x.sort()\n\n{CHAT}", "x.sort()"),
}

REFUSED = {
    "suffix": ({"prompt": "p", "completion": "c", "suffix": "s"}, "field suffix"),
    "label": ({"prompt": "p", "completion": "c", "label": False}, "field label"),
    "kto_tag": ({"messages": [ASKED, TOLD], "kto_tag": False}, "field kto_tag"),
    "a label that is none": ({"prompt": "p", "completion": "c", "label": "bad"}, "field label"),
    "rejected": ({"prompt": "p", "completion": "c", "rejected": "r"}, "field rejected"),
    "a conversation with pairs": ({"messages": [ASKED], "chosen": [TOLD], "rejected": [TOLD]}, "field chosen"),
    "pairs": ({"prompt": "p", "chosen": "c", "rejected": "r"}, r"another task \(preference\)"),
    "weight": ({"prompt": "p", "completion": "c", "weight": 0.5}, "field weight"),
    "held out": ({"prompt": "p", "completion": "c", "split": "test"}, "field split"),
    "held out, in capitals": ({"prompt": "p", "completion": "c", "split": "TEST"}, "field split"),
    "columns": ({"prompt": ["p", "q"], "completion": ["c", "d"]}, "object of columns"),
    "pandas' columns": ({"prompt": {"0": "p"}, "completion": {"0": "c"}, "index": None}, "object of columns"),
    "columns of messages": ({"messages": [[ASKED, TOLD], [ASKED, TOLD]]}, "object of columns"),
    "no target": ({"source_language": "c", "target_language": "go", "source": "a", "target": None}, "missing field"),
    "thoughts": ({"prompt": "p", "completion": "c", "reasoning_content": "hm"}, "field reasoning_content"),
    "images": ({"prompt": "p", "completion": "c", "images": ["a.png"]}, "field images"),
    "tools": ({"tools": [{"type": "function"}], "messages": [ASKED, TOLD]}, "field tools"),
    "two answers": ({"prompt": "p", "completion": "c", "response": "r"}, "completion and response"),
    "two prompts": ({"prompt": "p", "instruction": "q", "output": "r"}, "prompt and instruction"),
    "two conversations": ({"messages": [ASKED, TOLD], "conversations": [ASKED]}, "messages and conversations"),
    "history of another form": (ALPACA | {"history": "none"}, "history is str, expected a list of pairs"),
    "history of triples": (ALPACA | {"history": [["a", "b", "c"]]}, "history is not a list of pairs"),
    "history with an object": (ALPACA | {"history": [["a", {}]]}, "history is dict"),
    "a call": ({"messages": [ASKED, said("assistant", None, tool_calls=[{"id": "1"}])]}, "field tool_calls"),
    "a tool": ({"messages": [ASKED, said("tool", "3"), TOLD]}, "role is tool"),
    "an observation": ({"conversations": [{"from": "observation", "value": "3"}]}, "from is observation"),
    "an image": ({"messages": [said("user", [IMAGE]), TOLD]}, "image_url"),
    "a part without a type": ({"messages": [said("user", [{"image": "a.png"}]), TOLD]}, "part with image"),
    "a part of another type": ({"messages": [said("user", [{"type": "audio"}]), TOLD]}, "part with type 'audio'"),
    "ms-swift, rejected": ({"messages": [ASKED, TOLD], "rejected_response": "no"}, "field rejected_response"),
    "OpenAI, preferences": (
        {"input": {"messages": [ASKED]}, "preferred_output": [TOLD], "non_preferred_output": [TOLD]},
        r"another task \(preference\)",
    ),
    "UltraChat": ({"id": "0", "data": ["q", "a"]}, "found id, data"),
    "an array in an object": ({"version": "1", "data": [ALPACA]}, "jq .data FILE"),
    "APPS": ({"question": "q", "solutions": '["a", "b"]'}, "choose one of the `solutions`"),
    "Firefly": ({"conversation": [{"human": "q", "assistant": "a"}]}, "found human, assistant"),
    "other spelling": ({"Prompt": "p", "Completion": "c"}, "found Prompt, Completion"),
    "messages as a text": ({"messages": "hi"}, "messages is str, expected a list"),
    "a share of a weight": ({"messages": [ASKED, said("assistant", "a", weight=0.5)]}, "field weight: message 1: 0.5"),
    "two weights": ({"messages": [ASKED, said("assistant", "a", weight=0, train=True)]}, "field train"),
    "a question that is learnt": ({"messages": [said("user", "a", train=True), TOLD]}, "field train: message 0"),
    "nothing is learnt": ({"messages": [ASKED, said("assistant", "a", weight=0)]}, "weight of each answer is 0"),
    "reasoning": ({"messages": [ASKED, said("assistant", "a", reasoning_content="hm")]}, "field reasoning_content"),
    "refusal": ({"messages": [ASKED, said("assistant", "", refusal="No.")]}, "field refusal"),
    "part of an answer": ({"messages": [ASKED, said("assistant", "a", training_detail=[{}])]}, "field training_detail"),
    "texts": ({"text": "x = 1"}, "--all-text"),
    "The Stack": ({"content": "x = 1", "max_stars_repo_name": "a/b"}, "--all-text"),
    "an index": ({"blob_id": "1", "path": "a.py"}, "Software Heritage"),
    "tokens": ({"input_ids": [1, 2], "attention_mask": [1, 1], "labels": [-100, 2]}, "another tokenizer's tokens"),
    "unknown": ({"old_contents": "a", "new_contents": "b"}, r"another task \(commit\)"),
}


ORDERS = {  # who speaks
    "assistant": "message 0 is by assistant and follows nothing",
    "user user assistant": "message 1 is by user and follows user",
    "user assistant assistant": "message 2 is by assistant and follows assistant",
    "user assistant system": "message 2 is by system",
    "system assistant": "message 1 is by assistant and follows system",
    "user tool": "role",
    "user": "no message by the assistant",
    "": "missing field",
}
CHATS = {**{roles: [said(role, "x") for role in roles.split()] for roles in ORDERS}, "text": "x", "texts": ["x"]}
for name, chat in CHATS.items():
    REFUSED[f"order: {name}"] = {"messages": chat}, ORDERS.get(name, "wrong type")
REFUSED["no content"] = {"messages": [{"role": "user"}]}, "wrong type"
REFUSED["no messages"] = {"prompt": None}, "missing field"


def task_of(record):
    layout = table().of(record)
    return layout.task if layout is not None and layout.task in TASKS else "completion"


def examples_of(record, note=lambda remark, where: None):
    found = reader(task_of(record), TEMPLATES["plain"], "none")(record, note)
    return [(example.text[: example.size].decode(), example.answer) for example in found]


@pytest.mark.parametrize("name", READ)
def test_records_that_are_read(name):
    record, prompt, answer = READ[name]
    remarks = []
    found = examples_of(json.loads(json.dumps(record)), lambda remark, where: remarks.append(remark))
    assert found == [(prompt, answer)]
    assert [remark for remark in remarks if not remark.startswith("read as")] == []


@pytest.mark.parametrize("name", REFUSED)
def test_records_that_are_refused_by_name(name):
    record, reason = REFUSED[name]
    with pytest.raises(BadRecord, match=reason):
        examples_of(record)


@pytest.mark.parametrize("record", [ALPACA, {"messages": [ASKED, TOLD]}, {"prompt": [ASKED], "completion": [TOLD]}])
def test_every_field_that_is_to_be_refused_is(record):
    """With a value that none of the lists allows."""
    layout = table().of(record)
    names = {name for entry in layout.refused for name in entry["fields"].split()}
    assert len(names) > 30
    for name in names:
        with pytest.raises(BadRecord, match=f"field {name}"):
            examples_of(record | {name: "test"})


def test_each_use_and_name_is_listed_once():
    for layout in (*table().layouts, table().message):
        used = [name for names in layout.uses.values() for name in names.split()]
        refused = [name for entry in layout.refused for name in entry["fields"].split()]
        names = [*used, *refused, *layout.harmless.split()]
        assert len({*used}) == len(used) and {use.partition("[")[0] for use in layout.by} <= {*layout.uses}
        assert len({*refused}) == len(refused) and not {*refused} & {*used, *layout.harmless.split()}, layout.name
        assert all(name.isascii() and "," not in name for name in names)


def prepared(tmp_path, records, task):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    settings = FinetuneSettings(task, 64, validation_share=0.0)
    return prepare_finetune([tmp_path / "a.jsonl"], tmp_path / "out", settings)["tally"]


def test_fields_of_no_list_are_named_with_their_count(tmp_path):
    chat = {"messages": [ASKED, said("assistant", "a", mood="fine")], "score\u202e": 1}
    tally = prepared(tmp_path, [chat, chat, {"messages": [ASKED, TOLD, ASKED]}], "chat")
    remarks = {remark: it["count"] for remark, it in tally["noted"].items()}
    assert remarks == {
        "read as messages, ShareGPT": 3,
        "field score\u202e is not known and was not used": 2,
        "field mood of a message is not known and was not used": 2,
        "a last message by the user, which nobody answers, was not used": 1,
    }
    assert all(line.isprintable() for line in tally_lines(tally))


def test_the_tally_adds_up(tmp_path):
    good, bad = {"prompt": "p", "completion": "c"}, {"prompt": "p", "completion": "c", "label": False}
    text = {"prompt": "<fim_prefix>", "completion": "c</s>\n"}
    tally = prepared(tmp_path, [good, bad, bad, {"messages": [ASKED, TOLD]}, text, [1], good], "completion")
    assert (tally["read"], tally["kept"], tally["examples"]) == (7, 3, 3)
    dropped = {reason: (it["count"], it["first"]) for reason, it in tally["dropped"].items()}
    label = tmp_path.name
    assert dropped == {
        "field label": (2, f"{label}/a.jsonl:2"),
        "record of another task (chat)": (1, f"{label}/a.jsonl:4"),
        "no object": (1, f"{label}/a.jsonl:6"),
    }
    special = [(it["count"], it["detail"]) for remark, it in tally["noted"].items() if "special token" in remark]
    assert sorted(special) == [(1, "</s>"), (1, "<fim_prefix>")]


LINES = "".join(json.dumps({"prompt": each, "completion": "c" * 200_000}) + "\n" for each in "pq")
CSV = f"\ufeffprompt,completion\r\np,{'c' * 200_000}\r\nq,{'c' * 200_000}\r\n"
COLUMNS = {"prompt": ["p", "q"], "completion": ["c" * 200_000] * 2}
CHANGED = {  # to be unpacked, or written in another way
    "Excel.csv": CSV.encode(),
    "Excel.tsv": CSV.replace(",", "\t").encode(),
    "columns.json": json.dumps(COLUMNS).encode(),
    "pandas.json": json.dumps({name: dict(enumerate(values)) for name, values in COLUMNS.items()}).encode(),
    "PowerShell.jsonl": LINES.encode("utf-16"),
    "lines.jsonl.xz": lzma.compress(LINES.encode()),
    "lines.jsonl.bz2": bz2.compress(LINES.encode()),
}


@pytest.mark.parametrize("name", CHANGED)
def test_the_command_in_the_message_makes_records_of_a_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(CHANGED[name])
    with pytest.raises(UserError, match=r"no example is left: .*`.*`") as refused:
        prepare_finetune([name], tmp_path / "out", FinetuneSettings(recognised_task([name]), 64))
    (command,) = re.findall(r"`([^`]+)`", str(refused.value))
    for word, value in {"FILE": name, "ENCODING": "UTF-16", "NEW": "new.jsonl", "python": sys.executable}.items():
        command = command.replace(word, value)
    if shutil.which(program := command.split()[0]) is None:
        pytest.skip(f"no {program} here")
    subprocess.run(command, shell=True, check=True)
    (made,) = {*tmp_path.glob("*.jsonl")} - {tmp_path / "PowerShell.jsonl"}
    assert [json.loads(line) for line in made.read_text().splitlines()] == [*map(json.loads, LINES.splitlines())]


@pytest.mark.parametrize("line, reason", [("{'prompt': 'p'}", "property name"), ('{"prompt": "p"},', "in a comma")])
def test_the_task_of_no_record_is_an_error_with_the_reason(tmp_path, line, reason):
    (tmp_path / "a.jsonl").write_text(f"{line}\n{line}\n")
    with pytest.raises(UserError, match=rf"2 times invalid JSON \(.*{reason}.*/a.jsonl:1; write one object per line"):
        recognised_task([tmp_path / "a.jsonl"])


@pytest.mark.parametrize("only, learnt", [(True, ["d"]), (False, ["b", "d"])])
@pytest.mark.parametrize("field", ["only_last_turn_loss", "mask_history"])
def test_only_the_last_answer_is_learnt_if_the_record_says_so(field, only, learnt):
    turns = [{"role": role, "content": text} for role, text in zip(("user", "assistant") * 2, "abcd", strict=True)]
    read = reader("chat", TEMPLATES["plain"], "none")
    assert [each.answer for each in read({"messages": turns, field: only}, lambda *_: None)] == learnt
    with pytest.raises(BadRecord, match=f"field {field}: 'x'; true: only the last answer"):
        read({"messages": turns, field: "x"}, lambda *_: None)


TEXTS = st.sampled_from(["", "a", "print(1)", "x " * 90, None, 5, ["b"], {"c": "d"}])


@st.composite
def records_of_a_layout(draw):
    """A record with some fields of some layout, right or wrong, or of none."""
    layout = draw(st.sampled_from(table().layouts))
    uses = draw(st.lists(st.sampled_from([*layout.uses]), unique=True)) + [by.partition("[")[0] for by in layout.by]
    record = {}
    for use in dict.fromkeys(uses):
        for name in draw(st.lists(st.sampled_from(layout.uses[use].split()), min_size=1, max_size=2, unique=True)):
            record[name] = draw(TEXTS)
            if use in ("messages", "history", "prompt", "answer", "records") and draw(st.booleans()):
                turns = draw(st.lists(st.tuples(st.sampled_from(["user", "assistant", "tool"]), TEXTS), max_size=5))
                record[name] = [{"role": role, "content": text} for role, text in turns]
    names = ["weight", "split", "tools", "only_last_turn_loss", "other"]
    return record | draw(st.dictionaries(st.sampled_from(names), st.sampled_from([0, True, "test", "x"]), max_size=1))


@settings(max_examples=60, deadline=None)
@given(st.lists(records_of_a_layout(), min_size=1, max_size=6), st.sampled_from(["completion", "chat", "translation"]))
def test_every_record_of_any_layout_is_in_one_row_of_the_tally(tmp_path_factory, records, task):
    file = tmp_path_factory.mktemp("drawn") / "a.jsonl"
    file.write_text("".join(f"{json.dumps(record)}\n" for record in [*records, {"prompt": "a", "completion": "b"}]))
    tally, tokenizer = Tally(), load_tokenizer("codegen-mono")
    with contextlib.suppress(UserError):  # none is left
        example_rows([file], FinetuneSettings(task, 48, overlong="drop"), tokenizer, tally)
    found = tally.summed(tally.kept)
    dropped = sum(row["records"] for row in found["dropped"].values())
    assert found["records"]["kept"] + dropped == found["records"]["read"] == len(records) + 1
    assert found["files"]["found"] == 1 == found["files"]["holding_records"]


CARD = """---
license: mit
configs:
- config_name: hard
  data_files: hard.jsonl
- config_name: easy
  default: true
  data_files:
  - {split: train, path: data/easy-*}
  - {split: validation, path: [held/*.jsonl]}
  - {split: test, path: tests/**}
---
# Pairs
"""
TWO = "README.md hard.jsonl data/easy-1.jsonl data/easy-2.jsonl held/x.jsonl tests/deep/y.jsonl other.jsonl"
FOLDERS = {  # files by name, how many go to training and validation, and why others are left out
    "no share": ("train.jsonl test.jsonl dev.jsonl", 1, 0, {HELD_OUT: 2}),
    "parts": (
        "data/train-0-of-2.jsonl data/train-1-of-2.jsonl data/Validation-0-of-1.jsonl",
        2,
        0,
        {HELD_OUT: 1},
    ),
    "names of folders": ("train/data.jsonl test/data.jsonl train/other.jsonl", 2, 0, {HELD_OUT: 1}),
    "parts of names": ("alpaca_train.jsonl alpaca_eval.jsonl unit-test-writing.jsonl", 2, 0, {HELD_OUT: 1}),
    "nothing to be beside": ("test.jsonl latest.jsonl contest_train.jsonl", 3, 0, {}),
    "splits by name": ("train.jsonl dev.jsonl test.jsonl", 1, 1, {HELD_OUT: 1}),
    "splits by folder": ("train/a.jsonl validation/a.jsonl", 1, 1, {}),
    "a card": (TWO, 2, 1, {OTHER_CONFIGURATION: 2, HELD_OUT: 1}),
    "copies": ("a.jsonl a.parquet b.jsonl", 2, 0, {OTHER_FORMAT: 1}),
    "copies in folders": ("parquet/a.parquet jsonl/a.jsonl", 1, 0, {OTHER_FORMAT: 1}),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_is_read_as_its_owner_means_it(tmp_path, name):
    import pyarrow
    import pyarrow.parquet

    names, training, validation, left_out = FOLDERS[name]
    for each in names.split():
        file = tmp_path / "in" / each
        file.parent.mkdir(parents=True, exist_ok=True)
        record = {"prompt": each if "validation" in each else Path(each).stem, "completion": "c"}
        if each.endswith(".parquet"):
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist([record]), file)
        else:
            file.write_text(CARD if each == "README.md" else json.dumps(record) + "\n")
    share = 0.05 if validation else 0.0
    settings = FinetuneSettings("completion", 64, validation_share=share)
    made = prepare_finetune([tmp_path / "in"], tmp_path / "out", settings)
    documents = [made["splits"][split]["documents"] for split in ("train", "validation")]
    assert documents == [training, validation], made["tally"]
    unread = {reason: made["tally"]["unread"].get(reason, {"count": 0})["count"] for reason in left_out}
    assert unread == left_out and made["tally"]["noted"].get(FOR_VALIDATION, {"count": 0})["count"] == validation
    assert made["tally"]["files"]["found"] == len(names.split())
    if not share and {*left_out} == {HELD_OUT}:  # what is given by name is read, and once
        given = [tmp_path / "in", *(tmp_path / "in" / each for each in names.split())]
        assert prepare_finetune(given, tmp_path / "all", settings)["tally"]["kept"] == len(names.split())


def test_a_saved_dataset_without_one_of_its_files_is_not_read_half_in_silence(tmp_path):
    files = [f"data-0000{number}-of-00002.arrow" for number in range(2)]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in files]}))
    table = pyarrow.Table.from_pylist([{"prompt": "p", "completion": "c"}])
    with pyarrow.ipc.new_stream(tmp_path / "in" / files[0], table.schema) as stream:
        stream.write_table(table)
    settings = FinetuneSettings("completion", 64, validation_share=0.0)
    tally = prepare_finetune([tmp_path / "in"], tmp_path / "out", settings)["tally"]
    assert tally["kept"] == 1 and tally["dropped"][MISSING]["count"] == 1, tally
    assert files[1] in str(tally["dropped"][MISSING])
    with pytest.raises(UserError, match=f"{files[1]}.*{MISSING}"):
        prepare_finetune([tmp_path / "in"], tmp_path / "stopped", dataclasses.replace(settings, on_error="stop"))


def test_rows_of_tables_are_read_as_lines_are(tmp_path):
    """Parquet's structs have every field, null where a record has none."""
    chats = [
        {"messages": [said("user", f"Add {number}."), said("assistant", "x", weight=number % 2)], "tools": None}
        for number in range(6)
    ]
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(chats), tmp_path / "rows.parquet")
    for name in ("lines.jsonl", "rows.parquet"):
        assert recognised_task([tmp_path / name]) == "chat"
        settings = FinetuneSettings("chat", 64, validation_share=0.0)
        tally = prepare_finetune([tmp_path / name], tmp_path / f"out-{name}", settings)["tally"]
        assert (tally["read"], tally["kept"]) == (6, 3) and [*tally["dropped"]] == ["nothing to learn"]
    made = [(tmp_path / f"out-{name}" / "train.bin").read_bytes() for name in ("lines.jsonl", "rows.parquet")]
    assert made[0] == made[1]


def test_names_without_end_are_limited(tmp_path):
    records = [{"prompt": "p", "completion": "c", f"x{number}": 1} for number in range(300)]
    assert len(prepared(tmp_path, records, "completion")["noted"]) <= 101


@pytest.mark.parametrize(
    "records, task",
    [
        ([{"a": 1}, ALPACA], "completion"),
        ([{"text": "x"}, {"messages": [ASKED, TOLD]}, ALPACA], "chat"),
        ([{"conversations": [ASKED, TOLD]}], "chat"),
    ],
)
def test_the_task_of_the_first_record_that_has_one(tmp_path, records, task):
    (tmp_path / "a.json").write_text(json.dumps(records, indent=1))
    assert recognised_task([tmp_path / "a.json"]) == task
