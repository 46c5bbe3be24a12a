"""Texts rearranged for infilling: a permutation of the text between sentinels, wherever and by whomever it is read."""

import heapq
import itertools
import json
import string
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from code_dataset import functions, write_code, write_pairs
from conftest import small_run
from tokenizer_files import write_chatglm, write_qwen2

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.config.blend import parse_blend
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.config.sections import InfillConfig
from ms_codegeex.data.datasets.blend import Blend
from ms_codegeex.data.datasets.indexed import IndexedDataset
from ms_codegeex.data.datasets.opening import content_hash, open_sequences, training_data, validation_data
from ms_codegeex.data.infilling.transform import Infilling
from ms_codegeex.data.tokenizer import load_tokenizer

SEQ = 64
ALWAYS = InfillConfig(rate=1.0)
TEXTS = functions(textwrap, heapq, json, string)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    trained = write_chatglm(tmp_path_factory.mktemp("chatglm"))
    qwen2 = write_qwen2(tmp_path_factory.mktemp("qwen2"))
    return {name: load_tokenizer(name) for name in ("codegeex", "codegen-multi")} | {
        "codegeex2": load_tokenizer(trained),
        "qwen2": load_tokenizer(qwen2),
    }


@pytest.fixture(scope="module")
def code(tokenizers, tmp_path_factory):
    return write_code(tmp_path_factory.mktemp("code"), tokenizers["codegeex"], TEXTS)


def opened(directory, seq_length=SEQ, seed=5, **settings):
    return open_sequences(directory, "train", seq_length, seed, infill=InfillConfig(**{"rate": 1.0, **settings}))


def rows_of(sequences, first, count):
    batch = sequences.training_batch(first, count)
    return np.concatenate([batch.inputs, batch.labels[:, -1:]], 1)


def parts_of(ids, tokenizer):
    """Prefix, middle and suffix of a rearranged text as ids, and its order, found by the sentinels."""
    names = dict(zip(tokenizer.sentinels, ("prefix", "suffix", "middle"), strict=True))
    places = [place for place, number in enumerate(ids) if number in names]
    order = [names[ids[place]] for place in places]
    ends = [*places[1:], len(ids)]
    found = {name: ids[place + 1 : end] for name, place, end in zip(order, places, ends, strict=True)}
    return found["prefix"], found["middle"], found["suffix"], order


def text_of(tokenizer, ids):
    """The text of ids inside another text."""
    before = tokenizer.encode("a")
    return "".join(tokenizer.continuation(before, ids))


@pytest.mark.parametrize("mode", ["psm", "spm"])
@pytest.mark.parametrize("name", ["codegeex", "codegen-multi", "codegeex2", "qwen2"])
def test_the_parts_are_those_of_the_text_and_its_length_stays(tokenizers, name, mode):
    tokenizer, rearranged = tokenizers[name], 0
    infilling = Infilling(InfillConfig(rate=1.0, mode=mode), tokenizer, seed=1)
    for number, text in enumerate(TEXTS):
        ids = np.array(tokenizer.encode(text))
        found = infilling.rearrange(ids, (number, 0))
        if found is None:
            continue
        rearranged += 1
        assert len(found.ids) == len(ids) and found.ids[0] == tokenizer.sentinels[0 if mode == "psm" else 1]
        prefix, middle, suffix, order = parts_of(found.ids.tolist(), tokenizer)
        assert order == (["prefix", "suffix", "middle"] if mode == "psm" else ["suffix", "prefix", "middle"])
        middle_text, start, end = text_of(tokenizer, middle), tokenizer.decode(prefix), text_of(tokenizer, suffix)
        # the suffix may lack its end, or the prefix its start
        whole = start + middle_text + end
        assert whole in text and (text.startswith(whole) or text.endswith(whole))
        assert len(tokenizer.encode(text)) - len(tokenizer.encode(whole)) < 16
    assert rearranged > 0.9 * len(TEXTS)


@pytest.mark.parametrize(("mode", "first"), [("psm", "prefix"), ("spm", "suffix"), ("both", "suffix")])
def test_a_model_is_asked_in_an_order_that_it_was_trained_in(tokenizers, mode, first):
    for name, tokenizer in tokenizers.items():
        released = name == "qwen2" and mode == "both"  # released models with these marks are asked in one order only
        asked = Infilling(InfillConfig(rate=0.5, mode=mode), tokenizer, seed=1).sentinels
        assert asked.order[0] == ("prefix" if released else first)
        assert [len(asked.files), "<|file_sep|>" in asked.end] == ([3, True] if name == "qwen2" else [0, False])
        assert asked.ids == {*tokenizer.sentinels}
    others = InfillConfig(rate=0.5, mode=mode, sentinels=[722, 723, 724])
    assert Infilling(others, tokenizers["qwen2"], seed=1).sentinels.files == ()


