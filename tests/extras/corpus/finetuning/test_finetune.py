import contextlib
import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_files import chatglm_model, write_chatglm, write_qwen2

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.conversations import TEMPLATES
from ms_codegeex.data.datasets.indexed import IndexedDataset
from ms_codegeex.data.datasets.layout import read_documents
from ms_codegeex.data.datasets.opening import open_sequences
from ms_codegeex.data.inspection import open_dataset, verify_dataset
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.extras.corpus import reading, workers
from ms_codegeex.extras.corpus.finetuning import prepare as finetune
from ms_codegeex.extras.corpus.finetuning.examples import reader
from ms_codegeex.extras.corpus.finetuning.prepare import FinetuneSettings, RowEncoder, prepare_finetune, recognised_task
from ms_codegeex.extras.shared.records import line_parts


def write_lines(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [record if isinstance(record, str) else json.dumps(record, ensure_ascii=False) for record in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def examples_of(record, task="chat", template="plain"):
    return reader(task, TEMPLATES[template], "none")(record, lambda remark, where: None)


def rows(directory, split="train"):
    """(ids, mask) of each row, the mask read by hand."""
    dataset = IndexedDataset(directory / split)
    mask = np.frombuffer((directory / f"{split}.mask").read_bytes(), np.uint8)
    assert mask.size == dataset.tokens.size
    masks = np.split(mask, np.cumsum(dataset.sizes)[:-1])
    return [(dataset.document(number).tolist(), masks[number].tolist()) for number in range(len(dataset))]


def prepare(tmp_path, records, name="out", **options):
    source = write_lines(tmp_path / "in" / "a.jsonl", records)
    values = {"task": "completion", "seq_length": 64, "validation_share": 0.0, **options}
    result = prepare_finetune([source], tmp_path / name, FinetuneSettings(**values))
    return tmp_path / name, result


def test_a_row_is_prompt_answer_and_end(tmp_path):
    out, result = prepare(tmp_path, [{"prompt": "def f(x):\n", "completion": "    return x\n"}])
    # ids from the published worked example: "def f(x):\n    return x + 1\n"
    prompt, answer = [4299, 277, 7, 87, 2599, 198], [50268, 7783, 2124, 198]
    assert rows(out) == [([*prompt, *answer, 50256], [0] * 6 + [1] * 5)]
    assert (result["kind"], result["seq_length"], result["dtype"]) == ("finetune", 64, "uint16")
    assert result["splits"]["train"]["answer_tokens"] == 5 and result["splits"]["validation"]["documents"] == 0
    assert {"train.mask", "validation.mask", "train.documents.parquet"} < set(result["files"])
    verify_dataset(open_dataset(out))
    assert result == {**json.loads((out / "dataset.json").read_text()), "output": str(out)}


COMPLETIONS = [
    ({"prompt": "a", "response": "b"}, "a", "b"),
    ({"instruction": "Add.", "output": " b"}, "Add.", " b"),
    ({"instruction": "Add.", "input": "1", "output": "\nb"}, "Add.\n1", "\nb"),
    ({"instruction": "Add.", "input": "", "output": "b"}, "Add.", "b"),
    ({"prompt": "", "completion": "b"}, "", "b"),
    ({"prompt": "x", "completion": "b", "language": "cpp"}, "// language: C++\nx", "b"),
    ({"prompt": "x", "completion": "b", "language": None}, "x", "b"),
    ({"prompt": "<|endoftext|>", "completion": "<|extratoken_10|>"}, "<|endoftext|>", "<|extratoken_10|>"),
]


def test_fields_of_completions(tmp_path):
    out, _ = prepare(tmp_path, [record for record, _, _ in COMPLETIONS])
    tokenizer = load_tokenizer("codegeex")
    for (ids, mask), (_, prompt, answer) in zip(rows(out), COMPLETIONS, strict=True):
        border = mask.index(1)
        assert (tokenizer.decode(ids[:border]), tokenizer.decode(ids[border:-1])) == (prompt, answer)
        assert ids.count(50256) == 1 and ids[-1] == 50256 and all(mask[border:])
    out, _ = prepare(tmp_path, [COMPLETIONS[5][0]], "plain", tags="none")
    assert tokenizer.decode(rows(out)[0][0][:-1]) == "xb"


CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        *({"role": role, "content": text} for role, text in (("user", "你好"), ("assistant", "Hello."))),
        *({"role": role, "content": text} for role, text in (("user", "Add 1 and 2."), ("assistant", "3"))),
        {"role": "user", "content": "never answered"},
    ]
}


