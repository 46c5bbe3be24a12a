"""`ms-codegeex evaluate TASK`: samples, verdicts and tables of a benchmark."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.host import available_cores
from ms_codegeex.base.json_reading import Malformed, parse_json
from ms_codegeex.base.printing import print_json, print_out
from ms_codegeex.commands import decoding, evaluate_compare
from ms_codegeex.commands.asked_model import read_key
from ms_codegeex.generation.levels import cpu_level

SUMMARY = "measure models on HumanEval-X, MultiPL-E, EvalPlus, MTPB, DS-1000 and more; programs run in a sandbox"
EXAMPLES = f"""  ms-codegeex evaluate humaneval-x --data humaneval-x --output refs --check-references
  ms-codegeex evaluate humaneval-x --model model --data humaneval-x --output eval --recipe codegeex_humaneval_x
  ms-codegeex evaluate humaneval-x --model model --data hx --output java --translate-from python --language java
  ms-codegeex evaluate humaneval --url http://localhost:8000/v1 --data he.jsonl.gz --output he --n 20 --temperature 0.2
  ms-codegeex evaluate mtpb --model model --data mtpb.jsonl --output mtpb --recipe codegen_mtpb_t02 --generate-only
  ms-codegeex evaluate mtpb --data mtpb.jsonl --output mtpb --judge-only       # on another machine, or later
  ms-codegeex evaluate mtpb --data mtpb.jsonl --output mtpb --judge-only --judge-engine ray   # on all of a cluster
  ms-codegeex evaluate ds1000 --samples answers.jsonl --data ds1000.jsonl.gz --output ds --json
  ms-codegeex evaluate multipl-e --model model --data MultiPL-E/humaneval-rs --output rust --recipe multipl_e
  ms-codegeex evaluate evalplus --model model --data MbppPlus.jsonl.gz --output mbpp --recipe evalplus
  ms-codegeex evaluate sql --model model --data spider --output sql --check-references
  ms-codegeex evaluate perplexity --model model --data data/mine --output ppl
  ms-codegeex evaluate perplexity --model model-int4 --against model --data src --output int4
  ms-codegeex evaluate infilling --model model --data data/mine --output gaps --limit 200{evaluate_compare.EXAMPLES}"""
TASKS = ("humaneval-x", "multipl-e", "mtpb", "ds1000", "humaneval", "evalplus", "sql", "perplexity", "infilling")
LANGUAGES = ("python", "cpp", "java", "js", "go", "rust", "bash", "ts", "lua")
ALIASES = {
    "c++": "cpp",
    "javascript": "js",
    "golang": "go",
    "sh": "bash",
    "rs": "rust",
    "py": "python",
    "typescript": "ts",
}
JUDGED = ("humaneval-x", "multipl-e", "mtpb", "ds1000", "humaneval", "evalplus", "sql")  # by running programs
REFERENCES = ("check_references", "skip_references")
OPTIONS: dict[str, tuple[str, ...]] = {  # the tasks that have it; all have --output and --json
    **dict.fromkeys(("data", "model", "adapter", "threads", "fast", "device", "cpu_level"), TASKS),
    **dict.fromkeys(("url", "samples", "slots", "url_model", "url_field", "api_key_file", "url_timeout"), JUDGED),
    **dict.fromkeys(("concurrency", "recipe", "n", "temperature", "top_p", "top_k", "max_length"), JUDGED),
    **dict.fromkeys(("generate_only", "judge_only", "judge_engine", "ray_address"), JUDGED),
    **dict.fromkeys((*REFERENCES, "sandbox", "workers", "max_new_tokens"), JUDGED),
    **dict.fromkeys(("limit", "seed"), (*JUDGED, "infilling")),
    "language": ("humaneval-x", "multipl-e"),
    **dict.fromkeys(("translate_from", "tag"), ("humaneval-x",)),
    "turns": ("mtpb",),
    "mode": ("ds1000",),
    "timeout": ("humaneval-x", "multipl-e", "humaneval", "evalplus", "sql"),
    "python": ("mtpb", "ds1000", "humaneval", "evalplus", "sql"),
    "prompt_perplexity": ("mtpb", "humaneval"),
    **dict.fromkeys(("window", "stride", "max_tokens", "against", "answers"), ("perplexity",)),
    **dict.fromkeys(("verdicts", "published", "most_answers"), (evaluate_compare.NAME,)),
}
# what perplexity --answers has in addition: it judges HumanEval-X
OF_ANSWERS = ("limit", "language", "tag", "max_new_tokens", "timeout", "workers", "sandbox", *REFERENCES)
DEFAULTS = {"sandbox": "strict", "judge_engine": "pool", "url_timeout": 600.0, "concurrency": 4, "url_field": []}
SAMPLING = ("n", "temperature", "top_p", "top_k", "max_new_tokens", "max_length", "seed")
OF_MODEL = ("adapter", "slots", "threads", "cpu_level", "fast", "device")
OF_URL = ("url_model", "url_field", "api_key_file", "url_timeout", "concurrency")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    choices = (*TASKS, evaluate_compare.NAME)
    parser.add_argument("task", choices=choices, metavar="TASK", help="one of " + ", ".join(choices))
    parser.add_argument(
        "--data",
        type=Path,
        metavar="PATH",
        help="the benchmark's file or directory (perplexity, infilling: corpus)",
    )
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="DIR",
        help="samples.jsonl, results.jsonl, report.json, report.html, evaluation.json; run it again to continue",
    )
    _configure_source(parser.add_argument_group("where samples come from"))
    _configure_recipe(parser.add_argument_group("how samples are drawn", "instead of, or over, a recipe's values"))
    _configure_judging(parser.add_argument_group("judging"))
    _configure_perplexity(parser.add_argument_group("perplexity"))
    evaluate_compare.configure(parser)
    parser.set_defaults(default_of=parser.get_default)
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object on standard output")


def _configure_source(group: argparse._ArgumentGroup) -> None:
    source = group.add_mutually_exclusive_group()
    source.add_argument("--model", type=Path, metavar="DIR", help="model directory, run directory or checkpoint")
    source.add_argument(
        "--url",
        nargs="+",
        metavar="URL",
        help="server with OpenAI's API, such as http://localhost:8000/v1; or several with the same model",
    )
    source.add_argument(
        "--samples",
        type=Path,
        metavar="FILE",
        help="existing samples, .jsonl[.gz] with task_id and completion (as it stands) or generation (to be cleaned)",
    )
    group.add_argument(
        "--adapter", type=Path, metavar="DIR", help="a LoRA adapter on --model: a run, or a directory in PEFT's layout"
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
    decoding.configure_cpu_level(group)
    group.add_argument(
        "--fast", action="store_true", help="round activations too (a quantised --model on a CPU): faster, less exact"
    )
    group.add_argument(
        "--device", choices=("cpu", "gpu", "ascend"), help="device for --model (default: MindSpore's choice)"
    )
    group.add_argument("--url-model", metavar="NAME", help="the server's model (default: its only one)")
    group.add_argument(
        "--url-field",
        action="append",
        metavar="NAME=VALUE",
        help="another field of a request, such as top_k=-1; may be repeated",
    )
    group.add_argument("--api-key-file", type=Path, metavar="FILE", help="file that holds the server's key")
    group.add_argument("--url-timeout", type=float, metavar="S", help="seconds a server may be silent (default: 600)")
    group.add_argument("--concurrency", type=int, metavar="N", help="requests at once to each server (default: 4)")


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
    group.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help="only the first N problems (of each language); infilling: number of spans of each kind",
    )
    group.add_argument(
        "--language",
        nargs="+",
        type=_language,
        choices=LANGUAGES,
        metavar="L",
        help=f"humaneval-x, multipl-e: of {', '.join(LANGUAGES)} (default: all that the data has)",
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
        help="refuse to run programs if a layer of the sandbox is missing, or do with what there is (default: strict)",
    )
    group.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="programs at once (default: one per core); with --judge-engine ray on each node",
    )
    group.add_argument(
        "--judge-engine",
        choices=("pool", "ray"),
        help="judge on this machine, or on the nodes of a Ray cluster, each with its own sandbox and the same files; "
        "does not affect verdicts, except for time limits on nodes of different speed (default: pool)",
    )
    group.add_argument(
        "--ray-address",
        metavar="HOST:PORT",
        help="the Ray cluster (default: auto, the one that this machine belongs to)",
    )
    group.add_argument(
        "--timeout",
        type=float,
        metavar="S",
        help="seconds of a program: humaneval-x (default: as this machine's references need), multipl-e (15), "
        "humaneval (3), sql (30); evalplus: least limit of a call (1)",
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
        help="perplexity: measure about N tokens (default: all; with --against 4096, whose scores take 0.8 GB of disk)",
    )
    group.add_argument(
        "--against",
        type=Path,
        metavar="DIR",
        help="perplexity: compare with this model of the same tokenizer, such as the one that --model was made from",
    )
    group.add_argument(
        "--answers",
        type=Path,
        metavar="DIR",
        help="perplexity --against: also how many answers of both to HumanEval-X, whose files are here, are valid code",
    )


def _language(name: str) -> str:
    return ALIASES.get(name.lower(), name.lower())


def run(arguments: argparse.Namespace) -> int:
    """Evaluate and print the result."""
    check_options(arguments)
    if arguments.task == evaluate_compare.NAME:
        return evaluate_compare.run(arguments)
    for name, default in DEFAULTS.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, default)
    _check(arguments)
    if arguments.device:
        decoding.choose_device(arguments.device)
    if arguments.task == "perplexity":
        return _perplexity(arguments)
    if arguments.task == "infilling":
        return _infilling(arguments)
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
        workers=arguments.workers or available_cores(),
        engine=_engine(arguments, recipe),
        prompt_perplexity=arguments.prompt_perplexity,
    )
    result = session.evaluate(task, recipe, options)
    if arguments.json:
        print_json(result)
    else:
        print_out("\n".join([*scores.lines(result), f"report: {arguments.output / 'report.html'}"]))
    return 0


def _perplexity(arguments: argparse.Namespace) -> int:
    from ms_codegeex.evaluation.perplexity.evaluate import evaluate_corpus

    how = (arguments.window, arguments.stride, arguments.max_tokens, _other_model(arguments), _validity(arguments))
    result = evaluate_corpus(_local_model(arguments), arguments.data, arguments.output, *how)
    if arguments.json:
        print_json(result)
    else:
        for name, value in (result["perplexity"] | result.get("difference", {})).items():
            print_out(f"{name}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}")
        if "validity" in result:
            from ms_codegeex.evaluation.validity import lines

            print_out("\n".join(lines(result["validity"])))
        print_out(f"report: {arguments.output / 'report.html'}")
    return 0


def _infilling(arguments: argparse.Namespace) -> int:
    from ms_codegeex.evaluation.infilling.evaluate import COUNT, SEED, evaluate_infilling, lines

    result = evaluate_infilling(
        _local_model(arguments),
        arguments.data,
        arguments.output,
        arguments.limit or COUNT,
        SEED if arguments.seed is None else arguments.seed,
    )
    if arguments.json:
        print_json(result)
    else:
        print_out("\n".join([*lines(result), f"report: {arguments.output / 'report.html'}"]))
    return 0


def _validity(arguments: argparse.Namespace) -> Any:
    """A function that compares the answers of --model and --against; None without --answers."""
    if arguments.answers is None:
        return None
    from ms_codegeex.evaluation.benchmarks.registry import build_task
    from ms_codegeex.evaluation.sampling.recipes import Recipe
    from ms_codegeex.evaluation.session import Options
    from ms_codegeex.evaluation.validity import compare_validity

    given = {name: getattr(arguments, name) for name in ("max_new_tokens", "tag")}
    recipe = Recipe("humaneval-x").over(languages=arguments.language, **given)
    task = build_task(recipe, arguments.answers, arguments.timeout)
    options = Options(
        output=arguments.output,
        limit=arguments.limit,
        references=_references(arguments),
        sandbox=arguments.sandbox,
        timeout=arguments.timeout,
        workers=arguments.workers or available_cores(),
    )
    models = {"model": _local_model(arguments), "other": _other_model(arguments)}
    return lambda: {"validity": compare_validity(task, recipe, options, models)}


def check_options(arguments: argparse.Namespace) -> None:
    """`UserError` for an option that the task does not have."""
    for name, tasks in OPTIONS.items():
        if arguments.task in tasks or getattr(arguments, name) == arguments.default_of(name):
            continue
        if arguments.task == "perplexity" and name in OF_ANSWERS and arguments.answers:
            continue
        option = "--" + name.replace("_", "-")
        others = ", ".join(tasks) + (", perplexity --answers" if name in OF_ANSWERS else "")
        raise UserError(f"{option}: {arguments.task} has no such option, only {others}; leave it out")
    for source, names in ((arguments.model, OF_MODEL), (arguments.url, OF_URL)):
        for name in names:
            if source is None and getattr(arguments, name) != arguments.default_of(name):
                its = "--model, our own engine" if names is OF_MODEL else "--url, a server"
                raise UserError(f"--{name.replace('_', '-')}: only for {its}; leave it out")
    for name in SAMPLING:
        source = "--samples" if arguments.samples else "--judge-only" if arguments.judge_only else None
        if source and getattr(arguments, name) is not None:
            raise UserError(f"--{name.replace('_', '-')}: {source} draws no samples; leave it out")


def _check(arguments: argparse.Namespace) -> None:
    if arguments.data is None:
        raise UserError("--data: missing; give the benchmark's file or directory (perplexity, infilling: a corpus)")
    if arguments.compared:
        raise UserError(f"{arguments.compared[0]}: unexpected; only `evaluate compare` takes directories")
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
    if arguments.ray_address is not None and arguments.judge_engine != "ray":
        raise UserError("--ray-address: is for --judge-engine ray")
    if arguments.judge_engine == "ray" and arguments.generate_only:
        raise UserError("--judge-engine ray: --generate-only judges nothing; leave it out")
    if (arguments.task in ("perplexity", "infilling") or arguments.prompt_perplexity) and not arguments.model:
        raise UserError("--model: missing; a server or a file of samples gives no probabilities of a given text")
    if arguments.answers and not arguments.against:
        raise UserError("--answers: compares two models; give perplexity --against DIR, or evaluate humaneval-x")
    cpu_level(arguments.cpu_level)
    if not (arguments.model or arguments.url or arguments.samples or arguments.judge_only):
        resumable = (arguments.output / "samples.jsonl").exists()
        if not resumable and not arguments.check_references:
            raise UserError("--model: missing; give --model, --url or --samples, or --check-references alone")


def _recipe(arguments: argparse.Namespace) -> Any:
    """The named recipe, or that of the evaluation to be continued, or the defaults; flags replace its values."""
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


def _engine(arguments: argparse.Namespace, recipe: Any) -> Any:
    """A factory of the Ray engine; None: this machine judges."""
    if arguments.judge_engine == "pool":
        return None
    from ms_codegeex.evaluation.benchmarks.registry import build_task
    from ms_codegeex.evaluation.judging.ray_nodes import open_ray_nodes

    python = arguments.python.absolute() if arguments.python else None
    build = partial(build_task, recipe, arguments.data.absolute(), arguments.timeout, python)
    return partial(open_ray_nodes, arguments.ray_address or "auto", build, arguments.sandbox, arguments.workers)


def _sampler(arguments: argparse.Namespace, recipe: Any) -> Any:
    """A function that makes the sampler when it is needed, which for a model takes seconds."""
    from ms_codegeex.evaluation.sampling.samplers import EngineSampler, ServerSampler
    from ms_codegeex.evaluation.sampling.servers import open_servers

    if arguments.model:
        return lambda: EngineSampler(_local_model(arguments, arguments.slots), recipe)
    if arguments.url:
        key, fields = read_key(arguments.api_key_file), _fields(arguments.url_field)
        others = (arguments.concurrency, arguments.url_timeout)

        def make(url: str) -> ServerSampler:
            return ServerSampler(url, recipe, arguments.url_model, key, fields, *others)

        return lambda: open_servers(arguments.url, make)
    return None


def _model(arguments: argparse.Namespace) -> Any:
    """A function that gives the identity of the requested model, without reading it or asking a server."""
    if arguments.url:
        return lambda: {"model": arguments.url_model} if arguments.url_model else {}
    if not arguments.model:
        return None

    return _local_model(arguments).identity


def _local_model(arguments: argparse.Namespace, slots: int | None = 1) -> Any:
    """`--model` and how it runs."""
    from ms_codegeex.evaluation.local_model import LocalModel

    how = (arguments.fast, arguments.threads, slots, arguments.cpu_level)
    return LocalModel(arguments.model, arguments.adapter, *how)


def _other_model(arguments: argparse.Namespace) -> Any:
    """`--against`, if it is given."""
    from ms_codegeex.evaluation.local_model import LocalModel

    how = {"threads": arguments.threads, "cpu_level": arguments.cpu_level}
    return LocalModel(arguments.against, **how) if arguments.against else None


def _fields(words: list[str]) -> dict[str, Any]:
    """`["top_k=-1"]` -> {"top_k": -1}; a value that is not JSON stays text."""
    fields = {}
    for word in words:
        name, separator, value = word.partition("=")
        if not name or not separator:
            raise UserError(f"--url-field: {word}: expected NAME=VALUE, such as top_k=-1")
        try:
            fields[name] = parse_json(value)
        except Malformed:
            fields[name] = value
    return fields
