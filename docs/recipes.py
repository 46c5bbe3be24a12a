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
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, reduce
from operator import getitem
from pathlib import Path

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.base.files import atomic_file, write_json
from ms_codegeex.base.hardware import GIB
from ms_codegeex.base.reading import read_json
from ms_codegeex.config import RunConfig
from ms_codegeex.config.loading import load_config
from ms_codegeex.config.values import parse_overrides
from ms_codegeex.planning.calibration import STEP_SECONDS
from ms_codegeex.planning.planner import Plan, make_plan
from ms_codegeex.planning.report import CATEGORIES
from ms_codegeex.planning.search import search, yaml_of
from ms_codegeex.rehearsal.compile import compile_ranks
from ms_codegeex.rehearsal.timeline.timeline import make_timeline

ROOT = Path(__file__).resolve().parents[1]
FOLDER, PAGE, PICTURE = ROOT / "configs" / "recipes", "recipes.md", "images/recipes.png"
HARDWARE = {"ascend910": "910", "ascend910b": "910B", "a100": "A100"}
DEVICES = (8, 64, 512, 1536)
# Recipes for which a search found no plan. A recipe without a file that is not listed has not been searched.
NOTHING_FITS = ("codegeex_13b_910_8", "codegen_16b_910_8", "codegen_16b_910_1536", "codegen_16b_910b_1536")
# Settings that the timeline of the compiled graphs prefers to the search's, in which nothing overlaps.
BY_TIMELINE = ("codegeex_13b_910_1536",)
LATER = {  # keys that came after some records, with what every step did before
    ("parallel", "virtual_stages"): 1,
    ("parallel", "calibration"): None,
    ("training", "optimizer", "name"): "adamw",
    ("training", "optimizer", "momentum"): 0.95,
    ("training", "schedule", "decay"): "cosine",
    ("training", "initial"): {"outputs": "normal", "positions": "normal"},
}
SIMULATED = ROOT / "docs" / "recipes_simulated.json"
TIMELINE = ROOT / "ms_codegeex" / "rehearsal" / "timeline"
SHOWS = ("report.py",)  # its files that show a timeline and do not make it
EARLIER = "simulated by an earlier version of the timeline"
PAPER = "codegeex_13b"  # the published setting


@dataclass(frozen=True)
class Model:
    """A model with the file of its run, the tokens of its paper, and keys that differ from the file's."""

    name: str
    base: str
    tokens: float
    note: str
    keys: tuple[str, ...] = ()
    on_910b: tuple[str, ...] = ()


MODELS = (
    Model(
        "CodeGeeX-13B",
        "codegeex_13b",
        850e9,
        "Steps of 3,072 sequences of 2,048, as the paper's. On 910B dropout is 0, because fused attention has none.",
        on_910b=("training.dropout=0",),
    ),
    Model(
        "CodeGen-16B",
        "codegen_16b_nl",
        577e9,
        "Steps of 1,024 sequences of 2,048. The tokens are those that others quote for NL, Multi and Mono together.\n"
        "Queries are multiplied with keys in 16 bits (`model.scores_fp32: false`), which the release does in FP32.\n"
        "1,536 devices divide the batch only with a pipeline, and then there are fewer micro-batches than stages.",
        ("model.scores_fp32=false",),
    ),
    Model(
        "CodeGeeX2-6B",
        "codegeex2_6b",
        600e9,
        "Steps of 1,536 sequences of 2,048: its batch was never published. The tokens are those of its further\n"
        "training on code.",
        ("training.global_batch=1536",),
    ),
)


