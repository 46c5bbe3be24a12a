"""Situations in which an error of `extras/cluster/` says what to do, and what a user then does."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from remedies_of_corpora import command, failing
from remedies_of_data import Call, Situation, instead, run

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


def made(at: Path) -> RunDirectory:
    """A run on the 910B with two steps and a table of kernels."""
    run = RunDirectory(at / "run")
    kernels = run.profile / "rank_0" / "ASCEND_PROFILER_OUTPUT" / "kernel_details.csv"
    kernels.parent.mkdir(parents=True)
    kernels.write_text("Type,Duration(us)\nMul,100.5\n")
    on()(run)
    steps(run)
    return run


def after(spoil: Callable[[RunDirectory], object], mend: Callable[[RunDirectory], str]) -> Situation:
    """`plan --measured` of a run on the 910B that `spoil` changes; `mend`: what the user does, and then adds."""

    def situation(at: Path) -> Iterator[Call]:
        it = made(at)
        spoil(it)
        yield failing(f"{PLAN} --measured {it.path}")
        yield failing(f"{PLAN} --measured {it.path} {mend(it)}")

    return situation


def steps(run: RunDirectory, compiling: bool = False) -> str:
    """Log two steps."""
    run.log.write_text(
        "".join(json.dumps({"step": n, "step_seconds": 30.0, "compiling": compiling}) + "\n" for n in (2, 3))
    )
    return ""


def on(*words: str) -> Callable[[RunDirectory], object]:
    """The run has other settings."""
    return lambda run: write_config(run, load_config(Path(CONFIG), ["model.num_layers=3", *words]))


def of_a_broken_table(move: bool) -> Situation:
    def broken(run: RunDirectory) -> object:
        (table,) = run.profile.rglob("*.csv")
        shutil.copy(table, run.path / "kept")
        return table.write_bytes(b"\xff\xfe")

    def mended(run: RunDirectory) -> str:
        (table,) = run.profile.rglob("*.csv")
        table.unlink() if move else shutil.copy(run.path / "kept", table)
        return ""

    return after(broken, mended)


def checked(*words: str, steps: int = 4) -> object:
    """What a rehearsal that executes refuses."""
    return check_executable(load_config(Path("codegen_tiny"), ["data.seq_length=64", "devices=2", *words]), steps)


def phase(compiles: bool = False, executes: bool = False, **given: object) -> Callable[[Path], object]:
    """What a rehearsal with these options refuses."""
    options = {**dict.fromkeys(("streams", "ranks", "target", "mesh", "steps", "taken")), **given}
    return lambda at: rehearse._check_phase(SimpleNamespace(**options), compiles, executes)


def of_a_folder_of_messages(at: Path) -> Iterator[Call]:
    sender = FileCommunicator(at / "none", 0)
    yield lambda: sender.send("m", np.ones(1), [1])
    (at / "none").mkdir()


def of_a_late_message(at: Path) -> Iterator[Call]:
    yield lambda: FileCommunicator(at, 1, seconds=0).receive("m", 0)
    FileCommunicator(at, 0).send("m", np.ones(1), [1])


def contact(*words: str) -> Callable[[Path], object]:
    """What a first contact refuses."""
    tiny = ["data.seq_length=64", "parallel.hardware=ascend910b", *words]
    return lambda at: contact_config(load_config(Path("codegen_tiny"), tiny), at)


def mesh(*texts: str) -> Situation:
    return instead(*[lambda at, text=text: parse_mesh(text) for text in texts])


def of_a_plan_there(at: Path) -> Iterator[Call]:
    (at / "p.yaml").touch()
    yield failing(f"{PLAN} --search --write {at}/p.yaml")
    yield failing(f"{PLAN} --search --write {at}/q.yaml")
    (at / "p.yaml").unlink()
    yield failing(f"{PLAN} --search --write {at}/p.yaml")


def of_no_folder(at: Path) -> Iterator[Call]:
    yield failing(f"{PLAN} --search --write {at}/none/p.yaml")
    yield failing(f"{PLAN} --search --write {at}/p.yaml")
    (at / "none").mkdir()
    yield failing(f"{PLAN} --search --write {at}/none/p.yaml")


def of_a_factor_twice(at: Path) -> Iterator[Call]:
    """A hardware file that was measured, and the run again."""
    measured = f"plan --config {CONFIG} model.num_layers=3 --measured {made(at).path}"
    run(f"{measured} --write-hardware {at}/mine.yaml")
    yield failing(f"{measured} parallel.hardware={at}/mine.yaml")
    yield failing(f"{measured} parallel.hardware=ascend910b")
    yield failing(f"{PLAN} parallel.hardware={at}/mine.yaml")


def of_a_file_alone(at: Path) -> Iterator[Call]:
    yield failing(f"{PLAN} --write-hardware {at}/mine.yaml")
    yield failing(f"{PLAN} --write-hardware {at}/mine.yaml --measured {made(at).path}")


def of_another_ending(at: Path) -> Iterator[Call]:
    measured = f"{PLAN} --measured {made(at).path} --write-hardware {at}"
    yield failing(f"{measured}/mine.txt")
    yield failing(f"{measured}/mine.yaml")


def of_a_prime_number_of_micro_batches(at: Path) -> Iterator[Call]:
    def graph(batch: str) -> object:
        return with_graph(load_config(Path("codegeex_13b_pipeline"), [f"training.global_batch={batch}"]))

    said = yield partial(graph, f"{48 * 8 * 997}")
    yield partial(graph, re.search(r"global_batch=(\d+)", said)[1])


CLUSTERS: dict[str, Situation | tuple[Situation, ...]] = {
    # plan
    "leave it out, or --inference": command(
        f"{PLAN} --inference --explain", f"{PLAN} --inference", f"{PLAN} --explain"
    ),
    "add it": (
        command(f"{PLAN} --streams 2", f"{PLAN} --streams 2 --inference"),
        command(f"{PLAN} --write {{at}}/p.yaml", f"{PLAN} --write {{at}}/p.yaml --search"),
        of_a_file_alone,
    ),
    "add it (a plan shows both figures)": command(f"{PLAN} --overlap", f"{PLAN} --overlap --search", PLAN),
    "add it, or set data.seq_length=N for training": command(
        f"{PLAN} --context 512", f"{PLAN} --context 512 --inference", f"{PLAN} data.seq_length=512"
    ),
    "give a number in between": command(f"{PLAN} --inference --context 9999", f"{PLAN} --inference --context 2048"),
    "choose another file": command(f"{PLAN} --plot {{at}}/none/p.png", f"{PLAN} --plot {{at}}/p.png"),
    "choose another": (
        command(f"{PLAN} --search --write {{at}}", f"{PLAN} --search --write {{at}}/p.yaml"),
        of_another_ending,
    ),
    "choose another name, or delete it": of_a_plan_there,
    "create it, or choose another file": of_no_folder,
    "name a run on the accelerator that is planned for": after(
        on("device=cpu", "training.precision=fp32"), lambda run: on()(run) or ""
    ),
    "train a few more steps": after(lambda run: steps(run, True), steps),
    "copy it again, or move it away to plan without it": (of_a_broken_table(True), of_a_broken_table(False)),
    "name a run like the plan, or set the plan's {}": (
        after(on("training.precision=bf16"), lambda run: "training.precision=bf16"),
        after(on("training.precision=bf16"), lambda run: on()(run) or ""),
    ),
    "set parallel.hardware to a chip, or leave --measured out": of_a_factor_twice,
    "or add --search, which chooses the mesh for {} devices": command(
        f"{PLAN} --devices 24", f"{PLAN} --devices 24 --search"
    ),
    "set training.global_batch={}, which is parted among several graphs": of_a_prime_number_of_micro_batches,
    "give --devices N": instead(
        lambda at: without_mesh(Path(CONFIG), ["devices=null"]), lambda at: without_mesh(Path(CONFIG), ["devices=32"])
    ),
    "{} of search": command(f"{PLAN} parallel.tensor=3", PLAN),
    # rehearse
    "leave one of the two out": instead(
        phase(mesh="data=2", compiles=True), phase(mesh="data=2", executes=True), phase(compiles=True)
    ),
    "{} of rehearse": instead(phase(streams=True, compiles=True), phase(streams=True, target="ascend", compiles=True)),
    "expected distinct, all, or numbers from 0 to {}": instead(
        *(lambda at, text=text: rehearse._ranks(text, 2) for text in ("7", "distinct", "all", "0,1"))
    ),
    "give 4 or more": instead(lambda at: checked(steps=2), lambda at: checked(steps=4)),
    "choose a smaller mesh, for example --mesh data=2,tensor=2": instead(
        lambda at: check_memory(Mesh(1 << 20, 1)), lambda at: check_memory(parse_mesh("data=2,tensor=2"))
    ),
    "the folder must exist, be empty at the start and allow hard links": of_a_folder_of_messages,
    "rank {} waited {} s for message {} from rank {}, which has ended, hangs or never sends it": of_a_late_message,
    "give --devices N or a parallel.* key above 1, or --compile alone": instead(
        lambda at: checked("devices=1"), lambda at: checked("devices=2"), lambda at: checked("parallel.data=2")
    ),
    "expected axis=size like data=2,tensor=2,pipeline=1": mesh("data", "data=2,tensor=2,pipeline=1"),
    "give 1 or more": mesh("data=0,tensor=2", "data=1,tensor=2"),
    "keep one": mesh("data=2,data=2", "data=2"),
    "give an axis above 1, for example --mesh data=2": mesh("data=1", "data=2"),
    "set device=ascend, whose plugin this starts": instead(contact("device=cpu"), contact("device=ascend")),
    "give model.weights=DIR": instead(
        contact("device=ascend", "lora.rank=2"), contact("device=ascend", "lora.rank=2", "model.weights=run")
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
