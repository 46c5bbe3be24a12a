"""Recall and precision of `prepare`'s duplicates, on planted copies of real source code.

    python benchmarks/deduplication.py                  # packages of the running interpreter
    python benchmarks/deduplication.py --input ~/src --megabytes 40 --originals 3000
    python benchmarks/deduplication.py --peer-python ~/peers/bin/python
    python benchmarks/deduplication.py --quick          # few sources, to see that it works

Planted: `--originals` sources, of which one in three gets an exact copy and each two edited copies: one of `EDITS` on a
share of its lines or identifiers from `SHARES`. All documents are shuffled.

Truth: the Jaccard similarity of sets of word 5-grams, computed here without MinHash, of all pairs of at least 0.5.
`prepare` drops a document that is like a larger one that it keeps, so the truth is the highest similarity J to such a
one. Recall: of the documents with J >= 0.85, the share that was dropped; precision: of those dropped, the share with
J >= 0.85. MinHash estimates J with a standard deviation of 0.03, so both are also printed at a tolerance of 0.05, and
the share dropped by J beside what 128 independent samples would give.

Exact copies: `prepare` without near duplicates must drop each text that occurred earlier, and nothing else. Renamed:
`RENAMED` Python sources and a copy of each, a share of whose identifiers has other names throughout, compared by words
and by tokens. Peer: with `--peer-python`, an interpreter that has datatrove and spacy, datatrove's MinHash does the
same with 9 bands of 14 (`deduplication_peer.py`).
"""

from __future__ import annotations

import builtins
import io
import json
import keyword
import math
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
import tokenize
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common import ROOT, options, print_header, share

from ms_codegeex.data.languages import languages
from ms_codegeex.extras.corpus.sources import Root, default_roots, search, user_roots

THRESHOLD, TOLERANCE, SAMPLES = 0.85, 0.05, 128
LOWEST = 0.5  # pairs that are less similar are not searched for
BINS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
SHARES = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2)
MAX_BYTES = 100_000
RENAMED, RENAMED_SHARES, RENAMED_BYTES = 40, (0.05, 0.2, 0.5), (1500, 20_000)
_FIXED = {*keyword.kwlist, *dir(builtins), "self", "cls"}
_WORDS = re.compile(rb"[A-Za-z0-9_]+")
_NAME = re.compile(r"\b[A-Za-z_]\w{3,}\b")
_LICENCE = """Copyright (c) {year} The {name} Authors. All rights reserved.
Redistribution and use in source and binary forms, with or without modification, are permitted provided that the
following conditions are met: redistributions of source code must retain this notice, and redistributions in binary
form must reproduce it in their documentation. This software is provided as it is, without any warranty."""


def read_sources(roots: list[Root], limit: float, generator: random.Random) -> list[str]:
    """Texts of at most `limit` bytes in all, at most a tenth of that from one package."""
    packages: dict[str, list] = defaultdict(list)
    for file in search(roots, [language.name for language in languages("codegeex")]).sources:
        packages[file.package].append(file)
    names = sorted(packages)
    generator.shuffle(names)
    texts: list[str] = []
    total = 0
    for name in names:
        taken = 0
        for file in packages[name]:
            if not 200 <= file.size <= MAX_BYTES or taken + file.size > limit / 10 or total + file.size > limit:
                continue
            try:
                texts.append(Path(file.path).read_bytes().decode())
            except (OSError, UnicodeDecodeError):
                continue
            taken += file.size
            total += file.size
    return texts


def _new_name(generator: random.Random) -> str:
    return "".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=9))


def _some(count: int, share: float, generator: random.Random) -> list[int]:
    """At least one of `count` places, in all about `share` of them."""
    return generator.sample(range(count), min(count, max(1, round(share * count))))


def change_lines(text: str, share: float, generator: random.Random, other: str) -> str:
    """One name in each of some lines is a different one."""
    lines = text.split("\n")
    for place in _some(len(lines), share, generator):
        lines[place] = _NAME.sub(_new_name(generator), lines[place], count=1)
    return "\n".join(lines)


def remove_lines(text: str, share: float, generator: random.Random, other: str) -> str:
    """Some lines are missing."""
    lines = text.split("\n")
    gone = set(_some(len(lines), share, generator))
    return "\n".join(line for place, line in enumerate(lines) if place not in gone)


def insert_lines(text: str, share: float, generator: random.Random, other: str) -> str:
    """Lines of another source, together in one place."""
    lines, others = text.split("\n"), other.split("\n")
    place, count = generator.randrange(len(lines) + 1), max(1, round(share * len(lines)))
    start = generator.randrange(max(1, len(others) - count))
    return "\n".join([*lines[:place], *others[start : start + count], *lines[place:]])


