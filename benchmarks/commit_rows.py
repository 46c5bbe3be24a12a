"""Training rows for a model that is to copy from other files: gaps with parts of other files before the prefix.

    python benchmarks/commit_rows.py --tokenizer tokenizer --output rows --packages SITE-PACKAGES --gaps 8000
    python benchmarks/commit_rows.py --tokenizer tokenizer --output rows --packages SITE-PACKAGES --gaps 8000 \\
        --copied 0.7
    python benchmarks/commit_rows.py --tokenizer tokenizer --output rows --history pip aiohttp --edits 800 \\
        --seq-length 512

A row is what `evaluate commits` asks with other files, and its answer: suffix, other files, prefix and middle, with
sentinels before the suffix and the files. Edits are those of git histories. Gaps are single pieces of lines of
installed packages; the other files are of the same package, half of them at a place where a name of the gap occurs.
With --copied, such a share of the gaps has the lines around them in one of the other files too, some of them left out,
as a file that was made from another one has: so a model learns to copy from few rows. The loss counts all tokens but
the sentinels. With a shorter --seq-length, windows and parts are shorter in proportion.

The rows are a dataset for `train` (docs/commits.md has the commands); declare the sentinels in the trained model's
`serving.json`.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from common import print_command

from ms_codegeex.base.files import atomic_directory
from ms_codegeex.data.corpus.dataset_writer import DatasetWriter
from ms_codegeex.data.corpus.writing import write_description
from ms_codegeex.data.datasets.directory import file_records
from ms_codegeex.data.datasets.packing import KIND
from ms_codegeex.data.infilling.sentinels import JOINED, Sentinels, joined_files
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.data.tokenizer.base import Tokenizer
from ms_codegeex.evaluation.commits.history import (
    AFTER,
    BEFORE,
    FILE_CHARACTERS,
    FILES,
    Edit,
    Repository,
    chosen_edits,
)

FULL = 4096  # tokens that hold the window and the parts of `evaluate commits`
LEFT_OUT = 0.15  # share of the copied lines
COMMITS = 5000
LEAST_BYTES, MOST_BYTES = 400, 100_000  # of a source file
NAME = re.compile(r"[A-Za-z_]\w{3,}")
GAP = re.compile(r"[^\s].*[^\s]")


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
        if path.is_symlink() or not LEAST_BYTES <= path.stat().st_size <= MOST_BYTES:
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
    """`count` gaps of files of the packages, large packages no more often than small ones by the root of their size. A
    `share` of them is in another file too. Parts of files have the lengths of `evaluate commits` times `scale`."""
    generator, size = np.random.default_rng([seed, 1]), int(FILE_CHARACTERS * scale)
    names = sorted(packages)
    weights = np.sqrt([len(packages[name]) for name in names])
    while count:
        texts = packages[names[int(generator.choice(len(names), p=weights / weights.sum()))]]
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


def row_of(edit: Edit, tokenizer: Tokenizer, marks: Sentinels, length: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Ids of a row of at most `length` tokens, int64 [n], and whether the loss counts each, uint8 [n]; None if the
    middle is longer than half of it."""
    middle, scale = tokenizer.encode_inside(edit.typed), min(1.0, length / FULL)
    if not middle or len(middle) > length // 2:
        return None
    before, after = edit.before[-int(BEFORE * scale) :], edit.after[: int(AFTER * scale)]
    parts = [part[: int(FILE_CHARACTERS * scale)] for part in edit.others]
    prompt, _ = marks.prompt(tokenizer, joined_files(parts, before), after, length - len(middle) - 1)
    ids = np.array([*prompt, *middle, tokenizer.eos_id], np.int64)
    return ids, ~np.isin(ids, sorted(marks.ids))


def write(tokenizer_name: str, output: Path, length: int, edits: Iterator[Edit]) -> None:
    """Write the dataset directory."""
    tokenizer = load_tokenizer(tokenizer_name)
    marks = sentinels_of(tokenizer)
    with atomic_directory(output) as directory:
        with DatasetWriter(directory, tokenizer, masked=True) as writer:
            for edit in edits:
                if (row := row_of(edit, tokenizer, marks, length)) is not None:
                    writer.add(*row, repr((edit.before, edit.typed, edit.after)).encode(), edit.path)
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
    """Write the rows and print the sentinels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True, help="a name, or a directory")
    parser.add_argument("--output", type=Path, required=True, help="dataset directory to write")
    parser.add_argument("--seq-length", type=int, default=FULL, help="tokens of a row (default: %(default)s)")
    parser.add_argument("--packages", type=Path, help="directory of Python packages")
    parser.add_argument("--gaps", type=int, default=0, help="gaps of packages (default: %(default)s)")
    parser.add_argument("--copied", type=float, default=0.0, help="share of the gaps that another file has too (0)")
    parser.add_argument("--history", type=Path, nargs="+", default=[], help="git repositories")
    parser.add_argument("--edits", type=int, default=0, help="edits of each history (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print_command()

    def edits() -> Iterator[Edit]:
        for path in arguments.history:
            yield from chosen_edits(Repository(path), COMMITS, arguments.edits, arguments.seed)
        if arguments.gaps:
            packages, scale = sources(arguments.packages), min(1.0, arguments.seq_length / FULL)
            yield from gaps(packages, arguments.gaps, arguments.copied, scale, arguments.seed)

    write(arguments.tokenizer, arguments.output, arguments.seq_length, edits())


if __name__ == "__main__":
    main()
