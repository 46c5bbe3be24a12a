"""`ms-codegeex generate`: text on standard output."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.printing import print_content, print_error, print_json
from ms_codegeex.base.reading import given_text
from ms_codegeex.commands import decoding
from ms_codegeex.generation.levels import cpu_level

if TYPE_CHECKING:
    from ms_codegeex.data.tokenizer import Tokenizer
    from ms_codegeex.generation.answers import Answer
    from ms_codegeex.generation.engine import Generator
    from ms_codegeex.generation.sampling import SamplingSettings
    from ms_codegeex.generation.stopping import Rule

SUMMARY = "continue a prompt with a trained model"
EXAMPLES = """  ms-codegeex generate --model runs/codegeex_tiny --language Python --prompt "import os"
  ms-codegeex generate --model runs/codegeex_tiny/huggingface --prompt-file start.py --temperature 0.2
  ms-codegeex generate --model runs/codegeex_tiny --prompt "# language: Python" --greedy --json
  ms-codegeex generate --model DIR --language Python --prompt-file start.py --stop-at block --repetition-penalty 1.1
  ms-codegeex generate --model DIR --prompt "x = [1," --n 4 --stop "\\n\\n" --stop "]" --logit-bias 198=-100
  ms-codegeex generate --model DIR --prompt "x = [1," --beams 8 --n 3 --log-probabilities 5 --json
  ms-codegeex generate --model DIR --adapter runs/tuned/adapter --prompt-file start.py"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "--model", required=True, metavar="DIR", help="model directory (quantised or not), run directory or checkpoint"
    )
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument(
        "--prompt", metavar="TEXT", help="text to continue; a bare language tag gets the newline that the model expects"
    )
    prompt.add_argument("--prompt-file", metavar="FILE", help="read the prompt from a file (- is standard input)")
    parser.add_argument("--language", metavar="NAME", help="put this language's tag in front of the prompt")
    parser.add_argument(
        "--cut-prompt", action="store_true", help="drop the start of a prompt that is too long instead of refusing it"
    )
    decoding.configure(parser, "log_probabilities", "n", "beams", "length_penalty")
    parser.add_argument(
        "--logit-bias",
        action="append",
        default=[],
        metavar="ID=VALUE",
        help="add a number to a token's logit; -100 effectively forbids it; may be repeated",
    )
    decoding.configure_stop(parser)
    decoding.configure_stop_at(parser)
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads of the compiled operators (default: one per core; 0: MindSpore's own operators)",
    )
    decoding.configure_cpu_level(parser)
    parser.add_argument(
        "--speculate",
        metavar="ngram|DIR",
        help="guess tokens from the text so far, or by a smaller model of the same tokenizer; the text stays the same",
    )
    parser.add_argument(
        "--adapter", metavar="DIR", help="a LoRA adapter on the model: a run, or a directory in PEFT's layout"
    )
    parser.add_argument(
        "--fast", action="store_true", help="round activations too (quantised models on a CPU): faster, less exact"
    )
    parser.add_argument(
        "--cache-bits",
        type=int,
        choices=(32, 16),
        default=32,
        help="bits of a number in the KV cache: FP32 or FP16 (default: 32)",
    )
    decoding.configure_device(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of streamed text")


def _prompt(arguments: argparse.Namespace) -> str:
    from ms_codegeex.data.languages import LANGUAGES, find_language

    text = arguments.prompt or ""
    if arguments.prompt_file:
        text = given_text(arguments.prompt_file, "--prompt-file")
    if arguments.language:
        return f"{find_language(arguments.language).tag}\n{text}"
    # training documents start with a tag line, which ends with a newline
    return f"{text}\n" if any(text == known.tag for known in LANGUAGES) else text


def _biases(given: Sequence[str]) -> dict[int, float]:
    found = {}
    for text in given:
        number, _, value = text.partition("=")
        try:
            found[int(number)] = float(value)
        except ValueError:
            raise UserError(
                f"--logit-bias: {text} is not ID=VALUE; give a token's id and a number, for example 198=-100"
            ) from None
    return found


def _settings(arguments: argparse.Namespace) -> SamplingSettings:
    if arguments.log_probabilities and not arguments.json:
        raise UserError("--log-probabilities: plain text cannot show them; add --json")
    return decoding.settings(arguments, logit_bias=_biases(arguments.logit_bias))


def _rule(arguments: argparse.Namespace, prompt: str) -> Rule | None:
    """The rule of --stop-at."""
    from ms_codegeex.data.languages import LANGUAGES
    from ms_codegeex.generation.stopping import block

    if arguments.stop_at is None:
        return None
    tag = prompt.partition("\n")[0]
    language = arguments.language or next((known.name for known in LANGUAGES if known.tag == tag), None)
    if language is None:
        raise UserError("--stop-at: the prompt's language is unknown; name it with --language")
    return block(language, prompt)


def _described(answer: Answer, tokenizer: Tokenizer, reported: bool) -> dict[str, Any]:
    """JSON values of an answer."""

    def token(number: int, score: float) -> dict[str, Any]:
        return {
            "id": number,
            "text": tokenizer.token_bytes(number).decode("utf-8", "replace"),
            "log_probability": score,
        }

    described: dict[str, Any] = {"text": answer.text, "finish": answer.finish, "new_tokens": len(answer.tokens)}
    if answer.score is not None:
        described["score"] = answer.score
    if reported:
        described["tokens"] = [
            {**token(one.token, one.score), "likeliest": [token(*pair) for pair in one.best]} for one in answer.tokens
        ]
    return described


def _say_speculated(generator: Generator) -> None:
    if counts := generator.speculated():
        print_error("guessed {guessed} tokens, accepted {accepted}".format(**counts))


def run(arguments: argparse.Namespace) -> int:
    """Generate text and print it as it comes, or all of it as JSON."""
    if arguments.threads is not None and arguments.threads < 0:
        raise UserError(f"--threads: {arguments.threads} is out of range; give 0 (MindSpore's operators) or more")
    settings, prompt = _settings(arguments), _prompt(arguments)
    rule = _rule(arguments, prompt)
    from ms_codegeex.generation.loading import load_model

    cpu_level(arguments.cpu_level)
    model = load_model(Path(arguments.model))  # a wrong one is refused before the engine is imported
    decoding.prepare_device(arguments.device)
    from ms_codegeex.generation.answers import answers
    from ms_codegeex.generation.engine import MAX_SLOTS, Generator  # the engine, which takes seconds to import
    from ms_codegeex.generation.sampling import DEFAULT_ADAPTER

    generator = Generator(
        model,
        threads=arguments.threads,
        slots=min(max(settings.n, settings.beams), MAX_SLOTS),
        speculate=arguments.speculate,
        fast=arguments.fast,
        cache_bits=arguments.cache_bits,
        device=arguments.device,
        cpu_level=arguments.cpu_level,
        devices=arguments.devices,
        adapters={DEFAULT_ADAPTER: Path(arguments.adapter)} if arguments.adapter else None,
    )
    ids = generator.encode(prompt, settings.max_new_tokens if arguments.cut_prompt else None)
    if not arguments.json and settings.n == settings.beams == 1:
        pieces = generator.stream(ids, settings, rule)
        print_content(prompt)
        for piece in pieces:
            print_content(piece)
        print_content("\n")
        _say_speculated(generator)
        return 0
    began = time.perf_counter()
    found = answers(generator, ids, settings, rule)
    if not arguments.json:
        for number, answer in enumerate(found, 1):
            print_content(f"--- {number} of {len(found)} ---\n" if settings.n > 1 else "")
            print_content(f"{prompt}{answer.text}\n")
        _say_speculated(generator)
        return 0
    described = [_described(answer, generator.tokenizer, settings.log_probabilities > 0) for answer in found]
    print_json(
        {"model": str(generator.path), "prompt": prompt, "prompt_tokens": len(ids)}
        | (described[0] if settings.n == 1 else {"answers": described})
        | {"seconds": time.perf_counter() - began}
        | generator.speculated()
    )
    return 0
