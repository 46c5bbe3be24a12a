"""The timeline's scheduling against ranks that really run: executed rehearsals on CPU processes, two ranks each.

    python benchmarks/timeline.py                  # tensor 2, and pipeline 2 with 4 micro-batches: about five minutes
    python benchmarks/timeline.py --rounds 3 --steps 2 --meshes tensor=2

A rehearsal of the 13B's recipe is shrunk to a mesh and exported as `rehearse --execute` does. Each round trains some
steps on both ranks, and one more step with the engine's profiler, which gives the time of every operator. The timeline
then predicts the same steps: the operators of the partitioned graph, as they were before files replaced communication,
list-scheduled on one thread for each rank, with the measured time of each kind of operator and of message. Compared are
the order of messages on each rank, when each message ends within a step, and the wall clock of a round.

Times of a position in the graph are medians over rounds; all positions of a kind together give its time for a FLOP of a
matmul, or for a byte that it moves. "other mesh": the operators' times come from the other mesh, so only those of
messages are the run's own.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from common import ROOT, print_command, spread, versions

sys.path.insert(0, str(ROOT))

from host_tasks import HostCosts, host_tasks, repeated, work

from ms_codegeex.base.files import write_json
from ms_codegeex.base.reading import read_json
from ms_codegeex.config.loading import load_config
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.config.validation import validated
from ms_codegeex.extras.cluster.rehearsal.job import SINGLE_THREAD, RehearsalJob, batches, local_rows
from ms_codegeex.extras.cluster.rehearsal.mindir import POINT_TO_POINT
from ms_codegeex.extras.cluster.rehearsal.shrink import parse_mesh, shrunk
from ms_codegeex.extras.cluster.rehearsal.stubs import simulation_environment
from ms_codegeex.extras.cluster.rehearsal.timeline.operators import StepProgram
from ms_codegeex.extras.cluster.rehearsal.timeline.tasks import simulate

MESHES = ("tensor=2", "pipeline=2")
BATCHES = 4  # different ones, in turns
WARM_UP = 3  # steps: the first compiles, the next ones allocate
WAIT = 600.0
TINY = 1e-6
PROFILER = {"MS_ENABLE_RUNTIME_PROFILER": "1"}  # records only what is between its start and its end
KERNEL = re.compile(r"event:KernelLaunch, op:(\w+), start_time:(\d+), end_time:(\d+)")


def prepare(folder: Path, mesh: str, micro_batches: int, hidden: int, positions: int) -> RehearsalJob:
    """Export the graphs of both ranks into `folder`, with their operators; with a pipeline, of `micro_batches`."""
    config = load_config(ROOT / "configs" / "codegeex_13b.yaml", ["training.precision=fp32"])
    values = shrunk(config, parse_mesh(mesh)).to_dict()
    values["model"].update(hidden_size=hidden, intermediate_size=4 * hidden, vocab_size=16 * hidden)
    values["model"].update(max_position_embeddings=positions)
    values["data"]["seq_length"] = positions
    if values["parallel"]["pipeline"] > 1:
        values["training"]["global_batch"] = values["training"]["micro_batch"] * micro_batches
    # steps that move the weights much end in numbers too small for a CPU's fast arithmetic, and become slower
    values["training"]["schedule"].update(learning_rate=TINY, end_learning_rate=TINY)
    job = RehearsalJob(folder, build_run_config(values), BATCHES)
    job.messages.mkdir(parents=True)
    job.write()
    world = job.config.mesh.world
    run_all([("--export", str(rank), simulation_environment(rank, world)) for rank in range(world)], folder, together=1)
    return job


def run_all(processes: Iterable[tuple[str, str, dict[str, str]]], folder: Path, together: int, *more: str) -> None:
    """Run this file for ranks, some at a time."""
    waiting, running = list(processes), []
    while waiting or running:
        while waiting and len(running) < together:
            option, rank, environment = waiting.pop(0)
            scratch = folder / f"scratch_{rank}"
            scratch.mkdir(exist_ok=True)
            words = [sys.executable, str(Path(__file__).resolve()), option, str(folder), rank, *more]
            environment = {**os.environ, **SINGLE_THREAD, "PYTHONPATH": str(ROOT), "GLOG_v": "3", **environment}
            with open(folder / f"{option[2:]}_{rank}.log", "wb") as log:
                running.append(subprocess.Popen(words, cwd=scratch, env=environment, stdout=log, stderr=log))
        time.sleep(0.1)
        for process in [x for x in running if x.poll() is not None]:
            running.remove(process)
            if process.returncode:
                for other in running:
                    other.kill()
                option, _, rank = process.args[2:5]
                last = (folder / f"{option[2:]}_{rank}.log").read_text()[-2000:]
                raise SystemExit(f"{option} of rank {rank} failed: {last}")


def export(folder: Path, rank: int) -> None:
    """Write a rank's graph for execution, and its operators as they were partitioned. In a simulated cluster."""
    from ms_codegeex.extras.cluster.rehearsal import callbacks, execution_program, mindir
    from ms_codegeex.extras.cluster.rehearsal.timeline.flatten import flatten

    job = RehearsalJob.read(folder)
    cell = execution_program.partitioned_step(job.config, rank)
    full = {p.name: p.asnumpy().copy() for p in cell.get_parameters()}
    cell.compile(*[execution_program.Tensor(local_rows(job.config, rank, a[0])) for a in batches(job.config, 1)])
    model = mindir.parse(execution_program.exported(cell))
    program = flatten(model, rank, job.config.mesh.coordinates(rank)[0])
    write_json(job.file("operators.json", rank), asdict(program))
    collectives = [execution_program.asdict(c) for c in mindir.collectives(model, rank)]
    windows = execution_program.fill(model, cell.parameter_layout_dict, full, job.config, rank)
    write_json(job.file("json", rank), {"collectives": collectives, "windows": windows})
    mindir.rewrite(model, callbacks.library())
    job.file("mindir", rank).write_bytes(model.SerializeToString())


