"""The parallel plan of CodeGeeX: where every parameter lies, and the strategies that make the engine agree.

Query, key, value and FFN-up are column-parallel (rows of their [out, in] weights), attention output and FFN-down are
row-parallel; the word table is cut by vocabulary for lookup, head and loss; position and top-query tables, LayerNorms
and the biases behind row-parallel products are whole everywhere (CodeGeeX release; facts: training recipe, checkpoints).
Optimizer sharding leaves out tables, LayerNorms and biases.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ms_codegeex.models.codegeex.config import CodeGeeXConfig
from ms_codegeex.parallel.mesh import Mesh
from ms_codegeex.parallel.sharding import ParameterLayout

if TYPE_CHECKING:
    from ms_codegeex.config import ParallelConfig

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
