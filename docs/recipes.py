"""Searches the recipes in configs/recipes and writes docs/recipes.md with its picture from them.

python docs/recipes.py             # writes the page and the picture from the files
python docs/recipes.py --search    # searches again first: some minutes
python docs/recipes.py --simulate codegeex_13b_910b_64   # compiles one rank of each stage, and records the timeline
python docs/recipes.py --check     # writes nothing; exit status 1 if the page is not what it would write

An error ends it with one line and exit status 2.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import math
import os
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, reduce
from operator import attrgetter, getitem
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.base.files import atomic_file, write_json
from ms_codegeex.base.hardware import GIB, device
from ms_codegeex.base.reading import read_json
from ms_codegeex.config import RunConfig
from ms_codegeex.config.chosen_hardware import fused_kernels
from ms_codegeex.config.loading import load_config
from ms_codegeex.config.values import parse_overrides
from ms_codegeex.planning.calibration import STEP_SECONDS
from ms_codegeex.planning.planner import Plan, changed, make_plan
from ms_codegeex.planning.report import CATEGORIES
from ms_codegeex.planning.roofline import Work, balanced_layers
from ms_codegeex.planning.search import recomputing, search, yaml_of
from ms_codegeex.rehearsal.compile import compile_ranks
from ms_codegeex.rehearsal.timeline.timeline import make_timeline

ROOT = Path(__file__).resolve().parents[1]
FOLDER, PAGE, PICTURE = ROOT / "configs" / "recipes", "recipes.md", "images/recipes.png"
HARDWARE = {"ascend910": "910", "ascend910b": "910B", "ascend910c": "910C", "a100": "A100", "h100": "H100"}
KEYS_OF_HARDWARE = {"ascend910c": ["parallel.server_devices=16"], "a100": ["device=gpu"], "h100": ["device=gpu"]}
# Devices that the recipes are for.
PRETRAINING = {
    "ascend910": (8, 64, 512, 1536),
    "ascend910b": (8, 16, 64, 128, 512, 1536),
    "ascend910c": (16, 128),
    "a100": (8, 64),
    "h100": (8, 64),
}
SMALL = {"ascend910b": (8, 16, 64, 128), "ascend910c": (16, 128), "a100": (8, 64), "h100": (8, 64)}
TUNING = {"ascend910b": (8,), "ascend910c": (16,), "a100": (8,), "h100": (8,)}  # `finetune` uses one server
# Recipes for which a search found no plan. A recipe without a file that is not listed has not been searched.
NOTHING_FITS = ("codegeex_13b_910_8", "codegen_16b_910_8", "codegen_16b_910_1536", "codegen_16b_910b_1536")
# Settings that timelines of the compiled graphs prefer to the search's: the first overlaps more, the others leave more
# memory to masks and fragments (docs/notes.md).
BY_TIMELINE = ("codegeex_13b_910_1536", "codegeex_13b_910_64", "codegeex_13b_910_512")
LATER = {  # keys that came after some records, with what every step did before
    ("parallel", "virtual_stages"): 1,
    ("parallel", "calibration"): None,
    ("parallel", "short_gradients"): False,
    ("parallel", "fusion", "documents"): False,
    ("training", "optimizer", "name"): "adamw",
    ("training", "optimizer", "momentum"): 0.95,
    ("training", "schedule", "decay"): "cosine",
    ("training", "initial"): {"outputs": "normal", "positions": "normal", "attention": "normal"},
}
SIMULATED = ROOT / "docs" / "recipes_simulated.json"
TIMELINE = ROOT / "ms_codegeex" / "rehearsal" / "timeline"
COSTS = ROOT / "ms_codegeex" / "planning" / "operators.py"  # what its operators cost
SHOWS = ("report.py",)  # its files that show a timeline and do not make it
EARLIER = "simulated by an earlier version of the timeline"
PAPER = "codegeex_13b"  # the published setting


@dataclass(frozen=True)
class Model:
    """A model with the file of its run, its tokens, on what its recipes are, and keys that differ from the file's.

    `fused`: keys where attention is fused. `model`: keys that its recipes leave to the command line.
    """

    name: str
    base: str
    tokens: float
    note: str
    devices: Mapping[str, tuple[int, ...]] = field(hash=False)
    keys: tuple[str, ...] = ()
    fused: tuple[str, ...] = ()
    model: tuple[str, ...] = ()


HALF_SCORES = ("model.scores_fp32=false",)
TOO_SHORT = "On A100 and H100 these steps are estimated too short, as said above, and their MFU too high."
TUNED = {
    "CodeGeeX-13B": ("model.family=codegeex", "model.preset=13b"),
    "CodeGen-16B": ("model.family=codegen", "model.preset=16b-multi", *HALF_SCORES),
    "CodeGeeX2-6B": ("model.family=codegeex2", "model.preset=6b"),
}


def _tuned(way: str, name: str, model: tuple[str, ...]) -> Model:
    """Fine-tuning of a model, of all its weights or with adapters."""
    every = way == "Fine-tuning"
    base, frozen = ("finetune_full", ()) if every else ("finetune_lora", ("lora.frozen=fp32",))
    keys = ("device=ascend", "data.seq_length=2048", "training.global_batch=32", "training.precision=fp16", *frozen)
    note = "Steps of 32 sequences of 2,048; hours for a billion tokens. The model comes from `finetune --model`"
    note += f",\nwith `{HALF_SCORES[0]}` on its command line." if HALF_SCORES[0] in model else "."
    note += f"\n{TOO_SHORT}" if HALF_SCORES[0] in model else ""
    note += f"\n`plan` needs the model: `plan --config FILE {' '.join(model)}`."
    return Model(f"{way} of {name}", base, 1e9, note, TUNING, keys, model=model)


MODELS = (
    Model(
        "CodeGeeX-13B",
        "codegeex_13b",
        850e9,
        "Steps of 3,072 sequences of 2,048, as the paper's. Fused attention (910B, 910C) has no dropout.",
        PRETRAINING | {"a100": (8, 64, 512)},
        fused=("training.dropout=0",),
    ),
    Model(
        "CodeGen-16B",
        "codegen_16b_nl",
        577e9,
        "Steps of 1,024 sequences of 2,048. The tokens are those that others quote for NL, Multi and Mono together.\n"
        "Queries are multiplied with keys in 16 bits (`model.scores_fp32: false`), which the release does in FP32.\n"
        "1,536 devices divide the batch only with a pipeline, and then there are fewer micro-batches than stages.\n"
        f"{TOO_SHORT}",
        PRETRAINING,
        HALF_SCORES,
    ),
    Model(
        "CodeGen-2B",
        "codegen_2b_nl",
        577e9,
        f"Steps of 512 sequences of 2,048, with the tokens and the scores of CodeGen-16B.\n{TOO_SHORT}",
        SMALL,
        HALF_SCORES,
    ),
    Model(
        "CodeGeeX2-6B",
        "codegeex2_6b",
        600e9,
        "Steps of 1,536 sequences of 2,048: its batch was never published. The tokens are those of its further\n"
        "training on code.",
        PRETRAINING,
        ("training.global_batch=1536",),
    ),
    *(_tuned(way, name, model) for way in ("Fine-tuning", "LoRA") for name, model in TUNED.items()),
)


@dataclass(frozen=True)
class Recipe:
    """A model on a number of devices; `file` exists if some plan fits."""

    model: Model
    hardware: str
    devices: int

    @property
    def file(self) -> Path:
        """Its YAML; in a folder of its own if it leaves the model to the command line."""
        words = self.model.name.lower().replace(" of ", "_").replace("-", "_").replace("fine_tuning", "finetune")
        folder = FOLDER / "tuning" if self.model.model else FOLDER
        return folder / f"{words}_{HARDWARE[self.hardware].lower()}_{self.devices}.yaml"

    @property
    def overrides(self) -> list[str]:
        """Keys that differ from the model's file and are not searched."""
        keys = [*self.model.keys, *(self.model.fused if "attention" in device(self.hardware).fused else ())]
        return [*keys, f"parallel.hardware={self.hardware}", *KEYS_OF_HARDWARE.get(self.hardware, ())]

    def plan(self) -> Plan | None:
        """What its file costs; None if nothing fits."""
        if self.file.exists():
            return plan_of(self.file, self.model.model)
        if self.file.stem not in NOTHING_FITS:
            raise SystemExit(
                f"{self.file.name} is missing: python docs/recipes.py --search --only {self.file.stem}; if nothing "
                "fits, add it to NOTHING_FITS"
            )
        return None