def train(folder: Path, rank: int, rounds: int, steps: int) -> None:
    """Train in rounds of `steps` and one with the profiler; write what happened when."""
    from mindspore import Tensor, _c_expression, nn

    from ms_codegeex.extras.cluster.rehearsal import callbacks, execution_program, mindir
    from ms_codegeex.extras.cluster.rehearsal.communicator import FileCommunicator

    job = RehearsalJob.read(folder)
    execution_program.ms.set_context(mode=execution_program.ms.GRAPH_MODE)
    execution_program.ms.set_device("CPU")
    execution_program.ms.set_context(inter_op_parallel_num=1, runtime_num_threads=1)
    log: list[tuple[str, str, float, float]] = []
    communicator = FileCommunicator(job.messages, rank, WAIT)
    nodes = [validated(mindir.CollectiveNode, x) for x in read_json(job.file("json", rank))["collectives"]]
    communicator._run = _logged(communicator._run, log)
    called = callbacks.Callbacks(communicator.functions(nodes))
    network = nn.GraphCell(execution_program.ms.load(str(job.file("mindir", rank))))
    held = {mindir.parameter_name(name): p for name, p in network.parameters_dict().items()}
    data, number = batches(job.config, job.steps), 0

    def step() -> None:
        nonlocal number
        rows = [Tensor(local_rows(job.config, rank, a[number % job.steps])) for a in data]
        with called.errors():
            network(*rows).asnumpy()
        number += 1

    def meet(name: str) -> None:
        others = [x for x in range(job.config.mesh.world) if x != rank]
        communicator.send(name, execution_program.np.zeros(1), others)
        for other in others:
            communicator.receive(name, other)

    execution_program._set_probes(held, job, 0, overflows=False)
    for _ in range(WARM_UP):
        step()
    found = []
    for turn in range(rounds):
        meet(f"round-{turn}")
        log.clear()
        ends, began = [], time.monotonic()
        for _ in range(steps):
            step()
            ends.append((time.monotonic(), len(log)))
        messages = list(log)
        log.clear()
        _c_expression._framework_profiler_enable_mi()
        meet(f"profiled-{turn}")
        clock = time.time_ns()
        _c_expression._framework_profiler_step_start()
        step()
        after = time.time_ns()
        _c_expression._framework_profiler_step_end()
        _c_expression._framework_profiler_clear()
        _c_expression._framework_profiler_disable_mi()
        kernels = _profiled(Path.cwd())
        found.append(
            {
                "began": began,
                "ends": ends,
                "messages": messages,
                "profiled_messages": list(log),
                "kernels": kernels,
                "outside": (after - clock) / 1e9 - (kernels[-1][2] - kernels[0][1]),
            }
        )
    write_json(folder / f"found_{rank}.json", found)


