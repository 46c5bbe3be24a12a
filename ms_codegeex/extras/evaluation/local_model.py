"""A local model to evaluate: how it runs, and how it is identified later."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ms_codegeex.base.digests import sha256
from ms_codegeex.base.options import option
from ms_codegeex.generation.engine_options import LEVEL_HELP, LEVEL_NAMES
from ms_codegeex.generation.sampling import DEFAULT_ADAPTER
from ms_codegeex.kernels.levels import AUTO

if TYPE_CHECKING:
    from ms_codegeex.generation.engine import Generator


def files_identity(path: Path) -> dict[str, Any]:
    """Return a model's path and the hash of its checkpoint's manifest, or of all files of a model directory."""
    known = path if path.is_file() else path / "manifest.json"  # a manifest has the hash of every tensor
    if known.is_file():
        return {"path": str(path), "sha256": sha256(known)}
    digest = hashlib.sha256()
    for file in sorted(file for file in path.iterdir() if file.is_file()):
        digest.update(f"{file.name} {sha256(file)}\n".encode())
    return {"path": str(path), "sha256": digest.hexdigest()}


@dataclass(frozen=True)
class LocalModel:
    """A model for our own engine. Fields are those of `Generator`."""

    path: Path
    adapter: Path | None = option("a LoRA adapter on --model: a run, or a directory in PEFT's layout", "DIR")
    exact: bool = option("FP32 arithmetic for a quantised --model, not activations of 16 bits", default=False)
    fast: bool = option("activations of 8 bits (a quantised --model on a CPU): faster, less exact", default=False)
    threads: int | None = option(
        "threads of --model's compiled operators (default: one per core; 0: MindSpore's own operators)", "N", ge=0
    )
    slots: int | None = option(
        "samples that --model draws at once (default: 16, or what fits into memory)", "N", 1, ge=1
    )
    cpu_level: Literal[LEVEL_NAMES] = option(LEVEL_HELP, default=AUTO)  # type: ignore[valid-type]

    def resolved(self) -> LocalModel:
        """The same model by the paths of its files: of a run, the checkpoint that counts now, whatever it saves
        later."""
        from ms_codegeex.generation.loading import stored_at

        path, adapter = stored_at(self.path, self.adapter)
        return replace(self, path=path, adapter=adapter)

    def open(self) -> tuple[Generator, dict[str, Any]]:
        """Load it; also returns its identity."""
        model = self.resolved()  # a wrong path is refused before the engine is imported
        from ms_codegeex.generation.engine import Generator

        adapters = None if model.adapter is None else {DEFAULT_ADAPTER: model.adapter}
        how = {each: getattr(self, each) for each in ("threads", "slots", "exact", "fast", "cpu_level")}
        return Generator(model.path, adapters=adapters, **how), model.identity()

    def identity(self) -> dict[str, Any]:
        """Paths and hashes of model and adapter, and how a quantised model multiplies; without loading it."""
        from ms_codegeex.generation.quantised import is_quantised

        model = self.resolved()
        identity = files_identity(model.path)
        if model.adapter is not None:
            identity["adapter"] = files_identity(model.adapter)
        if is_quantised(model.path) and not self.exact:  # earlier versions were exact, and recorded `fast` only
            identity["activation_bits"] = 8 if self.fast else 16
        return identity | {how: True for how in ("exact", "fast") if getattr(self, how)}
