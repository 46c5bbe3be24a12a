"""The tokenizers of the model families; `load_tokenizer` returns one by name, or the one in a model directory."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.lookalikes import refuse_lookalike
from ms_codegeex.base.quarantine import admit
from ms_codegeex.data.tokenizer.base import Tokenizer
from ms_codegeex.data.tokenizer.files import ADDED, ANY_CLASS, CONFIG, FILES, JSON, MODEL, is_ranked, read_object

TOKENIZER_NAMES = ("codegeex", "codegen-nl", "codegen-multi", "codegen-mono")  # need no file of the user
OF_DIRECTORIES = {  # which do not come with this program, and what their directories hold
    "codegeex2": f"tokenizer.model and {CONFIG} of the released model",
    "codegeex4": f"tokenizer.model and {CONFIG} of the released model",
    "qwen2": f"tokenizer.json, or vocab.json and merges.txt, and {CONFIG} of the model",
}
TOKENIZER_FILES = FILES
_CLASSES = {  # what tokenizer_class may be, and whose tokenizer that is; "any": the other files show it
    "CodeGeeXTokenizer": "codegeex",
    "ChatGLMTokenizer": "codegeex2",
    "ChatGLM4Tokenizer": "codegeex4",
    **dict.fromkeys(("CodeGenTokenizer", "CodeGenTokenizerFast", "GPT2Tokenizer", "GPT2TokenizerFast"), "codegen"),
    **dict.fromkeys(("Qwen2Tokenizer", "Qwen2TokenizerFast"), "qwen2"),
    **dict.fromkeys(ANY_CLASS, "any"),
}

__all__ = ["OF_DIRECTORIES", "TOKENIZER_FILES", "TOKENIZER_NAMES", "Tokenizer", "load_tokenizer"]


def load_tokenizer(name_or_directory: str | Path) -> Tokenizer:
    """A tokenizer by name (`TOKENIZER_NAMES`), or the one in a model directory. A directory is read as its
    tokenizer_config.json says, or as its other files show; anything unknown or contradictory is a `UserError`.
    Those `OF_DIRECTORIES` come from these only. All callers in a process share the tokenizer of a name, which nothing
    changes; a directory is read at every call."""
    name = str(name_or_directory)
    if name in TOKENIZER_NAMES:
        return _named("codegen-multi" if name == "codegen-mono" else name)
    directory = Path(name_or_directory)
    if directory.is_dir():
        return _load_directory(directory)
    if name in OF_DIRECTORIES:
        absent = "its files do not come with this program"
        raise UserError(f"tokenizer {name}: {absent}; give a directory that holds {OF_DIRECTORIES[name]}")
    names = f"neither one of the names {', '.join(TOKENIZER_NAMES)}"
    raise UserError(f"tokenizer {name!r}: {names} nor a directory with {CONFIG}")


@cache  # building one takes half a second of CPU time
def _named(name: str) -> Tokenizer:
    from ms_codegeex.data.tokenizer import gpt2

    if name == "codegeex":
        return gpt2.CodeGeeXTokenizer()
    return gpt2.CodeGenTokenizer(whitespace=name != "codegen-nl")


def _load_directory(directory: Path) -> Tokenizer:
    from ms_codegeex.data.tokenizer import chatglm, codegeex4, gpt2, qwen2

    admit(directory)
    present = [name for name in TOKENIZER_FILES if (directory / name).is_file()]
    config = read_object(directory / CONFIG, missing=True)
    stated = config.get("tokenizer_class")
    kind = _CLASSES.get(stated) if isinstance(stated, str | None) else None
    if kind not in ("codegeex4", "qwen2"):  # whose classes nothing else has
        refuse_lookalike(directory / CONFIG, config)
    if kind is None:
        known = ", ".join(filter(None, _CLASSES))
        said = f"tokenizer_class is {stated!r}, of another model; give a directory of one of {known}"
        raise UserError(f"{directory / CONFIG}: {said}")
    if kind == "any" and MODEL in present:
        kind = "codegeex4" if is_ranked(directory / MODEL) else "codegeex2"
    elif kind == "any" and {JSON, "vocab.json"} & {*present}:
        texts = [(directory / name).read_bytes() for name in (JSON, CONFIG, ADDED) if name in present]
        marks = {"codegeex": b'"<|extratoken_1|>"', "qwen2": b'"NFC"'}
        kind = next((kind for kind, mark in marks.items() if any(mark in text for text in texts)), "codegen")
    elif kind == "any":
        found = ", ".join(present) or "no file of a tokenizer"
        needed = f"{JSON}, or vocab.json and merges.txt, or tokenizer.model of CodeGeeX2"
        raise UserError(f"{directory}: has no tokenizer, found {found}; copy {needed} from the model")
    readers: dict[str, type[Tokenizer]] = {
        "codegeex": gpt2.CodeGeeXTokenizer,
        "codegen": gpt2.CodeGenTokenizer,
        "codegeex2": chatglm.CodeGeeX2Tokenizer,
        "codegeex4": codegeex4.CodeGeeX4Tokenizer,
        "qwen2": qwen2.Qwen2Tokenizer,
    }
    return readers[kind].load(directory)
