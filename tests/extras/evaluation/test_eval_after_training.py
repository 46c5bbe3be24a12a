"""Bits a byte and samples at the end of a run, against direct computations on texts whose bytes are known."""

import itertools
import math
import zlib
from collections import Counter
from dataclasses import asdict
from unittest.mock import create_autospec

import numpy as np
import pytest
from tokenizer_files import write_chatglm, write_qwen2

from ms_codegeex.base.files import write_json
from ms_codegeex.config.blend import BlendStage
from ms_codegeex.data.datasets.batches import Batch, PackedSequences
from ms_codegeex.data.datasets.blend import Blend
from ms_codegeex.data.datasets.indexed import IndexedWriter
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.extras.evaluation import after_training
from ms_codegeex.extras.evaluation.after_training import (
    Beginning,
    bits_per_byte,
    continued,
    held_out_functions,
    parses,
    python_samples,
    seen_rows,
)
from ms_codegeex.extras.evaluation.perplexity.ngram import KneserNey
from ms_codegeex.formats.checkpoint_writing import write_checkpoint
from ms_codegeex.formats.convert import convert
from ms_codegeex.generation import targets
from ms_codegeex.generation.sampling import Answer
from ms_codegeex.kernels import compiling
from ms_codegeex.models.codegeex.config import build_config
from ms_codegeex.runs.run_end import SAMPLE_PROMPTS

TEXT = """def minimum(first, second):
    if first < second:
        return first  # the smaller: 你好
    return second
"""
OTHER = "for item in values:\n    total += item\nprint(total)\n"


@pytest.fixture(scope="module", params=["codegeex", "codegen-mono", "codegeex2"])
def tokenizer(request, tmp_path_factory):
    if request.param == "codegeex2":
        return load_tokenizer(write_chatglm(tmp_path_factory.mktemp("chatglm")))
    return load_tokenizer(request.param)


def batch_of(rows, counted):
    rows = np.array(rows, np.int32)
    return Batch(rows[:, :-1], rows[:, 1:], np.array(counted, np.float32), np.arange(len(rows), dtype=np.int32))


def known_rows(tokenizer):
    """Two rows of equal length, of TEXT and of OTHER twice, with document ends; the bytes that count are known: all
    but those of the first token of a row, and of the token after an end."""
    eos, one, other = tokenizer.eos_id, tokenizer.encode(TEXT), tokenizer.encode(OTHER)
    rows = [[*one, eos, *one], [*one, eos, *other, eos, *one]]
    length = min(map(len, rows))
    rows = [row[:length] for row in rows]
    counted, text = [], b""
    for row in rows:
        counted.append([before != eos for before in row[:-1]])
        for before, number in itertools.pairwise(row):
            if eos not in (before, number):
                text += tokenizer.token_bytes(number)
    return rows, counted, text


def test_bits_a_byte_are_those_of_a_direct_computation(tokenizer):
    rows, counted, text = known_rows(tokenizer)
    other = tokenizer.encode(OTHER * 3)
    seen = np.array([other[:8], other[2:10], other[1:9]], np.int32)
    split = np.array([*tokenizer.encode(TEXT * 3), tokenizer.eos_id, *tokenizer.encode(OTHER)], np.uint16)
    found = bits_per_byte(1.25, batch_of(rows, counted), split, seen, tokenizer, tokenizer.vocab_size)
    tokens = sum(map(sum, counted))
    assert (found.text_bytes, found.tokens) == (len(text), 24)
    assert found.model == pytest.approx(1.25 * tokens / math.log(2) / len(text), rel=1e-12)
    packer, whole = zlib.compressobj(9, wbits=31), b"".join(map(tokenizer.token_bytes, split.tolist()))
    whole = whole.replace(tokenizer.token_bytes(tokenizer.eos_id) or b"\0", b"")
    assert found.gzip == pytest.approx(8 * len(packer.compress(whole) + packer.flush()) / len(whole), rel=1e-12)
    counts = Counter(byte for row in seen.tolist() for number in row for byte in tokenizer.token_bytes(number))
    total = sum(counts.values()) + 256
    expected = -sum(math.log2((counts[byte] + 1) / total) for byte in text) / len(text)
    assert found.byte_frequency == pytest.approx(expected, rel=1e-12)
    scores = KneserNey(seen, 5, tokenizer.vocab_size).log_probabilities(np.array(rows))
    nats = -sum(score for row, flags in zip(scores, counted, strict=True) for score in np.array(row)[np.array(flags)])
    assert found.ngram == pytest.approx(nats / math.log(2) / len(text), rel=1e-12)


