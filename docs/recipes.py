"""Searches the recipes in configs/recipes and writes docs/recipes.md with its picture from them.

python docs/recipes.py             # writes the page and the picture from the files
python docs/recipes.py --search    # searches again first: some minutes
python docs/recipes.py --check     # writes nothing; exit status 1 if the page is not what it would write

An error ends it with one line and exit status 2.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_file
from ms_codegeex.base.hardware import chip_named
from ms_codegeex.config.loading import load_config
from ms_codegeex.config.values import parse_overrides
from ms_codegeex.extras.cluster.plans.planner import Plan, make_plan
from ms_codegeex.extras.cluster.plans.published import STEP_SECONDS
from ms_codegeex.extras.cluster.plans.search import search, without_mesh, yaml_of

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
NOTHING_FITS = (
    "codegeex_13b_910_8",
    "codegen_16b_910_8",
    "codegen_16b_910_1536",
    "codegen_16b_910b_1536",
    "qwen2_32b_910b_8",
)
# Settings that a search would not choose, and leaves: the first overlaps more, by a simulation of its compiled graph,
# the others leave more memory to masks and fragments.
KEPT = ("codegeex_13b_910_1536", "codegeex_13b_910_64", "codegeex_13b_910_512")
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
TUNED = {
    "CodeGeeX-13B": ("model.family=codegeex", "model.preset=13b"),
    "CodeGen-16B": ("model.family=codegen", "model.preset=16b-multi", *HALF_SCORES),
    "CodeGeeX2-6B": ("model.family=codegeex2", "model.preset=6b"),
}


def _tuned(way: str, name: str, model: tuple[str, ...], devices: Mapping[str, tuple[int, ...]] = TUNING) -> Model:
    """Fine-tuning of a model, of all its weights or with adapters; Qwen2's weights were published in BF16."""
    every, bf16 = way == "Fine-tuning", "model.family=qwen2" in model
    base, frozen = ("finetune_full", ()) if every else ("finetune_lora", ("lora.frozen=fp32",))
    precision = f"training.precision={'bf16' if bf16 else 'fp16'}"
    keys = ("device=ascend", "data.seq_length=2048", "training.global_batch=32", precision, *frozen)
    return Model(f"{way} of {name}", base, 1e9, "", devices, keys, model=model)


