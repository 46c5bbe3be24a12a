"""The tokenizers of the model families; `load_tokenizer` returns one by name, or the one in a model directory."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.lookalikes import refuse_lookalike
from ms_codegeex.base.quarantine import admit
from ms_codegeex.data.tokenizer.base import Tokenizer
from ms_codegeex.data.tokenizer.files import ADDED, ANY_CLASS, CONFIG, FILES, JSON, MODEL, read_object

TOKENIZER_NAMES = ("codegeex", "codegen-nl", "codegen-multi", "codegen-mono")  # need no file of the user
TOKENIZER_FILES = FILES
_CLASSES = {  # what tokenizer_class may be, and whose tokenizer that is; "any": the other files show it
    "CodeGeeXTokenizer": "codegeex",
    "ChatGLMTokenizer": "codegeex2",
    **dict.fromkeys(("CodeGenTokenizer", "CodeGenTokenizerFast", "GPT2Tokenizer", "GPT2TokenizerFast"), "codegen"),
    **dict.fromkeys(ANY_CLASS, "any"),
}

__all__ = ["TOKENIZER_FILES", "TOKENIZER_NAMES", "Tokenizer", "load_tokenizer"]


def load_tokenizer(name_or_directory: str | Path) -> Tokenizer:
    """A tokenizer by name (`TOKENIZER_NAMES`), or the one in a model directory. A directory is read as its
    tokenizer_config.json says, or as its other files show; anything unknown or contradictory is a `UserError`.
    CodeGeeX2's tokenizer comes from a directory only, as its licence forbids redistribution. All callers in a process
    share the tokenizer of a name, which nothing changes; a directory is read at every call."""
    name = str(name_or_directory)
    if name in TOKENIZER_NAMES:
        return _named("codegen-multi" if name == "codegen-mono" else name)
    directory = Path(name_or_directory)
    if directory.is_dir():
        return _load_directory(directory)
    if name == "codegeex2":
        raise UserError(
            "tokenizer codegeex2: its tokenizer.model does not come with this program; give a directory that holds "
            f"tokenizer.model and {CONFIG} of the released model"
        )
    names = f"neither one of the names {', '.join(TOKENIZER_NAMES)}"
    raise UserError(f"tokenizer {name!r}: {names} nor a directory with {CONFIG}")


@cache  # building one takes half a second of CPU time
def _named(name: str) -> Tokenizer:
    from ms_codegeex.data.tokenizer import gpt2

    if name == "codegeex":
        return gpt2.CodeGeeXTokenizer()
    return gpt2.CodeGenTokenizer(whitespace=name != "codegen-nl")


def _load_directory(directory: Path) -> Tokenizer:
    from ms_codegeex.data.tokenizer import chatglm, gpt2

    admit(directory)
    present = [name for name in TOKENIZER_FILES if (directory / name).is_file()]
    config = read_object(directory / CONFIG, missing=True)
    refuse_lookalike(directory / CONFIG, config)
    stated = config.get("tokenizer_class")
    kind = _CLASSES.get(stated) if isinstance(stated, str | None) else None
    if kind is None:
        known = ", ".join(filter(None, _CLASSES))
        said = f"tokenizer_class is {stated!r}, of another model; give a directory of one of {known}"
        raise UserError(f"{directory / CONFIG}: {said}")
    if kind == "any" and MODEL in present:
        kind = "codegeex2"
    elif kind == "any" and {JSON, "vocab.json"} & {*present}:
        texts = ((directory / name).read_bytes() for name in (JSON, CONFIG, ADDED) if name in present)
        kind = "codegeex" if any(b'"<|extratoken_1|>"' in text for text in texts) else "codegen"
    elif kind == "any":
        found = ", ".join(present) or "no file of a tokenizer"
        needed = f"{JSON}, or vocab.json and merges.txt, or tokenizer.model of CodeGeeX2"
        raise UserError(f"{directory}: has no tokenizer, found {found}; copy {needed} from the model")
    if kind == "codegeex2":
        return chatglm.CodeGeeX2Tokenizer.load(directory)
    return (gpt2.CodeGeeXTokenizer if kind == "codegeex" else gpt2.CodeGenTokenizer).load(directory)