def texts(directory, tokenizer):
    """(prompt, answer) of each row."""
    found = []
    for ids, mask in rows(directory):
        assert mask == sorted(mask) and ids[-1] == tokenizer.eos_id and mask[-1] == 1
        border = mask.index(1)
        whole = tokenizer.decode(ids[:-1])
        prompt = tokenizer.decode(ids[:border])
        assert whole.startswith(prompt)
        found.append((prompt, whole[len(prompt) :]))
    return found


def test_chat_in_the_published_template(tmp_path):
    model = write_chatglm(tmp_path / "model")
    out, result = prepare(tmp_path, [CHAT], task="chat", tokenizer=str(model), seq_length=512)
    first = "Be brief.\n\n[Round 1]\n\n问\uff1a你好\n\n答\uff1a"
    second = first + "Hello.\n\n[Round 2]\n\n问\uff1aAdd 1 and 2.\n\n答\uff1a"
    tokenizer = load_tokenizer(model)
    assert texts(out, tokenizer) == [(first, "Hello."), (second, "3")]
    for ids, _ in rows(out):
        assert tuple(ids[:2]) == tokenizer.prefix
    assert result["tokenizer"]["name"] == "codegeex2" and (out / "tokenizer/tokenizer.model").is_file()


def test_chat_in_the_plain_template(tmp_path):
    out, _ = prepare(tmp_path, [CHAT], task="chat", seq_length=512)
    first = "System:\nBe brief.\n\nUser:\n你好\n\nAssistant:\n"
    assert texts(out, load_tokenizer("codegeex")) == [
        (first, "Hello."),
        (first + "Hello.\n\nUser:\nAdd 1 and 2.\n\nAssistant:\n", "3"),
    ]
    other, _ = prepare(tmp_path, [CHAT], "other", task="chat", seq_length=512, template="codegeex2")
    assert texts(other, load_tokenizer("codegeex"))[0][0].endswith("[Round 1]\n\n问\uff1a你好\n\n答\uff1a")


def test_a_template_that_ends_turns_with_the_end_token(tmp_path):
    """As Zephyr's: every turn is learnt, and the dataset says that end tokens are inside."""
    turn = "{{ '<' + m['role'] + '>\n' + m['content'] + eos_token + '\n' }}"
    asks = "{% if add_generation_prompt %}{{ '<assistant>\n' }}{% endif %}"
    chat = {"template": "{% for m in messages %}" + turn + "{% endfor %}" + asks}
    out, result = prepare(tmp_path, [CHAT], task="chat", seq_length=512, chat=chat)
    assert result["ends_inside"] is True and result["tally"]["kept"] == 1
    tokenizer = load_tokenizer("codegeex")
    (_, (ids, mask)), end = rows(out), tokenizer.eos_id
    assert ids[mask.index(1) :] == [*tokenizer.encode("3"), end] and ids.count(end) == 5
    assert tokenizer.decode(ids[: ids.index(end)]) == "<system>\nBe brief."
    assert "ends_inside" not in prepare(tmp_path, [CHAT], "plain", task="chat", seq_length=512)[1]


