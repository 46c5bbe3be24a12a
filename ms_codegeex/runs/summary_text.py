"""Print the end of a run: its losses, the model next to simpler ones, what to try next, and where the time went."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ms_codegeex.base.printing import print_coloured, print_out, visible
from ms_codegeex.config import RunConfig
from ms_codegeex.runs.files.run_directory import RunDirectory
from ms_codegeex.runs.run_end import SIMPLER_MODELS


def print_summary(summary: Mapping[str, Any], config: RunConfig) -> None:
    """Print the figures, the samples, the paths of artefacts, and what to try next."""
    run_directory = RunDirectory(Path(config.output))
    print_out("\n" + "\n".join([*losses(summary), *comparison(summary)]) + "\n")
    if summary["attempts"] > 1 and summary["goodput"] is not None:
        print_out(f"goodput {summary['goodput']:.0%} over {summary['attempts']} attempts\n")
    if summary["samples"]:
        print_coloured("\n".join(samples(summary, sys.stdout.isatty() and "NO_COLOR" not in os.environ)) + "\n")
    print_out("artefacts:")
    shown = {
        "checkpoint": summary["checkpoint"],
        "model directory": summary["huggingface"],
        "PyTorch file": summary["pytorch"],
        "adapter (PEFT)": run_directory.adapter,
        "log": run_directory.log,
        "loss curve": run_directory.plot,
        "summary": run_directory.summary,
    }
    for name, path in shown.items():
        if path is not None and Path(path).exists():
            print_out(f"  {name:<16} {path}")
    print_out(f"\n{time_line(summary['seconds'])}")
    if summary.get("last_seconds"):
        print_out(f"the last run with these settings here: {time_line(summary['last_seconds'])}")
    program = sys.argv[0] if Path(sys.argv[0]).name == "ms-codegeex" else "ms-codegeex"
    program = shlex.quote(os.path.relpath(program) if os.path.isabs(program) else program)
    run, file = shlex.quote(str(run_directory.path)), shlex.quote(str(run_directory.config))
    look = f"inspect {shlex.quote(summary['huggingface'])}" if summary["huggingface"] else f"checkpoint verify {run}"
    generate = f'generate --model {run} --language Python --prompt "import os"'
    use = f"chat --model {run}" if summary.get("chat") else generate
    again = f"train --config {file} --resume auto {longer(config, summary)}"
    print_out("\ntry next:" + "".join(f"\n  {program} {words}" for words in (use, look, again)))


def losses(summary: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines on the losses of the model that the run leaves, and what they mean."""
    entropy, loss, shuffled = (summary[k] for k in ("unigram_entropy", "validation_loss", "shuffled_context_loss"))
    steps, start = summary["steps"], summary.get("validation_loss_before")
    if summary.get("out_of_patience"):
        yield f"ended by training.patience at step {steps}, the best is step {summary['evaluated_step']}"
    kept = summary.get("evaluated_step", steps)  # missing in results of earlier versions
    if loss is None:
        yield f"{steps} steps; no validation loss: it is not finite"
        return
    if kept == 0 < steps:
        yield f"NO STEP WAS BETTER than the model that the run started from: after {steps} steps, that model is kept"
        yield f"  validation loss {loss:.3f} nats per token; try a lower training.schedule.learning_rate"
    else:
        of = f"after {steps} steps" if kept == steps else f"at step {kept}, the best of {steps}"
        yield f"validation loss {loss:.3f} nats per token {of}{'' if start is None else f', {start:.3f} before'}"
        if start is not None and loss > start:
            yield "  WORSE than the model that the run started from; try a lower training.schedule.learning_rate,"
            yield "  and training.patience, which keeps the best of all evaluations and of that model"
    gain = entropy - loss
    learnt = "the model is better" if gain > 0 else "the model is no better"
    yield f"  a table of token frequencies would have {entropy:.3f}, {_by(gain)}: {learnt}"
    if shuffled is None:
        return
    used = "so the context is used" if shuffled > loss else "so the context is not used"
    yield f"  with shuffled contexts the model has {shuffled:.3f}, {_by(shuffled - loss)}: {used}"


def _by(difference: float) -> str:
    return f"{abs(difference):.3f} {'more' if difference > 0 else 'less'}"


def comparison(summary: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines on bits per byte and on the samples that parse."""
    if summary.get("validation_bytes"):
        size = f"{summary['validation_bytes']:,} bytes of validation text"
        yield f"bits a byte of {size}, comparable between tokenizers:"
        tokens = f"{summary['ngram_tokens']:,}"
        for key, name in SIMPLER_MODELS.items():
            if summary[key] is not None:
                yield f"  {summary[key]:6.3f}  {name.format(tokens=tokens)}"
    if summary.get("parse_share") is not None:
        count = summary["parse_samples"]
        share = f"{round(summary['parse_share'] * count)} of {count} samples parse as Python"
        yield f"{share} (functions begun in held-out files, {summary['sampling']}, ended at a block)"


def samples(summary: Mapping[str, Any], coloured: bool) -> Iterator[str]:
    """Yield lines with the samples. `coloured`: what the model wrote is bold."""
    count, held_out = len(summary["samples"]), summary["parse_share"] is not None
    what = f"{'function' if held_out else 'prompt'}{'s' * (count > 1)}{' of held-out files' * held_out}"
    size = f"{summary['parameters'] / 1e6:,.1f}".removesuffix(".0")
    yield f"how this model of {size} million parameters continues {count} {what}{' (in bold)' if coloured else ''}:"
    for sample in summary["samples"]:
        yield ""
        yield from (f"  {line}" for line in visible(sample["prompt"]).splitlines())
        written = visible(sample["continuation"]).rstrip().splitlines()
        yield from (f"  \x1b[1m{line}\x1b[0m" if coloured else f"  {line}" for line in written)


def time_line(seconds: Mapping[str, float]) -> str:
    parts = ", ".join(f"{name} {value:.0f}" for name, value in seconds.items() if name != "total" and value >= 0.5)
    return f"time {seconds['total']:.0f} s{f': {parts}' if parts else ''}"


def longer(config: RunConfig, summary: Mapping[str, Any]) -> str:
    """Return the override with which the finished run continues."""
    tokens, patience = config.training.tokens, config.training.patience
    if patience and (summary["tokens"] < tokens if tokens else summary["steps"] < config.steps):
        return f"training.patience={2 * patience}"
    return f"training.tokens={2 * tokens}" if tokens else f"training.steps={2 * summary['steps']}"
