"""`ms-codegeex generate`: continue a prompt and print the text on standard output."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.options import REQUIRED, given, option
from ms_codegeex.base.printing import print_content, print_error, print_json, print_once
from ms_codegeex.base.reading import given_text
from ms_codegeex.base.verb_options import CHECKPOINT
from ms_codegeex.generation import text_options
from ms_codegeex.generation.engine_options import EngineOptions
from ms_codegeex.kernels.levels import cpu_level

if TYPE_CHECKING:
    from ms_codegeex.data.tokenizer import Tokenizer
    from ms_codegeex.generation.sampling import Answer
    from ms_codegeex.generation.stopping import Rule

SUMMARY = "continue a prompt with a trained model"
EXAMPLES = """  ms-codegeex generate --model runs/codegeex_tiny --language Python --prompt "import os"
  ms-codegeex generate --model runs/codegeex_tiny/huggingface --prompt-file start.py --temperature 0.2
  ms-codegeex generate --model runs/codegeex_tiny --prompt "# language: Python" --greedy --json
  ms-codegeex generate --model DIR --language Python --prompt-file start.py --stop-at block --repetition-penalty 1.1
  ms-codegeex generate --model DIR --prompt "x = [1," --n 4 --stop "\\n\\n" --stop "]" --logit-bias 198=-100
  ms-codegeex generate --model DIR --prompt "x = [1," --beams 8 --n 3 --log-probabilities 5 --json
  ms-codegeex generate --model DIR --adapter runs/tuned/adapter --prompt-file start.py"""


def _bias(text: str) -> tuple[int, float]:
    number, _, value = text.partition("=")
    try:
        return int(number), float(value)
    except ValueError:
        remedy = "give a token's id and a number, for example 198=-100"
        raise UserError(f"--logit-bias: {text} is not ID=VALUE; {remedy}") from None


@dataclass(frozen=True)
class GenerateOptions:
    """Options that only `generate` has."""

    model: Path = option("model directory (quantised or not), run directory or checkpoint", "DIR", REQUIRED)
    checkpoint: str | None = CHECKPOINT.field(None, kw_only=True)
    prompt: str | None = option(
        "text to continue; a bare language tag gets the newline that the model expects", "TEXT", either="prompt"
    )
    prompt_file: str | None = option("read the prompt from a file (- is standard input)", "FILE", either="prompt")
    logit_bias: tuple[tuple[int, float], ...] = option(
        "add a number to a token's logit; -100 effectively forbids it; may be repeated",
        "ID=VALUE",
        (),
        repeated=True,
        convert=_bias,
    )
    adapter: Path | None = option("a LoRA adapter on the model: a run, or a directory in PEFT's layout", "DIR")


OPTIONS = (
    GenerateOptions,
    text_options.PromptOptions,
    *text_options.options("log_probabilities", "n", "beams", "length_penalty"),
    EngineOptions,
)


def _prompt(arguments: argparse.Namespace) -> str:
    from ms_codegeex.data.languages import find_language, languages

    text = given_text(arguments.prompt_file, "--prompt-file") if arguments.prompt_file else arguments.prompt or ""
    if arguments.language:
        return f"{find_language(arguments.language).tag}\n{text}"
    # training documents start with a tag line, which ends with a newline
    return f"{text}\n" if any(text == known.tag for known in languages("codegeex")) else text


def _rule(arguments: argparse.Namespace, prompt: str) -> Rule | None:
    from ms_codegeex.data.languages import languages
    from ms_codegeex.generation.blocks import block

    if arguments.stop_at is None:
        return None
    tag = prompt.partition("\n")[0]
    language = arguments.language or next((known.name for known in languages("codegeex") if known.tag == tag), None)
    if language is None:
        raise UserError("--stop-at: the prompt's language is unknown; name it with --language")
    return block(language, prompt)


def _described(answer: Answer, tokenizer: Tokenizer, reported: bool) -> dict[str, Any]:
    def token(number: int, score: float) -> dict[str, Any]:
        text = tokenizer.token_bytes(number).decode("utf-8", "replace")
        return {"id": number, "text": text, "log_probability": score}

    described: dict[str, Any] = {"text": answer.text, "finish": answer.finish, "new_tokens": len(answer.tokens)}
    if answer.score is not None:
        described["score"] = answer.score
    if reported:
        described["tokens"] = [
            {**token(one.token, one.score), "likeliest": [token(*pair) for pair in one.best]} for one in answer.tokens
        ]
    return described


def run(arguments: argparse.Namespace) -> None:
    """Generate text and print it as it is generated, or at the end as JSON."""
    engine = given(EngineOptions, arguments)
    if arguments.log_probabilities and not arguments.json:
        raise UserError("--log-probabilities: plain text cannot show them; add --json")
    settings = text_options.settings(arguments, logit_bias=dict(arguments.logit_bias or ()))
    prompt = _prompt(arguments)
    rule = _rule(arguments, prompt)
    from ms_codegeex.generation.loading import at_checkpoint, load_model

    cpu_level(engine.cpu_level)
    notes = list[str]()
    say = notes.append if arguments.json else print_once
    # before `prepare_device`, so that an unsuitable model is refused before MindSpore is imported
    model = load_model(at_checkpoint(arguments.model, arguments.checkpoint), say=say)
    tokenizer = model.tokenizer  # for the same reason
    text_options.prepare_device(engine.device)
    from ms_codegeex.generation.engine import Generator
    from ms_codegeex.generation.sampling import DEFAULT_ADAPTER
    from ms_codegeex.generation.targets import MAX_SLOTS

    slots = min(max(settings.n, settings.beams), MAX_SLOTS)
    adapters = {DEFAULT_ADAPTER: arguments.adapter} if arguments.adapter else None
    generator = Generator(model, slots=slots, adapters=adapters, **asdict(engine))
    ids = generator.encode(
        prompt, settings.max_new_tokens if arguments.cut_prompt else None, special=arguments.special_tokens
    )
    if not arguments.json and settings.n == settings.beams == 1:
        pieces = generator.stream(ids, settings, rule)
        print_content(prompt)
        for piece in pieces:
            print_content(piece)
        print_content("\n")
    else:
        began = time.perf_counter()
        generated = generator.answers(ids, settings, rule)
        if arguments.json:
            reported = settings.log_probabilities > 0
            described = [_described(answer, tokenizer, reported) for answer in generated]
            print_json(
                {"model": str(generator.path), "prompt": prompt, "prompt_tokens": len(ids)}
                | (described[0] if settings.n == 1 else {"answers": described})
                | {"seconds": time.perf_counter() - began}
                | generator.speculated()
                | ({"notes": notes} if notes else {})
            )
            return
        for number, answer in enumerate(generated, 1):
            print_content(f"--- {number} of {len(generated)} ---\n" if settings.n > 1 else "")
            print_content(f"{prompt}{answer.text}\n")
    if counts := generator.speculated():
        print_error("guessed {guessed} tokens, accepted {accepted}".format(**counts))
