"""`ms-codegeex inspect`: show and verify the content of a dataset, a model directory, a checkpoint or a run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ms_codegeex.base.errors import UserError, escaped, located
from ms_codegeex.base.extras import extra
from ms_codegeex.base.kinds import refuse_other_kind
from ms_codegeex.base.options import REQUIRED, option
from ms_codegeex.base.printing import (
    print_coloured,
    print_content,
    print_error,
    print_json,
    print_lines,
    print_out,
    visible,
)
from ms_codegeex.base.reading import read_json
from ms_codegeex.base.yaml_reading import read_yaml_file
from ms_codegeex.data.summary_lines import dataset_lines

if TYPE_CHECKING:
    from ms_codegeex.data.inspection import Dataset

SUMMARY = "show and verify the content of a dataset, a model directory, a .gguf, a checkpoint or a run"
EXAMPLES = """\
  ms-codegeex inspect corpus                                # counts; sizes, offsets, ids, end tokens, masks, hashes
  ms-codegeex inspect corpus --deep                         # every document decoded and compared with its hash
  ms-codegeex inspect corpus --document 3 --split validation
  ms-codegeex inspect corpus --sample 17 --seq-length 2048  # training sample 17, and the documents it comes from
  ms-codegeex inspect corpus --report                       # path of the report for a browser
  ms-codegeex inspect model                                 # family, sizes, parameters, tokenizer, files
  ms-codegeex inspect model --tensors                       # and every tensor
  ms-codegeex inspect model.gguf                            # architecture, keys, types of the tensors
  ms-codegeex inspect model.pt                              # what its pickle asks for that our reader refuses
  ms-codegeex inspect model --set licence=apache-2.0        # into the model card, serving.json and provenance.json
  ms-codegeex inspect model --set chat=@template.jinja      # or chat=plain, card=@README.md
  ms-codegeex inspect runs/tiny                             # configuration, last losses, checkpoints and their verdicts
  ms-codegeex inspect runs/tiny/checkpoints/step-00000240   # its tensors, all hashes checked
