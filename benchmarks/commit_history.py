"""Edits from a git history: what an editor showed before each, what was typed, and what was edited shortly before.

A commit does not record in which order its lines were typed. Here the files of a commit are edited in the order of
their paths, and a file from top to bottom. So an edit sees the edits above it, but not those below it. It also sees the
files that come earlier in the same commit.
"""

from __future__ import annotations

import builtins
import keyword
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.corpus.detection import detect

BEFORE, AFTER = 4000, 1000  # characters around the cursor that an editor sends
LEAST, MAX_LINES, MAX_CHARACTERS = 4, 8, 400  # characters, lines and characters of an edit
PROSE = ("Markdown", "RMarkdown", "reStructuredText", "TeX")  # languages that are left out
MAX_BYTES, MAX_FILE_LINES = 200_000, 3000  # of a file
MAX_EQUAL = 200_000  # pairs of a line before a commit and an equal one after it; to compare them takes seconds
FILES, AROUND, FILE_CHARACTERS = 4, 32, 1500  # other files; lines above and below their last edit; characters of each
WORD = re.compile(r"\w\w")
NAME = re.compile(r"[^\W\d]\w{2,}")
REGULAR = ("100644", "100755")
Cut = Callable[[str, str], tuple[str, str]]


@dataclass(frozen=True)
class FileEdit:
    """A file that a commit has changed, with its contents before and after it as names of git's objects."""

    commit: str
    path: str
    old: str
    new: str


@dataclass(frozen=True)
class Edit:
    """`typed` was put between `before` and `after`. `others` are parts of other files around their last edits, the
    newest last."""

    commit: str
    path: str
    language: str
    before: str
    typed: str
    after: str
    others: tuple[str, ...] = ()

    @property
    def cross_file(self) -> bool:
        """Whether what was typed has a name that is in another file and not in the window; keywords and built-in names
        of Python are none. CrossCodeEval (Ding et al. 2023, section 2) asks for names that static analysis finds to be
        undefined without the other files."""
        window = {*NAME.findall(self.before), *NAME.findall(self.after)}
        elsewhere = {name for part in self.others for name in NAME.findall(part)}
        return bool({*NAME.findall(self.typed)} & elsewhere - window - {*keyword.kwlist, *dir(builtins), "self"})


class Repository:
    """A git repository that is only read: nothing that its configuration names is run, and nothing is fetched."""

    def __init__(self, path: Path):
        """`UserError` if there is no git, or no repository."""
        program = shutil.which("git")
        if program is None:
            raise UserError("--data: reading a repository needs git, which is not installed; install it")
        self.path = path
        self._words = [program, "--no-optional-locks", "-c", "core.fsmonitor=false", "-C", str(path)]
        variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        self._environment = {
            **variables,
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_ALLOW_PROTOCOL": "",  # for a git that does not know the variable above: it could run core.sshCommand
            "GIT_CEILING_DIRECTORIES": str(path.resolve().parent),  # a repository around the directory is not meant
            "GIT_TERMINAL_PROMPT": "0",
            "LC_ALL": "C",
        }
        if not path.is_dir():
            raise UserError(f"--data: {path} is not a directory; give a git repository")

    def _run(self, *words: str, given: bytes = b"") -> bytes:
        done = subprocess.run([*self._words, *words], input=given, capture_output=True, env=self._environment)
        if done.returncode:
            reason = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
            raise UserError(f"--data: {self.path} cannot be read as a git repository ({reason[-1]})")
        return done.stdout

    def file_edits(self, commits: int) -> list[FileEdit]:
        """The files in known languages that the newest commits have changed, the newest commit first. Commits with
        several parents are left out."""
        names = self._run("rev-list", "--first-parent", "--no-merges", f"--max-count={commits}", "HEAD")
        listed = self._run("diff-tree", "--stdin", "-r", "-z", "--no-renames", "--diff-filter=M", given=names)
        found, commit = [], ""
        parts = iter(listed.decode("utf-8", "surrogateescape").split("\0"))
        for part in parts:
            if not part.startswith(":"):
                commit = part.strip() or commit
                continue
            old_mode, new_mode, old, new, _ = part[1:].split(" ")
            path = next(parts)
            if old_mode in REGULAR and new_mode in REGULAR and _language(path):
                found.append(FileEdit(commit, path, old, new))
        return found

    def texts(self, names: Sequence[str]) -> list[str | None]:
        """The contents of files by the names of git's objects; None for one that is too long or no text in UTF-8, or
        that a partial clone does not have."""
        try:
            sizes = self._asked("--batch-check=%(objectsize)", names).splitlines()  # another text for one it lacks
        except UserError:  # in a partial clone, the first one that it lacks ends git
            return [None] if len(names) == 1 else [text for name in names for text in self.texts([name])]
        short = [size.isdigit() and int(size) <= MAX_BYTES for size in sizes]
        data = self._asked("--batch", [name for name, wanted in zip(names, short, strict=True) if wanted])
        position, found = 0, list[str | None]()
        for wanted, size in zip(short, sizes, strict=True):
            if not wanted:
                found.append(None)
                continue
            position = data.index(b"\n", position) + 1
            found.append(_text(data[position : position + int(size)]))
            position += int(size) + 1
        return found

    def _asked(self, option: str, names: Sequence[str]) -> bytes:
        return self._run("cat-file", option, given="".join(f"{name}\n" for name in names).encode())