def _logged(run: Callable, log: list[tuple[str, str, float, float]]) -> Callable:
    """The communicator's function, which also notes what it exchanged and when."""

    def logged(collective: Any, value: Any) -> Any:
        began = time.monotonic()
        result = run(collective, value)
        log.append((collective.op, collective.name, began, time.monotonic()))
        return result

    return logged


def _profiled(folder: Path) -> list[tuple[str, float, float]]:
    """Kind, start and end in seconds of every operator of the profiled step, in order; removes the files."""
    files = list(folder.rglob("RuntimeProfiler*"))
    (detail,) = (file for file in files if "Detail" in file.name)
    text = detail.read_text()
    for file in files:
        file.unlink()
    listed = [(op, int(start) / 1e9, int(end) / 1e9) for op, start, end in KERNEL.findall(text)]
    origin = min(start for _, start, _ in listed)
    return sorted(((op, start - origin, end - origin) for op, start, end in listed), key=lambda x: x[1])


def per_position(rounds: Sequence[Sequence[float]]) -> list[float]:
    """The median over rounds of each position."""
    return [statistics.median(values) for values in zip(*rounds, strict=True)]


class Measured:
    """What the rounds of one mesh showed."""

    def __init__(self, job: RehearsalJob, steps: int):
        ranks = range(job.config.mesh.world)
        self.steps = steps
        self.programs = [validated(StepProgram, read_json(job.file("operators.json", rank))) for rank in ranks]
        self.found = [read_json(job.directory / f"found_{rank}.json") for rank in ranks]

    @property
    def seconds(self) -> list[float]:
        """Wall clock of each round of all ranks."""
        turns = list(zip(*self.found, strict=True))
        return [max(x["ends"][-1][0] for x in turn) - min(x["began"] for x in turn) for turn in turns]

    def messages(self, rank: int) -> list[list[tuple[str, str, float, float]]]:
        """Those of each step of each round."""
        listed = []
        for turn in self.found[rank]:
            ends = [0, *(count for _, count in turn["ends"])]
            listed += [turn["messages"][start:end] for start, end in pairwise(ends)]
        return listed

    def operators(self) -> tuple[dict[str, float], float]:
        """Seconds of a unit of work by kind, and what each operator takes in addition: launches, and kinds that only
        the engine's CPU back end has. Over all ranks; what the back end removes counts as work that takes no time."""
        totals, amounts, rest, count = defaultdict(float), defaultdict(float), 0.0, 0
        for program, found in zip(self.programs, self.found, strict=True):
            listed = [x["kernels"] for x in found]
            lasting = per_position([[end - start for _, start, end in step] for step in listed])
            between = per_position([[b[1] - a[2] for a, b in pairwise(step)] for step in listed])
            known = {x.op for x in program.operators if x.message is None}
            rest += sum(max(0.0, x) for x in between)
            for (op, _, _), seconds in zip(listed[0], lasting, strict=True):
                if op == "Custom":
                    continue
                if op in known:
                    totals[op] += seconds
                else:
                    rest += seconds
            for operator in program.operators:
                if operator.message is None and not operator.alias:
                    amounts[operator.op] += work(operator)
                    count += 1
        return {op: totals[op] / amount for op, amount in amounts.items() if amount}, rest / count

    def message_costs(self) -> dict[str, float]:
        """Seconds of a message by its kind: after all ranks have arrived, plus what a call of Python adds."""
        lasting = defaultdict(lambda: defaultdict(list))
        steps = [self.messages(rank) for rank in range(len(self.found))]
        for step in zip(*steps, strict=True):
            seen: dict[tuple, int] = defaultdict(int)
            places: dict[tuple, list[tuple[str, float, float]]] = defaultdict(list)
            for rank, listed in enumerate(step):
                for op, _, start, end in listed:
                    key = (op in POINT_TO_POINT, rank if op == "Send" else 1 - rank if op == "Receive" else op)
                    number = seen[rank, op]
                    seen[rank, op] += 1
                    places[(*key, number)].append((op, start, end))
            for place, found in places.items():
                arrived = max(start for op, start, _ in found if op != "Send") if len(found) > 1 else 0.0
                sent = max((end for op, _, end in found if op == "Send"), default=0.0)
                for op, start, end in found:
                    since = start if op == "Send" else max(arrived, sent)
                    lasting[op][place].append(max(0.0, end - since))
        added = self._call()
        return {op: added + statistics.fmean(map(statistics.median, x.values())) for op, x in lasting.items()}

    def _call(self) -> float:
        """Seconds that the engine's call of a Python function takes beyond the function."""
        more = []
        for found in self.found:
            for turn in found:
                kernels = [end - start for op, start, end in turn["kernels"] if op == "Custom"]
                inside = [end - start for _, _, start, end in turn["profiled_messages"]]
                more += [a - b for a, b in zip(kernels, inside, strict=True)]
        return max(0.0, statistics.median(more))

    def costs(self, operators: Measured) -> HostCosts:
        """Costs with the operators' times of `operators`."""
        kinds, launch = operators.operators()
        outside = statistics.median(turn["outside"] for found in self.found for turn in found)
        return HostCosts(kinds, launch, self.message_costs(), outside)


