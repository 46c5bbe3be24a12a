"""A worker switches graph-kernel fusion on where the configuration or the device says so, and counts the ranks."""

import mindspore as ms
import pytest

from ms_codegeex.config import load_config
from ms_codegeex.errors import RunFailure
from ms_codegeex.training import worker


@pytest.mark.parametrize(
    "overrides,expected",
    [
        (["device=cpu"], False),
        (["device=cpu", "parallel.fusion.graph_kernel=true"], True),
        (["device=ascend"], True),
        (["device=ascend", "parallel.fusion.graph_kernel=false"], False),
    ],
    ids=str,
)
def test_graph_kernels_follow_the_setting(monkeypatch, overrides, expected):
    settings = {}
    monkeypatch.setattr(ms, "set_context", lambda **given: settings.update(given))
    monkeypatch.setattr(ms, "set_device", lambda *given: None)
    worker._initialise(load_config(None, ["model.preset=tiny", "training.steps=1", "devices=1", *overrides]))
    assert settings.get("enable_graph_kernel", False) is expected
    assert settings["mode"] == ms.GRAPH_MODE


def test_a_wrong_number_of_ranks_ends_with_what_to_check(monkeypatch):
    monkeypatch.setattr(ms, "set_context", lambda **given: None)
    monkeypatch.setattr(ms, "set_device", lambda *given: None)
    monkeypatch.setattr(ms.communication, "init", lambda: None)
    monkeypatch.setattr(ms.communication, "get_group_size", lambda: 8)
    config = load_config(None, ["model.preset=tiny", "training.steps=1", "device=ascend", "devices=16"])
    with pytest.raises(RunFailure, match="8 ranks joined, 16 were expected; check --nodes or the rank table"):
        worker._initialise(config)
