"""CodeGeeX against a PyTorch model written from the paper's formulas."""

from dataclasses import replace

import pytest
from networks import packed_batch

from ms_codegeex.models.codegeex.config import CodeGeeXConfig
from ms_codegeex.models.codegeex.model import Logits, Loss

torch = pytest.importorskip("torch")

from twins.codegeex_torch import CodeGeeX as Twin  # noqa: E402
from twins.peers import peer  # noqa: E402

FIELDS = {"vocab_size": 60, "hidden_size": 24, "num_layers": 2, "num_heads": 3, "intermediate_size": 40}
SMALL = CodeGeeXConfig(**FIELDS, max_position_embeddings=20, init_std=0.3, eos_token_id=11)
pytestmark = pytest.mark.usefixtures("graph_mode")


@pytest.mark.parametrize("reset", [True, False])
def test_logits_of_every_position_equal_pytorchs(reset):
    """As the other families: 40 heads, as released, and the same bound."""
    config = replace(SMALL, vocab_size=120, hidden_size=320, num_heads=40, intermediate_size=160)
    assert peer("codegeex", config, reset=reset).error(Logits, 18, reset) <= 1e-5


def test_gradients_equal_pytorchs():
    peer("codegeex", replace(SMALL, num_layers=1), torch.float64).check_gradients(Loss, loss_chunk=5)


def test_the_twin_computes_where_its_inputs_are():
    """As benchmarks/gpu.py needs it; no tensor of it stays on the CPU."""
    inputs, labels, mask, _ = packed_batch(60, 11, 2, 12)
    given = (torch.tensor(array).to("meta") for array in (inputs.astype(int), labels.astype(int), mask))
    assert Twin.of(SMALL).to("meta")(*given).device.type == "meta"


def test_flops_are_those_of_the_matrix_products():
    config, s = SMALL, 12
    h, f, v = config.hidden_size, config.intermediate_size, config.vocab_size
    shapes = []
    for _ in range(config.num_layers + 1):
        shapes += [(1, h, h)] * 4 + [(1, h, f), (1, f, h)] + [(1, h, s), (1, s, h)]  # projections, FFN, scores, context
    shapes.append((1, h, v))
    assert config.flops_per_token(s) == 3 * sum(2 * a * b * c for a, b, c in shapes)
