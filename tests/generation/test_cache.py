"""Generation with remembered keys and values: the numbers of a full pass, for every family, whatever came before."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from networks import assign

from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.generation.cache import CachedLogits, CachedMask, KeyValueCache, attach
from ms_codegeex.generation.engine import Generator
from ms_codegeex.generation.sampling import SamplingSettings
from ms_codegeex.models.causal import Build
from ms_codegeex.models.registry import FAMILIES, family

torch = pytest.importorskip("torch")

from twins import codegeex2_torch, codegeex_torch, names  # noqa: E402
from twins.peers import randomise  # noqa: E402

VOCABULARY, POSITIONS, EOS = 120, 100, 2
SIZES = {"vocab_size": VOCABULARY, "num_layers": 2, "max_position_embeddings": POSITIONS, "eos_token_id": EOS}


@pytest.fixture(autouse=True)
def graph_mode():
    """As the command runs."""
    before = ms.get_context("mode")
    ms.set_context(mode=ms.GRAPH_MODE)
    yield
    ms.set_context(mode=before)


def codegen_twin(config):
    transformers = pytest.importorskip("transformers")
    twin = transformers.CodeGenForCausalLM(
        transformers.CodeGenConfig(
            vocab_size=config.vocab_size,
            n_positions=config.max_position_embeddings,
            n_ctx=config.max_position_embeddings,
            n_embd=config.hidden_size,
            n_layer=config.num_layers,
            n_head=config.num_heads,
            rotary_dim=config.rotary_dim,
            bos_token_id=config.eos_token_id,
            eos_token_id=config.eos_token_id,
        )
    ).eval()
    return twin, names.codegen(randomise(twin), config.num_layers, config.num_heads), lambda ids: twin(ids).logits


def codegeex_twin(config):
    twin = codegeex_torch.CodeGeeX(
        config.vocab_size,
        config.hidden_size,
        config.num_layers,
        config.num_heads,
        config.intermediate_size,
        config.max_position_embeddings,
        eos=config.eos_token_id,
        reset=False,
    )
    return twin, randomise(twin), twin.logits


def codegeex2_twin(config):
    sizes = codegeex2_torch.Sizes(
        config.vocab_size,
        config.hidden_size,
        config.num_layers,
        config.num_heads,
        config.num_kv_groups,
        config.intermediate_size,
        config.rotary_dim,
    )
    twin = codegeex2_torch.CodeGeeX2(sizes)
    return twin, names.codegeex2(randomise(twin), config.num_layers, config.num_heads, config.num_kv_groups), twin


TWINS = {"codegeex": codegeex_twin, "codegen": codegen_twin, "codegeex2": codegeex2_twin}
LAYOUTS = {
    "codegeex": {"num_layers": 1, "hidden_size": 32, "num_heads": 4, "intermediate_size": 64},
    "codegen": {"hidden_size": 128, "num_heads": 16, "intermediate_size": 512, "rotary_dim": 4},
    "codegeex2": {"hidden_size": 128, "num_heads": 32, "num_kv_groups": 2, "intermediate_size": 48, "rotary_dim": 2},
}


def network_of(name, config, ours, **build):
    network = family(name).model.Logits(config, Build(seq_length=POSITIONS, reset_at_eos=False, **build))
    network.set_train(False)
    assign(network, ours)
    return network


@pytest.fixture(scope="module", params=FAMILIES)
def cached(request):
    """`CachedLogits` of a family and its twin's logits [n, V] of all positions of some ids."""
    ms.set_context(mode=ms.GRAPH_MODE)
    config = family(request.param).config.build_config("tiny", SIZES | LAYOUTS[request.param])
    _, ours, forward = TWINS[request.param](config)

    def expected(ids):
        with torch.no_grad():
            return forward(torch.tensor([ids]).long())[0].numpy()

    return CachedLogits(network_of(request.param, config, ours), POSITIONS, EOS), expected


def prompt(length, seed=0):
    return np.random.default_rng(seed).integers(3, VOCABULARY, length).tolist()


def test_64_tokens_greedily_each_with_the_logits_of_a_full_pass(cached):
    logits, expected = cached
    ids, seen = prompt(7), []
    for _ in range(64):
        seen.append(logits(ids))
        ids.append(int(np.argmax(seen[-1])))
    full = expected(ids)[6:-1]
    assert np.abs(full).max() > 1
    assert np.abs(np.stack(seen) - full).max() <= 1e-5
    assert ids[7:] == np.argmax(full, -1).tolist()


def test_what_came_before_does_not_matter(cached):
    logits, expected = cached
    first, second = prompt(30, 1), prompt(12, 2)
    texts = [first, second, second[:5], first[:12], [*first[:11], 9, 9], [*second, 5], [*second, 6], first, first[:1]]
    for ids in texts:
        assert np.abs(logits(ids) - expected(ids)[-1]).max() <= 1e-5
    # and it would: a wrong belief about what is remembered shows
    logits(first)
    logits.cached = second
    assert np.abs(logits([*second, 5]) - expected([*second, 5])[-1]).max() > 0.05


