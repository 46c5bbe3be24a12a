"""Exported CodeGeeX directories in transformers, with the classes that we put into them."""

import json

import mindspore as ms
import numpy as np
import pytest

from ms_codegeex.cli import main
from ms_codegeex.formats.checkpoint_writing import Slice, write_checkpoint
from ms_codegeex.formats.convert import convert
from ms_codegeex.generation.engine import Generator
from ms_codegeex.generation.sampling import SamplingSettings
from ms_codegeex.models.codegeex.config import build_config

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from twins import codegeex_torch  # noqa: E402
from twins.peers import randomise  # noqa: E402

POSITIONS, EOS, PROMPT = 40, 50256, "def first(x):\n        return x"
CONFIG = build_config(
    "tiny",
    {
        "vocab_size": 50400,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": POSITIONS,
    },
)


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    """transformers copies the classes that it imports into this directory."""
    with pytest.MonkeyPatch.context() as patch:
        cache = str(tmp_path_factory.mktemp("modules"))
        patch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", cache)
        patch.syspath_prepend(cache)
        yield


@pytest.fixture(scope="module")
def twin():
    """With weights by which the next token depends on much."""
    twin = codegeex_torch.CodeGeeX(50400, 32, 2, 4, 48, POSITIONS, reset=False)
    tensors = randomise(twin)
    for name, parameter in twin.named_parameters():
        if parameter.ndim == 2 and name != "embedding.word.weight":
            parameter.data *= 2
            tensors[name] *= 2
    return twin, tensors


@pytest.fixture(scope="module")
def directory(twin, tmp_path_factory):
    """A run's model directory, by way of another one."""
    root = tmp_path_factory.mktemp("exported")
    slices = {name: Slice(array.shape, (0,) * array.ndim, array) for name, array in twin[1].items()}
    model = {"family": "codegeex", "preset": None, **vars(CONFIG)}
    write_checkpoint(root / "run" / "checkpoints", 4, slices, {"config": {"model": model}})
    assert convert(root / "run", "hf", root / "first", progress=False)["warnings"] == []
    assert convert(root / "first", "hf", root / "second", progress=False)["warnings"] == []
    return root / "second"


def load(directory, **options):
    return transformers.AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True, **options).eval()


@pytest.fixture(scope="module")
def model(directory, modules):
    return load(directory)


@pytest.fixture(scope="module")
def tokenizer(directory, modules):
    return transformers.AutoTokenizer.from_pretrained(directory, trust_remote_code=True)


@pytest.fixture
def generator(directory):
    before = ms.get_context("mode")
    ms.set_context(mode=ms.GRAPH_MODE)
    yield Generator(directory)
    ms.set_context(mode=before)


def greedy(model, ids, count, **options):
    with torch.no_grad():
        return model.generate(ids, max_new_tokens=count, do_sample=False, eos_token_id=None, **options)


def test_the_logits_are_those_of_the_twin(model, twin):
    ids = torch.tensor(np.random.default_rng(1).integers(0, EOS, (2, POSITIONS)))
    with torch.no_grad():
        found, expected = model(ids).logits, twin[0].logits(ids)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_greedy_text_and_logits_are_those_of_our_engine(model, tokenizer, generator):
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    assert ids[0].tolist() == generator.encode(PROMPT)
    with torch.no_grad():
        np.testing.assert_allclose(model(ids).logits[0, -1].numpy(), generator.logits(ids[0].tolist()), atol=1e-5)
    text = generator.generate(PROMPT, SamplingSettings(max_new_tokens=20, temperature=0))
    assert text and tokenizer.decode(greedy(model, ids, 20)[0, ids.shape[1] :]) == text


def test_the_cache_changes_nothing(model):
    ids = torch.tensor(np.random.default_rng(2).integers(0, EOS, (2, 9)))
    cached = greedy(model, ids, 20)
    assert cached.tolist() == greedy(model, ids, 20, use_cache=False).tolist()
    assert len(set(cached[0, 9:].tolist())) > 3
    with torch.no_grad():
        first = model(ids[:, :4])
        rest = model(ids[:, 4:], past_key_values=first.past_key_values).logits
        assert (rest - model(ids).logits[:, 4:]).abs().max() <= 1e-5
    assert model(ids, use_cache=False).past_key_values is None


def test_prompts_padded_on_the_left_continue_as_alone(model, tokenizer):
    tokenizer.padding_side = "left"
    prompts = [PROMPT, "import os", "x = 1 +"]
    batch = tokenizer(prompts, padding=True, return_tensors="pt")
    assert not batch.attention_mask.all()
    together = greedy(model, batch.input_ids, 12, attention_mask=batch.attention_mask)[:, -12:]
    with torch.no_grad():
        scores = model(batch.input_ids, attention_mask=batch.attention_mask).logits[:, -1]
    for prompt, row, last in zip(prompts, together, scores, strict=True):
        alone = tokenizer(prompt, return_tensors="pt").input_ids
        assert row.tolist() == greedy(model, alone, 12)[0, -12:].tolist()
        torch.testing.assert_close(last, model(alone).logits[0, -1].detach(), rtol=1e-5, atol=1e-5)


def test_beams_reorder_the_cache(model, tokenizer):
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    with_cache, without = (greedy(model, ids, 8, num_beams=3, use_cache=use) for use in (True, False))
    assert with_cache.tolist() == without.tolist()


def test_the_loss_is_that_of_the_next_tokens(model, twin):
    ids = torch.tensor(np.random.default_rng(3).integers(0, EOS, (2, 12)))
    expected = twin[0](ids[:, :-1], ids[:, 1:], torch.ones(2, 11))
    assert abs(float(model(ids, labels=ids).loss.detach()) - float(expected.detach())) <= 1e-5


def test_half_precision_loads(directory, modules, model):
    half, ids = load(directory, dtype=torch.float16), torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        found, expected = half(ids).logits, model(ids).logits
    assert found.dtype == torch.float16 and (found - expected).abs().max() < 0.05
    assert greedy(half, ids, 5).shape == (1, 9)


def test_what_cannot_be_computed_is_said(model):
    ids = torch.arange(POSITIONS + 1)[None]
    with pytest.raises(ValueError, match="position 40: the model has 40 positions; shorten the prompt"):
        model(ids)
    with pytest.raises(ValueError, match=r"attention_mask: shape \(1, 3\), expected \(1, 2\)"):
        model(ids[:, :2], attention_mask=torch.ones(1, 3))
    with pytest.raises(ValueError, match='cache_implementation: only "dynamic" is supported'):
        greedy(model, ids[:, :2], 2, cache_implementation="static")


def test_a_saved_model_is_one_of_ours_again(model, tokenizer, directory, tmp_path):
    """After a change by other software, such as fine-tuning."""
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "saved")
    assert main(["inspect", str(tmp_path / "saved")]) == 0
    result = convert(tmp_path / "saved", "hf", tmp_path / "again", progress=False)
    assert result["family"] == "codegeex" and result["warnings"] == []
    theirs, ours = (json.loads((place / "config.json").read_text()) for place in (tmp_path / "again", directory))
    assert ours.items() <= {**theirs, "torch_dtype": "float32"}.items()
