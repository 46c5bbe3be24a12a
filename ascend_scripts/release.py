#!/usr/bin/env python3
"""Builds what a package index gets, checks it, and installs it into clean environments.

    python ascend_scripts/release.py --output dist

Everything comes from the last commit, not from the working tree: an sdist, a wheel for every platform, wheels with
compiled operators for Linux on x86-64 and aarch64, a bill of materials (CycloneDX), SHA256SUMS and release.log. All is
built twice, in different folders, and has to have equal bytes. Nothing is uploaded. Maintainers only; needs git, a
package index, 3 GB of disk, and 10 minutes and more.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.10", "3.11", "3.12")
PLATFORMS = {
    "x86_64": "manylinux_2_17_x86_64",
    "aarch64": "manylinux_2_17_aarch64",
}  # of kernels/prebuilding.py: TARGETS
RESERVED = re.compile(r"://[^/\s\"]*(\.example|\.invalid|\.test|example\.(com|net|org))\b")  # by RFC 2606
SMALL = (  # a model with which a training step takes no time
    *("training.steps=2", "training.global_batch=4", "training.evaluate_samples=4", "data.seq_length=32"),
    *("model.hidden_size=16", "model.num_layers=1", "model.num_heads=2", "model.intermediate_size=32"),
    "model.max_position_embeddings=512",
)


class Failure(Exception):
    """A step that failed, in one line."""


class Log:
    """What was done, on the terminal and in a file."""

    def __init__(self, file: Path) -> None:
        self.file, self.begin = file, time.monotonic()
        file.write_text("", "utf-8")

    def __call__(self, text: str) -> None:
        """A line, with the seconds since the beginning."""
        line = f"[{time.monotonic() - self.begin:5.0f} s] {text}"
        print(line, flush=True)
        with self.file.open("a", encoding="utf-8") as out:
            out.write(line + "\n")


def run(*command: object, cwd: Path, **settings: str) -> str:
    """Standard output of a command with these environment variables besides the caller's. `Failure` with the end of
    its messages if it fails."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=environment | settings, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failure(f"{' '.join(words)}: exit status {done.returncode}\n{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def interpreter(version: str) -> str | None:
    """A Python of this version with its own modules venv and ensurepip, not one of a virtual environment; None if there
    is none."""
    candidates = [sys.executable, shutil.which(f"python{version}")]
    candidates += map(str, sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python")))
    check = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2], sys._base_executable)"
    for python in filter(None, candidates):
        done = subprocess.run([python, "-I", "-c", check], capture_output=True, text=True, check=False)
        found, _, base = done.stdout.strip().partition(" ")
        if done.returncode == 0 and found == version:
            return base
    return None


