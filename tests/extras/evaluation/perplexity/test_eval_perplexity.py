"""Perplexity by its definition, over models whose probabilities are known, and over a real one against NumPy."""

import gzip
import json
import math

import numpy as np
import pytest
from benchmark_data import write
from tokenizer_files import write_chatglm
from twins import codegeex_numpy as twin

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.data.conversations import TEMPLATES
from ms_codegeex.data.datasets.indexed import IndexedWriter
from ms_codegeex.data.description import ModelDescription
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.extras.corpus.finetuning.prepare import FinetuneSettings, prepare_finetune
from ms_codegeex.extras.evaluation.benchmarks import humaneval, mtpb
from ms_codegeex.extras.evaluation.perplexity import corpus as corpus_perplexity
from ms_codegeex.extras.evaluation.perplexity.prompts import prompt_perplexities, segment_tokens, solved, split
from ms_codegeex.extras.evaluation.perplexity.scoring import Score, windowed
from ms_codegeex.extras.evaluation.sandbox import Verdict
from ms_codegeex.extras.evaluation.task import Judgement, Sample, SampledAnswer


class Known:
    """A model whose probabilities depend on the token and its position."""

    description = ModelDescription()

    def __init__(self, tokenizer, seq_length=1000):
        self.tokenizer, self.seq_length, self.read = tokenizer, seq_length, 0

    @staticmethod
    def of(token, before):
        return -(0.5 + token % 11 / 8 + 1 / before)

    def log_probabilities(self, ids):
        assert 1 <= len(ids) <= self.seq_length
        self.read += 1
        return np.array([self.of(token, place) for place, token in enumerate(ids) if place], np.float32)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("codegeex")


def nats(ids, first=1):
    return -sum(Known.of(token, place) for place, token in enumerate(ids) if place >= first)


@pytest.mark.parametrize(("window", "stride"), [(8, 4), (8, 7), (8, 1), (5, 2), (2, 1), (40, 20), (None, None)])
def test_windows_score_each_token_once_with_enough_before_it(window, stride):
    ids = list(range(3, 33))
    model = Known(None, 40)
    found = windowed(model, ids, window, stride)
    width, step = window or 40, stride or 20
    begins = [0]
    while begins[-1] + width < len(ids):
        begins.append(begins[-1] + step)
    # the first window that reaches a token
    before = [place - next(b for b in begins if b + width > place) for place in range(1, 30)]
    np.testing.assert_allclose(found, [Known.of(ids[n + 1], b) for n, b in enumerate(before)], rtol=1e-6)
    assert all(b >= min(place, width - step) for place, b in enumerate(before, 1)) and model.read == len(begins)


def test_tokens_belong_to_the_segment_they_begin_in(tokenizer):
    segments = [("import os\n\n", False), ("# é 你好 prompt\n", True), ("    x = 1\n\n", False), ("# more\n", True)]
    ids, scored = segment_tokens(tokenizer, segments)
    text = "".join(text for text, _ in segments)
    assert ids == tokenizer.encode(text)
    chosen = b"".join(tokenizer.token_bytes(i) for i, one in zip(ids, scored, strict=True) if one).decode()
    assert chosen == "# é 你好 prompt\n# more\n"


