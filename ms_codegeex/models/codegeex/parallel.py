"""The parallel plan of CodeGeeX: where every parameter lies, and the strategies that make the engine agree.

Query, key, value and FFN-up are column-parallel (cut by the rows of their [out, in] weights), attention output and
FFN-down row-parallel. The word table is cut by vocabulary for lookup, head and loss; position and top-query tables,
LayerNorms and the biases behind row-parallel products are whole everywhere (CodeGeeX release; facts: training recipe,
checkpoints). Optimizer sharding leaves out tables, LayerNorms and biases.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ms_codegeex.mesh import Mesh
from ms_codegeex.models.codegeex.config import CodeGeeXConfig
from ms_codegeex.parallel import decoder
from ms_codegeex.parallel.decoder import Placing
from ms_codegeex.parallel.sharding import ParameterLayout
from ms_codegeex.parallel.strategies import Cuts

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig
    from ms_codegeex.models.codegeex.model import Block, InputEmbedding, Loss

HEAD_TABLE = "head.weight"  # the last stage's copy of the word table
WORD_TABLE = "embedding.word.weight"


def stage_of_layer(config: CodeGeeXConfig, stages: int, layer: int) -> int:
    """Stage of block `layer`; `config.num_layers` is the top query layer, which counts as one more."""
    return decoder.stage_of_layer(config.num_layers + 1, stages, layer)


def _block(config: CodeGeeXConfig, mesh: Mesh, prefix: str, stage: int) -> list[ParameterLayout]:
    h, f, place = config.hidden_size, config.intermediate_size, Placing(mesh, stage)
    return [
        *place.norm(f"{prefix}.attention_norm", h),
        *place.norm(f"{prefix}.feed_forward_norm", h),
        *place.column(f"{prefix}.attention.query", h, h),
        *place.column(f"{prefix}.attention.key", h, h),
        *place.column(f"{prefix}.attention.value", h, h),
        *place.column(f"{prefix}.feed_forward.up", f, h),
        *place.row(f"{prefix}.attention.output", h, h),
        *place.row(f"{prefix}.feed_forward.down", h, f),
    ]


def parameter_layouts(config: CodeGeeXConfig, mesh: Mesh, vocabulary: bool = True) -> list[ParameterLayout]:
    """Where every parameter lies; `vocabulary`: the tables are cut too. Their sizes without copies sum to
    `config.parameter_count()`."""
    last = Placing(mesh, mesh.pipeline - 1)
    table, positions = (config.vocab_size, config.hidden_size), (config.max_position_embeddings, config.hidden_size)
    words = Placing(mesh).vocabulary(WORD_TABLE, table, vocabulary)
    layouts = [words, ParameterLayout("embedding.position.weight", positions, 0)]
    for i in range(config.num_layers):
        layouts += _block(config, mesh, f"blocks.{i}", stage_of_layer(config, mesh.pipeline, i))
    layouts += last.norm("final_norm", config.hidden_size)
    layouts.append(ParameterLayout("top_query_embedding.weight", positions, last.stage))
    layouts += _block(config, mesh, "top_query_layer", last.stage)
    if last.stage:
        layouts.append(ParameterLayout(HEAD_TABLE, table, last.stage, words.tensor_axis, copy_of=WORD_TABLE))
    return layouts


def apply(network: Loss, config: CodeGeeXConfig, mesh: Mesh, run: RunConfig) -> None:
    """Set strategies, stages, recompute, fusion groups and optimizer-shard exclusions on a built `Loss`."""
    cuts, model = decoder.cuts_of(mesh, run.parallel), network.model
    cuts.sample_keys(model.hash_samples)
    cuts.causal_mask(model.mask)
    _shard_embedding(cuts, model.embedding)
    for block in (*model.blocks, model.top_query_layer):
        _shard_block(cuts, block, model.mask.reset)
    if run.training.recompute == "full":  # its input is the final norm's and stays whole (CodeGeeX release)
        model.top_query_layer.recompute()
    cuts.norm(model.final_norm)
    cuts.embedding(model.top_query_embedding)
    model.cast_query.shard(((mesh.data, 1, 1),))
    cuts.loss(network.loss)
    cuts.sums(network.sums)
    tail = (model.final_norm, model.top_query_embedding, model.top_query_layer)
    layouts = parameter_layouts(config, mesh, run.parallel.vocabulary)
    decoder.finish(network, run, layouts, partial(stage_of_layer, config, mesh.pipeline), tail)


def _shard_embedding(cuts: Cuts, embedding: InputEmbedding) -> None:
    cube = (cuts.data, 1, 1)
    cuts.embedding(embedding.word, cuts.vocabulary)
    cuts.embedding(embedding.position)
    embedding.add.shard((cube, cube))
    embedding.cast.shard((cube,))
    cuts.dropout(embedding.dropout, cube)


def _shard_block(cuts: Cuts, block: Block, batched_mask: bool) -> None:
    attention, feed_forward = block.attention, block.feed_forward
    for norm in (block.attention_norm, block.feed_forward_norm):
        cuts.norm(norm)
    for linear in (attention.query, attention.key, attention.value, feed_forward.up):
        cuts.column(linear)
    for linear in (attention.output, feed_forward.down):
        cuts.row(linear)
    cuts.attention(attention.core, batched_mask)
    cuts.activation(feed_forward.activation)
    cuts.residuals(block)
