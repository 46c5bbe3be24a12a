"""Stand-ins take the calls that the real function takes: `monkeypatch.setattr` binds every call to its signature.

A stand-in `lambda *_, **__: …` accepts a call that the real function refuses, so a test passes and the program fails
where the stand-in is not. This holds for functions of the engine and of libraries as for our own; what has no signature
to read (a few built-in functions) is not checked. tests/test_stand_ins.py shows what is refused, and that no test
replaces functions in another way.
"""

from __future__ import annotations

import functools
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

NOTHING = object()


def bound(real: Any, stand_in: Any, other: Any = None) -> Any:
    """The stand-in for a function or class, refusing calls that do not fit its signature, or that of `other`:
    `TypeError`. Any other value is returned as it is."""
    if not (callable(real) and callable(stand_in)) or isinstance(stand_in, type | mock.NonCallableMock):
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

    functools.update_wrapper(call, stand_in)
    call.__signature__ = signature  # type: ignore[attr-defined] # for a stand-in of the stand-in
    return call


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


def pytest_configure() -> None:
    """For the fixture and for contexts alike."""
    pytest.MonkeyPatch.setattr = binding(pytest.MonkeyPatch.setattr)  # type: ignore[method-assign]