def test_cuts_lie_anywhere_also_inside_words(tokenizers):
    tokenizer, text = tokenizers["codegeex"], "initialise_the_connection(parameters, timeout_seconds)\n" * 4
    infilling = Infilling(InfillConfig(rate=1.0, mode="psm"), tokenizer, seed=1)
    ids, inside, whole = np.array(tokenizer.encode(text)), 0, 0
    for number in range(300):
        found = infilling.rearrange(ids, (number,))
        if found is None:  # nearly everything is middle
            continue
        prefix, middle, _, _ = parts_of(found.ids.tolist(), tokenizer)
        assert prefix == [] or tokenizer.encode(tokenizer.decode(prefix)) == prefix or len(prefix) < len(ids) / 2
        if middle:
            around = tokenizer.decode(prefix)[-1:] + tokenizer.decode(middle)[:1]
            inside += around.isalpha()
            whole += not around.isalpha()
    assert inside > 2 * whole > 0 and inside + whole > 250


def test_a_part_is_tokenised_as_it_is_when_the_model_is_asked(tokenizers):
    for tokenizer in tokenizers.values():
        infilling = Infilling(InfillConfig(rate=1.0, mode="psm"), tokenizer, seed=3)
        for number, text in enumerate(TEXTS[:20]):
            found = infilling.rearrange(np.array(tokenizer.encode(text)), (number,))
            if found is None:
                continue
            prefix, middle, _, _ = parts_of(found.ids.tolist(), tokenizer)
            start = tokenizer.decode(prefix)
            if text.startswith(start):  # nothing was taken from it
                end = text[len(start) + len(text_of(tokenizer, middle)) :]
                asked, _ = infilling.sentinels.prompt(tokenizer, start, end, 10_000)
                asked = asked[len(tokenizer.prefix) :]
                lost = len(asked) - (len(found.ids) - len(middle))
                assert found.ids.tolist()[: len(asked) - lost - 1] == asked[: len(asked) - lost - 1]
                assert asked[len(asked) - lost - 1 :][-1] == tokenizer.sentinels[2]


def test_of_a_repository_the_last_file_is_split(tokenizers):
    """As the model's authors describe it: the other files stay before it, and the loss counts them."""
    tokenizer = tokenizers["qwen2"]
    infilling = Infilling(InfillConfig(rate=1.0, mode="psm"), tokenizer, seed=3)
    names = tokenizer.encode_marks("<|repo_name|>a/b\n"), tokenizer.encode_marks("<|file_sep|>x.py\n\n\ny = 1\n")
    last = tokenizer.encode_marks("<|file_sep|>lib/z.py\n\n" + TEXTS[0])
    ids, found = np.array([number for part in (*names, last) for number in part]), 0
    path = [*names[0], *names[1], *tokenizer.encode_marks("<|file_sep|>lib/z.py\n")]
    for number in range(20):
        if rearranged := infilling.rearrange(ids, (number,)):
            found += 1
            assert len(rearranged.ids) == len(ids) and rearranged.ids[: len(path)].tolist() == path
            parts = parts_of(rearranged.ids[len(path) :].tolist(), tokenizer)
            prefix, middle, suffix = (tokenizer.decode(part) for part in parts[:3])
            assert f"\n{TEXTS[0]}".startswith(prefix + middle + suffix) or len(prefix) < len(TEXTS[0]) / 2
            assert parts[3] == ["prefix", "suffix", "middle"]
            assert rearranged.counted.tolist() == [number not in tokenizer.sentinels for number in rearranged.ids]
    assert found > 10
    for cut in (3, len(names[0]) - 1, len(path) - 2):  # in the repository's name, and in a path
        assert not any(infilling.rearrange(ids[:cut], (number,)) for number in range(20))
    inside = ids[len(path) + 2 :]  # a sample that begins in a file
    assert any(infilling.rearrange(inside, (number,)) for number in range(20))