def test_translation_prompt(tmp_path):
    records = [
        {"source_language": "python", "target_language": "cpp", "source": "x = 1\n\n", "target": "int x = 1;\n"},
        {"source_language": "js", "target_language": "go", "source": "let x", "target": "var x int"},
        {"source_language": "golang", "target_language": "zig", "source": "a", "target": "b"},
    ]
    out, _ = prepare(tmp_path, records, task="translation")
    assert texts(out, load_tokenizer("codegeex")) == [
        ("code translation\nPython:\nx = 1\nC++:\n", "int x = 1;\n"),
        ("code translation\nJavaScript:\nlet x\nGo:\n", "var x int"),
        ("code translation\nGo:\na\nZig:\n", "b"),
    ]


@settings(max_examples=30)
@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"), min_size=1),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"), max_size=20),
)
def test_an_answer_continues_its_prompt_to_the_character(encoders, answer, prompt):
    for encoder in encoders:
        # not an empty prompt: SentencePiece drops the first space of a text
        ids = encoder.tokenizer.encode_prompt(prompt.replace("<|", "< |") or "a")
        pieces = encoder.tokenizer.continuation(ids, encoder.answer_ids(answer))
        assert "".join(pieces) == answer


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    model = write_chatglm(tmp_path_factory.mktemp("model"))
    return [RowEncoder(FinetuneSettings("chat", 24, name)) for name in ("codegeex", "codegen-nl", str(model))]


def test_longer_examples(tmp_path):
    records = [
        {"prompt": " one two three four five", "completion": " six seven"},  # 5 + 2 + 1
        {"prompt": " one", "completion": " 1 2 3 4 5 6"},
        {"prompt": " one two three four", "completion": " five"},
    ]
    tokenizer = load_tokenizer("codegeex")
    out, result = prepare(tmp_path, records, seq_length=6)
    assert texts(out, tokenizer) == [(" three four five", " six seven"), (" one two three four", " five")]
    assert result["truncated"] == 1 and result["dropped"]["answer longer than seq_length"]["documents"] == 1
    assert result["tally"]["noted"]["a prompt lost its beginning, to fit seq_length"]["count"] == 1
    other, result = prepare(tmp_path, records, "other", seq_length=6, overlong="drop")
    assert texts(other, tokenizer) == [(" one two three four", " five")]
    assert result["truncated"] == 0 and result["dropped"]["longer than seq_length"]["documents"] == 2
    assert result["tally"]["dropped"]["longer than seq_length"]["detail"] == ""
    assert "in/a.jsonl:1" in (other / "report.html").read_text()


def test_an_answer_needs_one_token_of_its_prompt(tmp_path):
    answer = {"completion": " 1 2 3 4"}  # 4 + 1
    records = [{"prompt": " one two", **answer}, {"prompt": "", **answer}]
    assert texts(prepare(tmp_path, records, "tight", seq_length=5)[0], load_tokenizer("codegeex")) == [("", " 1 2 3 4")]
    assert len(rows(prepare(tmp_path, records, "wide", seq_length=6)[0])) == 2


def conversation(contents):
    """User and assistant alternate."""
    roles = ["user", "assistant"] * len(contents)
    return {"messages": [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]}


PIECES = ["\n", "\n\n", " ", "  ", "a", "a:\n b", "。\n", "\u3000\n", "\r\n", "\t\n", "é\n", "<|endoftext|>\n", "it's"]
PIECES = st.sampled_from(PIECES) | st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=5)
CONTENTS = st.lists(PIECES, min_size=1, max_size=6).map(lambda pieces: "".join(pieces) or "x")


@settings(max_examples=60)
@given(st.lists(CONTENTS, min_size=2, max_size=10), st.sampled_from(["plain", "codegeex2"]))
def test_rows_of_a_conversation_are_those_of_whole_prompts(encoders, contents, template):
    examples = examples_of(conversation(contents), template=template)
    for encoder in encoders:
        tokenizer = encoder.tokenizer
        for example, row in zip(examples, encoder.rows(examples), strict=True):
            prompt = [*tokenizer.prefix, *tokenizer.encode(example.text[: example.size].decode())]
            answer = [*encoder.answer_ids(example.answer), tokenizer.eos_id]
            left = encoder.seq_length - len(answer)
            if len(prompt) > left and left < len(tokenizer.prefix) + 1:
                assert row == "answer longer than seq_length"
            else:
                kept = tokenizer.truncate_prompt(prompt, left)
                assert (row[0].tolist(), row[2]) == ([*kept, *answer], len(prompt) > left)