def prediction(measured: Measured, costs: HostCosts, *, in_order: bool) -> tuple[float, list[list[tuple[str, float]]]]:
    """Seconds of a round, and for each rank its messages in order, with their ends in one step."""
    once = [host_tasks(program, costs, in_order=in_order) for program in measured.programs]
    spans = simulate([repeated(tasks, measured.steps, costs) for tasks in once])
    total = max(span.end for rank in spans for span in rank)
    listed = []
    for tasks, rank in zip(once, simulate(once), strict=True):
        ends = [(x.start, x.end, task.name) for task, x in zip(tasks, rank, strict=True) if task.kind]
        listed.append([(name, end) for _, end, name in sorted(ends, key=lambda x: x[:2])])
    return total, listed


def observed(measured: Measured, rank: int) -> list[tuple[str, float]]:
    """Messages of a rank in order, with their ends in a step (median): from the end of the step before, without what
    the step takes outside its operators."""
    steps = measured.messages(rank)
    names = [[f"{op} {name}" for op, name, _, _ in step] for step in steps]
    if any(x != names[0] for x in names):
        raise SystemExit(f"rank {rank}: the order of messages differs between steps")
    ends = []
    for turn in measured.found[rank]:
        times, counts = [turn["began"], *(x for x, _ in turn["ends"])], [0, *(x for _, x in turn["ends"])]
        for begun, (first, last) in zip(times, pairwise(counts), strict=False):
            ends.append([end - begun for _, _, _, end in turn["messages"][first:last]])
    return list(zip(names[0], per_position(ends), strict=True))


