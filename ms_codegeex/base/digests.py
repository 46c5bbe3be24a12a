"""SHA-256 of files and of plain values. What is stored is compared later: by other releases and on other machines, so
the bytes that are hashed never change. Tensors have hashes of their own (`formats/chunks.py`)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def sha256(path: Path) -> str:
    """The hex digest of a file's bytes, read in blocks of 1 MiB: whether it is the same file."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def json_digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
