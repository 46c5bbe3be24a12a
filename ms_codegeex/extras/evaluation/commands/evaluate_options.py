"""The options of `evaluate`, apart from those of recipes (`Recipe`) and of models in this process (`LocalModel`)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ms_codegeex.base.options import REQUIRED, option
from ms_codegeex.base.verb_options import CHECKPOINT


@dataclass(frozen=True)
class TaskListOptions:
    """What stands in place of a task."""

    list: bool = option("the tasks, their problems and where these are, or the command that gets them", default=False)
    list_json: bool = option("with --list: print one JSON object on standard output", default=False, flag="json")


@dataclass(frozen=True)
class FileOptions:
    """What every task has."""

    data: Path = option("the benchmark's file or directory; of perplexity and infilling, a corpus", "PATH", REQUIRED)
    output: Path = option(
        "samples.jsonl, results.jsonl, report.json, report.html, evaluation.json; run it again to continue",
        "DIR",
        REQUIRED,
    )
    json: bool = option("print the report as one JSON object on standard output", default=False)


@dataclass(frozen=True)
class SourceOptions:
    """Where samples come from."""

    model: Path | None = option("model directory, run directory or checkpoint", "DIR", either="source")
    checkpoint: str | None = CHECKPOINT.field(None, kw_only=True)
    url: tuple[str, ...] = option(
        "server with OpenAI's API, such as http://localhost:8000/v1; or several with the same model",
        "URL",
        (),
        either="source",
    )
    samples: Path | None = option(
        "existing samples: our samples.jsonl, or a file or directory that another program wrote (docs/evaluation.md)",
        "PATH",
        either="source",
    )
    first: int | None = option(
        "with --samples: number of the problem (from 0) that the first row answers, if the rows do not say",
        "N",
        ge=0,
    )


@dataclass(frozen=True)
class ServerOptions:
    """How `--url` is used."""

    url_model: str | None = option("the server's model (default: its only one)", "NAME")
    url_field: tuple[str, ...] = option(
        "another field of a request, such as top_k=-1; may be repeated", "NAME=VALUE", (), repeated=True
    )
    chat: bool = option("a chat model: ask /v1/chat/completions, take the code block of the reply", default=False)
    chat_template: Path | None = option(
        "with --chat: file with the message, {prompt} stands for the code to be completed", "FILE"
    )
    api_key_file: Path | None = option("file that holds the server's key", "FILE")
    url_timeout: float = option("seconds a server may be silent", "S", 600.0, gt=0, le=86_400)
    concurrency: int = option("requests at once to each server", "N", 4, ge=1)


@dataclass(frozen=True)
class RecipeOption:
    """Settings that have a name."""

    recipe: str | None = option(
        "settings of configs/evaluation, or a YAML file (default: 1 greedy sample)", "NAME|FILE"
    )


@dataclass(frozen=True)
class JudgingOptions:
    """How programs are judged. Not all benchmarks have the last three."""

    limit: int | None = option("only the first N problems (of each language)", "N", ge=1)
    generate_only: bool = option("draw samples, judge them later or elsewhere", default=False, either="steps")
    judge_only: bool = option("judge the samples that are in --output", default=False, either="steps")
    check_references: bool = option(
        "judge the canonical solutions first, or only them if nothing draws samples (humaneval-x does so anyway)",
        default=False,
        either="references",
    )
    skip_references: bool = option("do not judge the canonical solutions", default=False, either="references")
    sandbox: Literal["strict", "best-effort"] = option(
        "refuse to run programs if a layer of the sandbox is missing, or do with what there is", default="strict"
    )
    workers: int | None = option(
        "programs at once (default: one per core); with --judge-engine ray on each node", "N", ge=1
    )
    judge_engine: Literal["pool", "ray"] = option(
        "judge on this machine, or on the nodes of a Ray cluster, each with its own sandbox and the same files; "
        "does not affect verdicts, except for time limits on nodes of different speed",
        default="pool",
    )
    ray_address: str | None = option(
        "the Ray cluster (default: auto, the one that this machine belongs to)", "HOST:PORT"
    )
    timeout: float | None = option("seconds of a program (default: the benchmark's)", "S", gt=0, lt=math.inf)
    python: Path | None = option("interpreter with the libraries that the benchmark needs (default: ours)", "FILE")
    export: Literal["evalplus", "bigcode"] | None = option(
        "also write the samples as EvalPlus or bigcode-evaluation-harness does, in --output"
    )
    prompt_perplexity: bool = option(
        "also of the prompts, of solved against unsolved problems (needs --model)", default=False
    )


@dataclass(frozen=True)
class PerplexityOptions:
    """What is read."""

    window: int | None = option("tokens that are read at once (default: the model's context)", "N")
    stride: int | None = option("tokens between windows of a long text (default: half of one)", "N")
    max_tokens: int | None = option("measure about N tokens (default: all)", "N", ge=1)


@dataclass(frozen=True)
class InfillingOptions:
    """Which spans are taken out."""

    limit: int | None = option("number of spans of each kind", "N", ge=1)
    seed: int | None = option("the same seed takes the same spans", "N", ge=0)


@dataclass(frozen=True)
class ReproductionOptions:
    """Which paper. The model and how programs are judged are options of the other tasks."""

    paper: Literal["codegeex", "codegen", "codegeex2", "leaderboards"] = option(
        "the paper; or leaderboards: benchmarks as they are usually sampled", None, REQUIRED, positional=True
    )
    output: Path = option(
        "index.html, reproduction.json and a directory for each evaluation; run it again to continue", "DIR", REQUIRED
    )
    data: Path | None = option(
        "directory with the files of its benchmarks (default: where other packages have put them)", "DIR"
    )
    quick: bool = option("2 samples of the first 8 problems of each language: does everything work?", default=False)
    only: tuple[str, ...] = option(
        "these evaluations of it, such as humaneval evalplus (docs/evaluation.md)", "PART", ()
    )
    json: bool = option("print reproduction.json on standard output", default=False)


@dataclass(frozen=True)
class ComparisonOptions:
    """What is compared, and shown."""

    compared: tuple[str, ...] = option("directories of finished evaluations", "[NAME=]DIR", (), positional=True)
    verdicts: Literal["strict", "published", "base"] = option(
        "the rule by which an answer passes (base: of evalplus)", default="strict"
    )
    published: tuple[Path, ...] = option(
        "published figures in YAML or JSON: {name: {source: TEXT, pass@1: PERCENT, ...}}", "FILE", ()
    )
    most_answers: int = option("distinct answers shown for each problem (0: all)", "N", 5, ge=0)