def move_lines(text: str, share: float, generator: random.Random, other: str) -> str:
    """Blocks of five lines stand somewhere else."""
    lines = text.split("\n")
    for _ in range(max(1, round(share * len(lines) / 5))):
        start = generator.randrange(len(lines))
        block = lines[start : start + 5]
        del lines[start : start + 5]
        place = generator.randrange(len(lines) + 1)
        lines[place:place] = block
    return "\n".join(lines)


def rename(text: str, share: float, generator: random.Random, other: str) -> str:
    """Some identifiers are called something else wherever they occur."""
    names = sorted(set(_NAME.findall(text)))
    new = {names[place]: _new_name(generator) for place in _some(len(names), share, generator)} if names else {}
    return _NAME.sub(lambda match: new.get(match[0], match[0]), text)


def add_licence(text: str, share: float, generator: random.Random, other: str) -> str:
    """A licence header before the first line."""
    licence = _LICENCE.format(year=generator.randrange(1990, 2026), name=_new_name(generator))
    return "\n".join("# " + line for line in licence.split("\n")) + "\n\n" + text


def indent(text: str, share: float, generator: random.Random, other: str) -> str:
    """Tabs for four spaces, and spaces at the ends of some lines."""
    lines = text.replace("    ", "\t").split("\n")
    for place in _some(len(lines), share, generator):
        lines[place] += " "
    return "\n".join(lines)


def rename_identifiers(text: str, share: float, generator: random.Random) -> str:
    """Some identifiers of a Python source, not those of the language, are called something else throughout; strings and
    comments stay."""
    tokens = [
        each
        for each in tokenize.generate_tokens(io.StringIO(text).readline)
        if each.type == tokenize.NAME and each.string not in _FIXED
    ]
    names = sorted({each.string for each in tokens})
    new = {names[place]: _new_name(generator) for place in _some(len(names), share, generator)} if names else {}
    lines = text.splitlines(keepends=True)
    for each in reversed(tokens):
        row, (start, end) = each.start[0] - 1, (each.start[1], each.end[1])
        lines[row] = lines[row][:start] + new.get(each.string, each.string) + lines[row][end:]
    return "".join(lines)


EDITS = (change_lines, remove_lines, insert_lines, move_lines, rename, add_licence, indent)


def plant(sources: list[str], originals: int, generator: random.Random) -> tuple[list[str], Counter[str]]:
    """Each source once and planted copies in random order, and how many copies of each kind there are."""
    documents, number = list(dict.fromkeys(sources)), Counter[str]()
    for text in generator.sample(documents, min(originals, len(documents))):
        if generator.random() < 1 / 3:
            documents.append(text)
            number["exact"] += 1
        for _ in range(2):
            edit = generator.choice(EDITS)
            copy = edit(text, generator.choice(SHARES), generator, generator.choice(sources))
            documents.append(copy)
            number["exact" if copy == text else edit.__name__.replace("_", " ")] += 1
    generator.shuffle(documents)
    return documents, number


def shingles(text: str) -> frozenset[int]:
    """The distinct word 5-grams of a document, as the 64-bit hashes that Python gives to tuples of words."""
    words = _WORDS.findall(text.encode())
    if len(words) < 5:
        return frozenset([hash(tuple(words))] if words else [])
    return frozenset(map(hash, zip(words, words[1:], words[2:], words[3:], words[4:], strict=False)))


def jaccard(first: frozenset[int], second: frozenset[int]) -> float:
    """Size of the intersection by size of the union."""
    common = len(first & second)
    return common / (len(first) + len(second) - common)


def highest_similarities(sets: Sequence[frozenset[int]], kept: Sequence[bool], lowest: float) -> list[float]:
    """For each set, the highest similarity to an earlier one that is `kept`, or 0.0 if none is at least `lowest`.

    Two sets of similarity t or more have in common at least one of the first n - ceil(t n) + 1 elements of each, in an
    order that is the same for all; with the rarest first, few sets share those. So no pair is missed.
    """
    frequency = Counter[int]()
    for own in sets:
        frequency.update(own)
    where: dict[int, list[int]] = defaultdict(list)
    found = []
    for number, own in enumerate(sets):
        ordered = sorted(own, key=lambda item: (frequency[item], item))
        first = ordered[: len(own) - math.ceil(lowest * len(own) - 1e-9) + 1]
        first = [item for item in first if frequency[item] > 1]
        candidates = {earlier for item in first for earlier in where.get(item, ())}
        sizes = lowest * len(own), len(own) / lowest
        similar = [jaccard(own, sets[earlier]) for earlier in candidates if sizes[0] <= len(sets[earlier]) <= sizes[1]]
        best = max(similar, default=0.0)
        found.append(best if best >= lowest else 0.0)
        if kept[number]:
            for item in first:
                where[item].append(number)
    return found