def test_what_is_missing_has_no_figure():
    tokenizer = load_tokenizer("codegeex")
    rows, counted, _ = known_rows(tokenizer)
    none, split = np.zeros((0, 5), np.int32), np.arange(9)
    found = bits_per_byte(None, batch_of(rows, counted), split, none, tokenizer, 60_000)
    assert (found.model, found.ngram, found.byte_frequency, found.tokens) == (None, None, None, 0) and found.gzip > 0
    nothing = batch_of([[tokenizer.eos_id] * 4], [[True] * 3])
    assert bits_per_byte(1.0, nothing, split, none, tokenizer, 60_000) is None
    marks = [[5, tokenizer.vocab_size + 1, 5]]  # of infilling
    assert bits_per_byte(1.0, batch_of(marks, [[True] * 2]), split, none, tokenizer, 60_000).text_bytes == 1


def packed(directory, count, first=0, width=8):
    """A dataset whose ids rise from `first`; sequence k has the ids from first + width * k."""
    directory.mkdir()
    with IndexedWriter(directory / "train", np.uint16) as writer:
        writer.add(np.arange(first, first + count * width + 1))
    write_json(directory / "dataset.json", {"vocab_size": 60_000, "eos_id": 59_999})
    return PackedSequences(directory, "train", width, 3)


def test_each_sequence_of_the_run_is_seen_once(tmp_path):
    data = packed(tmp_path / "a", 40)
    trained = data.training_batch(0, 12).inputs[:, 0].tolist()
    assert seen_rows(data, 12, 4)[:, 0].tolist() == trained
    assert seen_rows(data, 12, 4, [4])[:, 0].tolist() == trained[:4] + trained[8:]
    repeated = seen_rows(data, 95, 4)
    assert repeated.shape == (40, 9) and sorted(repeated[:, 0].tolist()) == list(range(0, 320, 8))
    np.testing.assert_array_equal(repeated[:, 1:], repeated[:, :-1] + 1)
    assert seen_rows(data, 12, 4, most=30)[:, 0].tolist() == trained[:3]
    assert seen_rows(data, 0, 4).shape == (0, 9)


def test_each_sequence_of_a_blend_is_seen_once(tmp_path):
    corpora = {"a": packed(tmp_path / "a", 5), "b": packed(tmp_path / "b", 30, first=1000)}
    data = Blend([BlendStage(0, ("a", "b"), (1, 1))], corpora, 4)
    found = seen_rows(data, 24, 4)[:, 0]
    assert sorted(found[found < 1000].tolist()) == [0, 8, 16, 24, 32] and (found >= 1000).sum() == 12
    assert len(set(found.tolist())) == len(found) == 17


AREA = "def area(width,\n    height):\n    'Metres.'\n"
LAST = 'def last(x):\n    """A\n    B"""\n'
BEFORE = ("x = '\\d'\n", "# one\ndef one(): return 1\n", "\nasync def later():\n    'Later.'\n    pass\n", "\n")
FILES = {
    "a": f"# language: Python\nimport os\n\n@cache\n{AREA}    return width\n",
    "b": f"{''.join(BEFORE)}{LAST}    '.'\n    return x\n",
    "c": '{"a": [1, 2]}\n',
    "d": "def broken(:\n    'Broken.'\n    pass\n",
    "e": "fn main() {\n    println!();\n}\n",
    "f": "class A:\n    def method(self):\n        'One.'\n        return 1\n",
    "g": "def bare(x):\n    return x\n\ndef empty(x):\n    'Nothing.'\n",
    "h": f"def long():\n    'Long.'\n{'    print(1)' * 40}\n".replace(")    ", ")\n    "),
    "i": "def joined():\n    'Joined.'; return 1\n",
}
FUNCTIONS = {
    Beginning(AREA, ("import os\n", "\n@cache\n")),
    Beginning(LAST, BEFORE),
}


def validation(directory, texts, tokenizer):
    directory.mkdir()
    with IndexedWriter(directory / "validation", np.uint16) as writer:
        for text in texts:
            writer.add([*tokenizer.encode(text), tokenizer.eos_id])
    return directory / "validation"


