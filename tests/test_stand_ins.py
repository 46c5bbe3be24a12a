"""What stands in for a function refuses the calls that the function refuses, in every test."""

import ast
import os
import sys
import time

import pytest
from conftest import ROOT

FILES = sorted((ROOT / "tests").rglob("*.py"))
OURS = {path.stem for path in FILES} | {"ms_codegeex", "tests"}


EXEMPT = {
    "stand_ins.py": "the one way itself",
    "memory_disk.py": "sets a directory, not a function",
    "official_humaneval.py": "takes functions away in a process of its own, as the original does",
}


class Owner:
    def method(self, value):
        return value

    @classmethod
    def made(cls, value):
        return cls()

    @staticmethod
    def free(value):
        return value


def test_a_call_that_the_engine_refuses_is_refused(monkeypatch):
    """The call with which every run on Ascend once ended, and its test passed."""
    import mindspore as ms

    monkeypatch.setattr(ms.hal, "get_device_name", lambda *_, **__: "Ascend910A")
    with pytest.raises(TypeError, match="device_id"):
        ms.hal.get_device_name(device_target="Ascend")
    assert ms.hal.get_device_name(0, device_target="Ascend") == "Ascend910A"
    monkeypatch.setattr("mindspore.hal.get_device_name", lambda *_, **__: "another")  # a stand-in of the stand-in
    with pytest.raises(TypeError, match="device_id"):
        ms.hal.get_device_name(device_target="Ascend")


def test_functions_methods_and_built_in_functions_are_bound():
    owner = Owner()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda *_, **__: "kept")
        patch.setattr("os.cpu_count", lambda *_: 3)
        patch.setattr(owner, "method", lambda *_: "on the object")
        patch.setattr(Owner, "method", lambda *_: "on the class")
        patch.setattr(Owner, "free", lambda *_: "static")
        patch.setattr(Owner, "made", lambda *_: "made")
        patch.setattr(time, "monotonic", lambda: 1.0)
        assert (os.fsync(3), os.cpu_count(), owner.method(1)) == ("kept", 3, "on the object")
        assert (Owner().method(1), Owner.free(1), Owner.made(1)) == ("on the class", "static", "made")
        for wrong in (
            os.fsync,
            lambda: os.cpu_count(3),
            owner.method,
            lambda: Owner().method(),
            lambda: Owner.free(1, 2),
            Owner.made,
        ):
            with pytest.raises(TypeError):
                wrong()
    assert owner.method(7) == 7


def test_values_that_are_not_functions_stay_as_they_are(monkeypatch):
    class Other:
        pass

    monkeypatch.setattr(Owner, "method", 3)
    monkeypatch.setattr(sys.modules[__name__], "Owner", Other)
    monkeypatch.setattr(sys, "no_such_name", print, raising=False)
    assert Owner is Other and sys.no_such_name is print


def foreign_names(tree):
    """Names that a file has for modules and objects of others."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((a.asname or a.name).partition(".")[0] for a in node.names if a.name.split(".")[0] not in OURS)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] not in OURS:
            yield from (alias.asname or alias.name for alias in node.names)


def root_of(node):
    """The first name of `a.b.c`."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def replaced_elsewhere(text):
    """Lines that replace a function by other means than `monkeypatch.setattr`."""
    tree = ast.parse(text)
    foreign = set(foreign_names(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if root_of(node) in foreign:
                yield f"{node.lineno}: {ast.unparse(node)} ="
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called == "setattr" and root_of(node.args[0]) in foreign:
                yield f"{node.lineno}: {called}"
            if called.partition(".")[0] in foreign & {"mock", "patch"}:
                yield f"{node.lineno}: {called}"


@pytest.mark.parametrize(
    "text",
    [
        "import mindspore as ms\nms.hal.get_device_name = lambda **_: ''",
        "from unittest import mock\nmock.patch('mindspore.set_device')",
        "import os\nsetattr(os, 'fsync', print)",
    ],
)
def test_other_ways_are_seen(text):
    assert len(list(replaced_elsewhere(text))) == 1


def test_functions_are_replaced_in_one_way():
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in FILES
        if path.name not in EXEMPT
        for line in replaced_elsewhere(path.read_text(encoding="utf-8"))
    ]
    assert found == []
