"""Translate MindSpore's GPU kernels for a chip that is newer than their machine code, once and without a GPU.

    python ascend_scripts/translate_kernels.py               # for the GPU that is here, if it needs that
    python ascend_scripts/translate_kernels.py --chip 9.0    # for an H100 or H200, on any machine

`setup.sh --gpu` runs it. Without it NVIDIA's driver translates at the first start, in about seven minutes on an H100.
An interrupted translation continues where it was. Needs MindSpore and NVIDIA's packages (requirements-gpu.txt).

The kernel library has modules ("fat binaries"): a header, then entries, each machine code or PTX for one chip. In a
copy of the library in our cache, machine code that CUDA's assembler `ptxas` makes of the PTX takes the place of that
for the oldest chips, 6.0 and 6.1, in tight modules also 7.0; they can do with PTX. The installed file stays. A process
that computes on a GPU loads MindSpore's plugin with the copy before MindSpore does
(`ms_codegeex.base.cuda.libraries.prepare`).
"""

from __future__ import annotations

import argparse
import mmap
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow

from ms_codegeex.base.cache import cached_folder
from ms_codegeex.base.cuda.driver import query_driver_in_subprocess
from ms_codegeex.base.cuda.libraries import INSTALL, MACHINES, TRANSLATED, packaged, translated_folder
from ms_codegeex.base.cuda.plugin import KERNELS, plugin_directory
from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.base.printing import print_error, print_progress

CHIP = ".".join(map(str, TRANSLATED))
ARCHITECTURE = TRANSLATED[0] * 10 + TRANSLATED[1]  # 90 for 9.0
PTX, CODE, COMPRESSED = 1, 2, 0x2000
SOURCE = (PTX, 86)
GIVEN_UP = ([(CODE, 60), (CODE, 61)], [(CODE, 60), (CODE, 61), (CODE, 70)])  # the second where the first is too little
NEEDED = {(PTX, 60), SOURCE, (CODE, 80), *GIVEN_UP[1]}  # those chips can do with the PTX for 6.0
MODULE_BEGIN = bytes.fromhex("50ed55ba01001000")  # magic, version, bytes of the header
MODULE = struct.Struct("<8sQ")  # with the bytes of the entries
# 0 kind, 2 bytes of the header, 3 of the content, 4 of the compressed content, 8 chip, 9 and 10 a name, 11 flags,
# 13 bytes of the content that was compressed
ENTRY = struct.Struct("<HHIQIIHHIIIQQQ")
CODE_OF_CHIP = struct.Struct("<18xH28xB")  # of an ELF file: the machine, and the lowest byte of the flags
CUDA_MACHINE = 190


@dataclass(frozen=True)
class Entry:
    """An entry: its kind and chip (80 for 8.0), its place in the library with the header, and its header's fields."""

    kind: int
    chip: int
    place: slice
    fields: tuple[int, ...]

    def content(self, library: mmap.mmap) -> bytes:
        """The machine code or PTX."""
        begin = self.place.start + self.fields[2]
        if not self.fields[11] & COMPRESSED:
            return library[begin : self.place.stop]
        packed, unpacked = self.fields[4], self.fields[13]
        return pyarrow.decompress(library[begin : begin + packed], unpacked, "lz4_raw", asbytes=True)


def modules_of(library: mmap.mmap, needed: Collection[tuple[int, int]] = NEEDED) -> dict[int, list[Entry]]:
    """The entries of each module by its place in the library. `ValueError` if it has another structure, or a module
    lacks one of the `needed` kinds and chips."""
    found: dict[int, list[Entry]] = {}
    at = library.find(MODULE_BEGIN)
    while at >= 0:
        inside, found[at] = at + MODULE.size, []
        end = inside + MODULE.unpack_from(library, at)[1]
        while inside < end:
            fields = ENTRY.unpack_from(library, inside)
            entry = Entry(fields[0], fields[8], slice(inside, inside + fields[2] + fields[3]), fields)
            found[at].append(entry)
            inside = entry.place.stop
        if inside != end or not {*needed} <= {(entry.kind, entry.chip) for entry in found[at]}:
            raise ValueError(f"the module at byte {at} has other entries than expected")
        at = library.find(MODULE_BEGIN, end)
    if not found:
        raise ValueError("it has no modules")
    return found


