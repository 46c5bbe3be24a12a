"""What `prepare`'s rules do to real files: precision and recall on packages of Debian, PyPI and npm.

    python benchmarks/corpora.py FOLDER                      # downloads and unpacks what `corpora.yaml` lists, measures
    python benchmarks/corpora.py FOLDER --cases secrets      # the cases of a rule, or of `all`, that nobody has judged
    python benchmarks/corpora.py FOLDER --labels labels.tsv  # languages, next to the labels of magika
    python benchmarks/corpora.py FOLDER --local              # only what is in the folder

Of each package at most `--each` files are read, chosen by a hash of the path. A case is what a rule found in a file. Of
each rule a reader judges those cases whose hash is smallest; `corpora_verdicts.yaml` has the verdicts by this hash.
Recall: files that a program wrote, by their names and by what is beside them (`generated` in `corpora.yaml`); values
drawn at random and planted (`redaction.py`), or assigned to names in many ways. Labels are lines `path<TAB>label`.
"""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import os
import random
import re
import shutil
import sys
import tarfile
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redaction
from common import options, print_header

from ms_codegeex.base.yaml_reading import parse_yaml
from ms_codegeex.data.languages import languages
from ms_codegeex.extras.corpus.detection import HEAD_BYTES, as_utf8, detect, needs_head
from ms_codegeex.extras.corpus.filters import generator_of
from ms_codegeex.extras.corpus.licences import judge, licences_in_comments, metadata_rule, stated_licences
from ms_codegeex.extras.corpus.minhash import are_similar, band_keys, bands_for, signature
from ms_codegeex.extras.corpus.redaction import find_emails, find_secrets, redact
from ms_codegeex.extras.corpus.sources import SourceFile, hash_key, search, user_roots

HERE = Path(__file__).resolve().parent
TABLE = parse_yaml((HERE / "corpora.yaml").read_bytes())
PERMISSIVE = tuple(TABLE["permissive"].split())
THRESHOLD, NEAR_BYTES = 0.85, 12_000_000


@dataclass(frozen=True)
class Case:
    """What a rule found in the file at `place`, as `text` shows it to a reader."""

    rule: str
    place: str
    text: str

    @property
    def key(self) -> str:
        """By which verdicts are kept; it does not depend on the place."""
        return hashlib.sha256(f"{self.rule}\n{self.text}".encode()).hexdigest()[:12]


def download(folder: Path, packages: list[str]) -> None:
    """Fetch and unpack packages, `URL SHA-256`, unless they are there."""
    for url, digest in map(str.split, packages):
        name = url.rpartition("/")[2]
        place, archive = folder / re.split(r"\.orig|\.tar|\.tgz", name)[0], folder / name
        if place.is_dir():
            continue
        if not archive.is_file():
            with urllib.request.urlopen(url, timeout=60) as answer, open(archive, "wb") as stream:
                shutil.copyfileobj(answer, stream)
        if hashlib.sha256(archive.read_bytes()).hexdigest() != digest:
            raise SystemExit(f"{archive}: its SHA-256 is not {digest}; delete it and try again")
        part = Path(os.path.normpath(place.with_suffix(".part")))
        with tarfile.open(archive) as members:  # its filters are not in each Python 3.10 and 3.11
            for member in members:
                path = Path(os.path.normpath(part / member.name))
                if member.isfile() and member.size < 2_000_000 and path.is_relative_to(part):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(members.extractfile(member).read())
        part.rename(place)
        archive.unlink()


def package_of(file: SourceFile) -> str:
    """The archive that a file was in."""
    return file.identity.split("/")[1]


def chosen(folder: Path, each: int) -> list[SourceFile]:
    """At most `each` sources of a package, with the licence that its metadata state."""
    packages: dict[str, list[SourceFile]] = defaultdict(list)
    names = [language.name for language in languages()]
    for file in search(user_roots([folder]), names, licences=True).sources:
        packages[package_of(file)].append(file)
    for files in packages.values():
        files.sort(key=lambda file: hash_key(0, file.identity))
    return [file for _, files in sorted(packages.items()) for file in files[:each]]


def shown(data: bytes, start: int, end: int) -> str:
    """What is found at these places, in brackets, with the text around."""
    parts = (data[max(0, start - 160) : start], data[start:end][:200], data[end : end + 80])
    return "{}[[{}]]{}".format(*(part.decode("utf-8", "replace") for part in parts))


def licence_of(file: SourceFile, data: bytes) -> tuple[str, bool | None, bytes]:
    """The licence of a file, whether it is permissive (None: that is not known), and the first bytes of its text."""
    head, _ = as_utf8(data[:HEAD_BYTES], "ignore")
    named = licences_in_comments(head, file.language) or [file.licence][: bool(file.licence)]
    return *judge(tuple(named), PERMISSIVE), head