@cache
def plan_of(file: Path, words: tuple[str, ...] = ()) -> Plan:
    """What a file costs, with more keys; once in this process."""
    return make_plan(load_config(file, words))


def recipes() -> Iterator[Recipe]:
    """All of them."""
    for model in MODELS:
        for hardware, numbers in model.devices.items():
            for devices in numbers:
                yield Recipe(model, hardware, devices)


def find(recipe: Recipe) -> None:
    """Search a recipe and write its file, or remove the file if nothing fits."""
    base = ROOT / "configs" / f"{recipe.model.base}.yaml"
    free = [f"parallel.{axis}=1" for axis in ("tensor", "pipeline", "virtual_stages", "optimizer_shard")]
    free += ["parallel.sequence=false", "parallel.micro_batches=null", "training.micro_batch=null", "devices=1"]
    words = [*recipe.overrides, *recipe.model.model, *free]
    config = replace(load_config(base, words), devices=recipe.devices)
    found = next(iter(search(config, given=False).ranked), None)
    plan_of.cache_clear()
    if found is None:
        recipe.file.unlink(missing_ok=True)
        return
    given = {"output": f"runs/{recipe.file.stem}", **parse_overrides(recipe.overrides)}
    with atomic_file(recipe.file) as temporary:
        header = "# Found by `python docs/recipes.py --search`; its costs are in docs/recipes.md.\n"
        if recipe.model.model:
            command = f"plan --config {recipe.file.relative_to(ROOT)} {' '.join(recipe.model.model)}"
            header += f"# It names no model: `{command}`.\n"
        text = yaml_of(found, os.path.relpath(base, recipe.file.parent), given)
        temporary.write_text(header + text, encoding="utf-8")


