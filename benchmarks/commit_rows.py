"""Training rows for a model that is to copy from other files: gaps with parts of other files before the prefix.

    python benchmarks/commit_rows.py --tokenizer tokenizer --output rows --packages SITE-PACKAGES --gaps 8000
    python benchmarks/commit_rows.py --tokenizer tokenizer --output rows --packages SITE-PACKAGES --gaps 8000 \\
        --copied 0.7
    python benchmarks/commit_rows.py --tokenizer tokenizer --output rows --history pip aiohttp --edits 800 \\
        --seq-length 512
    python benchmarks/commit_rows.py --tokenizer tokenizer --output rows --packages SITE-PACKAGES --repeats 400

A row is what `benchmarks/commits.py` asks with other files, and its answer: suffix, other files, prefix and middle,
with sentinels before the suffix and the files. Edits are those of git histories. Gaps are single pieces of lines of
installed packages; the other files are of the same package, half of them at a place where a name of the gap occurs.
With --copied, such a share of the gaps has the lines around them in one of the other files too, some of them left out,
as a file that was made from another one has: so a model learns to copy from few rows. The loss counts all tokens but
the sentinels. With a shorter --seq-length, windows and parts are shorter in proportion.

Such a row has one answer. Those of --repeats teach copying in nearly every token: lines of a package, then pieces of
them, some lines left out, with a cursor at some word; a tenth are random ids instead, which only copying can foresee.

The rows are a dataset for `train` (docs/evaluation.md has the commands); declare the sentinels in the trained model's
`serving.json`.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from commit_history import (
    AFTER,
    BEFORE,
    FILE_CHARACTERS,
    FILES,
    Edit,
    Repository,
    chosen_edits,
)
from common import options, print_command

from ms_codegeex.base.files import atomic_directory
from ms_codegeex.data.datasets.batches import KIND
from ms_codegeex.data.datasets.layout import file_records
from ms_codegeex.data.infilling.sentinels import JOINED, Sentinels, joined_files
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.data.tokenizer.base import Tokenizer
from ms_codegeex.extras.corpus.writing import DatasetWriter, write_description

FULL = 4096  # tokens that hold the window and the parts of `benchmarks/commits.py`
LEFT_OUT = 0.15  # share of the copied lines
RANDOM = 0.1  # share of the repeats that are random ids
MIN_ID = 256  # of a random one: those below are of single bytes
COMMITS = 5000
MIN_BYTES, MAX_BYTES = 400, 100_000  # of a source file
NAME = re.compile(r"[A-Za-z_]\w{3,}")
GAP = re.compile(r"[^\s].*[^\s]")


@dataclass(frozen=True)
class Row:
    """Ids int64 [n], whether the loss counts each, bool [n], what the split is decided by, and a path."""

    ids: np.ndarray
    counted: np.ndarray
    key: bytes
    path: str = ""


def sentinels_of(tokenizer: Tokenizer) -> Sentinels:
    """The tokenizer's unused ids. The suffix comes first and the prefix last: the middle continues it without a break,
    so a model that copies what follows an equal text finds its first token too."""
    prefix, suffix, middle = tokenizer.sentinels
    return Sentinels(prefix, suffix, middle, order=JOINED)


def sources(packages: Path) -> dict[str, list[str]]:
    """The texts of Python files by package."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(packages.rglob("*.py")):
        package = path.relative_to(packages).parts[0]
        if path.is_symlink() or not MIN_BYTES <= path.stat().st_size <= MAX_BYTES:
            continue
        try:
            found[package].append(path.read_text("utf-8"))
        except UnicodeDecodeError:
            continue
    return {package: texts for package, texts in found.items() if len(texts) > FILES}


def gap(text: str, generator: np.random.Generator) -> tuple[str, str, str] | None:
    """A piece of a line that begins and ends with a word or a sign, and the text around it; None for a blank line."""
    lines = text.splitlines(keepends=True)
    number = int(generator.integers(len(lines)))
    found = GAP.search(lines[number])
    if found is None:
        return None
    words = [match.span() for match in re.finditer(r"\w+|[^\w\s]+", found[0])]
    first = int(generator.integers(len(words))) if generator.random() < 0.6 else 0
    last = int(generator.integers(first, len(words))) if generator.random() < 0.5 else len(words) - 1
    offset = sum(map(len, lines[:number])) + found.start()
    begin, end = offset + words[first][0], offset + words[last][1]
    return text[:begin], text[begin:end], text[end:]