def work_on(monkeypatch, encoder, messages):
    """Bytes of text that are encoded for a conversation of so many messages, and its rows."""
    encoded = []
    for name in ("encode", "encode_inside"):
        work = getattr(encoder._fast, name)
        monkeypatch.setattr(encoder._fast, name, lambda data, work=work: encoded.append(len(data)) or work(data))
    examples = examples_of(conversation([f"message {n}" for n in range(messages)]))
    assert len({id(example.text) for example in examples}) == 1  # no copy for each answer
    found = list(encoder.rows(examples))
    monkeypatch.undo()
    return sum(encoded), found


def test_the_work_on_a_conversation_grows_with_its_length_and_not_faster(encoders, monkeypatch):
    for encoder in encoders:
        half, whole = (work_on(monkeypatch, encoder, messages)[0] for messages in (100, 200))
        assert whole < 2.2 * half < 200 * 100


def test_other_sentencepiece_models_encode_whole_prompts_up_to_a_limit(tmp_path, monkeypatch):
    model = write_chatglm(tmp_path / "model", chatglm_model(model_type="unigram", vocab_size=330))
    encoder = RowEncoder(FinetuneSettings("chat", 64, str(model)))
    longer = load_tokenizer(write_chatglm(tmp_path / "longer", chatglm_model(user_defined_symbols=["x\n"])))
    assert not encoder.tokenizer.divides and not longer.divides
    assert all(not isinstance(row, str) for row in work_on(monkeypatch, encoder, 40)[1])
    monkeypatch.setattr(finetune, "_MAX_PROMPTS", 1000)
    _, result = prepare(tmp_path, [conversation(["x" * 300] * 12)], task="chat", tokenizer=str(model), seq_length=2000)
    noted = result["tally"]["noted"]["an answer was left out: conversation too long to encode as a whole"]
    assert noted["count"] == 4 and result["tally"]["read"] == result["tally"]["kept"]  # 300 + 900 bytes are two


def test_the_split_hashes_a_limited_part_of_a_conversation(tmp_path, monkeypatch):
    """What is hashed is the same as ever: seed, then each prompt and answer."""
    digests = []
    monkeypatch.setattr(finetune.DatasetWriter, "add", lambda self, *document: digests.append(document[-1]))
    examples = "\0User:\na\n\nAssistant:\n\0b\0User:\na\n\nAssistant:\nb\n\nUser:\nc\n\nAssistant:\n\0d"
    for limit in (1 << 20, 30):
        monkeypatch.setattr(finetune, "_MAX_PROMPTS", limit)
        prepare(tmp_path, [conversation("abcd")], f"out-{limit}", task="chat", seed=5)
    assert digests[:2] == [hashlib.sha256(f"5{examples}".encode()).digest()] * 2
    cut = "5\0User:\na\n\nAssistant:\n\0b\0User:\na\n\n\0"
    assert digests[2:] == [hashlib.sha256(cut.encode()).digest()] * 2


BAD = [
    ("{", "invalid JSON", "column 2"),
    ({"prompt": "a"}, "missing field", "completion or response or output"),
    ({"completion": "a"}, "missing field", "prompt or instruction"),
    ({"prompt": 1, "completion": "a"}, "wrong type", "prompt is int"),
    ({"prompt": "a", "completion": ""}, "empty answer", ""),
    ({"prompt": "a", "completion": "b", "language": "klingon"}, "unknown language", "klingon"),
    ('{"prompt": "\\ud800", "completion": "b"}', "not UTF-8", "prompt"),
]


