"""Packing for a machine without a network: parts of a size, hashes, what a chip does not run, and unpacking."""

import importlib
import json
import subprocess
import sys

import pytest
from conftest import ROOT

from ms_codegeex.base.cuda.plugin import KERNELS, PLUGIN

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def packed(monkeypatch, tmp_path):
    """The module, and a folder of parts of 2,000 bytes of three files, one of them a library with a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.syspath_prepend(str(ROOT / "ascend_scripts"))
    gpu_files, translate = importlib.import_module("gpu_files"), importlib.import_module("translate_kernels")
    directory = tmp_path / "mindspore"
    (directory / KERNELS).parent.mkdir(parents=True)
    body = b""
    for kind, chip in ((2, 60), (2, 80), (2, 90), (1, 86)):
        content = f"kind {kind} chip {chip}".encode().ljust(64, b".")
        body += translate.ENTRY.pack(kind, 0x101, 64, 64, 0, 0, 7, 1, chip, 0, 0, 0x11, 0, 0) + content
    library = b"ELF" + translate.MODULE.pack(translate.MODULE_BEGIN, len(body)) + body + b"end"
    (directory / KERNELS).write_bytes(library)
    (directory / "noise").write_bytes(bytes((i * i * 7919 >> 7) % 251 for i in range(9000)))
    (directory / PLUGIN).write_bytes(b"no module")
    names = {f"packages/mindspore/{name}": directory / name for name in (KERNELS, PLUGIN, "noise")}
    monkeypatch.setattr(gpu_files, "files", lambda: iter(names.items()))
    monkeypatch.setattr("ms_codegeex.base.cuda.plugin.plugin_directory", lambda *_: directory)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gpu_files.pack(tmp_path / "parts", 2000, "9.0", 0)
    return gpu_files, tmp_path / "parts", names, library


def unpacked(parts, target):
    words = [sys.executable, "-I", str(parts / "unpack.py"), "unpack", str(parts), str(target)]
    return subprocess.run(words, capture_output=True, text=True)


def test_files_come_back_without_the_code_of_other_chips(packed, tmp_path):
    _, parts, names, library = packed
    manifest = json.loads((parts / "manifest.json").read_text())
    sizes = [part["bytes"] for part in manifest["parts"]]
    assert len(sizes) > 2 and set(sizes[:-1]) == {2000} and 0 < sizes[-1] <= 2000
    assert [(parts / part["name"]).stat().st_size for part in manifest["parts"]] == sizes
    done = unpacked(parts, tmp_path / "there")
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path / 'there' / 'packages'}" in done.stdout
    for name, path in names.items():
        found = (tmp_path / "there" / name).read_bytes()
        if name.endswith(KERNELS):
            expected = library
            for other in (b"kind 2 chip 60", b"kind 2 chip 80", b"kind 1 chip 86"):
                expected = expected.replace(other.ljust(64, b"."), bytes(64))
            assert found == expected and path.read_bytes() == library  # the installed one stays
        else:
            assert found == path.read_bytes()


def test_missing_and_damaged_parts_and_wrong_machines_are_named_before_anything_is_written(packed, tmp_path):
    _, parts, _, _ = packed
    target = tmp_path / "there"
    (parts / "part-001").unlink()
    content = (parts / "part-002").read_bytes()
    (parts / "part-002").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    done = unpacked(parts, target)
    assert done.returncode == 2 and not target.exists()
    size = f"{len(content)} bytes of {len(content)} or another SHA-256"
    assert done.stderr == f"unpack.py: part-001 is missing; part-002 has {size}; send these again\n"
    manifest = json.loads((parts / "manifest.json").read_text())
    for key, wrong in (("python", "2.7"), ("machine", "pdp11")):
        (parts / "manifest.json").write_text(json.dumps({**manifest, key: wrong}))
        assert f"packed for {'Python ' * (key == 'python')}{wrong}, this is" in unpacked(parts, target).stderr
    target.mkdir()
    (parts / "manifest.json").write_text(json.dumps(manifest))
    assert "exists; name another folder" in unpacked(parts, target).stderr


@pytest.mark.parametrize(
    ("chip", "kept"),
    [(90, [(2, 90)]), (86, [(2, 80)]), (75, [(2, 75)]), (120, [(1, 86)]), (70, [(2, 70)]), (61, [(1, 60)])],
)
def test_what_a_chip_needs_of_a_module(packed, chip, kept):
    gpu_files = packed[0]
    translate = importlib.import_module("translate_kernels")
    rows = ((2, 70), (2, 75), (2, 80), (2, 90), (1, 60), (1, 86))
    entries = [translate.Entry(kind, number, slice(0), ()) for kind, number in rows]
    assert [(e.kind, e.chip) for e in gpu_files.runs_on(entries, chip, (1, 2))] == kept


def test_the_list_has_this_checkout_and_what_it_requires_and_no_more(packed, monkeypatch):
    gpu_files = packed[0]
    if not (ROOT / ".git").exists():
        pytest.skip("needs a clone")
    monkeypatch.undo()
    names = {distribution.metadata["Name"].lower() for distribution in gpu_files.distributions()}
    assert {"ms-codegeex", "mindspore", "numpy", "pyyaml", "pydantic"} <= names and not names & {"torch", "pytest"}
    monkeypatch.setattr(gpu_files, "distributions", list)
    assert ("checkout/ms_codegeex/cli.py", ROOT / "ms_codegeex" / "cli.py") in list(gpu_files.files())


@pytest.mark.parametrize(
    ("name", "unused"),
    [
        ("mindspore/lib/plugin/ascend/libascend_collective.so", True),
        ("mindspore/lib/plugin/libmindspore_gpu.so.11.1", True),
        ("mindspore/lib/plugin/libmindspore_gpu.so.11.6", False),
        ("mindspore/lib/plugin/libmindspore_ops_cpu.so", False),
        ("nvidia/cudnn/lib/libcudnn_cnn_infer.so.8", True),
        ("nvidia/cudnn/lib/libcudnn_ops_infer.so.8", False),
        ("numpy/tests/test_lazyloading.py", True),
        ("__editable___ms_codegeex_finder.py", True),
        ("ms_codegeex-0.1.0.dist-info/METADATA", False),
    ],
)
def test_what_a_gpu_does_not_use_is_left_out(packed, name, unused):
    assert bool(packed[0].UNUSED.search(f"/{name}")) == unused