@pytest.mark.parametrize("lengths", [(1, 2, 15, 16, 17, 18), (POSITIONS - 3, POSITIONS - 1, POSITIONS)])
def test_prompts_of_every_length_up_to_the_contexts_end(cached, lengths):
    logits, expected = cached
    for length in lengths:
        ids = prompt(length, length)
        assert np.abs(logits(ids) - expected(ids)[-1]).max() <= 1e-5
    # a few more tokens than the last text where their padded row would not fit behind the remembered ones
    ids = prompt(POSITIONS - 4, 3)
    logits(ids)
    ids += [7, 8, 9, 10]
    assert np.abs(logits(ids) - expected(ids)[-1]).max() <= 1e-5


def test_an_interrupted_pass_leaves_nothing_to_rely_on(cached, monkeypatch):
    logits, expected = cached
    ids, network = prompt(20, 4), logits.network
    logits(ids)
    with monkeypatch.context() as patch:

        def interrupted(*arguments):
            network(*arguments)  # has written before the user pressed a key
            raise KeyboardInterrupt

        patch.setattr(logits, "network", interrupted)
        with pytest.raises(KeyboardInterrupt):
            logits([*ids[:10], 5, 5, 5])
    assert np.abs(logits([*ids, 7]) - expected([*ids, 7])[-1]).max() <= 1e-5


def test_log_probabilities_of_given_ids_are_those_of_a_full_pass(cached):
    logits, expected = cached
    for length, piece in ((2, 256), (30, 256), (50, 16), (POSITIONS, 64), (POSITIONS, 256), (1, 8)):
        ids = prompt(length, length + piece)
        raw = expected(ids).astype(np.float64)[:-1]
        wanted = raw - np.log(np.exp(raw).sum(-1, keepdims=True))
        found = logits.log_probabilities(ids, piece)
        assert found.dtype == np.float32 and found.shape == (length - 1,)
        assert np.abs(found - wanted[np.arange(length - 1), ids[1:]]).max(initial=0) <= 2e-5
        # what is remembered serves the next token, and what was remembered does no harm
        assert np.abs(logits([*ids[: POSITIONS - 1], 7]) - expected([*ids[: POSITIONS - 1], 7])[-1]).max() <= 1e-5


def test_two_sequences_at_once_and_fp16():
    config = family("codegen").config.build_config("tiny", SIZES | LAYOUTS["codegen"])
    _, ours, forward = codegen_twin(config)
    ids = np.array([prompt(12, 5), prompt(12, 6)], np.int32)
    with torch.no_grad():
        expected = forward(torch.tensor(ids).long())[:, -1].numpy()
    network = network_of("codegen", config, ours, dtype=ms.float16)
    weights = [parameter.name for parameter in network.get_parameters()]
    start = attach(network.model, POSITIONS, batch=2)
    added = [parameter.name for parameter in network.get_parameters() if parameter.name not in weights]
    assert len(set(added)) == len(added) == 1 + 2 * 2 and all(name.startswith("cache.") for name in added)
    assert not any(parameter.requires_grad for parameter in network.get_parameters() if parameter.name in added)
    network(Tensor(ids[:, :11]), Tensor([10, 10], ms.int32))
    start.set_data(Tensor([11], ms.int32))
    found = network(Tensor(ids[:, 11:]), Tensor([0, 0], ms.int32)).asnumpy()
    assert 1e-6 < np.abs(found - expected).max() < 0.03


def test_mask_and_positions_behind_the_cached_ones():
    mask = CachedMask(9)
    mask.start.set_data(Tensor([4], ms.int32))
    visible, positions = mask(Tensor(np.zeros((2, 3), np.int32)))
    np.testing.assert_array_equal(positions.asnumpy(), [[4, 5, 6]] * 2)
    wanted = [[0] * (4 + i + 1) + [-10000] * (9 - 4 - i - 1) for i in range(3)]
    np.testing.assert_array_equal(visible.asnumpy(), np.array(wanted, np.float32)[None, None])


def test_keys_and_values_are_written_where_they_belong():
    generator, mask = np.random.default_rng(0), CachedMask(9)
    cache = KeyValueCache((2, 3, 9, 4), ms.float32, ms.float32, mask.start)
    wanted = np.zeros((2, 2, 3, 9, 4), np.float32)
    for start, n in ((0, 5), (3, 1), (4, 5)):
        new = generator.normal(size=(2, 2, 3, n, 4)).astype(np.float32)
        wanted[..., start : start + n, :] = new
        mask.start.set_data(Tensor([start], ms.int32))
        found = cache(Tensor(new[0]), Tensor(new[1]))
        np.testing.assert_array_equal([x.asnumpy() for x in found], wanted)


def test_a_directory_of_transformers_is_continued_as_transformers_does(tmp_path):
    """Files, tokenizer, conversion, cache and greedy choice together."""
    sizes = {"vocab_size": 51200, "eos_token_id": 50256, "max_position_embeddings": 128}
    config = family("codegen").config.build_config("tiny", {**LAYOUTS["codegen"], "num_layers": 2, **sizes})
    twin, _, forward = codegen_twin(config)
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
    expected = twin.generate(given, do_sample=False, use_cache=True, max_new_tokens=64, pad_token_id=0)[0].tolist()
    assert len(expected) == len(ids) + 64
    with torch.no_grad():
        full = forward(torch.tensor([expected]))[0].numpy()
    settings = SamplingSettings(64, temperature=0.0)
    assert list(generator.tokens(ids, settings)) == expected[len(ids) :]
    for n in range(len(ids), len(expected)):
        assert np.abs(generator.logits(expected[:n]) - full[n - 1]).max() <= 1e-5
    assert generator.generate(text, settings) == tokenizer.decode(expected)[len(text) :]