def prepare(documents: Sequence[str], directory: Path, near: float, workers: int, by: str = "words") -> list[bool]:
    """Run the command; whether it kept each document."""
    import pyarrow.parquet as pq

    path, output = directory / "documents.jsonl", directory / f"corpus{near}-{by}"
    with open(path, "w", encoding="utf-8") as stream:
        for text in documents:
            stream.write(json.dumps({"text": text, "language": "Python"}) + "\n")
    words = ["--input", str(path), "--output", str(output), "--near-duplicates", str(near), "--filters", "none"]
    words += ["--near-duplicates-by", by] if near else []
    command = [sys.executable, "-m", "ms_codegeex.cli", "prepare", *words, "--workers", str(workers), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"prepare failed: {done.stderr[-2000:]}")
    kept = [False] * len(documents)
    for split in ("train", "validation"):
        for source in pq.read_table(output / f"{split}.documents.parquet")["source"].to_pylist():
            kept[int(source.rpartition(":")[2]) - 1] = True
    return kept


def expected_share(similarity: float) -> float:
    """The probability that at least `THRESHOLD` of `SAMPLES` agree, each with the probability `similarity`."""
    minimum = math.ceil(THRESHOLD * SAMPLES)
    return sum(
        math.comb(SAMPLES, agree) * similarity**agree * (1 - similarity) ** (SAMPLES - agree)
        for agree in range(minimum, SAMPLES + 1)
    )


@dataclass(frozen=True)
class Found:
    """Documents with their similarities to what was kept, and whether they were dropped as near duplicates."""

    similarities: tuple[float, ...]
    dropped: tuple[bool, ...]

    def recall(self, minimum: float) -> tuple[int, int]:
        """How many documents of this similarity or more were dropped, and how many there are."""
        wanted = [
            dropped for value, dropped in zip(self.similarities, self.dropped, strict=True) if value >= minimum - 1e-12
        ]
        return sum(wanted), len(wanted)

    def precision(self, minimum: float) -> tuple[int, int]:
        """How many dropped documents have this similarity or more, and how many were dropped."""
        values = [value for value, dropped in zip(self.similarities, self.dropped, strict=True) if dropped]
        return sum(value >= minimum - 1e-12 for value in values), len(values)

    def table(self) -> list[str]:
        """A line for each bin of similarities: documents, share dropped, share that independent samples give."""
        lines = []
        for low, high in zip(BINS, (*BINS[1:], 2.0), strict=True):
            rows = [
                (value, dropped)
                for value, dropped in zip(self.similarities, self.dropped, strict=True)
                if low <= value < high
            ]
            if rows:
                share = sum(dropped for _, dropped in rows) / len(rows)
                expected = sum(expected_share(value) for value, _ in rows) / len(rows)
                name = f"{low:.2f} to {high:.2f}" if high <= 1 else "1.00, not the same bytes"
                lines.append(f"  J {name:<24} {len(rows):>6} documents, dropped {share:.3f}, expected {expected:.3f}")
        return lines


def print_exact(documents: Sequence[str], kept: Sequence[bool]) -> set[int]:
    """Print recall and precision of exact copies; the documents that repeat an earlier one."""
    seen: set[str] = set()
    repeated = set()
    for number, text in enumerate(documents):
        if text in seen:
            repeated.add(number)
        seen.add(text)
    dropped = {number for number, is_kept in enumerate(kept) if not is_kept}
    right = len(repeated & dropped)
    print(f"  exact copies: recall {share(right, len(repeated))}, precision {share(right, len(dropped))}")
    return repeated


def measure_renamed(
    sources: Sequence[str], directory: Path, workers: int, generator: random.Random, shares: Sequence[float], count: int
) -> None:
    """Print how many renamed copies of `count` sources are found by words and by tokens."""
    least, most = RENAMED_BYTES
    python = [text for text in dict.fromkeys(sources) if "def " in text and least <= len(text) <= most]
    originals = generator.sample(python, min(count, len(python)))
    print(f"renamed copies of {len(originals)} sources, {sum(map(len, originals)) / 1e6:.2f} MB")
    for part in shares:
        copies = [rename_identifiers(text, part, generator) for text in originals]
        for by in ("words", "tokens"):
            place = directory / f"renamed-{part}-{by}"
            place.mkdir(parents=True)
            before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
            kept = prepare([*originals, *copies], place, THRESHOLD, workers, by)
            seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
            left = [sum(pair) for pair in zip(kept[: len(originals)], kept[len(originals) :], strict=True)]
            found, lost = left.count(1), left.count(0)  # the larger one of a pair is kept
            what = f"{found} found, {lost} lost with their copies"
            print(f"  {part:.0%} of the names, by {by}: {what}, {seconds:.1f} CPU s")


