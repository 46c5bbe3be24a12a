"""The parallel plan of CodeGen: where every parameter lies, and the strategies that make the engine agree.

Query, key, value and FFN-up are column-parallel, attention output and FFN-down row-parallel; word table, head and the
head's bias are cut by vocabulary; LayerNorms and the biases behind row-parallel products are whole everywhere. Both
halves of a block read one normalised input and are summed over the devices one by one.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ms_codegeex.mesh import Mesh
from ms_codegeex.models.codegen.config import CodeGenConfig
from ms_codegeex.parallel import decoder
from ms_codegeex.parallel.decoder import Placing
from ms_codegeex.parallel.sharding import ParameterLayout
from ms_codegeex.parallel.strategies import Cuts

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig
    from ms_codegeex.models.codegen.model import Block, Loss


def _block(config: CodeGenConfig, place: Placing, prefix: str) -> list[ParameterLayout]:
    h, f = config.hidden_size, config.intermediate_size
    return [
        *place.norm(f"{prefix}.norm", h),
        *place.column(f"{prefix}.attention.query", h, h, bias=False),
        *place.column(f"{prefix}.attention.key", h, h, bias=False),
        *place.column(f"{prefix}.attention.value", h, h, bias=False),
        *place.row(f"{prefix}.attention.output", h, h, bias=False),
        *place.column(f"{prefix}.feed_forward.up", f, h),
        *place.row(f"{prefix}.feed_forward.down", h, f),
    ]


def parameter_layouts(config: CodeGenConfig, mesh: Mesh, vocabulary: bool = True) -> list[ParameterLayout]:
    """Where every parameter lies; `vocabulary`: the tables are cut too. Their sizes sum to
    `config.parameter_count()`."""
    stages, table = mesh.pipeline, (config.vocab_size, config.hidden_size)
    layouts = [Placing(mesh).vocabulary("embedding.word.weight", table, vocabulary)]
    for i in range(config.num_layers):
        stage = decoder.stage_of_layer(config.num_layers, stages, i)
        layouts += _block(config, Placing(mesh, stage), f"blocks.{i}")
    last = Placing(mesh, stages - 1)
    head = [last.vocabulary("head.weight", table, vocabulary), last.vocabulary("head.bias", table[:1], vocabulary)]
    return [*layouts, *last.norm("final_norm", config.hidden_size), *head]


def apply(network: Loss, config: CodeGenConfig, mesh: Mesh, run: RunConfig) -> None:
    """Set strategies, stages, recompute, fusion groups and optimizer-shard exclusions on a built `Loss`."""
    cuts, model = decoder.cuts_of(mesh, run.parallel), network.model
    cuts.sample_keys(model.hash_samples)
    cuts.causal_mask(model.mask)
    cuts.rotary_table(model.rotary)
    cuts.word_embedding(model.embedding)
    for block in model.blocks:
        _shard_block(cuts, block, model.mask.reset)
    cuts.norm(model.final_norm)
    cuts.loss(network.loss)
    cuts.sums(network.sums)
    stage_of = partial(decoder.stage_of_layer, config.num_layers, mesh.pipeline)
    layouts = parameter_layouts(config, mesh, run.parallel.vocabulary)
    decoder.finish(network, run, layouts, stage_of, (model.final_norm,))


def _shard_block(cuts: Cuts, block: Block, batched_mask: bool) -> None:
    attention, feed_forward = block.attention, block.feed_forward
    cuts.norm(block.norm)
    for linear in (attention.query, attention.key, attention.value, feed_forward.up):
        cuts.column(linear)
    for linear in (attention.output, feed_forward.down):
        cuts.row(linear)
    cuts.attention(attention.core, batched_mask)
    cuts.gelu(feed_forward.activation)
    cuts.residuals(block)