@dataclass(frozen=True)
class Recipe:
    """A model on a number of devices; `file` exists if some plan fits."""

    model: Model
    hardware: str
    devices: int

    @property
    def file(self) -> Path:
        """Its YAML."""
        return (
            FOLDER
            / f"{self.model.name.lower().replace('-', '_')}_{HARDWARE[self.hardware].lower()}_{self.devices}.yaml"
        )

    @property
    def overrides(self) -> list[str]:
        """Keys that differ from the model's file and are not searched."""
        keys = [*self.model.keys, *(self.model.on_910b if self.hardware == "ascend910b" else ())]
        return [*keys, f"parallel.hardware={self.hardware}", *(["device=gpu"] if self.hardware == "a100" else [])]

    def plan(self) -> Plan | None:
        """What its file costs; None if nothing fits."""
        if self.file.exists():
            return make_plan(load_config(self.file))
        if self.file.stem not in NOTHING_FITS:
            raise SystemExit(
                f"{self.file.name} is missing: python docs/recipes.py --search --only {self.file.stem}; if nothing "
                "fits, add it to NOTHING_FITS"
            )
        return None


def recipes() -> Iterator[Recipe]:
    """All of them; A100 only for the 13B."""
    for model in MODELS:
        for hardware in HARDWARE:
            for devices in DEVICES:
                if hardware != "a100" or (model is MODELS[0] and devices in (64, 512)):
                    yield Recipe(model, hardware, devices)


def find(recipe: Recipe) -> None:
    """Search a recipe and write its file, or remove the file if nothing fits."""
    base = f"{recipe.model.base}.yaml"
    free = [f"parallel.{axis}=1" for axis in ("tensor", "pipeline", "virtual_stages", "optimizer_shard")]
    free += ["parallel.sequence=false", "parallel.micro_batches=null", "training.micro_batch=null", "devices=1"]
    config = replace(load_config(ROOT / "configs" / base, [*recipe.overrides, *free]), devices=recipe.devices)
    found = search(config, given=False)
    if not found.ranked:
        recipe.file.unlink(missing_ok=True)
        return
    given = {"output": f"runs/{recipe.file.stem}", **parse_overrides(recipe.overrides)}
    with atomic_file(recipe.file) as temporary:
        header = "# Found by `python docs/recipes.py --search`; its costs are in docs/recipes.md.\n"
        temporary.write_text(header + yaml_of(found.ranked[0], f"../{base}", given), encoding="utf-8")


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
    files = sorted(file for file in TIMELINE.glob("*.py") if file.name not in SHOWS)
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
    return [stem for stem in _recorded() if simulated(stem, make_plan(load_config(file_of(stem)))) is None]


HEADER = ("devices", "data x tensor x pipeline", "optimizer shards", "sequence parallel", "micro-batches")
HEADER += ("recomputes", "GiB", "step, s", "MFU", "hours", "device-hours")


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
    return (
        f"{mesh.data} x {mesh.tensor} x {mesh.pipeline}",
        f"{mesh.optimizer_shard}",
        "yes" if config.parallel.sequence else "no",
        f"{config.accumulation} of {config.micro_batch}",
        f"{training.recompute}{blocks}",
        f"{max(stage.total for stage in plan.memory) / GIB:.1f}",
        plan.estimate.step,
        plan.estimate.share,
        f"{hours:,.0f}",
        f"{hours * config.devices:,.0f}",
    )


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("%", " %")


def hours_of(plan: Plan, tokens: float) -> float:
    """Hours for so many tokens, by the planned step, so that all rows have the same method."""
    return tokens / plan.step_tokens * plan.step_seconds / 3600


def paper_row() -> tuple[str, ...]:
    """The published run of the 13B, and our plan of its setting."""
    plan = make_plan(load_config(file_of(PAPER)))
    cells = list(_cells(plan, MODELS[0].tokens))
    planned = HEADER.index("step, s") - 1  # the name comes first
    cells[planned] += f" (published: {STEP_SECONDS:.2f})"
    return (f"[{plan.config.devices:,} x 910, the paper's](../configs/{PAPER}.yaml)", *cells)