@dataclass(frozen=True)
class Simulated:
    """A step simulated from the compiled graphs, without the factor, and its roofline then. `config` and `sources`:
    digests of the settings and of the timeline's source files. `stages`: of the run's step, seconds of computing,
    exposed messages by group, and bubble; GiB of the graph at its peak."""

    seconds: float
    roofline: float
    config: str
    sources: str
    stages: list[dict]

    @property
    def worst(self) -> dict:
        """The stage that computes longest."""
        return max(self.stages, key=lambda stage: stage["computing"])

    @property
    def earlier(self) -> bool:
        """Whether the timeline's source files have changed since."""
        return self.sources != digest_of_sources()


def digest_of_config(config: RunConfig) -> str:
    """Of the resolved settings that change a step. A key that came after some records counts only where it is set."""
    values = config.to_dict()
    for (*path, key), default in LATER.items():
        section = reduce(getitem, path, values)
        if section[key] == default:
            del section[key]
    keys = ("model", "parallel", "training", "device", "devices")
    chosen = {**{key: values[key] for key in keys}, "seq_length": config.seq_length}
    return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:16]


@cache
def digest_of_sources() -> str:
    """Of the files that make a timeline, without imports, docstrings, comment lines and empty lines."""
    files = [*sorted(file for file in TIMELINE.glob("*.py") if file.name not in SHOWS), COSTS]
    text = "".join(f"{file.name}\n{_code(file.read_text(encoding='utf-8'))}\n" for file in files)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _code(text: str) -> str:
    """The lines of a Python file that change what it does."""
    left_out = set()
    for node in ast.walk(ast.parse(text)):
        text_alone = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if text_alone or isinstance(node, ast.Import | ast.ImportFrom):
            left_out.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = (line for number, line in enumerate(text.splitlines(), 1) if number not in left_out)
    return "\n".join(line for line in lines if line.strip() and not line.lstrip().startswith("#"))


