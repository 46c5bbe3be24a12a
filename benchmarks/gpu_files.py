"""What a machine with a GPU and without a network needs to run this checkout: as few bytes as we know, in parts.

    python benchmarks/gpu_files.py pack PARTS --part 50                # here: parts of 50 MB, a manifest, unpack.py
    python PARTS/unpack.py unpack PARTS TARGET                         # there: with Python of the same version

Packed are the files that git tracks, and of this Python's environment the packages that ms_codegeex requires and
NVIDIA's for CUDA 11.8, without what a GPU does not use (UNUSED). In libraries, machine code for chips other than
--chip becomes zeros, which compress to nothing: for 9.0 the kernels that translate_kernels.py has made are taken if
they exist, otherwise PTX is kept, which the driver translates at the first start. `unpack` checks the size and SHA-256
of each part before it writes anything, and names all that are missing or damaged.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import lzma
import mmap
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MANIFEST, PROGRAM = "manifest.json", "unpack.py"
CHECKOUT, PACKAGES = "checkout", "packages"  # folders of the target
# Of MindSpore other back ends, headers and graph kernels; collectives of several GPUs; parts of cuDNN for convolutions.
UNUSED = re.compile(
    r"mindspore/(include|_akg|Third_Party)|mindspore/lib/plugin/(ascend|gpu11\.1|libmindspore_(gpu\.so\.11\.1|.*ascend))"
    r"|/__editable__|/libakg\.so|/libnccl\.so|/libcudnn_(cnn|adv)_|nvidia/cuda_nvcc|__pycache__|\.(pyi|a|h|hpp)$|/tests?/"
)
LIBRARY = re.compile(r"/lib[^/]*\.so[.0-9]*$")


class Parts(io.RawIOBase):
    """A file to write to whose bytes go into files of `size` bytes; `written` lists them."""

    def __init__(self, folder: Path, size: int):
        self.folder, self.size, self.written = folder, size, []
        self.part = io.BytesIO()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """Write to the current part, and the rest to the next ones."""
        rest = memoryview(data).cast("B")
        while len(rest):
            now, rest = rest[: self.size - self.part.tell()], rest[self.size - self.part.tell() :]
            self.part.write(now)
            if self.part.tell() == self.size:
                self.finish()
        return len(memoryview(data).cast("B"))

    def finish(self) -> None:
        """Write the current part, if it has anything."""
        if content := self.part.getvalue():
            name = f"part-{len(self.written):03}"
            (self.folder / name).write_bytes(content)
            entry = {"name": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            self.written.append(entry)
            print(name, file=sys.stderr)
            self.part = io.BytesIO()


def distributions() -> list[Any]:
    """ms_codegeex, what it requires without extras, and NVIDIA's for CUDA 11."""
    from importlib import metadata

    from packaging.requirements import Requirement

    found: dict[str, Any] = {}
    waiting = [
        "ms-codegeex",
        *(d.metadata["Name"] for d in metadata.distributions() if d.metadata["Name"][-5:] == "-cu11"),
    ]
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            print(f"gpu_files.py: {name} is required and not installed; it is left out", file=sys.stderr)
            continue
        needed = map(Requirement, found[name].requires or ())
        waiting += [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    return list(found.values())


def files() -> Iterator[tuple[str, Path]]:
    """The name in the target and the path of every file."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    yield from ((f"{CHECKOUT}/{name}", ROOT / name) for name in listed.split("\0") if (ROOT / name).is_file())
    for distribution in distributions():
        for file in distribution.files or ():
            path = Path(file.locate())
            if ".." not in file.parts and path.is_file() and not UNUSED.search(f"/{file}"):
                yield f"{PACKAGES}/{file}", path


def runs_on(entries: list[Any], chip: int, kinds: tuple[int, int]) -> list[Any]:
    """Of a module's entries those that the chip needs: newest machine code of its generation, else newest PTX."""
    ptx, code = kinds
    other = [entry for entry in entries if entry.kind not in kinds]
    fitting = [e for e in entries if e.kind == code and e.chip // 10 == chip // 10 and e.chip <= chip]
    fitting = fitting or [e for e in entries if e.kind == ptx and e.chip <= chip]
    return other + [entry for entry in fitting if entry.chip == max(e.chip for e in fitting)]


def cut(path: Path, chip: int) -> mmap.mmap | None:
    """A private copy of a library whose code for other chips is zeros; None if it has none, or of another structure."""
    import translate_kernels

    with path.open("rb") as file:
        library = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    try:
        modules = translate_kernels.modules_of(library, ())
    except ValueError:
        return None
    for entries in modules.values():
        kept = runs_on(entries, chip, (translate_kernels.PTX, translate_kernels.CODE))
        for entry in entries:
            if entry not in kept:
                begin = entry.place.start + entry.fields[2]
                library[begin : entry.place.stop] = bytes(entry.place.stop - begin)
    return library


def pack(folder: Path, size: int, chip: str, preset: int) -> None:
    """Write the parts, the manifest and the program that unpacks them."""
    sys.path[:0] = [str(ROOT), str(ROOT / "ascend_scripts")]
    from ms_codegeex.base.cuda.libraries import MACHINES, translated_folder
    from ms_codegeex.base.cuda.plugin import KERNELS, plugin_directory

    directory, number = plugin_directory("gpu_files.py", MACHINES), int(chip.replace(".", ""))
    translated = translated_folder(directory) / KERNELS
    folder.mkdir(parents=True)
    parts = Parts(folder, size)
    with lzma.open(parts, "wb", preset=preset) as packed, tarfile.open(fileobj=packed, mode="w|") as archive:
        for name, path in sorted(files()):
            source = translated if path == directory / KERNELS and chip == "9.0" and translated.is_file() else path
            library = cut(source, number) if LIBRARY.search(name) and source.stat().st_size else None
            if library is None:
                archive.add(source, name, recursive=False)
            else:
                archive.addfile(archive.gettarinfo(source, name), library)
                library.close()
    parts.finish()
    python = platform.python_version().rpartition(".")[0]
    manifest = {"python": python, "machine": platform.machine(), "chip": chip, "parts": parts.written}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    shutil.copy(__file__, folder / PROGRAM)
    print(f"{len(parts.written)} parts, {sum(part['bytes'] for part in parts.written) / 1e6:.0f} MB, in {folder}")


class Joined(io.RawIOBase):
    """The content of files, one after the other."""

    def __init__(self, paths: list[Path]):
        self.waiting, self.file = list(paths), io.BytesIO()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Some bytes of the current file, or of the next one."""
        while not (count := self.file.readinto(buffer)) and self.waiting:
            self.file.close()
            self.file = self.waiting.pop(0).open("rb")
        return count


def damaged(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """The parts that have to be sent again, and why."""
    wrong = []
    for part in manifest["parts"]:
        path = folder / part["name"]
        if not path.is_file():
            wrong.append(f"{part['name']} is missing")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != part["sha256"]:
            wrong.append(f"{part['name']} has {path.stat().st_size} bytes of {part['bytes']} or another SHA-256")
    return wrong


def unpack(folder: Path, target: Path) -> str:
    """Check the parts and extract them into a folder that does not exist; returns what is wrong, "" for nothing."""
    manifest = json.loads((folder / MANIFEST).read_text())
    if not sys.version.startswith(f"{manifest['python']}."):
        return f"packed for Python {manifest['python']}, this is {platform.python_version()}"
    if platform.machine() != manifest["machine"]:
        return f"packed for {manifest['machine']}, this is {platform.machine()}"
    if target.exists():
        return f"{target} exists; name another folder"
    if wrong := damaged(folder, manifest):
        return "; ".join([*wrong, "send these again"])
    joined = io.BufferedReader(Joined([folder / part["name"] for part in manifest["parts"]]))
    with lzma.open(joined) as packed, tarfile.open(fileobj=packed, mode="r|") as archive:
        archive.extractall(target, filter="data") if hasattr(tarfile, "data_filter") else archive.extractall(target)
    place = target.absolute()
    print(f"cd {place / CHECKOUT} && export PYTHONPATH={place / CHECKOUT}:{place / PACKAGES}")
    print("python -m ms_codegeex.cli doctor")
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    packing, unpacking = verbs.add_parser("pack"), verbs.add_parser("unpack")
    packing.add_argument("parts", type=Path, help="a folder that does not exist")
    packing.add_argument("--part", type=float, default=50.0, help="MB of a part (default 50)")
    packing.add_argument("--chip", default="9.0", help="compute capability (default 9.0)")
    packing.add_argument("--preset", type=int, default=6, help="of xz, 0 (fast) to 9 (default 6)")
    unpacking.add_argument("parts", type=Path)
    unpacking.add_argument("target", type=Path, help="a folder that does not exist")
    arguments = parser.parse_args()
    if arguments.verb == "pack":
        if arguments.parts.exists():
            print(f"gpu_files.py: {arguments.parts} exists; name another folder", file=sys.stderr)
            return 2
        pack(arguments.parts, int(arguments.part * 1e6), arguments.chip, arguments.preset)
        return 0
    if problem := unpack(arguments.parts, arguments.target):
        print(f"unpack.py: {problem}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