"""
MARKERS = ("manifest.json", "quantised.json", "config.json", "adapter_config.json", "config.yaml")
NAMED = 6  # folders named in a message
UNCOUNTED, END = ("\u27e6", "\u27e7"), "\u27e8eos\u27e9"  # marks of uncounted tokens; of the end token
GREEN, DIM, PLAIN = "\x1b[32m", "\x1b[2m", "\x1b[0m"


@dataclass(frozen=True)
class Arguments:
    """What to show."""

    directory: Path = option(
        "dataset, model directory, .gguf, checkpoint or run; of a .pt, .bin or .ckpt, what our reader refuses",
        "DIR",
        REQUIRED,
        positional=True,
    )
    document: int | None = option("print the text of document N (from 0) of a dataset", "N", either="what")
    sample: int | None = option(
        "show training sample N (from 0): its documents, and which tokens the loss counts", "N", either="what"
    )
    deep: bool = option("also decode every document and compare it with its hash", default=False, either="what")
    tensors: bool = option(
        "list every tensor of a model directory, a .gguf or a checkpoint", default=False, either="what"
    )
    report: bool = option("print the path of the dataset's report.html", default=False, either="what")
    set: tuple[str, ...] = option(
        "write what you say of a model into its directory, and into provenance.json: licence, chat, infill, tags, base "
        "or card; nothing after = removes it (docs/provenance.md)",
        "KEY=VALUE|KEY=@FILE",
        (),
        repeated=True,
        either="what",
    )
    split: Literal["train", "validation"] = option("where to look for the document or the sample", default="train")
    seq_length: int | None = option(
        "the run's data.seq_length, for --sample (default: that of a fine-tuning dataset, otherwise 2048)", "N"
    )
    seed: int = option("the run's seed (default: 1234, as there)", "N", 1234)
    functions_from: int | None = option(
        "for --sample, if the run has data.functions_from: its value times the global batch", "N"
    )
    json: bool = option("print one JSON object on standard output", default=False)


def run(arguments: Arguments) -> int:
    """Verify and describe the directory. `UserError` if damaged. Return 1 if our reader refuses the file, else 0."""
    directory: Path = arguments.directory
    if arguments.set:
        _set(arguments)
        return 0
    if (directory / "dataset.json").is_file():
        if arguments.tensors:
            raise UserError(f"{directory}: a dataset has no tensors; leave out --tensors")
        _run_dataset(arguments)
        return 0
    from ms_codegeex.formats.files import gguf_file

    directory = _model_in(gguf_file(directory) or directory)
    kind, describe, lines, lists_tensors = _kind_of(directory)
    for name in ("document", "sample", "deep", "report"):
        given = getattr(arguments, name)
        if given is not None and given is not False:
            raise UserError(f"{directory}: a {kind} has no documents; leave out --{name}")
    if arguments.tensors and not lists_tensors:
        raise UserError(f"{directory}: the tensors of a {kind} are not listed; leave out --tensors")
    result = describe(directory)
    known = _known(directory, result)
    if arguments.json:
        print_json(result)
    else:
        print_lines(lines(result, arguments.tensors) if lists_tensors else lines(result))
        print_lines(known)
    return int(result.get("readable") is False)


def _set(arguments: Arguments) -> None:
    from ms_codegeex.data.jinja_templates import JinjaChat, JinjaTemplate
    from ms_codegeex.formats import edits
    from ms_codegeex.generation.loading import load_model

    def check(directory: Path) -> None:
        if not (directory / "adapter_config.json").is_file():  # an adapter is checked together with its model
            model = load_model(directory)
            chat = model.checked(model.description, directory).chat
            if isinstance(chat, JinjaTemplate) and "chat" in dict(pairs):  # rendering proves the template valid
                special = model.tokenizer.special_texts()
                with closing(JinjaChat(chat, special)) as template, located("--set chat"):
                    template.prompt([("user", "Hello.")])

    pairs = edits.assignments(arguments.set)
    written = edits.apply(edits.directories(arguments.directory), pairs, check)
    if arguments.json:
        print_json({"set": [key for key, _ in pairs], "files": {str(place): names for place, names in written.items()}})
    else:
        print_lines(line for place, names in written.items() for line in edits.lines(place, names, pairs))


def _model_in(path: Path) -> Path:
    from ms_codegeex.formats.files import find_model

    if not path.is_dir() or any((path / marker).is_file() for marker in MARKERS):
        return path
    with suppress(UserError):  # `_kind_of` reports it and names everything that can be shown
        found = find_model(path)
        inner = found.place.folder
        if inner != path and any((inner / marker).is_file() for marker in MARKERS):
            for line in found.passed_over({inner / name for name in found.place.files}):
                print_error(line)
            return inner
    return path


def _kind_of(path: Path) -> tuple[str, Callable[..., dict[str, Any]], Callable[..., Iterable[str]], bool]:
    from ms_codegeex.formats.files import is_gguf

    if is_gguf(path):
        return extra("inspect", "gguf")
    if path.is_file() and path.suffix in (".json", ".yaml", ".yml"):
        content = None
        with suppress(UserError):
            content = (read_json if path.suffix == ".json" else read_yaml_file)(path)
        refuse_other_kind(path, content)
    if path.suffix in (".json", ".jsonl", ".yaml", ".yml", ".idx") or ".tfevents." in path.name:
        raise UserError(f"{path}: holds no weights; give the directory of the dataset, model or run that has it")
    if path.is_file():
        return extra("inspect", "weights")
    if not path.is_dir():
        raise UserError(f"{path}: no such directory; give a dataset, a model directory, a checkpoint or a run")
    from ms_codegeex.formats import model_description as models
    from ms_codegeex.formats import peft
    from ms_codegeex.runs.files import run_description as runs

    kinds = {  # identifying file -> kind
        "manifest.json": ("checkpoint", models.describe_checkpoint, models.checkpoint_lines, True),
        "quantised.json": ("quantised model", _describe_quantised, _quantised_lines, False),
        "config.json": ("model directory", models.describe_model, models.model_lines, True),
        "adapter_config.json": ("directory of adapters", peft.summary, _adapters_lines, False),
        "config.yaml": ("run directory", runs.describe_run, runs.run_lines, False),
    }
    for marker, kind in kinds.items():
        if (path / marker).is_file():
            return kind
    wrong = "neither a dataset (dataset.json) nor a model (config.json or quantised.json), a checkpoint "
    wrong += "(manifest.json) or a run (config.yaml)"
    below = sorted(file.parent for marker in ("dataset.json", *kinds) for file in path.glob(f"*/{marker}"))
    names = ", ".join(map(str, below[:NAMED])) + ", …" * (len(below) > NAMED)
    remedy = f"name one in it, such as {names}" if below else "see `prepare`, `convert`, `quantize` and `train`"
    raise UserError(f"{path}: {wrong}; {remedy}")


def _known(path: Path, result: dict[str, Any]) -> list[str]:
    from ms_codegeex.data.description import description_from
    from ms_codegeex.formats.peft import description_of

    with suppress(UserError):  # model readers report errors; a run may have no checkpoint yet
        if path.is_dir() and "description" not in result:
            result["description"] = description_of(path).to_json()
        return [*description_from(result.get("description", {}), path).lines()]
    return []


def _adapters_lines(adapters: dict[str, Any]) -> Iterator[str]:
    yield f"adapters: rank {adapters['rank']}, alpha {adapters['alpha']:g}, of {', '.join(adapters['modules'])}"
    yield f"for the model: {adapters['model']}"
    yield from (f"not read here: {reason}" for reason in adapters["refused"])
    yield f"parameters: {adapters['parameters']:,}, {adapters['bytes']:,} bytes"


def _describe_quantised(directory: Path) -> dict[str, Any]:
    from ms_codegeex.formats.safetensors_file import SafetensorsFile
    from ms_codegeex.generation.quantised import TENSORS, QuantisedModel

    model, file = QuantisedModel(directory), SafetensorsFile(directory / TENSORS)
    for tensor in file.tensors.values():
        tensor.array()
    return {
        "kind": "quantised model",
        "directory": str(directory),
        "family": model.family.name,
        "parameters": model.original.parameter_count(),
        "bits": model.bits,
        "group": model.group,
        "tensors": len(file.tensors),
        "bytes": (directory / TENSORS).stat().st_size,
    }


def _quantised_lines(model: dict[str, Any]) -> Iterator[str]:
    shared = f"a scale for {model['group']} numbers" if model["group"] else "a scale for each row"
    yield f"quantised model: {model['family']}, {model['parameters']:,} parameters"
    yield f"matrices of {model['bits']} bits, {shared}"
    yield f"verified: {model['tensors']} tensors, {model['bytes']:,} bytes, all checksums are right"


def _run_dataset(arguments: Arguments) -> None:
    from ms_codegeex.data import inspection

    dataset = inspection.open_dataset(arguments.directory)
    if arguments.document is not None:
        key, content = "document", inspection.read_document(dataset, arguments.split, arguments.document)
    elif arguments.sample is not None:
        selection = arguments.split, arguments.sample, arguments.seq_length, arguments.seed
        key, content = "sample", inspection.read_sample(dataset, *selection, arguments.functions_from)
    elif arguments.report:
        key, content = "report", inspection.report_path(dataset)
    else:
        _verify(arguments, dataset)
        return
    result = _fields(arguments, dataset, verified=False)
    if arguments.json:
        print_json({**result, key: content})
    elif key == "document":
        of = f"document {content['number']} of {content['split']}, {content['tokens']} tokens"
        print_error(f"{of}: {_origin(content)}")
        print_content(content["text"] if content["text"].endswith("\n") else content["text"] + "\n")
    elif key == "sample":
        print_coloured("\n".join(sample_lines(content, sys.stdout.isatty())))
    else:
        print_out(str(content))


def _fields(arguments: Arguments, dataset: Dataset, verified: bool) -> dict[str, Any]:
    description = dict(dataset.description)
    kinds = {"kind": "dataset", "directory": str(arguments.directory), "verified": verified}
    return {**kinds, "data": description.pop("kind", "documents"), **description}


def _verify(arguments: Arguments, dataset: Dataset) -> None:
    from ms_codegeex.data.inspection import verify_dataset

    verify_dataset(dataset)
    checked = "sizes, offsets, ids, end tokens and hashes"
    result = _fields(arguments, dataset, verified=True)
    lossy = 0
    if arguments.deep:
        lossy = _deep(dataset)
        checked = f"{checked}, and the text of every document,"
        result["deep"] = {"documents": sum(map(len, dataset.splits.values())), "not_comparable": lossy}
    if arguments.json:
        print_json(result)
        return
    print_lines([*dataset_lines(dataset.description), f"verified: {checked} are right"])
    if lossy:
        print_out(f"{lossy} documents {dataset.tokenizer().changes}; they cannot be compared")


def _deep(dataset: Dataset) -> int:
    from tqdm import tqdm

    from ms_codegeex.data.inspection import deep_check

    tokenizer, lossy, done, started = dataset.tokenizer(), 0, 0, time.perf_counter()
    total = sum(counts.get("bytes", 0) for counts in dataset.description["splits"].values())
    with tqdm(total=total, unit="B", unit_scale=True, desc="decoding", disable=None) as bar:  # only on a terminal
        for split in dataset.splits:
            for size, unsure in deep_check(dataset, split, tokenizer):
                lossy, done = lossy + unsure, done + size
                bar.update(size)
        elapsed = time.perf_counter() - started
    print_error(f"decoded {done / 1e6:.1f} MB, {done / 1e6 / max(elapsed, 1e-9):.1f} MB/s")
    return lossy


def _origin(entry: dict[str, Any]) -> str:
    if entry["source"] is None:
        return "source not recorded"
    return escaped(f"{entry['source']}, {entry['language'] or 'no language'}, sha256 {entry['sha256'][:16]}")


def sample_lines(sample: dict[str, Any], colour: bool) -> Iterator[str]:
    """Yield a training sample as lines for people. `colour`: mark the counted tokens with terminal colours."""
    tokens = f"{sample['seq_length']} + 1 tokens, {sample['counted']} count in the loss"
    title = f"sample {sample['number']} of {sample['split']} with seed {sample['seed']}"
    yield f"{title}: row {sample['index']}, {tokens}"
    legend = f"not counted: {UNCOUNTED[0]}like this{UNCOUNTED[1]}"
    if colour:
        legend = f"{GREEN}counted{PLAIN} {DIM}not counted{PLAIN}"
    yield f"{legend}; end of a document: {END}"
    for part in sample["documents"]:
        yield f"--- document {part['number']}, tokens {part['start']}..{part['stop'] - 1}: {_origin(part)}"
        marks = {True: (GREEN, PLAIN), False: (DIM, PLAIN)} if colour else {True: ("", ""), False: UNCOUNTED}
        pieces = []
        for run in part["runs"]:
            text = END if run.get("end") else visible(run.get("text", f"<{run.get('sentinel')}>"))
            pieces.append(f"{marks[run['counted']][0]}{text}{marks[run['counted']][1]}")
        yield "".join(pieces)
    if sample["padding"]:
        yield f"--- padding: {sample['padding']} tokens"