def page() -> str:
    """The text of docs/recipes.md."""
    blocks = [INTRODUCTION]
    for model in MODELS:
        rows = [row(recipe.plan(), recipe) for recipe in recipes() if recipe.model is model]
        rows += [paper_row()] if model is MODELS[0] else []
        blocks.append(f"## {model.name}, {model.tokens / 1e9:,.0f} G tokens\n\n{model.note}\n\n{_table(HEADER, rows)}")
    blocks[1:1] = [simulated_section()]
    return "\n\n".join([*blocks, memory_section()]) + "\n"


SHOWN = ("computing", "tensor", "weights and gradients", "pipeline", "bubble")  # where a simulated step goes
STEP_HEADER = ("recipe", "nothing overlaps, s", "simulated, s", *SHOWN)
STEP_HEADER += ("GiB of the graph", "in the pool", "its blocks", "of the plan")


def simulated_section() -> str:
    """The recorded timelines of current settings: where the step goes, and what follows."""
    rows = []
    for stem in _recorded():
        plan = make_plan(load_config(file_of(stem)))
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
    found = [simulated(stem, make_plan(load_config(file_of(stem)))) for stem in stems]
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

`plan --search` found these settings ([plan.md](plan.md)), and the timeline that of the 13B on 1,536 Ascend 910. **No
device has shown any of these figures.** A step and its MFU have one estimate, and the range in which eight of ten runs
should lie, from the published runs on the same chip ([plan.md](plan.md#the-range)). Hours are for the tokens of the
model's paper, packed without padding. "full in 5, 0 blocks": the first 5 blocks of stage 1 recompute, none of stage 2.

![device-hours for the paper's tokens, by devices](images/recipes.png)"""


SIMULATED_TEXT = """## Simulated from the compiled graphs

```bash
ms-codegeex rehearse --config configs/recipes/codegeex_13b_910_1536.yaml --compile --timeline --ranks 0
python docs/recipes.py --simulate codegeex_13b_910_1536
```

One rank of each stage was compiled at full size, all layers, and its step simulated with the overlap that the graph
allows ([rehearse.md](rehearse.md)). Shares are those of the stage that computes longest. A stream never waits while it
has a ready operator, so these steps are optimistic; the column before them is pessimistic, because nothing overlaps
there. Neither has a factor. Shrunk and executed, the recipes
train as one device does: that for 1,536 devices in FP16, those for 64 and 512 in FP32 ([rehearse.md](rehearse.md)).
GiB are without the buffers of communicators: those of all tensors at the peak of the simulated order, what they touch
of the engine's memory pool (the rest is fragmentation) with its blocks, and the plan's. The recipes touch less than a
run may use, with their buffers. Blocks have to fit only where the driver has no virtual memory, as on the 910; those of
its recipe do. The order in which the paper's setting is simulated takes more."""


MEMORY_TEXT = """## Memory of a device

The fullest stage of each plan, GiB ([plan.md](plan.md#how-to-read-it)). A search leaves 5 % of what a run may use: the
plan counts neither fragmentation nor the workspaces of kernels. What the recipes before these needed is in
[notes.md](notes.md#memory-of-the-recipes-before-and-after)."""


def memory_section() -> str:
    """Memory by part, of every recipe and of the published setting."""
    found = [(recipe.file, recipe.plan()) for recipe in recipes()]
    found.append((file_of(PAPER), make_plan(load_config(file_of(PAPER)))))
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

    figure = Figure(figsize=(7.0, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for model, color in zip(MODELS, ("tab:blue", "tab:orange", "tab:green"), strict=True):
        for hardware, style in zip(HARDWARE, ("o-", "s--", "^:"), strict=True):
            found = [(x, x.plan()) for x in recipes() if x.model is model and x.hardware == hardware]
            points = [(x.devices, hours_of(plan, model.tokens) * x.devices) for x, plan in found if plan]
            if points:
                label = f"{model.name}, {HARDWARE[hardware]}"
                axes.plot(*zip(*points, strict=True), style, color=color, label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(DEVICES, [f"{x:,}" for x in DEVICES])
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
        FOLDER.mkdir(exist_ok=True)
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