def with_code(library: mmap.mmap, at: int, entries: Sequence[Entry], code: bytes) -> bytes:
    """The module with machine code for `CHIP`, without as much as is `GIVEN_UP` for it, of its old length. `ValueError`
    if it is too long."""
    fields = list(next(entry.fields for entry in entries if (entry.kind, entry.chip) == (CODE, 80)))
    code += bytes(-len(code) % 8)
    fields[2], fields[3], fields[4], fields[8] = ENTRY.size, len(code), 0, ARCHITECTURE
    fields[9], fields[10], fields[11], fields[13] = 0, 0, fields[11] & ~COMPRESSED, 0  # no name
    room = entries[-1].place.stop - at - MODULE.size
    for given_up in GIVEN_UP:
        kept = [library[entry.place] for entry in entries if (entry.kind, entry.chip) not in given_up]
        body = b"".join([*kept, ENTRY.pack(*fields), code])
        if len(body) <= room:
            return MODULE.pack(MODULE_BEGIN, len(body)) + body + bytes(room - len(body))
    raise ValueError(f"machine code for the module at byte {at} is {len(body) - room} bytes too long")


def assembled(ptxas: Path, ptx: bytes, made: Path) -> None:
    """Make the file of machine code for `CHIP`, unless it exists. `ValueError` if it lacks a kernel of the PTX."""
    if made.is_file():
        return
    source, partial = made.with_suffix(".ptx"), made.with_suffix(".partial")
    source.write_bytes(ptx.rstrip(b"\0"))
    command = [str(ptxas), f"-arch=sm_{ARCHITECTURE}", "-O3", "-o", str(partial), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
    if done.returncode:
        raise ValueError(f"ptxas ended with {done.returncode}: {done.stderr.strip()[-200:]}")
    code, names = partial.read_bytes(), re.findall(rb"\.entry\s+(\w+)", ptx)
    whole = all(b"\0.text.%s\0" % name in code for name in names)
    if not whole or CODE_OF_CHIP.unpack_from(code) != (CUDA_MACHINE, ARCHITECTURE):
        raise ValueError(f"ptxas made no code for all of {len(names)} kernels")
    source.unlink()
    partial.replace(made)


def translate(directory: Path, ptxas: Path, progress: Callable[[int, int], None]) -> Path:
    """The folder of translated kernels for the MindSpore in `directory`, made unless it exists. `progress` gets how
    many modules are done, of how many. `RunFailure` if one cannot be translated."""
    target, installed = translated_folder(directory), directory / KERNELS
    scratch = target.with_suffix(".modules")

    def fill(folder: Path) -> None:
        scratch.mkdir(exist_ok=True)
        with installed.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as library:
            modules = modules_of(library)

            def work(at: int) -> None:
                (ptx,) = (entry for entry in modules[at] if (entry.kind, entry.chip) == SOURCE)
                assembled(ptxas, ptx.content(library), scratch / f"{at}.cubin")

            longest_first = sorted(modules, key=lambda at: modules[at][0].place.start - modules[at][-1].place.stop)
            pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
            try:
                for number, _ in enumerate(pool.map(work, longest_first), 1):
                    progress(number, len(modules))
            finally:
                pool.shutdown(cancel_futures=True)
            copy = with_links(directory, folder)
            shutil.copyfile(installed, copy)
            with copy.open("r+b") as written:
                for at, entries in modules.items():
                    written.seek(at)
                    written.write(with_code(library, at, entries, (scratch / f"{at}.cubin").read_bytes()))

    try:
        cached_folder(target.name, "translated kernels", fill)
    except (ValueError, struct.error, OSError) as error:
        wrong = f"cannot be translated ({error})"
        raise RunFailure(f"{installed}: {wrong}; without that, the driver translates at the first start") from error
    shutil.rmtree(scratch, ignore_errors=True)
    return target


def with_links(directory: Path, folder: Path) -> Path:
    """Fill the folder with links to everything beside MindSpore's plugin, its kernels apart; where these belong."""
    kernels = folder / KERNELS
    kernels.parent.mkdir(parents=True)
    for inside in (directory / KERNELS).parents[1], (directory / KERNELS).parents[2]:
        for path in inside.iterdir():
            link = folder / path.relative_to(directory)
            if not link.exists():  # the folders of the kernels
                link.symlink_to(path)
    return kernels


def main() -> int:
    """Translate for the chip that is named or here; exit status 2 with a line if that is impossible."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chip", choices=[CHIP], help="compute capability (default: of the GPU)")
    if not parser.parse_args().chip and TRANSLATED not in [gpu.capability for gpu in query_driver_in_subprocess().gpus]:
        print_error(f"no GPU of compute capability {CHIP} is here, so no kernels need to be translated")
        return 0
    try:
        directory, ptxas = plugin_directory("device: gpu", MACHINES), packaged("cuda_nvcc/bin/ptxas")
        if ptxas is None:
            raise UserError(f"ptxas is missing; run {INSTALL}")
        if not translated_folder(directory).is_dir():
            print_error(f"translating kernels for compute capability {CHIP}: about half an hour of one core")
        made = translate(directory, ptxas, lambda n, count: print_progress(f"translated {n} of {count} modules "))
    except (UserError, RunFailure) as error:
        print_error(str(error))
        return 2
    print_error(f"kernels for compute capability {CHIP}: {made}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
