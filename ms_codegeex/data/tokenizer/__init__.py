"""The tokenizers of the model families.

`load_tokenizer` returns one by name, or the one in a model directory.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.quarantine import admit
from ms_codegeex.data.tokenizer.base import Tokenizer
from ms_codegeex.data.tokenizer.files import read_object

TOKENIZER_NAMES = ("codegeex", "codegen-nl", "codegen-multi", "codegen-mono")  # need no file of the user
CONFIG = "tokenizer_config.json"
TOKENIZER_FILES = (
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenization_codegeex.py",
    CONFIG,
)

__all__ = ["TOKENIZER_FILES", "TOKENIZER_NAMES", "Tokenizer", "load_tokenizer"]


def load_tokenizer(name_or_directory: str | Path) -> Tokenizer:
    """A tokenizer by name (`TOKENIZER_NAMES`), or the one in a model directory.

    A directory is read as its tokenizer_config.json says, without guessing: anything missing, unknown or contradictory
    is a `UserError`. CodeGeeX2's tokenizer comes from a directory only, as its licence forbids redistribution. All
    callers in a process share the tokenizer of a name, which nothing changes; a directory is read at every call.
    """
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
    raise UserError(
        f"tokenizer {name!r}: neither one of the names {', '.join(TOKENIZER_NAMES)} nor a directory with {CONFIG}"
    )


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
    if CONFIG not in present:
        raise UserError(
            f"{directory}: {CONFIG} missing, found {', '.join(present) or 'no file of a tokenizer'}; "
            "copy it from the model, it says which tokenizer this is"
        )
    tokenizer_class = read_object(directory / CONFIG).get("tokenizer_class")
    known: dict[str, type[Tokenizer]] = {
        "CodeGeeXTokenizer": gpt2.CodeGeeXTokenizer,
        "ChatGLMTokenizer": chatglm.CodeGeeX2Tokenizer,
        "CodeGenTokenizer": gpt2.CodeGenTokenizer,
        "CodeGenTokenizerFast": gpt2.CodeGenTokenizer,
        "GPT2Tokenizer": gpt2.CodeGenTokenizer,
        "GPT2TokenizerFast": gpt2.CodeGenTokenizer,
    }
    if not isinstance(tokenizer_class, str) or tokenizer_class not in known:
        raise UserError(
            f"{directory / CONFIG}: tokenizer_class is {tokenizer_class!r}, expected one of {', '.join(known)}; "
            "this directory belongs to another model"
        )
    return known[tokenizer_class].load(directory)
