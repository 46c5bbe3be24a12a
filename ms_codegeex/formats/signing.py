"""Signs a model directory with a key, and checks such a signature: `model.sig`, a Sigstore bundle.

OpenSSF's package `model-signing` does the work, and its own command reads what this writes and writes what this reads.
A signature covers every file but itself, `provenance.json` included, and with that what the model was made from. Links
are refused and Git's files left out, as that package does by default.
"""

from __future__ import annotations

import contextlib
import io
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from ms_codegeex.base.errors import UserError, first_line
from ms_codegeex.base.files import atomic_file
from ms_codegeex.base.quarantine import PROVENANCE, SIGNATURE, read_json_inside
from ms_codegeex.formats.provenance import read_statement

_LONGEST = 300  # characters of the package's reason
_DIGESTS = re.compile(r": Expected \\?'Digest\(.*?\)\\?', Actual \\?'Digest\(.*?\)\\?'")  # 300 characters for each file


def sign(directory: Path, private_key: Path) -> Path:
    """Sign a directory that has a `provenance.json`; an earlier signature is replaced. Returns the signature's path.
    `UserError` if there is no statement or it does not match, or the key or the package cannot be used."""
    package = _package("--private-key")
    recorded = read_statement(directory) if directory.is_dir() else None
    if recorded is None:
        makers = "a directory that `convert`, `quantize` or `adapter merge` wrote"
        raise UserError(f"{directory}: has no {PROVENANCE}, so there is nothing to sign; expected {makers}")
    hashing = package.hashing.Config().set_ignored_paths(paths=[SIGNATURE])
    config = package.signing.Config().set_hashing_config(hashing)
    with _reading("--private-key", private_key):
        config.use_elliptic_key_signer(private_key=private_key)
    if different := recorded.differences(directory, thorough=True):
        first = f"{directory / different[0].name}: is {different[0].what}, by {PROVENANCE}"
        raise UserError(f"{first}; restore the files, since only what is as it was written is signed")
    path = directory / SIGNATURE
    with tempfile.TemporaryDirectory() as place:
        made = Path(place) / SIGNATURE
        try:
            config.sign(directory.resolve(), made)
        except (OSError, ValueError) as error:
            raise UserError(f"{directory}: could not be signed ({_reason(error)})") from None
        with atomic_file(path) as temporary:
            temporary.write_bytes(made.read_bytes())
    return path


def verify_signature(directory: Path, public_key: Path) -> None:
    """Compare all files of a directory with its signature, and that with a key. `UserError` if there is no signature,
    it does not match, or the key or the package cannot be used."""
    config = _package("--public-key").verifying.Config()
    with _reading("--public-key", public_key):
        config.use_elliptic_key_verifier(public_key=public_key)
    path = Path(directory) / SIGNATURE
    if not path.is_file():
        raise UserError(f"{directory}: has no {SIGNATURE}, so nothing shows who wrote it; expected a signed directory")
    read_json_inside(directory, SIGNATURE)  # within limits
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # where the package prints warnings
            config.verify(Path(directory).resolve(), path)
    except Exception as error:  # a foreign signature can raise nearly anything in the package
        remedy = "do not use it, or give the key of whoever signed it"
        raise UserError(f"{directory}: is not what {SIGNATURE} and the key say ({_reason(error)}); {remedy}") from None


def _package(option: str) -> ModuleType:
    """`model_signing`, which only this option needs."""
    try:
        import model_signing
    except ImportError as error:
        install = "run `pip install 'ms-codegeex[signing]'`"
        raise UserError(f"{option}: model-signing is not installed ({error}); {install}") from None
    return model_signing


@contextlib.contextmanager
def _reading(option: str, file: Path) -> Iterator[None]:
    """While the package reads a key."""
    try:
        yield
    except Exception as error:  # each kind of wrong file, and each other kind of key, raises another one
        what = f"a {option[2:].replace('-', ' ')} in PEM, not encrypted"
        expected = f"expected {what}, on the curve P-256, P-384 or P-521"
        raise UserError(f"{option} {file}: cannot be used ({_reason(error)}); {expected}") from None


def _reason(error: Exception) -> str:
    said = _DIGESTS.sub("", first_line(error)).replace("\\'", "'")[:_LONGEST]
    text = (isinstance(error, OSError) and error.strerror) or said
    return text if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: {text}"
