"""A fourth family as it would be added, GPT-2: learned positions, a tied head, biases everywhere, gelu.

In the package this is `models/gpt2/{__init__,config,model,weights}.py` and its name in the registry.
"""

from dataclasses import dataclass
from functools import partial

from mindspore import nn

from ms_codegeex.models.causal import Block, CausalLoss, Head, InputEmbedding
from ms_codegeex.models.decoder_config import DecoderConfig, from_preset
from ms_codegeex.models.foreign import COPY, STACK, TRANSPOSE, Entry, ForeignFormats, ForeignLayout, SizeKeys, inside
from ms_codegeex.models.layers import CausalMask, SampleKeys
from ms_codegeex.models.logits import CausalLogits
from ms_codegeex.models.parameters import COLUMN, LAYER_NORM, ROW, TABLE, VOCABULARY, Layer, ParameterTable

# --- config.py ---

PARAMETERS = ParameterTable(
    first=(
        Layer("embedding.word", VOCABULARY, "vocab_size", "hidden_size"),
        Layer("embedding.position", TABLE, "max_position_embeddings", "hidden_size"),
    ),
    block=(
        Layer("attention_norm", LAYER_NORM, "hidden_size", bias=True),
        Layer("attention.query", COLUMN, "hidden_size", "hidden_size", bias=True),
        Layer("attention.key", COLUMN, "hidden_size", "hidden_size", bias=True),
        Layer("attention.value", COLUMN, "hidden_size", "hidden_size", bias=True),
        Layer("attention.output", ROW, "hidden_size", "hidden_size", bias=True),
        Layer("feed_forward_norm", LAYER_NORM, "hidden_size", bias=True),
        Layer("feed_forward.up", COLUMN, "intermediate_size", "hidden_size", bias=True),
        Layer("feed_forward.down", ROW, "hidden_size", "intermediate_size", bias=True),
    ),
    last=(
        Layer("final_norm", LAYER_NORM, "hidden_size", bias=True),
        Layer("head", VOCABULARY, "vocab_size", "hidden_size", copy_of="embedding.word"),
    ),
)


@dataclass(frozen=True)
class GPT2Config(DecoderConfig):
    """GPT-2's sizes; the defaults are those of the smallest, 124M."""

    table = PARAMETERS
    activation = "gelu"

    vocab_size: int = 50257
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 1024
    layer_norm_eps: float = 1e-5
    init_std: float = 0.02
    eos_token_id: int = 50256


TINY = {"vocab_size": 64, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 48}
TINY |= {"max_position_embeddings": 16, "eos_token_id": 0}
PRESETS = {"124m": {}, "tiny": TINY}


build_config = partial(from_preset, GPT2Config, PRESETS, "124m")

# --- model.py ---


class GPT2(nn.Cell):
    def __init__(self, config, build):
        super().__init__()
        self.hash_samples = SampleKeys()
        self.mask = CausalMask(build.seq_length, config.eos_token_id, build.reset_at_eos)
        self.embedding = InputEmbedding(config, build, learned_positions=True)
        self.blocks = nn.CellList([Block(config, build, i) for i in range(config.num_layers)])
        self.final_norm = build.norm(config)
        self.head = Head(config) if build.head_table else None

    def construct(self, ids, samples):
        sample_keys = self.hash_samples(samples)
        mask, positions = self.mask(ids)
        x = self.embedding(ids, sample_keys, positions)
        for block in self.blocks:
            x = block(x, mask, sample_keys)
        return self.final_norm(x)


Loss, Logits = partial(CausalLoss, GPT2), partial(CausalLogits, GPT2)


# --- weights.py ---


def _layer(ours, foreign, weight=COPY, bias=COPY):
    """Weight and bias of a layer of a block."""
    for kind, packing in (("weight", weight), ("bias", bias)):
        yield Entry(tuple(f"blocks.{{i}}.{name}.{kind}" for name in ours), f"h.{{i}}.{foreign}.{kind}", packing)


_QKV = ("attention.query", "attention.key", "attention.value")
_ENTRIES = (
    Entry(("embedding.word.weight",), "wte.weight"),
    Entry(("embedding.position.weight",), "wpe.weight"),
    *_layer(("attention_norm",), "ln_1"),
    *_layer(_QKV, "attn.c_attn", STACK, STACK),
    *_layer(("attention.output",), "attn.c_proj", TRANSPOSE),
    *_layer(("feed_forward_norm",), "ln_2"),
    *_layer(("feed_forward.up",), "mlp.c_fc", TRANSPOSE),
    *_layer(("feed_forward.down",), "mlp.c_proj", TRANSPOSE),
    Entry(("final_norm.weight",), "ln_f.weight"),
    Entry(("final_norm.bias",), "ln_f.bias"),
)
FORMATS = ForeignFormats(
    sizes=SizeKeys(
        model_type="gpt2",
        required=tuple(TINY)[:6],
        keys={"hidden_size": "n_embd", "num_layers": "n_layer", "num_heads": "n_head"},
        only={"activation_function": "gelu_new"},
        written=lambda config: {"architectures": ["GPT2LMHeadModel"]},
    ),
    layouts=(ForeignLayout("huggingface", _ENTRIES), ForeignLayout("megatron", inside(_ENTRIES, "module"))),
    ranks=lambda config: (config.num_heads, "number of heads"),
    limits=lambda config: [],
)
