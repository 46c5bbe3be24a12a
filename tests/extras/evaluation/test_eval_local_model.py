"""A model that is evaluated is recognised by the content of its files."""

import sys
import types
from functools import partial
from itertools import count
from pathlib import Path

from ms_codegeex.extras.evaluation.local_model import LocalModel, files_identity
from ms_codegeex.generation import loading
from ms_codegeex.generation.quantised import DESCRIPTION


def test_a_model_is_its_files_and_not_its_place(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    one, two = (files_identity(tmp_path / name)["sha256"] for name in ("one", "two"))
    assert one == two
    (tmp_path / "two" / "model.safetensors").write_bytes(b"1")
    assert files_identity(tmp_path / "two")["sha256"] != one
    (tmp_path / "two" / "manifest.json").write_text("{1}")
    manifest = files_identity(tmp_path / "two")["sha256"]
    (tmp_path / "two" / "model.safetensors").write_bytes(b"2")
    assert files_identity(tmp_path / "two")["sha256"] == manifest
    assert files_identity(tmp_path / "two" / "config.json")["sha256"] != manifest


def test_the_identity_is_that_of_the_checkpoint_that_was_loaded(tmp_path, monkeypatch):
    """Although the run saves another one meanwhile."""
    steps = count()

    def newest(model: Path, adapter: Path | None) -> tuple[Path, None]:
        if model != tmp_path:
            return model, None
        path = tmp_path / f"step-{next(steps)}"
        path.mkdir()
        return path, None

    engine = types.ModuleType("ms_codegeex.generation.engine")
    engine.Generator = lambda path, **_: path
    monkeypatch.setitem(sys.modules, engine.__name__, engine)
    monkeypatch.setattr(loading, "stored_at", newest)
    loaded, identity = LocalModel(tmp_path).open()
    assert identity["path"] == str(loaded) == str(tmp_path / "step-0")


def test_the_identity_says_how_a_quantised_model_multiplies(tmp_path):
    (tmp_path / DESCRIPTION).write_text("{}")
    local = partial(LocalModel, tmp_path)
    found = [local().identity(), local(exact=True).identity(), local(fast=True).identity()]
    how = [(one.get("activation_bits"), one.get("exact"), one.get("fast")) for one in found]
    assert how == [(16, None, None), (None, True, None), (8, None, True)]
