"""Beams against all answers of a tiny language, and against transformers' search with the same weights."""

import itertools

import numpy as np
import pytest

from ms_codegeex.formats.tensors import from_array
from ms_codegeex.generation.beams import next_tokens, search
from ms_codegeex.generation.matrices import TensorWeights
from ms_codegeex.generation.rows import SlotSizes
from ms_codegeex.generation.slots import SlotEngine
from ms_codegeex.generation.targets import open_network
from ms_codegeex.models.registry import family

EOS = 0


def language(seed, ids=4):
    """Log-probabilities of the next token by the last two."""
    raw = np.random.default_rng(seed).normal(size=(ids + 1, ids + 1, ids)) * 1.5
    return raw - np.log(np.exp(raw).sum(-1, keepdims=True))


def after(table, ids):
    last = [table.shape[2], table.shape[2], *ids][-2:]
    return table[last[0], last[1]]


def every_answer(table, limit, penalty):
    """(score, ids) of all answers: those that end with eos and those of the limit."""
    found = []
    for length in range(1, limit + 1):
        for ids in itertools.product(range(table.shape[2]), repeat=length):
            if EOS not in ids[:-1] and (ids[-1] == EOS or length == limit):
                total = sum(after(table, ids[:i])[ids[i]] for i in range(length))
                found.append((total / length**penalty, ids))
    return sorted(found, reverse=True)


def ranked(table):
    """Answers -> for each the tokens that may follow, the likeliest first."""
    return lambda answers: [sorted(enumerate(after(table, ids)), key=lambda pair: -pair[1]) for ids in answers]


@pytest.mark.parametrize("penalty", [0.0, 1.0, -1.0, 2.5])
@pytest.mark.parametrize("seed", range(3))
def test_enough_beams_find_the_best_of_all_answers(seed, penalty):
    table, limit = language(seed), 4
    found, expected = search(ranked(table), 4**4, limit, EOS, penalty), every_answer(table, limit, penalty)
    assert [beam.ids for beam in found] == [ids for _, ids in expected]
    np.testing.assert_allclose([beam.score for beam in found], [score for score, _ in expected])
    assert {(beam.finish, beam.ids[-1] == EOS) for beam in found} == {("eos", True), ("length", False)}


def test_few_beams_follow_the_likeliest_and_one_is_greedy():
    table, asked, greedy = language(7), [], []

    def likeliest(answers):
        asked.append(len(answers))
        return ranked(table)(answers)

    while len(greedy) < 5 and greedy[-1:] != [EOS]:
        greedy.append(int(after(table, greedy).argmax()))
    assert search(likeliest, 1, 5, None, reported=2)[0].ids[: len(greedy)] == tuple(greedy)
    assert max(asked) == 1
    (best, *_) = search(likeliest, 3, 5, EOS, reported=2)
    assert max(asked) == 3 and all(len(token.best) == 2 for token in best.tokens)
    assert best.total == pytest.approx(sum(token.score for token in best.tokens))


SIZES = {"vocab_size": 60, "num_layers": 2, "max_position_embeddings": 64, "eos_token_id": 2, "hidden_size": 64}


@pytest.fixture(scope="module")
def codegen(graph_mode_throughout):
    """A tiny CodeGen of transformers, and an engine with its weights."""
    pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    from twins.peers import peer

    sizes = {**SIZES, "num_heads": 8, "intermediate_size": 256, "rotary_dim": 4}
    config = family("codegen").config.build_config("tiny", sizes)
    model = peer("codegen", config)
    tensors = model.ours | {"head.bias": model.ours["head.bias"] + 3.0 * (np.arange(60) == 2)}  # answers end early
    with torch.no_grad():
        model.module.lm_head.bias.copy_(torch.tensor(tensors["head.bias"]))
    weights = TensorWeights({name: from_array(np.ascontiguousarray(a, np.float32)) for name, a in tensors.items()})
    return model.module, SlotEngine(open_network(family("codegen"), config, weights, SlotSizes(64, slots=4, threads=2)))


@pytest.mark.parametrize(
    "beams,penalty,slots",
    [
        (4, 1.0, 4),
        pytest.param(4, 0.3, 3, marks=pytest.mark.slow),
        pytest.param(6, -1.0, 4, marks=pytest.mark.slow),
        pytest.param(2, 2.0, 1, marks=pytest.mark.slow),
    ],
)
def test_answers_are_those_of_transformers(codegen, beams, penalty, slots, monkeypatch):
    import torch

    (theirs, engine), finishes = codegen, set()
    copied, copy = [], engine.copy
    monkeypatch.setattr(engine, "copy", lambda *places: copied.append(places) or copy(*places))
    for seed in range(3):
        prompt = np.random.default_rng(seed).integers(3, 60, 30).tolist()
        expected = theirs.generate(
            torch.tensor([prompt]),
            num_beams=beams,
            num_return_sequences=beams,
            do_sample=False,
            max_new_tokens=12,
            length_penalty=penalty,
            pad_token_id=2,
            output_scores=True,
            return_dict_in_generate=True,
        )

        def likeliest(answers, prompt=prompt):
            return next_tokens(engine, range(slots), [[*prompt, *ids] for ids in answers], 2 * beams)

        found = search(likeliest, beams, 12, 2, penalty)
        np.testing.assert_allclose([b.score for b in found], expected.sequences_scores.numpy(), rtol=1e-5)
        for beam, ids in zip(found, expected.sequences[:, len(prompt) :].tolist(), strict=True):
            assert list(beam.ids) + [2] * (len(ids) - len(beam.ids)) == ids
            finishes.add(beam.finish)
    assert "eos" in finishes and (slots == 1 or copied)