MODELS = (
    Model(
        "CodeGeeX-13B",
        "codegeex_13b",
        850e9,
        "Steps of 3,072 sequences of 2,048, as the paper's; on 910B and 910C without dropout.",
        PRETRAINING | {"a100": (8, 64, 512)},
        fused=("training.dropout=0",),
    ),
    Model(
        "CodeGen-16B",
        "codegen_16b_nl",
        577e9,
        "Steps of 1,024 sequences of 2,048. The tokens are those that others quote for NL, Multi and Mono together.\n"
        "  Queries are multiplied with keys in 16 bits (`model.scores_fp32: false`), which the release does in FP32.",
        PRETRAINING,
        HALF_SCORES,
    ),
    Model(
        "CodeGen-2B",
        "codegen_2b_nl",
        577e9,
        "Steps of 512 sequences of 2,048, with the scores of CodeGen-16B.",
        SMALL,
        HALF_SCORES,
    ),
    Model(
        "CodeGeeX2-6B",
        "codegeex2_6b",
        600e9,
        "Steps of 1,536 sequences of 2,048: its batch was never published. The tokens are those of its further\n"
        "  training on code.",
        PRETRAINING,
        ("training.global_batch=1536",),
    ),
    *(
        Model(
            f"Qwen2.5-Coder-{size}",
            f"qwen2_{size.lower()}",
            10.5e9,
            "Further training: 10,000 steps of 128 sequences of 8,192, settings of ours.",
            {"ascend910b": (8, 32)},
        )
        for size in ("7B", "32B")
    ),
    *(_tuned(way, name, model) for way in ("Fine-tuning", "LoRA") for name, model in TUNED.items()),
    *(
        _tuned(
            "LoRA",
            f"Qwen2.5-Coder-{size}",
            ("model.family=qwen2", f"model.preset={size.lower()}"),
            {"ascend910b": (8,)},
        )
        for size in ("7B", "32B")
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
        """Its YAML; in a folder of its own if it leaves the model to the command line."""
        words = (
            self.model.name.lower()
            .replace(" of ", "_")
            .replace("-", "_")
            .replace("fine_tuning", "finetune")
            .replace("qwen2.5_coder", "qwen2")
        )
        folder = FOLDER / "tuning" if self.model.model else FOLDER
        return folder / f"{words}_{HARDWARE[self.hardware].lower()}_{self.devices}.yaml"

    @property
    def overrides(self) -> list[str]:
        """Keys that differ from the model's file and are not searched."""
        keys = [*self.model.keys, *(self.model.fused if "attention" in chip_named(self.hardware).fused else ())]
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
    config = without_mesh(base, [*recipe.overrides, *recipe.model.model, f"devices={recipe.devices}"])
    found = next(iter(search(config).ranked), None)
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


def file_of(stem: str) -> Path:
    """The YAML of a recipe or of the published setting."""
    return ROOT / "configs" / "codegeex_13b.yaml" if stem == PAPER else FOLDER / f"{stem}.yaml"


def cell(recipe: Recipe) -> str:
    """Step, MFU and device-hours of a recipe, with a link to its file."""
    plan = recipe.plan()
    if plan is None:
        return "no plan fits"
    return f"[{figures(plan, recipe.model.tokens)}](../{recipe.file.relative_to(ROOT)})"


def figures(plan: Plan, tokens: float) -> str:
    """Seconds of a step, MFU and device-hours for this many tokens."""
    hours = hours_of(plan, tokens) * plan.config.devices
    return f"{plan.step_seconds:.3g} s, {100 * plan.mfu:.0f} %, {hours:,.0f} h"


def grid(models: Sequence[Model]) -> str:
    """A row for each model and device, a column for each number of devices; of tuning, a row for each model."""
    rows: dict[str, dict[str, str]] = {}
    columns: dict[str, tuple[str, int]] = {}
    for recipe in recipes():
        if recipe.model not in models:
            continue
        name, number, chip = recipe.model.name, f"{recipe.devices:,}", HARDWARE[recipe.hardware]
        row, column = (name, f"{number} x {chip}") if recipe.model.model else (f"{name}, {chip}", number)
        rows.setdefault(row, {})[column] = cell(recipe)
        columns[column] = (chip if recipe.model.model else "", recipe.devices)
    shown = sorted(columns, key=lambda column: columns[column])
    return _table(("", *shown), [(row, *(cells.get(column, "") for column in shown)) for row, cells in rows.items()])


def hours_of(plan: Plan, tokens: float) -> float:
    """Hours for this many tokens, by the planned step, so that all rows have the same method."""
    return tokens / plan.step_tokens * plan.step_seconds / 3600


def page() -> str:
    """The text of docs/recipes.md."""
    pretrained = [model for model in MODELS if not model.model]
    notes = "\n".join(f"- {model.name}, {model.tokens / 1e9:,.0f} G tokens. {model.note}" for model in pretrained)
    paper = plan_of(file_of(PAPER))
    published = f"The paper's own setting of the 13B on {paper.config.devices:,} x 910, planned: "
    published += f"{figures(paper, MODELS[0].tokens)} (published: {STEP_SECONDS:.2f} s)."
    tuned = [model for model in MODELS if model.model]
    blocks = (INTRODUCTION, notes, grid(pretrained), published, TUNED_TEXT, grid(tuned))
    return "\n\n".join(blocks) + "\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


INTRODUCTION = """# Recipes: the fastest plan for each model, device and number of devices

<!-- Written by docs/recipes.py: change that. -->

```bash
ms-codegeex plan --config codegeex_13b_910b_64
ms-codegeex train --config codegeex_13b_910b_64 --dry-run
python docs/recipes.py --search
```

The first command prints the mesh, the memory of every stage and what would make the step shorter. The last one searches
all recipes again and writes this page ([plan.md](plan.md#better-meshes)). **No device has shown any of these figures.**
Each cell has the seconds of a step, MFU, and device-hours for the tokens of the model's paper, packed without padding;
eight of ten runs should take 0.88 to 1.21 times as long, by the published runs on the same chip, or for 910C and H100
on the one before it ([plan.md](plan.md#the-range)). A GPU has no fused attention here. Steps of CodeGen on A100 and
H100 are estimated too short, because the factor of A100 is below 1: its runs fuse what the plan counts apart. A search
leaves 5 % of what a run may use. The setting of the 13B on 1,536 Ascend 910 was chosen because more of its messages run
under computation; those on 64 and 512 recompute more blocks than found, to leave memory. A device of a 910C is one of
its two dies.

![device-hours for the paper's tokens, by devices](images/recipes.png)"""


TUNED_TEXT = f"""## Fine-tuning and LoRA

```bash
ms-codegeex plan --config configs/recipes/tuning/lora_codegeex_13b_910b_8.yaml {" ".join(TUNED["CodeGeeX-13B"])}
```

Steps of 32 sequences of 2,048; device-hours for a billion tokens. The model comes from `finetune --model`, so `plan`
needs its family and preset. CodeGen also needs `{HALF_SCORES[0]}`, as the run does."""


def picture(path: Path) -> None:
    """Device-hours by devices, a line for each model and device."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 5.0), layout="constrained")
    axes = figure.add_subplot()
    styles = dict(zip(HARDWARE, ("o-", "s--", "D-.", "^:", "v:"), strict=True))
    pretrained = [model for model in MODELS if model.tokens > 1e9]
    for model, color in zip(
        pretrained, ("tab:blue", "tab:orange", "tab:red", "tab:green", "tab:purple", "tab:brown"), strict=True
    ):
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
    parser.add_argument("--check", action="store_true", help="write nothing, only compare the page")
    chosen = parser.parse_args(arguments)
    if chosen.check and chosen.search:
        parser.error("--check writes nothing: leave --search out")
    if chosen.only and not chosen.search:
        parser.error("--only chooses among recipes that are searched: add --search")
    try:
        return _run(chosen, docs)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(chosen: argparse.Namespace, docs: Path) -> int:
    """Search, and write or compare the page: the exit status."""
    if chosen.search:
        (FOLDER / "tuning").mkdir(parents=True, exist_ok=True)
        for recipe in recipes():
            if not recipe.file.name.startswith(chosen.only):
                continue
            if recipe.file.stem in KEPT:
                print(f"{recipe.file.name}: chosen by hand, not searched", flush=True)
                continue
            find(recipe)
            print(f"{recipe.file.name}: {'found' if recipe.file.exists() else 'nothing fits'}", flush=True)
    text = page()
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
