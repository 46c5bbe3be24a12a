"""What stands in for a function refuses the calls that the function refuses, in every test."""

import ast
import os
import sys
import time
import types
from unittest import mock

import pytest
from conftest import ROOT

FILES = sorted((ROOT / "tests").rglob("*.py"))
HELPERS = {path.stem for path in FILES} | {"tests"}
EXEMPT = {  # the one way itself; a directory, not a function, is set; programs of their own
    *("stand_ins.py", "test_stand_ins.py", "memory_disk.py"),
    *("broken_program.py", "broken_compile_program.py", "graph_program.py", "documents_program.py"),
    *("compiled_for_gpu.py", "clients_in_python.py"),
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
        three = (lambda: os.cpu_count(3), lambda: Owner().method(), lambda: Owner.free(1, 2))
        for wrong in (os.fsync, owner.method, Owner.made, *three):
            with pytest.raises(TypeError):
                wrong()
    assert owner.method(7) == 7


class Written:
    """Takes other arguments than `Owner`, and than any function here."""

    def __init__(self, *given, **options):
        self.given, self.options = given, options


def test_a_class_in_the_place_of_a_function_or_of_another_class_is_bound(monkeypatch):
    class Derived(Owner):
        pass

    here = sys.modules[__name__]
    monkeypatch.setattr(os, "fsync", Written)
    assert os.fsync(3).given == (3,)
    with pytest.raises(TypeError):
        os.fsync(3, really=True)
    monkeypatch.setattr(here, "Owner", Derived)
    assert here.Owner is Derived
    monkeypatch.setattr(here, "Owner", Written)
    with pytest.raises(TypeError):
        here.Owner("no argument is wanted")


def test_a_mock_that_takes_every_call_is_refused(monkeypatch):
    with pytest.raises(AssertionError, match="create_autospec"):
        monkeypatch.setattr(os, "fsync", mock.MagicMock())
    monkeypatch.setattr(sys.modules[__name__], "Owner", mock.create_autospec(Owner))
    with pytest.raises(TypeError):
        sys.modules[__name__].Owner.made()


def test_what_a_module_in_the_place_of_another_has_is_bound(monkeypatch):
    """`LocalModel` takes `Generator` from a module that is not there before it asks for it."""
    name = "ms_codegeex.runs.servers.supervision"
    stand_in = types.ModuleType(name)
    stand_in.reserved_port = lambda *_, **__: 80
    monkeypatch.setitem(sys.modules, name, stand_in)
    with pytest.raises(TypeError):
        sys.modules[name].reserved_port(protocol="UDP")
    other = types.ModuleType(name)
    other.no_such_function = print
    with pytest.raises(AssertionError, match="no_such_function"):
        monkeypatch.setitem(sys.modules, "ms_codegeex.runs.servers.node", other)
    monkeypatch.setitem(sys.modules, "ms_codegeex.runs.servers.node", None)


def test_values_that_are_not_functions_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(Owner, "method", 3)
    monkeypatch.setattr(sys, "no_such_name", print, raising=False)
    assert Owner.method == 3 and sys.no_such_name is print


def foreign_names(tree):
    """Names that a file has for modules and objects that the tests do not define."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = (alias for alias in node.names if alias.name.partition(".")[0] not in HELPERS)
            yield from ((alias.asname or alias.name).partition(".")[0] for alias in names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] not in HELPERS:
            yield from (alias.asname or alias.name for alias in node.names)


def root_of(node):
    """The first name of `a.b.c`."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def mocks(node):
    """What an import takes from `unittest` beside `create_autospec`."""
    if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "unittest":
        return {alias.name for alias in node.names} - {"create_autospec"}
    return isinstance(node, ast.Import) and {x.name for x in node.names if x.name.partition(".")[0] == "unittest"}


def replaced_elsewhere(text):
    """Lines that replace a function by other means than `monkeypatch.setattr`."""
    tree = ast.parse(text)
    foreign = set(foreign_names(tree))
    for node in ast.walk(tree):
        stored = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        called = isinstance(node, ast.Call) and ast.unparse(node.func) == "setattr"
        if mocks(node) or (stored and root_of(node) in foreign) or (called and root_of(node.args[0]) in foreign):
            yield f"{node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize(
    "text",
    [
        "import mindspore as ms\nms.hal.get_device_name = lambda **_: ''",
        "from unittest import mock\nmock.patch('mindspore.set_device')",
        "import os\nsetattr(os, 'fsync', print)",
        "import unittest.mock\nunittest.mock.patch('os.fsync')",
        "from unittest.mock import patch as put\nput('os.fsync')",
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
