"""A benchmark without models and programs: the answer to "double N" is twice N, and no sandbox is used."""

import threading
from collections.abc import Mapping
from pathlib import Path

from ms_codegeex.extras.evaluation.jsonl import RowFile
from ms_codegeex.extras.evaluation.sampling.drawing import generate
from ms_codegeex.extras.evaluation.sandbox import Sandbox, Verdict
from ms_codegeex.extras.evaluation.task import Judgement, Problem, Sample, SampledAnswer, Task, TextSource


class Doubling(Task):
    """`judged` records every program that was judged."""

    name = "doubling"

    def __init__(self, problems: int = 3, defects: Mapping[str, str] | None = None):
        languages = ("python", "cpp")
        self.problems = [Problem(f"{x}/{i}", {"language": x}, i) for x in languages for i in range(problems)]
        self.defects, self.judged, self.lock = dict(defects or {}), list[tuple[str, str]](), threading.Lock()
        self.lacking: dict[str, str] = {}
        self.broken: set[str] = set()  # languages, or problems, whose references fail

    def produce(self, problem: Problem, completion_id: int, seed: int, complete: TextSource) -> Sample:
        prompt = f"double {problem.data}"
        completion = complete(prompt, seed=seed)
        return Sample(problem.id, completion_id, prompt, completion.text.strip(), completion.finish)

    def judge(self, problem: Problem, sample: Sample, sandbox: Sandbox) -> Judgement:
        with self.lock:
            self.judged.append((problem.id, sample.generation))
        right = sample.generation == str(2 * problem.data)
        right = right and not (sample.finish == "reference" and self.broken & {problem.id, problem.labels["language"]})
        strict = Verdict.PASSED if right else Verdict.WRONG
        verdicts = {"strict": strict, "published": Verdict.PASSED if sample.generation else Verdict.ERROR}
        return Judgement(problem.id, sample.completion_id, verdicts, 0.25, 0, "<b>stderr</b>")

    def reference(self, problem: Problem) -> Sample | None:
        return Sample(problem.id, 0, "", str(2 * problem.data + (problem.id in self.defects)), "reference")

    def known_defects(self) -> Mapping[str, str]:
        return self.defects

    def missing(self) -> Mapping[str, str]:
        return self.lacking


class Seeded:
    """A model that answers from the seed alone; it is right in about half of the cases."""

    def __init__(self, concurrency: int = 1, limit: int | None = None):
        self.identity = {"path": "seeded", "sha256": "5eed"}
        self.concurrency, self.limit, self.calls = concurrency, limit, list[tuple[str, int]]()

    def __call__(self, prompt: str, *, seed: int, stop=None, max_new_tokens=None) -> SampledAnswer:
        if self.limit is not None and len(self.calls) >= self.limit:
            raise KeyboardInterrupt
        self.calls.append((prompt, seed))
        return SampledAnswer(f" {2 * int(prompt.split()[1]) + (seed % 4 - 1) * (seed & 1)}", "eos")


def samples_of(path: Path, sampler: Seeded, task: Doubling | None = None, n: int = 4, seed: int = 1) -> bytes:
    task = task or Doubling()
    generate(task, task.problems, n, seed, sampler, RowFile(path), progress=False)
    return path.read_bytes()