def test_functions_begin_as_in_held_out_python(tmp_path):
    tokenizer = load_tokenizer("codegeex")
    prefix = validation(tmp_path / "data", FILES.values(), tokenizer)
    assert set(held_out_functions(prefix, tokenizer, 40, 1)) == FUNCTIONS
    assert held_out_functions(prefix, tokenizer, 15, 1) == [min(FUNCTIONS, key=lambda each: len(each.text))]
    none = validation(tmp_path / "other", [FILES["c"], FILES["e"]], tokenizer)
    assert held_out_functions(none, tokenizer, 40, 1) == []
    many = validation(tmp_path / "many", [f"def f{i}():\n    'F.'\n    pass\n" for i in range(60)], tokenizer)
    assert len(set(held_out_functions(many, tokenizer, 40, 1))) == after_training.SAMPLES


def test_functions_are_found_in_the_files_of_a_repository(tmp_path):
    tokenizer = load_tokenizer(write_qwen2(tmp_path / "tokenizer"))
    ids = tokenizer.encode_marks("<|repo_name|>octo/area\n")
    for name, text in (("README", "Areas are measured in metres.\n"), ("a.py", FILES["a"]), ("c.json", FILES["c"])):
        ids += [tokenizer.file_marks[1], *tokenizer.encode(f"{name}\n{text}")]
    with IndexedWriter(tmp_path / "validation", np.uint16) as writer:
        writer.add([*ids, tokenizer.eos_id])
    (found,) = held_out_functions(tmp_path / "validation", tokenizer, 60, 1)
    assert found.text == AREA


