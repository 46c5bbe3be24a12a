"""What `train` measures and prints once the last step has ended: the model beside simpler ones, its continuations, and
where the time went. The measurements are in `evaluation`, an extra; without it a run reports its validation loss."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.base.extras import extra
from ms_codegeex.base.printing import print_error
from ms_codegeex.config import RunConfig
from ms_codegeex.data.datasets.batches import read_info
from ms_codegeex.data.datasets.opening import training_data, validation_data
from ms_codegeex.data.tokenizer.recorded import checkpoint_has_tokenizer, checkpoint_tokenizer
from ms_codegeex.formats.checkpoint import Checkpoint
from ms_codegeex.runs.history import History

MODULE, PURPOSE = "evaluation.after_training", "the model beside simpler ones"
# of the summary, and how the end of a run names them
FIGURES = {
    "validation_bits_per_byte": "the model",
    "ngram_bits_per_byte": "a 5-gram (Kneser-Ney) on {tokens} of the tokens trained on",
    "gzip_bits_per_byte": "gzip -9 of the whole validation split",
    "byte_frequency_bits_per_byte": "frequencies of bytes in the same tokens",
}
UNKNOWN: Mapping[str, Any] = dict.fromkeys((*FIGURES, "ngram_tokens", "validation_bytes"))
SAMPLE_PROMPTS = (
    "def read_text(path):\n",
    "import os\n\n\ndef remove_files(paths):\n",
    "class Node:\n    def __init__(self, value):\n",
)
LARGE_MODEL = 10**9  # parameters; such a model continues only the three prompts, which take long enough
SETUP_SECONDS = "MS_CODEGEEX_SETUP_SECONDS"  # environment variable: what run_distributed.sh needed before


class Stopwatch:
    """The seconds of the parts of a command, in the order in which they began; `total` since it was made."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.monotonic()
        with contextlib.suppress(ValueError):
            if (setup := float(os.environ.get(SETUP_SECONDS, ""))) >= 0:
                self.seconds["set-up"] = setup
        self._before = sum(self.seconds.values())

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time of the block to a part."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began

    def training(self, history: History, attempts: int, result: Mapping[str, Any]) -> dict[str, float]:
        """The parts, the workers' time divided up, and the rest as "other". `attempts`: those before this command."""
        events = [event for event in history.events if event["attempt"] > attempts]
        starts = {event["attempt"]: event["time"] for event in events if event["event"] == "start"}
        ready = [event for event in events if event["event"] == "compiled" and event["attempt"] in starts]
        lines = [line for line in history.log if line.get("attempt", 1) > attempts and not line["compiling"]]
        parts = {
            "start and compile": sum(event["time"] - starts[event["attempt"]] for event in ready),
            "steps": sum(line["step_seconds"] or 0.0 for line in lines) * history.config.logging.every,
            "evaluation": result.get("evaluation_seconds", 0.0),
        }
        order = ("set-up", "corpus", *parts, "comparison", "export", "sample")
        every = {**self.seconds, **parts}
        shown = {name: every[name] for name in order if every.get(name)}
        total = self._before + time.monotonic() - self._began
        return {**shown, "other": max(0.0, total - sum(shown.values())), "total": total}


def compared(config: RunConfig, path: Path, loss: float | None, left_out: list[int]) -> dict[str, Any]:
    """For the summary: the model of the checkpoint at `path` beside simpler ones that learn from the same tokens;
    null without text of a known tokenizer. `left_out`: first samples of batches not trained on."""
    try:
        ends, state, validation = extra(MODULE, PURPOSE), Checkpoint(path).state, validation_data(config)
        if not checkpoint_has_tokenizer(path, state, config.family):
            return dict(UNKNOWN)
        tokenizer = checkpoint_tokenizer(path, state, config.family)
        if tokenizer.eos_id != validation.eos:
            return dict(UNKNOWN)  # ids of another tokenizer
        rows = validation.evaluation_batch(0, 1, config.training.evaluate_samples)
        seen = ends.seen_rows(training_data(config), state["samples"], config.training.global_batch, left_out)
        found = ends.bits_per_byte(loss, rows, validation.tokens, seen, tokenizer, validation.info["vocab_size"])
    except (UserError, MemoryError) as error:
        print_error(f"no bits a byte: {error or 'too little memory'}")
        return dict(UNKNOWN)
    values = () if found is None else (found.model, found.ngram, found.gzip, found.byte_frequency)
    return {**UNKNOWN, **dict(zip(FIGURES, values, strict=False))} | (
        {"ngram_tokens": found.tokens, "validation_bytes": found.text_bytes} if found else {}
    )


def sampled(config: RunConfig, model: Path, parameters: int) -> dict[str, Any]:
    """For the summary: how the model continues `SAMPLE_PROMPTS`, and how many other samples parse; null without any."""
    try:
        directory = validation_data(config).directory
        measured = parameters <= LARGE_MODEL and read_info(directory).get("kind") is None
        prefix = directory / "validation" if measured else None
        found = extra(MODULE, PURPOSE).python_samples(model, SAMPLE_PROMPTS, prefix, config.seed)
    except (UserError, RunFailure) as error:  # such as a context shorter than the prompts
        print_error(f"no sample: {error}")
        return {"sample": None, "parse_share": None, "parse_samples": 0}
    sample = "\n\n".join(text.rstrip() for text in found.shown)
    return {"sample": sample, "parse_share": found.parse_share, "parse_samples": found.measured}


def comparison(summary: Mapping[str, Any]) -> Iterator[str]:
    """The lines on bits a byte and on the samples that parse."""
    if summary.get("validation_bytes"):
        size = f"{summary['validation_bytes']:,} bytes of validation text"
        yield f"bits a byte of {size}, comparable between tokenizers:"
        tokens = f"{summary['ngram_tokens']:,}"
        for key, name in FIGURES.items():
            if summary[key] is not None:
                yield f"  {summary[key]:6.3f}  {name.format(tokens=tokens)}"
    if summary.get("parse_share") is not None:
        count = summary["parse_samples"]
        share = f"{round(summary['parse_share'] * count)} of {count} samples parse as Python"
        yield f"{share} (functions begun in held-out files, temperature 0.5, ended at a block)"


def time_line(seconds: Mapping[str, float]) -> str:
    """Where the time of the command went."""
    parts = ", ".join(f"{name} {value:.0f}" for name, value in seconds.items() if name != "total" and value >= 0.5)
    return f"time {seconds['total']:.0f} s{f': {parts}' if parts else ''}"
