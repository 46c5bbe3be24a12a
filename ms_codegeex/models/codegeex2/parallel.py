"""The parallel plan of CodeGeeX2: where every parameter lies, and the strategies that make the engine agree.

Query, gate and up are column-parallel, attention output and down row-parallel; word table and head are cut by
vocabulary; RMSNorms are whole everywhere. Keys and values are cut by groups as long as every device gets whole ones;
with more devices than groups each device computes all of them, which are few, and takes the heads it needs.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ms_codegeex.mesh import Mesh
from ms_codegeex.models.codegeex2.config import CodeGeeX2Config
from ms_codegeex.parallel import decoder
from ms_codegeex.parallel.decoder import Placing
from ms_codegeex.parallel.sharding import ParameterLayout
from ms_codegeex.parallel.strategies import Cuts

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig
    from ms_codegeex.models.codegeex2.model import Block, Loss


def _block(config: CodeGeeX2Config, place: Placing, prefix: str) -> list[ParameterLayout]:
    h, f, g = config.hidden_size, config.intermediate_size, config.kv_size
    by_group = config.num_kv_groups % place.mesh.tensor == 0
    return [
        *place.norm(f"{prefix}.attention_norm", h, bias=False),
        *place.norm(f"{prefix}.feed_forward_norm", h, bias=False),
        *place.column(f"{prefix}.attention.query", h, h),
        *place.column(f"{prefix}.attention.key", g, h, cut=by_group),
        *place.column(f"{prefix}.attention.value", g, h, cut=by_group),
        *place.row(f"{prefix}.attention.output", h, h, bias=False),
        *place.column(f"{prefix}.feed_forward.gate", f, h, bias=False),
        *place.column(f"{prefix}.feed_forward.up", f, h, bias=False),
        *place.row(f"{prefix}.feed_forward.down", h, f, bias=False),
    ]


def parameter_layouts(config: CodeGeeX2Config, mesh: Mesh, vocabulary: bool = True) -> list[ParameterLayout]:
    """Where every parameter lies; `vocabulary`: the tables are cut too. Their sizes sum to
    `config.parameter_count()`."""
    stages, table = mesh.pipeline, (config.vocab_size, config.hidden_size)
    layouts = [Placing(mesh).vocabulary("embedding.word.weight", table, vocabulary)]
    for i in range(config.num_layers):
        stage = decoder.stage_of_layer(config.num_layers, stages, i)
        layouts += _block(config, Placing(mesh, stage), f"blocks.{i}")
    last = Placing(mesh, stages - 1)
    final = last.norm("final_norm", config.hidden_size, bias=False)
    return [*layouts, *final, last.vocabulary("head.weight", table, vocabulary)]


def apply(network: Loss, config: CodeGeeX2Config, mesh: Mesh, run: RunConfig) -> None:
    """Set strategies, stages, recompute, fusion groups and optimizer-shard exclusions on a built `Loss`."""
    cuts, model = decoder.cuts_of(mesh, run.parallel), network.model
    cuts.sample_keys(model.hash_samples)
    cuts.causal_mask(model.mask)
    cuts.rotary_table(model.rotary)
    cuts.word_embedding(model.embedding)
    for block in model.blocks:
        _shard_block(cuts, block, model.mask.reset)
    cuts.rms_norm(model.final_norm)
    cuts.loss(network.loss)
    cuts.sums(network.sums)
    stage_of = partial(decoder.stage_of_layer, config.num_layers, mesh.pipeline)
    layouts = parameter_layouts(config, mesh, run.parallel.vocabulary)
    decoder.finish(network, run, layouts, stage_of, (model.final_norm,))


def _shard_block(cuts: Cuts, block: Block, batched_mask: bool) -> None:
    attention, feed_forward = block.attention, block.feed_forward
    for norm in (block.attention_norm, block.feed_forward_norm):
        cuts.rms_norm(norm)
    for linear in (attention.query, feed_forward.gate, feed_forward.up):
        cuts.column(linear)
    for linear in (attention.key, attention.value):
        cuts.column(linear, cuts.kv_parts(attention.core.heads.groups))
    for linear in (attention.output, feed_forward.down):
        cuts.row(linear)
    cuts.attention(attention.core, batched_mask)
    cuts.swiglu(feed_forward.activation)
    cuts.residuals(block)