@pytest.mark.parametrize(
    ("continuation", "expected"),
    {
        "a whole body": ("    return x\n", True),
        "nothing": ("", False),
        "empty lines": ("\n\n", False),
        "a bracket left open": ("    return (\n", False),
        "its last statement is broken": ("    y = x\n    return (x,\n            y, (", True),
        "its last statement, a block, is broken": ("    y = x\n    if y:\n        y = (\n        z", True),
        "its only statement is broken": ("    return (x,\n            y", False),
        "a statement before the broken one is wrong": ("    y = = x\n    return (x", False),
        "the first statement of its body is deeper": ("        y = x\n        return (x", True),
    }.values(),
    ids=lambda value: None,
)
def test_a_sample_that_the_limit_breaks_loses_its_last_statement(continuation, expected):
    prompt = "def f(x):\n" if continuation.startswith("        ") else LAST
    assert parses(prompt + continuation, prompt) is expected


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model with random weights that generates only a few tokens of Python."""
    root, generator, tokenizer = tmp_path_factory.mktemp("model"), np.random.default_rng(5), load_tokenizer("codegeex")
    sizes = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 32}
    config = build_config("tiny", {**sizes, "max_position_embeddings": 64})
    tensors = {
        name: generator.normal(size=shape, scale=0.4).astype(np.float32)
        for name, shape in config.parameter_shapes().items()
    }
    likely = sorted({number for text in ("\n    return x", " + x", "(x)\n") for number in tokenizer.encode(text)})
    tensors["top_query_layer.feed_forward.down.bias"][0] = 40  # what reaches the table
    tensors["embedding.word.weight"] *= 0.2  # no token wins every time
    tensors["embedding.word.weight"][:, 0] = -1
    tensors["embedding.word.weight"][likely, 0] = 1
    state = {"config": {"model": {"family": "codegeex", **asdict(config)}}}
    convert(write_checkpoint(root / "checkpoints", 1, tensors, state), "hf", root / "hf", progress=False)
    return root / "hf"


def test_samples_of_a_batch_are_those_drawn_alone_and_end_at_their_block(model):
    from ms_codegeex.generation.engine import Generator

    prompts = [Beginning(f"def f{number}(x):\n", (f"import a{number}\n\n",)) for number in range(5)]
    together = continued(Generator(model, slots=5), prompts, 256, 2, 7)
    single = Generator(model)
    alone = [continued(single, [prompt], 256, 2, 7 + 2 * number)[0] for number, prompt in enumerate(prompts)]
    assert together == alone and any("    x" in text for text in together)
    for prompt, text in zip(prompts, together, strict=True):
        assert text.startswith(prompt.text)
        brackets = 0  # in open ones a line may begin in the first column
        for line in text[len(prompt.text) :].split("\n"):
            assert not line or line[0].isspace() or brackets
            for character in line:
                brackets = max(brackets + (character in "([{") - (character in ")]}"), 0)


def test_the_likeliest_answer_that_ends_is_the_sample(model, monkeypatch):
    from ms_codegeex.generation.engine import Generator

    generator, kept, answers = Generator(model, slots=5), [], Generator.answers
    noted = create_autospec(answers, side_effect=lambda *given: kept.extend(answers(*given)) or kept)
    monkeypatch.setattr(Generator, "answers", noted)
    [text] = continued(generator, [Beginning("def f(x):\n")], 40, 12, 7)
    ended = [each for each in kept if each.finish != "length" and each.text.strip()]
    assert 0 < len(ended) < len(kept) == 12 and any(each.text == "" for each in kept)
    scores = {each.text: sum(token.score for token in each.tokens) for each in ended}
    assert text == "def f(x):\n" + max(scores, key=scores.__getitem__)
    kept.clear()
    [text] = continued(generator, [Beginning("def f(x):\n")], 2, 3, 7)
    assert text.removeprefix("def f(x):\n") in {each.text for each in kept}  # none ends


def test_a_prompt_takes_at_most_half_of_the_context(model, monkeypatch):
    """Whole statements before it in the file; if it is longer alone, its last tokens."""
    from ms_codegeex.generation.engine import Generator

    generator, seen, empty = Generator(model), [], Answer("", [], "eos")
    answers = create_autospec(generator.answers, side_effect=lambda ids, *_: seen.append(ids) or [empty])  # met above
    monkeypatch.setattr(generator, "answers", answers)
    tokenizer, text = load_tokenizer("codegeex"), "def f(x):\n"
    for before in (("import os\n",), ("import os\n",) * 40, ("import os\n" * 40,)):
        assert continued(generator, [Beginning(text, before)], 8, 1, 1) == [text]
    long = text * 20
    assert continued(generator, [Beginning(long)], 8, 1, 1) == [long]
    one, many, none, last = map(tokenizer.decode, seen)
    assert one == f"# language: Python\nimport os\n{text}" and none == f"# language: Python\n{text}"
    assert set(many.removesuffix(text).split("\n")[1:]) == {"import os", ""} and 28 <= len(seen[1]) <= 32
    assert len(seen[3]) == generator.seq_length // 2 == 32 and last.endswith(text * 2)


def test_prompts_are_continued_on_a_machine_without_a_compiler(model, tmp_path, monkeypatch):
    """One after the other, without the measured samples, which would take minutes."""
    prefix = validation(tmp_path / "data", FILES.values(), load_tokenizer("codegeex"))
    monkeypatch.setattr(compiling, "cxx_compilers", list)
    monkeypatch.setattr(after_training, "SHOWN_TOKENS", 4)
    found = python_samples(model, SAMPLE_PROMPTS, prefix, 3)
    assert (found.parse_share, found.measured) == (None, 0)
    assert [prompt for prompt, _ in found.shown] == list(SAMPLE_PROMPTS)


def test_the_share_that_parses(model, tmp_path, monkeypatch):
    prefix = validation(tmp_path / "data", FILES.values(), load_tokenizer("codegeex"))
    given = []

    def known(generator, prompts, limit, drawn, seed):
        """Stands in for `continued`, which the tests before this one meet."""
        given.append((generator.slots, list(prompts), limit, drawn, seed))
        endings = ("    return 1\n", "", "    return (\n", "    return '\\d'\n    x = (")  # the second is empty
        return [f"{prompt.text}{endings[number % 4]}" for number, prompt in enumerate(prompts)]

    monkeypatch.setattr(after_training, "continued", known)
    fixed = "class A:\n    def f(self):\n"
    found = python_samples(model, [fixed], prefix, 3)
    assert (found.parse_share, found.measured, "penalty 0.6" in found.means) == (0.5, 20, True)
    slots, prompts, limit, drawn, seed = given[0]
    assert (slots, len(prompts), limit, drawn, seed) == (20, 20, 256, 6, 3)
    assert prompts == prompts[:2] * 10 and set(prompts[:2]) == FUNCTIONS
    assert found.shown == [(prompts[0].text, "    return 1\n"), (prompts[1].text, "")]  # there are no more functions
    assert python_samples(model, ["def f():\n"], None, 3) == after_training.PythonSamples(
        [("def f():\n", "    return 1\n")], None, 0, after_training.MEANS
    )
    other = validation(tmp_path / "other", [FILES["c"]], load_tokenizer("codegeex"))
    assert python_samples(model, [], other, 3).parse_share is None
    monkeypatch.setattr(targets, "compiled_library", lambda *_: (None, ""))  # and its vocabulary is large
    assert python_samples(model, [fixed], prefix, 3).parse_share is None