def measure_peer(documents: Sequence[str], directory: Path, python: Path) -> None:
    """Print what datatrove finds among the same documents; needs `measure` before, for its input."""
    script = Path(__file__).with_name("deduplication_peer.py")
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    words = [python, script, directory / "documents.jsonl", directory / "peer"]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"datatrove failed: {done.stderr[-2000:]}")
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    kept = [False] * len(documents)
    for number in json.loads(done.stdout.splitlines()[-1]):
        kept[number] = True
    # Of equal documents it may keep another one than the first, so similarity is to all that it kept.
    dropped = [number for number, is_kept in enumerate(kept) if not is_kept]
    order = [*(number for number, is_kept in enumerate(kept) if is_kept), *dropped]
    sets = [shingles(documents[number]) for number in order]
    values = highest_similarities(sets, [kept[number] for number in order], LOWEST)
    found = Found(tuple(values), tuple(not kept[number] for number in order))
    print(f"datatrove: {len(dropped)} of {len(documents)} dropped, {seconds:.1f} CPU s")
    print(f"  recall of J >= {THRESHOLD + TOLERANCE:.2f} {share(*found.recall(THRESHOLD + TOLERANCE))}, ", end="")
    print(f"precision at J >= {THRESHOLD - TOLERANCE:.2f} {share(*found.precision(THRESHOLD - TOLERANCE))}")


def measure(documents: Sequence[str], directory: Path, workers: int) -> None:
    """Run `prepare` with and without near duplicates, and print what it found."""
    directory.mkdir()
    began = time.perf_counter()
    repeated = print_exact(documents, prepare(documents, directory, 0.0, workers))
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    kept = prepare(documents, directory, THRESHOLD, workers)
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    print(f"  dropped {kept.count(False)} of {len(documents)}, {seconds:.1f} CPU s")
    middle = time.perf_counter()
    rest = [number for number in range(len(documents)) if number not in repeated]
    rest.sort(key=lambda number: -len(documents[number].encode()))  # the largest of similar ones is kept
    sets = [shingles(documents[number]) for number in rest]
    values = highest_similarities(sets, [kept[number] for number in rest], LOWEST)
    found = Found(tuple(values), tuple(not kept[number] for number in rest))
    print(f"  near duplicates, J >= {THRESHOLD}: recall {share(*found.recall(THRESHOLD))}, ", end="")
    print(f"precision {share(*found.precision(THRESHOLD))}")
    print(f"  within {TOLERANCE}: recall of J >= {THRESHOLD + TOLERANCE:.2f} ", end="")
    print(f"{share(*found.recall(THRESHOLD + TOLERANCE))}, ", end="")
    print(f"precision at J >= {THRESHOLD - TOLERANCE:.2f} {share(*found.precision(THRESHOLD - TOLERANCE))}")
    print("\n".join(found.table()))
    print(f"  prepare twice {middle - began:.0f} s, truth {time.perf_counter() - middle:.0f} s", file=sys.stderr)


def main() -> int:
    parser = options(__doc__, seed=True)
    parser.add_argument("--input", nargs="+", type=Path, help="sources (default: the interpreter's libraries)")
    parser.add_argument("--megabytes", type=float, default=20.0, help="of sources (20)")
    parser.add_argument("--originals", type=int, default=2000, help="sources that get planted copies (2000)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes of prepare")
    parser.add_argument("--directory", type=Path, help="where to write, ten times the sources (default: TMPDIR)")
    parser.add_argument("--peer-python", type=Path, help="interpreter that has datatrove and spacy")
    parser.add_argument("--quick", action="store_true", help="1 MB, 60 originals, no sources alone")
    arguments = parser.parse_args()
    megabytes, originals = (1.0, 60) if arguments.quick else (arguments.megabytes, arguments.originals)
    generator = random.Random(arguments.seed)
    sources = read_sources(
        user_roots(arguments.input) if arguments.input else default_roots(), megabytes * 1e6, generator
    )
    print_header("numpy")
    documents, number = plant(sources, originals, generator)
    with tempfile.TemporaryDirectory(dir=arguments.directory) as name:
        print(f"sources and planted copies, {len(documents)} documents")
        print("  planted:", ", ".join(f"{kind} {count}" for kind, count in sorted(number.items())))
        measure(documents, Path(name) / "planted", arguments.workers)
        if arguments.peer_python:
            measure_peer(documents, Path(name) / "planted", arguments.peer_python)
        shares, count = (RENAMED_SHARES[1:2], 4) if arguments.quick else (RENAMED_SHARES, RENAMED)
        measure_renamed(sources, Path(name), arguments.workers, generator, shares, count)
        if not arguments.quick:
            print(f"sources alone, {len(sources)} documents")
            measure(sources, Path(name) / "sources", arguments.workers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
