"""The options of `evaluate`, apart from those of recipes (`Recipe`) and of models in this process (`LocalModel`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ms_codegeex.base.options import Option


@dataclass(frozen=True)
class FileOptions:
    """What every task has."""

    data: Annotated[Path, Option("the benchmark's file or directory; of perplexity and infilling, a corpus", "PATH")]
    output: Annotated[
        Path,
        Option(
            "samples.jsonl, results.jsonl, report.json, report.html, evaluation.json; run it again to continue", "DIR"
        ),
    ]
    json: Annotated[bool, Option("print the report as one JSON object on standard output")] = False


@dataclass(frozen=True)
class SourceOptions:
    """Where samples come from."""

    model: Annotated[Path | None, Option("model directory, run directory or checkpoint", "DIR", either="source")] = None
    url: Annotated[
        tuple[str, ...],
        Option(
            "server with OpenAI's API, such as http://localhost:8000/v1; or several with the same model",
            "URL",
            either="source",
        ),
    ] = ()
    samples: Annotated[
        Path | None,
        Option(
            "existing samples, .jsonl[.gz] with task_id and completion (as it stands) or generation (to be cleaned)",
            "FILE",
            either="source",
        ),
    ] = None


@dataclass(frozen=True)
class DeviceOptions:
    """What computes."""

    device: Annotated[
        Literal["cpu", "gpu", "ascend"] | None, Option("device for --model (default: MindSpore's choice)")
    ] = None


@dataclass(frozen=True)
class ServerOptions:
    """How `--url` is used."""

    url_model: Annotated[str | None, Option("the server's model (default: its only one)", "NAME")] = None
    url_field: Annotated[
        tuple[str, ...],
        Option("another field of a request, such as top_k=-1; may be repeated", "NAME=VALUE", repeated=True),
    ] = ()
    api_key_file: Annotated[Path | None, Option("file that holds the server's key", "FILE")] = None
    url_timeout: Annotated[float, Option("seconds a server may be silent", "S", gt=0)] = 600.0
    concurrency: Annotated[int, Option("requests at once to each server", "N", ge=1)] = 4


@dataclass(frozen=True)
class JudgingOptions:
    """How programs are judged. Not all benchmarks have the last three."""

    limit: Annotated[int | None, Option("only the first N problems (of each language)", "N", ge=1)] = None
    generate_only: Annotated[bool, Option("draw samples, judge them later or elsewhere", either="steps")] = False
    judge_only: Annotated[bool, Option("judge the samples that are in --output", either="steps")] = False
    check_references: Annotated[
        bool,
        Option(
            "judge the canonical solutions first, or only them if nothing draws samples (humaneval-x does so anyway)",
            either="references",
        ),
    ] = False
    skip_references: Annotated[bool, Option("do not judge the canonical solutions", either="references")] = False
    sandbox: Annotated[
        Literal["strict", "best-effort"],
        Option("refuse to run programs if a layer of the sandbox is missing, or do with what there is"),
    ] = "strict"
    workers: Annotated[
        int | None,
        Option("programs at once (default: one per core); with --judge-engine ray on each node", "N", ge=1),
    ] = None
    judge_engine: Annotated[
        Literal["pool", "ray"],
        Option(
            "judge on this machine, or on the nodes of a Ray cluster, each with its own sandbox and the same files; "
            "does not affect verdicts, except for time limits on nodes of different speed"
        ),
    ] = "pool"
    ray_address: Annotated[
        str | None,
        Option("the Ray cluster (default: auto, the one that this machine belongs to)", "HOST:PORT"),
    ] = None
    timeout: Annotated[float | None, Option("seconds of a program (default: the benchmark's)", "S", gt=0)] = None
    python: Annotated[
        Path | None, Option("interpreter with the libraries that the benchmark needs (default: ours)", "FILE")
    ] = None
    prompt_perplexity: Annotated[
        bool, Option("also of the prompts, of solved against unsolved problems (needs --model)")
    ] = False


# What `perplexity --answers` has of the above and of recipes: it judges HumanEval-X.
OF_ANSWERS = ("limit", "check_references", "skip_references", "sandbox", "workers", "timeout")
KEYS_OF_ANSWERS = ("max_new_tokens", "languages", "tag")


@dataclass(frozen=True)
class PerplexityOptions:
    """What is read, and compared."""

    window: Annotated[int | None, Option("tokens that are read at once (default: the model's context)", "N")] = None
    stride: Annotated[int | None, Option("tokens between windows of a long text (default: half of one)", "N")] = None
    max_tokens: Annotated[
        int | None,
        Option(
            "measure about N tokens (default: all; with --against 4096, whose scores take 0.8 GB of disk)", "N", ge=1
        ),
    ] = None
    against: Annotated[
        Path | None,
        Option("compare with this model of the same tokenizer, such as the one that --model was made from", "DIR"),
    ] = None
    answers: Annotated[
        Path | None,
        Option(
            "with --against: also how many answers of both to HumanEval-X, whose files are here, are valid code", "DIR"
        ),
    ] = None


@dataclass(frozen=True)
class InfillingOptions:
    """Which spans are taken out."""

    limit: Annotated[int | None, Option("number of spans of each kind", "N", ge=1)] = None
    seed: Annotated[int | None, Option("the same seed takes the same spans", "N", ge=0)] = None


@dataclass(frozen=True)
class ComparisonOptions:
    """What is compared, and shown."""

    verdicts: Annotated[
        Literal["strict", "published", "base"],
        Option("the rule by which an answer passes (base: of evalplus)"),
    ] = "strict"
    published: Annotated[
        tuple[Path, ...],
        Option("published figures in YAML or JSON: {name: {source: TEXT, pass@1: PERCENT, ...}}", "FILE"),
    ] = ()
    most_answers: Annotated[int, Option("distinct answers shown for each problem (0: all)", "N", ge=0)] = 5
