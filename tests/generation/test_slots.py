"""The engine gives the numbers of a full pass for every family, whatever came before and whatever runs with it."""

import numpy as np
import pytest

from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.generation.choice import TokenChoice
from ms_codegeex.generation.engine import Generator
from ms_codegeex.generation.sampling import SamplingSettings
from ms_codegeex.generation.slots import Part
from ms_codegeex.models.registry import FAMILIES, family

torch = pytest.importorskip("torch")

from twins.peers import peer  # noqa: E402
from twins.tiny_models import LAYOUTS, POSITIONS, VOCABULARY, Twin, prompt  # noqa: E402

GREEDY = TokenChoice()
pytestmark = pytest.mark.usefixtures("graph_mode_throughout")


@pytest.fixture(
    scope="module",
    params=[
        ("codegeex", 2),
        ("codegeex2", 2),  # whose heads share keys
        pytest.param(("codegen", 2), marks=pytest.mark.slow),
        pytest.param(("codegeex2", 0), marks=pytest.mark.slow),  # by MindSpore's own operators
    ],
    ids=["codegeex", "codegeex2", "codegen", "composite"],
)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def twin(kind):
    return Twin(kind[0])


@pytest.fixture(scope="module")
def engine(twin, kind):
    return twin.engine(slots=3, threads=kind[1])


def streams(engine, prompts, count):
    """Greedy ids and their log-probabilities of the prompts {slot: ids}, all in step."""
    sequences = {slot: list(ids) for slot, ids in prompts.items()}
    scores = {slot: [] for slot in prompts}
    for _ in range(count):
        for slot, (token, score, _) in engine.next(sequences, dict.fromkeys(sequences, GREEDY)).items():
            sequences[slot].append(token)
            scores[slot].append(score)
    return {slot: (ids[len(prompts[slot]) :], scores[slot]) for slot, ids in sequences.items()}


def check_streams(twin, engine):
    """Of unequal lengths, together and alone, in any slots and order: the ids of a full pass, the same bit by bit."""
    prompts = [prompt(37, 1), prompt(1, 2), prompt(9, 3)]
    together = streams(engine, dict(enumerate(prompts)), 24)
    for slot, ids in enumerate(prompts):
        new, scores = together[slot]
        expected = twin.scores(ids + new)[len(ids) - 1 : -1]
        assert new == expected.argmax(-1).tolist()
        assert np.abs(scores - expected.max(-1)).max() <= 2e-5
    return prompts, together


def test_unequal_streams_give_the_ids_of_a_full_pass_in_any_company_and_order(twin, engine):
    prompts, together = check_streams(twin, engine)
    if not engine.network.compiled:
        return  # in other company, MindSpore's own operators may give another last bit
    for slot, ids in enumerate(prompts):
        assert streams(engine, {2: ids}, 24)[2] == together[slot]
    turned = streams(engine, {1: prompts[2], 0: prompts[1]}, 24)
    assert turned == {1: together[2], 0: together[1]}


@pytest.mark.parametrize("threads", [2, pytest.param(0, marks=pytest.mark.slow)], ids=["compiled", "composite"])
def test_heads_of_odd_size(threads):
    """Of 9 channels, 8 of which are turned, as transformers computes them."""
    twin = Twin("codegen", num_layers=1, hidden_size=144, intermediate_size=64, rotary_dim=8)
    assert twin.config.head_dim == 9
    engine, ids = twin.engine(slots=2, threads=threads, chunk=64), prompt(30, 1)
    assert np.abs(engine.all_logits(0, ids) - twin.logits(ids)).max() <= 1e-5
    prompts = {0: prompt(20, 2), 1: ids}
    for slot, (new, _) in streams(engine, prompts, 8).items():
        begun = prompts[slot]
        assert new == twin.logits(begun + new)[len(begun) - 1 : -1].argmax(-1).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_composite_probabilities_up_to_the_contexts_end(name):
    twin, ids = Twin(name), prompt(POSITIONS)
    engine = twin.engine(slots=3, threads=0)
    found, expected = engine.log_probabilities(1, ids), twin.scores(ids)[np.arange(POSITIONS - 1), ids[1:]]
    assert np.abs(found - expected).max() <= 2e-5
    assert np.abs(engine.logits(1, [*ids[:30], 9]) - twin.logits([*ids[:30], 9])[-1]).max() <= 1e-5


