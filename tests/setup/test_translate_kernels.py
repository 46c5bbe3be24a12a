"""Kernels that set-up translates: modules of a small library, an assembler of our own in ptxas's place, and a plugin
that is loaded by two paths."""

import mmap
import platform
import re
import subprocess
import sys

import pyarrow
import pytest
from conftest import ROOT, load_script

from ms_codegeex.base.cuda import translation
from ms_codegeex.base.cuda.driver import Driver, Gpu
from ms_codegeex.base.cuda.libraries import translated_folder
from ms_codegeex.base.cuda.plugin import KERNELS, PLUGIN, plugin_directory
from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.extras.cluster.rehearsal.stubs import compilers

program = load_script("ascend_scripts/translate_kernels.py")
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="the GPU back end is for Linux on x86_64"
)
PTXAS = """#!{python}
import pathlib, re, struct, sys
arch, level, _, made, source = sys.argv[1:]
assert (arch, level) == ("-arch=sm_90", "-O3")
text = pathlib.Path(source).read_text()
with open({log!r}, "a") as log:
    log.write(text.split()[1] + "\\n")
if "broken" in text:
    sys.exit("ptxas: a line that is wrong")
names = re.findall(r"\\.entry (\\w+)", text)
code = struct.pack("<18xH28xI12x", 190, 0x56055A) + b"".join(b"\\0.text.%s\\0" % n.encode() for n in names)
pathlib.Path(made).write_bytes(code + b"\\x90" * {size})
"""


ENTRIES = ((2, 60), (1, 60), (2, 61), (2, 70), (2, 75), (2, 80), (1, 86))


def module(name: str, sizes: int = 400, entries: tuple[tuple[int, int], ...] = ENTRIES) -> bytes:
    """A module as MindSpore's library has them: machine code for five chips, PTX for two, the latter compressed."""
    body = b""
    for kind, chip in entries:
        text = f"// {name}\n.target sm_{chip}\n.visible .entry {name}(\n)".encode().ljust(400) + b"\0"
        content = bytes([chip]) * sizes if kind == 2 else pyarrow.compress(text, "lz4_raw", asbytes=True)
        padded, header = content + bytes(-len(content) % 8), 64 if kind == 2 else 72
        lengths = (len(padded), 0, 0) if kind == 2 else (len(padded), len(content), 64)
        flags, unpacked = (0x11, 0) if kind == 2 else (0x2011, len(text))
        fields = (kind, 0x101, header, *lengths, 7, 1, chip, 0, 0, flags, 0, unpacked)
        body += program.ENTRY.pack(*fields).ljust(header, b"\0") + padded
    return program.MODULE.pack(program.MODULE_BEGIN, len(body)) + body


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A function that makes a MindSpore directory: a plugin, linked to a library with these modules. Its function
    returns the last byte of the first one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if not compilers():
        pytest.skip("no C compiler")

    def make(*modules: bytes):
        directory, whole = tmp_path / "mindspore", b"".join(modules)
        (directory / KERNELS).parent.mkdir(parents=True)
        (directory / "lib" / "libmindspore_core.so").touch()
        kernels, plugin = tmp_path / "kernels.c", tmp_path / "plugin.c"
        rows = ",".join(map(str, whole))
        kernels.write_text(f"__attribute__((aligned(8))) const unsigned char modules[{len(whole)}] = {{{rows}}};")
        plugin.write_text(
            "extern const unsigned char modules[];\n"
            f"int last(void) {{ int i = {len(modules[0])}; while (!modules[--i]); return modules[i]; }}\n"
        )
        common = [*compilers()[0], "-shared", "-fPIC", f"-Wl,-soname,{(directory / KERNELS).name}"]
        subprocess.run([*common, "-o", str(directory / KERNELS), str(kernels)], check=True)
        linked = ["-Wl,--disable-new-dtags,-rpath,$ORIGIN:$ORIGIN/gpu", str(plugin), str(directory / KERNELS)]
        subprocess.run([*common[:-1], "-o", str(directory / PLUGIN), *linked], check=True)
        return directory

    return make


@pytest.fixture
def ptxas(tmp_path):
    """A function that makes an assembler whose code has this size, and one that returns which modules it was given."""
    log = tmp_path / "assembled"

    def make(size: int = 40):
        path = tmp_path / "ptxas"
        path.write_text(PTXAS.format(python=sys.executable, log=str(log), size=size))
        path.chmod(0o755)
        return path

    return make, lambda: sorted(log.read_text().split())


