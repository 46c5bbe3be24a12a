"""The checks that `doctor` runs in separate processes, since an import may end the process.

`python -m ms_codegeex.commands.package_uses NAME…` imports packages and uses each once. A package whose version fits
may still not work, because its compiled part needs another NumPy, libc or processor. Pure Python packages are only
located, since some take a second to import. Each output line is JSON: a package and what is wrong with it. The first
package without a line ended the process. Without a NAME, it adds two numbers with MindSpore, and prints MindSpore's
version and what is wrong with each Ascend plugin."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

from ms_codegeex.base.installed import without_torch
from ms_codegeex.base.printing import print_json

DATA = bytes(range(99))


def _pyarrow(parquet: Any) -> tuple[Any, Any]:
    table = importlib.import_module("pyarrow").table({"numbers": _floats()})
    parquet.write_table(table, stream := BytesIO())
    return parquet.read_table(BytesIO(stream.getvalue()))["numbers"].to_numpy(), _floats()


def _floats() -> Any:
    return importlib.import_module("numpy").arange(4, dtype="float32")


# Normalised name -> module to import, and a use of it. A use may return a value and the expected value.
USES: dict[str, tuple[str, Callable[[Any], Any] | None]] = {
    "google-re2": ("re2", lambda it: (it.search(rb"b+", b"abbc").group(), b"bb")),
    "isal": ("isal.igzip", lambda it: (it.decompress(it.compress(DATA)), DATA)),
    "matplotlib": ("matplotlib.backends._backend_agg", lambda it: it.RendererAgg(9, 9, 72).clear()),
    "protobuf": ("google.protobuf.struct_pb2", lambda it: it.Struct().SerializeToString() and None),
    "pyarrow": ("pyarrow.parquet", _pyarrow),
    "pydantic": ("pydantic", lambda it: (it.TypeAdapter(list[int]).validate_python(["7"]), [7])),
    "pyelftools": ("elftools", None),
    "pyyaml": ("yaml", None),
    "safetensors": ("safetensors.numpy", lambda it: (it.load(it.save({"numbers": _floats()}))["numbers"], _floats())),
    "scipy": ("scipy.special", lambda it: (it.gamma(_floats() + 1), [1, 1, 2, 6])),
    "tensorboardx": ("tensorboardX.summary", lambda it: it.scalar("loss", 1.0).SerializeToString() and None),
    "tokenizers": (
        "tokenizers",
        lambda it: (it.Tokenizer(it.models.WordLevel({"a": 7}, unk_token="a")).encode("a").ids, [7]),
    ),
    "xxhash": ("xxhash", lambda it: it.xxh3_128(_floats()).digest() and None),
    "zstandard": ("zstandard", lambda it: (it.ZstdDecompressor().decompress(it.ZstdCompressor().compress(DATA)), DATA)),
}


def _is_pure(package: str) -> bool:
    says = importlib.metadata.distribution(package).read_text("WHEEL") or ""
    return "root-is-purelib: true" in says.lower()


def problem_with(package: str) -> str:
    """Return what is wrong with a package, given by its normalised name; "" if it works."""
    module, use = USES.get(package, (package.replace("-", "_"), None))
    try:
        if use is None and _is_pure(package):
            return "" if importlib.util.find_spec(module) else f"ModuleNotFoundError: No module named {module!r}"
        with without_torch() if package == "tensorboardx" else contextlib.nullcontext():  # as runs import it
            imported = importlib.import_module(module)
        actual, expected = (use and use(imported)) or ((), ())
        if list(actual) != list(expected):
            raise RuntimeError(f"{actual} instead of {expected}")
    except BaseException as error:  # report anything that the package raises, even SystemExit
        return f"{type(error).__name__}: {error}".strip().splitlines()[0]
    return ""


def engine() -> dict[str, Any]:
    """Return MindSpore's version, and what is wrong with each of its Ascend plugins, by file name."""
    with contextlib.redirect_stdout(sys.stderr):
        import mindspore

        mindspore.set_device("CPU")
        if (mindspore.Tensor([1.0]) + 1).asnumpy().tolist() != [2.0]:
            raise RuntimeError("1 + 1 is not 2")
    plugins = {}
    for path in sorted((Path(mindspore.__file__).parent / "lib/plugin").glob("libmindspore_ascend.so.*")):
        try:
            ctypes.CDLL(str(path))
            plugins[path.name] = ""
        except OSError as error:
            plugins[path.name] = str(error)
    return {"version": mindspore.__version__, "plugins": plugins}


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print_json([name, problem_with(name)])
    if not sys.argv[1:]:
        print_json(engine())