def simulate(stem: str) -> None:
    """Compile one rank of each stage of a recipe, or of the published setting, and record the timeline.

    A recipe without a file is a `UserError`; a graph that is not as planned is a `RunFailure`.
    """
    if not file_of(stem).exists():
        raise UserError(f"--simulate {stem}: no such file in configs/recipes; choose one of them, or {PAPER}")
    config = load_config(file_of(stem))
    mesh = config.mesh
    report = compile_ranks(config, [mesh.rank(stage, 0, 0) for stage in range(mesh.pipeline)], timeline=True)
    if not report.ok:
        raise RunFailure(f"{stem}: the graph is not as planned: {'; '.join(report.problems)}")
    line = make_timeline(report.config, config, report.programs)
    stages = [
        {
            **asdict(line.shares(rank)),
            "peak_gib": rank.memory.peak / GIB,
            "pool_gib": rank.memory.pool.touched / GIB,
            "blocks_gib": rank.memory.pool.blocks / GIB,
            "buffers_gib": line.plan.memory[rank.program.stage].communication / GIB,
        }
        for rank in line.ranks
    ]
    digests = (digest_of_config(config), digest_of_sources())
    found = Simulated(line.run_seconds, line.run_plan.time.total, *digests, stages)
    write_json(SIMULATED, {**_recorded(), stem: asdict(found)})


def file_of(stem: str) -> Path:
    """The YAML of a recipe or of the published setting."""
    return ROOT / "configs" / "codegeex_13b.yaml" if stem == PAPER else FOLDER / f"{stem}.yaml"


def _recorded() -> dict[str, dict]:
    return read_json(SIMULATED) if SIMULATED.exists() else {}


def simulated(stem: str, plan: Plan) -> Simulated | None:
    """The recorded timeline; None if there is none, or if settings or costs have changed since."""
    values = _recorded().get(stem)
    if values is None:
        return None
    found = Simulated(**values)
    same = math.isclose(found.roofline, plan.time.total, rel_tol=1e-6)
    return found if same and found.config == digest_of_config(plan.config) else None


def stale() -> list[str]:
    """Recipes of which a timeline is recorded whose settings or costs have changed since."""
    return [stem for stem in _recorded() if simulated(stem, plan_of(file_of(stem))) is None]


HEADER = ("devices", "data x tensor x pipeline", "optimizer shards", "sequence parallel", "micro-batches")
HEADER += ("recomputes", "GiB, of what a run may use", "step, s", "MFU", "most to gain, and MFU without it")
HEADER += ("hours", "device-hours")


def row(plan: Plan | None, recipe: Recipe) -> tuple[str, ...]:
    """A row of the page."""
    name = f"{recipe.devices:,} x {HARDWARE[recipe.hardware]}"
    if plan is None:
        return (name, "no plan fits", *[""] * (len(HEADER) - 2))
    return (f"[{name}](../{recipe.file.relative_to(ROOT)})", *_cells(plan, recipe.model.tokens))


def _cells(plan: Plan, tokens: float) -> tuple[str, ...]:
    """A row without its name."""
    config, mesh, hours = plan.config, plan.config.mesh, hours_of(plan, tokens)
    training = config.training
    blocks = "" if training.recompute_blocks is None else f" in {', '.join(map(str, training.recompute_blocks))} blocks"
    used = max(stage.total for stage in plan.memory)
    layers = ", ".join(map(str, config.parallel.stage_layers or ()))
    schedule = f", layers {layers}" if layers else ""
    schedule += f", {mesh.virtual_stages} virtual" if mesh.virtual_stages > 1 else ""
    return (
        f"{mesh.data} x {mesh.tensor} x {mesh.pipeline}{schedule}",
        f"{mesh.optimizer_shard}",
        "yes" if config.parallel.sequence else "no",
        f"{config.accumulation} of {config.micro_batch}",
        f"{training.recompute}{blocks}",
        f"{used / GIB:.1f}, {used / plan.chip.usable_memory:.0%}".replace("%", " %"),
        plan.estimate.step,
        plan.estimate.share,
        most_to_gain(plan),
        *(f"{x:,.{0 if x >= 100 else 1}f}" for x in (hours, hours * config.devices)),
    )


