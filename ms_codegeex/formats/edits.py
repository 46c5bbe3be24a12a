"""Write facts that a user states about a model into its directory and its provenance statement."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ms_codegeex.base.errors import UserError, suggestion
from ms_codegeex.base.files import atomic_file
from ms_codegeex.base.quarantine import PROVENANCE, has_file
from ms_codegeex.base.reading import given_text
from ms_codegeex.data.description import CARD, FACTS, card_licence, read_description, update_description
from ms_codegeex.formats.provenance import described_files, read_statement, record_edits

Pairs, Check = Sequence[tuple[str, str]], Callable[[Path], object]
MODELS = ("config.json", "quantised.json", "adapter_config.json")  # each marks a directory with a description
DONE = ("adapter", "step", "reason")  # facts about what was done, which a user does not set
SPELLED = {"license": "licence"}


def directories(path: Path) -> list[Path]:
    """Where the description of a model at `path` is: its directory; of a run also what it exported. `UserError` if it
    has none that can be changed."""
    if any((path / name).is_file() for name in MODELS):
        return [path]
    if (path / "config.yaml").is_file():
        exported = (path / name for name in ("huggingface", "adapter"))
        return [path, *(each for each in exported if any((each / name).is_file() for name in MODELS))]
    if (path / "manifest.json").is_file():
        raise UserError(f"--set: {path} is a checkpoint; give its run, {path.resolve().parent.parent}")
    wanted = "the directory of a model, an adapter or a run"
    lacks = "holds no description" if path.exists() else "does not exist"
    raise UserError(f"--set: {path} {lacks}; give {wanted}, from which other files are made again")


def assignments(words: Sequence[str]) -> list[tuple[str, str]]:
    """Parse `KEY=VALUE` words; `KEY=@FILE` takes the file's text. Raises `UserError` for anything else."""
    known = [*(name for name in FACTS if name not in DONE), "card"]
    pairs = []
    for word in words:
        key, equals, value = word.partition("=")
        key = SPELLED.get(key, key)
        if not equals:
            raise UserError(f"--set {word}: has no value; expected KEY=VALUE, such as --set licence=apache-2.0")
        if key in DONE:
            raise UserError(f"--set {key}: says what was done, which no setting changes; leave it out")
        if key not in known:
            raise UserError(f"--set {key:.60}: cannot be set; {suggestion(key, known)}")
        if value.startswith("@"):
            text = given_text(value[1:], f"--set {key}")
            template = key == "chat" and not value.endswith(".json")
            value = json.dumps({"template": text}) if template else text
        pairs.append((key, value))
    return pairs


def apply(places: Sequence[Path], pairs: Pairs, check: Check) -> dict[Path, list[str]]:
    """Write facts into directories and record the edit in their statements. If the model contradicts the facts,
    `check(directory)` raises `UserError` and all files are as before. Return, for each directory, the names of files
    whose record in the statement changed, including those that the user had edited before."""
    before = {place: _contents(place) for place in places}
    try:
        return {place: _applied(place, pairs, check, before[place]) for place in places}
    except BaseException:
        for place, contents in before.items():
            _restore(place, contents)
        raise


def _applied(directory: Path, pairs: Pairs, check: Check, before: Mapping[str, bytes]) -> list[str]:
    recorded = read_statement(directory)
    if recorded is not None:
        recorded.check_undescribed(directory)
    for key, value in pairs:
        if key == "card":
            if not (directory / "config.yaml").is_file():  # a run has a model card only in its exports
                _write_card(directory, value)
        else:
            update_description(directory, key, value)
    now = _contents(directory)
    changed = {name for name in {**before, **now} if before.get(name) != now.get(name)}
    if recorded is not None:
        changed |= {*record_edits(directory, recorded, [key for key, _ in pairs])}
    check(directory)
    return sorted(changed - {PROVENANCE})


def _write_card(directory: Path, text: str) -> None:
    before = read_description(directory).licence
    with atomic_file(directory / CARD) as path:
        path.write_text(text, encoding="utf-8")
    update_description(directory, "licence", card_licence(text) or before or "")


def _contents(directory: Path) -> Mapping[str, bytes]:
    names = [*described_files(directory), PROVENANCE]
    return {name: (directory / name).read_bytes() for name in names if has_file(directory, name)}


def _restore(directory: Path, before: Mapping[str, bytes]) -> None:
    for name in described_files(directory):
        if name not in before:
            (directory / name).unlink()
    for name, data in before.items():
        if not (directory / name).is_file() or (directory / name).read_bytes() != data:
            with atomic_file(directory / name) as path:
                path.write_bytes(data)


def lines(directory: Path, names: Sequence[str], pairs: Pairs) -> Iterator[str]:
    """Yield lines for people: which files were written, and what is now known of the model."""
    keys = ", ".join(dict.fromkeys(key for key, _ in pairs))
    what = f"{keys} written into {', '.join(names)}" if names else f"{keys} as before"
    with_statement = "; recorded in provenance.json" if read_statement(directory) and names else ""
    yield f"{directory}: {what}{with_statement}"
