"""A worker switches graph-kernel fusion on where the configuration or the device says so."""

import mindspore as ms
import pytest

from ms_codegeex.config import load_config
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
