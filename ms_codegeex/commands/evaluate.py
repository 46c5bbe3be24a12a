"""`ms-codegeex evaluate TASK`: samples, verdicts and tables of a benchmark."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ms_codegeex.errors import UserError
from ms_codegeex.host import available_cores

SUMMARY = "measure a model: HumanEval-X, MTPB, DS-1000, HumanEval, perplexity; its programs run in a sandbox"
EXAMPLES = """  ms-codegeex evaluate humaneval-x --data humaneval-x --output refs --check-references
  ms-codegeex evaluate humaneval-x --model model --data humaneval-x --output eval --recipe codegeex_humaneval_x
  ms-codegeex evaluate humaneval-x --model model --data hx --output java --translate-from python --language java
  ms-codegeex evaluate humaneval --url http://localhost:8000/v1 --data he.jsonl.gz --output he --n 20 --temperature 0.2
  ms-codegeex evaluate mtpb --model model --data mtpb.jsonl --output mtpb --recipe codegen_mtpb_t02 --generate-only
  ms-codegeex evaluate mtpb --data mtpb.jsonl --output mtpb --judge-only       # on another machine, or later
  ms-codegeex evaluate ds1000 --samples answers.jsonl --data ds1000.jsonl.gz --output ds --json
  ms-codegeex evaluate perplexity --model model --data data/mine --output ppl
  ms-codegeex evaluate perplexity --model model-int4 --against model --data src --output int4"""
TASKS = ("humaneval-x", "mtpb", "ds1000", "humaneval", "perplexity")
LANGUAGES = ("python", "cpp", "java", "js", "go", "rust")
ALIASES = {"c++": "cpp", "javascript": "js", "golang": "go"}
SAMPLING = ("n", "temperature", "top_p", "top_k", "max_new_tokens", "max_length", "seed")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("task", choices=TASKS, metavar="TASK", help="one of " + ", ".join(TASKS))
    parser.add_argument(
        "--data",
        required=True,
        type=Path,
        metavar="PATH",
        help="the benchmark's file or directory (perplexity: corpus)",
    )
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="DIR",
        help="samples.jsonl, results.jsonl, report.json, report.html, evaluation.json; the same command goes on there",
    )
    _configure_source(parser.add_argument_group("where samples come from"))
    _configure_recipe(parser.add_argument_group("how samples are drawn", "instead of, or over, a recipe's values"))
    _configure_judging(parser.add_argument_group("judging"))
    _configure_perplexity(parser.add_argument_group("perplexity"))
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object on standard output")


def _configure_source(group: argparse._ArgumentGroup) -> None:
    source = group.add_mutually_exclusive_group()
    source.add_argument("--model", type=Path, metavar="DIR", help="model directory, run directory or checkpoint")
    source.add_argument("--url", metavar="URL", help="server with OpenAI's API, such as http://localhost:8000/v1")
    source.add_argument(
        "--samples",
        type=Path,
        metavar="FILE",
        help="existing samples, .jsonl[.gz] with task_id and completion (as it stands) or generation (to be cleaned)",
    )
    group.add_argument(
        "--slots",
        type=int,
        metavar="N",
        help="samples that --model draws at once (default: 16, or what fits into memory)",
    )
    group.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads of --model's compiled operators (default: one per core; 0: MindSpore's own operators)",
    )
    group.add_argument(
        "--fast", action="store_true", help="round activations too (a quantised --model on a CPU): faster, less exact"
    )
    group.add_argument("--url-model", metavar="NAME", help="the server's model (default: its only one)")
    group.add_argument(
        "--url-field",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another field of a request, such as top_k=-1; may be repeated",
    )
    group.add_argument("--api-key-file", type=Path, metavar="FILE", help="file that holds the server's key")
    group.add_argument(
        "--url-timeout", type=float, default=600.0, metavar="S", help="seconds a server may be silent (default: 600)"
    )
    group.add_argument(
        "--concurrency", type=int, default=4, metavar="N", help="requests at once to the server (default: 4)"
    )


def _configure_recipe(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--recipe",
        metavar="NAME|FILE",
        help="settings of configs/evaluation, or a YAML file (default: 1 greedy sample)",
    )
    group.add_argument("--n", type=int, metavar="N", help="samples of each problem (MTPB: of each test case)")
    group.add_argument("--temperature", type=float, metavar="T", help="0 is greedy")
    group.add_argument("--top-p", type=float, metavar="P", help="only the likeliest tokens that make up P; 1: off")
    group.add_argument("--top-k", type=int, metavar="K", help="only the K likeliest tokens; 0: off")
    group.add_argument("--max-new-tokens", type=int, metavar="N", help="longest answer in tokens")
    group.add_argument("--max-length", type=int, metavar="N", help="longest prompt and answer together in tokens")
    group.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same samples")
    group.add_argument("--limit", type=int, metavar="N", help="only the first N problems (of each language)")
    group.add_argument(
        "--language",
        nargs="+",
        type=_language,
        choices=LANGUAGES,
        metavar="L",
        help=f"humaneval-x: of {', '.join(LANGUAGES)} (default: all that the data has)",
    )
    group.add_argument(
        "--translate-from", type=_language, choices=LANGUAGES, metavar="L", help="humaneval-x: translate from there"
    )
    group.add_argument(
        "--tag", action=argparse.BooleanOptionalAction, help="humaneval-x: CodeGeeX's language tag before the prompt"
    )
    group.add_argument("--turns", choices=("multi", "single"), help="mtpb: turn by turn, or all turns as one prompt")
    group.add_argument("--mode", choices=("completion", "insertion"), help="ds1000: which of its two forms")


def _configure_judging(group: argparse._ArgumentGroup) -> None:
    steps = group.add_mutually_exclusive_group()
    steps.add_argument("--generate-only", action="store_true", help="draw samples, judge them later or elsewhere")
    steps.add_argument("--judge-only", action="store_true", help="judge the samples that are in --output")
    references = group.add_mutually_exclusive_group()
    references.add_argument(
        "--check-references",
        action="store_true",
        help="judge the canonical solutions first, or only them if nothing draws samples (humaneval-x does so anyway)",
    )
    references.add_argument("--skip-references", action="store_true", help="do not judge the canonical solutions")
    group.add_argument(
        "--sandbox",
        choices=("strict", "best-effort"),
        default="strict",
        help="refuse to run programs if a layer of the sandbox is missing, or do with what there is (default: strict)",
    )
    group.add_argument(
        "--workers", type=int, default=available_cores(), metavar="N", help="programs at once (default: one per core)"
    )
    group.add_argument(
        "--timeout",
        type=float,
        metavar="S",
        help="seconds of a program of humaneval-x (default: as this machine's references need) or humaneval (3)",
    )
    group.add_argument(
        "--python", type=Path, metavar="FILE", help="interpreter with the libraries of DS-1000 or MTPB (default: ours)"
    )


def _configure_perplexity(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--prompt-perplexity",
        action="store_true",
        help="mtpb, humaneval: also of the prompts, of solved against unsolved problems (needs --model)",
    )
    group.add_argument(
        "--window",
        type=int,
        metavar="N",
        help="perplexity: tokens that are read at once (default: the model's context)",
    )
    group.add_argument(
        "--stride",
        type=int,
        metavar="N",
        help="perplexity: tokens between windows of a long text (default: half of one)",
    )
    group.add_argument(
        "--max-tokens",
        type=int,
        metavar="N",
        help="perplexity: measure about so many (default: all; with --against 4096, whose scores take 0.8 GB of disk)",
    )
    group.add_argument(
        "--against",
        type=Path,
        metavar="DIR",
        help="perplexity: compare with this model of the same tokenizer, such as the one that --model was made from",
    )


def _language(name: str) -> str:
    return ALIASES.get(name.lower(), name.lower())


def run(arguments: argparse.Namespace) -> int:
    """Evaluate and say what came out."""
    _check(arguments)
    if arguments.task == "perplexity":
        return _perplexity(arguments)
    recipe = _recipe(arguments)
    from ms_codegeex.evaluation import session
    from ms_codegeex.evaluation.benchmarks.registry import build_task
    from ms_codegeex.evaluation.reports import scores

    task = build_task(recipe, arguments.data, arguments.timeout, arguments.python)
    options = session.Options(
        output=arguments.output,
        sampler=_sampler(arguments, recipe),
        model=_model(arguments),
        given=arguments.samples,
        limit=arguments.limit,
        judge=not arguments.generate_only,
        references=_references(arguments),
        sandbox=arguments.sandbox,
        timeout=arguments.timeout,
        workers=arguments.workers,
        prompt_perplexity=arguments.prompt_perplexity,
    )
    result = session.evaluate(task, recipe, options)
    if arguments.json:
        print(json.dumps(result))
    else:
        print("\n".join([*scores.lines(result), f"report: {arguments.output / 'report.html'}"]))
    return 0


def _perplexity(arguments: argparse.Namespace) -> int:
    from ms_codegeex.evaluation.perplexity.evaluate import evaluate_corpus

    words = (arguments.window, arguments.stride, arguments.max_tokens, arguments.against)
    how = {"fast": arguments.fast, "threads": arguments.threads}
    result = evaluate_corpus(arguments.model, arguments.data, arguments.output, *words, **how)
    if arguments.json:
        print(json.dumps(result))
    else:
        for name, value in (result["perplexity"] | result.get("difference", {})).items():
            print(f"{name}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}")
        print(f"report: {arguments.output / 'report.html'}")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    for name in ("limit", "workers", "slots", "concurrency", "timeout", "url_timeout", "max_tokens"):
        value = getattr(arguments, name)
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"--{name.replace('_', '-')}: {value} is out of range; give more than 0")
    if arguments.translate_from and arguments.translate_from in (arguments.language or ()):
        raise UserError(f"--language: {arguments.translate_from} is also --translate-from; leave one of them out")
    if arguments.judge_only and (arguments.model or arguments.url):
        raise UserError("--judge-only: draws no samples; leave --model and --url out")
    if arguments.threads is not None and arguments.threads < 0:
        raise UserError(f"--threads: {arguments.threads} is out of range; give 0 (MindSpore's operators) or more")
    if (arguments.task == "perplexity" or arguments.prompt_perplexity) and not arguments.model:
        raise UserError("--model: missing; a server or a file of samples gives no probabilities of a given text")
    if arguments.against and arguments.task != "perplexity":
        raise UserError("--against: belongs to perplexity; evaluate both models and compare their reports")
    if arguments.prompt_perplexity and arguments.task not in ("mtpb", "humaneval"):
        raise UserError(f"--prompt-perplexity: {arguments.task} has none; mtpb and humaneval have")
    if arguments.fast and not arguments.model:
        raise UserError("--fast: only for our own engine; give --model")
    if not (arguments.model or arguments.url or arguments.samples or arguments.judge_only):
        resumable = (arguments.output / "samples.jsonl").exists()
        if not resumable and not arguments.check_references:
            raise UserError("--model: missing; give --model, --url or --samples, or --check-references alone")


def _recipe(arguments: argparse.Namespace) -> Any:
    """The named recipe, or that of the evaluation which is gone on with, or the defaults; with what the flags say."""
    from ms_codegeex.evaluation.output_directory import RecordedSettings
    from ms_codegeex.evaluation.sampling import recipes

    recorded = RecordedSettings(arguments.output).values.get("recipe") if arguments.recipe is None else None
    if recorded is None:
        recipe = recipes.for_task(arguments.task, arguments.recipe)
    else:
        recipe = recipes.build({key: value for key, value in recorded.items() if key != "limit"})
        if recipe.task != arguments.task:
            raise UserError(f"--output: {arguments.output} is an evaluation of {recipe.task}; choose another directory")
        arguments.limit = arguments.limit or recorded.get("limit")
    given = {name: getattr(arguments, name) for name in (*SAMPLING, "translate_from", "tag", "turns", "mode")}
    return recipe.over(languages=arguments.language, **given)


def _references(arguments: argparse.Namespace) -> str:
    if arguments.skip_references:
        return "skip"
    if not arguments.check_references:
        return "default"
    sampled = arguments.model or arguments.url or arguments.samples or arguments.judge_only
    return "check" if sampled else "only"


def _sampler(arguments: argparse.Namespace, recipe: Any) -> Any:
    """What makes the sampler when it is needed, which for a model takes seconds."""
    from ms_codegeex.evaluation.sampling.samplers import EngineSampler, ServerSampler

    if arguments.model:
        options = {"slots": arguments.slots, "fast": arguments.fast, "threads": arguments.threads}
        return lambda: EngineSampler(arguments.model, recipe, **options)
    if arguments.url:
        key, fields = _key(arguments.api_key_file), _fields(arguments.url_field)
        others = (arguments.concurrency, arguments.url_timeout)
        return lambda: ServerSampler(arguments.url, recipe, arguments.url_model, key, fields, *others)
    return None


def _model(arguments: argparse.Namespace) -> Any:
    """What tells the identity of the model that is asked for, without reading it or asking a server."""
    if arguments.url:
        return lambda: {"model": arguments.url_model} if arguments.url_model else {}
    if not arguments.model:
        return None

    def identity() -> dict[str, Any]:
        from ms_codegeex.evaluation.sampling.samplers import model_identity
        from ms_codegeex.formats.sources import open_source
        from ms_codegeex.generation.quantised import is_quantised

        path = Path(arguments.model)
        return model_identity(path if is_quantised(path) else open_source(path).path, arguments.fast)

    return identity


def _key(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        key = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--api-key-file: {path} cannot be read ({error})") from None
    if not key or not key.isprintable() or " " in key:
        raise UserError(f"--api-key-file: {path} holds no key; expected one word")
    return key


def _fields(words: list[str]) -> dict[str, Any]:
    """`["top_k=-1"]` -> {"top_k": -1}; a value that is not JSON stays text."""
    fields = {}
    for word in words:
        name, separator, value = word.partition("=")
        if not name or not separator:
            raise UserError(f"--url-field: {word}: expected NAME=VALUE, such as top_k=-1")
        try:
            fields[name] = json.loads(value)
        except ValueError:
            fields[name] = value
    return fields