def test_the_plugin_takes_the_translated_kernels_and_the_installed_file_stays(installed, ptxas):
    sizes = {"first": 400, "second": 24}  # the second has room only without 7.0
    given = {name: module(name, size) for name, size in sizes.items()}
    directory = installed(*given.values())
    before, seen = (directory / KERNELS).read_bytes(), []
    folder = program.translate(directory, ptxas[0](), lambda *numbers: seen.append(numbers))
    assert folder == translated_folder(directory) and seen == [(1, 2), (2, 2)]
    assert ptxas[1]() == ["first", "second"]
    assert (directory / KERNELS).read_bytes() == before
    copy = (folder / KERNELS).read_bytes()
    with (folder / KERNELS).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as library:
        modules = program.modules_of(library, ())
        assert list(modules) == [before.index(old) for old in given.values()]
        for (at, entries), (name, old) in zip(modules.items(), given.items(), strict=True):
            found = {(entry.kind, entry.chip): entry.content(library) for entry in entries}
            assert list(found) == [(1, 60), *([(2, 70)] * (name == "first")), (2, 75), (2, 80), (1, 86), (2, 90)]
            assert f".entry {name}(".encode() in found[1, 86] and found[2, 80] == bytes([80]) * sizes[name]
            assert f"\0.text.{name}\0".encode() in found[2, 90] and found[2, 90].rstrip(b"\0")[-1] == 0x90
            before, copy = (text[:at] + bytes(len(old)) + text[at + len(old) :] for text in (before, copy))
    assert copy == before  # nothing else has changed
    code = "import ctypes, sys; print([ctypes.CDLL(path).last() for path in sys.argv[1:]])"
    translated, own = str(folder / PLUGIN), str(directory / PLUGIN)
    for paths, last in (([translated, own], 0x90), ([own], given["first"].rstrip(b"\0")[-1])):
        done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True)
        assert done.stdout.strip() == str([last] * len(paths)), done.stderr
    assert (folder / "lib" / "libmindspore_core.so").resolve() == directory / "lib" / "libmindspore_core.so"
    assert program.translate(directory, ptxas[0](), pytest.fail) == folder and len(ptxas[1]()) == 2  # not again


def test_a_translation_that_fails_leaves_nothing_and_goes_on(installed, ptxas):
    directory = installed(module("longer", 800), module("broken"))
    for _ in range(2):
        with pytest.raises(RunFailure, match=r"cannot be translated \(ptxas ended with 1: ptxas: a line that is wrong"):
            program.translate(directory, ptxas[0](), lambda *_: None)
        assert not translated_folder(directory).exists()
    assert ptxas[1]() == ["broken", "broken", "longer"]  # once


@pytest.mark.parametrize(
    ("size", "entries", "message"),
    [(5000, ENTRIES, "bytes too long"), (40, ENTRIES[:-1], "other entries than expected")],
)
def test_a_module_that_does_not_fit_is_refused(installed, ptxas, size, entries, message):
    directory = installed(module("first", entries=entries))
    with pytest.raises(RunFailure, match=message):
        program.translate(directory, ptxas[0](size), lambda *_: None)
    assert not translated_folder(directory).exists()


def test_modules_of_mindspores_library():
    try:
        path = plugin_directory("test", ("x86_64",)) / KERNELS
    except UserError as error:
        pytest.skip(str(error))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as library:
        modules = program.modules_of(library)
        assert len(modules) == translation.MODULES
        smallest = min(modules.values(), key=lambda entries: entries[-1].place.stop - entries[0].place.start)
        (ptx,) = (entry for entry in smallest if (entry.kind, entry.chip) == (1, 86))
        assert re.search(rb"\.target sm_86\b.*\.entry ", ptx.content(library), re.DOTALL)


@pytest.mark.parametrize(
    ("gpus", "words", "status", "message"),
    [
        ((), (), 0, "no GPU of compute capability 9.0 is here"),
        ((Gpu("A100", (8, 0), 1, 1),), (), 0, "no GPU of compute capability 9.0 is here"),
        ((Gpu("H100", (9, 0), 1, 1),), (), 2, "ptxas is missing; run pip install"),
        ((), ("--chip", "9.0"), 2, "ptxas is missing; run pip install"),
    ],
)
def test_kernels_are_translated_for_a_gpu_that_is_here_or_named(monkeypatch, capsys, gpus, words, status, message):
    monkeypatch.setattr(program, "query_driver_in_subprocess", lambda: Driver("13.0", gpus))
    monkeypatch.setattr(program, "plugin_directory", lambda *_: ROOT)
    monkeypatch.setattr(program, "packaged", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["translate_kernels.py", *words])
    assert program.main() == status
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(message)
