"""Build network, optimizer and train step from a configuration, for one device or partitioned over a mesh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from ms_codegeex.config import RunConfig
from ms_codegeex.config.chosen_hardware import aclnn_kernels, chosen_kernels, documents_of_a_row, flat_cells, running_on
from ms_codegeex.config.schedule import Transition
from ms_codegeex.models.bf16 import round_to_bf16
from ms_codegeex.models.causal import Build
from ms_codegeex.models.flat import FlatBuild
from ms_codegeex.models.layers import type_constants
from ms_codegeex.models.lora import Adaptation, add_adapters
from ms_codegeex.models.registry import family
from ms_codegeex.parallel.partition import partition, recompute
from ms_codegeex.parallel.sharding import layouts_of, muon_matrices
from ms_codegeex.training.optimizer import AdamW
from ms_codegeex.training.step import AccumulateStep, EvaluationStep, StepSettings, TrainStep

DTYPES = {"fp32": ms.float32, "fp16": ms.float16, "bf16": ms.bfloat16}


@dataclass
class TrainingCells:
    """The graphs of a run on this device."""

    network: nn.Cell
    optimizer: nn.Cell
    step: TrainStep
    accumulation: int  # parts into which the host divides a step; all but the last go to `accumulate_step`
    accumulate_step: nn.Cell | None
    evaluation_step: nn.Cell  # after `set_train(False)`: a batch -> [Σ mask·nll, Σ mask, …] over all devices
    evaluation_rows: int  # sequences that this device loads for one such batch
    seq_length: int

    def compile(self, rows: int) -> None:
        """Compile the graphs of a step on micro-batches of `rows` sequences, always in the same order."""
        ids, samples = np.zeros((rows, self.seq_length), np.int32), np.zeros(rows, np.int32)
        inputs = [Tensor(array) for array in (ids, ids, ids.astype(np.float32), samples)]
        self.step.set_train(True)
        if self.accumulate_step not in (None, self.step):
            self.accumulate_step.compile(*inputs)
        self.step.compile(*inputs)


def build_network(
    config: RunConfig,
    library: Path | None = None,
    layers: type[Build] | None = None,
    partitioned: bool | None = None,
) -> nn.Cell:
    """Return the family's `Loss` with random weights and the run's adapters. If MindSpore partitions the graph, it has
    parallel strategies. A CPU has no BF16 products, so BF16 is emulated there by rounding; on a GPU, constants have
    types that its FP16 kernels accept. `library`: the operators compiled for this CPU, if the run uses them. `layers`:
    replaces the run's layers. `partitioned`: overrides the configuration, for a rehearsal of one device, whose graph is
    partitioned without strategies."""
    training = config.training
    partitioned = config.partitioned if partitioned is None else partitioned
    build = (layers or (FlatBuild if flat_cells(config) else Build))(
        seq_length=config.seq_length,
        dtype=DTYPES[training.precision],
        dropout=training.dropout,
        attention_dropout=training.attention_rate,
        seed=config.seed,
        reset_at_eos=config.data.reset_at_eos,
        micro_batch=config.micro_batch // config.parallel.overlap.parts,
        loss_chunk=config.loss_chunk,
        z_loss=training.z_loss,
        head_table=config.partitioned and config.mesh.pipeline > 1,
        kernels=chosen_kernels(config) | aclnn_kernels(config, partitioned),
        documents=documents_of_a_row(config),
        library=str(library or ""),
    )
    network = family(config.family).model.Loss(config.model.sizes, build)
    if config.lora.rank:
        lora = config.lora
        trained = (lora.targets, lora.rank, lora.alpha, lora.dropout, config.seed)
        settings = Adaptation(*trained, DTYPES[lora.tables], lora.bits, build.library)
        add_adapters(network, config.model.sizes, settings, config.seq_length)
    if config.training.precision == "bf16" and config.device == "cpu":
        round_to_bf16(network)
    if config.training.precision == "fp16" and config.device == "gpu":
        type_constants(network)
    if config.partitioned:
        partition(network, config)
    else:
        recompute(network, config)
    return network


def adamw(
    config: RunConfig,
    parameters: list[ms.Parameter],
    transition: Transition | None = None,
    library: Path | None = None,
    newer: bool = True,
) -> AdamW:
    return AdamW(
        parameters,
        config.training.optimizer,
        config.schedule,
        fused="optimizer" in chosen_kernels(config),
        transition=transition,
        matrices=muon_matrices(config),
        aclnn=newer and "aclnn_optimizer" in aclnn_kernels(config, config.partitioned),
        library=str(library) if library and config.parallel.fusion.optimizer is None else "",
    )


def build(
    config: RunConfig,
    tied_group: str | None = None,
    compile_once: bool = False,
    optimizer: Callable[[RunConfig, list[ms.Parameter]], nn.Cell] | None = None,
    step: Callable[[nn.Cell, nn.Cell, StepSettings], TrainStep] = TrainStep,
    library: Path | None = None,
    layers: type[Build] | None = None,
    partitioned: bool | None = None,
) -> TrainingCells:
    """Return everything that a rank runs. A rehearsal passes its own `optimizer` and `step`, and no `library`.
    `compile_once`: compile the network of a micro-batch once and call it. Otherwise it is inlined for each of them, and
    compile time grows with their number. A rehearsal that executes the graph of a pipeline has to inline it. `library`,
    `layers`, `partitioned`: as in `build_network`."""
    network = build_network(config, library, layers, partitioned)
    interleaved = config.mesh.virtual_stages > 1  # MindSpore interleaves only a network that is called
    if (compile_once or interleaved) and config.graph_micro_batches > 1:
        call_not_inline(network)
    weights = network.trainable_params()
    updates = adamw(config, weights, library=library) if optimizer is None else optimizer(config, weights)
    settings = step_settings(config, [p.name for p in updates.parameters], tied_group)
    train = step(_split(network, config, config.graph_micro_batches), updates, settings)
    accumulate = None
    if settings.accumulation > 1:
        accumulate = train if config.partitioned else AccumulateStep(train)
    evaluation, rows = train, config.micro_batch * config.mesh.data * config.evaluation_micro_batches
    if not config.partitioned or config.mesh.pipeline == 1:
        replicas = 1 if config.partitioned else settings.world
        evaluation, rows = EvaluationStep(network, replicas, settings.saturates), config.micro_batch * config.mesh.data
    elif config.evaluation_micro_batches < config.graph_micro_batches:
        train.evaluation_network = _split(network, config, config.evaluation_micro_batches)
    rows //= config.mesh.stage_size
    steps = (train, settings.accumulation, accumulate, evaluation)
    return TrainingCells(network, updates, *steps, rows, config.seq_length)


def call_not_inline(network: nn.Cell) -> None:
    network.cell_init_args = "lazy_inline_network"


def _split(network: nn.Cell, config: RunConfig, micro_batches: int) -> nn.Cell:
    if config.partitioned and config.parallel.overlap.parts > 1:
        network = nn.MicroBatchInterleaved(network, config.parallel.overlap.parts)
    if micro_batches == 1:
        return network
    if config.mesh.pipeline > 1:
        return nn.PipelineCell(network, micro_batches)
    from mindspore.parallel.nn import GradAccumulation

    return GradAccumulation(network, micro_batches)


def step_settings(config: RunConfig, names: list[str], tied_group: str | None) -> StepSettings:
    """Return the settings of the train step. `names`: the parameters in the optimizer's order."""
    training, mesh = config.training, config.mesh
    common = {
        "slots": config.micro_batch * config.seq_length,
        "accumulation": config.calls,
        "world": mesh.world,
        "clip_norm": training.clip_norm,
        "guarded": config.faults.policy != "none",
        "loss_scale": training.loss_scale if training.precision == "fp16" else None,
        "saturates": config.device != "cpu" and running_on(config).saturates,
    }
    if not config.partitioned:
        return StepSettings(reduce_gradients=mesh.world > 1, **common)
    layouts = {layout.name: layout for layout in layouts_of(config)}
    doubled = {layout.copy_of for layout in layouts.values()} | {n for n, layout in layouts.items() if layout.copy_of}
    weights = (1.0 / (layouts[n].replication(mesh) * (2 if n in doubled else 1)) for n in names)
    return StepSettings(
        graph_micro_batches=config.graph_micro_batches,
        summed=tuple(mesh.optimizer_shard == 1 or (mesh.shards_sums and layouts[n].optimizer_sharded) for n in names),
        weights=tuple(weights),
        sum_share=1.0 / mesh.stage_size,
        tied=tuple(n in doubled for n in names) if mesh.pipeline > 1 else None,
        tied_group=tied_group,
        **common,
    )