def test_a_rate_is_a_share_and_both_modes_come_alike_often(tokenizers):
    tokenizer = tokenizers["codegeex"]
    infilling = Infilling(InfillConfig(rate=0.25), tokenizer, seed=2)
    ids, first = np.array(tokenizer.encode(TEXTS[0])), []
    for number in range(4000):
        if found := infilling.rearrange(ids, (number,)):
            first.append(int(found.ids[0]))
    psm = first.count(tokenizer.sentinels[0])
    assert abs(len(first) / 4000 - 0.25) < 0.03
    assert abs(psm / len(first) - 0.5) < 0.06 and set(first) == set(tokenizer.sentinels[:2])


@pytest.mark.parametrize("level", ["context", "document"])
def test_samples_are_functions_of_their_number_however_they_are_read(code, level):
    whole = rows_of(opened(code, level=level), 40, 24)
    again = opened(code, level=level)  # as a process does that resumes, or another rank
    for size in (12, 1, 8, 2):
        parts = [rows_of(again, 40 + start, size) for start in range(0, 24, size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    with ThreadPoolExecutor(4) as threads:
        parts = list(threads.map(lambda start: rows_of(again, 40 + start, 1), reversed(range(24))))
    np.testing.assert_array_equal(np.concatenate(parts[::-1]), whole)
    assert (rows_of(opened(code, seed=6, level=level), 40, 24) != whole).any()


def test_a_context_is_cut_in_another_way_in_each_epoch_a_document_never(code):
    for level, same in (("context", False), ("document", True)):
        sequences = opened(code, level=level)
        epochs = []
        for epoch in range(2):
            numbers = np.arange(epoch * sequences.size, (epoch + 1) * sequences.size)
            order = np.argsort(sequences.indices(numbers))
            epochs.append(rows_of(sequences, epoch * sequences.size, sequences.size)[order])
        assert (epochs[0] == epochs[1]).all() == same


def test_contexts_keep_their_documents_and_each_ends(code, tokenizers):
    tokenizer, sequences = tokenizers["codegeex"], opened(code)
    plain = open_sequences(code, "train", SEQ, 5)
    ended = 0
    for ours, theirs in zip(rows_of(sequences, 0, 60), rows_of(plain, 0, 60), strict=True):
        assert len(ours) == len(theirs) == SEQ + 1
        ends = np.flatnonzero(theirs == tokenizer.eos_id)
        assert (ours[ends] == tokenizer.eos_id).all()
        for before, end in itertools.pairwise([-1, *ends.tolist(), len(theirs)]):
            part = ours[before + 1 : end]
            if len(part) and part[0] in tokenizer.sentinels and end == len(theirs):
                assert part[-1] == tokenizer.eos_id
                ended += 1
    assert ended > 40
    batch = sequences.training_batch(0, 60)
    np.testing.assert_array_equal(batch.loss_mask, batch.inputs != tokenizer.eos_id)


def test_documents_are_rearranged_as_wholes(code, tokenizers):
    tokenizer, sequences = tokenizers["codegeex"], opened(code, level="document")
    numbers = np.arange(sequences.size)
    order = np.argsort(sequences.indices(numbers))
    stream = np.concatenate([row[:SEQ] for row in rows_of(sequences, 0, sequences.size)[order]])
    documents = IndexedDataset(code / "train")
    place, checked = 0, 0
    for number, size in enumerate(documents.sizes.tolist()):
        ours, theirs = stream[place : place + size - 1], documents.document(number)[:-1]
        place += size
        if len(ours) == size - 1 and (ours != theirs).any():
            prefix, middle, suffix, _ = parts_of(ours.tolist(), tokenizer)
            whole = tokenizer.decode([*prefix, *middle, *suffix])
            assert whole in TEXTS[number]
            checked += 1
    assert checked > 0.8 * len(TEXTS)


def test_without_a_rate_the_dataset_decides_and_validation_stays_as_it_is(code, tokenizers, tmp_path):
    recorded = write_code(
        tmp_path / "recorded", tokenizers["codegeex"], TEXTS, infill={"rate": 1.0, "mode": "psm", "level": "context"}
    )
    plain, ours = rows_of(open_sequences(code, "train", SEQ, 5), 0, 8), rows_of(opened(recorded, rate=None), 0, 8)
    np.testing.assert_array_equal(ours, rows_of(opened(code, mode="psm"), 0, 8))
    np.testing.assert_array_equal(plain, rows_of(opened(recorded, rate=0.0), 0, 8))
    np.testing.assert_array_equal(plain, rows_of(opened(code, rate=None), 0, 8))
    np.testing.assert_array_equal(plain, rows_of(open_sequences(recorded, "train", SEQ, 5), 0, 8))
    assert content_hash(recorded) != content_hash(code)


def test_a_run_rearranges_what_it_trains_on_and_nothing_else(code, tmp_path):
    values = small_run(code, tmp_path / "run")
    values["model"] |= {"vocab_size": 50400, "eos_token_id": 50256}
    values["data"]["infill"] = {"rate": 1.0, "mode": "spm"}
    config = build_run_config(values)
    assert training_data(config).infilling.sentinels.order == ("suffix", "prefix", "middle")
    assert validation_data(config).infilling is None
    with pytest.raises(UserError, match=r"data.infill.rate: .*1.5"):
        build_run_config({**values, "data": {**values["data"], "infill": {"rate": 1.5}}})
    with pytest.raises(UserError, match=r"data.infill.mode: .*'pms'"):
        build_run_config({**values, "data": {**values["data"], "infill": {"mode": "pms"}}})


@pytest.mark.parametrize("name", ["codegeex", "codegeex2"])
def test_answers_are_rearranged_after_their_prompts(tokenizers, tmp_path, name):
    tokenizer = tokenizers[name]
    pairs = [(f"# number {number}\n", text) for number, text in enumerate(TEXTS) if len(tokenizer.encode(text)) < 450]
    data = write_pairs(tmp_path / "pairs", tokenizer, pairs, 512)
    ours, plain = opened(data, 512, mode="psm"), open_sequences(data, "train", 512, 5)
    moved = 0
    for number in range(ours.size):
        one, other = ours.training_batch(number, 1), plain.training_batch(number, 1)
        assert (one.labels == tokenizer.eos_id).sum() == (other.labels == tokenizer.eos_id).sum()
        place = 0
        for span in ours.documents_of(int(ours.indices(np.array([number]))[0])):
            part = slice(place, place + span.stop - span.start - 1)
            ids = np.append(one.inputs[0], one.labels[0, -1:])[part].tolist()
            counted = np.append(0, one.loss_mask[0])[part].tolist()
            place = part.stop + 1
            if tokenizer.sentinels[0] not in ids:
                continue
            moved += 1
            head = len(tokenizer.prefix)
            assert tuple(ids[:head]) == tokenizer.prefix
            prefix, middle, suffix, _ = parts_of(ids[head:], tokenizer)
            prompt, answer = pairs[span.document]
            whole = tokenizer.decode(prefix) + text_of(tokenizer, middle) + text_of(tokenizer, suffix)
            assert whole in prompt + answer
            if whole.startswith(prompt):
                uncounted = [number for number, flag in zip(ids[head:], counted[head:], strict=True) if not flag]
                asked = tokenizer.encode(prompt)
                assert uncounted == [tokenizer.sentinels[0], *asked, *tokenizer.sentinels[1:]]
    assert moved > 0.8 * len(pairs)
    if name == "codegeex":
        whole, numbers = opened(data, 512, level="document"), np.arange(2 * ours.size)
        order = np.argsort(whole.indices(numbers), kind="stable").reshape(-1, 2)
        rows = rows_of(whole, 0, 2 * ours.size)
        np.testing.assert_array_equal(rows[order[:, 0]], rows[order[:, 1]])  # of both epochs


def test_a_blend_rearranges_by_the_number_of_the_sample_in_the_run(code, tokenizers, tmp_path):
    other = write_code(tmp_path / "other", tokenizers["codegeex"], TEXTS[::-1])
    plain = open_sequences(other, "train", SEQ, 5)
    corpora = {"a": opened(code), "b": plain, "c": opened(code, mode="psm")}
    blend = Blend(parse_blend({"a": 0.5, "b": 0.25, "c": 0.25}), corpora, 4)
    assert blend.infilling is corpora["a"].infilling
    batch = blend.training_batch(100, 8)
    alone = [blend.training_batch(100 + number, 1).labels[0] for number in range(8)]
    np.testing.assert_array_equal(batch.labels, alone)
    again = [blend.training_batch(100 + number, 2).labels for number in range(0, 8, 2)]
    np.testing.assert_array_equal(batch.labels, np.concatenate(again))
    corpora["c"] = opened(code, sentinels=[50260, 50261, 50262])
    with pytest.raises(UserError, match=r"data.blend: .* with the ids \[50257, 50258, 50259\], .* with \[50260"):
        Blend(parse_blend({"a": 0.5, "b": 0.25, "c": 0.25}), corpora, 4)


def test_too_short_texts_and_halves_of_characters_stay(tokenizers):
    tokenizer, infilling = tokenizers["codegeex"], Infilling(ALWAYS, tokenizers["codegeex"], 0)
    assert infilling.rearrange(np.array([], np.int64), (0,)) is None
    assert infilling.rearrange(np.array(tokenizer.encode("x = 1")), (0,)) is None
    cut = np.array(tokenizer.encode("name = '\U0001f600" + "a" * 100)[:-1] + tokenizer.encode("\U0001f600")[:1])
    assert infilling.rearrange(cut, (0,)) is None


@pytest.mark.parametrize(
    "marks,message",
    [
        ([50257, 50258, 50266], "middle is 50266, which the codegeex tokenizer uses for the text '  '"),
        ([50256, 50258, 50259], "prefix is 50256, which the codegeex tokenizer uses for its end token"),
        ([50257, 262, 50259], "suffix is 262, which the codegeex tokenizer uses for the text ' the'"),
        ([50257, 50257, 50259], "give three different ids"),
        ([50257, 50258], "give three different ids"),
    ],
)
def test_sentinels_that_mean_something_else_are_refused(code, marks, message):
    with pytest.raises(UserError, match=r"data\.infill\.sentinels") as caught:
        opened(code, sentinels=marks)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_sentinel_in_the_text_of_a_dataset_is_found(tokenizers, tmp_path):
    tokenizer = tokenizers["codegeex"]
    data = write_code(tmp_path / "data", tokenizer, TEXTS)
    ids = np.memmap(data / "train.bin", np.uint16, "r+")
    ids[30] = tokenizer.sentinels[2]
    ids.flush()
    sequences = opened(data)
    with pytest.raises(UserError, match=r"train.bin: holds id 50259, which marks the middle for infilling"):
        rows_of(sequences, 0, sequences.size)


def test_a_table_without_room_names_the_size_it_needs(code, tokenizers, tmp_path):
    with pytest.raises(UserError, match=r"model.vocab_size: 50400 rows, none is left .* 50400, 50401, 50402; .* 50403"):
        opened(code, sentinels=[50400, 50401, 50402]).check_model(50400, 50256)
    multi = opened(write_code(tmp_path / "multi", tokenizers["codegen-multi"], TEXTS))
    with pytest.raises(UserError, match=r"set it to 50298 or more"):
        multi.check_model(50295, 50256)
    multi.check_model(51200, 50256)


def test_datasets_that_cannot_be_rearranged_say_so(tokenizers, tmp_path):
    unknown = write_code(tmp_path / "unknown", tokenizers["codegeex"], TEXTS)
    write_json(unknown / "dataset.json", {"vocab_size": 50400, "eos_id": 50256})
    with pytest.raises(UserError, match=r"data.infill: .* does not say which tokenizer made it"):
        opened(unknown)
    pairs = write_pairs(tmp_path / "chat", tokenizers["codegeex"], [("a", "b")], 64)
    description = json.loads((pairs / "dataset.json").read_text())
    write_json(pairs / "dataset.json", {**description, "task": "chat"})
    with pytest.raises(UserError, match=r"data.infill: .* holds chat examples, but only completions have a middle"):
        opened(pairs)
    broken = write_code(tmp_path / "broken", tokenizers["codegeex"], TEXTS, infill={"rate": 2})
    with pytest.raises(UserError, match=r"dataset.json: infill.rate: .*2"):
        opened(broken, rate=None)


def test_whitespace_runs_of_any_length_keep_clear_of_the_sentinels(tokenizers):
    from ms_codegeex.data.tokenizer.gpt2 import CodeGeeXTokenizer

    longest = CodeGeeXTokenizer(max_len=135)
    used = {number for length in range(1, 300) for number in longest.encode(" " * length)}
    assert not used & set(longest.sentinels)
    assert all(not longest.is_unused(number) for number in used) and all(map(longest.is_unused, longest.sentinels))
    for tokenizer in tokenizers.values():
        assert len(set(tokenizer.sentinels)) == 3 and all(map(tokenizer.is_unused, tokenizer.sentinels))
        assert not any(map(tokenizer.is_unused, {*tokenizer.encode("def f(x):\n\treturn x"), tokenizer.eos_id}))