def parts_for(middle: str, others: Sequence[str], size: int, generator: np.random.Generator) -> list[str]:
    """Parts of other files, of `size` characters; with luck, where a name of the middle occurs."""
    chosen = [others[number] for number in generator.permutation(len(others))[:FILES].tolist()]
    if names := NAME.findall(middle):
        name = max(names, key=len)
        holding = [text for text in others if name in text][:8]
        if holding and generator.random() < 0.5:
            chosen[-1 - int(generator.integers(len(chosen)))] = holding[int(generator.integers(len(holding)))]
    else:
        name = "\0"
    parts = []
    for text in chosen:
        place = text.find(name)
        middle_of = place if place >= 0 else int(generator.integers(len(text)))
        begin = text.rfind("\n", 0, max(0, middle_of - int(generator.integers(size)))) + 1
        parts.append(text[begin : begin + size])
    return parts


def copied(before: str, middle: str, after: str, size: int, generator: np.random.Generator) -> str:
    """The lines around a gap, and the gap's own, in up to `size` characters; some others of them left out."""
    start, end = before.rfind("\n") + 1, after.find("\n") + 1 or len(after)
    own = before[start:] + middle + after[:end]
    above, below = before[:start].splitlines(keepends=True), after[end:].splitlines(keepends=True)
    lines, room = [own], size - len(own)
    while room > 0 and (above or below):
        upwards = bool(above) and (not below or generator.random() < 0.6)
        line = above.pop() if upwards else below.pop(0)
        room -= len(line)
        if room > 0 and generator.random() >= LEFT_OUT:
            lines = [line, *lines] if upwards else [*lines, line]
    return "".join(lines)


def gaps(packages: dict[str, list[str]], count: int, share: float, scale: float, seed: int) -> Iterator[Edit]:
    """`count` gaps of files of the packages. A `share` of them is in another file too. Parts of files have the lengths
    of `benchmarks/commits.py` times `scale`."""
    generator, size = np.random.default_rng([seed, 1]), int(FILE_CHARACTERS * scale)
    while count:
        texts = package(packages, generator)
        number = int(generator.integers(len(texts)))
        if (found := gap(texts[number], generator)) is None:
            continue
        before, middle, after = found
        others = texts[max(0, number - 20) : number] + texts[number + 1 : number + 20]
        parts = parts_for(middle, others, size, generator)
        if generator.random() < share:
            copy, place = copied(before, middle, after, size, generator), int(generator.integers(len(parts)))
            room = max(0, size - len(copy))
            first = parts[place][: int(generator.integers(room + 1))]
            first = first[: first.rfind("\n") + 1]
            parts[place] = first + copy + parts[place][len(first) : room]
        yield Edit("", "", "Python", before, middle, after, tuple(parts))
        count -= 1


def package(packages: dict[str, list[str]], generator: np.random.Generator) -> list[str]:
    """The texts of one package; large ones come no more often than small ones by the root of their size."""
    names = sorted(packages)
    weights = np.sqrt([len(packages[name]) for name in names])
    return packages[names[int(generator.choice(len(names), p=weights / weights.sum()))]]


