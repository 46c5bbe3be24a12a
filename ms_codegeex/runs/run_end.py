"""Finish a run after its last step: compare the model with simpler ones, export it, sample from it, and write
summary.json. The extra `evaluation` does the measuring; without it, a run reports only its validation loss."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ms_codegeex.base.cache import user_cache
from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.base.extras import extra
from ms_codegeex.base.files import write_json
from ms_codegeex.base.printing import print_error
from ms_codegeex.base.reading import read_json
from ms_codegeex.config import RunConfig
from ms_codegeex.data.datasets.batches import read_info
from ms_codegeex.data.datasets.opening import training_data, validation_data
from ms_codegeex.data.tokenizer.recorded import checkpoint_has_tokenizer, checkpoint_tokenizer
from ms_codegeex.formats.checkpoint import Checkpoint
from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.peft_writing import write_peft
from ms_codegeex.formats.sources import Source, open_source
from ms_codegeex.runs.files.history import History, read_history
from ms_codegeex.runs.files.run_directory import RunDirectory

REGISTERED = ("train", "the model beside simpler ones")
# Summary key -> model: bits per byte of the trained model, and of simpler ones that learn from the same tokens.
SIMPLER_MODELS = {
    "validation_bits_per_byte": "the model",
    "ngram_bits_per_byte": "a 5-gram (Kneser-Ney) on {tokens} of the tokens trained on",
    "gzip_bits_per_byte": "gzip -9 of the whole validation split",
    "byte_frequency_bits_per_byte": "frequencies of bytes in the same tokens",
}
UNKNOWN: Mapping[str, Any] = dict.fromkeys((*SIMPLER_MODELS, "ngram_tokens", "validation_bytes"))
SAMPLE_PROMPTS = (
    "def read_text(path):\n",
    "import os\n\n\ndef remove_files(paths):\n",
    "class Node:\n    def __init__(self, value):\n",
)
LARGE_MODEL = 10**9  # parameters; larger models continue only these three prompts, to save time
OWN_PATHS = ("train", "validation", "tokenizer")  # in `data`; may lie next to the output: only their names count
SETUP_SECONDS = "MS_CODEGEEX_SETUP_SECONDS"  # environment variable with the seconds that run_distributed.sh took before


class Stopwatch:
    """Measures the seconds of the parts of a command, in the order in which they begin, and their total."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.monotonic()
        with contextlib.suppress(ValueError):
            if (setup := float(os.environ.get(SETUP_SECONDS, ""))) >= 0:
                self.seconds["set-up"] = setup
        self._before = sum(self.seconds.values())

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time of the block to the part `name`."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began

    def training(self, history: History, attempts: int, result: Mapping[str, Any]) -> dict[str, float]:
        """Return the seconds of all parts, with the workers' time divided up and the rest as "other". `attempts`: the
        number of attempts before this command."""
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


def remembered(config: RunConfig, seconds: Mapping[str, float]) -> dict[str, float] | None:
    """Return the times of the last run with this configuration and corpus on this machine, regardless of its output
    directory, or None, and store `seconds` for the next one. Errors are ignored: without a cache, nothing is stored."""
    values = {**config.to_dict(), "output": ""}
    names = {key: value and Path(value).name for key, value in values["data"].items() if key in OWN_PATHS}
    values["data"] = {**values["data"], **names}
    name = hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]
    last: Any = None
    with contextlib.suppress(UserError, OSError):
        file = user_cache() / "runs" / f"{name}.json"
        with contextlib.suppress(UserError):  # missing or damaged
            last = read_json(file)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, dict(seconds))
    known = isinstance(last, dict) and "total" in last and all(isinstance(each, int | float) for each in last.values())
    return last if known else None


def compared(config: RunConfig, path: Path, loss: float | None, left_out: list[int]) -> dict[str, Any]:
    """Return summary figures that compare the model of the checkpoint at `path` with simpler ones that learn from the
    same tokens. None without text of a known tokenizer. `left_out`: first samples of excluded batches."""
    try:
        ends, state, validation = extra(*REGISTERED), Checkpoint(path).state, validation_data(config)
        if not checkpoint_has_tokenizer(path, state, config.family):
            return dict(UNKNOWN)
        tokenizer = checkpoint_tokenizer(path, state, config.family)
        if tokenizer.eos_id != validation.eos:
            return dict(UNKNOWN)  # the data has ids of another tokenizer
        rows = validation.evaluation_batch(0, 1, config.training.evaluate_samples)
        seen = ends.seen_rows(training_data(config), state["samples"], config.training.global_batch, left_out)
        found = ends.bits_per_byte(loss, rows, validation.tokens, seen, tokenizer, validation.info["vocab_size"])
    except (UserError, MemoryError) as error:
        print_error(f"no bits a byte: {error or 'too little memory'}")
        return dict(UNKNOWN)
    values = () if found is None else (found.model, found.ngram, found.gzip, found.byte_frequency)
    return {**UNKNOWN, **dict(zip(SIMPLER_MODELS, values, strict=False))} | (
        {"ngram_tokens": found.tokens, "validation_bytes": found.text_bytes} if found else {}
    )