def environment(python: str, place: Path, *words: object) -> Path:
    """The Python of a new virtual environment into which pip installs `words`, which name every version."""
    run(python, "-I", "-m", "venv", place, cwd=place.parent)
    made = place / "bin" / "python"
    run(made, "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *words, cwd=place.parent)
    return made


# --- building ---


def checkout(place: Path, commit: str) -> Path:
    """The files of a commit, in the new folder `place`."""
    place.mkdir(parents=True)
    archive = place.with_suffix(".tar")
    run("git", "archive", "--format=tar", f"--output={archive}", commit, cwd=ROOT)
    run("tar", "-xf", archive, "-C", place, cwd=place)
    archive.unlink()
    return place


def normalise(sdist: Path, epoch: int) -> None:
    """Writes a .tar.gz again with sorted names, one time, one owner and two modes: setuptools keeps the machine's."""
    with tarfile.open(sdist) as source:
        content = {one.name: (one, source.extractfile(one) if one.isfile() else None) for one in source.getmembers()}
        packed = sdist.with_suffix(".new")
        with (
            packed.open("wb") as raw,
            gzip.GzipFile("", "wb", mtime=epoch, fileobj=raw) as out,
            tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as target,
        ):
            for name in sorted(content):
                member, data = content[name]
                member.mtime, member.uid, member.gid, member.uname, member.gname = epoch, 0, 0, "", ""
                member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
                member.pax_headers = {}
                target.addfile(member, data)
    packed.replace(sdist)


def build(python: Path, work: Path, commit: str, epoch: int) -> list[Path]:
    """The sdist of a commit and the wheels made from it, in `work`/out."""
    source, out = checkout(work / "source", commit), work / "out"
    settings = {"SOURCE_DATE_EPOCH": str(epoch)}
    words = (python, "-I", "-m", "build", "--no-isolation", "--outdir", out)
    run(*words, "--sdist", source, cwd=work, **settings)
    (sdist,) = out.glob("*.tar.gz")
    normalise(sdist, epoch)
    for machine in (None, *PLATFORMS):
        place = work / (machine or "any")
        place.mkdir()
        run("tar", "-xf", sdist, "-C", place, cwd=work)
        (unpacked,) = place.iterdir()
        if machine is None:
            run(*words, "--wheel", unpacked, cwd=work, **settings)
            continue
        compile_all = "import sys, pathlib; from ms_codegeex.kernels import prebuilding as c; "
        compile_all += "c.prebuild(sys.argv[1], pathlib.Path('ms_codegeex'))"
        run(python, "-B", "-c", compile_all, machine, cwd=unpacked)
        tag = f"--config-setting=--build-option=--plat-name={PLATFORMS[machine]}"
        run(*words, "--wheel", tag, unpacked, cwd=work, **settings)
    return sorted(out.iterdir())


def digest(file: Path) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


# --- checking ---


def check(tools: Path, source: Path, files: list[Path], log: Log) -> None:
    """What an index would refuse, and what would not work there. `Failure` at the first finding."""
    wheels = [file for file in files if file.suffix == ".whl"]
    run(tools / "twine", "check", "--strict", *files, cwd=source)
    log(f"twine check --strict: {len(files)} files passed")
    run(tools / "check-wheel-contents", "--config", source / "pyproject.toml", *wheels, cwd=source)
    log(f"check-wheel-contents: {len(wheels)} wheels passed")
    (linux,) = (wheel for wheel in wheels if wheel.name.endswith(f"{PLATFORMS['x86_64']}.whl"))
    shown = " ".join(run(tools / "auditwheel", "show", linux, cwd=source).split())
    if f'platform tag: "{PLATFORMS["x86_64"]}"' not in shown:
        raise Failure(f"auditwheel: {linux.name} does not keep what its name promises: {shown}")
    log(f"auditwheel show: {linux.name} is consistent with its name")
    run(tools / "cffconvert", "--validate", "--infile", source / "CITATION.cff", cwd=source)
    log("cffconvert --validate: CITATION.cff is valid")


def bill_of_materials(tools: Path, source: Path, version: str, file: Path) -> int:
    """Writes the pinned requirements with their hashes as a CycloneDX document; returns the number of components."""
    words = ("--pyproject", "pyproject.toml", "--mc-type", "library", "--sv", "1.6", "--of", "JSON", "--validate")
    run(
        tools / "cyclonedx-py",
        "requirements",
        "requirements.txt",
        *words,
        "--output-reproducible",
        "-o",
        file,
        cwd=source,
    )
    document = json.loads(file.read_text("utf-8"))
    document["metadata"]["component"]["version"] = version  # pyproject.toml says only that it is dynamic
    file.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", "utf-8")
    return len(document["components"])


def open_points(source: Path, version: str) -> Iterator[str]:
    """What has to be decided or written before these files are uploaded."""
    if RESERVED.search((source / "pyproject.toml").read_text("utf-8")):
        yield "pyproject.toml: [project.urls] name a reserved domain; put the project's address there"
    if not re.search(
        rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", (source / "CHANGELOG.md").read_text("utf-8"), re.M
    ):
        yield f"CHANGELOG.md: `## [{version}]` has no date"
    if f"\nversion: {version}\n" not in (source / "CITATION.cff").read_text("utf-8"):
        yield f"CITATION.cff: its version is not {version}"
    if run("git", "status", "--porcelain", cwd=ROOT):
        yield "the working tree has changes that are not in the commit"


def smoke(tools: Path, python: str, files: list[Path], work: Path) -> str:
    """Installs the wheel that uv prefers here, with the dependencies that uv chooses, and uses it outside of the
    checkout, with no compiler on the PATH. Returns what was done. `Failure` if something does not work."""
    work.mkdir()
    cache = {"UV_CACHE_DIR": str(work.parent / "uv")}  # of this release only: what one Python fetched, the next one has
    made = work / "env" / "bin" / "python"
    run(tools / "uv", "venv", "--quiet", "--python", python, work / "env", cwd=work, **cache)
    pip = (tools / "uv", "pip")
    words = ("--find-links", files[0].parent, "--only-binary", "ms-codegeex", f"ms-codegeex=={version_of(files)}")
    run(*pip, "install", "--quiet", "--python", made, *words, cwd=work, **cache)
    run(*pip, "check", "--python", made, cwd=work, **cache)
    folder = work / "folder"
    folder.mkdir()
    settings = {"PATH": str(made.parent), "XDG_CACHE_HOME": str(work / "cache"), "HOME": str(work)}

    def use(*words: object) -> str:
        return run(made.parent / "ms-codegeex", *words, cwd=folder, **settings)

    def said(code: str) -> str:
        return run(made, "-I", "-c", code, cwd=folder, **settings).strip()

    verbs = said("from ms_codegeex.cli import VERBS; print(*VERBS)").split()
    for verb in verbs:
        use(verb, "--help")
    library = Path(said("from ms_codegeex.kernels.compiling import library_path; print(library_path())"))
    if platform.system() == "Linux" and platform.machine() in PLATFORMS and library.parent.name != "prebuilt":
        raise Failure(f"the operators of the wheel are not used, but {library}")
    use(
        "train",
        "--config",
        "codegeex_tiny_release",
        *SMALL,
        "output=run",
        "--corpus",
        said("import json; print(json.__path__[0])"),
    )
    use("convert", "--model", "run", "--to", "hf", "--output", "model", "--verify")
    use("generate", "--model", "model", "--prompt", "import", "--max-new-tokens", "4")
    shutil.rmtree(work)  # 2 GB
    return f"uv pip check, help of {len(verbs)} verbs, train, convert and generate with {library.name}"


def version_of(files: list[Path]) -> str:
    """The version in the files' names."""
    return next(file.name for file in files if file.suffix == ".whl").split("-")[1]


def release(output: Path, pythons: list[str], log: Log, work: Path) -> None:
    """Builds, checks and tries everything. `Failure` at the first step that fails."""
    commit = run("git", "rev-parse", "HEAD", cwd=ROOT).strip()
    epoch = int(run("git", "log", "-1", "--format=%ct", commit, cwd=ROOT))
    log(f"commit {commit}, SOURCE_DATE_EPOCH {epoch}")
    lock = ROOT / "requirements-release.txt"
    python = environment(
        sys.executable, work / "tools", "--no-deps", "--require-hashes", "--only-binary", ":all:", "-r", lock
    )
    log("tools installed from requirements-release.txt")
    with ThreadPoolExecutor(2) as pool:
        places = [work / "first", work / "again" / "in-another-folder"]
        first, second = pool.map(lambda place: build(python, place, commit, epoch), places)
    if [digest(file) for file in first] != [digest(file) for file in second]:
        raise Failure(
            "two builds differ: "
            + ", ".join(a.name for a, b in zip(first, second, strict=True) if digest(a) != digest(b))
        )
    log(f"built twice with equal bytes: {', '.join(file.name for file in first)}")
    source, tools = work / "first" / "source", python.parent
    check(tools, source, first, log)
    version = version_of(first)
    bill = work / "first" / "out" / f"ms_codegeex-{version}.cdx.json"
    log(f"CycloneDX: {bill_of_materials(tools, source, version, bill)} components with hashes, valid")
    for name in pythons:
        found = interpreter(name)
        tried = smoke(tools, found, first, work / name) if found else "NOT TRIED, there is none on this machine"
        log(f"Python {name}: {tried}")
    sums = ""
    for file in [*first, bill]:
        shutil.copy(file, output)
        sums += f"{digest(file)}  {file.name}\n"
        log(f"{digest(file)}  {file.name}  {file.stat().st_size:,} bytes")
    (output / "SHA256SUMS").write_text(sums, "utf-8")
    points = list(open_points(source, version))
    log("to do before an upload: " + "; ".join(points) if points else "ready to be uploaded")


def main() -> int:
    """Runs the release; 1 if a step fails, 2 for a mistake in the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="a new or empty folder (default: dist)")
    parser.add_argument(
        "--python", nargs="*", default=list(PYTHONS), metavar="X.Y", help="versions to try it with (default: all)"
    )
    arguments = parser.parse_args()
    output = arguments.output.resolve()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        parser.error(f"--output: {output} is not an empty folder")
    output.mkdir(parents=True, exist_ok=True)
    log = Log(output / "release.log")
    os.umask(0o022)
    with tempfile.TemporaryDirectory(prefix="ms-codegeex-release-") as work:
        try:
            release(output, arguments.python, log, Path(work))
        except Failure as failure:
            log(f"FAILED: {failure}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
