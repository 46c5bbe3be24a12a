"""Speed of the sandbox on HumanEval-X's canonical solutions, against the same programs without it.

    python benchmarks/evaluate.py --data benchmarks                          # Python, JavaScript, C++; 5 rounds
    python benchmarks/evaluate.py --data benchmarks --language java --all java --rounds 7
    python benchmarks/evaluate.py --data benchmarks --quick                  # to check that it works

- Programs per second: the same problems through the same judge, as many at once as there are cores, once in the sandbox
  and once as plain processes (in a separate directory, with the same commands, inputs and time limits). The two
  alternate; a ratio compares one round. A ratio of 1 means that the sandbox costs nothing.
- All references of one language: the time of the whole check, from opening the sandbox to the last verdict, divided by
  that of a perfect scheduler: the sum of all compile and run times, measured one after the other without a sandbox,
  divided by the number of cores.

Only canonical solutions run here. They are read from --data and run WITHOUT a sandbox: give the published files only.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from common import print_command, spread, versions

from ms_codegeex.extras.evaluation.benchmarks import humaneval_x
from ms_codegeex.extras.evaluation.sandbox import Command, End, Execution, Sandbox, Verdict, open_sandbox
from ms_codegeex.extras.evaluation.task import Problem, Task

SPEED_AIM, SCHEDULE_AIM = 0.5, 1.3
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}


class Bare(Sandbox):
    """Runs the same commands as plain processes."""

    def __init__(self) -> None:
        pass

    def run(
        self, commands: Sequence[Command], files: Mapping[str, bytes], readable: Mapping[str, Path] | None = None
    ) -> list[Execution]:
        """See `Sandbox.run`; nothing is isolated."""
        places = {name: str(path) for name, path in (readable or {}).items() if name != str(path)}
        with tempfile.TemporaryDirectory() as directory:
            places["/program"] = directory
            for name, content in files.items():
                path = Path(directory, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            executions: list[Execution] = []
            for command in commands:
                executions.append(plain(command, directory, places))
                if not executions[-1].succeeded:
                    break
            return executions


def plain(command: Command, directory: str, places: Mapping[str, str]) -> Execution:
    """One command."""

    def local(word: str) -> str:
        for name, path in places.items():
            word = path + word[len(name) :] if word == name or word.startswith(name + "/") else word
        return word

    words = [local(str(word)) for word in command.words]
    environment = {**ENVIRONMENT, "HOME": directory, "TMPDIR": directory, **command.environment}
    began = time.perf_counter()
    done = subprocess.run(
        words,
        cwd=directory,
        env={name: local(value) for name, value in environment.items()},
        input=command.stdin,
        capture_output=True,
        timeout=command.limits.wall,
    )
    seconds = time.perf_counter() - began
    end = End.EXITED if done.returncode >= 0 else End.SIGNALLED
    return Execution(end, done.returncode, seconds, done.stdout, done.stderr)


def judge_all(task: Task, problems: Sequence[Problem], sandbox: Sandbox, workers: int) -> tuple[float, list[Any]]:
    """Judge all references; the seconds and the judgements."""
    samples = [task.reference(problem) for problem in problems]
    began = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(lambda pair: task.judge(*pair, sandbox), zip(problems, samples, strict=True)))
    return time.perf_counter() - began, found


def passing(task: Task, sandbox: Sandbox, workers: int) -> list[Problem]:
    """The problems whose references pass; this also fills the caches."""
    _, found = judge_all(task, task.problems, sandbox, workers)
    good = {each.task_id for each in found if each.verdicts["strict"] is Verdict.PASSED}
    if not good:
        raise SystemExit(f"no reference passed; the first one's error: {found[0].stderr}")
    return [problem for problem in task.problems if problem.id in good]


def compare(task: Task, problems: Sequence[Problem], rounds: int, workers: int) -> None:
    """Measure programs per second, in alternating rounds."""
    sandbox, bare = open_sandbox(), Bare()
    inside, outside, ratios = [], [], []
    for number in range(rounds):
        order = (sandbox, bare) if number % 2 else (bare, sandbox)
        seconds = {}
        for each in order:
            seconds[each], found = judge_all(task, problems, each, workers)
            wrong = [one.task_id for one in found if one.verdicts["strict"] is not Verdict.PASSED]
            if wrong:
                raise SystemExit(f"{', '.join(wrong)} did not pass {'without' if each is bare else 'in'} the sandbox")
        inside.append(len(problems) / seconds[sandbox])
        outside.append(len(problems) / seconds[bare])
        ratios.append(seconds[bare] / seconds[sandbox])
    print(f"  sandbox          {spread(inside)} programs/s")
    print(f"  plain processes  {spread(outside)} programs/s")
    print(f"  sandbox / plain  {spread(ratios)}, aim at least {SPEED_AIM}")


def schedule(task: Task, problems: Sequence[Problem], rounds: int, workers: int) -> None:
    """Measure the whole check against the sum of its parts."""
    ratios, wholes, sums = [], [], []
    for _ in range(rounds):
        _, found = judge_all(task, problems, Bare(), 1)
        parts = sum(each.seconds for each in found)
        began = time.perf_counter()
        judge_all(task, problems, open_sandbox(), workers)
        wholes.append(time.perf_counter() - began)
        sums.append(parts)
        ratios.append(wholes[-1] / (parts / workers))
    print(f"  whole check                 {spread(wholes)} s")
    print(f"  sum of compiling + running  {spread(sums)} s, on {workers} cores")
    print(f"  whole / (sum / cores)       {spread(ratios)}, aim at most {SCHEDULE_AIM}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of the sandbox on HumanEval-X's canonical solutions.")
    parser.add_argument("--data", type=Path, required=True, help="directory with the published files")
    parser.add_argument("--language", nargs="+", default=["python", "js", "cpp"], help="(default: python js cpp)")
    parser.add_argument("--all", nargs="+", default=["python"], dest="whole", help="of which to time the whole check")
    parser.add_argument("--programs", type=int, default=32, help="programs of a language in a round (default: 32)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round of few programs, to check that it works")
    arguments = parser.parse_args()
    rounds, workers = 1 if arguments.quick else arguments.rounds, len(os.sched_getaffinity(0))
    print_command()
    print(versions(), end="\n\n")
    for language in dict.fromkeys([*arguments.language, *arguments.whole]):
        task = humaneval_x.build(arguments.data, [language])
        if language in task.missing():
            print(f"{language}: not on this machine; {task.missing()[language]}")
            continue
        print(f"{language}: {task.tools()[language]}")
        problems = task.problems[:8] if arguments.quick else None
        if problems is None:
            problems = passing(task, open_sandbox(), workers)
        if language in arguments.language:
            step = max(1, len(problems) // arguments.programs)
            compare(task, problems[::step][: arguments.programs], rounds, workers)
        if language in arguments.whole:
            schedule(task, problems, rounds, workers)


if __name__ == "__main__":
    main()