def test_what_came_before_does_not_matter(twin, engine):
    first, second = prompt(30, 1), prompt(12, 2)
    texts = [first, second, second[:5], first[:12], [*first[:11], 9, 9], [*second, 5], [*second, 6], first, first[:1]]
    for ids in texts:
        assert np.abs(engine.logits(0, ids) - twin.logits(ids)[-1]).max() <= 1e-5
    engine.logits(0, first)  # and it would: a wrong belief about what is remembered shows
    engine.cached[0] = list(second)
    assert np.abs(engine.logits(0, [*second, 5]) - twin.logits([*second, 5])[-1]).max() > 0.05
    engine.cached[0] = []


def test_what_is_remembered_is_not_computed_again(engine, monkeypatch):
    rows, run, ids = [], engine._run, prompt(40, 8)

    def noted(network, parts, together):
        rows.extend((part.begin, part.end) for part in parts)
        return run(network, parts, together)

    monkeypatch.setattr(engine, "_run", noted)
    for text in (ids, [*ids, 5], [*ids[:30], 6, 7], ids[:20]):
        engine.next({1: text}, {1: GREEDY})
    assert rows == [(0, 16), (16, 32), (32, 40), (40, 41), (30, 32), (19, 20)]


def test_mixed_passes(twin, engine):
    """Chunks of prompts, guessed ids and newest ids in one pass, in any order; what is guessed wrong is replaced."""
    long, short, other = prompt(30, 11), prompt(10, 12), prompt(6, 13)
    engine.next({2: other[:-1]}, {2: GREEDY})
    wanted = [twin.scores(ids).argmax(-1).tolist() for ids in (long, short, other)]
    for slot in (0, 1):
        engine.cached[slot] = []
    found = engine.advance([Part(2, 5, other[5:], [GREEDY]), Part(0, 0, long[:9]), Part(1, 0, short[:5], [GREEDY] * 3)])
    assert [[chosen.token for chosen in row] for row in found] == [[wanted[2][5]], [], wanted[1][2:5]]
    found = engine.advance([Part(1, 3, short[3:], [GREEDY] * 7), Part(0, 9, long[9:15], [GREEDY])])
    assert [[chosen.token for chosen in row] for row in found] == [wanted[1][3:], [wanted[0][14]]]
    assert engine.cached[:2] == [long[:15], short]


def test_copies_of_slots(twin, engine):
    """A slot's beginning in another slot serves as if it had been computed there; the source stays."""
    first, second = prompt(37, 21), prompt(60, 22)
    engine.next({0: first, 1: second}, {0: GREEDY, 1: GREEDY})
    engine.copy(0, 1, 21)
    assert engine.cached[1] == first[:21] and engine.cached[0] == first
    for slot, ids in ((1, [*first[:21], 5, 6]), (0, [*first, 7])):
        assert engine.keep(slot, ids) >= 21
        assert np.abs(engine.logits(slot, ids) - twin.logits(ids)[-1]).max() <= 1e-5


def test_prompts_of_every_length_up_to_the_contexts_end(twin, engine):
    for length in (1, 2, 15, 16, 17, 18, 33, POSITIONS - 1, POSITIONS):
        ids = prompt(length, length)
        assert np.abs(engine.logits(0, ids) - twin.logits(ids)[-1]).max() <= 1e-5
    ids = prompt(POSITIONS - 4, 3)  # a few more tokens, whose padding would not fit after the cached ones
    engine.logits(0, ids)
    ids += [7, 8, 9, 10]
    assert np.abs(engine.logits(0, ids) - twin.logits(ids)[-1]).max() <= 1e-5


def test_an_interrupted_pass_leaves_nothing_to_rely_on(twin, engine, monkeypatch):
    ids, score = prompt(20, 4), engine.network.score
    engine.logits(0, ids)
    with monkeypatch.context() as patch:

        def interrupted(*arguments):
            score(*arguments)  # has written before the user pressed a key
            raise KeyboardInterrupt

        patch.setattr(engine.network, "score", interrupted)
        with pytest.raises(KeyboardInterrupt):
            engine.logits(0, [*ids[:10], 5, 5, 5])
    assert np.abs(engine.logits(0, [*ids, 7]) - twin.logits([*ids, 7])[-1]).max() <= 1e-5


