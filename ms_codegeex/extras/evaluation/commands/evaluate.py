"""`ms-codegeex evaluate TASK`: samples, verdicts and tables of a benchmark, and other measures of models. Each
of them is a task with its own options: those of the dataclasses that it uses."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.base.extras import extra
from ms_codegeex.base.host import available_cores
from ms_codegeex.base.json_reading import MalformedText, parse_json
from ms_codegeex.base.options import OptionGroup, declared, given, given_values, refuse
from ms_codegeex.base.printing import print_error, print_result
from ms_codegeex.base.verb_options import Actions
from ms_codegeex.extras.evaluation.benchmarks.registry import BENCHMARKS, find_data, with_key
from ms_codegeex.extras.evaluation.commands.evaluate_options import (
    ComparisonOptions,
    FileOptions,
    InfillingOptions,
    JudgingOptions,
    PerplexityOptions,
    RecipeOption,
    ReproductionOptions,
    ServerOptions,
    SourceOptions,
    TaskListOptions,
)
from ms_codegeex.extras.evaluation.local_model import LocalModel
from ms_codegeex.extras.evaluation.recipe import Recipe
from ms_codegeex.generation import text_options
from ms_codegeex.generation.engine_options import EngineOptions
from ms_codegeex.kernels.levels import AUTO, cpu_level

EXTRA = "evaluation"
SUMMARY = "measure models on HumanEval-X, MultiPL-E, EvalPlus, MTPB, DS-1000 and more; programs run in a sandbox"
EXAMPLES = """  ms-codegeex evaluate --list                                           # tasks, and where problems are
  ms-codegeex evaluate humaneval-x --data humaneval-x --output refs --check-references
  ms-codegeex evaluate humaneval-x --model model --data humaneval-x --output eval --recipe codegeex_humaneval_x
  ms-codegeex evaluate humaneval-x --model model --data hx --output java --translate-from python --language java
  ms-codegeex evaluate humaneval --url http://localhost:8000/v1 --data he.jsonl.gz --output he --n 20 --temperature 0.2
  ms-codegeex evaluate humaneval-x --url http://localhost:8000/v1 --chat --data humaneval-x --output chat
  ms-codegeex evaluate mtpb --model model --data mtpb.jsonl --output mtpb --recipe codegen_mtpb_t02 --generate-only
  ms-codegeex evaluate mtpb --data mtpb.jsonl --output mtpb --judge-only       # on another machine, or later
  ms-codegeex evaluate mtpb --data mtpb.jsonl --output mtpb --judge-only --judge-engine ray   # on all of a cluster
  ms-codegeex evaluate ds1000 --samples answers.jsonl --data ds1000.jsonl.gz --output ds --json
  ms-codegeex evaluate multipl-e --model model --data MultiPL-E/humaneval-rs --output rust --recipe multipl_e
  ms-codegeex evaluate evalplus --model model --data MbppPlus.jsonl.gz --output mbpp --recipe evalplus
  ms-codegeex evaluate sql --model model --data spider --output sql --check-references
  ms-codegeex evaluate check-problems --data perl                       # problems of your own, in any language
  ms-codegeex evaluate own-problems --model model --data perl --output perl-eval --n 20 --temperature 0.8
  ms-codegeex evaluate perplexity --model model --data data/mine --output ppl
  ms-codegeex evaluate infilling --model model --data data/mine --output gaps --limit 200
  ms-codegeex evaluate reproduce codegeex --model model --data benchmarks --output paper --quick
  ms-codegeex evaluate reproduce codegen --url http://localhost:8000/v1 --data benchmarks --output paper
  ms-codegeex evaluate reproduce leaderboards --only humaneval evalplus --model model --output boards  # several
  ms-codegeex evaluate compare eval-fp32 eval-int8 eval-int4 --output compared
  ms-codegeex evaluate compare before=run/eval-1000 after=run/eval-2000 --output progress --most-answers 0
  ms-codegeex evaluate compare mine quantised --published figures.yaml --output compared"""
# keys of recipes that choose problems and prompts
NOT_DRAWN = ("languages", "translate_from", "tag", "form", "turns", "mode")


def keys_of(task: str) -> tuple[str, ...]:
    return tuple(each.name for each in declared(Recipe) if not (having := with_key(each.name)) or task in having)


def _of_model(title: str, sources: Iterable[str] | None, *more: str) -> list[type | OptionGroup]:
    return [
        OptionGroup(SourceOptions, sources, title=title),
        OptionGroup(LocalModel, ("adapter", "threads", "exact", "fast", "cpu_level", *more), over=True, title=title),
        OptionGroup(EngineOptions, ("device",), title=title),
    ]


def _of_benchmark(name: str) -> list[type | OptionGroup]:
    sources, drawing = "where samples come from", "how samples are drawn"
    judging = {each.name for each in declared(JudgingOptions)} - {"timeout", "python", "prompt_perplexity"}
    return [
        OptionGroup(FileOptions, ("data",), over=bool(BENCHMARKS[name].places)),
        OptionGroup(FileOptions, ("output", "json")),
        *_of_model(sources, None, "slots"),
        OptionGroup(ServerOptions, title=sources),
        OptionGroup(RecipeOption, title=drawing, text="instead of, or over, a recipe's values"),
        OptionGroup(Recipe, keys_of(name), over=True, title=drawing),
        OptionGroup(JudgingOptions, judging | {*BENCHMARKS[name].options}, title="judging"),
    ]


OTHERS = {  # tasks that are not benchmarks
    "perplexity": (
        "how likely a model finds texts",
        [FileOptions, *_of_model("the model", ("model", "checkpoint")), PerplexityOptions],
    ),
    "infilling": (
        "how likely a model finds text that was cut out of files",
        [FileOptions, *_of_model("the model", ("model", "checkpoint")), InfillingOptions],
    ),
    "reproduce": (
        "several evaluations one after the other: those of a paper, with its tables, or benchmarks as usually sampled",
        [
            ReproductionOptions,
            *_of_model("where samples come from", ("model", "checkpoint", "url"), "slots"),
            OptionGroup(ServerOptions, title="where samples come from"),
            OptionGroup(JudgingOptions, ("sandbox", "workers"), title="judging"),
        ],
    ),
    "compare": (
        "several evaluations of one benchmark in one report",
        [OptionGroup(FileOptions, ("output", "json")), ComparisonOptions],
    ),
    "check-problems": (
        "whether problems of your own are fit for use: references pass, wrong answers fail",
        [OptionGroup(FileOptions, ("data", "json")), OptionGroup(JudgingOptions, ("sandbox", "workers", "timeout"))],
    ),
}
# An abbreviation could be the whole name of another task's option.
OPTIONS = Actions(
    {**{name: (BENCHMARKS[name].summary, _of_benchmark(name)) for name in BENCHMARKS}, **OTHERS},
    name="task",
    abbreviated=False,
    alone=[TaskListOptions],
)


def run(arguments: argparse.Namespace) -> int | None:
    """Evaluate and print the result. The status is 1 when `reproduce` could not run an evaluation."""
    if arguments.task is None or arguments.list or arguments.list_json:
        return _list(arguments)
    others = {
        "compare": _compare,
        "perplexity": _perplexity,
        "infilling": _infilling,
        "check-problems": _check_problems,
        "reproduce": _reproduce,
    }
    return others.get(arguments.task, _judge)(arguments)


def _list(arguments: argparse.Namespace) -> None:
    if arguments.task is not None:
        word, remedy = ("list", "leave it out") if arguments.list else ("json", "put it after the task")
        raise UserError(f"--{word}: stands before {arguments.task}; {remedy}")
    if not arguments.list:
        raise UserError("TASK: missing; `ms-codegeex evaluate --list` names them")
    from ms_codegeex.extras.evaluation.benchmarks.registry import build_task

    tasks, lines = list[dict[str, Any]](), list[str]()
    for name, (summary, _) in OPTIONS.options.items():
        task: dict[str, Any] = {"task": name, "summary": summary}
        lines.append(f"{name}: {summary}")
        if name in BENCHMARKS:
            task |= {"problems": None, "data": None, "command": BENCHMARKS[name].command or None}
            try:
                task["data"] = str(find_data(name))
                task["problems"] = len(build_task(Recipe(name), Path(task["data"])).problems)
                lines.append(f"    {task['problems']} problems in {task['data']}")
            except UserError as error:
                getting = task["command"] or "docs/evaluation.md says where they come from"
                lines.append(f"    {error}" if task["data"] else f"    no problems found; {getting}")
        tasks.append(task)
    print_result({"tasks": tasks}, "\n".join(lines), arguments.list_json)


def _judge(arguments: argparse.Namespace) -> None:
    from ms_codegeex.extras.evaluation import session
    from ms_codegeex.extras.evaluation.reports import scores

    result = _evaluated(arguments)
    _print(arguments, result, scores.lines(result))
    session.raise_for_refused(result)


def _evaluated(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.data is None:
        arguments.data = find_data(arguments.task)
        print_error(f"--data: found {arguments.data}")
    files, source = given(FileOptions, arguments), given(SourceOptions, arguments)
    server, judging = given(ServerOptions, arguments), given(JudgingOptions, arguments)
    model = _local_model(arguments, needed=judging.prompt_perplexity)
    _check_source(arguments, files, source, judging)
    from ms_codegeex.extras.evaluation import session
    from ms_codegeex.extras.evaluation.benchmarks.registry import build_task
    from ms_codegeex.extras.evaluation.sampling import recipes

    recipe, limit = recipes.to_continue(arguments.task, arguments.recipe, files.output)
    recipe = recipes.over(recipe, **given_values(Recipe, arguments))
    task = build_task(recipe, files.data, judging.timeout, judging.python)
    identity = None if model is None else model.identity  # without reading the model, or asking a server
    if source.url:
        identity = partial(dict, model=server.url_model) if server.url_model else dict
    references = "check" if _draws(source, judging) else "only"
    options = session.Options(
        output=files.output,
        references="skip" if judging.skip_references else references if judging.check_references else "default",
        sandbox=judging.sandbox,
        timeout=judging.timeout,
        workers=judging.workers or available_cores(),
        sampler=_sampler(recipe, model, source, server),
        model=identity,
        given=source.samples,
        first=source.first,
        export=judging.export,
        limit=judging.limit or limit,
        judge=not judging.generate_only,
        engine=_engine(recipe, files.data, judging),
        prompt_perplexity=judging.prompt_perplexity,
    )
    return session.evaluate(task, recipe, options)


def _reproduce(arguments: argparse.Namespace) -> int:
    options = given(ReproductionOptions, arguments)
    if not arguments.model and not arguments.url:
        raise UserError("--model: missing; give --model DIR, or --url of a server")
    if model := _local_model(arguments):
        model.resolved()  # a wrong one is refused here, not by each evaluation
    from ms_codegeex.extras.evaluation.reports import reproduction

    paper, results = reproduction.paper(options.paper, options.only), []
    for number, part in enumerate(paper.parts, 1):
        print_error(f"{number} of {len(paper.parts)}: {part.title}")
        recipe = part.settings(options.quick)
        words = {"task": recipe.task, "recipe": part.recipe, "output": options.output / part.name, "n": recipe.n}
        words |= {"translate_from": part.translate_from, "languages": part.languages or None}
        words["limit"] = reproduction.QUICK["limit"] if options.quick else None
        words["prompt_perplexity"] = part.perplexity and model is not None
        try:
            results.append(
                reproduction.PartResult(part, _evaluated(argparse.Namespace(**{**vars(arguments), **words})))
            )
        except (UserError, RunFailure) as error:
            results.append(reproduction.PartResult(part, None, str(error)))
        gc.collect()  # the model of this evaluation, before the next one loads it
    failed = [each for each in results if each.report is None]
    if len(failed) == len(results):
        raise RunFailure(f"no evaluation of the paper could run: {failed[0].reason}")
    of = str(arguments.model or ", ".join(arguments.url))
    content = reproduction.write(options.output, paper, of, results, options.quick)
    _print(options, content, [f"{each.part.title}: {each.in_words}" for each in results], "index.html")
    return int(bool(failed or any(each.report["refused"] for each in results)))


def _perplexity(arguments: argparse.Namespace) -> None:
    files, settings = given(FileOptions, arguments), given(PerplexityOptions, arguments)
    model = _local_model(arguments, needed=True)
    from ms_codegeex.extras.evaluation.perplexity.corpus import evaluate_corpus

    how = (settings.window, settings.stride, settings.max_tokens)
    result = evaluate_corpus(model, files.data, files.output, *how)
    figures = result["perplexity"].items()
    lines = (f"{name}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}" for name, value in figures)
    _print(files, result, lines)


def _infilling(arguments: argparse.Namespace) -> None:
    files, settings = given(FileOptions, arguments), given(InfillingOptions, arguments)
    model = _local_model(arguments, needed=True)
    from ms_codegeex.extras.evaluation.infilling import COUNT, SEED, evaluate_infilling, lines

    seed = SEED if settings.seed is None else settings.seed
    result = evaluate_infilling(model, files.data, files.output, settings.limit or COUNT, seed)
    _print(files, result, lines(result))


def _compare(arguments: argparse.Namespace) -> None:
    settings = given(ComparisonOptions, arguments)
    from ms_codegeex.base.files import atomic_file, write_json
    from ms_codegeex.extras.evaluation.output_directory import sole_writer
    from ms_codegeex.extras.evaluation.reports import comparison, comparison_page
    from ms_codegeex.extras.evaluation.reports.published import read_published

    evaluations = comparison.read_evaluations(arguments.compared)
    result = comparison.compare(evaluations, settings.verdicts, read_published(settings.published))
    page = comparison_page.render(result, evaluations, settings.most_answers)
    with sole_writer(arguments.output):
        write_json(arguments.output / "comparison.json", result)
        with atomic_file(arguments.output / "comparison.html") as temporary:
            temporary.write_text(page, encoding="utf-8")
    _print(arguments, result, comparison.lines(result), "comparison.html")


def _check_problems(arguments: argparse.Namespace) -> None:
    judging = given(JudgingOptions, arguments)
    from ms_codegeex.extras.evaluation.checking import check_problems, lines, raise_for_faults

    workers = judging.workers or available_cores()
    result = check_problems(arguments.data, judging.sandbox, workers, judging.timeout)
    print_result(result, "\n".join(lines(result)), arguments.json)
    raise_for_faults(arguments.data, result)


def _print(files: Any, result: Mapping[str, Any], lines: Iterable[str], page: str = "report.html") -> None:
    print_result(result, "\n".join([*lines, f"report: {files.output / page}"]), files.json)


def _draws(source: SourceOptions, judging: JudgingOptions) -> bool:
    return bool(source.model or source.url or source.samples or judging.judge_only)


def _check_source(
    arguments: argparse.Namespace, files: FileOptions, source: SourceOptions, judging: JudgingOptions
) -> None:
    """`UserError` for options that contradict each other."""
    if source.model is None:
        refuse(arguments, LocalModel, "only for --model, our own engine", over=True)
        refuse(arguments, EngineOptions, "only for --model, our own engine", ("device",))
    if not source.url:
        refuse(arguments, ServerOptions, "only for --url, a server")
    if arguments.chat_template is not None and not arguments.chat:
        raise UserError("--chat-template: is for --chat; add --chat, or leave this option out")
    if judging.judge_only and (source.model or source.url):
        raise UserError("--judge-only: draws no samples; leave --model and --url out")
    if source.samples or judging.judge_only:
        drawn = [each.name for each in declared(Recipe) if each.name not in NOT_DRAWN]
        words = "--samples" if source.samples else "--judge-only"
        refuse(arguments, Recipe, f"{words} draws no samples", drawn, over=True)
    if source.first is not None and not source.samples:
        raise UserError("--first: is for --samples; leave it out, or give --samples")
    if judging.ray_address is not None and judging.judge_engine != "ray":
        raise UserError("--ray-address: is for --judge-engine ray; leave it out, or add --judge-engine ray")
    if judging.judge_engine == "ray" and judging.generate_only:
        raise UserError("--judge-engine ray: --generate-only judges nothing; leave one of them out")
    translated = getattr(arguments, "translate_from", None)
    if translated and translated in (arguments.languages or ()):
        raise UserError(f"--language: {translated} is also --translate-from; leave one of them out")
    resumable = (files.output / "samples.jsonl").exists()
    if not _draws(source, judging) and not resumable and not judging.check_references:
        raise UserError("--model: missing; give --model, --url or --samples, or --check-references alone")


def _engine(recipe: Recipe, data: Path, judging: JudgingOptions) -> Any:
    if judging.judge_engine == "pool":
        return None
    from ms_codegeex.extras.evaluation.benchmarks.registry import build_task

    python = judging.python.absolute() if judging.python else None
    build = partial(build_task, recipe, data.absolute(), judging.timeout, python)
    open_nodes = extra("evaluate --judge-engine", "ray")
    return partial(open_nodes, judging.ray_address or "auto", build, judging.sandbox, judging.workers)


def _sampler(recipe: Recipe, model: LocalModel | None, source: SourceOptions, server: ServerOptions) -> Any:
    """A function that makes the sampler when it is needed, which for a model takes seconds."""
    from ms_codegeex.extras.evaluation.sampling.samplers import (
        EngineSampler,
        ServerSampler,
        open_servers,
        read_template,
    )

    if model is not None:
        return partial(EngineSampler, model, recipe)
    if source.url:
        key, fields = text_options.read_key(server.api_key_file), _fields(server.url_field)
        how = {"concurrency": server.concurrency, "timeout": server.url_timeout}
        template = read_template(server.chat_template) if server.chat else None
        make = partial(
            ServerSampler, recipe=recipe, model=server.url_model, key=key, fields=fields, template=template, **how
        )
        return partial(open_servers, source.url, make)
    return None


def _local_model(arguments: argparse.Namespace, needed: bool = False) -> LocalModel | None:
    """`--model` and how it runs; None without one, or if it is `needed` a `UserError`."""
    cpu_level(arguments.cpu_level or AUTO)
    if needed and not arguments.model:
        raise UserError("--model: missing; give it, and no server or samples, which give no probabilities of a text")
    if arguments.model is None:
        if getattr(arguments, "checkpoint", None) is not None:
            raise UserError("--checkpoint: is for a run given as --model; leave it out")
        return None
    from ms_codegeex.generation.loading import at_checkpoint

    if arguments.device:
        text_options.prepare_device(arguments.device)
        from ms_codegeex.generation.targets import use_device

        use_device(arguments.device)
    slots = {} if not hasattr(arguments, "slots") else {"slots": arguments.slots}  # None: what fits into memory
    return given(LocalModel, arguments, path=at_checkpoint(arguments.model, arguments.checkpoint), **slots)


def _fields(words: Iterable[str]) -> dict[str, Any]:
    fields = {}
    for word in words:
        name, separator, value = word.partition("=")
        if not name or not separator:
            raise UserError(f"--url-field: {word}: expected NAME=VALUE, such as top_k=-1")
        try:
            fields[name] = parse_json(value)
        except MalformedText:
            fields[name] = value
    return fields
