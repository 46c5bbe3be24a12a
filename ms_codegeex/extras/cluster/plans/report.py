"""A plan as text tables and as a picture of its memory."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import fields
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from ms_codegeex.base.hardware import GIB, Chip
from ms_codegeex.base.printing import table
from ms_codegeex.extras.cluster.plans.planner import (
    Improvement,
    Plan,
    communication_by_group,
    improvements,
    published_to_dict,
)
from ms_codegeex.extras.cluster.plans.published import FIT, PublishedStep, measured_like, published_run, published_steps
from ms_codegeex.extras.cluster.plans.search import SearchResult, keys_of
from ms_codegeex.planning.communicators import MIB, Communicator
from ms_codegeex.planning.hardware_files import sources_of, uncertain_of
from ms_codegeex.planning.memory import StageMemory

CATEGORIES = tuple(field.name for field in fields(StageMemory))


def _count(number: float) -> str:
    for unit, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return f"{number:.0f} "


def report(
    plan: Plan, tokens: float | None, result: SearchResult | None, overlap: bool, explain: bool, with_sources: bool
) -> str:
    """All of a plan, after the table of the search that found it. `overlap`: the search ranked by it; `explain`: also
    the parts of the estimated step; `with_sources`: also where the chip's figures come from."""
    blocks = [heading(plan), step_text(plan), memory_table(plan), communication_table(plan), recipe_table(plan)]
    blocks += [budget(plan, tokens or plan.config.steps * plan.step_tokens), improvement_table(plan)]
    if result:
        blocks.insert(0, search_table(result, overlap or explain))
    if explain:
        blocks += [time_table(plan), published_table(plan)]
    if with_sources:
        blocks.append(sources(plan.chip))
    return "\n\n".join(block for block in blocks if block)


def heading(plan: Plan) -> str:
    """What is planned: model, mesh, batch, parameters, FLOPs."""
    config, training = plan.config, plan.config.training
    extra = plan.executed_flops / plan.model_flops - 1
    muon = ", optimizer muon" if training.optimizer.name == "muon" else ""
    name = " ".join((config.family, str(config.model.preset or ""))).strip()
    return "\n".join(
        (
            f"{name} on {config.devices:,} x {plan.chip.name}: {config.mesh}",
            f"  {training.global_batch:,} sequences of {config.seq_length:,} a step, {config.local_batch} a replica in "
            f"{config.accumulation} micro-batch{'es' if config.accumulation > 1 else ''} of {config.micro_batch}"
            f"{f', {config.graph_micro_batches} in each call of the graph' if config.reductions > 1 else ''}; "
            f"{training.precision}, recompute {training.recompute}{muon}",
            f"  {plan.parameters:,} parameters; {_count(plan.model_flops)}FLOP a step, "
            f"{_count(plan.executed_flops)}FLOP executed ({extra:+.1%})",
        )
    )


def memory_table(plan: Plan) -> str:
    """GiB of one device of each stage by category."""
    names = [*CATEGORIES, "total"]
    rows = [
        (name.replace("_", " "), *(f"{getattr(memory, name) / GIB:.2f}" for memory in plan.memory)) for name in names
    ]
    rows.insert(0, ("parameters, G", *(f"{number / 1e9:.3f}" for number in plan.stage_parameters)))
    header = ("stage", *map(str, range(len(plan.memory))))
    limit = plan.chip.usable_memory / GIB
    verdict = f"fits, {plan.spare:.1%} to spare" if plan.fits else "DOES NOT FIT"
    text = f"memory of a device, GiB, of {limit:.1f} a run may use: {verdict}\n{table(header, rows)}"
    lines = [f"  stage {stages}: {_buffers(listed)}" for stages, listed in _equal_stages(plan)]
    return "\n".join([text, "communicators, MiB of device memory of each", *lines]) if lines else text


def _equal_stages(plan: Plan) -> list[tuple[str, list[Communicator]]]:
    runs: list[tuple[int, int]] = []
    shown = [_buffers(listed) for listed in plan.communicators]
    for stage, text in enumerate(shown):
        if runs and shown[runs[-1][0]] == text:
            runs[-1] = (runs[-1][0], stage)
        elif text:
            runs.append((stage, stage))
    return [(f"{a}" if a == b else f"{a} to {b}", plan.communicators[a]) for a, b in runs]


def _buffers(listed: Sequence[Communicator]) -> str:
    return ", ".join(f"{'+'.join(x.groups) or 'unused'} {x.bytes / MIB:.0f}" for x in listed)


def communication_table(plan: Plan) -> str:
    """Collectives by group, operation and size on the busiest stage."""
    rows = []
    for group, entry in communication_by_group(plan).items():
        seconds: dict[int, float] = defaultdict(float)
        for c in entry["collectives"]:
            seconds[c["stage"]] += c["seconds"]
        busiest = max(seconds, key=seconds.__getitem__)
        for c in entry["collectives"]:
            if c["stage"] == busiest:
                what = f"{c['purpose']} {c['phase'] if c['purpose'] == 'activation' else c['dtype']}"
                sizes = [f"{_count(size)}B" for size in (c["bytes_each"], c["bytes_each"] * c["count"])]
                numbers = (str(c["group_size"]), str(c["count"]), *sizes, f"{c['seconds']:.3f}")
                rows.append((group, c["op"], c["link"], what, *numbers))
    header = ("group", "operation", "link", "what", "devices", "calls", "bytes each", "bytes", "seconds")
    return f"communication of a step, busiest stage of each group\n{table(header, rows, 4)}" if rows else ""


