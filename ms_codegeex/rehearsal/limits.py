"""What a verdict does not cover, and what the plan says against a run that compiles: both are printed beside it."""

from __future__ import annotations

from ms_codegeex.config import RunConfig
from ms_codegeex.config.chosen_hardware import hardware_of
from ms_codegeex.config.fusions import chosen_kernels
from ms_codegeex.hardware import GIB
from ms_codegeex.planning.memory import stage_memory

COMPOSED = ("graph_kernel", "attention", "norm")  # kernels whose elementary operators an execution runs instead


def memory_of_stages(config: RunConfig) -> list[tuple[int, float, float]]:
    """Stage, GiB that the plan counts on one of its devices, GiB that a run may use there."""
    chip = hardware_of(config)
    return [(s, x.total / GIB, chip.usable_memory / GIB) for s, x in enumerate(stage_memory(config, chip))]


def memory_warning(config: RunConfig) -> str | None:
    """One line if the plan does not fit its devices; None if it does."""
    stage, needed, usable = max(memory_of_stages(config), key=lambda x: x[1])
    if needed <= usable:
        return None
    return (
        f"the plan needs {needed:.1f} GiB on a device of stage {stage}, a run on {hardware_of(config).name} may use "
        f"{usable:.1f}; `ms-codegeex plan` says what takes it"
    )


def not_executed(config: RunConfig, small: RunConfig) -> list[str]:
    """What an execution of `small` leaves open of the run `config`, one line each."""
    lines = [
        "what model and reference have alike, such as query and key swapped in both (docs/fidelity.md has the tests)"
    ]
    replaced = [name for name in COMPOSED if name in chosen_kernels(config)]
    if replaced:
        lines.append(f"fused kernels ({', '.join(replaced)}): elementary operators ran instead")
    if config.accumulation > 1:
        lines.append(
            f"lazy inlining: a run compiles its network once for its {config.accumulation} micro-batches, here it was "
            f"inlined for each of {small.accumulation}"
        )
    if config.mesh != small.mesh:
        lines.append(f"the mesh {config.mesh}, shortened to {small.mesh}")
    return [
        *lines,
        "kernels, memory and times of a device; collectives joined into buckets; evaluation and checkpoints",
    ]


def not_compiled(config: RunConfig) -> list[str]:
    """What compiled graphs leave open."""
    called = "the whole network" if config.accumulation > 1 else "equal blocks"
    return [
        "nothing was executed: values are the execution's part",
        f"the device's own passes: the graph is the front end's, for a GPU target, with {called} compiled once",
    ]