def repeated_ids(first: int, end: int, length: int, generator: np.random.Generator) -> list[int]:
    """`length` ids: random ones from `first` to `end`, then pieces of them."""
    own = generator.integers(first, end, int(generator.integers(8, length // 3))).tolist()
    row = [*own]
    while len(row) < length:
        start = int(generator.integers(0, len(own) - 4))
        row += own[start : int(generator.integers(start + 4, len(own) + 1))]
    return row[:length]


def repeated_lines(
    texts: Sequence[str], tokenizer: Tokenizer, length: int, generator: np.random.Generator
) -> list[int]:
    """`length` ids: up to eight parts of files, then pieces of them, each of which is tokenized anew from some word on,
    as what follows a cursor is; empty if the parts are too short."""
    parts, room = list[list[str]](), int(length * generator.uniform(0.35, 0.55))
    row: list[int] = []
    for _ in range(8):
        lines = texts[int(generator.integers(len(texts)))].splitlines(keepends=True)
        place, part, size = int(generator.integers(len(lines))), list[str](), 0
        for line in lines[place : place + 80]:
            size += len(tokenizer.encode_inside(line))
            if len(row) + size > room:
                break
            part.append(line)
        if len(part) > 5:
            parts.append(part)
            row += tokenizer.encode_inside("".join(part))
    if len(row) < room // 2:
        return []
    while len(row) < length:
        part = parts[int(generator.integers(len(parts)))]
        place = int(generator.integers(len(part) - 2))
        piece = part[place : place + int(generator.integers(2, 12))]
        piece = [line for n, line in enumerate(piece) if n == 0 or generator.random() >= LEFT_OUT]
        number = int(generator.integers(1, len(piece))) if len(piece) > 1 else 0
        words = [match.start() for match in re.finditer(r"\w+|[^\w\s]+", piece[number])] or [0]
        word = words[int(generator.integers(len(words)))] if generator.random() < 0.6 else words[0]
        cursor = sum(map(len, piece[:number])) + word
        text = "".join(piece)
        row += tokenizer.encode_inside(text[:cursor]) + tokenizer.encode_inside(text[cursor:])
    return row[:length]


def repeats(packages: dict[str, list[str]], tokenizer: Tokenizer, count: int, length: int, seed: int) -> Iterator[Row]:
    """`count` rows of `length` ids of which most can be copied from the beginning of the row."""
    generator, tries = np.random.default_rng([seed, 2]), 100 * count
    end = min(tokenizer.eos_id, *tokenizer.sentinels)
    while count:
        tries -= 1
        if not tries:
            raise SystemExit("--packages: the files are too short for rows of this length")
        if generator.random() < RANDOM:
            row = repeated_ids(MIN_ID, end, length - 1, generator)
        else:
            row = repeated_lines(package(packages, generator), tokenizer, length - 1, generator)
        if row:
            ids = np.array([*row, tokenizer.eos_id], np.int64)
            yield Row(ids, np.ones(len(ids), bool), ids.tobytes())
            count -= 1


def row_of(edit: Edit, tokenizer: Tokenizer, marks: Sentinels, length: int) -> Row | None:
    """A row of at most `length` tokens; None if the middle is longer than half of it."""
    middle, scale = tokenizer.encode_inside(edit.typed), min(1.0, length / FULL)
    if not middle or len(middle) > length // 2:
        return None
    before, after = edit.before[-int(BEFORE * scale) :], edit.after[: int(AFTER * scale)]
    parts = [part[: int(FILE_CHARACTERS * scale)] for part in edit.others]
    prompt, _ = marks.prompt(tokenizer, joined_files(parts, before), after, length - len(middle) - 1)
    ids = np.array([*prompt, *middle, tokenizer.eos_id], np.int64)
    key = repr((edit.before, edit.typed, edit.after)).encode()
    return Row(ids, ~np.isin(ids, sorted(marks.ids)), key, edit.path)


def write(
    tokenizer: Tokenizer, tokenizer_name: str, marks: Sentinels, output: Path, length: int, rows: Iterator[Row]
) -> None:
    """Write the dataset directory."""
    with atomic_directory(output) as directory:
        with DatasetWriter(directory, tokenizer, masked=True) as writer:
            for row in rows:
                writer.add(row.ids, row.counted, row.key, row.path)
            splits = writer.write(0.02)
        first = {"kind": KIND, "task": "completion", "seq_length": length}
        further = {
            "vocab_size": max(marks.ids) + 1,  # the rows hold sentinels
            "splits": splits,
            "files": file_records(directory),
        }
        write_description(directory, tokenizer, tokenizer_name, first, further)
    print({split: {name: values[name] for name in ("documents", "tokens")} for split, values in splits.items()})
    print(json.dumps({"infill": marks.to_json()}))


def main() -> None:
    parser = options(__doc__, seed=True)
    parser.add_argument("--tokenizer", required=True, help="a name, or a directory")
    parser.add_argument("--output", type=Path, required=True, help="dataset directory to write")
    parser.add_argument("--seq-length", type=int, default=FULL, help="tokens of a row (default: %(default)s)")
    parser.add_argument("--packages", type=Path, help="directory of Python packages")
    parser.add_argument("--gaps", type=int, default=0, help="gaps of packages (default: %(default)s)")
    parser.add_argument("--copied", type=float, default=0.0, help="share of the gaps that another file has too (0)")
    parser.add_argument("--repeats", type=int, default=0, help="rows of pieces of themselves (default: %(default)s)")
    parser.add_argument("--history", type=Path, nargs="+", default=[], help="git repositories")
    parser.add_argument("--edits", type=int, default=0, help="edits of each history (default: %(default)s)")
    arguments = parser.parse_args()
    print_command()

    tokenizer, length, seed = load_tokenizer(arguments.tokenizer), arguments.seq_length, arguments.seed
    marks = sentinels_of(tokenizer)

    def edits() -> Iterator[Edit]:
        for path in arguments.history:
            yield from chosen_edits(Repository(path), COMMITS, arguments.edits, seed)
        if arguments.gaps:
            yield from gaps(packages, arguments.gaps, arguments.copied, min(1.0, length / FULL), seed)

    def rows() -> Iterator[Row]:
        yield from (row for edit in edits() if (row := row_of(edit, tokenizer, marks, length)) is not None)
        yield from repeats(packages, tokenizer, arguments.repeats, length, seed)

    packages = sources(arguments.packages) if arguments.packages else {}
    if (arguments.gaps or arguments.repeats) and not packages:
        parser.error(f"--gaps and --repeats need --packages, with a package of more than {FILES} Python files")
    write(tokenizer, arguments.tokenizer, marks, arguments.output, length, rows())


if __name__ == "__main__":
    main()