def step_text(plan: Plan) -> str:
    """The step, its MFU and their ranges."""
    time = plan.time
    bubble = f"; pipeline bubble {time.bubble:.1%}" if len(time.stages) > 1 else ""
    peak = plan.chip.peak(plan.config.training.precision) / 1e12
    step = f"{plan.estimate.text()}\n  of {peak:.0f} TFLOP/s{bubble}; --explain shows its parts"
    if plan.config.device != "ascend":
        return step
    return f"{step}\n{plan.compilation.text}; a save copies up to {plan.host_bytes / GIB:.0f} GiB there"


def time_table(plan: Plan) -> str:
    """The parts of the estimate: where the seconds go by the roofline, and what is counted beyond it."""
    time, micro = plan.time, plan.time.micro_batches
    work, total = time.slowest.work, plan.time.total
    parts = {
        "matrix products, forward": micro * work.matmul_forward,
        "matrix products, backward": micro * work.matmul_backward,
        "matrix products, recomputed": micro * work.matmul_recompute,
        "vector work, forward": micro * work.vector_forward,
        "vector work, backward": micro * work.vector_backward,
        "vector work, recomputed": micro * work.vector_recompute,
        "collectives of activations": micro * time.slowest.activations,
        "pipeline: filling and draining": time.pipeline - micro * time.slowest.micro_batch,
        "collectives of weights and gradients": time.gradients,
        "optimizer": time.update,
    }
    rows = [(name, f"{seconds:.3f}", f"{seconds / total:.1%}") for name, seconds in parts.items() if seconds]
    rows.append(("roofline", f"{total:.3f}", "100.0%"))
    if plan.chip.calibration:
        rows.append(("with measured overlap and gaps", f"{plan.counted_seconds:.3f}", ""))
    elif plan.config.mesh.world > 1:
        rows.append(("with the overlap of compiled graphs, estimated", f"{total - plan.hidden_seconds:.3f}", ""))
    factor = plan.factor
    rows += [
        (f"best: x {factor.value:.3f} ({factor.source})", f"{plan.step_seconds:.3f}", ""),
        (f"low: x {factor.low:.3f}", f"{plan.estimate.low:.3f}", ""),
        (f"high: x {factor.high:.3f}", f"{plan.estimate.high:.3f}", ""),
    ]
    return table(("time of a step, slowest stage", "seconds", "share"), rows)


def recipe_table(plan: Plan) -> str:
    """Steps and tokens of the configuration and of the model's published run; empty if none is known."""
    run = published_run(plan.config)
    if run is None:
        return ""
    steps = plan.config.steps
    packed = published_to_dict(plan)["packed_steps"]
    recipes = (
        ("this configuration, packed data", steps, steps * plan.step_tokens, steps * plan.step_tokens),
        ("packed data, the published tokens", packed, packed * plan.step_tokens, packed * plan.step_tokens),
        ("packed data, the published steps", run.steps, run.slots, run.slots),
        (f"published: padded data, {run.filled:.0%} filled", run.steps, run.slots, run.tokens),
    )
    rows = [
        (name, f"{count:,}", _count(slots).strip(), _count(tokens).strip(), f"{tokens / run.tokens:.2f} x")
        for name, count, slots, tokens in recipes
    ]
    header = ("recipe", "steps", "token slots", "tokens trained on", "of the published")
    return f"tokens, with the published run\n{table(header, rows)}"


def budget(plan: Plan, tokens: float) -> str:
    """Tokens a day, days and device-hours."""
    days, step = tokens / plan.tokens_per_day, plan.estimate
    low, high = (days * limit / step.seconds for limit in (step.low, step.high))
    return (
        f"{_count(plan.tokens_per_day)} token slots a day; {_count(tokens)} take {days:.1f} days ({low:.1f} to "
        f"{high:.1f}), {days * 24 * plan.config.devices:,.0f} device-hours"
    )


def improvement_table(plan: Plan) -> str:
    """What each change alone would bring."""
    rows = [_improvement_row(plan, item) for item in improvements(plan)]
    header = ("each change alone", "step, s", "MFU", "points", "memory")
    return f"what would change the MFU\n{table(header, rows)}"


def _improvement_row(plan: Plan, item: Improvement) -> tuple[str, ...]:
    name = f"without {item.name}" if item.active else item.name
    name += f"; no kernel known on {plan.chip.name}" if item.missing else ""
    seconds = f"{'>= ' if item.bound else ''}{item.step_seconds:.2f}"
    gain = item.mfu - plan.mfu
    return (name, seconds, f"{item.mfu:.1%}", f"{100 * gain:+.1f}", "fits" if item.fits else "too large")