def test_log_probabilities_of_given_ids_are_those_of_a_full_pass(twin, engine):
    for length in (2, 30, POSITIONS, 1):
        ids = prompt(length, length)
        found = engine.log_probabilities(1, ids)
        assert found.dtype == np.float32 and found.shape == (length - 1,)
        assert np.abs(found - twin.scores(ids)[np.arange(length - 1), ids[1:]]).max(initial=0) <= 2e-5
        # what is remembered serves the next token, and what was remembered does no harm
        more = [*ids[: POSITIONS - 1], 7]
        assert np.abs(engine.logits(1, more) - twin.logits(more)[-1]).max() <= 1e-5


@pytest.mark.slow
def test_ids_without_a_token_are_not_chosen():
    twin = Twin("codegen")
    tensors = twin.tensors | {"head.bias": twin.tensors["head.bias"] + 100.0 * (np.arange(VOCABULARY) >= 50)}
    for threads in (2, 0):
        engine = twin.engine(tensors, allowed=50, threads=threads)
        hottest = TokenChoice(temperature=3.0, top_k=5, top_p=0.9, uniform=0.5)
        for choice in (GREEDY, TokenChoice(temperature=1.0, uniform=0.999999), hottest):
            assert engine.next({0: [5, 6]}, {0: choice})[0][0] < 50


def test_chunks_of_any_size_give_the_same_bits():
    twin, ids = Twin("codegeex2"), prompt(83, 5)
    expected = twin.engine(chunk=64).logits(0, ids)
    assert np.abs(expected - twin.logits(ids)[-1]).max() <= 1e-5
    assert np.array_equal(twin.engine(chunk=16).logits(0, ids), expected)


@pytest.mark.slow
def test_a_cache_of_16_bits_is_that_of_the_compiled_operators():
    """So is a copy. The rounded numbers are near the exact ones and not equal to them."""
    twin, ids = Twin("codegeex2"), prompt(40, 6)
    more, found = [*ids[:25], 7], []
    for threads in (2, 0):
        engine = twin.engine(slots=2, threads=threads, cache_bits=16)
        logits = engine.logits(0, ids)
        assert 1e-6 < np.abs(logits - twin.logits(ids)[-1]).max() < 5e-3
        engine.copy(0, 1, 25)
        copied = engine.logits(1, more)
        engine.cached[0] = []
        assert np.abs(copied - engine.logits(0, more)).max() <= (0 if threads else 1e-4)
        found.append((logits, copied))
    for compiled, composite in zip(*found, strict=True):
        assert np.abs(compiled - composite).max() <= 5e-4


def test_a_directory_of_transformers_is_continued_as_transformers_does(tmp_path):
    """Files, tokenizer, conversion, cache and greedy choice together."""
    sizes = {"vocab_size": 51200, "eos_token_id": 50256, "max_position_embeddings": 160}
    config = family("codegen").config.build_config("tiny", {**LAYOUTS["codegen"], "num_layers": 1, **sizes})
    original = peer("codegen", config)
    twin = original.module
    tokenizer = load_tokenizer("codegen-multi")
    with torch.no_grad():
        twin.lm_head.bias[tokenizer.vocab_size :] = -100  # transformers would choose rows without a token
        twin.lm_head.bias[tokenizer.eos_id] = -100  # and must not stop early
    twin.save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    generator = Generator(tmp_path)
    text = "# language: Python\ndef f(x):\n    return"
    ids = generator.encode(text)
    given = torch.tensor([ids])
    expected = twin.generate(given, do_sample=False, use_cache=True, max_new_tokens=48, pad_token_id=0)[0].tolist()
    assert len(expected) == len(ids) + 48
    full = original.logits([expected])[0]
    settings = SamplingSettings(48, temperature=0.0)
    assert list(generator.tokens(ids, settings)) == expected[len(ids) :]
    for n in range(len(ids), len(expected), 16):
        assert np.abs(generator.logits(expected[:n]) - full[n - 1]).max() <= 1e-5
    assert generator.generate(text, settings) == tokenizer.decode(expected)[len(text) :]
