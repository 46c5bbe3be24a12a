"""`ms-codegeex convert`: convert a model between formats."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ms_codegeex.base.ending import open_closed_streams, print_failure
from ms_codegeex.base.errors import UserError, escaped
from ms_codegeex.base.extras import extra, registered
from ms_codegeex.base.json_reading import MalformedText, parse_json
from ms_codegeex.base.options import REQUIRED, add_options, given, option
from ms_codegeex.base.printing import print_error, print_result
from ms_codegeex.base.verb_options import CHECKPOINT, NON_FINITE

SUMMARY = "convert a model between our runs, model directories, PyTorch and MindSpore checkpoints"
EXAMPLES = """\
  ms-codegeex convert --model runs/tiny --to hf --output tiny-hf --verify
  ms-codegeex convert --model runs/tiny --to megatron --dtype fp16 --output codegeex.pt
  ms-codegeex convert --model codegeex_13b.pt --to hf --output codegeex-13b-hf
  ms-codegeex convert --model codegen-350M-mono --to mindspore --output codegen.ckpt
  ms-codegeex convert --model runs/tiny --to mindspore --layout mindformers --output tiny-mindformers
  ms-codegeex convert --model codegeex_13b.pt --to megatron --tensor-parallel 8 --output codegeex-13b-mp8
  ms-codegeex convert --model codegeex2-6b --to gguf --dtype q8_0 --output codegeex2-gguf"""

TARGETS = ("hf", "gptj", "megatron", "mindspore", *registered("convert --to"))


@dataclass(frozen=True)
class Arguments:
    """What to convert, and how."""

    model: Path = option(
        "run, checkpoint or model directory, .pt, mp_rank_XX files, .ckpt, rank files, a folder of .npy or a .gguf "
        "(detected from the content)",
        "IN",
        REQUIRED,
    )
    checkpoint: str | None = CHECKPOINT.field(None, kw_only=True)
    to: Literal[TARGETS] = option(
        "hf: a model directory with safetensors; gptj: the same of a CodeGen as a GPT-J, for programs that have no "
        "CodeGen, such as vLLM and SGLang; megatron: a nested PyTorch .pt file; "
        "mindspore: a .ckpt file with the original names; gguf: a directory for llama.cpp, Ollama and LM Studio",
        default=REQUIRED,
    )
    output: Path = option(
        "a directory for hf, gptj, gguf, --layout mindformers or --tensor-parallel, otherwise a file, or a directory "
        "for it",
        "OUT",
        REQUIRED,
    )
    layout: Literal["ckpt", "mindformers"] = option(
        "mindspore: mindformers is the directory from which its Trainer takes weights (checkpoint.load_path)",
        default="ckpt",
    )
    tensor_parallel: int = option("megatron, mindspore: write one file for each of N tensor-parallel ranks", "N", 1)
    dtype: Literal["fp32", "fp16", "bf16", "f32", "f16", "q8_0", "q4_0"] | None = option(
        "cast every tensor (default: keep the dtypes of IN); f32, f16, q8_0 and q4_0 are for gguf, whose norms and "
        "biases stay FP32"
    )
    tokenizer: str | None = option(
        "hf, gptj, gguf: the model's tokenizer (default: the one recorded in IN or stored next to it)", "NAME|DIR"
    )
    keep_code: bool = option(
        "hf: also copy the Python files of the model directory IN and keep its auto_map; whoever loads OUT with "
        "trust_remote_code runs that code (default: only data files and our own classes)",
        default=False,
    )
    verify: bool = option("read the output back and compare every byte", default=False)
    replace: bool = option("replace the output of an earlier conversion at OUT", default=False)
    non_finite: bool = NON_FINITE.field(False)
    sizes: tuple[str, ...] = option(
        "a size that IN lacks, such as num_heads=40; may be repeated", "KEY=VALUE", (), repeated=True, flag="set"
    )
    json: bool = option("print the result as one JSON object on standard output", default=False)


def known_sizes(settings: Iterable[str]) -> dict[str, Any]:
    """Parse NAME=VALUE settings of `--set`: numbers, true, false, words such as fp16. `UserError` for others."""
    known: dict[str, Any] = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        if not value:
            raise UserError(f"--set {setting}: expected NAME=VALUE, for example num_heads=40")
        try:
            known[key] = parse_json(value)
        except MalformedText:
            known[key] = {"true": True, "false": False}.get(value.lower(), value)
    return known


def run(arguments: Arguments, ranks: int | None = None) -> None:
    """Convert the model and print what was written. `ranks`: the expected number of rank files, None if any."""
    from ms_codegeex.formats.convert import convert
    from ms_codegeex.formats.files import chosen_place, gguf_file
    from ms_codegeex.formats.sources import open_source

    if arguments.keep_code and (arguments.to != "hf" or arguments.tokenizer is not None):
        raise UserError("--keep-code: is for the tokenizer of IN; give --to hf without --tokenizer, or leave it out")
    if arguments.layout == "mindformers" and arguments.to != "mindspore":
        raise UserError("--layout: mindformers is one of MindSpore's; choose --to mindspore, or leave the option out")
    if (file := gguf_file(arguments.model)) is not None:
        if arguments.keep_code:
            raise UserError(f"--keep-code: {arguments.model} has no code to keep; leave the option out")
        source = extra("convert --model", "gguf")(file, known_sizes(arguments.sizes))
    else:
        model = chosen_place(arguments.model, arguments.checkpoint)
        source = open_source(model, known_sizes(arguments.sizes), arguments.keep_code)
    if ranks not in (None, source.ranks):
        said = f"--source-tensor-model-parallel-size says {ranks}; is a file missing, or one too many?"
        raise UserError(f"{arguments.model}: is split over {source.ranks} ranks, {said}")
    if arguments.tokenizer is not None:
        from ms_codegeex.data.tokenizer import load_tokenizer

        tokenizer = load_tokenizer(arguments.tokenizer)
        end = {"eos_token_id": tokenizer.eos_id} if tokenizer.eos_id < source.config.vocab_size else {}
        source = replace(source, save_tokenizer=tokenizer.save, fields=source.fields | end)
    result = convert(
        source,
        "mindformers" if arguments.layout == "mindformers" else arguments.to,
        arguments.output,
        tensor_parallel=arguments.tensor_parallel,
        dtype=arguments.dtype,
        verify=arguments.verify,
        replace=arguments.replace,
        non_finite=arguments.non_finite,
        origin={"command": "convert", **_choices(arguments)},
    )
    if not arguments.json:
        for warning in _warnings(result):
            print_error(warning)
    verified = ", read back and equal byte for byte" if result["verified"] else ""
    files = f" in each of {result['files']} files" if result["files"] > 1 else ""
    text = (
        f"{result['output']}: {result['tensors']} tensors{files}, {result['parameters']:,} parameters, "
        f"{result['bytes']:,} bytes of {'/'.join(result['dtypes'])}{verified}"
    )
    print_result(result, text, arguments.json)


def _choices(arguments: Arguments) -> dict[str, Any]:
    tokenizer = None if arguments.tokenizer is None else Path(arguments.tokenizer).name
    chosen = {"tokenizer": tokenizer, "keep_code": arguments.keep_code, "set": [*arguments.sizes]}
    return {name: value for name, value in chosen.items() if value}


def _warnings(result: dict[str, Any]) -> Iterator[str]:
    output, guessed, left_out = (result[key] for key in ("output", "guessed", "left_out"))
    if result["to"] in ("hf", "gptj") and not result["tokenizer"]:
        remedy = "add its files, or convert with --tokenizer NAME|DIR"
        yield f"{output}: has no tokenizer, because IN does not say which one it uses; {remedy}"
    if guessed:
        sizes = ", ".join(f"{name} {value}" for name, value in guessed.items())
        remedy = "if the model differs, convert again with --set NAME=VALUE"
        yield f"guessed, because IN does not record it: {sizes} (from the preset of the same width and depth); {remedy}"
    yield from (f"{output}: {warning}" for warning in result["warnings"])
    if left_out:
        others = f" and {len(left_out) - 3} more" if len(left_out) > 3 else ""
        names = f"{', '.join(map(escaped, left_out[:3]))}{others}, which are not data of a known kind"
        keep = "--keep-code keeps Python files, which run wherever the model is loaded"
        yield f"left out of {output}: {names}; {keep}"


# Options of the original tools: sizes, which must match the tensors, and options without effect on a conversion.
_SIZES = {
    "--num-layers": ("num_layers", int),
    "--hidden-size": ("hidden_size", int),
    "--num-attention-heads": ("num_heads", int),
    "--max-position-embeddings": ("max_position_embeddings", int),
    "--padded-vocab-size": ("vocab_size", int),
    "--layernorm-epsilon": ("layer_norm_eps", float),
}
_UNUSED = (
    *("--load", "--make-vocab-size-divisible-by", "--micro-batch-size", "--seq-length", "--tokenizer-type"),
    *("--ws-encoding-start-id", "--ws-encoding-length"),
)
_UNUSED_FLAGS = ("--attention-softmax-in-fp32", "--fp16", "--ln-fp16")


def script(to: str, description: str, ranks: int = 1, argv: Sequence[str] | None = None) -> int:
    """Run a script of `converters/`: one direction, with the option names of the original tools. Return its exit
    status.

    `to`: hf, megatron or mindspore. `ranks`: the default number of tensor-parallel files.
    """
    split = "" if to == "hf" else " [--target-tensor-model-parallel-size N] [--save-name FILE]"
    usage = f"python converters/%(prog)s --load-ckpt-path IN --save-ckpt-path OUT{split} [--dtype fp16] [--verify] ..."
    parser = argparse.ArgumentParser(usage=usage, description=description, allow_abbrev=False)
    parser.add_argument("--load-ckpt-path", "--npy-ckpt-path", type=Path, required=True, metavar="IN", dest="model")
    parser.add_argument("--save-ckpt-path", type=Path, required=True, metavar="OUT", dest="output")
    number = {"type": int, "metavar": "N"}
    expected = "expected number of rank files in IN"
    parser.add_argument("--source-tensor-model-parallel-size", dest="source_ranks", help=expected, **number)
    if to != "hf":
        written = f"number of rank files to write (default: {ranks})"
        words = {"dest": "tensor_parallel", "default": ranks, "help": written, **number}
        parser.add_argument("--target-tensor-model-parallel-size", **words)
        parser.add_argument("--save-name", metavar="FILE", help="name of the file in OUT")
    add_options(parser, Arguments, ("dtype", "verify", "sizes"))
    used = "the model's tokenizer" if to == "hf" else "no effect: this format has no tokenizer files"
    parser.add_argument("--tokenizer-path", metavar="DIR", help=used)
    group = parser.add_argument_group("sizes of the model that IN does not record")
    for name, (field, kind) in _SIZES.items():
        group.add_argument(name, type=kind, metavar="N", dest=f"size_{field}")
    group = parser.add_argument_group("accepted without effect, for command lines of the original tools (see --dtype)")
    for name in _UNUSED:
        group.add_argument(name, metavar="X")
    for name in _UNUSED_FLAGS:
        group.add_argument(name, action="store_true")
    open_closed_streams()
    arguments = parser.parse_args(argv)
    sizes = {field: getattr(arguments, f"size_{field}") for field, _ in _SIZES.values()}
    values = {"to": to, "tokenizer": arguments.tokenizer_path if to == "hf" else None}
    values["sizes"] = [f"{field}={size}" for field, size in sizes.items() if size is not None] + (arguments.sizes or [])
    if to != "hf" and arguments.save_name is not None:
        values["output"] = arguments.output / arguments.save_name
    try:
        run(given(Arguments, arguments, **values), arguments.source_ranks)
    except (Exception, KeyboardInterrupt) as error:
        return print_failure(parser.prog, error)
    return 0
