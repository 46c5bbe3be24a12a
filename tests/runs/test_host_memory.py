from types import SimpleNamespace

import pytest

from ms_codegeex.config import build_run_config
from ms_codegeex.errors import UserError
from ms_codegeex.runs import host_memory


@pytest.mark.parametrize(
    ("family", "parameters"), [("codegeex", "12,873"), ("codegen", "356,712"), ("codegeex2", "6,243")]
)
def test_a_model_too_large_for_the_memory_is_named_by_its_size(monkeypatch, family, parameters):
    """Whatever the family's default preset is, none has been named here."""
    config = build_run_config({"model": {"family": family}, "training": {"steps": 1}})
    monkeypatch.setattr(host_memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=10**9))
    with pytest.raises(UserError, match=rf"model.preset: {parameters},\d\d\d.* parameters .* 1\.0 GB are free"):
        host_memory.check_memory(config)
