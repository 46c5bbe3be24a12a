"""A folder with one `<name>.npy` file per tensor: the intermediate format of CodeGeeX's export to PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.reading import open_regular
from ms_codegeex.formats.tensors import LazyTensor, damaged, dtype_name

_MAGIC = b"\x93NUMPY"


def is_npy_folder(path: Path) -> bool:
    """Whether `path` is a directory with such files."""
    return Path(path).is_dir() and any(Path(path).glob("*.npy"))


def _open(file: Path) -> np.ndarray:
    try:
        with open_regular(file) as stream:
            if stream.read(len(_MAGIC)) != _MAGIC:
                raise ValueError("it does not begin like one")
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except UserError:
        raise
    except Exception as error:  # NumPy parses the header as Python, so a damaged one can raise nearly anything
        raise damaged(file, f"not a sound .npy file ({error})") from None
    size, described = file.stat().st_size, array.offset + array.nbytes
    if size != described:
        raise damaged(file, f"has {size} bytes, its header describes {described}")
    return array


def read_npy_folder(path: Path) -> dict[str, LazyTensor]:
    """The tensors by name; only the headers are read now.

    Raises `UserError` naming a file that is truncated, damaged or of a type no layout holds. The format has no
    checksum, so changed elements look sound.
    """
    tensors = {}
    for file in sorted(Path(path).glob("*.npy")):
        array = _open(file)
        try:
            dtype = dtype_name(array)
        except ValueError as error:
            raise UserError(f"{file}: {error}") from None
        tensors[file.stem] = LazyTensor(dtype, array.shape, lambda file=file: _open(file))
    return tensors