def cases_of(file: SourceFile, data: bytes) -> Iterator[Case]:
    """What the rules for single files find."""
    licence, allowed, head = licence_of(file, data)
    if allowed:
        yield Case("licences of files", file.identity, f"{licence}\n{head[:1200].decode('utf-8', 'replace')}")
    if program := generator_of(data, str(file.path)):
        yield Case("generated", file.identity, f"{program}\n" + data[:700].decode("utf-8", "replace"))
        return
    for start, end, kind in find_secrets(data):
        rule = "assigned passwords" if kind == "password" else "secrets"
        yield Case(rule, file.identity, f"{kind}: {shown(data, start, end)}")
    for start, end, _ in find_emails(data):
        yield Case("e-mail addresses", file.identity, shown(data, start, end))


def records(folder: Path) -> Iterator[Case]:
    """The names of licences in the metadata of packages, which records have in a field."""
    for path in sorted(folder.rglob("*")):
        number = metadata_rule(path.parent.name, path.name)
        if number is None or not path.is_file() or path.stat().st_size > 200_000:
            continue
        for _, name in stated_licences(number, path.read_bytes()):
            state = "kept" if judge((name,), PERMISSIVE)[1] else "dropped"
            yield Case(f"licences of records that are {state}", str(path), name)


def near(files: list[SourceFile], by: str) -> Iterator[Case]:
    """Sources that are dropped as like one that is kept, from the largest to the smallest."""
    kept: dict[tuple[int, int], list[tuple[str, bytes, Any]]] = defaultdict(list)
    bands, texts, taken = bands_for(THRESHOLD), dict[bytes, SourceFile](), Counter[str]()
    rule = "near duplicates by tokens" if by == "tokens" else "near duplicates in other scripts"
    for file in sorted(files, key=lambda file: hash_key(1, package_of(file))):  # each text once
        if taken[package_of(file)] + file.size <= NEAR_BYTES / 30 and taken.total() < NEAR_BYTES:
            taken[package_of(file)] += file.size
            texts[Path(file.path).read_bytes()] = file
    for data, file in sorted(texts.items(), key=lambda row: -len(row[0])):
        if (own := signature(data, file.language, by)) is None:
            continue
        keys = [*enumerate(band_keys(own[None], bands)[0].tolist())]
        others = (it for key in keys for it in kept[key] if are_similar(own[None], it[2][None], THRESHOLD)[0])
        if other := next(others, None):
            lines = [text.decode("utf-8", "replace").splitlines() for text in (other[1], data)]
            changes = [*difflib.unified_diff(*lines, n=0, lineterm="")][2:]
            text = f"{len(changes)} changed lines of {len(lines[0])} and {len(lines[1])}\n" + "\n".join(changes[:24])
            yield Case(rule, f"{file.identity} like {other[0]}", text[:3000])
        else:
            for key in keys:
                kept[key].append((file.identity, data, own))


def by_labels(path: Path) -> Iterator[Case]:
    """Print how often our language is that of another program's label, by suffix; the disagreements."""
    agreed, read, names = Counter[str](), Counter[str](), TABLE["labels"]
    for name, label in (line.split("\t") for line in path.read_text(errors="surrogateescape").splitlines()):
        if label not in names or not needs_head(name):
            continue
        head = Path(name).read_bytes()[:HEAD_BYTES]
        found, suffix = detect(name, head), Path(name).suffix.lower() or "none"
        ours = found.name if found is not None else "unknown"
        read[suffix] += 1
        agreed[suffix] += ours in names[label].split(", ")
        if ours not in names[label].split(", "):
            yield Case(f"languages {suffix}", name, f"{ours}, not {label}\n" + head[:900].decode("utf-8", "replace"))
    for suffix, count in read.most_common():
        print(f"  {suffix}: {agreed[suffix] / count:.3f} of {count} as magika")


def generated_recall(folder: Path) -> Iterator[tuple[str, int, int]]:
    """For each generator, how many of the texts that it wrote are recognised, and how many there are."""
    names: dict[str, set[Path]] = defaultdict(set)
    for top, _, below in os.walk(folder):
        for name in below:
            names[name].add(Path(top))
    for program, rows in TABLE["generated"].items():
        found = dict[bytes, Path]()
        for pattern, _, beside in (row.partition(" beside ") for row in rows.split(", ")):
            suffix = pattern.removeprefix("*")
            for name in fnmatch.filter(names, pattern):
                other = name.removesuffix(suffix) + beside if beside.startswith(".") else beside
                places = names[name] & names.get(other, set()) if beside else names[name]
                found |= {(path := place / name).read_bytes(): path for place in sorted(places)}
        yield program, sum(generator_of(data, str(path)) is not None for data, path in found.items()), len(found)