def published_table(plan: Plan) -> str:
    """The published runs that the range comes from; with measured steps, the runs that took them."""
    if plan.chip.calibration:
        return f"{plan.chip.name}: measured, {plan.chip.calibration.source}"
    sources: dict[str, list[PublishedStep]] = {}
    for x in published_steps(measured_like(plan.chip.generation)):
        sources.setdefault(x.source, []).append(x)
    rows = [
        (source, str(len(runs)), *(_from_to([getattr(x, key) for x in runs]) for key in ("devices", "times_roofline")))
        for source, runs in sources.items()
    ]
    shown = table(("published in", "runs", "devices", "times their roofline"), rows, 1)
    return f"{shown}\n{textwrap.fill(FIT, 120)}"


def _from_to(values: Sequence[float]) -> str:
    ends = sorted({min(values), max(values)})
    return " to ".join(f"{x:,}" if isinstance(x, int) else f"{x:.2f}" for x in ends)


def sources(chip: Chip) -> str:
    """The device's figures with where each comes from; uncertain ones are marked."""
    lines = [f"figures of {chip.name} (? uncertain)"]
    uncertain = uncertain_of(chip)
    for name, source in sources_of(chip).items():
        value = getattr(chip, name)
        mark = "?" if name in uncertain else " "
        lines.append(f"{mark} {name} = {value if value is None else f'{value:.4g}'}: {source}")
    return "\n".join(lines)


# Names of columns for the keys that a search chooses.
COLUMNS = {
    "parallel.tensor": "tensor",
    "parallel.pipeline": "pipeline",
    "parallel.stage_layers": "layers",
    "parallel.virtual_stages": "virtual",
    "parallel.optimizer_shard": "shards",
    "parallel.optimizer_level": "level",
    "parallel.sequence": "sequence",
    "training.recompute": "recompute",
    "training.recompute_blocks": "blocks",
    "training.micro_batch": "micro",
    "parallel.graph_micro_batches": "in a graph",
    "parallel.overlap.parts": "parts",
    "parallel.overlap.recompute_collectives": "again",
    "parallel.fusion.allreduce_groups": "buckets",
}


def search_table(result: SearchResult, overlap: bool = False, maximum: int = 12) -> str:
    """The fastest plans that fit, in the keys in which they differ, the keys of the first for the command line, and why
    the others do not fit. `overlap`: with the seconds that they are ranked by."""
    shown = result.ranked[:maximum]
    values = {key: [attrgetter(key)(plan.config) for plan in shown] for key in COLUMNS}
    differing = [key for key, found in values.items() if any(x != found[0] for x in found)]
    rows = [
        (
            f"{rank}",
            *(_short(values[key][rank - 1]) for key in differing),
            plan.estimate.step.partition(" ")[0],
            plan.estimate.share.partition(" (")[0],
            f"{max(stage.total for stage in plan.memory) / GIB:.1f}",
            *([f"{plan.overlapped_seconds:.2f}"] if overlap else []),
        )
        for rank, plan in enumerate(shown, 1)
    ]
    lines = [f"{result.tried:,} plans tried, {len(result.ranked):,} fit"]
    if rows:
        ranked_by = ("overlapped, s",) if overlap else ()
        header = ("", *(COLUMNS[key] for key in differing), "step, s", "MFU", "GiB", *ranked_by)
        lines.append(table(header, rows, 1))
    lines += [f"  {count:,} not possible: {reason}" for reason, count in result.reasons.items()]
    if rows:
        lines.append(f"the first one, whose costs are below: {keys_of(shown[0], result.start, result.always)}")
    return "\n".join(lines)


def _short(value: object) -> str:
    if isinstance(value, list | tuple):
        runs = [(item, len(list(same))) for item, same in groupby(value)]
        return ",".join(f"{count}x{item}" if count > 1 else f"{item}" for item, count in runs)
    if value is None or isinstance(value, bool):
        return "yes" if value else "-"
    return str(value)


def plot_memory(plan: Plan, path: Path) -> None:
    """Stacked bars of every stage's memory and the capacity as a line, as PNG."""
    from matplotlib.figure import Figure

    stages = plan.memory
    figure = Figure(figsize=(max(6.0, 3.0 + 0.6 * len(stages)), 4.0), layout="constrained")
    axes = figure.add_subplot()
    bottom = [0.0] * len(stages)
    for name in CATEGORIES:
        heights = [getattr(stage, name) / GIB for stage in stages]
        axes.bar(range(len(stages)), heights, bottom=bottom, label=name.replace("_", " "))
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    axes.axhline(plan.chip.usable_memory / GIB, color="black", linestyle="--", label="capacity")
    axes.set_xlabel("pipeline stage")
    axes.set_ylabel("GiB on one device")
    axes.set_xticks(range(len(stages)))
    figure.suptitle(f"{plan.config.family}: {plan.config.mesh} on {plan.chip.name}", fontsize="small")
    figure.legend(loc="outside right center", fontsize="small")
    figure.savefig(path, dpi=120, format="png")
