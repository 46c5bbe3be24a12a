"""A run directory written by hand, so every figure is known."""

import json

from conftest import small_run

from ms_codegeex.config.rules import build_run_config
from ms_codegeex.runs.files.resolved_config import write_config
from ms_codegeex.runs.files.run_directory import RunDirectory

BEGIN = 1_800_000_000.0


def write_run(directory, dataset, *, ended=True):
    """Attempt 1: steps 1 to 6, killed; attempt 2: steps 5 to 10 with a fault in step 7, within 100 s in all."""
    run = RunDirectory(directory)
    run.logs.mkdir(parents=True)
    values = small_run(dataset, directory)
    values["training"]["steps"] = 10
    write_config(run, build_run_config(values))
    lines = []
    for attempt, steps in ((1, range(1, 7)), (2, range(5, 11))):
        for step in steps:
            line = {
                "attempt": attempt,
                "step": step,
                "loss": 5 - step / 10,
                "validation_loss": None,
                "skipped": step == 7,
            }
            line |= {"learning_rate": 1e-3, "gradient_norm": 1.0, "tokens_per_second": 50.0, "memory_bytes": 10**9}
            lines.append(line | {"step_seconds": 30.0 if step in (1, 5) else 4.0, "compiling": step in (1, 5)})
    run.log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    fault = {"kind": "spike", "policy": "skip", "samples": [24, 28], "loss": 9.5, "gradient_norm": None, "step": 7}
    events = [
        {"event": "start", "time": BEGIN, "attempt": 1, "step": 0, "changed": []},
        {"event": "saved", "time": BEGIN + 35, "step": 4},
        {"event": "start", "time": BEGIN + 50, "attempt": 2, "step": 4, "changed": []},
        {"event": "fault", "time": BEGIN + 80, **fault},
    ]
    if ended:
        events.append({"event": "end", "time": BEGIN + 100, "step": 10, "reason": "failed", "message": "<b>rank 1"})
    run.events.write_text("".join(json.dumps(event) + "\n" for event in events))
    return run