def losses(plan: Plan) -> dict[str, float]:
    """Seconds of a step, before the factor, that are no product of the model, by what would have to go."""
    time = plan.time
    stage, micro = time.slowest, time.micro_batches
    again = micro * (stage.work.matmul_recompute + stage.work.vector_recompute)
    element_wise = micro * (stage.work.vector_forward + stage.work.vector_backward)
    fused = "attention" in fused_kernels(plan.config, plan.chip.fused)
    return {
        "collectives of activations": micro * stage.activations,
        "collectives of weights and gradients": time.gradients,
        "bubble": time.bubble * time.pipeline,
        "recomputation": again,
        "sums of gradients and the update": time.update,
        # fused, they are what a kernel has to move
        **({} if fused else {"element-wise work of composed attention and of chains": element_wise}),
    }


def most_to_gain(plan: Plan) -> str:
    """The largest loss, and MFU if it took no time."""
    name, seconds = max(losses(plan).items(), key=lambda item: item[1])
    return f"{name}: {plan.mfu_of((plan.counted_seconds - seconds) * plan.factor.value):.0%}".replace("%", " %")


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("%", " %")


def hours_of(plan: Plan, tokens: float) -> float:
    """Hours for so many tokens, by the planned step, so that all rows have the same method."""
    return tokens / plan.step_tokens * plan.step_seconds / 3600


def paper_row() -> tuple[str, ...]:
    """The published run of the 13B, and our plan of its setting."""
    plan = plan_of(file_of(PAPER))
    cells = list(_cells(plan, MODELS[0].tokens))
    planned = HEADER.index("step, s") - 1  # the name comes first
    cells[planned] += f" (published: {STEP_SECONDS:.2f})"
    return (f"[{plan.config.devices:,} x 910, the paper's](../configs/{PAPER}.yaml)", *cells)


def page() -> str:
    """The text of docs/recipes.md."""
    blocks = [INTRODUCTION]
    for model in MODELS:
        tokens = f", {model.tokens / 1e9:,.0f} G tokens" if model.tokens > 1e9 else ""
        rows = [row(recipe.plan(), recipe) for recipe in recipes() if recipe.model is model]
        rows += [paper_row()] if model is MODELS[0] else []
        blocks.append(f"## {model.name}{tokens}\n\n{model.note}\n\n{_table(HEADER, rows)}")
    blocks[1:1] = [simulated_section(), tried_section()]
    return "\n\n".join([*blocks, memory_section()]) + "\n"


TRIED = {"codegeex_13b_910b_64": 0.55, "codegeex_13b_910b_512": 0.53}  # with the MFU that was aimed at