def test_bad_lines_are_named(tmp_path):
    good = {"prompt": "a", "completion": "b"}
    out, result = prepare(tmp_path, [good, "", *(line for line, _, _ in BAD), good])
    problems = json.loads((out / "report.json").read_text())["problems"]
    assert len(rows(out)) == 2 and sum(entry["documents"] for entry in problems.values()) == len(BAD)
    named = {example["source"]: example["detail"] for entry in problems.values() for example in entry["examples"]}
    for number, (_, reason, detail) in enumerate(BAD, 3):
        assert result["dropped"][reason]["documents"] == [kind for _, kind, _ in BAD].count(reason)
        assert detail in named[f"in/a.jsonl:{number}"]


def test_lines_are_numbered_through_the_parts_of_a_large_file(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "record_parts", lambda path, size: line_parts(path, size, 100))
    out, result = prepare(tmp_path, [*MANY[:20], "{", "", *MANY[20:40], "{"])
    examples = json.loads((out / "report.json").read_text())["problems"]["invalid JSON"]["examples"]
    assert [example["source"] for example in examples] == ["in/a.jsonl:21", "in/a.jsonl:43"]
    assert result["found"] == {"files": 1, "documents": 42, "bytes": result["found"]["bytes"]} and len(rows(out)) == 40


def test_a_bad_line_ends_the_work(tmp_path):
    with pytest.raises(UserError, match=r"in/a\.jsonl:3: invalid JSON \(.* column 2"):
        prepare(tmp_path, [MANY[0], "", "{", MANY[1]], on_error="stop")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


MANY = [{"prompt": f"p{number}", "completion": f"c{number}"} for number in range(200)]


@pytest.mark.slow
def test_validation_split(tmp_path):
    def texts_of(out, split="validation"):
        return {load_tokenizer("codegeex").decode(ids[:-1]) for ids, _ in rows(out, split)}

    out, _ = prepare(tmp_path, MANY, validation_share=0.2)
    train, validation = texts_of(out, "train"), texts_of(out)
    assert not train & validation and len(train | validation) == 200 and 20 <= len(validation) <= 60
    more, _ = prepare(tmp_path, [{"prompt": "new", "completion": "er"}, *MANY], "more", validation_share=0.2)
    assert validation <= texts_of(more)  # it does not move
    assert validation != texts_of(prepare(tmp_path, MANY, "other", validation_share=0.2, seed=1)[0])
    _, result = prepare(tmp_path, MANY[:2], "few", validation_share=0.01)
    assert [result["splits"][split]["documents"] for split in ("train", "validation")] == [1, 1]


def test_records_for_validation(tmp_path):
    """All of them, in that split alone: what repeats them is counted and not trained on."""
    own = write_lines(tmp_path / "own.jsonl", [*MANY[:3], {"prompt": "v", "completion": "w"}])
    out, result = prepare(tmp_path, MANY[:9], validation=[own])
    assert [result["splits"][split]["documents"] for split in ("train", "validation")] == [6, 4]
    assert result["dropped"]["is in --validation too"]["documents"] == 3 and result["split_by"] == "input"
    assert load_tokenizer("codegeex").decode(rows(out, "validation")[3][0][:-1]) == "vw"
    with pytest.raises(UserError, match="--input: no example is left of it: all is in --validation"):
        prepare(tmp_path, MANY[:3], "none", validation=[own])
    write_lines(tmp_path / "odd.jsonl", [{"x": 1}])
    with pytest.raises(UserError, match="--validation: no example is left of it"):
        prepare(tmp_path, MANY[:3], "odd", validation=[tmp_path / "odd.jsonl"])


def test_a_conversation_is_not_split(tmp_path):
    chats = [conversation([f"{n} {i}" for i in range(6)]) for n in range(40)]
    out, _ = prepare(tmp_path, chats, task="chat", validation_share=0.3)
    sides = [{*read_documents(out / split).to_pydict()["source"]} for split in ("train", "validation")]
    assert not sides[0] & sides[1] and all(sides)


