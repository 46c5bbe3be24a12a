"""The parallel plan of CodeGeeX: where every parameter lies, and the strategies that make the engine agree.

Query, key, value and FFN-up are column-parallel (cut by the rows of their [out, in] weights), attention output and
FFN-down row-parallel. The word table is cut by vocabulary for lookup, head and loss; position and top-query tables,
LayerNorms and the biases behind row-parallel products are whole everywhere (CodeGeeX release; facts: training recipe,
checkpoints). Optimizer sharding leaves out tables, LayerNorms and biases.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ms_codegeex.models.codegeex.config import CodeGeeXConfig
from ms_codegeex.parallel.mesh import Mesh
from ms_codegeex.parallel.sharding import ParameterLayout
from ms_codegeex.parallel.strategies import Cuts

if TYPE_CHECKING:
    from ms_codegeex.config import ParallelConfig, RunConfig
    from ms_codegeex.models.codegeex.model import Block, CodeGeeX, InputEmbedding, Loss

HEAD_TABLE = "head.weight"  # the last stage's copy of the word table
WORD_TABLE = "embedding.word.weight"


def stage_of_layer(config: CodeGeeXConfig, stages: int, layer: int) -> int:
    """Stage of block `layer`; `config.num_layers` is the top query layer, which counts as one more."""
    return layer * stages // (config.num_layers + 1)


def _block(config: CodeGeeXConfig, mesh: Mesh, prefix: str, stage: int) -> list[ParameterLayout]:
    h, f = config.hidden_size, config.intermediate_size
    cut, shard = (0 if mesh.tensor > 1 else None), mesh.optimizer_shard > 1
    layouts = []
    for norm in ("attention_norm", "feed_forward_norm"):
        layouts += [ParameterLayout(f"{prefix}.{norm}.{part}", (h,), stage) for part in ("weight", "bias")]
    for column, out, into in (
        ("attention.query", h, h),
        ("attention.key", h, h),
        ("attention.value", h, h),
        ("feed_forward.up", f, h),
    ):
        layouts.append(ParameterLayout(f"{prefix}.{column}.weight", (out, into), stage, cut, shard))
        layouts.append(ParameterLayout(f"{prefix}.{column}.bias", (out,), stage, cut))
    for row, out, into in (("attention.output", h, h), ("feed_forward.down", h, f)):
        layouts.append(
            ParameterLayout(f"{prefix}.{row}.weight", (out, into), stage, 1 if mesh.tensor > 1 else None, shard)
        )
        layouts.append(ParameterLayout(f"{prefix}.{row}.bias", (out,), stage))
    return layouts


def parameter_layouts(config: CodeGeeXConfig, mesh: Mesh, parallel: ParallelConfig) -> list[ParameterLayout]:
    """Where every parameter lies. Their sizes without copies sum to `config.parameter_count()`."""
    last = mesh.pipeline - 1
    table, positions = (config.vocab_size, config.hidden_size), (config.max_position_embeddings, config.hidden_size)
    vocabulary = 0 if mesh.tensor > 1 and parallel.vocabulary else None
    layouts = [
        ParameterLayout(WORD_TABLE, table, 0, vocabulary),
        ParameterLayout("embedding.position.weight", positions, 0),
    ]
    for i in range(config.num_layers):
        layouts += _block(config, mesh, f"blocks.{i}", stage_of_layer(config, mesh.pipeline, i))
    layouts += [ParameterLayout(f"final_norm.{part}", (config.hidden_size,), last) for part in ("weight", "bias")]
    layouts.append(ParameterLayout("top_query_embedding.weight", positions, last))
    layouts += _block(config, mesh, "top_query_layer", last)
    if last:
        layouts.append(ParameterLayout(HEAD_TABLE, table, last, vocabulary, copy_of=WORD_TABLE))
    return layouts


def apply(network: Loss, config: CodeGeeXConfig, mesh: Mesh, run: RunConfig) -> None:
    """Set strategies, stages, recompute, fusion groups and optimizer-shard exclusions on a built `Loss`."""
    parallel = run.parallel
    vocabulary = mesh.tensor if parallel.vocabulary else 1
    rows = mesh.data * (mesh.tensor if parallel.sequence else 1)
    cuts, model = Cuts(mesh.data, mesh.tensor, vocabulary, rows), network.model
    cuts.causal_mask(model.mask)
    _shard_embedding(cuts, model.embedding)
    for block in (*model.blocks, model.top_query_layer):
        _shard_block(cuts, block, model.mask.reset)
    _recompute(model, run.training.recompute, mesh.tensor)
    cuts.norm(model.final_norm)
    cuts.embedding(model.top_query_embedding)
    model.cast_query.shard(((mesh.data, 1, 1),))
    cuts.loss(network.loss)
    cuts.sums(network.sums)
    _place(network, config, mesh.pipeline)
    _fuse(network, parallel.fusion.allreduce_groups)
    sharded = {layout.name for layout in parameter_layouts(config, mesh, parallel) if layout.optimizer_sharded}
    for parameter in network.trainable_params():
        parameter.parallel_optimizer = parameter.name in sharded


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
    for dropout in (block.attention_dropout, block.feed_forward_dropout):
        cuts.dropout(dropout, (cuts.rows, 1))
    cuts.residual(block.add_attention)
    cuts.residual(block.add_feed_forward)


def _recompute(model: CodeGeeX, what: str, tensor: int) -> None:
    """Forget a block's activations, or its attention scores, until the backward pass.

    What a block keeps, its input, is cut over the tensor-parallel devices and gathered again; not the top query
    layer's, whose input is the final norm's (CodeGeeX release). A fused attention keeps no scores.
    """
    for block in model.blocks:
        if what == "full":
            block.recompute(recompute_slice_activation=tensor > 1)
    if what == "full":
        model.top_query_layer.recompute()
    for block in (*model.blocks, model.top_query_layer):
        if what == "selective" and not hasattr(block.attention.core, "kernel"):
            block.attention.core.recompute()


def _place(network: Loss, config: CodeGeeXConfig, stages: int) -> None:
    """Stages. The mask has none: every stage forms it from the ids, which is cheaper than sending it."""
    if stages == 1:
        return
    model, last = network.model, stages - 1
    model.embedding.pipeline_stage = 0
    for i, block in enumerate(model.blocks):
        block.pipeline_stage = stage_of_layer(config, stages, i)
    for cell in (model.final_norm, model.top_query_embedding, model.top_query_layer, model.head, network.loss):
        cell.pipeline_stage = last
    network.sums.pipeline_stage = last


def _fuse(network: Loss, groups: int) -> None:
    """Buckets of gradient (and sharded weight) communication by block number, the tables in the first; what lies behind
    the blocks goes with the last one (CodeGeeX release)."""
    model = network.model
    network.set_comm_fusion(min(groups, 1))  # 0: every parameter alone
    if not groups:
        return
    for i, block in enumerate(model.blocks):
        block.set_comm_fusion(i * groups // len(model.blocks) + 1)
    for cell in (model.final_norm, model.top_query_embedding, model.top_query_layer):
        cell.set_comm_fusion(groups)