def compare(name: str, measured: Measured, costs: HostCosts) -> bool:
    """Print the errors; returns whether the order of messages is as predicted."""
    seen = [observed(measured, rank) for rank in range(len(measured.programs))]
    equal = True
    for label, in_order in (("list-scheduled", False), ("in the graph's order", True)):
        total, listed = prediction(measured, costs, in_order=in_order)
        same = [[x for x, _ in a] == [x for x, _ in b] for a, b in zip(listed, seen, strict=True)]
        real = statistics.median(measured.seconds)
        step = real / measured.steps
        off = [
            abs(end + costs.step - mine[1]) / step
            for a, b in zip(listed, seen, strict=True)
            for (_, end), mine in zip(a, b, strict=True)
        ]
        print(
            f"  {name}, {label}: {total:.4f} s, {total / real - 1:+.1%}; order of messages "
            f"{'equal' if all(same) else 'DIFFERENT'} on {sum(same)} of {len(same)} ranks; ends of messages off by "
            f"{statistics.median(off):.1%} of a step (median), {max(off):.1%} (most)",
            flush=True,
        )
        equal &= all(same)
    return equal


def main() -> int:
    """All meshes; exit status 1 if a message is not in the order that was predicted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--meshes", nargs="+", default=MESHES, help="of two ranks each")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=5, help="of a round")
    parser.add_argument("--micro-batches", type=int, default=4, help="of a pipeline")
    parser.add_argument("--hidden", type=int, default=256, help="columns of the model")
    parser.add_argument("--positions", type=int, default=256)
    parser.add_argument("--export", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--train", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.export:
        export(Path(arguments.export[0]), int(arguments.export[1]))
        return 0
    if arguments.train:
        train(Path(arguments.train[0]), *map(int, arguments.train[1:]))
        return 0
    print_command()
    print(versions("mindspore"))
    with tempfile.TemporaryDirectory(prefix="ms-codegeex-timeline-") as name:
        sizes = (arguments.micro_batches, arguments.hidden, arguments.positions)
        jobs = {mesh: prepare(Path(name) / mesh.replace(",", "_"), mesh, *sizes) for mesh in arguments.meshes}
        everything = {}
        for mesh, job in jobs.items():
            ranks = [("--train", str(rank), PROFILER) for rank in range(job.config.mesh.world)]
            run_all(ranks, job.directory, len(ranks), str(arguments.rounds), str(arguments.steps))
            everything[mesh] = Measured(job, arguments.steps)
        equal = True
        for mesh, measured in everything.items():
            others = [x for key, x in everything.items() if key != mesh]
            equal &= report(mesh, jobs[mesh], measured, others[0] if others else None)
    return 0 if equal else 1


def report(mesh: str, job: RehearsalJob, measured: Measured, other: Measured | None) -> bool:
    """Everything about one mesh; returns whether the order is as predicted."""
    costs = measured.costs(measured)
    counts = [sum(bool(x.message) for x in program.operators) for program in measured.programs]
    print(
        f"\n{mesh}: {len(measured.programs)} ranks, {job.config.accumulation} micro-batches, "
        f"{len(measured.programs[0].operators):,} operators and {counts[0]} messages on the first rank"
    )
    messages = ", ".join(f"{op} {1e3 * x:.2f}" for op, x in sorted(costs.messages.items()))
    print(f"  a round of {measured.steps} steps takes {spread(measured.seconds)} s; messages, ms: {messages}")
    equal = compare("own times", measured, costs)
    alone = replace(costs, messages=dict.fromkeys(costs.messages, 0.0))
    print(f"  (with messages that take no time: {prediction(measured, alone, in_order=False)[0]:.4f} s)")
    if other:
        equal &= compare("operators' times of the other mesh", measured, measured.costs(other))
    return equal


if __name__ == "__main__":
    sys.exit(main())