def test_the_table_of_documents(tmp_path):
    out, _ = prepare(tmp_path, [{"prompt": "x\n", "completion": "é", "language": "python"}, MANY[0]])
    first, second = read_documents(out / "train").to_pylist()
    text = "# language: Python\nx\né".encode()
    expected = {"source": "in/a.jsonl:1", "language": "Python", "sha256": hashlib.sha256(text).digest()}
    assert first == {**expected, "bytes": len(text), "tokens": len(rows(out)[0][0])}
    assert second["source"] == "in/a.jsonl:2"


def test_a_url_is_refused(tmp_path):
    message = r"^https://example\.com/a/x\.jsonl: a URL is for corpora; give a path of this machine$"
    with pytest.raises(UserError, match=message):
        recognised_task(["https://example.com/a/x.jsonl"])
    with pytest.raises(UserError, match=message):
        prepare_finetune(["https://example.com/a/x.jsonl"], tmp_path / "out", FinetuneSettings("chat", 8))


def test_the_same_input_gives_the_same_bytes(tmp_path):
    made = [prepare(tmp_path, [*MANY, "{"], name, validation_share=0.1)[0] for name in ("one", "two")]
    one, two = ({path.name: path.read_bytes() for path in out.iterdir()} for out in made)
    assert one == two


def test_what_is_already_there(tmp_path):
    """Other files and other kinds of datasets: `test_prepare.py`."""
    out, _ = prepare(tmp_path, MANY[:5])
    with pytest.raises(UserError, match="holds a dataset; add --replace"):
        prepare(tmp_path, MANY[:3])
    prepare_finetune([tmp_path / "in"], out, FinetuneSettings("completion", 64), replace=True)
    (out / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds mine\.txt, which is not part"):
        prepare_finetune([tmp_path / "in"], out, FinetuneSettings("completion", 64), replace=True)


def test_training_counts_the_answers_and_nothing_else(tmp_path):
    out, result = prepare(tmp_path, MANY)
    sequences = open_sequences(out, "train", 64, seed=0)
    batch = sequences.training_batch(0, sequences.size)
    assert batch.loss_mask.sum() == result["splits"]["train"]["answer_tokens"]
    answers = load_tokenizer("codegeex").decode(batch.labels[batch.loss_mask == 1].tolist())
    assert sorted(answers.split("<|endoftext|>")[:-1]) == sorted(record["completion"] for record in MANY)


def test_progress_has_a_line_alive(tmp_path, monkeypatch):
    bars = []
    monkeypatch.setattr(workers.ProgressBar, "alive", lambda bar: contextlib.nullcontext(bars.append(bar)))
    prepare(tmp_path, MANY[:2])
    assert len(bars) == 1


def test_models_with_qwen2s_tokenizer_are_tuned_in_chatml(tmp_path):
    """Unless their directory has a template of its own. A turn ends with the token of that name."""
    tokenizer = load_tokenizer(write_qwen2(tmp_path / "model"))
    said = {"messages": [{"role": "user", "content": "A?"}, {"role": "assistant", "content": "Yes."}]}
    options = {"task": "chat", "tokenizer": str(tmp_path / "model")}
    out, _ = prepare(tmp_path, [said], **options)
    prompt = tokenizer.encode_prompt("<|im_start|>user\nA?<|im_end|>\n<|im_start|>assistant\n")
    answer = [*tokenizer.encode("Yes."), 702, tokenizer.eos_id]
    assert rows(out) == [([*prompt, *answer], [0] * len(prompt) + [1] * len(answer))]
    (tmp_path / "model/chat_template.jinja").write_text("{{ messages[0].content }}")
    assert FinetuneSettings(seq_length=64, **options).format(tokenizer).default == "{{ messages[0].content }}"
