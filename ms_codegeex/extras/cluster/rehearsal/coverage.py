"""What a verdict does not cover, and whether the plan fits the devices: both are printed along with the verdict."""

from __future__ import annotations

from ms_codegeex.base.hardware import GIB
from ms_codegeex.config import RunConfig
from ms_codegeex.config.chosen_hardware import chosen_kernels, hardware_of
from ms_codegeex.planning.memory import stage_memory

COMPOSED = ("graph_kernel", "attention", "norm")  # fused kernels that an execution replaces by elementary operators


def memory_of_stages(config: RunConfig) -> list[tuple[int, float, float]]:
    """For each stage: its number, GiB that the plan needs on one of its devices, GiB that a run may use there."""
    chip = hardware_of(config)
    return [(s, x.total / GIB, chip.usable_memory / GIB) for s, x in enumerate(stage_memory(config, chip))]


def memory_warning(config: RunConfig) -> str | None:
    """One line if the plan does not fit the memory of its devices, otherwise None."""
    stage, needed, usable = max(memory_of_stages(config), key=lambda x: x[1])
    if needed <= usable:
        return None
    return (
        f"the plan needs {needed:.1f} GiB on a device of stage {stage}, a run on {hardware_of(config).name} may use "
        f"{usable:.1f}; `ms-codegeex plan` shows what takes it"
    )


def not_executed(config: RunConfig, small: RunConfig) -> list[str]:
    """What an execution of `small` does not show about the run `config`, one line each."""
    lines = [
        "mistakes that model and reference share, such as query and key swapped in both (docs/fidelity.md has tests)"
    ]
    replaced = [name for name in COMPOSED if name in chosen_kernels(config)]
    if replaced:
        lines.append(f"fused kernels ({', '.join(replaced)}): elementary operators ran in their place")
    if config.training.precision != small.training.precision:
        precision, executed = config.training.precision, small.training.precision
        lines.append(f"{precision}: no CPU executes it, {executed} ran in its place; --compile checks types and scale")
    if config.accumulation > 1 and small.mesh.pipeline > 1 and small.mesh.virtual_stages == 1:  # others call it
        lines.append(
            f"lazy inlining: a run compiles its network once for all {config.graph_micro_batches} micro-batches of its "
            f"graph, here it was inlined for each of {small.graph_micro_batches}"
        )
    if config.mesh != small.mesh:
        lines.append(f"the mesh {config.mesh}, shrunk to {small.mesh}")
    return [
        *lines,
        "kernels, memory and timing of a device; collectives fused into buckets; checkpoints"
        + ("" if config.mesh.pipeline > 1 else "; evaluation"),
    ]


def not_compiled(config: RunConfig, target: str = "gpu") -> list[str]:
    called = "the whole network" if config.accumulation > 1 else "equal blocks"
    return [
        "nothing was executed: only an execution checks values",
        f"passes of the device's back end: this is the front end's graph for target {target}, {called} compiled once",
    ]
