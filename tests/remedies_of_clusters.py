"""Situations in which an error of `extras/cluster/` says what to do, and what a user then does."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from remedies_shapes import AGAIN, Said, Situation, each, lines, of_each, put, tried

from ms_codegeex.base.mesh import Mesh
from ms_codegeex.config.loading import load_config
from ms_codegeex.extras.cluster.commands import rehearse
from ms_codegeex.extras.cluster.plans.search import with_graph, without_mesh
from ms_codegeex.extras.cluster.rehearsal.communicator import FileCommunicator
from ms_codegeex.extras.cluster.rehearsal.execute import check_executable, check_memory
from ms_codegeex.extras.cluster.rehearsal.first_contact import contact_config
from ms_codegeex.extras.cluster.rehearsal.shrink import parse_mesh
from ms_codegeex.runs.files.resolved_config import write_config
from ms_codegeex.runs.files.run_directory import RunDirectory

CONFIG = "codegeex_13b_64"
PLAN = f"plan --config {CONFIG} model.num_layers=3"
MEASURED = f"{PLAN} --measured {{at}}/run"
SEARCH = f"{PLAN} --search --write {{at}}"


def made(at: Path) -> RunDirectory:
    """A run on the 910B with two steps and a table of kernels."""
    run = RunDirectory(at / "run")
    kernels = run.profile / "rank_0" / "ASCEND_PROFILER_OUTPUT" / "kernel_details.csv"
    kernels.parent.mkdir(parents=True)
    kernels.write_text("Type,Duration(us)\nMul,100.5\n")
    on()(run)
    steps(run)
    return run


def after(spoil: Callable[[RunDirectory], object], mend: Callable[[RunDirectory], object], more: str = "") -> Situation:
    """`plan --measured` of a run on the 910B that `spoil` changes; `mend`: what the user does, with `more` words."""

    def run(step: Callable[[RunDirectory], object]) -> Callable[[Path], object]:
        return lambda at: step(RunDirectory(at / "run"))

    return tried((made, run(spoil), MEASURED), (run(mend), f"{MEASURED} {more}"))


def steps(run: RunDirectory, compiling: bool = False) -> None:
    """Log two steps."""
    put(run.path, {"log.jsonl": [{"step": n, "step_seconds": 30.0, "compiling": compiling} for n in (2, 3)]})


def on(*words: str) -> Callable[[RunDirectory], object]:
    """The run has other settings."""
    return lambda run: write_config(run, load_config(Path(CONFIG), ["model.num_layers=3", *words]))


def table(run: RunDirectory) -> Path:
    return next(run.profile.rglob("*.csv"))


def broken(run: RunDirectory) -> None:
    shutil.copy(table(run), run.path / "kept")
    table(run).write_bytes(b"\xff\xfe")


def checked(words: str, steps: int = 4) -> object:
    """What a rehearsal that executes refuses."""
    config = load_config(Path("codegen_tiny"), ["data.seq_length=64", "devices=2", *words.split()])
    return check_executable(config, steps)


def phase(compiles: bool = False, executes: bool = False, **given: object) -> object:
    """What a rehearsal with these options refuses."""
    options = {**dict.fromkeys(("streams", "ranks", "target", "mesh", "steps", "taken")), **given}
    return rehearse._check_phase(SimpleNamespace(**options), compiles, executes)


def graph(at: Path, batch: object) -> object:
    return with_graph(load_config(Path("codegeex_13b_pipeline"), [f"training.global_batch={batch}"]))


def sent(at: Path, folder: str = "") -> None:
    FileCommunicator(at / folder, 0).send("m", np.ones(1), [1])


meshes = partial(each, parse_mesh)
same = lambda run: None  # noqa: E731


def contact(at: Path, words: str) -> object:
    """What a first contact refuses."""
    tiny = ["data.seq_length=64", "parallel.hardware=ascend910b", *words.split()]
    return contact_config(load_config(Path("codegen_tiny"), tiny), at)


CLUSTERS: dict[str, Situation | tuple[Situation, ...]] = {
    "leave it out, or --inference": lines(f"{PLAN} @", "--inference --explain", "--inference", "--explain"),
    "add it": (
        lines(f"{PLAN} --streams 2@", "", " --inference"),
        lines(f"{PLAN} --write {{at}}/p.yaml@", "", " --search"),
        tried(f"{PLAN} --write-hardware {{at}}/mine.yaml", (made, f"{MEASURED} --write-hardware {{at}}/mine.yaml")),
    ),
    "add it (a plan shows both figures)": lines(f"{PLAN}@", " --overlap", " --overlap --search", ""),
    "add it, or set data.seq_length=N for training": lines(
        f"{PLAN} @", "--context 512", "--context 512 --inference", "data.seq_length=512"
    ),
    "give a number in between": lines(f"{PLAN} --inference --context @", 9999, 2048),
    "choose another file": lines(f"{PLAN} --plot {{at}}/@", "none/p.png", "p.png"),
    "choose another": (
        tried(SEARCH, f"{SEARCH}/p.yaml"),
        tried((made, f"{MEASURED} --write-hardware {{at}}/mine.txt"), f"{MEASURED} --write-hardware {{at}}/mine.yaml"),
    ),
    "choose another name, or delete it": tried(
        ({"p.yaml": ""}, f"{SEARCH}/p.yaml"), f"{SEARCH}/q.yaml", (lambda at: (at / "p.yaml").unlink(), AGAIN)
    ),
    "create it, or choose another file": tried(
        f"{SEARCH}/none/p.yaml", f"{SEARCH}/p.yaml", (lambda at: (at / "none").mkdir(), AGAIN)
    ),
    "name a run on the accelerator that is planned for": after(on("device=cpu", "training.precision=fp32"), on()),
    "train a few more steps": after(lambda run: steps(run, True), steps),
    "copy it again, or move it away to plan without it": (
        after(broken, lambda run: table(run).unlink()),
        after(broken, lambda run: shutil.copy(run.path / "kept", table(run))),
    ),
    "name a run like the plan, or set the plan's {}": (
        after(on("training.precision=bf16"), same, "training.precision=bf16"),
        after(on("training.precision=bf16"), on()),
    ),
    "set parallel.hardware to a chip, or leave --measured out": tried(
        (
            *(made, f"{MEASURED} --write-hardware {{at}}/mine.yaml"),
            f"{MEASURED} parallel.hardware={{at}}/mine.yaml",
        ),
        f"{MEASURED} parallel.hardware=ascend910b",
        f"{PLAN} parallel.hardware={{at}}/mine.yaml",
    ),
    "or add --search, which chooses the mesh for {} devices": lines(f"{PLAN} --devices 24@", "", " --search"),
    "set training.global_batch={}, which is parted among several graphs": tried(
        lambda at: graph(at, 48 * 8 * 997), Said(r"global_batch=(\d+)", graph)
    ),
    "give --devices N": each(lambda word: without_mesh(Path(CONFIG), [word]), "devices=null", "devices=32"),
    "{} of search": tried(f"{PLAN} parallel.tensor=3", PLAN),
    "leave one of the two out": each(
        phase, {"mesh": "data=2", "compiles": True}, {"mesh": "data=2", "executes": True}, {"compiles": True}
    ),
    "{} of rehearse": each(
        phase, {"streams": True, "compiles": True}, {"streams": True, "target": "ascend", "compiles": True}
    ),
    "expected distinct, all, or numbers from 0 to {}": each(
        lambda text: rehearse._ranks(text, 2), "7", "distinct", "all", "0,1"
    ),
    "give 4 or more": each(checked, ("", 2), ("", 4)),
    "choose a smaller mesh, for example --mesh data=2,tensor=2": each(
        check_memory, Mesh(1 << 20, 1), parse_mesh("data=2,tensor=2")
    ),
    "the folder must exist, be empty at the start and allow hard links": tried(
        lambda at: sent(at, "none"), (lambda at: (at / "none").mkdir(), AGAIN)
    ),
    "rank {} waited {} s for message {} from rank {}, which has ended, hangs or never sends it": tried(
        lambda at: FileCommunicator(at, 1, seconds=0).receive("m", 0), (sent, AGAIN)
    ),
    "give --devices N or a parallel.* key above 1, or --compile alone": each(
        checked, "devices=1", "devices=2", "parallel.data=2"
    ),
    "expected axis=size like data=2,tensor=2,pipeline=1": meshes("data", "data=2,tensor=2,pipeline=1"),
    "give 1 or more": meshes("data=0,tensor=2", "data=1,tensor=2"),
    "keep one": meshes("data=2,data=2", "data=2"),
    "give an axis above 1, for example --mesh data=2": meshes("data=1", "data=2"),
    "set device=ascend, whose plugin this starts": of_each(contact, "device=cpu", "device=ascend"),
    "give model.weights=DIR": of_each(
        contact, "device=ascend lora.rank=2", "device=ascend lora.rank=2 model.weights=run"
    ),
}


CLUSTERS_UNTRIED = {
    "give less, or leave it out": "starts the workers of a first contact",
    "give another one, such as output={}-2": "a whole ladder; carried out in first_run/test_ladder.py",
    "add device=cpu to try it here": "a whole ladder; carried out in first_run/test_ladder.py",
    "climb these first, on one server, without --nodes and --rank-table": "needs two servers",
    "`ms-codegeex doctor` says what is missing": "needs a device that MindSpore cannot use",
    "set device to ascend or gpu": "a rehearsal that compiles; carried out in commands/test_command_rehearse.py",
    "run `pip install ziglang`": "installs a package",
    "run `pip install ziglang` and take this compiler off PATH, or repair it": "installs a package",
    # what only an error of a rehearsal's own can cause, said for a report
    **dict.fromkeys(
        (
            "rank {} receives {} {} from rank {}, which sends {} {}",
            "rank {} holds {}, its layout says {}",
            "it knows {} of one tensor",
            "the graph calls itself, so its operators cannot be counted",
            "the graph must be this rank's, compiled under semi_auto_parallel",
            "no streams were assigned ({})",
            "{} of operators",
            "{} of execution_program",
            "{} is not one of the {} ranks 0 to {}",
        ),
        "no mistake of a user's",
    ),
}
