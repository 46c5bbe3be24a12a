"""Reads `.npy` files of NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.reading import open_regular
from ms_codegeex.formats.tensors import damaged

_BEGINNING = b"\x93NUMPY"


def open_npy(file: Path) -> np.ndarray:
    """The array of a `.npy` file, mapped; `UserError` for a damaged one."""
    try:
        with open_regular(file) as stream:
            if stream.read(len(_BEGINNING)) != _BEGINNING:
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
