"""Stand-ins take the calls that the real function takes: `monkeypatch.setattr` binds every call to its signature.

A stand-in `lambda *_, **__: …` accepts a call that the real function refuses, so a test passes and the program fails
where the stand-in is not. This holds for functions of the engine and of libraries as for our own, for classes in the
place of functions or of other classes, and for whole modules (`monkeypatch.setitem(sys.modules, …)`); a mock without a
specification is refused. What has no signature to read (a few built-in functions) is not checked.
tests/test_stand_ins.py shows what is refused, and that no test replaces functions in another way.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

NOTHING = object()


def bound(real: Any, stand_in: Any, other: Any = None) -> Any:
    """The stand-in for a function or class, refusing calls that do not fit its signature, or that of `other`:
    `TypeError`. Any other value is returned as it is."""
    if not (callable(real) and callable(stand_in)) or _derived(stand_in, real):
        return stand_in
    if isinstance(stand_in, mock.NonCallableMock):
        assert stand_in._spec_signature is not None, f"{stand_in} takes every call: make it with create_autospec"
        return stand_in
    try:
        signature = inspect.signature(real)
    except (TypeError, ValueError):
        return stand_in

    def call(*arguments: Any, **options: Any) -> Any:
        try:
            signature.bind(*arguments, **options)
        except TypeError:
            if other is None:
                raise
            inspect.signature(other).bind(*arguments, **options)
        return stand_in(*arguments, **options)

    functools.update_wrapper(call, stand_in, updated=())
    call.__signature__ = signature  # type: ignore[attr-defined] # for a stand-in of the stand-in
    return call


def _derived(stand_in: Any, real: Any) -> bool:
    """Whether a class is in place of one that it derives from, and so still the class of its objects."""
    return isinstance(stand_in, type) and isinstance(real, type) and issubclass(stand_in, real)


def bound_module(name: str, stand_in: Any) -> Any:
    """The stand-in for a module, with the functions and classes bound that the real one has; None, which stands for a
    module that is not installed, as it is. Of other packages only what is imported already is looked at: importing Ray
    first would choose another protobuf than MindSpore's."""
    real = sys.modules.get(name)
    if real is None and name.startswith("ms_codegeex."):
        with contextlib.suppress(ModuleNotFoundError):
            real = importlib.import_module(name)
    if real is None or stand_in is None:
        return stand_in
    for key in [key for key in vars(stand_in) if not key.startswith("_")]:
        assert hasattr(real, key), f"{name} has no {key}"
        setattr(stand_in, key, bound(getattr(real, key), getattr(stand_in, key)))
    return stand_in


def binding(setattr_: Callable[..., None]) -> Callable[..., None]:
    """`MonkeyPatch.setattr`, with stand-ins that are bound."""

    @functools.wraps(setattr_)
    def bind(
        self: pytest.MonkeyPatch, target: Any, name: Any = NOTHING, value: Any = NOTHING, raising: bool = True
    ) -> None:
        if isinstance(target, str) and value is NOTHING:
            path, _, name, value = *target.rpartition("."), name
            target = pkgutil.resolve_name(path)
        real, other = getattr(target, name, None), None
        if inspect.isclass(target) and isinstance(inspect.getattr_static(target, name, None), classmethod):
            other = real.__func__  # a function in its place gets the instance, if it is called with one
        setattr_(self, target, name, bound(real, value, other), raising)

    return bind


def binding_items(setitem: Callable[..., None]) -> Callable[..., None]:
    """`MonkeyPatch.setitem`, with modules that are bound."""

    @functools.wraps(setitem)
    def bind(self: pytest.MonkeyPatch, dic: Any, name: Any, value: Any) -> None:
        setitem(self, dic, name, bound_module(name, value) if dic is sys.modules else value)

    return bind


def pytest_configure() -> None:
    """For the fixture and for contexts alike."""
    pytest.MonkeyPatch.setattr = binding(pytest.MonkeyPatch.setattr)  # type: ignore[method-assign]
    pytest.MonkeyPatch.setitem = binding_items(pytest.MonkeyPatch.setitem)  # type: ignore[method-assign]