def variants(plan: Plan) -> Iterator[tuple[str, Plan | None]]:
    """What each change alone gives, with the least recomputation that leaves 5 % of the memory; None: nothing fits."""
    mesh, micro = plan.config.mesh, plan.config.micro_batch
    for way in ("none", "selective", "full"):
        other = changed(plan, training__recompute=way, training__recompute_blocks=None)
        if other and other.time != plan.time:
            yield f"training.recompute={way}", other
    changes: list[dict[str, Any]] = [{"training__micro_batch": x} for x in (micro // 2, 2 * micro) if x]
    for name, old in (("tensor", mesh.tensor), ("pipeline", mesh.pipeline)):
        for new in (1, 2, 4, 8):
            shards = min(64, mesh.data * old // new)
            if new != old:
                sequence = (new if name == "tensor" else mesh.tensor) > 1
                keys = {f"parallel__{name}": new, "parallel__optimizer_shard": shards, "parallel__sequence": sequence}
                changes.append(keys if name == "tensor" else {**keys, "parallel__virtual_stages": 1})
    changes += [{"parallel__virtual_stages": x} for x in (1, 2, 4, 5) if x != mesh.virtual_stages]
    changes.append({"parallel__stage_layers": balanced_layers(plan.config), "parallel__virtual_stages": 1})
    changes.append({"parallel__sequence": False})
    changes.append({"parallel__overlap__parts": 2, "parallel__virtual_stages": 1})
    for keys in changes:
        key, value = next(iter(keys.items()))
        others = {"parallel__data": None, "parallel__stage_layers": None}
        found, reasons = recomputing(plan.config, {**others, **keys}, plan.chip)
        if found or "memory" in reasons:
            yield f"{key.replace('__', '.')}={value}", min(found, key=attrgetter("step_seconds"), default=None)


def tried_section() -> str:
    """Every single change of the recipes with an aim, and what each would give."""
    blocks = [TRIED_TEXT]
    for stem, aim in TRIED.items():
        plan = plan_of(file_of(stem))
        header = (f"`{stem}`, aim {aim:.0%}".replace("%", " %"), "MFU", "memory to spare")
        rows = [("the recipe", plan.estimate.share, _percent(plan.spare))]
        for words, other in variants(plan):
            cells = (other.estimate.share, _percent(other.spare)) if other else ("no plan fits", "")
            rows.append((f"`{words}`", *cells))
        if short := changed(plan, parallel__short_gradients=True):
            rows.append(("`parallel.short_gradients=true`, which rounds", short.estimate.share, _percent(short.spare)))
        every = losses(plan)
        collectives = sum(every[name] for name in every if name.startswith("collectives"))
        times, mean = plan.time, statistics.fmean(stage.micro_batch for stage in plan.time.stages)
        equal = replace(times, stages=(replace(times.slowest, work=Work(mean), activations=0.0),) * len(times.stages))
        for words, seconds in (
            ("stages equally long, as with the head split over them", times.pipeline - equal.pipeline),
            ("every collective under computation", collectives),
            ("no bubble", every["bubble"]),
            ("every collective under computation, no bubble", collectives + every["bubble"]),
            ("the same, and nothing recomputed", collectives + every["bubble"] + every["recomputation"]),
        ):
            share = plan.mfu_of((plan.counted_seconds - seconds) * plan.factor.value)
            rows.append((f"bound: {words}", f"{share:.0%}".replace("%", " %"), ""))
        blocks.append(_table(header, rows))
    return "\n\n".join(blocks)


SHOWN = ("computing", "tensor", "weights and gradients", "pipeline", "bubble")  # where a simulated step goes
STEP_HEADER = ("recipe", "nothing overlaps, s", "simulated, s", *SHOWN)
STEP_HEADER += ("GiB of the graph", "in the pool", "its blocks", "of the plan")


def simulated_section() -> str:
    """The recorded timelines of current settings: where the step goes, and what follows."""
    rows = []
    for stem in _recorded():
        plan = plan_of(file_of(stem))
        found = simulated(stem, plan)
        if found is None:
            continue
        parts: Counter[str] = Counter()
        for group, seconds in found.worst["exposed"].items():
            parts[group if group in ("tensor", "pipeline") else "weights and gradients"] += seconds
        parts.update({name: found.worst[name] for name in ("computing", "bubble")})
        rows.append(
            (
                f"[{stem}](../{file_of(stem).relative_to(ROOT)}){f', {EARLIER}' if found.earlier else ''}",
                f"{found.roofline:.2f}",
                f"{found.seconds:.2f}",
                *(_percent(parts[name] / found.seconds) for name in SHOWN),
                f"{max(stage['peak_gib'] for stage in found.stages):.1f}",
                f"{max(stage['pool_gib'] for stage in found.stages):.1f}",
                f"{max(stage['blocks_gib'] for stage in found.stages):.1f}",
                f"{max(stage.total - stage.communication for stage in plan.memory) / GIB:.1f}",
            )
        )
    return f"{SIMULATED_TEXT}\n\n{_table(STEP_HEADER, rows)}\n\n{_against_paper()}".rstrip()


def _against_paper() -> str:
    """The recipe for the paper's devices against the paper's setting, both simulated; empty if one is not recorded."""
    stems = (PAPER, "codegeex_13b_910_1536")
    found = [simulated(stem, plan_of(file_of(stem))) for stem in stems]
    if None in found:
        return ""
    paper, ours = (x.seconds for x in found)
    peak = max(stage["peak_gib"] for stage in found[0].stages)
    return (
        "The factor belongs to a roofline in which nothing overlaps. If the paper's run overlapped all that its graph\n"
        f"allows, {STEP_SECONDS:.2f} s are {STEP_SECONDS / paper:.2f} times its simulated {paper:.2f} s. Simulated "
        f"against simulated, without any factor,\nthe recipe for 1,536 Ascend 910 has {paper / ours:.2f} x the tokens "
        "of the paper's setting. That favours the paper's setting twice:\nits simulated schedule "
        f"holds {peak:.1f} GiB, where a run may use 30; and dropout is ours, while the release's\ndropout kernel makes "
        "the roofline 7 % longer ([plan.md](plan.md))."
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


INTRODUCTION = """# Recipes: the fastest plan for each model, device and number of devices

<!-- Written by docs/recipes.py: change that. -->

```bash
ms-codegeex plan --config configs/recipes/codegeex_13b_910b_64.yaml
python docs/recipes.py --search
```

Up to 16 devices `plan --search` found these settings, beyond that an earlier program that searched around three
meshes ([plan.md](plan.md#better-meshes)); a timeline chose that of the 13B on 1,536 Ascend 910,
and those on 64 and 512 recompute more blocks than found, to leave memory ([notes.md](notes.md)). **No device has shown
any of these figures.** A step and its MFU have one estimate, and the range in which eight of ten runs should lie, from
the published runs on the same chip, or for 910C and H100 on the one before it ([plan.md](plan.md#the-range)). A GPU
has no fused attention here. The factor of A100 is below 1, because its runs fuse what the plan then counts apart:
where little of that is left, as in CodeGen, the step is estimated too short.

Hours are for the tokens of the model's paper, packed without padding. A device of a 910C is one of its two dies.
"full in 5, 0 blocks": the first 5 blocks of stage 1 recompute, none of stage 2. *Most to gain*: what takes most of the
slowest stage's step and is no product of the model, and MFU if that took no time.

![device-hours for the paper's tokens, by devices](images/recipes.png)"""


SIMULATED_TEXT = """## Simulated from the compiled graphs

```bash
ms-codegeex rehearse --config configs/recipes/codegeex_13b_910_1536.yaml --compile --timeline --ranks 0
python docs/recipes.py --simulate codegeex_13b_910_1536
```

One rank of each stage was compiled at full size, all layers, and its step simulated with the overlap that the graph
allows ([rehearse.md](rehearse.md)). Shares are those of the stage that computes longest. A stream never waits while it
has a ready operator, so these steps are optimistic; the column before them is pessimistic, because nothing overlaps
there. Neither has a factor. Shrunk and executed, these recipes train as one device does: that for 1,536 devices in
FP16, that for 64 in FP32 ([rehearse.md](rehearse.md)).
GiB are without the buffers of communicators: those of all tensors at the peak of the simulated order, what they touch
of the engine's memory pool (the rest is fragmentation) with its blocks, and the plan's. The recipes touch less than a
run may use, with their buffers. Blocks have to fit only where the driver has no virtual memory, as on the 910; those of
its recipe do. The order in which the paper's setting is simulated takes more."""


TRIED_TEXT = """## What was tried for the 13B on 64 and 512 x 910B

The aims were an MFU of 55 % on 64 devices and 53 % on 512 in the middle of the range. The recipes do not reach them.
Each row changes one thing, with the least recomputation that leaves 5 % of the memory, and with as many optimizer
shards as another mesh has, up to 64. A row of recomputation with less than 5 % to spare is too large for a recipe. The
search combines all of these but the parts of a micro-batch. A bound is what would be left if something took no time:
the aims need every collective under computation and no bubble."""


MEMORY_TEXT = """## Memory of a device

The fullest stage of each plan, GiB ([plan.md](plan.md#how-to-read-it)). A search leaves 5 % of what a run may use: the
plan counts neither fragmentation nor the workspaces of kernels. What the recipes before these needed is in
[notes.md](notes.md#memory-of-the-recipes-before-and-after)."""


def memory_section() -> str:
    """Memory by part, of every recipe and of the published setting."""
    found = [(recipe.file, recipe.plan()) for recipe in recipes()]
    found.append((file_of(PAPER), plan_of(file_of(PAPER))))
    rows = []
    for file, plan in found:
        if plan:
            stage = max(range(len(plan.memory)), key=lambda i: plan.memory[i].total)
            memory, limit = plan.memory[stage], plan.chip.usable_memory / GIB
            parts = (f"{getattr(memory, name) / GIB:.2f}" for name in CATEGORIES)
            rows.append(
                (
                    f"`{file.stem}`",
                    f"{stage}",
                    *parts,
                    f"{memory.total / GIB:.2f}",
                    f"{limit:.1f}",
                    _percent(plan.spare),
                )
            )
    header = ("recipe", "stage", *(name.replace("_", " ") for name in CATEGORIES), "sum", "of", "to spare")
    return f"{MEMORY_TEXT}\n\n{_table(header, rows)}"


def picture(path: Path) -> None:
    """Device-hours by devices, a line for each model and device."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 5.0), layout="constrained")
    axes = figure.add_subplot()
    styles = dict(zip(HARDWARE, ("o-", "s--", "D-.", "^:", "v:"), strict=True))
    pretrained = [model for model in MODELS if model.tokens > 1e9]
    for model, color in zip(pretrained, ("tab:blue", "tab:orange", "tab:red", "tab:green"), strict=True):
        for hardware in model.devices:
            found = [(x, x.plan()) for x in recipes() if x.model is model and x.hardware == hardware]
            points = [(x.devices, hours_of(plan, model.tokens) * x.devices) for x, plan in found if plan]
            if points:
                label = f"{model.name}, {HARDWARE[hardware]}"
                axes.plot(*zip(*points, strict=True), styles[hardware], color=color, label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    numbers = sorted({recipe.devices for recipe in recipes()})
    axes.set_xticks(numbers, [f"{x:,}" for x in numbers])
    axes.set_xlabel("devices")
    axes.set_ylabel("device-hours, planned")
    figure.legend(loc="outside right center", fontsize="small")
    figure.savefig(path, dpi=120, format="png")


def main(arguments: Sequence[str] | None = None, docs: Path = ROOT / "docs") -> int:
    """Run the command line; `docs`: the folder of page and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", action="store_true", help="search every recipe again")
    parser.add_argument("--only", default="", metavar="PREFIX", help="--search: only recipes whose files begin so")
    parser.add_argument("--simulate", metavar="NAME", nargs="+", default=[], help="record the timelines of recipes")
    parser.add_argument("--check", action="store_true", help="write nothing, only compare the page")
    chosen = parser.parse_args(arguments)
    if chosen.check and (chosen.search or chosen.simulate):
        parser.error("--check writes nothing: leave --search and --simulate out")
    if chosen.only and not chosen.search:
        parser.error("--only chooses among recipes that are searched: add --search")
    try:
        return _run(chosen, docs)
    except (UserError, RunFailure) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(chosen: argparse.Namespace, docs: Path) -> int:
    """Search, simulate, and write or compare the page: the exit status."""
    if chosen.search:
        (FOLDER / "tuning").mkdir(parents=True, exist_ok=True)
        for recipe in recipes():
            if not recipe.file.name.startswith(chosen.only):
                continue
            if recipe.file.stem in BY_TIMELINE:
                print(f"{recipe.file.name}: chosen by its timeline, not searched", flush=True)
                continue
            find(recipe)
            print(f"{recipe.file.name}: {'found' if recipe.file.exists() else 'nothing fits'}", flush=True)
    for stem in chosen.simulate:
        simulate(stem)
    text = page()
    for stem in stale():
        print(f"{stem}: settings or costs have changed; python docs/recipes.py --simulate {stem}", file=sys.stderr)
    if chosen.check:
        current = (docs / PAGE).read_text(encoding="utf-8") == text
        print("" if current else f"{docs / PAGE} differs: run python docs/recipes.py", end="")
        return 0 if current else 1
    with atomic_file(docs / PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")
    with atomic_file(docs / PICTURE) as temporary:
        picture(temporary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