def sampled(config: RunConfig, model: Path, parameters: int) -> dict[str, Any]:
    """Return summary entries on how the model continues functions of held-out files: some of the samples, and how many
    parse. Without such files, it continues `SAMPLE_PROMPTS`. Entries are None if the model cannot be sampled."""
    try:
        directory = validation_data(config).directory
        measured = parameters <= LARGE_MODEL and read_info(directory).get("kind") is None
        prefix = directory / "validation" if measured else None
        found = extra(*REGISTERED).python_samples(model, SAMPLE_PROMPTS, prefix, config.seed)
    except (UserError, RunFailure) as error:  # such as a context shorter than the prompts
        print_error(f"no sample: {error}")
        return {"sample": None, "samples": [], "parse_share": None, "parse_samples": 0}
    return {
        "sample": "\n\n".join((prompt + text).rstrip() for prompt, text in found.shown),
        "samples": [{"prompt": prompt, "continuation": text} for prompt, text in found.shown],
        "sampling": found.means,
        "parse_share": found.parse_share,
        "parse_samples": found.measured,
    }


def finish(config: RunConfig, run_directory: RunDirectory, watch: Stopwatch, attempts: int) -> dict[str, Any]:
    """Compare the trained model, export it, sample from the export, and write and return summary.json. `attempts`: the
    number of attempts of earlier commands."""
    result = read_json(run_directory.result)
    history = read_history(run_directory.path)
    log = history.log
    steps = [record for record in log if not record["compiling"]][-100:] or log[-100:]
    seconds = sum(record["step_seconds"] for record in steps)
    rate = sum(record["tokens_per_second"] * record["step_seconds"] for record in steps) / seconds if seconds else None
    mfu = sum(record["mfu"] * record["step_seconds"] for record in steps) / seconds if seconds else None
    summary = {**result, "tokens_per_second": rate, "mfu": mfu, "huggingface": None, "pytorch": None, "sample": None}
    summary |= {"attempts": len(history.attempts), "goodput": history.goodput, "parse_share": None, "parse_samples": 0}
    summary |= {"samples": [], "sampling": None}
    source = Path(result["checkpoint"])
    with watch.part("comparison"):
        left_out = [event["left_out"] for event in history.events if event["event"] == "rewind"]
        summary |= compared(config, source, result["validation_loss"], left_out)
    if config.checkpoint.export:
        write_json(run_directory.summary, {**summary, "exporting": True})  # for the model card's figures
        print_error("exporting the model directory and the PyTorch file …")
        with watch.part("export"):
            summary |= _exported(config, _with_reason(open_source(source), result), run_directory)
        if summary["huggingface"]:
            print_error("generating samples …")
            with watch.part("sample"):
                summary |= sampled(config, run_directory.huggingface, result["parameters"])
    summary["seconds"] = watch.training(history, attempts, result)
    whole = attempts == 0 and len(history.attempts) == 1 and log and log[0]["step"] == 1
    summary["last_seconds"] = remembered(config, summary["seconds"]) if whole else None
    write_json(run_directory.summary, summary)
    return summary


def _with_reason(source: Source, result: Mapping[str, Any]) -> Source:
    last, kept = result["steps"], result.get("evaluated_step", result["steps"])
    best = f"the best of {last} steps, by the validation loss"
    return replace(source, description=replace(source.description, reason="the last step" if kept == last else best))


def _exported(config: RunConfig, source: Source, run_directory: RunDirectory) -> dict[str, str]:
    written = {}
    if config.lora.rank:
        write_peft(source, run_directory.adapter)
    for target, key, path in (
        ("hf", "huggingface", run_directory.huggingface),
        ("megatron", "pytorch", run_directory.pytorch(config.family)),
    ):
        try:
            written[key] = convert(source, target, path, progress=False, replace=True)["output"]
        except UserError as error:  # for example, a file of the user's is in the way; the checkpoint is safe
            print_error(f"not exported: {error}")
    return written