def test_a_tokenizer_with_a_prefix_that_puts_a_space_in_front(tmp_path):
    write_chatglm(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    ids, scored = segment_tokens(tokenizer, [("def f(x):\n", False), ("return x\n", True)])
    assert ids == tokenizer.encode_prompt("def f(x):\nreturn x\n") and not scored[: len(tokenizer.prefix)].any()
    after = [i for i, one in zip(ids, scored, strict=True) if one]
    before = [i for i, one in zip(ids, scored, strict=True) if not one]
    assert "".join(tokenizer.continuation(before, after)) == "return x\n"


MTPB_ROW = {"id": "7", "name": "Sum", "category": "math", "prompts": ["Assign {a} to x.", "Print x."]}
MTPB_ROW |= {"inputs": [{"a": 1}, {"a": 22}], "outputs": [1, 22]}
HISTORY = "# Import libraries.\n\nimport numpy as np\n\n"


def test_prompts_of_several_turns_given_what_was_generated(tmp_path, tokenizer):
    task = mtpb.build(write(tmp_path / "m.jsonl", MTPB_ROW, {**MTPB_ROW, "id": "8"}))
    answers = iter(["x = 1", "print(x)", "x = 2 * 11", "print(x)"])
    samples = [
        task.produce(task.problems[0], case, 0, lambda *_, **__: SampledAnswer(next(answers), "eos")) for case in (0, 1)
    ]
    model = Known(tokenizer)
    found = prompt_perplexities(model, task, [*samples, samples[0]])
    expected = [Score(0, 0)]
    for number, code in (("1", "x = 1"), ("22", "x = 2 * 11")):
        parts = [HISTORY, f"# Assign {number} to x.\n", f"{code}\n\n", "# Print x.\n"]
        ids = tokenizer.encode("".join(parts))
        places = []
        for n in (1, 3):
            begin = len(tokenizer.encode("".join(parts[:n]) + "#")) - 1  # two line breaks before a # are two tokens
            places += range(begin, len(tokenizer.encode("".join(parts[: n + 1]))))
        expected.append(Score(-sum(Known.of(ids[place], place) for place in places), len(places)))
    total = expected[1] + expected[1] + expected[2]
    assert found.keys() == {"7"} and found["7"].tokens == total.tokens
    assert found["7"].nats == pytest.approx(total.nats, rel=1e-6) and model.read == 2  # the same text once
    assert found["7"].perplexity == pytest.approx(math.exp(total.nats / total.tokens), rel=1e-6)


def test_one_specification_and_samples_that_were_never_drawn(tmp_path, tokenizer):
    task = mtpb.build(write(tmp_path / "m.jsonl", MTPB_ROW), "single")
    sample = task.produce(task.problems[0], 0, 0, lambda *_, **__: SampledAnswer("x = 1\nprint(x)", "eos"))
    found = prompt_perplexities(Known(tokenizer), task, [sample, Sample("7", 1, "", "", "too long")])
    ids = tokenizer.encode(HISTORY + "# Assign 1 to x.\n# Print x.\n")
    first = len(tokenizer.encode(HISTORY + "#")) - 1
    assert found["7"].nats == pytest.approx(nats(ids, first), rel=1e-6) and found["7"].tokens == len(ids) - first


@pytest.mark.parametrize("chat", [None, "codegeex2"])
def test_answers_alone_of_examples_as_finetune_takes_them(tmp_path, tokenizer, chat):
    """Records in the model's format, and a dataset that was made of them: also of one without a validation split."""
    said = [[("user", f"add {n}"), ("assistant", f"x + {n}")] for n in range(3)]
    rows = [{"messages": [{"role": role, "content": text} for role, text in each]} for each in said]
    write(tmp_path / "chats.jsonl", rows)
    model = Known(tokenizer)
    model.description = ModelDescription(chat=chat and TEMPLATES[chat])
    prompts = {"codegeex2": "[Round 1]\n\n问\uff1aadd {}\n\n答\uff1a", None: "User:\nadd {}\n\nAssistant:\n"}
    total = count = size = 0
    for n in range(3):
        prompt = tokenizer.encode(prompts[chat].format(n))
        answer = [*tokenizer.encode(f"x + {n}"), tokenizer.eos_id]
        total, count, size = total + nats([*prompt, *answer], len(prompt)), count + len(answer), size + 5
    found = corpus_perplexity.measure(model, [tmp_path / "chats.jsonl"])
    assert (found.score.tokens, found.documents, found.text_bytes, found.scored) == (count, 3, size, "answers")
    assert found.score.nats == pytest.approx(total, rel=1e-6)
    for share in (0, 0.5):
        settings = FinetuneSettings("chat", 64, validation_share=share, template=chat or "plain")
        prepare_finetune([tmp_path / "chats.jsonl"], tmp_path / f"{share}", settings)
        documents = corpus_perplexity.measure(model, [tmp_path / f"{share}"]).documents
        assert documents == 3 if not share else 0 < documents < 3


def test_prompts_of_humaneval_and_the_split_by_success(tmp_path, tokenizer):
    rows = [
        {"task_id": f"T/{n}", "prompt": f"def f{'x' * n}(a):\n", "test": "def check(f):\n    pass\n"} for n in range(4)
    ]
    task = humaneval.build(write(tmp_path / "h.jsonl", *rows))
    samples = [Sample(f"T/{n % 4}", n // 4, rows[n % 4]["prompt"], "pass", "eos") for n in range(8)]
    found = prompt_perplexities(Known(tokenizer), task, samples)
    values = []
    for row in rows:
        ids = tokenizer.encode(row["prompt"])
        values.append(math.exp(nats(ids) / (len(ids) - 1)))
    assert [found[f"T/{n}"].perplexity for n in range(4)] == pytest.approx(values, rel=1e-6)

    def judgement(name, number, verdict):
        return Judgement(name, number, {"strict": verdict, "published": Verdict.PASSED}, 0.1, 0, "")

    judgements = [judgement("T/0", 0, Verdict.WRONG), judgement("T/0", 1, Verdict.PASSED)]
    judgements += [judgement(f"T/{n}", 0, Verdict.ERROR) for n in (1, 2)]
    passed = solved(judgements)
    assert passed == {"T/0": True, "T/1": False, "T/2": False}
    row = split(found, passed)
    assert row["problems, all"] == 4 and row["problems, solved"] == 1 and row["problems, unsolved"] == 2
    assert row["prompt perplexity, all"] == pytest.approx(np.mean(values), rel=1e-6)
    assert row["standard error, all"] == pytest.approx(np.std(values, ddof=1) / 2, rel=1e-6)
    assert row["prompt perplexity, unsolved"] == pytest.approx((values[1] + values[2]) / 2, rel=1e-6)
    assert row["standard error, solved"] is None and json.dumps(row)
    assert split({}, {})["prompt perplexity, all"] is None


TEXTS = ["def f(x):\n    return x\n", "# 你好\n" * 30, "x"]


def test_text_files_jsonl_and_a_dataset_of_the_same_documents_agree(tmp_path, tokenizer):
    (tmp_path / "tree" / "b").mkdir(parents=True)
    (tmp_path / "tree" / ".git").mkdir()
    (tmp_path / "tree" / ".git" / "HEAD").write_text("not read")
    for name, text in zip(("a.py", "b/c.py", "z.txt"), TEXTS, strict=True):
        (tmp_path / "tree" / name).write_text(text)
    (tmp_path / "tree" / "picture").write_bytes(b"\xff\xd8\x00")
    with gzip.open(tmp_path / "rows.jsonl.gz", "wt") as stream:
        stream.writelines(json.dumps({"content": text}) + "\n" for text in TEXTS)
    dataset = tmp_path / "dataset"
    dataset.mkdir()
    with IndexedWriter(dataset / "validation", np.uint16) as writer:
        for text in TEXTS:
            writer.add([*tokenizer.encode(text), tokenizer.eos_id])
    info = {"vocab_size": 50400, "eos_id": tokenizer.eos_id, "tokenizer": tokenizer.description()}
    write_json(dataset / "dataset.json", info)
    ids = [[tokenizer.eos_id, *tokenizer.encode(text)] for text in TEXTS]
    total, count = sum(map(nats, ids)), sum(map(len, ids)) - len(ids)
    size = len("".join(TEXTS).encode())
    for path, skipped in ((tmp_path / "tree", 1), (tmp_path / "rows.jsonl.gz", 0), (dataset, 0)):
        found = corpus_perplexity.measure(Known(tokenizer), [path])
        assert (found.score.tokens, found.text_bytes, found.documents) == (count, size, 3)
        assert found.row()["files that are no text"] == skipped
        row = found.row()
        assert row["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-6)
        assert row["bits per byte"] == pytest.approx(total / math.log(2) / size, rel=1e-6)
        assert row["whole corpus"] and row["window"] == 1000 and row["stride"] == 500 and json.dumps(row)
    write_json(dataset / "dataset.json", {**info, "tokenizer": {"fingerprint": "other"}})
    with pytest.raises(UserError, match="another tokenizer"):
        corpus_perplexity.measure(Known(tokenizer), [dataset])
    write_json(dataset / "dataset.json", {**info, "kind": "examples"})
    with pytest.raises(UserError, match="kind"):
        corpus_perplexity.measure(Known(tokenizer), [dataset])


def test_part_of_a_corpus(tmp_path, tokenizer):
    first, second = (write(tmp_path / name, {"text": TEXTS[0]}) for name in ("a.jsonl", "b.jsonl"))
    found = corpus_perplexity.measure(Known(tokenizer), [first, second], max_tokens=3)
    assert found.documents == 1 and not found.whole
    both = corpus_perplexity.measure(Known(tokenizer), [first, second])
    assert both.documents == 2 and both.score.tokens == 2 * found.score.tokens


class Other:
    """A task without prompts to score."""

    name, problems = "other", ()


def corpus(content):
    def measured(model, path):
        if content is not None:
            path.write_bytes(content)
        corpus_perplexity.measure(model, [path])

    return measured


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        (corpus(b"\xff"), "no text was found: 1 times not UTF-8"),
        (corpus(b""), "no text was found"),
        (corpus(None), "no such file or directory"),
        (corpus(b'{"body": "x"}'), "missing field .*there is body.*c.jsonl:1"),
        (lambda model, path: prompt_perplexities(model, Other(), []), "other: has no prompt perplexity"),
        *((lambda model, path, sizes=sizes: windowed(model, [1, 2, 3], *sizes), "2 to 1000")
          for sizes in ((1, 1), (1001, 3), (8, 8), (8, 0))),
    ],
)  # fmt: skip
def test_mistakes(tmp_path, tokenizer, measured, words):
    with pytest.raises(UserError, match=words):
        measured(Known(tokenizer), tmp_path / "c.jsonl")


@pytest.mark.slow
def test_a_real_model_against_numpy(tmp_path):
    """Windows of a corpus and the prompts of a problem, by a model directory's `Generator`."""
    import small_models

    from ms_codegeex.formats.sources import open_source
    from ms_codegeex.generation.engine import Generator
    from ms_codegeex.models.registry import family

    sizes = {"vocab_size": 50304, "max_position_embeddings": 16, "eos_token_id": 50256}
    fields = small_models.FIELDS["codegeex"] | sizes
    shapes = family("codegeex").config.build_config(None, fields).parameter_shapes()
    generator = np.random.default_rng(0)
    arrays = {name: (generator.standard_normal(shape) / 2).astype(np.float32) for name, shape in shapes.items()}
    assert small_models.parameters("codegeex").keys() == arrays.keys()
    model = Generator(small_models.save_run(tmp_path / "run", "codegeex", arrays, **sizes))
    weights = {name: tensor.array().astype(np.float64) for name, tensor in open_source(model.path).tensors.items()}

    def log_probabilities(ids):
        raw = twin.logits(np.array([ids]), weights, layers=2, heads=4, reset=False)[0]
        scores = raw - raw.max(-1, keepdims=True)
        scores -= np.log(np.exp(scores).sum(-1, keepdims=True))
        return scores[np.arange(len(ids) - 1), ids[1:]]

    (tmp_path / "text").write_text("def f(x):\n    return x + 1\n\n\nprint(f(2), f(3))\n")
    found = corpus_perplexity.measure(model, [tmp_path / "text"], window=12, stride=5)
    ids = [50256, *model.tokenizer.encode((tmp_path / "text").read_text())]
    total, done = 0.0, 1
    for begin in range(0, len(ids), 5):
        total -= log_probabilities(ids[begin : begin + 12])[done - begin - 1 :].sum()
        done = begin + 12
        if done >= len(ids):
            break
    assert len(ids) > 16 and found.score.tokens == len(ids) - 1
    assert found.score.nats == pytest.approx(total, rel=1e-4)
    row = {"task_id": "0", "prompt": "def g(y):\n", "test": ""}
    task = humaneval.build(write(tmp_path / "h.jsonl", row))
    score = prompt_perplexities(model, task, [Sample("0", 0, row["prompt"], "", "eos")])["0"]
    expected = log_probabilities(model.tokenizer.encode(row["prompt"]))
    assert score.perplexity == pytest.approx(math.exp(-expected.mean()), rel=1e-4)