def assigned_recall(each: int, generator: random.Random) -> Iterator[tuple[str, int, int]]:
    """For each kind of value, how many are replaced that are assigned to names in many ways, and how many there are."""
    lines = [line.replace("NAME", name) for line in TABLE["lines"] for name in TABLE["names"].split()] * each
    for value in TABLE["values"].split():
        drawn = [redaction.drawn(value, generator) for _ in lines]
        texts = [(line % text).encode() for line, text in zip(lines, drawn, strict=True)]
        left = [text.encode() in redact(line, ("secrets",))[0] for line, text in zip(texts, drawn, strict=True)]
        yield value, len(left) - sum(left), len(left)


def is_other_script(data: bytes) -> bool:
    """Whether a tenth of the bytes or more are of characters outside ASCII."""
    return 10 * len(data.translate(None, bytes(range(128)))) > len(data) > 0


def print_recall(folder: Path, texts: list[str], each: int) -> None:
    """What is recognised of what is known, and what is changed of what only looks similar."""
    found = {"generated": generated_recall(folder), "assigned values": assigned_recall(each, random.Random(0))}
    for title, rows in found.items():
        listed = [row for row in rows if row[2]]
        right, there = (sum(row[place] for row in listed) for place in (1, 2))
        print(f"{title}: recall {right / max(1, there):.3f} ({right} of {there})")
        for name, count, number in listed:
            print(f"  {name}: {count / number:.3f} ({count} of {number})")
    _, left = redaction.missed(texts, each, random.Random(0))
    forms = {name for name, template, _ in redaction.PLANTED if not template.startswith("{")}
    print(f"forms of issuers, any missed: {sorted(forms & set(+left)) or 'none'} of {len(forms)}")
    total, changed = redaction.false_alarms(texts, each, random.Random(1))
    print(f"near misses that are changed: {changed.total()} of {total}")


def print_precision(cases: list[Case], verdicts: dict[str, Any], listed: str) -> None:
    """A line for each rule, or the cases of the listed rule that nobody has judged."""
    by_rule: dict[str, dict[str, Case]] = defaultdict(dict)
    for case in cases:
        by_rule[case.rule].setdefault(case.key, case)
    for rule, found in sorted(by_rule.items()):
        aim, number = TABLE["rules"].get(rule, (0.97, 40))
        sample = sorted(found)[:number]
        judged = [set(verdicts.get(rule, {}).get(verdict, ())) for verdict in ("right", "wrong")]
        right, wrong = (len(keys.intersection(sample)) for keys in judged)
        share = f"{right / (right + wrong):.3f} ({right} of {right + wrong})" if right + wrong else "not judged"
        print(f"{rule}: {len(found)} cases, right {share}, aim {aim:.3f}; {len(sample) - right - wrong} not judged")
        for key in sample if listed in (rule, "all") else ():
            if key not in judged[0] | judged[1]:
                print(f"=== {key} {found[key].place}\n{found[key].text}")


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--local", action="store_true", help="download nothing")
    parser.add_argument("--each", type=int, default=600, help="files of a package (600)")
    parser.add_argument("--cases", default="", metavar="RULE", help="print the cases that nobody has judged")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="labels of another program")
    parser.add_argument("--verdicts", type=Path, default=HERE / "corpora_verdicts.yaml", metavar="FILE")
    arguments = parser.parse_args()
    folder, verdicts = arguments.folder.resolve(), parse_yaml(arguments.verdicts.read_bytes())
    print_header("google-re2", "pygments")
    if arguments.labels is not None:
        print_precision([*by_labels(arguments.labels)], verdicts, arguments.cases)
        return 0
    if not arguments.local:
        download(folder, TABLE["packages"])
    files = chosen(folder, arguments.each)
    texts = {file: Path(file.path).read_bytes() for file in files}
    size, packages = sum(map(len, texts.values())) / 1e6, len({package_of(file) for file in files})
    print(f"{len(files)} files, {size:.0f} MB, {packages} packages")
    known = sum(licence_of(file, data)[1] is not None for file, data in texts.items())
    print(f"files whose licence is known: {known / max(1, len(files)):.3f}")
    cases = [case for file, data in texts.items() for case in cases_of(file, data)]
    scripts = [file for file, data in texts.items() if is_other_script(data)]
    print_precision(
        [*cases, *records(folder), *near(files, "tokens"), *near(scripts, "words")], verdicts, arguments.cases
    )
    if not arguments.cases:
        sources = [text for data in texts.values() if (text := data.decode("utf-8", "ignore")).isascii()]
        print_recall(folder, sources, max(1, arguments.each // 60))
    return 0


if __name__ == "__main__":
    sys.exit(main())