def _language(path: str) -> str:
    """The name of a file's programming language; empty if it is unknown."""
    found = detect(path)
    return "" if found is None or not found.tag or found.name in PROSE else found.name


def _text(content: bytes) -> str | None:
    try:
        text = content.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text or len(text.splitlines()) > MAX_FILE_LINES else text


def hunks(old: Sequence[str], new: Sequence[str]) -> list[tuple[int, int, int, int]]:
    """Where lines differ: begin and end in the old ones, begin and end in the new ones."""
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    return [tuple(each[1:]) for each in matcher.get_opcodes() if each[0] != "equal"]  # type: ignore[misc]


def comparable(old: Sequence[str], new: Sequence[str]) -> bool:
    """Whether `hunks` is fast. With many equal lines, its time grows with the cube of their number."""
    counts = Counter(new)
    return sum(count * counts[line] for line, count in Counter(old).items()) <= MAX_EQUAL


def common(first: str, second: str) -> int:
    """The length of the common beginning of two texts."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(first), len(second)))


def in_words(text: str, place: int) -> int:
    """The last place up to this one that is not inside a word."""
    while 0 < place < len(text) and WORD.fullmatch(text[place - 1 : place + 1]):
        place -= 1
    return place


def typed_at(old: Sequence[str], new: Sequence[str], place: tuple[int, int, int, int]) -> tuple[str, str, str] | None:
    """The text before the cursor, the text that was typed, and the text after it, for a place where lines differ. None
    if fewer than `LEAST` characters were typed, or more than `MAX_LINES` or `MAX_CHARACTERS`.

    The words that the old and the new lines have in common at their start and end were not typed, nor was white space
    around the rest: an editor indents a new line.
    """
    begin, end, new_begin, new_end = place
    was, now = "".join(old[begin:end]), "".join(new[new_begin:new_end])
    first = in_words(now, common(was, now))
    last = in_words(now[::-1], common(was[first:][::-1], now[first:][::-1]))
    typed = now[first : len(now) - last]
    lead, trail = len(typed) - len(typed.lstrip()), len(typed) - len(typed.rstrip())
    middle = typed.strip()
    if len(middle) < LEAST or middle.count("\n") >= MAX_LINES or len(middle) > MAX_CHARACTERS:
        return None
    before = "".join(new[:new_begin]) + now[:first] + typed[:lead]
    after = typed[len(typed) - trail :] + now[len(now) - last :] + "".join(old[end:])
    return before, middle, after


def window(before: str, after: str) -> tuple[str, str]:
    """What an editor sends of the text around the cursor: whole lines before it."""
    if len(before) > BEFORE:
        before = before[-BEFORE:].partition("\n")[2] or before[-BEFORE:]
    return before, after[:AFTER]


def around(old: str, new: str) -> str | None:
    """The part of a file around its first edit, after that edit; None if the two are not comparable."""
    before, lines = old.splitlines(keepends=True), new.splitlines(keepends=True)
    if not comparable(before, lines):
        return None
    places = hunks(before, lines)
    middle = places[0][2] if places else 0
    return "".join(lines[max(0, middle - AROUND) : middle + AROUND])[:FILE_CHARACTERS]


def others(repository: Repository, edits: Sequence[FileEdit], number: int) -> tuple[str, ...]:
    """Parts of the files that were edited before edit `number`: those of the same commit that come earlier, then those
    of the commits before it. Each file once, the newest last."""
    commit, path = edits[number].commit, edits[number].path
    earlier = [each for each in edits[:number] if each.commit == commit][::-1]
    later = [each for each in edits[number + 1 :] if each.commit != commit]
    chosen: dict[str, FileEdit] = {}
    for each in (*earlier, *later):
        if len(chosen) == FILES:
            break
        if each.path != path:
            chosen.setdefault(each.path, each)
    texts = iter(repository.texts([name for each in chosen.values() for name in (each.old, each.new)]))
    pairs = [(old, new) for old, new in zip(texts, texts, strict=True) if old is not None and new is not None]
    return tuple(part for old, new in pairs[::-1] if (part := around(old, new)) is not None)


def chosen_edits(
    repository: Repository, commits: int, count: int, seed: int, cut: Cut | None = None, cross_file: bool = False
) -> Iterator[Edit]:
    """Up to `count` edits out of the newest commits, at most one of each file of a commit: a function of the history
    and the seed. `cut`: what an editor sends of the text before and after the cursor, without it `window`.
    `cross_file`: only such edits."""
    edits = repository.file_edits(commits)
    left = count
    for number in np.random.default_rng(seed).permutation(len(edits)).tolist():
        if not left:
            return
        each = edits[number]
        old, new = repository.texts([each.old, each.new])
        if old is None or new is None:
            continue
        lines = old.splitlines(keepends=True), new.splitlines(keepends=True)
        if not comparable(*lines):
            continue
        places = [found for place in hunks(*lines) if (found := typed_at(*lines, place)) is not None]
        if places:
            before, typed, after = places[int(np.random.default_rng([seed, number]).integers(len(places)))]
            before, after = (cut or window)(before, after)
            parts = others(repository, edits, number)
            edit = Edit(each.commit, each.path, _language(each.path), before, typed, after, parts)
            if edit.cross_file or not cross_file:
                left -= 1
                yield edit
